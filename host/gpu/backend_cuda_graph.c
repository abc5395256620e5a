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

/* Launch into a graph instead of the device.  False: that cannot be recorded. */
static bool capture(spc_runner *r, cuda_graph *g, spc_status (*run)(spc_runner *, spc_error *))
{
    cudaStream_t stream = r->backend->stream;
    cudaError_t failed = r->backend->failed;
    cudaGraph_t graph = NULL;
    spc_status status;

    if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        return false;
    }
    status = run(r, NULL);
    r->backend->failed = failed; /* the device has come to no harm */
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && status == SPC_OK) {
        g->exec = spc_cuda_upload(graph, stream);
    } else if (graph) {
        (void)cudaGraphDestroy(graph);
    }
    return g->exec != NULL;
}

bool spc_cuda_record(spc_backend *b, bool (*record)(void *), void *user)
{
    const bool early = b->early, inside = b->early_inside;

    for (;;) {
        if (record(user)) {
            if (early && !b->early) {
                spc_cuda_lacks(b, CUDA_NO_EARLY);
            } else if (inside && !b->early_inside) {
                spc_cuda_lacks(b, CUDA_NO_EARLY_INSIDE);
            }
            return true;
        }
        (void)cudaGetLastError(); /* forgotten: something else takes its place */
        if (!b->early) break;
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
} forward;

static bool record_forward(void *user)
{
    const forward *f = user;

    return capture(f->runner, f->graph, f->run);
}

/* On a device that cannot record everything runs plainly from then on, and says by itself what is
 * wrong, if it is. */
spc_status spc_cuda_run_shape(spc_runner *r, const cuda_shape *shape,
                              spc_status (*run)(spc_runner *, spc_error *), spc_error *err)
{
    cuda_graph *g = r->graphs.off ? NULL : find(&r->graphs, shape);

    if (g && !g->exec) {
        forward f = {r, g, run};

        r->graphs.off = !spc_cuda_record(r->backend, record_forward, &f);
        if (r->graphs.off) spc_cuda_lacks(r->backend, CUDA_NO_GRAPH);
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
