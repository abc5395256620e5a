/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - the batch calls of spc/verify.h over host memory, and the checks that they share with
 * the device's. */
#include "chance.h"
#include "host/refuse.h"

#include "rules/shard.h"

/* ---- checks -----------------------------------------------------------------------------------
 */

static spc_status missing(const char *field, spc_error *err)
{
    return spc_error_set(err, SPC_EUSAGE, "batch: %s: expected an array, found NULL", field);
}

/* An array of a batch. */
typedef struct {
    const char *field;
    const void *data;
    size_t multiple; /* of which its address is one */
    bool needed;
    size_t bytes; /* that it surely has; 0: as little as that */
    bool written;
} array;

/* Where an array lies is asked here, as a device that meets an odd address does not say whose it
 * is, and takes no further call. */
static spc_status check_arrays(const array *a, size_t count, spc_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (a[i].needed && !a[i].data) return missing(a[i].field, err);
        if ((uintptr_t)a[i].data % a[i].multiple == 0) continue;
        return spc_error_set(err, SPC_EUSAGE,
                             "batch: %s: expected an address that is a multiple of %zu, found %p",
                             a[i].field, a[i].multiple, (void *)(uintptr_t)a[i].data);
    }
    return SPC_OK;
}

static bool overlap(const array *a, const array *b)
{
    const uintptr_t at = (uintptr_t)a->data, other = (uintptr_t)b->data;

    if (!at || !other) return false;
    return at < other + (b->bytes > 0 ? b->bytes : 1) && other < at + (a->bytes > 0 ? a->bytes : 1);
}

/* What is written for one sequence must not be what is read for the next, or written over. */
static spc_status check_apart(const array *a, size_t count, spc_error *err)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < count && a[i].written; k++) {
            if (k == i || !overlap(&a[i], &a[k])) continue;
            return spc_error_set(err, SPC_EUSAGE,
                                 "batch: %s: expected memory of its own, as it is written, found "
                                 "%p, where %s is too",
                                 a[i].field, (void *)(uintptr_t)a[i].data, a[k].field);
        }
    }
    return SPC_OK;
}

static spc_status check_range(const char *field, int64_t value, int64_t least, int64_t most,
                              spc_error *err)
{
    if (value >= least && value <= most) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE, "batch: %s: expected %lld to %lld, found %lld", field,
                         (long long)least, (long long)most, (long long)value);
}

/* Elements, or words, from row to row: further than rows lie apart, and few enough for the bytes to
 * stay below 2^63 up to a million rows. */
#define STRIDE_MAX ((int64_t)1 << 40)

/* Rows of one model, of which `held` elements lie here; whole: they are no slices. */
static spc_status check_rows(const char *model, const spc_logit_rows *rows, int32_t held,
                             bool whole, spc_error *err)
{
    if (rows->subset && !whole) {
        return spc_error_set(err, SPC_EUSAGE,
                             "batch: %s.subset: expected NULL for slices, as they are cut by the "
                             "verifier's tokens, found %p (a drafter's rows can be whole: "
                             "shards.drafter_whole)",
                             model, (const void *)rows->subset);
    }
    if ((uintptr_t)rows->subset % 8 != 0) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "batch: %s.subset: expected an address that is a multiple of 8, found %p", model,
            (const void *)rows->subset);
    }
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
    if (rows->stride < held) {
        const char *what = held == rows->width ? "the width" : "the slice of spc_shard_first";

        return spc_error_set(err, SPC_EUSAGE,
                             "batch: %s.stride: expected at least %s, %d, found %lld", model, what,
                             (int)held, (long long)rows->stride);
    }
    if (rows->stride > STRIDE_MAX) {
        return spc_error_set(err, SPC_EUSAGE,
                             "batch: %s.stride: expected at most 2^40 elements, found %lld", model,
                             (long long)rows->stride);
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
    if (edits->allowed && edits->allowed_stride > STRIDE_MAX) {
        return spc_error_set(err, SPC_EUSAGE,
                             "batch: edits.allowed_stride: expected at most 2^40 words, found %lld",
                             (long long)edits->allowed_stride);
    }

    const bool edited = edits->edit_first != NULL;
    const array arrays[] = {{"edits.allowed", edits->allowed, 4, false, 0, false},
                            {"edits.edit_first", edits->edit_first, 4, false, 0, false},
                            {"edits.edit_token", edits->edit_token, 4, edited, 0, false},
                            {"edits.edit_value", edits->edit_value, 4, edited, 0, false}};

    return check_arrays(arrays, sizeof arrays / sizeof *arrays, err);
}

/* May a batch have rows and drafts of this many? */
static bool shape_is_possible(int32_t max_drafts, int32_t vocab)
{
    return max_drafts >= 0 && max_drafts <= SPC_GAMMA_MAX + 1 && vocab >= 1 &&
           vocab <= SPC_VOCAB_MAX;
}

spc_status spc_subset_fill(const int32_t *tokens, int32_t count, int32_t vocab, spc_subset *subset,
                           spc_error *err)
{
    spc_status status = check_range("vocab", vocab, 1, SPC_VOCAB_MAX, err);

    if (!status) status = check_range("count", count, 1, vocab, err);
    if (status) return status;
    if (!tokens) return spc_refuse_null("tokens", err);
    if (!subset) return spc_refuse_null("subset", err);
    for (int32_t i = 0; i < count; i++) {
        const int32_t least = i > 0 ? tokens[i - 1] + 1 : 0;

        if (tokens[i] >= least && tokens[i] < vocab) continue;
        return spc_error_set(err, SPC_EUSAGE,
                             "subset: tokens[%d]: expected %d to %d, found %d (ids ascend; where a "
                             "drafter's do not, order the rows of its output layer by them)",
                             (int)i, (int)least, (int)vocab - 1, (int)tokens[i]);
    }
    for (int32_t word = 0, known = 0; word < (vocab + 31) / 32; word++) {
        subset[word] = (spc_subset){0, known};
        for (; known < count && tokens[known] / 32 == word; known++) {
            subset[word].tokens |= 1u << tokens[known] % 32;
        }
    }
    return SPC_OK;
}

/* What cuda/queue.cu keeps, see rules/batch.h: cells for the tiles of the rows that are read in any
 * case, for a record of each of these rows, and for the tiles of every job. */
size_t spc_workspace_bytes(int32_t sequences, int32_t max_drafts, int32_t vocab)
{
    size_t n = (size_t)sequences, tiles, rows, jobs, cells;

    if (sequences < 1 || !shape_is_possible(max_drafts, vocab)) return 0;
    tiles = (size_t)spc_tile_count(vocab);
    rows = max_drafts > 0 ? 2 * (size_t)max_drafts : 1;
    jobs = (size_t)spc_queue_deciders((int64_t)n);
    /* without drafts no sum is begun ahead: rows that are cut need no cells but their own */
    if (max_drafts > 0) jobs += (size_t)spc_queue_ahead((int64_t)n, (int32_t)rows);
    cells = n * rows * (tiles + (tiles > 1 ? SPC_QUEUE_RECORD_CELLS : 0)) + jobs * tiles;

    return SPC_QUEUE_HEADER_BYTES +
           SPC_QUEUE_JOBS *
               (sizeof(int32_t) + SPC_QUEUE_JOB_BYTES + SPC_CUT_BINS * sizeof(uint64_t)) +
           cells * SPC_QUEUE_CELL_BYTES;
}

static spc_status check_workspace(const void *workspace, size_t bytes, int32_t sequences,
                                  int32_t max_drafts, int32_t vocab, spc_error *err)
{
    const size_t least = spc_workspace_bytes(sequences, max_drafts, vocab);

    if (workspace && bytes < least) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "batch: workspace_bytes: expected at least %zu (spc_workspace_bytes), found %zu", least,
            bytes);
    }
    return SPC_OK;
}

/* Elements of a row of this width that a rank holds. */
static int32_t held(int32_t width, int32_t vocab, const spc_shards *shards)
{
    int32_t first, last;
    spc_cuts cuts;

    if (!shards) return width;
    cuts = spc_cuts_of(shards, vocab);
    first = spc_cut_first(&cuts, shards->rank);
    last = spc_cut_first(&cuts, shards->rank + 1);
    if (last > width) last = width;
    return last > first ? last - first : 0;
}

static spc_status check_shape(int32_t sequences, int32_t vocab, spc_error *err)
{
    spc_status status = check_range("sequences", sequences, 1, INT32_MAX, err);

    return status ? status : check_range("vocab", vocab, 1, SPC_VOCAB_MAX, err);
}

static spc_status check_draw(const spc_draw_batch *b, const spc_shards *shards, spc_error *err)
{
    spc_status status =
        b ? check_shape(b->sequences, b->vocab, err) : spc_refuse_null("batch", err);

    if (status) return status;
    if (!b->token && !b->stats) return missing("token or stats", err);
    if (!b->token && b->log_probability) return missing("token (log_probability is its)", err);

    const size_t n = (size_t)b->sequences;
    const array arrays[] = {
        {"live", b->live, 4, false, 4, false},
        {"params", b->params, 8, true, n * sizeof *b->params, false},
        {"logits.logits.data", b->logits.logits.data, 1, true, 0, false},
        {"row", b->row, 8, false, n * sizeof *b->row, false},
        {"position", b->position, 8, true, n * sizeof *b->position, false},
        {"salt", b->salt, 4, false, n * sizeof *b->salt, false},
        {"token", b->token, 4, false, n * sizeof *b->token, true},
        {"stats", b->stats, 4, false, n * sizeof *b->stats, true},
        {"log_probability", b->log_probability, 4, false, n * sizeof *b->log_probability, true},
        {"workspace", b->workspace, 16, false, b->workspace_bytes, true}};
    const size_t count = sizeof arrays / sizeof *arrays;

    status = check_arrays(arrays, count, err);
    if (!status) status = check_range("out_stride", b->out_stride, 0, INT32_MAX, err);
    /* entries that lie further apart may have anything between them */
    if (!status && b->out_stride <= 1) status = check_apart(arrays, count, err);
    if (status) return status;
    status =
        check_rows("logits", &b->logits, held(b->logits.width, b->vocab, shards), !shards, err);
    if (!status) status = check_edits(&b->edits, b->vocab, err);
    return status
               ? status
               : check_workspace(b->workspace, b->workspace_bytes, b->sequences, 0, b->vocab, err);
}

static spc_status check_verify_arrays(const spc_verify_batch *b, spc_error *err)
{
    const size_t n = (size_t)b->sequences, drafts = n * (size_t)b->max_drafts, rows = n + drafts;
    const bool rows_there = b->drafter.logits.data != NULL;
    const array arrays[] = {
        {"live", b->live, 4, false, 4, false},
        {"params", b->params, 8, true, n * sizeof *b->params, false},
        {"verifier.logits.data", b->verifier.logits.data, 1, true, 0, false},
        {"drafter.logits.data", b->drafter.logits.data, 1, false, 0, false},
        {"verifier_row", b->verifier_row, 8, true, n * sizeof *b->verifier_row, false},
        {"drafter_row", b->drafter_row, 8, rows_there, n * sizeof *b->drafter_row, false},
        {"drafts", b->drafts, 4, true, n * sizeof *b->drafts, false},
        {"draft", b->draft, 4, b->max_drafts > 0, drafts * sizeof *b->draft, false},
        {"stats", b->stats, 4, false, drafts * sizeof *b->stats, false},
        {"position", b->position, 8, true, n * sizeof *b->position, false},
        {"salt", b->salt, 4, false, n * sizeof *b->salt, false},
        {"bonus", b->bonus, 4, false, n * sizeof *b->bonus, false},
        {"token", b->token, 4, true, rows * sizeof *b->token, true},
        {"count", b->count, 4, true, n * sizeof *b->count, true},
        {"status", b->status, 4, true, n * sizeof *b->status, true},
        {"accepted", b->accepted, 4, false, n * sizeof *b->accepted, true},
        {"verdict", b->verdict, 4, false, n * sizeof *b->verdict, true},
        {"detail", b->detail, 4, false, rows * sizeof *b->detail, true},
        {"workspace", b->workspace, 16, false, b->workspace_bytes, true}};
    const size_t count = sizeof arrays / sizeof *arrays;
    const spc_status status = check_arrays(arrays, count, err);

    return status ? status : check_apart(arrays, count, err);
}

spc_status spc_draw_batch_check(const spc_draw_batch *b, spc_error *err)
{
    return check_draw(b, NULL, err);
}

static spc_status check_verify(const spc_verify_batch *b, const spc_shards *shards, spc_error *err)
{
    spc_status status =
        b ? check_shape(b->sequences, b->vocab, err) : spc_refuse_null("batch", err);

    if (!status) status = check_range("max_drafts", b->max_drafts, 0, SPC_GAMMA_MAX + 1, err);
    if (!status) status = check_verify_arrays(b, err);
    if (!status) {
        status = check_rows("verifier", &b->verifier, held(b->verifier.width, b->vocab, shards),
                            !shards, err);
    }
    if (!status && b->drafter.logits.data) {
        const spc_shards *cut = shards && !shards->drafter_whole ? shards : NULL;

        status =
            check_rows("drafter", &b->drafter, held(b->drafter.width, b->vocab, cut), !cut, err);
    }
    if (!status) status = check_edits(&b->edits, b->vocab, err);
    return status ? status
                  : check_workspace(b->workspace, b->workspace_bytes, b->sequences, b->max_drafts,
                                    b->vocab, err);
}

spc_status spc_verify_batch_check(const spc_verify_batch *b, spc_error *err)
{
    return check_verify(b, NULL, err);
}

/* ---- slices -----------------------------------------------------------------------------------
 */

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

int32_t spc_shard_first(int32_t vocab, int32_t rank, int32_t world)
{
    if (vocab < 1 || vocab > SPC_VOCAB_MAX || world < 1 || world > SPC_SHARDS_MAX || rank < 0 ||
        rank > world) {
        return -1;
    }
    return spc_slice_first(vocab, rank, world);
}

spc_shard_bytes spc_shard_sizes(const spc_row_params *params, int32_t count, int32_t max_drafts,
                                int32_t vocab, int32_t world)
{
    int32_t tiles, log = 0, first = 0, later = 0;

    if (!params || count < 1 || world < 1 || world > SPC_SHARDS_MAX ||
        !shape_is_possible(max_drafts, vocab)) {
        return (spc_shard_bytes){0, 0, 0};
    }
    tiles = spc_most_tiles(vocab, world);
    for (int32_t i = 0; i < count; i++) {
        const spc_row_needs needs = spc_needs_of(&params[i], vocab);
        const spc_rule *rule = &params[i].rule;
        const bool cuts =
            needs.truncates || (spc_rule_facts((spc_rule_kind)rule->path) & SPC_FACT_NUCLEUS) != 0;
        const uint32_t rows = (2u << max_drafts) - 1u;
        const spc_ask all = {.kind = SPC_ASK_ROWS, .verifier_rows = rows, .drafter_rows = rows};
        const spc_ask most[] = {{.kind = SPC_ASK_ROWS, .verifier_rows = 1},
                                {.kind = SPC_ASK_DRAW},
                                {.kind = cuts ? SPC_ASK_BINS : SPC_ASK_KEPT},
                                {.kind = SPC_ASK_FOLD, .what = SPC_SUM_ABOVE_DRAFTER}};

        first = larger(first, spc_answer_words(&all, needs, tiles));
        for (size_t k = 0; k < sizeof most / sizeof *most; k++) {
            later = larger(later, spc_answer_words(&most[k], needs, tiles));
        }
        log = larger(log, spc_log_words(rule));
    }
    return (spc_shard_bytes){
        .state = (sizeof(spc_shard_state) + ((size_t)log + (size_t)tiles) * 4 + 15) / 16 * 16,
        .first = (size_t)first * 4,
        .later = (size_t)later * 4};
}

/* Above what any sequence answers: all rows of the longest round take 148 KB. */
#define SEND_BYTES_MAX ((size_t)1 << 20)

static spc_status check_shards(const spc_shards *s, int32_t sequences, int32_t vocab, int32_t step,
                               spc_error *err)
{
    const size_t most = ((size_t)sequences + 1) * SEND_BYTES_MAX; /* one for the caller's own */
    spc_status status;
    size_t least;

    if (!s) return spc_refuse_null("shards", err);
    status = check_range("shards.world", s->world, 1, SPC_SHARDS_MAX, err);
    if (!status) status = check_range("shards.rank", s->rank, 0, s->world - 1, err);
    if (!status) status = check_range("step", step, 0, INT32_MAX, err);
    if (!status && s->cut != 0) {
        status = check_range("shards.cut", s->cut, vocab, SPC_VOCAB_MAX, err);
    }
    if (status) return status;

    const array arrays[] = {
        {"shards.state", s->state, 16, true, (size_t)sequences * s->state_bytes, true},
        {"shards.answers", s->answers, 16, true, (size_t)s->world * s->send_bytes, true},
        {"shards.left", s->left, 8, true, 2 * sizeof *s->left, true}};
    const size_t count = sizeof arrays / sizeof *arrays;

    status = check_arrays(arrays, count, err);
    if (status) return status;
    least =
        sizeof(spc_shard_state) + 4 * (size_t)spc_most_tiles(spc_cuts_of(s, vocab).cut, s->world);
    if (s->state_bytes < least || s->state_bytes % 16 != 0 ||
        s->state_bytes > PTRDIFF_MAX / (size_t)sequences) {
        return spc_error_set(err, SPC_EUSAGE,
                             "batch: shards.state_bytes: expected what spc_shard_sizes says, found "
                             "%zu",
                             s->state_bytes);
    }
    if (s->send_bytes % 8 != 0 || s->send_bytes > most) {
        return spc_error_set(err, SPC_EUSAGE,
                             "batch: shards.send_bytes: expected a multiple of 8, at most %zu, "
                             "found %zu",
                             most, s->send_bytes);
    }
    return check_apart(arrays, count, err);
}

spc_status spc_draw_shards_check(const spc_draw_batch *b, const spc_shards *shards, int32_t step,
                                 spc_error *err)
{
    spc_status status =
        b ? check_shape(b->sequences, b->vocab, err) : spc_refuse_null("batch", err);

    if (!status) status = check_shards(shards, b->sequences, b->vocab, step, err);
    return status ? status : check_draw(b, shards, err);
}

spc_status spc_verify_shards_check(const spc_verify_batch *b, const spc_shards *shards,
                                   int32_t step, spc_error *err)
{
    spc_status status =
        b ? check_shape(b->sequences, b->vocab, err) : spc_refuse_null("batch", err);

    if (!status) status = check_shards(shards, b->sequences, b->vocab, step, err);
    return status ? status : check_verify(b, shards, err);
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

        if (spc_draw_is_possible(b, s)) {
            token = spc_view_sample(&row, b->vocab, &b->params[s], spc_draw_key(b, s),
                                    spc_draw_stream(b), &stats, NULL);
        }
        spc_draw_store(b, s, token, token < 0 ? 0.0f : spc_view_logit(&row, token), &stats);
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
