/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_errors.c - one line and one exit code for wrong usage, models that cannot be used,
 * and too little memory. */
#include "folder.h"
#include "spawn.h"

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define TINY         SPC_TEST_VECTORS "/llama"

Test(host_cli_errors, wrong_usage_is_exit_2_and_says_what_is_wrong)
{
    static const spawn_refusal table[] = {
        {2, "expected a command", NULL, {NULL}},
        {2,
         "unknown command 'walk'; known: run, chat, demo, info, rules, launch, logits, tokenize, "
         "tune, tune-kernels",
         NULL,
         {"walk"}},
        {2, "unknown command ''", NULL, {""}},
        {2, "'run'", NULL, {"--help", "run"}},
        {2, "'x' behind --version", NULL, {"--version", "x"}},
        {2, "'x' behind help", NULL, {"help", "run", "x"}},
        {2, "unknown command 'walk'", NULL, {"help", "walk"}},
        {2, "unknown command 'rnu' (did you mean run?); known: ", NULL, {"rnu", "x"}},
        {2, "unknown command 'tun' (did you mean tune?)", NULL, {"tun"}},
        {2, "did you mean chat?", NULL, {"help", "cat"}},
        {2, "did you mean tokenize?", NULL, {"tokenise"}},
        {2, "--temp (did you mean --temperature?); see spc run", NULL, {"run", "--temp", "1", "x"}},
        {2, "--tempreature (did you mean --temperature?)", NULL, {"run", "--tempreature=1", "x"}},
        {2, "-gamma (did you mean --gamma?)", NULL, {"run", "-gamma", "3", "x"}},
        {2, "unknown option --frob; see spc run --help", NULL, {"run", "--frob", "x"}},
        {2, "unknown option -n2; see", NULL, {"run", "-n2", "x"}},
        {2, "-n: expected a whole number of 1 to ", NULL, {"launch", "-nx", "run", "x"}},
        {2, "--output is missing: give the file", NULL, {"tune-kernels"}},
        {2, "unknown option --frob", NULL, {"run", "--frob=3", "x"}},
        {2, "unknown option --gam", NULL, {"run", "--gam", "3", "x"}},
        {2, "unknown option -g", NULL, {"run", "-g", "3", "x"}},
        {2, "unknown option --json", NULL, {"tokenize", "--json", "embedded:verifier"}},
        {2, "--gamma: expected N, found nothing", NULL, {"run", "x", "--gamma"}},
        {2, "--gamma is given twice", NULL, {"run", "--gamma", "3", "--gamma=3", "x"}},
        {2, "--json is given twice", NULL, {"run", "--json", "--json", "x"}},
        {2, "expected MODEL", NULL, {"info"}},
        {2, "expected MODEL", NULL, {"tokenize", "--decode"}},
        {2, "unexpected argument 'b'", NULL, {"info", "a", "b"}},
        {2, "unexpected argument 'x'", NULL, {"demo", "x"}},
        {2, "unexpected argument 'x'", NULL, {"logits", "x"}},
        {2, "--model is missing", NULL, {"logits", "--ids", "1", "--output", "x"}},
        {2, "--ids is missing", NULL, {"logits", "--model", TINY, "--output", "x"}},
        {2, "--output is missing", NULL, {"logits", "--model", TINY, "--ids", "1"}},
        {2,
         "--output: expected a file, found '-': for a pipe give /dev/stdout; a file of that name "
         "is ./-",
         NULL,
         {"logits", "--model", "no/model", "--ids", "1", "--output", "-"}},
        {2,
         "found '-': --json writes the points to stdout",
         NULL,
         {"tune", "no/sweep", "--output", "-"}},
        {2,
         "found '-': what was timed is on stdout already",
         NULL,
         {"tune-kernels", "--output", "-"}},
        {2, "--stream and --json", NULL, {"run", "--stream", "--json", "x"}},
        {2, "--batch", NULL, {"run", "--stream", "--batch", "2", "x"}},
        {2, "--input", NULL, {"run", "--input", "-", "x"}},
        {2,
         "--drafter none: rule strict needs a drafter: name one, or leave --rule out",
         NULL,
         {"run", "--verifier", "no/model", "--drafter", "none", "--rule", "strict", "x"}},
        {2,
         "--verifier no/model: its drafter is missing: give --drafter MODEL, or --drafter none",
         NULL,
         {"run", "--verifier", "no/model", "x"}},
        {2,
         "--overlap on: with --drafter-device only --bonus step",
         NULL,
         {"run", "--drafter-device", "cpu", "--overlap", "on", "x"}},
        {2, "--to", "{\"prompt\":\"x\"}", {"run", "--quiet", "--to", "it", "--input", "-"}},
        {2, "spc: --context: expected 0", NULL, {"run", "--context", "513", "x"}},
        {2, "spc: --context: expected 0", NULL, {"run", "--context", "1", "x"}},
        {2, "spc: --device: expected auto, cpu", NULL, {"run", "--device", "q8", "x"}},
        {2, "spc: --kv: expected f32, bf16 or f16, found 'q8'", NULL, {"run", "--kv", "q8", "x"}},
        {2, "spc: --kv: expected f32", NULL, {"info", "--kv", "q8", "embedded:drafter"}},
        {2, "spc: --weights: expected int8", NULL, {"run", "--weights", "q8", "x"}},
        {2, "--context: expected 2 to 512", NULL, {"info", "--context", "513", "embedded:drafter"}},
        {2, "spc: --isa: expected one of", NULL, {"run", "--isa", "abacus", "x"}},
        {2, "portable", NULL, {"demo", "--isa", "abacus"}},
        {2,
         "--stop: expected some text, found ''",
         NULL,
         {"run", "--stop", "a", "--stop", "", "--verifier", "no/model", "--drafter", "none"}},
        {2,
         "spc: --logit-bias: token 20 is there twice",
         NULL,
         {"run", "--logit-bias", "20:1", "--logit-bias", "20:2", "--verifier", "no/model",
          "--drafter", "none"}},
        {2,
         "spc: --min-tokens: expected 0",
         NULL,
         {"run", "--min-tokens", "6", "--max-tokens", "3", "x"}},
        {2,
         "rule lossy-greedy needs temperature 0",
         NULL,
         {"run", "--rule", "lossy-greedy:alpha=0.1", "--verifier", "no/model", "--drafter",
          "no/model"}},
    };

    spawn_failures(table, COUNT(table));
}

Test(host_cli_errors, a_value_out_of_range_is_exit_2_and_says_what_was_expected)
{
    static const struct {
        const char *command, *option, *value, *word;
    } table[] = {
        {"run", "--gamma", "17", "0 to 16 or auto, found '17'"},
        {"run", "--gamma", "-1", "0 to 16 or auto, found '-1'"},
        {"run", "--gamma", "3.5", "whole number"},
        {"run", "--gamma", "aut", "or auto, found 'aut'"},
        {"run", "--gamma", "3x", "whole number"},
        {"run", "--gamma", " 3", "whole number"},
        {"run", "--gamma", "", "whole number"},
        {"run", "--gamma", "99999999999999999999", "whole number"},
        {"run", "--temperature", "-0.1", "0 (greedy) or 0.0001 to 100, found -0.1"},
        {"run", "--temperature", "100.1", "0.0001 to 100"},
        {"run", "--temperature", "1e-300", "0.0001 to 100, found 1e-300"},
        {"run", "--temperature", "nan", "number"},
        {"run", "--temperature", "inf", "number"},
        {"run", "--temperature", "1e999", "number"},
        {"run", "--temperature", "0x1", "number"},
        {"run", "--temperature", "", "number"},
        {"run", "--temperature", "0.00009999999999", "0.0001 to 100"},
        {"run", "--top-k", "-1", "0 to"},
        {"run", "--top-p", "1.1", "--top-p: expected above 0 and at most 1, found 1.1"},
        {"run", "--top-p", "0", "--top-p: expected above 0"},
        {"run", "--min-p", "1.1", "0 to 1"},
        {"run", "--min-tokens", "-1", "min-tokens"},
        {"run", "--repetition-penalty", "1e-60",
         "--repetition-penalty: expected a number of 0.0001"},
        {"run", "--repetition-penalty", "nan", "0.0001 to 100"},
        {"run", "--presence-penalty", "101", "-100 to 100"},
        {"run", "--frequency-penalty", "x", "-100 to 100"},
        {"run", "--logit-bias", "5", "a token's id and a number"},
        {"run", "--logit-bias", "5:", "found '5:'"},
        {"run", "--logit-bias", "5:inf", "found '5:inf'"},
        {"run", "--logit-bias", "5:2e30", "a number of -1e+30 to 1e+30 or -inf"},
        {"run", "--logit-bias", "-5:1", "found '-5:1'"},
        {"run", "--logit-bias", "999999:1", "--logit-bias: expected ids of 0 to"},
        {"run", "--seed", "-1", "2^63 - 1"},
        {"run", "--seed", "9223372036854775808", "2^63 - 1"},
        {"run", "--max-tokens", "-1", "whole number"},
        {"run", "--max-tokens", "2147483648", "whole number"},
        {"run", "--verify", "both", "token|block, found 'both'"},
        {"run", "--verify", "", "token|block, found ''"},
        {"run", "--verify", "token|block", "token|block"},
        {"run", "--bonus", "targe", "target|verifier|step"},
        {"run", "--to", "DE", "de|es|fr"},
        {"run", "--batch", "0", "1 to 4096"},
        {"run", "--threads", "257", "0 to 256"},
        {"demo", "--threads", "257", "0 to 256"},
        {"logits", "--threads", "257", "0 to 256"},
        {"demo", "--gamma", "0", "1 to 16"},
        {"info", "--batch", "0", "1 to 4096"},
        {"run", "--rule", "guess", "known: strict, lossy, chow, diff, opt, chow-log"},
        {"run", "--rule", "", "known: strict"},
        {"run", "--rule", "chow", "needs alpha"},
        {"run", "--rule", "chow:alpha=2", "alpha"},
        {"run", "--rule", "token-v3:alpha=x", "alpha"},
        {"run", "--rule", "token-v3:beta=0.5", "beta"},
        {"run", "--rule", "strict:alpha=1", "alpha"},
    };

    for (int32_t i = 0; i < COUNT(table); i++) {
        FAILURE(2, table[i].word, table[i].command, table[i].option, table[i].value, "--",
                "embedded:verifier");
    }
}

Test(host_cli_errors, an_unusable_model_is_exit_3_and_is_named)
{
    static const spawn_refusal table[] = {
        {3,
         "no/such/folder",
         NULL,
         {"run", "--verifier", "no/such/folder", "--drafter", "none", "x"}},
        {3, "no/such/folder", NULL, {"run", "--drafter", "no/such/folder", "x"}},
        {3, "no/such/folder", NULL, {"info", "no/such/folder"}},
        {3, "no/such/folder", NULL, {"tokenize", "no/such/folder"}},
        {3,
         "no/such/folder",
         NULL,
         {"logits", "--model", "no/such/folder", "--ids", "1", "--output", "none"}},
        {3, "known: embedded:drafter, embedded:verifier", NULL, {"info", "embedded:judge"}},
        {3, "embedded:", NULL, {"run", "--verifier", "embedded:", "x"}},
        {3, "tokenizer.json", NULL, {"tokenize", TINY}},
        {3,
         "do not pair: vocab_size 6144 against 389",
         NULL,
         {"run", "--verifier", TINY, "--drafter", "embedded:drafter", "x"}},
        {3,
         "no tokenizer",
         NULL,
         {"run", "--quiet", "--verifier", TINY, "--drafter", TINY, "text"}},
        {3,
         "no tokenizer",
         NULL,
         {"run", "--quiet", "--verifier", TINY, "--drafter", TINY, "--to", "de", "text"}},
    };

    spawn_failures(table, COUNT(table));
}

Test(host_cli_errors, a_model_file_that_is_cut_is_exit_3)
{
    static const size_t lengths[] = {0, 4, 8, 100, 2000, 4096, 1000000, 1133967};
    folder f = folder_open();
    char output[FOLDER_PATH];

    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_path(&f, "logits", output);
    for (int32_t i = 0; i < COUNT(lengths); i++) {
        folder_copy(&f, TINY "/model.safetensors", "model.safetensors", lengths[i]);
        FAILURE(3, "model.safetensors", "info", f.path);
        FAILURE(3, "model.safetensors", "run", "--verifier", f.path, "--drafter", "none", "x");
        FAILURE(3, "model.safetensors", "logits", "--model", f.path, "--ids", "1", "--output",
                output);
    }
    cr_expect_eq(folder_count(&f), 2, "nothing is written for a broken model");
    folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
    free(OUTPUT(NULL, "info", f.path)); /* whole, it can be read */
    folder_close(&f);
}

Test(host_cli_errors, a_config_that_is_wrong_is_exit_3_and_its_key_is_named)
{
    static const struct {
        const char *key, *value, *word;
    } table[] = {{"architectures", "[\"MambaForCausalLM\"]", "known: LlamaForCausalLM"},
                 {"hidden_act", "\"gelu\"", "hidden_act"},
                 {"vocab_size", "390", "model.embed_tokens.weight"},
                 {"num_hidden_layers", "4", "model.layers.3"},
                 {"num_key_value_heads", "3", "num_key_value_heads"},
                 {"quantization_config", "{\"quant_method\": \"gptq\"}", "'gptq' is not supported"},
                 {"hidden_size", "\"96\"", "hidden_size"}};

    for (int32_t i = 0; i < COUNT(table); i++) {
        folder f = folder_open();
        json_t *config = read_json(TINY "/config.json");
        json_t *value = json_loads(table[i].value, JSON_DECODE_ANY, NULL);

        cr_assert_eq(json_object_set_new(config, table[i].key, value), 0);
        char *text = json_dumps(config, 0);
        folder_write(&f, "config.json", text, strlen(text));
        folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
        FAILURE(3, table[i].word, "run", "--verifier", f.path, "--drafter", "none", "--rule",
                "verifier-only", "x");
        free(text);
        json_decref(config);
        folder_close(&f);
    }
}

/* A cache of models has links to its files, and may have lost the files. */
Test(host_cli_errors, a_link_that_leads_nowhere_is_exit_3_and_is_named)
{
    static const char *const names[] = {"tokenizer.json", "generation_config.json", "config.json",
                                        "model.safetensors"};

    for (int32_t i = 0; i < COUNT(names); i++) {
        folder f = folder_open();
        char link[FOLDER_PATH], word[2 * FOLDER_PATH];

        folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
        folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
        folder_path(&f, names[i], link);
        (void)unlink(link);
        cr_assert_eq(symlink("../../blobs/4d7a2146", link), 0);
        (void)snprintf(word, sizeof word, "%s: a link to '../../blobs/4d7a2146', and nothing",
                       link);
        FAILURE(3, word, "run", "--verifier", f.path, "--drafter", "none", "x");
        folder_close(&f);
    }
}

Test(host_cli_errors, too_little_memory_is_exit_5)
{
    static const struct {
        const char *args[8], *word; /* NULL: it is enough */
    } table[] = {{{"run", "--quiet", "--threads", "1", "x"}, NULL},
                 {{"run", "--threads", "1", "--batch", "512", "x"}, "memory"}, /* KV: 3 GiB */
                 {{"run", "--threads", "256", "x"}, "lower threads"}};         /* stacks: 2 GiB */
    spawn_options o = {.address_space = (uint64_t)400 << 20};

    if (SPAWN_SANITISED) cr_skip_test("AddressSanitizer maps terabytes");
    for (int32_t i = 0; i < COUNT(table); i++) {
        spawn_result r = spawn(table[i].args, &o);

        cr_expect_eq(r.code, table[i].word ? 5 : 0, "exit code %d: %s", r.code, r.err);
        if (table[i].word) {
            spawn_one_line(r.err, table[i].word);
            cr_expect(strstr(r.err, table[i].word), "%s", r.err);
        }
        spawn_free(&r);
    }
}

/* A file of 1 GiB, of which nothing takes room on the disk. */
Test(host_cli_errors, a_model_file_larger_than_may_be_mapped_is_exit_5)
{
    spawn_options o = {.address_space = (uint64_t)400 << 20};
    folder f = folder_open();
    char path[FOLDER_PATH];

    if (SPAWN_SANITISED) cr_skip_test("AddressSanitizer maps terabytes");
    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
    folder_path(&f, "model.safetensors", path);
    cr_assert_eq(truncate(path, (off_t)1 << 30), 0);

    spawn_result r = spawn((const char *const[]){"info", f.path, NULL}, &o);

    cr_expect_eq(r.code, 5, "exit code %d: %s", r.code, r.err);
    spawn_one_line(r.err, "one line");
    cr_expect(strstr(r.err, "/model.safetensors: 1024 MiB cannot be mapped: "), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}
