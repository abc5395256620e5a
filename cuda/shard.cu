/* SPDX-License-Identifier: Apache-2.0 */
/* shard.cu - drawing and verification over slices of the vocabulary, on the device:
 * host/verify/shard.c with a block for every tile (rules/shard.h).
 *
 * A partial step is three kernels: place_kernel says where each sequence's answer lies,
 * tiles_kernel leaves the numbers of single tiles there, close_kernel what follows from all of a
 * rank's tiles (who wins a race, where the maximum is).  A combine step is one: a block per
 * sequence takes the answers in, and one thread goes on with the round.  What a kernel is asked
 * lies on the device; nothing waits for the host. */
#include "launch.h"

#include "rows.cuh"

#include <math.h>
#include <string.h>

#define ROUND_FN static __device__
#include "rules/shard_body.h"

template <typename Batch> struct shard_args {
    Batch b; /* its rows seen as if they were whole */
    spc_shards shards;
    int32_t step;
    int32_t units; /* blocks of a sequence */
    int32_t tiles; /* of this rank */
};

/* ---- what a block knows ---------------------------------------------------------------------- */

struct shard_scratch {
    block_scratch block;
    spc_ask ask;
    spc_round round;
    spc_row_pair pair;
    spc_walk walk; /* of the thread that goes on */
    spc_block_sums sums;
    spc_verdict verdict;
    spc_row_needs needs;
    uint32_t *word;       /* of this rank's answer */
    float *weight;        /* of its tiles in a race */
    int32_t first, tiles; /* of this rank */
    int32_t most;         /* tiles of any rank */
    bool open;            /* there is something to answer */
    unsigned long long bins[SPC_CUT_BINS];
    int32_t words[SPC_LANES]; /* of a sequence's answer each */
};

static __shared__ shard_scratch scratch;

static __device__ spc_round round_at(const spc_draw_batch *b, int32_t s)
{
    return spc_draw_round(b, s);
}

static __device__ spc_round round_at(const spc_verify_batch *b, int32_t s)
{
    return spc_batch_round(b, s);
}

/* ---- where answers lie ------------------------------------------------------------------------
 */

/* Words of the answer about sequence s. */
template <typename Batch>
static __device__ int32_t place_words(const shard_args<Batch> *a, int32_t s)
{
    spc_replay r = replay_begin(&a->shards, s, a->b.vocab);
    const spc_round round = round_at(&a->b, s);

    if (a->step == 0) begin_state(r.state, &round);
    return asked_words(&r, &round);
}

/* Is the answer counted up from zeros, or only one rank's? */
static __device__ bool begins_empty(int32_t kind)
{
    return kind == SPC_ASK_MASS || kind == SPC_ASK_BINS || kind == SPC_ASK_LOGITS;
}

/* One block: answers lie one behind the other.  Begins the state of each sequence in step 0. */
template <typename Batch>
static __global__ void __launch_bounds__(SPC_LANES)
    place_kernel(const __grid_constant__ shard_args<Batch> a)
{
    const int32_t live = spc_live(a.b.live, a.b.sequences), lane = (int32_t)threadIdx.x;
    const int64_t room = (int64_t)(a.shards.send_bytes / 4);
    int64_t at = 0;

    for (int32_t first = 0; first < live; first += SPC_LANES) {
        const int32_t s = first + lane, words = s < live ? place_words(&a, s) : 0;

        scratch.words[lane] = words;
        __syncthreads();
        for (int32_t i = 0; i < SPC_LANES; i++) {
            if (i == lane && s < live) spc_shard_at(&a.shards, s)->at = at;
            at += scratch.words[i];
        }
        __syncthreads();
        if (words == 0) continue;

        const spc_shard_state *state = spc_shard_at(&a.shards, s);

        if (!begins_empty(state->ask.kind) || state->at + words > room) continue;
        for (int32_t i = 0; i < words; i++) {
            spc_answer_at(&a.shards, a.shards.rank, state)[i] = 0;
        }
    }
}

/* ---- the question ---------------------------------------------------------------------------- */

/* What sequence s is asked; one thread. */
template <typename Batch>
static __device__ __noinline__ void read_question(const shard_args<Batch> *a, int32_t s)
{
    const spc_shards *shards = &a->shards;
    const spc_replay r = replay_begin(shards, s, a->b.vocab);
    const spc_cuts cuts = spc_cuts_of(shards, a->b.vocab);

    scratch.open = false;
    if (s >= spc_live(a->b.live, a->b.sequences)) return;
    scratch.round = round_at(&a->b, s);
    if (asked_words(&r, &scratch.round) == 0 || !answer_fits(&r, &scratch.round)) return;
    scratch.open = true;
    scratch.ask = r.state->ask;
    scratch.needs = spc_needs_of(scratch.round.params, a->b.vocab);
    scratch.most = r.tiles;
    scratch.first = spc_cut_tile(&cuts, shards->rank);
    scratch.tiles = spc_cut_tiles(&cuts, shards->rank);
    scratch.word = spc_answer_at(shards, shards->rank, r.state);
    scratch.weight = spc_race_weights(shards, s, a->b.vocab);
    if (scratch.ask.kind != SPC_ASK_ROWS)
        scratch.pair = spc_asked_pair(&scratch.round, &scratch.ask);
}

/* Is sequence s asked for a k-th row, or at all?  Blocks are launched for as many as there may be,
 * and those that have none leave at once: a question is read by one thread, word after word. */
template <typename Batch>
static __device__ bool is_asked(const shard_args<Batch> *a, int32_t s, int32_t k)
{
    if (s >= spc_live(a->b.live, a->b.sequences)) return false;

    const spc_ask *ask = &spc_shard_at(&a->shards, s)->ask;

    if (ask->kind != SPC_ASK_ROWS) return k == 0;
    return k < spc_bits_count(ask->verifier_rows) + spc_bits_count(ask->drafter_rows);
}

/* The k-th row of a question for rows: its number, and whose it is.  false: there are fewer. */
static __device__ bool row_asked(int32_t k, int32_t *row, bool *drafter)
{
    const int32_t verifiers = spc_bits_count(scratch.ask.verifier_rows);
    uint32_t bits;

    *drafter = k >= verifiers;
    bits = *drafter ? scratch.ask.drafter_rows : scratch.ask.verifier_rows;
    for (int32_t skip = *drafter ? k - verifiers : k; skip > 0 && bits; skip--) bits &= bits - 1;
    for (*row = 0; bits && (bits >> *row & 1u) == 0;) ++*row;
    return bits != 0;
}

static __device__ uint32_t *row_words(int32_t k)
{
    return scratch.word + k * spc_row_words(scratch.needs, scratch.most);
}

/* The row that a question about one row is about. */
static __device__ const spc_view *asked_row(void)
{
    return scratch.ask.drafter ? &scratch.pair.drafter.row : &scratch.pair.verifier.row;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

static __device__ __noinline__ void row_tile(int32_t k, int32_t t)
{
    lane_logits v;
    int32_t row;
    bool drafter;

    if (!row_asked(k, &row, &drafter)) return;

    const spc_view view = spc_view_at(drafter ? scratch.round.drafter : scratch.round.verifier,
                                      scratch.round.edits, row);

    load_tile(&view, scratch.round.vocab, scratch.first + t, &v);

    const spc_partial p = partial_of(&scratch.block, &v, scratch.first + t, scratch.needs);

    if (threadIdx.x == 0) {
        spc_put_tile(row_words(k) + SPC_ROW_WORDS + t * spc_tile_words(scratch.needs), p,
                     scratch.needs);
    }
}

static __device__ void mass_tile(int32_t t)
{
    lane_logits v;
    unsigned long long mass = 0;

    load_tile(asked_row(), scratch.round.vocab, scratch.first + t, &v);
    for (int k = 0; k < PER_LANE; k++) {
        mass += spc_mass_of(spc_softmax_weight(scratch.ask.softmax, v.z[k]));
    }
    if (mass > 0) atomicAdd((unsigned long long *)scratch.word, mass);
}

static __device__ void bins_tile(int32_t t)
{
    const int32_t first = (scratch.first + t) * SPC_TILE + (int32_t)threadIdx.x;
    lane_logits v;

    static_assert((int)SPC_CUT_BINS == (int)SPC_LANES, "a thread for every bin");
    load_tile(asked_row(), scratch.round.vocab, scratch.first + t, &v);
    scratch.bins[threadIdx.x] = 0;
    __syncthreads();
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t bin = spc_cut_bin(scratch.ask.cut, spc_key_of_logit(v.z[k]));

        if (bin < 0 || first + k * SPC_LANES >= scratch.round.vocab) continue;
        atomicAdd(&scratch.bins[bin],
                  (unsigned long long)(scratch.ask.by_mass ? spc_mass_of(spc_softmax_weight(
                                                                 scratch.ask.softmax, v.z[k]))
                                                           : 1u));
    }
    __syncthreads();
    if (scratch.bins[threadIdx.x] > 0) {
        atomicAdd((unsigned long long *)scratch.word + threadIdx.x, scratch.bins[threadIdx.x]);
    }
}

/* Sum of what truncation leaves of a tile, and its moment. */
static __device__ float kept_sum(spc_softmax s, int32_t t, float *moment)
{
    const float temperature = scratch.round.params->sampling.temperature;
    lane_logits v;
    float sum = 0.0f, part = 0.0f;

    load_tile(asked_row(), scratch.round.vocab, scratch.first + t, &v);
    for (int k = 0; k < PER_LANE; k++) {
        const float w = spc_softmax_weight(s, v.z[k]);

        sum += w;
        if (moment) part += w > 0.0f ? (v.z[k] - s.max) / temperature * w : 0.0f;
    }
    sum = block_sum(&scratch.block, sum);
    if (moment) *moment = block_sum(&scratch.block, part);
    return sum;
}

static __device__ void kept_tile(int32_t t)
{
    float moment = 0.0f;
    const float sum =
        kept_sum(scratch.ask.softmax, t, scratch.needs.processed_moment ? &moment : nullptr);

    if (threadIdx.x == 0) {
        scratch.word[2 * t] = spc_float_bits(sum);
        scratch.word[2 * t + 1] = spc_float_bits(moment);
    }
}

static __device__ float fold_sum(spc_summand what, int32_t t)
{
    const int32_t first = (scratch.first + t) * SPC_TILE + (int32_t)threadIdx.x;
    const spc_row_pair *pair = &scratch.pair;
    lane_logits drafter = {}, verifier = {};
    float sum = 0.0f;

    if (pair->drafter.ready) {
        load_tile(&pair->drafter.row, scratch.round.vocab, scratch.first + t, &drafter);
    }
    if (pair->verifier.ready) {
        load_tile(&pair->verifier.row, scratch.round.vocab, scratch.first + t, &verifier);
    }
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t v = first + k * SPC_LANES;

        if (v < scratch.round.vocab) {
            sum += spc_pair_summand(pair, what, scratch.ask.x,
                                    spc_pair_entry_of(pair, v, drafter.z[k], verifier.z[k]));
        }
    }
    return block_sum(&scratch.block, sum);
}

static __device__ __noinline__ void fold_tile(int32_t t)
{
    const spc_summand what = (spc_summand)scratch.ask.what;
    const bool draws = scratch.ask.draws != 0;
    const int32_t each = !draws && what == SPC_SUM_ABOVE_DRAFTER ? 2 : 1;

    for (int32_t i = 0; i < each; i++) {
        const float sum = fold_sum(i == 0 ? what : SPC_SUM_ABOVE_VERIFIER, t);

        if (threadIdx.x == 0 && draws) scratch.weight[t] = sum;
        if (threadIdx.x == 0 && !draws) scratch.word[each * t + i] = spc_float_bits(sum);
    }
}

static __device__ __noinline__ void draw_tile(int32_t t)
{
    const spc_row_stats *stats =
        scratch.ask.drafter ? &scratch.ask.stats_drafter : &scratch.ask.stats_verifier;
    float sum;

    if (scratch.needs.restricts) {
        sum = kept_sum(spc_softmax_of(*stats, scratch.round.params->sampling.temperature), t,
                       nullptr);
    } else {
        lane_logits v;

        load_tile(asked_row(), scratch.round.vocab, scratch.first + t, &v);
        sum = spc_partial_at(partial_of(&scratch.block, &v, scratch.first + t, scratch.needs),
                             stats->max, scratch.needs.scale)
                  .sum; /* thread 0's */
    }
    if (threadIdx.x == 0) scratch.weight[t] = sum;
}

template <typename Batch>
static __global__ void __launch_bounds__(SPC_LANES)
    tiles_kernel(const __grid_constant__ shard_args<Batch> a)
{
    const int32_t s = (int32_t)blockIdx.x / a.units, unit = (int32_t)blockIdx.x % a.units;
    const int32_t k = unit / a.tiles, t = unit % a.tiles;

    if (!is_asked(&a, s, k)) return;
    if (threadIdx.x == 0) read_question(&a, s);
    __syncthreads();
    if (!scratch.open) return;
    if (scratch.ask.kind == SPC_ASK_ROWS) {
        row_tile(k, t);
        return;
    }
    switch (scratch.ask.kind) {
    case SPC_ASK_MASS: mass_tile(t); break;
    case SPC_ASK_BINS: bins_tile(t); break;
    case SPC_ASK_KEPT: kept_tile(t); break;
    case SPC_ASK_FOLD: fold_tile(t); break;
    case SPC_ASK_DRAW: draw_tile(t); break;
    default: break;
    }
}

/* ---- what follows from all tiles of a rank ----------------------------------------------------
 */

static __device__ bool holds(int32_t token)
{
    return token >= 0 && token < scratch.round.vocab && token / SPC_TILE >= scratch.first &&
           token / SPC_TILE < scratch.first + scratch.tiles;
}

/* Logits of a token, as far as the pair has rows. */
static __device__ void put_logits(uint32_t *word, const spc_row_pair *pair, int32_t token)
{
    word[0] = pair->drafter.there ? spc_float_bits(spc_view_logit(&pair->drafter.row, token)) : 0u;
    word[1] = spc_float_bits(spc_view_logit(&pair->verifier.row, token));
}

/* Where the maximum of a row's slice is, and the logits of its draft. */
static __device__ __noinline__ void close_row(int32_t k)
{
    const int32_t each = spc_tile_words(scratch.needs);
    unsigned long long best = ~0ull;
    int32_t row;
    bool drafter;
    lane_logits v;
    uint32_t *word, top;
    float max;

    if (!row_asked(k, &row, &drafter)) return;
    word = row_words(k);
    for (int32_t t = (int32_t)threadIdx.x; t < scratch.tiles; t += SPC_LANES) {
        const float z = spc_bits_float(word[SPC_ROW_WORDS + t * each]);
        const unsigned long long mine =
            (unsigned long long)~spc_key_of_logit(z == z ? z : -SPC_INFINITY) << 32 | (uint32_t)t;

        best = mine < best ? mine : best;
    }
    best = block_least(&scratch.block, best);
    if (threadIdx.x == 0) word[0] = word[1] = word[2] = 0;
    if (best != ~0ull) {
        const int32_t tile = scratch.first + (int32_t)(uint32_t)best;
        const spc_view view = spc_view_at(drafter ? scratch.round.drafter : scratch.round.verifier,
                                          scratch.round.edits, row);

        max = spc_bits_float(word[SPC_ROW_WORDS + (int32_t)(uint32_t)best * each]);
        load_tile(&view, scratch.round.vocab, tile, &v);
        top = ~0u;
        for (int i = PER_LANE - 1; i >= 0; i--) {
            if (v.z[i] == max && max > -SPC_INFINITY) {
                top = (uint32_t)(tile * SPC_TILE + i * SPC_LANES) + threadIdx.x;
            }
        }
        best = block_least(&scratch.block, top);
        if (threadIdx.x == 0 && best != 0xffffffffull) word[0] = (uint32_t)best;
    }
    if (threadIdx.x == 0 && !drafter && row < scratch.round.drafts) {
        const spc_row_pair pair = spc_pair_at(&scratch.round, row, true);

        if (holds(scratch.round.draft[row])) {
            put_logits(word + 1, &pair, scratch.round.draft[row]);
        }
    }
}

/* The rank's winner in a race of tiles, whose weights are in the answer, and of their entries. */
template <typename Weight> static __device__ void close_race(Weight weight)
{
    const spc_stream_id stream = (spc_stream_id)scratch.ask.stream;
    const unsigned long long best =
        race_tiles_from(&scratch.block, scratch.first, scratch.tiles, scratch.ask.key, stream,
                        [](int32_t t) { return scratch.weight[t]; });

    if (best == ~0ull) {
        if (threadIdx.x == 0) scratch.word[0] = spc_float_bits(SPC_INFINITY);
        return;
    }

    const int32_t token =
        race_entries(&scratch.block, scratch.round.vocab, scratch.first + (int32_t)(uint32_t)best,
                     scratch.ask.key, stream, weight);

    if (threadIdx.x == 0) {
        scratch.word[0] = (uint32_t)(best >> 32);
        scratch.word[1] = (uint32_t)token;
        put_logits(scratch.word + 2, &scratch.pair, token);
    }
}

static __device__ __noinline__ void close_fold(void)
{
    if (!scratch.ask.draws) return;
    close_race([](int32_t v) {
        return spc_pair_summand(&scratch.pair, (spc_summand)scratch.ask.what, scratch.ask.x,
                                spc_pair_entry(&scratch.pair, v));
    });
}

static __device__ __noinline__ void close_draw(void)
{
    const spc_softmax s =
        spc_softmax_of(scratch.ask.drafter ? scratch.ask.stats_drafter : scratch.ask.stats_verifier,
                       scratch.round.params->sampling.temperature);
    const spc_view *row = asked_row();

    close_race([=](int32_t v) { return spc_softmax_weight(s, spc_view_logit(row, v)); });
}

template <typename Batch>
static __global__ void __launch_bounds__(SPC_LANES)
    close_kernel(const __grid_constant__ shard_args<Batch> a)
{
    const int32_t s = (int32_t)blockIdx.x / a.units, k = (int32_t)blockIdx.x % a.units;

    if (!is_asked(&a, s, k)) return;
    if (threadIdx.x == 0) read_question(&a, s);
    __syncthreads();
    if (!scratch.open) return;
    if (scratch.ask.kind == SPC_ASK_ROWS) {
        close_row(k);
        return;
    }
    switch (scratch.ask.kind) {
    case SPC_ASK_FOLD: close_fold(); break;
    case SPC_ASK_DRAW: close_draw(); break;
    case SPC_ASK_LOGITS:
        if (threadIdx.x == 0 && holds(scratch.ask.token)) {
            put_logits(scratch.word, &scratch.pair, scratch.ask.token);
        }
        break;
    default: break;
    }
}

/* ---- going on ---------------------------------------------------------------------------------
 */

static __device__ bool go_on(spc_replay *r, const spc_verify_batch *b, int32_t s, spc_round *round)
{
    scratch.walk.sums = &scratch.sums;

    const bool done = go_on_verify(r, round, &scratch.walk, &scratch.verdict);

    if (done) spc_verify_store(b, s, &scratch.verdict);
    return done;
}

static __device__ bool go_on(spc_replay *r, const spc_draw_batch *b, int32_t s, spc_round *round)
{
    spc_row_stats stats;
    int32_t token;
    float logit;
    const bool done =
        go_on_draw(r, round, b->token != nullptr, spc_draw_stream(b), &token, &logit, &stats);

    if (done) spc_draw_store(b, s, token, logit, &stats);
    return done;
}

template <typename Batch>
static __global__ void __launch_bounds__(SPC_LANES)
    combine_kernel(const __grid_constant__ shard_args<Batch> a)
{
    const int32_t s = (int32_t)blockIdx.x, k = (int32_t)threadIdx.x;

    if (s >= spc_live(a.b.live, a.b.sequences)) return;

    spc_replay r = replay_begin(&a.shards, s, a.b.vocab);

    if (threadIdx.x == 0) {
        scratch.round = round_at(&a.b, s);
        scratch.open = spc_params_valid(scratch.round.params);
    }
    __syncthreads();
    if (r.state->done) return;

    const spc_answers answers = answers_at(&a.shards, s, a.b.vocab);
    const bool fits = answer_fits(&r, &scratch.round);
    const bool asks_rows = r.state->ask.kind == SPC_ASK_ROWS;
    const int32_t rows =
        spc_bits_count(r.state->ask.verifier_rows) + spc_bits_count(r.state->ask.drafter_rows);

    __syncthreads(); /* all have read the question: the first thread puts another in its place */
    if (scratch.open && fits && asks_rows) {
        if (k < rows) absorb_row(&r, &scratch.round, &answers, k);
        __syncthreads();
        if (k == 0) absorb_rows_end(&r, &scratch.round);
    } else if (scratch.open && fits && k == 0) {
        absorb(&r, &answers);
    }
    if (k > 0) return;
    r.full = r.full || !fits;
    if (go_on(&r, &a.b, s, &scratch.round)) {
        r.state->done = 1;
        return;
    }
    (void)atomicAdd((unsigned long long *)a.shards.left, 1ull);
    (void)atomicAdd((unsigned long long *)a.shards.left + 1,
                    4ull * (unsigned)asked_words(&r, &scratch.round));
}

/* ---- launchers --------------------------------------------------------------------------------
 */

/* rows: the most that the first question of a sequence has. */
template <typename Batch>
static cudaError_t launch_partial(const Batch &sliced, const spc_shards *shards, int32_t step,
                                  int32_t rows, cudaStream_t stream)
{
    const spc_cuts cuts = spc_cuts_of(shards, sliced.vocab);
    const int32_t tiles = spc_cut_tiles(&cuts, shards->rank);
    shard_args<Batch> args = {sliced, *shards, step, step == 0 ? rows : 1, tiles};
    const int32_t closing = args.units;
    cudaError_t code;

    if ((int64_t)sliced.sequences * closing * (tiles > 0 ? tiles : 1) > INT32_MAX) {
        return cudaErrorInvalidValue;
    }
    code = launch(place_kernel<Batch>, 1, args, stream);
    if (code == cudaSuccess && tiles > 0) {
        args.units = closing * tiles;
        code = launch(tiles_kernel<Batch>, sliced.sequences * args.units, args, stream);
    }
    if (code != cudaSuccess) return code;
    args.units = closing;
    return launch(close_kernel<Batch>, sliced.sequences * closing, args, stream);
}

template <typename Batch>
static cudaError_t launch_combine(const Batch &sliced, const spc_shards *shards, int32_t step,
                                  cudaStream_t stream)
{
    const shard_args<Batch> args = {sliced, *shards, step, 1, 0};
    const cudaError_t code = cudaMemsetAsync(shards->left, 0, 2 * sizeof *shards->left, stream);

    if (code != cudaSuccess) return code;
    return launch(combine_kernel<Batch>, sliced.sequences, args, stream);
}

cudaError_t spc_launch_verify_partial(const spc_verify_batch *batch, const spc_shards *shards,
                                      int32_t step, cudaStream_t stream)
{
    return launch_partial(spc_sliced_verify(batch, shards), shards, step,
                          2 * (batch->max_drafts + 1), stream);
}

cudaError_t spc_launch_verify_combine(const spc_verify_batch *batch, const spc_shards *shards,
                                      int32_t step, cudaStream_t stream)
{
    return launch_combine(spc_sliced_verify(batch, shards), shards, step, stream);
}

cudaError_t spc_launch_draw_partial(const spc_draw_batch *batch, const spc_shards *shards,
                                    int32_t step, cudaStream_t stream)
{
    return launch_partial(spc_sliced_draw(batch, shards), shards, step, 1, stream);
}

cudaError_t spc_launch_draw_combine(const spc_draw_batch *batch, const spc_shards *shards,
                                    int32_t step, cudaStream_t stream)
{
    return launch_combine(spc_sliced_draw(batch, shards), shards, step, stream);
}

template <typename Batch> static cudaError_t load_batch(size_t *most)
{
    cudaError_t code = load_kernel(place_kernel<Batch>, most);

    if (code == cudaSuccess) code = load_kernel(tiles_kernel<Batch>, most);
    if (code == cudaSuccess) code = load_kernel(close_kernel<Batch>, most);
    return code == cudaSuccess ? load_kernel(combine_kernel<Batch>, most) : code;
}

cudaError_t spc_load_shards(size_t *most)
{
    const cudaError_t code = load_batch<spc_draw_batch>(most);

    return code == cudaSuccess ? load_batch<spc_verify_batch>(most) : code;
}
