/* SPDX-License-Identifier: Apache-2.0 */
/* rope.cuh - a head on its way to attention: norm, rotation by position, entries of the cache.
 *
 * A warp per head; a lane holds entries that turn together: i and i + pairs, and of a head of which
 * a part turns others that do not. */
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

/* A head's entries, in twos. */
struct rope_pairs {
    int32_t head_dim, half;
    int32_t pairs; /* that turn */

    __device__ __forceinline__ rope_pairs(int32_t dim, int32_t turning)
        : head_dim(dim), half((dim + 1) / 2), /* an odd head, which does not turn, has one alone */
          pairs(turning > 0 ? turning : half)
    {
    }

    /* The i-th two, of half: where entries turn, i and i + pairs, else what is left in order. */
    __device__ __forceinline__ int32_t first(int32_t i) const
    {
        return i < pairs ? i : i + pairs;
    }

    __device__ __forceinline__ int32_t second(int32_t i) const
    {
        return i < pairs ? i + pairs : i + half;
    }
};

/* A head of up to 64 PAIRS entries, of which this lane has the twos from lane on, 32 apart.  All
 * loads come before anything waits for one: first `load` for as many heads as a warp has, then
 * `turn`. */
template <int PAIRS> struct rope_head {
    float x[PAIRS], y[PAIRS]; /* 0 where there are none */
    float cosine[PAIRS], sine[PAIRS], x_weight[PAIRS], y_weight[PAIRS];
    float scale; /* of what is turned */
    bool normed, turned, scaled;

    /* The lane's p-th two. */
    static __device__ __forceinline__ int32_t two(int p)
    {
        return (int32_t)threadIdx.x % OPS_LANES + p * OPS_LANES;
    }

    /* head     NULL: zeros
     * weight   of the norm; NULL: none
     * angles   of rotation, cosines and sines of the position; NULL: none
     * factor   of what is turned; NULL: none */
    __device__ __forceinline__ void load(const float *head, rope_pairs of, const float *weight,
                                         const float *cosines, const float *sines,
                                         const float *factor)
    {
        normed = weight;
        turned = cosines;
        scaled = factor;
        scale = scaled ? *factor : 1.0f;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const int32_t i = two(p), first = of.first(i), second = of.second(i);
            const bool there = head && i < of.half, paired = head && i + of.half < of.head_dim;
            const bool turns = there && turned && i < of.pairs;

            x[p] = there ? head[first] : 0.0f;
            y[p] = paired ? head[second] : 0.0f;
            cosine[p] = turns ? cosines[i] : 1.0f;
            sine[p] = turns ? sines[i] : 0.0f;
            x_weight[p] = there && normed ? weight[first] : 0.0f;
            y_weight[p] = paired && normed ? weight[second] : 0.0f;
        }
    }

    __device__ __forceinline__ void turn(int32_t head_dim, float eps)
    {
        if (normed) {
            float square = 0.0f, whole;

#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                square = fmaf(x[p], x[p], square);
                square = fmaf(y[p], y[p], square);
            }
            whole = 1.0f / sqrtf(warp_sum(square) / (float)head_dim + eps);
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                x[p] = x[p] * whole * x_weight[p];
                y[p] = y[p] * whole * y_weight[p];
            }
        }
        if (!turned) return;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const float first = x[p] * cosine[p] - y[p] * sine[p];

            y[p] = y[p] * cosine[p] + x[p] * sine[p];
            x[p] = first;
        }
        if (!scaled) return;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            x[p] *= scale;
            y[p] *= scale;
        }
    }

    /* put(i, x) for every entry of the lane. */
    template <typename Put>
    __device__ __forceinline__ void each(rope_pairs of, const Put &put) const
    {
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const int32_t i = two(p);

            if (i < of.half) put(of.first(i), x[p]);
            if (i + of.half < of.head_dim) put(of.second(i), y[p]);
        }
    }
};

#endif
