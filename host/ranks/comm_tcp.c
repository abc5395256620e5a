/* SPDX-License-Identifier: Apache-2.0 */
/* comm_tcp.c - ranks that are processes: a TCP connection between every two of them.
 *
 * A collective is one exchange: every rank sends every other one a frame, a header that says what
 * it was called with, and behind it what the receiver needs of its data.  So each rank hears from
 * all others what they want, and comes to the same judgement where they differ.  A sum takes two
 * exchanges where it is large: parts of it to the rank that adds them, sums back; small ones are
 * sent to all and added by all.  Either way from rank 0 upwards, as the threads of one process do.
 *
 * A rank that ends the group says so in a frame of its own; connections keep their order, so it may
 * lie behind frames of a call that was still complete.  After each call the links are looked at
 * again. */
#include "comm_boot.h"
#include "comm_frames.h"
#include "hash.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Floats of one rank's part of an exchange of a sum, and up to how many all of them go to all. */
enum { PART = 65536, SMALL = 4096 };

/* ---- collectives ------------------------------------------------------------------------------
 */

/* A rank that has left can join no collective any more. */
static void need_all(spc_tcp *t)
{
    char text[64];

    for (int32_t r = 0; r < t->comm.world; r++) {
        if (r == t->comm.rank || t->link[r].fd >= 0) continue;
        (void)snprintf(text, sizeof text, "rank %d has left the group", (int)r);
        spc_tcp_end(t, text);
    }
}

static void enter(spc_tcp *t, spc_frame *f, spc_frame_kind kind, uint64_t size, int32_t root)
{
    (void)pthread_mutex_lock(&t->lock);
    if (t->end.status == SPC_OK) need_all(t);
    *f = (spc_frame){.magic = SPC_FRAME_MAGIC,
                     .kind = kind,
                     .sequence = ++t->sequence,
                     .size = size,
                     .root = root};
}

/* A collective is over.  Another rank may have ended the group: before it was through this call,
 * which then fails here too, or after. */
static spc_status leave(spc_tcp *t, spc_status status, spc_error *err)
{
    if (status == SPC_OK) {
        spc_tcp_look(t, false);
        status = spc_tcp_ended(t, err);
    }
    t->now = 0;
    if (t->later.status != SPC_OK) spc_tcp_end(t, t->later.message);
    (void)pthread_mutex_unlock(&t->lock);
    return status;
}

/* Where a part of a sum begins, of rank `rank`. */
static size_t part_of(size_t count, int32_t rank, int32_t world)
{
    return count * (size_t)rank / (size_t)world;
}

/* room[r] of every rank, own `data` in its place: their sum into out, from rank 0 upwards. */
static void add(const spc_tcp *t, const float *data, float *out, size_t count)
{
    const float *first = t->comm.rank == 0 ? data : t->room;

    for (size_t i = 0; i < count; i++) {
        float sum = first[i];

        for (int32_t r = 1; r < t->comm.world; r++) {
            sum += r == t->comm.rank ? data[i] : t->room[(size_t)r * PART + i];
        }
        out[i] = sum;
    }
}

/* Everything to everyone. */
static spc_status sum_small(spc_tcp *t, spc_frame *f, float *data, size_t count, int64_t *until,
                            spc_error *err)
{
    size_t bytes = count * sizeof *data;
    spc_status status;

    for (int32_t r = 0; r < t->comm.world; r++) {
        if (r == t->comm.rank) continue;
        spc_tcp_lay_out(t, r, f, data, bytes, true, t->room + (size_t)r * PART, bytes);
    }
    status = spc_tcp_exchange(t, f, until, err);
    if (status == SPC_OK) add(t, data, data, count);
    return status;
}

/* Each rank adds its part of at most world * PART, and sends the sum to the others. */
static spc_status sum_large(spc_tcp *t, spc_frame *f, float *data, size_t count, int64_t *until,
                            spc_error *err)
{
    int32_t rank = t->comm.rank, world = t->comm.world;
    size_t own = part_of(count, rank, world), bytes = part_of(count, rank + 1, world) - own;
    spc_status status;

    bytes *= sizeof *data;
    for (int32_t r = 0; r < world; r++) {
        size_t at = part_of(count, r, world), to = part_of(count, r + 1, world);

        if (r == rank) continue;
        spc_tcp_lay_out(t, r, f, data + at, (to - at) * sizeof *data, true,
                        t->room + (size_t)r * PART, bytes);
    }
    status = spc_tcp_exchange(t, f, until, err);
    if (status != SPC_OK) return status;
    add(t, data + own, data + own, bytes / sizeof *data);
    f->sequence = ++t->sequence;
    for (int32_t r = 0; r < world; r++) {
        size_t at = part_of(count, r, world), to = part_of(count, r + 1, world);

        if (r == rank) continue;
        spc_tcp_lay_out(t, r, f, data + own, bytes, true, data + at, (to - at) * sizeof *data);
    }
    return spc_tcp_exchange(t, f, until, err);
}

static spc_status tcp_all_reduce(spc_comm *comm, float *data, size_t count, spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    int64_t until = spc_tcp_until(t);
    size_t most = (size_t)comm->world * PART;
    spc_frame f;
    spc_status status;

    enter(t, &f, SPC_FRAME_ALL_REDUCE, count * sizeof *data, 0);
    if (count <= SMALL) return leave(t, sum_small(t, &f, data, count, &until, err), err);
    status = spc_tcp_ended(t, err);
    for (size_t at = 0; at < count && status == SPC_OK; at += most) {
        size_t now = count - at < most ? count - at : most;

        if (at > 0) f.sequence = ++t->sequence;
        status = sum_large(t, &f, data + at, now, &until, err);
    }
    return leave(t, status, err);
}

static spc_status tcp_broadcast(spc_comm *comm, void *data, size_t bytes, int32_t root,
                                spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    int64_t until = spc_tcp_until(t);
    spc_frame f;

    assert(root >= 0 && root < comm->world);
    enter(t, &f, SPC_FRAME_BROADCAST, bytes, root);
    for (int32_t r = 0; r < comm->world; r++) {
        if (r == comm->rank) continue;
        spc_tcp_lay_out(t, r, &f, data, comm->rank == root ? bytes : 0, true, data,
                        r == root ? bytes : 0);
    }
    return leave(t, spc_tcp_exchange(t, &f, &until, err), err);
}

/* Parts that differ between ranks are told of: all of them are compared. */
static uint64_t parts_hash(const size_t *begin, int32_t world)
{
    return spc_hash_bytes(SPC_HASH_BEGIN, begin, ((size_t)world + 1) * sizeof *begin);
}

static spc_status tcp_all_gather(spc_comm *comm, void *data, const size_t *begin, spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    int64_t until = spc_tcp_until(t);
    char *at = data;
    spc_frame f;

    enter(t, &f, SPC_FRAME_ALL_GATHER, parts_hash(begin, comm->world), 0);
    for (int32_t r = 0; r < comm->world; r++) {
        if (r == comm->rank) continue;
        spc_tcp_lay_out(t, r, &f, at + begin[comm->rank], begin[comm->rank + 1] - begin[comm->rank],
                        true, at + begin[r], begin[r + 1] - begin[r]);
    }
    return leave(t, spc_tcp_exchange(t, &f, &until, err), err);
}

static spc_status tcp_barrier(spc_comm *comm, spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    int64_t until = spc_tcp_until(t);
    spc_frame f;

    enter(t, &f, SPC_FRAME_BARRIER, 0, 0);
    for (int32_t r = 0; r < comm->world; r++) {
        if (r != comm->rank) spc_tcp_lay_out(t, r, &f, NULL, 0, true, NULL, 0);
    }
    return leave(t, spc_tcp_exchange(t, &f, &until, err), err);
}

/* ---- two ranks --------------------------------------------------------------------------------
 */

static spc_frame letter_frame(spc_frame_kind kind, size_t bytes)
{
    return (spc_frame){.magic = SPC_FRAME_MAGIC, .kind = kind, .size = bytes};
}

static void need(spc_tcp *t, int32_t rank)
{
    char text[64];

    if (t->end.status != SPC_OK || t->link[rank].fd >= 0) return;
    (void)snprintf(text, sizeof text, "rank %d has left the group", (int)rank);
    spc_tcp_end(t, text);
}

static spc_status tcp_send(spc_comm *comm, const void *data, size_t bytes, int32_t to,
                           spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    int64_t until = spc_tcp_until(t);
    spc_frame f = letter_frame(SPC_FRAME_SEND, bytes), taken = letter_frame(SPC_FRAME_TAKEN, bytes);

    spc_status status;

    assert(to >= 0 && to < comm->world && to != comm->rank);
    (void)pthread_mutex_lock(&t->lock);
    need(t, to);
    spc_tcp_lay_out(t, to, &f, data, bytes, true, NULL, 0);
    status = spc_tcp_exchange(t, &taken, &until, err);
    (void)pthread_mutex_unlock(&t->lock);
    return status;
}

static spc_status tcp_recv(spc_comm *comm, void *data, size_t bytes, int32_t from, spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    spc_frame f = letter_frame(SPC_FRAME_SEND, bytes), taken = letter_frame(SPC_FRAME_TAKEN, bytes);
    int64_t until = spc_tcp_until(t);
    spc_status status;

    assert(from >= 0 && from < comm->world && from != comm->rank);
    (void)pthread_mutex_lock(&t->lock);
    need(t, from);
    spc_tcp_lay_out(t, from, NULL, NULL, 0, true, data, bytes);
    status = spc_tcp_exchange(t, &f, &until, err);
    if (status == SPC_OK) spc_tcp_look(t, false); /* the sender may have given up meanwhile */
    if (status == SPC_OK) status = spc_tcp_ended(t, err);
    if (status == SPC_OK) {
        spc_tcp_lay_out(t, from, &taken, NULL, 0, false, NULL, 0);
        status = spc_tcp_exchange(t, &taken, &until, err);
    }
    (void)pthread_mutex_unlock(&t->lock);
    return status;
}

/* ---- open and close ---------------------------------------------------------------------------
 */

static void tcp_close(spc_comm *comm)
{
    spc_tcp *t = (spc_tcp *)comm;
    spc_frame f = {.magic = SPC_FRAME_MAGIC, .kind = SPC_FRAME_LEAVE};

    for (int32_t r = 0; r < comm->world; r++) {
        if (t->link[r].fd >= 0 && t->end.status == SPC_OK) {
            (void)spc_link_send(t->link[r].fd, &f, sizeof f, spc_awake_ms());
        }
        spc_link_close(t->link[r].fd);
    }
    spc_link_close(t->wake);
    (void)pthread_mutex_destroy(&t->lock);
    free(t->room);
    free(t);
}

static void tcp_abort(spc_comm *comm, const char *reason)
{
    spc_tcp *t = (spc_tcp *)comm;

    (void)pthread_mutex_lock(&t->lock);
    spc_tcp_end(t, reason);
    (void)pthread_mutex_unlock(&t->lock);
}

static spc_status tcp_async_error(spc_comm *comm, spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    spc_status status;

    (void)pthread_mutex_lock(&t->lock);
    if (!t->busy && t->end.status == SPC_OK) spc_tcp_look(t, true);
    status = spc_tcp_ended(t, err);
    (void)pthread_mutex_unlock(&t->lock);
    return status;
}

static spc_status tcp_split(spc_comm *comm, int32_t colour, int32_t timeout_ms, spc_comm **out,
                            spc_error *err);

static const spc_comm_ops tcp_ops = {"tcp",     tcp_all_reduce,  tcp_all_gather, tcp_broadcast,
                                     tcp_send,  tcp_recv,        tcp_barrier,    tcp_split,
                                     tcp_abort, tcp_async_error, tcp_close};

/* A rank without links. */
static spc_status new_rank(int32_t rank, int32_t world, int32_t timeout_ms, spc_tcp **out,
                           spc_error *err)
{
    spc_tcp *t = calloc(1, sizeof *t);

    *out = NULL;
    if (!t) return spc_error_set(err, SPC_ENOMEM, "no memory for rank %d", (int)rank);
    t->comm = (spc_comm){&tcp_ops, rank, world};
    t->timeout_ms = timeout_ms;
    (void)pthread_mutex_init(&t->lock, NULL); /* does not fail on the systems this runs on */
    for (int32_t r = 0; r < SPC_RANKS_MAX; r++) t->link[r].fd = -1;
    t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    t->room = malloc((size_t)world * PART * sizeof *t->room);
    if (t->wake < 0 || !t->room) {
        tcp_close(&t->comm);
        return spc_error_set(err, SPC_ENOMEM, "no memory for rank %d of %d", (int)rank, (int)world);
    }
    *out = t;
    return SPC_OK;
}

static spc_status link_up(spc_tcp *t, int listener, const spc_link_address *address, uint64_t nonce,
                          spc_error *err)
{
    int fd[SPC_RANKS_MAX];
    spc_status status = spc_link_mesh(listener, address, nonce, t->comm.rank, t->comm.world,
                                      t->timeout_ms, fd, err);

    for (int32_t r = 0; r < t->comm.world && status == SPC_OK; r++) t->link[r].fd = fd[r];
    return status;
}

spc_status spc_comm_tcp_open(const spc_place *place, spc_comm **out, spc_error *err)
{
    spc_link_address address[SPC_RANKS_MAX];
    spc_boot *boot = NULL;
    spc_tcp *t = NULL;
    int listener = -1;
    spc_status status = spc_boot_open(place, &boot, err);

    *out = NULL;
    if (status == SPC_OK) status = new_rank(place->rank, place->world, place->timeout_ms, &t, err);
    if (status == SPC_OK && place->world > 1) {
        status = spc_boot_listen(boot, &listener, err);
        if (status == SPC_OK) status = spc_boot_addresses(boot, listener, address, err);
        if (status == SPC_OK) status = link_up(t, listener, address, spc_boot_nonce(boot), err);
    }
    spc_link_close(listener);
    spc_boot_close(boot);
    if (status != SPC_OK) {
        if (t) tcp_close(&t->comm);
        return status;
    }
    *out = &t->comm;
    return SPC_OK;
}

/* ---- split ------------------------------------------------------------------------------------
 */

/* What ranks tell each other to make new groups of. */
typedef struct {
    int32_t colour;
    uint16_t port; /* where it listens */
    uint64_t nonce;
} split_record;

/* Listen at the kind of address that this rank has links over. */
static spc_status listen_again(const spc_tcp *t, int *listener, split_record *mine, spc_error *err)
{
    spc_link_address at;
    const spc_link_address *where = NULL;
    spc_status status;

    for (int32_t r = 0; r < t->comm.world && !where; r++) {
        if (t->link[r].fd < 0 || !spc_link_own(t->link[r].fd, &at)) continue;
        spc_link_set_any(&at);
        spc_link_set_port(&at, 0);
        where = &at;
    }
    status = spc_link_listen(where, listener, err);
    if (status != SPC_OK) return status;
    if (!spc_link_own(*listener, &at)) return spc_error_set(err, SPC_EDEVICE, "no own address");
    mine->port = spc_link_port(&at);
    return SPC_OK;
}

/* The ranks of the own colour, in order, with where they listen. */
static spc_status link_members(spc_tcp *t, int listener, const split_record *record,
                               int32_t timeout_ms, spc_comm **out, spc_error *err)
{
    spc_link_address address[SPC_RANKS_MAX];
    int32_t members = 0, rank = 0, first = -1, own = t->comm.rank;
    spc_tcp *part;
    spc_status status;

    for (int32_t r = 0; r < t->comm.world; r++) {
        if (record[r].colour != record[own].colour) continue;
        if (first < 0) first = r;
        if (r == own) {
            rank = members;
        } else if (!spc_link_peer(t->link[r].fd, &address[members])) {
            return spc_error_set(err, SPC_EDEVICE, "split: rank %d is gone", (int)r);
        } else {
            spc_link_set_port(&address[members], record[r].port);
        }
        members++;
    }
    status = new_rank(rank, members, timeout_ms, &part, err);
    if (status != SPC_OK) return status;
    status = link_up(part, listener, address, record[first].nonce, err);
    if (status != SPC_OK) {
        tcp_close(&part->comm);
        return status;
    }
    *out = &part->comm;
    return SPC_OK;
}

static spc_status tcp_split(spc_comm *comm, int32_t colour, int32_t timeout_ms, spc_comm **out,
                            spc_error *err)
{
    spc_tcp *t = (spc_tcp *)comm;
    int64_t until = spc_tcp_until(t);
    split_record record[SPC_RANKS_MAX], mine = {.colour = colour, .nonce = spc_link_nonce()};
    spc_error error;
    spc_frame f;
    int listener = -1;
    spc_status status;

    *out = NULL;
    if (timeout_ms == 0) timeout_ms = t->timeout_ms;
    enter(t, &f, SPC_FRAME_SPLIT, (uint64_t)timeout_ms, 0);
    status = spc_tcp_ended(t, &error);
    if (status == SPC_OK) status = listen_again(t, &listener, &mine, &error);
    record[comm->rank] = mine;
    for (int32_t r = 0; r < comm->world && status == SPC_OK; r++) {
        if (r == comm->rank) continue;
        spc_tcp_lay_out(t, r, &f, &mine, sizeof mine, true, &record[r], sizeof mine);
    }
    if (status == SPC_OK) {
        status = spc_tcp_exchange(t, &f, &until, &error);
    }
    if (status == SPC_OK) status = link_members(t, listener, record, timeout_ms, out, &error);
    spc_link_close(listener);
    if (status != SPC_OK) spc_tcp_end(t, error.message); /* all have a new group, or none */
    if (status != SPC_OK && err) *err = error;
    (void)pthread_mutex_unlock(&t->lock);
    return status;
}
