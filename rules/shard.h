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
 * by itself and its part of the log dropped. */
#ifndef SPC_RULES_SHARD_H
#define SPC_RULES_SHARD_H

#include "batch.h"
#include "truncate.h"

enum { SPC_SHARDS_MAX = 64 };

/* One rank's part in a batch whose rows are cut.  In the batch, the verifier's (and the drawn)
 * logits.data points to the first token of the slice, stride counts the elements between slices,
 * width is that of the whole row; masks, edits, drafts and statistics are those of whole rows.
 * workspace is not used. */
typedef struct {
    int32_t rank;  /* 0 .. world - 1 */
    int32_t world; /* 1 .. SPC_SHARDS_MAX */
    int32_t cut;   /* vocabulary by which the slices are cut, padding included: >= the batch's; 0:
                      that one */
    int32_t drafter_whole; /* 1: every rank has the drafter's whole rows; 0: they are cut alike */
    void *state;           /* [sequences, state_bytes] of this rank; step 0 begins it anew */
    size_t state_bytes;    /* per sequence; spc_shard_sizes */
    void *answers;         /* [world, sequences, answer_bytes]: partial writes this rank's part, the
                              caller gathers, combine reads all of them */
    size_t answer_bytes;   /* per sequence and rank; spc_shard_sizes; the same on every rank */
    int32_t *left;         /* [1] combine writes how many sequences have a question open: the same
                              number on every rank */
} spc_shards;

/* The first token of a rank's slice; of rank `world`: the vocabulary.  Slices begin where tiles
 * do. */
SPC_FN int32_t spc_shard_first(int32_t vocab, int32_t rank, int32_t world)
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
    int32_t first = spc_shard_first(c->cut, rank, c->world);

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

/* Words of a slot that hold the winner of a race: time of its tile, token, its logits. */
enum { SPC_WINNER_WORDS = 4, SPC_ROW_WORDS = 3 };

/* Words per tile in the statistics of a row: maximum (NaN: bad), sum, and what the rule needs. */
SPC_FN int32_t spc_tile_words(spc_row_needs needs)
{
    return 2 + (needs.unscaled ? 1 : 0) + (needs.unscaled && needs.entropy ? 1 : 0);
}

SPC_FN int32_t spc_bits_count(uint32_t bits)
{
    int32_t n = 0;

    for (; bits; bits &= bits - 1) n++;
    return n;
}

/* 32-bit words of an answer; `tiles` the most that a rank has. */
SPC_FN int32_t spc_answer_words(const spc_ask *ask, spc_row_needs needs, int32_t tiles)
{
    int32_t rows = spc_bits_count(ask->verifier_rows) + spc_bits_count(ask->drafter_rows);

    switch (ask->kind) {
    case SPC_ASK_ROWS: return rows * (SPC_ROW_WORDS + tiles * spc_tile_words(needs));
    case SPC_ASK_MASS: return 2;
    case SPC_ASK_BINS: return 2 * SPC_CUT_BINS;
    case SPC_ASK_KEPT: return 2 * tiles;
    case SPC_ASK_LOGITS: return 2;
    case SPC_ASK_FOLD:
        return SPC_WINNER_WORDS + tiles * (ask->what == SPC_SUM_ABOVE_DRAFTER ? 2 : 1);
    default: return SPC_WINNER_WORDS + tiles;
    }
}

/* ---- state ------------------------------------------------------------------------------------
 */

enum { SPC_SHARD_ROWS = SPC_GAMMA_MAX + 2 };

typedef enum { SPC_ROW_UNKNOWN, SPC_ROW_MERGED, SPC_ROW_FINAL } spc_row_known;

/* Of one sequence; behind it lies the log, up to state_bytes. */
typedef struct {
    int32_t done;
    int32_t words; /* in the log */
    spc_ask ask;
    int32_t known[2][SPC_SHARD_ROWS]; /* spc_row_known; [1]: the drafter's */
    spc_row_stats stats[2][SPC_SHARD_ROWS];
    uint32_t has_logits; /* bit i: those of the draft of row i are here */
    spc_pair draft_logits[SPC_SHARD_ROWS];
    uint32_t has_target[ROUND_PARTS]; /* bit i: of row i */
    spc_target target[ROUND_PARTS][SPC_SHARD_ROWS];
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

/* The answer of a rank about sequence s. */
SPC_FN uint32_t *spc_answer_at(const spc_shards *shards, int32_t sequences, int32_t rank, int32_t s)
{
    size_t slot = (size_t)rank * (size_t)sequences + (size_t)s;

    return (uint32_t *)((char *)shards->answers + slot * shards->answer_bytes);
}

#endif
