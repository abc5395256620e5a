/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_scale.h - the scales that lie beside matrices of 8-bit floats and integers. */
#ifndef SPC_HOST_CPU_SCALE_H
#define SPC_HOST_CPU_SCALE_H

#include "cpu_kernels.h"

#include "weights/bundle.h"

#include "host/plan/plan.h"

/* Fill in the scale of an 8-bit matrix, which is part w of tensor t.  Its values are those of the
 * tensor NAME_scale_inv or NAME_scale (either multiplies), or 1 where there is none (but for I8):
 *
 *   [], [1] or [1, 1]                one for all
 *   [rows] or [rows, 1]       one for each output
 *   [rows / 128, cols / 128]  one for each block of 128 x 128, rounded up
 *
 * scaled  config.json says that there is one: 1 does not stand in for it
 * own     receives the values as float32, to be freed by the caller
 *
 * SPC_ESHAPE names the tensor; SPC_EUNSUPPORTED integers with a zero point; SPC_EUSAGE where a
 * rank's part cannot be scaled; SPC_ENOMEM */
spc_status spc_cpu_bind_scale(const spc_bundle *bundle, const spc_weight *w, const spc_tensor *t,
                              bool scaled, spc_matrix *matrix, float **own, spc_error *err);

#endif
