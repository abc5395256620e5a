/* SPDX-License-Identifier: Apache-2.0 */
/* tiny.h - checkpoints of random numbers, made from a config alone: whatever tensors the plan of
 * its architecture names, in the shapes it names. */
#ifndef SPC_TESTS_TINY_H
#define SPC_TESTS_TINY_H

#include "host/engine.h"

typedef struct {
    spc_bundle *bundle;
    spc_plan *plan;
    spc_config config;
    char *file; /* what bundle reads */
} tiny_model;

/* Tensors of float32, normally distributed: vectors around 1, matrices so that their outputs have
 * about the spread of their inputs, embeddings times `spread`.  Asserts that all goes well. */
tiny_model tiny_open(const char *config_json, uint64_t seed, double spread);
/* The same with tensors of float32, bfloat16 and float16 in turn. */
tiny_model tiny_open_mixed(const char *config_json, uint64_t seed);
/* The same with tensors of bfloat16 or of float16 alone. */
tiny_model tiny_open_halves(const char *config_json, uint64_t seed, bool bf16);
void tiny_close(tiny_model *model);

/* Bind to a backend with these verbs; to the CPU. */
spc_runner *tiny_load_on(const spc_backend_ops *ops, const tiny_model *model, spc_backend *backend,
                         const spc_limits *limits);
spc_runner *tiny_load(const tiny_model *model, spc_backend *backend, const spc_limits *limits);

#endif
