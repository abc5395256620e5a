/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - one safetensors file: an 8-byte length, a JSON header, the bytes of the tensors.
 */
#ifndef SPC_WEIGHTS_SAFETENSORS_H
#define SPC_WEIGHTS_SAFETENSORS_H

#include <stdbool.h>

#include <spc/status.h>

#include "tensor.h"

/* Tensors of one or more files.  Names are owned; data is borrowed from the file's bytes, or owned
 * where it had to be copied to be aligned for its type. */
typedef struct {
    spc_tensor *tensor; /* [count] */
    void **owned;       /* [count] the tensor's aligned copy, or NULL */
    int32_t count;
    int32_t capacity;
} spc_tensor_list;

void spc_tensor_list_free(spc_tensor_list *list);

/* Append a tensor; its name is copied, `owned` (NULL: none) is taken over, also on failure.  false:
 * no memory. */
bool spc_tensor_list_add(spc_tensor_list *list, const spc_tensor *tensor, void *owned);

/* Append the tensors of a file that lies in memory.  Every claim of the header is checked: its
 * length, that it is JSON without duplicate keys, types and shapes, and that the tensors tile the
 * data exactly: no overlap, no hole, nothing behind the end.  Safe on untrusted bytes.
 *
 * where   names the file in messages
 * data    [bytes], outlives the list */
spc_status spc_safetensors_read(const char *where, const void *data, uint64_t bytes,
                                spc_tensor_list *list, spc_error *err);

#endif
