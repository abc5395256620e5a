/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_place.h - the GPU rank of a process: which GPU is its own, and its place over NCCL,
 * agreed upon over the group that the processes have on their hosts. */
#ifndef SPC_HOST_BACKEND_CUDA_PLACE_H
#define SPC_HOST_BACKEND_CUDA_PLACE_H

#include "host/backend.h"
#include "host/ranks/comm.h"

/* Open it (spc_backend_cuda_rank's verbs); collective over comm, which what fails on one rank does
 * not end: the caller does.
 *
 * which        number of the GPU; NULL: of those this process sees the one of its place among the
 *              processes of its machine, or the only one, where each sees its own
 * local        place among the group's processes of this machine, from 0
 * comm         the group; it stays the caller's, and must outlive the backend
 * timeout_ms   of every wait for another rank
 *
 * SPC_EDEVICE no GPU or too few, no NCCL or another version than rank 0's, a rank that did not
 * come; SPC_EUSAGE an unknown GPU; SPC_ENOMEM; SPC_EUNSUPPORTED a build without NCCL */
spc_status spc_cuda_open_place(const char *which, int32_t local, spc_comm *comm, int32_t timeout_ms,
                               spc_backend **out, spc_error *err);

#endif
