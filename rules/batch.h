/* SPDX-License-Identifier: Apache-2.0 */
/* batch.h - many rows to draw from, or many rounds to decide, as data: what the batch calls of
 * spc/verify.h take (types.h), taken apart. */
#ifndef SPC_RULES_BATCH_H
#define SPC_RULES_BATCH_H

#include "pair.h"

/* Parts of a workspace (cuda/workspace.cuh): a header; jobs, each with bins of a histogram, always
 * as many; and cells, each for the numbers of one tile.  Rows of one tile need no job, and no
 * record of their own. */
enum {
    SPC_QUEUE_HEADER_BYTES = 384, /* lines of 128 bytes: cuda/workspace.cuh */
    SPC_QUEUE_JOB_BYTES = 768,
    SPC_QUEUE_CELL_BYTES = 32,
    SPC_QUEUE_DECIDERS = 128, /* jobs of blocks that decide ... */
    SPC_QUEUE_AHEAD = 192,    /* ... and of work that nobody waits for yet */
    SPC_QUEUE_JOBS = SPC_QUEUE_DECIDERS + SPC_QUEUE_AHEAD,
    SPC_QUEUE_RECORD_CELLS = 2
};

/* How many of the jobs a batch uses: each has a cell for every tile. */
SPC_FN int32_t spc_queue_deciders(int64_t sequences)
{
    return sequences < SPC_QUEUE_DECIDERS ? (int32_t)sequences : SPC_QUEUE_DECIDERS;
}

SPC_FN int32_t spc_queue_ahead(int64_t sequences, int32_t rows)
{
    return sequences * rows < SPC_QUEUE_AHEAD ? (int32_t)(sequences * rows) : SPC_QUEUE_AHEAD;
}

/* How many sequences there are, whatever live says. */
SPC_FN int32_t spc_live(const int32_t *live, int32_t sequences)
{
    if (!live) return sequences;
    return *live < 0 ? 0 : *live < sequences ? *live : sequences;
}

/* Which row that of sequence s is; one before the first there cannot be. */
SPC_FN int64_t spc_draw_row(const spc_draw_batch *b, int32_t s)
{
    return b->row ? b->row[s] : s;
}

/* A row for an index: nothing is read by one that there cannot be. */
SPC_FN int64_t spc_some_row(int64_t row)
{
    return row < 0 ? 0 : row;
}

/* The row of sequence s. */
SPC_FN spc_view spc_draw_view(const spc_draw_batch *b, int32_t s)
{
    return spc_view_at(b->logits, b->edits, spc_some_row(spc_draw_row(b, s)));
}

/* Can its token be drawn?  A draft of a block needs a salt that only the caller knows: where its
 * round begins. */
SPC_FN bool spc_draw_is_possible(const spc_draw_batch *b, int32_t s)
{
    const spc_row_params *params = &b->params[s];

    if (!spc_params_valid(params) || spc_draw_row(b, s) < 0) return false;
    if (b->token && !spc_position_valid(b->position[s], 0)) return false;
    return b->salt || b->plain || !b->token || params->verify != SPC_VERIFY_BLOCK;
}

SPC_FN spc_key spc_draw_key(const spc_draw_batch *b, int32_t s)
{
    return spc_key_at(&b->params[s], b->position[s], b->salt ? b->salt[s] : 0u);
}

/* The same as a round of one row without a draft; drafts -1: nothing can be drawn. */
SPC_FN spc_round spc_draw_round(const spc_draw_batch *b, int32_t s)
{
    spc_round round;
    int64_t row = spc_some_row(spc_draw_row(b, s));

    round.params = &b->params[s];
    round.drafter = b->logits;
    round.drafter.logits.data = 0;
    round.verifier = b->logits;
    round.verifier.logits = spc_logits_row(b->logits.logits, row, b->logits.stride);
    round.edits = spc_edits_row(b->edits, row);
    round.vocab = b->vocab;
    round.drafts = spc_draw_is_possible(b, s) ? 0 : -1;
    round.draft = 0;
    round.stats = 0;
    round.position = b->position[s];
    round.salt = b->salt ? b->salt[s] : 0u;
    round.bonus = true;
    round.draws = true;
    round.tile_weight = 0;
    round.detail = 0;
    round.chance = 0;
    round.shard = 0;
    return round;
}

SPC_FN spc_stream_id spc_draw_stream(const spc_draw_batch *b)
{
    return b->plain ? SPC_STREAM_BONUS : SPC_STREAM_DRAFT;
}

/* What a draw leaves behind; token -1: none, otherwise with its logit. */
SPC_FN void spc_draw_store(const spc_draw_batch *b, int32_t s, int32_t token, float logit,
                           const spc_row_stats *stats)
{
    const int64_t at = (int64_t)s * (b->out_stride > 0 ? b->out_stride : 1);

    if (b->token) b->token[at] = token;
    if (b->stats) b->stats[at] = *stats;
    if (b->log_probability) {
        float p = 0.0f;

        if (token >= 0) {
            spc_softmax softmax = spc_softmax_of(*stats, b->params[s].sampling.temperature);

            p = spc_row_probability(softmax, logit, token);
        }
        b->log_probability[at] = p >= 1.17549435e-38f ? spc_log(p) : -SPC_INFINITY;
    }
}

/* The round of sequence s, but for scratch.  A draft length that is none becomes -1, which no round
 * decides; so does one whose rows there cannot be. */
SPC_FN spc_round spc_batch_round(const spc_verify_batch *b, int32_t s)
{
    int64_t first = (int64_t)s * b->max_drafts;
    int64_t row = b->verifier_row[s], drafter = b->drafter.logits.data ? b->drafter_row[s] : 0;
    int32_t drafts = b->drafts[s];
    spc_round round;

    if (drafts > b->max_drafts || row < 0 || drafter < 0) drafts = -1;
    row = spc_some_row(row);
    round.params = &b->params[s];
    round.drafter = b->drafter;
    round.drafter.logits =
        spc_logits_row(b->drafter.logits, spc_some_row(drafter), b->drafter.stride);
    round.verifier = b->verifier;
    round.verifier.logits = spc_logits_row(b->verifier.logits, row, b->verifier.stride);
    round.edits = spc_edits_row(b->edits, row);
    round.vocab = b->vocab;
    round.drafts = drafts >= 0 ? drafts : -1;
    round.draft = b->draft ? b->draft + first : 0;
    round.stats = b->stats ? b->stats + first : 0;
    round.position = b->position[s];
    round.salt = b->salt ? b->salt[s] : spc_salt_of(&b->params[s], b->position[s]);
    round.bonus = spc_draws_bonus(round.params, round.drafts, !b->bonus || b->bonus[s] != 0);
    round.draws = false;
    round.tile_weight = 0;
    round.detail = b->detail ? b->detail + (int64_t)s * (b->max_drafts + 1) : 0;
    round.chance = 0;
    round.shard = 0;
    return round;
}

SPC_FN void spc_verify_store(const spc_verify_batch *b, int32_t s, const spc_verdict *verdict)
{
    int32_t *token = b->token + (int64_t)s * (b->max_drafts + 1);

    for (int32_t i = 0; i <= b->max_drafts; i++) token[i] = verdict->token[i];
    b->count[s] = verdict->count;
    b->status[s] = verdict->status;
    if (b->accepted) b->accepted[s] = verdict->accepted;
    if (b->verdict) b->verdict[s] = *verdict;
}

#endif
