/* SPDX-License-Identifier: Apache-2.0 */
/* split.cuh - columns of a linear op shared by several blocks.
 *
 * A matrix of few outputs and many columns has too few blocks to keep all multiprocessors busy.
 * Then `pieces` blocks share the columns of the same outputs: each leaves its sums in scratch
 * memory, and the last to come adds those of all, in the order of the pieces.  Which block that is
 * depends on the clock, what it adds does not. */
#ifndef SPC_CUDA_SPLIT_CUH
#define SPC_CUDA_SPLIT_CUH

#include "fence.cuh"
#include "ops.cuh"

enum {
    TILE = 16,            /* outputs of a tile */
    TILE_VECTORS = 16,    /* of 8 weights, that a warp of linear_tile.cu takes of a row at a time */
    SPLIT_BLOCKS = 1024,  /* most tiles times pieces, where there are several pieces */
    SPLIT_SUMS = 16 * 16, /* of a tile, for 16 rows */
    SPLIT_SQUARES = 16,   /* of a block: for the norm of each row */
    SPLIT_TICKETS = SPLIT_BLOCKS * 4, /* linear_row.cu has up to four blocks for a tile */
    SPLIT_FLOATS = (SPLIT_BLOCKS + 32) * (SPLIT_SUMS + SPLIT_SQUARES) /* blocks may be padded */
};

/* Tiles of all parts. */
static __host__ __device__ __forceinline__ int32_t tiles_of(const spc_linear_args &a)
{
    int32_t tiles = 0;

    for (int p = 0; p < a.parts; p++) tiles += (a.part[p].rows + TILE - 1) / TILE;
    return tiles;
}

/* Blocks that share the columns of an output; its warps are 8 at most. */
static inline int32_t pieces_of(const spc_linear_way &way)
{
    return way.slices > OPS_WARPS ? way.slices / OPS_WARPS : 1;
}

/* Can the launcher of a kernel do this? */
static inline bool can_go(const spc_linear_args &a, const spc_linear_way &way,
                          spc_linear_kernel kernel)
{
    return way.kernel == kernel && spc_cuda_linear_can(&a, &way) &&
           (a.scratch || pieces_of(way) == 1);
}

/* Scratch: tickets, one for each group of blocks that share columns, 0 between launches; behind
 * them what the blocks leave, `floats` each. */
static __device__ __forceinline__ float *left_by(const spc_linear_args &a, int32_t block,
                                                 int32_t floats)
{
    return (float *)a.scratch + SPLIT_TICKETS + (int64_t)block * floats;
}

/* Is this block the last of its group to come here?  Then all threads may read what the others
 * left.  Called by all threads of a block. */
static __device__ __forceinline__ bool is_last_piece(const spc_linear_args &a, int32_t group,
                                                     int32_t pieces)
{
    return is_last_block((uint32_t *)a.scratch + group, pieces);
}

#endif
