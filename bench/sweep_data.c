/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_data.c - prompts and references from lines of TSV or JSON. */
#include "bench/sweep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sweep_data_free(sweep_data *data)
{
    for (int32_t i = 0; i < data->count; i++) {
        free(data->example[i].ids);
        free(data->example[i].reference);
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

static spc_status read_json(const spc_engine *engine, const char *line, sweep_example *out,
                            spc_error *err)
{
    json_error_t why;
    json_t *root = json_loads(line, JSON_REJECT_DUPLICATES, &why);
    const char *prompt = json_string_value(json_object_get(root, "prompt"));
    const char *reference = json_string_value(json_object_get(root, "reference"));
    spc_status status = SPC_OK;

    if (!root) return spc_error_set(err, SPC_EINPUT, "not JSON: %s", why.text);
    if (!prompt || !reference) {
        status = spc_error_set(err, SPC_EINPUT, "expected strings \"prompt\" and \"reference\"");
    } else {
        out->reference = strdup(reference);
        status = out->reference ? spc_engine_encode(engine, prompt, strlen(prompt), true, &out->ids,
                                                    &out->count, err)
                                : spc_error_set(err, SPC_ENOMEM, "no memory");
    }
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

spc_status sweep_data_read(const spc_engine *engine, const char *path, int32_t every, int32_t most,
                           sweep_data *out, spc_error *err)
{
    FILE *file = fopen(path, "r");
    size_t length = strlen(path), room = 0;
    bool json = length >= 6 && strcmp(path + length - 6, ".jsonl") == 0;
    char *line = NULL;
    int32_t capacity = 0;
    ssize_t bytes;
    spc_status status = SPC_OK;

    memset(out, 0, sizeof *out);
    if (!file) {
        return spc_error_set(err, SPC_EINPUT, "%s: cannot be opened: %s", path, strerror(errno));
    }
    for (int64_t number = 0; status == SPC_OK && (bytes = getline(&line, &room, file)) > 0;
         number++) {
        spc_error inner;
        sweep_example *example;

        if (number % every != 0 || (most > 0 && out->count == most)) continue;
        while (bytes > 0 && (line[bytes - 1] == '\n' || line[bytes - 1] == '\r')) line[--bytes] = 0;
        example = append(out, &capacity);
        if (!example) {
            status = no_memory(path, err);
            break;
        }
        status = json ? read_json(engine, line, example, &inner)
                      : read_tsv(engine, line, example, &inner);
        if (status != SPC_OK) {
            (void)spc_error_set(err, status, "%s: line %lld: %s", path, (long long)number + 1,
                                inner.message);
        }
    }
    free(line);
    (void)fclose(file);
    if (status == SPC_OK && out->count == 0) {
        status = spc_error_set(err, SPC_EINPUT, "%s holds no examples", path);
    }
    if (status != SPC_OK) sweep_data_free(out);
    return status;
}
