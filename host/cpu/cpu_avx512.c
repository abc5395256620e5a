/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_avx512.c - the kernels with AVX-512: 16 lanes in one register. */
#if defined(__x86_64__)
#include "cpu_kernels.h"
#include "weights/quant.h"

#include <immintrin.h>

typedef __m512 lanes;

static inline lanes lanes_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline lanes lanes_zero(void)
{
    return _mm512_setzero_ps();
}

static inline lanes lanes_load(const float *x)
{
    return _mm512_loadu_ps(x);
}

static inline lanes lanes_bf16(const uint16_t *x)
{
    __m512i whole = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)x));

    return _mm512_castsi512_ps(_mm512_slli_epi32(whole, 16));
}

static inline lanes lanes_f16(const uint16_t *x)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)x));
}

static inline lanes lanes_f8(spc_dtype dtype, const uint8_t *x)
{
    const __m256i size = _mm256_set1_epi16(0x7f), nan = _mm256_set1_epi16(0x7e00);
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)x));
    __m256i small = _mm256_and_si256(wide, size), half;

    if (dtype == SPC_DTYPE_F8_E5M2) return _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8));
    half = _mm256_or_si256(_mm256_slli_epi16(_mm256_andnot_si256(size, wide), 8),
                           _mm256_slli_epi16(small, 7));
    half = _mm256_or_si256(half, _mm256_and_si256(_mm256_cmpeq_epi16(small, size), nan));
    return _mm512_cvtph_ps(half);
}

static inline void lanes_store(float *x, lanes v)
{
    _mm512_storeu_ps(x, v);
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The same additions as cpu_avx2.c. */
static inline float lanes_sum(lanes v)
{
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static inline void lanes_sum4(float *out, lanes a, lanes b, lanes c, lanes d)
{
    /* 16 to 8 lanes each: halves of a and b beside each other, then of c and d */
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    /* 8 to 4: a, b, c, d in one register, then 4 to 1 inside each quarter */
    __m512 four =
        _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    __m512 one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
    const __m512i first = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);

    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, one)));
}

/* ---- integers ---------------------------------------------------------------------------------
 */

static inline lanes lanes_mul(lanes a, lanes b)
{
    return _mm512_mul_ps(a, b);
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return _mm512_add_ps(a, b);
}

static inline lanes lanes_i8(const int8_t *bytes)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)bytes)));
}

typedef __m512i quads;
typedef uint32_t unsigned_lanes __attribute__((vector_size(64)));

static inline __m128i word16(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

/* part[r] has rows r, r + 4, r + 8 and r + 12 beside each other: four by four words across in each
 * quarter. */
static inline void turn_quarters(const __m512i *part, quads *out)
{
    __m512i a = _mm512_unpacklo_epi32(part[0], part[1]);
    __m512i b = _mm512_unpacklo_epi32(part[2], part[3]);
    __m512i c = _mm512_unpackhi_epi32(part[0], part[1]);
    __m512i d = _mm512_unpackhi_epi32(part[2], part[3]);

    out[0] = _mm512_unpacklo_epi64(a, b);
    out[1] = _mm512_unpackhi_epi64(a, b);
    out[2] = _mm512_unpacklo_epi64(c, d);
    out[3] = _mm512_unpackhi_epi64(c, d);
}

static inline void quads_turn4(const uint8_t *at, int64_t apart, quads *out)
{
    __m512i part[4];

#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        part[r] = _mm512_castsi128_si512(word16(at + r * apart));
        part[r] = _mm512_inserti32x4(part[r], word16(at + (r + 4) * apart), 1);
        part[r] = _mm512_inserti32x4(part[r], word16(at + (r + 8) * apart), 2);
        part[r] = _mm512_inserti32x4(part[r], word16(at + (r + 12) * apart), 3);
    }
    turn_quarters(part, out);
}

static inline __m512i two_rows(const uint8_t *a, const uint8_t *b)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)a);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)b);

    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static inline void quads_turn8(const uint8_t *at, int64_t apart, quads *out)
{
    __m512i low[4], high[4];

#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        __m512i a = two_rows(at + r * apart, at + (r + 4) * apart);
        __m512i b = two_rows(at + (r + 8) * apart, at + (r + 12) * apart);

        low[r] = _mm512_shuffle_i32x4(a, b, 0x88); /* the first 16 bytes of each */
        high[r] = _mm512_shuffle_i32x4(a, b, 0xdd);
    }
    turn_quarters(low, out);
    turn_quarters(high, out + 4);
}

static inline quads quads_all(int32_t x)
{
    return _mm512_set1_epi32(x);
}

static inline quads quads_and(quads v, uint8_t byte)
{
    return _mm512_and_si512(v, _mm512_set1_epi8((char)byte));
}

static inline quads quads_or(quads v, quads w)
{
    return _mm512_or_si512(v, w);
}

static inline quads quads_up(quads v, int n)
{
    return (__m512i)((unsigned_lanes)v << n);
}

static inline quads quads_down(quads v, int n)
{
    return (__m512i)((unsigned_lanes)v >> n);
}

static inline quads quads_fifth(quads v, quads bits, int c)
{
    const int near = c / 2 * 0x01010101; /* the byte they are in, of each of four lanes */
    const __m512i from =
        _mm512_set4_epi32(near + 0x0c0c0c0c, near + 0x08080808, near + 0x04040404, near);
    const __m512i bit = _mm512_set1_epi32(c % 2 ? (int)0x80402010u : 0x08040201);

    bits = _mm512_shuffle_epi8(bits, from);
    return _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(bits, bit), v, _mm512_set1_epi8(16));
}

static inline quads quads_byte(quads v, int k)
{
    return _mm512_and_si512(quads_down(v, 8 * k), _mm512_set1_epi32(255));
}

static inline quads quads_signed_byte(quads v, int k)
{
    return _mm512_srai_epi32(quads_up(v, 24 - 8 * k), 24);
}

static inline lanes lanes_of(quads v)
{
    return _mm512_cvtepi32_ps(v);
}

static inline lanes lanes_low_half(quads v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

static inline lanes lanes_high_half(quads v)
{
    return lanes_low_half(quads_down(v, 16));
}

static inline quads four_bytes(const int8_t *x)
{
    int32_t word;

    __builtin_memcpy(&word, x, sizeof word);
    return _mm512_set1_epi32(word);
}

#if defined(__AVX512VNNI__)
#define EIGHT_LESS 128

static inline quads quads_eight(quads v)
{
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)128));
}

static inline quads quads_dot(quads sum, quads w, const int8_t *x, bool eight)
{
    (void)eight;
    return _mm512_dpbusd_epi32(sum, w, four_bytes(x));
}
#else /* pairs first: 2 * 128 * 127 fits 16 bits */
#define EIGHT_LESS 0

static inline quads quads_eight(quads v)
{
    return v;
}

static inline quads quads_dot(quads sum, quads w, const int8_t *x, bool eight)
{
    __m512i four = four_bytes(x);

    if (eight) { /* the sign of w goes over to x */
        four = _mm512_mask_sub_epi8(four, _mm512_movepi8_mask(w), _mm512_setzero_si512(), four);
        w = _mm512_abs_epi8(w);
    }
    four = _mm512_madd_epi16(_mm512_maddubs_epi16(w, four), _mm512_set1_epi16(1));
    return _mm512_add_epi32(sum, four);
}
#endif

static inline quads quads_levels(quads v)
{
    const __m128i level = _mm_setr_epi8(SPC_QUANT_LEVELS);

    return _mm512_shuffle_epi8(quads_eight(_mm512_broadcast_i32x4(level)), v);
}

#define BLOCK_OUT   4
#define BLOCK_WIDE  8
#define BLOCK_ROWS  6
#define QUANT_FEW   2
#define ATTEND_TILE 4
#if defined(__AVX512VNNI__)
#define UNIT      spc_cpu_avx512vnni
#define UNIT_NAME "avx512vnni"
#else
#define UNIT      spc_cpu_avx512
#define UNIT_NAME "avx512"
#endif
#include "cpu_kernels_body.h"
#endif
