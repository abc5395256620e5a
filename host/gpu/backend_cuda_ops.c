/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_ops.c - the launches of one op after the other, and of neighbours that one kernel
 * does together: head norm, rotation and the write to the cache; a residual sum and the norm behind
 * it; and what backend_cuda_linear.c finds. */
#include "backend_cuda.h"

#include "backend_cuda_pack.h"

static cudaError_t run_embed(spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    spc_embed_args a = {r->matrix[op->weight[0]],
                        r->device_rows.token,
                        r->buffer[op->out],
                        op->scale,
                        f->count,
                        r->plan->weight[op->weight[0]].row};

    return spc_cuda_embed(&a, r->backend->stream);
}

/* add: the sum in front of the norm, or NULL. */
static cudaError_t run_norm(spc_runner *r, const spc_op *add, const spc_op *op, const cuda_shape *f)
{
    spc_norm_args a = {.a = r->buffer[add ? add->a : op->a],
                       .weight = r->vector[op->weight[0]],
                       .out = r->buffer[op->out],
                       .eps = (float)r->plan->config.norm_eps,
                       .rows = f->count,
                       .dim = r->plan->buffer[op->out].dim,
                       .early = r->early};

    if (add) a.b = r->buffer[add->b];
    if (add) a.sum = r->buffer[add->out];
    return spc_cuda_norm(&a, r->backend->stream);
}

static cudaError_t run_add(spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    spc_add_args a = {r->buffer[op->a], r->buffer[op->b], r->buffer[op->out],
                      (int64_t)r->plan->buffer[op->out].dim * f->count, r->early};

    return spc_cuda_add(&a, r->backend->stream);
}

static cudaError_t run_glu(spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    const spc_buffer *in = &r->plan->buffer[op->a], *out = &r->plan->buffer[op->out];
    spc_glu_args a = {.in = r->buffer[op->a],
                      .out = r->buffer[op->out] + out->before,
                      .kind = SPC_GLU_SILU,
                      .rows = f->count,
                      .dim = op->kind == SPC_OP_RELU ? in->dim : in->dim / 2,
                      .out_width = out->dim,
                      .early = r->early};

    if (op->activation == SPC_ACT_GELU_TANH) a.kind = SPC_GLU_GELU_TANH;
    if (op->kind == SPC_OP_RELU) a.kind = SPC_GLU_RELU;
    return spc_cuda_glu(&a, r->backend->stream);
}

static cudaError_t run_linear(spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    return spc_cuda_run_matrices(r, op, r->buffer[op->a], f->count, NULL, r->buffer[op->out],
                                 r->plan->buffer[op->out].dim);
}

/* Of a drafter that drafts some tokens: their logits, and from there to rows of all, or of the
 * rank's slice, of which it may draft none. */
static cudaError_t run_narrow_head(spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    const int32_t drafted = r->plan->drafted;
    const spc_spread_args a = {.in = r->some,
                               .subset = r->subset + r->first / 32,
                               .target = r->device_rows.target,
                               .out = r->logits,
                               .rows = f->wanted,
                               .drafted = drafted,
                               .ids = r->width,
                               .early = r->early};
    cudaError_t code = cudaSuccess;

    if (drafted > 0) {
        code = spc_cuda_run_matrices(r, op, r->wanted, f->wanted, NULL, r->some, drafted);
    }
    if (code == cudaSuccess) code = spc_cuda_spread(&a, r->backend->stream);
    spc_cuda_sent(r, true);
    return code;
}

/* Logits of the wanted rows only. */
static cudaError_t run_head(spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    spc_gather_args a = {r->buffer[op->a], r->device_rows.wanted, r->wanted, op->scale,
                         f->wanted,        r->plan->config.dim,   r->early};
    cudaError_t code;

    if (f->wanted == 0 || r->width == 0) return cudaSuccess;
    code = spc_cuda_gather(&a, r->backend->stream);
    if (code != cudaSuccess) return code;
    spc_cuda_sent(r, true);
    if (r->plan->subset) return run_narrow_head(r, op, f);
    return spc_cuda_run_matrices(r, op, r->wanted, f->wanted, r->device_rows.target, r->logits,
                                 r->width);
}

/* A layer of the caches, or of the memories. */
static spc_cuda_pages layer_of(const spc_runner *r, const spc_kv *kv, int32_t layer)
{
    const spc_config *c = &r->plan->config;
    int64_t elements = spc_kv_layer(c);

    return (spc_cuda_pages){.key = spc_kv_at(kv, kv->key, layer * elements),
                            .value = spc_kv_at(kv, kv->value, layer * elements),
                            .table = kv->table,
                            .width = spc_pages_for(r->limits.context),
                            .stride = c->layers * elements,
                            .type = spc_cuda_type_of(kv->type)};
}

/* What comes before attention: any of QK_NORM and ROPE, then the write of ATTEND or STORE; each may
 * be NULL. */
static spc_rope_args rope_args(const spc_runner *r, const spc_op *norm, const spc_op *rope,
                               const spc_op *write, const cuda_shape *f)
{
    const spc_config *c = &r->plan->config;
    const spc_op *any = norm ? norm : rope ? rope : write;
    spc_rope_args a = {.qkv = r->buffer[any->a],
                       .slot = r->device_rows.slot,
                       .position = r->device_rows.position,
                       .eps = (float)c->norm_eps,
                       .rows = f->count,
                       .width = r->plan->buffer[any->a].dim,
                       .heads = norm || rope ? c->heads : 0,
                       .kv_heads = c->kv_heads,
                       .head_dim = c->head_dim,
                       .early = r->early};

    if (norm) a.query_weight = r->vector[norm->weight[0]];
    if (norm) a.key_weight = r->vector[norm->weight[1]];
    if (rope) a.cosine = r->cosine[rope->local];
    if (rope) a.sine = r->sine[rope->local];
    if (rope) a.pairs = c->rope.pairs;
    if (rope) a.query_scale = r->query_scale;
    if (write) {
        a.cache = layer_of(r, write->kind == SPC_OP_STORE ? &r->memory : &r->cache, write->layer);
    }
    return a;
}

/* ATTEND without its write, or RECALL. */
static spc_attend_args attend_args(const spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    const spc_config *c = &r->plan->config;
    const spc_buffer *out = &r->plan->buffer[op->out];
    bool recall = op->kind == SPC_OP_RECALL;

    return (spc_attend_args){.query = r->buffer[op->a],
                             .cache = layer_of(r, recall ? &r->memory : &r->cache, op->layer),
                             .bias = op->weight[0] >= 0 ? r->vector[op->weight[0]] : NULL,
                             .slot = r->device_rows.slot,
                             .position = r->device_rows.position,
                             .seen = recall ? r->device_rows.remembered : r->device_rows.seen,
                             .tile = r->device_rows.tile,
                             .out = r->buffer[op->out] + out->before,
                             .workspace = r->workspace,
                             .scale = op->scale,
                             .cap = op->cap,
                             .rows = f->count,
                             .tiles = f->tiles,
                             .width = r->plan->buffer[op->a].dim,
                             .out_width = out->dim,
                             .heads = c->heads,
                             .kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .context = r->limits.context,
                             .window = op->window,
                             .most_seen = recall ? f->most_remembered : f->most_seen,
                             .apart = !f->torn,
                             .early = r->early};
}

static cudaError_t run_recall(spc_runner *r, const spc_op *op, const cuda_shape *f)
{
    spc_attend_args a = attend_args(r, op, f);

    return spc_cuda_attend(&a, r->backend->stream);
}

/* QK_NORM, ROPE, ATTEND or STORE from op i on, as far as they follow each other over one buffer;
 * returns how many ops that was. */
static int32_t run_attention(spc_runner *r, int32_t i, int32_t end, const cuda_shape *f,
                             cudaError_t *code)
{
    const spc_op *ops = r->plan->op, *norm = NULL, *rope = NULL, *write = NULL;
    int32_t first = i, in = ops[i].a;

    if (i < end && ops[i].kind == SPC_OP_QK_NORM && ops[i].a == in) norm = &ops[i++];
    if (i < end && ops[i].kind == SPC_OP_ROPE && ops[i].a == in) rope = &ops[i++];
    if (i < end && (ops[i].kind == SPC_OP_ATTEND || ops[i].kind == SPC_OP_STORE) &&
        ops[i].a == in) {
        write = &ops[i++];
    }

    spc_rope_args before = rope_args(r, norm, rope, write, f);

    spc_cuda_sent(r, true);
    if (!write || write->kind == SPC_OP_STORE) {
        *code = spc_cuda_rope(&before, r->backend->stream);
    } else {
        spc_attend_args a = attend_args(r, write, f);

        if (spc_cuda_is_read(r->plan, i, end, in)) a.apart = false; /* what heads became */
        *code = spc_cuda_rope_attend(&before, &a, r->backend->stream);
    }
    return i - first;
}

int32_t spc_cuda_run_op(spc_runner *r, int32_t i, int32_t end, const cuda_shape *f,
                        cudaError_t *code)
{
    const spc_op *op = &r->plan->op[i], *next = op + 1;
    int32_t ran = 0;

    if (op->kind == SPC_OP_NORM || op->kind == SPC_OP_LINEAR) {
        ran = spc_cuda_run_tile(r, i, end, f->count, code);
    }
    if (ran > 0) return ran;
    ran = 1;
    switch (op->kind) {
    case SPC_OP_LINEAR: *code = run_linear(r, op, f); return 1;
    case SPC_OP_HEAD: *code = run_head(r, op, f); return 1;
    case SPC_OP_EMBED: *code = run_embed(r, op, f); break;
    case SPC_OP_NORM: *code = run_norm(r, NULL, op, f); break;
    case SPC_OP_RECALL: *code = run_recall(r, op, f); break;
    case SPC_OP_RELU:
    case SPC_OP_GLU: *code = run_glu(r, op, f); break;
    case SPC_OP_ADD:
        if (i + 1 < end && next->kind == SPC_OP_NORM && next->a == op->out &&
            next->out != op->out) {
            *code = run_norm(r, op, next, f);
            ran = 2;
        } else {
            *code = run_add(r, op, f);
        }
        break;
    default: ran = run_attention(r, i, end, f, code); /* load saw to it that there are no others */
    }
    spc_cuda_sent(r, true);
    return ran;
}
