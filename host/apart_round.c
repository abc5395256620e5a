/* SPDX-License-Identifier: Apache-2.0 */
/* apart_round.c - a round of one sequence whose models run on two devices.
 *
 * The drafter draws what was not drawn ahead.  Then both work: the verifier scores and decides, and
 * the drafter goes on behind the last draft, as if all were kept.  Its rows go into another bank of
 * logits than those that are verified meanwhile, and its KV entries stay hidden: the next round
 * takes them over, or the next forward of another kind forgets them. */
#include "apart.h"
#include "engine.h"

#include "rules/synthetic.h"

#include <assert.h>

/* One round under way. */
typedef struct {
    spc_runner *drafter, *verifier;
    const spc_whole *whole;
    spc_lane lane;     /* rows in the bank of this round, statistics in the runner */
    const float *rows; /* of the drafter */
    int32_t ahead;     /* drafts to draw ahead; then, that were drawn */
    spc_verdict *out;
    spc_status status[APART_SIDES];
    spc_error error[APART_SIDES];
} apart_round;

static int32_t first_row(const spc_runner *drafter, const spc_whole *w, int32_t bank)
{
    return bank == 0 ? w->lane.output : drafter->limits.outputs;
}

/* The token at a position of the sequence, its drafts behind it, and behind them those ahead. */
static int32_t token_at(const apart_round *r, int32_t position)
{
    const spc_whole *w = r->whole;

    if (position < w->length) return w->token[position];
    position -= w->length;
    if (position < r->lane.drafts) return r->lane.draft[position];
    return r->drafter->token[position - r->lane.drafts];
}

/* Run what a model lacks up to a position; rows from `wanted` on leave their logits in row output,
 * output + 1, ... */
static spc_status run(const apart_round *r, spc_runner *model, int32_t last, int32_t wanted,
                      int32_t output, spc_error *err)
{
    int32_t slot[APART_DRAFTS + 1], token[APART_DRAFTS + 1], position[APART_DRAFTS + 1];
    int32_t outputs[APART_DRAFTS + 1];
    spc_rows rows = {0, slot, token, position, outputs};

    for (int32_t at = model->ops->length(model->own, r->whole->slot); at <= last; at++) {
        assert(rows.count <= APART_DRAFTS);
        slot[rows.count] = r->whole->slot;
        token[rows.count] = token_at(r, at);
        position[rows.count] = at;
        outputs[rows.count++] = at >= wanted ? output + at - wanted : -1;
    }
    return model->ops->forward(model->own, &rows, err);
}

static bool is_stop(const spc_whole *w, int32_t token)
{
    for (int32_t i = 0; i < w->stop_count; i++) {
        if (w->stop[i] == token) return true;
    }
    return false;
}

/* Draw drafts behind `before` others into lane->draft, until one is the last; those in front of
 * `ready` are there.  lane->drafts receives how many there are; failed, whether a row was bad. */
static spc_status draw(const apart_round *r, spc_lane *lane, int32_t before, int32_t ready,
                       bool *failed, spc_error *err)
{
    spc_runner *d = r->drafter;
    spc_status status = SPC_OK;

    *failed = false;
    for (int32_t i = 0; i < lane->drafts; i++) {
        int32_t last = r->whole->length - 1 + before + i;

        if (i >= ready) status = run(r, d, last, last, lane->output + i, err);
        if (i >= ready && status == SPC_OK) status = d->ops->draw(d->own, lane, 1, i, err);
        if (status != SPC_OK) return status;
        *failed = lane->draft[i] < 0;
        if (*failed) {
            lane->drafts = i;
        } else if (is_stop(r->whole, lane->draft[i])) {
            lane->drafts = i + 1;
        }
    }
    return SPC_OK;
}

/* Begin with the drafts that lie ready for this round; returns how many these are. */
static int32_t take_ready(apart_round *r)
{
    spc_runner *d = r->drafter;
    const spc_whole *w = r->whole;
    int32_t ready = spc_ahead_ready(&d->ahead, w, spc_apart_length(d, w->slot));

    if (ready > 0) {
        d->ops->rewind(d->own, w->slot, w->length - 1 + ready);
        d->hidden = 0;
        for (int32_t i = 0; i < ready; i++) r->lane.draft[i] = d->token[i];
    } else {
        d->bank = 0;
    }
    spc_apart_settle(d);
    r->lane.output = first_row(d, w, d->bank);
    r->lane.stats = d->stats[d->bank];
    return ready;
}

/* ---- both at once ----------------------------------------------------------------------------
 */

static spc_status decide(apart_round *r, spc_error *err)
{
    spc_runner *v = r->verifier;
    int32_t pending = r->whole->length - 1;
    spc_status status = SPC_OK;

    if (r->lane.drafts > 0) {
        status = run(r, v, pending + r->lane.drafts - 1, pending, r->lane.output, err);
    }
    if (status != SPC_OK) return status;
    status = v->ops->verify_rows(r->rows, v->own, &r->lane, 1, r->out, err);
    if (status == SPC_OK && r->whole->synthetic) {
        spc_synthetic_verdict(r->out, r->lane.params, r->lane.position, r->lane.draft,
                              r->lane.drafts, r->lane.bonus, *r->whole->synthetic);
    }
    return status;
}

static spc_status draw_ahead(apart_round *r, spc_error *err)
{
    spc_runner *d = r->drafter;
    const spc_whole *w = r->whole;
    int32_t bank = 1 - d->bank, drafts = r->lane.drafts;
    spc_lane lane = r->lane;
    bool failed;
    spc_status status;

    lane.position += drafts;
    lane.output = first_row(d, w, bank);
    lane.drafts = r->ahead;
    lane.draft = d->token;
    lane.stats = d->stats[bank];
    status = draw(r, &lane, drafts, 0, &failed, err);
    r->ahead = lane.drafts;
    if (failed) d->ops->rewind(d->own, w->slot, w->length - 1 + drafts + lane.drafts);
    return status;
}

static void work(void *user, int32_t side)
{
    apart_round *r = user;
    spc_error *err = &r->error[side];

    r->status[side] = side == APART_VERIFIER ? decide(r, err) : draw_ahead(r, err);
}

/* What was drawn ahead lies ready, hidden. */
static void keep_ahead(apart_round *r)
{
    spc_runner *d = r->drafter;

    spc_ahead_note(&d->ahead, r->whole, r->ahead);
    d->hidden = r->ahead;
    d->bank = 1 - d->bank;
}

static spc_status work_both(apart_round *r, spc_error *err)
{
    spc_drivers_run(r->verifier->backend->drivers, work, r);
    for (int side = 0; side < APART_SIDES; side++) {
        if (r->status[side] == SPC_OK) continue;
        if (err) *err = r->error[side];
        return r->status[side];
    }
    keep_ahead(r);
    return SPC_OK;
}

spc_status spc_apart_round(spc_runner *drafter, spc_runner *verifier, spc_whole *w, int32_t count,
                           spc_verdict *out, spc_verdict *late, spc_round_times *times,
                           spc_error *err)
{
    apart_round r = {
        .drafter = drafter, .verifier = verifier, .whole = w, .lane = w->lane, .out = out};
    int32_t wanted = w->lane.drafts;
    spc_status status;
    uint64_t drawn;

    (void)count;
    (void)late;
    assert(count == 1 && w->unscored && !w->late && wanted <= APART_DRAFTS);
    w->ready = take_ready(&r);
    status = draw(&r, &r.lane, 0, w->ready, &w->failed, err);
    if (status != SPC_OK) return status;
    drawn = spc_now_ns();
    w->lane.drafts = r.lane.drafts;
    if (r.lane.drafts == wanted && !w->failed && !is_stop(w, r.lane.draft[wanted - 1])) {
        r.ahead = spc_ahead_most(w, drafter->room[w->slot]);
    }
    r.rows = spc_apart_rows(drafter, &r.lane, 1);
    status = r.ahead > 0 ? work_both(&r, err) : decide(&r, err);
    w->ahead = r.ahead;
    *times = (spc_round_times){spc_now_ns() - drawn, UINT64_MAX};
    return status;
}
