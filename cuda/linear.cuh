/* SPDX-License-Identifier: Apache-2.0 */
/* linear.cuh - what the kernels for few rows share: who computes which outputs, activations on
 * their way in, sums on their way out. */
#ifndef SPC_CUDA_LINEAR_CUH
#define SPC_CUDA_LINEAR_CUH

#include "split.cuh"

enum {
    OUTS = 4,      /* outputs of a warp */
    ROWS_MOST = 16 /* rows of a launch */
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
    int32_t slices; /* warps of a block that share the columns of a group: 1, 2, 4 or 8 */
    int32_t pieces; /* blocks that do; of several each has one group */
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

/* Where a warp of a block works: on which group of which part, as which of how many slices. */
typedef struct {
    int part; /* parts: there is no such group */
    int32_t group, slice, slices;
} linear_place;

static __device__ __forceinline__ linear_place place_of(const linear_work &w, int warp)
{
    const int32_t block = (int32_t)blockIdx.x / w.pieces, piece = (int32_t)blockIdx.x % w.pieces;
    linear_place at = {0, block * (OPS_WARPS / w.slices) + warp / w.slices,
                       piece * w.slices + warp % w.slices, w.slices * w.pieces};
    int32_t before;

    at.part = part_of(w.a, &at.group, &before);
    return at;
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

/* Value i of the groups from `first` on to its place, with bias and cap. */
template <int ROWS>
static __device__ __forceinline__ void linear_put(const spc_linear_args &a, int32_t first, int i,
                                                  float out)
{
    const int row = i % (OUTS * ROWS) / OUTS;
    int32_t g = first + i / (OUTS * ROWS), at;
    const int part = part_of(a, &g, &at);

    g = g * OUTS + i % OUTS;
    if (part == a.parts || g >= a.part[part].rows || row >= a.rows) return;
    if (a.bias[part]) out += a.bias[part][g];
    if (a.cap > 0.0f) out = bounded(out, a.cap);
    a.out[(int64_t)(a.target ? a.target[row] : row) * a.width + at + g] = out;
}

/* Sums of a block's warps to their places: folded over lanes, over slices, over pieces.
 *
 * sum       [OUTS * ROWS] of this lane, rows outermost; lost
 * partial   [OPS_WARPS] of the block */
template <int ROWS>
static __device__ __forceinline__ void linear_finish(const linear_work &w, float *sum,
                                                     float (*partial)[OUTS * ROWS])
{
    enum { VALUES = OUTS * ROWS, POWER = VALUES & -VALUES };
    enum { FOLD = (int)POWER < OPS_LANES ? (int)POWER : (int)OPS_LANES }; /* sums are the same */
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    const int per_block = OPS_WARPS / w.slices;
    const int32_t block = (int32_t)blockIdx.x / w.pieces;

#pragma unroll
    for (int i = 0; i < VALUES; i += FOLD) {
        warp_fold<FOLD>(sum + i, lane);
        if (lane % (OPS_LANES / FOLD) == 0) {
            partial[warp][i + lane / (OPS_LANES / FOLD)] = sum[i];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < per_block * VALUES; i += OPS_THREADS) {
        const int first = i / VALUES * w.slices;
        float out = 0.0f;

        for (int s = 0; s < w.slices; s++) out += partial[first + s][i % VALUES];
        if (w.pieces > 1) {
            left_by(w.a, (int32_t)blockIdx.x, VALUES)[i] = out;
        } else {
            linear_put<ROWS>(w.a, block * per_block, i, out);
        }
    }
    if (w.pieces == 1 || !is_last_piece(w.a, block, w.pieces)) return;
    for (int i = threadIdx.x; i < VALUES; i += OPS_THREADS) {
        const float *left = left_by(w.a, block * w.pieces, VALUES);
        float out = 0.0f;

        for (int p = 0; p < w.pieces; p++) out += left[p * VALUES + i];
        linear_put<ROWS>(w.a, block, i, out);
    }
}

/* ---- launch ---------------------------------------------------------------------------------- */

/* launch(work, blocks) for one strip of rows after the other. */
template <typename Launch>
static cudaError_t in_strips(const spc_linear_args &a, spc_linear_kernel kernel, Launch launch)
{
    const spc_linear_way way = a.way.slices ? a.way : spc_cuda_linear_default(&a, kernel);
    const int32_t slices = way.slices < OPS_WARPS ? way.slices : OPS_WARPS;
    linear_work w = {a, slices, pieces_of(way)};
    const int32_t per_block = OPS_WARPS / slices;
    const int64_t blocks = (int64_t)(groups_of(a) + per_block - 1) / per_block * w.pieces;
    cudaError_t error = cudaSuccess;

    if (!can_go(a, way, kernel)) return cudaErrorInvalidValue;

    for (int32_t done = 0; done < a.rows && error == cudaSuccess; done += ROWS_MOST) {
        w.a.rows = a.rows - done < ROWS_MOST ? a.rows - done : ROWS_MOST;
        w.a.in = a.in + (int64_t)done * a.part[0].cols;
        if (a.target) w.a.target = a.target + done;
        if (!a.target) w.a.out = a.out + (int64_t)done * a.width;
        error = launch(w, blocks);
    }
    return error;
}

#endif
