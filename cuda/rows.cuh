/* SPDX-License-Identifier: Apache-2.0 */
/* rows.cuh - what a block does with one tile of a row: load it, take its statistics, race in it.
 *
 * A block has SPC_LANES threads, thread l is lane l of the canonical order (rules/row.h), so sums
 * have the bits of host/verify.c wherever exp2 has.  Every thread of the block must call these
 * together; every thread gets the result. */
#ifndef SPC_CUDA_ROWS_CUH
#define SPC_CUDA_ROWS_CUH

#include "device.cuh"

#include "rules/batch.h"
#include "rules/truncate.h"

enum { TILES_MAX = SPC_VOCAB_MAX / SPC_TILE, PER_LANE = SPC_TILE / SPC_LANES };

/* What one thread holds of a tile: the logits of entries lane, lane + 256, ...; -inf past the
 * vocabulary. */
struct lane_logits {
    float z[PER_LANE];
};

template <typename Element, typename Value>
static __device__ __forceinline__ void load_plain(const Element *at, int32_t count, Value value,
                                                  lane_logits *out)
{
    Element raw[PER_LANE];

    if (count >= SPC_TILE) { /* all loads in flight before the first is used */
#pragma unroll
        for (int k = 0; k < PER_LANE; k++) raw[k] = at[threadIdx.x + k * SPC_LANES];
#pragma unroll
        for (int k = 0; k < PER_LANE; k++) out->z[k] = value(raw[k]);
        return;
    }
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t i = (int32_t)threadIdx.x + k * SPC_LANES;

        out->z[k] = i < count ? value(at[i]) : -SPC_INFINITY;
    }
}

/* Are its logits as they lie in memory? */
static __device__ __forceinline__ bool is_plain(const spc_view *row)
{
    return row->logits.data && !row->allowed && row->edits <= 0;
}

/* The logits of a tile of a plain row. */
static __device__ __forceinline__ void load_plain_tile(const spc_view *row, int32_t vocab,
                                                       int32_t tile, lane_logits *out)
{
    const int32_t first = tile * SPC_TILE;
    const int32_t count = (row->width < vocab ? row->width : vocab) - first;

    if (row->logits.type == SPC_LOGITS_BF16) {
        load_plain((const uint16_t *)row->logits.data + first, count,
                   [](uint16_t x) { return spc_bits_float((uint32_t)x << 16); }, out);
    } else if (row->logits.type == SPC_LOGITS_F16) {
        load_plain((const uint16_t *)row->logits.data + first, count,
                   [](uint16_t x) { return spc_half_float(x); }, out);
    } else {
        load_plain((const float *)row->logits.data + first, count, [](float x) { return x; }, out);
    }
}

/* A logit of a row that is masked or edited: a call, for a loop over those would put all of a
 * thread's logits in memory. */
static __device__ __noinline__ float view_logit(const spc_view *row, int32_t token)
{
    return spc_view_logit(row, token);
}

/* The logits of a tile as its row's view has them. */
static __device__ __forceinline__ void load_tile(const spc_view *row, int32_t vocab, int32_t tile,
                                                 lane_logits *out)
{
    if (is_plain(row)) {
        load_plain_tile(row, vocab, tile, out);
        return;
    }
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + k * SPC_LANES;

        out->z[k] = v < vocab ? view_logit(row, v) : -SPC_INFINITY;
    }
}

/* ---- the same in two steps, 16 bytes at a time ------------------------------------------------
 *
 * Entries of a lane lie 256 apart: they go through shared memory, to which the device copies 16
 * bytes a thread and instruction while the block works on something else; no register waits. */

/* A tile on its way, or there. */
struct tile_stage {
    uint4 word[SPC_TILE / 4]; /* room for fp32 */
};

/* AT words behind both addresses: known while compiling, so that the words of a thread share two
 * registers of addresses and nobody works out more. */
template <int AT> static __device__ __forceinline__ void copy_word(uint4 *to, const uint4 *from)
{
#ifdef __CUDACC__
    asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %2], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "n"(AT * 16)
                 : "memory");
#else
    fiber_copy_by_itself(to + AT, from + AT, sizeof *to);
#endif
}

/* What this thread has asked for since the last end_fetch is one group. */
static __device__ __forceinline__ void end_fetch(void)
{
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    fiber_end_copies();
#endif
}

/* Wait for this thread's groups but the last `LATER`. */
template <int LATER> static __device__ __forceinline__ void wait_fetch(void)
{
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#else
    fiber_wait_copies(LATER);
#endif
}

static __device__ __forceinline__ int32_t entries_of_tile(const spc_view *row, int32_t vocab,
                                                          int32_t tile)
{
    const int32_t count = (row->width < vocab ? row->width : vocab) - tile * SPC_TILE;

    return count < 0 ? 0 : count < SPC_TILE ? count : SPC_TILE;
}

static __device__ __forceinline__ const void *tile_of(const spc_view *row, int32_t tile)
{
    const int32_t size = row->logits.type == SPC_LOGITS_F32 ? 4 : 2;

    return (const char *)row->logits.data + (int64_t)tile * SPC_TILE * size;
}

/* Words of a whole tile. */
static __device__ __forceinline__ int32_t words_of_tile(const spc_view *row)
{
    return SPC_TILE / (row->logits.type == SPC_LOGITS_F32 ? 4 : 8);
}

/* Tiles, from the first on, that come in words alone. */
static __device__ __forceinline__ int32_t whole_tiles(const spc_view *row, int32_t vocab)
{
    if (!is_plain(row) || (uintptr_t)row->logits.data % 16 != 0) return 0;
    return (row->width < vocab ? row->width : vocab) / SPC_TILE;
}

/* Ask for a whole tile of such a row, `from` being this thread's first word. */
static __device__ __forceinline__ void fetch_words(const uint4 *from, int32_t words,
                                                   tile_stage *stage)
{
    uint4 *to = stage->word + threadIdx.x;

    static_assert(SPC_TILE == 16 * SPC_LANES, "two words a thread, of fp32 four");
    copy_word<0>(to, from);
    copy_word<SPC_LANES>(to, from);
    if (words <= 2 * SPC_LANES) return;
    copy_word<2 * SPC_LANES>(to, from);
    copy_word<3 * SPC_LANES>(to, from);
}

/* Ask for a tile; behind a barrier after all have read what was in the stage.  Returns how many
 * entries come in words; 0: they are loaded one by one. */
static __device__ __forceinline__ int32_t fetch_tile(const spc_view *row, int32_t vocab,
                                                     int32_t tile, tile_stage *stage)
{
    const int32_t each = row->logits.type == SPC_LOGITS_F32 ? 4 : 8;
    const int32_t words = entries_of_tile(row, vocab, tile) / each;
    const uint4 *at = (const uint4 *)tile_of(row, tile);

    if (!is_plain(row) || (uintptr_t)at % 16 != 0) return 0;

    const uint4 *from = at + threadIdx.x;
    uint4 *to = stage->word + threadIdx.x;
    const int32_t mine = words - (int32_t)threadIdx.x;

    if (mine > 0) copy_word<0>(to, from);
    if (mine > SPC_LANES) copy_word<SPC_LANES>(to, from);
    if (mine > 2 * SPC_LANES) copy_word<2 * SPC_LANES>(to, from);
    if (mine > 3 * SPC_LANES) copy_word<3 * SPC_LANES>(to, from);
    return words * each;
}

/* The entries behind the last whole word, and -inf behind those. */
static __device__ __forceinline__ void fill_stage(const spc_view *row, int32_t vocab, int32_t tile,
                                                  int32_t entries, tile_stage *stage)
{
    const int32_t count = entries_of_tile(row, vocab, tile);
    const void *at = tile_of(row, tile);

    for (int32_t i = entries + (int32_t)threadIdx.x; i < SPC_TILE; i += SPC_LANES) {
        if (row->logits.type == SPC_LOGITS_F32) {
            ((float *)stage)[i] = i < count ? ((const float *)at)[i] : -SPC_INFINITY;
        } else {
            const uint16_t none = row->logits.type == SPC_LOGITS_BF16 ? 0xff80u : 0xfc00u;

            ((uint16_t *)stage)[i] = i < count ? ((const uint16_t *)at)[i] : none;
        }
    }
}

/* Rows that are masked, edited or not aligned, as fp32. */
static __device__ __noinline__ void stage_logits(const spc_view *row, int32_t vocab, int32_t tile,
                                                 tile_stage *stage)
{
    float *at = (float *)stage + threadIdx.x;
    lane_logits v;

    if (is_plain(row)) {
        load_plain_tile(row, vocab, tile, &v);
#pragma unroll
        for (int k = 0; k < PER_LANE; k++) at[k * SPC_LANES] = v.z[k];
        return;
    }
#pragma unroll 1
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t i = tile * SPC_TILE + (int32_t)threadIdx.x + k * SPC_LANES;

        at[k * SPC_LANES] = i < vocab ? spc_view_logit(row, i) : -SPC_INFINITY;
    }
}

/* What is missing of a tile that was asked for and waited for; -inf past the vocabulary.  A barrier
 * has to follow.  entries: as fetch_tile said.  Returns the type of what is in the stage. */
static __device__ __forceinline__ int32_t complete_stage(const spc_view *row, int32_t vocab,
                                                         int32_t tile, int32_t entries,
                                                         tile_stage *stage)
{
    if (entries == 0) {
        stage_logits(row, vocab, tile, stage);
        return SPC_LOGITS_F32;
    }
    if (entries < SPC_TILE) fill_stage(row, vocab, tile, entries, stage);
    return row->logits.type;
}

template <int COUNT, typename Element, typename Value>
static __device__ __forceinline__ void unstage_as(const tile_stage *stage, int32_t first,
                                                  Value value, float *z)
{
    const Element *at = (const Element *)stage + threadIdx.x + first * SPC_LANES;

#pragma unroll
    for (int k = 0; k < COUNT; k++) z[k] = value(at[k * SPC_LANES]);
}

/* So many of the thread's entries, from this one on: who takes them a few at a time keeps them in
 * registers. */
template <int COUNT>
static __device__ __forceinline__ void unstage(const tile_stage *stage, int32_t type, int32_t first,
                                               float *z)
{
    if (type == SPC_LOGITS_BF16) {
        unstage_as<COUNT, uint16_t>(
            stage, first, [](uint16_t x) { return spc_bits_float((uint32_t)x << 16); }, z);
    } else if (type == SPC_LOGITS_F16) {
        unstage_as<COUNT, uint16_t>(
            stage, first, [](uint16_t x) { return spc_half_float(x); }, z);
    } else {
        unstage_as<COUNT, float>(
            stage, first, [](float x) { return x; }, z);
    }
}

/* The logits of a tile that was asked for and waited for, by all threads together. */
static __device__ __forceinline__ void open_tile(const spc_view *row, int32_t vocab, int32_t tile,
                                                 int32_t entries, tile_stage *stage,
                                                 lane_logits *out)
{
    const int32_t type = complete_stage(row, vocab, tile, entries, stage);

    __syncthreads();
    unstage<PER_LANE>(stage, type, 0, out->z);
}

/* ---- statistics ------------------------------------------------------------------------------ */

/* The larger number; NaN where one is. */
static __device__ __forceinline__ float larger(float a, float b)
{
#ifdef __CUDA_ARCH__
    float max;

    asm("max.NaN.f32 %0, %1, %2;" : "=f"(max) : "f"(a), "f"(b));
    return max;
#else
    return a > b || a != a ? a : b;
#endif
}

/* The same of two numbers of bf16 in a word, each with its like. */
static __device__ __forceinline__ float lower_of(uint32_t word)
{
    return spc_bits_float(word << 16);
}

static __device__ __forceinline__ float upper_of(uint32_t word)
{
    return spc_bits_float(word & 0xffff0000u);
}

static __device__ __forceinline__ uint32_t larger_two(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    uint32_t max;

    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(max) : "r"(a), "r"(b));
    return max;
#else
    return spc_float_bits(larger(lower_of(a), lower_of(b))) >> 16 |
           (spc_float_bits(larger(upper_of(a), upper_of(b))) & 0xffff0000u);
#endif
}

/* Maximum of every thread's part of the tile; NaN where something is. */
static __device__ __forceinline__ float lane_max(const lane_logits *v)
{
    float max = v->z[0];

#pragma unroll
    for (int k = 1; k < PER_LANE; k++) max = larger(max, v->z[k]);
    return max;
}

/* The same as an ordered key, all ones when something is NaN or +inf. */
static __device__ __forceinline__ uint32_t key_of_max(float max)
{
    return max < SPC_INFINITY ? spc_key_of_logit(max) : ~0u;
}

/* The thread's part of a tile's sums, relative to the tile's maximum, and the first of its entries
 * that is the maximum.  mine: the largest of its entries. */
struct lane_part {
    float sum[3]; /* scaled, unscaled, moment */
    uint32_t top; /* index in the row, ~0 for none */
};

/* Sum of a thread's 2^((z - max) scale). */
static __device__ __forceinline__ float lane_weight(const lane_logits *v, float max, float scale)
{
    float sum = 0.0f;

#pragma unroll
    for (int k = 0; k < PER_LANE; k++) sum += spc_exp2((v->z[k] - max) * scale);
    return sum;
}

/* Where nothing is asked for behind a sum, no logit outlives it: it may be worked out in their
 * registers, all at a time.  At temperature 1 two sums are one. */
static __device__ __forceinline__ lane_part lane_sums(const lane_logits *v, float mine, float max,
                                                      int32_t tile, spc_row_needs needs)
{
    const bool own = needs.mixing && needs.scale != SPC_LOG2_E;
    lane_part part = {{0.0f, 0.0f, 0.0f}, ~0u};

    if (mine == max) { /* in few warps */
#pragma unroll
        for (int k = PER_LANE - 1; k >= 0; k--) {
            if (v->z[k] != max) continue;
            part.top = (uint32_t)(tile * SPC_TILE + k * SPC_LANES) + threadIdx.x;
        }
    }
    if (!needs.unscaled) {
        if (needs.mixing) part.sum[0] = lane_weight(v, max, needs.scale);
        return part;
    }
    if (own) part.sum[0] = lane_weight(v, max, needs.scale);
    if (needs.entropy) {
#pragma unroll
        for (int k = 0; k < PER_LANE; k++) {
            const float gap = v->z[k] - max, weight = spc_exp2(gap * SPC_LOG2_E);

            part.sum[1] += weight;
            part.sum[2] += weight > 0.0f ? gap / 1.0f * weight : 0.0f;
        }
    } else { /* a loop of its own: the moment is half of the other */
        part.sum[1] = lane_weight(v, max, SPC_LOG2_E);
    }
    if (needs.mixing && !own) part.sum[0] = part.sum[1];
    return part;
}

/* The partial of a tile whose maximum is known, from the parts of all threads; thread 0 has it.
 * All meet at a barrier. */
static __device__ __forceinline__ spc_partial close_tile(block_scratch *s, lane_part part,
                                                         uint32_t top, spc_row_needs needs)
{
    const int sums = !needs.unscaled ? 1 : needs.entropy ? 3 : 2;
    spc_partial p = spc_partial_none();

    p.bad = top == ~0u;
    if (!p.bad) p.max = spc_logit_of_key(top);
    if (p.bad || !(p.max > -SPC_INFINITY)) {
        __syncthreads(); /* block_top has been read */
        return p;
    }

    p.top = (int32_t)block_sums_and_least(s, part.sum, sums, part.top);
    p.sum = part.sum[0];
    p.sum_one = part.sum[1];
    p.moment = part.sum[2];
    return p;
}

/* Statistics of one tile: thread 0 has them.  Others may be ahead of it by then. */
static __device__ __forceinline__ spc_partial partial_of(block_scratch *s, const lane_logits *v,
                                                         int32_t tile, spc_row_needs needs)
{
    const float mine = lane_max(v);
    const uint32_t top = block_top(s, key_of_max(mine));
    const float max = top == ~0u ? -SPC_INFINITY : spc_logit_of_key(top);
    lane_part part = {{0.0f, 0.0f, 0.0f}, ~0u};

    if (max > -SPC_INFINITY) part = lane_sums(v, mine, max, tile, needs);
    return close_tile(s, part, top, needs);
}

/* Statistics of a row from the partials of its tiles: tile(t) is asked once, by one thread.
 * weight[t] receives the weight of tile t; spare: [tiles] of each. */
struct row_scratch {
    float weight[TILES_MAX]; /* what a draw races with: round->tile_weight */
    float sum_one[TILES_MAX], moment[TILES_MAX];
};

template <typename Tile>
static __device__ spc_partial merge_tiles(block_scratch *s, row_scratch *row, int32_t tiles,
                                          float scale, Tile tile)
{
    const int32_t t = (int32_t)threadIdx.x;
    spc_partial mine = spc_partial_none(), all;
    uint32_t key;

    static_assert((int)TILES_MAX <= (int)SPC_LANES, "a thread for every tile");
    if (t < tiles) mine = tile(t);
    all = mine;
    key = block_top(s, mine.bad ? ~0u : spc_key_of_logit(mine.max));
    all.bad = key == ~0u;
    all.max = all.bad ? -SPC_INFINITY : spc_logit_of_key(key);
    all.top = (int32_t)(uint32_t)block_least(s, t < tiles && mine.max == all.max
                                                    ? (unsigned long long)(uint32_t)mine.top
                                                    : 0xffffffffull);
    mine = spc_partial_at(mine, all.max, scale);
    if (t < tiles) {
        row->weight[t] = mine.sum;
        row->sum_one[t] = mine.sum_one;
        row->moment[t] = mine.moment;
    }
    __syncthreads();
    all.sum = all.sum_one = all.moment = 0.0f;
    for (int32_t i = 0; i < tiles; i++) {
        all.sum += row->weight[i];
        all.sum_one += row->sum_one[i];
        all.moment += row->moment[i];
    }
    return all;
}

/* The same by one warp, whose row others have nothing to do with; all its lanes get the result. */
template <typename Tile>
static __device__ spc_partial merge_by_warp(int32_t tiles, float scale, Tile tile)
{
    enum { EACH = TILES_MAX / WARP };
    const int32_t lane = (int32_t)threadIdx.x % WARP;
    spc_partial mine[EACH], all = spc_partial_none();
    uint32_t key = 0, top = ~0u;

#pragma unroll
    for (int32_t k = 0; k < EACH; k++) {
        mine[k] = lane + k * WARP < tiles ? tile(lane + k * WARP) : spc_partial_none();
    }
#pragma unroll
    for (int32_t k = 0; k < EACH; k++) {
        const uint32_t its = mine[k].bad ? ~0u : spc_key_of_logit(mine[k].max);

        key = its > key ? its : key;
    }
    key = __reduce_max_sync(0xffffffffu, key);
    all.bad = key == ~0u;
    all.max = all.bad ? -SPC_INFINITY : spc_logit_of_key(key);
#pragma unroll
    for (int32_t k = 0; k < EACH; k++) {
        if (k * WARP >= tiles) break;
        if (lane + k * WARP < tiles && mine[k].max == all.max && (uint32_t)mine[k].top < top) {
            top = (uint32_t)mine[k].top;
        }
        mine[k] = spc_partial_at(mine[k], all.max, scale);
    }
    all.top = (int32_t)__reduce_min_sync(0xffffffffu, top);
#pragma unroll
    for (int32_t k = 0; k < EACH; k++) {
#pragma unroll 4
        for (int32_t l = 0; l < WARP && l + k * WARP < tiles; l++) {
            all.sum += __shfl_sync(0xffffffffu, mine[k].sum, l);
            all.sum_one += __shfl_sync(0xffffffffu, mine[k].sum_one, l);
            all.moment += __shfl_sync(0xffffffffu, mine[k].moment, l);
        }
    }
    return all;
}

/* ---- drawing --------------------------------------------------------------------------------- */

static __device__ unsigned long long key_of(float time, int32_t index)
{
    return (unsigned long long)spc_float_bits(time) << 32 | (uint32_t)index;
}

/* The tile that wins the first level of a race among tiles first .. first + tiles - 1, as key_of
 * its time and its index from first; ~0 when none weighs anything.  weight(t): of tile first + t.
 */
template <typename Weight>
static __device__ __forceinline__ unsigned long long
race_tiles_from(block_scratch *s, int32_t first, int32_t tiles, spc_key key, spc_stream_id stream,
                Weight weight)
{
    unsigned long long best = ~0ull;

    for (int32_t t = threadIdx.x; t < tiles; t += SPC_LANES) {
        float time = spc_race_time(spc_race_tile_word(key, stream, first + t), weight(t));
        unsigned long long mine = key_of(time, t);

        if (time < SPC_INFINITY && mine < best) best = mine;
    }
    return block_least(s, best);
}

/* The tile of a whole row; -1 when no tile weighs anything. */
static __device__ __forceinline__ int32_t race_tiles(block_scratch *s, const float *weight,
                                                     int32_t tiles, spc_key key,
                                                     spc_stream_id stream)
{
    const unsigned long long best =
        race_tiles_from(s, 0, tiles, key, stream, [=](int32_t t) { return weight[t]; });

    return best == ~0ull ? -1 : (int32_t)(uint32_t)best;
}

/* What four entries of a tile race with, counted in fours. */
static __device__ __forceinline__ spc_words race_words(int32_t tile, int32_t four, spc_key key,
                                                       spc_stream_id stream)
{
    return spc_random(
        key, stream, (uint32_t)SPC_RACE_ENTRIES + (uint32_t)tile * (SPC_TILE / 4) + (uint32_t)four);
}

/* All of a tile's, which each thread finds out for itself while the tile is on its way: they take
 * about as long. */
static __device__ __forceinline__ void race_words_of_tile(int32_t tile, spc_key key,
                                                          spc_stream_id stream, spc_words *words)
{
#pragma unroll 1
    for (int32_t i = (int32_t)threadIdx.x; i < SPC_TILE / 4; i += SPC_LANES) {
        words[i] = race_words(tile, i, key, stream);
    }
}

/* The entry of a tile that wins the second level; words(i): the race_words of four i; four(i,
 * count, weight) tells the weights of its entries from i on, of which there are as many as count
 * says: four, but at the end of the row. */
template <typename Words, typename Four>
static __device__ __forceinline__ int32_t race_fours(block_scratch *s, int32_t vocab, int32_t tile,
                                                     Words words, Four four)
{
    const int32_t first = tile * SPC_TILE, width = spc_tile_width(vocab, tile);
    unsigned long long best = ~0ull;

#pragma unroll 1
    for (int32_t i = threadIdx.x; i < (width + 3) / 4; i += SPC_LANES) {
        const spc_words w = words(i);
        float entry[4] = {0.0f, 0.0f, 0.0f, 0.0f};

        four(4 * i, width - 4 * i, entry);
#pragma unroll
        for (int32_t k = 0; k < 4; k++) {
            unsigned long long mine = key_of(spc_race_time(w.word[k], entry[k]), 4 * i + k);

            if (entry[k] > 0.0f && mine < best) best = mine;
        }
    }
    best = block_least(s, best);
    return first + (best == ~0ull ? width - 1 : (int32_t)(uint32_t)best);
}

/* The same; weight(v) of the entry v of the row. */
template <typename Weight>
static __device__ int32_t race_entries(block_scratch *s, int32_t vocab, int32_t tile, spc_key key,
                                       spc_stream_id stream, Weight weight)
{
    const int32_t first = tile * SPC_TILE;

    return race_fours(
        s, vocab, tile, [=](int32_t i) { return race_words(tile, i, key, stream); },
        [=](int32_t i, int32_t count, float *entry) {
            for (int32_t k = 0; k < 4 && k < count; k++) entry[k] = weight(first + i + k);
        });
}

#endif
