/* SPDX-License-Identifier: Apache-2.0 */
/* The coin of a draft, and the race that draws a token. */
#include "rules/accept.h"

#include "toyrows.h"

#include <criterion/criterion.h>

static const float largest_coin = 1.0f - 0x1p-24f;

Test(rules_accept, a_token_as_likely_under_the_target_is_kept_whatever_the_coin)
{
    dice d = {1};

    for (int i = 0; i < 20000; i++) {
        float q = (float)exp(-80 * dice_uniform(&d));

        cr_assert(spc_accepts(q, q, largest_coin));
        cr_assert(spc_accepts(2 * q, q, largest_coin));
        cr_assert(largest_coin * q < q, "the coin itself would keep it, too");
    }
}

Test(rules_accept, a_token_outside_the_target_is_never_kept)
{
    dice d = {2};

    for (int i = 0; i < 20000; i++) {
        float q = (float)exp(-80 * dice_uniform(&d));

        cr_assert_not(spc_accepts(0.0f, q, 0.0f));
    }
}

Test(rules_accept, a_token_that_the_drafter_excludes_is_never_kept)
{
    cr_expect_not(spc_accepts(1.0f, 0.0f, 0.0f));
    cr_expect_not(spc_accepts(0.0f, 0.0f, 0.0f));
    cr_expect_not(spc_accepts(1.0f, NAN, 0.0f));
    cr_expect_not(spc_accepts(NAN, 0.5f, 0.0f));
}

Test(rules_accept, the_coin_decides_exactly_at_the_ratio)
{
    cr_expect(spc_accepts(0.25f, 0.5f, 0.5f - 0x1p-24f));
    cr_expect_not(spc_accepts(0.25f, 0.5f, 0.5f), "accept needs coin * q < kept, strictly");
    cr_expect(spc_accepts(0x1p-60f, 0x1p-36f, 0.0f), "coin 0 keeps anything possible");
}

/* Why the coin is not compared in logarithms: ln u + ln q swallows a small ln u. */
Test(rules_accept, the_log_form_would_reject_equal_rows)
{
    dice d = {3};
    int32_t rejected = 0;

    for (int i = 0; i < 20000; i++) {
        float q = (float)exp(-80 * dice_uniform(&d)), ln_q = logf(q);
        float sum = logf(largest_coin) + ln_q;

        rejected += !(sum < ln_q);
    }
    cr_expect_gt(rejected, 0);
}

Test(rules_accept, arrivals_order_by_weight_and_never_happen_for_weight_0)
{
    cr_expect(isinf(spc_race_time(12345, 0.0f)));
    cr_expect(isinf(spc_race_time(0, -0.0f)));
    cr_expect_gt(spc_race_time(12345, 0.25f), spc_race_time(12345, 0.5f));
    cr_expect_gt(spc_race_time(1, 1.0f), 0.0f);
}

/* The winner of a race among 16 entries, as host/verify/verify.c and the kernels run it: fixed
 * seeds, limit as stated at chi_limit (false alarm 1e-6). */
Test(rules_accept, a_race_picks_by_weight)
{
    static const float weight[16] = {0.4f,  0,     1e-3f, 0.2f,  0.05f, 0.05f, 0,     0.1f,
                                     2e-3f, 0.02f, 0.01f, 0.03f, 1e-4f, 0.07f, 0.06f, 0.0069f};
    int64_t count[16] = {0};
    double law[16];

    for (int v = 0; v < 16; v++) law[v] = (double)weight[v];
    ref_norm(law, 16);
    for (uint64_t seed = 0; seed < 200000; seed++) {
        spc_key key = {seed, 3, 0};
        float least = INFINITY;
        int32_t best = -1;

        for (uint32_t v = 0; v < 16; v++) {
            spc_words w = spc_random(key, SPC_STREAM_RESIDUAL, SPC_RACE_ENTRIES + v / 4);
            float time = spc_race_time(w.word[v & 3], weight[v]);

            if (time < least) {
                least = time;
                best = (int32_t)v;
            }
        }
        cr_assert_geq(best, 0);
        count[best]++;
    }
    expect_counts(count, law, 16, "race");
}

Test(rules_accept, every_tile_has_a_word_of_its_own)
{
    spc_key key = {7, 8, 0};

    for (int32_t t = 0; t < 256; t++) {
        uint32_t word = spc_race_tile_word(key, SPC_STREAM_DRAFT, t);

        cr_expect_eq(word, spc_random(key, SPC_STREAM_DRAFT, (uint32_t)t / 4).word[t % 4]);
        for (int32_t s = 0; s < t; s++) {
            cr_assert_neq(word, spc_race_tile_word(key, SPC_STREAM_DRAFT, s));
        }
    }
}
