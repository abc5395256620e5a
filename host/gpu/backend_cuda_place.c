/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_place.c - the GPU rank of a process.
 *
 * NCCL's unique id is rank 0's and goes over the group on the host; before any rank waits in NCCL
 * all have told each other that they are fit to, so that one that is not is named at once.
 *
 * Not run on GPUs yet: tests/test_host_cli_launch_gpu.c runs processes as fibers over a stand-in
 * for NCCL, tests/nccl_ranks.sh runs them on one real GPU.  What that cannot show, and what does:
 *
 *   NVLink, a GPU for each process   spc launch -n 8 -- run --device cuda --verifier MODEL ...
 *                                    (NCCL_DEBUG=INFO says what NCCL goes over)
 *   several machines                 srun -N 2 --ntasks-per-node 8 --gpus-per-node 8 spc run
 *                                    --ranks-from env --meet /shared/file --device cuda ...
 *   how much faster that is          the same with -n 1, 2, 4; the statistics on stderr */
#include "backend_cuda_place.h"

#include "backend_cuda_rank.h"
#include "host/ranks/comm_nccl.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What ranks tell each other before they meet in NCCL. */
typedef struct {
    char host[96];
    char gpu[16]; /* its UUID */
    int32_t local, device, named;
    int32_t nccl; /* version */
} record;

typedef struct {
    int32_t local, timeout_ms;
    spc_comm *comm;
    bool named; /* the user did */
} seat;

/* ---- which GPU --------------------------------------------------------------------------------
 */

static spc_status choose_gpu(int32_t local, char number[16], const char **which, spc_error *err)
{
    int count = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    *which = NULL; /* where there is none, to open it says so */
    if (count > 1 && local >= count) {
        return spc_error_set(
            err, SPC_EDEVICE,
            "too few GPUs: this is process %d of its machine (from 0), which shows "
            "it %d: start one process for each GPU",
            (int)local, count);
    }
    if (count > 1) {
        (void)snprintf(number, 16, "%d", (int)local);
        *which = number;
    }
    return SPC_OK;
}

/* ---- what ranks compare -----------------------------------------------------------------------
 */

static spc_status fill_record(const seat *s, record *own, spc_error *err)
{
    struct cudaDeviceProp properties;
    int device = 0;
    cudaError_t code = cudaGetDevice(&device);

    memset(own, 0, sizeof *own);
    if (code == cudaSuccess) code = cudaGetDeviceProperties(&properties, device);
    if (code != cudaSuccess) {
        return spc_error_set(err, SPC_EDEVICE, "cuda:%d: properties: %s", device,
                             cudaGetErrorString(code));
    }
    _Static_assert(sizeof properties.uuid == sizeof own->gpu, "a UUID");
    memcpy(own->gpu, &properties.uuid, sizeof own->gpu);
    if (gethostname(own->host, sizeof own->host - 1) != 0) own->host[0] = '\0';
    own->local = s->local;
    own->device = device;
    own->named = s->named;
    return spc_nccl_version(NULL, &own->nccl, err);
}

static bool share_gpu(const record *a, const record *b)
{
    return memcmp(a->gpu, b->gpu, sizeof a->gpu) == 0 &&
           strncmp(a->host, b->host, sizeof a->host) == 0;
}

static spc_status compare(const record *all, int32_t world, spc_error *err)
{
    for (int32_t r = 1; r < world; r++) {
        if (all[r].nccl != all[0].nccl) {
            return spc_error_set(err, SPC_EDEVICE,
                                 "ranks differ: rank 0 has NCCL version %d, rank %d version %d: "
                                 "install the same everywhere",
                                 (int)all[0].nccl, (int)r, (int)all[r].nccl);
        }
        for (int32_t k = 0; k < r; k++) {
            if (!share_gpu(&all[k], &all[r]) || (all[k].named && all[r].named)) continue;
            return spc_error_set(err, SPC_EDEVICE,
                                 "ranks %d and %d have but one GPU on %.60s (cuda:%d): too few for "
                                 "its processes, start one for each GPU",
                                 (int)k, (int)r, all[r].host, (int)all[r].device);
        }
    }
    return SPC_OK;
}

static spc_status tell_all(const seat *s, spc_error *err)
{
    record all[SPC_RANKS_MAX];
    size_t begin[SPC_RANKS_MAX + 1];
    spc_status status = fill_record(s, &all[s->comm->rank], err);

    for (int32_t r = 0; r <= s->comm->world; r++) begin[r] = (size_t)r * sizeof *all;
    if (status == SPC_OK) status = s->comm->ops->all_gather(s->comm, all, begin, err);
    return status == SPC_OK ? compare(all, s->comm->world, err) : status;
}

/* ---- the place --------------------------------------------------------------------------------
 */

static spc_status join(void *user, spc_device_comm **out, spc_error *err)
{
    const seat *s = user;
    char id[SPC_NCCL_ID_BYTES];
    spc_status status = tell_all(s, err);

    *out = NULL;
    if (status == SPC_OK && s->comm->rank == 0) status = spc_nccl_id(NULL, id, err);
    if (status == SPC_OK) status = s->comm->ops->broadcast(s->comm, id, sizeof id, 0, err);
    if (status != SPC_OK) return status;
    return spc_nccl_open(NULL, id, s->comm->rank, s->comm->world, s->timeout_ms, s->comm, out, err);
}

spc_status spc_cuda_open_place(const char *which, int32_t local, spc_comm *comm, int32_t timeout_ms,
                               spc_backend **out, spc_error *err)
{
    seat s = {local, timeout_ms, comm, which != NULL};
    char number[16];
    spc_error error;
    spc_status status = SPC_OK;

    *out = NULL;
    if (!which) status = choose_gpu(local, number, &which, &error);
    if (status == SPC_OK) status = spc_cuda_open_rank(which, join, &s, out, &error);
    if (status == SPC_OK) return SPC_OK;
    if (strncmp(error.message, "rank", 4) == 0) {
        return spc_error_set(err, status, "%s", error.message);
    }
    return spc_error_set(err, status, "rank %d: %.480s", (int)comm->rank, error.message);
}
