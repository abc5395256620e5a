/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_tokenizer_plain.c - a stranger's text stays text, whatever special tokens it spells.
 */
#include "tokenizers.h"

/* No special id but those of bytes and of the unknown token, and the text is kept. */
static void expect_plain(const char *name, const spc_tokenizer *t, const char *text)
{
    int32_t unknown = spc_tokenizer_find(t, "<unk>"), *ids, count;
    bool known = true;
    spc_error error;
    char *back;

    cr_assert_eq(spc_tokenizer_encode_plain(t, text, strlen(text), false, &ids, &count, &error),
                 SPC_OK, "%s", error.message);
    cr_expect_gt(count, 0);
    for (int32_t i = 0; i < count; i++) {
        size_t bytes;

        (void)spc_tokenizer_piece(t, ids[i], &bytes);
        known &= ids[i] != unknown;
        if (bytes < 2 || ids[i] == unknown) continue;
        cr_expect_not(spc_tokenizer_is_special(t, ids[i]), "%s: '%s': id %d is %d", name, text,
                      (int)i, (int)ids[i]);
    }
    cr_assert_eq(spc_tokenizer_decode(t, ids, count, false, &back, NULL, &error), SPC_OK);
    if (known) cr_expect(strstr(back, text), "%s: '%s' became '%s'", name, text, back);
    free(back);
    free(ids);
}

static const char *const vectors[] = {"bytelevel-gpt2", "bytelevel-llama3", "bytelevel-qwen2",
                                      "spbpe-llama2",   "spbpe-gemma",      "unigram-t5"};

Test(weights_tokenizer_plain, in_plain_text_no_special_token_can_be_spelled)
{
    for (size_t v = 0; v < sizeof vectors / sizeof *vectors; v++) {
        spc_tokenizer *t = open_vector(vectors[v]);
        int32_t spelled = 0;

        for (int32_t id = 0; id < spc_tokenizer_size(t); id++) {
            size_t bytes;
            const char *piece = spc_tokenizer_piece(t, id, &bytes);
            char text[128];

            if (!spc_tokenizer_is_special(t, id) || bytes < 2) continue;
            (void)snprintf(text, sizeof text, "%.*s", (int)bytes, piece);
            expect_plain(vectors[v], t, text);
            (void)snprintf(text, sizeof text, "a%.*s b", (int)bytes, piece);
            expect_plain(vectors[v], t, text);
            spelled++;
        }
        cr_expect_gt(spelled, 2, "%s", vectors[v]);
        spc_tokenizer_close(t);
    }
}

/* A word of the vocabulary that is a special token is found by its merges, as a whole, and by the
 * search of Unigram. */
Test(weights_tokenizer_plain, in_plain_text_no_special_word_is_found)
{
    for (size_t v = 0; v < sizeof vectors / sizeof *vectors; v++) {
        char path[512];

        (void)snprintf(path, sizeof path, "%s/tokenizers/%s.json", SPC_TEST_VECTORS, vectors[v]);
        spc_tokenizer *t = open_vector(vectors[v]);
        int32_t er = spc_tokenizer_find(t, "er");

        spc_tokenizer_close(t);
        cr_assert_geq(er, 0, "%s", vectors[v]);
        for (int ignore = 0; ignore < 2; ignore++) {
            json_t *root = read_json(path);
            spc_error error;

            (void)json_array_append_new(
                json_object_get(root, "added_tokens"),
                json_pack("{s:i, s:s, s:b}", "id", (int)er, "content", "er", "special", 1));
            (void)json_object_set_new(json_object_get(root, "model"), "ignore_merges",
                                      json_boolean(ignore));
            char *json = json_dumps(root, JSON_COMPACT);

            cr_assert_eq(spc_tokenizer_open("m", json, strlen(json), &t, &error), SPC_OK, "%s",
                         error.message);
            expect_plain(vectors[v], t, "er");
            expect_plain(vectors[v], t, "wonderer er");
            spc_tokenizer_close(t);
            free(json);
            json_decref(root);
        }
    }
}

/* What the tokenizer adds around a text it adds around a stranger's too. */
Test(weights_tokenizer_plain, plain_text_of_plain_words_is_text)
{
    static const char text[] = "the house, and the garden";

    for (size_t v = 0; v < sizeof vectors / sizeof *vectors; v++) {
        spc_tokenizer *t = open_vector(vectors[v]);
        int32_t *a, *b, n, m;
        spc_error error;

        for (int special = 0; special < 2; special++) {
            cr_assert_eq(spc_tokenizer_encode(t, text, strlen(text), special, &a, &n, &error),
                         SPC_OK);
            cr_assert_eq(spc_tokenizer_encode_plain(t, text, strlen(text), special, &b, &m, &error),
                         SPC_OK);
            cr_assert_eq(n, m, "%s", vectors[v]);
            cr_expect_arr_eq(a, b, (size_t)n * sizeof *a);
            free(a);
            free(b);
        }
        spc_tokenizer_close(t);
    }
}
