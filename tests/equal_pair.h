/* SPDX-License-Identifier: Apache-2.0 */
/* equal_pair.h - equal models, whose rounds keep every draft: tokens that are known before a
 * session ends early. */
#ifndef SPC_TESTS_EQUAL_PAIR_H
#define SPC_TESTS_EQUAL_PAIR_H

#include "decode.h"
#include "toy.h"

enum { GAMMA = 4, RUN = GAMMA + 1 }; /* tokens of a fully kept round */

static const char sentence[] = "<s><2de>The cat sleeps on the old chair.<sep>";

static const prompt start = {{1, 0, 1}, 3};

/* Equal models, greedy: every round keeps its RUN tokens, and they are those of any other run. */
static const toy_pair equal = {
    .seed = 6, .vocab = TOY_VOCAB, .context = 64, .sessions = 1, .spread = 4, .equal = true};

static inline decoded free_run(spc_engine *engine, const prompt *p, int32_t max_tokens)
{
    spc_session_options o = options_of("strict", GAMMA, 0);

    o.max_tokens = max_tokens;
    o.ignore_stop = true;
    return decode(engine, &o, p);
}

#endif
