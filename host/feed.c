/* SPDX-License-Identifier: Apache-2.0 */
/* feed.c - gathering rows for a forward: several sessions, long prompts in chunks. */
#include "session.h"

#include <assert.h>
#include <time.h>

uint64_t spc_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Rows that are wanted of sessions that edit theirs. */
static spc_status edit_rows(spc_engine *engine, spc_model *model, const spc_rows *rows,
                            spc_error *err)
{
    spc_edit_desk *desk = &engine->scratch.edits;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < rows->count && status == SPC_OK; i++) {
        const spc_session *s = engine->slot[rows->slot[i]];

        if (rows->output[i] < 0 || !s->processor) continue;
        status = spc_processor_add(s->processor, s->token, rows->position[i] + 1, rows->output[i],
                                   desk, engine->ops, model->runner, err);
    }
    if (status != SPC_OK) {
        desk->edits = desk->masks = 0;
        return status;
    }
    return spc_edit_desk_send(desk, engine->ops, model->runner, err);
}

static spc_status run_rows(spc_engine *engine, spc_model *model, const spc_rows *rows,
                           spc_error *err)
{
    spc_status status = engine->ops->forward(model->runner, rows, err);

    return status == SPC_OK ? edit_rows(engine, model, rows, err) : status;
}

spc_status spc_feed_flush(spc_engine *engine, spc_model *model, spc_error *err)
{
    spc_scratch *s = &engine->scratch;
    spc_rows rows = {s->count, s->slot, s->token, s->position, s->output};
    int32_t prompts = s->prompts;
    spc_status status;

    if (s->count == 0) return SPC_OK;
    s->fed += s->count;
    s->count = s->prompts = 0;
    if (prompts == 0) return run_rows(engine, model, &rows, err);
    spc_trace_begin(engine->trace, "prefill rows=%d of=%d", (int)prompts, (int)rows.count);
    status = run_rows(engine, model, &rows, err);
    spc_trace_end(engine->trace);
    return status;
}

spc_status spc_feed(spc_engine *engine, spc_model *model, spc_session *session, int32_t to,
                    int32_t wanted, int32_t output, spc_error *err)
{
    spc_scratch *s = &engine->scratch;
    int32_t from = engine->ops->length(model->runner, session->slot);

    if (from == 0 && session->source_count > 0) {
        spc_trace_begin(engine->trace, "encode tokens=%d", (int)session->source_count);

        spc_status status = engine->ops->encode(model->runner, session->slot, session->source,
                                                session->source_count, err);

        spc_trace_end(engine->trace);
        if (status != SPC_OK) return status;
        session->counters.prefill_calls++;
    }
    assert(from < to && to <= spc_session_room(session) && wanted >= from && wanted <= to);
    for (int32_t i = from; i < to; i++) {
        if (s->count == s->rows) {
            spc_status status = spc_feed_flush(engine, model, err);

            if (status != SPC_OK) return status;
            if (i > from && i <= wanted) session->counters.prefill_calls++;
        }
        s->slot[s->count] = session->slot;
        s->token[s->count] = session->token[i];
        s->position[s->count] = i;
        s->output[s->count] = i >= wanted ? output + (i - wanted) : -1;
        s->prompts += i + 1 < session->prompt;
        s->count++;
    }
    return SPC_OK;
}

spc_status spc_feed_read(spc_engine *engine, spc_model *model, int32_t output, int32_t count,
                         spc_error *err)
{
    if (!engine->ops->gather) return SPC_OK;
    return engine->ops->gather(model->runner, output, count, err);
}
