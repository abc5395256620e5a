/* SPDX-License-Identifier: Apache-2.0 */
/* link.h - stream sockets between the processes of a group, every wait with a deadline.
 *
 * Sockets do not block, send no SIGPIPE and are closed on exec.  Deadlines are moments of
 * spc_awake_ms (awake.h).  Nothing here protects against a hostile network: a nonce keeps strays
 * and ranks of other runs out, not an attacker. */
#ifndef SPC_HOST_LINK_H
#define SPC_HOST_LINK_H

#include "awake.h"
#include "comm.h"

#include <stdbool.h>
#include <sys/socket.h>

enum { SPC_LINK_TEXT = 96 };

/* As it stands; also what ranks send each other. */
typedef struct {
    struct sockaddr_storage at;
    socklen_t bytes; /* of it */
} spc_link_address;

/* "host:port", "[::1]:port" or ":port" (every interface; only to listen at).
 *
 * SPC_EUSAGE: no such text; SPC_EDEVICE: an unknown host */
spc_status spc_link_resolve(const char *text, bool passive, spc_link_address *out, spc_error *err);
/* "127.0.0.1:4711" */
const char *spc_link_text(const spc_link_address *address, char text[SPC_LINK_TEXT]);
void spc_link_set_port(spc_link_address *address, uint16_t port);
/* Every interface, of the same family of addresses. */
void spc_link_set_any(spc_link_address *address);
uint16_t spc_link_port(const spc_link_address *address);
/* Own and other end of a connection, or own end of a listening socket; false: it has none. */
bool spc_link_own(int fd, spc_link_address *out);
bool spc_link_peer(int fd, spc_link_address *out);

/* A listening socket; *fd is -1 on failure.
 *
 * at   NULL: a free port of every interface
 *
 * SPC_EDEVICE */
spc_status spc_link_listen(const spc_link_address *at, int *fd, spc_error *err);
/* A connection; -1 with errno: nobody there, or not in time. */
int spc_link_connect(const spc_link_address *to, int64_t deadline_ms);

/* All of it, in time; false: the other end closed, failed or was late. */
bool spc_link_send(int fd, const void *data, size_t bytes, int64_t deadline_ms);
bool spc_link_recv(int fd, void *data, size_t bytes, int64_t deadline_ms);
/* Has the other end closed, with nothing left to read? */
bool spc_link_gone(int fd);
/* -1 is allowed. */
void spc_link_close(int fd);
/* Does this errno say that file descriptors ran out?  And what is said then. */
bool spc_link_no_files(int code);
#define SPC_LINK_NO_FILES "no file descriptor is left: raise the limit (ulimit -n), or close files"

/* What a rank says when it comes through a door. */
typedef struct {
    uint64_t magic; /* of this program and of the version of what it speaks */
    uint64_t nonce; /* of the group; 0: not known yet, where the door allows that */
    int32_t rank, world;
} spc_link_hello;

/* Never 0. */
uint64_t spc_link_nonce(void);

/* What came of the ranks that were let in. */
typedef enum {
    SPC_DOOR_COMPLETE,
    SPC_DOOR_LATE,     /* some are missing: their fd is -1 */
    SPC_DOOR_NO_FILES, /* so it is, and for one that came no file descriptor was left */
    SPC_DOOR_REFUSED   /* `answer` refused one: the text says why */
} spc_door_end;

/* Let ranks in until every fd of first .. world - 1 is there.
 *
 * Strangers (no hello, another nonce) are turned away without a word.  A rank that came before and
 * has closed since may come again.
 *
 * nonce     expected; a hello without one is let in only where `open` is set
 * answer    tell callers at once whether they are let in, and the nonce
 * fd        [world] -1 or a connection; receives the others, also when not all came
 * refusal   why, for SPC_DOOR_REFUSED: two processes of one rank, another number of ranks */
spc_door_end spc_door_wait(int listener, uint64_t nonce, bool open, bool answer, int32_t first,
                           int32_t world, int64_t deadline_ms, int *fd, spc_error *refusal);

enum { SPC_DOOR_TAKEN = -2 };

/* Ask at a door: connect, say hello, and, where it `answers`, wait for that.  -1: nobody there, not
 * the one that was meant, or not in time; SPC_DOOR_TAKEN: refused.
 *
 * nonce   in: of the hello; out, where the door answers: the group's */
int spc_door_enter(const spc_link_address *to, uint64_t *nonce, bool answers, int32_t rank,
                   int32_t world, int64_t deadline_ms);

/* A link from everyone to everyone: to lower ranks by connecting, from higher ones by listening.
 *
 * address   [world] where the ranks listen
 * fd        [world] receives links; -1: the own place
 *
 * SPC_EDEVICE names the ranks that are missing; no link stays open */
spc_status spc_link_mesh(int listener, const spc_link_address *address, uint64_t nonce,
                         int32_t rank, int32_t world, int32_t timeout_ms, int *fd, spc_error *err);

/* "1, 3": the places of fd that are -1, the own one apart. */
void spc_link_missing(const int *fd, int32_t own, int32_t world, char *text, size_t bytes);

#endif
