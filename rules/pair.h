/* SPDX-License-Identifier: Apache-2.0 */
/* pair.h - the two rows of one position side by side: a token's numbers in both, and what is summed
 * over them. */
#ifndef SPC_RULES_PAIR_H
#define SPC_RULES_PAIR_H

#include "accept.h"
#include "block.h"
#include "round.h"

/* Does the rule look at largest probabilities or entropies? */
SPC_FN bool spc_reads_gate(int32_t path)
{
    return (spc_rule_has_gate(path) && path != SPC_RULE_TOKEN_V3) || path == SPC_RULE_BILD_DYNAMIC;
}

/* What the statistics of a row must hold for a sequence: which sums are taken. */
typedef struct {
    float scale;           /* log2(e) / T */
    bool mixing;           /* the processed distribution (not at T = 0) */
    bool unscaled;         /* the gate's sum at temperature 1 */
    bool entropy;          /* and its moment */
    bool truncates;        /* a cut has to be found */
    bool restricts;        /* sums are taken again over what truncation left ... */
    bool processed_moment; /* ... with the moment of the processed row */
} spc_row_needs;

SPC_FN spc_row_needs spc_needs_of(const spc_row_params *params, int32_t vocab)
{
    const spc_sampling *s = &params->sampling;
    bool processed = params->rule.gate == SPC_GATE_PROCESSED;
    spc_row_needs needs;

    needs.scale = spc_temperature_scale(s->temperature);
    needs.mixing = s->temperature > 0.0f;
    needs.unscaled = spc_reads_gate(params->rule.path) && !processed;
    needs.entropy = (spc_rule_facts((spc_rule_kind)params->rule.path) & SPC_FACT_ENTROPY) != 0;
    needs.truncates =
        needs.mixing && ((s->top_k > 0 && s->top_k < vocab) || s->top_p < 1.0f || s->min_p > 0.0f);
    needs.processed_moment = needs.mixing && needs.entropy && processed;
    needs.restricts = needs.truncates || needs.processed_moment;
    return needs;
}

/* Statistics from the partial of the whole row, before any truncation. */
SPC_FN spc_row_stats spc_stats_of(spc_partial all, spc_row_needs needs)
{
    spc_row_stats stats;

    stats.max = all.max + 0.0f; /* 0 where 0 and -0 are largest: which came first is chance */
    stats.top = all.top;
    stats.bad = all.bad || !(all.max > -SPC_INFINITY);
    stats.sum = needs.mixing ? all.sum : 1.0f;
    stats.sum_one = all.sum_one;
    stats.moment = all.moment;
    stats.cut = -SPC_INFINITY;
    return stats;
}

SPC_FN spc_key spc_key_at(const spc_row_params *params, int64_t position, uint32_t salt)
{
    spc_key key = {params->seed, (uint64_t)position, salt};

    return key;
}

/* What a round salts its noise with (README.md); position: of its first draft's token. */
SPC_FN uint32_t spc_salt_of(const spc_row_params *params, int64_t position)
{
    return params->verify == SPC_VERIFY_BLOCK ? (uint32_t)((uint64_t)position + 1u) : 0u;
}

typedef struct {
    spc_view row;
    spc_row_stats stats;
    spc_softmax softmax;
    bool there; /* the model has such a row */
    bool ready; /* stats and softmax are there */
} spc_side;

/* Parts of a target that are found out one after the other. */
enum { SPC_ROUND_DECIDED, SPC_ROUND_COMPLETE, SPC_ROUND_PARTS };

typedef struct {
    const spc_round *round;
    int32_t row; /* of the round */
    spc_side drafter;
    spc_side verifier;
    spc_target target;
} spc_row_pair;

/* What block verification finds out about the draft up to each row.  The threads of a block, which
 * all find the same numbers, share them: one writes. */
typedef struct {
    float weight[SPC_GAMMA_MAX + 2];   /* of the draft ... */
    float residual[SPC_GAMMA_MAX + 2]; /* ... and the residual mass behind it */
} spc_block_sums;

/* What the walk through a round keeps, one row at a time.  Whoever begins the walk holds it: in a
 * kernel the memory of every thread counts. */
typedef struct {
    spc_row_pair pair; /* of the row that is looked at */
    spc_block_sums *sums;
} spc_walk;

/* What is summed over a pair of rows. */
typedef enum {
    SPC_SUM_TV,              /* max(0, p - q) */
    SPC_SUM_OUTSIDE,         /* q outside A: eta */
    SPC_SUM_REJECTED,        /* max(0, q - p/l): R of lossy */
    SPC_SUM_ABOVE_DRAFTER,   /* q and ... */
    SPC_SUM_ABOVE_VERIFIER,  /* ... p where s p > q: Newton's step for beta */
    SPC_SUM_RESIDUAL,        /* weight of the draw after a rejection */
    SPC_SUM_TARGET,          /* pi */
    SPC_SUM_INSIDE_DRAFTER,  /* q(A) */
    SPC_SUM_INSIDE_VERIFIER, /* p(A) */
    SPC_SUM_HEAD,            /* max(0, q - p) outside A */
    SPC_SUM_JS,              /* divergences of fuzzy */
    SPC_SUM_KL,
    SPC_SUM_TARGET_KL, /* KL(p, pi) */
    SPC_SUM_COUNT,     /* tokens in A */
    SPC_SUM_BLOCK      /* max(0, w pi - q) */
} spc_summand;

/* The row of a drafter that only names tokens. */
SPC_FN spc_row_stats spc_stats_one_hot(int32_t token, int32_t vocab)
{
    spc_row_stats stats;

    stats.max = 0;
    stats.top = token;
    stats.sum = 1;
    stats.sum_one = 1;
    stats.moment = 0;
    stats.cut = -SPC_INFINITY;
    stats.bad = token < 0 || token >= vocab;
    return stats;
}

/* The rows of one position; drafter: with the drafter's. */
SPC_FN spc_row_pair spc_pair_at(const spc_round *round, int32_t row, bool drafter)
{
    spc_row_pair pair;
    bool named = !round->drafter.logits.data;

    pair.round = round;
    pair.row = row;
    pair.drafter.row = named || !drafter ? spc_view_one_hot(drafter ? round->draft[row] : -1)
                                         : spc_view_at(round->drafter, round->edits, row);
    pair.drafter.there = drafter;
    pair.drafter.ready = false;
    pair.verifier.row = spc_view_at(round->verifier, round->edits, row);
    pair.verifier.there = true;
    pair.verifier.ready = false;
    return pair;
}

/* A token's numbers, its logits being at hand (of a side that is not ready: any). */
SPC_FN spc_entry spc_pair_entry_with(const spc_row_pair *pair, spc_gate gate, float temperature,
                                     int32_t token, float drafter, float verifier)
{
    const spc_side *d = &pair->drafter, *v = &pair->verifier;
    spc_entry e;

    e.mix.drafter = e.mix.verifier = e.gap.drafter = e.gap.verifier = 0;
    e.top = v->ready && token == v->stats.top;
    e.left = v->ready && verifier >= v->stats.cut;
    if (d->ready) {
        e.mix.drafter = spc_row_probability(d->softmax, drafter, token);
        e.gap.drafter = spc_gate_gap(d->stats, gate, temperature, drafter, token);
    }
    if (v->ready) {
        e.mix.verifier = spc_row_probability(v->softmax, verifier, token);
        e.gap.verifier = spc_gate_gap(v->stats, gate, temperature, verifier, token);
    }
    return e;
}

SPC_FN spc_entry spc_pair_entry_of(const spc_row_pair *pair, int32_t token, float drafter,
                                   float verifier)
{
    const spc_row_params *params = pair->round->params;

    return spc_pair_entry_with(pair, (spc_gate)params->rule.gate, params->sampling.temperature,
                               token, drafter, verifier);
}

SPC_FN spc_entry spc_pair_entry(const spc_row_pair *pair, int32_t token)
{
    float drafter = pair->drafter.ready ? spc_view_logit(&pair->drafter.row, token) : 0.0f;
    float verifier = pair->verifier.ready ? spc_view_logit(&pair->verifier.row, token) : 0.0f;

    return spc_pair_entry_of(pair, token, drafter, verifier);
}

/* x: w of block verification, s of Newton's step. */
SPC_FN spc_real spc_pair_summand(const spc_row_pair *pair, spc_summand what, spc_real x,
                                 spc_entry e)
{
    switch (what) {
    case SPC_SUM_TV: return spc_positive(e.mix.verifier - e.mix.drafter);
    case SPC_SUM_OUTSIDE: return spc_target_outside(pair->target, e);
    case SPC_SUM_REJECTED: return spc_lossy_rejected(pair->target, e);
    case SPC_SUM_ABOVE_DRAFTER: return spc_lossy_above(x, e).drafter;
    case SPC_SUM_ABOVE_VERIFIER: return spc_lossy_above(x, e).verifier;
    case SPC_SUM_RESIDUAL: return spc_target_residual(pair->target, e);
    case SPC_SUM_TARGET: return spc_target_probability(pair->target, e);
    case SPC_SUM_INSIDE_DRAFTER: return spc_target_inside(pair->target, e).drafter;
    case SPC_SUM_INSIDE_VERIFIER: return spc_target_inside(pair->target, e).verifier;
    case SPC_SUM_HEAD: return spc_head_missing(pair->target, e);
    case SPC_SUM_JS: return spc_divergence_js(e);
    case SPC_SUM_KL: return spc_divergence_kl(e);
    case SPC_SUM_COUNT: return spc_target_selects(pair->target, e) ? 1 : 0;
    case SPC_SUM_TARGET_KL: return spc_target_kl(pair->target, e);
    default: return spc_block_residual(x, spc_target_probability(pair->target, e), e.mix.drafter);
    }
}

#endif
