/* SPDX-License-Identifier: Apache-2.0 */
/* verify_place_cuda.cu - the current CUDA device. */
#include "verify_place.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "cuda/clock.cuh"

enum { COLD = 4 }; /* times its last cache are read before a run from memory */

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

/* ---- kernels ----------------------------------------------------------------------------------
 */

enum { READ_THREADS = 512, LOADS = 4 };

typedef struct {
    const uint4 *from;
    size_t count;
    uint32_t *never; /* NULL, which the compiler does not know */
} read_args;

static __device__ __forceinline__ uint32_t mixed(uint4 v)
{
    return v.x ^ v.y ^ v.z ^ v.w;
}

/* Four independent loads of 16 bytes per thread in flight; the sum is kept for nobody. */
static __global__ void __launch_bounds__(READ_THREADS)
    read_kernel(const __grid_constant__ read_args a)
{
    const size_t stride = (size_t)gridDim.x * READ_THREADS;
    size_t i = (size_t)blockIdx.x * READ_THREADS + threadIdx.x;
    uint32_t sum = 0;

    for (; i + (LOADS - 1) * stride < a.count; i += LOADS * stride) {
        uint4 v[LOADS];

#pragma unroll
        for (int k = 0; k < LOADS; k++) v[k] = a.from[i + k * stride];
#pragma unroll
        for (int k = 0; k < LOADS; k++) sum += mixed(v[k]);
    }
    for (; i < a.count; i += stride) sum += mixed(a.from[i]);
    if (a.never && sum == 0x9e3779b9u) *a.never = sum;
}

typedef struct {
    uint64_t ns;
} idle_args;

static __global__ void idle_kernel(const __grid_constant__ idle_args a)
{
    const uint64_t begin = now_ns();

    while (now_ns() - begin < a.ns) continue;
}

/* A C++ compiler finds fiber_launch in tests/fibers. */
template <typename Args>
static bool launch(bench_place *place, void (*kernel)(Args), int blocks, int threads,
                   const Args &args, spc_stream stream)
{
#ifdef __CUDACC__
    kernel<<<blocks, threads, 0, stream>>>(args);
    return worked(place, cudaPeekAtLastError(), "launch");
#else
    fiber_on(stream);
    return worked(place, fiber_launch(kernel, blocks, threads, args), "launch");
#endif
}

static bool read_bytes(bench_place *place, const void *from, size_t bytes, spc_stream stream)
{
    const read_args args = {(const uint4 *)from, bytes / sizeof(uint4), nullptr};

    return launch(place, read_kernel, place->processors * 4, READ_THREADS, args, stream);
}

/* Memory to read that drives all else out of the caches. */
static bool open_scratch(bench_place *place, void **out)
{
    return worked(place, cudaMalloc(out, COLD * place->cache), "allocate") &&
           worked(place, cudaMemsetAsync(*out, 1, COLD * place->cache, place->stream), "set");
}

/* What a run begins behind: it keeps the device busy until all of the run has been sent. */
static bool lead(bench_place *place, place_way way, const void *scratch)
{
    const idle_args args = {100000};

    if (way == PLACE_EAGER) return true;
    if (way == PLACE_COLD && !read_bytes(place, scratch, COLD * place->cache, place->stream)) {
        return false;
    }
    return launch(place, idle_kernel, 1, 1, args, place->stream);
}

/* ---- time -------------------------------------------------------------------------------------
 */

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
    ok = ok && worked(place, cudaGraphInstantiate(out, graph, 0), "instantiate") &&
         worked(place, cudaGraphUpload(*out, place->stream), "upload");
    if (graph) (void)cudaGraphDestroy(graph);
    return ok;
}

static bool time_work(bench_place *place, place_work work, void *user, int32_t sets, int32_t runs,
                      place_way way, measure_times *us)
{
    const int32_t warm = runs / 10 + 1;
    std::vector<cudaGraphExec_t> graph((size_t)sets, nullptr);
    std::vector<double> value((size_t)runs);
    cudaEvent_t begin = nullptr, end = nullptr;
    void *scratch = nullptr;
    bool ok = worked(place, cudaEventCreate(&begin), "event") &&
              worked(place, cudaEventCreate(&end), "event") &&
              (way != PLACE_COLD || open_scratch(place, &scratch));

    for (int32_t s = 0; ok && way != PLACE_EAGER && s < sets && s < warm + runs; s++) {
        ok = record(place, work, user, s, &graph[s]);
    }
    for (int32_t i = -warm; ok && i < runs; i++) {
        const int32_t set = (i + warm) % sets;
        float ms = 0.0f;

        ok = lead(place, way, scratch) &&
             worked(place, cudaEventRecord(begin, place->stream), "event");
        ok = ok && (way == PLACE_EAGER
                        ? work(user, set, place->stream)
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
    (void)cudaFree(scratch);
    if (begin) (void)cudaEventDestroy(begin);
    if (end) (void)cudaEventDestroy(end);
    return ok;
}

static void close_place(bench_place *place)
{
    if (place->stream) (void)cudaStreamDestroy(place->stream);
}

/* A kernel is otherwise loaded when it is launched, which is too late while a graph is recorded. */
static bool load_kernels(bench_place *place)
{
    cudaFuncAttributes unused;

    return worked(place, cudaFuncGetAttributes(&unused, (const void *)read_kernel), "load") &&
           worked(place, cudaFuncGetAttributes(&unused, (const void *)idle_kernel), "load");
}

bool place_open_cuda(bench_place *place)
{
    cudaDeviceProp properties;
    int device = 0, driver = 0, runtime = 0, cache = 0;

    memset(place, 0, sizeof *place);
    if (!worked(place, cudaGetDevice(&device), "no device") || !load_kernels(place) ||
        !worked(place, cudaGetDeviceProperties(&properties, device), "no device") ||
        !worked(place,
                cudaDeviceGetAttribute(&place->processors, cudaDevAttrMultiProcessorCount, device),
                "no device") ||
        !worked(place, cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device),
                "no device") ||
        !worked(place, cudaStreamCreateWithFlags(&place->stream, cudaStreamNonBlocking),
                "stream")) {
        return false;
    }
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    (void)snprintf(place->name, sizeof place->name, "%s", properties.name);
    (void)snprintf(place->driver, sizeof place->driver, "driver %d, runtime %d", driver, runtime);
    place->device = true;
    place->cache = (size_t)cache;
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
