/* SPDX-License-Identifier: Apache-2.0 */
/* comm_virtual.c - ranks as threads that share one GPU.
 *
 * A collective: every rank records an event behind its own work, all meet and learn where each
 * other's data are, rank 0 puts the work of all behind all events and records one of its own, and
 * once that is there (a second meeting) the others wait for it, on the device.
 *
 * None of this has run on a GPU: tests/test_host_comm_virtual.c runs it over tests/fibers. */
#include "comm_virtual.h"

#include "cuda/ops.h"

#include "comm.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What all ranks of a group share. */
typedef struct {
    pthread_mutex_t lock; /* of open */
    int32_t open;         /* ranks that have not closed */
    int32_t world;
    cudaEvent_t ready[SPC_RANKS_MAX]; /* [world] behind what a rank brings */
    cudaEvent_t done[SPC_RANKS_MAX];  /* [world] behind what a rank did for others */
} group;

/* What a rank came with. */
typedef struct {
    char what[16];
    size_t size; /* bytes, or a hash of several */
    int32_t root;
    void *data;
} visit;

typedef struct {
    spc_device_comm comm; /* first: the two are one pointer */
    spc_comm *host;       /* owned; where ranks meet */
    group *group;
    int32_t timeout_ms;
    visit visit[SPC_RANKS_MAX]; /* [world] of the present meeting */
} place;

/* ---- meetings ---------------------------------------------------------------------------------
 */

static spc_status fail(place *p, cudaError_t code, const char *what, spc_error *err)
{
    char text[192];

    if (code == cudaSuccess) return SPC_OK;
    (void)snprintf(text, sizeof text, "rank %d of %d: %s: %s", (int)p->comm.rank,
                   (int)p->comm.world, what, cudaGetErrorString(code));
    p->host->ops->abort(p->host, text);
    return p->host->ops->async_error(p->host, err);
}

/* Do all ranks want what this one wants? */
static spc_status compare(place *p, spc_error *err)
{
    const visit *a = &p->visit[0];
    char text[256];

    for (int32_t r = 1; r < p->comm.world; r++) {
        const visit *b = &p->visit[r];

        if (strcmp(a->what, b->what) == 0 && a->size == b->size && a->root == b->root) continue;
        (void)snprintf(
            text, sizeof text,
            "ranks differ: rank 0 calls %.15s (size %zu, root %d), rank %d %.15s (size %zu, "
            "root %d)",
            a->what, a->size, (int)a->root, (int)r, b->what, b->size, (int)b->root);
        p->host->ops->abort(p->host, text);
        return p->host->ops->async_error(p->host, err);
    }
    return SPC_OK;
}

/* Bring one's data; returns when everybody's are known and agree. */
static spc_status meet(place *p, visit mine, spc_stream stream, spc_error *err)
{
    size_t begin[SPC_RANKS_MAX + 1];
    spc_status status =
        fail(p, cudaEventRecord(p->group->ready[p->comm.rank], stream), mine.what, err);

    for (int32_t r = 0; r <= p->comm.world; r++) begin[r] = (size_t)r * sizeof mine;
    p->visit[p->comm.rank] = mine;
    if (status == SPC_OK) status = p->host->ops->all_gather(p->host, p->visit, begin, err);
    return status == SPC_OK ? compare(p, err) : status;
}

/* Rank 0's work for all of them, and everybody's stream behind it. */
static spc_status work(place *p, cudaError_t (*run)(place *p, const size_t *begin, spc_stream s),
                       const size_t *begin, spc_stream stream, const char *what, spc_error *err)
{
    group *g = p->group;
    spc_status status;
    cudaError_t code = cudaSuccess;

    if (p->comm.rank == 0) {
        for (int32_t r = 1; r < g->world && code == cudaSuccess; r++) {
            code = cudaStreamWaitEvent(stream, g->ready[r], 0);
        }
        if (code == cudaSuccess) code = run(p, begin, stream);
        if (code == cudaSuccess) code = cudaEventRecord(g->done[0], stream);
        status = fail(p, code, what, err);
        if (status != SPC_OK) return status;
    }
    status = p->host->ops->barrier(p->host, err);
    if (status != SPC_OK || p->comm.rank == 0) return status;
    return fail(p, cudaStreamWaitEvent(stream, g->done[0], 0), what, err);
}

/* ---- collectives ------------------------------------------------------------------------------
 */

static cudaError_t sum_all(place *p, const size_t *begin, spc_stream stream)
{
    spc_sum_args a = {.count = (int64_t)(p->visit[0].size / sizeof(float)), .ranks = p->comm.world};

    (void)begin;
    for (int32_t r = 0; r < p->comm.world; r++) a.data[r] = p->visit[r].data;
    return spc_cuda_sum(&a, stream);
}

static spc_status virtual_all_reduce(spc_device_comm *comm, float *data, size_t count,
                                     spc_stream stream, spc_error *err)
{
    place *p = (place *)comm;
    spc_status status = meet(p, (visit){"all_reduce", count * sizeof *data, 0, data}, stream, err);

    return status == SPC_OK ? work(p, sum_all, NULL, stream, "all_reduce", err) : status;
}

/* Bytes [from, to) of one rank's data to all others'. */
static cudaError_t spread(place *p, int32_t rank, size_t from, size_t to, spc_stream stream)
{
    const char *in = p->visit[rank].data;
    cudaError_t code = cudaSuccess;

    for (int32_t r = 0; r < p->comm.world && from < to && code == cudaSuccess; r++) {
        if (r == rank) continue;
        code = cudaMemcpyAsync((char *)p->visit[r].data + from, in + from, to - from,
                               cudaMemcpyDeviceToDevice, stream);
    }
    return code;
}

static cudaError_t gather_all(place *p, const size_t *begin, spc_stream stream)
{
    cudaError_t code = cudaSuccess;

    for (int32_t r = 0; r < p->comm.world && code == cudaSuccess; r++) {
        code = spread(p, r, begin[r], begin[r + 1], stream);
    }
    return code;
}

/* Ranks that cut differently must be found: all parts are compared. */
static size_t hash_parts(const size_t *begin, int32_t world)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (int32_t r = 0; r <= world; r++) hash = (hash ^ begin[r]) * 0x100000001b3u;
    return (size_t)hash;
}

static spc_status virtual_all_gather(spc_device_comm *comm, void *data, const size_t *begin,
                                     spc_stream stream, spc_error *err)
{
    place *p = (place *)comm;
    spc_status status =
        meet(p, (visit){"all_gather", hash_parts(begin, comm->world), 0, data}, stream, err);

    return status == SPC_OK ? work(p, gather_all, begin, stream, "all_gather", err) : status;
}

static cudaError_t broadcast_all(place *p, const size_t *begin, spc_stream stream)
{
    (void)begin;
    return spread(p, p->visit[0].root, 0, p->visit[0].size, stream);
}

static spc_status virtual_broadcast(spc_device_comm *comm, void *data, size_t bytes, int32_t root,
                                    spc_stream stream, spc_error *err)
{
    place *p = (place *)comm;
    spc_status status = meet(p, (visit){"broadcast", bytes, root, data}, stream, err);

    return status == SPC_OK ? work(p, broadcast_all, NULL, stream, "broadcast", err) : status;
}

/* ---- two ranks --------------------------------------------------------------------------------
 */

static spc_status virtual_send(spc_device_comm *comm, const void *data, size_t bytes, int32_t to,
                               spc_stream stream, spc_error *err)
{
    place *p = (place *)comm;
    visit mine = {"send", bytes, to, (void *)(uintptr_t)data};
    char taken;
    spc_status status =
        fail(p, cudaEventRecord(p->group->ready[comm->rank], stream), mine.what, err);

    if (status == SPC_OK) status = p->host->ops->send(p->host, &mine, sizeof mine, to, err);
    if (status == SPC_OK) status = p->host->ops->recv(p->host, &taken, 1, to, err);
    if (status != SPC_OK) return status;
    return fail(p, cudaStreamWaitEvent(stream, p->group->done[to], 0), mine.what, err);
}

static spc_status virtual_recv(spc_device_comm *comm, void *data, size_t bytes, int32_t from,
                               spc_stream stream, spc_error *err)
{
    place *p = (place *)comm;
    cudaError_t code;
    char text[160];
    visit other;
    spc_status status = p->host->ops->recv(p->host, &other, sizeof other, from, err);

    if (status != SPC_OK) return status;
    if (other.size != bytes) {
        (void)snprintf(text, sizeof text,
                       "ranks differ: rank %d sends %zu bytes, rank %d expects %zu", (int)from,
                       other.size, (int)comm->rank, bytes);
        p->host->ops->abort(p->host, text);
        return p->host->ops->async_error(p->host, err);
    }
    code = cudaStreamWaitEvent(stream, p->group->ready[from], 0);
    if (code == cudaSuccess) {
        code = cudaMemcpyAsync(data, other.data, bytes, cudaMemcpyDeviceToDevice, stream);
    }
    if (code == cudaSuccess) code = cudaEventRecord(p->group->done[comm->rank], stream);
    status = fail(p, code, "recv", err);
    return status == SPC_OK ? p->host->ops->send(p->host, "", 1, from, err) : status;
}

/* ---- open and close ---------------------------------------------------------------------------
 */

static void free_group(group *g)
{
    for (int32_t r = 0; r < g->world; r++) {
        if (g->ready[r]) (void)cudaEventDestroy(g->ready[r]);
        if (g->done[r]) (void)cudaEventDestroy(g->done[r]);
    }
    (void)pthread_mutex_destroy(&g->lock);
    free(g);
}

static spc_status new_group(int32_t world, group **out, spc_error *err)
{
    group *g = calloc(1, sizeof *g);
    cudaError_t code = cudaSuccess;

    *out = NULL;
    if (!g) return spc_error_set(err, SPC_ENOMEM, "no memory for a group of %d ranks", (int)world);
    (void)pthread_mutex_init(&g->lock, NULL); /* does not fail on the systems this runs on */
    g->world = g->open = world;
    for (int32_t r = 0; r < world && code == cudaSuccess; r++) {
        code = cudaEventCreateWithFlags(&g->ready[r], cudaEventDisableTiming);
        if (code == cudaSuccess) {
            code = cudaEventCreateWithFlags(&g->done[r], cudaEventDisableTiming);
        }
    }
    if (code != cudaSuccess) {
        free_group(g);
        return spc_error_set(err, SPC_EDEVICE, "cuda: no events for a group of %d ranks: %s",
                             (int)world, cudaGetErrorString(code));
    }
    *out = g;
    return SPC_OK;
}

/* The last one frees it. */
static void leave(group *g)
{
    bool last;

    pthread_mutex_lock(&g->lock);
    last = --g->open == 0;
    pthread_mutex_unlock(&g->lock);
    if (last) free_group(g);
}

static void virtual_close(spc_device_comm *comm)
{
    place *p = (place *)comm;

    leave(p->group);
    spc_comm_close(p->host);
    free(p);
}

static spc_status virtual_late(spc_device_comm *comm, const char *what, spc_stream stream,
                               spc_error *err)
{
    place *p = (place *)comm;
    char text[192];

    (void)stream;
    (void)snprintf(text, sizeof text,
                   "rank %d of %d: virtual: %s: expected all ranks within %d ms, and some did not "
                   "come",
                   (int)comm->rank, (int)comm->world, what, (int)p->timeout_ms);
    p->host->ops->abort(p->host, text);
    return p->host->ops->async_error(p->host, err);
}

static spc_status virtual_wait(spc_device_comm *comm, spc_stream stream, spc_error *err)
{
    return spc_device_comm_wait(comm, ((place *)comm)->timeout_ms, stream, virtual_late, err);
}

static void virtual_abort(spc_device_comm *comm, const char *reason)
{
    spc_comm *host = ((place *)comm)->host;

    host->ops->abort(host, reason);
}

static spc_status virtual_async_error(spc_device_comm *comm, spc_error *err)
{
    spc_comm *host = ((place *)comm)->host;

    return host->ops->async_error(host, err);
}

static spc_status virtual_split(spc_device_comm *comm, int32_t colour, spc_device_comm **out,
                                spc_error *err);

static const spc_device_comm_ops virtual_ops = {
    "virtual",         false,         virtual_all_reduce,  virtual_all_gather,
    virtual_broadcast, virtual_send,  virtual_recv,        virtual_split,
    virtual_wait,      virtual_abort, virtual_async_error, virtual_close};

/* Takes over host; NULL without memory, and host stays the caller's. */
static place *new_place(spc_comm *host, group *g, int32_t timeout_ms)
{
    place *p = calloc(1, sizeof *p);

    if (!p) return NULL;
    p->comm = (spc_device_comm){&virtual_ops, host->rank, host->world, false};
    p->host = host;
    p->group = g;
    p->timeout_ms = timeout_ms;
    return p;
}

/* The first rank of a colour makes what they share and tells the others where it is. */
static spc_status virtual_split(spc_device_comm *comm, int32_t colour, spc_device_comm **out,
                                spc_error *err)
{
    place *p = (place *)comm, *made;
    group *g = NULL;
    spc_comm *host;
    spc_status status = p->host->ops->split(p->host, colour, 0, &host, err);

    *out = NULL;
    if (status != SPC_OK) return status;
    if (host->rank == 0) status = new_group(host->world, &g, err);
    if (status != SPC_OK) {
        host->ops->abort(host, "split: no memory for what the ranks share");
        spc_comm_close(host);
        return status;
    }
    status = host->ops->broadcast(host, &g, sizeof g, 0, err);
    if (status != SPC_OK && host->rank == 0) free_group(g); /* nobody has heard of it */
    made = status == SPC_OK ? new_place(host, g, p->timeout_ms) : NULL;
    if (status == SPC_OK && !made) {
        status = spc_error_set(err, SPC_ENOMEM, "split: no memory for a group");
        host->ops->abort(host, "split: no memory for a rank");
        leave(g);
    }
    if (!made) {
        spc_comm_close(host);
        return status;
    }
    *out = &made->comm;
    return SPC_OK;
}

spc_status spc_virtual_open(int32_t world, int32_t timeout_ms, spc_device_comm **out,
                            spc_error *err)
{
    spc_comm *host[SPC_RANKS_MAX];
    place *rank[SPC_RANKS_MAX] = {NULL};
    group *g = NULL;
    bool complete = true;
    spc_status status = spc_comm_local_open(world, timeout_ms, host, err);

    if (status != SPC_OK) return status;
    status = new_group(world, &g, err);
    for (int32_t r = 0; status == SPC_OK && complete && r < world; r++) {
        rank[r] = new_place(host[r], g, timeout_ms);
        complete = rank[r] != NULL;
    }
    if (status == SPC_OK && !complete) {
        status = spc_error_set(err, SPC_ENOMEM, "no memory for a group of %d ranks", (int)world);
    }
    if (status != SPC_OK) {
        for (int32_t r = 0; r < world; r++) {
            free(rank[r]);
            spc_comm_close(host[r]);
        }
        if (g) free_group(g);
        return status;
    }
    for (int32_t r = 0; r < world; r++) out[r] = &rank[r]->comm;
    return SPC_OK;
}
