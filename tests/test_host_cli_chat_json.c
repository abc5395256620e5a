/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_chat_json.c - spc chat --input: a conversation that a program holds, in lines of
 * JSON. */
#include "chat_pair.h"

#include <sys/wait.h>
#include <unistd.h>

static const char cat[] = "The cat sleeps on the old chair.";

#define DRIVEN(p) CHAT(p), "--json", "--temperature", "0", "--max-tokens", "12", "--input", "-"

static const char *text_in(const json_t *lines, size_t line, const char *key)
{
    const char *text = json_string_value(field(lines, line, key));

    cr_assert_not_null(text, "line %zu has no text \"%s\"", line, key);
    return text;
}

static void expect_same_reply(const json_t *a, size_t i, const json_t *b, size_t j)
{
    cr_expect(json_equal(field(a, i, "ids"), field(b, j, "ids")), "lines %zu and %zu", i, j);
    cr_expect_eq(whole(a, i, "prompt_tokens"), whole(b, j, "prompt_tokens"));
}

/* The same as lines of text make it. */
Test(host_cli_chat_json, content_is_what_the_user_says_next)
{
    chat_pair p = open_pair();
    json_t *plain = JSON("The cat sleeps on the old chair.\nGood\\\nmorning.\n//etc\n", CHAT(&p),
                         "--json", "--temperature", "0", "--max-tokens", "12");
    json_t *driven =
        JSON("{\"content\": \"The cat sleeps on the old chair.\"}\n \n"
             "{\"id\": [7], \"content\": [{\"type\": \"text\", \"text\": \"Good\\nmor\"},"
             "{\"type\": \"text\", \"text\": \"ning.\"}], \"messages\": null}\n"
             "{\"id\": \"c\", \"content\": \"/etc\"}",
             DRIVEN(&p));

    cr_assert_eq(json_array_size(plain), 3);
    cr_assert_eq(json_array_size(driven), 3);
    for (size_t i = 0; i < 3; i++) {
        expect_same_reply(driven, i, plain, i);
        cr_expect_str_eq(text_in(driven, i, "text"), text_in(plain, i, "text"));
        cr_expect_str_eq(text_in(driven, i, "finish"), text_in(plain, i, "finish"));
        cr_expect_eq(whole(driven, i, "index"), (json_int_t)i);
    }
    cr_expect_null(json_object_get(json_array_get(driven, 0), "id"));
    cr_expect_eq(json_integer_value(json_array_get(field(driven, 1, "id"), 0)), 7);
    cr_expect_str_eq(text_in(driven, 2, "id"), "c");
    json_decref(plain);
    json_decref(driven);
    close_pair(&p);
}

Test(host_cli_chat_json, messages_begin_a_conversation)
{
    chat_pair p = open_pair();
    json_t *alone = JSON("Good morning.\n", CHAT(&p), "--json", "--temperature", "0",
                         "--max-tokens", "12", "--system", "German.");
    json_t *lines = JSON("{\"content\": \"The cat sleeps on the old chair.\"}\n"
                         "{\"messages\": [{\"role\": \"system\", \"content\": \"German.\"},"
                         "{\"role\": \"user\", \"content\": \"Good morning.\"}]}\n"
                         "{\"content\": \"Where is it?\"}\n"
                         "{\"messages\": [{\"role\": \"user\", \"content\": "
                         "\"The cat sleeps on the old chair.\"}]}\n",
                         DRIVEN(&p));
    json_t *with = JSON("{\"messages\": [{\"role\": \"user\", \"content\": "
                        "\"The cat sleeps on the old chair.\"}]}",
                        DRIVEN(&p), "--system", "German.");

    cr_assert_eq(json_array_size(lines), 4);
    expect_same_reply(lines, 1, alone, 0);
    cr_expect_gt(whole(lines, 2, "prompt_tokens"), whole(lines, 1, "prompt_tokens"), "it goes on");
    expect_same_reply(lines, 3, lines, 0);
    expect_same_reply(with, 0, lines, 0);
    json_decref(alone);
    json_decref(lines);
    json_decref(with);
    close_pair(&p);
}

/* What a line says of its reply holds for this reply alone, and costs the conversation nothing. */
Test(host_cli_chat_json, a_line_may_say_how_its_reply_is_decoded)
{
    chat_pair p = open_pair();
    spawn_result r = SPAWN("{\"content\": \"The cat sleeps on the old chair. Where is the "
                           "dog?\", \"max_tokens\": 3}\n"
                           "{\"content\": \"Good morning.\", \"temperature\": 1, \"seed\": 5, "
                           "\"stop\": null}\n"
                           "{\"content\": \"Where is it?\"}\n"
                           "{\"content\": \"Where is it?\", \"top_p\": 2}\n"
                           "{\"content\": \"Where is it?\", \"top_p\": \"all\"}\n"
                           "{\"content\": \"Thank you.\"}\n",
                           CHAT(&p), "--json", "--keep-going", "--temperature", "0", "--max-tokens",
                           "12", "--gamma", "3", "--input", "-");
    json_t *lines = parse_lines(r.out);

    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_assert_eq(json_array_size(lines), 6);
    cr_expect_eq(json_array_size(field(lines, 0, "ids")), 3);
    cr_expect_str_eq(text_in(lines, 0, "finish"), "max-tokens");
    cr_expect_eq(whole(lines, 1, "seed"), 5);
    cr_expect_eq(whole(lines, 2, "seed"), 0);
    for (size_t i = 1; i < 3; i++) {
        cr_expect_geq(whole(lines, i, "reused_tokens") + 32, whole(lines, i, "prompt_tokens"),
                      "all but what is new, and part of a page: %d of %d",
                      (int)whole(lines, i, "reused_tokens"), (int)whole(lines, i, "prompt_tokens"));
        cr_expect_gt(whole(lines, i, "reused_tokens"), 0);
    }
    cr_expect_str_eq(text_in(lines, 3, "error"),
                     "stdin: line 4: top-p: expected above 0 and at most 1, found 2");
    cr_expect_str_eq(text_in(lines, 4, "error"), "stdin: line 5: \"top_p\": expected a number");
    cr_expect_gt(whole(lines, 5, "prompt_tokens"), whole(lines, 2, "prompt_tokens"));

    /* the same as the command line would have it */
    char said[512];

    (void)snprintf(said, sizeof said,
                   "{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}, {\"role\": "
                   "\"assistant\", \"content\": \"%s\"}, {\"role\": \"user\", \"content\": "
                   "\"Good morning.\"}]}",
                   "The cat sleeps on the old chair. Where is the dog?", text_in(lines, 0, "text"));

    json_t *alone = JSON(said, CHAT(&p), "--json", "--temperature", "1", "--seed", "5", "--gamma",
                         "3", "--max-tokens", "12", "--input", "-");

    expect_same_reply(lines, 1, alone, 0);
    json_decref(lines);
    json_decref(alone);
    spawn_free(&r);
    close_pair(&p);
}

/* spc run, given the conversations that these replies are of, tells the same. */
static void expect_logprobs_of_run(const chat_pair *p, const char *conversations,
                                   const char *const *top, const json_t *replies)
{
    for (size_t i = 0; i < json_array_size(replies); i++) {
        json_t *run = JSON(conversations, "run", "--verifier", p->verifier.path, "--drafter",
                           p->drafter.path, "--json", "--temperature", "0", "--max-tokens", "12",
                           "--gamma", "3", "--input", "-", "--logprobs", top[i]);

        cr_assert_eq(json_array_size(run), json_array_size(replies));
        expect_same_reply(replies, i, run, i);
        cr_expect_gt(json_array_size(field(run, i, "logprobs")), 1);
        cr_expect(json_equal(field(replies, i, "logprobs"), field(run, i, "logprobs")), "reply %zu",
                  i);
        json_decref(run);
    }
}

/* Of every reply, also where a session goes on; a line may ask for others than the rest. */
Test(host_cli_chat_json, log_probabilities_are_those_of_spc_run)
{
    static const char *const top[] = {"2", "2", "0"};
    chat_pair p = open_pair();
    json_t *plain = JSON("{\"content\": \"Good morning.\"}\n{\"content\": \"Where is it?\"}\n"
                         "{\"content\": \"Thank you.\"}\n",
                         DRIVEN(&p), "--gamma", "3");
    json_t *told = JSON("{\"content\": \"Good morning.\"}\n{\"content\": \"Where is it?\"}\n"
                        "{\"content\": \"Thank you.\", \"logprobs\": 0}\n",
                        DRIVEN(&p), "--gamma", "3", "--logprobs", "2");
    char said[2048];

    cr_assert_eq(json_array_size(told), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *first = json_array_get(field(told, i, "logprobs"), 0);

        cr_expect(json_equal(field(told, i, "ids"), field(plain, i, "ids")));
        cr_expect_null(json_object_get(json_array_get(plain, i), "logprobs"));
        cr_expect_eq(json_array_size(json_object_get(first, "top")), i < 2 ? 2 : 0);
    }

    const char *one = text_in(told, 0, "text"), *two = text_in(told, 1, "text");

#define SAYS(role) "{\"role\": \"" role "\", \"content\": \"%s\"}"
#define ONE        "{\"messages\": [" SAYS("user")
#define TWO        ONE ", " SAYS("assistant") ", " SAYS("user")
    (void)snprintf(said, sizeof said,
                   ONE "]}\n" TWO "]}\n" TWO ", " SAYS("assistant") ", " SAYS("user") "]}\n",
                   "Good morning.", "Good morning.", one, "Where is it?", "Good morning.", one,
                   "Where is it?", two, "Thank you.");
    expect_logprobs_of_run(&p, said, top, told);
    json_decref(plain);
    json_decref(told);
    close_pair(&p);
}

Test(host_cli_chat_json, log_probabilities_go_with_json)
{
    chat_pair p = open_pair();
    spawn_result r = SPAWN("{\"content\": \"Good morning.\", \"logprobs\": 1}\n"
                           "{\"content\": \"Good morning.\"}\n",
                           CHAT(&p), "--keep-going", "--max-tokens", "2", "--input", "-");

    FAILURE(2, "--logprobs: they are printed with --json alone", CHAT(&p), "--logprobs", "1");
    cr_expect_eq(r.code, 6);
    cr_expect_eq(count_lines(r.out), 1, "%s", r.out);
    cr_expect(strstr(r.err, "stdin: line 1: \"logprobs\": they are printed with --json alone"),
              "%s", r.err);
    spawn_free(&r);
    close_pair(&p);
}

static const char wrong[] = "{\"content\": \"The cat sleeps on the old chair.\"}\n"
                            "{\"id\": 1, \"content\": 3}\n"
                            "Good morning.\n"
                            "{\"id\": 2, \"prompt\": \"Good morning.\"}\n"
                            "{\"id\": 3}\n"
                            "{\"id\": 4, \"messages\": [{\"role\": \"user\", \"content\": 1}]}\n"
                            "{\"id\": 5, \"messages\": [{\"role\": \"assistant\", \"content\": "
                            "\"Ja.\"}]}\n"
                            "{\"content\": \"Where is it?\"}\n";

/* A line without a reply leaves the conversation as it was. */
Test(host_cli_chat_json, with_keep_going_a_line_that_has_no_reply_has_an_error)
{
    static const char *const says[] = {
        "stdin: line 2: \"content\" is not a string",
        "stdin: line 3: not JSON: ",
        "stdin: line 4: unknown key \"prompt\"; known: content, messages, id, max_tokens, ",
        "stdin: line 5: expected an object with either \"content\" or \"messages\"",
        "stdin: line 6: message 1: expected {",
        "stdin: line 7: message 1"};
    chat_pair p = open_pair();
    spawn_result r = SPAWN(wrong, DRIVEN(&p), "--keep-going", "--quiet");
    json_t *lines = parse_lines(r.out);
    json_t *right = JSON("{\"content\": \"The cat sleeps on the old chair.\"}\n"
                         "{\"content\": \"Where is it?\"}\n",
                         DRIVEN(&p));

    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect(strstr(r.err, "6 of 8 messages have no reply"), "%s", r.err);
    cr_assert_eq(json_array_size(lines), 8, "%s", r.out);
    expect_same_reply(lines, 0, right, 0);
    for (size_t i = 0; i < 6; i++) {
        const char *error = text_in(lines, i + 1, "error");
        const json_t *id = json_object_get(json_array_get(lines, i + 1), "id");

        cr_expect_eq(strncmp(error, says[i], strlen(says[i])), 0, "%s: %s", says[i], error);
        cr_expect_eq(whole(lines, i + 1, "index"), (json_int_t)i + 1);
        if (i != 1) cr_expect_eq(json_integer_value(id), (json_int_t)(i < 1 ? 1 : i));
    }
    expect_same_reply(lines, 7, right, 1);
    cr_expect_eq(whole(lines, 7, "index"), 7);
    json_decref(lines);
    json_decref(right);
    spawn_free(&r);
    close_pair(&p);
}

Test(host_cli_chat_json, otherwise_it_is_the_end)
{
    chat_pair p = open_pair();
    spawn_result r = SPAWN(wrong, DRIVEN(&p), "--quiet");

    cr_expect_eq(r.code, 6);
    cr_expect_eq(count_lines(r.out), 1, "%s", r.out);
    cr_expect_str_eq(r.err, "spc: stdin: line 2: \"content\" is not a string\n");
    spawn_free(&r);
    close_pair(&p);
}

/* Where the context is full, a shorter conversation may still be begun. */
Test(host_cli_chat_json, a_full_context_is_an_error_of_its_line)
{
    chat_pair p = open_pair();
    char in[2048];
    json_t *lines;

    (void)snprintf(in, sizeof in,
                   "{\"content\": \"%s\"}\n{\"content\": \"%s %s %s %s\"}\n"
                   "{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}]}\n",
                   cat, cat, cat, cat, cat, cat);

    spawn_result r = SPAWN(in, DRIVEN(&p), "--context", "40", "--keep-going", "--quiet");

    lines = parse_lines(r.out);
    cr_expect_eq(r.code, 6);
    cr_assert_eq(json_array_size(lines), 3, "%s", r.out);
    cr_expect(strstr(text_in(lines, 1, "error"), "a context holds 40: begin a new one (\"messages"),
              "%s", r.out);
    expect_same_reply(lines, 2, lines, 0);
    json_decref(lines);
    spawn_free(&r);
    close_pair(&p);
}

/* What the input is, a file or a folder, is found out before it is read without end. */
Test(host_cli_chat_json, what_cannot_be_read_ends_it)
{
    chat_pair p = open_pair();

    FAILURE(6, "no/such/file: cannot be opened", CHAT(&p), "--input", "no/such/file");
    FAILURE(6, "cannot be read", CHAT(&p), "--json", "--keep-going", "--input", p.drafter.path);
    FAILURE(2, "--keep-going is for the lines of --input FILE", CHAT(&p), "--keep-going");
    close_pair(&p);
}

typedef struct {
    pid_t pid;
    FILE *in, *out;
} driven;

static driven drive(const char *const *args)
{
    int to[2], from[2];
    driven d;

    cr_assert(pipe(to) == 0 && pipe(from) == 0);
    d.pid = fork();
    cr_assert_geq(d.pid, 0);
    if (d.pid == 0) {
        (void)dup2(to[0], STDIN_FILENO);
        (void)dup2(from[1], STDOUT_FILENO);
        (void)close(to[1]);
        (void)close(from[0]);
        (void)execv(SPC_BINARY, (char *const *)(uintptr_t)args);
        _exit(127);
    }
    (void)close(to[0]);
    (void)close(from[1]);
    d.in = fdopen(to[1], "w");
    d.out = fdopen(from[0], "r");
    cr_assert(d.in && d.out);
    return d;
}

/* Each reply is there before anything else is said: what is said next may depend on it. */
Test(host_cli_chat_json, a_program_has_every_reply_before_it_writes_the_next_line, .timeout = 60)
{
    chat_pair p = open_pair();
    const char *const args[] = {"spc", DRIVEN(&p), "--quiet", NULL};
    driven d = drive(args);
    char line[1 << 16];
    int status;

    for (int32_t i = 0; i < 3; i++) {
        json_t *reply;

        (void)fprintf(d.in, "{\"id\": %d, \"content\": \"%s\"}\n", (int)i, cat);
        (void)fflush(d.in);
        cr_assert_not_null(fgets(line, sizeof line, d.out));
        reply = json_loads(line, 0, NULL);
        cr_assert_not_null(reply, "%s", line);
        cr_expect_eq(json_integer_value(json_object_get(reply, "id")), (json_int_t)i);
        cr_expect_not_null(json_object_get(reply, "finish"));
        json_decref(reply);
    }
    (void)fclose(d.in);
    cr_expect_null(fgets(line, sizeof line, d.out));
    cr_assert_eq(waitpid(d.pid, &status, 0), d.pid);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    (void)fclose(d.out);
    close_pair(&p);
}
