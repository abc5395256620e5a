/* SPDX-License-Identifier: Apache-2.0 */
/* Philox at its known answers, and random numbers as addresses. */
#include "rules/rng.h"

#include <criterion/criterion.h>
#include <math.h>

/* Known answers of the Random123 distribution for philox4x32-10. */
Test(rules_rng, philox_gives_the_published_answers)
{
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        spc_words in;

        for (int k = 0; k < 4; k++) in.word[k] = known[i].counter[k];
        spc_words out = spc_philox(in, known[i].key[0], known[i].key[1]);
        for (int k = 0; k < 4; k++) cr_expect_eq(out.word[k], known[i].answer[k]);
    }
}

/* The address is the counter: index, position low, position high | stream << 28, salt; the seed is
 * the key, low word first. */
Test(rules_rng, an_address_fills_the_counter_as_specified)
{
    spc_key key = {0x299f31d0a4093822u, 0x0319822e85a308d3u, 0x03707344u};
    spc_words counter = {
        {0x243f6a88u, 0x85a308d3u, 0x0319822eu | 3u << 28, 0x03707344u}}; /* stream draft */
    spc_words wanted = spc_philox(counter, 0xa4093822u, 0x299f31d0u);
    spc_words got = spc_random(key, SPC_STREAM_DRAFT, 0x243f6a88u);

    for (int k = 0; k < 4; k++) cr_expect_eq(got.word[k], wanted.word[k]);
}

Test(rules_rng, every_part_of_an_address_matters)
{
    spc_key key = {42, 91, 0};
    spc_key other[] = {{43, 91, 0},
                       {42 + (1ull << 32), 91, 0},
                       {42, 92, 0},
                       {42, 91 + (1ull << 32), 0},
                       {42, 91 + (1ull << 59), 0},
                       {42, 91, 1}};
    float first = spc_uniform(key, SPC_STREAM_ACCEPT, 0);

    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        cr_expect_neq(spc_uniform(other[i], SPC_STREAM_ACCEPT, 0), first, "part %d", (int)i);
    }
    for (spc_stream_id s = SPC_STREAM_RESIDUAL; s <= SPC_STREAM_USER; s++) {
        cr_expect_neq(spc_uniform(key, s, 0), first, "stream %d", (int)s);
    }
    cr_expect_neq(spc_uniform(key, SPC_STREAM_ACCEPT, 1), first);
    cr_expect_eq(spc_uniform(key, SPC_STREAM_ACCEPT, 0), first, "asked again, the same");
}

Test(rules_rng, a_uniform_has_24_bits_and_stays_below_1)
{
    for (uint64_t seed = 0; seed < 100000; seed++) {
        spc_key key = {seed, 5, 0};
        float u = spc_uniform(key, SPC_STREAM_ACCEPT, 0);
        uint32_t word = spc_random(key, SPC_STREAM_ACCEPT, 0).word[0];

        cr_assert(u >= 0.0f && u < 1.0f);
        cr_assert_eq((double)u, (double)(word >> 8) * 0x1p-24, "exact in float");
    }
}

/* Correlation of n pairs has a standard error of 1 / sqrt(n): 5 of them fail by chance with
 * probability 6e-7 a pair. */
Test(rules_rng, streams_positions_and_salts_are_not_correlated)
{
    enum { N = 100000 };
    double sum[6] = {0};

    for (uint64_t i = 0; i < N; i++) {
        spc_key key = {i, 7, 0}, next = {i, 8, 0}, salted = {i, 7, 8};
        double coin = (double)spc_uniform(key, SPC_STREAM_ACCEPT, 0) - 0.5;
        double with[] = {(double)spc_uniform(key, SPC_STREAM_RESIDUAL, 0),
                         (double)spc_uniform(key, SPC_STREAM_DRAFT, 0),
                         (double)spc_uniform(key, SPC_STREAM_BONUS, 0),
                         (double)spc_uniform(key, SPC_STREAM_RESIDUAL, 1u << 20),
                         (double)spc_uniform(next, SPC_STREAM_ACCEPT, 0),
                         (double)spc_uniform(salted, SPC_STREAM_ACCEPT, 0)};

        for (int k = 0; k < 6; k++) sum[k] += coin * (with[k] - 0.5) * 12;
    }
    for (int k = 0; k < 6; k++) cr_expect_lt(fabs(sum[k]) / N, 5 / sqrt(N), "pair %d", k);
}

/* From 0xff000000 on 1 - u has fewer than 16 bits left; such late arrivals are 1 in 256 and rarely
 * decide a race. */
Test(rules_rng, an_exponential_follows_its_word)
{
    double early = 0, late = 0;

    for (uint64_t i = 0; i < 0xffff0000u; i += i < 70000 ? 1 : 3571) {
        uint32_t word = (uint32_t)i;
        double exact = -log1p(-((double)word + 0.5) * 0x1p-32);
        double error = fabs((double)spc_exponential(word) - exact) / exact;

        *(word < 0xff000000u ? &early : &late) = fmax(word < 0xff000000u ? early : late, error);
    }
    cr_expect_lt(early, 2e-6, "relative error %g", early);
    cr_expect_lt(late, 3e-4, "relative error %g", late);
}

Test(rules_rng, exponentials_are_positive_finite_and_ordered_at_both_ends)
{
    cr_expect_gt(spc_exponential(0), 0.0f);
    cr_expect_lt(spc_exponential(0), 2e-10f);
    cr_expect_gt(spc_exponential(~0u), 16.0f);
    cr_expect(isfinite(spc_exponential(~0u)));
    for (uint32_t word = 0; word < 100000; word++) {
        cr_assert_lt(spc_exponential(word), spc_exponential(word + 1));
        cr_assert_geq(spc_exponential(~word), spc_exponential(~(word + 1)));
    }
}
