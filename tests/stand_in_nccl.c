/* SPDX-License-Identifier: Apache-2.0 */
/* stand_in_nccl.c - a library with NCCL's entry points for ranks that are threads or processes of
 * one machine (tests/fibers).
 *
 * A group is a piece of shared memory that its id names.  Every rank keeps its calls in order and
 * works at the first: it lays there what it gives, and when all have laid theirs, for the same
 * call, it takes from them what it wants.  A call of a communicator that does not block returns at
 * once: ncclInProgress until the others have come, as NCCL's may.  Recorded in a graph it waits
 * when the graph runs; where nobody comes its stream sticks.  One rank's recorded call meets what
 * the others recorded at the same time and nothing else, as NCCL demands and does not check.  An
 * abort gets it going again, and waits for a device that hangs, for ever. */
#include "stand_in_nccl.h"

#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE = 64, GIVEN = 4 << 20, LETTER = 4096, NEVER_MS = 1 << 30 };

stand_in_state stand_in = {.failing_init = -1,
                           .absent_init = -1,
                           .dead = -1,
                           .mute = -1,
                           .hanging = -1,
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
    int peer;     /* or root, or colour */
    int recorded; /* 0: it is not; its number among those that were */
} call;

typedef enum { NONE, SENT, RECEIVED } letter;

/* A rank's part of what all see.  Nobody else writes it, but that a letter was received. */
typedef struct {
    _Atomic int pid;               /* 0: it has not joined */
    _Atomic uint64_t given, taken; /* calls whose data it has laid here, and taken from all */
    call call;                     /* the last one given; its pointers are the rank's own */
    _Atomic int letter;
    int to;
    char text[LETTER];
    char data[GIVEN];
} place;

typedef struct {
    _Atomic int joined, dead;
    place rank[STAND_IN_RANKS];
} group;

struct ncclComm {
    group *group;
    char name[128]; /* of the group */
    int rank, world, device;
    bool blocking;
    ncclResult_t state;
    call queue[QUEUE];
    int queued;
    bool given;             /* what the first call of the queue gives */
    struct ncclComm **made; /* of a split under way */
    _Atomic int held;       /* calls that graphs hold */
    int recorded;           /* calls that were */
    void *self;             /* the thread whose stream may stick */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of stand_in and ids */
static int ids;

/* What goes wrong in a process that is not the test's own. */
__attribute__((constructor)) static void read_environment(void)
{
    static const struct {
        const char *name;
        int *value;
    } read[] = {{"STAND_IN_MUTE", &stand_in.mute},
                {"STAND_IN_HANGING", &stand_in.hanging},
                {"STAND_IN_FROM", &stand_in.from},
                {"STAND_IN_FAILING_INIT", &stand_in.failing_init},
                {"STAND_IN_PATIENCE_MS", &stand_in.patience_ms},
                {"STAND_IN_VERSION", &stand_in.version}};

    for (size_t i = 0; i < sizeof read / sizeof *read; i++) {
        const char *text = getenv(read[i].name);

        if (text) *read[i].value = (int)strtol(text, NULL, 10);
    }
}

static void sleep_us(long us)
{
    struct timespec pause = {us / 1000000, us % 1000000 * 1000L};

    (void)nanosleep(&pause, NULL);
}

static int64_t now_ms(void)
{
    struct timespec at;

    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

/* ---- doing ------------------------------------------------------------------------------------
 */

static size_t bytes_of(const call *c)
{
    return c->count * (c->type == ncclFloat32 ? sizeof(float) : 1);
}

static void reduce(const group *g, int world, const call *q)
{
    float *out = q->out;

    for (int r = 0; r < world; r++) {
        const float *in = (const float *)(const void *)g->rank[r].data;

        for (size_t i = 0; i < q->count; i++) out[i] = r == 0 ? in[i] : out[i] + in[i];
    }
}

static struct ncclComm *new_comm(const char *name, int rank, int world, bool blocking)
{
    struct ncclComm *c = calloc(1, sizeof *c);
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    void *at = MAP_FAILED;

    if (c && fd >= 0 && ftruncate(fd, sizeof *c->group) == 0) {
        at = mmap(NULL, sizeof *c->group, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (at == MAP_FAILED) abort();
    (void)close(fd);
    c->group = at;
    c->rank = rank;
    c->world = world;
    c->blocking = blocking;
    c->self = fiber_self();
    (void)snprintf(c->name, sizeof c->name, "%s", name);
    (void)cudaGetDevice(&c->device);
    pthread_mutex_lock(&lock);
    stand_in.open++;
    pthread_mutex_unlock(&lock);
    return c;
}

/* The last one lets nobody else in. */
static void join(struct ncclComm *c)
{
    c->group->rank[c->rank].pid = getpid();
    if (atomic_fetch_add(&c->group->joined, 1) + 1 == c->world) (void)shm_unlink(c->name);
}

static void split(struct ncclComm *c)
{
    const group *g = c->group;
    int colour = g->rank[c->rank].call.peer, rank = 0, world = 0;
    char name[sizeof c->name];

    for (int r = 0; r < c->world; r++) {
        if (g->rank[r].call.peer != colour) continue;
        rank += r < c->rank;
        world++;
    }
    (void)snprintf(name, sizeof name, "%.60s-%d-%d", c->name, (int)g->rank[c->rank].given, colour);
    *c->made = new_comm(name, rank, world, false);
    (*c->made)->device = c->device;
    join(*c->made);
}

/* All ranks have given for this call: do they belong together? */
static bool agree(const struct ncclComm *c)
{
    const call *a = &c->group->rank[0].call;

    for (int r = 1; r < c->world; r++) {
        const call *b = &c->group->rank[r].call;

        if (a->kind != b->kind || a->count != b->count || a->type != b->type) return false;
        if (a->kind != SPLIT && a->peer != b->peer) return false;
        if (a->recorded != b->recorded) return false;
    }
    return true;
}

/* Lay down what the first call gives, once everyone has taken what lay there before. */
static bool give(struct ncclComm *c, const call *q)
{
    place *own = &c->group->rank[c->rank];

    if (c->given) return true;
    for (int r = 0; r < c->world; r++) {
        if (c->group->rank[r].taken < own->given) return false;
    }
    if (bytes_of(q) > sizeof own->data) abort();
    own->call = *q;
    if (q->in) memcpy(own->data, q->in, bytes_of(q));
    own->given++;
    return c->given = true;
}

/* A call of all ranks; false: some have not come, or they do not belong together. */
static bool meet(struct ncclComm *c, const call *q)
{
    group *g = c->group;
    place *own = &g->rank[c->rank];
    size_t bytes = bytes_of(q);

    if (!give(c, q)) return false;
    for (int r = 0; r < c->world; r++) {
        if (g->rank[r].given < own->given) return false;
    }
    if (!agree(c)) {
        c->state = ncclInvalidUsage;
        return false;
    }
    switch (q->kind) {
    case REDUCE: reduce(g, c->world, q); break;
    case GATHER:
        for (int r = 0; r < c->world; r++) {
            memcpy((char *)q->out + (size_t)r * bytes, g->rank[r].data, bytes);
        }
        break;
    case BROADCAST: memcpy(q->out, g->rank[q->peer].data, bytes); break;
    case SPLIT: split(c); break;
    default: break;
    }
    own->taken++;
    c->given = false;
    return true;
}

/* A letter of this rank, and whether it has been received. */
static bool send_letter(struct ncclComm *c, const call *q)
{
    place *own = &c->group->rank[c->rank];

    if (own->letter == NONE) {
        if (bytes_of(q) > sizeof own->text) abort();
        memcpy(own->text, q->in, bytes_of(q));
        own->to = q->peer;
        own->letter = SENT;
    }
    if (own->letter != RECEIVED) return false;
    own->letter = NONE;
    return true;
}

static bool receive_letter(struct ncclComm *c, const call *q)
{
    place *from = &c->group->rank[q->peer];

    if (from->letter != SENT || from->to != c->rank) return false;
    memcpy(q->out, from->text, bytes_of(q));
    from->letter = RECEIVED;
    return true;
}

/* Work at the calls in their order, as far as that goes without waiting. */
static ncclResult_t state_of(struct ncclComm *c)
{
    bool done = true;

    if (c->state == ncclSuccess && c->group->dead) c->state = ncclRemoteError;
    if (c->state != ncclSuccess) return c->state;
    if (c->group->joined < c->world) return ncclInProgress;
    while (c->queued > 0 && done) {
        const call *q = &c->queue[0];

        done = q->kind == SEND   ? send_letter(c, q)
               : q->kind == RECV ? receive_letter(c, q)
                                 : meet(c, q);
        if (done) memmove(c->queue, c->queue + 1, (size_t)--c->queued * sizeof *c->queue);
    }
    if (c->state != ncclSuccess) return c->state;
    return c->queued > 0 ? ncclInProgress : ncclSuccess;
}

/* Is the process of a rank no more? */
static bool anyone_gone(const struct ncclComm *c)
{
    for (int r = 0; r < c->world; r++) {
        int pid = c->group->rank[r].pid;

        if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) return true;
    }
    return false;
}

static ncclResult_t await(struct ncclComm *c, int wait_ms)
{
    int64_t deadline = now_ms() + wait_ms;
    ncclResult_t state = state_of(c);

    while (state == ncclInProgress && now_ms() < deadline && !anyone_gone(c)) {
        sleep_us(50);
        state = state_of(c);
    }
    return state;
}

static void stick(struct ncclComm *c)
{
    c->self = fiber_self();
    fiber_stick(true);
}

/* Note a call and put it into the rank's queue; wait_ms > 0: until it is done, at most so long. */
static ncclResult_t enqueue(struct ncclComm *c, call q, bool recorded, int wait_ms)
{
    int number;
    bool late, dead, mute, hangs, here;

    pthread_mutex_lock(&lock);
    number = stand_in.calls[c->rank]++;
    if (number < STAND_IN_CALLS) {
        stand_in.call[c->rank][number] = (stand_in_call){names[q.kind], q.count, q.type, recorded};
    }
    here = number >= stand_in.from;
    late = c->rank == stand_in.late && here;
    dead = c->rank == stand_in.dead && here;
    here = here && (recorded || !stand_in.in_graph);
    mute = c->rank == stand_in.mute && here;
    hangs = c->rank == stand_in.hanging && here;
    if (mute || hangs) stand_in.in_graph = false;
    pthread_mutex_unlock(&lock);
    if (late) sleep_us(stand_in.late_ms * 1000L);
    if (dead) c->group->dead = 1;
    if (mute) {
        stick(c); /* it waits for the others, who do not */
        return recorded ? ncclSuccess : ncclInProgress;
    }
    if (hangs) {
        c->self = fiber_self();
        fiber_hang(); /* behind what it did before: it does not come here */
        return ncclSuccess;
    }
    if (c->queued == QUEUE) abort();
    c->queue[c->queued++] = q;
    return await(c, wait_ms);
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

    if (n->comm->world > 1) fiber_meet(true);
    if (enqueue(n->comm, n->call, true, stand_in.patience_ms) != ncclSuccess) stick(n->comm);
}

static void let_go(void *user)
{
    struct ncclComm *c = user;

    c->held--;
}

/* The calls of a group of calls are one call: what became of it is told at its end. */
static _Thread_local int depth;
static _Thread_local ncclResult_t group_state;

static ncclResult_t submit(struct ncclComm *c, call q)
{
    node n = {c, q};
    ncclResult_t state;

    n.call.recorded = c->recorded + 1;
    if (fiber_note_call(replay, &n, sizeof n)) {
        c->recorded++;
        c->held++;
        fiber_hold(let_go, c);
        return ncclSuccess;
    }
    state = enqueue(c, q, false, c->blocking && depth == 0 ? 60000 : 0);
    if (c->world > 1) fiber_meet(true);
    if (depth == 0) return state;
    group_state = state;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    (void)op;
    (void)stream;
    return submit(comm, (call){REDUCE, in, out, count, type, 0, 0});
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){GATHER, in, out, count, type, 0, 0});
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){BROADCAST, in, out, count, type, root, 0});
}

ncclResult_t ncclSend(const void *in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){SEND, in, NULL, count, type, peer, 0});
}

ncclResult_t ncclRecv(void *out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    (void)stream;
    return submit(comm, (call){RECV, NULL, out, count, type, peer, 0});
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
    (void)snprintf(id->internal, sizeof id->internal, "/spc-nccl-%ld-%d", (long)getpid(), ++ids);
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    struct ncclComm *c;

    if (config->magic != 0xcafebeef || rank >= world || world > STAND_IN_RANKS) {
        return ncclInvalidUsage;
    }
    if (rank == stand_in.failing_init) return ncclSystemError;
    *comm = c = new_comm(id.internal, rank, world, config->blocking != 0);
    if (rank != stand_in.absent_init) join(c);
    return await(c, c->blocking ? NEVER_MS : 0);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int colour, int key, ncclComm_t *out,
                           ncclConfig_t *config)
{
    (void)key;
    (void)config;
    comm->made = out;
    return enqueue(comm, (call){SPLIT, NULL, NULL, 0, ncclInt8, colour, 0}, false, 0);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    return enqueue(comm, (call){FINALIZE, NULL, NULL, 0, ncclInt8, 0, 0}, false, 0);
}

/* NCCL waits for graphs that hold its calls, without end. */
static ncclResult_t leave(ncclComm_t comm)
{
    for (int64_t deadline = now_ms() + 20000; comm->held > 0; sleep_us(50)) {
        if (now_ms() < deadline) continue;
        (void)fprintf(stderr, "stand-in: a communicator waits for graphs that hold its calls\n");
        abort();
    }
    pthread_mutex_lock(&lock);
    stand_in.open--;
    pthread_mutex_unlock(&lock);
    if (comm->group->joined < comm->world) (void)shm_unlink(comm->name);
    (void)munmap(comm->group, sizeof *comm->group);
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
    fiber_unstick(comm->self);
    if (fiber_hangs(comm->self)) {
        for (;;) sleep_us(1000000);
    }
    return leave(comm);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    *error = state_of(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t comm, int *count)
{
    *count = comm->world;
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
