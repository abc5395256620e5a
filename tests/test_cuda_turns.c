/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_turns.c - a batch in two halves, one of which drafts while the verifier works on the
 * other: the tokens and counters of one batch.
 *
 * Built twice, as test_cuda_fused.c is.  On the fibers the device does nothing before it is waited
 * for, and then what streams and events allow, by dice: work that lacks an order is seen in a wrong
 * one. */
#include "fused_pair.h"

TestSuite(cuda_turns, .init = late_begin, .fini = late_end, .timeout = 280);

/* Those whose drafter runs nothing behind kept drafts. */
static const way turn_ways[] = {{"strict", 3, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                                {"token-v1:alpha=0.3", 2, 0.7f, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                                {"strict", 2, 1, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
                                {"chow:alpha=0.5", 1, 1, SPC_BONUS_VERIFIER, SPC_VERIFY_TOKEN}};
enum { TURN_WAYS = sizeof turn_ways / sizeof *turn_ways };

static fixture open_turns(int32_t which, spc_overlap_mode mode)
{
    fixture f = open_pair(which, false);

    f.engine->turns.mode = mode;
    return f;
}

/* Four sessions, the last of which joins late; some end by a stop, one by its budget. */
static int64_t run_batch(spc_engine *engine, int32_t steps, decoded out[SESSIONS])
{
    spc_session *session[SESSIONS];
    spc_error error;
    int64_t in_turns = 0;

    for (int32_t i = 0; i < SESSIONS; i++) {
        spc_session_options o = way_options(&turn_ways[i % TURN_WAYS], 7 + (uint64_t)i);
        prompt p = prompt_made(2 + i, VOCAB, 3 + (uint32_t)i);

        o.max_tokens = i == 2 ? 20 : 0;
        o.ignore_stop = i < 2;
        session[i] = open_session(engine, &o, &p);
    }
    for (int32_t step = 0; step < steps; step++) {
        (void)spc_engine_step(engine, session, step < 6 ? SESSIONS - 1 : SESSIONS, &error);
        for (int32_t i = 0; i < SESSIONS; i++) {
            in_turns += session[i]->in_flight && session[i]->in_turns;
        }
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        out[i] = decoded_of(session[i]);
        spc_session_close(session[i]);
    }
    return in_turns;
}

Test(cuda_turns, tokens_and_counters_are_those_of_one_batch)
{
    skip_without_chains();
    for (int32_t m = 0; m < PAIRS; m++) {
        fixture one = open_turns(m, SPC_OVERLAP_OFF), two = open_turns(m, SPC_OVERLAP_ON);
        decoded a[SESSIONS], b[SESSIONS];
        int64_t in_turns;

        cr_expect_eq(run_batch(one.engine, 22, a), 0);
        in_turns = run_batch(two.engine, 22, b);
        cr_expect_gt(in_turns, 8, "%d", (int)in_turns);
        for (int32_t i = 0; i < SESSIONS; i++) {
            expect_same(&a[i], &b[i], turn_ways[i % TURN_WAYS].rule, 7 + (uint64_t)i);
        }
        close_fixture(&one);
        close_fixture(&two);
    }
}

/* So many sessions that go on. */
static void open_endless(spc_engine *engine, const way *w, spc_session **session, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        spc_session_options o = way_options(w, (uint64_t)i);
        prompt p = prompt_made(2, VOCAB, 3 + (uint32_t)i);

        o.max_tokens = 0;
        o.ignore_stop = true;
        session[i] = open_session(engine, &o, &p);
    }
}

/* A half of one session draws nothing ahead, as one does that is stepped by itself. */
Test(cuda_turns, a_half_of_one_session_is_no_session_by_itself)
{
    fixture f = open_turns(0, SPC_OVERLAP_ON);
    spc_session *session[2];
    spc_error error;

    skip_without_chains();
    f.engine->overlap.mode = SPC_OVERLAP_ON;
    open_endless(f.engine, &turn_ways[1], session, 2);
    for (int32_t step = 0; step < 10; step++) (void)spc_engine_step(f.engine, session, 2, &error);
    for (int32_t i = 0; i < 2; i++) {
        const spc_stats *s = &session[i]->counters;

        cr_expect(s->in_turns > 3 && s->drafted_ahead == 0, "%d, %d", (int)s->in_turns,
                  (int)s->drafted_ahead);
        spc_session_close(session[i]);
    }
    close_fixture(&f);
}

/* Rounds that the host looks at are not divided: each half would read all weights, and none is in
 * flight. */
Test(cuda_turns, what_is_looked_at_stays_in_one_batch)
{
    static const spc_logit_bias bias = {3, 1};

    for (int32_t kind = 0; kind < 3; kind++) {
        fixture f = open_turns(0, SPC_OVERLAP_ON);
        spc_session *session[3];
        spc_session_options o = way_options(&turn_ways[0], 1);
        prompt p = prompt_made(2, VOCAB, 3);

        o.max_tokens = 0;
        o.ignore_stop = true;
        o.details = kind == 0;
        o.logit_bias = &bias;
        o.logit_bias_count = kind == 1;
        o.logprobs = kind == 2;
        open_endless(f.engine, &turn_ways[0], session, 2);
        session[2] = open_session(f.engine, &o, &p);
        for (int32_t step = 0; step < 8; step++) {
            cr_assert_eq(spc_engine_step(f.engine, session, 3, NULL), SPC_OK);
            for (int32_t i = 0; i < 3; i++) cr_expect_not(session[i]->in_turns, "step %d", step);
        }
        for (int32_t i = 0; i < 3; i++) spc_session_close(session[i]);
        close_fixture(&f);
    }
}

/* Two halves are in flight, and behind them the drafter is fed a chunk of a long prompt in every
 * step: on the other stream, so the next drafts wait for it. */
static uint64_t run_beside_a_prompt(spc_engine *engine, const way *w, int64_t *in_turns)
{
    spc_session *session[3];
    spc_session_options o = way_options(w, 5);
    prompt p = prompt_made(30, VOCAB, 9);
    uint64_t hash = 0;
    spc_error error;

    open_endless(engine, w, session, 2);
    session[2] = open_session(engine, &o, &p);
    engine->prefill_rows = 3;
    engine->drafter.runner->graphs.off = true; /* on fibers a graph runs as a whole */
    for (int32_t step = 0; step < 36; step++) {
        (void)spc_engine_step(engine, session, step < 4 ? 2 : 3, &error);
        *in_turns += session[0]->in_flight && session[0]->in_turns && session[2]->filling;
    }
    for (int32_t i = 0; i < 3; i++) {
        hash = (hash ^ session[i]->counters.output_hash) * 0x9e3779b97f4a7c15u;
        spc_session_close(session[i]);
    }
    return hash;
}

Test(cuda_turns, a_prompt_is_fed_beside_them)
{
    skip_without_chains();
    for (int32_t w = 2; w < 4; w++) {
        fixture one = open_turns(0, SPC_OVERLAP_OFF), two = open_turns(0, SPC_OVERLAP_ON);
        int64_t none = 0, in_turns = 0;

        cr_expect_eq(run_beside_a_prompt(one.engine, &turn_ways[w], &none),
                     run_beside_a_prompt(two.engine, &turn_ways[w], &in_turns), "%s",
                     turn_ways[w].rule);
        cr_expect(none == 0 && in_turns > 4, "%d, %d", (int)none, (int)in_turns);
        close_fixture(&one);
        close_fixture(&two);
    }
}

/* Three prompts are fed by themselves, a forward of each model a step, and one of them is cancelled
 * at a chunk or in a round: the others have the tokens that each has alone. */
Test(cuda_turns, a_prompt_is_cancelled_at_any_chunk)
{
    fixture alone = open_turns(0, SPC_OVERLAP_OFF), f = open_turns(0, SPC_OVERLAP_ON);
    spc_session_options o[3];
    prompt p[3];
    decoded expected[3];
    spc_error error;

    f.engine->scratch.rows = 8;
    for (int32_t i = 0; i < 3; i++) {
        o[i] = way_options(&turn_ways[i], 5 + (uint64_t)i);
        o[i].max_tokens = 8;
        p[i] = prompt_made(20 + 6 * i, VOCAB, 9 + (uint32_t)i);
        expected[i] = decode(alone.engine, &o[i], &p[i]);
    }
    for (int32_t at = 0; at < 13; at += 2) {
        spc_session *session[3];
        int32_t cancelled = at / 2 % 3, begun = -1;

        for (int32_t i = 0; i < 3; i++) session[i] = open_session(f.engine, &o[i], &p[i]);
        for (int32_t step = 0; step < 22; step++) {
            if (step == at) spc_session_cancel(session[cancelled]);
            (void)spc_engine_step(f.engine, session, 3, &error);
            if (begun < 0 && decoded_of(session[(cancelled + 1) % 3]).count > 0) begun = step;
        }
        cr_expect_geq(begun, 4, "%d", (int)begun);
        for (int32_t i = 0; i < 3; i++) {
            decoded d = decoded_of(session[i]);

            if (i == cancelled && d.finish == SPC_FINISH_CANCELLED) {
                cr_expect(begins_with(&d, &expected[i], d.count));
            } else {
                cr_expect(same_tokens(&d, &expected[i]), "session %d, step %d", (int)i, (int)at);
            }
            cr_expect(i != cancelled || at > begun || d.count == 0, "step %d", (int)at);
            spc_session_close(session[i]);
        }
    }
    close_fixture(&f);
    close_fixture(&alone);
}

/* While one half is to wait with what it sends, the other waits too: they go on together. */
Test(cuda_turns, halves_wait_together)
{
    fixture f = open_turns(0, SPC_OVERLAP_ON);
    spc_session *session[2];
    int32_t steps = 0;
    spc_error error;

    skip_without_chains();
    open_endless(f.engine, &turn_ways[3], session, 2);
    while (!session[0]->in_flight || !session[1]->in_flight) {
        cr_assert_lt(steps++, 8);
        (void)spc_engine_step(f.engine, session, 2, &error);
    }
    f.engine->chain[1].wait = SPC_CHAIN_FIRST;
    for (steps = 0; f.engine->chain[1].wait > 0; steps++) {
        (void)spc_engine_step(f.engine, session, 2, &error);
        cr_assert(!session[0]->in_flight && !session[1]->in_flight);
    }
    cr_expect_eq(steps, 1 + SPC_CHAIN_FIRST, "those in flight, and so many: %d", (int)steps);
    (void)spc_engine_step(f.engine, session, 2, &error);
    cr_expect(session[0]->in_flight && session[1]->in_flight);
    for (int32_t i = 0; i < 2; i++) spc_session_close(session[i]);
    close_fixture(&f);
}

/* Drafts begin before the other half's verdicts: no gap between the two, and no less than none. */
Test(cuda_turns, the_parts_of_rounds_in_turns_are_timed)
{
    fixture f = open_turns(0, SPC_OVERLAP_ON);
    const spc_round_clock *c = f.engine->ops->round_clock(f.engine->verifier.runner);
    uint64_t start = spc_now_ns(), most;
    spc_session *session[SESSIONS];
    spc_error error;

    skip_without_chains();
    open_endless(f.engine, &turn_ways[3], session, SESSIONS);
    for (int32_t step = 0; step < 14; step++) {
        (void)spc_engine_step(f.engine, session, SESSIONS, &error);
    }
    most = spc_now_ns() - start;
    cr_expect_gt(session[0]->counters.in_turns, 5);
    cr_expect(c->draft_ns > 0 && c->score_ns > 0 && c->decide_ns > 0);
    cr_expect(c->draft_ns < most && c->score_ns + c->decide_ns < most && c->gap_ns < most);
    for (int32_t i = 0; i < SESSIONS; i++) spc_session_close(session[i]);
    close_fixture(&f);
}

/* Sets of sessions that change from step to step, prompts in between. */
static uint64_t run_sets(spc_engine *engine, int64_t *in_turns)
{
    spc_session *session[SESSIONS];
    uint64_t hash = 0;
    uint32_t dice = 5;
    spc_error error;

    for (int32_t i = 0; i < SESSIONS; i++) {
        spc_session_options o = way_options(&turn_ways[i % TURN_WAYS], (uint64_t)i);
        prompt p = prompt_made(2 + i, VOCAB, 3 + (uint32_t)i);

        o.max_tokens = 0;
        o.ignore_stop = true;
        session[i] = open_session(engine, &o, &p);
    }
    for (int32_t action = 0; action < 12; action++) {
        spc_session *group[SESSIONS];
        prompt again = {{3, 5}, 2};
        int32_t count = 0;
        uint32_t members;

        dice = dice * 1664525u + 1013904223u;
        members = action % 3 == 2 ? dice >> 20 : ~0u;
        for (int32_t i = 0; i < SESSIONS; i++) {
            if (members >> i & 1) group[count++] = session[i];
        }
        for (int32_t h = 0; h < 2; h++) engine->chain[h].wait = engine->chain[h].patience = 0;
        for (int32_t step = 0; step < 3 && count > 0; step++) {
            (void)spc_engine_step(engine, group, count, &error);
            *in_turns += session[0]->in_flight && session[0]->in_turns;
        }
        if (action != 5) continue;
        cr_assert_eq(spc_session_restart(session[1], again.id, again.count, &error), SPC_OK);
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        decoded d = decoded_of(session[i]);

        hash = (hash ^ d.stats.output_hash) * 0x9e3779b97f4a7c15u;
        spc_session_close(session[i]);
    }
    return hash;
}

Test(cuda_turns, whatever_is_stepped_the_texts_are_the_same)
{
    fixture one = open_turns(0, SPC_OVERLAP_OFF), two = open_turns(0, SPC_OVERLAP_ON);
    int64_t none = 0, in_turns = 0;

    skip_without_chains();
    cr_expect_eq(run_sets(one.engine, &none), run_sets(two.engine, &in_turns));
    cr_expect(none == 0 && in_turns > 5, "%d, %d", (int)none, (int)in_turns);
    close_fixture(&one);
    close_fixture(&two);
}

/* ---- which way ---- */

static uint64_t stands_at(void *user)
{
    return *(uint64_t *)user;
}

/* The last step of a block sends nothing along, and is counted like the others: the next block
 * begins, whichever way it goes. */
Test(cuda_turns, a_block_of_steps_ends)
{
    skip_without_chains();
    for (int32_t on = 0; on < 2; on++) {
        fixture f = open_turns(0, SPC_OVERLAP_AUTO);
        spc_session *session[2];
        uint64_t now = 1;
        int32_t in_flight = 0;
        spc_error error;

        f.engine->clock.now_ns = stands_at;
        f.engine->clock.user = &now;
        f.engine->turns.on = on == 1;
        open_endless(f.engine, &turn_ways[3], session, 2);
        for (int32_t step = 0; step < 14; step++) {
            if (step == 6) f.engine->turns.rounds = 60; /* of 64 */
            now += 1000;
            (void)spc_engine_step(f.engine, session, 2, &error);
            if (step >= 6) in_flight += session[0]->in_flight;
        }
        cr_expect_lt(f.engine->turns.rounds, 10, "%d", (int)f.engine->turns.rounds);
        cr_expect_neq(f.engine->turns.on, on == 1);
        cr_expect_geq(in_flight, 5, "%d of 8", (int)in_flight);
        for (int32_t i = 0; i < 2; i++) spc_session_close(session[i]);
        close_fixture(&f);
    }
}

/* On a clock that says so steps in turns are faster, or slower, and the faster way is kept. */
Test(cuda_turns, the_way_that_was_measured_to_be_faster_is_taken)
{
    enum { WARM = 140, STEPS = 190 };

    for (int32_t faster = 0; faster < 2; faster++) {
        fixture f = open_turns(0, SPC_OVERLAP_AUTO);
        uint64_t now = 1;
        int32_t in_turns = 0, steps = 0;
        spc_error error;

        f.engine->clock.now_ns = stands_at;
        f.engine->clock.user = &now;
        while (steps < STEPS) {
            spc_session *session[2];

            for (int32_t i = 0; i < 2; i++) {
                spc_session_options o = options_of("strict", 1, 1);
                prompt p = prompt_made(2, VOCAB, 3 + (uint32_t)i);

                o.seed = (uint64_t)i;
                o.ignore_stop = true;
                session[i] = open_session(f.engine, &o, &p);
            }
            while (session[0]->finish == SPC_FINISH_RUNNING &&
                   session[1]->finish == SPC_FINISH_RUNNING) {
                now += !session[0]->in_turns ? 1000 : faster ? 800 : 1200;
                (void)spc_engine_step(f.engine, session, 2, &error);
                steps++;
                if (steps > WARM) in_turns += session[0]->in_turns;
            }
            for (int32_t i = 0; i < 2; i++) spc_session_close(session[i]);
        }
        cr_expect_eq(in_turns > (steps - WARM) / 2, faster == 1, "%d of %d", (int)in_turns,
                     (int)steps - WARM);
        close_fixture(&f);
    }
}
