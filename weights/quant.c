/* SPDX-License-Identifier: Apache-2.0 */
/* quant.c - from blocks to numbers, one plain loop per format: the definition that faster code is
 * tested against. */
#include "quant.h"

#include <string.h>

static const int8_t level[16] = {SPC_QUANT_LEVELS};

static float half_at(const uint8_t *bytes)
{
    return spc_half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* Bit i of 32 that stand in four bytes. */
static int32_t bit_at(const uint8_t *bytes, int32_t i)
{
    return bytes[i / 8] >> (i % 8) & 1;
}

/* ---- blocks of 32 -----------------------------------------------------------------------------
 */

/* half d; int8 q[32] */
static void q8_0(const uint8_t *b, float *out)
{
    float d = half_at(b);

    for (int32_t i = 0; i < 32; i++) out[i] = d * (float)(int8_t)b[2 + i];
}

/* Entries 0 .. 15 are low halves of bytes, 16 .. 31 high ones. */
static int32_t nibble_at(const uint8_t *bytes, int32_t i)
{
    return i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4;
}

/* half d; q[16] */
static void q4_0(const uint8_t *b, float *out)
{
    float d = half_at(b);

    for (int32_t i = 0; i < 32; i++) out[i] = d * (float)(nibble_at(b + 2, i) - 8);
}

/* half d, m; q[16] */
static void q4_1(const uint8_t *b, float *out)
{
    float d = half_at(b), m = half_at(b + 2);

    for (int32_t i = 0; i < 32; i++) out[i] = d * (float)nibble_at(b + 4, i) + m;
}

/* half d; fifth bits[4]; q[16] */
static void q5_0(const uint8_t *b, float *out)
{
    float d = half_at(b);

    for (int32_t i = 0; i < 32; i++) {
        out[i] = d * (float)((nibble_at(b + 6, i) | bit_at(b + 2, i) << 4) - 16);
    }
}

/* half d, m; fifth bits[4]; q[16] */
static void q5_1(const uint8_t *b, float *out)
{
    float d = half_at(b), m = half_at(b + 2);

    for (int32_t i = 0; i < 32; i++) {
        out[i] = d * (float)(nibble_at(b + 8, i) | bit_at(b + 4, i) << 4) + m;
    }
}

/* half d; q[16] */
static void iq4_nl(const uint8_t *b, float *out)
{
    float d = half_at(b);

    for (int32_t i = 0; i < 32; i++) out[i] = d * (float)level[nibble_at(b + 2, i)];
}

/* ---- blocks of 256 ----------------------------------------------------------------------------
 */

/* The first four numbers of each kind are the low six bits of a byte; the last four have their low
 * four bits in the last four bytes and their high two bits on top of the first. */
void spc_quant_scales(const uint8_t bytes[12], uint8_t scale[8], uint8_t min[8])
{
    for (int32_t i = 0; i < 4; i++) {
        scale[i] = bytes[i] & 63;
        min[i] = bytes[i + 4] & 63;
        scale[i + 4] = (uint8_t)((bytes[i + 8] & 15) | bytes[i] >> 6 << 4);
        min[i + 4] = (uint8_t)(bytes[i + 8] >> 4 | bytes[i + 4] >> 6 << 4);
    }
}

/* Their low four bits are the low halves of eight bytes, then the high ones; their high two bits
 * are pairs of bits of the four bytes behind. */
void spc_quant_scales_q3(const uint8_t bytes[12], uint8_t scale[16])
{
    for (int32_t i = 0; i < 16; i++) {
        int32_t low = bytes[i % 8] >> (i / 8 * 4) & 15, high = bytes[8 + i % 4] >> (i / 4 * 2) & 3;

        scale[i] = (uint8_t)(low | high << 4);
    }
}

/* Of 256 entries in two bits each: each 128 are four pairs of bits of 32 bytes. */
static int32_t pair_at(const uint8_t *bytes, int32_t i)
{
    return bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

/* scales[16]; q[64]; half d, e.  A byte of scales is s below m. */
static void q2_k(const uint8_t *b, float *out)
{
    float d = half_at(b + 80), e = half_at(b + 82);

    for (int32_t i = 0; i < 256; i++) {
        float step = d * (float)(b[i / 16] & 15), offset = e * (float)(b[i / 16] >> 4);

        out[i] = step * (float)pair_at(b + 16, i) - offset;
    }
}

/* third bits[32]; low two bits[64]; scales[12]; half d.  The third bits of 32 entries are one of
 * each of the 32 bytes. */
static void q3_k(const uint8_t *b, float *out)
{
    float d = half_at(b + 108);
    uint8_t scale[16];

    spc_quant_scales_q3(b + 96, scale);
    for (int32_t i = 0; i < 256; i++) {
        int32_t q = pair_at(b + 32, i) | (b[i % 32] >> (i / 32) & 1) << 2;

        out[i] = d * (float)(scale[i / 16] - 32) * (float)(q - 4);
    }
}

/* half d, e; scales[12]; fifth bits[32] of Q5_K; q[128].  Each 64 entries are the low and then the
 * high halves of 32 bytes; their fifth bits are two neighbouring bits of the 32 bytes. */
static void q45_k(const uint8_t *b, bool fifth, float *out)
{
    const uint8_t *high = b + 16, *low = fifth ? high + 32 : high;
    float d = half_at(b), e = half_at(b + 2);
    uint8_t scale[8], min[8];

    spc_quant_scales(b + 4, scale, min);
    for (int32_t part = 0; part < 8; part++) {
        float step = d * (float)scale[part], offset = e * (float)min[part];

        for (int32_t i = 0; i < 32; i++) {
            int32_t q = low[part / 2 * 32 + i] >> (part % 2 * 4) & 15;

            if (fifth) q |= (high[i] >> part & 1) << 4;
            out[part * 32 + i] = step * (float)q - offset;
        }
    }
}

/* low four bits[128]; high two bits[64]; int8 scales[16]; half d.  Each 128 entries are four runs
 * of 32: low halves of 64 bytes, then their high halves; bits 0 .. 7 of 32 bytes in pairs. */
static void q6_k(const uint8_t *b, float *out)
{
    const uint8_t *low = b, *high = b + 128;
    const int8_t *scale = (const int8_t *)b + 192;
    float d = half_at(b + 208);

    for (int32_t i = 0; i < 256; i++) {
        int32_t half = i / 128, run = i % 128 / 32, at = i % 32;
        int32_t q = low[half * 64 + run % 2 * 32 + at] >> (run / 2 * 4) & 15;

        q |= (high[half * 32 + at] >> (run * 2) & 3) << 4;
        out[i] = d * (float)scale[i / 16] * (float)(q - 32);
    }
}

/* half d; high bits of scales[2]; their low bits[4]; q[128].  Scales are 6 bits, 32 too large: two
 * neighbouring bits and half a byte; each 32 entries are 16 bytes. */
static void iq4_xs(const uint8_t *b, float *out)
{
    float d = half_at(b);
    int32_t high = b[2] | b[3] << 8;

    for (int32_t part = 0; part < 8; part++) {
        int32_t scale = (b[4 + part / 2] >> (part % 2 * 4) & 15) | (high >> (2 * part) & 3) << 4;
        float step = d * (float)(scale - 32);

        for (int32_t i = 0; i < 32; i++) {
            out[part * 32 + i] = step * (float)level[nibble_at(b + 8 + part * 16, i)];
        }
    }
}

/* ---- all --------------------------------------------------------------------------------------
 */

bool spc_dtype_is_float(spc_dtype dtype)
{
    return dtype == SPC_DTYPE_F32 || dtype == SPC_DTYPE_F16 || dtype == SPC_DTYPE_BF16 ||
           spc_dtype_is_f8(dtype) || spc_dtype_elements(dtype) > 1;
}

static void block(spc_dtype dtype, const uint8_t *b, float *out)
{
    switch (dtype) {
    case SPC_DTYPE_F16: *out = half_at(b); break;
    case SPC_DTYPE_BF16: *out = spc_bfloat_to_float((uint16_t)(b[0] | b[1] << 8)); break;
    case SPC_DTYPE_F8_E4M3:
        *out = spc_half_to_float(spc_f8_to_half(dtype, *b)) * SPC_E4M3_UNIT;
        break;
    case SPC_DTYPE_F8_E5M2: *out = spc_half_to_float(spc_f8_to_half(dtype, *b)); break;
    case SPC_DTYPE_I8: *out = (float)(int8_t)*b; break;
    case SPC_DTYPE_Q8_0: q8_0(b, out); break;
    case SPC_DTYPE_Q4_0: q4_0(b, out); break;
    case SPC_DTYPE_Q4_1: q4_1(b, out); break;
    case SPC_DTYPE_Q5_0: q5_0(b, out); break;
    case SPC_DTYPE_Q5_1: q5_1(b, out); break;
    case SPC_DTYPE_IQ4_NL: iq4_nl(b, out); break;
    case SPC_DTYPE_IQ4_XS: iq4_xs(b, out); break;
    case SPC_DTYPE_Q2_K: q2_k(b, out); break;
    case SPC_DTYPE_Q3_K: q3_k(b, out); break;
    case SPC_DTYPE_Q4_K: q45_k(b, false, out); break;
    case SPC_DTYPE_Q5_K: q45_k(b, true, out); break;
    case SPC_DTYPE_Q6_K: q6_k(b, out); break;
    default: memcpy(out, b, sizeof *out); break;
    }
}

void spc_dequantise(spc_dtype dtype, const void *data, int64_t count, float *out)
{
    const uint8_t *at = data;
    uint32_t elements = spc_dtype_elements(dtype), bytes = spc_dtype_bytes(dtype);

    for (int64_t i = 0; i < count; i += elements, at += bytes) block(dtype, at, out + i);
}
