/* SPDX-License-Identifier: Apache-2.0 */
/* run.cpp - the scheduler: in place of that of tests/fibers, whose launches it executes.
 *
 * Blocks run one after the other; those that wait for each other, by turns, as dice fall.  So do
 * the warps of a block: one may have come to its next barrier before another has begun. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fibers/fibers.h"
#include "launch.h"

namespace ptx
{
namespace
{

enum { WINDOW_ALIGN = 256 };

/* A launch as it is sent. */
struct sent {
    uint64_t number;
    alignas(16) char arguments[4096];
};

size_t sent_bytes(const function *f)
{
    return offsetof(sent, arguments) + f->argument_bytes;
}

/* What fiber_submit is given: never called. */
void kernel_body(void *)
{
    abort();
}

/* ---- blocks ---------------------------------------------------------------------------------- */

void set_special(warp &w, special which, uint32_t value)
{
    for (unsigned l = 0; l < LANES; l++) w.specials[which * LANES + l] = value;
}

void begin_block(block &b, const function *f, const char *arguments, unsigned number,
                 unsigned blocks, unsigned threads)
{
    b.kernel = f;
    b.arguments = arguments;
    b.number = number;
    b.memory.assign(f->shared + WINDOW_ALIGN, -1);
    b.shared = b.memory.data();
    b.shared += WINDOW_ALIGN - (uintptr_t)b.shared % WINDOW_ALIGN;
    b.warps.resize((threads + LANES - 1) / LANES);
    for (size_t k = 0; k < b.warps.size(); k++) {
        warp &w = b.warps[k];
        const unsigned first = (unsigned)k * LANES, left = threads - first;

        w.in = &b;
        w.is = WARP_RUNS;
        w.forced = false;
        w.callers.clear();
        w.copies.clear();
        memset(w.groups, 0, sizeof w.groups);
        w.specials.resize(SPECIAL_COUNT * LANES);
        w.base[SPECIALS] = (char *)w.specials.data();
        for (unsigned l = 0; l < LANES; l++) w.specials[TID * LANES + l] = first + l;
        set_special(w, NTID, threads);
        set_special(w, CTAID, number);
        set_special(w, NCTAID, blocks);
        w.all = left >= LANES ? ALL : (1u << left) - 1;
        enter(w, f, w.all);
    }
}

/* Let a block pass its barrier if all warps stand there that have not ended. */
bool pass_barrier(block &b)
{
    const instr *first = nullptr;
    bool any = false;

    for (warp &w : b.warps) {
        if (w.is != WARP_AT_BARRIER && w.is != WARP_ENDED) return false;
        if (w.is == WARP_ENDED) continue;
        any = any || w.ballot;
        if (first && (first->run == barrier) != (w.at->run == barrier)) {
            fail(w, *w.at, "warps are at different barriers");
        }
        first = w.at;
    }
    if (!first) return false;
    for (warp &w : b.warps) {
        if (w.is == WARP_ENDED) continue;
        if (w.at->run == barrier_or) {
            uint32_t *const d = array<uint32_t>(w, w.at->o[0]);

            for_lanes(w.now.active, [=](unsigned l) { d[l] = any ? ALL : 0; });
        }
        w.is = WARP_RUNS;
    }
    return true;
}

/* A turn for some of its warps; false: it has ended, or waits for the kernel in front. */
bool run_block(block &b)
{
    bool any = false, before = false;

    for (warp &w : b.warps) {
        if (w.is != WARP_RUNS) continue;
        any = true;
        if (fiber_toss()) run_warp(w);
    }
    if (pass_barrier(b) || any) return true;
    for (warp &w : b.warps) before = before || w.is == WARP_AT_PREVIOUS;
    for (warp &w : b.warps) {
        if (w.is == WARP_AT_BARRIER && !before) fail(w, *w.at, "warps wait in vain");
    }
    return false;
}

void go_on(block *b, size_t count)
{
    bool running = true;

    while (running) {
        running = false;
        for (size_t k = 0; k < count; k++) {
            if (count > 1 && fiber_toss()) {
                running = true;
                continue;
            }
            running = run_block(b[k]) || running;
        }
    }
}

block pool[FIBER_BLOCKS], begun[2];
int begun_first, begun_count;

const function *function_of(const sent *s)
{
    const kernel &k = kernel_at(s->number);
    const function *f = ptx::find(k.of, k.name);

    if (!f) {
        fprintf(stderr, "ptx: no text of %s\n", k.name);
        abort();
    }
    return f;
}

/* All blocks but those from `from` to `to`. */
void run_blocks(const sent *s, int blocks, int threads, int from, int to)
{
    const function *f = function_of(s);
    const int most = !f->waits ? 1 : fiber_gpu.room > 0 ? fiber_gpu.room : FIBER_BLOCKS;

    if (f->waits && blocks > fiber_gpu.together) fiber_gpu.together = blocks;
    for (int next = 0; next < blocks;) {
        int count = 0;

        for (; next < blocks && count < most; next++) {
            if (next >= from && next < to) continue;
            pool[count].before_previous = false;
            begin_block(pool[count++], f, s->arguments, (unsigned)next, (unsigned)blocks,
                        (unsigned)threads);
        }
        go_on(pool, (size_t)count);
    }
}

} // namespace

int submit(const void *host, const kernel *k, unsigned blocks, unsigned threads,
           const void *const *arguments, bool early, void *stream)
{
    const function *f;
    sent s;

    memset(&s, 0, sizeof s); /* where memory is guarded every word is looked at */
    {
        std::lock_guard<std::mutex> lock(fiber_turn);

        s.number = number_of(k);
        f = function_of(&s);
    }
    if (f->argument_bytes > sizeof s.arguments) return cudaErrorInvalidValue;
    if (f->max_threads != 0 && threads > f->max_threads) return cudaErrorInvalidConfiguration;
    memset(s.arguments, -1, sizeof s.arguments);
    for (size_t a = 0; a < f->in.size(); a += 2) {
        memcpy(s.arguments + f->in[a], arguments[a / 2], f->in[a + 1]);
    }
    fiber_on((cudaStream_t)stream);
    return fiber_submit(host, (int)blocks, (int)threads, false, early, kernel_body, &s,
                        sent_bytes(f));
}

} // namespace ptx

/* ---- what tests/fibers asks of a scheduler --------------------------------------------------- */

using namespace ptx;

bool fiber_toss(void)
{
    static uint32_t dice = 1;

    dice = dice * 1664525u + 1013904223u;
    return dice >> 31;
}

void fiber_run(int blocks, int threads, bool, void (*)(void *), void *user)
{
    fiber_at_work();
    run_blocks((const sent *)user, blocks, threads, 0, 0);
    fiber_at_rest();
}

void fiber_begin_early(int blocks, int threads, void (*)(void *), void *user)
{
    static uint32_t which = 1;
    const function *f = function_of((const sent *)user);

    which = which * 1664525u + 1013904223u;
    begun_count = FIBER_CODE < 90 ? 0 : blocks < 2 ? blocks : 2; /* older code does not wait */
    begun_first = (int)((which >> 8) % (unsigned)(blocks - begun_count + 1));
    fiber_at_work();
    for (int k = 0; k < begun_count; k++) {
        begun[k].before_previous = true;
        begin_block(begun[k], f, ((const sent *)user)->arguments, (unsigned)(begun_first + k),
                    (unsigned)blocks, (unsigned)threads);
        go_on(&begun[k], 1);
        for (warp &w : begun[k].warps) {
            if (w.is == WARP_AT_PREVIOUS) continue;
            fprintf(stderr, "ptx: a thread that began early does not wait: %s\n", f->name.c_str());
            abort();
        }
    }
    fiber_at_rest();
}

void fiber_end_early(int blocks, int threads, void (*)(void *), void *user)
{
    fiber_at_work();
    run_blocks((const sent *)user, blocks, threads, begun_first, begun_first + begun_count);
    for (int k = 0; k < begun_count; k++) {
        begun[k].before_previous = false;
        for (warp &w : begun[k].warps) w.is = WARP_RUNS;
        go_on(&begun[k], 1);
    }
    fiber_at_rest();
}
