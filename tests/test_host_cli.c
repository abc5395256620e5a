/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli.c - the program as a whole: its help, one line and one exit code for everything
 * that can go wrong, output that cannot be written, Ctrl-C. */
#include <spc/spc.h>

#include "rules/rule.h"

#include "folder.h"
#include "spawn.h"

#include <inttypes.h>
#include <signal.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define TINY         SPC_TEST_VECTORS "/llama"

/* ---- help -------------------------------------------------------------------------------------
 */

enum { FLAG = '!' }; /* marks options without a value */

static const struct {
    const char *name;
    const char *option[48];
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
      "!keep-going",
      "!quiet"}},
    {"demo", {"gamma", "device", "threads", "isa"}},
    {"info",
     {"context", "batch", "kv-tokens", "device", "drafter", "drafter-device", "weights", "kv",
      "!plan", "!json"}},
    {"logits",
     {"model", "source", "ids", "output", "device", "threads", "isa", "weights", "kv", "rank",
      "world", "meet", "ranks-from", "rank-timeout"}},
    {"rules", {NULL}},
    {"tokenize", {"!special", "!decode"}},
    {"tune-kernels", {"verifier", "drafter", "device", "weights", "!fast-prefill", "output"}},
};

static void expect_one_line(const char *err, const char *what)
{
    cr_expect(strncmp(err, "spc: ", 5) == 0 && count_lines(err) == 1 &&
                  err[strlen(err) - 1] == '\n',
              "%s: %s", what, err);
}

#define FAILURE(code, word, ...) \
    spawn_failure((const char *const[]){__VA_ARGS__, NULL}, NULL, (code), (word))

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

Test(host_cli, rules_are_listed_with_their_keys)
{
    char *all = OUTPUT(NULL, "rules"), *some = OUTPUT(NULL, "rules", "truncate", "fuzzy:alpha=1");

    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        const char *name = spc_rule_name((spc_rule_kind)kind);
        spc_rule_key key[SPC_RULE_KEYS_MAX];
        int32_t count = spc_rule_list_keys((spc_rule_kind)kind, key);
        char line[64];

        (void)snprintf(line, sizeof line, "\n  %s ", name);
        cr_expect_eq(count_of(all, line), 1 + (strcmp(name, "truncate") == 0), "%s", name);
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

/* ---- errors -----------------------------------------------------------------------------------
 */

Test(host_cli, wrong_usage_is_exit_2_and_says_what_is_wrong)
{
    static const spawn_refusal table[] = {
        {2, "expected a command", NULL, {NULL}},
        {2,
         "unknown command 'walk'; known: run, chat, demo, info, rules, launch, logits, tokenize, "
         "tune, tune-kernels",
         NULL,
         {"walk"}},
        {2, "unknown command ''", NULL, {""}},
        {2, "'run'", NULL, {"--help", "run"}},
        {2, "'x' behind --version", NULL, {"--version", "x"}},
        {2, "'x' behind help", NULL, {"help", "run", "x"}},
        {2, "unknown command 'walk'", NULL, {"help", "walk"}},
        {2, "unknown command 'rnu' (did you mean run?); known: ", NULL, {"rnu", "x"}},
        {2, "did you mean chat?", NULL, {"help", "cat"}},
        {2, "did you mean tokenize?", NULL, {"tokenise"}},
        {2, "--temp (did you mean --temperature?); see spc run", NULL, {"run", "--temp", "1", "x"}},
        {2, "--tempreature (did you mean --temperature?)", NULL, {"run", "--tempreature=1", "x"}},
        {2, "-gamma (did you mean --gamma?)", NULL, {"run", "-gamma", "3", "x"}},
        {2, "unknown option --frob; see spc run --help", NULL, {"run", "--frob", "x"}},
        {2, "unknown option -n2; see", NULL, {"run", "-n2", "x"}},
        {2, "-n: expected a whole number of 1 to ", NULL, {"launch", "-nx", "run", "x"}},
        {2, "--output is missing: give the file", NULL, {"tune-kernels"}},
        {2, "unknown option --frob", NULL, {"run", "--frob=3", "x"}},
        {2, "unknown option --gam", NULL, {"run", "--gam", "3", "x"}},
        {2, "unknown option -g", NULL, {"run", "-g", "3", "x"}},
        {2, "unknown option --json", NULL, {"tokenize", "--json", "embedded:verifier"}},
        {2, "--gamma: expected N, found nothing", NULL, {"run", "x", "--gamma"}},
        {2, "--gamma is given twice", NULL, {"run", "--gamma", "3", "--gamma=3", "x"}},
        {2, "--json is given twice", NULL, {"run", "--json", "--json", "x"}},
        {2, "expected MODEL", NULL, {"info"}},
        {2, "expected MODEL", NULL, {"tokenize", "--decode"}},
        {2, "unexpected argument 'b'", NULL, {"info", "a", "b"}},
        {2, "unexpected argument 'x'", NULL, {"demo", "x"}},
        {2, "unexpected argument 'x'", NULL, {"logits", "x"}},
        {2, "--model is missing", NULL, {"logits", "--ids", "1", "--output", "x"}},
        {2, "--ids is missing", NULL, {"logits", "--model", TINY, "--output", "x"}},
        {2, "--output is missing", NULL, {"logits", "--model", TINY, "--ids", "1"}},
        {2, "--stream and --json", NULL, {"run", "--stream", "--json", "x"}},
        {2, "--batch", NULL, {"run", "--stream", "--batch", "2", "x"}},
        {2, "--input", NULL, {"run", "--input", "-", "x"}},
        {2,
         "--drafter none: rule strict needs a drafter: name one, or leave --rule out",
         NULL,
         {"run", "--verifier", "no/model", "--drafter", "none", "--rule", "strict", "x"}},
        {2,
         "--verifier no/model: its drafter is missing: give --drafter MODEL, or --drafter none",
         NULL,
         {"run", "--verifier", "no/model", "x"}},
        {2,
         "--overlap on: with --drafter-device only --bonus step",
         NULL,
         {"run", "--drafter-device", "cpu", "--overlap", "on", "x"}},
        {2, "--to", "{\"prompt\":\"x\"}", {"run", "--quiet", "--to", "it", "--input", "-"}},
        {2, "spc: --context: expected 0", NULL, {"run", "--context", "513", "x"}},
        {2, "spc: --context: expected 0", NULL, {"run", "--context", "1", "x"}},
        {2, "spc: --device: expected auto, cpu", NULL, {"run", "--device", "q8", "x"}},
        {2, "spc: --kv: expected f32, bf16 or f16, found 'q8'", NULL, {"run", "--kv", "q8", "x"}},
        {2, "spc: --kv: expected f32", NULL, {"info", "--kv", "q8", "embedded:drafter"}},
        {2, "spc: --weights: expected int8", NULL, {"run", "--weights", "q8", "x"}},
        {2, "--context: expected 2 to 512", NULL, {"info", "--context", "513", "embedded:drafter"}},
        {2, "spc: --isa: expected one of", NULL, {"run", "--isa", "abacus", "x"}},
        {2, "portable", NULL, {"demo", "--isa", "abacus"}},
        {2,
         "--stop: expected some text, found ''",
         NULL,
         {"run", "--stop", "a", "--stop", "", "--verifier", "no/model", "--drafter", "none"}},
        {2,
         "rule lossy-greedy needs temperature 0",
         NULL,
         {"run", "--rule", "lossy-greedy:alpha=0.1", "--verifier", "no/model", "--drafter",
          "no/model"}},
    };

    spawn_failures(table, COUNT(table));
}

Test(host_cli, a_value_out_of_range_is_exit_2_and_says_what_was_expected)
{
    static const struct {
        const char *command, *option, *value, *word;
    } table[] = {
        {"run", "--gamma", "17", "0 to 16 or auto, found '17'"},
        {"run", "--gamma", "-1", "0 to 16 or auto, found '-1'"},
        {"run", "--gamma", "3.5", "whole number"},
        {"run", "--gamma", "aut", "or auto, found 'aut'"},
        {"run", "--gamma", "3x", "whole number"},
        {"run", "--gamma", " 3", "whole number"},
        {"run", "--gamma", "", "whole number"},
        {"run", "--gamma", "99999999999999999999", "whole number"},
        {"run", "--temperature", "-0.1", "0 (greedy) or 0.0001 to 100, found -0.1"},
        {"run", "--temperature", "100.1", "0.0001 to 100"},
        {"run", "--temperature", "1e-300", "0.0001 to 100, found 1e-300"},
        {"run", "--temperature", "nan", "number"},
        {"run", "--temperature", "inf", "number"},
        {"run", "--temperature", "1e999", "number"},
        {"run", "--temperature", "0x1", "number"},
        {"run", "--temperature", "", "number"},
        {"run", "--temperature", "0.00009999999999", "0.0001 to 100"},
        {"run", "--top-k", "-1", "0 to"},
        {"run", "--top-p", "1.1", "--top-p: expected above 0 and at most 1, found 1.1"},
        {"run", "--top-p", "0", "--top-p: expected above 0"},
        {"run", "--min-p", "1.1", "0 to 1"},
        {"run", "--seed", "-1", "2^63 - 1"},
        {"run", "--seed", "9223372036854775808", "2^63 - 1"},
        {"run", "--max-tokens", "-1", "whole number"},
        {"run", "--max-tokens", "2147483648", "whole number"},
        {"run", "--verify", "both", "token|block, found 'both'"},
        {"run", "--verify", "", "token|block, found ''"},
        {"run", "--verify", "token|block", "token|block"},
        {"run", "--bonus", "targe", "target|verifier|step"},
        {"run", "--to", "DE", "de|es|fr"},
        {"run", "--batch", "0", "1 to 4096"},
        {"run", "--threads", "257", "0 to 256"},
        {"demo", "--threads", "257", "0 to 256"},
        {"logits", "--threads", "257", "0 to 256"},
        {"demo", "--gamma", "0", "1 to 16"},
        {"info", "--batch", "0", "1 to 4096"},
        {"run", "--rule", "guess", "known: strict, lossy, chow, diff, opt, chow-log"},
        {"run", "--rule", "", "known: strict"},
        {"run", "--rule", "chow", "needs alpha"},
        {"run", "--rule", "chow:alpha=2", "alpha"},
        {"run", "--rule", "token-v3:alpha=x", "alpha"},
        {"run", "--rule", "token-v3:beta=0.5", "beta"},
        {"run", "--rule", "strict:alpha=1", "alpha"},
    };

    for (int32_t i = 0; i < COUNT(table); i++) {
        FAILURE(2, table[i].word, table[i].command, table[i].option, table[i].value, "--",
                "embedded:verifier");
    }
}

Test(host_cli, an_unusable_model_is_exit_3_and_is_named)
{
    static const spawn_refusal table[] = {
        {3,
         "no/such/folder",
         NULL,
         {"run", "--verifier", "no/such/folder", "--drafter", "none", "x"}},
        {3, "no/such/folder", NULL, {"run", "--drafter", "no/such/folder", "x"}},
        {3, "no/such/folder", NULL, {"info", "no/such/folder"}},
        {3, "no/such/folder", NULL, {"tokenize", "no/such/folder"}},
        {3,
         "no/such/folder",
         NULL,
         {"logits", "--model", "no/such/folder", "--ids", "1", "--output", "no/such/file"}},
        {3, "known: embedded:drafter, embedded:verifier", NULL, {"info", "embedded:judge"}},
        {3, "embedded:", NULL, {"run", "--verifier", "embedded:", "x"}},
        {3, "tokenizer.json", NULL, {"tokenize", TINY}},
        {3,
         "do not pair: vocab_size 6144 against 389",
         NULL,
         {"run", "--verifier", TINY, "--drafter", "embedded:drafter", "x"}},
        {3,
         "no tokenizer",
         NULL,
         {"run", "--quiet", "--verifier", TINY, "--drafter", TINY, "text"}},
        {3,
         "no tokenizer",
         NULL,
         {"run", "--quiet", "--verifier", TINY, "--drafter", TINY, "--to", "de", "text"}},
    };

    spawn_failures(table, COUNT(table));
}

#define INPUT                 \
    {                         \
        "run", "--input", "-" \
    }

Test(host_cli, bad_prompts_are_exit_6_and_their_line_is_named)
{
    static const spawn_refusal table[] = {
        {6, "stdin holds no prompt", NULL, {"run"}},
        {6, "no/such/file: cannot be opened", NULL, {"run", "--input", "no/such/file"}},
        {6, SPC_TEST_VECTORS, NULL, {"run", "--input", SPC_TEST_VECTORS}},
        {6, "prompt 1: empty prompt", NULL, {"run", ""}},
        {6, "line 1: empty prompt", "\n", {"run"}},
        {6, "line 1: text: expected UTF-8", "\xff\n", {"run"}},
        {6, "line 1: not JSON", "hello\n", {"run", "--input", "-"}},
        {6, "line 2: not JSON", "\n{\n", {"run", "--input", "-"}},
        {6, "line 1: not JSON", "{\"prompt\":\"a\",\"prompt\":\"b\"}", {"run", "--input", "-"}},
        {6, "line 1: not JSON", "{\"prompt\":\"a\\u0000b\"}", {"run", "--input", "-"}},
        {6, "either \"prompt\" or \"ids\"", "{}", {"run", "--input", "-"}},
        {6, "either \"prompt\" or \"ids\"", "[\"prompt\"]", {"run", "--input", "-"}},
        {6, "either", "{\"prompt\":\"a\",\"ids\":[1]}", {"run", "--input", "-"}},
        {6, "\"prompt\" is not a string", "{\"prompt\":7}", {"run", "--input", "-"}},
        {6,
         "stdin: line 1: unknown key \"max-tokens\"; known: prompt, ids, messages, id, max_tokens, "
         "seed, temperature, stop\n",
         "{\"prompt\":\"a\",\"max-tokens\":3}",
         {"run", "--input", "-"}},
        {6, "\"max_tokens\": expected a whole", "{\"prompt\":\"a\",\"max_tokens\":-1}", INPUT},
        {6, "0 to 2^31 - 1", "{\"prompt\":\"a\",\"max_tokens\":2147483648}", INPUT},
        {6, "\"max_tokens\"", "{\"prompt\":\"a\",\"max_tokens\":null}", INPUT},
        {6, "\"seed\": expected a whole", "{\"prompt\":\"a\",\"seed\":1.5}", INPUT},
        {6, "\"temperature\": expected 0", "{\"prompt\":\"a\",\"temperature\":1e-5}", INPUT},
        {6, "\"temperature\": expected 0", "{\"prompt\":\"a\",\"temperature\":\"0\"}", INPUT},
        {6, "\"stop\": expected a text", "{\"prompt\":\"a\",\"stop\":\"\"}", INPUT},
        {6, "\"stop\": expected a text", "{\"prompt\":\"a\",\"stop\":[\"a\",1]}", INPUT},
        {6,
         "line 1: rule lossy-greedy needs temperature 0",
         "{\"prompt\":\"a\",\"temperature\":1}",
         {"run", "--quiet", "--rule", "lossy-greedy:alpha=0.1", "--temperature", "0", "--input",
          "-"}},
        {6, "either", "{\"messages\":[],\"ids\":[1]}", INPUT},
        {6, "\"messages\": expected an array", "{\"messages\":[]}", INPUT},
        {6, "\"messages\": expected an array", "{\"messages\":\"a\"}", INPUT},
        {6, "line 1: message 2: expected {\"role\"",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":"
         "\"b\"}]}",
         INPUT},
        {6, "message 1: expected", "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", INPUT},
        {6, "message 1: expected",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":\"b\"}]}", INPUT},
        {6,
         "\"messages\" and --to",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
         {"run", "--quiet", "--to", "de", "--input", "-"}},
        {3, "embedded:verifier", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", INPUT},
        {2, "--chat-template: expected one of", NULL, {"run", "--chat-template", "none", "x"}},
        {6, "array of ids", "{\"ids\":7}", {"run", "--input", "-"}},
        {6, "empty prompt", "{\"ids\":[]}", {"run", "--input", "-"}},
        {6, "id 1: expected a whole number", "{\"ids\":[1,-1]}", {"run", "--input", "-"}},
        {6, "id 1: expected a whole number", "{\"ids\":[1,1.5]}", {"run", "--input", "-"}},
        {6, "id 0: expected a whole number", "{\"ids\":[\"1\"]}", {"run", "--input", "-"}},
        {6, "id 0: expected a whole number", "{\"ids\":[2147483648]}", {"run", "--input", "-"}},
        {6, "0 to 6143, found 6144", "{\"ids\":[1,6144]}", {"run", "--input", "-"}},
        {6,
         "no room in a context of 3",
         "{\"ids\":[1,4,3]}",
         {"run", "--context", "3", "--input", "-"}},
    };

    spawn_failures(table, COUNT(table));
}

/* What a terminal has cut is not taken for what was typed; one byte less is. */
Test(host_cli, a_line_that_a_terminal_cuts_is_exit_6)
{
    enum { LINE = 4095 };
    static const struct {
        const char *args[4];
        const char *word;
    } table[] = {{{"run", "--quiet"}, "stdin: line 2: a terminal drops what is beyond 4095 bytes"},
                 {{"tokenize", "embedded:verifier"}, "stdin: a terminal drops"}};
    char text[2 * LINE];

    for (int32_t i = 0; i < COUNT(table); i++) {
        for (int32_t more = -1; more < 100; more += 50) {
            spawn_options o = {.in = text, .in_terminal = true};
            spawn_result r;

            (void)snprintf(text, sizeof text, "x\n%*s\n\4", LINE + more, "y");
            r = spawn(table[i].args, &o);
            cr_expect_eq(strstr(r.err, table[i].word) != NULL, more >= 0, "%d: %s", (int)more,
                         r.err);
            if (more >= 0) cr_expect_eq(r.code, 6);
            spawn_free(&r);
        }
    }
}

Test(host_cli, results_before_a_bad_line_are_printed)
{
    static const char *const batches[] = {"1", "2", "3", "8"};
    static const char text[] = "{\"prompt\":\"One.\",\"id\":\"a\"}\n{\"prompt\":\"Two.\"}\n"
                               "{\"prompt\":3}\n{\"prompt\":\"Four.\"}\n";

    for (int32_t i = 0; i < COUNT(batches); i++) {
        spawn_result r = SPAWN(text, "run", "--quiet", "--json", "--to", "de", "--batch",
                               batches[i], "--input", "-");
        json_t *lines = parse_lines(r.out);

        cr_expect_eq(r.code, 6);
        expect_one_line(r.err, batches[i]);
        cr_expect(strstr(r.err, "line 3"), "%s", r.err);
        cr_expect_eq(json_array_size(lines), 2, "batch %s: %s", batches[i], r.out);
        for (size_t k = 0; k < 2; k++) {
            const json_t *finish = json_object_get(json_array_get(lines, k), "finish");

            cr_expect_str_eq(json_string_value(finish), "stop-token", "brought to its end");
        }
        json_decref(lines);
        spawn_free(&r);
    }
}

/* A result for every line, whatever it holds. */
Test(host_cli, run_keeps_going_where_it_is_asked_to)
{
    static const char *const batches[] = {"1", "2", "8"};
    static const char *const errors[] = {"line 2: \"prompt\" is not a string",
                                         NULL,
                                         "line 4: not JSON",
                                         "line 5: not JSON: invalid Unicode",
                                         "line 6: prompt: its tokens (600)",
                                         NULL,
                                         "line 8: empty prompt"};
    char text[4096], *at = text;

    at += sprintf(at, "{\"prompt\":\"One.\",\"id\":\"a\"}\n{\"prompt\":3,\"id\":[7]}\n"
                      "{\"prompt\":\"Three.\"}\n\xff\n{\"prompt\":\"\\ud800\"}\n{\"ids\":[1");
    for (int32_t i = 1; i < 600; i++) at += sprintf(at, ",4");
    (void)sprintf(at, "]}\n{\"prompt\":\"Seven.\"}\n{\"ids\":[]}\n");
    for (int32_t i = 0; i < COUNT(batches); i++) {
        spawn_result r = SPAWN(text, "run", "--json", "--temperature", "0", "--max-tokens", "3",
                               "--keep-going", "--batch", batches[i], "--input", "-", "--quiet");
        json_t *lines = parse_lines(r.out), *alone;

        cr_expect_eq(r.code, 6);
        expect_one_line(r.err, batches[i]);
        cr_expect(strstr(r.err, "spc: 5 of 8 prompts could not be decoded"), "%s", r.err);
        cr_assert_eq(json_array_size(lines), 8, "%s", r.out);
        for (size_t k = 0; k < 8; k++) {
            const json_t *line = json_array_get(lines, k), *error = json_object_get(line, "error");

            cr_expect_eq(json_integer_value(json_object_get(line, "index")), (json_int_t)k);
            cr_expect_eq(error != NULL, k > 0 && errors[k - 1] != NULL, "%d: %s", (int)k, r.out);
            if (!error) continue;
            cr_expect(errors[k - 1] && strstr(json_string_value(error), errors[k - 1]), "%s",
                      json_string_value(error));
        }
        cr_expect_eq(json_object_size(json_array_get(lines, 1)), 3);
        cr_expect(json_is_array(json_object_get(json_array_get(lines, 1), "id")));
        alone = JSON(NULL, "run", "--json", "--temperature", "0", "--max-tokens", "3", "Seven.");
        cr_expect(json_equal(json_object_get(json_array_get(lines, 6), "ids"),
                             json_object_get(json_array_get(alone, 0), "ids")));
        json_decref(alone);
        json_decref(lines);
        spawn_free(&r);
    }

    spawn_result r = SPAWN("One.\n\xff\nThree.\n", "run", "--to", "de", "--keep-going", "--quiet");

    cr_expect_eq(r.code, 6);
    cr_expect_eq(count_lines(r.out), 2, "%s", r.out);
    cr_expect_eq(count_lines(r.err), 2, "%s", r.err);
    cr_expect(strstr(r.err, "spc: stdin: line 2: text: expected UTF-8"), "%s", r.err);
    cr_expect(strstr(r.err, "spc: 1 of 3 prompts could not be decoded"), "%s", r.err);
    spawn_free(&r);
}

Test(host_cli, a_model_file_that_is_cut_is_exit_3)
{
    static const size_t lengths[] = {0, 4, 8, 100, 2000, 4096, 1000000, 1133967};
    folder f = folder_open();
    char output[FOLDER_PATH];

    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_path(&f, "logits", output);
    for (int32_t i = 0; i < COUNT(lengths); i++) {
        folder_copy(&f, TINY "/model.safetensors", "model.safetensors", lengths[i]);
        FAILURE(3, "model.safetensors", "info", f.path);
        FAILURE(3, "model.safetensors", "run", "--verifier", f.path, "--drafter", "none", "x");
        FAILURE(3, "model.safetensors", "logits", "--model", f.path, "--ids", "1", "--output",
                output);
    }
    cr_expect_eq(folder_count(&f), 2, "nothing is written for a broken model");
    folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
    free(OUTPUT(NULL, "info", f.path)); /* whole, it can be read */
    folder_close(&f);
}

Test(host_cli, a_config_that_is_wrong_is_exit_3_and_its_key_is_named)
{
    static const struct {
        const char *key, *value, *word;
    } table[] = {{"architectures", "[\"MambaForCausalLM\"]", "known: LlamaForCausalLM"},
                 {"hidden_act", "\"gelu\"", "hidden_act"},
                 {"vocab_size", "390", "model.embed_tokens.weight"},
                 {"num_hidden_layers", "4", "model.layers.3"},
                 {"num_key_value_heads", "3", "num_key_value_heads"},
                 {"hidden_size", "\"96\"", "hidden_size"}};

    for (int32_t i = 0; i < COUNT(table); i++) {
        folder f = folder_open();
        json_t *config = read_json(TINY "/config.json");
        json_t *value = json_loads(table[i].value, JSON_DECODE_ANY, NULL);

        cr_assert_eq(json_object_set_new(config, table[i].key, value), 0);
        char *text = json_dumps(config, 0);
        folder_write(&f, "config.json", text, strlen(text));
        folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
        FAILURE(3, table[i].word, "run", "--verifier", f.path, "--drafter", "none", "--rule",
                "verifier-only", "x");
        free(text);
        json_decref(config);
        folder_close(&f);
    }
}

Test(host_cli, too_little_memory_is_exit_5)
{
    static const struct {
        const char *args[8], *word; /* NULL: it is enough */
    } table[] = {{{"run", "--quiet", "--threads", "1", "x"}, NULL},
                 {{"run", "--threads", "1", "--batch", "512", "x"}, "memory"}, /* KV: 3 GiB */
                 {{"run", "--threads", "256", "x"}, "lower threads"}};         /* stacks: 2 GiB */
    spawn_options o = {.address_space = (uint64_t)400 << 20};

    if (SPAWN_SANITISED) cr_skip_test("AddressSanitizer maps terabytes");
    for (int32_t i = 0; i < COUNT(table); i++) {
        spawn_result r = spawn(table[i].args, &o);

        cr_expect_eq(r.code, table[i].word ? 5 : 0, "exit code %d: %s", r.code, r.err);
        if (table[i].word) {
            expect_one_line(r.err, table[i].word);
            cr_expect(strstr(r.err, table[i].word), "%s", r.err);
        }
        spawn_free(&r);
    }
}

/* A file of 1 GiB, of which nothing takes room on the disk. */
Test(host_cli, a_model_file_larger_than_may_be_mapped_is_exit_5)
{
    spawn_options o = {.address_space = (uint64_t)400 << 20};
    folder f = folder_open();
    char path[FOLDER_PATH];

    if (SPAWN_SANITISED) cr_skip_test("AddressSanitizer maps terabytes");
    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_copy(&f, TINY "/model.safetensors", "model.safetensors", SIZE_MAX);
    folder_path(&f, "model.safetensors", path);
    cr_assert_eq(truncate(path, (off_t)1 << 30), 0);

    spawn_result r = spawn((const char *const[]){"info", f.path, NULL}, &o);

    cr_expect_eq(r.code, 5, "exit code %d: %s", r.code, r.err);
    expect_one_line(r.err, "one line");
    cr_expect(strstr(r.err, "/model.safetensors: 1024 MiB cannot be mapped: "), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
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
            expect_one_line(r.err, table[i][0]);
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
    expect_one_line(r.err, "run");
    cr_expect(strstr(r.err, "line 2"), "%s", r.err);
    spawn_free(&r);
}

Test(host_cli, without_stdin_there_is_no_prompt)
{
    static const char *const args[] = {"run", NULL};
    spawn_result r = spawn(args, &(const spawn_options){.in_closed = true});

    cr_expect_eq(r.code, 6);
    expect_one_line(r.err, "run");
    spawn_free(&r);
}

/* ---- Ctrl-C -----------------------------------------------------------------------------------
 */

/* Many prompts, one a line; malloc'd. */
static char *many_lines(int32_t count)
{
    static const char line[] = "The children are playing in the garden.\n";
    char *text = malloc((size_t)count * (sizeof line - 1) + 1);

    cr_assert_not_null(text);
    for (int32_t i = 0; i < count; i++)
        memcpy(text + (size_t)i * (sizeof line - 1), line, sizeof line);
    return text;
}

/* Results in order; all but those that were running (at most `batch`) are whole. */
static void expect_results_so_far(const char *out, int32_t batch)
{
    json_t *lines = parse_lines(out), *line;
    size_t i, count = json_array_size(lines);

    cr_assert_geq(count, 2);
    cr_expect_lt(count, 3000);
    json_array_foreach(lines, i, line)
    {
        bool running = i + (size_t)batch >= count;
        const char *finish = json_string_value(json_object_get(line, "finish"));

        cr_expect_eq(json_integer_value(json_object_get(line, "index")), (json_int_t)i);
        cr_expect(strcmp(finish, "max-tokens") == 0 ||
                      (running && strcmp(finish, "cancelled") == 0),
                  "%d of %d: %s", (int)i, (int)count, finish);
    }
    json_decref(lines);
}

Test(host_cli, ctrl_c_ends_a_run_with_the_results_so_far)
{
    static const char *const batches[] = {"1", "3"};
    char *text = many_lines(3000);

    for (int32_t b = 0; b < COUNT(batches); b++) {
        const char *const args[] = {"run",          "--json",  "--quiet",  "--to",
                                    "de",           "--batch", batches[b], "--ignore-stop",
                                    "--max-tokens", "300",     NULL};
        spawn_options o = {.in = text, .interrupt_after = 2};
        spawn_result r = spawn(args, &o);

        cr_expect_eq(r.code, 130, "exit code %d: %s", r.code, r.err);
        cr_expect_eq(r.err_bytes, 0, "%s", r.err);
        expect_results_so_far(r.out, atoi(batches[b]));
        spawn_free(&r);
    }
    free(text);
}

Test(host_cli, ctrl_c_ends_a_run_that_waits_for_its_next_line)
{
    static const char *const args[] = {"run", "--quiet", "--to", "de", NULL};
    static const int signals[] = {SIGINT, SIGTERM};

    for (int32_t i = 0; i < COUNT(signals); i++) {
        spawn_options o = {
            .in = "Hello.\n", .in_held = true, .interrupt_after = 1, .signal = signals[i]};
        spawn_result r = spawn(args, &o);

        cr_expect_eq(r.code, 128 + signals[i], "exit code %d: %s", r.code, r.err);
        cr_expect_eq(r.err_bytes, 0, "%s", r.err);
        cr_expect_eq(count_lines(r.out), 1, "%s", r.out);
        spawn_free(&r);
    }
}

/* The program is in the middle of writing to a reader that is slow. */
Test(host_cli, a_signal_tears_no_line)
{
    static const char *const args[] = {"run",           "--json",       "--to", "de",
                                       "--ignore-stop", "--max-tokens", "20",   NULL};
    static const int signals[] = {SIGINT, SIGTERM};
    char *text = many_lines(3000);

    for (int32_t i = 0; i < COUNT(signals); i++) {
        spawn_options o = {.in = text, .clogged = true, .interrupt_after = 2, .signal = signals[i]};
        spawn_result r = spawn(args, &o);

        cr_expect_eq(r.code, 128 + signals[i], "exit code %d: %s", r.code, r.err);
        cr_expect(strstr(r.err, " tokens per verifier call"), "with the statistics: %s", r.err);
        expect_results_so_far(r.out, 1);
        spawn_free(&r);
    }
    free(text);
}
