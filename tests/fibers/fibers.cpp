/* SPDX-License-Identifier: Apache-2.0 */
/* fibers.cpp - the scheduler: runs every fiber up to its next barrier, then lets all of them pass.
 */
#include "cuda_runtime_api.h"

#include <stdio.h>
#include <ucontext.h>
#include <vector>

fiber_index threadIdx, blockIdx;

namespace
{

enum { WARP = 32, STACK_BYTES = 256 << 10 };
enum wait_kind { RUNS, AT_BLOCK, AT_WARP, ENDED };

struct fiber {
    ucontext_t context;
    std::vector<char> stack;
    wait_kind wait;
    int ballot;         /* given to __syncthreads_or */
    uint64_t exchanged; /* given to the shuffle */
};

std::vector<fiber> fibers;
ucontext_t scheduler;
void (*body)(void *);
void *body_user;
int ballot_result;

void enter()
{
    body(body_user);
    fibers[threadIdx.x].wait = ENDED;
    swapcontext(&fibers[threadIdx.x].context, &scheduler);
}

void wait_at(wait_kind kind)
{
    fiber &self = fibers[threadIdx.x];

    self.wait = kind;
    swapcontext(&self.context, &scheduler);
}

/* Can the fibers [from, to) pass a barrier of this kind?  All that have not ended must stand there.
 */
bool all_wait(size_t from, size_t to, wait_kind kind)
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

/* Let go of every barrier that is complete; false when there is none. */
bool pass_barriers(void)
{
    bool passed = false;

    for (size_t warp = 0; warp < fibers.size(); warp += WARP) {
        if (!all_wait(warp, warp + WARP, AT_WARP)) continue;
        release(warp, warp + WARP);
        passed = true;
    }
    if (!passed && all_wait(0, fibers.size(), AT_BLOCK)) {
        ballot_result = 0;
        for (fiber &f : fibers) ballot_result |= f.wait == AT_BLOCK && f.ballot;
        release(0, fibers.size());
        passed = true;
    }
    return passed;
}

void run_block(void)
{
    for (size_t i = 0; i < fibers.size(); i++) {
        fiber &f = fibers[i];

        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = f.stack.size();
        f.context.uc_link = nullptr;
        f.wait = RUNS;
        makecontext(&f.context, enter, 0);
    }
    for (;;) {
        bool ran = false;

        for (size_t i = 0; i < fibers.size(); i++) {
            if (fibers[i].wait != RUNS) continue;
            threadIdx.x = (unsigned)i;
            swapcontext(&scheduler, &fibers[i].context);
            ran = true;
        }
        if (pass_barriers() || ran) continue;
        for (fiber &f : fibers) {
            if (f.wait == ENDED) continue;
            fprintf(stderr, "fibers: deadlock: threads wait at different barriers\n");
            abort();
        }
        return;
    }
}

} // namespace

void __syncthreads(void)
{
    fibers[threadIdx.x].ballot = 0;
    wait_at(AT_BLOCK);
}

int __syncthreads_or(int value)
{
    fibers[threadIdx.x].ballot = value;
    wait_at(AT_BLOCK);
    return ballot_result;
}

uint64_t fiber_shuffle_down(uint64_t bits, int delta)
{
    unsigned self = threadIdx.x, from = self % WARP + (unsigned)delta;
    uint64_t got;

    fibers[self].exchanged = bits;
    wait_at(AT_WARP);
    got = from < WARP ? fibers[self + (unsigned)delta].exchanged : bits;
    wait_at(AT_WARP); /* nobody gives the next value before all have read */
    return got;
}

void fiber_run(int blocks, int threads, void (*run)(void *user), void *user)
{
    fibers.resize((size_t)threads);
    for (fiber &f : fibers) f.stack.resize(STACK_BYTES);
    body = run;
    body_user = user;
    for (int block = 0; block < blocks; block++) {
        blockIdx.x = (unsigned)block;
        run_block();
    }
}
