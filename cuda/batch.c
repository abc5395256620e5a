/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - the device's calls of spc/verify.h: check on the host, launch, say what went wrong. */
#include "launch.h"

static _Thread_local bool only_load;

void spc_cuda_only_load(bool on)
{
    only_load = on;
}

bool spc_cuda_only_loads(void)
{
    return only_load;
}

static spc_status launched(cudaError_t code, spc_error *err)
{
    if (code == cudaSuccess) return SPC_OK;
    return spc_error_set(err, SPC_EDEVICE, "CUDA: the launch failed: %s", cudaGetErrorString(code));
}

/* Make the device's stacks as large as `each`, where they are smaller, and say what all take. */
static cudaError_t reserve_stacks(size_t each, size_t *bytes)
{
    int device = 0, processors = 0, threads = 0;
    size_t there = 0;
    cudaError_t code = cudaGetDevice(&device);

    if (code == cudaSuccess) {
        code = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    }
    if (code == cudaSuccess) {
        code = cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerMultiProcessor, device);
    }
    if (code == cudaSuccess) code = cudaDeviceGetLimit(&there, cudaLimitStackSize);
    if (code == cudaSuccess && each > there) code = cudaDeviceSetLimit(cudaLimitStackSize, each);
    *bytes = each * (size_t)processors * (size_t)threads;
    return code;
}

spc_status spc_cuda_kernels_load(size_t *stack_bytes, spc_error *err)
{
    size_t each = 0, all = 0;
    cudaError_t code = spc_load_blocks(&each);

    if (code == cudaSuccess) code = spc_load_queue(&each);
    if (code == cudaSuccess) code = spc_load_shards(&each);
    if (code == cudaSuccess) code = reserve_stacks(each, &all);
    if (stack_bytes) *stack_bytes = all;
    if (code == cudaErrorMemoryAllocation) {
        return spc_error_set(err, SPC_ENOMEM,
                             "CUDA: no memory for the kernels' stacks, %zu MiB on this device",
                             all >> 20);
    }
    if (code == cudaSuccess) return SPC_OK;
    return spc_error_set(err, SPC_EDEVICE, "CUDA: the kernels cannot be loaded: %s",
                         cudaGetErrorString(code));
}

spc_status spc_cuda_draw_batch(const spc_draw_batch *batch, spc_stream stream, spc_error *err)
{
    spc_status status = spc_draw_batch_check(batch, err);

    if (status) return status;
    return launched(batch->workspace ? spc_launch_queued_draw(batch, stream)
                                     : spc_launch_draw(batch, stream),
                    err);
}

spc_status spc_cuda_verify_batch(const spc_verify_batch *batch, spc_stream stream, spc_error *err)
{
    spc_status status = spc_verify_batch_check(batch, err);

    if (status) return status;
    return launched(batch->workspace ? spc_launch_queued_verify(batch, stream)
                                     : spc_launch_verify(batch, stream),
                    err);
}

spc_status spc_cuda_workspace_init(void *workspace, size_t bytes, spc_stream stream, spc_error *err)
{
    if (!workspace || (uintptr_t)workspace % 16 != 0) {
        return spc_error_set(err, SPC_EUSAGE,
                             "workspace: expected an address in device memory that is a multiple "
                             "of 16, found %p",
                             workspace);
    }
    return launched(cudaMemsetAsync(workspace, 0, bytes, stream), err);
}

spc_status spc_cuda_verify_partial(const spc_verify_batch *batch, const spc_shards *shards,
                                   int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_verify_shards_check(batch, shards, step, err);

    if (status) return status;
    return launched(spc_launch_verify_partial(batch, shards, step, stream), err);
}

spc_status spc_cuda_verify_combine(const spc_verify_batch *batch, const spc_shards *shards,
                                   int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_verify_shards_check(batch, shards, step, err);

    if (status) return status;
    return launched(spc_launch_verify_combine(batch, shards, step, stream), err);
}

spc_status spc_cuda_draw_partial(const spc_draw_batch *batch, const spc_shards *shards,
                                 int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_draw_shards_check(batch, shards, step, err);

    if (status) return status;
    return launched(spc_launch_draw_partial(batch, shards, step, stream), err);
}

spc_status spc_cuda_draw_combine(const spc_draw_batch *batch, const spc_shards *shards,
                                 int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_draw_shards_check(batch, shards, step, err);

    if (status) return status;
    return launched(spc_launch_draw_combine(batch, shards, step, stream), err);
}
