/* SPDX-License-Identifier: Apache-2.0 */
/* gemm.cu - cuBLASLt: loaded, asked for algorithms, told to multiply.
 *
 * The library is loaded when somebody asks for it: it is half a gigabyte that no other call needs.
 * Descriptors are made once and say anew what each product is, so a product allocates nothing; its
 * algorithm is always given, so nothing is searched for while a round runs or is recorded. */
#include "gemm.cuh"
#include "launch.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes for cuBLASLt itself (its recommendation for Hopper), and for results: where the outputs of
 * one matrix take more for the rows of the smallest bucket, so many. */
enum { LIBRARY_BYTES = 32 << 20, RESULT_BYTES = 64 << 20, ALIGNMENT = 256 };

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(spc_gemm_product::algorithm), "its bytes");

#define CALLS(CALL)                    \
    CALL(Create)                       \
    CALL(Destroy)                      \
    CALL(GetVersion)                   \
    CALL(GetStatusName)                \
    CALL(MatmulDescCreate)             \
    CALL(MatmulDescDestroy)            \
    CALL(MatmulDescSetAttribute)       \
    CALL(MatrixLayoutCreate)           \
    CALL(MatrixLayoutDestroy)          \
    CALL(MatrixLayoutSetAttribute)     \
    CALL(MatmulPreferenceCreate)       \
    CALL(MatmulPreferenceDestroy)      \
    CALL(MatmulPreferenceSetAttribute) \
    CALL(MatmulAlgoGetHeuristic)       \
    CALL(MatmulAlgoCheck)              \
    CALL(Matmul)

#define CALL_FIELD(name) decltype(&cublasLt##name) name;

typedef struct {
    CALLS(CALL_FIELD)
} calls;

struct spc_cuda_gemm_state {
    calls lt;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weights, rows, results;
    cublasLtMatmulPreference_t wish;
    gemm_memory memory;
    char said[SPC_GEMM_SAID]; /* the last call that failed and its status; "": none */
};

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Bytes of results of so many rows, both halves. */
static size_t results_of(int32_t outs, int32_t rows)
{
    return 2 * sizeof(float) * (size_t)gemm_results(outs) * (size_t)rows;
}

static int32_t most_rows(const spc_gemm_most *most)
{
    return spc_gemm_rows(spc_gemm_bucket(most->rows));
}

static size_t result_bytes(const spc_gemm_most *most)
{
    const size_t least = results_of(most->outs, spc_gemm_rows(0));
    const size_t all = results_of(most->outs, most_rows(most));

    if (all <= RESULT_BYTES) return aligned(all);
    return aligned(least > RESULT_BYTES ? least : (size_t)RESULT_BYTES);
}

size_t spc_cuda_gemm_bytes(const spc_gemm_most *most)
{
    const size_t row = 2 * sizeof(uint16_t) * (size_t)spc_cuda_stride(SPC_WEIGHT_BF16, most->cols);

    return LIBRARY_BYTES + result_bytes(most) + aligned(SPC_GEMM_ROWS * sizeof(float)) +
           aligned(row * (size_t)most_rows(most));
}

static gemm_memory memory_of(void *memory, const spc_gemm_most *most)
{
    gemm_memory m;

    m.result_bytes = result_bytes(most);
    m.most_rows = most_rows(most);
    m.library = (char *)memory;
    m.result = (float *)(m.library + LIBRARY_BYTES);
    m.scale = (float *)((char *)m.result + m.result_bytes);
    m.rows = (uint16_t *)((char *)m.scale + aligned(SPC_GEMM_ROWS * sizeof(float)));
    return m;
}

const gemm_memory *gemm_memory_of(spc_cuda_gemm g)
{
    return &g->memory;
}

int32_t spc_cuda_gemm_rows(spc_cuda_gemm g, const spc_linear_args *a, int32_t bucket)
{
    int32_t outs = 1;

    for (int32_t p = 0; p < a->parts; p++) {
        if (a->part[p].rows > outs) outs = a->part[p].rows;
    }
    while (bucket > 0 && (spc_gemm_rows(bucket) > g->memory.most_rows ||
                          results_of(outs, spc_gemm_rows(bucket)) > g->memory.result_bytes)) {
        bucket--;
    }
    return spc_gemm_rows(bucket);
}

/* ---- open ------------------------------------------------------------------------------------ */

/* What became of a call. */
static cudaError_t told(spc_cuda_gemm g, const char *call, cublasStatus_t status)
{
    if (status == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
    (void)snprintf(g->said, sizeof g->said, "cublasLt%s: %s", call, g->lt.GetStatusName(status));
    return status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaErrorUnknown;
}

#define TELL(g, call, ...) told(g, #call, (g)->lt.call(__VA_ARGS__))

const char *spc_cuda_gemm_said(spc_cuda_gemm g)
{
    return g ? g->said : "";
}

int32_t spc_cuda_gemm_version(spc_cuda_gemm g)
{
    return (int32_t)g->lt.GetVersion();
}

#ifdef __CUDACC__
#define TEXT_OF(x)         #x
#define NAME_WITH(version) "libcublasLt.so." TEXT_OF(version)
#define CALL_FIND(name)    all = find(library, "cublasLt" #name, &g->lt.name) && all;

template <typename Function> static bool find(void *library, const char *name, Function *out)
{
    *out = (Function)dlsym(library, name);
    return *out != nullptr;
}

/* It stays, for it does not unload well. */
static cudaError_t load(spc_cuda_gemm g)
{
    void *library = dlopen(NAME_WITH(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    bool all = true;

    if (!library) {
        (void)snprintf(g->said, sizeof g->said, "%s cannot be loaded", NAME_WITH(CUBLAS_VER_MAJOR));
        return cudaErrorUnknown;
    }
    CALLS(CALL_FIND)
    if (all) return cudaSuccess;
    (void)snprintf(g->said, sizeof g->said, "%s lacks a call", NAME_WITH(CUBLAS_VER_MAJOR));
    return cudaErrorUnknown;
}
#else /* tests/fibers */
#define CALL_TAKE(name) g->lt.name = cublasLt##name;

static cudaError_t load(spc_cuda_gemm g)
{
    CALLS(CALL_TAKE)
    return cudaSuccess;
}
#endif

static cudaError_t wish(spc_cuda_gemm g)
{
    const uint64_t bytes = LIBRARY_BYTES;
    const uint32_t alignment = 16; /* of matrices; the others have its default of 256 */
    cudaError_t error = TELL(g, MatmulPreferenceCreate, &g->wish);

    if (error == cudaSuccess) {
        error = TELL(g, MatmulPreferenceSetAttribute, g->wish,
                     CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    }
    if (error != cudaSuccess) return error;
    return TELL(g, MatmulPreferenceSetAttribute, g->wish,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment);
}

static cudaError_t prepare(spc_cuda_gemm g)
{
    const cublasOperation_t turned = CUBLAS_OP_T;
    cudaError_t error = load(g);

    if (error == cudaSuccess) error = TELL(g, Create, &g->handle);
    if (error == cudaSuccess) {
        error = TELL(g, MatmulDescCreate, &g->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    }
    if (error == cudaSuccess) {
        error = TELL(g, MatmulDescSetAttribute, g->product, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                     sizeof turned);
    }
    if (error == cudaSuccess) {
        error = TELL(g, MatrixLayoutCreate, &g->weights, CUDA_R_32F, 1, 1, 1);
    }
    if (error == cudaSuccess) error = TELL(g, MatrixLayoutCreate, &g->rows, CUDA_R_32F, 1, 1, 1);
    if (error == cudaSuccess) error = TELL(g, MatrixLayoutCreate, &g->results, CUDA_R_32F, 1, 1, 1);
    return error == cudaSuccess ? wish(g) : error;
}

cudaError_t spc_cuda_gemm_open(const spc_gemm_most *most, void *memory, spc_cuda_gemm *out,
                               char said[SPC_GEMM_SAID])
{
    spc_cuda_gemm g = (spc_cuda_gemm)calloc(1, sizeof *g);
    cudaError_t error;

    *out = nullptr;
    said[0] = '\0';
    if (!g) return cudaErrorMemoryAllocation;
    error = prepare(g);
    if (error != cudaSuccess) {
        (void)snprintf(said, SPC_GEMM_SAID, "%s", g->said);
        spc_cuda_gemm_close(g);
        return error;
    }
    g->memory = memory_of(memory, most);
    *out = g;
    return cudaSuccess;
}

void spc_cuda_gemm_close(spc_cuda_gemm g)
{
    if (!g) return;
    if (g->wish) (void)g->lt.MatmulPreferenceDestroy(g->wish);
    if (g->results) (void)g->lt.MatrixLayoutDestroy(g->results);
    if (g->rows) (void)g->lt.MatrixLayoutDestroy(g->rows);
    if (g->weights) (void)g->lt.MatrixLayoutDestroy(g->weights);
    if (g->product) (void)g->lt.MatmulDescDestroy(g->product);
    if (g->handle) (void)g->lt.Destroy(g->handle);
    free(g);
}

/* ---- products -------------------------------------------------------------------------------- */

static cudaDataType_t type_of(spc_weight_type type)
{
    if (type == SPC_WEIGHT_F32) return CUDA_R_32F;
    return type == SPC_WEIGHT_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static cudaError_t lay_out(spc_cuda_gemm g, cublasLtMatrixLayout_t layout, cudaDataType_t type,
                           int32_t rows, int32_t columns, int32_t stride)
{
    const struct {
        cublasLtMatrixLayoutAttribute_t attribute;
        uint64_t value;
    } wide[] = {{CUBLASLT_MATRIX_LAYOUT_ROWS, (uint64_t)rows},
                {CUBLASLT_MATRIX_LAYOUT_COLS, (uint64_t)columns},
                {CUBLASLT_MATRIX_LAYOUT_LD, (uint64_t)stride}};
    const uint32_t as = (uint32_t)type;
    cudaError_t error =
        TELL(g, MatrixLayoutSetAttribute, layout, CUBLASLT_MATRIX_LAYOUT_TYPE, &as, sizeof as);

    for (size_t i = 0; i < sizeof wide / sizeof *wide && error == cudaSuccess; i++) {
        error = TELL(g, MatrixLayoutSetAttribute, layout, wide[i].attribute, &wide[i].value,
                     sizeof wide[i].value);
    }
    return error;
}

/* The layouts become those of products of this matrix: results = matrix^T rows, column-major. */
static cudaError_t describe(spc_cuda_gemm g, const spc_cuda_matrix *m, int32_t columns)
{
    const cudaDataType_t type = type_of(m->type);
    cudaError_t error;

    g->said[0] = '\0';
    error = lay_out(g, g->weights, type, m->stride, m->rows, m->stride);
    if (error == cudaSuccess) error = lay_out(g, g->rows, type, m->stride, columns, m->stride);
    if (error != cudaSuccess) return error;
    return lay_out(g, g->results, CUDA_R_32F, m->rows, columns, gemm_results(m->rows));
}

static bool has_columns(spc_cuda_gemm g, const spc_cuda_matrix *m, int32_t rows,
                        const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t found;

    if (describe(g, m, gemm_columns(m->type, rows)) != cudaSuccess) return false;
    return g->lt.MatmulAlgoCheck(g->handle, g->product, g->weights, g->rows, g->results, g->results,
                                 algorithm, &found) == CUBLAS_STATUS_SUCCESS &&
           found.workspaceSize <= LIBRARY_BYTES;
}

bool spc_cuda_gemm_can(spc_cuda_gemm g, const spc_linear_args *a, int32_t part, int32_t bucket,
                       spc_gemm_product *product)
{
    const spc_cuda_matrix *m = &a->part[part];
    const int32_t most = spc_cuda_gemm_rows(g, a, bucket);
    cublasLtMatmulAlgo_t algorithm;

    memcpy(&algorithm, product->algorithm, sizeof algorithm);
    if (!has_columns(g, m, most, &algorithm)) return false;
    product->takes = 0;
    for (int32_t i = 0; (i + 1) * SPC_GEMM_STEP <= most; i++) {
        if (has_columns(g, m, (i + 1) * SPC_GEMM_STEP, &algorithm)) product->takes |= 1u << i;
    }
    return true;
}

cudaError_t spc_cuda_gemm_suggest(spc_cuda_gemm g, const spc_linear_args *a, int32_t part,
                                  int32_t bucket, spc_gemm_product choice[SPC_GEMM_CHOICES],
                                  int32_t *count)
{
    const spc_cuda_matrix *m = &a->part[part];
    const int32_t columns = gemm_columns(m->type, spc_cuda_gemm_rows(g, a, bucket));
    /* algorithms are compared as bytes, and of some it may leave what it does not need */
    cublasLtMatmulHeuristicResult_t found[SPC_GEMM_CHOICES] = {};
    cudaError_t error = describe(g, m, columns);
    cublasStatus_t status;
    int there = 0;

    *count = 0;
    if (error != cudaSuccess) return error;
    status = g->lt.MatmulAlgoGetHeuristic(g->handle, g->product, g->weights, g->rows, g->results,
                                          g->results, g->wish, SPC_GEMM_CHOICES, found, &there);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return cudaSuccess;
    error = told(g, "MatmulAlgoGetHeuristic", status);
    for (int i = 0; i < there && error == cudaSuccess; i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
        memcpy(choice[*count].algorithm, &found[i].algo, sizeof found[i].algo);
        if (spc_cuda_gemm_can(g, a, part, bucket, &choice[*count])) ++*count;
    }
    return error;
}

cudaError_t spc_cuda_gemm_warm(spc_cuda_gemm g, const spc_linear_args *a, int32_t bucket,
                               const spc_gemm_product *product, cudaStream_t stream)
{
    const int32_t rows = spc_cuda_gemm_rows(g, a, bucket);
    cudaError_t error = cudaSuccess;

    for (int32_t p = 0; p < a->parts && error == cudaSuccess; p++) {
        const spc_cuda_matrix *m = &a->part[p];

        error = gemm_multiply(g, m, g->memory.rows, gemm_columns(m->type, rows), g->memory.result,
                              product[p].algorithm, stream);
    }
    return error;
}

cudaError_t gemm_multiply(spc_cuda_gemm g, const spc_cuda_matrix *m, const void *in,
                          int32_t columns, float *result, const uint64_t algorithm[8],
                          cudaStream_t stream)
{
    const float one = 1.0f, zero = 0.0f;
    cublasLtMatmulAlgo_t by;
    cudaError_t error = describe(g, m, columns);

    if (error != cudaSuccess || spc_cuda_only_loads()) return error; /* see spc_cuda_gemm_warm */
    memcpy(&by, algorithm, sizeof by);
    return TELL(g, Matmul, g->handle, g->product, &one, m->data, g->weights, in, g->rows, &zero,
                result, g->results, result, g->results, &by, g->memory.library, LIBRARY_BYTES,
                stream);
}
