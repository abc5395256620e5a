/* SPDX-License-Identifier: Apache-2.0 */
/* rope.cu - what happens to queries, keys and values before attention, in one launch: norm of each
 * head, rotation by position, keys and values into the cache.
 *
 * A warp per row and head; a lane holds entries i and i + head_dim / 2, which turn together. */
#include "ops.h"

#include "ops.cuh"

/* Norm of a head, in place; lanes take what they will rotate, so that nothing need be awaited. */
static __device__ void norm_head(float *head, const float *weight, int32_t head_dim, float eps,
                                 int lane)
{
    const int half = head_dim / 2;
    float square = 0.0f;

    for (int i = lane; i < half; i += OPS_LANES) {
        square = fmaf(head[i], head[i], square);
        square = fmaf(head[i + half], head[i + half], square);
    }

    const float scale = 1.0f / sqrtf(warp_sum(square) / (float)head_dim + eps);

    for (int i = lane; i < half; i += OPS_LANES) {
        head[i] = head[i] * scale * weight[i];
        head[i + half] = head[i + half] * scale * weight[i + half];
    }
}

static __device__ void rotate_head(float *head, const float *cosine, const float *sine,
                                   int32_t head_dim, int lane)
{
    const int half = head_dim / 2;

    for (int i = lane; i < half; i += OPS_LANES) {
        float x = head[i], y = head[i + half];

        head[i] = x * cosine[i] - y * sine[i];
        head[i + half] = y * cosine[i] + x * sine[i];
    }
}

/* An entry of the cache, rounded as host/kv.c rounds it. */
static __device__ __forceinline__ void store_entry(void *cache, spc_weight_type type, int64_t at,
                                                   float x)
{
    if (type == SPC_WEIGHT_F32) {
        ((float *)cache)[at] = x;
    } else {
        ((uint16_t *)cache)[at] = type == SPC_WEIGHT_BF16 ? spc_float_bf16(x) : spc_float_half(x);
    }
}

static __global__ void __launch_bounds__(OPS_THREADS)
    rope_kernel(const __grid_constant__ spc_rope_args a)
{
    const int lane = threadIdx.x % OPS_LANES, heads = a.heads + 2 * a.kv_heads;
    const int64_t item = (int64_t)blockIdx.x * OPS_WARPS + threadIdx.x / OPS_LANES;
    const int64_t row = item / heads;
    const int h = (int)(item % heads), half = a.head_dim / 2;

    begin_behind_previous();
    if (row >= a.rows) return;

    /* queries stand before the keys and values that a row ends with */
    float *head = a.qkv + (row + 1) * a.width + (int64_t)(h - heads) * a.head_dim;
    const int32_t position = a.position[row];
    const float *weight = h < a.heads ? a.query_weight : a.key_weight;

    if (h < a.heads + a.kv_heads) {
        if (weight) norm_head(head, weight, a.head_dim, a.eps, lane);
        if (a.cosine) {
            rotate_head(head, a.cosine + (int64_t)position * half,
                        a.sine + (int64_t)position * half, a.head_dim, lane);
        }
    }
    if (h < a.heads || !a.cache.key) return;

    const bool is_key = h < a.heads + a.kv_heads;
    void *cache = is_key ? a.cache.key : a.cache.value;
    const int64_t at =
        page_row(a.cache, a.slot[row], (h - a.heads) % a.kv_heads, position, a.head_dim);

    for (int i = lane; i < half; i += OPS_LANES) {
        store_entry(cache, a.cache.type, at + i, head[i]);
        store_entry(cache, a.cache.type, at + i + half, head[i + half]);
    }
}

cudaError_t spc_cuda_rope(const spc_rope_args *a, cudaStream_t stream)
{
    const int64_t heads = a->heads + 2 * (int64_t)a->kv_heads;

    if (!a->qkv || !a->position || a->heads < 0 || a->kv_heads < 1 || a->rows < 1 ||
        a->head_dim < 2 || a->head_dim % 2 != 0 || a->width < heads * a->head_dim ||
        !a->query_weight != !a->key_weight || !a->cosine != !a->sine ||
        !a->cache.key != !a->cache.value || (a->cache.key && (!a->slot || !is_cache(&a->cache)))) {
        return cudaErrorInvalidValue;
    }
    return launch_op(rope_kernel, (heads * a->rows + OPS_WARPS - 1) / OPS_WARPS, *a, stream,
                     a->early);
}
