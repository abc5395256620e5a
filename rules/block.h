/* SPDX-License-Identifier: Apache-2.0 */
/* block.h - block verification: one joint decision over the whole draft.
 *
 * Block verification of arXiv 2403.10444 with the rule's target pi in place of p.  It emits the
 * same law and keeps at least as many drafts in expectation. */
#ifndef SPC_RULES_BLOCK_H
#define SPC_RULES_BLOCK_H

#include "target.h"

/* w_i from w_(i-1): the weight with which the path up to draft i is still worth keeping. */
SPC_FN spc_real spc_block_weight(spc_real weight, spc_real target, spc_real drafter)
{
    spc_real next = weight > 0 && drafter > 0 ? weight * (target / drafter) : 0;

    return next < 1 ? next : 1;
}

/* What a token adds to Z_i, and its weight in the draw at row i: max(0, w_i pi - q). */
SPC_FN spc_real spc_block_residual(spc_real weight, spc_real target, spc_real drafter)
{
    return spc_positive(weight * target - drafter);
}

/* h_i for 1 <= i < gamma: the chance to stop exactly behind draft i, looking from the end. */
SPC_FN spc_real spc_block_chance(spc_real weight, spc_real residual)
{
    spc_real whole = residual + (1 - weight);

    return whole > 0 ? residual / whole : 1;
}

#endif
