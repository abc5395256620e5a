/* SPDX-License-Identifier: Apache-2.0 */
/* shard.c - drawing and verification over slices of the vocabulary, in host memory: what a rank
 * answers, and how a step ends (rules/shard.h). */
#include "tiles.h"

#include <spc/verify.h>

#include <math.h>
#include <string.h>

#define ROUND_FN static
#include "rules/shard_body.h"

/* ---- a rank's answers -------------------------------------------------------------------------
 */

/* What one rank answers about one sequence. */
typedef struct {
    const spc_round *round;
    const spc_ask *ask;
    spc_row_needs needs;
    int32_t first, tiles; /* the rank's */
    int32_t most;         /* tiles of any rank */
    uint32_t *word;       /* of what is sent */
    float *weight;        /* [most] scratch */
} answer;

static void put_float(uint32_t *word, float value)
{
    *word = spc_float_bits(value);
}

static void put_wide(uint32_t *word, uint64_t value)
{
    word[0] = (uint32_t)value;
    word[1] = (uint32_t)(value >> 32);
}

/* The logits of the a-th tile of the slice. */
static const float *tile_at(const answer *a, const spc_view *row, int32_t t, float *buffer)
{
    return spc_tile_logits(row, a->round->vocab, a->first + t, buffer);
}

static int32_t width_at(const answer *a, int32_t t)
{
    return spc_tile_width(a->round->vocab, a->first + t);
}

static bool holds(const answer *a, int32_t token)
{
    return token >= 0 && token < a->round->vocab && token / SPC_TILE >= a->first &&
           token / SPC_TILE < a->first + a->tiles;
}

static void answer_row(const answer *a, const spc_row_pair *pair, const spc_view *row,
                       uint32_t *word)
{
    const int32_t each = spc_tile_words(a->needs);
    int32_t draft = -1;
    float max = -SPC_INFINITY, buffer[SPC_TILE];

    memset(word, 0, sizeof *word * SPC_ROW_WORDS);
    for (int32_t t = 0; t < a->tiles; t++) {
        uint32_t *tile = word + SPC_ROW_WORDS + t * each;
        spc_partial p = spc_tile_partial(tile_at(a, row, t, buffer), width_at(a, t),
                                         (a->first + t) * SPC_TILE, a->needs);

        if (p.max > max) {
            max = p.max;
            word[0] = (uint32_t)p.top;
        }
        spc_put_tile(tile, p, a->needs);
    }
    if (pair->row < a->round->drafts && row == &pair->verifier.row) {
        draft = a->round->draft[pair->row];
    }
    if (holds(a, draft)) {
        put_float(word + 1, spc_view_logit(&pair->drafter.row, draft));
        put_float(word + 2, spc_view_logit(&pair->verifier.row, draft));
    }
}

static void answer_rows(const answer *a)
{
    const int32_t words = spc_row_words(a->needs, a->most);
    uint32_t *word = a->word;

    for (int32_t i = 0; i < 2 * SPC_SHARD_ROWS; i++) {
        const bool drafter = i >= SPC_SHARD_ROWS;
        const int32_t row = drafter ? i - SPC_SHARD_ROWS : i;
        spc_row_pair pair;

        if (((drafter ? a->ask->drafter_rows : a->ask->verifier_rows) >> row & 1u) == 0) continue;
        pair = spc_pair_at(a->round, row, drafter || row < a->round->drafts);
        answer_row(a, &pair, drafter ? &pair.drafter.row : &pair.verifier.row, word);
        word += words;
    }
}

static void answer_mass(const answer *a, const spc_view *row)
{
    float buffer[SPC_TILE];
    uint64_t mass = 0;

    for (int32_t t = 0; t < a->tiles; t++) {
        mass += spc_tile_mass(tile_at(a, row, t, buffer), width_at(a, t), a->ask->softmax);
    }
    put_wide(a->word, mass);
}

static void answer_bins(const answer *a, const spc_view *row)
{
    const spc_search search = spc_cut_search(a->ask->cut);
    uint64_t bins[SPC_CUT_BINS] = {0};
    float buffer[SPC_TILE];

    for (int32_t t = 0; t < a->tiles; t++) {
        spc_tile_bins(tile_at(a, row, t, buffer), width_at(a, t), &search, a->ask->softmax,
                      a->ask->by_mass != 0, bins);
    }
    for (int32_t i = 0; i < SPC_CUT_BINS; i++) put_wide(a->word + 2 * i, bins[i]);
}

static void answer_kept(const answer *a, const spc_view *row)
{
    const float temperature = a->round->params->sampling.temperature;
    float buffer[SPC_TILE], weight[SPC_TILE], moment[SPC_TILE];

    for (int32_t t = 0; t < a->tiles; t++) {
        const float *z = tile_at(a, row, t, buffer);
        const int32_t n = width_at(a, t);

        spc_tile_kept(z, n, a->ask->softmax, weight);
        put_float(a->word + 2 * t, spc_tile_total(weight, n));
        put_float(a->word + 2 * t + 1, 0);
        if (!a->needs.processed_moment) continue;
        spc_tile_moment(z, n, a->ask->softmax.max, temperature, weight, moment);
        put_float(a->word + 2 * t + 1, spc_tile_total(moment, n));
    }
}

/* The tile of the slice that wins the first level of a race, and when; -1: none weighs anything. */
static int32_t race_slice(const answer *a, float *time)
{
    int32_t best = -1;

    *time = SPC_INFINITY;
    for (int32_t t = 0; t < a->tiles; t++) {
        uint32_t word =
            spc_race_tile_word(a->ask->key, (spc_stream_id)a->ask->stream, a->first + t);
        float arrives = spc_race_time(word, a->weight[t]);

        if (arrives < *time) {
            *time = arrives;
            best = t;
        }
    }
    return best;
}

/* The winner among a tile's entries. */
static void put_winner(const answer *a, const spc_row_pair *pair, int32_t t, float time,
                       const float *weight)
{
    const int32_t token = spc_race_entries(weight, width_at(a, t), a->first + t, a->ask->key,
                                           (spc_stream_id)a->ask->stream);

    put_float(a->word, time);
    a->word[1] = (uint32_t)token;
    if (pair->drafter.there) put_float(a->word + 2, spc_view_logit(&pair->drafter.row, token));
    put_float(a->word + 3, spc_view_logit(&pair->verifier.row, token));
}

/* The sum of a tile's summands, which value receives. */
static float fold_tile(const answer *a, const spc_row_pair *pair, spc_summand what, int32_t t,
                       float *value)
{
    spc_tile_summands(pair, what, a->ask->x, a->first + t, value);
    return spc_tile_total(value, width_at(a, t));
}

static void answer_fold(const answer *a, const spc_row_pair *pair)
{
    const spc_summand what = (spc_summand)a->ask->what;
    const int32_t each = what == SPC_SUM_ABOVE_DRAFTER ? 2 : 1;
    float value[SPC_TILE];

    for (int32_t t = 0; t < a->tiles; t++) {
        put_float(a->word + each * t, fold_tile(a, pair, what, t, value));
        if (each == 1) continue;
        put_float(a->word + 2 * t + 1, fold_tile(a, pair, SPC_SUM_ABOVE_VERIFIER, t, value));
    }
}

static void answer_race(const answer *a, const spc_row_pair *pair)
{
    const spc_summand what = (spc_summand)a->ask->what;
    float value[SPC_TILE], time;
    int32_t t;

    for (t = 0; t < a->tiles; t++) a->weight[t] = fold_tile(a, pair, what, t, value);
    put_float(a->word, SPC_INFINITY);
    t = race_slice(a, &time);
    if (t < 0) return;
    (void)fold_tile(a, pair, what, t, value);
    put_winner(a, pair, t, time, value);
}

static void answer_draw(const answer *a, const spc_row_pair *pair, const spc_view *row,
                        const spc_row_stats *stats)
{
    const spc_softmax s = spc_softmax_of(*stats, a->round->params->sampling.temperature);
    float buffer[SPC_TILE], weight[SPC_TILE], time;

    put_float(a->word, SPC_INFINITY);
    for (int32_t t = 0; t < a->tiles; t++) {
        const float *z = tile_at(a, row, t, buffer);
        const int32_t n = width_at(a, t);

        if (a->needs.restricts) {
            spc_tile_kept(z, n, s, weight);
            a->weight[t] = spc_tile_total(weight, n);
        } else {
            spc_partial p = spc_tile_partial(z, n, (a->first + t) * SPC_TILE, a->needs);

            a->weight[t] = spc_partial_at(p, stats->max, a->needs.scale).sum;
        }
    }

    const int32_t t = race_slice(a, &time);

    if (t < 0) return;
    spc_tile_kept(tile_at(a, row, t, buffer), width_at(a, t), s, weight);
    put_winner(a, pair, t, time, weight);
}

static void answer_logits(const answer *a, const spc_row_pair *pair)
{
    a->word[0] = a->word[1] = 0;
    if (!holds(a, a->ask->token)) return;
    if (pair->drafter.there) {
        put_float(a->word, spc_view_logit(&pair->drafter.row, a->ask->token));
    }
    put_float(a->word + 1, spc_view_logit(&pair->verifier.row, a->ask->token));
}

/* Answer the question that a sequence has open. */
static void answer_question(const answer *a)
{
    const spc_ask *q = a->ask;
    spc_row_pair pair;

    if (q->kind == SPC_ASK_ROWS) {
        answer_rows(a);
        return;
    }
    pair = spc_asked_pair(a->round, q);

    const spc_view *row = q->drafter ? &pair.drafter.row : &pair.verifier.row;

    switch (q->kind) {
    case SPC_ASK_MASS: answer_mass(a, row); break;
    case SPC_ASK_BINS: answer_bins(a, row); break;
    case SPC_ASK_KEPT: answer_kept(a, row); break;
    case SPC_ASK_FOLD: q->draws ? answer_race(a, &pair) : answer_fold(a, &pair); break;
    case SPC_ASK_LOGITS: answer_logits(a, &pair); break;
    default: answer_draw(a, &pair, row, q->drafter ? &q->stats_drafter : &q->stats_verifier); break;
    }
}

/* One sequence of a partial step, whose answer begins at this word.  Returns where it ends. */
static int64_t answer_sequence(const spc_shards *shards, int32_t s, int32_t step, int64_t at,
                               const spc_round *round)
{
    spc_replay r = replay_begin(shards, s, round->vocab);
    spc_cuts cuts = spc_cuts_of(shards, round->vocab);
    answer a = {.round = round, .ask = &r.state->ask, .most = r.tiles};

    if (step == 0) begin_state(r.state, round);
    r.state->at = at;
    at += asked_words(&r, round);
    if (at == r.state->at || at > r.room) return at; /* combine says that there is no room */
    a.needs = spc_needs_of(round->params, round->vocab);
    a.first = spc_cut_tile(&cuts, shards->rank);
    a.tiles = spc_cut_tiles(&cuts, shards->rank);
    a.word = spc_answer_at(shards, shards->rank, r.state);
    a.weight = spc_race_weights(shards, s, round->vocab);
    answer_question(&a);
    return at;
}

/* ---- the calls --------------------------------------------------------------------------------
 */

/* Take in all ranks' answers about one sequence; false: it is decided already. */
static bool take_in(spc_replay *r, const spc_shards *shards, int32_t s, const spc_round *round)
{
    spc_answers a = answers_at(shards, s, round->vocab);
    const spc_ask *q = &r->state->ask;

    if (r->state->done) return false;
    if (!spc_params_valid(round->params)) return true;
    if (!answer_fits(r, round)) {
        r->full = true;
    } else if (q->kind == SPC_ASK_ROWS) {
        int32_t rows = spc_bits_count(q->verifier_rows) + spc_bits_count(q->drafter_rows);

        for (int32_t k = 0; k < rows; k++) absorb_row(r, round, &a, k);
        absorb_rows_end(r, round);
    } else {
        absorb(r, &a);
    }
    return true;
}

/* Note that a step ended like this. */
static void end_step(spc_replay *r, const spc_shards *shards, const spc_round *round, bool done)
{
    r->state->done = done;
    shards->left[0] += !done;
    shards->left[1] += 4 * (int64_t)asked_words(r, round);
}

/* Bytes of what a sequence is asked first. */
static size_t first_bytes(const spc_round *round, const spc_shards *shards)
{
    const int32_t tiles = spc_most_tiles(spc_cuts_of(shards, round->vocab).cut, shards->world);
    spc_ask ask;

    if (!spc_params_valid(round->params)) return 0;
    ask = first_question(round);
    return 4 * (size_t)spc_answer_words(&ask, spc_needs_of(round->params, round->vocab), tiles);
}

size_t spc_verify_first_bytes(const spc_verify_batch *batch, const spc_shards *shards)
{
    size_t bytes = 0;

    for (int32_t s = 0; s < spc_live(batch->live, batch->sequences); s++) {
        spc_round round = spc_batch_round(batch, s);

        bytes += first_bytes(&round, shards);
    }
    return bytes;
}

size_t spc_draw_first_bytes(const spc_draw_batch *batch, const spc_shards *shards)
{
    size_t bytes = 0;

    for (int32_t s = 0; s < spc_live(batch->live, batch->sequences); s++) {
        spc_round round = spc_draw_round(batch, s);

        bytes += first_bytes(&round, shards);
    }
    return bytes;
}

spc_status spc_cpu_verify_partial(const spc_verify_batch *batch, const spc_shards *shards,
                                  int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_verify_shards_check(batch, shards, step, err);
    spc_verify_batch b;
    int64_t at = 0;

    (void)stream;
    if (status) return status;
    b = spc_sliced_verify(batch, shards);
    for (int32_t s = 0; s < spc_live(b.live, b.sequences); s++) {
        spc_round round = spc_batch_round(&b, s);

        at = answer_sequence(shards, s, step, at, &round);
    }
    return SPC_OK;
}

spc_status spc_cpu_verify_combine(const spc_verify_batch *batch, const spc_shards *shards,
                                  int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_verify_shards_check(batch, shards, step, err);
    spc_verify_batch b;

    (void)stream;
    if (status) return status;
    b = spc_sliced_verify(batch, shards);
    shards->left[0] = shards->left[1] = 0;
    for (int32_t s = 0; s < spc_live(b.live, b.sequences); s++) {
        spc_round round = spc_batch_round(&b, s);
        spc_replay r = replay_begin(shards, s, b.vocab);
        spc_verdict verdict;
        spc_block_sums sums;
        spc_walk walk = {.sums = &sums};

        if (!take_in(&r, shards, s, &round)) continue;
        end_step(&r, shards, &round, go_on_verify(&r, &round, &walk, &verdict));
        if (r.state->done) spc_verify_store(&b, s, &verdict);
    }
    return SPC_OK;
}

spc_status spc_cpu_draw_partial(const spc_draw_batch *batch, const spc_shards *shards, int32_t step,
                                spc_stream stream, spc_error *err)
{
    spc_status status = spc_draw_shards_check(batch, shards, step, err);
    spc_draw_batch b;
    int64_t at = 0;

    (void)stream;
    if (status) return status;
    b = spc_sliced_draw(batch, shards);
    for (int32_t s = 0; s < spc_live(b.live, b.sequences); s++) {
        spc_round round = spc_draw_round(&b, s);

        at = answer_sequence(shards, s, step, at, &round);
    }
    return SPC_OK;
}

spc_status spc_cpu_draw_combine(const spc_draw_batch *batch, const spc_shards *shards, int32_t step,
                                spc_stream stream, spc_error *err)
{
    spc_status status = spc_draw_shards_check(batch, shards, step, err);
    spc_draw_batch b;

    (void)stream;
    if (status) return status;
    b = spc_sliced_draw(batch, shards);
    shards->left[0] = shards->left[1] = 0;
    for (int32_t s = 0; s < spc_live(b.live, b.sequences); s++) {
        spc_round round = spc_draw_round(&b, s);
        spc_replay r = replay_begin(shards, s, b.vocab);
        spc_row_stats stats;
        int32_t token;
        float logit;

        if (!take_in(&r, shards, s, &round)) continue;
        end_step(
            &r, shards, &round,
            go_on_draw(&r, &round, b.token != NULL, spc_draw_stream(&b), &token, &logit, &stats));
        if (r.state->done) spc_draw_store(&b, s, token, logit, &stats);
    }
    return SPC_OK;
}
