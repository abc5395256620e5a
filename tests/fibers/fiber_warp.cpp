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

/* A loop over rows is what takes the time of most tests. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FIBER_FASTEST __attribute__((target_clones("avx2", "default")))
#else
#define FIBER_FASTEST
#endif

static float lower_of(uint32_t pair)
{
    fiber_real x;

    x.bits = pair << 16;
    return x.is;
}

static float upper_of(uint32_t pair)
{
    fiber_real x;

    x.bits = pair & 0xffff0000u;
    return x.is;
}

/* A float whose upper 19 bits count. */
static float tf32_of(uint32_t bits)
{
    fiber_real x;

    x.bits = bits & 0xffffe000u;
    return x.is;
}

/* Is a column of b none?  Rows of activations that are not there cost nothing. */
static bool is_none(const float *b, unsigned count)
{
    for (unsigned k = 0; k < count; k++) {
        if (b[k] != 0.0f) return false;
    }
    return true;
}

template <unsigned count> FIBER_INLINE void multiply(fiber_factors *f)
{
    for (unsigned j = 0; j < 8; j++) {
        if (is_none(f->b[j], 2 * count)) continue;
        for (unsigned r = 0; r < FIBER_ROWS; r += FIBER_LANES) {
            fiber_add_cut_rows<count>(f->c[j] + r, f->a, r, f->b[j]);
            fiber_add_cut_rows<count>(f->c[j] + r, f->a + count, r, f->b[j] + count);
        }
    }
}

FIBER_FASTEST static void multiply_bf16(fiber_factors *f)
{
    multiply<8>(f);
}

FIBER_FASTEST static void multiply_tf32(fiber_factors *f)
{
    multiply<4>(f);
}

void fiber_mma(float *c, const uint32_t *a, const uint32_t *b, bool bf16)
{
    unsigned lane;
    fiber *const warp = fiber_warp(&lane);
    const unsigned product = ++warp[lane].products, row = lane / 4, at = lane % 4;

    if (!warp->factors) warp->factors.reset(new fiber_factors[2]());
    fiber_factors &f = warp->factors[product % 2];

    for (unsigned i = 0; i < 4; i++) {
        const unsigned r = row + i % 2 * 8, k = at + i / 2 * 4;

        f.c[2 * at + i % 2][row + i / 2 * 8] = c[i];
        if (bf16) f.a[2 * k][r] = lower_of(a[i]);
        if (bf16) f.a[2 * k + 1][r] = upper_of(a[i]);
        if (!bf16) f.a[k][r] = tf32_of(a[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        const unsigned k = at + i * 4;

        if (bf16) f.b[row][2 * k] = lower_of(b[i]);
        if (bf16) f.b[row][2 * k + 1] = upper_of(b[i]);
        if (!bf16) f.b[row][k] = tf32_of(b[i]);
    }
    fiber_meet_warp();
    if (f.made != product) (bf16 ? multiply_bf16 : multiply_tf32)(&f);
    f.made = product;
    for (unsigned i = 0; i < 4; i++) c[i] = f.c[2 * at + i % 2][row + i / 2 * 8];
}
