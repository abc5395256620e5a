/* SPDX-License-Identifier: Apache-2.0 */
/* accept.h - the coin of a draft, and drawing a token from weights. */
#ifndef SPC_RULES_ACCEPT_H
#define SPC_RULES_ACCEPT_H

#include "rng.h"
#include "target.h"

/* Keep the draft?  coin is uniform in [0, 1).  A token that the drafter's row excludes is never
 * kept; one with kept >= q > 0 always is, without looking at the coin. */
SPC_FN bool spc_accepts(spc_real kept, spc_real drafter, spc_real coin)
{
    if (!(drafter > 0)) return false;
    return kept >= drafter || coin * drafter < kept;
}

/* A draw is a race in two levels: every tile with weight W draws an exponential E, and the tile
 * with the least E / W wins; inside it every entry does the same.  That picks entry v with
 * probability w(v) / sum w, needs no normaliser and no prefix sums, resolves tails that a running
 * sum in float loses, and gives the same token for any split of the work.
 *
 * Tile t takes word t mod 4 of block t / 4; entry v takes word v mod 4 of block 2^20 + v / 4. */
enum { SPC_RACE_ENTRIES = 1 << 20 };

/* Time at which a contestant arrives: infinite for weight 0.  Positive floats order as their bits.
 */
SPC_FN float spc_race_time(uint32_t word, float weight)
{
    float safe = weight > 0.0f ? weight : 1.0f;

    return weight > 0.0f ? spc_exponential(word) / safe : SPC_INFINITY;
}

SPC_FN uint32_t spc_race_tile_word(spc_key key, spc_stream_id stream, int32_t tile)
{
    return spc_random(key, stream, (uint32_t)tile / 4).word[tile & 3];
}

#endif
