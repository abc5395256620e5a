/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of KV caches: none is given twice, none is lost, and what is found is what was looked for,
 * whoever comes and goes. */
#include "pagecheck.h"

#include <stdlib.h>
#include <string.h>

Test(host_pages, those_that_were_free_longest_go_first_and_nameless_ones_before_them)
{
    int32_t token[3 * SPC_PAGE_TOKENS] = {1, 2, 3}, page[4];
    uint64_t name = 0;
    spc_pages p;

    cr_assert(spc_pages_open(&p, 4));
    for (int32_t i = 0; i < 4; i++) cr_expect_eq(page[i] = spc_pages_take(&p), i);
    cr_expect_eq(p.free, 0);
    for (int32_t i = 0; i < 3; i++) {
        name = spc_pages_name(&p, page[i], name, token + i * SPC_PAGE_TOKENS);
    }
    for (int32_t i = 4; i-- > 0;) spc_pages_drop(&p, page[i]);
    cr_expect_eq(spc_pages_find(&p, 0, token), 0);
    cr_expect_eq(spc_pages_take(&p), 3, "nobody can find it");
    cr_expect_eq(spc_pages_take(&p), 2, "of no use without those before it");
    cr_expect_eq(spc_pages_find(&p, 0, token), 0, "is there still");
    spc_pages_share(&p, 0);
    cr_expect_eq(spc_pages_take(&p), 1);
    cr_expect_eq(p.free, 0, "who shares a page keeps it");
    spc_pages_close(&p);
}

Test(host_pages, equal_names_are_equal_texts)
{
    int32_t a[SPC_PAGE_TOKENS] = {1}, b[SPC_PAGE_TOKENS] = {2};
    uint64_t name[6];
    spc_pages p;

    cr_assert(spc_pages_open(&p, 6));
    for (int32_t i = 0; i < 6; i++) cr_assert_eq(spc_pages_take(&p), i);
    name[0] = spc_pages_name(&p, 0, 0, a);
    name[1] = spc_pages_name(&p, 1, 0, b);
    name[2] = spc_pages_name(&p, 2, name[0], b);
    name[3] = spc_pages_name(&p, 3, name[1], b);
    name[4] = spc_pages_name(&p, 4, 0, a);
    name[5] = spc_pages_name(&p, 5, name[4], b);
    cr_expect(name[0] == name[4] && name[2] == name[5], "run twice");
    cr_expect(name[0] != name[1] && name[2] != name[3], "the same page behind others");
    spc_pages_forget(&p, 4);
    cr_expect_eq(spc_pages_find(&p, 0, a), 0, "the other one has it too");
    spc_pages_forget(&p, 0);
    cr_expect_eq(spc_pages_find(&p, 0, a), -1);
    cr_expect_neq(spc_pages_name(&p, 0, 0, a), name[4], "a name is given once");
    spc_pages_close(&p);
}

/* Sessions that ran the same text side by side leave a page each. */
Test(host_pages, of_equal_pages_the_one_that_saves_most_is_found)
{
    enum { BOTH = SPC_HELD_VERIFIER | SPC_HELD_DRAFTER };
    int32_t token[SPC_PAGE_TOKENS] = {1};
    spc_pages p;

    cr_assert(spc_pages_open(&p, 3));
    for (int32_t i = 0; i < 3; i++) {
        cr_assert_eq(spc_pages_take(&p), i);
        (void)spc_pages_name(&p, i, 0, token);
        p.page[i].held = SPC_HELD_VERIFIER;
    }
    cr_expect_eq(spc_pages_find(&p, 0, token), 2, "the last");
    spc_pages_drop(&p, 2);
    cr_expect_eq(spc_pages_find(&p, 0, token), 1, "the other is free: to share costs nothing");
    p.page[0].held = BOTH;
    cr_expect_eq(spc_pages_find(&p, 0, token), 0, "nothing is left to run");
    spc_pages_drop(&p, 0);
    cr_expect_eq(spc_pages_find(&p, 0, token), 0, "a page is cheaper than a forward");
    p.page[1].held = BOTH;
    cr_expect_eq(spc_pages_find(&p, 0, token), 1);
    spc_pages_close(&p);
}

/* What is behind the context is no room. */
Test(host_pages, pages_are_room_up_to_the_end_of_the_context)
{
    enum { P = SPC_PAGE_TOKENS };

    cr_expect_eq(spc_pages_room(0, 2 * P + 3), 0);
    cr_expect_eq(spc_pages_room(2, 2 * P + 3), 2 * P);
    cr_expect_eq(spc_pages_room(3, 2 * P + 3), 2 * P + 3);
    cr_expect_eq(spc_pages_room(4, 2 * P + 3), 2 * P + 3);
    cr_expect_eq(spc_pages_room(2, 2 * P), 2 * P);
}

Test(host_pages, there_is_at_least_one_and_no_more_than_can_be_counted)
{
    spc_pages p;

    cr_expect_not(spc_pages_open(&p, 0));
    spc_pages_close(&p);
    cr_expect_not(spc_pages_open(&p, (int64_t)INT32_MAX / SPC_PAGE_TOKENS + 1));
    spc_pages_close(&p);
    cr_expect_eq(spc_pages_for(0), 0);
    cr_expect_eq(spc_pages_for(16), 1);
    cr_expect_eq(spc_pages_for(17), 2);
    cr_expect_eq(spc_pages_for(INT32_MAX), 1 << 27);
}

/* ---- coming and going ---- */

enum { PAGES = 40, TABLES = 9, LONGEST = 8 };

typedef struct {
    int32_t page[LONGEST], text[LONGEST]; /* text: which of few texts of a page */
    int32_t count, named;                 /* 0: nobody */
} table;

typedef struct {
    spc_pages pages;
    table table[TABLES];
    int32_t held[PAGES][LONGEST + 1]; /* what was written into a page: the texts up to it, -1 */
    uint32_t state;
    int32_t shared;
} house;

static int32_t roll(house *h, int32_t sides)
{
    h->state = h->state * 1664525u + 1013904223u;
    return (int32_t)(h->state >> 8) % sides;
}

static void write_text(int32_t text, int32_t *token)
{
    for (int32_t i = 0; i < SPC_PAGE_TOKENS; i++) token[i] = text + (i == text ? 7 : 0);
}

static uint64_t name_before(const house *h, const table *t, int32_t i)
{
    return i > 0 ? h->pages.page[t->page[i - 1]].name : 0;
}

/* A text of random pages; those that are there are shared, the others taken and written. */
static void come(house *h, table *t)
{
    int32_t token[SPC_PAGE_TOKENS], count = 1 + roll(h, LONGEST), found = 0, page = 0;

    for (int32_t i = 0; i < count; i++) t->text[i] = roll(h, 3);
    for (uint64_t name = 0; found < count; found++) {
        write_text(t->text[found], token);
        page = spc_pages_find(&h->pages, name, token);
        if (page < 0) break;
        for (int32_t i = 0; i <= found; i++) {
            cr_assert_eq(h->held[page][i], t->text[i], "another text was found");
        }
        cr_assert_eq(h->held[page][found + 1], -1);
        name = h->pages.page[page].name;
        t->page[found] = page;
    }
    t->count = t->named = 0;
    for (int32_t i = 0, new_ones = count - found; i < found; i++) {
        new_ones += h->pages.page[t->page[i]].users == 0;
        if (i + 1 == found && new_ones > h->pages.free) return;
    }
    if (found == 0 && count > h->pages.free) return;
    h->shared += found;
    for (; t->count < found; t->count++) spc_pages_share(&h->pages, t->page[t->count]);
    for (t->named = found; t->count < count; t->count++) {
        page = t->page[t->count] = spc_pages_take(&h->pages);
        memcpy(h->held[page], t->text, sizeof t->text);
        h->held[page][t->count + 1] = -1;
    }
}

static void leave(house *h, table *t, int32_t kept)
{
    while (t->count > kept) spc_pages_drop(&h->pages, t->page[--t->count]);
    if (t->named > kept) t->named = kept;
}

Test(host_pages, none_is_given_twice_or_lost_by_thousands_who_come_and_go)
{
    static house h;
    int32_t uses[PAGES], token[SPC_PAGE_TOKENS];

    h.state = 5;
    cr_assert(spc_pages_open(&h.pages, PAGES));
    for (int32_t step = 0; step < 20000; step++) {
        table *t = &h.table[roll(&h, TABLES)];

        if (t->count == 0) {
            come(&h, t);
        } else if (t->named < t->count && roll(&h, 2) == 0) {
            write_text(t->text[t->named], token);
            (void)spc_pages_name(&h.pages, t->page[t->named], name_before(&h, t, t->named), token);
            t->named++;
        } else if (roll(&h, 8) == 0 && h.pages.page[t->page[t->count - 1]].users == 1) {
            spc_pages_forget(&h.pages, t->page[t->count - 1]); /* to be written anew */
            if (t->named == t->count) t->named--;
        } else if (roll(&h, 3) == 0) {
            leave(&h, t, roll(&h, t->count + 1));
        }
        memset(uses, 0, sizeof uses);
        for (int32_t i = 0; i < TABLES; i++) {
            for (int32_t k = 0; k < h.table[i].count; k++) uses[h.table[i].page[k]]++;
        }
        check_pages(&h.pages, uses);
    }
    cr_expect_gt(h.shared, 2000, "%d", (int)h.shared);
    for (int32_t i = 0; i < TABLES; i++) leave(&h, &h.table[i], 0);
    cr_expect_eq(h.pages.free, PAGES);
    spc_pages_close(&h.pages);
}
