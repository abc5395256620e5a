/* SPDX-License-Identifier: Apache-2.0 */
/* linear_wide.cuh - what linear_tile.cu hands over to linear_wide.cu. */
#ifndef SPC_CUDA_LINEAR_WIDE_CUH
#define SPC_CUDA_LINEAR_WIDE_CUH

#include "linear_tile.cuh"

enum { WIDE_ROWS = 64 }; /* of a launch */

/* Up to WIDE_ROWS rows; a.wide is there. */
cudaError_t launch_wide(const tile_work &work, cudaStream_t stream);

#endif
