/* SPDX-License-Identifier: Apache-2.0 */
/* portable.h - what the rules need from a compiler: one spelling for C and CUDA, one exp2, one log.
 *
 * exp2 and log are spelled out in IEEE additions, multiplications and divisions, so that every
 * CPU returns the same bits (a libm differs in the last one) and compilers can vectorise them.
 * They are exact only with -ffp-contract=off (nvcc: --fmad=false) and without fast-math.
 *
 * SPC_REAL is float in the product.  The tests compile the same headers with double, where the
 * identities of the rules must hold to 1e-12. */
#ifndef SPC_RULES_PORTABLE_H
#define SPC_RULES_PORTABLE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define SPC_FN static __host__ __device__ __forceinline__
#else
#define SPC_FN static inline
#endif

#include <math.h> /* sqrt */

#ifndef SPC_REAL
#define SPC_REAL float
#else
#define SPC_REAL_IS_DOUBLE 1
#endif
typedef SPC_REAL spc_real;

#define SPC_INFINITY ((float)(1e300 * 1e300))

SPC_FN float spc_bits_float(uint32_t bits)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    union {
        uint32_t u;
        float f;
    } pun;
    pun.u = bits;
    return pun.f;
#endif
}

SPC_FN uint32_t spc_float_bits(float value)
{
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    union {
        uint32_t u;
        float f;
    } pun;
    pun.f = value;
    return pun.u;
#endif
}

/* How many bits of a word are set. */
SPC_FN int32_t spc_bits_set(uint32_t word)
{
#ifdef __CUDA_ARCH__
    return __popc(word);
#else
    return __builtin_popcount(word);
#endif
}

/* 2^x for x <= 0, within 1.5 units in the last place; 0 below -126 and for -inf.
 *
 * x = n + f with f in [-1/2, 1/2]; adding 1.5 * 2^23 leaves n in the low bits.  The polynomial is
 * the series of 2^f with its last coefficients fitted to the interval.
 *
 * A GPU takes the unit it has for this, one instruction instead of twenty (2 units in the last
 * place): rows of logits are read faster than twenty would let them.  Its kernels agree among
 * themselves to the bit; with SPC_EXACT_EXP2 they agree with the CPU too. */
SPC_FN float spc_exp2(float x)
{
#if defined(__CUDA_ARCH__) && !defined(SPC_EXACT_EXP2)
    float result;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    float bounded = x > -126.0f ? x : -126.0f;
    float shifted = bounded + 12582912.0f;
    float f = bounded - (shifted - 12582912.0f);
    float power = spc_bits_float((spc_float_bits(shifted) << 23) + 0x3f800000u);
    float y = 1.535336196e-4f;

    y = y * f + 1.339887502e-3f;
    y = y * f + 9.618436918e-3f;
    y = y * f + 5.550332367e-2f;
    y = y * f + 2.402264774e-1f;
    y = y * f + 6.931471825e-1f;
    y = y * f + 1.0f;
    return x > -126.0f ? y * power : 0.0f;
#endif
}

/* ln x for normal x > 0, relative error below 3e-7 also next to 1.
 *
 * x = 2^k m with m in [sqrt(1/2), sqrt 2); ln m = 2 atanh((m - 1) / (m + 1)). */
SPC_FN float spc_log(float x)
{
    uint32_t bits = spc_float_bits(x) - 0x3f3504f3u;
    float k = (float)((int32_t)bits >> 23);
    float f = spc_bits_float((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float s = f / (2.0f + f);
    float z = s * s;
    float y = 1.0f / 9.0f;

    y = y * z + 1.0f / 7.0f;
    y = y * z + 1.0f / 5.0f;
    y = y * z + 1.0f / 3.0f;
    y = y * z + 1.0f;
    return k * 0.69314718f + 2.0f * s * y;
}

/* IEEE square roots are correctly rounded: every platform has the same. */
SPC_FN spc_real spc_real_sqrt(spc_real x)
{
#ifdef SPC_REAL_IS_DOUBLE
    return sqrt(x);
#elif defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return sqrtf(x);
#endif
}

/* ln of a positive spc_real: for the few logarithms that are taken once per row. */
SPC_FN spc_real spc_real_log(spc_real x)
{
#ifdef SPC_REAL_IS_DOUBLE
    return log(x);
#else
    return spc_log(x);
#endif
}

#endif
