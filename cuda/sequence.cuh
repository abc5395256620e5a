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

static __device__ void copy_words(void *to, const void *from, size_t bytes, int32_t first)
{
    const size_t i = (size_t)((int32_t)threadIdx.x - first);

    if ((int32_t)threadIdx.x >= first && i < bytes / 4) {
        ((uint32_t *)to)[i] = ((const uint32_t *)from)[i];
    }
}

/* What the round reads again and again, in two trips to memory for all rows together. */
static __device__ void fetch_round(void)
{
    const spc_round *round = &scratch.round;
    const int32_t i = (int32_t)threadIdx.x, drafts = round->drafts > 0 ? round->drafts : 0;
    const size_t n = (size_t)drafts;

    static_assert(sizeof(spc_row_params) / 4 <= 32, "the first warp copies them");
    static_assert((SPC_GAMMA_MAX + 1) * (sizeof(spc_row_stats) / 4 + 1) + 32 <= SPC_LANES,
                  "a thread for every word");
    copy_words(&scratch.params, round->params, sizeof scratch.params, 0);
    if (n > 0) copy_words(scratch.draft, round->draft, n * sizeof *round->draft, 32);
    if (n > 0 && round->stats) {
        copy_words(scratch.stats, round->stats, n * sizeof *round->stats, 32 + SPC_GAMMA_MAX + 1);
    }
    __syncthreads();
    if (i < drafts && scratch.draft[i] >= 0 && scratch.draft[i] < round->vocab) {
        const spc_row_pair pair = spc_pair_at(round, i, true);

        scratch.draft_logits[i].drafter = spc_view_logit(&pair.drafter.row, scratch.draft[i]);
        scratch.draft_logits[i].verifier = spc_view_logit(&pair.verifier.row, scratch.draft[i]);
    }
    __syncthreads();
    if (i == 0) {
        scratch.round.params = &scratch.params;
        if (n > 0) scratch.round.draft = scratch.draft;
        if (round->stats) scratch.round.stats = scratch.stats;
    }
    __syncthreads();
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

/* Everything that the first pass was to find out about a sequence is there: decide it. */
template <typename Batch> static __device__ __noinline__ void decide(const Batch *b, int32_t s)
{
    const int32_t r = (int32_t)threadIdx.x, rows = scratch.q.rows;

    __syncthreads();
    if (r < WARP) fetch_input(s);
    __syncthreads();
    if (r == WARP) { /* blocks that have one need nobody else to go on, and give it back */
        int32_t slot;

        while ((slot = take_slot(0, scratch.q.deciders)) < 0) __nanosleep(64);
        scratch.slot = slot;
    }
    if (r == 2 * WARP) {
        scratch.sequence = s;
        scratch.begun = 0;
        scratch.round = round_at(b, s);
        scratch.round.tile_weight = scratch.row.weight;
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
    }
    __syncthreads();
    fetch_round();
    decide_sequence(b, s);
    drop_begun();
    if (r < rows) scratch.q.cells[row_of(&scratch.q, s, r)].arrived = 0;
    if (r == 0) {
        scratch.q.cells[s].ripe = 0;
        give_slot(scratch.slot);
        atomicAdd(&scratch.q.all->decided, 1u);
    }
    __syncthreads();
}

/* A row of sequence s has all that the first pass can find out. */
template <typename Batch> static __device__ void ripen(const Batch *b, int32_t s)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        fence_blocks();
        scratch.ripe = atomicAdd(&scratch.q.cells[s].ripe, 1) == scratch.q.rows - 1;
        if (scratch.ripe) fence_blocks();
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
            post(scratch.claim);
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
        post(slot);
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
