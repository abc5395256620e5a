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

/* Which sequences kept every draft and want a token that needs the drafter's late row. */
typedef struct {
    const spc_verdict *verdict; /* [lanes] */
    const int32_t *drafts;      /* [lanes] */
    int32_t *late;   /* [lanes] in: wanted at all; out: the row is needed and has what it needs */
    uint64_t *clock; /* [1] receives when this ran, in ns */
    int32_t lanes;
    uint64_t
        condition; /* a cudaGraphConditionalHandle, set to whether any sequence does; 0: none */
} spc_round_late_args;

cudaError_t spc_cuda_round_late(const spc_round_late_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
