/* SPDX-License-Identifier: Apache-2.0 */
/* comm_nccl.h - ranks over NCCL: one GPU each, of this process or of others.
 *
 * The library is loaded when somebody asks for it (2.18 or later); where it is missing, or this
 * build was made without its header, the answer is one line that says so.
 *
 * Every rank initialises without blocking, so that a rank that never comes is found by the
 * deadline.  NCCL does not tell which rank that was, nor whose GPU hangs: the rank itself does,
 * once NCCL is aborted (comm_device.h). */
#ifndef SPC_HOST_COMM_NCCL_H
#define SPC_HOST_COMM_NCCL_H

#include "comm.h"
#include "comm_device.h"

enum { SPC_NCCL_ID_BYTES = 128 };

/* In all calls: library is the file to load; NULL: "libnccl.so.2", wherever the loader finds it.
 * SPC_EUNSUPPORTED a build without NCCL's header; SPC_EDEVICE no such library, or too old. */

/* Its version: 22809 is 2.28.9.  Needs no GPU. */
spc_status spc_nccl_version(const char *library, int32_t *version, spc_error *err);

/* A new group's id, which one rank makes and every rank gives to spc_nccl_open. */
spc_status spc_nccl_id(const char *library, char id[SPC_NCCL_ID_BYTES], spc_error *err);

/* Become rank `rank` of a group of `world` on the calling thread's device; waits for the others.
 *
 * timeout_ms   of every wait, > 0
 * beside       NULL; or the ranks' group on the host, which knows more than NCCL of who died: its
 *              end ends every wait here, and a rank whose GPU hangs ends it by saying so.  Must
 *              outlive this one
 *
 * SPC_EUSAGE rank, world or timeout; SPC_EDEVICE: some rank did not come, or NCCL says why not;
 * SPC_ENOMEM */
spc_status spc_nccl_open(const char *library, const char id[SPC_NCCL_ID_BYTES], int32_t rank,
                         int32_t world, int32_t timeout_ms, spc_comm *beside, spc_device_comm **out,
                         spc_error *err);

/* The same over an application's communicator, which stays the application's: close leaves it as it
 * is, and so does the end of the group (abort it there; until then its kernels may wait on the
 * device).  Calls on one that was initialised to block have no deadline of their own; waits have.
 *
 * library  NULL: the one that the process is linked with, otherwise as above
 * handle   an ncclComm_t; the application makes no call on it meanwhile
 *
 * SPC_EUSAGE: NULL, or of another device than the calling thread's */
spc_status spc_nccl_adopt(const char *library, void *handle, int32_t timeout_ms,
                          spc_device_comm **out, spc_error *err);

#endif
