/* SPDX-License-Identifier: Apache-2.0 */
/* shard.h - drawing and verification when every rank holds a slice of the vocabulary: what ranks
 * ask each other, and what they answer.
 *
 * Rank r of `world` holds the logits of tokens spc_shard_first(r) .. spc_shard_first(r + 1) - 1 of
 * every row (those of the padding are never looked at).  No logits travel.  A round is a few steps;
 * in each, every rank
 *
 *   answers   (partial) the question that each of its sequences has open, from its slice;
 *   gathers   all ranks' answers: a collective of the caller's;
 *   goes on   (combine) with rules/round_body.h as far as the answers reach.  There the round ends,
 *             or a new question is open.
 *
 * Answers are numbers of single tiles, which everyone adds up in the canonical order (row.h), and
 * random numbers are stateless: all ranks go through the same decisions, for any number of ranks,
 * to the bits of the round over whole rows.  Nothing has to be broadcast.
 *
 * Going on means to run the round again from its start, with the answers so far in a log; that is a
 * few hundred instructions, as rows are not touched.  What a row's target turned out to be is kept
 * by itself and its part of the log dropped.
 *
 * Traffic.  In a step a rank sends what its open sequences are asked, one answer behind the other,
 * each a multiple of 8 bytes.  With T = tiles of the longest slice, ceil(ceil(vocab / 4096) /
 * world), and W = words of a tile: its maximum, its sum (not at temperature 0), the sum at
 * temperature 1 and its moment (where the gate of the rule reads them unscaled), an answer takes
 *
 *   4 (3 + T W)  for each row of the first step: the verifier's of the drafts and of the bonus; the
 *                drafter's of the drafts where no statistics come with them, of the bonus where the
 *                bonus is drawn from a target that the drafter is part of
 *   16           for a token drawn
 *   4 T          for a sum over a pair of rows: eta of a token rule where the draft is outside of
 *                its set, TV of opt and fuzzy for every draft, what block verification has left,
 *                two for the bonus of lossy; 8 T for each of Newton's steps (lossy with beta
 *                solved, mentored) and for what truncation leaves of a row
 *   2048         for each level of a search for a cut (top-k, top-p), of which a row takes 2 to 8;
 *                8 for the mass of what top-k left, 8 for the logits of a token
 *
 * strict, five drafts, statistics given: 24 (3 + 2 T) + 16 bytes a round, in two steps; at 128256
 * tokens 472 over four ranks, 280 over eight, 856 over two.
 *
 * Could a rank add up its tiles and send less?  Counts and masses are merged, being integers.  Sums
 * are not: every tile's is first brought to the row's maximum, which no rank knows yet, and then
 * added to all those on its left, so that what a rank but the first added up by itself would have
 * other bits.  Hence a round of five drafts with statistics, at a temperature, stays under 1 KiB
 * per sequence and rank, though all drafts be kept, for
 *
 *   strict                     T <= 19: up to 155648 tokens over two ranks, 311296 over four
 *   strict by blocks, lossy    T <= 14: 114688 and 229376
 *   token-v3                   T <= 11: 90112 and 180224
 *   chow, diff                 T <= 10: 81920 and 163840
 *   opt, token-v1, token-v2    T <= 8:  65536 and 131072
 *
 * and for larger T it does not, nor where a row is cut by top-k or top-p (256 bins of 8 bytes are a
 * level, and levels follow each other), nor where an equation is solved. */
#ifndef SPC_RULES_SHARD_H
#define SPC_RULES_SHARD_H

#include "batch.h"
#include "truncate.h"

/* spc_shard_first of numbers that are in range.  Slices begin where tiles do. */
SPC_FN int32_t spc_slice_first(int32_t vocab, int32_t rank, int32_t world)
{
    int64_t tiles = ((int64_t)vocab + SPC_TILE - 1) / SPC_TILE;
    int64_t first = tiles * rank / world * SPC_TILE;

    return first < vocab ? (int32_t)first : vocab;
}

/* How a batch of so many tokens is cut. */
typedef struct {
    int32_t vocab, cut, world;
} spc_cuts;

SPC_FN spc_cuts spc_cuts_of(const spc_shards *shards, int32_t vocab)
{
    spc_cuts c;

    c.vocab = vocab;
    c.cut = shards->cut > 0 ? shards->cut : vocab;
    c.world = shards->world;
    return c;
}

/* A rank's first token, and its first tile, that the batch looks at; of rank `world`: the end. */
SPC_FN int32_t spc_cut_first(const spc_cuts *c, int32_t rank)
{
    int32_t first = spc_slice_first(c->cut, rank, c->world);

    return first < c->vocab ? first : c->vocab;
}

SPC_FN int32_t spc_cut_tile(const spc_cuts *c, int32_t rank)
{
    return (spc_cut_first(c, rank) + SPC_TILE - 1) / SPC_TILE;
}

SPC_FN int32_t spc_cut_tiles(const spc_cuts *c, int32_t rank)
{
    return spc_cut_tile(c, rank + 1) - spc_cut_tile(c, rank);
}

/* The most tiles that a rank has. */
SPC_FN int32_t spc_most_tiles(int32_t cut, int32_t world)
{
    return (spc_tile_count(cut) + world - 1) / world;
}

/* Rows whose first element is a slice's, seen as if they were whole: token v is at element v. */
SPC_FN spc_logit_rows spc_shard_rows(spc_logit_rows rows, int32_t first)
{
    size_t bytes = (size_t)first * (rows.logits.type == SPC_LOGITS_F32 ? 4u : 2u);

    if (rows.logits.data) {
        rows.logits.data = (const void *)((uintptr_t)rows.logits.data - (uintptr_t)bytes);
    }
    return rows;
}

/* ---- questions -------------------------------------------------------------------------------
 */

typedef enum {
    SPC_ASK_ROWS,  /* statistics of rows, and the logits of their drafts */
    SPC_ASK_MASS,  /* integer mass of a row */
    SPC_ASK_BINS,  /* one level of the search for a cut */
    SPC_ASK_KEPT,  /* sums over what a cut leaves */
    SPC_ASK_FOLD,  /* a sum over a pair of rows, and a token by its summands */
    SPC_ASK_DRAW,  /* a token from a row */
    SPC_ASK_LOGITS /* a token's logits in both rows */
} spc_ask_kind;

typedef struct {
    int32_t kind;           /* spc_ask_kind */
    uint32_t verifier_rows; /* ROWS: bit i: row i */
    uint32_t drafter_rows;
    int32_t row;     /* others: which row of the round ... */
    int32_t drafter; /* ... MASS to KEPT, DRAW: the drafter's (1) or the verifier's (0) */
    int32_t there, ready_drafter, ready_verifier; /* of the pair */
    spc_row_stats stats_drafter, stats_verifier;
    spc_target target;
    int32_t what; /* FOLD: spc_summand; ABOVE_DRAFTER asks for ABOVE_VERIFIER too */
    float x;
    spc_softmax softmax; /* MASS to KEPT */
    spc_cut cut;         /* BINS */
    int32_t by_mass;     /* BINS: masses, not counts */
    int32_t draws;       /* FOLD: with a token */
    int32_t token;       /* LOGITS */
    int32_t stream;      /* spc_stream_id; draws */
    spc_key key;
} spc_ask;

/* Words of the winner of a race: time of its tile, token, its logits.  Words of a row before those
 * of its tiles: where the slice's maximum is, and the logits of the draft. */
enum { SPC_WINNER_WORDS = 4, SPC_ROW_WORDS = 3 };

/* Words per tile in the statistics of a row: maximum (NaN: bad), and the sums that are needed. */
SPC_FN int32_t spc_tile_words(spc_row_needs needs)
{
    return 1 + (needs.mixing ? 1 : 0) + (needs.unscaled ? 1 : 0) +
           (needs.unscaled && needs.entropy ? 1 : 0);
}

SPC_FN void spc_put_tile(uint32_t *word, spc_partial p, spc_row_needs needs)
{
    *word++ = p.bad ? 0x7fc00000u : spc_float_bits(p.max);
    if (needs.mixing) *word++ = spc_float_bits(p.sum);
    if (needs.unscaled) *word++ = spc_float_bits(p.sum_one);
    if (needs.unscaled && needs.entropy) *word = spc_float_bits(p.moment);
}

SPC_FN spc_partial spc_get_tile(const uint32_t *word, spc_row_needs needs)
{
    spc_partial p = spc_partial_none();
    float max = spc_bits_float(*word++);

    if (!(max == max)) {
        p.bad = 1;
        return p;
    }
    p.max = max;
    if (needs.mixing) p.sum = spc_bits_float(*word++);
    if (needs.unscaled) p.sum_one = spc_bits_float(*word++);
    if (needs.unscaled && needs.entropy) p.moment = spc_bits_float(*word);
    return p;
}

SPC_FN int32_t spc_bits_count(uint32_t bits)
{
    int32_t n = 0;

    for (; bits; bits &= bits - 1) n++;
    return n;
}

/* 32-bit words of a row in an answer; `tiles` the most that a rank has. */
SPC_FN int32_t spc_row_words(spc_row_needs needs, int32_t tiles)
{
    return SPC_ROW_WORDS + tiles * spc_tile_words(needs);
}

/* 32-bit words of an answer, an even number. */
SPC_FN int32_t spc_answer_words(const spc_ask *ask, spc_row_needs needs, int32_t tiles)
{
    int32_t rows = spc_bits_count(ask->verifier_rows) + spc_bits_count(ask->drafter_rows);
    int32_t sums = ask->what == SPC_SUM_ABOVE_DRAFTER ? 2 : 1;

    switch (ask->kind) {
    case SPC_ASK_ROWS: return (rows * spc_row_words(needs, tiles) + 1) / 2 * 2;
    case SPC_ASK_MASS: return 2;
    case SPC_ASK_BINS: return 2 * SPC_CUT_BINS;
    case SPC_ASK_KEPT: return 2 * tiles;
    case SPC_ASK_LOGITS: return 2;
    case SPC_ASK_FOLD: return ask->draws ? SPC_WINNER_WORDS : (sums * tiles + 1) / 2 * 2;
    default: return SPC_WINNER_WORDS;
    }
}

/* ---- state ------------------------------------------------------------------------------------
 */

enum { SPC_SHARD_ROWS = SPC_GAMMA_MAX + 2 };

typedef enum { SPC_ROW_UNKNOWN, SPC_ROW_MERGED, SPC_ROW_FINAL } spc_row_known;

/* Of one sequence; behind it lie the log and, up to state_bytes, the weights of the rank's tiles in
 * a race. */
typedef struct {
    int32_t done;
    int32_t words; /* in the log */
    int64_t at;    /* this step's answer: its first word in what a rank sends */
    spc_ask ask;
    int32_t known[2][SPC_SHARD_ROWS]; /* spc_row_known; [1]: the drafter's */
    spc_row_stats stats[2][SPC_SHARD_ROWS];
    uint32_t has_logits; /* bit i: those of the draft of row i are here */
    spc_pair draft_logits[SPC_SHARD_ROWS];
    uint32_t has_target[SPC_ROUND_PARTS]; /* bit i: of row i */
    spc_target target[SPC_ROUND_PARTS][SPC_SHARD_ROWS];
} spc_shard_state;

/* Words of log that any round of a rule may fill: of most, two sums for each of Newton's steps on
 * one row and a few words for each row; of mentored, those for each step of its search. */
SPC_FN int32_t spc_log_words(const spc_rule *rule)
{
    int32_t newton = 2 * SPC_LOSSY_STEPS + 2;

    return 8 * SPC_SHARD_ROWS +
           (rule->path == SPC_RULE_MENTORED ? (SPC_LENIENCE_STEPS + 1) * newton : newton);
}

SPC_FN spc_shard_state *spc_shard_at(const spc_shards *shards, int32_t s)
{
    return (spc_shard_state *)((char *)shards->state + (size_t)s * shards->state_bytes);
}

/* The pair of rows that a question is about. */
SPC_FN spc_row_pair spc_asked_pair(const spc_round *round, const spc_ask *ask)
{
    spc_row_pair pair = spc_pair_at(round, ask->row, ask->there != 0);
    float temperature = round->params->sampling.temperature;

    pair.target = ask->target;
    pair.drafter.ready = ask->ready_drafter != 0;
    pair.drafter.stats = ask->stats_drafter;
    pair.drafter.softmax = spc_softmax_of(ask->stats_drafter, temperature);
    pair.verifier.ready = ask->ready_verifier != 0;
    pair.verifier.stats = ask->stats_verifier;
    pair.verifier.softmax = spc_softmax_of(ask->stats_verifier, temperature);
    return pair;
}

/* A batch whose rows are slices, as if they were whole. */
SPC_FN spc_verify_batch spc_sliced_verify(const spc_verify_batch *batch, const spc_shards *shards)
{
    spc_cuts cuts = spc_cuts_of(shards, batch->vocab);
    int32_t first = spc_cut_first(&cuts, shards->rank);
    spc_verify_batch b = *batch;

    b.verifier = spc_shard_rows(b.verifier, first);
    if (!shards->drafter_whole) b.drafter = spc_shard_rows(b.drafter, first);
    return b;
}

SPC_FN spc_draw_batch spc_sliced_draw(const spc_draw_batch *batch, const spc_shards *shards)
{
    spc_cuts cuts = spc_cuts_of(shards, batch->vocab);
    spc_draw_batch b = *batch;

    b.logits = spc_shard_rows(b.logits, spc_cut_first(&cuts, shards->rank));
    return b;
}

/* The answer of a rank about the sequence of this state. */
SPC_FN uint32_t *spc_answer_at(const spc_shards *shards, int32_t rank, const spc_shard_state *state)
{
    return (uint32_t *)((char *)shards->answers + (size_t)rank * shards->send_bytes) + state->at;
}

/* The weights of the rank's tiles in a race of sequence s. */
SPC_FN float *spc_race_weights(const spc_shards *shards, int32_t s, int32_t vocab)
{
    const int32_t tiles = spc_most_tiles(spc_cuts_of(shards, vocab).cut, shards->world);

    return (float *)((char *)spc_shard_at(shards, s) + shards->state_bytes) - tiles;
}

#endif
