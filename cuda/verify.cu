/* SPDX-License-Identifier: Apache-2.0 */
/* verify.cu - drawing and verification on the device, one block per sequence: the reference form.
 *
 * The block walks its rows tile by tile; thread l is lane l of the canonical order, so sums have
 * the bits of host/verify.c.  What is decided from them is rules/round_body.h, the same lines as on
 * the CPU, run by all threads side by side.
 *
 * Bound by latency: a sequence's rows are read one after the other by one multiprocessor.  This is
 * the form that faster ones are tested against. */
#include "launch.h"

#include "rows.cuh"

/* Shared memory of a block. */
struct round_scratch {
    block_scratch block;
    row_scratch row;
    spc_partial tile[TILES_MAX];
    uint64_t bins[SPC_CUT_BINS];
    spc_block_sums sums;
};

static __shared__ round_scratch scratch;

/* Functions that walk rows are calls, not inlined: round_body.h uses them in many places, and
 * inlined everywhere they take ptxas half a minute. */

/* ---- one row --------------------------------------------------------------------------------- */

/* Sum over a tile of term(index in the row). */
template <typename Term> static __device__ float tile_sum(int32_t vocab, int32_t tile, Term term)
{
    const int32_t first = tile * SPC_TILE, width = spc_tile_width(vocab, tile);
    float lane = 0.0f;

    for (int32_t i = threadIdx.x; i < width; i += SPC_LANES) lane += term(first + i);
    return block_sum(&scratch.block, lane);
}

struct cut_row {
    const spc_view *view;
    int32_t vocab;
};

/* Least logit of the set that holds `target` counts, or masses, from the top.  Bins hold integers:
 * the order in which threads add does not matter. */
static __device__ float find_cut(cut_row row, spc_softmax s, bool by_mass, uint64_t target)
{
    spc_cut cut = spc_cut_begin(target);

    while (cut.level < spc_cut_levels(row.view)) {
        for (int32_t b = threadIdx.x; b < SPC_CUT_BINS; b += SPC_LANES) scratch.bins[b] = 0;
        __syncthreads();
        for (int32_t v = threadIdx.x; v < row.vocab; v += SPC_LANES) {
            float z = spc_view_logit(row.view, v);
            int32_t bin = spc_cut_bin(cut, spc_key_of_logit(z));

            if (bin < 0) continue;
            atomicAdd((unsigned long long *)&scratch.bins[bin],
                      (unsigned long long)(by_mass ? spc_mass_of(spc_softmax_weight(s, z)) : 1u));
        }
        __syncthreads();
        cut = spc_cut_descend(cut, scratch.bins);
        __syncthreads();
    }
    return spc_cut_logit(cut);
}

/* Mass of what s keeps. */
static __device__ uint64_t kept_mass(cut_row row, spc_softmax s)
{
    uint64_t mass = 0;

    if (threadIdx.x == 0) scratch.bins[0] = 0;
    __syncthreads();
    for (int32_t v = threadIdx.x; v < row.vocab; v += SPC_LANES) {
        mass += spc_mass_of(spc_softmax_weight(s, spc_view_logit(row.view, v)));
    }
    atomicAdd((unsigned long long *)&scratch.bins[0], (unsigned long long)mass);
    __syncthreads();
    mass = scratch.bins[0];
    __syncthreads();
    return mass;
}

#define ROUND_FN static __device__
#include "rules/cut_body.h"

/* Sums over what truncation left; the gate's moment too where the gate reads processed rows. */
static __device__ void restrict_sums(const spc_round *round, const spc_view *row, bool entropy,
                                     spc_row_stats *stats)
{
    const float temperature = round->params->sampling.temperature;
    const spc_softmax s = spc_softmax_of(*stats, temperature);

    stats->sum = 0.0f;
    if (entropy) stats->moment = 0.0f;
    for (int32_t t = 0; t < spc_tile_count(round->vocab); t++) {
        float weight = tile_sum(round->vocab, t, [=](int32_t v) {
            return spc_softmax_weight(s, spc_view_logit(row, v));
        });

        if (threadIdx.x == 0) round->tile_weight[t] = weight;
        stats->sum += weight;
        if (!entropy) continue;
        stats->moment += tile_sum(round->vocab, t, [=](int32_t v) {
            float z = spc_view_logit(row, v), w = spc_softmax_weight(s, z);

            return w > 0.0f ? (z - s.max) / temperature * w : 0.0f;
        });
    }
    __syncthreads();
}

/* Statistics of a row as its sequence needs them; leaves round->tile_weight. */
static __device__ __noinline__ void view_statistics(const spc_round *round, const spc_view *row,
                                                    spc_row_stats *stats)
{
    const spc_row_params *params = round->params;
    const spc_row_needs needs = spc_needs_of(params, round->vocab);
    const int32_t tiles = spc_tile_count(round->vocab);
    spc_partial all;

    __syncthreads(); /* scratch may still be read */
    for (int32_t t = 0; t < tiles; t++) {
        lane_logits v;
        spc_partial p;

        load_tile(row, round->vocab, t, &v);
        p = partial_of(&scratch.block, &v, t, needs);
        if (threadIdx.x == 0) scratch.tile[t] = p;
    }
    __syncthreads();
    all = merge_tiles(&scratch.block, &scratch.row, tiles, needs.scale,
                      [](int32_t t) { return scratch.tile[t]; });
    *stats = spc_stats_of(all, needs);
    if (stats->bad || !needs.mixing) return;
    if (needs.truncates) {
        stats->cut =
            truncation_cut({row, round->vocab}, round->vocab, &params->sampling, all.max, all.sum);
    }
    if (needs.restricts) {
        restrict_sums(round, row, needs.processed_moment, stats);
    }
}

/* ---- drawing --------------------------------------------------------------------------------- */

static __device__ __noinline__ int32_t draw_view(const spc_round *round, const spc_view *row,
                                                 spc_row_stats stats, spc_key key,
                                                 spc_stream_id stream)
{
    const spc_softmax s = spc_softmax_of(stats, round->params->sampling.temperature);

    if (s.greedy) return s.top;

    const int32_t tile =
        race_tiles(&scratch.block, round->tile_weight, spc_tile_count(round->vocab), key, stream);

    if (tile < 0) return s.top; /* only when every tile's weight underflowed but the top's */
    return race_entries(&scratch.block, round->vocab, tile, key, stream,
                        [=](int32_t v) { return spc_softmax_weight(s, spc_view_logit(row, v)); });
}

/* ---- a pair of rows -------------------------------------------------------------------------- */

/* Sum over the row; leaves the tiles' sums in round->tile_weight. */
static __device__ __noinline__ float fold(const spc_row_pair *pair, spc_summand what, float x)
{
    float sum = 0.0f;

    __syncthreads();
    for (int32_t t = 0; t < spc_tile_count(pair->round->vocab); t++) {
        float tile = tile_sum(pair->round->vocab, t, [=](int32_t v) {
            return spc_pair_summand(pair, what, x, spc_pair_entry(pair, v));
        });

        if (threadIdx.x == 0) pair->round->tile_weight[t] = tile;
        sum += tile;
    }
    __syncthreads();
    return sum;
}

/* A token with probability proportional to the summand; -1 when nothing weighs anything. */
static __device__ __noinline__ int32_t draw_fold(const spc_row_pair *pair, spc_summand what,
                                                 float x, spc_key key, spc_stream_id stream)
{
    if (!(fold(pair, what, x) > 0.0f)) return -1;

    const int32_t tile = race_tiles(&scratch.block, pair->round->tile_weight,
                                    spc_tile_count(pair->round->vocab), key, stream);

    if (tile < 0) return -1;
    return race_entries(&scratch.block, pair->round->vocab, tile, key, stream, [=](int32_t v) {
        return spc_pair_summand(pair, what, x, spc_pair_entry(pair, v));
    });
}

/* ---- what round_body.h asks for ---------------------------------------------------------------
 */

static __device__ void row_statistics(const spc_row_pair *pair, const spc_side *s,
                                      spc_row_stats *stats)
{
    view_statistics(pair->round, &s->row, stats);
}

static __device__ int32_t draw_row(const spc_row_pair *pair, const spc_side *s, spc_row_stats stats,
                                   spc_key key, spc_stream_id stream)
{
    return draw_view(pair->round, &s->row, stats, key, stream);
}

static __device__ spc_entry entry_at(const spc_row_pair *pair, int32_t token)
{
    return spc_pair_entry(pair, token);
}

static __device__ bool keeps(const spc_round *round, float kept, float drafter, spc_key key)
{
    (void)round;
    return spc_accepts(kept, drafter, spc_uniform(key, SPC_STREAM_ACCEPT, 0));
}

static __device__ __noinline__ float nucleus_cut(const spc_row_pair *pair, const spc_side *side,
                                                 float top_p)
{
    return processed_cut({&side->row, pair->round->vocab}, side, top_p);
}

static __device__ void put_detail(const spc_round *round, int32_t row, const spc_row_detail *detail)
{
    if (threadIdx.x == 0) round->detail[row] = *detail;
}

#define ROUND_WRITES (threadIdx.x == 0)
#define ROUND_MEET() __syncthreads()
#include "rules/round_body.h"

/* ---- kernels --------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(SPC_LANES)
    draw_kernel(const __grid_constant__ spc_draw_batch b)
{
    const int32_t s = (int32_t)blockIdx.x;
    spc_row_stats stats = spc_stats_one_hot(-1, b.vocab);
    int32_t token = -1;

    if (s >= spc_live(b.live, b.sequences)) return;
    if (spc_draw_is_possible(&b, s)) {
        const spc_view row = spc_draw_view(&b, s);
        spc_round round = {};

        round.params = &b.params[s];
        round.vocab = b.vocab;
        round.tile_weight = scratch.row.weight;
        view_statistics(&round, &row, &stats);
        if (!stats.bad && b.token) {
            token = draw_view(&round, &row, stats, spc_draw_key(&b, s), spc_draw_stream(&b));
        }
    }
    if (threadIdx.x == 0) {
        const spc_view row = spc_draw_view(&b, s);

        spc_draw_store(&b, s, token, token < 0 ? 0.0f : spc_view_logit(&row, token), &stats);
    }
}

static __global__ void __launch_bounds__(SPC_LANES)
    verify_kernel(const __grid_constant__ spc_verify_batch b)
{
    const int32_t s = (int32_t)blockIdx.x;
    spc_verdict verdict;
    spc_walk walk;

    if (s >= spc_live(b.live, b.sequences)) return;

    spc_round round = spc_batch_round(&b, s);

    round.tile_weight = scratch.row.weight;
    walk.sums = &scratch.sums;
    decide_round(&round, &walk, &verdict);
    if (threadIdx.x == 0) spc_verify_store(&b, s, &verdict);
}

/* ---- launchers ------------------------------------------------------------------------------- */

cudaError_t spc_launch_draw(const spc_draw_batch *batch, cudaStream_t stream)
{
    return launch(draw_kernel, batch->sequences, *batch, stream);
}

cudaError_t spc_launch_verify(const spc_verify_batch *batch, cudaStream_t stream)
{
    return launch(verify_kernel, batch->sequences, *batch, stream);
}

cudaError_t spc_load_blocks(size_t *most)
{
    const cudaError_t code = load_kernel(draw_kernel, most);

    return code == cudaSuccess ? load_kernel(verify_kernel, most) : code;
}
