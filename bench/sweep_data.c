/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_data.c - prompts and references from lines of TSV or JSON. */
#include "bench/sweep.h"

#include "weights/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sweep_data_free(sweep_data *data)
{
    for (int32_t i = 0; i < data->count; i++) {
        free(data->example[i].ids);
        free(data->example[i].reference);
        free(data->example[i].before);
        free(data->example[i].tests);
    }
    free(data->example);
    memset(data, 0, sizeof *data);
}

static spc_status no_memory(const char *path, spc_error *err)
{
    return spc_error_set(err, SPC_ENOMEM, "%s: no memory for its lines", path);
}

/* "de <tab> source <tab> reference": the line is cut into its parts. */
static spc_status read_tsv(const spc_engine *engine, char *line, sweep_example *out, spc_error *err)
{
    char *source = strchr(line, '\t'), *reference = source ? strchr(source + 1, '\t') : NULL,
         *prompt;
    spc_status status;
    size_t room;

    if (!reference || strchr(reference + 1, '\t')) {
        return spc_error_set(err, SPC_EINPUT, "expected language <tab> source <tab> reference");
    }
    *source++ = *reference++ = '\0';
    if (strcmp(line, "de") != 0 && strcmp(line, "es") != 0 && strcmp(line, "fr") != 0) {
        return spc_error_set(err, SPC_EINPUT, "expected language de, es or fr, found '%.20s'",
                             line);
    }
    room = strlen(source) + 32;
    prompt = malloc(room);
    out->reference = strdup(reference);
    if (!prompt || !out->reference) {
        free(prompt);
        return spc_error_set(err, SPC_ENOMEM, "no memory");
    }
    (void)snprintf(prompt, room, "<s><2%s>%s<sep>", line, source);
    status = spc_engine_encode(engine, prompt, strlen(prompt), false, &out->ids, &out->count, err);
    free(prompt);
    return status;
}

/* Lines of Python joined; NULL: no array of strings, or no memory. */
static char *join_lines(const char *first, const json_t *lines)
{
    char *text = strdup(first);

    if (!json_is_array(lines)) {
        free(text);
        return NULL;
    }
    for (size_t i = 0; text && i < json_array_size(lines); i++) {
        const char *line = json_string_value(json_array_get(lines, i));
        char *longer = NULL;

        if (line && asprintf(&longer, "%s\n%s", text, line) < 0) longer = NULL;
        free(text);
        text = longer;
    }
    return text;
}

/* Tests of HumanEval or of MBPP. */
static spc_status read_tests(const json_t *root, const char *prompt, sweep_example *out,
                             spc_error *err)
{
    const char *test = json_string_value(json_object_get(root, "test"));
    const char *entry = json_string_value(json_object_get(root, "entry_point"));
    const char *setup = json_string_value(json_object_get(root, "test_setup_code"));
    const json_t *list = json_object_get(root, "test_list");

    if (test && entry) {
        if (asprintf(&out->tests, "%s\ncheck(%s)\n", test, entry) < 0) out->tests = NULL;
        out->before = strdup(prompt);
        if (out->tests && out->before) return SPC_OK;
        return spc_error_set(err, SPC_ENOMEM, "no memory");
    }
    if (list || test) {
        out->tests = list ? join_lines(setup ? setup : "", list) : strdup(test);
        if (out->tests) return SPC_OK;
        return spc_error_set(err, SPC_EINPUT, "expected \"test_list\" to be an array of strings");
    }
    return spc_error_set(err, SPC_EINPUT,
                         "expected strings \"test\" and \"entry_point\", or \"test_list\": pass@1 "
                         "runs tests");
}

static spc_status encode_prompt(const spc_engine *engine, const sweep_asking *asking,
                                const char *prompt, sweep_example *out, spc_error *err)
{
    char *text = NULL;
    int bytes = asprintf(&text, "%s%s", asking->ask ? asking->ask : "", prompt);
    spc_status status;

    if (bytes < 0) return spc_error_set(err, SPC_ENOMEM, "no memory");
    if (asking->chat) {
        const spc_message said = {"user", text, (size_t)bytes};

        status = spc_engine_encode_chat(engine, asking->chat_template, &said, 1, true, &out->ids,
                                        &out->count, err);
    } else {
        status = spc_engine_encode(engine, text, (size_t)bytes, true, &out->ids, &out->count, err);
    }
    free(text);
    return status;
}

static spc_status read_json(const spc_engine *engine, const char *line, const sweep_asking *asking,
                            const quality_metric *metric, sweep_example *out, spc_error *err)
{
    json_error_t why;
    json_t *root = json_loads(line, JSON_REJECT_DUPLICATES, &why);
    const char *prompt = json_string_value(json_object_get(root, "prompt"));
    const char *reference = json_string_value(json_object_get(root, "reference"));
    const char *answer = json_string_value(json_object_get(root, "answer"));
    spc_status status = SPC_OK;

    if (!root && spc_json_no_memory(&why, line)) return spc_error_set(err, SPC_ENOMEM, "no memory");
    if (!root) return spc_error_set(err, SPC_EINPUT, "not JSON: %s", why.text);
    if (answer) reference = answer;
    if (!prompt) {
        status = spc_error_set(err, SPC_EINPUT, "expected a string \"prompt\"");
    } else if (metric->runs_tests) {
        status = read_tests(root, prompt, out, err);
    } else if (!reference) {
        status = spc_error_set(err, SPC_EINPUT,
                               "expected a string \"reference\" or \"answer\": metric %s "
                               "compares with it",
                               metric->name);
    } else {
        out->reference = strdup(reference);
        if (!out->reference) status = spc_error_set(err, SPC_ENOMEM, "no memory");
    }
    if (status == SPC_OK) status = encode_prompt(engine, asking, prompt, out, err);
    json_decref(root);
    return status;
}

/* Room for one more example, zeroed; NULL: no memory. */
static sweep_example *append(sweep_data *data, int32_t *capacity)
{
    if (data->count == *capacity) {
        int32_t larger = *capacity > 0 ? *capacity * 2 : 256;
        sweep_example *grown = realloc(data->example, (size_t)larger * sizeof *grown);

        if (!grown) return NULL;
        data->example = grown;
        *capacity = larger;
    }
    memset(&data->example[data->count], 0, sizeof *data->example);
    return &data->example[data->count++];
}

bool sweep_data_is_json(const char *path)
{
    size_t length = strlen(path);

    return length >= 6 && strcmp(path + length - 6, ".jsonl") == 0;
}

spc_status sweep_data_read(const spc_engine *engine, const char *path, int32_t every, int32_t most,
                           const sweep_asking *asking, const quality_metric *metric,
                           sweep_data *out, spc_error *err)
{
    FILE *file = fopen(path, "r");
    size_t room = 0;
    bool json = sweep_data_is_json(path);
    char *line = NULL;
    int32_t capacity = 0;
    ssize_t bytes;
    spc_status status = SPC_OK;

    memset(out, 0, sizeof *out);
    if (!json && metric->runs_tests) {
        if (file) (void)fclose(file);
        return spc_error_set(err, SPC_EUSAGE, "%s: metric %s needs a .jsonl with tests", path,
                             metric->name);
    }
    if (!file) {
        return spc_error_set(err, SPC_EINPUT, "%s: cannot be opened: %s", path, strerror(errno));
    }
    for (int64_t number = 0; status == SPC_OK && (bytes = getline(&line, &room, file)) > 0;
         number++) {
        spc_error inner;
        sweep_example *example;

        if (most > 0 && out->count == most) break;
        if (number % every != 0) continue;
        while (bytes > 0 && (line[bytes - 1] == '\n' || line[bytes - 1] == '\r')) line[--bytes] = 0;
        example = append(out, &capacity);
        if (!example) {
            status = no_memory(path, err);
            break;
        }
        example->line = number + 1;
        if (strlen(line) != (size_t)bytes) {
            status = spc_error_set(&inner, SPC_EINPUT, "holds a zero byte");
        } else {
            status = json ? read_json(engine, line, asking, metric, example, &inner)
                          : read_tsv(engine, line, example, &inner);
        }
        if (status != SPC_OK) {
            (void)spc_error_set(err, status, "%s: line %lld: %s", path, (long long)number + 1,
                                inner.message);
        }
    }
    if (status == SPC_OK && ferror(file)) {
        status = spc_error_set(err, SPC_EINPUT, "%s: cannot be read: %s", path, strerror(errno));
    }
    free(line);
    (void)fclose(file);
    if (status == SPC_OK && out->count == 0) {
        status = spc_error_set(err, SPC_EINPUT, "%s holds no examples", path);
    }
    if (status != SPC_OK) sweep_data_free(out);
    return status;
}

static uint64_t fnv(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *byte = data;

    for (size_t i = 0; i < bytes; i++) hash = (hash ^ byte[i]) * 0x100000001b3u;
    return hash;
}

uint64_t sweep_data_hash(const sweep_data *data)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (int32_t i = 0; i < data->count; i++) {
        const sweep_example *e = &data->example[i];
        const char *const texts[] = {e->reference, e->before, e->tests};

        hash = fnv(hash, e->ids, (size_t)e->count * sizeof *e->ids);
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
            hash = fnv(hash, texts[k] ? texts[k] : "", texts[k] ? strlen(texts[k]) + 1 : 1);
        }
    }
    return hash;
}
