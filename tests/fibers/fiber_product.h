/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_product.h - how tensor cores add.
 *
 * As far as others have found out (Fasi et al. 2021, Li et al. 2024): the numbers are cut off below
 * what the largest of them has of bits, and one more; added exactly; and the sum is cut off to a
 * float.  Those of an A100, the coarser ones, add half of a product's numbers at a time; an H100
 * all, with more bits. */
#ifndef SPC_TESTS_FIBERS_FIBER_PRODUCT_H
#define SPC_TESTS_FIBERS_FIBER_PRODUCT_H

#include <stdint.h>

union fiber_real {
    uint32_t bits;
    float is;
};

/* Of a float 2^n times 1 to 2: n + 127, above the bits of its fraction. */
static inline int32_t fiber_exponent_of(float x)
{
    fiber_real of;

    of.is = x;
    return (int32_t)(of.bits & 0x7f800000u);
}

static inline float fiber_power_of_2(int32_t n)
{
    fiber_real x;

    x.bits = (uint32_t)(n + 127) << 23;
    return x.is;
}

/* To as many bits as a float has, cut off. */
static inline float fiber_cut(int32_t x)
{
    uint32_t size = (uint32_t)(x < 0 ? -x : x);

    if (size >> 24) size &= ~0u << (8 - __builtin_clz(size));
    return x < 0 ? -(float)size : (float)size;
}

/* c + a[0] b[0] + a[1] b[1] + ...  Products of two such factors are exact as floats, but those too
 * small to count beside others. */
template <unsigned count> static inline float fiber_add_cut(float c, const float *a, const float *b)
{
    float product[count], units;
    int32_t largest = fiber_exponent_of(c), sum; /* of at most 9 numbers below 2^25 */

    for (unsigned k = 0; k < count; k++) product[k] = a[k] * b[k];
    for (unsigned k = 0; k < count; k++) {
        const int32_t e = fiber_exponent_of(product[k]);

        largest = e > largest ? e : largest;
    }
    largest = (largest >> 23) - 127;
    if (largest < -100 || largest > 122) { /* zeros; what floats cannot hold, or not exactly */
        double all = (double)c;

        for (unsigned k = 0; k < count; k++) all += (double)a[k] * (double)b[k];
        return (float)all;
    }
    units = fiber_power_of_2(24 - largest);
    sum = (int32_t)(c * units);
    for (unsigned k = 0; k < count; k++) sum += (int32_t)(product[k] * units);
    return fiber_cut(sum) * fiber_power_of_2(largest - 24);
}

/* The same with one column of b and several rows of a, whose numbers lie k by k: vectors of rows.
 */
enum { FIBER_ROWS = 16, FIBER_LANES = 8 };

typedef float fiber_floats __attribute__((vector_size(4 * FIBER_LANES)));
typedef int32_t fiber_ints __attribute__((vector_size(4 * FIBER_LANES)));
/* the same anywhere in memory */
typedef float fiber_lying __attribute__((vector_size(4 * FIBER_LANES), aligned(4), may_alias));

#define FIBER_INLINE static inline __attribute__((always_inline))

/* What is kept of the numbers, as whole ones. */
FIBER_INLINE void fiber_whole(fiber_ints *out, const fiber_floats &x, const fiber_ints &kept)
{
    *out = __builtin_convertvector((fiber_floats)((fiber_ints)x & kept), fiber_ints);
}

/* fiber_cut of each: the nearest float, or where that is further from 0 the one before it. */
FIBER_INLINE void fiber_cut_all(fiber_floats *out, const fiber_ints &x)
{
    const fiber_floats nearest = __builtin_convertvector(x, fiber_floats);
    const fiber_ints back = __builtin_convertvector(nearest, fiber_ints);

    *out = (fiber_floats)((fiber_ints)nearest + (((back > x) & (x > 0)) | ((back < x) & (x < 0))));
}

template <unsigned count>
FIBER_INLINE void fiber_add_cut_rows(float *c, const float (*a)[FIBER_ROWS], unsigned first,
                                     const float *b)
{
    fiber_floats product[count], result;
    fiber_ints largest, sum, whole;

    const fiber_floats old = *(const fiber_lying *)c;

    largest = (fiber_ints)old & 0x7f800000;
    for (unsigned k = 0; k < count; k++) {
        product[k] = *(const fiber_lying *)(a[k] + first) * b[k];

        const fiber_ints e = (fiber_ints)product[k] & 0x7f800000;

        largest = e > largest ? e : largest;
    }
    largest = (largest >> 23) - 127;

    const fiber_ints kept = (largest >= -100) & (largest <= 122), n = largest & kept;
    const fiber_floats units = (fiber_floats)((24 + 127 - n) << 23);

    fiber_whole(&sum, old * units, kept);
    for (unsigned k = 0; k < count; k++) {
        fiber_whole(&whole, product[k] * units, kept);
        sum += whole;
    }
    fiber_cut_all(&result, sum);
    result *= (fiber_floats)((n + 127 - 24) << 23);
    *(fiber_lying *)c = result;
    for (unsigned r = 0; r < FIBER_LANES; r++) {
        float row[count];

        if (kept[r]) continue;
        for (unsigned k = 0; k < count; k++) row[k] = a[k][first + r];
        c[r] = fiber_add_cut<count>(old[r], row, b);
    }
}

#endif
