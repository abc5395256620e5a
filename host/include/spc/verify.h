/* SPDX-License-Identifier: Apache-2.0 */
/* spc/verify.h - the verification library: logits in, tokens out, no engine.
 *
 * Two calls.  spc_draft_sample draws a draft token from a drafter's row and leaves the row's
 * statistics behind.  spc_verify takes the drafts of one sequence with the rows of both models and
 * decides, under the sequence's rule, which drafts are kept and which token follows.  What is
 * emitted follows the rule's target distribution exactly.  Rules, options and random numbers:
 * rules/README.md.
 *
 * Everything here is a pure function of its arguments: no allocation, no global state, no printing;
 * safe from any number of threads.  Randomness is addressed by (seed, position), so a token depends
 * on its own rows alone.  Rows are host memory, float32. */
#ifndef SPC_VERIFY_H
#define SPC_VERIFY_H

#include "rules/round.h"

#include <spc/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* SPC_OK, or what is out of range or does not go together. */
SPC_API spc_status spc_params_check(const spc_row_params *params, spc_error *err);

/* Draw the token at `position` from a drafter's row.
 *
 * logits    [vocab]; -inf masks a token
 * vocab     1 .. SPC_VOCAB_MAX
 * params    of the sequence
 * position  of the token in its sequence, prompt included
 * salt      0; under block verification (position of the round's first draft + 1) mod 2^32
 * stats     receives the row's statistics for spc_verify
 *
 * Returns the token, or -1 when the row holds NaN, +inf or no finite logit (stats->bad is set). */
SPC_API int32_t spc_draft_sample(const float *logits, int32_t vocab, const spc_row_params *params,
                                 int64_t position, uint32_t salt, spc_row_stats *stats);

/* Draw the token at `position` from a verifier's row (plain decoding; stream bonus).  As above. */
SPC_API int32_t spc_plain_sample(const float *logits, int32_t vocab, const spc_row_params *params,
                                 int64_t position, spc_row_stats *stats);

/* One sequence in one round. */
typedef struct {
    const spc_row_params *params;
    const float
        *drafter; /* [drafts, or drafts + 1 with a target bonus] rows, stride drafter_stride;
                     NULL when the rule does not use the drafter and there are no drafts */
    const float *verifier;   /* [drafts, or drafts + 1 with a bonus] rows, stride verifier_stride */
    int64_t drafter_stride;  /* elements from row to row, >= vocab */
    int64_t verifier_stride; /* the same */
    int32_t vocab;           /* 1 .. SPC_VOCAB_MAX */
    int32_t drafts;          /* 0 .. SPC_GAMMA_MAX + 1 */
    const int32_t *draft;    /* [drafts] ids as drawn from the drafter's rows */
    const spc_row_stats *stats; /* [drafts] as left by spc_draft_sample, or NULL: computed here */
    int64_t position;           /* of the first draft's token */
    uint32_t salt;              /* as for spc_draft_sample */
    bool bonus; /* draw a bonus token when all drafts are kept (params->bonus says from
                   what).  false: leave that row to a later call with drafts = 0 */
} spc_verify_args;

/* Decide one sequence.  A needed row that is bad ends the run before it: kept drafts stay, no
 * further token, status says which model's row.  A draft outside the vocabulary or excluded by its
 * own row is rejected with SPC_STATUS_BAD_DRAFT.  params must have passed spc_params_check. */
SPC_API void spc_verify(const spc_verify_args *args, spc_verdict *out);

#ifdef __cplusplus
}
#endif

#endif
