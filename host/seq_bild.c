/* SPDX-License-Identifier: Apache-2.0 */
/* seq_bild.c - the original BiLD (arXiv 2302.07863; rules.md 5.5): greedy, with two thresholds.
 *
 * The drafter writes on while it is sure of itself (fallback).  Then the verifier looks at what it
 * has not seen; a token that surprises it too much (rollback) is taken back with all behind it, and
 * the verifier's own token put there.  Tokens are given out once the verifier has seen them, or
 * when the sequence ends. */
#include "session.h"

#include <math.h>

/* Statistics of a row of logits and its best token; -1: the row is bad. */
static int32_t best_of(const spc_engine *engine, const spc_model *model, const spc_session *s,
                       int32_t output, spc_row_stats *stats)
{
    return spc_draft_sample(engine->ops->logits(model->runner, output), engine->vocab, &s->params,
                            0, 0, stats);
}

/* -ln p1 of a token in a row of the verifier. */
static double surprise(const spc_engine *engine, const spc_row_stats *stats, int32_t output,
                       int32_t token)
{
    float logit = engine->ops->logits(engine->verifier.runner, output)[token];

    return log((double)stats->sum_one) - ((double)logit - (double)stats->max);
}

/* Both caches hold no more than the tokens in front of the pending one. */
static void cut_caches(spc_engine *engine, const spc_session *s)
{
    spc_model *models[] = {&engine->verifier, &engine->drafter};

    for (int i = 0; i < 2; i++) {
        spc_runner *runner = models[i]->runner;

        if (engine->ops->length(runner, s->slot) < s->length) continue;
        engine->ops->rewind(runner, s->slot, s->length - 1);
    }
}

/* D1 to D3: the verifier sees the drafts.  Keeps those it agrees with or puts up with, and one
 * token of its own.  Returns whether the drafter may go on. */
static bool look(spc_engine *engine, spc_session *s, int32_t output)
{
    int32_t unseen = s->ahead;
    spc_row_stats stats;

    s->ahead = 0;
    for (int32_t j = 0; j <= unseen; j++) {
        int32_t best = best_of(engine, &engine->verifier, s, output + j, &stats);

        if (best < 0) {
            spc_session_fail_row(s, false, s->length);
            return false;
        }
        if (j == unseen) return spc_session_keep(s, best, SPC_TOKEN_BONUS, true);

        int32_t draft = s->token[s->length];
        bool back =
            draft != best && surprise(engine, &stats, output + j, draft) > s->params.rule.rollback;

        s->counters.verified[j]++;
        s->counters.accepted[j] += !back;
        s->counters.rejected[j] += back;
        s->counters.deferred[j] += back;
        if (back) {
            (void)spc_session_keep(s, best, SPC_TOKEN_RESIDUAL, true);
            cut_caches(engine, s);
            return false;
        }
        if (!spc_session_keep(s, draft, SPC_TOKEN_ACCEPTED, false)) return false;
    }
    return false;
}

/* The sequence ends among the drafts: they stay as they are. */
static void keep_unseen(spc_session *s)
{
    int32_t unseen = s->ahead;

    s->ahead = 0;
    for (int32_t i = 0; i < unseen; i++) {
        if (!spc_session_keep(s, s->token[s->length], SPC_TOKEN_ACCEPTED, false)) return;
    }
}

/* D4: the drafter writes while it is sure. */
static spc_status write_on(spc_engine *engine, spc_session *s, spc_error *err)
{
    while (s->ahead < s->params.rule.window) {
        int32_t end = s->length + s->ahead, token;
        spc_row_stats stats;
        spc_status status = spc_feed(engine, &engine->drafter, s, end, end - 1, 0, err);

        if (status == SPC_OK) status = spc_feed_flush(engine, &engine->drafter, err);
        if (status != SPC_OK) return status;
        s->counters.drafter_calls++;
        token = best_of(engine, &engine->drafter, s, 0, &stats);
        if (token < 0) {
            spc_session_fail_row(s, true, end);
            return SPC_OK;
        }
        if (1.0 / (double)stats.sum_one < s->params.rule.alpha) return SPC_OK;
        s->counters.drafted[s->ahead]++;
        s->token[end] = token;
        s->ahead++;
        if (spc_session_is_stop(s, token) || end + 1 - s->prompt == s->budget ||
            end + 1 == engine->context) {
            keep_unseen(s);
            return SPC_OK;
        }
    }
    return SPC_OK;
}

static spc_status step_one(spc_engine *engine, spc_session *s, spc_error *err)
{
    uint64_t start = spc_now_ns(), seen;
    int32_t end = s->length + s->ahead;
    spc_status status = spc_feed(engine, &engine->verifier, s, end, s->length - 1, 0, err);

    if (status == SPC_OK) status = spc_feed_flush(engine, &engine->verifier, err);
    if (status != SPC_OK) return status;
    s->counters.rounds++;
    s->counters.verifier_calls++;

    bool go_on = look(engine, s, 0);

    seen = spc_now_ns();
    s->counters.verify_ns += seen - start;
    if (go_on) status = write_on(engine, s, err);
    s->counters.draft_ns += spc_now_ns() - seen;
    return status;
}

/* Sessions need different numbers of rows at different times: one after the other. */
static spc_status bild_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        status = step_one(engine, sessions[k], err);
    }
    return status;
}

const spc_strategy spc_strategy_bild = {"bild-dynamic", bild_step};
