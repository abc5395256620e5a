/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - launchers of drawing and verification, callable from C; ops.h has those of the ops of
 * a plan.
 *
 * Launchers take shapes that were checked, launch and return; they allocate nothing, wait for
 * nothing and read no device memory, so they can be captured in a graph. */
#ifndef SPC_CUDA_LAUNCH_H
#define SPC_CUDA_LAUNCH_H

#include <spc/verify.h>

#include <stdbool.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* spc_cuda_draw_batch and spc_cuda_verify_batch once the batch has passed its check. */
cudaError_t spc_launch_draw(const spc_draw_batch *batch, cudaStream_t stream);
cudaError_t spc_launch_verify(const spc_verify_batch *batch, cudaStream_t stream);

/* The same with batch->workspace: spread over the whole device. */
cudaError_t spc_launch_queued_draw(const spc_draw_batch *batch, cudaStream_t stream);
cudaError_t spc_launch_queued_verify(const spc_verify_batch *batch, cudaStream_t stream);

/* spc_cuda_*_partial and _combine once everything has passed its check. */
cudaError_t spc_launch_verify_partial(const spc_verify_batch *batch, const spc_shards *shards,
                                      int32_t step, cudaStream_t stream);
cudaError_t spc_launch_verify_combine(const spc_verify_batch *batch, const spc_shards *shards,
                                      int32_t step, cudaStream_t stream);
cudaError_t spc_launch_draw_partial(const spc_draw_batch *batch, const spc_shards *shards,
                                    int32_t step, cudaStream_t stream);
cudaError_t spc_launch_draw_combine(const spc_draw_batch *batch, const spc_shards *shards,
                                    int32_t step, cudaStream_t stream);

/* While this is on, launchers load the kernels that the calling thread would launch and launch
 * nothing: to load one may take memory and wait for the device, which must not be while launches
 * are recorded in a graph. */
void spc_cuda_only_load(bool on);
bool spc_cuda_only_loads(void);

/* Load the kernels of the calls without a workspace, with one, and over slices.  *most: as
 * load_kernel of device.cuh has it. */
cudaError_t spc_load_blocks(size_t *most);
cudaError_t spc_load_queue(size_t *most);
cudaError_t spc_load_shards(size_t *most);

#ifdef __cplusplus
}
#endif

#endif
