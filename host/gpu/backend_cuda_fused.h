/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_fused.h - a fused round between the files it takes: backend_cuda_fused.c writes down
 * what it will be and reads what became of it, backend_cuda_fused_run.c runs it,
 * backend_cuda_record.c makes graphs of it, backend_cuda_chain.c has the next one run before the
 * host has seen it. */
#ifndef SPC_HOST_BACKEND_CUDA_FUSED_H
#define SPC_HOST_BACKEND_CUDA_FUSED_H

#include "backend_cuda.h"

/* A round under way. */
typedef struct {
    spc_runner *drafter, *verifier; /* drafter NULL: there is none */
    cuda_fused_shape shape;
    cuda_fused_data host, device;
    cuda_half *half;               /* the verifier's */
    spc_round_condition condition; /* of the late rows, while a graph is recorded */
    int32_t area;                  /* of the host's memory */
    bool inside;                   /* late rows, where there may be any, run in the graph */
} fused_round;

/* A round that was sent behind one that the host had not seen yet: its sequences as they were taken
 * to be, and what they have come to since. */
struct cuda_chain {
    bool in_flight; /* there is one */
    bool off;       /* the device would not record it */
    fused_round round;
    spc_round_request *guess; /* [lanes] as if all of the round before it had been kept */
    spc_row_params *params;   /* [lanes] */
    int32_t *length;          /* [lanes] tokens of the sequence */
    int32_t *pending;         /* [lanes] the last of them */
    uint64_t *serial[2];      /* [lanes] the slot's in the drafter, in the verifier */
    int32_t *lane;            /* [slots] that a slot's sequence has; -1: none */
};

/* The sequence of lane k. */
static inline const spc_round_request *spc_request_at(const spc_round_request *request,
                                                      const int32_t *order, int32_t k)
{
    return order ? &request[order[k]] : &request[k];
}

/* Tokens that a round emits at most, and rows that the verifier scores. */
static inline int32_t spc_request_most(const spc_round_request *w)
{
    return w->lane.drafts + (w->unscored ? 0 : 1);
}

/* Order lanes by falling draft length, equal ones as they are: order [count]. */
void spc_cuda_sort_lanes(int32_t *order, const spc_round_request *request, int32_t count);

/* Write down a round of a drafter and a verifier: its shape, what the device is told.  Of a chained
 * one the device itself puts tokens and positions right.
 *
 * order   [count] see spc_request_at; NULL: lanes are in order */
spc_status spc_cuda_write_fused(fused_round *round, const spc_round_request *request,
                                const int32_t *order, int32_t count, spc_error *err);
/* Numbers that the device puts right, at most. */
int32_t spc_cuda_most_patches(const cuda_fused_shape *shape);

/* Send it and run it: as one graph, or launch by launch where the shape is new or nothing can be
 * recorded.  What it leaves is on its way to the host then.
 *
 * before   the round that a chained one begins with; NULL: it is none
 * ran      receives false for a chained round without a graph yet, of which nothing is sent */
spc_status spc_cuda_start_fused(fused_round *round, const fused_round *before, bool *ran,
                                spc_error *err);
/* Its parts, on the backend's stream: up to the last draft; behind that, up to the verdicts and to
 * which late rows are needed; both; and the late rows of all lanes that might need one. */
spc_status spc_cuda_run_drafts(fused_round *round, spc_error *err);
spc_status spc_cuda_run_verdicts(fused_round *round, spc_error *err);
spc_status spc_cuda_run_round(fused_round *round, spc_error *err);
spc_status spc_cuda_run_late(fused_round *round, spc_error *err);
/* The graph to run; NULL: there is none.  Where none can be recorded, there will be none. */
const cuda_fused_graph *spc_cuda_fused_ready(fused_round *round);

/* Wait for it, and for late rows, which are run here where they are not inside. */
spc_status spc_cuda_finish_fused(fused_round *round, spc_error *err);
/* Choose the area of the host's memory for it. */
spc_status spc_cuda_next_area(fused_round *round, spc_error *err);

/* Is the round in flight the next one of these sequences?  It may have others, too.
 *
 * lane   [count] receives which of its lanes they are */
bool spc_cuda_chain_serves(const cuda_chain *chain, const spc_runner *drafter,
                           const spc_runner *verifier, const spc_round_request *request,
                           int32_t count, int32_t *lane);
/* Send the next round of these sequences behind this one, if they want that and it can be:
 * chain->in_flight.
 *
 * lane    [count] theirs in this round
 * order   [count] scratch */
spc_status spc_cuda_chain_next(const fused_round *round, const spc_round_request *request,
                               int32_t count, const int32_t *lane, int32_t *order, spc_error *err);
/* This one has been seen: what its sequences have come to. */
void spc_cuda_chain_note(spc_runner *verifier, const spc_round_request *request,
                         const spc_verdict *out, const spc_verdict *late, int32_t count);
#endif
