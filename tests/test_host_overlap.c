/* SPDX-License-Identifier: Apache-2.0 */
/* Which way rounds go, on devices whose times are made up. */
#include "host/overlap.h"

#include <criterion/criterion.h>

enum { GAMMA = 4 };

/* Rounds of 3 tokens, 4 drafts of 100 ns and a verification of 250 ns; drafting ahead adds `cost`
 * to a round.  Returns in how many of the last `count` rounds it was done. */
static int32_t run(spc_overlap *o, double cost, int32_t rounds, int32_t count, int32_t *ahead)
{
    int32_t with = 0;

    for (int32_t i = 0; i < rounds; i++) {
        int32_t drafts = spc_overlap_choose(o, GAMMA);

        if (drafts > 0) *ahead = drafts;
        if (i >= rounds - count) with += drafts > 0;
        spc_overlap_note(o, (uint64_t)(650 + (drafts > 0 ? cost : 0)), 3, 4, 400, 250);
    }
    return with;
}

Test(host_overlap, the_faster_way_is_kept_and_the_other_tried_now_and_then)
{
    static const double costs[] = {-200, -30, 30, 200};
    enum { ROUNDS = 6400, LAST = 3200 };

    for (int32_t i = 0; i < 4; i++) {
        spc_overlap o = {.mode = SPC_OVERLAP_AUTO};
        int32_t ahead = 0, with = run(&o, costs[i], ROUNDS, LAST, &ahead);
        int32_t worse = costs[i] < 0 ? LAST - with : with;

        cr_expect_leq(worse, LAST / SPC_OVERLAP_PROBE, "cost %g: %d", costs[i], (int)worse);
        cr_expect_geq(worse, LAST / SPC_OVERLAP_PROBE / 2, "cost %g: %d", costs[i], (int)worse);
        cr_expect_eq(ahead, 2, "as many as a verification lasts, found %d", (int)ahead);
    }
}

Test(host_overlap, a_device_that_changes_is_followed)
{
    spc_overlap o = {.mode = SPC_OVERLAP_AUTO};
    int32_t ahead;

    cr_expect_gt(run(&o, -100, 1000, 100, &ahead), 50);
    cr_expect_lt(run(&o, 100, 2000, 100, &ahead), 50);
    cr_expect_gt(run(&o, -100, 2000, 100, &ahead), 50);
}

Test(host_overlap, equal_ways_are_not_changed)
{
    spc_overlap o = {.mode = SPC_OVERLAP_AUTO};
    int32_t ahead, with = run(&o, -5, 3200, 1600, &ahead); /* less than the margin */

    cr_expect_leq(with, 1600 / SPC_OVERLAP_PROBE + SPC_OVERLAP_BLOCK);
}

Test(host_overlap, modes_are_kept_and_gamma_begins_anew)
{
    spc_overlap o = {.mode = SPC_OVERLAP_OFF};
    int32_t ahead = 0;

    cr_expect_eq(run(&o, -100, 100, 100, &ahead), 0);
    o.mode = SPC_OVERLAP_ON;
    cr_expect_eq(run(&o, 100, 100, 100, &ahead), 100);
    cr_expect_eq(ahead, GAMMA + 1);
    o = (spc_overlap){.mode = SPC_OVERLAP_AUTO};
    cr_expect_gt(run(&o, -100, 1000, 100, &ahead), 50);
    cr_expect_eq(spc_overlap_choose(&o, GAMMA + 1), 0, "measured first");
    cr_expect_eq(o.mode, SPC_OVERLAP_AUTO);
}
