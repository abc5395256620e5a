/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_chain.c - rounds that are sent before the one in front of them has been seen: the
 * tokens and counters of rounds that wait for each other, whatever else the application does
 * meanwhile.
 *
 * Built twice, as test_cuda_fused.c is.  On the fibers the device does nothing before it is waited
 * for: memory that the host changes too early is seen changed. */
#include "fused_pair.h"

#include <signal.h>

TestSuite(cuda_chain, .init = late_begin, .fini = late_end, .timeout = 280);

/* One that chains, or one that never does. */
static fixture open_chained(int32_t which, bool chained)
{
    fixture f = open_pair(which, false);

    f.engine->chain[0].off = !chained;
    return f;
}

/* ---- what is decoded ---- */

Test(cuda_chain, tokens_and_counters_are_those_of_rounds_by_themselves)
{
    skip_without_chains();
    for (int32_t m = 0; m < PAIRS; m++) {
        fixture apart = open_chained(m, false), chained = open_chained(m, true);
        tally t = decode_alike(&apart, &chained, m, 24);

        cr_expect(t.rejected > 20 && t.chained > t.rounds / 3, "%d rejected, %d of %d rounds",
                  (int)t.rejected, (int)t.chained, (int)t.rounds);
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

    skip_without_chains();
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

/* Of so many lanes one block has not a thread for each number that is put right. */
Test(cuda_chain, a_large_company_is_the_same_too)
{
    enum { MANY = 10, DRAFTED = 7 };
    uint64_t hash[2] = {0, 0};
    int64_t chained = 0;

    skip_without_chains();
    for (int32_t on = 0; on < 2; on++) {
        fixture f = open_pair_for(0, false, MANY, false);
        spc_session *session[MANY];
        spc_error error;

        f.engine->chain[0].off = on == 0;
        for (int32_t i = 0; i < MANY; i++) {
            spc_session_options o = options_of("strict", DRAFTED, 1);
            prompt p = prompt_made(2 + i % 3, VOCAB, 3 + (uint32_t)i);

            o.seed = (uint64_t)i;
            o.ignore_stop = true;
            session[i] = open_session(f.engine, &o, &p);
        }
        for (int32_t step = 0; step < 6; step++) {
            (void)spc_engine_step(f.engine, session, MANY, &error);
        }
        for (int32_t i = 0; i < MANY; i++) {
            decoded d = decoded_of(session[i]);

            hash[on] = (hash[on] ^ d.stats.output_hash) * 0x9e3779b97f4a7c15u;
            chained += d.stats.chained;
            spc_session_close(session[i]);
        }
        close_fixture(&f);
    }
    cr_expect_eq(hash[0], hash[1]);
    cr_expect_geq(chained, 2 * MANY, "%d", (int)chained);
}

/* Verdicts at a given rate come from one place, wherever rounds run. */
Test(cuda_chain, synthetic_acceptance_is_that_of_composed_rounds)
{
    static const char *const rules[] = {"strict", "opt:alpha=0.2"};
    static const float rate = 0.7f;
    fixture composed = open_pair(WIDE_PAIR, true), chained = open_chained(WIDE_PAIR, true);
    int64_t accepted = 0, in_chains = 0;

    skip_without_chains();
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

/* Step a session until its next round is in flight; it must not end before. */
static void step_until_it_flies(spc_engine *engine, spc_session *session)
{
    spc_error error;

    engine->chain[0].wait = 0;
    do {
        cr_assert_eq(spc_session_step(session, &error), SPC_OK, "%s", error.message);
        cr_assert_eq(spc_session_finish(session), SPC_FINISH_RUNNING);
    } while (!session->in_flight);
}

static spc_session_options long_options(uint64_t seed)
{
    spc_session_options o = options_of("token-v3:alpha=0.5", 2, 1);

    o.seed = seed;
    o.ignore_stop = true;
    return o;
}

/* A session that begins anew with as many tokens, of which one within or the last is another; one
 * that takes the place of one that was closed; one that is stepped in between. */
Test(cuda_chain, a_round_that_flies_serves_the_one_it_was_sent_for_alone)
{
    fixture f = open_chained(0, true), g = open_chained(0, false);
    spc_session_options o = long_options(3);
    prompt p = {{3, 4, 5}, 3}, other = {{3, 6, 5, 4}, 4};

    skip_without_chains();
    for (int32_t i = 0; i < 5; i++) {
        spc_session *session = open_session(f.engine, &o, &p), *second = NULL;
        spc_error error;
        prompt again = p;
        decoded a, b;

        step_until_it_flies(f.engine, session);
        step_until_it_flies(f.engine, session);
        if (i == 0 || i == 4) { /* the same length behind another token, with another last one */
            b = decoded_of(session);
            memcpy(again.id + 3, b.token, (size_t)b.count * sizeof *b.token);
            again.count += b.count;
            if (i == 0) again.id[1] = 6;
            if (i == 4) again.id[again.count - 1] = (again.id[again.count - 1] + 1) % VOCAB;
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

/* What an application may do, by dice. */
typedef struct {
    spc_session *session[SESSIONS];
    int32_t left[SESSIONS]; /* tokens until its callback ends it */
    uint64_t hash;          /* of all texts and how they ended */
    int64_t chained;
    uint32_t dice;
} script;

static uint32_t throw_dice(script *s, uint32_t below)
{
    s->dice = s->dice * 1664525u + 1013904223u;
    return (s->dice >> 9) % below;
}

static bool end_after(void *user, const spc_token *token)
{
    int32_t *left = user;

    (void)token;
    return --*left > 0;
}

static void note_session(script *s, const spc_session *session)
{
    decoded d = decoded_of(session);

    s->hash = (s->hash ^ d.stats.output_hash ^ (uint64_t)d.finish) * 0x9e3779b97f4a7c15u;
    s->chained += d.stats.chained;
}

static void open_another(script *s, spc_engine *engine, uint32_t i)
{
    spc_session_options o = way_options(&ways[throw_dice(s, WAYS)], throw_dice(s, 5));
    prompt p = prompt_made(1 + (int32_t)throw_dice(s, 20), VOCAB, throw_dice(s, 3));

    if (s->session[i]) note_session(s, s->session[i]);
    spc_session_close(s->session[i]);
    o.max_tokens = throw_dice(s, 2) ? 0 : 4 + (int32_t)throw_dice(s, 24);
    s->left[i] = throw_dice(s, 4) ? 1000 : 2 + (int32_t)throw_dice(s, 20);
    o.on_token = end_after;
    o.user = &s->left[i];
    s->session[i] = open_session(engine, &o, &p);
}

/* Another prompt, or all that there is and one token more. */
static void begin_anew(script *s, uint32_t i)
{
    prompt p = prompt_made(1 + (int32_t)throw_dice(s, 20), VOCAB, throw_dice(s, 3));
    spc_error error;
    decoded d = decoded_of(s->session[i]);

    note_session(s, s->session[i]);
    for (int32_t k = 0; throw_dice(s, 2) && k < d.count && p.count < 30; k++) {
        p.id[p.count++] = d.token[k];
    }
    s->left[i] = 1000;
    cr_assert_eq(spc_session_restart(s->session[i], p.id, p.count, &error), SPC_OK, "%s",
                 error.message);
}

static script run_script(int32_t pair, uint32_t seed, bool chained)
{
    enum { ACTIONS = 14, STEPS = 3 };
    fixture f = open_chained(pair, chained);
    script s = {.dice = seed};
    spc_error error;

    f.engine->prefix_off = pair == 1; /* its encoder */
    for (int32_t action = 0; action < ACTIONS; action++) {
        spc_session *group[SESSIONS];
        uint32_t what = throw_dice(&s, 8), i = throw_dice(&s, SESSIONS);
        uint32_t members = throw_dice(&s, 4) ? ~0u : throw_dice(&s, 1u << SESSIONS);
        int32_t count = 0;

        if (!s.session[i] || what == 0) {
            open_another(&s, f.engine, i);
        } else if (what == 1) {
            begin_anew(&s, i);
        } else if (what == 2) {
            spc_session_cancel(s.session[i]);
        }
        for (int32_t k = 0; k < SESSIONS; k++) {
            if (s.session[k] && (members >> k & 1)) group[count++] = s.session[k];
        }
        f.engine->chain[0].wait = f.engine->chain[0].patience = 0;
        for (int32_t step = 0; step < STEPS && count > 0; step++) {
            (void)spc_engine_step(f.engine, group, count, &error);
        }
    }
    for (int32_t k = 0; k < SESSIONS; k++) {
        if (s.session[k]) note_session(&s, s.session[k]);
        spc_session_close(s.session[k]);
    }
    close_fixture(&f);
    return s;
}

Test(cuda_chain, whatever_an_application_does_the_texts_are_the_same)
{
    int64_t chained = 0;

    skip_without_chains();
    for (uint32_t seed = 1; seed <= 6; seed++) {
        script a = run_script((int32_t)(seed % 3), seed, false);
        script b = run_script((int32_t)(seed % 3), seed, true);

        cr_expect_eq(a.hash, b.hash, "seed %d", (int)seed);
        chained += b.chained;
    }
    cr_expect_gt(chained, 30);
}

/* Draft lengths that are chosen stay chosen while a round is in flight. */
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

/* Tenths of the time that rounds take at least: a device's are short beside the opening of a
 * session. */
#ifdef SPC_TESTS_FIBER_RUNTIME_H
enum { IN_ROUNDS = 9 };
#else
enum { IN_ROUNDS = 5 };
#endif

/* What a session says of its time is the time its steps took. */
Test(cuda_chain, times_add_up)
{
    fixture f = open_chained(WIDE_PAIR, true);
    spc_session_options o = options_of("opt:alpha=0.2", 1, 1);
    prompt p = prompt_made(3, VOCAB, 1);
    uint64_t wall = 0, told = 0;
    int64_t chained = 0;

    skip_without_chains();
    o.ignore_stop = true;
    for (int32_t run = 0; run < 2; run++) {
        uint64_t start = spc_now_ns();
        decoded d = decode(f.engine, &o, &p);

        wall += spc_now_ns() - start;
        told += d.stats.draft_ns + d.stats.verify_ns + d.stats.other_ns;
        chained += d.stats.chained;
    }
    cr_expect_gt(chained, 10);
    cr_expect_leq(told, wall);
    cr_expect_geq(told, wall / 10 * IN_ROUNDS, "%g of %g ms", (double)told * 1e-6,
                  (double)wall * 1e-6);
    close_fixture(&f);
}

/* A choice that chooses nothing costs no chain. */
Test(cuda_chain, a_verifier_alone_is_chained_under_any_draft_length)
{
    int64_t chained[2];

    skip_without_chains();
    for (int32_t i = 0; i < 2; i++) {
        fixture f = open_chained(0, true);
        spc_session_options o = options_of("verifier-only", i == 0 ? 0 : SPC_GAMMA_AUTO, 1);
        prompt p = prompt_made(3, VOCAB, 1);

        o.ignore_stop = true;
        chained[i] = decode(f.engine, &o, &p).stats.chained;
        close_fixture(&f);
    }
    cr_expect_eq(chained[0], chained[1], "%d, %d", (int)chained[0], (int)chained[1]);
    cr_expect_gt(chained[0], 20);
}

Test(cuda_chain, an_engine_closes_while_a_round_flies)
{
    fixture f = open_chained(0, true);
    spc_session_options o = long_options(3);
    prompt p = {{3, 4, 5}, 3};
    spc_session *session = open_session(f.engine, &o, &p);

    skip_without_chains();
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

/* A leaf of attention has 64 keys: were there a graph for each number of leaves, and for each draft
 * that is the first in a new one, every sixth round would need another. */
Test(cuda_chain, a_sequence_that_grows_needs_few_graphs)
{
    enum { PROMPT = 500, TOKENS = 96 };
    fixture f = open_pair_of(0, false, 1, false, 800);
    spc_session_options o = options_of("strict", 4, 1);
    prompt p = prompt_made(PROMPT, VOCAB, 1);
    decoded d;

    o.max_tokens = TOKENS;
    o.ignore_stop = true;
    d = decode(f.engine, &o, &p);
    cr_expect_eq(d.finish, SPC_FINISH_MAX_TOKENS);
    /* but for the prompt's, the last ones', and two for each of three reaches */
    cr_expect_geq(d.stats.chained, d.stats.rounds - 13, "%d of %d", (int)d.stats.chained,
                  (int)d.stats.rounds);
    cr_expect_leq(fiber_gpu.graphs, 7, "%d", fiber_gpu.graphs);
    close_fixture(&f);
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
    int early;

    if (fiber_gpu.code < 90) cr_skip_test("kernels of this code do not begin early");
    cr_expect_gt(a.stats.chained, 0);
    close_fixture(&f);
    fiber_gpu.no_condition = true;
    f = open_chained(0, true);
    b = decode(f.engine, &o, &p);
    expect_same(&a, &b, "token-v3", 2);
    cr_expect_eq(b.stats.chained, 0);
    early = fiber_gpu.early;
    (void)decode(f.engine, &o, &p);
    cr_expect_gt(fiber_gpu.early, early, "kernels that begin early are not to blame");
    close_fixture(&f);
    fiber_gpu.no_condition = false;
    cr_expect_eq(cudaGetLastError(), cudaSuccess, "an application would find it");
}

/* What lies on the device is for kernels and copies, and for no line of the host; what lies on the
 * host is for no kernel. */
Test(cuda_chain, the_host_touches_no_memory_of_the_device)
{
    fixture f = open_chained(0, true);
    spc_session_options o = long_options(2);
    prompt p = prompt_made(3, VOCAB, 1);
    decoded a = decode(f.engine, &o, &p), b;

    close_fixture(&f);
    fiber_gpu.guarded = true;
    for (int composed = 0; composed < 2; composed++) {
        f = open_pair(0, composed == 1);
        for (int i = 0; i < 2 - composed; i++) {
            b = decode(f.engine, &o, &p);
            expect_same(&a, &b, "token-v3", 2);
        }
        close_fixture(&f);
    }
    fiber_gpu.guarded = false;
}

Test(cuda_chain, and_it_would_be_noticed, .signal = SIGSEGV)
{
    fixture f;

    fiber_gpu.guarded = true;
    f = open_chained(0, true);
    cr_expect_neq(f.engine->verifier.runner->logits[0], 0.0f);
}

/* A driver might take kernels that begin early, but not in bodies of conditional nodes. */
Test(cuda_chain, where_bodies_have_no_early_kernels_other_graphs_do)
{
    fixture f = open_chained(0, true);
    spc_session_options o = long_options(2);
    prompt p = prompt_made(3, VOCAB, 1);
    decoded a = decode(f.engine, &o, &p), b;
    const char *said;
    int early;

    if (fiber_gpu.code < 90) cr_skip_test("kernels of this code do not begin early");
    close_fixture(&f);
    fiber_gpu.no_early_inside = true;
    f = open_chained(0, true);
    for (int i = 0; i < 3; i++) {
        early = fiber_gpu.early;
        b = decode(f.engine, &o, &p);
        expect_same(&a, &b, "token-v3", 2);
        cr_expect_gt(b.stats.chained, 0);
    }
    cr_expect_gt(fiber_gpu.early, early, "prompts are no bodies");
    said = f.engine->ops->notice(f.engine->backend);
    cr_assert_not_null(said, "most of what decodes is in bodies");
    cr_expect(strstr(said, ": bodies of conditional nodes cannot"), "%s", said);
    said = f.engine->ops->notice(f.engine->backend);
    cr_expect_null(said, "%s", said);
    close_fixture(&f);
    fiber_gpu.no_early_inside = false;
    cr_expect_eq(cudaGetLastError(), cudaSuccess, "an application would find it");
}

/* It might refuse them when a body is recorded, and what is told there comes too late. */
Test(cuda_chain, what_bodies_refuse_is_found_out_ahead_of_them)
{
    fixture f = open_chained(0, true);
    spc_session_options o = long_options(2);
    prompt p = prompt_made(3, VOCAB, 1);
    decoded a = decode(f.engine, &o, &p), b;
    const char *said;
    int graphs;

    if (fiber_gpu.code < 90) cr_skip_test("kernels of this code do not begin early");
    close_fixture(&f);
    graphs = fiber_gpu.graphs;
    fiber_gpu.no_early_body = true;
    f = open_chained(0, true);
    for (int i = 0; i < 3; i++) {
        b = decode(f.engine, &o, &p);
        expect_same(&a, &b, "token-v3", 2);
        cr_expect_gt(b.stats.chained, 0);
    }
    said = f.engine->ops->notice(f.engine->backend);
    cr_assert_not_null(said);
    cr_expect(strstr(said, ": bodies of conditional nodes cannot"), "%s", said);
    close_fixture(&f);
    cr_expect_eq(fiber_gpu.graphs, graphs + 1, "one that may not be destroyed");
    fiber_gpu.no_early_body = false;
    fiber_gpu.graphs = graphs;
    cr_expect_eq(cudaGetLastError(), cudaSuccess, "an application would find it");
}

/* A recording that fails half way is forgotten, and the device with it unharmed. */
Test(cuda_chain, a_body_that_cannot_be_recorded_is_done_without)
{
    fixture f = open_chained(0, true);
    spc_session_options o = options_of("strict", 2, 0);
    prompt p = prompt_made(3, VOCAB, 1);
    decoded a = decode(f.engine, &o, &p), b;

    close_fixture(&f);
    fiber_gpu.no_body = true;
    f = open_chained(0, true);
    b = decode(f.engine, &o, &p);
    expect_same(&a, &b, "strict", 0);
    cr_expect_eq(b.stats.chained, 0);
    close_fixture(&f);
    fiber_gpu.no_body = false;
}

/* It is tried outside of bodies first: a capture that is lost there harms nobody. */
Test(cuda_chain, what_cannot_be_recorded_is_launched_plainly)
{
    fixture f = open_chained(0, true);
    spc_session_options o = options_of("strict", 2, 0);
    prompt p = prompt_made(3, VOCAB, 1);
    decoded a = decode(f.engine, &o, &p), b;
    int replays;

    close_fixture(&f);
    replays = fiber_gpu.replays;
    fiber_gpu.no_record = true;
    f = open_chained(0, true);
    b = decode(f.engine, &o, &p);
    expect_same(&a, &b, "strict", 0);
    cr_expect_eq(b.stats.chained, 0);
    close_fixture(&f);
    fiber_gpu.no_record = false;
    cr_expect(fiber_gpu.replays == replays && fiber_gpu.graphs == 0);
}

/* A sequence that ended in its first round stays in the batch until the host has seen it: its rows
 * stay where its pages are.  In front of its first page lies position 15 of another one, where
 * nobody has come yet. */
Test(cuda_chain, what_ended_writes_into_its_own_pages_alone)
{
    enum { BROKEN = 5, WHOLE = 3, RUNS = 7 }; /* shapes are known after some runs */
    fixture f = open_chained(0, true);
    const tiny_model *tiny = &f.verifier;
    const spc_weight *w = &tiny->plan->weight[tiny->plan->op[0].weight[0]];
    float *row = (float *)(uintptr_t)spc_bundle_find(tiny->bundle, w->name)->data;
    spc_limits limits = spc_engine_limits(SESSIONS, CONTEXT);
    const spc_runner *d = f.engine->drafter.runner;
    const spc_config *c = &d->plan->config;
    int32_t looked_at = 0;
    spc_error error;

    for (int32_t k = 0; k < w->cols; k++) row[BROKEN * w->cols + k] = NAN;
    f.engine->ops->unload(f.engine->verifier.runner);
    cr_assert_eq(f.engine->ops->load(f.engine->backend, tiny->plan, tiny->bundle, &limits,
                                     &f.engine->verifier.runner, &error),
                 SPC_OK, "%s", error.message);
    for (int32_t run = 0; run < RUNS; run++) {
        spc_session_options o = options_of("strict", 2, 0);
        prompt p[2] = {{{3}, 1}, {{run < WHOLE ? 4 : BROKEN}, 1}};
        spc_session *s[2];
        const float *in_front;
        float before[64];

        o.ignore_stop = true;
        f.engine->chain[0] = (spc_chain){0};
        for (int32_t k = 0; k < 2; k++) s[k] = open_session(f.engine, &o, &p[k]);
        fiber_catch_up();
        in_front = (const float *)d->cache.value + s[1]->page[0] * c->layers * spc_kv_layer(c) -
                   c->head_dim;
        if (s[1]->page[0] > 0) memcpy(before, in_front, (size_t)c->head_dim * sizeof *before);
        for (int32_t step = 0; step < 3; step++) (void)spc_engine_step(f.engine, s, 2, &error);
        fiber_catch_up();
        cr_expect_eq(s[1]->finish, run < WHOLE ? SPC_FINISH_RUNNING : SPC_FINISH_FAILED);
        looked_at += s[1]->page[0] > 0 && run >= WHOLE;
        if (s[1]->page[0] > 0) {
            cr_expect_eq(memcmp(before, in_front, (size_t)c->head_dim * sizeof *before), 0,
                         "run %d", (int)run);
        }
        for (int32_t k = 0; k < 2; k++) spc_session_close(s[k]);
    }
    cr_expect_gt(looked_at, 0);
    close_fixture(&f);
}

#endif
