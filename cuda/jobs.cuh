/* SPDX-License-Identifier: Apache-2.0 */
/* jobs.cuh - looks at whole rows as jobs of as many tiles, which blocks share: the workspace, the
 * tiles, and who takes them.  Part of queue.cu, which says how it works. */
#ifndef SPC_CUDA_JOBS_CUH
#define SPC_CUDA_JOBS_CUH

#include "rows.cuh"

enum {
    BLOCKS_PER_SM = 4,
    ROWS_MAX = 2 * (SPC_GAMMA_MAX + 1),
    AHEAD_MAX = 2 * (SPC_GAMMA_MAX + 1), /* sums that a decision may have begun */
    ARRIVALS = 4,
    NO_ROW = -1
};

/* ---- the workspace ---------------------------------------------------------------------------
 *
 * Batches of any shape may follow each other on one workspace, so counters lie where no batch
 * writes anything else: in the header, in `left`, and behind the numbers of a cell.  They are 0
 * between launches.  All the rest may hold anything. */

/* What a tile of a job is asked for. */
enum job_kind {
    JOB_PARTIALS, /* statistics of a row */
    JOB_BINS,     /* one level of the search for a cut */
    JOB_KEPT,     /* sums over what a cut leaves; takes the place of the row's partials */
    JOB_FOLD,     /* a sum over a pair of rows */
    JOB_NONE      /* nothing is left to do for a row */
};

struct job_text {
    int32_t kind; /* job_kind */
    int32_t what; /* JOB_FOLD: spc_summand; JOB_BINS: 1: masses, 0: counts */
    float x;
    int32_t sequence;
    int32_t row;   /* of the first pass, that goes on by itself; NO_ROW: a block waits */
    int32_t piece; /* tiles that are taken at once */
    int32_t bare;  /* JOB_BINS: the cut alone is asked for, it becomes found */
    float found;
    int64_t cells;         /* JOB_BINS, JOB_KEPT: first cell of the row's partials */
    spc_row_params params; /* of the sequence */
    spc_softmax softmax;   /* JOB_BINS, JOB_KEPT */
    spc_search search;     /* JOB_BINS */
    spc_row_stats stats;   /* of the row, as far as they are known */
    spc_view view;         /* the row; JOB_FOLD: pair */
    spc_row_pair pair;     /* its round is that of the block that works on it */
};

struct job {
    int32_t done; /* pieces that are finished */
    int32_t unused;
    job_text text;
};

static_assert(sizeof(job) <= SPC_QUEUE_JOB_BYTES, "rules/batch.h reserves too little");

struct cell {
    spc_partial tile;
    int32_t arrived; /* cell s * rows + r: tiles of row r of sequence s that are there */
    int32_t ripe;    /* cell s: rows of sequence s that are */
};

static_assert(sizeof(cell) == SPC_QUEUE_CELL_BYTES, "as rules/batch.h says");

/* What is known of a row of the first pass, in the numbers of SPC_QUEUE_RECORD_CELLS cells. */
struct row_record {
    spc_row_stats stats;
    int32_t ready; /* 1: stats are all that the sequence needs; 0: its partials are there */
};

enum { CELL_WORDS = sizeof(spc_partial) / 4, RECORD_WORDS = sizeof(row_record) / 4 };
static_assert((int)RECORD_WORDS <= (int)SPC_QUEUE_RECORD_CELLS * CELL_WORDS, "a record fits");

enum { TAKEN_WORDS = SPC_QUEUE_JOBS / 32 };

struct control {
    uint32_t ticket;             /* the next tile of the first pass */
    uint32_t decided;            /* sequences */
    uint32_t gone;               /* blocks */
    int32_t open;                /* jobs that have pieces to take */
    uint32_t taken[TAKEN_WORDS]; /* a bit for every job that is in use */
};

static_assert(sizeof(control) <= SPC_QUEUE_HEADER_BYTES, "rules/batch.h reserves too little");
static_assert(SPC_QUEUE_DECIDERS % 32 == 0 && SPC_QUEUE_AHEAD % 32 == 0, "whole words");

/* The parts of a workspace for one batch. */
struct queue {
    control *all;
    int32_t *left;          /* [SPC_QUEUE_JOBS] pieces that nobody has taken; 0 or less: none */
    char *jobs;             /* [SPC_QUEUE_JOBS] of SPC_QUEUE_JOB_BYTES */
    uint64_t *bins;         /* [SPC_QUEUE_JOBS, SPC_CUT_BINS] */
    cell *cells;            /* [sequences, rows, tiles] of the first pass, [sequences, rows] of
                               SPC_QUEUE_RECORD_CELLS, [jobs, tiles] */
    int64_t records, parts; /* where the second and the third of them begin */
    int32_t rows, tiles, vocab;
    int32_t deciders, ahead; /* jobs that are used */
    int32_t piece;           /* tiles of a row that goes on by itself */
};

static __device__ job *job_of(const queue *q, int32_t slot)
{
    return (job *)(q->jobs + (int64_t)slot * SPC_QUEUE_JOB_BYTES);
}

static __device__ uint64_t *bins_of(const queue *q, int32_t slot)
{
    return q->bins + (int64_t)slot * SPC_CUT_BINS;
}

static __device__ int64_t row_of(const queue *q, int32_t s, int32_t r)
{
    return (int64_t)s * q->rows + r;
}

static __device__ int64_t cells_of_row(const queue *q, int32_t s, int32_t r)
{
    return row_of(q, s, r) * q->tiles;
}

static __device__ int64_t cells_of_job(const queue *q, int32_t slot)
{
    const int32_t rank = slot < SPC_QUEUE_DECIDERS ? slot : slot - SPC_QUEUE_DECIDERS + q->deciders;

    return q->parts + (int64_t)rank * q->tiles;
}

static __device__ int32_t pieces_of(const queue *q, int32_t piece)
{
    return (q->tiles + piece - 1) / piece;
}

/* ---- shared memory --------------------------------------------------------------------------- */

/* A sum that was begun before its turn. */
struct begun_sum {
    int32_t slot, row, what;
    float x;
};

/* A tile of the first pass.  A ticket is for a few tiles of a row: what the row is costs as many
 * instructions as the sums of two tiles. */
struct first_tile {
    int32_t sequence, row, tile, end; /* end: behind the ticket's last tile */
    int32_t place;                    /* of its view in scratch.view */
    int32_t entries;                  /* as fetch_tile says */
    bool wanted;
};

/* Where a block is in the first pass. */
struct first_place {
    uint32_t ticket, following;
    int32_t brought, turn;
};

struct queue_scratch {
    block_scratch block;
    row_scratch row;
    tile_stage stage[2];
    uint32_t low[SPC_CUT_BINS], high[SPC_CUT_BINS]; /* halves of a piece's bins */
    uint64_t warp_mass[WARPS];
    uint64_t above; /* of the bin that was found */
    int32_t bin;
    job_text job;     /* that this block works on */
    spc_round helper; /* what a pair of the job takes for its round */
    queue q;          /* of the launch */

    /* of the sequence that this block decides */
    int32_t sequence, slot;
    spc_round round;
    spc_row_params params;
    int32_t draft[SPC_GAMMA_MAX + 1];
    spc_pair draft_logits[SPC_GAMMA_MAX + 1];
    spc_row_stats stats[SPC_GAMMA_MAX + 1];
    const void *known[ROWS_MAX];   /* logits of the rows of the first pass, or 0 ... */
    int32_t known_width[ROWS_MAX]; /* ... their width ... */
    row_record record[ROWS_MAX];   /* ... and what is known of them */
    int64_t weights;               /* cells of the row whose statistics were asked for last */
    begun_sum ahead[AHEAD_MAX];
    int32_t begun; /* of them */
    spc_block_sums sums;

    first_tile first[2]; /* the tiles of the first pass that this block has and asks for */
    spc_view view[2];    /* of their rows */
    first_place at;
    uint32_t ticket, total;     /* tickets of the launch */
    int32_t arrivals[ARRIVALS]; /* rows of which this block has brought a tile */
    int32_t finished[ARRIVALS]; /* those that are complete by it, or NO_ROW */
    int32_t ripe;
    int32_t claim, open;
};

#ifdef __CUDACC__
static __shared__ queue_scratch scratch;
#else /* tests/fibers runs several blocks side by side */
static queue_scratch scratch_of_block[FIBER_BLOCKS];
#define scratch (scratch_of_block[blockIdx.x])
#endif

/* Words of device memory that other blocks write. */
template <typename T> static __device__ T fresh(const T *at)
{
    union {
        T value;
        uint32_t word[sizeof(T) / 4];
    } u;

    static_assert(sizeof(T) % 4 == 0, "whole words");
    for (size_t i = 0; i < sizeof(T) / 4; i++) u.word[i] = fresh_word((const uint32_t *)at + i);
    return u.value;
}

static __device__ spc_partial partial_at(int64_t cells, int32_t tile)
{
    return fresh(&scratch.q.cells[cells + tile].tile);
}

/* Statistics of a tile that was asked for and waited for; to: its cell.  A call, so that whoever
 * calls it again and again keeps nothing but its own in registers. */
static __device__ __noinline__ void sum_tile(const spc_view *row, const spc_row_params *params,
                                             int32_t tile, int32_t entries, tile_stage *stage,
                                             spc_partial *to)
{
    const int32_t vocab = scratch.q.vocab;
    lane_logits v;

    open_tile(row, vocab, tile, entries, stage, &v);

    const spc_partial p = partial_of(&scratch.block, &v, tile, spc_needs_of(params, vocab));

    if (threadIdx.x == 0) *to = p;
}

/* ---- tiles of jobs --------------------------------------------------------------------------- */

enum { AT_ONCE = 4 }; /* entries that a thread holds of a row: more would not fit in registers */

/* The two rows of a tile in their stages: the types of what lies there. */
struct staged_pair {
    int32_t drafter, verifier;
};

/* What and form known while compiling: the rules' switches fold away. */
template <int WHAT, int FORM>
static __device__ __forceinline__ float lane_fold(const job_text *job, int32_t vocab, int32_t tile,
                                                  staged_pair type)
{
    spc_row_pair pair = job->pair;
    const spc_summand what = (spc_summand)WHAT;
    float sum = 0.0f;

    if (FORM >= 0) pair.target.form = (spc_target_form)FORM;
#pragma unroll 1
    for (int k = 0; k < PER_LANE; k += AT_ONCE) {
        float drafter[AT_ONCE], verifier[AT_ONCE];

        unstage<AT_ONCE>(&scratch.stage[0], type.drafter, k, drafter);
        unstage<AT_ONCE>(&scratch.stage[1], type.verifier, k, verifier);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + (k + i) * SPC_LANES;

            if (v < vocab) {
                sum += spc_pair_summand(&pair, what, job->x,
                                        spc_pair_entry_of(&pair, v, drafter[i], verifier[i]));
            }
        }
    }
    return sum;
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

/* Rows that are not ready add nothing, whatever lies in their stage. */
static __device__ staged_pair stage_pair(const spc_row_pair *pair, int32_t vocab, int32_t tile)
{
    const bool reads_drafter = pair->drafter.ready, reads_verifier = pair->verifier.ready;
    staged_pair type = {SPC_LOGITS_F32, SPC_LOGITS_F32};
    int32_t of_drafter = 0, of_verifier = 0;

    __syncthreads(); /* all have read the tile before */
    if (reads_drafter) {
        of_drafter = fetch_tile(&pair->drafter.row, vocab, tile, &scratch.stage[0]);
    }
    if (reads_verifier) {
        of_verifier = fetch_tile(&pair->verifier.row, vocab, tile, &scratch.stage[1]);
    }
    end_fetch();
    wait_fetch<0>();
    if (reads_drafter) {
        type.drafter =
            complete_stage(&pair->drafter.row, vocab, tile, of_drafter, &scratch.stage[0]);
    }
    if (reads_verifier) {
        type.verifier =
            complete_stage(&pair->verifier.row, vocab, tile, of_verifier, &scratch.stage[1]);
    }
    __syncthreads();
    return type;
}

static __device__ float fold_tile(const job_text *job, int32_t vocab, int32_t tile)
{
    const spc_row_pair *pair = &job->pair;
    const staged_pair type = stage_pair(pair, vocab, tile);

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

/* One piece of the job in scratch.job; the block's threads have all written when it returns. */
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
        for (int32_t t = first; t < last; t++) {
            spc_partial *to = &scratch.q.cells[cells_of_job(&scratch.q, slot) + t].tile;

            if (job->kind == JOB_PARTIALS) {
                const int32_t entries = fetch_tile(&job->view, vocab, t, &scratch.stage[0]);

                end_fetch();
                wait_fetch<0>();
                sum_tile(&job->view, &job->params, t, entries, &scratch.stage[0], to);
            } else {
                spc_partial p = spc_partial_none();

                p.sum = block_sum(&scratch.block, fold_tile(job, vocab, t));
                if (threadIdx.x == 0) *to = p;
            }
        }
    }
    fence_blocks();
    __syncthreads();
}

/* ---- who takes them ---------------------------------------------------------------------------
 */

/* A job that nobody uses, of `count` from `first` on; -1: there is none.  Thread 0 alone. */
static __device__ int32_t take_slot(int32_t first, int32_t count)
{
    uint32_t *taken = scratch.q.all->taken + first / 32;

    for (int32_t i = 0; i < count; i++) {
        const int32_t slot = (int32_t)((blockIdx.x + (uint32_t)i) % (uint32_t)count);
        const uint32_t bit = 1u << slot % 32;

        if (fresh(taken + slot / 32) & bit) continue;
        if (!(atomicOr(taken + slot / 32, bit) & bit)) return first + slot;
    }
    return -1;
}

/* All threads have done with it. */
static __device__ void give_slot(int32_t slot)
{
    fence_blocks();
    atomicAnd(scratch.q.all->taken + slot / 32, ~(1u << slot % 32));
}

/* Let everyone take pieces of scratch.job, which thread 0 wrote. */
static __device__ void post(int32_t slot)
{
    job *j = job_of(&scratch.q, slot);

    __syncthreads();
    for (uint32_t i = threadIdx.x; i < sizeof(job_text) / 4; i += SPC_LANES) {
        ((uint32_t *)&j->text)[i] = ((const uint32_t *)&scratch.job)[i];
    }
    if (scratch.job.kind == JOB_BINS) bins_of(&scratch.q, slot)[threadIdx.x] = 0;
    if (threadIdx.x == 0) j->done = 0;
    fence_blocks();
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicAdd(&scratch.q.all->open, 1);
        atomicExch(scratch.q.left + slot, pieces_of(&scratch.q, scratch.job.piece));
    }
}

/* A piece of a job, counted from 1; 0 or less: none is left. */
static __device__ int32_t claim_piece(int32_t slot)
{
    __syncthreads(); /* the last claim was read */
    if (threadIdx.x == 0) {
        scratch.claim = atomicSub(scratch.q.left + slot, 1);
        if (scratch.claim == 1) atomicSub(&scratch.q.all->open, 1);
    }
    __syncthreads();
    return scratch.claim;
}

/* The text of a job of which this block holds a piece: it cannot change meanwhile. */
static __device__ void read_text(int32_t slot)
{
    const uint32_t *text = (const uint32_t *)&job_of(&scratch.q, slot)->text;

    fence_blocks();
    for (uint32_t i = threadIdx.x; i < sizeof(job_text) / 4; i += SPC_LANES) {
        ((uint32_t *)&scratch.job)[i] = fresh_word(text + i);
    }
    __syncthreads();
    if (threadIdx.x == 0) scratch.job.pair.round = &scratch.helper;
    __syncthreads();
}

/* Take what is left of a job that this block waits for, then wait for the others.  mine:
 * scratch.job is this job already. */
static __device__ void finish_job(int32_t slot, bool mine)
{
    job *j = job_of(&scratch.q, slot);

    for (;;) {
        const int32_t claim = claim_piece(slot);

        if (claim <= 0) break;
        if (!mine) read_text(slot);
        mine = true;
        run_piece(slot, claim - 1);
        if (threadIdx.x == 0) atomicAdd(&j->done, 1);
    }
    if (!mine) read_text(slot); /* for its piece */
    if (threadIdx.x == 0) {
        while (fresh(&j->done) < pieces_of(&scratch.q, scratch.job.piece)) __nanosleep(32);
        fence_blocks();
    }
    __syncthreads();
}

/* Run scratch.job, written by thread 0, with whoever has time. */
static __device__ void run_job(void)
{
    const int32_t slot = scratch.slot;

    if (scratch.q.tiles == 1) {
        __syncthreads();
        if (scratch.job.kind == JOB_BINS) bins_of(&scratch.q, slot)[threadIdx.x] = 0;
        fence_blocks();
        __syncthreads();
        run_piece(slot, 0);
        return;
    }
    post(slot);
    finish_job(slot, true);
}

/* Begin the text of a job: by thread 0. */
static __device__ void begin_text(job_kind kind, const spc_row_params *params, int32_t row,
                                  int32_t piece)
{
    job_text *text = &scratch.job;

    text->kind = kind;
    text->what = text->bare = 0;
    text->row = row;
    text->piece = piece;
    text->params = *params;
    text->pair.round = &scratch.helper;
}

#endif
