/* SPDX-License-Identifier: Apache-2.0 */
/* backend_apart.c - drafter and verifier on two devices, of which the verifier's may be ranks:
 * opening them, and the verbs handed on to the one or the other. */
#include "apart.h"

#include "host/carve.h"
#include "host/cpu/cpu_threads.h"
#include "host/device.h"
#include "host/engine.h"
#include "host/ranks/backend_group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of every wait for the drafter, where ranks of this process wait for each other as long. */
enum { TIMEOUT_MS = 120000 };

/* ---- open -------------------------------------------------------------------------------------
 */

static void apart_close(spc_backend *b)
{
    if (!b) return;
    if (b->own[APART_VERIFIER]) b->ops[APART_VERIFIER]->close(b->own[APART_VERIFIER]);
    if (b->lost) return; /* its thread has the rest */
    spc_drivers_close(b->drivers);
    if (b->own[APART_DRAFTER]) b->ops[APART_DRAFTER]->close(b->own[APART_DRAFTER]);
    free(b);
}

/* One verifier, not cut: where both turn out to be on the CPU they share its threads. */
static spc_status open_alone(spc_backend *b, const spc_engine_options *o, int32_t *beside,
                             spc_error *err)
{
    bool cuda = spc_device_is_cuda(o->device);
    spc_backend **own = &b->own[APART_VERIFIER];
    spc_status status = spc_device_open(o->device, cuda ? 0 : o->threads, cuda ? NULL : o->isa,
                                        o->log, o->user, &b->ops[APART_VERIFIER], own, err);
    int32_t threads = o->threads > 0 ? o->threads : spc_team_cores();

    if (status != SPC_OK || b->ops[APART_VERIFIER] != &spc_backend_cpu || b->gpu[APART_DRAFTER]) {
        return status;
    }
    spc_backend_cpu.close(*own); /* it is not alone there */
    *beside = spc_team_quarter(threads);
    threads -= *beside;
    return spc_backend_cpu.open(own, threads > 0 ? threads : 1, o->isa, err);
}

/* beside   of the drafter: as asked for; or, of threads that they share, receives its own */
static spc_status open_verifier(spc_backend *b, const spc_engine_options *o, spc_comm *comm,
                                const char *shared, int32_t *beside, spc_error *err)
{
    bool cuda = spc_device_is_cuda(o->device), share = !cuda && !b->gpu[APART_DRAFTER];
    int32_t threads = cuda ? 0 : o->threads;
    const char *isa = cuda ? NULL : o->isa;
    spc_backend **own = &b->own[APART_VERIFIER];

    if (comm) {
        b->grouped = true;
        b->timeout_ms = o->place->timeout_ms;
        b->ops[APART_VERIFIER] = &spc_backend_group;
        return spc_group_open(comm, b->timeout_ms, o->device, threads, isa, shared,
                              share && o->place->rank == 0 ? beside : NULL, own, err);
    }
    if (spc_options_ranks(o) <= 1) return open_alone(b, o, beside, err);
    b->timeout_ms = TIMEOUT_MS;
    if (share) {
        if (threads == 0) threads = spc_team_cores();
        *beside = spc_team_quarter(threads);
        threads -= *beside;
        if (threads == 0) threads = 1;
    }
    return spc_device_open_ranks(o->device, spc_options_ranks(o), threads, isa,
                                 &b->ops[APART_VERIFIER], own, err);
}

static spc_status open_drafter(spc_backend *b, const spc_engine_options *o, int32_t threads,
                               spc_error *err)
{
    bool cuda = b->gpu[APART_DRAFTER];
    int32_t ranks = spc_device_ranks(o->drafter_device);
    const spc_backend_ops **ops = &b->ops[APART_DRAFTER];
    spc_backend **own = &b->own[APART_DRAFTER];
    spc_error error;
    spc_status status;

    b->cut = ranks > 1;
    if (b->cut) {
        status = spc_device_open_ranks(o->drafter_device, ranks, 0, NULL, ops, own, &error);
    } else {
        status = spc_device_open(o->drafter_device, cuda ? 0 : threads, cuda ? NULL : o->isa, NULL,
                                 NULL, ops, own, &error);
    }
    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, status, "drafter-device: %s", error.message);
}

/* Is "cuda:N" among the devices that this text names? */
static bool names_gpu(const char *text, int32_t number)
{
    char name[24];
    size_t bytes = (size_t)snprintf(name, sizeof name, "cuda:%d", (int)number);

    for (; (text = strstr(text, name)); text += bytes) {
        if (text[bytes] == ',' || text[bytes] == '\0') return true;
    }
    return false;
}

/* Ranks of the verifier and of the drafter that wait for each other on one GPU might wait for ever:
 * each for a kernel that the other's keep from beginning.  (GPUs of other processes are not known
 * here.) */
static spc_status check_own_gpus(const spc_backend *b, const spc_engine_options *o, spc_error *err)
{
    const char *verifier = b->ops[APART_VERIFIER]->device(b->own[APART_VERIFIER]);
    bool first = o->device && strcmp(o->device, "cuda") == 0 && !b->grouped; /* 0, 1, ... */

    for (const char *at = o->drafter_device; at; at = strchr(at, ',')) {
        int32_t number = (int32_t)strtol(at + (*at == ',') + 5, NULL, 10);

        if (names_gpu(verifier, number) || (o->device && names_gpu(o->device, number)) ||
            (first && number < spc_options_ranks(o))) {
            return spc_error_set(err, SPC_EUSAGE,
                                 "drafter-device: expected GPUs that the verifier does not run on, "
                                 "as the drafter has several, found cuda:%d, which is one of its",
                                 (int)number);
        }
        if (*at == ',') at++;
    }
    return SPC_OK;
}

/* One GPU for both is not apart: a single backend runs its rounds as one graph.  Of ranks it may be
 * one's: then the drafter is on this one alone. */
static spc_status check_different(const spc_backend *b, const spc_engine_options *o, spc_error *err)
{
    const char *one = b->ops[APART_VERIFIER]->device(b->own[APART_VERIFIER]);
    const char *two = b->ops[APART_DRAFTER]->device(b->own[APART_DRAFTER]);
    size_t name = strcspn(one, ",");

    if (!b->gpu[APART_VERIFIER]) return SPC_OK;
    if (b->cut) return check_own_gpus(b, o, err);
    if (b->timeout_ms > 0 || strncmp(one, two, name + 1) != 0) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "drafter-device: expected another device than the verifier's, found "
                         "%.*s for both: leave it out",
                         (int)name, one);
}

/* A drafter on several GPUs is sharded over them, said or not. */
static spc_status check_drafter_ranks(const spc_engine_options *o, spc_error *err)
{
    int32_t ranks = spc_device_ranks(o->drafter_device);

    if (o->drafter_tp >= 0 && (o->drafter_tp <= 1 || o->drafter_tp == ranks)) {
        if (ranks <= SPC_RANKS_MAX) return SPC_OK;
        return spc_error_set(err, SPC_EUSAGE, "drafter-device: expected 1 to %d GPUs, found %d",
                             SPC_RANKS_MAX, (int)ranks);
    }
    if (ranks > 1) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter-tp: expected %d (the GPUs of drafter-device), found %d",
                             (int)ranks, (int)o->drafter_tp);
    }
    return spc_error_set(err, SPC_EUSAGE,
                         "drafter-device and drafter-tp: one gives the drafter its own device, "
                         "the other shards it over all ranks of the verifier: expected one of "
                         "them, found %.40s and %d (to shard it over GPUs of its own name them, "
                         "as cuda:2,cuda:3)",
                         o->drafter_device, (int)o->drafter_tp);
}

spc_status spc_apart_check(const spc_engine_options *o, spc_error *err)
{
    spc_status status;

    if (!o->drafter) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter-device: there is no drafter for %.40s: name one, or leave "
                             "the device out",
                             o->drafter_device);
    }
    status = check_drafter_ranks(o, err);
    if (status != SPC_OK) return status;
    if (o->nccl_comm) {
        return spc_error_set(
            err, SPC_EUNSUPPORTED,
            "drafter-device: ranks of an application's communicator (nccl_comm) "
            "each draft for themselves: leave the drafter's device out, or have spc "
            "make the ranks (tp, place)");
    }
    if (strcmp(o->drafter_device, "cpu") != 0 && !spc_device_is_cuda(o->drafter_device)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter-device: expected cpu, cuda or cuda:N, found '%.40s'",
                             o->drafter_device);
    }
    if (!spc_device_is_cuda(o->device) || !spc_device_is_cuda(o->drafter_device)) return SPC_OK;
    if (o->threads == 0 && !o->isa) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "threads and isa are the CPU's, and both models run on a GPU: leave them "
                         "out");
}

static void tell_device(spc_backend *b)
{
    const char *verifier = b->ops[APART_VERIFIER]->device(b->own[APART_VERIFIER]);
    const char *drafter = "rank 0";

    if (b->ops[APART_DRAFTER]) drafter = b->ops[APART_DRAFTER]->device(b->own[APART_DRAFTER]);
    (void)snprintf(b->device, sizeof b->device, "verifier on %s; drafter on %s", verifier, drafter);
}

spc_status spc_apart_open(const spc_engine_options *o, spc_comm *comm, const char *shared,
                          spc_backend **out, spc_error *err)
{
    spc_backend *b = calloc(1, sizeof *b);
    int32_t beside = o->threads;
    spc_error error;
    spc_status status;

    *out = NULL;
    if (!b) {
        if (comm) comm->ops->abort(comm, "a rank has no memory");
        spc_comm_close(comm);
        return spc_error_set(err, SPC_ENOMEM, "no memory for two devices");
    }
    b->gpu[APART_DRAFTER] = spc_device_is_cuda(o->drafter_device);
    status = open_verifier(b, o, comm, shared, &beside, &error);
    if (status != SPC_OK) goto fail;
    b->gpu[APART_VERIFIER] = comm ? spc_device_is_cuda(o->device)
                                  : strncmp(b->ops[APART_VERIFIER]->name, "cuda", 4) == 0;
    if (!comm || comm->rank == 0) {
        status = open_drafter(b, o, beside, &error);
        if (status == SPC_OK) status = check_different(b, o, &error);
        if (status == SPC_OK) status = spc_drivers_open(APART_SIDES, &b->drivers, &error);
    }
    if (status != SPC_OK) {
        if (comm) spc_group_abort(b->own[APART_VERIFIER], error.message);
        goto fail;
    }
    tell_device(b);
    *out = b;
    return SPC_OK;
fail:
    if (err) *err = error;
    apart_close(b);
    return status;
}

void spc_apart_drafter(spc_backend *b, const spc_plan *drafter)
{
    b->drafter = drafter;
}

const spc_backend_ops *spc_apart_device(const spc_backend *b, bool drafter, spc_backend **own)
{
    apart_side side = drafter ? APART_DRAFTER : APART_VERIFIER;

    *own = b->own[side];
    return b->ops[side];
}

bool spc_apart_has_gpu(const spc_backend *b)
{
    return b->gpu[APART_VERIFIER] || b->gpu[APART_DRAFTER];
}

static const char *apart_device(const spc_backend *b)
{
    return b->device;
}

/* Both have as many: of that side which makes more of them. */
static int32_t apart_chunk_rows(const spc_backend *b)
{
    int32_t most = SPC_CHUNK_ROWS;

    for (int32_t side = 0; side < APART_SIDES; side++) {
        int32_t rows;

        if (!b->ops[side] || !b->ops[side]->chunk_rows) continue;
        rows = b->ops[side]->chunk_rows(b->own[side]);
        if (rows > most) most = rows;
    }
    return most;
}

/* Of both sides, unless one may still be at work. */
static const char *apart_notice(spc_backend *b)
{
    const char *notice = NULL;

    for (int32_t side = 0; side < APART_SIDES && !notice && !b->lost; side++) {
        if (!b->ops[side] || !b->ops[side]->notice) continue;
        notice = b->ops[side]->notice(b->own[side]);
    }
    return notice;
}

/* ---- load -------------------------------------------------------------------------------------
 */

static apart_side side_of(const spc_backend *b, const spc_plan *plan)
{
    return plan == b->drafter ? APART_DRAFTER : APART_VERIFIER;
}

spc_limits spc_apart_limits(const spc_limits *limits, bool drafter)
{
    spc_limits own = *limits;

    own.outputs += APART_DRAFTS; /* the other bank: rows of one lie here while those of the next
                                    round are written there */
    own.drafter_rows = !drafter;
    return own;
}

static size_t apart_memory(const spc_backend *b, const spc_plan *plan, const spc_limits *limits)
{
    apart_side side = side_of(b, plan);
    spc_limits own = spc_apart_limits(limits, side == APART_DRAFTER);
    size_t bytes, desk = b->timeout_ms > 0 && side == APART_DRAFTER ? spc_desk_bytes(&own) : 0;

    if (!b->ops[side]) return 0;
    bytes = b->ops[side]->memory(b->own[side], plan, &own);
    return bytes < CARVE_MOST - desk ? bytes + desk : CARVE_MOST;
}

static spc_status apart_claim(const spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                              const spc_limits *limits, spc_claims *claims, spc_error *err)
{
    apart_side side = side_of(b, plan);
    spc_limits own = spc_apart_limits(limits, side == APART_DRAFTER);

    if (!b->ops[side] || !b->ops[side]->claim) return SPC_OK;
    return b->ops[side]->claim(b->own[side], plan, weights, &own, claims, err);
}

static bool apart_given_up(const spc_runner *r)
{
    return r->side == APART_DRAFTER && r->backend->lost;
}

static void apart_unload(spc_runner *r)
{
    if (!r || apart_given_up(r)) return;
    if (r->ops) r->ops->unload(r->own);
    spc_desk_close(r->desk);
    free(r);
}

static spc_status apart_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                             const spc_limits *limits, spc_runner **out, spc_error *err)
{
    apart_side side = side_of(b, plan);
    spc_limits own = spc_apart_limits(limits, side == APART_DRAFTER);
    size_t slots = (size_t)limits->slots, outputs = (size_t)own.outputs;
    spc_runner *r = calloc(1, sizeof *r + (slots + outputs) * sizeof *r->room);
    spc_status status = SPC_OK;

    *out = NULL;
    if (!r) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for a runner",
                             spc_bundle_where(weights));
    }
    r->backend = b;
    r->side = side;
    r->ops = b->ops[side];
    r->limits = *limits;
    r->ids = plan->ids;
    r->weights = weights;
    r->wanted = r->room + slots;
    for (size_t slot = 0; slot < slots && limits->pages == 0; slot++) {
        r->room[slot] = limits->context;
    }
    if (side == APART_DRAFTER && b->timeout_ms > 0 && r->ops) {
        r->desk = spc_desk_open(&own);
        if (!r->desk) {
            status = spc_error_set(err, SPC_ENOMEM, "%s: no memory for its rounds",
                                   spc_bundle_where(weights));
        }
    }
    if (status == SPC_OK && r->ops) {
        status = r->ops->load(b->own[side], plan, weights, &own, &r->own, err);
    }
    if (status != SPC_OK) {
        apart_unload(r);
        return status;
    }
    *out = r;
    return SPC_OK;
}

/* ---- the other verbs --------------------------------------------------------------------------
 */

int32_t spc_apart_length(const spc_runner *r, int32_t slot)
{
    return r->ops->length(r->own, slot) - (slot == r->ahead.slot ? r->hidden : 0);
}

void spc_apart_settle(spc_runner *r)
{
    if (r->hidden > 0) {
        r->ops->rewind(r->own, r->ahead.slot, spc_apart_length(r, r->ahead.slot));
    }
    r->hidden = 0;
    r->ahead.count = 0;
}

static const float *apart_logits(const spc_runner *r, int32_t output)
{
    return r->ops->logits(r->own, output);
}

/* A session whose round is over is cut to what it kept: drafts that may lie ready stay. */
static void apart_rewind(spc_runner *r, int32_t slot, int32_t length)
{
    if (slot == r->ahead.slot && r->hidden > 0) {
        r->hidden = r->ops->length(r->own, slot) - length;
    } else {
        r->ops->rewind(r->own, slot, length);
    }
}

static spc_status verify(const spc_verb *v, spc_error *err)
{
    const spc_runner *r = v->runner;
    const float *rows = NULL;
    spc_status status = SPC_OK;

    if (v->drafter) status = spc_apart_rows(v->drafter, v->lanes, v->count, &rows, err);
    if (status != SPC_OK) return status;
    return r->ops->verify_rows(rows, r->own, v->lanes, v->count, v->out, err);
}

static spc_status pass(const spc_verb *v, spc_error *err)
{
    spc_runner *r = v->runner;
    spc_status status = spc_apart_lives(r->backend, err);

    if (status != SPC_OK) return status;
    switch (v->kind) {
    case SPC_VERB_VERIFY: return verify(v, err);
    case SPC_VERB_MAP: r->room[v->slot] = spc_pages_room(v->count, r->limits.context); break;
    case SPC_VERB_GATHER:
        if (r->side == APART_VERIFIER && !r->ops->gather) return SPC_OK; /* they are whole */
        break;
    default: break;
    }
    if (v->kind != SPC_VERB_DRAW && v->kind != SPC_VERB_GATHER) spc_apart_settle(r);
    if (r->side == APART_DRAFTER) return spc_apart_verb(v, err);
    return spc_verb_run(v, r->ops, r->own, NULL, err);
}

#include "host/verbs_body.h"

const spc_backend_ops spc_backend_apart = {
    .name = "apart",
    .close = apart_close,
    .device = apart_device,
    .chunk_rows = apart_chunk_rows,
    .notice = apart_notice,
    .memory = apart_memory,
    .claim = apart_claim,
    .load = apart_load,
    .unload = apart_unload,
    .given_up = apart_given_up,
    SPC_VERBS_PASSED,
    .gather = pass_gather,
    .logits = apart_logits,
    .length = spc_apart_length,
    .rewind = apart_rewind,
    .round = spc_apart_round,
    .round_alone = true,
};
