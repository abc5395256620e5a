/* SPDX-License-Identifier: Apache-2.0 */
/* ops.cuh - what the kernels of the ops share: folds over a warp, elements of weights as float,
 * products on tensor cores.
 *
 * Products are fused into sums where fmaf says so, and nowhere else (--fmad=false). */
#ifndef SPC_CUDA_OPS_CUH
#define SPC_CUDA_OPS_CUH

#include "rules/portable.h"
#include "rules/round.h"

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "launch.h"
#include "ops.h"

enum { OPS_LANES = 32, OPS_THREADS = 256, OPS_WARPS = OPS_THREADS / OPS_LANES };

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int width = OPS_LANES / 2; width > 0; width /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, width);
    }
    return x;
}

/* NaN counts as nothing. */
static __device__ __forceinline__ float warp_max(float x)
{
    for (int width = OPS_LANES / 2; width > 0; width /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, x, width);

        x = other > x || x != x ? other : x;
    }
    return x;
}

/* Sum over a block of OPS_THREADS; every thread gets it.  shared: [OPS_WARPS] */
static __device__ __forceinline__ float ops_block_sum(float x, float *shared)
{
    float sum = 0.0f;

    x = warp_sum(x);
    if (threadIdx.x % OPS_LANES == 0) shared[threadIdx.x / OPS_LANES] = x;
    __syncthreads();
    for (int warp = 0; warp < OPS_WARPS; warp++) sum += shared[warp];
    __syncthreads(); /* shared may be written again */
    return sum;
}

/* x / (1 + e^-y), through e^-|y|, which cannot overflow. */
static __device__ __forceinline__ float times_sigmoid(float x, float y)
{
    float e = spc_exp2((y < 0.0f ? y : -y) * SPC_LOG2_E);

    return x * ((y < 0.0f ? e : 1.0f) / (1.0f + e));
}

/* cap tanh(x / cap) = cap (1 - e) / (1 + e) with e = exp(-2 |x| / cap), signed as x. */
static __device__ __forceinline__ float bounded(float x, float cap)
{
    float y = x / cap, e = spc_exp2((y < 0.0f ? y : -y) * 2.88539008f);
    float tanh = (1.0f - e) / (1.0f + e);

    return y == y ? cap * (y < 0.0f ? -tanh : tanh) : y; /* exp2 answers NaN with 0 */
}

/* The formulas of host/cpu_kernels_body.h. */
static __device__ __forceinline__ float gelu_tanh(float x)
{
    float square = x * x < 1e6f ? x * x : 1e6f; /* the sigmoid has long arrived: no overflow */

    return times_sigmoid(x, 1.59576912f * x * (1.0f + 0.044715f * square));
}

static __device__ __forceinline__ float glu_gate(spc_glu_kind kind, float gate)
{
    return kind == SPC_GLU_SILU ? times_sigmoid(gate, gate) : gelu_tanh(gate);
}

/* ---- weights ----------------------------------------------------------------------------------
 */

/* 16 bytes of weights: how many there are, and each as float. */
struct weights_f32 {
    enum { COUNT = 4 };

    static __device__ __forceinline__ void spread(uint4 raw, float *out)
    {
        out[0] = spc_bits_float(raw.x);
        out[1] = spc_bits_float(raw.y);
        out[2] = spc_bits_float(raw.z);
        out[3] = spc_bits_float(raw.w);
    }
};

struct weights_bf16 {
    enum { COUNT = 8 };

    static __device__ __forceinline__ void pair(uint32_t bits, float *out)
    {
        out[0] = spc_bits_float(bits << 16);
        out[1] = spc_bits_float(bits & 0xffff0000u);
    }

    static __device__ __forceinline__ void spread(uint4 raw, float *out)
    {
        pair(raw.x, out);
        pair(raw.y, out + 2);
        pair(raw.z, out + 4);
        pair(raw.w, out + 6);
    }
};

struct weights_f16 {
    enum { COUNT = 8 };

    static __device__ __forceinline__ float one(uint32_t bits)
    {
        return spc_half_float((uint16_t)bits);
    }

    static __device__ __forceinline__ void pair(uint32_t bits, float *out)
    {
        out[0] = one(bits & 0xffffu);
        out[1] = one(bits >> 16);
    }

    static __device__ __forceinline__ void spread(uint4 raw, float *out)
    {
        pair(raw.x, out);
        pair(raw.y, out + 2);
        pair(raw.z, out + 4);
        pair(raw.w, out + 6);
    }
};

/* COUNT values of in from column c on; 0 behind the row's end.
 *
 * WHOLE   cols are a multiple of COUNT, which nothing need ask */
template <int COUNT, bool WHOLE = false>
static __device__ __forceinline__ void load_columns(const float *in, int32_t c, int32_t cols,
                                                    float *out)
{
    if constexpr (!WHOLE) {
        if (cols % COUNT != 0) { /* rows need not be 16-byte aligned */
#pragma unroll
            for (int i = 0; i < COUNT; i++) out[i] = c + i < cols ? in[c + i] : 0.0f;
            return;
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        const float4 x = *(const float4 *)(in + c + i);

        out[i] = x.x;
        out[i + 1] = x.y;
        out[i + 2] = x.z;
        out[i + 3] = x.w;
    }
}

static inline bool is_matrix(const spc_cuda_matrix *m)
{
    return m->data && m->rows >= 1 && m->cols >= 1 && m->type >= SPC_WEIGHT_F32 &&
           m->type <= SPC_WEIGHT_F16 && m->stride == spc_cuda_stride(m->type, m->cols);
}

static inline bool is_quantised(spc_weight_type type)
{
    return type >= SPC_WEIGHT_Q8_0 && type < SPC_WEIGHT_COUNT;
}

static inline bool is_quant_matrix(const spc_cuda_matrix *m)
{
    if (!is_quantised(m->type) || m->rows < 1 || m->cols < 1) return false;
    if (m->type < SPC_WEIGHT_I8 && m->cols % 32 != 0) return false; /* whole blocks */

    const spc_cuda_planes row = spc_cuda_planes_of(m->type, m->cols);

    if (m->type >= SPC_WEIGHT_I8 && (m->scale_stride < 1 || m->scale_col % 8 != 0)) return false;
    return m->data && m->scale && (m->high || row.high == 0) && (m->step || row.step == 0) &&
           m->stride == spc_cuda_stride(m->type, m->cols);
}

static inline bool is_linear(const spc_linear_args *a,
                             bool (*is_kind)(const spc_cuda_matrix *m) = is_matrix)
{
    if (!a->in || !a->out || a->rows < 1 || a->parts < 1 || a->parts > SPC_LINEAR_PARTS)
        return false;
    for (int32_t p = 0; p < a->parts; p++) {
        if (!is_kind(&a->part[p]) || a->part[p].type != a->part[0].type ||
            a->part[p].cols != a->part[0].cols) {
            return false;
        }
    }
    return true;
}

/* ---- tensor cores -----------------------------------------------------------------------------
 *
 * A warp multiplies 16 x K numbers a by K x 8 numbers b and adds the products to c [16, 8].  Of
 * lane 4 g + t: c[0], c[1] are row g, columns 2 t and 2 t + 1; c[2], c[3] the same of row g + 8.
 * Products are exact; in which order they are added, and how sums are rounded, the hardware does
 * not say: always alike, and each column by itself.
 *
 * Volatile: compilers leave them behind the __syncwarp that brings all lanes together, though their
 * factors are there before it. */

/* K = 16, bf16 in pairs: a[0], a[2] of row g (k = 2 t and 8 + 2 t), a[1], a[3] of row g + 8; b[0],
 * b[1] of column g. */
static __device__ __forceinline__ void mma_16x8x16(float *c, const uint32_t *a, const uint32_t *b)
{
#ifdef __CUDA_ARCH__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
    fiber_mma(c, a, b, true);
#endif
}

/* K = 8, the upper 19 bits of floats: the same with k = t and 4 + t. */
static __device__ __forceinline__ void mma_16x8x8(float *c, const uint32_t *a, const uint32_t *b)
{
#ifdef __CUDA_ARCH__
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
    fiber_mma(c, a, b, false);
#endif
}

/* Two floats to the nearest bf16, first below second; NaN stays NaN. */
static __device__ __forceinline__ uint32_t bf16_pair(float first, float second)
{
#ifdef __CUDA_ARCH__
    uint32_t pair;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    return spc_float_bf16(first) | (uint32_t)spc_float_bf16(second) << 16;
#endif
}

/* To the nearest float whose lower 13 bits are 0 (ties away from 0); NaN stays NaN.  What the
 * conversion leaves in these bits is the implementation's affair, and products do not look at them,
 * but who subtracts the number does. */
static __device__ __forceinline__ uint32_t tf32_bits(float x)
{
    uint32_t bits = spc_float_bits(x);

#ifdef __CUDA_ARCH__
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits & 0xffffe000u; /* as ptxas does, too: it is one instruction for both */
#else
    return x != x ? 0x7fffe000u : (bits + 0x1000u) & 0xffffe000u;
#endif
}

/* ---- one kernel behind the other --------------------------------------------------------------
 *
 * Programmatic dependent launch (Hopper and later).  A kernel that is sent `early` may begin while
 * the one in front of it still runs: when all of that one's blocks have come to let_next_begin or
 * have ended.  Up to await_previous it may read weights, which nobody writes, and nothing else, and
 * write nothing.  Behind it everything in front has ended and can be seen.
 *
 * Every thread of every kernel of an op calls both, whether it has work or not: a kernel that ended
 * without waiting would let the one behind it read what is not there yet. */

static __device__ __forceinline__ void let_next_begin(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" :::);
#endif
}

static __device__ __forceinline__ void await_previous(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#elif !defined(__CUDACC__)
    fiber_await_previous();
#endif
}

/* For a kernel that has nothing to read before. */
static __device__ __forceinline__ void begin_behind_previous(void)
{
    let_next_begin();
    await_previous();
}

/* ---- launch -----------------------------------------------------------------------------------
 */

/* Blocks of a row, a thread for each of its elements.  (To find the row by a division of 64 bits in
 * every thread takes longer than what the thread is there for.) */
static __host__ __device__ __forceinline__ int32_t blocks_of_row(int32_t elements)
{
    return (elements + OPS_THREADS - 1) / OPS_THREADS;
}

template <typename Args> static cudaError_t load_op(void (*kernel)(Args))
{
    struct cudaFuncAttributes unused;

    return cudaFuncGetAttributes(&unused, (const void *)kernel);
}

/* One kernel of one argument struct; what becomes of this launch, whatever the thread's last error
 * is.  A C++ compiler finds fiber_launch in tests/fibers.
 *
 * early   it may begin before the kernel in front of it in the stream, which must be one of these,
 *         has ended */
template <typename Args>
static cudaError_t launch_op(void (*kernel)(Args), int64_t blocks, const Args &args,
                             cudaStream_t stream, bool early = false, int threads = OPS_THREADS)
{
    if (blocks < 1 || blocks > INT32_MAX) return cudaErrorInvalidValue;
    if (spc_cuda_only_loads()) return load_op(kernel);
#ifdef __CUDACC__
    void *arguments[] = {(void *)&args};
    cudaLaunchAttribute how = {};
    cudaLaunchConfig_t config = {};

    how.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3((unsigned)threads);
    config.stream = stream;
    config.attrs = &how;
    config.numAttrs = early ? 1 : 0;
    return cudaLaunchKernelExC(&config, (const void *)kernel, arguments);
#else
    fiber_on(stream);
    return fiber_launch(kernel, (int)blocks, threads, args, false, early);
#endif
}

/* Entries of a cache lie in a type that there are kernels for. */
static inline bool is_cache(const spc_cuda_pages *cache)
{
    return cache->key && cache->value && cache->table && cache->type >= SPC_WEIGHT_F32 &&
           cache->type <= SPC_WEIGHT_F16;
}

/* The page of a position. */
static __device__ __forceinline__ int32_t page_of(const spc_cuda_pages &cache, int32_t slot,
                                                  int32_t position)
{
    return cache.table[(int64_t)slot * cache.width + position / SPC_CUDA_PAGE_TOKENS];
}

/* Where the row of a position begins in its page of the cache, keys and values alike. */
static __device__ __forceinline__ int64_t row_in(const spc_cuda_pages &cache, int32_t page,
                                                 int32_t kv_head, int32_t position,
                                                 int32_t head_dim)
{
    return page * cache.stride +
           ((int64_t)kv_head * SPC_CUDA_PAGE_TOKENS + position % SPC_CUDA_PAGE_TOKENS) * head_dim;
}

static __device__ __forceinline__ int64_t page_row(const spc_cuda_pages &cache, int32_t slot,
                                                   int32_t kv_head, int32_t position,
                                                   int32_t head_dim)
{
    return row_in(cache, page_of(cache, slot, position), kv_head, position, head_dim);
}

#endif
