/* SPDX-License-Identifier: Apache-2.0 */
/* attend_leaves.cuh - attention where strips are few: blocks share the leaves of a tile, a warp has
 * one leaf of one strip at a time.
 *
 * What each found of its leaf it leaves in the workspace.  The last block of a tile's to come joins
 * the leaves from left to right - which one that is depends on the clock, what it adds does not -
 * or, where that would be more than a block has loads for, a kernel of its own does.
 *
 * Where rows are new ones of a sequence each, what happens to heads before attention (rope.cu)
 * happens here, too.  Every block norms and rotates the queries that it needs for itself.  A new
 * key lies in one leaf, which belongs to one block: that block writes key and value into the cache,
 * and reads them from there behind its barrier as it does the old ones.  No other block of the
 * launch comes near them: a slot has one tile, whose heads of a group of keys are all in the block,
 * and the host says where a row's page is another slot's, too (spc_attend_args.apart). */
#ifndef SPC_CUDA_ATTEND_LEAVES_CUH
#define SPC_CUDA_ATTEND_LEAVES_CUH

#include "ops.h"

#include "attend_work.cuh"
#include "fence.cuh"
#include "rope.cuh"

enum {
    LEAF_WARPS = 4,
    LEAF_THREADS = LEAF_WARPS * OPS_LANES,
    HEADS_ONCE = 4 /* of a warp, that are loaded at once */
};

/* ---- joining ---------------------------------------------------------------------------------
 */

/* Columns `column`, ... of a query, WIDE of them: its leaves from left to right.  One behind the
 * other the loads of 128 leaves would take longer than the leaves did: MERGE_ONCE are on their way
 * together.  (What is behind the last leaf is chosen away: compilers put loads behind a branch that
 * skips it, and each would wait for the one before.) */
template <int WIDE>
static __device__ __forceinline__ void merge_columns(const attend_work &w, int32_t row,
                                                     int32_t head, int32_t column)
{
    const spc_attend_args &a = w.a;
    const int64_t query = ((int64_t)row * a.heads + head) * w.leaves;
    const float *stats = w.stats + 2 * query, *mixed = w.mixed + query * a.head_dim + column;
    float *out = a.out + (int64_t)row * a.out_width + head * a.head_dim + column;
    float max = -SPC_INFINITY, sum = 0.0f, joined[WIDE] = {};
    int32_t first;
    const int32_t last = (keys_of(a, row, &first) - 1) / w.keys;

    for (int32_t leaf = first / w.keys; leaf <= last; leaf += MERGE_ONCE) {
        float more_max[MERGE_ONCE], more_sum[MERGE_ONCE], more[MERGE_ONCE][WIDE];

#pragma unroll
        for (int i = 0; i < MERGE_ONCE; i++) {
            const int32_t at = leaf + i < last ? leaf + i : last;

            more_max[i] = stats[2 * at];
            more_sum[i] = stats[2 * at + 1];
            if constexpr (WIDE == 4) {
                load_columns<WIDE, true>(mixed, at * a.head_dim, a.head_dim, more[i]);
            } else {
                more[i][0] = mixed[at * a.head_dim];
            }
        }
#pragma unroll
        for (int i = 0; i < MERGE_ONCE; i++) {
            const bool there = leaf + i <= last;
            float top = max, all = sum, keep, add;

            join(&top, &all, more_max[i], more_sum[i], &keep, &add);
            max = there ? top : max;
            sum = there ? all : sum;
#pragma unroll
            for (int k = 0; k < WIDE; k++) {
                joined[k] = there ? fmaf(more[i][k], add, joined[k] * keep) : joined[k];
            }
        }
    }
#pragma unroll
    for (int k = 0; k < WIDE; k++) out[k] = joined[k] * (1.0f / sum);
}

/* Warps that share the columns of a query. */
static __host__ __device__ int32_t warps_of_query(int32_t head_dim)
{
    return (head_dim + OPS_LANES - 1) / OPS_LANES;
}

/* All queries, a lane for each column.  (One block or more: without that ptxas keeps to 32
 * registers, in which the loads of a few leaves can wait.) */
static __global__ void __launch_bounds__(OPS_THREADS, 1)
    merge_kernel(const __grid_constant__ attend_work w)
{
    const spc_attend_args &a = w.a;
    const int32_t share = warps_of_query(a.head_dim);
    const int64_t warp = (int64_t)blockIdx.x * OPS_WARPS + threadIdx.x / OPS_LANES;
    const int64_t item = warp / share;
    const int32_t column = (int32_t)(warp % share) * OPS_LANES + (int32_t)threadIdx.x % OPS_LANES;

    begin_behind_previous();
    if (item >= (int64_t)a.rows * a.heads || column >= a.head_dim) return;
    merge_columns<1>(w, (int32_t)(item / a.heads), (int32_t)(item % a.heads), column);
}

/* Columns that a thread of a block joins at a time. */
static __host__ __device__ constexpr int32_t wide_of(bool vector)
{
    return vector ? 4 : 1;
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* What a block works on. */
typedef struct {
    spc_attend_tile tile;
    int32_t slot, kv_head, share;
    int32_t first_head, heads; /* that share keys */
} leaves_place;

/* A leaf, for whoever joins it. */
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

enum head_kind { HEAD_NONE, HEAD_QUERY, HEAD_KEY, HEAD_VALUE };

/* A head that a block needs or keeps. */
typedef struct {
    head_kind kind;
    int32_t row, position; /* position: where rope is to be done */
} leaves_head;

/* Head j of a block: its queries, then key and value of every new row. */
static __device__ __forceinline__ leaves_head head_of(const attend_work &w, const leaves_place &at,
                                                      int32_t j)
{
    const int32_t n = j - at.heads * at.tile.rows;
    leaves_head h = {HEAD_QUERY, at.tile.row + (n < 0 ? j / at.heads : n / 2), 0};

    if (n >= 0) h.kind = n % 2 == 0 ? HEAD_KEY : HEAD_VALUE;
    if (n >= (w.rope.qkv ? 2 * at.tile.rows : 0)) h.kind = HEAD_NONE;
    if (w.rope.qkv && h.kind != HEAD_NONE) h.position = w.a.position[h.row];
    return h;
}

/* The loads of head j; keys and values of other blocks' leaves become none. */
template <int PAIRS>
static __device__ __forceinline__ void load_head(const attend_work &w, const leaves_place &at,
                                                 int32_t j, leaves_head *h, rope_head<PAIRS> *x)
{
    const spc_attend_args &a = w.a;
    const rope_pairs of(a.head_dim, w.rope.pairs);
    const int64_t angle = (int64_t)h->position * of.pairs;
    const bool is_query = h->kind == HEAD_QUERY, turns = w.rope.cosine && h->kind != HEAD_VALUE;
    const float *weight = is_query              ? w.rope.query_weight
                          : h->kind == HEAD_KEY ? w.rope.key_weight
                                                : NULL;
    /* queries begin a row, keys and values end it */
    const int32_t head = is_query ? at.first_head + j % at.heads
                                  : at.kv_head - (h->kind == HEAD_KEY ? 2 : 1) * a.kv_heads;
    const float *row = a.query + (int64_t)(is_query ? h->row : h->row + 1) * a.width;

    if (!is_query && h->position / w.keys / w.together != at.share) h->kind = HEAD_NONE;
    x->load(h->kind == HEAD_NONE ? NULL : row + (int64_t)head * a.head_dim, of, weight,
            turns ? w.rope.cosine + angle : NULL, turns ? w.rope.sine + angle : NULL,
            is_query && w.rope.query_scale ? w.rope.query_scale + h->position : NULL);
}

/* All heads of a block to their places: queries, with zeros as far as products go, into its memory,
 * new keys and values into the cache. */
template <typename Kv, int DIM>
static __device__ __forceinline__ void bring_heads(const attend_work &w, const leaves_place &at,
                                                   attend_queries<Kv, DIM> *shared)
{
    const spc_cuda_pages &cache = w.a.cache;
    const rope_pairs of(w.a.head_dim, w.rope.pairs);
    const int32_t dim = w.a.head_dim, queries = at.heads * at.tile.rows;
    const int32_t count = queries + (w.rope.qkv ? 2 * at.tile.rows : 0);
    const int32_t padded = (queries + STRIP - 1) / STRIP * STRIP;
    const int warp = threadIdx.x / OPS_LANES, lane = threadIdx.x % OPS_LANES;

    for (int32_t j = queries + warp; j < padded; j += LEAF_WARPS) {
        for (int i = lane; i < DIM; i += OPS_LANES) shared[j / STRIP].query[j % STRIP][i] = 0.0f;
    }
    for (int32_t first = warp; first < count; first += LEAF_WARPS * HEADS_ONCE) {
        leaves_head head[HEADS_ONCE];
        rope_head<DIM / 2 / OPS_LANES> x[HEADS_ONCE];

#pragma unroll
        for (int u = 0; u < HEADS_ONCE; u++) head[u] = head_of(w, at, first + u * LEAF_WARPS);
#pragma unroll
        for (int u = 0; u < HEADS_ONCE; u++) { /* their loads are on their way together */
            load_head(w, at, first + u * LEAF_WARPS, &head[u], &x[u]);
        }
#pragma unroll
        for (int u = 0; u < HEADS_ONCE; u++) {
            const int32_t j = first + u * LEAF_WARPS;

            if (head[u].kind == HEAD_NONE) continue;
            x[u].turn(dim, w.rope.eps);
            if (head[u].kind == HEAD_QUERY) {
                float *query = shared[j / STRIP].query[j % STRIP];

                x[u].each(of, [&](int32_t i, float entry) { query[i] = entry; });
                for (int32_t i = dim + lane; i < DIM; i += OPS_LANES) query[i] = 0.0f;
            } else {
                const int64_t to = page_row(cache, at.slot, at.kv_head, head[u].position, dim);
                void *side = head[u].kind == HEAD_KEY ? cache.key : cache.value;

                x[u].each(of, [&](int32_t i, float entry) {
                    store_entry(side, cache.type, to + i, entry);
                });
            }
        }
    }
}

/* The strip of a warp: its queries, and what they see. */
template <typename Kv, int DIM>
static __device__ __forceinline__ void find_strip(attend_strip<Kv, DIM> *s, const attend_work &w,
                                                  const leaves_place &at, int32_t strip)
{
    const int lane = threadIdx.x % OPS_LANES;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int32_t j = strip * STRIP + 8 * r + lane / 4;

        s->row[r] = at.tile.row + j / at.heads;
        s->head[r] = at.first_head + j % at.heads;
        s->from[r] = s->to[r] = 0;
        if (j < at.heads * at.tile.rows) s->to[r] = keys_of(w.a, s->row[r], &s->from[r]);
    }
}

/* A leaf of a strip, as far as its queries see it. */
template <typename Kv, int DIM, bool VECTOR>
static __device__ __forceinline__ void
do_leaf(attend_strip<Kv, DIM> *s, const attend_work &w, const leaves_place &at,
        const attend_queries<Kv, DIM> *shared, int32_t strip, int32_t leaf)
{
    const spc_attend_args &a = w.a;
    const int32_t queries = at.heads * at.tile.rows, behind = strip * STRIP + STRIP;
    const int32_t first_row = at.tile.row + strip * STRIP / at.heads;
    const int32_t last_row = at.tile.row + ((behind < queries ? behind : queries) - 1) / at.heads;
    const int32_t low = leaf * w.keys;
    int32_t lowest;

    if (strip * STRIP >= queries) return;

    /* rows see more from one to the next */
    const int32_t end = keys_of(a, last_row, &s->all_from);
    const int32_t high = low + w.keys < end ? low + w.keys : end;

    s->all_to = keys_of(a, first_row, &lowest);
    if (low + w.keys <= lowest || low >= end) return;
    sum_leaf<Kv, DIM, VECTOR>(s, shared[strip], a, at.slot, at.kv_head,
                              low > lowest ? low : lowest / STEP * STEP, high);
    leave(*s, w, leaf);
}

template <typename Kv, int DIM, bool VECTOR>
static __global__ void __launch_bounds__(LEAF_THREADS, 1)
    attend_leaves_kernel(const __grid_constant__ attend_work w)
{
    enum { PARTS = parts_of(DIM), QUERIES = tile_strips(DIM) * STRIP, WIDE = wide_of(VECTOR) };
    static __shared__ attend_queries<Kv, DIM> shared[tile_strips(DIM)];
    const spc_attend_args &a = w.a;
    int32_t item = (int32_t)blockIdx.x, mine = (int32_t)threadIdx.x / OPS_LANES;
    attend_strip<Kv, DIM> s;
    leaves_place at;

    let_next_begin();

    /* divisions, some hundred instructions, before the wait */
    at.share = take(&item, w.shares);
    uint32_t *ticket = w.ticket + blockIdx.x / (unsigned)w.shares;
    const int32_t group = take(&item, w.groups);
    at.kv_head = take(&item, a.kv_heads);
    const int32_t sharing = a.heads / a.kv_heads, left = sharing - group * QUERIES;
    at.heads = left < QUERIES ? left : (int32_t)QUERIES;
    at.first_head = at.kv_head * sharing + group * QUERIES;
    const int32_t strip = take(&mine, w.strips), part = take(&mine, PARTS);

    if (item >= a.tiles || mine < 0 || at.heads < 1) { /* (never; or they would be done after it) */
        await_previous();
        return;
    }
    await_previous();
    at.tile = a.tile[item];
    at.slot = a.slot[at.tile.row];

    int32_t lowest, unused;
    keys_of(a, at.tile.row, &lowest);
    const int32_t end = keys_of(a, at.tile.row + at.tile.rows - 1, &unused);
    const int32_t first_share = lowest / w.keys / w.together;
    const int32_t last_share = (end - 1) / w.keys / w.together;

    if (at.share < first_share || at.share > last_share) return;
    bring_heads(w, at, shared);
    find_strip(&s, w, at, strip);
    s.first_column = part * s.COLUMNS;
    __syncthreads(); /* queries, and new keys in the cache, are there for all warps */
    if (mine < w.together) {
        do_leaf<Kv, DIM, VECTOR>(&s, w, at, shared, strip, at.share * w.together + mine);
    }
    if (!w.joins || !is_last_block(ticket, last_share - first_share + 1)) return;

    const int32_t per_query = a.head_dim / WIDE;

    for (int32_t i = threadIdx.x; i < at.heads * at.tile.rows * per_query; i += LEAF_THREADS) {
        const int32_t query = i / per_query;

        merge_columns<WIDE>(w, at.tile.row + query / at.heads, at.first_head + query % at.heads,
                            i % per_query * WIDE);
    }
}

/* ---- launcher -------------------------------------------------------------------------------- */

template <typename Kv, int DIM, bool VECTOR>
static cudaError_t launch_leaves(attend_work &w, cudaStream_t stream)
{
    const spc_attend_args &a = w.a;
    const int32_t sharing = a.heads / a.kv_heads;
    const int32_t heads = sharing < tile_strips(DIM) * STRIP ? sharing : tile_strips(DIM) * STRIP;
    const int32_t queries = heads * rows_of_tile(a);
    const int32_t loads =
        (queries * (a.head_dim / wide_of(VECTOR)) + LEAF_THREADS - 1) / LEAF_THREADS;

    w.together = LEAF_WARPS / (w.strips * parts_of(DIM));
    w.shares = (w.leaves + w.together - 1) / w.together;
    /* no more rounds of loads, each behind the last, than in merge_kernel, or two */
    w.joins = loads == 1 || loads * w.leaves <= 2 * MERGE_ONCE;
    return launch_op(attend_leaves_kernel<Kv, DIM, VECTOR>,
                     (int64_t)a.tiles * a.kv_heads * w.groups * w.shares, w, stream, w.a.early,
                     LEAF_THREADS);
}

#endif
