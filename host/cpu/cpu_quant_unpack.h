/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_quant_unpack.h - blocks of sixteen outputs turned into lanes, included by cpu_quant_body.h.
 *
 * The blocks lie a row of the matrix apart.  Turned, they are vectors that hold the same four
 * entries of all sixteen.  weights/quant.c says what a block holds.
 *
 * For both headers the file of a vector unit defines, beside what cpu_kernels_body.h asks for,
 *   lanes_mul, lanes_add
 *   quads                        64 bytes, or 16 lanes of 32 bits: four entries of each output
 *   quads_turn4(at, apart, out)  out[c] has in lane l bytes 4 c .. 4 c + 3 of at + l * apart, for
 *                                c = 0 .. 3
 *   quads_turn8(at, apart, out)  the same for c = 0 .. 7
 *   quads_all(int32_t)           in every lane
 *   quads_and(v, byte), quads_or(v, w)
 *   quads_up(v, n), quads_down(v, n)  lanes shifted by n bits; zeros come in
 *   quads_fifth(v, bits, c)      byte j of a lane: 16 more where the lane's bit 4 c + j is set
 *   quads_byte(v, k)             lane: its byte k
 *   quads_signed_byte(v, k)      lane: its byte k, signed
 *   quads_eight(v)               bytes of Q8_0 as quads_dot takes them
 *   quads_levels(v)              bytes 0 .. 15 as what they stand for in IQ4, as quads_eight does
 *   quads_dot(sum, w, x, eight)  lane: sum + its four products of w, unsigned and below 64 (eight:
 *                                as quads_eight left them), with x[0 .. 3] in -127 .. 127
 *   EIGHT_LESS                   what quads_eight added to each byte
 *   lanes_of(quads)              lanes as floats
 *   lanes_low_half(quads), lanes_high_half(quads)  the half in the lower, upper 16 bits
 *   BLOCK_ROWS                   rows of activations whose sums fit the registers
 *   QUANT_FEW                    up to so many (0 .. 2) are multiplied as they are unpacked */

#include "weights/quant.h"

/* Loops over registers.  (The portable lanes are loops themselves, and would be unrolled for
 * nothing, by the minute.) */
#if QUANT_FEW > 0
#define UNROLL_TEXT(text) _Pragma(#text)
#define UNROLL(n)         UNROLL_TEXT(GCC unroll n)
#else
#define UNROLL(n)
#endif

enum { CHUNK = 256, ALONG = 16 };

/* 256 columns (or what is left of a row) of 16 outputs. */
typedef struct {
    quads entry[CHUNK / 4];   /* entries 4 e .. 4 e + 3, unsigned, of all outputs */
    lanes scale[CHUNK / 16];  /* of each run */
    lanes offset[CHUNK / 16]; /* of each run, where the format has them */
    quads upper[8];           /* Q3_K, Q5_K, Q6_K: bytes of the upper bits */
    quads lower[16];          /* Q2_K, Q3_K, Q6_K: bytes of the lower bits of 128 entries */
} unpacked;

/* `at` is where the first of the 16 outputs has what is unpacked, `apart` the bytes from an output
 * to the next. */

/* 32 entries of four bits from 16 bytes: the low halves, then the high ones. */
ALWAYS_INLINE void nibbles(const quads *both, quads *entry)
{
    UNROLL(4)
    for (int32_t c = 0; c < 4; c++) {
        entry[c] = quads_and(both[c], 15);
        entry[c + 4] = quads_and(quads_down(both[c], 4), 15);
    }
}

/* The fifth bit of entry i is bit i of a lane. */
ALWAYS_INLINE void fifth_bits(quads bits, quads *entry)
{
    UNROLL(8)
    for (int32_t c = 0; c < 8; c++) entry[c] = quads_fifth(entry[c], bits, c);
}

/* 64 entries of IQ4, from the bits that stand for them. */
ALWAYS_INLINE void levels(quads *entry)
{
    UNROLL(16)
    for (int32_t c = 0; c < 16; c++) entry[c] = quads_levels(entry[c]);
}

/* count numbers that begin in the upper half of a lane. */
ALWAYS_INLINE void straddling(const quads *word, int32_t count, quads *out)
{
    UNROLL(8)
    for (int32_t c = 0; c < count; c++) {
        out[c] = quads_or(quads_down(word[c], 16), quads_up(word[c + 1], 16));
    }
}

/* Two blocks of a format whose blocks have 32 entries.  Behind each other they are whole words, so
 * that they are turned together; where a block is an odd number of halves long, the first block's
 * integers straddle words and the second one's do not. */
ALWAYS_INLINE void unpack_pair(spc_dtype dtype, const uint8_t *at, int64_t apart, lanes *scale,
                               lanes *offset, quads *entry)
{
    const int32_t words = (int32_t)spc_dtype_bytes(dtype) / 2; /* of both */
    quads word[17], part[8];

    quads_turn8(at, apart, word);
    if (words > 16) quads_turn8(at + 32, apart, word + 8);
    quads_turn4(at + 4 * words - 16, apart, word + words - 4);
    scale[0] = lanes_low_half(word[0]);
    switch (dtype) {
    case SPC_DTYPE_Q8_0:
        scale[1] = lanes_high_half(word[8]);
        straddling(word, 8, part);
        UNROLL(8)
        for (int32_t c = 0; c < 8; c++) {
            entry[c] = quads_eight(part[c]);
            entry[8 + c] = quads_eight(word[9 + c]);
        }
        break;
    case SPC_DTYPE_Q4_0:
        scale[1] = lanes_high_half(word[4]);
        straddling(word, 4, part);
        nibbles(part, entry);
        nibbles(word + 5, entry + 8);
        break;
    case SPC_DTYPE_IQ4_NL:
        scale[1] = lanes_high_half(word[4]);
        straddling(word, 4, part);
        nibbles(part, entry);
        nibbles(word + 5, entry + 8);
        levels(entry);
        break;
    case SPC_DTYPE_Q4_1:
        scale[1] = lanes_low_half(word[5]);
        offset[0] = lanes_high_half(word[0]);
        offset[1] = lanes_high_half(word[5]);
        nibbles(word + 1, entry);
        nibbles(word + 6, entry + 8);
        break;
    case SPC_DTYPE_Q5_0:
        scale[1] = lanes_high_half(word[5]);
        straddling(word, 5, part);
        nibbles(part + 1, entry);
        fifth_bits(part[0], entry);
        nibbles(word + 7, entry + 8);
        fifth_bits(word[6], entry + 8);
        break;
    default: /* Q5_1 */
        scale[1] = lanes_low_half(word[6]);
        offset[0] = lanes_high_half(word[0]);
        offset[1] = lanes_high_half(word[6]);
        nibbles(word + 2, entry);
        fifth_bits(word[1], entry);
        nibbles(word + 8, entry + 8);
        fifth_bits(word[7], entry + 8);
    }
}

/* Q4_K, Q5_K: eight scales and eight offsets of 6 bits in 12 bytes (weights/quant.c). */
ALWAYS_INLINE void unpack_six_bits(const uint8_t *at, int64_t apart, unpacked *to)
{
    quads head[4], scale[2], offset[2];
    lanes d, e;

    quads_turn4(at, apart, head);
    d = lanes_low_half(head[0]);
    e = lanes_mul(lanes_set(-1.0f), lanes_high_half(head[0]));
    scale[0] = quads_and(head[1], 63);
    offset[0] = quads_and(head[2], 63);
    scale[1] = quads_or(quads_and(head[3], 15), quads_up(quads_and(quads_down(head[1], 6), 3), 4));
    offset[1] = quads_or(quads_and(quads_down(head[3], 4), 15),
                         quads_up(quads_and(quads_down(head[2], 6), 3), 4));
    UNROLL(8)
    for (int32_t b = 0; b < 8; b++) {
        to->scale[b] = lanes_mul(d, lanes_of(quads_byte(scale[b / 4], b % 4)));
        to->offset[b] = lanes_mul(e, lanes_of(quads_byte(offset[b / 4], b % 4)));
    }
}

/* Q2_K: sixteen scales of 4 bits, with sixteen offsets above them; the halves at the end. */
ALWAYS_INLINE void unpack_four_bits(const uint8_t *at, int64_t apart, unpacked *to)
{
    quads both[4], tail[4];
    lanes d, e;

    quads_turn4(at, apart, both);
    quads_turn4(at + 68, apart, tail);
    d = lanes_low_half(tail[3]);
    e = lanes_mul(lanes_set(-1.0f), lanes_high_half(tail[3]));
    UNROLL(4)
    for (int32_t w = 0; w < 4; w++) {
        quads scale = quads_and(both[w], 15), offset = quads_and(quads_down(both[w], 4), 15);

        UNROLL(4)
        for (int32_t k = 0; k < 4; k++) {
            to->scale[4 * w + k] = lanes_mul(d, lanes_of(quads_byte(scale, k)));
            to->offset[4 * w + k] = lanes_mul(e, lanes_of(quads_byte(offset, k)));
        }
    }
}

/* Q3_K: sixteen scales of 6 bits in 12 bytes (weights/quant.c), the half behind them. */
ALWAYS_INLINE void unpack_scales_q3(const uint8_t *at, int64_t apart, unpacked *to)
{
    quads word[4], tail[4];
    lanes d;

    quads_turn4(at + 92, apart, word); /* what is in front of them comes along: word[0] */
    quads_turn4(at + 94, apart, tail);
    d = lanes_high_half(tail[3]);
    UNROLL(4)
    for (int32_t w = 0; w < 4; w++) {
        quads low = quads_and(quads_down(word[1 + w % 2], w / 2 * 4), 15);
        quads high = quads_and(quads_down(word[3], 2 * w), 3);
        quads scale = quads_or(low, quads_up(high, 4));

        UNROLL(4)
        for (int32_t k = 0; k < 4; k++) {
            lanes number = lanes_add(lanes_of(quads_byte(scale, k)), lanes_set(-32.0f));

            to->scale[4 * w + k] = lanes_mul(d, number);
        }
    }
}

/* IQ4_XS: eight scales of 6 bits, their two upper ones in the half behind d. */
ALWAYS_INLINE void unpack_scales_iq4(const uint8_t *at, int64_t apart, unpacked *to)
{
    quads word[4];
    lanes d;

    quads_turn4(at, apart, word);
    d = lanes_low_half(word[0]);
    UNROLL(8)
    for (int32_t b = 0; b < 8; b++) {
        quads low = quads_and(quads_down(word[1], 4 * b), 15);
        quads high = quads_and(quads_down(word[0], 16 + 2 * b), 3);
        quads scale = quads_byte(quads_or(low, quads_up(high, 4)), 0);

        to->scale[b] = lanes_mul(d, lanes_add(lanes_of(scale), lanes_set(-32.0f)));
    }
}

/* What the four quarters of a block of 256 share. */
ALWAYS_INLINE void unpack_head(spc_dtype dtype, const uint8_t *at, int64_t apart, unpacked *to)
{
    if (dtype == SPC_DTYPE_Q6_K) {
        quads scale[4], tail[4];
        lanes d;

        quads_turn4(at + 192, apart, scale);
        quads_turn4(at + 194, apart, tail);
        d = lanes_high_half(tail[3]);
        UNROLL(16)
        for (int32_t b = 0; b < 16; b++) {
            to->scale[b] = lanes_mul(d, lanes_of(quads_signed_byte(scale[b / 4], b % 4)));
        }
    } else if (dtype == SPC_DTYPE_Q2_K) {
        unpack_four_bits(at, apart, to);
    } else if (dtype == SPC_DTYPE_Q3_K) {
        unpack_scales_q3(at, apart, to);
        quads_turn8(at, apart, to->upper);
    } else if (dtype == SPC_DTYPE_IQ4_XS) {
        unpack_scales_iq4(at, apart, to);
    } else {
        unpack_six_bits(at, apart, to);
        if (dtype == SPC_DTYPE_Q5_K) quads_turn8(at + 16, apart, to->upper);
    }
}

/* Q4_K, Q5_K: the low and then the high halves of 32 bytes.  Fifth bits are two neighbouring bits
 * of the 32 bytes in front of all quarters. */
ALWAYS_INLINE void unpack_low_high(const uint8_t *at, int64_t apart, bool fifth, int32_t g,
                                   const quads *upper, quads *entry)
{
    quads both[8];

    quads_turn8(at + (fifth ? 48 : 16) + 32 * g, apart, both);
    UNROLL(8)
    for (int32_t c = 0; c < 8; c++) {
        entry[c] = quads_and(both[c], 15);
        entry[c + 8] = quads_and(quads_down(both[c], 4), 15);
        if (!fifth) continue;

        quads bits = quads_down(upper[c], 2 * g);

        entry[c] = quads_or(entry[c], quads_up(quads_and(bits, 1), 4));
        entry[c + 8] = quads_or(entry[c + 8], quads_up(quads_and(bits, 2), 3));
    }
}

/* IQ4_XS: two blocks of 16 bytes. */
ALWAYS_INLINE void unpack_levels(const uint8_t *at, int64_t apart, int32_t g, quads *entry)
{
    quads both[8];

    quads_turn8(at + 8 + 32 * g, apart, both);
    nibbles(both, entry);
    nibbles(both + 4, entry + 8);
    levels(entry);
}

/* Q2_K, Q3_K: two quarters are the four pairs of bits of 32 bytes, of which there are 64 behind the
 * first `front` bytes; of Q3_K each 32 entries have one bit of the same 32 bytes on top. */
ALWAYS_INLINE void unpack_pairs(const uint8_t *at, int64_t apart, int32_t front, bool third,
                                int32_t g, unpacked *to, quads *entry)
{
    if (g % 2 == 0) quads_turn8(at + front + 16 * g, apart, to->lower);
    UNROLL(16)
    for (int32_t c = 0; c < 16; c++) {
        entry[c] = quads_and(quads_down(to->lower[c % 8], g % 2 * 4 + c / 8 * 2), 3);
        if (!third) continue;

        quads top = quads_and(quads_down(to->upper[c % 8], g * 2 + c / 8), 1);

        entry[c] = quads_or(entry[c], quads_up(top, 2));
    }
}

/* Q6_K: two quarters are the low halves of 64 bytes, then their high halves; each 32 of these 128
 * entries have two neighbouring bits of the same 32 bytes on top. */
ALWAYS_INLINE void unpack_six(const uint8_t *at, int64_t apart, int32_t g, unpacked *to,
                              quads *entry)
{
    if (g % 2 == 0) {
        quads_turn8(at + 32 * g, apart, to->lower);
        quads_turn8(at + 32 * g + 32, apart, to->lower + 8);
        quads_turn8(at + 128 + 16 * g, apart, to->upper);
    }
    UNROLL(16)
    for (int32_t c = 0; c < 16; c++) {
        quads low = quads_and(quads_down(to->lower[c], g % 2 * 4), 15);
        quads top = quads_and(quads_down(to->upper[c % 8], g % 2 * 4 + c / 8 * 2), 3);

        entry[c] = quads_or(low, quads_up(top, 4));
    }
}

/* Entries 64 g .. 64 g + 63 of a chunk that begins at `at` and has `blocks` runs of 32; with their
 * scales and offsets where these do not stand in the head.  g is a constant where this is inlined.
 */
ALWAYS_INLINE void unpack_quarter(spc_dtype dtype, const uint8_t *at, int64_t apart, int32_t g,
                                  int32_t blocks, unpacked *to, quads *entry)
{
    const size_t bytes = spc_dtype_bytes(dtype);
    uint8_t last[ALONG]
                [2 * 34]; /* behind the last of an odd number of blocks there may be nothing */

    switch (dtype) {
    case SPC_DTYPE_Q4_K:
    case SPC_DTYPE_Q5_K:
        unpack_low_high(at, apart, dtype == SPC_DTYPE_Q5_K, g, to->upper, entry);
        break;
    case SPC_DTYPE_IQ4_XS: unpack_levels(at, apart, g, entry); break;
    case SPC_DTYPE_Q2_K: unpack_pairs(at, apart, 16, false, g, to, entry); break;
    case SPC_DTYPE_Q3_K: unpack_pairs(at, apart, 32, true, g, to, entry); break;
    case SPC_DTYPE_Q6_K: unpack_six(at, apart, g, to, entry); break;
    default:
        at += 2 * (size_t)g * bytes;
        if (2 * g + 1 == blocks) {
            for (int32_t l = 0; l < ALONG; l++) {
                memcpy(last[l], at + l * apart, bytes);
                memcpy(last[l] + bytes, last[l], bytes);
            }
            at = last[0];
            apart = sizeof last[0];
        }
        unpack_pair(dtype, at, apart, to->scale + 2 * g, to->offset + 2 * g, entry);
    }
}
