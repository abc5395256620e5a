/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_quant_body.h - products with quantised matrices, included by cpu_kernels_body.h.
 *
 * A row of activations becomes 8-bit integers with a scale for each 32 entries; products of
 * integers are exact, so that only their scaling and adding up rounds.  All of that is
 * multiplications and additions that are not fused, in the same order everywhere: portable, avx2
 * and avx512 agree to the bit.
 *
 * The sum of a row: 64 entries at a time, lane l takes entries 4 l .. 4 l + 3,
 *
 *   lane[l] += (weight scale * activation scale) * (sum of 4 integer products)
 *
 * and where a format has offsets, for each 256 entries, lane b of eight others
 *
 *   offset[b] += weight offset * (activation scale * sum of 32 activation integers)
 *
 * The lanes fold by halving, each kind by itself, and the two results are added.
 *
 * Beside what cpu_kernels_body.h asks for, the including file defines
 *   lanes_mul, lanes_add
 *   lanes_pick(v, g)             lane l becomes lane 4 g + l / 4 of v; g is a constant
 *   lanes_u8(uint64_t)           8 bytes in lanes 0 .. 7, zeros behind them
 *   lanes_u8_twice(uint64_t)     8 bytes, each in two lanes
 *   quads                        64 bytes
 *   quads_load(a, b)             32 bytes from a, 32 from b
 *   quads_twice(a, b)            16 bytes from a twice, 16 bytes from b twice
 *   quads_shift(v, a, b, c, d)   each 16 bytes, as 32-bit numbers, shifted right by a, b, c, d
 *   quads_and(v, byte), quads_or(v, w), quads_flip(v), quads_up4(v); flip: 128 more or less
 *   quads_bits(uint64_t)         16 in each byte whose bit is set
 *   quads_x(const int8_t *)      64 bytes
 *   quads_dot(w, x, less)        lane l: sum of 4 products (w - less) x as float; bytes of w are
 *                                unsigned (below 64 where less, a constant, is 0), those of x in
 *                                -127 .. 127
 *   half_float(uint16_t)         a half's value
 *   lanes_halves(b, bytes, n, twice)  16 halves, each of n (up to 8; a constant but for the end of
 *                                a row) at b, b + bytes, ..., zeros behind them; twice: each in two
 *                                lanes */

#include "weights/quant.h"

enum { CHUNK = SPC_Q8_CHUNK };

/* Scales, offsets and where the bytes are of 256 entries: 8 blocks of 32 (or what is left of a row)
 * or one of 256. */
typedef struct {
    lanes scale;  /* of each 16 entries */
    lanes offset; /* of each 32 entries, in 8 lanes */
    const uint8_t *at;
} chunk;

/* What is taken from the unsigned numbers of a format; 0: it has offsets of its own. */
ALWAYS_INLINE int32_t less_of(spc_dtype dtype)
{
    switch (dtype) {
    case SPC_DTYPE_Q8_0: return 128;
    case SPC_DTYPE_Q4_0: return 8;
    case SPC_DTYPE_Q5_0: return 16;
    case SPC_DTYPE_Q6_K: return 32;
    default: return 0;
    }
}

ALWAYS_INLINE bool has_offsets(spc_dtype dtype)
{
    return less_of(dtype) == 0;
}

ALWAYS_INLINE int32_t block_bytes(spc_dtype dtype)
{
    switch (dtype) {
    case SPC_DTYPE_Q8_0: return 34;
    case SPC_DTYPE_Q4_0: return 18;
    case SPC_DTYPE_Q4_1: return 20;
    case SPC_DTYPE_Q5_0: return 22;
    case SPC_DTYPE_Q5_1: return 24;
    case SPC_DTYPE_Q4_K: return 144;
    case SPC_DTYPE_Q5_K: return 176;
    default: return 210;
    }
}

ALWAYS_INLINE uint16_t half_at(const uint8_t *bytes)
{
    uint16_t half;

    memcpy(&half, bytes, sizeof half);
    return half;
}

ALWAYS_INLINE uint32_t word_at(const uint8_t *bytes)
{
    uint32_t word;

    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Q4_K, Q5_K: eight scales and eight offsets of 6 bits in 12 bytes (weights/quant.c, four at a
 * time). */
ALWAYS_INLINE void six_bits(const uint8_t *bytes, uint64_t *scale, uint64_t *offset)
{
    uint32_t a = word_at(bytes), b = word_at(bytes + 4), c = word_at(bytes + 8);
    uint32_t high_a = (c & 0x0f0f0f0fu) | (a >> 6 & 0x03030303u) << 4;
    uint32_t high_b = (c >> 4 & 0x0f0f0f0fu) | (b >> 6 & 0x03030303u) << 4;

    *scale = (uint64_t)high_a << 32 | (a & 0x3f3f3f3fu);
    *offset = (uint64_t)high_b << 32 | (b & 0x3f3f3f3fu);
}

ALWAYS_INLINE chunk chunk_at(spc_dtype dtype, const uint8_t *block, int32_t blocks)
{
    chunk c = {lanes_zero(), lanes_zero(), block};
    uint64_t scale, offset;

    switch (dtype) {
    case SPC_DTYPE_Q4_K:
    case SPC_DTYPE_Q5_K:
        six_bits(block + 4, &scale, &offset);
        c.scale = lanes_mul(lanes_set(half_float(half_at(block))), lanes_u8_twice(scale));
        c.offset = lanes_mul(lanes_set(-half_float(half_at(block + 2))), lanes_u8(offset));
        break;
    case SPC_DTYPE_Q6_K:
        c.scale = lanes_mul(lanes_set(half_float(half_at(block + 208))),
                            lanes_i8((const int8_t *)block + 192));
        break;
    default:
        c.scale = lanes_halves(block, block_bytes(dtype), blocks, true);
        if (has_offsets(dtype)) {
            c.offset = lanes_halves(block + 2, block_bytes(dtype), blocks, false);
        }
    }
    return c;
}

/* Unsigned integers of entries 64 g .. 64 g + 63; g is a constant.  Of a row's last, single block
 * the second half repeats the first: it meets zeros. */
ALWAYS_INLINE quads integers_of(spc_dtype dtype, const uint8_t *at, int32_t g, int32_t blocks)
{
    const uint8_t *a = at + 2 * g * block_bytes(dtype);
    const uint8_t *b = 2 * g + 1 < blocks ? a + block_bytes(dtype) : a;
    const uint8_t *high = at + 16, *low = dtype == SPC_DTYPE_Q5_K ? high + 32 : high;
    quads w;

    switch (dtype) {
    case SPC_DTYPE_Q8_0: return quads_flip(quads_load(a + 2, b + 2));
    case SPC_DTYPE_Q4_0: return quads_and(quads_shift(quads_twice(a + 2, b + 2), 0, 4, 0, 4), 15);
    case SPC_DTYPE_Q4_1: return quads_and(quads_shift(quads_twice(a + 4, b + 4), 0, 4, 0, 4), 15);
    case SPC_DTYPE_Q5_0:
        w = quads_and(quads_shift(quads_twice(a + 6, b + 6), 0, 4, 0, 4), 15);
        return quads_or(w, quads_bits((uint64_t)word_at(b + 2) << 32 | word_at(a + 2)));
    case SPC_DTYPE_Q5_1:
        w = quads_and(quads_shift(quads_twice(a + 8, b + 8), 0, 4, 0, 4), 15);
        return quads_or(w, quads_bits((uint64_t)word_at(b + 4) << 32 | word_at(a + 4)));
    case SPC_DTYPE_Q4_K:
    case SPC_DTYPE_Q5_K:
        w = quads_load(low + 32 * g, low + 32 * g);
        w = quads_and(quads_shift(w, 0, 0, 4, 4), 15);
        if (dtype == SPC_DTYPE_Q4_K) return w;
        return quads_or(
            w, quads_up4(quads_and(
                   quads_shift(quads_load(high, high), 2 * g, 2 * g, 2 * g + 1, 2 * g + 1), 1)));
    default: /* Q6_K */
        low = at + g / 2 * 64;
        high = at + 128 + g / 2 * 32;
        w = quads_load(low, low + 32);
        w = quads_and(quads_shift(w, g % 2 * 4, g % 2 * 4, g % 2 * 4, g % 2 * 4), 15);
        return quads_or(w, quads_up4(quads_and(quads_shift(quads_load(high, high), g % 2 * 4,
                                                           g % 2 * 4, g % 2 * 4 + 2, g % 2 * 4 + 2),
                                               3)));
    }
}

enum { QUANT_ROWS = 4, QUANT_OUTS = 4 };

/* One chunk of one output times `rows` rows, which are constants where this is inlined, as is
 * whether the chunk is whole. */
ALWAYS_INLINE void quant_chunk(spc_dtype dtype, const uint8_t *block, int32_t blocks,
                               const spc_q8 *in, int64_t first, int32_t rows, int64_t column,
                               lanes *sum, lanes *offset)
{
    chunk c = chunk_at(dtype, block, blocks);
    lanes scale[QUANT_ROWS];

#pragma GCC unroll 4
    for (int32_t r = 0; r < rows; r++) {
        int64_t at = ((first + r) * in->stride + column) / 16;

        scale[r] = lanes_mul(c.scale, lanes_load(in->scale + at));
        if (has_offsets(dtype)) {
            offset[r] = lanes_add(offset[r], lanes_mul(c.offset, lanes_load(in->sum + at)));
        }
    }
#pragma GCC unroll 4
    for (int32_t g = 0; g < 4; g++) {
        if (2 * g >= blocks) break;

        quads w = integers_of(dtype, c.at, g, blocks);

#pragma GCC unroll 4
        for (int32_t r = 0; r < rows; r++) {
            const int8_t *x = in->q + (first + r) * in->stride + column + 64 * g;
            lanes product = quads_dot(w, quads_x(x), less_of(dtype));

            sum[r] = lanes_add(sum[r], lanes_mul(lanes_pick(scale[r], g), product));
        }
    }
}

ALWAYS_INLINE void quant_tile(const spc_matrix *m, spc_dtype dtype, int32_t first, int32_t outs,
                              const spc_q8 *in, int64_t row, int32_t rows, float *const *out,
                              int32_t at)
{
    const bool wide = dtype == SPC_DTYPE_Q4_K || dtype == SPC_DTYPE_Q5_K || dtype == SPC_DTYPE_Q6_K;
    const int64_t step = wide ? block_bytes(dtype) : 8 * block_bytes(dtype);
    const int64_t length = (int64_t)(m->cols / (wide ? CHUNK : 32)) * block_bytes(dtype);
    const uint8_t *weights = (const uint8_t *)m->data + first * length;
    lanes sum[QUANT_OUTS][QUANT_ROWS], offset[QUANT_OUTS][QUANT_ROWS];
    int32_t column = 0;

#pragma GCC unroll 4
    for (int32_t o = 0; o < outs; o++) {
#pragma GCC unroll 4
        for (int32_t r = 0; r < rows; r++) sum[o][r] = offset[o][r] = lanes_zero();
    }
    for (; column + CHUNK <= m->cols; column += CHUNK, weights += step) {
#pragma GCC unroll 4
        for (int32_t o = 0; o < outs; o++) {
            /* 13 to 20 tokens/s on a Q4_K model; blocks of 32 lose by it */
            if (wide) prefetch((const char *)weights + o * length + 8 * step, (int32_t)step);
            quant_chunk(dtype, weights + o * length, 8, in, row, rows, column, sum[o], offset[o]);
        }
    }
    if (!wide && column < m->cols) {
#pragma GCC unroll 4
        for (int32_t o = 0; o < outs; o++) {
            quant_chunk(dtype, weights + o * length, (m->cols - column) / 32, in, row, rows, column,
                        sum[o], offset[o]);
        }
    }
#pragma GCC unroll 4
    for (int32_t o = 0; o < outs; o++) {
#pragma GCC unroll 4
        for (int32_t r = 0; r < rows; r++) {
            float total = lanes_sum(sum[o][r]);

            if (has_offsets(dtype)) total += lanes_sum(offset[o][r]);
            out[row + r][at + o] = total;
        }
    }
}

ALWAYS_INLINE void quant_of(const spc_matrix *m, spc_dtype dtype, int32_t from, int32_t to,
                            const spc_q8 *in, int32_t rows, float *const *out, int32_t at)
{
    int32_t o = from;

    if (rows == 1) {
        for (; o + QUANT_OUTS <= to; o += QUANT_OUTS) {
            quant_tile(m, dtype, o, QUANT_OUTS, in, 0, 1, out, at + o);
        }
    }
    for (; o < to; o++) { /* an output's weights stay in the first-level cache for all rows */
        int32_t r = 0;

        for (; r + 4 <= rows; r += 4) quant_tile(m, dtype, o, 1, in, r, 4, out, at + o);
        for (; r + 2 <= rows; r += 2) quant_tile(m, dtype, o, 1, in, r, 2, out, at + o);
        for (; r < rows; r++) quant_tile(m, dtype, o, 1, in, r, 1, out, at + o);
    }
}

static void quant_linear(const spc_matrix *m, int32_t from, int32_t to, const spc_q8 *in,
                         int32_t rows, float *const *out, int32_t at)
{
    switch (m->dtype) {
    case SPC_DTYPE_Q8_0: quant_of(m, SPC_DTYPE_Q8_0, from, to, in, rows, out, at); break;
    case SPC_DTYPE_Q4_0: quant_of(m, SPC_DTYPE_Q4_0, from, to, in, rows, out, at); break;
    case SPC_DTYPE_Q4_1: quant_of(m, SPC_DTYPE_Q4_1, from, to, in, rows, out, at); break;
    case SPC_DTYPE_Q5_0: quant_of(m, SPC_DTYPE_Q5_0, from, to, in, rows, out, at); break;
    case SPC_DTYPE_Q5_1: quant_of(m, SPC_DTYPE_Q5_1, from, to, in, rows, out, at); break;
    case SPC_DTYPE_Q4_K: quant_of(m, SPC_DTYPE_Q4_K, from, to, in, rows, out, at); break;
    case SPC_DTYPE_Q5_K: quant_of(m, SPC_DTYPE_Q5_K, from, to, in, rows, out, at); break;
    default: quant_of(m, SPC_DTYPE_Q6_K, from, to, in, rows, out, at); break;
    }
}

/* ---- activations ------------------------------------------------------------------------------
 */

/* 32 entries: q = nearest (ties to even) of x 127 / max |x|. */
ALWAYS_INLINE void quantise_block(const float *x, int8_t *q, float *scale, float *sum)
{
    float lane[16] = {0}, max = 0.0f, inverse, step;
    int32_t total = 0, bad = 0;

    for (int32_t i = 0; i < 32; i++) {
        float size = x[i] < 0.0f ? -x[i] : x[i];

        lane[i % 16] = size > lane[i % 16] ? size : lane[i % 16];
        bad |= !(x[i] - x[i] == 0.0f);
    }
    for (int32_t i = 0; i < 16; i++) max = lane[i] > max ? lane[i] : max;
    step = max / 127.0f;
    inverse = max > 1e-30f ? 127.0f / max : 0.0f; /* less counts as nothing */
    for (int32_t i = 0; i < 32; i++) {
        /* adding 1.5 * 2^23 leaves the nearest whole number in the low bits */
        union {
            float f;
            int32_t i;
        } pun = {(bad ? 0.0f : x[i] * inverse) + 12582912.0f};

        q[i] = (int8_t)(pun.i - 0x4b400000);
        total += pun.i - 0x4b400000;
    }
    if (bad) step = NAN; /* a broken activation must not pass for a small one */
    scale[0] = scale[1] = step;
    *sum = step * (float)total;
}

static void quantise(const float *in, int32_t cols, int64_t row, const spc_q8 *out)
{
    int64_t at = row * out->stride;

    for (int32_t c = 0; c < out->stride; c += 32) {
        int64_t scale = (at + c) / 16, sum = (at + c - c % CHUNK) / 16 + c % CHUNK / 32;

        if (c < cols) {
            quantise_block(in + c, out->q + at + c, out->scale + scale, out->sum + sum);
            continue;
        }
        memset(out->q + at + c, 0, 32);
        out->scale[scale] = out->scale[scale + 1] = out->sum[sum] = 0.0f;
    }
    for (int32_t c = 0; c < out->stride; c += CHUNK) { /* the eight lanes that offsets do not use */
        memset(out->sum + (at + c) / 16 + 8, 0, 8 * sizeof *out->sum);
    }
}
