/* SPDX-License-Identifier: Apache-2.0 */
/* cli_args.c - the command line read against a command's table, and the help printed from it.
 *
 * Stricter than getopt: numbers are read whole, an option given twice and a value that a flag
 * cannot take are errors, and names are not abbreviated. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---------------------------------------------------------------------------------- */

bool spc_cli_read_int(const char *text, int64_t low, int64_t high, int64_t *out)
{
    const char *digits = text + (text[0] == '-');
    char *end;

    if (!*digits || strspn(digits, "0123456789") != strlen(digits)) return false;
    errno = 0;

    intmax_t value = strtoimax(text, &end, 10);

    if (errno != 0 || *end || value < low || value > high) return false;
    *out = value;
    return true;
}

/* Plain decimals: strtod alone would take "nan", "0x1p3" and leading blanks as well. */
bool spc_cli_read_real(const char *text, double low, double high, double *out)
{
    char *end;

    if (!*text || strspn(text, "0123456789.-+eE") != strlen(text)) return false;

    double value = strtod(text, &end);

    if (*end || !(value - value == 0.0)) return false; /* inf - inf is no 0 */
    if (low < high && (value < low || value > high)) return false;
    *out = value;
    return true;
}

/* Index of a word in "token|block"; -1: it is none of them. */
static int32_t read_choice(const char *choices, const char *word)
{
    size_t length = strlen(word);

    for (int32_t i = 0;; i++) {
        size_t bytes = strcspn(choices, "|");

        if (bytes == length && memcmp(choices, word, bytes) == 0) return i;
        if (!choices[bytes]) return -1;
        choices += bytes + 1;
    }
}

/* "-n", "--name". */
static const char *dashes(const spc_cli_option *o)
{
    return o->name[1] ? "--" : "-";
}

static spc_status bad_number(const spc_cli_option *o, const char *value, spc_error *err)
{
    const char *kind = o->kind == SPC_CLI_REAL ? "number" : "whole number";
    const char *word = o->kind == SPC_CLI_AUTO ? " or auto" : "";

    if (o->low == o->high) {
        return spc_error_set(err, SPC_EUSAGE, "%s%s: expected a %s%s, found '%s'", dashes(o),
                             o->name, kind, o->kind == SPC_CLI_SEED ? " of 0 to 2^63 - 1" : "",
                             value);
    }
    return spc_error_set(err, SPC_EUSAGE, "%s%s: expected a %s of %.10g to %.10g%s, found '%s'",
                         dashes(o), o->name, kind, o->low, o->high, word, value);
}

static spc_status set_value(const spc_cli_option *o, char *args, const char *value, spc_error *err)
{
    void *field = args + o->offset;
    int64_t whole = 0;

    switch (o->kind) {
    case SPC_CLI_FLAG: *(bool *)field = true; return SPC_OK;
    case SPC_CLI_AUTO:
        if (strcmp(value, "auto") == 0) {
            *(int32_t *)field = -1;
            return SPC_OK;
        }
        /* fall through */
    case SPC_CLI_INT:
        if (!spc_cli_read_int(value, (int64_t)o->low, (int64_t)o->high, &whole)) break;
        *(int32_t *)field = (int32_t)whole;
        return SPC_OK;
    case SPC_CLI_SEED:
        if (!spc_cli_read_int(value, 0, INT64_MAX, &whole)) break;
        *(uint64_t *)field = (uint64_t)whole;
        return SPC_OK;
    case SPC_CLI_REAL:
        if (!spc_cli_read_real(value, o->low, o->high, field)) break;
        return SPC_OK;
    case SPC_CLI_TEXT: *(const char **)field = value; return SPC_OK;
    case SPC_CLI_CHOICE:
        *(int32_t *)field = read_choice(o->value, value);
        if (*(int32_t *)field >= 0) return SPC_OK;
        return spc_error_set(err, SPC_EUSAGE, "%s%s: expected %s, found '%s'", dashes(o), o->name,
                             o->value, value);
    case SPC_CLI_LIST: {
        spc_cli_list *list = field;

        list->item[list->count++] = value;
        return SPC_OK;
    }
    }
    return bad_number(o, value, err);
}

/* ---- the line -------------------------------------------------------------------------------- */

/* Lists get room for every argument there is: then nothing can overflow. */
static spc_status reserve_lists(const spc_cli_command *c, int argc, char *args, spc_cli_line *line,
                                spc_error *err)
{
    size_t room = (size_t)argc + 1;

    line->words.item = calloc(room, sizeof *line->words.item);
    if (!line->words.item) goto no_memory;
    for (int32_t i = 0; i < c->option_count; i++) {
        if (c->option[i].kind != SPC_CLI_LIST) continue;
        spc_cli_list *list = (void *)(args + c->option[i].offset);

        list->item = calloc(room, sizeof *list->item);
        if (!list->item) goto no_memory;
    }
    return SPC_OK;
no_memory:
    return spc_error_set(err, SPC_ENOMEM, "no memory for %d arguments", argc);
}

void spc_cli_parse_free(void *args, spc_cli_line *line)
{
    const spc_cli_command *c = line->command;

    for (int32_t i = 0; c && i < c->option_count; i++) {
        if (c->option[i].kind != SPC_CLI_LIST) continue;
        free(((spc_cli_list *)(void *)((char *)args + c->option[i].offset))->item);
    }
    free(line->words.item);
}

/* The option that "name" or "name=value" means; its index, or -1. */
static int32_t find_option(const spc_cli_command *c, const char *name, size_t bytes)
{
    for (int32_t i = 0; i < c->option_count; i++) {
        if (strlen(c->option[i].name) == bytes && memcmp(c->option[i].name, name, bytes) == 0) {
            return i;
        }
    }
    return -1;
}

spc_cli_guess spc_cli_guess_of(const char *word, size_t bytes)
{
    return (spc_cli_guess){word, bytes, NULL, INT32_MAX};
}

enum { GUESS_BYTES = 32 };

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Edits that make one word the other: a letter put in, left out or changed, two neighbours swapped.
 * Both are shorter than GUESS_BYTES. */
static int32_t count_edits(const char *a, int32_t a_bytes, const char *b, int32_t b_bytes)
{
    int32_t cost[GUESS_BYTES][GUESS_BYTES];

    for (int32_t i = 0; i <= a_bytes; i++) cost[i][0] = i;
    for (int32_t k = 0; k <= b_bytes; k++) cost[0][k] = k;
    for (int32_t i = 1; i <= a_bytes; i++) {
        for (int32_t k = 1; k <= b_bytes; k++) {
            int32_t best = cost[i - 1][k - 1] + (a[i - 1] != b[k - 1]);

            best = least(best, least(cost[i - 1][k], cost[i][k - 1]) + 1);
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1]) {
                best = least(best, cost[i - 2][k - 2] + 1);
            }
            cost[i][k] = best;
        }
    }
    return cost[a_bytes][b_bytes];
}

/* Near are names that begin with the word, and those within one edit for every three letters. */
void spc_cli_guess_try(spc_cli_guess *guess, const char *name)
{
    size_t bytes = strlen(name);
    int32_t edits;

    if (guess->bytes < 2 || guess->bytes >= GUESS_BYTES || bytes >= GUESS_BYTES) return;
    edits = count_edits(guess->word, (int32_t)guess->bytes, name, (int32_t)bytes);
    if (bytes > guess->bytes && memcmp(name, guess->word, guess->bytes) == 0) edits = 0;
    if (edits >= guess->edits || edits > 1 + ((int32_t)guess->bytes - 3) / 3) return;
    guess->best = name;
    guess->edits = edits;
}

/* "-x" or "--name", and the option that was probably meant. */
static spc_status unknown_option(const spc_cli_command *c, const char *written, size_t dash_bytes,
                                 size_t bytes, spc_error *err)
{
    spc_cli_guess guess = spc_cli_guess_of(written + dash_bytes, bytes);

    for (int32_t i = 0; i < c->option_count; i++) spc_cli_guess_try(&guess, c->option[i].name);
    return spc_error_set(err, SPC_EUSAGE, "unknown option %.*s%s%s%s; see spc %s --help",
                         (int)(dash_bytes + bytes), written, guess.best ? " (did you mean --" : "",
                         guess.best ? guess.best : "", guess.best ? "?)" : "", c->name);
}

/* One option, with its value behind '=', behind a name of one letter, or in the next argument; *at
 * moves over what it takes. */
static spc_status take_option(int argc, char **argv, int *at, void *args, spc_cli_line *line,
                              spc_error *err)
{
    const spc_cli_command *c = line->command;
    bool two = argv[*at][1] == '-'; /* dashes; one stands before names of one letter */
    const char *name = argv[*at] + (two ? 2 : 1), *value = NULL;
    size_t bytes = strcspn(name, "=");
    int32_t index = two == (bytes > 1) ? find_option(c, name, bytes) : -1;

    if (index < 0 && !two) { /* -n2 */
        index = find_option(c, name, 1);
        if (index >= 0 && c->option[index].kind == SPC_CLI_FLAG) index = -1;
        value = name + 1;
    }
    if (index < 0) return unknown_option(c, argv[*at], (size_t)(name - argv[*at]), bytes, err);

    const spc_cli_option *o = &c->option[index];

    line->wrong[index] = true; /* until it has been read */
    if (line->given[index] && o->kind != SPC_CLI_LIST) {
        return spc_error_set(err, SPC_EUSAGE, "%s%s is given twice", dashes(o), o->name);
    }
    line->given[index] = true;
    if (!value && name[bytes] == '=') value = name + bytes + 1;
    if (o->kind == SPC_CLI_FLAG) {
        if (value) {
            return spc_error_set(err, SPC_EUSAGE, "%s%s takes no value, found '%s'", dashes(o),
                                 o->name, value);
        }
    } else {
        if (!value && *at + 1 < argc) value = argv[++*at];
        if (!value) {
            return spc_error_set(err, SPC_EUSAGE, "%s%s: expected %s, found nothing", dashes(o),
                                 o->name, o->value);
        }
    }

    spc_status status = set_value(o, args, value, err);

    line->wrong[index] = status != SPC_OK;
    return status;
}

static spc_status check_words(const spc_cli_line *line, spc_error *err)
{
    const spc_cli_command *c = line->command;

    if (line->words.count < c->words_low) {
        return spc_error_set(err, SPC_EUSAGE, "expected %s, found nothing; see spc %s --help",
                             c->words, c->name);
    }
    if (line->words.count > c->words_high) {
        return spc_error_set(err, SPC_EUSAGE, "unexpected argument '%s'; see spc %s --help",
                             line->words.item[c->words_high], c->name);
    }
    return SPC_OK;
}

spc_status spc_cli_parse(const spc_cli_command *command, int argc, char **argv, void *args,
                         spc_cli_line *line, spc_error *err)
{
    const bool runs_command = strncmp(command->words, "--", 2) == 0;
    bool words_only = false;

    memset(line, 0, sizeof *line);
    line->command = command;

    spc_status status = reserve_lists(command, argc, args, line, err);

    if (status != SPC_OK) return status;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];

        if (!words_only && strcmp(word, "--") == 0) {
            words_only = true;
        } else if (words_only || word[0] != '-' || !word[1]) {
            line->words.item[line->words.count++] = word;
            words_only = words_only || runs_command;
        } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            line->help = true;
            break;
        } else if (take_option(argc, argv, &i, args, line, line->faults > 0 ? NULL : err) !=
                   SPC_OK) {
            line->faults++;
        }
    }
    if (line->faults > 0) return SPC_EUSAGE;
    return line->help ? SPC_OK : check_words(line, err);
}

static bool is_in(const spc_cli_line *line, const bool *which, const char *name)
{
    int32_t index = find_option(line->command, name, strlen(name));

    return index >= 0 && which[index];
}

bool spc_cli_given(const spc_cli_line *line, const char *name)
{
    return is_in(line, line->given, name);
}

bool spc_cli_wrong(const spc_cli_line *line, const char *name)
{
    return is_in(line, line->wrong, name);
}

/* ---- help ------------------------------------------------------------------------------------ */

enum { HELP_COLUMN = 30 };

/* Range and default of an option, " (0 to 16; default 5)", as the parser has them. */
static void help_default(const spc_cli_option *o, const char *args, char *text, size_t bytes)
{
    const void *field = args + o->offset;
    char range[64] = "", value[160] = "";

    if (o->low < o->high && o->high < 2147483647.0) {
        (void)snprintf(range, sizeof range, "%.10g to %.10g", o->low, o->high);
    }
    if (o->kind == SPC_CLI_AUTO) (void)strncat(range, ", auto", sizeof range - strlen(range) - 1);
    switch (o->kind) {
    case SPC_CLI_AUTO:
    case SPC_CLI_INT:
        if (o->kind == SPC_CLI_INT && *(const int32_t *)field < o->low) break; /* there is none */
        (void)snprintf(value, sizeof value, "%" PRId32, *(const int32_t *)field);
        if (o->kind == SPC_CLI_AUTO && *(const int32_t *)field < 0) (void)strcpy(value, "auto");
        break;
    case SPC_CLI_SEED:
        (void)snprintf(value, sizeof value, "%" PRIu64, *(const uint64_t *)field);
        break;
    case SPC_CLI_REAL: {
        double real = *(const double *)field;

        if (real - real == 0.0) (void)snprintf(value, sizeof value, "%.10g", real); /* else none */
        break;
    }
    case SPC_CLI_TEXT: {
        const char *given = *(const char *const *)field;

        if (given) (void)snprintf(value, sizeof value, "%s", given);
        break;
    }
    case SPC_CLI_CHOICE: {
        const char *word = o->value;

        if (*(const int32_t *)field < 0) break; /* there is no default */
        for (int32_t i = 0; i < *(const int32_t *)field; i++) word += strcspn(word, "|") + 1;
        (void)snprintf(value, sizeof value, "%.*s", (int)strcspn(word, "|"), word);
        break;
    }
    case SPC_CLI_FLAG:
    case SPC_CLI_LIST: break;
    }
    text[0] = '\0';
    if (!range[0] && !value[0]) return;
    (void)snprintf(text, bytes, " (%s%s%s%s)", range, range[0] && value[0] ? "; " : "",
                   value[0] ? "default " : "", value);
}

static void help_option(const spc_cli_option *o, const char *args)
{
    char left[HELP_COLUMN * 3], tail[256];
    int width = snprintf(left, sizeof left, "  %s%s%s%s", dashes(o), o->name, o->value ? " " : "",
                         o->value ? o->value : "");
    const char *help = o->help;

    help_default(o, args, tail, sizeof tail);
    spc_cli_print("%-*s", HELP_COLUMN, left);
    if (width >= HELP_COLUMN) spc_cli_print("\n%-*s", HELP_COLUMN, "");
    while (strchr(help, '\n')) {
        size_t line = strcspn(help, "\n");

        spc_cli_print("%.*s\n%-*s", (int)line, help, HELP_COLUMN, "");
        help += line + 1;
    }
    spc_cli_print("%s%s%s\n", help, tail, o->kind == SPC_CLI_LIST ? "; may be repeated" : "");
}

void spc_cli_help(const spc_cli_command *c)
{
    char *args = calloc(1, c->bytes);

    if (!args) return;
    c->init(args);
    spc_cli_print("spc %s [options]%s%s\n\n%s.\n", c->name, c->words[0] ? " " : "", c->words,
                  c->summary);
    if (c->about[0]) spc_cli_print("%s\n", c->about);
    spc_cli_print("\noptions:\n");
    for (int32_t i = 0; i < c->option_count; i++) help_option(&c->option[i], args);
    spc_cli_print("%-*s%s\n", HELP_COLUMN, "  --help", "this text");
    free(args);
}
