/* SPDX-License-Identifier: Apache-2.0 */
/* cublasLt.h - the calls of cuBLASLt that the engine makes, as loops on the CPU.  Column-major, as
 * its documentation has it.
 *
 * Its algorithms differ as the library's may: number k adds up k + 1 shares of the columns, each in
 * double, and wants so many times 256 bytes of workspace; from number 2 on they take no other
 * numbers of columns than powers of two.  fiber_library (fiber_runtime.h) says what it has. */
#ifndef SPC_TESTS_FIBERS_CUBLASLT_H
#define SPC_TESTS_FIBERS_CUBLASLT_H

#include "rules/round.h"

#include <cuda_runtime_api.h>

typedef enum {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_NOT_SUPPORTED = 15
} cublasStatus_t;
typedef enum { CUBLAS_OP_N, CUBLAS_OP_T } cublasOperation_t;
typedef enum { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 } cudaDataType_t;
typedef enum { CUBLAS_COMPUTE_32F = 68 } cublasComputeType_t;
typedef enum { CUBLASLT_MATMUL_DESC_TRANSA = 3 } cublasLtMatmulDescAttributes_t;
typedef enum {
    CUBLASLT_MATRIX_LAYOUT_TYPE = 0,
    CUBLASLT_MATRIX_LAYOUT_ROWS = 2,
    CUBLASLT_MATRIX_LAYOUT_COLS = 3,
    CUBLASLT_MATRIX_LAYOUT_LD = 4
} cublasLtMatrixLayoutAttribute_t;
typedef enum {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5
} cublasLtMatmulPreferenceAttributes_t;

struct cublas_descriptor {
    uint64_t attribute[8];
};

typedef cublas_descriptor *cublasLtMatrixLayout_t, *cublasLtMatmulDesc_t;
typedef cublas_descriptor *cublasLtMatmulPreference_t, *cublasLtHandle_t;

typedef struct {
    uint64_t data[8]; /* a word that says what it is, the number, zeros */
} cublasLtMatmulAlgo_t;

typedef struct {
    cublasLtMatmulAlgo_t algo;
    size_t workspaceSize;
    cublasStatus_t state;
} cublasLtMatmulHeuristicResult_t;

static const uint64_t cublas_mark = 0x6d68746972676c61u;

static inline size_t cublasLtGetVersion(void)
{
    return (size_t)fiber_library.version;
}

static inline const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
}

/* ---- descriptors: made while nothing is recorded, counted as the device's memory is ---- */

template <typename T> static inline cublasStatus_t cublas_new(T *out)
{
    void *memory;

    if (fiber_library.stuck) return CUBLAS_STATUS_ALLOC_FAILED;
    if (cudaMalloc(&memory, sizeof **out) != cudaSuccess) return CUBLAS_STATUS_ALLOC_FAILED;
    memset(memory, 0, sizeof **out);
    *out = (T)memory;
    return CUBLAS_STATUS_SUCCESS;
}

static inline cublasStatus_t cublas_free(void *memory)
{
    (void)cudaFree(memory);
    return CUBLAS_STATUS_SUCCESS;
}

/* Numbers of 4 or 8 bytes, as each attribute has them. */
static inline cublasStatus_t cublas_set(uint64_t *attribute, const void *value, size_t bytes,
                                        size_t expected)
{
    if (bytes != expected) return CUBLAS_STATUS_INVALID_VALUE;
    *attribute = 0;
    memcpy(attribute, value, bytes); /* little-endian */
    return CUBLAS_STATUS_SUCCESS;
}

static inline cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    return cublas_new(out);
}

static inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return cublas_free(handle);
}

static inline cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out,
                                                      cublasComputeType_t, cudaDataType_t scale)
{
    return scale == CUDA_R_32F ? cublas_new(out) : CUBLAS_STATUS_INVALID_VALUE;
}

static inline cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return cublas_free(desc);
}

static inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                                            cublasLtMatmulDescAttributes_t which,
                                                            const void *value, size_t bytes)
{
    return cublas_set(&desc->attribute[which], value, bytes, 4);
}

static inline cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t,
                                                        uint64_t, uint64_t, int64_t)
{
    return cublas_new(out); /* what it begins as is always set anew */
}

static inline cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return cublas_free(layout);
}

static inline cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                              cublasLtMatrixLayoutAttribute_t which,
                                                              const void *value, size_t bytes)
{
    return cublas_set(&layout->attribute[which], value, bytes,
                      which == CUBLASLT_MATRIX_LAYOUT_TYPE ? 4 : 8);
}

static inline cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    return cublas_new(out);
}

static inline cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return cublas_free(preference);
}

static inline cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                     cublasLtMatmulPreferenceAttributes_t which, const void *value,
                                     size_t bytes)
{
    return cublas_set(&preference->attribute[which], value, bytes,
                      which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4);
}

/* ---- products ---- */

/* D = alpha A^T B, as far as it is needed. */
struct cublas_product {
    int64_t m, n, k, lda, ldb, ldd;
    cudaDataType_t type;
    int64_t shares;
    float alpha;
    const void *a, *b;
    float *d;
};

static inline float cublas_element(const void *data, cudaDataType_t type, int64_t i)
{
    spc_logits_type as = type == CUDA_R_32F    ? SPC_LOGITS_F32
                         : type == CUDA_R_16BF ? SPC_LOGITS_BF16
                                               : SPC_LOGITS_F16;

    return spc_logit({data, (int32_t)as}, i);
}

static inline void cublas_multiply(void *user)
{
    const cublas_product *p = (const cublas_product *)user;

    for (int64_t j = 0; j < p->n; j++) {
        for (int64_t i = 0; i < p->m; i++) {
            float all = 0;

            for (int64_t share = 0; share < p->shares; share++) {
                double sum = 0;

                for (int64_t l = p->k * share / p->shares; l < p->k * (share + 1) / p->shares;
                     l++) {
                    sum += (double)cublas_element(p->a, p->type, i * p->lda + l) *
                           (double)cublas_element(p->b, p->type, j * p->ldb + l);
                }
                all += (float)sum;
            }
            p->d[j * p->ldd + i] = p->alpha * all;
        }
        fiber_memory_written(p->d + j * p->ldd, (size_t)p->m * sizeof *p->d);
    }
}

static inline uint64_t cublas_of(const uint64_t *layout, cublasLtMatrixLayoutAttribute_t which)
{
    return layout[which];
}

/* What descriptors say, or nothing that can be multiplied. */
static inline bool cublas_read(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                               cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                               cublasLtMatrixLayout_t d, cublas_product *p)
{
    const uint64_t *of[] = {a->attribute, b->attribute, d->attribute};
    uint64_t stride[3], rows[3], columns[3];

    for (int i = 0; i < 3; i++) {
        rows[i] = cublas_of(of[i], CUBLASLT_MATRIX_LAYOUT_ROWS);
        columns[i] = cublas_of(of[i], CUBLASLT_MATRIX_LAYOUT_COLS);
        stride[i] = cublas_of(of[i], CUBLASLT_MATRIX_LAYOUT_LD);
        if (rows[i] < 1 || columns[i] < 1 || stride[i] < rows[i]) return false;
    }
    *p = {(int64_t)columns[0],
          (int64_t)columns[1],
          (int64_t)rows[0],
          (int64_t)stride[0],
          (int64_t)stride[1],
          (int64_t)stride[2],
          (cudaDataType_t)cublas_of(of[0], CUBLASLT_MATRIX_LAYOUT_TYPE),
          1,
          1.0f,
          nullptr,
          nullptr,
          nullptr};
    return desc->attribute[CUBLASLT_MATMUL_DESC_TRANSA] == CUBLAS_OP_T && c == d &&
           rows[0] == rows[1] && rows[2] == columns[0] && columns[2] == columns[1] &&
           cublas_of(of[1], CUBLASLT_MATRIX_LAYOUT_TYPE) == (uint64_t)p->type &&
           cublas_of(of[2], CUBLASLT_MATRIX_LAYOUT_TYPE) == CUDA_R_32F;
}

static inline cublasStatus_t
cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                        cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                        cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo,
                        cublasLtMatmulHeuristicResult_t *result)
{
    const uint64_t number = algo->data[1];
    cublas_product p;

    if (!cublas_read(desc, a, b, c, d, &p) || algo->data[0] != cublas_mark) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (number >= (uint64_t)fiber_library.algorithms || (number >= 2 && (p.n & (p.n - 1)) != 0)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    result->workspaceSize = 256 * (size_t)number;
    result->state = CUBLAS_STATUS_SUCCESS;
    return CUBLAS_STATUS_SUCCESS;
}

/* The first is number 1, which is not that of zeros. */
static inline cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                               cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                               cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                               cublasLtMatmulPreference_t preference, int wanted,
                               cublasLtMatmulHeuristicResult_t *found, int *count)
{
    const uint64_t most = preference->attribute[CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES];

    *count = 0;
    if (preference->attribute[CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] != 16) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    for (int i = 0; i < fiber_library.algorithms && *count < wanted; i++) {
        cublasLtMatmulHeuristicResult_t one = {};

        one.algo = {{cublas_mark, (uint64_t)(i + 1) % (uint64_t)fiber_library.algorithms}};
        if (cublasLtMatmulAlgoCheck(handle, desc, a, b, c, d, &one.algo, &one) ==
                CUBLAS_STATUS_SUCCESS &&
            one.workspaceSize <= most) {
            found[(*count)++] = one;
        }
    }
    return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* D = alpha op(A) op(B) + beta C, of which the engine needs beta 0; the workspace is the library's
 * meanwhile.  While a graph is recorded the stream must be the one that is. */
static inline cublasStatus_t
cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
               cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
               const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
               cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
               size_t bytes, cudaStream_t stream)
{
    cublasLtMatmulHeuristicResult_t needs;
    cublas_product p;
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle, desc, a_layout, b_layout, c_layout, d_layout, algo, &needs);

    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (!workspace || (uintptr_t)workspace % 256 != 0 || needs.workspaceSize > bytes || c != d ||
        *(const float *)beta != 0.0f) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    /* what its algorithms were asked for */
    if ((uintptr_t)a % 16 != 0 || (uintptr_t)b % 256 != 0 || (uintptr_t)d % 256 != 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (fiber_captures() && !fiber_captures_on(stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
    if (fiber_library.products++ == fiber_library.fails_at) return CUBLAS_STATUS_EXECUTION_FAILED;
    memset(workspace, 0xff, needs.workspaceSize);
    (void)cublas_read(desc, a_layout, b_layout, c_layout, d_layout, &p);
    p.shares = (int64_t)algo->data[1] + 1;
    p.alpha = *(const float *)alpha;
    fiber_library.columns = (int)p.n;
    p.a = a;
    p.b = b;
    p.d = (float *)d;
    if (!fiber_note_call(cublas_multiply, &p, sizeof p)) cublas_multiply(&p);
    return CUBLAS_STATUS_SUCCESS;
}

#endif
