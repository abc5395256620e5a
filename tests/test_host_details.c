/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_details.c - why tokens came about: what sessions with the option tell of each is what
 * the rows of both models say, wherever the models run, and the tokens are those without it. */
#include "rounds.h"
#include "row_details.h"

enum { TOKENS = 14 };

/* ---- against the rows ---- */

/* One token of a session against the rows behind what stands before it. */
static void expect_row(const toy_pair *pair, const spc_session_options *o, const prompt *text,
                       int32_t token, const spc_token_detail *d)
{
    float drafter[TOY_VOCAB], verifier[TOY_VOCAB];

    toy_logits(pair, true, text->id, text->count, drafter);
    toy_logits(pair, false, text->id, text->count, verifier);
    expect_detail(drafter, verifier, pair->vocab, o, token, d);
}

/* What on_token has heard. */
typedef struct {
    spc_token_detail told[TOKENS];
    int32_t count, deferred;
} heard;

static bool hear(void *user, const spc_token *token)
{
    heard *h = user;

    cr_assert(token->detail && h->count < TOKENS);
    cr_expect_eq(token->detail->origin, token->origin);
    cr_expect_eq(token->detail->row.deferred, token->deferred);
    h->told[h->count++] = *token->detail;
    return true;
}

/* Decode, and look at every token; seen[fate] counts. */
static void check_session(const toy_pair *pair, spc_engine *engine,
                          const spc_session_options *plain, int32_t *seen)
{
    spc_session_options o = *plain;
    decoded without = decode(engine, plain, &start), with;
    heard h = {.count = 0};
    prompt text = start;
    const spc_token_detail *detail;
    spc_session *s;
    int32_t count;

    o.details = true;
    o.on_token = hear;
    o.user = &h;
    s = open_session(engine, &o, &start);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    with = decoded_of(s);
    detail = spc_session_details(s, &count);
    cr_assert(same_tokens(&with, &without), "%s: other tokens", o.rule);
    cr_assert_eq(count, with.count);
    cr_assert_eq(h.count, count);
    for (int32_t i = 0; i < count; i++) {
        cr_expect(memcmp(&h.told[i], &detail[i], sizeof *detail) == 0);
        seen[detail[i].row.fate]++;
        expect_row(pair, &o, &text, with.token[i], &detail[i]);
        text.id[text.count++] = with.token[i];
    }
    spc_session_close(s);
}

Test(host_details, details_are_what_the_rows_say)
{
    static const toy_pair pair = {.seed = 5, .vocab = 8, .context = 32, .sessions = 1, .spread = 3};
    spc_engine *engine = toy_engine(&pair);
    int32_t seen[SPC_FATE_BONUS + 1] = {0};

    for (int32_t r = 0; r < LAWS; r++) {
        for (uint64_t seed = 0; seed < 6; seed++) {
            spc_session_options o = options_for(laws[r], seed % 2 ? GAMMA : 1, 1, TOKENS);

            o.seed = seed;
            do check_session(&pair, engine, &o, seen);
            while (next_mode(&o));
        }
    }
    for (int32_t fate = SPC_FATE_KEPT; fate <= SPC_FATE_BONUS; fate++) {
        cr_expect_gt(seen[fate], 100, "fate %d: %d", (int)fate, (int)seen[fate]);
    }
    spc_engine_close(engine);
}

/* Greedy rows have all their mass on one token. */
Test(host_details, a_greedy_token_is_certain)
{
    static const toy_pair pair = {.seed = 5, .vocab = 8, .context = 32, .sessions = 1, .spread = 3};
    spc_engine *engine = toy_engine(&pair);

    for (int32_t r = 0; r < LAWS; r++) {
        spc_session_options o = options_for(laws[r], GAMMA, 0, TOKENS);
        spc_session *s;
        const spc_token_detail *detail;
        int32_t count;

        o.details = true;
        s = open_session(engine, &o, &start);
        cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
        detail = spc_session_details(s, &count);
        cr_expect_eq(count, TOKENS);
        for (int32_t i = 0; i < count; i++) {
            cr_expect_eq(detail[i].row.log_target, 0.0f, "%s", laws[r]);
            if (detail[i].draft >= 0) cr_expect_eq(detail[i].row.drafter, 1.0f, "%s", laws[r]);
        }
        spc_session_close(s);
    }
    spc_engine_close(engine);
}

/* A round that decides more than the budget leaves, and a restart, stay within what there is. */
Test(host_details, a_session_keeps_as_many_details_as_tokens)
{
    static const toy_pair pair = {
        .seed = 5, .vocab = 8, .context = 32, .sessions = 1, .spread = 3, .equal = true};
    spc_engine *engine = toy_engine(&pair);

    for (int32_t budget = 0; budget <= 6; budget++) {
        spc_session_options o = options_for("strict", GAMMA, 1, budget);
        const prompt other = {{1, 1}, 2};
        spc_session *s;
        int32_t count, kept;

        o.details = true;
        s = open_session(engine, &o, &start);
        for (int32_t turn = 0; turn < 2; turn++) {
            cr_expect_not_null(spc_session_details(s, &count));
            cr_expect_eq(count, 0);
            cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
            (void)spc_session_tokens(s, &kept);
            (void)spc_session_details(s, &count);
            cr_expect_eq(count, kept);
            cr_expect_eq(count, budget > 0 ? budget : 32 - (turn ? other.count : start.count));
            cr_assert_eq(spc_session_restart(s, other.id, other.count, NULL), SPC_OK);
        }
        spc_session_close(s);
    }
    spc_engine_close(engine);
}

Test(host_details, only_those_that_ask_have_them_and_rules_without_rounds_cannot)
{
    static const toy_pair pair = {.seed = 5, .vocab = 8, .context = 32, .sessions = 1, .spread = 3};
    static const char *const sequential[] = {"drafter-only", "seq-chow:alpha=0.6",
                                             "token-chow:alpha=0.6", "bild-dynamic:fallback=0.4"};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("strict", GAMMA, 0, TOKENS);
    spc_session *s = open_session(engine, &o, &start);
    spc_error error;
    int32_t count = 7;

    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    cr_expect_null(spc_session_details(s, &count));
    cr_expect_eq(count, 0);
    spc_session_close(s);
    o.details = true;
    for (size_t i = 0; i < sizeof sequential / sizeof *sequential; i++) {
        o.rule = sequential[i];
        cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error),
                     SPC_EUNSUPPORTED);
        cr_expect_not_null(strstr(error.message, sequential[i]), "%s", error.message);
    }
    o.rule = "verifier-only";
    s = open_session(engine, &o, &start);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    cr_expect_not_null(spc_session_details(s, &count));
    cr_expect_eq(count, TOKENS);
    spc_session_close(s);
    spc_engine_close(engine);
}
