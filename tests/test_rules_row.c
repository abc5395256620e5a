/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics of a row: the order of sums, merging of tiles, probabilities and gates, in float. */
#include "rules/row.h"

#include "toyrows.h"

#include <criterion/criterion.h>

/* The canonical order written as a GPU block would: 256 lanes, then a tree. */
static float tree_sum(const float *value, int32_t count)
{
    float lane[256] = {0};

    for (int32_t v = 0; v < count; v++) lane[v % 256] += value[v];
    for (int32_t half = 128; half > 0; half /= 2) {
        for (int32_t l = 0; l < half; l++) lane[l] = lane[l] + lane[l + half];
    }
    return lane[0];
}

Test(rules_row, a_tile_is_summed_in_the_canonical_order_bit_for_bit)
{
    static const int32_t counts[] = {0, 1, 2, 255, 256, 257, 511, 1000, 4095, 4096};
    static float value[SPC_TILE];
    dice d = {1};

    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            double exact = 0;

            for (int32_t v = 0; v < counts[i]; v++) {
                value[v] = (float)exp(-10 * dice_uniform(&d));
                exact += (double)value[v];
            }
            float sum = spc_tile_sum(value, counts[i]);

            cr_assert_eq(spc_float_bits(sum), spc_float_bits(tree_sum(value, counts[i])));
            cr_assert_leq(fabs((double)sum - exact), 1e-6 * exact);
        }
    }
}

/* Partial of a few logits, by libm. */
static spc_partial partial_of(const float *z, int32_t n, int32_t offset, double temperature)
{
    spc_partial p = spc_partial_none();
    double sum = 0, one = 0, moment = 0;

    for (int32_t v = 0; v < n; v++) {
        if (z[v] > p.max) {
            p.max = z[v];
            p.top = offset + v;
        }
    }
    for (int32_t v = 0; v < n && p.max > -INFINITY; v++) {
        double y = (double)z[v] - (double)p.max;

        if (!(y > -INFINITY)) continue;
        sum += exp(y / temperature);
        one += exp(y);
        moment += y * exp(y);
    }
    p.sum = (float)sum;
    p.sum_one = (float)one;
    p.moment = (float)moment;
    return p;
}

/* Two tiles as a row adds them. */
static spc_partial merge(spc_partial a, spc_partial b, float scale)
{
    spc_partial r = spc_partial_top(a, b);

    r = spc_partial_add(r, spc_partial_at(a, r.max, scale));
    return spc_partial_add(r, spc_partial_at(b, r.max, scale));
}

Test(rules_row, merged_tiles_give_the_statistics_of_the_whole)
{
    enum { N = 40 };
    dice d = {2};

    for (int round = 0; round < 3000; round++) {
        float z[N];
        int32_t split = 1 + dice_below(&d, N - 1);
        double temperature = round % 2 ? 0.5 : 1.5;

        for (int32_t v = 0; v < N; v++) {
            z[v] = (float)(3 * dice_gauss(&d)) + (v < split && round % 5 == 0 ? 300.0f : 0.0f);
            if (round % 7 == 0 && v >= split) z[v] = -INFINITY;
            if (round % 3 == 0) z[v] = rintf(z[v]);
        }
        spc_partial whole = partial_of(z, N, 0, temperature);
        spc_partial merged = merge(partial_of(z, split, 0, temperature),
                                   partial_of(z + split, N - split, split, temperature),
                                   spc_temperature_scale((float)temperature));

        cr_assert_eq(merged.max, whole.max);
        cr_assert_eq(merged.top, whole.top, "the smallest id on ties");
        cr_assert_float_eq(merged.sum, whole.sum, 2e-6f * whole.sum);
        cr_assert_float_eq(merged.sum_one, whole.sum_one, 2e-6f * whole.sum_one);
        cr_assert_float_eq(merged.moment, whole.moment, 1e-5f * (1 - whole.moment));
    }
}

Test(rules_row, empty_and_bad_tiles_survive_merging)
{
    static const float z[] = {1, 2};
    spc_partial none = spc_partial_none(), some = partial_of(z, 2, 5, 1), bad = none;
    spc_partial r = merge(none, none, SPC_LOG2_E);

    cr_expect(r.max == -INFINITY && r.sum == 0.0f && r.sum_one == 0.0f && r.moment == 0.0f);
    r = merge(some, none, SPC_LOG2_E);
    cr_expect(r.max == 2.0f && r.top == 6 && r.sum == some.sum && r.moment == some.moment);
    r = merge(none, some, SPC_LOG2_E);
    cr_expect(r.max == 2.0f && r.top == 6 && r.sum == some.sum && r.moment == some.moment);
    bad.bad = 1;
    cr_expect(merge(bad, some, SPC_LOG2_E).bad);
    cr_expect(merge(some, bad, SPC_LOG2_E).bad);
}

static spc_row_stats stats_of(const float *z, int32_t n, double temperature)
{
    spc_partial p = partial_of(z, n, 0, temperature);
    spc_row_stats s = {p.max, p.top, p.sum, p.sum_one, p.moment, -INFINITY, 0};

    return s;
}

/* The error of ln p stays below 2^-22 (1 + |ln p|). */
Test(rules_row, probabilities_match_softmax_within_the_stated_bound)
{
    enum { N = 50 };
    dice d = {3};
    double worst = 0;

    for (int round = 0; round < 2000; round++) {
        static const double temperatures[] = {0.1, 0.5, 1, 2};
        double temperature = temperatures[round % 4], exact[N];
        float z[N];

        for (int32_t v = 0; v < N; v++) z[v] = bf16_of((float)(4 * dice_gauss(&d)));
        spc_softmax s = spc_softmax_of(stats_of(z, N, temperature), (float)temperature);
        ref_softmax(z, N, (double)(float)temperature, exact);
        for (int32_t v = 0; v < N; v++) {
            double p = (double)spc_row_probability(s, z[v], v);

            if (exact[v] < 1e-37) continue; /* below the normal floats */
            worst = fmax(worst, fabs(log(p / exact[v])) / (1 - log(exact[v])));
        }
    }
    cr_expect_lt(worst, 0x1p-22, "%g", worst);
}

Test(rules_row, a_cut_masks_and_temperature_0_is_one_hot)
{
    static const float z[] = {1, 3, 2, 3, -INFINITY};
    spc_row_stats stats = stats_of(z, 5, 1);

    stats.cut = 2.0f;
    spc_softmax s = spc_softmax_of(stats, 1);
    cr_expect_eq(spc_row_probability(s, z[0], 0), 0.0f);
    cr_expect_gt(spc_row_probability(s, z[2], 2), 0.0f, "the edge itself stays");
    stats.cut = -INFINITY;
    s = spc_softmax_of(stats, 1);
    cr_expect_eq(spc_row_probability(s, z[4], 4), 0.0f, "a mask stays out");
    s = spc_softmax_of(stats, 0);
    for (int32_t v = 0; v < 5; v++) {
        cr_expect_eq(spc_row_probability(s, z[v], v), v == 1 ? 1.0f : 0.0f);
    }
}

Test(rules_row, gates_read_the_row_they_are_asked_for)
{
    static const float z[] = {1, 3, 2, 3, -INFINITY};
    spc_row_stats stats = stats_of(z, 5, 0.5);
    float inf = INFINITY;

    stats.cut = 2.0f;
    cr_expect_eq(spc_gate_gap(stats, SPC_GATE_UNSCALED, 0.5f, z[0], 0), -2.0f);
    cr_expect_eq(spc_gate_gap(stats, SPC_GATE_UNSCALED, 0.5f, z[3], 3), 0.0f);
    cr_expect_eq(spc_gate_gap(stats, SPC_GATE_PROCESSED, 0.5f, z[2], 2), -2.0f);
    cr_expect_eq(spc_gate_gap(stats, SPC_GATE_PROCESSED, 0.5f, z[0], 0), -inf, "cut away");
    cr_expect_eq(spc_gate_gap(stats, SPC_GATE_PROCESSED, 0, z[3], 3), -inf, "not the first top");
    cr_expect_eq(spc_gate_gap(stats, SPC_GATE_PROCESSED, 0, z[1], 1), 0.0f);
    cr_expect_eq(spc_gate_gap(stats, SPC_GATE_UNSCALED, 0.5f, z[4], 4), -inf);
    cr_expect_float_eq(spc_gate_of(stats, SPC_GATE_UNSCALED).top, 1 / stats.sum_one, 1e-7f);
    cr_expect_float_eq(spc_gate_of(stats, SPC_GATE_PROCESSED).top, 1 / stats.sum, 1e-7f);
}

Test(rules_row, entropy_comes_from_the_moment)
{
    enum { N = 30 };
    dice d = {4};

    for (int round = 0; round < 500; round++) {
        float z[N];
        double exact[N];

        for (int32_t v = 0; v < N; v++) z[v] = (float)(2 * dice_gauss(&d));
        ref_softmax(z, N, 1, exact);
        double got = (double)spc_gate_of(stats_of(z, N, 1), SPC_GATE_UNSCALED).entropy;
        cr_assert_float_eq(got, ref_entropy(exact, N), 2e-6);
    }
}
