/* SPDX-License-Identifier: Apache-2.0 */
/* toyshard_device.h - the ranks of toyshard.h on a device, whose steps end before the next rank
 * reads them; behind device_memory.h and toyshard.h. */
#ifndef SPC_TESTS_TOYSHARD_DEVICE_H
#define SPC_TESTS_TOYSHARD_DEVICE_H

static inline spc_status device_verify_combine(const spc_verify_batch *v, const spc_shards *shards,
                                               int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_cuda_verify_combine(v, shards, step, stream, err);

    ok(cudaDeviceSynchronize(), "combine");
    return status;
}

static inline spc_status device_draw_combine(const spc_draw_batch *draw, const spc_shards *shards,
                                             int32_t step, spc_stream stream, spc_error *err)
{
    spc_status status = spc_cuda_draw_combine(draw, shards, step, stream, err);

    ok(cudaDeviceSynchronize(), "combine");
    return status;
}

static const toy_shard_calls device_shards = {spc_cuda_verify_partial, device_verify_combine,
                                              spc_cuda_draw_partial, device_draw_combine};

#endif
