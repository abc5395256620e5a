/* SPDX-License-Identifier: Apache-2.0 */
/* jobs.cuh - sums over whole rows as jobs of as many tiles, which blocks share: the workspace, the
 * tiles, and who takes them.  Part of queue.cu, which says how it works. */
#ifndef SPC_CUDA_JOBS_CUH
#define SPC_CUDA_JOBS_CUH

#include "rows.cuh"

enum { BLOCKS_PER_SM = 4, ROWS_MAX = 2 * (SPC_GAMMA_MAX + 1) };

/* ---- the workspace --------------------------------------------------------------------------- */

/* What a tile of a job is asked for. */
enum job_kind {
    JOB_PARTIALS, /* statistics of a row */
    JOB_MASS,     /* integer mass of a row */
    JOB_BINS,     /* one level of the search for a cut */
    JOB_KEPT,     /* sums over what a cut leaves */
    JOB_FOLD      /* a sum over a pair of rows */
};

struct job_text {
    int32_t kind; /* job_kind */
    int32_t what; /* JOB_FOLD: spc_summand; JOB_BINS: 1: masses, 0: counts */
    float x;
    int32_t moments; /* JOB_KEPT: the moment too */
    spc_softmax softmax;
    spc_cut cut;
    spc_view row;
    spc_row_pair pair; /* its round is that of the block that works on it */
};

/* One per sequence, zero between launches but for the text. */
struct job {
    int32_t left;    /* tiles that nobody has taken; 0 or less: none */
    int32_t done;    /* tiles that are finished */
    int32_t arrived; /* tiles of the first pass that are there */
    int32_t unused;
    job_text text;
};

static_assert(sizeof(job) <= SPC_QUEUE_JOB_BYTES, "rules/batch.h reserves too little");

struct control {
    uint32_t ticket;  /* the next tile of the first pass */
    uint32_t decided; /* sequences */
    uint32_t gone;    /* blocks */
};

/* The parts of a workspace for one batch. */
struct queue {
    control *all;
    char *jobs;         /* [sequences] of SPC_QUEUE_JOB_BYTES */
    uint64_t *bins;     /* [sequences, SPC_CUT_BINS] */
    spc_partial *first; /* [sequences, rows, tiles] of the first pass */
    spc_partial *part;  /* [sequences, tiles] results of a job */
    int32_t rows, tiles;
};

static __device__ job *job_of(const queue *q, int32_t s)
{
    return (job *)(q->jobs + (int64_t)s * SPC_QUEUE_JOB_BYTES);
}

/* ---- shared memory --------------------------------------------------------------------------- */

struct queue_scratch {
    block_scratch block;
    row_scratch row;
    unsigned long long bins[SPC_CUT_BINS];
    job_text job;                  /* that this block works on */
    queue q;                       /* of the launch */
    spc_round round;               /* of the sequence that this block decides, or helps with */
    int32_t sequence;              /* that this block decides */
    const void *known[ROWS_MAX];   /* logits of the rows whose partials are there, or 0 ... */
    int32_t known_width[ROWS_MAX]; /* ... and their width */
    uint32_t ticket;
    int32_t finished; /* sequence whose last tile came, -1: none */
    int32_t claim;
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
    for (size_t i = 0; i < sizeof(T) / 4; i++) u.word[i] = __ldcg((const uint32_t *)at + i);
    return u.value;
}

/* ---- tiles of jobs --------------------------------------------------------------------------- */

/* What and form known while compiling: the rules' switches fold away. */
template <int WHAT, int FORM>
static __device__ __forceinline__ float lane_fold(const job_text *job, int32_t vocab, int32_t tile,
                                                  const lane_logits *drafter,
                                                  const lane_logits *verifier)
{
    spc_row_pair pair = job->pair;
    const spc_summand what = (spc_summand)(WHAT >= 0 ? WHAT : job->what);
    float sum = 0.0f;

    if (FORM >= 0) pair.target.form = (spc_target_form)FORM;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t v = tile * SPC_TILE + (int32_t)threadIdx.x + k * SPC_LANES;

        if (v < vocab) {
            sum += spc_pair_summand(&pair, what, job->x,
                                    spc_pair_entry_of(&pair, v, drafter->z[k], verifier->z[k]));
        }
    }
    return sum;
}

static __device__ __noinline__ float any_fold(const job_text *job, int32_t vocab, int32_t tile,
                                              const lane_logits *drafter,
                                              const lane_logits *verifier)
{
    return lane_fold<-1, -1>(job, vocab, tile, drafter, verifier);
}

static __device__ float fold_tile(const job_text *job, int32_t vocab, int32_t tile)
{
    const spc_row_pair *pair = &job->pair;
    lane_logits drafter = {}, verifier = {};

    if (pair->drafter.ready) load_tile(&pair->drafter.row, vocab, tile, &drafter);
    if (pair->verifier.ready) load_tile(&pair->verifier.row, vocab, tile, &verifier);
    if (job->what == SPC_SUM_RESIDUAL && pair->target.form == SPC_TARGET_DEFER) {
        return lane_fold<SPC_SUM_RESIDUAL, SPC_TARGET_DEFER>(job, vocab, tile, &drafter, &verifier);
    }
    if (job->what == SPC_SUM_RESIDUAL && pair->target.form == SPC_TARGET_SELECT) {
        return lane_fold<SPC_SUM_RESIDUAL, SPC_TARGET_SELECT>(job, vocab, tile, &drafter,
                                                              &verifier);
    }
    if (job->what == SPC_SUM_OUTSIDE) {
        return lane_fold<SPC_SUM_OUTSIDE, -1>(job, vocab, tile, &drafter, &verifier);
    }
    if (job->what == SPC_SUM_TV) {
        return lane_fold<SPC_SUM_TV, SPC_TARGET_DEFER>(job, vocab, tile, &drafter, &verifier);
    }
    return any_fold(job, vocab, tile, &drafter, &verifier);
}

static __device__ void mass_of_tile(const job_text *job, int32_t vocab, int32_t tile,
                                    uint64_t *bins)
{
    lane_logits v;
    unsigned long long mass = 0;

    load_tile(&job->row, vocab, tile, &v);
    for (int k = 0; k < PER_LANE; k++) {
        mass += spc_mass_of(spc_softmax_weight(job->softmax, v.z[k]));
    }
    if (mass > 0) atomicAdd((unsigned long long *)bins, mass);
}

static __device__ void bins_of_tile(const job_text *job, int32_t vocab, int32_t tile,
                                    uint64_t *bins)
{
    lane_logits v;

    load_tile(&job->row, vocab, tile, &v);
    scratch.bins[threadIdx.x] = 0;
    __syncthreads();
    for (int k = 0; k < PER_LANE; k++) {
        const int32_t bin = spc_cut_bin(job->cut, spc_key_of_logit(v.z[k]));

        if (bin < 0 || tile * SPC_TILE + (int32_t)threadIdx.x + k * SPC_LANES >= vocab) continue;
        atomicAdd(&scratch.bins[bin],
                  (unsigned long long)(job->what
                                           ? spc_mass_of(spc_softmax_weight(job->softmax, v.z[k]))
                                           : 1u));
    }
    __syncthreads();
    static_assert((int)SPC_CUT_BINS == (int)SPC_LANES, "a thread for every bin");
    if (scratch.bins[threadIdx.x] > 0) {
        atomicAdd((unsigned long long *)&bins[threadIdx.x], scratch.bins[threadIdx.x]);
    }
}

static __device__ spc_partial kept_of_tile(const job_text *job, float temperature, int32_t vocab,
                                           int32_t tile)
{
    spc_partial p = spc_partial_none();
    lane_logits v;
    float sum = 0.0f, moment = 0.0f;

    load_tile(&job->row, vocab, tile, &v);
    for (int k = 0; k < PER_LANE; k++) {
        const float w = spc_softmax_weight(job->softmax, v.z[k]);

        sum += w;
        if (job->moments) moment += w > 0.0f ? (v.z[k] - job->softmax.max) / temperature * w : 0.0f;
    }
    p.sum = block_sum(&scratch.block, sum);
    p.moment = block_sum(&scratch.block, moment);
    return p;
}

/* One tile of the job in scratch.job; the block's threads have all written when it returns. */
static __device__ __noinline__ void run_tile(int32_t s, int32_t tile)
{
    const job_text *job = &scratch.job;
    const int32_t vocab = scratch.round.vocab;
    uint64_t *bins = scratch.q.bins + (int64_t)s * SPC_CUT_BINS;
    spc_partial p = spc_partial_none();

    switch (job->kind) {
    case JOB_PARTIALS: {
        lane_logits v;

        load_tile(&job->row, vocab, tile, &v);
        p = partial_of(&scratch.block, &v, tile, spc_needs_of(scratch.round.params, vocab));
        break;
    }
    case JOB_MASS: mass_of_tile(job, vocab, tile, bins); break;
    case JOB_BINS: bins_of_tile(job, vocab, tile, bins); break;
    case JOB_KEPT:
        p = kept_of_tile(job, scratch.round.params->sampling.temperature, vocab, tile);
        break;
    default: p.sum = block_sum(&scratch.block, fold_tile(job, vocab, tile)); break;
    }
    if (threadIdx.x == 0) scratch.q.part[(int64_t)s * scratch.q.tiles + tile] = p;
    __threadfence();
    __syncthreads();
}

/* Take tiles of sequence s's job until none is left.  mine: scratch.job is this job already. */
static __device__ void take_tiles(int32_t s, bool mine)
{
    job *j = job_of(&scratch.q, s);

    for (;;) {
        if (threadIdx.x == 0) scratch.claim = atomicSub(&j->left, 1);
        __syncthreads();

        const int32_t claim = scratch.claim;

        __syncthreads(); /* claim is written again */
        if (claim <= 0) return;
        if (!mine) { /* the text cannot change while a tile of it is out */
            __threadfence();
            for (uint32_t i = threadIdx.x; i < sizeof(job_text) / 4; i += SPC_LANES) {
                ((uint32_t *)&scratch.job)[i] = __ldcg((const uint32_t *)&j->text + i);
            }
            __syncthreads();
            if (threadIdx.x == 0) scratch.job.pair.round = &scratch.round;
            __syncthreads();
        }
        run_tile(s, claim - 1);
        if (threadIdx.x == 0) atomicAdd(&j->done, 1);
    }
}

/* Run scratch.job, written by thread 0, over all tiles, with whoever has time. */
static __device__ void run_job(void)
{
    const int32_t s = scratch.sequence, tiles = scratch.q.tiles;
    job *j = job_of(&scratch.q, s);

    __syncthreads();
    if (tiles == 1) {
        run_tile(s, 0);
        return;
    }
    for (uint32_t i = threadIdx.x; i < sizeof(job_text) / 4; i += SPC_LANES) {
        ((uint32_t *)&j->text)[i] = ((const uint32_t *)&scratch.job)[i];
    }
    if (threadIdx.x == 0) j->done = 0;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) atomicExch(&j->left, tiles);
    take_tiles(s, true);
    if (threadIdx.x == 0) {
        while (fresh(&j->done) < tiles) __nanosleep(32);
        __threadfence();
    }
    __syncthreads();
}

static __device__ const spc_partial *parts(void)
{
    return scratch.q.part + (int64_t)scratch.sequence * scratch.q.tiles;
}

#endif
