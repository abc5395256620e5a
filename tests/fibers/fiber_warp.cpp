/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_warp.cpp - what the lanes of a warp do together: shuffles, and products of tensor cores. */
#include <stdint.h>

#include "fiber_product.h"
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

/* What one lane holds of a row of a or of a column of b: where `pairs`, pairs of bf16, or floats
 * whose upper 19 bits count. */
static void put(float *row, unsigned at, uint32_t bits, bool pairs)
{
    fiber_real lower, upper;

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

            *at = fiber_add_cut<count>(fiber_add_cut<count>(*at, a, b), a + count, b + count);
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
