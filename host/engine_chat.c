/* SPDX-License-Identifier: Apache-2.0 */
/* engine_chat.c - conversations to ids, with the verifier's chat template or a named one. */
#include "engine.h"

#include "entry.h"

#include <stdlib.h>
#include <string.h>

const char *spc_chat_templates(void)
{
    return SPC_CHAT_NAMES;
}

spc_status spc_engine_find_chat(spc_engine *engine, spc_error *err)
{
    spc_status status;

    if (!engine->tokenizer) return SPC_OK; /* which is what a conversation is told of */
    status = spc_chat_detect(engine->verifier.bundle, &engine->chat, &engine->no_chat);
    if (status == SPC_ENOMEM) return spc_error_set(err, status, "%s", engine->no_chat.message);
    engine->no_chat.status = status;
    return SPC_OK;
}

/* The template of that name, or the verifier's own, fit for the tokenizer. */
static spc_status take_template(const spc_engine *engine, const char *name, spc_chat_template *chat,
                                int32_t *end, spc_error *err)
{
    const spc_bundle *bundle = engine->verifier.bundle;
    const char *where = bundle ? spc_bundle_where(bundle) : "the model";
    spc_error inner;
    spc_status status;

    if (name && !spc_chat_find(name, chat)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "chat-template: expected one of " SPC_CHAT_NAMES ", found '%.60s'",
                             name);
    }
    if (!engine->tokenizer) {
        return spc_error_set(err, SPC_EMODEL, "%.200s: no tokenizer.json: a conversation needs one",
                             where);
    }
    if (!name && engine->no_chat.status != SPC_OK) {
        return spc_error_set(err, engine->no_chat.status, "%s", engine->no_chat.message);
    }
    if (!name) *chat = engine->chat;
    status = spc_chat_check(chat, engine->tokenizer, end, &inner);
    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, status, "%.200s: %s", where, inner.message);
}

spc_status spc_engine_chat(const spc_engine *engine, const char *chat_template, spc_chat_facts *out,
                           spc_error *err)
{
    spc_status status = spc_entry_given(out, "out", err);
    spc_chat_template chat;
    int32_t end;

    if (status != SPC_OK) return status;
    memset(out, 0, sizeof *out);
    status = spc_entry_given(engine, "engine", err);
    if (status == SPC_OK) status = take_template(engine, chat_template, &chat, &end, err);
    if (status != SPC_OK) return status;
    out->name = spc_chat_name(&chat);
    out->stop_token = end;
    return SPC_OK;
}

/* Message i, counted from 0, with its role as a number. */
static spc_status take_message(const spc_message *message, int32_t i, spc_chat_message *out,
                               spc_error *err)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    const char *missing = !message->role                        ? "role"
                          : message->bytes && !message->content ? "content"
                                                                : NULL;
    int role = 0;

    if (missing) {
        return spc_error_set(err, SPC_EUSAGE, "message %d: %s: expected an address, found NULL",
                             (int)i + 1, missing);
    }
    while (role < 3 && strcmp(message->role, roles[role]) != 0) role++;
    if (role == 3) {
        return spc_error_set(err, SPC_EINPUT,
                             "message %d: role: expected system, user or assistant, found '%.60s'",
                             (int)i + 1, message->role);
    }
    *out = (spc_chat_message){(spc_chat_role)role, message->content, message->bytes};
    return SPC_OK;
}

static spc_status encode(const spc_engine *engine, const spc_chat_template *chat,
                         const spc_message *messages, int32_t message_count, bool reply,
                         int32_t **ids, int32_t *count, spc_error *err)
{
    spc_chat_message *taken = malloc(((size_t)message_count + 1) * sizeof *taken);
    spc_status status = SPC_OK;

    if (!taken) {
        return spc_error_set(err, SPC_ENOMEM, "no memory for %d messages", (int)message_count);
    }
    for (int32_t i = 0; i < message_count && status == SPC_OK; i++) {
        status = take_message(&messages[i], i, &taken[i], err);
    }
    if (status == SPC_OK) {
        status =
            spc_chat_encode(chat, engine->tokenizer, taken, message_count, reply, ids, count, err);
    }
    free(taken);
    return status;
}

spc_status spc_engine_encode_chat(const spc_engine *engine, const char *chat_template,
                                  const spc_message *messages, int32_t message_count, bool reply,
                                  int32_t **ids, int32_t *count, spc_error *err)
{
    spc_status status = spc_entry_given(ids, "ids", err);
    spc_chat_template chat;
    int32_t end;

    if (status == SPC_OK) status = spc_entry_given(count, "count", err);
    if (status != SPC_OK) return status;
    *ids = NULL;
    *count = 0;
    status = spc_entry_given(engine, "engine", err);
    if (status == SPC_OK) {
        status = spc_entry_array(messages, message_count, "messages", "message_count", err);
    }
    if (status == SPC_OK) status = take_template(engine, chat_template, &chat, &end, err);
    if (status != SPC_OK) return status;
    return encode(engine, &chat, messages, message_count, reply, ids, count, err);
}
