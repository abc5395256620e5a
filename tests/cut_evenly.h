/* SPDX-License-Identifier: Apache-2.0 */
/* cut_evenly.h - the numbers of ranks that a model without blocks of quantised weights can be cut
 * for: what spc_engine_options.tp says, written once more for the tests. */
#ifndef SPC_TESTS_CUT_EVENLY_H
#define SPC_TESTS_CUT_EVENLY_H

#include "weights/config.h"

static inline bool is_cut_evenly(const spc_config *c, int32_t world)
{
    return c->heads % world == 0 && c->ffn % world == 0 &&
           (c->kv_heads % world == 0 || world % c->kv_heads == 0);
}

#endif
