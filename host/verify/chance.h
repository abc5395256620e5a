/* SPDX-License-Identifier: Apache-2.0 */
/* chance.h - every random decision of a round, behind two questions.
 *
 * The product answers them from Philox (chance = NULL).  A test that answers them itself, once each
 * way, walks through every outcome of a round with its exact probability: that is how the emitted
 * law is enumerated through the code that runs in the product. */
#ifndef SPC_HOST_CHANCE_H
#define SPC_HOST_CHANCE_H

#include "rules/accept.h"
#include "rules/round.h"

#include <spc/verify.h>

typedef struct {
    void *user;
    /* Keep a draft that is kept with probability min(1, kept / drafter)?  Asked only where both
     * outcomes are possible. */
    bool (*keep)(void *user, float kept, float drafter);
    /* Draw one of count entries with probability proportional to weight. */
    int32_t (*pick)(void *user, const float *weight, int32_t count);
} spc_chance;

/* spc_draft_sample and spc_verify under a given chance (NULL: the product's).  A chance of one's
 * own needs a vocabulary of at most SPC_TILE. */
int32_t spc_draft_sample_by(const float *logits, int32_t vocab, const spc_row_params *params,
                            int64_t position, uint32_t salt, spc_row_stats *stats,
                            const spc_chance *chance);
void spc_verify_by(const spc_verify_args *args, const spc_chance *chance, spc_verdict *out);
int32_t spc_plain_sample_by(const float *logits, int32_t vocab, const spc_row_params *params,
                            int64_t position, spc_row_stats *stats, const spc_chance *chance);

/* The same for a row and a round as the batch calls have them (host/verify/batch.c).
 * round->tile_weight is scratch of the call. */
int32_t spc_view_sample(const spc_view *row, int32_t vocab, const spc_row_params *params,
                        spc_key key, spc_stream_id stream, spc_row_stats *stats,
                        const spc_chance *chance);
void spc_round_run(spc_round *round, spc_verdict *out);

#endif
