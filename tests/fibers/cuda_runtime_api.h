/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_runtime_api.h - kernels on the CPU: every thread of a block is a fiber.
 *
 * Stands in for the toolkit's header of this name when a .cu file is compiled by a C++ compiler, so
 * that the logic of kernels is tested where there is no GPU: barriers, shuffles, who reads what.
 * Fibers take turns at barriers only, so races between two barriers stay invisible, but where
 * fiber_races.cpp looks at every access.  "Device" memory is host memory. */
#ifndef SPC_TESTS_FIBERS_H
#define SPC_TESTS_FIBERS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "fiber_runtime.h"

#ifdef __cplusplus
#include <math.h>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __shared__
#define __grid_constant__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct alignas(8) uint2 {
    unsigned x, y;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

/* Byte i of the result is byte (selector's nibble i) of the eight of b, a. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    const uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned out = 0;

    for (int i = 0; i < 4; i++) {
        out |= (unsigned)(bytes >> ((selector >> (4 * i) & 7) * 8) & 0xff) << (8 * i);
    }
    return out;
}

template <typename T> static inline T __ldcs(const T *at)
{
    return *at;
}

struct fiber_index {
    unsigned x;
};

/* Of the fiber that runs now. */
extern fiber_index threadIdx, blockIdx, gridDim;

/* Run body(user) as `blocks` blocks of `threads` fibers: block after block, or together, at most
 * FIBER_BLOCKS then, by turns whose order is thrown with dice. */
enum { FIBER_BLOCKS = 4 };
void fiber_run(int blocks, int threads, bool together, void (*body)(void *user), void *user);

/* Let others run. */
void __nanosleep(unsigned);

/* The same, or note it down while a graph is recorded: user is copied then.
 *
 * early   in a graph some of its blocks come as far as fiber_await_previous before the kernel in
 *         front, which there must be, begins */
cudaError_t fiber_submit(const void *kernel, int blocks, int threads, bool together, bool early,
                         void (*body)(void *user), const void *user, size_t bytes);

/* Wait until kernels in front have ended. */
void fiber_await_previous(void);

/* Wait for all fibers of the block that have not returned. */
void __syncthreads(void);
int __syncthreads_or(int value);
void __syncwarp(void);

/* Copies of a thread to shared memory that go on by themselves: as dice fall, each is done at once
 * or when the thread waits for it, and not before.  fiber_end_copies makes a group of those since
 * the last; fiber_wait_copies waits for all groups but the last `later`. */
void fiber_copy_by_itself(void *to, const void *from, size_t bytes);
void fiber_end_copies(void);
void fiber_wait_copies(unsigned later);
/* Of all 32 lanes of a warp; the mask must say so.  A lane without that partner gets its own. */
uint64_t fiber_shuffle(uint64_t bits, unsigned from);

/* c [16, 8] += a b on all 32 lanes of a warp, fragments as cuda/ops.cuh has them; bf16 pairs and
 * K = 16, or floats of 19 bits and K = 8.  Products are exact, sums are cut off, not rounded, as
 * those of tensor cores are. */
void fiber_mma(float *c, const uint32_t *a, const uint32_t *b, bool bf16);

static inline uint64_t fiber_shuffle_down(uint64_t bits, int delta)
{
    return fiber_shuffle(bits, threadIdx.x % 32 + (unsigned)delta);
}

static inline float __shfl_down_sync(unsigned, float value, int delta)
{
    union {
        float f;
        uint32_t u;
    } pun;

    pun.f = value;
    pun.u = (uint32_t)fiber_shuffle_down(pun.u, delta);
    return pun.f;
}

static inline unsigned long long __shfl_down_sync(unsigned, unsigned long long value, int delta)
{
    return fiber_shuffle_down(value, delta);
}

static inline float __shfl_xor_sync(unsigned, float value, int bits)
{
    union {
        float f;
        uint32_t u;
    } pun;

    pun.f = value;
    pun.u = (uint32_t)fiber_shuffle(pun.u, threadIdx.x % 32 ^ (unsigned)bits);
    return pun.f;
}

static inline unsigned __shfl_sync(unsigned, unsigned value, int lane)
{
    return (unsigned)fiber_shuffle(value, (unsigned)lane);
}

static inline float __shfl_sync(unsigned, float value, int lane)
{
    union {
        float f;
        uint32_t u;
    } pun;

    pun.f = value;
    pun.u = (uint32_t)fiber_shuffle(pun.u, (unsigned)lane);
    return pun.f;
}

static inline unsigned __shfl_sync(unsigned, unsigned value, int lane, int width)
{
    return (unsigned)fiber_shuffle(value, threadIdx.x % 32 / (unsigned)width * (unsigned)width +
                                              (unsigned)lane);
}

static inline unsigned __ballot_sync(unsigned, int predicate)
{
    unsigned votes = (predicate ? 1u : 0u) << threadIdx.x % 32;

    for (unsigned bits = 16; bits > 0; bits /= 2) {
        votes |= (unsigned)fiber_shuffle(votes, threadIdx.x % 32 ^ bits);
    }
    return votes;
}

static inline unsigned __reduce_max_sync(unsigned, unsigned value)
{
    for (unsigned bits = 16; bits > 0; bits /= 2) {
        unsigned other = (unsigned)fiber_shuffle(value, threadIdx.x % 32 ^ bits);

        value = other > value ? other : value;
    }
    return value;
}

static inline unsigned __reduce_min_sync(unsigned mask, unsigned value)
{
    return ~__reduce_max_sync(mask, ~value);
}

/* An atomic operation, or a fresh read, of a word; what fence_blocks is. */
void fiber_atomic(const void *at, size_t bytes, bool writes);
void fiber_fence(void);

/* Shared memory of which a block may read what it has not written, for nothing comes of it. */
void fiber_may_be_left(const void *at, size_t bytes);

/* What fiber_atomic is told of is not told again. */
#define FIBER_UNSEEN __attribute__((no_sanitize("thread")))

template <typename T> FIBER_UNSEEN static inline T fiber_exchange(T *at, T value)
{
    T old = *at;

    fiber_atomic(at, sizeof *at, true);
    *at = value;
    return old;
}

FIBER_UNSEEN static inline unsigned long long atomicAdd(unsigned long long *at,
                                                        unsigned long long value)
{
    return fiber_exchange(at, *at + value);
}

FIBER_UNSEEN static inline unsigned atomicAdd(unsigned *at, unsigned value)
{
    return fiber_exchange(at, *at + value);
}

FIBER_UNSEEN static inline int atomicAdd(int *at, int value)
{
    return fiber_exchange(at, *at + value);
}

FIBER_UNSEEN static inline int atomicSub(int *at, int value)
{
    return fiber_exchange(at, *at - value);
}

FIBER_UNSEEN static inline int atomicExch(int *at, int value)
{
    return fiber_exchange(at, value);
}

FIBER_UNSEEN static inline unsigned atomicExch(unsigned *at, unsigned value)
{
    return fiber_exchange(at, value);
}

FIBER_UNSEEN static inline unsigned atomicOr(unsigned *at, unsigned value)
{
    return fiber_exchange(at, *at | value);
}

FIBER_UNSEEN static inline unsigned atomicAnd(unsigned *at, unsigned value)
{
    return fiber_exchange(at, *at & value);
}

template <typename Args> struct fiber_call {
    void (*kernel)(Args);
    Args args;

    FIBER_UNSEEN static void run(void *user)
    {
        fiber_call *call = (fiber_call *)user;

        call->kernel(call->args);
    }
};

template <typename Args>
static cudaError_t fiber_launch(void (*kernel)(Args), int blocks, int threads, const Args &args,
                                bool together = false, bool early = false)
{
    fiber_call<Args> call = {kernel, args};

    return fiber_submit((const void *)kernel, blocks, threads, together, early,
                        &fiber_call<Args>::run, &call, sizeof call);
}
#endif

#endif
