/* SPDX-License-Identifier: Apache-2.0 */
/* sequential.c - strategies that run one model at a time: the drafter alone, and the
 * two cascades of the paper that draft without verifying.
 *
 * token-chow asks the verifier for a token where the drafter is unsure of it; seq-chow lets the
 * drafter write everything and asks the verifier for all of it where the whole is unsure. */
#include "session.h"

#include "rules/defer.h"

#include <math.h>

/* The drafter's row behind the tokens [0, length + ahead) of every session, and a token drawn from
 * it into token[length + ahead]. */
static spc_status draw_next(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err)
{
    spc_lane *lane = engine->scratch.lane;
    spc_model *drafter = &engine->drafter;
    uint64_t start = spc_now_ns();
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        spc_session *s = sessions[k];
        int32_t end = s->length + s->ahead;

        lane[k] =
            (spc_lane){&s->params, end, k * SPC_LANE_ROWS, 1, 0, false, s->token + end, s->stats};
        status = spc_feed(engine, drafter, s, end, end - 1, lane[k].output, err);
    }
    if (status == SPC_OK) status = spc_feed_flush(engine, drafter, err);
    if (status == SPC_OK) status = engine->ops->draw(drafter->runner, lane, count, 0, err);
    if (status != SPC_OK) return status;

    uint64_t share = (spc_now_ns() - start) / (uint64_t)count;

    for (int32_t k = 0; k < count; k++) {
        spc_session *s = sessions[k];

        s->counters.rounds++;
        s->counters.drafter_calls++;
        s->counters.draft_ns += share;
        if (lane[k].draft[0] < 0) spc_session_fail_row(s, true, s->length + s->ahead);
    }
    return SPC_OK;
}

/* ---- drafter-only -----------------------------------------------------------------------------
 */

static spc_status drafter_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                               spc_error *err)
{
    spc_status status = draw_next(engine, sessions, count, err);

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        spc_session *s = sessions[k];

        if (s->finish != SPC_FINISH_RUNNING) continue;
        (void)spc_session_keep(s, s->token[s->length], SPC_TOKEN_ACCEPTED, false);
    }
    return status;
}

const spc_strategy spc_strategy_drafter = {"drafter-only", drafter_step};

/* ---- token-chow -------------------------------------------------------------------------------
 */

/* Is the drafter unsure of the row it has just left? */
static bool is_unsure(const spc_session *s)
{
    spc_row row = {0};

    row.drafter = spc_gate_of(s->stats[0], (spc_gate)s->params.rule.gate);
    return spc_defer_chow(row, s->params.rule);
}

/* The verifier reads all it lacks of these sessions in one call each and gives the next token. */
static spc_status ask_verifier(spc_engine *engine, spc_session *const *sessions, int32_t count,
                               spc_error *err)
{
    spc_lane *lane = engine->scratch.lane;
    spc_verdict *verdict = engine->scratch.verdict;
    spc_model *verifier = &engine->verifier;
    uint64_t start = spc_now_ns();
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        spc_session *s = sessions[k];

        lane[k] = (spc_lane){&s->params, s->length, k * SPC_LANE_ROWS,    0,
                             0,          true,      s->token + s->length, s->stats};
        status = spc_feed(engine, verifier, s, s->length, s->length - 1, lane[k].output, err);
    }
    if (status == SPC_OK) status = spc_feed_flush(engine, verifier, err);
    if (status == SPC_OK) {
        status = engine->ops->verify(NULL, verifier->runner, lane, count, verdict, err);
    }
    if (status != SPC_OK) return status;

    uint64_t share = (spc_now_ns() - start) / (uint64_t)count;

    for (int32_t k = 0; k < count; k++) {
        spc_session *s = sessions[k];

        s->asks = false;
        s->counters.verifier_calls++;
        s->counters.verify_ns += share;
        if (verdict[k].count < 1) {
            spc_session_fail_row(s, false, s->length);
            continue;
        }
        s->counters.verified[0]++;
        s->counters.rejected[0]++;
        s->counters.deferred[0]++;
        (void)spc_session_keep(s, verdict[k].token[0], SPC_TOKEN_BONUS, true);
    }
    return SPC_OK;
}

/* Does the verifier lack more than goes into this step? */
static bool lacks_much(const spc_session *s)
{
    const spc_engine *engine = s->engine;

    return s->length - 1 - engine->ops->length(engine->verifier.runner, s->slot) >
           spc_fill_rows(engine);
}

static spc_status token_chow_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                  spc_error *err)
{
    spc_session **unsure = engine->scratch.unsure, **drawing = engine->scratch.sorted;
    int32_t members = 0, draws = 0;
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count; k++) {
        if (sessions[k]->asks) {
            unsure[members++] = sessions[k];
        } else {
            drawing[draws++] = sessions[k];
        }
    }
    if (draws > 0) status = draw_next(engine, drawing, draws, err);
    for (int32_t k = 0; k < draws && status == SPC_OK; k++) {
        spc_session *s = drawing[k];

        if (s->finish != SPC_FINISH_RUNNING) continue;
        s->counters.drafted[0]++;
        s->asks = is_unsure(s);
        if (s->asks) {
            if (!lacks_much(s)) unsure[members++] = s;
            continue;
        }
        s->counters.verified[0]++;
        s->counters.accepted[0]++;
        (void)spc_session_keep(s, s->token[s->length], SPC_TOKEN_ACCEPTED, false);
    }
    if (status != SPC_OK || members == 0) return status;
    return ask_verifier(engine, unsure, members, err);
}

const spc_strategy spc_strategy_token_chow = {"token-chow", token_chow_step};

/* ---- seq-chow ---------------------------------------------------------------------------------
 */

/* ln of the gate probability of the token just drawn. */
static double surety(const spc_engine *engine, const spc_session *s, int32_t output)
{
    spc_gate gate = (spc_gate)s->params.rule.gate;
    int32_t token = s->token[s->length + s->ahead];
    float logit = engine->ops->logits(engine->drafter.runner, output)[token];
    float gap = spc_gate_gap(s->stats[0], gate, s->params.sampling.temperature, logit, token);

    return (double)gap + log((double)spc_gate_of(s->stats[0], gate).top);
}

/* The drafter has written everything: keep it, up to a stop string, or leave the sequence to the
 * verifier. */
static void decide_sequence(spc_session *s)
{
    int32_t written = s->ahead, kept = 0;
    bool sure = exp(s->log_sum / written) >= s->params.rule.keep;

    s->ahead = 0;
    while (sure && kept < written && s->finish == SPC_FINISH_RUNNING) {
        s->counters.verified[0]++;
        s->counters.accepted[0]++;
        (void)spc_session_keep(s, s->token[s->length], SPC_TOKEN_ACCEPTED, false);
        kept++;
    }
    s->counters.discarded += written - kept;
    if (sure) return;
    s->counters.verified[0] += written;
    s->counters.rejected[0] += written;
    s->counters.deferred[0] += written;
    (void)spc_rule_make(SPC_RULE_VERIFIER_ONLY, 0, SPC_GATE_UNSCALED, false, &s->params.rule);
    s->strategy = &spc_strategy_round;
}

static spc_status seq_chow_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                spc_error *err)
{
    spc_status status = draw_next(engine, sessions, count, err);

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        status = spc_feed_read(engine, &engine->drafter, k * SPC_LANE_ROWS, 1, err);
    }
    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        spc_session *s = sessions[k];
        int32_t room = engine->context - s->length;

        if (s->finish != SPC_FINISH_RUNNING) continue;
        s->log_sum += surety(engine, s, k * SPC_LANE_ROWS);
        s->ahead++;
        s->counters.drafted[0]++;
        if (spc_session_is_stop(s, s->token[s->length + s->ahead - 1]) || s->ahead == s->budget ||
            s->ahead == room) {
            decide_sequence(s);
        }
    }
    return status;
}

const spc_strategy spc_strategy_seq_chow = {"seq-chow", seq_chow_step};
