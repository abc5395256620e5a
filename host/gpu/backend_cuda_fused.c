/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_fused.c - a round without the host: drafting, scoring, verification and the late
 * rows as one graph, one copy to the device before it and one back behind it.
 *
 * All that a forward is told of its rows is known before the round begins, but for the drafted
 * tokens; those are put into the rows of later forwards by the device (cuda/round.cu).  A draft
 * that ends early does not shorten the round: its sequence's rows run on, with token 0, into cache
 * entries that nobody reads.
 *
 * The late rows, which the drafter runs only for sequences that kept every draft, are the body of a
 * conditional node.  Where graphs cannot hold one, or nothing can be recorded, the host waits for
 * verification and starts them itself.
 *
 * While the verifier works, the drafter can go on as if every draft were kept, on a branch of its
 * own.  Random numbers are looked up by position, so what it draws is what the next round would
 * draw: that round takes it over, or it is forgotten; no token depends on it.
 *
 * Rounds of one shape share a graph; the first of a shape is launched plainly. */
#include "backend_cuda_fused.h"

#include <assert.h>
#include <string.h>

/* Slots that a runner may have: more than an engine asks for. */
enum { SLOTS_MOST = 1 << 20 };

/* ---- layout -----------------------------------------------------------------------------------
 */

int32_t spc_cuda_most_patches(const cuda_fused_shape *s)
{
    int32_t rows = s->scored.count + s->late.count;

    if (!s->chained) return 0;
    for (int32_t i = 0; i < s->steps; i++) rows += s->draft[i].count;
    return 2 * rows + 4 * s->lanes;
}

static void lay_out(cuda_fused_data *w, char *base, const cuda_fused_shape *s)
{
    carver to = {base, 0};
    int64_t lanes = s->lanes, steps = s->steps;

    w->params = carve(&to, times(sizeof *w->params, lanes));
    w->row = carve(&to, times(sizeof *w->row, lanes));
    w->position = carve(&to, times(sizeof *w->position, lanes));
    w->draw_row = carve(&to, times(sizeof *w->draw_row, lanes * steps));
    w->draw_position = carve(&to, times(sizeof *w->draw_position, lanes * steps));
    w->late_row = carve(&to, times(sizeof *w->late_row, lanes));
    w->late_position = carve(&to, times(sizeof *w->late_position, lanes));
    w->salt = carve(&to, times(sizeof *w->salt, lanes));
    w->stop = carve(&to, times(sizeof *w->stop, lanes * SPC_ROUND_STOPS));
    w->stops = carve(&to, times(sizeof *w->stops, lanes));
    w->next = carve(&to, times(sizeof *w->next, lanes * steps));
    w->score = carve(&to, times(sizeof *w->score, lanes * steps));
    w->none = carve(&to, times(sizeof *w->none, lanes));
    w->pending = carve(&to, times(sizeof *w->pending, lanes));
    w->drafter_row = carve(&to, times(sizeof *w->drafter_row, lanes));
    w->ahead_row = carve(&to, times(sizeof *w->ahead_row, s->ahead));
    w->ahead_position = carve(&to, times(sizeof *w->ahead_position, s->ahead));
    w->ahead_next = carve(&to, times(sizeof *w->ahead_next, s->ahead));
    for (int32_t i = 0; i < s->steps; i++) {
        (void)spc_cuda_lay_out_rows(&w->draft[i], &to, s->draft[i].count);
    }
    (void)spc_cuda_lay_out_rows(&w->scored, &to, s->scored.count);
    (void)spc_cuda_lay_out_rows(&w->late, &to, s->late.count);
    for (int32_t i = 0; i < s->ahead; i++) {
        (void)spc_cuda_lay_out_rows(&w->ahead[i], &to, s->next[i].count);
    }
    w->from = carve(&to, times(sizeof *w->from, s->chained * lanes));
    w->guess = carve(&to, times(sizeof *w->guess, s->chained * lanes));
    w->patch = carve(&to, times(sizeof *w->patch, spc_cuda_most_patches(s)));
    w->patches = carve(&to, times(sizeof *w->patches, s->chained));
    w->fetched = to.used;
    w->drafts = carve(&to, times(sizeof *w->drafts, lanes));
    w->bonus = carve(&to, times(sizeof *w->bonus, lanes));
    w->wants_late = carve(&to, times(sizeof *w->wants_late, lanes));
    w->failed = carve(&to, times(sizeof *w->failed, lanes));
    w->sent = to.used;
    w->token = carve(&to, times(sizeof *w->token, lanes * spc_cuda_drafts_apart(s)));
    w->verdict = carve(&to, times(sizeof *w->verdict, lanes));
    w->again = carve(&to, times(sizeof *w->again, lanes));
    w->clock = carve(&to, CUDA_CLOCKS * sizeof *w->clock);
    w->fetched_end = to.used;
    w->stats = carve(&to, times(sizeof *w->stats, lanes * spc_cuda_drafts_apart(s)));
    w->drawn = carve(&to, times(sizeof *w->drawn, lanes));
    w->measured = carve(&to, times(sizeof *w->measured, lanes));
    w->emitted = carve(&to, times(sizeof *w->emitted, lanes * (spc_cuda_drafts_apart(s) + 1)));
    w->count = carve(&to, times(sizeof *w->count, lanes));
    w->status = carve(&to, times(sizeof *w->status, lanes));
    w->bytes = to.used;
}

size_t spc_cuda_fused_bytes(const spc_limits *limits)
{
    cuda_fused_shape most = {
        .lanes = limits->slots, .steps = CUDA_LANE_DRAFTS, .ahead = CUDA_LANE_DRAFTS, .chained = 1};
    cuda_fused_data w;

    if (limits->slots > SLOTS_MOST) return CARVE_MOST; /* beyond counting rows */
    for (int32_t i = 0; i < most.steps; i++) most.draft[i].count = limits->slots;
    for (int32_t i = 0; i < most.ahead; i++) most.next[i].count = 1;
    most.draft[0].count = limits->slots * 2;
    most.scored.count = limits->slots * (CUDA_LANE_DRAFTS + 1);
    most.late.count = limits->slots;
    lay_out(&w, NULL, &most);
    return w.bytes;
}

/* ---- what the round will be -------------------------------------------------------------------
 */

void spc_cuda_sort_lanes(int32_t *order, const spc_round_request *request, int32_t count)
{
    int32_t at = 0;

    for (int32_t drafts = CUDA_LANE_DRAFTS; drafts >= 0; drafts--) {
        for (int32_t k = 0; k < count; k++) {
            if (request[k].lane.drafts == drafts) order[at++] = k;
        }
    }
    assert(at == count);
}

/* Rows of the first forward of the drafter that a lane needs: the pending token, and the one before
 * it where that is missing too. */
static int32_t first_rows(const spc_runner *drafter, const spc_round_request *w)
{
    return w->length - drafter->length[w->slot];
}

/* Does any lane need two, or may it, if it kept all drafts and ran nothing behind them?  Then the
 * others repeat their last row (to the same bits), so that all rounds with such a lane have one
 * shape. */
static bool in_pairs(const fused_round *r, const spc_round_request *request, int32_t count)
{
    for (int32_t k = 0; k < count; k++) {
        const spc_round_request *w = &request[k];

        if (w->lane.drafts == 0) continue;
        if (r->shape.chained ? !w->late && !w->unscored : first_rows(r->drafter, w) > 1)
            return true;
    }
    return false;
}

/* Drafts that were drawn ahead for this very round, as many as it takes. */
static int32_t ready_drafts(const fused_round *r, const spc_round_request *w)
{
    const cuda_ahead *a = r->drafter ? &r->drafter->ahead : NULL;

    if (!a || a->serial != r->drafter->serial[w->slot]) return 0;
    return spc_ahead_ready(&a->drafts, w, r->drafter->length[w->slot]);
}

/* How many drafts of the next round this one draws: what the pages have room for. */
static int32_t ahead_drafts(const fused_round *r, const spc_round_request *w)
{
    return r->drafter ? spc_ahead_most(w, r->drafter->room[w->slot]) : 0;
}

/* How many rows each forward has: enough to lay the block out. */
static void count_rows(fused_round *r, const spc_round_request *request, int32_t count)
{
    cuda_fused_shape *s = &r->shape;
    bool pairs = r->drafter && in_pairs(r, request, count);

    s->lanes = count;
    s->drafter = r->drafter;
    s->clocked = r->verifier->clocked;
    if (request[0].synthetic) {
        s->synthetic = 1;
        s->rate = *request[0].synthetic;
    }
    if (count == 1 && !s->chained) {
        s->ready = ready_drafts(r, request);
        s->ahead = ahead_drafts(r, request);
        s->bank = s->ready > 0 ? r->drafter->ahead.bank : 0;
    }
    for (int32_t i = 0; i < s->ahead; i++) s->next[i].count = 1;
    for (int32_t k = 0; k < count; k++) {
        const spc_round_request *w = &request[k];

        if (w->lane.drafts > s->steps) s->steps = w->lane.drafts;
        for (int32_t i = 0; i < w->lane.drafts; i++) {
            s->drawn[i]++;
            if (i < s->ready) continue;
            s->draft[i].count += i == 0 && pairs && w->length > 1 ? 2 : 1;
        }
        s->scored.count += spc_request_most(w);
        s->late.count += w->late;
    }
}

/* ---- writing it down --------------------------------------------------------------------------
 */

static void write_lane(fused_round *r, int32_t k, const spc_round_request *w)
{
    const cuda_fused_data *to = &r->host;
    const spc_lane *lane = &w->lane;

    to->params[k] = *lane->params;
    to->row[k] = lane->output;
    to->position[k] = lane->position;
    to->late_row[k] = lane->output + lane->drafts;
    to->late_position[k] = lane->position + lane->drafts;
    to->salt[k] = lane->salt;
    memcpy(to->stop + (ptrdiff_t)k * SPC_ROUND_STOPS, w->stop, sizeof w->stop);
    to->stops[k] = w->stop_count;
    to->none[k] = 0;
    to->pending[k] = r->shape.chained ? 0 : w->token[w->length - 1];
    to->drafts[k] = lane->drafts;
    to->bonus[k] = lane->bonus;
    to->wants_late[k] = w->late;
    to->failed[k] = 0;
}

/* Where a row's token stands, as seen from the first of all. */
static int32_t token_at(const cuda_fused_data *to, const cuda_rows *rows, int32_t row)
{
    return (int32_t)(rows->token - to->draft[0].token) + row;
}

/* The drafter's row of logits of row i of a lane, in a bank. */
static int32_t drafter_output(const fused_round *r, const spc_round_request *w, int32_t bank,
                              int32_t i)
{
    return (bank == 0 ? w->lane.output : r->drafter->limits.outputs) + i;
}

static void patch(const cuda_fused_data *to, const int32_t *at, int32_t lane, spc_patch_kind kind)
{
    to->patch[(*to->patches)++] =
        (spc_round_patch){(int32_t)(at - (const int32_t *)to->params), lane, (int32_t)kind};
}

/* One more row of lane k: that of its pending token (i: 0), of the one before it (-1), or of draft
 * i - 1, whose token is not known yet. */
static void add_row(fused_round *r, const spc_runner *runner, const cuda_rows *to, cuda_shape *f,
                    int32_t k, const spc_round_request *w, int32_t i, int32_t output)
{
    int32_t position = w->length - 1 + i, row = f->count;
    bool known = i <= 0 && !r->shape.chained;

    spc_cuda_add_row(runner, to, f, w->slot, known ? w->token[position] : 0, position, output);
    if (!r->shape.chained) return;
    patch(&r->host, to->position + row, k, SPC_PATCH_SHIFT);
    patch(&r->host, to->seen + row, k, SPC_PATCH_SHIFT);
    if (i <= 0) patch(&r->host, to->token + row, k, i == 0 ? SPC_PATCH_PENDING : SPC_PATCH_BEFORE);
}

/* Rows of a step of drafting. */
static void write_step(fused_round *r, const spc_round_request *request, const int32_t *order,
                       int32_t i)
{
    const cuda_rows *to = &r->host.draft[i];
    bool pairs = r->shape.draft[i].count > r->shape.drawn[i];
    cuda_shape f = {0};

    for (int32_t k = 0; k < r->shape.drawn[i]; k++) {
        const spc_round_request *w = spc_request_at(request, order, k);

        if (i == 0 && pairs && w->length > 1) add_row(r, r->drafter, to, &f, k, w, -1, -1);
        add_row(r, r->drafter, to, &f, k, w, i, drafter_output(r, w, r->shape.bank, i));
    }
    spc_cuda_end_rows(r->drafter, to, &f);
    r->shape.draft[i] = f;
}

/* Rows behind the drafts, of the only lane. */
static void write_ahead(fused_round *r, const spc_round_request *w)
{
    const cuda_fused_data *to = &r->host;
    int32_t drafts = w->lane.drafts, bank = 1 - r->shape.bank;

    for (int32_t i = 0; i < r->shape.ahead; i++) {
        cuda_shape f = {0};

        add_row(r, r->drafter, &to->ahead[i], &f, 0, w, drafts + i, drafter_output(r, w, bank, i));
        spc_cuda_end_rows(r->drafter, &to->ahead[i], &f);
        r->shape.next[i] = f;
        to->ahead_row[i] = drafter_output(r, w, bank, i);
        to->ahead_position[i] = w->lane.position + drafts + i;
        to->ahead_next[i] = -1;
        if (i + 1 < r->shape.ahead) to->ahead_next[i] = token_at(to, &to->ahead[i + 1], 0);
    }
}

/* Rows of the verifier, and of the drafter behind kept drafts; which drafts they read. */
static void write_scored(fused_round *r, const spc_round_request *request, const int32_t *order)
{
    const cuda_fused_data *to = &r->host;
    cuda_shape scored = {0}, late = {0};

    for (int32_t k = 0; k < r->shape.lanes; k++) {
        const spc_round_request *w = spc_request_at(request, order, k);
        int32_t drafts = w->lane.drafts, rows = spc_request_most(w);

        for (int32_t i = 0; i < rows; i++) {
            if (i > 0) {
                to->score[(i - 1) * r->shape.lanes + k] = token_at(to, &to->scored, scored.count);
            }
            add_row(r, r->verifier, &to->scored, &scored, k, w, i, w->lane.output + i);
        }
        for (int32_t i = rows; i <= drafts; i++) {
            if (i > 0) to->score[(i - 1) * r->shape.lanes + k] = -1;
        }
        for (int32_t i = 0; i < drafts; i++) {
            int32_t *next = &to->next[i * r->shape.lanes + k];

            *next = -1;
            if (i + 1 < drafts) *next = token_at(to, &to->draft[i + 1], k);
            if (i + 1 == drafts && w->late) *next = token_at(to, &to->late, late.count);
            if (i + 1 == drafts && r->shape.ahead > 0) *next = token_at(to, &to->ahead[0], 0);
            if (i + 1 < r->shape.ready) *next = -1; /* its row was run ahead */
        }
        if (!w->late) continue;
        add_row(r, r->drafter, &to->late, &late, k, w, drafts, w->lane.output + drafts);
    }
    if (scored.count > 0) spc_cuda_end_rows(r->verifier, &to->scored, &scored);
    if (late.count > 0) spc_cuda_end_rows(r->drafter, &to->late, &late);
    r->shape.scored = scored;
    r->shape.late = late;
}

/* Attention of all forwards is launched for as many keys as that of the longest: else a round has
 * another shape wherever some of its drafts are the first to need more. */
static void reach_alike(fused_round *r)
{
    cuda_fused_shape *s = &r->shape;
    cuda_shape *all[2 * CUDA_LANE_DRAFTS + 2];
    int32_t count = 0, most = 0;

    assert(!r->drafter || r->drafter->limits.context == r->verifier->limits.context);
    for (int32_t i = s->ready; i < s->steps; i++) all[count++] = &s->draft[i];
    for (int32_t i = 0; i < s->ahead; i++) all[count++] = &s->next[i];
    if (s->late.count > 0) all[count++] = &s->late;
    if (s->scored.count > 0) all[count++] = &s->scored;
    for (int32_t i = 0; i < count; i++) {
        if (all[i]->most_seen > most) most = all[i]->most_seen;
    }
    for (int32_t i = 0; i < count; i++) all[i]->most_seen = most;
}

static void write_round(fused_round *r, const spc_round_request *request, const int32_t *order)
{
    for (int32_t k = 0; k < r->shape.lanes; k++) {
        const spc_round_request *w = spc_request_at(request, order, k);

        write_lane(r, k, w);
        r->host.drafter_row[k] = w->lane.output;
        if (r->shape.bank > 0) r->host.drafter_row[k] = drafter_output(r, w, r->shape.bank, 0);
        for (int32_t i = 0; i < w->lane.drafts; i++) {
            r->host.draw_row[i * r->shape.lanes + k] = r->host.drafter_row[k] + i;
            r->host.draw_position[i * r->shape.lanes + k] = w->lane.position + i;
        }
    }
    for (int32_t i = r->shape.ready; i < r->shape.steps; i++) write_step(r, request, order, i);
    write_scored(r, request, order);
    write_ahead(r, request);
    reach_alike(r);
}

spc_status spc_cuda_write_fused(fused_round *r, const spc_round_request *request,
                                const int32_t *order, int32_t count, spc_error *err)
{
    spc_runner *v = r->verifier;
    spc_status status = spc_cuda_next_area(r, err);

    if (status != SPC_OK) return status;
    count_rows(r, request, count);
    lay_out(&r->host, r->half->host + (size_t)r->area * v->fused_bytes, &r->shape);
    lay_out(&r->device, r->half->device, &r->shape);
    if (r->shape.chained) *r->host.patches = 0;
    write_round(r, request, order);
    return SPC_OK;
}

/* ---- the verb ---------------------------------------------------------------------------------
 */

/* Drafts of the next round were drawn behind all of this one, if all of it is kept. */
static void keep_ahead(fused_round *r, const spc_round_request *w, int32_t wanted)
{
    cuda_ahead *a = &r->drafter->ahead;

    a->drafts.count = 0;
    if (w->failed || w->lane.drafts < wanted) return;
    spc_ahead_note(&a->drafts, w, r->shape.ahead);
    a->serial = r->drafter->serial[w->slot];
    a->bank = 1 - r->shape.bank;
}

/* What became of lane k, and how far the caches now reach: to the last row whose token was drawn
 * for it. */
static void take(fused_round *r, int32_t k, spc_round_request *w, spc_verdict *out,
                 spc_verdict *late)
{
    const cuda_fused_data *from = &r->host;
    int32_t wanted = w->lane.drafts, rows = spc_request_most(w), drafts = from->drafts[k];
    int32_t n = w->length, valid = drafts + 1;

    w->again = from->wants_late[k] != 0;
    w->failed = from->failed[k] != 0;
    w->lane.drafts = drafts;
    if (drafts > 0) {
        memcpy(w->lane.draft, from->token + (ptrdiff_t)k * spc_cuda_drafts_apart(&r->shape),
               (size_t)drafts * sizeof *w->lane.draft);
    }
    *out = from->verdict[k];
    if (w->again) *late = from->again[k];
    r->verifier->length[w->slot] = n - 1 + (rows < valid ? rows : valid);
    if (wanted > 0) r->drafter->length[w->slot] = n - 1 + (wanted < valid ? wanted : valid);
    if (w->again) r->drafter->length[w->slot] = n + wanted;
    w->ready = r->shape.ready;
    w->ahead = r->shape.ahead;
    if (r->drafter) r->drafter->serial[w->slot]++;
    if (r->shape.ahead > 0) keep_ahead(r, w, wanted);
}

const spc_round_clock *spc_cuda_round_clock(spc_runner *verifier)
{
    verifier->clocked = true;
    return &verifier->clock;
}

/* One more round on the clock.  One in turns begins while the verifier is at work on the other
 * half; and the first two of one half run before the other half's first. */
static void note_clock(const fused_round *r)
{
    spc_runner *v = r->verifier;
    spc_round_clock *c = &v->clock;
    const uint64_t *at = r->host.clock;
    uint64_t drawn = r->shape.steps > 0 ? at[CLOCK_DRAWN] : at[CLOCK_BEGUN];
    bool waited = v->decided > drawn && v->decided < at[CLOCK_SCORED];

    c->rounds++;
    c->draft_ns += drawn - at[CLOCK_BEGUN];
    c->score_ns += at[CLOCK_SCORED] - (waited ? v->decided : drawn);
    c->decide_ns += at[CLOCK_DECIDED] - at[CLOCK_SCORED];
    if (v->decided > 0 && at[CLOCK_BEGUN] > v->decided) c->gap_ns += at[CLOCK_BEGUN] - v->decided;
    if (at[CLOCK_DECIDED] > v->decided) v->decided = at[CLOCK_DECIDED];
}

static spc_round_times times_of(const fused_round *r, bool was_in_flight)
{
    const uint64_t *at = r->host.clock;
    spc_round_times t = {UINT64_MAX, UINT64_MAX};

    if (r->shape.steps > 0) t.verify_ns = at[CLOCK_DECIDED] - at[CLOCK_DRAWN];
    if (was_in_flight)
        t.round_ns = at[r->shape.late.count > 0 ? CLOCK_ENDED : CLOCK_DECIDED] - at[CLOCK_BEGUN];
    return t;
}

/* The round in flight, if it is this one; or send it. */
static spc_status begin(fused_round *r, spc_runner *drafter, spc_runner *v,
                        const spc_round_request *request, int32_t count, bool *was_in_flight,
                        spc_error *err)
{
    cuda_half *half = &v->half[request[0].half];
    cuda_chain *chain = half->chain;
    bool ran;
    spc_status status;

    /* rows of logits of what was drafted ahead may lie where this round's come to lie */
    if (drafter && (count > 1 || request[0].slot != drafter->ahead.drafts.slot)) {
        drafter->ahead.drafts.count = 0;
    }
    *was_in_flight = spc_cuda_chain_serves(chain, drafter, v, request, count, v->lane);
    chain->in_flight = false;
    if (*was_in_flight) {
        *r = chain->round;
        return SPC_OK;
    }
    memset(r, 0, sizeof *r); /* shapes are compared byte by byte */
    r->drafter = drafter;
    r->verifier = v;
    r->half = half;
    r->shape.half = request[0].half;
    spc_cuda_sort_lanes(v->order, request, count);
    for (int32_t k = 0; k < count; k++) v->lane[v->order[k]] = k;
    status = spc_cuda_write_fused(r, request, v->order, count, err);
    return status == SPC_OK ? spc_cuda_start_fused(r, NULL, &ran, err) : status;
}

spc_status spc_cuda_round(spc_runner *drafter, spc_runner *verifier, spc_round_request *request,
                          int32_t count, spc_verdict *out, spc_verdict *late,
                          spc_round_times *times, spc_error *err)
{
    fused_round r;
    spc_backend *b = verifier->backend;
    bool was_in_flight = false, mixed = b->mixed;
    spc_status status = spc_cuda_enter(b, err);

    b->mixed = mixed; /* what it sends says so by itself */

    assert(count >= 1 && count <= verifier->limits.slots);
    if (status == SPC_OK)
        status = begin(&r, drafter, verifier, request, count, &was_in_flight, err);
    if (status == SPC_OK) {
        status = spc_cuda_chain_next(&r, request, count, verifier->lane, verifier->order, err);
    }
    if (status == SPC_OK) status = spc_cuda_finish_fused(&r, err);
    if (status != SPC_OK) return status;
    if (r.host.clock[CLOCK_DECIDED] == 0) {
        return spc_error_set(err, SPC_EDEVICE,
                             "%s: round: skipped by the device although its sequences go on; this "
                             "is a fault of spc, please report it",
                             verifier->backend->device_name);
    }
    for (int32_t k = 0; k < count; k++) {
        take(&r, verifier->lane[k], &request[k], &out[k], &late[k]);
        request[k].was_in_flight = was_in_flight;
        request[k].in_flight = r.half->chain->in_flight;
    }
    if (r.half->chain->in_flight) spc_cuda_chain_note(verifier, request, out, late, count);
    *times = times_of(&r, was_in_flight);
    if (r.shape.clocked) note_clock(&r);
    return SPC_OK;
}
