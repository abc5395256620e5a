/* SPDX-License-Identifier: Apache-2.0 */
/* comm_nccl.c - ranks over NCCL: what is sent, and how a rank comes and goes.
 *
 * Recorded in graphs, NCCL puts waits on events beside its kernels, which graphs of plain kernel
 * nodes take, but bodies of conditional nodes do not (unless NCCL_GRAPH_MIXING_SUPPORT=0).
 *
 * None of this has run on a GPU: tests/test_host_comm_nccl.c runs it against a stand-in. */
#include "comm_nccl_rank.h"

#include <stdlib.h>
#include <string.h>

/* ---- collectives ---- */

static spc_status nccl_all_reduce(spc_device_comm *comm, float *data, size_t count,
                                  spc_stream stream, spc_error *err)
{
    spc_nccl *n = (spc_nccl *)comm;

    if (spc_nccl_ended(n, NULL) != SPC_OK) return spc_nccl_give_up(n, err);
    return spc_nccl_settle(
        n, n->handle, "all_reduce",
        n->api.AllReduce(data, data, count, ncclFloat32, ncclSum, n->handle, stream), err);
}

/* Is the call made, if not finished?  Half a group would leave the other ranks waiting. */
static bool under_way(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

/* Parts of equal length by one call, others by a broadcast from each rank, all at once. */
static ncclResult_t gather(spc_nccl *n, char *data, const size_t *begin, spc_stream stream)
{
    int32_t world = n->comm.world, rank = n->comm.rank;
    size_t part = begin[1] - begin[0];
    bool equal = true;
    ncclResult_t result, last;

    for (int32_t r = 1; r < world; r++) equal = equal && begin[r + 1] - begin[r] == part;
    if (equal) {
        return n->api.AllGather(data + begin[rank], data + begin[0], part, ncclInt8, n->handle,
                                stream);
    }
    result = n->api.GroupStart();
    for (int32_t r = 0; r < world && under_way(result); r++) {
        if (begin[r] == begin[r + 1]) continue;
        result = n->api.Broadcast(data + begin[r], data + begin[r], begin[r + 1] - begin[r],
                                  ncclInt8, r, n->handle, stream);
    }
    last = n->api.GroupEnd();
    return under_way(result) ? last : result;
}

static spc_status nccl_all_gather(spc_device_comm *comm, void *data, const size_t *begin,
                                  spc_stream stream, spc_error *err)
{
    spc_nccl *n = (spc_nccl *)comm;

    if (spc_nccl_ended(n, NULL) != SPC_OK) return spc_nccl_give_up(n, err);
    return spc_nccl_settle(n, n->handle, "all_gather", gather(n, data, begin, stream), err);
}

static spc_status nccl_broadcast(spc_device_comm *comm, void *data, size_t bytes, int32_t root,
                                 spc_stream stream, spc_error *err)
{
    spc_nccl *n = (spc_nccl *)comm;

    if (spc_nccl_ended(n, NULL) != SPC_OK) return spc_nccl_give_up(n, err);
    return spc_nccl_settle(n, n->handle, "broadcast",
                           n->api.Broadcast(data, data, bytes, ncclInt8, root, n->handle, stream),
                           err);
}

static spc_status nccl_send(spc_device_comm *comm, const void *data, size_t bytes, int32_t to,
                            spc_stream stream, spc_error *err)
{
    spc_nccl *n = (spc_nccl *)comm;

    if (spc_nccl_ended(n, NULL) != SPC_OK) return spc_nccl_give_up(n, err);
    return spc_nccl_settle(n, n->handle, "send",
                           n->api.Send(data, bytes, ncclInt8, to, n->handle, stream), err);
}

static spc_status nccl_recv(spc_device_comm *comm, void *data, size_t bytes, int32_t from,
                            spc_stream stream, spc_error *err)
{
    spc_nccl *n = (spc_nccl *)comm;

    if (spc_nccl_ended(n, NULL) != SPC_OK) return spc_nccl_give_up(n, err);
    return spc_nccl_settle(n, n->handle, "recv",
                           n->api.Recv(data, bytes, ncclInt8, from, n->handle, stream), err);
}

/* ---- open and close ---- */

static void nccl_close(spc_device_comm *comm)
{
    spc_nccl *n = (spc_nccl *)comm;

    if (spc_nccl_ended(n, NULL) != SPC_OK) (void)spc_nccl_give_up(n, NULL);
    n->joined = false;
    if (n->handle && n->owned &&
        spc_nccl_settle(n, n->handle, "close", n->api.CommFinalize(n->handle), NULL) == SPC_OK) {
        (void)n->api.CommDestroy(n->handle);
    }
    spc_nccl_close_ending(n);
    (void)pthread_mutex_destroy(&n->lock);
    free(n);
}

static spc_status nccl_split(spc_device_comm *comm, int32_t colour, spc_device_comm **out,
                             spc_error *err);

static const spc_device_comm_ops nccl_ops = {
    "nccl",    true,       nccl_all_reduce, nccl_all_gather, nccl_broadcast,       nccl_send,
    nccl_recv, nccl_split, spc_nccl_wait,   spc_nccl_abort,  spc_nccl_async_error, nccl_close};

/* owned: the group is to be made here, not an application's. */
static spc_status new_rank(const char *library, int32_t rank, int32_t world, int32_t timeout_ms,
                           bool owned, spc_nccl **out, spc_error *err)
{
    spc_nccl *n;
    spc_status status;

    *out = NULL;
    if (world < 1 || world > SPC_RANKS_MAX || rank < 0 || rank >= world) {
        return spc_error_set(err, SPC_EUSAGE,
                             "ranks: expected 1 to %d, numbered from 0, found rank %d of %d",
                             SPC_RANKS_MAX, (int)rank, (int)world);
    }
    if (timeout_ms < 1) {
        return spc_error_set(err, SPC_EUSAGE, "timeout: expected 1 ms or more, found %d",
                             (int)timeout_ms);
    }
    n = calloc(1, sizeof *n);
    if (!n) return spc_error_set(err, SPC_ENOMEM, "no memory for rank %d", (int)rank);
    status = spc_nccl_load(library, !owned, &n->api, NULL, err);
    if (status != SPC_OK) {
        free(n);
        return status;
    }
    n->comm = (spc_device_comm){&nccl_ops, rank, world, false};
    n->timeout_ms = timeout_ms;
    n->owned = owned;
    (void)pthread_mutex_init(&n->lock, NULL); /* does not fail on the systems this runs on */
    *out = n;
    return SPC_OK;
}

static ncclConfig_t not_blocking(void)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;

    config.blocking = 0;
    return config;
}

spc_status spc_nccl_open(const char *library, const char id[SPC_NCCL_ID_BYTES], int32_t rank,
                         int32_t world, int32_t timeout_ms, spc_comm *beside, spc_device_comm **out,
                         spc_error *err)
{
    ncclConfig_t config = not_blocking();
    ncclUniqueId name;
    ncclResult_t result;
    spc_nccl *n;
    spc_status status = new_rank(library, rank, world, timeout_ms, true, &n, err);

    *out = NULL;
    if (status != SPC_OK) return status;
    n->beside = beside;
    memcpy(&name, id, sizeof name);
    result = n->api.CommInitRankConfig(&n->handle, world, name, rank, &config);
    status = spc_nccl_settle(n, n->handle, "joining the group", result, err);
    if (status != SPC_OK) {
        nccl_close(&n->comm);
        return status;
    }
    n->joined = true;
    *out = &n->comm;
    return SPC_OK;
}

spc_status spc_nccl_adopt(const char *library, void *handle, int32_t timeout_ms,
                          spc_device_comm **out, spc_error *err)
{
    int rank = -1, world = 0, device = -1, mine = 0;
    spc_nccl *n;
    spc_status status = new_rank(library, 0, 1, timeout_ms, false, &n, err);

    *out = NULL;
    if (status != SPC_OK) return status;
    n->handle = handle;
    if (!handle || n->api.CommUserRank(handle, &rank) != ncclSuccess ||
        n->api.CommCount(handle, &world) != ncclSuccess ||
        n->api.CommCuDevice(handle, &device) != ncclSuccess) {
        status =
            spc_error_set(err, SPC_EUSAGE, "nccl: expected a communicator that is ready, found %s",
                          handle ? "one that is not" : "NULL");
    } else if (world > SPC_RANKS_MAX) {
        status = spc_error_set(err, SPC_EUSAGE, "nccl: expected 1 to %d ranks, found %d",
                               SPC_RANKS_MAX, world);
    } else if (cudaGetDevice(&mine) != cudaSuccess || mine != device) {
        status = spc_error_set(err, SPC_EUSAGE,
                               "nccl: expected a communicator of cuda:%d, found one of cuda:%d",
                               mine, device);
    }
    if (status != SPC_OK) {
        n->handle = NULL;
        nccl_close(&n->comm);
        return status;
    }
    n->comm.rank = rank;
    n->comm.world = world;
    *out = &n->comm;
    return SPC_OK;
}

static spc_status nccl_split(spc_device_comm *comm, int32_t colour, spc_device_comm **out,
                             spc_error *err)
{
    ncclConfig_t config = not_blocking();
    spc_nccl *n = (spc_nccl *)comm, *part = NULL;
    ncclComm_t handle = NULL;
    int rank = 0, world = 1;
    spc_status status = spc_nccl_ended(n, err);

    *out = NULL;
    if (status != SPC_OK) return spc_nccl_give_up(n, err);
    part = calloc(1, sizeof *part);
    if (!part) return spc_error_set(err, SPC_ENOMEM, "split: no memory for a group");
    status =
        spc_nccl_settle(n, n->handle, "split",
                        n->api.CommSplit(n->handle, colour, comm->rank, &handle, &config), err);
    if (status == SPC_OK && handle) {
        status = spc_nccl_settle(n, handle, "split", ncclInProgress, err);
    }
    if (status == SPC_OK && (!handle || n->api.CommUserRank(handle, &rank) != ncclSuccess ||
                             n->api.CommCount(handle, &world) != ncclSuccess)) {
        status = spc_error_set(err, SPC_EDEVICE, "nccl: split: no place in the new group");
    }
    if (status != SPC_OK) {
        if (handle) (void)n->api.CommAbort(handle);
        free(part);
        return status;
    }
    part->api = n->api;
    part->comm = (spc_device_comm){&nccl_ops, rank, world, false};
    part->handle = handle;
    part->owned = true;
    part->timeout_ms = n->timeout_ms;
    (void)pthread_mutex_init(&part->lock, NULL);
    *out = &part->comm;
    return SPC_OK;
}
