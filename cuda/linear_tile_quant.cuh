/* SPDX-License-Identifier: Apache-2.0 */
/* linear_tile_quant.cuh - what linear_tile.cu hands over to linear_tile_quant.cu. */
#ifndef SPC_CUDA_LINEAR_TILE_QUANT_CUH
#define SPC_CUDA_LINEAR_TILE_QUANT_CUH

#include "linear_tile.cuh"

/* Do these quantised matrices end, and their scales begin, where the kernels can take them? */
bool tile_quant_takes(const spc_linear_args &a);

/* Most tiles of a block; 2 there are at least. */
int32_t tile_quant_most(spc_weight_type type);

/* Up to TILE_ROWS rows times quantised matrices; there is no norm. */
cudaError_t launch_tile_quant(const tile_work &work, int32_t tiles, cudaStream_t stream);

#endif
