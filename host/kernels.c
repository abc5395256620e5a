/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c - the table of measured kernels: look up, read, write.
 *
 *     {"spc_kernels": 1, "gpu": "...", "driver": 13000, "toolkit": 13000, "rows": [1, 6, 16],
 *      "layers": [{"type": "bf16", "columns": 4864, "outputs": [896], "kernel": "tile",
 *                  "slices": 32, "tiles": [1, 1], "forward_us": [..], "default_us": [..]}]}
 *
 * Every field must be there and nothing else may be. */
#include "kernels.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, LINE_BYTES = 256 };

const int32_t spc_kernels_rows[SPC_KERNELS_ROWS] = {1, 6, 16};

/* ---- table ----------------------------------------------------------------------------------- */

const char *spc_kernels_shape_text(const spc_kernels_shape *s, char text[SPC_KERNELS_TEXT])
{
    int at = snprintf(text, SPC_KERNELS_TEXT, "%s [", s->type);

    for (int32_t p = 0; p < s->parts; p++) {
        at += snprintf(text + at, (size_t)(SPC_KERNELS_TEXT - at), "%s%d", p > 0 ? ", " : "",
                       (int)s->outputs[p]);
    }
    (void)snprintf(text + at, (size_t)(SPC_KERNELS_TEXT - at), "] x %d", (int)s->columns);
    return text;
}

bool spc_kernels_same(const spc_kernels_shape *a, const spc_kernels_shape *b)
{
    bool same = strcmp(a->type, b->type) == 0 && a->columns == b->columns && a->parts == b->parts;

    for (int32_t p = 0; same && p < a->parts; p++) same = a->outputs[p] == b->outputs[p];
    return same;
}

const spc_kernels_entry *spc_kernels_find(const spc_kernels *t, const spc_kernels_shape *shape)
{
    for (int32_t i = 0; i < t->count; i++) {
        if (spc_kernels_same(&t->entry[i].shape, shape)) return &t->entry[i];
    }
    return NULL;
}

spc_status spc_kernels_set(spc_kernels *t, const spc_kernels_entry *entry, spc_error *err)
{
    spc_kernels_entry *there = (spc_kernels_entry *)(uintptr_t)spc_kernels_find(t, &entry->shape);

    if (!there) {
        there = realloc(t->entry, (size_t)(t->count + 1) * sizeof *there);
        if (!there) return spc_error_set(err, SPC_ENOMEM, "no memory for a table of kernels");
        t->entry = there;
        there += t->count++;
    }
    *there = *entry;
    return SPC_OK;
}

void spc_kernels_clear(spc_kernels *t)
{
    free(t->entry);
    *t = (spc_kernels){0};
}

/* ---- read ------------------------------------------------------------------------------------ */

/* Where the reader stands, for messages. */
typedef struct {
    const char *path;
    char at[LINE_BYTES]; /* "" or "layer 3: " */
    spc_error *err;
} place;

static spc_status bad(const place *p, const char *expected)
{
    return spc_error_set(p->err, SPC_EINPUT,
                         "%s: %sexpected %s; write it anew with spc tune-kernels", p->path, p->at,
                         expected);
}

static bool read_int(const json_t *object, const char *key, int32_t low, int32_t high, int32_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_integer_value(value);

    if (!json_is_integer(value) || number < low || number > high) return false;
    *out = (int32_t)number;
    return true;
}

static bool read_text(const json_t *object, const char *key, char *out, size_t bytes)
{
    const char *text = json_string_value(json_object_get(object, key));

    if (!text || text[0] == '\0' || strlen(text) >= bytes) return false;
    (void)snprintf(out, bytes, "%s", text);
    return true;
}

/* An array of low to high whole numbers from 1 on; *count receives how many. */
static bool read_ints(const json_t *object, const char *key, size_t low, size_t high, int32_t *out,
                      int32_t *count)
{
    const json_t *list = json_object_get(object, key);
    size_t size = json_array_size(list);

    if (size < low || size > high) return false;
    for (size_t i = 0; i < size; i++) {
        const json_t *value = json_array_get(list, i);
        json_int_t number = json_integer_value(value);

        if (!json_is_integer(value) || number < 1 || number > INT32_MAX) return false;
        out[i] = (int32_t)number;
    }
    *count = (int32_t)size;
    return true;
}

static bool read_times(const json_t *object, const char *key, double *out, double *sum)
{
    const json_t *list = json_object_get(object, key);

    *sum = 0;
    if (json_array_size(list) != SPC_KERNELS_ROWS) return false;
    for (size_t i = 0; i < SPC_KERNELS_ROWS; i++) {
        out[i] = json_number_value(json_array_get(list, i));
        if (!(out[i] > 0 && out[i] < 1e12)) return false;
        *sum += out[i];
    }
    return true;
}

static spc_status read_layer(place *p, const json_t *layer, spc_kernels_entry *out)
{
    bool tile;
    int32_t two;
    double taken, before;

    if (!json_is_object(layer)) return bad(p, "an object");
    if (!read_text(layer, "type", out->shape.type, sizeof out->shape.type)) {
        return bad(p, "a string \"type\"");
    }
    if (!read_int(layer, "columns", 1, INT32_MAX, &out->shape.columns)) {
        return bad(p, "a number \"columns\"");
    }
    if (!read_ints(layer, "outputs", 1, SPC_KERNELS_PARTS, out->shape.outputs, &out->shape.parts)) {
        return bad(p, "\"outputs\": one to three numbers");
    }
    if (!read_text(layer, "kernel", out->kernel, sizeof out->kernel)) {
        return bad(p, "\"kernel\": \"row\", \"tile\" or \"quant\"");
    }
    tile = strcmp(out->kernel, "tile") == 0;
    if (!tile && strcmp(out->kernel, "row") != 0 && strcmp(out->kernel, "quant") != 0) {
        return bad(p, "\"kernel\": \"row\", \"tile\" or \"quant\"");
    }
    if (!read_int(layer, "slices", 1, 64, &out->slices)) return bad(p, "\"slices\" of 1 to 64");
    if (tile && !read_ints(layer, "tiles", 2, 2, out->tiles, &two)) {
        return bad(p, "\"tiles\": two numbers");
    }
    if (!read_times(layer, "forward_us", out->forward_us, &taken) ||
        !read_times(layer, "default_us", out->default_us, &before)) {
        return bad(p, "\"forward_us\" and \"default_us\": three times each");
    }
    if (taken > before) return bad(p, "an entry that is no slower than its default");
    return json_object_size(layer) == (tile ? 8u : 7u) ? SPC_OK : bad(p, "no other fields");
}

static spc_status read_layers(place *p, const json_t *list, spc_kernels *out)
{
    if (!json_is_array(list) || json_array_size(list) < 1 ||
        json_array_size(list) > SPC_KERNELS_MOST) {
        return bad(p, "\"layers\": a list of 1 to 4096");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        spc_kernels_entry entry = {0};
        spc_status status;

        (void)snprintf(p->at, sizeof p->at, "layer %zu: ", i);
        status = read_layer(p, json_array_get(list, i), &entry);
        if (status == SPC_OK && spc_kernels_find(out, &entry.shape)) {
            status = bad(p, "a layer that is not there before");
        }
        if (status == SPC_OK) status = spc_kernels_set(out, &entry, p->err);
        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

static spc_status read_table(place *p, const json_t *root, spc_kernels *out)
{
    int32_t version, rows[SPC_KERNELS_ROWS], count;

    if (!read_int(root, "spc_kernels", VERSION, VERSION, &version)) {
        return bad(p, "\"spc_kernels\": 1");
    }
    if (!read_text(root, "gpu", out->gpu, sizeof out->gpu)) return bad(p, "a string \"gpu\"");
    if (!read_int(root, "driver", 1, INT32_MAX, &out->driver) ||
        !read_int(root, "toolkit", 1, INT32_MAX, &out->toolkit)) {
        return bad(p, "numbers \"driver\" and \"toolkit\"");
    }
    if (!read_ints(root, "rows", SPC_KERNELS_ROWS, SPC_KERNELS_ROWS, rows, &count) ||
        memcmp(rows, spc_kernels_rows, sizeof rows) != 0) {
        return bad(p, "\"rows\": [1, 6, 16]");
    }
    if (json_object_size(root) != 6) return bad(p, "no other fields");
    return read_layers(p, json_object_get(root, "layers"), out);
}

spc_status spc_kernels_read(const char *path, spc_kernels *out, spc_error *err)
{
    place p = {path, "", err};
    json_error_t why;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    spc_status status;

    *out = (spc_kernels){0};
    if (!root) {
        if (why.line < 1) return spc_error_set(err, SPC_EINPUT, "%s: %s", path, why.text);
        return spc_error_set(err, SPC_EINPUT, "%s: line %d: %s", path, why.line, why.text);
    }
    (void)snprintf(out->where, sizeof out->where, "%s", path);
    status = read_table(&p, root, out);
    if (status != SPC_OK) spc_kernels_clear(out);
    json_decref(root);
    return status;
}

/* ---- write ----------------------------------------------------------------------------------- */

static json_t *json_ints(const int32_t *value, int32_t count)
{
    json_t *list = json_array();

    for (int32_t i = 0; i < count; i++) {
        if (json_array_append_new(list, json_integer(value[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *json_times(const double *value)
{
    /* to nanoseconds: a file that is read is the file that was written */
    return json_pack("[f, f, f]", round(value[0] * 1e3) / 1e3, round(value[1] * 1e3) / 1e3,
                     round(value[2] * 1e3) / 1e3);
}

static json_t *json_entry(const spc_kernels_entry *e)
{
    json_t *layer =
        json_pack("{s:s, s:i, s:o, s:s, s:i, s:o, s:o}", "type", e->shape.type, "columns",
                  (int)e->shape.columns, "outputs", json_ints(e->shape.outputs, e->shape.parts),
                  "kernel", e->kernel, "slices", (int)e->slices, "forward_us",
                  json_times(e->forward_us), "default_us", json_times(e->default_us));

    if (layer && e->tiles[0] > 0 &&
        json_object_set_new(layer, "tiles", json_ints(e->tiles, 2)) != 0) {
        json_decref(layer);
        return NULL;
    }
    return layer;
}

static json_t *json_table(const spc_kernels *t)
{
    json_t *layers = json_array();

    for (int32_t i = 0; i < t->count; i++) {
        if (json_array_append_new(layers, json_entry(&t->entry[i])) != 0) {
            json_decref(layers);
            return NULL;
        }
    }
    return json_pack("{s:i, s:s, s:i, s:i, s:o, s:o}", "spc_kernels", VERSION, "gpu", t->gpu,
                     "driver", (int)t->driver, "toolkit", (int)t->toolkit, "rows",
                     json_ints(spc_kernels_rows, SPC_KERNELS_ROWS), "layers", layers);
}

spc_status spc_kernels_write(const spc_kernels *t, const char *path, spc_error *err)
{
    json_t *root = json_table(t);
    spc_status status = SPC_OK;

    if (!root) return spc_error_set(err, SPC_ENOMEM, "no memory for a table of kernels");
    if (json_dump_file(root, path, JSON_INDENT(1)) != 0) {
        status = spc_error_set(err, SPC_EINPUT, "%s: cannot be written", path);
    }
    json_decref(root);
    return status;
}
