/* SPDX-License-Identifier: Apache-2.0 */
/* ranks_round.h - drawing and verification by ranks that hold slices of the logits: the engine's
 * lanes as a batch of spc/verify.h, a rank's steps, and the collective between them. */
#ifndef SPC_HOST_RANKS_ROUND_H
#define SPC_HOST_RANKS_ROUND_H

#include "comm.h"
#include "host/backend.h"

/* spc_shard_sizes for any parameters. */
spc_shard_bytes spc_ranks_most_bytes(int32_t vocab, int32_t world);

/* What one rank needs for the rounds of so many lanes; nothing is allocated later. */
typedef struct spc_ranks_room spc_ranks_room;

/* Bytes of a rank's room.
 *
 * lanes   most sequences of a round
 * vocab   by which the head is cut */
size_t spc_ranks_room_bytes(int32_t lanes, int32_t vocab, int32_t world);

/* NULL: no memory. */
spc_ranks_room *spc_ranks_room_open(int32_t lanes, int32_t vocab, int32_t world);
void spc_ranks_room_close(spc_ranks_room *room);

/* The rows of a model on one rank: [outputs, ids] float32, of which at least what lies in the
 * rank's slice means something. */
typedef struct {
    const float *logits;
    int32_t ids; /* tokens both models have */
} spc_ranks_rows;

/* The verbs draw and verify of backend.h on one rank; all ranks call together and reach the same
 * end, which `out`, or the lanes' draft and stats where `writes` is set, receive.  Errors are the
 * collective's. */
spc_status spc_ranks_draw(spc_ranks_room *room, spc_comm *comm, const spc_ranks_rows *drafter,
                          const spc_lane *lanes, int32_t count, int32_t i, bool writes,
                          spc_error *err);
spc_status spc_ranks_verify(spc_ranks_room *room, spc_comm *comm, const spc_ranks_rows *drafter,
                            const spc_ranks_rows *verifier, const spc_lane *lanes, int32_t count,
                            spc_verdict *out, spc_error *err);

#endif
