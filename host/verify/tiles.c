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

/* Which of the 32 tokens from this one on are known, of a tile of so many. */
static inline uint32_t tokens_of(const spc_subset *words, int32_t base, int32_t count)
{
    const uint32_t tokens = words[base / 32].tokens;

    return count - base < 32 ? tokens & ((1u << (count - base)) - 1u) : tokens;
}

/* How many tokens of a tile a row knows; -1: its words contradict each other, or its width. */
SPC_CLONES static int32_t count_some(const spc_subset *words, int32_t width, int32_t count)
{
    const int32_t start = words->before;
    int32_t known = 0, wrong = 0;

    if (start < 0 || start > width) return -1;
    for (int32_t base = 0; base < count; base += 32) {
        wrong |= words[base / 32].before != start + known;
        known += spc_bits_set(tokens_of(words, base, count));
    }
    return wrong || known > width - start ? -1 : known;
}

/* Values of tokens that a row knows, one behind the other, to their places in a tile. */
SPC_CLONES static void spread(const spc_subset *words, int32_t count, const float *value,
                              float otherwise, float *out)
{
    for (int32_t base = 0; base < count; base += 32) {
        uint32_t left = tokens_of(words, base, count);

        for (int32_t i = 0; i < 32; i++) out[base + i] = otherwise;
        for (; left; left &= left - 1) out[base + __builtin_ctz(left)] = *value++;
    }
}

/* The `known` logits of a tile, where they lie or in buffer. */
static const float *some_logits(const spc_view *row, int32_t first, int32_t known, float *buffer)
{
    const int32_t start = row->subset[first / 32].before;

    if (row->logits.type == SPC_LOGITS_F32) return (const float *)row->logits.data + start;
    widen(row->logits, start, known, buffer);
    return buffer;
}

/* A tile of a row that knows some of the tokens. */
static void fill_some(const spc_view *row, int32_t first, int32_t count, float *buffer)
{
    const spc_subset *words = row->subset + first / 32;
    const int32_t known = count_some(words, row->width, count);
    spc_view plain = *row;
    float packed[SPC_TILE];

    if (known >= 0) {
        spread(words, count, some_logits(row, first, known, packed), -SPC_INFINITY, buffer);
        return;
    }
    plain.allowed = NULL;
    plain.edits = 0;
    for (int32_t i = 0; i < count; i++) buffer[i] = spc_view_logit(&plain, first + i);
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
        fill_some(row, first, count, buffer);
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

/* The token of a tile whose value is this one of those that are known. */
static int32_t token_of(const spc_subset *words, int32_t known)
{
    const int32_t start = words->before;
    uint32_t left;
    int32_t w = 0;

    while (words[w].before - start + spc_bits_set(words[w].tokens) <= known) w++;
    left = words[w].tokens;
    for (int32_t i = words[w].before - start; i < known; i++) left &= left - 1;
    return 32 * w + __builtin_ctz(left);
}

/* Logits of a tile, all of them, or those of the tokens that a row knows: the others weigh nothing.
 */
typedef struct {
    const float *logits;
    int32_t known;           /* of them */
    const spc_subset *words; /* NULL: all */
    int32_t offset, count;   /* of the tile */
} tile_row;

static float total(const tile_row *t, const float *value)
{
    float whole[SPC_TILE];

    if (!t->words) return tile_sum(value, t->count);
    spread(t->words, t->count, value, 0.0f, whole);
    return tile_sum(whole, t->count);
}

static spc_partial partial(const tile_row *t, spc_row_needs needs)
{
    spc_partial p = spc_partial_none();
    float one[SPC_TILE], moment[SPC_TILE];
    int32_t top;

    p.max = tile_max(t->logits, t->known, &p.bad);
    if (p.bad || !(p.max > -SPC_INFINITY)) return p;
    top = first_of(t->logits, t->known, p.max);
    p.top = t->offset + (t->words ? token_of(t->words, top) : top);
    if (needs.mixing) {
        tile_exp(t->logits, t->known, p.max, needs.scale, one);
        p.sum = total(t, one);
    }
    if (needs.unscaled) {
        tile_exp(t->logits, t->known, p.max, SPC_LOG2_E, one);
        p.sum_one = total(t, one);
        if (needs.entropy) {
            spc_tile_moment(t->logits, t->known, p.max, 1.0f, one, moment);
            p.moment = total(t, moment);
        }
    }
    return p;
}

spc_partial spc_tile_partial(const float *logits, int32_t count, int32_t offset,
                             spc_row_needs needs)
{
    const tile_row t = {logits, count, NULL, offset, count};

    return partial(&t, needs);
}

spc_partial spc_row_partial(const spc_view *row, int32_t vocab, int32_t tile, spc_row_needs needs)
{
    tile_row t = {.offset = tile * SPC_TILE, .count = spc_tile_width(vocab, tile)};
    float buffer[SPC_TILE];

    if (row->logits.data && row->subset && !row->allowed && row->edits <= 0) {
        t.words = row->subset + t.offset / 32;
        t.known = count_some(t.words, row->width, t.count);
        if (t.known >= 0) {
            t.logits = some_logits(row, t.offset, t.known, buffer);
            return partial(&t, needs);
        }
    }
    return spc_tile_partial(spc_tile_logits(row, vocab, tile, buffer), t.count, t.offset, needs);
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
