/* SPDX-License-Identifier: Apache-2.0 */
/* fibers.cpp - the scheduler: runs every fiber up to its next barrier, then lets all of them pass.
 *
 * A fiber is entered once, by swapcontext; from then on it and the scheduler jump to each other,
 * which takes no system call.  Its stack serves one block after the other. */
#include "cuda_runtime_api.h"

#include <setjmp.h>
#include <stdio.h>
#include <ucontext.h>
#include <vector>

fiber_index threadIdx, blockIdx;
fiber_device fiber_gpu = {cudaSuccess, cudaSuccess, 13000, (size_t)1 << 40, 0, 0, 0, 0, -1};

namespace
{

enum { WARP = 32, STACK_BYTES = 256 << 10 };
enum wait_kind { RUNS, AT_BLOCK, AT_WARP, ENDED };

struct fiber {
    ucontext_t context; /* for its first entry */
    jmp_buf here;       /* for all others */
    bool entered;
    std::vector<char> stack;
    wait_kind wait;
    int ballot;         /* given to __syncthreads_or */
    uint64_t exchanged; /* given to the shuffle */
};

std::vector<fiber> fibers;
ucontext_t first_return;
jmp_buf scheduler;
void (*body)(void *);
void *body_user;
int ballot_result;

void wait_at(wait_kind kind)
{
    fiber &self = fibers[threadIdx.x];

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
void resume(fiber &f)
{
    if (_setjmp(scheduler) != 0) return;
    if (f.entered) _longjmp(f.here, 1);
    f.entered = true;
    swapcontext(&first_return, &f.context);
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
    for (fiber &f : fibers) f.wait = RUNS;
    for (;;) {
        bool ran = false;

        for (size_t i = 0; i < fibers.size(); i++) {
            if (fibers[i].wait != RUNS) continue;
            threadIdx.x = (unsigned)i;
            resume(fibers[i]);
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

void __syncwarp(void)
{
    wait_at(AT_WARP);
}

uint64_t fiber_shuffle(uint64_t bits, unsigned from)
{
    unsigned self = threadIdx.x;
    uint64_t got;

    fibers[self].exchanged = bits;
    wait_at(AT_WARP);
    got = from < WARP ? fibers[self / WARP * WARP + from].exchanged : bits;
    wait_at(AT_WARP); /* nobody gives the next value before all have read */
    return got;
}

void fiber_run(int blocks, int threads, void (*run)(void *user), void *user)
{
    if (fibers.size() != (size_t)threads) {
        fibers = std::vector<fiber>((size_t)threads);
        for (fiber &f : fibers) {
            f.stack.resize(STACK_BYTES);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.data();
            f.context.uc_stack.ss_size = f.stack.size();
            f.context.uc_link = nullptr;
            makecontext(&f.context, enter, 0);
        }
    }
    body = run;
    body_user = user;
    for (int block = 0; block < blocks; block++) {
        blockIdx.x = (unsigned)block;
        run_block();
    }
}

/* ---- the device ------------------------------------------------------------------------------ */

/* In front of every allocation: its size. */
enum { HEADER = 256 };

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    char *memory = NULL;

    *out = NULL;
    if (bytes > fiber_gpu.memory - fiber_gpu.used) return cudaErrorMemoryAllocation;
    memory = (char *)aligned_alloc(HEADER, (bytes + 2 * HEADER - 1) / HEADER * HEADER);
    if (!memory) return cudaErrorMemoryAllocation;
    memcpy(memory, &bytes, sizeof bytes);
    memset(memory + HEADER, 0xff, bytes); /* NaN */
    fiber_gpu.used += bytes;
    fiber_gpu.allocations++;
    if (fiber_gpu.used > fiber_gpu.most_used) fiber_gpu.most_used = fiber_gpu.used;
    *out = memory + HEADER;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    size_t bytes;

    if (!memory) return cudaSuccess;
    memcpy(&bytes, (char *)memory - HEADER, sizeof bytes);
    free((char *)memory - HEADER);
    fiber_gpu.used -= bytes;
    fiber_gpu.allocations--;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = fiber_gpu.count_error == cudaSuccess ? 1 : 0;
    return fiber_gpu.count_error;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = fiber_gpu.memory - fiber_gpu.used;
    *total = fiber_gpu.memory;
    return cudaSuccess;
}

cudaError_t fiber_has_code(void)
{
    return fiber_gpu.code_error;
}
