/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_rows.c - ops over rows, which one thread or several do: no row needs another. */
#include "cpu_rows.h"

#include "weights/quant.h"

#include <string.h>

/* Entries of a row that a thread has done by the time that another, which waits for a loop, has
 * begun; times what one costs in additions of two floats. */
enum { ALONE = 16384, COST_DEQUANTISE = 4, COST_STORE = 2, COST_ROPE = 2, COST_GLU = 8 };

typedef struct {
    spc_runner *runner;
    const spc_op *op;
    const spc_rows *rows;
    const spc_kv *kv;   /* STORE */
    const float *input; /* quantising: [rows, cols] */
    int32_t cols;
} row_job;

void spc_cpu_over_rows(spc_runner *r, int32_t count, int64_t cost, spc_team_fn fn, void *user)
{
    int64_t grain = (ALONE + cost - 1) / cost;

    if (grain >= count) {
        fn(user, 0, 0, count);
    } else {
        spc_team_run(r->backend->team, count, (int32_t)grain, fn, user);
    }
}

static void over_rows(row_job *job, int32_t count, int64_t cost, spc_team_fn fn)
{
    spc_cpu_over_rows(job->runner, count, cost, fn, job);
}

static void embed_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_op *op = job->op;
    const spc_matrix *m = &job->runner->matrix[op->weight[0]];
    const spc_weight *w = &job->runner->plan->weight[op->weight[0]];
    int64_t bytes = (int64_t)m->cols / spc_dtype_elements(m->dtype) * spc_dtype_bytes(m->dtype);

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        float *out = job->runner->buffer[op->out] + (int64_t)i * m->cols;
        int64_t id = job->rows->token[i] - w->row;

        if (id < 0 || id >= w->rows) { /* another rank's */
            memset(out, 0, (size_t)m->cols * sizeof *out);
            continue;
        }
        spc_dequantise(m->dtype, (const char *)m->data + id * bytes, m->cols, out);
        for (int32_t k = 0; k < m->cols && m->scale.value; k++) {
            const spc_scale *s = &m->scale;

            out[k] *= s->value[(id + s->row) / s->rows * s->stride + (k + s->col) / s->cols];
        }
        for (int32_t k = 0; k < m->cols; k++) out[k] *= op->scale;
    }
}

static void norm_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;
    const spc_op *op = job->op;
    int32_t dim = r->plan->buffer[op->out].dim;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        r->backend->kernels->norm(r->buffer[op->a] + (int64_t)i * dim, r->vector[op->weight[0]],
                                  dim, (float)r->plan->config.norm_eps,
                                  r->buffer[op->out] + (int64_t)i * dim);
    }
}

static void add_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;
    const spc_op *op = job->op;
    int64_t dim = r->plan->buffer[op->out].dim;
    const float *a = r->buffer[op->a], *b = r->buffer[op->b];
    float *out = r->buffer[op->out];

    (void)thread;
    for (int64_t i = from * dim; i < to * dim; i++) out[i] = a[i] + b[i];
}

static void glu_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;
    const spc_op *op = job->op;
    int32_t dim = r->plan->buffer[op->a].dim / 2;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        const float *gate = r->buffer[op->a] + (int64_t)i * 2 * dim;

        r->backend->kernels->glu(op->activation, gate, gate + dim, dim, spc_cpu_row(r, op->out, i));
    }
}

static void relu_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;
    const spc_op *op = job->op;
    int32_t dim = r->plan->buffer[op->a].dim;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        const float *in = r->buffer[op->a] + (int64_t)i * dim;
        float *out = spc_cpu_row(r, op->out, i);

        for (int32_t k = 0; k < dim; k++) out[k] = in[k] < 0.0f ? 0.0f : in[k]; /* NaN stays */
    }
}

/* Each head of queries and keys by itself. */
static void qk_norm_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;
    const spc_config *c = &r->plan->config;
    int32_t width = r->plan->buffer[job->op->a].dim;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        float *head = r->buffer[job->op->a] + (int64_t)i * width;

        for (int32_t h = 0; h < c->heads + c->kv_heads; h++, head += c->head_dim) {
            r->backend->kernels->norm(head, r->vector[job->op->weight[h < c->heads ? 0 : 1]],
                                      c->head_dim, (float)c->norm_eps, head);
        }
    }
}

static void scale_entries(float *x, int32_t count, float factor)
{
    for (int32_t k = 0; k < count; k++) x[k] *= factor;
}

/* Rotate queries and keys: entry i of a head turns with entry i + pairs.  Queries may then be
 * multiplied with what their position has. */
static void rope_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;
    const spc_op *op = job->op;
    const spc_config *c = &r->plan->config;
    int32_t pairs = c->rope.pairs, width = r->plan->buffer[op->a].dim;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        const float *cosine = r->cosine[op->local] + (int64_t)job->rows->position[i] * pairs;
        const float *sine = r->sine[op->local] + (int64_t)job->rows->position[i] * pairs;
        float *head = r->buffer[op->a] + (int64_t)i * width;

        for (int32_t h = 0; h < c->heads + c->kv_heads; h++, head += c->head_dim) {
            for (int32_t k = 0; k < pairs; k++) {
                float x = head[k], y = head[k + pairs];

                head[k] = x * cosine[k] - y * sine[k];
                head[k + pairs] = y * cosine[k] + x * sine[k];
            }
        }
        if (r->query_scale) {
            scale_entries(r->buffer[op->a] + (int64_t)i * width, c->heads * c->head_dim,
                          r->query_scale[job->rows->position[i]]);
        }
    }
}

void spc_cpu_rows_run(spc_runner *r, const spc_op *op, const spc_rows *rows)
{
    row_job job = {.runner = r, .op = op, .rows = rows};
    int32_t out = op->out >= 0 ? r->plan->buffer[op->out].dim : 0;
    int32_t in = op->a >= 0 ? r->plan->buffer[op->a].dim : 0;

    switch (op->kind) {
    case SPC_OP_EMBED:
        over_rows(&job, rows->count, (int64_t)COST_DEQUANTISE * out, embed_rows);
        break;
    case SPC_OP_NORM: over_rows(&job, rows->count, out, norm_rows); break;
    case SPC_OP_ADD: over_rows(&job, rows->count, out, add_rows); break;
    case SPC_OP_GLU: over_rows(&job, rows->count, (int64_t)COST_GLU * in / 2, glu_rows); break;
    case SPC_OP_RELU: over_rows(&job, rows->count, in, relu_rows); break;
    case SPC_OP_QK_NORM: over_rows(&job, rows->count, in, qk_norm_rows); break;
    default: over_rows(&job, rows->count, (int64_t)COST_ROPE * in, rope_rows); break;
    }
}

static void store_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;
    const spc_config *c = &r->plan->config;
    int32_t width = r->plan->buffer[job->op->a].dim, dim = c->head_dim;
    int64_t layer = spc_kv_layer(c), head = layer / c->kv_heads;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        const float *value = r->buffer[job->op->a] + (int64_t)(i + 1) * width - c->kv_heads * dim;
        const float *key = value - c->kv_heads * dim;
        int32_t position = job->rows->position[i];
        int32_t page = spc_cpu_pages_of(r, job->kv, job->rows->slot[i])[position / SPC_PAGE_TOKENS];
        int64_t at = (page * (int64_t)c->layers + job->op->layer) * layer +
                     position % SPC_PAGE_TOKENS * (int64_t)dim;

        for (int32_t h = 0; h < c->kv_heads; h++, at += head) {
            spc_kv_write(job->kv, job->kv->key, at, key + h * dim, dim);
            spc_kv_write(job->kv, job->kv->value, at, value + h * dim, dim);
        }
    }
}

void spc_cpu_rows_store(spc_runner *r, const spc_op *op, const spc_rows *rows, const spc_kv *kv)
{
    row_job job = {.runner = r, .op = op, .rows = rows, .kv = kv};
    const spc_config *c = &r->plan->config;

    over_rows(&job, rows->count, (int64_t)COST_STORE * 2 * c->kv_heads * c->head_dim, store_rows);
}

static void quantise_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const row_job *job = user;
    const spc_runner *r = job->runner;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        r->backend->kernels->quantise(job->input + (int64_t)i * job->cols, job->cols, i,
                                      &r->quantised);
    }
}

void spc_cpu_rows_quantise(spc_runner *r, const float *in, int32_t cols, int32_t rows)
{
    row_job job = {.runner = r, .input = in, .cols = cols};

    r->quantised.stride = cols;
    over_rows(&job, rows, cols, quantise_rows);
}
