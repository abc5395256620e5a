/* SPDX-License-Identifier: Apache-2.0 */
/* quant.cuh - units of quantised weights: what they are as float32.
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

#include "quant_eight.cuh"
#include "quant_integers.cuh"
#include "quant_planes.cuh"
#include "quant_scales.cuh"

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
    enum { SPLIT = Scale::SPLIT };
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
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            float step, offset;

            scale.get(b, i / 4, &step, &offset);
            out[i] = fmaf(step, byte_float(integers.four(b, i / 4), i % 4), offset);
        }
    }

    __device__ __forceinline__ void near(int b, float *out) const
    {
#pragma unroll
        for (int i = 0; i < QUANT_RUN; i++) {
            const uint32_t four = integers.four(b, i / 4, TOP);
            float step, offset;

            if (BITS == 8) { /* a half times 32896 has 20 bits */
                scale.near(b, i / 4, 32768.0f, 1.0f, &step, &offset);
            } else {
                scale.near(b, i / 4, 2.0f, (float)(1 << (BITS - 1)), &step, &offset);
            }
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
typedef quant_blocks<6, quant_scale_sixteen> quant_q6_k;
typedef quant_blocks<8, quant_scale_d<128>, quant_levels> quant_iq4_nl;

/* A scale of 17 bits leaves no room for 2^15 levels of it. */
struct quant_iq4_xs : quant_blocks<8, quant_scale_levels, quant_levels> {
    __device__ __forceinline__ void near(int b, float *out) const
    {
        spread(b, out);
    }
};

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
