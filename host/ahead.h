/* SPDX-License-Identifier: Apache-2.0 */
/* ahead.h - drafts of the next round, drawn while this one is verified, as if all of it were kept.
 *
 * Random numbers are looked up by position, so they are what that round would draw, if it begins
 * where they do: its length and its pending token tell.  A draft that was not kept leaves fewer
 * tokens or another last. */
#ifndef SPC_HOST_AHEAD_H
#define SPC_HOST_AHEAD_H

#include "backend.h"

/* The round that drafts are good for. */
typedef struct {
    spc_row_params params;
    int32_t slot, length, pending;
    int32_t count; /* of the drafts; 0: there are none */
} spc_ahead;

/* How many drafts a round may draw ahead: as it asks, as far as the drafter's cache has room,
 * which is for so many tokens. */
int32_t spc_ahead_most(const spc_round_request *request, int32_t room);

/* How many of the drafts the round can begin with.
 *
 * held   KV length of its slot in the drafter, without what was run ahead */
int32_t spc_ahead_ready(const spc_ahead *ahead, const spc_round_request *request, int32_t held);

/* So many were drawn behind all drafts of this round. */
void spc_ahead_note(spc_ahead *ahead, const spc_round_request *request, int32_t count);

#endif
