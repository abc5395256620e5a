/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_session_restart.c - a session that goes on with another prompt is a new session that
 * runs less: the same tokens and counters under every strategy, whatever the last turn left behind.
 */
#include "decode.h"
#include "toy.h"

#include <stdio.h>

enum { CONTEXT = 96, TURNS = 5 };

static const toy_pair pair = {
    .seed = 11, .vocab = TOY_VOCAB, .context = CONTEXT, .sessions = 2, .spread = 6};

/* One for each strategy, and for each way a round ends. */
static const struct {
    const char *rule;
    spc_verify_mode verify;
    spc_bonus_mode bonus;
} ways[] = {
    {"strict", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"strict", SPC_VERIFY_BLOCK, SPC_BONUS_VERIFIER},
    {"token-v3:alpha=0.5", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"opt:alpha=0.2", SPC_VERIFY_TOKEN, SPC_BONUS_STEP},
    {"verifier-only", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"drafter-only", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"token-chow:alpha=0.6", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"seq-chow:alpha=0.7", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"seq-chow:alpha=0.1", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"bild-dynamic:fallback=0.2,rollback=1", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
};
enum { WAYS = sizeof ways / sizeof *ways };

static spc_session_options options_for(int way, float temperature)
{
    static const int32_t stop[] = {5, 9};
    spc_session_options o = options_of(ways[way].rule, 4, temperature);

    if (strncmp(o.rule, "bild-dynamic", 12) == 0) {
        o.gamma = 0;
        o.temperature = 0;
    }
    o.verify = ways[way].verify;
    o.bonus = ways[way].bonus;
    o.seed = 3;
    o.max_tokens = 9;
    o.stop_token = stop;
    o.stop_token_count = 2;
    return o;
}

/* All that a session depends on alone; times and what was prefilled are not of it. */
static void expect_same(const decoded *restarted, const decoded *fresh, const char *what)
{
    const spc_stats *a = &restarted->stats, *b = &fresh->stats;

    cr_expect(same_tokens(restarted, fresh), "%s: other tokens", what);
    cr_expect_eq(a->tokens, b->tokens, "%s", what);
    cr_expect_eq(a->prompt_tokens, b->prompt_tokens, "%s", what);
    cr_expect_eq(a->discarded, b->discarded, "%s", what);
    cr_expect_eq(a->rounds, b->rounds, "%s", what);
    cr_expect_eq(a->verifier_calls, b->verifier_calls, "%s", what);
    cr_expect_eq(a->drafter_calls, b->drafter_calls, "%s", what);
    cr_expect_eq(sum_of(a->drafted), sum_of(b->drafted), "%s", what);
    cr_expect_eq(sum_of(a->accepted), sum_of(b->accepted), "%s", what);
    cr_expect_eq(sum_of(a->deferred), sum_of(b->deferred), "%s", what);
    cr_expect_eq(a->bonus, b->bonus, "%s", what);
    cr_expect_eq(a->output_hash, b->output_hash, "%s", what);
    cr_expect_eq(b->reused_tokens, 0, "%s", what);
}

/* The prompt of the next turn: all that has been said, and three tokens more. */
static prompt next_turn(const prompt *p, const decoded *d, int32_t turn)
{
    prompt next = *p;

    memcpy(next.id + next.count, d->token, (size_t)d->count * sizeof *d->token);
    next.count += d->count;
    for (int32_t i = 0; i < 3; i++) next.id[next.count++] = 10 + turn * 3 + i;
    return next;
}

static decoded restart(spc_session *s, const prompt *p)
{
    spc_error error;

    cr_assert_eq(spc_session_restart(s, p->id, p->count, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_session_finish(s), SPC_FINISH_RUNNING);
    (void)spc_session_run(s, NULL);
    return decoded_of(s);
}

static int64_t rows_of(const spc_engine *engine)
{
    return toy_rows(engine->verifier.runner) + toy_rows(engine->drafter.runner);
}

Test(host_session_restart, every_turn_is_that_of_a_new_session_and_runs_fewer_rows)
{
    int32_t stopped = 0;

    for (int way = 0; way < WAYS; way++) {
        for (int greedy = 0; greedy < 2; greedy++) {
            spc_engine *engine = toy_engine(&pair);
            spc_session_options o = options_for(way, greedy ? 0.0f : 1.0f);
            prompt p = {{1, 2, 3, 4}, 4};
            spc_session *s = open_session(engine, &o, &p);
            char what[96];

            (void)spc_session_run(s, NULL);
            decoded d = decoded_of(s);

            for (int32_t turn = 0; turn < TURNS; turn++) {
                stopped += d.finish == SPC_FINISH_STOP_TOKEN;
                p = next_turn(&p, &d, turn);
                (void)snprintf(what, sizeof what, "%s, turn %d", o.rule, (int)turn);

                int64_t before = rows_of(engine);

                d = restart(s, &p);

                int64_t between = rows_of(engine);
                decoded fresh = decode(engine, &o, &p);

                expect_same(&d, &fresh, what);
                cr_expect_gt(d.stats.reused_tokens, 0, "%s", what);
                cr_expect_lt(between - before, rows_of(engine) - between, "%s: no row saved", what);
            }
            spc_session_close(s);
            spc_engine_close(engine);
        }
    }
    cr_expect_gt(stopped, 5, "turns end at stop tokens too, inside a round");
}

/* Of what both sequences have, all but the last kept token was run: four tokens are new. */
Test(host_session_restart, only_what_is_new_runs)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for(4, 0); /* verifier-only: a row is a token */
    prompt p = prompt_made(40, TOY_VOCAB, 1);

    o.max_tokens = 1;
    o.ignore_stop = true;

    spc_session *s = open_session(engine, &o, &p);

    (void)spc_session_run(s, NULL);

    decoded d = decoded_of(s);
    int64_t before = rows_of(engine);

    cr_assert_eq(d.count, 1);
    p = next_turn(&p, &d, 0);
    d = restart(s, &p);
    cr_expect_eq(rows_of(engine) - before, 1 + 3);
    cr_expect_eq(d.stats.reused_tokens, 40);
    cr_expect_eq(d.stats.prompt_tokens, 44);
    spc_session_close(s);
    spc_engine_close(engine);
}

/* Prompts that leave the old sequence early, are part of it, or are it. */
Test(host_session_restart, any_other_prompt_will_do)
{
    for (int way = 0; way < WAYS; way++) {
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_for(way, 1);
        prompt first = prompt_made(20, TOY_VOCAB, 7), other = prompt_made(30, TOY_VOCAB, 8);
        prompt branch = first, part = first, one = {{first.id[0]}, 1};
        spc_session *s = open_session(engine, &o, &first);

        branch.id[12]++;
        part.count = 9;
        (void)spc_session_run(s, NULL);

        const prompt *const order[] = {&first, &branch, &part, &first, &other, &one, &branch};

        for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
            decoded d = restart(s, order[i]), fresh = decode(engine, &o, order[i]);

            expect_same(&d, &fresh, o.rule);
            if (i == 1) cr_expect_eq(d.stats.reused_tokens, 12, "%s", o.rule);
            if (i == 4) cr_expect_eq(d.stats.reused_tokens, 0, "%s", o.rule);
        }
        spc_session_close(s);
        spc_engine_close(engine);
    }
}

/* In the middle of a turn, where strategies hold tokens nobody has been told of. */
Test(host_session_restart, a_session_may_be_called_back_at_any_step)
{
    for (int way = 0; way < WAYS; way++) {
        for (int32_t steps = 0; steps < 6; steps++) {
            spc_engine *engine = toy_engine(&pair);
            spc_session_options o = options_for(way, 1);
            prompt p = prompt_made(12, TOY_VOCAB, 3);
            spc_session *s = open_session(engine, &o, &p);

            for (int32_t i = 0; i < steps; i++) (void)spc_session_step(s, NULL);
            if (steps == 3) spc_session_cancel(s);

            decoded d = decoded_of(s);

            p = next_turn(&p, &d, 1);
            d = restart(s, &p);

            decoded fresh = decode(engine, &o, &p);

            expect_same(&d, &fresh, o.rule);
            spc_session_close(s);
            spc_engine_close(engine);
        }
    }
}

Test(host_session_restart, a_failed_session_begins_from_nothing)
{
    toy_pair bad = pair;

    bad.bad_verifier = 16;

    spc_engine *engine = toy_engine(&bad);
    spc_session_options o = options_for(0, 1);
    prompt p = prompt_made(12, TOY_VOCAB, 3), beyond = prompt_made(20, TOY_VOCAB, 3);

    o.ignore_stop = true;
    spc_session *s = open_session(engine, &o, &p);

    cr_assert_eq(spc_session_run(s, NULL), SPC_ENUMERIC);
    decoded d = restart(s, &beyond), fresh = decode(engine, &o, &beyond);

    expect_same(&d, &fresh, "behind the bad row");
    cr_expect_eq(d.finish, SPC_FINISH_MAX_TOKENS);
    cr_expect_eq(d.stats.reused_tokens, 0);
    cr_expect_null(spc_session_error(s));
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_session_restart, a_prompt_that_is_refused_leaves_the_session_as_it_was)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for(0, 1);
    prompt p = prompt_made(12, TOY_VOCAB, 3), wrong = p, full = prompt_made(CONTEXT, TOY_VOCAB, 1);
    spc_session *s = open_session(engine, &o, &p);
    spc_error error;

    (void)spc_session_run(s, NULL);

    decoded before = decoded_of(s);

    wrong.id[3] = TOY_VOCAB;
    cr_expect_eq(spc_session_restart(s, wrong.id, wrong.count, &error), SPC_EINPUT);
    cr_expect_eq(spc_session_restart(s, full.id, full.count, &error), SPC_EFULL);
    cr_expect(strstr(error.message, "96"), "%s", error.message);
    cr_expect_eq(spc_session_restart(s, p.id, 0, &error), SPC_EINPUT);
    cr_expect_eq(spc_session_restart(s, NULL, 1, &error), SPC_EINPUT);

    decoded after = decoded_of(s);

    cr_expect(same_tokens(&before, &after));
    cr_expect_eq(after.stats.output_hash, before.stats.output_hash);
    spc_session_close(s);
    spc_engine_close(engine);
}

/* ---- stop tokens ------------------------------------------------------------------------------
 */

Test(host_session_restart, stop_tokens_of_the_options_end_a_sequence_as_the_models_own)
{
    for (int way = 0; way < WAYS; way++) {
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_for(way, 0);
        prompt p = {{1, 2, 3}, 3};

        o.stop_token_count = 0;
        o.max_tokens = 20;

        decoded whole = decode(engine, &o, &p);
        int32_t at = 0;

        while (at < 3) {
            int32_t first = 0;

            while (whole.token[first] != whole.token[at]) first++;
            if (first == at) break;
            at++;
        }
        o.stop_token = &whole.token[at];
        o.stop_token_count = 1;

        decoded cut = decode(engine, &o, &p);

        cr_expect_eq(cut.finish, SPC_FINISH_STOP_TOKEN, "%s", o.rule);
        cr_expect_eq(cut.count, at + 1, "%s", o.rule);
        o.ignore_stop = true;

        decoded all = decode(engine, &o, &p);

        cr_expect_eq(all.finish, SPC_FINISH_MAX_TOKENS, "%s", o.rule);
        spc_engine_close(engine);
    }
}

Test(host_session_restart, stop_tokens_that_are_none_are_refused)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for(0, 0);
    int32_t many[SPC_STOP_TOKENS_MAX + 1] = {0};
    const prompt p = {{1}, 1};
    spc_session *s;
    spc_error error;

    o.stop_token = many;
    o.stop_token_count = SPC_STOP_TOKENS_MAX + 1;
    cr_expect_eq(spc_session_open(engine, &o, p.id, 1, &s, &error), SPC_EUSAGE);
    o.stop_token_count = 2;
    many[1] = TOY_VOCAB;
    cr_expect_eq(spc_session_open(engine, &o, p.id, 1, &s, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "stop token: expected an id of 0 to 63, found 64"), "%s",
              error.message);
    spc_engine_close(engine);
}

/* ---- text, and models that compute ------------------------------------------------------------
 */

static void collect(void *user, const char *text, size_t bytes)
{
    strncat(user, text, bytes);
}

Test(host_session_restart, text_begins_anew_and_real_models_agree)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 2, 1);
    spc_session_options o = options_of("token-v3:alpha=0.5", 5, 0);
    static const char *const stop[] = {"qqq", "xyz"};
    char streamed[DECODE_TEXT] = "", *text;
    prompt p = prompt_of(engine, "<s><2de>The cat sleeps.<sep>");
    spc_error error;

    engine->prefix_off = true; /* new sessions run all of theirs */
    o.on_text = collect;
    o.user = streamed;
    o.stop = stop;
    o.stop_count = 2;
    o.max_tokens = 6;
    o.ignore_stop = true;

    spc_session *s = open_session(engine, &o, &p);

    (void)spc_session_run(s, NULL);
    for (int32_t turn = 0; turn < 4; turn++) {
        decoded d = decoded_of(s), fresh;

        p = next_turn(&p, &d, turn);
        streamed[0] = '\0';
        d = restart(s, &p);
        cr_assert_eq(spc_session_text(s, &text, NULL, &error), SPC_OK);
        cr_expect_str_eq(streamed, text);
        free(text);
        o.on_text = NULL;
        fresh = decode(engine, &o, &p);
        o.on_text = collect;
        expect_same(&d, &fresh, "demo pair");
    }
    spc_session_close(s);
    spc_engine_close(engine);
}
