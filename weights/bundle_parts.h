/* SPDX-License-Identifier: Apache-2.0 */
/* bundle_parts.h - what the files of bundle.h share: a bundle, its files, its tensors. */
#ifndef SPC_WEIGHTS_BUNDLE_PARTS_H
#define SPC_WEIGHTS_BUNDLE_PARTS_H

#include "bundle.h"
#include "gguf_model.h"

#include <limits.h>

/* A file that was opened.  Weights are mapped; text is mapped too and copied nowhere. */
typedef struct {
    char *name;
    void *map; /* NULL: an empty file, borrowed, or made */
    size_t mapped;
    char *made; /* text that stands for a file, or NULL */
    const void *data;
    size_t bytes;
} spc_bundle_open_file;

struct spc_bundle {
    char *where;
    char *folder;   /* NULL: in memory */
    spc_blob *blob; /* [blob_count] in memory */
    int32_t blob_count;
    spc_bundle_open_file *file; /* [file_count] opened so far */
    int32_t file_count;
    spc_gguf **part; /* [part_count] of a GGUF model, in order; the first holds the metadata */
    int32_t part_count;
    spc_tensor_list list; /* sorted by name */
    uint64_t bytes;
};

char *spc_bundle_copy_text(const char *text);
spc_status spc_bundle_no_memory(const char *where, spc_error *err);

/* ---- bundle_files.c ---- */

/* Is this the name of a GGUF file? */
bool spc_bundle_is_gguf(const char *name);
/* Has a file that name, or does it begin like one?  (Caches of models name files by their hash.) */
bool spc_bundle_begins_gguf(const char *folder, const char *name);
/* The error of a path that could not be opened, from errno; a link that leads nowhere is told of as
 * one.
 *
 * expected   what goes behind it */
spc_status spc_bundle_cannot_open(const char *path, const char *expected, spc_error *err);
/* Open a file of the model by name, once; valid until another is opened or forgotten. */
spc_status spc_bundle_open_named(spc_bundle *b, const char *name, const spc_bundle_open_file **out,
                                 spc_error *err);
void spc_bundle_close_file(spc_bundle_open_file *f);
/* Pages of a mapped file that hold nothing but a tensor leave memory; read again they come back. */
void spc_bundle_let_go(const spc_bundle *b, const spc_tensor *t);

/* ---- bundle_tensors.c: they are added to the list, in any order ---- */

/* model.safetensors, or all shards that its index names. */
spc_status spc_bundle_read_safetensors(spc_bundle *b, spc_error *err);
/* All parts, from the name of the first. */
spc_status spc_bundle_read_gguf(spc_bundle *b, const char *name, spc_error *err);
/* The names of a split model end in -00001-of-00003.gguf.  false: this is no such name. */
bool spc_bundle_split_name(const char *name, int *number, int *count);
/* The one GGUF model of a folder without safetensors: a file, or the first of its parts.  SPC_EIO
 * when there is none, or several. */
spc_status spc_bundle_find_gguf(const char *folder, char out[NAME_MAX + 1], spc_error *err);

#endif
