/* SPDX-License-Identifier: Apache-2.0 */
/* cublas_v2.h - the calls of cuBLAS that the engine makes, as loops on the CPU.  Column-major, as
 * its documentation has it; sums in double, for lack of a defined order.  Products go to the
 * handle's stream: while a graph is recorded that must be the one that is. */
#ifndef SPC_TESTS_FIBERS_CUBLAS_H
#define SPC_TESTS_FIBERS_CUBLAS_H

#include "rules/round.h"

#include <cuda_runtime_api.h>

typedef enum {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_EXECUTION_FAILED = 13
} cublasStatus_t;
typedef enum { CUBLAS_OP_N, CUBLAS_OP_T } cublasOperation_t;
typedef enum { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 } cudaDataType_t;
typedef enum { CUBLAS_COMPUTE_32F = 68 } cublasComputeType_t;
typedef enum { CUBLAS_GEMM_DEFAULT = -1 } cublasGemmAlgo_t;
typedef struct cublasContext *cublasHandle_t;

struct cublasContext {
    void *workspace;
    cudaStream_t stream;
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

static inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
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

/* C = alpha A B, as far as it is needed. */
struct cublas_product {
    int m, n, k, lda, ldb, ldc;
    float alpha;
    const void *a, *b;
    cudaDataType_t type;
    float *c;
};

static inline void cublas_multiply(void *user)
{
    const cublas_product *p = (const cublas_product *)user;

    for (int64_t j = 0; j < p->n; j++) {
        for (int64_t i = 0; i < p->m; i++) {
            double sum = 0;

            for (int64_t l = 0; l < p->k; l++) {
                sum += (double)cublas_element(p->a, p->type, i * p->lda + l) *
                       (double)cublas_element(p->b, p->type, j * p->ldb + l);
            }
            p->c[j * p->ldc + i] = (float)(p->alpha * sum);
        }
    }
}

/* C = alpha op(A) op(B) + beta C, of which the engine needs op T for A, N for B, beta 0. */
static inline cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType_t a_type,
                                          int lda, const void *b, cudaDataType_t b_type, int ldb,
                                          const void *beta, void *c, cudaDataType_t c_type, int ldc,
                                          cublasComputeType_t, cublasGemmAlgo_t)
{
    cublas_product p = {m, n, k, lda, ldb, ldc, *(const float *)alpha, a, b, a_type, (float *)c};

    if (!handle->workspace || op_a != CUBLAS_OP_T || op_b != CUBLAS_OP_N || lda < k || ldb < k ||
        ldc < m || a_type != b_type || c_type != CUDA_R_32F || *(const float *)beta != 0.0f) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (fiber_captures() && !fiber_captures_on(handle->stream)) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    if (!fiber_note_call(cublas_multiply, &p, sizeof p)) cublas_multiply(&p);
    return CUBLAS_STATUS_SUCCESS;
}

#endif
