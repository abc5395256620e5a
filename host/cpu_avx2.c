/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_avx2.c - the kernels with AVX2, FMA and F16C: 16 lanes in two registers. */
#if defined(__x86_64__)
#include "cpu_kernels.h"

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

static inline lanes lanes_pick(lanes v, int g)
{
    __m256 from = g < 2 ? v.low : v.high;
    int first = g % 2 * 4;
    __m256i low = _mm256_setr_m128i(_mm_set1_epi32(first), _mm_set1_epi32(first + 1));

    return (lanes){_mm256_permutevar8x32_ps(from, low),
                   _mm256_permutevar8x32_ps(from, _mm256_add_epi32(low, _mm256_set1_epi32(2)))};
}

static inline __m256 widen_u8(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

static inline lanes lanes_u8(uint64_t bytes)
{
    return (lanes){widen_u8(_mm_cvtsi64_si128((int64_t)bytes)), _mm256_setzero_ps()};
}

static inline lanes lanes_u8_twice(uint64_t bytes)
{
    __m128i once = _mm_cvtsi64_si128((int64_t)bytes), twice = _mm_unpacklo_epi8(once, once);

    return (lanes){widen_u8(twice), widen_u8(_mm_srli_si128(twice, 8))};
}

static inline lanes lanes_i8(const int8_t *bytes)
{
    __m128i all = _mm_loadu_si128((const __m128i *)(const void *)bytes);

    return (lanes){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)),
                   _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all, 8)))};
}

static inline float half_float(uint16_t half)
{
    return _cvtsh_ss(half);
}

typedef struct {
    __m256i low, high;
} quads;

static inline quads quads_load(const uint8_t *a, const uint8_t *b)
{
    return (quads){_mm256_loadu_si256((const __m256i *)(const void *)a),
                   _mm256_loadu_si256((const __m256i *)(const void *)b)};
}

static inline quads quads_twice(const uint8_t *a, const uint8_t *b)
{
    return (quads){_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)a)),
                   _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)b))};
}

static inline quads quads_shift(quads v, int a, int b, int c, int d)
{
    return (quads){
        _mm256_srlv_epi32(v.low, _mm256_setr_m128i(_mm_set1_epi32(a), _mm_set1_epi32(b))),
        _mm256_srlv_epi32(v.high, _mm256_setr_m128i(_mm_set1_epi32(c), _mm_set1_epi32(d)))};
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

static inline quads quads_flip(quads v)
{
    __m256i top = _mm256_set1_epi8((char)128);

    return (quads){_mm256_xor_si256(v.low, top), _mm256_xor_si256(v.high, top)};
}

static inline quads quads_x(const int8_t *x)
{
    return quads_load((const uint8_t *)x, (const uint8_t *)x + 32);
}

static inline quads quads_up4(quads v)
{
    return (quads){_mm256_slli_epi32(v.low, 4), _mm256_slli_epi32(v.high, 4)};
}

/* Each byte's own of 32 bits: its byte of the number to every place, then its bit. */
static inline __m256i spread_bits(uint32_t bits)
{
    const __m256i byte =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
    __m256i all = _mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)bits), byte);

    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(all, bit), bit),
                            _mm256_set1_epi8(16));
}

static inline quads quads_bits(uint64_t bits)
{
    return (quads){spread_bits((uint32_t)bits), spread_bits((uint32_t)(bits >> 32))};
}

/* Products of unsigned and signed bytes, in pairs: 2 * 128 * 127 fits 16 bits. */
static inline __m256 dot_half(__m256i w, __m256i x, int less)
{
    if (less > 0) { /* the sign of w goes over to x */
        w = _mm256_sub_epi8(w, _mm256_set1_epi8((char)less));
        x = _mm256_sign_epi8(x, w);
        w = _mm256_abs_epi8(w);
    }
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}

static inline lanes quads_dot(quads w, quads x, int less)
{
    return (lanes){dot_half(w.low, x.low, less), dot_half(w.high, x.high, less)};
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
    if (!twice) return (lanes){_mm256_cvtph_ps(half), _mm256_setzero_ps()};
    return (lanes){_mm256_cvtph_ps(_mm_unpacklo_epi16(half, half)),
                   _mm256_cvtph_ps(_mm_unpackhi_epi16(half, half))};
}

#define BLOCK_OUT  2
#define BLOCK_WIDE 4
#define BLOCK_ROWS 3
#define UNIT       spc_cpu_avx2
#define UNIT_NAME  "avx2"
#include "cpu_kernels_body.h"
#endif
