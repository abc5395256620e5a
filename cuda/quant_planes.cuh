/* SPDX-License-Identifier: Apache-2.0 */
/* quant_planes.cuh - how quantised weights lie on the device, and which of them a lane takes.
 *
 * A row is cut into blocks of 32 columns, four of which are a group.  Of a group's columns lane q
 * of four takes 8 q .. 8 q + 7 of each block: with 16 bytes at once from the weights it uses 32
 * bytes at once of the activations.  (Of Q2_K, Q3_K and Q6_K it takes 4 q .. 4 q + 3 and 16 + 4 q
 * .. 16 + 4 q + 3, so that the lanes' halves have a scale each; called 8 q .. 8 q + 7 below.)
 * Planes (spc_cuda_matrix), for each row:
 *
 *   data    [group, q, block] 8 weights: 4 bytes, byte k the low 4 bits of columns k and 4 + k; of
 *           8-bit types [group, pair of blocks, q, block of the pair] 8 bytes, integers plus 128;
 *           of Q2_K and Q3_K [group, q, pair of blocks] 4 bytes, the two bits at
 *           2 (2 (block % 2) + half) of byte k the low ones of column 4 half + k; of IQ4_* bits
 *           4 k .. 4 k + 3 of the 4 bytes are column k; Q6_K: see high
 *   high    Q5_*, Q3_K: [group, q] 4 bytes; bit 2 block + half of byte k is the highest bit of
 *           column 4 half + k
 *           Q6_K: [group, q, pair of blocks] 4 bytes, a third word behind two of data.  A pair of
 *           blocks is 8 pairs of integers 16 bits apart, p = 4 (block % 2) + 2 half + i for columns
 *           i and i + 2: below 6 they lie at bit 6 (p % 2) of word p / 2; of 6 and 7 the low 4
 *           bits at 12 of word p - 6, the high ones at 12 + 2 (p - 6) of the third
 *   scale   Q8_0, Q4_0, Q5_0, IQ4_NL: [group, block] half d; Q4_1, Q5_1: half d, m
 *           Q4_K, Q5_K: [256 columns] half d, e, then ggml's 12 bytes of 6-bit numbers
 *           Q6_K: [group, 16 columns] signed bytes
 *           Q2_K: [group, 16 columns] a byte: 4 bits for d, and above them 4 for e
 *           Q3_K: [256 columns] 12 bytes of 6-bit numbers, one for each half of a block: at
 *           [group, block] a byte, whose bits 4 half .. 4 half + 3 are the low ones; behind
 *           these, at [block], one whose two bits at 2 (2 group + half) are the high ones
 *           IQ4_XS: [256 columns] half d; two bits of each block, the upper ones of its number; 4
 *           bytes: byte b has the low 4 bits of block b, and those of block 4 + b above them
 *   step    Q6_K, Q3_K: [256 columns] half d; Q2_K: half d, e
 *
 * The last group may have fewer blocks: its data are as short, its scales padded with 0. */
#ifndef SPC_CUDA_QUANT_PLANES_CUH
#define SPC_CUDA_QUANT_PLANES_CUH

#include "ops.cuh"

enum {
    QUANT_RUN = 8,                        /* columns of a lane in a block */
    QUANT_BLOCK = 32,                     /* columns of a block */
    QUANT_BLOCKS = 4,                     /* blocks of a group */
    QUANT_LANES = QUANT_BLOCK / QUANT_RUN /* lanes of a group */
};

/* Units, one lane's part of a group each, of a row of so many blocks. */
static __host__ __device__ __forceinline__ int32_t quant_units(int32_t blocks)
{
    return (blocks + QUANT_BLOCKS - 1) / QUANT_BLOCKS * QUANT_LANES;
}

/* Has a unit's group all of its blocks? */
static __device__ __forceinline__ bool is_whole(int32_t unit, int32_t blocks)
{
    return unit / QUANT_LANES * QUANT_BLOCKS + QUANT_BLOCKS <= blocks;
}

/* The first column of a unit in block b of its group. */
static __device__ __forceinline__ int32_t quant_column(int32_t unit, int b)
{
    return (unit / QUANT_LANES * QUANT_BLOCKS + b) * QUANT_BLOCK + unit % QUANT_LANES * QUANT_RUN;
}

/* The same, of types whose lanes have SPLIT columns, 4 here and 4 from 16 columns further on. */
template <bool SPLIT> static __device__ __forceinline__ int32_t quant_column_of(int32_t unit, int b)
{
    return SPLIT ? quant_column(unit, b) - unit % QUANT_LANES * (QUANT_RUN / 2)
                 : quant_column(unit, b);
}

/* 8 values of in from a unit's column on; 0 behind the row's end. */
template <bool SPLIT, bool WHOLE>
static __device__ __forceinline__ void quant_load_columns(const float *in, int32_t c, int32_t cols,
                                                          float *out)
{
    if constexpr (SPLIT) {
        load_columns<QUANT_RUN / 2, true>(in, c, cols, out);
        load_columns<QUANT_RUN / 2, true>(in, c + QUANT_BLOCK / 2, cols, out + QUANT_RUN / 2);
    } else {
        load_columns<QUANT_RUN, WHOLE>(in, c, cols, out);
    }
}

/* Where a row begins in each plane, in 16 bytes of data, units of high, groups or 256 columns of
 * the others: less than 2^32 of any matrix that fits into memory. */
typedef struct {
    uint32_t data, unit, group, eighth;
} quant_row;

static __device__ __forceinline__ quant_row quant_row_of(const spc_cuda_matrix &m, int32_t row)
{
    const uint32_t r = (uint32_t)row, units = (uint32_t)quant_units(m.stride);

    return {r * (uint32_t)m.stride, r * units, r * (units / QUANT_LANES),
            r * ((uint32_t)m.stride / 8)};
}

#endif
