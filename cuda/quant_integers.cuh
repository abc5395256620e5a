/* SPDX-License-Identifier: Apache-2.0 */
/* quant_integers.cuh - the integers of quantised weights: how a unit's bits become bytes, and bytes
 * floats. */
#ifndef SPC_CUDA_QUANT_INTEGERS_CUH
#define SPC_CUDA_QUANT_INTEGERS_CUH

#include "quant_planes.cuh"

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

static __device__ __forceinline__ void spread4(uint4 raw, uint32_t *word)
{
    word[0] = raw.x;
    word[1] = raw.y;
    word[2] = raw.z;
    word[3] = raw.w;
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
    uint32_t word[THIRD ? 3 : 2]; /* the last: high bits */

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit, bool)
    {
        const uint32_t at = row.unit + (uint32_t)unit;
        const uint2 both = __ldcs((const uint2 *)m.data + at);

        word[0] = both.x;
        word[1] = both.y;
        if (THIRD) word[THIRD * 2] = __ldcs((const uint32_t *)m.high + at);
    }

    __device__ __forceinline__ uint32_t four(int b, int half, int to = 0) const
    {
        const uint32_t low = moved(word[b / 2], 2 * (2 * (b % 2) + half), to) & 0x03030303u << to;

        if (!THIRD) return low;
        return (moved(word[THIRD * 2], 2 * b + half, 2 + to) & 0x04040404u << to) | low;
    }

    __device__ __forceinline__ uint32_t two(int b, int half, int i, int to, uint32_t beside) const
    {
        const int at = 2 * (2 * (b % 2) + half) + 8 * i;
        const uint32_t low = (moved(word[b / 2], at, to) & 0x00030003u << to) | beside;

        if (!THIRD) return low;
        return (moved(word[THIRD * 2], 8 * i + 2 * b + half, 2 + to) & 0x00040004u << to) | low;
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

#endif
