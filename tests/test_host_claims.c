/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_claims.c - what is said of rules, seen on the embedded pair and thirty sentences: which
 * of them are one rule at temperature 0, and how far a small nucleus leaves one to be tuned. */
#include "decode.h"

#include <stdio.h>

static const char *const sentences[] = {"The weather is nice today.",
                                        "I would like a cup of coffee.",
                                        "Where is the nearest station?",
                                        "She has lived here for three years.",
                                        "Nobody knew what to say.",
                                        "He gave his sister a book for her birthday.",
                                        "We have never been to Italy.",
                                        "Can you help me carry this box?",
                                        "The dog slept under the table all day.",
                                        "They decided to sell the old house."};
static const char *const languages[] = {"de", "es", "fr"};

enum { SENTENCES = sizeof sentences / sizeof *sentences, PROMPTS = 3 * SENTENCES, NUMBERS = 5 };

static const double numbers[NUMBERS] = {0.1, 0.3, 0.5, 0.7, 0.9};

static prompt prompt_number(const spc_engine *engine, int32_t i)
{
    char text[128];

    (void)snprintf(text, sizeof text, "<s><2%s>%s<sep>", languages[i / SENTENCES],
                   sentences[i % SENTENCES]);
    return prompt_of(engine, text);
}

static decoded translate(spc_engine *engine, int32_t i, const char *rule, int32_t gamma,
                         float temperature, float top_p, bool nucleus)
{
    prompt p = prompt_number(engine, i);
    spc_session_options o = options_of(rule, gamma, temperature);

    o.top_p = top_p;
    o.nucleus = nucleus;
    o.seed = (uint64_t)i;
    o.max_tokens = 40;
    return decode(engine, &o, &p);
}

static const char *with_number(const char *name, double number, char text[64])
{
    (void)snprintf(text, 64, "%s:alpha=%g", name, number);
    return text;
}

/* The same tokens, from the same rounds. */
static void expect_twins(const decoded *a, const decoded *b, const char *what, int32_t i)
{
    cr_expect(same_tokens(a, b), "%s: prompt %d", what, (int)i);
    cr_expect_eq(a->stats.rounds, b->stats.rounds, "%s: prompt %d", what, (int)i);
    cr_expect_arr_eq(a->stats.accepted, b->stats.accepted, sizeof a->stats.accepted, "%s", what);
}

Test(host_claims, token_v3_at_temperature_0_is_lossy_greedy_token_for_token)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 1);
    int32_t unlike_greedy = 0;

    for (int32_t k = 0; k < NUMBERS; k++) {
        for (int32_t i = 0; i < PROMPTS; i++) {
            char token[64], lossy[64];
            decoded a =
                translate(engine, i, with_number("token-v3", numbers[k], token), 5, 0, 1, true);
            decoded b =
                translate(engine, i, with_number("lossy-greedy", numbers[k], lossy), 5, 0, 1, true);
            decoded greedy = translate(engine, i, "verifier-only", 0, 0, 1, true);

            expect_twins(&a, &b, token, i);
            unlike_greedy += !same_tokens(&a, &greedy);
        }
    }
    cr_expect_gt(unlike_greedy, 0, "the rule does something");
    spc_engine_close(engine);
}

Test(host_claims, lossy_at_temperature_0_is_greedy_decoding_whatever_its_alpha)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 1);

    for (int32_t i = 0; i < PROMPTS; i++) {
        decoded greedy = translate(engine, i, "verifier-only", 0, 0, 1, true);
        decoded strict = translate(engine, i, "strict", 5, 0, 1, true);

        cr_expect(same_tokens(&greedy, &strict), "prompt %d", (int)i);
        for (int32_t k = 0; k < NUMBERS; k++) {
            char lossy[64];
            decoded d =
                translate(engine, i, with_number("lossy", numbers[k], lossy), 5, 0, 1, true);

            expect_twins(&strict, &d, lossy, i);
        }
    }
    spc_engine_close(engine);
}

/* Verifier calls and tokens over all prompts, under each number. */
static int32_t distinct_costs(spc_engine *engine, const char *name, float top_p, bool nucleus)
{
    int64_t calls[NUMBERS] = {0}, tokens[NUMBERS] = {0};
    int32_t distinct = 0;

    for (int32_t k = 0; k < NUMBERS; k++) {
        int32_t j = 0;

        for (int32_t i = 0; i < PROMPTS; i++) {
            char rule[64];
            decoded d =
                translate(engine, i, with_number(name, numbers[k], rule), 5, 1, top_p, nucleus);

            calls[k] += d.stats.verifier_calls;
            tokens[k] += d.stats.tokens;
        }
        while (j < k && (calls[j] != calls[k] || tokens[j] != tokens[k])) j++;
        distinct += j == k;
    }
    return distinct;
}

/* In a nucleus of one token or two, lossy has nothing to be lenient about: a token that the
 * verifier's nucleus lacks is rejected whatever alpha is.  The paper's token-v3 looks at the row
 * before it is cut, and may leave the nucleus; kept inside it (nucleus=on), it collapses too. */
Test(host_claims, a_small_nucleus_leaves_lossy_few_operating_points_and_token_v3_all)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 1);
    int32_t lossy = distinct_costs(engine, "lossy", 0.1f, false);
    int32_t token = distinct_costs(engine, "token-v3", 0.1f, false);
    int32_t inside = distinct_costs(engine, "token-v3", 0.1f, true);

    cr_expect_leq(lossy, 2, "%d", (int)lossy);
    cr_expect_geq(token, 4, "%d", (int)token);
    cr_expect_leq(inside, 2, "%d", (int)inside);
    cr_expect_eq(distinct_costs(engine, "lossy", 1, false), NUMBERS, "whole rows: it can be tuned");
    spc_engine_close(engine);
}
