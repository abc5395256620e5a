/* SPDX-License-Identifier: Apache-2.0 */
/* kv.h - keys and values of all slots, as they lie in the memory of a backend. */
#ifndef SPC_HOST_KV_H
#define SPC_HOST_KV_H

#include "backend.h"
#include "carve.h"

typedef struct {
    float *key;     /* [pages, layers, kv_heads, SPC_PAGE_TOKENS, head_dim] */
    float *value;   /* the same */
    int32_t *table; /* [slots, pages of the context] where 16 positions of a slot lie */
} spc_kv;

/* Elements of the keys of one layer in a page. */
static inline int64_t spc_kv_layer(const spc_config *c)
{
    return (int64_t)c->kv_heads * SPC_PAGE_TOKENS * c->head_dim;
}

static inline void spc_kv_lay_out(spc_kv *kv, carver *to, const spc_config *c,
                                  const spc_limits *limits, int64_t pages)
{
    size_t page =
        times(times(times(SPC_PAGE_TOKENS * sizeof(float), c->layers), c->kv_heads), c->head_dim);

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
