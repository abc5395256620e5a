/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.c - the index of what the slots of the KV caches hold. */
#include "prefix.h"

#include "session.h"

#include <stdlib.h>
#include <string.h>

/* Places of the table that are tried for an entry. */
enum { TRIES = 8 };

spc_status spc_prefix_reserve(spc_engine *engine)
{
    spc_prefix *p = &engine->prefix;
    size_t sessions = (size_t)engine->sessions, context = (size_t)engine->context;
    size_t pages = context / SPC_PAGE_TOKENS + 1, entries = 16;

    while (entries < 2 * sessions * pages) entries *= 2;
    p->mask = entries - 1;
    p->entry = calloc(entries, sizeof *p->entry);
    p->text = calloc(sessions * context, sizeof *p->text);
    p->noted = calloc(sessions, sizeof *p->noted);
    p->hash = calloc(sessions, sizeof *p->hash);
    p->page = calloc(pages, sizeof *p->page);
    return p->entry && p->text && p->noted && p->hash && p->page ? SPC_OK : SPC_ENOMEM;
}

void spc_prefix_release(spc_engine *engine)
{
    spc_prefix *p = &engine->prefix;

    free(p->entry);
    free(p->text);
    free(p->noted);
    free(p->hash);
    free(p->page);
}

static uint64_t page_hash(uint64_t before, const int32_t *token)
{
    uint64_t hash = spc_hash_tokens(before, token, SPC_PAGE_TOKENS);

    return hash ? hash : 1;
}

static const int32_t *text_of(const spc_engine *engine, int32_t slot)
{
    return engine->prefix.text + (size_t)slot * (size_t)engine->context;
}

/* Lead from a hash to a slot, beside others that hold the same: in the place it has already, or one
 * that is unused or out of date, or the first. */
static void enter(spc_prefix *p, uint64_t hash, int32_t slot, int32_t tokens)
{
    spc_prefix_entry *place = &p->entry[hash & p->mask];

    for (uint64_t i = TRIES; i-- > 0;) {
        spc_prefix_entry *e = &p->entry[(hash + i) & p->mask];

        if (e->hash == hash && e->slot == slot) return;
        if (e->hash == 0 || p->noted[e->slot] < e->tokens) place = e;
    }
    *place = (spc_prefix_entry){hash, slot, tokens};
}

void spc_prefix_note(spc_session *s)
{
    spc_engine *engine = s->engine;
    spc_prefix *p = &engine->prefix;
    int32_t verifier, drafter = 0, held;

    if (p->off || s->slot < 0 || s->finish == SPC_FINISH_FAILED) return;
    verifier = engine->ops->length(engine->verifier.runner, s->slot);
    if (engine->drafter.runner) drafter = engine->ops->length(engine->drafter.runner, s->slot);
    held = verifier > drafter ? verifier : drafter;
    if (held > s->length - 1) held = s->length - 1; /* behind it may be drafts */
    while (p->noted[s->slot] + SPC_PAGE_TOKENS <= held) {
        int32_t at = p->noted[s->slot];
        int32_t *text = p->text + (size_t)s->slot * (size_t)engine->context;

        memcpy(text + at, s->token + at, SPC_PAGE_TOKENS * sizeof *text);
        p->hash[s->slot] = page_hash(at == 0 ? SPC_HASH_NONE : p->hash[s->slot], text + at);
        p->noted[s->slot] = at + SPC_PAGE_TOKENS;
        enter(p, p->hash[s->slot], s->slot, at + SPC_PAGE_TOKENS);
    }
}

void spc_prefix_cut(spc_engine *engine, int32_t slot, int32_t length)
{
    spc_prefix *p = &engine->prefix;
    uint64_t hash = SPC_HASH_NONE;
    int32_t left = length / SPC_PAGE_TOKENS * SPC_PAGE_TOKENS;

    if (p->noted[slot] <= left) return;
    for (int32_t at = 0; at < left; at += SPC_PAGE_TOKENS) {
        hash = page_hash(hash, text_of(engine, slot) + at);
    }
    p->noted[slot] = left;
    p->hash[slot] = hash;
}

/* The slot whose first tokens these are; -1: none that the table leads to. */
static int32_t look_up(const spc_engine *engine, uint64_t hash, const int32_t *prompt,
                       int32_t tokens)
{
    const spc_prefix *p = &engine->prefix;

    for (uint64_t i = 0; i < TRIES; i++) {
        const spc_prefix_entry *e = &p->entry[(hash + i) & p->mask];

        if (e->hash != hash || p->noted[e->slot] < tokens) continue;
        if (memcmp(text_of(engine, e->slot), prompt, (size_t)tokens * sizeof *prompt) == 0) {
            return e->slot;
        }
    }
    return -1;
}

int32_t spc_prefix_find(const spc_engine *engine, const int32_t *prompt, int32_t count,
                        int32_t *tokens)
{
    const spc_prefix *p = &engine->prefix;
    int32_t pages = (count - 1) / SPC_PAGE_TOKENS;
    uint64_t hash = SPC_HASH_NONE;

    *tokens = 0;
    if (p->off) return -1;
    for (int32_t i = 0; i < pages; i++) {
        hash = page_hash(hash, prompt + i * SPC_PAGE_TOKENS);
        p->page[i] = hash;
    }
    for (int32_t i = pages; i-- > 0;) {
        int32_t held = (i + 1) * SPC_PAGE_TOKENS;
        int32_t slot = look_up(engine, p->page[i], prompt, held);

        if (slot < 0) continue;
        *tokens = held;
        return slot;
    }
    return -1;
}
