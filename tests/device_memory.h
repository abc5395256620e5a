/* SPDX-License-Identifier: Apache-2.0 */
/* device_memory.h - what tests of kernels ask of the CUDA runtime: memory, and an end of waiting.
 *
 * MEMORY_BYTE   what memory is full of, before this is included; 0xff unless given: NaN as floats
 */
#ifndef SPC_TESTS_DEVICE_MEMORY_H
#define SPC_TESTS_DEVICE_MEMORY_H

#include <criterion/criterion.h>
#include <cuda_runtime_api.h>
#include <string.h>

#ifndef MEMORY_BYTE
#define MEMORY_BYTE 0xff
#endif

static inline void ok(cudaError_t code, const char *what)
{
    cr_assert_eq(code, cudaSuccess, "%s: %s", what, cudaGetErrorString(code));
}

static inline void wait_for(cudaError_t code, const char *what)
{
    ok(code, what);
    ok(cudaDeviceSynchronize(), what);
}

/* Memory that both sides can read: the host's, which the device reaches over the bus.  (Managed
 * memory would move between the two by page faults, which a share of a GPU may not have.) */
static inline void *shared(size_t bytes)
{
    void *memory = NULL;

#ifdef SPC_TESTS_FIBER_RUNTIME_H
    ok(cudaMalloc(&memory, bytes), "allocate");
#else
    ok(cudaMallocHost(&memory, bytes > 0 ? bytes : 1), "allocate");
#endif
    memset(memory, MEMORY_BYTE, bytes);
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    fiber_memory_written(memory, bytes);
#endif
    return memory;
}

/* Memory for the device alone, where kernels count by atomic operations or leave much. */
static inline void *on_device(size_t bytes)
{
    void *memory = NULL;

    ok(cudaMalloc(&memory, bytes > 0 ? bytes : 1), "allocate");
    ok(cudaMemset(memory, MEMORY_BYTE, bytes), "fill");
    return memory;
}

/* Of either kind. */
static inline void unshare(void *memory)
{
#ifndef SPC_TESTS_FIBER_RUNTIME_H
    struct cudaPointerAttributes at;

    if (!memory) return;
    ok(cudaPointerGetAttributes(&at, memory), "free");
    if (at.type == cudaMemoryTypeHost) {
        ok(cudaFreeHost(memory), "free");
        return;
    }
#endif
    ok(cudaFree(memory), "free");
}

#endif
