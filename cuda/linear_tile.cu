/* SPDX-License-Identifier: Apache-2.0 */
/* linear_tile.cu - up to 16 rows times matrices of 16-bit weights on tensor cores, so that 16 rows
 * take as long as the weights' way through memory, as one does.
 *
 * Weights are the factor of 16 rows, activations that of 8 columns: one such product for up to 8
 * rows, two for up to 16.  Nothing is moved about to get there: a lane loads 16 bytes of weights
 * and the same 8 columns of its row of activations, and the order of columns within a product is
 * what the lanes happen to hold, alike in both factors.
 *
 * A block takes 1, 2 or 4 tiles of 16 outputs, and its 8 warps share the columns, 128 at a time;
 * their sums meet in shared memory in the order of the warps, those of several blocks in scratch
 * memory (split.cuh).  More tiles read the activations less often (they come from L2), fewer make
 * more blocks; sums are the same to the bit.  How many warps share the columns depends on the
 * matrices alone, and columns of a product do not meet: a row has the same bits whatever runs
 * beside it.
 *
 * Precision.  Activations are float32 and stay so: with bf16 weights each is the sum of three
 * bf16, exactly (from 2^-109 on; above 3.38e38 it becomes infinite); with fp16 weights both are
 * floats of 11 bits, two of which keep 22 bits of an activation, to 2^-23.  Products are
 * exact and sums float32: a result is within 2^-20 of the sum of its products' sizes, up to 16384
 * columns, where sums are rounded to nearest.  Tensor cores may cut them off instead: then each of
 * a warp's additions, 3 for every 128 columns, can lose 2^-22 of the sum so far.
 *
 * In flight are 8 loads of 16 bytes per thread, 32 KB per block, of which a multiprocessor holds
 * two, and beside them the activations that they meet: what these are is known to the kernel
 * (tile_kind), for between branches the compiler moves no load.  For 16 bytes of weights a warp has
 * 24 to 101 instructions, where an H100's memory leaves time for 137; counted, not timed: no GPU
 * has run it. */
#include "ops.h"

#include "linear_tile.cuh"
#include "linear_tile_quant.cuh"
#include "linear_wide.cuh"
#include "split.cuh"

enum {
    STAGE = TILE_VECTORS / VECTORS /* tiles times steps whose weights a warp has under way */
};

/* ---- the kernel ------------------------------------------------------------------------------ */

/* The weights of a stage: of the steps from vector v on. */
template <int STEPS, int TILES>
static __device__ __forceinline__ void
load_stage(uint4 (&raw)[STEPS][TILES][2], const uint4 *const *weights, const int32_t *further,
           int32_t v, int32_t vectors)
{
    const uint4 none = {0, 0, 0, 0};

#pragma unroll
    for (int s = 0; s < STEPS; s++, v += VECTORS) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            raw[s][i][0] = v < vectors ? __ldcs(weights[i] + v) : none;
            raw[s][i][1] = v < vectors ? __ldcs(weights[i] + v + further[i]) : none;
        }
    }
}

/* What a kernel knows of its rows: that 16 bytes of them can be loaded at a time, and whether they
 * are to be normed; RAGGED: nothing. */
enum tile_kind { PLAIN, NORMED, RAGGED };

/* Activations of a step and a strip, as they come. */
template <int COUNT, tile_kind KIND> struct tile_part {
    float x[COUNT], norm[COUNT];

    static __device__ __forceinline__ bool normed(const tile_work &w)
    {
        return KIND == NORMED || (KIND == RAGGED && w.more.norm);
    }

    __device__ __forceinline__ void load(const tile_work &w, const float *row, int32_t v,
                                         int32_t vectors)
    {
        enum { WHOLE = KIND != RAGGED };
        const int32_t cols = w.a.part[0].cols;

#pragma unroll
        for (int i = 0; i < COUNT; i++) x[i] = norm[i] = 0.0f;
        if (v >= vectors) return;
        load_columns<COUNT, WHOLE>(row, v * COUNT, cols, x);
        if (normed(w)) load_columns<COUNT, WHOLE>(w.more.norm, v * COUNT, cols, norm);
    }
};

template <typename T, int TILES, int STRIPS, tile_kind KIND>
static __global__ void __launch_bounds__(OPS_THREADS, 2)
    linear_tile_kernel(const __grid_constant__ tile_work w)
{
    enum { STEPS = STAGE / TILES, COUNT = T::weights::COUNT };
    enum { UNITS = STEPS * STRIPS }; /* parts of a stage's activations */
    enum { AHEAD = STRIPS == 1 ? (int)UNITS : TILES == 1 ? 1 : 0 }; /* as registers allow */
    static __shared__ tile_shared<TILES, STRIPS> shared;
    const spc_linear_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    const int g = lane / VECTORS, t = lane % VECTORS;
    const int32_t group = (int32_t)blockIdx.x / w.pieces, piece = (int32_t)blockIdx.x % w.pieces;
    const int32_t share = (piece * OPS_WARPS + warp) * TILE_VECTORS + t;
    const int32_t vectors = a.part[0].stride / COUNT;
    const uint4 *weights[TILES]; /* of output g; of output g + 8 so much further */
    const float *row[STRIPS];
    int32_t further[TILES];
    float sum[TILES][STRIPS][4], square[STRIPS];
    uint4 raw[STEPS][TILES][2];

    let_next_begin();
#pragma unroll
    for (int i = 0; i < TILES; i++) { /* outputs that are not there repeat others, are dropped */
        const tile_place at = place_of(w, group * TILES + i);
        const spc_cuda_matrix &m = a.part[at.part < a.parts ? at.part : 0];
        const int32_t upper = at.first + g < m.rows ? at.first + g : m.rows - 1;
        const int32_t lower = at.first + g + 8 < m.rows ? at.first + g + 8 : m.rows - 1;

        weights[i] = (const uint4 *)m.data + (int64_t)upper * vectors;
        further[i] = (lower - upper) * vectors;
    }
    load_stage<STEPS, TILES>(raw, weights, further, share, vectors);
    await_previous();
#pragma unroll
    for (int n = 0; n < STRIPS; n++) { /* so do rows */
        const int32_t r = n * COLUMNS + g < a.rows ? n * COLUMNS + g : a.rows - 1;

        row[n] = a.in + (int64_t)r * a.part[0].cols;
        square[n] = 0.0f;
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) sum[i / 4][n][i % 4] = 0.0f;
    }
    /* a share is TILES times STEPS steps: sums have the same order with any number of tiles */
    for (int32_t i = 0, first = share; first - t < vectors;) {
        tile_part<COUNT, KIND> part[UNITS];
        typename T::outputs weight[TILES];

        /* on their way beside the weights, or while others are multiplied */
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            part[u].load(w, row[u % STRIPS], first + u / STRIPS * VECTORS, vectors);
        }
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            const int s = u / STRIPS, n = u % STRIPS, later = u + AHEAD;
            float(&x)[COUNT] = part[u].x;

            if (later < UNITS) {
                part[later].load(w, row[later % STRIPS], first + later / STRIPS * VECTORS, vectors);
            }
            __syncwarp(); /* a product is of all lanes; some went another way to get here */
            if (n == 0) {
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    weight[i].template take<true>(raw[s][i][0], raw[s][i][1]);
                }
            }
            if (part[u].normed(w)) {
#pragma unroll
                for (int i = 0; i < COUNT; i++) {
                    square[n] = fmaf(x[i], x[i], square[n]);
                    x[i] *= part[u].norm[i];
                }
            }
#pragma unroll
            for (int k = 0; k < COUNT / T::ONCE; k++) {
                T factor;

                factor.split(x + k * T::ONCE);
#pragma unroll
                for (int i = 0; i < TILES; i++) factor.multiply(sum[i][n], weight[i], k);
            }
        }
        i++;
        first = share + i / TILES * (w.pieces * OPS_WARPS * TILE_VECTORS) +
                i % TILES * (STEPS * VECTORS);
        load_stage<STEPS, TILES>(raw, weights, further, first, vectors);
    }
#pragma unroll
    for (int n = 0; n < STRIPS; n++) {
        square[n] += __shfl_xor_sync(0xffffffffu, square[n], 1);
        square[n] += __shfl_xor_sync(0xffffffffu, square[n], 2);
        if (t == 0) shared.square[warp][n * COLUMNS + g] = square[n];
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) {
            shared.sum[warp][(i / 4 * STRIPS + n) * 4 + i % 4][lane] = sum[i / 4][n][i % 4];
        }
    }
    finish_block(shared, w);
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <typename T, int TILES, tile_kind KIND>
static cudaError_t launch_tiles(const tile_work &w, cudaStream_t stream)
{
    const int64_t blocks = (int64_t)(tiles_of(w.a) + TILES - 1) / TILES * w.pieces;

    if (w.a.rows <= COLUMNS)
        return launch_op(linear_tile_kernel<T, TILES, 1, KIND>, blocks, w, stream, w.a.early);
    return launch_op(linear_tile_kernel<T, TILES, 2, KIND>, blocks, w, stream, w.a.early);
}

template <typename T, tile_kind KIND>
static cudaError_t launch_kind(const tile_work &w, int32_t tiles, cudaStream_t stream)
{
    if constexpr (T::TILES_MOST == 4) {
        if (tiles == 4) return launch_tiles<T, 4, KIND>(w, stream);
    }
    return tiles == 2 ? launch_tiles<T, 2, KIND>(w, stream) : launch_tiles<T, 1, KIND>(w, stream);
}

template <typename T>
static cudaError_t launch_shape(const tile_work &w, int32_t tiles, cudaStream_t stream)
{
    /* rare, and sums are the same: one kernel for all; 2 tiles, a gate and what it opens */
    if (w.a.part[0].cols % T::weights::COUNT != 0) return launch_tiles<T, 2, RAGGED>(w, stream);
    return w.more.norm ? launch_kind<T, NORMED>(w, tiles, stream)
                       : launch_kind<T, PLAIN>(w, tiles, stream);
}

bool spc_cuda_tile_takes(const spc_linear_args *a)
{
    const spc_weight_type type = a->part[0].type;

    if (is_quantised(type)) return tile_quant_takes(*a);
    return type == SPC_WEIGHT_BF16 || type == SPC_WEIGHT_F16;
}

cudaError_t spc_cuda_linear_tile(const spc_linear_args *a, const spc_linear_more *more,
                                 cudaStream_t stream)
{
    cudaError_t error = cudaSuccess;

    const bool quantised = is_quantised(a->part[0].type);

    if (!is_linear(a, quantised ? is_quant_matrix : is_matrix) || !spc_cuda_tile_takes(a)) {
        return cudaErrorInvalidValue;
    }

    const spc_linear_way way = a->way.slices ? a->way : spc_cuda_linear_default(a, SPC_KERNEL_TILE);
    tile_work w = {*a, {}, pieces_of(way)};

    if (more) w.more = *more;
    if (!can_go(*a, way, SPC_KERNEL_TILE) || (quantised && w.more.norm)) {
        return cudaErrorInvalidValue;
    }
    if (w.more.gate && (a->parts != 2 || a->part[0].rows != a->part[1].rows ||
                        w.more.glu < SPC_GLU_SILU || w.more.glu > SPC_GLU_GELU_TANH)) {
        return cudaErrorInvalidValue;
    }
    for (int32_t done = 0; done < a->rows && error == cudaSuccess; done += w.a.rows) {
        const int64_t at = (int64_t)done * a->width;
        const int32_t left = a->rows - done;
        const bool wide = a->wide && !quantised && left > TILE_ROWS;
        const int32_t most = wide ? (int32_t)WIDE_ROWS : (int32_t)TILE_ROWS;

        w.a.rows = left < most ? left : most;
        w.a.in = a->in + (int64_t)done * a->part[0].cols;
        if (a->target) w.a.target = a->target + done;
        if (!a->target) w.a.out = a->out + at;
        if (!a->target && w.more.add) w.more.add = more->add + at;

        if (wide) {
            error = launch_wide(w, stream);
            continue;
        }

        const int32_t tiles = way.tiles[w.a.rows > COLUMNS];

        if (quantised) {
            error = launch_tile_quant(w, tiles, stream);
            continue;
        }
        error = a->part[0].type == SPC_WEIGHT_BF16 ? launch_shape<tile_bf16>(w, tiles, stream)
                                                   : launch_shape<tile_f16>(w, tiles, stream);
    }
    return error;
}
