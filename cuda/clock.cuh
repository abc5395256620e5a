/* SPDX-License-Identifier: Apache-2.0 */
/* clock.cuh - the device's time. */
#ifndef SPC_CUDA_CLOCK_CUH
#define SPC_CUDA_CLOCK_CUH

#include <stdint.h>

/* Nanoseconds of the clock that all multiprocessors share. */
static __device__ __forceinline__ uint64_t now_ns(void)
{
#ifdef __CUDACC__
    uint64_t ns;

    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
#else
    return fiber_now_ns();
#endif
}

#endif
