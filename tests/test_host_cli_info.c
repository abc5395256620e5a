/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_info.c - spc info, logits, tokenize and demo: one model looked at, and the show. */
#include "weights/safetensors.h"

#include "folder.h"
#include "spawn.h"

#include <inttypes.h>
#include <math.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define TINY         SPC_TEST_VECTORS "/llama"
#define VERIFIER     "embedded:verifier"
#define DRAFTER      "embedded:drafter"

static void expect_failure(const char *const *args, const spawn_options *o, int code,
                           const char *word)
{
    spawn_result r = spawn(args, o);

    cr_expect_eq(r.code, code, "exit code %d: %s", r.code, r.err);
    cr_expect(strncmp(r.err, "spc: ", 5) == 0 && count_lines(r.err) == 1, "%s", r.err);
    cr_expect(strstr(r.err, word), "no '%s' in %s", word, r.err);
    cr_expect_eq(r.out_bytes, 0, "%s", r.out);
    spawn_free(&r);
}

/* ---- info -------------------------------------------------------------------------------------
 */

typedef struct {
    const char *model, *dtype;
    json_int_t parameters, hidden_size, layers, heads, kv_heads, head_dim, ffn, vocab, context;
    json_int_t weight_bytes, row_bytes, kv_bytes;
    bool tied, tokenizer;
} facts;

static const facts known[] = {
    {VERIFIER, "BF16", 10080320, 320, 6, 8, 4, 64, 896, 6144, 512, 20160640, 20160640, 6291456,
     true, true},
    {DRAFTER, "BF16", 1180288, 128, 2, 4, 2, 32, 384, 6144, 512, 2360576, 2360576, 524288, true,
     true},
    {TINY, "F32", 282720, 96, 3, 4, 1, 24, 160, 389, 128, 1130880, 981888, 73728, false, false},
};

static json_t *info_of(const char *model)
{
    json_t *lines = JSON(NULL, "info", "--json", model);
    json_t *info = json_incref(json_array_get(lines, 0));

    cr_assert_eq(json_array_size(lines), 1);
    json_decref(lines);
    return info;
}

static void expect_whole(const json_t *info, const char *name, json_int_t expected)
{
    const json_t *value = json_object_get(info, name);

    cr_expect(json_is_integer(value) && json_integer_value(value) == expected,
              "%s: %" JSON_INTEGER_FORMAT, name, json_integer_value(value));
}

Test(host_cli_info, json_tells_what_a_model_is)
{
    for (int32_t i = 0; i < COUNT(known); i++) {
        const facts *k = &known[i];
        json_t *info = info_of(k->model);
        const json_t *memory = json_object_get(info, "memory"), *stop;

        cr_expect_str_eq(json_string_value(json_object_get(info, "model")), k->model);
        cr_expect_str_eq(json_string_value(json_object_get(info, "architecture")),
                         "LlamaForCausalLM");
        cr_expect_str_eq(json_string_value(json_object_get(info, "dtype")), k->dtype);
        expect_whole(info, "parameters", k->parameters);
        expect_whole(info, "hidden_size", k->hidden_size);
        expect_whole(info, "layers", k->layers);
        expect_whole(info, "heads", k->heads);
        expect_whole(info, "kv_heads", k->kv_heads);
        expect_whole(info, "head_dim", k->head_dim);
        expect_whole(info, "ffn", k->ffn);
        expect_whole(info, "vocab", k->vocab);
        expect_whole(info, "context", k->context);
        expect_whole(info, "weight_bytes", k->weight_bytes);
        expect_whole(info, "row_bytes", k->row_bytes);
        cr_expect_eq(json_is_true(json_object_get(info, "tied")), k->tied);
        cr_expect_eq(json_is_true(json_object_get(info, "tokenizer")), k->tokenizer);
        stop = json_object_get(info, "stop");
        cr_expect_eq(json_array_size(stop), 1);
        cr_expect_eq(json_integer_value(json_array_get(stop, 0)), 2);
        expect_whole(memory, "sessions", 1);
        expect_whole(memory, "context", k->context);
        expect_whole(memory, "kv_bytes", k->kv_bytes);
        expect_whole(memory, "weight_bytes", k->weight_bytes);
        json_decref(info);
    }
}

/* What stands behind a name at the beginning of a line; NULL: no such line. */
static const char *line_of(const char *text, const char *name)
{
    while (text) {
        if (strncmp(text, name, strlen(name)) == 0 && strchr(" ", text[strlen(name)])) {
            text += strlen(name);
            return text + strspn(text, " ");
        }
        text = strchr(text, '\n');
        if (text) text++;
    }
    return NULL;
}

Test(host_cli_info, text_tells_the_same_as_json)
{
    static const struct {
        const char *name, *key;
    } numbers[] = {{"parameters", "parameters"},  {"hidden size", "hidden_size"},
                   {"layers", "layers"},          {"heads", "heads"},
                   {"feed-forward size", "ffn"},  {"vocabulary", "vocab"},
                   {"longest context", "context"}};
    static const struct {
        const char *name, *in, *key;
    } sizes[] = {{"weights", NULL, "weight_bytes"},
                 {"read by one row", NULL, "row_bytes"},
                 {"KV cache", "memory", "kv_bytes"},
                 {"scratch, logits", "memory", "other_bytes"}};

    for (int32_t i = 0; i < COUNT(known); i++) {
        json_t *info = info_of(known[i].model);
        char *text = OUTPUT(NULL, "info", known[i].model);

        for (int32_t k = 0; k < COUNT(numbers); k++) {
            const char *line = line_of(text, numbers[k].name);

            cr_assert_not_null(line, "%s", numbers[k].name);
            expect_whole(info, numbers[k].key, atoll(line));
        }
        for (int32_t k = 0; k < COUNT(sizes); k++) {
            const char *line = line_of(text, sizes[k].name);
            const json_t *from = sizes[k].in ? json_object_get(info, sizes[k].in) : info;

            cr_assert_not_null(line, "%s", sizes[k].name);
            expect_whole(from, sizes[k].key, atoll(strchr(line, '(') + 1));
        }
        cr_expect_eq(strstr(text, "tied") != NULL, known[i].tied);
        free(text);
        json_decref(info);
    }
}

Test(host_cli_info, memory_is_planned_for_sessions_and_context)
{
    json_t *lines = JSON(NULL, "info", "--json", "--sessions", "3", "--context", "100", TINY);
    const json_t *memory = json_object_get(json_array_get(lines, 0), "memory");

    expect_whole(memory, "sessions", 3);
    expect_whole(memory, "context", 100);
    expect_whole(memory, "kv_bytes", 3 * 100 * 576); /* 3 layers, 2 * 24 floats */
    json_decref(lines);
    for (int32_t i = 0; i < COUNT(known); i++) {
        char context[16], word[32];

        (void)snprintf(context, sizeof context, "%d", (int)known[i].context + 1);
        (void)snprintf(word, sizeof word, "2 to %d", (int)known[i].context);
        const char *args[] = {"info", known[i].model, "--context", context, NULL};
        expect_failure(args, &(const spawn_options){.in = NULL}, 2, word);
    }
}

Test(host_cli_info, a_plan_is_one_line_per_op)
{
    static const size_t ops[] = {69, 25, 36}; /* an embedding, 11 per layer, a norm, the head */

    for (int32_t i = 0; i < COUNT(known); i++) {
        char *text = OUTPUT(NULL, "info", "--plan", known[i].model);
        char *plain = OUTPUT(NULL, "info", known[i].model);
        json_t *lines = JSON(NULL, "info", "--plan", "--json", known[i].model), *op;
        const json_t *plan = json_object_get(json_array_get(lines, 0), "plan");
        char *at = strstr(text, "\nplan of a row:\n");
        size_t k;

        cr_assert_not_null(at);
        cr_expect_eq((size_t)(at - text), strlen(plain), "the plan stands behind the rest");
        at += strlen("\nplan of a row:\n");
        cr_expect_eq(json_array_size(plan), ops[i]);
        cr_expect_eq((size_t)count_lines(at), ops[i]);
        json_array_foreach(plan, k, op)
        {
            size_t bytes = json_string_length(op);

            cr_assert(strncmp(at, json_string_value(op), bytes) == 0 && at[bytes] == '\n', "%s",
                      json_string_value(op));
            at += bytes + 1;
        }
        json_decref(lines);
        free(text);
        free(plain);
    }
}

/* ---- logits -----------------------------------------------------------------------------------
 */

/* The one tensor of a safetensors file in memory; its logits are [rows, vocab] float32. */
static const float *read_logits(const char *data, size_t bytes, spc_tensor_list *list,
                                int64_t *rows)
{
    spc_error error;

    memset(list, 0, sizeof *list);
    cr_assert_eq(spc_safetensors_read("logits", data, bytes, list, &error), SPC_OK, "%s",
                 error.message);
    cr_assert_eq(list->count, 1);

    const spc_tensor *t = list->tensor;

    cr_expect_str_eq(t->name, "logits");
    cr_assert_eq(t->dtype, SPC_DTYPE_F32);
    cr_assert_eq(t->rank, 2);
    cr_expect_eq(t->shape[1], 389);
    cr_assert_eq(t->bytes, (uint64_t)(t->shape[0] * t->shape[1]) * sizeof(float));
    *rows = t->shape[0];
    return t->data;
}

/* Farthest distance of two files of logits; NaN stays. */
static double distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    spc_tensor_list a_list, b_list;
    int64_t a_rows, b_rows;
    const float *x = read_logits(a, a_bytes, &a_list, &a_rows);
    const float *y = read_logits(b, b_bytes, &b_list, &b_rows);
    double worst = 0.0;

    cr_assert_eq(a_rows, b_rows);
    for (int64_t i = 0; i < a_rows * 389; i++) {
        double off = fabs((double)x[i] - (double)y[i]);

        worst = off <= worst ? worst : off;
    }
    spc_tensor_list_free(&a_list);
    spc_tensor_list_free(&b_list);
    return worst;
}

/* "115,151,..." of the recorded ids; malloc'd. */
static char *recorded_ids(const char *model)
{
    char path[FOLDER_PATH], *text = calloc(1, 4096);
    json_t *golden, *id;
    size_t i, used = 0;

    (void)snprintf(path, sizeof path, "%s/golden.json", model);
    golden = read_json(path);
    json_array_foreach(json_object_get(golden, "ids"), i, id)
    {
        used += (size_t)snprintf(text + used, 4096 - used, "%s%" JSON_INTEGER_FORMAT, i ? "," : "",
                                 json_integer_value(id));
    }
    cr_assert_gt(i, 1);
    json_decref(golden);
    return text;
}

Test(host_cli_info, written_logits_are_those_of_the_reference)
{
    static const char *const models[] = {TINY, SPC_TEST_VECTORS "/llama31-rope"};
    static const char *const how[][2] = {{"--threads", "1"}, {"--isa", "portable"}};
    folder f = folder_open();
    char output[FOLDER_PATH], path[FOLDER_PATH];

    folder_path(&f, "logits.safetensors", output);
    for (int32_t m = 0; m < COUNT(models); m++) {
        char *ids = recorded_ids(models[m]), *expected, *found;
        size_t expected_bytes, found_bytes;

        (void)snprintf(path, sizeof path, "%s/logits.safetensors", models[m]);
        expected = read_file(path, &expected_bytes);
        for (int32_t i = 0; i < COUNT(how); i++) {
            char *out = OUTPUT(NULL, "logits", "--model", models[m], "--ids", ids, "--output",
                               output, how[i][0], how[i][1]);

            cr_expect_str_empty(out);
            found = read_file(output, &found_bytes);
            cr_expect_leq(distance(found, found_bytes, expected, expected_bytes), 1e-4, "%s, %s",
                          models[m], how[i][1]);
            free(found);
            free(out);
        }
        free(expected);
        free(ids);
    }
    cr_expect_eq(folder_count(&f), 1, "nothing is left beside the file");
    folder_close(&f);
}

Test(host_cli_info, logits_go_into_a_pipe_as_they_are)
{
    static const char *const args[] = {"logits",   "--model",         TINY, "--ids", "5,7,9",
                                       "--output", "/proc/self/fd/1", NULL};
    spawn_result r = spawn(args, &(const spawn_options){.in = NULL});
    spc_tensor_list list;
    int64_t rows;

    cr_assert_eq(r.code, 0, "%s", r.err);
    (void)read_logits(r.out, r.out_bytes, &list, &rows);
    cr_expect_eq(rows, 3);
    spc_tensor_list_free(&list);
    spawn_free(&r);
}

Test(host_cli_info, bad_ids_are_exit_6_and_write_nothing)
{
    static char long_ids[129 * 2];
    static const struct {
        const char *ids, *word;
    } table[] = {{"", "id 0"},
                 {"1,,2", "id 1"},
                 {"1,", "id 1"},
                 {",1", "id 0"},
                 {"1,x", "found 'x'"},
                 {"-1", "found '-1'"},
                 {"1.5", "found '1.5'"},
                 {"1, 2", "found ' 2'"},
                 {"1,2147483648", "id 1"},
                 {"1,389", "0 to 388, found 389"},
                 {long_ids, "1 to 128 ids"}};
    folder f = folder_open();
    char output[FOLDER_PATH];

    for (size_t i = 0; i < sizeof long_ids; i++) long_ids[i] = i % 2 ? ',' : '1';
    long_ids[sizeof long_ids - 1] = '\0';
    folder_path(&f, "logits", output);
    for (int32_t i = 0; i < COUNT(table); i++) {
        const char *args[] = {"logits",     "--model",  TINY,   "--ids",
                              table[i].ids, "--output", output, NULL};

        expect_failure(args, &(const spawn_options){.in = NULL}, 6, table[i].word);
    }
    cr_expect_eq(folder_count(&f), 0);
    folder_close(&f);
}

Test(host_cli_info, an_output_that_cannot_be_written_is_exit_6_and_leaves_no_part)
{
    static const char *const places[] = {"no/such/folder/logits", "."};
    folder f = folder_open();
    char output[FOLDER_PATH], *kept;
    const char *args[] = {"logits", "--model", TINY, "--ids", "1,2", "--output", NULL, NULL};
    size_t bytes;

    for (int32_t i = 0; i < COUNT(places); i++) {
        folder_path(&f, places[i], output);
        args[6] = output;
        expect_failure(args, &(const spawn_options){.in = NULL}, 6, output);
        cr_expect_eq(folder_count(&f), 0, "%s", places[i]);
    }
    folder_path(&f, "logits", output); /* of 3192 bytes */
    expect_failure(args, &(const spawn_options){.file_bytes = 1000}, 6, "cannot be written");
    cr_expect_eq(folder_count(&f), 0);
    folder_write(&f, "logits", "old", 3);
    expect_failure(args, &(const spawn_options){.file_bytes = 1000}, 6, "cannot be written");
    kept = read_file(output, &bytes);
    cr_expect_str_eq(kept, "old", "what was there before stays");
    cr_expect_eq(folder_count(&f), 1);
    free(kept);
    folder_close(&f);
}

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

Test(host_cli_info, text_comes_back_from_its_ids)
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

Test(host_cli_info, special_adds_the_template_and_writes_special_tokens)
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

Test(host_cli_info, special_tokens_in_a_text_become_their_id)
{
    char *ids = OUTPUT("<s><2de><2es><2fr><sep></s><pad>", "tokenize", VERIFIER);
    char *text = OUTPUT(ids, "tokenize", "--decode", "--special", VERIFIER);

    cr_expect_str_eq(ids, "[1,4,5,6,3,2,0]\n");
    cr_expect_str_eq(text, "<s><2de><2es><2fr><sep></s><pad>");
    free(ids);
    free(text);
}

Test(host_cli_info, what_cannot_be_tokenized_is_exit_6)
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

        expect_failure(args, &(const spawn_options){.in = table[i].in}, 6, table[i].word);
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

Test(host_cli_info, the_demo_saves_calls_and_strict_keeps_the_text)
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

Test(host_cli_info, the_demo_shows_every_text_with_the_rules_that_wrote_it)
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

Test(host_cli_info, the_demo_drafts_as_far_as_it_is_told)
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

Test(host_cli_info, the_demo_names_the_vector_unit_that_was_asked_for)
{
    if (SPAWN_SANITISED) cr_skip_test("plain loops take minutes");

    char *text = OUTPUT(NULL, "demo", "--threads", "1", "--isa", "portable");

    cr_expect(strstr(text, "; cpu, 1 thread, portable\n"), "%.150s", text);
    free(text);
}
