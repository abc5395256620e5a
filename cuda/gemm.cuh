/* SPDX-License-Identifier: Apache-2.0 */
/* gemm.cuh - cuBLASLt, as linear_gemm.cu asks it to multiply. */
#ifndef SPC_CUDA_GEMM_CUH
#define SPC_CUDA_GEMM_CUH

#include "ops.h"

/* The caller's memory, cut. */
typedef struct {
    char *library;  /* cuBLASLt's own */
    float *result;  /* of one product */
    float *scale;   /* [SPC_GEMM_ROWS] of rows */
    uint16_t *rows; /* high and low halves of a chunk's rows, or the rows as float */
    size_t result_bytes;
    int32_t most_rows; /* of a chunk */
} gemm_memory;

const gemm_memory *gemm_memory_of(spc_cuda_gemm g);

/* Floats between results of rows: aligned, which more kernels of cuBLASLt can write. */
static inline int32_t gemm_results(int32_t outs)
{
    return (outs + 3) / 4 * 4;
}

/* Columns of a product of so many rows: split ones have two each. */
static inline int32_t gemm_columns(spc_weight_type type, int32_t rows)
{
    return type == SPC_WEIGHT_F32 ? rows : 2 * rows;
}

/* result[c][o] = output o of the matrix times column c of in [columns, stride], which has the
 * matrix's type and stride; results are gemm_results apart. */
cudaError_t gemm_multiply(spc_cuda_gemm g, const spc_cuda_matrix *m, const void *in,
                          int32_t columns, float *result, const uint64_t algorithm[8],
                          cudaStream_t stream);

#endif
