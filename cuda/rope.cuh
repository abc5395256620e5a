/* SPDX-License-Identifier: Apache-2.0 */
/* rope.cuh - a head on its way to attention: norm, rotation by position, entries of the cache.
 *
 * A warp per head; a lane holds entries i and i + head_dim / 2, which turn together. */
#ifndef SPC_CUDA_ROPE_CUH
#define SPC_CUDA_ROPE_CUH

#include "ops.h"

#include "ops.cuh"

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

/* A head of up to 64 PAIRS entries, of which this lane has those from lane on, 32 apart, and the
 * partners of these.  All loads come before anything waits for one: first `load` for as many heads
 * as a warp has, then `turn`. */
template <int PAIRS> struct rope_head {
    float x[PAIRS], y[PAIRS]; /* entries i and half + i; 0 where there are none */
    float cosine[PAIRS], sine[PAIRS], x_weight[PAIRS], y_weight[PAIRS];
    bool normed, turned;

    /* The lane's p-th entry; its partner is so many further. */
    static __device__ __forceinline__ int32_t entry(int p)
    {
        return (int32_t)threadIdx.x % OPS_LANES + p * OPS_LANES;
    }

    static __device__ __forceinline__ int32_t half_of(int32_t head_dim)
    {
        return (head_dim + 1) / 2; /* an odd head, which does not turn, has an entry alone */
    }

    /* head     NULL: zeros
     * weight   of the norm; NULL: none
     * angles   of rotation, cosines and sines of the position; NULL: none */
    __device__ __forceinline__ void load(const float *head, int32_t head_dim, const float *weight,
                                         const float *cosines, const float *sines)
    {
        const int32_t half = half_of(head_dim);

        normed = weight;
        turned = cosines;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const int32_t i = entry(p);
            const bool there = head && i < half, paired = head && i + half < head_dim;

            x[p] = there ? head[i] : 0.0f;
            y[p] = paired ? head[i + half] : 0.0f;
            cosine[p] = there && turned ? cosines[i] : 1.0f;
            sine[p] = there && turned ? sines[i] : 0.0f;
            x_weight[p] = there && normed ? weight[i] : 0.0f;
            y_weight[p] = paired && normed ? weight[i + half] : 0.0f;
        }
    }

    __device__ __forceinline__ void turn(int32_t head_dim, float eps)
    {
        if (normed) {
            float square = 0.0f, scale;

#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                square = fmaf(x[p], x[p], square);
                square = fmaf(y[p], y[p], square);
            }
            scale = 1.0f / sqrtf(warp_sum(square) / (float)head_dim + eps);
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                x[p] = x[p] * scale * x_weight[p];
                y[p] = y[p] * scale * y_weight[p];
            }
        }
        if (!turned) return;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const float first = x[p] * cosine[p] - y[p] * sine[p];

            y[p] = y[p] * cosine[p] + x[p] * sine[p];
            x[p] = first;
        }
    }

    /* put(i, x) for every entry of the lane. */
    template <typename Put>
    __device__ __forceinline__ void each(int32_t head_dim, const Put &put) const
    {
        const int32_t half = half_of(head_dim);

#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const int32_t i = entry(p);

            if (i < half) put(i, x[p]);
            if (i + half < head_dim) put(i + half, y[p]);
        }
    }
};

#endif
