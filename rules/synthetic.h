/* SPDX-License-Identifier: Apache-2.0 */
/* synthetic.h - verdicts at a given rate, for measurements with random weights, which agree about
 * nothing: all work is done, and then each draft is kept with a given chance.  What
 * is emitted so means nothing. */
#ifndef SPC_RULES_SYNTHETIC_H
#define SPC_RULES_SYNTHETIC_H

#include "pair.h"
#include "rng.h"

/* Ids that take the place of a drawn token: small ones, none of them special in a usual vocabulary.
 */
enum { SPC_SYNTHETIC_ID = 3, SPC_SYNTHETIC_IDS = 7 };

/* Replace the verdict of a round.  Coins are looked up by position, as those of rules are: whoever
 * asks, and wherever it runs, gets the same.
 *
 * draft      [drafts]
 * position   of the first of them
 * bonus      a token is drawn behind them when all are kept
 * rate       chance that a draft is kept */
SPC_FN void spc_synthetic_verdict(spc_verdict *v, const spc_row_params *params, int64_t position,
                                  const int32_t *draft, int32_t drafts, bool bonus, float rate)
{
    int32_t accepted = 0;

    while (accepted < drafts) {
        spc_key key = spc_key_at(params, position + accepted, 0);

        if (!(spc_uniform(key, SPC_STREAM_USER, 0) < rate)) break;
        v->token[accepted] = draft[accepted];
        accepted++;
    }
    v->accepted = v->count = accepted;
    v->verified = accepted < drafts ? accepted + 1 : drafts;
    v->drawn = accepted < drafts || bonus;
    if (!v->drawn) return;
    v->token[v->count++] = SPC_SYNTHETIC_ID + (int32_t)((position + accepted) % SPC_SYNTHETIC_IDS);
}

#endif
