/* SPDX-License-Identifier: Apache-2.0 */
/* comm_boot.c - meeting: a star of connections around rank 0.
 *
 * A file to meet by holds one line: version, rank 0's host and port, and the group's nonce.  Rank 0
 * writes it beside its place and moves it there, so nobody reads half of it, and removes it once
 * all have come.  One that an earlier run left leads nowhere, or to a door that knows another
 * nonce; then the file is read again, until the timeout. */
#include "comm_boot.h"
#include "host/replace.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Between attempts, and of one attempt to connect to what a file says. */
enum { AGAIN_MS = 20, ATTEMPT_MS = 2000, HOST_BYTES = 256 };

struct spc_boot {
    int32_t rank, world, timeout_ms;
    uint64_t nonce;
    int fd[SPC_RANKS_MAX]; /* rank 0: [world], its own -1; others: fd[0] */
};

/* What rank 0 tells when waiting has ended. */
typedef struct {
    int32_t status;
    char message[SPC_ERROR_BYTES];
} outcome;

static bool is_path(const char *meet)
{
    return strchr(meet, '/') != NULL;
}

/* "host:0": the system chooses one, and only rank 0 learns which. */
static bool is_any_port(const char *meet)
{
    const char *colon = strrchr(meet, ':');

    return colon && colon[1] && strspn(colon + 1, "0") == strlen(colon + 1);
}

spc_status spc_place_check(const spc_place *place, spc_error *err)
{
    if (place->world < 1 || place->world > SPC_RANKS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "ranks: expected 1 to %d, found %d", SPC_RANKS_MAX,
                             (int)place->world);
    }
    if (place->rank < 0 || place->rank >= place->world) {
        return spc_error_set(err, SPC_EUSAGE, "rank: expected 0 to %d, found %d",
                             (int)place->world - 1, (int)place->rank);
    }
    if (place->timeout_ms < 1) {
        return spc_error_set(err, SPC_EUSAGE, "timeout: expected 1 ms or more, found %d",
                             (int)place->timeout_ms);
    }
    if (place->world > 1 && (!place->meet || !place->meet[0])) {
        return spc_error_set(err, SPC_EUSAGE,
                             "meet: expected HOST:PORT of rank 0, or a path (with a '/') that all "
                             "ranks can see, found nothing");
    }
    if (place->world > 1 && !is_path(place->meet) && is_any_port(place->meet)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "meet: expected a port of 1 to 65535, which the other ranks know, "
                             "found '%.200s'",
                             place->meet);
    }
    return SPC_OK;
}

/* ---- the file ---------------------------------------------------------------------------------
 */

/* The name by which other machines know this one; on one alone, whatever it is called. */
static void own_host(char host[HOST_BYTES])
{
    if (gethostname(host, HOST_BYTES) != 0 || !host[0]) (void)strcpy(host, "localhost");
    host[HOST_BYTES - 1] = '\0';
}

static const char mark[] = "spc 1 ";

/* Is there something at the path that no run wrote?  It is not ours to replace; an empty file is.
 */
static bool is_taken(const char *path)
{
    char begin[sizeof mark - 1];
    struct stat there;
    FILE *file;
    size_t bytes;

    if (stat(path, &there) != 0) return false;
    if (!S_ISREG(there.st_mode)) return true;
    if (there.st_size == 0) return false;
    file = fopen(path, "re");
    if (!file) return true;
    bytes = fread(begin, 1, sizeof begin, file);
    (void)fclose(file);
    return bytes < sizeof begin || memcmp(begin, mark, sizeof begin) != 0;
}

static spc_status write_meeting(const char *path, uint16_t port, uint64_t nonce, spc_error *err)
{
    char host[HOST_BYTES];
    spc_replace out;
    int why;

    if (is_taken(path)) {
        return spc_error_set(err, SPC_EINPUT,
                             "meet %.200s: expected no file, or one of an earlier run, found "
                             "something else: name another path",
                             path);
    }
    own_host(host);
    why = spc_replace_begin(&out, path);
    if (why == 0) {
        int used = fprintf(out.file, "%s%s %u %016" PRIx64 "\n", mark, host, (unsigned)port, nonce);

        why = spc_replace_end(&out, used > 0);
    }
    if (why == 0) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "meet %.200s: cannot be written: %s", path,
                         strerror(why));
}

/* Is it still the one this group wrote? */
static void remove_meeting(const char *path, uint64_t nonce)
{
    char text[HOST_BYTES + 64], own[20], *behind;
    FILE *file = fopen(path, "re");
    bool mine;

    if (!file) return;
    (void)snprintf(own, sizeof own, "%016" PRIx64, nonce);
    mine = fgets(text, sizeof text, file) && strstr(text, own);
    (void)fclose(file);
    behind = mine ? realpath(path, NULL) : NULL; /* a link to it stays */
    if (behind) (void)unlink(behind);
    free(behind);
}

/* What the file says; false: there is none yet, none that is whole, or something else, such as a
 * FIFO, which to open would be to wait for a writer. */
static bool read_meeting(const char *path, char host[HOST_BYTES], unsigned *port, uint64_t *nonce)
{
    struct stat there;
    FILE *file;
    int fields;

    if (stat(path, &there) != 0 || !S_ISREG(there.st_mode)) return false;
    file = fopen(path, "re");
    if (!file) return false;
    fields = fscanf(file, "spc 1 %255s %u %" SCNx64, host, port, nonce);
    (void)fclose(file);
    return fields == 3 && *port > 0 && *port < 65536 && *nonce != 0;
}

/* ---- rank 0 -----------------------------------------------------------------------------------
 */

static spc_status listen_at(const spc_place *place, uint64_t nonce, int *listener, spc_error *err)
{
    spc_link_address at;
    spc_status status;

    *listener = -1;
    if (!is_path(place->meet)) {
        status = spc_link_resolve(place->meet, true, &at, err);
        return status == SPC_OK ? spc_link_listen(&at, listener, err) : status;
    }
    status = spc_link_listen(NULL, listener, err);
    if (status != SPC_OK) return status;
    if (!spc_link_own(*listener, &at)) return spc_error_set(err, SPC_EDEVICE, "no own address");
    return write_meeting(place->meet, spc_link_port(&at), nonce, err);
}

/* Tell those who came how it ended. */
static void tell_all(spc_boot *b, spc_status status, const spc_error *error)
{
    outcome o = {.status = (int32_t)status};

    if (status != SPC_OK) (void)snprintf(o.message, sizeof o.message, "%s", error->message);
    for (int32_t r = 1; r < b->world; r++) {
        if (b->fd[r] >= 0) (void)spc_link_send(b->fd[r], &o, sizeof o, spc_awake_ms() + 100);
    }
}

/* refusal: what those who come are told, because of which there will be no group; NULL: nothing */
static spc_status receive_all(spc_boot *b, const spc_place *place, const spc_error *refusal,
                              spc_error *err)
{
    spc_error error;
    char missing[192];
    int listener;
    spc_status status;

    b->nonce = spc_link_nonce();
    status = listen_at(place, b->nonce, &listener, err);
    if (status != SPC_OK) goto done;
    switch (spc_door_wait(listener, b->nonce, !is_path(place->meet), true, 1, b->world,
                          spc_awake_ms() + b->timeout_ms, b->fd, &error)) {
    case SPC_DOOR_COMPLETE: break;
    case SPC_DOOR_REFUSED: status = error.status; break;
    case SPC_DOOR_NO_FILES:
        status = spc_error_set(&error, SPC_ENOMEM,
                               "meet %.200s: rank 0 could not let all %d ranks in within %d ms: %s",
                               place->meet, (int)b->world, (int)b->timeout_ms, SPC_LINK_NO_FILES);
        break;
    case SPC_DOOR_LATE:
        spc_link_missing(b->fd, 0, b->world, missing, sizeof missing);
        status = spc_error_set(&error, SPC_EDEVICE,
                               "meet %.200s: expected all %d ranks within %d ms, and these did not "
                               "come: rank %s",
                               place->meet, (int)b->world, (int)b->timeout_ms, missing);
        break;
    }
    if (refusal) {
        status = spc_error_set(&error, refusal->status, "rank 0: %.480s", refusal->message);
    }
    tell_all(b, status, &error);
    if (status != SPC_OK && err) *err = error;
    if (is_path(place->meet)) remove_meeting(place->meet, b->nonce);
done:
    spc_link_close(listener);
    return status;
}

/* ---- the others -------------------------------------------------------------------------------
 */

/* One attempt: who is there now?  -1: nobody, and errno may say why. */
static int call_once(const spc_place *place, uint64_t *nonce, int64_t deadline, bool *seen,
                     spc_link_address *at)
{
    char host[HOST_BYTES], text[HOST_BYTES + 16];
    unsigned port;
    int fd;

    *nonce = 0;
    errno = 0;
    (void)snprintf(text, sizeof text, "%s", place->meet);
    if (is_path(place->meet)) {
        if (!read_meeting(place->meet, host, &port, nonce)) return -1;
        (void)snprintf(text, sizeof text, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
        if (deadline > spc_awake_ms() + ATTEMPT_MS) deadline = spc_awake_ms() + ATTEMPT_MS;
    }
    *seen = true;
    if (spc_link_resolve(text, false, at, NULL) != SPC_OK) return -1;
    fd = spc_door_enter(at, nonce, true, place->rank, place->world, deadline);
    if (fd != -1 || !is_path(place->meet)) return fd;
    /* a machine may not know its own name */
    if (spc_link_resolve("127.0.0.1:0", false, at, NULL) != SPC_OK) return -1;
    spc_link_set_port(at, (uint16_t)port);
    return spc_door_enter(at, nonce, true, place->rank, place->world, deadline);
}

static spc_status not_there(const spc_place *place, bool seen, bool no_files, spc_error *err)
{
    const char *why = "nobody answers there";

    if (is_path(place->meet)) {
        why = seen ? "nobody answers at what this file says; did an earlier run leave it?"
                   : "nothing wrote this file";
    }
    return spc_error_set(err, no_files ? SPC_ENOMEM : SPC_EDEVICE,
                         "meet %.200s: rank %d expected rank 0 within %d ms: %s", place->meet,
                         (int)place->rank, (int)place->timeout_ms,
                         no_files ? SPC_LINK_NO_FILES : why);
}

static spc_status hear_outcome(spc_boot *b, const spc_place *place, int64_t deadline,
                               spc_error *err)
{
    outcome o;

    /* rank 0 began to wait at another time: it is it that knows who is late */
    if (!spc_link_recv(b->fd[0], &o, sizeof o, deadline + b->timeout_ms)) {
        return spc_error_set(err, SPC_EDEVICE, "meet %.200s: rank 0 is gone", place->meet);
    }
    if (o.status == SPC_OK) return SPC_OK;
    o.message[sizeof o.message - 1] = '\0';
    return spc_error_set(err, (spc_status)o.status, "%s", o.message);
}

static spc_status call_on_first(spc_boot *b, const spc_place *place, spc_error *err)
{
    int64_t deadline = spc_awake_ms() + b->timeout_ms;
    spc_link_address at;
    bool seen = false, no_files;

    if (!is_path(place->meet)) { /* a name that cannot be is told at once */
        spc_status status = spc_link_resolve(place->meet, false, &at, err);

        if (status != SPC_OK) return status;
    }
    for (;;) {
        b->fd[0] = call_once(place, &b->nonce, deadline, &seen, &at);
        no_files = b->fd[0] < 0 && spc_link_no_files(errno);
        if (b->fd[0] >= 0) return hear_outcome(b, place, deadline, err);
        if (b->fd[0] == SPC_DOOR_TAKEN) {
            return spc_error_set(err, SPC_EUSAGE,
                                 "meet %.200s: rank 0 refuses rank %d of %d: there is one already, "
                                 "or another number of ranks is expected",
                                 place->meet, (int)place->rank, (int)place->world);
        }
        if (spc_awake_left_ms(deadline) == 0) return not_there(place, seen, no_files, err);
        (void)nanosleep(&(struct timespec){0, AGAIN_MS * 1000000L}, NULL);
    }
}

/* ---- open and close ---------------------------------------------------------------------------
 */

spc_status spc_boot_open(const spc_place *place, spc_boot **out, spc_error *err)
{
    spc_status status = spc_place_check(place, err);
    spc_boot *b;

    *out = NULL;
    if (status != SPC_OK) return status;
    b = calloc(1, sizeof *b);
    if (!b) return spc_error_set(err, SPC_ENOMEM, "no memory to meet %d ranks", (int)place->world);
    b->rank = place->rank;
    b->world = place->world;
    b->timeout_ms = place->timeout_ms;
    for (int32_t r = 0; r < SPC_RANKS_MAX; r++) b->fd[r] = -1;
    if (b->world == 1) {
        b->nonce = spc_link_nonce();
    } else {
        status = b->rank == 0 ? receive_all(b, place, NULL, err) : call_on_first(b, place, err);
    }
    if (status != SPC_OK) {
        spc_boot_close(b);
        return status;
    }
    *out = b;
    return SPC_OK;
}

void spc_boot_refuse(const spc_place *place, const spc_error *why)
{
    spc_boot b = {.rank = 0, .world = place->world, .timeout_ms = place->timeout_ms};

    if (spc_place_check(place, NULL) != SPC_OK || place->world == 1 || place->rank > 0) return;
    for (int32_t r = 0; r < SPC_RANKS_MAX; r++) b.fd[r] = -1;
    (void)receive_all(&b, place, why, NULL);
    for (int32_t r = 0; r < SPC_RANKS_MAX; r++) spc_link_close(b.fd[r]);
}

void spc_boot_close(spc_boot *boot)
{
    if (!boot) return;
    for (int32_t r = 0; r < SPC_RANKS_MAX; r++) spc_link_close(boot->fd[r]);
    free(boot);
}

/* ---- what is told -----------------------------------------------------------------------------
 */

static spc_status left(const spc_boot *b, int32_t rank, spc_error *err)
{
    return spc_error_set(err, SPC_EDEVICE, "at the start: rank %d left, or was silent for %d ms",
                         (int)rank, (int)b->timeout_ms);
}

spc_status spc_boot_broadcast(spc_boot *b, void *data, size_t bytes, spc_error *err)
{
    int64_t deadline = spc_awake_ms() + b->timeout_ms;

    if (b->rank > 0) {
        return spc_link_recv(b->fd[0], data, bytes, deadline) ? SPC_OK : left(b, 0, err);
    }
    for (int32_t r = 1; r < b->world; r++) {
        if (!spc_link_send(b->fd[r], data, bytes, deadline)) return left(b, r, err);
    }
    return SPC_OK;
}

spc_status spc_boot_gather(spc_boot *b, const void *mine, void *all, size_t bytes, spc_error *err)
{
    int64_t deadline = spc_awake_ms() + b->timeout_ms;
    char *place = all;

    if (b->rank > 0 && !spc_link_send(b->fd[0], mine, bytes, deadline)) return left(b, 0, err);
    if (b->rank == 0) memcpy(place, mine, bytes);
    for (int32_t r = 1; r < b->world && b->rank == 0; r++) {
        if (!spc_link_recv(b->fd[r], place + (size_t)r * bytes, bytes, deadline)) {
            return left(b, r, err);
        }
    }
    return spc_boot_broadcast(b, all, (size_t)b->world * bytes, err);
}

uint64_t spc_boot_nonce(const spc_boot *boot)
{
    return boot->nonce;
}

spc_status spc_boot_listen(const spc_boot *b, int *fd, spc_error *err)
{
    spc_link_address at;
    int link = b->fd[b->rank == 0 ? 1 : 0];

    /* By the address at which this machine met rank 0: ranks that met on the loopback stay there.
     * Rank 0 may have been met at several. */
    if (link < 0 || !spc_link_own(link, &at)) return spc_link_listen(NULL, fd, err);
    if (b->rank == 0) spc_link_set_any(&at);
    spc_link_set_port(&at, 0);
    return spc_link_listen(&at, fd, err);
}

spc_status spc_boot_addresses(spc_boot *b, int listener, spc_link_address *address, spc_error *err)
{
    spc_link_address own;
    uint16_t port[SPC_RANKS_MAX], mine;
    spc_status status;

    if (!spc_link_own(listener, &own)) return spc_error_set(err, SPC_EDEVICE, "no own address");
    mine = spc_link_port(&own);
    status = spc_boot_gather(b, &mine, port, sizeof mine, err);
    if (status != SPC_OK) return status;
    memset(address, 0, (size_t)b->world * sizeof *address);
    for (int32_t r = 1; r < b->world && b->rank == 0; r++) {
        if (!spc_link_peer(b->fd[r], &address[r])) return left(b, r, err);
    }
    status = spc_boot_broadcast(b, address, (size_t)b->world * sizeof *address, err);
    if (status != SPC_OK) return status;
    if (b->rank > 0 && !spc_link_peer(b->fd[0], &address[0])) return left(b, 0, err);
    for (int32_t r = 0; r < b->world; r++) spc_link_set_port(&address[r], port[r]);
    return SPC_OK;
}
