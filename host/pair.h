/* SPDX-License-Identifier: Apache-2.0 */
/* pair.h - do two models speak of the same tokens, and does what they are look meant? */
#ifndef SPC_HOST_PAIR_H
#define SPC_HOST_PAIR_H

#include "engine.h"

/* A model and its tokenizer, NULL where its folder has none.  Nothing is owned. */
typedef struct {
    const spc_model *model;
    const spc_tokenizer *tokenizer;
} spc_pair_side;

/* SPC_EMODEL names the first thing on which they differ: the id with both pieces, the merge that
 * makes it, a size.  Vocabularies may be padded to different sizes: the ids that only one of them
 * has room for are then left out of both models' rows, and must be no words.
 *
 * ids   receives how many ids both models' rows have */
spc_status spc_pair_check(const spc_pair_side *drafter, const spc_pair_side *verifier, int32_t *ids,
                          spc_error *err);

/* Tell of what is no error and probably not meant, a line each that begins with "warning: ": the
 * drafter is larger than the verifier, their chat templates differ. */
void spc_pair_warn(const spc_pair_side *drafter, const spc_pair_side *verifier, spc_log_fn log,
                   void *user);

/* The same of a verifier by itself: its tokenizer makes tokens, or has one that ends a sequence,
 * for which the model has no row.  A prompt that holds one is refused. */
void spc_pair_warn_words(const spc_pair_side *verifier, spc_log_fn log, void *user);

#endif
