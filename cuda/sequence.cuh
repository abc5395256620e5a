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
 * drafts and statistics of theirs, one of the warp behind those the rest; the last one announces a
 * row meanwhile, and takes a job. */
enum {
    FETCHES_DRAFTS = WARP,
    FETCHES_STATS = FETCHES_DRAFTS + SPC_GAMMA_MAX + 1,
    FETCHES_END = FETCHES_STATS + (SPC_GAMMA_MAX + 1) * (int)(sizeof(spc_row_stats) / 4),
    BEGINS_ROUND = SPC_LANES - WARP - 1,
    ANNOUNCES_ROW = SPC_LANES - WARP
};

static_assert((int)FETCHES_END <= (int)BEGINS_ROUND, "a thread for every word");

static __device__ void fetch_drafts(const spc_draw_batch *b, int32_t s)
{
    (void)b;
    (void)s;
}

/* As many as any sequence may have: how many this one has is on its way. */
static __device__ void fetch_drafts(const spc_verify_batch *b, int32_t s)
{
    const int64_t first = (int64_t)s * b->max_drafts;
    const size_t n = b->max_drafts > 0 ? (size_t)b->max_drafts : 0;

    if (b->draft) copy_words(scratch.draft, b->draft + first, n * sizeof *b->draft, FETCHES_DRAFTS);
    if (b->stats) copy_words(scratch.stats, b->stats + first, n * sizeof *b->stats, FETCHES_STATS);
}

/* What a batch says of a sequence, in one trip to memory: inputs, which nobody writes meanwhile. */
template <typename Batch> static __device__ __noinline__ void fetch_round(const Batch *b, int32_t s)
{
    const int32_t i = (int32_t)threadIdx.x;

    if (i < WARP) fetch_input(s);
    fetch_drafts(b, s);
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

static __device__ row_record record_of(int64_t row)
{
    const cell *at = scratch.q.cells + scratch.q.records + row * SPC_QUEUE_RECORD_CELLS;
    union {
        row_record record;
        uint32_t word[RECORD_WORDS];
    } u;

    for (int i = 0; i < RECORD_WORDS; i++) {
        u.word[i] = fresh_word((const uint32_t *)&at[i / CELL_WORDS].tile + i % CELL_WORDS);
    }
    return u.record;
}

static __device__ void put_record(int64_t row, row_record record)
{
    cell *at = scratch.q.cells + scratch.q.records + row * SPC_QUEUE_RECORD_CELLS;
    union {
        row_record record;
        uint32_t word[RECORD_WORDS];
    } u;

    u.record = record;
    for (int i = 0; i < RECORD_WORDS; i++) {
        ((uint32_t *)&at[i / CELL_WORDS].tile)[i % CELL_WORDS] = u.word[i];
    }
}

/* Everything that the first pass was to find out about a sequence is there, and what the batch says
 * of it is fetched: decide it. */
template <typename Batch> static __device__ __noinline__ void decide(const Batch *b, int32_t s)
{
    const int32_t r = (int32_t)threadIdx.x, rows = scratch.q.rows;

    static_assert((int)ROWS_MAX + SPC_GAMMA_MAX + 1 <= (int)ANNOUNCES_ROW, "a thread for each");
    if (r == ANNOUNCES_ROW) { /* blocks that have one need nobody else to go on, and give it back */
        int32_t slot;

        while ((slot = take_slot(0, scratch.q.deciders)) < 0) __nanosleep(64);
        scratch.slot = slot;
    }
    if (r < rows) {
        spc_view view;
        const bool wanted = first_row(b, s, r, &view);

        scratch.known[r] = wanted ? view.logits.data : nullptr;
        scratch.known_width[r] = wanted ? view.width : 0;
        if (wanted && scratch.q.tiles > 1) {
            scratch.record[r] = record_of(row_of(&scratch.q, s, r));
        } else {
            scratch.record[r].ready = 0;
        }
    } else if (r - ROWS_MAX >= 0 && r - ROWS_MAX < scratch.round.drafts) {
        fetch_draft_logits(r - ROWS_MAX);
    }
    __syncthreads();
    decide_sequence(b, s);
    drop_begun();
    if (r < rows) scratch.q.cells[row_of(&scratch.q, s, r)].arrived = 0;
    if (r == 0) { /* others may leave while this is being written */
        const uint32_t before = atomicAdd(&scratch.q.all->decided, 1u);

        scratch.q.cells[s].ripe = 0;
        give_slot(scratch.slot);
        scratch.over = (before + 1) * (uint32_t)(rows * scratch.q.runs) == scratch.total;
    }
    __syncthreads();
}

/* A row of sequence s has all that the first pass can find out.  Whoever brings the last needs what
 * the batch says of the sequence at once: it is fetched while one waits to hear who that is. */
template <typename Batch> static __device__ void ripen(const Batch *b, int32_t s)
{
    __syncthreads();
    if (threadIdx.x == ANNOUNCES_ROW) {
        fence_blocks();
        scratch.ripe = atomicAdd(&scratch.q.cells[s].ripe, 1) == scratch.q.rows - 1;
        if (scratch.ripe) fence_blocks();
    } else {
        fetch_round(b, s);
    }
    __syncthreads();
    if (scratch.ripe) decide(b, s);
}

/* All tiles of a row are there: of the one that is finished[i].  Rows that are cut go on by
 * themselves, all at the same time: a sequence has as many steps in a row as one of its rows. */
template <typename Batch> static __device__ __noinline__ void finish_row(const Batch *b, int32_t i)
{
    const arrival *done = &scratch.finished[i];
    const int64_t row = done->row;
    const int32_t s = quotient(done->row, scratch.q.by_rows), r = done->row - s * scratch.q.rows;

    if (scratch.q.tiles > 1 && done->wanted) {
        const spc_row_needs needs = done->needs;
        const int64_t cells = row * scratch.q.tiles;
        const spc_row_stats stats = stats_of_cells(cells, needs);
        const bool cuts = !stats.bad && needs.mixing && needs.restricts;

        __syncthreads();
        if (cuts && threadIdx.x < WARP) fetch_input(s);
        if (cuts) __syncthreads();
        if (threadIdx.x == 0) {
            scratch.claim = cuts ? take_slot(SPC_QUEUE_DECIDERS, scratch.q.ahead) : -1;
            if (scratch.claim < 0) put_record(row, {stats, !cuts});
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
            return;
        }
    }
    ripen(b, s);
}

/* The last piece of a stage of a row that goes on by itself was this block's. */
template <typename Batch> static __device__ __noinline__ void go_on(const Batch *b, int32_t slot)
{
    next_stage(slot);
    if (scratch.job.kind != JOB_NONE) {
        post(slot, 0);
        return;
    }

    const int32_t s = scratch.job.sequence;

    if (threadIdx.x == 0) {
        put_record(row_of(&scratch.q, s, scratch.job.row), {scratch.job.stats, 1});
        give_slot(slot);
    }
    ripen(b, s);
}

#endif
