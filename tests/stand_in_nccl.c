/* SPDX-License-Identifier: Apache-2.0 */
/* stand_in_nccl.c - a library with NCCL's entry points for ranks that are threads of one process,
 * over memory that all of them see (tests/fibers).
 *
 * Every rank has a queue of calls; whenever the calls that head all queues of a group belong
 * together, they are done for all of them.  A call of a communicator that does not block returns at
 * once: ncclInProgress until the others have come, as NCCL's may.  Recorded in a graph it waits
 * when the graph runs; where nobody comes its stream sticks. */
#include "stand_in_nccl.h"

#include <nccl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { QUEUE = 64, GROUPS = 64 };

stand_in_state stand_in = {.failing_init = -1,
                           .absent_init = -1,
                           .dead = -1,
                           .mute = -1,
                           .late = -1,
                           .patience_ms = 20000,
                           .version = 22809};

typedef enum { REDUCE, GATHER, BROADCAST, SEND, RECV, SPLIT, FINALIZE } kind;

static const char *const names[] = {"AllReduce", "AllGather", "Broadcast", "Send",
                                    "Recv",      "Split",     "Finalize"};

typedef struct {
    kind kind;
    const void *in;
    void *out;
    size_t count;
    ncclDataType_t type;
    int peer; /* or root, or colour */
} call;

typedef struct group {
    ncclUniqueId id;
    int world, joined;
    struct ncclComm *rank[STAND_IN_RANKS];
} group;

struct ncclComm {
    group *group;
    int rank, device;
    bool blocking;
    ncclResult_t state;
    call queue[QUEUE];
    int queued;
    struct ncclComm **made; /* of a split under way */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static group *groups[GROUPS];
static int group_count, ids;

/* ---- doing ------------------------------------------------------------------------------------
 */

static size_t bytes_of(const call *c)
{
    return c->count * (c->type == ncclFloat32 ? sizeof(float) : 1);
}

static void reduce(group *g)
{
    float *out = g->rank[0]->queue[0].out;
    size_t count = g->rank[0]->queue[0].count;

    for (int r = 1; r < g->world; r++) {
        const float *in = g->rank[r]->queue[0].in;

        for (size_t i = 0; i < count; i++) out[i] += in[i];
    }
    for (int r = 1; r < g->world; r++) {
        memcpy(g->rank[r]->queue[0].out, out, count * sizeof *out);
    }
}

static void copy(void *to, const void *from, size_t bytes)
{
    if (to != from) memcpy(to, from, bytes);
}

static void gather(group *g)
{
    size_t bytes = bytes_of(&g->rank[0]->queue[0]);

    for (int r = 0; r < g->world; r++) {
        for (int k = 0; k < g->world; k++) {
            copy((char *)g->rank[k]->queue[0].out + (size_t)r * bytes, g->rank[r]->queue[0].in,
                 bytes);
        }
    }
}

static void broadcast(group *g)
{
    const call *root = &g->rank[g->rank[0]->queue[0].peer]->queue[0];

    for (int r = 0; r < g->world; r++) copy(g->rank[r]->queue[0].out, root->in, bytes_of(root));
}

static group *new_group(int world)
{
    group *g = group_count < GROUPS ? calloc(1, sizeof *g) : NULL;

    if (!g) abort(); /* a test with more groups than anyone has use for */
    g->world = world;
    groups[group_count++] = g;
    return g;
}

static struct ncclComm *new_comm(group *g, int rank, bool blocking)
{
    struct ncclComm *c = calloc(1, sizeof *c);

    if (!c) abort();
    c->group = g;
    c->rank = rank;
    c->blocking = blocking;
    (void)cudaGetDevice(&c->device);
    stand_in.open++;
    return c;
}

static void split(group *g)
{
    for (int r = 0; r < g->world; r++) {
        int colour = g->rank[r]->queue[0].peer, members = 0;
        group *part = NULL;

        for (int k = 0; k < r; k++) members += g->rank[k]->queue[0].peer == colour;
        if (members > 0) continue; /* made by the first of the colour */
        part = new_group(0);
        for (int k = r; k < g->world; k++) {
            if (g->rank[k]->queue[0].peer != colour) continue;
            part->rank[part->world] = new_comm(part, part->world, false);
            part->rank[part->world]->device = g->rank[k]->device;
            *g->rank[k]->made = part->rank[part->world++];
        }
        part->joined = part->world;
    }
}

static void done(struct ncclComm *c)
{
    memmove(c->queue, c->queue + 1, (size_t)--c->queued * sizeof *c->queue);
}

/* Of a rank that has not left. */
static void set_state(group *g, int rank, ncclResult_t state)
{
    if (g->rank[rank]) g->rank[rank]->state = state;
}

/* A message whose two ranks stand there. */
static bool deliver(group *g)
{
    for (int r = 0; r < g->world; r++) {
        struct ncclComm *from = g->rank[r], *to;
        const call *c = from ? &from->queue[0] : NULL;

        if (!from || from->queued == 0 || c->kind != SEND) continue;
        to = g->rank[c->peer];
        if (!to || to->queued == 0 || to->queue[0].kind != RECV || to->queue[0].peer != r) continue;
        copy(to->queue[0].out, c->in, bytes_of(c));
        done(from);
        done(to);
        return true;
    }
    return false;
}

/* A collective whose ranks all stand there; those that do not belong together are an error. */
static bool meet(group *g)
{
    for (int r = 0; r < g->world; r++) {
        const struct ncclComm *c = g->rank[r];

        if (!c || c->queued == 0 || c->queue[0].kind == SEND || c->queue[0].kind == RECV) {
            return false;
        }
    }
    for (int r = 1; r < g->world; r++) {
        const call *a = &g->rank[0]->queue[0], *b = &g->rank[r]->queue[0];

        if (a->kind == b->kind && a->count == b->count && a->type == b->type &&
            (a->kind == SPLIT || a->peer == b->peer)) {
            continue;
        }
        for (int k = 0; k < g->world; k++) set_state(g, k, ncclInvalidUsage);
        return false;
    }
    switch (g->rank[0]->queue[0].kind) {
    case REDUCE: reduce(g); break;
    case GATHER: gather(g); break;
    case BROADCAST: broadcast(g); break;
    case SPLIT: split(g); break;
    default: break;
    }
    for (int r = 0; r < g->world; r++) done(g->rank[r]);
    return true;
}

static struct timespec in_ms(int ms)
{
    struct timespec at;

    (void)clock_gettime(CLOCK_REALTIME, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000L;
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    return at;
}

static void sleep_ms(int ms)
{
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};

    (void)nanosleep(&pause, NULL);
}

static ncclResult_t state_of(const struct ncclComm *c)
{
    if (c->state != ncclSuccess) return c->state;
    return c->queued > 0 ? ncclInProgress : ncclSuccess;
}

/* Note a call and put it into the rank's queue; wait_ms > 0: until it is done, at most so long. */
static ncclResult_t enqueue(struct ncclComm *c, call q, bool recorded, int wait_ms)
{
    struct timespec deadline = in_ms(wait_ms);
    int number;
    ncclResult_t state;

    pthread_mutex_lock(&lock);
    number = stand_in.calls[c->rank]++;
    if (number < STAND_IN_CALLS) {
        stand_in.call[c->rank][number] = (stand_in_call){names[q.kind], q.count, q.type, recorded};
    }
    if (c->rank == stand_in.late && number >= stand_in.from) {
        pthread_mutex_unlock(&lock);
        sleep_ms(stand_in.late_ms);
        pthread_mutex_lock(&lock);
    }
    if (c->rank == stand_in.dead && number >= stand_in.from) {
        for (int r = 0; r < c->group->world; r++) set_state(c->group, r, ncclRemoteError);
    }
    if (c->rank == stand_in.mute && number >= stand_in.from && (recorded || !stand_in.in_graph)) {
        stand_in.in_graph = false;
        pthread_mutex_unlock(&lock);
        fiber_stick(true); /* it waits for the others, who do not */
        return recorded ? ncclSuccess : ncclInProgress;
    }
    if (c->queued == QUEUE) abort();
    c->queue[c->queued++] = q;
    while (meet(c->group) || deliver(c->group)) (void)pthread_cond_broadcast(&moved);
    while (wait_ms > 0 && state_of(c) == ncclInProgress) {
        if (pthread_cond_timedwait(&moved, &lock, &deadline) != 0) break;
    }
    state = state_of(c);
    pthread_mutex_unlock(&lock);
    return state;
}

/* ---- calls on streams -------------------------------------------------------------------------
 */

typedef struct {
    struct ncclComm *comm;
    call call;
} node;

/* A call in a graph that runs. */
static void replay(void *user)
{
    const node *n = user;

    if (enqueue(n->comm, n->call, true, stand_in.patience_ms) != ncclSuccess) fiber_stick(true);
}

/* The calls of a group of calls are one call: what became of it is told at its end. */
static _Thread_local int depth;
static _Thread_local ncclResult_t group_state;

static ncclResult_t submit(struct ncclComm *c, call q)
{
    node n = {c, q};
    ncclResult_t state;

    if (fiber_note_call(replay, &n, sizeof n)) return ncclSuccess;
    state = enqueue(c, q, false, c->blocking && depth == 0 ? 60000 : 0);
    if (depth == 0) return state;
    group_state = state;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    (void)op;
    (void)stream;
    return submit(comm, (call){REDUCE, in, out, count, type, 0});
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){GATHER, in, out, count, type, 0});
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){BROADCAST, in, out, count, type, root});
}

ncclResult_t ncclSend(const void *in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){SEND, in, NULL, count, type, peer});
}

ncclResult_t ncclRecv(void *out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){RECV, NULL, out, count, type, peer});
}

ncclResult_t ncclGroupStart(void)
{
    group_state = ncclSuccess;
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    depth--;
    return group_state;
}

/* ---- groups -----------------------------------------------------------------------------------
 */

ncclResult_t ncclGetVersion(int *version)
{
    *version = stand_in.version;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 0, sizeof *id);
    pthread_mutex_lock(&lock);
    id->internal[0] = (char)++ids;
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

static group *group_of(const ncclUniqueId *id, int world)
{
    group *g = NULL;

    for (int i = 0; i < group_count && !g; i++) {
        if (memcmp(&groups[i]->id, id, sizeof *id) == 0) g = groups[i];
    }
    if (g) return g;
    g = new_group(world);
    g->id = *id;
    return g;
}

/* All have come: what they waited with is done. */
static void join(group *g)
{
    if (++g->joined < g->world) return;
    for (int r = 0; r < g->world; r++) set_state(g, r, ncclSuccess);
    (void)pthread_cond_broadcast(&moved);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    struct ncclComm *c;

    if (config->magic != 0xcafebeef || rank >= world || world > STAND_IN_RANKS) {
        return ncclInvalidUsage;
    }
    if (rank == stand_in.failing_init) return ncclSystemError;
    pthread_mutex_lock(&lock);
    c = new_comm(group_of(&id, world), rank, config->blocking != 0);
    c->group->rank[rank] = *comm = c;
    c->state = ncclInProgress;
    if (rank != stand_in.absent_init) join(c->group);
    while (c->blocking && c->state == ncclInProgress) (void)pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
    return c->state;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int colour, int key, ncclComm_t *out,
                           ncclConfig_t *config)
{
    (void)key;
    (void)config;
    comm->made = out;
    return enqueue(comm, (call){SPLIT, NULL, NULL, 0, ncclInt8, colour}, false, 0);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    return enqueue(comm, (call){FINALIZE, NULL, NULL, 0, ncclInt8, 0}, false, 0);
}

static ncclResult_t leave(ncclComm_t comm)
{
    pthread_mutex_lock(&lock);
    comm->group->rank[comm->rank] = NULL;
    stand_in.open--;
    pthread_mutex_unlock(&lock);
    free(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    return leave(comm);
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    pthread_mutex_lock(&lock);
    stand_in.aborted++;
    pthread_mutex_unlock(&lock);
    fiber_stick(false);
    return leave(comm);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    pthread_mutex_lock(&lock);
    *error = state_of(comm);
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t comm, int *count)
{
    *count = comm->group->world;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(ncclComm_t comm, int *device)
{
    *device = comm->device;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t comm, int *rank)
{
    *rank = comm->rank;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
    case ncclSystemError: return "unhandled system error";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    default: return "error";
    }
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm && comm->state == ncclRemoteError ? "the stand-in was told so" : "";
}
