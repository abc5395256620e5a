/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.c - the files of a model, a folder's or a program's: opened, looked through, closed. */
#include "bundle_parts.h"

#include "bundle_tokenizer.h"
#include "tokenizer_read.h"

#include <assert.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *spc_bundle_copy_text(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = malloc(bytes);

    if (copy) memcpy(copy, text, bytes);
    return copy;
}

spc_status spc_bundle_no_memory(const char *where, spc_error *err)
{
    return spc_error_set(err, SPC_ENOMEM, "%s: no memory to open it", where);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const spc_tensor *)a)->name, ((const spc_tensor *)b)->name);
}

/* Sort for finding, keeping each aligned copy with the bundle (their order does not matter). */
static spc_status sort_tensors(spc_bundle *b, spc_error *err)
{
    if (b->list.count == 0) return SPC_OK;
    qsort(b->list.tensor, (size_t)b->list.count, sizeof *b->list.tensor, by_name);
    for (int32_t i = 0; i < b->list.count; i++) {
        b->bytes += b->list.tensor[i].bytes;
        if (i == 0 || strcmp(b->list.tensor[i - 1].name, b->list.tensor[i].name) != 0) continue;
        return spc_error_set(err, SPC_EFORMAT, "%s: tensor '%.100s' occurs twice", b->where,
                             b->list.tensor[i].name);
    }
    return SPC_OK;
}

spc_status spc_bundle_put(spc_bundle *b, const spc_tensor *tensor, void *owned, spc_error *err)
{
    spc_tensor *there = (spc_tensor *)(uintptr_t)spc_bundle_find(b, tensor->name);

    assert(!there || !owned);
    if (there) {
        const char *name = there->name;

        spc_bundle_let_go(b, there);
        b->bytes += tensor->bytes - there->bytes;
        *there = *tensor;
        there->name = name;
        return SPC_OK;
    }
    if (!spc_tensor_list_add(&b->list, tensor, owned)) return spc_bundle_no_memory(b->where, err);
    b->bytes = 0;
    return sort_tensors(b, err);
}

/* ---- open and close ---------------------------------------------------------------------------
 */

/* gguf: the file of that kind to read, or NULL */
static spc_status open_bundle(const char *where, const char *folder, const char *gguf,
                              const spc_blob *blob, int32_t count, spc_bundle **out, spc_error *err)
{
    spc_bundle *b = calloc(1, sizeof *b);
    spc_status status;

    *out = NULL;
    if (!b) return spc_bundle_no_memory(where, err);
    b->where = spc_bundle_copy_text(where);
    b->folder = folder ? spc_bundle_copy_text(folder) : NULL;
    b->blob = count > 0 ? malloc((size_t)count * sizeof *b->blob) : NULL;
    if (b->blob) {
        memcpy(b->blob, blob, (size_t)count * sizeof *b->blob);
        b->blob_count = count;
    }
    if (!b->where || (folder && !b->folder) || b->blob_count != count) {
        status = spc_bundle_no_memory(where, err);
    } else {
        status = gguf ? spc_bundle_read_gguf(b, gguf, err) : spc_bundle_read_safetensors(b, err);
    }
    if (status == SPC_OK) status = sort_tensors(b, err);
    if (status != SPC_OK) {
        spc_bundle_close(b);
        return status;
    }
    *out = b;
    return SPC_OK;
}

/* A GGUF file by its path. */
static spc_status open_file_of(const char *path, spc_bundle **out, spc_error *err)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = spc_bundle_copy_text(slash ? path : ".");
    spc_status status;

    if (!folder) return spc_bundle_no_memory(path, err);
    if (slash) folder[slash > path ? slash - path : 1] = '\0';
    if (!spc_bundle_begins_gguf(folder, name)) {
        free(folder);
        return spc_error_set(err, SPC_EIO,
                             "%s: expected a folder with config.json and model.safetensors, or a "
                             "GGUF file; found a file that is not GGUF",
                             path);
    }
    status = open_bundle(path, folder, name, NULL, 0, out, err);
    free(folder);
    return status;
}

spc_status spc_bundle_open(const char *path, spc_bundle **out, spc_error *err)
{
    static const char *const weights[] = {"model.safetensors", "model.safetensors.index.json"};
    spc_bundle asked = {.folder = (char *)(uintptr_t)path};
    struct stat facts;
    char gguf[NAME_MAX + 1];
    spc_status status;

    *out = NULL;
    if (stat(path, &facts) != 0) {
        return spc_bundle_cannot_open(path, "; expected a model folder or a GGUF file", err);
    }
    if (!S_ISDIR(facts.st_mode)) return open_file_of(path, out, err);
    if (spc_bundle_has_file(&asked, weights[0]) || spc_bundle_has_file(&asked, weights[1])) {
        return open_bundle(path, path, NULL, NULL, 0, out, err);
    }
    status = spc_bundle_find_gguf(path, gguf, err);
    if (status != SPC_OK) return status;
    return open_bundle(path, path, gguf, NULL, 0, out, err);
}

spc_status spc_bundle_open_memory(const char *where, const spc_blob *files, int32_t count,
                                  spc_bundle **out, spc_error *err)
{
    const char *gguf = NULL;

    for (int32_t i = 0; i < count; i++) {
        int number = 1, parts;

        if (spc_bundle_is_gguf(files[i].name) &&
            (!spc_bundle_split_name(files[i].name, &number, &parts) || number == 1)) {
            gguf = files[i].name;
        }
        if (strcmp(files[i].name, "model.safetensors") == 0) {
            return open_bundle(where, NULL, NULL, files, count, out, err);
        }
    }
    return open_bundle(where, NULL, gguf, files, count, out, err);
}

void spc_bundle_close(spc_bundle *b)
{
    if (!b) return;
    spc_tensor_list_free(&b->list);
    for (int32_t i = 0; i < b->part_count; i++) spc_gguf_close(b->part[i]);
    free(b->part);
    for (int32_t i = 0; i < b->file_count; i++) spc_bundle_close_file(&b->file[i]);
    free(b->file);
    free(b->blob);
    free(b->folder);
    free(b->where);
    free(b);
}

/* ---- what a bundle tells ----------------------------------------------------------------------
 */

const char *spc_bundle_where(const spc_bundle *b)
{
    return b->where;
}

int32_t spc_bundle_count(const spc_bundle *b)
{
    return b->list.count;
}

const spc_tensor *spc_bundle_tensor(const spc_bundle *b, int32_t i)
{
    return i >= 0 && i < b->list.count ? &b->list.tensor[i] : NULL;
}

const spc_tensor *spc_bundle_find(const spc_bundle *b, const char *name)
{
    spc_tensor wanted = {.name = name};

    if (b->list.count == 0) return NULL;
    return bsearch(&wanted, b->list.tensor, (size_t)b->list.count, sizeof wanted, by_name);
}

uint64_t spc_bundle_bytes(const spc_bundle *b)
{
    return b->bytes;
}

/* ---- tokenizers ---- */

spc_status spc_bundle_tokenizer(spc_bundle *b, spc_tokenizer **out, spc_error *err)
{
    static const char name[] = "tokenizer.json";
    const char *text;
    size_t bytes;
    spc_status status;

    *out = NULL;
    if (b->part_count > 0 && spc_gguf_has_tokenizer(b->part[0])) {
        json_t *root;

        status = spc_gguf_tokenizer_tree(b->where, b->part[0], &root, err);
        if (status == SPC_OK) status = spc_tokenizer_open_tree(b->where, root, out, err);
        json_decref(root);
        return status;
    }
    status = spc_bundle_file(b, name, &text, &bytes, err);
    if (status == SPC_OK) status = spc_tokenizer_open(b->where, text, bytes, out, err);
    spc_bundle_forget(b, name);
    return status;
}

spc_status spc_bundle_same_tokenizer(spc_bundle *a, spc_bundle *b, bool *same, spc_error *err)
{
    static const char name[] = "tokenizer.json";
    const char *text[2];
    size_t bytes[2];
    spc_status status;

    *same = false;
    if (a->part_count > 0 || b->part_count > 0) return SPC_OK; /* GGUF files have no text */
    if (!spc_bundle_has_file(a, name) || !spc_bundle_has_file(b, name)) return SPC_OK;
    status = spc_bundle_file(a, name, &text[0], &bytes[0], err);
    if (status == SPC_OK) status = spc_bundle_file(b, name, &text[1], &bytes[1], err);
    if (status != SPC_OK) return status;
    *same = bytes[0] == bytes[1] && memcmp(text[0], text[1], bytes[0]) == 0;
    if (*same) spc_bundle_forget(b, name); /* it is not read any more */
    return SPC_OK;
}
