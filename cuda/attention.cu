/* SPDX-License-Identifier: Apache-2.0 */
/* attention.cu - attention of decoding, scoring and prompts alike: out = softmax(scale q k + bias)
 * v, on tensor cores.
 *
 * A warp takes a strip: 16 queries that share keys - heads of a group, rows of a tile (gamma + 1
 * when scoring) - and walks along the cache, 16 keys a step (attention.cuh).  Warps of a block are
 * strips of one tile and find each other's keys in the first-level cache.
 *
 * The cache is cut into leaves at fixed positions.  A query's leaves are summed each by itself and
 * joined from left to right: where strips are few, by whoever comes last, a warp having taken one
 * leaf of one strip (attend_leaves.cuh); where they fill the device, by the warp that walks along
 * all of them; in between, where a warp for each strip would leave most of the memory idle, by the
 * warps of a block, which take turns.  All do the same sums, and queries of a product do not meet:
 * a row's bits depend neither on the rows beside it nor on the length of other sequences nor on who
 * joined.
 *
 * Bound by memory at long contexts, by latency at short ones; not tuned (no GPU has run it). */
#include "ops.h"

#include "ops.cuh"

#include "attend_leaves.cuh"
#include "attend_work.cuh"
#include "attention.cuh"

enum {
    LEAF_LEAST = 64,    /* keys of a leaf, at least */
    LEAVES_MOST = 128,  /* of a cache */
    STRIPS_FILL = 256,  /* so many walk along all leaves, of fewer a warp takes one leaf ... */
    STRIPS_FULL = 1024, /* ... and so many have a warp each: 8 on a multiprocessor of 132 */
    WALKERS = 4,        /* warps of a strip that has several */
    QUERIES_ONCE = 4    /* queries that are loaded at once */
};

static_assert((int)STRIPS_FILL <= (int)TICKETS, "a ticket for every tile of few strips");

/* Queries of a block that share keys.  Heads that cannot be loaded by 16 bytes have but one kernel.
 *
 * count   entries in 16 bytes */
static int32_t queries_of(int32_t head_dim, int32_t count)
{
    return tile_strips(head_dim % count == 0 ? head_dim : SPC_ATTEND_HEAD_DIM) * STRIP;
}

/* Keys of a leaf: a multiple of a step that depends on the context alone. */
static int32_t leaf_keys(int32_t context)
{
    const int32_t share = (context + LEAVES_MOST - 1) / LEAVES_MOST;
    const int32_t keys = share > LEAF_LEAST ? share : LEAF_LEAST;

    return (keys + STEP - 1) / STEP * STEP;
}

/* ---- strips that walk ------------------------------------------------------------------------ */

template <typename Kv, int DIM> struct attend_scratch : attend_queries<Kv, DIM> {
    float joined[columns_of(DIM) / 2][OPS_LANES]; /* leaves so far, as the lanes hold them ... */
    float max[2][OPS_LANES], sum[2][OPS_LANES];   /* ... of queries g and g + 8 */
};

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

/* (One block or more: without that sm_80 is given fewer registers than it takes, and spills.) */
template <typename Kv, int DIM, bool VECTOR, bool TURNS>
static __global__ void __launch_bounds__((TURNS ? (int)WALKERS : tile_strips(DIM)) * OPS_LANES, 1)
    attend_kernel(const __grid_constant__ attend_work w)
{
    enum { STRIPS = TURNS ? 1 : tile_strips(DIM), QUERIES = tile_strips(DIM) * STRIP };
    static __shared__ attend_scratch<Kv, DIM> shared[STRIPS];
    const spc_attend_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    attend_scratch<Kv, DIM> &scratch = shared[TURNS ? 0 : warp];
    int32_t item = TURNS ? (int32_t)blockIdx.x : (int32_t)blockIdx.x * STRIPS + warp;

    let_next_begin();

    /* divisions, some hundred instructions, before the wait */
    const int32_t strip = take(&item, w.strips), part = take(&item, parts_of(DIM));
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
    if (!TURNS || warp == 0) join_nothing(&scratch);
    if (TURNS) {
        __syncthreads();
    } else {
        __syncwarp();
    }

    const int32_t begin = lowest / w.keys, last = (end - 1) / w.keys;

    for (int32_t round = begin; round <= last; round += TURNS ? (int)WALKERS : 1) {
        const int32_t l = TURNS ? round + warp : round;
        const int32_t low = l * w.keys, high = low + w.keys < end ? low + w.keys : end;
        const bool there = l <= last && low + w.keys > lowest && low < end;

        if (there) {
            sum_leaf<Kv, DIM, VECTOR>(&s, scratch, a, slot, kv_head,
                                      low > lowest ? low : lowest / STEP * STEP, high);
        }
        if (TURNS) {
            for (int turn = 0; turn < WALKERS; turn++) {
                if (turn == warp && there) join_leaf(&scratch, s, low, high);
                __syncthreads();
            }
        } else if (there) {
            join_leaf(&scratch, s, low, high);
        }
    }
    if (!TURNS || warp == 0) finish(scratch, s, w);
}

/* ---- launchers ------------------------------------------------------------------------------- */

int32_t spc_cuda_attend_tile_rows(int32_t heads, int32_t kv_heads, int32_t head_dim)
{
    /* of every type: no tile is more than a block has queries for */
    const int32_t rows = queries_of(head_dim, weights_bf16::COUNT) / (heads / kv_heads);

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

    return TICKETS +
           (queries < most ? queries : most) * ((context + keys - 1) / keys) * (head_dim + 2);
}

cudaError_t spc_cuda_attend_workspace_init(float *workspace, cudaStream_t stream)
{
    return cudaMemsetAsync(workspace, 0, TICKETS * sizeof *workspace, stream);
}

/* Who takes which leaves. */
enum attend_form {
    FORM_LEAVES, /* a warp one leaf of one strip */
    FORM_WALK,   /* a warp all leaves of its strip */
    FORM_TURNS   /* WALKERS warps all leaves of their strip */
};

static attend_form form_of(const attend_work &w)
{
    const int64_t strips = (int64_t)w.a.tiles * w.a.kv_heads * w.groups * w.strips;

    if (strips < STRIPS_FILL) return FORM_LEAVES;
    return w.leaves == 1 || strips >= STRIPS_FULL ? FORM_WALK : FORM_TURNS;
}

template <typename Kv, int DIM, bool VECTOR>
static cudaError_t launch_attend(attend_work &w, cudaStream_t stream)
{
    const attend_form form = form_of(w);
    const int64_t items = (int64_t)w.a.tiles * w.a.kv_heads * w.groups * w.strips * parts_of(DIM);

    if (form == FORM_LEAVES) return launch_leaves<Kv, DIM, VECTOR>(w, stream);
    if (items > INT32_MAX - STRIP) return cudaErrorInvalidValue;
    if (form == FORM_TURNS) {
        return launch_op(attend_kernel<Kv, DIM, VECTOR, true>, items, w, stream, w.a.early,
                         WALKERS * OPS_LANES);
    }
    return launch_op(attend_kernel<Kv, DIM, VECTOR, false>,
                     (items + tile_strips(DIM) - 1) / tile_strips(DIM), w, stream, w.a.early,
                     tile_strips(DIM) * OPS_LANES);
}

template <typename Kv> static cudaError_t launch_type(attend_work &w, cudaStream_t stream)
{
    if (w.a.head_dim % Kv::COUNT != 0) {
        return launch_attend<weights_f32, SPC_ATTEND_HEAD_DIM, false>(w, stream);
    }
    if (w.a.head_dim <= 64) return launch_attend<Kv, 64, true>(w, stream);
    if (w.a.head_dim <= 128) return launch_attend<Kv, 128, true>(w, stream);
    return launch_attend<Kv, SPC_ATTEND_HEAD_DIM, true>(w, stream);
}

static cudaError_t launch_work(attend_work &w, cudaStream_t stream)
{
    if (w.a.cache.type == SPC_WEIGHT_F32) return launch_type<weights_f32>(w, stream);
    return w.a.cache.type == SPC_WEIGHT_BF16 ? launch_type<weights_bf16>(w, stream)
                                             : launch_type<weights_f16>(w, stream);
}

/* The same queries, keys, values and rows? */
static bool are_neighbours(const spc_rope_args *rope, const spc_attend_args *a)
{
    return rope->qkv == a->query && rope->width == a->width && rope->rows == a->rows &&
           rope->width == ((int64_t)a->heads + 2 * a->kv_heads) * a->head_dim &&
           (rope->heads == a->heads || (!rope->query_weight && !rope->cosine)) &&
           rope->kv_heads == a->kv_heads && rope->head_dim == a->head_dim && a->head_dim % 2 == 0 &&
           !rope->query_weight == !rope->key_weight && !rope->cosine == !rope->sine &&
           rope->pairs >= 0 && rope->pairs <= a->head_dim / 2 && rope->cache.key == a->cache.key &&
           rope->cache.value == a->cache.value;
}

/* Can blocks do to heads what is to be done before?  A new key must be no other block's business.
 */
static bool takes_rope(const attend_work &w)
{
    return form_of(w) == FORM_LEAVES && w.groups == 1 && w.a.apart;
}

cudaError_t spc_cuda_rope_attend(const spc_rope_args *rope, const spc_attend_args *a,
                                 cudaStream_t stream)
{
    const int32_t count = a->cache.type == SPC_WEIGHT_F32 ? 4 : 8;
    const int32_t queries = queries_of(a->head_dim, count);
    attend_work w = {};
    int32_t sharing;
    cudaError_t error = cudaSuccess;

    if (!a->query || !is_cache(&a->cache) || !a->slot || !a->position || !a->seen || !a->tile ||
        !a->out || !a->workspace || a->rows < 1 || a->tiles < 1 || a->kv_heads < 1 ||
        a->heads < a->kv_heads || a->heads % a->kv_heads != 0 || a->head_dim < 1 ||
        a->head_dim > SPC_ATTEND_HEAD_DIM || a->width < (int64_t)a->heads * a->head_dim ||
        a->out_width < (int64_t)a->heads * a->head_dim || a->most_seen < 1 ||
        a->most_seen > a->context || (rope && !are_neighbours(rope, a))) {
        return cudaErrorInvalidValue;
    }
    sharing = a->heads / a->kv_heads;
    w.a = *a;
    w.keys = leaf_keys(a->context);
    w.leaves = (a->most_seen + w.keys - 1) / w.keys;
    w.groups = (sharing + queries - 1) / queries;
    w.strips = ((sharing < queries ? sharing : queries) * rows_of_tile(*a) + STRIP - 1) / STRIP;
    w.ticket = (uint32_t *)a->workspace;
    w.mixed = a->workspace + TICKETS;
    w.stats = w.mixed + (int64_t)a->rows * a->heads * w.leaves * a->head_dim;
    if (rope && takes_rope(w)) {
        w.rope = *rope;
        w.a.early = rope->early;
    }
    /* (other rows of as many may take what these do not: it is loaded with them) */
    if (rope && (!w.rope.qkv || spc_cuda_only_loads())) error = spc_cuda_rope(rope, stream);
    if (error == cudaSuccess) error = launch_work(w, stream);
    if (error != cudaSuccess || form_of(w) != FORM_LEAVES) return error;
    if (w.joins && !spc_cuda_only_loads()) return error;

    const int64_t warps = (int64_t)a->rows * a->heads * warps_of_query(a->head_dim);

    return launch_op(merge_kernel, (warps + OPS_WARPS - 1) / OPS_WARPS, w, stream, a->early);
}

cudaError_t spc_cuda_attend(const spc_attend_args *a, cudaStream_t stream)
{
    return spc_cuda_rope_attend(nullptr, a, stream);
}
