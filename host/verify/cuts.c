/* SPDX-License-Identifier: Apache-2.0 */
/* cuts.c - truncation of whole rows on the CPU.
 *
 * A row is walked once: its entries above a floor that the cut very likely exceeds are held, and
 * these few are searched and summed.  A floor that was too high is lowered; where the entries are
 * too many to be held the row itself is walked, with the same result. */
#include "cuts.h"

#include "tiles.h"

#include <math.h>
#include <string.h>

/* Entries of a row from a floor on, in order of tokens. */
enum { HELD_MOST = 8192 };

typedef struct {
    float floor; /* +inf: none are here */
    int32_t count;
    float logit[HELD_MOST];
    int32_t token[HELD_MOST];
} held_entries;

typedef struct {
    const spc_view *view;
    int32_t vocab;
    float sum;               /* of its weights */
    const spc_partial *tile; /* of each tile, or NULL: not known */
    held_entries *held;
} cut_row;

/* Hold the entries from `floor` on; none where there is no room for them. */
static void hold(cut_row row, float floor)
{
    float buffer[SPC_TILE];
    int32_t at[SPC_TILE + 1];
    held_entries *h = row.held;

    h->floor = SPC_INFINITY;
    h->count = 0;
    for (int32_t t = 0; t < spc_tile_count(row.vocab); t++) {
        if (row.tile && row.tile[t].max < floor) continue;

        const float *logits = spc_tile_logits(row.view, row.vocab, t, buffer);
        const int32_t found = spc_tile_from(logits, spc_tile_width(row.vocab, t), floor, at);

        if (found > HELD_MOST - h->count) return;
        for (int32_t i = 0; i < found; i++) {
            h->logit[h->count] = logits[at[i]];
            h->token[h->count++] = t * SPC_TILE + at[i];
        }
    }
    h->floor = floor;
}

/* How many held entries a call on tiles takes, beginning with the i-th. */
static int32_t tile_of_held(const held_entries *h, int32_t i)
{
    return h->count - i < SPC_TILE ? h->count - i : SPC_TILE;
}

/* ---- the search for a cut ---------------------------------------------------------------------
 */

/* The k-th largest of the tiles' maxima, or the least: that many entries at least are not below it.
 */
static float kth_maximum(cut_row row, uint64_t k)
{
    const int32_t tiles = spc_tile_count(row.vocab);
    float kth = SPC_INFINITY;

    for (int32_t t = 0; t < tiles; t++) {
        const float max = row.tile[t].max;
        uint64_t larger = 0;

        for (int32_t u = 0; u < tiles; u++) larger += row.tile[u].max > max;
        if (larger < k && max > -SPC_INFINITY && max < kth) kth = max;
    }
    return kth;
}

/* Where the search begins, and where it goes on if too little lies above.
 *
 * For a count: tiles' maxima tell where that many entries are, or not much fewer than all that are
 * asked for; of large counts nothing is known.  For a mass, which leaves m of the row out: below
 * entries that weigh m / HELD_MOST lies more than m only if there are more of them than can be
 * held; below those that weigh m / vocab it cannot, but for rounding, hence a factor of e. */
static float guessed_floor(cut_row row, spc_softmax s, bool by_mass, uint64_t target, bool again)
{
    const uint64_t mass = spc_mass_of(row.sum);
    float weight;

    if (!by_mass) {
        return !again && target <= 2 * (uint64_t)spc_tile_count(row.vocab)
                   ? kth_maximum(row, target)
                   : s.max - SPC_RANKED_FLOOR;
    }
    if (s.cut > -SPC_INFINITY) return s.cut;
    if (mass <= target) return -SPC_INFINITY;
    weight = (float)(mass - target) * 0x1p-40f;
    weight /= again ? 2.71828183f * (float)row.vocab : (float)HELD_MOST;
    return s.max + log2f(weight) / s.scale;
}

/* Too little was found above what was searched.  false: there is nothing below. */
static bool go_below(spc_search *search, cut_row row, spc_softmax s, bool by_mass, uint64_t above)
{
    const float floor = guessed_floor(row, s, by_mass, search->target, true);

    if (!spc_search_below(search, above)) return false;
    if (spc_search_key(search, floor) <= search->high) {
        spc_search_within(search, spc_search_key(search, floor), search->high);
    }
    return true;
}

/* The bin in which the target is reached from above; -1: in none.  above: mass of those above it,
 * or of all. */
static int32_t reaching_bin(const spc_search *search, const uint64_t *bins, uint64_t *above)
{
    int32_t bin = SPC_CUT_BINS - 1;

    *above = search->above;
    while (bin >= 0 && *above + bins[bin] < search->target) *above += bins[bin--];
    return bin;
}

/* What all entries in question add to the bins. */
static void fill_bins(cut_row row, const spc_search *search, spc_softmax s, bool by_mass,
                      uint64_t *bins)
{
    const held_entries *h = row.held;
    float buffer[SPC_TILE];

    if (spc_search_logit(search, search->low) >= h->floor) {
        for (int32_t i = 0; i < h->count; i += SPC_TILE) {
            spc_tile_bins(h->logit + i, tile_of_held(h, i), search, s, by_mass, bins);
        }
        return;
    }
    for (int32_t t = 0; t < spc_tile_count(row.vocab); t++) {
        const float *logits = spc_tile_logits(row.view, row.vocab, t, buffer);

        spc_tile_bins(logits, spc_tile_width(row.vocab, t), search, s, by_mass, bins);
    }
}

/* Least logit of the set that holds `target` counts (by_mass false) or masses, from the top. */
static float find_cut(cut_row row, spc_softmax s, bool by_mass, uint64_t target)
{
    spc_search search = spc_search_begin(row.view, guessed_floor(row, s, by_mass, target, false),
                                         s.max, target > 0 ? target : 1);

    do {
        const float floor = spc_search_logit(&search, search.low);
        uint64_t bins[SPC_CUT_BINS] = {0}, above;

        if (row.held->floor > floor) hold(row, floor);
        fill_bins(row, &search, s, by_mass, bins);

        int32_t bin = reaching_bin(&search, bins, &above);

        if (bin >= 0) {
            spc_search_enter(&search, bin, above);
        } else if (!go_below(&search, row, s, by_mass, above)) {
            return -SPC_INFINITY;
        }
    } while (!spc_search_found(&search));
    return spc_search_logit(&search, search.low);
}

/* Mass of what s keeps. */
static uint64_t kept_mass(cut_row row, spc_softmax s)
{
    const held_entries *h = row.held;
    uint64_t total = 0;
    float buffer[SPC_TILE];

    if (s.cut >= h->floor) {
        for (int32_t i = 0; i < h->count; i += SPC_TILE) {
            total += spc_tile_mass(h->logit + i, tile_of_held(h, i), s);
        }
        return total;
    }
    for (int32_t t = 0; t < spc_tile_count(row.vocab); t++) {
        const float *logits = spc_tile_logits(row.view, row.vocab, t, buffer);

        total += spc_tile_mass(logits, spc_tile_width(row.vocab, t), s);
    }
    return total;
}

#define ROUND_FN static
#include "rules/cut_body.h"

/* ---- what a cut leaves ------------------------------------------------------------------------
 */

/* Weight of what is left of tile t, and its part of the moment (may be NULL). */
static float sum_tile(cut_row row, spc_softmax s, float temperature, int32_t t, float *moment)
{
    float buffer[SPC_TILE], weight[SPC_TILE], part[SPC_TILE];
    const float *logits = spc_tile_logits(row.view, row.vocab, t, buffer);
    const int32_t count = spc_tile_width(row.vocab, t);

    spc_tile_kept(logits, count, s, weight);
    if (moment) {
        spc_tile_moment(logits, count, s.max, temperature, weight, part);
        *moment = spc_tile_total(part, count);
    }
    return spc_tile_total(weight, count);
}

/* The same of a tile that has `count` entries held.  Those that are not would add zeros to the
 * lanes of row.h: the sums have the same bits. */
static float sum_held(const float *logit, const int32_t *token, int32_t count, spc_softmax s,
                      float temperature, float *moment)
{
    float weight[SPC_TILE], part[SPC_TILE], lane[SPC_LANES] = {0};

    spc_tile_kept(logit, count, s, weight);
    if (moment) {
        spc_tile_moment(logit, count, s.max, temperature, weight, part);
        for (int32_t i = 0; i < count; i++) lane[token[i] % SPC_LANES] += part[i];
        *moment = spc_tile_total(lane, SPC_LANES);
        memset(lane, 0, sizeof lane);
    }
    for (int32_t i = 0; i < count; i++) lane[token[i] % SPC_LANES] += weight[i];
    return spc_tile_total(lane, SPC_LANES);
}

/* Sums over what the cut of the statistics leaves. */
static void sum_left(cut_row row, float temperature, bool entropy, spc_row_stats *stats,
                     float *tile_weight)
{
    const spc_softmax s = spc_softmax_of(*stats, temperature);
    const held_entries *h = row.held;

    stats->sum = 0.0f;
    if (entropy) stats->moment = 0.0f;
    for (int32_t t = 0, at = 0; t < spc_tile_count(row.vocab); t++) {
        float moment = 0.0f;

        if (row.tile[t].max < s.cut) {
            tile_weight[t] = 0.0f;
        } else if (s.cut >= h->floor) {
            int32_t end;

            while (h->token[at] < t * SPC_TILE) at++;
            for (end = at; end < h->count && h->token[end] < (t + 1) * SPC_TILE;) end++;
            tile_weight[t] = sum_held(h->logit + at, h->token + at, end - at, s, temperature,
                                      entropy ? &moment : NULL);
        } else {
            tile_weight[t] = sum_tile(row, s, temperature, t, entropy ? &moment : NULL);
        }
        stats->sum += tile_weight[t];
        if (entropy) stats->moment += moment;
    }
}

void spc_cut_row(const spc_view *row, int32_t vocab, const spc_row_params *params,
                 const spc_partial *tile, spc_row_stats *stats, float *tile_weight)
{
    const spc_row_needs needs = spc_needs_of(params, vocab);
    held_entries held;
    const cut_row r = {row, vocab, stats->sum, tile, &held};

    held.floor = SPC_INFINITY;
    if (needs.truncates) {
        stats->cut = truncation_cut(r, vocab, &params->sampling, stats->max, stats->sum);
    }
    if (needs.restricts) {
        sum_left(r, params->sampling.temperature, needs.processed_moment, stats, tile_weight);
    }
}

float spc_row_nucleus(const spc_side *side, int32_t vocab, float top_p)
{
    held_entries held;
    const cut_row r = {&side->row, vocab, side->stats.sum, NULL, &held};

    held.floor = SPC_INFINITY;
    return processed_cut(r, side, top_p);
}
