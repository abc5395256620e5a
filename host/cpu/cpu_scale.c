/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_scale.c - the scales that lie beside matrices of 8-bit floats and integers. */
#include "cpu_scale.h"

#include "weights/quant.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCK = 128, NAME = SPC_PLAN_NAME + 16 };

/* Integers that do not stand around 0 are not read. */
static spc_status check_zero(const spc_bundle *bundle, const spc_weight *w, const spc_tensor *t,
                             spc_error *err)
{
    char name[NAME];

    (void)snprintf(name, sizeof name, "%s_zero_point", w->name);
    if (t->dtype != SPC_DTYPE_I8 || !spc_bundle_find(bundle, name)) return SPC_OK;
    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "%s: %s: integers with a zero point are not supported, only symmetric "
                         "ones",
                         spc_bundle_where(bundle), name);
}

/* How many entries share a value; false: the shape is none of the known ones. */
static bool shape_of(const spc_tensor *scale, const spc_tensor *t, spc_scale *out)
{
    int64_t rows = t->shape[0], cols = t->shape[1];
    int64_t down = (rows + BLOCK - 1) / BLOCK, across = (cols + BLOCK - 1) / BLOCK;

    out->rows = out->cols = INT32_MAX / 16 * 16;
    out->stride = 1;
    if (scale->rank == 0 ||
        (scale->rank <= 2 && scale->shape[0] == 1 && (scale->rank == 1 || scale->shape[1] == 1))) {
        return true;
    }
    if (scale->rank == 2 && scale->shape[0] == down && scale->shape[1] == across) {
        out->rows = out->cols = BLOCK;
        out->stride = (int32_t)across;
        return true;
    }
    out->rows = 1;
    return scale->shape[0] == rows &&
           (scale->rank == 1 || (scale->rank == 2 && scale->shape[1] == 1));
}

spc_status spc_cpu_bind_scale(const spc_bundle *bundle, const spc_weight *w, const spc_tensor *t,
                              bool scaled, spc_matrix *matrix, float **own, spc_error *err)
{
    static const spc_tensor one = {.dtype = SPC_DTYPE_F32};
    const spc_tensor *found = spc_plan_scale(bundle, w->name), *scale = found ? found : &one;
    const char *where = spc_bundle_where(bundle);
    spc_scale s = {.row = w->row, .col = w->col};
    int64_t count = 1;

    if (check_zero(bundle, w, t, err) != SPC_OK) return SPC_EUNSUPPORTED;
    if (!found && (scaled || t->dtype == SPC_DTYPE_I8)) {
        return spc_error_set(err, SPC_ESHAPE,
                             "%s: %s: expected a tensor %s_scale_inv or %s_scale beside it (%s), "
                             "found neither",
                             where, w->name, w->name, w->name,
                             scaled ? "quantization_config in config.json" : "its type is I8");
    }
    if (!shape_of(scale, t, &s) || !spc_dtype_is_float(scale->dtype) ||
        spc_dtype_elements(scale->dtype) > 1) {
        return spc_error_set(err, SPC_ESHAPE,
                             "%s: %s: expected a scale for all of %s, for each of its %" PRId64
                             " rows or for each block of 128 x 128, in F32, F16 or BF16; found "
                             "rank %d, [%" PRId64 ", %" PRId64 "], %s",
                             where, scale->name, w->name, t->shape[0], (int)scale->rank,
                             scale->rank > 0 ? scale->shape[0] : 0,
                             scale->rank > 1 ? scale->shape[1] : 0, spc_dtype_name(scale->dtype));
    }
    for (int32_t i = 0; i < scale->rank; i++) count *= scale->shape[i];
    *own = malloc((size_t)count * sizeof **own);
    if (!*own) return spc_error_set(err, SPC_ENOMEM, "%s: no memory for %s", where, scale->name);
    if (found) {
        spc_dequantise(found->dtype, found->data, count, *own);
    } else {
        **own = 1.0f;
    }
    for (int64_t i = 0; i < count; i++) {
        if ((*own)[i] - (*own)[i] == 0.0f) continue;
        return spc_error_set(err, SPC_ESHAPE,
                             "%s: %s: expected finite scales, found %g at %" PRId64, where,
                             scale->name, (double)(*own)[i], i);
    }
    s.value = *own;
    matrix->scale = s;
    return SPC_OK;
}
