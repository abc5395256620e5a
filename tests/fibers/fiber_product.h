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

#endif
