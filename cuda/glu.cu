/* SPDX-License-Identifier: Apache-2.0 */
/* glu.cu - what stands between the matrices of a feed-forward part, one thread per output. */
#include "ops.h"

#include "ops.cuh"

static __global__ void __launch_bounds__(OPS_THREADS)
    glu_kernel(const __grid_constant__ spc_glu_args a)
{
    const int64_t i = (int64_t)blockIdx.x * OPS_THREADS + threadIdx.x;

    if (i >= (int64_t)a.rows * a.dim) return;
    if (a.kind == SPC_GLU_RELU) {
        a.out[i] = a.in[i] < 0.0f ? 0.0f : a.in[i]; /* NaN stays */
        return;
    }

    const int64_t at = i / a.dim * 2 * a.dim + i % a.dim;
    const float gate = a.in[at], up = a.in[at + a.dim];

    a.out[i] = glu_gate(a.kind, gate) * up;
}

cudaError_t spc_cuda_glu(const spc_glu_args *a, cudaStream_t stream)
{
    if (!a->in || !a->out || a->dim < 1 || a->rows < 1 || a->kind < SPC_GLU_SILU ||
        a->kind > SPC_GLU_RELU) {
        return cudaErrorInvalidValue;
    }
    return launch_op(glu_kernel, ((int64_t)a->rows * a->dim + OPS_THREADS - 1) / OPS_THREADS, *a,
                     stream);
}
