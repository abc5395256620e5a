/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_fused.c - rounds that run on the device as one graph each, against the same composed
 * from the verbs: tokens, counters, errors.  Tiny random pairs, whose few tokens make stops, full
 * acceptance and rejections at every position frequent.
 *
 * Built twice, as test_cuda_backend.c is; on the fibers it also counts graphs and waits. */
#include "fused_pair.h"

#include <cuda_runtime_api.h>
#include <math.h>

/* ---- one session ---- */

Test(cuda_fused, rounds_as_a_whole_are_those_composed_from_the_verbs, .timeout = 280)
{
    for (int32_t m = 0; m < PAIRS; m++) {
        fixture plain = open_pair(m, true), fused = open_pair(m, false);
        tally t = decode_alike(&plain, &fused, m, 0);

        cr_expect(t.accepted > 15 && t.rejected > 15 && t.bonus > 15 && t.stopped > 1,
                  "they should meet all of it: %d, %d, %d, %d", (int)t.accepted, (int)t.rejected,
                  (int)t.bonus, (int)t.stopped);
        close_fixture(&plain);
        close_fixture(&fused);
    }
}

Test(cuda_fused, rows_of_several_tiles_are_the_same_too, .timeout = 280)
{
    static const int32_t chosen[] = {1, 7, 6};
    fixture plain = open_pair(WIDE_PAIR, true), fused = open_pair(WIDE_PAIR, false);
    int64_t accepted = 0;

    for (uint64_t i = 0; i < sizeof chosen / sizeof *chosen; i++) {
        spc_session_options o = way_options(&ways[chosen[i]], 2 + 3 * i);
        prompt p = prompt_made(3, 4110, 3);
        decoded a, b;

        o.max_tokens = 5;
        if (i == 1) o.top_p = 0.8f;
        a = decode(plain.engine, &o, &p);
        b = decode(fused.engine, &o, &p);
        expect_same(&a, &b, o.rule, o.seed);
        accepted += sum_of(a.stats.accepted);
    }
    cr_expect_gt(accepted, 0);
    close_fixture(&plain);
    close_fixture(&fused);
}

/* ---- ahead of verification ---- */

/* Drafts of the next round drawn meanwhile are those it would have drawn. */
Test(cuda_fused, drafting_ahead_changes_no_token, .timeout = 280)
{
    static const way ahead_ways[] = {
        {"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
        {"token-v1:alpha=0.3", 2, 0.7f, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
        {"token-v2:alpha=0.9", 1, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN}};
    int64_t drawn = 0, used = 0;

    for (int32_t m = 0; m < PAIRS; m++) {
        fixture plain = open_pair(m, true), fused = open_pair(m, false);

        fused.engine->overlap.mode = SPC_OVERLAP_ON;
        for (size_t i = 0; i < sizeof ahead_ways / sizeof *ahead_ways; i++) {
            for (uint64_t seed = 1; seed < 3; seed++) {
                spc_session_options o = way_options(&ahead_ways[i], seed);
                prompt p = prompt_made(2, VOCAB, (uint32_t)(17 * i) + 3);
                decoded a, b;

                o.max_tokens = 14;
                a = decode(plain.engine, &o, &p);
                b = decode(fused.engine, &o, &p);
                cr_expect_eq(a.stats.drafted_ahead, 0);
                drawn += b.stats.drafted_ahead;
                used += b.stats.ahead_used;
                b.stats.drafted_ahead = b.stats.ahead_used = 0;
                expect_same(&a, &b, ahead_ways[i].rule, seed);
            }
        }
        close_fixture(&plain);
        close_fixture(&fused);
    }
    cr_expect(used > 5 && drawn > used, "%d of %d", (int)used, (int)drawn);
}

/* Have drafts of its next round been drawn?  Asserts that it goes on. */
static bool lies_ready(const spc_engine *engine, const spc_session *session)
{
    const spc_ahead *a = &engine->drafter.runner->ahead.drafts;

    cr_assert_eq(spc_session_finish(session), SPC_FINISH_RUNNING);
    return a->count > 0 && a->slot == session->slot && a->length == session->length;
}

/* A session that begins anew with another last token, another that takes its slot, company that
 * comes and goes: what was drawn ahead is forgotten. */
Test(cuda_fused, what_was_drawn_ahead_serves_its_own_round_alone, .timeout = 280)
{
    decoded d[2][3];
    int64_t drawn = 0;
    int32_t solo = 0; /* steps until drafts lie ready */

    for (int32_t i = 1; i >= 0; i--) {
        fixture f = open_pair(ALIKE, i == 0);
        spc_session_options o = way_options(&ways[3], 2);
        spc_session *session[2];
        spc_error error;
        prompt p = {{3, 4}, 2};

        f.engine->overlap.mode = SPC_OVERLAP_ON;
        o.max_tokens = 0;
        session[0] = open_session(f.engine, &o, &p);
        for (int32_t step = 0; step < 4; step++) {
            cr_assert_eq(spc_session_step(session[0], &error), SPC_OK, "%s", error.message);
        }
        o.seed++;
        session[1] = open_session(f.engine, &o, &p);
        for (int32_t step = 0; step < 5; step++) { /* by itself, in company, by itself ... */
            cr_assert_eq(spc_engine_step(f.engine, session, 1 + step % 2, &error), SPC_OK);
        }
        for (int32_t step = 0; i == 1 ? !lies_ready(f.engine, session[0]) : step < solo; step++) {
            cr_assert_eq(spc_session_step(session[0], &error), SPC_OK, "%s", error.message);
            if (i == 1) solo++;
        }
        d[i][0] = decoded_of(session[0]);
        d[i][1] = decoded_of(session[1]);

        prompt again = {{3, 4}, 2};

        again.count += d[i][0].count - 1;
        memcpy(again.id + 2, d[i][0].token, (size_t)(d[i][0].count - 1) * sizeof(int32_t));
        again.id[again.count++] = (d[i][0].token[d[i][0].count - 1] + 1) % VOCAB;
        cr_assert_eq(spc_session_restart(session[0], again.id, again.count, &error), SPC_OK);
        for (int32_t step = 0; step < 3; step++) {
            cr_assert_eq(spc_session_step(session[0], &error), SPC_OK, "%s", error.message);
        }
        d[i][2] = decoded_of(session[0]);
        drawn += d[i][0].stats.drafted_ahead;
        for (int32_t k = 0; k < 2; k++) spc_session_close(session[k]);
        close_fixture(&f);
    }
    cr_expect_gt(drawn, 0);
    for (int32_t k = 0; k < 3; k++)
        cr_expect(same_tokens(&d[0][k], &d[1][k]), "session %d", (int)k);
}

/* What was drawn ahead has rows of logits in one bank, then in the other; rounds of another session
 * in between write one of them. */
Test(cuda_fused, rounds_of_others_in_between_change_no_token, .timeout = 280)
{
    decoded d[2];

    for (int32_t i = 0; i < 2; i++) {
        fixture f = open_pair(ALIKE, i == 0);
        spc_session_options o = way_options(&ways[3], 2);
        spc_session *session[2];
        spc_error error;
        prompt p = prompt_made(2, VOCAB, 3), other = prompt_made(3, VOCAB, 8);

        f.engine->overlap.mode = SPC_OVERLAP_ON;
        o.max_tokens = 0;
        o.ignore_stop = true;
        session[0] = open_session(f.engine, &o, &p);
        o = way_options(&ways[1], 9); /* drafts nothing ahead */
        o.max_tokens = 0;
        o.ignore_stop = true;
        session[1] = open_session(f.engine, &o, &other);
        for (int32_t step = 0; session[0]->finish == SPC_FINISH_RUNNING; step++) {
            cr_assert_eq(spc_session_step(session[step % 3 == 2], &error), SPC_OK);
        }
        d[i] = decoded_of(session[0]);
        if (i == 1) cr_expect_gt(d[i].stats.ahead_used, 0);
        for (int32_t k = 0; k < 2; k++) spc_session_close(session[k]);
        close_fixture(&f);
    }
    cr_expect(same_tokens(&d[0], &d[1]));
}

/* ---- in company ---- */

/* Sessions of other rules, draft lengths and budgets, some joining late. */
static void run_company(spc_engine *engine, decoded out[SESSIONS])
{
    spc_session *session[SESSIONS];
    spc_error error;
    int32_t count = 2;

    for (int32_t i = 0; i < SESSIONS; i++) {
        spc_session_options o = way_options(&ways[(i * 3 + 1) % WAYS], 5 + (uint64_t)i);
        prompt p = prompt_made(2 + i, VOCAB, 3 + (uint32_t)i);

        o.max_tokens = 6 + 2 * i;
        o.ignore_stop = true;
        session[i] = open_session(engine, &o, &p);
    }
    for (int32_t step = 0; step < 16; step++, count = SESSIONS) {
        cr_assert_eq(spc_engine_step(engine, session, count, &error), SPC_OK, "%s", error.message);
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        out[i] = decoded_of(session[i]);
        spc_session_close(session[i]);
    }
}

Test(cuda_fused, company_of_any_kind_is_the_same_too, .timeout = 280)
{
    for (int32_t m = 0; m < PAIRS; m++) {
        fixture plain = open_pair(m, true), fused = open_pair(m, false);
        decoded a[SESSIONS], b[SESSIONS];

        run_company(plain.engine, a);
        run_company(fused.engine, b);
        for (int32_t i = 0; i < SESSIONS; i++) {
            cr_expect_eq(a[i].finish, SPC_FINISH_MAX_TOKENS);
            expect_same(&a[i], &b[i], ways[(i * 3 + 1) % WAYS].rule, 5 + (uint64_t)i);
        }
        close_fixture(&plain);
        close_fixture(&fused);
    }
}

/* ---- bad rows ---- */

/* The row of one token is NaN in one model or the other: the session ends where it met it, with the
 * same words, and its neighbour goes on. */
Test(cuda_fused, a_bad_row_ends_its_own_session_alone, .timeout = 280)
{
    enum { BROKEN = 5 };

    for (int32_t in_drafter = 0; in_drafter < 2; in_drafter++) {
        decoded d[2][2];
        int32_t failed = 0;

        for (int32_t i = 0; i < 2; i++) {
            fixture f = open_pair(0, i == 0);
            spc_model *model = in_drafter ? &f.engine->drafter : &f.engine->verifier;
            const tiny_model *tiny = in_drafter ? &f.drafter : &f.verifier;
            const spc_weight *w = &tiny->plan->weight[tiny->plan->op[0].weight[0]];
            float *row = malloc((size_t)w->cols * sizeof *row);
            spc_limits limits = spc_engine_limits(SESSIONS, CONTEXT);
            const spc_tensor *t = spc_bundle_find(tiny->bundle, w->name);
            spc_session *session[2];
            spc_error error;

            limits.plain = i == 0;
            for (int32_t k = 0; k < w->cols; k++) {
                row[k] = ((const float *)t->data)[BROKEN * w->cols + k];
                ((float *)(uintptr_t)t->data)[BROKEN * w->cols + k] = NAN;
            }
            f.engine->ops->unload(model->runner);
            cr_assert_eq(f.engine->ops->load(f.engine->backend, tiny->plan, tiny->bundle, &limits,
                                             &model->runner, &error),
                         SPC_OK, "%s", error.message);
            for (int32_t k = 0; k < 2; k++) {
                spc_session_options o = options_of("token-v3:alpha=0.5", 3, 1);
                prompt p = {{3, k == 0 ? 4 : 6}, 2};

                o.seed = 11 + (uint64_t)k;
                o.max_tokens = 10;
                session[k] = open_session(f.engine, &o, &p);
            }
            for (int32_t step = 0; step < 12; step++) {
                (void)spc_engine_step(f.engine, session, 2, &error);
            }
            for (int32_t k = 0; k < 2; k++) {
                d[i][k] = decoded_of(session[k]);
                failed += d[i][k].finish == SPC_FINISH_FAILED;
                spc_session_close(session[k]);
            }
            free(row);
            close_fixture(&f);
        }
        cr_expect_geq(failed, 2, "token %d should be met", BROKEN);
        for (int32_t k = 0; k < 2; k++) {
            cr_expect(same_tokens(&d[0][k], &d[1][k]));
            cr_expect(same_counters(&d[0][k].stats, &d[1][k].stats));
            cr_expect_str_eq(d[0][k].error.message, d[1][k].error.message);
        }
    }
}

/* ---- how it runs: fibers only ---- */

#ifdef SPC_TESTS_FIBER_RUNTIME_H

/* Many rounds of one shape. */
static decoded run_long(spc_engine *engine, const char *rule, int32_t gamma)
{
    spc_session_options o = options_of(rule, gamma, 1);
    prompt p = prompt_made(3, VOCAB, 1);

    o.seed = 4;
    o.max_tokens = 20;
    o.ignore_stop = true;
    return decode(engine, &o, &p);
}

/* What the device's clock says of the parts of rounds, and that looking changes nothing. */
Test(cuda_fused, the_parts_of_a_round_are_timed)
{
    fixture f = open_pair(0, false);
    decoded plain = run_long(f.engine, "opt:alpha=0.2", 2), timed;
    const spc_round_clock *c = f.engine->ops->round_clock(f.engine->verifier.runner);
    uint64_t start = spc_now_ns(), drafts;

    cr_expect_eq(c->rounds, 0);
    timed = run_long(f.engine, "opt:alpha=0.2", 2);
    expect_same(&plain, &timed, "opt", 4);
    cr_expect_eq(c->rounds, (uint64_t)timed.stats.rounds - 1, "all but the first, of a prompt");
    cr_expect(c->draft_ns > 0 && c->score_ns > 0 && c->decide_ns > 0);
    drafts = c->draft_ns;
    timed = run_long(f.engine, "verifier-only", 0);
    cr_expect_eq(c->draft_ns, drafts, "nothing is drawn");
    cr_expect_lt(c->draft_ns + c->score_ns + c->decide_ns, spc_now_ns() - start);
    close_fixture(&f);
}

Test(cuda_fused, a_round_is_one_graph_and_one_wait)
{
    fixture f = open_pair(0, false);
    decoded d = run_long(f.engine, "opt:alpha=0.2", 2);
    int waits = fiber_gpu.waits, bodies = fiber_gpu.bodies, launches, replays;

    cr_expect_eq(d.finish, SPC_FINISH_MAX_TOKENS);
    launches = fiber_gpu.launches;
    replays = fiber_gpu.replays;
    d = run_long(f.engine, "opt:alpha=0.2", 2); /* its shapes are known by now */
    waits = fiber_gpu.waits - waits;
    launches = fiber_gpu.launches - launches;
    replays = fiber_gpu.replays - replays;
    /* the first round feeds a prompt and is composed: a wait for each draft, a late one, a verdict
     */
    cr_expect_leq(waits, (int)d.stats.rounds + 4, "%d waits, %d rounds", waits,
                  (int)d.stats.rounds);
    cr_expect_geq(replays, (int)d.stats.rounds - 1);
    cr_expect_leq(launches - replays, 60, "plain ones: the first round's and the last one's");
    cr_expect_gt(fiber_gpu.bodies, bodies, "late rows ran inside");
    close_fixture(&f);
    cr_expect_eq(fiber_gpu.graphs, 0);
    cr_expect_eq(fiber_gpu.pinned, 0);
    cr_expect_eq(fiber_gpu.allocations, 0);
}

/* A tile of a row is a block's work, here of the only tile, and another decides: nobody works on
 * drafts that no round of this length has, neither where the verbs compose it nor where it is a
 * graph. */
Test(cuda_fused, rows_beyond_the_longest_draft_are_not_looked_at)
{
    for (int32_t plain = 0; plain < 2; plain++) {
        fixture f = open_pair(0, plain == 1);

        for (int32_t gamma = 3; gamma >= 0; gamma--) {
            fiber_gpu.together = 0;
            (void)run_long(f.engine, gamma > 0 ? "strict" : "verifier-only", gamma);
            cr_expect_eq(fiber_gpu.together, (gamma > 0 ? gamma : 1) + 1, "%d blocks for %d drafts",
                         fiber_gpu.together, (int)gamma);
        }
        close_fixture(&f);
    }
}

/* user: [512], receives lines */
static void note_line(void *user, const char *line)
{
    char *to = user;
    size_t length = strlen(to);

    (void)snprintf(to + length, 512 - length, "%s\n", line);
}

/* Without conditional nodes, whether they cannot be recorded or such a graph cannot be made to run,
 * the host starts late rows; without graphs it starts everything; that it does is told. */
Test(cuda_fused, devices_that_record_less_say_the_same)
{
    fixture f = open_pair(0, false);
    decoded fused = run_long(f.engine, "token-v3:alpha=0.5", 3);
    int32_t replays, bodies, without = 0; /* replays without conditional nodes */
    char noted[512];

    close_fixture(&f);
    for (int i = 0; i < 3; i++) {
        decoded d;

        fiber_gpu.no_condition = i != 1;
        fiber_gpu.no_bodies = i == 1;
        fiber_gpu.no_capture = i == 2;
        replays = fiber_gpu.replays;
        bodies = fiber_gpu.bodies;
        f = open_pair(0, false);
        f.engine->log = note_line;
        f.engine->user = noted;
        noted[0] = '\0';
        d = run_long(f.engine, "token-v3:alpha=0.5", 3);
        expect_same(&fused, &d, "token-v3", 4);
        cr_expect_eq(fiber_gpu.bodies, bodies);
        cr_expect(strstr(noted, i < 2 ? "warning: cuda:0: graphs cannot be recorded with cond"
                                      : "warning: cuda:0: graphs cannot be recorded: "),
                  "%s", noted);
        if (i == 0) without = fiber_gpu.replays - replays;
        cr_expect_eq(fiber_gpu.replays - replays, i < 2 ? without : 0);
        close_fixture(&f);
    }
    cr_expect_gt(without, 0);
    fiber_gpu.no_condition = fiber_gpu.no_capture = fiber_gpu.no_bodies = false;
}

/* More late rows than a strip holds: cuBLASLt works on the stream that records them. */
Test(cuda_fused, late_rows_by_the_library_are_recorded_too)
{
    enum { MANY = 17, STEPS = 4 };
    decoded d[2][MANY];
    int32_t bodies = 0;

    for (int32_t i = 0; i < 2; i++) {
        fixture f = open_pair_for(0, i == 0, MANY, true);
        spc_session *session[MANY];
        spc_error error;

        for (int32_t k = 0; k < MANY; k++) {
            spc_session_options o = options_of("opt:alpha=0.2", 1, 1);
            prompt p = prompt_made(3, VOCAB, 5 + (uint32_t)k);

            o.seed = (uint64_t)k;
            o.max_tokens = 30;
            o.ignore_stop = true;
            session[k] = open_session(f.engine, &o, &p);
        }
        bodies = fiber_gpu.bodies;
        for (int32_t step = 0; step < STEPS; step++) {
            cr_assert_eq(spc_engine_step(f.engine, session, MANY, &error), SPC_OK, "%s",
                         error.message);
        }
        bodies = fiber_gpu.bodies - bodies;
        for (int32_t k = 0; k < MANY; k++) {
            d[i][k] = decoded_of(session[k]);
            spc_session_close(session[k]);
        }
        close_fixture(&f);
    }
    cr_expect_gt(bodies, 1);
    for (int32_t k = 0; k < MANY; k++) {
        cr_expect(d[1][k].count > STEPS && same_tokens(&d[0][k], &d[1][k]), "session %d", (int)k);
    }
}

Test(cuda_fused, a_device_that_fails_in_a_round_is_told)
{
    fixture f = open_pair(0, false);
    decoded d;

    (void)run_long(f.engine, "strict", 2);
    fiber_gpu.fails_after = fiber_gpu.launches + 12;
    d = run_long(f.engine, "strict", 2);
    cr_expect_eq(d.finish, SPC_FINISH_FAILED);
    cr_expect_eq(d.status, SPC_EDEVICE);
    cr_expect(strstr(d.error.message, "illegal memory access"), "%s", d.error.message);
    fiber_gpu.fails_after = -1;
    close_fixture(&f);
}

#endif

/* ---- drafts that are looked up ---- */

static const way found_ways[] = {{"strict", 4, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                                 {"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                                 {"strict", 3, 1, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
                                 {"token-v3:alpha=0.5", 4, 1, SPC_BONUS_VERIFIER, SPC_VERIFY_TOKEN},
                                 {"strict", 5, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                                 {"verifier-only", 0, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}};
enum { FOUND_WAYS = sizeof found_ways / sizeof *found_ways };

static fixture open_looking_up(int32_t which, bool plain)
{
    fixture f = open_pair(which, plain);

    f.engine->ops->unload(f.engine->drafter.runner);
    f.engine->drafter.runner = NULL;
    f.engine->ngram = (spc_ngram_span){1, 3};
    f.engine->turns.mode = SPC_OVERLAP_ON; /* has nothing to do */
    return f;
}

/* By the host, so that their rounds are composed and none is in flight; that of the verifier alone
 * is beside them. */
Test(cuda_fused, drafts_that_are_looked_up_are_verified_round_by_round, .timeout = 280)
{
    for (int32_t m = 0; m < PAIRS; m++) {
        fixture plain = open_looking_up(m, true), fused = open_looking_up(m, false);
        spc_session *session[SESSIONS];
        decoded alone[FOUND_WAYS];
        int64_t accepted = 0, rejected = 0;

        for (int32_t i = 0; i < FOUND_WAYS; i++) {
            spc_session_options o = way_options(&found_ways[i], 2);
            prompt p = prompt_made(9, VOCAB, 5);
            decoded expected;

            o.max_tokens = 14;
            alone[i] = decode(fused.engine, &o, &p);
            expected = decode(plain.engine, &o, &p);
            expect_same(&expected, &alone[i], o.rule, o.seed);
            if (i < FOUND_WAYS - 1) cr_expect_eq(alone[i].stats.chained, 0);
            if (i == FOUND_WAYS - 1 && chains()) cr_expect_gt(alone[i].stats.chained, 0);
            accepted += sum_of(alone[i].stats.accepted);
            rejected += sum_of(alone[i].stats.rejected);
        }
        cr_expect(same_tokens(&alone[FOUND_WAYS - 2], &alone[FOUND_WAYS - 1]), "greedy");
        cr_expect(accepted > 3 && rejected > 1, "%d, %d", (int)accepted, (int)rejected);
        for (int32_t i = 0; i < SESSIONS; i++) { /* the last four, together */
            spc_session_options o = way_options(&found_ways[FOUND_WAYS - SESSIONS + i], 2);
            prompt p = prompt_made(9, VOCAB, 5);

            o.max_tokens = 14;
            session[i] = open_session(fused.engine, &o, &p);
        }
        for (int32_t step = 0; step < 20; step++) {
            cr_assert_eq(spc_engine_step(fused.engine, session, SESSIONS, NULL), SPC_OK);
        }
        for (int32_t i = 0; i < SESSIONS; i++) {
            decoded d = decoded_of(session[i]);

            cr_expect(same_tokens(&d, &alone[FOUND_WAYS - SESSIONS + i]), "%d", (int)i);
            cr_expect_eq(d.stats.in_turns, 0);
            spc_session_close(session[i]);
        }
        close_fixture(&plain);
        close_fixture(&fused);
    }
}
