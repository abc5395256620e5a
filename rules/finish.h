/* SPDX-License-Identifier: Apache-2.0 */
/* finish.h - where a run of tokens ends: stop token, then budget, then context; the first that
 * fires cuts the run. */
#ifndef SPC_RULES_FINISH_H
#define SPC_RULES_FINISH_H

#include "portable.h"

typedef enum { SPC_END_NONE, SPC_END_STOP, SPC_END_BUDGET, SPC_END_CONTEXT } spc_end;

/* Does a token end its sequence?
 *
 * is_stop   it is one of the sequence's stop ids
 * emitted   new tokens of the sequence, this one included
 * budget    new tokens allowed, > 0
 * length    tokens of the sequence, this one included
 * context   tokens that fit, > 0 */
SPC_FN spc_end spc_end_of(bool is_stop, int32_t emitted, int32_t budget, int32_t length,
                          int32_t context)
{
    if (is_stop) return SPC_END_STOP;
    if (emitted >= budget) return SPC_END_BUDGET;
    if (length >= context) return SPC_END_CONTEXT;
    return SPC_END_NONE;
}

/* Draft length of a round: no more than the budget and the context can still take.  A round of g
 * drafts emits up to g + 1 tokens. */
SPC_FN int32_t spc_round_gamma(int32_t gamma, int32_t emitted, int32_t budget, int32_t length,
                               int32_t context)
{
    int32_t room = budget - emitted < context - length ? budget - emitted : context - length;

    return gamma < room - 1 ? gamma : room - 1;
}

#endif
