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

#include "fence.cuh"
#include "launch.h"

enum { WARP = 32 };

enum { WARPS = SPC_LANES / WARP, SUMS = 3, LANE_SUMS = 4 /* of two tiles, two each */ };

/* What the folds of a block share. */
struct block_scratch {
    float lane[LANE_SUMS][SPC_LANES];
    float sum[SUMS];
    unsigned long long best[WARPS];
    uint32_t top[WARPS], part[WARPS];
    uint32_t least;
};

/* One warp adds the values of all lanes: halving from 256 down, as in spc_tile_sum.  Its lane 0 has
 * the sum. */
static __device__ float warp_sum_of_block(const float *lane)
{
    const int l = threadIdx.x % WARP;
    float part[WARPS];

    for (int w = 0; w < WARPS; w++) part[w] = lane[l + w * WARP];
    for (int half = WARPS / 2; half > 0; half /= 2) {
        for (int w = 0; w < half; w++) part[w] += part[w + half];
    }
    for (int half = WARP / 2; half > 0; half /= 2) {
        part[0] += __shfl_down_sync(0xffffffffu, part[0], half);
    }
    return part[0];
}

/* Sum of one value per lane. */
static __device__ float block_sum(block_scratch *s, float value)
{
    s->lane[0][threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.x < WARP) {
        value = warp_sum_of_block(s->lane[0]);
        if (threadIdx.x == 0) s->sum[0] = value;
    }
    __syncthreads(); /* s may be written again only behind the next fold's barrier */
    return s->sum[0];
}

/* Sums of the first `count` of three values per lane, the others being 0 in all lanes, and the
 * least of one index: thread 0 has them.  One sum is added by the warp of thread 0, which others do
 * not wait for: they may come back to s behind their next barrier. */
static __device__ uint32_t block_sums_and_least(block_scratch *s, float value[SUMS], int count,
                                                uint32_t index)
{
    const int warp = threadIdx.x / WARP, l = threadIdx.x % WARP;

    for (int i = 0; i < SUMS; i++) {
        if (i < count) s->lane[i][threadIdx.x] = value[i];
    }
    index = __reduce_min_sync(0xffffffffu, index);
    if (l == 0) s->part[warp] = index;
    __syncthreads();
    if (count == 1) {
        if (warp > 0) return index;
        value[0] = warp_sum_of_block(s->lane[0]);
        return __reduce_min_sync(0xffffffffu, l < WARPS ? s->part[l] : ~0u);
    }
    if (warp < count) {
        const float sum = warp_sum_of_block(s->lane[warp]);

        if (l == 0) s->sum[warp] = sum;
    } else if (warp == SUMS) {
        index = __reduce_min_sync(0xffffffffu, l < WARPS ? s->part[l] : ~0u);
        if (l == 0) s->least = index;
    }
    __syncthreads();
    for (int i = 0; i < SUMS; i++) value[i] = i < count ? s->sum[i] : 0.0f;
    return s->least;
}

/* Largest of one key per lane.  Between two calls all must have met at one more barrier. */
static __device__ uint32_t block_top(block_scratch *s, uint32_t key)
{
    key = __reduce_max_sync(0xffffffffu, key);
    if (threadIdx.x % WARP == 0) s->top[threadIdx.x / WARP] = key;
    __syncthreads();
    key = s->top[0];
    for (int w = 1; w < WARPS; w++) key = s->top[w] > key ? s->top[w] : key;
    return key;
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
    for (int warp = 1; warp < WARPS; warp++) {
        key = s->best[warp] < key ? s->best[warp] : key;
    }
    __syncthreads();
    return key;
}

/* Load a kernel, which otherwise happens at its first launch.  *most: the bytes of local memory
 * that each of its threads takes, where those are more. */
template <typename Args> static cudaError_t load_kernel(void (*kernel)(Args), size_t *most)
{
    struct cudaFuncAttributes has;
    const cudaError_t code = cudaFuncGetAttributes(&has, (const void *)kernel);

    if (code == cudaSuccess && has.localSizeBytes > *most) *most = has.localSizeBytes;
    return code;
}

/* One kernel of one argument struct; what becomes of this launch, whatever the thread's last error
 * is.  A C++ compiler finds fiber_launch in tests/fibers. */
template <typename Args>
static cudaError_t launch(void (*kernel)(Args), int32_t blocks, const Args &args,
                          cudaStream_t stream)
{
    size_t unused = 0;

    if (spc_cuda_only_loads()) return load_kernel(kernel, &unused);
#ifdef __CUDACC__
    void *arguments[] = {(void *)&args};

    return cudaLaunchKernel((const void *)kernel, dim3((unsigned)blocks), dim3(SPC_LANES),
                            arguments, 0, stream);
#else
    fiber_on(stream);
    return fiber_launch(kernel, blocks, SPC_LANES, args);
#endif
}

/* The same for kernels whose blocks wait for each other's work: as fibers they take turns. */
template <typename Args>
static cudaError_t launch_together(void (*kernel)(Args), int32_t blocks, const Args &args,
                                   cudaStream_t stream)
{
#ifdef __CUDACC__
    return launch(kernel, blocks, args, stream);
#else
    if (spc_cuda_only_loads()) return launch(kernel, blocks, args, stream);
    fiber_on(stream);
    return fiber_launch(kernel, blocks, SPC_LANES, args, true);
#endif
}

#endif
