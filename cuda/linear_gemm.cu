/* SPDX-License-Identifier: Apache-2.0 */
/* linear_gemm.cu - many rows times matrices by cuBLAS: weights are read once for all rows.
 *
 * Tensor cores multiply numbers of 16 bits.  Activations would lose what the CPU keeps, so each is
 * split in two: x = high + low, 16 to 22 bits together, rows of low behind the rows of high in one
 * product, and their results are added.  Rows are scaled by a power of two so that halves neither
 * overflow nor sink (exact, and undone behind).  float32 weights need none of that.
 *
 * The library is loaded when somebody asks for it: it is half a gigabyte that no other call needs.
 *
 * Which sums cuBLAS takes in which order depends on the number of rows: a row's last bits depend on
 * its company.  linear_row.cu keeps them. */
#include "ops.h"

#include <cublas_v2.h>
#include <dlfcn.h>
#include <stdlib.h>

#include "ops.cuh"

enum { GEMM_ROWS = 64 }; /* of a product; the split doubles them */

/* Bytes for cuBLAS itself (its recommendation for Hopper), for split rows, and for results. */
enum { LIBRARY_BYTES = 32 << 20, RESULT_BYTES = 32 << 20 };

/* ---- splitting ------------------------------------------------------------------------------- */

typedef struct {
    const float *in; /* [rows, cols] */
    uint16_t *out;   /* [2 rows, stride] high, then low */
    float *scale;    /* [rows] of the results */
    int32_t rows, cols, stride, type;
} split_args;

/* To the nearest 16 bits; no NaN, no infinity. */
static __device__ __forceinline__ uint32_t narrow(float x, int32_t type)
{
    uint32_t bits = spc_float_bits(x), sign = bits >> 16 & 0x8000u, half;

    if (type == SPC_WEIGHT_BF16) return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    bits &= 0x7fffffffu;
    if (bits < 0x38800000u) { /* subnormal: so many 2^-24; adding 2^23 rounds */
        half = spc_float_bits(spc_bits_float(bits) * 16777216.0f + 8388608.0f) - 0x4b000000u;
    } else {
        half = (bits + 0xfffu + (bits >> 13 & 1) - 0x38000000u) >> 13;
    }
    return sign | half;
}

static __device__ __forceinline__ float widen(uint32_t bits, int32_t type)
{
    if (type == SPC_WEIGHT_BF16) return spc_bits_float(bits << 16);
    return weights_f16::one(bits);
}

/* One block per row.  A row with NaN, infinity or what is next to it gets a scale of NaN. */
static __global__ void __launch_bounds__(OPS_THREADS)
    split_kernel(const __grid_constant__ split_args a)
{
    static __shared__ float shared[OPS_WARPS];
    const float *in = a.in + (int64_t)blockIdx.x * a.cols;
    uint16_t *high = a.out + (int64_t)blockIdx.x * a.stride;
    uint16_t *low = high + (int64_t)a.rows * a.stride;
    float largest = 0.0f, broken = 0.0f;

    for (int i = threadIdx.x; i < a.cols; i += OPS_THREADS) {
        float size = fabsf(in[i]);

        if (!(size < 8.5e37f)) broken = 1.0f; /* 2^126 */
        largest = size > largest ? size : largest;
    }
    broken = ops_block_sum(broken, shared);
    largest = warp_max(largest);
    if (threadIdx.x % OPS_LANES == 0) shared[threadIdx.x / OPS_LANES] = largest;
    __syncthreads();
    for (int warp = 0; warp < OPS_WARPS; warp++) {
        largest = shared[warp] > largest ? shared[warp] : largest;
    }

    /* the power of two at or below the largest; rows of 0 and of subnormals keep theirs */
    const uint32_t exponent = spc_float_bits(largest) & 0x7f800000u;
    const bool plain = exponent < 0x01000000u || broken > 0.0f;
    const float scale = plain ? 1.0f : spc_bits_float(exponent);
    const float inverse = plain ? 1.0f : spc_bits_float(0x7f000000u - exponent);

    for (int i = threadIdx.x; i < a.stride; i += OPS_THREADS) {
        const float x = i < a.cols && broken == 0.0f ? in[i] * inverse : 0.0f;
        const uint32_t bits = narrow(x, a.type);

        high[i] = (uint16_t)bits;
        low[i] = (uint16_t)narrow(x - widen(bits, a.type), a.type);
    }
    if (threadIdx.x == 0) a.scale[blockIdx.x] = broken > 0.0f ? NAN : scale;
}

/* ---- results --------------------------------------------------------------------------------- */

typedef struct {
    const float *in;       /* [rows or 2 rows, outs] */
    const float *scale;    /* [rows], or NULL: in is [rows, outs], not split */
    const float *bias;     /* [outs], or NULL */
    float *out;            /* [any, width] */
    const int32_t *target; /* [rows], or NULL */
    float cap;
    int32_t rows, outs, width;
} finish_args;

static __global__ void __launch_bounds__(OPS_THREADS)
    finish_kernel(const __grid_constant__ finish_args a)
{
    const int32_t blocks = blocks_of_row(a.outs), row = (int32_t)blockIdx.x / blocks;
    const int32_t out = (int32_t)blockIdx.x % blocks * OPS_THREADS + (int32_t)threadIdx.x;
    const int64_t i = (int64_t)row * a.outs + out;

    if (out >= a.outs) return;

    float x = a.in[i];

    if (a.scale) x = (x + a.in[i + (int64_t)a.rows * a.outs]) * a.scale[row];
    if (a.bias) x += a.bias[out];
    if (a.cap > 0.0f) x = bounded(x, a.cap);
    a.out[(int64_t)(a.target ? a.target[row] : row) * a.width + out] = x;
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* The caller's memory, cut. */
typedef struct {
    char *library;
    float *result, *scale;
    uint16_t *split;
} gemm_scratch;

size_t spc_cuda_gemm_bytes(int32_t cols)
{
    return (size_t)LIBRARY_BYTES + RESULT_BYTES + GEMM_ROWS * sizeof(float) +
           2 * GEMM_ROWS * sizeof(uint16_t) * (size_t)spc_cuda_stride(SPC_WEIGHT_BF16, cols);
}

static gemm_scratch scratch_of(void *memory)
{
    gemm_scratch s;

    s.library = (char *)memory;
    s.result = (float *)(s.library + LIBRARY_BYTES);
    s.scale = s.result + RESULT_BYTES / sizeof(float);
    s.split = (uint16_t *)(s.scale + GEMM_ROWS);
    return s;
}

static cudaError_t error_of(cublasStatus_t status)
{
    if (status == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
    return status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaErrorUnknown;
}

struct spc_cuda_gemm_state {
    cublasHandle_t handle;
    cudaStream_t stream; /* that the handle works on, with the workspace */
    void *library;       /* of dlopen; it stays, for it does not unload well */
    decltype(&cublasCreate) create;
    decltype(&cublasDestroy) destroy;
    decltype(&cublasSetStream) set_stream;
    decltype(&cublasSetWorkspace) set_workspace;
    cublasStatus_t (*multiply)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                               const void *, const void *, cudaDataType_t, int, const void *,
                               cudaDataType_t, int, const void *, void *, cudaDataType_t, int,
                               cublasComputeType_t, cublasGemmAlgo_t);
};

#ifdef __CUDACC__
#define TEXT_OF(x)         #x
#define NAME_WITH(version) "libcublas.so." TEXT_OF(version)

template <typename Function> static bool find(void *library, const char *name, Function *out)
{
    *out = (Function)dlsym(library, name);
    return *out != nullptr;
}

static cudaError_t load(spc_cuda_gemm g)
{
    g->library = dlopen(NAME_WITH(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (!g->library) return cudaErrorSharedObjectInitFailed;
    return find(g->library, "cublasCreate_v2", &g->create) &&
                   find(g->library, "cublasDestroy_v2", &g->destroy) &&
                   find(g->library, "cublasSetStream_v2", &g->set_stream) &&
                   find(g->library, "cublasSetWorkspace_v2", &g->set_workspace) &&
                   find(g->library, "cublasGemmEx", &g->multiply)
               ? cudaSuccess
               : cudaErrorSharedObjectSymbolNotFound;
}
#else /* tests/fibers */
static cudaError_t load(spc_cuda_gemm g)
{
    g->create = cublasCreate;
    g->destroy = cublasDestroy;
    g->set_stream = cublasSetStream;
    g->set_workspace = cublasSetWorkspace;
    g->multiply = cublasGemmEx;
    return cudaSuccess;
}
#endif

/* Let the handle work on the stream, with the workspace. */
static cudaError_t work_on(spc_cuda_gemm g, void *memory, cudaStream_t stream)
{
    cudaError_t error =
        error_of(g->set_stream(g->handle, stream)); /* resets the workspace: first */

    if (error != cudaSuccess) return error;
    g->stream = stream;
    return error_of(g->set_workspace(g->handle, scratch_of(memory).library, LIBRARY_BYTES));
}

static cudaError_t prepare(spc_cuda_gemm g, void *memory, cudaStream_t stream)
{
    cudaError_t error = load(g);

    if (error != cudaSuccess) return error;
    error = error_of(g->create(&g->handle));
    if (error != cudaSuccess) {
        g->handle = nullptr;
        return error;
    }
    return work_on(g, memory, stream);
}

cudaError_t spc_cuda_gemm_open(void *memory, cudaStream_t stream, spc_cuda_gemm *out)
{
    cudaError_t error;

    *out = (spc_cuda_gemm)calloc(1, sizeof **out);
    if (!*out) return cudaErrorMemoryAllocation;
    error = prepare(*out, memory, stream);
    if (error == cudaSuccess) return cudaSuccess;
    spc_cuda_gemm_close(*out);
    *out = nullptr;
    return error;
}

void spc_cuda_gemm_close(spc_cuda_gemm g)
{
    if (!g) return;
    if (g->handle) (void)g->destroy(g->handle);
    free(g);
}

/* result[r][o] = output first + o of the matrix times row r, for `outs` outputs. */
static cudaError_t multiply(spc_cuda_gemm gemm, const spc_cuda_matrix *m, int32_t first,
                            int32_t outs, const void *in, int32_t rows, float *result)
{
    const float one = 1.0f, zero = 0.0f;
    const bool wide = m->type == SPC_WEIGHT_F32;
    const cudaDataType_t type = wide                         ? CUDA_R_32F
                                : m->type == SPC_WEIGHT_BF16 ? CUDA_R_16BF
                                                             : CUDA_R_16F;
    const char *weights = (const char *)m->data + (int64_t)first * m->stride * (wide ? 4 : 2);
    const int32_t stride = wide ? m->cols : m->stride; /* of in; split rows are padded by zeros */

    return error_of(gemm->multiply(gemm->handle, CUBLAS_OP_T, CUBLAS_OP_N, outs, rows, stride, &one,
                                   weights, type, m->stride, in, type, stride, &zero, result,
                                   CUDA_R_32F, outs, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

/* Up to GEMM_ROWS rows times part p, whose results begin at output `at`; as many outputs at once as
 * the results have room for. */
static cudaError_t part_gemm(spc_cuda_gemm gemm, const spc_linear_args *a, int32_t p, int32_t at,
                             const gemm_scratch *s, cudaStream_t stream)
{
    const spc_cuda_matrix *m = &a->part[p];
    const bool split = m->type != SPC_WEIGHT_F32;
    const int32_t rows = split ? 2 * a->rows : a->rows;
    const int32_t most = RESULT_BYTES / (int32_t)sizeof(float) / rows;
    cudaError_t error = cudaSuccess;

    for (int32_t o = 0; o < m->rows && error == cudaSuccess; o += most) {
        const int32_t outs = m->rows - o < most ? m->rows - o : most;
        const finish_args f = {s->result,
                               split ? s->scale : nullptr,
                               a->bias[p] ? a->bias[p] + o : nullptr,
                               a->out + at + o,
                               a->target,
                               a->cap,
                               a->rows,
                               outs,
                               a->width};

        error = multiply(gemm, m, o, outs, split ? (const void *)s->split : a->in, rows, s->result);
        if (error != cudaSuccess) return error;
        error = launch_op(finish_kernel, (int64_t)a->rows * blocks_of_row(outs), f, stream);
    }
    return error;
}

cudaError_t spc_cuda_linear_gemm(spc_cuda_gemm gemm, void *memory, const spc_linear_args *all,
                                 cudaStream_t stream)
{
    const gemm_scratch s = scratch_of(memory);
    const spc_cuda_matrix *m = &all->part[0];
    cudaError_t error = cudaSuccess;

    if (!gemm || !is_linear(all)) return cudaErrorInvalidValue;
    if (stream != gemm->stream) error = work_on(gemm, memory, stream);
    for (int32_t done = 0; done < all->rows && error == cudaSuccess; done += GEMM_ROWS) {
        spc_linear_args a = *all;
        int32_t at = 0;

        a.rows = all->rows - done < GEMM_ROWS ? all->rows - done : GEMM_ROWS;
        a.in = all->in + (int64_t)done * m->cols;
        if (all->target) a.target = all->target + done;
        if (!all->target) a.out = all->out + (int64_t)done * all->width;
        if (m->type != SPC_WEIGHT_F32) {
            const split_args split = {a.in,    s.split,   s.scale,         a.rows,
                                      m->cols, m->stride, (int32_t)m->type};

            error = launch_op(split_kernel, a.rows, split, stream);
        }
        for (int32_t p = 0; p < a.parts && error == cudaSuccess; at += a.part[p++].rows) {
            error = part_gemm(gemm, &a, p, at, &s, stream);
        }
    }
    return error;
}
