/* SPDX-License-Identifier: Apache-2.0 */
/* config_read.h - inside the reader of config.json: values by key, and the parts of a config. */
#ifndef SPC_WEIGHTS_CONFIG_READ_H
#define SPC_WEIGHTS_CONFIG_READ_H

#include "config.h"

#include <jansson.h>

/* Bounds that keep every later product of sizes far from wrapping. */
enum {
    SPC_CONFIG_VOCAB = 1 << 20,
    SPC_CONFIG_DIM = 1 << 17,
    SPC_CONFIG_HEADS = 4096,
    SPC_CONFIG_FFN = 1 << 20
};

/* An object of a config file. */
typedef struct {
    const json_t *root;
    char where[256]; /* "folder/config.json" */
    spc_error *err;
} spc_config_reader;

/* SPC_EMODEL: what was expected of a key, and what it holds. */
spc_status spc_config_wrong(const spc_config_reader *r, const char *key, const char *expected);

/* A whole number of least to most; `missing` stands in for an absent key, unless it is negative. */
spc_status spc_config_size(const spc_config_reader *r, const char *key, int32_t least, int32_t most,
                           int32_t missing, int32_t *out);

/* The same for a number. */
spc_status spc_config_number(const spc_config_reader *r, const char *key, double least, double most,
                             double missing, double *out);

spc_status spc_config_bool(const spc_config_reader *r, const char *key, bool missing, bool *out);

/* An object, or NULL where there is none. */
spc_status spc_config_object(const spc_config_reader *r, const char *key, const json_t **out);

/* rope and local_rope; context and the names of layers must be there (config_rope.c). */
spc_status spc_config_read_ropes(const spc_config_reader *r, spc_config *c);

/* Everything that differs from family to family: biases, activation, windows, caps
 * (config_family.c). */
spc_status spc_config_read_family(const spc_config_reader *r, spc_config *c);

/* How many experts there are, and what a token takes of them; ffn is then one expert's
 * (config_experts.c). */
spc_status spc_config_read_experts(const spc_config_reader *r, spc_config *c);

/* A model of text and images whose text model is a decoder: from here on the reader reads that
 * one's keys, and c has its architecture.  Others are left as they are (config_container.c). */
spc_status spc_config_open_container(spc_config_reader *r, spc_config *c);

/* Is it an encoder-decoder of T5's kind?  Its files have keys of their own. */
bool spc_config_is_t5(const spc_config *c);

/* The whole config of such a model but for its names and stop ids; bundle: whether its head is a
 * tensor of its own (config_t5.c). */
spc_status spc_config_read_t5(const spc_config_reader *r, const spc_bundle *bundle, spc_config *c);

#endif
