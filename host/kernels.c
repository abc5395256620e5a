/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c - the table of measured kernels: look up, read, write.
 *
 *     {"spc_kernels": 2, "gpu": "...", "driver": 13000, "toolkit": 13000, "cublaslt": 130100,
 *      "rows": [1, 6, 16],
 *      "layers": [{"type": "bf16", "columns": 4864, "outputs": [896], "kernel": "tile",
 *                  "slices": 32, "tiles": [1, 1], "forward_us": [..], "default_us": [..],
 *                  "many": [{"rows": 32, "algorithms": ["128 hexadecimal digits"],
 *                            "forward_us": .., "default_us": ..},
 *                           {"rows": 64, "algorithms": null, ..}]}]}
 *
 * Every field must be there and nothing else may be, but that "many" has the rows that were
 * measured; algorithms are null for the kernel of fewer rows. */
#include "kernels.h"
#include "replace.h"

#include "weights/json.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 2, LINE_BYTES = 256, HEX_WORD = 16, HEX_BYTES = HEX_WORD * SPC_KERNELS_WORDS + 1 };

const int32_t spc_kernels_rows[SPC_KERNELS_ROWS] = {1, 6, 16};
const int32_t spc_kernels_wide[SPC_KERNELS_WIDE] = {32, 64, 128, 256, 512};

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
                         "%s: %sexpected %s; write it anew with spc_tune_kernels", p->path, p->at,
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

static bool is_time(double us)
{
    return us > 0 && us < 1e12;
}

static bool read_times(const json_t *object, const char *key, double *out, double *sum)
{
    const json_t *list = json_object_get(object, key);

    *sum = 0;
    if (json_array_size(list) != SPC_KERNELS_ROWS) return false;
    for (size_t i = 0; i < SPC_KERNELS_ROWS; i++) {
        out[i] = json_number_value(json_array_get(list, i));
        if (!is_time(out[i])) return false;
        *sum += out[i];
    }
    return true;
}

static bool read_algorithm(const json_t *value, uint64_t out[SPC_KERNELS_WORDS])
{
    const char *text = json_string_value(value);

    if (!text || strlen(text) != HEX_BYTES - 1) return false;
    if (strspn(text, "0123456789abcdef") != HEX_BYTES - 1) return false;
    for (int32_t i = 0; i < SPC_KERNELS_WORDS; i++) {
        char word[HEX_WORD + 1];

        (void)snprintf(word, sizeof word, "%.*s", HEX_WORD, text + (size_t)i * HEX_WORD);
        out[i] = strtoull(word, NULL, 16);
    }
    return true;
}

static bool read_algorithms(const json_t *value, int32_t parts, spc_kernels_many *out)
{
    out->by = json_is_null(value) ? SPC_KERNELS_OWN : SPC_KERNELS_CUBLASLT;
    if (out->by == SPC_KERNELS_OWN) return true;
    if (json_array_size(value) != (size_t)parts) return false;
    for (int32_t p = 0; p < parts; p++) {
        if (!read_algorithm(json_array_get(value, (size_t)p), out->algorithm[p])) return false;
    }
    return true;
}

/* One number of rows of a layer. */
static spc_status read_many(place *p, const json_t *item, spc_kernels_entry *out)
{
    int32_t rows, i = 0;
    spc_kernels_many *many;

    if (!read_int(item, "rows", 1, INT32_MAX, &rows)) return bad(p, "\"many\" with \"rows\"");
    while (i < SPC_KERNELS_WIDE && spc_kernels_wide[i] != rows) i++;
    if (i == SPC_KERNELS_WIDE || out->many[i].by != SPC_KERNELS_NONE) {
        return bad(p, "\"rows\" of 32, 64, 128, 256 or 512 in \"many\", each once");
    }
    many = &out->many[i];
    if (!read_algorithms(json_object_get(item, "algorithms"), out->shape.parts, many)) {
        return bad(p, "\"algorithms\": null, or 128 hexadecimal digits for each of its outputs");
    }
    many->forward_us = json_number_value(json_object_get(item, "forward_us"));
    many->default_us = json_number_value(json_object_get(item, "default_us"));
    if (!is_time(many->forward_us) || !is_time(many->default_us)) {
        return bad(p, "\"many\" with a time \"forward_us\" and one \"default_us\"");
    }
    if (many->forward_us > many->default_us)
        return bad(p, "rows that are no slower than by default");
    return json_object_size(item) == 4 ? SPC_OK : bad(p, "no other fields in \"many\"");
}

static spc_status read_all_many(place *p, const json_t *list, bool measured, spc_kernels_entry *out)
{
    spc_status status = SPC_OK;

    if (!list) return SPC_OK;
    if (!measured) return bad(p, "no \"many\" where \"cublaslt\" is 0");
    if (json_array_size(list) < 1) return bad(p, "\"many\": a list");
    for (size_t i = 0; i < json_array_size(list) && status == SPC_OK; i++) {
        status = read_many(p, json_array_get(list, i), out);
    }
    return status;
}

/* measured: are more than 16 rows? */
static spc_status read_layer(place *p, const json_t *layer, bool measured, spc_kernels_entry *out)
{
    const json_t *many = json_object_get(layer, "many");
    size_t fields = many ? 8 : 7;
    spc_status status;
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
    status = read_all_many(p, many, measured, out);
    if (status != SPC_OK) return status;
    return json_object_size(layer) == fields + tile ? SPC_OK : bad(p, "no other fields");
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
        status = read_layer(p, json_array_get(list, i), out->cublaslt > 0, &entry);
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
        return bad(p, "\"spc_kernels\": 2");
    }
    if (!read_text(root, "gpu", out->gpu, sizeof out->gpu)) return bad(p, "a string \"gpu\"");
    if (!read_int(root, "driver", 1, INT32_MAX, &out->driver) ||
        !read_int(root, "toolkit", 1, INT32_MAX, &out->toolkit)) {
        return bad(p, "numbers \"driver\" and \"toolkit\"");
    }
    if (!read_int(root, "cublaslt", 0, INT32_MAX, &out->cublaslt)) {
        return bad(p, "a number \"cublaslt\"");
    }
    if (!read_ints(root, "rows", SPC_KERNELS_ROWS, SPC_KERNELS_ROWS, rows, &count) ||
        memcmp(rows, spc_kernels_rows, sizeof rows) != 0) {
        return bad(p, "\"rows\": [1, 6, 16]");
    }
    if (json_object_size(root) != 7) return bad(p, "no other fields");
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
        if (spc_json_no_memory(&why, NULL)) {
            return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", path);
        }
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

/* To nanoseconds: a file that is read is the file that was written. */
static double written(double us)
{
    return round(us * 1e3) / 1e3;
}

static json_t *json_times(const double *value)
{
    return json_pack("[f, f, f]", written(value[0]), written(value[1]), written(value[2]));
}

static json_t *json_algorithms(const spc_kernels_many *many, int32_t parts)
{
    json_t *list = many->by == SPC_KERNELS_OWN ? json_null() : json_array();

    for (int32_t p = 0; many->by == SPC_KERNELS_CUBLASLT && p < parts; p++) {
        char text[HEX_BYTES];

        for (int32_t i = 0; i < SPC_KERNELS_WORDS; i++) {
            (void)snprintf(text + (size_t)i * HEX_WORD, HEX_WORD + 1, "%016" PRIx64,
                           many->algorithm[p][i]);
        }
        if (json_array_append_new(list, json_string(text)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* What was measured of more than 16 rows; NULL: no memory. */
static json_t *json_many(const spc_kernels_entry *e)
{
    json_t *list = json_array();

    for (int32_t i = 0; i < SPC_KERNELS_WIDE; i++) {
        const spc_kernels_many *many = &e->many[i];

        if (many->by == SPC_KERNELS_NONE) continue;
        if (json_array_append_new(list, json_pack("{s:i, s:o, s:f, s:f}", "rows",
                                                  (int)spc_kernels_wide[i], "algorithms",
                                                  json_algorithms(many, e->shape.parts),
                                                  "forward_us", written(many->forward_us),
                                                  "default_us", written(many->default_us))) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *json_entry(const spc_kernels_entry *e)
{
    json_t *layer =
        json_pack("{s:s, s:i, s:o, s:s, s:i, s:o, s:o}", "type", e->shape.type, "columns",
                  (int)e->shape.columns, "outputs", json_ints(e->shape.outputs, e->shape.parts),
                  "kernel", e->kernel, "slices", (int)e->slices, "forward_us",
                  json_times(e->forward_us), "default_us", json_times(e->default_us));

    json_t *many = json_many(e);
    bool good = layer && many;

    if (good && e->tiles[0] > 0) {
        good = json_object_set_new(layer, "tiles", json_ints(e->tiles, 2)) == 0;
    }
    if (good && json_array_size(many) > 0) good = json_object_set(layer, "many", many) == 0;
    json_decref(many);
    if (good) return layer;
    json_decref(layer);
    return NULL;
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
    return json_pack("{s:i, s:s, s:i, s:i, s:i, s:o, s:o}", "spc_kernels", VERSION, "gpu", t->gpu,
                     "driver", (int)t->driver, "toolkit", (int)t->toolkit, "cublaslt",
                     (int)t->cublaslt, "rows", json_ints(spc_kernels_rows, SPC_KERNELS_ROWS),
                     "layers", layers);
}

static spc_status cannot_write(const char *path, int why, spc_error *err)
{
    return spc_error_set(err, SPC_EINPUT, "%s: cannot be written: %s", path, strerror(why));
}

spc_status spc_kernels_place(const char *path, spc_error *err)
{
    int why = spc_replace_check(path);

    return why == 0 ? SPC_OK : cannot_write(path, why, err);
}

spc_status spc_kernels_write(const spc_kernels *t, const char *path, spc_error *err)
{
    json_t *root = json_table(t);
    spc_status status = SPC_OK;
    spc_replace out;
    int why;

    if (!root) return spc_error_set(err, SPC_ENOMEM, "no memory for a table of kernels");
    why = spc_replace_begin(&out, path);
    if (why == 0) why = spc_replace_end(&out, json_dumpf(root, out.file, JSON_INDENT(1)) == 0);
    if (why != 0) status = cannot_write(path, why, err);
    json_decref(root);
    return status;
}
