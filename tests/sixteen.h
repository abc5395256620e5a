/* SPDX-License-Identifier: Apache-2.0 */
/* sixteen.h - fixtures whose keys and values have 16 bits. */
#ifndef SPC_TESTS_SIXTEEN_H
#define SPC_TESTS_SIXTEEN_H

#include "golden.h"

enum { TYPES = 2 };

static const spc_dtype types[TYPES] = {SPC_DTYPE_BF16, SPC_DTYPE_F16};

/* The runner of a fixture with caches of another type. */
static inline void load_again(golden *g, spc_dtype type)
{
    spc_limits limits = golden_limits;
    spc_error error;

    limits.kv = type;
    g->ops->unload(g->runner);
    cr_assert_eq(g->ops->load(g->backend, g->plan, g->bundle, &limits, &g->runner, &error), SPC_OK,
                 "%s", error.message);
}

#endif
