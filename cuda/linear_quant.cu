/* SPDX-License-Identifier: Apache-2.0 */
/* linear_quant.cu - up to 16 rows times quantised matrices.
 *
 * As linear_row.cu, with other loads: a lane takes 32 columns at once, 8 from each of 4 blocks, and
 * makes floats of one output's 8 weights at a time (quant.cuh), which all rows use.  At one row of
 * 4-bit weights that is about as much arithmetic as the memory leaves time for, and each further
 * row adds more than an instruction a weight.  A float32 scale beside 8-bit weights multiplies sums
 * of 8 products, not weights.  All types go by linear_tile_quant.cu unless told otherwise or cut
 * within a block, so there are few kernels here.  No GPU has run it. */
#include "ops.h"

#include "linear.cuh"
#include "quant.cuh"

/* Bytes of each row in the planes of one type. */
spc_cuda_planes spc_cuda_planes_of(spc_weight_type type, int32_t cols)
{
    const int32_t blocks = spc_cuda_stride(type, cols), groups = quant_units(blocks) / QUANT_LANES;
    spc_cuda_planes row = {blocks * 16, 0, 0, 0};

    switch (type) {
    case SPC_WEIGHT_IQ4_NL:
    case SPC_WEIGHT_Q4_0: row.scale = groups * 8; break;
    case SPC_WEIGHT_Q4_1: row.scale = groups * 16; break;
    case SPC_WEIGHT_Q2_K:
        row.data = blocks * 8;
        row.scale = groups * 8;
        row.step = blocks / 2;
        break;
    case SPC_WEIGHT_Q3_K:
        row.data = blocks * 8;
        row.high = groups * 16;
        row.scale = groups * 6;
        row.step = blocks / 4;
        break;
    case SPC_WEIGHT_IQ4_XS: row.scale = blocks; break;
    case SPC_WEIGHT_Q4_K: row.scale = blocks * 2; break;
    case SPC_WEIGHT_Q5_0:
    case SPC_WEIGHT_Q5_1:
        row.high = groups * 16;
        row.scale = type == SPC_WEIGHT_Q5_0 ? groups * 8 : groups * 16;
        break;
    case SPC_WEIGHT_Q5_K:
        row.high = groups * 16;
        row.scale = blocks * 2;
        break;
    case SPC_WEIGHT_Q6_K:
        row.high = groups * 32;
        row.scale = groups * 8;
        row.step = blocks / 4;
        break;
    default: row.data = blocks * 32; row.scale = type == SPC_WEIGHT_Q8_0 ? groups * 8 : 0;
    }
    return row;
}

/* A unit of every output of a group.  Nothing waits for any of it before all is asked for. */
template <typename Q>
static __device__ __forceinline__ void
load_units(Q *quant, const spc_cuda_matrix &m, const quant_row *place, int32_t group, int32_t unit)
{
    if (is_whole(unit, m.stride)) {
#pragma unroll
        for (int o = 0; o < OUTS; o++) {
            quant[o].load(m, place[o], output_of(m, group, o), unit, true);
        }
    } else {
#pragma unroll
        for (int o = 0; o < OUTS; o++) {
            quant[o].load(m, place[o], output_of(m, group, o), unit, false);
        }
    }
}

/* Blocks on a multiprocessor, as many as there are registers for without much spilling. */
static __host__ __device__ constexpr int quant_blocks_at_once(int rows)
{
    return rows == 1 ? 3 : rows <= 4 ? 2 : 1;
}

/* ALIGNED   rows are a multiple of 8 columns, which can be loaded at once */
template <typename Q, int ROWS, bool ALIGNED>
static __global__ void __launch_bounds__(OPS_THREADS, quant_blocks_at_once(ROWS))
    linear_quant_kernel(const __grid_constant__ linear_work w)
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
        const int32_t units = quant_units(m.stride), first = at.slice * OPS_LANES + lane;
        quant_row place[OUTS];
        Q quant[OUTS];

#pragma unroll
        for (int o = 0; o < OUTS; o++) place[o] = quant_row_of(m, output_of(m, at.group, o));
        if (EARLY && first < units) load_units(quant, m, place, at.group, first);
        await_previous();
        for (int32_t u = first; u < units; u += at.slices * OPS_LANES) {
            if (!EARLY || u != first) load_units(quant, m, place, at.group, u);
#pragma unroll
            for (int o = 0; o < OUTS; o++) quant[o].ready(u);
#pragma unroll
            for (int b = 0; b < QUANT_BLOCKS; b++) {
                const int32_t column = quant_column_of<Q::SPLIT>(u, b);
                float weight[OUTS][QUANT_RUN], factor[OUTS];

                if (column >= m.cols) break;
#pragma unroll
                for (int o = 0; o < OUTS; o++) {
                    factor[o] = quant[o].factor(b);
                    if (ROWS > 1) quant[o].near(b, weight[o]);
                }
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const int row = r < a.rows ? r : a.rows - 1;
                    float x[QUANT_RUN];

                    quant_load_columns<Q::SPLIT, ALIGNED>(a.in + (int64_t)row * m.cols, column,
                                                          m.cols, x);
#pragma unroll
                    for (int o = 0; o < OUTS; o++) {
                        float *to = &sum[r * OUTS + o];

                        if (ROWS == 1) quant[o].near(b, weight[o]); /* behind the loads */
                        if (Q::APART) {
                            float part = weight[o][0] * x[0];

#pragma unroll
                            for (int i = 1; i < QUANT_RUN; i++) {
                                part = fmaf(weight[o][i], x[i], part);
                            }
                            *to = fmaf(factor[o], part, *to);
                        } else {
#pragma unroll
                            for (int i = 0; i < QUANT_RUN; i++) {
                                *to = fmaf(weight[o][i], x[i], *to);
                            }
                        }
                    }
                }
            }
        }
    }
    await_previous(); /* of warps without work too */
    linear_finish<ROWS>(w, sum, partial);
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <typename Q>
static cudaError_t launch_quant(const linear_work &w, int64_t blocks, cudaStream_t stream)
{
    const int32_t rows = w.a.rows;

    if constexpr (!Q::WHOLE) { /* rare: two kernels for all numbers of rows */
        if (w.a.part[0].cols % QUANT_RUN != 0) {
            if (rows <= 4)
                return launch_op(linear_quant_kernel<Q, 4, false>, blocks, w, stream, w.a.early);
            return launch_op(linear_quant_kernel<Q, ROWS_MOST, false>, blocks, w, stream,
                             w.a.early);
        }
    }
    if (rows == 1) return launch_op(linear_quant_kernel<Q, 1, true>, blocks, w, stream, w.a.early);
    if (rows == 2) return launch_op(linear_quant_kernel<Q, 2, true>, blocks, w, stream, w.a.early);
    if (rows <= 4) return launch_op(linear_quant_kernel<Q, 4, true>, blocks, w, stream, w.a.early);
    return launch_op(linear_quant_kernel<Q, ROWS_MOST, true>, blocks, w, stream, w.a.early);
}

cudaError_t spc_cuda_linear_quant(const spc_linear_args *a, cudaStream_t stream)
{
    if (!is_linear(a, is_quant_matrix)) return cudaErrorInvalidValue;
    return with_quant(a->part[0].type, [=](auto q) {
        return in_strips(*a, SPC_KERNEL_QUANT, [=](const linear_work &w, int64_t blocks) {
            return launch_quant<decltype(q)>(w, blocks, stream);
        });
    });
}
