/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - the device's calls of spc/verify.h: check on the host, launch, say what went wrong. */
#include "launch.h"

static spc_status launched(cudaError_t code, spc_error *err)
{
    if (code == cudaSuccess) return SPC_OK;
    return spc_error_set(err, SPC_EDEVICE, "CUDA: the launch failed: %s", cudaGetErrorString(code));
}

spc_status spc_cuda_draw_batch(const spc_draw_batch *batch, spc_stream stream, spc_error *err)
{
    spc_status status = spc_draw_batch_check(batch, err);

    return status ? status : launched(spc_launch_draw(batch, stream), err);
}

spc_status spc_cuda_verify_batch(const spc_verify_batch *batch, spc_stream stream, spc_error *err)
{
    spc_status status = spc_verify_batch_check(batch, err);

    return status ? status : launched(spc_launch_verify(batch, stream), err);
}
