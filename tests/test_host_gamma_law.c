/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_gamma_law.c - gamma auto leaves the law, under the noise of the product. */
#include "toygamma.h"

#include <math.h>

enum { LAW_TOKENS = 3, LAW_VOCAB = 3, LAW_SEQUENCES = 27, LAW_RUNS = 60000 };

/* Looks at what it must not: the drafts of the last round that were discarded. */
static int32_t by_discarded(const spc_session *s)
{
    return s->counters.rounds == 0 ? 3 : s->token[s->length] == 0 ? 0 : 3;
}

/* Distance of what many seeds emit from the product of the targets. */
static double distance_from_target(int32_t gamma, int32_t (*cheat)(const spc_session *session))
{
    static int32_t seen[LAW_SEQUENCES];
    toy_clock clock = {0, 600, 0, 1000, 10};
    toy_pair pair = {.seed = 11, .vocab = LAW_VOCAB, .context = 32, .sessions = 1, .spread = 4};
    toy_law law = {"strict", 1, true};
    spc_session_options o = options_of("strict", gamma, 1);
    prompt p = {{1, 0}, 2};
    double sum = 0;

    pair.clock = &clock;
    spc_engine *engine = toy_engine(&pair);

    memset(seen, 0, sizeof seen);
    o.max_tokens = 8;
    for (int32_t run = 0; run < LAW_RUNS; run++) {
        int32_t count = 0, index = 0;
        const int32_t *token = NULL;

        o.seed = (uint64_t)run;
        spc_session *s = open_session(engine, &o, &p);

        while (count < LAW_TOKENS) {
            if (cheat) s->gamma = cheat(s);
            cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
            token = spc_session_tokens(s, &count);
        }
        for (int32_t i = 0; i < LAW_TOKENS; i++) index = index * LAW_VOCAB + token[i];
        seen[index]++;
        spc_session_close(s);
    }
    spc_engine_close(engine);
    for (int32_t index = 0; index < LAW_SEQUENCES; index++) {
        int32_t text[2 + LAW_TOKENS] = {1, 0, index / 9, index / 3 % 3, index % 3};
        double wanted = 1;

        for (int32_t i = 0; i < LAW_TOKENS; i++) {
            double pi[TOY_VOCAB];

            toy_target(&pair, &law, text, 2 + i, pi);
            wanted *= pi[text[2 + i]];
        }
        sum += fabs((double)seen[index] / LAW_RUNS - wanted) / 2;
    }
    return sum;
}

/* Scripts of outcomes (test_host_law.c) cannot see noise that is used twice; seeds can. */
Test(host_gamma_law, chosen_lengths_leave_the_law_and_a_look_at_discarded_drafts_would_not)
{
    double chosen = distance_from_target(SPC_GAMMA_AUTO, NULL);
    double fixed = distance_from_target(3, NULL);
    double cheated = distance_from_target(3, by_discarded);

    cr_expect_lt(chosen, 0.008, "chosen: %g", chosen); /* 27 cells: 0.006 by chance at most */
    cr_expect_lt(fixed, 0.008, "fixed: %g", fixed);
    cr_expect_gt(cheated, 0.012, "the check can tell: %g", cheated);
}
