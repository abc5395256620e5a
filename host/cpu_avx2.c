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

#define BLOCK_OUT  2
#define BLOCK_WIDE 4
#define BLOCK_ROWS 3
#define UNIT       spc_cpu_avx2
#define UNIT_NAME  "avx2"
#include "cpu_kernels_body.h"
#endif
