/* SPDX-License-Identifier: Apache-2.0 */
/* Verdicts at a given rate. */
#include "rules/synthetic.h"

#include <criterion/criterion.h>

enum { DRAFTS = 4, ROUNDS = 4000 };

Test(rules_synthetic, drafts_are_kept_at_the_rate_and_what_follows_is_of_that_round)
{
    static const int32_t draft[DRAFTS] = {11, 12, 13, 14};
    spc_row_params params = {.seed = 5};

    for (int32_t bonus = 0; bonus < 2; bonus++) {
        int64_t position = 1, kept = 0, judged = 0;

        for (int32_t round = 0; round < ROUNDS; round++) {
            spc_verdict v = {.count = -1};

            spc_synthetic_verdict(&v, &params, position, draft, DRAFTS, bonus != 0, 0.75f);
            cr_assert(v.accepted >= 0 && v.accepted <= DRAFTS);
            cr_assert_eq(v.verified, v.accepted < DRAFTS ? v.accepted + 1 : DRAFTS);
            cr_assert_eq(v.drawn, v.accepted < DRAFTS || bonus);
            cr_assert_eq(v.count, v.accepted + v.drawn);
            for (int32_t i = 0; i < v.accepted; i++) cr_assert_eq(v.token[i], draft[i]);
            if (v.drawn) cr_assert(v.token[v.accepted] >= 3 && v.token[v.accepted] < 10);
            kept += v.accepted;
            judged += v.verified;
            position += v.count;
        }
        /* 8,000 coins at least: 0.02 is more than four standard deviations */
        cr_expect_float_eq((double)kept / (double)judged, 0.75, 0.02, "%g",
                           (double)kept / (double)judged);
    }
}

Test(rules_synthetic, never_and_always)
{
    static const int32_t draft[DRAFTS] = {11, 12, 13, 14};
    spc_row_params params = {.seed = 5};
    spc_verdict v;

    spc_synthetic_verdict(&v, &params, 7, draft, DRAFTS, true, 0);
    cr_expect(v.accepted == 0 && v.count == 1 && v.drawn == 1);
    spc_synthetic_verdict(&v, &params, 7, draft, DRAFTS, true, 1);
    cr_expect(v.accepted == DRAFTS && v.count == DRAFTS + 1 && v.drawn == 1);
}
