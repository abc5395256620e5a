/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_info.c - spc info: one model looked at. */
#include <spc/spc.h>

#include "folder.h"
#include "spawn.h"

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define TINY         SPC_TEST_VECTORS "/llama"
#define VERIFIER     "embedded:verifier"
#define DRAFTER      "embedded:drafter"

typedef struct {
    const char *model, *dtype; /* NULL: several types */
    json_int_t parameters, hidden_size, layers, heads, kv_heads, head_dim, ffn, vocab, context;
    json_int_t weight_bytes, row_bytes, kv_bytes;
    json_int_t tensors;
    bool tied, tokenizer;
    const char *ranks; /* that it can be cut for */
} facts;

static const facts known[] = {
    {VERIFIER, "BF16", 10080320, 320, 6, 8, 4, 64, 896, 6144, 512, 20160640, 20160640, 6291456, 56,
     true, true, "1, 2, 4, 8"},
    {DRAFTER, "BF16", 1180288, 128, 2, 4, 2, 32, 384, 6144, 512, 2360576, 2360576, 524288, 20, true,
     true, "1, 2, 4"},
    {TINY, "F32", 282720, 96, 3, 4, 1, 24, 160, 389, 128, 1130880, 981888, 73728, 30, false, false,
     "1, 2, 4"},
    /* as models quantised by llama.cpp: of blocks that ranks share */
    {SPC_TEST_VECTORS "/gguf/odd-K.gguf", NULL, 170688, 64, 1, 4, 1, 32, 768, 40, 64, 120096,
     120096, 16384, 0, true, false, "1, 2, 4"},
};

/* The memory that an info plans for on the CPU, the one device. */
static const json_t *cpu_memory(const json_t *info)
{
    const json_t *devices = json_object_get(json_object_get(info, "memory"), "devices");
    const json_t *cpu = json_array_get(devices, 0);

    cr_assert_eq(json_array_size(devices), 1);
    cr_expect(strncmp(json_string_value(json_object_get(cpu, "device")), "cpu, ", 5) == 0);
    return cpu;
}

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
        const json_t *dtypes = json_object_get(info, "dtypes"), *dtype = json_array_get(dtypes, 0);
        const json_t *tokenizer = json_object_get(info, "tokenizer");

        cr_expect_str_eq(json_string_value(json_object_get(info, "model")), k->model);
        cr_expect_str_eq(json_string_value(json_object_get(info, "architecture")),
                         "LlamaForCausalLM");
        cr_expect_eq(json_array_size(dtypes), k->dtype ? 1 : 5);
        if (k->dtype) {
            cr_expect_str_eq(json_string_value(json_object_get(dtype, "dtype")), k->dtype);
            expect_whole(dtype, "tensors", k->tensors);
            expect_whole(dtype, "values", k->parameters);
            expect_whole(dtype, "bytes", k->weight_bytes);
        }
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
        cr_expect_eq(json_is_object(tokenizer), k->tokenizer);
        if (k->tokenizer) {
            cr_expect_str_eq(json_string_value(json_object_get(tokenizer, "kind")),
                             "byte-level BPE");
            expect_whole(tokenizer, "size", k->vocab);
            expect_whole(tokenizer, "special", 7);
        } else {
            cr_expect(json_is_null(tokenizer));
        }
        cr_expect(json_is_null(json_object_get(info, "chat_template")));
        stop = json_object_get(info, "stop");
        cr_expect_eq(json_array_size(stop), 1);
        cr_expect_eq(json_integer_value(json_array_get(stop, 0)), 2);
        expect_whole(memory, "batch", 1);
        expect_whole(memory, "context", k->context);
        expect_whole(cpu_memory(info), "kv_bytes", k->kv_bytes);
        expect_whole(cpu_memory(info), "weight_bytes", k->weight_bytes);
        json_decref(info);
    }
}

Test(host_cli_info, experts_are_told_where_there_are_any)
{
    static const char qwen[] = SPC_TEST_VECTORS "/qwen3-moe";
    json_t *info = info_of(qwen), *dense = info_of(TINY);
    char *text = OUTPUT(NULL, "info", qwen), *other = OUTPUT(NULL, "info", TINY);
    char *blocks = OUTPUT(NULL, "info", SPC_TEST_VECTORS "/gguf/qwen3-moe-Q8_0.gguf");

    cr_expect(strstr(text, "\nexperts           6, of which a token takes 3\n"), "%s", text);
    cr_expect_null(strstr(other, "experts"));
    cr_expect(strstr(text, "\ncan be cut for    1, 2 ranks\n"), "%s", text);
    cr_expect(strstr(blocks, "\ncan be cut for    1 rank\n"), "an expert is one block: %s", blocks);
    expect_whole(info, "ffn", 32);
    expect_whole(info, "experts", 6);
    expect_whole(info, "experts_per_token", 3);
    expect_whole(dense, "experts", 0);
    json_decref(info);
    json_decref(dense);
    free(text);
    free(other);
    free(blocks);
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
        const char *name;
        bool memory;
        const char *key;
    } sizes[] = {{"weights", false, "weight_bytes"},
                 {"read by one row", false, "row_bytes"},
                 {"KV cache", true, "kv_bytes"},
                 {"workspace", true, "workspace_bytes"}};

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
            const json_t *from = sizes[k].memory ? cpu_memory(info) : info;

            cr_assert_not_null(line, "%s", sizes[k].name);
            expect_whole(from, sizes[k].key, atoll(strchr(line, '(') + 1));
        }
        cr_expect_eq(strstr(text, "tied") != NULL, known[i].tied);

        char ranks[64], *list = json_dumps(json_object_get(info, "ranks"), 0);

        (void)snprintf(ranks, sizeof ranks, "[%s]", known[i].ranks);
        cr_expect_str_eq(list, ranks);
        (void)snprintf(ranks, sizeof ranks, "%s ranks\n", known[i].ranks);
        cr_expect_eq(strncmp(line_of(text, "can be cut for"), ranks, strlen(ranks)), 0, "%s", text);
        free(list);
        free(text);
        json_decref(info);
    }
}

Test(host_cli_info, memory_is_planned_for_batch_and_context)
{
    json_t *lines = JSON(NULL, "info", "--json", "--batch", "3", "--context", "100", TINY);
    json_t *one = JSON(NULL, "info", "--json", "--context", "100", TINY);
    const json_t *info = json_array_get(lines, 0), *memory = json_object_get(info, "memory");
    json_int_t few =
        json_integer_value(json_object_get(cpu_memory(json_array_get(one, 0)), "workspace_bytes"));

    expect_whole(memory, "batch", 3);
    expect_whole(memory, "context", 100);
    expect_whole(memory, "kv_tokens", 3 * 112);                /* in pages of 16 */
    expect_whole(cpu_memory(info), "kv_bytes", 3 * 112 * 576); /* 3 layers, 2 * 24 floats */
    cr_expect_gt(json_integer_value(json_object_get(cpu_memory(info), "workspace_bytes")), few,
                 "more sequences have more rows of logits");
    json_decref(lines);
    json_decref(one);
    for (int32_t i = 0; i < COUNT(known); i++) {
        char context[16], word[32];

        (void)snprintf(context, sizeof context, "%d", (int)known[i].context + 1);
        (void)snprintf(word, sizeof word, "2 to %d", (int)known[i].context);
        const char *args[] = {"info", known[i].model, "--context", context, NULL};
        spawn_failure(args, NULL, 2, word);
    }
}

/* What an engine reserves is what was planned for it. */
static void expect_planned(const char *word, int32_t kv_tokens, const char *kv)
{
    spc_engine_options o;
    spc_engine_facts engine_facts;
    spc_engine *engine;
    spc_error error;
    json_t *lines = JSON(NULL, "info", "--json", "--batch", "2", "--context", "80", "--kv-tokens",
                         word, "--kv", kv, TINY);
    const json_t *cpu = cpu_memory(json_array_get(lines, 0));

    spc_engine_options_init(&o);
    o.verifier = TINY;
    o.drafter = NULL;
    o.sessions = 2;
    o.context = 80;
    o.kv_tokens = kv_tokens;
    o.kv = kv;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_describe(engine, &engine_facts);
    cr_expect_eq(json_integer_value(json_object_get(cpu, "kv_bytes")) +
                     json_integer_value(json_object_get(cpu, "workspace_bytes")),
                 (json_int_t)engine_facts.verifier_memory_bytes);
    cr_expect_str_eq(json_string_value(json_object_get(cpu, "device")), engine_facts.device);
    spc_engine_close(engine);
    json_decref(lines);
}

/* The same of a pair, on one device or on two: each model's share is named. */
Test(host_cli_info, a_drafter_has_a_share_of_its_own)
{
    for (int32_t apart = 0; apart < 2; apart++) { /* with an output layer that is cut, too */
        json_t *lines =
            apart ? JSON(NULL, "info", "--json", "--batch", "2", "--context", "32", "--device",
                         "cpu", "--drafter", TINY, "--drafter-device", "cpu", "--kv-tokens", "40",
                         "--kv", "bf16", "--drafter-vocab", "9", TINY)
                  : JSON(NULL, "info", "--json", "--batch", "2", "--context", "32", "--device",
                         "cpu", "--drafter", TINY, TINY);
        const json_t *devices =
            json_object_get(json_object_get(json_array_get(lines, 0), "memory"), "devices");
        const json_t *share[2] = {json_array_get(devices, 0), json_array_get(devices, 1)};
        json_int_t bytes[2];
        spc_engine_options o;
        spc_engine_facts engine_facts;
        spc_engine *engine;
        spc_error error;

        cr_assert_eq(json_array_size(devices), 2);
        cr_expect_null(json_object_get(share[0], "drafter"));
        cr_expect_str_eq(json_string_value(json_object_get(share[1], "drafter")), TINY);
        for (int i = 0; i < 2; i++) {
            bytes[i] = json_integer_value(json_object_get(share[i], "kv_bytes")) +
                       json_integer_value(json_object_get(share[i], "workspace_bytes"));
        }
        spc_engine_options_init(&o);
        o.verifier = o.drafter = TINY;
        o.sessions = 2;
        o.context = 32;
        o.drafter_device = apart ? "cpu" : NULL;
        o.drafter_vocab = apart ? "9" : NULL;
        o.kv_tokens = apart ? 40 : 0;
        o.kv = apart ? "bf16" : NULL;
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        spc_engine_describe(engine, &engine_facts);
        cr_expect_eq(bytes[0], (json_int_t)engine_facts.verifier_memory_bytes);
        cr_expect_eq(bytes[1], (json_int_t)engine_facts.drafter_memory_bytes);
        spc_engine_close(engine);
        json_decref(lines);
    }

    char *text = OUTPUT(NULL, "info", "--device", "cpu", "--drafter", TINY, TINY);
    const char *const alone[] = {"info", "--drafter-device", "cpu", TINY, NULL};
    const char *const cut[] = {"info", "--drafter-vocab", "9", TINY, NULL};
    const char *const where[] = {"info", "--drafter", TINY, "--drafter-device", "gpu", TINY, NULL};
    const char *const ranks[] = {"info",      "--device", "cuda:0,cuda:1",
                                 "--drafter", TINY,       "--drafter-device",
                                 "cpu",       TINY,       NULL};

    cr_expect(strstr(text, ", of the drafter " TINY ":"), "%s", text);
    free(text);
    spawn_failure(alone, NULL, 2, "--drafter-device needs --drafter MODEL");
    spawn_failure(cut, NULL, 2, "--drafter-vocab needs --drafter MODEL");
    spawn_failure(where, NULL, 2, "expected cpu, cuda or cuda:N");
    spawn_failure(ranks, NULL, 2, "the plan is of one verifier that is not cut");
}

/* Behind the plan, which is of two models in any case. */
Test(host_cli_info, a_pair_that_cannot_be_one_is_told_of)
{
    spawn_result r = SPAWN(NULL, "info", "--device", "cpu", "--drafter", TINY, VERIFIER);

    cr_expect_eq(r.code, 3);
    cr_expect(strstr(r.err, "do not pair"), "%s", r.err);
    cr_expect(strstr(r.out, ", of the drafter " TINY ":"), "%s", r.out);
    spawn_free(&r);
    r = SPAWN(NULL, "info", "--device", "cpu", "--drafter", VERIFIER, DRAFTER);
    cr_expect_eq(r.code, 0);
    cr_expect(strstr(r.err, "are they swapped?"), "%s", r.err);
    spawn_free(&r);
    r = SPAWN(NULL, "info", "--device", "cpu", "--drafter", DRAFTER, VERIFIER);
    cr_expect_eq(r.code, 0);
    cr_expect_str_eq(r.err, "");
    spawn_free(&r);
}

Test(host_cli_info, planned_memory_is_what_an_engine_takes)
{
    expect_planned("0", 0, "f32");
    expect_planned("100", 100, "f32");
    expect_planned("100", 100, "bf16");
    expect_planned("0", 0, "f16");
    spawn_failure((const char *const[]){"info", "--kv-tokens", "15", TINY, NULL}, NULL, 2,
                  "kv-tokens: expected 0");
}

Test(host_cli_info, the_kv_caches_may_be_smaller_than_the_contexts)
{
    json_t *lines =
        JSON(NULL, "info", "--json", "--batch", "3", "--context", "100", "--kv-tokens", "90", TINY);
    const json_t *info = json_array_get(lines, 0);

    expect_whole(json_object_get(info, "memory"), "kv_tokens", 80);
    expect_whole(cpu_memory(info), "kv_bytes", 80 * 576);
    json_decref(lines);
}

Test(host_cli_info, keys_and_values_of_16_bits_are_half_as_large)
{
    json_t *lines =
        JSON(NULL, "info", "--json", "--batch", "3", "--context", "100", "--kv", "bf16", TINY);
    const json_t *info = json_array_get(lines, 0), *memory = json_object_get(info, "memory");
    char *text = OUTPUT(NULL, "info", "--device", "cpu", "--kv", "f16", TINY);

    expect_whole(cpu_memory(info), "kv_bytes", 3 * 112 * 576 / 2);
    cr_expect_str_eq(json_string_value(json_object_get(memory, "kv_type")), "bf16");
    cr_expect(strstr(text, " bytes, f16, "), "%s", text);
    spawn_failure((const char *const[]){"info", "--kv", "fp16", TINY, NULL}, NULL, 2,
                  "--kv: expected f32, bf16 or f16, found 'fp16'");
    free(text);
    json_decref(lines);
}

/* Where there is no GPU, kernels cannot be chosen, and there is none the less a CPU to run on. */
static void expect_gpu_for_kernels(const char *device)
{
    spawn_result r = SPAWN(NULL, "tune-kernels", "--device", device, "--output", "none.json");

    spawn_one_line(r.err, "tune-kernels");
    if (strstr(r.err, "no CUDA")) {
        cr_expect_eq(r.code, 2);
        cr_expect_str_eq(r.err,
                         "spc: kernels are chosen for one GPU, and this build has no CUDA: build "
                         "with -DSPC_CUDA=ON; on a CPU there is nothing to choose\n");
    }
    cr_expect(r.code == 2 || r.code == 4, "%d", r.code);
    spawn_free(&r);
}

Test(host_cli_info, a_device_that_cannot_be_had_is_refused)
{
    static const char *const unknown[] = {"gpu", "", "cud", "cuda0", "cpu:1"};
    spawn_result r = SPAWN(NULL, "info", "--device", "cuda:4000", TINY);

    for (int32_t i = 0; i < COUNT(unknown); i++) {
        const char *args[] = {"info", "--device", unknown[i], TINY, NULL};

        spawn_failure(args, NULL, 2, "auto, cpu, cuda or cuda:N");
    }
    /* no CUDA in the build or not so many devices; no device */
    cr_expect(r.code == 2 || r.code == 4, "%d", r.code);
    cr_expect(strstr(r.err, "SPC_CUDA=ON") || strstr(r.err, "no device") ||
                  strstr(r.err, "expected a number of 0 to"),
              "%s", r.err);
    cr_expect_str_empty(r.out);
    spawn_free(&r);
    const char *threads[] = {"demo", "--device", "cuda", "--threads", "2", NULL};
    const char *prefill[] = {"run", "--fast-prefill", "text", NULL};

    spawn_failure(threads, NULL, 2, "threads");
    const char *plain[] = {"run", "--plain-launches", "text", NULL};
    const char *kernels[] = {"run", "--kernels", "none.json", "text", NULL};
    const char *no_gpu[] = {"tune-kernels", "--device", "cpu", "--output", "none.json", NULL};
    const char *no_file[] = {"tune-kernels", "--device", "cpu", NULL};
    const char *overlap[] = {"run", "--overlap", "on", "text", NULL};

    spawn_failure(prefill, NULL, 2, "fast-prefill");
    spawn_failure(kernels, NULL, 2, "kernels: expected one GPU");
    spawn_failure(no_gpu, NULL, 2, "one GPU: found cpu");
    spawn_failure(no_file, NULL, 2, "--output is missing");
    expect_gpu_for_kernels("cuda");
    expect_gpu_for_kernels("auto");
    spawn_failure(plain, NULL, 2, "plain-launches");
    spawn_failure(overlap, NULL, 2, "overlap");
}

/* A model's folder to which a test adds what it is about. */
static folder tiny_model(void)
{
    folder f = folder_open();

    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
    return f;
}

Test(host_cli_info, a_tokenizer_that_cannot_be_used_is_told_of)
{
    static const char *const files[] = {"{\"model\": {\"type\": \"WordPiece\"}}", "{"};
    folder f = tiny_model();

    for (int32_t i = 0; i < COUNT(files); i++) {
        folder_write(&f, "tokenizer.json", files[i], strlen(files[i]));

        json_t *info = info_of(f.path);
        char *text = OUTPUT(NULL, "info", f.path);
        const char *line = line_of(text, "tokenizer");
        const char *why =
            json_string_value(json_object_get(json_object_get(info, "tokenizer"), "error"));

        cr_assert_not_null(why);
        cr_expect(line && strncmp(line, "cannot be used: ", 16) == 0, "%s", line);
        cr_expect(strncmp(line + 16, why, strlen(why)) == 0, "%s", why);
        free(text);
        json_decref(info);
    }
    folder_close(&f);
}

/* JSON is UTF-8, and a name of bytes that are none is written with U+FFFD. */
Test(host_cli_info, a_folder_may_have_any_name)
{
    folder f = tiny_model();
    char path[FOLDER_PATH];

    folder_write(&f, "tokenizer.json", "{", 1);
    folder_path(&f, "m\xff", path);
    cr_assert_eq(symlink(f.path, path), 0);

    json_t *lines = JSON(NULL, "info", "--json", "--drafter", path, path);
    const json_t *info = json_array_get(lines, 0);
    const json_t *drafter =
        json_array_get(json_object_get(json_object_get(info, "memory"), "devices"), 1);
    const char *const texts[] = {
        json_string_value(json_object_get(info, "model")),
        json_string_value(json_object_get(json_object_get(info, "tokenizer"), "error")),
        json_string_value(json_object_get(drafter, "drafter"))};

    for (int32_t i = 0; i < COUNT(texts); i++) {
        cr_expect(texts[i] && strstr(texts[i], "/m\xef\xbf\xbd"), "%s", texts[i]);
    }
    json_decref(lines);
    folder_close(&f);
}

Test(host_cli_info, kinds_of_tokenizers_are_told_apart)
{
    static const char *const kinds[][2] = {{"spbpe-gemma", "BPE with byte fallback"},
                                           {"unigram-t5", "Unigram"},
                                           {"bytelevel-llama3", "byte-level BPE"}};
    folder f = tiny_model();

    for (int32_t i = 0; i < COUNT(kinds); i++) {
        char from[FOLDER_PATH];
        spawn_result r;
        json_t *lines, *info;

        (void)snprintf(from, sizeof from, SPC_TEST_VECTORS "/tokenizers/%s.json", kinds[i][0]);
        folder_copy(&f, from, "tokenizer.json", SIZE_MAX);
        r = SPAWN(NULL, "info", "--json", f.path);
        cr_assert_eq(r.code, 0, "%s", r.err);
        cr_expect(strstr(r.err, "another model's tokenizer?"), "it is: %s", r.err);
        cr_expect_eq(count_lines(r.err), 1, "%s", r.err);
        lines = parse_lines(r.out);
        info = json_object_get(json_array_get(lines, 0), "tokenizer");
        cr_expect_str_eq(json_string_value(json_object_get(info, "kind")), kinds[i][1]);
        json_decref(lines);
        spawn_free(&r);
    }
    folder_close(&f);
}

Test(host_cli_info, the_chat_template_is_named)
{
    folder f = tiny_model();
    json_t *info;
    char *text;

    folder_copy(&f, SPC_TEST_VECTORS "/chat/qwen2.jinja", "chat_template.jinja", SIZE_MAX);
    info = info_of(f.path);
    text = OUTPUT(NULL, "info", f.path);
    cr_expect_str_eq(json_string_value(json_object_get(info, "chat_template")), "qwen2");
    cr_expect(strncmp(line_of(text, "chat template"), "qwen2, for spc chat and ", 24) == 0);
    free(text);
    json_decref(info);
    folder_write(&f, "chat_template.jinja", "{{ x }}", 7);
    info = info_of(f.path);
    text = OUTPUT(NULL, "info", f.path);
    cr_expect(json_is_null(json_object_get(info, "chat_template")));
    cr_expect(strncmp(line_of(text, "chat template"), "none that is known\n", 19) == 0);
    free(text);
    json_decref(info);

    folder_close(&f);
}

Test(host_cli_info, a_broken_tokenizer_config_is_exit_3)
{
    folder f = tiny_model();
    const char *args[] = {"info", f.path, NULL};

    folder_write(&f, "tokenizer_config.json", "[", 1);
    spawn_failure(args, NULL, 3, "tokenizer_config.json");
    folder_close(&f);
}

Test(host_cli_info, element_types_are_counted_apart)
{
    folder f = folder_open();
    static const char header[] =
        "{\"lm_head.weight\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[12,16]},"
        "\"b\":{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[16,26]}}";
    static const struct {
        const char *dtype;
        json_int_t tensors, values, bytes;
    } expected[] = {{"F32", 1, 1, 4}, {"F16", 2, 11, 22}};
    char file[8 + sizeof header - 1 + 26] = {0};
    json_t *info;
    const json_t *dtypes;

    memcpy(file + 8, header, sizeof header - 1);
    file[0] = (char)((sizeof header - 1) & 255);
    file[1] = (char)((sizeof header - 1) >> 8);
    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_write(&f, "model.safetensors", file, sizeof file);

    spawn_result r = SPAWN(NULL, "info", "--json", f.path);

    cr_expect_eq(r.code, 3, "it lacks most of the model");
    cr_assert_not_null(info = json_loads(r.out, 0, NULL));
    spawn_free(&r);
    dtypes = json_object_get(info, "dtypes");
    cr_expect_eq(json_array_size(dtypes), 2);
    for (int32_t i = 0; i < COUNT(expected); i++) {
        const json_t *dtype = json_array_get(dtypes, (size_t)i);

        cr_expect_str_eq(json_string_value(json_object_get(dtype, "dtype")), expected[i].dtype);
        expect_whole(dtype, "tensors", expected[i].tensors);
        expect_whole(dtype, "values", expected[i].values);
        expect_whole(dtype, "bytes", expected[i].bytes);
    }
    json_decref(info);
    folder_close(&f);
}

/* What there is is told, and then what is missing. */
Test(host_cli_info, a_checkpoint_that_cannot_be_loaded_is_exit_3)
{
    static const struct {
        const char *from, *to, *text;
    } cases[] = {{"model.norm.weight", "model.nORm.weight",
                  "tensor 'model.norm.weight' is missing from the checkpoint"},
                 {"[389,96]", "[96,389]",
                  "expected [389, 96] (from config.json), found a tensor of rank 2, [96, 389]"}};

    for (int32_t i = 0; i < COUNT(cases); i++) {
        folder f = tiny_model();
        size_t bytes;
        char *file = read_file(TINY "/model.safetensors", &bytes);
        char *at = memmem(file, bytes, cases[i].from, strlen(cases[i].from));

        cr_assert_not_null(at);
        memcpy(at, cases[i].to, strlen(cases[i].to));
        folder_write(&f, "model.safetensors", file, bytes);
        free(file);
        for (int32_t as = 0; as < 2; as++) { /* the model, and the drafter beside another */
            spawn_result r = as == 0 ? SPAWN(NULL, "info", f.path)
                                     : SPAWN(NULL, "info", TINY, "--drafter", f.path);

            cr_expect_eq(r.code, 3, "%s", r.err);
            cr_expect(strstr(r.err, f.path) && strstr(r.err, cases[i].text), "%s", r.err);
            cr_expect_eq(count_lines(r.err), 1, "%s", r.err);
            cr_expect(line_of(r.out, "parameters"), "%s", r.out);
            spawn_free(&r);
        }
        folder_close(&f);
    }
}

Test(host_cli_info, weights_are_told_of_as_they_would_be_loaded)
{
    const char *unknown[] = {"run", "--weights", "int9", "text", NULL};
    spawn_result r = SPAWN(NULL, "info", "--weights", "int8", "--device", "cpu", TINY);
    spawn_result plain = SPAWN(NULL, "info", "--device", "cpu", TINY);

    cr_expect_eq(r.code, 0, "%s", r.err);
    cr_expect(strstr(r.out, "I8: ") && !strstr(plain.out, "I8: "), "%s", r.out);
    cr_expect(strstr(r.out, "\nweights ") &&
                  strcmp(strstr(r.out, "\nweights "), strstr(plain.out, "\nweights ")) != 0,
              "%s", r.out);
    cr_expect_str_eq(r.err, "", "all of it is changed");
    spawn_free(&r);
    spawn_free(&plain);
    spawn_failure(unknown, NULL, 2, "expected int8, found 'int9'");
}

/* What is quantised already stays as it is: an option that does nothing there says so. */
Test(host_cli_info, weights_that_are_quantised_already_are_told_of)
{
    static const char model[] = SPC_TEST_VECTORS "/gguf/llama-Q8_0.gguf";
    spawn_result info = SPAWN(NULL, "info", "--weights", "int8", model);
    spawn_result run = SPAWN("{\"ids\":[1]}", "run", "--verifier", model, "--drafter", "none",
                             "--rule", "verifier-only", "--weights", "int8", "--quiet",
                             "--max-tokens", "1", "--input", "-", "--json");
    const char *says = strstr(info.err, "matrices are quantised already, and stay as they are\n");

    cr_expect_eq(info.code, 0, "%s", info.err);
    cr_expect_eq(run.code, 0, "%s", run.err);
    cr_expect(says && strncmp(info.err, "spc: warning: ", 14) == 0 && count_lines(info.err) == 1,
              "%s", info.err);
    cr_expect_str_eq(run.err, info.err);
    spawn_free(&info);
    spawn_free(&run);
}

Test(host_cli_info, a_plan_is_one_line_per_op)
{
    static const size_t ops[] = {69, 25, 36, 14}; /* an embedding, 11 per layer, a norm, the head */

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

Test(host_cli_info, an_encoder_is_told_of)
{
    json_t *t5 = info_of(SPC_TEST_VECTORS "/t5-relu"), *tiny = info_of(TINY);
    char *text = OUTPUT(NULL, "info", SPC_TEST_VECTORS "/t5-relu");

    expect_whole(t5, "layers", 2);
    expect_whole(t5, "encoder_layers", 3);
    expect_whole(tiny, "encoder_layers", 0);
    cr_expect_eq(strncmp(line_of(text, "layers"), "2, encoder 3\n", 13), 0, "%s", text);
    json_decref(t5);
    json_decref(tiny);
    free(text);
}
