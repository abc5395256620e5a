/* SPDX-License-Identifier: Apache-2.0 */
/* apart.h - inside the backend of two devices: what backend_apart.c lays out and apart_round.c
 * runs. */
#ifndef SPC_HOST_APART_H
#define SPC_HOST_APART_H

#include "ahead.h"
#include "backend_apart.h"
#include "drivers.h"

enum { APART_DRAFTS = SPC_GAMMA_MAX + 1 };

/* Which device. */
typedef enum { APART_VERIFIER, APART_DRAFTER, APART_SIDES } apart_side;

struct spc_backend {
    const spc_plan *drafter; /* the plan of the drafter's device */
    const spc_backend_ops *ops[APART_SIDES];
    spc_backend *own[APART_SIDES];
    spc_drivers *drivers; /* rank 0 the verifier, the caller's; rank 1 the drafter */
    char device[320];
};

/* A model on its device. */
struct spc_runner {
    spc_backend *backend;
    const spc_backend_ops *ops;
    spc_runner *own;
    spc_limits limits; /* those of the engine */
    int32_t ids;
    /* of the drafter: drafts that were drawn ahead, and what is left of them in the cache */
    spc_ahead ahead;
    int32_t token[APART_DRAFTS];
    int32_t hidden; /* KV entries of their slot that none but their own round may use */
    int32_t bank;   /* where their rows of logits are: 0 the lane's own, 1 behind all outputs */
    spc_row_stats stats[2][APART_DRAFTS]; /* by bank, of the drafts of a round */
    int32_t room[];                       /* [slots] tokens that the pages of a slot take */
};

/* KV length without what was run ahead. */
int32_t spc_apart_length(const spc_runner *runner, int32_t slot);
/* Forget what was drawn and run ahead. */
void spc_apart_settle(spc_runner *runner);
/* The rows that verification of these lanes may read, [outputs, ids] in the host's memory; NULL:
 * it reads none. */
const float *spc_apart_rows(const spc_runner *drafter, const spc_lane *lanes, int32_t count);

/* The verb round. */
spc_status spc_apart_round(spc_runner *drafter, spc_runner *verifier, spc_whole *whole,
                           int32_t count, spc_verdict *out, spc_verdict *late,
                           spc_round_times *times, spc_error *err);

#endif
