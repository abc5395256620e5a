/* SPDX-License-Identifier: Apache-2.0 */
/* toylaw.h - for tests of the law of the first LENGTH tokens that an engine over toy models emits:
 * what is asked of a session, and two laws against each other. */
#ifndef SPC_TESTS_TOYLAW_H
#define SPC_TESTS_TOYLAW_H

#include "toy.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { LENGTH = 3, VOCAB = 3, SEQUENCES = 27 };

typedef struct {
    toy_law law;
    int32_t gamma;
    int32_t max_tokens; /* LENGTH: rounds run into the budget; more: they do not */
    spc_verify_mode verify;
    spc_bonus_mode bonus;
} setting;

/* prompt: [count] */
static inline spc_session *open_setting(spc_engine *engine, const setting *s, const int32_t *prompt,
                                        int32_t count)
{
    spc_session_options options;
    spc_session *session;
    spc_error error;

    spc_session_options_init(&options);
    options.rule = s->law.rule;
    options.gamma = s->gamma;
    options.temperature = s->law.temperature;
    options.nucleus = s->law.nucleus;
    options.max_tokens = s->max_tokens;
    options.verify = s->verify;
    options.bonus = s->bonus;
    cr_assert_eq(spc_session_open(engine, &options, prompt, count, &session, &error), SPC_OK, "%s",
                 error.message);
    return session;
}

/* Nothing seen, but these times of one row and of two: equal scripts meet equal choices. */
static inline void forget(spc_gamma *g, const float drafter[2], const float verifier[2])
{
    static const int32_t rows[] = {1, 2};
    spc_gamma_lane *lane = g->lane;
    spc_session **whose = g->whose;

    memset(g, 0, sizeof *g);
    g->lane = lane;
    g->whose = whose;
    g->measured = true;
    spc_pace_lay(&g->times.drafter, rows, drafter, 2);
    spc_pace_lay(&g->times.verifier, rows, verifier, 2);
}

/* The number of a sequence, 0 .. SEQUENCES - 1; token: [LENGTH]. */
static inline int32_t sequence_of(const int32_t *token)
{
    int32_t index = 0;

    for (int32_t i = 0; i < LENGTH; i++) index = index * VOCAB + token[i];
    return index;
}

/* Total variation; [SEQUENCES]. */
static inline double distance(const double *a, const double *b)
{
    double sum = 0;

    for (int32_t i = 0; i < SEQUENCES; i++) sum += fabs(a[i] - b[i]) / 2;
    return sum;
}

#endif
