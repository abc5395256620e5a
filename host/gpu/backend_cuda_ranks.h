/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_ranks.h - several GPU ranks in one process behind one backend: GPUs that differ over
 * NCCL, or one GPU several times (comm_virtual.h), which gains nothing and shows the same.
 *
 * Each rank is a CUDA backend of its own (backend_cuda_rank.h) and a thread that drives it; the
 * caller's thread drives rank 0, whose answers count.  The verdicts of all ranks are compared. */
#ifndef SPC_HOST_BACKEND_CUDA_RANKS_H
#define SPC_HOST_BACKEND_CUDA_RANKS_H

#include "host/backend.h"

/* The verbs; open by spc_cuda_ranks_open instead of its open, which is NULL. */
extern const spc_backend_ops spc_backend_cuda_ranks;

typedef struct {
    int32_t world;       /* 1 .. SPC_RANKS_MAX */
    const char *devices; /* "cuda": the first `world` of them; "cuda:0,cuda:1": one for each rank,
                            all different or all the same */
    int32_t timeout_ms;  /* of every wait for another rank; 0: two minutes */
    const char *library; /* NCCL's file; NULL: where the loader finds it */
} spc_cuda_ranks_options;

/* SPC_EUSAGE devices that are not there, or do not match `world`; SPC_EDEVICE, SPC_ENOMEM, and as
 * spc_nccl_open */
spc_status spc_cuda_ranks_open(const spc_cuda_ranks_options *options, spc_backend **out,
                               spc_error *err);

/* One rank by itself (spc_backend_cuda's verbs, as backend_cuda_rank.h has them) of a group that is
 * the application's.
 *
 * which   number of the device; NULL: the first
 * comm    an ncclComm_t, as for spc_nccl_adopt
 * world   ranks that are expected; 0: any number
 *
 * SPC_EUSAGE, SPC_EDEVICE, SPC_ENOMEM, and as spc_nccl_adopt */
spc_status spc_cuda_open_adopted(const char *which, void *comm, int32_t world, spc_backend **out,
                                 spc_error *err);

#endif
