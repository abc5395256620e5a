/* SPDX-License-Identifier: Apache-2.0 */
/* seq_bild.c - the original BiLD (arXiv 2302.07863): greedy, with two thresholds.
 *
 * The drafter writes on while it is sure of itself (fallback).  Then the verifier looks at what it
 * has not seen; a token that surprises it too much (rollback) is taken back with all behind it, and
 * the verifier's own token put there.  Tokens are given out once the verifier has seen them, or
 * when the sequence ends. */
#include "session.h"

#include <math.h>

_Static_assert(SPC_WINDOW_MAX <= SPC_GAMMA_MAX, "counters and rows of a lane hold a window");

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

/* The verifier's word on the first unseen draft, at place `at` of the window: keep it, or put its
 * own best token there.  Returns whether the drafts go on. */
static bool judge(spc_engine *engine, spc_session *s, const spc_row_stats *stats, int32_t best,
                  int32_t output, int32_t at)
{
    int32_t draft = s->token[s->length];
    bool back = draft != best && surprise(engine, stats, output, draft) > s->params.rule.rollback;

    s->ahead--;
    s->counters.verified[at]++;
    s->counters.accepted[at] += !back;
    s->counters.rejected[at] += back;
    s->counters.deferred[at] += back;
    if (back) {
        s->ahead = 0;
        s->round_failed = false; /* a bad row behind it belongs to another text */
        (void)spc_session_keep(s, best, SPC_TOKEN_RESIDUAL, true);
        cut_caches(engine, s);
        return false;
    }
    if (spc_session_keep(s, draft, SPC_TOKEN_ACCEPTED, false)) return true;
    s->counters.discarded += s->ahead;
    s->ahead = 0;
    return false;
}

/* The verifier sees the drafts, row by row from `output` on.  Keeps those it agrees with
 * or puts up with, and one token of its own.  Returns whether the drafter may go on. */
static bool look(spc_engine *engine, spc_session *s, int32_t output)
{
    for (int32_t at = 0;; at++, output++) {
        spc_row_stats stats;

        if (s->ahead == 0 && s->round_failed) {
            spc_session_fail_row(s, true, s->length);
            return false;
        }

        int32_t best = best_of(engine, &engine->verifier, s, output, &stats);

        if (best < 0) {
            spc_session_fail_row(s, false, s->length);
            return false;
        }
        if (s->ahead == 0) {
            s->counters.bonus++;
            s->counters.bonus_deferred++;
            return spc_session_keep(s, best, SPC_TOKEN_BONUS, true);
        }
        if (!judge(engine, s, &stats, best, output, at)) return false;
    }
}

/* The sequence ends among the drafts: they stay as they are. */
static void keep_unseen(spc_session *s)
{
    int32_t unseen = s->ahead, kept = 0;

    s->ahead = 0;
    while (kept < unseen && s->finish == SPC_FINISH_RUNNING) {
        (void)spc_session_keep(s, s->token[s->length], SPC_TOKEN_ACCEPTED, false);
        kept++;
    }
    s->counters.discarded += unseen - kept;
}

/* One token of the drafter, from the drafter's row `output`.  Returns whether the drafter writes
 * on. */
static bool write_one(spc_engine *engine, spc_session *s, int32_t output)
{
    int32_t end = s->length + s->ahead;
    spc_row_stats stats;
    int32_t token = best_of(engine, &engine->drafter, s, output, &stats);

    s->counters.drafter_calls++;
    if (token < 0) {
        s->round_failed = s->ahead > 0; /* the verifier first sees what stands before it */
        if (s->ahead == 0) spc_session_fail_row(s, true, end);
        return false;
    }
    if (1.0 / (double)stats.sum_one < s->params.rule.alpha) return false;
    s->counters.drafted[s->ahead]++;
    s->token[end] = token;
    s->ahead++;
    if (spc_session_is_stop(s, token) || end + 1 - s->prompt == s->budget ||
        end + 1 == engine->context) {
        keep_unseen(s);
        return false;
    }
    return s->ahead < s->params.rule.window;
}

/* The drafter writes while it is sure, one row of every session still writing at a time. */
static spc_status write_on(spc_engine *engine, spc_session **writing, int32_t count, spc_error *err)
{
    while (count > 0) {
        spc_status status = SPC_OK;
        int32_t left = 0;

        for (int32_t k = 0; k < count && status == SPC_OK; k++) {
            int32_t end = writing[k]->length + writing[k]->ahead;

            status = spc_feed(engine, &engine->drafter, writing[k], end, end - 1, k * SPC_LANE_ROWS,
                              err);
        }
        if (status == SPC_OK) status = spc_feed_flush(engine, &engine->drafter, err);
        for (int32_t k = 0; k < count && status == SPC_OK; k++) {
            status = spc_feed_read(engine, &engine->drafter, k * SPC_LANE_ROWS, 1, err);
        }
        if (status != SPC_OK) return status;
        for (int32_t k = 0; k < count; k++) {
            if (write_one(engine, writing[k], k * SPC_LANE_ROWS)) writing[left++] = writing[k];
        }
        count = left;
    }
    return SPC_OK;
}

/* The verifier runs what it has not seen of every session, in one pass. */
static spc_status show(spc_engine *engine, spc_session *const *sessions, int32_t count,
                       spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count; k++) {
        spc_session *s = sessions[k];

        status = spc_feed(engine, &engine->verifier, s, s->length + s->ahead, s->length - 1,
                          k * SPC_LANE_ROWS, err);
        if (status != SPC_OK) return status;
        s->counters.rounds++;
        s->counters.verifier_calls++;
    }
    status = spc_feed_flush(engine, &engine->verifier, err);
    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        status = spc_feed_read(engine, &engine->verifier, k * SPC_LANE_ROWS, sessions[k]->ahead + 1,
                               err);
    }
    return status;
}

static spc_status bild_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err)
{
    spc_session **writing = engine->scratch.unsure;
    uint64_t start = spc_now_ns(), seen;
    int32_t writers = 0;
    spc_status status = show(engine, sessions, count, err);

    if (status != SPC_OK) return status;
    for (int32_t k = 0; k < count; k++) {
        if (look(engine, sessions[k], k * SPC_LANE_ROWS)) writing[writers++] = sessions[k];
    }
    seen = spc_now_ns();
    status = write_on(engine, writing, writers, err);
    for (int32_t k = 0; k < count; k++) { /* a batch shares its time equally */
        sessions[k]->counters.verify_ns += (seen - start) / (uint64_t)count;
        sessions[k]->counters.draft_ns += (spc_now_ns() - seen) / (uint64_t)count;
    }
    return status;
}

const spc_strategy spc_strategy_bild = {"bild-dynamic", bild_step};
