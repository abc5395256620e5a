/* SPDX-License-Identifier: Apache-2.0 */
/* workspace.cuh - what blocks share to look at whole rows together, in device memory, and what a
 * block keeps in shared memory.  Part of queue.cu, which says how it works. */
#ifndef SPC_CUDA_WORKSPACE_CUH
#define SPC_CUDA_WORKSPACE_CUH

#include "rows.cuh"

enum {
    BLOCKS_PER_SM = 4,
    ROWS_MAX = 2 * (SPC_GAMMA_MAX + 1),
    AHEAD_MAX = 2 * (SPC_GAMMA_MAX + 1), /* sums that a decision may have begun */
    ARRIVALS = 4,
    NO_ROW = -1,
    STAYS = -1
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
    spc_row_pair pair;     /* its round stays that of the block that works on it */
};

struct job {
    int32_t done; /* pieces that are finished; of a fold each tile's sum says so itself */
    int32_t unused;
    job_text text;
};

static_assert(sizeof(job) <= SPC_QUEUE_JOB_BYTES, "rules/batch.h reserves too little");

struct cell {
    spc_partial tile;
    int32_t arrived; /* cell s * rows + r: of row r of sequence s, if it is cut, tiles there */
    int32_t ripe;    /* cell s: of sequence s, tiles there; those of a row that is cut when it is */
};

static_assert(sizeof(cell) == SPC_QUEUE_CELL_BYTES, "as rules/batch.h says");
static_assert(offsetof(cell, tile.sum) % 8 == 0 &&
                  offsetof(cell, tile.sum_one) == offsetof(cell, tile.sum) + 4,
              "a tile's sum of a fold, and beside it whether it is there, are written at once");

/* What is known of a row of the first pass that is cut, in the numbers of SPC_QUEUE_RECORD_CELLS
 * cells. */
struct row_record {
    spc_row_stats stats;
    int32_t ready; /* 1: stats are all that the sequence needs; 0: its partials are there */
};

enum { CELL_WORDS = sizeof(spc_partial) / 4, RECORD_WORDS = sizeof(row_record) / 4 };
static_assert((int)RECORD_WORDS <= (int)SPC_QUEUE_RECORD_CELLS * CELL_WORDS, "a record fits");
static_assert((int)RECORD_WORDS <= (int)WARP, "a lane for every word");

enum { TAKEN_WORDS = SPC_QUEUE_JOBS / 32 };

/* What is written and asked for at different times lies in lines of its own: all that goes to a
 * line is done one after the other, and idle blocks ask for theirs without end. */
struct control {
    uint32_t ticket; /* the next tiles of the first pass */
    uint32_t next;   /* sequence that no block will decide yet */
    uint32_t gone;   /* blocks */
    uint32_t unused[29];
    uint32_t decided; /* sequences */
    int32_t open;     /* jobs that have pieces to take; beside it: idle blocks ask for both ... */
    uint32_t latest;  /* ... and for the job that was posted last: where one is open, that one */
    uint32_t unused_too[29];
    uint32_t taken[TAKEN_WORDS]; /* a bit for every job that is in use */
};

static_assert(offsetof(control, decided) == 128 && offsetof(control, taken) == 256, "lines");

static_assert(sizeof(control) <= SPC_QUEUE_HEADER_BYTES, "rules/batch.h reserves too little");
static_assert(SPC_QUEUE_DECIDERS % 32 == 0 && SPC_QUEUE_AHEAD % 32 == 0, "whole words");

/* A number to divide by, known to the host: a quotient is a product and a shift, where the device
 * would take some 40 instructions one behind the other. */
struct divisor {
    uint32_t times, shift; /* n / by = n * times >> shift for n < 2^31 */
};

static inline divisor divisor_of(int32_t by)
{
    uint32_t bits = 0;

    while ((int64_t)1 << bits < by) bits++;
    return {(uint32_t)((((uint64_t)1 << (31 + bits)) / (uint32_t)by) + 1), 31 + bits};
}

static __device__ __forceinline__ int32_t quotient(int32_t n, divisor by)
{
    return (int32_t)((uint64_t)(uint32_t)n * by.times >> by.shift);
}

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
    int32_t piece;           /* tiles of a ticket, and of a piece of a row that goes on by itself */
    int32_t runs;            /* tickets of a row */
    divisor by_rows, by_runs, by_jobs;
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

/* Of a row, in pieces of one tile or of a ticket's. */
static __device__ int32_t pieces_of(const queue *q, int32_t piece)
{
    return piece == 1 ? q->tiles : q->runs;
}

/* ---- shared memory --------------------------------------------------------------------------- */

/* A sum that was begun before its turn. */
struct begun_sum {
    int32_t slot, row, what;
    float x;
};

/* The tiles of a ticket.  A ticket is for a few tiles of a row: what the row is costs as many
 * instructions of one thread as the sums of two tiles of each. */
struct first_run {
    uint32_t ticket;
    int32_t sequence, row, tile, end; /* end: behind the ticket's last tile */
    int32_t entries;                  /* of its first, as fetch_tile says */
    int32_t words, whole;             /* tiles of the row before `whole` come in so many words */
    int32_t pairs;                    /* those before it are summed two at a time */
    int64_t cells;                    /* of its row */
    spc_row_needs needs;
    spc_view view;
    bool wanted;
};

/* A row of which a block has brought tiles, or that is complete by them. */
struct arrival {
    int32_t row; /* NO_ROW: it is not complete, or nothing more is done to it */
    int32_t sequence, brought;
    spc_row_needs needs; /* as its tickets have them */
    bool cut;            /* it goes on by itself */
};

/* What a batch says of a sequence, as far as its rows of the first pass depend on it; a word for
 * each lane of a warp, which all ask at once. */
struct sequence_input {
    spc_row_params params;
    int64_t row, drafter_row; /* of the verifier, or that is drawn from; 0 where there are none */
    int32_t drafts, bonus;
};

/* Where the words of one number of all sequences lie. */
struct input_word {
    const uint32_t *first; /* NULL: it is not there ... */
    int32_t stride;        /* words */
    uint32_t otherwise;    /* ... and taken to be this */
};

static_assert(sizeof(sequence_input) == WARP * sizeof(uint32_t), "a lane for every word");

/* Where a block is in the first pass. */
struct first_place {
    uint32_t ticket, following;
    int32_t place, turn; /* of what the ticket is for in scratch.run, of its next tile's stage */
    int32_t brought;     /* tickets that were not announced yet */
};

struct queue_scratch {
    block_scratch block;
    row_scratch row;
    tile_stage stage[2];
    uint32_t low[SPC_CUT_BINS], high[SPC_CUT_BINS]; /* halves of a piece's bins */
    uint64_t warp_mass[WARPS];
    uint64_t above; /* of the bin that was found */
    int32_t bin;
    job_text job;        /* that this block works on */
    spc_round helper;    /* what a pair of the job takes for its round */
    spc_row_needs needs; /* JOB_PARTIALS: of its row */
    queue q;             /* of the launch */
    union {              /* its batch: parameters of a kernel lie further away */
        spc_draw_batch draw;
        spc_verify_batch verify;
    } batch;
    input_word word_of_input[WARP];
    sequence_input input; /* of this one: */
    int32_t input_sequence;

    /* of the sequence that this block decides */
    int32_t mine, then; /* which that will be, and the next */
    int32_t sequence, slot;
    spc_round round;
    int32_t draft[SPC_GAMMA_MAX + 1];
    spc_pair draft_logits[SPC_GAMMA_MAX + 1];
    spc_row_stats stats[SPC_GAMMA_MAX + 1];
    const void *known[ROWS_MAX]; /* logits of the rows of the first pass, or 0 ... */
    const spc_subset *known_subset[ROWS_MAX];
    int32_t known_width[ROWS_MAX]; /* ... their tokens and width ... */
    bool cut[ROWS_MAX];            /* ... do they go on by themselves ... */
    row_record record[ROWS_MAX];   /* ... and what is known of them */
    int64_t weights;               /* cells of the row whose statistics were asked for last */
    begun_sum ahead[AHEAD_MAX];
    int32_t begun; /* of them */
    spc_block_sums sums;

    first_run run[2]; /* the tickets of the first pass that this block has and asks for */
    first_place at;
    uint32_t ticket, total; /* tickets of the launch */
    arrival arrivals[ARRIVALS], finished[ARRIVALS];
    int32_t claim, open, latest;
    bool ripe;
    int32_t gone; /* blocks that left before this one; STAYS: it has not */
};

#ifdef __CUDACC__
static __shared__ queue_scratch scratch;
#else /* tests/fibers runs several blocks side by side */
static queue_scratch scratch_of_block[FIBER_BLOCKS];
#define scratch (scratch_of_block[blockIdx.x])
#endif

/* Words of the threads from `first` on, one each. */
static __device__ void copy_words(void *to, const void *from, size_t bytes, int32_t first)
{
    const size_t i = (size_t)((int32_t)threadIdx.x - first);

    if ((int32_t)threadIdx.x >= first && i < bytes / 4) {
        ((uint32_t *)to)[i] = ((const uint32_t *)from)[i];
    }
}

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

/* Is a row cut, of a sequence that needs this? */
static __device__ __forceinline__ bool is_cut(spc_row_needs needs)
{
    return needs.mixing && needs.restricts;
}

/* Of a job that is a fold, its tile's sum and whether it is there. */
static __device__ uint64_t *sum_at(int64_t cells, int32_t tile)
{
    return (uint64_t *)&scratch.q.cells[cells + tile].tile.sum;
}

static __device__ spc_partial partial_at(int64_t cells, int32_t tile)
{
    return fresh(&scratch.q.cells[cells + tile].tile);
}

#endif
