/* SPDX-License-Identifier: Apache-2.0 */
/* tiles.c - what is done to one tile of a row on the CPU; of a pair of rows: tile_pairs.c. */
#include "tiles.h"

#include "clones.h"

#include <string.h>

enum { COLUMNS = 64 }; /* a few vectors of the widest unit */

/* ---- logits -----------------------------------------------------------------------------------
 */

SPC_CLONES static void widen_bf16(const uint16_t *logits, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = spc_bits_float((uint32_t)logits[i] << 16);
}

SPC_CLONES static void widen_half(const uint16_t *logits, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = spc_half_float(logits[i]);
}

static void widen(spc_logits logits, int32_t first, int32_t count, float *out)
{
    switch (logits.type) {
    case SPC_LOGITS_BF16: widen_bf16((const uint16_t *)logits.data + first, count, out); break;
    case SPC_LOGITS_F16: widen_half((const uint16_t *)logits.data + first, count, out); break;
    default: memcpy(out, (const float *)logits.data + first, (size_t)count * sizeof *out); break;
    }
}

/* Of a row of some tokens: its logits of a tile to their places, -inf to the others. */
static void spread(const spc_view *row, int32_t first, int32_t count, float *buffer)
{
    const spc_subset *words = row->subset + first / 32;
    const int64_t start = words->before, rest = row->width - start;
    const int32_t known = start < 0 || rest < 0 ? 0 : rest < count ? (int32_t)rest : count;
    float packed[SPC_TILE];

    if (known > 0) widen(row->logits, (int32_t)start, known, packed);
    for (int32_t i = 0; i < count; i++) buffer[i] = -SPC_INFINITY;
    for (int32_t base = 0; base < count; base += 32) {
        const uint32_t here = count - base < 32 ? (1u << (count - base)) - 1u : ~0u;
        const int64_t from = words[base / 32].before - start; /* within a tile, or a lie */
        const int64_t most = from < 0 || from >= known ? 0 : known - from;
        uint32_t left = words[base / 32].tokens & here;

        for (int64_t i = 0; left && i < most; i++, left &= left - 1) {
            buffer[base + __builtin_ctz(left)] = packed[from + i];
        }
    }
}

/* Numbers are added and tokens masked, of those that have a logit. */
static void edit(const spc_view *row, int32_t first, int32_t count, float *buffer)
{
    for (int32_t i = spc_view_edit(row, first); i < row->edits; i++) {
        const int32_t token = row->edit_token[i];

        if (token >= first + count) break;
        if (token < first || (i > 0 && row->edit_token[i - 1] == token)) continue;
        if (spc_view_element(row, token) >= 0) buffer[token - first] += row->edit_value[i];
    }
    for (int32_t i = 0; i < count && row->allowed; i++) {
        if (!spc_view_allows(row, first + i)) buffer[i] = -SPC_INFINITY;
    }
}

/* The logits of a tile, edited: where they lie when nothing is to be done, otherwise in buffer. */
const float *spc_tile_logits(const spc_view *row, int32_t vocab, int32_t tile, float *buffer)
{
    int32_t first = tile * SPC_TILE, count = spc_tile_width(vocab, tile);
    int32_t known = row->width - first < count ? row->width - first : count;
    const bool edited = row->allowed || row->edits > 0;

    if (!row->logits.data) {
        for (int32_t i = 0; i < count; i++) buffer[i] = -SPC_INFINITY;
        if (row->hot >= first && row->hot < first + count) buffer[row->hot - first] = 0.0f;
        return buffer;
    }
    if (row->subset) {
        spread(row, first, count, buffer);
    } else if (row->logits.type == SPC_LOGITS_F32 && known == count && !edited) {
        return (const float *)row->logits.data + first;
    } else {
        if (known < 0) known = 0;
        if (known > 0) widen(row->logits, first, known, buffer);
        for (int32_t i = known; i < count; i++) buffer[i] = -SPC_INFINITY;
    }
    if (edited) edit(row, first, count, buffer);
    return buffer;
}

/* ---- statistics -------------------------------------------------------------------------------
 */

/* Maximum of a tile and whether it holds a NaN or +inf.  A column of its own for every lane of a
 * vector: compilers may not reorder comparisons of floats themselves. */
SPC_CLONES static float tile_max(const float *logits, int32_t count, int32_t *bad)
{
    float column[COLUMNS], max = -SPC_INFINITY;
    int32_t wrong = 0, whole = count - count % COLUMNS;

    for (int32_t c = 0; c < COLUMNS; c++) column[c] = -SPC_INFINITY;
    for (int32_t base = 0; base < whole; base += COLUMNS) {
        for (int32_t c = 0; c < COLUMNS; c++) {
            float z = logits[base + c];

            wrong |= !(z < SPC_INFINITY);
            column[c] = z > column[c] ? z : column[c];
        }
    }
    for (int32_t i = whole; i < count; i++) {
        wrong |= !(logits[i] < SPC_INFINITY);
        max = logits[i] > max ? logits[i] : max;
    }
    for (int32_t c = 0; c < COLUMNS; c++) max = column[c] > max ? column[c] : max;
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

void spc_tile_kept(const float *logits, int32_t count, spc_softmax s, float *out)
{
    tile_kept(logits, count, s, out);
}

SPC_CLONES static void tile_moment(const float *logits, int32_t count, float max, float divisor,
                                   const float *weight, float *out)
{
    for (int32_t i = 0; i < count; i++) {
        out[i] = weight[i] > 0.0f ? (logits[i] - max) / divisor * weight[i] : 0.0f;
    }
}

void spc_tile_moment(const float *logits, int32_t count, float max, float divisor,
                     const float *weight, float *out)
{
    tile_moment(logits, count, max, divisor, weight, out);
}

/* The first entry of this value, which is there. */
SPC_CLONES static int32_t first_of(const float *logits, int32_t count, float value)
{
    int32_t i = 0;

    for (; i + COLUMNS <= count; i += COLUMNS) {
        int32_t hit = 0;

        for (int32_t c = 0; c < COLUMNS; c++) hit |= logits[i + c] == value;
        if (hit) break;
    }
    while (i < count - 1 && !(logits[i] == value)) i++;
    return i;
}

SPC_CLONES static float tile_sum(const float *value, int32_t count)
{
    return spc_tile_sum(value, count);
}

float spc_tile_total(const float *value, int32_t count)
{
    return tile_sum(value, count);
}

spc_partial spc_tile_partial(const float *logits, int32_t count, int32_t offset,
                             spc_row_needs needs)
{
    spc_partial p = spc_partial_none();
    float one[SPC_TILE], moment[SPC_TILE];

    p.max = tile_max(logits, count, &p.bad);
    if (p.bad || !(p.max > -SPC_INFINITY)) return p;
    p.top = offset + first_of(logits, count, p.max);
    if (needs.mixing) {
        tile_exp(logits, count, p.max, needs.scale, one);
        p.sum = tile_sum(one, count);
    }
    if (needs.unscaled) {
        tile_exp(logits, count, p.max, SPC_LOG2_E, one);
        p.sum_one = tile_sum(one, count);
        if (needs.entropy) {
            spc_tile_moment(logits, count, p.max, 1.0f, one, moment);
            p.moment = tile_sum(moment, count);
        }
    }
    return p;
}

/* ---- cuts -------------------------------------------------------------------------------------
 */

uint64_t spc_tile_mass(const float *logits, int32_t count, spc_softmax s)
{
    float weight[SPC_TILE];
    uint64_t mass = 0;

    tile_kept(logits, count, s, weight);
    for (int32_t i = 0; i < count; i++) mass += spc_mass_of(weight[i]);
    return mass;
}

/* Which entries are marked, in order, at [count + 1]; returns how many.  Mostly they are few. */
static int32_t positions(const uint8_t *in, int32_t count, int32_t *at)
{
    enum { AT_ONCE = 8 };
    int32_t found = 0, i = 0;

    for (; i + AT_ONCE <= count; i += AT_ONCE) {
        uint64_t any;

        memcpy(&any, in + i, sizeof any);
        for (int32_t k = i; k < i + AT_ONCE && any; k++) {
            at[found] = k;
            found += in[k];
        }
    }
    for (; i < count; i++) {
        at[found] = i;
        found += in[i];
    }
    return found;
}

SPC_CLONES static void mark_from(const float *logits, int32_t count, float floor, uint8_t *in)
{
    for (int32_t i = 0; i < count; i++) in[i] = logits[i] >= floor;
}

int32_t spc_tile_from(const float *logits, int32_t count, float floor, int32_t *at)
{
    uint8_t in[SPC_TILE];

    mark_from(logits, count, floor, in);
    return positions(in, count, at);
}

/* Which logits have keys in question? */
SPC_CLONES static void mark(const float *logits, int32_t count, spc_search search, uint8_t *in)
{
    for (int32_t i = 0; i < count; i++) {
        in[i] = spc_search_key(&search, logits[i]) - search.low <= search.high - search.low;
    }
}

void spc_tile_bins(const float *logits, int32_t count, const spc_search *search, spc_softmax s,
                   bool by_mass, uint64_t *bins)
{
    float found[SPC_TILE], weight[SPC_TILE];
    uint8_t in[SPC_TILE];
    int32_t at[SPC_TILE + 1], n;

    mark(logits, count, *search, in);
    n = positions(in, count, at);
    for (int32_t i = 0; i < n; i++) found[i] = logits[at[i]];
    if (by_mass) tile_kept(found, n, s, weight);
    for (int32_t i = 0; i < n; i++) {
        bins[spc_search_bin(search, found[i])] += by_mass ? spc_mass_of(weight[i]) : 1u;
    }
}

/* ---- races ------------------------------------------------------------------------------------
 */

/* The tile that wins the first level of the race; -1 when no tile weighs anything. */
int32_t spc_race_tiles(const float *tile_weight, int32_t tiles, spc_key key, spc_stream_id stream)
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
int32_t spc_race_entries(const float *weight, int32_t count, int32_t tile, spc_key key,
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
