/* SPDX-License-Identifier: Apache-2.0 */
/* units.h - vector units whose loops over floats are tested; a machine has some of them.  All but
 * the portable loops fuse multiply and add, and agree with each other to the bit. */
#ifndef SPC_TESTS_UNITS_H
#define SPC_TESTS_UNITS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { UNITS = 5 };

static const char *const units[UNITS] = {"portable", "avx2", "avx512", "neon", "neondot"};

static inline bool unit_fuses(int32_t u)
{
    return strcmp(units[u], "portable") != 0;
}

#endif
