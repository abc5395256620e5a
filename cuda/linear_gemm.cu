/* SPDX-License-Identifier: Apache-2.0 */
/* linear_gemm.cu - many rows times matrices by cuBLASLt (gemm.cu): weights are read once for all
 * rows of a product, up to SPC_GEMM_ROWS.
 *
 * Tensor cores multiply numbers of 16 bits.  Activations would lose what the CPU keeps, so each is
 * split in two: x = high + low, 16 to 22 bits together, rows of low behind the rows of high in one
 * product, and their results are added.  Rows are scaled by a power of two so that halves neither
 * overflow nor sink (exact, and undone behind: so the product itself cannot begin with a residual
 * sum).  float32 weights need none of that.
 *
 * Rows are filled up to a number for which the algorithm was checked at load; what lies in those
 * behind the last is multiplied and not read.
 *
 * Which sums cuBLASLt takes in which order depends on the algorithm, and that on the number of
 * rows: a row's last bits depend on its company.  linear_row.cu keeps them. */
#include "gemm.cuh"
#include "loads.cuh"
#include "ops.cuh"

/* ---- splitting ------------------------------------------------------------------------------- */

typedef struct {
    const float *in; /* [launched, cols] */
    uint16_t *out;   /* [2 rows, stride] high, then low */
    float *scale;    /* [launched] of the results */
    int32_t rows;    /* of the product */
    int32_t cols, stride, type;
} split_args;

enum { SPLIT_ONCE = 8 }; /* values of a thread that are loaded together */

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

    for (int32_t i = (int32_t)threadIdx.x; i < a.stride; i += SPLIT_ONCE * OPS_THREADS) {
        float x[SPLIT_ONCE];

        load_apart<SPLIT_ONCE>(in, i, a.cols, x);
#pragma unroll
        for (int k = 0; k < SPLIT_ONCE; k++) {
            const int32_t c = i + k * OPS_THREADS;
            const float of_scale = broken == 0.0f ? x[k] * inverse : 0.0f;
            const uint32_t bits = narrow(of_scale, a.type);

            if (c >= a.stride) break;
            high[c] = (uint16_t)bits;
            low[c] = (uint16_t)narrow(of_scale - widen(bits, a.type), a.type);
        }
    }
    if (threadIdx.x == 0) a.scale[blockIdx.x] = broken > 0.0f ? NAN : scale;
}

/* float32 rows with zeros behind them, as matrices have. */
static __global__ void __launch_bounds__(OPS_THREADS)
    pad_kernel(const __grid_constant__ split_args a)
{
    const float *in = a.in + (int64_t)blockIdx.x * a.cols;
    float *out = (float *)a.out + (int64_t)blockIdx.x * a.stride;

    for (int32_t i = (int32_t)threadIdx.x; i < a.stride; i += SPLIT_ONCE * OPS_THREADS) {
        float x[SPLIT_ONCE];

        load_apart<SPLIT_ONCE>(in, i, a.cols, x);
#pragma unroll
        for (int k = 0; k < SPLIT_ONCE; k++) {
            if (i + k * OPS_THREADS < a.stride) out[i + k * OPS_THREADS] = x[k];
        }
    }
}

/* ---- results --------------------------------------------------------------------------------- */

typedef struct {
    const float *in;       /* [rows or 2 rows, stride] */
    const float *scale;    /* [rows], or NULL: in has one result for each, not split */
    const float *bias;     /* [outs], or NULL */
    float *out;            /* [any, width] */
    const int32_t *target; /* [rows], or NULL */
    float cap;
    int32_t rows;   /* of the product */
    int32_t stride; /* gemm_results */
    int32_t outs, width;
} finish_args;

static __global__ void __launch_bounds__(OPS_THREADS)
    finish_kernel(const __grid_constant__ finish_args a)
{
    const int32_t blocks = blocks_of_row(a.outs), row = (int32_t)blockIdx.x / blocks;
    const int32_t out = (int32_t)blockIdx.x % blocks * OPS_THREADS + (int32_t)threadIdx.x;
    const int64_t i = (int64_t)row * a.stride + out;

    if (out >= a.outs) return;

    float x = a.in[i];

    if (a.scale) x = (x + a.in[i + (int64_t)a.rows * a.stride]) * a.scale[row];
    if (a.bias) x += a.bias[out];
    if (a.cap > 0.0f) x = bounded(x, a.cap);
    a.out[(int64_t)(a.target ? a.target[row] : row) * a.width + out] = x;
}

/* ---- launcher -------------------------------------------------------------------------------- */

/* Rows for which `product` is launched to have so many. */
static int32_t filled(const spc_gemm_product *product, int32_t rows, int32_t most)
{
    const int32_t step = (rows + SPC_GEMM_STEP - 1) / SPC_GEMM_STEP;

    return product->takes >> (step - 1) & 1 ? step * SPC_GEMM_STEP : most;
}

/* The rows of a chunk, as products of `rows` rows want them. */
static cudaError_t split(const spc_linear_args *a, int32_t rows, const gemm_memory *memory,
                         cudaStream_t stream)
{
    const spc_cuda_matrix *m = &a->part[0];
    const split_args s = {a->in,   memory->rows, memory->scale,   rows,
                          m->cols, m->stride,    (int32_t)m->type};

    if (m->type == SPC_WEIGHT_F32) return launch_op(pad_kernel, a->rows, s, stream);
    return launch_op(split_kernel, a->rows, s, stream);
}

/* A chunk times part p, by products of `rows` rows; its results begin at output `at`. */
static cudaError_t part_gemm(spc_cuda_gemm gemm, const spc_linear_args *a, int32_t p, int32_t at,
                             const spc_gemm_product *product, int32_t rows, cudaStream_t stream)
{
    const gemm_memory *memory = gemm_memory_of(gemm);
    const spc_cuda_matrix *m = &a->part[p];
    const finish_args f = {memory->result, m->type == SPC_WEIGHT_F32 ? nullptr : memory->scale,
                           a->bias[p],     a->out + at,
                           a->target,      a->cap,
                           rows,           gemm_results(m->rows),
                           m->rows,        a->width};
    cudaError_t error = gemm_multiply(gemm, m, memory->rows, gemm_columns(m->type, rows),
                                      memory->result, product->algorithm, stream);

    if (error != cudaSuccess) return error;
    return launch_op(finish_kernel, (int64_t)a->rows * blocks_of_row(m->rows), f, stream);
}

/* Rows that one product has room for; those of the last go as few rows do. */
static cudaError_t chunk_gemm(spc_cuda_gemm gemm, const spc_linear_args *a,
                              const spc_gemm_product product[SPC_LINEAR_PARTS], int32_t most,
                              cudaStream_t stream)
{
    int32_t rows = 0, at = 0;
    cudaError_t error = cudaSuccess;

    for (int32_t p = 0; p < a->parts && error == cudaSuccess; at += a->part[p++].rows) {
        const int32_t wanted = filled(&product[p], a->rows, most);

        if (wanted != rows) error = split(a, wanted, gemm_memory_of(gemm), stream);
        rows = wanted;
        if (error == cudaSuccess) error = part_gemm(gemm, a, p, at, &product[p], rows, stream);
    }
    return error;
}

cudaError_t spc_cuda_linear_gemm(spc_cuda_gemm gemm, const spc_linear_args *all,
                                 const spc_gemm_plan *plan, cudaStream_t stream)
{
    const int32_t bucket = spc_gemm_bucket(all->rows);
    cudaError_t error = cudaSuccess;

    if (!gemm || !is_linear(all)) return cudaErrorInvalidValue;

    const int32_t most = spc_cuda_gemm_rows(gemm, all, bucket);

    for (int32_t done = 0; done < all->rows && error == cudaSuccess; done += most) {
        const int32_t left = all->rows - done, by = left < most ? spc_gemm_bucket(left) : bucket;
        spc_linear_args a = *all;

        a.rows = left < most ? left : most;
        a.in = all->in + (int64_t)done * all->part[0].cols;
        if (all->target) a.target = all->target + done;
        if (!all->target) a.out = all->out + (int64_t)done * all->width;
        error = chunk_gemm(gemm, &a, plan->part[by], spc_cuda_gemm_rows(gemm, all, by), stream);
    }
    return error;
}
