/* SPDX-License-Identifier: Apache-2.0 */
/* round.h - one round of one sequence as data: are its options any, and where its logits lie. */
#ifndef SPC_RULES_ROUND_H
#define SPC_RULES_ROUND_H

#include "row.h"

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
    if ((rule->gate != SPC_GATE_UNSCALED && rule->gate != SPC_GATE_PROCESSED) ||
        (rule->solve != 0 && rule->solve != 1) || (rule->kl != 0 && rule->kl != 1)) {
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
        const int32_t first = edits.edit_first[0], end = edits.edit_first[1];

        if (first < 0 || end < first) {
            view.logits.data = 0; /* no such edits: the row is bad */
        } else {
            view.edit_token += first;
            view.edit_value += first;
            view.edits = end - first;
        }
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
