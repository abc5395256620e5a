/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.h - byte pair encoding: which neighbouring tokens merge, and in which order. */
#ifndef SPC_WEIGHTS_BPE_H
#define SPC_WEIGHTS_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One merge; its rank is its index.  The merge of lowest rank comes first. */
typedef struct {
    int32_t left, right; /* ids that stand side by side */
    int32_t result;      /* the id they become */
} spc_merge;

typedef struct {
    spc_merge *merge; /* [count], owned */
    int32_t count;
    int32_t *bucket;  /* [buckets] index of a merge, or -1; open addressing on (left, right) */
    uint32_t buckets; /* a power of two */
} spc_bpe;

/* Take over a malloc'd array of merges (also on failure) and index it.  Of two merges of one pair
 * the later counts, as in the reference.  false: no memory. */
bool spc_bpe_init(spc_bpe *bpe, spc_merge *merge, int32_t count);
void spc_bpe_free(spc_bpe *bpe);

/* Merge ids in place until no merge applies: always the pair of lowest rank, the leftmost first.
 * O(count log count).
 *
 * ids       [count] in, the merged ids out
 * count     receives their number
 *
 * false: no memory; ids are then undefined. */
bool spc_bpe_merge(const spc_bpe *bpe, int32_t *ids, int32_t *count);

#endif
