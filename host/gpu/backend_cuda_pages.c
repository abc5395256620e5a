/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_pages.c - where the entries of slots lie: the device's tables of pages, and what the
 * host must know of them.
 *
 * Sequences that begin alike share pages, also where one of the models still lacks entries of them.
 * Each then writes those that it lacks, and all write the same bits.  Attention that writes the new
 * keys of its rows by itself may not do so where another row of the launch reads them: the host
 * keeps the tables, and says when rows meet. */
#include "backend_cuda.h"

#include <assert.h>
#include <stdlib.h>

static int32_t *table_of(const spc_runner *r, int32_t slot)
{
    return r->pages.table + (int64_t)slot * spc_pages_for(r->limits.context);
}

static size_t lay_out(spc_runner *r, char *base)
{
    const spc_limits *l = &r->limits;
    carver to = {base, 0};

    r->pages.table = carve(&to, times(times(sizeof(int32_t), l->slots), spc_pages_for(l->context)));
    r->pages.count = carve(&to, times(sizeof(int32_t), l->slots));
    r->pages.users = carve(&to, times(sizeof(int32_t), spc_limits_pages(l)));
    return to.used;
}

/* Every slot has its own. */
static void map_own(spc_runner *r)
{
    const spc_limits *l = &r->limits;

    spc_kv_own_table(r->pages.table, l);
    for (int64_t i = 0; i < spc_kv_own_pages(l); i++) r->pages.users[i] = 1;
    for (int32_t i = 0; i < l->slots; i++) {
        r->pages.count[i] = spc_pages_for(l->context);
        r->room[i] = l->context;
    }
}

spc_status spc_cuda_open_pages(spc_runner *r, const char *where, spc_error *err)
{
    size_t bytes = lay_out(r, NULL);

    if (bytes < CARVE_MOST) r->pages.memory = calloc(1, bytes);
    if (!r->pages.memory) {
        return spc_error_set(err, SPC_ENOMEM,
                             "%s: no memory on the host for the tables of pages (sessions %d, "
                             "context %d): lower either",
                             where, (int)r->limits.slots, (int)r->limits.context);
    }
    (void)lay_out(r, r->pages.memory);
    if (r->limits.pages == 0) map_own(r);
    return SPC_OK;
}

void spc_cuda_close_pages(spc_runner *r)
{
    free(r->pages.memory);
}

/* The slot has these pages now, and no others. */
static void note_pages(spc_runner *r, int32_t slot, const int32_t *page, int32_t count)
{
    cuda_pages *pages = &r->pages;
    int32_t *table = table_of(r, slot);

    for (int32_t i = 0; i < pages->count[slot]; i++) pages->users[table[i]]--;
    for (int32_t i = 0; i < count; i++) pages->users[table[i] = page[i]]++;
    pages->count[slot] = count;
}

/* The stream keeps the table in order with forwards, which read it where it always is. */
spc_status spc_cuda_map(spc_runner *r, int32_t slot, const int32_t *page, int32_t count,
                        int32_t length, spc_error *err)
{
    int32_t most = spc_pages_for(r->limits.context);
    spc_status status = spc_cuda_enter(r->backend, err);

    assert(slot >= 0 && slot < r->limits.slots && count >= 0 && count <= most);
    for (int32_t i = 0; i < count; i++)
        assert(page[i] >= 0 && page[i] < spc_limits_pages(&r->limits));
    if (status == SPC_OK && count > 0) {
        status = spc_cuda_copy(r->backend, r->cache.table + (int64_t)slot * most, page,
                               (size_t)count * sizeof *page, false, "table of pages", err);
    }
    note_pages(r, slot, page, count);
    r->room[slot] = spc_pages_room(count, r->limits.context);
    assert(length >= 0 && length <= r->room[slot]);
    r->length[slot] = length;
    r->serial[slot]++;
    return status;
}

/* Has the slot of another row this page, too?  Equal texts are in equal places of tables. */
static bool is_shared(const spc_runner *r, const cuda_rows *rows, int32_t count, int32_t slot,
                      int32_t at)
{
    const cuda_pages *pages = &r->pages;
    int32_t page = table_of(r, slot)[at];

    assert(at < pages->count[slot]);
    if (pages->users[page] < 2) return false;
    for (int32_t i = 0; i < count; i++) {
        int32_t other = rows->slot[i];

        if (other != slot && at < pages->count[other] && table_of(r, other)[at] == page) {
            return true;
        }
    }
    return false;
}

/* Positions of a round that follows another on the device are the highest they can be: they may
 * turn out to be lower by as many tokens as a round has. */
bool spc_cuda_rows_meet(const spc_runner *r, const cuda_rows *rows, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        int32_t last = rows->position[i] / SPC_PAGE_TOKENS;
        int32_t lowest = rows->position[i] - CUDA_LANE_DRAFTS;

        for (int32_t at = lowest > 0 ? lowest / SPC_PAGE_TOKENS : 0; at <= last; at++) {
            if (is_shared(r, rows, count, rows->slot[i], at)) return true;
        }
    }
    return false;
}
