/* SPDX-License-Identifier: Apache-2.0 */
/* kv.c - types of keys and values. */
#include "kv.h"

#include "rules/round.h"

#include <string.h>

static const struct {
    const char *name;
    spc_dtype type;
} types[] = {{"f32", SPC_DTYPE_F32}, {"bf16", SPC_DTYPE_BF16}, {"f16", SPC_DTYPE_F16}};

enum { TYPES = sizeof types / sizeof *types };

/* KV caches of a quarter of all memory: to halve them is worth a word. */
enum { KV_LARGE = 4 };

spc_status spc_kv_type(const char *name, spc_dtype *out, spc_error *err)
{
    for (int i = 0; i < TYPES; i++) {
        *out = types[i].type;
        if (!name || strcmp(name, types[i].name) == 0) return SPC_OK;
    }
    return spc_error_set(err, SPC_EUSAGE, "kv: expected f32, bf16 or f16, found '%.40s'", name);
}

const char *spc_kv_name(spc_dtype type)
{
    int i = 0;

    while (types[i].type != type) i++;
    return types[i].name;
}

uint64_t spc_kv_bytes(const spc_plan *plan, const spc_limits *limits)
{
    spc_limits full = *limits;
    uint64_t page, memory = 0;

    full.pages = 0;
    page = spc_plan_kv_bytes(plan, SPC_PAGE_TOKENS, limits->kv);
    if (plan->encoder_ops > 0) { /* which it counts as much for */
        page /= 2;
        memory = (uint64_t)spc_limits_pages(&full);
    }
    return page * ((uint64_t)spc_limits_pages(limits) + memory);
}

const char *spc_kv_advice(const spc_limits *limits, uint64_t kv, uint64_t all)
{
    bool much = limits->kv == SPC_DTYPE_F32 && kv >= all / KV_LARGE;

    return much ? "keep keys and values in 16 bits (--kv bf16 or f16), " : "";
}

void spc_kv_write(const spc_kv *kv, char *data, int64_t at, const float *from, int32_t count)
{
    char *bytes = spc_kv_at(kv, data, at);
    uint16_t *to = (uint16_t *)(void *)bytes;

    if (kv->type == SPC_DTYPE_F32) {
        memcpy(bytes, from, (size_t)count * sizeof *from);
    } else if (kv->type == SPC_DTYPE_BF16) {
        for (int32_t i = 0; i < count; i++) to[i] = spc_float_bf16(from[i]);
    } else {
        for (int32_t i = 0; i < count; i++) to[i] = spc_float_half(from[i]);
    }
}
