/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cuts.c - truncation of long rows: cut, sum and moment against the search of
 * rules/truncate.h level by level and the sums of rules/row.h over whole tiles, to the bit, on rows
 * of which few entries are looked at, and on rows of which most are. */
#include "host/verify/cuts.h"
#include "host/verify/tiles.h"

#include "toyround.h"

#include <criterion/criterion.h>

enum { VOCAB = 5 * SPC_TILE + 100, TILES = 6 };

static float row[VOCAB];
static uint16_t half[VOCAB];

typedef enum {
    PEAKED,  /* a nucleus of a few tokens */
    NORMAL,  /* of some hundreds */
    FLAT,    /* of nearly all: more than are held */
    PLATEAU, /* of a peak and many equal ones below, where no floor is guessed */
    MASKED,  /* most tokens are ruled out, whole tiles too */
    KINDS
} row_kind;

static void fill_row(dice *d, row_kind kind)
{
    const int32_t peak = dice_below(d, VOCAB);

    for (int32_t v = 0; v < VOCAB; v++) {
        const float noise = (float)dice_gauss(d);

        switch (kind) {
        case PEAKED: row[v] = v % 5000 == peak % 5000 ? 14 + noise : noise; break;
        case NORMAL: row[v] = 3 * noise; break;
        case FLAT: row[v] = 0.01f * noise; break;
        case PLATEAU: row[v] = v == peak ? 10 : v % 2 ? 0.0f : -1 + 0.1f * noise; break;
        default: row[v] = v == peak || (v / SPC_TILE % 2 && v % 700 == 3) ? noise : -SPC_INFINITY;
        }
        row[v] = bf16_of(row[v]);
        half[v] = (uint16_t)(spc_float_bits(row[v]) >> 16);
    }
}

/* ---- the definition ---------------------------------------------------------------------------
 */

static float cut_at(const spc_view *view, spc_softmax s, bool by_mass, uint64_t target)
{
    spc_cut cut = spc_cut_begin(target);

    while (cut.level < SPC_CUT_LEVELS) {
        uint64_t bins[SPC_CUT_BINS] = {0};

        for (int32_t v = 0; v < VOCAB; v++) {
            const float z = spc_view_logit(view, v);
            const int32_t bin = spc_cut_bin(cut, spc_key_of_logit(z));

            if (bin >= 0) bins[bin] += by_mass ? spc_mass_of(spc_softmax_weight(s, z)) : 1u;
        }
        cut = spc_cut_descend(cut, bins);
    }
    return spc_cut_logit(cut);
}

static float defined_cut(const spc_view *view, const spc_sampling *p, float max, float sum)
{
    spc_softmax s = {max, spc_temperature_scale(p->temperature), 1.0f, -SPC_INFINITY, 0, false};

    const bool ranked = p->top_k > 0 && p->top_k < VOCAB;

    if (ranked) s.cut = cut_at(view, s, false, (uint64_t)p->top_k);
    if (p->top_p < 1) {
        uint64_t mass = spc_mass_of(sum);

        if (ranked) {
            mass = 0;
            for (int32_t v = 0; v < VOCAB; v++) {
                mass += spc_mass_of(spc_softmax_weight(s, spc_view_logit(view, v)));
            }
        }
        s.cut = fmaxf(s.cut, cut_at(view, s, true, spc_nucleus_target(p->top_p, mass)));
    }
    if (p->min_p > 0) {
        s.cut = fmaxf(s.cut, spc_min_p_cut(max, p->temperature, (float)log((double)p->min_p)));
    }
    return s.cut;
}

/* Sums over what the cut leaves, tile by tile. */
static void defined_sums(const spc_view *view, float temperature, spc_row_stats *stats,
                         float *weight)
{
    const spc_softmax s = spc_softmax_of(*stats, temperature);

    stats->sum = stats->moment = 0;
    for (int32_t t = 0; t < TILES; t++) {
        float kept[SPC_TILE], moment[SPC_TILE];
        const int32_t count = spc_tile_width(VOCAB, t);

        for (int32_t i = 0; i < count; i++) {
            const float z = spc_view_logit(view, t * SPC_TILE + i);

            kept[i] = spc_softmax_weight(s, z);
            moment[i] = kept[i] > 0 ? (z - s.max) / temperature * kept[i] : 0.0f;
        }
        weight[t] = spc_tile_sum(kept, count);
        stats->sum += weight[t];
        stats->moment += spc_tile_sum(moment, count);
    }
}

/* ---- the row under test -----------------------------------------------------------------------
 */

/* Statistics of the whole row, as they are before it is cut. */
static spc_row_stats whole_stats(const spc_view *view, const spc_row_params *params,
                                 spc_partial *tile)
{
    const spc_row_needs needs = spc_needs_of(params, VOCAB);
    spc_partial all = spc_partial_none();
    float buffer[SPC_TILE];

    for (int32_t t = 0; t < TILES; t++) {
        tile[t] = spc_tile_partial(spc_tile_logits(view, VOCAB, t, buffer),
                                   spc_tile_width(VOCAB, t), t * SPC_TILE, needs);
        all = spc_partial_top(all, tile[t]);
    }
    for (int32_t t = 0; t < TILES; t++) {
        all = spc_partial_add(all, spc_partial_at(tile[t], all.max, needs.scale));
    }
    return spc_stats_of(all, needs);
}

static spc_row_params random_params(dice *d)
{
    static const float shares[] = {1, 0.3f, 0.9f, 0.999f, 0x1.fffffep-1f};
    static const int32_t ranks[] = {0, 1, 50, 3000, 12000};
    /* a rule whose gate may read the processed row's moment, and one that needs sums alone */
    spc_row_params p =
        params_of(dice_below(d, 2) ? "chow-log:alpha=1" : "strict", dice_below(d, 2) ? 0.7f : 1.5f);

    if (dice_below(d, 2)) p.rule.gate = SPC_GATE_PROCESSED;
    p.sampling.top_p = shares[dice_below(d, 5)];
    p.sampling.top_k = ranks[dice_below(d, 5)];
    p.sampling.min_p = dice_below(d, 4) ? 0 : 0.01f;
    return p;
}

static void expect_same(float got, float want, const char *what, int trial)
{
    cr_assert_eq(spc_float_bits(got), spc_float_bits(want), "row %d: %s %a, want %a", trial, what,
                 (double)got, (double)want);
}

Test(host_cuts, long_rows_are_cut_as_defined)
{
    dice d = {5};

    for (int trial = 0; trial < 400; trial++) {
        static const int32_t token[] = {7, 4095, 4096, 20000};
        static const float value[] = {1, -3, 12, 0.5f};
        spc_row_params p = random_params(&d);
        spc_row_needs needs = spc_needs_of(&p, VOCAB);
        spc_view view = {.logits = {row, SPC_LOGITS_F32}, .width = VOCAB, .hot = -1};
        spc_partial tile[TILES];
        spc_row_stats got, want;
        float got_weight[TILES], want_weight[TILES];

        fill_row(&d, (row_kind)(trial % KINDS));
        if (trial % 3) view.logits = (spc_logits){half, SPC_LOGITS_BF16};
        if (trial % 7 == 0) {
            view.edit_token = token;
            view.edit_value = value;
            view.edits = 4;
        }
        if (!needs.restricts) continue;
        got = want = whole_stats(&view, &p, tile);
        spc_cut_row(&view, VOCAB, &p, tile, &got, got_weight);
        if (needs.truncates) want.cut = defined_cut(&view, &p.sampling, want.max, want.sum);
        defined_sums(&view, p.sampling.temperature, &want, want_weight);
        expect_same(got.cut, want.cut, "cut", trial);
        expect_same(got.sum, want.sum, "sum", trial);
        if (needs.processed_moment) expect_same(got.moment, want.moment, "moment", trial);
        for (int32_t t = 0; t < TILES; t++) {
            expect_same(got_weight[t], want_weight[t], "weight of a tile", trial);
        }
        if (p.sampling.top_p < 1) {
            spc_side side = {view, got, spc_softmax_of(got, p.sampling.temperature), true, true};

            expect_same(
                spc_row_nucleus(&side, VOCAB, 0.8f),
                cut_at(&view, side.softmax, true, spc_nucleus_target(0.8f, spc_mass_of(got.sum))),
                "nucleus", trial);
        }
    }
}

/* Their keys are within a bin of the largest there is: a search that began below 0 did not end. */
Test(host_cuts, rows_of_the_largest_numbers_are_cut_too, .timeout = 60)
{
    dice d = {6};

    for (int32_t v = 0; v < VOCAB; v++) {
        row[v] = (float)fmax(-3.3e38, fmin(1e38 * dice_gauss(&d), 3.3e38));
    }
    for (int trial = 0; trial < 20; trial++) { /* cuts of top-k below 0, from which top-p begins */
        const spc_view view = {.logits = {row, SPC_LOGITS_F32}, .width = VOCAB, .hot = -1};
        spc_row_params p = params_of("strict", 1);
        spc_partial tile[TILES];
        spc_row_stats got;
        float weight[TILES], want;

        p.sampling.top_p = 0.9f;
        p.sampling.top_k = VOCAB - 400 * (1 + trial);
        got = whole_stats(&view, &p, tile);
        want = defined_cut(&view, &p.sampling, got.max, got.sum);
        spc_cut_row(&view, VOCAB, &p, tile, &got, weight);
        expect_same(got.cut, want, "cut", trial);
    }
}
