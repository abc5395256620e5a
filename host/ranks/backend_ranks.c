/* SPDX-License-Identifier: Apache-2.0 */
/* backend_ranks.c - several CPU ranks in one process behind one backend. */
#include "backend_ranks.h"

#include "drivers.h"
#include "host/carve.h"
#include "host/cpu/cpu_threads.h"
#include "host/verb.h"
#include "ranks_round.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far beyond any op: ranks of one process come, unless there is a bug. */
enum { TIMEOUT_MS = 120000 };

static const spc_backend_ops *const cpu = &spc_backend_cpu;

struct spc_backend {
    int32_t world;
    spc_comm *comm[SPC_RANKS_MAX];    /* [world] */
    spc_backend *rank[SPC_RANKS_MAX]; /* [world] CPU backends */
    spc_drivers *drivers;
    const spc_verb *verb;             /* the present one */
    bool drafter_whole;               /* its drafter's rows are whole on the first rank */
    spc_status status[SPC_RANKS_MAX]; /* [world] of it */
    spc_error error[SPC_RANKS_MAX];
    char device[96];
};

/* A model: one part and one CPU runner for each of its ranks. */
struct spc_runner {
    spc_backend *backend;
    int32_t count;                       /* ranks: all, or the first alone */
    spc_plan *part[SPC_RANKS_MAX];       /* [count]; NULL where it is the whole plan */
    spc_runner *rank[SPC_RANKS_MAX];     /* [count] */
    const spc_plan *plan;                /* of the whole model */
    spc_ranks_room *room[SPC_RANKS_MAX]; /* [count] where there are several */
};

/* ---- all ranks at once ------------------------------------------------------------------------
 */

/* A model's rows as a rank sees them. */
static spc_ranks_rows rows_on(const spc_runner *r, int32_t rank)
{
    return (spc_ranks_rows){cpu->logits(r->rank[rank], 0), r->plan->ids};
}

static spc_status run_verb(const spc_verb *v, int32_t rank, spc_error *err)
{
    const spc_runner *r = v->runner, *d = v->drafter;
    spc_comm *comm = r->backend->comm[rank];
    spc_ranks_rows rows, drafter;

    if (r->count == 1 || (v->kind != SPC_VERB_DRAW && v->kind != SPC_VERB_VERIFY &&
                          v->kind != SPC_VERB_VERIFY_ROWS)) {
        return spc_verb_run(v, cpu, r->rank[rank], d ? d->rank[rank] : NULL, err);
    }
    rows = rows_on(r, rank);
    if (v->kind == SPC_VERB_DRAW) {
        return spc_ranks_draw(r->room[rank], comm, &rows, v->lanes, v->count, v->draft, rank == 0,
                              err);
    }
    drafter = (spc_ranks_rows){v->drafter_rows, r->plan->ids}; /* whole, where all ranks see them */
    if (d) drafter = rows_on(d, r->backend->drafter_whole ? 0 : rank);
    return spc_ranks_verify(r->room[rank], comm, drafter.logits ? &drafter : NULL, &rows, v->lanes,
                            v->count, rank == 0 ? v->out : NULL, err);
}

static void run_rank(void *user, int32_t rank)
{
    spc_backend *b = user;

    b->status[rank] = run_verb(b->verb, rank, &b->error[rank]);
    if (b->status[rank] != SPC_OK) b->comm[rank]->ops->abort(b->comm[rank], b->error[rank].message);
}

/* The slices of all ranks, put together where the first has its own. */
static const float *ranks_logits(const spc_runner *r, int32_t output)
{
    float *whole = (float *)(uintptr_t)cpu->logits(r->rank[0], output);
    int32_t ids = r->plan->ids;

    for (int32_t k = 1; k < r->count; k++) {
        int32_t first = spc_plan_first_id(r->plan->config.vocab, k, r->count);
        int32_t last = spc_plan_first_id(r->plan->config.vocab, k + 1, r->count);

        if (last > ids) last = ids;
        if (first >= last) continue;
        memcpy(whole + first, cpu->logits(r->rank[k], output) + first,
               (size_t)(last - first) * sizeof *whole);
    }
    return whole;
}

static void make_drafter_whole(const spc_verb *v)
{
    for (int32_t k = 0; k < v->count; k++) {
        int32_t rows = v->lanes[k].drafts + (v->lanes[k].bonus ? 1 : 0);

        for (int32_t i = 0; i < rows; i++) {
            (void)ranks_logits(v->drafter, v->lanes[k].output + i);
        }
    }
}

/* All ranks at once. */
static spc_status pass(const spc_verb *v, spc_error *err)
{
    spc_backend *b = v->runner->backend;
    const spc_runner *d = v->drafter;

    if (v->runner->count == 1) return run_verb(v, 0, err);
    b->verb = v;
    b->drafter_whole =
        d && (d->count == 1 || !spc_plan_cut_alike(v->runner->plan, d->plan, b->world));
    if (b->drafter_whole) make_drafter_whole(v);
    spc_drivers_run(b->drivers, run_rank, b);
    for (int32_t k = 0; k < b->world; k++) {
        if (b->status[k] == SPC_OK) continue;
        if (err) *err = b->error[k];
        return b->status[k];
    }
    return SPC_OK;
}

#include "host/verbs_body.h"

/* ---- open -------------------------------------------------------------------------------------
 */

static void ranks_close(spc_backend *b)
{
    if (!b) return;
    spc_drivers_close(b->drivers);
    for (int32_t k = 0; k < b->world; k++) {
        cpu->close(b->rank[k]);
        spc_comm_close(b->comm[k]);
    }
    free(b);
}

/* CPU backends and drivers; what has been made is closed by ranks_close. */
static spc_status open_ranks(spc_backend *b, int32_t threads, const char *isa, spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < b->world && status == SPC_OK; k++) {
        status = cpu->open(&b->rank[k], threads, isa, err);
    }
    return status == SPC_OK ? spc_drivers_open(b->world, &b->drivers, err) : status;
}

/* Threads of each rank when so many, 0: one per core, are shared out. */
static spc_status share_threads(int32_t world, int32_t threads, int32_t *each, spc_error *err)
{
    if (threads < 0) {
        return spc_error_set(err, SPC_EUSAGE,
                             "threads: expected 0 (one per core) or more, found %d", (int)threads);
    }
    if (threads == 0) threads = spc_team_cores();
    *each = threads > world ? threads / world : 1;
    return SPC_OK;
}

spc_status spc_ranks_open(int32_t world, int32_t threads, const char *isa, spc_backend **out,
                          spc_error *err)
{
    spc_backend *b = calloc(1, sizeof *b);
    int32_t each = 0;
    spc_status status;

    *out = NULL;
    if (!b) return spc_error_set(err, SPC_ENOMEM, "no memory for %d ranks", (int)world);
    status = spc_comm_local_open(world, TIMEOUT_MS, b->comm, err);
    if (status == SPC_OK) {
        b->world = world;
        status = share_threads(world, threads, &each, err);
    }
    if (status == SPC_OK) status = open_ranks(b, each, isa, err);
    if (status != SPC_OK) {
        ranks_close(b);
        return status;
    }
    (void)snprintf(b->device, sizeof b->device, "%d ranks, each %s", (int)world,
                   cpu->device(b->rank[0]));
    *out = b;
    return SPC_OK;
}

static const char *ranks_device(const spc_backend *b)
{
    return b->device;
}

/* ---- load -------------------------------------------------------------------------------------
 */

static size_t ranks_memory(const spc_backend *b, const spc_plan *plan, const spc_limits *limits)
{
    size_t total = 0;

    if (plan->alone || b->world == 1) return cpu->memory(b->rank[0], plan, limits);
    for (int32_t k = 0; k < b->world && total < CARVE_MOST; k++) {
        size_t bytes = CARVE_MOST; /* of a plan that cannot be cut: load says why */
        spc_plan *part;

        if (spc_plan_split(plan, b->comm[k], "model", &part, NULL) == SPC_OK) {
            bytes = cpu->memory(b->rank[k], part, limits);
            spc_plan_close(part);
        }
        bytes += spc_ranks_room_bytes(limits->slots, plan->config.vocab, b->world);
        total = bytes < CARVE_MOST - total ? total + bytes : CARVE_MOST;
    }
    return total;
}

static void ranks_unload(spc_runner *r)
{
    if (!r) return;
    for (int32_t k = 0; k < r->count; k++) {
        cpu->unload(r->rank[k]);
        spc_plan_close(r->part[k]);
        spc_ranks_room_close(r->room[k]);
    }
    free(r);
}

static spc_status ranks_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                             const spc_limits *limits, spc_runner **out, spc_error *err)
{
    const char *where = spc_bundle_where(weights);
    spc_limits unmetered = *limits;
    spc_runner *r = calloc(1, sizeof *r);
    spc_status status = SPC_OK;

    *out = NULL;
    unmetered.meter = NULL;
    if (!r) return spc_error_set(err, SPC_ENOMEM, "%s: no memory for a runner", where);
    r->backend = b;
    r->plan = plan;
    r->count = plan->alone ? 1 : b->world;
    for (int32_t k = 0; k < r->count && status == SPC_OK; k++) {
        const spc_plan *part = plan;

        if (r->count > 1) {
            status = spc_plan_split(plan, b->comm[k], where, &r->part[k], err);
            part = r->part[k];
        }
        if (r->count > 1 && status == SPC_OK) {
            r->room[k] = spc_ranks_room_open(limits->slots, plan->config.vocab, b->world);
            if (!r->room[k]) {
                status = spc_error_set(err, SPC_ENOMEM, "%s: no memory for the rounds of rank %d",
                                       where, (int)k);
            }
        }
        if (status == SPC_OK) {
            status = cpu->load(b->rank[k], part, weights, k == r->count - 1 ? limits : &unmetered,
                               &r->rank[k], err);
        }
    }
    if (status != SPC_OK) {
        ranks_unload(r);
        return status;
    }
    *out = r;
    return SPC_OK;
}

/* ---- the other verbs --------------------------------------------------------------------------
 */

static int32_t ranks_length(const spc_runner *r, int32_t slot)
{
    return cpu->length(r->rank[0], slot);
}

static void ranks_rewind(spc_runner *r, int32_t slot, int32_t length)
{
    for (int32_t k = 0; k < r->count; k++) cpu->rewind(r->rank[k], slot, length);
}

const spc_backend_ops spc_backend_ranks = {
    .name = "ranks",
    .close = ranks_close,
    .device = ranks_device,
    .memory = ranks_memory,
    .load = ranks_load,
    .unload = ranks_unload,
    SPC_VERBS_PASSED,
    .verify_rows = pass_verify_rows,
    .logits = ranks_logits,
    .length = ranks_length,
    .rewind = ranks_rewind,
};
