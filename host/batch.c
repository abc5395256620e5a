/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - the batch calls of spc/verify.h over host memory, and the checks that they share with
 * the device's. */
#include "chance.h"

#include "rules/truncate.h"

/* ---- checks -----------------------------------------------------------------------------------
 */

static spc_status missing(const char *field, spc_error *err)
{
    return spc_error_set(err, SPC_EUSAGE, "batch: %s: expected an array, found NULL", field);
}

static spc_status check_range(const char *field, int64_t value, int64_t least, int64_t most,
                              spc_error *err)
{
    if (value >= least && value <= most) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE, "batch: %s: expected %lld to %lld, found %lld", field,
                         (long long)least, (long long)most, (long long)value);
}

/* Rows of one model.  The products of strides and row numbers stay far below 2^63: rows lie in one
 * address space. */
static spc_status check_rows(const char *model, const spc_logit_rows *rows, spc_error *err)
{
    if (rows->logits.type < SPC_LOGITS_F32 || rows->logits.type > SPC_LOGITS_F16) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "batch: %s.logits.type: expected f32 (0), bf16 (1) or fp16 (2), found %d", model,
            (int)rows->logits.type);
    }
    if (rows->width < 1 || rows->width > SPC_VOCAB_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "batch: %s.width: expected 1 to %d, found %d", model,
                             SPC_VOCAB_MAX, (int)rows->width);
    }
    if (rows->stride < rows->width) {
        return spc_error_set(err, SPC_EUSAGE,
                             "batch: %s.stride: expected at least the width, %d, found %lld", model,
                             (int)rows->width, (long long)rows->stride);
    }
    if ((uintptr_t)rows->logits.data % (rows->logits.type == SPC_LOGITS_F32 ? 4 : 2) != 0) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "batch: %s.logits.data: expected the address of whole elements, found %p", model,
            (void *)(uintptr_t)rows->logits.data);
    }
    return SPC_OK;
}

static spc_status check_edits(const spc_edits *edits, int32_t vocab, spc_error *err)
{
    if (edits->allowed && edits->allowed_stride < (vocab + 31) / 32) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "batch: edits.allowed_stride: expected at least %d words of 32 tokens, "
            "found %lld",
            (int)((vocab + 31) / 32), (long long)edits->allowed_stride);
    }
    if (edits->edit_first && !edits->edit_token) return missing("edits.edit_token", err);
    if (edits->edit_first && !edits->edit_value) return missing("edits.edit_value", err);
    return SPC_OK;
}

/* What cuda/queue.cu keeps: a header, and for every sequence a job, its sums for every tile and its
 * bins, and the partials of the rows that are read in any case. */
size_t spc_workspace_bytes(int32_t sequences, int32_t max_drafts, int32_t vocab)
{
    size_t n = sequences > 0 ? (size_t)sequences : 1;
    size_t tiles = (size_t)spc_tile_count(vocab > 0 ? vocab : 1);
    size_t rows = max_drafts > 0 ? 2 * (size_t)max_drafts : 1;

    return SPC_QUEUE_HEADER_BYTES + n * (SPC_QUEUE_JOB_BYTES + SPC_CUT_BINS * sizeof(uint64_t)) +
           n * (rows + 1) * tiles * sizeof(spc_partial);
}

static spc_status check_workspace(const void *workspace, size_t bytes, int32_t sequences,
                                  int32_t max_drafts, int32_t vocab, spc_error *err)
{
    size_t least = spc_workspace_bytes(sequences, max_drafts, vocab);

    if (!workspace) return SPC_OK;
    if ((uintptr_t)workspace % 16 != 0) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "batch: workspace: expected an address that is a multiple of 16, found %p", workspace);
    }
    if (bytes < least) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "batch: workspace_bytes: expected at least %zu (spc_workspace_bytes), found %zu", least,
            bytes);
    }
    return SPC_OK;
}

spc_status spc_draw_batch_check(const spc_draw_batch *b, spc_error *err)
{
    spc_status status = check_range("sequences", b->sequences, 1, INT32_MAX, err);

    if (!status) status = check_range("vocab", b->vocab, 1, SPC_VOCAB_MAX, err);
    if (status) return status;
    if (!b->params) return missing("params", err);
    if (!b->logits.logits.data) return missing("logits.logits.data", err);
    if (!b->position) return missing("position", err);
    if (!b->token && !b->stats) return missing("token or stats", err);
    if (!b->token && b->log_probability) return missing("token (log_probability is its)", err);
    status = check_rows("logits", &b->logits, err);
    if (!status) status = check_edits(&b->edits, b->vocab, err);
    return status
               ? status
               : check_workspace(b->workspace, b->workspace_bytes, b->sequences, 0, b->vocab, err);
}

/* The arrays that a batch of rounds needs in any case. */
static const char *missing_array(const spc_verify_batch *b)
{
    bool drafts = b->max_drafts > 0;

    if (!b->params) return "params";
    if (!b->verifier.logits.data) return "verifier.logits.data";
    if (!b->verifier_row) return "verifier_row";
    if (b->drafter.logits.data && !b->drafter_row) return "drafter_row";
    if (!b->drafts) return "drafts";
    if (drafts && !b->draft) return "draft";
    if (!b->position) return "position";
    if (!b->token) return "token";
    if (!b->count) return "count";
    return b->status ? NULL : "status";
}

spc_status spc_verify_batch_check(const spc_verify_batch *b, spc_error *err)
{
    const char *array = missing_array(b);
    spc_status status = check_range("sequences", b->sequences, 1, INT32_MAX, err);

    if (!status) status = check_range("vocab", b->vocab, 1, SPC_VOCAB_MAX, err);
    if (!status) status = check_range("max_drafts", b->max_drafts, 0, SPC_GAMMA_MAX + 1, err);
    if (!status && array) status = missing(array, err);
    if (!status) status = check_rows("verifier", &b->verifier, err);
    if (!status && b->drafter.logits.data) status = check_rows("drafter", &b->drafter, err);
    if (!status) status = check_edits(&b->edits, b->vocab, err);
    return status ? status
                  : check_workspace(b->workspace, b->workspace_bytes, b->sequences, b->max_drafts,
                                    b->vocab, err);
}

/* ---- the calls --------------------------------------------------------------------------------
 */

spc_status spc_cpu_draw_batch(const spc_draw_batch *b, spc_stream stream, spc_error *err)
{
    spc_status status = spc_draw_batch_check(b, err);

    (void)stream;
    if (status) return status;
    for (int32_t s = 0; s < spc_live(b->live, b->sequences); s++) {
        spc_row_stats stats = spc_stats_one_hot(-1, b->vocab);
        spc_view row = spc_draw_view(b, s);
        int32_t token = -1;

        if (spc_params_valid(&b->params[s])) {
            token = spc_view_sample(&row, b->vocab, &b->params[s], spc_draw_key(b, s),
                                    spc_draw_stream(b), &stats, NULL);
        }
        spc_draw_store(b, s, token, &stats);
    }
    return SPC_OK;
}

spc_status spc_cpu_verify_batch(const spc_verify_batch *b, spc_stream stream, spc_error *err)
{
    spc_status status = spc_verify_batch_check(b, err);

    (void)stream;
    if (status) return status;
    for (int32_t s = 0; s < spc_live(b->live, b->sequences); s++) {
        spc_round round = spc_batch_round(b, s);
        spc_verdict verdict;

        spc_round_run(&round, &verdict);
        spc_verify_store(b, s, &verdict);
    }
    return SPC_OK;
}
