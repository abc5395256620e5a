/* SPDX-License-Identifier: Apache-2.0 */
/* Draft lengths: curves of times, acceptance from verdicts, and the choice against brute force. */
#include "rules/gamma.h"

#include "toyrows.h"

#include <math.h>

/* A curve that is a straight line in the rows. */
static spc_pace line(float first, float each)
{
    const int32_t rows[] = {1, 2};
    const float time[] = {first, first + each};
    spc_pace pace;

    spc_pace_lay(&pace, rows, time, 2);
    return pace;
}

static spc_gamma_lane lane_of(float accept, spc_last last)
{
    spc_gamma_lane lane = {.least = 0, .most = SPC_GAMMA_MAX, .before = -1, .last = last};

    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) lane.accept[i] = accept;
    return lane;
}

/* ---- times ---- */

Test(rules_gamma, points_rise_and_reach_the_largest_step)
{
    for (int32_t p = 1; p < SPC_PACE_POINTS; p++) {
        cr_expect_gt(spc_pace_rows(p), spc_pace_rows(p - 1));
        cr_expect_eq(spc_pace_below(spc_pace_rows(p)), p);
        cr_expect_eq(spc_pace_below(spc_pace_rows(p) - 1), p - 1);
    }
    cr_expect_eq(spc_pace_rows(0), 1);
    cr_expect_geq(spc_pace_rows(SPC_PACE_POINTS - 1), 4096 * (SPC_GAMMA_MAX + 2));
}

Test(rules_gamma, a_curve_goes_through_what_was_measured_and_on_behind_it)
{
    const int32_t rows[] = {1, 2, 4, 8};
    const float time[] = {10, 11, 14, 30};
    spc_pace pace;

    spc_pace_lay(&pace, rows, time, 4);
    cr_expect_eq(spc_pace_at(&pace, 0), 0);
    for (int i = 0; i < 4; i++) cr_expect_float_eq(spc_pace_at(&pace, rows[i]), time[i], 1e-5);
    cr_expect_float_eq(spc_pace_at(&pace, 3), 12.5, 1e-5);
    cr_expect_float_eq(spc_pace_at(&pace, 6), 22, 1e-5);
    cr_expect_float_eq(spc_pace_at(&pace, 17), 30 + 4 * 9, 1e-4);
    spc_pace_lay(&pace, rows, time, 1);
    cr_expect_float_eq(spc_pace_at(&pace, 300), 10, 1e-5);
}

Test(rules_gamma, a_curve_follows_the_times_that_are_seen)
{
    spc_pace pace = line(10, 1);

    for (int i = 0; i < 200; i++) {
        spc_pace_learn(&pace, 5, 40);
        spc_pace_learn(&pace, 1, 20);
    }
    cr_expect_float_eq(spc_pace_at(&pace, 5), 40, 4);
    cr_expect_float_eq(spc_pace_at(&pace, 1), 20, 2);
    cr_expect_gt(spc_pace_at(&pace, 16), 40, "what was not seen follows: %g",
                 (double)spc_pace_at(&pace, 16));

    float before = spc_pace_at(&pace, 5);

    spc_pace_learn(&pace, 5, 1e9f);
    cr_expect_lt(spc_pace_at(&pace, 5), before * 1.13f, "one hiccup moves little");
    for (int32_t rows = 1; rows < 200; rows++) {
        cr_expect_geq(spc_pace_at(&pace, rows + 1), spc_pace_at(&pace, rows), "%d", (int)rows);
    }
    spc_pace_learn(&pace, 5, 0);
    spc_pace_learn(&pace, 0, 5);
    cr_expect_lt(spc_pace_at(&pace, 5), before * 1.13f);
}

/* One round in five is held up by another program. */
Test(rules_gamma, a_curve_keeps_to_the_rounds_that_nothing_held_up)
{
    spc_pace pace = line(10, 1);

    for (int i = 0; i < 400; i++) spc_pace_learn(&pace, 3, i % 5 == 0 ? 48 : 12);
    cr_expect_float_eq(spc_pace_at(&pace, 3), 12, 1.2, "%g", (double)spc_pace_at(&pace, 3));
}

/* ---- acceptance ---- */

Test(rules_gamma, acceptance_begins_at_the_prior_and_ends_at_what_is_seen)
{
    float prior[SPC_GAMMA_MAX], accept[SPC_GAMMA_MAX];
    spc_verdicts v = {{0}, {0}};

    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) prior[i] = i < 4 ? 0.7f : 0.5f;
    spc_verdicts_accept(&v, prior, accept);
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) cr_expect_float_eq(accept[i], prior[i], 1e-6);
    /* of three rounds of 3 drafts, two keep one and one keeps all */
    for (int round = 0; round < 300; round++) {
        bool all = round % 3 == 0;

        spc_verdicts_add(&v, all ? 3 : 2, all ? 3 : 1, SPC_VERDICTS_FADE);
    }
    spc_verdicts_accept(&v, prior, accept);
    cr_expect_float_eq(accept[0], 1, 0.05);
    cr_expect_float_eq(accept[1], 1.0 / 3, 0.08);
    cr_expect_gt(accept[2], 0.85);
    cr_expect_lt(accept[3], 1.0001);
    cr_expect_lt(accept[4], accept[3], "positions nobody saw keep the prior's shape");
    for (int round = 0; round < 300; round++) spc_verdicts_add(&v, 1, 0, SPC_VERDICTS_FADE);
    spc_verdicts_accept(&v, prior, accept);
    cr_expect_lt(accept[0], 0.1, "what was seen long ago fades: %g", (double)accept[0]);
}

Test(rules_gamma, hope_is_highest_where_nothing_is_known)
{
    const double hope = (double)SPC_ACCEPT_HOPE;

    cr_expect_float_eq((double)spc_accept_hope(0.6f, 0), 0.6 + hope, 1e-6);
    cr_expect_float_eq((double)spc_accept_hope(0.6f, SPC_HOPE_VERDICTS), 0.6 + hope / 2, 1e-6);
    cr_expect_float_eq((double)spc_accept_hope(0.6f, 10000), 0.6, 1e-3);
    cr_expect_eq(spc_accept_hope(0.9f, 0), 1.0f);
}

Test(rules_gamma, tokens_of_a_round_are_the_sum_of_what_can_be_kept)
{
    spc_gamma_lane lane = lane_of(0.5f, SPC_LAST_NEVER);

    cr_expect_eq(spc_gamma_tokens(lane.accept, 0), 1);
    cr_expect_float_eq(spc_gamma_tokens(lane.accept, 3), 1.875, 1e-6);
}

/* ---- the choice ---- */

/* The rows that are worth remembering: 8B and 1B on one GPU, t_d 1.17 ms, t_v 6.22 ms flat. */
Test(rules_gamma, one_sequence_drafts_as_long_as_the_formula_says)
{
    static const struct {
        float accept;
        int32_t gamma;
        double factor;
    } rows[] = {{0.1f, 0, 1},    {0.5f, 2, 1.27}, {0.6f, 2, 1.42},
                {0.7f, 3, 1.62}, {0.8f, 4, 1.92}, {0.9f, 7, 2.46}};
    spc_gamma_times t = {line(1.17f, 0), line(6.22f, 0), 0};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        spc_gamma_lane lane = lane_of(rows[i].accept, SPC_LAST_NEVER);
        double rate = (double)spc_gamma_lengths(&t, &lane, 1);

        cr_expect_eq(lane.chosen, rows[i].gamma, "%g: %d", (double)rows[i].accept,
                     (int)lane.chosen);
        cr_expect_float_eq(rate * 6.22, rows[i].factor, 0.006, "%g: %g", (double)rows[i].accept,
                           rate * 6.22);
    }
}

/* Under strict drafting pays from a = t_d / t_v on; where pi reads the drafter, from far less. */
Test(rules_gamma, the_last_row_of_the_drafter_is_counted)
{
    spc_gamma_times t = {line(2, 0), line(6, 0), 0};
    spc_gamma_lane strict = lane_of(0.32f, SPC_LAST_NEVER), late = lane_of(0.32f, SPC_LAST_LATE);
    spc_gamma_lane step = lane_of(0.32f, SPC_LAST_STEP);

    (void)spc_gamma_lengths(&t, &strict, 1);
    (void)spc_gamma_lengths(&t, &late, 1);
    cr_expect_eq(strict.chosen, 0);
    cr_expect_geq(late.chosen, 1);
    cr_expect_float_eq(spc_gamma_time(&t, &step, 1), 8, 1e-5, "no drafts: one row");
    late.chosen = 0;
    cr_expect_float_eq(spc_gamma_time(&t, &late, 1), 8, 1e-5);
    late.chosen = 2;
    cr_expect_float_eq(spc_gamma_time(&t, &late, 1), 10 + 0.32 * 0.32 * 2, 1e-5);
    strict.chosen = step.chosen = 2;
    cr_expect_float_eq(spc_gamma_time(&t, &strict, 1), 10, 1e-5);
    cr_expect_float_eq(spc_gamma_time(&t, &step, 1), 12, 1e-5);
}

/* Every assignment of lengths to three sequences; the choice comes close to the best of them. */
Test(rules_gamma, sequences_of_one_step_choose_together)
{
    dice d = {7};
    double worst = 1;

    for (int trial = 0; trial < 60; trial++) {
        float fixed = 0.2f + 2 * (float)dice_uniform(&d), row = 0.5f * (float)dice_uniform(&d);
        spc_gamma_times t = {line(fixed / 4 + row / 8, row / 8), line(fixed + row, row), 0};
        spc_gamma_lane lane[3];
        double best = 0, plain, got;

        for (int k = 0; k < 3; k++) lane[k] = lane_of((float)dice_uniform(&d), SPC_LAST_NEVER);
        for (int32_t code = 0; code < 9 * 9 * 9; code++) {
            lane[0].chosen = code % 9;
            lane[1].chosen = code / 9 % 9;
            lane[2].chosen = code / 81;
            best = fmax(best, (double)spc_gamma_rate(&t, lane, 3));
        }
        for (int k = 0; k < 3; k++) lane[k].chosen = 0;
        plain = (double)spc_gamma_rate(&t, lane, 3);
        got = (double)spc_gamma_lengths(&t, lane, 3);
        cr_expect_float_eq(got, (double)spc_gamma_rate(&t, lane, 3), 1e-5);
        cr_expect_geq(got, plain * 0.99999, "never slower than without drafts");
        worst = fmin(worst, got / best);
    }
    cr_expect_gt(worst, 0.97, "%g of the best", worst);
}

/* One good drafter among seven hopeless ones: what it gains, the others would pay for. */
Test(rules_gamma, a_sequence_does_not_draft_at_the_cost_of_the_others)
{
    spc_gamma_times t = {line(1, 0), line(5, 0), 0};
    spc_gamma_lane lane[8];

    for (int k = 0; k < 8; k++) lane[k] = lane_of(k == 0 ? 0.8f : 0.02f, SPC_LAST_NEVER);
    (void)spc_gamma_lengths(&t, lane, 1);
    cr_expect_gt(lane[0].chosen, 2, "alone it drafts");
    lane[0].before = -1;
    (void)spc_gamma_lengths(&t, lane, 8);
    for (int k = 0; k < 8; k++) cr_expect_eq(lane[k].chosen, 0);
    for (int k = 1; k < 8; k++) lane[k].least = lane[k].most = 3; /* they draft anyway */
    (void)spc_gamma_lengths(&t, lane, 8);
    cr_expect_eq(lane[0].chosen, 3);
    for (int k = 1; k < 8; k++) cr_expect_eq(lane[k].chosen, 3);
}

/* Where rows are dear one sequence drafts and the other does not, be it a single draft. */
Test(rules_gamma, of_two_sequences_one_may_draft_alone)
{
    spc_gamma_times t = {line(0.1f, 0.1f), line(2, 1), 0};
    spc_gamma_lane lane[2] = {lane_of(0.9f, SPC_LAST_NEVER), lane_of(0.02f, SPC_LAST_NEVER)};

    for (int32_t most = 1; most <= SPC_GAMMA_MAX; most += 5) {
        lane[0].most = lane[1].most = most;
        (void)spc_gamma_lengths(&t, lane, 2);
        cr_expect_geq(lane[0].chosen, 1);
        cr_expect_eq(lane[1].chosen, 0);
    }
}

Test(rules_gamma, a_change_must_promise_three_percent)
{
    spc_gamma_times t = {line(1.17f, 0), line(6.22f, 0), 0};
    spc_gamma_lane lane = lane_of(0.7f, SPC_LAST_NEVER);

    lane.before = 2; /* 1.60 against 1.62 of gamma 3 */
    (void)spc_gamma_lengths(&t, &lane, 1);
    cr_expect_eq(lane.chosen, 2);
    lane.before = 1; /* 1.43 */
    (void)spc_gamma_lengths(&t, &lane, 1);
    cr_expect_eq(lane.chosen, 3);
    lane.before = 0;
    lane.most = 0;
    (void)spc_gamma_lengths(&t, &lane, 1);
    cr_expect_eq(lane.chosen, 0, "no more than there is room for");
    lane.before = 8;
    lane.most = 2;
    (void)spc_gamma_lengths(&t, &lane, 1);
    cr_expect_eq(lane.chosen, 2);
}

/* Gamma 4 saves 2.98 of 6.22 ms a token: 26 tokens pay for 77 ms. */
Test(rules_gamma, a_drafter_that_lags_begins_where_what_is_left_pays_for_it)
{
    spc_gamma_times t = {line(1.17f, 0), line(6.22f, 0), 0.1f};
    spc_gamma_lane lane = lane_of(0.8f, SPC_LAST_NEVER);

    lane.before = 0;
    lane.lag = 770;
    for (int32_t left = 1; left < 60; left++) {
        lane.left = (float)left;

        float rate = spc_gamma_lengths(&t, &lane, 1);
        double saved = left * (6.22 - 6.22 / 1.9183);

        cr_expect_eq(lane.chosen, saved > 77 ? 4 : 0, "%d tokens left save %g", (int)left, saved);
        cr_expect_float_eq((double)rate * 6.22, saved > 77 ? 1.9183 : 1, 0.002);
    }
    lane.least = lane.most = 4;
    lane.left = 1;
    (void)spc_gamma_lengths(&t, &lane, 1);
    cr_expect_eq(lane.chosen, 4, "who must draft does");
}

/* Eight at a time: what one forward of the drafter costs they share, what each lacks it does not.
 */
Test(rules_gamma, of_sequences_that_lag_those_begin_that_pay_for_it)
{
    spc_gamma_times t = {line(1, 0), line(6, 0.01f), 0.05f};
    spc_gamma_lane lane[8];

    for (int k = 0; k < 8; k++) {
        lane[k] = lane_of(0.8f, SPC_LAST_NEVER);
        lane[k].before = 0;
        lane[k].left = 64;
        lane[k].lag = k == 3 ? 4000 : 10;
    }
    (void)spc_gamma_lengths(&t, lane, 8);
    for (int k = 0; k < 8; k++) {
        cr_expect_eq(lane[k].chosen > 0, k != 3, "%d: %d drafts", k, (int)lane[k].chosen);
    }
    for (int k = 0; k < 8; k++) lane[k].lag = k == 3 ? 0 : 4000;
    lane[3].before = 4;
    (void)spc_gamma_lengths(&t, lane, 8);
    for (int k = 0; k < 8; k++) {
        cr_expect_eq(lane[k].chosen > 0, k == 3, "%d: %d drafts", k, (int)lane[k].chosen);
    }
}

Test(rules_gamma, replies_are_as_long_as_those_before_and_as_what_is_written)
{
    spc_replies r = {0};

    cr_expect_float_eq(spc_replies_left(&r, 0, 1000), SPC_REPLY_PRIOR, 1e-3);
    cr_expect_float_eq(spc_replies_left(&r, 0, 50), 50, 1e-3, "no more than allowed");
    cr_expect_float_eq(spc_replies_left(&r, 700, 1000), 700, 1e-3);
    spc_replies_add(&r, 16);
    cr_expect_float_eq(spc_replies_left(&r, 0, 1000), (256 + 16) / 2., 1e-3);
    for (int i = 0; i < 300; i++) spc_replies_add(&r, 16);
    cr_expect_float_eq(spc_replies_left(&r, 0, 1000), 16 + 240 / 33., 0.1);
    for (int i = 0; i < 60; i++) spc_replies_add(&r, 400);
    cr_expect_gt(spc_replies_left(&r, 0, 1000), 300, "the latest count most");
}

Test(rules_gamma, probes_come_less_and_less_often)
{
    int32_t every = SPC_PROBE_FIRST;

    for (int i = 0; i < 4; i++) every = spc_probe_next(every);
    cr_expect_eq(every, SPC_PROBE_LAST);
    cr_expect_eq(spc_probe_next(every), SPC_PROBE_LAST);
}
