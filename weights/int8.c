/* SPDX-License-Identifier: Apache-2.0 */
/* int8.c - float32, float16 and bfloat16 matrices to integers, a row at a time. */
#include "int8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant.h"

enum { SCALE_NAME = 256, PIECE = 256, GRAIN = 16 };

/* Values [from, from + count) of a tensor. */
static void read_floats(const spc_tensor *t, int64_t from, int64_t count, float *out)
{
    const uint16_t *half = (const uint16_t *)t->data + from;
    const float *whole = (const float *)t->data + from;

    switch (t->dtype) {
    case SPC_DTYPE_BF16:
        for (int64_t i = 0; i < count; i++) out[i] = spc_bfloat_to_float(half[i]);
        break;
    case SPC_DTYPE_F16:
        for (int64_t i = 0; i < count; i++) out[i] = spc_half_to_float(half[i]);
        break;
    default:
        for (int64_t i = 0; i < count; i++) out[i] = whole[i];
    }
}

static int64_t piece_of(int64_t at, int64_t cols)
{
    return cols - at < PIECE ? cols - at : PIECE;
}

/* The largest magnitude of a row; NaN where there is NaN. */
static float largest_of(const spc_tensor *t, int64_t row)
{
    float most = 0.0f, x[PIECE];

    for (int64_t at = 0, cols = t->shape[1]; at < cols; at += PIECE) {
        int64_t count = piece_of(at, cols);

        read_floats(t, row * cols + at, count, x);
        for (int64_t i = 0; i < count; i++) {
            float size = fabsf(x[i]);

            most = size <= most ? most : size; /* NaN is not, and stays: nothing is <= it */
            if (most != most) return most;
        }
    }
    return most;
}

static bool is_finite(float x)
{
    return x - x == 0.0f;
}

typedef struct {
    const spc_tensor *tensor;
    float *scale; /* [rows] not finite: neither was the row, whose integers are undefined */
    int8_t *q;    /* [rows, cols] */
} quantise_job;

static void quantise_row(const quantise_job *job, int64_t row)
{
    const int64_t cols = job->tensor->shape[1];
    float scale = job->scale[row] = largest_of(job->tensor, row) / 127.0f, x[PIECE];

    for (int64_t at = 0; is_finite(scale) && at < cols; at += PIECE) {
        int64_t count = piece_of(at, cols);
        int8_t *q = job->q + row * cols + at;

        read_floats(job->tensor, row * cols + at, count, x);
        for (int64_t i = 0; i < count; i++) {
            float steps = scale > 0.0f ? x[i] / scale : 0.0f;

            /* adding 1.5 * 2^23 rounds to a whole number; a subnormal scale may leave more */
            steps = steps + 12582912.0f - 12582912.0f;
            q[i] = (int8_t)(steps > 127.0f ? 127.0f : steps < -127.0f ? -127.0f : steps);
        }
    }
}

static void quantise_share(void *user, int32_t thread, int32_t from, int32_t to)
{
    (void)thread;
    for (int32_t row = from; row < to; row++) quantise_row(user, row);
}

static spc_status quantise(const spc_bundle *bundle, const spc_tensor *t, float *scale, int8_t *q,
                           const spc_sharing *sharing, spc_error *err)
{
    quantise_job job = {t, scale, q};

    if (sharing && t->shape[0] <= INT32_MAX) {
        sharing->run(sharing->team, (int32_t)t->shape[0], GRAIN, quantise_share, &job);
    } else {
        for (int64_t row = 0; row < t->shape[0]; row++) quantise_row(&job, row);
    }
    for (int64_t row = 0; row < t->shape[0]; row++) {
        if (is_finite(scale[row])) continue;
        return spc_error_set(err, SPC_ENUMERIC,
                             "%s: %s: expected finite weights, found NaN or infinity in row "
                             "%" PRId64,
                             spc_bundle_where(bundle), t->name, row);
    }
    return SPC_OK;
}

/* The integers in the place of t, the scales, which own both, beside them. */
static spc_status put(spc_bundle *bundle, const spc_tensor *t, float *memory, spc_error *err)
{
    char name[SCALE_NAME];
    spc_tensor integers = *t;
    spc_tensor scale = {name, SPC_DTYPE_F32, 1, {t->shape[0]}, memory, 0};
    spc_status status;

    (void)snprintf(name, sizeof name, "%s_scale", t->name);
    scale.bytes = (uint64_t)t->shape[0] * sizeof *memory;
    integers.dtype = SPC_DTYPE_I8;
    integers.data = memory + t->shape[0];
    integers.bytes = (uint64_t)t->shape[0] * (uint64_t)t->shape[1];
    status = spc_bundle_put(bundle, &scale, memory, err);
    return status == SPC_OK ? spc_bundle_put(bundle, &integers, NULL, err) : status;
}

/* Is there a scale beside it, though it needs none? */
static bool has_scale(const spc_bundle *bundle, const char *name)
{
    char full[SCALE_NAME];

    (void)snprintf(full, sizeof full, "%s_scale", name);
    return spc_bundle_find(bundle, full) != NULL;
}

spc_status spc_int8_quantise(spc_bundle *bundle, const char *name, const spc_sharing *sharing,
                             spc_error *err)
{
    const spc_tensor *t = spc_bundle_find(bundle, name);
    uint64_t rows, cols;
    float *memory;
    spc_status status;

    if (!t || t->rank != 2 || t->bytes == 0 || /* rows of nothing may be any number */
        (t->dtype != SPC_DTYPE_F32 && t->dtype != SPC_DTYPE_F16 && t->dtype != SPC_DTYPE_BF16)) {
        return SPC_OK;
    }
    if (strlen(name) + sizeof "_scale" > SCALE_NAME || has_scale(bundle, name)) {
        return spc_error_set(err, SPC_EMODEL,
                             "%s: tensor '%.100s' has a scale already, or too long "
                             "a name for one",
                             spc_bundle_where(bundle), name);
    }
    rows = (uint64_t)t->shape[0];
    cols = (uint64_t)t->shape[1]; /* the tensor's own bytes are more: nothing can wrap */
    memory = malloc(rows * (sizeof *memory + cols) + 1);
    if (!memory) {
        status = spc_error_set(err, SPC_ENOMEM,
                               "%s: %s: no memory for %" PRIu64 " x %" PRIu64 " integers",
                               spc_bundle_where(bundle), name, rows, cols);
    } else {
        status = quantise(bundle, t, memory, (int8_t *)(memory + rows), sharing, err);
    }
    if (status != SPC_OK) {
        free(memory);
        return status;
    }
    return put(bundle, t, memory, err);
}
