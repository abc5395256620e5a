/* SPDX-License-Identifier: Apache-2.0 */
/* split.c - from the plan of a model to the plan of one rank's part of it.
 *
 * Architectures know nothing of ranks: what is cut follows from how ops hang together.  A linear op
 * whose output an attention or a gate takes is cut by outputs; one whose input comes out of them is
 * cut by inputs, and its output summed; everything between the sums and such ops is whole on every
 * rank.  So are the ops of experts, each of which is cut like a feed-forward part of its own. */
#include "plan.h"

#include "rules/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A rank's share of heads and columns. */
typedef struct {
    int32_t rank, world;
    const spc_plan *plan;    /* the whole one, */
    const spc_config *whole; /* and its sizes */
} share;

/* ---- what is cut ------------------------------------------------------------------------------
 */

static bool is_attention(spc_op_kind kind)
{
    return kind == SPC_OP_ATTEND || kind == SPC_OP_RECALL;
}

static bool is_gate(spc_op_kind kind)
{
    return kind == SPC_OP_GLU || kind == SPC_OP_RELU;
}

/* Does an attention, a memory or a gate take this buffer? */
static bool is_taken(const spc_plan *plan, int32_t buffer)
{
    for (int32_t i = 0; i < plan->op_count; i++) {
        const spc_op *op = &plan->op[i];

        if (op->a != buffer) continue;
        if (is_attention(op->kind) || is_gate(op->kind) || op->kind == SPC_OP_STORE) return true;
    }
    return false;
}

/* Does it come out of an attention, or out of a gate? */
static bool is_made(const spc_plan *plan, int32_t buffer, bool (*by)(spc_op_kind kind))
{
    for (int32_t i = 0; i < plan->op_count; i++) {
        if (plan->op[i].out == buffer && by(plan->op[i].kind)) return true;
    }
    return false;
}

/* ---- blocks -----------------------------------------------------------------------------------
 */

/* The largest block of a linear op's matrices.  Each divides the larger ones: 16, 32, 256. */
static int32_t largest_block(const spc_plan *plan, const spc_op *op, const spc_bundle *bundle)
{
    int32_t largest = 1;

    for (int32_t k = 0; k < SPC_OP_WEIGHTS && op->weight[k] >= 0; k++) {
        for (int32_t i = 0; i < spc_op_matrices(plan, op); i++) {
            const spc_tensor *t = spc_bundle_find(bundle, plan->weight[op->weight[k] + i].name);

            if (t && spc_plan_block(t->dtype) > largest) largest = spc_plan_block(t->dtype);
        }
    }
    return largest;
}

void spc_plan_read_blocks(spc_plan *plan, const spc_bundle *bundle)
{
    plan->attention_block = plan->gate_block = 1;
    for (int32_t i = 0; i < plan->op_count; i++) {
        const spc_op *op = &plan->op[i];
        int32_t *block = &plan->gate_block, largest;

        if (op->kind != SPC_OP_LINEAR && op->kind != SPC_OP_MIX) continue;
        if (is_made(plan, op->a, is_attention)) {
            block = &plan->attention_block;
        } else if (!is_made(plan, op->a, is_gate)) {
            continue;
        }
        largest = largest_block(plan, op, bundle);
        if (largest > *block) *block = largest;
    }
}

/* ---- can it be done? --------------------------------------------------------------------------
 */

/* Keys and values are cut by heads, or held by as many neighbours as there are ranks to a head. */
static bool heads_divide(const spc_plan *plan, int32_t world)
{
    const spc_config *c = &plan->config;
    bool keys = c->kv_heads % world == 0 || world % c->kv_heads == 0;

    return keys && c->heads % world == 0;
}

/* Blocks are shared out as evenly as may be, where there is one for each; single columns evenly,
 * since GPUs read several at once. */
static bool has_blocks(const spc_plan *plan, int32_t world)
{
    int32_t ffn = plan->config.ffn, block = plan->gate_block;

    return block > 1 && ffn % block == 0 && ffn / block >= world;
}

static bool columns_divide(const spc_plan *plan, int32_t world)
{
    const int32_t ffn = plan->config.ffn;

    if (has_blocks(plan, world)) return true;
    if (plan->config.experts > 0 && ffn / world % plan->gate_block != 0) return false;
    return ffn % world == 0;
}

bool spc_plan_divides(const spc_plan *plan, int32_t world)
{
    return world == 1 || (heads_divide(plan, world) && columns_divide(plan, world));
}

/* What else will do, of a quantised type. */
static const char *or_blocks(int32_t block, char text[48])
{
    *text = '\0';
    if (block > 1) (void)snprintf(text, 48, " (or have a block of %d each)", (int)block);
    return text;
}

static spc_status refuse(const spc_plan *plan, int32_t world, const char *where, spc_error *err)
{
    const spc_config *c = &plan->config;
    char known[128] = "", blocks[48];
    size_t used = 0;

    for (int32_t n = 1; n <= SPC_RANKS_MAX && used < sizeof known; n++) {
        if (!spc_plan_divides(plan, n)) continue;
        used +=
            (size_t)snprintf(known + used, sizeof known - used, "%s%d", used ? ", " : "", (int)n);
    }
    return spc_error_set(
        err, SPC_EUSAGE,
        "%.200s: cannot be sharded over %d ranks, which must divide its %d attention "
        "heads, its %d key-value heads (or be a multiple of them) and its "
        "feed-forward width of %d%s; possible: %s",
        where, (int)world, (int)c->heads, (int)c->kv_heads, (int)c->ffn,
        or_blocks(plan->gate_block, blocks), known);
}

int32_t spc_plan_first_id(int32_t vocab, int32_t rank, int32_t world)
{
    return spc_slice_first(vocab, rank, world);
}

bool spc_plan_cut_alike(const spc_plan *a, const spc_plan *b, int32_t world)
{
    for (int32_t k = 1; k < world; k++) {
        int32_t one = spc_plan_first_id(a->config.vocab, k, world);
        int32_t two = spc_plan_first_id(b->config.vocab, k, world);

        if (one != two && (one < a->ids || two < a->ids)) return false;
    }
    return true;
}

/* ---- cuts -------------------------------------------------------------------------------------
 */

/* The first of `heads` heads' entries that a rank has, and how many. */
static void cut_heads(const share *s, int32_t heads, int32_t *first, int32_t *count)
{
    int32_t dim = s->whole->head_dim, own = heads >= s->world ? heads / s->world : 1;

    *first = (int32_t)((int64_t)heads * s->rank / s->world) * dim;
    *count = own * dim;
}

/* The first column of the feed-forward part that a rank has; of rank `world`: their number. */
static int32_t first_column(const share *s, int32_t rank)
{
    int32_t block = has_blocks(s->plan, s->world) ? s->plan->gate_block : 1;

    return (int32_t)((int64_t)(s->whole->ffn / block) * rank / s->world) * block;
}

/* The inputs of a matrix behind an attention, or behind a gate, that a rank reads. */
typedef struct {
    int32_t first, count;   /* its own, */
    int32_t before, behind; /* and other ranks', in the blocks that they touch */
} inputs;

static inputs own_inputs(const share *s, bool gate)
{
    const spc_config *c = s->whole;
    int32_t block = gate ? s->plan->gate_block : s->plan->attention_block, end, last;
    int32_t all = gate ? c->ffn : c->heads * c->head_dim; /* where the last block ends */
    inputs in;

    if (gate) {
        in.first = first_column(s, s->rank);
        in.count = first_column(s, s->rank + 1) - in.first;
    } else {
        cut_heads(s, c->heads, &in.first, &in.count);
    }
    end = in.first + in.count;
    last = (end + block - 1) / block * block;
    in.before = in.first % block;
    in.behind = (last < all ? last : all) - end;
    return in;
}

/* By outputs: of an attention's matrix, or of a gate's. */
static void cut_outputs(const share *s, spc_weight *w, bool heads)
{
    const spc_config *c = s->whole;
    bool queries = w->rows == c->heads * c->head_dim;
    int32_t first = first_column(s, s->rank);

    if (heads) {
        cut_heads(s, queries ? c->heads : c->kv_heads, &first, &w->rows);
    } else {
        w->rows = first_column(s, s->rank + 1) - first;
    }
    w->row += first;
}

static void cut_ids(const share *s, spc_weight *w)
{
    w->row = spc_plan_first_id(w->of_rows, s->rank, s->world);
    w->rows = spc_plan_first_id(w->of_rows, s->rank + 1, s->world) - w->row;
}

/* Ids of `subset` below `id`, of `drafted` in all. */
static int32_t drafted_before(const spc_plan *plan, int32_t id)
{
    return id < plan->ids ? plan->subset[id / 32].before : plan->drafted;
}

/* Of a drafter that drafts some of the ids, those that lie in the rank's slice of all of them: only
 * there may it be asked about them.  (Slices begin at multiples of 32.) */
static void cut_drafted(const share *s, spc_plan *plan, spc_weight *head)
{
    const spc_plan *whole = s->plan;
    const int32_t first = spc_plan_first_id(whole->config.vocab, s->rank, s->world);
    const int32_t last = spc_plan_first_id(whole->config.vocab, s->rank + 1, s->world);
    const int32_t words = (whole->ids + 31) / 32;

    head->row = drafted_before(whole, first);
    head->rows = plan->drafted = drafted_before(whole, last) - head->row;
    plan->subset = calloc((size_t)words, sizeof *plan->subset);
    if (!plan->subset) {
        plan->no_memory = true;
        return;
    }
    for (int32_t w = first / 32; w < words && w < (last + 31) / 32; w++) {
        plan->subset[w].tokens = whole->subset[w].tokens;
        plan->subset[w].before = whole->subset[w].before - head->row;
    }
}

/* By inputs: of a matrix behind a gate, or behind an attention. */
static void cut_inputs(const share *s, spc_weight *w, bool gate)
{
    const inputs in = own_inputs(s, gate);

    w->col = in.first - in.before;
    w->cols = in.before + in.count + in.behind;
}

/* Matrix k of a linear op: one, or each expert's. */
static void cut_matrices(const share *s, spc_plan *plan, const spc_op *op, int32_t k,
                         void (*cut)(const share *s, spc_weight *w, bool which), bool which)
{
    for (int32_t i = 0; i < spc_op_matrices(plan, op); i++) {
        cut(s, &plan->weight[op->weight[k] + i], which);
    }
}

/* A linear op with its weights; true: its output is to be summed. */
static bool cut_linear(const spc_plan *whole, const share *s, spc_plan *plan, spc_op *op)
{
    bool taken = is_taken(whole, op->out), gate = is_made(whole, op->a, is_gate);
    bool made = gate || is_made(whole, op->a, is_attention), heads = true;

    for (int32_t i = 0; i < whole->op_count; i++) {
        if (whole->op[i].a == op->out && is_gate(whole->op[i].kind)) heads = false;
    }
    for (int32_t k = 0; k < SPC_OP_WEIGHTS && op->weight[k] >= 0; k++) {
        if (taken) {
            cut_matrices(s, plan, op, k, cut_outputs, heads);
            if (op->bias[k] >= 0) cut_outputs(s, &plan->weight[op->bias[k]], heads);
        } else if (made) {
            cut_matrices(s, plan, op, k, cut_inputs, gate);
            if (s->rank > 0) op->bias[k] = -1; /* once in the sum */
        }
    }
    return made;
}

static bool is_linear(spc_op_kind kind)
{
    return kind == SPC_OP_LINEAR || kind == SPC_OP_EXPERTS || kind == SPC_OP_MIX;
}

/* Widths of what is cut. */
static void cut_buffer(const share *s, spc_plan *plan, const spc_op *op)
{
    spc_buffer *out = op->out >= 0 ? &plan->buffer[op->out] : NULL;

    if (op->kind == SPC_OP_LINEAR) {
        out->dim = 0;
        for (int32_t k = 0; k < SPC_OP_WEIGHTS && op->weight[k] >= 0; k++) {
            out->dim += plan->weight[op->weight[k]].rows;
        }
    }
    if (op->kind == SPC_OP_EXPERTS) out->dim = 2 * plan->config.chosen * plan->config.ffn;
    if (op->kind == SPC_OP_GLU && plan->config.experts > 0) {
        out->dim = plan->config.chosen * plan->config.ffn;
        return;
    }
    if (is_attention(op->kind) || is_gate(op->kind)) {
        const inputs in = own_inputs(s, is_gate(op->kind));

        out->dim = in.before + in.count + in.behind;
        out->before = in.before;
        out->behind = in.behind;
    }
}

static void cut_op(const spc_plan *whole, const share *s, spc_plan *plan, spc_op op)
{
    bool summed = op.kind == SPC_OP_EMBED;

    if (is_linear(op.kind)) summed = cut_linear(whole, s, plan, &op);
    if (op.kind == SPC_OP_HEAD && whole->subset) {
        cut_drafted(s, plan, &plan->weight[op.weight[0]]);
    } else if (op.kind == SPC_OP_EMBED || op.kind == SPC_OP_HEAD) {
        cut_ids(s, &plan->weight[op.weight[0]]);
    }
    if (is_attention(op.kind) && op.weight[0] >= 0) {
        spc_weight *w = &plan->weight[op.weight[0]]; /* a column for each head */

        w->cols = w->of_cols / s->world;
        w->col = w->cols * s->rank;
    }
    cut_buffer(s, plan, &op);
    spc_plan_op(plan, op);
    if (summed) spc_plan_op(plan, spc_op_of(SPC_OP_REDUCE, op.out, op.out, -1));
}

/* ---- split ------------------------------------------------------------------------------------
 */

/* A plan of the same weights and buffers, without ops; NULL without memory. */
static spc_plan *copy_without_ops(const spc_plan *whole)
{
    spc_plan *plan = malloc(sizeof *plan);

    if (!plan) return NULL;
    *plan = *whole;
    plan->subset = NULL;
    plan->op = NULL;
    plan->op_count = plan->op_capacity = 0;
    plan->buffer = malloc((size_t)whole->buffer_capacity * sizeof *plan->buffer);
    plan->weight = malloc((size_t)whole->weight_capacity * sizeof *plan->weight);
    if (!plan->buffer || !plan->weight) {
        spc_plan_close(plan);
        return NULL;
    }
    memcpy(plan->buffer, whole->buffer, (size_t)whole->buffer_count * sizeof *plan->buffer);
    memcpy(plan->weight, whole->weight, (size_t)whole->weight_count * sizeof *plan->weight);
    return plan;
}

spc_status spc_plan_check_cut(const spc_plan *whole, int32_t world, const char *where,
                              spc_error *err)
{
    return spc_plan_divides(whole, world) ? SPC_OK : refuse(whole, world, where, err);
}

spc_status spc_plan_part(const spc_plan *whole, int32_t rank, int32_t world, const char *where,
                         spc_plan **out, spc_error *err)
{
    const spc_config *c = &whole->config;
    share s = {rank, world, whole, c};
    spc_plan *plan;
    spc_status status = spc_plan_check_cut(whole, world, where, err);

    *out = NULL;
    if (status != SPC_OK) return status;
    plan = copy_without_ops(whole);
    if (plan) {
        plan->comm = NULL;
        plan->config.heads = c->heads / s.world;
        plan->config.kv_heads = c->kv_heads >= s.world ? c->kv_heads / s.world : 1;
        plan->config.ffn = first_column(&s, rank + 1) - first_column(&s, rank);
        for (int32_t i = 0; i < whole->op_count && !plan->no_memory; i++) {
            cut_op(whole, &s, plan, whole->op[i]);
            if (i + 1 == whole->encoder_ops) plan->encoder_ops = plan->op_count;
        }
    }
    if (!plan || plan->no_memory) {
        spc_plan_close(plan);
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for its plan", where);
    }
    *out = plan;
    return SPC_OK;
}

spc_status spc_plan_split(const spc_plan *whole, spc_comm *comm, const char *where, spc_plan **out,
                          spc_error *err)
{
    spc_status status = spc_plan_part(whole, comm->rank, comm->world, where, out, err);

    if (status == SPC_OK) (*out)->comm = comm;
    return status;
}
