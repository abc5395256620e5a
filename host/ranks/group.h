/* SPDX-License-Identifier: Apache-2.0 */
/* group.h - inside the backend of several processes: what backend_group.c lays out and group_run.c
 * runs. */
#ifndef SPC_HOST_GROUP_H
#define SPC_HOST_GROUP_H

#include "backend_group.h"
#include "group_desk.h"
#include "group_notices.h"
#include "pulse.h"
#include "ranks_round.h"

#include <pthread.h>

enum { SPC_GROUP_MODELS = 2 };

typedef struct spc_group_rows spc_group_rows;

struct spc_backend {
    spc_comm *comm;
    int32_t timeout_ms;
    const spc_backend_ops *ops;
    spc_backend *own;
    bool cuts; /* the CPU: plans are cut here, and ranks talk over comm; a GPU's rank does both */
    spc_pulse *pulse; /* NULL: the CPU, whose ranks miss each other in every call */
    spc_runner *runner[SPC_GROUP_MODELS];
    int32_t runners;
    uint64_t commands; /* so far */
    uint64_t digest;   /* of what this rank came to */
    char first[SPC_COMMAND_FIRST];
    char device[160];

    /* rank 0: a thread of its own says that it lives while no verb does */
    pthread_mutex_t lock; /* of all that verbs use */
    pthread_cond_t wake;
    pthread_t keeper;
    bool leads, quit;
    uint64_t told; /* commands when it last looked */
    spc_notices notices;
};

struct spc_runner {
    spc_backend *backend;
    const spc_plan *plan; /* of the whole model */
    spc_plan *part;       /* NULL: it runs as a whole on every rank, or the GPU's rank cuts it */
    spc_runner *own;
    spc_ranks_room *room;   /* NULL without a part */
    spc_group_rows *shared; /* NULL without limits.drafter_rows */
    spc_desk *desk;
    spc_command_rewind *rewind; /* rank 0: [slots] not told yet */
    int32_t index, rewinds;
};

/* Rows of a drafter that runs beside rank 0, on their way to the others; nothing is allocated
 * later. */
size_t spc_group_rows_bytes(const spc_comm *comm, const spc_plan *plan, const spc_limits *limits);
/* NULL: no memory.  plan: the verifier's. */
spc_group_rows *spc_group_rows_open(const spc_comm *comm, const spc_plan *plan,
                                    const spc_limits *limits);
void spc_group_rows_close(spc_group_rows *rows); /* NULL is allowed */
/* Give every rank its slice of those that verification of these lanes may read; collective.
 *
 * rows   [outputs, ids]: rank 0's; the others receive theirs, borrowed until the next call */
spc_status spc_group_rows_share(const spc_group_rows *g, spc_comm *comm, const float **rows,
                                const spc_lane *lanes, int32_t count, spc_error *err);

/* Rank 0: have every rank run it; any thread but one at a time per runner. */
spc_status spc_group_run(const spc_verb *verb, spc_error *err);
/* What fails on one rank ends all, with this as the reason unless there is one already; returns
 * status, and hands the error on. */
spc_status spc_group_end(spc_backend *b, spc_status status, const spc_error *error, spc_error *err);
/* Rank 0, if it leads: let the others go. */
void spc_group_stop(spc_backend *b);

#endif
