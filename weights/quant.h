/* SPDX-License-Identifier: Apache-2.0 */
/* quant.h - quantised weights: what the blocks of each format stand for.
 *
 * A row of a quantised tensor is a run of blocks; a block holds scales and small integers q.  An
 * entry is
 *
 *   Q8_0         d q                 q in -128 .. 127
 *   Q4_0, Q5_0   d (q - 8), d (q - 16)
 *   Q4_1, Q5_1   d q + m
 *   Q2_K         (d s) q - (e m)     s, m: 4 bits for each 16 entries; d, e: for each 256
 *   Q4_K, Q5_K   (d s) q - (e m)     s, m: 6 bits for each 32 entries; d, e: for each 256
 *   Q3_K, Q6_K   (d s) (q - 4), (d s) (q - 32)
 *                                    s: 6, 8 bits for each 16 entries; d: for each 256
 *   IQ4_NL       d level[q]
 *   IQ4_XS       (d s) level[q]      s: 6 bits for each 32 entries; d: for each 256
 *
 * with d, e and m of Q4_1, Q5_1 as float16.  Layouts are ggml's; quant.c is their definition here
 * and rounds as the reference does, operation by operation in float32. */
#ifndef SPC_WEIGHTS_QUANT_H
#define SPC_WEIGHTS_QUANT_H

#include <stdbool.h>

#include "tensor.h"

/* What the 4 bits of IQ4_NL and IQ4_XS stand for: denser around 0, as weights are. */
#define SPC_QUANT_LEVELS -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113

static inline float spc_half_to_float(uint16_t half)
{
    union {
        uint32_t u;
        float f;
    } pun;
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u,
             part = half & 1023u;

    if (exponent == 31) {
        pun.u = sign | 0x7f800000u | part << 13;
    } else if (exponent > 0) {
        pun.u = sign | (exponent + 112) << 23 | part << 13;
    } else { /* subnormal: part * 2^-24 */
        pun.f = (float)part * 5.9604645e-8f;
        pun.u |= sign;
    }
    return pun.f;
}

static inline float spc_bfloat_to_float(uint16_t value)
{
    union {
        uint32_t u;
        float f;
    } pun;

    pun.u = (uint32_t)value << 16;
    return pun.f;
}

/* An 8-bit float as a half.  Of F8_E4M3 (finite, NaN is all ones; as in safetensors) it is the
 * value over SPC_E4M3_UNIT, exactly; F8_E5M2 is the upper byte of a half. */
#define SPC_E4M3_UNIT 256.0f

static inline uint16_t spc_f8_to_half(spc_dtype dtype, uint8_t value)
{
    if (dtype == SPC_DTYPE_F8_E5M2) return (uint16_t)(value << 8);
    return (uint16_t)((value & 0x80) << 8 | (value & 0x7f) << 7 |
                      ((value & 0x7f) == 0x7f ? 0x7e00 : 0));
}

static inline bool spc_dtype_is_f8(spc_dtype dtype)
{
    return dtype == SPC_DTYPE_F8_E4M3 || dtype == SPC_DTYPE_F8_E5M2;
}

/* 8-bit types whose entries are multiplied with scales that lie in a tensor beside theirs. */
static inline bool spc_dtype_is_scaled(spc_dtype dtype)
{
    return spc_dtype_is_f8(dtype) || dtype == SPC_DTYPE_I8;
}

/* The 8 pairs of 6-bit numbers of a Q4_K or Q5_K block, from its 12 bytes. */
void spc_quant_scales(const uint8_t bytes[12], uint8_t scale[8], uint8_t min[8]);

/* The 16 numbers of 6 bits of a Q3_K block, 32 too large, from its 12 bytes. */
void spc_quant_scales_q3(const uint8_t bytes[12], uint8_t scale[16]);

/* Is there a conversion to float: F32, F16, BF16, the 8-bit floats and every type with blocks? */
bool spc_dtype_is_float(spc_dtype dtype);

/* Entries to float32: `count` of them (whole blocks), from the first on; of I8 the integers.
 *
 * data   blocks; no alignment needed for types with blocks */
void spc_dequantise(spc_dtype dtype, const void *data, int64_t count, float *out);

#endif
