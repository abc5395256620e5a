/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_avx2.c - the kernels with AVX2, FMA and F16C: 16 lanes in two registers. */
#if defined(__x86_64__)
#include "cpu_kernels.h"
#include "weights/quant.h"

#include <immintrin.h>

typedef struct {
    __m256 low, high;
} lanes;

static inline lanes lanes_set(float x)
{
    return (lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline lanes lanes_zero(void)
{
    return (lanes){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

static inline lanes lanes_load(const float *x)
{
    return (lanes){_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
}

static inline __m256 widen(const uint16_t *x)
{
    __m256i whole = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)x));

    return _mm256_castsi256_ps(_mm256_slli_epi32(whole, 16));
}

static inline lanes lanes_bf16(const uint16_t *x)
{
    return (lanes){widen(x), widen(x + 8)};
}

static inline lanes lanes_f16(const uint16_t *x)
{
    return (lanes){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)x)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + 8)))};
}

/* Eight of them, in the lower bytes. */
static inline __m256 f8_to_floats(spc_dtype dtype, __m128i x)
{
    const __m128i size = _mm_set1_epi16(0x7f), nan = _mm_set1_epi16(0x7e00);
    __m128i wide = _mm_cvtepu8_epi16(x), small = _mm_and_si128(wide, size), half;

    if (dtype == SPC_DTYPE_F8_E5M2) return _mm256_cvtph_ps(_mm_slli_epi16(wide, 8));
    half = _mm_or_si128(_mm_slli_epi16(_mm_andnot_si128(size, wide), 8), _mm_slli_epi16(small, 7));
    half = _mm_or_si128(half, _mm_and_si128(_mm_cmpeq_epi16(small, size), nan));
    return _mm256_cvtph_ps(half);
}

static inline lanes lanes_f8(spc_dtype dtype, const uint8_t *x)
{
    __m128i all = _mm_loadu_si128((const __m128i *)(const void *)x);

    return (lanes){f8_to_floats(dtype, all), f8_to_floats(dtype, _mm_srli_si128(all, 8))};
}

static inline void lanes_store(float *x, lanes v)
{
    _mm256_storeu_ps(x, v.low);
    _mm256_storeu_ps(x + 8, v.high);
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return (lanes){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

static inline float lanes_sum(lanes v)
{
    __m256 eight = _mm256_add_ps(v.low, v.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static inline void lanes_sum4(float *out, lanes a, lanes b, lanes c, lanes d)
{
    __m256 a8 = _mm256_add_ps(a.low, a.high), b8 = _mm256_add_ps(b.low, b.high);
    __m256 c8 = _mm256_add_ps(c.low, c.high), d8 = _mm256_add_ps(d.low, d.high);
    /* 8 to 4 lanes: a and b in one register, c and d in another */
    __m256 ab =
        _mm256_add_ps(_mm256_permute2f128_ps(a8, b8, 0x20), _mm256_permute2f128_ps(a8, b8, 0x31));
    __m256 cd =
        _mm256_add_ps(_mm256_permute2f128_ps(c8, d8, 0x20), _mm256_permute2f128_ps(c8, d8, 0x31));
    /* 4 to 2: a, c | b, d; then 2 to 1 */
    __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    __m256 one = _mm256_add_ps(two, _mm256_permute_ps(two, 0xb1));
    __m128 ac = _mm256_castps256_ps128(one), bd = _mm256_extractf128_ps(one, 1);

    _mm_storeu_ps(out, _mm_unpacklo_ps(_mm_shuffle_ps(ac, ac, 0x08), _mm_shuffle_ps(bd, bd, 0x08)));
}

/* ---- integers ---------------------------------------------------------------------------------
 */

static inline lanes lanes_mul(lanes a, lanes b)
{
    return (lanes){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return (lanes){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static inline lanes lanes_i8(const int8_t *bytes)
{
    __m128i all = _mm_loadu_si128((const __m128i *)(const void *)bytes);

    return (lanes){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)),
                   _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all, 8)))};
}

typedef struct {
    __m256i low, high; /* outputs 0 .. 7, 8 .. 15 */
} quads;

typedef uint32_t unsigned_half __attribute__((vector_size(32)));

/* part[r] has rows r and r + 4 beside each other: four by four words across in each half. */
static inline void turn_halves(const __m256i *part, __m256i *out)
{
    __m256i a = _mm256_unpacklo_epi32(part[0], part[1]);
    __m256i b = _mm256_unpacklo_epi32(part[2], part[3]);
    __m256i c = _mm256_unpackhi_epi32(part[0], part[1]);
    __m256i d = _mm256_unpackhi_epi32(part[2], part[3]);

    out[0] = _mm256_unpacklo_epi64(a, b);
    out[1] = _mm256_unpackhi_epi64(a, b);
    out[2] = _mm256_unpacklo_epi64(c, d);
    out[3] = _mm256_unpackhi_epi64(c, d);
}

static inline void eight_rows(const uint8_t *at, int64_t apart, __m256i *out)
{
    __m256i part[4];

#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        const void *near = at + r * apart, *far = at + (r + 4) * apart;

        part[r] = _mm256_loadu2_m128i((const __m128i *)far, (const __m128i *)near);
    }
    turn_halves(part, out);
}

static inline void quads_turn4(const uint8_t *at, int64_t apart, quads *out)
{
    __m256i low[4], high[4];

    eight_rows(at, apart, low);
    eight_rows(at + 8 * apart, apart, high);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) out[c] = (quads){low[c], high[c]};
}

static inline void quads_turn8(const uint8_t *at, int64_t apart, quads *out)
{
    quads_turn4(at, apart, out);
    quads_turn4(at + 16, apart, out + 4);
}

static inline quads quads_all(int32_t x)
{
    return (quads){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

static inline quads quads_and(quads v, uint8_t byte)
{
    __m256i mask = _mm256_set1_epi8((char)byte);

    return (quads){_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)};
}

static inline quads quads_or(quads v, quads w)
{
    return (quads){_mm256_or_si256(v.low, w.low), _mm256_or_si256(v.high, w.high)};
}

static inline quads quads_up(quads v, int n)
{
    return (quads){(__m256i)((unsigned_half)v.low << n), (__m256i)((unsigned_half)v.high << n)};
}

static inline quads quads_down(quads v, int n)
{
    return (quads){(__m256i)((unsigned_half)v.low >> n), (__m256i)((unsigned_half)v.high >> n)};
}

static inline __m256i fifth_half(__m256i v, __m256i bits, int c)
{
    const int near = c / 2 * 0x01010101; /* the byte they are in, of each of four lanes */
    const __m256i from =
        _mm256_set_epi32(near + 0x0c0c0c0c, near + 0x08080808, near + 0x04040404, near,
                         near + 0x0c0c0c0c, near + 0x08080808, near + 0x04040404, near);
    const __m256i bit = _mm256_set1_epi32(c % 2 ? (int)0x80402010u : 0x08040201);

    bits = _mm256_and_si256(_mm256_shuffle_epi8(bits, from), bit);
    bits = _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit), _mm256_set1_epi8(16));
    return _mm256_add_epi8(v, bits);
}

static inline quads quads_fifth(quads v, quads bits, int c)
{
    return (quads){fifth_half(v.low, bits.low, c), fifth_half(v.high, bits.high, c)};
}

static inline quads quads_byte(quads v, int k)
{
    __m256i mask = _mm256_set1_epi32(255);
    quads down = quads_down(v, 8 * k);

    return (quads){_mm256_and_si256(down.low, mask), _mm256_and_si256(down.high, mask)};
}

static inline quads quads_signed_byte(quads v, int k)
{
    quads up = quads_up(v, 24 - 8 * k);

    return (quads){_mm256_srai_epi32(up.low, 24), _mm256_srai_epi32(up.high, 24)};
}

static inline lanes lanes_of(quads v)
{
    return (lanes){_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
}

static inline __m256 low_half(__m256i v)
{
    const __m256i mask = _mm256_set1_epi32(0xffff);

    v = _mm256_and_si256(v, mask);
    return _mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

static inline lanes lanes_low_half(quads v)
{
    return (lanes){low_half(v.low), low_half(v.high)};
}

static inline lanes lanes_high_half(quads v)
{
    return lanes_low_half(quads_down(v, 16));
}

#define EIGHT_LESS 0

static inline quads quads_eight(quads v)
{
    return v;
}

static inline __m256i levels_half(__m256i v)
{
    const __m128i level = _mm_setr_epi8(SPC_QUANT_LEVELS);

    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(level), v);
}

static inline quads quads_levels(quads v)
{
    return (quads){levels_half(v.low), levels_half(v.high)};
}

/* Products of unsigned and signed bytes, in pairs: 2 * 128 * 127 fits 16 bits. */
static inline __m256i dot_half(__m256i sum, __m256i w, __m256i x, bool eight)
{
    if (eight) { /* the sign of w goes over to x */
        x = _mm256_sign_epi8(x, w);
        w = _mm256_abs_epi8(w);
    }
    x = _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
    return _mm256_add_epi32(sum, x);
}

static inline quads quads_dot(quads sum, quads w, const int8_t *x, bool eight)
{
    int32_t word;

    __builtin_memcpy(&word, x, sizeof word);

    __m256i four = _mm256_set1_epi32(word);

    return (quads){dot_half(sum.low, w.low, four, eight), dot_half(sum.high, w.high, four, eight)};
}

#define BLOCK_OUT   2
#define BLOCK_WIDE  4
#define BLOCK_ROWS  3
#define QUANT_FEW   1
#define ATTEND_TILE 2
#define UNIT        spc_cpu_avx2
#define UNIT_NAME   "avx2"
#include "cpu_kernels_body.h"
#endif
