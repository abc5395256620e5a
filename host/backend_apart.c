/* SPDX-License-Identifier: Apache-2.0 */
/* backend_apart.c - drafter and verifier on two devices: opening them, and the verbs handed on to
 * the one or the other. */
#include "apart.h"

#include "cpu_threads.h"
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- open -------------------------------------------------------------------------------------
 */

static void apart_close(spc_backend *b)
{
    if (!b) return;
    spc_drivers_close(b->drivers);
    for (int i = 0; i < APART_SIDES; i++) {
        if (b->own[i]) b->ops[i]->close(b->own[i]);
    }
    free(b);
}

static bool is_cpu(const spc_backend *b, apart_side side)
{
    return b->ops[side] == &spc_backend_cpu;
}

/* The drafter's of so many threads, 0: one per core, when both models run on the CPU. */
static int32_t drafter_threads(int32_t threads)
{
    int32_t share = (threads > 0 ? threads : spc_team_cores()) / 4;

    return share > 0 ? share : 1;
}

static spc_status open_verifier(spc_backend *b, const spc_engine_options *o, spc_error *err)
{
    bool cuda = spc_device_is_cuda(o->device);
    spc_status status =
        spc_device_open(o->device, cuda ? 0 : o->threads, cuda ? NULL : o->isa, o->log, o->user,
                        &b->ops[APART_VERIFIER], &b->own[APART_VERIFIER], err);
    int32_t threads = o->threads > 0 ? o->threads : spc_team_cores();

    if (status != SPC_OK || !is_cpu(b, APART_VERIFIER) || spc_device_is_cuda(o->drafter_device)) {
        return status;
    }
    spc_backend_cpu.close(b->own[APART_VERIFIER]); /* it is not alone there */
    threads -= drafter_threads(o->threads);
    return spc_backend_cpu.open(&b->own[APART_VERIFIER], threads > 0 ? threads : 1, o->isa, err);
}

static spc_status open_drafter(spc_backend *b, const spc_engine_options *o, spc_error *err)
{
    bool cuda = spc_device_is_cuda(o->drafter_device);
    int32_t threads = is_cpu(b, APART_VERIFIER) ? drafter_threads(o->threads) : o->threads;
    spc_error error;
    spc_status status =
        spc_device_open(o->drafter_device, cuda ? 0 : threads, cuda ? NULL : o->isa, NULL, NULL,
                        &b->ops[APART_DRAFTER], &b->own[APART_DRAFTER], &error);

    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, status, "drafter-device: %s", error.message);
}

/* One GPU for both is not apart: a single backend runs its rounds as one graph. */
static spc_status check_different(const spc_backend *b, spc_error *err)
{
    const char *one = b->ops[APART_VERIFIER]->device(b->own[APART_VERIFIER]);
    const char *two = b->ops[APART_DRAFTER]->device(b->own[APART_DRAFTER]);
    size_t name = strcspn(one, ",");

    if (is_cpu(b, APART_VERIFIER) || strncmp(one, two, name + 1) != 0) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "drafter-device: expected another device than the verifier's, found "
                         "%.*s for both: leave it out",
                         (int)name, one);
}

spc_status spc_apart_check(const spc_engine_options *o, spc_error *err)
{
    if (!o->drafter) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter-device: there is no drafter for %.40s: name one, or leave "
                             "the device out",
                             o->drafter_device);
    }
    if (o->nccl_comm || o->tp > 1 || o->drafter_tp > 1 || spc_device_ranks(o->device) > 1 ||
        (o->place && o->place->world > 1)) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "drafter-device: a verifier that is cut for several ranks keeps its "
                             "drafter beside it so far: leave out the drafter's device or the "
                             "ranks");
    }
    if (strcmp(o->drafter_device, "cpu") != 0 &&
        (!spc_device_is_cuda(o->drafter_device) || spc_device_ranks(o->drafter_device) > 1)) {
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

spc_status spc_apart_open(const spc_engine_options *o, const spc_plan *drafter, spc_backend **out,
                          spc_error *err)
{
    spc_backend *b = calloc(1, sizeof *b);
    spc_status status;

    *out = NULL;
    if (!b) return spc_error_set(err, SPC_ENOMEM, "no memory for two devices");
    b->drafter = drafter;
    status = open_verifier(b, o, err);
    if (status == SPC_OK) status = open_drafter(b, o, err);
    if (status == SPC_OK) status = check_different(b, err);
    if (status == SPC_OK) status = spc_drivers_open(APART_SIDES, &b->drivers, err);
    if (status != SPC_OK) {
        apart_close(b);
        return status;
    }
    (void)snprintf(b->device, sizeof b->device, "verifier on %s; drafter on %s",
                   b->ops[APART_VERIFIER]->device(b->own[APART_VERIFIER]),
                   b->ops[APART_DRAFTER]->device(b->own[APART_DRAFTER]));
    *out = b;
    return SPC_OK;
}

const spc_backend_ops *spc_apart_device(const spc_backend *b, bool drafter, spc_backend **own)
{
    apart_side side = drafter ? APART_DRAFTER : APART_VERIFIER;

    *own = b->own[side];
    return b->ops[side];
}

bool spc_apart_has_gpu(const spc_backend *b)
{
    return !is_cpu(b, APART_VERIFIER) || !is_cpu(b, APART_DRAFTER);
}

static const char *apart_device(const spc_backend *b)
{
    return b->device;
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

    return b->ops[side]->memory(b->own[side], plan, &own);
}

static void apart_unload(spc_runner *r)
{
    if (!r) return;
    r->ops->unload(r->own);
    free(r);
}

static spc_status apart_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                             const spc_limits *limits, spc_runner **out, spc_error *err)
{
    apart_side side = side_of(b, plan);
    spc_limits own = spc_apart_limits(limits, side == APART_DRAFTER);
    size_t slots = (size_t)limits->slots;
    spc_runner *r = calloc(1, sizeof *r + slots * sizeof *r->room);
    spc_status status;

    *out = NULL;
    if (!r) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for a runner",
                             spc_bundle_where(weights));
    }
    r->backend = b;
    r->ops = b->ops[side];
    r->limits = *limits;
    r->ids = plan->ids;
    for (size_t slot = 0; slot < slots && limits->pages == 0; slot++) {
        r->room[slot] = limits->context;
    }
    status = r->ops->load(b->own[side], plan, weights, &own, &r->own, err);
    if (status != SPC_OK) {
        free(r);
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

static spc_status apart_encode(spc_runner *r, int32_t slot, const int32_t *token, int32_t count,
                               spc_error *err)
{
    spc_apart_settle(r);
    return r->ops->encode(r->own, slot, token, count, err);
}

static spc_status apart_forward(spc_runner *r, const spc_rows *rows, spc_error *err)
{
    spc_apart_settle(r);
    return r->ops->forward(r->own, rows, err);
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

static spc_status apart_map(spc_runner *r, int32_t slot, const int32_t *page, int32_t count,
                            int32_t length, spc_error *err)
{
    spc_apart_settle(r);
    r->room[slot] = spc_pages_room(count, r->limits.context);
    return r->ops->map(r->own, slot, page, count, length, err);
}

static spc_status apart_draw(spc_runner *drafter, const spc_lane *lanes, int32_t count, int32_t i,
                             spc_error *err)
{
    return drafter->ops->draw(drafter->own, lanes, count, i, err);
}

const float *spc_apart_rows(const spc_runner *drafter, const spc_lane *lanes, int32_t count)
{
    const float *rows = NULL;

    for (int32_t k = 0; k < count; k++) {
        for (int32_t i = 0; i < spc_lane_drafter_rows(&lanes[k]); i++) {
            int32_t output = lanes[k].output + i;

            rows = apart_logits(drafter, output) - (ptrdiff_t)output * drafter->ids;
        }
    }
    return rows;
}

static spc_status apart_verify(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                               int32_t count, spc_verdict *out, spc_error *err)
{
    const float *rows = drafter ? spc_apart_rows(drafter, lanes, count) : NULL;

    return verifier->ops->verify_rows(rows, verifier->own, lanes, count, out, err);
}

const spc_backend_ops spc_backend_apart = {
    .name = "apart",
    .close = apart_close,
    .device = apart_device,
    .memory = apart_memory,
    .load = apart_load,
    .unload = apart_unload,
    .encode = apart_encode,
    .forward = apart_forward,
    .logits = apart_logits,
    .length = spc_apart_length,
    .rewind = apart_rewind,
    .map = apart_map,
    .draw = apart_draw,
    .verify = apart_verify,
    .round = spc_apart_round,
    .round_alone = true,
};
