/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_stage.h - the way of matrices to the device: rows are laid out by the CPU's threads
 * in pinned memory, and copied from there while the next ones are laid out. */
#ifndef SPC_HOST_BACKEND_CUDA_STAGE_H
#define SPC_HOST_BACKEND_CUDA_STAGE_H

#include "host/backend.h"
#include "host/meter.h"

#include "cuda/ops.h"
#include "weights/tensor.h"

typedef struct spc_cuda_stage spc_cuda_stage;

/* threads   that lay out rows, the caller's own included, 1 or more; where the system refuses so
 *           many, fewer
 * bytes     of pinned memory for one piece of a matrix, of two; more where a row is longer
 *
 * SPC_ENOMEM, SPC_EDEVICE */
spc_status spc_cuda_stage_open(spc_backend *backend, int32_t threads, size_t bytes,
                               spc_cuda_stage **out, spc_error *err);

/* Send a weight's part of a tensor.  Returns before the last rows have arrived: they are there when
 * the stage is closed, or before anything that the backend's stream is given later.
 *
 * to   its planes, or its rows with zeros behind each up to the stride; scales beside 8-bit types
 *      are not sent */
spc_status spc_cuda_stage_send(spc_cuda_stage *stage, const spc_weight *weight,
                               const spc_tensor *tensor, const spc_cuda_matrix *to, spc_error *err);

/* Tell a meter of what is laid out from now on, piece by piece.  NULL: nobody asks. */
void spc_cuda_stage_meter(spc_cuda_stage *stage, spc_meter *meter);

/* Waits for the copies.  NULL is allowed. */
void spc_cuda_stage_close(spc_cuda_stage *stage);

#endif
