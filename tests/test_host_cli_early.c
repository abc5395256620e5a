/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_early.c - what is wrong with options is told as early as it can be known: before a
 * model is looked for where no model is needed to know it, and otherwise before weights are read,
 * which may take minutes. */
#include "folder.h"
#include "spawn.h"

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define DEMO         SPC_SOURCE_DIR "/weights/demo"
#define NONE         "--verifier", "no/model", "--drafter", "no/model"
#define RUN          "run", NONE
#define CHAT         "chat", NONE
#define INFO         "info", "no/model"
#define LOGITS       "logits", "--model", "no/model", "--ids", "1", "--output", "none"
#define TUNE         "tune-kernels", "--verifier", "no/model", "--output", "none"

/* ---- without a model --------------------------------------------------------------------------
 */

/* None of these models exists, and no message says so. */
Test(host_cli_early, options_that_cannot_be_are_told_before_a_model_is_looked_for)
{
    static const spawn_refusal table[] = {
        {2, "--device: expected auto, cpu", NULL, {RUN, "--device", "gpu"}},
        {2, "--isa: expected one of", NULL, {RUN, "--isa", "abacus"}},
        {2, "--weights: expected int8, found 'q8'", NULL, {RUN, "--weights", "q8"}},
        {2, "--kv: expected f32", NULL, {RUN, "--kv", "q8"}},
        {2, "--kv-tokens: expected 0", NULL, {RUN, "--kv-tokens", "5"}},
        {2, "--context: expected 0 (what the models allow)", NULL, {RUN, "--context", "1"}},
        {2, "--overlap: expected one GPU", NULL, {RUN, "--device", "cpu", "--overlap", "on"}},
        {2, "--plain-launches: expected a GPU", NULL, {RUN, "--device", "cpu", "--plain-launches"}},
        {2, "--fast-prefill: expected a GPU", NULL, {RUN, "--device", "cpu", "--fast-prefill"}},
        {2, "--kernels: expected one GPU", NULL, {RUN, "--device", "cpu", "--kernels", "no/table"}},
        {2, "found both", NULL, {RUN, "--overlap", "on", "--plain-launches"}},
        {2, "threads and isa are", NULL, {RUN, "--device", "cuda", "--threads", "3"}},
        {2, "--drafter-tp: expected 1", NULL, {RUN, "--tp", "2", "--drafter-tp", "3"}},
        {2, "--drafter-device: expected cpu", NULL, {RUN, "--drafter-device", "gpu"}},
        {2, "--drafter-vocab: expected 1 to", NULL, {RUN, "--drafter-vocab", "0"}},
        {2, "--drafter-vocab: expected a number", NULL, {CHAT, "--drafter-vocab", ""}},
        {2,
         "--drafter-vocab: there is no drafter",
         NULL,
         {"run", "--verifier", "no/model", "--drafter", "none", "--drafter-vocab", "9"}},
        {2, "--prefill-rows: with one prompt at a time", NULL, {RUN, "--prefill-rows", "9"}},
        {2, "--rank-timeout: this process is the only one", NULL, {RUN, "--rank-timeout", "1"}},
        {2, "--rank-timeout: this process is the only one", NULL, {LOGITS, "--rank-timeout", "1"}},
        {2,
         "--drafter none: there is no drafter for --drafter-tp: name one",
         NULL,
         {"run", "--verifier", "no/model", "--drafter", "none", "--tp", "2", "--drafter-tp", "2"}},
        {2,
         "--drafter none: there is no drafter for --overlap: name one",
         NULL,
         {"chat", "--verifier", "no/model", "--drafter", "none", "--overlap", "on"}},
        {2,
         "--chat-template is for the \"messages\" of --input FILE, and none is given",
         NULL,
         {RUN, "--chat-template", "llama3"}},
        {2,
         "--chat-template is for the \"messages\" of --input FILE, which do not go with --to",
         NULL,
         {RUN, "--chat-template", "llama3", "--input", "-", "--to", "de"}},
        {2,
         "drafter-device and drafter-tp",
         NULL,
         {RUN, "--drafter-device", "cpu", "--drafter-tp", "2", "--tp", "2"}},
        {2,
         "--drafter-tp: expected 3 (the GPUs of drafter-device), found 2",
         NULL,
         {RUN, "--drafter-device", "cuda:1,cuda:2,cuda:3", "--drafter-tp", "2", "--tp", "2"}},
        {2,
         "gamma auto with bonus verifier",
         NULL,
         {RUN, "--rule", "opt:alpha=0.1", "--gamma", "auto", "--bonus", "verifier"}},
        {2,
         "gamma auto with bonus verifier",
         NULL,
         {CHAT, "--rule", "opt:alpha=0.1", "--gamma", "auto", "--bonus", "verifier"}},
        {2,
         "--details: rule token-chow:alpha=0.5 runs one model at a time",
         NULL,
         {RUN, "--details", "--rule", "token-chow:alpha=0.5"}},
        {2,
         "block verification has no bonus step",
         NULL,
         {RUN, "--verify", "block", "--bonus", "step"}},
        {2,
         "--system: message 1: the chat template mistral-v1-old",
         NULL,
         {CHAT, "--chat-template", "mistral-v1-old", "--system", "Hi."}},
        {6,
         "--output no/folder/file: cannot be written: No such file",
         NULL,
         {"logits", "--model", "no/model", "--ids", "1", "--output", "no/folder/file"}},
        {6,
         "--output /: cannot be written: Is a dir",
         NULL,
         {"logits", "--model", "no/model", "--ids", "1", "--output", "/"}},
        {6,
         "no/folder/file: cannot be written: No such file",
         NULL,
         {"tune-kernels", "--verifier", "no/model", "--output", "no/folder/file"}},
        {2, "--isa: expected one of", NULL, {LOGITS, "--isa", "abacus"}},
        {2, "--weights: expected int8", NULL, {LOGITS, "--weights", "q8"}},
        {2, "--device: expected auto", NULL, {LOGITS, "--device", "gpu"}},
        {2, "--device: expected auto", NULL, {INFO, "--device", "gpu"}},
        {2, "--kv: expected f32", NULL, {INFO, "--kv", "q8"}},
        {2, "--weights: expected int8", NULL, {INFO, "--weights", "q8"}},
        {2, "--kv-tokens: expected 0", NULL, {INFO, "--kv-tokens", "3"}},
        {2, "--context: expected 0", NULL, {INFO, "--context", "1"}},
        {2, "--drafter-device needs", NULL, {INFO, "--drafter-device", "cpu"}},
        {2,
         "--drafter-device: expected cpu",
         NULL,
         {INFO, "--drafter", "no/model", "--drafter-device", "gpu"}},
        {2,
         "that is not cut",
         NULL,
         {INFO, "--device", "cuda:0,cuda:1", "--drafter", "no/model", "--drafter-device", "cpu"}},
        {2,
         "drafter that is not cut",
         NULL,
         {INFO, "--device", "cpu", "--drafter", "no/model", "--drafter-device", "cuda:0,cuda:1"}},
        {2, "one GPU: found cpu", NULL, {TUNE, "--device", "cpu"}},
        {2, "one GPU: found cuda:0,cuda:1", NULL, {TUNE, "--device", "cuda:0,cuda:1"}},
        {2, "--weights: expected int8", NULL, {TUNE, "--device", "cuda", "--weights", "q8"}},
    };

    spawn_failures(table, COUNT(table));
}

/* A rule that runs one model alone has no draft lengths, whatever is said of them. */
Test(host_cli_early, what_a_rule_has_no_use_for_is_not_refused)
{
    static const spawn_refusal table[] = {
        {3,
         "no/model: cannot be opened",
         NULL,
         {RUN, "--rule", "drafter-only", "--gamma", "auto", "--bonus", "verifier"}},
    };

    spawn_failures(table, COUNT(table));
}

/* To ask whether there can be a file leaves none, and one that is there as it is. */
Test(host_cli_early, a_result_that_is_not_computed_leaves_no_file)
{
    folder f = folder_open();
    char path[FOLDER_PATH];
    size_t bytes;
    char *text;

    folder_path(&f, "logits", path);
    for (int32_t there = 0; there < 2; there++) {
        if (there) folder_write(&f, "logits", "before", 6);
        FAILURE(3, "no/model: cannot be opened", "logits", "--model", "no/model", "--ids", "1",
                "--output", path);
        cr_expect_eq(folder_count(&f), there);
    }
    text = read_file(path, &bytes);
    cr_expect_str_eq(text, "before");
    free(text);
    folder_close(&f);
}

/* ---- without weights --------------------------------------------------------------------------
 */

/* The demo verifier with a layer too many: to load it is exit 3, and names a tensor.
 *
 * mark   its tokenizer's for German; NULL: it has no tokenizer */
static folder open_unloadable(const char *mark)
{
    static const char *const config[] = {"\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7",
                                         NULL};
    const char *const tokens[] = {"<2de>", mark, NULL};
    folder f = folder_open();

    folder_copy(&f, DEMO "/verifier/model.safetensors", "model.safetensors", SIZE_MAX);
    folder_copy_changed(&f, DEMO "/verifier/config.json", "config.json", config);
    if (!mark) return f;
    folder_copy_changed(&f, DEMO "/verifier/tokenizer.json", "tokenizer.json", tokens);
    return f;
}

Test(host_cli_early, what_a_configuration_forbids_is_told_before_weights_are_read)
{
    folder bare = open_unloadable(NULL), text = open_unloadable("<2it>");
    folder paired = open_unloadable("<2de>");
    const spawn_refusal table[] = {
        {3, "model.layers.6.", NULL, {"run", "--verifier", text.path, "--drafter", "none", "x"}},
        {2,
         "--context: expected 0 (what the models allow) or 2 to 512",
         NULL,
         {"run", "--verifier", text.path, "--drafter", "none", "--context", "513", "x"}},
        {2,
         "--to: the verifier's tokenizer has no token <2de>",
         NULL,
         {"run", "--verifier", text.path, "--drafter", "none", "--to", "de", "x"}},
        {2,
         "stop strings need a tokenizer",
         NULL,
         {"run", "--verifier", bare.path, "--drafter", "none", "--stop", "a", "x"}},
        {2,
         "embedded:drafter: cannot be sharded over 8 ranks",
         NULL,
         {"run", "--verifier", paired.path, "--drafter", "embedded:drafter", "--tp", "8",
          "--drafter-tp", "8", "x"}},
        {6,
         "id 1: expected 0 to 6143, found 6144",
         NULL,
         {"logits", "--model", text.path, "--ids", "0,6144", "--output", "none"}},
        {6,
         "the model has no encoder",
         NULL,
         {"logits", "--model", text.path, "--ids", "1", "--source", "1", "--output", "none"}},
        {3, "no chat template", NULL, {"chat", "--verifier", text.path, "--drafter", "none"}},
        {3, "no tokenizer.json", NULL, {"chat", "--verifier", bare.path, "--drafter", "none"}},
        {3,
         "no special token",
         NULL,
         {"chat", "--verifier", text.path, "--drafter", "none", "--chat-template", "llama3"}},
    };

    spawn_failures(table, COUNT(table));
    folder_close(&bare);
    folder_close(&text);
    folder_close(&paired);
}
