/* SPDX-License-Identifier: Apache-2.0 */
/* first.cuh - what a batch looks at whatever comes: which rows those are, what a ticket is for, and
 * its first tile asked for.  Part of queue.cu. */
#ifndef SPC_CUDA_FIRST_CUH
#define SPC_CUDA_FIRST_CUH

#include "tile_sums.cuh"

/* Where word i of a sequence_input comes from. */
static __device__ input_word words_at(const void *first, size_t bytes, int32_t word,
                                      uint32_t otherwise)
{
    const uint32_t *at = (const uint32_t *)first;

    return {at ? at + word : at, (int32_t)(bytes / 4), otherwise};
}

enum { PARAMS_WORDS = sizeof(spc_row_params) / 4 };

static __device__ input_word input_of(const spc_draw_batch *b, int32_t i)
{
    if (i < PARAMS_WORDS) return words_at(b->params, sizeof *b->params, i, 0);
    if (i < PARAMS_WORDS + 2) return words_at(b->row, sizeof *b->row, i - PARAMS_WORDS, 0);
    return words_at(nullptr, 0, 0, 0);
}

static __device__ input_word input_of(const spc_verify_batch *b, int32_t i)
{
    const int32_t row = i - PARAMS_WORDS;

    if (row < 0) return words_at(b->params, sizeof *b->params, i, 0);
    if (row < 2) return words_at(b->verifier_row, sizeof *b->verifier_row, row, 0);
    if (row < 4) return words_at(b->drafter_row, sizeof *b->drafter_row, row - 2, 0);
    return row == 4 ? words_at(b->drafts, sizeof *b->drafts, 0, 0)
                    : words_at(b->bonus, sizeof *b->bonus, 0, 1);
}

/* What the batch says of sequence s, in one trip to memory, or none where it is there: by the first
 * warp, which must meet behind it.  What becomes of a row is asked of some dozen numbers one after
 * the other. */
static __device__ __forceinline__ void fetch_input(int32_t s)
{
    const input_word from = scratch.word_of_input[threadIdx.x];
    uint32_t *to = (uint32_t *)&scratch.input + threadIdx.x;

    if (scratch.input_sequence == s) return;
    *to = from.first ? from.first[(int64_t)s * from.stride] : from.otherwise;
    __syncwarp();
    if (threadIdx.x == 0) scratch.input_sequence = s;
}

/* That of the sequence which the block's first ticket is probably of, while it waits for that: few
 * blocks come before another that was there first. */
static __device__ __forceinline__ void guess_input(const queue *q, int32_t sequences)
{
    const int32_t row = quotient((int32_t)blockIdx.x, q->by_runs);
    const int32_t sequence = quotient(row, q->by_rows);

    if (threadIdx.x == 0) scratch.input_sequence = NO_ROW;
    __syncwarp();
    fetch_input(sequence < sequences ? sequence : sequences - 1);
}

/* Does row r belong to what the sequence s in scratch.input looks at whatever comes?  Its view. */
static __device__ bool first_row(const spc_draw_batch *b, int32_t s, int32_t r, spc_view *view)
{
    const sequence_input *in = &scratch.input;

    (void)r;
    if (!spc_params_valid(&in->params) || in->row < 0) return false;
    *view = spc_view_at(b->logits, b->edits, b->row ? in->row : s);
    return true;
}

/* Rows 0 .. max_drafts - 1 (at least one): the verifier's; behind them the drafter's where their
 * statistics are not given. */
static __device__ bool first_row(const spc_verify_batch *b, int32_t s, int32_t r, spc_view *view)
{
    const sequence_input *in = &scratch.input;
    const int32_t verifier_rows = b->max_drafts > 0 ? b->max_drafts : 1, drafts = in->drafts;
    const bool drafter = r >= verifier_rows, block = in->params.verify == SPC_VERIFY_BLOCK;
    const int32_t row = drafter ? r - verifier_rows : r;

    (void)s;
    if (!spc_params_decide(&in->params) || drafts < 0 || drafts > b->max_drafts) return false;
    if (in->row < 0 || (b->drafter.logits.data && in->drafter_row < 0)) return false;
    if (!b->drafter.logits.data && drafts > 0 && !spc_rule_takes_names(in->params.rule.path)) {
        return false;
    }
    if (row >= drafts && (drafter || drafts > 0 || row > 0 || !in->bonus)) return false;

    /* a rule that is decided by the drafter's row may never look at the verifier's */
    if (!drafter && !block && spc_defers_by_drafter(in->params.rule)) return false;

    /* as spc_batch_round says, of which the rest would not fit in registers here */
    spc_logit_rows rows = drafter ? b->drafter : b->verifier;

    rows.logits = spc_logits_row(rows.logits, drafter ? in->drafter_row : in->row, rows.stride);
    *view = spc_view_at(rows, spc_edits_row(b->edits, in->row), row);
    return true;
}

/* What a ticket is for, but for the entries of its first tile: by the first warp.  The block waits
 * for this: nothing is divided, and the row's view is written where it stays, not to registers,
 * which would spill. */
template <typename Batch>
static __device__ __forceinline__ void find_first(const Batch *b, uint32_t ticket, first_run *out)
{
    const queue *q = &scratch.q;
    const int32_t of_all = quotient((int32_t)ticket, q->by_runs);
    const int32_t sequence = quotient(of_all, q->by_rows), row = of_all - sequence * q->rows;
    const int32_t tile = ((int32_t)ticket - of_all * q->runs) * q->piece;

    fetch_input(sequence);
    __syncwarp();
    if (threadIdx.x > 0) return;
    out->ticket = ticket;
    out->sequence = sequence;
    out->row = row;
    out->tile = tile;
    out->end = tile + q->piece < q->tiles ? tile + q->piece : q->tiles;
    out->cells = (int64_t)of_all * q->tiles;
    out->wanted = first_row(b, sequence, row, &out->view);
    if (!out->wanted) return;
    out->needs = spc_needs_of(&scratch.input.params, q->vocab);
    out->words = words_of_tile(&out->view);
    out->whole = whole_tiles(&out->view, q->vocab);
    out->pairs = end_of_pairs(out);
}

/* Ask for the first tile of a ticket; what it is for can be read behind a barrier, or is known. */
template <typename Batch>
static __device__ __noinline__ void load_first(const Batch *b, uint32_t ticket, int32_t place,
                                               int32_t turn, bool known)
{
    first_run *run = &scratch.run[place];
    int32_t entries = 0;

    if (threadIdx.x < WARP && !known) find_first(b, ticket, run);
    __syncthreads();
    if (run->wanted) entries = ask_run(run, scratch.q.vocab, run->tile, turn);
    if (threadIdx.x == 0) run->entries = entries;
}

#endif
