/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_ngram_law.c - the exact law of what an engine emits whose drafts are looked up, by
 * walking through every outcome of its rounds.
 *
 * Under strict and truncate it is the verifier's, whatever was found; under the other rules that of
 * a drafter with all its mass on what the text before suggests, and the verifier's where it
 * suggests nothing. */
#include "toy.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LENGTH = 3, VOCAB = 3, SEQUENCES = 27, PROMPT = 7, LONG = 12 };

/* Something is found behind the first, at first nothing behind the second, whose tokens are all
 * different but for what is decoded. */
static const struct {
    int32_t token[PROMPT], count;
} prompts[] = {{{1, 0, 2, 0, 1, 0, 2}, 7}, {{0, 1, 2}, 3}, {{2, 2, 2, 1, 2}, 5}};
enum { PROMPTS = sizeof prompts / sizeof *prompts };

static const spc_ngram_span spans[] = {{1, 2}, {2, 4}};
enum { SPANS = sizeof spans / sizeof *spans };

static const toy_pair tables = {
    .seed = 17, .vocab = VOCAB, .context = 32, .sessions = 1, .spread = 4};

typedef struct {
    toy_law law;
    int32_t gamma, max_tokens;
    spc_verify_mode verify;
    spc_bonus_mode bonus;
    int32_t prompt;
    spc_ngram_span span;
} setting;

/* What all runs of a test had of each. */
static struct {
    int64_t drafted, accepted, rejected, undrafted, chosen[SPC_GAMMA_MAX + 1];
} tally;

static void count_up(const spc_stats *s)
{
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) {
        tally.drafted += s->drafted[i];
        tally.accepted += s->accepted[i];
        tally.rejected += s->rejected[i];
    }
    tally.undrafted += s->drafted[0] < s->rounds;
    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) tally.chosen[g] += s->chosen[g];
}

static spc_session *open_session(spc_engine *engine, const setting *s)
{
    spc_session_options o;
    spc_session *session;
    spc_error error;

    spc_session_options_init(&o);
    o.rule = s->law.rule;
    o.gamma = s->gamma;
    o.temperature = s->law.temperature;
    o.nucleus = s->law.nucleus;
    o.max_tokens = s->max_tokens;
    o.verify = s->verify;
    o.bonus = s->bonus;
    cr_assert_eq(spc_session_open(engine, &o, prompts[s->prompt].token, prompts[s->prompt].count,
                                  &session, &error),
                 SPC_OK, "%s", error.message);
    return session;
}

/* Nothing seen, the verifier's times: equal scripts meet equal choices. */
static void forget(spc_gamma *g)
{
    static const int32_t rows[] = {1, 2};
    static const float none[] = {1, 1}, verifier[] = {1000, 1400};
    spc_gamma_lane *lane = g->lane;

    memset(g, 0, sizeof *g);
    g->lane = lane;
    g->measured = true;
    spc_pace_lay(&g->times.drafter, rows, none, 2);
    spc_pace_lay(&g->times.verifier, rows, verifier, 2);
}

/* law: [SEQUENCES] of the first LENGTH tokens, by enumeration. */
static void emitted_law(const setting *s, double *law)
{
    toy_clock clock = {0, 0, 0, 1000, 400};
    toy_script script;
    toy_pair pair = tables;
    spc_engine *engine;

    toy_script_begin(&script);
    pair.chance = &script.chance;
    if (s->gamma == SPC_GAMMA_AUTO) pair.clock = &clock;
    engine = toy_engine(&pair);
    toy_look_up(engine, s->span.least, s->span.most);
    memset(law, 0, SEQUENCES * sizeof *law);
    do {
        int32_t count = 0, index = 0;
        const int32_t *token = NULL;
        spc_session *session;

        forget(&engine->gamma);
        session = open_session(engine, s);
        toy_script_run(&script);
        while (count < LENGTH) {
            cr_assert_eq(spc_session_step(session, NULL), SPC_OK);
            token = spc_session_tokens(session, &count);
        }
        for (int32_t i = 0; i < LENGTH; i++) index = index * VOCAB + token[i];
        law[index] += script.probability;
        cr_assert_eq(session->counters.drafter_calls, 0);
        count_up(&session->counters);
        spc_session_close(session);
    } while (toy_script_next(&script));
    spc_engine_close(engine);
}

/* What the text before suggests: n by n, place by place. */
static int32_t suggested(const int32_t *text, int32_t length, spc_ngram_span span)
{
    for (int32_t n = span.most; n >= span.least; n--) {
        for (int32_t end = length - 2; end >= n - 1 && length >= n; end--) {
            if (memcmp(text + end - n + 1, text + length - n, (size_t)n * sizeof *text) == 0) {
                return text[end + 1];
            }
        }
    }
    return -1;
}

static bool is_truncate(const char *rule)
{
    return strncmp(rule, "truncate", 8) == 0;
}

/* The target of one token. */
static void target_behind(const setting *s, const int32_t *text, int32_t length, double *pi)
{
    const toy_law alone = {"strict", s->law.temperature, s->law.nucleus};
    int32_t draft = suggested(text, length, s->span);
    float drafter[VOCAB], verifier[VOCAB];

    toy_logits(&tables, false, text, length, verifier);
    for (int32_t v = 0; v < VOCAB; v++) drafter[v] = v == draft ? 0.0f : -1e30f;
    if (draft < 0) drafter[0] = 0;
    /* truncate has a target of its own without a draft, too */
    toy_target_of(drafter, verifier, VOCAB,
                  draft >= 0 || is_truncate(s->law.rule) ? &s->law : &alone, pi);
}

static void wanted_law(const setting *s, double *law)
{
    for (int32_t index = 0; index < SEQUENCES; index++) {
        const int32_t emitted[LENGTH] = {index / 9, index / 3 % 3, index % 3};
        int32_t text[PROMPT + LENGTH], length = prompts[s->prompt].count;

        memcpy(text, prompts[s->prompt].token, (size_t)length * sizeof *text);
        law[index] = 1;
        for (int32_t i = 0; i < LENGTH; i++) {
            double pi[TOY_VOCAB];

            target_behind(s, text, length, pi);
            law[index] *= pi[emitted[i]];
            text[length++] = emitted[i];
        }
    }
}

static double distance(const double *a, const double *b)
{
    double sum = 0;

    for (int32_t i = 0; i < SEQUENCES; i++) sum += fabs(a[i] - b[i]) / 2;
    return sum;
}

static void expect_law(const setting *s)
{
    double got[SEQUENCES], wanted[SEQUENCES];

    emitted_law(s, got);
    wanted_law(s, wanted);
    cr_expect_lt(distance(got, wanted), 1e-6,
                 "%s gamma %d max %d verify %d bonus %d T %g prompt %d n-grams of %d to %d: %g",
                 s->law.rule, (int)s->gamma, (int)s->max_tokens, (int)s->verify, (int)s->bonus,
                 (double)s->law.temperature, (int)s->prompt, (int)s->span.least, (int)s->span.most,
                 distance(got, wanted));
}

/* Under every prompt and span. */
static void expect_laws(setting s)
{
    for (s.prompt = 0; s.prompt < PROMPTS; s.prompt++) {
        for (int32_t k = 0; k < SPANS; k++) {
            s.span = spans[k];
            expect_law(&s);
        }
    }
}

static void expect_all_met(void)
{
    cr_expect(tally.drafted > 100 && tally.accepted > 100 && tally.rejected > 100 &&
                  tally.undrafted > 100,
              "%d drafted, %d accepted, %d rejected, %d runs with a round that had no draft",
              (int)tally.drafted, (int)tally.accepted, (int)tally.rejected, (int)tally.undrafted);
}

static const char *const exact[] = {"strict", "truncate:alpha=0.5", "truncate:top-p=0.6",
                                    "lossy:alpha=0"};
enum { EXACT = sizeof exact / sizeof *exact };

Test(host_ngram_law, the_verifiers_law_whatever_is_found)
{
    for (int32_t r = 0; r < EXACT; r++) {
        for (int32_t gamma = 0; gamma <= 3; gamma++) {
            for (int32_t bonus = SPC_BONUS_TARGET; bonus <= SPC_BONUS_STEP; bonus++) {
                if (bonus == SPC_BONUS_VERIFIER && is_truncate(exact[r])) continue;

                setting s = {{exact[r], 1, true},   gamma, LENGTH, SPC_VERIFY_TOKEN,
                             (spc_bonus_mode)bonus, 0,     {1, 2}};

                expect_laws(s);
                s.max_tokens = LONG;
                expect_laws(s);
            }
        }
    }
    expect_all_met();
}

Test(host_ngram_law, the_same_block_by_block)
{
    for (int32_t r = 0; r < EXACT; r++) {
        for (int32_t gamma = 1; gamma <= 3; gamma++) {
            setting s = {{exact[r], 1, true}, gamma, LENGTH, SPC_VERIFY_BLOCK,
                         SPC_BONUS_TARGET,    0,     {1, 2}};

            expect_laws(s);
            s.max_tokens = LONG;
            expect_laws(s);
        }
    }
    expect_all_met();
}

Test(host_ngram_law, draft_lengths_that_are_chosen_leave_it)
{
    for (int32_t r = 0; r < EXACT; r++) {
        setting s = {{exact[r], 1, true},
                     SPC_GAMMA_AUTO,
                     LONG,
                     SPC_VERIFY_TOKEN,
                     SPC_BONUS_TARGET,
                     0,
                     {1, 2}};

        expect_laws(s);
        s.bonus = SPC_BONUS_STEP;
        expect_laws(s);
        s.bonus = SPC_BONUS_TARGET;
        s.verify = SPC_VERIFY_BLOCK;
        expect_laws(s);
    }
    expect_all_met();
    cr_expect(tally.chosen[0] > 0 && tally.chosen[1] > 0 && tally.chosen[2] > 0);
}

/* A draft as long as what is looked at: its end, from the verifier, does not show. */
Test(host_ngram_law, other_rules_have_a_drafter_that_is_sure)
{
    static const char *const rules[] = {"lossy:alpha=0.3",    "lossy:alpha=0.3,beta=solve",
                                        "token-v2:alpha=0.2", "token-v3:alpha=0.5",
                                        "bild:alpha=1",       "head:alpha=0.3",
                                        "typical:eps=0.09"};

    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        setting s = {{rules[r], 1, true}, LENGTH, LONG,  SPC_VERIFY_TOKEN,
                     SPC_BONUS_VERIFIER,  0,      {1, 2}};

        expect_laws(s);
        s.verify = SPC_VERIFY_BLOCK;
        expect_laws(s);
        s.law.temperature = 0.6f;
        expect_laws(s);
    }
    expect_all_met();
}

Test(host_ngram_law, greedy_rounds_emit_one_sequence)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "lossy-greedy:alpha=0.5",
                                        "truncate:alpha=0.5"};

    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        setting s = {{rules[r], 0, true}, LENGTH, LONG,  SPC_VERIFY_TOKEN,
                     SPC_BONUS_VERIFIER,  0,      {1, 2}};

        expect_laws(s);
    }
}

/* The negative control: a target that heeds the draft is another than the verifier's. */
Test(host_ngram_law, the_drafts_matter_to_rules_that_trust_them)
{
    setting s = {{"token-v3:alpha=0.5", 1, true},
                 LENGTH,
                 LONG,
                 SPC_VERIFY_TOKEN,
                 SPC_BONUS_VERIFIER,
                 0,
                 {1, 2}};
    double got[SEQUENCES], wanted[SEQUENCES];

    emitted_law(&s, got);
    s.law.rule = "strict";
    wanted_law(&s, wanted);
    cr_expect_gt(distance(got, wanted), 1e-2);
}
