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

/* Memory that both sides can read. */
static inline void *shared(size_t bytes)
{
    void *memory = NULL;

    ok(cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal), "allocate");
    memset(memory, MEMORY_BYTE, bytes);
    return memory;
}

static inline void unshare(void *memory)
{
    (void)cudaFree(memory);
}

#endif
