/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.c - the header is a stranger's: every number in it is checked before it is used. */
#include "safetensors.h"

#include "json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 100 * 1000 * 1000 }; /* as the reference reader has it */

/* Drop the tensors from the count-th on. */
static void cut_back(spc_tensor_list *list, int32_t count)
{
    while (list->count > count) {
        list->count--;
        free((char *)(uintptr_t)list->tensor[list->count].name);
        free(list->owned[list->count]);
    }
}

void spc_tensor_list_free(spc_tensor_list *list)
{
    cut_back(list, 0);
    free(list->tensor);
    free(list->owned);
    memset(list, 0, sizeof *list);
}

static spc_status no_memory(const char *where, spc_error *err)
{
    return spc_error_set(err, SPC_ENOMEM, "%s: no memory for its tensor list", where);
}

/* Room for one more; false when there is no memory. */
static bool grow(spc_tensor_list *list)
{
    int32_t capacity = list->capacity ? list->capacity * 2 : 64;

    if (list->count < list->capacity) return true;
    if (capacity > INT32_MAX / 2) return false;

    spc_tensor *tensor = realloc(list->tensor, (size_t)capacity * sizeof *tensor);

    if (tensor) list->tensor = tensor;

    void **owned = realloc(list->owned, (size_t)capacity * sizeof *owned);

    if (owned) list->owned = owned;
    if (!tensor || !owned) return false;
    list->capacity = capacity;
    return true;
}

bool spc_tensor_list_add(spc_tensor_list *list, const spc_tensor *tensor, void *owned)
{
    size_t length = strlen(tensor->name) + 1;
    char *copy = grow(list) ? malloc(length) : NULL;

    if (!copy) {
        free(owned);
        return false;
    }
    memcpy(copy, tensor->name, length);
    list->owned[list->count] = owned;
    list->tensor[list->count] = *tensor;
    list->tensor[list->count++].name = copy;
    return true;
}

/* ---- one entry of the header ------------------------------------------------------------------
 */

typedef struct {
    const char *where;
    const char *data; /* of the tensors */
    uint64_t bytes;   /* of data */
} file;

static spc_status bad(const file *f, const char *name, const char *what, spc_error *err)
{
    return spc_error_set(err, SPC_EFORMAT, "%s: tensor '%.100s': %s; is the file damaged?",
                         f->where, name, what);
}

static spc_status read_dtype(const file *f, const char *name, const json_t *entry, spc_dtype *out,
                             spc_error *err)
{
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    int32_t i = 0;

    if (!text) return bad(f, name, "expected a string 'dtype', found none", err);
    while (i < SPC_DTYPE_COUNT && (spc_dtype_elements((spc_dtype)i) != 1 ||
                                   strcmp(spc_dtype_name((spc_dtype)i), text) != 0)) {
        i++;
    }
    if (i == SPC_DTYPE_COUNT) {
        return spc_error_set(err, SPC_EFORMAT, "%s: tensor '%.100s': unknown dtype '%.20s'",
                             f->where, name, text);
    }
    *out = (spc_dtype)i;
    return SPC_OK;
}

/* Shape, and the bytes it asks for. */
static spc_status read_shape(const file *f, const char *name, const json_t *entry, spc_tensor *t,
                             spc_error *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    uint64_t bytes = spc_dtype_bytes(t->dtype);

    if (!json_is_array(shape) || json_array_size(shape) > SPC_TENSOR_MAX_RANK) {
        return bad(f, name, "expected 'shape' to be an array of at most 8 numbers", err);
    }
    t->rank = (int32_t)json_array_size(shape);
    for (int32_t i = 0; i < t->rank; i++) {
        const json_t *number = json_array_get(shape, (size_t)i);
        json_int_t size = json_integer_value(number);

        if (!json_is_integer(number) || size < 0) {
            return bad(f, name, "expected sizes of 'shape' to be whole numbers, 0 or more", err);
        }
        if (size > 0 && bytes > UINT64_MAX / (uint64_t)size) {
            return bad(f, name, "its shape needs more bytes than can be addressed", err);
        }
        bytes *= (uint64_t)size;
        t->shape[i] = size;
    }
    t->bytes = bytes;
    return SPC_OK;
}

/* data_offsets: [begin, end) inside the data, as long as the shape says. */
static spc_status read_offsets(const file *f, const char *name, const json_t *entry, spc_tensor *t,
                               spc_error *err)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    json_int_t begin = json_integer_value(first), end = json_integer_value(second);

    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(first) ||
        !json_is_integer(second) || begin < 0 || end < begin) {
        return bad(f, name, "expected 'data_offsets' to be two rising whole numbers", err);
    }
    if ((uint64_t)end > f->bytes) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: tensor '%.100s': ends at byte %" JSON_INTEGER_FORMAT
                             " of the data, which has %" PRIu64 "; is the file truncated?",
                             f->where, name, end, f->bytes);
    }
    if ((uint64_t)(end - begin) != t->bytes) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: tensor '%.100s': its shape and type need %" PRIu64
                             " bytes, its data_offsets hold %" JSON_INTEGER_FORMAT,
                             f->where, name, t->bytes, end - begin);
    }
    t->data = f->data + begin;
    return SPC_OK;
}

static spc_status read_entry(const file *f, const char *name, const json_t *entry,
                             spc_tensor_list *list, spc_error *err)
{
    spc_tensor t = {.rank = 0};
    spc_status status;

    if (!json_is_object(entry)) return bad(f, name, "expected an object", err);
    status = read_dtype(f, name, entry, &t.dtype, err);
    if (status == SPC_OK) status = read_shape(f, name, entry, &t, err);
    if (status == SPC_OK) status = read_offsets(f, name, entry, &t, err);
    if (status != SPC_OK) return status;
    t.name = name;
    return spc_tensor_list_add(list, &t, NULL) ? SPC_OK : no_memory(f->where, err);
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static int by_data(const void *a, const void *b)
{
    const spc_tensor *x = *(const spc_tensor *const *)a, *y = *(const spc_tensor *const *)b;

    if (x->data != y->data) return (uintptr_t)x->data < (uintptr_t)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors first */
}

/* The tensors from `first` on tile the data: no overlap, no hole, no rest. */
static spc_status check_tiling(const file *f, const spc_tensor_list *list, int32_t first,
                               spc_error *err)
{
    int32_t count = list->count - first;
    const spc_tensor **order = malloc((size_t)(count > 0 ? count : 1) * sizeof *order);
    const char *at = f->data;
    spc_status status = SPC_OK;

    if (!order) return no_memory(f->where, err);
    for (int32_t i = 0; i < count; i++) order[i] = &list->tensor[first + i];
    qsort(order, (size_t)count, sizeof *order, by_data);
    for (int32_t i = 0; i < count && status == SPC_OK; i++) {
        if (order[i]->data != at) {
            status =
                bad(f, order[i]->name,
                    (const char *)order[i]->data < at ? "its bytes overlap those of another tensor"
                                                      : "there is a hole in the data before it",
                    err);
        }
        at = (const char *)order[i]->data + order[i]->bytes;
    }
    free(order);
    if (status != SPC_OK) return status;
    if (at != f->data + f->bytes) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: data continues after the last tensor (bytes: %" PRIu64
                             "); is the file damaged?",
                             f->where, (uint64_t)(f->data + f->bytes - at));
    }
    return SPC_OK;
}

/* Tensors must be aligned for their type to be read in place. */
static spc_status align(const file *f, spc_tensor_list *list, int32_t first, spc_error *err)
{
    for (int32_t i = first; i < list->count; i++) {
        spc_tensor *t = &list->tensor[i];

        if ((uintptr_t)t->data % spc_dtype_bytes(t->dtype) == 0 || t->bytes == 0) continue;
        list->owned[i] = malloc((size_t)t->bytes);
        if (!list->owned[i]) return no_memory(f->where, err);
        memcpy(list->owned[i], t->data, (size_t)t->bytes);
        t->data = list->owned[i];
    }
    return SPC_OK;
}

static spc_status read_header(const char *where, const unsigned char *data, uint64_t bytes,
                              uint64_t *length, json_t **header, spc_error *err)
{
    json_error_t problem;

    *length = 0;
    if (bytes < 8) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: expected a safetensors file of at least 8 bytes, found %" PRIu64,
                             where, bytes);
    }
    for (int i = 7; i >= 0; i--) *length = *length << 8 | data[i];
    if (*length < 2 || *length > HEADER_MAX || *length > bytes - 8) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: its header claims %" PRIu64 " bytes, the file has %" PRIu64
                             " behind the length; truncated, or not a safetensors file?",
                             where, *length, bytes - 8);
    }
    *header = json_loadb((const char *)data + 8, (size_t)*length, JSON_REJECT_DUPLICATES, &problem);
    if (!*header) {
        const bool memory = spc_json_no_memory(&problem, (const char *)data + 8);

        return spc_error_set(err, memory ? SPC_ENOMEM : SPC_EFORMAT, "%s: header: %s", where,
                             memory ? "no memory to read it" : problem.text);
    }
    if (!json_is_object(*header)) {
        json_decref(*header);
        return spc_error_set(err, SPC_EFORMAT, "%s: expected the header to be a JSON object",
                             where);
    }
    return SPC_OK;
}

spc_status spc_safetensors_read(const char *where, const void *data, uint64_t bytes,
                                spc_tensor_list *list, spc_error *err)
{
    json_t *header = NULL, *entry;
    const char *name;
    uint64_t length;
    int32_t first = list->count;
    spc_status status = read_header(where, data, bytes, &length, &header, err);

    if (status != SPC_OK) return status;

    file f = {where, (const char *)data + 8 + length, bytes - 8 - length};

    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        status = read_entry(&f, name, entry, list, err);
        if (status != SPC_OK) break;
    }
    json_decref(header);
    if (status == SPC_OK) status = check_tiling(&f, list, first, err);
    if (status == SPC_OK) status = align(&f, list, first, err);
    if (status != SPC_OK) cut_back(list, first);
    return status;
}
