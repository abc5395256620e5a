/* SPDX-License-Identifier: Apache-2.0 */
/* queue.cu - drawing and verification in one launch, spread over the whole device tile by tile.
 *
 * As many blocks as fit stay for the whole launch.  First they take tickets: tile after tile of
 * the rows that every sequence will look at, sequence after sequence, and leave the statistics of
 * each tile in the workspace.  The block that brings a sequence's last tile decides the sequence:
 * it runs rules/round_body.h, whose sums over whole rows (a residual, eta, a distance) become jobs
 * of as many tiles.  Blocks that have no tickets any more take tiles of open jobs.
 *
 * Who computes a tile does not matter: a tile's numbers are final, and are added from left to
 * right by whoever decides.  So the result has the bits of the reference (verify.cu), whatever the
 * grid, the batch and the order of blocks.
 *
 * A block only waits for tiles that running blocks have taken: nothing here needs all blocks to be
 * on the device at once.
 *
 * Bytes: each row of the first pass once from memory.  What a decision reads again was read a few
 * microseconds ago, because tickets follow the sequences: it should still be in L2 (not measured).
 */
#include "launch.h"

#include "jobs.cuh"

/* ---- rows, as round_body.h asks for them ----------------------------------------------------- */

static __device__ void clear_bins(void)
{
    __syncthreads(); /* they may still be read */
    scratch.q.bins[(int64_t)scratch.sequence * SPC_CUT_BINS + threadIdx.x] = 0;
}

/* Least logit of the set that holds `target` counts, or masses, from the top. */
static __device__ float find_cut(const spc_view *row, spc_softmax s, bool by_mass, uint64_t target)
{
    spc_cut cut = spc_cut_begin(target);

    while (cut.level < spc_cut_levels(row)) {
        clear_bins();
        __syncthreads();
        if (threadIdx.x == 0) {
            scratch.job.kind = JOB_BINS;
            scratch.job.what = by_mass;
            scratch.job.row = *row;
            scratch.job.softmax = s;
            scratch.job.cut = cut;
        }
        run_job();
        scratch.bins[threadIdx.x] =
            fresh(scratch.q.bins + (int64_t)scratch.sequence * SPC_CUT_BINS + threadIdx.x);
        __syncthreads();
        cut = spc_cut_descend(cut, (const uint64_t *)scratch.bins);
        __syncthreads();
    }
    return spc_cut_logit(cut);
}

/* Mass of what s keeps. */
static __device__ uint64_t kept_mass(const spc_view *row, spc_softmax s)
{
    clear_bins();
    __syncthreads();
    if (threadIdx.x == 0) {
        scratch.job.kind = JOB_MASS;
        scratch.job.row = *row;
        scratch.job.softmax = s;
    }
    run_job();
    return fresh(scratch.q.bins + (int64_t)scratch.sequence * SPC_CUT_BINS);
}

/* Least logit of the smallest set that holds the share top_p of `mass`. */
static __device__ float top_p_cut(const spc_view *row, spc_softmax s, float top_p, uint64_t mass)
{
    return find_cut(row, s, true, spc_nucleus_target(top_p, mass));
}

static __device__ __noinline__ float nucleus_cut(const spc_row_pair *pair, const spc_side *side,
                                                 float top_p)
{
    (void)pair;
    if (side->softmax.greedy) return side->stats.max;
    return top_p_cut(&side->row, side->softmax, top_p, spc_mass_of(side->stats.sum));
}

/* Top-k, then top-p on what it left, then min-p: the least logit kept.  all: of the whole row. */
static __device__ float truncation_cut(const spc_view *row, int32_t vocab, const spc_sampling *p,
                                       spc_partial all)
{
    const bool ranked = p->top_k > 0 && p->top_k < vocab;
    spc_softmax s = {all.max, spc_temperature_scale(p->temperature), 1.0f, -SPC_INFINITY, 0, false};

    if (ranked) s.cut = find_cut(row, s, false, (uint64_t)p->top_k);
    if (p->top_p < 1.0f) {
        const float cut =
            top_p_cut(row, s, p->top_p, ranked ? kept_mass(row, s) : spc_mass_of(all.sum));

        if (cut > s.cut) s.cut = cut;
    }
    if (p->min_p > 0.0f) {
        const float cut = spc_min_p_cut(all.max, p->temperature, (float)log((double)p->min_p));

        if (cut > s.cut) s.cut = cut;
    }
    return s.cut;
}

/* Sums over what truncation left; the gate's moment too where the gate reads processed rows. */
static __device__ void restrict_sums(const spc_view *row, float temperature, bool moments,
                                     spc_row_stats *stats)
{
    const int32_t t = (int32_t)threadIdx.x, tiles = scratch.q.tiles;

    if (threadIdx.x == 0) {
        scratch.job.kind = JOB_KEPT;
        scratch.job.moments = moments;
        scratch.job.row = *row;
        scratch.job.softmax = spc_softmax_of(*stats, temperature);
    }
    run_job();
    if (t < tiles) {
        const spc_partial p = fresh(parts() + t);

        scratch.row.weight[t] = p.sum;
        scratch.row.moment[t] = p.moment;
    }
    __syncthreads();
    stats->sum = 0.0f;
    if (moments) stats->moment = 0.0f;
    for (int32_t i = 0; i < tiles; i++) {
        stats->sum += scratch.row.weight[i];
        if (moments) stats->moment += scratch.row.moment[i];
    }
}

/* Partials of a row that the first pass has read, or 0. */
static __device__ const spc_partial *known_partials(const spc_view *row)
{
    for (int32_t r = 0; r < scratch.q.rows; r++) {
        if (scratch.known[r] && scratch.known[r] == row->logits.data &&
            scratch.known_width[r] == row->width) {
            return scratch.q.first +
                   ((int64_t)scratch.sequence * scratch.q.rows + r) * scratch.q.tiles;
        }
    }
    return nullptr;
}

/* Statistics of a row as its sequence needs them; leaves round->tile_weight. */
static __device__ __noinline__ void view_statistics(const spc_round *round, const spc_view *row,
                                                    spc_row_stats *stats)
{
    const spc_row_params *params = round->params;
    const spc_row_needs needs = spc_needs_of(params, round->vocab);
    const spc_partial *from = known_partials(row);
    spc_partial all;

    __syncthreads(); /* scratch may still be read */
    if (!from) {
        if (threadIdx.x == 0) {
            scratch.job.kind = JOB_PARTIALS;
            scratch.job.row = *row;
        }
        run_job();
        from = parts();
    }
    all = merge_tiles(&scratch.block, &scratch.row, scratch.q.tiles, needs.scale,
                      [=](int32_t t) { return fresh(from + t); });
    *stats = spc_stats_of(all, needs);
    if (stats->bad || !needs.mixing) return;
    if (needs.truncates) {
        stats->cut = truncation_cut(row, round->vocab, &params->sampling, all);
    }
    if (needs.restricts) {
        restrict_sums(row, params->sampling.temperature, needs.processed_moment, stats);
    }
}

static __device__ __noinline__ int32_t draw_view(const spc_round *round, const spc_view *row,
                                                 spc_row_stats stats, spc_key key,
                                                 spc_stream_id stream)
{
    const spc_softmax s = spc_softmax_of(stats, round->params->sampling.temperature);

    if (s.greedy) return s.top;

    const int32_t tile =
        race_tiles(&scratch.block, round->tile_weight, scratch.q.tiles, key, stream);

    if (tile < 0) return s.top; /* only when every tile's weight underflowed but the top's */
    return race_entries(&scratch.block, round->vocab, tile, key, stream,
                        [=](int32_t v) { return spc_softmax_weight(s, spc_view_logit(row, v)); });
}

/* Sum over the row; leaves the tiles' sums in round->tile_weight. */
static __device__ __noinline__ float fold(const spc_row_pair *pair, spc_summand what, float x)
{
    const int32_t t = (int32_t)threadIdx.x, tiles = scratch.q.tiles;
    float sum = 0.0f;

    __syncthreads();
    if (threadIdx.x == 0) {
        scratch.job.kind = JOB_FOLD;
        scratch.job.what = what;
        scratch.job.x = x;
        scratch.job.pair = *pair;
        scratch.job.pair.round = &scratch.round;
    }
    run_job();
    if (t < tiles) scratch.row.weight[t] = fresh(parts() + t).sum;
    __syncthreads();
    for (int32_t i = 0; i < tiles; i++) sum += scratch.row.weight[i];
    return sum;
}

/* A token with probability proportional to the summand; -1 when nothing weighs anything. */
static __device__ __noinline__ int32_t draw_fold(const spc_row_pair *pair, spc_summand what,
                                                 float x, spc_key key, spc_stream_id stream)
{
    if (!(fold(pair, what, x) > 0.0f)) return -1;

    const int32_t tile =
        race_tiles(&scratch.block, pair->round->tile_weight, scratch.q.tiles, key, stream);

    if (tile < 0) return -1;
    return race_entries(&scratch.block, pair->round->vocab, tile, key, stream, [=](int32_t v) {
        return spc_pair_summand(pair, what, x, spc_pair_entry(pair, v));
    });
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

static __device__ spc_entry entry_at(const spc_row_pair *pair, int32_t token)
{
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

#define ROUND_FN static __device__
#include "rules/round_body.h"

/* ---- what a batch looks at first, and what it decides ---------------------------------------- */

/* Does row r belong to what sequence s looks at whatever comes?  Its view, and its parameters. */
static __device__ bool first_row(const spc_draw_batch *b, int32_t s, int32_t r, spc_view *view)
{
    (void)r;
    if (!spc_params_valid(&b->params[s])) return false;
    *view = spc_draw_view(b, s);
    return true;
}

/* Rows 0 .. max_drafts - 1 (at least one): the verifier's; behind them the drafter's where their
 * statistics are not given. */
static __device__ bool first_row(const spc_verify_batch *b, int32_t s, int32_t r, spc_view *view)
{
    const int32_t verifier_rows = b->max_drafts > 0 ? b->max_drafts : 1, drafts = b->drafts[s];
    const bool drafter = r >= verifier_rows, block = b->params[s].verify == SPC_VERIFY_BLOCK;
    const int32_t row = drafter ? r - verifier_rows : r;

    if (!spc_params_valid(&b->params[s]) || drafts < 0 || drafts > b->max_drafts) return false;
    if (!b->drafter.logits.data && drafts > 0 && !spc_rule_takes_names(b->params[s].rule.path)) {
        return false;
    }
    if (row >= drafts && (drafter || drafts > 0 || row > 0 || (b->bonus && !b->bonus[s]))) {
        return false;
    }

    const spc_round round = spc_batch_round(b, s);

    /* a rule that is decided by the drafter's row may never look at the verifier's */
    if (!drafter && !block && spc_defers_by_drafter(round.params->rule)) return false;
    *view = drafter ? spc_view_at(round.drafter, round.edits, row)
                    : spc_view_at(round.verifier, round.edits, row);
    return true;
}

static __device__ void decide_sequence(const spc_draw_batch *b, int32_t s)
{
    spc_row_stats stats = spc_stats_one_hot(-1, b->vocab);
    const spc_view row = spc_draw_view(b, s);
    int32_t token = -1;

    if (spc_params_valid(&b->params[s])) {
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

    decide_round(&scratch.round, &verdict);
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

/* ---- the kernel ------------------------------------------------------------------------------ */

template <typename Batch> struct queue_args {
    Batch b;
    queue q;
};

/* A tile of the first pass. */
struct first_tile {
    int32_t sequence, row, tile;
    bool wanted;
    lane_logits v;
};

template <typename Batch>
static __device__ __forceinline__ void load_first(const Batch *b, uint32_t ticket, uint32_t total,
                                                  first_tile *out)
{
    const uint32_t tiles = (uint32_t)scratch.q.tiles, rows = (uint32_t)scratch.q.rows;
    spc_view view;

    if (ticket >= total) return;
    out->tile = (int32_t)(ticket % tiles);
    out->row = (int32_t)(ticket / tiles % rows);
    out->sequence = (int32_t)(ticket / tiles / rows);
    out->wanted = first_row(b, out->sequence, out->row, &view);
    if (out->wanted) load_tile(&view, b->vocab, out->tile, &out->v);
}

/* Take the round of a sequence into shared memory, to decide it or to work on its jobs. */
template <typename Batch> static __device__ void enter_round(const Batch *b, int32_t s)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        scratch.round = round_at(b, s);
        scratch.round.tile_weight = scratch.row.weight;
    }
    __syncthreads();
}

template <typename Batch> static __device__ __noinline__ void decide(const Batch *b, int32_t s)
{
    const int32_t r = (int32_t)threadIdx.x;

    enter_round(b, s);
    if (r < scratch.q.rows) {
        spc_view view;
        const bool wanted = first_row(b, s, r, &view);

        scratch.known[r] = wanted ? view.logits.data : nullptr;
        scratch.known_width[r] = wanted ? view.width : 0;
    }
    if (threadIdx.x == 0) scratch.sequence = s;
    __syncthreads();
    decide_sequence(b, s);
    __syncthreads();
    if (threadIdx.x == 0) {
        job_of(&scratch.q, s)->arrived = 0;
        atomicExch(&job_of(&scratch.q, s)->left, 0);
        __threadfence();
        atomicAdd(&scratch.q.all->decided, 1u);
    }
}

/* The sequence whose turn it is after this block's last tile but one: thread 0 asks for arrivals
 * one tile late, so that nobody waits for the answer. */
struct arrival {
    int32_t before; /* tiles that were there */
    int32_t sequence;
};

static __device__ void announce(arrival last, int32_t all)
{
    if (threadIdx.x == 0) {
        scratch.finished = last.sequence >= 0 && last.before == all - 1 ? last.sequence : -1;
    }
}

template <typename Batch>
static __device__ void first_pass(const Batch *b, uint32_t total, int32_t per_sequence)
{
    const queue *q = &scratch.q;
    arrival last = {0, -1};
    first_tile now, next;
    uint32_t ticket, following;

    if (threadIdx.x == 0) scratch.ticket = atomicAdd(&q->all->ticket, 2u);
    __syncthreads();
    ticket = scratch.ticket;
    following = ticket + 1;
    load_first(b, ticket, total, &now);
    while (ticket < total) {
        uint32_t taken = 0;

        load_first(b, following, total, &next); /* on its way while this tile is summed */
        if (threadIdx.x == 0) taken = atomicAdd(&q->all->ticket, 1u);
        if (now.wanted) {
            const spc_partial p = partial_of(&scratch.block, &now.v, now.tile,
                                             spc_needs_of(&b->params[now.sequence], b->vocab));

            if (threadIdx.x == 0) {
                q->first[((int64_t)now.sequence * q->rows + now.row) * q->tiles + now.tile] = p;
            }
        }
        __syncthreads();
        announce(last, per_sequence);
        if (threadIdx.x == 0) {
            __threadfence();
            last.before = atomicAdd(&job_of(q, now.sequence)->arrived, 1);
            last.sequence = now.sequence;
            scratch.ticket = taken;
        }
        __syncthreads();

        const int32_t finished = scratch.finished;

        ticket = following;
        following = scratch.ticket;
        now = next;
        if (finished >= 0) decide(b, finished);
    }
    __syncthreads();
    announce(last, per_sequence);
    __syncthreads();
    if (scratch.finished >= 0) decide(b, scratch.finished);
}

/* A sequence with tiles to take, or -1; blocks begin to look at different places. */
static __device__ int32_t open_job(int32_t live)
{
    const int32_t from = (int32_t)((uint32_t)blockIdx.x * 7919u % (uint32_t)live);
    unsigned long long best = ~0ull;

    for (int32_t i = (int32_t)threadIdx.x; i < live; i += SPC_LANES) {
        const int32_t s = i + from < live ? i + from : i + from - live;

        if (best == ~0ull && fresh(&job_of(&scratch.q, s)->left) > 0) {
            best = (unsigned long long)(uint32_t)i << 32 | (uint32_t)s;
        }
    }
    best = block_least(&scratch.block, best);
    return best == ~0ull ? -1 : (int32_t)(uint32_t)best;
}

template <typename Batch> static __device__ void help(const Batch *b, int32_t live)
{
    for (;;) {
        const int32_t s = open_job(live);

        if (s >= 0) {
            enter_round(b, s);
            take_tiles(s, false);
            continue;
        }
        if (threadIdx.x == 0) scratch.claim = fresh(&scratch.q.all->decided) < (uint32_t)live;
        __syncthreads();

        const bool more = scratch.claim != 0;

        __syncthreads();
        if (!more) return;
        __nanosleep(64);
    }
}

template <typename Batch>
static __global__ void __launch_bounds__(SPC_LANES, BLOCKS_PER_SM)
    queue_kernel(const __grid_constant__ queue_args<Batch> a)
{
    const int32_t live = spc_live(a.b.live, a.b.sequences), per_sequence = a.q.rows * a.q.tiles;

    if (threadIdx.x == 0) scratch.q = a.q;
    __syncthreads();
    if (live > 0) {
        first_pass(&a.b, (uint32_t)live * (uint32_t)per_sequence, per_sequence);
        help(&a.b, live);
    }
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(&a.q.all->gone, 1u) == gridDim.x - 1) {
        a.q.all->ticket = a.q.all->decided = a.q.all->gone = 0; /* for the next launch */
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static queue queue_in(void *workspace, int32_t sequences, int32_t rows, int32_t vocab)
{
    const size_t n = (size_t)sequences;
    char *at = (char *)workspace;
    queue q;

    q.rows = rows;
    q.tiles = spc_tile_count(vocab);
    q.all = (control *)at;
    q.jobs = at += SPC_QUEUE_HEADER_BYTES;
    q.bins = (uint64_t *)(at += n * SPC_QUEUE_JOB_BYTES);
    q.first = (spc_partial *)(at += n * SPC_CUT_BINS * sizeof(uint64_t));
    q.part = q.first + n * (size_t)rows * (size_t)q.tiles;
    return q;
}

template <typename Batch>
static cudaError_t launch_queue(const Batch *batch, int32_t rows, cudaStream_t stream)
{
    const queue_args<Batch> args = {
        *batch, queue_in(batch->workspace, batch->sequences, rows, batch->vocab)};
    const int64_t tiles = (int64_t)batch->sequences * rows * args.q.tiles;
    int device = 0, processors = 0;
    cudaError_t code = cudaGetDevice(&device);

    if (tiles > INT32_MAX) return cudaErrorInvalidValue;
    if (code == cudaSuccess) {
        code = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    }
    if (code != cudaSuccess) return code;

    const int32_t most = processors * BLOCKS_PER_SM;

    return launch_together(queue_kernel<Batch>, tiles < most ? (int32_t)tiles : most, args, stream);
}

cudaError_t spc_launch_queued_draw(const spc_draw_batch *batch, cudaStream_t stream)
{
    return launch_queue(batch, 1, stream);
}

cudaError_t spc_launch_queued_verify(const spc_verify_batch *batch, cudaStream_t stream)
{
    const int32_t rows = batch->max_drafts > 0 ? batch->max_drafts : 1;
    const bool drafter = batch->drafter.logits.data && !batch->stats && batch->max_drafts > 0;

    return launch_queue(batch, rows + (drafter ? batch->max_drafts : 0), stream);
}
