/* SPDX-License-Identifier: Apache-2.0 */
/* soak_session.c - what is done to a session of the soak, and whether it wrote what it writes
 * alone. */
#include "soak.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const rules[] = {"strict",
                                    "strict",
                                    "lossy:alpha=0.3",
                                    "lossy-greedy:alpha=0.3",
                                    "chow:alpha=0.5",
                                    "diff:alpha=0.2",
                                    "opt:alpha=0.1",
                                    "opt-log:alpha=0.2",
                                    "token-v1:alpha=0.5",
                                    "token-v2:alpha=0.5",
                                    "token-v3:alpha=0.5",
                                    "bild:alpha=1",
                                    "verifier-only",
                                    "drafter-only",
                                    "token-chow:alpha=0.5",
                                    "seq-chow:alpha=0.2",
                                    "bild-dynamic:fallback=0.2,rollback=1"};
enum { RULES = sizeof rules / sizeof *rules };

/* For drafts that are looked up: those behind NGRAM_EXACT need the bonus of the verifier. */
static const char *const ngram_rules[] = {"strict",
                                          "strict",
                                          "truncate:alpha=0.5",
                                          "verifier-only",
                                          "lossy:alpha=0.3",
                                          "token-v2:alpha=0.5",
                                          "token-v3:alpha=0.5",
                                          "bild:alpha=1"};
enum { NGRAM_RULES = sizeof ngram_rules / sizeof *ngram_rules, NGRAM_EXACT = 4 };

/* ---- tasks ------------------------------------------------------------------------------------
 */

static bool hear_token(void *user, const spc_token *token)
{
    soak_task *t = user;

    (void)token;
    return ++t->told != t->most;
}

static void hear_text(void *user, const char *text, size_t bytes)
{
    (void)user;
    if (bytes > 0 && !text) soak_fail("a text of %zu bytes is NULL", bytes);
}

static int32_t random_token(const spc_engine *engine)
{
    return 3 + (int32_t)soak_below((uint32_t)engine->vocab - 3);
}

/* Few different beginnings, so that prompts share them. */
static void make_prompt(const soak_place *place, soak_task *t, int32_t kept)
{
    int32_t most = place->context - 1, shared = (int32_t)soak_below(40);
    uint32_t which = soak_below(3);

    t->count = kept + 1 + (int32_t)soak_below(soak_chance(70) ? 8 : (uint32_t)most);
    if (t->count > most) t->count = most;
    for (int32_t i = kept; i < t->count; i++) {
        t->prompt[i] = random_token(place->engine);
        if (i < shared) t->prompt[i] = 3 + ((int32_t)which * 50 + i) % (place->engine->vocab - 3);
    }
}

static void make_sampling(spc_session_options *o)
{
    static const float temperatures[] = {0, 0, 0.7f, 1, 1.3f};

    o->temperature = temperatures[soak_below(5)];
    if (strncmp(o->rule, "bild-dynamic", 12) == 0) o->temperature = 0;
    o->top_k = soak_chance(20) ? 1 + (int32_t)soak_below(30) : 0;
    o->top_p = soak_chance(20) ? 0.9f : 1;
    o->min_p = soak_chance(10) ? 0.05f : 0;
    o->nucleus = soak_chance(10);
    o->seed = soak_below(1000);
}

/* Of three tokens two, which two the text says, but for some places. */
static bool allow_some(void *user, const int32_t *token, int32_t count, uint32_t *allowed,
                       int32_t vocab)
{
    (void)user;
    for (int32_t v = 0; v < vocab; v++) {
        if ((v + token[count - 1]) % 3 > 0) allowed[v / 32] |= 1u << v % 32;
    }
    return count % 5 > 0;
}

/* Those that have none cannot say why a token came about. */
static bool has_rounds(const char *text)
{
    spc_rule rule;

    return spc_rule_parse(text, &rule, NULL) &&
           (spc_rule_is_one_round(rule.kind) || rule.kind == SPC_RULE_VERIFIER_ONLY);
}

static void make_edits(const soak_place *place, soak_task *t)
{
    spc_session_options *o = &t->options;

    o->details = has_rounds(o->rule) && soak_chance(15);
    o->logprobs = has_rounds(o->rule) && soak_chance(15);
    if (soak_chance(70)) return;
    if (soak_chance(50)) o->repetition_penalty = 1.2f;
    if (soak_chance(50)) o->presence_penalty = 0.5f;
    if (soak_chance(50)) o->frequency_penalty = 0.3f;
    if (soak_chance(50))
        o->min_tokens = (int32_t)soak_below((uint32_t)(o->max_tokens > 0 ? o->max_tokens : 9) + 1);
    if (soak_chance(30)) o->on_mask = allow_some;
    t->bias[0] = (spc_logit_bias){random_token(place->engine), -INFINITY};
    t->bias[1] = (spc_logit_bias){0, 1.5f};
    o->logit_bias = t->bias;
    o->logit_bias_count = (int32_t)soak_below(3);
}

static void make_task(const soak_place *place, soak_task *t)
{
    static const char *const stop[] = {"e ", "an"};
    spc_session_options *o = &t->options;
    uint32_t which = place->engine->ngram.most > 0 ? soak_below(NGRAM_RULES) : 0;

    memset(t, 0, sizeof *t);
    spc_session_options_init(o);
    o->rule = "verifier-only";
    if (place->engine->drafter.runner) o->rule = rules[soak_below(RULES)];
    if (place->engine->ngram.most > 0) o->rule = ngram_rules[which];
    make_sampling(o);
    o->gamma = soak_chance(20) ? SPC_GAMMA_AUTO : (int32_t)soak_below(9);
    o->verify = soak_chance(20) ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
    o->bonus = soak_chance(60) ? SPC_BONUS_TARGET : (spc_bonus_mode)soak_below(3);
    if (place->engine->ngram.most > 0 && which >= NGRAM_EXACT) o->bonus = SPC_BONUS_VERIFIER;
    o->max_tokens = soak_chance(80) ? 1 + (int32_t)soak_below(30) : 0;
    o->wait = soak_chance(70);
    o->ignore_stop = soak_chance(50);
    if (place->engine->tokenizer && soak_chance(30)) {
        o->stop = stop;
        o->stop_count = 2;
    }
    if (soak_chance(30)) {
        for (int i = 0; i < SOAK_STOPS; i++) t->stop_token[i] = random_token(place->engine);
        o->stop_token = t->stop_token;
        o->stop_token_count = SOAK_STOPS;
    }
    t->most = soak_chance(15) ? 1 + (int32_t)soak_below(12) : 0;
    o->on_token = hear_token;
    if (soak_chance(50)) o->on_text = hear_text;
    make_edits(place, t);
    o->user = t;
    make_prompt(place, t, 0);
}

/* Do times of the machine leave its tokens alone?  With chosen lengths a seed may give another text
 * of the same law. */
static bool repeats(const soak_task *t)
{
    const spc_session_options *o = &t->options;

    if (o->gamma != SPC_GAMMA_AUTO || o->temperature == 0.0f) return true;
    return o->bonus == SPC_BONUS_STEP && o->verify == SPC_VERIFY_TOKEN;
}

/* ---- what is done -----------------------------------------------------------------------------
 */

static int32_t spare_slots(const spc_engine *engine)
{
    int32_t spare = 0;

    for (int32_t i = 0; i < engine->sessions; i++) spare += engine->slot[i] == NULL;
    return spare;
}

/* What there was for a session: slots, pages; and what it may come to. */
typedef struct {
    int32_t slots, pages, wanted;
    bool line; /* others waited */
} room;

static room room_for(const soak_place *place, const soak_task *t)
{
    const spc_engine *e = place->engine;
    int32_t tokens = place->context, prompt = spc_engine_encodes(e) ? 1 : t->count;
    int32_t needed = prompt + t->options.max_tokens + SPC_LANE_ROWS;

    if (t->options.max_tokens > 0 && needed < tokens) tokens = needed;
    return (room){spare_slots(e), e->pages.free, spc_pages_for(tokens), e->slots.first != NULL};
}

/* No place for a session, where none may be had: is that so?  It may have needed fewer pages, never
 * more.
 *
 * holds   it has a slot */
static void check_full(const soak_place *place, const soak_task *t, const room *r, bool holds)
{
    bool fits = r->wanted <= r->pages && (holds || (r->slots > 0 && !r->line));

    if (r->wanted > place->engine->pages.count) return;
    if (t->options.wait || fits) {
        soak_fail("no place for a session of %d pages: %d are free of %d, and %d slots of %d; it "
                  "may %swait",
                  (int)r->wanted, (int)r->pages, (int)place->engine->pages.count, (int)r->slots,
                  (int)place->engine->sessions, t->options.wait ? "" : "not ");
    }
}

void soak_open(soak_place *place, soak_member *m)
{
    spc_status status;
    spc_error error;
    room before;

    make_task(place, &m->task);
    before = room_for(place, &m->task);
    m->cancelled = false;
    status = spc_session_open(place->engine, &m->task.options, m->task.prompt, m->task.count,
                              &m->session, &error);
    if (status == SPC_OK) {
        place->done.opened++;
        place->done.edited += m->session->processor != NULL;
        return;
    }
    if (m->session) soak_fail("refused, and a session is there: %s", error.message);
    if (status == SPC_EFULL) check_full(place, &m->task, &before, false);
    if (status != SPC_EFULL) place->done.refused++;
    if (status != SPC_EFULL && status != SPC_EUNSUPPORTED && status != SPC_ERULE) {
        soak_fail("rule %s: %s", m->task.options.rule, error.message);
    }
}

/* Has it failed?  None is meant to. */
static void check_state(const soak_member *m)
{
    const spc_error *error = spc_session_error(m->session);

    if (error) soak_fail("rule %s: %s", m->task.options.rule, error->message);
}

static int64_t drafted(const spc_session *session)
{
    spc_stats stats;
    int64_t sum = 0;

    spc_session_stats(session, &stats);
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) sum += stats.drafted[i];
    return sum;
}

/* Is what the session wrote, or its beginning where it was stopped, what it writes alone? */
static void compare(soak_place *place, const soak_member *m)
{
    soak_task task = m->task;
    int32_t wrote, writes;
    const int32_t *token = spc_session_tokens(m->session, &wrote), *other;
    bool whole = spc_session_finish(m->session) != SPC_FINISH_RUNNING && !m->cancelled;
    spc_session *alone;
    spc_error error;

    if (!repeats(&task)) return;
    task.options.user = &task;
    task.told = 0;
    if (spc_session_open(place->alone, &task.options, task.prompt, task.count, &alone, &error) !=
            SPC_OK ||
        spc_session_run(alone, &error) != SPC_OK) {
        soak_fail("alone: %s", error.message);
    }
    other = spc_session_tokens(alone, &writes);
    if (wrote > writes || (whole && wrote != writes) ||
        memcmp(token, other, (size_t)wrote * sizeof *token) != 0) {
        soak_fail("rule %s, gamma %d, temperature %g, prompt of %d: %d tokens, alone %d, and not "
                  "the same",
                  task.options.rule, (int)task.options.gamma, (double)task.options.temperature,
                  (int)task.count, (int)wrote, (int)writes);
    }
    if (whole && spc_session_finish(m->session) != spc_session_finish(alone)) {
        soak_fail("rule %s: ended by %s, alone by %s", task.options.rule,
                  spc_finish_name(spc_session_finish(m->session)),
                  spc_finish_name(spc_session_finish(alone)));
    }
    spc_session_close(alone);
    place->done.compared++;
}

static void read_text(const soak_place *place, const soak_member *m)
{
    spc_error error;
    char *text;

    if (!place->engine->tokenizer) return;
    if (spc_session_text(m->session, &text, NULL, &error) != SPC_OK) soak_fail("%s", error.message);
    free(text);
}

/* Its text is about to go. */
static void look_back(soak_place *place, soak_member *m)
{
    check_state(m);
    if (place->engine->ngram.most > 0) place->done.looked_up += drafted(m->session);
    if (soak_chance(20)) read_text(place, m);
    if (soak_chance(40)) compare(place, m);
}

void soak_restart(soak_place *place, soak_member *m)
{
    int32_t wrote, kept = 0;
    const int32_t *token = spc_session_tokens(m->session, &wrote);
    soak_task before = m->task;
    spc_status status;
    spc_error error;
    room there;

    look_back(place, m);
    if (!m->session->source && soak_chance(70)) { /* the next turn, or less of this one */
        kept = m->task.count + wrote < place->context - 4 ? m->task.count + wrote : m->task.count;
        if (kept > m->task.count) {
            memcpy(m->task.prompt + m->task.count, token, (size_t)wrote * sizeof *token);
        }
        if (soak_chance(30)) kept = (int32_t)soak_below((uint32_t)kept);
    }
    make_prompt(place, &m->task, kept);
    m->task.told = 0;
    there = room_for(place, &m->task);
    status = spc_session_restart(m->session, m->task.prompt, m->task.count, &error);
    if (status == SPC_OK) {
        m->cancelled = false;
        place->done.restarted++;
        return;
    }
    m->task = before;
    if (status != SPC_EFULL) soak_fail("restart: %s", error.message);
    check_full(place, &m->task, &there, m->session->slot >= 0);
}

void soak_cancel(soak_place *place, soak_member *m)
{
    spc_session_cancel(m->session);
    m->cancelled = true;
    place->done.cancelled++;
}

void soak_run(soak_place *place, soak_member *m)
{
    spc_error error;
    spc_status status = spc_session_run(m->session, &error);

    (void)place;
    if (status == SPC_OK) return;
    if (status != SPC_EFULL || !spc_session_waits(m->session)) soak_fail("%s", error.message);
}

void soak_close(soak_place *place, soak_member *m)
{
    if (!m->session) return;
    look_back(place, m);
    spc_session_close(m->session);
    m->session = NULL;
}

int32_t soak_step(soak_place *place, uint32_t percent)
{
    spc_session *group[SOAK_MEMBERS];
    int32_t count = 0, running = 0, first = (int32_t)soak_below(SOAK_MEMBERS);
    spc_error error;

    for (int32_t i = 0; i < SOAK_MEMBERS; i++) {
        soak_member *m = &place->member[(first + i) % SOAK_MEMBERS];

        if (m->session && soak_chance(percent)) group[count++] = m->session;
    }
    if (spc_engine_step(place->engine, group, count, &error) != SPC_OK) {
        soak_fail("%s", error.message);
    }
    place->done.steps++;
    for (int32_t i = 0; i < SOAK_MEMBERS; i++) {
        const soak_member *m = &place->member[i];

        if (m->session) running += spc_session_finish(m->session) == SPC_FINISH_RUNNING;
    }
    return running;
}
