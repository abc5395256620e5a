/* SPDX-License-Identifier: Apache-2.0 */
/* glu.cu - what stands between the matrices of a feed-forward part, one thread per output. */
#include "ops.h"

#include "ops.cuh"

static __global__ void __launch_bounds__(OPS_THREADS)
    glu_kernel(const __grid_constant__ spc_glu_args a)
{
    const int32_t blocks = blocks_of_row(a.dim), block = (int32_t)blockIdx.x;
    const int32_t i = block % blocks * OPS_THREADS + (int32_t)threadIdx.x;
    const int64_t row = block / blocks, first = row * a.dim, to = row * a.out_width;

    begin_behind_previous();
    if (i >= a.dim) return;
    if (a.kind == SPC_GLU_RELU) {
        const float x = a.in[first + i];

        a.out[to + i] = x < 0.0f ? 0.0f : x; /* NaN stays */
        return;
    }
    a.out[to + i] = glu_gate(a.kind, a.in[2 * first + i]) * a.in[2 * first + a.dim + i];
}

cudaError_t spc_cuda_glu(const spc_glu_args *a, cudaStream_t stream)
{
    if (!a->in || !a->out || a->dim < 1 || a->out_width < a->dim || a->rows < 1 ||
        a->kind < SPC_GLU_SILU || a->kind > SPC_GLU_RELU) {
        return cudaErrorInvalidValue;
    }
    return launch_op(glu_kernel, (int64_t)a->rows * blocks_of_row(a->dim), *a, stream, a->early);
}
