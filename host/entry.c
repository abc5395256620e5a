/* SPDX-License-Identifier: Apache-2.0 */
/* entry.c - the engine's lock, and who must not wait for it.
 *
 * A mutex would not do: who steps in a loop takes it again before any thread that it has woken gets
 * to run, and a server's new sessions wait for as long as old ones decode.  So who leaves hands the
 * engine to the caller that has waited for longest. */
#include "entry.h"

#include "refuse.h"

#include <unistd.h>

static uintptr_t this_thread(void)
{
    return (uintptr_t)pthread_self();
}

void spc_entry_begin(spc_engine *engine)
{
    atomic_init(&engine->inside, 0);
    engine->process = (int64_t)getpid();
}

bool spc_entry_inside(const spc_engine *engine)
{
    return atomic_load(&engine->inside) == this_thread();
}

bool spc_entry_forked(const spc_engine *engine)
{
    return engine->process != (int64_t)getpid();
}

static void wait_in(spc_line *line)
{
    spc_caller self = {.turn = PTHREAD_COND_INITIALIZER};

    *(line->last ? &line->last->behind : &line->first) = &self;
    line->last = &self;
    while (!self.comes) (void)pthread_cond_wait(&self.turn, &line->lock);
    (void)pthread_cond_destroy(&self.turn);
}

static void take(spc_engine *engine)
{
    spc_line *line = &engine->line;

    (void)pthread_mutex_lock(&line->lock);
    if (line->taken) {
        wait_in(line); /* then it stays taken */
    } else {
        line->taken = true;
    }
    (void)pthread_mutex_unlock(&line->lock);
    atomic_store(&engine->inside, this_thread());
}

spc_status spc_entry_take(spc_engine *engine, spc_error *err)
{
    if (spc_entry_forked(engine)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "the engine was opened by another process (%lld), of which this one "
                             "is a fork: open one here",
                             (long long)engine->process);
    }
    if (spc_entry_inside(engine)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "called from a callback of this engine, which is in the middle of a "
                             "step: make the call after it");
    }
    take(engine);
    if (!engine->closed) return SPC_OK;
    spc_entry_leave(engine);
    return spc_error_set(err, SPC_EUSAGE,
                         "the engine has been closed: its sessions can only be read and closed");
}

bool spc_entry_take_to_close(spc_engine *engine)
{
    if (spc_entry_forked(engine) || spc_entry_inside(engine)) return false;
    take(engine);
    return true;
}

void spc_entry_leave(spc_engine *engine)
{
    spc_line *line = &engine->line;
    spc_caller *next;

    atomic_store(&engine->inside, 0);
    (void)pthread_mutex_lock(&line->lock);
    next = line->first;
    line->taken = next != NULL;
    if (next) {
        line->first = next->behind;
        if (!line->first) line->last = NULL;
        next->comes = true;
        (void)pthread_cond_signal(&next->turn);
    }
    (void)pthread_mutex_unlock(&line->lock);
}

spc_status spc_entry_given(const void *pointer, const char *name, spc_error *err)
{
    return pointer ? SPC_OK : spc_refuse_null(name, err);
}

spc_status spc_entry_array(const void *pointer, int32_t count, const char *name,
                           const char *count_name, spc_error *err)
{
    if (count < 0) {
        return spc_error_set(err, SPC_EUSAGE, "%s: expected 0 or more, found %d", count_name,
                             (int)count);
    }
    return count == 0 ? SPC_OK : spc_entry_given(pointer, name, err);
}
