/* SPDX-License-Identifier: Apache-2.0 */
/* quant.cuh - quantised weights as they lie on the device, and what they are as float32.
 *
 * A row is cut into blocks of 32 columns, four of which are a group.  Of a group's columns lane q
 * of four takes 8 q .. 8 q + 7 of each block: with 16 bytes at once from the weights it uses 32
 * bytes at once of the activations.  Planes (spc_cuda_matrix), for each row:
 *
 *   data    [group, q, block] 8 weights: 4 bytes, byte k the low 4 bits of columns k and 4 + k; of
 *           8-bit types [group, pair of blocks, q, block of the pair] 8 bytes, integers plus 128
 *   high    Q5_*: [group, q] 4 bytes; bit 2 block + half of byte k is bit 4 of column 4 half + k
 *           Q6_K: [group, q, pair of blocks] 4 bytes; the two bits at 2 (2 (block % 2) + half) of
 *           byte k are bits 4 and 5 of that column
 *   scale   Q8_0, Q4_0, Q5_0: [group, block] half d; Q4_1, Q5_1: half d, m
 *           Q4_K, Q5_K: [256 columns] half d, e, then ggml's 12 bytes of 6-bit numbers
 *           Q6_K: [group, 16 columns] signed bytes
 *   step    Q6_K: [256 columns] half d
 *
 * The last group may have fewer blocks: its data are as short, its scales padded with 0.
 *
 * Integers become floats by the bits of 2^23 + integer.  A weight is step integer + offset, fused:
 * but for float32 scales step integer is exact (a half times 6 or 8 bits times up to 8 bits), so
 * that the one rounding is that of weights/quant.c; and where offset is a multiple of step, fused
 * or not, it is that of the scaled integer. */
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

/* The first column of a unit in block b of its group. */
static __device__ __forceinline__ int32_t quant_column(int32_t unit, int b)
{
    return (unit / QUANT_LANES * QUANT_BLOCKS + b) * QUANT_BLOCK + unit % QUANT_LANES * QUANT_RUN;
}

/* Byte i, without sign, as float. */
static __device__ __forceinline__ float byte_float(uint32_t bytes, int i)
{
    return spc_bits_float(__byte_perm(bytes, 0x4b000000u, 0x7440u | (uint32_t)i)) - 8388608.0f;
}

/* ---- integers -------------------------------------------------------------------------------- */

static __device__ __forceinline__ void spread4(uint4 raw, uint32_t *word)
{
    word[0] = raw.x;
    word[1] = raw.y;
    word[2] = raw.z;
    word[3] = raw.w;
}

/* A unit's 32 integers of BITS bits. */
template <int BITS> struct quant_integers {
    uint32_t word[4], high[2];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        const int32_t group = unit / QUANT_LANES, q = unit % QUANT_LANES;
        const int32_t blocks = m.stride - group * QUANT_BLOCKS;
        const char *data = (const char *)m.data + (row * m.stride + group * QUANT_BLOCKS) * 16;
        const uint32_t *more =
            (const uint32_t *)m.high + (row * quant_units(m.stride) + unit) * (BITS - 4);

        if (blocks >= QUANT_BLOCKS) {
            spread4(__ldcs((const uint4 *)data + q), word);
        } else {
#pragma unroll
            for (int b = 0; b < QUANT_BLOCKS; b++) {
                word[b] = b < blocks ? __ldcs((const uint32_t *)data + q * blocks + b) : 0;
            }
        }
        if (BITS > 4) high[0] = __ldcs(more);
        if (BITS > 5) high[1] = __ldcs(more + 1);
    }

    /* The bits beyond 4 of block b's columns 4 half .. 4 half + 3, at bit 4 of each byte. */
    __device__ __forceinline__ uint32_t beyond(int b, int half) const
    {
        const int at = BITS == 5 ? 2 * b + half : 2 * (2 * (b % 2) + half);
        const uint32_t bits = high[BITS == 5 ? 0 : b / 2];

        return (at < 4 ? bits << (4 - at) : bits >> (at - 4)) &
               (BITS == 5 ? 0x10101010u : 0x30303030u);
    }

    /* Four bytes of block b. */
    __device__ __forceinline__ uint32_t four(int b, int half) const
    {
        const uint32_t low = word[b] >> (4 * half) & 0x0f0f0f0fu;

        return BITS == 4 ? low : low | beyond(b, half);
    }
};

template <> struct quant_integers<8> {
    uint32_t word[8];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        const int32_t group = unit / QUANT_LANES, q = unit % QUANT_LANES;
        const int32_t blocks = m.stride - group * QUANT_BLOCKS;
        const char *data = (const char *)m.data + (row * m.stride + group * QUANT_BLOCKS) * 32;

        if (blocks >= QUANT_BLOCKS) {
            spread4(__ldcs((const uint4 *)data + q), word);
            spread4(__ldcs((const uint4 *)data + QUANT_LANES + q), word + 4);
            return;
        }
#pragma unroll
        for (int b = 0; b < QUANT_BLOCKS; b++) {
            const int32_t beside = blocks - b / 2 * 2 >= 2 ? 2 : 1;
            const uint32_t *at =
                (const uint32_t *)(data + b / 2 * 64 + (q * beside + b % 2) * QUANT_RUN);

            word[2 * b] = b < blocks ? __ldcs(at) : 0;
            word[2 * b + 1] = b < blocks ? __ldcs(at + 1) : 0;
        }
    }

    __device__ __forceinline__ uint32_t four(int b, int half) const
    {
        return word[2 * b + half];
    }
};

/* ---- scales ---------------------------------------------------------------------------------- */

/* A block's d; a weight is d (integer - LESS). */
template <int LESS> struct quant_scale_d {
    uint32_t pair[2];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        const int32_t groups = quant_units(m.stride) / QUANT_LANES;
        const uint2 raw = __ldcs((const uint2 *)m.scale + row * groups + unit / QUANT_LANES);

        pair[0] = raw.x;
        pair[1] = raw.y;
    }

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        *step = weights_f16::one(pair[b / 2] >> (b % 2 * 16) & 0xffffu);
        *offset = *step * (float)-LESS;
    }
};

/* A block's d and m. */
struct quant_scale_dm {
    uint32_t pair[4];

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        const int32_t groups = quant_units(m.stride) / QUANT_LANES;

        spread4(__ldcs((const uint4 *)m.scale + row * groups + unit / QUANT_LANES), pair);
    }

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        *step = weights_f16::one(pair[b] & 0xffffu);
        *offset = weights_f16::one(pair[b] >> 16);
    }
};

/* d and e of 256 columns, numbers of 6 bits for each block: d s and - e m. */
struct quant_scale_six {
    uint32_t de, s, m; /* s, m: a byte for each block of the group */

    __device__ __forceinline__ void load(const spc_cuda_matrix &matrix, int64_t row, int32_t unit)
    {
        const int32_t group = unit / QUANT_LANES;
        const uint4 raw =
            __ldcs((const uint4 *)matrix.scale + row * (matrix.stride / 8) + group / 2);

        de = raw.x;
        s = group % 2 == 0 ? raw.y & 0x3f3f3f3fu
                           : (raw.w & 0x0f0f0f0fu) | (raw.y >> 6 & 0x03030303u) << 4;
        m = group % 2 == 0 ? raw.z & 0x3f3f3f3fu
                           : (raw.w >> 4 & 0x0f0f0f0fu) | (raw.z >> 6 & 0x03030303u) << 4;
    }

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        *step = weights_f16::one(de & 0xffffu) * byte_float(s, b);
        *offset = -(weights_f16::one(de >> 16) * byte_float(m, b));
    }
};

/* d of 256 columns, a signed byte for each 16: d s (integer - 32). */
struct quant_scale_sixteen {
    uint32_t s; /* a byte for each block of the group, plus 128 */
    float d;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        const int32_t group = unit / QUANT_LANES, groups = m.stride / QUANT_BLOCKS;
        const uint2 raw = __ldcs((const uint2 *)m.scale + row * groups + group);
        const uint16_t *step = (const uint16_t *)m.step + row * (m.stride / 8) + group / 2;

        s = __byte_perm(raw.x, raw.y, unit % QUANT_LANES < 2 ? 0x6420u : 0x7531u) ^ 0x80808080u;
        d = weights_f16::one(*step);
    }

    __device__ __forceinline__ void get(int b, float *step, float *offset) const
    {
        *step = d * (byte_float(s, b) - 128.0f);
        *offset = *step * -32.0f;
    }
};

/* float32 scales beside 8-bit types. */
struct quant_scale_float {
    const float *at;
    int32_t column; /* of a unit; -1: one for all columns */

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        at = (const float *)m.scale + ((row + m.scale_row) >> m.scale_shift) * m.scale_stride;
        column = m.scale_stride > 1 ? quant_column(unit, 0) + m.scale_col : -1;
    }

    __device__ __forceinline__ float get(int b) const
    {
        return at[column < 0 ? 0 : (column + b * QUANT_BLOCK) / 128];
    }
};

/* ---- types ----------------------------------------------------------------------------------- */

/* A unit: load(matrix, row, unit), then spread(b, out) for blocks 0 .. 3 of its group: 8 weights.
 */
template <int BITS, typename Scale> struct quant_blocks {
    quant_integers<BITS> integers;
    Scale scale;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        integers.load(m, row, unit);
        scale.load(m, row, unit);
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
};

typedef quant_blocks<8, quant_scale_d<128>> quant_q8_0;
typedef quant_blocks<4, quant_scale_d<8>> quant_q4_0;
typedef quant_blocks<4, quant_scale_dm> quant_q4_1;
typedef quant_blocks<5, quant_scale_d<16>> quant_q5_0;
typedef quant_blocks<5, quant_scale_dm> quant_q5_1;
typedef quant_blocks<4, quant_scale_six> quant_q4_k;
typedef quant_blocks<5, quant_scale_six> quant_q5_k;
typedef quant_blocks<6, quant_scale_sixteen> quant_q6_k;

/* The parts that every 8-bit type with float32 scales has. */
struct quant_eight {
    quant_integers<8> integers;
    quant_scale_float scale;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, int64_t row, int32_t unit)
    {
        integers.load(m, row, unit);
        scale.load(m, row, unit);
    }
};

struct quant_i8 : quant_eight {
    __device__ __forceinline__ void spread(int b, float *out) const
    {
        const float step = scale.get(b), offset = step * -128.0f;

#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            out[i] = fmaf(step, byte_float(integers.four(b, i / 4), i % 4), offset);
        }
    }
};

/* Floats are halves in disguise, as in spc_f8_to_half. */
template <bool E4M3> struct quant_f8 : quant_eight {
    /* Two bytes, in the lower half of each 16 bits. */
    static __device__ __forceinline__ uint32_t halves(uint32_t two)
    {
        if (!E4M3) return two << 8;

        const uint32_t size = two & 0x007f007fu;
        const uint32_t nan = (size + 0x00010001u) & 0x00800080u; /* all ones: an exponent of 31 */

        return (two & 0x00800080u) << 8 | (size | nan) << 7;
    }

    __device__ __forceinline__ void spread(int b, float *out) const
    {
        const float factor = scale.get(b) * (E4M3 ? 256.0f : 1.0f); /* SPC_E4M3_UNIT */

#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t four = integers.four(b, half);
            float even[2], odd[2];

            weights_f16::pair(halves(four & 0x00ff00ffu), even);
            weights_f16::pair(halves(four >> 8 & 0x00ff00ffu), odd);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                out[4 * half + i] = (i % 2 ? odd : even)[i / 2] * factor;
            }
        }
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
    case SPC_WEIGHT_Q4_K: return call(quant_q4_k());
    case SPC_WEIGHT_Q5_K: return call(quant_q5_k());
    case SPC_WEIGHT_Q6_K: return call(quant_q6_k());
    case SPC_WEIGHT_I8: return call(quant_i8());
    case SPC_WEIGHT_F8_E4M3: return call(quant_e4m3());
    default: return call(quant_e5m2());
    }
}

#endif
