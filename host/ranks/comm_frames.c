/* SPDX-License-Identifier: Apache-2.0 */
/* comm_frames.c - one exchange of frames between a rank and the others, and the end of a group. */
#include "comm_frames.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* How long a rank that ends the group tries to let the others know, and how much longer it waits
 * for each further rank it misses: who misses the fewest knows best who is to blame.  The latter
 * also for the rest of what a rank was sending when another was found gone. */
enum { FAREWELL_MS = 200, DOUBT_MS = 20 };

#define FRAME_NAME(id, name) name,
static const char *const call_name[] = {SPC_FRAME_MAP(FRAME_NAME)};
#undef FRAME_NAME

static bool is_letter(const spc_frame *f)
{
    return f->kind == SPC_FRAME_SEND || f->kind == SPC_FRAME_TAKEN;
}

/* ---- the end ----------------------------------------------------------------------------------
 */

spc_status spc_tcp_ended(const spc_tcp *t, spc_error *err)
{
    if (t->end.status != SPC_OK && err) *err = t->end;
    return t->end.status;
}

/* Send what is left of a frame; a peer that lives reads it. */
static bool finish_frame(spc_link *l, int64_t deadline)
{
    size_t head = l->given < sizeof l->out ? sizeof l->out - l->given : 0;
    size_t at = l->given > sizeof l->out ? l->given - sizeof l->out : 0;

    if (!l->gives || l->given == 0) return true;
    if (head > 0 && !spc_link_send(l->fd, (char *)&l->out + l->given, head, deadline)) return false;
    return spc_link_send(l->fd, l->give + at, (size_t)l->out.bytes - at, deadline);
}

/* The first reason stays, and goes to everyone.  The lock is held. */
void spc_tcp_end(spc_tcp *t, const char *reason)
{
    int64_t deadline = spc_awake_ms() + FAREWELL_MS;
    spc_frame f = {.magic = SPC_FRAME_MAGIC, .kind = SPC_FRAME_ABORT};
    uint64_t one = 1;

    if (t->end.status != SPC_OK) return;
    (void)spc_error_set(&t->end, SPC_EDEVICE, "%s", reason);
    f.bytes = strlen(t->end.message);
    f.sequence = t->complete;
    for (int32_t r = 0; r < t->comm.world; r++) {
        spc_link *l = &t->link[r];

        if (l->fd < 0) continue;
        if (finish_frame(l, deadline) && spc_link_send(l->fd, &f, sizeof f, deadline)) {
            (void)spc_link_send(l->fd, t->end.message, (size_t)f.bytes, deadline);
        }
        l->gives = l->takes = false;
    }
    (void)!write(t->wake, &one, sizeof one);
}

static void end_left(spc_tcp *t, int32_t rank)
{
    char text[64];

    spc_link_close(t->link[rank].fd);
    t->link[rank].fd = -1;
    (void)snprintf(text, sizeof text, "rank %d has left the group", (int)rank);
    spc_tcp_end(t, text);
}

/* An abort frame's header has been read: the rest of it is the reason. */
static void end_as_told(spc_tcp *t, spc_link *l, const spc_frame *f)
{
    char text[SPC_ERROR_BYTES] = "";
    size_t bytes = f->bytes < sizeof text ? (size_t)f->bytes : sizeof text - 1;

    if (!spc_link_recv(l->fd, text, bytes, spc_awake_ms() + FAREWELL_MS)) {
        (void)snprintf(text, sizeof text, "another rank has ended the group");
    }
    if (t->now == 0 || f->sequence < t->now) {
        spc_tcp_end(t, text);
    } else if (t->later.status == SPC_OK) { /* it has all it needs of this call, so will we */
        (void)spc_error_set(&t->later, SPC_EDEVICE, "%s", text);
        l->heed = 0;
    }
}

static bool is_readable(const spc_link *l)
{
    struct pollfd wanted = {l->fd, POLLIN, 0};

    return l->fd >= 0 && poll(&wanted, 1, 0) > 0;
}

/* Read past so many bytes. */
static bool skip(const spc_link *l, size_t bytes, int64_t deadline)
{
    char dropped[1024];

    while (bytes > 0) {
        size_t piece = bytes < sizeof dropped ? bytes : sizeof dropped;

        if (!spc_link_recv(l->fd, dropped, piece, deadline)) return false;
        bytes -= piece;
    }
    return true;
}

/* The group is at its end: does a rank say why, behind what else it has sent? */
static void ask_why(spc_tcp *t, spc_link *l)
{
    int64_t deadline = spc_awake_ms() + DOUBT_MS;

    if (!l->takes) l->taken = 0; /* its frame is complete: the next begins */
    while (is_readable(l)) {
        if (l->taken < sizeof l->in) {
            char *to = (char *)&l->in + l->taken;

            if (!spc_link_recv(l->fd, to, sizeof l->in - l->taken, deadline)) return;
            l->taken = sizeof l->in;
        }
        if (l->in.magic != SPC_FRAME_MAGIC) return;
        if (l->in.kind == SPC_FRAME_ABORT) {
            end_as_told(t, l, &l->in);
            return;
        }
        if (!skip(l, (size_t)l->in.bytes - (l->taken - sizeof l->in), deadline)) return;
        l->taken = 0;
    }
}

/* A rank is gone.  It, or the one because of which it went, may have said why. */
static void end_gone(spc_tcp *t, int32_t rank)
{
    char text[96];

    for (int32_t i = 0; i < t->comm.world && t->end.status == SPC_OK; i++) {
        ask_why(t, &t->link[(rank + i) % t->comm.world]);
    }
    if (t->end.status != SPC_OK) return;
    (void)snprintf(text, sizeof text, "rank %d is gone: its process ended, or its connection broke",
                   (int)rank);
    spc_tcp_end(t, t->later.status != SPC_OK ? t->later.message : text);
}

/* Is the next thing on this link, if there is any, an end?  Nothing else is read. */
static void look_at(spc_tcp *t, int32_t rank, bool gone_ends)
{
    spc_link *l = &t->link[rank];
    spc_frame f;
    ssize_t n = recv(l->fd, &f, sizeof f, MSG_PEEK);

    if (n == (ssize_t)sizeof f && f.magic == SPC_FRAME_MAGIC && f.kind == SPC_FRAME_ABORT) {
        (void)recv(l->fd, &f, sizeof f, 0);
        end_as_told(t, l, &f);
    } else if (n == (ssize_t)sizeof f && f.magic == SPC_FRAME_MAGIC && f.kind == SPC_FRAME_LEAVE) {
        spc_link_close(l->fd);
        l->fd = -1;
    } else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        if (gone_ends) end_gone(t, rank);
    }
}

void spc_tcp_look(spc_tcp *t, bool gone_ends)
{
    struct pollfd wanted[SPC_RANKS_MAX];

    for (int32_t r = 0; r < t->comm.world; r++) {
        wanted[r] = (struct pollfd){t->link[r].fd, POLLIN, 0};
    }
    if (poll(wanted, (nfds_t)t->comm.world, 0) <= 0) return;
    for (int32_t r = 0; r < t->comm.world && t->end.status == SPC_OK; r++) {
        if (wanted[r].revents) look_at(t, r, gone_ends);
    }
}

/* ---- one exchange -----------------------------------------------------------------------------
 */

static bool fits(const spc_frame *a, const spc_frame *b)
{
    return a->kind == b->kind && a->sequence == b->sequence && a->size == b->size &&
           a->root == b->root;
}

/* A header is complete: is it what this call waits for? */
static void judge(spc_tcp *t, int32_t rank, const spc_frame *expected)
{
    spc_link *l = &t->link[rank];
    char text[96];

    if (l->in.magic == SPC_FRAME_MAGIC && l->in.kind == SPC_FRAME_ABORT) {
        end_as_told(t, l, &l->in);
    } else if (l->in.magic == SPC_FRAME_MAGIC && l->in.kind == SPC_FRAME_LEAVE) {
        end_left(t, rank);
    } else if (l->in.magic != SPC_FRAME_MAGIC || l->in.kind >= SPC_FRAME_COUNT) {
        (void)snprintf(text, sizeof text, "rank %d sends what no rank sends", (int)rank);
        spc_tcp_end(t, text);
    } else {
        l->differs = !fits(&l->in, expected) || l->in.bytes != l->wanted;
        if (l->differs || l->wanted == 0) l->takes = false;
    }
}

/* Receive what is there. */
static void take(spc_tcp *t, int32_t rank, const spc_frame *expected)
{
    spc_link *l = &t->link[rank];

    while (l->takes && t->end.status == SPC_OK) {
        bool head = l->taken < sizeof l->in;
        char *to = head ? (char *)&l->in + l->taken : l->take + (l->taken - sizeof l->in);
        size_t left = (head ? 0 : l->wanted) + sizeof l->in - l->taken;
        ssize_t n = recv(l->fd, to, left, 0);

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) {
            end_gone(t, rank);
            return;
        }
        l->taken += (size_t)n;
        if (head && l->taken == sizeof l->in) judge(t, rank, expected);
        if (l->taken == sizeof l->in + l->wanted) l->takes = false;
    }
}

/* Send what goes. */
static void give(spc_tcp *t, int32_t rank)
{
    spc_link *l = &t->link[rank];

    while (l->gives && !l->differs) {
        size_t head = l->given < sizeof l->out ? sizeof l->out - l->given : 0;
        size_t at = l->given > sizeof l->out ? l->given - sizeof l->out : 0;
        struct iovec piece[2] = {{(char *)&l->out + sizeof l->out - head, head},
                                 {(char *)(uintptr_t)l->give + at, (size_t)l->out.bytes - at}};
        struct msghdr message = {.msg_iov = piece, .msg_iovlen = l->out.bytes > at ? 2 : 1};
        ssize_t n = sendmsg(l->fd, &message, MSG_NOSIGNAL);

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n < 0) {
            end_gone(t, rank);
            return;
        }
        l->given += (size_t)n;
        l->gives = l->given < sizeof l->out + l->out.bytes;
    }
}

static bool at_work(const spc_link *l)
{
    return l->takes || (l->gives && !l->differs);
}

static bool any_at_work(const spc_tcp *t)
{
    for (int32_t r = 0; r < t->comm.world; r++) {
        if (at_work(&t->link[r])) return true;
    }
    return false;
}

/* "1, 3", of the ranks whose frames are not complete; returns how many. */
static int32_t list_missing(const spc_tcp *t, char *text, size_t bytes)
{
    size_t used = 0;
    int32_t count = 0;

    *text = '\0';
    for (int32_t r = 0; r < t->comm.world && used < bytes; r++) {
        if (!at_work(&t->link[r])) continue;
        used += (size_t)snprintf(text + used, bytes - used, "%s%d", used ? ", " : "", (int)r);
        count++;
    }
    return count;
}

static void end_late(spc_tcp *t, const spc_frame *expected)
{
    char missing[192], text[320];

    (void)list_missing(t, missing, sizeof missing);
    if (is_letter(expected)) {
        (void)snprintf(text, sizeof text,
                       "%s: rank %d expected rank %s within %d ms, and it did not come",
                       expected->kind == SPC_FRAME_SEND ? "recv" : "send", (int)t->comm.rank,
                       missing, (int)t->timeout_ms);
    } else {
        (void)snprintf(text, sizeof text,
                       "%s: expected all %d ranks within %d ms, and these did not come: rank %s",
                       call_name[expected->kind], (int)t->comm.world, (int)t->timeout_ms, missing);
    }
    spc_tcp_end(t, text);
}

/* A letter of another size, or no letter. */
static void compare_letter(spc_tcp *t, int32_t rank, const spc_frame *expected)
{
    const spc_frame *in = &t->link[rank].in;
    char text[160];

    if (in->kind == expected->kind && in->kind == SPC_FRAME_SEND) {
        (void)snprintf(text, sizeof text,
                       "ranks differ: rank %d sends %llu bytes, rank %d expects %llu", (int)rank,
                       (unsigned long long)in->size, (int)t->comm.rank,
                       (unsigned long long)expected->size);
    } else {
        (void)snprintf(text, sizeof text, "ranks differ: rank %d calls %s, rank %d %s", (int)rank,
                       call_name[in->kind], (int)t->comm.rank,
                       expected->kind == SPC_FRAME_SEND ? "recv" : "send");
    }
    spc_tcp_end(t, text);
}

/* Everyone compares with rank 0, and so all say the same. */
static void compare_calls(spc_tcp *t, const spc_frame *own)
{
    const spc_frame *first = t->comm.rank == 0 ? own : &t->link[0].in;
    char text[320];

    for (int32_t r = 1; r < t->comm.world; r++) {
        const spc_frame *other = r == t->comm.rank ? own : &t->link[r].in;

        if (fits(first, other)) continue;
        (void)snprintf(text, sizeof text,
                       "ranks differ: rank 0 calls %s (size %llu, root %d), rank %d %s (size %llu, "
                       "root %d)",
                       call_name[first->kind], (unsigned long long)first->size, (int)first->root,
                       (int)r, call_name[other->kind], (unsigned long long)other->size,
                       (int)other->root);
        spc_tcp_end(t, text);
        return;
    }
    spc_tcp_end(t, "ranks differ in what they send each other");
}

/* Do all want the same? */
static void compare(spc_tcp *t, const spc_frame *expected)
{
    for (int32_t r = 0; r < t->comm.world; r++) {
        if (!t->link[r].differs) continue;
        if (is_letter(expected)) {
            compare_letter(t, r, expected);
        } else {
            compare_calls(t, expected);
        }
        return;
    }
}

/* Something came from a rank whose frame of this exchange is here: its end, or its next frame. */
static void heed(spc_tcp *t, int32_t rank)
{
    spc_link *l = &t->link[rank];

    look_at(t, rank, true);
    if (l->fd < 0 && l->gives) end_left(t, rank);
    if (l->heed > 0) l->heed--;
}

int64_t spc_tcp_until(const spc_tcp *t)
{
    return spc_awake_ms() + t->timeout_ms;
}

/* Wait until something moves: on links that are not done, or the end of a rank whose frame is here
 * already; the others wait for that one in vain.  False: the deadline is over. */
static bool wait_links(spc_tcp *t, int64_t *until)
{
    static const short heeded[] = {0, POLLRDHUP, POLLIN};
    struct pollfd wanted[SPC_RANKS_MAX + 1];
    int32_t world = t->comm.world;
    bool doubted = false;
    int moved;

    for (int32_t r = 0; r < world; r++) {
        const spc_link *l = &t->link[r];
        short events = l->takes ? POLLIN : heeded[l->heed];

        if (l->gives && !l->differs) events |= POLLOUT;
        wanted[r] = (struct pollfd){events ? l->fd : -1, events, 0};
    }
    wanted[world] = (struct pollfd){t->wake, POLLIN, 0};
    do {
        char missing[192];
        int nap = spc_awake_nap_ms(*until);

        if (nap == 0 && doubted) return false;
        if (nap == 0) { /* in doubt, let those who know better speak first */
            *until = spc_awake_ms() + DOUBT_MS * (list_missing(t, missing, sizeof missing) - 1);
            nap = spc_awake_nap_ms(*until);
            doubted = true;
        }
        (void)pthread_mutex_unlock(&t->lock);
        moved = poll(wanted, (nfds_t)world + 1, nap);
        (void)pthread_mutex_lock(&t->lock);
    } while (moved <= 0);
    for (int32_t r = 0; r < world && t->end.status == SPC_OK; r++) {
        if (!t->link[r].takes && wanted[r].revents & ~POLLOUT) heed(t, r);
    }
    return true;
}

spc_status spc_tcp_exchange(spc_tcp *t, const spc_frame *expected, int64_t *until, spc_error *err)
{
    t->busy = true;
    t->now = is_letter(expected) ? 0 : expected->sequence;
    while (t->end.status == SPC_OK) {
        for (int32_t r = 0; r < t->comm.world && t->end.status == SPC_OK; r++) {
            give(t, r);
            if (t->end.status == SPC_OK) take(t, r, expected);
        }
        if (t->end.status != SPC_OK || !any_at_work(t)) break;
        if (!wait_links(t, until)) end_late(t, expected);
    }
    if (t->end.status == SPC_OK) compare(t, expected);
    for (int32_t r = 0; r < t->comm.world; r++) t->link[r].gives = t->link[r].takes = false;
    t->busy = false;
    if (t->end.status == SPC_OK && t->now > 0) t->complete = t->now;
    return spc_tcp_ended(t, err);
}

void spc_tcp_lay_out(spc_tcp *t, int32_t rank, const spc_frame *out_frame, const void *out,
                     size_t out_bytes, bool takes, void *in, size_t in_bytes)
{
    spc_link *l = &t->link[rank];

    if (out_frame) {
        l->out = *out_frame;
        l->out.bytes = out_bytes;
        l->give = out_bytes > 0 ? out : ""; /* NULL has no byte 0 to begin at */
    }
    l->take = in;
    l->wanted = in_bytes;
    l->given = l->taken = 0;
    l->gives = out_frame != NULL && t->end.status == SPC_OK;
    l->takes = takes && t->end.status == SPC_OK;
    l->differs = false;
    l->heed = 2;
}
