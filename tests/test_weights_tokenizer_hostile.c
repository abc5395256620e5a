/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged tokenizer.json files, made from the small ones that the fuzzer begins with: cut short
 * anywhere, or with any byte changed.  What opens must encode and decode; the rest is refused with
 * one line (damage.h).  Texts are exact-sized, so the sanitizers see a read behind them. */
#include "weights/tokenizer.h"
#include "weights/utf8.h"

#include "damage.h"
#include "files.h"

#include <string.h>

/* A seed: a tokenizer.json, a zero, a text. */
typedef struct {
    char *json, *text;
    size_t json_bytes, text_bytes;
} seed;

static seed read_seed(const char *name)
{
    char path[512];
    size_t bytes;
    seed s;

    (void)snprintf(path, sizeof path, "%s/fuzz/tokenizer/%s", SPC_TEST_VECTORS, name);
    s.json = read_file(path, &bytes);
    s.json_bytes = strlen(s.json);
    cr_assert_lt(s.json_bytes, bytes, "%s holds no text", name);
    s.text = s.json + s.json_bytes + 1;
    s.text_bytes = bytes - s.json_bytes - 1;
    return s;
}

static void encode_and_decode(const spc_tokenizer *t, const char *text, size_t bytes)
{
    int32_t *ids, count;
    size_t length;
    char *back;
    spc_error error;

    if (spc_tokenizer_encode(t, text, bytes, true, &ids, &count, &error) != SPC_OK) {
        cr_expect_eq(error.status, SPC_EINPUT, "%s", error.message);
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        cr_assert(ids[i] >= 0 && ids[i] < spc_tokenizer_size(t), "id %d", (int)ids[i]);
    }
    cr_assert_eq(spc_tokenizer_decode(t, ids, count, false, &back, &length, &error), SPC_OK, "%s",
                 error.message);
    cr_expect_eq(spc_utf8_invalid(back, length), length);
    free(back);
    free(ids);
}

/* Open, and use what opens.  Did it open? */
static bool try_it(void *user, const char *json, size_t bytes)
{
    const seed *s = user;
    char *text = malloc(s->text_bytes);
    spc_error error = {SPC_OK, ""};
    spc_tokenizer *t;
    spc_status status = spc_tokenizer_open("damaged", json, bytes, &t, &error);

    cr_assert_not_null(text);
    memcpy(text, s->text, s->text_bytes);
    if (status == SPC_OK) {
        encode_and_decode(t, text, s->text_bytes);
        spc_tokenizer_close(t);
    } else {
        cr_expect(status == SPC_EFORMAT || status == SPC_EMODEL, "%s", error.message);
        cr_expect_null(t);
        cr_expect(error.message[0] && !strchr(error.message, '\n'), "'%s'", error.message);
    }
    free(text);
    return status == SPC_OK;
}

static void expect_survives(const char *name)
{
    seed s = read_seed(name);

    cr_expect(damage_try(try_it, &s, s.json, s.json_bytes), "%s: whole", name);
    damage_cut(try_it, &s, s.json, s.json_bytes);
    (void)damage_bytes(try_it, &s, s.json, s.json_bytes, s.json_bytes);
    free(s.json);
}

Test(weights_tokenizer_hostile, byte_level)
{
    expect_survives("every-byte");
    expect_survives("splits");
}

Test(weights_tokenizer_hostile, byte_fallback)
{
    expect_survives("byte-fallback");
}

Test(weights_tokenizer_hostile, metaspace)
{
    expect_survives("metaspace");
}

Test(weights_tokenizer_hostile, unigram)
{
    expect_survives("unigram");
}

/* Every bit of the table of replacements: an offset that leads out of the trie or of the texts, and
 * a text that is not UTF-8, are refused or do nothing. */
Test(weights_tokenizer_hostile, charsmap)
{
    seed s = read_seed("unigram");
    char *map = strstr(s.json, "precompiled_charsmap\":\"");
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int32_t opened = 0;

    cr_assert_not_null(map);
    map = strchr(map, ':') + 2;
    for (size_t i = 0; map[i] != '"' && map[i] != '='; i++) {
        const char was = map[i];
        size_t digit = (size_t)(strchr(digits, was) - digits);

        for (size_t bit = 0; bit < 6; bit++) {
            map[i] = digits[digit ^ (size_t)1 << bit];
            opened += damage_try(try_it, &s, s.json, s.json_bytes);
        }
        map[i] = was;
    }
    cr_expect_gt(opened, 100); /* most of it is not refused: it must be harmless */
    free(s.json);
}
