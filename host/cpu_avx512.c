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

#define BLOCK_OUT  4
#define BLOCK_WIDE 8
#define BLOCK_ROWS 6
#define UNIT       spc_cpu_avx512
#define UNIT_NAME  "avx512"
#include "cpu_kernels_body.h"
#endif
