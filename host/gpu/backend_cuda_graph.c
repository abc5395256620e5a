/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_graph.c - forwards that come again are recorded once and sent as a whole.
 *
 * A forward of one row is a few hundred launches of some microseconds each: more than a small
 * drafter takes.  What differs between two forwards of one shape lies in device memory, so the
 * launches themselves are the same: the second one is recorded, further ones cost one call.  A
 * shape that comes once is launched plainly. */
#include "backend_cuda.h"

#include <string.h>

/* The entry of a shape; the one that was not used for the longest time is given up for a new one.
 */
static cuda_graph *find(cuda_graphs *graphs, const cuda_shape *shape)
{
    cuda_graph *oldest = &graphs->item[0];

    graphs->clock++;
    for (int32_t i = 0; i < CUDA_GRAPHS; i++) {
        cuda_graph *g = &graphs->item[i];

        if (g->used > 0 && memcmp(&g->shape, shape, sizeof *shape) == 0) {
            g->used = graphs->clock;
            return g;
        }
        if (g->used < oldest->used) oldest = g;
    }
    if (oldest->exec) (void)cudaGraphExecDestroy(oldest->exec);
    *oldest = (cuda_graph){*shape, NULL, graphs->clock};
    return NULL;
}

cudaGraphExec_t spc_cuda_upload(cudaGraph_t graph, cudaStream_t stream)
{
    cudaGraphExec_t exec = NULL;

    if (cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) exec = NULL;
    if (exec && cudaGraphUpload(exec, stream) != cudaSuccess) {
        (void)cudaGraphExecDestroy(exec);
        exec = NULL;
    }
    (void)cudaGraphDestroy(graph);
    return exec;
}

/* Launch into a graph instead of the device.  NULL: that cannot be recorded. */
static cudaGraphExec_t capture(spc_runner *r, spc_status (*run)(spc_runner *, spc_error *))
{
    cudaStream_t stream = r->backend->stream;
    cudaError_t failed = r->backend->failed;
    cudaGraphExec_t exec = NULL;
    cudaGraph_t graph = NULL;
    spc_status status;

    if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        return NULL;
    }
    status = run(r, NULL);
    r->backend->failed = failed; /* the device has come to no harm */
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && status == SPC_OK) {
        exec = spc_cuda_upload(graph, stream);
    } else if (graph) {
        (void)cudaGraphDestroy(graph);
    }
    return exec;
}

bool spc_cuda_record(spc_backend *b, void (*record)(void *user, cuda_attempt *attempt), void *user)
{
    const bool early = b->early, inside = b->early_inside;
    bool refused = false;

    for (;;) {
        cuda_attempt attempt = {.left = b->early};

        record(user, &attempt);
        if (attempt.recorded) {
            if (refused && early && !b->early) {
                spc_cuda_lacks(b, CUDA_NO_EARLY);
            } else if (refused && inside && !b->early_inside) {
                spc_cuda_lacks(b, CUDA_NO_EARLY_INSIDE);
            }
            return true;
        }
        (void)cudaGetLastError(); /* forgotten: something else takes its place */
        refused = refused || attempt.refused;
        if (!attempt.left) break;
        if (!b->early_inside) b->early = false;
        b->early_inside = false;
    }
    b->early = early; /* it is not to blame */
    b->early_inside = inside;
    return false;
}

typedef struct {
    spc_runner *runner;
    cuda_graph *graph;
    spc_status (*run)(spc_runner *runner, spc_error *err);
    bool refused;      /* the last attempt was, by this device */
    spc_status status; /* of the exchange between ranks */
    spc_error *err;
} forward;

/* What the ranks make of an attempt, each of which has its own graph, or none. */
static bool agree(forward *f, cudaGraphExec_t exec, cuda_attempt *attempt)
{
    bool all = false;

    attempt->refused = !exec;
    if (!exec) (void)cudaGetLastError(); /* it is no error of what follows */
    f->status = spc_cuda_agree(f->runner, exec != NULL, &all, &attempt->left, f->err);
    if (f->status != SPC_OK) attempt->left = false;
    return f->status == SPC_OK && all;
}

/* NCCL wants a collective recorded by all ranks or by none, and their graphs to come of the same
 * attempt (its user guide, "Using NCCL with CUDA Graphs").  What a device may refuse shows in a
 * graph without collectives, while no other rank waits in one; lack of memory may show later. */
static void record_together(forward *f, cuda_attempt *attempt)
{
    spc_runner *r = f->runner;
    cudaGraphExec_t exec;
    bool all;

    r->rehearses = true;
    exec = capture(r, f->run);
    r->rehearses = false;
    all = agree(f, exec, attempt);
    if (exec) (void)cudaGraphExecDestroy(exec);
    if (!all) return;
    exec = capture(r, f->run);
    attempt->recorded = agree(f, exec, attempt);
    if (attempt->recorded) {
        f->graph->exec = exec;
    } else if (exec) {
        (void)cudaGraphExecDestroy(exec);
    }
}

static void record_forward(void *user, cuda_attempt *attempt)
{
    forward *f = user;

    if (f->runner->part) {
        record_together(f, attempt);
    } else {
        f->graph->exec = capture(f->runner, f->run);
        attempt->recorded = f->graph->exec != NULL;
        attempt->refused = !attempt->recorded;
    }
    f->refused = attempt->refused;
}

/* On a device that cannot record everything runs plainly from then on, and says by itself what is
 * wrong, if it is; so it does on those of all other ranks, which say nothing. */
spc_status spc_cuda_run_shape(spc_runner *r, const cuda_shape *shape,
                              spc_status (*run)(spc_runner *, spc_error *), spc_error *err)
{
    cuda_graph *g = r->graphs.off ? NULL : find(&r->graphs, shape);

    if (g && !g->exec) {
        forward f = {.runner = r, .graph = g, .run = run, .err = err};

        r->graphs.off = !spc_cuda_record(r->backend, record_forward, &f);
        if (f.status != SPC_OK) return f.status;
        if (r->graphs.off && f.refused) spc_cuda_lacks(r->backend, CUDA_NO_GRAPH);
    }
    if (g && g->exec) {
        return spc_cuda_check(r->backend, cudaGraphLaunch(g->exec, r->backend->stream), "graph",
                              err);
    }
    return run(r, err);
}

void spc_cuda_free_graphs(spc_runner *r)
{
    for (int32_t i = 0; i < CUDA_GRAPHS; i++) {
        if (r->graphs.item[i].exec) (void)cudaGraphExecDestroy(r->graphs.item[i].exec);
        r->graphs.item[i] = (cuda_graph){.used = 0};
    }
}
