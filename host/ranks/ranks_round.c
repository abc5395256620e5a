/* SPDX-License-Identifier: Apache-2.0 */
/* ranks_round.c - drawing and verification by ranks that hold slices of the logits. */
#include "ranks_round.h"

#include "host/carve.h"

#include "rules/shard.h"

#include <stdlib.h>
#include <string.h>

enum { DRAFTS = SPC_GAMMA_MAX + 1, TOKENS = DRAFTS + 1 };

struct spc_ranks_room {
    int32_t lanes, vocab, world;
    /* a batch's arrays, [lanes] or [lanes, DRAFTS] or [lanes, TOKENS] */
    spc_row_params *params;
    int64_t *row, *position;
    uint32_t *salt, *status;
    int32_t *drafts, *bonus, *count, *draft, *token;
    spc_row_stats *stats;
    spc_verdict *verdict;
    int64_t left[2];
    char *state;
    char *answers; /* [world, lanes] of the most that a step takes */
    spc_shard_bytes most;
};

/* The most that any parameters need: a rule that solves an equation twice over, one that reads
 * every number of a tile, and a search for a cut. */
spc_shard_bytes spc_ranks_most_bytes(int32_t vocab, int32_t world)
{
    spc_row_params most[2];

    memset(most, 0, sizeof most);
    for (int i = 0; i < 2; i++) {
        most[i].sampling = (spc_sampling){.temperature = 1, .top_p = 0.5f};
        most[i].rule.gate = SPC_GATE_UNSCALED;
    }
    most[0].rule.kind = most[0].rule.path = SPC_RULE_MENTORED;
    most[1].rule.kind = most[1].rule.path = SPC_RULE_DIFF_LOG;
    return spc_shard_sizes(most, 2, DRAFTS, vocab, world);
}

static size_t lay_out(spc_ranks_room *r, char *base)
{
    carver to = {base, 0};
    size_t n = (size_t)r->lanes, answer;

    r->most = spc_ranks_most_bytes(r->vocab, r->world);
    answer = r->most.first > r->most.later ? r->most.first : r->most.later;
    (void)carve(&to, sizeof *r);
    r->params = carve(&to, n * sizeof *r->params);
    r->row = carve(&to, n * sizeof *r->row);
    r->position = carve(&to, n * sizeof *r->position);
    r->salt = carve(&to, n * sizeof *r->salt);
    r->status = carve(&to, n * sizeof *r->status);
    r->drafts = carve(&to, n * sizeof *r->drafts);
    r->bonus = carve(&to, n * sizeof *r->bonus);
    r->count = carve(&to, n * sizeof *r->count);
    r->draft = carve(&to, n * DRAFTS * sizeof *r->draft);
    r->token = carve(&to, n * TOKENS * sizeof *r->token);
    r->stats = carve(&to, n * DRAFTS * sizeof *r->stats);
    r->verdict = carve(&to, n * sizeof *r->verdict);
    r->state = carve(&to, times(r->most.state, r->lanes));
    r->answers = carve(&to, times(times(answer, r->lanes), r->world));
    return to.used;
}

size_t spc_ranks_room_bytes(int32_t lanes, int32_t vocab, int32_t world)
{
    spc_ranks_room counted = {.lanes = lanes, .vocab = vocab, .world = world};

    return lay_out(&counted, NULL);
}

spc_ranks_room *spc_ranks_room_open(int32_t lanes, int32_t vocab, int32_t world)
{
    size_t bytes = spc_ranks_room_bytes(lanes, vocab, world);
    spc_ranks_room *r = bytes < CARVE_MOST ? aligned_alloc(CARVE_ALIGNMENT, bytes) : NULL;

    if (!r) return NULL;
    memset(r, 0, sizeof *r);
    r->lanes = lanes;
    r->vocab = vocab;
    r->world = world;
    (void)lay_out(r, (char *)r);
    return r;
}

void spc_ranks_room_close(spc_ranks_room *room)
{
    free(room);
}

/* A model's rows as the slices of one rank. */
static spc_logit_rows rows_of(const spc_ranks_room *r, const spc_comm *comm,
                              const spc_ranks_rows *model, bool whole)
{
    spc_shards shards = {.rank = comm->rank, .world = comm->world, .cut = r->vocab};
    spc_cuts cuts = spc_cuts_of(&shards, model->ids);
    spc_logit_rows rows = {
        .logits = {model->logits, SPC_LOGITS_F32}, .stride = model->ids, .width = model->ids};

    if (model->logits && !whole) {
        rows.logits.data = model->logits + spc_cut_first(&cuts, comm->rank);
    }
    return rows;
}

static spc_shards shards_of(spc_ranks_room *r, const spc_comm *comm)
{
    return (spc_shards){.rank = comm->rank,
                        .world = comm->world,
                        .cut = r->vocab,
                        .drafter_whole = 1,
                        .state = r->state,
                        .state_bytes = r->most.state,
                        .answers = r->answers,
                        .left = r->left};
}

/* Every rank's answers to every rank. */
static spc_status gather(spc_comm *comm, const spc_shards *shards, spc_error *err)
{
    size_t begin[SPC_RANKS_MAX + 1];

    for (int32_t k = 0; k <= comm->world; k++) begin[k] = (size_t)k * shards->send_bytes;
    return comm->ops->all_gather(comm, shards->answers, begin, err);
}

spc_status spc_ranks_draw(spc_ranks_room *r, spc_comm *comm, const spc_ranks_rows *drafter,
                          const spc_lane *lanes, int32_t count, int32_t i, bool writes,
                          spc_error *err)
{
    spc_draw_batch b = {.vocab = drafter->ids,
                        .params = r->params,
                        .logits = rows_of(r, comm, drafter, false),
                        .row = r->row,
                        .position = r->position,
                        .salt = r->salt,
                        .token = r->token,
                        .stats = r->stats};
    spc_status status = SPC_OK;
    int32_t n = 0;

    for (int32_t k = 0; k < count; k++) {
        if (i >= lanes[k].drafts) continue;
        r->params[n] = *lanes[k].params;
        r->row[n] = lanes[k].output + i;
        r->position[n] = lanes[k].position + i;
        r->salt[n++] = lanes[k].salt;
    }
    if (n == 0) return SPC_OK;
    b.sequences = n;

    spc_shards shards = shards_of(r, comm);

    shards.send_bytes = spc_draw_first_bytes(&b, &shards);
    r->left[0] = 1;
    for (int32_t step = 0; r->left[0] > 0 && status == SPC_OK; step++) {
        status = spc_cpu_draw_partial(&b, &shards, step, NULL, err);
        if (status == SPC_OK) status = gather(comm, &shards, err);
        if (status == SPC_OK) status = spc_cpu_draw_combine(&b, &shards, step, NULL, err);
        shards.send_bytes = (size_t)r->left[1];
    }
    if (status != SPC_OK || !writes) return status;
    n = 0;
    for (int32_t k = 0; k < count; k++) {
        if (i >= lanes[k].drafts) continue;
        lanes[k].draft[i] = r->token[n];
        lanes[k].stats[i] = r->stats[n++];
    }
    return SPC_OK;
}

/* The lanes as arrays; returns the longest draft. */
static int32_t fill(spc_ranks_room *r, const spc_lane *lanes, int32_t count)
{
    int32_t longest = 0;

    for (int32_t k = 0; k < count; k++) {
        if (lanes[k].drafts > longest) longest = lanes[k].drafts;
    }
    for (int32_t k = 0; k < count; k++) {
        const spc_lane *lane = &lanes[k];
        size_t drafts = (size_t)lane->drafts;

        r->params[k] = *lane->params;
        r->row[k] = lane->output;
        r->position[k] = lane->position;
        r->salt[k] = lane->salt;
        r->drafts[k] = lane->drafts;
        r->bonus[k] = lane->bonus;
        if (drafts == 0) continue;
        memcpy(r->draft + (size_t)k * (size_t)longest, lane->draft, drafts * sizeof *r->draft);
        memcpy(r->stats + (size_t)k * (size_t)longest, lane->stats, drafts * sizeof *r->stats);
    }
    return longest;
}

spc_status spc_ranks_verify(spc_ranks_room *r, spc_comm *comm, const spc_ranks_rows *drafter,
                            const spc_ranks_rows *verifier, const spc_lane *lanes, int32_t count,
                            spc_verdict *out, spc_error *err)
{
    const int32_t longest = fill(r, lanes, count);
    spc_shards shards = shards_of(r, comm);
    spc_verify_batch b = {.sequences = count,
                          .vocab = verifier->ids,
                          .max_drafts = longest,
                          .params = r->params,
                          .drafter_row = r->row,
                          .verifier = rows_of(r, comm, verifier, false),
                          .verifier_row = r->row,
                          .drafts = r->drafts,
                          .draft = r->draft,
                          .stats = r->stats,
                          .position = r->position,
                          .salt = r->salt,
                          .bonus = r->bonus,
                          .token = r->token,
                          .count = r->count,
                          .status = r->status,
                          .verdict = out ? out : r->verdict};
    spc_status status = SPC_OK;

    /* a rank's own slice of the drafter lies where it would in whole rows: no other is looked at */
    if (drafter) b.drafter = rows_of(r, comm, drafter, true);
    shards.send_bytes = spc_verify_first_bytes(&b, &shards);
    r->left[0] = 1;
    for (int32_t step = 0; r->left[0] > 0 && status == SPC_OK; step++) {
        status = spc_cpu_verify_partial(&b, &shards, step, NULL, err);
        if (status == SPC_OK) status = gather(comm, &shards, err);
        if (status == SPC_OK) status = spc_cpu_verify_combine(&b, &shards, step, NULL, err);
        shards.send_bytes = (size_t)r->left[1];
    }
    return status;
}
