/* SPDX-License-Identifier: Apache-2.0 */
/* cli_lines.h - prompts and what is said to spc chat as lines of JSON, what a line may say of how
 * it is decoded, and what answers a line that is refused. */
#ifndef SPC_HOST_CLI_LINES_H
#define SPC_HOST_CLI_LINES_H

#include "cli.h"

/* What a line says of a key; NULL: nothing.  Clients of other programs write null for it. */
json_t *spc_cli_said_of(const json_t *root, const char *key);
/* A text that C can hold; NULL: it is none, or has a zero byte inside. */
const char *spc_cli_text_of(const json_t *value);

/* ---- how a line is decoded, in place of what the command line says (cli_own.c) ---- */

/* Its keys, in the order in which they are listed. */
#define SPC_CLI_OWN_KEYS(X) \
    X(max_tokens)           \
    X(seed)                 \
    X(temperature)          \
    X(stop)                 \
    X(top_k)                \
    X(top_p)                \
    X(min_p)                \
    X(min_tokens)           \
    X(repetition_penalty)   \
    X(presence_penalty)     \
    X(frequency_penalty)    \
    X(logit_bias)           \
    X(logprobs)

/* Read those of prompt->line into prompt->own; ranges are those of a session.  SPC_EINPUT */
spc_status spc_cli_own_read(spc_cli_prompt *prompt, spc_error *err);
/* May the line say it, where results are JSON or are not?  SPC_EINPUT */
spc_status spc_cli_own_check(const spc_cli_own *own, bool json, spc_error *err);
/* Does the line say anything of it? */
bool spc_cli_own_any(const spc_cli_own *own);
/* Put them into options, which borrow of it. */
void spc_cli_own_apply(const spc_cli_own *own, spc_session_options *options);
/* What a session that has not been opened with these options is an error of.  What the command line
 * says has been checked: where options are to blame, they are the line's. */
spc_status spc_cli_own_blame(spc_status status);

/* ---- lines ---- */

/* Fill in a prompt from a line; prompt->where names it in messages.  SPC_EINPUT
 *
 * prompt   an "id" is filled in even where the rest is refused */
spc_status spc_cli_read_line(spc_cli_prompt *prompt, const char *line, size_t bytes,
                             spc_error *err);

/* The same for a line of spc chat: what the user says next, {"content": TEXT}, which becomes
 * prompt->text, or a conversation, {"messages": [...]}.  SPC_EINPUT */
spc_status spc_cli_read_turn(spc_cli_prompt *prompt, const char *line, size_t bytes,
                             spc_error *err);

/* One of the messages that such lines let pass; false: it is none.  Its role is static, its content
 * borrowed. */
bool spc_cli_read_message(const json_t *item, spc_message *out);

/* Is it a prompt that is to blame, and nothing that others would meet with too? */
bool spc_cli_of_prompt(spc_status status);

/* What stands in place of a result: {"index": N, "id": ID, "error": TEXT}.  NULL: no memory.
 *
 * id   or NULL */
json_t *spc_cli_refusal(int64_t index, json_t *id, const spc_error *error);

/* Messages, an array that spc_cli_read_line has let pass, as the ids that the models continue with
 * a reply.  SPC_EMODEL: there is no template that fits.  SPC_EINPUT: the template refuses the
 * conversation.
 *
 * chat_template   a known one; NULL: the verifier's own
 * ids             receives malloc'd ids
 * end             receives the token that ends a reply */
spc_status spc_cli_conversation(const spc_engine *engine, const json_t *messages,
                                const char *chat_template, int32_t **ids, int32_t *count,
                                int32_t *end, spc_error *err);

/* Tell somebody at a terminal that a prompt is no message to a verifier that has a chat template:
 * who expects a reply would wonder at what comes.  What scripts read of stderr stays as it is. */
void spc_cli_tell_template(const spc_engine *engine);

#endif
