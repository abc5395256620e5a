/* SPDX-License-Identifier: Apache-2.0 */
/* cli_lines.h - prompts as lines of JSON, and what a line may say of how it is decoded. */
#ifndef SPC_HOST_CLI_LINES_H
#define SPC_HOST_CLI_LINES_H

#include "cli.h"

/* Fill in a prompt from a line; prompt->where names it in messages.  SPC_EINPUT
 *
 * prompt   an "id" is filled in even where the rest is refused */
spc_status spc_cli_read_line(spc_cli_prompt *prompt, const char *line, size_t bytes,
                             spc_error *err);

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

#endif
