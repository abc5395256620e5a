/* SPDX-License-Identifier: Apache-2.0 */
/* engine_size.c - how much an engine holds: its context, the rows of a forward, the scratch of a
 * step. */
#include "session.h"

#include <stdlib.h>

spc_status spc_engine_choose_context(spc_engine *engine, int32_t wanted, spc_error *err)
{
    const spc_config *v = &engine->verifier.config, *d = &engine->drafter.config;
    int32_t context = v->context, most = v->context_most;

    if (engine->drafter.plan && d->context < context) context = d->context;
    if (engine->drafter.plan && d->context_most < most) most = d->context_most;
    if (wanted > most) {
        return spc_error_set(err, SPC_EUSAGE,
                             "context: expected 0 (what the models allow) or 2 to %d, found %d",
                             (int)most, (int)wanted);
    }
    engine->context = wanted > 0 ? wanted : context;
    return SPC_OK;
}

spc_limits spc_engine_limits(int32_t sessions, int32_t context)
{
    int32_t round = sessions * SPC_LANE_ROWS;

    return (spc_limits){.slots = sessions,
                        .context = context,
                        .rows = round > SPC_CHUNK_ROWS ? round : SPC_CHUNK_ROWS,
                        .outputs = round};
}

void spc_engine_widen(spc_limits *limits, const spc_backend_ops *ops, const spc_backend *backend)
{
    int64_t most = (int64_t)limits->slots * limits->context; /* there are no more */
    int32_t rows = ops->chunk_rows ? ops->chunk_rows(backend) : SPC_CHUNK_ROWS;

    if (rows > most) rows = (int32_t)most;
    if (rows > limits->rows) limits->rows = rows;
}

spc_status spc_engine_reserve(spc_engine *engine, spc_error *err)
{
    spc_scratch *s = &engine->scratch;
    size_t sessions = (size_t)engine->sessions;

    s->rows = engine->limits.rows;
    s->slot = calloc((size_t)s->rows * 4, sizeof *s->slot);
    s->lane = calloc(sessions * 2, sizeof *s->lane);
    s->verdict = calloc(sessions * 2, sizeof *s->verdict);
    s->group = calloc(sessions * 4, sizeof *s->group);
    s->request = calloc(sessions, sizeof *s->request);
    engine->gamma.lane = calloc(sessions, sizeof *engine->gamma.lane);
    engine->gamma.whose = calloc(sessions, sizeof *engine->gamma.whose);
    if (!s->slot || !s->lane || !s->verdict || !s->request || !s->group || !engine->gamma.lane ||
        !engine->gamma.whose || !spc_edit_desk_open(&s->edits) ||
        spc_slots_reserve(engine) != SPC_OK) {
        return spc_error_set(err, SPC_ENOMEM, "no memory for %d sessions: lower their number",
                             (int)engine->sessions);
    }
    s->token = s->slot + s->rows;
    s->position = s->token + s->rows;
    s->output = s->position + s->rows;
    s->bonus = s->lane + sessions;
    s->unsure = s->group + sessions;
    s->sorted = s->unsure + sessions;
    engine->fill.session = s->sorted + sessions;
    for (int32_t id = 0; engine->tokenizer && id < spc_tokenizer_size(engine->tokenizer); id++) {
        size_t bytes;

        (void)spc_tokenizer_piece(engine->tokenizer, id, &bytes);
        if (bytes > engine->longest_token) engine->longest_token = bytes;
    }
    return SPC_OK;
}

void spc_engine_release(spc_engine *engine)
{
    spc_slots_release(engine);
    free(engine->gamma.lane);
    free(engine->gamma.whose);
    spc_edit_desk_close(&engine->scratch.edits);
    free(engine->scratch.group);
    free(engine->scratch.request);
    free(engine->scratch.verdict);
    free(engine->scratch.lane);
    free(engine->scratch.slot);
}
