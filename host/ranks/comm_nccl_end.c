/* SPDX-License-Identifier: Apache-2.0 */
/* comm_nccl_end.c - how a rank over NCCL waits, and how its group ends.
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
 * group on the host; the others give it the time to. */
#include "comm_nccl_rank.h"

#include "awake.h"
#include "host/thread.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct spc_nccl_ending {
    ncclResult_t (*abort)(ncclComm_t);
    ncclComm_t handle;
    int device;
    pthread_t thread;
    _Atomic bool done;
};

/* How long close waits for it: graphs are gone by then.  How long a stream may be busy once nothing
 * on it waits for another rank: longer than the rest of a forward takes, and than the timeout only
 * where that is for tests. */
enum { ENDING_MS = 10000, REST_MS = 5000, REST_LEAST_MS = 500 };

spc_status spc_nccl_ended(spc_nccl *n, spc_error *err)
{
    spc_status status;

    pthread_mutex_lock(&n->lock);
    status = n->end.status;
    if (status != SPC_OK && err) *err = n->end;
    pthread_mutex_unlock(&n->lock);
    return status;
}

void spc_nccl_abort(spc_device_comm *comm, const char *reason)
{
    spc_nccl *n = (spc_nccl *)comm;

    pthread_mutex_lock(&n->lock);
    if (n->end.status == SPC_OK) (void)spc_error_set(&n->end, SPC_EDEVICE, "%s", reason);
    pthread_mutex_unlock(&n->lock);
}

/* As spc_nccl_ended, where the group on the host may have ended meanwhile. */
static spc_status ended_beside(spc_nccl *n)
{
    spc_error error;

    if (spc_nccl_ended(n, NULL) == SPC_OK && n->beside &&
        n->beside->ops->async_error(n->beside, &error) != SPC_OK) {
        spc_nccl_abort(&n->comm, error.message);
    }
    return spc_nccl_ended(n, NULL);
}

static void *run_ending(void *user)
{
    spc_nccl_ending *e = user;

    (void)cudaSetDevice(e->device);
    (void)e->abort(e->handle);
    e->done = true;
    return NULL;
}

spc_status spc_nccl_give_up(spc_nccl *n, spc_error *err)
{
    spc_nccl_ending *e = n->handle && n->owned ? calloc(1, sizeof *e) : NULL;

    if (e) {
        e->abort = n->api.CommAbort;
        e->handle = n->handle;
        (void)cudaGetDevice(&e->device);
        if (!spc_thread_start(&e->thread, run_ending, e)) {
            free(e);
            e = NULL;
        }
        n->ending = e;
    }
    if (!e && n->handle && n->owned) (void)n->api.CommAbort(n->handle);
    n->handle = NULL;
    return spc_nccl_ended(n, err);
}

static spc_status end_by(spc_nccl *n, const char *what, ncclResult_t result, spc_error *err)
{
    char text[SPC_ERROR_BYTES];
    const char *detail = n->handle ? n->api.GetLastError(n->handle) : NULL;

    (void)snprintf(text, sizeof text, "rank %d of %d: nccl: %s: %s%s%.200s", (int)n->comm.rank,
                   (int)n->comm.world, what, n->api.GetErrorString(result),
                   detail && *detail ? ": " : "", detail ? detail : "");
    (void)ended_beside(n); /* it names who is to blame */
    spc_nccl_abort(&n->comm, text);
    return spc_nccl_give_up(n, err);
}

static int32_t rest_ms(const spc_nccl *n)
{
    if (n->timeout_ms < REST_LEAST_MS) return REST_LEAST_MS;
    return n->timeout_ms < REST_MS ? n->timeout_ms : REST_MS;
}

/* Does a stream come to rest, now that nobody is waited for?  (An application's group is not ours
 * to abort: its streams may wait as ever.) */
static void look(spc_nccl *n, spc_stream stream)
{
    int64_t begun = spc_awake_ms(), deadline = begun + rest_ms(n);

    if (!n->owned || n->looked) return;
    n->looked = true;
    while (cudaStreamQuery(stream) == cudaErrorNotReady) {
        (void)cudaGetLastError(); /* no error, but kept as one */
        n->comm.hangs = spc_awake_left_ms(deadline) == 0;
        if (n->comm.hangs) return;
        spc_device_comm_rest(begun);
    }
}

/* Has the rank whose device hangs named itself?  It takes as long to find out as this one takes to
 * find that its own does not, and may have begun later. */
static bool hear_whose(spc_nccl *n)
{
    int64_t begun = spc_awake_ms(), deadline = begun + 2 * (int64_t)rest_ms(n);

    while (ended_beside(n) == SPC_OK) {
        if (spc_awake_left_ms(deadline) == 0) return false;
        spc_device_comm_rest(begun);
    }
    return true;
}

/* stream   NULL, or the one that was waited for */
static spc_status end_late(spc_nccl *n, const char *what, const spc_stream *stream, spc_error *err)
{
    char text[SPC_ERROR_BYTES], why[200] = "some did not come; see what the other ranks say";

    (void)spc_nccl_give_up(n, NULL);
    if (stream) look(n, *stream);
    if (n->comm.hangs) {
        (void)snprintf(why, sizeof why,
                       "the GPU of rank %d hangs: it was busy for %d ms more when nothing on it "
                       "waited for other ranks; see nvidia-smi and dmesg (Xid) on its machine",
                       (int)n->comm.rank, (int)rest_ms(n));
    } else if (n->joined && n->beside && hear_whose(n)) {
        return spc_nccl_ended(n, err);
    } else if (n->looked) {
        (void)snprintf(why, sizeof why,
                       "some did not come; the GPU of this rank did nothing but wait for them");
    }
    (void)snprintf(text, sizeof text,
                   "rank %d of %d: nccl: %s: expected all ranks within %d ms, and %s",
                   (int)n->comm.rank, (int)n->comm.world, what, (int)n->timeout_ms, why);
    if (n->comm.hangs && n->beside) n->beside->ops->abort(n->beside, text);
    spc_nccl_abort(&n->comm, text);
    return spc_nccl_ended(n, err);
}

static spc_status nccl_late(spc_device_comm *comm, const char *what, spc_stream stream,
                            spc_error *err)
{
    return end_late((spc_nccl *)comm, what, &stream, err);
}

spc_status spc_nccl_settle(spc_nccl *n, ncclComm_t handle, const char *what, ncclResult_t result,
                           spc_error *err)
{
    int64_t begun = spc_awake_ms(), deadline = begun + n->timeout_ms;

    while (result == ncclInProgress) {
        ncclResult_t answer = n->api.CommGetAsyncError(handle, &result);

        if (answer != ncclSuccess) result = answer;
        if (result != ncclInProgress) break;
        if (ended_beside(n) != SPC_OK) return spc_nccl_give_up(n, err);
        if (spc_awake_left_ms(deadline) == 0) return end_late(n, what, NULL, err);
        spc_device_comm_rest(begun);
    }
    return result == ncclSuccess ? SPC_OK : end_by(n, what, result, err);
}

spc_status spc_nccl_async_error(spc_device_comm *comm, spc_error *err)
{
    spc_nccl *n = (spc_nccl *)comm;
    ncclResult_t result = ncclSuccess, answer;

    if (ended_beside(n) != SPC_OK) return spc_nccl_give_up(n, err);
    answer = n->api.CommGetAsyncError(n->handle, &result);
    if (answer != ncclSuccess) result = answer;
    if (result == ncclSuccess || result == ncclInProgress) return SPC_OK;
    return end_by(n, "between calls", result, err);
}

spc_status spc_nccl_wait(spc_device_comm *comm, spc_stream stream, spc_error *err)
{
    spc_nccl *n = (spc_nccl *)comm;
    spc_status status = spc_device_comm_wait(comm, n->timeout_ms, stream, nccl_late, err);

    if (status != SPC_OK) look(n, stream); /* who frees memory next asks for it */
    return status;
}

/* What does not end in time is left alone: NCCL may wait for a rank that is no more, or for a
 * device that hangs. */
void spc_nccl_close_ending(spc_nccl *n)
{
    spc_nccl_ending *e = n->ending;
    int64_t begun = spc_awake_ms(), deadline = begun + ENDING_MS;

    if (!e) return;
    while (!n->comm.hangs && !e->done && spc_awake_left_ms(deadline) > 0) {
        spc_device_comm_rest(begun);
    }
    if (!e->done) {
        (void)pthread_detach(e->thread);
        return;
    }
    (void)pthread_join(e->thread, NULL);
    free(e);
}
