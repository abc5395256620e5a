/* SPDX-License-Identifier: Apache-2.0 */
/* shape.h - models for benchmarks: a checkpoint, or the sizes of a published model with random
 * weights; and the rate at which a device reads memory. */
#ifndef SPC_BENCH_SHAPE_H
#define SPC_BENCH_SHAPE_H

#include "host/engine.h"

#define SHAPE_NAMES                                                                        \
    "llama-1b, llama-3b, llama-8b, qwen-0.5b, qwen-1.5b, qwen-7b, gemma-2b, gemma-9b and " \
    "tiny, tiny-drafter"

typedef struct {
    spc_bundle *bundle;
    spc_plan *plan;
    spc_config config;
    char *file; /* of a shape: what bundle reads */
} shape_model;

/* Weights of no meaning for a backend of these ops, of a type that bench/shape_weights.h knows
 * (NULL: bf16); they pass through the host's memory.  model holds zeros; close it also when this
 * fails. */
spc_status shape_open(const char *name, const char *weights, const spc_backend_ops *ops,
                      shape_model *model, spc_error *err);
/* The same of a checkpoint's folder or an embedded model; weights as `spc --weights` has them,
 * NULL: as they are. */
spc_status shape_open_model(const char *name, const char *weights, shape_model *model,
                            spc_error *err);
void shape_close(shape_model *model);

/* GB/s at which the device of a backend reads memory, far more than its caches hold; 0: it could
 * not be measured, err says why. */
double shape_read_rate(const spc_backend_ops *ops, const spc_backend *backend, spc_error *err);

#endif
