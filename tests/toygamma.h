/* SPDX-License-Identifier: Apache-2.0 */
/* toygamma.h - gamma auto over toy models, whose clock only forwards move: every choice can be
 * told. */
#ifndef SPC_TESTS_TOYGAMMA_H
#define SPC_TESTS_TOYGAMMA_H

#include "decode.h"
#include "toy.h"

enum { CONTEXT = 4096 };

static inline spc_session_options auto_options(const char *rule, float temperature, uint64_t seed)
{
    spc_session_options o = options_of(rule, SPC_GAMMA_AUTO, temperature);

    o.seed = seed;
    return o;
}

static inline spc_stats stats_of(const spc_session *s)
{
    spc_stats stats;

    spc_session_stats(s, &stats);
    return stats;
}

static inline toy_pair pair_of(float spread, bool equal, bool reversed)
{
    return (toy_pair){.seed = 31,
                      .vocab = 24,
                      .context = CONTEXT,
                      .sessions = 1,
                      .spread = spread,
                      .equal = equal,
                      .reversed = reversed};
}

#endif
