/* SPDX-License-Identifier: Apache-2.0 */
/* rope.cu - what happens to queries, keys and values before attention, in one launch: norm of each
 * head, rotation by position, keys and values into the cache.
 *
 * A warp per row and head; a lane holds entries i and i + head_dim / 2, which turn together. */
#include "ops.h"

#include "ops.cuh"

enum { PAIRS = 4 }; /* of a lane, on their way together */

/* What the norm of a head multiplies it by. */
static __device__ float norm_of(const float *head, int32_t head_dim, float eps, int lane)
{
    const int half = head_dim / 2;
    float square = 0.0f;

    for (int i = lane; i < half; i += OPS_LANES) {
        square = fmaf(head[i], head[i], square);
        square = fmaf(head[i + half], head[i + half], square);
    }
    return 1.0f / sqrtf(warp_sum(square) / (float)head_dim + eps);
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
    const bool is_value = h >= a.heads + a.kv_heads, kept = h >= a.heads && a.cache.key;
    const int32_t position = a.position[row], slot = kept ? a.slot[row] : 0;
    const int32_t page = kept ? page_of(a.cache, slot, position) : 0;
    const float *weight = is_value ? NULL : h < a.heads ? a.query_weight : a.key_weight;
    const float *cosine = is_value || !a.cosine ? NULL : a.cosine + (int64_t)position * half;
    const float *sine = cosine ? a.sine + (int64_t)position * half : NULL;
    void *cache = is_value ? a.cache.value : a.cache.key;
    float scale = 1.0f;

    if (weight) scale = norm_of(head, a.head_dim, a.eps, lane);
    for (int first = lane; first < half; first += PAIRS * OPS_LANES) {
        float x[PAIRS], y[PAIRS], c[PAIRS], s[PAIRS];

#pragma unroll
        for (int p = 0; p < PAIRS; p++) { /* all loads before anything waits for one, or stores */
            const int i = first + p * OPS_LANES;
            const bool there = i < half;

            x[p] = there ? head[i] : 0.0f;
            y[p] = there ? head[i + half] : 0.0f;
            c[p] = there && cosine ? cosine[i] : 1.0f;
            s[p] = there && cosine ? sine[i] : 0.0f;
        }
        if (weight) {
            float w[PAIRS], v[PAIRS];

#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                const int i = first + p * OPS_LANES;

                w[p] = i < half ? weight[i] : 0.0f;
                v[p] = i < half ? weight[i + half] : 0.0f;
            }
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                x[p] = x[p] * scale * w[p];
                y[p] = y[p] * scale * v[p];
            }
        }
        if (cosine) {
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                const float turned = x[p] * c[p] - y[p] * s[p];

                y[p] = y[p] * c[p] + x[p] * s[p];
                x[p] = turned;
            }
        }

        const int64_t at = row_in(a.cache, page, (h - a.heads) % a.kv_heads, position, a.head_dim);

#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const int i = first + p * OPS_LANES;

            if (i >= half) break;
            if (weight || cosine) {
                head[i] = x[p];
                head[i + half] = y[p];
            }
            if (kept) {
                store_entry(cache, a.cache.type, at + i, x[p]);
                store_entry(cache, a.cache.type, at + i + half, y[p]);
            }
        }
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
