/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_models.c - real models: a pair of Qwen2.5-Coder, SmolLM2 and Gemma 3, quantised,
 * against what llama.cpp makes of the same files (vectors/models.json).
 *
 *     tests/models/fetch.py FOLDER && SPC_MODELS=FOLDER ctest -R host_models
 *
 * Without SPC_MODELS there is nothing to test, which ctest shows as skipped. */
#include "weights/safetensors.h"
#include "weights/utf8.h"

#include "folder.h"
#include "spawn.h"

#include <criterion/hooks.h>
#include <spc/spc.h>
#include <stdio.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define VERIFIER     "qwen2.5-coder-1.5b-instruct"
#define DRAFTER      "qwen2.5-coder-0.5b-instruct"
#define STRANGER     "smollm2-135m-instruct"
#define GEMMA        "gemma-3-270m"
#define LENGTHS      "--context", "256", "--max-tokens", "40", "--temperature", "0"

enum { SKIPPED = 77 }; /* as tests/CMakeLists.txt has it */

static const char *const models[] = {VERIFIER, DRAFTER, STRANGER, GEMMA};

typedef struct {
    char text[FOLDER_PATH];
} path;

static path model_path(const char *name)
{
    path p;

    (void)snprintf(p.text, sizeof p.text, "%s/%s.gguf", getenv("SPC_MODELS"), name);
    return p;
}

ReportHook(PRE_ALL)(struct criterion_test_set *tests)
{
    (void)tests;
    if (getenv("SPC_MODELS")) return;
    (void)fprintf(stderr,
                  "skipped: SPC_MODELS names no folder that tests/models/fetch.py filled\n");
    exit(SKIPPED);
}

/* What llama.cpp makes of a model. */
static json_t *golden_of(const char *model)
{
    json_t *root = read_json(SPC_TEST_VECTORS "/models.json");
    json_t *golden = json_incref(json_object_get(root, model));

    cr_assert_not_null(golden, "%s", model);
    json_decref(root);
    return golden;
}

static json_t *field(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);

    cr_assert_not_null(value, "no '%s'", name);
    return value;
}

/* {"ids": [...]} for the stdin of spc run; malloc'd. */
static char *ids_line(json_t *ids)
{
    json_t *root = json_pack("{s:O}", "ids", ids);
    char *text = json_dumps(root, JSON_COMPACT);

    json_decref(root);
    return text;
}

Test(host_models, info_tells_what_they_are)
{
    static const struct {
        const char *model, *architecture, *template, *kind;
        json_int_t layers, vocab, context, words;
    } table[] = {
        {VERIFIER, "Qwen2ForCausalLM", "qwen2.5", "byte-level BPE", 28, 151936, 32768, 151665},
        {DRAFTER, "Qwen2ForCausalLM", "qwen2.5", "byte-level BPE", 24, 151936, 32768, 151665},
        {STRANGER, "LlamaForCausalLM", "smollm2", "byte-level BPE", 30, 49152, 8192, 49152},
        {GEMMA, "Gemma3ForCausalLM", NULL, "BPE with byte fallback", 18, 262144, 32768, 262144}};

    for (int32_t i = 0; i < COUNT(table); i++) {
        path model = model_path(table[i].model);
        json_t *lines = JSON(NULL, "info", "--json", model.text);
        const json_t *info = json_array_get(lines, 0), *tokenizer = field(info, "tokenizer");

        cr_expect_str_eq(json_string_value(field(info, "architecture")), table[i].architecture);
        if (table[i].template) {
            cr_expect_str_eq(json_string_value(field(info, "chat_template")), table[i].template);
        } else {
            cr_expect(json_is_null(field(info, "chat_template")), "it is none for conversations");
        }
        cr_expect_str_eq(json_string_value(field(tokenizer, "kind")), table[i].kind);
        cr_expect_eq(json_integer_value(field(tokenizer, "size")), table[i].words);
        cr_expect_eq(json_integer_value(field(info, "layers")), table[i].layers);
        cr_expect_eq(json_integer_value(field(info, "vocab")), table[i].vocab);
        cr_expect_eq(json_integer_value(field(info, "context")), table[i].context);
        json_decref(lines);
    }
}

Test(host_models, texts_become_the_ids_of_the_reference)
{
    for (int32_t i = 0; i < COUNT(models); i++) {
        path model = model_path(models[i]);
        json_t *golden = golden_of(models[i]), *row;
        size_t k;

        json_array_foreach(field(golden, "texts"), k, row)
        {
            const char *text = json_string_value(field(row, "text"));
            json_t *lines = JSON(text, "tokenize", model.text);

            cr_expect(json_equal(json_array_get(lines, 0), field(row, "ids")), "%s: '%s'",
                      models[i], text);
            json_decref(lines);
        }
        cr_assert_gt(k, 4);
        json_decref(golden);
    }
}

/* "1,2,3" of two lists, one behind the other; malloc'd. */
static char *joined_ids(const json_t *a, const json_t *b)
{
    size_t count = json_array_size(a), all = count + json_array_size(b), used = 0;
    char *text = calloc(all, 8);

    cr_assert_not_null(text);
    for (size_t i = 0; i < all; i++) {
        const json_t *id = i < count ? json_array_get(a, i) : json_array_get(b, i - count);

        used += (size_t)snprintf(text + used, 8 * all - used, "%s%d", i ? "," : "",
                                 (int)json_integer_value(id));
    }
    return text;
}

static int64_t likeliest(const float *row, int64_t vocab)
{
    int64_t best = 0;

    for (int64_t id = 1; id < vocab; id++) {
        if (row[id] > row[best]) best = id;
    }
    return best;
}

/* Teacher forced with a reply of the reference: how many of its tokens are the likeliest here, of
 * those that clearly were the likeliest there. */
static void expect_reply(const char *model, const json_t *reply)
{
    path p = model_path(model);
    const json_t *prompt = field(reply, "prompt"), *ids = field(reply, "ids");
    char *all = joined_ids(prompt, ids), output[FOLDER_PATH], *data;
    folder f = folder_open();
    spc_tensor_list list = {0};
    spc_error error;
    size_t bytes, compared = 0;

    folder_path(&f, "logits", output);
    free(OUTPUT(NULL, "logits", "--model", p.text, "--ids", all, "--output", output));
    data = read_file(output, &bytes);
    cr_assert_eq(spc_safetensors_read(output, data, bytes, &list, &error), SPC_OK);

    const spc_tensor *logits = &list.tensor[0];
    const float *row =
        (const float *)logits->data + ((int64_t)json_array_size(prompt) - 1) * logits->shape[1];

    for (size_t t = 0; t < json_array_size(ids); t++, row += logits->shape[1]) {
        if (json_number_value(json_array_get(field(reply, "lead"), t)) < 0.5) continue;
        cr_expect_eq(likeliest(row, logits->shape[1]), json_integer_value(json_array_get(ids, t)),
                     "%s: token %zu", model, t);
        compared++;
    }
    cr_expect_gt(2 * compared, json_array_size(ids), "%s: most are clear", model);
    spc_tensor_list_free(&list);
    free(data);
    free(all);
    folder_close(&f);
}

Test(host_models, likeliest_tokens_are_those_of_the_reference)
{
    for (int32_t i = 0; i < COUNT(models); i++) {
        json_t *golden = golden_of(models[i]), *reply;
        size_t k;

        json_array_foreach(field(golden, "replies"), k, reply) expect_reply(models[i], reply);
        cr_assert_gt(k, 1);
        json_decref(golden);
    }
}

Test(host_models, strict_drafts_and_writes_the_verifiers_own_text)
{
    path verifier = model_path(VERIFIER), drafter = model_path(DRAFTER);
    json_t *golden = golden_of(VERIFIER), *reply;
    size_t k;

    json_array_foreach(field(golden, "replies"), k, reply)
    {
        char *prompt = ids_line(field(reply, "prompt"));
        json_t *alone = JSON(prompt, "run", "--verifier", verifier.text, "--drafter", "none",
                             "--rule", "verifier-only", "--input", "-", "--json", LENGTHS);
        json_t *pair = JSON(prompt, "run", "--verifier", verifier.text, "--drafter", drafter.text,
                            "--rule", "strict", "--input", "-", "--json", LENGTHS);
        const json_t *a = json_array_get(alone, 0), *b = json_array_get(pair, 0);

        cr_expect(json_equal(field(a, "ids"), field(b, "ids")), "reply %zu", k);
        cr_expect_lt(2 * json_integer_value(field(b, "verifier_calls")),
                     json_integer_value(field(a, "verifier_calls")),
                     "most drafts are the verifier's words");
        json_decref(alone);
        json_decref(pair);
        free(prompt);
    }
    json_decref(golden);
}

/* Of 19 and 35 blocks of their feed-forward parts neither model can be halved.  Sums of two ranks
 * round differently; these replies have no two tokens so close. */
Test(host_models, ranks_write_what_one_writes)
{
    path verifier = model_path(VERIFIER), drafter = model_path(DRAFTER);
    const char *const run[] = {"run",        "--verifier", verifier.text, "--drafter",
                               drafter.text, "--quiet",    LENGTHS};
    static const char *const ways[][5] = {
        {NULL}, {"--tp", "2"}, {"--tp", "2", "--drafter-tp", "2"}, {"launch", "-n", "2", "--"}};
    char *expected = NULL;

    for (int32_t w = 0; w < COUNT(ways); w++) {
        const char *args[32] = {NULL};
        bool launched = w > 0 && strcmp(ways[w][0], "launch") == 0;
        int32_t count = 0;

        for (int32_t i = 0; launched && ways[w][i]; i++) args[count++] = ways[w][i];
        for (int32_t i = 0; i < COUNT(run); i++) args[count++] = run[i];
        for (int32_t i = 0; !launched && ways[w][i]; i++) args[count++] = ways[w][i];
        args[count] = "def quicksort(a):";

        char *text = spawn_output(args, NULL);

        if (!expected) expected = strdup(text);
        cr_expect_str_eq(text, expected, "way %d", (int)w);
        free(text);
    }
    cr_expect_gt(strlen(expected), 40);
    free(expected);
}

/* Cut at the start of every text, wherever it lies in tokens and in rounds of five drafts. */
Test(host_models, a_stop_text_ends_the_answer_wherever_it_lies)
{
    enum { EVERY = 13, LONG = 5 };
    path verifier = model_path(VERIFIER), drafter = model_path(DRAFTER);
    json_t *whole = JSON("{\"prompt\": \"def quicksort(a):\"}", "run", "--verifier", verifier.text,
                         "--drafter", drafter.text, "--input", "-", "--json", LENGTHS);
    const char *text = json_string_value(field(json_array_get(whole, 0), "text"));
    size_t length = strlen(text), used = 0, lines = 0;
    char *in = calloc(length, 128);

    cr_assert_not_null(in);
    cr_assert_gt(length, 60);
    for (size_t at = 0; at + LONG < length; at += EVERY) {
        json_t *line = json_pack("{s:s, s:s%}", "prompt", "def quicksort(a):", "stop", text + at,
                                 (size_t)LONG);
        char *dump = json_dumps(line, JSON_COMPACT);

        cr_assert_not_null(dump);
        used += (size_t)sprintf(in + used, "%s\n", dump);
        lines++;
        free(dump);
        json_decref(line);
    }

    json_t *cut = JSON(in, "run", "--verifier", verifier.text, "--drafter", drafter.text, "--input",
                       "-", "--json", "--batch", "2", LENGTHS);

    cr_assert_eq(json_array_size(cut), lines);
    for (size_t i = 0; i < lines; i++) {
        const json_t *result = json_array_get(cut, i);
        char stop[LONG + 1] = "", *wanted = strdup(text);

        memcpy(stop, text + i * EVERY, LONG);
        *strstr(wanted, stop) = '\0'; /* where it stands first */
        cr_expect_str_eq(json_string_value(field(result, "text")), wanted, "stop '%s'", stop);
        cr_expect_str_eq(json_string_value(field(result, "finish")), "stop-string");
        free(wanted);
    }
    json_decref(cut);
    json_decref(whole);
    free(in);
}

Test(host_models, a_conversation_keeps_what_was_said)
{
    path verifier = model_path(VERIFIER), drafter = model_path(DRAFTER);
    json_t *lines = JSON("What is the capital of France?\nAnd of Italy?\n", "chat", "--verifier",
                         verifier.text, "--drafter", drafter.text, "--json", LENGTHS);
    static const char *const says[] = {"Paris", "Rome"};

    cr_assert_eq(json_array_size(lines), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *reply = json_array_get(lines, i);
        const char *text = json_string_value(field(reply, "text"));

        cr_expect(strstr(text, says[i]), "%s", text);
        cr_expect(!strstr(text, "<|im_end|>"), "%s", text);
        cr_expect_str_eq(json_string_value(field(reply, "finish")), "stop-token");
    }
    cr_expect_geq(json_integer_value(field(json_array_get(lines, 1), "reused_tokens")),
                  json_integer_value(field(json_array_get(lines, 0), "prompt_tokens")));
    json_decref(lines);
}

Test(host_models, pairs_are_checked)
{
    path verifier = model_path(VERIFIER), drafter = model_path(DRAFTER),
         stranger = model_path(STRANGER);
    spawn_result r =
        SPAWN(NULL, "run", "--verifier", verifier.text, "--drafter", stranger.text, LENGTHS, "Hi.");

    cr_expect_eq(r.code, 3);
    cr_expect(strstr(r.err, "do not pair: their tokenizers first differ at id 0 ("), "%s", r.err);
    spawn_free(&r);
    r = SPAWN(NULL, "run", "--verifier", drafter.text, "--drafter", verifier.text, "--quiet",
              "--context", "64", "--max-tokens", "1", "Hi.");
    cr_expect_eq(r.code, 0);
    cr_expect(strncmp(r.err, "spc: warning: ", 14) == 0 && strstr(r.err, "are they swapped?"), "%s",
              r.err);
    spawn_free(&r);
}

/* ---- streams ----------------------------------------------------------------------------------
 */

typedef struct {
    char text[512];
    size_t bytes;
    int32_t pieces;
} streamed;

/* Whole characters, whatever the tokens are. */
static void keep_piece(void *user, const char *text, size_t bytes)
{
    streamed *s = user;

    cr_expect_eq(spc_utf8_invalid(text, bytes), bytes, "piece %d: '%.*s'", (int)s->pieces,
                 (int)bytes, text);
    cr_assert_lt(s->bytes + bytes, sizeof s->text);
    memcpy(s->text + s->bytes, text, bytes);
    s->bytes += bytes;
    s->pieces++;
}

/* Characters of which tokens hold parts come when they are whole, and make the text. */
Test(host_models, a_stream_of_split_characters_is_whole_in_every_piece)
{
    static const char prompt[] =
        "<|im_start|>user\nRepeat exactly: 🦜🦩🐉 ᚠᚢᚦ ꙮ 𝔘𝔫𝔦"
        "<|im_end|>\n<|im_start|>assistant\n";
    path drafter = model_path(DRAFTER);
    streamed s = {.bytes = 0};
    spc_engine_options eo;
    spc_session_options so;
    spc_engine *engine;
    spc_session *session;
    spc_error error;
    int32_t *ids, count, split = 0;
    size_t bytes;
    char *text;

    spc_engine_options_init(&eo);
    eo.verifier = drafter.text;
    eo.drafter = NULL;
    eo.context = 256;
    cr_assert_eq(spc_engine_open(&eo, &engine, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_engine_encode(engine, prompt, sizeof prompt - 1, true, &ids, &count, &error),
                 SPC_OK, "%s", error.message);
    spc_session_options_init(&so);
    so.rule = "verifier-only";
    so.temperature = 0;
    so.max_tokens = 40;
    so.on_text = keep_piece;
    so.user = &s;
    cr_assert_eq(spc_session_open(engine, &so, ids, count, &session, &error), SPC_OK);
    free(ids);
    cr_assert_eq(spc_session_run(session, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_session_text(session, &text, &bytes, &error), SPC_OK);
    cr_expect(bytes == s.bytes && memcmp(text, s.text, bytes) == 0, "'%s'", text);
    free(text);

    const int32_t *token = spc_session_tokens(session, &count);

    for (int32_t i = 0; i < count; i++) {
        cr_assert_eq(spc_engine_decode(engine, token + i, 1, true, &text, NULL, &error), SPC_OK);
        split += strstr(text, "\uFFFD") != NULL;
        free(text);
    }
    cr_expect_gt(split, 5, "tokens that hold parts of characters");
    cr_expect_gt(s.pieces, 5);
    cr_expect_lt(s.pieces, count);
    spc_session_close(session);
    spc_engine_close(engine);
}
