/* SPDX-License-Identifier: Apache-2.0 */
/* Long prompts beside running sequences: these go on, and nobody's tokens change. */
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
    /* token-chow asks the verifier late, and then it reads all it lacks */
    if (prefill_rows <= 64 && strcmp(kinds[kind].rule, "token-chow:alpha=0.5") != 0) {
        cr_expect_leq(fed_at_once, prefill_rows + 2 * SPC_LANE_ROWS, "%s, %d rows: %d",
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

Test(host_fill, nobody_waits_where_nobody_runs)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("strict", 2, 1);
    prompt longer = prompt_made(LONG, pair.vocab, 2);
    spc_session *s[2] = {open_session(engine, &o, &longer), open_session(engine, &o, &longer)};

    cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
    cr_expect_gt(tokens_of(s[0]), 0);
    cr_expect_gt(tokens_of(s[1]), 0);
    spc_session_close(s[0]);
    spc_session_close(s[1]);
    spc_engine_close(engine);
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
