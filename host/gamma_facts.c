/* SPDX-License-Identifier: Apache-2.0 */
/* gamma_facts.c - what is told of the choice of draft lengths: times, and what they make of it. */
#include "session.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Best factor over plain decoding at this acceptance, and the length that has it. */
static double best_factor(const spc_gamma_times *t, const float *accept, int32_t *gamma)
{
    spc_gamma_lane lane = {.last = SPC_LAST_NEVER};
    double best = 0;

    memcpy(lane.accept, accept, sizeof lane.accept);
    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) {
        lane.chosen = g;

        double factor = (double)(spc_gamma_rate(t, &lane, 1) * spc_pace_at(&t->verifier, 1));

        if (g > 0 && factor <= best) continue;
        best = factor;
        *gamma = g;
    }
    return best;
}

/* Least acceptance at which drafting pays; 1: none does. */
static double break_even(const spc_gamma_times *t)
{
    double low = 0, high = 1;

    for (int32_t step = 0; step < 20; step++) {
        double middle = (low + high) / 2;
        float accept[SPC_GAMMA_MAX];
        int32_t gamma;

        for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) accept[i] = (float)middle;
        *(best_factor(t, accept, &gamma) > 1.0 ? &high : &low) = middle;
    }
    return high;
}

bool spc_engine_gamma(const spc_engine *engine, spc_gamma_facts *out)
{
    const spc_gamma *g = &engine->gamma;
    float accept[SPC_GAMMA_MAX];

    memset(out, 0, sizeof *out);
    if (!g->measured) return false;
    spc_gamma_accept(g, NULL, accept);
    out->acceptance = (double)accept[0];
    out->factor = best_factor(&g->times, accept, &out->gamma);
    out->draft_ns = (double)spc_pace_at(&g->times.drafter, 1);
    out->plain_ns = (double)spc_pace_at(&g->times.verifier, 1);
    out->score_ns = (double)spc_pace_at(&g->times.verifier, out->gamma + 1);
    out->break_even = break_even(&g->times);
    return true;
}

void spc_gamma_tell(const spc_engine *engine)
{
    spc_gamma_facts f;
    char line[SPC_GAMMA_LINE_BYTES];

    if (!engine->log || !spc_engine_gamma(engine, &f)) return;
    spc_gamma_line(&f, line);
    engine->log(engine->user, line);
}

void spc_gamma_line(const spc_gamma_facts *f, char line[SPC_GAMMA_LINE_BYTES])
{
    if (f->gamma == 0) {
        (void)snprintf(line, SPC_GAMMA_LINE_BYTES,
                       "gamma auto: drafter %.3f ms a token, verifier %.3f ms for 1 row; drafting "
                       "pays from an acceptance of %.2f; at %.2f plain decoding is expected to be "
                       "the fastest",
                       f->draft_ns * 1e-6, f->plain_ns * 1e-6, f->break_even, f->acceptance);
        return;
    }
    (void)snprintf(line, SPC_GAMMA_LINE_BYTES,
                   "gamma auto: drafter %.3f ms a token, verifier %.3f ms for 1 row, %.3f ms for "
                   "%" PRId32 "; drafting pays from an acceptance of %.2f; at %.2f, gamma %" PRId32
                   " is expected to be %.2f times as fast as plain decoding",
                   f->draft_ns * 1e-6, f->plain_ns * 1e-6, f->score_ns * 1e-6, f->gamma + 1,
                   f->break_even, f->acceptance, f->gamma, f->factor);
}
