/* SPDX-License-Identifier: Apache-2.0 */
/* cli_lines.c - one line of JSON as a prompt, or as a message. */
#include "cli_lines.h"

#include "weights/json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a line may hold.  Each name once: they are looked for, and listed. */
#define KEYS(X)          X(prompt) X(ids) X(messages) X(id) SPC_CLI_OWN_KEYS(X)
#define TURN_KEYS(X)     X(content) X(messages) X(id) SPC_CLI_OWN_KEYS(X)
#define KEY_ITEM(name)   #name,
#define KEY_LISTED(name) ", " #name

typedef struct {
    const char *const *known; /* ends with NULL */
    const char *listed;
} key_set;

static const char *const prompt_keys[] = {KEYS(KEY_ITEM) NULL};
static const char *const turn_keys[] = {TURN_KEYS(KEY_ITEM) NULL};
static const key_set of_prompts = {prompt_keys, KEYS(KEY_LISTED)};
static const key_set of_turns = {turn_keys, TURN_KEYS(KEY_LISTED)};

static spc_status check_keys(const char *where, const json_t *root, const key_set *keys,
                             spc_error *err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        size_t i = 0;

        while (keys->known[i] && strcmp(keys->known[i], key) != 0) i++;
        if (keys->known[i]) continue;
        return spc_error_set(err, SPC_EINPUT, "%s: unknown key \"%.60s\"; known: %s", where, key,
                             keys->listed + strlen(", "));
    }
    return SPC_OK;
}

json_t *spc_cli_said_of(const json_t *root, const char *key)
{
    json_t *value = json_object_get(root, key);

    return json_is_null(value) ? NULL : value;
}

const char *spc_cli_text_of(const json_t *value)
{
    const char *text = json_string_value(value);

    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

/* One part of a message's content: its text. */
static spc_status read_part(const char *where, size_t message, size_t number, const json_t *part,
                            const json_t **text, spc_error *err)
{
    const char *type = spc_cli_text_of(json_object_get(part, "type"));

    *text = json_object_get(part, "text");
    if (type && strcmp(type, "text") != 0) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: message %zu: part %zu: expected the type \"text\", found "
                             "\"%.60s\": the models read nothing else",
                             where, message, number, type);
    }
    if (type && json_is_string(*text) && json_object_size(part) == 2) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT,
                         "%s: message %zu: part %zu: expected {\"type\": \"text\", \"text\": TEXT} "
                         "and nothing else",
                         where, message, number);
}

/* Content that comes in parts, put together: whoever reads the message next finds one text. */
static spc_status join_parts(const char *where, size_t message, json_t *item, const json_t *parts,
                             spc_error *err)
{
    size_t count = json_array_size(parts), bytes = 0;
    spc_status status = SPC_OK;
    const json_t *text;
    json_t *whole;
    char *joined;

    for (size_t i = 0; i < count && status == SPC_OK; i++) {
        status = read_part(where, message, i + 1, json_array_get(parts, i), &text, err);
        if (status == SPC_OK) bytes += json_string_length(text);
    }
    if (status != SPC_OK) return status;
    joined = malloc(bytes + 1);
    bytes = 0;
    for (size_t i = 0; i < count && joined; i++) {
        text = json_object_get(json_array_get(parts, i), "text");
        memcpy(joined + bytes, json_string_value(text), json_string_length(text));
        bytes += json_string_length(text);
    }
    whole = joined ? json_stringn(joined, bytes) : NULL;
    free(joined);
    if (whole && json_object_set_new(item, "content", whole) == 0) return SPC_OK;
    return spc_error_set(err, SPC_ENOMEM, "%s: no memory for message %zu", where, message);
}

/* What clients of chat services write otherwise than it is written here. */
static spc_status settle_message(const char *where, size_t number, json_t *item, spc_error *err)
{
    const json_t *content = json_object_get(item, "content"), *name = json_object_get(item, "name");

    if (json_is_null(name)) (void)json_object_del(item, "name");
    if (spc_cli_said_of(item, "name")) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: message %zu: \"name\": the chat templates have no place for it: "
                             "leave it out, or write it into the content",
                             where, number);
    }
    if (json_array_size(content) == 0) return SPC_OK;
    return join_parts(where, number, item, content, err);
}

bool spc_cli_read_message(const json_t *item, spc_message *out)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    const char *role = spc_cli_text_of(json_object_get(item, "role"));
    const json_t *content = json_object_get(item, "content");
    int i = 0;

    while (role && i < 3 && strcmp(role, roles[i]) != 0) i++;
    if (!role || i == 3 || !json_is_string(content) || json_object_size(item) != 2) return false;
    *out = (spc_message){roles[i], json_string_value(content), json_string_length(content)};
    return true;
}

static spc_status check_messages(const char *where, json_t *messages, spc_error *err)
{
    spc_message message;

    if (json_array_size(messages) == 0 || json_array_size(messages) > INT32_MAX) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: \"messages\": expected an array of one message or more", where);
    }
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *item = json_array_get(messages, i);
        spc_status status = settle_message(where, i + 1, item, err);

        if (status != SPC_OK) return status;
        if (spc_cli_read_message(item, &message)) continue;
        return spc_error_set(err, SPC_EINPUT,
                             "%s: message %zu: expected {\"role\": \"system\", \"user\" or "
                             "\"assistant\", \"content\": TEXT} and nothing else",
                             where, i + 1);
    }
    return SPC_OK;
}

/* What the models read: "text", [1, 2], or messages. */
static spc_status read_prompt(spc_cli_prompt *prompt, spc_error *err)
{
    const json_t *text = spc_cli_said_of(prompt->line, "prompt");
    const json_t *ids = spc_cli_said_of(prompt->line, "ids");
    json_t *messages = spc_cli_said_of(prompt->line, "messages");

    if ((text != NULL) + (ids != NULL) + (messages != NULL) != 1) {
        return spc_error_set(
            err, SPC_EINPUT,
            "%s: expected an object with either \"prompt\" or \"ids\" or \"messages\"",
            prompt->where);
    }
    if (messages) {
        prompt->messages = messages;
        return check_messages(prompt->where, messages, err);
    }
    if (ids) return spc_cli_read_ids(ids, prompt->where, &prompt->ids, &prompt->count, err);
    if (!json_is_string(text)) {
        return spc_error_set(err, SPC_EINPUT, "%s: \"prompt\" is not a string", prompt->where);
    }
    return spc_cli_take_text(prompt, json_string_value(text), json_string_length(text), err);
}

/* A line as an object of known keys. */
static spc_status read_object(spc_cli_prompt *prompt, const char *line, size_t bytes,
                              const key_set *keys, spc_error *err)
{
    json_error_t why;

    prompt->line = json_loadb(line, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!prompt->line && spc_json_no_memory(&why, line)) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", prompt->where);
    }
    if (!prompt->line) {
        return spc_error_set(err, SPC_EINPUT, "%s: not JSON: %s", prompt->where, why.text);
    }
    prompt->id = json_incref(json_object_get(prompt->line, "id"));
    return check_keys(prompt->where, prompt->line, keys, err);
}

spc_status spc_cli_read_line(spc_cli_prompt *prompt, const char *line, size_t bytes, spc_error *err)
{
    spc_status status = read_object(prompt, line, bytes, &of_prompts, err);

    if (status == SPC_OK) status = read_prompt(prompt, err);
    if (status == SPC_OK) status = spc_cli_own_read(prompt, err);
    return status;
}

/* What is said: a message, or messages. */
static spc_status read_said(spc_cli_prompt *prompt, spc_error *err)
{
    json_t *messages = spc_cli_said_of(prompt->line, "messages");
    spc_status status = settle_message(prompt->where, 1, prompt->line, err);
    const json_t *content;

    if (status != SPC_OK) return status;
    content = spc_cli_said_of(prompt->line, "content");
    if ((content != NULL) + (messages != NULL) != 1) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: expected an object with either \"content\" or \"messages\"",
                             prompt->where);
    }
    if (messages) {
        prompt->messages = messages;
        return check_messages(prompt->where, messages, err);
    }
    if (!json_is_string(content)) {
        return spc_error_set(err, SPC_EINPUT, "%s: \"content\" is not a string", prompt->where);
    }
    return spc_cli_take_text(prompt, json_string_value(content), json_string_length(content), err);
}

spc_status spc_cli_read_turn(spc_cli_prompt *prompt, const char *line, size_t bytes, spc_error *err)
{
    spc_status status = read_object(prompt, line, bytes, &of_turns, err);

    if (status == SPC_OK) status = read_said(prompt, err);
    if (status == SPC_OK) status = spc_cli_own_read(prompt, err);
    return status;
}

/* ---- lines that are refused ------------------------------------------------------------------ */

bool spc_cli_of_prompt(spc_status status)
{
    return status == SPC_EINPUT || status == SPC_EFULL || status == SPC_ENUMERIC;
}

json_t *spc_cli_refusal(int64_t index, json_t *id, const spc_error *error)
{
    json_t *object = json_object();
    int failed = json_object_set_new(object, "index", json_integer(index));

    if (id) failed |= json_object_set(object, "id", id);
    failed |= json_object_set_new(object, "error", spc_cli_json_text(error->message));
    if (failed == 0) return object;
    json_decref(object);
    return NULL;
}

/* ---- conversations --------------------------------------------------------------------------- */

spc_status spc_cli_conversation(const spc_engine *engine, const json_t *messages,
                                const char *chat_template, int32_t **ids, int32_t *count,
                                int32_t *end, spc_error *err)
{
    size_t n = json_array_size(messages);
    spc_message *message = malloc(n * sizeof *message);
    spc_chat_facts chat;
    spc_status status;

    if (!message) return spc_error_set(err, SPC_ENOMEM, "no memory for %zu messages", n);
    for (size_t i = 0; i < n; i++) {
        (void)spc_cli_read_message(json_array_get(messages, i), &message[i]);
    }
    status = spc_engine_chat(engine, chat_template, &chat, err);
    if (status == SPC_OK) {
        status = spc_engine_encode_chat(engine, chat_template, message, (int32_t)n, true, ids,
                                        count, err);
    }
    if (status == SPC_OK) *end = chat.stop_token;
    free(message);
    return status;
}

void spc_cli_tell_template(const spc_engine *engine)
{
    spc_chat_facts chat;
    spc_error none;
    char line[192];

    if (!isatty(STDERR_FILENO) || spc_engine_chat(engine, NULL, &chat, &none) != SPC_OK) return;
    (void)snprintf(line, sizeof line,
                   "the prompt is continued as it is, without the model's chat template (%s); for "
                   "replies: spc chat, or \"messages\" in --input",
                   chat.name);
    spc_cli_note(line);
}
