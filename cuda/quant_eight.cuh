/* SPDX-License-Identifier: Apache-2.0 */
/* quant_eight.cuh - units of the 8-bit types that have float32 scales beside them: integers and
 * floats of safetensors.  What a unit is: quant.cuh. */
#ifndef SPC_CUDA_QUANT_EIGHT_CUH
#define SPC_CUDA_QUANT_EIGHT_CUH

#include "quant_integers.cuh"

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

#endif
