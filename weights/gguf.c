/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.c - magic, version, two counts; metadata; descriptions of tensors; their bytes.  All of it
 * is a stranger's: no number is used before it was held against the bytes that are left. */
#include "gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 32, /* of tensors, unless general.alignment says otherwise */
    ALIGNMENT_MAX = 65536,
    ARRAYS_MAX = 4,               /* arrays in arrays */
    VALUE_BYTES = 8 + 4 + 1,      /* the least that a key with its value takes */
    TENSOR_BYTES = 8 + 4 + 4 + 8, /* and a tensor's description */
    NAME_MAX_BYTES = 64           /* as the format has it: 64 with the end */
};

typedef struct {
    const char *where;
    const unsigned char *data; /* [bytes] */
    uint64_t bytes, at;
    spc_error *err;
} reader;

static spc_status no_memory(const reader *r)
{
    return spc_error_set(r->err, SPC_ENOMEM, "%s: no memory for its tables", r->where);
}

static spc_status truncated(const reader *r, const char *what)
{
    return spc_error_set(r->err, SPC_EFORMAT,
                         "%s: ends at byte %" PRIu64 " inside %s; is the file truncated?", r->where,
                         r->bytes, what);
}

static uint64_t left(const reader *r)
{
    return r->bytes - r->at;
}

/* A little-endian number of 1 to 8 bytes. */
static uint64_t number_at(const unsigned char *data, int32_t bytes)
{
    uint64_t value = 0;

    for (int32_t i = bytes - 1; i >= 0; i--) value = value << 8 | data[i];
    return value;
}

static spc_status read_number(reader *r, int32_t bytes, const char *what, uint64_t *out)
{
    *out = 0;
    if (left(r) < (uint64_t)bytes) return truncated(r, what);
    *out = number_at(r->data + r->at, bytes);
    r->at += (uint64_t)bytes;
    return SPC_OK;
}

static spc_status read_string(reader *r, const char *what, spc_gguf_string *out)
{
    spc_status status = read_number(r, 8, what, &out->bytes);

    out->text = "";
    if (status != SPC_OK) return status;
    if (out->bytes > left(r)) return truncated(r, what);
    out->text = (const char *)r->data + r->at;
    r->at += out->bytes;
    return SPC_OK;
}

/* How much of a name a message shows. */
static int shown(spc_gguf_string s)
{
    return s.bytes < 80 ? (int)s.bytes : 80;
}

/* ---- metadata ---------------------------------------------------------------------------------
 */

/* Bytes of a number or a truth value; 0 for strings and arrays. */
static int32_t type_bytes(spc_gguf_type type)
{
    static const int32_t bytes[SPC_GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

    return bytes[type];
}

static spc_status read_type(reader *r, spc_gguf_string key, spc_gguf_type *out)
{
    uint64_t type;
    spc_status status = read_number(r, 4, "the type of a value", &type);

    *out = SPC_GGUF_U8;
    if (status != SPC_OK) return status;
    if (type >= SPC_GGUF_TYPES) {
        return spc_error_set(r->err, SPC_EFORMAT,
                             "%s: key '%.*s': unknown type of value %" PRIu64
                             ", expected 0 to 12; is the file damaged?",
                             r->where, shown(key), key.text, type);
    }
    *out = (spc_gguf_type)type;
    return SPC_OK;
}

static spc_status skip_array(reader *r, spc_gguf_string key, spc_gguf_value *v, int32_t depth);

/* Step over count elements of a type. */
static spc_status skip(reader *r, spc_gguf_string key, spc_gguf_type type, uint64_t count,
                       int32_t depth)
{
    int32_t bytes = type_bytes(type);
    spc_status status = SPC_OK;

    if (bytes > 0) {
        if (count > left(r) / (uint64_t)bytes) return truncated(r, "the values of a key");
        r->at += count * (uint64_t)bytes;
        return SPC_OK;
    }
    for (uint64_t i = 0; i < count && status == SPC_OK; i++) {
        spc_gguf_string text;
        spc_gguf_value inner;

        status = type == SPC_GGUF_STRING ? read_string(r, "a string", &text)
                                         : skip_array(r, key, &inner, depth + 1);
    }
    return status;
}

static spc_status skip_array(reader *r, spc_gguf_string key, spc_gguf_value *v, int32_t depth)
{
    spc_status status = read_type(r, key, &v->of);

    if (status == SPC_OK && depth > ARRAYS_MAX) {
        status = spc_error_set(r->err, SPC_EFORMAT, "%s: key '%.*s': arrays in arrays, too deep",
                               r->where, shown(key), key.text);
    }
    if (status == SPC_OK) status = read_number(r, 8, "the count of an array", &v->count);
    if (status != SPC_OK) return status;
    v->data = r->data + r->at;
    return skip(r, key, v->of, v->count, depth);
}

static spc_status read_value(reader *r, spc_gguf_value *v)
{
    spc_status status = read_string(r, "a key", &v->key);

    if (status == SPC_OK) status = read_type(r, v->key, &v->type);
    if (status != SPC_OK) return status;
    if (v->type == SPC_GGUF_ARRAY) return skip_array(r, v->key, v, 1);
    v->of = v->type;
    v->count = 1;
    v->data = r->data + r->at;
    return skip(r, v->key, v->type, 1, 0);
}

static int compare(spc_gguf_string a, spc_gguf_string b)
{
    size_t shorter = a.bytes < b.bytes ? (size_t)a.bytes : (size_t)b.bytes;
    int order = shorter > 0 ? memcmp(a.text, b.text, shorter) : 0;

    return order != 0 ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int by_key(const void *a, const void *b)
{
    return compare(((const spc_gguf_value *)a)->key, ((const spc_gguf_value *)b)->key);
}

static spc_status read_values(reader *r, uint64_t count, spc_gguf *g)
{
    spc_status status = SPC_OK;

    if (count > left(r) / VALUE_BYTES || count > INT32_MAX) return truncated(r, "its metadata");
    if (count == 0) return SPC_OK;
    g->value = calloc((size_t)count, sizeof *g->value);
    if (!g->value) return no_memory(r);
    while (g->value_count < (int32_t)count && status == SPC_OK) {
        status = read_value(r, &g->value[g->value_count++]);
    }
    if (status != SPC_OK) return status;
    qsort(g->value, (size_t)count, sizeof *g->value, by_key);
    for (int32_t i = 1; i < g->value_count; i++) {
        spc_gguf_string key = g->value[i].key;

        if (compare(g->value[i - 1].key, key) != 0) continue;
        return spc_error_set(r->err, SPC_EFORMAT, "%s: key '%.*s' occurs twice", r->where,
                             shown(key), key.text);
    }
    return SPC_OK;
}

/* ---- tensors ----------------------------------------------------------------------------------
 */

/* Number of a type in the file, and the type here. */
static const struct {
    uint32_t number;
    spc_dtype dtype;
} types[] = {{0, SPC_DTYPE_F32},   {1, SPC_DTYPE_F16},     {30, SPC_DTYPE_BF16},
             {8, SPC_DTYPE_Q8_0},  {2, SPC_DTYPE_Q4_0},    {3, SPC_DTYPE_Q4_1},
             {6, SPC_DTYPE_Q5_0},  {7, SPC_DTYPE_Q5_1},    {10, SPC_DTYPE_Q2_K},
             {11, SPC_DTYPE_Q3_K}, {12, SPC_DTYPE_Q4_K},   {13, SPC_DTYPE_Q5_K},
             {14, SPC_DTYPE_Q6_K}, {20, SPC_DTYPE_IQ4_NL}, {23, SPC_DTYPE_IQ4_XS}};

/* Names of types that others write, for messages; by number. */
static const char *const known_types[] = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};

static spc_status read_tensor_type(reader *r, spc_tensor *t)
{
    uint64_t number;
    size_t i = 0;
    spc_status status = read_number(r, 4, "a tensor's type", &number);

    if (status != SPC_OK) return status;
    while (i < sizeof types / sizeof *types && types[i].number != number) i++;
    if (i == sizeof types / sizeof *types) {
        bool named = number < sizeof known_types / sizeof *known_types;

        return spc_error_set(
            r->err, SPC_EMODEL,
            "%s: tensor '%.80s': type %" PRIu64 " (%s) is not supported; supported: F32, F16, "
            "BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS",
            r->where, t->name, number, named ? known_types[number] : "unknown");
    }
    t->dtype = types[i].dtype;
    return SPC_OK;
}

static spc_status read_name(reader *r, spc_tensor *t)
{
    spc_gguf_string name;
    char *copy;
    spc_status status = read_string(r, "a tensor's name", &name);

    if (status != SPC_OK) return status;
    if (name.bytes == 0 || name.bytes > NAME_MAX_BYTES ||
        memchr(name.text, '\0', (size_t)name.bytes)) {
        return spc_error_set(r->err, SPC_EFORMAT,
                             "%s: expected tensor names of 1 to %d characters, found '%.*s'; is "
                             "the file damaged?",
                             r->where, NAME_MAX_BYTES, shown(name), name.text);
    }
    copy = malloc((size_t)name.bytes + 1);
    if (!copy) return no_memory(r);
    memcpy(copy, name.text, (size_t)name.bytes);
    copy[name.bytes] = '\0';
    t->name = copy;
    return SPC_OK;
}

/* Sizes, innermost first in the file. */
static spc_status read_shape(reader *r, spc_tensor *t)
{
    uint64_t rank, size;
    spc_status status = read_number(r, 4, "a tensor's shape", &rank);

    if (status != SPC_OK) return status;
    if (rank > 4) {
        return spc_error_set(r->err, SPC_EFORMAT,
                             "%s: tensor '%s': expected at most 4 dimensions, found %" PRIu64,
                             r->where, t->name, rank);
    }
    t->rank = (int32_t)rank;
    for (int32_t i = t->rank - 1; i >= 0; i--) {
        status = read_number(r, 8, "a tensor's shape", &size);
        if (status != SPC_OK) return status;
        if (size > INT64_MAX) {
            return spc_error_set(r->err, SPC_EFORMAT,
                                 "%s: tensor '%s': a size of its shape is %" PRIu64
                                 "; is the file damaged?",
                                 r->where, t->name, size);
        }
        t->shape[i] = (int64_t)size;
    }
    return SPC_OK;
}

/* Bytes that the shape asks for: whole blocks in every row. */
static spc_status count_bytes(const reader *r, spc_tensor *t)
{
    uint64_t elements = spc_dtype_elements(t->dtype);
    uint64_t row = t->rank > 0 ? (uint64_t)t->shape[t->rank - 1] : 1;

    if (row % elements != 0) {
        return spc_error_set(r->err, SPC_EFORMAT,
                             "%s: tensor '%s': expected rows of whole %s blocks (%" PRIu64
                             " entries), found rows of %" PRIu64,
                             r->where, t->name, spc_dtype_name(t->dtype), elements, row);
    }
    t->bytes = spc_dtype_bytes(t->dtype);
    for (int32_t i = 0; i < t->rank; i++) {
        uint64_t size = (uint64_t)t->shape[i];

        if (i == t->rank - 1) size /= elements;
        if (size > 0 && t->bytes > (uint64_t)INT64_MAX / size) {
            return spc_error_set(
                r->err, SPC_EFORMAT,
                "%s: tensor '%s': its shape needs more bytes than can be addressed", r->where,
                t->name);
        }
        t->bytes *= size;
    }
    return SPC_OK;
}

/* Names, shapes and types; `data` holds the offset until the end of the tables is known. */
static spc_status read_tensors(reader *r, uint64_t count, uint64_t *offset, spc_gguf *g)
{
    spc_status status = SPC_OK;

    while (g->tensor_count < (int32_t)count && status == SPC_OK) {
        spc_tensor *t = &g->tensor[g->tensor_count];

        status = read_name(r, t);
        if (status != SPC_OK) break;
        g->tensor_count++;
        status = read_shape(r, t);
        if (status == SPC_OK) status = read_tensor_type(r, t);
        if (status == SPC_OK) status = count_bytes(r, t);
        if (status == SPC_OK) {
            status = read_number(r, 8, "a tensor's offset", &offset[g->tensor_count - 1]);
        }
    }
    return status;
}

static spc_status read_alignment(const reader *r, const spc_gguf *g, uint64_t *out)
{
    const spc_gguf_value *v = spc_gguf_find(g, "general.alignment");
    int64_t value = ALIGNMENT;

    *out = ALIGNMENT;
    if (v && (!spc_gguf_integer(v, &value) || value < 1 || value > ALIGNMENT_MAX ||
              (value & (value - 1)) != 0)) {
        return spc_error_set(r->err, SPC_EFORMAT,
                             "%s: general.alignment: expected a power of two of at most %d",
                             r->where, ALIGNMENT_MAX);
    }
    *out = (uint64_t)value;
    return SPC_OK;
}

static int by_data(const void *a, const void *b)
{
    const spc_tensor *x = *(const spc_tensor *const *)a, *y = *(const spc_tensor *const *)b;

    if (x->data != y->data) return (uintptr_t)x->data < (uintptr_t)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors first */
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const spc_tensor *const *)a)->name, (*(const spc_tensor *const *)b)->name);
}

/* No name twice, no byte in two tensors. */
static spc_status check_apart(const reader *r, const spc_gguf *g)
{
    size_t count = (size_t)g->tensor_count;
    const spc_tensor **order = malloc((count > 0 ? count : 1) * sizeof *order);
    spc_status status = SPC_OK;

    if (!order) return no_memory(r);
    for (size_t i = 0; i < count; i++) order[i] = &g->tensor[i];
    qsort(order, count, sizeof *order, by_name);
    for (size_t i = 1; i < count && status == SPC_OK; i++) {
        if (strcmp(order[i - 1]->name, order[i]->name) != 0) continue;
        status = spc_error_set(r->err, SPC_EFORMAT, "%s: tensor '%s' occurs twice", r->where,
                               order[i]->name);
    }
    qsort(order, count, sizeof *order, by_data);
    for (size_t i = 1; i < count && status == SPC_OK; i++) {
        if ((const char *)order[i - 1]->data + order[i - 1]->bytes <=
            (const char *)order[i]->data) {
            continue;
        }
        status = spc_error_set(r->err, SPC_EFORMAT,
                               "%s: tensors '%s' and '%s' overlap; is the file damaged?", r->where,
                               order[i - 1]->name, order[i]->name);
    }
    free(order);
    return status;
}

/* From offsets to addresses. */
static spc_status place_tensors(reader *r, const uint64_t *offset, spc_gguf *g)
{
    uint64_t alignment, begin;
    spc_status status = read_alignment(r, g, &alignment);

    if (status != SPC_OK) return status;
    begin = r->at + (alignment - r->at % alignment) % alignment;
    if (begin > r->bytes) begin = r->bytes; /* a file without tensors may end early */
    for (int32_t i = 0; i < g->tensor_count; i++) {
        spc_tensor *t = &g->tensor[i];
        uint64_t there = r->bytes - begin;

        if (offset[i] > there || t->bytes > there - offset[i]) {
            return spc_error_set(r->err, SPC_EFORMAT,
                                 "%s: tensor '%s': needs %" PRIu64 " bytes from byte %" PRIu64
                                 " of the data, which has %" PRIu64 "; is the file truncated?",
                                 r->where, t->name, t->bytes, offset[i], there);
        }
        if (offset[i] % alignment != 0) {
            return spc_error_set(r->err, SPC_EFORMAT,
                                 "%s: tensor '%s': expected an offset of a multiple of %" PRIu64
                                 " (general.alignment), found %" PRIu64,
                                 r->where, t->name, alignment, offset[i]);
        }
        t->data = r->data + begin + offset[i];
    }
    return check_apart(r, g);
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static spc_status read_head(reader *r, uint64_t *tensors, uint64_t *values)
{
    uint64_t version;
    spc_status status;

    *tensors = *values = 0;
    if (r->bytes < 4 || memcmp(r->data, "GGUF", 4) != 0) {
        return spc_error_set(r->err, SPC_EFORMAT, "%s: expected a GGUF file, found another kind",
                             r->where);
    }
    r->at = 4;
    status = read_number(r, 4, "its version", &version);
    if (status != SPC_OK) return status;
    if (version != 2 && version != 3) {
        return spc_error_set(r->err, SPC_EMODEL,
                             "%s: GGUF version %" PRIu64 "%s is not supported; supported: 2 and 3, "
                             "little endian; convert the model again",
                             r->where, version,
                             (version & 0xffff) == 0 ? " (a big-endian file)" : "");
    }
    status = read_number(r, 8, "the count of its tensors", tensors);
    if (status == SPC_OK) status = read_number(r, 8, "the count of its keys", values);
    return status;
}

static spc_status read_file(reader *r, spc_gguf *g)
{
    uint64_t tensors, values, *offset;
    spc_status status = read_head(r, &tensors, &values);

    if (status == SPC_OK) status = read_values(r, values, g);
    if (status != SPC_OK) return status;
    if (tensors > left(r) / TENSOR_BYTES || tensors > INT32_MAX) {
        return truncated(r, "the list of its tensors");
    }
    g->tensor = calloc((size_t)tensors + 1, sizeof *g->tensor);
    offset = calloc((size_t)tensors + 1, sizeof *offset);
    status = g->tensor && offset ? read_tensors(r, tensors, offset, g) : no_memory(r);
    if (status == SPC_OK) status = place_tensors(r, offset, g);
    free(offset);
    return status;
}

spc_status spc_gguf_read(const char *where, const void *data, uint64_t bytes, spc_gguf **out,
                         spc_error *err)
{
    reader r = {where, data, bytes, 0, err};
    spc_gguf *g = calloc(1, sizeof *g);
    spc_status status;

    *out = NULL;
    if (!g) return no_memory(&r);
    status = read_file(&r, g);
    if (status != SPC_OK) {
        spc_gguf_close(g);
        return status;
    }
    *out = g;
    return SPC_OK;
}

void spc_gguf_close(spc_gguf *g)
{
    if (!g) return;
    for (int32_t i = 0; i < g->tensor_count; i++) free((char *)(uintptr_t)g->tensor[i].name);
    free(g->tensor);
    free(g->value);
    free(g);
}

/* ---- values -----------------------------------------------------------------------------------
 */

const spc_gguf_value *spc_gguf_find(const spc_gguf *g, const char *key)
{
    spc_gguf_value wanted = {.key = {key, strlen(key)}};

    if (g->value_count == 0) return NULL;
    return bsearch(&wanted, g->value, (size_t)g->value_count, sizeof wanted, by_key);
}

bool spc_gguf_integer_at(const spc_gguf_value *v, uint64_t i, int64_t *out)
{
    int32_t bytes = v ? type_bytes(v->of) : 0;
    uint64_t raw;

    if (bytes == 0 || i >= v->count || v->of == SPC_GGUF_BOOL || v->of == SPC_GGUF_F32 ||
        v->of == SPC_GGUF_F64) {
        return false;
    }
    raw = number_at(v->data + i * (uint64_t)bytes, bytes);
    switch (v->of) {
    case SPC_GGUF_I8: *out = (int8_t)raw; break;
    case SPC_GGUF_I16: *out = (int16_t)raw; break;
    case SPC_GGUF_I32: *out = (int32_t)raw; break;
    case SPC_GGUF_U64:
        if (raw > INT64_MAX) return false;
        *out = (int64_t)raw;
        break;
    default: *out = (int64_t)raw; break;
    }
    return true;
}

bool spc_gguf_number_at(const spc_gguf_value *v, uint64_t i, double *out)
{
    int64_t integer;

    if (v && i < v->count && v->of == SPC_GGUF_F32) {
        uint32_t raw = (uint32_t)number_at(v->data + i * 4, 4);
        float value;

        memcpy(&value, &raw, sizeof value);
        *out = (double)value;
        return true;
    }
    if (v && i < v->count && v->of == SPC_GGUF_F64) {
        uint64_t raw = number_at(v->data + i * 8, 8);

        memcpy(out, &raw, sizeof *out);
        return true;
    }
    if (!spc_gguf_integer_at(v, i, &integer)) return false;
    *out = (double)integer;
    return true;
}

static bool is_single(const spc_gguf_value *v)
{
    return v && v->type != SPC_GGUF_ARRAY;
}

bool spc_gguf_integer(const spc_gguf_value *v, int64_t *out)
{
    return is_single(v) && spc_gguf_integer_at(v, 0, out);
}

bool spc_gguf_number(const spc_gguf_value *v, double *out)
{
    return is_single(v) && spc_gguf_number_at(v, 0, out);
}

bool spc_gguf_bool(const spc_gguf_value *v, bool *out)
{
    if (!is_single(v) || v->of != SPC_GGUF_BOOL) return false;
    *out = v->data[0] != 0;
    return true;
}

bool spc_gguf_text_next(const spc_gguf_value *v, uint64_t *at, spc_gguf_string *out)
{
    if (!v || v->of != SPC_GGUF_STRING) return false;
    out->bytes = number_at(v->data + *at, 8);
    out->text = (const char *)v->data + *at + 8;
    *at += 8 + out->bytes;
    return true;
}

bool spc_gguf_text(const spc_gguf_value *v, spc_gguf_string *out)
{
    uint64_t at = 0;

    return is_single(v) && spc_gguf_text_next(v, &at, out);
}
