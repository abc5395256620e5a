/* SPDX-License-Identifier: Apache-2.0 */
/* int8.c - float32, float16 and bfloat16 matrices to integers, a row at a time. */
#include "int8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant.h"

enum { SCALE_NAME = 256 };

static void row_floats(const spc_tensor *t, int64_t row, float *out)
{
    const int64_t cols = t->shape[1];
    const uint16_t *half = (const uint16_t *)t->data + row * cols;
    const float *whole = (const float *)t->data + row * cols;

    switch (t->dtype) {
    case SPC_DTYPE_BF16:
        for (int64_t i = 0; i < cols; i++) out[i] = spc_bfloat_to_float(half[i]);
        break;
    case SPC_DTYPE_F16:
        for (int64_t i = 0; i < cols; i++) out[i] = spc_half_to_float(half[i]);
        break;
    default:
        for (int64_t i = 0; i < cols; i++) out[i] = whole[i];
    }
}

/* The largest magnitude; NaN where there is NaN. */
static float largest_of(const float *x, int64_t count)
{
    float most = 0.0f;

    for (int64_t i = 0; i < count; i++) {
        float size = fabsf(x[i]);

        most = size <= most ? most : size; /* NaN is not, and stays: nothing is <= it */
        if (most != most) break;
    }
    return most;
}

static spc_status quantise(const spc_bundle *bundle, const spc_tensor *t, float *row, float *scale,
                           int8_t *q, spc_error *err)
{
    const int64_t cols = t->shape[1];

    for (int64_t r = 0; r < t->shape[0]; r++, q += cols) {
        row_floats(t, r, row);
        scale[r] = largest_of(row, cols) / 127.0f;
        if (!(scale[r] - scale[r] == 0.0f)) {
            return spc_error_set(err, SPC_ENUMERIC,
                                 "%s: %s: expected finite weights, found NaN or infinity in row "
                                 "%" PRId64,
                                 spc_bundle_where(bundle), t->name, r);
        }
        for (int64_t i = 0; i < cols; i++) {
            float steps = scale[r] > 0.0f ? row[i] / scale[r] : 0.0f;

            /* adding 1.5 * 2^23 rounds to a whole number; a subnormal scale may leave more */
            steps = steps + 12582912.0f - 12582912.0f;
            q[i] = (int8_t)(steps > 127.0f ? 127.0f : steps < -127.0f ? -127.0f : steps);
        }
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

spc_status spc_int8_quantise(spc_bundle *bundle, const char *name, spc_error *err)
{
    const spc_tensor *t = spc_bundle_find(bundle, name);
    uint64_t rows, cols;
    float *memory, *row;
    spc_status status;

    if (!t || t->rank != 2 ||
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
    row = malloc(cols * sizeof *row + 1);
    if (!memory || !row) {
        status = spc_error_set(err, SPC_ENOMEM,
                               "%s: %s: no memory for %" PRIu64 " x %" PRIu64 " integers",
                               spc_bundle_where(bundle), name, rows, cols);
    } else {
        status = quantise(bundle, t, row, memory, (int8_t *)(memory + rows), err);
    }
    free(row);
    if (status != SPC_OK) {
        free(memory);
        return status;
    }
    return put(bundle, t, memory, err);
}
