/* SPDX-License-Identifier: Apache-2.0 */
/* attention.cu - attention of decoding, scoring and prompts alike: out = softmax(scale q k + bias)
 * v, on tensor cores.
 *
 * A warp takes a strip: 16 queries that share keys - heads of a group, rows of a tile (gamma + 1
 * when scoring) - and walks along the cache, 16 keys a step (attention.cuh).  Warps of a block are
 * strips of one tile and find each other's keys in the first-level cache.
 *
 * The cache is cut into leaves at fixed positions.  A query's leaves are summed each by itself and
 * joined from left to right: where strips are few, by a second kernel, a warp having taken one leaf
 * of one strip; where they fill the device, by the warp that walks along all of them; in between,
 * where a warp for each strip would leave most of the memory idle, by the warps of a block, which
 * take turns.  All do the same sums, and queries of a product do not meet: a row's bits depend
 * neither on the rows beside it nor on the length of other sequences nor on who joined.
 *
 * Bound by memory at long contexts, by latency at short ones; not tuned (no GPU has run it). */
#include "ops.h"

#include "ops.cuh"

#include "attention.cuh"

enum {
    LEAF_LEAST = 64,    /* keys of a leaf, at least */
    LEAVES_MOST = 128,  /* of a cache */
    STRIPS_FILL = 256,  /* so many walk along all leaves, of fewer a warp takes one leaf ... */
    STRIPS_FULL = 1024, /* ... and so many have a warp each: 8 on a multiprocessor of 132 */
    WALKERS = 4,        /* warps of a strip that has several */
    QUERIES_ONCE = 4,   /* queries that are loaded at once */
    MERGE_ONCE = 16     /* leaves, to be joined */
};

/* Warps of a block, as many as shared memory of 48 KB has room for. */
static __host__ __device__ constexpr int32_t warps_of(int32_t head_dim)
{
    return head_dim <= 64 ? 4 : head_dim <= 128 ? 2 : 1;
}

/* Who takes which leaves. */
enum attend_form {
    FORM_LEAF, /* a warp one leaf of one strip */
    FORM_WALK, /* a warp all leaves of its strip */
    FORM_TURNS /* WALKERS warps all leaves of their strip */
};

/* Queries of a block that share keys.  Heads that cannot be loaded by 16 bytes have but one kernel.
 *
 * count   entries in 16 bytes */
static int32_t queries_of(int32_t head_dim, int32_t count)
{
    return warps_of(head_dim % count == 0 ? head_dim : SPC_ATTEND_HEAD_DIM) * STRIP;
}

/* Keys of a leaf: a multiple of a step that depends on the context alone. */
static int32_t leaf_keys(int32_t context)
{
    const int32_t share = (context + LEAVES_MOST - 1) / LEAVES_MOST;
    const int32_t keys = share > LEAF_LEAST ? share : LEAF_LEAST;

    return (keys + STEP - 1) / STEP * STEP;
}

/* What the kernels need beside the arguments. */
typedef struct {
    spc_attend_args a;
    int32_t keys;   /* of a leaf */
    int32_t leaves; /* of the longest row */
    int32_t groups; /* of heads, where more share a head of keys than a tile has queries */
    int32_t strips; /* of a tile, at most */
    attend_form form;
    float *stats; /* [rows, heads, leaves, 2] largest score, sum of exponentials */
    float *mixed; /* [rows, heads, leaves, head_dim] values by exponentials */
} attend_work;

/* Keys that a row sees: [*first, the result). */
static __device__ __forceinline__ int32_t keys_of(const spc_attend_args &a, int32_t row,
                                                  int32_t *first)
{
    const int32_t seen = a.seen[row];

    *first = a.window > 0 && seen > a.window ? seen - a.window : 0;
    return seen;
}

/* Two sums of exponentials below maxima of their own become one: what each is multiplied by. */
static __device__ __forceinline__ void join(float *max, float *sum, float more_max, float more_sum,
                                            float *keep, float *add)
{
    const float top = more_max > *max ? more_max : *max;

    *keep = spc_exp2((*max - top) * SPC_LOG2_E);
    *add = spc_exp2((more_max - top) * SPC_LOG2_E);
    *max = top;
    *sum = fmaf(more_sum, *add, *sum * *keep);
}

/* A leaf for merge_kernel. */
template <typename Kv, int DIM>
static __device__ __forceinline__ void leave(const attend_strip<Kv, DIM> &s, const attend_work &w,
                                             int32_t leaf)
{
    const int32_t dim = w.a.head_dim, low = leaf * w.keys;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (s.to[r] <= low || s.from[r] >= low + w.keys) continue;

        const int64_t at = ((int64_t)s.row[r] * w.a.heads + s.head[r]) * w.leaves + leaf;

        if (threadIdx.x % 4 == 0 && s.first_column == 0) {
            w.stats[2 * at] = s.max[r];
            w.stats[2 * at + 1] = s.sum[r];
        }
#pragma unroll
        for (int n = 0; n < s.TILES; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int32_t column = s.column_of(n, i);

                if (column < dim) w.mixed[at * dim + column] = s.mixed[n][2 * r + i];
            }
        }
    }
}

/* Leaves of a strip so far, joined, are in shared memory. */
template <typename Kv, int DIM>
static __device__ __forceinline__ void join_nothing(attend_scratch<Kv, DIM> *scratch)
{
    const int lane = threadIdx.x % OPS_LANES;

    for (int r = 0; r < 2; r++) {
        scratch->max[r][lane] = -SPC_INFINITY;
        scratch->sum[r][lane] = 0.0f;
    }
    for (float(&all)[OPS_LANES] : scratch->joined) all[lane] = 0.0f;
}

template <typename Kv, int DIM>
static __device__ __forceinline__ void join_leaf(attend_scratch<Kv, DIM> *scratch,
                                                 const attend_strip<Kv, DIM> &s, int32_t low,
                                                 int32_t high)
{
    const int lane = threadIdx.x % OPS_LANES;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        float keep, add;

        if (s.to[r] <= low || s.from[r] >= high) continue;
        join(&scratch->max[r][lane], &scratch->sum[r][lane], s.max[r], s.sum[r], &keep, &add);
#pragma unroll
        for (int n = 0; n < s.TILES; n++) {
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++) {
                float *to = &scratch->joined[4 * n + i][lane];

                *to = fmaf(s.mixed[n][i], add, *to * keep);
            }
        }
    }
}

template <typename Kv, int DIM>
static __device__ __forceinline__ void finish(const attend_scratch<Kv, DIM> &scratch,
                                              const attend_strip<Kv, DIM> &s, const attend_work &w)
{
    const int32_t dim = w.a.head_dim;
    const int lane = threadIdx.x % OPS_LANES;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        float *out = w.a.out + (int64_t)s.row[r] * w.a.out_width + s.head[r] * dim;
        const float scale = 1.0f / scratch.sum[r][lane];

        if (s.to[r] == 0) continue;
#pragma unroll
        for (int n = 0; n < s.TILES; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int32_t column = s.column_of(n, i);

                if (column >= dim) continue;
                out[column] = scratch.joined[4 * n + 2 * r + i][lane] * scale;
            }
        }
    }
}

/* The digits of an index, the lowest first. */
static __device__ __forceinline__ int32_t take(int32_t *index, int32_t count)
{
    const int32_t digit = *index % count;

    *index /= count;
    return digit;
}

/* (One block or more: without that sm_80 is given fewer registers than it takes, and spills.) */
template <typename Kv, int DIM, bool VECTOR, bool TURNS>
static __global__ void __launch_bounds__((TURNS ? (int)WALKERS : warps_of(DIM)) * OPS_LANES, 1)
    attend_kernel(const __grid_constant__ attend_work w)
{
    enum { STRIPS = TURNS ? 1 : warps_of(DIM), HALVES = DIM / columns_of(DIM) };
    enum { QUERIES = warps_of(DIM) * STRIP };
    static __shared__ attend_scratch<Kv, DIM> shared[STRIPS];
    const spc_attend_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    attend_scratch<Kv, DIM> &scratch = shared[TURNS ? 0 : warp];
    int32_t item = TURNS ? (int32_t)blockIdx.x : (int32_t)blockIdx.x * STRIPS + warp;

    let_next_begin();

    /* divisions, some hundred instructions, before the wait */
    const int32_t strip = take(&item, w.strips), part = take(&item, HALVES);
    const int32_t leaf = take(&item, w.form == FORM_LEAF ? w.leaves : 1);
    const int32_t group = take(&item, w.groups), kv_head = take(&item, a.kv_heads);
    const int32_t sharing = a.heads / a.kv_heads, left = sharing - group * QUERIES;
    const int32_t heads = left < QUERIES ? left : QUERIES;
    const int32_t first_head = kv_head * sharing + group * QUERIES;
    const int32_t first_row = strip * STRIP / heads, first_of_row = strip * STRIP % heads;
    attend_strip<Kv, DIM> s;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int32_t j = strip * STRIP + 8 * r + lane / 4;

        s.row[r] = j / heads;
        s.head[r] = first_head + j % heads;
    }
    if (item >= a.tiles) { /* (a branch, or else they would be done after the wait) */
        await_previous();
        return;
    }
    await_previous();

    const spc_attend_tile tile = a.tile[item];
    const int32_t queries = heads * tile.rows, slot = a.slot[tile.row];
    int32_t lowest = a.context, end = 0;

    if (strip * STRIP >= queries) return;
    s.first_column = part * s.COLUMNS;
    s.all_from = 0;
    s.all_to = a.context;
    for (int32_t q = 0, row = first_row, head = first_of_row; q < STRIP; q += QUERIES_ONCE) {
        const bool mine = !TURNS || q / QUERIES_ONCE % WALKERS == warp;
        float x[QUERIES_ONCE][DIM / OPS_LANES];
        int32_t from[QUERIES_ONCE], to[QUERIES_ONCE];

        if (strip * STRIP + q >= queries) { /* the others' scores are dropped */
#pragma unroll
            for (int i = 0; i < DIM / OPS_LANES; i++) {
                for (int u = 0; mine && u < QUERIES_ONCE; u++) {
                    scratch.query[q + u][i * OPS_LANES + lane] = 0.0f;
                }
            }
            continue;
        }
#pragma unroll
        for (int u = 0; u < QUERIES_ONCE; u++) { /* their loads are on their way together */
            const bool there = strip * STRIP + q + u < queries;
            const float *query = a.query + (int64_t)(tile.row + row) * a.width +
                                 (int64_t)(first_head + head) * a.head_dim;

#pragma unroll
            for (int i = 0; i < DIM / OPS_LANES; i++) {
                const int32_t column = i * OPS_LANES + lane;

                x[u][i] = mine && there && column < a.head_dim ? query[column] : 0.0f;
            }
            from[u] = 0;
            to[u] = there ? keys_of(a, tile.row + row, &from[u]) : 0;
            if (++head == heads) {
                head = 0;
                row++;
            }
        }
#pragma unroll
        for (int u = 0; u < QUERIES_ONCE; u++) {
#pragma unroll
            for (int i = 0; i < DIM / OPS_LANES; i++) {
                if (mine) scratch.query[q + u][i * OPS_LANES + lane] = x[u][i];
            }
            if (strip * STRIP + q + u >= queries) continue;
            if (from[u] < lowest) lowest = from[u];
            if (to[u] > end) end = to[u];
            if (from[u] > s.all_from) s.all_from = from[u];
            if (to[u] < s.all_to) s.all_to = to[u];
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        s.row[r] += tile.row;
        s.from[r] = s.to[r] = 0;
        if (strip * STRIP + 8 * r + lane / 4 < queries) {
            s.to[r] = keys_of(a, s.row[r], &s.from[r]);
        }
    }
    if (w.form != FORM_LEAF && (!TURNS || warp == 0)) join_nothing(&scratch);
    if (TURNS) {
        __syncthreads();
    } else {
        __syncwarp();
    }

    const int32_t begin = w.form == FORM_LEAF ? leaf : lowest / w.keys;
    const int32_t last = w.form == FORM_LEAF ? leaf : (end - 1) / w.keys;

    for (int32_t round = begin; round <= last; round += TURNS ? (int)WALKERS : 1) {
        const int32_t l = TURNS ? round + warp : round;
        const int32_t low = l * w.keys, high = low + w.keys < end ? low + w.keys : end;
        const bool there = l <= last && low + w.keys > lowest && low < end;

        if (there) {
            sum_leaf<Kv, DIM, VECTOR>(&s, scratch, a, slot, kv_head,
                                      low > lowest ? low : lowest / STEP * STEP, high);
        }
        if (w.form == FORM_LEAF) {
            if (there) leave(s, w, l);
        } else if (TURNS) {
            for (int turn = 0; turn < WALKERS; turn++) {
                if (turn == warp && there) join_leaf(&scratch, s, low, high);
                __syncthreads();
            }
        } else if (there) {
            join_leaf(&scratch, s, low, high);
        }
    }
    if (w.form != FORM_LEAF && (!TURNS || warp == 0)) finish(scratch, s, w);
}

/* Warps that share the columns of a query. */
static __host__ __device__ int32_t warps_of_query(int32_t head_dim)
{
    return (head_dim + OPS_LANES - 1) / OPS_LANES;
}

/* The leaves of a query, from left to right: a lane for each column.  One behind the other the
 * loads of 128 leaves would take longer than the leaves did: MERGE_ONCE are on their way together.
 */
static __global__ void __launch_bounds__(OPS_THREADS)
    merge_kernel(const __grid_constant__ attend_work w)
{
    const spc_attend_args &a = w.a;
    const int32_t share = warps_of_query(a.head_dim);
    const int64_t warp = (int64_t)blockIdx.x * OPS_WARPS + threadIdx.x / OPS_LANES;
    const int64_t item = warp / share;
    const int32_t column = (int32_t)(warp % share) * OPS_LANES + (int32_t)threadIdx.x % OPS_LANES;
    const int32_t row = (int32_t)(item / a.heads), head = (int32_t)(item % a.heads);
    int32_t first, last;

    begin_behind_previous();
    if (item >= (int64_t)a.rows * a.heads || column >= a.head_dim) return;
    last = (keys_of(a, row, &first) - 1) / w.keys;
    first /= w.keys;

    const float *stats = w.stats + 2 * item * w.leaves;
    const float *mixed = w.mixed + item * w.leaves * a.head_dim;
    float max = -SPC_INFINITY, sum = 0.0f, joined = 0.0f;

    for (int32_t leaf = first; leaf <= last; leaf += MERGE_ONCE) {
        float more_max[MERGE_ONCE], more_sum[MERGE_ONCE], more[MERGE_ONCE];

#pragma unroll
        for (int i = 0; i < MERGE_ONCE; i++) {
            const int32_t at = leaf + i < last ? leaf + i : last;

            more_max[i] = stats[2 * at];
            more_sum[i] = stats[2 * at + 1];
            more[i] = mixed[(int64_t)at * a.head_dim + column];
        }
#pragma unroll
        for (int i = 0; i < MERGE_ONCE; i++) {
            float keep, add;

            if (leaf + i > last) break;
            join(&max, &sum, more_max[i], more_sum[i], &keep, &add);
            joined = fmaf(more[i], add, joined * keep);
        }
    }
    a.out[(int64_t)row * a.out_width + head * a.head_dim + column] = joined * (1.0f / sum);
}

/* ---- launchers ------------------------------------------------------------------------------- */

int32_t spc_cuda_attend_tile_rows(int32_t heads, int32_t kv_heads, int32_t head_dim)
{
    /* of every type: a tile may be more than one block has queries for */
    const int32_t rows = queries_of(head_dim, weights_f32::COUNT) / (heads / kv_heads);

    return rows > 1 ? rows : 1;
}

int32_t spc_cuda_attend_reach(int32_t most_seen, int32_t context)
{
    const int32_t keys = leaf_keys(context), reach = (most_seen + keys - 1) / keys * keys;

    return reach < context ? reach : context;
}

int64_t spc_cuda_attend_workspace(int32_t rows, int32_t heads, int32_t head_dim, int32_t context)
{
    const int32_t keys = leaf_keys(context);
    const int64_t queries = (int64_t)rows * heads, most = (int64_t)STRIPS_FILL * STRIP;

    return (queries < most ? queries : most) * ((context + keys - 1) / keys) * (head_dim + 2);
}

template <typename Kv, int DIM, bool VECTOR>
static cudaError_t launch_attend(const attend_work &w, cudaStream_t stream)
{
    const int64_t strips = (int64_t)w.a.tiles * w.a.kv_heads * w.groups * w.strips;
    const int64_t items = strips * (w.form == FORM_LEAF ? w.leaves : 1) * (DIM / columns_of(DIM));

    if (items > INT32_MAX - STRIP) return cudaErrorInvalidValue;
    if (w.form == FORM_TURNS) {
        return launch_op(attend_kernel<Kv, DIM, VECTOR, true>, items, w, stream, w.a.early,
                         WALKERS * OPS_LANES);
    }
    return launch_op(attend_kernel<Kv, DIM, VECTOR, false>,
                     (items + warps_of(DIM) - 1) / warps_of(DIM), w, stream, w.a.early,
                     warps_of(DIM) * OPS_LANES);
}

template <typename Kv> static cudaError_t launch_type(const attend_work &w, cudaStream_t stream)
{
    if (w.a.head_dim % Kv::COUNT != 0) {
        return launch_attend<weights_f32, SPC_ATTEND_HEAD_DIM, false>(w, stream);
    }
    if (w.a.head_dim <= 64) return launch_attend<Kv, 64, true>(w, stream);
    if (w.a.head_dim <= 128) return launch_attend<Kv, 128, true>(w, stream);
    return launch_attend<Kv, SPC_ATTEND_HEAD_DIM, true>(w, stream);
}

cudaError_t spc_cuda_attend(const spc_attend_args *a, cudaStream_t stream)
{
    const int32_t count = a->cache.type == SPC_WEIGHT_F32 ? 4 : 8;
    const int32_t queries = queries_of(a->head_dim, count);
    attend_work w = {*a, leaf_keys(a->context), 0, 0, 0, FORM_LEAF, a->workspace, nullptr};
    int64_t strips;
    int32_t sharing, rows;
    cudaError_t error;

    if (!a->query || !is_cache(&a->cache) || !a->slot || !a->position || !a->seen || !a->tile ||
        !a->out || !a->workspace || a->rows < 1 || a->tiles < 1 || a->kv_heads < 1 ||
        a->heads < a->kv_heads || a->heads % a->kv_heads != 0 || a->head_dim < 1 ||
        a->head_dim > SPC_ATTEND_HEAD_DIM || a->width < (int64_t)a->heads * a->head_dim ||
        a->out_width < (int64_t)a->heads * a->head_dim || a->most_seen < 1 ||
        a->most_seen > a->context) {
        return cudaErrorInvalidValue;
    }
    sharing = a->heads / a->kv_heads;
    rows = spc_cuda_attend_tile_rows(a->heads, a->kv_heads, a->head_dim);
    if (rows > a->rows - a->tiles + 1) rows = a->rows - a->tiles + 1; /* the others have one */
    w.leaves = (a->most_seen + w.keys - 1) / w.keys;
    w.groups = (sharing + queries - 1) / queries;
    w.strips = ((sharing < queries ? sharing : queries) * rows + STRIP - 1) / STRIP;
    strips = (int64_t)a->tiles * a->kv_heads * w.groups * w.strips;
    if (w.leaves == 1 || strips >= STRIPS_FULL) {
        w.form = FORM_WALK;
    } else if (strips >= STRIPS_FILL) {
        w.form = FORM_TURNS;
    }
    w.mixed = w.stats + 2 * (int64_t)a->rows * a->heads * w.leaves;
    if (a->cache.type == SPC_WEIGHT_F32) {
        error = launch_type<weights_f32>(w, stream);
    } else if (a->cache.type == SPC_WEIGHT_BF16) {
        error = launch_type<weights_bf16>(w, stream);
    } else {
        error = launch_type<weights_f16>(w, stream);
    }
    if (error != cudaSuccess || w.form != FORM_LEAF) return error;

    const int64_t warps = (int64_t)a->rows * a->heads * warps_of_query(a->head_dim);

    return launch_op(merge_kernel, (warps + OPS_WARPS - 1) / OPS_WARPS, w, stream, a->early);
}
