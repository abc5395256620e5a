/* SPDX-License-Identifier: Apache-2.0 */
/* linear_row.cu - up to 16 rows times matrices, bound by the weights' way through memory.
 *
 * A warp takes 4 outputs; its lanes stride along the columns, 16 bytes of weights each, and every
 * weight is used for all rows while it is in a register.  Where there are too few outputs to keep
 * the memory busy, several warps share the columns, of several blocks if need be (split.cuh).  How
 * many depends on the matrices alone, and
 * rows do not meet: a row's sums have the same order for any number of rows.
 *
 * The kernel of 1 row has 4 loads of 16 bytes per thread under way and, by its registers (56 to
 * 64), 4 blocks on a multiprocessor: 64 KB.  From 8 rows on it is bound by arithmetic:
 * linear_tile.cu takes weights of 16 bits instead, and this one those of 32.
 *
 * Products are float32 times the exact value of the weight, sums float32.  Shapes were chosen by
 * counting (design: 15 KB in flight per multiprocessor), not by timing: no GPU has run it. */
#include "ops.h"

#include "linear.cuh"

template <typename W, int ROWS>
static __global__ void __launch_bounds__(OPS_THREADS)
    linear_row_kernel(const __grid_constant__ linear_work w)
{
    enum { EARLY = ROWS <= 4 }; /* the first weights are on their way before the wait */
    static __shared__ float partial[OPS_WARPS][OUTS * ROWS];
    const spc_linear_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    const linear_place at = place_of(w, warp);
    float sum[OUTS * ROWS];

    let_next_begin();
#pragma unroll
    for (int i = 0; i < OUTS * ROWS; i++) sum[i] = 0.0f;
    if (at.part < a.parts) { /* the same in all lanes */
        const spc_cuda_matrix &m = a.part[at.part];
        const int32_t vectors = m.stride / W::COUNT;
        const int32_t first = at.slice * OPS_LANES + lane;
        const uint4 *weights[OUTS];
        uint4 raw[OUTS];

#pragma unroll
        for (int o = 0; o < OUTS; o++) {
            weights[o] = (const uint4 *)m.data + (int64_t)output_of(m, at.group, o) * vectors;
            if (EARLY && first < vectors) raw[o] = __ldcs(weights[o] + first);
        }
        await_previous();
        for (int32_t v = first; v < vectors; v += at.slices * OPS_LANES) {
            float weight[OUTS][W::COUNT];

#pragma unroll
            for (int o = 0; o < OUTS; o++) {
                if (!EARLY || v != first) raw[o] = __ldcs(weights[o] + v);
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const int row = r < a.rows ? r : a.rows - 1;
                float x[W::COUNT];

                load_columns<W::COUNT>(a.in + (int64_t)row * m.cols, v * W::COUNT, m.cols, x);
#pragma unroll
                for (int o = 0; o < OUTS; o++) {
                    if (r == 0) W::spread(raw[o], weight[o]); /* waits for them: loads go first */
#pragma unroll
                    for (int i = 0; i < W::COUNT; i++) {
                        sum[r * OUTS + o] = fmaf(weight[o][i], x[i], sum[r * OUTS + o]);
                    }
                }
            }
        }
    }
    await_previous(); /* of warps without work too */
    linear_finish<ROWS>(w, sum, partial);
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <typename W>
static cudaError_t launch_rows(const linear_work &w, int64_t blocks, cudaStream_t stream)
{
    if (w.a.rows == 1) return launch_op(linear_row_kernel<W, 1>, blocks, w, stream, w.a.early);
    if (w.a.rows == 2) return launch_op(linear_row_kernel<W, 2>, blocks, w, stream, w.a.early);
    if (w.a.rows <= 4) return launch_op(linear_row_kernel<W, 4>, blocks, w, stream, w.a.early);
    if (w.a.rows <= 8) return launch_op(linear_row_kernel<W, 8>, blocks, w, stream, w.a.early);
    return launch_op(linear_row_kernel<W, ROWS_MOST>, blocks, w, stream, w.a.early);
}

cudaError_t spc_cuda_linear_row(const spc_linear_args *a, cudaStream_t stream)
{
    if (!is_linear(a)) return cudaErrorInvalidValue;

    const spc_weight_type type = a->part[0].type;

    return in_strips(*a, SPC_KERNEL_ROW, [=](const linear_work &w, int64_t blocks) {
        switch (type) {
        case SPC_WEIGHT_BF16: return launch_rows<weights_bf16>(w, blocks, stream);
        case SPC_WEIGHT_F16: return launch_rows<weights_f16>(w, blocks, stream);
        default: return launch_rows<weights_f32>(w, blocks, stream);
        }
    });
}
