/* SPDX-License-Identifier: Apache-2.0 */
/* jobs.cuh - looks at whole rows as jobs of as many tiles, which blocks share: who takes their
 * pieces (pieces.cuh).  Part of queue.cu. */
#ifndef SPC_CUDA_JOBS_CUH
#define SPC_CUDA_JOBS_CUH

#include "pieces.cuh"

/* A job that nobody uses, of `count` from `first` on; -1: there is none.  One thread alone.  Each
 * trip to memory tells which jobs of 32 are in use.  Its memory, which others read when it was
 * theirs, this thread and those that it meets may write. */
static __device__ int32_t take_slot(int32_t first, int32_t count)
{
    uint32_t *taken = scratch.q.all->taken + first / 32;

    if (count < 1) return -1;

    const int32_t begin = (int32_t)(blockIdx.x % (uint32_t)count), words = (count + 31) / 32;

    for (int32_t i = 0; i <= words; i++) { /* the first word again, for what is in front of begin */
        const int32_t w = (begin / 32 + i) % words, jobs = count - w * 32;
        uint32_t idle = jobs < 32 ? (1u << jobs) - 1u : ~0u;

        if (i == 0) idle &= ~0u << begin % 32;
        while (idle) {
            const uint32_t bit = idle & (0u - idle), before = atomicOr(taken + w, bit);
            int32_t slot = first + w * 32;

            idle &= ~(before | bit);
            if (before & bit) continue;
            while (!(bit >> slot % 32 & 1u)) slot++;
            fence_blocks();
            return slot;
        }
    }
    return -1;
}

/* All threads have done with it. */
static __device__ void give_slot(int32_t slot)
{
    fence_blocks();
    atomicAnd(scratch.q.all->taken + slot / 32, ~(1u << slot % 32));
}

/* Let everyone take pieces of scratch.job, which thread 0 wrote; the last `own` of them are this
 * block's. */
static __device__ void post(int32_t slot, int32_t own)
{
    job *j = job_of(&scratch.q, slot);
    const int32_t t = (int32_t)threadIdx.x;

    __syncthreads();
    for (uint32_t i = threadIdx.x; i < sizeof(job_text) / 4; i += SPC_LANES) {
        ((uint32_t *)&j->text)[i] = ((const uint32_t *)&scratch.job)[i];
    }
    if (scratch.job.kind == JOB_BINS) bins_of(&scratch.q, slot)[t] = 0;
    if (scratch.job.kind == JOB_FOLD && t < scratch.q.tiles) {
        *sum_at(cells_of_job(&scratch.q, slot), t) = 0; /* not there */
    }
    if (t == 0) j->done = 0;
    __syncthreads();
    if (t == 0 && pieces_of(&scratch.q, scratch.job.piece) > own) {
        fence_blocks();
        atomicExch(scratch.q.left + slot, pieces_of(&scratch.q, scratch.job.piece) - own);
        put_word(&scratch.q.all->latest, (uint32_t)slot);
        atomicAdd(&scratch.q.all->open, 1); /* whoever looks for it is to find it */
    }
}

/* A piece of a job, counted from 1; 0 or less: none is left.  knows: the block posted it. */
static __device__ int32_t claim_piece(int32_t slot, bool knows)
{
    __syncthreads(); /* the last claim was read */
    if (threadIdx.x == 0) {
        scratch.claim = atomicSub(scratch.q.left + slot, 1);
        if (scratch.claim == 1) atomicSub(&scratch.q.all->open, 1);
        if (scratch.claim > 0 && !knows) fence_blocks(); /* it has the piece */
    }
    __syncthreads();
    return scratch.claim;
}

/* The text of a job of which this block holds a piece, or for which it waits: it cannot change
 * meanwhile. */
static __device__ void read_text(int32_t slot)
{
    enum : uint32_t {
        OF_ROUND = offsetof(job_text, pair.round) / 4,
        ROUND_WORDS = sizeof(void *) / 4
    };
    const uint32_t *text = (const uint32_t *)&job_of(&scratch.q, slot)->text;

    for (uint32_t i = threadIdx.x; i < sizeof(job_text) / 4; i += SPC_LANES) {
        if (i - OF_ROUND >= ROUND_WORDS) ((uint32_t *)&scratch.job)[i] = fresh_word(text + i);
    }
    __syncthreads();
}

/* Run a piece, and what is left of a job that this block waits for.  claim: the first piece, as
 * claim_piece tells it; mine: scratch.job is this job already. */
static __device__ void run_rest(int32_t slot, int32_t claim, bool mine)
{
    while (claim > 0) {
        if (!mine) read_text(slot);
        mine = true;
        run_piece(slot, claim - 1);
        if (threadIdx.x == 0 && scratch.job.kind != JOB_FOLD) {
            atomicAdd(&job_of(&scratch.q, slot)->done, 1);
        }
        claim = claim_piece(slot, true);
    }
}

/* Run scratch.job, written by thread 0, with whoever has time.  The sums of a fold may be missing
 * yet when it returns. */
static __device__ void run_job(void)
{
    const int32_t slot = scratch.slot;

    if (scratch.q.tiles == 1) {
        __syncthreads();
        if (scratch.job.kind == JOB_BINS) bins_of(&scratch.q, slot)[threadIdx.x] = 0;
        __syncthreads();
        run_piece(slot, 0);
        return;
    }
    post(slot, 1);

    const int32_t pieces = pieces_of(&scratch.q, scratch.job.piece);

    run_rest(slot, pieces, true);
    if (scratch.job.kind == JOB_FOLD) return;
    if (threadIdx.x == 0) {
        while (fresh(&job_of(&scratch.q, slot)->done) < pieces) __nanosleep(32);
        fence_blocks();
    }
    __syncthreads();
}

/* Begin the text of a job: by thread 0. */
static __device__ void begin_text(job_kind kind, const spc_row_params *params, int32_t row,
                                  int32_t piece)
{
    job_text *text = &scratch.job;

    text->kind = kind;
    text->what = text->bare = 0;
    text->row = row;
    text->piece = piece;
    text->params = *params;
}

#endif
