/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.c - merging with a linked list of symbols and a heap of candidate pairs. */
#include "bpe.h"

#include <stdlib.h>
#include <string.h>

static uint32_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;

    return (uint32_t)(h >> 32);
}

bool spc_bpe_init(spc_bpe *bpe, spc_merge *merge, int32_t count)
{
    memset(bpe, 0, sizeof *bpe);
    bpe->merge = merge;
    bpe->count = count;
    bpe->buckets = 16;
    while (bpe->buckets < (uint32_t)count * 2u) bpe->buckets *= 2;
    bpe->bucket = malloc(bpe->buckets * sizeof *bpe->bucket);
    if (!bpe->bucket) return false;
    for (uint32_t i = 0; i < bpe->buckets; i++) bpe->bucket[i] = -1;
    for (int32_t i = 0; i < count; i++) {
        uint32_t at = hash_pair(merge[i].left, merge[i].right) & (bpe->buckets - 1);

        while (bpe->bucket[at] >= 0 && (merge[bpe->bucket[at]].left != merge[i].left ||
                                        merge[bpe->bucket[at]].right != merge[i].right)) {
            at = (at + 1) & (bpe->buckets - 1);
        }
        bpe->bucket[at] = i;
    }
    return true;
}

void spc_bpe_free(spc_bpe *bpe)
{
    free(bpe->merge);
    free(bpe->bucket);
    memset(bpe, 0, sizeof *bpe);
}

/* Rank of the merge of a pair, or -1. */
static int32_t rank_of(const spc_bpe *bpe, int32_t left, int32_t right)
{
    uint32_t at = hash_pair(left, right) & (bpe->buckets - 1);

    while (bpe->bucket[at] >= 0) {
        const spc_merge *m = &bpe->merge[bpe->bucket[at]];

        if (m->left == left && m->right == right) return bpe->bucket[at];
        at = (at + 1) & (bpe->buckets - 1);
    }
    return -1;
}

/* A symbol of the word; merged ones are bypassed. */
typedef struct {
    int32_t id; /* -1: swallowed by its left neighbour */
    int32_t before, behind;
} symbol;

/* A pair that could merge when it was pushed; stale when its symbols have changed since. */
typedef struct {
    int32_t rank;
    int32_t at; /* index of the left symbol */
} candidate;

typedef struct {
    candidate *item;
    int32_t count;
} heap;

static bool comes_first(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void push(heap *h, candidate c)
{
    int32_t i = h->count++;

    while (i > 0 && comes_first(c, h->item[(i - 1) / 2])) {
        h->item[i] = h->item[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h->item[i] = c;
}

static candidate pop(heap *h)
{
    candidate top = h->item[0], last = h->item[--h->count];
    int32_t i = 0;

    for (;;) {
        int32_t child = 2 * i + 1;

        if (child >= h->count) break;
        if (child + 1 < h->count && comes_first(h->item[child + 1], h->item[child])) child++;
        if (!comes_first(h->item[child], last)) break;
        h->item[i] = h->item[child];
        i = child;
    }
    h->item[i] = last;
    return top;
}

static void consider(const spc_bpe *bpe, const symbol *s, int32_t at, heap *h)
{
    int32_t rank;

    if (at < 0 || s[at].behind < 0) return;
    rank = rank_of(bpe, s[at].id, s[s[at].behind].id);
    if (rank >= 0) push(h, (candidate){rank, at});
}

static void apply(const spc_bpe *bpe, symbol *s, candidate c, heap *h)
{
    const spc_merge *m = &bpe->merge[c.rank];
    int32_t right = s[c.at].id == m->left ? s[c.at].behind : -1;

    if (right < 0 || s[right].id != m->right) return; /* stale */
    s[c.at].id = m->result;
    s[c.at].behind = s[right].behind;
    if (s[right].behind >= 0) s[s[right].behind].before = c.at;
    s[right].id = -1;
    consider(bpe, s, s[c.at].before, h);
    consider(bpe, s, c.at, h);
}

bool spc_bpe_merge(const spc_bpe *bpe, int32_t *ids, int32_t *count)
{
    int32_t n = *count, out = 0;
    symbol small_symbol[64], *s = small_symbol;
    candidate small_item[192]; /* n - 1 pairs at first, two more for each of n - 1 merges */
    heap h = {small_item, 0};

    if (n < 2) return true;
    if (n > 64) {
        s = malloc((size_t)n * sizeof *s);
        h.item = malloc((size_t)n * 3 * sizeof *h.item);
    }
    if (s && h.item) {
        for (int32_t i = 0; i < n; i++) s[i] = (symbol){ids[i], i - 1, i + 1 < n ? i + 1 : -1};
        for (int32_t i = 0; i + 1 < n; i++) consider(bpe, s, i, &h);
        while (h.count > 0) apply(bpe, s, pop(&h), &h);
        for (int32_t i = 0; i >= 0; i = s[i].behind) ids[out++] = s[i].id;
        *count = out;
    }
    if (s != small_symbol) free(s);
    if (h.item != small_item) free(h.item);
    return out > 0;
}
