/* SPDX-License-Identifier: Apache-2.0 */
/* pieces.cuh - a piece of a job: some tiles of a row, or of a pair of rows.  Part of queue.cu. */
#ifndef SPC_CUDA_PIECES_CUH
#define SPC_CUDA_PIECES_CUH

#include "cut_tiles.cuh"
#include "fold.cuh"
#include "tile_sums.cuh"

/* A tile's sum goes to who waits for it in one word, which says that it is there: to write it, wait
 * until it is written, and then count it would be two trips to memory more, and to read it then a
 * third.  last: of the piece; who has the sum knows then that all of the block have done with the
 * job. */
static __device__ void put_sum(int64_t cells, int32_t tile, float sum, bool last)
{
    if (threadIdx.x != 0) return;
    if (last) fence_blocks(); /* the sum itself is behind it: nothing is on its way */
    put_pair(sum_at(cells, tile), (uint64_t)1 << 32 | spc_float_bits(sum));
}

/* One piece of the job in scratch.job.  But for folds the block's threads have all written when it
 * returns, and thread 0 may say so to other blocks. */
static __device__ __noinline__ void run_piece(int32_t slot, int32_t piece)
{
    const job_text *job = &scratch.job;
    const int32_t vocab = scratch.q.vocab, first = piece * job->piece;
    const int32_t last =
        first + job->piece < scratch.q.tiles ? first + job->piece : scratch.q.tiles;

    if (job->kind == JOB_BINS) {
        run_bins(job, slot, first, last);
    } else if (job->kind == JOB_KEPT) {
        run_kept(job, first, last);
    } else {
        const int64_t cells = cells_of_job(&scratch.q, slot);

        if (threadIdx.x == 0) scratch.needs = spc_needs_of(&job->params, vocab);
        for (int32_t t = first; t < last; t++) {
            if (job->kind == JOB_PARTIALS) {
                const int32_t entries = fetch_tile(&job->view, vocab, t, &scratch.stage[0]);

                end_fetch();
                wait_fetch<0>();
                sum_tile(&job->view, &scratch.needs, t, entries, &scratch.stage[0], cells);
            } else {
                put_sum(cells, t, block_sum(&scratch.block, fold_tile(job, vocab, t)),
                        t == last - 1);
            }
        }
        if (job->kind == JOB_FOLD) return;
    }
    __syncthreads();
    if (threadIdx.x == 0) fence_blocks();
}

#endif
