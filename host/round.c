/* SPDX-License-Identifier: Apache-2.0 */
/* round.c - one speculative round of several sessions: draft, score, verify, commit.
 *
 * token[0 .. n) are the committed tokens of a session; token[n - 1] is pending: it stands in
 * neither KV cache.  Between rounds the verifier's cache holds n - 1 tokens; the drafter's the
 * same, or fewer after a round that did not need it.  The drafts of a round lie behind the
 * committed tokens, in token[n .. n + g).
 *
 *   1 DRAFT   g times: the drafter runs one row per session, a token is drawn from it
 *   2 SCORE   the verifier runs the pending token and the drafts in one pass: g + 1 rows
 *   3 VERIFY  the rule decides (verify.c).  A bonus token from the target distribution needs the
 *             drafter's row g too: it is run now, only for sessions that kept every draft
 *   4 COMMIT  token by token until one ends the sequence; both caches are cut to n' - 1, which sets
 *             their lengths and copies nothing
 *
 * Chunks of long prompts of other sessions go with the first forward of each model (fill.c).
 * verifier-only is the round with g = 0.  Cache lengths by outcome: check_round of
 * tests/test_host_round.c.  Draft lengths, of all sessions together, come from gamma.c. */
#include "round.h"

#include "rules/pair.h"
#include "rules/synthetic.h"

#include <assert.h>

bool spc_round_steps(const spc_session *s)
{
    return s->params.bonus == SPC_BONUS_STEP && s->params.rule.path != SPC_RULE_VERIFIER_ONLY;
}

static void round_begin(spc_session *s, spc_lane *lane, int32_t index)
{
    s->round_failed = false;
    lane->params = s->params.rule.path == SPC_RULE_VERIFIER_ONLY ? &s->plain : &s->params;
    lane->position = s->length;
    /* halves have rows of their own: one from below, one from above */
    lane->output = (s->half == 0 ? index : s->engine->sessions - 1 - index) * SPC_LANE_ROWS;
    lane->drafts = s->round_gamma + (spc_round_steps(s) ? 1 : 0);
    if (s->ngram && lane->drafts > s->found) lane->drafts = s->found;
    lane->salt = spc_salt_of(&s->params, s->length);
    lane->bonus = false;
    lane->draft = s->token + s->length;
    lane->stats = s->stats;
}

int32_t spc_round_longest(spc_session *const *sessions, int32_t count)
{
    int32_t gamma = 0;

    for (int32_t k = 0; k < count; k++) {
        if (sessions[k]->round_gamma > gamma) gamma = sessions[k]->round_gamma;
    }
    return gamma;
}

/* ---- 1 draft ----------------------------------------------------------------------------------
 */

void spc_round_drafted(spc_session *s, spc_lane *lane, int32_t i)
{
    s->counters.drafter_calls += s->ngram == NULL;
    if (lane->draft[i] < 0) {
        lane->drafts = i;
        s->round_failed = true;
        return;
    }
    if (i < s->round_gamma) s->counters.drafted[i]++;
    if (spc_session_is_stop(s, lane->draft[i])) lane->drafts = i + 1;
}

/* Tokens kept while no draft was wanted; a round that kept all its drafts leaves one row, too. */
static void count_catch_up(spc_session *s)
{
    int32_t has = s->engine->ops->length(s->engine->drafter.runner, s->slot);
    int32_t lag = s->length - 1 - (has > s->prompt ? has : s->prompt);

    if (lag > 1) s->counters.catch_up += lag;
}

/* Drafts that were looked up lie where they belong (spc_gamma_choose). */
static void take_found(spc_session *s, spc_lane *lane)
{
    for (int32_t i = 0; i < lane->drafts; i++) spc_round_drafted(s, lane, i);
}

static spc_status round_draft(spc_engine *engine, spc_session *const *sessions, int32_t count,
                              spc_error *err)
{
    spc_lane *lane = engine->scratch.lane;
    spc_model *drafter = &engine->drafter;

    for (int32_t k = 0; k < count && !drafter->runner; k++) take_found(sessions[k], &lane[k]);
    if (!drafter->runner) return SPC_OK;
    for (int32_t i = 0; i < SPC_LANE_ROWS; i++) {
        uint64_t start = spc_engine_now(engine);
        int32_t drafting = 0;

        engine->scratch.fed = 0;
        for (int32_t k = 0; k < count; k++) {
            spc_session *s = sessions[k];

            if (i >= lane[k].drafts) continue;
            drafting++;
            if (i == 0) count_catch_up(s);
            spc_status status = spc_feed(engine, drafter, s, s->length + i, s->length + i - 1,
                                         lane[k].output + i, err);
            if (status != SPC_OK) return status;
        }
        if (drafting == 0) break;

        spc_status status = i == 0 ? spc_fill_add(engine, drafter, err) : SPC_OK;

        if (status == SPC_OK) status = spc_feed_flush(engine, drafter, err);
        if (status == SPC_OK) status = engine->ops->draw(drafter->runner, lane, count, i, err);
        if (status != SPC_OK) return status;
        spc_gamma_drafted(engine, engine->scratch.fed, drafting, spc_engine_now(engine) - start);
        for (int32_t k = 0; k < count; k++) {
            if (i < lane[k].drafts) spc_round_drafted(sessions[k], &lane[k], i);
        }
    }
    return SPC_OK;
}

/* ---- 2 score ----------------------------------------------------------------------------------
 */

bool spc_round_wants_bonus(const spc_session *s, const spc_lane *lane)
{
    if (s->round_failed) return false;
    if (spc_round_steps(s) && (!s->ngram || lane->drafts > s->round_gamma)) return false;
    return lane->drafts == 0 || !spc_session_is_stop(s, lane->draft[lane->drafts - 1]);
}

/* wanted: receives the rows whose logits were wanted. */
static spc_status round_score(spc_engine *engine, spc_session *const *sessions, int32_t count,
                              int32_t *wanted, spc_error *err)
{
    spc_lane *lane = engine->scratch.lane;
    spc_model *verifier = &engine->verifier;

    for (int32_t k = 0; k < count; k++) {
        spc_session *s = sessions[k];
        int32_t rows = lane[k].drafts + (spc_round_wants_bonus(s, &lane[k]) ? 1 : 0);

        if (rows == 0) continue; /* the first draft already broke off */
        spc_status status =
            spc_feed(engine, verifier, s, s->length + rows - 1, s->length - 1, lane[k].output, err);
        if (status != SPC_OK) return status;
        s->counters.verifier_calls++;
        *wanted += rows;
    }

    spc_status status = spc_fill_add(engine, verifier, err);

    return status == SPC_OK ? spc_feed_flush(engine, verifier, err) : status;
}

/* ---- 3 verify ---------------------------------------------------------------------------------
 */

void spc_round_append(spc_verdict *v, int32_t drafts, const spc_verdict *late)
{
    v->status |= late->status;
    v->deferred |= late->deferred << drafts;
    v->drawn = late->drawn;
    if (late->count > 0) v->token[v->count++] = late->token[0];
}

/* Sessions whose bonus token needs the drafter's row behind the last draft: run it, draw, and
 * append to the verdict. */
static spc_status round_bonus(spc_engine *engine, spc_session *const *sessions, int32_t count,
                              uint64_t *drafter_ns, spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;
    spc_verdict *verdict = scratch->verdict, *late = scratch->verdict + engine->sessions;
    uint64_t start = spc_engine_now(engine);
    int32_t late_count = 0;
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        spc_session *s = sessions[k];
        spc_lane *lane = &scratch->lane[k];
        int32_t behind = s->length + lane->drafts;

        if (verdict[k].status & (SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER)) continue;
        if (!spc_round_wants_bonus(s, lane) || lane->bonus || verdict[k].accepted < lane->drafts)
            continue;
        status = spc_feed(engine, &engine->drafter, s, behind, behind - 1,
                          lane->output + lane->drafts, err);
        s->counters.drafter_calls++;
        scratch->bonus[late_count] = *lane;
        scratch->bonus[late_count].position += lane->drafts;
        scratch->bonus[late_count].output += lane->drafts;
        scratch->bonus[late_count].drafts = 0;
        scratch->bonus[late_count].bonus = true;
        late_count++;
    }
    if (late_count == 0 || status != SPC_OK) return status;
    status = spc_feed_flush(engine, &engine->drafter, err);
    *drafter_ns = spc_engine_now(engine) - start;
    if (status != SPC_OK) return status;
    status = engine->ops->verify(engine->drafter.runner, engine->verifier.runner, scratch->bonus,
                                 late_count, late, err);

    for (int32_t k = 0, j = 0; k < count && j < late_count && status == SPC_OK; k++) {
        /* whose late lane is it?  every session has parameters of its own */
        if (scratch->bonus[j].params != scratch->lane[k].params) continue;
        spc_round_append(&verdict[k], scratch->lane[k].drafts, &late[j++]);
    }
    return status;
}

static spc_status round_verify(spc_engine *engine, spc_session *const *sessions, int32_t count,
                               uint64_t *drafter_ns, spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;

    for (int32_t k = 0; k < count; k++) {
        spc_lane *lane = &scratch->lane[k];

        lane->bonus = spc_round_wants_bonus(sessions[k], lane) &&
                      (sessions[k]->ngram || !spc_lane_bonus_reads(lane));
    }

    spc_status status = engine->ops->verify(engine->drafter.runner, engine->verifier.runner,
                                            scratch->lane, count, scratch->verdict, err);

    if (status != SPC_OK) return status;
    for (int32_t k = 0; engine->synthetic && k < count; k++) {
        const spc_lane *lane = &scratch->lane[k];

        spc_synthetic_verdict(&scratch->verdict[k], lane->params, lane->position, lane->draft,
                              lane->drafts, lane->bonus, *engine->synthetic);
    }
    return round_bonus(engine, sessions, count, drafter_ns, err);
}

/* ---- 4 commit ---------------------------------------------------------------------------------
 */

/* Count row i of the round, whose token is kept: counters hold nothing of tokens behind a stop. */
static void count_row(spc_session *s, const spc_verdict *v, int32_t i)
{
    if (i >= s->round_gamma || i >= v->verified) {
        s->counters.bonus++;
        s->counters.bonus_deferred += v->deferred >> i & 1u;
        return;
    }
    s->counters.verified[i]++;
    s->counters.accepted[i] += i < v->accepted;
    s->counters.rejected[i] += i >= v->accepted;
    s->counters.deferred[i] += v->deferred >> i & 1u;
}

static spc_token_origin origin_of(const spc_lane *lane, const spc_verdict *v, int32_t i)
{
    if (i < v->accepted) return SPC_TOKEN_ACCEPTED;
    return v->accepted < lane->drafts ? SPC_TOKEN_RESIDUAL : SPC_TOKEN_BONUS;
}

/* Cut both caches to what the next round starts from.  Never lengthens one. */
static void round_rewind(spc_session *s)
{
    const spc_backend_ops *ops = s->engine->ops;
    spc_runner *drafter = s->engine->drafter.runner, *verifier = s->engine->verifier.runner;
    int32_t run = s->length - 1; /* all but the pending token has been run */

    if (ops->length(verifier, s->slot) > run) ops->rewind(verifier, s->slot, run);
    if (drafter && ops->length(drafter, s->slot) > run) ops->rewind(drafter, s->slot, run);
    assert(s->finish == SPC_FINISH_FAILED || ops->length(verifier, s->slot) == run);
}

static void round_commit(spc_session *s, const spc_lane *lane, const spc_verdict *v)
{
    int32_t first = s->length, kept = 0;

    s->counters.rounds++;
    spc_gamma_judged(s, v->verified, v->accepted); /* under bonus=step one is behind the last */
    s->counters.zero_residuals += (v->status & SPC_STATUS_ZERO_RESIDUAL) != 0;
    while (kept < v->count && s->finish == SPC_FINISH_RUNNING) {
        count_row(s, v, kept);
        (void)spc_session_keep(s, v->token[kept], origin_of(lane, v, kept),
                               v->deferred >> kept & 1u);
        kept++;
    }
    s->counters.discarded += v->count - kept;
    if (s->finish == SPC_FINISH_RUNNING) {
        if (v->status & SPC_STATUS_BAD_VERIFIER) {
            spc_session_fail_row(s, false, first + v->count);
        } else if (v->status & SPC_STATUS_BAD_DRAFTER ||
                   (s->round_failed && v->accepted == lane->drafts)) {
            spc_session_fail_row(s, true, first + v->count);
        }
    }
    if (s->finish != SPC_FINISH_RUNNING && s->finish != SPC_FINISH_FAILED) spc_gamma_ended(s);
    round_rewind(s);
}

/* Verb by verb; drafter_ns receives the drafter's time, rows those the verifier scored, 0: with
 * rows of prompts among them, which take less. */
static spc_status round_composed(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                 uint64_t *drafter_ns, int32_t *rows, spc_error *err)
{
    uint64_t late_ns = 0, start = spc_engine_now(engine);
    int32_t wanted = 0, gamma = spc_round_longest(sessions, count);
    spc_status status;

    spc_trace_begin(engine->trace, "draft sessions=%d gamma=%d", (int)count, (int)gamma);
    status = round_draft(engine, sessions, count, err);
    spc_trace_end(engine->trace);
    *drafter_ns = spc_engine_now(engine) - start;
    engine->scratch.fed = 0;
    spc_trace_begin(engine->trace, "verify sessions=%d gamma=%d", (int)count, (int)gamma);
    if (status == SPC_OK) status = round_score(engine, sessions, count, &wanted, err);
    *rows = engine->scratch.fed == wanted ? wanted : 0;
    if (status == SPC_OK) status = round_verify(engine, sessions, count, &late_ns, err);
    spc_trace_end(engine->trace);
    *drafter_ns += late_ns;
    return status;
}

/* How long a round took.  Of the host's time in the step, `decided` went by until its verdicts,
 * `draft` of that for drafts, and `committed` until all was kept.  `own` is the round's time with
 * nothing else in it: the device may have begun it before the step. */
typedef struct {
    uint64_t draft, decided, committed;
    uint64_t own, own_draft, own_verify;
} round_time;

/* Of a round that the backend ran. */
static void split_time(round_time *t, const spc_round_times *device)
{
    bool was_in_flight = device->round_ns != UINT64_MAX;

    t->own = was_in_flight ? device->round_ns : t->decided;
    t->own_verify = device->verify_ns < t->own ? device->verify_ns : t->own;
    t->own_draft = t->own - t->own_verify;
    t->draft = t->own_draft;
    if (was_in_flight && t->own > 0) { /* what was left to wait for, in the same proportion */
        t->draft = (uint64_t)((double)t->decided * (double)t->own_draft / (double)t->own);
    }
}

static void note_times(spc_engine *engine, spc_session *const *sessions, int32_t count,
                       const round_time *t, int32_t rows, bool by_backend)
{
    const spc_round_request *w = &engine->scratch.request[0];

    if (by_backend && spc_round_may_draft_ahead(sessions, count)) {
        spc_overlap_note(&engine->overlap, t->own, engine->scratch.lane[0].drafts - w->ready,
                         t->own_draft, t->own_verify);
    }
    spc_gamma_scored(engine, rows, t->own - t->own_draft, t->own);
    for (int32_t k = 0; k < count; k++) { /* a batch shares its time equally */
        spc_stats *c = &sessions[k]->counters;

        c->draft_ns += t->draft / (uint64_t)count;
        c->verify_ns += (t->decided - t->draft) / (uint64_t)count;
        c->other_ns += (t->committed - t->decided) / (uint64_t)count;
    }
}

/* One round of sessions of one half whose round is in flight, or of such whose is not.
 *
 * may_chain   the next one may be sent along */
static spc_status round_of(spc_engine *engine, spc_session *const *sessions, int32_t count,
                           bool may_chain, spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;
    spc_round_times times = {0, UINT64_MAX};
    round_time t = {0};
    int32_t rows = 0, in_flight = 0;
    spc_status status = spc_gamma_choose(engine, sessions, count, err);
    bool by_backend, was_in_flight;
    uint64_t start;

    if (status != SPC_OK) return status;
    start = spc_engine_now(engine);
    for (int32_t k = 0; k < count; k++) round_begin(sessions[k], &scratch->lane[k], k);
    by_backend = spc_round_backend_can(engine, sessions, count);
    if (by_backend) {
        status = spc_round_backend_run(engine, sessions, count, may_chain, &times, &rows, err);
    } else {
        status = round_composed(engine, sessions, count, &t.draft, &rows, err);
    }
    if (status != SPC_OK) return status;
    t.decided = spc_engine_now(engine) - start;
    was_in_flight = by_backend && times.round_ns != UINT64_MAX;
    if (by_backend) {
        split_time(&t, &times);
        spc_round_backend_drafted(engine, sessions, count, t.own_draft);
    } else {
        t.own_draft = t.draft;
    }

    spc_trace_begin(engine->trace, "commit sessions=%d", (int)count);
    status = spc_details_note(engine, sessions, count, err);
    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        spc_session *s = sessions[k];

        round_commit(s, &scratch->lane[k], &scratch->verdict[k]);
        s->in_flight =
            by_backend && scratch->request[k].in_flight && s->finish == SPC_FINISH_RUNNING;
        in_flight += s->in_flight;
    }
    spc_trace_end(engine->trace);
    if (status != SPC_OK) return status;
    t.committed = spc_engine_now(engine) - start;
    if (!was_in_flight) t.own = t.committed; /* the device waited for the host */
    spc_chain_note(&engine->chain[sessions[0]->half], was_in_flight, in_flight);
    note_times(engine, sessions, count, &t, rows, by_backend);
    return SPC_OK;
}

/* Sort by what is in flight: sessions whose round is, of either half, then the others.  first,
 * in_flight receive how many those of the first half are, and of both. */
static void sort_in_flight(spc_session **sorted, spc_session *const *sessions, int32_t count,
                           int32_t *first, int32_t *in_flight)
{
    int32_t at = 0;

    for (int32_t kind = 0; kind < 3; kind++) {
        for (int32_t k = 0; k < count; k++) {
            spc_session *s = sessions[k];

            if ((s->in_flight ? s->half : 2) == kind) sorted[at++] = s;
        }
        if (kind == 0) *first = at;
        if (kind == 1) *in_flight = at;
    }
}

/* No round is in flight: divide a batch anew, if it is to go in turns.  Returns how many sessions
 * the first half has. */
static int32_t divide(spc_engine *engine, spc_session **sessions, int32_t count)
{
    int32_t first = spc_turns_choose(engine, sessions, count) ? (count + 1) / 2 : count;

    for (int32_t k = 0; k < count; k++) {
        sessions[k]->half = k >= first;
        sessions[k]->in_turns = first < count;
    }
    return first;
}

/* Sessions whose round is in flight have it, each half its own.  Where there are others, who may
 * have to feed a prompt, they have theirs behind, and no round is sent along: from the next step on
 * all are together. */
static spc_status round_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                             spc_error *err)
{
    spc_session **sorted = engine->scratch.sorted;
    int32_t first, in_halves;
    bool may_chain;
    spc_status status = SPC_OK;

    sort_in_flight(sorted, sessions, count, &first, &in_halves);
    may_chain = in_halves == 0 || (in_halves == count && spc_turns_stay(engine, sorted, count));
    if (in_halves == 0) {
        first = divide(engine, sorted, count);
        in_halves = count;
    }
    if (first > 0) status = round_of(engine, sorted, first, may_chain, err);
    if (in_halves > first && status == SPC_OK) {
        status = round_of(engine, sorted + first, in_halves - first, may_chain, err);
    }
    if (count > in_halves && status == SPC_OK) {
        for (int32_t k = in_halves; k < count; k++) {
            sorted[k]->half = 0;
            sorted[k]->in_turns = false;
        }
        status = round_of(engine, sorted + in_halves, count - in_halves, false, err);
    }
    spc_turns_note(engine, in_halves == count ? count : 0);
    return status;
}

const spc_strategy spc_strategy_round = {"round", round_step};
