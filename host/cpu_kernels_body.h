/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_kernels_body.h - the kernels over 16 lanes, included by one file per vector unit.
 *
 * The including file defines:
 *   lanes                        16 floats
 *   lanes_zero()                 all 0
 *   lanes_set(x)                 all x
 *   lanes_load(const float *)    16 floats
 *   lanes_f16, lanes_bf16        the same from 16 halves (const uint16_t *)
 *   lanes_store(float *, lanes)
 *   lanes_fma(a, b, c)           a b + c
 *   lanes_sum(lanes)             fold by halving
 *   BLOCK_OUT, BLOCK_ROWS        tile whose accumulators fit the registers
 * and the name UNIT. */

#include "rules/portable.h"

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
    default: return lanes_load((const float *)data + i);
    }
}

ALWAYS_INLINE lanes weights_tail(const void *data, spc_dtype dtype, int64_t i, int32_t count)
{
    uint16_t part[16] = {0};

    if (dtype == SPC_DTYPE_F32) return tail_f32((const float *)data + i, count);
    memcpy(part, (const uint16_t *)data + i, (size_t)count * sizeof *part);
    return weights_at(part, dtype, 0);
}

/* A tile of outs x rows accumulators; both are constants where this is inlined. */
ALWAYS_INLINE void tile(const void *data, spc_dtype dtype, int32_t cols, int64_t first,
                        int32_t outs, const float *in, int32_t rows, float *const *out, int32_t at)
{
    lanes sum[BLOCK_WIDE][BLOCK_ROWS];
    int32_t c = 0;

#pragma GCC unroll 16
    for (int32_t o = 0; o < outs; o++) {
#pragma GCC unroll 16
        for (int32_t r = 0; r < rows; r++) sum[o][r] = lanes_zero();
    }
    for (; c + 16 <= cols; c += 16) {
        lanes w[BLOCK_WIDE];

#pragma GCC unroll 16
        for (int32_t o = 0; o < outs; o++) w[o] = weights_at(data, dtype, (first + o) * cols + c);
#pragma GCC unroll 16
        for (int32_t r = 0; r < rows; r++) {
            lanes x = lanes_load(in + (int64_t)r * cols + c);

#pragma GCC unroll 16
            for (int32_t o = 0; o < outs; o++) sum[o][r] = lanes_fma(w[o], x, sum[o][r]);
        }
    }
    if (c < cols) {
#pragma GCC unroll 16
        for (int32_t o = 0; o < outs; o++) {
            lanes w = weights_tail(data, dtype, (first + o) * cols + c, cols - c);

#pragma GCC unroll 16
            for (int32_t r = 0; r < rows; r++) {
                lanes x = tail_f32(in + (int64_t)r * cols + c, cols - c);

                sum[o][r] = lanes_fma(w, x, sum[o][r]);
            }
        }
    }
#pragma GCC unroll 16
    for (int32_t o = 0; o < outs; o++) {
#pragma GCC unroll 16
        for (int32_t r = 0; r < rows; r++) out[r][at + o] = lanes_sum(sum[o][r]);
    }
}

/* All rows of one group of outputs: the group's weights stay in the first-level cache meanwhile. */
ALWAYS_INLINE void strip(const void *data, spc_dtype dtype, int32_t cols, int64_t first,
                         int32_t outs, const float *in, int32_t rows, float *const *out, int32_t at)
{
    while (rows > 0) {
        int32_t part = rows < BLOCK_ROWS ? rows : BLOCK_ROWS;

        switch (part) {
        case 1: tile(data, dtype, cols, first, outs, in, 1, out, at); break;
        case 2: tile(data, dtype, cols, first, outs, in, 2, out, at); break;
        case 3: tile(data, dtype, cols, first, outs, in, 3, out, at); break;
#if BLOCK_ROWS > 3
        case 4: tile(data, dtype, cols, first, outs, in, 4, out, at); break;
        case 5: tile(data, dtype, cols, first, outs, in, 5, out, at); break;
        default: tile(data, dtype, cols, first, outs, in, 6, out, at); break;
#endif
        }
        in += (int64_t)part * cols;
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
            tile(m->data, dtype, m->cols, o, BLOCK_WIDE, in, 1, out, at + o);
        }
    }
    for (; o + BLOCK_OUT <= to; o += BLOCK_OUT) {
        strip(m->data, dtype, m->cols, o, BLOCK_OUT, in, rows, out, at + o);
    }
    for (; o < to; o++) strip(m->data, dtype, m->cols, o, 1, in, rows, out, at + o);
}

static void linear(const spc_matrix *m, int32_t from, int32_t to, const float *in, int32_t rows,
                   float *const *out, int32_t at)
{
    switch (m->dtype) {
    case SPC_DTYPE_BF16: linear_of(m, SPC_DTYPE_BF16, from, to, in, rows, out, at); break;
    case SPC_DTYPE_F16: linear_of(m, SPC_DTYPE_F16, from, to, in, rows, out, at); break;
    default: linear_of(m, SPC_DTYPE_F32, from, to, in, rows, out, at); break;
    }
}

ALWAYS_INLINE float dot(const float *a, const float *b, int32_t count)
{
    lanes sum = lanes_zero();
    int32_t i = 0;

    for (; i + 16 <= count; i += 16) sum = lanes_fma(lanes_load(a + i), lanes_load(b + i), sum);
    if (i < count) sum = lanes_fma(tail_f32(a + i, count - i), tail_f32(b + i, count - i), sum);
    return lanes_sum(sum);
}

/* exp(x - max) for every score; returns their sum, in 16 lanes. */
static float exponentials(float *score, int32_t count, float max)
{
    float lane[16] = {0};
    int32_t i = 0;

    for (int32_t k = 0; k < count; k++) score[k] = spc_exp2((score[k] - max) * 1.44269504f);
    for (; i + 16 <= count; i += 16) {
        for (int32_t l = 0; l < 16; l++) lane[l] += score[i + l];
    }
    for (int32_t l = 0; i + l < count; l++) lane[l] += score[i + l];
    return lanes_sum(lanes_load(lane));
}

static void attend(const float *query, const float *keys, const float *values, int32_t count,
                   int32_t dim, float scale, float *scores, float *out)
{
    float max = -SPC_INFINITY, inverse;
    int32_t c = 0;

    for (int32_t k = 0; k < count; k++) {
        scores[k] = dot(query, keys + (int64_t)k * dim, dim) * scale;
        max = scores[k] > max ? scores[k] : max;
    }
    inverse = 1.0f / exponentials(scores, count, max);
    for (; c + 16 <= dim; c += 16) {
        lanes sum = lanes_zero();

        for (int32_t k = 0; k < count; k++) {
            sum = lanes_fma(lanes_set(scores[k]), lanes_load(values + (int64_t)k * dim + c), sum);
        }
        lanes_store(out + c, sum);
    }
    for (; c < dim; c++) {
        float sum = 0.0f;

        for (int32_t k = 0; k < count; k++) sum += scores[k] * values[(int64_t)k * dim + c];
        out[c] = sum;
    }
    for (c = 0; c < dim; c++) out[c] *= inverse;
}

/* silu(x) = x / (1 + e^-x), through e^-|x|, which cannot overflow. */
static void glu(const float *gate, const float *up, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) {
        float x = gate[i], e = spc_exp2((x < 0.0f ? x : -x) * 1.44269504f);
        float sigmoid = (x < 0.0f ? e : 1.0f) / (1.0f + e);

        out[i] = x * sigmoid * up[i];
    }
}

static void norm(const float *in, const float *weight, int32_t dim, float eps, float *out)
{
    float scale = 1.0f / sqrtf(dot(in, in, dim) / (float)dim + eps);

    for (int32_t i = 0; i < dim; i++) out[i] = in[i] * scale * weight[i];
}

const spc_cpu_kernels UNIT = {UNIT_NAME, linear, attend, glu, norm};
