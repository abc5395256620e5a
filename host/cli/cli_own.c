/* SPDX-License-Identifier: Apache-2.0 */
/* cli_own.c - what a line of JSON says of how it is decoded, in place of the command line. */
#include "cli_lines.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ----------------------------------------------------------------------------------
 */

/* Those that go into fields of a session's options: int32_t where they are whole, else float. */
static const struct {
    const char *key;
    bool whole;
    size_t field;
} numbers[] = {
    {"max_tokens", true, offsetof(spc_session_options, max_tokens)},
    {"min_tokens", true, offsetof(spc_session_options, min_tokens)},
    {"top_k", true, offsetof(spc_session_options, top_k)},
    {"temperature", false, offsetof(spc_session_options, temperature)},
    {"top_p", false, offsetof(spc_session_options, top_p)},
    {"min_p", false, offsetof(spc_session_options, min_p)},
    {"repetition_penalty", false, offsetof(spc_session_options, repetition_penalty)},
    {"presence_penalty", false, offsetof(spc_session_options, presence_penalty)},
    {"frequency_penalty", false, offsetof(spc_session_options, frequency_penalty)},
};
enum { NUMBERS = sizeof numbers / sizeof *numbers };

/* A whole number of 0 to most. */
static spc_status read_whole(const char *where, const json_t *value, const char *key, int64_t most,
                             int64_t *out, spc_error *err)
{
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= 0 && *out <= most) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "%s: \"%s\": expected a whole number of 0 to 2^%d - 1",
                         where, key, most == INT32_MAX ? 31 : 63);
}

static spc_status read_real(const char *where, const json_t *value, const char *key, float *out,
                            spc_error *err)
{
    double x = json_number_value(value);

    *out = spc_cli_float(x);
    if (strcmp(key, "temperature") == 0) {
        if (json_is_number(value) && spc_cli_is_temperature(x)) return SPC_OK;
        return spc_error_set(err, SPC_EINPUT,
                             "%s: \"temperature\": expected 0 (greedy) or a number of %g to %g",
                             where, SPC_CLI_TEMPERATURE_LEAST, SPC_CLI_TEMPERATURE_MOST);
    }
    if (json_is_number(value)) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "%s: \"%s\": expected a number", where, key);
}

static spc_status read_number(const char *where, const json_t *value, int i, spc_cli_own *own,
                              spc_error *err)
{
    void *field = (char *)&own->number + numbers[i].field;
    int64_t whole;
    spc_status status;

    own->has |= 1u << i;
    if (!numbers[i].whole) return read_real(where, value, numbers[i].key, field, err);
    status = read_whole(where, value, numbers[i].key, INT32_MAX, &whole, err);
    if (status == SPC_OK) *(int32_t *)field = (int32_t)whole;
    return status;
}

static spc_status read_seed(const char *where, const json_t *value, spc_cli_own *own,
                            spc_error *err)
{
    int64_t seed;
    spc_status status = read_whole(where, value, "seed", INT64_MAX, &seed, err);

    own->has_seed = true;
    own->seed = (uint64_t)seed;
    return status;
}

static spc_status read_logprobs(const char *where, const json_t *value, spc_cli_own *own,
                                spc_error *err)
{
    json_int_t top = json_integer_value(value);

    own->has_logprobs = true;
    own->logprobs = (int32_t)top;
    if (json_is_integer(value) && top >= 0 && top <= SPC_TOP_LOGPROBS_MAX) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT,
                         "%s: \"logprobs\": expected a whole number of 0 to %d, of most probable "
                         "tokens beside each",
                         where, SPC_TOP_LOGPROBS_MAX);
}

/* ---- stop strings, bias -----------------------------------------------------------------------
 */

/* A text or an array of them; the line holds what is borrowed of it. */
static spc_status read_stop(const char *where, json_t *value, spc_cli_own *own, spc_error *err)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    bool good = count <= INT32_MAX;

    own->stop = malloc((count + 1) * sizeof *own->stop);
    if (!own->stop) return spc_error_set(err, SPC_ENOMEM, "%s: no memory", where);
    for (size_t i = 0; i < count && good; i++) {
        own->stop[i] = spc_cli_text_of(json_is_array(value) ? json_array_get(value, i) : value);
        good = own->stop[i] && own->stop[i][0];
    }
    own->has_stop = true;
    own->stop_count = (int32_t)count;
    if (good) return SPC_OK;
    return spc_error_set(
        err, SPC_EINPUT,
        "%s: \"stop\": expected a text or an array of texts, none of them empty or "
        "with a zero byte",
        where);
}

/* {"42": -1.5, "7": "-inf"} */
static bool read_bias(const char *key, const json_t *value, spc_logit_bias *out)
{
    const char *text = spc_cli_text_of(value);
    double bias = text ? -(double)INFINITY : json_number_value(value);
    int64_t token;

    if (!spc_cli_read_int(key, 0, INT32_MAX, &token)) return false;
    *out = (spc_logit_bias){(int32_t)token, (float)bias};
    if (text) return strcmp(text, "-inf") == 0;
    return json_is_number(value) && fabs(bias) <= SPC_CLI_BIAS_MOST;
}

static spc_status read_biases(const char *where, json_t *object, spc_cli_own *own, spc_error *err)
{
    size_t count = json_object_size(object);
    const char *key;
    json_t *value;

    if (json_is_object(object) && count > SPC_LOGIT_BIAS_MAX) {
        return spc_error_set(err, SPC_EINPUT, "%s: \"logit_bias\": expected at most %d, found %zu",
                             where, SPC_LOGIT_BIAS_MAX, count);
    }
    own->has_bias = true;
    own->bias = malloc((count + 1) * sizeof *own->bias);
    if (!own->bias) return spc_error_set(err, SPC_ENOMEM, "%s: no memory", where);
    json_object_foreach(object, key, value)
    {
        if (!read_bias(key, value, &own->bias[own->bias_count])) break;
        own->bias_count++;
    }
    if (json_is_object(object) && (size_t)own->bias_count == count) return SPC_OK;
    return spc_error_set(
        err, SPC_EINPUT,
        "%s: \"logit_bias\": expected {\"ID\": X, ...} of ids and numbers of %g to %g "
        "(\"-inf\": never)",
        where, -SPC_CLI_BIAS_MOST, SPC_CLI_BIAS_MOST);
}

/* ---- all of it --------------------------------------------------------------------------------
 */

spc_status spc_cli_own_read(spc_cli_prompt *prompt, spc_error *err)
{
    json_t *seed = spc_cli_said_of(prompt->line, "seed");
    json_t *stop = spc_cli_said_of(prompt->line, "stop");
    json_t *bias = spc_cli_said_of(prompt->line, "logit_bias");
    json_t *logprobs = spc_cli_said_of(prompt->line, "logprobs");
    spc_cli_own *own = &prompt->own;
    spc_status status = SPC_OK;

    for (int i = 0; i < NUMBERS && status == SPC_OK; i++) {
        const json_t *value = spc_cli_said_of(prompt->line, numbers[i].key);

        if (value) status = read_number(prompt->where, value, i, own, err);
    }
    if (status == SPC_OK && seed) status = read_seed(prompt->where, seed, own, err);
    if (status == SPC_OK && stop) status = read_stop(prompt->where, stop, own, err);
    if (status == SPC_OK && bias) status = read_biases(prompt->where, bias, own, err);
    if (status == SPC_OK && logprobs) status = read_logprobs(prompt->where, logprobs, own, err);
    return status;
}

spc_status spc_cli_own_check(const spc_cli_own *own, bool json, spc_error *err)
{
    if (json || !own->has_logprobs) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT,
                         "\"logprobs\": they are printed with --json alone: add it, or leave the "
                         "key out");
}

bool spc_cli_own_any(const spc_cli_own *own)
{
    return own->has || own->has_seed || own->has_stop || own->has_bias || own->has_logprobs;
}

void spc_cli_own_apply(const spc_cli_own *own, spc_session_options *o)
{
    for (int i = 0; i < NUMBERS; i++) {
        const char *from = (const char *)&own->number + numbers[i].field;

        if (own->has >> i & 1u) memcpy((char *)o + numbers[i].field, from, sizeof(int32_t));
    }
    if (own->has_seed) o->seed = own->seed;
    if (own->has_stop) {
        o->stop = own->stop;
        o->stop_count = own->stop_count;
    }
    if (own->has_bias) {
        o->logit_bias = own->bias;
        o->logit_bias_count = own->bias_count;
    }
    if (own->has_logprobs) {
        o->logprobs = true;
        o->top_logprobs = own->logprobs;
    }
}

spc_status spc_cli_own_blame(spc_status status)
{
    bool options = status == SPC_ERULE || status == SPC_EUSAGE || status == SPC_EUNSUPPORTED;

    return options ? SPC_EINPUT : status;
}

void spc_cli_own_free(spc_cli_own *own)
{
    free(own->stop);
    free(own->bias);
}
