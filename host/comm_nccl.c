/* SPDX-License-Identifier: Apache-2.0 */
/* comm_nccl.c - ranks over NCCL, loaded at run time.
 *
 * A call that NCCL has not finished enqueueing is waited for by asking, up to the deadline; so is a
 * stream whose kernels wait for another rank.  What ends the group ends it on this rank's thread:
 * abort only leaves a reason, which every loop looks at, as NCCL's communicators may not be freed
 * under another thread's call.  CommAbort then goes to a thread of its own: it lets go of kernels
 * that wait at once, but returns only when no graph holds a call of the communicator any more
 * (commDestroySync of NCCL's init.cc), and it is the owner's thread that has those graphs, or is
 * about to record one.  Ranks have a group on the host too (comm_tcp.c, comm_local.c), which knows
 * who died or hangs: every wait here asks it.
 *
 * Whose GPU hangs costs nothing until a wait is over.  Once NCCL is aborted its kernels return, and
 * a stream that waited in them comes to rest.  A rank whose stream does not names itself over the
 * group on the host; the others give it the time to.
 *
 * Recorded in graphs, NCCL puts waits on events beside its kernels, which graphs of plain kernel
 * nodes take, but bodies of conditional nodes do not (unless NCCL_GRAPH_MIXING_SUPPORT=0).
 *
 * None of this has run on a GPU: tests/test_host_comm_nccl.c runs it against a stand-in. */
#include "comm_nccl.h"

#ifdef SPC_HAS_NCCL

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the library ------------------------------------------------------------------------------
 */

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
} calls;

/* The first version with everything above. */
enum { OLDEST = 21800 };

static void find(void *library, const char *name, void *out, const char **missing)
{
    void *found = dlsym(library, name);

    if (!found && !*missing) *missing = name;
    memcpy(out, &found, sizeof found); /* ISO C converts no object's address to a function's */
}

/* Load the library; it stays, for it does not unload well.
 *
 * linked   take what the process is linked with, where that is some NCCL and no file is named */
static spc_status load(const char *file, bool linked, calls *api, int32_t *version, spc_error *err)
{
    const char *name = file ? file : "libnccl.so.2", *missing = NULL;
    void *library = linked && !file ? dlopen(NULL, RTLD_NOW | RTLD_LOCAL) : NULL;
    int found = 0;

    if (!library || !dlsym(library, "ncclCommCount")) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (!library) {
        return spc_error_set(err, SPC_EDEVICE,
                             "nccl: cannot load %s, which several GPUs need: install NCCL 2.18 or "
                             "later where the loader looks, or run one rank: %s",
                             name, dlerror());
    }
#define NCCL_FIND(call, result, arguments) find(library, "nccl" #call, &api->call, &missing);
    NCCL_CALLS(NCCL_FIND)
#undef NCCL_FIND
    if (api->GetVersion && api->GetVersion(&found) != ncclSuccess) found = 0;
    if (missing || found < OLDEST) {
        return spc_error_set(err, SPC_EDEVICE,
                             "nccl: %s: expected NCCL 2.18 or later, found version %d%s%s", name,
                             found, missing ? " without " : "", missing ? missing : "");
    }
    if (version) *version = found;
    return SPC_OK;
}

spc_status spc_nccl_version(const char *library, int32_t *version, spc_error *err)
{
    calls api;

    return load(library, false, &api, version, err);
}

spc_status spc_nccl_id(const char *library, char id[SPC_NCCL_ID_BYTES], spc_error *err)
{
    calls api;
    ncclUniqueId made;
    ncclResult_t result;
    spc_status status = load(library, false, &api, NULL, err);

    _Static_assert(sizeof made == SPC_NCCL_ID_BYTES, "an id");
    if (status != SPC_OK) return status;
    result = api.GetUniqueId(&made);
    if (result != ncclSuccess) {
        return spc_error_set(err, SPC_EDEVICE, "nccl: no id for a group: %s: %s",
                             api.GetErrorString(result), api.GetLastError(NULL));
    }
    memcpy(id, &made, sizeof made);
    return SPC_OK;
}

/* ---- a rank, and its end ----------------------------------------------------------------------
 */

/* A communicator that is being aborted. */
typedef struct {
    ncclResult_t (*abort)(ncclComm_t);
    ncclComm_t handle;
    int device;
    pthread_t thread;
    _Atomic bool done;
} ending;

/* How long close waits for it: graphs are gone by then.  How long a stream may be busy once nothing
 * on it waits for another rank: longer than the rest of a forward takes, and than the timeout only
 * where that is for tests. */
enum { ENDING_MS = 10000, REST_MS = 5000, REST_LEAST_MS = 500 };

typedef struct {
    spc_device_comm comm; /* first: the two are one pointer */
    calls api;
    ncclComm_t handle; /* NULL: not yet, or aborted */
    ending *ending;    /* NULL: it has not been */
    bool owned, joined;
    bool looked; /* whether the device hangs */
    int32_t timeout_ms;
    spc_comm *beside;     /* NULL: none */
    pthread_mutex_t lock; /* of end */
    spc_error end;        /* status SPC_OK: the group lives */
} nccl;

static spc_status ended(nccl *n, spc_error *err)
{
    spc_status status;

    pthread_mutex_lock(&n->lock);
    status = n->end.status;
    if (status != SPC_OK && err) *err = n->end;
    pthread_mutex_unlock(&n->lock);
    return status;
}

static void nccl_abort(spc_device_comm *comm, const char *reason)
{
    nccl *n = (nccl *)comm;

    pthread_mutex_lock(&n->lock);
    if (n->end.status == SPC_OK) (void)spc_error_set(&n->end, SPC_EDEVICE, "%s", reason);
    pthread_mutex_unlock(&n->lock);
}

/* The same, where the group on the host may have ended meanwhile. */
static spc_status ended_beside(nccl *n)
{
    spc_error error;

    if (ended(n, NULL) == SPC_OK && n->beside &&
        n->beside->ops->async_error(n->beside, &error) != SPC_OK) {
        nccl_abort(&n->comm, error.message);
    }
    return ended(n, NULL);
}

static void *run_ending(void *user)
{
    ending *e = user;

    (void)cudaSetDevice(e->device);
    (void)e->abort(e->handle);
    e->done = true;
    return NULL;
}

/* Let go of what waits on the device; the owner's thread only. */
static spc_status give_up(nccl *n, spc_error *err)
{
    ending *e = n->handle && n->owned ? calloc(1, sizeof *e) : NULL;

    if (e) {
        e->abort = n->api.CommAbort;
        e->handle = n->handle;
        (void)cudaGetDevice(&e->device);
        if (pthread_create(&e->thread, NULL, run_ending, e) != 0) {
            free(e);
            e = NULL;
        }
        n->ending = e;
    }
    if (!e && n->handle && n->owned) (void)n->api.CommAbort(n->handle);
    n->handle = NULL;
    return ended(n, err);
}

static spc_status end_by(nccl *n, const char *what, ncclResult_t result, spc_error *err)
{
    char text[SPC_ERROR_BYTES];
    const char *detail = n->handle ? n->api.GetLastError(n->handle) : NULL;

    (void)snprintf(text, sizeof text, "rank %d of %d: nccl: %s: %s%s%.200s", (int)n->comm.rank,
                   (int)n->comm.world, what, n->api.GetErrorString(result),
                   detail && *detail ? ": " : "", detail ? detail : "");
    (void)ended_beside(n); /* it names who is to blame */
    nccl_abort(&n->comm, text);
    return give_up(n, err);
}

static int32_t rest_ms(const nccl *n)
{
    if (n->timeout_ms < REST_LEAST_MS) return REST_LEAST_MS;
    return n->timeout_ms < REST_MS ? n->timeout_ms : REST_MS;
}

/* Does a stream come to rest, now that nobody is waited for?  (An application's group is not ours
 * to abort: its streams may wait as ever.) */
static void look(nccl *n, spc_stream stream)
{
    int64_t deadline = spc_device_comm_now() + (int64_t)rest_ms(n) * 1000000;

    if (!n->owned || n->looked) return;
    n->looked = true;
    for (int64_t asked = 0; cudaStreamQuery(stream) == cudaErrorNotReady; asked++) {
        (void)cudaGetLastError(); /* no error, but kept as one */
        n->comm.hangs = spc_device_comm_now() > deadline;
        if (n->comm.hangs) return;
        spc_device_comm_rest(asked);
    }
}

/* Has the rank whose device hangs named itself?  It takes as long to find out as this one takes to
 * find that its own does not, and may have begun later. */
static bool hear_whose(nccl *n)
{
    int64_t deadline = spc_device_comm_now() + 2 * (int64_t)rest_ms(n) * 1000000;

    for (int64_t asked = 0; ended_beside(n) == SPC_OK; asked++) {
        if (spc_device_comm_now() > deadline) return false;
        spc_device_comm_rest(asked);
    }
    return true;
}

/* stream   NULL, or the one that was waited for */
static spc_status end_late(nccl *n, const char *what, const spc_stream *stream, spc_error *err)
{
    char text[SPC_ERROR_BYTES], why[200] = "some did not come; see what the other ranks say";

    (void)give_up(n, NULL);
    if (stream) look(n, *stream);
    if (n->comm.hangs) {
        (void)snprintf(why, sizeof why,
                       "the GPU of rank %d hangs: it was busy for %d ms more when nothing on it "
                       "waited for other ranks; see nvidia-smi and dmesg (Xid) on its machine",
                       (int)n->comm.rank, (int)rest_ms(n));
    } else if (n->joined && n->beside && hear_whose(n)) {
        return ended(n, err);
    } else if (n->looked) {
        (void)snprintf(why, sizeof why,
                       "some did not come; the GPU of this rank did nothing but wait for them");
    }
    (void)snprintf(text, sizeof text,
                   "rank %d of %d: nccl: %s: expected all ranks within %d ms, and %s",
                   (int)n->comm.rank, (int)n->comm.world, what, (int)n->timeout_ms, why);
    if (n->comm.hangs && n->beside) n->beside->ops->abort(n->beside, text);
    nccl_abort(&n->comm, text);
    return ended(n, err);
}

static spc_status nccl_late(spc_device_comm *comm, const char *what, spc_stream stream,
                            spc_error *err)
{
    return end_late((nccl *)comm, what, &stream, err);
}

/* What became of a call: finished, failed, or too late. */
static spc_status settle(nccl *n, ncclComm_t handle, const char *what, ncclResult_t result,
                         spc_error *err)
{
    int64_t deadline = spc_device_comm_now() + (int64_t)n->timeout_ms * 1000000;

    for (int64_t asked = 0; result == ncclInProgress; asked++) {
        ncclResult_t answer = n->api.CommGetAsyncError(handle, &result);

        if (answer != ncclSuccess) result = answer;
        if (result != ncclInProgress) break;
        if (ended_beside(n) != SPC_OK) return give_up(n, err);
        if (spc_device_comm_now() > deadline) return end_late(n, what, NULL, err);
        spc_device_comm_rest(asked);
    }
    return result == ncclSuccess ? SPC_OK : end_by(n, what, result, err);
}

static spc_status nccl_async_error(spc_device_comm *comm, spc_error *err)
{
    nccl *n = (nccl *)comm;
    ncclResult_t result = ncclSuccess, answer;

    if (ended_beside(n) != SPC_OK) return give_up(n, err);
    answer = n->api.CommGetAsyncError(n->handle, &result);
    if (answer != ncclSuccess) result = answer;
    if (result == ncclSuccess || result == ncclInProgress) return SPC_OK;
    return end_by(n, "between calls", result, err);
}

static spc_status nccl_wait(spc_device_comm *comm, spc_stream stream, spc_error *err)
{
    nccl *n = (nccl *)comm;
    spc_status status = spc_device_comm_wait(comm, n->timeout_ms, stream, nccl_late, err);

    if (status != SPC_OK) look(n, stream); /* who frees memory next asks for it */
    return status;
}

/* ---- collectives ------------------------------------------------------------------------------
 */

static spc_status nccl_all_reduce(spc_device_comm *comm, float *data, size_t count,
                                  spc_stream stream, spc_error *err)
{
    nccl *n = (nccl *)comm;

    if (ended(n, NULL) != SPC_OK) return give_up(n, err);
    return settle(n, n->handle, "all_reduce",
                  n->api.AllReduce(data, data, count, ncclFloat32, ncclSum, n->handle, stream),
                  err);
}

/* Is the call made, if not finished?  Half a group would leave the other ranks waiting. */
static bool under_way(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

/* Parts of equal length by one call, others by a broadcast from each rank, all at once. */
static ncclResult_t gather(nccl *n, char *data, const size_t *begin, spc_stream stream)
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
    nccl *n = (nccl *)comm;

    if (ended(n, NULL) != SPC_OK) return give_up(n, err);
    return settle(n, n->handle, "all_gather", gather(n, data, begin, stream), err);
}

static spc_status nccl_broadcast(spc_device_comm *comm, void *data, size_t bytes, int32_t root,
                                 spc_stream stream, spc_error *err)
{
    nccl *n = (nccl *)comm;

    if (ended(n, NULL) != SPC_OK) return give_up(n, err);
    return settle(n, n->handle, "broadcast",
                  n->api.Broadcast(data, data, bytes, ncclInt8, root, n->handle, stream), err);
}

static spc_status nccl_send(spc_device_comm *comm, const void *data, size_t bytes, int32_t to,
                            spc_stream stream, spc_error *err)
{
    nccl *n = (nccl *)comm;

    if (ended(n, NULL) != SPC_OK) return give_up(n, err);
    return settle(n, n->handle, "send", n->api.Send(data, bytes, ncclInt8, to, n->handle, stream),
                  err);
}

static spc_status nccl_recv(spc_device_comm *comm, void *data, size_t bytes, int32_t from,
                            spc_stream stream, spc_error *err)
{
    nccl *n = (nccl *)comm;

    if (ended(n, NULL) != SPC_OK) return give_up(n, err);
    return settle(n, n->handle, "recv", n->api.Recv(data, bytes, ncclInt8, from, n->handle, stream),
                  err);
}

/* ---- open and close ---------------------------------------------------------------------------
 */

/* What does not end in time is left alone: NCCL may wait for a rank that is no more, or for a
 * device that hangs. */
static void close_ending(ending *e, bool hangs)
{
    int64_t deadline = spc_device_comm_now() + (int64_t)ENDING_MS * 1000000;

    if (!e) return;
    for (int64_t asked = 0; !hangs && !e->done && spc_device_comm_now() < deadline; asked++) {
        spc_device_comm_rest(asked);
    }
    if (!e->done) {
        (void)pthread_detach(e->thread);
        return;
    }
    (void)pthread_join(e->thread, NULL);
    free(e);
}

static void nccl_close(spc_device_comm *comm)
{
    nccl *n = (nccl *)comm;

    if (ended(n, NULL) != SPC_OK) (void)give_up(n, NULL);
    n->joined = false;
    if (n->handle && n->owned &&
        settle(n, n->handle, "close", n->api.CommFinalize(n->handle), NULL) == SPC_OK) {
        (void)n->api.CommDestroy(n->handle);
    }
    close_ending(n->ending, n->comm.hangs);
    (void)pthread_mutex_destroy(&n->lock);
    free(n);
}

static spc_status nccl_split(spc_device_comm *comm, int32_t colour, spc_device_comm **out,
                             spc_error *err);

static const spc_device_comm_ops nccl_ops = {
    "nccl",    true,       nccl_all_reduce, nccl_all_gather, nccl_broadcast,   nccl_send,
    nccl_recv, nccl_split, nccl_wait,       nccl_abort,      nccl_async_error, nccl_close};

/* owned: the group is to be made here, not an application's. */
static spc_status new_rank(const char *library, int32_t rank, int32_t world, int32_t timeout_ms,
                           bool owned, nccl **out, spc_error *err)
{
    nccl *n;
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
    status = load(library, !owned, &n->api, NULL, err);
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
    nccl *n;
    spc_status status = new_rank(library, rank, world, timeout_ms, true, &n, err);

    *out = NULL;
    if (status != SPC_OK) return status;
    n->beside = beside;
    memcpy(&name, id, sizeof name);
    result = n->api.CommInitRankConfig(&n->handle, world, name, rank, &config);
    status = settle(n, n->handle, "joining the group", result, err);
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
    nccl *n;
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
    nccl *n = (nccl *)comm, *part = NULL;
    ncclComm_t handle = NULL;
    int rank = 0, world = 1;
    spc_status status = ended(n, err);

    *out = NULL;
    if (status != SPC_OK) return give_up(n, err);
    part = calloc(1, sizeof *part);
    if (!part) return spc_error_set(err, SPC_ENOMEM, "split: no memory for a group");
    status = settle(n, n->handle, "split",
                    n->api.CommSplit(n->handle, colour, comm->rank, &handle, &config), err);
    if (status == SPC_OK && handle) status = settle(n, handle, "split", ncclInProgress, err);
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

#else

static spc_status unsupported(spc_error *err)
{
    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "nccl: this build of spc was made without NCCL's header: install NCCL "
                         "(nccl.h) beside the CUDA toolkit and build again, or run one rank");
}

spc_status spc_nccl_version(const char *library, int32_t *version, spc_error *err)
{
    (void)library;
    (void)version;
    return unsupported(err);
}

spc_status spc_nccl_id(const char *library, char id[SPC_NCCL_ID_BYTES], spc_error *err)
{
    (void)library;
    (void)id;
    return unsupported(err);
}

spc_status spc_nccl_open(const char *library, const char id[SPC_NCCL_ID_BYTES], int32_t rank,
                         int32_t world, int32_t timeout_ms, spc_comm *beside, spc_device_comm **out,
                         spc_error *err)
{
    (void)library;
    (void)id;
    (void)rank;
    (void)world;
    (void)timeout_ms;
    (void)beside;
    *out = NULL;
    return unsupported(err);
}

spc_status spc_nccl_adopt(const char *library, void *handle, int32_t timeout_ms,
                          spc_device_comm **out, spc_error *err)
{
    (void)library;
    (void)handle;
    (void)timeout_ms;
    *out = NULL;
    return unsupported(err);
}

#endif
