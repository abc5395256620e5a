/* SPDX-License-Identifier: Apache-2.0 */
/* carve.h - one allocation cut into pieces: the cutting runs once to count and once for real, so
 * that what is said to be needed and what is taken cannot differ. */
#ifndef SPC_HOST_CARVE_H
#define SPC_HOST_CARVE_H

#include <stddef.h>
#include <stdint.h>

/* Of every piece: a cache line, and what a device reads at once. */
enum { CARVE_ALIGNMENT = 256 };

/* Counting stops here instead of wrapping. */
#define CARVE_MOST (SIZE_MAX / 2)

/* base NULL only counts. */
typedef struct {
    char *base;
    size_t used;
} carver;

/* a b, or CARVE_MOST where that is more. */
static inline size_t times(size_t a, int64_t b)
{
    if (b == 0) return 0;
    return a > CARVE_MOST / (size_t)b ? CARVE_MOST : a * (size_t)b;
}

/* The next piece; NULL while counting. */
static inline void *carve(carver *c, size_t bytes)
{
    size_t at = c->used;

    if (bytes > CARVE_MOST - CARVE_ALIGNMENT || c->used > CARVE_MOST - bytes) {
        c->used = CARVE_MOST;
        return NULL;
    }
    c->used += (bytes + CARVE_ALIGNMENT - 1) / CARVE_ALIGNMENT * CARVE_ALIGNMENT;
    return c->base ? c->base + at : NULL;
}

#endif
