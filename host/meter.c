/* SPDX-License-Identifier: Apache-2.0 */
/* meter.c - counting bytes of weights, and telling of them now and then. */
#include "meter.h"

#include "engine.h"

enum { TELL_PARTS = 100, TELL_NS = 100000000 };

static void tell(spc_meter *m, uint64_t done)
{
    m->told = done;
    m->told_ns = spc_now_ns();
    m->tell(m->user, done, m->total);
}

void spc_meter_open(spc_meter *m, spc_progress_fn fn, void *user, uint64_t total)
{
    *m = (spc_meter){.tell = fn, .user = user, .total = total};
    if (fn) tell(m, 0);
}

void spc_meter_part(spc_meter *m, uint64_t span, uint64_t size)
{
    m->done += m->span;
    m->span = span;
    m->size = size;
    m->taken = 0;
}

/* Of the whole, within the present part. */
static uint64_t done_by_now(const spc_meter *m)
{
    double share = m->size > 0 ? (double)m->taken / (double)m->size : 0;
    uint64_t of_part = (uint64_t)((double)m->span * share);

    return m->done + (of_part < m->span ? of_part : m->span);
}

void spc_meter_took(spc_meter *m, uint64_t bytes)
{
    uint64_t done;

    if (!m || !m->tell) return;
    m->taken = bytes < m->size - m->taken ? m->taken + bytes : m->size;
    done = done_by_now(m);
    if (done <= m->told || done >= m->total) return; /* the end is told when all is there */
    if (done - m->told < m->total / TELL_PARTS && spc_now_ns() - m->told_ns < TELL_NS) return;
    tell(m, done);
}

void spc_meter_close(spc_meter *m)
{
    if (m->tell) tell(m, m->total);
}
