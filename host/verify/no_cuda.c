/* SPDX-License-Identifier: Apache-2.0 */
/* no_cuda.c - the device's calls of spc/verify.h in a build without CUDA: they say so. */
#include <spc/verify.h>

static spc_status unsupported(spc_error *err)
{
    return spc_error_set(
        err, SPC_EUNSUPPORTED,
        "this build of spc has no CUDA kernels: configure it with -DSPC_CUDA=ON and a "
        "CUDA toolkit, or use the calls for the CPU");
}

spc_status spc_cuda_draw_batch(const spc_draw_batch *batch, spc_stream stream, spc_error *err)
{
    (void)batch;
    (void)stream;
    return unsupported(err);
}

spc_status spc_cuda_verify_batch(const spc_verify_batch *batch, spc_stream stream, spc_error *err)
{
    (void)batch;
    (void)stream;
    return unsupported(err);
}

spc_status spc_cuda_kernels_load(size_t *stack_bytes, spc_error *err)
{
    if (stack_bytes) *stack_bytes = 0;
    return unsupported(err);
}

spc_status spc_cuda_workspace_init(void *workspace, size_t bytes, spc_stream stream, spc_error *err)
{
    (void)workspace;
    (void)bytes;
    (void)stream;
    return unsupported(err);
}

spc_status spc_cuda_verify_partial(const spc_verify_batch *batch, const spc_shards *shards,
                                   int32_t step, spc_stream stream, spc_error *err)
{
    (void)batch;
    (void)shards;
    (void)step;
    (void)stream;
    return unsupported(err);
}

spc_status spc_cuda_verify_combine(const spc_verify_batch *batch, const spc_shards *shards,
                                   int32_t step, spc_stream stream, spc_error *err)
{
    (void)batch;
    (void)shards;
    (void)step;
    (void)stream;
    return unsupported(err);
}

spc_status spc_cuda_draw_partial(const spc_draw_batch *batch, const spc_shards *shards,
                                 int32_t step, spc_stream stream, spc_error *err)
{
    (void)batch;
    (void)shards;
    (void)step;
    (void)stream;
    return unsupported(err);
}

spc_status spc_cuda_draw_combine(const spc_draw_batch *batch, const spc_shards *shards,
                                 int32_t step, spc_stream stream, spc_error *err)
{
    (void)batch;
    (void)shards;
    (void)step;
    (void)stream;
    return unsupported(err);
}
