/* SPDX-License-Identifier: Apache-2.0 */
/* row.h - one row of logits: its statistics, its probabilities, and the order every sum is taken
 * in.
 *
 * A row is cut into tiles of 4096 entries, depending on the vocabulary alone.  In a tile, lane l of
 * 256 adds entries l, l + 256, ...; lanes merge by halving.  Tiles are brought to the row's maximum
 * and added from left to right.  On a GPU lanes are threads.  With one order everywhere a statistic
 * has the same bits for any batch, grid, shard or device (rules/README.md, "What is exact").
 *
 * Probabilities are never stored: a row keeps its maximum and sums, and spc_row_probability is the
 * one place that turns a logit into a probability, for drawing a draft and for verifying it alike.
 */
#ifndef SPC_RULES_ROW_H
#define SPC_RULES_ROW_H

#include "kinds.h"
#include "types.h"

enum { SPC_TILE = 4096, SPC_LANES = 256 };

/* Turns logits of one row into processed probabilities. */
typedef struct {
    float max;     /* of the row */
    float scale;   /* log2(e) / T */
    float inverse; /* 1 / sum */
    float cut;     /* least logit kept */
    int32_t top;   /* id of the maximum */
    bool greedy;   /* T = 0: all mass on top */
} spc_softmax;

#define SPC_LOG2_E 1.44269504f

SPC_FN float spc_temperature_scale(float temperature)
{
    return temperature > 0.0f ? SPC_LOG2_E / temperature : SPC_LOG2_E;
}

SPC_FN spc_softmax spc_softmax_of(spc_row_stats stats, float temperature)
{
    spc_softmax s;

    s.max = stats.max;
    s.scale = spc_temperature_scale(temperature);
    s.inverse = 1.0f / stats.sum;
    s.cut = stats.cut;
    s.top = stats.top;
    s.greedy = !(temperature > 0.0f);
    return s;
}

/* exp((z - max) / T), of a row that is not cut; not for T = 0. */
SPC_FN float spc_softmax_whole(spc_softmax s, float logit)
{
    return spc_exp2((logit - s.max) * s.scale);
}

/* The same, 0 where truncation cuts. */
SPC_FN float spc_softmax_weight(spc_softmax s, float logit)
{
    float weight = spc_softmax_whole(s, logit);

    return logit >= s.cut ? weight : 0.0f;
}

/* Processed probability of token v with this logit. */
SPC_FN float spc_row_probability(spc_softmax s, float logit, int32_t token)
{
    if (s.greedy) return token == s.top ? 1.0f : 0.0f;
    return spc_softmax_weight(s, logit) * s.inverse;
}

/* Gate of one row: largest probability, entropy, and ln of a token's probability over the largest.
 */
typedef struct {
    spc_real top;     /* max of the gate row */
    spc_real entropy; /* nats; only where the rule asks for it */
} spc_gate_facts;

SPC_FN spc_gate_facts spc_gate_of(spc_row_stats stats, spc_gate gate)
{
    spc_gate_facts g;
    float sum = gate == SPC_GATE_PROCESSED ? stats.sum : stats.sum_one;

    g.top = (spc_real)(1.0f / sum);
    g.entropy = (spc_real)(spc_log(sum) - stats.moment / sum);
    return g;
}

/* ln(gate probability of token v / gate maximum): 0 for the maximum, -inf where the probability is
 * 0. Comparisons of gates are made on this number: one subtraction away from the logits, no exp. */
SPC_FN float spc_gate_gap(spc_row_stats stats, spc_gate gate, float temperature, float logit,
                          int32_t token)
{
    float gap = logit - stats.max;

    if (gate == SPC_GATE_UNSCALED) return gap;
    if (!(temperature > 0.0f)) return token == stats.top ? 0.0f : -SPC_INFINITY;
    return logit >= stats.cut ? gap / temperature : -SPC_INFINITY;
}

/* A pair of numbers, one of each model's row. */
typedef struct {
    spc_real drafter;
    spc_real verifier;
} spc_pair;

/* One token of a row pair. */
typedef struct {
    spc_pair mix; /* processed probabilities: q(v), p(v) */
    spc_pair gap; /* spc_gate_gap of both rows */
    bool top;     /* the token is the verifier's first maximum */
    bool left;    /* truncation leaves it in the verifier's row, however small p(v) is there */
} spc_entry;

/* Facts of a row pair: all that a rule may ask before it looks at single tokens. */
typedef struct {
    spc_gate_facts drafter;
    spc_gate_facts verifier;
    spc_real surprise;   /* -ln of the verifier's gate probability of the drafter's top token */
    spc_real tv;         /* sum of max(0, p - q) over processed rows */
    spc_real divergence; /* Jensen-Shannon, or KL(p||q), of processed rows */
    spc_real nucleus;    /* least gap in the verifier's top-P nucleus, P the rule's number */
} spc_row;

/* ---- sums in the canonical order ------------------------------------------------------------- */

/* Sum of one tile, count <= SPC_TILE entries.  Lanes beyond count add nothing. */
SPC_FN spc_real spc_tile_sum(const spc_real *value, int32_t count)
{
    spc_real lane[SPC_LANES];

    for (int32_t l = 0; l < SPC_LANES; l++) lane[l] = 0;
    for (int32_t base = 0; base < count; base += SPC_LANES) {
        int32_t width = count - base < SPC_LANES ? count - base : SPC_LANES;

        for (int32_t l = 0; l < width; l++) lane[l] += value[base + l];
    }
    for (int32_t half = SPC_LANES / 2; half > 0; half /= 2) {
        for (int32_t l = 0; l < half; l++) lane[l] += lane[l + half];
    }
    return lane[0];
}

/* Sums of exponentials of one tile or of several tiles, relative to their own maximum. */
typedef struct {
    float max;
    int32_t top;
    float sum;     /* scale of the temperature; truncation not applied */
    float sum_one; /* scale 1 */
    float moment;  /* of y exp(y) at scale 1 */
    int32_t bad;   /* a NaN or +inf was seen */
} spc_partial;

SPC_FN spc_partial spc_partial_none(void)
{
    spc_partial p;

    p.max = -SPC_INFINITY;
    p.top = 0;
    p.sum = 0.0f;
    p.sum_one = 0.0f;
    p.moment = 0.0f;
    p.bad = 0;
    return p;
}

/* Maximum, its id and badness of a and of the tiles behind it, b.  The sums mean nothing until both
 * sides are brought to this maximum. */
SPC_FN spc_partial spc_partial_top(spc_partial a, spc_partial b)
{
    spc_partial r = spc_partial_none();

    r.bad = a.bad | b.bad;
    r.max = b.max > a.max ? b.max : a.max;
    r.top = b.max > a.max ? b.top : a.top;
    return r;
}

/* The sums of one tile relative to the maximum of the row; scale = log2(e) / T. */
SPC_FN spc_partial spc_partial_at(spc_partial tile, float max, float scale)
{
    spc_partial r = tile;
    float y = tile.max - max;

    r.max = max;
    r.sum = r.sum_one = r.moment = 0.0f;
    if (!(tile.max > -SPC_INFINITY)) return r;

    float one = spc_exp2(y * SPC_LOG2_E);

    r.sum = tile.sum * spc_exp2(y * scale);
    r.sum_one = tile.sum_one * one;
    /* sum of (z + y) e^(z + y); a vanished tile adds nothing (infinity times 0) */
    r.moment = one > 0.0f ? one * (tile.moment + y * tile.sum_one) : 0.0f;
    return r;
}

/* Add the sums of the next tile, b, at the same maximum. */
SPC_FN spc_partial spc_partial_add(spc_partial a, spc_partial b)
{
    a.sum += b.sum;
    a.sum_one += b.sum_one;
    a.moment += b.moment;
    return a;
}

#endif
