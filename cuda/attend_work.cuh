/* SPDX-License-Identifier: Apache-2.0 */
/* attend_work.cuh - what the kernels of attention share: their work, which keys a row sees, how
 * leaves join. */
#ifndef SPC_CUDA_ATTEND_WORK_CUH
#define SPC_CUDA_ATTEND_WORK_CUH

#include "ops.h"

#include "attention.cuh"
#include "ops.cuh"

enum {
    TICKETS = 256,  /* of blocks that join leaves, 0 between launches */
    MERGE_ONCE = 16 /* leaves, to be joined */
};

/* Strips of queries that share keys, as many as shared memory of 48 KB has room for where each has
 * a warp that walks. */
static __host__ __device__ constexpr int32_t tile_strips(int32_t head_dim)
{
    return head_dim <= 64 ? 4 : head_dim <= 128 ? 2 : 1;
}

/* Parts of a head's columns, a warp each. */
static __host__ __device__ constexpr int32_t parts_of(int32_t head_dim)
{
    return head_dim / columns_of(head_dim);
}

/* What the kernels need beside the arguments. */
typedef struct {
    spc_attend_args a;
    spc_rope_args rope; /* what is to be done along; qkv NULL: nothing */
    int32_t keys;       /* of a leaf */
    int32_t leaves;     /* of the longest row */
    int32_t groups;     /* of heads, where more share a head of keys than a tile has queries */
    int32_t strips;     /* of a tile, at most */
    /* of leaves that blocks share: */
    int32_t together; /* a block has so many of every strip */
    int32_t shares;   /* blocks of the longest row, each with the next `together` */
    int32_t joins;    /* 1: the last block of a tile's to come joins them; 0: merge_kernel does */
    uint32_t *ticket; /* [TICKETS] */
    float *mixed;     /* [rows, heads, leaves, head_dim] values by exponentials */
    float *stats;     /* [rows, heads, leaves, 2] largest score, sum of exponentials */
} attend_work;

/* Rows of a tile, at most, of so many in so many tiles: the other tiles have one. */
static inline int32_t rows_of_tile(const spc_attend_args &a)
{
    const int32_t rows = spc_cuda_attend_tile_rows(a.heads, a.kv_heads, a.head_dim);

    return rows < a.rows - a.tiles + 1 ? rows : a.rows - a.tiles + 1;
}

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

/* The digits of an index, the lowest first. */
static __device__ __forceinline__ int32_t take(int32_t *index, int32_t count)
{
    const int32_t digit = *index % count;

    *index /= count;
    return digit;
}

#endif
