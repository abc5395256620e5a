/* SPDX-License-Identifier: Apache-2.0 */
/* shard_body.h - going on with a round from the answers of all ranks: round_body.h over a log
 * instead of over rows.  Written once for the CPU and for kernels; one thread runs it.
 *
 * Included by a file that has log and memset and has defined ROUND_FN: static, or static
 * __device__.  Once a question is
 * open, everything still runs to the round's end, on numbers that mean nothing and are dropped. */
#include "shard.h"

typedef struct {
    spc_shard_state *state;
    uint32_t *log;
    int32_t capacity; /* words of log */
    int64_t room;     /* words that a rank sends */
    int32_t tiles;    /* most of a rank */
    int32_t at;       /* next word of log to be read */
    int32_t start[SPC_ROUND_PARTS];
    bool asking;              /* a question is open */
    bool full;                /* the log is too small, or what is sent */
    int32_t drawn_row, drawn; /* the last token drawn, and its logits */
    spc_pair drawn_logits;
} spc_replay;

ROUND_FN spc_replay *replay_of(const spc_row_pair *pair)
{
    return (spc_replay *)pair->round->shard;
}

/* ---- the log ----------------------------------------------------------------------------------
 */

ROUND_FN void push_word(spc_replay *r, uint32_t word)
{
    if (r->state->words >= r->capacity) {
        r->full = true;
        return;
    }
    r->log[r->state->words++] = word;
}

ROUND_FN void push_float(spc_replay *r, float value)
{
    push_word(r, spc_float_bits(value));
}

/* Are there so many more words? */
ROUND_FN bool has_words(const spc_replay *r, int32_t count)
{
    return !r->asking && r->at + count <= r->state->words;
}

ROUND_FN uint32_t pop_word(spc_replay *r)
{
    return r->log[r->at++];
}

ROUND_FN float pop_float(spc_replay *r)
{
    return spc_bits_float(pop_word(r));
}

/* What came out of the words since `start`, the last ones, is kept elsewhere. */
ROUND_FN void drop_words(spc_replay *r, int32_t start)
{
    r->state->words = r->at = start;
}

/* Open a question about a pair. */
ROUND_FN void ask(spc_replay *r, const spc_row_pair *pair, spc_ask question)
{
    if (r->asking) return;
    question.row = pair->row;
    question.there = pair->drafter.there;
    question.ready_drafter = pair->drafter.ready;
    question.ready_verifier = pair->verifier.ready;
    question.stats_drafter = pair->drafter.stats;
    question.stats_verifier = pair->verifier.stats;
    question.target = pair->target;
    r->state->ask = question;
    r->asking = true;
}

ROUND_FN spc_ask question_of(spc_ask_kind kind)
{
    spc_ask q;

    memset(&q, 0, sizeof q);
    q.kind = (int32_t)kind;
    return q;
}

/* ---- what round_body.h asks for ---------------------------------------------------------------
 */

typedef struct {
    spc_row_pair *pair;
    const spc_side *side;
} cut_row;

/* Least logit of the set that holds `target` counts, or masses, from the top. */
ROUND_FN float find_cut(cut_row row, spc_softmax softmax, bool by_mass, uint64_t target)
{
    spc_replay *r = replay_of(row.pair);
    spc_cut cut = spc_cut_begin(target);

    while (cut.level < spc_cut_levels(&row.side->row)) {
        if (!has_words(r, 3)) {
            spc_ask q = question_of(SPC_ASK_BINS);

            q.drafter = row.side == &row.pair->drafter;
            q.softmax = softmax;
            q.cut = cut;
            q.by_mass = by_mass;
            ask(r, row.pair, q);
            return 0;
        }
        cut.prefix = pop_word(r);
        cut.above = pop_word(r);
        cut.above |= (uint64_t)pop_word(r) << 32;
        cut.level++;
    }
    return spc_cut_logit(cut);
}

/* Mass of what the softmax keeps. */
ROUND_FN uint64_t kept_mass(cut_row row, spc_softmax softmax)
{
    spc_replay *r = replay_of(row.pair);
    uint64_t mass;

    if (!has_words(r, 2)) {
        spc_ask q = question_of(SPC_ASK_MASS);

        q.drafter = row.side == &row.pair->drafter;
        q.softmax = softmax;
        ask(r, row.pair, q);
        return 0;
    }
    mass = pop_word(r);
    mass |= (uint64_t)pop_word(r) << 32;
    return mass;
}

#include "cut_body.h"

ROUND_FN float nucleus_cut(spc_row_pair *pair, const spc_side *s, float top_p)
{
    const cut_row row = {pair, s};

    return processed_cut(row, s, top_p);
}

/* From the statistics of all logits to those of what truncation leaves. */
ROUND_FN bool finish_statistics(spc_row_pair *pair, const spc_side *s, spc_row_stats *stats)
{
    const spc_row_params *params = pair->round->params;
    const spc_row_needs needs = spc_needs_of(params, pair->round->vocab);
    spc_replay *r = replay_of(pair);

    if (needs.truncates) {
        const cut_row row = {pair, s};

        stats->cut =
            truncation_cut(row, pair->round->vocab, &params->sampling, stats->max, stats->sum);
    }
    if (r->asking) return false;
    if (needs.restricts && !has_words(r, 2)) {
        spc_ask q = question_of(SPC_ASK_KEPT);

        q.drafter = s == &pair->drafter;
        q.softmax = spc_softmax_of(*stats, params->sampling.temperature);
        ask(r, pair, q);
        return false;
    }
    if (needs.restricts) {
        float moment;

        stats->sum = pop_float(r);
        moment = pop_float(r);
        if (needs.processed_moment) stats->moment = moment;
    }
    return true;
}

ROUND_FN void row_statistics(spc_row_pair *pair, const spc_side *s, spc_row_stats *stats)
{
    spc_replay *r = replay_of(pair);
    const int32_t drafter = s == &pair->drafter, start = r->at;
    int32_t *known = &r->state->known[drafter][pair->row];
    spc_row_stats *kept = &r->state->stats[drafter][pair->row];

    *stats = spc_stats_one_hot(0, pair->round->vocab);
    if (*known == SPC_ROW_UNKNOWN) {
        spc_ask q = question_of(SPC_ASK_ROWS);

        if (drafter) {
            q.drafter_rows = 1u << pair->row;
        } else {
            q.verifier_rows = 1u << pair->row;
        }
        ask(r, pair, q);
        return;
    }
    if (*known == SPC_ROW_MERGED && !r->asking) {
        spc_row_stats whole = *kept;

        if (finish_statistics(pair, s, &whole)) {
            *kept = whole;
            *known = SPC_ROW_FINAL;
            drop_words(r, start);
        }
    }
    if (*known == SPC_ROW_FINAL) *stats = *kept;
}

ROUND_FN float fold(spc_row_pair *pair, spc_summand what, float x)
{
    spc_replay *r = replay_of(pair);
    spc_ask q;

    if (has_words(r, 1)) return pop_float(r);
    q = question_of(SPC_ASK_FOLD);
    q.what = (int32_t)what;
    q.x = x;
    ask(r, pair, q);
    return 0;
}

/* The token that was drawn, with its logits; count words begin with it. */
ROUND_FN int32_t pop_drawn(spc_replay *r, const spc_row_pair *pair)
{
    r->drawn_row = pair->row;
    r->drawn = (int32_t)pop_word(r);
    r->drawn_logits.drafter = pop_float(r);
    r->drawn_logits.verifier = pop_float(r);
    return r->drawn;
}

ROUND_FN int32_t draw_fold(spc_row_pair *pair, spc_summand what, float x, spc_key key,
                           spc_stream_id stream)
{
    spc_replay *r = replay_of(pair);
    spc_ask q;

    if (has_words(r, 3)) return pop_drawn(r, pair);
    q = question_of(SPC_ASK_FOLD);
    q.what = (int32_t)what;
    q.x = x;
    q.draws = 1;
    q.key = key;
    q.stream = (int32_t)stream;
    ask(r, pair, q);
    return 0;
}

ROUND_FN int32_t draw_row(spc_row_pair *pair, const spc_side *s, spc_row_stats stats, spc_key key,
                          spc_stream_id stream)
{
    spc_replay *r = replay_of(pair);
    spc_row_pair known = *pair;
    spc_ask q;

    if (!(pair->round->params->sampling.temperature > 0.0f)) return stats.top;
    if (has_words(r, 3)) {
        int32_t token = pop_drawn(r, pair);

        return token < 0 ? stats.top : token;
    }
    q = question_of(SPC_ASK_DRAW);
    q.drafter = s == &pair->drafter;
    q.key = key;
    q.stream = (int32_t)stream;
    if (q.drafter) {
        known.drafter.stats = stats;
    } else {
        known.verifier.stats = stats;
    }
    ask(r, &known, q);
    return 0;
}

ROUND_FN spc_entry entry_at(spc_row_pair *pair, int32_t token)
{
    spc_replay *r = replay_of(pair);
    const int32_t row = pair->row;
    spc_pair z;

    z.drafter = z.verifier = 0;
    if (row < pair->round->drafts && (r->state->has_logits >> row & 1u) != 0 &&
        token == pair->round->draft[row]) {
        z = r->state->draft_logits[row];
    } else if (r->drawn_row == row && r->drawn == token) {
        z = r->drawn_logits;
    } else if (has_words(r, 2)) {
        z.drafter = pop_float(r);
        z.verifier = pop_float(r);
    } else {
        spc_ask q = question_of(SPC_ASK_LOGITS);

        q.token = token;
        ask(r, pair, q);
    }
    return spc_pair_entry_of(pair, token, z.drafter, z.verifier);
}

ROUND_FN bool keeps(const spc_round *round, float kept, float drafter, spc_key key)
{
    (void)round;
    return spc_accepts(kept, drafter, spc_uniform(key, SPC_STREAM_ACCEPT, 0));
}

ROUND_FN void put_detail(const spc_round *round, int32_t row, const spc_row_detail *detail)
{
    if (!((const spc_replay *)round->shard)->asking) round->detail[row] = *detail;
}

/* A target is kept whole once it is known.  One that was raised for its draft never is. */
ROUND_FN bool recall_target(spc_row_pair *pair, int32_t part)
{
    spc_replay *r = replay_of(pair);

    r->start[part] = r->at;
    if (part == SPC_ROUND_COMPLETE && pair->target.form == SPC_TARGET_RAISE) return true;
    if (r->asking || (r->state->has_target[part] >> pair->row & 1u) == 0) return false;
    pair->target = r->state->target[part][pair->row];
    return true;
}

ROUND_FN void keep_target(spc_row_pair *pair, int32_t part)
{
    spc_replay *r = replay_of(pair);

    if (r->asking) return;
    r->state->has_target[part] |= 1u << pair->row;
    r->state->target[part][pair->row] = pair->target;
    drop_words(r, r->start[part]);
}

#define ROUND_RECALL(pair, part) recall_target(pair, part)
#define ROUND_KEEP(pair, part)   keep_target(pair, part)
#include "round_body.h"

/* ---- the first question -----------------------------------------------------------------------
 */

/* Everything that a round may read before it draws. */
ROUND_FN spc_ask first_question(const spc_round *round)
{
    const bool reads = spc_rule_uses_drafter(&round->params->rule);
    spc_ask q = question_of(SPC_ASK_ROWS);

    if (round->draws ? round->drafts < 0 : !is_decidable(round)) return q;

    const uint32_t drafts = (1u << round->drafts) - 1u, bonus = 1u << round->drafts;

    q.verifier_rows = round->bonus ? drafts | bonus : drafts;
    if (!round->drafter.logits.data) return q;
    if (!round->stats) q.drafter_rows = drafts;
    if (round->bonus && reads &&
        (round->params->bonus != SPC_BONUS_VERIFIER || round->drafts == 0)) {
        q.drafter_rows |= bonus;
    }
    return q;
}

/* ---- answers ----------------------------------------------------------------------------------
 */

/* Where the answers about one sequence lie. */
typedef struct {
    const uint32_t *first; /* rank 0's */
    size_t stride;         /* words from rank to rank */
    int32_t world;
    spc_cuts cuts;
} spc_answers;

ROUND_FN const uint32_t *answer_of(const spc_answers *a, int32_t rank)
{
    return a->first + (size_t)rank * a->stride;
}

ROUND_FN int32_t tiles_of(const spc_answers *a, int32_t rank)
{
    return spc_cut_tiles(&a->cuts, rank);
}

/* The rank that has a token. */
ROUND_FN int32_t owner_of(const spc_answers *a, int32_t token)
{
    int32_t rank = 0;

    while (rank < a->world - 1 && token >= spc_cut_first(&a->cuts, rank + 1)) rank++;
    return rank;
}

/* Statistics of the k-th row that was asked for, from all ranks. */
ROUND_FN spc_row_stats merge_row(const spc_answers *a, int32_t most, int32_t k, spc_row_needs needs)
{
    const int32_t each = spc_tile_words(needs), row = k * spc_row_words(needs, most);
    spc_partial all = spc_partial_none();

    for (int32_t rank = 0; rank < a->world; rank++) {
        const uint32_t *word = answer_of(a, rank) + row;

        for (int32_t t = 0; t < tiles_of(a, rank); t++) {
            spc_partial tile = spc_get_tile(word + SPC_ROW_WORDS + t * each, needs);

            tile.top = (int32_t)word[0]; /* of the first tile that has the rank's maximum */
            all = spc_partial_top(all, tile);
        }
    }
    for (int32_t rank = 0; rank < a->world; rank++) {
        const uint32_t *word = answer_of(a, rank) + row + SPC_ROW_WORDS;

        for (int32_t t = 0; t < tiles_of(a, rank); t++) {
            all = spc_partial_add(
                all, spc_partial_at(spc_get_tile(word + t * each, needs), all.max, needs.scale));
        }
    }
    return spc_stats_of(all, needs);
}

/* Take in the k-th row of a question for rows. */
ROUND_FN void absorb_row(spc_replay *r, const spc_round *round, const spc_answers *a, int32_t k)
{
    const spc_row_needs needs = spc_needs_of(round->params, round->vocab);
    const int32_t verifiers = spc_bits_count(r->state->ask.verifier_rows);
    const int32_t drafter = k >= verifiers;
    uint32_t bits = drafter ? r->state->ask.drafter_rows : r->state->ask.verifier_rows;
    int32_t row = 0;
    spc_row_stats stats;

    for (int32_t skip = drafter ? k - verifiers : k; skip > 0; skip--) bits &= bits - 1;
    while ((bits >> row & 1u) == 0) row++;
    stats = merge_row(a, r->tiles, k, needs);
    r->state->stats[drafter][row] = stats;
    r->state->known[drafter][row] = stats.bad || !needs.restricts ? SPC_ROW_FINAL : SPC_ROW_MERGED;
    if (!drafter && row < round->drafts && is_draft(round, row)) {
        const uint32_t *word =
            answer_of(a, owner_of(a, round->draft[row])) + k * spc_row_words(needs, r->tiles);

        r->state->draft_logits[row].drafter = spc_bits_float(word[1]);
        r->state->draft_logits[row].verifier = spc_bits_float(word[2]);
    }
}

/* Behind all of them. */
ROUND_FN void absorb_rows_end(spc_replay *r, const spc_round *round)
{
    for (int32_t row = 0; row < round->drafts; row++) {
        if ((r->state->ask.verifier_rows >> row & 1u) != 0 && is_draft(round, row)) {
            r->state->has_logits |= 1u << row;
        }
    }
}

/* The first of the ranks' winners; where no tile weighs anything, nobody has one. */
ROUND_FN void absorb_winner(spc_replay *r, const spc_answers *a)
{
    const uint32_t *best = 0;

    for (int32_t rank = 0; rank < a->world; rank++) {
        const uint32_t *word = answer_of(a, rank);
        float time = spc_bits_float(word[0]);

        if (time < (best ? spc_bits_float(best[0]) : SPC_INFINITY)) best = word;
    }
    push_word(r, best ? best[1] : (uint32_t)-1);
    push_word(r, best ? best[2] : 0);
    push_word(r, best ? best[3] : 0);
}

/* Sum of the n-th number of every tile, each of which has `each`. */
ROUND_FN float sum_tiles(const spc_answers *a, int32_t each, int32_t n)
{
    float sum = 0;

    for (int32_t rank = 0; rank < a->world; rank++) {
        const uint32_t *word = answer_of(a, rank);

        for (int32_t t = 0; t < tiles_of(a, rank); t++) sum += spc_bits_float(word[t * each + n]);
    }
    return sum;
}

ROUND_FN uint64_t sum_wide(const spc_answers *a, int32_t i)
{
    uint64_t sum = 0;

    for (int32_t rank = 0; rank < a->world; rank++) {
        const uint32_t *word = answer_of(a, rank) + 2 * i;

        sum += word[0] | (uint64_t)word[1] << 32;
    }
    return sum;
}

ROUND_FN void push_wide(spc_replay *r, uint64_t value)
{
    push_word(r, (uint32_t)value);
    push_word(r, (uint32_t)(value >> 32));
}

/* spc_cut_descend on bins that lie with many ranks. */
ROUND_FN void absorb_bins(spc_replay *r, const spc_answers *a)
{
    spc_cut c = r->state->ask.cut;
    int32_t bin = SPC_CUT_BINS - 1;

    for (; bin > 0; bin--) {
        uint64_t here = sum_wide(a, bin);

        if (c.above + here >= c.target) break;
        c.above += here;
    }
    push_word(r, c.prefix | (uint32_t)bin << (24 - 8 * c.level));
    push_wide(r, c.above);
}

/* Everything but rows. */
ROUND_FN void absorb(spc_replay *r, const spc_answers *a)
{
    const spc_ask *q = &r->state->ask;

    switch (q->kind) {
    case SPC_ASK_MASS: push_wide(r, sum_wide(a, 0)); break;
    case SPC_ASK_BINS: absorb_bins(r, a); break;
    case SPC_ASK_KEPT:
        push_float(r, sum_tiles(a, 2, 0));
        push_float(r, sum_tiles(a, 2, 1));
        break;
    case SPC_ASK_LOGITS: {
        const uint32_t *word = answer_of(a, owner_of(a, q->token));

        push_word(r, word[0]);
        push_word(r, word[1]);
        break;
    }
    case SPC_ASK_FOLD: {
        const bool two = q->what == SPC_SUM_ABOVE_DRAFTER;

        if (q->draws) {
            absorb_winner(r, a);
            break;
        }
        push_float(r, sum_tiles(a, two ? 2 : 1, 0));
        if (two) push_float(r, sum_tiles(a, 2, 1));
        break;
    }
    default: absorb_winner(r, a); break;
    }
}

/* ---- one step ---------------------------------------------------------------------------------
 */

ROUND_FN void begin_state(spc_shard_state *state, const spc_round *round)
{
    state->done = 0;
    state->words = 0;
    state->at = 0;
    state->has_logits = 0;
    for (int32_t p = 0; p < SPC_ROUND_PARTS; p++) state->has_target[p] = 0;
    for (int32_t i = 0; i < SPC_SHARD_ROWS; i++) {
        state->known[0][i] = state->known[1][i] = SPC_ROW_UNKNOWN;
    }
    state->ask = first_question(round);
}

ROUND_FN spc_replay replay_begin(const spc_shards *shards, int32_t s, int32_t vocab)
{
    spc_replay r;

    r.state = spc_shard_at(shards, s);
    r.log = (uint32_t *)(r.state + 1);
    r.tiles = spc_most_tiles(spc_cuts_of(shards, vocab).cut, shards->world);
    r.capacity = (int32_t)((shards->state_bytes - sizeof *r.state) / 4) - r.tiles;
    r.room = (int64_t)(shards->send_bytes / 4);
    r.at = 0;
    for (int32_t p = 0; p < SPC_ROUND_PARTS; p++) r.start[p] = 0;
    r.asking = r.full = false;
    r.drawn_row = r.drawn = -1;
    r.drawn_logits.drafter = r.drawn_logits.verifier = 0;
    return r;
}

ROUND_FN spc_answers answers_at(const spc_shards *shards, int32_t s, int32_t vocab)
{
    spc_answers a;

    a.first = spc_answer_at(shards, 0, spc_shard_at(shards, s));
    a.stride = shards->send_bytes / 4;
    a.world = shards->world;
    a.cuts = spc_cuts_of(shards, vocab);
    return a;
}

/* Words of the answer to the question that a sequence has open; 0: none. */
ROUND_FN int32_t asked_words(const spc_replay *r, const spc_round *round)
{
    if (r->state->done || !spc_params_valid(round->params)) return 0;
    return spc_answer_words(&r->state->ask, spc_needs_of(round->params, round->vocab), r->tiles);
}

/* Is there room for it where it lies? */
ROUND_FN bool answer_fits(const spc_replay *r, const spc_round *round)
{
    return r->state->at + asked_words(r, round) <= r->room;
}

/* Go on with a round whose answers were absorbed.  true: it is over. */
ROUND_FN bool go_on_verify(spc_replay *r, spc_round *round, spc_walk *walk, spc_verdict *out)
{
    round->shard = r;
    decide_round(round, walk, out);
    if (!r->full) return !r->asking;
    for (int32_t i = 0; i < SPC_GAMMA_MAX + 2; i++) out->token[i] = -1;
    out->count = out->accepted = out->verified = out->drawn = 0;
    out->deferred = 0;
    out->status = SPC_STATUS_BAD_PARAM;
    return true;
}

/* The same for a draw, which is a round of one row: spc_draw_round. */
ROUND_FN bool go_on_draw(spc_replay *r, spc_round *round, bool wanted, spc_stream_id stream,
                         int32_t *token, float *logit, spc_row_stats *stats)
{
    spc_row_pair pair = spc_pair_at(round, 0, false);

    round->shard = r;
    *token = -1;
    *logit = 0;
    *stats = spc_stats_one_hot(-1, round->vocab);
    if (round->drafts < 0) return true;
    row_statistics(&pair, &pair.verifier, stats);
    if (!r->asking && !stats->bad && wanted) {
        *token = draw_row(&pair, &pair.verifier, *stats,
                          spc_key_at(round->params, round->position, round->salt), stream);
        *logit = *token == stats->top ? stats->max : r->drawn_logits.verifier;
    }
    if (!r->full) return !r->asking;
    *token = -1;
    *stats = spc_stats_one_hot(-1, round->vocab);
    return true;
}
