/* SPDX-License-Identifier: Apache-2.0 */
/* backend_apart.h - drafter and verifier, each on a device of its own, behind one backend.
 *
 * Drafts are drawn where the drafter runs, and verified where the verifier does.  Ids and
 * statistics of rows cross in any case.  A rule, and what is drawn after a rejection, may look at
 * whole rows of the drafter: those of the drafts, and the one behind them where the token there
 * depends on it, go through the host's memory, 4 bytes a token of the vocabulary: for a sequence
 * and gamma 5 of a vocabulary of 128,256 2.6 MB a round, to a GPU, from one, or both.  Where both
 * are CPUs nothing is copied.
 *
 * The devices work at the same time (apart_round.c): while the verifier scores a round whose last
 * row is a draft too, the drafter draws the next one.  No token depends on it.
 *
 * The verifier's side may be ranks, threads or processes: the drafter then runs beside the first
 * rank alone, whose process hands each other the ids of its slice of the drafter's rows
 * (group_rows.c), and all decide alike.  So may the drafter's side, ranks on GPUs of its own: they
 * draw over their slices, and put together the rows that cross.  What fails on the drafter's
 * device, or hangs there for longer than ranks wait for each other, ends all of them
 * (apart_side.c). */
#ifndef SPC_HOST_BACKEND_APART_H
#define SPC_HOST_BACKEND_APART_H

#include "host/backend.h"
#include "host/ranks/comm.h"

/* The verbs; open by spc_apart_open instead of its open, which is NULL. */
extern const spc_backend_ops spc_backend_apart;

/* Do the options go together with drafter_device, which is not NULL?  SPC_EUSAGE, SPC_EUNSUPPORTED
 */
spc_status spc_apart_check(const spc_engine_options *options, spc_error *err);

/* Open options->device, or the ranks that options ask for, and options->drafter_device.  CPU
 * threads that are asked for go to the CPU; where both are CPUs a quarter goes to the drafter, and
 * each has one at least.
 *
 * options   have been checked
 * comm      NULL; or of a rank of several processes (options->place) its group: taken over, also on
 *           failure.  Then only rank 0 has the drafter, whose runner on other ranks does nothing
 * shared    with comm: a line that all ranks must agree on
 *
 * SPC_EUSAGE, SPC_EUNSUPPORTED, SPC_EDEVICE, SPC_ENOMEM */
spc_status spc_apart_open(const spc_engine_options *options, spc_comm *comm, const char *shared,
                          spc_backend **out, spc_error *err);

/* The plan that belongs on the drafter's device; any other is the verifier's.  To be told before
 * either is loaded or its memory counted. */
void spc_apart_drafter(spc_backend *backend, const spc_plan *drafter);

/* One of the two sides. */
const spc_backend_ops *spc_apart_device(const spc_backend *backend, bool drafter,
                                        spc_backend **own);

/* Is one of the two a GPU? */
bool spc_apart_has_gpu(const spc_backend *backend);

/* What a runner on its device must hold for one that holds `limits` here. */
spc_limits spc_apart_limits(const spc_limits *limits, bool drafter);

#endif
