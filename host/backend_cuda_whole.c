/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_whole.c - a round without the host: drafting, scoring, verification and the late
 * rows as one graph, one copy to the device before it and one back behind it.
 *
 * All that a forward is told of its rows is known before the round begins, but for the drafted
 * tokens; those are put into the rows of later forwards by the device (cuda/round.cu).  A draft
 * that ends early does not shorten the round: its sequence's rows run on, with token 0, into cache
 * entries that nobody reads.
 *
 * The late rows, which the drafter runs only for sequences that kept every draft, are the body of a
 * conditional node.  Where graphs cannot hold one, or nothing can be recorded, the host waits for
 * verification and starts them itself.
 *
 * Rounds of one shape share a graph; the first of a shape is launched plainly. */
#include "backend_cuda.h"

#include "cuda/launch.h"

#include <assert.h>
#include <string.h>

/* Slots that a runner may have: more than an engine asks for. */
enum { SLOTS_MOST = 1 << 20 };

/* A round under way. */
typedef struct {
    spc_runner *drafter, *verifier; /* drafter NULL: there is none */
    cuda_whole_shape shape;
    cuda_whole host, device;
    uint64_t condition; /* of the graph under record; 0: none */
} whole_round;

/* ---- layout -----------------------------------------------------------------------------------
 */

static void lay_out(cuda_whole *w, char *base, const cuda_whole_shape *s)
{
    carver to = {base, 0};
    int64_t lanes = s->lanes, steps = s->steps;

    w->params = carve(&to, times(sizeof *w->params, lanes));
    w->row = carve(&to, times(sizeof *w->row, lanes));
    w->position = carve(&to, times(sizeof *w->position, lanes));
    w->draw_row = carve(&to, times(sizeof *w->draw_row, lanes * steps));
    w->draw_position = carve(&to, times(sizeof *w->draw_position, lanes * steps));
    w->late_row = carve(&to, times(sizeof *w->late_row, lanes));
    w->late_position = carve(&to, times(sizeof *w->late_position, lanes));
    w->salt = carve(&to, times(sizeof *w->salt, lanes));
    w->stop = carve(&to, times(sizeof *w->stop, lanes * SPC_WHOLE_STOPS));
    w->stops = carve(&to, times(sizeof *w->stops, lanes));
    w->next = carve(&to, times(sizeof *w->next, lanes * steps));
    w->score = carve(&to, times(sizeof *w->score, lanes * steps));
    w->none = carve(&to, times(sizeof *w->none, lanes));
    for (int32_t i = 0; i < s->steps; i++) {
        (void)spc_cuda_lay_out_rows(&w->draft[i], &to, s->draft[i].count);
    }
    (void)spc_cuda_lay_out_rows(&w->scored, &to, s->scored.count);
    (void)spc_cuda_lay_out_rows(&w->late, &to, s->late.count);
    w->fetched = to.used;
    w->drafts = carve(&to, times(sizeof *w->drafts, lanes));
    w->bonus = carve(&to, times(sizeof *w->bonus, lanes));
    w->wants_late = carve(&to, times(sizeof *w->wants_late, lanes));
    w->failed = carve(&to, times(sizeof *w->failed, lanes));
    w->sent = to.used;
    w->token = carve(&to, times(sizeof *w->token, lanes * CUDA_LANE_DRAFTS));
    w->verdict = carve(&to, times(sizeof *w->verdict, lanes));
    w->again = carve(&to, times(sizeof *w->again, lanes));
    w->clock = carve(&to, 2 * sizeof *w->clock);
    w->fetched_end = to.used;
    w->stats = carve(&to, times(sizeof *w->stats, lanes * CUDA_LANE_DRAFTS));
    w->drawn = carve(&to, times(sizeof *w->drawn, lanes));
    w->measured = carve(&to, times(sizeof *w->measured, lanes));
    w->emitted = carve(&to, times(sizeof *w->emitted, lanes * (CUDA_LANE_DRAFTS + 1)));
    w->count = carve(&to, times(sizeof *w->count, lanes));
    w->status = carve(&to, times(sizeof *w->status, lanes));
    w->bytes = to.used;
}

size_t spc_cuda_whole_bytes(const spc_limits *limits)
{
    cuda_whole_shape most = {.lanes = limits->slots, .steps = CUDA_LANE_DRAFTS};
    cuda_whole w;

    if (limits->slots > SLOTS_MOST) return CARVE_MOST; /* beyond counting rows */
    for (int32_t i = 0; i < most.steps; i++) most.draft[i].count = limits->slots;
    most.draft[0].count = limits->slots * 2;
    most.scored.count = limits->slots * (CUDA_LANE_DRAFTS + 1);
    most.late.count = limits->slots;
    lay_out(&w, NULL, &most);
    return w.bytes;
}

/* ---- what the round will be -------------------------------------------------------------------
 */

/* Lanes by falling draft length, equal ones in their order. */
static void sort_lanes(int32_t *order, const spc_whole *whole, int32_t count)
{
    int32_t at = 0;

    for (int32_t drafts = CUDA_LANE_DRAFTS; drafts >= 0; drafts--) {
        for (int32_t k = 0; k < count; k++) {
            if (whole[k].lane.drafts == drafts) order[at++] = k;
        }
    }
    assert(at == count);
}

/* Rows of the first forward of the drafter that a lane needs: the pending token, and the one before
 * it where that is missing too. */
static int32_t first_rows(const spc_runner *drafter, const spc_whole *w)
{
    return w->length - drafter->length[w->slot];
}

/* Does any lane need two?  Then the others repeat their last row (to the same bits), so that all
 * rounds with such a lane have one shape. */
static bool in_pairs(const whole_round *r, const spc_whole *whole, int32_t count)
{
    for (int32_t k = 0; k < count; k++) {
        if (whole[k].lane.drafts > 0 && first_rows(r->drafter, &whole[k]) > 1) return true;
    }
    return false;
}

static int32_t score_rows(const spc_whole *w)
{
    return w->lane.drafts + (w->unscored ? 0 : 1);
}

/* How many rows each forward has: enough to lay the block out. */
static void count_rows(whole_round *r, const spc_whole *whole, int32_t count)
{
    cuda_whole_shape *s = &r->shape;
    bool pairs = r->drafter && in_pairs(r, whole, count);

    s->lanes = count;
    s->drafter = r->drafter;
    for (int32_t k = 0; k < count; k++) {
        const spc_whole *w = &whole[k];

        if (w->lane.drafts > s->steps) s->steps = w->lane.drafts;
        for (int32_t i = 0; i < w->lane.drafts; i++) {
            s->drawn[i]++;
            s->draft[i].count += i == 0 && pairs && w->length > 1 ? 2 : 1;
        }
        s->scored.count += score_rows(w);
        s->late.count += w->late;
    }
}

/* ---- writing it down --------------------------------------------------------------------------
 */

static void write_lane(const cuda_whole *to, int32_t k, const spc_whole *w)
{
    const spc_lane *lane = &w->lane;

    to->params[k] = *lane->params;
    to->row[k] = lane->output;
    to->position[k] = lane->position;
    to->late_row[k] = lane->output + lane->drafts;
    to->late_position[k] = lane->position + lane->drafts;
    to->salt[k] = lane->salt;
    memcpy(to->stop + (ptrdiff_t)k * SPC_WHOLE_STOPS, w->stop, sizeof w->stop);
    to->stops[k] = w->stop_count;
    to->none[k] = 0;
    to->drafts[k] = lane->drafts;
    to->bonus[k] = lane->bonus;
    to->wants_late[k] = w->late;
    to->failed[k] = 0;
}

/* Where a row's token stands, as seen from the first of all. */
static int32_t token_at(const cuda_whole *to, const cuda_rows *rows, int32_t row)
{
    return (int32_t)(rows->token - to->draft[0].token) + row;
}

/* Rows of a step of drafting.  Behind the first step their tokens are not known yet. */
static void write_step(whole_round *r, const spc_whole *whole, const int32_t *order, int32_t i)
{
    const cuda_rows *to = &r->host.draft[i];
    bool pairs = r->shape.draft[i].count > r->shape.drawn[i];
    cuda_shape f = {0};

    for (int32_t k = 0; k < r->shape.drawn[i]; k++) {
        const spc_whole *w = &whole[order[k]];
        int32_t n = w->length;

        if (i == 0 && pairs && n > 1) {
            spc_cuda_add_row(r->drafter, to, &f, w->slot, w->token[n - 2], n - 2, -1);
        }
        spc_cuda_add_row(r->drafter, to, &f, w->slot, i == 0 ? w->token[n - 1] : 0, n - 1 + i,
                         w->lane.output + i);
    }
    spc_cuda_end_rows(r->drafter, &f);
    r->shape.draft[i] = f;
}

/* Rows of the verifier, and of the drafter behind kept drafts; which drafts they read. */
static void write_scored(whole_round *r, const spc_whole *whole, const int32_t *order)
{
    const cuda_whole *to = &r->host;
    cuda_shape scored = {0}, late = {0};

    for (int32_t k = 0; k < r->shape.lanes; k++) {
        const spc_whole *w = &whole[order[k]];
        int32_t n = w->length, drafts = w->lane.drafts, rows = score_rows(w);

        for (int32_t i = 0; i < rows; i++) {
            if (i > 0) {
                to->score[(i - 1) * r->shape.lanes + k] = token_at(to, &to->scored, scored.count);
            }
            spc_cuda_add_row(r->verifier, &to->scored, &scored, w->slot,
                             i == 0 ? w->token[n - 1] : 0, n - 1 + i, w->lane.output + i);
        }
        for (int32_t i = rows; i <= drafts; i++) {
            if (i > 0) to->score[(i - 1) * r->shape.lanes + k] = -1;
        }
        for (int32_t i = 0; i < drafts; i++) {
            int32_t *next = &to->next[i * r->shape.lanes + k];

            *next = -1;
            if (i + 1 < drafts) *next = token_at(to, &to->draft[i + 1], k);
            if (i + 1 == drafts && w->late) *next = token_at(to, &to->late, late.count);
        }
        if (!w->late) continue;
        spc_cuda_add_row(r->drafter, &to->late, &late, w->slot, drafts == 0 ? w->token[n - 1] : 0,
                         n - 1 + drafts, w->lane.output + drafts);
    }
    if (scored.count > 0) spc_cuda_end_rows(r->verifier, &scored);
    if (late.count > 0) spc_cuda_end_rows(r->drafter, &late);
    r->shape.scored = scored;
    r->shape.late = late;
}

static void write_round(whole_round *r, const spc_whole *whole, const int32_t *order)
{
    for (int32_t k = 0; k < r->shape.lanes; k++) {
        const spc_whole *w = &whole[order[k]];

        write_lane(&r->host, k, w);
        for (int32_t i = 0; i < w->lane.drafts; i++) {
            r->host.draw_row[i * r->shape.lanes + k] = w->lane.output + i;
            r->host.draw_position[i * r->shape.lanes + k] = w->lane.position + i;
        }
    }
    for (int32_t i = 0; i < r->shape.steps; i++) write_step(r, whole, order, i);
    write_scored(r, whole, order);
}

/* ---- launches ---------------------------------------------------------------------------------
 */

static spc_status draft_step(whole_round *r, int32_t i, spc_error *err)
{
    const cuda_whole *at = &r->device;
    spc_runner *d = r->drafter;
    ptrdiff_t step = (ptrdiff_t)i * r->shape.lanes;
    spc_draw_batch draw = {.sequences = r->shape.drawn[i],
                           .vocab = d->plan->ids,
                           .params = at->params,
                           .logits = spc_cuda_logit_rows(d),
                           .row = at->draw_row + step,
                           .position = at->draw_position + step,
                           .salt = at->salt,
                           .token = at->drawn,
                           .stats = at->measured,
                           .workspace = d->verify_workspace,
                           .workspace_bytes = d->verify_bytes};
    spc_round_note_args note = {.token = at->drawn,
                                .stats = at->measured,
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
                                .clock = i + 1 == r->shape.steps ? at->clock : NULL,
                                .drawn = r->shape.drawn[i],
                                .step = i,
                                .stop_stride = SPC_WHOLE_STOPS,
                                .draft_stride = CUDA_LANE_DRAFTS};
    spc_status status = spc_cuda_run_rows(d, &at->draft[i], &r->shape.draft[i], err);

    if (status == SPC_OK) {
        status = spc_cuda_check(d->backend, spc_launch_queued_draw(&draw, d->backend->stream),
                                "draw", err);
    }
    if (status != SPC_OK) return status;
    return spc_cuda_check(d->backend, spc_cuda_round_note(&note, d->backend->stream), "drafts",
                          err);
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
    if (r->drafter) batch.drafter_row = at->row;
    return batch;
}

/* Everything up to the verdicts, and which late rows are needed. */
static spc_status run_round(whole_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    spc_verify_batch batch = verify_batch(r);
    spc_round_late_args late = {r->device.verdict,   r->device.drafts, r->device.wants_late,
                                r->device.clock + 1, r->shape.lanes,   r->condition};
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < r->shape.steps && status == SPC_OK; i++) {
        status = draft_step(r, i, err);
    }
    if (status == SPC_OK && r->shape.scored.count > 0) {
        status = spc_cuda_run_rows(r->verifier, &r->device.scored, &r->shape.scored, err);
    }
    if (status == SPC_OK) {
        status = spc_cuda_check(b, spc_launch_queued_verify(&batch, b->stream), "verify", err);
    }
    if (status != SPC_OK) return status;
    return spc_cuda_check(b, spc_cuda_round_late(&late, b->stream), "late rows", err);
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

static cuda_whole_graph *find(spc_runner *v, const cuda_whole_shape *shape)
{
    cuda_whole_graph *oldest = &v->whole[0];

    v->graphs.clock++;
    for (int32_t i = 0; i < CUDA_WHOLES; i++) {
        cuda_whole_graph *g = &v->whole[i];

        if (g->used > 0 && memcmp(&g->shape, shape, sizeof *shape) == 0) {
            g->used = v->graphs.clock;
            return g;
        }
        if (g->used < oldest->used) oldest = g;
    }
    if (oldest->exec) (void)cudaGraphExecDestroy(oldest->exec);
    *oldest = (cuda_whole_graph){.used = v->graphs.clock};
    memcpy(&oldest->shape, shape, sizeof *shape);
    return NULL;
}

void spc_cuda_free_wholes(spc_runner *r)
{
    for (int32_t i = 0; i < CUDA_WHOLES; i++) {
        if (r->whole[i].exec) (void)cudaGraphExecDestroy(r->whole[i].exec);
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

/* The late rows as the body of a conditional node behind all that was recorded. */
static bool record_late(whole_round *r, spc_error *err)
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

    params.conditional.handle = r->condition;
    params.conditional.type = cudaGraphCondTypeIf;
    params.conditional.size = 1;
    if (cudaStreamGetCaptureInfo(stream, &capturing, NULL, &graph, &behind, &edges, &count) !=
            cudaSuccess ||
        cudaGraphAddNode(&node, graph, behind, edges, count, &params) != cudaSuccess ||
        cudaStreamUpdateCaptureDependencies(stream, &node, NULL, 1,
                                            cudaStreamSetCaptureDependencies) != cudaSuccess ||
        cudaStreamBeginCaptureToGraph(b->side, params.conditional.phGraph_out[0], NULL, NULL, 0,
                                      cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        return false;
    }
    b->stream = b->side;
    ok = run_late(r, err) == SPC_OK;
    b->stream = stream;
    return cudaStreamEndCapture(b->side, &body) == cudaSuccess && ok;
}

#else

static uint64_t new_condition(cudaStream_t stream)
{
    (void)stream;
    return 0;
}

static bool record_late(whole_round *r, spc_error *err)
{
    (void)r;
    (void)err;
    return false;
}

#endif

/* Record the round.  On a device that cannot, rounds are launched plainly from then on. */
static spc_status record(whole_round *r, cuda_whole_graph *g, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    cudaGraph_t graph = NULL;
    spc_status status;
    bool ok;

    if (cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        r->verifier->graphs.off = true;
        (void)cudaGetLastError(); /* forgotten, or launches would seem to have failed */
        return SPC_OK;
    }
    if (r->shape.late.count > 0) r->condition = new_condition(b->stream);
    status = run_round(r, err);
    ok = status == SPC_OK && (r->condition == 0 || record_late(r, err));
    g->late = r->condition != 0;
    r->condition = 0;
    if (cudaStreamEndCapture(b->stream, &graph) != cudaSuccess || !ok ||
        cudaGraphInstantiate(&g->exec, graph, 0) != cudaSuccess) {
        g->exec = NULL;
        r->verifier->graphs.off = true;
        (void)cudaGetLastError();
    }
    if (graph) (void)cudaGraphDestroy(graph);
    return status;
}

/* ---- the verb ---------------------------------------------------------------------------------
 */

static spc_status send(whole_round *r, spc_error *err)
{
    spc_runner *v = r->verifier;

    return spc_cuda_check(v->backend,
                          cudaMemcpyAsync(v->whole_device, v->whole_host, r->host.sent,
                                          cudaMemcpyHostToDevice, v->backend->stream),
                          "round", err);
}

static spc_status fetch(whole_round *r, spc_error *err)
{
    spc_runner *v = r->verifier;
    cudaError_t code = cudaMemcpyAsync(
        (char *)v->whole_host + r->host.fetched, (char *)v->whole_device + r->host.fetched,
        r->host.fetched_end - r->host.fetched, cudaMemcpyDeviceToHost, v->backend->stream);

    if (code == cudaSuccess) code = cudaStreamSynchronize(v->backend->stream);
    return spc_cuda_check(v->backend, code, "round", err);
}

static bool any_late(const whole_round *r)
{
    for (int32_t k = 0; k < r->shape.lanes; k++) {
        if (r->host.wants_late[k]) return true;
    }
    return false;
}

static spc_status execute(whole_round *r, spc_error *err)
{
    spc_runner *v = r->verifier;
    cuda_whole_graph *g = v->graphs.off ? NULL : find(v, &r->shape);
    spc_status status = send(r, err);
    bool late = false;

    if (status == SPC_OK && g && !g->exec) status = record(r, g, err);
    if (status == SPC_OK && g && g->exec) {
        late = g->late;
        status =
            spc_cuda_check(v->backend, cudaGraphLaunch(g->exec, v->backend->stream), "graph", err);
    } else if (status == SPC_OK) {
        status = run_round(r, err);
    }
    if (status == SPC_OK) status = fetch(r, err);
    if (status != SPC_OK || late || !any_late(r)) return status;
    status = run_late(r, err);
    return status == SPC_OK ? fetch(r, err) : status;
}

/* What became of lane k, and how far the caches now reach: to the last row whose token was drawn
 * for it. */
static void take(whole_round *r, int32_t k, spc_whole *w, spc_verdict *out, spc_verdict *late)
{
    const cuda_whole *from = &r->host;
    int32_t wanted = w->lane.drafts, rows = score_rows(w), drafts = from->drafts[k];
    int32_t n = w->length, valid = drafts + 1;

    w->again = from->wants_late[k] != 0;
    w->failed = from->failed[k] != 0;
    w->lane.drafts = drafts;
    if (drafts > 0) {
        memcpy(w->lane.draft, from->token + (ptrdiff_t)k * CUDA_LANE_DRAFTS,
               (size_t)drafts * sizeof *w->lane.draft);
    }
    *out = from->verdict[k];
    if (w->again) *late = from->again[k];
    r->verifier->length[w->slot] = n - 1 + (rows < valid ? rows : valid);
    if (wanted > 0) r->drafter->length[w->slot] = n - 1 + (wanted < valid ? wanted : valid);
    if (w->again) r->drafter->length[w->slot] = n + wanted;
}

spc_status spc_cuda_round(spc_runner *drafter, spc_runner *verifier, spc_whole *whole,
                          int32_t count, spc_verdict *out, spc_verdict *late, uint64_t *verify_ns,
                          spc_error *err)
{
    whole_round r;
    spc_status status = spc_cuda_enter(verifier->backend, err);

    if (status != SPC_OK) return status;
    memset(&r, 0, sizeof r); /* shapes are compared as a whole */
    r.drafter = drafter;
    r.verifier = verifier;
    assert(count >= 1 && count <= verifier->limits.slots);
    sort_lanes(verifier->order, whole, count);
    count_rows(&r, whole, count);
    lay_out(&r.host, verifier->whole_host, &r.shape);
    lay_out(&r.device, verifier->whole_device, &r.shape);
    write_round(&r, whole, verifier->order);
    status = execute(&r, err);
    if (status != SPC_OK) return status;
    for (int32_t k = 0; k < count; k++) {
        int32_t i = verifier->order[k];

        take(&r, k, &whole[i], &out[i], &late[i]);
    }
    *verify_ns = UINT64_MAX;
    if (r.shape.steps > 0) *verify_ns = r.host.clock[1] - r.host.clock[0];
    return SPC_OK;
}
