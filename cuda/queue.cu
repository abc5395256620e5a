/* SPDX-License-Identifier: Apache-2.0 */
/* queue.cu - drawing and verification in one launch, spread over the whole device tile by tile.
 *
 * As many blocks as fit stay for the whole launch.  First they take tickets: tile after tile of
 * the rows that every sequence will look at, sequence after sequence, and leave the statistics of
 * each tile in the workspace.  The block that brings a row's last tile merges them.  A row that is
 * cut (top-k, top-p, min-p) then goes on by itself, stage by stage (cut.cuh): whoever brings the
 * last tile of a stage begins the next.  The block that brings the last row of a sequence decides
 * it: it runs rules/round_body.h, whose sums over whole rows (a residual, eta, a distance) are jobs
 * of as many tiles (jobs.cuh); sums that every row is asked for are begun for all rows together.
 * Open jobs come before tickets, for as many blocks as they have pieces; blocks that find no
 * tickets any more do nothing else.
 *
 * Who computes a tile does not matter: a tile's numbers are final, and are added from left to
 * right by whoever needs the sum.  So the result has the bits of the reference (verify.cu),
 * whatever the grid, the batch and the order of blocks.
 *
 * A block only waits for tiles that running blocks have taken, or for a job that another deciding
 * block will give back: nothing here needs all blocks to be on the device at once.
 *
 * Bytes: each row of the first pass once from memory.  What is read again was read a few
 * microseconds ago, because tickets follow the sequences: a sequence of five rows of 128256 bf16
 * logits is 1.3 MB, and 528 blocks have 4 to 8 MB under way.  (Position after position would leave
 * all sequences to be decided at the very end.)  All rows of a sequence are cut, also those behind
 * the first rejection: which one that is, only cut rows can tell, and one after the other they
 * would take as many steps as there are rows.
 *
 * Steps in a row, counted, not measured: none of this has been timed on a device.  G drafts, the
 * drafter's statistics given; a step is a job that has to end before the next can begin.
 *
 *                                   one sequence, behind its last tile of the first pass
 *   strict, lossy, diff, bild       1: the residual, or the statistics of the bonus row
 *     with a bonus from the target  3: statistics of both rows, the target
 *   token rules                     1, and 1 for eta at each draft outside the set up to the end
 *   opt, fuzzy, their log forms     2: all distances together, the residual
 *   block, strict                   2: all residual masses together (none when the last coin keeps
 *                                      the whole draft), the residual
 *   block, opt or token rules       3: all distances or all eta before
 *   cut by top-p, bf16              2 or 3 more for all rows together: 1 or 2 levels, the sums
 *   cut by top-p, fp32              4 or 5 more: 3 or 4 levels
 *   cut by top-k                    as many levels more
 *   lossy with beta solved,         some tens: each of Newton's steps is one
 *   mentored
 *
 *                                   looks at the rows of the first pass, from L2 but for the first
 *   not cut                         1, and 1 or 2 of the row of the residual
 *   cut by top-p                    3 or 4; an entry outside the bins, or cut, costs two
 * comparisons, a tile without entries inside is not read
 *
 * A ticket is for up to four tiles of a row.  Around a tile: one atomic addition (its arrival,
 * asked for one tile late), one look at the number of open jobs, a fourth of a fence.  Around a
 * ticket: one atomic addition, asked for a ticket ahead, and some 450 instructions a thread that
 * say what the row is (a tile of bf16 takes about 240: these are sm_90a's, counted).  A block has
 * two tiles under way, 16 bytes a thread and copy: with four blocks 64 KB of bf16 for each
 * multiprocessor, where about 15 KB keep the memory of an H100 busy.  Around a piece of a job: a
 * look at all jobs, three atomic additions and a fence. */
#include "launch.h"

#include "decide.cuh"

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

template <typename Batch> struct queue_args {
    Batch b;
    queue q;
};

/* A tile of the first pass.  A ticket is for a few tiles of a row: what the row is costs as many
 * instructions as the sums of two tiles. */
struct first_tile {
    int32_t sequence, row, tile, end; /* end: behind the ticket's last tile */
    bool wanted;
    int32_t place;   /* of its view in scratch.view */
    int32_t entries; /* as fetch_tile says */
};

/* Ask for a tile of a row that is known. */
static __device__ __forceinline__ void ask_first(first_tile *t, tile_stage *stage)
{
    if (t->wanted) {
        t->entries = fetch_tile(&scratch.view[t->place], scratch.q.vocab, t->tile, stage);
    }
}

template <typename Batch>
static __device__ __forceinline__ void load_first(const Batch *b, uint32_t ticket, uint32_t total,
                                                  int32_t place, tile_stage *stage, first_tile *out)
{
    const uint32_t runs = (uint32_t)pieces_of(&scratch.q, scratch.q.piece);
    const uint32_t rows = (uint32_t)scratch.q.rows;
    spc_view view;

    if (ticket >= total) return;
    out->tile = (int32_t)(ticket % runs) * scratch.q.piece;
    out->end = out->tile + scratch.q.piece;
    if (out->end > scratch.q.tiles) out->end = scratch.q.tiles;
    out->row = (int32_t)(ticket / runs % rows);
    out->sequence = (int32_t)(ticket / runs / rows);
    out->place = place;
    out->wanted = first_row(b, out->sequence, out->row, &view);
    if (!out->wanted) return;
    out->entries = fetch_tile(&view, b->vocab, out->tile, stage);
    if (threadIdx.x == 0) scratch.view[place] = view; /* read behind a barrier */
}

/* ---- one sequence -----------------------------------------------------------------------------
 */

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
    if (r == 0) {
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
    if (r == 0) { /* blocks that have one need nobody else to go on, and give it back */
        int32_t slot;

        while ((slot = take_slot(0, scratch.q.deciders)) < 0) __nanosleep(64);
        scratch.slot = slot;
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
        fence_blocks();
    }
    __syncthreads();
    if (scratch.ripe) decide(b, s);
}

/* All tiles of a row are there.  Rows that are cut go on by themselves, all at the same time: a
 * sequence has as many steps in a row as one of its rows. */
template <typename Batch>
static __device__ __noinline__ void finish_row(const Batch *b, int32_t s, int32_t r)
{
    const int64_t row = row_of(&scratch.q, s, r);
    spc_view view;

    if (scratch.q.tiles > 1 && first_row(b, s, r, &view)) {
        const spc_row_params *params = &b->params[s];
        const spc_row_needs needs = spc_needs_of(params, b->vocab);
        const int64_t cells = cells_of_row(&scratch.q, s, r);
        const spc_row_stats stats = stats_of_cells(cells, needs);
        const bool cuts = !stats.bad && needs.mixing && needs.restricts;

        __syncthreads();
        if (threadIdx.x == 0) {
            scratch.claim = cuts ? take_slot(SPC_QUEUE_DECIDERS, scratch.q.ahead) : -1;
            if (scratch.claim < 0) put_record(row, {stats, !cuts});
            if (scratch.claim >= 0) {
                begin_text(JOB_NONE, params, r, scratch.q.piece);
                scratch.job.sequence = s;
                scratch.job.view = view;
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

/* ---- the kernel -------------------------------------------------------------------------------
 */

/* A job with pieces to take, or -1; blocks begin to look at different places. */
static __device__ int32_t open_job(void)
{
    unsigned long long best = ~0ull;

    for (uint32_t i = threadIdx.x; i < SPC_QUEUE_JOBS; i += SPC_LANES) {
        const uint32_t slot = (i + blockIdx.x * 37u) % SPC_QUEUE_JOBS;

        if (best == ~0ull && fresh(scratch.q.left + slot) > 0) {
            best = (unsigned long long)i << 32 | slot;
        }
    }
    best = block_least(&scratch.block, best);
    return best == ~0ull ? -1 : (int32_t)(uint32_t)best;
}

/* Take a piece of any job.  false: none was open. */
template <typename Batch> static __device__ __noinline__ bool serve(const Batch *b)
{
    const int32_t slot = open_job();

    if (slot < 0) return false;

    const int32_t claim = claim_piece(slot);

    if (claim <= 0) return true; /* others were faster */
    read_text(slot);
    run_piece(slot, claim - 1);
    if (threadIdx.x == 0) {
        const int32_t before = atomicAdd(&job_of(&scratch.q, slot)->done, 1);

        fence_blocks();
        scratch.claim =
            scratch.job.row != NO_ROW && before == pieces_of(&scratch.q, scratch.job.piece) - 1;
    }
    __syncthreads();
    if (scratch.claim) go_on(b, slot);
    return true;
}

/* Tiles are announced a few at a time, so that a block waits for its writes once for all of them;
 * the answers are asked for one tile late, so that nobody waits for those.  The first threads have
 * one row each. */
struct arrival {
    int32_t before; /* tiles that were there */
    int32_t row;    /* of all sequences', or NO_ROW */
};

/* The answers of the last announcement. */
static __device__ void note_finished(const arrival *last)
{
    if (threadIdx.x >= ARRIVALS) return;
    scratch.finished[threadIdx.x] =
        last->row != NO_ROW && last->before == scratch.q.tiles - 1 ? last->row : NO_ROW;
}

/* Behind a barrier after the last of `count` tiles was written. */
static __device__ void announce(int32_t count, arrival *last)
{
    last->row = NO_ROW;
    if ((int32_t)threadIdx.x >= count) return;
    fence_blocks();
    last->row = scratch.arrivals[threadIdx.x];
    last->before = atomicAdd(&scratch.q.cells[last->row].arrived, 1);
}

/* Behind a barrier after note_finished. */
static __device__ bool has_finished(void)
{
    bool any = false;

    for (int i = 0; i < ARRIVALS; i++) any |= scratch.finished[i] != NO_ROW;
    return any;
}

template <typename Batch> static __device__ void finish_noted(const Batch *b)
{
    fence_blocks();
    for (int i = 0; i < ARRIVALS; i++) {
        const int32_t row = scratch.finished[i];

        if (row != NO_ROW) finish_row(b, row / scratch.q.rows, row % scratch.q.rows);
    }
}

/* Is it this block's turn to take a piece of what is open?  About as many blocks as there are
 * pieces should look. */
static __device__ bool may_serve(int32_t open, uint32_t ticket)
{
    const uint32_t pieces = (uint32_t)open * (uint32_t)pieces_of(&scratch.q, scratch.q.piece);

    return open > 0 && (ticket * 2654435761u >> 8) % gridDim.x < pieces;
}

/* Jobs take the place of the tile that is on its way: behind one it is asked for again. */
template <typename Batch> static __device__ void first_pass(const Batch *b, uint32_t total)
{
    const queue *q = &scratch.q;
    arrival last = {0, NO_ROW};
    first_tile now = {}, next = {};
    uint32_t ticket, following;
    int32_t brought = 0, turn = 0;

    if (threadIdx.x == 0) scratch.ticket = atomicAdd(&q->all->ticket, 2u);
    __syncthreads();
    ticket = scratch.ticket;
    following = ticket + 1;
    load_first(b, ticket, total, 0, &scratch.stage[0], &now);
    end_fetch();
    __syncthreads();
    while (ticket < total) {
        const int32_t row = (int32_t)row_of(q, now.sequence, now.row);
        const bool ends = now.tile + 1 >= now.end;
        tile_stage *stage = &scratch.stage[turn], *other = &scratch.stage[1 - turn];
        uint32_t taken = 0;
        int32_t open = 0;

        if (ends) { /* the next one is on its way while this tile is summed */
            load_first(b, following, total, 1 - now.place, other, &next);
        } else {
            next = now;
            next.tile++;
            ask_first(&next, other);
        }
        end_fetch();
        if (threadIdx.x == 0) {
            if (ends) taken = atomicAdd(&q->all->ticket, 1u);
            open = fresh(&q->all->open);
        }
        if (now.wanted) {
            lane_logits v;

            wait_fetch<1>();
            open_tile(&scratch.view[now.place], b->vocab, now.tile, now.entries, stage, &v);

            const spc_partial p = partial_of(&scratch.block, &v, now.tile,
                                             spc_needs_of(&b->params[now.sequence], b->vocab));

            if (threadIdx.x == 0) q->cells[(int64_t)row * q->tiles + now.tile].tile = p;
        }
        if (threadIdx.x == 0) scratch.arrivals[brought] = row;
        brought++;
        __syncthreads();
        note_finished(&last);
        announce(brought == ARRIVALS ? brought : 0, &last);
        brought %= ARRIVALS;
        if (threadIdx.x == 0) {
            scratch.ticket = taken;
            scratch.open = may_serve(open, ticket + (uint32_t)now.tile);
        }
        __syncthreads();

        const bool serves = scratch.open != 0;

        if (ends) {
            ticket = following;
            following = scratch.ticket;
        }
        now = next;
        turn = 1 - turn;
        if (has_finished() || serves) {
            wait_fetch<0>();
            __syncthreads();
            finish_noted(b);
            if (serves) (void)serve(b);
            __syncthreads();
            if (ticket < total) ask_first(&now, &scratch.stage[turn]);
            end_fetch();
        }
    }
    __syncthreads();
    note_finished(&last);
    announce(brought, &last);
    __syncthreads();
    finish_noted(b);
    __syncthreads();
    note_finished(&last);
    __syncthreads();
    finish_noted(b);
}

/* Until all sequences are decided: work where there is some. */
template <typename Batch> static __device__ void help(const Batch *b, int32_t live)
{
    for (;;) {
        __syncthreads();
        if (threadIdx.x == 0) {
            scratch.open = fresh(&scratch.q.all->open);
            scratch.claim = fresh(&scratch.q.all->decided) < (uint32_t)live;
        }
        __syncthreads();
        if (!scratch.claim) return;
        if (scratch.open <= 0 || !serve(b)) __nanosleep(64);
    }
}

template <typename Batch>
static __global__ void __launch_bounds__(SPC_LANES, BLOCKS_PER_SM)
    queue_kernel(const __grid_constant__ queue_args<Batch> a)
{
    const int32_t live = spc_live(a.b.live, a.b.sequences);

    if (threadIdx.x == 0) {
        scratch.q = a.q;
        scratch.helper = {};
        scratch.helper.params = &scratch.job.params;
        scratch.helper.vocab = a.q.vocab;
    }
    __syncthreads();
    if (live > 0) {
        first_pass(&a.b, (uint32_t)live * (uint32_t)(a.q.rows * pieces_of(&a.q, a.q.piece)));
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
    char *at = (char *)workspace;
    queue q;

    q.rows = rows;
    q.tiles = spc_tile_count(vocab);
    q.vocab = vocab;
    q.deciders = spc_queue_deciders(sequences);
    q.ahead = spc_queue_ahead(sequences, rows);
    q.records = (int64_t)sequences * rows * q.tiles;
    q.parts =
        q.records + (q.tiles > 1 ? (int64_t)sequences * rows * (int32_t)SPC_QUEUE_RECORD_CELLS : 0);
    q.all = (control *)at;
    q.left = (int32_t *)(at += SPC_QUEUE_HEADER_BYTES);
    q.jobs = at += SPC_QUEUE_JOBS * sizeof(int32_t);
    q.bins = (uint64_t *)(at += SPC_QUEUE_JOBS * SPC_QUEUE_JOB_BYTES);
    q.cells = (cell *)(at + SPC_QUEUE_JOBS * SPC_CUT_BINS * sizeof(uint64_t));
    q.piece = 1;
    return q;
}

/* Tiles of a row that are taken at once: one where blocks are plenty, more where what a block does
 * around a tile (what is the row, is there work, bins are added up) would weigh more than it. */
enum { PIECE_MAX = 4 };

template <typename Batch>
static cudaError_t launch_queue(const Batch *batch, int32_t rows, cudaStream_t stream)
{
    queue_args<Batch> args = {*batch,
                              queue_in(batch->workspace, batch->sequences, rows, batch->vocab)};
    const int64_t tiles = (int64_t)batch->sequences * rows * args.q.tiles;
    int device = 0, processors = 0;
    cudaError_t code = cudaGetDevice(&device);

    if (tiles > INT32_MAX) return cudaErrorInvalidValue;
    if (code == cudaSuccess) {
        code = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    }
    if (code != cudaSuccess) return code;

    const int32_t most = processors * BLOCKS_PER_SM;
    const int64_t each = tiles / most / 4;

    args.q.piece = each < 1 ? 1 : each < PIECE_MAX ? (int32_t)each : PIECE_MAX;
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
