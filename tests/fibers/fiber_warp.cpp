/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_warp.cpp - what the lanes of a warp do together: shuffles, and products of tensor cores. */
#include <math.h>
#include <stdint.h>
#include <string.h>

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

/* Number k of a row of a (0: the lower, 1: that 8 below) or of a column of b, which 4 lanes hold:
 * pairs of bf16, or floats whose upper 19 bits count. */
static float factor(const fiber *lanes, unsigned slot, bool of_a, unsigned row, unsigned k,
                    bool bf16)
{
    const unsigned each = bf16 ? 2 : 1, lane = k / each % 4, upper = k / each / 4;
    const fiber_fragment &f = lanes[lane].given[slot];
    const uint32_t bits = of_a ? f.a[row + 2 * upper] : f.b[upper];
    union {
        uint32_t u;
        float f;
    } pun;

    pun.u = !bf16 ? bits & 0xffffe000u : k % 2 ? bits & 0xffff0000u : bits << 16;
    return pun.f;
}

/* Of x > 0, which is no subnormal double: the largest n with 2^n <= x. */
static int exponent_of(double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (int)(bits >> 52) - 1023;
}

static double power_of_2(int n)
{
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* As tensor cores add, as far as others have found out (Fasi et al. 2021, Li et al. 2024): the
 * numbers are cut off below what the largest of them has of bits, and one more; added exactly; and
 * the sum is cut off to a float.  Those of an A100, the coarser ones, add half of a product's
 * numbers at a time; an H100 all, with more bits. */
static float add_cut(float c, const double *product, unsigned count)
{
    double largest = fabs((double)c), all = c, unit, units;
    int64_t sum;
    int exponent;
    float near;

    for (unsigned k = 0; k < count; k++) {
        all += product[k];
        largest = fabs(product[k]) > largest ? fabs(product[k]) : largest;
    }
    if (largest == 0.0 || !(fabs(all) < 3.4e38)) return (float)all;
    exponent = exponent_of(largest);
    unit = power_of_2(exponent - 24);
    units = power_of_2(24 - exponent);
    sum = (int64_t)((double)c * units);
    for (unsigned k = 0; k < count; k++) sum += (int64_t)(product[k] * units);
    all = (double)sum * unit;
    near = (float)all;
    return fabs((double)near) > fabs(all) ? nextafterf(near, 0.0f) : near;
}

void fiber_mma(float *c, const uint32_t *a, const uint32_t *b, bool bf16)
{
    unsigned lane;
    fiber *const warp = fiber_warp(&lane);
    const unsigned slot = warp[lane].products++ % 2;

    memcpy(warp[lane].given[slot].a, a, sizeof warp[lane].given[slot].a);
    memcpy(warp[lane].given[slot].b, b, sizeof warp[lane].given[slot].b);
    fiber_meet_warp();
    for (unsigned column = 0; column < 2; column++) {
        const fiber *of_b = warp + (lane % 4 * 2 + column) * 4, *of_a = warp + lane / 4 * 4;
        const unsigned count = bf16 ? 16 : 8;
        float x[16];
        bool any = false;

        for (unsigned k = 0; k < count; k++) {
            x[k] = factor(of_b, slot, false, 0, k, bf16);
            any = any || x[k] != 0.0f;
        }
        for (unsigned row = 0; row < 2 && any; row++) { /* rows that are not there cost nothing */
            double product[16];

            for (unsigned k = 0; k < count; k++) {
                product[k] = (double)factor(of_a, slot, true, row, k, bf16) * (double)x[k];
            }
            for (unsigned k = 0; k < count; k += count / 2) {
                c[column + 2 * row] = add_cut(c[column + 2 * row], product + k, count / 2);
            }
        }
    }
}
