/* SPDX-License-Identifier: Apache-2.0 */
/* linear_row.cu - up to 16 rows times matrices, bound by the weights' way through memory.
 *
 * A warp takes 4 outputs; its lanes stride along the columns, 16 bytes of weights each, and every
 * weight is used for all rows while it is in a register.  Where there are too few outputs to keep
 * the memory busy, several warps share the columns.  How many depends on the matrices alone, and
 * rows do not meet: a row's sums have the same order for any number of rows.
 *
 * The kernel of 1 row has 4 loads of 16 bytes per thread under way and, by its registers (52 to
 * 79), 3 or 4 blocks on a multiprocessor: 48 to 64 KB.  From 8 rows on it is bound by arithmetic:
 * linear_tile.cu takes weights of 16 bits instead, and this one those of 32.
 *
 * Products are float32 times the exact value of the weight, sums float32.  Shapes were chosen by
 * counting (design: 15 KB in flight per multiprocessor), not by timing: no GPU has run it. */
#include "ops.h"

#include "ops.cuh"

enum {
    OUTS = 4,           /* outputs of a warp */
    ROWS_MOST = 16,     /* rows of a launch */
    WARPS_WANTED = 2112 /* 16 on each multiprocessor of an H100 */
};

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

template <typename W, int ROWS>
static __global__ void __launch_bounds__(OPS_THREADS)
    linear_row_kernel(const __grid_constant__ linear_work w)
{
    enum { VALUES = OUTS * ROWS, FOLD = VALUES < OPS_LANES ? VALUES : OPS_LANES };
    static __shared__ float partial[OPS_WARPS][VALUES];
    const spc_linear_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    const int slice = warp % w.slices, per_block = OPS_WARPS / w.slices;
    int32_t group = (int32_t)blockIdx.x * per_block + warp / w.slices;
    float sum[VALUES];
    int part = 0;

#pragma unroll
    for (int i = 0; i < VALUES; i++) sum[i] = 0.0f;
    for (; part < a.parts; part++) {
        const int32_t groups = (a.part[part].rows + OUTS - 1) / OUTS;

        if (group < groups) break;
        group -= groups;
    }
    if (part < a.parts) { /* the same in all lanes */
        const spc_cuda_matrix &m = a.part[part];
        const int32_t vectors = m.stride / W::COUNT;
        const uint4 *weights[OUTS];

#pragma unroll
        for (int o = 0; o < OUTS; o++) { /* outputs behind the last repeat it, and are dropped */
            const int32_t out = group * OUTS + o < m.rows ? group * OUTS + o : m.rows - 1;

            weights[o] = (const uint4 *)m.data + (int64_t)out * vectors;
        }
        for (int32_t v = slice * OPS_LANES + lane; v < vectors; v += w.slices * OPS_LANES) {
            uint4 raw[OUTS];
            float weight[OUTS][W::COUNT];

#pragma unroll
            for (int o = 0; o < OUTS; o++) raw[o] = __ldcs(weights[o] + v);
#pragma unroll
            for (int o = 0; o < OUTS; o++) W::spread(raw[o], weight[o]);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const int row = r < a.rows ? r : a.rows - 1;
                float x[W::COUNT];

                load_columns<W::COUNT>(a.in + (int64_t)row * m.cols, v * W::COUNT, m.cols, x);
#pragma unroll
                for (int o = 0; o < OUTS; o++) {
#pragma unroll
                    for (int i = 0; i < W::COUNT; i++) {
                        sum[r * OUTS + o] = fmaf(weight[o][i], x[i], sum[r * OUTS + o]);
                    }
                }
            }
        }
    }
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
        int32_t g = (int32_t)blockIdx.x * per_block + i / VALUES, at = 0;
        float out = 0.0f;

        for (int s = 0; s < w.slices; s++) out += partial[first + s][i % VALUES];
        for (part = 0; part < a.parts; part++) {
            const int32_t groups = (a.part[part].rows + OUTS - 1) / OUTS;

            if (g < groups) break;
            g -= groups;
            at += a.part[part].rows;
        }
        g = g * OUTS + i % OUTS;
        if (part == a.parts || g >= a.part[part].rows || row >= a.rows) continue;
        if (a.bias[part]) out += a.bias[part][g];
        if (a.cap > 0.0f) out = bounded(out, a.cap);
        a.out[(int64_t)(a.target ? a.target[row] : row) * a.width + at + g] = out;
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <typename W> static cudaError_t launch_rows(const linear_work &w, cudaStream_t stream)
{
    const int32_t groups = groups_of(w.a), per_block = OPS_WARPS / w.slices;
    const int64_t blocks = (groups + per_block - 1) / per_block;

    if (w.a.rows == 1) return launch_op(linear_row_kernel<W, 1>, blocks, w, stream);
    if (w.a.rows == 2) return launch_op(linear_row_kernel<W, 2>, blocks, w, stream);
    if (w.a.rows <= 4) return launch_op(linear_row_kernel<W, 4>, blocks, w, stream);
    if (w.a.rows <= 8) return launch_op(linear_row_kernel<W, 8>, blocks, w, stream);
    return launch_op(linear_row_kernel<W, ROWS_MOST>, blocks, w, stream);
}

cudaError_t spc_cuda_linear_row(const spc_linear_args *a, cudaStream_t stream)
{
    linear_work w = {*a, 1};

    if (!is_linear(a)) return cudaErrorInvalidValue;

    const int32_t groups = groups_of(*a);
    const int32_t vectors = a->part[0].stride / (a->part[0].type == SPC_WEIGHT_F32 ? 4 : 8);

    while (w.slices < OPS_WARPS && groups * w.slices < WARPS_WANTED &&
           vectors >= 2 * OPS_LANES * w.slices) {
        w.slices *= 2;
    }
    for (int32_t done = 0; done < a->rows; done += ROWS_MOST) {
        cudaError_t error;

        w.a.rows = a->rows - done < ROWS_MOST ? a->rows - done : ROWS_MOST;
        w.a.in = a->in + (int64_t)done * a->part[0].cols;
        if (a->target) w.a.target = a->target + done;
        if (!a->target) w.a.out = a->out + (int64_t)done * a->width;
        switch (a->part[0].type) {
        case SPC_WEIGHT_BF16: error = launch_rows<weights_bf16>(w, stream); break;
        case SPC_WEIGHT_F16: error = launch_rows<weights_f16>(w, stream); break;
        default: error = launch_rows<weights_f32>(w, stream); break;
        }
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
