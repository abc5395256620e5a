/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizers.h - the recorded tokenizers, opened, and files that are none, refused. */
#ifndef SPC_TESTS_TOKENIZERS_H
#define SPC_TESTS_TOKENIZERS_H

#include "weights/json.h"
#include "weights/tokenizer.h"

#include "files.h"

#include <string.h>

static inline spc_tokenizer *open_vector(const char *name)
{
    char path[512];
    size_t bytes;
    spc_error error;
    spc_tokenizer *t;

    (void)snprintf(path, sizeof path, "%s/tokenizers/%s.json", SPC_TEST_VECTORS, name);
    char *json = read_file(path, &bytes);

    cr_assert_eq(spc_tokenizer_open(name, json, bytes, &t, &error), SPC_OK, "%s", error.message);
    free(json);
    return t;
}

static inline void expect_refused(const char *json, spc_status status, const char *named)
{
    spc_tokenizer *t;
    spc_error error;

    cr_expect_eq(spc_tokenizer_open("toy", json, strlen(json), &t, &error), status, "%s", json);
    cr_expect_null(t);
    cr_expect_not_null(strstr(error.message, named), "'%s' should name '%s'", error.message, named);
}

#endif
