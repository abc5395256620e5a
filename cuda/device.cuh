/* SPDX-License-Identifier: Apache-2.0 */
/* device.cuh - folds over the threads of one block, in the canonical order of rules/row.h.
 *
 * A block has SPC_LANES threads, and thread l is lane l.  Every thread of the block must call these
 * together; every thread gets the result. */
#ifndef SPC_CUDA_DEVICE_CUH
#define SPC_CUDA_DEVICE_CUH

#include "rules/row.h"

#include <cuda_runtime_api.h>
#include <stdint.h>

enum { WARP = 32 };

/* What the folds of a block share. */
struct block_scratch {
    float lane[SPC_LANES];
    unsigned long long best[SPC_LANES / WARP];
};

/* Sum of one value per lane; lanes merge by halving, as in spc_tile_sum. */
static __device__ float block_sum(block_scratch *s, float value)
{
    const int lane = threadIdx.x;

    s->lane[lane] = value;
    for (int half = SPC_LANES / 2; half >= WARP; half /= 2) {
        __syncthreads();
        if (lane < half) s->lane[lane] += s->lane[lane + half];
    }
    if (lane < WARP) {
        float sum = s->lane[lane];

        for (int half = WARP / 2; half > 0; half /= 2) {
            sum += __shfl_down_sync(0xffffffffu, sum, half);
        }
        if (lane == 0) s->lane[0] = sum;
    }
    __syncthreads();
    value = s->lane[0];
    __syncthreads(); /* s may be written again */
    return value;
}

/* Least of one key per lane. */
static __device__ unsigned long long block_least(block_scratch *s, unsigned long long key)
{
    const int lane = threadIdx.x;

    for (int half = WARP / 2; half > 0; half /= 2) {
        unsigned long long other = __shfl_down_sync(0xffffffffu, key, half);

        key = other < key ? other : key;
    }
    if (lane % WARP == 0) s->best[lane / WARP] = key;
    __syncthreads();
    key = s->best[0];
    for (int warp = 1; warp < SPC_LANES / WARP; warp++) {
        key = s->best[warp] < key ? s->best[warp] : key;
    }
    __syncthreads();
    return key;
}

/* Largest of one float per lane; no NaN. */
static __device__ float block_max(block_scratch *s, float value)
{
    const uint32_t bits = spc_float_bits(value + 0.0f);
    const uint32_t up = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    const uint32_t top = ~(uint32_t)block_least(s, (unsigned long long)(uint32_t)~up);

    return spc_bits_float(top & 0x80000000u ? top & 0x7fffffffu : ~top);
}

/* One kernel of one argument struct.  A C++ compiler finds fiber_launch in tests/fibers. */
template <typename Args>
static cudaError_t launch(void (*kernel)(Args), int32_t blocks, const Args &args,
                          cudaStream_t stream)
{
#ifdef __CUDACC__
    kernel<<<(unsigned)blocks, SPC_LANES, 0, stream>>>(args);
    return cudaPeekAtLastError();
#else
    (void)stream;
    return fiber_launch(kernel, blocks, SPC_LANES, args);
#endif
}

#endif
