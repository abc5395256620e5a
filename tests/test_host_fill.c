/* SPDX-License-Identifier: Apache-2.0 */
/* Long prompts, beside running sequences and by themselves: these go on, a step stays short, and
 * nobody's tokens change. */
#include "decode.h"
#include "toy.h"

enum { CONTEXT = 1024, LONG = 480 };

static const toy_pair pair = {
    .seed = 31, .vocab = 40, .context = CONTEXT, .sessions = 3, .spread = 5};

static spc_session_options options_for(const char *rule, int32_t gamma, float temperature)
{
    spc_session_options o = options_of(rule, gamma, temperature);

    o.max_tokens = 150;
    o.seed = 5;
    return o;
}

static int32_t tokens_of(const spc_session *s)
{
    int32_t count;

    (void)spc_session_tokens(s, &count);
    return count;
}

static const struct {
    const char *rule;
    int32_t gamma;
    float temperature;
} kinds[] = {{"strict", 3, 1},
             {"token-v3:alpha=0.5", 4, 1},
             {"verifier-only", 0, 1},
             {"drafter-only", 0, 1},
             {"token-chow:alpha=0.5", 0, 1},
             {"seq-chow:alpha=0.1", 0, 1},
             {"bild-dynamic:fallback=0.2,rollback=1", 0, 0},
             {"strict", SPC_GAMMA_AUTO, 0}};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* One runs, one comes with a long prompt, two thirds of the way another: texts are those of each
 * alone, whatever may be fed in a step. */
static void expect_same_text(int32_t kind, int32_t prefill_rows)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o =
        options_for(kinds[kind].rule, kinds[kind].gamma, kinds[kind].temperature);
    spc_session_options strict = options_for("strict", 2, 1);
    prompt p[3] = {prompt_made(6, pair.vocab, 1), prompt_made(LONG, pair.vocab, 2),
                   prompt_made(200, pair.vocab, 3)};
    decoded alone[3] = {decode(engine, &strict, &p[0]), decode(engine, &o, &p[1]),
                        decode(engine, &o, &p[2])};
    spc_session *s[3];
    int32_t fed_at_once = 0, fed;

    engine->prefill_rows = prefill_rows;
    s[0] = open_session(engine, &strict, &p[0]);
    s[1] = open_session(engine, &o, &p[1]);
    cr_assert_eq(spc_session_step(s[0], NULL), SPC_OK);
    for (int32_t step = 0; step < 1000; step++) {
        int64_t before = toy_rows(engine->verifier.runner);

        if (step == 4) s[2] = open_session(engine, &o, &p[2]);
        cr_assert_eq(spc_engine_step(engine, s, step < 4 ? 2 : 3, NULL), SPC_OK);
        fed = (int32_t)(toy_rows(engine->verifier.runner) - before);
        if (spc_session_finish(s[0]) == SPC_FINISH_RUNNING && fed > fed_at_once) fed_at_once = fed;
    }
    for (int32_t i = 0; i < 3; i++) {
        decoded d = decoded_of(s[i]);

        cr_expect(same_tokens(&d, &alone[i]), "%s, %d rows: session %d", kinds[kind].rule,
                  (int)prefill_rows, (int)i);
        cr_expect_eq(d.stats.tokens, alone[i].stats.tokens);
        if (kinds[kind].gamma != SPC_GAMMA_AUTO) {
            cr_expect_eq(d.stats.rounds, alone[i].stats.rounds);
            cr_expect_eq(sum_of(d.stats.accepted), sum_of(alone[i].stats.accepted));
        }
        spc_session_close(s[i]);
    }
    /* token-chow asks the verifier late, beside what is fed */
    if (prefill_rows <= 64) {
        int32_t asked = strcmp(kinds[kind].rule, "token-chow:alpha=0.5") == 0 ? prefill_rows : 0;

        cr_expect_leq(fed_at_once, prefill_rows + asked + 2 * SPC_LANE_ROWS, "%s, %d rows: %d",
                      kinds[kind].rule, (int)prefill_rows, (int)fed_at_once);
    }
    spc_engine_close(engine);
}

Test(host_fill, chunks_of_any_size_give_the_same_tokens)
{
    static const int32_t rows[] = {1, 7, 64, 100000};

    for (int32_t kind = 0; kind < KINDS; kind++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) expect_same_text(kind, rows[i]);
    }
}

Test(host_fill, a_running_session_emits_while_a_long_prompt_is_fed)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("strict", 2, 1);
    prompt p = prompt_made(6, pair.vocab, 1), longer = prompt_made(LONG, pair.vocab, 2);
    spc_session *s[2] = {open_session(engine, &o, &p), open_session(engine, &o, &longer)};
    int32_t steps = 0, before;

    engine->prefill_rows = 40;
    cr_assert_eq(spc_session_step(s[0], NULL), SPC_OK);
    before = tokens_of(s[0]);
    while (tokens_of(s[1]) == 0) {
        int64_t verifier = toy_rows(engine->verifier.runner);
        int32_t had = tokens_of(s[0]);

        cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
        cr_expect_gt(tokens_of(s[0]), had, "step %d: it goes on", (int)steps);
        cr_expect_leq(toy_rows(engine->verifier.runner) - verifier, 40 + 2 * 3);
        steps++;
        cr_assert_lt(steps, 100);
    }
    /* the verifier needs 12 chunks of 40 rows; the drafter's last ones follow behind */
    cr_expect_geq(steps, LONG / 40);
    cr_expect_leq(steps, LONG / 20 + 2);
    cr_expect_geq(tokens_of(s[0]) - before, steps);
    cr_expect_gt(s[1]->counters.prefill_calls, LONG / 40);
    spc_session_close(s[0]);
    spc_session_close(s[1]);
    spc_engine_close(engine);
}

/* ---- where nobody runs ------------------------------------------------------------------------
 */

/* As the pair above, and feeds every prompt in one go. */
static const toy_pair at_once = {
    .seed = 31, .vocab = 40, .context = CONTEXT, .sessions = 32, .spread = 5};

static int64_t rows_of(const spc_engine *engine)
{
    return toy_rows(engine->verifier.runner) + toy_rows(engine->drafter.runner);
}

/* Steps until a session has a token, each no longer than a forward of either model and what the
 * session's own round takes. */
static int32_t steps_to_begin(spc_engine *engine, spc_session *s, int32_t rounds)
{
    int32_t most = 2 * engine->scratch.rows + 2 * rounds * SPC_LANE_ROWS, steps = 0;

    while (tokens_of(s) == 0 && s->ahead == 0) {
        int64_t before = rows_of(engine);

        cr_assert_lt(steps++, 200);
        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        cr_expect_leq(rows_of(engine) - before, most, "%s, step %d: %d rows", s->strategy->name,
                      (int)steps, (int)(rows_of(engine) - before));
    }
    return steps;
}

Test(host_fill, a_step_is_a_forward_of_each_model)
{
    static const int32_t lengths[] = {1, 2, 63, 64, 65, 66, 128, 129, 130, 193, 300};
    toy_pair one = pair;
    spc_engine *whole = toy_engine(&at_once), *engine;
    int32_t chunk;

    one.sessions = 1;
    engine = toy_engine(&one);
    chunk = engine->scratch.rows;
    for (int32_t kind = 0; kind < KINDS; kind++) {
        spc_session_options o =
            options_for(kinds[kind].rule, kinds[kind].gamma, kinds[kind].temperature);

        o.max_tokens = 20;
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            prompt p = prompt_made(lengths[i], pair.vocab, 2);
            decoded expected = decode(whole, &o, &p), d;
            spc_session *s = open_session(engine, &o, &p);
            int32_t steps = steps_to_begin(engine, s, 1);

            cr_expect_geq(steps, (p.count - 2) / chunk + 1, "%s, %d tokens: %d steps",
                          kinds[kind].rule, (int)p.count, (int)steps);
            cr_expect_eq(spc_session_run(s, NULL), SPC_OK);
            d = decoded_of(s);
            cr_expect(same_tokens(&d, &expected), "%s, %d tokens", kinds[kind].rule, (int)p.count);
            cr_expect(kinds[kind].gamma == SPC_GAMMA_AUTO ||
                          d.stats.rounds == expected.stats.rounds,
                      "%s, %d tokens", kinds[kind].rule, (int)p.count);
            spc_session_close(s);
        }
    }
    spc_engine_close(engine);
    spc_engine_close(whole);
}

/* It goes up by chunks, of one model after the other where one begins alone.  There is none of it
 * before the first step and from the first token on, also where a drafter catches up. */
Test(host_fill, how_far_a_prompt_is_can_be_asked)
{
    toy_pair one = pair;
    spc_engine *engine;

    one.sessions = 1;
    engine = toy_engine(&one);
    for (int32_t kind = 0; kind < KINDS; kind++) {
        spc_session_options o =
            options_for(kinds[kind].rule, kinds[kind].gamma, kinds[kind].temperature);
        prompt p = prompt_made(300, pair.vocab, 2);
        spc_session *s = open_session(engine, &o, &p);
        int32_t before = 0, told = 0, falls = 0, done, of;
        bool later = strstr(kinds[kind].rule, "-chow:") != NULL; /* the verifier */

        cr_expect_not(spc_session_filled(s, &done, &of));
        while (spc_session_finish(s) == SPC_FINISH_RUNNING) {
            cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
            if (!spc_session_filled(s, &done, &of)) continue;
            cr_expect_eq(tokens_of(s), 0, "%s", kinds[kind].rule);
            cr_expect_eq(of, p.count - 1);
            falls += done <= before;
            cr_expect_leq(falls, later, "%s: %d after %d", kinds[kind].rule, (int)done,
                          (int)before);
            cr_expect(done > 0 && done <= of, "%s: %d of %d", kinds[kind].rule, (int)done, (int)of);
            before = done;
            told++;
        }
        cr_expect_geq(told, (p.count - 2) / engine->scratch.rows, "%s: %d", kinds[kind].rule,
                      (int)told);
        spc_session_close(s);
    }
    spc_engine_close(engine);
}

/* The clock is moved by forwards alone. */
Test(host_fill, steps_that_only_feed_have_their_time_counted)
{
    toy_clock clock = {
        .drafter_ns = 100, .drafter_row_ns = 3, .verifier_ns = 1000, .verifier_row_ns = 30};
    toy_pair timed = pair;
    spc_engine *engine;
    spc_session_options o = options_for("strict", 3, 1);
    prompt p = prompt_made(LONG, pair.vocab, 2);
    spc_session *s;
    spc_stats stats;

    timed.sessions = 1;
    timed.clock = &clock;
    engine = toy_engine(&timed);
    s = open_session(engine, &o, &p);
    cr_expect_gt(steps_to_begin(engine, s, 1), 5);
    spc_session_stats(s, &stats);
    cr_expect_eq(stats.draft_ns + stats.verify_ns, clock.now_ns);
    cr_expect_geq(stats.draft_ns, 100 * (LONG / 64) + 3 * (LONG - 1));
    cr_expect_geq(stats.verify_ns, 1000 * (LONG / 64) + 30 * (LONG - 1));
    spc_session_close(s);
    spc_engine_close(engine);
}

/* In the step that has room for what is left of all. */
Test(host_fill, sessions_that_wait_for_each_other_begin_together)
{
    spc_engine *whole = toy_engine(&at_once), *engine = toy_engine(&pair);
    int32_t room = engine->scratch.rows, lacks = 2 * (LONG - 1) + 5, steps = 0;
    spc_session_options o = options_for("strict", 2, 1);
    prompt p[3] = {prompt_made(LONG, pair.vocab, 2), prompt_made(6, pair.vocab, 1),
                   prompt_made(LONG, pair.vocab, 3)};
    spc_session *s[3];
    int64_t before;

    for (int32_t i = 0; i < 3; i++) s[i] = open_session(engine, &o, &p[i]);
    while (tokens_of(s[0]) == 0) {
        cr_assert_lt(steps++, 100);
        before = toy_rows(engine->verifier.runner);
        cr_assert_eq(spc_engine_step(engine, s, 3, NULL), SPC_OK);
        if (tokens_of(s[0]) > 0) break;
        cr_expect_eq(toy_rows(engine->verifier.runner) - before, room, "step %d", (int)steps);
        cr_expect_eq(tokens_of(s[1]) + tokens_of(s[2]), 0);
    }
    cr_expect_eq(steps, (lacks - 1) / room + 1, "%d steps", (int)steps);
    cr_expect(tokens_of(s[1]) > 0 && tokens_of(s[2]) > 0);
    for (int32_t i = 0; i < 3; i++) cr_expect(!s[i]->together && !s[i]->filling);
    for (int32_t i = 0; i < 3; i++) {
        decoded expected = decode(whole, &o, &p[i]), d;

        cr_expect_eq(spc_session_run(s[i], NULL), SPC_OK);
        d = decoded_of(s[i]);
        cr_expect(same_tokens(&d, &expected), "session %d", (int)i);
        spc_session_close(s[i]);
    }
    spc_engine_close(engine);
    spc_engine_close(whole);
}

Test(host_fill, nobody_waits_for_one_that_comes_later)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("strict", 2, 1);
    prompt first = prompt_made(150, pair.vocab, 1), later = prompt_made(LONG, pair.vocab, 2);
    spc_session *s[2] = {open_session(engine, &o, &later), open_session(engine, &o, &first)};
    int32_t steps = 1;

    cr_assert_eq(spc_engine_step(engine, s + 1, 1, NULL), SPC_OK);
    cr_assert_eq(tokens_of(s[1]), 0);
    while (tokens_of(s[1]) == 0) {
        cr_assert_lt(steps++, 100);
        cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
    }
    cr_expect_eq(steps, 148 / engine->scratch.rows + 1, "%d", (int)steps);
    cr_expect_eq(tokens_of(s[0]), 0);
    while (tokens_of(s[0]) == 0) {
        cr_assert_lt(steps++, 100);
        cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
    }
    spc_session_close(s[0]);
    spc_session_close(s[1]);
    spc_engine_close(engine);
}

/* ---- cancelled --------------------------------------------------------------------------------
 */

/* Cancelled after so many steps, a session ends without another row of either model.  Returns
 * whether it had no token yet. */
static bool cancel_after(spc_engine *engine, spc_session *s, int32_t steps)
{
    int32_t had;
    int64_t before;

    for (int32_t i = 0; i < steps; i++) cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    had = tokens_of(s);
    before = rows_of(engine);
    spc_session_cancel(s);
    cr_expect_eq(spc_session_step(s, NULL), SPC_OK);
    cr_expect_eq(spc_session_finish(s), SPC_FINISH_CANCELLED);
    cr_expect_eq(rows_of(engine), before);
    cr_expect_eq(tokens_of(s), had);
    return had == 0;
}

Test(host_fill, a_session_is_cancelled_at_every_chunk)
{
    toy_pair one = pair;
    spc_engine *fresh, *engine;

    one.sessions = 1;
    fresh = toy_engine(&one);
    engine = toy_engine(&one);
    for (int32_t kind = 0; kind < KINDS; kind++) {
        spc_session_options o =
            options_for(kinds[kind].rule, kinds[kind].gamma, kinds[kind].temperature);
        prompt p = prompt_made(200, pair.vocab, 2), next = p;
        decoded expected, again, d;
        int32_t steps = 0;
        bool early = true;

        o.max_tokens = 20;
        next.id[130] = p.id[130] == 5 ? 6 : 5; /* in the third chunk */
        next.count = 190;
        expected = decode(fresh, &o, &next);
        again = decode(fresh, &o, &p);
        for (; early && steps < 50; steps++) {
            spc_session *s = open_session(engine, &o, &p);
            spc_error error;

            early = cancel_after(engine, s, steps) && s->ahead == 0;
            cr_assert_eq(spc_session_restart(s, next.id, next.count, &error), SPC_OK);
            (void)spc_session_run(s, NULL);
            d = decoded_of(s);
            cr_expect(same_tokens(&d, &expected), "%s, another prompt after %d steps",
                      kinds[kind].rule, (int)steps);
            spc_session_close(s);
            d = decode(engine, &o, &p);
            cr_expect(same_tokens(&d, &again), "%s, another session after %d steps",
                      kinds[kind].rule, (int)steps);
        }
        cr_expect_geq(steps, 4, "%s: %d", kinds[kind].rule, (int)steps);
    }
    spc_engine_close(engine);
    spc_engine_close(fresh);
}

/* Two go on as if the third had never been. */
Test(host_fill, the_others_of_a_cancelled_session_go_on)
{
    spc_engine *whole = toy_engine(&at_once);
    spc_session_options o = options_for("token-v3:alpha=0.5", 3, 1);
    prompt p[3] = {prompt_made(200, pair.vocab, 1), prompt_made(300, pair.vocab, 2),
                   prompt_made(LONG, pair.vocab, 3)};

    for (int32_t at = 0; at < 20; at++) {
        spc_engine *engine = toy_engine(&pair);
        spc_session *s[3];

        for (int32_t i = 0; i < 3; i++) s[i] = open_session(engine, &o, &p[i]);
        for (int32_t step = 0; step < 1000; step++) {
            if (step == at) spc_session_cancel(s[at % 3]);
            cr_assert_eq(spc_engine_step(engine, s, 3, NULL), SPC_OK);
        }
        for (int32_t i = 0; i < 3; i++) {
            decoded expected = decode(whole, &o, &p[i]), d = decoded_of(s[i]);

            if (i == at % 3) {
                cr_expect_eq(d.finish, SPC_FINISH_CANCELLED);
                cr_expect(begins_with(&d, &expected, d.count));
            } else {
                cr_expect(same_tokens(&d, &expected), "session %d, step %d", (int)i, (int)at);
            }
            spc_session_close(s[i]);
        }
        spc_engine_close(engine);
    }
    spc_engine_close(whole);
}

Test(host_fill, a_session_ends_while_its_prompt_is_fed)
{
    for (int32_t close = 0; close < 2; close++) {
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_for("strict", 2, 1);
        prompt p = prompt_made(6, pair.vocab, 1), longer = prompt_made(LONG, pair.vocab, 2);
        spc_session *s[2] = {open_session(engine, &o, &p), open_session(engine, &o, &longer)};

        cr_assert_eq(spc_session_step(s[0], NULL), SPC_OK);
        for (int32_t step = 0; step < 3; step++) {
            cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
        }
        cr_expect_eq(tokens_of(s[1]), 0);
        if (close) {
            spc_session_close(s[1]);
        } else {
            spc_session_cancel(s[1]);
            cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
            cr_expect_eq(spc_session_finish(s[1]), SPC_FINISH_CANCELLED);
            spc_session_close(s[1]);
        }
        cr_expect_eq(spc_session_run(s[0], NULL), SPC_OK);
        spc_session_close(s[0]);
        spc_engine_close(engine);
    }
}

/* The CPU backend's forwards, a prompt of the demo pair's own and one that fills its context. */
Test(host_fill, tokens_of_the_demo_pair_do_not_depend_on_chunks)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 2, 2);
    spc_session_options o = options_for("token-v3:alpha=0.5", 4, 1);
    prompt p = prompt_made(5, engine->vocab, 1), longer = prompt_made(100, engine->vocab, 2);
    decoded first, second, d;
    spc_session *s[2];

    engine->prefix_off = true; /* the prompt is fed both times */
    o.max_tokens = 20;
    o.ignore_stop = true;
    first = decode(engine, &o, &p);
    second = decode(engine, &o, &longer);
    engine->prefill_rows = 9;
    s[0] = open_session(engine, &o, &p);
    cr_assert_eq(spc_session_step(s[0], NULL), SPC_OK);
    s[1] = open_session(engine, &o, &longer);
    for (int32_t step = 0; step < 60; step++) {
        cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
    }
    d = decoded_of(s[0]);
    cr_expect(same_tokens(&d, &first));
    d = decoded_of(s[1]);
    cr_expect(same_tokens(&d, &second));
    cr_expect_gt(d.stats.prefill_calls, second.stats.prefill_calls);
    spc_session_close(s[0]);
    spc_session_close(s[1]);
    spc_engine_close(engine);
}

/* Engines of every kind over the demo pair, whose prompts are fed 32 rows at a time: a cancelled
 * prompt leaves whole pages to others, and what it leaves is right. */
static void expect_cancel_leaves_all_right(const spc_engine_options *options, const char *what)
{
    spc_session_options o = options_for("token-v3:alpha=0.5", 4, 1);
    spc_engine *engine[2]; /* cancels; does not, nor shares */
    spc_error error;
    prompt p;
    decoded expected;
    bool early = true;
    int32_t steps = 0;

    for (int32_t i = 0; i < 2; i++) {
        cr_assert_eq(spc_engine_open(options, &engine[i], &error), SPC_OK, "%s: %s", what,
                     error.message);
        engine[i]->scratch.rows = 32;
    }
    engine[1]->prefix_off = true;
    o.max_tokens = 12;
    o.ignore_stop = true;
    p = prompt_made(90, engine[0]->vocab, 2);
    expected = decode(engine[1], &o, &p);
    cr_assert_eq(expected.status, SPC_OK, "%s: %s", what, expected.error.message);
    for (; early && steps < 50; steps++) {
        prompt other = prompt_made(90, engine[0]->vocab, 100 + (uint32_t)steps);
        spc_session *s = open_session(engine[0], &o, &other);
        decoded d, fresh;

        for (int32_t i = 0; i < steps; i++) cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        early = tokens_of(s) == 0;
        spc_session_cancel(s);
        cr_expect_eq(spc_session_step(s, NULL), SPC_OK);
        cr_expect_eq(spc_session_finish(s), SPC_FINISH_CANCELLED);
        cr_assert_eq(spc_session_restart(s, p.id, p.count, &error), SPC_OK);
        (void)spc_session_run(s, NULL);
        d = decoded_of(s);
        cr_expect(same_tokens(&d, &expected), "%s: after %d steps", what, (int)steps);
        spc_session_close(s);
        fresh = decode(engine[1], &o, &other);
        d = decode(engine[0], &o, &other);
        cr_expect(same_tokens(&d, &fresh), "%s: the same prompt after %d steps", what, (int)steps);
        cr_expect_geq(d.stats.reused_tokens, steps > 1 ? 16 : 0, "%s, %d steps: %d", what,
                      (int)steps, (int)d.stats.reused_tokens);
    }
    cr_expect_gt(steps, 3, "%s: %d", what, (int)steps);
    spc_engine_close(engine[0]);
    spc_engine_close(engine[1]);
}

Test(host_fill, ranks_and_drafters_apart_are_cancelled_too)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    o.threads = 2;
    expect_cancel_leaves_all_right(&o, "one device");
    o.tp = 2;
    expect_cancel_leaves_all_right(&o, "two ranks");
    o.drafter_tp = 2;
    expect_cancel_leaves_all_right(&o, "two ranks of both");
    o.drafter_tp = 0;
    o.drafter_device = "cpu";
    expect_cancel_leaves_all_right(&o, "two ranks and a drafter apart");
    o.tp = 0;
    expect_cancel_leaves_all_right(&o, "a drafter apart");
    o.overlap = SPC_OVERLAP_ON;
    expect_cancel_leaves_all_right(&o, "a drafter apart that drafts ahead");
}
