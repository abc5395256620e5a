/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cpu.c - runs plans on the CPU and thereby defines what a plan means.
 *
 * Linear ops and attention are split over a team of threads, outputs against outputs and heads
 * against heads, everything else row against row (cpu_rows.c) or sequence against sequence, so that
 * no sum depends on the number of threads.  What a model takes and how it is read: cpu_load.c. */
#include "cpu_experts.h"
#include "cpu_round.h"
#include "cpu_rows.h"
#include "cpu_runner.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Outputs of a linear op that go to a thread together: a multiple of every kernel's tile, and
 * products worth a thread's while (about a microsecond). */
enum { LINEAR_TILE = 16, LINEAR_PRODUCTS = 8192 };

/* ---- open -------------------------------------------------------------------------------------
 */

static void cpu_close(spc_backend *b)
{
    if (!b) return;
    spc_team_close(b->team);
    free(b);
}

static spc_status cpu_open(spc_backend **out, int32_t threads, const char *isa, spc_error *err)
{
    char known[64];
    spc_backend *b = calloc(1, sizeof *b);
    spc_status status;

    *out = NULL;
    if (!b) return spc_error_set(err, SPC_ENOMEM, "no memory for the CPU backend");
    b->kernels = spc_cpu_kernels_find(isa, known);
    if (!b->kernels) {
        free(b);
        return spc_error_set(err, SPC_EUSAGE,
                             "isa: expected one of %s (what this machine has), found "
                             "'%.20s'",
                             known, isa);
    }
    status = spc_team_open(threads, &b->team, err);
    if (status != SPC_OK) {
        free(b);
        return status;
    }
    (void)snprintf(b->device, sizeof b->device, "cpu, %d thread%s, %s",
                   (int)spc_team_count(b->team), spc_team_count(b->team) == 1 ? "" : "s",
                   b->kernels->name);
    *out = b;
    return SPC_OK;
}

static const char *cpu_device(const spc_backend *b)
{
    return b->device;
}

/* ---- ops --------------------------------------------------------------------------------------
 */

/* Several matrices over one input: their outputs stand behind each other. */
typedef struct {
    const spc_cpu_kernels *kernels;
    const spc_matrix *matrix[SPC_OP_WEIGHTS];
    const float *bias[SPC_OP_WEIGHTS]; /* NULL: none */
    const float *in;                   /* [rows, cols] */
    const spc_q8 *quantised;           /* the same, where a matrix needs it */
    int32_t rows;
    float *const *out; /* [rows] */
    float cap;         /* of every output; 0: none */
} linear_job;

/* What comes behind the product of outputs first .. last of matrix k, which stand at `at`. */
static void finish_outputs(const linear_job *job, int32_t k, int32_t first, int32_t last,
                           int32_t at)
{
    for (int32_t i = 0; i < job->rows; i++) {
        float *out = job->out[i] + at;

        for (int32_t o = first; job->bias[k] && o < last; o++) out[o] += job->bias[k][o];
        if (job->cap > 0.0f) job->kernels->bound(out + first, last - first, job->cap);
    }
}

static void linear_share(void *user, int32_t thread, int32_t from, int32_t to)
{
    const linear_job *job = user;
    int32_t at = 0;

    (void)thread;
    for (int32_t k = 0; k < SPC_OP_WEIGHTS && job->matrix[k]; k++) {
        int32_t rows = job->matrix[k]->rows;
        int32_t first = from > at ? from - at : 0, last = to - at < rows ? to - at : rows;

        if (first < last) {
            if (spc_dtype_elements(job->matrix[k]->dtype) > 1) {
                job->kernels->quant_linear(job->matrix[k], first, last, job->quantised, job->rows,
                                           job->out, at);
            } else {
                job->kernels->linear(job->matrix[k], first, last, job->in, job->rows, job->out, at);
            }
            finish_outputs(job, k, first, last, at);
        }
        at += rows;
    }
}

static int32_t linear_grain(int32_t cols, int32_t rows)
{
    int64_t products = (int64_t)LINEAR_TILE * cols * rows;

    return LINEAR_TILE * (int32_t)((LINEAR_PRODUCTS + products - 1) / products);
}

static void run_linear(spc_runner *r, const spc_op *op, const float *in, int32_t rows)
{
    linear_job job = {
        .kernels = r->backend->kernels, .in = in, .rows = rows, .out = r->out, .cap = op->cap};
    int32_t outputs = 0;

    for (int32_t k = 0; k < SPC_OP_WEIGHTS && op->weight[k] >= 0; k++) {
        job.matrix[k] = &r->matrix[op->weight[k]];
        if (op->bias[k] >= 0) job.bias[k] = r->vector[op->bias[k]];
        outputs += job.matrix[k]->rows;
        if (spc_dtype_elements(job.matrix[k]->dtype) > 1) job.quantised = &r->quantised;
    }
    if (job.quantised) spc_cpu_rows_quantise(r, in, job.matrix[0]->cols, rows);
    spc_team_run(r->backend->team, outputs, linear_grain(job.matrix[0]->cols, rows), linear_share,
                 &job);
}

static void cpu_linear(spc_runner *r, const spc_op *op, int32_t rows)
{
    int32_t dim = r->plan->buffer[op->out].dim;

    for (int32_t i = 0; i < rows; i++) r->out[i] = r->buffer[op->out] + (int64_t)i * dim;
    run_linear(r, op, r->buffer[op->a], rows);
}

/* Logits of the tokens that are drafted to their places in a row of all; of several ranks, each
 * leaves its own slice of it. */
static void spread(const spc_plan *plan, const float *some, float *row)
{
    int32_t first = 0, last = plan->ids;

    if (plan->comm) {
        first = spc_plan_first_id(plan->config.vocab, plan->comm->rank, plan->comm->world);
        last = spc_plan_first_id(plan->config.vocab, plan->comm->rank + 1, plan->comm->world);
        if (last > plan->ids) last = plan->ids;
    }
    for (int32_t v = first; v < last; v++) row[v] = SPC_LOGIT_NEVER;
    for (int32_t base = first; base < last; base += 32) {
        for (uint32_t left = plan->subset[base / 32].tokens; left; left &= left - 1) {
            row[base + __builtin_ctz(left)] = *some++;
        }
    }
}

/* Logits of the wanted rows only; of several ranks, each leaves its own slice of them. */
static void cpu_head(spc_runner *r, const spc_op *op, const spc_rows *rows)
{
    int32_t dim = r->plan->config.dim, ids = r->plan->ids, wanted = 0;
    int32_t first = r->plan->weight[op->weight[0]].row;

    for (int32_t i = 0; i < rows->count; i++) {
        if (rows->output[i] < 0) continue;
        for (int32_t k = 0; k < dim; k++) {
            r->wanted[(int64_t)wanted * dim + k] =
                r->buffer[op->a][(int64_t)i * dim + k] * op->scale;
        }
        r->out[wanted] = r->plan->subset ? r->some + (int64_t)wanted * r->plan->drafted
                                         : r->logits + (int64_t)rows->output[i] * ids + first;
        wanted++;
    }
    if (wanted > 0) run_linear(r, op, r->wanted, wanted);
    for (int32_t i = 0, k = 0; r->plan->subset && i < rows->count; i++) {
        if (rows->output[i] < 0) continue;
        spread(r->plan, r->out[k++], r->logits + (int64_t)rows->output[i] * ids);
    }
}

/* Items are (block of rows, head of keys, part of the heads of queries that share it). */
typedef struct {
    spc_runner *runner;
    const spc_op *op;
    const spc_rows *rows;
    const spc_kv *kv;
    bool memory;   /* all that is in it, not what lies before the row */
    int32_t heads; /* of queries, in a part */
    int32_t parts; /* of those that share a head of keys */
    int32_t block; /* rows */
} attend_job;

/* What head `head` of a row at `position` adds to its scores, from the key at `first` on; NULL:
 * nothing. */
static const float *relative_bias(const spc_runner *r, const spc_op *op, int32_t position,
                                  int32_t head, int32_t first)
{
    int64_t width = 2 * (int64_t)r->limits.context - 1;

    if (op->weight[0] < 0) return NULL;
    return r->vector[op->weight[0]] + head * width + (r->limits.context - 1) - position + first;
}

static spc_cpu_query query_at(const attend_job *job, int32_t row, int32_t head, float *scores)
{
    spc_runner *r = job->runner;
    const spc_op *op = job->op;
    const spc_config *c = &r->plan->config;
    int32_t width = r->plan->buffer[op->a].dim;
    int32_t position = job->rows->position[row], from = 0;
    int32_t seen = job->memory ? r->source[job->rows->slot[row]] : position + 1;

    if (op->window > 0 && seen > op->window) from = seen - op->window;
    return (spc_cpu_query){
        .query = r->buffer[op->a] + (int64_t)row * width + head * c->head_dim,
        .from = from,
        .to = seen,
        .bias = relative_bias(r, op, position, head, from),
        .scores = scores,
        .out = spc_cpu_row(r, op->out, row) + head * c->head_dim,
    };
}

/* Rows from .. to - 1, which are one sequence's, with `count` heads from `first` on. */
static void attend_rows(const attend_job *job, int32_t thread, int32_t from, int32_t to,
                        int32_t first, int32_t count)
{
    spc_runner *r = job->runner;
    const spc_config *c = &r->plan->config;
    float *scores = r->scores + (int64_t)thread * SPC_CPU_QUERIES * r->limits.context;
    int64_t layer = spc_kv_layer(c);
    int64_t at = job->op->layer * layer + first / (c->heads / c->kv_heads) * (layer / c->kv_heads);
    spc_cpu_pages pages = {.key = spc_kv_at(job->kv, job->kv->key, at),
                           .value = spc_kv_at(job->kv, job->kv->value, at),
                           .dtype = job->kv->type,
                           .page = spc_cpu_pages_of(r, job->kv, job->rows->slot[from]),
                           .stride = c->layers * layer};
    spc_cpu_query query[SPC_CPU_QUERIES];
    int32_t queries = 0;

    for (int32_t row = from; row < to; row++) {
        for (int32_t head = first; head < first + count; head++, queries++) {
            query[queries] =
                query_at(job, row, head, scores + (int64_t)queries * r->limits.context);
        }
    }
    r->backend->kernels->attend(query, queries, &pages, c->head_dim, job->op->scale, job->op->cap);
}

static void attend_share(void *user, int32_t thread, int32_t from, int32_t to)
{
    const attend_job *job = user;
    const spc_config *c = &job->runner->plan->config;
    const int32_t *slot = job->rows->slot;
    int32_t shared = c->heads / c->kv_heads;

    for (int32_t item = from; item < to; item++) {
        int32_t part = item % job->parts, kv_head = item / job->parts % c->kv_heads;
        int32_t row = item / job->parts / c->kv_heads * job->block, last = row + job->block;
        int32_t first = part * job->heads, heads = shared - first;

        if (heads > job->heads) heads = job->heads;
        if (last > job->rows->count) last = job->rows->count;
        while (row < last) {
            int32_t end = row + 1;

            while (end < last && slot[end] == slot[row]) end++;
            attend_rows(job, thread, row, end, kv_head * shared + first, heads);
            row = end;
        }
    }
}

/* As many queries at once as there are items for every thread left. */
static void run_attend(spc_runner *r, attend_job *job)
{
    const spc_config *c = &r->plan->config;
    int32_t shared = c->heads / c->kv_heads, items;

    job->heads = shared < SPC_CPU_QUERIES ? shared : SPC_CPU_QUERIES;
    job->block = SPC_CPU_QUERIES / job->heads;
    for (;;) {
        job->parts = (shared + job->heads - 1) / job->heads;
        items = (job->rows->count + job->block - 1) / job->block * c->kv_heads * job->parts;
        if (items >= 2 * spc_team_count(r->backend->team)) break;
        if (job->block > 1) {
            job->block = (job->block + 1) / 2;
        } else if (job->heads > 1) {
            job->heads = (job->heads + 1) / 2;
        } else {
            break;
        }
    }
    spc_team_run(r->backend->team, items, 1, attend_share, job);
}

static void cpu_attend(spc_runner *r, const spc_op *op, const spc_rows *rows)
{
    attend_job job = {.runner = r, .op = op, .rows = rows, .kv = &r->cache};

    spc_cpu_rows_store(r, op, rows, &r->cache);
    run_attend(r, &job);
}

static void cpu_recall(spc_runner *r, const spc_op *op, const spc_rows *rows)
{
    attend_job job = {.runner = r, .op = op, .rows = rows, .kv = &r->memory, .memory = true};

    run_attend(r, &job);
}

/* ---- forward ----------------------------------------------------------------------------------
 */

/* The sum over ranks of a buffer's rows. */
static spc_status cpu_reduce(spc_runner *r, const spc_op *op, int32_t rows, spc_error *err)
{
    spc_comm *comm = r->plan->comm;
    size_t count = (size_t)r->plan->buffer[op->out].dim * (size_t)rows;

    return comm->ops->all_reduce(comm, r->buffer[op->out], count, err);
}

static spc_status run_op(spc_runner *r, const spc_op *op, const spc_rows *rows, spc_error *err)
{
    switch (op->kind) {
    case SPC_OP_LINEAR: cpu_linear(r, op, rows->count); break;
    case SPC_OP_ATTEND: cpu_attend(r, op, rows); break;
    case SPC_OP_STORE: spc_cpu_rows_store(r, op, rows, &r->memory); break;
    case SPC_OP_RECALL: cpu_recall(r, op, rows); break;
    case SPC_OP_REDUCE: return cpu_reduce(r, op, rows->count, err);
    case SPC_OP_HEAD: cpu_head(r, op, rows); break;
    case SPC_OP_ROUTE:
    case SPC_OP_EXPERTS:
    case SPC_OP_MIX: spc_cpu_experts_run(r, op, rows->count); break;
    default: spc_cpu_rows_run(r, op, rows); break;
    }
    return SPC_OK;
}

static spc_status cpu_encode(spc_runner *r, int32_t slot, const int32_t *token, int32_t count,
                             spc_error *err)
{
    spc_rows rows = {count, r->source_slot, token, r->source_position, NULL};
    spc_status status = SPC_OK;

    assert(r->plan->encoder_ops > 0);
    assert(slot >= 0 && slot < r->limits.slots && r->length[slot] == 0);
    assert(count >= 1 && count <= r->limits.context);
    for (int32_t i = 0; i < count; i++) {
        assert(token[i] >= 0 && token[i] < r->plan->config.vocab);
        r->source_slot[i] = slot;
    }
    r->source[slot] = count;
    for (int32_t i = 0; i < r->plan->encoder_ops && status == SPC_OK; i++) {
        status = run_op(r, &r->plan->op[i], &rows, err);
    }
    return status;
}

/* Each row lengthens its slot's cache by one. */
static void take_rows(spc_runner *r, const spc_rows *rows)
{
    assert(rows->count >= 1 && rows->count <= r->limits.rows);
    for (int32_t i = 0; i < rows->count; i++) {
        assert(rows->slot[i] >= 0 && rows->slot[i] < r->limits.slots);
        assert(rows->token[i] >= 0 && rows->token[i] < r->plan->ids);
        assert(rows->output[i] < r->limits.outputs);
        assert(rows->position[i] == r->length[rows->slot[i]]);
        assert(rows->position[i] < r->room[rows->slot[i]]);
        assert(r->plan->encoder_ops == 0 || r->source[rows->slot[i]] > 0);
        r->length[rows->slot[i]]++;
    }
}

static spc_status cpu_forward(spc_runner *r, const spc_rows *rows, spc_error *err)
{
    spc_status status = SPC_OK;

    take_rows(r, rows);
    for (int32_t i = r->plan->encoder_ops; i < r->plan->op_count && status == SPC_OK; i++) {
        status = run_op(r, &r->plan->op[i], rows, err);
    }
    return status;
}

static const float *cpu_logits(const spc_runner *r, int32_t output)
{
    assert(output >= 0 && output < r->limits.outputs);
    return r->logits + (int64_t)output * r->plan->ids;
}

static int32_t cpu_length(const spc_runner *r, int32_t slot)
{
    return r->length[slot];
}

static void cpu_rewind(spc_runner *r, int32_t slot, int32_t length)
{
    assert(length >= 0 && length <= r->length[slot]);
    r->length[slot] = length;
}

static spc_status cpu_map(spc_runner *r, int32_t slot, const int32_t *page, int32_t count,
                          int32_t length, spc_error *err)
{
    (void)err;
    assert(slot >= 0 && slot < r->limits.slots && count >= 0);
    assert(count <= spc_pages_for(r->limits.context));
    for (int32_t i = 0; i < count; i++)
        assert(page[i] >= 0 && page[i] < spc_limits_pages(&r->limits));
    if (count > 0) memcpy(spc_cpu_pages_of(r, &r->cache, slot), page, (size_t)count * sizeof *page);
    r->room[slot] = spc_pages_room(count, r->limits.context);
    assert(length >= 0 && length <= r->room[slot]);
    r->length[slot] = length;
    return SPC_OK;
}

/* Rows of several sequences, which threads judge by themselves. */
typedef struct {
    const float *drafter, *verifier; /* [outputs, vocab] logits */
    int32_t vocab, draft;
    const spc_lane *lanes;
    spc_verdict *out;
} lane_job;

static void draw_lanes(void *user, int32_t thread, int32_t from, int32_t to)
{
    const lane_job *job = user;

    (void)thread;
    (void)spc_cpu_draw(job->drafter, job->vocab, job->lanes + from, to - from, job->draft, NULL,
                       NULL);
}

static spc_status cpu_draw(spc_runner *drafter, const spc_lane *lanes, int32_t count, int32_t i,
                           spc_error *err)
{
    lane_job job = {drafter->logits, NULL, drafter->plan->ids, i, lanes, NULL};

    (void)err; /* a bad row is the lane's business, not the call's */
    spc_team_run(drafter->backend->team, count, 1, draw_lanes, &job);
    return SPC_OK;
}

static void verify_lanes(void *user, int32_t thread, int32_t from, int32_t to)
{
    const lane_job *job = user;

    (void)thread;
    (void)spc_cpu_verify(job->drafter, job->verifier, job->vocab, job->lanes + from, to - from,
                         NULL, job->out + from, NULL);
}

static spc_status cpu_verify_rows(const float *rows, spc_runner *verifier, const spc_lane *lanes,
                                  int32_t count, spc_verdict *out, spc_error *err)
{
    lane_job job = {rows, verifier->logits, verifier->plan->ids, 0, lanes, out};

    (void)err;
    spc_team_run(verifier->backend->team, count, 1, verify_lanes, &job);
    return SPC_OK;
}

static spc_status cpu_verify(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                             int32_t count, spc_verdict *out, spc_error *err)
{
    return cpu_verify_rows(drafter ? drafter->logits : NULL, verifier, lanes, count, out, err);
}

static spc_status cpu_edit(spc_runner *r, const spc_edit_list *list, spc_error *err)
{
    (void)err;
    for (int32_t i = 0; i < list->edits; i++) {
        assert(list->edit[i].row >= 0 && list->edit[i].row < r->limits.outputs);
        assert(list->edit[i].token >= 0 && list->edit[i].token < r->plan->ids);
    }
    spc_cpu_edit(r->logits, r->plan->ids, list);
    return SPC_OK;
}

const spc_backend_ops spc_backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .device = cpu_device,
    .memory = spc_cpu_memory,
    .load = spc_cpu_load,
    .unload = spc_cpu_unload,
    .encode = cpu_encode,
    .forward = cpu_forward,
    .logits = cpu_logits,
    .length = cpu_length,
    .rewind = cpu_rewind,
    .map = cpu_map,
    .edit = cpu_edit,
    .draw = cpu_draw,
    .verify = cpu_verify,
    .verify_rows = cpu_verify_rows,
};
