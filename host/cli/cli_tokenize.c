/* SPDX-License-Identifier: Apache-2.0 */
/* cli_tokenize.c - spc tokenize: text to ids and back. */
#include "cli.h"
#include "host/engine.h"

#include "weights/bundle_tokenizer.h"
#include "weights/json.h"

#include <stddef.h>
#include <stdlib.h>

typedef struct {
    bool special, decode;
} tokenize_args;

static const spc_cli_option tokenize_options[] = {
    {"special", NULL,
     "add what the tokenizer's template adds (a BOS);\nwith --decode: write special "
     "tokens too",
     SPC_CLI_FLAG, offsetof(tokenize_args, special), 0, 0},
    {"decode", NULL, "from a JSON array of ids to text", SPC_CLI_FLAG,
     offsetof(tokenize_args, decode), 0, 0},
};

static void tokenize_init(void *args)
{
    (void)args; /* all flags */
}

/* vocab   receives how many ids the model has, or 0: a tokenizer needs none */
static spc_status open_tokenizer(const char *name, spc_tokenizer **out, int32_t *vocab,
                                 spc_error *err)
{
    spc_bundle *bundle;
    spc_config config;
    spc_status status = spc_open_bundle(name, &bundle, err);

    *vocab = 0;
    if (status != SPC_OK) return status;
    status = spc_bundle_tokenizer(bundle, out, err);
    if (spc_config_read(bundle, &config, NULL) == SPC_OK) *vocab = config.vocab;
    spc_bundle_close(bundle);
    return status;
}

static spc_status encode(const spc_tokenizer *tokenizer, const tokenize_args *a, const char *text,
                         size_t bytes, spc_error *err)
{
    int32_t *ids, count;
    spc_error inner;
    spc_status status =
        spc_tokenizer_encode(tokenizer, text, bytes, a->special, &ids, &count, &inner);

    if (status != SPC_OK) return spc_error_set(err, status, "stdin: %s", inner.message);
    spc_cli_put_json(spc_cli_json_ids(ids, count));
    free(ids);
    return SPC_OK;
}

static spc_status decode(const spc_tokenizer *tokenizer, int32_t vocab, const tokenize_args *a,
                         const char *json, size_t bytes, spc_error *err)
{
    json_error_t why;
    json_t *array = json_loadb(json, bytes, 0, &why);
    int32_t *ids = NULL, count = 0;
    char *text = NULL;
    spc_error inner;
    spc_status status;

    if (!array && spc_json_no_memory(&why, json)) {
        return spc_error_set(err, SPC_ENOMEM, "stdin: no memory to read it");
    }
    if (!array) return spc_error_set(err, SPC_EINPUT, "stdin: not JSON: %s", why.text);
    status = spc_cli_read_ids(array, "stdin", &ids, &count, err);
    json_decref(array);
    if (status != SPC_OK) return status;
    status = spc_tokenizer_decode_padded(tokenizer, vocab, ids, count, !a->special, &text, &bytes,
                                         &inner);
    free(ids);
    if (status != SPC_OK) return spc_error_set(err, status, "stdin: %s", inner.message);
    spc_cli_put(text, bytes);
    free(text);
    return SPC_OK;
}

static int tokenize_run(const void *args, const spc_cli_line *line)
{
    const tokenize_args *a = args;
    spc_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t bytes;
    int32_t vocab;
    spc_error error;
    spc_status status = open_tokenizer(line->words.item[0], &tokenizer, &vocab, &error);

    if (status == SPC_OK) status = spc_cli_read_all(stdin, "stdin", &text, &bytes, &error);
    if (status == SPC_OK) {
        status = a->decode ? decode(tokenizer, vocab, a, text, bytes, &error)
                           : encode(tokenizer, a, text, bytes, &error);
    }
    free(text);
    spc_tokenizer_close(tokenizer);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

const spc_cli_command spc_cli_tokenize = {
    "tokenize",
    "MODEL",
    "turn text on stdin into a JSON array of ids, or back",
    "",
    1,
    1,
    tokenize_options,
    sizeof tokenize_options / sizeof *tokenize_options,
    sizeof(tokenize_args),
    tokenize_init,
    tokenize_run,
    NULL,
};
