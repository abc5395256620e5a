/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_graph.cpp - graphs: nodes that are added by hand in the midst of a capture, and how all of
 * them run. */
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#include "fibers.h" /* last: see there */

static const fiber_node *begun; /* some of its blocks have, before the kernel in front has ended */

static cudaGraphNode_t handle_of(size_t node)
{
    return (cudaGraphNode_t)(uintptr_t)(node + 1);
}

static size_t node_of(cudaGraphNode_t handle)
{
    return (size_t)(uintptr_t)handle - 1;
}

/* Valid until the next call about the stream. */
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count)
{
    static thread_local std::vector<cudaGraphNode_t> behind;
    fiber_recording *r = fiber_capture_of(stream);

    *status = !r           ? cudaStreamCaptureStatusNone
              : r->invalid ? cudaStreamCaptureStatusInvalidated
                           : cudaStreamCaptureStatusActive;
    if (*status != cudaStreamCaptureStatusActive) return cudaSuccess;
    behind.clear();
    for (size_t node : r->streams[stream]) behind.push_back(handle_of(node));
    *graph = r->graph;
    *dependencies = behind.data();
    *edges = NULL;
    *count = behind.size();
    return cudaSuccess;
}

/* A handle is a place in this list, so that the first is 0. */
static std::vector<std::weak_ptr<fiber_value>> conditions;
static std::mutex conditions_change;

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle *out, cudaGraph_t graph,
                                             unsigned value, unsigned)
{
    if (!graph) return fiber_failed(cudaErrorInvalidValue);
    if (fiber_limited(fiber_gpu.no_condition)) return fiber_failed(cudaErrorNotSupported);
    graph->conditions.push_back(
        {std::make_shared<fiber_value>(fiber_value{value, false}), 0, value, 0});

    const std::lock_guard<std::mutex> lock(conditions_change);

    *out = graph->conditions.back().handle = conditions.size();
    conditions.push_back(graph->conditions.back().value);
    return cudaSuccess;
}

cudaError_t cudaGraphAddNode(cudaGraphNode_t *out, cudaGraph_t graph,
                             const cudaGraphNode_t *dependencies, const cudaGraphEdgeData *,
                             size_t count, cudaGraphNodeParams *params)
{
    fiber_node node = {};

    if (!graph || params->conditional.size != 1) return cudaErrorInvalidValue;
    for (fiber_condition &c : graph->conditions) {
        if (c.handle != params->conditional.handle) continue;
        if (c.nodes++ == 0) node.condition = c.value;
    }
    if (!node.condition) return cudaErrorInvalidValue; /* another graph's, or another node's */
    for (size_t i = 0; i < count; i++) node.after.push_back(node_of(dependencies[i]));
    node.inner = std::make_shared<fiber_graph>();
    graph->nodes.push_back(node);
    graph->bodies.assign(1, node.inner.get());
    params->conditional.phGraph_out = graph->bodies.data();
    *out = handle_of(graph->nodes.size() - 1);
    return cudaSuccess;
}

cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t *dependencies,
                                                const cudaGraphEdgeData *, size_t count, unsigned)
{
    fiber_recording *r = fiber_capture_of(stream);

    if (!r || r->invalid) return cudaErrorInvalidValue;
    r->streams[stream].clear();
    for (size_t i = 0; i < count; i++) r->streams[stream].push_back(node_of(dependencies[i]));
    return cudaSuccess;
}

/* Calls that may come at once are not defined: as there is no telling, there must be but one. */
void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value)
{
    const std::lock_guard<std::mutex> lock(conditions_change);
    const std::shared_ptr<fiber_value> to = conditions.at(handle).lock();

    if (to->set) {
        fprintf(stderr, "fibers: a condition is set twice\n");
        abort();
    }
    *to = {value, true};
}

/* All conditions have one node, here and in bodies. */
static bool is_whole(const fiber_graph *graph)
{
    for (const fiber_condition &c : graph->conditions) {
        if (c.nodes != 1) return false;
    }
    for (const fiber_node &node : graph->nodes) {
        if (node.inner && !is_whole(node.inner.get())) return false;
    }
    return true;
}

static bool has_early(const fiber_graph *graph, bool inside)
{
    for (const fiber_node &node : graph->nodes) {
        if (inside && node.early) return true;
        if (node.inner && has_early(node.inner.get(), true)) return true;
    }
    return false;
}

static bool has_body(const fiber_graph *graph)
{
    for (const fiber_node &node : graph->nodes) {
        if (node.inner) return true;
    }
    return false;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    std::lock_guard<std::mutex> lock(fiber_turn);

    if (!is_whole(graph)) return fiber_failed(cudaErrorInvalidValue);
    if (fiber_limited(fiber_gpu.no_bodies) && has_body(graph))
        return fiber_failed(cudaErrorNotSupported);
    if (fiber_limited(fiber_gpu.no_early_inside) && has_early(graph, false)) {
        return fiber_failed(cudaErrorNotSupported);
    }
    *out = new fiber_graph(*graph);
    fiber_gpu.graphs++;
    return cudaSuccess;
}

static void run_nodes(fiber_graph *graph, std::unique_lock<std::mutex> &lock);

static void run_node(fiber_node &node, std::unique_lock<std::mutex> &lock)
{
    if (begun == &node) {
        begun = nullptr;
        fiber_end_early(node.blocks, node.threads, node.body, node.user.data());
    } else if (node.inner) {
        if (!node.condition->now) return;
        fiber_gpu.bodies++;
        run_nodes(node.inner.get(), lock);
    } else if (node.blocks == 0) { /* it may wait for another thread's */
        lock.unlock();
        node.body(node.user.data());
        lock.lock();
    } else {
        fiber_run(node.blocks, node.threads, node.together, node.body, node.user.data());
    }
}

/* Sometimes, of the kernels that may. */
static void begin_early(fiber_node &node)
{
    if (!node.early || begun || !fiber_toss()) return;
    fiber_gpu.early++;
    begun = &node;
    fiber_begin_early(node.blocks, node.threads, node.body, node.user.data());
}

/* In any order that the nodes' edges allow. */
static void run_nodes(fiber_graph *graph, std::unique_lock<std::mutex> &lock)
{
    static uint32_t dice = 1;
    std::vector<size_t> left(graph->nodes.size()), ready;
    std::vector<std::vector<size_t>> behind(graph->nodes.size());

    for (fiber_condition &c : graph->conditions) *c.value = {c.initial, false};
    for (size_t i = 0; i < graph->nodes.size(); i++) {
        left[i] = graph->nodes[i].after.size();
        if (left[i] == 0) ready.push_back(i);
        for (size_t before : graph->nodes[i].after) behind[before].push_back(i);
    }
    while (!ready.empty() && !fiber_is_stuck()) {
        dice = dice * 1664525u + 1013904223u;

        size_t which = (dice >> 16) % ready.size();

        for (size_t i = 0; i < ready.size(); i++) { /* what has begun ends next */
            if (&graph->nodes[ready[i]] == begun) which = i;
        }

        const size_t node = ready[which];

        ready.erase(ready.begin() + (ptrdiff_t)which);
        if (&graph->nodes[node] != begun) {
            for (size_t i : behind[node]) begin_early(graph->nodes[i]);
        }
        run_node(graph->nodes[node], lock);
        for (size_t i : behind[node]) {
            if (--left[i] == 0) ready.push_back(i);
        }
    }
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t stream)
{
    if (fiber_limited(fiber_gpu.no_upload)) return fiber_failed(cudaErrorMemoryAllocation);
    if (fiber_limited(fiber_gpu.fails_at_upload > 0) && --fiber_gpu.fails_at_upload == 0) {
        return fiber_failed(cudaErrorMemoryAllocation);
    }
    return fiber_refuse(stream);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    if (fiber_is_stuck()) return cudaSuccess;
    if (fiber_capture_of(stream)) return fiber_refuse(stream);

    std::unique_lock<std::mutex> lock(fiber_turn);
    cudaError_t error = fiber_may_launch();

    if (error != cudaSuccess) return error;
    fiber_gpu.replays++;
    if (fiber_gpu.late) {
        return fiber_send(stream, [graph] {
            std::unique_lock<std::mutex> later(fiber_turn);

            run_nodes(graph, later);
        });
    }
    run_nodes(graph, lock);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    if (!fiber_captures()) fiber_catch_up(); /* one that is under way ends */
    std::lock_guard<std::mutex> lock(fiber_turn);

    delete graph;
    fiber_gpu.graphs--;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    return cudaGraphDestroy(graph);
}
