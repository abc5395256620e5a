/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.c - the files of a model: a folder's, mapped, or a program's own. */
#include "bundle.h"

#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file that was opened.  Weights are mapped; text is mapped too and copied nowhere. */
typedef struct {
    char *name;
    void *map; /* NULL: an empty file, or borrowed */
    size_t mapped;
    const void *data;
    size_t bytes;
} open_file;

struct spc_bundle {
    char *where;
    char *folder;   /* NULL: in memory */
    spc_blob *blob; /* [blob_count] in memory */
    int32_t blob_count;
    open_file *file; /* [file_count] opened so far */
    int32_t file_count;
    spc_tensor_list list; /* sorted by name */
    uint64_t bytes;
};

static char *copy_text(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = malloc(bytes);

    if (copy) memcpy(copy, text, bytes);
    return copy;
}

static spc_status no_memory(const char *where, spc_error *err)
{
    return spc_error_set(err, SPC_ENOMEM, "%s: no memory to open it", where);
}

/* ---- files ------------------------------------------------------------------------------------
 */

/* "folder/name"; false when it is longer than any path can be. */
static bool path_of(const spc_bundle *b, const char *name, char path[PATH_MAX])
{
    int length = snprintf(path, PATH_MAX, "%s/%s", b->folder, name);

    return length >= 0 && length < PATH_MAX;
}

/* Map a regular file read-only. */
static spc_status map_file(const char *path, open_file *out, spc_error *err)
{
    struct stat facts;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    spc_status status = SPC_OK;

    if (fd < 0) {
        return spc_error_set(err, SPC_EIO, "%s: cannot be opened: %s", path, strerror(errno));
    }
    if (fstat(fd, &facts) != 0 || !S_ISREG(facts.st_mode)) {
        status = spc_error_set(err, SPC_EIO, "%s: expected a regular file", path);
    } else if (facts.st_size > 0) {
        out->mapped = out->bytes = (size_t)facts.st_size;
        out->map = mmap(NULL, out->mapped, PROT_READ, MAP_PRIVATE, fd, 0);
        if (out->map == MAP_FAILED) {
            out->map = NULL;
            status = spc_error_set(err, SPC_EIO, "%s: cannot be mapped: %s", path, strerror(errno));
        }
    }
    (void)close(fd);
    out->data = out->map ? out->map : "";
    return status;
}

/* Open a file of the model by name, once. */
static spc_status open_named(spc_bundle *b, const char *name, const open_file **out, spc_error *err)
{
    open_file f = {NULL, NULL, 0, NULL, 0}, *grown;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < b->file_count; i++) {
        if (strcmp(b->file[i].name, name) != 0) continue;
        *out = &b->file[i];
        return SPC_OK;
    }
    if (b->folder) {
        char path[PATH_MAX];

        if (!path_of(b, name, path)) {
            return spc_error_set(err, SPC_EIO, "%.200s...: the path is too long", b->where);
        }
        status = map_file(path, &f, err);
    } else {
        for (int32_t i = 0; i < b->blob_count; i++) {
            if (strcmp(b->blob[i].name, name) != 0) continue;
            f.data = b->blob[i].data;
            f.bytes = b->blob[i].bytes;
        }
        if (!f.data) status = spc_error_set(err, SPC_EIO, "%s/%s: no such file", b->where, name);
    }
    if (status != SPC_OK) return status;
    f.name = copy_text(name);
    grown = f.name ? realloc(b->file, (size_t)(b->file_count + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(f.name);
        if (f.map) (void)munmap(f.map, f.mapped);
        return no_memory(b->where, err);
    }
    b->file = grown;
    b->file[b->file_count] = f;
    *out = &b->file[b->file_count++];
    return SPC_OK;
}

bool spc_bundle_has_file(const spc_bundle *b, const char *name)
{
    bool found = false;

    if (b->folder) {
        char path[PATH_MAX];

        found = path_of(b, name, path) && access(path, F_OK) == 0;
    }
    for (int32_t i = 0; i < b->blob_count && !found; i++) {
        found = strcmp(b->blob[i].name, name) == 0;
    }
    return found;
}

spc_status spc_bundle_file(spc_bundle *b, const char *name, const char **data, size_t *bytes,
                           spc_error *err)
{
    const open_file *f;
    spc_status status = open_named(b, name, &f, err);

    *data = NULL;
    *bytes = 0;
    if (status != SPC_OK) return status;
    *data = f->data;
    *bytes = f->bytes;
    return SPC_OK;
}

/* ---- weights ----------------------------------------------------------------------------------
 */

/* "where/name" for messages, cut when longer. */
typedef struct {
    char text[256];
} label;

static label label_of(const spc_bundle *b, const char *name)
{
    label l;

    (void)snprintf(l.text, sizeof l.text, "%s/%s", b->where, name);
    return l;
}

static spc_status read_shard(spc_bundle *b, const char *name, spc_error *err)
{
    const open_file *f;
    spc_status status = open_named(b, name, &f, err);

    if (status != SPC_OK) return status;
    return spc_safetensors_read(label_of(b, name).text, f->data, f->bytes, &b->list, err);
}

/* A shard is a file of the folder itself: an index must not lead anywhere else. */
static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < 200;
}

static bool was_read(const spc_bundle *b, const char *name)
{
    for (int32_t i = 0; i < b->file_count; i++) {
        if (strcmp(b->file[i].name, name) == 0) return true;
    }
    return false;
}

static spc_status read_shards(spc_bundle *b, const json_t *map, const char *index, spc_error *err)
{
    const char *tensor;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)map, tensor, value)
    {
        const char *name = json_string_value(value);

        if (!name || !is_plain_name(name) || strcmp(name, index) == 0) {
            return spc_error_set(err, SPC_EFORMAT,
                                 "%s: weight_map: expected the name of a file beside it for tensor "
                                 "'%.100s'",
                                 label_of(b, index).text, tensor);
        }
        if (was_read(b, name)) continue;

        spc_status status = read_shard(b, name, err);

        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

static spc_status read_index(spc_bundle *b, const char *index, spc_error *err)
{
    const char *text;
    size_t bytes;
    json_error_t problem;
    spc_status status = spc_bundle_file(b, index, &text, &bytes, err);

    if (status != SPC_OK) return status;

    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    const json_t *map = json_object_get(root, "weight_map");

    if (!root) {
        status = spc_error_set(err, SPC_EFORMAT, "%s: line %d: %s", label_of(b, index).text,
                               problem.line, problem.text);
    } else if (!json_is_object(map)) {
        status = spc_error_set(err, SPC_EFORMAT, "%s: expected an object 'weight_map'",
                               label_of(b, index).text);
    } else {
        status = read_shards(b, map, index, err);
    }
    json_decref(root);
    return status;
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
        return spc_error_set(err, SPC_EFORMAT, "%s: tensor '%.100s' stands in two files", b->where,
                             b->list.tensor[i].name);
    }
    return SPC_OK;
}

static spc_status read_weights(spc_bundle *b, spc_error *err)
{
    static const char index[] = "model.safetensors.index.json";
    spc_status status;

    if (!spc_bundle_has_file(b, "model.safetensors") && spc_bundle_has_file(b, index)) {
        status = read_index(b, index, err);
    } else {
        status = read_shard(b, "model.safetensors", err);
    }
    if (status != SPC_OK) return status;
    return sort_tensors(b, err);
}

/* ---- open and close ---------------------------------------------------------------------------
 */

static spc_status open_bundle(const char *where, const char *folder, const spc_blob *blob,
                              int32_t count, spc_bundle **out, spc_error *err)
{
    spc_bundle *b = calloc(1, sizeof *b);
    spc_status status;

    *out = NULL;
    if (!b) return no_memory(where, err);
    b->where = copy_text(where);
    b->folder = folder ? copy_text(folder) : NULL;
    b->blob = count > 0 ? malloc((size_t)count * sizeof *b->blob) : NULL;
    if (b->blob) {
        memcpy(b->blob, blob, (size_t)count * sizeof *b->blob);
        b->blob_count = count;
    }
    if (!b->where || (folder && !b->folder) || b->blob_count != count) {
        status = no_memory(where, err);
    } else {
        status = read_weights(b, err);
    }
    if (status != SPC_OK) {
        spc_bundle_close(b);
        return status;
    }
    *out = b;
    return SPC_OK;
}

spc_status spc_bundle_open(const char *folder, spc_bundle **out, spc_error *err)
{
    struct stat facts;

    *out = NULL;
    if (stat(folder, &facts) != 0) {
        return spc_error_set(err, SPC_EIO, "%s: cannot be opened: %s; expected a model folder",
                             folder, strerror(errno));
    }
    if (!S_ISDIR(facts.st_mode)) {
        return spc_error_set(
            err, SPC_EIO,
            "%s: expected a folder with config.json and model.safetensors, found a "
            "file",
            folder);
    }
    return open_bundle(folder, folder, NULL, 0, out, err);
}

spc_status spc_bundle_open_memory(const char *where, const spc_blob *files, int32_t count,
                                  spc_bundle **out, spc_error *err)
{
    return open_bundle(where, NULL, files, count, out, err);
}

void spc_bundle_close(spc_bundle *b)
{
    if (!b) return;
    spc_tensor_list_free(&b->list);
    for (int32_t i = 0; i < b->file_count; i++) {
        free(b->file[i].name);
        if (b->file[i].map) (void)munmap(b->file[i].map, b->file[i].mapped);
    }
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
