/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_logprobs.c - how probable tokens were to the verifier: what a row says, against double,
 * and what sessions with the option keep of each token. */
#include "host/logprobs.h"

#include "rounds.h"
#include "row_details.h"
#include "toyrows.h"

enum { TOKENS = 14, TOP = 3 };

/* ---- one row ---- */

static double log_sum_of(const float *row, int32_t vocab)
{
    double sum = 0;

    for (int32_t v = 0; v < vocab; v++) sum += exp((double)row[v]);
    return log(sum);
}

/* Does every entry say what the row does, and does nothing that is left out come before the last?
 */
static void expect_top(const float *row, int32_t vocab, const spc_logprob *top, int32_t count)
{
    double log_sum = log_sum_of(row, vocab);
    int32_t possible = 0, before = 0;

    for (int32_t v = 0; v < vocab; v++) possible += row[v] > -INFINITY;
    for (int32_t i = 0; i < count; i++) {
        if (i >= possible) {
            cr_expect_eq(top[i].token, -1);
            cr_expect_eq(top[i].value, -INFINITY);
            continue;
        }
        cr_assert(top[i].token >= 0 && top[i].token < vocab);
        cr_expect_float_eq((double)top[i].value, (double)row[top[i].token] - log_sum, 2e-5);
        if (i == 0) continue;
        cr_expect(row[top[i].token] < row[top[i - 1].token] ||
                  (row[top[i].token] == row[top[i - 1].token] && top[i].token > top[i - 1].token));
    }
    if (count == 0 || possible < count) return;
    for (int32_t v = 0; v < vocab; v++) {
        float last = row[top[count - 1].token];

        before += row[v] > last || (row[v] == last && v <= top[count - 1].token);
    }
    cr_expect_eq(before, count, "%d of %d", (int)before, (int)count);
}

/* Rows of several tiles; every third of few values, so that many are equal, every fourth mostly
 * -inf.
 */
Test(host_logprobs, a_row_is_read_as_in_double)
{
    enum { MOST = 2 * SPC_TILE + 77 };
    static const int32_t vocabs[] = {1, 2, 21, SPC_TILE, SPC_TILE + 1, MOST};
    static float row[MOST];
    spc_logprob got[1 + SPC_TOP_LOGPROBS_MAX];
    dice d = {5};

    for (int32_t trial = 0; trial < 24; trial++) {
        int32_t vocab = vocabs[trial % 6], token = 0, top = trial % 2 ? SPC_TOP_LOGPROBS_MAX : 2;

        for (int32_t v = 0; v < vocab; v++) {
            float z = (float)dice_below(&d, trial % 3 ? 40000 : 5) / (trial % 3 ? 1000.0f : 1.0f);

            row[v] = trial % 4 == 3 && v % 7 ? -INFINITY : z - 20;
        }
        row[vocab - 1] = 30; /* in the last tile, above all that was added before */
        if (vocab > 2) token = vocab / 7 * 7;
        spc_logprobs_of(row, vocab, token, top, got);
        cr_expect_eq(got[0].token, token);
        cr_expect_float_eq((double)got[0].value, (double)row[token] - log_sum_of(row, vocab), 3e-5);
        expect_top(row, vocab, got + 1, top);
        if (got[1].token == token) cr_expect_eq(got[1].value, got[0].value);
    }
}

Test(host_logprobs, a_bad_row_says_nothing)
{
    float row[9];
    spc_logprob got[3];

    for (int32_t kind = 0; kind < 3; kind++) {
        for (int32_t v = 0; v < 9; v++) row[v] = kind == 1 ? -INFINITY : (float)v;
        if (kind == 2) row[4] = NAN;
        spc_logprobs_of(kind == 0 ? NULL : row, 9, 7, 2, got);
        cr_expect(got[0].token == 7 && isnan(got[0].value), "%d", (int)kind);
        for (int32_t i = 1; i < 3; i++) {
            cr_expect(got[i].token == -1 && got[i].value == -INFINITY, "%d", (int)kind);
        }
    }
}

/* ---- sessions ---- */

static const toy_pair PAIR = {.seed = 5, .vocab = 8, .context = 32, .sessions = 1, .spread = 3};

/* What on_token has heard. */
typedef struct {
    spc_logprob told[TOKENS][1 + TOP];
    int32_t count;
} heard;

static bool hear(void *user, const spc_token *token)
{
    heard *h = user;

    cr_assert(token->logprobs && h->count < TOKENS);
    memcpy(h->told[h->count++], token->logprobs, sizeof *h->told);
    return true;
}

/* Tokens are those without the option, whatever else is asked for, and each has what the verifier's
 * row behind those before it says. */
static void check_session(spc_engine *engine, const spc_session_options *plain, bool details)
{
    spc_session_options o = *plain;
    decoded without = decode(engine, plain, &start), with;
    heard h = {.count = 0};
    prompt text = start;
    const spc_logprob *got;
    spc_session *s;
    int32_t count;

    o.logprobs = true;
    o.top_logprobs = TOP;
    o.details = details;
    o.on_token = hear;
    o.user = &h;
    s = open_session(engine, &o, &start);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    with = decoded_of(s);
    got = spc_session_logprobs(s, &count);
    cr_assert(same_tokens(&with, &without), "%s: other tokens", o.rule);
    cr_assert_eq(count, with.count);
    cr_assert_eq(h.count, count);
    for (int32_t i = 0; i < count; i++, got += 1 + TOP) {
        float verifier[TOY_VOCAB];

        toy_logits(&PAIR, false, text.id, text.count, verifier);
        for (int32_t k = 0; k < o.logit_bias_count; k++) {
            verifier[o.logit_bias[k].token] += o.logit_bias[k].bias;
        }
        cr_expect(memcmp(h.told[i], got, sizeof *h.told) == 0);
        cr_expect_eq(got[0].token, with.token[i]);
        cr_expect_float_eq((double)got[0].value,
                           (double)verifier[with.token[i]] - log_sum_of(verifier, PAIR.vocab), 2e-5,
                           "%s", o.rule);
        expect_top(verifier, PAIR.vocab, got + 1, TOP);
        text.id[text.count++] = with.token[i];
    }
    cr_expect_eq(spc_session_details(s, &count) != NULL, details);
    spc_session_close(s);
}

Test(host_logprobs, sessions_keep_what_the_rows_say)
{
    static const spc_logit_bias most[] = {{0, -INFINITY}, {1, -INFINITY}, {2, 1},
                                          {4, -INFINITY}, {5, -INFINITY}, {7, -INFINITY}};
    spc_engine *engine = toy_engine(&PAIR);

    for (int32_t r = 0; r < LAWS; r++) {
        for (int32_t kind = 0; kind < 6; kind++) {
            spc_session_options o = options_for(laws[r], kind % 3,
                                                kind == 5   ? 0.0f
                                                : kind == 4 ? 0.7f
                                                            : 1.0f,
                                                TOKENS);

            o.seed = (uint64_t)kind;
            if (kind == 3) {
                o.logit_bias = most; /* fewer may come than are asked for */
                o.logit_bias_count = 6;
            }
            do check_session(engine, &o, kind % 2);
            while (next_mode(&o));
        }
    }
    spc_engine_close(engine);
}

/* A round that decides more than the budget leaves, and a restart, stay within what there is. */
Test(host_logprobs, a_session_keeps_as_many_as_tokens)
{
    spc_engine *engine = toy_engine(&PAIR);

    for (int32_t budget = 1; budget <= 6; budget++) {
        spc_session_options o = options_for("strict", GAMMA, 1, budget);
        spc_session *s;
        int32_t count;

        o.logprobs = true;
        o.top_logprobs = SPC_TOP_LOGPROBS_MAX;
        s = open_session(engine, &o, &start);
        for (int32_t turn = 0; turn < 2; turn++) {
            cr_expect_not_null(spc_session_logprobs(s, &count));
            cr_expect_eq(count, 0);
            cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
            (void)spc_session_logprobs(s, &count);
            cr_expect_eq(count, budget);
            cr_assert_eq(spc_session_restart(s, start.id, start.count, NULL), SPC_OK);
        }
        spc_session_close(s);
    }
    spc_engine_close(engine);
}

Test(host_logprobs, what_cannot_be_kept_is_refused)
{
    static const struct {
        const char *rule, *says;
        bool logprobs;
        int32_t top;
        spc_status status;
    } cases[] = {
        {"token-chow:alpha=0.6", "logprobs: rule token-chow", true, 0, SPC_EUNSUPPORTED},
        {"strict", "top-logprobs: expected 0 to 20, found 21", true, 21, SPC_EUSAGE},
        {"strict", "top-logprobs: expected 0 to 20, found -1", true, -1, SPC_EUSAGE},
        {"strict", "top-logprobs: found 1 without logprobs", false, 1, SPC_EUSAGE},
    };
    spc_engine *engine = toy_engine(&PAIR);
    spc_session *s;
    spc_error error;
    int32_t count = 7;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_session_options o = options_for(cases[i].rule, GAMMA, 0, TOKENS);

        o.logprobs = cases[i].logprobs;
        o.top_logprobs = cases[i].top;
        cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error),
                     cases[i].status);
        cr_expect_not_null(strstr(error.message, cases[i].says), "%s", error.message);
    }
    spc_session_options o = options_for("strict", GAMMA, 0, TOKENS);

    s = open_session(engine, &o, &start);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    cr_expect_null(spc_session_logprobs(s, &count));
    cr_expect_eq(count, 0);
    spc_session_close(s);
    spc_engine_close(engine);
}
