/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli.c - the program as a whole: its help, its commands, output that cannot be written.
 */
#include <spc/spc.h>

#include "rules/rule.h"

#include "spawn.h"

#include <criterion/criterion.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

/* ---- help -------------------------------------------------------------------------------------
 */

enum { FLAG = '!' }; /* marks options without a value */

static const struct {
    const char *name;
    const char *option[64];
} commands[] = {
    {"run",
     {"verifier",
      "drafter",
      "rule",
      "operating-point",
      "max-relative-latency",
      "min-quality",
      "gamma",
      "temperature",
      "top-k",
      "top-p",
      "min-p",
      "seed",
      "max-tokens",
      "min-tokens",
      "repetition-penalty",
      "presence-penalty",
      "frequency-penalty",
      "logit-bias",
      "stop",
      "!ignore-stop",
      "verify",
      "bonus",
      "!no-nucleus",
      "to",
      "input",
      "chat-template",
      "batch",
      "context",
      "device",
      "drafter-device",
      "drafter-vocab",
      "tp",
      "drafter-tp",
      "rank",
      "world",
      "meet",
      "ranks-from",
      "rank-timeout",
      "threads",
      "isa",
      "weights",
      "kv",
      "!fast-prefill",
      "kernels",
      "overlap",
      "!plain-launches",
      "kv-tokens",
      "!no-prefix-reuse",
      "prefill-rows",
      "!json",
      "!stream",
      "!details",
      "logprobs",
      "!keep-going",
      "!quiet"}},
    {"chat",
     {"system",
      "chat-template",
      "verifier",
      "drafter",
      "rule",
      "operating-point",
      "max-relative-latency",
      "min-quality",
      "gamma",
      "temperature",
      "top-k",
      "top-p",
      "min-p",
      "seed",
      "max-tokens",
      "min-tokens",
      "repetition-penalty",
      "presence-penalty",
      "frequency-penalty",
      "logit-bias",
      "stop",
      "!ignore-stop",
      "verify",
      "bonus",
      "!no-nucleus",
      "input",
      "context",
      "device",
      "drafter-device",
      "drafter-vocab",
      "tp",
      "drafter-tp",
      "rank",
      "world",
      "meet",
      "ranks-from",
      "rank-timeout",
      "threads",
      "isa",
      "weights",
      "kv",
      "!fast-prefill",
      "kernels",
      "overlap",
      "!plain-launches",
      "!json",
      "logprobs",
      "!keep-going",
      "!stats",
      "!quiet"}},
    {"demo", {"gamma", "device", "threads", "isa"}},
    {"info",
     {"context", "batch", "kv-tokens", "device", "drafter", "drafter-device", "drafter-vocab",
      "weights", "kv", "!plan", "!json"}},
    {"logits",
     {"model", "source", "ids", "output", "device", "threads", "isa", "weights", "kv", "rank",
      "world", "meet", "ranks-from", "rank-timeout"}},
    {"rules", {NULL}},
    {"tokenize", {"!special", "!decode"}},
    {"tune-kernels",
     {"verifier", "drafter", "drafter-vocab", "device", "weights", "!fast-prefill", "output"}},
};

static int32_t count_of(const char *text, const char *part)
{
    int32_t count = 0;

    for (; (text = strstr(text, part)); text++) count++;
    return count;
}

Test(host_cli, help_of_a_command_lists_its_options_and_no_others)
{
    for (int32_t c = 0; c < COUNT(commands); c++) {
        char *help = OUTPUT(NULL, commands[c].name, "--help");
        char *short_help = OUTPUT(NULL, commands[c].name, "-h");
        char *help_on = OUTPUT(NULL, "help", commands[c].name);
        int32_t options = 0;

        for (; commands[c].option[options]; options++) {
            const char *name = commands[c].option[options];
            char line[64];

            (void)snprintf(line, sizeof line, "\n  --%s ", name + (name[0] == FLAG));
            cr_expect_eq(count_of(help, line), 1, "spc %s: --%s", commands[c].name, name);
        }
        cr_expect_eq(count_of(help, "\n  --"), options + 1, "and --help itself: %s", help);
        cr_expect_str_eq(help, short_help);
        cr_expect_str_eq(help, help_on);
        cr_expect_null(strstr(help, "default -"), "a default that is no value: %s", help);
        cr_expect(strstr(help, commands[c].name));
        free(help);
        free(help_on);
        free(short_help);
    }
}

Test(host_cli, an_option_that_takes_a_value_needs_one_and_a_flag_takes_none)
{
    for (int32_t c = 0; c < COUNT(commands); c++) {
        for (int32_t i = 0; commands[c].option[i]; i++) {
            const char *name = commands[c].option[i];
            bool flag = name[0] == FLAG;
            char option[64], word[64];

            (void)snprintf(option, sizeof option, "--%s%s", name + flag, flag ? "=1" : "");
            (void)snprintf(word, sizeof word, "--%s%s", name + flag,
                           flag ? " takes no value" : ": expected ");
            FAILURE(2, word, commands[c].name, option);
        }
    }
}

/* Is the name a word of what run --help says of --rule? */
static bool in_help_of_rule(const char *help, const char *name)
{
    const char *at = strstr(help, "\n  --rule "), *end = at ? strstr(at + 1, "\n  --") : NULL;

    while (end && (at = strstr(at + 1, name)) != NULL && at < end) {
        if (at[-1] == ' ' && strchr(" ,;.", at[strlen(name)])) return true;
    }
    return false;
}

Test(host_cli, rules_are_listed_with_their_keys)
{
    char *all = OUTPUT(NULL, "rules"), *some = OUTPUT(NULL, "rules", "truncate", "fuzzy:alpha=1");
    char *help = OUTPUT(NULL, "run", "--help");

    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        const char *name = spc_rule_name((spc_rule_kind)kind);
        spc_rule_key key[SPC_RULE_KEYS_MAX];
        int32_t count = spc_rule_list_keys((spc_rule_kind)kind, key);
        char line[64];

        (void)snprintf(line, sizeof line, "\n  %s ", name);
        cr_expect_eq(count_of(all, line), 1 + (strcmp(name, "truncate") == 0), "%s", name);
        cr_expect(in_help_of_rule(help, name), "run --help: --rule does not name %s", name);
        for (int32_t i = 0; i < count; i++) {
            (void)snprintf(line, sizeof line, "%s%s %s", i > 0 ? "; " : " ", key[i].name,
                           key[i].values);
            cr_expect(strstr(all, line), "%s:%s", name, line);
            (void)snprintf(line, sizeof line, "\n  %s ", key[i].name); /* what it means */
            cr_expect_eq(count_of(all, line), key[i].standard != NULL, "%s", line);
        }
    }
    cr_expect(!strstr(all, "(null)"));
    cr_expect(strstr(some, "top-p above 0") && strstr(some, "div js or kl (default js)"), "%s",
              some);
    cr_expect(!strstr(some, "strict ") && !strstr(some, "gate"), "and no others: %s", some);
    FAILURE(2, "unknown rule 'chows'; known: strict", "rules", "chows:alpha=1");
    free(help);
    free(all);
    free(some);
}

Test(host_cli, help_behind_other_arguments_is_help)
{
    char *help = OUTPUT(NULL, "run", "--help");
    char *late = OUTPUT(NULL, "run", "--gamma", "3", "text", "--help", "--no-such-option");

    cr_expect_str_eq(late, help);
    free(help);
    free(late);
}

Test(host_cli, the_program_names_its_commands_and_its_version)
{
    char *help = OUTPUT(NULL, "--help"), *short_help = OUTPUT(NULL, "-h");
    char *word = OUTPUT(NULL, "help"), *version = OUTPUT(NULL, "--version"), expected[64];

    for (int32_t c = 0; c < COUNT(commands); c++) {
        char line[64];

        (void)snprintf(line, sizeof line, "\n  %-10s", commands[c].name);
        cr_expect_eq(count_of(help, line), 1, "%s", commands[c].name);
    }
    cr_expect_str_eq(help, short_help);
    (void)snprintf(expected, sizeof expected, "spc %d.%d.%d\n", SPC_VERSION_MAJOR,
                   SPC_VERSION_MINOR, SPC_VERSION_PATCH);
    cr_expect_str_eq(version, expected);
    cr_expect_str_eq(help, word);
    free(word);
    free(help);
    free(short_help);
    free(version);
}

/* ---- output that cannot be written ------------------------------------------------------------
 */

Test(host_cli, output_that_cannot_be_written_is_exit_6)
{
    static const char *const table[][8] = {
        {"run", "--quiet", "--to", "de", "Hello."},
        {"run", "--quiet", "--to", "de", "--json", "Hello."},
        {"run", "--quiet", "--to", "de", "--stream", "Hello."},
        {"run", "--help"},
        {"demo"},
        {"info", "embedded:verifier", "--plan"},
        {"info", "embedded:verifier", "--json"},
        {"tokenize", "embedded:verifier"},
        {"--help"},
        {"--version"},
    };
    static const spawn_options ways[] = {{.in = "text", .out_path = "/dev/full"},
                                         {.in = "text", .out_closed = true},
                                         {.in = "text", .out_closed = true, .in_closed = true}};

    for (int32_t i = 0; i < COUNT(table); i++) {
        for (int32_t way = 0; way < COUNT(ways); way++) {
            spawn_result r = spawn(table[i], &ways[way]);

            cr_expect_eq(r.code, 6, "%s, way %d: exit code %d", table[i][0], (int)way, r.code);
            spawn_one_line(r.err, table[i][0]);
            cr_expect(strstr(r.err, "stdout"), "%s", r.err);
            spawn_free(&r);
        }
    }
}

Test(host_cli, an_error_is_told_once_when_output_fails_too)
{
    static const char *const args[] = {"run", "--quiet", "--batch", "2", "--input", "-", NULL};
    spawn_options o = {.in = "{\"prompt\":\"Hello.\"}\nno JSON\n", .out_path = "/dev/full"};
    spawn_result r = spawn(args, &o);

    cr_expect_eq(r.code, 6);
    spawn_one_line(r.err, "run");
    cr_expect(strstr(r.err, "line 2"), "%s", r.err);
    spawn_free(&r);
}

Test(host_cli, without_stdin_there_is_no_prompt)
{
    static const char *const args[] = {"run", NULL};
    spawn_result r = spawn(args, &(const spawn_options){.in_closed = true});

    cr_expect_eq(r.code, 6);
    spawn_one_line(r.err, "run");
    spawn_free(&r);
}
