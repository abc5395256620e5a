/* SPDX-License-Identifier: Apache-2.0 */
/* tile_sums.cuh - statistics of tiles of one row, as a block sums them: fetched one ahead of the
 * other, rows of bf16 two tiles at a time.  Part of queue.cu. */
#ifndef SPC_CUDA_TILE_SUMS_CUH
#define SPC_CUDA_TILE_SUMS_CUH

#include "staged.cuh"

/* Statistics of a tile that was asked for and waited for, to the row's cells.  A call, so that
 * whoever calls it again and again keeps nothing but its own in registers.  needs: in shared
 * memory, for to find them out takes as long as the sums. */
static __device__ __noinline__ void sum_tile(const spc_view *row, const spc_row_needs *needs,
                                             int32_t tile, int32_t entries, tile_stage *stage,
                                             int64_t cells)
{
    lane_logits v;

    open_tile(row, scratch.q.vocab, tile, entries, stage, &v);

    const spc_partial p = partial_of(&scratch.block, &v, tile, *needs);

    if (threadIdx.x == 0) scratch.q.cells[cells + tile].tile = p;
}

/* The same of a tile of a ticket.  Another call, for numbers in place of addresses leave whoever
 * calls it the registers that the answers of others wait in. */
static __device__ __noinline__ void sum_one(int32_t place, int32_t tile, int32_t turn,
                                            int32_t entries)
{
    const first_run *run = &scratch.run[place];
    lane_logits v;

    open_tile(&run->view, scratch.q.vocab, tile, entries, &scratch.stage[turn], &v);

    const spc_partial p = partial_of(&scratch.block, &v, tile, run->needs);

    if (threadIdx.x == 0) scratch.q.cells[run->cells + tile].tile = p;
}

/* ---- two tiles at a time ----------------------------------------------------------------------
 *
 * What a block does around the entries of a tile takes as many instructions as they do.  Of rows of
 * bf16 that are asked for one sum or two it takes two tiles together, which lie one behind the
 * other in a stage: half of the threads each, and a thread for two lanes, whose entries share a
 * word.  Lanes are added as ever. */

enum { HALF = SPC_LANES / 2, HALF_WARPS = HALF / WARP, TWO_WORDS = 4 * SPC_LANES };

/* Of such rows, the end of the tiles that come in pairs; 0: of others. */
static __device__ __forceinline__ int32_t end_of_pairs(const first_run *run)
{
    const bool pairs =
        run->view.logits.type == SPC_LOGITS_BF16 && !(run->needs.unscaled && run->needs.entropy);

    return !pairs ? 0 : run->end < run->whole ? run->end : run->whole;
}

/* How many tiles a block sums next. */
static __device__ __forceinline__ int32_t tiles_at(const first_run *run, int32_t tile)
{
    return tile + 2 <= run->pairs ? 2 : 1;
}

/* Ask for those; as fetch_tile. */
static __device__ __forceinline__ int32_t ask_run(const first_run *run, int32_t vocab, int32_t tile,
                                                  int32_t turn)
{
    if (tile + 2 <= run->pairs) {
        const uint4 *from = (const uint4 *)run->view.logits.data + threadIdx.x;

        fetch_words(from + (int64_t)tile * (TWO_WORDS / 2), TWO_WORDS, &scratch.stage[turn]);
        return SPC_TILE;
    }
    return tile < run->whole ? ask_whole(&run->view, tile, run->words, turn)
                             : ask_any_tile(&run->view, vocab, tile, turn);
}

/* Sums of a thread's two lanes, as lane_weight. */
static __device__ __forceinline__ void two_weights(const uint32_t *word, float max, float scale,
                                                   float *sum)
{
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        sum[0] += spc_exp2((lower_of(word[k]) - max) * scale);
        sum[1] += spc_exp2((upper_of(word[k]) - max) * scale);
    }
}

/* A thread's part of its tile: the sums of both lanes, scaled and behind them unscaled, and the
 * first of its entries that is the maximum. */
static __device__ __forceinline__ uint32_t two_lanes(const uint32_t *word, float mine, float max,
                                                     uint32_t first, spc_row_needs needs,
                                                     float *sum)
{
    const bool own = needs.mixing && !(needs.unscaled && needs.scale == SPC_LOG2_E);
    uint32_t top = ~0u;

    if (mine == max) { /* in few warps */
#pragma unroll
        for (int k = PER_LANE - 1; k >= 0; k--) {
            if (upper_of(word[k]) == max) top = first + (uint32_t)(k * SPC_LANES) + 1;
            if (lower_of(word[k]) == max) top = first + (uint32_t)(k * SPC_LANES);
        }
    }
    if (own) two_weights(word, max, needs.scale, sum);
    if (!needs.unscaled) return top;
    two_weights(word, max, SPC_LOG2_E, sum + 2);
    if (needs.mixing && !own) { /* at temperature 1 two sums are one */
        sum[0] = sum[2];
        sum[1] = sum[3];
    }
    return top;
}

/* Statistics of tiles `tile` and the one behind it, which all threads have waited for, to their
 * cells.  All meet at two barriers; threads that have a result write it behind the second.  A call:
 * it shares no registers with what is done to other tiles. */
static __device__ __noinline__ void sum_two(int32_t place, int32_t tile, int32_t turn)
{
    const first_run *run = &scratch.run[place]; /* an address would take its caller two registers */
    block_scratch *s = &scratch.block;
    const int32_t half = (int32_t)threadIdx.x / HALF, lane = (int32_t)threadIdx.x % HALF * 2;
    const int32_t warp = (int32_t)threadIdx.x / WARP, l = (int32_t)threadIdx.x % WARP;
    const uint32_t *at = (const uint32_t *)&scratch.stage[turn] + (half * SPC_TILE + lane) / 2;
    const spc_row_needs needs = run->needs;
    uint32_t word[PER_LANE], both, key, top = ~0u;
    float mine, max, sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};

#pragma unroll
    for (int k = 0; k < PER_LANE; k++) word[k] = at[k * HALF];
    both = word[0];
#pragma unroll
    for (int k = 1; k < PER_LANE; k++) both = larger_two(both, word[k]);
    mine = larger(lower_of(both), upper_of(both));
    key = __reduce_max_sync(0xffffffffu, key_of_max(mine));
    if (l == 0) s->top[warp] = key;
    __syncthreads();
    key = s->top[half * HALF_WARPS];
#pragma unroll
    for (int w = 1; w < HALF_WARPS; w++) {
        const uint32_t other = s->top[half * HALF_WARPS + w];

        key = other > key ? other : key;
    }
    max = key == ~0u ? -SPC_INFINITY : spc_logit_of_key(key);
    if (max > -SPC_INFINITY) {
        top = two_lanes(word, mine, max, (uint32_t)((tile + half) * SPC_TILE + lane), needs, sum);
    }
    s->lane[2 * half][lane] = sum[0];
    s->lane[2 * half][lane + 1] = sum[1];
    if (needs.unscaled) {
        s->lane[2 * half + 1][lane] = sum[2];
        s->lane[2 * half + 1][lane + 1] = sum[3];
    }
    top = __reduce_min_sync(0xffffffffu, top);
    if (l == 0) s->part[warp] = top;
    __syncthreads();

    const int32_t which = warp % HALF_WARPS; /* of the two sums this warp adds */
    spc_partial *to = &scratch.q.cells[run->cells + tile + half].tile;

    if (which > (needs.unscaled ? 1 : 0)) return;
    sum[0] = warp_sum_of_block(s->lane[2 * half + which]);
    if (which > 0) {
        if (l == 0) to->sum_one = sum[0];
        return;
    }
    top = __reduce_min_sync(0xffffffffu, l < HALF_WARPS ? s->part[half * HALF_WARPS + l] : ~0u);
    if (l > 0) return;
    to->max = max; /* where that is -inf the sums are 0 */
    to->top = max > -SPC_INFINITY ? (int32_t)top : 0;
    to->sum = sum[0];
    if (!needs.unscaled) to->sum_one = 0.0f;
    to->moment = 0.0f;
    to->bad = key == ~0u;
}

#endif
