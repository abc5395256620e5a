/* SPDX-License-Identifier: Apache-2.0 */
/* fold.cuh - sums over a tile of a pair of rows: what a rule makes of drafter and verifier,
 * entry by entry.  Part of queue.cu. */
#ifndef SPC_CUDA_FOLD_CUH
#define SPC_CUDA_FOLD_CUH

#include "staged.cuh"

/* Both rows are ready, neither is one-hot. */
static __device__ __forceinline__ bool is_usual(const spc_row_pair *pair)
{
    return pair->drafter.ready && pair->verifier.ready && !pair->drafter.softmax.greedy &&
           !pair->verifier.softmax.greedy;
}

/* What a job's sum takes of an entry.  What and form known while compiling: the rules' switches
 * fold away.  USUAL: is_usual; WHOLE: neither row is cut. */
template <int WHAT, int FORM, bool USUAL, bool WHOLE = false> struct summand {
    spc_row_pair pair;
    spc_gate gate;
    float temperature, x;

    __device__ __forceinline__ explicit summand(const job_text *job)
        : pair(job->pair), gate((spc_gate)job->params.rule.gate),
          temperature(job->params.sampling.temperature), x(job->x)
    {
        if (FORM >= 0) pair.target.form = (spc_target_form)FORM;
        if (!USUAL) return;
        pair.drafter.ready = pair.verifier.ready = true;
        pair.drafter.softmax.greedy = pair.verifier.softmax.greedy = false;
    }

    __device__ __forceinline__ float of(int32_t v, float drafter, float verifier) const
    {
        spc_entry e = spc_pair_entry_with(&pair, gate, temperature, v, drafter, verifier);

        if (WHOLE) { /* the same to the bit, without a comparison */
            const spc_softmax q = pair.drafter.softmax, p = pair.verifier.softmax;

            e.mix.drafter = spc_softmax_whole(q, drafter) * q.inverse;
            e.mix.verifier = spc_softmax_whole(p, verifier) * p.inverse;
        }
        return spc_pair_summand(&pair, (spc_summand)WHAT, x, e);
    }
};

/* PLAIN: the rows are usual and the tile is whole. */
template <int WHAT, int FORM, bool PLAIN>
static __device__ __forceinline__ float lane_sum(const job_text *job, int32_t vocab, int32_t tile,
                                                 staged_pair type)
{
    const summand<WHAT, FORM, PLAIN> term(job);
    float sum = 0.0f;

#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += AT_ONCE) {
        float drafter[AT_ONCE], verifier[AT_ONCE];

        unstage<AT_ONCE>(&scratch.stage[0], type.drafter, k, drafter);
        unstage<AT_ONCE>(&scratch.stage[1], type.verifier, k, verifier);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + (k + i) * SPC_LANES;

            if (PLAIN || v < vocab) sum += term.of(v, drafter[i], verifier[i]);
        }
    }
    return sum;
}

/* The same of rows of bf16 that are not cut: most are, and an entry takes 15 instructions then, not
 * 24. */
template <int WHAT, int FORM>
static __device__ __forceinline__ float lane_sum_whole(const job_text *job, int32_t tile)
{
    const summand<WHAT, FORM, true, true> term(job);
    const auto value = [](uint16_t x) { return spc_bits_float((uint32_t)x << 16); };
    float sum = 0.0f;

#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += 2 * AT_ONCE) {
        const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + k * SPC_LANES;
        float drafter[2 * AT_ONCE], verifier[2 * AT_ONCE];

        unstage_as<2 * AT_ONCE, uint16_t>(&scratch.stage[0], k, value, drafter);
        unstage_as<2 * AT_ONCE, uint16_t>(&scratch.stage[1], k, value, verifier);
#pragma unroll
        for (int i = 0; i < 2 * AT_ONCE; i++) {
            sum += term.of(v + i * SPC_LANES, drafter[i], verifier[i]);
        }
    }
    return sum;
}

template <int WHAT, int FORM>
static __device__ __forceinline__ float lane_fold(const job_text *job, int32_t vocab, int32_t tile,
                                                  staged_pair type)
{
    const bool plain = is_usual(&job->pair) && spc_tile_width(vocab, tile) == SPC_TILE;
    const bool whole = !(job->pair.drafter.softmax.cut > -SPC_INFINITY) &&
                       !(job->pair.verifier.softmax.cut > -SPC_INFINITY);

    if (FORM == SPC_TARGET_DEFER && plain && whole && type.drafter == SPC_LOGITS_BF16 &&
        type.verifier == SPC_LOGITS_BF16) {
        return lane_sum_whole<WHAT, FORM>(job, tile);
    }
    return plain ? lane_sum<WHAT, FORM, true>(job, vocab, tile, type)
                 : lane_sum<WHAT, FORM, false>(job, vocab, tile, type);
}

/* What is rarely asked for: an entry at a time. */
static __device__ __noinline__ float any_fold(const job_text *job, int32_t vocab, int32_t tile,
                                              staged_pair type)
{
    const spc_logits drafter = {&scratch.stage[0], type.drafter};
    const spc_logits verifier = {&scratch.stage[1], type.verifier};
    const int32_t width = spc_tile_width(vocab, tile);
    float sum = 0.0f;

#pragma unroll 1
    for (int32_t i = (int32_t)threadIdx.x; i < width; i += SPC_LANES) {
        const spc_entry e = spc_pair_entry_of(&job->pair, tile * SPC_TILE + i,
                                              spc_logit(drafter, i), spc_logit(verifier, i));

        sum += spc_pair_summand(&job->pair, (spc_summand)job->what, job->x, e);
    }
    return sum;
}

static __device__ float fold_tile(const job_text *job, int32_t vocab, int32_t tile)
{
    const spc_row_pair *pair = &job->pair;
    const staged_pair type = await_pair(pair, vocab, tile, ask_pair(pair, vocab, tile));

    if (job->what == SPC_SUM_RESIDUAL && pair->target.form == SPC_TARGET_DEFER) {
        return lane_fold<SPC_SUM_RESIDUAL, SPC_TARGET_DEFER>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_RESIDUAL && pair->target.form == SPC_TARGET_SELECT) {
        return lane_fold<SPC_SUM_RESIDUAL, SPC_TARGET_SELECT>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_OUTSIDE) {
        return lane_fold<SPC_SUM_OUTSIDE, -1>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_TV) {
        return lane_fold<SPC_SUM_TV, SPC_TARGET_DEFER>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_BLOCK && pair->target.form == SPC_TARGET_DEFER) {
        return lane_fold<SPC_SUM_BLOCK, SPC_TARGET_DEFER>(job, vocab, tile, type);
    }
    return any_fold(job, vocab, tile, type);
}

#endif
