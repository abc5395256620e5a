/* SPDX-License-Identifier: Apache-2.0 */
/* pagecheck.h - what is true of the pages of KV caches at any time. */
#ifndef SPC_TESTS_PAGECHECK_H
#define SPC_TESTS_PAGECHECK_H

#include "host/pages.h"

#include <criterion/criterion.h>

/* Every page is used as often as it stands in tables, or is free, once; it can be found by what it
 * holds if that is known.
 *
 * uses   [count] how often each stands in tables */
static inline void check_pages(const spc_pages *p, const int32_t *uses)
{
    int32_t before = -1, free = 0;

    for (int32_t i = p->oldest; i >= 0; i = p->page[i].newer) {
        cr_assert_eq(p->page[i].older, before);
        cr_assert_eq(p->page[i].users, 0, "page %d is free and used", (int)i);
        cr_assert_lt(free++, p->count, "a circle");
        before = i;
    }
    cr_assert_eq(p->newest, before);
    cr_assert_eq(free, p->free);
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t *token = p->token + (int64_t)i * SPC_PAGE_TOKENS;
        int32_t found = -1;

        cr_assert_eq(p->page[i].users, uses[i], "page %d: %d users, in %d tables", (int)i,
                     (int)p->page[i].users, (int)uses[i]);
        free += uses[i] > 0;
        if (p->page[i].name) found = spc_pages_find(p, p->page[i].before, token);
        cr_assert(!p->page[i].name || (found >= 0 && p->page[found].name == p->page[i].name));
    }
    cr_assert_eq(free, p->count, "a page is nowhere");
}

#endif
