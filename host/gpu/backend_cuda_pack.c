/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_pack.c - cuda/quant_planes.cuh says where everything goes, weights/quant.c where it
 * is.
 *
 * Eight integers of a block, what a lane has of it, travel together, a byte each in 64 bits: they
 * are neighbours, or of Q2_K, Q3_K and Q6_K twice four. */
#include "backend_cuda_pack.h"

#include "weights/quant.h"

#include <string.h>

enum { BLOCK = 32, RUN = 8, LANES = BLOCK / RUN, BLOCKS = 4, WIDE = 256 };

#define EACH(byte) ((uint64_t)(byte)*UINT64_C(0x0101010101010101))

spc_weight_type spc_cuda_type_of(spc_dtype dtype)
{
    switch (dtype) {
    case SPC_DTYPE_F32: return SPC_WEIGHT_F32;
    case SPC_DTYPE_BF16: return SPC_WEIGHT_BF16;
    case SPC_DTYPE_F16: return SPC_WEIGHT_F16;
    case SPC_DTYPE_Q8_0: return SPC_WEIGHT_Q8_0;
    case SPC_DTYPE_Q4_0: return SPC_WEIGHT_Q4_0;
    case SPC_DTYPE_Q4_1: return SPC_WEIGHT_Q4_1;
    case SPC_DTYPE_Q5_0: return SPC_WEIGHT_Q5_0;
    case SPC_DTYPE_Q5_1: return SPC_WEIGHT_Q5_1;
    case SPC_DTYPE_IQ4_NL: return SPC_WEIGHT_IQ4_NL;
    case SPC_DTYPE_IQ4_XS: return SPC_WEIGHT_IQ4_XS;
    case SPC_DTYPE_Q2_K: return SPC_WEIGHT_Q2_K;
    case SPC_DTYPE_Q3_K: return SPC_WEIGHT_Q3_K;
    case SPC_DTYPE_Q4_K: return SPC_WEIGHT_Q4_K;
    case SPC_DTYPE_Q5_K: return SPC_WEIGHT_Q5_K;
    case SPC_DTYPE_Q6_K: return SPC_WEIGHT_Q6_K;
    case SPC_DTYPE_I8: return SPC_WEIGHT_I8;
    case SPC_DTYPE_F8_E4M3: return SPC_WEIGHT_F8_E4M3;
    case SPC_DTYPE_F8_E5M2: return SPC_WEIGHT_F8_E5M2;
    default: return SPC_WEIGHT_COUNT;
    }
}

/* ---- eight integers ---------------------------------------------------------------------------
 */

static inline uint64_t load8(const uint8_t *at)
{
    uint64_t bytes;

    memcpy(&bytes, at, sizeof bytes);
    return bytes;
}

/* Columns 4 q .. 4 q + 3 and 16 + 4 q .. 16 + 4 q + 3 of 32. */
static inline uint64_t load4_4(const uint8_t *at, int32_t q)
{
    uint32_t first, second;

    memcpy(&first, at + 4 * q, sizeof first);
    memcpy(&second, at + BLOCK / 2 + 4 * q, sizeof second);
    return (uint64_t)second << 32 | first;
}

/* Eight bits to bit 4 of eight bytes. */
static inline uint64_t fifth_bits(uint8_t bits)
{
    uint64_t each = EACH(bits) & UINT64_C(0x8040201008040201); /* bit i of byte i */

    return ((each + EACH(0x7f)) >> 7 & EACH(1)) << 4;
}

/* Columns 8 q .. 8 q + 7 of a block of 32 whose low halves stand in 16 bytes, then its high ones.
 */
static inline uint64_t nibbles(const uint8_t *bytes, int32_t q)
{
    return load8(bytes + q % 2 * RUN) >> (q / 2 * 4) & EACH(15);
}

/* The same of block `part` of 256 columns. */
static inline uint64_t wide(spc_weight_type type, const uint8_t *b, int32_t part, int32_t q)
{
    const uint8_t *high = b + 16, *low = type == SPC_WEIGHT_Q5_K ? high + BLOCK : high;
    int32_t half = part / 4, run = part % 4;
    uint64_t n;

    if (type == SPC_WEIGHT_Q6_K) {
        n = load4_4(b + half * 64 + run % 2 * BLOCK, q) >> (run / 2 * 4) & EACH(15);
        return n | (load4_4(b + 128 + half * BLOCK, q) >> (2 * run) & EACH(3)) << 4;
    }
    if (type == SPC_WEIGHT_Q2_K) {
        return load4_4(b + 16 + half * BLOCK, q) >> (2 * run) & EACH(3);
    }
    if (type == SPC_WEIGHT_Q3_K) {
        n = load4_4(b + BLOCK + half * BLOCK, q) >> (2 * run) & EACH(3);
        return n | (load4_4(b, q) >> part & EACH(1)) << 2;
    }
    n = load8(low + part / 2 * BLOCK + q * RUN) >> (part % 2 * 4) & EACH(15);
    if (type == SPC_WEIGHT_Q4_K) return n;
    return n | (load8(high + q * RUN) >> part & EACH(1)) << 4;
}

/* Of a row without blocks, as it is but for what is behind its end: zeros. */
static inline uint64_t elements(const uint8_t *from, int32_t column, int32_t cols)
{
    uint8_t part[RUN] = {0};

    if (column + RUN <= cols) return load8(from + column);
    if (column < cols) memcpy(part, from + column, (size_t)(cols - column));
    return load8(part);
}

static inline uint64_t integers(spc_weight_type type, const uint8_t *from, int32_t block, int32_t q,
                                int32_t cols)
{
    const uint8_t *b;

    switch (type) {
    case SPC_WEIGHT_Q8_0: return load8(from + 34 * block + 2 + q * RUN) ^ EACH(0x80);
    case SPC_WEIGHT_Q4_0: return nibbles(from + 18 * block + 2, q);
    case SPC_WEIGHT_Q4_1: return nibbles(from + 20 * block + 4, q);
    case SPC_WEIGHT_Q5_0: b = from + 22 * block + 2; break;
    case SPC_WEIGHT_Q5_1: b = from + 24 * block + 4; break;
    case SPC_WEIGHT_IQ4_NL: return nibbles(from + 18 * block + 2, q);
    case SPC_WEIGHT_IQ4_XS: return nibbles(from + block / 8 * 136 + 8 + block % 8 * 16, q);
    case SPC_WEIGHT_Q2_K: return wide(type, from + block / 8 * 84, block % 8, q);
    case SPC_WEIGHT_Q3_K: return wide(type, from + block / 8 * 110, block % 8, q);
    case SPC_WEIGHT_Q4_K: return wide(type, from + block / 8 * 144, block % 8, q);
    case SPC_WEIGHT_Q5_K: return wide(type, from + block / 8 * 176, block % 8, q);
    case SPC_WEIGHT_Q6_K: return wide(type, from + block / 8 * 210, block % 8, q);
    case SPC_WEIGHT_I8: return elements(from, block * BLOCK + q * RUN, cols) ^ EACH(0x80);
    default: return elements(from, block * BLOCK + q * RUN, cols);
    }
    return nibbles(b + 4, q) | fifth_bits(b[q]);
}

/* ---- planes -----------------------------------------------------------------------------------
 */

static inline void put_word(uint8_t *at, uint32_t word)
{
    memcpy(at, &word, sizeof word);
}

/* Four bits of each: of bytes k and 4 + k in byte k, or one behind the other. */
static inline uint32_t four_bits(spc_weight_type type, uint64_t n)
{
    if (type != SPC_WEIGHT_IQ4_NL && type != SPC_WEIGHT_IQ4_XS) {
        return (uint32_t)(n & 0x0f0f0f0fu) | (uint32_t)(n >> 32 & 0x0f0f0f0fu) << 4;
    }
    n = (n | n >> 4) & UINT64_C(0x00ff00ff00ff00ff);
    n = (n | n >> 8) & UINT64_C(0x0000ffff0000ffff);
    return (uint32_t)(n | n >> 16);
}

/* One or two bits of each integer, at (block, half) of the unit's words. */
static inline void put_bits(bool two, uint8_t *unit, int32_t b, uint64_t bits)
{
    uint8_t *at = unit + (two ? b / 2 * 4 : 0);
    uint32_t word;

    memcpy(&word, at, sizeof word);
    for (int32_t half = 0; half < 2; half++) {
        uint32_t four = (uint32_t)(bits >> (32 * half)) & (two ? 0x03030303u : 0x01010101u);

        word |= four << (two ? 2 * (2 * (b % 2) + half) : 2 * b + half);
    }
    put_word(at, word);
}

/* Six bits of each integer of a block of Q6_K into the unit's words. */
static inline void put_sixes(uint8_t *data, uint8_t *high, int32_t b, uint64_t n)
{
    uint8_t *to[3] = {data + b / 2 * 8, data + b / 2 * 8 + 4, high + b / 2 * 4};
    uint32_t word[3];

    for (int32_t i = 0; i < 3; i++) memcpy(&word[i], to[i], sizeof word[i]);
    for (int32_t i = 0; i < 4; i++) {
        uint32_t four = (uint32_t)(n >> i / 2 * 32), pair = four >> i % 2 * 8 & 0x003f003fu;
        int32_t p = b % 2 * 4 + i;

        if (p < 6) {
            word[p / 2] |= pair << p % 2 * 6;
        } else {
            word[p - 6] |= (pair & 0x000f000fu) << 12;
            word[2] |= (pair & 0x00300030u) << (8 + 2 * (p - 6));
        }
    }
    for (int32_t i = 0; i < 3; i++) put_word(to[i], word[i]);
}

/* Scales of 256 columns of Q3_K: for each group a word of low bits, then one of high ones. */
static void pack_scales_q3(const uint8_t *from, uint8_t *to)
{
    uint8_t scale[16];

    spc_quant_scales_q3(from, scale);
    memset(to, 0, 12);
    for (int32_t k = 0; k < 16; k++) {
        int32_t group = k / 8, b = k / 2 % 4, i = k % 2;

        to[4 * group + b] |= (uint8_t)((scale[k] & 15) << (4 * i));
        to[8 + b] |= (uint8_t)(scale[k] >> 4 << (2 * (2 * group + i)));
    }
}

/* Scales of 256 columns of IQ4_XS: low bits of a block of either group in a byte. */
static void pack_scales_iq4(const uint8_t *from, uint8_t *to)
{
    memcpy(to, from, 4);
    for (int32_t b = 0; b < BLOCKS; b++) {
        int32_t first = from[4 + b / 2] >> (b % 2 * 4) & 15;
        int32_t second = from[6 + b / 2] >> (b % 2 * 4) & 15;

        to[4 + b] = (uint8_t)(first | second << 4);
    }
}

/* Scales of `blocks` blocks, as they are; zeros behind the last are there already. */
static void pack_scales(spc_weight_type type, const uint8_t *from, int32_t blocks,
                        const spc_cuda_row *to)
{
    static const uint8_t bytes[] = {
        [SPC_WEIGHT_Q8_0] = 34, [SPC_WEIGHT_Q4_0] = 18, [SPC_WEIGHT_Q4_1] = 20,
        [SPC_WEIGHT_Q5_0] = 22, [SPC_WEIGHT_Q5_1] = 24, [SPC_WEIGHT_IQ4_NL] = 18};
    size_t own = type == SPC_WEIGHT_Q4_1 || type == SPC_WEIGHT_Q5_1 ? 4 : 2;

    for (int32_t i = 0; i < blocks / 8; i++) {
        switch (type) {
        case SPC_WEIGHT_IQ4_XS: pack_scales_iq4(from + 136 * i, to->scale + 8 * i); break;
        case SPC_WEIGHT_Q2_K:
            memcpy(to->scale + 16 * i, from + 84 * i, 16);
            memcpy(to->step + 4 * i, from + 84 * i + 80, 4);
            break;
        case SPC_WEIGHT_Q3_K:
            pack_scales_q3(from + 110 * i + 96, to->scale + 12 * i);
            memcpy(to->step + 2 * i, from + 110 * i + 108, 2);
            break;
        case SPC_WEIGHT_Q4_K: memcpy(to->scale + 16 * i, from + 144 * i, 16); break;
        case SPC_WEIGHT_Q5_K: memcpy(to->scale + 16 * i, from + 176 * i, 16); break;
        case SPC_WEIGHT_Q6_K:
            memcpy(to->scale + 16 * i, from + 210 * i + 192, 16);
            memcpy(to->step + 2 * i, from + 210 * i + 208, 2);
            break;
        default: break;
        }
    }
    for (int32_t i = 0; i < blocks && type <= SPC_WEIGHT_IQ4_NL; i++) {
        memcpy(to->scale + own * (size_t)i, from + bytes[type] * i, own);
    }
}

void spc_cuda_pack_row(spc_weight_type type, const uint8_t *from, int32_t cols,
                       const spc_cuda_row *to)
{
    const bool eight = type == SPC_WEIGHT_Q8_0 || type >= SPC_WEIGHT_I8;
    const bool two = type == SPC_WEIGHT_Q2_K || type == SPC_WEIGHT_Q3_K; /* bits in data, not 4 */
    const int32_t high = type == SPC_WEIGHT_Q6_K ? 8 : 4;
    const spc_cuda_planes bytes = spc_cuda_planes_of(type, cols);
    const int32_t blocks = spc_cuda_stride(type, cols);

    if (two || type == SPC_WEIGHT_Q6_K) memset(to->data, 0, (size_t)bytes.data);
    if (bytes.high > 0) memset(to->high, 0, (size_t)bytes.high);
    if (bytes.scale > 0) memset(to->scale, 0, (size_t)bytes.scale);
    for (int32_t block = 0; block < blocks; block++) {
        const int32_t b = block % BLOCKS, first = block - b;
        const int32_t together = blocks - first < BLOCKS ? blocks - first : BLOCKS;
        const int32_t beside = together - b / 2 * 2 < 2 ? 1 : 2;

        for (int32_t q = 0; q < LANES; q++) {
            const uint64_t n = integers(type, from, block, q, cols);

            if (eight) {
                memcpy(to->data + first * BLOCK + b / 2 * 64 + (q * beside + b % 2) * RUN, &n, RUN);
                continue;
            }
            if (type == SPC_WEIGHT_Q6_K) {
                put_sixes(to->data + (first + q) * 16, to->high + (first + q) * high, b, n);
                continue;
            }
            if (two) {
                put_bits(true, to->data + (first + q) * 8, b, n);
            } else {
                put_word(to->data + first * 16 + (q * together + b) * 4, four_bits(type, n));
            }
            if (bytes.high > 0) {
                put_bits(false, to->high + (first + q) * high, b, n >> (two ? 2 : 4));
            }
        }
    }
    pack_scales(type, from, blocks, to);
}
