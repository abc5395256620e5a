/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_weights.c - what weights take on the device, and how they get there.
 *
 * Matrices keep their element type.  Rows of 16 and 32 bits begin at 16 bytes, padded where they
 * must be; quantised ones are laid out anew (cuda/quant_planes.cuh) and take what they take in the
 * checkpoint.  Both by all threads, a few megabytes at a time (backend_cuda_stage.c).  Vectors
 * become float32.  Of a rank's plan only its part is sent. */
#include "backend_cuda.h"

#include "weights/quant.h"

#include "backend_cuda_pack.h"
#include "backend_cuda_stage.h"
#include "host/carve.h"
#include "host/cpu/cpu_scale.h"
#include "host/cpu/cpu_threads.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 8 << 20 }; /* of rows that are laid out before they are sent */

size_t spc_cuda_vector_floats(const spc_weight *w, int32_t context)
{
    if (w->cols == 0) return (size_t)w->rows;
    if (w->relative == SPC_RELATIVE_NONE) return 0;
    return times((size_t)w->cols, 2 * (int64_t)context - 1);
}

static bool is_matrix(const spc_weight *w)
{
    return w->cols > 0 && w->relative == SPC_RELATIVE_NONE;
}

/* ---- checks -----------------------------------------------------------------------------------
 */

static spc_status check_type(const char *where, const spc_weight *w, const spc_tensor *t,
                             spc_error *err)
{
    uint32_t elements = spc_dtype_elements(t->dtype);

    if (is_matrix(w) ? spc_cuda_type_of(t->dtype) == SPC_WEIGHT_COUNT
                     : !spc_dtype_is_float(t->dtype) || elements > 1) {
        return spc_error_set(err, SPC_ESHAPE,
                             "%s: %s: type %s has no kernel on the GPU; supported: F32, BF16, F16, "
                             "F8_E4M3, F8_E5M2, and for matrices I8 and the quantised types of "
                             "GGUF; use device cpu",
                             where, w->name, spc_dtype_name(t->dtype));
    }
    return SPC_OK;
}

static spc_status find_weight(const spc_plan *plan, const spc_bundle *bundle, int32_t i,
                              const spc_tensor **out, spc_error *err)
{
    const spc_weight *w = &plan->weight[i];
    const spc_status status = spc_plan_tensor(w, bundle, out, err);

    return status == SPC_OK ? check_type(spc_bundle_where(bundle), w, *out, err) : status;
}

/* ---- scales beside 8-bit types ----------------------------------------------------------------
 */

/* Of a matrix's own part. */
typedef struct {
    float *own;         /* all that lie in the checkpoint; to be freed */
    const float *value; /* [count] those of the part */
    int64_t count;
} scales;

/* Read them, and say in m how they are found. */
static spc_status read_scales(const spc_plan *plan, const spc_bundle *bundle, const spc_weight *w,
                              const spc_tensor *t, spc_cuda_matrix *m, scales *out, spc_error *err)
{
    spc_matrix known = {0};
    const spc_scale *s = &known.scale;
    spc_status status =
        spc_cpu_bind_scale(bundle, w, t, plan->config.scaled, &known, &out->own, err);
    int32_t first;

    if (status != SPC_OK) return status;
    first = s->row / s->rows;
    m->scale_shift = s->rows == 1 ? 0 : s->rows == 128 ? 7 : 31;
    m->scale_stride = s->stride;
    m->scale_row = s->row - first * s->rows;
    m->scale_col = s->col;
    out->value = s->value + (int64_t)first * s->stride;
    out->count = (int64_t)((s->row + w->rows - 1) / s->rows - first + 1) * s->stride;
    return SPC_OK;
}

/* ---- layout -----------------------------------------------------------------------------------
 */

static spc_status lay_out_planes(const spc_plan *plan, const spc_bundle *bundle,
                                 const spc_weight *w, const spc_tensor *t, carver *to,
                                 spc_cuda_matrix *m, spc_error *err)
{
    spc_cuda_planes row = spc_cuda_planes_of(m->type, m->cols);
    scales s = {NULL, NULL, 0};
    spc_status status = SPC_OK;

    if (m->rows == 0) return SPC_OK; /* of another rank */
    m->data = carve(to, times((size_t)row.data, m->rows));
    if (row.high > 0) m->high = carve(to, times((size_t)row.high, m->rows));
    if (row.scale > 0) m->scale = carve(to, times((size_t)row.scale, m->rows));
    if (row.step > 0) m->step = carve(to, times((size_t)row.step, m->rows));
    if (row.scale == 0) {
        status = read_scales(plan, bundle, w, t, m, &s, err);
        m->scale = carve(to, times(sizeof(float), s.count));
        free(s.own);
    }
    return status;
}

spc_status spc_cuda_lay_out_weights(spc_runner *r, const spc_bundle *bundle, char *base,
                                    size_t *bytes, spc_error *err)
{
    carver to = {base, 0};

    for (int32_t i = 0; i < r->plan->weight_count; i++) {
        const spc_weight *w = &r->plan->weight[i];
        const spc_tensor *t;
        spc_status status = find_weight(r->plan, bundle, i, &t, err);

        if (status != SPC_OK) return status;
        if (!is_matrix(w)) continue;

        spc_weight_type type = spc_cuda_type_of(t->dtype);
        spc_cuda_matrix m = {.type = type,
                             .rows = w->rows,
                             .cols = w->cols,
                             .stride = spc_cuda_stride(type, w->cols)};

        if (spc_cuda_is_quantised(type)) {
            status = lay_out_planes(r->plan, bundle, w, t, &to, &m, err);
        } else {
            m.data = carve(&to, times((size_t)m.stride * spc_dtype_bytes(t->dtype), m.rows));
        }
        if (status != SPC_OK) return status;
        if (base) r->matrix[i] = m;
    }
    *bytes = to.used;
    return SPC_OK;
}

/* The scales beside a matrix of I8 or F8_*. */
static spc_status send_scales(spc_runner *r, const spc_bundle *bundle, const spc_weight *w,
                              const spc_tensor *t, const spc_cuda_matrix *m, spc_error *err)
{
    spc_cuda_matrix same = *m;
    scales s = {NULL, NULL, 0};
    spc_status status = read_scales(r->plan, bundle, w, t, &same, &s, err);

    if (status == SPC_OK) {
        status = spc_cuda_check(
            r->backend,
            spc_cuda_send_floats(r, (float *)(uintptr_t)m->scale, s.value, (size_t)s.count),
            w->name, err);
    }
    free(s.own);
    return status;
}

/* ---- vectors ----------------------------------------------------------------------------------
 */

static float element(const spc_tensor *t, int64_t i)
{
    float value;

    spc_dequantise(t->dtype, (const char *)t->data + i * spc_dtype_bytes(t->dtype), 1, &value);
    return value;
}

/* What a weight is as float32: itself plus `plus`, or its table by the key's offset from the query
 * plus context - 1. */
static void fill_vector(const spc_runner *r, const spc_weight *w, const spc_tensor *t, float *out)
{
    int32_t context = r->limits.context;

    for (int32_t k = 0; w->cols == 0 && k < w->rows; k++) {
        out[k] = element(t, w->row + k) + w->plus;
    }
    for (int32_t h = 0; h < w->cols; h++) {
        for (int32_t offset = 1 - context; offset < context; offset++) {
            int32_t bucket = spc_plan_bucket(&r->plan->config, w->relative, offset);

            *out++ = element(t, (int64_t)bucket * w->of_cols + w->col + h);
        }
    }
}

cudaError_t spc_cuda_send_floats(const spc_runner *r, float *to, const float *from, size_t count)
{
    cudaError_t code =
        cudaMemcpyAsync(to, from, count * sizeof *to, cudaMemcpyHostToDevice, r->backend->stream);

    return code == cudaSuccess ? cudaStreamSynchronize(r->backend->stream) : code;
}

static spc_status send_vector(spc_runner *r, const spc_bundle *bundle, int32_t i,
                              const spc_tensor *t, spc_error *err)
{
    const spc_weight *w = &r->plan->weight[i];
    size_t floats = spc_cuda_vector_floats(w, r->limits.context);
    float *vector = malloc(times(sizeof *vector, (int64_t)floats));
    cudaError_t code;

    if (!vector) {
        return spc_error_set(err, SPC_ENOMEM, "%s: %s: no memory for %zu values",
                             spc_bundle_where(bundle), w->name, floats);
    }
    fill_vector(r, w, t, vector);
    code = spc_cuda_send_floats(r, r->vector[i], vector, floats);
    free(vector);
    return spc_cuda_check(r->backend, code, w->name, err);
}

/* ---- all --------------------------------------------------------------------------------------
 */

static spc_status send_weight(spc_runner *r, spc_cuda_stage *stage, const spc_bundle *bundle,
                              int32_t i, spc_error *err)
{
    const spc_weight *w = &r->plan->weight[i];
    const spc_tensor *t = spc_bundle_find(bundle, w->name);
    const spc_cuda_matrix *m = &r->matrix[i];
    spc_status status;

    if (!is_matrix(w) || m->rows == 0) spc_meter_took(r->limits.meter, t->bytes);
    if (!is_matrix(w)) return send_vector(r, bundle, i, t, err);
    if (m->rows == 0) return SPC_OK; /* of another rank */
    status = spc_cuda_stage_send(stage, w, t, m, err);
    if (status == SPC_OK && m->scale_stride > 0) status = send_scales(r, bundle, w, t, m, err);
    return status;
}

/* Ranks load at the same time, each by its share of the cores: all of them may be here. */
static int32_t own_threads(const spc_backend *b)
{
    int32_t threads = spc_team_cores() / (b->comm ? b->comm->world : 1);

    return threads < 1 ? 1 : threads < SPC_TEAM_MAX ? threads : SPC_TEAM_MAX;
}

spc_status spc_cuda_send_weights(spc_runner *r, const spc_bundle *bundle, spc_error *err)
{
    spc_cuda_stage *stage;
    spc_status status =
        spc_cuda_stage_open(r->backend, own_threads(r->backend), PIECE_BYTES, &stage, err);

    if (status == SPC_OK) spc_cuda_stage_meter(stage, r->limits.meter);
    for (int32_t i = 0; i < r->plan->weight_count && status == SPC_OK; i++) {
        status = send_weight(r, stage, bundle, i, err);
    }
    spc_cuda_stage_close(stage);
    return status;
}

void spc_cuda_cut_head(spc_runner *r)
{
    for (int32_t i = 0; i < r->plan->op_count; i++) {
        const spc_op *op = &r->plan->op[i];

        if (op->kind != SPC_OP_HEAD) continue;

        const spc_weight *w = &r->plan->weight[op->weight[0]];
        int32_t left = r->plan->ids > w->row ? r->plan->ids - w->row : 0;

        r->matrix[op->weight[0]].rows = left < w->rows ? left : w->rows;
    }
}
