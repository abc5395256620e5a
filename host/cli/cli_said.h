/* SPDX-License-Identifier: Apache-2.0 */
/* cli_said.h - what is said to spc chat: messages of one line or several, and commands. */
#ifndef SPC_HOST_CLI_SAID_H
#define SPC_HOST_CLI_SAID_H

#include "cli.h"

/* For whoever sits at the terminal, if somebody does. */
void spc_cli_said_tell(bool terminal, const char *text);

/* The next message, malloc'd; *got is false at the end of the input, and when Ctrl-C came before
 * its first line was there.
 *
 * terminal   somebody is typing, and is prompted */
spc_status spc_cli_said_read(spc_cli_source *source, bool terminal, char **text, size_t *bytes,
                             bool *got, spc_error *err);

/* Is it blank? */
bool spc_cli_said_nothing(const char *text, size_t bytes);

/* A conversation so far. */
typedef struct {
    spc_message *message; /* [count], their texts owned, their roles static */
    int32_t count, capacity;
} spc_cli_said;

/* Add a message; takes its text over, also when it fails.  SPC_ENOMEM */
spc_status spc_cli_said_add(spc_cli_said *said, const char *role, char *text, size_t bytes,
                            spc_error *err);
/* The same with a copy of its text. */
spc_status spc_cli_said_add_copy(spc_cli_said *said, const spc_message *message, spc_error *err);
/* Forget all messages behind the first `count`. */
void spc_cli_said_cut(spc_cli_said *said, int32_t count);
void spc_cli_said_free(spc_cli_said *said);

typedef enum {
    SPC_CLI_SAID_HELP,
    SPC_CLI_SAID_RESET,
    SPC_CLI_SAID_EXIT,
    SPC_CLI_SAID_COMMANDS
} spc_cli_command_said;

/* The command that a message beginning with '/' gives.  SPC_EINPUT: there is none of that name, or
 * it is followed by something. */
spc_status spc_cli_said_command(const char *text, size_t bytes, spc_cli_command_said *command,
                                spc_error *err);

/* List the commands, on stderr. */
void spc_cli_said_help(void);

#endif
