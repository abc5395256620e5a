/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_safetensors.c - files that are right, files that lie, files that end early. */
#include "weights/safetensors.h"

#include "damage.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1024 };

typedef struct {
    unsigned char data[FILE_MAX];
    size_t bytes;
} image;

/* A file of this header text and so many bytes of data 0, 1, 2, ... */
static image image_of(const char *header, size_t data)
{
    image f;
    size_t length = strlen(header);

    cr_assert_leq(8 + length + data, FILE_MAX);
    memset(f.data, 0, sizeof f.data);
    for (int i = 0; i < 8; i++) f.data[i] = (unsigned char)(length >> (8 * i));
    memcpy(f.data + 8, header, length);
    for (size_t i = 0; i < data; i++) f.data[8 + length + i] = (unsigned char)i;
    f.bytes = 8 + length + data;
    return f;
}

/* Read a copy that ends where the file does, so that a sanitizer sees a byte too many. */
static spc_status read_image(const image *f, spc_tensor_list *list, spc_error *err, void **copy)
{
    *copy = malloc(f->bytes > 0 ? f->bytes : 1);
    cr_assert_not_null(*copy);
    memcpy(*copy, f->data, f->bytes);
    memset(list, 0, sizeof *list);
    return spc_safetensors_read("here.safetensors", *copy, f->bytes, list, err);
}

static void expect_refused(const image *f, const char *word, const char *what)
{
    spc_tensor_list list;
    spc_error err = {SPC_OK, ""};
    void *copy;
    spc_status status = read_image(f, &list, &err, &copy);

    cr_assert_eq(status, SPC_EFORMAT, "%s: status %d", what, (int)status);
    cr_assert_eq(err.status, SPC_EFORMAT, "%s", what);
    cr_assert_not_null(strstr(err.message, "here.safetensors"), "%s: %s", what, err.message);
    cr_assert_not_null(strstr(err.message, word), "%s: expected '%s' in: %s", what, word,
                       err.message);
    cr_assert_null(strchr(err.message, '\n'), "%s: more than one line", what);
    cr_assert_eq(list.count, 0, "%s: the list grew", what);
    spc_tensor_list_free(&list);
    free(copy);
}

static const char two_tensors[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
    "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[20,20]},"
    "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[20,21]}}  ";

static const spc_tensor *find(const spc_tensor_list *list, const char *name)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (strcmp(list->tensor[i].name, name) == 0) return &list->tensor[i];
    }
    cr_assert_fail("no tensor %s", name);
    return NULL;
}

Test(weights_safetensors, tensors_are_what_the_header_says)
{
    image f = image_of(two_tensors, 21);
    spc_tensor_list list;
    spc_error err = {SPC_OK, "untouched"};
    void *copy;

    cr_assert_eq(read_image(&f, &list, &err, &copy), SPC_OK, "%s", err.message);
    cr_assert_str_eq(err.message, "untouched");
    cr_assert_eq(list.count, 4);

    const spc_tensor *b = find(&list, "b"), *one = find(&list, "one");

    cr_assert_eq(b->dtype, SPC_DTYPE_BF16);
    cr_assert_eq(b->rank, 2);
    cr_assert_eq(b->shape[0], 2);
    cr_assert_eq(b->shape[1], 3);
    cr_assert_eq(b->bytes, 12);
    cr_assert_eq(((const unsigned char *)b->data)[0], 8);
    cr_assert_eq(find(&list, "none")->bytes, 0);
    cr_assert_eq(one->rank, 0);
    cr_assert_eq(*(const unsigned char *)one->data, 20);
    spc_tensor_list_free(&list);
    free(copy);
}

/* At every address modulo 4: a view is aligned for its type and holds the same bytes, in place or
 * copied. */
Test(weights_safetensors, what_is_not_aligned_is_copied)
{
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    image f = image_of(header, 8);
    int32_t copied = 0;

    for (size_t shift = 0; shift < 4; shift++) {
        unsigned char *room = malloc(f.bytes + shift);
        spc_tensor_list list;
        spc_error err;

        memcpy(room + shift, f.data, f.bytes);
        memset(&list, 0, sizeof list);
        cr_assert_eq(spc_safetensors_read("x", room + shift, f.bytes, &list, &err), SPC_OK);
        cr_assert_eq((uintptr_t)list.tensor[0].data % 4, 0);
        cr_assert(memcmp(list.tensor[0].data, f.data + f.bytes - 8, 8) == 0);
        copied += list.owned[0] != NULL;
        spc_tensor_list_free(&list);
        free(room);
    }
    cr_assert_eq(copied, 3);
}

Test(weights_safetensors, a_file_cut_anywhere_is_refused)
{
    image whole = image_of(two_tensors, 21);

    for (size_t bytes = 0; bytes < whole.bytes; bytes++) {
        image part = whole;
        char what[32];

        part.bytes = bytes;
        (void)snprintf(what, sizeof what, "%zu bytes", bytes);
        expect_refused(&part, "", what);
    }
}

/* Refused with one line, or tensors that lie within the file. */
static bool is_whole(void *user, const char *bytes, size_t count)
{
    spc_tensor_list list = {0};
    spc_error err = {SPC_OK, ""};
    spc_status status = spc_safetensors_read("damaged", bytes, count, &list, &err);

    (void)user;
    for (int32_t i = 0; i < list.count; i++) { /* read what is claimed to be there */
        const spc_tensor *t = &list.tensor[i];
        void *data = malloc((size_t)t->bytes + 1);

        cr_assert_not_null(data);
        memcpy(data, t->data, (size_t)t->bytes);
        free(data);
    }
    spc_tensor_list_free(&list);
    if (status == SPC_OK) return true;
    cr_assert_eq(status, SPC_EFORMAT, "%s", err.message);
    cr_assert(err.message[0] && !strchr(err.message, '\n'), "'%s'", err.message);
    return false;
}

Test(weights_safetensors, every_damaged_byte_is_refused_or_harmless)
{
    image f = image_of(two_tensors, 21);

    cr_expect_gt(damage_bytes(is_whole, NULL, (const char *)f.data, f.bytes, f.bytes), 0,
                 "the data may be any");
}

Test(weights_safetensors, a_lying_length_is_refused)
{
    static const uint64_t lengths[] = {0, 1, 3, 1u << 20, 1ull << 32, 1ull << 63, UINT64_MAX};
    image f = image_of(two_tensors, 21);

    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        for (int i = 0; i < 8; i++) f.data[i] = (unsigned char)(lengths[k] >> (8 * i));
        expect_refused(&f, "", "length");
    }
}

/* Off by one: the header loses its last brace, or gains the first byte of the data. */
Test(weights_safetensors, a_length_off_by_one_is_refused)
{
    image f = image_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);

    f.data[0]--;
    expect_refused(&f, "header", "one too short");
    f.data[0] += 2;
    expect_refused(&f, "header", "one too long");
}

Test(weights_safetensors, lying_headers_are_refused)
{
    static const struct {
        const char *header;
        size_t data;
        const char *word;
    } cases[] = {
        {"[]", 0, "object"},
        {"{\"a\":", 0, "header"},
        {"{\"a\":1}", 0, "'a'"},
        {"{\"a\":{},\"a\":{}}", 0, "duplicate"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype"},
        {"{\"a\":{\"dtype\":\"Q9\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "Q9"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", 4,
         "more bytes than"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,1]}}", 1,
         "header"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0,
         "more bytes than"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "8 bytes"},
        {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.0]}}", 1, "data_offsets"},
        {"not json", 0, "header"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, "truncated"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2,
         "after the last tensor"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
         3, "hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}}",
         2, "overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         1, "overlap"},
    };

    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        image f = image_of(cases[k].header, cases[k].data);

        expect_refused(&f, cases[k].word, cases[k].header);
    }
}

/* A second file is checked by itself, and its tensors stand behind those of the first. */
Test(weights_safetensors, files_append)
{
    image first = image_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    image second = image_of("{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3);
    spc_tensor_list list;
    spc_error err;

    memset(&list, 0, sizeof list);
    cr_assert_eq(spc_safetensors_read("1", first.data, first.bytes, &list, &err), SPC_OK);
    cr_assert_eq(spc_safetensors_read("2", second.data, second.bytes, &list, &err), SPC_OK);
    cr_assert_eq(list.count, 2);
    cr_assert_str_eq(list.tensor[1].name, "b");
    spc_tensor_list_free(&list);
}

/* A file that fails after some of its tensors were read leaves those of the first alone. */
Test(weights_safetensors, a_file_that_fails_leaves_the_list_as_it_was)
{
    static const char *const headers[] = {
        "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"c\":1}",
        "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
        "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"};
    image first = image_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    spc_tensor_list list;
    spc_error err;

    memset(&list, 0, sizeof list);
    cr_assert_eq(spc_safetensors_read("1", first.data, first.bytes, &list, &err), SPC_OK);
    for (size_t k = 0; k < sizeof headers / sizeof *headers; k++) {
        image second = image_of(headers[k], 1);

        cr_assert_eq(spc_safetensors_read("2", second.data, second.bytes, &list, &err),
                     SPC_EFORMAT);
        cr_assert_eq(list.count, 1, "%s", headers[k]);
        cr_assert_str_eq(list.tensor[0].name, "a");
    }
    spc_tensor_list_free(&list);
}
