/* SPDX-License-Identifier: Apache-2.0 */
/* json.c - a reader of JSON that tells a lack of memory from a wrong text. */
#include "json.h"

#include "utf8.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *where, *text;
    size_t at, bytes;
    char *string; /* [capacity] the last one that was read */
    size_t length, capacity;
    int32_t depth;
    spc_error *err;
} reader;

static spc_status no_memory(const reader *r)
{
    return spc_error_set(r->err, SPC_ENOMEM, "%s: no memory to read it", r->where);
}

static spc_status wrong(const reader *r, const char *what)
{
    size_t line = 1, begin = 0;

    for (size_t i = 0; i < r->at; i++) {
        if (r->text[i] != '\n') continue;
        line++;
        begin = i + 1;
    }
    return spc_error_set(r->err, SPC_EFORMAT, "%s: line %zu, byte %zu: %s", r->where, line,
                         r->at - begin + 1, what);
}

/* The next character; 0, which JSON does not know, at the end. */
static char peek(const reader *r)
{
    return r->at < r->bytes ? r->text[r->at] : '\0';
}

static char peek_behind_space(reader *r)
{
    while (peek(r) == ' ' || peek(r) == '\t' || peek(r) == '\n' || peek(r) == '\r') r->at++;
    return peek(r);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* ---- strings ----------------------------------------------------------------------------------
 */

static bool append(reader *r, const char *piece, size_t bytes)
{
    if (r->capacity - r->length < bytes) {
        size_t capacity = r->capacity ? 2 * r->capacity : 64; /* the text bounds it */
        char *string = realloc(r->string, capacity);

        if (!string) return false;
        r->string = string;
        r->capacity = capacity;
    }
    memcpy(r->string + r->length, piece, bytes);
    r->length += bytes;
    return true;
}

/* The four digits behind \u. */
static bool read_hex(reader *r, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        char c = peek(r);
        char lower = (char)(c | 0x20);

        if (is_digit(c)) {
            *code = *code << 4 | (uint32_t)(c - '0');
        } else if (lower >= 'a' && lower <= 'f') {
            *code = *code << 4 | (uint32_t)(lower - 'a' + 10);
        } else {
            return false;
        }
    }
    return true;
}

/* Behind \u: one unit of UTF-16, or two that are a pair. */
static spc_status read_code(reader *r, uint32_t *code)
{
    uint32_t low;

    if (!read_hex(r, code)) return wrong(r, "expected four hexadecimal digits");
    if (*code == 0) return wrong(r, "\\u0000 is not supported");
    if (*code < 0xD800 || *code > 0xDFFF) return SPC_OK;
    if (*code > 0xDBFF || peek(r) != '\\') return wrong(r, "half of a surrogate pair");
    r->at++;
    if (peek(r) != 'u') return wrong(r, "half of a surrogate pair");
    r->at++;
    if (!read_hex(r, &low)) return wrong(r, "expected four hexadecimal digits");
    if (low < 0xDC00 || low > 0xDFFF) return wrong(r, "half of a surrogate pair");
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return SPC_OK;
}

static spc_status read_escape(reader *r)
{
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const char *name;
    char out[4];
    uint32_t code;
    spc_status status;

    r->at++;
    if (peek(r) == 'u') {
        r->at++;
        status = read_code(r, &code);
        if (status != SPC_OK) return status;
        return append(r, out, spc_utf8_encode(code, out)) ? SPC_OK : no_memory(r);
    }
    name = peek(r) ? strchr(names, peek(r)) : NULL;
    if (!name) return wrong(r, "unknown escape");
    r->at++;
    return append(r, &meanings[name - names], 1) ? SPC_OK : no_memory(r);
}

/* One string into r->string, with a NUL behind it. */
static spc_status read_string(reader *r)
{
    spc_status status = SPC_OK;
    bool whole;

    r->at++;
    r->length = 0;
    while (status == SPC_OK && peek(r) != '"') {
        size_t n = 1;

        if (r->at == r->bytes) return wrong(r, "the text ends inside a string");
        if (peek(r) == '\\') {
            status = read_escape(r);
            continue;
        }
        if ((unsigned char)peek(r) < 0x20) return wrong(r, "control character in a string");
        n = spc_utf8_character(r->text + r->at, r->bytes - r->at, &whole, NULL);
        if (!whole) return wrong(r, "not UTF-8");
        if (!append(r, r->text + r->at, n)) return no_memory(r);
        r->at += n;
    }
    if (status != SPC_OK) return status;
    r->at++;
    if (!append(r, "", 1)) return no_memory(r);
    r->length--;
    return SPC_OK;
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

static void skip_digits(reader *r)
{
    while (is_digit(peek(r))) r->at++;
}

/* strtod, whatever the decimal point of this thread's locale is. */
static double to_double(const char *number)
{
    char local[SPC_JSON_NUMBER_MAX + 32], half[16];
    const char *point = strchr(number, '.');

    if (!point) return strtod(number, NULL);
    (void)snprintf(half, sizeof half, "%.1f", 0.5);
    half[strlen(half) - 1] = '\0';
    (void)snprintf(local, sizeof local, "%.*s%s%s", (int)(point - number), number, half + 1,
                   point + 1);
    return strtod(local, NULL);
}

static spc_status make_number(reader *r, size_t begin, bool real, json_t **out)
{
    char number[SPC_JSON_NUMBER_MAX + 1];
    size_t length = r->at - begin;

    if (length > SPC_JSON_NUMBER_MAX) return wrong(r, "number too long");
    memcpy(number, r->text + begin, length);
    number[length] = '\0';
    if (real) {
        double value = to_double(number);

        if (!isfinite(value)) return wrong(r, "number too big");
        *out = json_real(value);
    } else {
        long long value;

        errno = 0;
        value = strtoll(number, NULL, 10);
        if (errno == ERANGE) return wrong(r, "number too big");
        *out = json_integer(value);
    }
    return *out ? SPC_OK : no_memory(r);
}

static spc_status read_number(reader *r, json_t **out)
{
    size_t begin = r->at;
    bool real = false;

    if (peek(r) == '-') r->at++;
    if (!is_digit(peek(r))) return wrong(r, "expected a digit");
    if (peek(r) == '0') {
        r->at++;
    } else {
        skip_digits(r);
    }
    if (is_digit(peek(r))) return wrong(r, "a number that begins with 0");
    if (peek(r) == '.') {
        real = true;
        r->at++;
        if (!is_digit(peek(r))) return wrong(r, "expected a digit");
        skip_digits(r);
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        real = true;
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        if (!is_digit(peek(r))) return wrong(r, "expected a digit");
        skip_digits(r);
    }
    return make_number(r, begin, real, out);
}

/* ---- values -----------------------------------------------------------------------------------
 */

static spc_status read_value(reader *r, json_t **out);

/* Behind an item: true, another one follows. */
static spc_status read_comma(reader *r, char end, bool *more)
{
    char c = peek_behind_space(r);

    *more = c == ',';
    if (c != ',' && c != end) return wrong(r, end == ']' ? "expected , or ]" : "expected , or }");
    r->at++;
    return SPC_OK;
}

static spc_status read_items(reader *r, json_t *array)
{
    spc_status status = SPC_OK;
    bool more = true;

    r->at++;
    if (peek_behind_space(r) == ']') {
        r->at++;
        return SPC_OK;
    }
    while (more) {
        json_t *item;

        status = read_value(r, &item);
        if (status != SPC_OK) return status;
        if (json_array_append_new(array, item) != 0) return no_memory(r);
        status = read_comma(r, ']', &more);
        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

/* A key, which is the caller's to free, and the colon behind it. */
static spc_status read_key(reader *r, const json_t *object, char **key)
{
    spc_status status;

    *key = NULL;
    if (peek_behind_space(r) != '"') return wrong(r, "expected a string, the key of a member");
    status = read_string(r);
    if (status != SPC_OK) return status;
    if (json_object_get(object, r->string)) return wrong(r, "duplicate key");
    if (peek_behind_space(r) != ':') return wrong(r, "expected :");
    r->at++;
    *key = malloc(r->length + 1);
    if (!*key) return no_memory(r);
    memcpy(*key, r->string, r->length + 1);
    return SPC_OK;
}

static spc_status read_members(reader *r, json_t *object)
{
    bool more = true;

    r->at++;
    if (peek_behind_space(r) == '}') {
        r->at++;
        return SPC_OK;
    }
    while (more) {
        char *key;
        json_t *value = NULL;
        spc_status status = read_key(r, object, &key);

        if (status == SPC_OK) status = read_value(r, &value);
        if (status == SPC_OK && json_object_set_new_nocheck(object, key, value) != 0) {
            status = no_memory(r);
        }
        free(key);
        if (status == SPC_OK) status = read_comma(r, '}', &more);
        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

static spc_status read_nested(reader *r, json_t **out)
{
    bool array = peek(r) == '[';
    json_t *value;
    spc_status status;

    if (r->depth == SPC_JSON_DEPTH_MAX) return wrong(r, "nested too deep");
    value = array ? json_array() : json_object();
    if (!value) return no_memory(r);
    r->depth++;
    status = array ? read_items(r, value) : read_members(r, value);
    r->depth--;
    if (status == SPC_OK) {
        *out = value;
    } else {
        json_decref(value);
    }
    return status;
}

static spc_status read_word(reader *r, json_t **out)
{
    static const char *const words[] = {"true", "false", "null"};

    for (int i = 0; i < 3; i++) {
        size_t length = strlen(words[i]);

        if (r->bytes - r->at < length || memcmp(r->text + r->at, words[i], length) != 0) continue;
        r->at += length;
        *out = i == 0 ? json_true() : i == 1 ? json_false() : json_null();
        return SPC_OK;
    }
    return wrong(r, "expected a value");
}

static spc_status read_value(reader *r, json_t **out)
{
    char c = peek_behind_space(r);
    spc_status status;

    *out = NULL;
    if (c == '[' || c == '{') return read_nested(r, out);
    if (c == '-' || is_digit(c)) return read_number(r, out);
    if (c != '"') return read_word(r, out);
    status = read_string(r);
    if (status != SPC_OK) return status;
    *out = json_stringn_nocheck(r->string, r->length);
    return *out ? SPC_OK : no_memory(r);
}

spc_status spc_json_read(const char *where, const char *text, size_t bytes, json_t **out,
                         spc_error *err)
{
    reader r = {.where = where, .text = text, .bytes = bytes, .err = err};
    char first = peek_behind_space(&r);
    spc_status status = first == '[' || first == '{' ? read_value(&r, out)
                                                     : wrong(&r, "expected an object or an array");

    if (status == SPC_OK && (peek_behind_space(&r), r.at < r.bytes)) {
        status = wrong(&r, "expected the end of the text");
        json_decref(*out);
    }
    if (status != SPC_OK) *out = NULL;
    free(r.string);
    return status;
}
