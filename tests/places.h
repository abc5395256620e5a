/* SPDX-License-Identifier: Apache-2.0 */
/* places.h - engines over tiny pairs whose models run on given devices, and a life of sessions that
 * must be the same wherever that is. */
#ifndef SPC_TESTS_PLACES_H
#define SPC_TESTS_PLACES_H

#include "pairs.h"

#include "host/apart/backend_apart.h"
#include "host/device.h"

enum { PLACE_CONTEXT = 48, PLACE_SESSIONS = 3 };

typedef struct {
    tiny_model drafter, verifier;
    spc_engine *engine;
} placed;

/* The verifier cut for `tp` ranks; drafter_device NULL: the verifier's, or the first rank's,
 * without drafting ahead. */
static inline placed open_cut(int32_t which, int32_t tp, const char *device,
                              const char *drafter_device, spc_overlap_mode overlap)
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
    o.tp = tp;
    o.threads = strcmp(device, "cpu") == 0 ? 2 : 0;
    p.drafter.plan->alone = spc_device_ranks(drafter_device) == 1;
    if (drafter_device) {
        status = spc_apart_open(&o, NULL, NULL, &backend, &error);
        if (status == SPC_OK) spc_apart_drafter(backend, p.drafter.plan);
    } else if (tp > 1) {
        status = spc_device_open_ranks(device, tp, o.threads, NULL, &ops, &backend, &error);
    } else {
        status = spc_device_open(device, o.threads, NULL, NULL, NULL, &ops, &backend, &error);
    }
    cr_assert_eq(status, SPC_OK, "%s", error.message);
    drafter = tiny_load_on(ops, &p.drafter, backend, &limits);
    verifier = tiny_load_on(ops, &p.verifier, backend, &limits);
    cr_assert_eq(spc_engine_assemble(ops, backend, drafter, verifier, p.verifier.plan->ids,
                                     PLACE_CONTEXT, PLACE_SESSIONS, &p.engine, &error),
                 SPC_OK, "%s", error.message);
    p.engine->overlap.mode = overlap;
    p.engine->composed = !drafter_device;
    p.engine->verifier.config = p.verifier.config;
    p.engine->drafter.config = p.drafter.config;
    return p;
}

static inline placed open_placed(int32_t which, const char *device, const char *drafter_device,
                                 spc_overlap_mode overlap)
{
    return open_cut(which, 1, device, drafter_device, overlap);
}

static inline void close_placed(placed *p)
{
    spc_engine_close(p->engine);
    tiny_close(&p->drafter);
    tiny_close(&p->verifier);
}

/* ---- every rule ---- */

static const char *const rules[] = {"strict",
                                    "lossy:alpha=0.3",
                                    "lossy:alpha=0.3,beta=solve",
                                    "chow:alpha=0.5",
                                    "diff:alpha=0.05",
                                    "opt:alpha=0.2",
                                    "chow-log:alpha=1",
                                    "diff-log:alpha=0",
                                    "opt-log:alpha=0.1",
                                    "token-v1:alpha=0",
                                    "token-v2:alpha=0.2",
                                    "token-v3:alpha=0.5",
                                    "bild:alpha=1",
                                    "truncate:alpha=0.5",
                                    "truncate:top-p=0.6",
                                    "truncate-q:alpha=0.5",
                                    "head:alpha=0.3",
                                    "typical:eps=0.09",
                                    "ensemble:w=0.4",
                                    "fuzzy:alpha=0.05",
                                    "mentored:kl=0.05",
                                    "cactus:delta=0.3",
                                    "lossy-greedy:alpha=0.5",
                                    "verifier-only",
                                    "drafter-only",
                                    "token-chow:alpha=0.6",
                                    "seq-chow:alpha=0.6",
                                    "bild-dynamic:fallback=0.4"};
enum { RULES = sizeof rules / sizeof *rules };

/* Decode by both engines, where the options go together; false: they do not. */
static inline bool compare_way(placed *one, placed *apart, const way *w, uint64_t seed)
{
    spc_session_options o = way_options(w, seed);
    prompt p = prompt_made(1 + (int32_t)seed % 3, VOCAB, (uint32_t)seed + 5);
    spc_session *session;
    decoded a, b;

    if (spc_session_open(one->engine, &o, p.id, p.count, &session, NULL) != SPC_OK) return false;
    spc_session_close(session);
    a = decode(one->engine, &o, &p);
    b = decode(apart->engine, &o, &p);
    cr_expect_eq(a.stats.drafted_ahead, 0);
    b.stats.drafted_ahead = b.stats.ahead_used = 0;
    expect_same(&a, &b, w->rule, seed);
    return true;
}

/* Every rule gives the tokens of one CPU device where the drafter has a second one; the verifier
 * cut for `tp` ranks in both. */
static inline void compare_rules(int32_t which, int32_t tp, spc_overlap_mode overlap)
{
    placed one = open_cut(which, tp, "cpu", NULL, SPC_OVERLAP_OFF);
    placed apart = open_cut(which, tp, "cpu", "cpu", overlap);
    int32_t total = 0;

    for (int32_t i = 0; i < RULES; i++) {
        int32_t ran = 0;

        for (int32_t k = 0; k < 3 * 2 * 2 * 2; k++) {
            way w = {rules[i], k % 2 ? 3 : 1, (float)(k / 2 % 2), (spc_bonus_mode)(k / 4 % 3),
                     (spc_verify_mode)(k / 12)};

            ran += compare_way(&one, &apart, &w, (uint64_t)(i * 24 + k));
        }
        cr_expect_gt(ran, 0, "%s", rules[i]);
        total += ran;
    }
    cr_expect_gt(total, 300);
    close_placed(&one);
    close_placed(&apart);
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

/* So does every life of sessions with a seed of 1 to `seeds`; adds to `all` what was drawn ahead,
 * and used. */
static inline void compare_lives(int32_t which, int32_t tp, const way *ways, int32_t count,
                                 uint32_t seeds, life_log *all)
{
    placed one = open_cut(which, tp, "cpu", NULL, SPC_OVERLAP_OFF);
    placed apart = open_cut(which, tp, "cpu", "cpu", SPC_OVERLAP_ON);

    for (uint32_t seed = 1; seed <= seeds; seed++) {
        life_log a = live(one.engine, ways, count, seed, 60);
        life_log b = live(apart.engine, ways, count, seed, 60);

        cr_expect_eq(a.hash, b.hash, "pair %d, seed %u", (int)which, (unsigned)seed);
        cr_expect_eq(a.tokens, b.tokens);
        cr_expect_eq(a.drawn, 0);
        all->drawn += b.drawn;
        all->used += b.used;
    }
    close_placed(&one);
    close_placed(&apart);
}

#endif
