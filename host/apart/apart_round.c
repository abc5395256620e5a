/* SPDX-License-Identifier: Apache-2.0 */
/* apart_round.c - a round of one sequence whose models run on two devices.
 *
 * The drafter draws what was not drawn ahead.  Then both work: the verifier scores and decides, and
 * the drafter goes on behind the last draft, as if all were kept.  Its rows go into another bank of
 * logits than those that are verified meanwhile, and its KV entries stay hidden: the next round
 * takes them over, or the next forward of another kind forgets them. */
#include "apart.h"
#include "host/engine.h"

#include "rules/synthetic.h"

#include <assert.h>

static int32_t first_row(const spc_runner *drafter, const spc_round_request *w, int32_t bank)
{
    return bank == 0 ? w->lane.output : drafter->limits.outputs;
}

/* All that a side needs to know of a round, without its drafts. */
static void begin(apart_round *r, const spc_round_request *w)
{
    int32_t n = w->length;

    r->request = *w;
    r->request.token = NULL;
    r->params = *w->lane.params;
    r->last[0] = n > 1 ? w->token[n - 2] : -1; /* a model that lacks two has one at least */
    r->last[1] = w->token[n - 1];
    r->lane = w->lane;
    r->lane.params = &r->params;
    r->lane.draft = r->draft;
    r->failed = false;
    r->rows = NULL;
    r->ahead = 0;
}

/* The token at a position of the sequence, its drafts behind it, and behind them those ahead. */
static int32_t token_at(const apart_round *r, int32_t position)
{
    int32_t behind = position - r->request.length;

    assert(behind >= -2);
    if (behind < 0) return r->last[behind + 2];
    if (behind < r->lane.drafts) return r->draft[behind];
    return r->drafter->token[behind - r->lane.drafts];
}

/* Run what a model lacks up to a position; rows from `wanted` on leave their logits in row output,
 * output + 1, ... */
static spc_status run(const apart_round *r, spc_runner *model, int32_t last, int32_t wanted,
                      int32_t output, spc_error *err)
{
    int32_t slot[APART_DRAFTS + 1], token[APART_DRAFTS + 1], position[APART_DRAFTS + 1];
    int32_t outputs[APART_DRAFTS + 1];
    spc_rows rows = {0, slot, token, position, outputs};

    for (int32_t at = model->ops->length(model->own, r->request.slot); at <= last; at++) {
        assert(rows.count <= APART_DRAFTS);
        slot[rows.count] = r->request.slot;
        token[rows.count] = token_at(r, at);
        position[rows.count] = at;
        outputs[rows.count++] = at >= wanted ? output + at - wanted : -1;
    }
    return model->ops->forward(model->own, &rows, err);
}

static bool is_stop(const spc_round_request *w, int32_t token)
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
        int32_t last = r->request.length - 1 + before + i;

        if (i >= ready) status = run(r, d, last, last, lane->output + i, err);
        if (i >= ready && status == SPC_OK) status = d->ops->draw(d->own, lane, 1, i, err);
        if (status != SPC_OK) return status;
        *failed = lane->draft[i] < 0;
        if (*failed) {
            lane->drafts = i;
        } else if (is_stop(&r->request, lane->draft[i])) {
            lane->drafts = i + 1;
        }
    }
    return SPC_OK;
}

/* Begin with the drafts that lie ready for this round; returns how many these are. */
static int32_t take_ready(apart_round *r, const spc_round_request *w)
{
    spc_runner *d = r->drafter;
    int32_t ready = spc_ahead_ready(&d->ahead, w, spc_apart_length(d, w->slot));

    if (ready > 0) {
        d->ops->rewind(d->own, w->slot, w->length - 1 + ready);
        d->hidden = 0;
        for (int32_t i = 0; i < ready; i++) r->draft[i] = d->token[i];
    } else {
        d->bank = 0;
    }
    spc_apart_settle(d);
    r->lane.output = first_row(d, w, d->bank);
    r->lane.stats = d->stats[d->bank];
    return ready;
}

/* ---- what the sides do ------------------------------------------------------------------------
 */

static spc_status draft(spc_backend *b, spc_error *err)
{
    apart_round *r = &b->round;

    return draw(r, &r->lane, 0, r->request.ready, &r->failed, err);
}

static spc_status decide(spc_backend *b, spc_error *err)
{
    apart_round *r = &b->round;
    spc_runner *v = r->verifier;
    int32_t pending = r->request.length - 1;
    spc_status status = SPC_OK;

    if (r->lane.drafts > 0) {
        status = run(r, v, pending + r->lane.drafts - 1, pending, r->lane.output, err);
    }
    if (status != SPC_OK) return status;
    status = v->ops->verify_rows(r->rows, v->own, &r->lane, 1, r->out, err);
    if (status == SPC_OK && r->request.synthetic) {
        spc_synthetic_verdict(r->out, r->lane.params, r->lane.position, r->draft, r->lane.drafts,
                              r->lane.bonus, *r->request.synthetic);
    }
    return status;
}

static spc_status draw_ahead(spc_backend *b, spc_error *err)
{
    apart_round *r = &b->round;
    spc_runner *d = r->drafter;
    const spc_round_request *w = &r->request;
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

/* ---- the round --------------------------------------------------------------------------------
 */

/* What was drawn ahead lies ready, hidden. */
static void keep_ahead(const apart_round *r, const spc_round_request *w)
{
    spc_runner *d = r->drafter;

    spc_ahead_note(&d->ahead, w, r->ahead);
    d->hidden = r->ahead;
    d->bank = 1 - d->bank;
}

spc_status spc_apart_round(spc_runner *drafter, spc_runner *verifier, spc_round_request *w,
                           int32_t count, spc_verdict *out, spc_verdict *late,
                           spc_round_times *times, spc_error *err)
{
    spc_backend *b = verifier->backend;
    apart_round *r = &b->round;
    int32_t wanted = w->lane.drafts, drafts;
    spc_status status = spc_apart_lives(b, err);
    uint64_t drawn;

    (void)count;
    (void)late;
    assert(count == 1 && w->unscored && !w->late && wanted <= APART_DRAFTS);
    if (status != SPC_OK) return status;
    r->drafter = drafter;
    r->verifier = verifier;
    r->out = out;
    begin(r, w);
    r->request.ready = w->ready = take_ready(r, w);
    status = spc_apart_work(b, NULL, draft, err);
    if (status != SPC_OK) return status;
    drawn = spc_now_ns();
    w->failed = r->failed;
    w->lane.drafts = drafts = r->lane.drafts;
    for (int32_t i = 0; i < drafts; i++) w->lane.draft[i] = r->draft[i];
    if (drafts == wanted && !w->failed && !is_stop(w, r->draft[wanted - 1])) {
        r->ahead = spc_ahead_most(w, drafter->room[w->slot]);
    }
    status = spc_apart_rows(drafter, &r->lane, 1, &r->rows, err);
    if (status != SPC_OK) return status;
    status = spc_apart_work(b, decide, r->ahead > 0 ? draw_ahead : NULL, err);
    if (status != SPC_OK) return status;
    if (r->ahead > 0) keep_ahead(r, w);
    w->ahead = r->ahead;
    *times = (spc_round_times){spc_now_ns() - drawn, UINT64_MAX};
    return SPC_OK;
}
