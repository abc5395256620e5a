/* SPDX-License-Identifier: Apache-2.0 */
/* linear_tile.cuh - what the linear kernels on tensor cores share: which tile holds which outputs,
 * the factors of a product, what becomes of sums. */
#ifndef SPC_CUDA_LINEAR_TILE_CUH
#define SPC_CUDA_LINEAR_TILE_CUH

#include "ops.h"

#include "split.cuh"

enum {
    COLUMNS = 8,                 /* rows of activations of a product */
    VECTORS = 4,                 /* of 8 weights, that the lanes of a row load at once */
    TILE_ROWS = SPC_LINEAR_STRIP /* of a launch */
};

typedef struct {
    spc_linear_args a;
    spc_linear_more more;
    int32_t pieces; /* blocks that share the columns of their outputs */
} tile_work;

typedef struct {
    int32_t part;  /* parts: there is no such tile */
    int32_t first; /* its first output of the part */
    int32_t at;    /* outputs of the parts before */
} tile_place;

/* Tiles go part by part; gates and what they open by turns, so that a block has both. */
static __device__ __forceinline__ tile_place place_of(const tile_work &w, int32_t tile)
{
    tile_place at = {0, 0, 0};

    if (w.more.gate) {
        at.part = tile / 2 * TILE < w.a.part[0].rows ? tile % 2 : w.a.parts;
        at.first = tile / 2 * TILE;
        return at;
    }
    for (; at.part < w.a.parts; at.part++) {
        const int32_t tiles = (w.a.part[at.part].rows + TILE - 1) / TILE;

        if (tile < tiles) break;
        tile -= tiles;
        at.at += w.a.part[at.part].rows;
    }
    at.first = tile * TILE;
    return at;
}

/* ---- the factors of a product ----------------------------------------------------------------
 *
 * Of the 8 weights and activations that a lane holds, a product takes ONCE. */

/* The same bits, of which ptxas does not know that they are.  Registers of a load of 16 bytes stand
 * side by side, those of a factor too, in another order: what goes from one to the other must be
 * moved, and left alone it is moved for every product anew. */
static __device__ __forceinline__ uint32_t moved_once(uint32_t bits)
{
#ifdef __CUDA_ARCH__
    return bits * gridDim.y; /* 1: grids have one dimension */
#else
    return bits;
#endif
}

/* Activations of bf16 weights: three parts that add up to them, as pairs. */
struct tile_bf16 {
    typedef weights_bf16 weights;
    enum { PARTS = 3, ONCE = 4, TILES_MOST = 4 };
    uint32_t part[PARTS][2];

    __device__ __forceinline__ void split(float *x)
    {
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float taken[2];

                part[p][i] = bf16_pair(x[2 * i], x[2 * i + 1]);
                weights_bf16::pair(part[p][i], taken);
                x[2 * i] -= taken[0];
                x[2 * i + 1] -= taken[1];
            }
        }
    }

    /* Weights of outputs g and g + 8, as products take them.
     *
     * LOADED   into these very registers: they are moved once, for all products */
    struct outputs {
        uint32_t pair[2][4];

        template <bool LOADED> __device__ __forceinline__ void take(uint4 upper, uint4 lower)
        {
            const uint32_t all[2][4] = {{upper.x, lower.x, upper.y, lower.y},
                                        {upper.z, lower.z, upper.w, lower.w}};

#pragma unroll
            for (int i = 0; i < 8; i++) {
                pair[i / 4][i % 4] = LOADED ? moved_once(all[i / 4][i % 4]) : all[i / 4][i % 4];
            }
        }
    };

    __device__ __forceinline__ void multiply(float *sum, const outputs &a, int step) const
    {
#pragma unroll
        for (int p = PARTS - 1; p >= 0; p--) mma_16x8x16(sum, a.pair[step], part[p]);
    }
};

/* The same of fp16 weights, in floats of 19 bits: halves would overflow where activations do not.
 */
struct tile_f16 {
    typedef weights_f16 weights;
    enum { PARTS = 2, ONCE = 2, TILES_MOST = 2 /* 4 would not fit into registers */ };
    uint32_t part[PARTS][2];

    __device__ __forceinline__ void split(const float *x)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            part[0][i] = tf32_bits(x[i]);
            part[1][i] = tf32_bits(x[i] - spc_bits_float(part[0][i]));
        }
    }

    struct outputs {
        uint4 upper, lower;

        template <bool> __device__ __forceinline__ void take(uint4 first, uint4 second)
        {
            upper = first;
            lower = second;
        }
    };

    __device__ __forceinline__ void multiply(float *sum, const outputs &of, int step) const
    {
        const uint32_t up = step == 0   ? of.upper.x
                            : step == 1 ? of.upper.y
                            : step == 2 ? of.upper.z
                                        : of.upper.w;
        const uint32_t low = step == 0   ? of.lower.x
                             : step == 1 ? of.lower.y
                             : step == 2 ? of.lower.z
                                         : of.lower.w;
        float weight[4];

        weights_f16::pair(up, weight);
        weights_f16::pair(low, weight + 2);

        const uint32_t a[4] = {spc_float_bits(weight[0]), spc_float_bits(weight[2]),
                               spc_float_bits(weight[1]), spc_float_bits(weight[3])};

#pragma unroll
        for (int p = PARTS - 1; p >= 0; p--) mma_16x8x8(sum, a, part[p]);
    }
};

/* From sums to results, of rows first, first + 1, ... below `end` as far as they are there: one
 * thread for each output and row. */
template <int TILES, typename Sums>
static __device__ __forceinline__ void finish(const Sums &s, const tile_work &w, int32_t group,
                                              int32_t first, int32_t end)
{
    enum { OUTS = TILES * TILE };
    const spc_linear_args &a = w.a;

    if (end > a.rows) end = a.rows;
    for (int i = OUTS * first + (int)threadIdx.x; i < OUTS * end; i += OPS_THREADS) {
        const int row = i / OUTS, o = i % OUTS;
        const tile_place at = place_of(w, group * TILES + o / TILE);
        const int32_t out = at.first + o % TILE;

        if (at.part == a.parts || out >= a.part[at.part].rows) continue;
        if (w.more.gate && at.part == 1) continue;

        const int64_t to = (int64_t)(a.target ? a.target[row] : row) * a.width + at.at + out;
        float scale = 1.0f; /* what norm.cu multiplies a row by */

        if (w.more.norm) {
            scale = 1.0f / sqrtf(s.square_of(row) / (float)a.part[0].cols + w.more.eps);
        }

        float x = s.sum_of(o, row) * scale;

        if (a.bias[at.part]) x += a.bias[at.part][out];
        if (w.more.gate) { /* what it opens is in the next tile */
            float up = s.sum_of(o + TILE, row) * scale;

            if (a.bias[1]) up += a.bias[1][out];
            x = glu_gate(w.more.glu, x) * up;
        }
        if (a.cap > 0.0f) x = bounded(x, a.cap);
        if (w.more.add) x += w.more.add[to];
        a.out[to] = x;
    }
}

/* What a block's warps leave each other. */
template <int TILES, int STRIPS> struct tile_shared {
    enum { SUMS = TILES * STRIPS * 4 };
    float sum[OPS_WARPS][SUMS][OPS_LANES + 1]; /* + 1: fewer outputs of a warp share a bank */
    float square[OPS_WARPS][STRIPS * COLUMNS];

    /* The sum of all warps for output o of the block's tiles and row r. */
    __device__ __forceinline__ float sum_of(int o, int r) const
    {
        const int lane = o % 8 * 4 + r % 8 / 2;
        const int i = (o / TILE * STRIPS + r / COLUMNS) * 4 + o % TILE / 8 * 2 + r % 2;
        float all = 0.0f;

        for (int warp = 0; warp < OPS_WARPS; warp++) all += sum[warp][i][lane];
        return all;
    }

    /* The same of the squares of row r. */
    __device__ __forceinline__ float square_of(int r) const
    {
        float all = 0.0f;

        for (int warp = 0; warp < OPS_WARPS; warp++) all += square[warp][r];
        return all;
    }
};

/* What the blocks that share columns leave each other: the same, already summed over warps. */
template <int TILES> struct tile_left {
    enum { OUTS = TILES * TILE, SQUARES = OUTS * TILE_ROWS, FLOATS = SQUARES + TILE_ROWS };
    const float *left; /* of the first block, FLOATS of each behind it */
    int32_t pieces;

    __device__ __forceinline__ float add(int i) const
    {
        float all = 0.0f;

        for (int p = 0; p < pieces; p++) all += left[p * FLOATS + i];
        return all;
    }

    __device__ __forceinline__ float sum_of(int o, int r) const
    {
        return add(r * OUTS + o);
    }

    __device__ __forceinline__ float square_of(int r) const
    {
        return add(SQUARES + r);
    }
};

template <int TILES, int STRIPS>
static __device__ __forceinline__ void leave(const tile_shared<TILES, STRIPS> &s,
                                             const tile_work &w)
{
    typedef tile_left<TILES> layout;
    float *to = left_by(w.a, (int32_t)blockIdx.x, layout::FLOATS);

    for (int i = threadIdx.x; i < layout::OUTS * w.a.rows; i += OPS_THREADS) {
        to[i] = s.sum_of(i % layout::OUTS, i / layout::OUTS);
    }
    if (w.more.norm && threadIdx.x < (unsigned)w.a.rows) {
        to[layout::SQUARES + threadIdx.x] = s.square_of(threadIdx.x);
    }
}

/* Sums of a block's warps to their places. */
template <int TILES, int STRIPS>
static __device__ __forceinline__ void finish_block(const tile_shared<TILES, STRIPS> &shared,
                                                    const tile_work &w)
{
    const int32_t group = (int32_t)blockIdx.x / w.pieces;

    __syncthreads();
    if (w.pieces == 1) {
        finish<TILES>(shared, w, group, 0, w.a.rows);
        return;
    }
    leave(shared, w);
    if (is_last_piece(w.a, group, w.pieces)) {
        const tile_left<TILES> all = {left_by(w.a, group * w.pieces, tile_left<TILES>::FLOATS),
                                      w.pieces};

        finish<TILES>(all, w, group, 0, w.a.rows);
    }
}

#endif
