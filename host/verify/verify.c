/* SPDX-License-Identifier: Apache-2.0 */
/* verify.c - draft sampling and verification on the CPU: what the two calls of spc/verify.h mean.
 *
 * The mathematics is in rules/; this file walks rows tile by tile in the canonical order
 * (rules/row.h), reads a row only where the rule needs it, and turns decisions into a verdict. */
#include "chance.h"
#include "cuts.h"
#include "host/refuse.h"
#include "tiles.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { TILES_MAX = SPC_VOCAB_MAX / SPC_TILE };

/* ---- one row ----------------------------------------------------------------------------------
 */

/* Statistics of a row as its sequence needs them.  round->tile_weight receives the weight of each
 * tile relative to the row's maximum (unused at T = 0). */
static void view_statistics(const spc_round *round, const spc_view *row, spc_row_stats *stats)
{
    const spc_row_params *params = round->params;
    int32_t vocab = round->vocab;
    float *tile_weight = round->tile_weight;
    spc_row_needs needs = spc_needs_of(params, vocab);
    spc_partial all = spc_partial_none(), tile[TILES_MAX];

    for (int32_t t = 0; t < spc_tile_count(vocab); t++) {
        tile[t] = spc_row_partial(row, vocab, t, needs);
        all = spc_partial_top(all, tile[t]);
    }
    for (int32_t t = 0; t < spc_tile_count(vocab); t++) {
        spc_partial part = spc_partial_at(tile[t], all.max, needs.scale);

        tile_weight[t] = part.sum;
        all = spc_partial_add(all, part);
    }
    *stats = spc_stats_of(all, needs);
    if (stats->bad || !needs.mixing) return;
    if (needs.restricts) spc_cut_row(row, vocab, params, tile, stats, tile_weight);
}

/* ---- drawing ----------------------------------------------------------------------------------
 */

/* A token from one processed row, given its statistics and tile weights. */
static int32_t draw_view(const spc_round *round, const spc_view *row, spc_row_stats stats,
                         spc_key key, spc_stream_id stream)
{
    float buffer[SPC_TILE], weight[SPC_TILE];
    const spc_chance *chance = round->chance;
    spc_softmax s = spc_softmax_of(stats, round->params->sampling.temperature);
    int32_t tiles = spc_tile_count(round->vocab);

    if (s.greedy) return s.top;

    int32_t tile = chance ? 0 : spc_race_tiles(round->tile_weight, tiles, key, stream);

    if (tile < 0) return s.top; /* only when every tile's weight underflowed but the top's */
    spc_tile_kept(spc_tile_logits(row, round->vocab, tile, buffer),
                  spc_tile_width(round->vocab, tile), s, weight);
    if (chance) return chance->pick(chance->user, weight, round->vocab);
    return spc_race_entries(weight, spc_tile_width(round->vocab, tile), tile, key, stream);
}

int32_t spc_view_sample(const spc_view *row, int32_t vocab, const spc_row_params *params,
                        spc_key key, spc_stream_id stream, spc_row_stats *stats,
                        const spc_chance *chance)
{
    float tile_weight[TILES_MAX];
    spc_round round = {
        .params = params, .vocab = vocab, .tile_weight = tile_weight, .chance = chance};

    assert(vocab >= 1 && vocab <= SPC_VOCAB_MAX && (!chance || vocab <= SPC_TILE));
    view_statistics(&round, row, stats);
    return stats->bad ? -1 : draw_view(&round, row, *stats, key, stream);
}

static int32_t sample(const float *logits, int32_t vocab, const spc_row_params *params, spc_key key,
                      spc_stream_id stream, spc_row_stats *stats, const spc_chance *chance)
{
    spc_view row = {.logits = {logits, SPC_LOGITS_F32}, .width = vocab, .hot = -1};

    if (vocab < 1 || vocab > SPC_VOCAB_MAX || !spc_params_valid(params) ||
        !spc_position_valid((int64_t)key.position, 0)) {
        *stats = spc_stats_one_hot(-1, vocab);
        return -1;
    }
    return spc_view_sample(&row, vocab, params, key, stream, stats, chance);
}

int32_t spc_draft_sample_by(const float *logits, int32_t vocab, const spc_row_params *params,
                            int64_t position, uint32_t salt, spc_row_stats *stats,
                            const spc_chance *chance)
{
    return sample(logits, vocab, params, spc_key_at(params, position, salt), SPC_STREAM_DRAFT,
                  stats, chance);
}

int32_t spc_plain_sample_by(const float *logits, int32_t vocab, const spc_row_params *params,
                            int64_t position, spc_row_stats *stats, const spc_chance *chance)
{
    return sample(logits, vocab, params, spc_key_at(params, position, 0), SPC_STREAM_BONUS, stats,
                  chance);
}

int32_t spc_draft_sample(const float *logits, int32_t vocab, const spc_row_params *params,
                         int64_t position, uint32_t salt, spc_row_stats *stats)
{
    return spc_draft_sample_by(logits, vocab, params, position, salt, stats, NULL);
}

int32_t spc_plain_sample(const float *logits, int32_t vocab, const spc_row_params *params,
                         int64_t position, spc_row_stats *stats)
{
    return spc_plain_sample_by(logits, vocab, params, position, stats, NULL);
}

/* ---- a pair of rows ---------------------------------------------------------------------------
 */

/* Sum over the row; leaves the tiles' sums in pair->round->tile_weight. */
static float fold(spc_row_pair *pair, spc_summand what, float x)
{
    float value[SPC_TILE], sum = 0.0f;

    for (int32_t t = 0; t < spc_tile_count(pair->round->vocab); t++) {
        spc_tile_summands(pair, what, x, t, value);
        pair->round->tile_weight[t] = spc_tile_total(value, spc_tile_width(pair->round->vocab, t));
        sum += pair->round->tile_weight[t];
    }
    return sum;
}

/* A token with probability proportional to the summand; -1 when nothing weighs anything. */
static int32_t draw_fold(spc_row_pair *pair, spc_summand what, float x, spc_key key,
                         spc_stream_id stream)
{
    const spc_chance *chance = pair->round->chance;
    float weight[SPC_TILE];

    if (!(fold(pair, what, x) > 0.0f)) return -1;

    int32_t tile = chance ? 0
                          : spc_race_tiles(pair->round->tile_weight,
                                           spc_tile_count(pair->round->vocab), key, stream);

    if (tile < 0) return -1;
    spc_tile_summands(pair, what, x, tile, weight);
    if (chance) return chance->pick(chance->user, weight, pair->round->vocab);
    return spc_race_entries(weight, spc_tile_width(pair->round->vocab, tile), tile, key, stream);
}

static bool keeps(const spc_round *round, float kept, float drafter, spc_key key)
{
    const spc_chance *chance = round->chance;

    if (!chance || !(drafter > 0.0f) || kept >= drafter || !(kept > 0.0f)) {
        return spc_accepts(kept, drafter, spc_uniform(key, SPC_STREAM_ACCEPT, 0));
    }
    return chance->keep(chance->user, kept, drafter);
}

/* ---- what round_body.h asks for ---------------------------------------------------------------
 */

static void row_statistics(const spc_row_pair *pair, const spc_side *s, spc_row_stats *stats)
{
    view_statistics(pair->round, &s->row, stats);
}

static int32_t draw_row(const spc_row_pair *pair, const spc_side *s, spc_row_stats stats,
                        spc_key key, spc_stream_id stream)
{
    return draw_view(pair->round, &s->row, stats, key, stream);
}

static spc_entry entry_at(const spc_row_pair *pair, int32_t token)
{
    return spc_pair_entry(pair, token);
}

static float nucleus_cut(const spc_row_pair *pair, const spc_side *side, float top_p)
{
    return spc_row_nucleus(side, pair->round->vocab, top_p);
}

static void put_detail(const spc_round *round, int32_t row, const spc_row_detail *detail)
{
    round->detail[row] = *detail;
}

#define ROUND_FN static
#include "rules/round_body.h"

void spc_round_run(spc_round *round, spc_verdict *out)
{
    float tile_weight[TILES_MAX];
    spc_block_sums sums;
    spc_walk walk = {.sums = &sums};

    round->tile_weight = tile_weight;
    decide_round(round, &walk, out);
}

static spc_logit_rows rows_of(const float *first, int64_t stride, int32_t vocab)
{
    return (spc_logit_rows){.logits = {first, SPC_LOGITS_F32}, .stride = stride, .width = vocab};
}

/* Are there such rows and drafts? */
static bool args_are_possible(const spc_verify_args *args)
{
    return args->vocab >= 1 && args->vocab <= SPC_VOCAB_MAX && args->drafts >= 0 &&
           args->drafts <= SPC_GAMMA_MAX + 1 && args->verifier_stride >= args->vocab &&
           (!args->drafter || args->drafter_stride >= args->vocab);
}

/* drafts -1, which no round decides: there is no such round. */
static spc_round round_of(const spc_verify_args *args)
{
    return (spc_round){.params = args->params,
                       .drafter = rows_of(args->drafter, args->drafter_stride, args->vocab),
                       .verifier = rows_of(args->verifier, args->verifier_stride, args->vocab),
                       .vocab = args->vocab,
                       .drafts = args_are_possible(args) ? args->drafts : -1,
                       .draft = args->draft,
                       .stats = args->stats,
                       .position = args->position,
                       .salt = args->salt,
                       .bonus = spc_draws_bonus(args->params, args->drafts, args->bonus)};
}

void spc_verify_by(const spc_verify_args *args, const spc_chance *chance, spc_verdict *out)
{
    spc_round round = round_of(args);

    round.chance = chance;
    spc_round_run(&round, out);
}

void spc_verify(const spc_verify_args *args, spc_verdict *out)
{
    spc_verify_by(args, NULL, out);
}

void spc_verify_describe(const spc_verify_args *args, const spc_verdict *verdict,
                         spc_row_detail *detail)
{
    float tile_weight[TILES_MAX];
    spc_round round = round_of(args);
    spc_row_pair pair;

    round.tile_weight = tile_weight;
    round.detail = detail;
    describe_round(&round, &pair, verdict);
}

/* ---- parameters -------------------------------------------------------------------------------
 */

void spc_row_params_init(spc_row_params *params)
{
    memset(params, 0, sizeof *params);
    (void)spc_rule_make(SPC_RULE_STRICT, 0, SPC_GATE_UNSCALED, false, &params->rule);
    params->sampling.temperature = 1.0f;
    params->sampling.top_p = 1.0f;
    params->nucleus = 1;
}

/* The rule as it must be for its numbers to mean anything. */
static spc_status check_rule(const spc_rule *rule, spc_error *err)
{
    if ((unsigned)rule->kind >= SPC_RULE_COUNT) {
        return spc_error_set(err, SPC_ERULE, "rule: %d is none; fill it with spc_rule_parse",
                             (int)rule->kind);
    }
    if ((unsigned)rule->path >= SPC_RULE_COUNT) {
        return spc_error_set(err, SPC_ERULE,
                             "rule %s: %d is no rule to run it by; fill it with spc_rule_parse",
                             spc_rule_name((spc_rule_kind)rule->kind), (int)rule->path);
    }
    if (!(rule->alpha == rule->alpha)) {
        return spc_error_set(err, SPC_ERULE,
                             "rule %s: its number is NaN; fill it with "
                             "spc_rule_parse",
                             spc_rule_name((spc_rule_kind)rule->kind));
    }
    if ((unsigned)rule->gate > SPC_GATE_PROCESSED || (unsigned)rule->solve > 1 ||
        (unsigned)rule->kl > 1) {
        return spc_error_set(err, SPC_ERULE,
                             "rule %s: gate, solve and kl: expected 0 or 1 each, found %d, %d and "
                             "%d; fill it with spc_rule_parse",
                             spc_rule_name((spc_rule_kind)rule->kind), (int)rule->gate,
                             (int)rule->solve, (int)rule->kl);
    }
    return SPC_OK;
}

spc_status spc_params_check(const spc_row_params *params, spc_error *err)
{
    const spc_rule *rule;
    spc_status status;

    if (!params) return spc_refuse_null("params", err);
    rule = &params->rule;
    status = check_rule(rule, err);
    if (status) return status;
    if (!spc_rule_is_one_round(rule->kind) || !spc_rule_is_one_round(rule->path)) {
        return spc_error_set(err, SPC_ERULE,
                             "rule %s runs one model at a time, and no round decides by it: "
                             "decode under it with sessions of spc/spc.h, or choose a one-round "
                             "rule (strict, say)",
                             spc_rule_name((spc_rule_kind)rule->kind));
    }
    return spc_session_params_check(params, err);
}

spc_status spc_session_params_check(const spc_row_params *params, spc_error *err)
{
    const spc_sampling *s = &params->sampling;
    const char *name = spc_rule_name((spc_rule_kind)params->rule.kind);
    spc_status status = check_rule(&params->rule, err);

    if (status) return status;
    if (!(s->temperature == 0.0f ||
          (s->temperature >= SPC_TEMPERATURE_MIN && s->temperature < SPC_INFINITY))) {
        return spc_error_set(err, SPC_EUSAGE,
                             "temperature: expected 0 (greedy) or at least %g, found %g",
                             (double)SPC_TEMPERATURE_MIN, (double)s->temperature);
    }
    if (!(s->top_p > 0.0f && s->top_p <= 1.0f)) {
        return spc_error_set(err, SPC_EUSAGE, "top-p: expected above 0 and at most 1, found %g",
                             (double)s->top_p);
    }
    if (!(s->min_p >= 0.0f && s->min_p <= 1.0f)) {
        return spc_error_set(err, SPC_EUSAGE, "min-p: expected 0 to 1, found %g", (double)s->min_p);
    }
    if (s->top_k < 0) {
        return spc_error_set(err, SPC_EUSAGE, "top-k: expected 0 (off) or more, found %d",
                             (int)s->top_k);
    }
    if (params->nucleus != 0 && params->nucleus != 1) {
        return spc_error_set(err, SPC_EUSAGE, "nucleus: expected 0 (off) or 1 (on), found %d",
                             (int)params->nucleus);
    }
    if (params->verify != SPC_VERIFY_TOKEN && params->verify != SPC_VERIFY_BLOCK) {
        return spc_error_set(err, SPC_EUSAGE, "verify: expected token (0) or block (1), found %d",
                             (int)params->verify);
    }
    if (params->bonus < SPC_BONUS_TARGET || params->bonus > SPC_BONUS_STEP) {
        return spc_error_set(err, SPC_EUSAGE,
                             "bonus: expected target (0), verifier (1) or step (2), found %d",
                             (int)params->bonus);
    }
    if (params->rule.kind == SPC_RULE_LOSSY_GREEDY && s->temperature > 0.0f) {
        return spc_error_set(
            err, SPC_ERULE,
            "rule %s needs temperature 0, found %g; token-v3 is its form for sampling", name,
            (double)s->temperature);
    }
    if (params->rule.kind == SPC_RULE_BILD_DYNAMIC && s->temperature > 0.0f) {
        return spc_error_set(err, SPC_ERULE, "rule %s needs temperature 0, found %g", name,
                             (double)s->temperature);
    }
    if (spc_rule_needs_draft((spc_rule_kind)params->rule.kind) &&
        (params->bonus != SPC_BONUS_STEP || params->verify != SPC_VERIFY_TOKEN)) {
        return spc_error_set(err, SPC_ERULE,
                             "rule %s has no target distribution without a draft: it needs "
                             "bonus step and verify token",
                             name);
    }
    if (params->verify == SPC_VERIFY_BLOCK && params->bonus == SPC_BONUS_STEP) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "block verification has no bonus step: choose bonus target or "
                             "verifier");
    }
    return SPC_OK;
}
