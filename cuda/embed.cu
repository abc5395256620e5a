/* SPDX-License-Identifier: Apache-2.0 */
/* embed.cu - rows of a table by token; rows of activations by index.  Bound by latency: a few rows
 * of some kilobytes. */
#include "ops.h"

#include "quant.cuh"

int32_t spc_cuda_stride(spc_weight_type type, int32_t cols)
{
    const int32_t vector = type == SPC_WEIGHT_F32 ? 4 : 8;

    if (is_quantised(type)) return (cols + QUANT_BLOCK - 1) / QUANT_BLOCK;
    return (cols + vector - 1) / vector * vector;
}

/* One block per row. */
template <typename W>
static __global__ void __launch_bounds__(OPS_THREADS)
    embed_kernel(const __grid_constant__ spc_embed_args a)
{
    begin_behind_previous();

    const int64_t row = a.token[blockIdx.x] - a.first;
    const bool here = row >= 0 && row < a.table.rows;
    const uint4 *table = (const uint4 *)a.table.data + row * (a.table.stride / W::COUNT);
    float *out = a.out + (int64_t)blockIdx.x * a.table.cols;

    for (int v = threadIdx.x; v < a.table.stride / W::COUNT; v += OPS_THREADS) {
        float part[W::COUNT] = {};

        if (here) W::spread(table[v], part);
        for (int i = 0; i < W::COUNT && v * W::COUNT + i < a.table.cols; i++) {
            out[v * W::COUNT + i] = part[i] * a.scale;
        }
    }
}

/* The same of quantised tables: a thread takes 32 columns. */
template <typename Q>
static __global__ void __launch_bounds__(OPS_THREADS)
    embed_quant_kernel(const __grid_constant__ spc_embed_args a)
{
    begin_behind_previous();

    const int64_t row = a.token[blockIdx.x] - a.first;
    const bool here = row >= 0 && row < a.table.rows;
    float *out = a.out + (int64_t)blockIdx.x * a.table.cols;

    for (int u = threadIdx.x; u < quant_units(a.table.stride); u += OPS_THREADS) {
        Q quant = {}; /* compilers do not see that it is loaded where it is read */

        if (here) {
            quant.load(a.table, quant_row_of(a.table, (int32_t)row), (int32_t)row, u,
                       is_whole(u, a.table.stride));
            quant.ready(u);
        }
#pragma unroll
        for (int b = 0; b < QUANT_BLOCKS; b++) {
            const int32_t column = quant_column_of<Q::SPLIT>(u, b);
            float part[QUANT_RUN] = {};

            if (here) quant.spread(b, part);
            for (int i = 0; i < QUANT_RUN; i++) {
                const int32_t c = column + i + (Q::SPLIT && i >= 4 ? QUANT_BLOCK / 2 - 4 : 0);

                if (c < a.table.cols) out[c] = part[i] * a.scale;
            }
        }
    }
}

/* A thread per element. */
static __global__ void __launch_bounds__(OPS_THREADS)
    gather_kernel(const __grid_constant__ spc_gather_args a)
{
    const int32_t blocks = blocks_of_row(a.dim), block = (int32_t)blockIdx.x;
    const int32_t i = block % blocks * OPS_THREADS + (int32_t)threadIdx.x, row = block / blocks;

    begin_behind_previous();
    if (i < a.dim) {
        a.out[(int64_t)row * a.dim + i] = a.in[(int64_t)a.row[row] * a.dim + i] * a.scale;
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* Without rows all of the table is elsewhere, and nothing of it is read. */
static bool is_table(const spc_cuda_matrix *m)
{
    if (m->rows != 0) return is_matrix(m) || is_quant_matrix(m);
    return m->type >= SPC_WEIGHT_F32 && m->type < SPC_WEIGHT_COUNT && m->cols >= 1 &&
           m->stride == spc_cuda_stride(m->type, m->cols);
}

cudaError_t spc_cuda_embed(const spc_embed_args *a, cudaStream_t stream)
{
    if (!a->token || !a->out || !is_table(&a->table)) return cudaErrorInvalidValue;
    if (is_quantised(a->table.type)) {
        return with_quant(a->table.type, [=](auto q) {
            return launch_op(embed_quant_kernel<decltype(q)>, a->rows, *a, stream);
        });
    }
    switch (a->table.type) {
    case SPC_WEIGHT_BF16: return launch_op(embed_kernel<weights_bf16>, a->rows, *a, stream);
    case SPC_WEIGHT_F16: return launch_op(embed_kernel<weights_f16>, a->rows, *a, stream);
    default: return launch_op(embed_kernel<weights_f32>, a->rows, *a, stream);
    }
}

cudaError_t spc_cuda_gather(const spc_gather_args *a, cudaStream_t stream)
{
    if (!a->in || !a->row || !a->out || a->dim < 1) return cudaErrorInvalidValue;
    return launch_op(gather_kernel, (int64_t)a->rows * blocks_of_row(a->dim), *a, stream, a->early);
}

cudaError_t spc_cuda_has_code(bool *early)
{
    cudaFuncAttributes has;
    const cudaError_t code = cudaFuncGetAttributes(&has, (const void *)gather_kernel);

    *early = code == cudaSuccess && has.ptxVersion >= 90; /* see await_previous */
    return code;
}
