/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.c - the files of a model: a folder's, mapped, or a program's own. */
#include "bundle.h"

#include "bundle_tokenizer.h"
#include "gguf_model.h"
#include "tokenizer_read.h"

#include <assert.h>
#include <dirent.h>
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
    void *map; /* NULL: an empty file, borrowed, or made */
    size_t mapped;
    char *made; /* text that stands for a file, or NULL */
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
    spc_gguf **part; /* [part_count] of a GGUF model, in order; the first holds the metadata */
    int32_t part_count;
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
            status = spc_error_set(err, errno == ENOMEM ? SPC_ENOMEM : SPC_EIO,
                                   "%s: %" PRIu64 " MiB cannot be mapped: %s", path,
                                   (uint64_t)out->mapped >> 20, strerror(errno));
        }
    }
    (void)close(fd);
    out->data = out->map ? out->map : "";
    return status;
}

static void close_file(open_file *f)
{
    free(f->name);
    free(f->made);
    if (f->map) (void)munmap(f->map, f->mapped);
}

static bool is_gguf(const char *name)
{
    size_t length = strlen(name);

    return length > 5 && strcmp(name + length - 5, ".gguf") == 0;
}

/* The text that a GGUF model's metadata amounts to. */
static spc_status make_file(const spc_bundle *b, const char *name, open_file *out, spc_error *err)
{
    spc_gguf_string jinja;
    spc_status status;

    if (strcmp(name, "chat_template.jinja") == 0 && spc_gguf_chat_template(b->part[0], &jinja)) {
        out->data = jinja.text; /* of the mapped file */
        out->bytes = (size_t)jinja.bytes;
        return SPC_OK;
    }
    if (strcmp(name, "config.json") == 0) {
        status = spc_gguf_config(b->where, b->part[0], &b->list, &out->made, &out->bytes, err);
    } else if (strcmp(name, "tokenizer.json") == 0) {
        status = spc_gguf_tokenizer(b->where, b->part[0], &out->made, &out->bytes, err);
    } else {
        status = spc_error_set(err, SPC_EIO, "%s: its metadata holds no %s", b->where, name);
    }
    out->data = out->made;
    return status;
}

/* Open a file of the model by name, once. */
static spc_status open_named(spc_bundle *b, const char *name, const open_file **out, spc_error *err)
{
    open_file f = {.name = NULL}, *grown;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < b->file_count; i++) {
        if (strcmp(b->file[i].name, name) != 0) continue;
        *out = &b->file[i];
        return SPC_OK;
    }
    if (b->part_count > 0 && !is_gguf(name)) {
        status = make_file(b, name, &f, err);
    } else if (b->folder) {
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
        close_file(&f);
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

    if (b->part_count > 0) {
        spc_gguf_string jinja;

        return strcmp(name, "config.json") == 0 ||
               (strcmp(name, "chat_template.jinja") == 0 &&
                spc_gguf_chat_template(b->part[0], &jinja)) ||
               (strcmp(name, "tokenizer.json") == 0 && spc_gguf_has_tokenizer(b->part[0]));
    }
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

void spc_bundle_forget(spc_bundle *b, const char *name)
{
    for (int32_t i = 0; i < b->file_count; i++) {
        if (strcmp(b->file[i].name, name) != 0) continue;
        close_file(&b->file[i]);
        b->file[i] = b->file[--b->file_count];
        return;
    }
}

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

/* Pages of a mapped file that hold nothing but a tensor leave memory; read again they come back. */
static void let_go(const spc_bundle *b, const spc_tensor *t)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)t->data;
    uintptr_t from = (at + page - 1) / page * page, to = (at + (uintptr_t)t->bytes) / page * page;

    for (int32_t i = 0; i < b->file_count; i++) {
        uintptr_t map = (uintptr_t)b->file[i].map;

        if (map == 0 || at < map || at - map >= b->file[i].mapped || from >= to) continue;
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
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

/* Is every tensor of the index in one of its files?  Each counted once: a name that stands twice is
 * another error. */
static spc_status check_promised(const spc_bundle *b, const json_t *map, const char *index,
                                 spc_error *err)
{
    const char *tensor;
    json_t *value;
    size_t there = 0;

    for (int32_t i = 0; i < b->list.count; i++) {
        there += json_object_get(map, b->list.tensor[i].name) != NULL;
    }
    if (there >= json_object_size(map)) return SPC_OK;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value)
    {
        bool found = false;

        for (int32_t i = 0; i < b->list.count && !found; i++) {
            found = strcmp(b->list.tensor[i].name, tensor) == 0;
        }
        if (found) continue;
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: weight_map: tensor '%.100s' is not in %.100s: is the file of "
                             "another model, or cut short?",
                             label_of(b, index).text, tensor, json_string_value(value));
    }
    return SPC_OK;
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
    return check_promised(b, map, index, err);
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

        let_go(b, there);
        b->bytes += tensor->bytes - there->bytes;
        *there = *tensor;
        there->name = name;
        return SPC_OK;
    }
    if (!spc_tensor_list_add(&b->list, tensor, owned)) return no_memory(b->where, err);
    b->bytes = 0;
    return sort_tensors(b, err);
}

static spc_status read_weights(spc_bundle *b, spc_error *err)
{
    static const char index[] = "model.safetensors.index.json";

    if (!spc_bundle_has_file(b, "model.safetensors") && spc_bundle_has_file(b, index)) {
        return read_index(b, index, err);
    }
    return read_shard(b, "model.safetensors", err);
}

/* ---- GGUF -------------------------------------------------------------------------------------
 */

/* The names of a split model end in -00001-of-00003.gguf.  false: this is no such name. */
static bool split_name(const char *name, int *number, int *count)
{
    size_t length = strlen(name);
    int used = 0;

    return length > 20 &&
           sscanf(name + length - 20, "-%5d-of-%5d.gguf%n", number, count, &used) == 2 &&
           used == 20;
}

/* The value of a key of split files, or what counts where there is none. */
static int64_t split_value(const spc_gguf *g, const char *key, int64_t missing)
{
    int64_t value;

    return spc_gguf_integer(spc_gguf_find(g, key), &value) ? value : missing;
}

static spc_status read_part(spc_bundle *b, const char *name, int64_t number, int64_t count,
                            spc_error *err)
{
    const open_file *f;
    spc_gguf *g, **grown;
    int32_t before = b->list.count;
    spc_status status = open_named(b, name, &f, err);

    if (status != SPC_OK) return status;

    label l = b->folder ? (label){""} : label_of(b, name);

    if (b->folder) (void)snprintf(l.text, sizeof l.text, "%.150s/%.100s", b->folder, name);
    status = spc_gguf_read(l.text, f->data, f->bytes, &g, err);
    if (status != SPC_OK) return status;
    if (split_value(g, "split.no", 0) != number ||
        (number > 0 && split_value(g, "split.count", 1) != count)) {
        status = spc_error_set(err, SPC_EFORMAT,
                               "%s: expected part %d of a model (split.no, split.count), found "
                               "part %d of %d; open a split model by its first file",
                               l.text, (int)number + 1, (int)split_value(g, "split.no", 0) + 1,
                               (int)split_value(g, "split.count", 1));
    }
    grown = status == SPC_OK ? realloc(b->part, (size_t)(b->part_count + 1) * sizeof *grown) : NULL;
    if (!grown) {
        spc_gguf_close(g);
        return status == SPC_OK ? no_memory(b->where, err) : status;
    }
    b->part = grown;
    b->part[b->part_count++] = g;
    status = spc_gguf_tensors(l.text, b->part[0], g, &b->list, err);
    for (int32_t i = 0; i < g->tensor_count && status == SPC_OK; i++) {
        if (b->list.owned[before + i]) let_go(b, &g->tensor[i]); /* copied */
    }
    return status;
}

/* All parts, from the name of the first. */
static spc_status read_gguf(spc_bundle *b, const char *name, spc_error *err)
{
    int number = 1, named = 1;
    bool split = split_name(name, &number, &named);
    spc_status status = read_part(b, name, 0, 1, err);
    int64_t count, tensors;

    if (status != SPC_OK) return status;
    count = split_value(b->part[0], "split.count", 1);
    tensors = split_value(b->part[0], "split.tensors.count", b->list.count);
    if (count > 1 && (!split || number != 1 || named != count)) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: has %d parts (split.count): expected a name that ends in "
                             "-00001-of-%05d.gguf, and the other parts beside it",
                             b->where, (int)count, (int)count);
    }
    for (int64_t i = 1; i < count && status == SPC_OK; i++) {
        char part[PATH_MAX];

        (void)snprintf(part, sizeof part, "%.*s-%05d-of-%05d.gguf", (int)strlen(name) - 20, name,
                       (int)i + 1, named);
        status = read_part(b, part, i, count, err);
    }
    if (status == SPC_OK && tensors != b->list.count) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: its %d parts hold %d tensors, split.tensors.count says %d",
                             b->where, (int)count, (int)b->list.count, (int)tensors);
    }
    return status;
}

/* The one GGUF model of a folder: a file, or the first of its parts.  *out stays empty when there
 * is none. */
static spc_status find_gguf(const char *folder, char out[NAME_MAX + 1], spc_error *err)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    spc_status status = SPC_OK;

    out[0] = '\0';
    if (!dir) {
        return spc_error_set(err, SPC_EIO, "%s: cannot be listed: %s", folder, strerror(errno));
    }
    while (status == SPC_OK && (entry = readdir(dir)) != NULL) {
        int number = 1, count;

        if (!is_gguf(entry->d_name)) continue;
        if (split_name(entry->d_name, &number, &count) && number != 1) continue;
        if (out[0]) {
            status = spc_error_set(err, SPC_EIO,
                                   "%s: holds several GGUF models ('%.80s', '%.80s'): give the "
                                   "file that is meant",
                                   folder, out, entry->d_name);
        }
        (void)snprintf(out, NAME_MAX + 1, "%s", entry->d_name);
    }
    (void)closedir(dir);
    return status;
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
        status = gguf ? read_gguf(b, gguf, err) : read_weights(b, err);
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
    char *folder;
    spc_status status;

    if (!is_gguf(name)) {
        return spc_error_set(err, SPC_EIO,
                             "%s: expected a folder with config.json and model.safetensors, or a "
                             "file of the name *.gguf; found a file",
                             path);
    }
    folder = copy_text(slash ? path : ".");
    if (!folder) return no_memory(path, err);
    if (slash) folder[slash > path ? slash - path : 1] = '\0';
    status = open_bundle(path, folder, name, NULL, 0, out, err);
    free(folder);
    return status;
}

spc_status spc_bundle_open(const char *path, spc_bundle **out, spc_error *err)
{
    static const char *const weights[] = {"model.safetensors", "model.safetensors.index.json"};
    spc_bundle asked = {.folder = (char *)(uintptr_t)path};
    struct stat facts;
    char gguf[NAME_MAX + 1] = "";
    spc_status status = SPC_OK;

    *out = NULL;
    if (stat(path, &facts) != 0) {
        return spc_error_set(err, SPC_EIO,
                             "%s: cannot be opened: %s; expected a model folder or a GGUF file",
                             path, strerror(errno));
    }
    if (!S_ISDIR(facts.st_mode)) return open_file_of(path, out, err);
    if (!spc_bundle_has_file(&asked, weights[0]) && !spc_bundle_has_file(&asked, weights[1])) {
        status = find_gguf(path, gguf, err);
    }
    if (status != SPC_OK) return status;
    return open_bundle(path, path, gguf[0] ? gguf : NULL, NULL, 0, out, err);
}

spc_status spc_bundle_open_memory(const char *where, const spc_blob *files, int32_t count,
                                  spc_bundle **out, spc_error *err)
{
    const char *gguf = NULL;

    for (int32_t i = 0; i < count; i++) {
        int number = 1, parts;

        if (is_gguf(files[i].name) &&
            (!split_name(files[i].name, &number, &parts) || number == 1)) {
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
    for (int32_t i = 0; i < b->file_count; i++) close_file(&b->file[i]);
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
