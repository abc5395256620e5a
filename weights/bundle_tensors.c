/* SPDX-License-Identifier: Apache-2.0 */
/* bundle_tensors.c - the tensors of a bundle's files: safetensors and its shards, GGUF and its
 * parts. */
#include "bundle_parts.h"
#include "json.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    const spc_bundle_open_file *f;
    spc_status status = spc_bundle_open_named(b, name, &f, err);

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
        status = spc_json_refused(label_of(b, index).text, &problem, text, err);
    } else if (!json_is_object(map)) {
        status = spc_error_set(err, SPC_EFORMAT, "%s: expected an object 'weight_map'",
                               label_of(b, index).text);
    } else {
        status = read_shards(b, map, index, err);
    }
    json_decref(root);
    return status;
}

/* A tensor of a text model that is part of a model of text and images, by the name it has in a
 * text model by itself; NULL: it is of another part. */
static const char *name_in_text(const char *name)
{
    static const char *const part[] = {"language_model.", "model.language_model."};

    if (strncmp(name, part[0], strlen(part[0])) == 0) return name + strlen(part[0]);
    return strncmp(name, part[1], strlen(part[1])) == 0 ? name + strlen(part[1]) : NULL;
}

/* "model.language_model.norm.weight" to "model.norm.weight": the first part's name stays. */
static void rename_in_text(char *name, const char *rest)
{
    size_t kept = strncmp(name, "model.", 6) == 0 ? 6 : 0;

    memmove(name + kept, rest, strlen(rest) + 1);
}

/* Of a model of text and images the text model alone: its tensors under the names that they have in
 * one by itself, and a head beside it; those of other parts are not read. */
static void keep_text_model(spc_tensor_list *list)
{
    int32_t kept = 0;
    bool part = false;

    for (int32_t i = 0; i < list->count; i++) part |= name_in_text(list->tensor[i].name) != NULL;
    if (!part) return;
    for (int32_t i = 0; i < list->count; i++) {
        spc_tensor t = list->tensor[i];
        char *name = (char *)(uintptr_t)t.name;
        const char *rest = name_in_text(name);
        void *owned = list->owned[i];

        if (!rest && strncmp(name, "lm_head.", 8) != 0) {
            free(name);
            free(owned);
            continue;
        }
        if (rest) rename_in_text(name, rest);
        list->tensor[kept] = t;
        list->owned[kept++] = owned;
    }
    list->count = kept;
}

spc_status spc_bundle_read_safetensors(spc_bundle *b, spc_error *err)
{
    static const char index[] = "model.safetensors.index.json";
    bool shards = !spc_bundle_has_file(b, "model.safetensors") && spc_bundle_has_file(b, index);
    spc_status status =
        shards ? read_index(b, index, err) : read_shard(b, "model.safetensors", err);

    if (status == SPC_OK) keep_text_model(&b->list);
    return status;
}

/* ---- GGUF -------------------------------------------------------------------------------------
 */

bool spc_bundle_split_name(const char *name, int *number, int *count)
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
    const spc_bundle_open_file *f;
    spc_gguf *g, **grown;
    int32_t before = b->list.count;
    spc_status status = spc_bundle_open_named(b, name, &f, err);

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
        return status == SPC_OK ? spc_bundle_no_memory(b->where, err) : status;
    }
    b->part = grown;
    b->part[b->part_count++] = g;
    status = spc_gguf_tensors(l.text, b->part[0], g, &b->list, err);
    for (int32_t i = 0; i < g->tensor_count && status == SPC_OK; i++) {
        if (b->list.owned[before + i]) spc_bundle_let_go(b, &g->tensor[i]); /* copied */
    }
    return status;
}

spc_status spc_bundle_read_gguf(spc_bundle *b, const char *name, spc_error *err)
{
    int number = 1, named = 1;
    bool split = spc_bundle_split_name(name, &number, &named);
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

/* Weights by their name, which are not read: of PyTorch, of an adapter, of another name. */
static bool looks_like_weights(const char *name)
{
    static const char *const ends[] = {".safetensors", ".bin", ".pt", ".pth"};
    size_t length = strlen(name);

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);

        if (length > n && strcmp(name + length - n, ends[i]) == 0) return true;
    }
    return false;
}

spc_status spc_bundle_find_gguf(const char *folder, char out[NAME_MAX + 1], spc_error *err)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    spc_status status = SPC_OK;
    char other[84] = ""; /* quoted */

    out[0] = '\0';
    if (!dir) {
        return spc_error_set(err, SPC_EIO, "%s: cannot be listed: %s", folder, strerror(errno));
    }
    while (status == SPC_OK && (entry = readdir(dir)) != NULL) {
        int number = 1, count;

        if (!spc_bundle_begins_gguf(folder, entry->d_name)) {
            if (looks_like_weights(entry->d_name)) {
                (void)snprintf(other, sizeof other, " but '%.76s'", entry->d_name);
            }
            continue;
        }
        if (spc_bundle_split_name(entry->d_name, &number, &count) && number != 1) continue;
        if (out[0]) {
            status = spc_error_set(err, SPC_EIO,
                                   "%s: holds several GGUF models ('%.80s', '%.80s'): give the "
                                   "file that is meant",
                                   folder, out, entry->d_name);
        }
        (void)snprintf(out, NAME_MAX + 1, "%s", entry->d_name);
    }
    (void)closedir(dir);
    if (status == SPC_OK && !out[0]) {
        return spc_error_set(err, SPC_EIO,
                             "%s: expected config.json and model.safetensors (or its shards and "
                             "model.safetensors.index.json), or one GGUF file; found no weights%s",
                             folder, other);
    }
    return status;
}
