/* SPDX-License-Identifier: Apache-2.0 */
/* Random texts and ids through the forms that published tokenizer.json files have, against recorded
 * results of the reference implementation (vectors/make_tokenizers.py). */
#include "weights/tokenizer.h"

#include "files.h"

#include <string.h>

enum { SHOWN_MAX = 3 }; /* differences of a case that are told in full */

/* The tokenizer of a case: its base with some parts replaced. */
static spc_tokenizer *open_case(const json_t *one)
{
    char path[512];
    const char *name = json_string_value(json_object_get(one, "name"));
    spc_tokenizer *t;
    spc_error error;

    (void)snprintf(path, sizeof path, "%s/tokenizers/%s.json", SPC_TEST_VECTORS,
                   json_string_value(json_object_get(one, "base")));
    json_t *root = read_json(path);

    cr_assert_eq(json_object_update(root, json_object_get(one, "parts")), 0);
    cr_assert_eq(json_object_update(json_object_get(root, "model"), json_object_get(one, "model")),
                 0);

    char *json = json_dumps(root, JSON_COMPACT);
    spc_status status = spc_tokenizer_open(name, json, strlen(json), &t, &error);

    cr_expect_eq(status, SPC_OK, "%s", error.message);
    json_decref(root);
    free(json);
    return t;
}

static char *listed(const int32_t *ids, int32_t count)
{
    char *text = calloc(1, (size_t)count * 12 + 1), *at = text;

    for (int32_t i = 0; i < count; i++) at += sprintf(at, " %d", (int)ids[i]);
    return text;
}

/* 0, or 1 for a difference. */
static int differs(const spc_tokenizer *t, const char *name, const json_t *text, bool special,
                   const json_t *wanted_json, int shown)
{
    int32_t *ids, count, wanted_count, *wanted = read_ids(wanted_json, &wanted_count);
    spc_error error;

    cr_assert_eq(spc_tokenizer_encode(t, json_string_value(text), json_string_length(text), special,
                                      &ids, &count, &error),
                 SPC_OK, "%s: %s", name, error.message);

    bool same = count == wanted_count &&
                (count == 0 || memcmp(ids, wanted, (size_t)count * sizeof *ids) == 0);

    if (!same && shown < SHOWN_MAX) {
        char *have = listed(ids, count), *want = listed(wanted, wanted_count);
        char *quoted = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);

        cr_expect_fail("%s: %s: ids%s, expected%s", name, quoted, have, want);
        free(quoted);
        free(have);
        free(want);
    }
    free(ids);
    free(wanted);
    return !same;
}

static int decodes_otherwise(const spc_tokenizer *t, const char *name, const json_t *ids_json,
                             bool skip_special, const json_t *wanted, int shown)
{
    int32_t count, *ids = read_ids(ids_json, &count);
    size_t bytes;
    char *text;
    spc_error error;

    cr_assert_eq(spc_tokenizer_decode(t, ids, count, skip_special, &text, &bytes, &error), SPC_OK,
                 "%s: %s", name, error.message);

    bool same =
        bytes == json_string_length(wanted) && memcmp(text, json_string_value(wanted), bytes) == 0;

    if (!same && shown < SHOWN_MAX) {
        char *list = listed(ids, count);

        cr_expect_fail("%s:%s decode to '%s', expected '%s'", name, list, text,
                       json_string_value(wanted));
        free(list);
    }
    free(text);
    free(ids);
    return !same;
}

static void expect_case(const json_t *one, const json_t *texts)
{
    const char *name = json_string_value(json_object_get(one, "name"));
    spc_tokenizer *t = open_case(one);
    int wrong = 0;
    size_t i;
    json_t *value;

    if (!t) return;
    json_array_foreach(texts, i, value)
    {
        wrong +=
            differs(t, name, value, false, json_array_get(json_object_get(one, "ids"), i), wrong);
    }
    wrong += differs(t, name, json_array_get(texts, 0), true, json_object_get(one, "ids_special"),
                     wrong);
    json_array_foreach(json_object_get(one, "decode"), i, value)
    {
        wrong += decodes_otherwise(t, name, value, false,
                                   json_array_get(json_object_get(one, "decoded"), i), wrong);
        wrong += decodes_otherwise(t, name, value, true,
                                   json_array_get(json_object_get(one, "decoded_plain"), i), wrong);
    }
    cr_expect_eq(wrong, 0, "%s: %d differences", name, wrong);
    spc_tokenizer_close(t);
}

Test(weights_tokenizer_random, does_what_the_reference_does)
{
    json_error_t problem;
    json_t *root =
               json_load_file(SPC_TEST_VECTORS "/tokenizers/random.json", JSON_ALLOW_NUL, &problem),
           *one;
    size_t i;

    cr_assert_not_null(root, "%s", problem.text);
    cr_assert_gt(json_array_size(json_object_get(root, "cases")), 40);
    json_array_foreach(json_object_get(root, "cases"), i, one)
    {
        expect_case(one, json_object_get(root, "texts"));
    }
    json_decref(root);
}
