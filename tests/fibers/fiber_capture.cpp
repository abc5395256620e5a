/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_capture.cpp - launches, and what becomes of them while a thread records a graph: who takes
 * part in a capture, and what it does not bear. */
#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <utility>
#include <vector>

#include "fibers.h" /* last: see there */

/* Of this thread: bodies behind graphs. */
static thread_local std::vector<std::unique_ptr<fiber_recording>> recorded;
static std::set<fiber_recording *> recordings; /* of all threads */
static std::mutex of_recordings;

bool fiber_captures(void)
{
    return !recorded.empty();
}

fiber_recording *fiber_capture_of(cudaStream_t stream)
{
    for (auto &r : recorded) {
        if (r->streams.count(stream)) return r.get();
    }
    return nullptr;
}

/* Is it recorded, and no body of it is meanwhile? */
bool fiber_captures_on(cudaStream_t stream)
{
    return fiber_captures() && fiber_capture_of(stream) == recorded.back().get();
}

/* What must not be while this thread records: all that it does record is lost. */
cudaError_t fiber_unsafe(void)
{
    for (auto &r : recorded) r->invalid = true;
    return fiber_captures() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

/* The same of what waits for the whole device, whoever records. */
cudaError_t fiber_unsafe_anywhere(void)
{
    std::lock_guard<std::mutex> lock(of_recordings);

    for (fiber_recording *r : recordings) r->invalid = true;
    return recordings.empty() ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

static cudaError_t invalidate(fiber_recording *r, cudaError_t error)
{
    r->invalid = true;
    return fiber_failed(error);
}

cudaError_t fiber_refuse(cudaStream_t stream)
{
    fiber_recording *r = fiber_capture_of(stream);

    return r ? invalidate(r, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

/* One more node behind what its stream has had. */
static size_t add_node(fiber_recording *r, cudaStream_t stream, fiber_node node)
{
    node.after = r->streams[stream];
    r->graph->nodes.push_back(std::move(node));
    r->streams[stream] = {r->graph->nodes.size() - 1};
    return r->graph->nodes.size() - 1;
}

/* Behind one kernel, and nothing else. */
static bool may_be_early(fiber_recording *r)
{
    const fiber_frontier &behind = r->streams[fiber_launches_on()];

    return !fiber_limited(fiber_gpu.no_early) && behind.size() == 1 &&
           r->graph->nodes[behind[0]].blocks > 0;
}

/* On a device a launch on another stream would not be recorded but run. */
static cudaError_t record_launch(fiber_node node)
{
    fiber_recording *r = fiber_capture_of(fiber_launches_on());

    if (r != recorded.back().get()) {
        fprintf(stderr, "fibers: a launch on a stream that is not recorded, while another is\n");
        abort();
    }
    if (r->invalid) return fiber_failed(cudaErrorStreamCaptureInvalidated);
    if (node.early && !may_be_early(r)) return invalidate(r, cudaErrorInvalidValue);
    if (fiber_limited(fiber_gpu.no_body) && r->is_body) { /* this alone */
        return fiber_failed(cudaErrorStreamCaptureUnsupported);
    }
    if (fiber_limited(fiber_gpu.no_early_body) && node.early && r->is_body) {
        return invalidate(r, cudaErrorNotSupported);
    }
    if (fiber_limited(fiber_gpu.no_record)) return invalidate(r, cudaErrorStreamCaptureUnsupported);
    add_node(r, fiber_launches_on(), std::move(node));
    return cudaSuccess;
}

/* ---- kernels are loaded before they are recorded ---- */

static std::set<std::pair<int, const void *>> loaded; /* of a device */

/* Was it not yet? */
static bool is_new(const void *kernel)
{
    std::lock_guard<std::mutex> lock(of_recordings);
    int device;

    (void)cudaGetDevice(&device);
    return loaded.insert({device, kernel}).second;
}

void fiber_load(const void *kernel)
{
    (void)is_new(kernel);
}

/* To load one may take memory, and wait for the device. */
static cudaError_t must_be_loaded(const void *kernel)
{
    if (!is_new(kernel)) return cudaSuccess;
    if (fiber_meets()) {
        fprintf(stderr, "fibers: a kernel is loaded while the device waits for another rank\n");
        abort();
    }
    if (!fiber_captures()) return cudaSuccess;
    fprintf(stderr, "fibers: a kernel is loaded while a graph is recorded\n");
    return fiber_unsafe();
}

cudaError_t fiber_submit(const void *kernel, int blocks, int threads, bool together, bool early,
                         void (*body)(void *), const void *user, size_t bytes)
{
    const char *from = (const char *)user;
    std::vector<char> copy(from, from + bytes);
    cudaError_t error = must_be_loaded(kernel);
    int device;

    if (error != cudaSuccess) return error;
    (void)cudaGetDevice(&device);
    if (device != fiber_device_of(fiber_launches_on())) return cudaErrorInvalidResourceHandle;
    if (blocks < 1 || threads < 1 || threads > 1024) return cudaErrorInvalidConfiguration;
    fiber_check_arguments(user, bytes);
    if (early && fiber_code() < 90) {
        fprintf(stderr, "fibers: a kernel begins early, and its code does not wait\n");
        abort();
    }
    if (fiber_captures()) {
        return record_launch({blocks, threads, together, early, body, copy, {}, {}, {}});
    }
    if (fiber_is_stuck()) return cudaSuccess;

    std::lock_guard<std::mutex> lock(fiber_turn);

    error = fiber_may_launch();
    if (error == cudaSuccess && fiber_gpu.late) {
        return fiber_send(fiber_launches_on(), [=]() mutable {
            fiber_check_words(copy.data(), copy.size());
            fiber_run(blocks, threads, together, body, copy.data());
        });
    }
    if (error == cudaSuccess) fiber_run(blocks, threads, together, body, copy.data());
    return error;
}

bool fiber_note_call(void (*call)(void *), const void *user, size_t bytes)
{
    const char *from = (const char *)user;
    fiber_recording *r;

    if (!fiber_captures()) {
        fiber_catch_up();
        return false;
    }
    r = recorded.back().get();
    add_node(r, r->origin,
             {0, 0, false, false, call, std::vector<char>(from, from + bytes), {}, {}, {}});
    return true;
}

void fiber_hold(void (*let_go)(void *), void *user)
{
    recorded.back()->graph->held.push_back(std::shared_ptr<void>(user, let_go));
}

static cudaError_t begin(cudaStream_t stream, fiber_graph *graph, bool is_body)
{
    static uint64_t ids;
    std::lock_guard<std::mutex> lock(of_recordings);

    recorded.emplace_back(
        new fiber_recording{++ids, graph, stream, is_body, {{stream, {}}}, {false}, false});
    recordings.insert(recorded.back().get());
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    if (fiber_limited(fiber_gpu.no_capture)) return fiber_failed(cudaErrorStreamCaptureUnsupported);
    if (fiber_capture_of(stream)) return fiber_failed(cudaErrorInvalidValue);
    {
        std::lock_guard<std::mutex> lock(fiber_turn);

        fiber_gpu.graphs++;
    }
    return begin(stream, new fiber_graph, false);
}

/* Does every last node of a stream lie before those of the origin? */
static bool is_joined(const fiber_recording *r)
{
    std::vector<size_t> next = r->streams.at(r->origin);
    std::set<size_t> before;

    while (!next.empty()) {
        const size_t node = next.back();

        next.pop_back();
        if (!before.insert(node).second) continue;
        for (size_t i : r->graph->nodes[node].after) next.push_back(i);
    }
    for (auto &stream : r->streams) {
        for (size_t node : stream.second) {
            if (!before.count(node)) return false;
        }
    }
    return true;
}

/* A body that is not valid when it ends is freed although its node has it, and to end the graph
 * around it is the end of the process, as to destroy it may be:
 * https://github.com/NVIDIA/cuda-python/issues/2918. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    std::unique_ptr<fiber_recording> r;
    cudaError_t error = cudaSuccess;

    *out = NULL;
    if (!fiber_captures() || recorded.back()->origin != stream) {
        return cudaErrorStreamCaptureUnmatched;
    }
    {
        std::lock_guard<std::mutex> lock(of_recordings);

        r = std::move(recorded.back());
        recorded.pop_back();
        recordings.erase(r.get());
    }
    if (r->lost_body) {
        fprintf(stderr, "fibers: a driver would crash: a conditional node's body was not valid\n");
        abort();
    }
    if (r->invalid) {
        error = cudaErrorStreamCaptureInvalidated;
    } else if (!is_joined(r.get())) {
        error = cudaErrorStreamCaptureUnjoined;
    }
    if (error == cudaSuccess) {
        *out = r->graph;
    } else if (r->is_body) {
        r->graph->lost = true;
        if (fiber_captures()) recorded.back()->lost_body = true;
    } else {
        std::lock_guard<std::mutex> lock(fiber_turn);

        delete r->graph;
        fiber_gpu.graphs--;
    }
    return fiber_failed(error);
}

cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                          const cudaGraphNode_t *, const cudaGraphEdgeData *,
                                          size_t, cudaStreamCaptureMode)
{
    if (!graph || fiber_capture_of(stream)) return cudaErrorInvalidValue;
    return begin(stream, graph, true);
}

cudaError_t fiber_wait_in_capture(fiber_recording *to, cudaStream_t stream, cudaEvent_t event)
{
    fiber_recording *from = nullptr;

    for (auto &r : recorded) {
        if (r->id == event->in) from = r.get();
    }
    if (!from && to) return invalidate(to, cudaErrorStreamCaptureIsolation);
    if (!from) return cudaErrorInvalidValue; /* that capture has ended */
    if (to && to != from) {
        from->invalid = true;
        return invalidate(to, cudaErrorStreamCaptureMerge);
    }
    for (size_t node : event->behind) from->streams[stream].push_back(node);
    return cudaSuccess;
}
