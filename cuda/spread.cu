/* SPDX-License-Identifier: Apache-2.0 */
/* spread.cu - logits of the tokens that a drafter drafts to their places in rows of all tokens.  A
 * thread per logit; bound by writing them, which takes far less than the matrix of those that are
 * not drafted took to read. */
#include "ops.h"

#include "ops.cuh"

static __global__ void __launch_bounds__(OPS_THREADS)
    spread_kernel(const __grid_constant__ spc_spread_args a)
{
    const int32_t blocks = blocks_of_row(a.ids), block = (int32_t)blockIdx.x;
    const int32_t row = block / blocks;
    const int32_t token = block % blocks * OPS_THREADS + (int32_t)threadIdx.x;
    float logit = SPC_LOGIT_NEVER;

    begin_behind_previous();
    if (token >= a.ids) return;

    const spc_subset word = a.subset[token / 32];

    if (word.tokens >> (token % 32) & 1u) {
        logit = a.in[(int64_t)row * a.drafted + spc_subset_element(word, token)];
    }
    a.out[(int64_t)a.target[row] * a.ids + token] = logit;
}

cudaError_t spc_cuda_spread(const spc_spread_args *a, cudaStream_t stream)
{
    if (!a->in || !a->subset || !a->target || !a->out || a->rows < 1 || a->drafted < 0 ||
        a->ids < a->drafted) {
        return cudaErrorInvalidValue;
    }
    return launch_op(spread_kernel, (int64_t)a->rows * blocks_of_row(a->ids), *a, stream, a->early);
}
