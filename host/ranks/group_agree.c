/* SPDX-License-Identifier: Apache-2.0 */
/* group_agree.c - what ranks tell each other before they decode together.
 *
 * Reading all weights would take as long as loading them: of each tensor a few pieces are compared,
 * so that two checkpoints of one shape are told apart without reading them. */
#include "group_agree.h"

#include "hash.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Pieces of each tensor that are compared, and their bytes. */
enum { PIECES = 4, PIECE = 64 };

typedef struct {
    char options[192];
    char host[96];
} option_record;

typedef struct {
    uint64_t plan, subset, weights;
    spc_limits limits;
    int32_t alone;
    char unit[64];
} model_record;

/* Every rank's record to every rank.
 *
 * all   [world] of `bytes`, the own one filled in */
static spc_status gather(spc_comm *comm, void *all, size_t bytes, spc_error *err)
{
    size_t begin[SPC_RANKS_MAX + 1];

    for (int32_t r = 0; r <= comm->world; r++) begin[r] = (size_t)r * bytes;
    return comm->ops->all_gather(comm, all, begin, err);
}

spc_status spc_agree_options(spc_comm *comm, const char *options, int32_t *local, int32_t *sharers,
                             spc_error *err)
{
    option_record record[SPC_RANKS_MAX], *own = &record[comm->rank];
    spc_status status;

    memset(own, 0, sizeof *own);
    (void)snprintf(own->options, sizeof own->options, "%s", options);
    if (gethostname(own->host, sizeof own->host - 1) != 0) own->host[0] = '\0';
    status = gather(comm, record, sizeof *record, err);
    if (status != SPC_OK) return status;
    *local = *sharers = 0;
    for (int32_t r = 0; r < comm->world; r++) {
        if (strncmp(record[r].host, own->host, sizeof own->host) == 0) {
            *local += r < comm->rank;
            ++*sharers;
        }
        if (strncmp(record[r].options, record[0].options, sizeof own->options) == 0) continue;
        return spc_error_set(err, SPC_EDEVICE,
                             "ranks differ: rank 0 was started with %.190s, rank %d with %.190s",
                             record[0].options, (int)r, record[r].options);
    }
    return SPC_OK;
}

spc_status spc_agree_least(spc_comm *comm, int32_t *value, spc_error *err)
{
    int32_t all[SPC_RANKS_MAX];
    spc_status status;

    all[comm->rank] = *value;
    status = gather(comm, all, sizeof *all, err);
    for (int32_t r = 0; r < comm->world && status == SPC_OK; r++) {
        if (all[r] < *value) *value = all[r];
    }
    return status;
}

/* Of the tokens that a drafter drafts, if not all. */
static uint64_t hash_subset(const spc_plan *plan)
{
    uint64_t hash = SPC_HASH_BEGIN;

    for (int32_t w = 0; plan->subset && w < (plan->ids + 31) / 32; w++) {
        hash = spc_hash_int(hash, plan->subset[w].tokens);
    }
    return hash;
}

static uint64_t hash_plan(const spc_plan *plan)
{
    uint64_t hash = spc_hash_bytes(SPC_HASH_BEGIN, &plan->config, sizeof plan->config);

    hash = spc_hash_int(spc_hash_int(hash, plan->ids), plan->encoder_ops);
    for (int32_t i = 0; i < plan->op_count; i++) {
        const spc_op *op = &plan->op[i];

        hash = spc_hash_int(spc_hash_int(hash, op->kind), op->out);
        hash = spc_hash_int(spc_hash_int(hash, op->a), op->b);
        hash = spc_hash_bytes(hash, op->weight, sizeof op->weight);
        hash = spc_hash_bytes(hash, op->bias, sizeof op->bias);
        hash = spc_hash_int(spc_hash_int(hash, op->layer), op->window);
        hash = spc_hash_bytes(hash, &op->scale, sizeof op->scale);
        hash = spc_hash_bytes(hash, &op->cap, sizeof op->cap);
    }
    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];

        hash = spc_hash_bytes(hash, w->name, strlen(w->name));
        hash = spc_hash_int(spc_hash_int(hash, w->of_rows), w->of_cols);
    }
    return hash;
}

static uint64_t hash_weights(const spc_plan *plan, const spc_bundle *weights)
{
    uint64_t hash = SPC_HASH_BEGIN;

    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_tensor *t = spc_bundle_find(weights, plan->weight[i].name);

        if (!t) continue; /* load says so */
        hash = spc_hash_int(spc_hash_int(hash, (int64_t)t->bytes), (int64_t)t->dtype);
        for (uint64_t k = 0; k < PIECES && t->bytes > 0; k++) {
            uint64_t bytes = t->bytes < PIECE ? t->bytes : PIECE;
            uint64_t at = (t->bytes - bytes) / (PIECES - 1) * k;

            hash = spc_hash_bytes(hash, (const char *)t->data + at, (size_t)bytes);
        }
    }
    return hash;
}

/* What of two ranks' records differs; NULL: nothing.  Another drafter-vocab makes another plan of
 * the same model. */
static const char *difference(const model_record *a, const model_record *b)
{
    if (a->subset != b->subset) return "another drafter-vocab";
    if (a->plan != b->plan) return "another architecture or configuration";
    if (a->weights != b->weights) return "other weights";
    if (memcmp(&a->limits, &b->limits, sizeof a->limits) != 0) {
        return "another number of sessions, of tokens of context or of KV caches";
    }
    if (a->alone != b->alone) return "another drafter-tp";
    return NULL;
}

spc_status spc_agree_model(spc_comm *comm, const spc_plan *plan, const spc_bundle *weights,
                           const spc_limits *limits, const char *unit, spc_error *err)
{
    model_record record[SPC_RANKS_MAX], *own = &record[comm->rank];
    spc_status status;

    memset(own, 0, sizeof *own);
    own->plan = hash_plan(plan);
    own->subset = hash_subset(plan);
    own->weights = hash_weights(plan, weights);
    own->limits.slots = limits->slots;
    own->limits.context = limits->context;
    own->limits.rows = limits->rows;
    own->limits.outputs = limits->outputs;
    own->limits.pages = limits->pages;
    own->alone = plan->alone;
    (void)snprintf(own->unit, sizeof own->unit, "%s", unit);
    status = gather(comm, record, sizeof *record, err);
    for (int32_t r = 1; r < comm->world && status == SPC_OK; r++) {
        const char *what = difference(&record[0], &record[r]);

        if (what) {
            return spc_error_set(err, SPC_EDEVICE,
                                 "ranks differ: rank %d has %s than rank 0 for %.200s: give all "
                                 "ranks the same model and options",
                                 (int)r, what, spc_bundle_where(weights));
        }
        if (strncmp(record[0].unit, record[r].unit, sizeof own->unit) == 0) continue;
        return spc_error_set(err, SPC_EDEVICE,
                             "ranks differ: rank 0 computes with %.60s, rank %d with %.60s: choose "
                             "one for all (isa, or GPUs of one kind)",
                             record[0].unit, (int)r, record[r].unit);
    }
    return status;
}
