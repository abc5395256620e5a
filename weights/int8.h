/* SPDX-License-Identifier: Apache-2.0 */
/* int8.h - matrices made smaller at load: 8-bit integers with a scale for each output. */
#ifndef SPC_WEIGHTS_INT8_H
#define SPC_WEIGHTS_INT8_H

#include "bundle.h"

/* Threads that share a loop out: items [0, count) in ranges that begin at multiples of grain, each
 * for one call of `share`; returns when all are done. */
typedef void (*spc_share_fn)(void *user, int32_t thread, int32_t from, int32_t to);
typedef struct {
    void (*run)(void *team, int32_t count, int32_t grain, spc_share_fn share, void *user);
    void *team; /* handed to run */
} spc_sharing;

/* A matrix of F32, F16 or BF16 becomes I8 with scales beside it, NAME_scale [rows] in float32, in
 * memory of its own (views of tensors end); one of any other type or without values, and a name
 * that no tensor of rank 2 has, are left alone.
 *
 *   scale[r] = max |row r| / 127     q = nearest whole number (ties to even) of x / scale[r]
 *
 * so that a weight is off by half a scale at most; a row of zeros has scale 0.
 *
 * sharing   the rows are shared out by it; NULL: the calling thread does all.  The numbers are the
 *           same
 *
 * SPC_ENUMERIC NaN or infinity among them, named; SPC_EMODEL there is a tensor NAME_scale;
 * SPC_ENOMEM */
spc_status spc_int8_quantise(spc_bundle *bundle, const char *name, const spc_sharing *sharing,
                             spc_error *err);

#endif
