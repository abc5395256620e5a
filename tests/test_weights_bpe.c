/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_bpe.c - merges against the definition, done the slow way. */
#include "weights/bpe.h"

#include "toyrows.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static spc_bpe bpe_of(const spc_merge *merges, int32_t count)
{
    spc_merge *copy = malloc(((size_t)count + 1) * sizeof *copy);
    spc_bpe bpe;

    for (int32_t i = 0; i < count; i++) copy[i] = merges[i];
    cr_assert(spc_bpe_init(&bpe, copy, count));
    return bpe;
}

/* The definition: again and again the pair of lowest rank, the leftmost of these. */
static void merge_slowly(const spc_merge *merges, int32_t count, int32_t *ids, int32_t *length)
{
    for (;;) {
        int32_t rank = count, at = -1;

        for (int32_t i = 0; i + 1 < *length; i++) {
            for (int32_t m = count - 1; m >= 0; m--) {
                if (merges[m].left != ids[i] || merges[m].right != ids[i + 1]) continue;
                if (m < rank) {
                    rank = m;
                    at = i;
                }
                break; /* of two merges of one pair the later counts */
            }
        }
        if (at < 0) return;
        ids[at] = merges[rank].result;
        memmove(ids + at + 1, ids + at + 2, (size_t)(*length - at - 2) * sizeof *ids);
        --*length;
    }
}

Test(weights_bpe, random_merges_as_by_definition)
{
    enum { BASE = 4, MERGES = 30, LENGTH = 100 }; /* words above 64 leave the stack */
    dice d = {17};

    for (int trial = 0; trial < 500; trial++) {
        spc_merge merges[MERGES];
        int32_t ids[LENGTH], want[LENGTH], count = 1 + dice_below(&d, LENGTH), slow = count;

        for (int32_t m = 0; m < MERGES; m++) {
            merges[m] = (spc_merge){dice_below(&d, BASE + m), dice_below(&d, BASE + m), BASE + m};
        }
        for (int32_t i = 0; i < count; i++) want[i] = ids[i] = dice_below(&d, BASE);

        spc_bpe bpe = bpe_of(merges, MERGES);

        merge_slowly(merges, MERGES, want, &slow);
        cr_assert(spc_bpe_merge(&bpe, ids, &count));
        cr_assert_eq(count, slow, "trial %d", trial);
        cr_assert(memcmp(ids, want, (size_t)count * sizeof *ids) == 0, "trial %d", trial);
        spc_bpe_free(&bpe);
    }
}

/* aaaa...: neighbours overlap, the leftmost wins. */
Test(weights_bpe, overlapping_pairs_merge_from_the_left)
{
    static const spc_merge merges[] = {{0, 0, 1}};
    int32_t ids[] = {0, 0, 0, 0, 0}, count = 5;
    spc_bpe bpe = bpe_of(merges, 1);

    cr_assert(spc_bpe_merge(&bpe, ids, &count));
    cr_assert_eq(count, 3);
    cr_assert(ids[0] == 1 && ids[1] == 1 && ids[2] == 0);
    spc_bpe_free(&bpe);
}

Test(weights_bpe, nothing_to_merge)
{
    int32_t ids[] = {5}, count = 1, none = 0;
    spc_bpe bpe = bpe_of(NULL, 0);

    cr_assert(spc_bpe_merge(&bpe, ids, &count));
    cr_assert(count == 1 && ids[0] == 5);
    cr_assert(spc_bpe_merge(&bpe, ids, &none));
    cr_assert_eq(none, 0);
    spc_bpe_free(&bpe);
}

Test(weights_bpe, of_two_merges_of_one_pair_the_later_counts)
{
    static const spc_merge merges[] = {{0, 1, 5}, {1, 2, 6}, {0, 1, 7}};
    int32_t ids[] = {0, 1, 2}, count = 3;
    spc_bpe bpe = bpe_of(merges, 3);

    cr_assert(spc_bpe_merge(&bpe, ids, &count));
    cr_assert_eq(count, 2);
    cr_assert(ids[0] == 0 && ids[1] == 6, "the pair (0, 1) has rank 2 now, behind (1, 2)");
    spc_bpe_free(&bpe);
}
