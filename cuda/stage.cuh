/* SPDX-License-Identifier: Apache-2.0 */
/* stage.cuh - how a tile of a row comes to a block: to its threads' registers, or to a stage in
 * shared memory.
 *
 * A block has SPC_LANES threads, thread l is lane l of the canonical order (rules/row.h).  Every
 * thread of the block must call these together. */
#ifndef SPC_CUDA_STAGE_CUH
#define SPC_CUDA_STAGE_CUH

#include "device.cuh"

#include "rules/batch.h"

enum { PER_LANE = SPC_TILE / SPC_LANES };

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
    return row->logits.data && !row->subset && !row->allowed && row->edits <= 0;
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

/* Is it such a row but for a mask? */
static __device__ __forceinline__ bool is_masked(const spc_view *row)
{
    return row->logits.data && !row->subset && row->allowed && row->edits <= 0;
}

/* Its logits of a tile: its words and all of the row are on their way together. */
static __device__ __forceinline__ void load_masked_tile(const spc_view *row, int32_t vocab,
                                                        int32_t tile, lane_logits *out)
{
    const int32_t token = tile * SPC_TILE + (int32_t)threadIdx.x;
    uint32_t word[PER_LANE];

#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t v = token + k * SPC_LANES;

        word[k] = v < vocab ? row->allowed[v / WARP] : 0u;
    }
    load_plain_tile(row, vocab, tile, out);
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        if (!(word[k] >> token % WARP & 1u)) out->z[k] = -SPC_INFINITY;
    }
}

/* Is it a row of some of the tokens, as it lies in memory? */
static __device__ __forceinline__ bool is_some(const spc_view *row)
{
    return row->logits.data && row->subset && !row->allowed && row->edits <= 0;
}

enum { SOME_AT_ONCE = 8 }; /* logits on their way: more would take registers of who sums tiles */

/* Its words of a tile, one in each of a warp's first lanes: entries k of the lanes are the 32
 * tokens of word k. */
static __device__ __forceinline__ spc_subset words_of_some(const spc_view *row, int32_t vocab,
                                                           int32_t tile)
{
    const int32_t lane = (int32_t)threadIdx.x % WARP, warp = (int32_t)threadIdx.x / WARP;
    const int32_t word = (tile * SPC_TILE + lane * SPC_LANES) / WARP + warp;

    static_assert((int)WARP == 32 && (int)PER_LANE <= (int)WARP, "a word, and a lane for each");
    if (lane < PER_LANE && word * WARP < vocab) return row->subset[word];
    return {0u, 0};
}

/* Some of the thread's entries, from k on; -inf where the row has none. */
template <typename Element, typename Value>
static __device__ __forceinline__ void load_some(const spc_view *row, int32_t token, int32_t vocab,
                                                 spc_subset words, int32_t k, Value value, float *z)
{
    const int32_t lane = (int32_t)threadIdx.x % WARP, width = row->width;
    const Element *data = (const Element *)row->logits.data;
    Element raw[SOME_AT_ONCE];
    uint32_t there = 0;

#pragma unroll
    for (int i = 0; i < SOME_AT_ONCE; i++) {
        const uint32_t tokens = __shfl_sync(0xffffffffu, words.tokens, k + i);
        const uint32_t before = __shfl_sync(0xffffffffu, (uint32_t)words.before, k + i);
        const int32_t element = spc_subset_element({tokens, (int32_t)before}, lane);

        raw[i] = 0;
        if (!(tokens >> lane & 1u) || token + (k + i) * SPC_LANES >= vocab || element < 0 ||
            element >= width) {
            continue;
        }
        there |= 1u << i;
        raw[i] = data[element];
    }
#pragma unroll
    for (int i = 0; i < SOME_AT_ONCE; i++) {
        z[i] = there >> i & 1u ? value(raw[i]) : -SPC_INFINITY;
    }
}

/* All of them, the one of entry k to out[k * stride]. */
static __device__ __forceinline__ void load_some_tile(const spc_view *row, int32_t vocab,
                                                      int32_t tile, float *out, int32_t stride)
{
    const spc_subset words = words_of_some(row, vocab, tile);
    const int32_t token = tile * SPC_TILE + (int32_t)threadIdx.x;

#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += SOME_AT_ONCE) {
        float z[SOME_AT_ONCE];

        if (row->logits.type == SPC_LOGITS_BF16) {
            load_some<uint16_t>(
                row, token, vocab, words, k,
                [](uint16_t x) { return spc_bits_float((uint32_t)x << 16); }, z);
        } else if (row->logits.type == SPC_LOGITS_F16) {
            load_some<uint16_t>(
                row, token, vocab, words, k, [](uint16_t x) { return spc_half_float(x); }, z);
        } else {
            load_some<float>(
                row, token, vocab, words, k, [](float x) { return x; }, z);
        }
#pragma unroll
        for (int i = 0; i < SOME_AT_ONCE; i++) out[(k + i) * stride] = z[i];
    }
}

/* The logits of a tile of a row that is not plain.  A call: in its caller's loop the logits would
 * lie in memory even where rows are plain. */
static __device__ __noinline__ void load_other_tile(const spc_view *row, int32_t vocab,
                                                    int32_t tile, lane_logits *out)
{
    if (is_some(row)) {
        load_some_tile(row, vocab, tile, out->z, 1);
        return;
    }
    if (is_masked(row)) {
        load_masked_tile(row, vocab, tile, out);
        return;
    }
#pragma unroll 1
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + k * SPC_LANES;

        out->z[k] = v < vocab ? spc_view_logit(row, v) : -SPC_INFINITY;
    }
}

/* The logits of a tile as its row's view has them. */
static __device__ __forceinline__ void load_tile(const spc_view *row, int32_t vocab, int32_t tile,
                                                 lane_logits *out)
{
    if (is_plain(row)) {
        load_plain_tile(row, vocab, tile, out);
    } else {
        lane_logits other;

        load_other_tile(row, vocab, tile, &other);
        *out = other;
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

/* Rows that are masked, edited, not aligned or of some tokens, as fp32. */
static __device__ __noinline__ void stage_logits(const spc_view *row, int32_t vocab, int32_t tile,
                                                 tile_stage *stage)
{
    float *at = (float *)stage + threadIdx.x;
    lane_logits v;

    if (is_some(row)) {
        load_some_tile(row, vocab, tile, at, SPC_LANES);
        return;
    }
    if (is_plain(row) || is_masked(row)) {
        if (row->allowed) {
            load_masked_tile(row, vocab, tile, &v);
        } else {
            load_plain_tile(row, vocab, tile, &v);
        }
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

#endif
