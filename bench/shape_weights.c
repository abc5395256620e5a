/* SPDX-License-Identifier: Apache-2.0 */
/* shape_weights.c - numbers of about 2^-7: what they are does not matter to a clock, as long as
 * they are numbers. */
#include "bench/shape_weights.h"

#include "weights/quant.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN = 1 << 20, ALIGNMENT = 64, NAME = SPC_PLAN_NAME + 8 };

static const spc_dtype types[] = {
    SPC_DTYPE_F32,  SPC_DTYPE_F16,    SPC_DTYPE_BF16,  SPC_DTYPE_F8_E4M3, SPC_DTYPE_F8_E5M2,
    SPC_DTYPE_I8,   SPC_DTYPE_Q8_0,   SPC_DTYPE_Q4_0,  SPC_DTYPE_Q4_1,    SPC_DTYPE_Q5_0,
    SPC_DTYPE_Q5_1, SPC_DTYPE_Q2_K,   SPC_DTYPE_Q3_K,  SPC_DTYPE_Q4_K,    SPC_DTYPE_Q5_K,
    SPC_DTYPE_Q6_K, SPC_DTYPE_IQ4_NL, SPC_DTYPE_IQ4_XS};
enum { TYPES = sizeof types / sizeof *types };

/* "int8" is what `spc` calls it. */
static void name_of(spc_dtype type, char out[16])
{
    const char *name = type == SPC_DTYPE_I8 ? "int8" : spc_dtype_name(type);
    size_t i = 0;

    for (; name[i] && i < 15; i++) out[i] = (char)tolower((unsigned char)name[i]);
    out[i] = '\0';
}

spc_status shape_weights_type(const char *name, spc_dtype *out, spc_error *err)
{
    char known[256] = "", one[16];
    size_t used = 0;

    for (size_t i = 0; i < TYPES; i++) {
        name_of(types[i], one);
        if (strcmp(one, name) == 0) {
            *out = types[i];
            return SPC_OK;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", one);
    }
    return spc_error_set(err, SPC_EUSAGE, "--weights: expected one of %s; found '%.40s'", known,
                         name);
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

static void put16(char *at, uint32_t value)
{
    uint16_t half = (uint16_t)value;

    memcpy(at, &half, sizeof half);
}

/* One block of random bytes made sensible. */
static void tame(spc_dtype type, uint32_t word, char *block)
{
    static const uint32_t step = 0x0800u; /* 2^-13 */
    float value;

    switch (type) {
    case SPC_DTYPE_F32:
        value = (float)((int32_t)(word >> 16) - 32768) * 0x1p-22f;
        memcpy(block, &value, sizeof value);
        break;
    case SPC_DTYPE_BF16:
        put16(block, 0x3c00u | (word >> 24 & 0x7fu) | (word >> 16 & 0x8000u));
        break;
    case SPC_DTYPE_F16:
        put16(block, 0x2000u | (word >> 20 & 0x3ffu) | (word >> 16 & 0x8000u));
        break;
    case SPC_DTYPE_F8_E4M3:
    case SPC_DTYPE_F8_E5M2: *block = (char)(*block & 0xbf); break; /* below 2: no NaN */
    case SPC_DTYPE_I8: break;
    case SPC_DTYPE_Q2_K:
        put16(block + 80, step);
        put16(block + 82, step);
        break;
    case SPC_DTYPE_Q3_K: put16(block + 108, step); break;
    case SPC_DTYPE_Q6_K: put16(block + 208, step); break;
    case SPC_DTYPE_Q4_1:
    case SPC_DTYPE_Q5_1:
    case SPC_DTYPE_Q4_K:
    case SPC_DTYPE_Q5_K:
        put16(block + 2, step);
        put16(block, step);
        break;
    default: put16(block, step); break;
    }
}

/* `bytes` of whole blocks. */
static void fill(spc_dtype type, char *data, size_t bytes)
{
    const size_t block = spc_dtype_bytes(type), most = PATTERN / block * block;
    uint32_t word = 1;

    for (size_t at = 0; at < bytes && at < most; at += block) {
        for (size_t i = 0; i < block; i++) {
            word = word * 1664525u + 1013904223u;
            data[at + i] = (char)(word >> 24);
        }
        tame(type, word, data + at);
    }
    for (size_t at = most; at < bytes; at += most) {
        memcpy(data + at, data, bytes - at < most ? bytes - at : most);
    }
}

/* ---- tensors ----------------------------------------------------------------------------------
 */

static bool is_matrix(const spc_weight *w)
{
    return w->cols > 0 && w->relative == SPC_RELATIVE_NONE;
}

static spc_tensor tensor_of(const spc_weight *w, spc_dtype type)
{
    spc_tensor t = {.name = w->name,
                    .dtype = is_matrix(w) ? type : SPC_DTYPE_BF16,
                    .rank = w->cols > 0 ? 2 : 1,
                    .shape = {w->rows, w->cols}};
    uint64_t count = (uint64_t)w->rows * (uint64_t)(w->cols > 0 ? w->cols : 1);

    if (w->cols % (int32_t)spc_dtype_elements(t.dtype) != 0) t.dtype = SPC_DTYPE_Q8_0;
    t.bytes = count / spc_dtype_elements(t.dtype) * spc_dtype_bytes(t.dtype);
    return t;
}

static uint64_t scale_bytes(const spc_tensor *t)
{
    return spc_dtype_is_scaled(t->dtype) ? (uint64_t)t->shape[0] * sizeof(float) : 0;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* The scales of every row, where there are any. */
static spc_status put_scales(const spc_tensor *t, char *at, spc_bundle *bundle, spc_error *err)
{
    const float value = t->dtype == SPC_DTYPE_I8 ? 0x1p-13f : 0x1p-7f;
    char name[NAME];
    spc_tensor scale = {name, SPC_DTYPE_F32, 1, {t->shape[0]}, at, scale_bytes(t)};

    if (scale.bytes == 0) return SPC_OK;
    for (int64_t r = 0; r < t->shape[0]; r++) {
        memcpy(at + (size_t)r * sizeof value, &value, sizeof value);
    }
    (void)snprintf(name, sizeof name, "%s_scale", t->name);
    return spc_bundle_put(bundle, &scale, NULL, err);
}

/* The tensor whose memory holds weight i: with `once` the first of the largest of its element type,
 * else itself. */
static int32_t holder(const spc_plan *plan, spc_dtype type, bool once, int32_t i)
{
    const spc_dtype wanted = tensor_of(&plan->weight[i], type).dtype;
    uint64_t most = 0;

    for (int32_t k = 0, at = i; once; k++) {
        if (k == plan->weight_count) return at;

        spc_tensor t = tensor_of(&plan->weight[k], type);

        if (t.dtype != wanted || t.bytes <= most) continue;
        most = t.bytes;
        at = k;
    }
    return i;
}

/* Memory of all weights; data [weights] receives where each begins, scales follow the last. */
static spc_status reserve(const spc_plan *plan, spc_dtype type, bool once, const char *where,
                          const char **data, char **memory, char **scales, spc_error *err)
{
    uint64_t bytes = 0, scaled = 0;
    char *at;

    for (int32_t i = 0; i < plan->weight_count; i++) {
        spc_tensor t = tensor_of(&plan->weight[i], type);

        if (holder(plan, type, once, i) == i) bytes += aligned(t.bytes);
        scaled += aligned(scale_bytes(&t));
    }
    *memory = at = aligned_alloc(ALIGNMENT, bytes + scaled);
    if (!at) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for %zu MiB of weights", where,
                             (size_t)((bytes + scaled) >> 20));
    }
    *scales = at + bytes;
    for (int32_t i = 0; i < plan->weight_count; i++) {
        spc_tensor t = tensor_of(&plan->weight[i], type);

        if (holder(plan, type, once, i) != i) continue;
        fill(t.dtype, at, (size_t)t.bytes);
        data[i] = at;
        at += aligned(t.bytes);
    }
    for (int32_t i = 0; i < plan->weight_count; i++) data[i] = data[holder(plan, type, once, i)];
    return SPC_OK;
}

spc_status shape_weights_put(const spc_plan *plan, spc_dtype type, bool once, spc_bundle *bundle,
                             char **memory, spc_error *err)
{
    const char **data = calloc((size_t)plan->weight_count, sizeof *data);
    spc_status status;
    char *scales = NULL;

    *memory = NULL;
    if (!data) return spc_error_set(err, SPC_ENOMEM, "no memory for the names of weights");
    status = reserve(plan, type, once, spc_bundle_where(bundle), data, memory, &scales, err);
    for (int32_t i = 0; i < plan->weight_count && status == SPC_OK; i++) {
        spc_tensor t = tensor_of(&plan->weight[i], type);

        t.data = data[i];
        status = spc_bundle_put(bundle, &t, NULL, err);
        if (status == SPC_OK) status = put_scales(&t, scales, bundle, err);
        scales += aligned(scale_bytes(&t));
    }
    free(data);
    return status;
}
