/* SPDX-License-Identifier: Apache-2.0 */
/* Which way rounds go, on devices whose times are made up. */
#include "host/overlap.h"

#include "rules/gamma.h"

#include <criterion/criterion.h>

enum { GAMMA = 4 };

/* Rounds of 4 drafts of 100 ns and a verification of 250 ns; drafting ahead adds `cost`
 * to a round.  Returns in how many of the last `count` rounds it was done. */
static int32_t run(spc_overlap *o, double cost, int32_t rounds, int32_t count, int32_t *ahead)
{
    int32_t with = 0;

    for (int32_t i = 0; i < rounds; i++) {
        int32_t drafts = spc_overlap_choose(o, GAMMA);

        if (drafts > 0) *ahead = drafts;
        if (i >= rounds - count) with += drafts > 0;
        spc_overlap_note(o, (uint64_t)(650 + (drafts > 0 ? cost : 0)), 4, 400, 250);
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

/* The same with lengths that change as gamma auto changes them: `next` says what follows `gamma`. A
 * round of g drafts takes 100 ns for each and 250 + 10 g for its verification; drafting ahead adds
 * `cost` of a hundredth of that. */
static int32_t run_lengths(spc_overlap *o, int32_t (*next)(int32_t round), double cost,
                           int32_t rounds, int32_t count)
{
    int32_t with = 0;

    for (int32_t i = 0; i < rounds; i++) {
        int32_t g = next(i), drafts = spc_overlap_choose(o, g);
        double ns = 250 + 110 * g;

        if (drafts > 0) ns *= 1 + cost / 100;
        cr_expect_leq(drafts, g + 1);
        if (i >= rounds - count) with += drafts > 0;
        spc_overlap_note(o, (uint64_t)ns, g, 100u * (uint64_t)g, 250u + 10u * (uint64_t)g);
    }
    return with;
}

/* One of 3 to 6, as if by chance. */
static int32_t scattered(int32_t round)
{
    return 3 + (int32_t)((uint32_t)round * 2654435761u >> 30);
}

/* Long drafts while one way is tried, short ones with the other, and the other way about. */
static int32_t in_phase(int32_t round)
{
    return round / SPC_OVERLAP_BLOCK % 2 ? 8 : 2;
}

static int32_t drifting(int32_t round)
{
    return 2 + round / 400 % 5;
}

Test(host_overlap, lengths_that_change_do_not_begin_anew)
{
    static int32_t (*const lengths[])(int32_t) = {scattered, in_phase, drifting};
    enum { ROUNDS = 8000, LAST = 4000 };

    for (int32_t i = 0; i < 3; i++) {
        for (int32_t worse = 0; worse < 2; worse++) {
            spc_overlap o = {.mode = SPC_OVERLAP_AUTO};
            int32_t with = run_lengths(&o, lengths[i], worse ? 6 : -6, ROUNDS, LAST);

            if (worse) with = LAST - with;
            cr_expect_geq(with, LAST * 9 / 10, "lengths %d, %s: %d of %d", (int)i,
                          worse ? "worse" : "better", (int)with, (int)LAST);
        }
    }
}

static int32_t plain(int32_t round)
{
    (void)round;
    return 0;
}

/* A length that no round has drafted for long is not what decides; no drafts are one, too. */
Test(host_overlap, the_lengths_in_use_decide)
{
    spc_overlap o = {.mode = SPC_OVERLAP_AUTO};
    int32_t ahead;

    cr_expect_gt(run(&o, -100, 1000, 100, &ahead), 50); /* 4 drafts: faster */
    cr_expect_lt(run_lengths(&o, in_phase, 10, 2000, 1000), 200);
    cr_expect_gt(run(&o, -100, 1000, 100, &ahead), 50);
    cr_expect_lt(run_lengths(&o, plain, 10, 2000, 1000), 200);
    cr_expect_gt(run(&o, -100, 1000, 100, &ahead), 50);
}

/* A device with gamma auto on it: 100 ns for a draft, 600 and 10 more for each row of a
 * verification, of which drafting ahead takes `share` more; what it drew is there when every draft
 * was kept. */
typedef struct {
    spc_gamma_times times;
    spc_gamma_lane lane;
    uint32_t noise;
    int32_t ready;
} device;

static device device_of(float accept)
{
    static const int32_t rows[] = {1, 9};
    static const float drafter[] = {100, 180}, verifier[] = {610, 690};
    device d = {.lane = {.most = SPC_GAMMA_MAX, .before = -1, .last = SPC_LAST_STEP}};

    spc_pace_lay(&d.times.drafter, rows, drafter, 2);
    spc_pace_lay(&d.times.verifier, rows, verifier, 2);
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) d.lane.accept[i] = accept;
    return d;
}

/* A round of g drafts and the step; returns its time, tokens receives what it gave. */
static double device_round(device *d, spc_overlap *o, int32_t g, double share, int32_t *tokens)
{
    int32_t ahead = spc_overlap_choose(o, g), kept = 0;
    int32_t drafts = d->ready < g + 1 ? g + 1 - d->ready : 0; /* a short round needs not all */
    double draft_ns = 100.0 * drafts, verify_ns = 600 + 10 * (g + 1);

    if (ahead > 0) verify_ns *= 1 + share;
    if (ahead * 100 > verify_ns) verify_ns = ahead * 100; /* the round ends with both */
    while (kept < g + 1) {
        d->noise = d->noise * 1664525u + 1013904223u;
        if ((double)(d->noise >> 8) / (1 << 24) >= (double)d->lane.accept[0]) break;
        kept++;
    }
    *tokens = kept < g + 1 ? kept + 1 : kept;
    spc_pace_learn(&d->times.drafter, 1, (float)(draft_ns / (g + 1)));
    spc_pace_learn(&d->times.verifier, g + 1, (float)verify_ns);
    spc_overlap_note(o, (uint64_t)(draft_ns + verify_ns), drafts, (uint64_t)draft_ns,
                     (uint64_t)verify_ns);
    d->ready = 0;
    if (kept == g + 1) d->ready = ahead < g + 1 ? ahead : g;
    return draft_ns + verify_ns;
}

/* Tokens per 1000 ns of chosen lengths under a mode; on: receives the share of rounds that drew
 * ahead, of the second half. */
static double rate_of(spc_overlap_mode mode, float accept, double share, double *on)
{
    enum { ROUNDS = 6000 };
    spc_overlap o = {.mode = mode};
    device d = device_of(accept);
    double ns = 0, tokens = 0;
    int32_t with = 0;

    for (int32_t i = 0; i < ROUNDS; i++) {
        int32_t got;

        (void)spc_gamma_lengths(&d.times, &d.lane, 1);
        d.lane.before = d.lane.chosen;

        double took = device_round(&d, &o, d.lane.chosen, share, &got);

        if (i < ROUNDS / 2) continue;
        ns += took;
        tokens += got;
        with += o.on;
    }
    *on = (double)with / (ROUNDS / 2);
    return 1000 * tokens / ns;
}

Test(host_overlap, chosen_lengths_and_drafting_ahead_go_together)
{
    static const struct {
        float accept;
        double share;
        bool pays;
    } devices[] = {{0.95f, 0.02, true}, {0.9f, 0.02, true}, {0.5f, 0.3, false}, {0.9f, 0.6, false}};

    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        double on, with, without, chosen;

        with = rate_of(SPC_OVERLAP_ON, devices[i].accept, devices[i].share, &on);
        without = rate_of(SPC_OVERLAP_OFF, devices[i].accept, devices[i].share, &on);
        chosen = rate_of(SPC_OVERLAP_AUTO, devices[i].accept, devices[i].share, &on);
        cr_expect_eq(with > without, devices[i].pays, "device %d: %g and %g", (int)i, with,
                     without);
        cr_expect_geq(devices[i].pays ? on : 1 - on, 0.85, "device %d: on for %g", (int)i, on);
        cr_expect_geq(chosen, 0.97 * (with > without ? with : without),
                      "device %d: %g of %g and %g", (int)i, chosen, with, without);
    }
}

Test(host_overlap, a_hiccup_decides_nothing)
{
    spc_overlap o = {.mode = SPC_OVERLAP_AUTO};
    int32_t ahead;

    cr_expect_gt(run(&o, -100, 1000, 100, &ahead), 50);
    cr_expect_gt(spc_overlap_choose(&o, GAMMA), 0);
    spc_overlap_note(&o, 1000000, 4, 400, 250);
    cr_expect_gt(run(&o, -100, 100, 100, &ahead), 50);
}

Test(host_overlap, modes_are_kept)
{
    spc_overlap o = {.mode = SPC_OVERLAP_OFF};
    int32_t ahead = 0;

    cr_expect_eq(run(&o, -100, 100, 100, &ahead), 0);
    o.mode = SPC_OVERLAP_ON;
    cr_expect_eq(run(&o, 100, 100, 100, &ahead), 100);
    cr_expect_eq(ahead, GAMMA + 1);
    cr_expect_eq(o.mode, SPC_OVERLAP_ON);
}
