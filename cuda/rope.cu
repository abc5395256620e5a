/* SPDX-License-Identifier: Apache-2.0 */
/* rope.cu - what happens to queries, keys and values before attention, in one launch: norm of each
 * head, rotation by position, keys and values into the cache.  (Where rows are few,
 * attend_leaves.cuh does it along with attention.)
 *
 * A warp per row and head. */
#include "ops.h"

#include "ops.cuh"

#include "rope.cuh"

static __global__ void __launch_bounds__(OPS_THREADS)
    rope_kernel(const __grid_constant__ spc_rope_args a)
{
    enum { PAIRS = SPC_ATTEND_HEAD_DIM / 2 / OPS_LANES };
    const int heads = a.heads + 2 * a.kv_heads;
    const int64_t item = (int64_t)blockIdx.x * OPS_WARPS + threadIdx.x / OPS_LANES;
    const int64_t row = item / heads;
    const int h = (int)(item % heads);
    const rope_pairs of(a.head_dim, a.pairs);
    rope_head<PAIRS> x;

    begin_behind_previous();
    if (row >= a.rows) return;

    /* queries stand before the keys and values that a row ends with */
    float *head = a.qkv + (row + 1) * a.width + (int64_t)(h - heads) * a.head_dim;
    const bool is_value = h >= a.heads + a.kv_heads, kept = h >= a.heads && a.cache.key;
    const int32_t position = a.position[row], slot = kept ? a.slot[row] : 0;
    const int32_t page = kept ? page_of(a.cache, slot, position) : 0;
    const float *weight = is_value ? NULL : h < a.heads ? a.query_weight : a.key_weight;
    const float *cosine = is_value || !a.cosine ? NULL : a.cosine + (int64_t)position * of.pairs;
    const float *sine = cosine ? a.sine + (int64_t)position * of.pairs : NULL;
    const float *scale = a.query_scale && h < a.heads ? a.query_scale + position : NULL;
    void *cache = is_value ? a.cache.value : a.cache.key;
    const int64_t at = row_in(a.cache, page, (h - a.heads) % a.kv_heads, position, a.head_dim);

    x.load(head, of, weight, cosine, sine, scale);
    x.turn(a.head_dim, a.eps);
    x.each(of, [&](int32_t i, float entry) {
        if (weight || cosine) head[i] = entry;
        if (kept) store_entry(cache, a.cache.type, at + i, entry);
    });
}

cudaError_t spc_cuda_rope(const spc_rope_args *a, cudaStream_t stream)
{
    const int64_t heads = a->heads + 2 * (int64_t)a->kv_heads;

    if (!a->qkv || !a->position || a->heads < 0 || a->kv_heads < 1 || a->rows < 1 ||
        a->head_dim < 2 || a->head_dim > SPC_ATTEND_HEAD_DIM || a->head_dim % 2 != 0 ||
        a->width < heads * a->head_dim || !a->query_weight != !a->key_weight ||
        !a->cosine != !a->sine || (a->query_scale && !a->cosine) || a->pairs < 0 ||
        a->pairs > a->head_dim / 2 || !a->cache.key != !a->cache.value ||
        (a->cache.key && (!a->slot || !is_cache(&a->cache)))) {
        return cudaErrorInvalidValue;
    }
    return launch_op(rope_kernel, (heads * a->rows + OPS_WARPS - 1) / OPS_WARPS, *a, stream,
                     a->early);
}
