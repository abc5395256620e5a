/* SPDX-License-Identifier: Apache-2.0 */
/* session_step.c - a step of sessions that are decoded together: each goes to its strategy. */
#include "session.h"

#include "entry.h"

#include <stdio.h>

/* Before anything is run for them. */
static void end_cancelled(spc_session *const *sessions, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];

        if (s->finish != SPC_FINISH_RUNNING || !atomic_load(&s->cancel)) continue;
        s->finish = SPC_FINISH_CANCELLED;
        spc_text_finish(&s->text);
    }
}

/* Their rows went with those of others, into a forward that failed. */
static void fail_filling(spc_engine *engine, const spc_error *error)
{
    for (int32_t i = 0; i < engine->fill.count; i++) {
        spc_session_fail(engine->fill.session[i], error);
    }
    engine->fill.count = 0;
}

/* Run a step of the sessions among these that share a strategy and have not ended. */
static spc_status step_group(spc_engine *engine, spc_session *const *sessions, int32_t count,
                             const spc_strategy *strategy)
{
    spc_session **group = engine->scratch.group;
    spc_error error;
    int32_t members = 0;

    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];

        if (s->strategy != strategy || s->finish != SPC_FINISH_RUNNING) continue;
        if (s->waits || s->filling) continue;
        group[members++] = s;
    }
    if (members == 0) return SPC_OK;

    spc_trace_begin(engine->trace, "%s sessions=%d", strategy->name, (int)members);

    spc_status status = strategy->step(engine, group, members, &error);

    spc_trace_end(engine->trace);
    for (int32_t i = 0; i < members && status != SPC_OK; i++) spc_session_fail(group[i], &error);
    if (status != SPC_OK) fail_filling(engine, &error);
    return status;
}

static spc_status check_group(const spc_engine *engine, spc_session *const *sessions, int32_t count,
                              spc_error *err)
{
    spc_status status = spc_entry_given(engine, "engine", err);

    if (status == SPC_OK) status = spc_entry_array(sessions, count, "sessions", "count", err);
    for (int32_t i = 0; i < count && status == SPC_OK; i++) {
        if (sessions[i] && sessions[i]->engine == engine) continue;
        status =
            spc_error_set(err, SPC_EUSAGE, "session %d of the step is not of this engine", (int)i);
    }
    return status;
}

/* Is each there once?  Each is marked with the number of the step: of many sessions, comparing all
 * with all would take longer than what the host does for a round. */
static spc_status check_once(spc_engine *engine, spc_session *const *sessions, int32_t count,
                             spc_error *err)
{
    engine->steps++;
    for (int32_t i = 0; i < count; i++) {
        int32_t before = 0;

        if (sessions[i]->step != engine->steps) {
            sessions[i]->step = engine->steps;
            continue;
        }
        while (sessions[before] != sessions[i]) before++;
        return spc_error_set(err, SPC_EUSAGE, "session %d of the step is also number %d", (int)i,
                             (int)before);
    }
    return SPC_OK;
}

/* What the device was found not to do is no error, and not what was meant.  Where a session has
 * failed it may have been found for that reason alone. */
static void tell_notices(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    const char *notice;
    char line[256];

    if (!engine->log || !engine->ops->notice) return;
    for (int32_t i = 0; i < count; i++) {
        if (sessions[i]->finish == SPC_FINISH_FAILED) return;
    }
    while ((notice = engine->ops->notice(engine->backend)) != NULL) {
        (void)snprintf(line, sizeof line, "warning: %s", notice);
        engine->log(engine->user, line);
    }
}

spc_status spc_engine_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                           spc_error *err)
{
    /* seq-chow last: it may hand a session over to the round, which then waits for its next step */
    static const spc_strategy *const strategies[] = {&spc_strategy_round, &spc_strategy_drafter,
                                                     &spc_strategy_token_chow, &spc_strategy_bild,
                                                     &spc_strategy_seq_chow};
    spc_status status = check_group(engine, sessions, count, err);
    spc_error error;

    if (status == SPC_OK) status = spc_entry_take(engine, err);
    if (status != SPC_OK) return status;
    status = check_once(engine, sessions, count, err);
    if (status != SPC_OK) {
        spc_entry_leave(engine);
        return status;
    }
    end_cancelled(sessions, count);
    spc_share_begin(engine, sessions, count);
    spc_fill_begin(engine, sessions, count);
    engine->gamma.step = sessions;
    engine->gamma.step_count = count;
    for (size_t i = 0; i < sizeof strategies / sizeof *strategies; i++) {
        (void)step_group(engine, sessions, count, strategies[i]);
    }
    engine->gamma.step_count = 0;
    if (spc_fill_end(engine, &error) != SPC_OK) fail_filling(engine, &error);
    for (int32_t i = 0; i < count; i++) {
        spc_prefix_note(sessions[i]);
        if (sessions[i]->finish != SPC_FINISH_RUNNING) spc_slots_ended(sessions[i]);
    }
    /* also where nobody has ended: who waits need not find room for what was run by now */
    spc_slots_serve(engine);
    tell_notices(engine, sessions, count);
    spc_entry_leave(engine);
    for (int32_t i = 0; i < count; i++) {
        const spc_error *why = spc_session_error(sessions[i]);

        if (!why) continue;
        if (err) *err = *why;
        return why->status;
    }
    return SPC_OK;
}

spc_status spc_session_step(spc_session *session, spc_error *err)
{
    spc_status status = spc_entry_given(session, "session", err);

    return status == SPC_OK ? spc_engine_step(session->engine, &session, 1, err) : status;
}

spc_status spc_session_run(spc_session *session, spc_error *err)
{
    spc_status status = SPC_OK;

    do {
        status = spc_session_step(session, err);
        if (status == SPC_OK && spc_session_waits(session)) {
            return spc_error_set(err, SPC_EFULL,
                                 "the session waits for one of %d slots, or for room in their KV "
                                 "caches: step or close the sessions that hold them",
                                 (int)session->engine->sessions);
        }
    } while (status == SPC_OK && session->finish == SPC_FINISH_RUNNING);
    return status;
}

bool spc_session_waits(const spc_session *session)
{
    return atomic_load(&session->waits);
}

void spc_session_cancel(spc_session *session)
{
    atomic_store(&session->cancel, true);
}
