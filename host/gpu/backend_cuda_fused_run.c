/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_fused_run.c - the launches of a fused round, and how it is sent, waited for. */
#include "backend_cuda_fused.h"

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
static spc_status draft_step(fused_round *r, int32_t i, spc_error *err)
{
    const cuda_fused_data *at = &r->device;
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
                                .stop_stride = SPC_ROUND_STOPS,
                                .draft_stride = spc_cuda_drafts_apart(&r->shape)};
    spc_status status = SPC_OK;

    if (!ready) status = spc_cuda_run_rows(d, &at->draft[i], &r->shape.draft[i], err);
    if (!ready && status == SPC_OK) status = draw_rows(d, &draw, err);
    if (status != SPC_OK) return status;
    return spc_cuda_check(d->backend, spc_cuda_round_note(&note, d->backend->stream), "drafts",
                          err);
}

/* The next round's drafts, on the stream that is the backend's now. */
static spc_status draft_ahead(fused_round *r, spc_error *err)
{
    const cuda_fused_data *at = &r->device;
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
static spc_status fork_ahead(fused_round *r, spc_error *err)
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

static spc_status join_ahead(fused_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;

    return spc_cuda_check(b, cudaStreamWaitEvent(b->stream, b->join, 0), "drafting ahead", err);
}

static spc_verify_batch verify_batch(const fused_round *r)
{
    const cuda_fused_data *at = &r->device;
    spc_runner *v = r->verifier;
    spc_verify_batch batch = {.sequences = r->shape.lanes,
                              .vocab = v->plan->ids,
                              .max_drafts = spc_cuda_drafts_apart(&r->shape),
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
static spc_status replace_verdicts(fused_round *r, spc_error *err)
{
    const cuda_fused_data *at = &r->device;
    spc_backend *b = r->verifier->backend;
    spc_round_synthetic_args args = {.verdict = at->verdict,
                                     .params = at->params,
                                     .position = at->position,
                                     .drafts = at->drafts,
                                     .bonus = at->bonus,
                                     .draft = at->token,
                                     .lanes = r->shape.lanes,
                                     .draft_stride = spc_cuda_drafts_apart(&r->shape),
                                     .rate = r->shape.rate};

    if (!r->shape.synthetic) return SPC_OK;
    return spc_cuda_check(b, spc_cuda_round_synthetic(&args, b->stream), "verdicts", err);
}

/* When the device comes to here, where that is wanted. */
static spc_status stamp(fused_round *r, int32_t clock, spc_error *err)
{
    spc_backend *b = r->verifier->backend;

    if (!r->shape.clocked) return SPC_OK;
    return spc_cuda_check(b, spc_cuda_round_stamp(r->device.clock + clock, b->stream), "clock",
                          err);
}

spc_status spc_cuda_run_drafts(fused_round *r, spc_error *err)
{
    spc_status status = r->shape.chained ? SPC_OK : stamp(r, CLOCK_BEGUN, err);

    for (int32_t i = 0; i < r->shape.steps && status == SPC_OK; i++) {
        status = draft_step(r, i, err);
    }
    return status;
}

/* All behind the drafts, up to the verdicts and to which late rows are needed. */
spc_status spc_cuda_run_verdicts(fused_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    spc_verify_batch batch = verify_batch(r);
    spc_round_late_args late = {r->device.verdict,    r->device.drafts,
                                r->device.wants_late, r->device.clock + CLOCK_DECIDED,
                                r->shape.lanes,       r->condition};
    spc_status status = SPC_OK;

    if (r->shape.ahead > 0) status = fork_ahead(r, err);
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

spc_status spc_cuda_run_round(fused_round *r, spc_error *err)
{
    spc_status status = spc_cuda_run_drafts(r, err);

    return status == SPC_OK ? spc_cuda_run_verdicts(r, err) : status;
}

/* The late rows of all lanes that might need one, and a verdict for those that do. */
spc_status spc_cuda_run_late(fused_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    spc_verify_batch batch = verify_batch(r);
    spc_status status = spc_cuda_run_rows(r->drafter, &r->device.late, &r->shape.late, err);

    batch.max_drafts = 1; /* none has any */
    batch.drafter_row = r->device.late_row;
    batch.verifier_row = r->device.late_row;
    batch.position = r->device.late_position;
    batch.drafts = r->device.none;
    batch.bonus = r->device.wants_late;
    batch.verdict = r->device.again;
    if (status != SPC_OK) return status;
    return spc_cuda_check(b, spc_launch_queued_verify(&batch, b->stream), "late verify", err);
}

/* ---- running it -------------------------------------------------------------------------------
 */

static cudaEvent_t fetched(const fused_round *r)
{
    return r->verifier->backend->fetched[r->shape.half][r->area];
}

spc_status spc_cuda_next_area(fused_round *r, spc_error *err)
{
    r->area = 1 - r->half->area;
    if (!r->half->busy[r->area]) return SPC_OK;
    r->half->busy[r->area] = false;
    return spc_cuda_check(r->verifier->backend, cudaEventSynchronize(fetched(r)), "round", err);
}

static spc_status send(fused_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;

    r->half->area = r->area;
    return spc_cuda_check(b,
                          cudaMemcpyAsync(r->half->device, r->host.params, r->host.sent,
                                          cudaMemcpyHostToDevice, b->stream),
                          "round", err);
}

/* Bring what the device wrote on its way. */
static spc_status fetch(fused_round *r, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    cudaError_t code = cudaMemcpyAsync(
        (char *)r->host.params + r->host.fetched, (char *)r->half->device + r->host.fetched,
        r->host.fetched_end - r->host.fetched, cudaMemcpyDeviceToHost, b->stream);

    r->half->busy[r->area] = true;
    if (code == cudaSuccess) code = cudaEventRecord(fetched(r), b->stream);
    return spc_cuda_check(b, code, "round", err);
}

static spc_status wait(fused_round *r, spc_error *err)
{
    r->half->busy[r->area] = false;
    return spc_cuda_check(r->verifier->backend, cudaEventSynchronize(fetched(r)), "round", err);
}

static bool any_late(const fused_round *r)
{
    for (int32_t k = 0; k < r->shape.lanes; k++) {
        if (r->host.wants_late[k]) return true;
    }
    return false;
}

/* Keep what a round makes of its sequences: the next one's data take its place. */
static spc_status keep_outcome(const fused_round *r, spc_error *err)
{
    const cuda_fused_data *at = &r->device;
    spc_runner *v = r->verifier;
    spc_round_end_args args = {.verdict = at->verdict,
                               .again = at->again,
                               .late = at->wants_late,
                               .failed = at->failed,
                               .drafts = at->drafts,
                               .pending = at->pending,
                               .stop = at->stop,
                               .stops = at->stops,
                               .outcome = r->half->outcome,
                               .lanes = r->shape.lanes,
                               .stop_stride = SPC_ROUND_STOPS};

    return spc_cuda_check(v->backend, spc_cuda_round_end(&args, v->backend->stream), "round", err);
}

/* The side stream begins where the round before ended, and behind all that the other stream has had
 * beside rounds in turns: it may use the drafter, too. */
static spc_status lead_side(const fused_round *before, spc_error *err)
{
    spc_backend *b = before->verifier->backend;
    cudaError_t code = cudaStreamWaitEvent(b->side, fetched(before), 0);

    if (code == cudaSuccess && b->mixed) {
        code = cudaEventRecord(b->fork, b->stream);
        if (code == cudaSuccess) code = cudaStreamWaitEvent(b->side, b->fork, 0);
    }
    b->mixed = false;
    return spc_cuda_check(b, code, "drafting in turns", err);
}

/* A round whose drafts go to the side stream, and all else behind them to the other. */
static spc_status start_in_turns(fused_round *r, const fused_round *before,
                                 const cuda_fused_graph *g, spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    cudaStream_t stream = b->stream;
    spc_status status = lead_side(before, err);
    cudaError_t code;

    if (status != SPC_OK) return status;
    b->stream = b->side;
    status = keep_outcome(before, err);
    if (status == SPC_OK) status = send(r, err);
    b->stream = stream;
    if (status != SPC_OK) return status;
    code = cudaGraphLaunch(g->drafts, b->side);
    if (code == cudaSuccess) code = cudaEventRecord(b->join, b->side);
    if (code == cudaSuccess) code = cudaStreamWaitEvent(stream, b->join, 0);
    if (code == cudaSuccess) code = cudaGraphLaunch(g->exec, stream);
    status = spc_cuda_check(b, code, "graph", err);
    return status == SPC_OK ? fetch(r, err) : status;
}

spc_status spc_cuda_start_fused(fused_round *r, const fused_round *before, bool *ran,
                                spc_error *err)
{
    spc_backend *b = r->verifier->backend;
    const cuda_fused_graph *g = spc_cuda_fused_ready(r);
    spc_status status = SPC_OK;

    *ran = g || !before;
    if (!*ran) return SPC_OK;
    r->inside = g ? g->inside : r->shape.late.count == 0;
    if (r->shape.in_turns) return start_in_turns(r, before, g, err);
    b->mixed = true;
    if (before) status = keep_outcome(before, err);
    if (status == SPC_OK) status = send(r, err);
    if (status != SPC_OK) return status;
    if (g) {
        status = spc_cuda_check(b, cudaGraphLaunch(g->exec, b->stream), "graph", err);
    } else {
        status = spc_cuda_run_round(r, err);
    }
    return status == SPC_OK ? fetch(r, err) : status;
}

spc_status spc_cuda_finish_fused(fused_round *r, spc_error *err)
{
    spc_status status = wait(r, err);

    if (status != SPC_OK || r->inside || !any_late(r)) return status;
    status = spc_cuda_run_late(r, err);
    if (status == SPC_OK) status = fetch(r, err);
    return status == SPC_OK ? wait(r, err) : status;
}
