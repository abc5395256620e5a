/* SPDX-License-Identifier: Apache-2.0 */
/* norm.cu - RMSNorm with the residual sum before it, one block per row; the sum alone; sums over
 * ranks that share a device.
 *
 * Bound by latency in a round (1 row when drafting, gamma + 1 when scoring): fusing the sum saves a
 * launch and a pass over the rows. */
#include "ops.h"

#include "ops.cuh"

static __global__ void __launch_bounds__(OPS_THREADS)
    norm_kernel(const __grid_constant__ spc_norm_args a)
{
    static __shared__ float shared[OPS_WARPS];
    const int64_t first = (int64_t)blockIdx.x * a.dim;
    const float *in = a.b ? a.sum + first : a.a + first;
    float square = 0.0f;

    begin_behind_previous();
    for (int i = threadIdx.x; i < a.dim; i += OPS_THREADS) {
        float x = a.a[first + i];

        if (a.b) a.sum[first + i] = x += a.b[first + i];
        square = fmaf(x, x, square);
    }

    const float scale = 1.0f / sqrtf(ops_block_sum(square, shared) / (float)a.dim + a.eps);

    for (int i = threadIdx.x; i < a.dim; i += OPS_THREADS) {
        a.out[first + i] = in[i] * scale * a.weight[i]; /* each thread reads what it wrote */
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
