/* SPDX-License-Identifier: Apache-2.0 */
/* kv.h - keys and values of all slots, as they lie in the memory of a backend.
 *
 * They are float32, or rounded to 16 bits when they are written (to the nearest, ties to even) and
 * widened where attention reads them.  bf16 has the range of float32.  fp16 is eight times as exact
 * and ends at 65504: what is larger becomes an infinity, and the rows that see it are bad. */
#ifndef SPC_HOST_KV_H
#define SPC_HOST_KV_H

#include "backend.h"
#include "carve.h"

typedef struct {
    spc_dtype type; /* of keys and values: F32, BF16, F16 */
    char *key;      /* [pages, layers, kv_heads, SPC_PAGE_TOKENS, head_dim] */
    char *value;    /* the same */
    int32_t *table; /* [slots, pages of the context] where 16 positions of a slot lie */
} spc_kv;

/* Elements of the keys of one layer in a page. */
static inline int64_t spc_kv_layer(const spc_config *c)
{
    return (int64_t)c->kv_heads * SPC_PAGE_TOKENS * c->head_dim;
}

/* Where element `at` of keys or values lies. */
static inline char *spc_kv_at(const spc_kv *kv, char *data, int64_t at)
{
    return data + at * (int64_t)spc_dtype_bytes(kv->type);
}

/* The type of a name: f32, bf16, f16, or NULL for the first of them; SPC_EUSAGE for another. */
spc_status spc_kv_type(const char *name, spc_dtype *out, spc_error *err);
const char *spc_kv_name(spc_dtype type);

/* Bytes of KV caches and of encoder memories that a runner reserves. */
uint64_t spc_kv_bytes(const spc_plan *plan, const spc_limits *limits);
/* What a message about missing memory says behind "lower ..., " where the KV caches are a large
 * part of it and could be smaller: a few words with a comma and a space behind, or "".
 *
 * kv, all   bytes of the caches and of everything */
const char *spc_kv_advice(const spc_limits *limits, uint64_t kv, uint64_t all);

/* Write `count` keys or values from element `at` on. */
void spc_kv_write(const spc_kv *kv, char *data, int64_t at, const float *from, int32_t count);

static inline void spc_kv_lay_out(spc_kv *kv, carver *to, const spc_config *c,
                                  const spc_limits *limits, int64_t pages)
{
    size_t row = times(spc_dtype_bytes(limits->kv), c->head_dim);
    size_t page = times(times(times(row, SPC_PAGE_TOKENS), c->layers), c->kv_heads);

    kv->type = limits->kv;
    kv->key = carve(to, times(page, pages));
    kv->value = carve(to, times(page, pages));
    kv->table =
        carve(to, times(times(sizeof *kv->table, limits->slots), spc_pages_for(limits->context)));
}

/* Pages where every slot has its own for all of its context. */
static inline int64_t spc_kv_own_pages(const spc_limits *limits)
{
    return (int64_t)limits->slots * spc_pages_for(limits->context);
}

/* The table of such slots, one behind the other. */
static inline void spc_kv_own_table(int32_t *table, const spc_limits *limits)
{
    for (int64_t i = 0; i < spc_kv_own_pages(limits); i++) table[i] = (int32_t)i;
}

#endif
