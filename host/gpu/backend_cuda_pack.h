/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_pack.h - quantised rows from the checkpoint's layout to the device's planes. */
#ifndef SPC_HOST_BACKEND_CUDA_PACK_H
#define SPC_HOST_BACKEND_CUDA_PACK_H

#include "cuda/ops.h"
#include "weights/tensor.h"

/* What a matrix of this type is on the device; SPC_WEIGHT_COUNT: there is no kernel for it. */
spc_weight_type spc_cuda_type_of(spc_dtype dtype);

/* Is it kept in planes (spc_cuda_matrix)? */
static inline bool spc_cuda_is_quantised(spc_weight_type type)
{
    return type >= SPC_WEIGHT_Q8_0 && type < SPC_WEIGHT_COUNT;
}

/* Where a row of each plane goes. */
typedef struct {
    uint8_t *data, *high, *scale, *step; /* as long as spc_cuda_planes_of says */
} spc_cuda_row;

/* One row into planes.
 *
 * type   a quantised one; of I8 and F8_* only the integers are written, scales lie elsewhere
 * from   the row's blocks as ggml lays them out, or its elements
 * cols   whole blocks, but for I8 and F8_* */
void spc_cuda_pack_row(spc_weight_type type, const uint8_t *from, int32_t cols,
                       const spc_cuda_row *to);

#endif
