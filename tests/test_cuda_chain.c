/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_chain.c - rounds that are sent before the one in front of them has been seen: the
 * tokens and counters of rounds that wait for each other, whatever else the application does
 * meanwhile.
 *
 * Built twice, as test_cuda_whole.c is.  On the fibers the device does nothing before it is waited
 * for: memory that the host changes too early is seen changed. */
#include "whole_pair.h"

#include <cuda_runtime_api.h>

#ifdef SPC_TESTS_FIBER_RUNTIME_H
static void begin(void)
{
    fiber_gpu.late = true;
}

static void end(void)
{
    fiber_catch_up();
    fiber_gpu.late = false;
}
#else
static void begin(void)
{
}

static void end(void)
{
}
#endif

TestSuite(cuda_chain, .init = begin, .fini = end, .timeout = 280);

/* One that chains, or one that never does. */
static fixture open_chained(int32_t which, bool chained)
{
    fixture f = open_pair(which, false);

    f.engine->chain.off = !chained;
    return f;
}

/* ---- what is decoded ---- */

Test(cuda_chain, tokens_and_counters_are_those_of_rounds_by_themselves)
{
    for (int32_t m = 0; m < PAIRS; m++) {
        fixture apart = open_chained(m, false), chained = open_chained(m, true);
        int64_t rounds = 0, in_chains = 0, rejected = 0;

        for (int32_t i = 0; i < WAYS; i++) {
            for (uint64_t seed = (uint64_t)(i + m) % 3; seed < 3; seed += 2) {
                spc_session_options o = way_options(&ways[i], seed);
                prompt p = prompt_made(1 + (int32_t)seed, VOCAB, (uint32_t)(31 * i) + 7);
                decoded a, b;

                o.max_tokens = 24;
                a = decode(apart.engine, &o, &p);
                b = decode(chained.engine, &o, &p);
                expect_same(&a, &b, ways[i].rule, seed);
                cr_expect_eq(a.stats.chained, 0);
                rounds += b.stats.rounds;
                rejected += sum_of(b.stats.rejected);
                in_chains += b.stats.chained;
            }
        }
        cr_expect(rejected > 20 && in_chains > rounds / 3, "%d rejected, %d of %d rounds",
                  (int)rejected, (int)in_chains, (int)rounds);
        close_fixture(&apart);
        close_fixture(&chained);
    }
}

/* Sessions of other rules and draft lengths, all of which go on for long; they end by stops, one
 * after the other, and another one joins. */
static int64_t run_company(spc_engine *engine, decoded out[SESSIONS])
{
    spc_session *session[SESSIONS];
    spc_error error;
    int64_t chained = 0;

    for (int32_t i = 0; i < SESSIONS; i++) {
        spc_session_options o = way_options(&ways[(i * 2 + 1) % WAYS], 7 + (uint64_t)i);
        prompt p = prompt_made(2 + i, VOCAB, 3 + (uint32_t)i);

        o.max_tokens = 0;
        o.ignore_stop = i == 0;
        session[i] = open_session(engine, &o, &p);
    }
    for (int32_t step = 0; step < 24; step++) {
        (void)spc_engine_step(engine, session, step < 6 ? SESSIONS - 1 : SESSIONS, &error);
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        out[i] = decoded_of(session[i]);
        chained += out[i].stats.chained;
        spc_session_close(session[i]);
    }
    return chained;
}

Test(cuda_chain, company_that_ends_and_joins_is_the_same_too)
{
    int32_t ended = 0;

    for (int32_t m = 0; m < PAIRS; m++) {
        fixture apart = open_chained(m, false), chained = open_chained(m, true);
        decoded a[SESSIONS], b[SESSIONS];

        (void)run_company(apart.engine, a);
        cr_expect_gt(run_company(chained.engine, b), 8);
        for (int32_t i = 0; i < SESSIONS; i++) {
            expect_same(&a[i], &b[i], ways[(i * 2 + 1) % WAYS].rule, 7 + (uint64_t)i);
            ended += b[i].finish == SPC_FINISH_STOP_TOKEN;
        }
        close_fixture(&apart);
        close_fixture(&chained);
    }
    cr_expect(ended > 0 && ended < PAIRS * SESSIONS, "%d", (int)ended);
}

/* Verdicts at a given rate come from one place, wherever rounds run. */
Test(cuda_chain, synthetic_acceptance_is_that_of_composed_rounds)
{
    static const char *const rules[] = {"strict", "opt:alpha=0.2"};
    static const float rate = 0.7f;
    fixture composed = open_pair(WIDE_PAIR, true), chained = open_chained(WIDE_PAIR, true);
    int64_t accepted = 0, in_chains = 0;

    composed.engine->synthetic = chained.engine->synthetic = &rate;
    for (int32_t i = 0; i < 2; i++) {
        spc_session_options o = options_of(rules[i], 2, 0);
        prompt p = prompt_made(3, 4110, 3);
        decoded a, b;

        o.max_tokens = 20;
        o.ignore_stop = true;
        a = decode(composed.engine, &o, &p);
        b = decode(chained.engine, &o, &p);
        expect_same(&a, &b, rules[i], 0);
        accepted += sum_of(a.stats.accepted);
        in_chains += b.stats.chained;
    }
    cr_expect(accepted > 14 && accepted < 30, "%d of about 26 drafts", (int)accepted);
    cr_expect_gt(in_chains, 2);
    close_fixture(&composed);
    close_fixture(&chained);
}

/* ---- what nobody asks for ---- */

/* Step a session until its next round flies; it must not end before. */
static void step_until_it_flies(spc_engine *engine, spc_session *session)
{
    spc_error error;

    engine->chain.wait = 0;
    do {
        cr_assert_eq(spc_session_step(session, &error), SPC_OK, "%s", error.message);
        cr_assert_eq(spc_session_finish(session), SPC_FINISH_RUNNING);
    } while (!session->flies);
}

static spc_session_options long_options(uint64_t seed)
{
    spc_session_options o = options_of("token-v3:alpha=0.5", 2, 1);

    o.seed = seed;
    o.ignore_stop = true;
    return o;
}

/* A session that begins anew with as many tokens and the same last one, another seed, another last
 * one; one that takes the place of one that was closed; one that is stepped in between. */
Test(cuda_chain, a_round_that_flies_serves_the_one_it_was_sent_for_alone)
{
    fixture f = open_chained(0, true), g = open_chained(0, false);
    spc_session_options o = long_options(3);
    prompt p = {{3, 4, 5}, 3}, other = {{3, 6, 5, 4}, 4};

    for (int32_t i = 0; i < 4; i++) {
        spc_session *session = open_session(f.engine, &o, &p), *second = NULL;
        spc_error error;
        prompt again = p;
        decoded a, b;

        step_until_it_flies(f.engine, session);
        step_until_it_flies(f.engine, session);
        if (i == 0) { /* the same length and the same last token behind another one */
            b = decoded_of(session);
            memcpy(again.id + 3, b.token, (size_t)b.count * sizeof *b.token);
            again.count += b.count;
            again.id[1] = 6;
            cr_assert_eq(spc_session_restart(session, again.id, again.count, &error), SPC_OK);
        } else if (i == 1) { /* the same prompt: another length by now */
            cr_assert_eq(spc_session_restart(session, p.id, p.count, &error), SPC_OK);
        } else if (i == 2) { /* in the same slot */
            spc_session_close(session);
            session = open_session(f.engine, &o, &other);
            again = other;
        } else { /* its rounds are between those of another one */
            second = open_session(f.engine, &o, &other);
            step_until_it_flies(f.engine, second);
        }
        (void)spc_session_run(session, &error);
        b = decoded_of(session);
        spc_session_close(session);
        spc_session_close(second);
        a = decode(g.engine, &o, &again);
        cr_expect(same_tokens(&a, &b), "way %d", (int)i);
    }
    close_fixture(&f);
    close_fixture(&g);
}

/* Draft lengths that are chosen stay chosen while a round flies. */
Test(cuda_chain, chosen_draft_lengths_give_the_same_greedy_text)
{
    fixture f = open_chained(0, true), g = open_chained(0, false);
    spc_session_options o = options_of("strict", SPC_GAMMA_AUTO, 0);
    prompt p = prompt_made(3, VOCAB, 1);
    decoded a, b;
    int64_t chosen = 0;

    o.ignore_stop = true;
    a = decode(g.engine, &o, &p);
    b = decode(f.engine, &o, &p);
    cr_expect(same_tokens(&a, &b));
    for (int32_t i = 0; i <= SPC_GAMMA_MAX; i++) chosen += b.stats.chosen[i];
    cr_expect_eq(chosen, b.stats.rounds);
    close_fixture(&f);
    close_fixture(&g);
}

Test(cuda_chain, an_engine_closes_while_a_round_flies)
{
    fixture f = open_chained(0, true);
    spc_session_options o = long_options(3);
    prompt p = {{3, 4, 5}, 3};
    spc_session *session = open_session(f.engine, &o, &p);

    step_until_it_flies(f.engine, session);
    spc_session_close(session);
    close_fixture(&f);
}

/* ---- how it runs: fibers only ---- */

#ifdef SPC_TESTS_FIBER_RUNTIME_H

/* Every round but the first and the last ones, whose drafts the budget may cut, is there when it is
 * asked for, and when it is waited for the next one lies behind it. */
Test(cuda_chain, the_device_has_the_next_round_while_the_host_looks_at_this_one)
{
    static const char *const rules[] = {"verifier-only", "strict"};

    for (int32_t i = 0; i < 2; i++) {
        fixture f = open_chained(0, true);
        spc_session_options o = options_of(rules[i], 2, 1);
        prompt p = prompt_made(3, VOCAB, 1);
        int waits = 0;
        decoded d;

        o.seed = 4;
        o.max_tokens = 24;
        o.ignore_stop = true;
        for (int32_t run = 0; run < 3; run++) { /* shapes are known from the second on */
            fiber_catch_up();
            fiber_gpu.most_left = 0;
            waits = fiber_gpu.waits;
            d = decode(f.engine, &o, &p);
        }
        cr_expect_geq(d.stats.chained, d.stats.rounds - 8, "%s: %d of %d", rules[i],
                      (int)d.stats.chained, (int)d.stats.rounds);
        cr_expect_leq(fiber_gpu.waits - waits, (int)d.stats.rounds + 4);
        cr_expect_gt(fiber_gpu.most_left, 1, "the next round's copies and launches");
        close_fixture(&f);
        cr_expect_eq(fiber_gpu.graphs, 0);
        cr_expect_eq(fiber_gpu.pinned, 0);
        cr_expect_eq(fiber_gpu.allocations, 0);
    }
}

/* All that was sent and is run is asked for, and what ended by a stop has nothing run behind it. */
Test(cuda_chain, no_round_is_run_for_a_sequence_that_ended)
{
    fixture f = open_chained(0, true);
    int32_t stopped = 0, chained = 0;

    for (uint64_t seed = 0; seed < 10; seed++) {
        spc_session_options o = way_options(&ways[0], seed);
        prompt p = prompt_made(3, VOCAB, (uint32_t)seed);
        int bodies = fiber_gpu.bodies;
        decoded d;

        o.max_tokens = 0;
        o.ignore_stop = false;
        d = decode(f.engine, &o, &p);
        fiber_catch_up();
        cr_expect_eq(fiber_gpu.bodies - bodies, (int)d.stats.chained, "seed %d", (int)seed);
        stopped += d.finish == SPC_FINISH_STOP_TOKEN;
        chained += (int32_t)d.stats.chained;
    }
    cr_expect(stopped > 3 && chained > 12, "%d stopped, %d chained", (int)stopped, (int)chained);
    close_fixture(&f);
}

Test(cuda_chain, where_no_graph_has_conditions_rounds_go_by_themselves)
{
    fixture f = open_chained(0, true);
    spc_session_options o = long_options(2);
    prompt p = prompt_made(3, VOCAB, 1);
    decoded a = decode(f.engine, &o, &p), b;

    cr_expect_gt(a.stats.chained, 0);
    close_fixture(&f);
    fiber_gpu.no_condition = true;
    f = open_chained(0, true);
    b = decode(f.engine, &o, &p);
    expect_same(&a, &b, "token-v3", 2);
    cr_expect_eq(b.stats.chained, 0);
    close_fixture(&f);
    fiber_gpu.no_condition = false;
}

#endif
