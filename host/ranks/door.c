/* SPDX-License-Identifier: Apache-2.0 */
/* door.c - where ranks come in: a listening socket at which they say who they are (link.h).
 *
 * A caller that says nothing must not keep the others waiting: all who have been let in but not yet
 * spoken are listened to at once. */
#include "link.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

#define MAGIC UINT64_C(0x7370635f72616e31) /* "spc_ran1": the last letter is the version */

/* Callers who have not spoken yet, and how long rank 0 may take to answer before it is asked again
 * (a file may have named someone else's address). */
enum { CALLERS = 2 * SPC_RANKS_MAX, ANSWER_MS = 2000 };

/* How long until it is tried again to let somebody in for whom there is no file descriptor. */
enum { NO_FILES_MS = 50 };

/* What a door answers. */
typedef struct {
    uint64_t magic, nonce;
    uint64_t taken; /* 1: this rank is there already, or of another number of ranks */
} answer_record;

typedef struct {
    int fd;
    size_t read;
    spc_link_hello hello;
} caller;

typedef struct {
    uint64_t nonce;
    bool open, answer;
    int32_t first, world;
    int *fd;
    caller caller[CALLERS];
    int32_t callers;
    spc_error *refusal;
    bool refused;
    bool no_files; /* somebody stands at the door, and no file descriptor is left */
} door;

static spc_link_hello hello_of(uint64_t nonce, int32_t rank, int32_t world)
{
    return (spc_link_hello){MAGIC, nonce, rank, world};
}

uint64_t spc_link_nonce(void)
{
    uint64_t nonce = 0;

    if (getrandom(&nonce, sizeof nonce, 0) != (ssize_t)sizeof nonce) {
        nonce = (uint64_t)spc_awake_ms() * UINT64_C(0x9e3779b97f4a7c15);
    }
    return nonce ? nonce : 1;
}

static void refuse(door *d, int fd, const spc_link_hello *h)
{
    answer_record no = {MAGIC, d->nonce, 1};

    if (d->answer) (void)spc_link_send(fd, &no, sizeof no, spc_awake_ms());
    spc_link_close(fd);
    if (d->refused) return;
    d->refused = true;
    if (h->world != d->world) {
        (void)spc_error_set(d->refusal, SPC_EUSAGE,
                            "ranks differ: rank 0 expects %d ranks, rank %d %d", (int)d->world,
                            (int)h->rank, (int)h->world);
    } else {
        (void)spc_error_set(d->refusal, SPC_EUSAGE, "two processes say they are rank %d",
                            (int)h->rank);
    }
}

/* Someone has spoken. */
static void let_in(door *d, int fd, const spc_link_hello *h)
{
    answer_record yes = {MAGIC, d->nonce, 0};
    bool stranger = h->magic != MAGIC || (h->nonce != d->nonce && !(d->open && h->nonce == 0));

    if (stranger) {
        spc_link_close(fd);
        return;
    }
    if (h->world != d->world || h->rank < d->first || h->rank >= d->world ||
        (d->fd[h->rank] >= 0 && !spc_link_gone(d->fd[h->rank]))) {
        refuse(d, fd, h);
        return;
    }
    spc_link_close(d->fd[h->rank]);
    d->fd[h->rank] = fd;
    if (d->answer) (void)spc_link_send(fd, &yes, sizeof yes, spc_awake_ms());
}

/* Hear more of a caller; false: it is one no longer. */
static bool hear(door *d, caller *c)
{
    ssize_t n = recv(c->fd, (char *)&c->hello + c->read, sizeof c->hello - c->read, 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n <= 0) {
        spc_link_close(c->fd);
        return false;
    }
    c->read += (size_t)n;
    if (c->read < sizeof c->hello) return true;
    let_in(d, c->fd, &c->hello);
    return false;
}

static void open_door(door *d, int listener)
{
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    d->no_files = fd < 0 && spc_link_no_files(errno);
    if (fd < 0) return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (d->callers == CALLERS) { /* the one that has been silent for longest makes room */
        spc_link_close(d->caller[0].fd);
        memmove(d->caller, d->caller + 1, (CALLERS - 1) * sizeof *d->caller);
        d->callers--;
    }
    d->caller[d->callers++] = (caller){.fd = fd};
}

/* Until somebody moves.  Who cannot be let in stays there, and poll would not wait. */
static void wait_at(const door *d, struct pollfd *wanted, int64_t deadline_ms)
{
    int nap = spc_awake_nap_ms(deadline_ms);

    if (d->no_files) wanted[0].fd = -1;
    if (d->no_files && nap > NO_FILES_MS) nap = NO_FILES_MS;
    (void)poll(wanted, (nfds_t)d->callers + 1, nap);
}

static bool complete(const door *d)
{
    for (int32_t r = d->first; r < d->world; r++) {
        if (d->fd[r] < 0) return false;
    }
    return true;
}

spc_door_end spc_door_wait(int listener, uint64_t nonce, bool open, bool answer, int32_t first,
                           int32_t world, int64_t deadline_ms, int *fd, spc_error *refusal)
{
    door d = {.nonce = nonce,
              .open = open,
              .answer = answer,
              .first = first,
              .world = world,
              .fd = fd,
              .refusal = refusal};

    while (!complete(&d) && !d.refused) {
        struct pollfd wanted[CALLERS + 1] = {{listener, POLLIN, 0}};
        int32_t callers = d.callers, kept = 0;

        for (int32_t i = 0; i < callers; i++) {
            wanted[i + 1] = (struct pollfd){d.caller[i].fd, POLLIN, 0};
        }
        wait_at(&d, wanted, deadline_ms);
        for (int32_t i = 0; i < callers; i++) {
            caller c = d.caller[i];

            if (!wanted[i + 1].revents || hear(&d, &c)) d.caller[kept++] = c;
        }
        d.callers = kept;
        if (wanted[0].revents || d.no_files) open_door(&d, listener);
        if (spc_awake_left_ms(deadline_ms) == 0) break;
    }
    for (int32_t i = 0; i < d.callers; i++) spc_link_close(d.caller[i].fd);
    if (d.refused) return SPC_DOOR_REFUSED;
    if (complete(&d)) return SPC_DOOR_COMPLETE;
    return d.no_files ? SPC_DOOR_NO_FILES : SPC_DOOR_LATE;
}

int spc_door_enter(const spc_link_address *to, uint64_t *nonce, bool answers, int32_t rank,
                   int32_t world, int64_t deadline_ms)
{
    spc_link_hello hello = hello_of(*nonce, rank, world);
    int64_t soon = spc_awake_ms() + ANSWER_MS;
    answer_record answer;
    int fd = spc_link_connect(to, deadline_ms);

    if (fd < 0) return -1;
    if (soon > deadline_ms) soon = deadline_ms;
    if (!spc_link_send(fd, &hello, sizeof hello, deadline_ms)) goto fail;
    if (!answers) return fd;
    if (!spc_link_recv(fd, &answer, sizeof answer, soon) || answer.magic != MAGIC) goto fail;
    if (*nonce != 0 && answer.nonce != *nonce) goto fail;
    if (answer.taken) {
        spc_link_close(fd);
        return SPC_DOOR_TAKEN;
    }
    *nonce = answer.nonce;
    return fd;
fail:
    spc_link_close(fd);
    return -1;
}
