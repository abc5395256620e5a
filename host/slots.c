/* SPDX-License-Identifier: Apache-2.0 */
/* slots.c - handing out the slots of the KV caches. */
#include "slots.h"

#include "session.h"

#include <stdlib.h>

spc_status spc_slots_reserve(spc_engine *engine)
{
    size_t sessions = (size_t)engine->sessions;

    engine->slot = calloc(sessions, sizeof *engine->slot);
    engine->slots.freed = calloc(sessions, sizeof *engine->slots.freed);
    return engine->slot && engine->slots.freed ? SPC_OK : SPC_ENOMEM;
}

void spc_slots_release(spc_engine *engine)
{
    free(engine->slot);
    free(engine->slots.freed);
}

int32_t spc_slots_spare(const spc_engine *engine)
{
    int32_t best = -1;

    for (int32_t i = 0; i < engine->sessions; i++) {
        if (engine->slot[i]) continue;
        if (best < 0 || engine->slots.freed[i] < engine->slots.freed[best]) best = i;
    }
    return best;
}

/* A slot whose session has ended and may do without it; -1: there is none. */
static int32_t ended_slot(const spc_engine *engine)
{
    for (int32_t i = 0; i < engine->sessions; i++) {
        if (engine->slot[i] && engine->slot[i]->finish != SPC_FINISH_RUNNING) return i;
    }
    return -1;
}

static void set_free(spc_engine *engine, int32_t slot)
{
    engine->slot[slot]->slot = -1;
    engine->slot[slot] = NULL;
    engine->slots.freed[slot] = ++engine->slots.clock;
}

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Bring the caches of a model in a slot to what `from`, the same slot or another, holds of the
 * first `tokens` tokens; reused receives how many these are, if more than it says. */
static spc_status restore(spc_engine *engine, const spc_model *model, int32_t slot, int32_t from,
                          int32_t tokens, int64_t *reused, spc_error *err)
{
    int32_t held = 0;

    if (!model->runner) return SPC_OK;
    if (from >= 0) held = smaller(engine->ops->length(model->runner, from), tokens);
    if (held > *reused) *reused = held;
    engine->ops->rewind(model->runner, slot, from == slot ? held : 0);
    if (held == 0 || from == slot) return SPC_OK;
    return engine->ops->copy_prefix(model->runner, from, slot, held, err);
}

/* A session begins in a free slot, the one that holds most of its prompt if that is free.  What
 * another holds of it is copied; a running one's is as good. */
static spc_status begin_in(spc_session *s, int32_t slot, spc_error *err)
{
    spc_engine *engine = s->engine;
    int32_t tokens = 0, from = -1;
    spc_status status;

    if (!s->source) from = spc_prefix_find(engine, s->token, s->prompt, &tokens);
    if (from >= 0 && !engine->slot[from]) slot = from;
    if (from != slot && !engine->ops->copy_prefix) from = -1;
    spc_prefix_cut(engine, slot, from == slot ? tokens : 0);
    status =
        restore(engine, &engine->verifier, slot, from, tokens, &s->counters.reused_tokens, err);
    if (status == SPC_OK) {
        status =
            restore(engine, &engine->drafter, slot, from, tokens, &s->counters.reused_tokens, err);
    }
    if (status != SPC_OK) return status;
    engine->slot[slot] = s;
    s->slot = slot;
    spc_gamma_begin(s);
    return SPC_OK;
}

static void join_line(spc_session *s)
{
    spc_slots *slots = &s->engine->slots;

    s->waits = true;
    s->behind = NULL;
    *(slots->last ? &slots->last->behind : &slots->first) = s;
    slots->last = s;
}

static void leave_line(spc_session *s)
{
    spc_slots *slots = &s->engine->slots;
    spc_session *before = NULL;

    for (spc_session *at = slots->first; at != s; at = at->behind) before = at;
    *(before ? &before->behind : &slots->first) = s->behind;
    if (slots->last == s) slots->last = before;
    s->waits = false;
    s->behind = NULL;
}

/* The first in the line goes where there is room. */
static void serve_line(spc_engine *engine)
{
    spc_session *s;
    spc_error error;

    while ((s = engine->slots.first) != NULL) {
        int32_t slot = spc_slots_spare(engine);

        if (slot < 0) return;
        leave_line(s);
        if (begin_in(s, slot, &error) != SPC_OK) spc_session_fail(s, &error);
    }
}

spc_status spc_slots_check(const spc_session *s, spc_error *err)
{
    if (s->may_wait || spc_slots_spare(s->engine) >= 0) return SPC_OK;
    return spc_error_set(err, SPC_EFULL,
                         "no free session: all %d are open; close one, open the engine with more "
                         "sessions, or let this one wait (session option wait)",
                         (int)s->engine->sessions);
}

spc_status spc_slots_take(spc_session *s, spc_error *err)
{
    spc_engine *engine = s->engine;
    int32_t slot = spc_slots_spare(engine);
    spc_status status = spc_slots_check(s, err);

    if (status != SPC_OK) return status;

    if (slot < 0 && s->may_wait) {
        slot = ended_slot(engine);
        if (slot >= 0) set_free(engine, slot);
    }
    if (slot >= 0) return begin_in(s, slot, err);
    join_line(s);
    return SPC_OK;
}

void spc_slots_give_back(spc_session *s)
{
    if (s->waits) leave_line(s);
    if (s->slot < 0) return;
    set_free(s->engine, s->slot);
    serve_line(s->engine);
}

void spc_slots_ended(spc_session *s)
{
    if (s->finish == SPC_FINISH_FAILED && s->slot >= 0) spc_prefix_cut(s->engine, s->slot, 0);
    if (s->waits || s->engine->slots.first) spc_slots_give_back(s);
}
