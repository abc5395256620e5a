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
 * STEP      there is none: the last row had a draft of its own and was judged like the others.  A
 *           round without drafts draws from the target distribution (cactus, which has none then,
 *           from the verifier's) */
typedef enum { SPC_BONUS_TARGET, SPC_BONUS_VERIFIER, SPC_BONUS_STEP } spc_bonus_mode;

/* How one sequence is decoded.  Begin with spc_row_params_init, check with spc_params_check before
 * use. */
typedef struct {
    spc_rule rule;         /* from spc_rule_parse */
    spc_sampling sampling; /* temperature and truncation of both models */
    uint64_t seed;         /* of the sequence */
    int32_t verify;        /* spc_verify_mode */
    int32_t bonus;         /* spc_bonus_mode */
    int32_t nucleus;       /* 1: token rules stay inside the verifier's nucleus */
} spc_row_params;

/* Are these numbers that spc_params_check lets pass, whatever the shape of the rule?  It says what
 * is wrong; this is for devices, which read parameters that nobody may have checked.  A switch that
 * is neither 0 nor 1 means no more than a NaN does: memory that nobody has filled in, or a struct
 * laid out otherwise, by a caller in another language, say. */
SPC_FN bool spc_params_valid(const spc_row_params *params)
{
    const spc_sampling *s = &params->sampling;
    const spc_rule *rule = &params->rule;
    bool greedy_only = rule->kind == SPC_RULE_LOSSY_GREEDY || rule->kind == SPC_RULE_BILD_DYNAMIC;
    bool block = params->verify == SPC_VERIFY_BLOCK, step = params->bonus == SPC_BONUS_STEP;

    if (!(s->temperature == 0.0f ||
          (s->temperature >= SPC_TEMPERATURE_MIN && s->temperature < SPC_INFINITY))) {
        return false;
    }
    if (!(s->top_p > 0.0f && s->top_p <= 1.0f) || !(s->min_p >= 0.0f && s->min_p <= 1.0f)) {
        return false;
    }
    if (s->top_k < 0 || rule->kind < 0 || rule->kind >= SPC_RULE_COUNT || rule->path < 0 ||
        rule->path >= SPC_RULE_COUNT || !(rule->alpha == rule->alpha)) {
        return false;
    }
    if ((params->verify != SPC_VERIFY_TOKEN && !block) || params->bonus < SPC_BONUS_TARGET ||
        params->bonus > SPC_BONUS_STEP || (block && step)) {
        return false;
    }
    if (params->nucleus != 0 && params->nucleus != 1) return false;
    if (greedy_only && s->temperature > 0.0f) return false;
    return !spc_rule_needs_draft((spc_rule_kind)rule->kind) || (step && !block);
}

/* The same for parameters of a round.  Rows may be drawn from under a sequential rule too: the
 * engine's strategies do. */
SPC_FN bool spc_params_decide(const spc_row_params *params)
{
    return spc_params_valid(params) && spc_rule_is_one_round(params->rule.kind) &&
           spc_rule_is_one_round(params->rule.path);
}

/* The bits above say which stream a random number is of (rng.h). */
#define SPC_POSITION_MAX (((int64_t)1 << 60) - 1)

/* Can a token be at this position, and so many behind it?  Beyond them streams would run into each
 * other, and a coin be decided by the noise that drew its draft. */
SPC_FN bool spc_position_valid(int64_t position, int32_t behind)
{
    return position >= 0 && position <= SPC_POSITION_MAX - behind;
}

/* Is a token drawn when all drafts are kept?  asked: the caller wants one where there may be one.
 */
SPC_FN bool spc_draws_bonus(const spc_row_params *params, int32_t drafts, bool asked)
{
    return asked && (drafts == 0 || params->bonus != SPC_BONUS_STEP);
}

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
#ifdef __CUDA_ARCH__
    float value; /* one instruction; a NaN may be another one */

    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;

    if (rest >= 0x7c00u) return spc_bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x400u) { /* subnormal: so many 2^-24, exact */
        float value = (float)rest * 5.9604645e-8f;
        return sign ? -value : value;
    }
    return spc_bits_float(sign | ((rest << 13) + 0x38000000u));
#endif
}

/* To the nearest bf16 and half, of two as near the even one; overflow is an infinity, and every NaN
 * the one that a GPU makes. */
SPC_FN uint16_t spc_float_bf16(float value)
{
    const uint32_t bits = spc_float_bits(value);

    if (value != value) return 0x7fffu;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

SPC_FN uint16_t spc_float_half(float value)
{
    const uint32_t bits = spc_float_bits(value), sign = bits >> 16 & 0x8000u;
    const uint32_t rest = bits & 0x7fffffffu;

    if (rest > 0x7f800000u) return 0x7fffu;
    if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* from 65520 on */
    if (rest < 0x38800000u) { /* subnormal: the last bit of 0.5 is 2^-24 too, so the sum rounds */
        return (uint16_t)(sign | (spc_float_bits(spc_bits_float(rest) + 0.5f) - 0x3f000000u));
    }
    return (uint16_t)(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13);
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

    if (first.data) first.data = (const char *)first.data + bytes;
    return first;
}

/* Which of 32 tokens a model knows that knows some of the vocabulary: the head of an EAGLE-3
 * drafter, whose list of tokens is called d2t, or one that was cut to frequent tokens (FR-Spec).
 * Its rows have an element for each of these tokens, in ascending order. */
typedef struct {
    uint32_t tokens; /* bit v % 32: it knows token v */
    int32_t before;  /* how many tokens it knows before these 32: the element of the first here */
} spc_subset;

/* The logit of a token that is not to be drafted, in a row over all tokens: its probability is 0,
 * unless a mask leaves no other; then any that it leaves may be drafted. */
#define SPC_LOGIT_NEVER (-1e30f)

/* The rows of one model, one behind the other. */
typedef struct {
    spc_logits logits;        /* of the first row; data NULL: there are none */
    int64_t stride;           /* elements from row to row, >= width */
    int32_t width;            /* tokens the model knows: elements of a row.  Those from here to the
                                 vocabulary are -inf, elements beyond it (padding) count for nothing ... */
    const spc_subset *subset; /* ... or [(vocab + 31) / 32], aligned to 8 bytes: all but these are
                                 (spc_subset_fill).  NULL: element v is of token v */
} spc_logit_rows;

/* What is done to logits before anything else, the same to the rows of both models: row by row, a
 * set of allowed tokens (the others become -inf) and numbers added to single logits (penalties,
 * bias). */
typedef struct {
    const uint32_t *allowed;   /* [rows, allowed_stride] token v is bit v % 32 of word v / 32; or
                                  NULL: all are allowed */
    int64_t allowed_stride;    /* words from row to row */
    const int32_t *edit_first; /* [rows + 1] row r has the edits edit_first[r] .. [r + 1] - 1; or
                                  NULL: there are none */
    const int32_t *edit_token; /* ascending in a row, each token once */
    const float *edit_value;   /* what is added to its logit; -inf bans it */
} spc_edits;

/* The same seen from the row that lies `rows` further on. */
SPC_FN spc_edits spc_edits_row(spc_edits edits, int64_t rows)
{
    if (edits.allowed) edits.allowed += rows * edits.allowed_stride;
    if (edits.edit_first) edits.edit_first += rows;
    return edits;
}

/* One row as the rules see it. */
typedef struct {
    spc_logits logits;        /* data NULL: all mass is on hot */
    int32_t width;            /* of the logits; tokens without one are -inf */
    const spc_subset *subset; /* of the rows */
    int32_t hot;              /* -1: none, the row is bad */
    const uint32_t *allowed;  /* of this row, or NULL */
    const int32_t *edit_token;
    const float *edit_value;
    int32_t edits;
} spc_view;

SPC_FN spc_view spc_view_at(spc_logit_rows rows, spc_edits edits, int64_t row)
{
    spc_view view;

    edits = spc_edits_row(edits, row);
    view.logits = spc_logits_row(rows.logits, row, rows.stride);
    view.width = rows.width;
    view.subset = rows.subset;
    view.hot = -1;
    view.allowed = edits.allowed;
    view.edits = 0;
    view.edit_token = edits.edit_token;
    view.edit_value = edits.edit_value;
    if (edits.edit_first) {
        view.edit_token += edits.edit_first[0];
        view.edit_value += edits.edit_first[0];
        view.edits = edits.edit_first[1] - edits.edit_first[0];
    }
    return view;
}

/* A row without logits: the whole mass on one token, as a drafter without a distribution has it.
 * What is done to logits does not touch it. */
SPC_FN spc_view spc_view_one_hot(int32_t token)
{
    spc_view view;

    view.logits.data = 0;
    view.logits.type = SPC_LOGITS_F32;
    view.width = 0;
    view.subset = 0;
    view.hot = token;
    view.allowed = 0;
    view.edit_token = 0;
    view.edit_value = 0;
    view.edits = 0;
    return view;
}

SPC_FN bool spc_view_allows(const spc_view *view, int32_t token)
{
    return !view->allowed || (view->allowed[token / 32] >> (token % 32) & 1u) != 0;
}

/* Index of the first edit of a token that is at least this one. */
SPC_FN int32_t spc_view_edit(const spc_view *view, int32_t token)
{
    int32_t low = 0, high = view->edits;

    while (low < high) {
        int32_t middle = low + (high - low) / 2;

        if (view->edit_token[middle] < token) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The element of these 32 tokens' logit of token v; nonsense where it has none. */
SPC_FN int32_t spc_subset_element(spc_subset word, int32_t v)
{
    return (int32_t)((uint32_t)word.before +
                     (uint32_t)spc_bits_set(word.tokens & ((1u << (v % 32)) - 1u)));
}

/* The element of a token's logit; -1: it has none. */
SPC_FN int32_t spc_view_element(const spc_view *view, int32_t token)
{
    int32_t element = token;

    if (view->subset) {
        const spc_subset word = view->subset[token / 32];

        if (!(word.tokens >> (token % 32) & 1u)) return -1;
        element = spc_subset_element(word, token);
    }
    return element >= 0 && element < view->width ? element : -1;
}

/* Logit of a token, edited; 0 <= token < the vocabulary. */
SPC_FN float spc_view_logit(const spc_view *view, int32_t token)
{
    int32_t element;
    float logit;

    if (!view->logits.data) return token == view->hot ? 0.0f : -SPC_INFINITY;
    element = spc_view_element(view, token);
    if (element < 0 || !spc_view_allows(view, token)) return -SPC_INFINITY;
    logit = spc_logit(view->logits, element);
    if (view->edits > 0) {
        int32_t i = spc_view_edit(view, token);

        if (i < view->edits && view->edit_token[i] == token) logit += view->edit_value[i];
    }
    return logit;
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

/* What became of one row of a round, for those who want to know: computed only when asked for, and
 * then at the price of further looks at the rows.  Probabilities are processed ones; everything is
 * 0 in a row that the round did not reach. */
typedef struct {
    int32_t fate;       /* spc_row_fate */
    uint32_t deferred;  /* 1: the rule turned to the verifier for this token */
    float drafter;      /* q(d) of the draft; 0 without one */
    float verifier;     /* p(d) */
    float target;       /* pi(d) */
    float coin;         /* the uniform that the draft was judged by */
    float top_drafter;  /* largest probability of the row that the gate reads; 0 without a drafter,
                           and under rules that compare none (those without a gate, token-v3) */
    float top_verifier; /* the same of the verifier */
    float tv;           /* sum of max(0, p - q); 0 in a bonus row that is drawn without q, which is
                           then not read (strict, truncate, SPC_BONUS_VERIFIER) */
    float outside;      /* eta: mass of q outside the set of a token rule; 0 without a set */
    int32_t inside;     /* tokens in the set; -1 without a set */
    float log_verifier; /* ln p of the token emitted at this row */
    float log_target;   /* ln pi of the same; of cactus, which has no pi without a draft, ln p */
} spc_row_detail;

typedef enum {
    SPC_FATE_NONE,     /* not reached */
    SPC_FATE_KEPT,     /* the draft was kept whatever the coin: pi(d) >= q(d) > 0 */
    SPC_FATE_LUCKY,    /* the draft was kept by its coin, or by that of its block */
    SPC_FATE_REJECTED, /* a token was drawn in the draft's place */
    SPC_FATE_BONUS     /* a token was drawn without a draft */
} spc_row_fate;

/* What a round reads, as verify.c and the kernels pass it to round_body.h. */
typedef struct {
    const spc_row_params *params;
    spc_logit_rows
        drafter; /* logits.data NULL: drafts without a distribution, or none are looked at */
    spc_logit_rows verifier;
    spc_edits edits; /* of the first row */
    int32_t vocab;   /* tokens of the verifier */
    int32_t drafts;
    const int32_t *draft;       /* [drafts] */
    const spc_row_stats *stats; /* [drafts] of the drafter's rows, or NULL */
    int64_t position;           /* of the first draft's token */
    uint32_t salt;
    bool bonus;
    bool draws;             /* a row is drawn from, and nothing is decided */
    float *tile_weight;     /* [tiles] scratch */
    spc_row_detail *detail; /* [drafts + 1], or NULL */
    const void *chance;     /* host/verify/chance.h, or NULL */
    void *shard;            /* shard_body.h, or NULL */
} spc_round;

#endif
