/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_load.c - a plan bound to a checkpoint on the CPU: one arena for everything a runner will ever
 * write, weights read where they are mapped. */
#include "cpu_runner.h"
#include "cpu_scale.h"
#include "host/carve.h"
#include "host/kv.h"
#include "host/plan/rope.h"

#include "weights/quant.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory -----------------------------------------------------------------------------------
 */

/* Most rows that an op runs over: the encoder takes a whole prompt. */
static int32_t most_rows(const spc_runner *r)
{
    const spc_limits *l = &r->limits;

    return r->plan->encoder_ops > 0 && l->context > l->rows ? l->context : l->rows;
}

/* Most rows that an op's products have: of experts, one for each that a row takes. */
static int64_t most_pairs(const spc_runner *r)
{
    const spc_config *c = &r->plan->config;

    return (int64_t)most_rows(r) * (c->experts > 0 ? c->chosen : 1);
}

static void lay_out_experts(spc_runner *r, carver *to)
{
    const spc_config *c = &r->plan->config;
    const int64_t pairs = most_pairs(r);

    r->pair = carve(to, times(sizeof *r->pair, pairs));
    r->first = carve(to, times(sizeof *r->first, (int64_t)c->experts + 1));
    r->gathered = carve(to, times(times(sizeof(float), pairs), c->dim > c->ffn ? c->dim : c->ffn));
    r->mixed = carve(to, times(times(sizeof(float), pairs), c->dim));
}

static void lay_out_memory(spc_runner *r, carver *to)
{
    const spc_limits *l = &r->limits;

    spc_kv_lay_out(&r->memory, to, &r->plan->config, l, spc_kv_own_pages(l));
    r->source = carve(to, times(sizeof *r->source, l->slots));
    r->source_slot = carve(to, times(sizeof *r->source_slot, l->context));
    r->source_position = carve(to, times(sizeof *r->source_position, l->context));
}

/* Floats of a weight that the runner keeps itself. */
static size_t own_floats(const spc_runner *r, const spc_weight *w)
{
    if (w->cols == 0) return (size_t)w->rows;
    if (w->relative == SPC_RELATIVE_NONE) return 0;
    return times((size_t)w->cols, 2 * (int64_t)r->limits.context - 1);
}

/* Room for the rows of the widest linear op, quantised. */
static void lay_out_quantised(spc_runner *r, carver *to)
{
    int64_t most = most_pairs(r), rows = most > r->limits.outputs ? most : r->limits.outputs;
    int64_t cols = 0, stride;

    for (int32_t i = 0; i < r->plan->weight_count; i++) {
        if (r->plan->weight[i].cols > cols) cols = r->plan->weight[i].cols;
    }
    stride = (cols + 31) / 32 * 32;
    r->quantised.q = carve(to, times(times(1, rows), stride));
    r->quantised.scale = carve(to, times(times(sizeof(float), rows), stride / 32));
    r->quantised.sum = carve(to, times(times(sizeof(float), rows), stride / 32));
    r->quantised.total = carve(to, times(times(sizeof(int32_t), rows), stride / 16));
}

/* Lay out everything a runner owns: once counting, once for real. */
static size_t lay_out(spc_runner *r, char *base)
{
    const spc_plan *plan = r->plan;
    const spc_config *c = &plan->config;
    const spc_limits *l = &r->limits;
    carver to = {base, 0};
    int32_t rows = most_rows(r);
    int64_t pairs = most_pairs(r);
    size_t angles = times(times(sizeof(float), l->context), c->rope.pairs);

    r->matrix = carve(&to, times(sizeof *r->matrix, plan->weight_count));
    r->vector = carve(&to, times(sizeof *r->vector, plan->weight_count));
    r->buffer = carve(&to, times(sizeof *r->buffer, plan->buffer_count));
    for (int32_t i = 0; i < plan->weight_count; i++) {
        size_t floats = own_floats(r, &plan->weight[i]);
        float *vector = floats > 0 ? carve(&to, times(floats, sizeof *vector)) : NULL;

        if (base) r->vector[i] = vector;
    }
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        float *buffer = carve(&to, times(times(sizeof *buffer, rows), plan->buffer[i].dim));

        if (base) r->buffer[i] = buffer;
    }
    r->out = carve(&to, times(sizeof *r->out, pairs > l->outputs ? pairs : l->outputs));
    r->wanted = carve(&to, times(times(sizeof(float), l->outputs), c->dim));
    r->logits = carve(&to, times(times(sizeof(float), l->outputs), plan->ids));
    if (plan->subset) r->some = carve(&to, times(times(sizeof(float), l->outputs), plan->drafted));
    spc_kv_lay_out(&r->cache, &to, c, l, spc_limits_pages(l));
    r->length = carve(&to, times(sizeof *r->length, l->slots));
    r->room = carve(&to, times(sizeof *r->room, l->slots));
    for (int32_t k = 0; k < spc_rope_kinds(c); k++) {
        r->cosine[k] = carve(&to, angles);
        r->sine[k] = carve(&to, angles);
    }
    if (spc_rope_scales_queries(c)) {
        r->query_scale = carve(&to, times(sizeof(float), l->context));
    }
    r->scores = carve(&to, times(times(sizeof(float),
                                       (int64_t)spc_team_count(r->backend->team) * SPC_CPU_QUERIES),
                                 l->context));
    if (c->experts > 0) lay_out_experts(r, &to);
    if (plan->encoder_ops > 0) lay_out_memory(r, &to);
    lay_out_quantised(r, &to);
    r->part = carve(&to, times(sizeof *r->part, plan->weight_count));
    r->scale = carve(&to, times(sizeof *r->scale, plan->weight_count));
    return to.used;
}

size_t spc_cpu_memory(const spc_backend *b, const spc_plan *plan, const spc_limits *limits)
{
    spc_runner counted = {.backend = (spc_backend *)(uintptr_t)b, .plan = plan, .limits = *limits};

    return lay_out(&counted, NULL);
}

/* ---- load -------------------------------------------------------------------------------------
 */

/* The table of a weight (no quantised one), by relative position instead of by bucket. */
static void spread_relative(const spc_runner *r, const spc_weight *w, const spc_tensor *t,
                            float *out)
{
    int32_t context = r->limits.context;

    for (int32_t h = 0; h < w->cols; h++) {
        for (int32_t offset = 1 - context; offset < context; offset++) {
            int32_t bucket = spc_plan_bucket(&r->plan->config, w->relative, offset);

            spc_dequantise(t->dtype,
                           (const char *)t->data +
                               ((size_t)bucket * (size_t)w->of_cols + (size_t)(w->col + h)) *
                                   spc_dtype_bytes(t->dtype),
                           1, out++);
        }
    }
}

/* The columns [col, col + cols) of a rank's matrix, behind each other. */
static spc_status copy_columns(spc_runner *r, const spc_weight *w, const spc_tensor *t, int32_t i,
                               spc_error *err)
{
    uint32_t elements = spc_dtype_elements(t->dtype), bytes = spc_dtype_bytes(t->dtype);
    size_t from = (size_t)w->of_cols / elements * bytes, to = (size_t)w->cols / elements * bytes;
    const char *at = (const char *)t->data + (size_t)w->col / elements * bytes;

    r->part[i] = malloc(to * (size_t)w->rows);
    if (!r->part[i]) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for this rank's part of it", w->name);
    }
    for (int32_t row = 0; row < w->rows; row++) {
        memcpy((char *)r->part[i] + (size_t)row * to, at + (size_t)row * from, to);
    }
    r->matrix[i].data = r->part[i];
    return SPC_OK;
}

static spc_status bind_weight(spc_runner *r, const spc_bundle *bundle, int32_t i, spc_error *err)
{
    const spc_weight *w = &r->plan->weight[i];
    const char *where = spc_bundle_where(bundle);
    const spc_tensor *t;
    spc_status status = spc_plan_tensor(w, bundle, &t, err);

    if (status != SPC_OK) return status;
    const int32_t rank = t->rank;
    bool matrix = rank == 2 && w->relative == SPC_RELATIVE_NONE;

    if (!(spc_dtype_is_float(t->dtype) || (matrix && t->dtype == SPC_DTYPE_I8)) ||
        (w->relative != SPC_RELATIVE_NONE && spc_dtype_elements(t->dtype) > 1)) {
        return spc_error_set(
            err, SPC_ESHAPE,
            "%s: %s: type %s has no kernel on the CPU; supported: F32, BF16, "
            "F16, F8_E4M3, F8_E5M2, and for matrices I8 and the quantised types of "
            "GGUF",
            where, w->name, spc_dtype_name(t->dtype));
    }
    size_t row = (size_t)(rank == 2 ? w->of_cols : 1) / spc_dtype_elements(t->dtype) *
                 spc_dtype_bytes(t->dtype);
    const char *data = (const char *)t->data + (size_t)w->row * row;

    r->matrix[i] = (spc_matrix){.data = data, .dtype = t->dtype, .rows = w->rows, .cols = w->cols};
    if (w->relative != SPC_RELATIVE_NONE) {
        spread_relative(r, w, t, r->vector[i]);
        return SPC_OK;
    }
    if (rank == 2 && spc_dtype_is_scaled(t->dtype)) {
        status = spc_cpu_bind_scale(bundle, w, t, r->plan->config.scaled, &r->matrix[i],
                                    &r->scale[i], err);
        if (status != SPC_OK) return status;
    }
    if (rank == 2) return w->cols < w->of_cols ? copy_columns(r, w, t, i, err) : SPC_OK;
    spc_dequantise(t->dtype, data, w->rows, r->vector[i]);
    for (int32_t k = 0; k < w->rows; k++) r->vector[i][k] += w->plus;
    return SPC_OK;
}

/* The head scores the ids that are wanted (of this rank's, where there are several); rows of the
 * padding behind them are left alone. */
static void cut_head(spc_runner *r)
{
    for (int32_t i = 0; i < r->plan->op_count; i++) {
        const spc_op *op = &r->plan->op[i];

        if (op->kind != SPC_OP_HEAD) continue;

        const spc_weight *w = &r->plan->weight[op->weight[0]];
        int32_t left = r->plan->ids > w->row ? r->plan->ids - w->row : 0;

        r->matrix[op->weight[0]].rows = left < w->rows ? left : w->rows;
    }
}

void spc_cpu_unload(spc_runner *r)
{
    if (!r) return;
    for (int32_t i = 0; i < r->plan->weight_count; i++) {
        free(r->part[i]);
        free(r->scale[i]);
    }
    free(r->arena);
    free(r);
}

/* Zeros beside what ops write; no other entry of a buffer is read before it is written. */
static void begin_buffers(spc_runner *r)
{
    for (int32_t i = 0; i < r->plan->buffer_count; i++) {
        const spc_buffer *b = &r->plan->buffer[i];
        size_t bytes = (size_t)most_rows(r) * (size_t)b->dim * sizeof(float);

        if (b->before > 0 || b->behind > 0) memset(r->buffer[i], 0, bytes);
    }
}

static void begin_slots(spc_runner *r)
{
    const spc_limits *l = &r->limits;

    for (int32_t i = 0; i < l->slots; i++) {
        r->length[i] = 0;
        r->room[i] = l->pages > 0 ? 0 : l->context;
    }
    if (l->pages == 0) spc_kv_own_table(r->cache.table, l);
    if (r->plan->encoder_ops == 0) return;
    spc_kv_own_table(r->memory.table, l);
    for (int32_t i = 0; i < l->slots; i++) r->source[i] = 0;
    for (int32_t i = 0; i < l->context; i++) r->source_position[i] = i;
}

spc_status spc_cpu_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                        const spc_limits *limits, spc_runner **out, spc_error *err)
{
    spc_runner *r = calloc(1, sizeof *r);
    size_t bytes = spc_cpu_memory(b, plan, limits);
    spc_status status = SPC_OK;

    *out = NULL;
    if (r && bytes < CARVE_MOST) r->arena = aligned_alloc(CARVE_ALIGNMENT, bytes);
    if (!r || !r->arena) {
        free(r);
        return spc_error_set(
            err, SPC_ENOMEM,
            "%s: no memory for KV caches and scratch: %zu MiB (sessions %d, context %d); %slower "
            "sessions, context or kv-tokens",
            spc_bundle_where(weights), bytes >> 20, (int)limits->slots, (int)limits->context,
            spc_kv_advice(limits, spc_kv_bytes(plan, limits), bytes));
    }
    r->backend = b;
    r->plan = plan;
    r->limits = *limits;
    (void)lay_out(r, r->arena);
    begin_buffers(r);
    begin_slots(r);
    for (int32_t i = 0; i < plan->weight_count; i++) {
        r->part[i] = NULL;
        r->scale[i] = NULL;
    }
    for (int32_t i = 0; i < plan->weight_count && status == SPC_OK; i++) {
        const spc_tensor *t = spc_bundle_find(weights, plan->weight[i].name);

        status = bind_weight(r, weights, i, err);
        spc_meter_took(limits->meter, t ? t->bytes : 0);
    }
    if (status != SPC_OK) {
        spc_cpu_unload(r);
        return status;
    }
    cut_head(r);
    for (int32_t k = 0; k < spc_rope_kinds(&plan->config); k++) {
        spc_rope_angles(&plan->config, k, limits->context, r->cosine[k], r->sine[k]);
    }
    if (r->query_scale) {
        spc_rope_query_scales(&plan->config, limits->context, r->query_scale);
    }
    *out = r;
    return SPC_OK;
}
