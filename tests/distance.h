/* SPDX-License-Identifier: Apache-2.0 */
/* distance.h - how far two arrays are apart.  NaN stays, and is near to nothing. */
#ifndef SPC_TESTS_DISTANCE_H
#define SPC_TESTS_DISTANCE_H

#include <math.h>
#include <stddef.h>

/* The largest distance of two entries. */
static inline float distance(const float *a, const float *b, size_t count)
{
    float worst = 0.0f;

    for (size_t i = 0; i < count; i++) {
        float off = fabsf(a[i] - b[i]);

        worst = off <= worst ? worst : off;
    }
    return worst;
}

/* The same in units of the largest entry of b. */
static inline float relative_distance(const float *a, const float *b, size_t count)
{
    float largest = 1e-20f;

    for (size_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(b[i]));
    return distance(a, b, count) / largest;
}

#endif
