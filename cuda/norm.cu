/* SPDX-License-Identifier: Apache-2.0 */
/* norm.cu - RMSNorm with the residual sum before it, one block per row; the sum alone; sums over
 * ranks that share a device.
 *
 * Bound by latency in a round (1 row when drafting, gamma + 1 when scoring): fusing the sum saves a
 * launch and a pass over the rows, and all loads of a thread are on their way together, weights
 * even before the kernel in front has ended. */
#include "ops.h"

#include "loads.cuh"
#include "ops.cuh"

/* Elements that a thread loads together, and all threads do. */
enum { NORM_ONCE = 16, NORM_RUN = NORM_ONCE * OPS_THREADS };

static __global__ void __launch_bounds__(OPS_THREADS)
    norm_kernel(const __grid_constant__ spc_norm_args a)
{
    static __shared__ float shared[OPS_WARPS];
    const int64_t first = (int64_t)blockIdx.x * a.dim;
    const float *in = a.b ? a.sum + first : a.a + first;
    const bool whole = a.dim <= NORM_RUN; /* then threads keep what they have loaded */
    float x[NORM_ONCE], weight[NORM_ONCE], square = 0.0f;

    let_next_begin();
    load_apart<NORM_ONCE>(a.weight, (int32_t)threadIdx.x, a.dim, weight);
    await_previous();
    for (int32_t i = (int32_t)threadIdx.x; i < a.dim; i += NORM_RUN) {
        float more[NORM_ONCE];

        load_apart<NORM_ONCE>(a.a + first, i, a.dim, x);
        if (a.b) load_apart<NORM_ONCE>(a.b + first, i, a.dim, more);
#pragma unroll
        for (int k = 0; k < NORM_ONCE; k++) {
            const int32_t c = i + k * OPS_THREADS;

            if (a.b && c < a.dim) a.sum[first + c] = x[k] += more[k];
            square = fmaf(x[k], x[k], square);
        }
    }

    const float scale = 1.0f / sqrtf(ops_block_sum(square, shared) / (float)a.dim + a.eps);

    for (int32_t i = (int32_t)threadIdx.x; i < a.dim; i += NORM_RUN) {
        if (!whole) { /* each thread reads what it wrote */
            load_apart<NORM_ONCE>(in, i, a.dim, x);
            load_apart<NORM_ONCE>(a.weight, i, a.dim, weight);
        }
#pragma unroll
        for (int k = 0; k < NORM_ONCE; k++) {
            const int32_t c = i + k * OPS_THREADS;

            if (c < a.dim) a.out[first + c] = x[k] * scale * weight[k];
        }
    }
}

static __global__ void __launch_bounds__(OPS_THREADS)
    add_kernel(const __grid_constant__ spc_add_args a)
{
    const int64_t i = (int64_t)blockIdx.x * OPS_THREADS + threadIdx.x;

    begin_behind_previous();
    if (i < a.count) a.out[i] = a.a[i] + a.b[i];
}

static __global__ void __launch_bounds__(OPS_THREADS)
    sum_kernel(const __grid_constant__ spc_sum_args a)
{
    const int64_t i = (int64_t)blockIdx.x * OPS_THREADS + threadIdx.x;

    if (i >= a.count) return;

    float sum = a.data[0][i];

    for (int r = 1; r < a.ranks; r++) sum += a.data[r][i];
    for (int r = 0; r < a.ranks; r++) a.data[r][i] = sum;
}

/* ---- launchers ------------------------------------------------------------------------------- */

cudaError_t spc_cuda_norm(const spc_norm_args *a, cudaStream_t stream)
{
    if (!a->a || !a->weight || !a->out || a->dim < 1 || !a->b != !a->sum || a->out == a->sum) {
        return cudaErrorInvalidValue;
    }
    return launch_op(norm_kernel, a->rows, *a, stream, a->early);
}

cudaError_t spc_cuda_add(const spc_add_args *a, cudaStream_t stream)
{
    if (!a->a || !a->b || !a->out) return cudaErrorInvalidValue;
    return launch_op(add_kernel, (a->count + OPS_THREADS - 1) / OPS_THREADS, *a, stream, a->early);
}

cudaError_t spc_cuda_sum(const spc_sum_args *a, cudaStream_t stream)
{
    if (a->ranks < 1 || a->ranks > SPC_SUM_RANKS || a->count < 0) return cudaErrorInvalidValue;
    if (a->count == 0) return cudaSuccess;
    return launch_op(sum_kernel, (a->count + OPS_THREADS - 1) / OPS_THREADS, *a, stream);
}
