/* SPDX-License-Identifier: Apache-2.0 */
/* ahead.c - for which round drafts that were drawn ahead are good. */
#include "ahead.h"

#include <string.h>

int32_t spc_ahead_most(const spc_round_request *w, int32_t room)
{
    int32_t left = room - w->length - w->lane.drafts;
    int32_t most = w->ahead < SPC_GAMMA_MAX + 1 ? w->ahead : SPC_GAMMA_MAX + 1;

    if (!w->unscored || w->lane.drafts == 0 || w->lane.salt != 0 || left < 0) return 0;
    return most < left ? most : left;
}

int32_t spc_ahead_ready(const spc_ahead *a, const spc_round_request *w, int32_t held)
{
    if (a->count == 0 || a->slot != w->slot || a->length != w->length ||
        a->pending != w->token[w->length - 1] || held != w->length - 1 || w->lane.salt != 0 ||
        memcmp(&a->params, w->lane.params, sizeof a->params) != 0) {
        return 0;
    }
    return a->count < w->lane.drafts ? a->count : w->lane.drafts;
}

void spc_ahead_note(spc_ahead *a, const spc_round_request *w, int32_t count)
{
    a->count = count;
    a->params = *w->lane.params;
    a->slot = w->slot;
    a->length = w->length + w->lane.drafts;
    a->pending = w->lane.draft[w->lane.drafts - 1];
}
