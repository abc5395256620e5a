/* SPDX-License-Identifier: Apache-2.0 */
/* rows.cuh - what a block does with one tile of a row: take its statistics, race in it.  How it
 * comes by the tile: stage.cuh.
 *
 * A block has SPC_LANES threads, thread l is lane l of the canonical order (rules/row.h), so sums
 * have the bits of host/verify/verify.c wherever exp2 has.  Every thread of the block must call
 * these together; every thread gets the result. */
#ifndef SPC_CUDA_ROWS_CUH
#define SPC_CUDA_ROWS_CUH

#include "stage.cuh"

#include "rules/truncate.h"

enum { TILES_MAX = SPC_VOCAB_MAX / SPC_TILE };

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
