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
 *   4 COMMIT  token by token until one ends the sequence; both caches are cut to n' - 1: lengths
 * only
 *
 * Chunks of long prompts of other sessions go with the first forward of each model (fill.c).
 * verifier-only is the round with g = 0.  Cache lengths by outcome: rules.md 5.1.  Draft lengths,
 * of all sessions together, come from gamma.c. */
#include "session.h"

#include <assert.h>

/* Is the last row of a round a draft like the others? */
static bool steps(const spc_session *s)
{
    return s->params.bonus == SPC_BONUS_STEP && s->params.rule.path != SPC_RULE_VERIFIER_ONLY;
}

static void round_begin(spc_session *s, spc_lane *lane, int32_t index)
{
    s->round_failed = false;
    lane->params = &s->params;
    lane->position = s->length;
    lane->output = index * SPC_LANE_ROWS;
    lane->drafts = s->round_gamma + (steps(s) ? 1 : 0);
    lane->salt = s->params.verify == SPC_VERIFY_BLOCK ? (uint32_t)s->length + 1u : 0u;
    lane->bonus = false;
    lane->draft = s->token + s->length;
    lane->stats = s->stats;
}

/* ---- 1 draft ----------------------------------------------------------------------------------
 */

/* What the drawn token means for the rest of the draft: none behind an end of sequence, none behind
 * a row that gave no token. */
static void round_drafted(spc_session *s, spc_lane *lane, int32_t i)
{
    s->counters.drafter_calls++;
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

static spc_status round_draft(spc_engine *engine, spc_session *const *sessions, int32_t count,
                              spc_error *err)
{
    spc_lane *lane = engine->scratch.lane;
    spc_model *drafter = &engine->drafter;

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
            if (i < lane[k].drafts) round_drafted(sessions[k], &lane[k], i);
        }
    }
    return SPC_OK;
}

/* ---- 2 score ----------------------------------------------------------------------------------
 */

/* Is a token to be drawn after a fully kept draft?  Not where the draft ends the sequence or broke
 * off, and not where the last row was a draft itself. */
static bool wants_bonus(const spc_session *s, const spc_lane *lane)
{
    if (s->round_failed) return false;
    if (steps(s)) return false;
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
        int32_t rows = lane[k].drafts + (wants_bonus(s, &lane[k]) ? 1 : 0);

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

/* A verdict of the row behind `drafts` kept ones comes behind theirs. */
static void append(spc_verdict *v, int32_t drafts, const spc_verdict *late)
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
        if (!wants_bonus(s, lane) || lane->bonus || verdict[k].accepted < lane->drafts) continue;
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
        if (scratch->bonus[j].params != &sessions[k]->params) continue;
        append(&verdict[k], scratch->lane[k].drafts, &late[j++]);
    }
    return status;
}

static spc_status round_verify(spc_engine *engine, spc_session *const *sessions, int32_t count,
                               uint64_t *drafter_ns, spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;

    for (int32_t k = 0; k < count; k++) {
        spc_lane *lane = &scratch->lane[k];

        lane->bonus = wants_bonus(sessions[k], lane) && !spc_lane_bonus_reads(lane);
    }

    spc_status status = engine->ops->verify(engine->drafter.runner, engine->verifier.runner,
                                            scratch->lane, count, scratch->verdict, err);

    if (status != SPC_OK) return status;
    return round_bonus(engine, sessions, count, drafter_ns, err);
}

/* ---- 1 to 3 by the backend --------------------------------------------------------------------
 */

/* Do the caches lack what a whole round begins with, and no more?  Prompts, and a drafter that was
 * left behind, are fed by a composed round. */
static bool whole_begins(const spc_session *s, const spc_lane *lane)
{
    const spc_engine *engine = s->engine;
    int32_t run = s->length - 1, drafter;

    if (run == 0 && s->source_count > 0) return false;
    if (engine->ops->length(engine->verifier.runner, s->slot) != run) return false;
    if (lane->drafts == 0 && !spc_lane_bonus_reads(lane)) return true;
    drafter = engine->ops->length(engine->drafter.runner, s->slot);
    return drafter == run || (lane->drafts > 0 && drafter == run - 1 && run > 0);
}

static bool goes_whole(const spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    bool whole = engine->ops->round && !engine->composed;

    if (whole && engine->ops->round_alone) whole = count == 1 && steps(sessions[0]);
    for (int32_t k = 0; whole && k < count; k++) {
        whole = whole_begins(sessions[k], &engine->scratch.lane[k]);
    }
    return whole;
}

/* Drafts of the next round that may be drawn while this one is verified. */
static int32_t drafts_ahead(spc_session *s, const spc_lane *lane)
{
    if (!steps(s) || lane->drafts == 0) return 0;
    return spc_overlap_choose(&s->engine->overlap, lane->drafts - 1);
}

static void whole_begin(spc_session *s, const spc_lane *lane, spc_whole *w)
{
    const spc_config *config = &s->engine->verifier.config;
    bool last = !steps(s), late = last && spc_lane_bonus_reads(lane);

    *w = (spc_whole){.lane = *lane,
                     .slot = s->slot,
                     .length = s->length,
                     .token = s->token,
                     .late = late,
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
static void whole_end(spc_session *s, spc_lane *lane, const spc_whole *w, spc_verdict *v,
                      const spc_verdict *late)
{
    int32_t drafts = lane->drafts;

    for (int32_t i = 0; i < drafts && i < lane->drafts; i++) {
        if (w->failed && i == w->lane.drafts) lane->draft[i] = -1;
        round_drafted(s, lane, i);
    }
    assert(lane->drafts == w->lane.drafts && s->round_failed == w->failed);
    s->counters.verifier_calls += lane->drafts > 0 || wants_bonus(s, lane);
    s->counters.drafted_ahead += w->ahead;
    s->counters.ahead_used += w->ready;
    if (!w->again) return;
    s->counters.drafter_calls++;
    append(v, lane->drafts, late);
}

/* Draft steps of a whole round as gamma.c learns them: all alike. */
static void drafted_whole(spc_engine *engine, spc_session *const *sessions, int32_t count,
                          uint64_t ns)
{
    int32_t steps_run = 0, drafting = 0;

    for (int32_t k = 0; k < count; k++) {
        int32_t wanted = sessions[k]->round_gamma + (steps(sessions[k]) ? 1 : 0);

        drafting += wanted > 0;
        if (wanted > steps_run) steps_run = wanted;
    }
    if (steps_run > 0) spc_gamma_drafted(engine, drafting, drafting, ns / (uint64_t)steps_run);
}

/* Longest draft of a round, as it was chosen. */
static int32_t longest(spc_session *const *sessions, int32_t count)
{
    int32_t gamma = 0;

    for (int32_t k = 0; k < count; k++) {
        if (sessions[k]->round_gamma > gamma) gamma = sessions[k]->round_gamma;
    }
    return gamma;
}

/* rows: receives those the verifier scored. */
static spc_status round_whole(spc_engine *engine, spc_session *const *sessions, int32_t count,
                              uint64_t *verify_ns, int32_t *rows, spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;
    spc_verdict *late = scratch->verdict + engine->sessions;
    spc_status status;

    for (int32_t k = 0; k < count; k++) {
        whole_begin(sessions[k], &scratch->lane[k], &scratch->whole[k]);
        *rows += sessions[k]->round_gamma + 1;
    }
    if (count == 1) scratch->whole[0].ahead = drafts_ahead(sessions[0], &scratch->lane[0]);
    spc_trace_begin(engine->trace, "draft+verify sessions=%d gamma=%d ahead=%d", (int)count,
                    (int)longest(sessions, count), (int)scratch->whole[0].ahead);
    status = engine->ops->round(engine->drafter.runner, engine->verifier.runner, scratch->whole,
                                count, scratch->verdict, late, verify_ns, err);
    spc_trace_end(engine->trace);
    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        whole_end(sessions[k], &scratch->lane[k], &scratch->whole[k], &scratch->verdict[k],
                  &late[k]);
    }
    return status;
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
    spc_gamma_judged(s, v->verified < s->round_gamma ? v->verified : s->round_gamma, v->accepted);
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
    round_rewind(s);
}

/* Verb by verb; drafter_ns receives the drafter's time, rows those the verifier scored, 0: with
 * rows of prompts among them, which take less. */
static spc_status round_composed(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                 uint64_t *drafter_ns, int32_t *rows, spc_error *err)
{
    uint64_t late_ns = 0, start = spc_engine_now(engine);
    int32_t wanted = 0, gamma = longest(sessions, count);
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

static spc_status round_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                             spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;
    uint64_t drafter_ns = 0, verify_ns = 0, start, decided;
    int32_t rows = 0;
    spc_status status = spc_gamma_choose(engine, sessions, count, err);
    bool whole;

    if (status != SPC_OK) return status;
    start = spc_engine_now(engine);
    for (int32_t k = 0; k < count; k++) round_begin(sessions[k], &scratch->lane[k], k);
    whole = goes_whole(engine, sessions, count);
    if (whole) {
        status = round_whole(engine, sessions, count, &verify_ns, &rows, err);
        decided = spc_engine_now(engine) - start;
        drafter_ns = verify_ns < decided ? decided - verify_ns : 0;
        if (status == SPC_OK) drafted_whole(engine, sessions, count, drafter_ns);
    } else {
        status = round_composed(engine, sessions, count, &drafter_ns, &rows, err);
        decided = spc_engine_now(engine) - start;
    }
    if (status != SPC_OK) return status;

    spc_trace_begin(engine->trace, "commit sessions=%d", (int)count);
    for (int32_t k = 0; k < count; k++) {
        if (engine->rewrite) {
            engine->rewrite(engine->rewrite_user, &scratch->lane[k], &scratch->verdict[k]);
        }
        round_commit(sessions[k], &scratch->lane[k], &scratch->verdict[k]);
    }
    spc_trace_end(engine->trace);

    uint64_t committed = spc_engine_now(engine) - start;

    if (count == 1 && whole && steps(sessions[0])) {
        const spc_whole *w = &scratch->whole[0];

        spc_overlap_note(&engine->overlap, committed, scratch->lane[0].drafts - w->ready,
                         drafter_ns, decided - drafter_ns);
    }
    spc_gamma_scored(engine, rows, committed - drafter_ns, committed);
    for (int32_t k = 0; k < count; k++) { /* a batch shares its time equally */
        spc_stats *c = &sessions[k]->counters;

        c->draft_ns += drafter_ns / (uint64_t)count;
        c->verify_ns += (decided - drafter_ns) / (uint64_t)count;
        c->other_ns += (committed - decided) / (uint64_t)count;
    }
    return SPC_OK;
}

const spc_strategy spc_strategy_round = {"round", round_step};
