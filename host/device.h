/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - from what a user calls a device to an open backend. */
#ifndef SPC_HOST_DEVICE_H
#define SPC_HOST_DEVICE_H

#include "backend.h"
#include "host/ranks/comm.h"

/* Can it be opened as one of the below, as far as its text, threads and isa say?  Looks for no
 * device.  SPC_EUSAGE, SPC_EUNSUPPORTED as below */
spc_status spc_device_check(const char *device, int32_t threads, const char *isa, spc_error *err);
/* The same of a process among several: it has one. */
spc_status spc_device_check_place(const char *device, int32_t threads, const char *isa,
                                  spc_error *err);

/* Open a device.
 *
 * device    "cpu"; "cuda", the first GPU; "cuda:1"; "auto", the first GPU where there is one that
 *           can be used, otherwise, or where threads or isa are given, the CPU; NULL: "cpu"
 * threads   of the CPU; 0: chosen
 * isa       vector unit of the CPU; NULL: chosen
 * log       told, with user, why "auto" passes over a GPU that is there; may be NULL
 *
 * SPC_EUSAGE no device of this kind or number, threads or isa for a GPU; SPC_EUNSUPPORTED a GPU in
 * a build without CUDA; SPC_EDEVICE no GPU, or none that can be used */
spc_status spc_device_open(const char *device, int32_t threads, const char *isa, spc_log_fn log,
                           void *user, const spc_backend_ops **ops, spc_backend **out,
                           spc_error *err);

/* The same as ranks that run one model together.
 *
 * device    as above; "cuda": as many GPUs as there are ranks; "cuda:0,cuda:1": one for each rank
 * world     2 .. SPC_RANKS_MAX
 * threads   of all CPU ranks together
 *
 * "auto" is the CPU here.  Errors as above; SPC_EDEVICE too where NCCL cannot be loaded */
spc_status spc_device_open_ranks(const char *device, int32_t world, int32_t threads,
                                 const char *isa, const spc_backend_ops **ops, spc_backend **out,
                                 spc_error *err);

/* One rank of an application's group.
 *
 * device   "cuda" or "cuda:1": the communicator's
 * comm     an ncclComm_t; it stays the application's
 * world    its ranks; 0: whatever it has
 *
 * Errors as above; SPC_EUSAGE where it does not fit */
spc_status spc_device_open_adopted(const char *device, void *comm, int32_t world,
                                   const spc_backend_ops **ops, spc_backend **out, spc_error *err);

/* The rank of a process among several, which have a group on their hosts. */
typedef struct {
    const char *device; /* NULL, "cpu", "auto": the CPU; "cuda": the GPU of the process's place on
                           its machine, "cuda:1": this one */
    int32_t threads;    /* of the CPU; 0: chosen */
    const char *isa;    /* vector unit of the CPU; NULL: chosen */
    spc_comm *comm;     /* GPU: to agree over; stays the caller's, and must outlive the backend */
    int32_t local;      /* place among the processes of this machine, from 0 */
    int32_t timeout_ms; /* of every wait for another rank */
} spc_device_place;

/* Open it: the whole CPU, whose part of the work the caller chooses, or a rank over NCCL, which
 * chooses by itself (backend_cuda_rank.h).  Collective for GPUs.
 *
 * Errors as above, and as spc_cuda_open_place */
spc_status spc_device_open_place(const spc_device_place *place, const spc_backend_ops **ops,
                                 spc_backend **out, spc_error *err);

/* How many ranks a device's text names: 1, or those of a list. */
int32_t spc_device_ranks(const char *device);

/* Does a device's text mean a GPU for certain ("cuda", "cuda:1")? */
bool spc_device_is_cuda(const char *device);

/* Has this build CUDA? */
bool spc_device_knows_cuda(void);

#endif
