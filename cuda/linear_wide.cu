/* SPDX-License-Identifier: Apache-2.0 */
/* linear_wide.cu - more than 16 rows times matrices of 16-bit weights: the bits of linear_tile.cu,
 * weights read once for 64 rows.
 *
 * There the columns of an output are shared by warps, whose sums are added in the order of the
 * warps.  Here a warp has 32 outputs and 32 rows of its own; it goes through the shares of all
 * those warps one after the other, and adds up their sums in that order.  A block has 128 outputs
 * and 64 rows.  Where that makes too few blocks, several take some shares each and leave their sums
 * to a kernel that adds them.
 *
 * Activations are needed by many warps: a kernel in front makes factors of them (linear_tile.cuh)
 * and leaves these as lanes want them, 16 bytes a load, so that products wait for nothing but
 * loads.  They are many: float32 activations times bf16 weights take three products where bf16
 * ones would take one.  That is the limit here, not memory; counted, not timed: no GPU has run it.
 */
#include "ops.h"

#include "linear_tile.cuh"
#include "linear_wide.cuh"
#include "split.cuh"

enum {
    GROUP = 8,                         /* tiles of a block */
    GROUP_OUTS = GROUP * TILE,         /* outputs */
    WIDE_STRIPS = WIDE_ROWS / COLUMNS, /* strips of a block */
    MY_TILES = 2,                      /* of a warp */
    MY_STRIPS = 4,                     /* of a warp */
    ACROSS = WIDE_STRIPS / MY_STRIPS,  /* warps beside each other */
    CHUNK = TILE_VECTORS / VECTORS,    /* steps that a warp of linear_tile.cu takes at a time */
    BLOCKS_ENOUGH = 66,                /* half of an H100's multiprocessors */
    BLOCKS_SPLIT = 2 * BLOCKS_ENOUGH,  /* where shares are split, at least */
    BLOCKS_LEFT = SPLIT_BLOCKS         /* groups times shares whose sums are left, at most */
};

static_assert(GROUP / MY_TILES * ACROSS == OPS_WARPS, "a block's warps cover it");

/* A step is 32 columns: 8 of each lane of four, in which order, linear_tile.cu says. */
typedef struct {
    tile_work w;
    int32_t steps;  /* of a row */
    int32_t shares; /* warps of linear_tile.cu */
    int32_t splits; /* blocks that take shares of the same outputs */
    uint4 *factor;  /* [strips, steps, T's, lanes] */
    float *square;  /* [rows, shares] */
    float *sum;     /* [groups, shares, WIDE_ROWS, GROUP_OUTS] where there are splits */
} wide_work;

/* ---- factors --------------------------------------------------------------------------------- */

/* What a step's 8 activations of a lane become: 16 bytes at a time. */
template <typename T> struct wide_factors {
    enum { PRODUCTS = T::weights::COUNT / T::ONCE, QUADS = PRODUCTS * T::PARTS / 2 };
    union {
        T product[PRODUCTS];
        uint4 quad[QUADS];
    };
};

/* Strips that warps read, of rows that are not there too. */
static __host__ __device__ __forceinline__ int32_t strips_of(int32_t rows)
{
    return (rows + MY_STRIPS * COLUMNS - 1) / (MY_STRIPS * COLUMNS) * MY_STRIPS;
}

/* A lane's activations of a chunk's steps, and the norm's weights for them. */
template <typename T> struct wide_chunk {
    enum { COUNT = T::weights::COUNT };
    float x[CHUNK][COUNT], norm[CHUNK][COUNT];

    __device__ __forceinline__ void load(const wide_work &w, const float *row, int32_t first)
    {
        const int32_t cols = w.w.a.part[0].cols, vectors = w.w.a.part[0].stride / COUNT;

#pragma unroll
        for (int s = 0; s < CHUNK; s++) {
            const int32_t v = (first + s) * VECTORS + (int32_t)threadIdx.x % VECTORS;

#pragma unroll
            for (int i = 0; i < COUNT; i++) x[s][i] = norm[s][i] = 0.0f;
            if (!row || v >= vectors) continue;
            load_columns<COUNT>(row, v * COUNT, cols, x[s]);
            if (w.w.more.norm) load_columns<COUNT>(w.w.more.norm, v * COUNT, cols, norm[s]);
        }
    }
};

/* A warp: one share of 8 rows.  A chunk's loads are on their way together. */
template <typename T>
static __global__ void __launch_bounds__(OPS_THREADS)
    wide_split_kernel(const __grid_constant__ wide_work w)
{
    enum { COUNT = T::weights::COUNT };
    const spc_linear_args &a = w.w.a;
    const int lane = threadIdx.x % OPS_LANES, g = lane / VECTORS, t = lane % VECTORS;
    const int32_t item = (int32_t)blockIdx.x * OPS_WARPS + (int32_t)threadIdx.x / OPS_LANES;
    const int32_t strip = item / w.shares, share = item % w.shares, row = strip * COLUMNS + g;
    const float *in = row < a.rows ? a.in + (int64_t)row * a.part[0].cols : NULL;
    float square = 0.0f;

    begin_behind_previous();
    if (strip >= strips_of(a.rows)) return;
    for (int32_t first = share * CHUNK; first < w.steps; first += w.shares * CHUNK) {
        wide_chunk<T> chunk;

        chunk.load(w, in, first);
#pragma unroll
        for (int s = 0; s < CHUNK; s++) {
            float(&x)[COUNT] = chunk.x[s];
            wide_factors<T> f;

            if (w.w.more.norm) {
#pragma unroll
                for (int i = 0; i < COUNT; i++) {
                    square = fmaf(x[i], x[i], square);
                    x[i] *= chunk.norm[s][i];
                }
            }
#pragma unroll
            for (int k = 0; k < f.PRODUCTS; k++) f.product[k].split(x + k * T::ONCE);
#pragma unroll
            for (int q = 0; q < f.QUADS; q++) {
                uint4 *to = w.factor + ((int64_t)strip * w.steps + first + s) * f.QUADS * OPS_LANES;

                if (first + s < w.steps) to[q * OPS_LANES + lane] = f.quad[q];
            }
        }
    }
    square += __shfl_xor_sync(0xffffffffu, square, 1);
    square += __shfl_xor_sync(0xffffffffu, square, 2);
    if (t == 0 && row < a.rows) w.square[row * w.shares + share] = square;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* As linear_tile.cu adds what warps have, then what blocks have; shares without columns have 0.  Of
 * a block's all are on their way together: asked for one by one, each would wait for the last. */
template <typename Share>
static __device__ __forceinline__ float in_order(const wide_work &w, const Share &of_share)
{
    float all = 0.0f;

    for (int32_t first = 0; first < w.shares; first += OPS_WARPS) {
        float part[OPS_WARPS], block = 0.0f;

#pragma unroll
        for (int32_t q = 0; q < OPS_WARPS; q++) {
            part[q] = (first + q) * CHUNK < w.steps ? of_share(first + q) : 0.0f;
        }
#pragma unroll
        for (int32_t q = 0; q < OPS_WARPS; q++) block += part[q];
        all += block;
    }
    return all;
}

/* Squares of rows first, first + 1, ... below `end`, for the norm: a thread's each, which waits for
 * them once and not for every output. */
static __device__ __forceinline__ void wide_squares(const wide_work &w, int32_t first, int32_t end,
                                                    float *square)
{
    const int32_t r = first + (int32_t)threadIdx.x;

    if (!w.w.more.norm || r >= end || r >= w.w.a.rows) return;
    square[threadIdx.x] = in_order(w, [&](int32_t q) { return w.square[r * w.shares + q]; });
}

/* Sums of a block that has all shares. */
struct wide_shared {
    float sum[WIDE_ROWS][GROUP_OUTS + 4]; /* + 4: the lanes of a store use different banks */
    float square[WIDE_ROWS];
};

struct wide_own {
    const wide_shared &shared;

    __device__ __forceinline__ float sum_of(int o, int r) const
    {
        return shared.sum[r][o];
    }

    __device__ __forceinline__ float square_of(int r) const
    {
        return shared.square[r];
    }
};

/* Where the sums of a share are left. */
static __device__ __forceinline__ float *left_of(const wide_work &w, int32_t group, int32_t share)
{
    return w.sum + ((int64_t)group * w.shares + share) * (WIDE_ROWS * GROUP_OUTS);
}

struct wide_others {
    const wide_work &w;
    int32_t group;
    const float *square; /* of rows from `first` on */
    int32_t first;

    __device__ __forceinline__ float sum_of(int o, int r) const
    {
        return in_order(w, [&](int32_t q) { return left_of(w, group, q)[r * GROUP_OUTS + o]; });
    }

    __device__ __forceinline__ float square_of(int r) const
    {
        return square[r - first];
    }
};

/* ---- products -------------------------------------------------------------------------------- */

/* What a warp needs for a step. */
template <typename T> struct wide_stage {
    uint4 weight[MY_TILES][2];
    wide_factors<T> factor[MY_STRIPS];
};

template <typename T> struct wide_warp {
    const uint4 *weights[MY_TILES]; /* of output g; of output g + 8 so much further */
    int32_t further[MY_TILES];
    int32_t vectors;
    const uint4 *factor; /* this lane's, of the first strip */
    int64_t strip;       /* to the next strip's */
    float sum[MY_TILES][MY_STRIPS][4];

    __device__ __forceinline__ void load(wide_stage<T> *to, int32_t step) const
    {
        const int32_t v = step * VECTORS + (int32_t)threadIdx.x % VECTORS;
        const uint4 none = {0, 0, 0, 0};

#pragma unroll
        for (int i = 0; i < MY_TILES; i++) {
            to->weight[i][0] = v < vectors ? weights[i][v] : none;
            to->weight[i][1] = v < vectors ? weights[i][v + further[i]] : none;
        }
#pragma unroll
        for (int n = 0; n < MY_STRIPS; n++) {
#pragma unroll
            for (int q = 0; q < to->factor[n].QUADS; q++) {
                to->factor[n].quad[q] =
                    factor[n * strip + ((int64_t)step * to->factor[n].QUADS + q) * OPS_LANES];
            }
        }
    }

    __device__ __forceinline__ void multiply(const wide_stage<T> &from)
    {
        typename T::outputs weight[MY_TILES];

        __syncwarp(); /* a product is of all lanes; some went another way to get here */
#pragma unroll
        for (int i = 0; i < MY_TILES; i++) {
            weight[i].template take<false>(from.weight[i][0], from.weight[i][1]);
        }
#pragma unroll
        for (int n = 0; n < MY_STRIPS; n++) {
#pragma unroll
            for (int k = 0; k < from.factor[n].PRODUCTS; k++) {
#pragma unroll
                for (int i = 0; i < MY_TILES; i++) {
                    from.factor[n].product[k].multiply(sum[i][n], weight[i], k);
                }
            }
        }
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < MY_TILES * MY_STRIPS * 4; i++) sum[i / 16][i / 4 % 4][i % 4] = 0.0f;
    }
};

/* The output and the row of sum[i][n][e] in a block. */
static __device__ __forceinline__ int32_t my_out(int i, int e)
{
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;

    return (warp / ACROSS * MY_TILES + i) * TILE + lane / VECTORS + e / 2 * 8;
}

static __device__ __forceinline__ int32_t my_row(int n, int e)
{
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;

    return (warp % ACROSS * MY_STRIPS + n) * COLUMNS + lane % VECTORS * 2 + e % 2;
}

template <typename T>
static __device__ __forceinline__ void open_warp(wide_warp<T> *m, const wide_work &w, int32_t group)
{
    const spc_linear_args &a = w.w.a;
    const int lane = threadIdx.x % OPS_LANES, g = lane / VECTORS;
    const int32_t strip = my_row(0, 0) / COLUMNS;

    m->vectors = a.part[0].stride / T::weights::COUNT;
    m->strip = (int64_t)w.steps * wide_factors<T>::QUADS * OPS_LANES;
    m->factor = w.factor + strip * m->strip + lane;
#pragma unroll
    for (int i = 0; i < MY_TILES; i++) { /* outputs that are not there repeat others, are dropped */
        const tile_place at = place_of(w.w, group * GROUP + my_out(i, 0) / TILE);
        const spc_cuda_matrix &part = a.part[at.part < a.parts ? at.part : 0];
        const int32_t upper = at.first + g < part.rows ? at.first + g : part.rows - 1;
        const int32_t lower = at.first + g + 8 < part.rows ? at.first + g + 8 : part.rows - 1;

        m->weights[i] = (const uint4 *)part.data + (int64_t)upper * m->vectors;
        m->further[i] = (lower - upper) * m->vectors;
    }
}

/* Shares from, from + 1, ... below `to`; done(share) is called with the sums of each. */
template <typename T, typename Done>
static __device__ __forceinline__ void run_shares(wide_warp<T> *m, const wide_work &w, int32_t from,
                                                  int32_t to, const Done &done)
{
    wide_stage<T> now, next;

    m->clear();
    if (from * CHUNK >= w.steps) return;
    m->load(&now, from * CHUNK);
    for (int32_t share = from, step = from * CHUNK; share < to;) {
        int32_t after = step + 1;
        bool ends = false;

        if (after % CHUNK == 0 || after >= w.steps) { /* on to the share's next chunk */
            after = (step / CHUNK + w.shares) * CHUNK;
            ends = after >= w.steps;
        }
        if (ends) after = (share + 1) * CHUNK;
        if (after < w.steps && (!ends || share + 1 < to)) m->load(&next, after);
        m->multiply(now);
        if (ends) {
            done(share++);
            m->clear();
            if (after >= w.steps) return; /* the other shares have no columns */
        }
        now = next;
        step = after;
    }
}

template <typename T>
static __global__ void __launch_bounds__(OPS_THREADS)
    wide_kernel(const __grid_constant__ wide_work w)
{
    static __shared__ wide_shared shared;
    const int32_t group = (int32_t)blockIdx.x / w.splits, split = (int32_t)blockIdx.x % w.splits;
    const int32_t from = w.shares / w.splits * split, to = from + w.shares / w.splits;
    const bool works = my_row(0, 0) / COLUMNS * COLUMNS < w.w.a.rows; /* the same in all lanes */
    wide_warp<T> m;

    let_next_begin();
    open_warp(&m, w, group);
    await_previous();
    if (w.splits > 1) {
        if (!works) return;
        run_shares(&m, w, from, to, [&](int32_t share) {
            float *left = left_of(w, group, share);

#pragma unroll
            for (int i = 0; i < MY_TILES * MY_STRIPS * 4; i++) {
                left[my_row(i / 4 % 4, i % 4) * GROUP_OUTS + my_out(i / 16, i % 4)] =
                    m.sum[i / 16][i / 4 % 4][i % 4];
            }
        });
        return;
    }
    if (works) {
        float all[MY_TILES * MY_STRIPS * 4] = {};

        run_shares(&m, w, from, to, [&](int32_t) {
#pragma unroll
            for (int i = 0; i < MY_TILES * MY_STRIPS * 4; i++) {
                all[i] += m.sum[i / 16][i / 4 % 4][i % 4];
            }
        });
#pragma unroll
        for (int i = 0; i < MY_TILES * MY_STRIPS * 4; i++) {
            shared.sum[my_row(i / 4 % 4, i % 4)][my_out(i / 16, i % 4)] = all[i];
        }
    }
    wide_squares(w, 0, WIDE_ROWS, shared.square);
    __syncthreads();
    finish<GROUP>(wide_own{shared}, w.w, group, 0, w.w.a.rows);
}

/* Adds what blocks have left; a block for 8 rows of a group. */
static __global__ void __launch_bounds__(OPS_THREADS)
    wide_add_kernel(const __grid_constant__ wide_work w)
{
    static __shared__ float square[COLUMNS];
    const int32_t group = (int32_t)blockIdx.x / WIDE_STRIPS;
    const int32_t first = (int32_t)blockIdx.x % WIDE_STRIPS * COLUMNS;

    begin_behind_previous();
    wide_squares(w, first, first + COLUMNS, square);
    __syncthreads();
    finish<GROUP>(wide_others{w, group, square, first}, w.w, group, first, first + COLUMNS);
}

/* ---- launchers ------------------------------------------------------------------------------- */

static int32_t wide_groups(const spc_linear_args &a)
{
    return (tiles_of(a) + GROUP - 1) / GROUP;
}

/* Blocks that share shares: as many as it takes to have enough of them. */
static int32_t splits_of(int32_t groups, int32_t shares)
{
    int32_t splits = 1;

    if (groups >= BLOCKS_ENOUGH && shares == OPS_WARPS) return 1;
    while (splits < shares && (splits == 1 || groups * splits < BLOCKS_SPLIT)) splits *= 2;
    return splits;
}

/* Of a row of so many columns: steps, and what factors take, of the type that has more of them. */
static int32_t steps_of(int32_t cols)
{
    const int32_t columns = VECTORS * 8;

    return (cols + columns - 1) / columns;
}

static int64_t factor_bytes(int32_t cols)
{
    static_assert((int)wide_factors<tile_f16>::QUADS > (int)wide_factors<tile_bf16>::QUADS, "most");

    return (int64_t)WIDE_STRIPS * steps_of(cols) * wide_factors<tile_f16>::QUADS * OPS_LANES *
           (int64_t)sizeof(uint4);
}

enum { SQUARE_BYTES = WIDE_ROWS * SPC_LINEAR_SLICES * sizeof(float) };

int64_t spc_cuda_linear_wide_bytes(int32_t cols, int32_t outs)
{
    /* parts of an op end within tiles */
    const int64_t tiles = (outs + TILE - 1) / TILE + SPC_LINEAR_PARTS;
    const int64_t left = (tiles + GROUP - 1) / GROUP * SPC_LINEAR_SLICES;

    const int64_t blocks = left < BLOCKS_LEFT ? left : (int64_t)BLOCKS_LEFT;

    return factor_bytes(cols) + SQUARE_BYTES +
           blocks * (WIDE_ROWS * GROUP_OUTS) * (int64_t)sizeof(float);
}

template <typename T> static cudaError_t launch_factors(const wide_work &w, cudaStream_t stream)
{
    const int32_t strips = strips_of(w.w.a.rows), groups = wide_groups(w.w.a);
    const int32_t blocks = (strips * w.shares + OPS_WARPS - 1) / OPS_WARPS;
    const bool early = w.w.a.early;
    cudaError_t error = launch_op(wide_split_kernel<T>, blocks, w, stream, early);

    if (error != cudaSuccess) return error;
    error = launch_op(wide_kernel<T>, (int64_t)groups * w.splits, w, stream, early);
    if (error != cudaSuccess || w.splits == 1) return error;
    return launch_op(wide_add_kernel, (int64_t)groups * WIDE_STRIPS, w, stream, early);
}

cudaError_t launch_wide(const tile_work &work, cudaStream_t stream)
{
    const spc_linear_args &a = work.a;
    const int32_t shares = work.pieces * OPS_WARPS;
    char *at = (char *)a.wide;
    wide_work w = {work,    steps_of(a.part[0].cols),
                   shares,  splits_of(wide_groups(a), shares),
                   nullptr, nullptr,
                   nullptr};

    w.factor = (uint4 *)at;
    w.square = (float *)(at + factor_bytes(a.part[0].cols));
    w.sum = (float *)(at + factor_bytes(a.part[0].cols) + SQUARE_BYTES);
    return a.part[0].type == SPC_WEIGHT_BF16 ? launch_factors<tile_bf16>(w, stream)
                                             : launch_factors<tile_f16>(w, stream);
}
