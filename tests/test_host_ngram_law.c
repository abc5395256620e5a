/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_ngram_law.c - the exact law of what an engine emits whose drafts are looked up, by
 * walking through every outcome of its rounds.
 *
 * Under strict and truncate it is the verifier's, whatever was found; under the other rules that of
 * a drafter with all its mass on what the text before suggests, and the verifier's where it
 * suggests nothing. */
#include "toylaw.h"

#include <stdio.h>

enum { PROMPT = 7, LONG = 12 };

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

/* Where drafts come from. */
typedef struct {
    int32_t prompt;
    spc_ngram_span span;
} source;

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

/* law: [SEQUENCES] of the first LENGTH tokens, by enumeration. */
static void emitted_law(const setting *s, const source *from, double *law)
{
    static const float none[] = {1, 1}, verifier[] = {1000, 1400};
    toy_clock clock = {0, 0, 0, 1000, 400};
    toy_script script;
    toy_pair pair = tables;
    spc_engine *engine;

    toy_script_begin(&script);
    pair.chance = &script.chance;
    if (s->gamma == SPC_GAMMA_AUTO) pair.clock = &clock;
    engine = toy_engine(&pair);
    toy_look_up(engine, from->span.least, from->span.most);
    memset(law, 0, SEQUENCES * sizeof *law);
    do {
        int32_t count = 0;
        const int32_t *token = NULL;
        spc_session *session;

        forget(&engine->gamma, none, verifier);
        session = open_setting(engine, s, prompts[from->prompt].token, prompts[from->prompt].count);
        toy_script_run(&script);
        while (count < LENGTH) {
            cr_assert_eq(spc_session_step(session, NULL), SPC_OK);
            token = spc_session_tokens(session, &count);
        }
        law[sequence_of(token)] += script.probability;
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
static void target_behind(const setting *s, spc_ngram_span span, const int32_t *text,
                          int32_t length, double *pi)
{
    const toy_law alone = {"strict", s->law.temperature, s->law.nucleus};
    int32_t draft = suggested(text, length, span);
    float drafter[VOCAB], verifier[VOCAB];

    toy_logits(&tables, false, text, length, verifier);
    for (int32_t v = 0; v < VOCAB; v++) drafter[v] = v == draft ? 0.0f : -1e30f;
    if (draft < 0) drafter[0] = 0;
    /* truncate has a target of its own without a draft, too */
    toy_target_of(drafter, verifier, VOCAB,
                  draft >= 0 || is_truncate(s->law.rule) ? &s->law : &alone, pi);
}

static void wanted_law(const setting *s, const source *from, double *law)
{
    for (int32_t index = 0; index < SEQUENCES; index++) {
        const int32_t emitted[LENGTH] = {index / 9, index / 3 % 3, index % 3};
        int32_t text[PROMPT + LENGTH], length = prompts[from->prompt].count;

        memcpy(text, prompts[from->prompt].token, (size_t)length * sizeof *text);
        law[index] = 1;
        for (int32_t i = 0; i < LENGTH; i++) {
            double pi[TOY_VOCAB];

            target_behind(s, from->span, text, length, pi);
            law[index] *= pi[emitted[i]];
            text[length++] = emitted[i];
        }
    }
}

static void expect_law(const setting *s, const source *from)
{
    double got[SEQUENCES], wanted[SEQUENCES];

    emitted_law(s, from, got);
    wanted_law(s, from, wanted);
    cr_expect_lt(distance(got, wanted), 1e-6,
                 "%s gamma %d max %d verify %d bonus %d T %g prompt %d n-grams of %d to %d: %g",
                 s->law.rule, (int)s->gamma, (int)s->max_tokens, (int)s->verify, (int)s->bonus,
                 (double)s->law.temperature, (int)from->prompt, (int)from->span.least,
                 (int)from->span.most, distance(got, wanted));
}

/* Under every prompt and span. */
static void expect_laws(setting s)
{
    for (int32_t p = 0; p < PROMPTS; p++) {
        for (int32_t k = 0; k < SPANS; k++) expect_law(&s, &(const source){p, spans[k]});
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

                setting s = {
                    {exact[r], 1, true}, gamma, LENGTH, SPC_VERIFY_TOKEN, (spc_bonus_mode)bonus};

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
            setting s = {{exact[r], 1, true}, gamma, LENGTH, SPC_VERIFY_BLOCK, SPC_BONUS_TARGET};

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
        setting s = {{exact[r], 1, true}, SPC_GAMMA_AUTO, LONG, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

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
        setting s = {{rules[r], 1, true}, LENGTH, LONG, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER};

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
        setting s = {{rules[r], 0, true}, LENGTH, LONG, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER};

        expect_laws(s);
    }
}

/* The negative control: a target that heeds the draft is another than the verifier's. */
Test(host_ngram_law, the_drafts_matter_to_rules_that_trust_them)
{
    setting s = {
        {"token-v3:alpha=0.5", 1, true}, LENGTH, LONG, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER};
    const source from = {0, {1, 2}};
    double got[SEQUENCES], wanted[SEQUENCES];

    emitted_law(&s, &from, got);
    s.law.rule = "strict";
    wanted_law(&s, &from, wanted);
    cr_expect_gt(distance(got, wanted), 1e-2);
}
