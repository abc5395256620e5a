/* SPDX-License-Identifier: Apache-2.0 */
/* apart.h - inside the backend of two devices: what backend_apart.c lays out, apart_side.c waits
 * for and apart_round.c runs. */
#ifndef SPC_HOST_APART_H
#define SPC_HOST_APART_H

#include "backend_apart.h"
#include "host/ahead.h"
#include "host/ranks/drivers.h"
#include "host/ranks/group_desk.h"

enum { APART_DRAFTS = SPC_GAMMA_MAX + 1 };

/* Which device. */
typedef enum { APART_VERIFIER, APART_DRAFTER, APART_SIDES } apart_side;

/* What a side does in its turn, or beside the other. */
typedef spc_status apart_work(spc_backend *b, spc_error *err);

/* A round under way.  What the drafter's side reads and writes is here and not the caller's, who
 * may have given it up and gone. */
typedef struct {
    spc_runner *drafter, *verifier;
    spc_round_request request; /* without tokens: `last` are those that a model may lack */
    spc_row_params params;
    int32_t last[2];             /* committed: the one before the pending token, and this */
    int32_t draft[APART_DRAFTS]; /* [lane.drafts] */
    spc_lane lane;               /* rows in the bank of this round, statistics in the runner */
    bool failed;                 /* a row of the drafter was bad */
    const float *rows;           /* of the drafter */
    int32_t ahead;               /* drafts to draw ahead; then, that were drawn */
    spc_verdict *out;
} apart_round;

struct spc_backend {
    const spc_plan *drafter; /* the plan of the drafter's device */
    /* the drafter's NULL: rank 0 has it, this is another */
    const spc_backend_ops *ops[APART_SIDES];
    spc_backend *own[APART_SIDES];
    bool gpu[APART_SIDES];
    bool cut;             /* the drafter's side are ranks: GPUs in this process */
    bool grouped;         /* the verifier's side is one of several processes */
    spc_drivers *drivers; /* rank 0 the verifier, the caller's; rank 1 the drafter */
    char device[320];

    /* beside ranks */
    int32_t timeout_ms; /* of every wait for the drafter; 0: there are none, and it is waited for as
                           long as it takes */
    bool lost;          /* it was given up, and may still run */
    spc_error failure;  /* why it was, or of what it failed: no verb works any more */

    /* at work: what the drafter's side needs stays where it is */
    apart_work *work[APART_SIDES]; /* NULL: nothing */
    spc_status status[APART_SIDES];
    spc_error error[APART_SIDES];
    spc_verb verb;       /* the drafter's; beside ranks its arguments are on the runner's desk */
    spc_rows rows;       /* of verb */
    spc_edit_list edits; /* of verb */
    apart_round round;
};

/* A model on its device. */
struct spc_runner {
    spc_backend *backend;
    apart_side side;
    const spc_backend_ops *ops;
    spc_runner *own;   /* NULL: on rank 0 */
    spc_limits limits; /* those of the engine */
    int32_t ids;
    const spc_bundle *weights; /* which it may read for as long as it runs */
    /* of the drafter: drafts that were drawn ahead, and what is left of them in the cache */
    spc_ahead ahead;
    int32_t token[APART_DRAFTS];
    int32_t hidden; /* KV entries of their slot that none but their own round may use */
    int32_t bank;   /* where their rows of logits are: 0 the lane's own, 1 behind all outputs */
    spc_row_stats stats[2][APART_DRAFTS]; /* by bank, of the drafts of a round */
    spc_desk *desk;                       /* beside ranks */
    const float *first;                   /* row 0 of its logits, once those wanted are there */
    int32_t wanted_count;
    int32_t *wanted; /* [outputs of both banks] rows of logits */
    int32_t room[];  /* [slots] tokens that the pages of a slot take */
};

/* KV length without what was run ahead. */
int32_t spc_apart_length(const spc_runner *runner, int32_t slot);
/* Forget what was drawn and run ahead. */
void spc_apart_settle(spc_runner *runner);

/* ---- the sides (apart_side.c) ---- */

/* Have the sides work, both at once; either may be NULL.  Returns what went wrong, the verifier's
 * before the drafter's.  Beside ranks what goes wrong with the drafter, and that it does not come
 * back within timeout_ms, ends the other processes, and no verb works any more. */
spc_status spc_apart_work(spc_backend *b, apart_work *verifier, apart_work *drafter,
                          spc_error *err);
/* SPC_OK, or of what the drafter beside ranks failed: asked before every verb. */
spc_status spc_apart_lives(const spc_backend *b, spc_error *err);
/* A verb of the drafter: FORWARD, ENCODE, MAP, EDIT, DRAW, GATHER. */
spc_status spc_apart_verb(const spc_verb *verb, spc_error *err);
/* The rows of the drafter that verification of these lanes may read.
 *
 * rows   receives [outputs, ids] in the host's memory; NULL: it reads none */
spc_status spc_apart_rows(spc_runner *drafter, const spc_lane *lanes, int32_t count,
                          const float **rows, spc_error *err);

/* The verb round. */
spc_status spc_apart_round(spc_runner *drafter, spc_runner *verifier, spc_round_request *request,
                           int32_t count, spc_verdict *out, spc_verdict *late,
                           spc_round_times *times, spc_error *err);

#endif
