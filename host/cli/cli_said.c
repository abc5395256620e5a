/* SPDX-License-Identifier: Apache-2.0 */
/* cli_said.c - what is said to spc chat: messages of one line or several, and commands. */
#include "cli_said.h"

#include <stdlib.h>
#include <string.h>

/* ---- messages -------------------------------------------------------------------------------- */

void spc_cli_said_tell(bool terminal, const char *text)
{
    if (!terminal) return;
    (void)fputs(text, stderr);
    (void)fflush(stderr);
}

/* Cut the line's end: a backslash there joins the next line to this one, and two stand for one.
 * Returns whether the message goes on. */
static bool goes_on(const char *line, size_t *bytes)
{
    if (*bytes == 0 || line[*bytes - 1] != '\\') return false;
    --*bytes;
    return *bytes == 0 || line[*bytes - 1] != '\\';
}

spc_status spc_cli_said_read(spc_cli_source *source, bool terminal, char **text, size_t *bytes,
                             bool *got, spc_error *err)
{
    bool more = true;

    *text = NULL;
    *bytes = 0;
    *got = false;
    while (more) {
        spc_cli_prompt line;
        bool any;

        spc_cli_said_tell(terminal, *got ? "| " : "> ");

        spc_status status = spc_cli_source_next(source, &line, &any, err);
        size_t length = line.bytes;
        char *grown = NULL;

        if (status == SPC_OK && any) {
            more = goes_on(line.text, &length);
            grown = realloc(*text, *bytes + length + 2);
            if (!grown) status = spc_error_set(err, SPC_ENOMEM, "%s: no memory", line.where);
        }
        if (grown) {
            *text = grown;
            if (*got) grown[(*bytes)++] = '\n';
            memcpy(grown + *bytes, line.text, length);
            *bytes += length;
            *got = true;
        }
        spc_cli_prompt_free(&line);
        if (status != SPC_OK) {
            free(*text);
            *text = NULL;
            return status;
        }
        if (!any) more = false; /* a message that was to go on ends here */
    }
    return SPC_OK;
}

bool spc_cli_said_nothing(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (!strchr(" \t\n", text[i])) return false;
    }
    return true;
}

/* ---- what has been said --------------------------------------------------------------------- */

spc_status spc_cli_said_add(spc_cli_said *said, const char *role, char *text, size_t bytes,
                            spc_error *err)
{
    if (said->count == said->capacity) {
        int32_t capacity = said->capacity ? said->capacity * 2 : 16;
        spc_message *grown = said->capacity <= INT32_MAX / 2
                                 ? realloc(said->message, (size_t)capacity * sizeof *grown)
                                 : NULL;

        if (!grown) {
            free(text);
            return spc_error_set(err, SPC_ENOMEM, "no memory for message %d", (int)said->count + 1);
        }
        said->message = grown;
        said->capacity = capacity;
    }
    said->message[said->count++] = (spc_message){role, text, bytes};
    return SPC_OK;
}

spc_status spc_cli_said_add_copy(spc_cli_said *said, const spc_message *message, spc_error *err)
{
    char *copy = malloc(message->bytes + 1);

    if (!copy) return spc_error_set(err, SPC_ENOMEM, "no memory for a %s message", message->role);
    if (message->bytes > 0) memcpy(copy, message->content, message->bytes);
    copy[message->bytes] = '\0';
    return spc_cli_said_add(said, message->role, copy, message->bytes, err);
}

void spc_cli_said_cut(spc_cli_said *said, int32_t count)
{
    while (said->count > count) {
        said->count--;
        free((void *)(uintptr_t)said->message[said->count].content);
    }
}

void spc_cli_said_free(spc_cli_said *said)
{
    spc_cli_said_cut(said, 0);
    free(said->message);
    *said = (spc_cli_said){0};
}

/* ---- commands -------------------------------------------------------------------------------- */

static const struct {
    const char *name, *does;
} commands[SPC_CLI_SAID_COMMANDS] = {{"/help", "lists these commands"},
                                     {"/reset", "begins a new conversation"},
                                     {"/exit", "ends the program, as the end of the input does"}};

void spc_cli_said_help(void)
{
    for (int32_t i = 0; i < SPC_CLI_SAID_COMMANDS; i++) {
        (void)fprintf(stderr, "%-8s%s\n", commands[i].name, commands[i].does);
    }
    (void)fputs(
        "//...   a message that begins with one /\n"
        "A line that ends in \\ goes on in the next; Ctrl-C stops a reply, or drops what is\n"
        "being typed.\n",
        stderr);
}

spc_status spc_cli_said_command(const char *text, size_t bytes, spc_cli_command_said *command,
                                spc_error *err)
{
    size_t word = 0;

    while (word < bytes && !strchr(" \t\n", text[word])) word++;
    for (int32_t i = 0; i < SPC_CLI_SAID_COMMANDS; i++) {
        if (word != strlen(commands[i].name) || memcmp(text, commands[i].name, word) != 0) continue;
        *command = (spc_cli_command_said)i;
        if (spc_cli_said_nothing(text + word, bytes - word)) return SPC_OK;
        return spc_error_set(err, SPC_EINPUT, "%s takes nothing behind it", commands[i].name);
    }
    return spc_error_set(err, SPC_EINPUT,
                         "unknown command '%.*s'; known: /help, /reset, /exit; // begins a message "
                         "with one /",
                         word < 40 ? (int)word : 40, text);
}
