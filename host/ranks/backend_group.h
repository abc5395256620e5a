/* SPDX-License-Identifier: Apache-2.0 */
/* backend_group.h - several processes, each a rank on its CPU or its GPU, behind one backend.
 *
 * Rank 0 runs the engine; its backend tells every verb to the others, which follow
 * (spc_group_follow): sessions, prompts, cancelling and all else that differs from run to run
 * happens in one place, and the other ranks cannot go another way.  Each rank has its part of the
 * verifier (spc_plan_split) and reads only that of the checkpoint.  A drafter whose plan says
 * `alone` runs as a whole on every rank, side by side, and needs no communication; any other is cut
 * like the verifier.  One on a device of its own is not loaded here but beside rank 0's backend
 * (backend_apart.h), whose verify_rows hands its rows on.
 *
 * Commands go over TCP.  CPU ranks exchange their numbers there too; GPUs do over NCCL
 * (backend_cuda_place.h), and beside it the processes tell each other that they live (pulse.h).
 *
 * Where the ranks' models, options, vector units or kinds of GPU differ, that is told at load
 * (group_agree.h); where they come to other tokens or lengths afterwards, every 32 commands.  What
 * fails on one rank ends all of them, with its name and what it was doing. */
#ifndef SPC_HOST_BACKEND_GROUP_H
#define SPC_HOST_BACKEND_GROUP_H

#include "host/backend.h"

/* The verbs; open by spc_group_open instead of its open, which is NULL.  Models are loaded by every
 * rank, in the same order, at most two; the verbs after that are rank 0's. */
extern const spc_backend_ops spc_backend_group;

/* Open this process's place; collective.
 *
 * comm         taken over, also on failure
 * timeout_ms   the group's
 * device       as for spc_device_open_place; of one kind on all ranks
 * threads      of this rank; 0: its share of the cores, where ranks of one machine share them
 * isa          as for the CPU backend
 * options      a line that all ranks must agree on
 * beside       NULL; or on the CPU receives how many of this rank's threads are left to a
 *              drafter that runs beside it (spc_team_quarter)
 *
 * SPC_EUSAGE, SPC_ENOMEM, SPC_EDEVICE, and as spc_device_open_place */
spc_status spc_group_open(spc_comm *comm, int32_t timeout_ms, const char *device, int32_t threads,
                          const char *isa, const char *options, int32_t *beside, spc_backend **out,
                          spc_error *err);

/* The least of what the ranks give, in place; collective, before models are loaded.  SPC_EDEVICE */
spc_status spc_group_least(spc_backend *backend, int32_t *value, spc_error *err);

/* Rank 0, once the models are loaded: from now on the others wait for commands, also for long ones;
 * a thread lets them know that rank 0 lives.  SPC_ENOMEM */
spc_status spc_group_lead(spc_backend *backend, spc_error *err);

/* The other ranks, once the models are loaded: do what rank 0 asks until it closes its backend.
 * SPC_EDEVICE: the group has ended for another reason, which may be this rank's own. */
spc_status spc_group_follow(spc_backend *backend, spc_error *err);

/* Something outside of the backend failed on this rank: end the group.  Names the rank. */
void spc_group_abort(spc_backend *backend, const char *reason);

#endif
