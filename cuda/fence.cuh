/* SPDX-License-Identifier: Apache-2.0 */
/* fence.cuh - order between blocks. */
#ifndef SPC_CUDA_FENCE_CUH
#define SPC_CUDA_FENCE_CUH

#include <cuda_runtime_api.h>
#include <stdint.h>

/* Orders what this thread, and those it met at a barrier, wrote before what it does next, and what
 * it saw before what it reads next: for a counter between blocks.  (__threadfence orders more than
 * that, and waits for it.) */
static __device__ __forceinline__ void fence_blocks(void)
{
#ifdef __CUDACC__
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
#else
    fiber_fence();
#endif
}

/* A word of device memory that other blocks write meanwhile: read anew each time, from where their
 * atomic operations leave it. */
static __device__ __forceinline__ uint32_t fresh_word(const uint32_t *at)
{
#ifdef __CUDACC__
    uint32_t word;

    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(at));
    return word;
#else
    return *(const volatile uint32_t *)at;
#endif
}

/* Four of them, 16-byte aligned, each as new as it would be alone. */
static __device__ __forceinline__ uint4 fresh_words(const uint32_t *at)
{
#ifdef __CUDACC__
    uint4 words;

    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(at));
    return words;
#else
    return {fresh_word(at), fresh_word(at + 1), fresh_word(at + 2), fresh_word(at + 3)};
#endif
}

static __device__ __forceinline__ void put_word(uint32_t *at, uint32_t word)
{
#ifdef __CUDACC__
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(word) : "memory");
#else
    *(volatile uint32_t *)at = word;
#endif
}

/* The same of 8 bytes, 8-byte aligned, that are written at once. */
static __device__ __forceinline__ uint64_t fresh_pair(const uint64_t *at)
{
#ifdef __CUDACC__
    uint64_t pair;

    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(pair) : "l"(at));
    return pair;
#else
    return *(const volatile uint64_t *)at;
#endif
}

static __device__ __forceinline__ void put_pair(uint64_t *at, uint64_t pair)
{
#ifdef __CUDACC__
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(at), "l"(pair) : "memory");
#else
    *(volatile uint64_t *)at = pair;
#endif
}

/* Is this block the last of `count` to come here?  Then all its threads may read what the others
 * wrote before they came.  Called by all threads of a block.
 *
 * By the memory model of PTX: what a thread wrote is before the barrier, which thread 0 passes; its
 * fence and the addition behind it release that, the last block's addition, which has read what
 * these left, and the fence behind it acquire it, and its barrier passes it on to all its threads.
 *
 * ticket   0 between launches */
static __device__ __forceinline__ bool is_last_block(uint32_t *ticket, int32_t count)
{
    static __shared__ bool last;

    __syncthreads();
    if (count == 1) return true;
    if (threadIdx.x == 0) {
        fence_blocks();
        last = atomicAdd(ticket, 1u) == (uint32_t)count - 1;
        if (last) {
            fence_blocks();
            *ticket = 0; /* for the next launch */
        }
    }
    __syncthreads();
    return last;
}

#endif
