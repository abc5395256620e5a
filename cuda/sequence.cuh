/* SPDX-License-Identifier: Apache-2.0 */
/* sequence.cuh - what a block does with a row, and with a sequence, of which the first pass has
 * found out everything: a row is cut or done, a sequence is decided.  Part of queue.cu. */
#ifndef SPC_CUDA_SEQUENCE_CUH
#define SPC_CUDA_SEQUENCE_CUH

#include "decide.cuh"
#include "first.cuh"

static __device__ void decide_sequence(const spc_draw_batch *b, int32_t s)
{
    spc_row_stats stats = spc_stats_one_hot(-1, b->vocab);
    const spc_view row = spc_draw_view(b, s);
    int32_t token = -1;

    if (spc_draw_is_possible(b, s)) {
        view_statistics(&scratch.round, &row, &stats);
        if (!stats.bad && b->token) {
            token = draw_view(&scratch.round, &row, stats, spc_draw_key(b, s), spc_draw_stream(b));
        }
    }
    if (threadIdx.x == 0) {
        spc_draw_store(b, s, token, token < 0 ? 0.0f : spc_view_logit(&row, token), &stats);
    }
}

static __device__ void decide_sequence(const spc_verify_batch *b, int32_t s)
{
    spc_verdict verdict;
    spc_walk walk;

    walk.sums = &scratch.sums;
    decide_round(&scratch.round, &walk, &verdict);
    if (threadIdx.x == 0) spc_verify_store(b, s, &verdict);
}

static __device__ spc_round round_at(const spc_draw_batch *b, int32_t s)
{
    spc_round round = {};

    round.params = &b->params[s];
    round.vocab = b->vocab;
    return round;
}

static __device__ spc_round round_at(const spc_verify_batch *b, int32_t s)
{
    return spc_batch_round(b, s);
}

/* Threads that fetch what a round reads again and again: the first warp its inputs, those behind it
 * drafts and statistics of theirs, one of the warp behind those the rest; the last warp's takes a
 * job meanwhile.  (The sequence's tiles are being summed: these trips to memory nobody waits for.)
 */
enum {
    FETCHES_DRAFTS = WARP,
    FETCHES_STATS = FETCHES_DRAFTS + SPC_GAMMA_MAX + 1,
    FETCHES_END = FETCHES_STATS + (SPC_GAMMA_MAX + 1) * (int)(sizeof(spc_row_stats) / 4),
    BEGINS_ROUND = SPC_LANES - WARP - 1,
    TAKES_JOB = SPC_LANES - WARP
};

static_assert((int)FETCHES_END <= (int)BEGINS_ROUND, "a thread for every word");

static __device__ void fetch_drafts(const spc_draw_batch *b, int32_t s)
{
    (void)b;
    (void)s;
}

/* As many as the sequence has: what lies behind them nobody may have written. */
static __device__ void fetch_drafts(const spc_verify_batch *b, int32_t s)
{
    const int64_t first = (int64_t)s * b->max_drafts;
    const size_t n = scratch.round.drafts > 0 ? (size_t)scratch.round.drafts : 0;

    if (b->draft) copy_words(scratch.draft, b->draft + first, n * sizeof *b->draft, FETCHES_DRAFTS);
    if (b->stats) copy_words(scratch.stats, b->stats + first, n * sizeof *b->stats, FETCHES_STATS);
}

/* What a batch says of a sequence, but of its drafts: inputs, which nobody writes meanwhile. */
template <typename Batch> static __device__ void fetch_round(const Batch *b, int32_t s)
{
    const int32_t i = (int32_t)threadIdx.x;

    if (i < WARP) fetch_input(s);
    if (i != BEGINS_ROUND) return;
    scratch.sequence = s;
    scratch.begun = 0;
    scratch.round = round_at(b, s);
    scratch.round.params = &scratch.input.params;
    if (scratch.round.draft) scratch.round.draft = scratch.draft;
    if (scratch.round.stats) scratch.round.stats = scratch.stats;
    scratch.round.tile_weight = scratch.row.weight;
}

/* Both logits of draft i, where it is one. */
static __device__ void fetch_draft_logits(int32_t i)
{
    const spc_round *round = &scratch.round;
    const int32_t token = scratch.draft[i];

    if (token < 0 || token >= round->vocab) return;

    const spc_row_pair pair = spc_pair_at(round, i, true);

    scratch.draft_logits[i].drafter = spc_view_logit(&pair.drafter.row, token);
    scratch.draft_logits[i].verifier = spc_view_logit(&pair.verifier.row, token);
}

/* Word i of the record of a row. */
static __device__ uint32_t *record_word(int64_t row, int32_t i)
{
    cell *at = scratch.q.cells + scratch.q.records + row * SPC_QUEUE_RECORD_CELLS;

    return (uint32_t *)&at[i / CELL_WORDS].tile + i % CELL_WORDS;
}

static __device__ void put_record(int64_t row, row_record record)
{
    union {
        row_record record;
        uint32_t word[RECORD_WORDS];
    } u;

    u.record = record;
    for (int i = 0; i < RECORD_WORDS; i++) *record_word(row, i) = u.word[i];
}

/* This block will decide a sequence: get ready, while others bring its last tiles.  What a batch
 * says of it are inputs, which nobody writes meanwhile.  A barrier has to follow. */
template <typename Batch>
static __device__ __noinline__ void take_sequence(const Batch *b, int32_t s)
{
    const int32_t r = (int32_t)threadIdx.x, rows = scratch.q.rows;

    static_assert((int)ROWS_MAX <= (int)TAKES_JOB, "a thread for each");
    fetch_round(b, s);
    if (r == TAKES_JOB) scratch.slot = take_slot(0, scratch.q.deciders);
    __syncthreads();
    fetch_drafts(b, s);
    if (r < rows) {
        spc_view view;
        const bool wanted = first_row(b, s, r, &view);

        scratch.known[r] = wanted ? view.logits.data : nullptr;
        scratch.known_subset[r] = wanted ? view.subset : nullptr;
        scratch.known_width[r] = wanted ? view.width : 0;
        scratch.cut[r] = wanted && is_cut(spc_needs_of(&scratch.input.params, scratch.q.vocab));
    }
    __syncthreads();
    if (r < scratch.round.drafts) fetch_draft_logits(r);
}

/* Does whoever decides a sequence look at whole rows again? */
static __device__ bool needs_job(const spc_draw_batch *)
{
    return scratch.cut[0];
}

static __device__ bool needs_job(const spc_verify_batch *)
{
    return true;
}

/* Are all tiles of that sequence there?  By one thread; those that it meets may read them then.
 * Where more blocks decide than there are jobs for, it must get one, too: others give theirs back
 * without its help. */
template <typename Batch> static __device__ bool is_ripe(const Batch *b, int32_t s)
{
    const int32_t tiles = scratch.q.rows * scratch.q.tiles;

    if (fresh(&scratch.q.cells[s].ripe) != tiles) return false;
    if (scratch.slot < 0 && needs_job(b)) {
        scratch.slot = take_slot(0, scratch.q.deciders);
        if (scratch.slot < 0) return false;
    }
    fence_blocks();
    return true;
}

/* Statistics of a row that is not cut, of which a warp reads the partials. */
static __device__ __noinline__ spc_row_stats stats_by_warp(int64_t cells)
{
    const spc_row_needs needs = spc_needs_of(&scratch.input.params, scratch.q.vocab);

    return spc_stats_of(merge_by_warp(scratch.q.tiles, needs.scale,
                                      [=](int32_t t) { return partial_at(cells, t); }),
                        needs);
}

/* Statistics of the rows of the first pass: a warp merges one, all at the same time; of a row that
 * is cut whoever ended it left a record. */
static __device__ void look_at_rows(int32_t s)
{
    const queue *q = &scratch.q;
    const int32_t lane = (int32_t)threadIdx.x % WARP;

    for (int32_t r = (int32_t)threadIdx.x / WARP; r < q->rows; r += WARPS) {
        if (!scratch.known[r]) continue;
        if (!scratch.cut[r]) {
            const spc_row_stats stats = stats_by_warp(cells_of_row(q, s, r));

            if (lane == 0) scratch.record[r] = {stats, 1};
        } else if (q->tiles == 1) {
            if (lane == 0) scratch.record[r].ready = 0;
        } else if (lane < RECORD_WORDS) {
            ((uint32_t *)&scratch.record[r])[lane] = fresh_word(record_word(row_of(q, s, r), lane));
        }
    }
}

/* All that the first pass was to find out about a sequence is there, and this block is ready for
 * it: decide it, and take another, or leave if there is none: where others have none either, they
 * help those who still decide. */
template <typename Batch>
static __device__ __noinline__ void decide(const Batch *b, int32_t s, int32_t live)
{
    const int32_t r = (int32_t)threadIdx.x, rows = scratch.q.rows;

    look_at_rows(s);
    if (r == TAKES_JOB) scratch.then = (int32_t)atomicAdd(&scratch.q.all->next, 1u);
    __syncthreads();
    decide_sequence(b, s);
    drop_begun();
    if (r < rows) scratch.q.cells[row_of(&scratch.q, s, r)].arrived = 0;
    if (r == 0) { /* others may leave while this is being written */
        scratch.q.cells[s].ripe = 0;
        if (scratch.slot >= 0) give_slot(scratch.slot);
        scratch.mine = scratch.then;
        (void)atomicAdd(&scratch.q.all->decided, 1u);
    } else if (r == TAKES_JOB && scratch.then >= live && 2 * live <= (int32_t)gridDim.x) {
        scratch.gone = (int32_t)atomicAdd(&scratch.q.all->gone, 1u);
    }
    __syncthreads();
}

/* A row that is cut has all that the first pass can find out: by the thread that wrote it down. */
static __device__ void ripen(int32_t s)
{
    fence_blocks();
    atomicAdd(&scratch.q.cells[s].ripe, scratch.q.tiles);
}

/* All tiles of a row are there that is cut: of the one that is finished[i].  It goes on by itself,
 * all of a sequence at the same time: a sequence has as many steps in a row as one of its rows. */
template <typename Batch> static __device__ __noinline__ void finish_row(const Batch *b, int32_t i)
{
    const arrival *done = &scratch.finished[i];
    const int64_t row = done->row, cells = row * scratch.q.tiles;
    const int32_t s = done->sequence, r = (int32_t)(row - row_of(&scratch.q, s, 0));
    const spc_row_stats stats = stats_of_cells(cells, done->needs);

    __syncthreads();
    if (threadIdx.x < WARP) fetch_input(s);
    __syncthreads();
    if (threadIdx.x == 0) {
        scratch.claim = stats.bad ? -1 : take_slot(SPC_QUEUE_DECIDERS, scratch.q.ahead);
        if (scratch.claim < 0) put_record(row, {stats, stats.bad});
        if (scratch.claim >= 0) {
            begin_text(JOB_NONE, &scratch.input.params, r, scratch.q.piece);
            (void)first_row(b, s, r, &scratch.job.view);
            scratch.job.sequence = s;
            scratch.job.cells = cells;
            scratch.job.stats = stats;
            begin_cut(&scratch.job);
        }
    }
    __syncthreads();
    if (scratch.claim >= 0) {
        post(scratch.claim, 0);
    } else if (threadIdx.x == 0) {
        ripen(s);
    }
}

/* The last piece of a stage of a row that goes on by itself was this block's. */
static __device__ __noinline__ void go_on(int32_t slot)
{
    next_stage(slot);
    if (scratch.job.kind != JOB_NONE) {
        post(slot, 0);
        return;
    }

    if (threadIdx.x == 0) {
        const int32_t s = scratch.job.sequence;

        put_record(row_of(&scratch.q, s, scratch.job.row), {scratch.job.stats, 1});
        give_slot(slot);
        ripen(s);
    }
}

#endif
