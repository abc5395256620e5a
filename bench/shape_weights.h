/* SPDX-License-Identifier: Apache-2.0 */
/* shape_weights.h - random weights of any type for a plan whose checkpoint nobody has. */
#ifndef SPC_BENCH_SHAPE_WEIGHTS_H
#define SPC_BENCH_SHAPE_WEIGHTS_H

#include "host/plan/plan.h"
#include "weights/bundle.h"

/* The element type of matrices by its name in small letters ("bf16", "int8", "q4_k"); SPC_EUSAGE
 * lists those there are. */
spc_status shape_weights_type(const char *name, spc_dtype *out, spc_error *err);

/* Put every tensor of the plan into the bundle, the same megabyte again and again: matrices of this
 * type, or of Q8_0 where its blocks do not divide their rows (as published files do it), with
 * scales beside I8 and 8-bit floats; vectors and tables by relative position as BF16.
 *
 * once     tensors of one element type lie in the same memory, as large as the largest: enough for
 * a device, which gets copies, and 16 times as fast with 8 B of them; the caches of a CPU would
 * hold too much memory   receives what holds them, to be freed when the bundle has been closed */
spc_status shape_weights_put(const spc_plan *plan, spc_dtype type, bool once, spc_bundle *bundle,
                             char **memory, spc_error *err);

#endif
