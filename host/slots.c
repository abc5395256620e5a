/* SPDX-License-Identifier: Apache-2.0 */
/* slots.c - handing out the slots and the pages of the KV caches. */
#include "slots.h"

#include "session.h"

#include <stdlib.h>

spc_status spc_slots_reserve(spc_engine *engine)
{
    int64_t pages = spc_limits_pages(&engine->limits);

    engine->slot = calloc((size_t)engine->sessions, sizeof *engine->slot);
    engine->slots.lent = calloc((size_t)spc_pages_for(engine->context), sizeof *engine->slots.lent);
    if (!engine->slot || !engine->slots.lent) return SPC_ENOMEM;
    return spc_pages_open(&engine->pages, pages) ? SPC_OK : SPC_ENOMEM;
}

void spc_slots_release(spc_engine *engine)
{
    spc_pages_close(&engine->pages);
    free(engine->slots.lent);
    free(engine->slot);
}

/* A free slot; -1: there is none. */
static int32_t spare_slot(const spc_engine *engine)
{
    for (int32_t i = 0; i < engine->sessions; i++) {
        if (!engine->slot[i]) return i;
    }
    return -1;
}

/* A slot whose session has ended and may do without it; -1: there is none. */
static int32_t ended_slot(const spc_engine *engine)
{
    for (int32_t i = 0; i < engine->sessions; i++) {
        if (engine->slot[i] && engine->slot[i]->finish != SPC_FINISH_RUNNING) return i;
    }
    return -1;
}

/* ---- pages of a session -----------------------------------------------------------------------
 */

/* Tokens that a session may come to hold: its prompt [count], all new ones, and what a round runs
 * behind them. */
static int32_t most_tokens(const spc_session *s, int32_t count)
{
    int64_t tokens = (s->source ? 1 : (int64_t)count) + s->budget + SPC_LANE_ROWS;

    return tokens < s->engine->context ? (int32_t)tokens : s->engine->context;
}

static int32_t wanted_pages(const spc_session *s, int32_t count)
{
    return spc_pages_for(most_tokens(s, count));
}

/* Are there a slot and pages for a session without one, with this prompt? */
static bool has_room(spc_session *s, const int32_t *prompt, int32_t count)
{
    const spc_pages *pages = &s->engine->pages;
    int32_t found = s->source ? 0 : spc_prefix_find(s->engine, prompt, count, s->page);
    int32_t taken = wanted_pages(s, count) - found;

    for (int32_t i = 0; i < found; i++) taken += pages->page[s->page[i]].users == 0;
    return spare_slot(s->engine) >= 0 && taken <= pages->free;
}

/* The pages that a session keeps when only the first `common` tokens stay.  One that ends inside of
 * them is kept if it is nobody else's; otherwise fewer tokens stay. */
static int32_t kept_pages(const spc_session *s, int32_t *common)
{
    int32_t whole = *common / SPC_PAGE_TOKENS;

    if (*common % SPC_PAGE_TOKENS == 0) return whole;
    if (s->engine->pages.page[s->page[whole]].users == 1) return whole + 1;
    *common = whole * SPC_PAGE_TOKENS;
    return whole;
}

/* Are there pages for a session to go on in its slot? */
static bool has_pages(const spc_session *s, int32_t count, int32_t common)
{
    const spc_pages *pages = &s->engine->pages;
    int32_t kept = kept_pages(s, &common), room = pages->free;

    for (int32_t i = kept; i < s->page_count; i++) room += pages->page[s->page[i]].users == 1;
    return wanted_pages(s, count) - kept <= room;
}

/* The last first: what stands before is of use without it, but not the other way round. */
static void drop_pages(spc_session *s, int32_t kept)
{
    while (s->page_count > kept) spc_pages_drop(&s->engine->pages, s->page[--s->page_count]);
}

static void take_pages(spc_session *s, int32_t wanted)
{
    while (s->page_count < wanted) s->page[s->page_count++] = spc_pages_take(&s->engine->pages);
}

/* Tell a model where the session's entries lie, and how many are there. */
static spc_status map_pages(const spc_session *s, const spc_model *model, int32_t held,
                            spc_error *err)
{
    if (!model->runner) return SPC_OK;
    return s->engine->ops->map(model->runner, s->slot, s->page, s->page_count, held, err);
}

/* held: tokens of the verifier's, of the drafter's. */
static spc_status map_both(const spc_session *s, const int32_t *held, spc_error *err)
{
    spc_status status = map_pages(s, &s->engine->verifier, held[0], err);

    return status == SPC_OK ? map_pages(s, &s->engine->drafter, held[1], err) : status;
}

static void set_free(spc_session *s)
{
    drop_pages(s, 0);
    s->engine->slot[s->slot] = NULL;
    s->slot = -1;
}

/* There is room: a session begins in a free slot, with the pages that hold the beginning of its
 * prompt and others behind them.  On a device that has failed it ends with that. */
static void begin(spc_session *s)
{
    spc_engine *engine = s->engine;
    int32_t found = s->source ? 0 : spc_prefix_find(engine, s->token, s->prompt, s->page);
    int32_t held[2];
    spc_error error;

    s->slot = spare_slot(engine);
    engine->slot[s->slot] = s;
    for (int32_t i = 0; i < found; i++) spc_pages_share(&engine->pages, s->page[i]);
    s->page_count = found;
    take_pages(s, wanted_pages(s, s->prompt));
    spc_prefix_begin(s, found);
    for (int32_t m = 0; m < 2; m++) held[m] = s->noted[m] * SPC_PAGE_TOKENS;
    if (map_both(s, held, &error) != SPC_OK) {
        set_free(s);
        spc_session_fail(s, &error);
        return;
    }
    s->counters.reused_tokens = held[0] > held[1] ? held[0] : held[1];
    spc_gamma_begin(s);
}

/* Of pages that a session may take over, whether each model's part of the first `found` reaches as
 * far as what the session has, and one's further. */
static bool reaches_further(const spc_session *s, const int32_t *page, int32_t found)
{
    const spc_engine *engine = s->engine;
    const spc_model *models[] = {&engine->verifier, &engine->drafter};
    bool further = false;

    for (int32_t m = 0; m < 2; m++) {
        int32_t held = 0;
        int32_t has = models[m]->runner ? engine->ops->length(models[m]->runner, s->slot) : 0;

        while (held < found &&
               (engine->pages.page[page[held]].held & (uint32_t)SPC_HELD_VERIFIER << m)) {
            held++;
        }
        if (held * SPC_PAGE_TOKENS < has) return false;
        further = further || held * SPC_PAGE_TOKENS > has;
    }
    return further;
}

void spc_slots_share(spc_session *s)
{
    spc_engine *engine = s->engine;
    int32_t *page = engine->slots.lent, held[2];
    int32_t found = spc_prefix_find(engine, s->token, s->prompt, page);
    spc_error error;

    if (!reaches_further(s, page, found)) return;
    for (int32_t i = 0; i < found; i++) {
        if (page[i] == s->page[i]) continue;
        spc_pages_share(&engine->pages, page[i]);
        spc_pages_drop(&engine->pages, s->page[i]);
        s->page[i] = page[i];
    }
    spc_prefix_begin(s, found);
    for (int32_t m = 0; m < 2; m++) held[m] = s->noted[m] * SPC_PAGE_TOKENS;
    s->counters.reused_tokens = held[0] > held[1] ? held[0] : held[1];
    if (map_both(s, held, &error) != SPC_OK) spc_session_fail(s, &error);
}

int32_t spc_slots_holds(const spc_session *s, bool drafter)
{
    const uint32_t part = drafter ? SPC_HELD_DRAFTER : SPC_HELD_VERIFIER;
    int32_t held = s->noted[drafter];

    while (held < s->named && (s->engine->pages.page[s->page[held]].held & part)) held++;
    return held * SPC_PAGE_TOKENS;
}

void spc_slots_catch_up(spc_session *s)
{
    const spc_model *models[] = {&s->engine->verifier, &s->engine->drafter};
    spc_status status = SPC_OK;
    spc_error error;

    for (int32_t m = 0; m < 2 && status == SPC_OK; m++) {
        int32_t held;

        if (!models[m]->runner) continue;
        held = spc_slots_holds(s, m == 1);
        if (held <= s->engine->ops->length(models[m]->runner, s->slot)) continue;
        s->noted[m] = held / SPC_PAGE_TOKENS;
        status = map_pages(s, models[m], held, &error);
    }
    if (status != SPC_OK) spc_session_fail(s, &error);
}

/* ---- the line ---------------------------------------------------------------------------------
 */

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

/* The first in the line goes where there is room; who comes behind it waits until it has gone.  It
 * may be another thread's: that one sees it wait until all that begins it has been written. */
void spc_slots_serve(spc_engine *engine)
{
    spc_session *s;

    while ((s = engine->slots.first) != NULL && has_room(s, s->token, s->prompt)) {
        begin(s);
        leave_line(s);
    }
}

/* What can never be had is not waited for. */
static spc_status check_size(const spc_session *s, int32_t count, spc_error *err)
{
    const spc_engine *engine = s->engine;
    int32_t wanted = wanted_pages(s, count);

    if (wanted <= engine->pages.count) return SPC_OK;
    return spc_error_set(
        err, SPC_EFULL,
        "a prompt (tokens: %d) may need %d tokens of KV cache with its new ones, and the engine "
        "has %d: lower max-tokens, or open the engine with more kv-tokens",
        (int)count, (int)most_tokens(s, count), (int)(engine->pages.count * SPC_PAGE_TOKENS));
}

/* session: is it one that could wait instead? */
static spc_status no_room(const spc_engine *engine, bool session, spc_error *err)
{
    const char *wait = session ? ", or let this one wait (session option wait)" : "";

    if (spare_slot(engine) < 0) {
        return spc_error_set(err, SPC_EFULL,
                             "no free session: all %d are open; close one, open the engine with "
                             "more sessions%s",
                             (int)engine->sessions, wait);
    }
    return spc_error_set(err, SPC_EFULL,
                         "no room in the KV caches: %d of %d tokens are free%s; close a session, "
                         "open the engine with more kv-tokens%s",
                         (int)(engine->pages.free * SPC_PAGE_TOKENS),
                         (int)(engine->pages.count * SPC_PAGE_TOKENS),
                         engine->slots.first ? " and others wait for them" : "", wait);
}

spc_status spc_slots_check(spc_session *s, const int32_t *prompt, int32_t count, int32_t common,
                           spc_error *err)
{
    spc_status status = check_size(s, count, err);

    if (status != SPC_OK || s->may_wait) return status;
    if (s->slot >= 0 ? has_pages(s, count, common)
                     : !s->engine->slots.first && has_room(s, prompt, count)) {
        return SPC_OK;
    }
    return no_room(s->engine, true, err);
}

spc_status spc_slots_take(spc_session *s, spc_error *err)
{
    spc_engine *engine = s->engine;
    const int32_t *prompt = s->source ? s->source : s->token;
    int32_t count = s->source ? s->source_count : s->prompt, ended;
    spc_status status = spc_slots_check(s, prompt, count, 0, err);

    if (status != SPC_OK) return status;
    while (!has_room(s, prompt, count) && (ended = ended_slot(engine)) >= 0) {
        set_free(engine->slot[ended]);
    }
    if (!engine->slots.first && has_room(s, prompt, count)) {
        begin(s);
    } else {
        join_line(s);
    }
    return SPC_OK;
}

spc_status spc_slots_keep(spc_session *s, int32_t count, int32_t common, int64_t *reused,
                          spc_error *err)
{
    const spc_backend_ops *ops = s->engine->ops;
    const spc_model *models[] = {&s->engine->verifier, &s->engine->drafter};
    int32_t kept, held[2] = {0};

    if (!has_pages(s, count, common)) {
        spc_slots_give_back(s);
        return SPC_OK;
    }
    kept = kept_pages(s, &common);
    drop_pages(s, kept);
    spc_prefix_cut(s, common);
    if (common % SPC_PAGE_TOKENS > 0) spc_pages_forget(&s->engine->pages, s->page[kept - 1]);
    take_pages(s, wanted_pages(s, count));
    for (int32_t m = 0; m < 2; m++) {
        if (models[m]->runner) held[m] = ops->length(models[m]->runner, s->slot);
        if (held[m] > common) held[m] = common;
    }
    *reused = held[0] > held[1] ? held[0] : held[1];
    return map_both(s, held, err);
}

void spc_slots_give_back(spc_session *s)
{
    if (s->waits) {
        leave_line(s);
    } else if (s->slot >= 0) {
        set_free(s);
    }
    spc_slots_serve(s->engine);
}

void spc_slots_ended(spc_session *s)
{
    if (s->finish == SPC_FINISH_FAILED) spc_prefix_forget(s);
    if (s->waits || s->engine->slots.first) spc_slots_give_back(s);
}

/* ---- a slot for a moment ----------------------------------------------------------------------
 */

spc_status spc_slots_lend(spc_engine *engine, int32_t tokens, int32_t *slot, spc_error *err)
{
    int32_t count = spc_pages_for(tokens), *page = engine->slots.lent;
    spc_status status;

    *slot = spare_slot(engine);
    if (*slot < 0 || count > engine->pages.free) return no_room(engine, false, err);
    for (int32_t i = 0; i < count; i++) page[i] = spc_pages_take(&engine->pages);
    status = engine->ops->map(engine->verifier.runner, *slot, page, count, 0, err);
    if (status != SPC_OK) spc_slots_return(engine, tokens, *slot);
    return status;
}

void spc_slots_return(spc_engine *engine, int32_t tokens, int32_t slot)
{
    engine->ops->rewind(engine->verifier.runner, slot, 0);
    for (int32_t i = spc_pages_for(tokens); i-- > 0;) {
        spc_pages_drop(&engine->pages, engine->slots.lent[i]);
    }
}
