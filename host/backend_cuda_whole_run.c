/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_whole_run.c - the launches of a whole round, and the graph they are recorded into.
 */
#include "backend_cuda_whole.h"

#include "cuda/launch.h"

#include <string.h>

/* ---- launches ---------------------------------------------------------------------------------
 */

static spc_status draw_rows(spc_runner *d, spc_draw_batch *draw, spc_error *err)
{
    draw->vocab = d->plan->ids;
    draw->logits = spc_cuda_logit_rows(d);
    draw->workspace = d->verify_workspace;
    draw->workspace_bytes = d->verify_bytes;
    return spc_cuda_check(d->backend, spc_launch_queued_draw(draw, d->backend->stream), "draw",
                          err);
}

/* Step i of drafting; of the drafts that are ready it only takes note. */
static spc_status draft_step(whole_round *r, int32_t i, spc_error *err)
{
    const cuda_whole *at = &r->device;
    spc_runner *d = r->drafter;
    bool ready = i < r->shape.ready;
    ptrdiff_t step = (ptrdiff_t)i * r->shape.lanes;
    spc_draw_batch draw = {.sequences = r->shape.drawn[i],
                           .params = at->params,
                           .row = at->draw_row + step,
                           .position = at->draw_position + step,
                           .salt = at->salt,
                           .token = at->drawn,
                           .stats = at->measured};
    spc_round_note_args note = {.token = ready ? d->ahead_token + i : at->drawn,
                                .stats = ready ? d->ahead_stats + i : at->measured,
                                .stop = at->stop,
                                .stops = at->stops,
                                .drafts = at->drafts,
                                .bonus = at->bonus,
                                .late = at->wants_late,
                                .failed = at->failed,
                                .draft = at->token,
                                .all_stats = at->stats,
                                .row_token = at->draft[0].token,
                                .next = at->next + step,
                                .score = at->score + step,
                                .clock = i + 1 == r->shape.steps ? at->clock + CLOCK_DRAWN : NULL,
                                .drawn = r->shape.drawn[i],
                                .step = i,
                                .stop_stride = SPC_WHOLE_STOPS,
                                .draft_stride = CUDA_LANE_DRAFTS};
    spc_status status = SPC_OK;

    if (!ready) status = spc_cuda_run_rows(d, &at->draft[i], &r->shape.draft[i], err);
    if (!ready && status == SPC_OK) status = draw_rows(d, &draw, err);
    if (status != SPC_OK) return status;
    return spc_cuda_check(d->backend, spc_cuda_round_note(&note, d->backend->stream), "drafts",
                          err);
}

/* The next round's drafts, on the stream that is the backend's now. */
static spc_status draft_ahead(whole_round *r, spc_error *err)
{
    const cuda_whole *at = &r->device;
    spc_runner *d = r->drafter;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < r->shape.ahead && status == SPC_OK; i++) {
        spc_draw_batch draw = {.sequences = 1,
                               .params = at->params,
                               .row = at->ahead_row + i,
                               .position = at->ahead_position + i,
                               .salt = at->salt,
                               .token = d->ahead_token + i,
                               .stats = d->ahead_stats + i};
        spc_round_note_args hand_on = {.token = d->ahead_token + i,
                                       .row_token = at->draft[0].token,
                                       .next = at->ahead_next + i,
                                       .drawn = 1};

        status = spc_cuda_run_rows(d, &at->ahead[i], &r->shape.next[i], err);
        if (status == SPC_OK) status = draw_rows(d, &draw, err);
        if (status != SPC_OK || i + 1 == r->shape.ahead) return status;
        status = spc_cuda_check(d->backend, spc_cuda_round_note(&hand_on, d->backend->stream),
                                "drafts", err);
    }
    return status;
}

/* The same beside what follows on the backend's stream, until join_ahead. */
static spc_status fork_ahead(whole_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    cudaStream_t stream = b->stream;
    cudaError_t code = cudaEventRecord(b->fork, stream);
    spc_status status;

    if (code == cudaSuccess) code = cudaStreamWaitEvent(b->side, b->fork, 0);
    status = spc_cuda_check(b, code, "drafting ahead", err);
    if (status != SPC_OK) return status;
    b->stream = b->side;
    status = draft_ahead(r, err);
    b->stream = stream;
    if (status != SPC_OK) return status;
    return spc_cuda_check(b, cudaEventRecord(b->join, b->side), "drafting ahead", err);
}

static spc_status join_ahead(whole_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;

    return spc_cuda_check(b, cudaStreamWaitEvent(b->stream, b->join, 0), "drafting ahead", err);
}

static spc_verify_batch verify_batch(const whole_round *r)
{
    const cuda_whole *at = &r->device;
    spc_runner *v = r->verifier;
    spc_verify_batch batch = {.sequences = r->shape.lanes,
                              .vocab = v->plan->ids,
                              .max_drafts = CUDA_LANE_DRAFTS,
                              .params = at->params,
                              .verifier = spc_cuda_logit_rows(v),
                              .verifier_row = at->row,
                              .drafts = at->drafts,
                              .draft = at->token,
                              .stats = at->stats,
                              .position = at->position,
                              .salt = at->salt,
                              .bonus = at->bonus,
                              .token = at->emitted,
                              .count = at->count,
                              .status = at->status,
                              .verdict = at->verdict,
                              .workspace = v->verify_workspace,
                              .workspace_bytes = v->verify_bytes};

    if (r->drafter) batch.drafter = spc_cuda_logit_rows(r->drafter);
    if (r->drafter) batch.drafter_row = at->drafter_row;
    return batch;
}

/* Verdicts at a given rate, where that is wanted. */
static spc_status replace_verdicts(whole_round *r, spc_error *err)
{
    const cuda_whole *at = &r->device;
    spc_backend *b = r->verifier->backend;
    spc_round_synthetic_args args = {.verdict = at->verdict,
                                     .params = at->params,
                                     .position = at->position,
                                     .drafts = at->drafts,
                                     .bonus = at->bonus,
                                     .draft = at->token,
                                     .lanes = r->shape.lanes,
                                     .draft_stride = CUDA_LANE_DRAFTS,
                                     .rate = r->shape.rate};

    if (!r->shape.synthetic) return SPC_OK;
    return spc_cuda_check(b, spc_cuda_round_synthetic(&args, b->stream), "verdicts", err);
}

/* When the device comes to here, where that is wanted. */
static spc_status stamp(whole_round *r, int32_t clock, spc_error *err)
{
    spc_backend *b = r->verifier->backend;

    if (!r->shape.clocked) return SPC_OK;
    return spc_cuda_check(b, spc_cuda_round_stamp(r->device.clock + clock, b->stream), "clock",
                          err);
}

/* Everything up to the verdicts, and which late rows are needed. */
static spc_status run_round(whole_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    spc_verify_batch batch = verify_batch(r);
    spc_round_late_args late = {r->device.verdict,    r->device.drafts,
                                r->device.wants_late, r->device.clock + CLOCK_DECIDED,
                                r->shape.lanes,       r->condition};
    spc_status status = r->shape.chained ? SPC_OK : stamp(r, CLOCK_BEGUN, err);

    for (int32_t i = 0; i < r->shape.steps && status == SPC_OK; i++) {
        status = draft_step(r, i, err);
    }
    if (status == SPC_OK && r->shape.ahead > 0) status = fork_ahead(r, err);
    if (status == SPC_OK && r->shape.scored.count > 0) {
        status = spc_cuda_run_rows(r->verifier, &r->device.scored, &r->shape.scored, err);
    }
    if (status == SPC_OK) status = stamp(r, CLOCK_SCORED, err);
    if (status == SPC_OK) {
        status = spc_cuda_check(b, spc_launch_queued_verify(&batch, b->stream), "verify", err);
    }
    if (status == SPC_OK) status = replace_verdicts(r, err);
    if (status == SPC_OK) {
        status = spc_cuda_check(b, spc_cuda_round_late(&late, b->stream), "late rows", err);
    }
    return status == SPC_OK && r->shape.ahead > 0 ? join_ahead(r, err) : status;
}

/* The late rows of all lanes that might need one, and a verdict for those that do. */
static spc_status run_late(whole_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    spc_verify_batch batch = verify_batch(r);
    spc_status status = spc_cuda_run_rows(r->drafter, &r->device.late, &r->shape.late, err);

    batch.drafter_row = r->device.late_row;
    batch.verifier_row = r->device.late_row;
    batch.position = r->device.late_position;
    batch.drafts = r->device.none;
    batch.bonus = r->device.wants_late;
    batch.verdict = r->device.again;
    if (status != SPC_OK) return status;
    return spc_cuda_check(b, spc_launch_queued_verify(&batch, b->stream), "late verify", err);
}

/* ---- graphs -----------------------------------------------------------------------------------
 */

/* The graph of a shape; *seen receives whether the shape has come before. */
static cuda_whole_graph *graph_of(spc_runner *v, const cuda_whole_shape *shape, bool *seen)
{
    cuda_whole_graph *oldest = &v->wholes[0];

    v->graphs.clock++;
    *seen = true;
    for (int32_t i = 0; i < CUDA_WHOLES; i++) {
        cuda_whole_graph *g = &v->wholes[i];

        if (g->used > 0 && memcmp(&g->shape, shape, sizeof *shape) == 0) {
            g->used = v->graphs.clock;
            return g;
        }
        if (g->used < oldest->used) oldest = g;
    }
    *seen = false;
    if (oldest->exec) (void)cudaGraphExecDestroy(oldest->exec);
    *oldest = (cuda_whole_graph){.used = v->graphs.clock};
    memcpy(&oldest->shape, shape, sizeof *shape);
    return oldest;
}

void spc_cuda_free_wholes(spc_runner *r)
{
    for (int32_t i = 0; i < CUDA_WHOLES; i++) {
        if (r->wholes[i].exec) (void)cudaGraphExecDestroy(r->wholes[i].exec);
    }
}

/* A graph can be asked whether to run a body since CUDA 12.4, by these names since 13.0. */
#if !defined(CUDART_VERSION) || CUDART_VERSION >= 13000

/* The condition of the graph under record; 0: it cannot have one. */
static uint64_t new_condition(cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capturing;
    cudaGraph_t graph = NULL;
    const cudaGraphNode_t *behind;
    const cudaGraphEdgeData *edges;
    cudaGraphConditionalHandle condition = 0;
    size_t count;

    if (cudaStreamGetCaptureInfo(stream, &capturing, NULL, &graph, &behind, &edges, &count) ==
            cudaSuccess &&
        cudaGraphConditionalHandleCreate(&condition, graph, 0, cudaGraphCondAssignDefault) ==
            cudaSuccess) {
        return condition;
    }
    (void)cudaGetLastError();
    return 0;
}

/* Record what `run` launches as the body of a conditional node behind all that was recorded so far;
 * the body is recorded on a stream of its own. */
static bool record_body(whole_round *r, uint64_t condition, cudaStream_t on,
                        bool (*run)(whole_round *r, spc_error *err), spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    cudaStream_t stream = b->stream;
    enum cudaStreamCaptureStatus capturing;
    cudaGraph_t graph = NULL, body = NULL;
    const cudaGraphNode_t *behind;
    const cudaGraphEdgeData *edges;
    cudaGraphNode_t node;
    size_t count;
    bool ok;

    struct cudaGraphNodeParams params = {.type = cudaGraphNodeTypeConditional};

    params.conditional.handle = condition;
    params.conditional.type = cudaGraphCondTypeIf;
    params.conditional.size = 1;
    if (cudaStreamGetCaptureInfo(stream, &capturing, NULL, &graph, &behind, &edges, &count) !=
            cudaSuccess ||
        cudaGraphAddNode(&node, graph, behind, edges, count, &params) != cudaSuccess ||
        cudaStreamUpdateCaptureDependencies(stream, &node, NULL, 1,
                                            cudaStreamSetCaptureDependencies) != cudaSuccess ||
        cudaStreamBeginCaptureToGraph(on, params.conditional.phGraph_out[0], NULL, NULL, 0,
                                      cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        return false;
    }
    b->stream = on;
    ok = run(r, err);
    b->stream = stream;
    return cudaStreamEndCapture(on, &body) == cudaSuccess && ok;
}

#else

static uint64_t new_condition(cudaStream_t stream)
{
    (void)stream;
    return 0;
}

static bool record_body(whole_round *r, uint64_t condition, cudaStream_t on,
                        bool (*run)(whole_round *r, spc_error *err), spc_error *err)
{
    (void)r;
    (void)condition;
    (void)on;
    (void)run;
    (void)err;
    return false;
}

#endif

static bool late_body(whole_round *r, spc_error *err)
{
    return run_late(r, err) == SPC_OK;
}

/* The round, and its late rows where that can be. */
static bool round_body(whole_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    bool ok;

    if (r->shape.late.count > 0) r->condition = new_condition(b->stream);
    ok = run_round(r, err) == SPC_OK;
    r->inside = r->shape.late.count == 0 || r->condition != 0;
    if (ok && r->condition != 0) ok = record_body(r, r->condition, b->inner, late_body, err);
    if (ok && r->condition != 0 && r->shape.chained) {
        ok = spc_cuda_check(b, spc_cuda_round_stamp(r->device.clock + CLOCK_ENDED, b->stream),
                            "clock", err) == SPC_OK;
    }
    r->condition = 0;
    return ok;
}

/* A chained round: put right what was written down, then all of it, if any sequence goes on. */
static bool chained_body(whole_round *r, spc_error *err)
{
    const cuda_whole *at = &r->device;
    spc_backend *b = r->verifier->backend;
    uint64_t condition = new_condition(b->stream);
    spc_round_go_on_args args = {.outcome = r->verifier->outcome,
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

    return condition != 0 &&
           spc_cuda_check(b, spc_cuda_round_go_on(&args, b->stream), "round", err) == SPC_OK &&
           record_body(r, condition, b->side, round_body, err) && r->inside;
}

/* Record the round.  False: it cannot be; the device has come to no harm by that. */
static bool record(whole_round *r, cuda_whole_graph *g)
{
    spc_backend *b = r->verifier->backend;
    cudaError_t failed = b->failed;
    cudaGraph_t graph = NULL;
    bool ok;

    if (cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        return false;
    }
    ok = r->shape.chained ? chained_body(r, NULL) : round_body(r, NULL);
    g->inside = r->inside;
    if (cudaStreamEndCapture(b->stream, &graph) != cudaSuccess || !ok ||
        cudaGraphInstantiate(&g->exec, graph, 0) != cudaSuccess) {
        g->exec = NULL;
    }
    if (graph) (void)cudaGraphDestroy(graph);
    b->failed = failed;
    return g->exec != NULL;
}

/* ---- running it -------------------------------------------------------------------------------
 */

spc_status spc_cuda_next_area(spc_runner *v, int32_t *area, spc_error *err)
{
    *area = 1 - v->area;
    if (!v->busy[*area]) return SPC_OK;
    v->busy[*area] = false;
    return spc_cuda_check(v->backend, cudaEventSynchronize(v->backend->fetched[*area]), "round",
                          err);
}

static spc_status send(whole_round *r, spc_error *err)
{
    spc_runner *v = r->verifier;

    v->area = r->area;
    return spc_cuda_check(v->backend,
                          cudaMemcpyAsync(v->whole_device, r->host.params, r->host.sent,
                                          cudaMemcpyHostToDevice, v->backend->stream),
                          "round", err);
}

/* Bring what the device wrote on its way. */
static spc_status fetch(whole_round *r, spc_error *err)
{
    spc_runner *v = r->verifier;
    spc_backend *b = v->backend;
    cudaError_t code = cudaMemcpyAsync(
        (char *)r->host.params + r->host.fetched, (char *)v->whole_device + r->host.fetched,
        r->host.fetched_end - r->host.fetched, cudaMemcpyDeviceToHost, b->stream);

    v->busy[r->area] = true;
    if (code == cudaSuccess) code = cudaEventRecord(b->fetched[r->area], b->stream);
    return spc_cuda_check(b, code, "round", err);
}

static spc_status wait(whole_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;

    r->verifier->busy[r->area] = false;
    return spc_cuda_check(b, cudaEventSynchronize(b->fetched[r->area]), "round", err);
}

static bool any_late(const whole_round *r)
{
    for (int32_t k = 0; k < r->shape.lanes; k++) {
        if (r->host.wants_late[k]) return true;
    }
    return false;
}

/* The graph to run; NULL: there is none.  Where none can be recorded, there will be none. */
static cuda_whole_graph *ready_graph(whole_round *r)
{
    spc_runner *v = r->verifier;
    bool seen, *off = r->shape.chained ? &v->chain->off : &v->graphs.off;
    cuda_whole_graph *g;

    if (*off) return NULL;
    g = graph_of(v, &r->shape, &seen);
    if (!seen) return NULL;
    if (!g->exec && !record(r, g)) {
        *off = true;
        (void)cudaGetLastError(); /* forgotten: plain launches take its place */
        return NULL;
    }
    return g;
}

/* Keep what a round makes of its sequences: the next one's data take its place. */
static spc_status keep_outcome(const whole_round *r, spc_error *err)
{
    const cuda_whole *at = &r->device;
    spc_runner *v = r->verifier;
    spc_round_end_args args = {.verdict = at->verdict,
                               .again = at->again,
                               .late = at->wants_late,
                               .failed = at->failed,
                               .drafts = at->drafts,
                               .pending = at->pending,
                               .stop = at->stop,
                               .stops = at->stops,
                               .outcome = v->outcome,
                               .lanes = r->shape.lanes,
                               .stop_stride = SPC_WHOLE_STOPS};

    return spc_cuda_check(v->backend, spc_cuda_round_end(&args, v->backend->stream), "round", err);
}

spc_status spc_cuda_start_whole(whole_round *r, const whole_round *before, bool *ran,
                                spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    const cuda_whole_graph *g = ready_graph(r);
    spc_status status = SPC_OK;

    *ran = g || !before;
    if (!*ran) return SPC_OK;
    if (before) status = keep_outcome(before, err);
    if (status == SPC_OK) status = send(r, err);
    if (status != SPC_OK) return status;
    r->inside = g ? g->inside : r->shape.late.count == 0;
    if (g) {
        status = spc_cuda_check(b, cudaGraphLaunch(g->exec, b->stream), "graph", err);
    } else {
        status = run_round(r, err);
    }
    return status == SPC_OK ? fetch(r, err) : status;
}

spc_status spc_cuda_finish_whole(whole_round *r, spc_error *err)
{
    spc_status status = wait(r, err);

    if (status != SPC_OK || r->inside || !any_late(r)) return status;
    status = run_late(r, err);
    if (status == SPC_OK) status = fetch(r, err);
    return status == SPC_OK ? wait(r, err) : status;
}
