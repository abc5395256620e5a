/* SPDX-License-Identifier: Apache-2.0 */
/* pages.h - whose the pages of the KV caches are, and which texts they hold.
 *
 * The caches of both models are cut into pages of 16 tokens, and page k holds the same tokens in
 * both.  A sequence has a table of pages, one for every 16 of its positions; sequences that begin
 * alike have the pages of that beginning in common.  A page that no sequence uses is free, and
 * keeps what it holds until it is handed out: the one that was free longest goes first.
 *
 * A page whose tokens are known can be found by them.  Every text of whole pages has a name, a
 * number that is given once: a page is looked up by the name of the text before it and by its own
 * tokens, so that equal names mean equal texts, to the first token. */
#ifndef SPC_HOST_PAGES_H
#define SPC_HOST_PAGES_H

#include <stdbool.h>
#include <stdint.h>

enum { SPC_PAGE_TOKENS = 16 };

/* Pages for so many tokens. */
static inline int32_t spc_pages_for(int32_t tokens)
{
    return tokens / SPC_PAGE_TOKENS + (tokens % SPC_PAGE_TOKENS > 0);
}

/* Tokens of a context that so many pages take. */
static inline int32_t spc_pages_room(int32_t pages, int32_t context)
{
    return pages < spc_pages_for(context) ? pages * SPC_PAGE_TOKENS : context;
}

/* Whose part of a page is there. */
enum { SPC_HELD_VERIFIER = 1, SPC_HELD_DRAFTER = 2 };

typedef struct {
    uint64_t name;        /* of the text that ends with this page; 0: not known */
    uint64_t before;      /* of the text before it; 0: none, the page begins one */
    int32_t users;        /* tables that it stands in; 0: it is free */
    int32_t older, newer; /* its neighbours among the free ones, by when they became it; -1: none */
    int32_t next;         /* of those that are looked up at one place; -1: none */
    uint32_t held;        /* SPC_HELD_*, of pages with a name */
} spc_page;

typedef struct {
    spc_page *page; /* [count] */
    int32_t *token; /* [count, SPC_PAGE_TOKENS] of pages with a name */
    int32_t *place; /* [mask + 1] the first page of those that are looked up there; -1: none */
    uint64_t mask;
    int32_t count, free; /* pages; those of them that nobody uses */
    int32_t oldest, newest;
    uint64_t names; /* given so far */
} spc_pages;

/* So many pages, all free.  False: no memory, or too many to count. */
bool spc_pages_open(spc_pages *pages, int64_t count);
void spc_pages_close(spc_pages *pages);

/* The page that was free longest, for one user, its text forgotten; there is one. */
int32_t spc_pages_take(spc_pages *pages);
/* One more user of a page, which may be free. */
void spc_pages_share(spc_pages *pages, int32_t page);
/* One fewer.  Pages without a name are handed out again before any other. */
void spc_pages_drop(spc_pages *pages, int32_t page);

/* The tokens [SPC_PAGE_TOKENS] of a page without a name are known now; returns the name of the text
 * that they end.
 *
 * before   the name of the text before them; 0: there is none */
uint64_t spc_pages_name(spc_pages *pages, int32_t page, uint64_t before, const int32_t *token);
/* A page that holds these tokens behind that text; -1: none.  Of several the one that both models
 * hold, then one in use, which takes none of the free ones, then the one named last. */
int32_t spc_pages_find(const spc_pages *pages, uint64_t before, const int32_t *token);
/* A page's tokens are not what they were. */
void spc_pages_forget(spc_pages *pages, int32_t page);

#endif
