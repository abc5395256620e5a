/* SPDX-License-Identifier: Apache-2.0 */
/* narrow.h - a drafter that drafts some tokens only: its output layer, a quarter to a half of what
 * a small model with a large vocabulary reads for a token, is cut to them.
 *
 * Rules see a drafter with q = 0 for all other tokens, whose logit is SPC_LOGIT_NEVER: those the
 * verifier has to draw, and under strict it does, as it would have.  (Zhao et al., FR-Spec, arXiv
 * 2502.14856, for strict.) */
#ifndef SPC_HOST_NARROW_H
#define SPC_HOST_NARROW_H

#include "engine.h"

/* SPC_EUSAGE: what spc_engine_options.drafter_vocab cannot be, whatever the models. */
spc_status spc_narrow_check(const char *drafter_vocab, spc_error *err);

/* Cut the output layer of a model before anything counts or loads its weights.  The rows that stay
 * are copied where they do not lie together, and shown as a tensor of the bundle's.
 *
 * drafter_vocab   as checked; NULL: nothing is done
 * ids             of the pair: tokens are below
 * log             may be NULL; a line says what is left
 *
 * SPC_EUSAGE or SPC_EINPUT: no such tokens; SPC_EIO: no such file; SPC_EUNSUPPORTED: a layer with
 * scales beside it; SPC_ENOMEM */
spc_status spc_narrow_head(spc_model *model, const char *drafter_vocab, int32_t ids, spc_log_fn log,
                           void *user, spc_error *err);

#endif
