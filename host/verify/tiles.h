/* SPDX-License-Identifier: Apache-2.0 */
/* tiles.h - what is done to one tile of a row, or of a pair of rows, on the CPU.
 *
 * Whoever walks rows (verify.c over whole rows, shard.c over a rank's slice of them) adds up what
 * these leave.  Every tile's numbers depend on the tile alone. */
#ifndef SPC_HOST_TILES_H
#define SPC_HOST_TILES_H

#include "rules/pair.h"
#include "rules/truncate.h"

/* The logits of a tile, edited: where they lie when nothing is to be done, otherwise in buffer
 * [SPC_TILE]. */
const float *spc_tile_logits(const spc_view *row, int32_t vocab, int32_t tile, float *buffer);

/* Statistics of the `count` logits of a tile that begins at token `offset`. */
spc_partial spc_tile_partial(const float *logits, int32_t count, int32_t offset,
                             spc_row_needs needs);

/* The same of a row's tile; of a row that knows some tokens, from their logits alone. */
spc_partial spc_row_partial(const spc_view *row, int32_t vocab, int32_t tile, spc_row_needs needs);

/* spc_tile_sum of the rules, with what vector unit there is. */
float spc_tile_total(const float *value, int32_t count);

/* Weight of every entry after truncation, out [count]; and its part of the moment. */
void spc_tile_kept(const float *logits, int32_t count, spc_softmax s, float *out);
void spc_tile_moment(const float *logits, int32_t count, float max, float divisor,
                     const float *weight, float *out);

/* Which entries are not below the floor, in order, at [SPC_TILE + 1]; returns how many. */
int32_t spc_tile_from(const float *logits, int32_t count, float floor, int32_t *at);

/* Mass of a tile after truncation; and what its entries in question add to the bins of a search
 * [SPC_CUT_BINS], counts or masses. */
uint64_t spc_tile_mass(const float *logits, int32_t count, spc_softmax s);
void spc_tile_bins(const float *logits, int32_t count, const spc_search *search, spc_softmax s,
                   bool by_mass, uint64_t *bins);

/* tile_pairs.c: the summand of every entry of a tile, out [SPC_TILE]; x is w of block verification,
 * s of Newton's step. */
void spc_tile_summands(const spc_row_pair *pair, spc_summand what, float x, int32_t tile,
                       float *out);

/* The tile that wins the first level of the race; -1 when no tile weighs anything. */
int32_t spc_race_tiles(const float *tile_weight, int32_t tiles, spc_key key, spc_stream_id stream);

/* The token that wins the second level, in the tile with these weights [count]. */
int32_t spc_race_entries(const float *weight, int32_t count, int32_t tile, spc_key key,
                         spc_stream_id stream);

#endif
