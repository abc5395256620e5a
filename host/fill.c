/* SPDX-License-Identifier: Apache-2.0 */
/* fill.c - long prompts: a chunk of rows a step.
 *
 * A prompt that is longer than what a step may take along does not stop the sequences that step
 * with it: its session is put aside, a chunk of it goes with the forwards of their round, and it
 * begins when both models lack no more than fits.  The verifier's part goes first.
 *
 * Where nobody runs a chunk is a whole forward of each model, and a step is no more than that: its
 * caller has the word between two of them, and can cancel.  Sessions that wait for each other's
 * chunks begin together, in the step that has what is left of all; who comes meanwhile is fed
 * beside them.  The forwards are those that feeding the prompts in one go would take.
 *
 * A row's result does not depend on its neighbours, so neither do the tokens on the chunks. */
#include "session.h"

/* Rows of a chunk where nobody runs, at most: more of them are no faster. */
enum { ALONE_ROWS = 512 };
/* Steps of that kind after which the device is waited for: it may be ahead by so many chunks. */
enum { ALONE_STEPS = 4 };

/* Rows that a model lacks of a session before its next step's own. */
static int32_t lag_of(const spc_session *s, const spc_model *model)
{
    return s->length - 1 - s->engine->ops->length(model->runner, s->slot);
}

static int32_t verifier_lag(const spc_session *s)
{
    bool reads = s->strategy == &spc_strategy_round || s->strategy == &spc_strategy_bild || s->asks;

    return reads ? lag_of(s, &s->engine->verifier) : 0;
}

/* A drafter that is not asked lags behind on purpose (gamma.c). */
static int32_t drafter_lag(const spc_session *s)
{
    bool strict = !spc_rule_uses_drafter(&s->params.rule) && s->params.bonus != SPC_BONUS_STEP;

    if (!s->engine->drafter.runner) return 0;
    if (s->strategy == &spc_strategy_round) {
        if (s->params.rule.path == SPC_RULE_VERIFIER_ONLY) return 0;
        if (strict && s->gamma == 0) return 0;
        if (strict && s->gamma == SPC_GAMMA_AUTO && s->choice.before == 0) return 0;
    }
    return lag_of(s, &s->engine->drafter);
}

int32_t spc_fill_lacks(const spc_session *s, const spc_model *model)
{
    int32_t lag = model == &s->engine->verifier ? verifier_lag(s) : drafter_lag(s);

    return lag > 0 ? lag : 0;
}

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Rows that a step may take along: no more than fit into one forward beside the running ones. */
static int32_t room_beside(const spc_engine *engine, int32_t running)
{
    int32_t room = smaller(engine->prefill_rows, engine->scratch.rows - running * SPC_LANE_ROWS);

    return room > 1 ? room : 1;
}

static int32_t room_alone(const spc_engine *engine)
{
    return smaller(larger(engine->prefill_rows, ALONE_ROWS), engine->scratch.rows);
}

int32_t spc_fill_rows(const spc_engine *engine)
{
    return smaller(engine->prefill_rows, room_alone(engine));
}

int32_t spc_fill_room(const spc_engine *engine, int32_t running)
{
    return running > 1 ? engine->prefill_rows : room_alone(engine);
}

static bool steps(const spc_session *s)
{
    return s->finish == SPC_FINISH_RUNNING && !s->waits && !s->follows;
}

static void put_aside(spc_fill *f, spc_session *s, int32_t verifier, int32_t drafter)
{
    s->filling = true;
    s->fill_verifier = verifier;
    s->fill_drafter = drafter;
    f->session[f->count++] = s;
}

/* Nobody runs.  Those who began to wait for each other begin, if a forward has room for what both
 * models lack of all of them; returns how many they are.  Otherwise they are fed a chunk. */
static int32_t begin_together(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    int32_t room = room_alone(engine), verifier, drafter, members = 0;
    int64_t lacks[2] = {0, 0};
    bool any = false;

    for (int32_t i = 0; i < count; i++) any = any || (steps(sessions[i]) && sessions[i]->together);
    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];

        s->together = steps(s) && (s->together || !any);
        if (!s->together) continue;
        lacks[0] += larger(verifier_lag(s), 0);
        lacks[1] += larger(drafter_lag(s), 0);
        members++;
    }
    if (lacks[0] <= room && lacks[1] <= room) return members;
    verifier = lacks[0] > room ? room : 0;
    drafter = lacks[1] > room ? room : 0;
    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];

        if (!steps(s)) continue;
        int32_t v = s->together ? smaller(larger(verifier_lag(s), 0), verifier) : 0;
        int32_t d = s->together ? smaller(larger(drafter_lag(s), 0), drafter) : 0;

        put_aside(&engine->fill, s, v, d);
        verifier -= v;
        drafter -= d;
    }
    return 0;
}

/* So many run.  Those who do not are fed what there is room for, or begin. */
static void feed_beside(spc_engine *engine, spc_session *const *sessions, int32_t count,
                        int32_t running)
{
    int32_t verifier = room_beside(engine, running), drafter = verifier;

    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];
        bool begins = s->together;
        int32_t lacks, v, d;

        s->together = false;
        if (!steps(s)) continue;
        v = lacks = larger(verifier_lag(s), 0);
        d = larger(drafter_lag(s), 0);
        if (v == 0 && d <= 1) continue;
        if (!begins && (v > verifier || d > drafter)) {
            v = smaller(v, larger(verifier, 0));
            d = v == lacks ? smaller(d, larger(drafter, 0)) : 0;
            put_aside(&engine->fill, s, v, d);
        }
        verifier -= v;
        drafter -= d;
    }
}

void spc_fill_begin(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    spc_fill *f = &engine->fill;
    int32_t running = 0;

    f->count = 0;
    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];

        s->filling = s->follows;
        if (!steps(s) || s->together) continue;
        running += verifier_lag(s) <= 0 && drafter_lag(s) <= 1;
    }
    f->alone = running == 0;
    if (running == 0) {
        running = begin_together(engine, sessions, count);
    } else {
        for (int32_t i = 0; i < count; i++) sessions[i]->together = false;
    }
    if (running > 0) feed_beside(engine, sessions, count, running);
    f->alone = f->alone && f->count > 0 && running == 0;
    f->verifier_due = f->drafter_due = f->count > 0;
}

bool spc_session_filled(const spc_session *s, int32_t *done, int32_t *of)
{
    /* a drafter that catches up is put aside too, in the middle of a text */
    if (!s->filling || s->finish != SPC_FINISH_RUNNING || s->length > s->prompt) return false;
    *of = s->length - 1;
    *done = *of - smaller(*of, larger(0, larger(verifier_lag(s), drafter_lag(s))));
    return true;
}

spc_status spc_fill_add(spc_engine *engine, spc_model *model, spc_error *err)
{
    spc_fill *f = &engine->fill;
    bool drafts = model == &engine->drafter;
    bool *due = drafts ? &f->drafter_due : &f->verifier_due;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < f->count && *due && status == SPC_OK; i++) {
        spc_session *s = f->session[i];
        int32_t from = engine->ops->length(model->runner, s->slot);
        int32_t rows = drafts ? s->fill_drafter : s->fill_verifier;

        if (rows <= 0) continue;
        s->counters.prefill_calls++;
        status = spc_feed(engine, model, s, from + rows, from + rows, -1, err);
    }
    *due = false;
    return status;
}

/* Steps that only feed ask for no result: a device would take on as many as it is given. */
static void keep_up(spc_engine *engine)
{
    spc_fill *f = &engine->fill;

    f->ahead = f->alone ? f->ahead + 1 : 0;
    if (f->ahead < ALONE_STEPS) return;
    f->ahead = 0;
    (void)engine->ops->logits(engine->verifier.runner, 0); /* waits */
}

/* In a step that does nothing else the time of a model's forward is that of the sessions that are
 * fed, in equal parts; beside a round it is the round's. */
static void note_time(spc_engine *engine, bool drafts, uint64_t ns)
{
    spc_fill *f = &engine->fill;

    for (int32_t i = 0; i < f->count && f->alone; i++) {
        spc_stats *c = &f->session[i]->counters;

        *(drafts ? &c->draft_ns : &c->verify_ns) += ns / (uint64_t)f->count;
    }
}

/* What no round took along. */
spc_status spc_fill_end(spc_engine *engine, spc_error *err)
{
    spc_model *models[] = {&engine->drafter, &engine->verifier};
    spc_status status = SPC_OK;

    for (int i = 0; i < 2 && status == SPC_OK; i++) {
        uint64_t start = spc_engine_now(engine);

        if (!models[i]->runner) continue;
        status = spc_fill_add(engine, models[i], err);
        if (status == SPC_OK) status = spc_feed_flush(engine, models[i], err);
        if (status == SPC_OK && i == 1) keep_up(engine);
        note_time(engine, i == 0, spc_engine_now(engine) - start);
    }
    return status;
}
