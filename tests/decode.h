/* SPDX-License-Identifier: Apache-2.0 */
/* decode.h - one session from its options to what it left behind, for tests of the engine. */
#ifndef SPC_TESTS_DECODE_H
#define SPC_TESTS_DECODE_H

#include "host/session.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { DECODE_TOKENS = 512, DECODE_TEXT = 8192 };

/* What a session left behind. */
typedef struct {
    spc_status status;
    spc_finish finish;
    int32_t count;
    int32_t token[DECODE_TOKENS];
    spc_stats stats;
    spc_error error;
} decoded;

/* Ids as a value. */
typedef struct {
    int32_t id[DECODE_TOKENS];
    int32_t count;
} prompt;

/* The demo pair from the source tree; NULL as drafter: none. */
#define DEMO_VERIFIER SPC_SOURCE_DIR "/weights/demo/verifier"
#define DEMO_DRAFTER  SPC_SOURCE_DIR "/weights/demo/drafter"

/* The demo pair on a device; a context of 64 unless options say another. */
static inline spc_status open_demo_on(const char *device, spc_engine_options *o,
                                      spc_engine **engine, spc_error *error)
{
    o->verifier = DEMO_VERIFIER;
    o->drafter = DEMO_DRAFTER;
    o->device = device;
    if (o->context == 0) o->context = 64;
    return spc_engine_open(o, engine, error);
}

static inline spc_engine_options demo_options(void)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    o.threads = 1;
    return o;
}

static inline spc_engine *open_demo(const char *drafter, int32_t sessions, int32_t threads)
{
    spc_engine_options options;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&options);
    options.verifier = DEMO_VERIFIER;
    options.drafter = drafter;
    options.sessions = sessions;
    options.threads = threads;
    cr_assert_eq(spc_engine_open(&options, &engine, &error), SPC_OK, "%s", error.message);
    return engine;
}

static inline spc_session_options options_of(const char *rule, int32_t gamma, float temperature)
{
    spc_session_options o;

    spc_session_options_init(&o);
    o.rule = rule;
    o.gamma = gamma;
    o.temperature = temperature;
    return o;
}

static inline prompt prompt_of(const spc_engine *engine, const char *text)
{
    prompt p;
    int32_t *ids;
    spc_error error;

    cr_assert_eq(spc_engine_encode(engine, text, strlen(text), false, &ids, &p.count, &error),
                 SPC_OK, "%s", error.message);
    cr_assert(p.count > 0 && p.count <= DECODE_TOKENS);
    memcpy(p.id, ids, (size_t)p.count * sizeof *ids);
    free(ids);
    return p;
}

/* A prompt of `count` ids below vocab, none of them 2 (an end of sequence of the demo pair). */
static inline prompt prompt_made(int32_t count, int32_t vocab, uint32_t seed)
{
    prompt p = {.count = count};

    cr_assert(count <= DECODE_TOKENS && vocab > 3);
    for (int32_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        p.id[i] = 3 + (int32_t)((seed >> 8) % (uint32_t)(vocab - 3));
    }
    return p;
}

static inline spc_session *open_session(spc_engine *engine, const spc_session_options *options,
                                        const prompt *p)
{
    spc_session *session;
    spc_error error;

    cr_assert_eq(spc_session_open(engine, options, p->id, p->count, &session, &error), SPC_OK, "%s",
                 error.message);
    return session;
}

/* Read what a session holds. */
static inline decoded decoded_of(const spc_session *session)
{
    decoded d;
    const int32_t *token = spc_session_tokens(session, &d.count);

    memset(&d.error, 0, sizeof d.error);
    d.finish = spc_session_finish(session);
    d.status = SPC_OK;
    if (spc_session_error(session)) d.error = *spc_session_error(session);
    if (spc_session_error(session)) d.status = d.error.status;
    cr_assert_leq(d.count, DECODE_TOKENS);
    memcpy(d.token, token, (size_t)d.count * sizeof *token);
    spc_session_stats(session, &d.stats);
    return d;
}

/* Open, run to the end, read, close. */
static inline decoded decode(spc_engine *engine, const spc_session_options *options,
                             const prompt *p)
{
    spc_session *session = open_session(engine, options, p);
    decoded d;

    (void)spc_session_run(session, NULL);
    d = decoded_of(session);
    spc_session_close(session);
    return d;
}

/* Are the first `count` tokens those of another? */
static inline bool begins_with(const decoded *d, const decoded *other, int32_t count)
{
    return d->count >= count && other->count >= count &&
           memcmp(d->token, other->token, (size_t)count * sizeof *d->token) == 0;
}

static inline bool same_tokens(const decoded *a, const decoded *b)
{
    return a->count == b->count && a->finish == b->finish && begins_with(a, b, a->count);
}

static inline int64_t sum_of(const int64_t *counter)
{
    int64_t sum = 0;

    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) sum += counter[i];
    return sum;
}

/* What on_token tells. */
typedef struct {
    int32_t told, deferred, origin[3];
    int32_t token[64];
    int32_t most; /* after so many it wants no more; 0: all */
} token_log;

static inline bool log_token(void *user, const spc_token *token)
{
    token_log *l = user;

    l->deferred += token->deferred;
    l->origin[token->origin]++;
    l->token[l->told++] = token->id;
    return l->told != l->most;
}

#endif
