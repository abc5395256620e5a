/* SPDX-License-Identifier: Apache-2.0 */
/* comm_nccl_rank.h - what the files of comm_nccl.h know of each other: NCCL's calls, a rank, and
 * how it ends. */
#ifndef SPC_HOST_COMM_NCCL_RANK_H
#define SPC_HOST_COMM_NCCL_RANK_H

#include "comm_nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdbool.h>

/* ---- comm_nccl_library.c ---- */

/* The calls that are made; X(name, result, arguments). */
#define NCCL_CALLS(X)                                                                            \
    X(GetVersion, ncclResult_t, (int *))                                                         \
    X(GetUniqueId, ncclResult_t, (ncclUniqueId *))                                               \
    X(CommInitRankConfig, ncclResult_t, (ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *))  \
    X(CommFinalize, ncclResult_t, (ncclComm_t))                                                  \
    X(CommDestroy, ncclResult_t, (ncclComm_t))                                                   \
    X(CommAbort, ncclResult_t, (ncclComm_t))                                                     \
    X(CommSplit, ncclResult_t, (ncclComm_t, int, int, ncclComm_t *, ncclConfig_t *))             \
    X(CommGetAsyncError, ncclResult_t, (ncclComm_t, ncclResult_t *))                             \
    X(CommCount, ncclResult_t, (ncclComm_t, int *))                                              \
    X(CommCuDevice, ncclResult_t, (ncclComm_t, int *))                                           \
    X(CommUserRank, ncclResult_t, (ncclComm_t, int *))                                           \
    X(GetErrorString, const char *, (ncclResult_t))                                              \
    X(GetLastError, const char *, (ncclComm_t))                                                  \
    X(AllReduce, ncclResult_t,                                                                   \
      (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t))     \
    X(AllGather, ncclResult_t,                                                                   \
      (const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t))                  \
    X(Broadcast, ncclResult_t,                                                                   \
      (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t))             \
    X(Send, ncclResult_t, (const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t)) \
    X(Recv, ncclResult_t, (void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t))       \
    X(GroupStart, ncclResult_t, (void))                                                          \
    X(GroupEnd, ncclResult_t, (void))

typedef struct {
#define NCCL_FIELD(name, result, arguments) result(*name) arguments;
    NCCL_CALLS(NCCL_FIELD)
#undef NCCL_FIELD
} spc_nccl_calls;

/* Load the library; it stays, for it does not unload well.
 *
 * linked    take what the process is linked with, where that is some NCCL and no file is named
 * version   NULL allowed */
spc_status spc_nccl_load(const char *file, bool linked, spc_nccl_calls *api, int32_t *version,
                         spc_error *err);

/* ---- comm_nccl_end.c ---- */

typedef struct spc_nccl_ending spc_nccl_ending; /* a communicator that is being aborted */

typedef struct {
    spc_device_comm comm; /* first: the two are one pointer */
    spc_nccl_calls api;
    ncclComm_t handle;       /* NULL: not yet, or aborted */
    spc_nccl_ending *ending; /* NULL: it has not been */
    bool owned, joined;
    bool looked; /* whether the device hangs */
    int32_t timeout_ms;
    spc_comm *beside;     /* NULL: none */
    pthread_mutex_t lock; /* of end */
    spc_error end;        /* status SPC_OK: the group lives */
} spc_nccl;

/* SPC_OK, or why the group has ended; asks nobody. */
spc_status spc_nccl_ended(spc_nccl *n, spc_error *err);
/* Let go of what waits on the device, and say why the group has ended; the owner's thread only. */
spc_status spc_nccl_give_up(spc_nccl *n, spc_error *err);
/* What became of a call: finished, failed, or too late. */
spc_status spc_nccl_settle(spc_nccl *n, ncclComm_t handle, const char *what, ncclResult_t result,
                           spc_error *err);
/* Free what give_up has left under way, as far as it ends in time. */
void spc_nccl_close_ending(spc_nccl *n);

/* Verbs. */
void spc_nccl_abort(spc_device_comm *comm, const char *reason);
spc_status spc_nccl_async_error(spc_device_comm *comm, spc_error *err);
spc_status spc_nccl_wait(spc_device_comm *comm, spc_stream stream, spc_error *err);

#endif
