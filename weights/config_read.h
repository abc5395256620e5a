/* SPDX-License-Identifier: Apache-2.0 */
/* config_read.h - inside the reader of config.json: values by key, and the parts of a config. */
#ifndef SPC_WEIGHTS_CONFIG_READ_H
#define SPC_WEIGHTS_CONFIG_READ_H

#include "config.h"

#include <jansson.h>

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

#endif
