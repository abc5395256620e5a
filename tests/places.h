/* SPDX-License-Identifier: Apache-2.0 */
/* places.h - engines over tiny pairs whose models run on given devices, and a life of sessions that
 * must be the same wherever that is. */
#ifndef SPC_TESTS_PLACES_H
#define SPC_TESTS_PLACES_H

#include "pairs.h"

#include "host/backend_apart.h"
#include "host/device.h"

enum { PLACE_CONTEXT = 48, PLACE_SESSIONS = 3 };

typedef struct {
    tiny_model drafter, verifier;
    spc_engine *engine;
} placed;

/* drafter_device: NULL: the verifier's, without drafting ahead. */
static inline placed open_placed(int32_t which, const char *device, const char *drafter_device,
                                 spc_overlap_mode overlap)
{
    spc_limits limits = spc_engine_limits(PLACE_SESSIONS, PLACE_CONTEXT);
    const spc_backend_ops *ops = &spc_backend_apart;
    spc_engine_options o;
    spc_backend *backend;
    spc_runner *drafter, *verifier;
    spc_status status;
    spc_error error;
    placed p = {tiny_drafter(which), tiny_verifier(which), NULL};

    spc_engine_options_init(&o);
    o.device = device;
    o.drafter_device = drafter_device;
    o.threads = strcmp(device, "cpu") == 0 ? 2 : 0;
    status = drafter_device
                 ? spc_apart_open(&o, p.drafter.plan, &backend, &error)
                 : spc_device_open(device, o.threads, NULL, NULL, NULL, &ops, &backend, &error);
    cr_assert_eq(status, SPC_OK, "%s", error.message);
    cr_assert_eq(ops->load(backend, p.drafter.plan, p.drafter.bundle, &limits, &drafter, &error),
                 SPC_OK, "%s", error.message);
    cr_assert_eq(ops->load(backend, p.verifier.plan, p.verifier.bundle, &limits, &verifier, &error),
                 SPC_OK, "%s", error.message);
    cr_assert_eq(spc_engine_assemble(ops, backend, drafter, verifier, p.verifier.plan->ids,
                                     PLACE_CONTEXT, PLACE_SESSIONS, &p.engine, &error),
                 SPC_OK, "%s", error.message);
    p.engine->overlap.mode = overlap;
    p.engine->composed = !drafter_device;
    p.engine->verifier.config = p.verifier.config;
    p.engine->drafter.config = p.drafter.config;
    return p;
}

static inline void close_placed(placed *p)
{
    spc_engine_close(p->engine);
    tiny_close(&p->drafter);
    tiny_close(&p->verifier);
}

/* ---- a life of sessions ---- */

/* Small numbers, the same for every engine. */
static inline int32_t life_below(uint32_t *state, int32_t bound)
{
    *state = *state * 1664525u + 1013904223u;
    return (int32_t)((*state >> 8) % (uint32_t)bound);
}

static inline spc_session *life_begin(spc_engine *engine, const way *ways, int32_t count,
                                      uint32_t *state)
{
    int32_t which = life_below(state, count);
    spc_session_options o = way_options(&ways[which], (uint64_t)life_below(state, 1000));
    prompt p = prompt_made(1 + life_below(state, 4), VOCAB, (uint32_t)life_below(state, 1000));

    o.max_tokens = 30;
    return open_session(engine, &o, &p);
}

/* Go on with some of what a session wrote, and a last token of its own or another. */
static inline void life_restart(spc_session *session, uint32_t *state)
{
    decoded d = decoded_of(session);
    int32_t kept = d.count > 0 ? life_below(state, d.count) + 1 : 0;
    prompt p = {.count = session->prompt};
    spc_error error;

    memcpy(p.id, session->token, (size_t)p.count * sizeof *p.id);
    memcpy(p.id + p.count, d.token, (size_t)kept * sizeof *p.id);
    p.count += kept;
    if (life_below(state, 2) == 0) p.id[p.count - 1] = (p.id[p.count - 1] + 1) % VOCAB;
    if (p.count > PLACE_CONTEXT / 2) p.count = PLACE_CONTEXT / 2;
    cr_assert_eq(spc_session_restart(session, p.id, p.count, &error), SPC_OK, "%s", error.message);
}

typedef struct {
    uint64_t hash; /* of all that was emitted, and how it ended */
    int64_t drawn, used, tokens;
} life_log;

static inline void life_note(life_log *log, const spc_session *session)
{
    decoded d = decoded_of(session);

    log->hash = spc_hash_tokens(log->hash, d.token, d.count);
    log->hash = log->hash * 31 + (uint64_t)d.finish;
    log->drawn += d.stats.drafted_ahead;
    log->used += d.stats.ahead_used;
    log->tokens += d.count;
}

/* Sessions that step alone and in company, end and make room, begin anew. */
static inline life_log live(spc_engine *engine, const way *ways, int32_t count, uint32_t seed,
                            int32_t steps)
{
    spc_session *session[PLACE_SESSIONS];
    life_log log = {.hash = SPC_HASH_NONE};
    uint32_t state = seed;

    for (int32_t i = 0; i < PLACE_SESSIONS; i++) {
        session[i] = life_begin(engine, ways, count, &state);
    }
    for (int32_t step = 0; step < steps; step++) {
        int32_t what = life_below(&state, 12), i = life_below(&state, PLACE_SESSIONS);

        if (what == 0 || spc_session_finish(session[i]) != SPC_FINISH_RUNNING) {
            life_note(&log, session[i]);
            if (what == 1) {
                life_restart(session[i], &state);
                continue;
            }
            spc_session_close(session[i]);
            session[i] = life_begin(engine, ways, count, &state);
        } else if (what == 1) {
            life_note(&log, session[i]);
            life_restart(session[i], &state);
        } else if (what == 2) {
            cr_assert_eq(spc_engine_step(engine, session, PLACE_SESSIONS, NULL), SPC_OK);
        } else {
            for (int32_t n = life_below(&state, 4); n >= 0; n--) {
                cr_assert_eq(spc_session_step(session[i], NULL), SPC_OK);
            }
        }
    }
    for (int32_t i = 0; i < PLACE_SESSIONS; i++) {
        life_note(&log, session[i]);
        spc_session_close(session[i]);
    }
    return log;
}

#endif
