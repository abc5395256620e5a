/* SPDX-License-Identifier: Apache-2.0 */
/* fill.c - long prompts beside running sequences: a chunk of rows a step.
 *
 * A prompt that is longer than what a step may take along does not stop the sequences that step
 * with it: its session is put aside, a chunk of it goes with the forwards of their round, and it
 * begins when both models lack no more than fits.  The verifier's part goes first.  A row's result
 * does not depend on its neighbours, so neither do the tokens on the chunks. */
#include "session.h"

/* Rows that a model lacks of a session before its next step's own. */
static int32_t lag_of(const spc_session *s, const spc_model *model)
{
    return s->length - 1 - s->engine->ops->length(model->runner, s->slot);
}

static int32_t verifier_lag(const spc_session *s)
{
    bool reads = s->strategy == &spc_strategy_round || s->strategy == &spc_strategy_bild;

    return reads ? lag_of(s, &s->engine->verifier) : 0;
}

/* A drafter that is not asked lags behind on purpose (gamma.c). */
static int32_t drafter_lag(const spc_session *s)
{
    bool strict = !spc_rule_uses_drafter(&s->params.rule) && s->params.bonus != SPC_BONUS_STEP;

    if (s->strategy == &spc_strategy_round) {
        if (s->params.rule.path == SPC_RULE_VERIFIER_ONLY) return 0;
        if (strict && s->gamma == 0) return 0;
        if (strict && s->gamma == SPC_GAMMA_AUTO && s->choice.before == 0) return 0;
    }
    return lag_of(s, &s->engine->drafter);
}

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Rows that a step may take along: no more than fit into one forward beside the running ones. */
static int32_t room_of(const spc_engine *engine, int32_t running)
{
    int32_t room = smaller(engine->prefill_rows, engine->scratch.rows - running * SPC_LANE_ROWS);

    return room > 1 ? room : 1;
}

void spc_fill_begin(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    spc_fill *f = &engine->fill;
    int32_t running = 0, verifier, drafter;

    f->count = 0;
    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];

        s->filling = false;
        if (s->finish != SPC_FINISH_RUNNING || s->waits) continue;
        running += verifier_lag(s) <= 0 && drafter_lag(s) <= 1;
    }
    if (running == 0) return; /* nobody to hold up: prompts are fed as a whole */
    verifier = drafter = room_of(engine, running);
    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];
        int32_t v, d;

        if (s->finish != SPC_FINISH_RUNNING || s->waits) continue;
        v = verifier_lag(s);
        d = drafter_lag(s);
        if (v <= 0 && d <= 1) continue;
        if (v > verifier || d > drafter) {
            s->filling = true;
            s->fill_verifier = smaller(v, verifier);
            s->fill_drafter = s->fill_verifier == v ? smaller(d, drafter) : 0;
            v = s->fill_verifier;
            d = s->fill_drafter;
            f->session[f->count++] = s;
        }
        verifier -= v;
        drafter -= d;
    }
    f->verifier_due = f->drafter_due = f->count > 0;
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

/* What no round took along. */
spc_status spc_fill_end(spc_engine *engine, spc_error *err)
{
    spc_model *models[] = {&engine->verifier, &engine->drafter};
    spc_status status = SPC_OK;

    for (int i = 0; i < 2 && status == SPC_OK; i++) {
        if (!models[i]->runner) continue;
        status = spc_fill_add(engine, models[i], err);
        if (status == SPC_OK) status = spc_feed_flush(engine, models[i], err);
    }
    return status;
}
