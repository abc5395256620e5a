/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_kernels_body.h - the kernels over 16 lanes, included by one file per vector unit.
 *
 * The including file defines:
 *   lanes                        16 floats
 *   lanes_zero()                 all 0
 *   lanes_set(x)                 all x
 *   lanes_load(const float *)    16 floats
 *   lanes_f16, lanes_bf16        the same from 16 halves (const uint16_t *)
 *   lanes_f8(dtype, const uint8_t *)  the same from 16 8-bit floats, of E4M3 over SPC_E4M3_UNIT
 *   lanes_i8(const int8_t *)     the same from 16 signed bytes
 *   lanes_store(float *, lanes)
 *   lanes_fma(a, b, c)           a b + c
 *   lanes_sum(lanes)             fold by halving
 *   lanes_sum4(out, a, b, c, d)  four of them at once, to out[0 .. 4): the same additions
 *   BLOCK_OUT, BLOCK_ROWS        tile whose accumulators fit the registers
 *   ATTEND_TILE                  queries (1, 2 or 4) whose sums fit the registers
 * and the name UNIT. */

#include "rules/portable.h"
#include "weights/quant.h"

#include <math.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* The last, incomplete 16 entries: zeros behind them add nothing. */
ALWAYS_INLINE lanes tail_f32(const float *x, int32_t count)
{
    float part[16] = {0};

    memcpy(part, x, (size_t)count * sizeof *x);
    return lanes_load(part);
}

ALWAYS_INLINE lanes weights_at(const void *data, spc_dtype dtype, int64_t i)
{
    switch (dtype) {
    case SPC_DTYPE_BF16: return lanes_bf16((const uint16_t *)data + i);
    case SPC_DTYPE_F16: return lanes_f16((const uint16_t *)data + i);
    case SPC_DTYPE_F8_E4M3:
    case SPC_DTYPE_F8_E5M2: return lanes_f8(dtype, (const uint8_t *)data + i);
    case SPC_DTYPE_I8: return lanes_i8((const int8_t *)data + i);
    default: return lanes_load((const float *)data + i);
    }
}

ALWAYS_INLINE lanes weights_tail(const void *data, spc_dtype dtype, int64_t i, int32_t count)
{
    uint16_t part[16] = {0};
    uint8_t bytes[16] = {0};

    if (spc_dtype_is_scaled(dtype)) {
        memcpy(bytes, (const uint8_t *)data + i, (size_t)count);
        return weights_at(bytes, dtype, 0);
    }
    if (dtype == SPC_DTYPE_F32) return tail_f32((const float *)data + i, count);
    memcpy(part, (const uint16_t *)data + i, (size_t)count * sizeof *part);
    return weights_at(part, dtype, 0);
}

ALWAYS_INLINE int32_t bytes_of(spc_dtype dtype)
{
    return dtype == SPC_DTYPE_F32 ? 4 : spc_dtype_is_scaled(dtype) ? 1 : 2;
}

/* The factors of rows first .. first + outs - 1 in one block of columns. */
ALWAYS_INLINE void factors_at(const spc_matrix *m, spc_dtype dtype, int64_t first, int32_t outs,
                              int32_t block, lanes *factor)
{
    const spc_scale *s = &m->scale;

#pragma GCC unroll 16
    for (int32_t o = 0; o < outs; o++) {
        float value = s->value[(first + o + s->row) / s->rows * s->stride + block];

        factor[o] = lanes_set(dtype == SPC_DTYPE_F8_E4M3 ? value * SPC_E4M3_UNIT : value);
    }
}

/* Weights of row first + o; 8-bit ones as they are after scaling. */
ALWAYS_INLINE lanes scaled(spc_dtype dtype, lanes weights, const lanes *factor)
{
    return spc_dtype_is_scaled(dtype) ? lanes_fma(weights, *factor, lanes_zero()) : weights;
}

/* Ask for the weights that the tile after the next will read.  A tile's rows are short streams that
 * a hardware prefetcher leaves again before it has warmed up; with several rows of input the
 * arithmetic hides nothing of that.  (bench_decode, 6 rows: 0.53 ms without, 0.42 ms with.) */
ALWAYS_INLINE void prefetch(const char *weights, int32_t bytes)
{
#pragma GCC unroll 16
    for (int32_t at = 0; at < bytes; at += 64) __builtin_prefetch(weights + at);
}

/* A tile of outs x rows accumulators; both are constants where this is inlined. */
ALWAYS_INLINE void tile(const spc_matrix *m, spc_dtype dtype, int64_t first, int32_t outs,
                        const float *in, int32_t rows, float *const *out, int32_t at)
{
    const void *data = m->data;
    const int32_t cols = m->cols;
    lanes sum[BLOCK_WIDE][BLOCK_ROWS], factor[BLOCK_WIDE];
    int32_t block = 0;
    int64_t next = 0; /* column at which the next block of factors begins */
    const char *ahead = (const char *)data + (first + 2 * outs) * cols * bytes_of(dtype);
    const int32_t step = 16 * outs * bytes_of(dtype);
    int32_t c = 0;

#pragma GCC unroll 16
    for (int32_t o = 0; o < outs; o++) {
#pragma GCC unroll 16
        for (int32_t r = 0; r < rows; r++) sum[o][r] = lanes_zero();
    }
    if (spc_dtype_is_scaled(dtype)) {
        block = m->scale.col / m->scale.cols;
        factors_at(m, dtype, first, outs, block++, factor);
        next = (int64_t)block * m->scale.cols - m->scale.col;
    }
    for (; c + 16 <= cols; c += 16) {
        lanes w[BLOCK_WIDE];

        if (spc_dtype_is_scaled(dtype) && c >= next) {
            factors_at(m, dtype, first, outs, block++, factor);
            next = (int64_t)block * m->scale.cols - m->scale.col;
        }
        prefetch(ahead, step);
        ahead += step;
#pragma GCC unroll 16
        for (int32_t o = 0; o < outs; o++) {
            w[o] = scaled(dtype, weights_at(data, dtype, (first + o) * cols + c), &factor[o]);
        }
#pragma GCC unroll 16
        for (int32_t r = 0; r < rows; r++) {
            lanes x = lanes_load(in + (int64_t)r * cols + c);

#pragma GCC unroll 16
            for (int32_t o = 0; o < outs; o++) sum[o][r] = lanes_fma(w[o], x, sum[o][r]);
        }
    }
    if (c < cols) {
        if (spc_dtype_is_scaled(dtype) && c >= next) {
            factors_at(m, dtype, first, outs, block, factor);
        }
#pragma GCC unroll 16
        for (int32_t o = 0; o < outs; o++) {
            lanes w = scaled(dtype, weights_tail(data, dtype, (first + o) * cols + c, cols - c),
                             &factor[o]);

#pragma GCC unroll 16
            for (int32_t r = 0; r < rows; r++) {
                lanes x = tail_f32(in + (int64_t)r * cols + c, cols - c);

                sum[o][r] = lanes_fma(w, x, sum[o][r]);
            }
        }
    }
#pragma GCC unroll 16
    for (int32_t r = 0; r < rows; r++) {
        int32_t o = 0;

#if BLOCK_WIDE >= 4
#pragma GCC unroll 16
        for (; o + 4 <= outs; o += 4) {
            lanes_sum4(out[r] + at + o, sum[o][r], sum[o + 1][r], sum[o + 2][r], sum[o + 3][r]);
        }
#endif
#pragma GCC unroll 16
        for (; o < outs; o++) out[r][at + o] = lanes_sum(sum[o][r]);
    }
}

/* All rows of one group of outputs: the group's weights stay in the first-level cache meanwhile. */
ALWAYS_INLINE void strip(const spc_matrix *m, spc_dtype dtype, int64_t first, int32_t outs,
                         const float *in, int32_t rows, float *const *out, int32_t at)
{
    while (rows > 0) {
        int32_t part = rows < BLOCK_ROWS ? rows : BLOCK_ROWS;

        switch (part) {
        case 1: tile(m, dtype, first, outs, in, 1, out, at); break;
        case 2: tile(m, dtype, first, outs, in, 2, out, at); break;
        case 3: tile(m, dtype, first, outs, in, 3, out, at); break;
#if BLOCK_ROWS > 3
        case 4: tile(m, dtype, first, outs, in, 4, out, at); break;
        case 5: tile(m, dtype, first, outs, in, 5, out, at); break;
        default: tile(m, dtype, first, outs, in, 6, out, at); break;
#endif
        }
        in += (int64_t)part * m->cols;
        out += part;
        rows -= part;
    }
}

ALWAYS_INLINE void linear_of(const spc_matrix *m, spc_dtype dtype, int32_t from, int32_t to,
                             const float *in, int32_t rows, float *const *out, int32_t at)
{
    int32_t o = from;

    if (rows == 1) { /* one row: more outputs at once keep more loads in flight */
        for (; o + BLOCK_WIDE <= to; o += BLOCK_WIDE) {
            tile(m, dtype, o, BLOCK_WIDE, in, 1, out, at + o);
        }
    }
    for (; o + BLOCK_OUT <= to; o += BLOCK_OUT) {
        strip(m, dtype, o, BLOCK_OUT, in, rows, out, at + o);
    }
    for (; o < to; o++) strip(m, dtype, o, 1, in, rows, out, at + o);
}

static void linear(const spc_matrix *m, int32_t from, int32_t to, const float *in, int32_t rows,
                   float *const *out, int32_t at)
{
    switch (m->dtype) {
    case SPC_DTYPE_BF16: linear_of(m, SPC_DTYPE_BF16, from, to, in, rows, out, at); break;
    case SPC_DTYPE_F16: linear_of(m, SPC_DTYPE_F16, from, to, in, rows, out, at); break;
    case SPC_DTYPE_F8_E4M3: linear_of(m, SPC_DTYPE_F8_E4M3, from, to, in, rows, out, at); break;
    case SPC_DTYPE_F8_E5M2: linear_of(m, SPC_DTYPE_F8_E5M2, from, to, in, rows, out, at); break;
    case SPC_DTYPE_I8: linear_of(m, SPC_DTYPE_I8, from, to, in, rows, out, at); break;
    default: linear_of(m, SPC_DTYPE_F32, from, to, in, rows, out, at); break;
    }
}

/* Of a and entries of b from `at` on. */
ALWAYS_INLINE float dot(const float *a, const void *b, spc_dtype dtype, int64_t at, int32_t count)
{
    lanes sum = lanes_zero();
    int32_t i = 0;

    for (; i + 16 <= count; i += 16) {
        sum = lanes_fma(lanes_load(a + i), weights_at(b, dtype, at + i), sum);
    }
    if (i < count) {
        sum = lanes_fma(tail_f32(a + i, count - i), weights_tail(b, dtype, at + i, count - i), sum);
    }
    return lanes_sum(sum);
}

/* cap tanh(x / cap) = cap (1 - e) / (1 + e) with e = exp(-2 |x| / cap), signed as x. */
static void bound(float *x, int32_t count, float cap)
{
    for (int32_t i = 0; i < count; i++) {
        float y = x[i] / cap, e = spc_exp2((y < 0.0f ? y : -y) * 2.88539008f);
        float tanh = (1.0f - e) / (1.0f + e);

        x[i] = y == y ? cap * (y < 0.0f ? -tanh : tanh) : y; /* exp2 answers NaN with 0 */
    }
}

#include "cpu_attend_body.h"

/* x / (1 + e^-y), through e^-|y|, which cannot overflow. */
ALWAYS_INLINE float times_sigmoid(float x, float y)
{
    float e = spc_exp2((y < 0.0f ? y : -y) * 1.44269504f);

    return x * ((y < 0.0f ? e : 1.0f) / (1.0f + e));
}

static void silu(const float *gate, const float *up, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) out[i] = times_sigmoid(gate[i], gate[i]) * up[i];
}

/* x (1 + tanh z) / 2 with z = sqrt(2 / pi) (x + 0.044715 x^3), which is x times sigmoid(2 z).
 * x^2 is bounded where the sigmoid has long arrived, so that it does not overflow. */
static void gelu_tanh(const float *gate, const float *up, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) {
        float x = gate[i], square = x * x < 1e6f ? x * x : 1e6f;

        out[i] = times_sigmoid(x, 1.59576912f * x * (1.0f + 0.044715f * square)) * up[i];
    }
}

static void glu(spc_activation activation, const float *gate, const float *up, int32_t count,
                float *out)
{
    if (activation == SPC_ACT_GELU_TANH) {
        gelu_tanh(gate, up, count, out);
    } else {
        silu(gate, up, count, out);
    }
}

static void norm(const float *in, const float *weight, int32_t dim, float eps, float *out)
{
    float scale = 1.0f / sqrtf(dot(in, in, SPC_DTYPE_F32, 0, dim) / (float)dim + eps);

    for (int32_t i = 0; i < dim; i++) out[i] = in[i] * scale * weight[i];
}

#include "cpu_quant_body.h"

const spc_cpu_kernels UNIT = {UNIT_NAME, linear, quantise, quant_linear, attend, glu, bound, norm};
