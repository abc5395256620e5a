/* SPDX-License-Identifier: Apache-2.0 */
/* launch.cpp - the calls that nvcc makes of kernels and launches, under the toolkit's own headers:
 * each object announces a fat binary and the kernels in it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>

#include <cuda_runtime_api.h>

#include "launch.h"

/* tests/fibers fills in what it declares for itself */
static_assert(offsetof(cudaFuncAttributes, localSizeBytes) == 16 &&
                  offsetof(cudaFuncAttributes, ptxVersion) == 32,
              "fiber_runtime.h has other attributes");

namespace ptx
{
namespace
{

[[noreturn]] void refuse(const char *what)
{
    fprintf(stderr, "ptx: %s\n", what);
    abort();
}

struct announced {
    std::map<const void *, kernel> of_host;
    std::vector<std::unique_ptr<kernel>> launched;
};

thread_local cudaLaunchConfig_t pushed;
thread_local cudaError_t last_error; /* of launches by <<<>>> */

announced &all(void)
{
    static announced a;

    return a;
}

/* What nvcc's objects give, with the fat binary. */
struct fat_wrapper {
    int magic, version;
    const char *data;
    void *unused;
};

} // namespace

const kernel *kernel_of(const void *host)
{
    auto found = all().of_host.find(host);

    return found == all().of_host.end() ? nullptr : &found->second;
}

size_t number_of(const kernel *k)
{
    std::vector<std::unique_ptr<kernel>> &launched = all().launched;

    for (size_t i = 0; i < launched.size(); i++) {
        if (launched[i]->of == k->of && launched[i]->name == k->name) return i;
    }
    launched.emplace_back(new kernel(*k));
    return launched.size() - 1;
}

const kernel &kernel_at(size_t number)
{
    return *all().launched[number];
}

} // namespace ptx

extern "C" {

void **__cudaRegisterFatBinary(void *wrapper)
{
    ptx::module *m = new ptx::module();
    ptx::fat_wrapper w;

    memcpy(&w, wrapper, sizeof w);
    m->fat_binary = w.data;
    return (void **)m;
}

void __cudaRegisterFatBinaryEnd(void **)
{
}

void __cudaUnregisterFatBinary(void **handle)
{
    delete (ptx::module *)handle;
}

void __cudaRegisterFunction(void **handle, const char *host, char *, const char *name, int, uint3 *,
                            uint3 *, dim3 *, dim3 *, int *)
{
    ptx::all().of_host[host] = {(ptx::module *)handle, name};
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *host, void **arguments)
{
    const ptx::kernel *k = ptx::kernel_of(host);
    bool early = false;

    if (!k) return cudaErrorInvalidDeviceFunction;
    if (how->gridDim.y != 1 || how->gridDim.z != 1 || how->blockDim.y != 1 ||
        how->blockDim.z != 1 || how->dynamicSmemBytes != 0) {
        ptx::refuse("a launch of a kind that is not known");
    }
    for (unsigned i = 0; i < how->numAttrs; i++) {
        if (how->attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization) {
            ptx::refuse("an attribute of a launch that is not known");
        }
        early = how->attrs[i].val.programmaticStreamSerializationAllowed != 0;
    }
    return (cudaError_t)ptx::submit(host, k, how->gridDim.x, how->blockDim.x, arguments, early,
                                    how->stream);
}

cudaError_t cudaLaunchKernel(const void *host, dim3 blocks, dim3 threads, void **arguments,
                             size_t shared, cudaStream_t stream)
{
    cudaLaunchConfig_t how = {};

    how.gridDim = blocks;
    how.blockDim = threads;
    how.dynamicSmemBytes = shared;
    how.stream = stream;
    return cudaLaunchKernelExC(&how, host, arguments);
}

/* ---- what is written with <<<>>>: how, then the kernel's stub, which asks how ---- */

unsigned __cudaPushCallConfiguration(dim3 blocks, dim3 threads, size_t shared,
                                     struct CUstream_st *stream)
{
    ptx::pushed = {};
    ptx::pushed.gridDim = blocks;
    ptx::pushed.blockDim = threads;
    ptx::pushed.dynamicSmemBytes = shared;
    ptx::pushed.stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *blocks, dim3 *threads, size_t *shared, void *stream)
{
    *blocks = ptx::pushed.gridDim;
    *threads = ptx::pushed.blockDim;
    *shared = ptx::pushed.dynamicSmemBytes;
    *(cudaStream_t *)stream = ptx::pushed.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *out, const void *host)
{
    *out = (cudaKernel_t)host;
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t host, dim3 blocks, dim3 threads, void **arguments,
                               size_t shared, cudaStream_t stream)
{
    const cudaError_t code =
        cudaLaunchKernel((const void *)host, blocks, threads, arguments, shared, stream);

    return ptx::last_error = code;
}

cudaError_t cudaPeekAtLastError(void)
{
    return ptx::last_error;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device)
{
    *out = {};
    ptx::describe(device, out->name, sizeof out->name, out->uuid.bytes, &out->major);
    return cudaSuccess;
}
}
