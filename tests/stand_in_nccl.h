/* SPDX-License-Identifier: Apache-2.0 */
/* stand_in_nccl.h - what tests tell a library that stands in for NCCL, and what it noted. */
#ifndef SPC_TESTS_STAND_IN_NCCL_H
#define SPC_TESTS_STAND_IN_NCCL_H

#include <stdbool.h>
#include <stddef.h>

enum { STAND_IN_RANKS = 8, STAND_IN_CALLS = 4096 };

/* One call as a rank made it. */
typedef struct {
    const char *name; /* "AllReduce" */
    size_t count;
    int type;      /* ncclDataType_t */
    bool recorded; /* it came from a graph */
} stand_in_call;

typedef struct {
    /* what goes wrong; rank -1: nothing */
    int failing_init; /* rank whose init fails */
    int absent_init;  /* rank whose init is never noticed by the others */
    int dead;         /* rank that dies ... */
    int mute;         /* rank whose calls are never noticed by the others ... */
    int hanging;      /* rank whose device hangs before its calls ... */
    int late;         /* rank that comes late, by late_ms ... */
    int from;         /* ... from its call of this number on (0: the first) */
    bool in_graph;    /* mute, hanging: only from the first call in a graph on */
    int late_ms;
    int patience_ms; /* how long a call in a graph waits for the others before its stream sticks */
    int version;

    stand_in_call call[STAND_IN_RANKS][STAND_IN_CALLS]; /* in order, by rank */
    int calls[STAND_IN_RANKS];
    int open;    /* communicators not freed yet */
    int aborted; /* of those freed */
} stand_in_state;

extern stand_in_state stand_in;

#endif
