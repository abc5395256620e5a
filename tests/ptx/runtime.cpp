/* SPDX-License-Identifier: Apache-2.0 */
/* runtime.cpp - calls of the runtime that tests/fibers has inline, for objects that nvcc makes. */
#include "../fibers/fiber_runtime.h"

#include "launch.h"

/* A function for everybody that calls the inline one of this name. */
#define FOR_ALL(result, name, parameters, arguments)        \
    extern "C" result all_##name parameters __asm__(#name); \
    result all_##name parameters                            \
    {                                                       \
        return name arguments;                              \
    }

FOR_ALL(cudaError_t, cudaMemsetAsync, (void *at, int value, size_t bytes, cudaStream_t stream),
        (at, value, bytes, stream))
FOR_ALL(cudaError_t, cudaMemcpy, (void *to, const void *from, size_t bytes, cudaMemcpyKind kind),
        (to, from, bytes, kind))
FOR_ALL(cudaError_t, cudaDeviceGetAttribute, (int *value, enum cudaDeviceAttr which, int device),
        (value, which, device))
FOR_ALL(const char *, cudaGetErrorString, (cudaError_t error), (error))
FOR_ALL(cudaError_t, cudaDriverGetVersion, (int *version), (version))
FOR_ALL(cudaError_t, cudaRuntimeGetVersion, (int *version), (version))
FOR_ALL(cudaError_t, cudaStreamDestroy, (cudaStream_t stream), (stream))
FOR_ALL(cudaError_t, cudaStreamSynchronize, (cudaStream_t stream), (stream))
FOR_ALL(cudaError_t, cudaDeviceSynchronize, (void), ())
FOR_ALL(cudaError_t, cudaEventCreate, (cudaEvent_t * out), (out))

void ptx::describe(int device, char *name, size_t bytes, char uuid[16], int *major)
{
    struct cudaDeviceProp found;

    (void)cudaGetDeviceProperties(&found, device);
    (void)snprintf(name, bytes, "%s", found.name);
    memcpy(uuid, found.uuid.bytes, 16);
    *major = found.major;
}
