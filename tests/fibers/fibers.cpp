/* SPDX-License-Identifier: Apache-2.0 */
/* fibers.cpp - the scheduler: runs every fiber up to its next barrier, then lets all of them pass.
 *
 * Blocks run one after the other, or several by turns: then a block runs in one round and rests in
 * another as dice fall, so that blocks that work on each other's behalf meet in many ways.  So do
 * the warps of a block between two barriers, and lanes run up or down: what lacks a barrier shows.
 *
 * Of a kernel of a graph that may begin before the one in front has ended, two blocks do, as far as
 * they may: what they read too early shows.
 *
 * A fiber is entered once, by swapcontext; from then on it and the scheduler jump to each other,
 * which takes no system call.  Its stack serves one block after the other. */
#include <memory>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#include "fibers.h" /* last: see there */

fiber_index threadIdx, blockIdx, gridDim;

namespace
{

std::vector<fiber> fibers; /* of all blocks that run together */
size_t width;              /* threads of a block */
size_t current;            /* index of the fiber that runs */
thread_local bool inside;  /* one does, of the thread that asks */
uint32_t dice = 1;
ucontext_t first_return;
jmp_buf scheduler;
void (*body)(void *);
void *body_user;
int ballot_result[FIBER_BLOCKS];

void wait_at(fiber_wait kind)
{
    fiber &self = fibers[current];

    self.wait = kind;
    if (_setjmp(self.here) == 0) _longjmp(scheduler, 1);
}

/* Block after block. */
void enter()
{
    for (;;) {
        body(body_user);
        wait_at(ENDED);
    }
}

/* Run a fiber up to its next wait. */
void resume(size_t i)
{
    fiber &f = fibers[i];

    current = i;
    threadIdx.x = (unsigned)(i % width);
    inside = true;
    if (_setjmp(scheduler) != 0) {
        inside = false;
        return;
    }
    if (f.entered) _longjmp(f.here, 1);
    f.entered = true;
    swapcontext(&first_return, &f.context);
}

/* Can the fibers [from, to) pass a barrier of this kind?  All that have not ended must stand there.
 */
bool all_wait(size_t from, size_t to, fiber_wait kind)
{
    bool any = false;

    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait == ENDED) continue;
        if (fibers[i].wait != kind) return false;
        any = true;
    }
    return any;
}

void release(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait != ENDED) fibers[i].wait = RUNS;
    }
}

/* Let go of every barrier of a block that is complete; false when there is none. */
bool pass_barriers(size_t block)
{
    const size_t from = block * width, to = from + width;
    bool passed = false;

    for (size_t warp = from; warp < to; warp += FIBER_WARP) {
        if (!all_wait(warp, warp + FIBER_WARP, AT_WARP)) continue;
        if (fibers[warp].orders) fiber_races_meet(&fibers[warp], FIBER_WARP, false);
        release(warp, warp + FIBER_WARP);
        passed = true;
    }
    if (!passed && all_wait(from, to, AT_BLOCK)) {
        ballot_result[block] = 0;
        for (size_t i = from; i < to; i++) {
            ballot_result[block] |= fibers[i].wait == AT_BLOCK && fibers[i].ballot;
        }
        fiber_races_meet(&fibers[from], width, true);
        release(from, to);
        passed = true;
    }
    return passed;
}

} // namespace

bool fiber_toss(void)
{
    dice = dice * 1664525u + 1013904223u;
    return dice >> 31;
}

namespace
{

/* Let the threads of a warp run up to their next barrier, from the first or from the last on. */
void run_warp(size_t from, size_t count)
{
    const bool down = fiber_toss();

    for (size_t k = 0; k < count; k++) {
        const size_t i = from + (down ? count - 1 - k : k);

        if (fibers[i].wait == RUNS) resume(i);
    }
}

/* Let some warps of a block run up to their next barrier: one may be there before another has
 * begun, as on a device.  false: the block has ended. */
bool run_block(size_t block)
{
    const size_t from = block * width, to = from + width;
    bool ran = false;

    for (size_t warp = from; warp < to; warp += FIBER_WARP) {
        const size_t end = warp + FIBER_WARP < to ? warp + FIBER_WARP : to;
        bool runs = false;

        for (size_t i = warp; i < end; i++) runs = runs || fibers[i].wait == RUNS;
        ran = ran || runs;
        if (runs && fiber_toss()) run_warp(warp, end - warp);
    }
    if (pass_barriers(block) || ran) return true;
    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait == AT_PREVIOUS) return false;
    }
    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait == ENDED) continue;
        fprintf(stderr, "fibers: deadlock: threads wait at different barriers\n");
        abort();
    }
    return false;
}

/* Blocks first .. first + count - 1, until all have ended, or wait for the kernel in front.
 *
 * at   where the fibers of the first of them begin, in blocks */
void go_on(int first, int count, int at = 0)
{
    bool running = true;

    while (running) {
        running = false;
        for (int b = 0; b < count; b++) {
            if (count > 1 && fiber_toss()) {
                running = true;
                continue;
            }
            blockIdx.x = (unsigned)(first + b);
            running = run_block((size_t)(at + b)) || running;
        }
    }
}

/* The same from their beginning. */
void run_blocks(int first, int count)
{
    for (size_t i = 0; i < (size_t)count * width; i++) {
        fibers[i].wait = RUNS;
        fibers[i].shuffles = 0;
        fibers[i].copies.clear();
        fiber_races_begin(&fibers[i]);
    }
    go_on(first, count);
}

/* Blocks of a kernel that have begun before the one in front has ended: their fibers, while others
 * run. */
struct early_blocks {
    std::vector<fiber> fibers;
    size_t width;
    int first, count;
};

early_blocks begun;
bool before_previous; /* the fibers that run began early */

/* Let the others' fibers be those that run. */
void swap_fibers()
{
    std::swap(fibers, begun.fibers);
    std::swap(width, begun.width);
}

} // namespace

void fiber_copy_by_itself(void *to, const void *from, size_t bytes)
{
    fiber &self = fibers[current];

    fiber_touch(from, bytes, false);
    fiber_touch(to, bytes, true);
    if (fiber_toss()) {
        memcpy(to, from, bytes);
    } else {
        self.copies.push_back({to, from, bytes, self.groups});
    }
}

void fiber_end_copies(void)
{
    fibers[current].groups++;
}

void fiber_wait_copies(unsigned later)
{
    fiber &self = fibers[current];
    size_t left = 0;

    for (const fiber_copy &c : self.copies) {
        if (c.group + later < self.groups) {
            fiber_touch(c.to, c.bytes, true);
            memcpy(c.to, c.from, c.bytes);
        } else {
            self.copies[left++] = c;
        }
    }
    self.copies.resize(left);
}

void fiber_await_previous(void)
{
    if (before_previous) wait_at(AT_PREVIOUS);
}

void __syncthreads(void)
{
    fibers[current].ballot = 0;
    wait_at(AT_BLOCK);
}

int __syncthreads_or(int value)
{
    const size_t self = current;

    fibers[self].ballot = value;
    wait_at(AT_BLOCK);
    return ballot_result[self / width];
}

void __syncwarp(void)
{
    fibers[current].orders = true;
    wait_at(AT_WARP);
}

void fiber_meet_warp(void)
{
    fibers[current].orders = false;
    wait_at(AT_WARP);
}

fiber *fiber_running(unsigned *thread)
{
    if (!inside) return nullptr;
    if (thread) *thread = (unsigned)(current % width);
    return &fibers[current];
}

fiber *fiber_warp(unsigned *lane)
{
    *lane = (unsigned)(current % FIBER_WARP);
    return &fibers[current / FIBER_WARP * FIBER_WARP];
}

void __nanosleep(unsigned)
{
    wait_at(RUNS);
}

/* Have fibers for so many blocks of a kernel. */
static void prepare(int blocks, int count, int threads, void (*run)(void *user), void *user)
{
    const size_t wanted = (size_t)threads * (size_t)count;

    if (width != (size_t)threads || fibers.size() < wanted) {
        fibers = std::vector<fiber>(wanted);
        for (fiber &f : fibers) {
            f.stack.reset(new char[FIBER_STACK]);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.get();
            f.context.uc_stack.ss_size = FIBER_STACK;
            f.context.uc_link = nullptr;
            makecontext(&f.context, enter, 0);
        }
    }
    width = (size_t)threads;
    gridDim.x = (unsigned)blocks;
    body = run;
    body_user = user;
}

void fiber_run(int blocks, int threads, bool together, void (*run)(void *user), void *user)
{
    const int count = !together ? 1 : blocks < FIBER_BLOCKS ? blocks : FIBER_BLOCKS;

    if (together && blocks > FIBER_BLOCKS) {
        fprintf(stderr, "fibers: %d blocks cannot run together\n", blocks);
        abort();
    }
    prepare(blocks, count, threads, run, user);
    fiber_races_launch();
    fiber_at_work();
    for (int block = 0; block < blocks; block += count) run_blocks(block, count);
    fiber_at_rest();
}

void fiber_begin_early(int blocks, int threads, void (*run)(void *user), void *user)
{
    static uint32_t which = 1;

    which = which * 1664525u + 1013904223u;
    begun.count = blocks < 2 ? blocks : 2;
    begun.first = (int)((which >> 8) % (unsigned)(blocks - begun.count + 1));
    swap_fibers();
    prepare(blocks, begun.count, threads, run, user);
    before_previous = true;
    fiber_races_launch();
    fiber_at_work();
    run_blocks(begun.first, begun.count);
    fiber_at_rest();
    before_previous = false;
    for (size_t i = 0; i < (size_t)begun.count * width; i++) {
        if (fibers[i].wait != ENDED) continue;
        fprintf(stderr, "fibers: a thread of a kernel that began early does not wait\n");
        abort();
    }
    swap_fibers();
}

void fiber_end_early(int blocks, int threads, void (*run)(void *user), void *user)
{
    prepare(blocks, 1, threads, run, user);
    fiber_races_launch();
    fiber_at_work();
    for (int block = 0; block < blocks; block++) {
        if (block < begun.first || block >= begun.first + begun.count) run_blocks(block, 1);
    }
    swap_fibers();
    release(0, (size_t)begun.count * width);
    for (int b = 0; b < begun.count; b++) go_on(begun.first + b, 1, b); /* they share memory */
    fiber_at_rest();
    swap_fibers();
}
