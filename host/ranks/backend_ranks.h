/* SPDX-License-Identifier: Apache-2.0 */
/* backend_ranks.h - several CPU ranks in one process behind one backend.
 *
 * Each rank is a CPU backend of its own with its part of the model (spc_plan_split), its own
 * threads and a thread that drives it; the caller's thread drives rank 0.  Logits stay where they
 * are made: drawing and verification exchange numbers of tiles (ranks_round.h), and all ranks come
 * to one decision.  A plan that says `alone` runs on rank 0 only; its logits are read from there.
 */
#ifndef SPC_HOST_BACKEND_RANKS_H
#define SPC_HOST_BACKEND_RANKS_H

#include "host/backend.h"

/* The verbs; open by spc_ranks_open instead of its open, which is NULL. */
extern const spc_backend_ops spc_backend_ranks;

/* Open a group of ranks.
 *
 * world     1 .. SPC_RANKS_MAX
 * threads   of all ranks together, at least one each; 0: one per core
 * isa       as for the CPU backend
 *
 * SPC_EUSAGE, SPC_ENOMEM */
spc_status spc_ranks_open(int32_t world, int32_t threads, const char *isa, spc_backend **out,
                          spc_error *err);

#endif
