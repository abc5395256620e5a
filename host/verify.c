/* SPDX-License-Identifier: Apache-2.0 */
/* verify.c - draft sampling and verification on the CPU: what the two calls of spc/verify.h mean.
 *
 * The mathematics is in rules/; this file walks rows tile by tile in the canonical order
 * (rules/row.h), reads a row only where the rule needs it, and turns decisions into a verdict. */
#include "chance.h"

#include "rules/block.h"
#include "rules/truncate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* The loops over single logits, compiled for wider vector units too: the flags of this file forbid
 * contraction, so every clone gives the same bits. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define SPC_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SPC_CLONES
#endif

enum { TILES_MAX = SPC_VOCAB_MAX / SPC_TILE };

static int32_t tile_count(int32_t vocab)
{
    return (vocab + SPC_TILE - 1) / SPC_TILE;
}

static int32_t tile_width(int32_t vocab, int32_t tile)
{
    int32_t left = vocab - tile * SPC_TILE;

    return left < SPC_TILE ? left : SPC_TILE;
}

/* ---- one row ----------------------------------------------------------------------------------
 */

/* Maximum of a tile and whether it holds a NaN or +inf. */
SPC_CLONES static float tile_max(const float *logits, int32_t count, int32_t *bad)
{
    float max = -SPC_INFINITY;
    int32_t wrong = 0;

    for (int32_t i = 0; i < count; i++) {
        wrong |= !(logits[i] < SPC_INFINITY);
        max = logits[i] > max ? logits[i] : max;
    }
    *bad = wrong;
    return max;
}

SPC_CLONES static void tile_exp(const float *logits, int32_t count, float max, float scale,
                                float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = spc_exp2((logits[i] - max) * scale);
}

SPC_CLONES static void tile_kept(const float *logits, int32_t count, spc_softmax s, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = spc_softmax_weight(s, logits[i]);
}

SPC_CLONES static void tile_moment(const float *logits, int32_t count, float max, float divisor,
                                   const float *weight, float *out)
{
    for (int32_t i = 0; i < count; i++) {
        out[i] = weight[i] > 0.0f ? (logits[i] - max) / divisor * weight[i] : 0.0f;
    }
}

/* What the sums of a row are needed for. */
typedef struct {
    float scale;   /* log2(e) / T */
    bool mixing;   /* the processed distribution (not at T = 0) */
    bool unscaled; /* the gate's sum at temperature 1 */
    bool entropy;  /* and its moment */
} row_needs;

static int32_t first_of(const float *logits, int32_t count, float value)
{
    int32_t i = 0;

    while (i < count - 1 && !(logits[i] == value)) i++;
    return i;
}

static spc_partial tile_partial(const float *logits, int32_t count, int32_t offset, row_needs needs)
{
    spc_partial p = spc_partial_none();
    float one[SPC_TILE], moment[SPC_TILE];

    p.max = tile_max(logits, count, &p.bad);
    if (p.bad || !(p.max > -SPC_INFINITY)) return p;
    p.top = offset + first_of(logits, count, p.max);
    if (needs.mixing) {
        tile_exp(logits, count, p.max, needs.scale, one);
        p.sum = spc_tile_sum(one, count);
    }
    if (needs.unscaled) {
        tile_exp(logits, count, p.max, SPC_LOG2_E, one);
        p.sum_one = spc_tile_sum(one, count);
        if (needs.entropy) {
            tile_moment(logits, count, p.max, 1.0f, one, moment);
            p.moment = spc_tile_sum(moment, count);
        }
    }
    return p;
}

static bool truncates(spc_sampling s, int32_t vocab)
{
    return s.temperature > 0.0f &&
           ((s.top_k > 0 && s.top_k < vocab) || s.top_p < 1.0f || s.min_p > 0.0f);
}

/* Least key of the set that holds `target` counts (by_mass false) or masses, from the top. */
static uint32_t find_cut(const float *logits, int32_t vocab, spc_softmax s, bool by_mass,
                         uint64_t target)
{
    spc_cut cut = spc_cut_begin(target);

    while (cut.level < SPC_CUT_LEVELS) {
        uint64_t bins[SPC_CUT_BINS] = {0};

        for (int32_t v = 0; v < vocab; v++) {
            int32_t bin = spc_cut_bin(cut, spc_key_of_logit(logits[v]));

            if (bin < 0) continue;
            bins[bin] += by_mass ? spc_mass_of(spc_softmax_weight(s, logits[v])) : 1u;
        }
        cut = spc_cut_descend(cut, bins);
    }
    return cut.prefix;
}

/* Top-k, then top-p on what it left, then min-p: the least logit kept. */
static float truncation_cut(const float *logits, int32_t vocab, const spc_sampling *p, float max)
{
    spc_softmax s = {max, spc_temperature_scale(p->temperature), 1.0f, -SPC_INFINITY, 0, false};

    if (p->top_k > 0 && p->top_k < vocab) {
        s.cut = spc_logit_of_key(find_cut(logits, vocab, s, false, (uint64_t)p->top_k));
    }
    if (p->top_p < 1.0f) {
        uint64_t total = 0;

        for (int32_t v = 0; v < vocab; v++) total += spc_mass_of(spc_softmax_weight(s, logits[v]));

        float cut =
            spc_logit_of_key(find_cut(logits, vocab, s, true, spc_nucleus_target(p->top_p, total)));
        if (cut > s.cut) s.cut = cut;
    }
    if (p->min_p > 0.0f) {
        float cut = spc_min_p_cut(max, p->temperature, (float)log((double)p->min_p));
        if (cut > s.cut) s.cut = cut;
    }
    return s.cut;
}

/* Sums over what truncation left; the gate's moment too where the gate reads processed rows. */
static void restrict_sums(const float *logits, int32_t vocab, const spc_row_params *params,
                          bool entropy, spc_row_stats *stats, float *tile_weight)
{
    spc_softmax s = spc_softmax_of(*stats, params->sampling.temperature);
    float weight[SPC_TILE], moment[SPC_TILE];

    stats->sum = 0.0f;
    if (entropy) stats->moment = 0.0f;
    for (int32_t t = 0; t < tile_count(vocab); t++) {
        const float *z = logits + (size_t)t * SPC_TILE;
        int32_t n = tile_width(vocab, t);

        tile_kept(z, n, s, weight);
        tile_weight[t] = spc_tile_sum(weight, n);
        stats->sum += tile_weight[t];
        if (entropy) {
            tile_moment(z, n, s.max, params->sampling.temperature, weight, moment);
            stats->moment += spc_tile_sum(moment, n);
        }
    }
}

/* Does the rule look at largest probabilities or entropies? */
static bool reads_gate(int32_t path)
{
    return path != SPC_RULE_STRICT && path != SPC_RULE_LOSSY && path != SPC_RULE_TOKEN_V3 &&
           path != SPC_RULE_LOSSY_GREEDY && path != SPC_RULE_DRAFTER_ONLY &&
           path != SPC_RULE_VERIFIER_ONLY;
}

/* Statistics of a row as its sequence needs them.  tile_weight: [TILES_MAX], receives the weight of
 * each tile relative to the row's maximum (unused at T = 0). */
static void row_statistics(const float *logits, int32_t vocab, const spc_row_params *params,
                           spc_row_stats *stats, float *tile_weight)
{
    const spc_sampling *sampling = &params->sampling;
    bool greedy = !(sampling->temperature > 0.0f);
    bool gate = reads_gate(params->rule.path);
    bool processed = params->rule.gate == SPC_GATE_PROCESSED;
    bool entropy = (spc_rule_facts((spc_rule_kind)params->rule.path) & SPC_FACT_ENTROPY) != 0;
    row_needs needs = {spc_temperature_scale(sampling->temperature), !greedy, gate && !processed,
                       entropy};
    spc_partial all = spc_partial_none();
    float tile_top[TILES_MAX];

    for (int32_t t = 0; t < tile_count(vocab); t++) {
        spc_partial p =
            tile_partial(logits + (size_t)t * SPC_TILE, tile_width(vocab, t), t * SPC_TILE, needs);
        tile_top[t] = p.max;
        tile_weight[t] = p.sum;
        all = spc_partial_merge(all, p, needs.scale);
    }
    memset(stats, 0, sizeof *stats);
    stats->max = all.max;
    stats->top = all.top;
    stats->bad = all.bad || !(all.max > -SPC_INFINITY);
    stats->sum = greedy ? 1.0f : all.sum;
    stats->sum_one = all.sum_one;
    stats->moment = all.moment;
    stats->cut = -SPC_INFINITY;
    if (stats->bad || greedy) return;

    if (truncates(*sampling, vocab)) stats->cut = truncation_cut(logits, vocab, sampling, all.max);
    if (truncates(*sampling, vocab) || (entropy && processed)) {
        restrict_sums(logits, vocab, params, entropy && processed, stats, tile_weight);
        return;
    }
    for (int32_t t = 0; t < tile_count(vocab); t++) {
        tile_weight[t] *= spc_exp2((tile_top[t] - all.max) * needs.scale);
    }
}

/* ---- drawing ----------------------------------------------------------------------------------
 */

/* The tile that wins the first level of the race; -1 when no tile weighs anything. */
static int32_t race_tiles(const float *tile_weight, int32_t tiles, spc_key key,
                          spc_stream_id stream)
{
    int32_t best = -1;
    float least = SPC_INFINITY;

    for (int32_t t = 0; t < tiles; t++) {
        float time = spc_race_time(spc_race_tile_word(key, stream, t), tile_weight[t]);

        if (time < least) {
            least = time;
            best = t;
        }
    }
    return best;
}

/* Arrival times of four neighbours share one block of random words. */
SPC_CLONES static void race_times(const float *weight, int32_t count, uint32_t block, spc_key key,
                                  spc_stream_id stream, float *time)
{
    uint32_t word[SPC_TILE];

    for (int32_t i = 0; i < (count + 3) / 4; i++) {
        spc_words w = spc_random(key, stream, block + (uint32_t)i);

        for (int32_t k = 0; k < 4; k++) word[4 * i + k] = w.word[k];
    }
    for (int32_t i = 0; i < count; i++) time[i] = spc_race_time(word[i], weight[i]);
}

/* The entry of a tile that wins the second level; `tile` places it in the row. */
static int32_t race_entries(const float *weight, int32_t count, int32_t tile, spc_key key,
                            spc_stream_id stream)
{
    float time[SPC_TILE];
    uint32_t block = (uint32_t)SPC_RACE_ENTRIES + (uint32_t)tile * (SPC_TILE / 4);
    int32_t best = 0;

    race_times(weight, count, block, key, stream, time);
    /* weights near the least float may all arrive at infinity: then one that has a weight wins */
    for (int32_t i = 1; i < count; i++) {
        if (time[i] < time[best] || !(weight[best] > 0.0f)) best = i;
    }
    return tile * SPC_TILE + best;
}

/* A token from one processed row, given its statistics and tile weights. */
static int32_t draw_row(const float *logits, int32_t vocab, const spc_row_stats *stats,
                        float temperature, const float *tile_weight, spc_key key,
                        spc_stream_id stream, const spc_chance *chance)
{
    float weight[SPC_TILE];
    spc_softmax s = spc_softmax_of(*stats, temperature);

    if (s.greedy) return s.top;

    int32_t tile = chance ? 0 : race_tiles(tile_weight, tile_count(vocab), key, stream);

    if (tile < 0) return s.top; /* only when every tile's weight underflowed but the top's */
    tile_kept(logits + (size_t)tile * SPC_TILE, tile_width(vocab, tile), s, weight);
    if (chance) return chance->pick(chance->user, weight, vocab);
    return race_entries(weight, tile_width(vocab, tile), tile, key, stream);
}

static spc_key key_at(const spc_row_params *params, int64_t position, uint32_t salt)
{
    spc_key key = {params->seed, (uint64_t)position, salt};

    return key;
}

static int32_t sample(const float *logits, int32_t vocab, const spc_row_params *params, spc_key key,
                      spc_stream_id stream, spc_row_stats *stats, const spc_chance *chance)
{
    float tile_weight[TILES_MAX];

    assert(vocab >= 1 && vocab <= SPC_VOCAB_MAX && (!chance || vocab <= SPC_TILE));
    row_statistics(logits, vocab, params, stats, tile_weight);
    if (stats->bad) return -1;
    return draw_row(logits, vocab, stats, params->sampling.temperature, tile_weight, key, stream,
                    chance);
}

int32_t spc_draft_sample_by(const float *logits, int32_t vocab, const spc_row_params *params,
                            int64_t position, uint32_t salt, spc_row_stats *stats,
                            const spc_chance *chance)
{
    return sample(logits, vocab, params, key_at(params, position, salt), SPC_STREAM_DRAFT, stats,
                  chance);
}

int32_t spc_plain_sample_by(const float *logits, int32_t vocab, const spc_row_params *params,
                            int64_t position, spc_row_stats *stats, const spc_chance *chance)
{
    return sample(logits, vocab, params, key_at(params, position, 0), SPC_STREAM_BONUS, stats,
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

typedef struct {
    const float *logits; /* [vocab] */
    spc_row_stats stats;
    spc_softmax softmax;
    bool ready; /* stats and softmax are there */
} side;

typedef struct {
    const spc_row_params *params;
    int32_t vocab;
    side drafter;
    side verifier;
    spc_target target;
    float tile_weight[TILES_MAX]; /* of the verifier's row, or of the last fold */
} row_pair;

/* What is summed over a pair of rows. */
typedef enum {
    SUM_TV,       /* max(0, p - q) */
    SUM_OUTSIDE,  /* q outside A: eta */
    SUM_REJECTED, /* max(0, q - p/l): R of lossy */
    SUM_ABOVE_DRAFTER,
    SUM_ABOVE_VERIFIER, /* q and p where s p > q: Newton's step for beta */
    SUM_RESIDUAL,       /* weight of the draw after a rejection */
    SUM_TARGET,         /* pi */
    SUM_BLOCK           /* max(0, w pi - q) */
} summand;

static void prepare(row_pair *pair, side *s, const spc_row_stats *known)
{
    if (s->ready) return;
    if (known) {
        s->stats = *known;
    } else {
        row_statistics(s->logits, pair->vocab, pair->params, &s->stats, pair->tile_weight);
    }
    s->softmax = spc_softmax_of(s->stats, pair->params->sampling.temperature);
    s->ready = true;
}

static spc_entry entry_of(const row_pair *pair, int32_t token)
{
    float temperature = pair->params->sampling.temperature;
    spc_gate gate = (spc_gate)pair->params->rule.gate;
    const side *d = &pair->drafter, *v = &pair->verifier;
    spc_entry e = {{0, 0}, {0, 0}};

    if (d->ready) {
        e.mix.drafter = spc_row_probability(d->softmax, d->logits[token], token);
        e.gap.drafter = spc_gate_gap(d->stats, gate, temperature, d->logits[token], token);
    }
    if (v->ready) {
        e.mix.verifier = spc_row_probability(v->softmax, v->logits[token], token);
        e.gap.verifier = spc_gate_gap(v->stats, gate, temperature, v->logits[token], token);
    }
    return e;
}

static float summand_of(const row_pair *pair, summand what, float x, spc_entry e)
{
    switch (what) {
    case SUM_TV: return spc_positive(e.mix.verifier - e.mix.drafter);
    case SUM_OUTSIDE: return spc_target_outside(pair->target, e);
    case SUM_REJECTED: return spc_lossy_rejected(pair->target, e);
    case SUM_ABOVE_DRAFTER: return spc_lossy_above(x, e).drafter;
    case SUM_ABOVE_VERIFIER: return spc_lossy_above(x, e).verifier;
    case SUM_RESIDUAL: return spc_target_residual(pair->target, e);
    case SUM_TARGET: return spc_target_probability(pair->target, e);
    default: return spc_block_residual(x, spc_target_probability(pair->target, e), e.mix.drafter);
    }
}

/* Processed probabilities of one tile. */
static void tile_probabilities(const side *s, int32_t tile, int32_t count, float *out)
{
    int32_t offset = tile * SPC_TILE;

    if (!s->ready) {
        memset(out, 0, (size_t)count * sizeof *out);
    } else if (s->softmax.greedy) {
        for (int32_t i = 0; i < count; i++) out[i] = offset + i == s->softmax.top ? 1.0f : 0.0f;
    } else {
        tile_kept(s->logits + offset, count, s->softmax, out);
        for (int32_t i = 0; i < count; i++) out[i] *= s->softmax.inverse;
    }
}

/* The summand of every entry of a tile; x is w of block verification, s of Newton's step. */
static void tile_summands(const row_pair *pair, summand what, float x, int32_t tile, float *out)
{
    float drafter[SPC_TILE], verifier[SPC_TILE];
    int32_t offset = tile * SPC_TILE, count = tile_width(pair->vocab, tile);
    float temperature = pair->params->sampling.temperature;
    spc_gate gate = (spc_gate)pair->params->rule.gate;
    const side *d = &pair->drafter, *v = &pair->verifier;
    bool gaps = pair->target.form == SPC_TARGET_SELECT;

    tile_probabilities(d, tile, count, drafter);
    tile_probabilities(v, tile, count, verifier);
    for (int32_t i = 0; i < count; i++) {
        int32_t token = offset + i;
        spc_entry e = {{drafter[i], verifier[i]}, {0, 0}};

        if (gaps) {
            e.gap.drafter = spc_gate_gap(d->stats, gate, temperature, d->logits[token], token);
            e.gap.verifier = spc_gate_gap(v->stats, gate, temperature, v->logits[token], token);
        }
        out[i] = summand_of(pair, what, x, e);
    }
}

/* Sum over the row; leaves the tiles' sums in pair->tile_weight. */
static float fold(row_pair *pair, summand what, float x)
{
    float value[SPC_TILE], sum = 0.0f;

    for (int32_t t = 0; t < tile_count(pair->vocab); t++) {
        tile_summands(pair, what, x, t, value);
        pair->tile_weight[t] = spc_tile_sum(value, tile_width(pair->vocab, t));
        sum += pair->tile_weight[t];
    }
    return sum;
}

/* A token with probability proportional to the summand; -1 when nothing weighs anything. */
static int32_t draw_fold(row_pair *pair, summand what, float x, spc_key key, spc_stream_id stream,
                         const spc_chance *chance)
{
    float weight[SPC_TILE];

    if (!(fold(pair, what, x) > 0.0f)) return -1;

    int32_t tile = chance ? 0 : race_tiles(pair->tile_weight, tile_count(pair->vocab), key, stream);

    if (tile < 0) return -1;
    tile_summands(pair, what, x, tile, weight);
    if (chance) return chance->pick(chance->user, weight, pair->vocab);
    return race_entries(weight, tile_width(pair->vocab, tile), tile, key, stream);
}

/* ---- what a rule makes of a pair ---------------------------------------------------------------
 */

/* beta solved: s = 1/beta (rules.md 6.7). */
static float solve_scale(row_pair *pair, float rejected)
{
    float s = rejected > 0.0f ? 1.0f : 0.0f;

    for (int32_t step = 0; step < SPC_LOSSY_STEPS && rejected > 0.0f; step++) {
        spc_pair above = {fold(pair, SUM_ABOVE_DRAFTER, s), fold(pair, SUM_ABOVE_VERIFIER, s)};
        float next = spc_lossy_newton(s, rejected, above);

        if (next >= s) break;
        s = next;
    }
    return s;
}

/* The sums that pi, or a residual, needs beyond the decision: eta, or the scale of lossy. */
static void complete(row_pair *pair)
{
    spc_target *t = &pair->target;

    if (t->form == SPC_TARGET_SELECT) t->eta = fold(pair, SUM_OUTSIDE, 0);
    if (t->form == SPC_TARGET_LENIENT) {
        float rejected = fold(pair, SUM_REJECTED, 0);

        t->scale = t->solve ? solve_scale(pair, rejected)
                            : spc_lossy_share(rejected, fold(pair, SUM_TV, 0));
    }
}

/* A row that is needed and bad: say whose. */
static bool is_bad(const row_pair *pair, uint32_t *status)
{
    if (pair->drafter.ready && pair->drafter.stats.bad) *status |= SPC_STATUS_BAD_DRAFTER;
    if (pair->verifier.ready && pair->verifier.stats.bad) *status |= SPC_STATUS_BAD_VERIFIER;
    return (*status & (SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER)) != 0;
}

/* Read the rows as far as the rule needs them and choose the target's form.  false: a needed row is
 * bad.  known: statistics of the drafter's row, or NULL. */
static bool decide(row_pair *pair, const spc_row_stats *known, uint32_t *status)
{
    const spc_row_params *params = pair->params;
    const spc_rule *rule = &params->rule;
    int32_t facts = spc_rule_facts((spc_rule_kind)rule->path);
    spc_row row;

    memset(&row, 0, sizeof row);
    if (pair->drafter.logits) {
        prepare(pair, &pair->drafter, known);
        if (is_bad(pair, status)) return false;
        row.drafter = spc_gate_of(pair->drafter.stats, (spc_gate)rule->gate);
    }
    if (!spc_defers_by_drafter(*rule) || spc_defers(*rule, row)) {
        prepare(pair, &pair->verifier, NULL);
        if (is_bad(pair, status)) return false;
        row.verifier = spc_gate_of(pair->verifier.stats, (spc_gate)rule->gate);
    }
    if (facts & SPC_FACT_SURPRISE) {
        spc_entry top = entry_of(pair, pair->drafter.stats.top);

        row.surprise = -spc_log(row.verifier.top) - top.gap.verifier;
    }
    pair->target.form = SPC_TARGET_DEFER; /* no gaps needed for TV */
    if (facts & SPC_FACT_TV) row.tv = fold(pair, SUM_TV, 0);
    pair->target =
        spc_target_begin(*rule, row, params->nucleus && params->sampling.temperature > 0);
    return true;
}

static row_pair pair_at(const spc_verify_args *args, int32_t row, bool drafter)
{
    row_pair pair;

    memset(&pair.drafter, 0, sizeof pair.drafter);
    memset(&pair.verifier, 0, sizeof pair.verifier);
    pair.params = args->params;
    pair.vocab = args->vocab;
    if (drafter) pair.drafter.logits = args->drafter + row * args->drafter_stride;
    pair.verifier.logits = args->verifier + row * args->verifier_stride;
    return pair;
}

/* ---- the round --------------------------------------------------------------------------------
 */

static void emit(spc_verdict *out, int32_t token)
{
    out->token[out->count++] = token;
}

static void mark_deferred(spc_verdict *out, int32_t row, bool deferred)
{
    if (deferred) out->deferred |= 1u << row;
}

/* pi itself. */
static int32_t draw_target(row_pair *pair, spc_key key, spc_stream_id stream,
                           const spc_chance *chance)
{
    float temperature = pair->params->sampling.temperature;
    const side *s = NULL;

    if (pair->target.form == SPC_TARGET_KEEP) s = &pair->drafter;
    if (pair->target.form == SPC_TARGET_DEFER) s = &pair->verifier;
    if (s) {
        spc_row_stats stats;

        /* the tile weights of this row were not kept: they come with its statistics */
        row_statistics(s->logits, pair->vocab, pair->params, &stats, pair->tile_weight);
        return draw_row(s->logits, pair->vocab, &stats, temperature, pair->tile_weight, key, stream,
                        chance);
    }
    complete(pair);
    return draw_fold(pair, SUM_TARGET, 0, key, stream, chance);
}

/* The token after a fully kept draft, or the only one of a round without drafts. */
static void draw_bonus(const spc_verify_args *args, const spc_chance *chance, spc_verdict *out)
{
    int32_t row = args->drafts;
    bool from_verifier = args->params->bonus == SPC_BONUS_VERIFIER && args->drafts > 0;
    bool drafter = !from_verifier && spc_rule_uses_drafter(&args->params->rule);
    row_pair pair = pair_at(args, row, drafter);
    spc_key key = key_at(args->params, args->position + row, args->salt);

    if (from_verifier) {
        prepare(&pair, &pair.verifier, NULL);
        if (is_bad(&pair, &out->status)) return;
        pair.target.form = SPC_TARGET_DEFER;
    } else if (!decide(&pair, NULL, &out->status)) {
        return;
    }

    int32_t token = draw_target(&pair, key, SPC_STREAM_BONUS, chance);

    if (pair.target.form != SPC_TARGET_SELECT) {
        mark_deferred(out, row, pair.target.form != SPC_TARGET_KEEP);
    } else {
        mark_deferred(out, row, spc_target_defers(pair.target, entry_of(&pair, token)));
    }
    emit(out, token);
    out->drawn = 1;
}

/* The token in place of a rejected draft: from the residual, or from pi where rounding left none.
 */
static void draw_residual(row_pair *pair, summand what, float x, spc_key key,
                          const spc_chance *chance, spc_verdict *out)
{
    int32_t token = draw_fold(pair, what, x, key, SPC_STREAM_RESIDUAL, chance);

    if (token < 0) {
        out->status |= SPC_STATUS_ZERO_RESIDUAL;
        token = draw_target(pair, key, SPC_STREAM_RESIDUAL, chance);
    }
    emit(out, token);
    out->drawn = 1;
}

/* Is the draft a token that its own row could have given? */
static bool is_draft(const spc_verify_args *args, int32_t row)
{
    return args->draft[row] >= 0 && args->draft[row] < args->vocab;
}

static bool keeps(float kept, float drafter, spc_key key, const spc_chance *chance)
{
    if (!chance || !(drafter > 0.0f) || kept >= drafter || !(kept > 0.0f)) {
        return spc_accepts(kept, drafter, spc_uniform(key, SPC_STREAM_ACCEPT, 0));
    }
    return chance->keep(chance->user, kept, drafter);
}

/* Judge the draft of one row.  Returns true when it is kept; otherwise a token was drawn in its
 * place or a bad row ended the run. */
static bool judge(const spc_verify_args *args, int32_t i, const spc_chance *chance,
                  spc_verdict *out)
{
    row_pair pair = pair_at(args, i, true);
    spc_key key = key_at(args->params, args->position + i, args->salt);
    bool kept = false;

    if (!decide(&pair, args->stats ? &args->stats[i] : NULL, &out->status)) return false;
    out->verified++;
    if (is_draft(args, i)) {
        spc_entry e = entry_of(&pair, args->draft[i]);
        bool deferred = spc_target_defers(pair.target, e);

        mark_deferred(out, i, deferred);
        if (!(e.mix.drafter > 0)) out->status |= SPC_STATUS_BAD_DRAFT;
        if (deferred && pair.target.form == SPC_TARGET_SELECT) complete(&pair);
        kept = keeps(spc_target_kept(pair.target, e), e.mix.drafter, key, chance);
    } else {
        out->status |= SPC_STATUS_BAD_DRAFT;
    }
    if (kept) return true;

    /* A rejection draws from both rows; a rule that kept the drafter's row cannot reject, unless
     * the draft was not drawn from it. */
    prepare(&pair, &pair.verifier, NULL);
    if (is_bad(&pair, &out->status)) return false;
    if (pair.target.form == SPC_TARGET_SELECT || pair.target.solve) complete(&pair);
    draw_residual(&pair, SUM_RESIDUAL, 0, key, chance, out);
    return false;
}

static void verify_token(const spc_verify_args *args, const spc_chance *chance, spc_verdict *out)
{
    for (int32_t i = 0; i < args->drafts; i++) {
        if (!judge(args, i, chance, out)) return;
        emit(out, args->draft[i]);
        out->accepted++;
    }
    if (args->bonus) draw_bonus(args, chance, out);
}

/* Block verification looks at every row, so a bad row anywhere matters: drafts from it on are
 * dropped, as if the draft had been that much shorter, and the round ends in the row's status only
 * when every draft before it is kept. */
static void verify_block(const spc_verify_args *args, const spc_chance *chance, spc_verdict *out)
{
    float weight[SPC_GAMMA_MAX + 2], residual[SPC_GAMMA_MAX + 2];
    int32_t g = args->drafts, kept = 0;
    uint32_t trouble = 0;

    weight[0] = 1.0f;
    for (int32_t i = 0; i < g; i++) {
        row_pair pair = pair_at(args, i, true);

        if (!decide(&pair, args->stats ? &args->stats[i] : NULL, &trouble)) {
            g = i;
            break;
        }
        prepare(&pair, &pair.verifier, NULL);
        if (is_bad(&pair, &trouble)) {
            g = i;
            break;
        }
        complete(&pair);
        residual[i] = fold(&pair, SUM_BLOCK, weight[i]);
        weight[i + 1] = 0.0f;
        if (!is_draft(args, i)) {
            out->status |= SPC_STATUS_BAD_DRAFT;
            continue;
        }

        spc_entry e = entry_of(&pair, args->draft[i]);
        bool deferred = spc_target_defers(pair.target, e);

        mark_deferred(out, i, deferred);
        if (!(e.mix.drafter > 0)) {
            out->status |= SPC_STATUS_BAD_DRAFT; /* weight 0 also where pi = q: never kept */
            continue;
        }
        weight[i + 1] =
            deferred || pair.target.form == SPC_TARGET_SELECT
                ? spc_block_weight(weight[i], spc_target_probability(pair.target, e), e.mix.drafter)
                : weight[i]; /* pi = q: the factor is exactly 1 */
    }
    for (int32_t i = g; i >= 1 && kept == 0; i--) {
        float chance_of = i == g ? weight[g] : spc_block_chance(weight[i], residual[i]);
        spc_key key = key_at(args->params, args->position + i - 1, args->salt);

        if (keeps(chance_of, 1.0f, key, chance)) kept = i;
    }
    out->accepted = kept;
    out->verified = kept + 1 < args->drafts ? kept + 1 : args->drafts;
    out->deferred &= (2u << (out->verified > 0 ? out->verified - 1 : 0)) - 1u;
    for (int32_t i = 0; i < kept; i++) emit(out, args->draft[i]);
    if (kept < g) {
        row_pair pair = pair_at(args, kept, true);
        uint32_t fine = 0;

        (void)decide(&pair, args->stats ? &args->stats[kept] : NULL, &fine);
        prepare(&pair, &pair.verifier, NULL);
        complete(&pair);
        draw_residual(&pair, SUM_BLOCK, weight[kept],
                      key_at(args->params, args->position + kept, args->salt), chance, out);
    } else if (g < args->drafts) {
        out->status |= trouble;
        out->verified = kept;
    } else if (args->bonus) {
        draw_bonus(args, chance, out);
    }
}

void spc_verify_by(const spc_verify_args *args, const spc_chance *chance, spc_verdict *out)
{
    assert(args->drafts >= 0 && args->drafts <= SPC_GAMMA_MAX + 1);
    assert(args->vocab >= 1 && args->vocab <= SPC_VOCAB_MAX);
    memset(out, 0, sizeof *out);
    for (int32_t i = 0; i < SPC_GAMMA_MAX + 2; i++) out->token[i] = -1;
    if (args->params->verify == SPC_VERIFY_BLOCK && args->drafts > 0) {
        verify_block(args, chance, out);
    } else {
        verify_token(args, chance, out);
    }
}

void spc_verify(const spc_verify_args *args, spc_verdict *out)
{
    spc_verify_by(args, NULL, out);
}

/* ---- parameters -------------------------------------------------------------------------------
 */

spc_status spc_params_check(const spc_row_params *params, spc_error *err)
{
    const spc_sampling *s = &params->sampling;
    const char *name = spc_rule_name((spc_rule_kind)params->rule.kind);

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
    if ((unsigned)params->rule.kind >= SPC_RULE_COUNT ||
        (unsigned)params->rule.path >= SPC_RULE_COUNT) {
        return spc_error_set(err, SPC_ERULE, "rule: %d is none; fill it with spc_rule_parse",
                             (int)params->rule.kind);
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
    if (params->verify == SPC_VERIFY_BLOCK && params->bonus == SPC_BONUS_STEP) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "block verification has no bonus=step: choose bonus=target or "
                             "bonus=verifier");
    }
    return SPC_OK;
}
