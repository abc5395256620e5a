/* SPDX-License-Identifier: Apache-2.0 */
/* cli_lines.h - prompts as lines of JSON, and what a line may say of how it is decoded. */
#ifndef SPC_HOST_CLI_LINES_H
#define SPC_HOST_CLI_LINES_H

#include "cli.h"

#include "weights/chat.h"

/* Fill in a prompt from a line; prompt->where names it in messages.  SPC_EINPUT
 *
 * prompt   an "id" is filled in even where the rest is refused */
spc_status spc_cli_read_line(spc_cli_prompt *prompt, const char *line, size_t bytes,
                             spc_error *err);

/* The chat template of conversations. */
typedef struct {
    const char *name; /* a known one; NULL: the verifier's own */
    bool ready;       /* what follows is known */
    spc_chat_template chat;
    int32_t end; /* the token that ends a reply */
} spc_cli_template;

/* Messages, an array that spc_cli_read_line has let pass, as the ids that the models continue with
 * a reply.  Looks for the template at the first call.  SPC_EMODEL: there is none that fits.
 * SPC_EINPUT: the template refuses the conversation.
 *
 * ids   receives malloc'd ids */
spc_status spc_cli_conversation(const spc_engine *engine, const json_t *messages,
                                spc_cli_template *of, int32_t **ids, int32_t *count,
                                spc_error *err);

#endif
