/* SPDX-License-Identifier: Apache-2.0 */
/* round.h - launchers of what stands between the forwards of a round that runs as a whole on the
 * device: each drawn token becomes a row of the next forward, and after verification it is decided
 * whether the drafter has one more row to run.
 *
 * Launchers check shapes (cudaErrorInvalidValue), launch and return, as those of ops.h do.  All
 * pointers are device memory.  None of these kernels has run on a GPU yet: tests/fibers. */
#ifndef SPC_CUDA_ROUND_H
#define SPC_CUDA_ROUND_H

#include <spc/verify.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Take down draft `step` of every sequence that drew one.
 *
 * A token that is a stop, or no token (-1, the row was bad), is the last of its sequence's draft:
 * `drafts` says so from then on, and nothing is drawn behind it.  Later rows of that sequence run
 * all the same, with token 0; nobody reads what they leave. */
typedef struct {
    const int32_t *token;       /* [drawn] as drawn; -1: none */
    const spc_row_stats *stats; /* [drawn] of the drafter's rows */
    const int32_t *stop;        /* [lanes, stop_stride] ids that end a draft */
    const int32_t *stops;       /* [lanes] how many */
    int32_t *drafts;          /* [lanes] draft lengths, cut here.  NULL: nothing is taken down, the
                                 tokens are handed on by `next` alone */
    int32_t *bonus;           /* [lanes] 1: draw behind a kept draft; cleared where it ends early */
    int32_t *late;            /* [lanes] the same for the late row */
    int32_t *failed;          /* [lanes] set to 1 where there was no token */
    int32_t *draft;           /* [lanes, draft_stride] */
    spc_row_stats *all_stats; /* [lanes, draft_stride] */
    int32_t *row_token;       /* tokens that rows of later forwards read ... */
    const int32_t *next;      /* [drawn] ... which of them the drafter's next row is; -1: none */
    const int32_t *score;     /* [drawn] ... and which the verifier's */
    uint64_t *clock;          /* [1] receives when this ran, in ns; NULL: not wanted */
    int32_t drawn;            /* sequences that drew, the first of all; 1 .. */
    int32_t step, stop_stride, draft_stride;
} spc_round_note_args;

cudaError_t spc_cuda_round_note(const spc_round_note_args *args, cudaStream_t stream);

/* When the stream came to it, in ns: clock [1]. */
cudaError_t spc_cuda_round_stamp(uint64_t *clock, cudaStream_t stream);

/* Replace verdicts: every draft is kept with this chance (rules/synthetic.h). */
typedef struct {
    spc_verdict *verdict;         /* [lanes] */
    const spc_row_params *params; /* [lanes] */
    const int64_t *position;      /* [lanes] of the first draft */
    const int32_t *drafts;        /* [lanes] */
    const int32_t *bonus;         /* [lanes] */
    const int32_t *draft;         /* [lanes, draft_stride] */
    int32_t lanes, draft_stride;
    float rate;
} spc_round_synthetic_args;

cudaError_t spc_cuda_round_synthetic(const spc_round_synthetic_args *args, cudaStream_t stream);

/* A condition of the graph under record.  Any number may be the handle of one, 0 too. */
typedef struct {
    uint64_t handle; /* a cudaGraphConditionalHandle */
    int32_t exists;  /* 0: there is none to be set */
} spc_round_condition;

/* Which sequences kept every draft and want a token that needs the drafter's late row. */
typedef struct {
    const spc_verdict *verdict; /* [lanes] */
    const int32_t *drafts;      /* [lanes] */
    int32_t *late;   /* [lanes] in: wanted at all; out: the row is needed and has what it needs */
    uint64_t *clock; /* [1] receives when this ran, in ns */
    int32_t lanes;
    spc_round_condition condition; /* set to whether any sequence does */
} spc_round_late_args;

cudaError_t spc_cuda_round_late(const spc_round_late_args *args, cudaStream_t stream);

/* Load what this file launches: some of it is launched for the first time while it is recorded. */
cudaError_t spc_cuda_round_load(void);

/* ---- from one round to the next, which the host has not seen yet ---- */

/* What a round made of a sequence: what its next one begins with. */
typedef struct {
    int32_t count;           /* tokens it emitted; 1 where it ended without any */
    int32_t pending, before; /* the last two of the sequence */
    int32_t live;            /* 0: the sequence ended by a stop or a bad row: no round follows */
} spc_round_outcome;

typedef struct {
    const spc_verdict *verdict, *again; /* [lanes] of the round, and of late rows */
    const int32_t *late;                /* [lanes] whether that ran */
    const int32_t *failed, *drafts;     /* [lanes] as spc_cuda_round_note left them */
    const int32_t *pending;             /* [lanes] token that the round began with */
    const int32_t *stop, *stops;        /* as in spc_round_note_args */
    spc_round_outcome *outcome;         /* [lanes] */
    int32_t lanes, stop_stride;
} spc_round_end_args;

cudaError_t spc_cuda_round_end(const spc_round_end_args *args, cudaStream_t stream);

/* What to do with a number of a round that was written down as if the one before it had emitted all
 * it can. */
typedef enum {
    SPC_PATCH_SHIFT,   /* a position: lower by what was not emitted */
    SPC_PATCH_PENDING, /* becomes the last token */
    SPC_PATCH_BEFORE,  /* becomes the one before it */
} spc_patch_kind;

typedef struct {
    int32_t at; /* counted from `base` */
    int32_t lane;
    int32_t kind; /* spc_patch_kind */
} spc_round_patch;

/* Make such a round the one that follows. */
typedef struct {
    const spc_round_outcome *outcome; /* of the round before, whatever its order was: */
    const int32_t *from;              /* [lanes] which of them is this lane's */
    const int32_t *guess;             /* [lanes] tokens it was taken to emit */
    const spc_round_patch *patch;     /* [*patches] */
    const int32_t *patches;           /* [1] 0 .. most_patches */
    int32_t *base;
    int64_t *position, *late_position; /* [lanes] positions, too */
    int64_t *draw_position;            /* [steps, lanes] */
    uint32_t *salt;                    /* [lanes] where it is not 0, position + 1 */
    int32_t *pending;                  /* [lanes] becomes the last token */
    uint64_t *clock;                   /* [1] receives when this ran, in ns */
    uint64_t *decided;                 /* [1] receives 0, for spc_cuda_round_late to change */
    spc_round_condition condition;     /* set to whether any sequence is live */
    int32_t lanes, steps, most_patches;
} spc_round_go_on_args;

cudaError_t spc_cuda_round_go_on(const spc_round_go_on_args *args, cudaStream_t stream);

/* Is any sequence live?  For what goes on elsewhere than spc_cuda_round_go_on. */
typedef struct {
    const spc_round_outcome *outcome;
    const int32_t *from; /* [lanes] as above */
    int32_t lanes;
    spc_round_condition condition;
} spc_round_ask_args;

cudaError_t spc_cuda_round_ask(const spc_round_ask_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
