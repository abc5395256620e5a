/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_driver.c - what the engine takes for granted of graphs, asked of a driver in as few
 * calls as it takes, and what a driver does not bear, asked of what stands in for one.
 *
 * Where a test fails on a GPU the engine goes on without what was refused and says so
 * (spc_cuda_record of backend_cuda_graph.c, backend_cuda_record.c); its name tells what that was.
 */
#include "cuda/launch.h"
#include "cuda/ops.h"
#include "cuda/round.h"

#include "device_memory.h"

/* Conditional nodes have had the names of these calls since CUDA 13. */
#if !defined(CUDART_VERSION) || CUDART_VERSION >= 13000

/* Streams that are recorded, one inside the other, and what kernels there count. */
typedef struct {
    cudaStream_t stream[3];
    float *count, *one;         /* [1] each */
    spc_round_outcome *outcome; /* [2] whose `live` is what conditions become */
    int32_t *from;              /* [2] 0, 1 */
} probe;

static void add_one(const probe *p, int depth, bool early)
{
    spc_add_args a = {p->count, p->one, p->count, 1, early};

    ok(spc_cuda_add(&a, p->stream[depth]), "add");
}

static probe open_probe(void)
{
    probe p;

    for (int i = 0; i < 3; i++) {
        ok(cudaStreamCreateWithFlags(&p.stream[i], cudaStreamNonBlocking), "stream");
    }
    p.count = shared(sizeof *p.count);
    p.one = shared(sizeof *p.one);
    p.outcome = shared(2 * sizeof *p.outcome);
    p.from = shared(2 * sizeof *p.from);
    *p.count = 0;
    *p.one = 1;
    p.from[0] = 0;
    p.from[1] = 1;
    ok(spc_cuda_round_load(), "load");
    spc_cuda_only_load(true);
    add_one(&p, 0, false);
    spc_cuda_only_load(false);
    return p;
}

static void close_probe(probe *p)
{
    for (int i = 0; i < 3; i++) ok(cudaStreamDestroy(p->stream[i]), "stream");
    unshare(p->count);
    unshare(p->one);
    unshare(p->outcome);
    unshare(p->from);
}

static bool begins_early(void)
{
    bool early;

    ok(spc_cuda_has_code(&early), "code");
    return early;
}

static void begin(const probe *p)
{
    ok(cudaStreamBeginCapture(p->stream[0], cudaStreamCaptureModeThreadLocal), "begin");
}

/* As the engine does: the graph goes, what was made of it stays. */
static cudaGraphExec_t end(const probe *p)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;

    ok(cudaStreamEndCapture(p->stream[0], &graph), "end");
    ok(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    ok(cudaGraphUpload(exec, p->stream[0]), "upload");
    ok(cudaGraphDestroy(graph), "destroy");
    return exec;
}

/* What a run adds where the conditions are these. */
static float added(const probe *p, cudaGraphExec_t exec, int32_t outer, int32_t inner)
{
    const float before = *p->count;

    p->outcome[0].live = outer;
    p->outcome[1].live = inner;
    ok(cudaGraphLaunch(exec, p->stream[0]), "launch");
    ok(cudaStreamSynchronize(p->stream[0]), "run");
    return *p->count - before;
}

static spc_round_condition ask(const probe *p, int depth)
{
    enum cudaStreamCaptureStatus status;
    const cudaGraphNode_t *behind;
    const cudaGraphEdgeData *edges;
    cudaGraphConditionalHandle handle;
    cudaGraph_t graph;
    size_t count;
    spc_round_ask_args args = {p->outcome, p->from + depth, 1, {0, 1}};

    ok(cudaStreamGetCaptureInfo(p->stream[depth], &status, NULL, &graph, &behind, &edges, &count),
       "graph under record");
    cr_assert_eq(status, cudaStreamCaptureStatusActive);
    ok(cudaGraphConditionalHandleCreate(&handle, graph, 0, cudaGraphCondAssignDefault), "handle");
    args.condition.handle = handle;
    ok(spc_cuda_round_ask(&args, p->stream[depth]), "ask");
    return args.condition;
}

/* A body behind what the stream has had, recorded on the next one, until end_body. */
static void begin_body(const probe *p, int depth, spc_round_condition condition)
{
    struct cudaGraphNodeParams node = {.type = cudaGraphNodeTypeConditional};
    enum cudaStreamCaptureStatus status;
    const cudaGraphNode_t *behind;
    const cudaGraphEdgeData *edges;
    cudaGraphNode_t added;
    cudaGraph_t graph;
    size_t count;

    node.conditional.handle = condition.handle;
    node.conditional.type = cudaGraphCondTypeIf;
    node.conditional.size = 1;
    ok(cudaStreamGetCaptureInfo(p->stream[depth], &status, NULL, &graph, &behind, &edges, &count),
       "graph under record");
    ok(cudaGraphAddNode(&added, graph, behind, edges, count, &node), "conditional node");
    ok(cudaStreamUpdateCaptureDependencies(p->stream[depth], &added, NULL, 1,
                                           cudaStreamSetCaptureDependencies),
       "behind it");
    ok(cudaStreamBeginCaptureToGraph(p->stream[depth + 1], node.conditional.phGraph_out[0], NULL,
                                     NULL, 0, cudaStreamCaptureModeThreadLocal),
       "body");
}

static void end_body(const probe *p, int depth)
{
    cudaGraph_t body;

    ok(cudaStreamEndCapture(p->stream[depth + 1], &body), "end of a body");
}

/* ---- what a driver is to do ---- */

Test(cuda_driver, a_graph_has_kernels_that_begin_early)
{
    probe p = open_probe();
    cudaGraphExec_t exec;

    if (!begins_early()) return;
    begin(&p);
    for (int i = 0; i < 8; i++) add_one(&p, 0, i > 0);
    exec = end(&p);
    for (int i = 0; i < 3; i++) cr_expect_eq(added(&p, exec, 0, 0), 8.0f);
    ok(cudaGraphExecDestroy(exec), "destroy");
    close_probe(&p);
}

/* Two kernels, and a body of four between them. */
static cudaGraphExec_t record_body(const probe *p, bool early)
{
    begin(p);
    add_one(p, 0, false);
    begin_body(p, 0, ask(p, 0));
    for (int i = 0; i < 4; i++) add_one(p, 1, early && i > 0);
    end_body(p, 0);
    add_one(p, 0, false);
    return end(p);
}

static void expect_body(bool early)
{
    probe p = open_probe();
    cudaGraphExec_t exec = record_body(&p, early);

    cr_expect_eq(added(&p, exec, 1, 0), 6.0f);
    cr_expect_eq(added(&p, exec, 0, 0), 2.0f);
    cr_expect_eq(added(&p, exec, 1, 0), 6.0f);
    ok(cudaGraphExecDestroy(exec), "destroy");
    close_probe(&p);
}

Test(cuda_driver, a_body_runs_where_a_kernel_says_so)
{
    expect_body(false);
}

Test(cuda_driver, a_body_has_kernels_that_begin_early)
{
    if (begins_early()) expect_body(true);
}

/* As a chained round has its late rows, and a kernel behind them. */
static void expect_inner_body(bool early)
{
    probe p = open_probe();
    cudaGraphExec_t exec;

    begin(&p);
    begin_body(&p, 0, ask(&p, 0));
    for (int i = 0; i < 2; i++) add_one(&p, 1, early && i > 0);
    begin_body(&p, 1, ask(&p, 1));
    for (int i = 0; i < 2; i++) add_one(&p, 2, early && i > 0);
    end_body(&p, 1);
    add_one(&p, 1, false);
    end_body(&p, 0);
    exec = end(&p);
    cr_expect_eq(added(&p, exec, 1, 1), 5.0f);
    cr_expect_eq(added(&p, exec, 1, 0), 3.0f);
    cr_expect_eq(added(&p, exec, 0, 1), 0.0f);
    cr_expect_eq(added(&p, exec, 1, 1), 5.0f);
    ok(cudaGraphExecDestroy(exec), "destroy");
    close_probe(&p);
}

Test(cuda_driver, a_body_has_a_body)
{
    expect_inner_body(false);
}

Test(cuda_driver, a_body_in_a_body_has_kernels_that_begin_early)
{
    if (begins_early()) expect_inner_body(true);
}

/* As rounds in turns do.  The toolkit's header calls calls undefined that set conditions at the
 * same time, and does not say whether it means those of one condition. */
Test(cuda_driver, graphs_side_by_side_have_a_condition_each)
{
    probe p[2] = {open_probe(), open_probe()};
    cudaGraphExec_t exec[2];

    for (int i = 0; i < 2; i++) {
        begin(&p[i]);
        begin_body(&p[i], 0, ask(&p[i], 0));
        add_one(&p[i], 1, false);
        end_body(&p[i], 0);
        exec[i] = end(&p[i]);
    }
    for (int run = 0; run < 200; run++) {
        float before[2];

        for (int i = 0; i < 2; i++) {
            before[i] = *p[i].count;
            p[i].outcome[0].live = run >> i & 1;
        }
        for (int i = 0; i < 2; i++) ok(cudaGraphLaunch(exec[i], p[i].stream[0]), "launch");
        for (int i = 0; i < 2; i++) ok(cudaStreamSynchronize(p[i].stream[0]), "run");
        for (int i = 0; i < 2; i++) {
            cr_expect_eq(*p[i].count - before[i], (float)(run >> i & 1), "run %d, graph %d", run,
                         i);
        }
    }
    for (int i = 0; i < 2; i++) {
        ok(cudaGraphExecDestroy(exec[i]), "destroy");
        close_probe(&p[i]);
    }
}

/* ---- what it does not bear ---- */

#ifdef SPC_TESTS_FIBER_RUNTIME_H
#include <signal.h>

enum { EVENT, STREAM, QUERY, WAYS };

static cudaError_t wait_by(const probe *p, cudaEvent_t event, int way)
{
    if (way == EVENT) return cudaEventSynchronize(event);
    return way == STREAM ? cudaStreamSynchronize(p->stream[1]) : cudaStreamQuery(p->stream[1]);
}

/* Not even for what is not recorded. */
Test(cuda_driver, a_thread_that_records_waits_for_nothing)
{
    probe p = open_probe();
    cudaEvent_t event;
    cudaGraph_t graph;

    ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    ok(cudaEventRecord(event, p.stream[1]), "event");
    for (int way = 0; way < WAYS; way++) {
        begin(&p);
        cr_expect_eq(wait_by(&p, event, way), cudaErrorStreamCaptureUnsupported, "%d", way);
        cr_expect_eq(cudaStreamEndCapture(p.stream[0], &graph), cudaErrorStreamCaptureInvalidated);
        cr_expect_null(graph);
        ok(wait_by(&p, event, way), "behind it");
    }
    ok(cudaEventDestroy(event), "event");
    close_probe(&p);
}

/* The next one may lie in memory where the last one lay. */
Test(cuda_driver, an_event_goes_with_the_graph_it_was_recorded_in)
{
    probe p = open_probe();
    cudaEvent_t event;
    cudaGraph_t graph;

    ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    for (int i = 0; i < 2; i++) {
        begin(&p);
        add_one(&p, 0, false);
        if (i == 0) ok(cudaEventRecord(event, p.stream[0]), "event");
        if (i == 1) {
            cr_expect_eq(cudaStreamWaitEvent(p.stream[0], event, 0),
                         cudaErrorStreamCaptureIsolation);
        }
        cr_expect_eq(cudaStreamEndCapture(p.stream[0], &graph),
                     i == 0 ? cudaSuccess : cudaErrorStreamCaptureInvalidated);
        if (graph) ok(cudaGraphDestroy(graph), "destroy");
    }
    ok(cudaEventDestroy(event), "event");
    close_probe(&p);
}

Test(cuda_driver, a_condition_is_set_once, .signal = SIGABRT)
{
    probe p = open_probe();
    spc_round_condition condition;
    spc_round_ask_args again = {p.outcome, p.from, 1, {0, 1}};
    cudaGraphExec_t exec;

    begin(&p);
    condition = ask(&p, 0);
    again.condition = condition;
    ok(spc_cuda_round_ask(&again, p.stream[0]), "ask");
    begin_body(&p, 0, condition);
    add_one(&p, 1, false);
    end_body(&p, 0);
    exec = end(&p);
    (void)added(&p, exec, 1, 0);
}

/* A kernel that says so elsewhere stops the device. */
Test(cuda_driver, a_condition_is_set_by_its_own_graph, .signal = SIGABRT)
{
    probe p = open_probe();
    spc_round_ask_args args = {p.outcome, p.from, 1, {0, 1}};
    cudaGraphExec_t exec;

    begin(&p);
    args.condition = ask(&p, 0);
    begin_body(&p, 0, args.condition);
    add_one(&p, 1, false);
    end_body(&p, 0);
    exec = end(&p);
    (void)added(&p, exec, 1, 0);
    (void)spc_cuda_round_ask(&args, p.stream[0]);
}

/* A wait for a stream says nothing of others. */
Test(cuda_driver, a_wait_is_for_one_stream)
{
    probe p = open_probe();
    bool waited = false;

    fiber_gpu.late = true;
    for (int run = 0; run < 64; run++) {
        const float before = *p.count;

        add_one(&p, 0, false);
        ok(cudaMemsetAsync(p.from, 0, sizeof *p.from, p.stream[1]), "set");
        ok(cudaStreamSynchronize(p.stream[1]), "wait");
        waited = waited || *p.count == before;
        ok(cudaStreamSynchronize(p.stream[0]), "wait");
        cr_expect_eq(*p.count, before + 1);
    }
    fiber_gpu.late = false;
    cr_expect(waited, "the other stream has always been waited for, too");
    close_probe(&p);
}

/* To free memory may wait for the device, as the toolkit has it, and need not. */
Test(cuda_driver, memory_is_freed_when_the_device_has_done_with_it, .signal = SIGABRT)
{
    probe p = open_probe();

    fiber_gpu.late = true;
    add_one(&p, 0, false);
    ok(cudaFree(p.one), "free");
    (void)cudaStreamSynchronize(p.stream[0]);
}

/* So it is for what others are about meanwhile. */
Test(cuda_driver, memory_is_freed_while_the_device_is_at_work)
{
    probe p = open_probe(), other = open_probe();

    fiber_gpu.late = true;
    add_one(&p, 0, false);
    close_probe(&other);
    ok(cudaStreamSynchronize(p.stream[0]), "run");
    fiber_gpu.late = false;
    cr_expect_eq(*p.count, 1);
    close_probe(&p);
}

/* Kernels of one run between those of the other: a += b, b += a, by turns that nobody decides. */
Test(cuda_driver, graphs_of_two_streams_overlap)
{
    enum { NODES = 8 };
    probe p[2] = {open_probe(), open_probe()};
    cudaGraphExec_t exec[2];
    float one_by_one[2] = {1, 1};
    bool overlap = false;

    for (int i = 0; i < 2; i++) {
        spc_add_args a = {p[i].count, p[1 - i].count, p[i].count, 1, false};

        begin(&p[i]);
        for (int k = 0; k < NODES; k++) ok(spc_cuda_add(&a, p[i].stream[0]), "add");
        exec[i] = end(&p[i]);
    }
    for (int k = 0; k < 2 * NODES; k++) {
        one_by_one[k / NODES] += one_by_one[1 - k / NODES];
    }
    fiber_gpu.late = true;
    for (int run = 0; run < 64; run++) {
        *p[0].count = *p[1].count = 1;
        for (int i = 0; i < 2; i++) ok(cudaGraphLaunch(exec[i], p[i].stream[0]), "launch");
        for (int i = 0; i < 2; i++) ok(cudaStreamSynchronize(p[i].stream[0]), "run");
        overlap = overlap || (*p[0].count != one_by_one[0] && *p[1].count != one_by_one[0]);
    }
    fiber_gpu.late = false;
    cr_expect(overlap);
    for (int i = 0; i < 2; i++) {
        ok(cudaGraphExecDestroy(exec[i]), "destroy");
        close_probe(&p[i]);
    }
}

#ifdef SPC_TESTS_PTX
/* Weights are all that a kernel may read before it waits; these another kernel has written. */
Test(cuda_driver, what_kernels_write_is_not_read_early, .signal = SIGABRT)
{
    probe p = open_probe();
    float *weights = shared(4 * sizeof *weights), *in = shared(4 * sizeof *in);
    const spc_add_args written = {in, in, weights, 4, false};
    spc_linear_args a = {.in = in, .out = p.count, .parts = 1, .rows = 1, .width = 1};
    cudaGraphExec_t exec;

    a.part[0] = (spc_cuda_matrix){.data = weights, .rows = 1, .cols = 4, .stride = 4};
    ok(spc_cuda_linear_row(&a, p.stream[0]), "linear");
    ok(spc_cuda_add(&written, p.stream[0]), "add");
    begin(&p);
    add_one(&p, 0, false);
    a.early = true;
    ok(spc_cuda_linear_row(&a, p.stream[0]), "linear");
    exec = end(&p);
    for (int i = 0; i < 32; i++) (void)added(&p, exec, 0, 0); /* sometimes it begins early */
}
#endif
#endif

#endif
