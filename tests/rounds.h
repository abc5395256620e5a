/* SPDX-License-Identifier: Apache-2.0 */
/* rounds.h - sessions over toy pairs, by every mode of verification and bonus. */
#ifndef SPC_TESTS_ROUNDS_H
#define SPC_TESTS_ROUNDS_H

#include "decode.h"
#include "toy.h"

enum { PROMPT = 3, GAMMA = 4 };

static const prompt start = {{1, 0, 1}, PROMPT};

/* The first ones have the drafter's own row as their target where both models are equal; a token
 * rule sharpens it. */
static const char *const rules[] = {
    "strict",       "opt:alpha=0.1",      "lossy:alpha=0.3",   "chow:alpha=0.5",
    "bild:alpha=1", "token-v3:alpha=0.5", "token-v1:alpha=0.2"};
enum { RULES = sizeof rules / sizeof *rules, FAITHFUL = RULES - 2 };

static inline spc_session_options options_for(const char *rule, int32_t gamma, float temperature,
                                              int32_t max_tokens)
{
    spc_session_options o = options_of(rule, gamma, temperature);

    o.max_tokens = max_tokens;
    return o;
}

/* The next combination of verification and bonus; begin with {TOKEN, TARGET}. */
static inline bool next_mode(spc_session_options *o)
{
    if (o->bonus < SPC_BONUS_VERIFIER || (o->bonus < SPC_BONUS_STEP && !o->verify)) {
        o->bonus++;
        return true;
    }
    if (o->verify == SPC_VERIFY_BLOCK) return false;
    o->verify = SPC_VERIFY_BLOCK; /* which has no bonus=step */
    o->bonus = SPC_BONUS_TARGET;
    return true;
}

#endif
