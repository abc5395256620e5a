/* SPDX-License-Identifier: Apache-2.0 */
/* decide.cuh - the round of one sequence, decided by a whole block: what rules/round_body.h asks
 * for, as jobs (jobs.cuh, cut.cuh).  Part of queue.cu. */
#ifndef SPC_CUDA_DECIDE_CUH
#define SPC_CUDA_DECIDE_CUH

#include "cut.cuh"

/* ---- rows, as round_body.h asks for them ----------------------------------------------------- */

/* The row of the first pass that this is, or NO_ROW. */
static __device__ int32_t known_row(const spc_view *row)
{
    for (int32_t r = 0; r < scratch.q.rows; r++) {
        if (scratch.known[r] && scratch.known[r] == row->logits.data &&
            scratch.known_subset[r] == row->subset && scratch.known_width[r] == row->width) {
            return r;
        }
    }
    return NO_ROW;
}

/* Statistics of a row from its tiles' partials, before any truncation. */
static __device__ spc_row_stats stats_of_cells(int64_t cells, spc_row_needs needs)
{
    return spc_stats_of(merge_tiles(&scratch.block, &scratch.row, scratch.q.tiles, needs.scale,
                                    [=](int32_t t) { return partial_at(cells, t); }),
                        needs);
}

/* Cut scratch.job's row, stage after stage. */
static __device__ spc_row_stats cut_row(void)
{
    __syncthreads();
    if (threadIdx.x == 0) begin_cut(&scratch.job);
    __syncthreads();
    while (scratch.job.kind != JOB_NONE) {
        run_job();
        next_stage(scratch.slot);
    }
    return scratch.job.stats;
}

/* Statistics of a row as its sequence needs them; leaves scratch.weights. */
static __device__ __noinline__ void view_statistics(const spc_round *round, const spc_view *row,
                                                    spc_row_stats *stats)
{
    const spc_row_needs needs = spc_needs_of(round->params, round->vocab);
    const int32_t r = known_row(row);
    int64_t cells;

    __syncthreads(); /* scratch may still be read */
    if (r >= 0) {
        cells = cells_of_row(&scratch.q, scratch.sequence, r);
    } else {
        cells = cells_of_job(&scratch.q, scratch.slot);
        if (threadIdx.x == 0) {
            begin_text(JOB_PARTIALS, round->params, NO_ROW, 1);
            scratch.job.view = *row;
        }
        run_job();
    }
    if (threadIdx.x == 0) scratch.weights = cells;
    if (r >= 0 && scratch.record[r].ready) {
        *stats = scratch.record[r].stats;
        __syncthreads();
        return;
    }
    *stats = stats_of_cells(cells, needs);
    if (!stats->bad && is_cut(needs)) {
        if (threadIdx.x == 0) {
            begin_text(JOB_NONE, round->params, NO_ROW, 1);
            scratch.job.view = *row;
            scratch.job.cells = cells;
            scratch.job.stats = *stats;
        }
        *stats = cut_row();
    }
    __syncthreads();
    if (r >= 0 && threadIdx.x == 0) scratch.record[r] = {*stats, 1};
    __syncthreads();
}

static __device__ __noinline__ float nucleus_cut(const spc_row_pair *pair, const spc_side *side,
                                                 float top_p)
{
    if (side->softmax.greedy) return side->stats.max;

    const int32_t r = known_row(&side->row);

    __syncthreads();
    if (threadIdx.x == 0) {
        begin_text(JOB_NONE, pair->round->params, NO_ROW, 1);
        scratch.job.bare = 1;
        scratch.job.view = side->row;
        scratch.job.stats = side->stats;
        scratch.job.softmax = side->softmax;
        scratch.job.cells = r >= 0 ? cells_of_row(&scratch.q, scratch.sequence, r)
                                   : cells_of_job(&scratch.q, scratch.slot);
        begin_nucleus(&scratch.job, top_p, spc_mass_of(side->stats.sum));
    }
    __syncthreads();
    while (scratch.job.kind != JOB_NONE) {
        run_job();
        next_stage(scratch.slot);
    }
    return scratch.job.found;
}

/* From the row whose statistics were asked for last. */
static __device__ __noinline__ int32_t draw_view(const spc_round *round, const spc_view *row,
                                                 spc_row_stats stats, spc_key key,
                                                 spc_stream_id stream)
{
    const spc_softmax s = spc_softmax_of(stats, round->params->sampling.temperature);
    const int32_t t = (int32_t)threadIdx.x;

    if (s.greedy) return s.top;

    if (t < scratch.q.tiles) {
        scratch.row.weight[t] =
            spc_partial_at(partial_at(scratch.weights, t), stats.max, s.scale).sum;
    }
    __syncthreads();

    const int32_t tile =
        race_tiles(&scratch.block, round->tile_weight, scratch.q.tiles, key, stream);

    if (tile < 0) return s.top; /* only when every tile's weight underflowed but the top's */

    /* in one trip to memory: loaded where each is used, entries would come one after the other */
    const int32_t entries = ask_row(row, round->vocab, tile);
    spc_words *words = (spc_words *)&scratch.stage[1]; /* nobody reads it meanwhile */

    static_assert(sizeof(tile_stage) >= SPC_TILE / 4 * sizeof *words, "room for a tile's");
    race_words_of_tile(tile, key, stream, words);

    const int32_t type = await_row(row, round->vocab, tile, entries);

    return race_fours(
        &scratch.block, round->vocab, tile, [=](int32_t i) { return words[i]; },
        [=](int32_t i, int32_t count, float *entry) {
            float z[4];

            staged_four(&scratch.stage[0], type, i, z);
            for (int32_t k = 0; k < 4; k++) {
                if (k < count) entry[k] = spc_softmax_weight(s, z[k]);
            }
        });
}

/* ---- sums over pairs of rows ------------------------------------------------------------------
 */

/* By all threads, a word each: one thread took some hundred instructions for it. */
static __device__ void fold_text(const spc_row_pair *pair, spc_summand what, float x)
{
    enum { PARAMS = WARP, PAIR = 2 * WARP, ROUND = sizeof pair->round };
    job_text *text = &scratch.job;

    static_assert(offsetof(spc_row_pair, round) == 0, "what stays is in front");
    static_assert(PAIR + (sizeof *pair - ROUND) / 4 <= SPC_LANES, "a thread for every word");
    static_assert(PARAMS + sizeof text->params / 4 <= PAIR, "a warp for them");
    __syncthreads();
    copy_words(&text->params, pair->round->params, sizeof text->params, PARAMS);
    copy_words((char *)&text->pair + ROUND, (const char *)pair + ROUND, sizeof *pair - ROUND, PAIR);
    if (threadIdx.x > 0) return;
    text->kind = JOB_FOLD;
    text->what = what;
    text->x = x;
    text->row = NO_ROW;
    text->piece = 1; /* tickets have come to an end: blocks are plenty */
    text->bare = 0;
}

/* Index of a sum that was begun, or -1. */
static __device__ int32_t find_begun(int32_t row, spc_summand what, float x)
{
    for (int32_t i = 0; i < scratch.begun; i++) {
        const begun_sum *a = &scratch.ahead[i];

        if (a->slot >= 0 && a->row == row && a->what == (int32_t)what && a->x == x) return i;
    }
    return -1;
}

/* A sum that will be asked for soon: everyone may take its tiles meanwhile.  Without a job to spare
 * it has to wait for its turn. */
static __device__ __noinline__ void begin_fold(const spc_row_pair *pair, spc_summand what, float x)
{
    const int32_t n = scratch.begun;

    if (scratch.q.tiles == 1 || n == AHEAD_MAX) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        scratch.claim = take_slot(SPC_QUEUE_DECIDERS, scratch.q.ahead);
        if (scratch.claim >= 0) {
            scratch.ahead[n] = {scratch.claim, pair->row, what, x};
            scratch.begun = n + 1;
        }
    }
    __syncthreads();
    if (scratch.claim < 0) return;
    fold_text(pair, what, x);
    post(scratch.ahead[n].slot, 0);
}

/* A tile's sum of a fold, as soon as it is there. */
static __device__ float await_sum(int64_t cells, int32_t tile)
{
    uint64_t pair;

    while ((pair = fresh_pair(sum_at(cells, tile))) >> 32 == 0) __nanosleep(16);
    return spc_bits_float((uint32_t)pair);
}

/* Sums that were begun and never asked for: take back what nobody has taken, a thread each. */
static __device__ void drop_begun(void)
{
    __syncthreads();
    if ((int32_t)threadIdx.x < scratch.begun && scratch.ahead[threadIdx.x].slot >= 0) {
        const begun_sum *a = &scratch.ahead[threadIdx.x];
        const int32_t rest = atomicExch(scratch.q.left + a->slot, 0);

        if (rest > 0) atomicSub(&scratch.q.all->open, 1);
        for (int32_t t = rest > 0 ? rest : 0; t < scratch.q.tiles; t++) {
            (void)await_sum(cells_of_job(&scratch.q, a->slot), t);
        }
        give_slot(a->slot);
    }
    __syncthreads();
    if (threadIdx.x == 0) scratch.begun = 0;
    __syncthreads();
}

/* The tiles' sums of a fold: to round->tile_weight, as they come. */
static __device__ void await_sums(int32_t slot)
{
    const int32_t t = (int32_t)threadIdx.x;

    if (t < scratch.q.tiles) {
        scratch.row.weight[t] = await_sum(cells_of_job(&scratch.q, slot), t);
    }
    __syncthreads();
}

/* Behind the next barrier the memory of a job whose sums are there may be written again. */
static __device__ void end_sums(void)
{
    if ((int32_t)threadIdx.x < scratch.q.tiles) fence_blocks(); /* they have the sums */
}

/* From left to right. */
static __device__ float sum_of_tiles(void)
{
    const int32_t tiles = scratch.q.tiles;
    float sum = 0.0f;

    for (int32_t i = 0; i < tiles; i++) sum += scratch.row.weight[i];
    return sum;
}

/* The sums of one that was begun. */
static __device__ __noinline__ void await_begun(int32_t begun)
{
    const int32_t slot = scratch.ahead[begun].slot;

    run_rest(slot, claim_piece(slot, true), false);
    await_sums(slot);
    end_sums();
    __syncthreads();
    if (threadIdx.x == 0) {
        give_slot(slot);
        scratch.ahead[begun].slot = -1;
    }
    __syncthreads();
}

/* The tiles' sums of a row, in round->tile_weight.  scratch.job is the sum's. */
static __device__ __noinline__ void fold_tiles(const spc_row_pair *pair, spc_summand what, float x)
{
    fold_text(pair, what, x);
    run_job();
    await_sums(scratch.slot);
}

/* Sum over the row; leaves the tiles' sums in round->tile_weight. */
static __device__ __noinline__ float fold(const spc_row_pair *pair, spc_summand what, float x)
{
    const int32_t begun = find_begun(pair->row, what, x);

    if (begun >= 0) {
        await_begun(begun);
    } else {
        fold_tiles(pair, what, x);
        end_sums();
    }
    return sum_of_tiles();
}

static __device__ float fold_later(const spc_row_pair *pair, spc_summand what, float x)
{
    begin_fold(pair, what, x);
    return find_begun(pair->row, what, x) >= 0 ? 0.0f : fold(pair, what, x);
}

static __device__ float fold_value(int32_t row, spc_summand what, float x, float later)
{
    const int32_t begun = find_begun(row, what, x);

    if (begun < 0) return later;
    await_begun(begun);
    return sum_of_tiles();
}

/* What scratch.job's sum takes of an entry, whatever it is: a call, for there are many. */
static __device__ __noinline__ float any_summand(int32_t v, float drafter, float verifier)
{
    const job_text *job = &scratch.job;

    return spc_pair_summand(&job->pair, (spc_summand)job->what, job->x,
                            spc_pair_entry_of(&job->pair, v, drafter, verifier));
}

/* The entry of a tile that wins the second level, by scratch.job's sum: weight(v, its logits).
 * Those come to the stages in one trip to memory, as for draw_view. */
template <typename Weight>
static __device__ __forceinline__ int32_t race_staged(int32_t tile, staged_pair type, spc_key key,
                                                      spc_stream_id stream, Weight weight)
{
    const int32_t first = tile * SPC_TILE;

    return race_fours(
        &scratch.block, scratch.q.vocab, tile,
        [=](int32_t i) { return race_words(tile, i, key, stream); },
        [=](int32_t i, int32_t count, float *entry) {
            float drafter[4], verifier[4];

            staged_four(&scratch.stage[0], type.drafter, i, drafter);
            staged_four(&scratch.stage[1], type.verifier, i, verifier);
            for (int32_t k = 0; k < 4; k++) {
                if (k < count) entry[k] = weight(first + i + k, drafter[k], verifier[k]);
            }
        });
}

/* -1: by the tiles' sums there is none.  They are added while the tile is on its way. */
static __device__ __noinline__ int32_t race_pair(int32_t tile, spc_key key, spc_stream_id stream)
{
    const job_text *job = &scratch.job;
    const staged_pair entries = ask_pair(&job->pair, scratch.q.vocab, tile);

    end_sums();

    const float sum = sum_of_tiles();
    const staged_pair type = await_pair(&job->pair, scratch.q.vocab, tile, entries);

    if (!(sum > 0.0f)) return -1;

    const bool usual = job->what == SPC_SUM_RESIDUAL && is_usual(&job->pair);
    const spc_target_form form = job->pair.target.form;
    const bool defers = usual && form == SPC_TARGET_DEFER;
    const bool selects = usual && form == SPC_TARGET_SELECT;

    return race_staged(tile, type, key, stream, [=](int32_t v, float drafter, float verifier) {
        if (defers) {
            return summand<SPC_SUM_RESIDUAL, SPC_TARGET_DEFER, true>(job).of(v, drafter, verifier);
        }
        if (selects) {
            return summand<SPC_SUM_RESIDUAL, SPC_TARGET_SELECT, true>(job).of(v, drafter, verifier);
        }
        return any_summand(v, drafter, verifier);
    });
}

/* A token with probability proportional to the summand; -1 when nothing weighs anything. */
static __device__ __noinline__ int32_t draw_fold(const spc_row_pair *pair, spc_summand what,
                                                 float x, spc_key key, spc_stream_id stream)
{
    fold_tiles(pair, what, x);

    const int32_t tile =
        race_tiles(&scratch.block, pair->round->tile_weight, scratch.q.tiles, key, stream);

    if (tile >= 0) return race_pair(tile, key, stream); /* of scratch.job, which fold_tiles left */
    end_sums();
    return -1;
}

/* ---- what round_body.h asks for ---------------------------------------------------------------
 */

static __device__ void row_statistics(const spc_row_pair *pair, const spc_side *s,
                                      spc_row_stats *stats)
{
    view_statistics(pair->round, &s->row, stats);
}

static __device__ int32_t draw_row(const spc_row_pair *pair, const spc_side *s, spc_row_stats stats,
                                   spc_key key, spc_stream_id stream)
{
    return draw_view(pair->round, &s->row, stats, key, stream);
}

/* The logits of drafts were fetched for all rows at once. */
static __device__ spc_entry entry_at(const spc_row_pair *pair, int32_t token)
{
    const int32_t r = pair->row;

    if (r < scratch.round.drafts && token == scratch.draft[r]) {
        const spc_pair at = scratch.draft_logits[r];

        return spc_pair_entry_of(pair, token, at.drafter, at.verifier);
    }
    return spc_pair_entry(pair, token);
}

static __device__ bool keeps(const spc_round *round, float kept, float drafter, spc_key key)
{
    (void)round;
    return spc_accepts(kept, drafter, spc_uniform(key, SPC_STREAM_ACCEPT, 0));
}

static __device__ void put_detail(const spc_round *round, int32_t row, const spc_row_detail *detail)
{
    if (threadIdx.x == 0) round->detail[row] = *detail;
}

static __device__ __noinline__ bool judge_ahead(const spc_round *round, spc_row_pair *pair,
                                                spc_verdict *out);

/* What round_body.h uses in many places is a call: inlined it takes ptxas minutes. */
static __device__ __noinline__ bool decide(spc_row_pair *pair, const spc_row_stats *known,
                                           uint32_t *status);
static __device__ __noinline__ void complete(spc_row_pair *pair);
static __device__ __noinline__ void prepare(spc_row_pair *pair, spc_side *s,
                                            const spc_row_stats *known);
static __device__ __noinline__ void draw_bonus(const spc_round *round, spc_row_pair *pair,
                                               spc_verdict *out);
static __device__ __noinline__ void draw_residual(spc_row_pair *pair, spc_summand what, float x,
                                                  spc_key key, spc_verdict *out);
static __device__ __noinline__ void look_ahead(const spc_round *round, spc_row_pair *pair);
static __device__ __noinline__ void verify_token(const spc_round *round, spc_row_pair *pair,
                                                 spc_verdict *out);
static __device__ __noinline__ void verify_block(const spc_round *round, spc_walk *walk,
                                                 spc_verdict *out);
static __device__ __noinline__ void describe_round(const spc_round *round, spc_row_pair *pair,
                                                   const spc_verdict *out);

#define ROUND_FN     static __device__
#define ROUND_AHEAD  true
#define ROUND_WRITES (threadIdx.x == 0)
#define ROUND_MEET() __syncthreads()
#include "rules/round_body.h"

/* ---- rows side by side ------------------------------------------------------------------------
 *
 * What a rule makes of a row takes some thousand instructions, row after row, of a block in which
 * all threads do the same while its sequence, at the end the launch, waits.  Where nothing has to
 * be summed for it, the lanes of each warp take a row each. */

/* Statistics that are at hand, or null. */
static __device__ const spc_row_stats *stats_at_hand(const spc_view *row)
{
    const int32_t r = known_row(row);

    return r >= 0 && scratch.record[r].ready ? &scratch.record[r].stats : nullptr;
}

/* Choose the target's form for one row, by one thread alone.  false: it takes more than is at hand,
 * or something is wrong. */
static __device__ __noinline__ bool decide_alone(const spc_round *round, int32_t i,
                                                 spc_row_pair *pair)
{
    const spc_row_stats *drafter = known_stats(round, i), *verifier;
    uint32_t trouble = 0;

    if (!is_draft(round, i)) return false;
    *pair = spc_pair_at(round, i, true);
    if (!drafter) drafter = stats_at_hand(&pair->drafter.row);
    verifier = stats_at_hand(&pair->verifier.row);
    if (!verifier || (pair->drafter.row.logits.data && !drafter)) return false;
    prepare(pair, &pair->drafter, drafter);
    prepare(pair, &pair->verifier, verifier);
    return decide(pair, drafter, &trouble);
}

/* The pair of one lane to all lanes of its warp. */
static __device__ void share_pair(spc_row_pair *pair, int32_t lane)
{
    uint32_t *word = (uint32_t *)pair;

    static_assert(sizeof *pair % 4 == 0, "whole words");
    for (size_t i = 0; i < sizeof *pair / 4; i++) {
        word[i] = __shfl_sync(0xffffffffu, word[i], lane);
    }
}

static __device__ __noinline__ bool judge_ahead(const spc_round *round, spc_row_pair *pair,
                                                spc_verdict *out)
{
    const int32_t i = (int32_t)threadIdx.x % WARP;
    const spc_rule *rule = &round->params->rule;
    const int32_t facts = spc_rule_facts((spc_rule_kind)rule->path);
    bool decided = false, kept = false, deferred = false;

    if (round->drafts < 2 || scratch.q.tiles == 1) return false;
    if (spc_defers_by_drafter(*rule)) return false; /* the verifier's rows may not be there */
    if (facts & (SPC_FACT_TV | SPC_FACT_DIVERGENCE | SPC_FACT_NUCLEUS)) return false;
    if (i < round->drafts) decided = decide_alone(round, i, pair);
    if (decided) {
        const spc_key key = spc_key_at(round->params, round->position + i, round->salt);
        const spc_entry e = entry_at(pair, round->draft[i]);
        const spc_target raised = spc_target_raise(pair->target, e);

        deferred = spc_target_defers(pair->target, e);
        if (e.mix.drafter > 0 && !spc_target_coin_sums(raised, deferred)) {
            kept = keeps(round, spc_target_kept(raised, e), e.mix.drafter, key);
        }
    }
    __syncwarp();

    const uint32_t kept_rows = __ballot_sync(0xffffffffu, kept);
    const uint32_t deferred_rows = __ballot_sync(0xffffffffu, deferred);
    const uint32_t decided_rows = __ballot_sync(0xffffffffu, decided);

    while (kept_rows >> out->accepted & 1u) {
        mark_deferred(out, out->accepted, (deferred_rows >> out->accepted & 1u) != 0);
        out->verified++;
        keep_draft(round, out);
    }
    if (!(decided_rows >> out->accepted & 1u)) return false;
    share_pair(pair, out->accepted);
    return true;
}

#endif
