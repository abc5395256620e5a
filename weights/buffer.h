/* SPDX-License-Identifier: Apache-2.0 */
/* buffer.h - bytes that grow. */
#ifndef SPC_WEIGHTS_BUFFER_H
#define SPC_WEIGHTS_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Begin with {NULL, 0, 0}; free(data) at the end. */
typedef struct {
    char *data;
    size_t count, capacity;
} spc_buffer_bytes;

/* Room for so many bytes in all; false: no memory. */
static inline bool spc_bytes_reserve(spc_buffer_bytes *b, size_t total)
{
    size_t capacity = b->capacity ? b->capacity : 64;
    char *grown;

    if (total > SIZE_MAX / 4) return false;
    while (capacity < total) capacity *= 2;
    if (capacity == b->capacity) return true;
    grown = realloc(b->data, capacity);
    if (!grown) return false;
    b->data = grown;
    b->capacity = capacity;
    return true;
}

static inline bool spc_bytes_put(spc_buffer_bytes *b, const char *bytes, size_t count)
{
    if (count == 0) return true;
    if (!spc_bytes_reserve(b, b->count + count)) return false;
    memcpy(b->data + b->count, bytes, count);
    b->count += count;
    return true;
}

#endif
