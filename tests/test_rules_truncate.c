/* SPDX-License-Identifier: Apache-2.0 */
/* Truncation as one value threshold: keys, the search for a cut, and nucleus targets. */
#include "rules/truncate.h"

#include "toyrows.h"

#include <criterion/criterion.h>

Test(rules_truncate, keys_order_as_logits_and_lead_back)
{
    static const float rising[] = {-INFINITY, -3e38f, -2.5f, -1e-40f, 0.0f, 1e-40f, 1.0f, 3e38f};
    dice d = {1};

    for (size_t i = 0; i < sizeof rising / sizeof *rising; i++) {
        cr_expect_eq(spc_logit_of_key(spc_key_of_logit(rising[i])), rising[i]);
        if (i > 0) cr_expect_gt(spc_key_of_logit(rising[i]), spc_key_of_logit(rising[i - 1]));
    }
    cr_expect_eq(spc_key_of_logit(-0.0f), spc_key_of_logit(0.0f));
    for (int i = 0; i < 100000; i++) {
        float a = (float)(20 * dice_gauss(&d)), b = (float)(20 * dice_gauss(&d));

        cr_assert_eq(spc_logit_of_key(spc_key_of_logit(a)), a);
        cr_assert_eq(a < b, spc_key_of_logit(a) < spc_key_of_logit(b));
    }
}

/* The search as a GPU or CPU runs it, over integer weights. */
static float cut_of(const float *logits, const uint64_t *weight, int32_t n, uint64_t target)
{
    spc_cut cut = spc_cut_begin(target);

    while (cut.level < SPC_CUT_LEVELS) {
        uint64_t bins[SPC_CUT_BINS] = {0};

        for (int32_t v = 0; v < n; v++) {
            int32_t bin = spc_cut_bin(cut, spc_key_of_logit(logits[v]));

            cr_assert(bin >= -1 && bin < SPC_CUT_BINS);
            if (bin >= 0) bins[bin] += weight[v];
        }
        cut = spc_cut_descend(cut, bins);
    }
    return spc_logit_of_key(cut.prefix);
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

Test(rules_truncate, the_search_finds_the_kth_largest_value_among_ties_too)
{
    enum { N = 200 };
    dice d = {2};

    for (int round = 0; round < 300; round++) {
        float z[N], sorted[N];
        uint64_t one[N];
        int32_t n = 1 + dice_below(&d, N);

        for (int32_t v = 0; v < n; v++) {
            z[v] = (float)(4 * dice_gauss(&d));
            if (round % 3 == 1) z[v] = bf16_of(z[v]);
            if (round % 3 == 2) z[v] = dice_uniform(&d) < 0.3 ? -INFINITY : rintf(z[v]);
            one[v] = 1;
        }
        memcpy(sorted, z, sizeof sorted);
        qsort(sorted, (size_t)n, sizeof *sorted, falling);
        for (int32_t k = 1; k <= n; k++) {
            cr_assert_eq(cut_of(z, one, n, (uint64_t)k), sorted[k - 1], "k %d of %d", (int)k,
                         (int)n);
        }
    }
}

Test(rules_truncate, the_search_finds_the_least_value_that_reaches_a_mass)
{
    enum { N = 60 };
    dice d = {3};

    for (int round = 0; round < 2000; round++) {
        float z[N];
        uint64_t mass[N], total = 0;

        for (int32_t v = 0; v < N; v++) {
            z[v] = rintf((float)(6 * dice_gauss(&d)) * 4) / 4;
            mass[v] = spc_mass_of(spc_exp2(z[v] < 0 ? z[v] : 0.0f));
            total += mass[v];
        }
        uint64_t target = 1 + dice_word(&d) % total;
        float cut = cut_of(z, mass, N, target);
        uint64_t from = 0, above = 0;
        bool present = false;

        for (int32_t v = 0; v < N; v++) {
            from += z[v] >= cut ? mass[v] : 0;
            above += z[v] > cut ? mass[v] : 0;
            present = present || z[v] == cut;
        }
        cr_assert(present && from >= target && above < target);
    }
}

Test(rules_truncate, a_nucleus_target_is_the_least_integer_that_reaches_the_share)
{
    cr_expect_eq(spc_nucleus_target(0.5f, 10), 5);
    cr_expect_eq(spc_nucleus_target(0.5f, 11), 6);
    cr_expect_eq(spc_nucleus_target(1.0f, 11), 11);
    cr_expect_eq(spc_nucleus_target(0.0f, 11), 0);
    cr_expect_eq(spc_cut_begin(0).target, 1, "a nucleus is never empty");
    for (uint64_t total = 1; total < 3000; total += 7) {
        for (int i = 1; i < 64; i++) {
            uint64_t target = spc_nucleus_target((float)i / 64, total);

            cr_assert(target * 64 >= (uint64_t)i * total &&
                      (target - 1) * 64 < (uint64_t)i * total);
        }
    }
}

Test(rules_truncate, a_target_beyond_all_mass_keeps_everything)
{
    for (int levels = 2; levels <= SPC_CUT_LEVELS; levels += 2) {
        uint64_t bins[SPC_CUT_BINS] = {0};
        spc_cut c = spc_cut_begin(100);

        bins[0xc1] = 99; /* all that is there; deeper levels find no key at all */
        for (int level = 0; level < levels; level++) {
            c = spc_cut_descend(c, bins);
            bins[0xc1] = 0;
        }
        cr_expect_eq(spc_cut_logit(c), -SPC_INFINITY);
    }
}

Test(rules_truncate, a_weight_of_1_is_2_to_the_40)
{
    cr_expect_eq(spc_mass_of(1.0f), 1ull << 40);
    cr_expect_eq(spc_mass_of(0x1p-40f), 1);
    cr_expect_eq(spc_mass_of(0x1p-41f), 0);
    cr_expect_eq(spc_mass_of(0.0f), 0);
}

Test(rules_truncate, min_p_cuts_at_a_share_of_the_maximum)
{
    cr_expect_float_eq(spc_min_p_cut(3.0f, 2.0f, logf(0.25f)), 3.0f + 2.0f * logf(0.25f), 1e-6f);
    cr_expect_eq(spc_min_p_cut(3.0f, 2.0f, 0.0f), 3.0f, "min-p 1 keeps the maximum and its ties");
}
