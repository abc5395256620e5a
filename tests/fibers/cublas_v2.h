/* SPDX-License-Identifier: Apache-2.0 */
/* cublas_v2.h - the calls of cuBLAS that the engine makes, as loops on the CPU.  Column-major, as
 * its documentation has it; sums in double, for lack of a defined order. */
#ifndef SPC_TESTS_FIBERS_CUBLAS_H
#define SPC_TESTS_FIBERS_CUBLAS_H

#include "rules/round.h"

#include <cuda_runtime_api.h>

typedef enum {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7
} cublasStatus_t;
typedef enum { CUBLAS_OP_N, CUBLAS_OP_T } cublasOperation_t;
typedef enum { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 } cudaDataType_t;
typedef enum { CUBLAS_COMPUTE_32F = 68 } cublasComputeType_t;
typedef enum { CUBLAS_GEMM_DEFAULT = -1 } cublasGemmAlgo_t;
typedef struct cublasContext *cublasHandle_t;

struct cublasContext {
    void *workspace;
};

static inline cublasStatus_t cublasCreate(cublasHandle_t *out)
{
    void *memory;

    if (cudaMalloc(&memory, sizeof **out) != cudaSuccess) return CUBLAS_STATUS_ALLOC_FAILED;
    *out = (cublasHandle_t)memory;
    return CUBLAS_STATUS_SUCCESS;
}

static inline cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    (void)cudaFree(handle);
    return CUBLAS_STATUS_SUCCESS;
}

static inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t)
{
    handle->workspace = nullptr;
    return CUBLAS_STATUS_SUCCESS;
}

static inline cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *memory, size_t bytes)
{
    memset(memory, 0xff, bytes); /* it is the library's now */
    handle->workspace = memory;
    return CUBLAS_STATUS_SUCCESS;
}

static inline float cublas_element(const void *data, cudaDataType_t type, int64_t i)
{
    spc_logits_type as = type == CUDA_R_32F    ? SPC_LOGITS_F32
                         : type == CUDA_R_16BF ? SPC_LOGITS_BF16
                                               : SPC_LOGITS_F16;

    return spc_logit({data, (int32_t)as}, i);
}

/* C = alpha op(A) op(B) + beta C, of which the engine needs op T for A, N for B, beta 0. */
static inline cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType_t a_type,
                                          int lda, const void *b, cudaDataType_t b_type, int ldb,
                                          const void *beta, void *c, cudaDataType_t c_type, int ldc,
                                          cublasComputeType_t, cublasGemmAlgo_t)
{
    if (!handle->workspace || op_a != CUBLAS_OP_T || op_b != CUBLAS_OP_N || lda < k || ldb < k ||
        ldc < m || a_type != b_type || c_type != CUDA_R_32F || *(const float *)beta != 0.0f) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < m; i++) {
            double sum = 0;

            for (int64_t l = 0; l < k; l++) {
                sum += (double)cublas_element(a, a_type, i * lda + l) *
                       (double)cublas_element(b, b_type, j * ldb + l);
            }
            ((float *)c)[j * ldc + i] = (float)(*(const float *)alpha * sum);
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}

#endif
