/* SPDX-License-Identifier: Apache-2.0 */
/* tile_pairs.c - what is summed over one tile of a pair of rows, on the CPU. */
#include "clones.h"
#include "tiles.h"

#include <string.h>

/* A tile of one row: every entry's processed probability, and its gap where a target has a set.
 * What a nucleus cuts from the verifier's row has a gap of -inf there: no set holds it. */
typedef struct {
    float probability[SPC_TILE], gap[SPC_TILE];
} tile_side;

/* A tile of both, and what tells their entries apart. */
typedef struct {
    tile_side drafter, verifier;
    spc_target target;
    float x;
    int32_t offset, count;
    int32_t top; /* of the verifier's row; -1: none */
} tile_pair;

SPC_CLONES static void tile_probabilities(const float *logits, int32_t count, spc_softmax s,
                                          int32_t offset, float *out)
{
    if (s.greedy) {
        for (int32_t i = 0; i < count; i++) out[i] = offset + i == s.top ? 1.0f : 0.0f;
    } else {
        for (int32_t i = 0; i < count; i++) {
            out[i] = spc_softmax_weight(s, logits[i]) * s.inverse;
        }
    }
}

SPC_CLONES static void tile_gaps(const float *logits, int32_t count, spc_row_stats stats,
                                 spc_gate gate, float temperature, int32_t offset, float least,
                                 float *out)
{
    for (int32_t i = 0; i < count; i++) {
        const float gap = spc_gate_gap(stats, gate, temperature, logits[i], offset + i);

        out[i] = logits[i] >= least ? gap : -SPC_INFINITY;
    }
}

static inline spc_entry entry_of(const tile_pair *t, bool gaps, int32_t i)
{
    const spc_entry e = {{t->drafter.probability[i], t->verifier.probability[i]},
                         {gaps ? t->drafter.gap[i] : 0.0f, gaps ? t->verifier.gap[i] : 0.0f},
                         t->offset + i == t->top,
                         true};

    return e;
}

/* The loop over a tile's entries.  Where it is called with constants a compiler makes it one of
 * vectors, which asks nothing about the rule for every entry. */
static inline __attribute__((always_inline)) void each(const tile_pair *t, spc_summand what,
                                                       spc_target_form form, float *restrict out)
{
    const float x = t->x;
    spc_row_pair pair;

    pair.target = t->target;
    pair.target.form = form;
    pair.target.nucleus = false; /* gaps tell */
    for (int32_t i = 0; i < t->count; i++) {
        out[i] = spc_pair_summand(&pair, what, x, entry_of(t, spc_target_has_set(form), i));
    }
}

/* Sums that are taken often, each compiled for itself: a name, the summand, the form of target. */
#define TILE_LOOPS(LOOP)                                             \
    LOOP(tv, SPC_SUM_TV, SPC_TARGET_DEFER)                           \
    LOOP(js, SPC_SUM_JS, SPC_TARGET_DEFER)                           \
    LOOP(kl, SPC_SUM_KL, SPC_TARGET_DEFER)                           \
    LOOP(rejected, SPC_SUM_REJECTED, SPC_TARGET_LENIENT)             \
    LOOP(above_drafter, SPC_SUM_ABOVE_DRAFTER, SPC_TARGET_LENIENT)   \
    LOOP(above_verifier, SPC_SUM_ABOVE_VERIFIER, SPC_TARGET_LENIENT) \
    LOOP(target_kl, SPC_SUM_TARGET_KL, SPC_TARGET_LENIENT)           \
    LOOP(outside, SPC_SUM_OUTSIDE, SPC_TARGET_SELECT)                \
    LOOP(inside, SPC_SUM_INSIDE_VERIFIER, SPC_TARGET_CUT)            \
    LOOP(residual, SPC_SUM_RESIDUAL, SPC_TARGET_DEFER)               \
    LOOP(residual_select, SPC_SUM_RESIDUAL, SPC_TARGET_SELECT)       \
    LOOP(residual_lenient, SPC_SUM_RESIDUAL, SPC_TARGET_LENIENT)     \
    LOOP(residual_cut, SPC_SUM_RESIDUAL, SPC_TARGET_CUT)             \
    LOOP(target_select, SPC_SUM_TARGET, SPC_TARGET_SELECT)           \
    LOOP(target_lenient, SPC_SUM_TARGET, SPC_TARGET_LENIENT)         \
    LOOP(block, SPC_SUM_BLOCK, SPC_TARGET_DEFER)                     \
    LOOP(block_select, SPC_SUM_BLOCK, SPC_TARGET_SELECT)             \
    LOOP(block_lenient, SPC_SUM_BLOCK, SPC_TARGET_LENIENT)

#define DEFINE(name, what, form)                                                \
    SPC_CLONES static void each_##name(const tile_pair *t, float *restrict out) \
    {                                                                           \
        each(t, what, form, out);                                               \
    }
TILE_LOOPS(DEFINE)

/* One of the others. */
static __attribute__((noinline)) float summand_of(const spc_row_pair *pair, spc_summand what,
                                                  float x, spc_entry e)
{
    return spc_pair_summand(pair, what, x, e);
}

static void summands(const tile_pair *t, const spc_row_pair *pair, spc_summand what,
                     float *restrict out)
{
    const bool gaps = spc_target_has_set(t->target.form);

#define CALL(name, summed, formed)                        \
    if (what == (summed) && t->target.form == (formed)) { \
        each_##name(t, out);                              \
        return;                                           \
    }
    TILE_LOOPS(CALL)
    for (int32_t i = 0; i < t->count; i++) {
        out[i] = summand_of(pair, what, t->x, entry_of(t, gaps, i));
    }
}

static void fill_side(const spc_row_pair *pair, const spc_side *s, const tile_pair *t,
                      tile_side *out)
{
    const spc_row_params *params = pair->round->params;
    float buffer[SPC_TILE], least = -SPC_INFINITY;
    const float *logits;

    if (!s->ready) {
        memset(out, 0, sizeof *out);
        return;
    }
    logits = spc_tile_logits(&s->row, pair->round->vocab, t->offset / SPC_TILE, buffer);
    tile_probabilities(logits, t->count, s->softmax, t->offset, out->probability);
    if (!spc_target_has_set(t->target.form)) return;
    if (s == &pair->verifier && t->target.nucleus) least = s->stats.cut;
    tile_gaps(logits, t->count, s->stats, (spc_gate)params->rule.gate, params->sampling.temperature,
              t->offset, least, out->gap);
}

void spc_tile_summands(const spc_row_pair *pair, spc_summand what, float x, int32_t tile,
                       float *out)
{
    const spc_side *v = &pair->verifier;
    tile_pair t;

    t.target = pair->target;
    t.x = x;
    t.offset = tile * SPC_TILE;
    t.count = spc_tile_width(pair->round->vocab, tile);
    t.top = v->ready ? v->stats.top : -1;
    fill_side(pair, &pair->drafter, &t, &t.drafter);
    fill_side(pair, v, &t, &t.verifier);
    summands(&t, pair, what, out);
}
