/* SPDX-License-Identifier: Apache-2.0 */
/* pages.c - handing pages out, and finding them by what they hold. */
#include "pages.h"

#include "host/ranks/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- the free ones ----------------------------------------------------------------------------
 */

/* Put a page between two neighbours; -1: at an end. */
static void link_free(spc_pages *p, int32_t page, int32_t older, int32_t newer)
{
    p->page[page].older = older;
    p->page[page].newer = newer;
    *(older >= 0 ? &p->page[older].newer : &p->oldest) = page;
    *(newer >= 0 ? &p->page[newer].older : &p->newest) = page;
    p->free++;
}

static void unlink_free(spc_pages *p, int32_t page)
{
    int32_t older = p->page[page].older, newer = p->page[page].newer;

    *(older >= 0 ? &p->page[older].newer : &p->oldest) = newer;
    *(newer >= 0 ? &p->page[newer].older : &p->newest) = older;
    p->free--;
}

bool spc_pages_open(spc_pages *p, int64_t count)
{
    size_t places = 16;

    memset(p, 0, sizeof *p);
    if (count < 1 || count > INT32_MAX / SPC_PAGE_TOKENS) return false;
    while (places < (size_t)count) places *= 2;
    p->page = calloc((size_t)count, sizeof *p->page);
    p->token = calloc((size_t)count * SPC_PAGE_TOKENS, sizeof *p->token);
    p->place = malloc(places * sizeof *p->place);
    if (!p->page || !p->token || !p->place) return false;
    for (size_t i = 0; i < places; i++) p->place[i] = -1;
    p->mask = places - 1;
    p->count = (int32_t)count;
    p->oldest = p->newest = -1;
    for (int32_t i = 0; i < p->count; i++) link_free(p, i, p->newest, -1);
    return true;
}

void spc_pages_close(spc_pages *p)
{
    free(p->page);
    free(p->token);
    free(p->place);
}

int32_t spc_pages_take(spc_pages *p)
{
    int32_t page = p->oldest;

    assert(page >= 0);
    unlink_free(p, page);
    spc_pages_forget(p, page);
    p->page[page].users = 1;
    return page;
}

void spc_pages_share(spc_pages *p, int32_t page)
{
    if (p->page[page].users++ == 0) unlink_free(p, page);
}

void spc_pages_drop(spc_pages *p, int32_t page)
{
    assert(p->page[page].users > 0);
    if (--p->page[page].users > 0) return;
    if (p->page[page].name) {
        link_free(p, page, p->newest, -1);
    } else {
        link_free(p, page, -1, p->oldest);
    }
}

/* ---- what they hold ---------------------------------------------------------------------------
 */

static int32_t *place_of(const spc_pages *p, uint64_t before, const int32_t *token)
{
    uint64_t hash = spc_hash_int(SPC_HASH_BEGIN, (int64_t)before);

    hash = spc_hash_bytes(hash, token, SPC_PAGE_TOKENS * sizeof *token);
    return &p->place[hash & p->mask];
}

static int32_t *tokens_of(const spc_pages *p, int32_t page)
{
    return p->token + (size_t)page * SPC_PAGE_TOKENS;
}

/* Of pages with the same text: what is saved by taking this one. */
static int32_t worth(const spc_page *page)
{
    int32_t models =
        (page->held & SPC_HELD_VERIFIER ? 1 : 0) + (page->held & SPC_HELD_DRAFTER ? 1 : 0);

    return 2 * models + (page->users > 0 ? 1 : 0);
}

int32_t spc_pages_find(const spc_pages *p, uint64_t before, const int32_t *token)
{
    int32_t best = -1;

    for (int32_t i = *place_of(p, before, token); i >= 0; i = p->page[i].next) {
        if (p->page[i].before != before) continue;
        if (memcmp(tokens_of(p, i), token, SPC_PAGE_TOKENS * sizeof *token) != 0) continue;
        if (best < 0 || worth(&p->page[i]) > worth(&p->page[best])) best = i;
    }
    return best;
}

uint64_t spc_pages_name(spc_pages *p, int32_t page, uint64_t before, const int32_t *token)
{
    spc_page *own = &p->page[page];
    int32_t same = spc_pages_find(p, before, token), *place = place_of(p, before, token);

    assert(own->users > 0 && own->name == 0);
    own->name = same >= 0 ? p->page[same].name : ++p->names;
    own->before = before;
    own->held = 0;
    memcpy(tokens_of(p, page), token, SPC_PAGE_TOKENS * sizeof *token);
    own->next = *place;
    *place = page;
    return own->name;
}

void spc_pages_forget(spc_pages *p, int32_t page)
{
    spc_page *own = &p->page[page];
    int32_t *at;

    if (own->name == 0) return;
    at = place_of(p, own->before, tokens_of(p, page));
    while (*at != page) at = &p->page[*at].next;
    *at = own->next;
    own->name = 0;
}
