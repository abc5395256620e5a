/* SPDX-License-Identifier: Apache-2.0 */
/* attention.cu - attention of decoding, scoring and prompts alike: out = softmax(scale q k + bias)
 * v.
 *
 * A block takes the queries that share keys - all heads of a group, all rows of a tile (gamma + 1
 * when scoring) - over one part of the cache, so that keys and values cross the memory once for
 * them all.  The parts of a query are merged by a second kernel.  Parts and the tiles of 32 keys in
 * them lie at fixed positions, and a query skips what it does not see: its bits depend neither on
 * the rows beside it nor on the length of other sequences.
 *
 * Keys are staged in shared memory, a lane per key; values are read as they lie, a lane per entry.
 * Bound by memory at long contexts, by latency at short ones; not tuned (no GPU has run it). */
#include "ops.h"

#include "ops.cuh"

enum {
    KEYS = OPS_LANES,  /* of a tile */
    PARTS_MOST = 32,   /* of a cache */
    PART_LEAST = 128,  /* keys of a part, at least */
    QUERIES_WIDE = 32, /* queries of a block, heads up to 128 */
    QUERIES_TALL = 8   /* the same, heads beyond: shared memory is 48 KB */
};

static int32_t queries_of(int32_t head_dim)
{
    return head_dim <= 128 ? QUERIES_WIDE : QUERIES_TALL;
}

/* Keys of a part: a multiple of the tile that depends on the context alone. */
static int32_t part_keys(int32_t context)
{
    const int32_t share = (context + PARTS_MOST - 1) / PARTS_MOST;
    const int32_t keys = share > PART_LEAST ? share : PART_LEAST;

    return (keys + KEYS - 1) / KEYS * KEYS;
}

/* What the kernels need beside the arguments. */
typedef struct {
    spc_attend_args a;
    int32_t keys;   /* of a part */
    int32_t parts;  /* of the longest row */
    int32_t groups; /* blocks that share the queries of one head of keys and one row of a tile */
    float *stats;   /* [rows, heads, parts, 2] largest score, sum of exponentials */
    float *mixed;   /* [rows, heads, parts, head_dim] values by exponentials */
} attend_work;

/* Keys that a row sees: [*first, the result). */
static __device__ __forceinline__ int32_t keys_of(const spc_attend_args &a, int32_t row,
                                                  int32_t *first)
{
    const int32_t seen = a.seen[row];

    *first = a.window > 0 && seen > a.window ? seen - a.window : 0;
    return seen;
}

template <int DIM, int QUERIES> struct attend_scratch {
    float query[QUERIES][DIM];
    float key[KEYS][DIM + 1]; /* + 1: lanes that walk down a column use different banks */
    float weight[QUERIES][KEYS];
};

/* One part of the cache for the queries of a tile; see the top. */
template <int DIM, int QUERIES>
static __global__ void __launch_bounds__(OPS_THREADS)
    attend_kernel(const __grid_constant__ attend_work w)
{
    enum { MINE = QUERIES / OPS_WARPS, CHUNKS = DIM / OPS_LANES };
    static __shared__ attend_scratch<DIM, QUERIES> s;
    const spc_attend_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    int32_t index = (int32_t)blockIdx.x;
    const int32_t part = index % w.parts;
    const int32_t group = (index /= w.parts) % w.groups;
    const int32_t kv_head = (index /= w.groups) % a.kv_heads;
    const spc_attend_tile tile = a.tile[index / a.kv_heads];
    const int32_t sharing = a.heads / a.kv_heads, left = sharing - group * QUERIES;
    const int32_t heads = left < QUERIES ? left : QUERIES, queries = heads * tile.rows;
    int32_t lowest, unused, row[MINE], head[MINE], from[MINE], to[MINE];
    int32_t low = part * w.keys, high = low + w.keys;
    float max[MINE], sum[MINE], mixed[MINE][CHUNKS];
    bool bad[MINE];

    (void)keys_of(a, tile.row, &lowest);
    if (low < lowest) low = lowest / KEYS * KEYS;
    const int32_t end = keys_of(a, tile.row + tile.rows - 1, &unused);
    if (high > end) high = end;
    if (low >= high) return;

#pragma unroll
    for (int q = 0; q < MINE; q++) {
        const int j = warp + q * OPS_WARPS;

        from[q] = to[q] = 0;
        max[q] = -SPC_INFINITY;
        sum[q] = 0.0f;
        bad[q] = false;
        row[q] = tile.row + j / heads;
        head[q] = kv_head * sharing + group * QUERIES + j % heads;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) mixed[q][c] = 0.0f;
        if (j >= queries) continue;
        to[q] = keys_of(a, row[q], &from[q]);
        for (int i = lane; i < a.head_dim; i += OPS_LANES) {
            s.query[j][i] = a.query[(int64_t)row[q] * a.width + (int64_t)head[q] * a.head_dim + i];
        }
    }

    const int32_t slot = a.slot[tile.row];

    for (int32_t first = low; first < high; first += KEYS) {
        const int32_t count = high - first < KEYS ? high - first : KEYS;

        __syncthreads(); /* the keys before have been read */
        for (int k = warp; k < count; k += OPS_WARPS) {
            const float *key =
                a.cache.key + page_row(a.cache, slot, kv_head, first + k, a.head_dim);

            for (int i = lane; i < a.head_dim; i += OPS_LANES) s.key[k][i] = key[i];
        }
        __syncthreads();

#pragma unroll
        for (int q = 0; q < MINE; q++) {
            const int j = warp + q * OPS_WARPS;
            const bool sees = lane + first >= from[q] && lane + first < to[q] && lane < count;
            float score = -SPC_INFINITY, top, weight, shrink;

            if (to[q] <= first || from[q] >= first + KEYS) continue; /* the same in all lanes */
            if (sees) {
                score = 0.0f;
                for (int i = 0; i < a.head_dim; i++) {
                    score = fmaf(s.query[j][i], s.key[lane][i], score);
                }
                score *= a.scale;
                if (a.cap > 0.0f) score = bounded(score, a.cap);
                if (a.bias) {
                    score += a.bias[head[q] * (2 * (int64_t)a.context - 1) + first + lane -
                                    a.position[row[q]] + a.context - 1];
                }
                bad[q] |= !(score - score == 0.0f);
            }
            top = warp_max(score);
            top = top > max[q] ? top : max[q];
            shrink = spc_exp2((max[q] - top) * SPC_LOG2_E);
            weight = sees ? spc_exp2((score - top) * SPC_LOG2_E) : 0.0f;
            max[q] = top;
            sum[q] = sum[q] * shrink + weight;
            s.weight[j][lane] = weight;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) mixed[q][c] *= shrink;
        }
        __syncwarp();
        for (int k = 0; k < count; k++) {
            const float *value =
                a.cache.value + page_row(a.cache, slot, kv_head, first + k, a.head_dim);
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                const int i = lane + c * OPS_LANES;
                const float x = i < a.head_dim ? value[i] : 0.0f;

#pragma unroll
                for (int q = 0; q < MINE; q++) {
                    if (first + k < from[q] || first + k >= to[q]) continue;
                    mixed[q][c] = fmaf(s.weight[warp + q * OPS_WARPS][k], x, mixed[q][c]);
                }
            }
        }
        __syncwarp(); /* the weights have been read */
    }

#pragma unroll
    for (int q = 0; q < MINE; q++) {
        const bool broken = warp_max(bad[q] ? 1.0f : 0.0f) > 0.0f;
        const float total = broken ? NAN : warp_sum(sum[q]);

        if (to[q] <= low || from[q] >= high) continue;

        const int64_t at = ((int64_t)row[q] * a.heads + head[q]) * w.parts + part;

        if (lane == 0) w.stats[2 * at] = max[q];
        if (lane == 0) w.stats[2 * at + 1] = total;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            const int i = lane + c * OPS_LANES;

            if (i < a.head_dim) w.mixed[at * a.head_dim + i] = mixed[q][c];
        }
    }
}

/* The parts of a query, from left to right: a warp per query. */
static __global__ void __launch_bounds__(OPS_THREADS)
    merge_kernel(const __grid_constant__ attend_work w)
{
    const spc_attend_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES;
    const int64_t item = (int64_t)blockIdx.x * OPS_WARPS + threadIdx.x / OPS_LANES;
    const int64_t first_part = item * w.parts;
    int32_t first, last;
    float max = -SPC_INFINITY, sum = 0.0f;

    if (item >= (int64_t)a.rows * a.heads) return;
    last = (keys_of(a, (int32_t)(item / a.heads), &first) - 1) / w.keys;
    first /= w.keys;
    for (int32_t p = first; p <= last; p++) {
        max = w.stats[2 * (first_part + p)] > max ? w.stats[2 * (first_part + p)] : max;
    }
    for (int32_t p = first; p <= last; p++) {
        const float *stats = w.stats + 2 * (first_part + p);

        sum += stats[1] * spc_exp2((stats[0] - max) * SPC_LOG2_E);
    }
    for (int i = lane; i < a.head_dim; i += OPS_LANES) {
        float out = 0.0f;

        for (int32_t p = first; p <= last; p++) {
            const float shrink = spc_exp2((w.stats[2 * (first_part + p)] - max) * SPC_LOG2_E);

            out += w.mixed[(first_part + p) * a.head_dim + i] * shrink;
        }
        a.out[item * a.head_dim + i] = out * (1.0f / sum); /* NaN where a score was none */
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

int32_t spc_cuda_attend_tile_rows(int32_t heads, int32_t kv_heads, int32_t head_dim)
{
    const int32_t rows = queries_of(head_dim) / (heads / kv_heads);

    return rows > 1 ? rows : 1;
}

int32_t spc_cuda_attend_reach(int32_t most_seen, int32_t context)
{
    const int32_t keys = part_keys(context), reach = (most_seen + keys - 1) / keys * keys;

    return reach < context ? reach : context;
}

int64_t spc_cuda_attend_workspace(int32_t rows, int32_t heads, int32_t head_dim, int32_t context)
{
    const int32_t keys = part_keys(context);

    return (int64_t)rows * heads * ((context + keys - 1) / keys) * (head_dim + 2);
}

cudaError_t spc_cuda_attend(const spc_attend_args *a, cudaStream_t stream)
{
    attend_work w = {*a, part_keys(a->context), 0, 0, a->workspace, nullptr};
    cudaError_t error;
    int64_t blocks;

    if (!a->query || !a->cache.key || !a->cache.value || !a->cache.table || !a->slot ||
        !a->position || !a->seen || !a->tile || !a->out || !a->workspace || a->rows < 1 ||
        a->tiles < 1 || a->kv_heads < 1 || a->heads < a->kv_heads || a->heads % a->kv_heads != 0 ||
        a->head_dim < 1 || a->head_dim > SPC_ATTEND_HEAD_DIM ||
        a->width < (int64_t)a->heads * a->head_dim || a->most_seen < 1 ||
        a->most_seen > a->context) {
        return cudaErrorInvalidValue;
    }
    w.parts = (a->most_seen + w.keys - 1) / w.keys;
    w.groups = (a->heads / a->kv_heads + queries_of(a->head_dim) - 1) / queries_of(a->head_dim);
    w.mixed = w.stats + 2 * (int64_t)a->rows * a->heads * w.parts;
    blocks = (int64_t)a->tiles * a->kv_heads * w.groups * w.parts;
    if (a->head_dim <= 64) {
        error = launch_op(attend_kernel<64, QUERIES_WIDE>, blocks, w, stream);
    } else if (a->head_dim <= 128) {
        error = launch_op(attend_kernel<128, QUERIES_WIDE>, blocks, w, stream);
    } else {
        error = launch_op(attend_kernel<256, QUERIES_TALL>, blocks, w, stream);
    }
    if (error != cudaSuccess) return error;
    return launch_op(merge_kernel, ((int64_t)a->rows * a->heads + OPS_WARPS - 1) / OPS_WARPS, w,
                     stream);
}
