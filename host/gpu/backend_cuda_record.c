/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_record.c - the graphs of fused rounds: one for every shape that has come twice, and
 * a second one for the drafts where these go to a stream of their own.
 *
 * The late rows are the body of a conditional node inside; a chained round is one altogether. */
#include "backend_cuda_fused.h"

#include "cuda/launch.h"

#include <string.h>

static void forget(cuda_fused_graph *g)
{
    if (g->exec) (void)cudaGraphExecDestroy(g->exec);
    if (g->drafts) (void)cudaGraphExecDestroy(g->drafts);
    g->exec = g->drafts = NULL;
}

void spc_cuda_free_fused(spc_runner *r)
{
    for (int32_t i = 0; i < CUDA_FUSED_GRAPHS; i++) forget(&r->fused_graphs[i]);
}

/* The graph of a shape; *seen receives whether the shape has come before. */
static cuda_fused_graph *graph_of(spc_runner *v, const cuda_fused_shape *shape, bool *seen)
{
    cuda_fused_graph *oldest = &v->fused_graphs[0];

    v->graphs.clock++;
    *seen = true;
    for (int32_t i = 0; i < CUDA_FUSED_GRAPHS; i++) {
        cuda_fused_graph *g = &v->fused_graphs[i];

        if (g->used > 0 && memcmp(&g->shape, shape, sizeof *shape) == 0) {
            g->used = v->graphs.clock;
            return g;
        }
        if (g->used < oldest->used) oldest = g;
    }
    *seen = false;
    forget(oldest);
    *oldest = (cuda_fused_graph){.used = v->graphs.clock};
    memcpy(&oldest->shape, shape, sizeof *shape);
    return oldest;
}

/* A graph can be asked whether to run a body since CUDA 12.4, by these names since 13.0. */
#if !defined(CUDART_VERSION) || CUDART_VERSION >= 13000

/* A condition of the graph under record, if it can have one. */
static spc_round_condition new_condition(const spc_backend *b)
{
    cudaStream_t stream = b->stream;
    enum cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = NULL;
    const cudaGraphNode_t *behind;
    const cudaGraphEdgeData *edges;
    cudaGraphConditionalHandle condition = 0;
    size_t count;

    if (b->no_bodies) return (spc_round_condition){0, 0};
    if (cudaStreamGetCaptureInfo(stream, &capturing, NULL, &graph, &behind, &edges, &count) ==
            cudaSuccess &&
        capturing == cudaStreamCaptureStatusActive &&
        cudaGraphConditionalHandleCreate(&condition, graph, 0, cudaGraphCondAssignDefault) ==
            cudaSuccess) {
        return (spc_round_condition){condition, 1};
    }
    (void)cudaGetLastError();
    return (spc_round_condition){0, 0};
}

static struct cudaGraphNodeParams body_if(cudaGraphConditionalHandle condition)
{
    struct cudaGraphNodeParams params = {.type = cudaGraphNodeTypeConditional};

    params.conditional.handle = condition;
    params.conditional.type = cudaGraphCondTypeIf;
    params.conditional.size = 1;
    return params;
}

/* Record what `run` launches as the body of a conditional node behind all that was recorded so far;
 * the body is recorded on a stream of its own. */
static bool record_body(fused_round *r, spc_round_condition condition, cudaStream_t on,
                        bool (*run)(fused_round *r, spc_error *err), spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    cudaStream_t stream = b->stream;
    enum cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = NULL, body = NULL;
    const cudaGraphNode_t *behind;
    const cudaGraphEdgeData *edges;
    cudaGraphNode_t node;
    size_t count;
    bool ok, early = b->early;

    struct cudaGraphNodeParams params = body_if(condition.handle);

    if (cudaStreamGetCaptureInfo(stream, &capturing, NULL, &graph, &behind, &edges, &count) !=
            cudaSuccess ||
        capturing != cudaStreamCaptureStatusActive ||
        cudaGraphAddNode(&node, graph, behind, edges, count, &params) != cudaSuccess ||
        cudaStreamUpdateCaptureDependencies(stream, &node, NULL, 1,
                                            cudaStreamSetCaptureDependencies) != cudaSuccess ||
        cudaStreamBeginCaptureToGraph(on, params.conditional.phGraph_out[0], NULL, NULL, 0,
                                      cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        return false;
    }
    b->stream = on;
    b->early = early && b->early_inside;
    ok = run(r, err);
    b->early = early;
    b->stream = stream;
    return cudaStreamEndCapture(on, &body) == cudaSuccess && ok;
}

/* Does a body take what `run` launches?  One of a graph that is not under record: what is found out
 * in a body of one that is, is found out too late (can_record).  A graph whose body was refused
 * stays, and so does its memory: to destroy it might crash the driver as well. */
static bool takes_in_body(fused_round *r, bool (*run)(fused_round *r, spc_error *err))
{
    spc_backend *b = r->verifier->backend;
    cudaError_t failed = b->failed;
    cudaGraphConditionalHandle condition;
    struct cudaGraphNodeParams params;
    cudaGraph_t graph = NULL, body = NULL;
    cudaGraphNode_t node;
    bool begun = false, valid = true, ok = false;

    if (cudaGraphCreate(&graph, 0) != cudaSuccess) return false;
    if (cudaGraphConditionalHandleCreate(&condition, graph, 0, cudaGraphCondAssignDefault) ==
        cudaSuccess) {
        params = body_if(condition);
        begun =
            cudaGraphAddNode(&node, graph, NULL, NULL, 0, &params) == cudaSuccess &&
            cudaStreamBeginCaptureToGraph(b->stream, params.conditional.phGraph_out[0], NULL, NULL,
                                          0, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    }
    if (begun) {
        ok = run(r, NULL);
        b->failed = failed; /* the device has come to no harm */
        valid = cudaStreamEndCapture(b->stream, &body) == cudaSuccess;
        ok = ok && valid;
    }
    if (valid) (void)cudaGraphDestroy(graph);
    if (!ok) (void)cudaGetLastError();
    return ok;
}

#else

static bool takes_in_body(fused_round *r, bool (*run)(fused_round *r, spc_error *err))
{
    (void)r;
    (void)run;
    return false;
}

static spc_round_condition new_condition(const spc_backend *b)
{
    (void)b;
    return (spc_round_condition){0, 0};
}

static bool record_body(fused_round *r, spc_round_condition condition, cudaStream_t on,
                        bool (*run)(fused_round *r, spc_error *err), spc_error *err)
{
    (void)r;
    (void)condition;
    (void)on;
    (void)run;
    (void)err;
    return false;
}

#endif

static bool late_body(fused_round *r, spc_error *err)
{
    return spc_cuda_run_late(r, err) == SPC_OK;
}

/* The round, and its late rows where that can be. */
static bool round_body(fused_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    bool ok;

    if (r->shape.late.count > 0) {
        r->condition = new_condition(b);
        if (!r->condition.exists) spc_cuda_lacks(b, CUDA_NO_CHAIN);
    }
    ok = spc_cuda_run_round(r, err) == SPC_OK;
    r->inside = r->shape.late.count == 0 || r->condition.exists;
    if (ok && r->condition.exists) ok = record_body(r, r->condition, b->inner, late_body, err);
    if (ok && r->condition.exists && r->shape.chained) {
        ok = spc_cuda_check(b, spc_cuda_round_stamp(r->device.clock + CLOCK_ENDED, b->stream),
                            "clock", err) == SPC_OK;
    }
    r->condition.exists = 0;
    return ok;
}

static bool drafts_body(fused_round *r, spc_error *err)
{
    return spc_cuda_run_drafts(r, err) == SPC_OK;
}

static bool verdicts_body(fused_round *r, spc_error *err)
{
    r->inside = true; /* there are none in turns */
    return spc_cuda_run_verdicts(r, err) == SPC_OK;
}

/* A chained round: put right what was written down, then all of it, or its drafts, if any sequence
 * goes on. */
static bool chained_body(fused_round *r, spc_error *err)
{
    const cuda_fused_data *at = &r->device;
    spc_backend *b = r->verifier->backend;
    spc_round_condition condition = new_condition(b);
    spc_round_go_on_args args = {.outcome = r->half->outcome,
                                 .from = at->from,
                                 .guess = at->guess,
                                 .patch = at->patch,
                                 .patches = at->patches,
                                 .base = (int32_t *)at->params,
                                 .position = at->position,
                                 .late_position = at->late_position,
                                 .draw_position = at->draw_position,
                                 .salt = at->salt,
                                 .pending = at->pending,
                                 .clock = at->clock + CLOCK_BEGUN,
                                 .decided = at->clock + CLOCK_DECIDED,
                                 .condition = condition,
                                 .lanes = r->shape.lanes,
                                 .steps = r->shape.steps,
                                 .most_patches = spc_cuda_most_patches(&r->shape)};

    if (!condition.exists ||
        spc_cuda_check(b, spc_cuda_round_go_on(&args, b->stream), "round", err) != SPC_OK) {
        return false;
    }
    if (r->shape.in_turns) return record_body(r, condition, b->inner, drafts_body, err);
    return record_body(r, condition, b->side, round_body, err) && r->inside;
}

/* What follows the drafts of a round in turns, if any sequence goes on. */
static bool turn_body(fused_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    spc_round_condition condition = new_condition(b);
    spc_round_ask_args args = {r->half->outcome, r->device.from, r->shape.lanes, condition};

    return condition.exists &&
           spc_cuda_check(b, spc_cuda_round_ask(&args, b->stream), "round", err) == SPC_OK &&
           record_body(r, condition, b->inner, verdicts_body, err);
}

/* Record what `run` launches on a stream, for itself.  NULL: it cannot be. */
static cudaGraph_t capture_on(fused_round *r, cudaStream_t on,
                              bool (*run)(fused_round *r, spc_error *err))
{
    spc_backend *b = r->verifier->backend;
    cudaStream_t stream = b->stream;
    cudaError_t failed = b->failed;
    cudaGraph_t graph = NULL;
    bool ok;

    if (cudaStreamBeginCapture(on, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return NULL;
    b->stream = on;
    ok = run(r, NULL);
    b->stream = stream;
    b->failed = failed; /* the device has come to no harm */
    if (cudaStreamEndCapture(on, &graph) == cudaSuccess && ok) return graph;
    if (graph) (void)cudaGraphDestroy(graph);
    return NULL;
}

static cudaGraphExec_t record_on(fused_round *r, cudaStream_t on,
                                 bool (*run)(fused_round *r, spc_error *err))
{
    cudaGraph_t graph = capture_on(r, on, run);

    return graph ? spc_cuda_upload(graph, on) : NULL;
}

/* Everything that bodies have. */
static bool bodies(fused_round *r, spc_error *err)
{
    return spc_cuda_run_round(r, err) == SPC_OK &&
           (r->shape.late.count == 0 || spc_cuda_run_late(r, err) == SPC_OK);
}

/* Can it be recorded, without conditional nodes?  Kernels are loaded before.  What is found out in
 * a body is found out too late: one whose capture an illegal call has made invalid crashes the
 * driver when the graph around it ends (https://github.com/NVIDIA/cuda-python/issues/2918). */
static bool can_record(fused_round *r)
{
    spc_backend *b = r->verifier->backend;
    cudaError_t failed = b->failed;
    cudaGraph_t graph;
    bool loaded;

    spc_cuda_only_load(true);
    loaded = bodies(r, NULL);
    spc_cuda_only_load(false);
    b->failed = failed;
    if (!loaded) return false;
    graph = capture_on(r, b->stream, bodies);
    if (graph) (void)cudaGraphDestroy(graph);
    return graph != NULL;
}

/* What of it may stand in bodies?  Asked once, ahead of the first: a refusal there could not be
 * mended. */
static void ask_of_bodies(fused_round *r)
{
    spc_backend *b = r->verifier->backend;
    const bool early = b->early;

    if (b->no_bodies || b->knows_bodies) return;
    b->early = early && b->early_inside;
    b->knows_bodies = takes_in_body(r, bodies);
    if (!b->knows_bodies && b->early) {
        b->early = false;
        b->knows_bodies = takes_in_body(r, bodies);
        b->early_inside = !b->knows_bodies;
        if (b->knows_bodies) spc_cuda_lacks(b, CUDA_NO_EARLY_INSIDE);
    }
    b->early = early;
    b->no_bodies = !b->knows_bodies;
}

static bool has_bodies(const fused_round *r)
{
    return r->shape.chained || r->shape.in_turns || r->shape.late.count > 0;
}

static bool record_all(fused_round *r, cuda_fused_graph *g)
{
    spc_backend *b = r->verifier->backend;

    if (!can_record(r)) return false;
    if (has_bodies(r)) ask_of_bodies(r);
    if (r->shape.in_turns) {
        g->drafts = record_on(r, b->side, chained_body);
        if (g->drafts) g->exec = record_on(r, b->stream, turn_body);
        if (!g->exec) forget(g);
    } else {
        g->exec = record_on(r, b->stream, r->shape.chained ? chained_body : round_body);
    }
    g->inside = r->inside;
    return g->exec != NULL;
}

typedef struct {
    fused_round *round;
    cuda_fused_graph *graph;
} recording;

static void record_round(void *user, cuda_attempt *attempt)
{
    const recording *r = user;

    attempt->recorded = record_all(r->round, r->graph);
    attempt->refused = !attempt->recorded;
}

/* With late rows inside, or, where such a graph is refused, without: the host starts them then. */
static bool record_or_do_without(recording *all)
{
    spc_backend *b = all->round->verifier->backend;
    const cuda_fused_shape *shape = &all->round->shape;

    if (spc_cuda_record(b, record_round, all)) return true;
    if (shape->chained || shape->late.count == 0 || b->no_bodies) return false;
    b->no_bodies = true;
    if (spc_cuda_record(b, record_round, all)) return true;
    b->no_bodies = false; /* they are not to blame */
    return false;
}

const cuda_fused_graph *spc_cuda_fused_ready(fused_round *r)
{
    spc_runner *v = r->verifier;
    bool seen, *off = r->shape.chained ? &r->half->chain->off : &v->graphs.off;
    cuda_fused_graph *g;
    recording all;

    if (*off) return NULL;
    g = graph_of(v, &r->shape, &seen);
    if (!seen) return NULL;
    all = (recording){r, g};
    if (!g->exec && !record_or_do_without(&all)) {
        *off = true;
        spc_cuda_lacks(v->backend, r->shape.chained ? CUDA_NO_CHAIN : CUDA_NO_GRAPH);
        return NULL;
    }
    return g;
}
