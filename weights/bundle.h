/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.h - a model as it lies on disk or in memory: named files, and the tensors inside them. */
#ifndef SPC_WEIGHTS_BUNDLE_H
#define SPC_WEIGHTS_BUNDLE_H

#include <stdbool.h>

#include <spc/status.h>

#include "tensor.h"

typedef struct spc_bundle spc_bundle;

/* A file that is already in memory (the embedded models). */
typedef struct {
    const char *name; /* "config.json"; borrowed until the bundle is closed */
    const void *data; /* [bytes], borrowed until the bundle is closed */
    size_t bytes;
} spc_blob;

/* Open the folder of a Hugging Face checkpoint, or a GGUF file, or the folder of one GGUF model.
 * A GGUF file is known by its first bytes, or by the name *.gguf.
 * Maps the weights (model.safetensors, or every shard that model.safetensors.index.json names; a
 * GGUF file, or every part of a split one) read-only and checks every header.  Nothing is copied
 * but tensors whose bytes are not aligned for their type, and of GGUF what gguf_model.h lists.
 *
 * Of a checkpoint of a model of text and images the text model's tensors are shown, under the names
 * that they have in a text model by itself.
 *
 * A GGUF model shows the tensor names and the text files of a Hugging Face checkpoint; config.json
 * and tokenizer.json are made from its metadata, and files beside it are not looked at.
 *
 * Fails with SPC_EIO, SPC_EFORMAT, SPC_EMODEL, SPC_ESHAPE, SPC_ENOMEM; safe on untrusted files. */
spc_status spc_bundle_open(const char *path, spc_bundle **out, spc_error *err);

/* The same over files in memory; `where` names them in messages ("embedded:verifier").  The array
 * is copied, names and bytes are borrowed.  A file *.gguf is read when there is no
 * model.safetensors. */
spc_status spc_bundle_open_memory(const char *where, const spc_blob *files, int32_t count,
                                  spc_bundle **out, spc_error *err);

/* Close and unmap.  NULL is allowed.  Every view of it ends here. */
void spc_bundle_close(spc_bundle *bundle);

/* What to call this model in messages: the folder as given, or `where`. */
const char *spc_bundle_where(const spc_bundle *bundle);

/* Contents of a text file of the model ("config.json", "tokenizer.json"), borrowed until the bundle
 * closes (read on first use and kept; not thread-safe).  SPC_EIO when there is none, named in full.
 */
spc_status spc_bundle_file(spc_bundle *bundle, const char *name, const char **data, size_t *bytes,
                           spc_error *err);

/* Let go of what spc_bundle_file keeps of a text file; views of it end.  Asked for again it is read
 * again.  One that was not read is no error. */
void spc_bundle_forget(spc_bundle *bundle, const char *name);

/* Does the model have a file of that name?  (A file that is there and unreadable still counts, and
 * so does a link that leads nowhere.) */
bool spc_bundle_has_file(const spc_bundle *bundle, const char *name);

/* Number of tensors, and the i-th in the order of names; the i-th is NULL when out of range. */
int32_t spc_bundle_count(const spc_bundle *bundle);
const spc_tensor *spc_bundle_tensor(const spc_bundle *bundle, int32_t i);

/* The tensor of that name, or NULL. */
const spc_tensor *spc_bundle_find(const spc_bundle *bundle, const char *name);

/* Put a tensor in the place of the one of its name, or beside the others where there is none.  Ends
 * the views that were had of tensors (not of their names and data).  What was mapped of a file for
 * the one that was there leaves memory.
 *
 * tensor   its name is copied, its data is borrowed until the bundle is closed
 * owned    what holds the data, malloc'd, taken over, also on failure; NULL: somebody else does.
 *          NULL where a tensor is replaced
 *
 * SPC_ENOMEM: nothing has changed */
spc_status spc_bundle_put(spc_bundle *bundle, const spc_tensor *tensor, void *owned,
                          spc_error *err);

/* Bytes of all tensors together. */
uint64_t spc_bundle_bytes(const spc_bundle *bundle);

#endif
