/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_avx512.c - the kernels with AVX-512: 16 lanes in one register. */
#if defined(__x86_64__)
#include "cpu_kernels.h"

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

/* a, b, c, d, each four times */
static inline __m512i four_each(int a, int b, int c, int d)
{
    return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
}

static inline lanes lanes_pick(lanes v, int g)
{
    return _mm512_permutexvar_ps(four_each(4 * g, 4 * g + 1, 4 * g + 2, 4 * g + 3), v);
}

static inline lanes lanes_u8(uint64_t bytes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes)));
}

static inline lanes lanes_u8_twice(uint64_t bytes)
{
    __m128i once = _mm_cvtsi64_si128((int64_t)bytes);

    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(once, once)));
}

static inline lanes lanes_i8(const int8_t *bytes)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)bytes)));
}

static inline float half_float(uint16_t half)
{
    return _mm512_cvtss_f32(_mm512_cvtph_ps(_mm256_set1_epi16((int16_t)half)));
}

typedef __m512i quads;

static inline quads quads_load(const uint8_t *a, const uint8_t *b)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)a);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)b);

    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static inline quads quads_twice(const uint8_t *a, const uint8_t *b)
{
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)a);
    __m128i high = _mm_loadu_si128((const __m128i *)(const void *)b);

    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_broadcastsi128_si256(low)),
                              _mm256_broadcastsi128_si256(high), 1);
}

static inline quads quads_shift(quads v, int a, int b, int c, int d)
{
    return _mm512_srlv_epi32(v, four_each(a, b, c, d));
}

static inline quads quads_and(quads v, uint8_t byte)
{
    return _mm512_and_si512(v, _mm512_set1_epi8((char)byte));
}

static inline quads quads_or(quads v, quads w)
{
    return _mm512_or_si512(v, w);
}

static inline quads quads_flip(quads v)
{
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)128));
}

static inline quads quads_x(const int8_t *x)
{
    return _mm512_loadu_si512(x);
}

static inline quads quads_up4(quads v)
{
    return _mm512_slli_epi32(v, 4);
}

static inline quads quads_bits(uint64_t bits)
{
    return _mm512_maskz_mov_epi8(bits, _mm512_set1_epi8(16));
}

/* Sums of integers are exact: what is taken from w can be taken from the sum. */
static inline lanes quads_dot(quads w, quads x, int less)
{
#if defined(__AVX512VNNI__)
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x);

    if (less > 0) {
        sum = _mm512_sub_epi32(
            sum, _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8((char)less), x));
    }
    return _mm512_cvtepi32_ps(sum);
#else /* pairs first: 2 * 128 * 127 fits 16 bits; the sign of w goes over to x */
    if (less > 0) {
        w = _mm512_sub_epi8(w, _mm512_set1_epi8((char)less));
        x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
        w = _mm512_abs_epi8(w);
    }
    return _mm512_cvtepi32_ps(_mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1)));
#endif
}

/* Inserted one by one: what is stored in parts cannot be loaded whole without a wait. */
static inline lanes lanes_halves(const uint8_t *block, int bytes, int count, bool twice)
{
    __m128i half = _mm_setzero_si128();

#define INSERT(i)                                                \
    if (i < count) {                                             \
        int16_t word;                                            \
                                                                 \
        __builtin_memcpy(&word, block + (i)*bytes, sizeof word); \
        half = _mm_insert_epi16(half, word, i);                  \
    }
    INSERT(0)
    INSERT(1)
    INSERT(2)
    INSERT(3)
    INSERT(4)
    INSERT(5)
    INSERT(6)
    INSERT(7)
#undef INSERT
    if (!twice) return _mm512_cvtph_ps(_mm256_zextsi128_si256(half));
    return _mm512_cvtph_ps(
        _mm256_set_m128i(_mm_unpackhi_epi16(half, half), _mm_unpacklo_epi16(half, half)));
}

#define BLOCK_OUT  4
#define BLOCK_WIDE 8
#define BLOCK_ROWS 6
#if defined(__AVX512VNNI__)
#define UNIT      spc_cpu_avx512vnni
#define UNIT_NAME "avx512vnni"
#else
#define UNIT      spc_cpu_avx512
#define UNIT_NAME "avx512"
#endif
#include "cpu_kernels_body.h"
#endif
