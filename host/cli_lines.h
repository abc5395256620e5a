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

#endif
