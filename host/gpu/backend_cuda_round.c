/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_round.c - edits of rows; drawing and verification of lanes: what a lane is goes to
 * the device in one copy, what became of it comes back in one. */
#include "backend_cuda.h"

#include "cuda/launch.h"

#include <assert.h>
#include <string.h>

/* What a lane is; verify alone looks at drafts, and at rows from the lane's first on. */
static void write_lane(const spc_runner *r, int32_t k, const spc_lane *lane, int32_t i)
{
    const cuda_lanes *to = &r->lanes;

    to->params[k] = *lane->params;
    to->row[k] = lane->output + i;
    to->position[k] = lane->position + i;
    to->salt[k] = lane->salt;
}

static spc_status send_lanes(spc_runner *r, spc_error *err)
{
    return spc_cuda_copy(r->backend, r->device_lanes.params, r->lanes.params, r->lanes_in_bytes,
                         false, "lanes", err);
}

/* The first bytes of `from`, once everything before has been done. */
static spc_status fetch(spc_runner *r, void *to, const void *from, size_t bytes, const char *what,
                        spc_error *err)
{
    spc_status status = spc_cuda_copy(r->backend, to, from, bytes, true, what, err);

    return status == SPC_OK ? spc_cuda_wait(r->backend, what, err) : status;
}

spc_logit_rows spc_cuda_logit_rows(const spc_runner *r)
{
    return (spc_logit_rows){
        .logits = {r->logits, SPC_LOGITS_F32}, .stride = r->width, .width = r->plan->ids};
}

spc_status spc_cuda_draw_lanes(spc_runner *r, const spc_lane *lanes, int32_t count, int32_t i,
                               spc_error *err)
{
    const cuda_lanes *at = &r->device_lanes;
    int32_t drawn = 0;
    spc_status status = spc_cuda_enter(r->backend, err);

    if (status != SPC_OK) return status;
    for (int32_t k = 0; k < count; k++) {
        if (i < lanes[k].drafts) write_lane(r, drawn++, &lanes[k], i);
    }
    if (drawn == 0) return SPC_OK;
    assert(drawn <= r->limits.slots);
    status = send_lanes(r, err);
    if (status != SPC_OK) return status;

    spc_draw_batch batch = {.sequences = drawn,
                            .vocab = r->plan->ids,
                            .params = at->params,
                            .logits = spc_cuda_logit_rows(r),
                            .row = at->row,
                            .position = at->position,
                            .salt = at->salt,
                            .token = at->token,
                            .stats = at->drawn,
                            .workspace = r->verify_workspace,
                            .workspace_bytes = r->verify_bytes};

    if (r->part) {
        status = spc_cuda_draw_slices(r, &batch, err);
    } else {
        status = spc_cuda_check(r->backend, spc_launch_queued_draw(&batch, r->backend->stream),
                                "draw", err);
    }
    if (status == SPC_OK) {
        size_t bytes = (size_t)((const char *)at->verdict - (const char *)at->token);

        status = fetch(r, r->lanes.token, at->token, bytes, "draw", err);
    }
    for (int32_t k = 0, j = 0; k < count && status == SPC_OK; k++) {
        if (i >= lanes[k].drafts) continue;
        lanes[k].draft[i] = r->lanes.token[j];
        lanes[k].stats[i] = r->lanes.drawn[j++];
    }
    return status;
}

spc_status spc_cuda_edit_rows(spc_runner *r, const spc_edit_list *list, spc_error *err)
{
    const int32_t words = spc_mask_words(r->plan->ids);
    const spc_edit_args args = {r->logits,   r->edit, r->masked, r->allowed, list->edits,
                                list->masks, words,   r->first,  r->width};
    size_t edits = (size_t)list->edits * sizeof *list->edit, masks = (size_t)list->masks;
    spc_backend *b = r->backend;
    spc_status status = spc_cuda_enter(b, err);

    if (status == SPC_OK && edits > 0) {
        status = spc_cuda_copy(b, r->edit, list->edit, edits, false, "edits", err);
    }
    if (status == SPC_OK && masks > 0) {
        status = spc_cuda_copy(b, r->masked, list->masked, masks * sizeof *list->masked, false,
                               "masks", err);
    }
    if (status == SPC_OK && masks > 0) {
        status = spc_cuda_copy(b, r->allowed, list->allowed,
                               masks * (size_t)words * sizeof *list->allowed, false, "masks", err);
    }
    if (status != SPC_OK) return status;
    spc_cuda_sent(r, false);
    return spc_cuda_check(b, spc_cuda_edit(&args, b->stream), "edits", err);
}

static int32_t longest_draft(const spc_lane *lanes, int32_t count)
{
    int32_t longest = 0;

    for (int32_t k = 0; k < count; k++) {
        if (lanes[k].drafts > longest) longest = lanes[k].drafts;
    }
    return longest;
}

/* drafter: what ranks know it by; NULL: its rows are cut as the verifier's.  rows: where they lie;
 * no data: not looked at. */
static spc_status verify_lanes(const spc_runner *drafter, spc_logit_rows rows, spc_runner *r,
                               const spc_lane *lanes, int32_t count, spc_verdict *out,
                               spc_error *err)
{
    const cuda_lanes *at = &r->device_lanes;
    int32_t most = longest_draft(lanes, count); /* rows beyond it would be looked at, too */
    spc_status status = spc_cuda_enter(r->backend, err);

    if (status != SPC_OK) return status;
    assert(count <= r->limits.slots);
    for (int32_t k = 0; k < count; k++) {
        const spc_lane *lane = &lanes[k];
        size_t drafts = (size_t)lane->drafts;

        assert(lane->drafts <= CUDA_LANE_DRAFTS);
        write_lane(r, k, lane, 0);
        r->lanes.drafts[k] = lane->drafts;
        r->lanes.bonus[k] = lane->bonus;
        if (drafts == 0) continue;
        memcpy(r->lanes.draft + k * most, lane->draft, drafts * sizeof *lane->draft);
        memcpy(r->lanes.stats + k * most, lane->stats, drafts * sizeof *lane->stats);
    }
    if (r->part) *r->lanes.check = spc_cuda_hash_lanes(r, lanes, count);
    status = send_lanes(r, err);
    if (status != SPC_OK) return status;

    spc_verify_batch batch = {.sequences = count,
                              .vocab = r->plan->ids,
                              .max_drafts = most,
                              .params = at->params,
                              .verifier = spc_cuda_logit_rows(r),
                              .verifier_row = at->row,
                              .drafts = at->drafts,
                              .draft = at->draft,
                              .stats = at->stats,
                              .position = at->position,
                              .salt = at->salt,
                              .bonus = at->bonus,
                              .token = at->emitted,
                              .count = at->count,
                              .status = at->status,
                              .verdict = at->verdict,
                              .workspace = r->verify_workspace,
                              .workspace_bytes = r->verify_bytes};

    if (rows.logits.data) batch.drafter = rows;
    if (rows.logits.data) batch.drafter_row = at->row;
    if (r->part) {
        status = spc_cuda_verify_slices(drafter, r, &batch, err);
    } else {
        status = spc_cuda_check(r->backend, spc_launch_queued_verify(&batch, r->backend->stream),
                                "verify", err);
    }
    if (status != SPC_OK) return status;
    status = fetch(r, r->lanes.verdict, at->verdict, (size_t)count * sizeof *out, "verify", err);
    if (status == SPC_OK) memcpy(out, r->lanes.verdict, (size_t)count * sizeof *out);
    if (status == SPC_OK && r->part) spc_cuda_note_verdicts(r, out, count);
    return status;
}

spc_status spc_cuda_verify_lanes(spc_runner *drafter, spc_runner *r, const spc_lane *lanes,
                                 int32_t count, spc_verdict *out, spc_error *err)
{
    spc_logit_rows rows = {.width = 0};

    if (drafter) rows = spc_cuda_logit_rows(drafter);
    return verify_lanes(drafter, rows, r, lanes, count, out, err);
}

/* A lane's rows of another backend's drafter: of a rank those ids alone that its slice has. */
static spc_status send_rows(spc_runner *r, const float *rows, const spc_lane *lane, spc_error *err)
{
    const size_t ids = (size_t)r->plan->ids, width = (size_t)r->width;
    const float *from = rows + (size_t)lane->output * ids + r->first;
    int32_t count = spc_lane_drafter_rows(lane);
    cudaError_t code;

    if (count == 0 || width == 0) return SPC_OK;
    code = cudaMemcpy2DAsync(r->drafter_rows + (size_t)lane->output * width, width * sizeof *from,
                             from, ids * sizeof *from, width * sizeof *from, (size_t)count,
                             cudaMemcpyHostToDevice, r->backend->stream);
    return spc_cuda_check(r->backend, code, "drafter rows", err);
}

spc_status spc_cuda_verify_rows(const float *rows, spc_runner *r, const spc_lane *lanes,
                                int32_t count, spc_verdict *out, spc_error *err)
{
    spc_logit_rows here = spc_cuda_logit_rows(r);
    spc_status status = spc_cuda_enter(r->backend, err);

    assert(r->drafter_rows);
    here.logits.data = rows ? r->drafter_rows : NULL;
    /* a copy from memory that is not pinned may wait for the stream, and not for a given time */
    if (status == SPC_OK && r->part) status = spc_cuda_wait(r->backend, "drafter rows", err);
    for (int32_t k = 0; rows && k < count && status == SPC_OK; k++) {
        status = send_rows(r, rows, &lanes[k], err);
    }
    if (status != SPC_OK) return status;
    return verify_lanes(NULL, here, r, lanes, count, out, err);
}
