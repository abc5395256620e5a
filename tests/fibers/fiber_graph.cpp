/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_graph.cpp - graphs: nodes that are added by hand in the midst of a capture, and how all of
 * them run. */
#include <memory>
#include <mutex>
#include <set>
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
        {std::make_shared<fiber_value>(fiber_value{value, false, false}), 0, value, 0});

    const std::lock_guard<std::mutex> lock(conditions_change);

    *out = graph->conditions.back().handle = conditions.size();
    conditions.push_back(graph->conditions.back().value);
    return cudaSuccess;
}

/* Graphs that were made so, until they are destroyed: those that nobody may destroy are not lost.
 */
static std::set<cudaGraph_t> made;

cudaError_t cudaGraphCreate(cudaGraph_t *out, unsigned)
{
    std::lock_guard<std::mutex> lock(fiber_turn);

    *out = new fiber_graph{};
    made.insert(*out);
    fiber_gpu.graphs++;
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

    if (!to || !to->running) {
        fprintf(stderr, "fibers: a condition is set by a kernel outside its graph\n");
        abort();
    }
    if (to->set) {
        fprintf(stderr, "fibers: a condition is set twice\n");
        abort();
    }
    to->now = value;
    to->set = true;
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

/* Of the kernels that may, some begin at times. */
static void begin_early(fiber_node &node)
{
    if (!node.early || begun || !fiber_toss()) return;
    fiber_gpu.early++;
    begun = &node;
    fiber_begin_early(node.blocks, node.threads, node.body, node.user.data());
}

/* How far a graph, or the body of a node, has come. */
struct fiber_part {
    fiber_graph *graph;
    std::vector<size_t> left, ready;
    std::vector<std::vector<size_t>> behind;
    size_t inside; /* node whose body runs */
};

/* A graph that runs: the graph, and the bodies that it is in, the innermost last. */
typedef std::vector<fiber_part> fiber_run_of_graph;

static fiber_part part_of(fiber_graph *graph)
{
    fiber_part p = {graph, std::vector<size_t>(graph->nodes.size()), {}, {}, 0};

    p.behind.resize(graph->nodes.size());
    for (fiber_condition &c : graph->conditions) *c.value = {c.initial, false, true};
    for (size_t i = 0; i < graph->nodes.size(); i++) {
        p.left[i] = graph->nodes[i].after.size();
        if (p.left[i] == 0) p.ready.push_back(i);
        for (size_t before : graph->nodes[i].after) p.behind[before].push_back(i);
    }
    return p;
}

static void end_node(fiber_part &p, size_t node)
{
    for (size_t i : p.behind[node]) {
        if (--p.left[i] == 0) p.ready.push_back(i);
    }
}

/* Any that may run: what has begun ends next. */
static size_t take_node(fiber_part &p)
{
    static uint32_t dice = 1;
    size_t which, node;

    dice = dice * 1664525u + 1013904223u;
    which = (dice >> 16) % p.ready.size();
    for (size_t i = 0; i < p.ready.size(); i++) {
        if (&p.graph->nodes[p.ready[i]] == begun) which = i;
    }
    node = p.ready[which];
    p.ready.erase(p.ready.begin() + (ptrdiff_t)which);
    return node;
}

/* What is not a body. */
static void run_node(fiber_node &node, std::unique_lock<std::mutex> &lock)
{
    fiber_check_words(node.user.data(), node.user.size());
    if (begun == &node) {
        begun = nullptr;
        fiber_end_early(node.blocks, node.threads, node.body, node.user.data());
    } else if (node.blocks == 0) { /* it may wait for another thread's */
        lock.unlock();
        node.body(node.user.data());
        lock.lock();
    } else {
        fiber_run(node.blocks, node.threads, node.together, node.body, node.user.data());
    }
}

static void end_part(fiber_run_of_graph *run)
{
    for (fiber_condition &c : run->back().graph->conditions) c.value->running = false;
    run->pop_back();
    if (!run->empty()) end_node(run->back(), run->back().inside);
}

/* One more node, in any order that edges allow; true: that was the last. */
static bool run_step(fiber_run_of_graph *run, std::unique_lock<std::mutex> &lock)
{
    fiber_part &p = run->back();
    size_t at;

    if (p.ready.empty() || fiber_is_stuck()) {
        end_part(run);
        return run->empty();
    }
    at = take_node(p);

    fiber_node &node = p.graph->nodes[at];

    if (&node != begun) {
        for (size_t i : p.behind[at]) begin_early(p.graph->nodes[i]);
    }
    if (node.inner && node.condition->now) {
        fiber_gpu.bodies++;
        p.inside = at;
        run->push_back(part_of(node.inner.get()));
        return false;
    }
    if (!node.inner) run_node(node, lock);
    end_node(p, at);
    return false;
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
        const auto run = std::make_shared<fiber_run_of_graph>();

        return fiber_send_steps(stream, [graph, run] {
            std::unique_lock<std::mutex> later(fiber_turn);

            if (run->empty()) run->push_back(part_of(graph));
            return run_step(run.get(), later);
        });
    }

    fiber_run_of_graph run = {part_of(graph)};

    while (!run_step(&run, lock)) continue;
    return cudaSuccess;
}

/* One that is under way goes when it has ended, which nobody waits for. */
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    for (const fiber_node &node : graph->nodes) {
        if (!node.inner || !node.inner->lost) continue;
        fprintf(stderr, "fibers: a driver would crash: a graph has a body that was not valid\n");
        abort();
    }
    fiber_at_end([graph] { delete graph; });

    std::lock_guard<std::mutex> lock(fiber_turn);

    made.erase(graph);
    fiber_gpu.graphs--;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    return cudaGraphDestroy(graph);
}
