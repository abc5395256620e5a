/* SPDX-License-Identifier: Apache-2.0 */
/* comm_frames.h - inside a rank that talks over TCP (comm_tcp.c): frames, links, and the exchange
 * that every call is made of. */
#ifndef SPC_HOST_COMM_FRAMES_H
#define SPC_HOST_COMM_FRAMES_H

#include "link.h"

#include <pthread.h>

#define SPC_FRAME_MAGIC UINT32_C(0x73706331) /* "spc1" */

#define SPC_FRAME_MAP(X)                                              \
    X(ALL_REDUCE, "all_reduce")                                       \
    X(ALL_GATHER, "all_gather")                                       \
    X(BROADCAST, "broadcast")                                         \
    X(BARRIER, "barrier")                                             \
    X(SPLIT, "split")                                                 \
    X(SEND, "send")                                                   \
    X(TAKEN, "recv")  /* a letter has been received */                \
    X(ABORT, "abort") /* the group has ended; the payload says why */ \
    X(LEAVE, "close") /* a rank that needs the others no longer */

#define SPC_FRAME_ENUM(id, name) SPC_FRAME_##id,
typedef enum { SPC_FRAME_MAP(SPC_FRAME_ENUM) SPC_FRAME_COUNT } spc_frame_kind;
#undef SPC_FRAME_ENUM

/* What stands before every payload.  Ranks of one call agree in everything but bytes. */
typedef struct {
    uint32_t magic;
    uint32_t kind;
    uint64_t sequence; /* of exchanges of collectives; ABORT: the last one complete; else 0 */
    uint64_t size;     /* bytes, or a hash of several; SPLIT: milliseconds */
    int64_t root;      /* 0 where there is none */
    uint64_t bytes;    /* of payload */
} spc_frame;

/* The connection to one rank, and what moves over it in the present exchange. */
typedef struct {
    int fd; /* -1: the own place, or it has left */
    spc_frame out, in;
    const char *give;    /* [out.bytes] */
    char *take;          /* [wanted] */
    size_t wanted;       /* bytes of payload */
    size_t given, taken; /* bytes so far, header included */
    bool gives, takes;   /* does it, and has it not finished? */
    bool differs;        /* what came is not what was expected: it is not read, and no more sent */
    int heed;            /* once its frame is here: 2 anything, 1 its death alone, 0 nothing */
} spc_link;

/* A rank's place in a group. */
typedef struct {
    spc_comm comm;        /* first: the two are one pointer */
    pthread_mutex_t lock; /* of all below; not held while waiting */
    int32_t timeout_ms;
    int wake;          /* eventfd: the group has ended */
    bool busy;         /* in an exchange */
    uint64_t sequence; /* exchanges of collectives begun, ... */
    uint64_t complete; /* ... and the last one that was completed */
    uint64_t now;      /* the present one; 0: none */
    spc_error end;     /* status SPC_OK: the group lives */
    spc_error later;   /* the same, once the present exchange is complete, which others have been
                          through */
    float *room;       /* for sums (comm_tcp.c) */
    spc_link link[SPC_RANKS_MAX];
} spc_tcp;

/* When the patience of a call that begins now is over, in one exchange or several (awake.h). */
int64_t spc_tcp_until(const spc_tcp *t);

/* All of these are called with the lock held. */

/* SPC_OK, or why the group has ended. */
spc_status spc_tcp_ended(const spc_tcp *t, spc_error *err);
/* The first reason stays, and goes to everyone. */
void spc_tcp_end(spc_tcp *t, const char *reason);
/* Has another rank ended the group, or left it, as far as is known without waiting?
 *
 * gone_ends   a rank that died ends the group now; otherwise the next call that needs it does */
void spc_tcp_look(spc_tcp *t, bool gone_ends);

/* Lay out for the next exchange a frame to a rank and one from it; either may be left out:
 * out_frame NULL, `takes` false. */
void spc_tcp_lay_out(spc_tcp *t, int32_t rank, const spc_frame *out_frame, const void *out,
                     size_t out_bytes, bool takes, void *in, size_t in_bytes);
/* Move what has been laid out.  Frames that come are compared with `expected`; where ranks differ
 * the group ends.
 *
 * until   put off a little where it passes, for those who know better who is late */
spc_status spc_tcp_exchange(spc_tcp *t, const spc_frame *expected, int64_t *until, spc_error *err);

#endif
