/* SPDX-License-Identifier: Apache-2.0 */
/* comm_local.c - ranks that are threads of one process, over each other's memory.
 *
 * A collective has three movements: every rank leaves at its place what it was called with and
 * where its data are; when all are there each does its share on everybody's data; when all are done
 * everyone goes.  A sum is shared out by elements, so that one rank adds an element for all of
 * them, in the order of ranks. */
#include "comm.h"

#include "awake.h"
#include "hash.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct group group;

/* What a rank was called with.  Ranks of one collective agree in everything but colour. */
typedef struct {
    const char *what; /* a literal */
    uint64_t size;    /* bytes, or a hash of several; split: milliseconds */
    int32_t root;     /* 0 where there is none */
    int32_t colour;
    void *data;
    const size_t *begin; /* all_gather: [world + 1] */
} call;

/* A message from one rank to another, while both stand there. */
typedef struct {
    const void *data; /* NULL: nobody sends */
    size_t bytes;
    bool taken;
} letter;

struct group {
    pthread_mutex_t lock; /* of everything below but the data that calls point to */
    pthread_cond_t moved; /* someone came, went, or ended the group */
    int32_t world, timeout_ms;
    int32_t arrived;  /* ranks at the present meeting */
    uint64_t meeting; /* how many there were: two of a collective */
    int32_t open;     /* ranks that have not closed */
    call *call;       /* [world] */
    bool *here;       /* [world] at the present meeting */
    bool agreed;      /* at the last meeting for a call */
    letter *letter;   /* [world, world] by sender, receiver */
    spc_comm **made;  /* [world] by split: each rank's place in its new group */
    spc_error end;    /* status SPC_OK: the group lives */
};

typedef struct {
    spc_comm comm; /* first: the two are one pointer */
    group *group;
} local;

/* ---- waiting ----------------------------------------------------------------------------------
 */

/* When the patience of a call that begins now is over (awake.h). */
static int64_t until_of(const group *g)
{
    return spc_awake_ms() + g->timeout_ms;
}

/* Wait for something to move; false: the deadline is over.  The lock is held. */
static bool wait_moved(group *g, int64_t until)
{
    struct timespec at;
    int nap = spc_awake_nap_ms(until);

    if (nap == 0) return false;
    (void)clock_gettime(CLOCK_MONOTONIC, &at); /* which `moved` waits by */
    at.tv_nsec += nap * 1000000L;              /* less than a second */
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    (void)pthread_cond_timedwait(&g->moved, &g->lock, &at);
    return true;
}

/* The first reason stays.  The lock is held. */
static void end_group(group *g, const char *reason)
{
    if (g->end.status != SPC_OK) return;
    (void)spc_error_set(&g->end, SPC_EDEVICE, "%s", reason);
    (void)pthread_cond_broadcast(&g->moved);
}

static spc_status ended(const group *g, spc_error *err)
{
    if (g->end.status != SPC_OK && err) *err = g->end;
    return g->end.status;
}

/* "1, 3" of "rank 1, 3", of those that are missing at this meeting. */
static void list_missing(const group *g, char *text, size_t bytes)
{
    size_t used = 0;

    *text = '\0';
    for (int32_t r = 0; r < g->world && used < bytes; r++) {
        if (g->here[r]) continue;
        used += (size_t)snprintf(text + used, bytes - used, "%s%d", used ? ", " : "", (int)r);
    }
}

static void end_late(group *g, const char *what)
{
    char missing[192], text[320];

    list_missing(g, missing, sizeof missing);
    (void)snprintf(text, sizeof text,
                   "%s: expected all %d ranks within %d ms, and these did not come: rank %s", what,
                   (int)g->world, (int)g->timeout_ms, missing);
    end_group(g, text);
}

/* Do all ranks want the same?  Otherwise the group ends.  The lock is held, and all are there. */
static bool compare_calls(group *g)
{
    const call *a = &g->call[0];
    char text[320];

    for (int32_t r = 1; r < g->world; r++) {
        const call *b = &g->call[r];

        if (strcmp(a->what, b->what) == 0 && a->size == b->size && a->root == b->root) continue;
        (void)snprintf(text, sizeof text,
                       "ranks differ: rank 0 calls %s (size %llu, root %d), rank %d %s (size %llu, "
                       "root %d)",
                       a->what, (unsigned long long)a->size, (int)a->root, (int)r, b->what,
                       (unsigned long long)b->size, (int)b->root);
        end_group(g, text);
        return false;
    }
    return true;
}

/* Come to the present meeting; true for the last one to come.  The lock is held. */
static bool arrive(group *g, int32_t rank)
{
    g->here[rank] = true;
    if (++g->arrived < g->world) return false;
    memset(g->here, 0, (size_t)g->world * sizeof *g->here);
    g->arrived = 0;
    g->meeting++;
    (void)pthread_cond_broadcast(&g->moved);
    return true;
}

/* Wait until every rank is here with the same call.  All succeed or none.  The lock is held. */
static spc_status meet(group *g, int32_t rank, spc_error *err)
{
    int64_t until = until_of(g);
    uint64_t meeting = g->meeting;

    if (g->end.status != SPC_OK) return ended(g, err);
    if (arrive(g, rank)) g->agreed = compare_calls(g);
    while (g->meeting == meeting && g->end.status == SPC_OK) {
        if (!wait_moved(g, until)) end_late(g, g->call[rank].what);
    }
    return g->meeting != meeting && g->agreed ? SPC_OK : ended(g, err);
}

/* Wait until every rank has done its share.  They all are at it, and none of it waits: there is no
 * deadline, and the end of the group does not let one go whose data the others still use. */
static void part(group *g, int32_t rank)
{
    uint64_t meeting = g->meeting;

    if (arrive(g, rank)) return;
    while (g->meeting == meeting) (void)pthread_cond_wait(&g->moved, &g->lock);
}

/* Run `share` when all are there, and go when all have done theirs. */
static spc_status collective(local *l, call c, void (*share)(group *g, int32_t rank),
                             spc_error *err)
{
    group *g = l->group;
    int32_t rank = l->comm.rank;
    spc_status status;

    pthread_mutex_lock(&g->lock);
    g->call[rank] = c;
    status = meet(g, rank, err);
    if (status == SPC_OK) {
        pthread_mutex_unlock(&g->lock);
        if (share) share(g, rank);
        pthread_mutex_lock(&g->lock);
        part(g, rank);
    }
    pthread_mutex_unlock(&g->lock);
    return status;
}

/* ---- collectives ------------------------------------------------------------------------------
 */

static void sum_share(group *g, int32_t rank)
{
    size_t count = (size_t)g->call[rank].size / sizeof(float);
    size_t from = count * (size_t)rank / (size_t)g->world;
    size_t to = count * ((size_t)rank + 1) / (size_t)g->world;
    float *out = g->call[0].data;

    for (int32_t r = 1; r < g->world; r++) {
        const float *in = g->call[r].data;

        for (size_t i = from; i < to; i++) out[i] += in[i];
    }
    for (int32_t r = 1; r < g->world && from < to; r++) {
        memcpy((float *)g->call[r].data + from, out + from, (to - from) * sizeof *out);
    }
}

static spc_status local_all_reduce(spc_comm *comm, float *data, size_t count, spc_error *err)
{
    return collective((local *)comm, (call){"all_reduce", count * sizeof *data, 0, 0, data, NULL},
                      sum_share, err);
}

static void spread(group *g, int32_t rank, size_t from, size_t to)
{
    const char *mine = g->call[rank].data;

    for (int32_t r = 0; r < g->world && from < to; r++) {
        if (r != rank) memcpy((char *)g->call[r].data + from, mine + from, to - from);
    }
}

static void broadcast_share(group *g, int32_t rank)
{
    if (rank == g->call[rank].root) spread(g, rank, 0, (size_t)g->call[rank].size);
}

static spc_status local_broadcast(spc_comm *comm, void *data, size_t bytes, int32_t root,
                                  spc_error *err)
{
    assert(root >= 0 && root < comm->world);
    return collective((local *)comm, (call){"broadcast", bytes, root, 0, data, NULL},
                      broadcast_share, err);
}

/* Parts that differ between ranks must not overwrite each other: all of them are compared. */
static uint64_t parts_hash(const size_t *begin, int32_t world)
{
    return spc_hash_bytes(SPC_HASH_BEGIN, begin, ((size_t)world + 1) * sizeof *begin);
}

static void gather_share(group *g, int32_t rank)
{
    spread(g, rank, g->call[rank].begin[rank], g->call[rank].begin[rank + 1]);
}

static spc_status local_all_gather(spc_comm *comm, void *data, const size_t *begin, spc_error *err)
{
    call c = {"all_gather", parts_hash(begin, comm->world), 0, 0, data, begin};

    return collective((local *)comm, c, gather_share, err);
}

static spc_status local_barrier(spc_comm *comm, spc_error *err)
{
    return collective((local *)comm, (call){.what = "barrier"}, NULL, err);
}

/* ---- two ranks --------------------------------------------------------------------------------
 */

static void end_silent(group *g, const char *what, int32_t rank, int32_t other)
{
    char text[160];

    (void)snprintf(text, sizeof text,
                   "%s: rank %d expected rank %d within %d ms, and it did not "
                   "come",
                   what, (int)rank, (int)other, (int)g->timeout_ms);
    end_group(g, text);
}

static spc_status local_send(spc_comm *comm, const void *data, size_t bytes, int32_t to,
                             spc_error *err)
{
    group *g = ((local *)comm)->group;
    letter *box = &g->letter[comm->rank * g->world + to];
    int64_t until = until_of(g);
    spc_status status;

    assert(to >= 0 && to < comm->world && to != comm->rank);
    pthread_mutex_lock(&g->lock);
    *box = (letter){data ? data : "", bytes, false};
    (void)pthread_cond_broadcast(&g->moved);
    while (!box->taken && g->end.status == SPC_OK) {
        if (!wait_moved(g, until)) end_silent(g, "send", comm->rank, to);
    }
    status = box->taken ? SPC_OK : ended(g, err);
    box->data = NULL;
    pthread_mutex_unlock(&g->lock);
    return status;
}

static spc_status local_recv(spc_comm *comm, void *data, size_t bytes, int32_t from, spc_error *err)
{
    group *g = ((local *)comm)->group;
    letter *box = &g->letter[from * g->world + comm->rank];
    int64_t until = until_of(g);
    char text[160];
    spc_status status;

    assert(from >= 0 && from < comm->world && from != comm->rank);
    pthread_mutex_lock(&g->lock);
    while ((!box->data || box->taken) && g->end.status == SPC_OK) {
        if (!wait_moved(g, until)) end_silent(g, "recv", comm->rank, from);
    }
    if (g->end.status == SPC_OK && box->bytes != bytes) {
        (void)snprintf(text, sizeof text,
                       "ranks differ: rank %d sends %zu bytes, rank %d expects "
                       "%zu",
                       (int)from, box->bytes, (int)comm->rank, bytes);
        end_group(g, text);
    }
    status = ended(g, err);
    if (status == SPC_OK) { /* under the lock: the sender is sure to stand there */
        if (bytes > 0) memcpy(data, box->data, bytes);
        box->taken = true;
        (void)pthread_cond_broadcast(&g->moved);
    }
    pthread_mutex_unlock(&g->lock);
    return status;
}

/* ---- open and close ---------------------------------------------------------------------------
 */

static void free_group(group *g)
{
    if (!g) return;
    free(g->made);
    free(g->letter);
    free(g->here);
    free(g->call);
    free(g);
}

/* A group nobody is in yet; NULL without memory. */
static group *new_group(int32_t world, int32_t timeout_ms)
{
    group *g = calloc(1, sizeof *g);
    size_t ranks = (size_t)world;
    pthread_condattr_t clock;

    if (!g) return NULL;
    g->world = g->open = world;
    g->timeout_ms = timeout_ms;
    g->call = calloc(ranks, sizeof *g->call);
    g->here = calloc(ranks, sizeof *g->here);
    g->letter = calloc(ranks * ranks, sizeof *g->letter);
    g->made = calloc(ranks, sizeof *g->made);
    if (!g->call || !g->here || !g->letter || !g->made || pthread_condattr_init(&clock) != 0) {
        free_group(g);
        return NULL;
    }
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&g->lock, NULL); /* neither fails on the systems this runs on */
    (void)pthread_cond_init(&g->moved, &clock);
    (void)pthread_condattr_destroy(&clock);
    return g;
}

static void local_close(spc_comm *comm)
{
    group *g = ((local *)comm)->group;
    bool last;

    pthread_mutex_lock(&g->lock);
    last = --g->open == 0;
    pthread_mutex_unlock(&g->lock);
    free(comm);
    if (!last) return;
    (void)pthread_cond_destroy(&g->moved);
    (void)pthread_mutex_destroy(&g->lock);
    free_group(g);
}

static void local_abort(spc_comm *comm, const char *reason)
{
    group *g = ((local *)comm)->group;

    pthread_mutex_lock(&g->lock);
    end_group(g, reason);
    pthread_mutex_unlock(&g->lock);
}

static spc_status local_async_error(spc_comm *comm, spc_error *err)
{
    group *g = ((local *)comm)->group;
    spc_status status;

    pthread_mutex_lock(&g->lock);
    status = ended(g, err);
    pthread_mutex_unlock(&g->lock);
    return status;
}

static spc_status local_split(spc_comm *comm, int32_t colour, int32_t timeout_ms, spc_comm **out,
                              spc_error *err);

static const spc_comm_ops local_ops = {
    "local",       local_all_reduce, local_all_gather, local_broadcast,   local_send, local_recv,
    local_barrier, local_split,      local_abort,      local_async_error, local_close};

/* Rank `rank` of a group; NULL without memory. */
static spc_comm *new_rank(group *g, int32_t rank)
{
    local *l = calloc(1, sizeof *l);

    if (!l) return NULL;
    l->comm = (spc_comm){&local_ops, rank, g->world};
    l->group = g;
    return &l->comm;
}

/* The first rank of a colour makes the group of all of them and leaves each its place. */
static void split_share(group *g, int32_t rank)
{
    spc_comm *place[SPC_RANKS_MAX] = {NULL};
    int32_t members = 0, colour = g->call[rank].colour;

    for (int32_t r = 0; r < g->world; r++) {
        if (g->call[r].colour != colour) continue;
        if (r < rank) return;
        members++;
    }
    (void)spc_comm_local_open(members, (int32_t)g->call[rank].size, place, NULL);
    for (int32_t r = rank, k = 0; r < g->world; r++) {
        if (g->call[r].colour == colour) g->made[r] = place[k++];
    }
}

static spc_status local_split(spc_comm *comm, int32_t colour, int32_t timeout_ms, spc_comm **out,
                              spc_error *err)
{
    local *l = (local *)comm;
    uint64_t wait = (uint64_t)(timeout_ms > 0 ? timeout_ms : l->group->timeout_ms);
    spc_status status =
        collective(l, (call){"split", wait, 0, colour, NULL, NULL}, split_share, err);

    *out = NULL;
    if (status != SPC_OK) return status;
    *out = l->group->made[comm->rank];
    if (*out) return SPC_OK;
    return spc_error_set(err, SPC_ENOMEM, "split: no memory for a group");
}

spc_status spc_comm_local_open(int32_t world, int32_t timeout_ms, spc_comm **out, spc_error *err)
{
    spc_comm *rank[SPC_RANKS_MAX] = {NULL};
    group *g;
    bool complete;

    if (world < 1 || world > SPC_RANKS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "ranks: expected 1 to %d, found %d", SPC_RANKS_MAX,
                             (int)world);
    }
    if (timeout_ms < 1) {
        return spc_error_set(err, SPC_EUSAGE, "timeout: expected 1 ms or more, found %d",
                             (int)timeout_ms);
    }
    g = new_group(world, timeout_ms);
    complete = g != NULL;
    for (int32_t r = 0; complete && r < world; r++) {
        rank[r] = new_rank(g, r);
        complete = rank[r] != NULL;
    }
    if (!complete) {
        for (int32_t r = 0; r < world; r++) free(rank[r]);
        free_group(g);
        return spc_error_set(err, SPC_ENOMEM, "no memory for a group of %d ranks", (int)world);
    }
    memcpy(out, rank, (size_t)world * sizeof *out);
    return SPC_OK;
}

void spc_comm_close(spc_comm *comm)
{
    if (comm) comm->ops->close(comm);
}
