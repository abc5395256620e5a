/* SPDX-License-Identifier: Apache-2.0 */
/* cuts.h - truncation of whole rows on the CPU: where top-k, top-p and min-p cut a row, and what
 * its statistics are then. */
#ifndef SPC_HOST_CUTS_H
#define SPC_HOST_CUTS_H

#include "rules/pair.h"

/* From the statistics of a whole row to those of what its truncation leaves: the cut, the sum, and
 * the moment where the gate reads processed rows.
 *
 * tile         [tiles of the row] every tile's own statistics
 * tile_weight  [tiles of the row] receives the weight of what is left in each, relative to the
 *              row's maximum */
void spc_cut_row(const spc_view *row, int32_t vocab, const spc_row_params *params,
                 const spc_partial *tile, spc_row_stats *stats, float *tile_weight);

/* Least logit of the top-p nucleus of a processed row. */
float spc_row_nucleus(const spc_side *side, int32_t vocab, float top_p);

#endif
