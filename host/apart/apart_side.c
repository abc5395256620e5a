/* SPDX-License-Identifier: Apache-2.0 */
/* apart_side.c - the drafter's side at work: in the caller's thread, beside the verifier in its
 * own, or, where the verifier's side are ranks, always in its own and not for longer than ranks
 * wait for each other.
 *
 * A device that hangs does not return, so that a side that is late is given up: its thread, its
 * models and all that they use are left as they are, and the caller goes away with a reason. */
#include "apart.h"

#include "host/ranks/backend_group.h"

#include <stdio.h>
#include <string.h>

/* ---- both sides -------------------------------------------------------------------------------
 */

static void work(void *user, int32_t side)
{
    spc_backend *b = user;

    b->status[side] = b->work[side] ? b->work[side](b, &b->error[side]) : SPC_OK;
}

/* Beside ranks no verb works any more; other processes need not wait for what rank 0 asks. */
static void end(spc_backend *b, const spc_error *error)
{
    b->failure = *error;
    if (b->grouped) spc_group_abort(b->own[APART_VERIFIER], error->message);
}

static void give_up(spc_backend *b)
{
    const char *device = b->ops[APART_DRAFTER]->device(b->own[APART_DRAFTER]);
    spc_error error;

    b->lost = true;
    (void)spc_error_set(&error, SPC_EDEVICE,
                        "drafter-device: expected the drafter on %.120s back within %d ms, found "
                        "it still at work: does its device hang, or do ranks wait too briefly for "
                        "it?",
                        device, (int)b->timeout_ms);
    end(b, &error);
}

spc_status spc_apart_lives(const spc_backend *b, spc_error *err)
{
    if (b->failure.status != SPC_OK && err) *err = b->failure;
    return b->failure.status;
}

/* What went wrong with the drafter; ranks have errors of their own: say whose this is. */
static void fail(spc_backend *b)
{
    spc_error error;

    (void)spc_error_set(&error, b->status[APART_DRAFTER], "drafter-device: %.480s",
                        b->error[APART_DRAFTER].message);
    end(b, &error);
}

static bool is_back(spc_backend *b, bool drafts)
{
    if (drafts && b->timeout_ms > 0) {
        return spc_drivers_run_within(b->drivers, work, b, b->timeout_ms);
    }
    if (drafts && b->work[APART_VERIFIER]) {
        spc_drivers_run(b->drivers, work, b);
    } else {
        work(b, APART_VERIFIER);
        work(b, APART_DRAFTER);
    }
    return true;
}

spc_status spc_apart_work(spc_backend *b, apart_work *verifier, apart_work *drafter, spc_error *err)
{
    apart_side side = APART_VERIFIER;

    b->work[APART_VERIFIER] = verifier;
    b->work[APART_DRAFTER] = drafter;
    if (!is_back(b, drafter != NULL)) {
        give_up(b);
    } else if (b->timeout_ms > 0 && b->status[APART_DRAFTER] != SPC_OK) {
        fail(b);
    }
    if (b->status[side] == SPC_OK && b->failure.status != SPC_OK) return spc_apart_lives(b, err);
    if (b->status[side] == SPC_OK) side = APART_DRAFTER;
    if (err && b->status[side] != SPC_OK) *err = b->error[side];
    return b->status[side];
}

/* ---- verbs of the drafter ---------------------------------------------------------------------
 */

static spc_status run_verb(spc_backend *b, spc_error *err)
{
    const spc_verb *v = &b->verb;

    return spc_verb_run(v, v->runner->ops, v->runner->own, NULL, err);
}

/* Put rows of the drafter's ranks together. */
static spc_status gather_wanted(const spc_runner *r, spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t i = 0, next; i < r->wanted_count && status == SPC_OK; i = next) {
        for (next = i + 1; next < r->wanted_count; next++) {
            if (r->wanted[next] != r->wanted[i] + next - i) break;
        }
        status = r->ops->gather(r->own, r->wanted[i], next - i, err);
    }
    return status;
}

/* Rows of logits that lie on a device come to the host as they are asked for; whether it failed
 * meanwhile is known behind them. */
static spc_status fetch(spc_backend *b, spc_error *err)
{
    spc_runner *r = b->verb.runner;
    spc_status status = b->cut ? gather_wanted(r, err) : SPC_OK;

    for (int32_t i = 0; i < r->wanted_count && status == SPC_OK; i++) {
        int32_t output = r->wanted[i];

        r->first = r->ops->logits(r->own, output) - (ptrdiff_t)output * r->ids;
    }
    return r->ops->gather && status == SPC_OK ? r->ops->gather(r->own, 0, 0, err) : status;
}

/* With arguments that stay, whatever becomes of the caller's. */
static void write_verb(spc_backend *b, const spc_verb *v)
{
    spc_desk *desk = v->runner->desk;
    spc_command c = {.kind = (int32_t)v->kind, .count = v->count};

    b->verb = *v;
    spc_desk_begin(desk, &c);
    if (v->kind == SPC_VERB_FORWARD) {
        spc_desk_put_rows(desk, v->rows);
        spc_desk_rows(desk, &b->rows);
        b->verb.rows = &b->rows;
    } else if (v->kind == SPC_VERB_DRAW) {
        spc_desk_put_lanes(desk, v->lanes, v->count, false);
        (void)spc_desk_lanes(desk, false); /* it was written just now */
        b->verb.lanes = desk->lane;
    } else if (v->kind == SPC_VERB_EDIT) {
        spc_desk_put_edits(desk, v->edits, v->runner->ids);
        (void)spc_desk_edits(desk, v->runner->ids, &b->edits); /* as above */
        b->verb.edits = &b->edits;
    } else if (v->count > 0) {
        spc_desk_put_tokens(desk, v->token, v->count);
        b->verb.token = spc_desk_tokens(desk);
    }
}

spc_status spc_apart_verb(const spc_verb *v, spc_error *err)
{
    spc_runner *r = v->runner;
    spc_backend *b = r->backend;
    spc_status status;

    if (v->kind == SPC_VERB_GATHER) {
        /* where they are whole it is only a wait, if that is for given time */
        for (int32_t i = 0; i < v->count; i++) r->wanted[i] = v->draft + i;
        r->wanted_count = b->timeout_ms > 0 || b->cut ? v->count : 0;
        b->verb.runner = r;
        return spc_apart_work(b, NULL, fetch, err);
    }
    if (b->timeout_ms == 0) {
        b->verb = *v;
        return spc_apart_work(b, NULL, run_verb, err);
    }
    write_verb(b, v);
    status = spc_apart_work(b, NULL, run_verb, err);
    for (int32_t k = 0; status == SPC_OK && v->kind == SPC_VERB_DRAW && k < v->count; k++) {
        if (v->draft >= v->lanes[k].drafts) continue;
        v->lanes[k].draft[v->draft] = r->desk->lane[k].draft[v->draft];
        v->lanes[k].stats[v->draft] = r->desk->lane[k].stats[v->draft];
    }
    return status;
}

spc_status spc_apart_rows(spc_runner *drafter, const spc_lane *lanes, int32_t count,
                          const float **rows, spc_error *err)
{
    spc_backend *b = drafter->backend;
    spc_status status;

    *rows = NULL;
    b->verb.runner = drafter;
    drafter->wanted_count = 0;
    for (int32_t k = 0; k < count; k++) {
        for (int32_t i = 0; i < spc_lane_drafter_rows(&lanes[k]); i++) {
            drafter->wanted[drafter->wanted_count++] = lanes[k].output + i;
        }
    }
    if (drafter->wanted_count == 0) return SPC_OK;
    status = spc_apart_work(b, NULL, fetch, err);
    if (status == SPC_OK) *rows = drafter->first;
    return status;
}
