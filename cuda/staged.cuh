/* SPDX-License-Identifier: Apache-2.0 */
/* staged.cuh - tiles of a row, or of a pair of rows, on their way through the stages of a block:
 * asked for, waited for, read.  Part of queue.cu. */
#ifndef SPC_CUDA_STAGED_CUH
#define SPC_CUDA_STAGED_CUH

#include "workspace.cuh"

enum { AT_ONCE = 4 }; /* entries that a thread holds of a row: more would not fit in registers */

/* A call: what it works out would take the registers of whoever sums tile after tile. */
static __device__ __noinline__ int32_t ask_any_tile(const spc_view *row, int32_t vocab,
                                                    int32_t tile, int32_t turn)
{
    return fetch_tile(row, vocab, tile, &scratch.stage[turn]);
}

/* Ask for a tile that comes in words alone, to one of the stages; as fetch_tile. */
static __device__ __forceinline__ int32_t ask_whole(const spc_view *row, int32_t tile,
                                                    int32_t words, int32_t turn)
{
    fetch_words((const uint4 *)row->logits.data + (int64_t)tile * words + threadIdx.x, words,
                &scratch.stage[turn]);
    return SPC_TILE;
}

/* Ask for any. */
static __device__ __forceinline__ int32_t ask_tile(const spc_view *row, int32_t vocab, int32_t tile,
                                                   int32_t turn)
{
    return tile < whole_tiles(row, vocab) ? ask_whole(row, tile, words_of_tile(row), turn)
                                          : ask_any_tile(row, vocab, tile, turn);
}

/* The two rows of a tile in their stages: of what lies there the types, or the entries. */
struct staged_pair {
    int32_t drafter, verifier;
};

/* Ask for a tile of both rows: the entries that come, as fetch_tile says. */
static __device__ staged_pair ask_pair(const spc_row_pair *pair, int32_t vocab, int32_t tile)
{
    staged_pair entries = {0, 0};

    __syncthreads(); /* all have read the tile before */
    if (pair->drafter.ready) entries.drafter = ask_tile(&pair->drafter.row, vocab, tile, 0);
    if (pair->verifier.ready) entries.verifier = ask_tile(&pair->verifier.row, vocab, tile, 1);
    end_fetch();
    return entries;
}

/* They are there.  Rows that are not ready add nothing, whatever lies in their stage. */
static __device__ staged_pair await_pair(const spc_row_pair *pair, int32_t vocab, int32_t tile,
                                         staged_pair entries)
{
    staged_pair type = {SPC_LOGITS_F32, SPC_LOGITS_F32};

    wait_fetch<0>();
    if (pair->drafter.ready) {
        type.drafter =
            complete_stage(&pair->drafter.row, vocab, tile, entries.drafter, &scratch.stage[0]);
    }
    if (pair->verifier.ready) {
        type.verifier =
            complete_stage(&pair->verifier.row, vocab, tile, entries.verifier, &scratch.stage[1]);
    }
    __syncthreads();
    return type;
}

/* The same of a tile of one row, in the first stage. */
static __device__ __forceinline__ int32_t ask_row(const spc_view *row, int32_t vocab, int32_t tile)
{
    int32_t entries;

    __syncthreads(); /* all have read the tile before */
    entries = ask_tile(row, vocab, tile, 0);
    end_fetch();
    return entries;
}

static __device__ __forceinline__ int32_t await_row(const spc_view *row, int32_t vocab,
                                                    int32_t tile, int32_t entries)
{
    int32_t type;

    wait_fetch<0>();
    type = complete_stage(row, vocab, tile, entries, &scratch.stage[0]);
    __syncthreads();
    return type;
}

/* Four logits, from entry i on, of a tile that lies in a stage. */
static __device__ __forceinline__ void staged_four(const tile_stage *stage, int32_t type, int32_t i,
                                                   float *z)
{
    if (type == SPC_LOGITS_F32) {
        const uint4 four = stage->word[i / 4];

        z[0] = spc_bits_float(four.x);
        z[1] = spc_bits_float(four.y);
        z[2] = spc_bits_float(four.z);
        z[3] = spc_bits_float(four.w);
        return;
    }

    const uint2 four = ((const uint2 *)stage)[i / 4];

    if (type == SPC_LOGITS_BF16) {
        z[0] = lower_of(four.x);
        z[1] = upper_of(four.x);
        z[2] = lower_of(four.y);
        z[3] = upper_of(four.y);
    } else {
        z[0] = spc_half_float((uint16_t)four.x);
        z[1] = spc_half_float((uint16_t)(four.x >> 16));
        z[2] = spc_half_float((uint16_t)four.y);
        z[3] = spc_half_float((uint16_t)(four.y >> 16));
    }
}

#endif
