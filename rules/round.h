/* SPDX-License-Identifier: Apache-2.0 */
/* round.h - one round of one sequence as data: its options, what goes in, what comes out. */
#ifndef SPC_RULES_ROUND_H
#define SPC_RULES_ROUND_H

#include "row.h"

/* Longest draft. */
#define SPC_GAMMA_MAX 16

/* Largest vocabulary. */
#define SPC_VOCAB_MAX (1 << 20)

/* Decide draft by draft, or by one joint coin over the whole draft (same law, at least as many
 * kept). */
typedef enum { SPC_VERIFY_TOKEN, SPC_VERIFY_BLOCK } spc_verify_mode;

/* Where the token after a fully kept draft comes from.
 *
 * TARGET    the target distribution, from the rows of both models: the law does not depend on gamma
 * VERIFIER  the verifier's distribution: needs no drafter row, but the law then depends on gamma
 * STEP      there is none: the last row had a draft of its own and was judged like the others */
typedef enum { SPC_BONUS_TARGET, SPC_BONUS_VERIFIER, SPC_BONUS_STEP } spc_bonus_mode;

/* How one sequence is decoded.  Check with spc_params_check before use. */
typedef struct {
    spc_rule rule;         /* from spc_rule_parse; one-round rules only */
    spc_sampling sampling; /* temperature and truncation of both models */
    uint64_t seed;         /* of the sequence */
    int32_t verify;        /* spc_verify_mode */
    int32_t bonus;         /* spc_bonus_mode */
    int32_t nucleus;       /* 1: token rules stay inside the verifier's nucleus (rules.md 4.3) */
} spc_row_params;

/* What became of the round. */
typedef struct {
    int32_t count;    /* tokens emitted: the kept drafts, then at most one more */
    int32_t accepted; /* drafts kept */
    int32_t verified; /* drafts that reached a verdict: min(accepted + 1, drafts) */
    int32_t drawn;    /* 1: the last token was drawn here (residual or bonus), 0: all are drafts */
    int32_t token[SPC_GAMMA_MAX + 2]; /* [count], then -1 */
    uint32_t deferred; /* bit i: row i turned to the verifier (verified rows, bonus row) */
    uint32_t status;   /* SPC_STATUS_* of rules/row.h; bad rows end the sequence */
} spc_verdict;

/* Element types of logits. */
typedef enum { SPC_LOGITS_F32, SPC_LOGITS_BF16, SPC_LOGITS_F16 } spc_logits_type;

/* A row of logits where it lies. */
typedef struct {
    const void *data; /* [vocab] */
    int32_t type;     /* spc_logits_type */
} spc_logits;

SPC_FN float spc_half_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;

    if (rest >= 0x7c00u) return spc_bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x400u) { /* subnormal: so many 2^-24, exact */
        float value = (float)rest * 5.9604645e-8f;
        return sign ? -value : value;
    }
    return spc_bits_float(sign | ((rest << 13) + 0x38000000u));
}

SPC_FN float spc_logit(spc_logits row, int64_t i)
{
    switch (row.type) {
    case SPC_LOGITS_BF16: return spc_bits_float((uint32_t)((const uint16_t *)row.data)[i] << 16);
    case SPC_LOGITS_F16: return spc_half_float(((const uint16_t *)row.data)[i]);
    default: return ((const float *)row.data)[i];
    }
}

/* The row that lies `rows` strides of `stride` elements further on. */
SPC_FN spc_logits spc_logits_row(spc_logits first, int64_t rows, int64_t stride)
{
    int64_t bytes = rows * stride * (first.type == SPC_LOGITS_F32 ? 4 : 2);

    first.data = (const char *)first.data + bytes;
    return first;
}

SPC_FN int32_t spc_tile_count(int32_t vocab)
{
    return (vocab + SPC_TILE - 1) / SPC_TILE;
}

SPC_FN int32_t spc_tile_width(int32_t vocab, int32_t tile)
{
    int32_t left = vocab - tile * SPC_TILE;

    return left < SPC_TILE ? left : SPC_TILE;
}

/* What a round reads, as verify.c and the kernels pass it to round_body.h. */
typedef struct {
    const spc_row_params *params;
    spc_logits drafter, verifier;            /* row 0 of each; drafter.data may be NULL */
    int64_t drafter_stride, verifier_stride; /* elements from row to row */
    int32_t vocab;
    int32_t drafts;
    const int32_t *draft;       /* [drafts] */
    const spc_row_stats *stats; /* [drafts] of the drafter's rows, or NULL */
    int64_t position;           /* of the first draft's token */
    uint32_t salt;
    bool bonus;
    float *tile_weight; /* [tiles] scratch */
    const void *chance; /* host/chance.h, or NULL */
} spc_round;

#endif
