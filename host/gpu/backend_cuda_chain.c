/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_chain.c - the round behind the one that the host waits for.
 *
 * Between two rounds the host looks at tokens, tells them, and says what comes next: a gap in which
 * the device has nothing to do.  Where all sequences go on with as many drafts as before, the next
 * round is sent before the host waits for this one.  It is written down as if all of this one were
 * kept; a kernel at its beginning (spc_cuda_round_go_on) puts positions and tokens right by what
 * became of it.  Draft lengths, and so all launches, are the same whatever that was.
 *
 * The host finds it there when it asks for it.  If it asks for something else (a session was
 * closed, another one joined), what the round left is forgotten: it wrote cache entries behind
 * those that count, and in pages that others have by now only what they overwrite, for the stream
 * keeps the order.  Sequences that ended may be missing from what is asked for; a round all of
 * whose sequences ended by a token is not run (a conditional node around all of it).
 *
 * No token depends on any of this. */
#include "backend_cuda_fused.h"

#include <string.h>

enum { OF_DRAFTER, OF_VERIFIER };

void spc_cuda_lay_out_chain(spc_runner *r, carver *to)
{
    int32_t slots = r->limits.slots;

    for (int half = 0; half < 2; half++) {
        cuda_chain *c = carve(to, sizeof *c), counted;

        r->half[half].chain = c;
        if (!c) c = &counted;
        c->guess = carve(to, times(sizeof *c->guess, slots));
        c->params = carve(to, times(sizeof *c->params, slots));
        c->length = carve(to, times(sizeof *c->length, slots));
        c->pending = carve(to, times(sizeof *c->pending, slots));
        for (int i = OF_DRAFTER; i <= OF_VERIFIER; i++) {
            c->serial[i] = carve(to, times(sizeof *c->serial[i], slots));
        }
        c->lane = carve(to, times(sizeof *c->lane, slots));
    }
}

/* ---- was it this one? -------------------------------------------------------------------------
 */

static bool same_stops(const spc_round_request *a, const spc_round_request *b)
{
    return a->stop_count == b->stop_count &&
           memcmp(a->stop, b->stop, (size_t)a->stop_count * sizeof *a->stop) == 0;
}

/* Is a sequence what lane k went on with?  A slot whose pages or entries have changed since has
 * another serial. */
static bool serves(const cuda_chain *c, const spc_runner *drafter, const spc_runner *verifier,
                   const spc_round_request *w, int32_t k)
{
    const spc_round_request *guess = &c->guess[k];

    return guess->slot == w->slot && c->length[k] == w->length &&
           c->pending[k] == w->token[w->length - 1] && guess->lane.drafts == w->lane.drafts &&
           guess->lane.bonus == w->lane.bonus && guess->late == w->late &&
           guess->unscored == w->unscored && guess->in_turns == w->in_turns &&
           guess->synthetic == w->synthetic && w->ahead == 0 && same_stops(guess, w) &&
           memcmp(&c->params[k], w->lane.params, sizeof c->params[k]) == 0 &&
           (!drafter || c->serial[OF_DRAFTER][k] == drafter->serial[w->slot]) &&
           c->serial[OF_VERIFIER][k] == verifier->serial[w->slot];
}

bool spc_cuda_chain_serves(const cuda_chain *c, const spc_runner *drafter,
                           const spc_runner *verifier, const spc_round_request *request,
                           int32_t count, int32_t *lane)
{
    if (!c->in_flight || c->round.drafter != drafter) return false;
    for (int32_t k = 0; k < count; k++) {
        lane[k] = c->lane[request[k].slot];
        if (lane[k] < 0 || !serves(c, drafter, verifier, &request[k], lane[k])) return false;
    }
    return true;
}

/* ---- sending it -------------------------------------------------------------------------------
 */

static bool has_room(const spc_runner *r, const spc_round_request *w)
{
    return !r || w->length + 2 * spc_request_most(w) <= r->room[w->slot];
}

static bool may_chain(const fused_round *r, const spc_round_request *request, int32_t count)
{
    if (r->verifier->graphs.off || r->half->chain->off || !r->inside) return false;
    for (int32_t k = 0; k < count; k++) {
        const spc_round_request *w = &request[k];

        if (!w->may_chain || w->ahead > 0 || !has_room(r->drafter, w) ||
            !has_room(r->verifier, w)) {
            return false;
        }
    }
    return true;
}

/* The sequences of the next round in the order of its lanes, if all of this one is kept. */
static void guess_lanes(cuda_chain *c, const spc_round_request *request, const int32_t *order,
                        int32_t count, int32_t slots)
{
    for (int32_t i = 0; i < slots; i++) c->lane[i] = -1;
    for (int32_t k = 0; k < count; k++) {
        spc_round_request *w = &c->guess[k];

        *w = request[order[k]];
        w->length += spc_request_most(w);
        w->lane.position += spc_request_most(w);
        if (w->lane.salt != 0) w->lane.salt += (uint32_t)spc_request_most(w);
        c->params[k] = *w->lane.params;
        c->lane[w->slot] = k;
    }
}

spc_status spc_cuda_chain_next(const fused_round *r, const spc_round_request *request,
                               int32_t count, const int32_t *lane, int32_t *order, spc_error *err)
{
    cuda_chain *c = r->half->chain;
    fused_round *next = &c->round;
    spc_status status;

    if (!may_chain(r, request, count)) return SPC_OK;
    memset(next, 0, sizeof *next);
    next->drafter = r->drafter;
    next->verifier = r->verifier;
    next->half = r->half;
    next->shape.half = request[0].half;
    next->shape.chained = 1;
    next->shape.in_turns = request[0].in_turns;
    spc_cuda_sort_lanes(order, request, count);
    guess_lanes(c, request, order, count, r->verifier->limits.slots);
    status = spc_cuda_write_fused(next, c->guess, NULL, count, err);
    if (status != SPC_OK) return status;
    for (int32_t k = 0; k < count; k++) {
        next->host.from[k] = lane[order[k]];
        next->host.guess[k] = spc_request_most(&c->guess[k]);
    }
    return spc_cuda_start_fused(next, r, &c->in_flight, err);
}

/* ---- what it began with -----------------------------------------------------------------------
 */

void spc_cuda_chain_note(spc_runner *verifier, const spc_round_request *request,
                         const spc_verdict *out, const spc_verdict *late, int32_t count)
{
    cuda_chain *c = verifier->half[request[0].half].chain;
    const spc_runner *drafter = c->round.drafter;

    for (int32_t k = 0; k < count; k++) {
        const spc_round_request *w = &request[k];
        const spc_verdict *last = w->again && late[k].count > 0 ? &late[k] : &out[k];
        int32_t lane = c->lane[w->slot];

        c->length[lane] = w->length + out[k].count + (w->again ? late[k].count : 0);
        c->pending[lane] = last->count > 0 ? last->token[last->count - 1] : -1;
        if (drafter) c->serial[OF_DRAFTER][lane] = drafter->serial[w->slot];
        c->serial[OF_VERIFIER][lane] = verifier->serial[w->slot];
    }
}
