/* SPDX-License-Identifier: Apache-2.0 */
/* flow.cpp - which lanes of a warp go where: branches, calls, barriers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fibers/fibers.h"
#include "ptx.h"

namespace ptx
{
namespace
{

enum { TURN = 2000 }; /* instructions of a warp before others have theirs */

void set_base(warp &w)
{
    w.base[REGISTERS] = w.now.registers;
    w.base[CONSTANTS] = (char *)w.now.f->constants.data();
}

uint32_t place_of(const warp &w, const instr &i)
{
    return (uint32_t)(&i - w.now.code);
}

/* The active lanes are nowhere any more. */
void leave(warp &w)
{
    w.now.active = 0;
    w.now.limit = 0;
}

/* All lanes of a function have returned from it. */
void go_back(warp &w)
{
    const char *const from = w.now.memory;
    const size_t from_bytes = w.now.f->lane_bytes;

    w.now = w.callers.back();
    w.callers.pop_back();
    set_base(w);

    const instr &i = w.now.code[w.now.pc - 1];

    for_lanes(w.now.active, [&](unsigned l) {
        for (size_t k = 3 * i.count; k < i.moved.size(); k += 3) {
            memcpy(memory_of(w, l) + i.moved[k], from + l * from_bytes + i.moved[k + 1],
                   i.moved[k + 2]);
        }
    });
}

/* Choose the lanes that go on: those that are behind.  false: none is left. */
bool regroup(warp &w)
{
    flow &now = w.now;
    uint32_t ready, least = NOWHERE;

    for (uint32_t mask = now.active; mask; mask &= mask - 1) {
        now.lane_pc[__builtin_ctz(mask)] = now.pc;
    }
    if (now.alive == 0) {
        if (w.callers.empty()) return false;
        go_back(w);
        return true;
    }
    ready = now.alive & ~now.waiting;
    if (ready == 0) { /* they wait for those that have returned meanwhile */
        if (w.forced)
            fail(w, now.code[now.lane_pc[__builtin_ctz(now.alive)]], "lanes wait in vain");
        w.forced = true;
        ready = now.alive;
    }
    for (uint32_t mask = ready; mask; mask &= mask - 1) {
        const uint32_t pc = now.lane_pc[__builtin_ctz(mask)];

        if (pc < least) least = pc;
    }
    now.pc = least;
    now.active = 0;
    now.limit = NOWHERE;
    for (uint32_t mask = ready; mask; mask &= mask - 1) {
        const unsigned l = (unsigned)__builtin_ctz(mask);

        if (now.lane_pc[l] == least) {
            now.active |= 1u << l;
        } else if (now.lane_pc[l] < now.limit && !(now.waiting >> l & 1)) {
            now.limit = now.lane_pc[l];
        }
    }
    now.waiting &= ~now.active;
    return true;
}

} // namespace

void fail(const warp &w, const instr &i, const char *what)
{
    fprintf(stderr, "ptx: %s: kernel %s, block %u, threads from %u on, lanes %08x:\n    %.*s\n",
            what, w.in->kernel->name.c_str(), w.in->number,
            (unsigned)(&w - w.in->warps.data()) * LANES, w.now.active, (int)i.length, i.text);
    abort();
}

void enter(warp &w, const function *f, uint32_t lanes)
{
    const size_t depth = w.callers.size();

    if (w.registers.size() <= depth) {
        w.registers.resize(depth + 1);
        w.memory.resize(depth + 1);
    }
    if (w.registers[depth].size() < f->registers) w.registers[depth].resize(f->registers, -1);
    w.memory[depth].assign(f->lane_bytes * LANES, -1);
    w.now = {};
    w.now.f = f;
    w.now.code = f->code.data();
    w.now.limit = NOWHERE;
    w.now.active = w.now.alive = lanes;
    w.now.registers = w.registers[depth].data();
    w.now.memory = w.memory[depth].data();
    set_base(w);
}

void run_warp(warp &w)
{
    w.stop = false;
    for (unsigned left = TURN; left > 0 && !w.stop; left--) {
        if (w.now.pc >= w.now.limit && !regroup(w)) {
            w.is = WARP_ENDED;
            return;
        }

        const instr &i = w.now.code[w.now.pc++];

        i.run(w, i);
    }
}

bool meet(warp &w, const instr &i, uint32_t together)
{
    flow &now = w.now;
    const uint32_t pc = place_of(w, i);
    uint32_t here = now.active;

    for (uint32_t mask = now.waiting; mask; mask &= mask - 1) {
        const unsigned l = (unsigned)__builtin_ctz(mask);

        if (now.lane_pc[l] == pc) here |= 1u << l;
    }
    if ((together & ~here) == 0) {
        now.waiting &= ~here;
        now.active = here;
        w.forced = false;
        return true;
    }
    for (uint32_t mask = now.active; mask; mask &= mask - 1) {
        now.lane_pc[__builtin_ctz(mask)] = pc;
    }
    now.waiting |= now.active;
    leave(w);
    return false;
}

/* ---- handlers -------------------------------------------------------------------------------- */

void branch(warp &w, const instr &i)
{
    w.now.pc = i.target;
}

/* These lanes go to the target, the others on. */
static void part(warp &w, const instr &i, uint32_t taken)
{
    flow &now = w.now;

    taken &= now.active;
    if (taken == now.active) {
        now.pc = i.target;
    } else if (taken != 0) {
        for (uint32_t mask = now.active; mask; mask &= mask - 1) {
            const unsigned l = (unsigned)__builtin_ctz(mask);

            now.lane_pc[l] = taken >> l & 1 ? i.target : now.pc;
        }
        leave(w);
    }
}

void branch_if(warp &w, const instr &i)
{
    part(w, i, mask_of(array<uint32_t>(w, i.guard)));
}

void branch_unless(warp &w, const instr &i)
{
    part(w, i, ~mask_of(array<uint32_t>(w, i.guard)));
}

void guard(warp &w, const instr &i)
{
    const uint32_t active = w.now.active, holds = mask_of(array<uint32_t>(w, i.guard));

    w.now.active &= i.unless ? ~holds : holds;
    if (w.now.active) i.guarded(w, i);
    w.now.active = active;
}

void call(warp &w, const instr &i)
{
    const flow from = w.now;

    if (!i.callee) {
        for_lanes(from.active, [&](unsigned l) {
            cudaGraphConditionalHandle handle;
            unsigned value;

            memcpy(&handle, memory_of(w, l) + i.moved[0], sizeof handle);
            memcpy(&value, memory_of(w, l) + i.moved[3], sizeof value);
            cudaGraphSetConditional(handle, value);
        });
        return;
    }
    w.callers.push_back(from);
    enter(w, i.callee, from.active);
    for_lanes(from.active, [&](unsigned l) {
        for (size_t k = 0; k < 3u * i.count; k += 3) {
            memcpy(memory_of(w, l) + i.moved[k + 1],
                   from.memory + l * from.f->lane_bytes + i.moved[k], i.moved[k + 2]);
        }
    });
}

void give_back(warp &w, const instr &)
{
    w.now.alive &= ~w.now.active;
    leave(w);
}

/* All lanes of the warp that have not ended. */
static uint32_t all_of(const warp &w)
{
    return w.callers.empty() ? w.now.alive : w.callers[0].alive;
}

void barrier(warp &w, const instr &i)
{
    if (!meet(w, i, all_of(w))) return;
    w.at = &i;
    w.ballot = false;
    w.is = WARP_AT_BARRIER;
    w.stop = true;
}

void barrier_or(warp &w, const instr &i)
{
    if (!meet(w, i, all_of(w))) return;
    w.at = &i;
    w.ballot = (mask_of(array<uint32_t>(w, i.o[1])) & w.now.active) != 0;
    w.is = WARP_AT_BARRIER;
    w.stop = true;
}

void meet_warp(warp &w, const instr &i)
{
    const uint32_t *const mask = array<uint32_t>(w, i.o[0]);

    (void)meet(w, i, mask[__builtin_ctz(w.now.active)] & all_of(w));
}

void sleep(warp &w, const instr &)
{
    w.stop = true;
}

void await_previous(warp &w, const instr &i)
{
    if (!w.in->before_previous) return;
    if (!meet(w, i, all_of(w))) return;
    if (w.now.active != w.all) fail(w, i, "some lanes have ended and did not wait");
    w.is = WARP_AT_PREVIOUS;
    w.stop = true;
}

} // namespace ptx
