/* SPDX-License-Identifier: Apache-2.0 */
/* cli.c - the program spc: picks a command, hands it its arguments, and exits with the code of the
 * class of what went wrong. */
#include "cli.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const spc_cli_command *const commands[] = {
    &spc_cli_run,    &spc_cli_chat,   &spc_cli_demo,     &spc_cli_info, &spc_cli_rules,
    &spc_cli_launch, &spc_cli_logits, &spc_cli_tokenize, &spc_cli_tune, &spc_cli_kernels};

enum { COMMANDS = sizeof commands / sizeof *commands };

/* A closed descriptor would be taken by the next file that is opened, and results written into it.
 * On stdout a descriptor that cannot be written keeps the failure visible. */
static bool fill_closed_descriptors(void)
{
    static const int mode[] = {O_RDONLY, O_RDONLY, O_WRONLY};

    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) continue;
        if (open("/dev/null", mode[fd]) != fd) return false;
    }
    return true;
}

static void print_help(void)
{
    spc_cli_print("spc - decode language models with speculative cascades\n\n"
                  "usage: spc COMMAND [options]\n\ncommands:\n");
    for (int i = 0; i < COMMANDS; i++) {
        spc_cli_print("  %-14s%s\n", commands[i]->name, commands[i]->summary);
    }
    spc_cli_print(
        "\nspc help COMMAND, or spc COMMAND --help, lists a command's options; spc --version "
        "prints the\nversion.\n"
        "MODEL is a folder of a Hugging Face checkpoint, a GGUF file, or %s or\n"
        "%s, the translation pair built into this program.\n\n"
        "Results go to stdout, everything else to stderr.  An error is one line on stderr; exit "
        "codes:\n"
        "2 usage, 3 model, 4 device, 5 memory, 6 input (and output that cannot be "
        "written),\n7 internal, %d interrupted by Ctrl-C, %d by SIGTERM.\n",
        SPC_EMBEDDED_VERIFIER, SPC_EMBEDDED_DRAFTER, SPC_CLI_INTERRUPTED,
        SPC_CLI_SIGNALLED + SIGTERM);
}

static int run_command(const spc_cli_command *command, int argc, char **argv)
{
    spc_error error;
    spc_cli_line line;
    void *args = calloc(1, command->bytes);
    int code = 0;

    if (!args) return spc_cli_fail_with(SPC_ENOMEM, "no memory for the arguments");
    command->init(args);
    if (spc_cli_parse(command, argc, argv, args, &line, &error) != SPC_OK) {
        code = command->wrong && error.status == SPC_EUSAGE ? command->wrong(args, &line, &error)
                                                            : spc_cli_fail(&error);
    } else if (line.help) {
        spc_cli_help(command);
    } else {
        code = command->run(args, &line);
    }
    spc_cli_parse_free(args, &line);
    free(args);
    return code;
}

static const spc_cli_command *find_command(const char *name)
{
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    }
    return NULL;
}

static int fail_unknown(const char *name)
{
    spc_cli_guess guess = spc_cli_guess_of(name, strlen(name));
    char known[256] = "";
    size_t used = 0;

    for (int i = 0; i < COMMANDS; i++) {
        spc_cli_guess_try(&guess, commands[i]->name);
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "",
                                 commands[i]->name);
    }
    return spc_cli_fail_with(SPC_EUSAGE, "unknown command '%.40s'%s%s%s; known: %s", name,
                             guess.best ? " (did you mean " : "", guess.best ? guess.best : "",
                             guess.best ? "?)" : "", known);
}

int main(int argc, char **argv)
{
    if (!fill_closed_descriptors()) return spc_status_exit_code(SPC_EINTERNAL);
    (void)signal(SIGPIPE, SIG_IGN); /* a reader that left is a failed write, told like any other */
    if (argc < 2) {
        return spc_cli_fail_with(SPC_EUSAGE, "expected a command, found nothing; see spc --help");
    }

    const char *name = argv[1];
    const spc_cli_command *command = find_command(name);

    if (command) return spc_cli_finish(run_command(command, argc - 2, argv + 2));

    bool help = strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0;

    if (!help && strcmp(name, "--version") != 0) return fail_unknown(name);
    if (strcmp(name, "help") == 0 && argc == 3) {
        command = find_command(argv[2]);
        if (!command) return fail_unknown(argv[2]);
        spc_cli_help(command);
        return spc_cli_finish(0);
    }
    if (argc > 2) {
        return spc_cli_fail_with(SPC_EUSAGE, "unexpected argument '%s' behind %s", argv[argc - 1],
                                 name);
    }
    if (help) {
        print_help();
    } else {
        spc_cli_print("spc %s\n", spc_version());
    }
    return spc_cli_finish(0);
}
