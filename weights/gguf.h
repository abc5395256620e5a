/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - one GGUF file: metadata by key, and the tensors behind it (versions 2 and 3, little
 * endian).  What the keys and names mean for a model is gguf_model.h's. */
#ifndef SPC_WEIGHTS_GGUF_H
#define SPC_WEIGHTS_GGUF_H

#include <stdbool.h>

#include <spc/status.h>

#include "tensor.h"

/* Types of metadata, as the file numbers them. */
typedef enum {
    SPC_GGUF_U8,
    SPC_GGUF_I8,
    SPC_GGUF_U16,
    SPC_GGUF_I16,
    SPC_GGUF_U32,
    SPC_GGUF_I32,
    SPC_GGUF_F32,
    SPC_GGUF_BOOL,
    SPC_GGUF_STRING,
    SPC_GGUF_ARRAY,
    SPC_GGUF_U64,
    SPC_GGUF_I64,
    SPC_GGUF_F64,
    SPC_GGUF_TYPES
} spc_gguf_type;

/* Bytes of the file; not terminated. */
typedef struct {
    const char *text; /* [bytes] */
    uint64_t bytes;
} spc_gguf_string;

typedef struct {
    spc_gguf_string key;
    spc_gguf_type type;
    spc_gguf_type of;          /* an array's elements; otherwise the type */
    uint64_t count;            /* an array's; otherwise 1 */
    const unsigned char *data; /* the first element */
} spc_gguf_value;

typedef struct {
    spc_gguf_value *value; /* [value_count] in the order of keys */
    spc_tensor *tensor;    /* [tensor_count] as the file orders them; names are owned, data is
                              borrowed; shapes outermost first */
    int32_t value_count, tensor_count;
} spc_gguf;

/* Read the tables of a file that lies in memory.  Every length, count, type and offset is checked
 * against the bytes there are; keys and tensors that stand there twice, tensors that overlap or end
 * behind the file, and types that are not supported are named.  Safe on untrusted bytes.
 *
 * where   names the file in messages
 * data    [bytes], outlives *out */
spc_status spc_gguf_read(const char *where, const void *data, uint64_t bytes, spc_gguf **out,
                         spc_error *err);
void spc_gguf_close(spc_gguf *gguf); /* NULL is allowed */

/* The value of a key, or NULL. */
const spc_gguf_value *spc_gguf_find(const spc_gguf *gguf, const char *key);

/* Values as C has them; false when the value is NULL, an array, or of another kind.  Numbers of any
 * width are read; *_at read an element of an array of such.  Strings are read one behind the other:
 * *at begins at 0 and is moved on (at most `count` times). */
bool spc_gguf_integer(const spc_gguf_value *value, int64_t *out);
bool spc_gguf_number(const spc_gguf_value *value, double *out);
bool spc_gguf_bool(const spc_gguf_value *value, bool *out);
bool spc_gguf_text(const spc_gguf_value *value, spc_gguf_string *out);
bool spc_gguf_integer_at(const spc_gguf_value *value, uint64_t i, int64_t *out);
bool spc_gguf_number_at(const spc_gguf_value *value, uint64_t i, double *out);
bool spc_gguf_text_next(const spc_gguf_value *value, uint64_t *at, spc_gguf_string *out);

#endif
