/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_tokenize.c - spc tokenize and spc demo. */
#include "folder.h"
#include "spawn.h"

#include <math.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define TINY         SPC_TEST_VECTORS "/llama"
#define VERIFIER     "embedded:verifier"
#define DRAFTER      "embedded:drafter"

/* ---- tokenize ---------------------------------------------------------------------------------
 */

/* A model folder with a tokenizer that puts a begin of text, id 0, before every text. */
static folder model_with_bos(void)
{
    folder f = folder_open();

    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
    folder_copy(&f, SPC_TEST_VECTORS "/tokenizers/bytelevel-llama3.json", "tokenizer.json",
                SIZE_MAX);
    return f;
}

Test(host_cli_tokenize, text_comes_back_from_its_ids)
{
    static const char *const texts[] = {
        "",
        "a",
        "The train to the coast leaves at seven.",
        "\n",
        "two\nlines\n\nand a third, without end",
        "  blanks \t and tabs  \r\n",
        "\xc3\x9c"
        "bergr\xc3\xb6\xc3\x9f"
        "e, e\xcc\x81, \xe6\x97\xa5\xe6\x9c\xac",
        "\xf0\x9f\x98\x80\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80 12345 ...!?",
        "< sep> \"quoted\" \\ {json: [1]}\x7f\x01",
    };
    folder f = model_with_bos();
    const char *models[] = {VERIFIER, DRAFTER, f.path};

    for (int32_t m = 0; m < COUNT(models); m++) {
        for (int32_t i = 0; i < COUNT(texts); i++) {
            char *ids = OUTPUT(texts[i], "tokenize", models[m]);
            char *text = OUTPUT(ids, "tokenize", "--decode", models[m]);

            cr_expect_eq(ids[0], '[');
            cr_expect_eq(count_lines(ids), 1);
            cr_expect_str_eq(text, texts[i], "%s", models[m]);
            free(ids);
            free(text);
        }
    }
    folder_close(&f);
}

Test(host_cli_tokenize, special_adds_the_template_and_writes_special_tokens)
{
    folder f = model_with_bos();
    json_t *plain = JSON("Hello.", "tokenize", f.path);
    json_t *special = JSON("Hello.", "tokenize", "--special", f.path);
    json_t *ids = json_array_get(special, 0);
    char *text = json_dumps(ids, 0);
    char *without = OUTPUT(text, "tokenize", "--decode", f.path);
    char *with = OUTPUT(text, "tokenize", "--decode", "--special", f.path);

    cr_expect_eq(json_integer_value(json_array_get(ids, 0)), 0);
    cr_assert_eq(json_array_remove(ids, 0), 0);
    cr_expect(json_equal(plain, special), "and nothing but a begin of text before it");
    cr_expect_str_eq(without, "Hello.");
    cr_expect_str_eq(with, "<|begin_of_text|>Hello.");
    free(text);
    free(without);
    free(with);
    json_decref(plain);
    json_decref(special);
    folder_close(&f);
}

Test(host_cli_tokenize, special_tokens_in_a_text_become_their_id)
{
    char *ids = OUTPUT("<s><2de><2es><2fr><sep></s><pad>", "tokenize", VERIFIER);
    char *text = OUTPUT(ids, "tokenize", "--decode", "--special", VERIFIER);

    cr_expect_str_eq(ids, "[1,4,5,6,3,2,0]\n");
    cr_expect_str_eq(text, "<s><2de><2es><2fr><sep></s><pad>");
    free(ids);
    free(text);
}

Test(host_cli_tokenize, what_cannot_be_tokenized_is_exit_6)
{
    static const struct {
        const char *option, *in, *word;
    } table[] = {{"--special", "abc\xff", "expected UTF-8, found byte 0xff at offset 3"},
                 {"--special", "\xc3", "UTF-8"},
                 {"--special", "\xed\xa0\x80", "UTF-8"},
                 {"--decode", "", "not JSON"},
                 {"--decode", "[1", "not JSON"},
                 {"--decode", "[1] 2", "not JSON"},
                 {"--decode", "7", "not JSON"},
                 {"--decode", "{\"ids\":[1]}", "array of ids"},
                 {"--decode", "[1,-1]", "id 1"},
                 {"--decode", "[1,2,\"3\"]", "id 2"},
                 {"--decode", "[1.5]", "id 0"},
                 {"--decode", "[2147483648]", "id 0"},
                 {"--decode", "[1,6144]", "0 to 6143, found 6144"}};

    for (int32_t i = 0; i < COUNT(table); i++) {
        const char *args[] = {"tokenize", VERIFIER, table[i].option, NULL};

        spawn_failure(args, &(const spawn_options){.in = table[i].in}, 6, table[i].word);
    }
}

/* ---- demo -------------------------------------------------------------------------------------
 */

typedef struct {
    int number, calls, saved, same, texts;
    char rule[32], accepted[16], deferred[16];
    double per_call, seconds;
} row;

static void read_row(const char *text, int number, row *r)
{
    char start[8];
    const char *at;

    (void)snprintf(start, sizeof start, "\n%d ", number);
    at = strstr(text, start);
    cr_assert_not_null(at, "row %d of the table", number);
    cr_assert_eq(sscanf(at, "%d %31s %lf %d %d%% %lf %15s %15s %d/%d", &r->number, r->rule,
                        &r->per_call, &r->calls, &r->saved, &r->seconds, r->accepted, r->deferred,
                        &r->same, &r->texts),
                 10, "%.100s", at);
}

Test(host_cli_tokenize, the_demo_saves_calls_and_strict_keeps_the_text)
{
    static const char *const rules[] = {"verifier-only", "strict", "token-v3:alpha=0.5",
                                        "opt:alpha=0.2"};
    char *text = OUTPUT(NULL, "demo");
    row r[COUNT(rules)];

    for (int32_t i = 0; i < COUNT(rules); i++) {
        read_row(text, i + 1, &r[i]);
        cr_expect_str_eq(r[i].rule, rules[i]);
        cr_expect_eq(r[i].texts, 24);
        cr_expect(r[i].saved == (int)lround(100.0 * (1.0 - (double)r[i].calls / r[0].calls)),
                  "%s saves %d%%", rules[i], r[i].saved);
        if (i > 0) cr_expect(r[i].saved > 0 && r[i].per_call > r[0].per_call, "%s", rules[i]);
    }
    cr_expect_eq(r[0].same, 24);
    cr_expect_eq(r[1].same, 24);
    cr_expect_eq(r[0].saved, 0);
    cr_expect_str_eq(r[0].accepted, "-", "the verifier alone judges no drafts");
    cr_expect_str_eq(r[1].deferred, "100%", "strict always asks the verifier");
    free(text);
}

Test(host_cli_tokenize, the_demo_shows_every_text_with_the_rules_that_wrote_it)
{
    char *text = OUTPUT(NULL, "demo");
    int32_t both = 0, by_rule[5] = {0}, indented = 0;

    for (const char *line = text; line; line = strchr(line + 1, '\n')) {
        const char *c = line + 5;

        if (strncmp(line, "\n    ", 5) != 0) continue;
        indented++;
        both += strncmp(c, "1 2 ", 4) == 0;
        for (; *c >= '1' && *c <= '4' && c[1] == ' '; c += 2) by_rule[*c - '0']++;
    }
    cr_expect_eq(both, 24, "the verifier's text is the strict one");
    cr_expect_geq(indented, 24);
    for (int32_t i = 1; i <= 4; i++) cr_expect_eq(by_rule[i], 24, "rule %d", (int)i);
    for (int32_t i = 3; i <= 4; i++) { /* the last column of the table counts the same thing */
        row r;
        int32_t with_first = 0;

        read_row(text, i, &r);
        for (const char *line = text; line; line = strchr(line + 1, '\n')) {
            char digit = (char)('0' + i);

            if (strncmp(line, "\n    1 2 ", 9) != 0) continue;
            with_first += line[9] == digit || (line[9] == '3' && line[11] == digit);
        }
        cr_expect_eq(r.same, with_first, "rule %d", (int)i);
    }
    free(text);
}

Test(host_cli_tokenize, the_demo_drafts_as_far_as_it_is_told)
{
    char *text = OUTPUT(NULL, "demo", "--threads", "1", "--gamma", "1");
    row r;

    cr_expect(strstr(text, "; cpu, 1 thread, "), "%.150s", text);
    cr_expect(strstr(text, " gamma 1"));
    for (int32_t i = 2; i <= 4; i++) {
        read_row(text, i, &r);
        cr_expect(r.per_call > 1.0 && r.per_call <= 2.0, "%s: %g", r.rule, r.per_call);
    }
    free(text);
}

Test(host_cli_tokenize, the_demo_names_the_vector_unit_that_was_asked_for)
{
    if (SPAWN_SANITISED) cr_skip_test("plain loops take minutes");

    char *text = OUTPUT(NULL, "demo", "--threads", "1", "--isa", "portable");

    cr_expect(strstr(text, "; cpu, 1 thread, portable\n"), "%.150s", text);
    free(text);
}
