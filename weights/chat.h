/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - a conversation as the text that a model was trained on.
 *
 * Checkpoints bring their chat template as a Jinja program.  There is no Jinja here: the templates
 * of the known families are written in C (chat.c), and a checkpoint's own is recognised by telling
 * marks (chat_detect.c).  One that is not recognised is an error, never a guess.
 *
 * What a message says stays text: only the template's own marks become special tokens, so that
 * nobody ends a turn by writing "<|im_end|>".  (Where a template's marks are plain text, as the
 * [INST] of Llama 2, no tokenizer can tell them from a message that spells them.) */
#ifndef SPC_WEIGHTS_CHAT_H
#define SPC_WEIGHTS_CHAT_H

#include <stdbool.h>

#include "bundle.h"
#include "tokenizer.h"

typedef enum { SPC_CHAT_SYSTEM, SPC_CHAT_USER, SPC_CHAT_ASSISTANT } spc_chat_role;

typedef struct {
    spc_chat_role role;
    const char *text; /* [bytes] UTF-8; NULL only when bytes is 0 */
    size_t bytes;
} spc_chat_message;

typedef struct spc_chat_family spc_chat_family; /* chat.c */

enum { SPC_CHAT_SYSTEM_BYTES = 1024 };

/* A chat template.  Nothing to free. */
typedef struct {
    const spc_chat_family *family;
    char system[SPC_CHAT_SYSTEM_BYTES]; /* written when a conversation has no system message; "" */
} spc_chat_template;

/* Names of the templates that are known, separated by ", ". */
#define SPC_CHAT_NAMES                                                                 \
    "chatml, deepseek-r1, deepseek-r1-old, gemma2, gemma3, llama2, llama3, llama3.1, " \
    "mistral-v1, mistral-v1-old, mistral-v3, mistral-nemo, phi3, phi3.5, phi4, "       \
    "phi4-mini, qwen2, qwen2.5, qwen3, qwen3-no-thinking, smollm2"

/* The template of that name; false when there is none. */
bool spc_chat_find(const char *name, spc_chat_template *out);

const char *spc_chat_name(const spc_chat_template *chat);

/* Recognise the text of a Jinja template; `where` names it in messages.
 * SPC_EMODEL: it is none of those known. */
spc_status spc_chat_recognise(const char *where, const char *jinja, spc_chat_template *out,
                              spc_error *err);

/* Recognise the template of a model: the file chat_template.jinja, or `chat_template` in
 * tokenizer_config.json (a text, or a list of named ones, of which "default" is taken).
 * SPC_EMODEL: there is none, or it is none of those known.  SPC_EFORMAT: the file is broken. */
spc_status spc_chat_detect(spc_bundle *bundle, spc_chat_template *out, spc_error *err);

/* Does the tokenizer have every mark of the template as one special token?  SPC_EMODEL names the
 * first that it lacks.
 *
 * end   receives the id that ends a reply */
spc_status spc_chat_check(const spc_chat_template *chat, const spc_tokenizer *tokenizer,
                          int32_t *end, spc_error *err);

/* A conversation as text. */
typedef struct {
    char *text; /* [bytes], terminated, malloc'd */
    size_t bytes;
    size_t *mark; /* [mark_count] where the template's own marks begin, rising, malloc'd */
    int32_t mark_count;
} spc_chat_text;

/* Write a conversation as its template does.  SPC_EINPUT: no message, one that is not UTF-8, or an
 * order of roles that the template refuses; the message's number is named, counted from 1.
 *
 * reply   go on to where the assistant's next words begin
 * out     receives the text; free with spc_chat_text_free */
spc_status spc_chat_render(const spc_chat_template *chat, const spc_chat_message *message,
                           int32_t count, bool reply, spc_chat_text *out, spc_error *err);
void spc_chat_text_free(spc_chat_text *text);

/* The same as ids; spc_chat_check must have passed.
 *
 * ids   receives malloc'd ids, the caller frees */
spc_status spc_chat_encode(const spc_chat_template *chat, const spc_tokenizer *tokenizer,
                           const spc_chat_message *message, int32_t count, bool reply,
                           int32_t **ids, int32_t *id_count, spc_error *err);

#endif
