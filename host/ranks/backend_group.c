/* SPDX-License-Identifier: Apache-2.0 */
/* backend_group.c - several processes, each a rank, behind one backend: opening, loading, and the
 * verbs as jobs for all ranks (group_run.c). */
#include "group.h"
#include "group_agree.h"
#include "hash.h"
#include "host/carve.h"
#include "host/cpu/cpu_threads.h"
#include "host/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- open -------------------------------------------------------------------------------------
 */

static void group_close(spc_backend *b)
{
    if (!b) return;
    spc_group_stop(b);
    if (b->ops) b->ops->close(b->own);
    spc_pulse_close(b->pulse);
    spc_comm_close(b->comm);
    (void)pthread_cond_destroy(&b->wake);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
}

/* So many, or this rank's share of what the machine lets it use. */
static spc_status count_threads(int32_t threads, int32_t sharers, int32_t *out, spc_error *err)
{
    spc_team *team;
    spc_status status;

    *out = threads;
    if (threads != 0) return SPC_OK;
    status = spc_team_open(0, &team, err);
    if (status != SPC_OK) return status;
    *out = spc_team_count(team) / sharers;
    if (*out < 1) *out = 1;
    spc_team_close(team);
    return SPC_OK;
}

/* This process's device. */
static spc_status open_own(spc_backend *b, spc_device_place *place, int32_t sharers,
                           int32_t *beside, spc_error *err)
{
    spc_status status;

    b->cuts = !spc_device_is_cuda(place->device);
    status = b->cuts ? count_threads(place->threads, sharers, &place->threads, err)
                     : spc_pulse_open(b->comm, b->timeout_ms, &b->pulse, err);
    if (status != SPC_OK) return status;
    if (beside && b->cuts) {
        *beside = spc_team_quarter(place->threads);
        place->threads = place->threads > *beside ? place->threads - *beside : 1;
    }
    return spc_device_open_place(place, &b->ops, &b->own, err);
}

spc_status spc_group_open(spc_comm *comm, int32_t timeout_ms, const char *device, int32_t threads,
                          const char *isa, const char *options, int32_t *beside, spc_backend **out,
                          spc_error *err)
{
    spc_backend *b = calloc(1, sizeof *b);
    spc_device_place place = {device, threads, isa, comm, 0, timeout_ms};
    int32_t sharers = 1;
    pthread_condattr_t clock;
    spc_error error;
    spc_status status;

    *out = NULL;
    if (!b || pthread_condattr_init(&clock) != 0) {
        comm->ops->abort(comm, "a rank has no memory");
        spc_comm_close(comm);
        free(b);
        return spc_error_set(err, SPC_ENOMEM, "no memory for a group");
    }
    b->comm = comm;
    b->timeout_ms = timeout_ms;
    b->digest = SPC_HASH_BEGIN;
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&b->lock, NULL); /* neither fails on the systems this runs on */
    (void)pthread_cond_init(&b->wake, &clock);
    (void)pthread_condattr_destroy(&clock);
    status = spc_agree_options(comm, options, &place.local, &sharers, &error);
    if (status == SPC_OK) status = open_own(b, &place, sharers, beside, &error);
    if (status != SPC_OK) {
        (void)spc_group_end(b, status, &error, err);
        group_close(b);
        return status;
    }
    (void)snprintf(b->device, sizeof b->device, "%d processes, rank %d on %s", (int)comm->world,
                   (int)comm->rank, b->ops->device(b->own));
    *out = b;
    return SPC_OK;
}

static const char *group_device(const spc_backend *b)
{
    return b->device;
}

static int32_t group_chunk_rows(const spc_backend *b)
{
    return b->ops->chunk_rows ? b->ops->chunk_rows(b->own) : SPC_CHUNK_ROWS;
}

/* The own device's, then what others have said of theirs. */
static const char *group_notice(spc_backend *b)
{
    const char *notice;

    (void)pthread_mutex_lock(&b->lock);
    notice = b->ops->notice ? b->ops->notice(b->own) : NULL;
    if (notice) {
        spc_notices_told(&b->notices, notice);
    } else {
        notice = spc_notices_next(&b->notices);
    }
    (void)pthread_mutex_unlock(&b->lock);
    return notice;
}

/* ---- load -------------------------------------------------------------------------------------
 */

/* What this rank reserves; the others do as much, and more where rank 0 hands rows of a drafter on:
 * they are received there. */
static size_t group_memory(const spc_backend *b, const spc_plan *plan, const spc_limits *limits)
{
    size_t bytes, rewinds = times(sizeof(spc_command_rewind), limits->slots);
    size_t desk = spc_desk_bytes(limits) + rewinds;
    spc_plan *part;

    if (plan->alone || !b->cuts) {
        bytes = b->ops->memory(b->own, plan, limits);
    } else {
        if (spc_plan_split(plan, b->comm, "model", &part, NULL) != SPC_OK) return CARVE_MOST;
        bytes = b->ops->memory(b->own, part, limits);
        spc_plan_close(part);
        desk += spc_ranks_room_bytes(limits->slots, plan->config.vocab, b->comm->world);
    }
    if (limits->drafter_rows) desk += spc_group_rows_bytes(b->comm, plan, limits);
    if (desk > CARVE_MOST) desk = CARVE_MOST;
    return bytes < CARVE_MOST - desk ? bytes + desk : CARVE_MOST;
}

/* Only a GPU's rank claims anything, and it cuts the plan by itself. */
static spc_status group_claim(const spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                              const spc_limits *limits, spc_claims *claims, spc_error *err)
{
    if (!b->ops->claim) return SPC_OK;
    return b->ops->claim(b->own, plan, weights, limits, claims, err);
}

spc_status spc_group_least(spc_backend *b, int32_t *value, spc_error *err)
{
    spc_error error;

    return spc_group_end(b, spc_agree_least(b->comm, value, &error), &error, err);
}

static void group_unload(spc_runner *r)
{
    if (!r) return;
    spc_group_stop(r->backend);
    r->backend->ops->unload(r->own);
    spc_plan_close(r->part);
    spc_ranks_room_close(r->room);
    spc_group_rows_close(r->shared);
    spc_desk_close(r->desk);
    free(r->rewind);
    free(r);
}

/* What computes, of "cpu, 2 threads, avx512" or "cuda:0, NVIDIA H100 80GB HBM3": numbers of threads
 * and of GPUs may differ. */
static const char *unit_of(const spc_backend *b)
{
    const char *device = b->ops->device(b->own);
    const char *comma = b->cuts ? strrchr(device, ',') : strchr(device, ',');

    return comma ? comma + 2 : device;
}

/* This rank's part of a model. */
static spc_status load_part(spc_runner *r, const spc_bundle *weights, const spc_limits *limits,
                            spc_error *err)
{
    spc_backend *b = r->backend;
    const char *where = spc_bundle_where(weights);
    spc_status status = SPC_OK;

    r->desk = spc_desk_open(limits);
    r->rewind = calloc((size_t)limits->slots, sizeof *r->rewind);
    if (!r->plan->alone && b->cuts) {
        status = spc_plan_split(r->plan, b->comm, where, &r->part, err);
        if (status != SPC_OK) return status;
        r->room = spc_ranks_room_open(limits->slots, r->plan->config.vocab, b->comm->world);
    }
    if (limits->drafter_rows) r->shared = spc_group_rows_open(b->comm, r->plan, limits);
    if (!r->desk || !r->rewind || (r->part && !r->room) || (limits->drafter_rows && !r->shared)) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for its rounds", where);
    }
    return b->ops->load(b->own, r->part ? r->part : r->plan, weights, limits, &r->own, err);
}

static spc_status group_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                             const spc_limits *limits, spc_runner **out, spc_error *err)
{
    spc_runner *r = calloc(1, sizeof *r);
    spc_error error;
    spc_status status;

    *out = NULL;
    if (!r || b->runners == SPC_GROUP_MODELS) {
        free(r);
        status = spc_error_set(&error, SPC_ENOMEM, "no memory for a runner");
        return spc_group_end(b, status, &error, err);
    }
    *r = (spc_runner){.backend = b, .plan = plan, .index = b->runners};
    status = spc_agree_model(b->comm, plan, weights, limits, unit_of(b), &error);
    if (status == SPC_OK) status = load_part(r, weights, limits, &error);
    /* nobody goes on unless all have loaded it: the others learn here why not */
    if (status == SPC_OK) status = b->comm->ops->barrier(b->comm, &error);
    if (status != SPC_OK) {
        (void)spc_group_end(b, status, &error, err);
        group_unload(r);
        return status;
    }
    b->runner[b->runners++] = r;
    *out = r;
    return SPC_OK;
}

/* ---- the other verbs --------------------------------------------------------------------------
 */

static const float *group_logits(const spc_runner *r, int32_t output)
{
    return r->backend->ops->logits(r->own, output);
}

static int32_t group_length(const spc_runner *r, int32_t slot)
{
    return r->backend->ops->length(r->own, slot);
}

/* Told with the next command: a later one of the same slot takes the place of an earlier. */
static void group_rewind(spc_runner *r, int32_t slot, int32_t length)
{
    int32_t i = 0;

    (void)pthread_mutex_lock(&r->backend->lock);
    r->backend->ops->rewind(r->own, slot, length);
    while (i < r->rewinds && r->rewind[i].slot != slot) i++;
    r->rewind[i] = (spc_command_rewind){r->index, slot, length};
    if (i == r->rewinds) r->rewinds++;
    (void)pthread_mutex_unlock(&r->backend->lock);
}

static spc_status pass(const spc_verb *v, spc_error *err)
{
    spc_verb with = *v;

    if (v->kind == SPC_VERB_VERIFY_ROWS) { /* the others are told whether there are any */
        with.draft = v->drafter_rows != NULL;
        return spc_group_run(&with, err);
    }
    if (v->runner->plan->alone && v->kind == SPC_VERB_GATHER) return SPC_OK;
    return spc_group_run(v, err);
}

#include "host/verbs_body.h"

const spc_backend_ops spc_backend_group = {
    .name = "group",
    .close = group_close,
    .device = group_device,
    .chunk_rows = group_chunk_rows,
    .notice = group_notice,
    .memory = group_memory,
    .claim = group_claim,
    .load = group_load,
    .unload = group_unload,
    SPC_VERBS_PASSED,
    .verify_rows = pass_verify_rows,
    .gather = pass_gather,
    .logits = group_logits,
    .length = group_length,
    .rewind = group_rewind,
};
