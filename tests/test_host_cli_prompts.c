/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_prompts.c - prompts that cannot be read or decoded: which line it is, and what
 * becomes of the others. */
#include "spawn.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

#define INPUT                 \
    {                         \
        "run", "--input", "-" \
    }

Test(host_cli_prompts, bad_prompts_are_exit_6_and_their_line_is_named)
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
        {6, "either \"prompt\" or \"ids\"", "{\"prompt\":null}", {"run", "--input", "-"}},
        {6, "either \"prompt\" or \"ids\"", "{}", {"run", "--input", "-"}},
        {6, "either \"prompt\" or \"ids\"", "[\"prompt\"]", {"run", "--input", "-"}},
        {6, "either", "{\"prompt\":\"a\",\"ids\":[1]}", {"run", "--input", "-"}},
        {6, "\"prompt\" is not a string", "{\"prompt\":7}", {"run", "--input", "-"}},
        {6,
         "stdin: line 1: unknown key \"max-tokens\"; known: prompt, ids, messages, id, max_tokens, "
         "seed, temperature, stop, top_k, top_p, min_p, min_tokens, repetition_penalty, "
         "presence_penalty, frequency_penalty, logit_bias, logprobs\n",
         "{\"prompt\":\"a\",\"max-tokens\":3}",
         {"run", "--input", "-"}},
        {6, "\"max_tokens\": expected a whole", "{\"prompt\":\"a\",\"max_tokens\":-1}", INPUT},
        {6, "0 to 2^31 - 1", "{\"prompt\":\"a\",\"max_tokens\":2147483648}", INPUT},
        {6, "\"max_tokens\"", "{\"prompt\":\"a\",\"max_tokens\":false}", INPUT},
        {6, "\"stop\": expected a text", "{\"prompt\":\"a\",\"stop\":[null]}", INPUT},
        {6, "\"stop\": expected a text", "{\"prompt\":\"a\",\"stop\":\"b\\u0000\"}", INPUT},
        {6, "message 1: expected {\"role\"",
         "{\"messages\":[{\"role\":\"user\\u0000\",\"content\":\"a\"}]}", INPUT},
        {6, "line 1: top-p: expected above 0", "{\"prompt\":\"a\",\"top_p\":0}", INPUT},
        {6, "\"top_p\": expected a number", "{\"prompt\":\"a\",\"top_p\":\"1\"}", INPUT},
        {6, "line 1: presence-penalty: expected -100",
         "{\"prompt\":\"a\",\"presence_penalty\":1e300}", INPUT},
        {6, "\"min_tokens\": expected a whole", "{\"prompt\":\"a\",\"min_tokens\":1.5}", INPUT},
        {6, "\"logit_bias\": expected {", "{\"prompt\":\"a\",\"logit_bias\":[1]}", INPUT},
        {6, "\"logit_bias\": expected {", "{\"prompt\":\"a\",\"logit_bias\":{\"a\":1}}", INPUT},
        {6, "\"logit_bias\": expected {", "{\"prompt\":\"a\",\"logit_bias\":{\"1\":\"inf\"}}",
         INPUT},
        {6, "numbers of -1e+30 to 1e+30", "{\"prompt\":\"a\",\"logit_bias\":{\"1\":-1e39}}", INPUT},
        {6, "numbers of -1e+30 to 1e+30", "{\"prompt\":\"a\",\"logit_bias\":{\"1\":2e30}}", INPUT},
        {6, "line 1: logit-bias: expected ids", "{\"prompt\":\"a\",\"logit_bias\":{\"6144\":1}}",
         INPUT},
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
        {6, "\"messages\": expected an array of one", "{\"messages\":[]}", INPUT},
        {6, "\"messages\": expected an array", "{\"messages\":\"a\"}", INPUT},
        {6, "line 1: message 2: expected {\"role\"",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":"
         "\"b\"}]}",
         INPUT},
        {6, "message 1: expected", "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", INPUT},
        {6, "message 1: expected", "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", INPUT},
        {6, "message 1: expected", "{\"messages\":[7]}", INPUT},
        {6, "message 1: \"name\": the chat templates have no place for it",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":\"b\"}]}", INPUT},
        {6, "message 1: part 2: expected the type \"text\", found \"image_url\"",
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
         "{\"type\":\"image_url\",\"image_url\":{\"url\":\"b\"}}]}]}",
         INPUT},
        {6, "message 1: part 1: expected {\"type\": \"text\"",
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", INPUT},
        {6, "message 1: part 1: expected {\"type\": \"text\"",
         "{\"messages\":[{\"role\":\"user\",\"content\":[\"a\"]}]}", INPUT},
        {6, "message 1: part 1: expected {\"type\": \"text\"",
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\","
         "\"cache\":1}]}]}",
         INPUT},
        {6,
         "\"messages\" and --to",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
         {"run", "--quiet", "--to", "de", "--input", "-"}},
        {6,
         "line 1: \"ids\" and --to: expected one of them",
         "{\"ids\":[1]}",
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
Test(host_cli_prompts, a_line_that_a_terminal_cuts_is_exit_6)
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

/* Results may hold such a text, and what others write has null for what it does not say. */
Test(host_cli_prompts, a_zero_byte_is_text_and_null_is_as_good_as_no_key)
{
    static const char lines[] = "{\"prompt\":\"a\\u0000b\",\"ids\":null,\"messages\":null}\n"
                                "{\"prompt\":null,\"ids\":[1,4]}\n";
    spawn_result r = SPAWN(lines, "run", "--quiet", "--json", "--max-tokens", "1", "--input", "-");
    json_t *out = parse_lines(r.out);

    cr_assert_eq(r.code, 0, "%s", r.err);
    cr_assert_eq(json_array_size(out), 2);
    cr_expect_gt(json_integer_value(json_object_get(json_array_get(out, 0), "prompt_tokens")), 2);
    json_decref(out);
    spawn_free(&r);
}

Test(host_cli_prompts, results_before_a_bad_line_are_printed)
{
    static const char *const batches[] = {"1", "2", "3", "8"};
    static const char text[] = "{\"prompt\":\"One.\",\"id\":\"a\"}\n{\"prompt\":\"Two.\"}\n"
                               "{\"prompt\":3}\n{\"prompt\":\"Four.\"}\n";

    for (int32_t i = 0; i < COUNT(batches); i++) {
        spawn_result r = SPAWN(text, "run", "--quiet", "--json", "--to", "de", "--batch",
                               batches[i], "--input", "-");
        json_t *lines = parse_lines(r.out);

        cr_expect_eq(r.code, 6);
        spawn_one_line(r.err, batches[i]);
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
Test(host_cli_prompts, run_keeps_going_where_it_is_asked_to)
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
        spawn_one_line(r.err, batches[i]);
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

/* ---- lines without an end ---- */

enum { TOO_LONG = (64 << 20) + 1 };

/* Refused while it is read: stdin has not ended.  The others go on where that was asked for. */
Test(host_cli_prompts, a_line_that_is_too_long_is_refused_before_its_end)
{
    static const char behind[] = "\nThree.\n",
                      said[] = "stdin: line 2: expected at most 67108864 bytes, found more";
    size_t bytes = strlen("One.\n") + TOO_LONG;
    char *text = malloc(bytes + sizeof behind);
    spawn_result r;

    cr_assert_not_null(text);
    memset(text, 'x', bytes);
    memcpy(text, "One.\n", strlen("One.\n"));
    memcpy(text + bytes, behind, sizeof behind);

    spawn_options endless = {.in = text, .in_bytes = bytes, .in_held = true};
    const char *const run[] = {"run", "--to", "de", "--quiet", NULL};

    r = spawn(run, &endless);
    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect_eq(count_lines(r.out), 1, "%s", r.out);
    cr_expect(strstr(r.err, said), "%s", r.err);
    spawn_free(&r);
    r = SPAWN(text, "run", "--to", "de", "--keep-going", "--quiet");
    cr_expect_eq(r.code, 6);
    cr_expect_eq(count_lines(r.out), 2, "%s", r.out);
    cr_expect(strstr(r.err, said), "%s", r.err);
    cr_expect(strstr(r.err, "spc: 1 of 3 prompts could not be decoded"), "%s", r.err);
    spawn_free(&r);
    free(text);
}
