/* SPDX-License-Identifier: Apache-2.0 */
/* rough.h - in front of the kernels: 2^x that errs as a GPU's unit for it may.
 *
 * Kernels take one instruction for 2^x (rules/portable.h), which is within 2 units in the last
 * place of the true value, and whose errors differ from those of the CPU's polynomial.  Fibers have
 * the polynomial, so that they agree with the CPU to the bit.  Compiled behind this they do not,
 * and tests are held to what they demand of a device. */
#ifndef SPC_TESTS_ROUGH_H
#define SPC_TESTS_ROUGH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define spc_exp2 spc_exp2_of_the_cpu
#include "rules/portable.h"
#undef spc_exp2

/* 2^x, up to 2^-22 off in either direction as the bits of x have it; 2^0 is 1, and what is not a
 * normal number is 0 (ex2.approx.ftz.f32 in the PTX ISA). */
static inline float spc_exp2(float x)
{
    const uint32_t mixed = (spc_float_bits(x) * 2654435769u) >> 8; /* 24 bits */
    const double off = ((double)mixed / (1 << 23) - 1) * 0x1p-22;
    const float y = (float)(exp2((double)x) * (1 + (x == 0.0f ? 0 : off)));

    return y < 0x1p-126f ? 0.0f : y;
}

#endif
