/* SPDX-License-Identifier: Apache-2.0 */
/* cut.cuh - what comes next for a row that is cut: top-k, top-p and min-p, then the sums over what
 * they leave, each look at the row a job (jobs.cuh).  Part of queue.cu.
 *
 * The state of a row is the text of its job.  Whoever has a stage's numbers writes the next stage:
 * a block that waits for the row, or the block that brings the last piece of a row that goes on by
 * itself. */
#ifndef SPC_CUDA_CUT_CUH
#define SPC_CUDA_CUT_CUH

#include "jobs.cuh"

/* Mass of the bins from this thread's on to the greatest. */
static __device__ uint64_t mass_from_here(uint64_t mine)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    for (int step = 1; step < WARP; step *= 2) {
        const uint64_t other =
            (uint64_t)__shfl_down_sync(0xffffffffu, (unsigned long long)mine, step);

        if (lane + step < WARP) mine += other;
    }
    if (lane == 0) scratch.warp_mass[warp] = mine;
    __syncthreads();
    for (int w = warp + 1; w < WARPS; w++) mine += scratch.warp_mass[w];
    return mine;
}

/* ---- by thread 0, on scratch.job ------------------------------------------------------------- */

static __device__ bool is_ranked(const job_text *text)
{
    const spc_sampling *p = &text->params.sampling;

    return !text->bare && p->top_k > 0 && p->top_k < scratch.q.vocab;
}

/* The cut is known: what it leaves is summed. */
static __device__ void begin_kept(job_text *text, float cut)
{
    const spc_sampling *p = &text->params.sampling;

    if (p->min_p > 0.0f) {
        const float least =
            spc_min_p_cut(text->stats.max, p->temperature, (float)log((double)p->min_p));

        if (least > cut) cut = least;
    }
    text->stats.cut = cut;
    text->softmax = spc_softmax_of(text->stats, p->temperature);
    text->kind = JOB_KEPT;
}

/* mass: of what the softmax keeps; 0: the first level tells.  (Of any mass a top-p above 0 wants 1
 * or more.) */
static __device__ void begin_nucleus(job_text *text, float top_p, uint64_t mass)
{
    const float floor = spc_nucleus_floor(text->stats.max, text->params.sampling.temperature,
                                          scratch.q.vocab, top_p);

    text->kind = JOB_BINS;
    text->what = 1;
    /* where the first level tells the mass, all that is kept must be in it */
    text->search = spc_search_begin(&text->view, mass > 0 ? floor : text->softmax.cut,
                                    text->stats.max, spc_nucleus_target(top_p, mass));
}

/* The first stage of a row of which view, cells, params and stats are there. */
static __device__ void begin_cut(job_text *text)
{
    const spc_sampling *p = &text->params.sampling;
    const spc_row_needs needs = spc_needs_of(&text->params, scratch.q.vocab);

    text->softmax = {
        text->stats.max, spc_temperature_scale(p->temperature), 1.0f, -SPC_INFINITY, 0, false};
    if (needs.truncates && is_ranked(text)) {
        text->kind = JOB_BINS;
        text->what = 0;
        text->search = spc_search_begin(&text->view, text->stats.max - SPC_RANKED_FLOOR,
                                        text->stats.max, (uint64_t)p->top_k);
    } else if (needs.truncates && p->top_p < 1.0f) {
        begin_nucleus(text, p->top_p, spc_mass_of(text->stats.sum));
    } else if (needs.truncates) {
        begin_kept(text, -SPC_INFINITY);
    } else { /* the gate reads processed rows */
        text->softmax = spc_softmax_of(text->stats, p->temperature);
        text->kind = JOB_KEPT;
    }
}

/* A search has ended at this logit; -inf: everything together does not reach the target. */
static __device__ void end_search(job_text *text, float logit)
{
    const float top_p = text->params.sampling.top_p;

    if (text->bare) {
        text->found = logit;
        text->kind = JOB_NONE;
    } else if (!text->what && top_p < 1.0f) {
        text->softmax.cut = logit;
        begin_nucleus(text, top_p, 0);
    } else {
        begin_kept(text, logit > text->softmax.cut ? logit : text->softmax.cut);
    }
}

/* A level is there: the bin that reaches the target, -1 where none does; above: mass above that
 * bin, or of all. */
static __device__ void end_level(job_text *text, int32_t bin, uint64_t above)
{
    spc_search *s = &text->search;

    if (bin < 0) {
        if (!spc_search_below(s, above)) end_search(text, -SPC_INFINITY);
        return;
    }
    spc_search_enter(s, bin, above);
    if (spc_search_found(s)) end_search(text, spc_search_logit(s, s->low));
}

/* ---- by all threads -------------------------------------------------------------------------- */

static __device__ void end_bins(int32_t slot)
{
    job_text *text = &scratch.job;
    const uint64_t mine = fresh(bins_of(&scratch.q, slot) + threadIdx.x);
    const uint64_t from = mass_from_here(mine), before = text->search.above;

    if (threadIdx.x == 0) {
        if (text->search.target == 0) {
            text->search.target = spc_nucleus_target(text->params.sampling.top_p, from);
        }
        scratch.bin = -1;
        scratch.above = before + from;
    }
    __syncthreads();

    const uint64_t target = text->search.target;

    if (before + from >= target && before + from - mine < target) {
        scratch.bin = (int32_t)threadIdx.x;
        scratch.above = before + from - mine;
    }
    __syncthreads();
    if (threadIdx.x == 0) end_level(text, scratch.bin, scratch.above);
    __syncthreads();
}

/* The row's sums, from left to right. */
static __device__ void end_kept(void)
{
    job_text *text = &scratch.job;
    const spc_row_needs needs = spc_needs_of(&text->params, scratch.q.vocab);
    const int32_t t = (int32_t)threadIdx.x, tiles = scratch.q.tiles;
    float sum = 0.0f, moment = 0.0f;

    if (t < tiles) {
        const spc_partial p = partial_at(text->cells, t);

        scratch.row.weight[t] = p.sum;
        scratch.row.moment[t] = p.moment;
    }
    __syncthreads();
    if (t == 0) {
        for (int32_t i = 0; i < tiles; i++) {
            sum += scratch.row.weight[i];
            moment += scratch.row.moment[i];
        }
        text->stats.sum = sum;
        if (needs.processed_moment) text->stats.moment = moment;
        text->kind = JOB_NONE;
    }
    __syncthreads();
}

/* The stage in scratch.job is there: its next one, JOB_NONE at the end. */
static __device__ __noinline__ void next_stage(int32_t slot)
{
    if (scratch.job.kind == JOB_BINS) {
        end_bins(slot);
    } else {
        end_kept();
    }
}

#endif
