/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_warp.cpp - what the lanes of a warp do together: shuffles, and products of tensor cores. */
#include <stdint.h>

#include "fibers.h" /* last: see there */

uint64_t fiber_shuffle(uint64_t bits, unsigned from)
{
    unsigned lane;
    fiber *const warp = fiber_warp(&lane);
    const unsigned turn = warp[lane].shuffles++ % 2; /* the same in all lanes */

    /* nobody gives the value after the next before all have read this one */
    warp[lane].exchanged[turn] = bits;
    fiber_meet_warp();
    return from < FIBER_WARP ? warp[from].exchanged[turn] : bits;
}

union real {
    uint32_t bits;
    float is;
};

/* What one lane holds of a row of a or of a column of b: where `pairs`, pairs of bf16, or floats
 * whose upper 19 bits count. */
static void put(float *row, unsigned at, uint32_t bits, bool pairs)
{
    real lower, upper;

    if (!pairs) {
        lower.bits = bits & 0xffffe000u;
        row[at] = lower.is;
        return;
    }
    lower.bits = bits << 16;
    upper.bits = bits & 0xffff0000u;
    row[2 * at] = lower.is;
    row[2 * at + 1] = upper.is;
}

/* Of a float 2^n times 1 to 2: n + 127, above the bits of its fraction. */
static int32_t exponent_of(float x)
{
    real of;

    of.is = x;
    return (int32_t)(of.bits & 0x7f800000u);
}

static float power_of_2(int32_t n)
{
    real x;

    x.bits = (uint32_t)(n + 127) << 23;
    return x.is;
}

/* To as many bits as a float has, cut off. */
static float cut(int32_t x)
{
    uint32_t size = (uint32_t)(x < 0 ? -x : x);

    if (size >> 24) size &= ~0u << (8 - __builtin_clz(size));
    return x < 0 ? -(float)size : (float)size;
}

/* As tensor cores add, as far as others have found out (Fasi et al. 2021, Li et al. 2024): the
 * numbers are cut off below what the largest of them has of bits, and one more; added exactly; and
 * the sum is cut off to a float.  Those of an A100, the coarser ones, add half of a product's
 * numbers at a time; an H100 all, with more bits.
 *
 * Products of two such factors are exact as floats, but those too small to count beside others. */
template <unsigned count> static float add_cut(float c, const float *a, const float *b)
{
    float product[count], units;
    int32_t largest = exponent_of(c), sum; /* of at most 9 numbers below 2^25 */

    for (unsigned k = 0; k < count; k++) product[k] = a[k] * b[k];
    for (unsigned k = 0; k < count; k++) {
        const int32_t e = exponent_of(product[k]);

        largest = e > largest ? e : largest;
    }
    largest = (largest >> 23) - 127;
    if (largest < -100 || largest > 122) { /* zeros; what floats cannot hold, or not exactly */
        double all = (double)c;

        for (unsigned k = 0; k < count; k++) all += (double)a[k] * (double)b[k];
        return (float)all;
    }
    units = power_of_2(24 - largest);
    sum = (int32_t)(c * units);
    for (unsigned k = 0; k < count; k++) sum += (int32_t)(product[k] * units);
    return cut(sum) * power_of_2(largest - 24);
}

template <unsigned count>
static void multiply(float *c, const fiber_factors &factors, unsigned row, unsigned column)
{
    for (unsigned j = 0; j < 2; j++) {
        const float *const b = factors.b[column + j];
        unsigned k = 0;

        while (k < 2 * count && b[k] == 0.0f) k++;
        if (k == 2 * count) continue; /* rows that are not there cost nothing */
        for (unsigned half = 0; half < 2; half++) {
            const float *const a = factors.a[row + 8 * half];
            float *const at = &c[j + 2 * half];

            *at = add_cut<count>(add_cut<count>(*at, a, b), a + count, b + count);
        }
    }
}

void fiber_mma(float *c, const uint32_t *a, const uint32_t *b, bool bf16)
{
    unsigned lane;
    fiber *const warp = fiber_warp(&lane);
    const unsigned slot = warp[lane].products++ % 2, row = lane / 4, at = lane % 4;

    if (!warp->factors) warp->factors.reset(new fiber_factors[2]);
    fiber_factors &factors = warp->factors[slot];

    for (unsigned i = 0; i < 4; i++) put(factors.a[row + i % 2 * 8], at + i / 2 * 4, a[i], bf16);
    for (unsigned i = 0; i < 2; i++) put(factors.b[row], at + i * 4, b[i], bf16);
    fiber_meet_warp();
    if (bf16) {
        multiply<8>(c, factors, row, 2 * at);
    } else {
        multiply<4>(c, factors, row, 2 * at);
    }
}
