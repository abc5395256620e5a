/* SPDX-License-Identifier: Apache-2.0 */
/* linear.cuh - what the kernels for few rows share: who computes which outputs, activations on
 * their way in, sums on their way out. */
#ifndef SPC_CUDA_LINEAR_CUH
#define SPC_CUDA_LINEAR_CUH

#include "ops.cuh"

enum {
    OUTS = 4,           /* outputs of a warp */
    ROWS_MOST = 16,     /* rows of a launch */
    WARPS_WANTED = 2112 /* 16 on each multiprocessor of an H100 */
};

/* ---- who computes what ----------------------------------------------------------------------- */

/* Groups of OUTS outputs of all parts. */
static __host__ __device__ __forceinline__ int32_t groups_of(const spc_linear_args &a)
{
    int32_t groups = 0;

    for (int p = 0; p < a.parts; p++) groups += (a.part[p].rows + OUTS - 1) / OUTS;
    return groups;
}

typedef struct {
    spc_linear_args a;
    int32_t slices; /* warps that share the columns of a group: 1, 2, 4 or 8 */
} linear_work;

/* The part in which a group of all parts lies (a.parts: behind the last); group becomes the part's
 * own, at the number of outputs before the part. */
static __device__ __forceinline__ int part_of(const spc_linear_args &a, int32_t *group, int32_t *at)
{
    int part = 0;

    *at = 0;
    for (; part < a.parts; part++) {
        const int32_t groups = (a.part[part].rows + OUTS - 1) / OUTS;

        if (*group < groups) break;
        *group -= groups;
        *at += a.part[part].rows;
    }
    return part;
}

/* The i-th output of a group; those behind the last repeat it, and are dropped. */
static __device__ __forceinline__ int32_t output_of(const spc_cuda_matrix &m, int32_t group, int i)
{
    return group * OUTS + i < m.rows ? group * OUTS + i : m.rows - 1;
}

/* ---- in and out ------------------------------------------------------------------------------ */

/* Sums of COUNT values over the warp, a power of two up to 32: the sum of value i ends in x[0] of
 * the lanes from i * 32 / COUNT on.  Half of the values change hands at each step, and each sum is
 * folded by halving. */
template <int COUNT> static __device__ __forceinline__ void warp_fold(float *x, int lane)
{
#pragma unroll
    for (int width = OPS_LANES / 2, count = COUNT; width > 0; width /= 2) {
        const bool upper = (lane & width) != 0;

        count = count > 1 ? count / 2 : 0;
        if (count == 0) x[0] += __shfl_xor_sync(0xffffffffu, x[0], width);
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            if (i >= count) break;

            const float give = upper ? x[i] : x[i + count];
            const float keep = upper ? x[i + count] : x[i];

            x[i] = keep + __shfl_xor_sync(0xffffffffu, give, width);
        }
        if (count == 0) count = 1;
    }
}

/* Sums of a block's warps to their places: folded over lanes, over slices, with bias and cap.
 *
 * sum       [OUTS * ROWS] of this lane, rows outermost; lost
 * partial   [OPS_WARPS] of the block */
template <int ROWS>
static __device__ __forceinline__ void linear_finish(const linear_work &w, float *sum,
                                                     float (*partial)[OUTS * ROWS])
{
    enum { VALUES = OUTS * ROWS, FOLD = VALUES < OPS_LANES ? VALUES : OPS_LANES };
    const spc_linear_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    const int per_block = OPS_WARPS / w.slices;

#pragma unroll
    for (int i = 0; i < VALUES; i += FOLD) {
        warp_fold<FOLD>(sum + i, lane);
        if (lane % (OPS_LANES / FOLD) == 0) {
            partial[warp][i + lane / (OPS_LANES / FOLD)] = sum[i];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < per_block * VALUES; i += OPS_THREADS) {
        const int row = i % VALUES / OUTS, first = i / VALUES * w.slices;
        int32_t g = (int32_t)blockIdx.x * per_block + i / VALUES, at;
        const int part = part_of(a, &g, &at);
        float out = 0.0f;

        for (int s = 0; s < w.slices; s++) out += partial[first + s][i % VALUES];
        g = g * OUTS + i % OUTS;
        if (part == a.parts || g >= a.part[part].rows || row >= a.rows) continue;
        if (a.bias[part]) out += a.bias[part][g];
        if (a.cap > 0.0f) out = bounded(out, a.cap);
        a.out[(int64_t)(a.target ? a.target[row] : row) * a.width + at + g] = out;
    }
}

/* ---- launch ---------------------------------------------------------------------------------- */

/* units: how often a lane could load weights, were there one lane. */
static inline int32_t slices_of(const spc_linear_args &a, int32_t units)
{
    int32_t slices = 1;

    while (slices < OPS_WARPS && groups_of(a) * slices < WARPS_WANTED &&
           units >= 2 * OPS_LANES * slices) {
        slices *= 2;
    }
    return slices;
}

/* launch(work, blocks) for one strip of rows after the other. */
template <typename Launch>
static cudaError_t in_strips(const spc_linear_args &a, int32_t units, Launch launch)
{
    linear_work w = {a, slices_of(a, units)};
    const int32_t groups = groups_of(a), per_block = OPS_WARPS / w.slices;
    cudaError_t error = cudaSuccess;

    for (int32_t done = 0; done < a.rows && error == cudaSuccess; done += ROWS_MOST) {
        w.a.rows = a.rows - done < ROWS_MOST ? a.rows - done : ROWS_MOST;
        w.a.in = a.in + (int64_t)done * a.part[0].cols;
        if (a.target) w.a.target = a.target + done;
        if (!a.target) w.a.out = a.out + (int64_t)done * a.width;
        error = launch(w, (int64_t)(groups + per_block - 1) / per_block);
    }
    return error;
}

#endif
