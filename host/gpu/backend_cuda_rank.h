/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_rank.h - the CUDA backend as one rank of several.
 *
 * Its verbs are those of spc_backend_cuda but for whole rounds, called by every rank with the same
 * arguments in the same order, each from its own thread or process: load takes the rank's slice of
 * every matrix, forward sums over the ranks, draw and verify exchange numbers of tiles, and gather
 * puts rows together.  Plans that say `alone` run whole on every rank. */
#ifndef SPC_HOST_BACKEND_CUDA_RANK_H
#define SPC_HOST_BACKEND_CUDA_RANK_H

#include "host/backend.h"
#include "host/ranks/comm_device.h"

extern const spc_backend_ops spc_backend_cuda_rank; /* open by spc_cuda_open_rank */

/* Open a device as a rank.
 *
 * which   number of the device; NULL: the first
 * join    called with user once the device is the calling thread's: makes the rank's place in its
 *         group, which the backend then owns
 *
 * SPC_EUSAGE, SPC_EDEVICE, SPC_ENOMEM, and join's */
spc_status spc_cuda_open_rank(const char *which,
                              spc_status (*join)(void *user, spc_device_comm **out, spc_error *err),
                              void *user, spc_backend **out, spc_error *err);

/* End the rank's group; from any thread. */
void spc_cuda_abort_rank(spc_backend *backend, const char *reason);

#endif
