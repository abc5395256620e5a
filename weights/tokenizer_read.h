/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_read.h - inside the reader of tokenizer.json: the file under its hands, and its parts.
 */
#ifndef SPC_WEIGHTS_TOKENIZER_READ_H
#define SPC_WEIGHTS_TOKENIZER_READ_H

#include "tokenizer_parts.h"

#include <jansson.h>

enum { SPC_TOKENIZER_IDS_MAX = 1 << 20 };

typedef struct {
    const char *where;
    const json_t *root;
    spc_tokenizer *t;
    spc_error *err;
} spc_tokenizer_reader;

/* spc_tokenizer_open behind the parsing; root is borrowed. */
spc_status spc_tokenizer_open_tree(const char *where, const json_t *root, spc_tokenizer **out,
                                   spc_error *err);

spc_status spc_tokenizer_no_memory(const spc_tokenizer_reader *r);

/* SPC_EFORMAT: what is wrong. */
spc_status spc_tokenizer_wrong(const spc_tokenizer_reader *r, const char *what);

/* SPC_EMODEL: a part that is not supported, and what is. */
spc_status spc_tokenizer_unsupported(const spc_tokenizer_reader *r, const char *part,
                                     const char *found, const char *known);

/* The "type" of an object, "?" where there is none. */
const char *spc_tokenizer_type(const json_t *object);

/* Is there a value other than null and false? */
bool spc_tokenizer_is_set(const json_t *value);

/* "model": vocabulary, merges or scores (tokenizer_model_read.c).  byte_level: the pre-tokenizer
 * turns bytes into characters. */
spc_status spc_tokenizer_read_model(const spc_tokenizer_reader *r, bool byte_level);

/* "normalizer", "pre_tokenizer" (tokenizer_steps.c). */
spc_status spc_tokenizer_read_normalizer(const spc_tokenizer_reader *r, const json_t *normalizer);
spc_status spc_tokenizer_read_pretokenizer(const spc_tokenizer_reader *r,
                                           const json_t *pretokenizer);

/* Does a pre-tokenizer end in ByteLevel? */
bool spc_tokenizer_is_byte_level(const json_t *pretokenizer);

#endif
