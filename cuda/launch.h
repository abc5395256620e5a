/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - every launcher of this room and its arguments, callable from C.
 *
 * Launchers check shapes (cudaErrorInvalidValue), launch and return; they allocate nothing, wait
 * for nothing and read no device memory, so they can be captured in a graph.  All pointers are
 * device memory unless said otherwise. */
#ifndef SPC_CUDA_LAUNCH_H
#define SPC_CUDA_LAUNCH_H

#include "rules/round.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Draw one token per sequence from a row of logits: spc_draft_sample, or spc_plain_sample, on the
 * device. */
typedef struct {
    const spc_row_params *params; /* [sequences], checked by spc_params_check before upload */
    spc_logits logits;            /* [rows, stride] */
    int64_t stride;               /* elements from row to row, >= vocab */
    const int64_t *row;           /* [sequences] which row; NULL: row s of sequence s */
    const int64_t *position;      /* [sequences] of the token */
    const uint32_t *salt;         /* [sequences], or NULL: 0 */
    int32_t plain;                /* 1: spc_plain_sample, the stream of the bonus */
    int32_t vocab;                /* 1 .. SPC_VOCAB_MAX */
    int32_t sequences;
    int32_t *token;       /* [sequences], receives the token, -1 for a bad row */
    spc_row_stats *stats; /* [sequences], receives the row's statistics */
} spc_draw_args;

cudaError_t spc_cuda_draw(const spc_draw_args *args, cudaStream_t stream);

/* Decide one round of every sequence: spc_verify on the device. */
typedef struct {
    const spc_row_params *params; /* [sequences], checked before upload */
    spc_logits drafter;           /* [rows, drafter_stride], or data NULL where no rule reads it */
    spc_logits verifier;          /* [rows, verifier_stride] */
    int64_t drafter_stride, verifier_stride;
    const int64_t *drafter_row;  /* [sequences] row of the first draft */
    const int64_t *verifier_row; /* [sequences] the same */
    const int32_t *drafts;       /* [sequences], 0 .. SPC_GAMMA_MAX + 1 */
    const int32_t *draft;        /* [sequences, draft_stride] ids */
    const spc_row_stats *stats;  /* [sequences, draft_stride] of the drafter's rows, or NULL */
    const int64_t *position;     /* [sequences] of the first draft's token */
    const uint32_t *salt;        /* [sequences], or NULL: 0 */
    const int32_t *bonus;        /* [sequences] 1: draw a bonus token; NULL: everywhere */
    int32_t draft_stride;
    int32_t vocab;
    int32_t sequences;
    spc_verdict *verdict; /* [sequences], receives what became of the round */
} spc_round_args;

cudaError_t spc_cuda_verify(const spc_round_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
