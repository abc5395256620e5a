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

#include "device.cuh"
#include "rules/pair.h"
#include "rules/truncate.h"

enum { TILES_MAX = SPC_VOCAB_MAX / SPC_TILE };

/* Shared memory of a block. */
struct round_scratch {
    block_scratch block;
    float tile_weight[TILES_MAX];
    float tile_top[TILES_MAX];
    uint64_t bins[SPC_CUT_BINS];
};

static __shared__ round_scratch scratch;

/* Functions that walk rows are calls, not inlined: round_body.h uses them in many places, and
 * inlined everywhere they take ptxas half a minute. */

/* ---- one row --------------------------------------------------------------------------------- */

static __device__ unsigned long long key_of(float time, int32_t index)
{
    return (unsigned long long)spc_float_bits(time) << 32 | (uint32_t)index;
}

/* Sum over a tile of term(index in the row). */
template <typename Term> static __device__ float tile_sum(int32_t vocab, int32_t tile, Term term)
{
    const int32_t first = tile * SPC_TILE, width = spc_tile_width(vocab, tile);
    float lane = 0.0f;

    for (int32_t i = threadIdx.x; i < width; i += SPC_LANES) lane += term(first + i);
    return block_sum(&scratch.block, lane);
}

static __device__ spc_partial tile_partial(const spc_view *row, int32_t vocab, int32_t tile,
                                           spc_row_needs needs)
{
    const int32_t first = tile * SPC_TILE, width = spc_tile_width(vocab, tile);
    spc_partial p = spc_partial_none();
    unsigned long long top = ~0ull;
    float max = -SPC_INFINITY;
    int wrong = 0;

    for (int32_t i = threadIdx.x; i < width; i += SPC_LANES) {
        float z = spc_view_logit(row, first + i);

        wrong |= !(z < SPC_INFINITY);
        max = z > max ? z : max;
    }
    p.bad = __syncthreads_or(wrong) != 0;
    p.max = block_max(&scratch.block, max);
    if (p.bad || !(p.max > -SPC_INFINITY)) return p;
    for (int32_t i = threadIdx.x; i < width && top == ~0ull; i += SPC_LANES) {
        if (spc_view_logit(row, first + i) == p.max) top = (unsigned long long)(first + i);
    }
    p.top = (int32_t)block_least(&scratch.block, top);
    if (needs.mixing) {
        p.sum = tile_sum(vocab, tile, [=](int32_t v) {
            return spc_exp2((spc_view_logit(row, v) - p.max) * needs.scale);
        });
    }
    if (!needs.unscaled) return p;
    p.sum_one = tile_sum(vocab, tile, [=](int32_t v) {
        return spc_exp2((spc_view_logit(row, v) - p.max) * SPC_LOG2_E);
    });
    if (!needs.entropy) return p;
    p.moment = tile_sum(vocab, tile, [=](int32_t v) {
        float gap = spc_view_logit(row, v) - p.max, weight = spc_exp2(gap * SPC_LOG2_E);

        return weight > 0.0f ? gap / 1.0f * weight : 0.0f;
    });
    return p;
}

/* Least key of the set that holds `target` counts, or masses, from the top.  Bins hold integers:
 * the order in which threads add does not matter. */
static __device__ uint32_t find_cut(const spc_view *row, int32_t vocab, spc_softmax s, bool by_mass,
                                    uint64_t target)
{
    spc_cut cut = spc_cut_begin(target);

    while (cut.level < SPC_CUT_LEVELS) {
        for (int32_t b = threadIdx.x; b < SPC_CUT_BINS; b += SPC_LANES) scratch.bins[b] = 0;
        __syncthreads();
        for (int32_t v = threadIdx.x; v < vocab; v += SPC_LANES) {
            float z = spc_view_logit(row, v);
            int32_t bin = spc_cut_bin(cut, spc_key_of_logit(z));

            if (bin < 0) continue;
            atomicAdd((unsigned long long *)&scratch.bins[bin],
                      (unsigned long long)(by_mass ? spc_mass_of(spc_softmax_weight(s, z)) : 1u));
        }
        __syncthreads();
        cut = spc_cut_descend(cut, scratch.bins);
        __syncthreads();
    }
    return cut.prefix;
}

static __device__ uint64_t row_mass(const spc_view *row, int32_t vocab, spc_softmax s)
{
    uint64_t mass = 0;

    if (threadIdx.x == 0) scratch.bins[0] = 0;
    __syncthreads();
    for (int32_t v = threadIdx.x; v < vocab; v += SPC_LANES) {
        mass += spc_mass_of(spc_softmax_weight(s, spc_view_logit(row, v)));
    }
    atomicAdd((unsigned long long *)&scratch.bins[0], (unsigned long long)mass);
    __syncthreads();
    mass = scratch.bins[0];
    __syncthreads();
    return mass;
}

/* Least logit of the smallest set that holds the share top_p of what s keeps. */
static __device__ float top_p_cut(const spc_view *row, int32_t vocab, spc_softmax s, float top_p)
{
    uint64_t target = spc_nucleus_target(top_p, row_mass(row, vocab, s));

    return spc_logit_of_key(find_cut(row, vocab, s, true, target));
}

/* The same of a processed row; one-hot at T = 0. */
static __device__ __noinline__ float nucleus_cut(const spc_round *round, const spc_side *side,
                                                 float top_p)
{
    if (side->softmax.greedy) return side->stats.max;
    return top_p_cut(&side->row, round->vocab, side->softmax, top_p);
}

/* Top-k, then top-p on what it left, then min-p: the least logit kept. */
static __device__ float truncation_cut(const spc_view *row, int32_t vocab, const spc_sampling *p,
                                       float max)
{
    spc_softmax s = {max, spc_temperature_scale(p->temperature), 1.0f, -SPC_INFINITY, 0, false};

    if (p->top_k > 0 && p->top_k < vocab) {
        s.cut = spc_logit_of_key(find_cut(row, vocab, s, false, (uint64_t)p->top_k));
    }
    if (p->top_p < 1.0f) {
        float cut = top_p_cut(row, vocab, s, p->top_p);

        if (cut > s.cut) s.cut = cut;
    }
    if (p->min_p > 0.0f) {
        float cut = spc_min_p_cut(max, p->temperature, (float)log((double)p->min_p));

        if (cut > s.cut) s.cut = cut;
    }
    return s.cut;
}

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
static __device__ __noinline__ void row_statistics(const spc_round *round, const spc_view *row,
                                                   spc_row_stats *stats)
{
    const spc_row_params *params = round->params;
    const spc_row_needs needs = spc_needs_of(params, round->vocab);
    const int32_t tiles = spc_tile_count(round->vocab);
    spc_partial all = spc_partial_none();

    __syncthreads(); /* tile_weight may still be read */
    for (int32_t t = 0; t < tiles; t++) {
        spc_partial p = tile_partial(row, round->vocab, t, needs);

        if (threadIdx.x == 0) {
            scratch.tile_top[t] = p.max;
            round->tile_weight[t] = p.sum;
        }
        all = spc_partial_merge(all, p, needs.scale);
    }
    __syncthreads();
    *stats = spc_stats_of(all, needs);
    if (stats->bad || !needs.mixing) return;
    if (needs.truncates) {
        stats->cut = truncation_cut(row, round->vocab, &params->sampling, all.max);
    }
    if (needs.restricts) {
        restrict_sums(round, row, needs.processed_moment, stats);
        return;
    }
    for (int32_t t = threadIdx.x; t < tiles; t += SPC_LANES) {
        round->tile_weight[t] *= spc_exp2((scratch.tile_top[t] - all.max) * needs.scale);
    }
    __syncthreads();
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* The tile that wins the first level of the race; -1 when no tile weighs anything. */
static __device__ int32_t race_tiles(const spc_round *round, spc_key key, spc_stream_id stream)
{
    unsigned long long best = ~0ull;

    for (int32_t t = threadIdx.x; t < spc_tile_count(round->vocab); t += SPC_LANES) {
        float time = spc_race_time(spc_race_tile_word(key, stream, t), round->tile_weight[t]);
        unsigned long long mine = key_of(time, t);

        if (time < SPC_INFINITY && mine < best) best = mine;
    }
    best = block_least(&scratch.block, best);
    return best == ~0ull ? -1 : (int32_t)(uint32_t)best;
}

/* The entry of a tile that wins the second level; weight(v) of the entry v of the row. */
template <typename Weight>
static __device__ int32_t race_entries(int32_t vocab, int32_t tile, spc_key key,
                                       spc_stream_id stream, Weight weight)
{
    const int32_t first = tile * SPC_TILE, width = spc_tile_width(vocab, tile);
    const uint32_t block = (uint32_t)SPC_RACE_ENTRIES + (uint32_t)tile * (SPC_TILE / 4);
    unsigned long long best = ~0ull;

    for (int32_t i = threadIdx.x; i < (width + 3) / 4; i += SPC_LANES) {
        spc_words w = spc_random(key, stream, block + (uint32_t)i);

        for (int32_t k = 0; k < 4 && 4 * i + k < width; k++) {
            float entry = weight(first + 4 * i + k);
            unsigned long long mine = key_of(spc_race_time(w.word[k], entry), 4 * i + k);

            if (entry > 0.0f && mine < best) best = mine;
        }
    }
    best = block_least(&scratch.block, best);
    return first + (best == ~0ull ? width - 1 : (int32_t)(uint32_t)best);
}

static __device__ __noinline__ int32_t draw_row(const spc_round *round, const spc_view *row,
                                                spc_row_stats stats, spc_key key,
                                                spc_stream_id stream)
{
    const spc_softmax s = spc_softmax_of(stats, round->params->sampling.temperature);

    if (s.greedy) return s.top;

    const int32_t tile = race_tiles(round, key, stream);

    if (tile < 0) return s.top; /* only when every tile's weight underflowed but the top's */
    return race_entries(round->vocab, tile, key, stream,
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

    const int32_t tile = race_tiles(pair->round, key, stream);

    if (tile < 0) return -1;
    return race_entries(pair->round->vocab, tile, key, stream, [=](int32_t v) {
        return spc_pair_summand(pair, what, x, spc_pair_entry(pair, v));
    });
}

static __device__ bool keeps(const spc_round *round, float kept, float drafter, spc_key key)
{
    (void)round;
    return spc_accepts(kept, drafter, spc_uniform(key, SPC_STREAM_ACCEPT, 0));
}

static __device__ void put_detail(const spc_round *round, int32_t row, const spc_row_detail *detail)
{
    if (threadIdx.x == 0) round->detail[row] = *detail;
}

#define ROUND_FN static __device__
#include "rules/round_body.h"

/* ---- kernels --------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(SPC_LANES)
    draw_kernel(const __grid_constant__ spc_draw_batch b)
{
    const int32_t s = (int32_t)blockIdx.x;
    spc_row_stats stats = spc_stats_one_hot(-1, b.vocab);
    int32_t token = -1;

    if (s >= spc_live(b.live, b.sequences)) return;
    if (spc_params_valid(&b.params[s])) {
        const spc_view row = spc_draw_view(&b, s);
        spc_round round = {};

        round.params = &b.params[s];
        round.vocab = b.vocab;
        round.tile_weight = scratch.tile_weight;
        row_statistics(&round, &row, &stats);
        if (!stats.bad && b.token) {
            token = draw_row(&round, &row, stats, spc_draw_key(&b, s), spc_draw_stream(&b));
        }
    }
    if (threadIdx.x == 0) spc_draw_store(&b, s, token, &stats);
}

static __global__ void __launch_bounds__(SPC_LANES)
    verify_kernel(const __grid_constant__ spc_verify_batch b)
{
    const int32_t s = (int32_t)blockIdx.x;
    spc_verdict verdict;

    if (s >= spc_live(b.live, b.sequences)) return;

    spc_round round = spc_batch_round(&b, s);

    round.tile_weight = scratch.tile_weight;
    decide_round(&round, &verdict);
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
