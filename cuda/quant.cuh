/* SPDX-License-Identifier: Apache-2.0 */
/* quant.cuh - quantised weights as they lie on the device, and what they are as float32.
 *
 * A row is cut into blocks of 32 columns, four of which are a group.  Of a group's columns lane q
 * of four takes 8 q .. 8 q + 7 of each block: with 16 bytes at once from the weights it uses 32
 * bytes at once of the activations.  (Of Q6_K it takes 4 q .. 4 q + 3 and 16 + 4 q .. 16 + 4 q + 3,
 * so that the lanes' halves have a scale each; called 8 q .. 8 q + 7 below.)  Planes
 * (spc_cuda_matrix), for each row:
 *
 *   data    [group, q, block] 8 weights: 4 bytes, byte k the low 4 bits of columns k and 4 + k; of
 *           8-bit types [group, pair of blocks, q, block of the pair] 8 bytes, integers plus 128;
 *           of Q2_K and Q3_K [group, q, pair of blocks] 4 bytes, the two bits at
 *           2 (2 (block % 2) + half) of byte k the low ones of column 4 half + k; of IQ4_* bits
 *           4 k .. 4 k + 3 of the 4 bytes are column k; Q6_K: see high
 *   high    Q5_*, Q3_K: [group, q] 4 bytes; bit 2 block + half of byte k is the highest bit of
 *           column 4 half + k
 *           Q6_K: [group, q, pair of blocks] 4 bytes, a third word behind two of data.  A pair of
 *           blocks is 8 pairs of integers 16 bits apart, p = 4 (block % 2) + 2 half + i for columns
 *           i and i + 2: below 6 they lie at bit 6 (p % 2) of word p / 2; of 6 and 7 the low 4
 *           bits at 12 of word p - 6, the high ones at 12 + 2 (p - 6) of the third
 *   scale   Q8_0, Q4_0, Q5_0, IQ4_NL: [group, block] half d; Q4_1, Q5_1: half d, m
 *           Q4_K, Q5_K: [256 columns] half d, e, then ggml's 12 bytes of 6-bit numbers
 *           Q6_K: [group, 16 columns] signed bytes
 *           Q2_K: [group, 16 columns] a byte: 4 bits for d, and above them 4 for e
 *           Q3_K: [256 columns] 12 bytes of 6-bit numbers, one for each 16 columns, two (i) for a
 *           block: at [group, block] a byte, whose bits 4 i .. 4 i + 3 are the low ones; behind
 *           these, at [block], one whose two bits at 2 (2 group + i) are the high ones
 *           IQ4_XS: [256 columns] half d; two bits of each block, the upper ones of its number; 4
 *           bytes: byte b has the low 4 bits of block b, and those of block 4 + b above them
 *   step    Q6_K, Q3_K: [256 columns] half d; Q2_K: half d, e
 *
 * The last group may have fewer blocks: its data are as short, its scales padded with 0.
 *
 * A weight is step integer + offset, fused: but for float32 scales step integer is exact (a half
 * times 6 or 8 bits times up to 8 bits), so that the one rounding is that of weights/quant.c; and
 * where offset is a multiple of step, fused or not, it is that of the scaled integer.
 *
 * For products (near) an integer of n bits becomes a float without a subtraction, as a byte of the
 * bits of 2 + integer / 2^(n - 1), or of 2^15 + integer if it has 8.  What that is too much goes
 * into the offset: where it is a multiple of step there are bits enough; types with an offset of
 * their own round once more, by up to 2^-24 of 2^n step.  Tables (spread) take the bits of 2^23 +
 * integer, and subtract. */
#ifndef SPC_CUDA_QUANT_CUH
#define SPC_CUDA_QUANT_CUH

#include "ops.cuh"

enum {
    QUANT_RUN = 8,                        /* columns of a lane in a block */
    QUANT_BLOCK = 32,                     /* columns of a block */
    QUANT_BLOCKS = 4,                     /* blocks of a group */
    QUANT_LANES = QUANT_BLOCK / QUANT_RUN /* lanes of a group */
};

/* Units, one lane's part of a group each, of a row of so many blocks. */
static __host__ __device__ __forceinline__ int32_t quant_units(int32_t blocks)
{
    return (blocks + QUANT_BLOCKS - 1) / QUANT_BLOCKS * QUANT_LANES;
}

/* Has a unit's group all of its blocks? */
static __device__ __forceinline__ bool is_whole(int32_t unit, int32_t blocks)
{
    return unit / QUANT_LANES * QUANT_BLOCKS + QUANT_BLOCKS <= blocks;
}

/* The first column of a unit in block b of its group. */
static __device__ __forceinline__ int32_t quant_column(int32_t unit, int b)
{
    return (unit / QUANT_LANES * QUANT_BLOCKS + b) * QUANT_BLOCK + unit % QUANT_LANES * QUANT_RUN;
}

/* The same, of types whose lanes have SPLIT columns, 4 here and 4 from 16 columns further on. */
template <bool SPLIT> static __device__ __forceinline__ int32_t quant_column_of(int32_t unit, int b)
{
    return SPLIT ? quant_column(unit, b) - unit % QUANT_LANES * (QUANT_RUN / 2)
                 : quant_column(unit, b);
}

/* 8 values of in from a unit's column on; 0 behind the row's end. */
template <bool SPLIT, bool WHOLE>
static __device__ __forceinline__ void quant_load_columns(const float *in, int32_t c, int32_t cols,
                                                          float *out)
{
    if constexpr (SPLIT) {
        load_columns<QUANT_RUN / 2, true>(in, c, cols, out);
        load_columns<QUANT_RUN / 2, true>(in, c + QUANT_BLOCK / 2, cols, out + QUANT_RUN / 2);
    } else {
        load_columns<QUANT_RUN, WHOLE>(in, c, cols, out);
    }
}

/* 2 + byte i / 64, of a byte below 128. */
static __device__ __forceinline__ float byte_twos(uint32_t bytes, int i)
{
    return spc_bits_float(__byte_perm(bytes, 0x40000000u, 0x7044u | (uint32_t)i << 8));
}

/* 32768 + byte i, without sign. */
static __device__ __forceinline__ float byte_above(uint32_t bytes, int i)
{
    return spc_bits_float(__byte_perm(bytes, 0x47000000u, 0x7404u | (uint32_t)i << 4));
}

/* Byte i, without sign, as float; less what is to be taken from it. */
static __device__ __forceinline__ float byte_float(uint32_t bytes, int i, float less = 0.0f)
{
    return spc_bits_float(__byte_perm(bytes, 0x4b000000u, 0x7440u | (uint32_t)i)) -
           (8388608.0f + less);
}

/* ---- integers -------------------------------------------------------------------------------- */

static __device__ __forceinline__ void spread4(uint4 raw, uint32_t *word)
{
    word[0] = raw.x;
    word[1] = raw.y;
    word[2] = raw.z;
    word[3] = raw.w;
}

/* Where a row begins in each plane, in 16 bytes of data, units of high, groups or 256 columns of
 * the others: less than 2^32 of any matrix that fits into memory. */
typedef struct {
    uint32_t data, unit, group, eighth;
} quant_row;

static __device__ __forceinline__ quant_row quant_row_of(const spc_cuda_matrix &m, int32_t row)
{
    const uint32_t r = (uint32_t)row, units = (uint32_t)quant_units(m.stride);

    return {r * (uint32_t)m.stride, r * units, r * (units / QUANT_LANES),
            r * ((uint32_t)m.stride / 8)};
}

/* Bits from `at` on of every byte, at bit `to`. */
static __device__ __forceinline__ uint32_t moved(uint32_t bits, int at, int to)
{
    return at < to ? bits << (to - at) : bits >> (at - to);
}

/* A unit's 32 integers of BITS bits. */
template <int BITS> struct quant_integers {
    uint32_t word[4], high;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit, bool whole)
    {
        const int32_t group = unit / QUANT_LANES, q = unit % QUANT_LANES;
        const int32_t blocks = m.stride - group * QUANT_BLOCKS;
        const uint32_t *more = (const uint32_t *)m.high;

        if (whole) {
            spread4(__ldcs((const uint4 *)m.data + (row.data + (uint32_t)unit)), word);
        } else {
            const uint32_t *data =
                (const uint32_t *)((const uint4 *)m.data +
                                   (row.data + (uint32_t)(group * QUANT_BLOCKS)));

#pragma unroll
            for (int b = 0; b < QUANT_BLOCKS; b++) {
                word[b] = b < blocks ? __ldcs(data + q * blocks + b) : 0;
            }
        }
        if (BITS == 5) high = __ldcs(more + (row.unit + (uint32_t)unit));
    }

    /* Integers of block b's columns 4 half .. 4 half + 3, with the lowest bit at bit `to` of each
     * byte. */
    __device__ __forceinline__ uint32_t four(int b, int half, int to = 0) const
    {
        const uint32_t low = moved(word[b], 4 * half, to) & 0x0f0f0f0fu << to;

        if (BITS == 4) return low;
        return low | (moved(high, 2 * b + half, 4 + to) & 0x10101010u << to);
    }

    /* Of these columns i and i + 2, 16 bits each, beside other bits. */
    __device__ __forceinline__ uint32_t two(int b, int half, int i, int to, uint32_t beside) const
    {
        const uint32_t low = (moved(word[b], 4 * half + 8 * i, to) & 0x000f000fu << to) | beside;

        if (BITS == 4) return low;
        return (moved(high, 8 * i + 2 * b + half, 4 + to) & 0x00100010u << to) | low;
    }
};

/* Of 6; there is no group without all of its blocks. */
template <> struct quant_integers<6> {
    uint32_t word[4], high[2];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit, bool)
    {
        const uint2 both = __ldcs((const uint2 *)m.high + (row.unit + (uint32_t)unit));

        spread4(__ldcs((const uint4 *)m.data + (row.data + (uint32_t)unit)), word);
        high[0] = both.x;
        high[1] = both.y;
    }

    __device__ __forceinline__ uint32_t two(int b, int half, int i, int to, uint32_t beside) const
    {
        const int p = 4 * (b % 2) + 2 * half + i, first = b / 2 * 2;

        if (p < 4)
            return (moved(word[first + p / 2], 6 * (p % 2), to) & 0x003f003fu << to) | beside;
        if (p < 6) return (moved(high[b / 2], 6 * (p % 2), to) & 0x003f003fu << to) | beside;
        return (moved(high[b / 2], 12 + 2 * (p - 6), 4 + to) & 0x00300030u << to) |
               ((moved(word[first + p - 6], 12, to) & 0x000f000fu << to) | beside);
    }

    __device__ __forceinline__ uint32_t four(int b, int half, int to = 0) const
    {
        return two(b, half, 0, to, 0) | two(b, half, 1, to, 0) << 8;
    }
};

/* Of 2 bits, or 3; there is no group without all of its blocks. */
template <bool THIRD> struct quant_integers_low {
    uint32_t word[2], high;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit, bool)
    {
        const uint32_t at = row.unit + (uint32_t)unit;
        const uint2 both = __ldcs((const uint2 *)m.data + at);

        word[0] = both.x;
        word[1] = both.y;
        if (THIRD) high = __ldcs((const uint32_t *)m.high + at);
    }

    __device__ __forceinline__ uint32_t four(int b, int half, int to = 0) const
    {
        const uint32_t low = moved(word[b / 2], 2 * (2 * (b % 2) + half), to) & 0x03030303u << to;

        return THIRD ? low | (moved(high, 2 * b + half, 2 + to) & 0x04040404u << to) : low;
    }
};

template <> struct quant_integers<2> : quant_integers_low<false> {
};

template <> struct quant_integers<3> : quant_integers_low<true> {
};

/* A level of IQ4 (weights/quant.h) plus 128, for each 4 bits. */
struct quant_levels {
    quant_integers<4> codes;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit, bool whole)
    {
        codes.load(m, row, unit, whole);
    }

    /* Of a code three bits select in each half of the table, and the fourth between the two. */
    __device__ __forceinline__ uint32_t four(int b, int half, int = 0) const
    {
        const uint32_t code = codes.word[b] >> 16 * half;
        const uint32_t low = __byte_perm(0x3f2d1801u, 0x766a5d4fu, code & 0x7777u);
        const uint32_t high = __byte_perm(0xa6998d81u, 0xf1d9c5b5u, code & 0x7777u);

        return __byte_perm(low, high, 0x3210u | (code >> 1 & 0x4444u));
    }
};

template <> struct quant_integers<8> {
    enum : uint32_t { NONE = 0x80808080u }; /* integers 0, floats -0 */
    uint32_t word[8];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit, bool whole)
    {
        const int32_t group = unit / QUANT_LANES, q = unit % QUANT_LANES;
        const int32_t blocks = m.stride - group * QUANT_BLOCKS;
        const char *data =
            (const char *)m.data + (uint64_t)(row.data + (uint32_t)(group * QUANT_BLOCKS)) * 32;

        if (whole) {
            spread4(__ldcs((const uint4 *)data + q), word);
            spread4(__ldcs((const uint4 *)data + QUANT_LANES + q), word + 4);
            return;
        }
#pragma unroll
        for (int b = 0; b < QUANT_BLOCKS; b++) {
            const int32_t beside = blocks - b / 2 * 2 >= 2 ? 2 : 1;
            const uint32_t *at =
                (const uint32_t *)(data + b / 2 * 64 + (q * beside + b % 2) * QUANT_RUN);

            word[2 * b] = b < blocks ? __ldcs(at) : NONE;
            word[2 * b + 1] = b < blocks ? __ldcs(at + 1) : NONE;
        }
    }

    __device__ __forceinline__ uint32_t four(int b, int half, int = 0) const
    {
        return word[2 * b + half];
    }
};

/* ---- scales ---------------------------------------------------------------------------------- */

/* A block's d; a weight is d (integer - LESS). */
template <int LESS> struct quant_scale_d {
    enum { OFFSET = false, CENTRE = LESS };
    uint32_t pair[2];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint2 raw =
            __ldcs((const uint2 *)m.scale + (row.group + (uint32_t)(unit / QUANT_LANES)));

        pair[0] = raw.x;
        pair[1] = raw.y;
    }

    __device__ __forceinline__ void ready(int32_t)
    {
    }

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        *step = weights_f16::one(pair[b / 2] >> (b % 2 * 16) & 0xffffu);
        *offset = *step * (float)-LESS;
    }

    /* For numbers `more` + integer / `per`: both exact. */
    __device__ __forceinline__ void near(int b, float more, float per, float *step,
                                         float *offset) const
    {
        const float d = weights_f16::one(pair[b / 2] >> (b % 2 * 16) & 0xffffu);

        *step = d * per;
        *offset = d * -(more * per + (float)LESS);
    }
};

/* A block's d and m. */
struct quant_scale_dm {
    enum { OFFSET = true, CENTRE = 0 };
    uint32_t pair[4];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        spread4(__ldcs((const uint4 *)m.scale + (row.group + (uint32_t)(unit / QUANT_LANES))),
                pair);
    }

    __device__ __forceinline__ void ready(int32_t)
    {
    }

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        *step = weights_f16::one(pair[b] & 0xffffu);
        *offset = weights_f16::one(pair[b] >> 16);
    }

    __device__ __forceinline__ void near(int b, float more, float per, float *step,
                                         float *offset) const
    {
        float d, m;

        get(b, &d, &m);
        *step = d * per;
        *offset = fmaf(d, -(more * per), m);
    }
};

/* d and e of 256 columns, numbers of up to 6 bits: d s and - e m. */
struct quant_scale_de {
    enum { OFFSET = true, CENTRE = 0 };
    uint32_t de, s, m; /* s, m: twice the number of the unit's columns of each block, a byte each */

    /* d factor number, a number of 6 bits times a half: exact. */
    static __device__ __forceinline__ float scaled(float d, float factor, uint32_t numbers, int b)
    {
        return fmaf(d * (32.0f * factor), byte_twos(numbers, b), d * (-64.0f * factor));
    }

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        *step = scaled(weights_f16::one(de & 0xffffu), 1.0f, s, b);
        *offset = scaled(weights_f16::one(de >> 16), -1.0f, m, b);
    }

    __device__ __forceinline__ void near(int b, float more, float per, float *step,
                                         float *offset) const
    {
        const float d = weights_f16::one(de & 0xffffu), e = weights_f16::one(de >> 16);

        *step = scaled(d, per, s, b);
        *offset = fmaf(*step, -more, scaled(e, -1.0f, m, b));
    }
};

/* Of 6 bits for each block. */
struct quant_scale_six : quant_scale_de {
    uint32_t more;

    __device__ __forceinline__ void load(const spc_cuda_matrix &matrix, const quant_row &row,
                                         int32_t unit)
    {
        const uint4 raw =
            __ldcs((const uint4 *)matrix.scale + (row.eighth + (uint32_t)(unit / QUANT_LANES / 2)));

        de = raw.x;
        s = raw.y;
        m = raw.z;
        more = raw.w;
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const bool even = unit / QUANT_LANES % 2 == 0;

        s = even ? s << 1 & 0x7e7e7e7eu : (more << 1 & 0x1e1e1e1eu) | (s >> 1 & 0x60606060u);
        m = even ? m << 1 & 0x7e7e7e7eu : (more >> 3 & 0x1e1e1e1eu) | (m >> 1 & 0x60606060u);
    }
};

/* Of 4 bits for each 16 columns. */
struct quant_scale_two : quant_scale_de {
    __device__ __forceinline__ void load(const spc_cuda_matrix &matrix, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t group = (uint32_t)(unit / QUANT_LANES);
        const uint2 raw = __ldcs((const uint2 *)matrix.scale + (row.group + group));

        s = raw.x;
        m = raw.y;
        de = ((const uint32_t *)matrix.step)[row.eighth + group / 2];
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const uint32_t both = __byte_perm(s, m, unit % QUANT_LANES < 2 ? 0x6420u : 0x7531u);

        s = both << 1 & 0x1e1e1e1eu;
        m = both >> 3 & 0x1e1e1e1eu;
    }
};

/* d of 256 columns, a signed byte for each 16: d s (integer - 32). */
struct quant_scale_sixteen {
    enum { OFFSET = false, CENTRE = 32 };
    uint32_t s[2]; /* a byte for each half block of the group, plus 128 */
    uint16_t half;
    float d;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t group = (uint32_t)(unit / QUANT_LANES);
        const uint2 raw = __ldcs((const uint2 *)m.scale + (row.group + group));

        s[0] = raw.x;
        s[1] = raw.y;
        half = ((const uint16_t *)m.step)[row.eighth + group / 2];
    }

    __device__ __forceinline__ void ready(int32_t)
    {
        s[0] ^= 0x80808080u;
        s[1] ^= 0x80808080u;
        d = weights_f16::one(half);
    }

    /* d s per, of one half of block b.  Exact: 32896 is 257 times a power of 2, a half times that
     * has 20 bits. */
    __device__ __forceinline__ float step(int b, int of, float per = 1.0f) const
    {
        return fmaf(d * per, byte_above(s[b / 2], b % 2 * 2 + of), d * (per * -32896.0f));
    }
};

/* d of 256 columns, numbers of 6 bits: d (s - 32) (integer - LESS). */
template <int LESS> struct quant_scale_signed {
    enum { OFFSET = false, CENTRE = LESS };
    uint32_t s; /* twice the number of the unit's columns of each block, a byte each */
    float d;

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        near(b, 0.0f, 1.0f, step, offset);
    }

    /* Exact, for integers of 3 bits. */
    __device__ __forceinline__ void near(int b, float more, float per, float *step,
                                         float *offset) const
    {
        *step = fmaf(d * (per * 32.0f), byte_twos(s, b), d * (per * -96.0f));
        *offset = *step * -(more + (float)LESS / per);
    }
};

/* A number for each 16 columns. */
struct quant_scale_three : quant_scale_signed<4> {
    uint32_t more;
    uint16_t half;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t group = (uint32_t)(unit / QUANT_LANES), at = row.eighth + group / 2;
        const uint32_t *scale = (const uint32_t *)m.scale + 3 * at;

        s = __ldcs(scale + group % 2);
        more = __ldcs(scale + 2);
        half = ((const uint16_t *)m.step)[at];
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const int i = unit % QUANT_LANES / 2, group = unit / QUANT_LANES % 2;

        s = (s >> 4 * i & 0x0f0f0f0fu) << 1 | (more >> 2 * (2 * group + i) & 0x03030303u) << 5;
        d = weights_f16::one(half);
    }
};

/* A number for each block. */
struct quant_scale_levels : quant_scale_signed<128> {
    uint32_t half; /* and the numbers' upper bits */

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint2 raw =
            __ldcs((const uint2 *)m.scale + (row.eighth + (uint32_t)(unit / QUANT_LANES / 2)));

        half = raw.x;
        s = raw.y;
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const int group = unit / QUANT_LANES % 2;
        const uint32_t two = half >> (16 + 8 * group) & 0xffu; /* bits of each block */
        const uint32_t high = (two | two << 6 | two << 12 | two << 18) & 0x03030303u;

        s = (s >> 4 * group & 0x0f0f0f0fu) << 1 | high << 5;
        d = weights_f16::one(half & 0xffffu);
    }
};

/* float32 scales beside 8-bit types: of the first block and of the last, 96 columns on. */
struct quant_scale_float {
    float first, last;
    int32_t column; /* where the first lies in its 128; one for all columns: 0 */

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        const float *at =
            (const float *)m.scale + ((row + m.scale_row) >> m.scale_shift) * m.scale_stride;
        const int32_t from = quant_column(unit, 0) + m.scale_col, most = m.scale_stride - 1;
        const int32_t to = (from + (QUANT_BLOCKS - 1) * QUANT_BLOCK) / 128;

        column = most > 0 ? from % 128 : 0;
        first = at[most > 0 ? from / 128 : 0];
        last = at[to < most ? to : most];
    }

    __device__ __forceinline__ float get(int b) const
    {
        return column + b * QUANT_BLOCK < 128 ? first : last;
    }
};

/* ---- types ----------------------------------------------------------------------------------- */

/* A unit: load(matrix, row, unit, whole), then ready(unit), which waits for it, then spread(b, out)
 * or near(b, out) for blocks 0 .. 3 of its group: 8 weights; of types whose scale is APART near
 * leaves out factor(b), for which a sum of products can be multiplied instead of each weight.
 *
 * SPLIT     columns are 4 and 4, with a scale each
 * INTEGER   bits of an integer, 0 of types that have floats
 * OFFSET    weights are step integer + offset; others step (integer - CENTRE) */
template <int BITS, typename Scale, typename Integers = quant_integers<BITS>> struct quant_blocks {
    enum { WHOLE = true }; /* columns are whole blocks */
    enum { APART = false };
    enum { SPLIT = false };
    enum { TOP = 7 - BITS }; /* an integer's lowest bit, if its highest is bit 6 of a byte */
    enum { INTEGER = BITS, OFFSET = Scale::OFFSET, CENTRE = Scale::CENTRE };
    Integers integers;
    Scale scale;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row, int32_t,
                                         int32_t unit, bool whole)
    {
        integers.load(m, row, unit, whole);
        scale.load(m, row, unit);
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        scale.ready(unit);
    }

    __device__ __forceinline__ float factor(int) const
    {
        return 1.0f;
    }

    __device__ __forceinline__ void spread(int b, float *out) const
    {
        float step, offset;

        scale.get(b, &step, &offset);
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            out[i] = fmaf(step, byte_float(integers.four(b, i / 4), i % 4), offset);
        }
    }

    __device__ __forceinline__ void near(int b, float *out) const
    {
        float step, offset;

        if (BITS == 8) { /* a half times 32896 has 20 bits */
            scale.near(b, 32768.0f, 1.0f, &step, &offset);
        } else {
            scale.near(b, 2.0f, (float)(1 << (BITS - 1)), &step, &offset);
        }
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            const uint32_t four = integers.four(b, i / 4, TOP);

            out[i] = BITS == 8 ? byte_above(four, i % 4) : byte_twos(four, i % 4);
            out[i] = fmaf(step, out[i], offset);
        }
    }
};

typedef quant_blocks<8, quant_scale_d<128>> quant_q8_0;
typedef quant_blocks<4, quant_scale_d<8>> quant_q4_0;
typedef quant_blocks<4, quant_scale_dm> quant_q4_1;
typedef quant_blocks<5, quant_scale_d<16>> quant_q5_0;
typedef quant_blocks<5, quant_scale_dm> quant_q5_1;
typedef quant_blocks<2, quant_scale_two> quant_q2_k;
typedef quant_blocks<3, quant_scale_three> quant_q3_k;
typedef quant_blocks<4, quant_scale_six> quant_q4_k;
typedef quant_blocks<5, quant_scale_six> quant_q5_k;
typedef quant_blocks<8, quant_scale_d<128>, quant_levels> quant_iq4_nl;

/* Its halves of blocks have scales of their own. */
struct quant_q6_k : quant_blocks<6, quant_scale_sixteen> {
    enum { SPLIT = true };

    __device__ __forceinline__ void spread(int b, float *out) const
    {
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            const float step = scale.step(b, i / 4);

            out[i] = fmaf(step, byte_float(integers.four(b, i / 4), i % 4), step * -32.0f);
        }
    }

    __device__ __forceinline__ void near(int b, float *out) const
    {
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            const float step = scale.step(b, i / 4, 32.0f);

            out[i] = byte_twos(integers.four(b, i / 4, TOP), i % 4);
            out[i] = fmaf(step, out[i], step * -3.0f);
        }
    }
};

/* A scale of 17 bits leaves no room for 2^15 levels of it. */
struct quant_iq4_xs : quant_blocks<8, quant_scale_levels, quant_levels> {
    __device__ __forceinline__ void near(int b, float *out) const
    {
        spread(b, out);
    }
};

/* The parts that every 8-bit type with float32 scales has. */
struct quant_eight {
    enum { WHOLE = false };
    enum { APART = true };
    enum { SPLIT = false };
    enum { OFFSET = false, CENTRE = 128 };
    quant_integers<8> integers;
    quant_scale_float scale;

    __device__ __forceinline__ void ready(int32_t)
    {
    }

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &at, int32_t row,
                                         int32_t unit, bool whole)
    {
        integers.load(m, at, unit, whole);
        scale.load(m, row, unit);
    }
};

struct quant_i8 : quant_eight {
    enum { INTEGER = 8 };

    __device__ __forceinline__ float factor(int b) const
    {
        return scale.get(b);
    }

    __device__ __forceinline__ void near(int b, float *out) const
    {
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            out[i] = byte_float(integers.four(b, i / 4), i % 4, 128.0f);
        }
    }

    __device__ __forceinline__ void spread(int b, float *out) const
    {
        const float step = scale.get(b), offset = step * -128.0f;

#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            out[i] = fmaf(step, byte_float(integers.four(b, i / 4), i % 4), offset);
        }
    }
};

/* Floats are halves in disguise, as in spc_f8_to_half; Hopper has an instruction for it. */
template <bool E4M3> struct quant_f8 : quant_eight {
    enum { INTEGER = 0 };
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    enum {CONVERTS = E4M3};
#else
    enum { CONVERTS = false };
#endif

    /* Two bytes, in the lower half of each 16 bits. */
    static __device__ __forceinline__ uint32_t halves(uint32_t two)
    {
        if (!E4M3) return two << 8;

        const uint32_t size = two & 0x007f007fu;
        const uint32_t nan = (size + 0x00010001u) & 0x00800080u; /* all ones: an exponent of 31 */

        return (two & 0x00800080u) << 8 | (size | nan) << 7;
    }

    __device__ __forceinline__ float factor(int b) const
    {
        return scale.get(b) * (E4M3 && !CONVERTS ? 256.0f : 1.0f); /* SPC_E4M3_UNIT */
    }

    __device__ __forceinline__ void near(int b, float *out) const
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t four = integers.four(b, half);

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
            if (CONVERTS) {
                uint32_t lower, upper;

                asm("{.reg .b16 x, y; mov.b32 {x, y}, %2; cvt.rn.f16x2.e4m3x2 %0, x; "
                    "cvt.rn.f16x2.e4m3x2 %1, y;}"
                    : "=r"(lower), "=r"(upper)
                    : "r"(four));
                weights_f16::pair(lower, out + 4 * half);
                weights_f16::pair(upper, out + 4 * half + 2);
                continue;
            }
#endif
            float even[2], odd[2];

            weights_f16::pair(halves(four & 0x00ff00ffu), even);
            weights_f16::pair(halves(four >> 8 & 0x00ff00ffu), odd);
#pragma unroll
            for (int i = 0; i < 4; i++) out[4 * half + i] = (i % 2 ? odd : even)[i / 2];
        }
    }

    __device__ __forceinline__ void spread(int b, float *out) const
    {
        const float all = factor(b);

        near(b, out);
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) out[i] *= all;
    }
};

typedef quant_f8<true> quant_e4m3;
typedef quant_f8<false> quant_e5m2;

/* call(unit of the type's kind) */
template <typename Call> static cudaError_t with_quant(spc_weight_type type, const Call &call)
{
    switch (type) {
    case SPC_WEIGHT_Q8_0: return call(quant_q8_0());
    case SPC_WEIGHT_Q4_0: return call(quant_q4_0());
    case SPC_WEIGHT_Q4_1: return call(quant_q4_1());
    case SPC_WEIGHT_Q5_0: return call(quant_q5_0());
    case SPC_WEIGHT_Q5_1: return call(quant_q5_1());
    case SPC_WEIGHT_IQ4_NL: return call(quant_iq4_nl());
    case SPC_WEIGHT_IQ4_XS: return call(quant_iq4_xs());
    case SPC_WEIGHT_Q2_K: return call(quant_q2_k());
    case SPC_WEIGHT_Q3_K: return call(quant_q3_k());
    case SPC_WEIGHT_Q4_K: return call(quant_q4_k());
    case SPC_WEIGHT_Q5_K: return call(quant_q5_k());
    case SPC_WEIGHT_Q6_K: return call(quant_q6_k());
    case SPC_WEIGHT_I8: return call(quant_i8());
    case SPC_WEIGHT_F8_E4M3: return call(quant_e4m3());
    default: return call(quant_e5m2());
    }
}

#endif
