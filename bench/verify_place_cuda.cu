/* SPDX-License-Identifier: Apache-2.0 */
/* verify_place_cuda.cu - the current CUDA device. */
#include "verify_place.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

static bool worked(bench_place *place, cudaError_t code, const char *what)
{
    if (code == cudaSuccess) return true;
    (void)spc_error_set(&place->error, SPC_EDEVICE, "CUDA: %s: %s", what, cudaGetErrorString(code));
    return false;
}

static void *allocate(bench_place *place, size_t bytes)
{
    void *memory = nullptr;

    return worked(place, cudaMalloc(&memory, bytes), "allocate") ? memory : nullptr;
}

static void release(void *memory)
{
    (void)cudaFree(memory);
}

static bool copy_in(bench_place *place, void *to, const void *from, size_t bytes)
{
    return worked(place, cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice),
                  "copy to the device") &&
           worked(place, cudaDeviceSynchronize(), "copy"); /* the stream waits for none */
}

static bool copy_out(bench_place *place, void *to, const void *from, size_t bytes)
{
    return worked(place, cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy to the host");
}

static bool wait_for(bench_place *place)
{
    return worked(place, cudaStreamSynchronize(place->stream), "run");
}

/* One graph per set. */
static bool record(bench_place *place, place_work work, void *user, int32_t set,
                   cudaGraphExec_t *out)
{
    cudaGraph_t graph = nullptr;
    bool ok = worked(place, cudaStreamBeginCapture(place->stream, cudaStreamCaptureModeThreadLocal),
                     "begin capture");

    if (!ok) return false;
    ok = work(user, set, place->stream);
    ok = worked(place, cudaStreamEndCapture(place->stream, &graph), "end capture") && ok;
    ok = ok && worked(place, cudaGraphInstantiate(out, graph, 0), "instantiate");
    if (graph) (void)cudaGraphDestroy(graph);
    return ok;
}

static bool time_work(bench_place *place, place_work work, void *user, int32_t sets, int32_t runs,
                      bool eager, measure_times *us)
{
    std::vector<cudaGraphExec_t> graph((size_t)sets, nullptr);
    std::vector<double> value((size_t)runs);
    cudaEvent_t begin = nullptr, end = nullptr;
    const int32_t warm = runs / 10 + 1;
    bool ok = worked(place, cudaEventCreate(&begin), "event") &&
              worked(place, cudaEventCreate(&end), "event");

    for (int32_t s = 0; ok && !eager && s < sets; s++) ok = record(place, work, user, s, &graph[s]);
    for (int32_t i = -warm; ok && i < runs; i++) {
        const int32_t set = (i + warm) % sets;
        float ms = 0.0f;

        ok = worked(place, cudaEventRecord(begin, place->stream), "event");
        ok = ok && (eager ? work(user, set, place->stream)
                          : worked(place, cudaGraphLaunch(graph[set], place->stream), "launch"));
        ok = ok && worked(place, cudaEventRecord(end, place->stream), "event");
        ok = ok && worked(place, cudaEventSynchronize(end), "run");
        ok = ok && worked(place, cudaEventElapsedTime(&ms, begin, end), "time");
        if (i >= 0) value[i] = (double)ms * 1e3;
    }
    if (ok) {
        us->runs = runs;
        us->median = measure_quantile(value.data(), runs, 0.5);
        us->p10 = measure_quantile(value.data(), runs, 0.1);
        us->p90 = measure_quantile(value.data(), runs, 0.9);
    }
    for (cudaGraphExec_t g : graph) {
        if (g) (void)cudaGraphExecDestroy(g);
    }
    if (begin) (void)cudaEventDestroy(begin);
    if (end) (void)cudaEventDestroy(end);
    return ok;
}

/* Four independent loads of 16 bytes per thread in flight; the sum is stored where it cannot be. */
static __global__ void __launch_bounds__(512)
    read_kernel(const uint4 *from, size_t count, uint32_t *never)
{
    const size_t stride = (size_t)gridDim.x * blockDim.x;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = 0;

    for (; i + 3 * stride < count; i += 4 * stride) {
        uint4 v[4];

#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = __ldcs(from + i + k * stride);
#pragma unroll
        for (int k = 0; k < 4; k++) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    for (; i < count; i += stride) sum += from[i].x ^ from[i].y ^ from[i].z ^ from[i].w;
    if (sum == 0x9e3779b9u && count == 0) *never = sum;
}

static bool read_bytes(bench_place *place, const void *from, size_t bytes, spc_stream stream)
{
    int device = 0, processors = 0;

    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    read_kernel<<<processors * 4, 512, 0, stream>>>((const uint4 *)from, bytes / sizeof(uint4),
                                                    nullptr);
    return worked(place, cudaPeekAtLastError(), "read");
}

static void close_place(bench_place *place)
{
    if (place->stream) (void)cudaStreamDestroy(place->stream);
}

bool place_open_cuda(bench_place *place)
{
    cudaDeviceProp properties;
    int device = 0, driver = 0, runtime = 0;

    memset(place, 0, sizeof *place);
    if (!worked(place, cudaGetDevice(&device), "no device") ||
        !worked(place, cudaGetDeviceProperties(&properties, device), "no device") ||
        !worked(place, cudaStreamCreateWithFlags(&place->stream, cudaStreamNonBlocking),
                "stream")) {
        return false;
    }
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    (void)snprintf(place->name, sizeof place->name, "%s", properties.name);
    (void)snprintf(place->driver, sizeof place->driver, "driver %d, runtime %d", driver, runtime);
    place->device = true;
    place->allocate = allocate;
    place->release = release;
    place->copy_in = copy_in;
    place->copy_out = copy_out;
    place->wait = wait_for;
    place->draw = spc_cuda_draw_batch;
    place->verify = spc_cuda_verify_batch;
    place->prepare = spc_cuda_workspace_init;
    place->time = time_work;
    place->read = read_bytes;
    place->close = close_place;
    return true;
}
