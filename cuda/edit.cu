/* SPDX-License-Identifier: Apache-2.0 */
/* edit.cu - what sessions do to rows of logits before anything reads them (rules/edit.h).  Bound by
 * latency: some numbers in each row, or a look at the bits of a mask. */
#include "ops.h"

#include "ops.cuh"

/* A thread per edit: no two are of one logit. */
static __global__ void __launch_bounds__(OPS_THREADS)
    edit_kernel(const __grid_constant__ spc_edit_args a)
{
    const int32_t i = (int32_t)(blockIdx.x * OPS_THREADS + threadIdx.x);

    begin_behind_previous();
    if (i >= a.edits) return;

    const spc_logit_edit e = a.edit[i];
    const int32_t column = e.token - a.first;

    if (column < 0 || column >= a.width) return; /* another rank's */
    float *logit = a.logits + (int64_t)e.row * a.width + column;

    *logit = spc_logit_edited(*logit, e.factor, e.add);
}

/* A thread per logit of the masked rows. */
static __global__ void __launch_bounds__(OPS_THREADS)
    mask_kernel(const __grid_constant__ spc_edit_args a)
{
    const int32_t blocks = blocks_of_row(a.width), block = (int32_t)blockIdx.x;
    const int32_t i = block / blocks;
    const int32_t column = block % blocks * OPS_THREADS + (int32_t)threadIdx.x;
    const int32_t token = a.first + column;

    begin_behind_previous();
    if (column >= a.width) return;
    if (a.allowed[(int64_t)i * a.words + token / 32] >> (token % 32) & 1u) return;
    a.logits[(int64_t)a.masked[i] * a.width + column] = -SPC_INFINITY;
}

cudaError_t spc_cuda_edit(const spc_edit_args *a, cudaStream_t stream)
{
    cudaError_t code = cudaSuccess;

    if (!a->logits || a->width < 0 || a->first < 0 || a->edits < 0 || a->masks < 0 ||
        (a->edits > 0 && !a->edit) || (a->masks > 0 && (!a->masked || !a->allowed)) ||
        (a->masks > 0 && (int64_t)a->words * 32 < (int64_t)a->first + a->width)) {
        return cudaErrorInvalidValue;
    }
    if (a->width == 0) return cudaSuccess;
    if (a->edits > 0) code = launch_op(edit_kernel, blocks_of_row(a->edits), *a, stream);
    if (code != cudaSuccess || a->masks == 0) return code;
    return launch_op(mask_kernel, (int64_t)a->masks * blocks_of_row(a->width), *a, stream);
}
