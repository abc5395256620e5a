/* SPDX-License-Identifier: Apache-2.0 */
/* fibers.cpp - the scheduler: runs every fiber up to its next barrier, then lets all of them pass.
 *
 * Blocks run one after the other, beginning with any, or several by turns: then a block runs in one
 * round and rests in another as dice fall, so that blocks that work on each other's behalf meet in
 * many ways.  So do the warps of a block between two barriers, and lanes run up or down: what lacks
 * a barrier shows.
 *
 * Of a kernel of a graph that may begin before the one in front has ended, two blocks do, as far as
 * they may: what they read too early shows.
 *
 * A fiber is entered once, by swapcontext; from then on it and the scheduler jump to each other,
 * which takes no system call.  Its stack serves one block after the other. */
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#include "fibers.h" /* last: see there */

fiber_index threadIdx, blockIdx, gridDim;
__thread fiber *fiber_inside;

namespace
{

std::vector<fiber> fibers;           /* of all blocks that run together */
std::vector<fiber_warp_waits> warps; /* where the fibers of each 32 stand */
size_t width;                        /* fibers of a block: whole warps */
unsigned threads;                    /* those of them that run */
size_t current;                      /* index of the fiber that runs */
uint32_t dice = 1;
ucontext_t first_return;
fiber_place scheduler;
void (*body)(void *);
void *body_user;
int ballot_result[FIBER_BLOCKS];

/* The warp whose fibers run up to their next barrier, and which of them have had their turn. */
struct {
    size_t warp;
    unsigned thread; /* of the block, its first */
    bool down;       /* from the last on */
    unsigned turns;
} turn;

/* A function that stays somewhere must not jump as well, so none of them is inlined; nor may a
 * caller rely on registers that it sees a function leave alone, for others run before that returns.
 */
FIBER_APART __attribute__((noreturn)) void jump(fiber_place &to)
{
    fiber_jump(to);
}

/* Let the next of the warp be the one that runs, if it can. */
bool next_lane()
{
    const uint8_t *const waits = warps[turn.warp].of;

    while (turn.turns < FIBER_WARP) {
        const unsigned lane = turn.down ? FIBER_WARP - 1 - turn.turns : turn.turns;

        turn.turns++;
        if (waits[lane] != RUNS) continue;
        current = turn.warp * FIBER_WARP + lane;
        fiber_inside = &fibers[current];
        threadIdx.x = turn.thread + lane;
        return true;
    }
    return false;
}

/* Go on with the next of the warp; with the scheduler, where there is none or it has not begun. */
FIBER_APART __attribute__((noreturn)) void leave()
{
    const bool any = next_lane();

    if (any && fibers[current].entered) jump(fibers[current].here);
    if (any) turn.turns--;
    jump(scheduler);
}

FIBER_APART void wait_at(fiber_wait kind)
{
    fiber_warp_waits &warp = warps[current / FIBER_WARP];

    warp.count[RUNS]--;
    warp.count[kind]++;
    warp.of[current % FIBER_WARP] = kind;
    if (fiber_stay(fibers[current].here) == 0) leave();
}

/* Block after block. */
void enter()
{
    for (;;) {
        body(body_user);
        wait_at(ENDED);
    }
}

/* Run the current fiber, and others of its warp behind it. */
FIBER_APART void resume()
{
    if (fiber_stay(scheduler) != 0) {
        fiber_inside = nullptr;
        return;
    }
    if (fibers[current].entered) jump(fibers[current].here);
    fibers[current].entered = true;
    swapcontext(&first_return, fibers[current].context.get());
}

/* All fibers of a warp wait for the same, but those that have ended. */
void set_waits(fiber_warp_waits *warp, fiber_wait kind)
{
    const uint8_t ended = warp->count[ENDED];

    for (uint8_t &wait : warp->of) wait = wait == ENDED ? ENDED : kind;
    memset(warp->count, 0, sizeof warp->count);
    warp->count[ENDED] = ended;
    warp->count[kind] = (uint8_t)(FIBER_WARP - ended);
}

/* Let the warps [from, to), a block, pass its barrier, if all fibers stand there that have not
 * ended. */
bool pass_block(size_t block, size_t from, size_t to)
{
    unsigned there = 0, ended = 0;

    for (size_t warp = from; warp < to; warp++) {
        there += warps[warp].count[AT_BLOCK];
        ended += warps[warp].count[ENDED];
    }
    if (there == 0 || there + ended < width) return false;
    ballot_result[block] = 0;
    for (size_t i = from * FIBER_WARP; i < to * FIBER_WARP; i++) {
        ballot_result[block] |=
            warps[i / FIBER_WARP].of[i % FIBER_WARP] == AT_BLOCK && fibers[i].ballot;
    }
    fiber_races_meet(&fibers[from * FIBER_WARP], width, true);
    for (size_t warp = from; warp < to; warp++) set_waits(&warps[warp], RUNS);
    return true;
}

/* Let go of every barrier of a block that is complete; false when there is none. */
bool pass_barriers(size_t block, size_t from, size_t to)
{
    bool passed = false;

    for (size_t warp = from; warp < to; warp++) {
        const fiber_warp_waits &waits = warps[warp];

        if (waits.count[AT_WARP] == 0 || waits.count[AT_WARP] + waits.count[ENDED] < FIBER_WARP) {
            continue;
        }
        if (fibers[warp * FIBER_WARP].orders) {
            fiber_races_meet(&fibers[warp * FIBER_WARP], FIBER_WARP, false);
        }
        set_waits(&warps[warp], RUNS);
        passed = true;
    }
    return passed || pass_block(block, from, to);
}

} // namespace

bool fiber_toss(void)
{
    dice = dice * 1664525u + 1013904223u;
    return dice >> 31;
}

namespace
{

/* Let the threads of a warp run up to their next barrier, from the first or from the last on.
 *
 * thread   of the block, the first of them */
void run_warp(size_t warp, unsigned thread)
{
    turn = {warp, thread, fiber_toss(), 0};
    while (next_lane()) resume();
}

/* Let some warps of a block run up to their next barrier: one may be there before another has
 * begun, as on a device.  false: the block has ended. */
bool run_block(size_t block)
{
    const size_t from = block * width / FIBER_WARP, to = from + width / FIBER_WARP;
    unsigned early = 0, ended = 0;
    bool ran = false;

    for (size_t warp = from; warp < to; warp++) {
        if (warps[warp].count[RUNS] == 0) continue;
        ran = true;
        if (fiber_toss()) run_warp(warp, (unsigned)(warp - from) * FIBER_WARP);
    }
    if (pass_barriers(block, from, to) || ran) return true;
    for (size_t warp = from; warp < to; warp++) {
        early += warps[warp].count[AT_PREVIOUS];
        ended += warps[warp].count[ENDED];
    }
    if (early > 0 || ended == width) return false;
    fprintf(stderr, "fibers: deadlock: threads wait at different barriers\n");
    abort();
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

/* How many lanes of a warp there are: the last of a block may have fewer than others. */
size_t lanes_of(size_t warp)
{
    const size_t left = threads - warp * FIBER_WARP % width;

    return left < FIBER_WARP ? left : (size_t)FIBER_WARP;
}

/* The same from their beginning. */
void run_blocks(int first, int count)
{
    for (size_t warp = 0; warp < (size_t)count * width / FIBER_WARP; warp++) {
        const size_t lanes = lanes_of(warp);

        memset(warps[warp].of, RUNS, lanes);
        memset(warps[warp].of + lanes, ENDED, FIBER_WARP - lanes);
        warps[warp].count[ENDED] = (uint8_t)(FIBER_WARP - lanes);
        set_waits(&warps[warp], RUNS);
    }
    for (size_t i = 0; i < (size_t)count * width; i++) {
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
    std::vector<fiber_warp_waits> warps;
    size_t width;
    unsigned threads;
    int first, count;
};

early_blocks begun;
bool before_previous; /* the fibers that run began early */

/* Let the others' fibers be those that run. */
void swap_fibers()
{
    std::swap(fibers, begun.fibers);
    std::swap(warps, begun.warps);
    std::swap(width, begun.width);
    std::swap(threads, begun.threads);
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

fiber *fiber_warp(unsigned *lane)
{
    *lane = (unsigned)(current % FIBER_WARP);
    return &fibers[current / FIBER_WARP * FIBER_WARP];
}

void __nanosleep(unsigned)
{
    wait_at(RUNS);
}

/* A fiber that has not begun.  Stacks begin at other places of their pages, so that a cache holds
 * those of a whole block: at the same, they would be in each other's way. */
static fiber new_fiber(size_t number)
{
    fiber f = {};

    f.stack.reset(new char[FIBER_STACK]);
    f.context.reset(new ucontext_t);
    getcontext(f.context.get());
    f.context->uc_stack.ss_sp = f.stack.get();
    f.context->uc_stack.ss_size = FIBER_STACK - number % 61 * 64;
    f.context->uc_link = nullptr;
    makecontext(f.context.get(), enter, 0);
    return f;
}

/* Have fibers for so many blocks of a kernel. */
static void prepare(int blocks, int count, int block_threads, void (*run)(void *user), void *user)
{
    threads = (unsigned)block_threads;
    width = (threads + FIBER_WARP - 1) / FIBER_WARP * FIBER_WARP;
    while (fibers.size() < width * (size_t)count) {
        if (fibers.size() % FIBER_WARP == 0) warps.emplace_back();
        fibers.push_back(new_fiber(fibers.size()));
    }
    gridDim.x = (unsigned)blocks;
    body = run;
    body_user = user;
}

void fiber_run(int blocks, int block_threads, bool together, void (*run)(void *user), void *user)
{
    static uint32_t which = 1;
    const int most = fiber_gpu.room > 0 ? fiber_gpu.room : FIBER_BLOCKS;
    const int count = !together ? 1 : blocks < most ? blocks : most;

    if (together && blocks > FIBER_BLOCKS) {
        fprintf(stderr, "fibers: %d blocks cannot run together\n", blocks);
        abort();
    }
    if (together && blocks > fiber_gpu.together) fiber_gpu.together = blocks;
    which = which * 1664525u + 1013904223u;
    prepare(blocks, count, block_threads, run, user);
    fiber_races_launch();
    fiber_at_work();
    for (int block = 0; block < blocks; block += count) {
        const unsigned turned = (unsigned)block + (which >> 8) % (unsigned)blocks;

        run_blocks(together ? block : (int)(turned % (unsigned)blocks),
                   count < blocks - block ? count : blocks - block);
    }
    fiber_at_rest();
}

void fiber_begin_early(int blocks, int block_threads, void (*run)(void *user), void *user)
{
    static uint32_t which = 1;

    which = which * 1664525u + 1013904223u;
    begun.count = blocks < 2 ? blocks : 2;
    begun.first = (int)((which >> 8) % (unsigned)(blocks - begun.count + 1));
    swap_fibers();
    prepare(blocks, begun.count, block_threads, run, user);
    before_previous = true;
    fiber_races_launch();
    fiber_at_work();
    run_blocks(begun.first, begun.count);
    fiber_at_rest();
    before_previous = false;
    for (size_t warp = 0; warp < (size_t)begun.count * width / FIBER_WARP; warp++) {
        if (warps[warp].count[ENDED] + lanes_of(warp) == FIBER_WARP) continue;
        fprintf(stderr, "fibers: a thread of a kernel that began early does not wait\n");
        abort();
    }
    swap_fibers();
}

void fiber_end_early(int blocks, int block_threads, void (*run)(void *user), void *user)
{
    prepare(blocks, 1, block_threads, run, user);
    fiber_races_launch();
    fiber_at_work();
    for (int block = 0; block < blocks; block++) {
        if (block < begun.first || block >= begun.first + begun.count) run_blocks(block, 1);
    }
    swap_fibers();
    for (size_t warp = 0; warp < (size_t)begun.count * width / FIBER_WARP; warp++) {
        set_waits(&warps[warp], RUNS);
    }
    for (int b = 0; b < begun.count; b++) go_on(begun.first + b, 1, b); /* they share memory */
    fiber_at_rest();
    swap_fibers();
}
