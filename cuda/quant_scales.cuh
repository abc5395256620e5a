/* SPDX-License-Identifier: Apache-2.0 */
/* quant_scales.cuh - scales of GGUF's quantised weights: those of a unit's four blocks, or of their
 * halves where types are SPLIT.
 *
 * load and ready are a unit's (quant.cuh); get and near give step and offset of half a block, get
 * for its integers, near for numbers `more` + integer / `per`. */
#ifndef SPC_CUDA_QUANT_SCALES_CUH
#define SPC_CUDA_QUANT_SCALES_CUH

#include "quant_integers.cuh"

/* A block's d; a weight is d (integer - LESS). */
template <int LESS> struct quant_scale_d {
    enum { SPLIT = false, OFFSET = false, CENTRE = LESS };
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

    __device__ __forceinline__ void get(int b, int, float *step, float *offset) const
    {
        *step = weights_f16::one(pair[b / 2] >> (b % 2 * 16) & 0xffffu);
        *offset = *step * (float)-LESS;
    }

    /* Both exact. */
    __device__ __forceinline__ void near(int b, int, float more, float per, float *step,
                                         float *offset) const
    {
        const float d = weights_f16::one(pair[b / 2] >> (b % 2 * 16) & 0xffffu);

        *step = d * per;
        *offset = d * -(more * per + (float)LESS);
    }
};

/* A block's d and m. */
struct quant_scale_dm {
    enum { SPLIT = false, OFFSET = true, CENTRE = 0 };
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

    __device__ __forceinline__ void get(int b, int, float *step, float *offset) const
    {
        *step = weights_f16::one(pair[b] & 0xffffu);
        *offset = weights_f16::one(pair[b] >> 16);
    }

    __device__ __forceinline__ void near(int b, int, float more, float per, float *step,
                                         float *offset) const
    {
        float d, m;

        get(b, 0, &d, &m);
        *step = d * per;
        *offset = fmaf(d, -(more * per), m);
    }
};

/* d and e of 256 columns, numbers of up to 6 bits: d s and - e m.
 *
 * NUMBERS   of a block: 2, a half has its own */
template <int NUMBERS> struct quant_scale_de {
    enum { SPLIT = NUMBERS == 2, OFFSET = true, CENTRE = 0 };
    uint32_t de, s[NUMBERS], m[NUMBERS]; /* s, m: twice the number of each block, a byte each */

    /* d factor number, a number of 6 bits times a half: exact. */
    static __device__ __forceinline__ float scaled(float d, float factor, uint32_t numbers, int b)
    {
        return fmaf(d * (32.0f * factor), byte_twos(numbers, b), d * (-64.0f * factor));
    }

    __device__ __forceinline__ void get(int b, int half, float *step, float *offset) const
    {
        const int of = SPLIT ? half : 0;

        *step = scaled(weights_f16::one(de & 0xffffu), 1.0f, s[of], b);
        *offset = scaled(weights_f16::one(de >> 16), -1.0f, m[of], b);
    }

    __device__ __forceinline__ void near(int b, int half, float more, float per, float *step,
                                         float *offset) const
    {
        const float d = weights_f16::one(de & 0xffffu), e = weights_f16::one(de >> 16);
        const int of = SPLIT ? half : 0;

        *step = scaled(d, per, s[of], b);
        *offset = fmaf(*step, -more, scaled(e, -1.0f, m[of], b));
    }
};

/* Of 6 bits for each block. */
struct quant_scale_six : quant_scale_de<1> {
    uint32_t more;

    __device__ __forceinline__ void load(const spc_cuda_matrix &matrix, const quant_row &row,
                                         int32_t unit)
    {
        const uint4 raw =
            __ldcs((const uint4 *)matrix.scale + (row.eighth + (uint32_t)(unit / QUANT_LANES / 2)));

        de = raw.x;
        s[0] = raw.y;
        m[0] = raw.z;
        more = raw.w;
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const uint32_t d = s[0], e = m[0];
        const bool even = unit / QUANT_LANES % 2 == 0;

        s[0] = even ? d << 1 & 0x7e7e7e7eu : (more << 1 & 0x1e1e1e1eu) | (d >> 1 & 0x60606060u);
        m[0] = even ? e << 1 & 0x7e7e7e7eu : (more >> 3 & 0x1e1e1e1eu) | (e >> 1 & 0x60606060u);
    }
};

/* Of 4 bits for each half. */
struct quant_scale_two : quant_scale_de<2> {
    uint32_t raw[2];

    __device__ __forceinline__ void load(const spc_cuda_matrix &matrix, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t group = (uint32_t)(unit / QUANT_LANES);
        const uint2 both = __ldcs((const uint2 *)matrix.scale + (row.group + group));

        raw[0] = both.x;
        raw[1] = both.y;
        de = ((const uint32_t *)matrix.step)[row.eighth + group / 2];
    }

    __device__ __forceinline__ void ready(int32_t)
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t both = __byte_perm(raw[0], raw[1], half ? 0x7531u : 0x6420u);

            s[half] = both << 1 & 0x1e1e1e1eu;
            m[half] = both >> 3 & 0x1e1e1e1eu;
        }
    }
};

/* d of 256 columns, a signed byte for each 16: d s (integer - 32). */
struct quant_scale_sixteen {
    enum { SPLIT = true, OFFSET = false, CENTRE = 32 };
    uint32_t s[2]; /* a byte for each half block of the group, plus 128 */
    uint16_t half_d;
    float d;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t group = (uint32_t)(unit / QUANT_LANES);
        const uint2 raw = __ldcs((const uint2 *)m.scale + (row.group + group));

        s[0] = raw.x;
        s[1] = raw.y;
        half_d = ((const uint16_t *)m.step)[row.eighth + group / 2];
    }

    __device__ __forceinline__ void ready(int32_t)
    {
        s[0] ^= 0x80808080u;
        s[1] ^= 0x80808080u;
        d = weights_f16::one(half_d);
    }

    __device__ __forceinline__ void get(int b, int half, float *step, float *offset) const
    {
        near(b, half, 0.0f, 1.0f, step, offset);
    }

    /* Exact: 32896 is 257 times a power of 2, a half times that has 20 bits. */
    __device__ __forceinline__ void near(int b, int half, float more, float per, float *step,
                                         float *offset) const
    {
        *step = fmaf(d * per, byte_above(s[b / 2], b % 2 * 2 + half), d * (per * -32896.0f));
        *offset = *step * -(more + (float)CENTRE / per);
    }
};

/* d of 256 columns, numbers of 6 bits: d (s - 32) (integer - LESS).
 *
 * NUMBERS   as above */
template <int LESS, int NUMBERS> struct quant_scale_signed {
    enum { SPLIT = NUMBERS == 2, OFFSET = false, CENTRE = LESS };
    uint32_t s[NUMBERS]; /* twice the number of each block, a byte each */
    float d;

    __device__ __forceinline__ void get(int b, int half, float *step, float *offset) const
    {
        near(b, half, 0.0f, 1.0f, step, offset);
    }

    /* Exact, for integers of 3 bits. */
    __device__ __forceinline__ void near(int b, int half, float more, float per, float *step,
                                         float *offset) const
    {
        *step = fmaf(d * (per * 32.0f), byte_twos(s[SPLIT ? half : 0], b), d * (per * -96.0f));
        *offset = *step * -(more + (float)LESS / per);
    }
};

/* A number for each half. */
struct quant_scale_three : quant_scale_signed<4, 2> {
    uint32_t low, high; /* bits */
    uint16_t half_d;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t group = (uint32_t)(unit / QUANT_LANES), at = row.eighth + group / 2;
        const uint32_t *scale = (const uint32_t *)m.scale + 3 * at;

        low = __ldcs(scale + group % 2);
        high = __ldcs(scale + 2);
        half_d = ((const uint16_t *)m.step)[at];
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const int group = unit / QUANT_LANES % 2;

#pragma unroll
        for (int half = 0; half < 2; half++) {
            s[half] = (low >> 4 * half & 0x0f0f0f0fu) << 1 |
                      (high >> 2 * (2 * group + half) & 0x03030303u) << 5;
        }
        d = weights_f16::one(half_d);
    }
};

/* A number for each block. */
struct quant_scale_levels : quant_scale_signed<128, 1> {
    uint32_t half; /* and the numbers' upper bits */

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint2 raw =
            __ldcs((const uint2 *)m.scale + (row.eighth + (uint32_t)(unit / QUANT_LANES / 2)));

        half = raw.x;
        s[0] = raw.y;
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const int group = unit / QUANT_LANES % 2;
        const uint32_t two = half >> (16 + 8 * group) & 0xffu; /* bits of each block */
        const uint32_t high = (two | two << 6 | two << 12 | two << 18) & 0x03030303u;

        s[0] = (s[0] >> 4 * group & 0x0f0f0f0fu) << 1 | high << 5;
        d = weights_f16::one(half & 0xffffu);
    }
};

#endif
