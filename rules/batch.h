/* SPDX-License-Identifier: Apache-2.0 */
/* batch.h - many rows to draw from, or many rounds to decide, as data: what the batch calls of
 * spc/verify.h take.
 *
 * The struct lies in host memory and is read before the call returns.  Every array lies in the
 * memory of the place that runs the call (host memory for spc_cpu_*, device memory for spc_cuda_*),
 * and is read and written in the order of the stream; the caller owns all of them.  What is written
 * overlaps nothing else.  Begin with zeros (= {0}): what may be NULL is then not there. */
#ifndef SPC_RULES_BATCH_H
#define SPC_RULES_BATCH_H

#include "pair.h"

#include <stddef.h>

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

/* One row of logits per sequence: draw a token, or take the row's statistics. */
typedef struct {
    int32_t sequences;            /* entries of the arrays, >= 1 */
    const int32_t *live;          /* [1] how many of them are there now, or NULL: all; nothing is
                                     written for the others */
    int32_t vocab;                /* tokens that can be drawn, 1 .. SPC_VOCAB_MAX; the verifier's
                                     where logits.subset says which of them the rows know */
    const spc_row_params *params; /* [sequences] */
    spc_logit_rows logits;
    const int64_t *row;      /* [sequences] which row of logits; NULL: row s of sequence s */
    spc_edits edits;         /* by row of logits */
    const int64_t *position; /* [sequences] of the token to be drawn, prompt included */
    const uint32_t *salt;    /* [sequences] as for spc_draft_sample; NULL: 0, and no drafts of
                                sequences under block verification */
    int32_t plain;           /* 1: as spc_plain_sample draws; 0: a draft */
    int32_t *token; /* [sequences] receives the token, -1 for a bad row; NULL: none is drawn */
    spc_row_stats *stats;   /* [sequences] receives the row's statistics, or NULL */
    float *log_probability; /* [sequences] receives ln of the token's processed probability, -inf
                               where there is no token; or NULL */
    int32_t out_stride;     /* those of sequence s are the entries s * out_stride of these arrays;
                               0: 1.  With max_drafts, what step i of drafting writes to draft + i
                               and stats + i is where spc_verify_batch reads it */
    void *workspace; /* cuda: scratch for the form that spreads a batch over the device; NULL:
                        the reference form, one block per sequence, slow.  cpu: not used */
    size_t workspace_bytes; /* at least spc_workspace_bytes */
} spc_draw_batch;

/* One round of every sequence. */
typedef struct {
    int32_t sequences;            /* entries of the arrays, >= 1 */
    const int32_t *live;          /* [1] how many of them are there now, or NULL: all; nothing is
                                     written for the others */
    int32_t vocab;                /* tokens of the verifier, 1 .. SPC_VOCAB_MAX */
    int32_t max_drafts;           /* longest draft length, 0 .. SPC_GAMMA_MAX + 1 */
    const spc_row_params *params; /* [sequences] */
    spc_logit_rows drafter;       /* logits.data NULL: the drafts come without a distribution */
    /* [sequences] row of the first draft; NULL without rows.  The others follow it, one for each
     * draft, and, nobody can check, one more where a bonus is drawn, unless the rule (strict,
     * truncate, cactus) or, behind drafts, SPC_BONUS_VERIFIER does without.  A drafter that has run
     * a row for each draft alone lacks it: give bonus 0, and draw later, or one of these */
    const int64_t *drafter_row;
    spc_logit_rows verifier;
    const int64_t *verifier_row; /* [sequences] the same of the verifier, which has one more where a
                                    bonus is drawn */
    spc_edits edits;       /* by row of the verifier; done to the drafter's row beside it too */
    const int32_t *drafts; /* [sequences] draft lengths, 0 .. max_drafts */
    const int32_t *draft;  /* [sequences, max_drafts] ids; NULL when max_drafts is 0 */
    const spc_row_stats *stats; /* [sequences, max_drafts] of the drafter's rows as left by a draw
                                   with the same parameters and edits, or NULL: taken here */
    const int64_t *position;    /* [sequences] of the first draft's token */
    const uint32_t *salt;       /* [sequences] as for spc_draft_sample; NULL: 0, under block
                                   verification (position + 1) mod 2^32 */
    const int32_t *bonus;       /* [sequences] 1: draw a token when all drafts are kept, but for
                                   drafts under SPC_BONUS_STEP; 0: leave that row to a later call;
                                   NULL: 1 */
    int32_t *token;             /* [sequences, max_drafts + 1] receives what is emitted, then -1 */
    int32_t *count;             /* [sequences] receives how many tokens that are */
    uint32_t *status;           /* [sequences] receives SPC_STATUS_* */
    int32_t *accepted;          /* [sequences] receives how many drafts were kept, or NULL */
    spc_verdict *verdict;       /* [sequences] receives all of it once more, or NULL */
    spc_row_detail *detail;     /* [sequences, max_drafts + 1] receives what became of each row, or
                                   NULL.  Taking it costs further looks at the rows. */
    void *workspace; /* cuda: scratch for the form that spreads a batch over the device; NULL:
                        the reference form, one block per sequence, slow.  cpu: not used */
    size_t workspace_bytes; /* at least spc_workspace_bytes */
} spc_verify_batch;

/* How many sequences there are, whatever live says. */
SPC_FN int32_t spc_live(const int32_t *live, int32_t sequences)
{
    if (!live) return sequences;
    return *live < 0 ? 0 : *live < sequences ? *live : sequences;
}

/* The row of sequence s. */
SPC_FN spc_view spc_draw_view(const spc_draw_batch *b, int32_t s)
{
    return spc_view_at(b->logits, b->edits, b->row ? b->row[s] : s);
}

/* Can its token be drawn?  A draft of a block needs a salt that only the caller knows: where its
 * round begins. */
SPC_FN bool spc_draw_is_possible(const spc_draw_batch *b, int32_t s)
{
    const spc_row_params *params = &b->params[s];

    if (!spc_params_valid(params)) return false;
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
    int64_t row = b->row ? b->row[s] : s;

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
 * decides. */
SPC_FN spc_round spc_batch_round(const spc_verify_batch *b, int32_t s)
{
    int64_t first = (int64_t)s * b->max_drafts;
    int32_t drafts = b->drafts[s];
    spc_round round;

    round.params = &b->params[s];
    round.drafter = b->drafter;
    if (b->drafter.logits.data) {
        round.drafter.logits =
            spc_logits_row(b->drafter.logits, b->drafter_row[s], b->drafter.stride);
    }
    round.verifier = b->verifier;
    round.verifier.logits =
        spc_logits_row(b->verifier.logits, b->verifier_row[s], b->verifier.stride);
    round.edits = spc_edits_row(b->edits, b->verifier_row[s]);
    round.vocab = b->vocab;
    round.drafts = drafts >= 0 && drafts <= b->max_drafts ? drafts : -1;
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
