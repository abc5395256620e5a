/* SPDX-License-Identifier: Apache-2.0 */
/* gamma_times.c - what draft lengths are chosen by: times of both models, measured once and then
 * learnt from every round. */
#include "session.h"

#include <math.h>

/* Passes over a curve; of one that takes longer, two or one. */
enum { MEASURE_RUNS = 4, MEASURE_TWICE_ABOVE_NS = 10000000, MEASURE_ONCE_ABOVE_NS = 100000000 };
/* Points of a curve, and rows of the last; rows of a catch-up. */
enum { MEASURE_POINTS = 7, MEASURE_ROWS = 64, CATCH_UP_ROWS = 8 };
/* A model whose row takes longer has every other point: what is measured is thrown away, and a text
 * may be short. */
enum { MEASURE_FEW_ABOVE_NS = 10000000 };

/* ---- learning ---------------------------------------------------------------------------------
 */

void spc_gamma_drafted(spc_engine *engine, int32_t rows, int32_t wanted, uint64_t ns)
{
    spc_gamma *g = &engine->gamma;

    if (!g->learns || wanted < 1) return;
    if (rows <= 2 * wanted) { /* one row each, and one more behind a fully kept draft */
        spc_pace_learn(&g->times.drafter, rows, (float)ns);
        return;
    }

    float rest = (float)ns - spc_pace_at(&g->times.drafter, wanted);
    float each = rest > 0.0f ? rest / (float)(rows - wanted) : 0.0f;

    g->times.catch_up += (each - g->times.catch_up) / 4.0f;
}

void spc_gamma_scored(spc_engine *engine, int32_t rows, uint64_t ns, uint64_t total_ns)
{
    spc_gamma *g = &engine->gamma;

    if (!g->learns) return;
    if (rows > 0) spc_pace_learn(&g->times.verifier, rows, (float)ns);
    g->round_ns += (double)total_ns;
    if (g->probing && (double)total_ns > g->probe_due) {
        g->probe_ns += (double)total_ns - g->probe_due;
    }
}

/* ---- measuring --------------------------------------------------------------------------------
 */

/* Rows behind a session's cache, run once, the last `wanted` of them for their logits; the time it
 * takes.  What they leave is forgotten; where others use its pages too, it is what stands there. */
static spc_status time_rows(spc_engine *engine, const spc_model *model, const spc_session *s,
                            int32_t count, int32_t wanted, float *ns, spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;
    int32_t from = engine->ops->length(model->runner, s->slot);
    spc_rows rows = {count, scratch->slot, scratch->token, scratch->position, scratch->output};
    spc_status status;
    uint64_t start;

    for (int32_t i = 0; i < count; i++) {
        scratch->slot[i] = s->slot;
        scratch->token[i] = s->token[from + i < s->length ? from + i : 0];
        scratch->position[i] = from + i;
        scratch->output[i] = i >= count - wanted ? i - (count - wanted) : -1;
    }
    start = spc_engine_now(engine);
    status = engine->ops->forward(model->runner, &rows, err);
    /* Backends run ahead of their caller: a row of logits is there when all is. */
    if (status == SPC_OK) (void)engine->ops->logits(model->runner, wanted - 1);
    *ns = (float)(spc_engine_now(engine) - start);
    engine->ops->rewind(model->runner, s->slot, from);
    return status;
}

/* Times of 1, 2, 4, ... rows, or 1, 4, 16, ..., at most `most`: the least of several passes, so
 * that what disturbs one does not bend the curve. */
static spc_status measure_model(spc_engine *engine, const spc_model *model, const spc_session *s,
                                int32_t most, spc_pace *pace, spc_error *err)
{
    int32_t rows[MEASURE_POINTS] = {1}, count = 1;
    float time[MEASURE_POINTS], pass = 0;
    spc_status status = time_rows(engine, model, s, 1, 1, &pass, err); /* weights come in */

    for (int32_t run = 0; run < MEASURE_RUNS && status == SPC_OK; run++) {
        if (run > 0 && pass > (float)MEASURE_ONCE_ABOVE_NS) break;
        if (run > 1 && pass > (float)MEASURE_TWICE_ABOVE_NS) break;
        pass = 0;
        for (int32_t i = 0; i < count && status == SPC_OK; i++) {
            float ns;

            status = time_rows(engine, model, s, rows[i], rows[i], &ns, err);
            if (ns < 1.0f) ns = 1.0f; /* below what the clock tells apart */
            if (run == 0 || ns < time[i]) time[i] = ns;
            pass += ns;
            if (run > 0 || i > 0) continue;

            int32_t step = ns > (float)MEASURE_FEW_ABOVE_NS ? 4 : 2;

            while (count < MEASURE_POINTS && rows[count - 1] * step <= most) {
                rows[count] = rows[count - 1] * step;
                count++;
            }
        }
    }
    if (status == SPC_OK) spc_pace_lay(pace, rows, time, count);
    return status;
}

/* Rows that can be run behind a session's cache. */
static int32_t room_behind(const spc_engine *engine, const spc_model *model, const spc_session *s,
                           int32_t most)
{
    int32_t room = spc_session_room(s) - engine->ops->length(model->runner, s->slot);
    int32_t outputs = engine->sessions * SPC_LANE_ROWS;

    if (most > outputs) most = outputs;
    if (most > MEASURE_ROWS) most = MEASURE_ROWS;
    return most < room ? most : room;
}

/* Drafts that are looked up take next to no time, and what takes none would be divided by. */
static void lay_look_ups(spc_gamma_times *t)
{
    static const int32_t one = 1;
    static const float least = 1;

    spc_pace_lay(&t->drafter, &one, &least, 1);
    t->catch_up = 0;
}

static spc_status measure_drafter(spc_engine *engine, const spc_session *s, spc_error *err)
{
    spc_gamma_times *t = &engine->gamma.times;
    int32_t behind = room_behind(engine, &engine->drafter, s, CATCH_UP_ROWS);
    spc_status status =
        measure_model(engine, &engine->drafter, s,
                      room_behind(engine, &engine->drafter, s, engine->sessions), &t->drafter, err);
    float least = INFINITY;

    /* twice: memory that many rows are the first to touch takes its time */
    for (int run = 0; run < 2 && status == SPC_OK; run++) {
        float ns;

        status = time_rows(engine, &engine->drafter, s, behind, 1, &ns, err);
        if (ns < least) least = ns;
    }
    least -= spc_pace_at(&t->drafter, 1);
    t->catch_up = behind > 1 && least > 0.0f ? least / (float)(behind - 1) : 0.0f;
    return status;
}

spc_status spc_gamma_measure(spc_engine *engine, const spc_session *s, spc_error *err)
{
    spc_model *models[] = {&engine->drafter, &engine->verifier};
    spc_gamma_times *t = &engine->gamma.times;
    spc_status status = SPC_OK;

    for (int i = 0; i < 2 && s->source && status == SPC_OK; i++) {
        if (!models[i]->runner) continue;
        if (engine->ops->length(models[i]->runner, s->slot) > 0) continue;
        status = engine->ops->encode(models[i]->runner, s->slot, s->source, s->source_count, err);
    }
    if (!engine->drafter.runner) lay_look_ups(t);
    if (status == SPC_OK && engine->drafter.runner) status = measure_drafter(engine, s, err);
    if (status != SPC_OK) return status;
    return measure_model(engine, &engine->verifier, s,
                         room_behind(engine, &engine->verifier, s, engine->sessions * 8),
                         &t->verifier, err);
}
