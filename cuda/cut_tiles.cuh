/* SPDX-License-Identifier: Apache-2.0 */
/* cut_tiles.cuh - tiles of rows that are cut (top-k, top-p, min-p): bins of the search for a
 * cut, and sums over what it keeps.  Part of queue.cu. */
#ifndef SPC_CUDA_CUT_TILES_CUH
#define SPC_CUDA_CUT_TILES_CUH

#include "staged.cuh"

/* Integers of 64 bits, added as two of 32: shared memory has no instruction for the whole. */
static __device__ void add_mass(int32_t bin, uint64_t mass)
{
    const uint32_t low = (uint32_t)mass, before = atomicAdd(&scratch.low[bin], low);
    const uint32_t high = (uint32_t)(mass >> 32) + (before + low < before ? 1u : 0u);

    if (high > 0) atomicAdd(&scratch.high[bin], high);
}

/* Most entries lie outside the bins: they cost two comparisons.  Tiles whose maximum does are not
 * read. */
static __device__ void bins_of_tile(const job_text *job, int32_t vocab, int32_t tile, float low,
                                    float high, int32_t entries)
{
    tile_stage *stage = &scratch.stage[tile % 2];
    const int32_t type = complete_stage(&job->view, vocab, tile, entries, stage);

    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += AT_ONCE) {
        float z[AT_ONCE];

        unstage<AT_ONCE>(stage, type, k, z);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (!(z[i] >= low && z[i] <= high)) continue;
            if (tile * SPC_TILE + (int32_t)threadIdx.x + (k + i) * SPC_LANES >= vocab) continue;

            const int32_t bin = spc_search_bin(&job->search, z[i]);

            if (job->what) {
                add_mass(bin, spc_mass_of(spc_softmax_weight(job->softmax, z[i])));
            } else {
                atomicAdd(&scratch.low[bin], 1u);
            }
        }
    }
}

static __device__ spc_partial kept_of_tile(const job_text *job, int32_t vocab, int32_t tile,
                                           bool moments, int32_t entries)
{
    tile_stage *stage = &scratch.stage[tile % 2];
    const int32_t type = complete_stage(&job->view, vocab, tile, entries, stage);
    spc_partial p = spc_partial_none();
    float sum = 0.0f, moment = 0.0f;

    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += AT_ONCE) {
        float z[AT_ONCE];

        unstage<AT_ONCE>(stage, type, k, z);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (!(z[i] >= job->softmax.cut)) continue; /* adds nothing, to the bit */

            const float w = spc_softmax_weight(job->softmax, z[i]);

            sum += w;
            if (moments && w > 0.0f) {
                moment += (z[i] - job->softmax.max) / job->params.sampling.temperature * w;
            }
        }
    }
    p.sum = block_sum(&scratch.block, sum);
    if (moments) p.moment = block_sum(&scratch.block, moment);
    return p;
}

enum { NOT_READ = -1 };

/* Ask for a tile of a row if it reaches up to `low`: as fetch_tile, or NOT_READ. */
static __device__ int32_t fetch_reaching(const job_text *job, int32_t tile, int32_t last, float low)
{
    int32_t entries = NOT_READ;

    if (tile < last && partial_at(job->cells, tile).max >= low) {
        entries = fetch_tile(&job->view, scratch.q.vocab, tile, &scratch.stage[tile % 2]);
    }
    end_fetch();
    return entries;
}

static __device__ void run_bins(const job_text *job, int32_t slot, int32_t first, int32_t last)
{
    const float low = spc_search_logit(&job->search, job->search.low);
    const float high = spc_search_logit(&job->search, job->search.high);
    int32_t now = fetch_reaching(job, first, last, low);

    static_assert((int)SPC_CUT_BINS == (int)SPC_LANES, "a thread for every bin");
    scratch.low[threadIdx.x] = scratch.high[threadIdx.x] = 0;
    __syncthreads();
    for (int32_t t = first; t < last; t++) {
        const int32_t next = fetch_reaching(job, t + 1, last, low);

        wait_fetch<1>();
        if (now != NOT_READ) bins_of_tile(job, scratch.q.vocab, t, low, high, now);
        __syncthreads(); /* all have read this tile */
        now = next;
    }
    __syncthreads();

    const uint64_t mass =
        (uint64_t)scratch.high[threadIdx.x] << 32 | (uint64_t)scratch.low[threadIdx.x];

    if (mass > 0) {
        atomicAdd((unsigned long long *)bins_of(&scratch.q, slot) + threadIdx.x,
                  (unsigned long long)mass);
    }
}

static __device__ void run_kept(const job_text *job, int32_t first, int32_t last)
{
    const spc_row_needs needs = spc_needs_of(&job->params, scratch.q.vocab);
    const float low = job->softmax.cut;
    int32_t now = fetch_reaching(job, first, last, low);

    for (int32_t t = first; t < last; t++) {
        const int32_t next = fetch_reaching(job, t + 1, last, low);
        spc_partial p = spc_partial_none();

        wait_fetch<1>();
        if (now != NOT_READ) {
            p = kept_of_tile(job, scratch.q.vocab, t, needs.processed_moment, now);
        }
        p.max = job->stats.max; /* what the sums are relative to now */
        p.top = job->stats.top;
        __syncthreads(); /* all have read this tile, and its partial */
        if (threadIdx.x == 0) scratch.q.cells[job->cells + t].tile = p;
        now = next;
    }
}

#endif
