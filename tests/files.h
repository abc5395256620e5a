/* SPDX-License-Identifier: Apache-2.0 */
/* files.h - reading test vectors. */
#ifndef SPC_TESTS_FILES_H
#define SPC_TESTS_FILES_H

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* A whole file, malloc'd and terminated. */
static inline char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *text;
    long size;

    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    rewind(file);
    text = malloc((size_t)size + 1);
    cr_assert_not_null(text);
    cr_assert_eq(fread(text, 1, (size_t)size, file), (size_t)size);
    text[size] = '\0';
    *bytes = (size_t)size;
    (void)fclose(file);
    return text;
}

static inline json_t *read_json(const char *path)
{
    json_error_t problem;
    json_t *root = json_load_file(path, 0, &problem);

    cr_assert_not_null(root, "%s: %s", path, problem.text);
    return root;
}

/* An array of ids, malloc'd. */
static inline int32_t *read_ids(const json_t *array, int32_t *count)
{
    *count = (int32_t)json_array_size(array);
    int32_t *ids = malloc(((size_t)*count + 1) * sizeof *ids);

    for (int32_t i = 0; i < *count; i++) {
        ids[i] = (int32_t)json_integer_value(json_array_get(array, (size_t)i));
    }
    return ids;
}

#endif
