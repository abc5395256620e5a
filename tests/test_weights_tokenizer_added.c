/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_tokenizer_added.c - added tokens of a tokenizer: their ids, and where a text has
 * them. */
#include "tokenizers.h"

/* The GPT-2 vector with other added tokens, malloc'd. */
static char *with_added(const char *added)
{
    json_t *root = read_json(SPC_TEST_VECTORS "/tokenizers/bytelevel-gpt2.json");
    json_error_t problem;
    json_t *tokens = json_loads(added, 0, &problem);
    char *json;

    cr_assert_not_null(tokens, "%s: %s", added, problem.text);
    cr_assert_eq(json_object_set_new(root, "added_tokens", tokens), 0);
    json = json_dumps(root, 0);
    json_decref(root);
    return json;
}

static void expect_refused_with(const char *added)
{
    char *json = with_added(added);

    expect_refused(json, SPC_EFORMAT, "share one id");
    free(json);
}

/* Encoding trusts that a byte's token is one character long. */
Test(weights_tokenizer_added, refuses_two_tokens_of_one_id)
{
    expect_refused_with("[{\"id\":70,\"content\":\"a long text for the id of a byte\"}]");
    expect_refused_with("[{\"id\":5000,\"content\":\"bbb\"},{\"id\":5000,\"content\":\"b\"}]");
}

/* Two added tokens rename id 500: the last counts, and its length is its own (the text is
 * exact-sized, so the sanitizers would see it compared with the longer one). */
Test(weights_tokenizer_added, an_added_token_may_rename_a_word)
{
    char *json = with_added("[{\"id\":500,\"content\":\"<bbbbbbbbbbbbbbbb>\"},"
                            "{\"id\":500,\"content\":\"<b>\"}]");
    size_t bytes = 40;
    char *text = malloc(bytes);
    spc_tokenizer *t;
    spc_error error;
    int32_t *ids, count;

    cr_assert_eq(spc_tokenizer_open("toy", json, strlen(json), &t, &error), SPC_OK, "%s",
                 error.message);
    memset(text, 0, bytes); /* as the bytes behind a piece may be */
    memcpy(text, "<b>", 3);
    memcpy(text + 4, "<b>", 3);
    cr_assert_eq(spc_tokenizer_encode(t, text, bytes, false, &ids, &count, &error), SPC_OK);
    cr_expect_gt(count, 2);
    cr_expect_eq(ids[0], 500);
    cr_expect_eq(spc_tokenizer_find(t, "<b>"), 500);
    free(ids);
    free(text);
    free(json);
    spc_tokenizer_close(t);
}

/* ---- added tokens in a text -------------------------------------------------------------------
 */

enum { NEST = 60, NEST_ID = 5000, NEST_TEXT = 40 };

typedef struct {
    char content[8];
    bool single_word;
} nested;

static bool is_word(char c)
{
    return c == 'a' || c == 'b';
}

/* The longest that stands there, by looking at all; -1: none. */
static int32_t nested_at(const nested *n, const char *text, size_t at)
{
    int32_t longest = -1;

    for (int32_t i = 0; i < NEST; i++) {
        size_t length = strlen(n[i].content);

        if (strncmp(text + at, n[i].content, length) != 0) continue;
        if (n[i].single_word && at > 0 && is_word(text[at - 1])) continue;
        if (n[i].single_word && is_word(text[at + length])) continue;
        if (longest < 0 || length > strlen(n[longest].content)) longest = i;
    }
    return longest;
}

static char *nested_json(const nested *n)
{
    json_t *list = json_array();
    char *text, *json;

    for (int32_t i = 0; i < NEST; i++) {
        json_t *one = json_pack("{s:i, s:s, s:b}", "id", NEST_ID + (int)i, "content", n[i].content,
                                "single_word", (int)n[i].single_word);

        cr_assert_eq(json_array_append_new(list, one), 0);
    }
    text = json_dumps(list, 0);
    json = with_added(text);
    json_decref(list);
    free(text);
    return json;
}

/* Tokens that others begin with, some of them words only. */
Test(weights_tokenizer_added, the_longest_added_token_is_cut_out)
{
    nested n[NEST] = {{"", false}};
    uint32_t dice = 7;
    spc_tokenizer *t;
    char *json;

    for (int32_t i = 0; i < NEST; i++) {
        bool again = true;

        while (again) {
            size_t length = 1 + (dice = dice * 1664525u + 1013904223u) / 65536 % 6;

            memset(n[i].content, 0, sizeof n[i].content);
            for (size_t k = 0; k < length; k++) {
                n[i].content[k] = "ab<>"[(dice = dice * 1664525u + 1013904223u) >> 30];
            }
            again = false;
            for (int32_t j = 0; j < i; j++) again |= strcmp(n[i].content, n[j].content) == 0;
        }
        n[i].single_word = i % 3 == 0;
    }
    json = nested_json(n);
    cr_assert_eq(spc_tokenizer_open("nested", json, strlen(json), &t, NULL), SPC_OK);
    for (int32_t round = 0; round < 2000; round++) {
        char text[NEST_TEXT + 1] = "";
        int32_t *ids, count, seen = 0;

        for (size_t k = 0; k < NEST_TEXT; k++) {
            text[k] = "ab<> "[((dice = dice * 1664525u + 1013904223u) >> 16) % 5];
        }
        cr_assert_eq(spc_tokenizer_encode(t, text, NEST_TEXT, false, &ids, &count, NULL), SPC_OK);
        for (size_t at = 0; at < NEST_TEXT;) {
            int32_t wanted = nested_at(n, text, at);

            at += wanted < 0 ? 1 : strlen(n[wanted].content);
            if (wanted < 0) continue;
            while (seen < count && ids[seen] < NEST_ID) seen++;
            cr_assert(seen < count && ids[seen] == NEST_ID + wanted, "'%s': '%s'", text,
                      n[wanted].content);
            seen++;
        }
        while (seen < count && ids[seen] < NEST_ID) seen++;
        cr_assert_eq(seen, count, "'%s'", text);
        free(ids);
    }
    free(json);
    spc_tokenizer_close(t);
}

/* Gemma 3 has 6249, nearly all of which begin alike. */
Test(weights_tokenizer_added, many_added_tokens_are_not_looked_at_everywhere, .timeout = 60)
{
    enum { TOKENS = 30000, REPEATS = 200000 };
    static const char begins[] = "<unused", text[] = "<unused1x ";
    size_t bytes = REPEATS * (sizeof text - 1);
    char *list = malloc(TOKENS * 64 + 2), *all = malloc(bytes), *json;
    size_t used = 1;
    int32_t *ids, count, found = 0;
    spc_tokenizer *t;

    list[0] = '[';
    for (int32_t i = 0; i < TOKENS; i++) {
        used += (size_t)sprintf(list + used, "{\"id\":%d,\"content\":\"%s%d>\"},", 5000 + (int)i,
                                begins, (int)i);
    }
    memcpy(list + used - 1, "]", 2);
    json = with_added(list);
    for (size_t i = 0; i < bytes; i++) all[i] = text[i % (sizeof text - 1)];
    memcpy(all + bytes - 10, "<unused77>", 10);
    cr_assert_eq(spc_tokenizer_open("many", json, strlen(json), &t, NULL), SPC_OK);
    cr_assert_eq(spc_tokenizer_encode(t, all, bytes, false, &ids, &count, NULL), SPC_OK);
    for (int32_t i = 0; i < count; i++) found += ids[i] >= 5000;
    cr_expect_eq(found, 1);
    cr_expect_eq(ids[count - 1], 5077);
    free(ids);
    free(all);
    free(list);
    free(json);
    spc_tokenizer_close(t);
}
