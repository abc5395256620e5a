/* SPDX-License-Identifier: Apache-2.0 */
/* pieces.cuh - what a block does with the tiles of a piece of a job.  Part of queue.cu. */
#ifndef SPC_CUDA_PIECES_CUH
#define SPC_CUDA_PIECES_CUH

#include "workspace.cuh"

/* A call: what it works out would take the registers of whoever sums tile after tile. */
static __device__ __noinline__ int32_t ask_any_tile(const spc_view *row, int32_t vocab,
                                                    int32_t tile, int32_t turn)
{
    return fetch_tile(row, vocab, tile, &scratch.stage[turn]);
}

/* Ask for a tile that comes in words alone, to one of the stages; as fetch_tile. */
static __device__ __forceinline__ int32_t ask_whole(const spc_view *row, int32_t tile,
                                                    int32_t words, int32_t turn)
{
    fetch_words((const uint4 *)row->logits.data + (int64_t)tile * words + threadIdx.x, words,
                &scratch.stage[turn]);
    return SPC_TILE;
}

/* Ask for any. */
static __device__ __forceinline__ int32_t ask_tile(const spc_view *row, int32_t vocab, int32_t tile,
                                                   int32_t turn)
{
    return tile < whole_tiles(row, vocab) ? ask_whole(row, tile, words_of_tile(row), turn)
                                          : ask_any_tile(row, vocab, tile, turn);
}

/* Statistics of a tile that was asked for and waited for, to the row's cells.  A call, so that
 * whoever calls it again and again keeps nothing but its own in registers.  needs: in shared
 * memory, for to find them out takes as long as the sums. */
static __device__ __noinline__ void sum_tile(const spc_view *row, const spc_row_needs *needs,
                                             int32_t tile, int32_t entries, tile_stage *stage,
                                             int64_t cells)
{
    lane_logits v;

    open_tile(row, scratch.q.vocab, tile, entries, stage, &v);

    const spc_partial p = partial_of(&scratch.block, &v, tile, *needs);

    if (threadIdx.x == 0) scratch.q.cells[cells + tile].tile = p;
}

/* The same of a tile of a ticket.  Another call, for numbers in place of addresses leave whoever
 * calls it the registers that the answers of others wait in. */
static __device__ __noinline__ void sum_one(int32_t place, int32_t tile, int32_t turn,
                                            int32_t entries)
{
    const first_run *run = &scratch.run[place];
    lane_logits v;

    open_tile(&run->view, scratch.q.vocab, tile, entries, &scratch.stage[turn], &v);

    const spc_partial p = partial_of(&scratch.block, &v, tile, run->needs);

    if (threadIdx.x == 0) scratch.q.cells[run->cells + tile].tile = p;
}

/* ---- two tiles at a time ----------------------------------------------------------------------
 *
 * What a block does around the entries of a tile takes as many instructions as they do.  Of rows of
 * bf16 that are asked for one sum or two it takes two tiles together, which lie one behind the
 * other in a stage: half of the threads each, and a thread for two lanes, whose entries share a
 * word.  Lanes are added as ever. */

enum { HALF = SPC_LANES / 2, HALF_WARPS = HALF / WARP, TWO_WORDS = 4 * SPC_LANES };

/* Of such rows, the end of the tiles that come in pairs; 0: of others. */
static __device__ __forceinline__ int32_t end_of_pairs(const first_run *run)
{
    const bool pairs =
        run->view.logits.type == SPC_LOGITS_BF16 && !(run->needs.unscaled && run->needs.entropy);

    return !pairs ? 0 : run->end < run->whole ? run->end : run->whole;
}

/* How many tiles a block sums next. */
static __device__ __forceinline__ int32_t tiles_at(const first_run *run, int32_t tile)
{
    return tile + 2 <= run->pairs ? 2 : 1;
}

/* Ask for those; as fetch_tile. */
static __device__ __forceinline__ int32_t ask_run(const first_run *run, int32_t vocab, int32_t tile,
                                                  int32_t turn)
{
    if (tile + 2 <= run->pairs) {
        const uint4 *from = (const uint4 *)run->view.logits.data + threadIdx.x;

        fetch_words(from + (int64_t)tile * (TWO_WORDS / 2), TWO_WORDS, &scratch.stage[turn]);
        return SPC_TILE;
    }
    return tile < run->whole ? ask_whole(&run->view, tile, run->words, turn)
                             : ask_any_tile(&run->view, vocab, tile, turn);
}

/* Sums of a thread's two lanes, as lane_weight. */
static __device__ __forceinline__ void two_weights(const uint32_t *word, float max, float scale,
                                                   float *sum)
{
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        sum[0] += spc_exp2((lower_of(word[k]) - max) * scale);
        sum[1] += spc_exp2((upper_of(word[k]) - max) * scale);
    }
}

/* A thread's part of its tile: the sums of both lanes, scaled and behind them unscaled, and the
 * first of its entries that is the maximum. */
static __device__ __forceinline__ uint32_t two_lanes(const uint32_t *word, float mine, float max,
                                                     uint32_t first, spc_row_needs needs,
                                                     float *sum)
{
    const bool own = needs.mixing && !(needs.unscaled && needs.scale == SPC_LOG2_E);
    uint32_t top = ~0u;

    if (mine == max) { /* in few warps */
#pragma unroll
        for (int k = PER_LANE - 1; k >= 0; k--) {
            if (upper_of(word[k]) == max) top = first + (uint32_t)(k * SPC_LANES) + 1;
            if (lower_of(word[k]) == max) top = first + (uint32_t)(k * SPC_LANES);
        }
    }
    if (own) two_weights(word, max, needs.scale, sum);
    if (!needs.unscaled) return top;
    two_weights(word, max, SPC_LOG2_E, sum + 2);
    if (needs.mixing && !own) { /* at temperature 1 two sums are one */
        sum[0] = sum[2];
        sum[1] = sum[3];
    }
    return top;
}

/* Statistics of tiles `tile` and the one behind it, which all threads have waited for, to their
 * cells.  All meet at two barriers; threads that have a result write it behind the second.  A call:
 * it shares no registers with what is done to other tiles. */
static __device__ __noinline__ void sum_two(int32_t place, int32_t tile, int32_t turn)
{
    const first_run *run = &scratch.run[place]; /* an address would take its caller two registers */
    block_scratch *s = &scratch.block;
    const int32_t half = (int32_t)threadIdx.x / HALF, lane = (int32_t)threadIdx.x % HALF * 2;
    const int32_t warp = (int32_t)threadIdx.x / WARP, l = (int32_t)threadIdx.x % WARP;
    const uint32_t *at = (const uint32_t *)&scratch.stage[turn] + (half * SPC_TILE + lane) / 2;
    const spc_row_needs needs = run->needs;
    uint32_t word[PER_LANE], both, key, top = ~0u;
    float mine, max, sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};

#pragma unroll
    for (int k = 0; k < PER_LANE; k++) word[k] = at[k * HALF];
    both = word[0];
#pragma unroll
    for (int k = 1; k < PER_LANE; k++) both = larger_two(both, word[k]);
    mine = larger(lower_of(both), upper_of(both));
    key = __reduce_max_sync(0xffffffffu, key_of_max(mine));
    if (l == 0) s->top[warp] = key;
    __syncthreads();
    key = s->top[half * HALF_WARPS];
#pragma unroll
    for (int w = 1; w < HALF_WARPS; w++) {
        const uint32_t other = s->top[half * HALF_WARPS + w];

        key = other > key ? other : key;
    }
    max = key == ~0u ? -SPC_INFINITY : spc_logit_of_key(key);
    if (max > -SPC_INFINITY) {
        top = two_lanes(word, mine, max, (uint32_t)((tile + half) * SPC_TILE + lane), needs, sum);
    }
    s->lane[2 * half][lane] = sum[0];
    s->lane[2 * half][lane + 1] = sum[1];
    if (needs.unscaled) {
        s->lane[2 * half + 1][lane] = sum[2];
        s->lane[2 * half + 1][lane + 1] = sum[3];
    }
    top = __reduce_min_sync(0xffffffffu, top);
    if (l == 0) s->part[warp] = top;
    __syncthreads();

    const int32_t which = warp % HALF_WARPS; /* of the two sums this warp adds */
    spc_partial *to = &scratch.q.cells[run->cells + tile + half].tile;

    if (which > (needs.unscaled ? 1 : 0)) return;
    sum[0] = warp_sum_of_block(s->lane[2 * half + which]);
    if (which > 0) {
        if (l == 0) to->sum_one = sum[0];
        return;
    }
    top = __reduce_min_sync(0xffffffffu, l < HALF_WARPS ? s->part[half * HALF_WARPS + l] : ~0u);
    if (l > 0) return;
    to->max = max; /* where that is -inf the sums are 0 */
    to->top = max > -SPC_INFINITY ? (int32_t)top : 0;
    to->sum = sum[0];
    if (!needs.unscaled) to->sum_one = 0.0f;
    to->moment = 0.0f;
    to->bad = key == ~0u;
}

/* ---- sums over a pair of rows -----------------------------------------------------------------
 */

enum { AT_ONCE = 4 }; /* entries that a thread holds of a row: more would not fit in registers */

/* The two rows of a tile in their stages: of what lies there the types, or the entries. */
struct staged_pair {
    int32_t drafter, verifier;
};

/* Both rows are ready, neither is one-hot. */
static __device__ __forceinline__ bool is_usual(const spc_row_pair *pair)
{
    return pair->drafter.ready && pair->verifier.ready && !pair->drafter.softmax.greedy &&
           !pair->verifier.softmax.greedy;
}

/* What a job's sum takes of an entry.  What and form known while compiling: the rules' switches
 * fold away.  USUAL: is_usual; WHOLE: neither row is cut. */
template <int WHAT, int FORM, bool USUAL, bool WHOLE = false> struct summand {
    spc_row_pair pair;
    spc_gate gate;
    float temperature, x;

    __device__ __forceinline__ explicit summand(const job_text *job)
        : pair(job->pair), gate((spc_gate)job->params.rule.gate),
          temperature(job->params.sampling.temperature), x(job->x)
    {
        if (FORM >= 0) pair.target.form = (spc_target_form)FORM;
        if (!USUAL) return;
        pair.drafter.ready = pair.verifier.ready = true;
        pair.drafter.softmax.greedy = pair.verifier.softmax.greedy = false;
    }

    __device__ __forceinline__ float of(int32_t v, float drafter, float verifier) const
    {
        spc_entry e = spc_pair_entry_with(&pair, gate, temperature, v, drafter, verifier);

        if (WHOLE) { /* the same to the bit, without a comparison */
            const spc_softmax q = pair.drafter.softmax, p = pair.verifier.softmax;

            e.mix.drafter = spc_softmax_whole(q, drafter) * q.inverse;
            e.mix.verifier = spc_softmax_whole(p, verifier) * p.inverse;
        }
        return spc_pair_summand(&pair, (spc_summand)WHAT, x, e);
    }
};

/* PLAIN: the rows are usual and the tile is whole. */
template <int WHAT, int FORM, bool PLAIN>
static __device__ __forceinline__ float lane_sum(const job_text *job, int32_t vocab, int32_t tile,
                                                 staged_pair type)
{
    const summand<WHAT, FORM, PLAIN> term(job);
    float sum = 0.0f;

#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += AT_ONCE) {
        float drafter[AT_ONCE], verifier[AT_ONCE];

        unstage<AT_ONCE>(&scratch.stage[0], type.drafter, k, drafter);
        unstage<AT_ONCE>(&scratch.stage[1], type.verifier, k, verifier);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + (k + i) * SPC_LANES;

            if (PLAIN || v < vocab) sum += term.of(v, drafter[i], verifier[i]);
        }
    }
    return sum;
}

/* The same of rows of bf16 that are not cut: most are, and an entry takes 15 instructions then, not
 * 24. */
template <int WHAT, int FORM>
static __device__ __forceinline__ float lane_sum_whole(const job_text *job, int32_t tile)
{
    const summand<WHAT, FORM, true, true> term(job);
    const auto value = [](uint16_t x) { return spc_bits_float((uint32_t)x << 16); };
    float sum = 0.0f;

#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += 2 * AT_ONCE) {
        const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + k * SPC_LANES;
        float drafter[2 * AT_ONCE], verifier[2 * AT_ONCE];

        unstage_as<2 * AT_ONCE, uint16_t>(&scratch.stage[0], k, value, drafter);
        unstage_as<2 * AT_ONCE, uint16_t>(&scratch.stage[1], k, value, verifier);
#pragma unroll
        for (int i = 0; i < 2 * AT_ONCE; i++) {
            sum += term.of(v + i * SPC_LANES, drafter[i], verifier[i]);
        }
    }
    return sum;
}

template <int WHAT, int FORM>
static __device__ __forceinline__ float lane_fold(const job_text *job, int32_t vocab, int32_t tile,
                                                  staged_pair type)
{
    const bool plain = is_usual(&job->pair) && spc_tile_width(vocab, tile) == SPC_TILE;
    const bool whole = !(job->pair.drafter.softmax.cut > -SPC_INFINITY) &&
                       !(job->pair.verifier.softmax.cut > -SPC_INFINITY);

    if (FORM == SPC_TARGET_DEFER && plain && whole && type.drafter == SPC_LOGITS_BF16 &&
        type.verifier == SPC_LOGITS_BF16) {
        return lane_sum_whole<WHAT, FORM>(job, tile);
    }
    return plain ? lane_sum<WHAT, FORM, true>(job, vocab, tile, type)
                 : lane_sum<WHAT, FORM, false>(job, vocab, tile, type);
}

/* What is rarely asked for: an entry at a time. */
static __device__ __noinline__ float any_fold(const job_text *job, int32_t vocab, int32_t tile,
                                              staged_pair type)
{
    const spc_logits drafter = {&scratch.stage[0], type.drafter};
    const spc_logits verifier = {&scratch.stage[1], type.verifier};
    const int32_t width = spc_tile_width(vocab, tile);
    float sum = 0.0f;

#pragma unroll 1
    for (int32_t i = (int32_t)threadIdx.x; i < width; i += SPC_LANES) {
        const spc_entry e = spc_pair_entry_of(&job->pair, tile * SPC_TILE + i,
                                              spc_logit(drafter, i), spc_logit(verifier, i));

        sum += spc_pair_summand(&job->pair, (spc_summand)job->what, job->x, e);
    }
    return sum;
}

/* Ask for a tile of both rows: the entries that come, as fetch_tile says. */
static __device__ staged_pair ask_pair(const spc_row_pair *pair, int32_t vocab, int32_t tile)
{
    staged_pair entries = {0, 0};

    __syncthreads(); /* all have read the tile before */
    if (pair->drafter.ready) entries.drafter = ask_tile(&pair->drafter.row, vocab, tile, 0);
    if (pair->verifier.ready) entries.verifier = ask_tile(&pair->verifier.row, vocab, tile, 1);
    end_fetch();
    return entries;
}

/* They are there.  Rows that are not ready add nothing, whatever lies in their stage. */
static __device__ staged_pair await_pair(const spc_row_pair *pair, int32_t vocab, int32_t tile,
                                         staged_pair entries)
{
    staged_pair type = {SPC_LOGITS_F32, SPC_LOGITS_F32};

    wait_fetch<0>();
    if (pair->drafter.ready) {
        type.drafter =
            complete_stage(&pair->drafter.row, vocab, tile, entries.drafter, &scratch.stage[0]);
    }
    if (pair->verifier.ready) {
        type.verifier =
            complete_stage(&pair->verifier.row, vocab, tile, entries.verifier, &scratch.stage[1]);
    }
    __syncthreads();
    return type;
}

/* The same of a tile of one row, in the first stage. */
static __device__ __forceinline__ int32_t ask_row(const spc_view *row, int32_t vocab, int32_t tile)
{
    int32_t entries;

    __syncthreads(); /* all have read the tile before */
    entries = ask_tile(row, vocab, tile, 0);
    end_fetch();
    return entries;
}

static __device__ __forceinline__ int32_t await_row(const spc_view *row, int32_t vocab,
                                                    int32_t tile, int32_t entries)
{
    int32_t type;

    wait_fetch<0>();
    type = complete_stage(row, vocab, tile, entries, &scratch.stage[0]);
    __syncthreads();
    return type;
}

/* Four logits, from entry i on, of a tile that lies in a stage. */
static __device__ __forceinline__ void staged_four(const tile_stage *stage, int32_t type, int32_t i,
                                                   float *z)
{
    if (type == SPC_LOGITS_F32) {
        const uint4 four = stage->word[i / 4];

        z[0] = spc_bits_float(four.x);
        z[1] = spc_bits_float(four.y);
        z[2] = spc_bits_float(four.z);
        z[3] = spc_bits_float(four.w);
        return;
    }

    const uint2 four = ((const uint2 *)stage)[i / 4];

    if (type == SPC_LOGITS_BF16) {
        z[0] = lower_of(four.x);
        z[1] = upper_of(four.x);
        z[2] = lower_of(four.y);
        z[3] = upper_of(four.y);
    } else {
        z[0] = spc_half_float((uint16_t)four.x);
        z[1] = spc_half_float((uint16_t)(four.x >> 16));
        z[2] = spc_half_float((uint16_t)four.y);
        z[3] = spc_half_float((uint16_t)(four.y >> 16));
    }
}

static __device__ float fold_tile(const job_text *job, int32_t vocab, int32_t tile)
{
    const spc_row_pair *pair = &job->pair;
    const staged_pair type = await_pair(pair, vocab, tile, ask_pair(pair, vocab, tile));

    if (job->what == SPC_SUM_RESIDUAL && pair->target.form == SPC_TARGET_DEFER) {
        return lane_fold<SPC_SUM_RESIDUAL, SPC_TARGET_DEFER>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_RESIDUAL && pair->target.form == SPC_TARGET_SELECT) {
        return lane_fold<SPC_SUM_RESIDUAL, SPC_TARGET_SELECT>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_OUTSIDE) {
        return lane_fold<SPC_SUM_OUTSIDE, -1>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_TV) {
        return lane_fold<SPC_SUM_TV, SPC_TARGET_DEFER>(job, vocab, tile, type);
    }
    if (job->what == SPC_SUM_BLOCK && pair->target.form == SPC_TARGET_DEFER) {
        return lane_fold<SPC_SUM_BLOCK, SPC_TARGET_DEFER>(job, vocab, tile, type);
    }
    return any_fold(job, vocab, tile, type);
}

/* ---- rows that are cut ------------------------------------------------------------------------
 */

/* Integers of 64 bits, added as two of 32: shared memory has no instruction for the whole. */
static __device__ void add_mass(int32_t bin, uint64_t mass)
{
    const uint32_t low = (uint32_t)mass, before = atomicAdd(&scratch.low[bin], low);
    const uint32_t high = (uint32_t)(mass >> 32) + (before + low < before ? 1u : 0u);

    if (high > 0) atomicAdd(&scratch.high[bin], high);
}

/* Most entries lie outside the bins: they cost two comparisons.  Tiles whose maximum does are not
 * read. */
static __device__ void bins_of_tile(const job_text *job, int32_t vocab, int32_t tile, float low,
                                    float high, int32_t entries)
{
    tile_stage *stage = &scratch.stage[tile % 2];
    const int32_t type = complete_stage(&job->view, vocab, tile, entries, stage);

    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += AT_ONCE) {
        float z[AT_ONCE];

        unstage<AT_ONCE>(stage, type, k, z);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (!(z[i] >= low && z[i] <= high)) continue;
            if (tile * SPC_TILE + (int32_t)threadIdx.x + (k + i) * SPC_LANES >= vocab) continue;

            const int32_t bin = spc_search_bin(&job->search, z[i]);

            if (job->what) {
                add_mass(bin, spc_mass_of(spc_softmax_weight(job->softmax, z[i])));
            } else {
                atomicAdd(&scratch.low[bin], 1u);
            }
        }
    }
}

static __device__ spc_partial kept_of_tile(const job_text *job, int32_t vocab, int32_t tile,
                                           bool moments, int32_t entries)
{
    tile_stage *stage = &scratch.stage[tile % 2];
    const int32_t type = complete_stage(&job->view, vocab, tile, entries, stage);
    spc_partial p = spc_partial_none();
    float sum = 0.0f, moment = 0.0f;

    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += AT_ONCE) {
        float z[AT_ONCE];

        unstage<AT_ONCE>(stage, type, k, z);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (!(z[i] >= job->softmax.cut)) continue; /* adds nothing, to the bit */

            const float w = spc_softmax_weight(job->softmax, z[i]);

            sum += w;
            if (moments && w > 0.0f) {
                moment += (z[i] - job->softmax.max) / job->params.sampling.temperature * w;
            }
        }
    }
    p.sum = block_sum(&scratch.block, sum);
    if (moments) p.moment = block_sum(&scratch.block, moment);
    return p;
}

enum { NOT_READ = -1 };

/* Ask for a tile of a row if it reaches up to `low`: as fetch_tile, or NOT_READ. */
static __device__ int32_t fetch_reaching(const job_text *job, int32_t tile, int32_t last, float low)
{
    int32_t entries = NOT_READ;

    if (tile < last && partial_at(job->cells, tile).max >= low) {
        entries = fetch_tile(&job->view, scratch.q.vocab, tile, &scratch.stage[tile % 2]);
    }
    end_fetch();
    return entries;
}

static __device__ void run_bins(const job_text *job, int32_t slot, int32_t first, int32_t last)
{
    const float low = spc_search_logit(&job->search, job->search.low);
    const float high = spc_search_logit(&job->search, job->search.high);
    int32_t now = fetch_reaching(job, first, last, low);

    static_assert((int)SPC_CUT_BINS == (int)SPC_LANES, "a thread for every bin");
    scratch.low[threadIdx.x] = scratch.high[threadIdx.x] = 0;
    __syncthreads();
    for (int32_t t = first; t < last; t++) {
        const int32_t next = fetch_reaching(job, t + 1, last, low);

        wait_fetch<1>();
        if (now != NOT_READ) bins_of_tile(job, scratch.q.vocab, t, low, high, now);
        __syncthreads(); /* all have read this tile */
        now = next;
    }
    __syncthreads();

    const uint64_t mass =
        (uint64_t)scratch.high[threadIdx.x] << 32 | (uint64_t)scratch.low[threadIdx.x];

    if (mass > 0) {
        atomicAdd((unsigned long long *)bins_of(&scratch.q, slot) + threadIdx.x,
                  (unsigned long long)mass);
    }
}

static __device__ void run_kept(const job_text *job, int32_t first, int32_t last)
{
    const spc_row_needs needs = spc_needs_of(&job->params, scratch.q.vocab);
    const float low = job->softmax.cut;
    int32_t now = fetch_reaching(job, first, last, low);

    for (int32_t t = first; t < last; t++) {
        const int32_t next = fetch_reaching(job, t + 1, last, low);
        spc_partial p = spc_partial_none();

        wait_fetch<1>();
        if (now != NOT_READ) {
            p = kept_of_tile(job, scratch.q.vocab, t, needs.processed_moment, now);
        }
        p.max = job->stats.max; /* what the sums are relative to now */
        p.top = job->stats.top;
        __syncthreads(); /* all have read this tile, and its partial */
        if (threadIdx.x == 0) scratch.q.cells[job->cells + t].tile = p;
        now = next;
    }
}

/* ---- a piece ----------------------------------------------------------------------------------
 */

/* A tile's sum goes to who waits for it in one word, which says that it is there: to write it, wait
 * until it is written, and then count it would be two trips to memory more, and to read it then a
 * third.  last: of the piece; who has the sum knows then that all of the block have done with the
 * job. */
static __device__ void put_sum(int64_t cells, int32_t tile, float sum, bool last)
{
    if (threadIdx.x != 0) return;
    if (last) fence_blocks(); /* the sum itself is behind it: nothing is on its way */
    put_pair(sum_at(cells, tile), (uint64_t)1 << 32 | spc_float_bits(sum));
}

/* One piece of the job in scratch.job.  But for folds the block's threads have all written when it
 * returns, and thread 0 may say so to other blocks. */
static __device__ __noinline__ void run_piece(int32_t slot, int32_t piece)
{
    const job_text *job = &scratch.job;
    const int32_t vocab = scratch.q.vocab, first = piece * job->piece;
    const int32_t last =
        first + job->piece < scratch.q.tiles ? first + job->piece : scratch.q.tiles;

    if (job->kind == JOB_BINS) {
        run_bins(job, slot, first, last);
    } else if (job->kind == JOB_KEPT) {
        run_kept(job, first, last);
    } else {
        const int64_t cells = cells_of_job(&scratch.q, slot);

        if (threadIdx.x == 0) scratch.needs = spc_needs_of(&job->params, vocab);
        for (int32_t t = first; t < last; t++) {
            if (job->kind == JOB_PARTIALS) {
                const int32_t entries = fetch_tile(&job->view, vocab, t, &scratch.stage[0]);

                end_fetch();
                wait_fetch<0>();
                sum_tile(&job->view, &scratch.needs, t, entries, &scratch.stage[0], cells);
            } else {
                put_sum(cells, t, block_sum(&scratch.block, fold_tile(job, vocab, t)),
                        t == last - 1);
            }
        }
        if (job->kind == JOB_FOLD) return;
    }
    __syncthreads();
    if (threadIdx.x == 0) fence_blocks();
}

#endif
