/* SPDX-License-Identifier: Apache-2.0 */
/* round_backend.c - a round that the backend runs by itself (spc_backend_ops.round): when it can,
 * what it is told, what is counted of it. */
#include "round.h"

#include "rules/finish.h"

#include <assert.h>

/* Do the caches lack what such a round begins with, and no more?  Prompts, and a drafter that was
 * left behind, are fed by a composed round. */
static bool caches_fit(const spc_session *s, const spc_lane *lane)
{
    const spc_engine *engine = s->engine;
    int32_t run = s->length - 1, drafter;

    if (spc_round_looked_at(s) || (run == 0 && s->source_count > 0)) return false;
    if (engine->ops->length(engine->verifier.runner, s->slot) != run) return false;
    if (lane->drafts == 0 && !spc_lane_bonus_reads(lane)) return true;
    drafter = engine->ops->length(engine->drafter.runner, s->slot);
    return drafter == run || (lane->drafts > 0 && drafter == run - 1 && run > 0);
}

bool spc_round_backend_can(const spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    bool can = engine->ops->round && !engine->composed;

    if (can && engine->ops->round_alone) can = count == 1 && spc_round_steps(sessions[0]);
    for (int32_t k = 0; can && k < count; k++) {
        can = caches_fit(sessions[k], &engine->scratch.lane[k]);
    }
    return can;
}

bool spc_round_may_draft_ahead(spc_session *const *sessions, int32_t count)
{
    return count == 1 && !sessions[0]->in_turns && spc_round_steps(sessions[0]);
}

/* Drafts of the next round that may be drawn while this one is verified. */
static int32_t drafts_ahead(spc_session *s, const spc_lane *lane)
{
    if (!spc_round_may_draft_ahead(&s, 1) || lane->drafts == 0) return 0;
    return spc_overlap_choose(&s->engine->overlap, lane->drafts - 1);
}

static void request_round(spc_session *s, const spc_lane *lane, spc_round_request *w)
{
    const spc_config *config = &s->engine->verifier.config;
    bool last = !spc_round_steps(s), late = last && spc_lane_bonus_reads(lane);

    *w = (spc_round_request){.lane = *lane,
                             .slot = s->slot,
                             .length = s->length,
                             .token = s->token,
                             .late = late,
                             .half = s->half,
                             .in_turns = s->in_turns,
                             .synthetic = s->engine->synthetic,
                             .unscored = !last};
    w->lane.bonus = last && !late;
    for (int32_t i = 0; !s->ignore_stop && i < config->stop_count; i++) {
        w->stop[w->stop_count++] = config->stop[i];
    }
    for (int32_t i = 0; !s->ignore_stop && i < s->stop_token_count; i++) {
        w->stop[w->stop_count++] = s->stop_token[i];
    }
}

/* Count, and take over, what the backend did for a session. */
static void take_outcome(spc_session *s, spc_lane *lane, const spc_round_request *w, spc_verdict *v,
                         const spc_verdict *late)
{
    int32_t drafts = lane->drafts;

    for (int32_t i = 0; i < drafts && i < lane->drafts; i++) {
        if (w->failed && i == w->lane.drafts) lane->draft[i] = -1;
        spc_round_drafted(s, lane, i);
    }
    assert(lane->drafts == w->lane.drafts && s->round_failed == w->failed);
    s->counters.verifier_calls += lane->drafts > 0 || spc_round_wants_bonus(s, lane);
    s->counters.drafted_ahead += w->ahead;
    s->counters.ahead_used += w->ready;
    s->counters.chained += w->was_in_flight;
    s->counters.in_turns += w->was_in_flight && w->in_turns;
    if (!w->again) return;
    s->counters.drafter_calls++;
    spc_round_append(v, lane->drafts, late);
}

void spc_round_backend_drafted(spc_engine *engine, spc_session *const *sessions, int32_t count,
                               uint64_t ns)
{
    int32_t steps_run = 0, drafting = 0;

    for (int32_t k = 0; k < count; k++) {
        int32_t wanted = sessions[k]->round_gamma + (spc_round_steps(sessions[k]) ? 1 : 0);

        drafting += wanted > 0;
        if (wanted > steps_run) steps_run = wanted;
    }
    if (steps_run > 0) spc_gamma_drafted(engine, drafting, drafting, ns / (uint64_t)steps_run);
}

/* Whatever becomes of this round, unless it ends the session: does the next one draft as much? */
static bool keeps_gamma(const spc_session *s)
{
    int32_t gamma = s->round_gamma, most = gamma + 1;

    return spc_round_gamma(gamma, s->length - s->prompt + most, s->budget, s->length + most,
                           s->engine->context) == gamma;
}

/* May the next round of these sessions be sent along with this one? */
static bool all_may_chain(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    int32_t half = sessions[0]->half;

    if (!spc_chain_may(&engine->chain[half], sessions[0]->in_flight)) return false;
    if (sessions[0]->in_turns && engine->chain[1 - half].wait > 0) return false; /* both, or none */
    for (int32_t k = 0; k < count; k++) {
        if (!keeps_gamma(sessions[k])) return false;
    }
    if (spc_round_may_draft_ahead(sessions, count) && !spc_overlap_stays_off(&engine->overlap)) {
        return false;
    }
    return spc_gamma_stays(engine, sessions, count);
}

spc_status spc_round_backend_run(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                 bool may_chain, spc_round_times *times, int32_t *rows,
                                 spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;
    spc_verdict *late = scratch->verdict + engine->sessions;
    spc_status status;

    may_chain = may_chain && all_may_chain(engine, sessions, count);
    for (int32_t k = 0; k < count; k++) {
        request_round(sessions[k], &scratch->lane[k], &scratch->request[k]);
        scratch->request[k].may_chain = may_chain;
        *rows += sessions[k]->round_gamma + 1;
    }
    if (count == 1) scratch->request[0].ahead = drafts_ahead(sessions[0], &scratch->lane[0]);
    spc_trace_begin(engine->trace, "draft+verify sessions=%d gamma=%d ahead=%d", (int)count,
                    (int)spc_round_longest(sessions, count), (int)scratch->request[0].ahead);
    status = engine->ops->round(engine->drafter.runner, engine->verifier.runner, scratch->request,
                                count, scratch->verdict, late, times, err);
    spc_trace_end(engine->trace);
    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        take_outcome(sessions[k], &scratch->lane[k], &scratch->request[k], &scratch->verdict[k],
                     &late[k]);
    }
    return status;
}
