/* SPDX-License-Identifier: Apache-2.0 */
/* linear_tile_quant.cu - up to 16 rows times quantised matrices on tensor cores: as linear_tile.cu,
 * so that 8 rows take little longer than one.
 *
 * A weight's integer, or 8-bit float, is a bf16, exactly, and so is an activation as the sum of
 * three.  Of a block of 32 columns a lane has 8 weights of each output, and the same 8 columns of
 * its row of activations: two products for each of the three parts.  They go into a sum of their
 * own, which the block's scale multiplies as it is added to that of all blocks.  What types with an
 * offset have of it is multiplied with the sum of the block's activations, which is a product with
 * ones.
 *
 * Integers become bf16 in pairs, without conversions: beside the exponent of 128, or of 2^bits,
 * they are fraction bits, and the power of two is subtracted again, or goes into the offset.  (A
 * pair is what lies 16 bits apart: columns 0 and 2, 1 and 3 of four.)
 *
 * Precision is that of linear_tile.cu, but for the offset: where that is not subtracted from
 * integers, a sum of products is up to three times what it would be.
 *
 * A warp takes a group of 4 blocks at a time, of 2 tiles, or 4 of types that need few registers,
 * whose activations it splits once.  Of 2 tiles of those the next group's weights are on their way
 * while one is multiplied, 32 KB on a multiprocessor; of others 48 or 64 KB, while they wait.
 * Activations come one block ahead.
 *
 * Instructions for 16 bytes of data with what lies in other planes for them, up to 8 rows and, in 2
 * tiles, up to 16; and how many an H100's memory leaves time for:
 *
 *   tiles   Q4_0  Q4_1  Q5_0  Q5_1  Q4_K  Q5_K  IQ4_NL  IQ4_XS
 *   2        137   147   174   182   171   212     225     251
 *   4        111   125   150   167   148   189     198     232
 *   16 rows  202   236   244   277   265   300     297     325
 *   time     154   171   188   206   154   188     154     146
 *
 *   tiles   Q2_K  Q3_K  Q6_K  Q8_0  int8  E4M3  E5M2
 *   2        396   438   180    72    93    96   104
 *   4        352
 *   16 rows  622   627   284   112   134   135   144
 *   time     180   235   225   146   137   137   137
 *
 * Counted, not timed: no GPU has run it. */
#include "ops.h"

#include "linear_tile.cuh"
#include "linear_tile_quant.cuh"
#include "quant.cuh"

/* ---- scales ----------------------------------------------------------------------------------
 *
 * The four lanes of an output want the same scales: each loads and computes a quarter. */

static __device__ __forceinline__ uint32_t from_lane(uint32_t bits, int t)
{
    return __shfl_sync(0xffffffffu, bits, t, VECTORS);
}

/* Scales for 2^BITS + integers of BITS bits: lane t has block t's.
 *
 * NUMBERS   of a block: 2, a half has its own */
template <int BITS, int NUMBERS = 1> struct lane_scale {
    enum { SPLIT = NUMBERS == 2, OFFSET = true, CENTRE = 0 };
    uint32_t raw; /* a lane's part of what is loaded */
    float step[NUMBERS], offset[NUMBERS];

    __device__ __forceinline__ void put(int i, float by, float plus)
    {
        step[i] = by;
        offset[i] = fmaf(by, -(float)(1 << BITS), plus);
    }

    __device__ __forceinline__ void near(int b, int half, float, float, float *to_step,
                                         float *to_offset) const
    {
        const int i = SPLIT ? half : 0;

        *to_step = spc_bits_float(from_lane(spc_float_bits(step[i]), b));
        *to_offset = spc_bits_float(from_lane(spc_float_bits(offset[i]), b));
    }
};

/* As quant_scale_dm. */
template <int BITS> struct lane_scale_dm : lane_scale<BITS> {
    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        this->raw = __ldcs((const uint32_t *)m.scale + (row.group * QUANT_LANES + (uint32_t)unit));
    }

    __device__ __forceinline__ void ready(int32_t)
    {
        this->put(0, weights_f16::one(this->raw & 0xffffu), weights_f16::one(this->raw >> 16));
    }
};

/* As quant_scale_six; of the 16 bytes of 256 columns a lane loads word t. */
template <int BITS> struct lane_scale_six : lane_scale<BITS> {
    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t u = (uint32_t)unit;

        this->raw = __ldcs((const uint32_t *)m.scale +
                           ((row.eighth + u / (2 * QUANT_LANES)) * 4 + u % QUANT_LANES));
    }

    __device__ __forceinline__ void ready(int32_t unit)
    {
        const uint32_t u = (uint32_t)unit, t = u % QUANT_LANES, raw = this->raw;
        const uint32_t de = from_lane(raw, 0), more = from_lane(raw, 3) >> 8 * t & 0xffu;
        const uint32_t both = __byte_perm(from_lane(raw, 1), from_lane(raw, 2), 0x40u + 0x11u * t);
        const uint32_t even = both & 0x3f3fu;
        const uint32_t odd = ((more | more << 4) & 0x0f0fu) | (both >> 2 & 0x3030u);
        const uint32_t number = u / QUANT_LANES % 2 == 0 ? even : odd;

        this->put(0, weights_f16::one(de & 0xffffu) * byte_float(number, 0),
                  weights_f16::one(de >> 16) * -byte_float(number, 1));
    }
};

/* As quant_scale_two; of a block a lane loads two bytes. */
struct lane_scale_two : lane_scale<2, 2> {
    uint32_t de;

    __device__ __forceinline__ void load(const spc_cuda_matrix &m, const quant_row &row,
                                         int32_t unit)
    {
        const uint32_t u = (uint32_t)unit;

        raw = __ldcs((const uint16_t *)m.scale + (row.group * QUANT_LANES + u));
        de = ((const uint32_t *)m.step)[row.eighth + u / (2 * QUANT_LANES)];
    }

    __device__ __forceinline__ void ready(int32_t)
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            put(half, weights_f16::one(de & 0xffffu) * byte_float(raw & 0x0f0fu, half),
                weights_f16::one(de >> 16) * -byte_float(raw >> 4 & 0x0f0fu, half));
        }
    }
};

/* ---- factors --------------------------------------------------------------------------------- */

/* A pair of bf16 plus another, where sums are exact. */
static __device__ __forceinline__ uint32_t bf16_plus(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    uint32_t sum;

    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return sum;
#else
    float x[2], y[2];

    weights_bf16::pair(a, x);
    weights_bf16::pair(b, y);
    return bf16_pair(x[0] + y[0], x[1] + y[1]);
#endif
}

/* Weights of columns 4 half .. 4 half + 3 of a unit's block without scale and, where they have one
 * of their own, offset.
 *
 * more   bits of the power of two beside an integer, twice
 * less   of what is subtracted: that and the centre */
template <typename Q>
static __device__ __forceinline__ void pairs_of(const Q &quant, int b, int half, uint32_t more,
                                                uint32_t less, uint32_t *pair)
{
    if constexpr (Q::INTEGER == 0) {
        float x[QUANT_RUN];

        quant.near(b, x);
        for (int i = 0; i < 2; i++) pair[i] = bf16_pair(x[4 * half + i], x[4 * half + i + 2]);
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if constexpr (Q::INTEGER == 8) { /* 128 + 7 bits, less 128 or, without the 8th, 256 */
                const uint32_t two = quant.integers.four(b, half) >> 8 * i;

                pair[i] = bf16_plus((two & 0x007f007fu) | more, (~two & 0x00800080u) | less);
            } else if constexpr (Q::OFFSET) { /* 2^INTEGER + integer */
                pair[i] = quant.integers.two(b, half, i, 7 - Q::INTEGER, more);
            } else {
                pair[i] = bf16_plus(quant.integers.two(b, half, i, 0, more), less);
            }
        }
    }
}

/* What multiplies the sum of products with those of a block, or half, and of activations. */
template <typename Q>
static __device__ __forceinline__ void scale_of(const Q &quant, int b, int half, float *step,
                                                float *offset)
{
    if constexpr (Q::APART) {
        *step = quant.factor(b);
    } else if constexpr (Q::OFFSET) {
        quant.scale.near(b, half, (float)(1 << Q::INTEGER), 1.0f, step, offset);
    } else {
        quant.scale.get(b, half, step, offset);
    }
}

/* 4 activations of a row, as three bf16 each that add up to them, paired as weights are. */
struct tile_activations {
    enum { PARTS = 3 };
    uint32_t part[PARTS][2];

    __device__ __forceinline__ void split(float *x)
    {
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float taken[2];

                part[p][i] = bf16_pair(x[i], x[i + 2]);
                weights_bf16::pair(part[p][i], taken);
                x[i] -= taken[0];
                x[i + 2] -= taken[1];
            }
        }
    }
};

/* ---- the kernel ------------------------------------------------------------------------------ */

/* Units that take more than 8 registers fit into those of a thread but twice two times. */
template <typename Q> static constexpr int tiles_most = sizeof(Q) <= 8 * sizeof(uint32_t) ? 4 : 2;

/* A group of all outputs of a lane, g and g + 8 of each tile: rows of parts, which are alike but
 * for where they are and how many rows they have. */
template <int TILES, typename Q>
static __device__ __forceinline__ void load_group(Q (*quant)[2], const tile_work &w,
                                                  const int *part, const int32_t (*row)[2],
                                                  int32_t unit)
{
    if (is_whole(unit, w.a.part[0].stride)) {
#pragma unroll
        for (int i = 0; i < TILES * 2; i++) {
            const int32_t r = row[i / 2][i % 2];

            quant[i / 2][i % 2].load(w.a.part[part[i / 2]], quant_row_of(w.a.part[0], r), r, unit,
                                     true);
        }
    } else {
#pragma unroll
        for (int i = 0; i < TILES * 2; i++) {
            const int32_t r = row[i / 2][i % 2];

            quant[i / 2][i % 2].load(w.a.part[part[i / 2]], quant_row_of(w.a.part[0], r), r, unit,
                                     false);
        }
    }
}

/* Activations, where a unit's begin in them or, behind the row's end, others, which zeros multiply.
 */
template <bool SPLIT>
static __device__ __forceinline__ void load_block(const float *in, int32_t at, int32_t last,
                                                  float *x)
{
    const float *from = in + (uint32_t)(at < last ? at : last);

    quant_load_columns<SPLIT, true>(from, 0, QUANT_BLOCK, x);
}

template <typename Q, int TILES, int STRIPS>
static __global__ void __launch_bounds__(OPS_THREADS, 2)
    linear_tile_quant_kernel(const __grid_constant__ tile_work w)
{
    enum { PARTS = tile_activations::PARTS };
    /* others are as many bytes without; and of more rows memory waits for products */
    enum { AHEAD = TILES == 2 && STRIPS == 1 && tiles_most<Q> == 4 };
    static __shared__ tile_shared<TILES, STRIPS> shared;
    const spc_linear_args &a = w.a;
    const int lane = threadIdx.x % OPS_LANES, warp = threadIdx.x / OPS_LANES;
    const int g = lane / VECTORS, t = lane % VECTORS;
    const int32_t group = (int32_t)blockIdx.x / w.pieces, piece = (int32_t)blockIdx.x % w.pieces;
    const int32_t units = quant_units(a.part[0].stride), cols = a.part[0].cols;
    const int32_t further = w.pieces * OPS_WARPS * QUANT_LANES;
    const uint32_t more = moved_once((Q::OFFSET ? 127u + Q::INTEGER : 134u) * 0x00800080u);
    const uint32_t less =
        moved_once(0xc300c300u + (Q::INTEGER < 8 ? (uint32_t)Q::CENTRE * 0x00010001u : 0));
    float sum[TILES][STRIPS][4], ahead[STRIPS][QUANT_RUN];
    int32_t row[TILES][2], column[STRIPS],
        last[STRIPS]; /* columns of all rows, one after another */
    int part[TILES];
    Q next[TILES][2];

    let_next_begin();
#pragma unroll
    for (int i = 0; i < TILES; i++) { /* outputs that are not there repeat others, are dropped */
        const tile_place at = place_of(w, group * TILES + i);
        int32_t last;

        part[i] = at.part < a.parts ? at.part : 0;
        last = a.part[part[i]].rows - 1;
        row[i][0] = at.first + g < last ? at.first + g : last;
        row[i][1] = at.first + g + 8 < last ? at.first + g + 8 : last;
    }

    int32_t unit = (piece * OPS_WARPS + warp) * QUANT_LANES + t;

    if (unit < units) load_group<TILES>(next, w, part, row, unit);
    await_previous();
#pragma unroll
    for (int n = 0; n < STRIPS; n++) { /* so do rows */
        const int32_t r = n * COLUMNS + g < a.rows ? n * COLUMNS + g : a.rows - 1;

        column[n] = r * cols + quant_column_of<Q::SPLIT>(unit, 0);
        last[n] = (r + 1) * cols - (Q::SPLIT ? QUANT_BLOCK - QUANT_RUN / 2 * t : QUANT_RUN);
        load_block<Q::SPLIT>(a.in, column[n], last[n], ahead[n]);
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) sum[i / 4][n][i % 4] = 0.0f;
    }
    while (unit < units) { /* the same in all lanes */
        const int32_t after = unit + further;
        Q quant[TILES][2];

#pragma unroll
        for (int i = 0; i < TILES * 2; i++) quant[i / 2][i % 2] = next[i / 2][i % 2];
        if (AHEAD && after < units) load_group<TILES>(next, w, part, row, after);
#pragma unroll
        for (int i = 0; i < TILES * 2; i++) quant[i / 2][i % 2].ready(unit);
#pragma unroll
        for (int b = 0; b < QUANT_BLOCKS; b++) {
            float x[STRIPS][QUANT_RUN], product[TILES][STRIPS][4] = {}, all[STRIPS][4] = {};

#pragma unroll
            for (int n = 0; n < STRIPS; n++) {
#pragma unroll
                for (int i = 0; i < QUANT_RUN; i++) x[n][i] = ahead[n][i];
                column[n] += b + 1 < QUANT_BLOCKS ? (int32_t)QUANT_BLOCK
                                                  : further * QUANT_BLOCK - 3 * QUANT_BLOCK;
                load_block<Q::SPLIT>(a.in, column[n], last[n], ahead[n]);
            }
            __syncwarp(); /* a product is of all lanes; some went another way to get here */
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
                tile_activations factor[STRIPS];
                uint32_t weight[TILES][4];

#pragma unroll
                for (int n = 0; n < STRIPS; n++) factor[n].split(x[n] + 4 * half);
#pragma unroll
                for (int i = 0; i < TILES * 2; i++) {
                    uint32_t pair[2];

                    pairs_of(quant[i / 2][i % 2], b, half, more, less, pair);
                    weight[i / 2][i % 2] = pair[0];
                    weight[i / 2][i % 2 + 2] = pair[1];
                }
#pragma unroll
                for (int p = PARTS - 1; p >= 0; p--) {
#pragma unroll
                    for (int n = 0; n < STRIPS; n++) {
                        if (Q::OFFSET) mma_16x8x16(all[n], ones, factor[n].part[p]);
#pragma unroll
                        for (int i = 0; i < TILES; i++) {
                            mma_16x8x16(product[i][n], weight[i], factor[n].part[p]);
                        }
                    }
                }
                if (half == 0 && !Q::SPLIT) continue;
#pragma unroll
                for (int i = 0; i < TILES * 2; i++) {
                    float step, offset = 0.0f;

                    scale_of(quant[i / 2][i % 2], b, half, &step, &offset);
#pragma unroll
                    for (int k = 0; k < STRIPS * 2; k++) {
                        const int n = k / 2, c = i % 2 * 2 + k % 2;
                        float *to = &sum[i / 2][n][c], *of = &product[i / 2][n][c];

                        if (Q::OFFSET) *to = fmaf(offset, all[n][k % 2], *to);
                        *to = fmaf(step, *of, *to);
                        *of = 0.0f;
                    }
                }
#pragma unroll
                for (int k = 0; k < STRIPS * 4; k++) all[k / 4][k % 4] = 0.0f;
            }
        }
        if (!AHEAD && after < units) load_group<TILES>(next, w, part, row, after);
        unit = after;
    }
#pragma unroll
    for (int n = 0; n < STRIPS; n++) {
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) {
            shared.sum[warp][(i / 4 * STRIPS + n) * 4 + i % 4][lane] = sum[i / 4][n][i % 4];
        }
    }
    finish_block(shared, w);
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* call(unit of the type's kind); where each block has an offset, lanes share the scales. */
template <typename Call> static cudaError_t with_tile_quant(spc_weight_type type, const Call &call)
{
    switch (type) {
    case SPC_WEIGHT_Q8_0: return call(quant_q8_0());
    case SPC_WEIGHT_Q4_0: return call(quant_q4_0());
    case SPC_WEIGHT_Q4_1: return call(quant_blocks<4, lane_scale_dm<4>>());
    case SPC_WEIGHT_Q5_0: return call(quant_q5_0());
    case SPC_WEIGHT_Q5_1: return call(quant_blocks<5, lane_scale_dm<5>>());
    case SPC_WEIGHT_IQ4_NL: return call(quant_iq4_nl());
    case SPC_WEIGHT_IQ4_XS: return call(quant_iq4_xs());
    case SPC_WEIGHT_Q2_K: return call(quant_blocks<2, lane_scale_two>());
    case SPC_WEIGHT_Q3_K: return call(quant_q3_k());
    case SPC_WEIGHT_Q4_K: return call(quant_blocks<4, lane_scale_six<4>>());
    case SPC_WEIGHT_Q5_K: return call(quant_blocks<5, lane_scale_six<5>>());
    case SPC_WEIGHT_Q6_K: return call(quant_q6_k());
    case SPC_WEIGHT_I8: return call(quant_i8());
    case SPC_WEIGHT_F8_E4M3: return call(quant_e4m3());
    default: return call(quant_e5m2());
    }
}

/* Of 8-bit types with scales beside them those in which a block has one scale for an output, and a
 * lane's columns are all there or none is. */
bool tile_quant_takes(const spc_linear_args &a)
{
    for (int p = 0; p < a.parts && a.part[p].type >= SPC_WEIGHT_I8; p++) {
        if (a.part[p].cols % QUANT_RUN != 0 || a.part[p].scale_col % QUANT_BLOCK != 0) return false;
    }
    return true;
}

template <typename Q, int TILES, int STRIPS>
static cudaError_t launch_quant_tiles(const tile_work &w, cudaStream_t stream)
{
    const int64_t blocks = (int64_t)(tiles_of(w.a) + TILES - 1) / TILES * w.pieces;

    return launch_op(linear_tile_quant_kernel<Q, TILES, STRIPS>, blocks, w, stream, w.a.early);
}

int32_t tile_quant_most(spc_weight_type type)
{
    int32_t most = 2;

    (void)with_tile_quant(type, [&](auto q) {
        most = tiles_most<decltype(q)>;
        return cudaSuccess;
    });
    return most;
}

cudaError_t launch_tile_quant(const tile_work &w, int32_t tiles, cudaStream_t stream)
{
    return with_tile_quant(w.a.part[0].type, [=, &w](auto q) {
        typedef decltype(q) Q;

        if constexpr (tiles_most<Q> == 4) {
            if (tiles == 4 && w.a.rows <= COLUMNS) return launch_quant_tiles<Q, 4, 1>(w, stream);
        }
        return w.a.rows <= COLUMNS ? launch_quant_tiles<Q, 2, 1>(w, stream)
                                   : launch_quant_tiles<Q, 2, 2>(w, stream);
    });
}
