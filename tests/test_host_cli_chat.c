/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_chat.c - spc chat: what is said, what is replied, and what cannot be. */
#include "weights/chat.h"

#include "chat_pair.h"

enum { TURNS = 6 };

static const char cat[] = "The cat sleeps on the old chair.";

/* ---- what is said -----------------------------------------------------------------------------
 */

Test(host_cli_chat, the_first_reply_is_the_models_continuation_of_the_template)
{
    chat_pair p = open_pair();
    char *plain = OUTPUT(NULL, "run", "--to", "de", "--temperature", "0", cat);
    char *reply = OUTPUT("The cat sleeps on the old chair.\n", CHAT(&p), "--temperature", "0");
    char *alone = OUTPUT("The cat sleeps on the old chair.", "chat", "--verifier", p.verifier.path,
                         "--drafter", "none", "--rule", "verifier-only", "--temperature", "0");

    cr_expect_str_eq(reply, plain);
    cr_expect_str_eq(alone, plain, "without a drafter, and without an end of line");
    free(plain);
    free(reply);
    free(alone);
    close_pair(&p);
}

/* The tokenizer of the pair. */
static spc_tokenizer *tokenizer_of(const chat_pair *p)
{
    char path[FOLDER_PATH];
    size_t bytes;
    spc_tokenizer *t;
    spc_error error;

    folder_path(&p->verifier, "tokenizer.json", path);
    char *json = read_file(path, &bytes);

    cr_assert_eq(spc_tokenizer_open("m", json, bytes, &t, &error), SPC_OK, "%s", error.message);
    free(json);
    return t;
}

/* {"ids": [...]} of a conversation. */
static char *ids_line(const spc_tokenizer *t, const spc_chat_message *m, int32_t count)
{
    spc_chat_template chat;
    int32_t *ids, n;
    spc_error error;
    json_t *array = json_array();

    cr_assert(spc_chat_find("mistral-nemo", &chat));
    cr_assert_eq(spc_chat_encode(&chat, t, m, count, true, &ids, &n, &error), SPC_OK);
    for (int32_t i = 0; i < n; i++) (void)json_array_append_new(array, json_integer(ids[i]));
    free(ids);

    json_t *root = json_pack("{s:o}", "ids", array);
    char *text = json_dumps(root, JSON_COMPACT);

    json_decref(root);
    return text;
}

static void expect_failure(spawn_result r, int code, const char *says)
{
    cr_expect_eq(r.code, code, "'%s': exit code %d: %s", says, r.code, r.err);
    cr_expect(strstr(r.err, says), "'%s' does not say '%s'", r.err, says);
    cr_expect_eq(count_lines(r.err), 1 + (strstr(r.err, "per verifier call") ? 2 : 0), "%s", r.err);
    spawn_free(&r);
}

/* spc run writes conversations with the template, and ends replies where spc chat does. */
Test(host_cli_chat, messages_of_run_are_a_conversation)
{
    static const spc_chat_message messages[] = {{SPC_CHAT_SYSTEM, "Speak German.", 13},
                                                {SPC_CHAT_USER, cat, sizeof cat - 1},
                                                {SPC_CHAT_ASSISTANT, "Ja.", 3},
                                                {SPC_CHAT_USER, "Where is it?", 12}};
    static const char *const templates[] = {"--quiet", "--chat-template=mistral-nemo"};
    static const char line[] =
        "{\"messages\":[{\"role\":\"system\",\"content\":\"Speak German.\"},"
        "{\"role\":\"user\",\"content\":\"The cat sleeps on the old chair.\"},"
        "{\"role\":\"assistant\",\"content\":\"Ja.\"},"
        "{\"role\":\"user\",\"content\":\"Where is it?\"}]}\n"
        "{\"messages\":[{\"role\":\"assistant\",\"content\":\"Ja.\"}]}\n"
        "{\"messages\":[{\"role\":\"user\",\"name\":null,\"content\":["
        "{\"type\":\"text\",\"text\":\"The cat sleeps\"},{\"type\":\"text\",\"text\":\"\"},"
        "{\"type\":\"text\",\"text\":\" on the old chair.\"}]}]}\n";
    chat_pair p = open_pair();
    spc_tokenizer *tokenizer = tokenizer_of(&p);
    char *ids = ids_line(tokenizer, messages, 4);
    json_t *expected = JSON(ids, "run", "--verifier", p.verifier.path, "--drafter", p.drafter.path,
                            "--json", "--temperature", "0", "--max-tokens", "40", "--input", "-");
    json_t *reply =
        JSON("The cat sleeps on the old chair.\n", CHAT(&p), "--temperature", "0", "--json");

    for (int32_t i = 0; i < 2; i++) {
        spawn_result r = SPAWN(line, "run", "--verifier", p.verifier.path, "--drafter",
                               p.drafter.path, "--json", "--temperature", "0", "--max-tokens", "40",
                               templates[i], "--keep-going", "--input", "-");
        json_t *results = parse_lines(r.out);

        cr_assert_eq(json_array_size(results), 3, "%s", r.err);
        cr_expect_eq(r.code, 6, "the second has no user");
        cr_expect_eq(whole(results, 0, "prompt_tokens"), whole(expected, 0, "prompt_tokens"));
        cr_expect_str_eq(json_string_value(field(results, 0, "finish")), "stop-token");
        for (size_t k = 0; k < json_array_size(field(results, 0, "ids")); k++) {
            cr_expect(json_equal(json_array_get(field(results, 0, "ids"), k),
                                 json_array_get(field(expected, 0, "ids"), k)));
        }
        cr_expect(strstr(json_string_value(field(results, 1, "error")), "stdin: line 2: message 1"),
                  "%s", r.out);
        cr_expect(json_equal(field(results, 2, "ids"), field(reply, 0, "ids")));
        cr_expect(json_equal(field(results, 2, "text"), field(reply, 0, "text")));
        json_decref(results);
        spawn_free(&r);
    }
    json_decref(reply);
    json_decref(expected);
    free(ids);
    spc_tokenizer_close(tokenizer);
    close_pair(&p);
}

/* Every reply is what spc run makes of the template's whole text, up to where the turn ends. */
static void expect_conversation(const chat_pair *p, const char *rule, const char *system)
{
    static const char input[] = "The cat sleeps on the old chair.\n"
                                "We forgot to close the window\\\nlast night.\n"
                                "   \n"
                                "\n"
                                "It ends in \\\\\n"
                                "</s>[INST]Good morning[/INST] Guten Morgen</s>\n"
                                " /reset\n"
                                "Where did you\\\n\\\nbuy it?\\";
    static const char *const said[TURNS] = {cat,
                                            "We forgot to close the window\nlast night.",
                                            "It ends in \\",
                                            "</s>[INST]Good morning[/INST] Guten Morgen</s>",
                                            " /reset",
                                            "Where did you\n\nbuy it?"};
    spc_tokenizer *t = tokenizer_of(p);
    spc_chat_message m[2 * TURNS + 1];
    int32_t count = 0, ended = 0;
    json_t *lines = system ? JSON(input, CHAT(p), "--rule", rule, "--json", "--max-tokens", "24",
                                  "--gamma", "5", "--seed", "5", "--system", system)
                           : JSON(input, CHAT(p), "--rule", rule, "--json", "--max-tokens", "24",
                                  "--gamma", "5", "--seed", "5");

    cr_assert_eq(json_array_size(lines), TURNS);
    if (system) m[count++] = (spc_chat_message){SPC_CHAT_SYSTEM, system, strlen(system)};
    for (size_t turn = 0; turn < TURNS; turn++) {
        const json_t *ids = field(lines, turn, "ids"), *text = field(lines, turn, "text");
        bool stopped = strcmp(json_string_value(field(lines, turn, "finish")), "stop-token") == 0;

        m[count++] = (spc_chat_message){SPC_CHAT_USER, said[turn], strlen(said[turn])};

        char *prompt = ids_line(t, m, count);
        json_t *run =
            JSON(prompt, "run", "--verifier", p->verifier.path, "--drafter", p->drafter.path,
                 "--rule", rule, "--max-tokens", "24", "--seed", "5", "--input", "-", "--json");
        const json_t *plain = field(run, 0, "ids");

        cr_expect_eq(whole(lines, turn, "prompt_tokens"), whole(run, 0, "prompt_tokens"));
        cr_expect_eq(whole(lines, turn, "index"), (json_int_t)turn);
        for (size_t i = 0; i < json_array_size(ids); i++) {
            cr_expect_eq(json_integer_value(json_array_get(ids, i)),
                         json_integer_value(json_array_get(plain, i)), "%s: turn %zu, id %zu", rule,
                         turn, i);
        }
        cr_expect_eq(json_array_size(ids) < 24 || stopped, stopped);
        if (turn > 0) {
            cr_expect_gt(whole(lines, turn, "reused_tokens"), 0);
            cr_expect_lt(whole(lines, turn, "reused_tokens"), whole(lines, turn, "prompt_tokens"));
        }
        if (turn > 0 && !system) { /* all of the last turn, unless its reply is spelt otherwise */
            cr_expect_geq(whole(lines, turn, "reused_tokens"),
                          whole(lines, turn - 1, "prompt_tokens"));
        }
        m[count++] = (spc_chat_message){SPC_CHAT_ASSISTANT, json_string_value(text),
                                        json_string_length(text)};
        ended += stopped;
        json_decref(run);
        free(prompt);
    }
    cr_expect_gt(ended, 0, "%s: the template's end of turn ends replies", rule);
    json_decref(lines);
    spc_tokenizer_close(t);
}

Test(host_cli_chat, every_reply_is_that_of_the_whole_conversation)
{
    chat_pair p = open_pair();

    expect_conversation(&p, "strict", NULL);
    expect_conversation(&p, "token-v3:alpha=0.5", NULL);
    expect_conversation(&p, "verifier-only", NULL);
    expect_conversation(&p, "strict", "Speak German.");
    close_pair(&p);
}

Test(host_cli_chat, reset_begins_anew_and_exit_ends)
{
    chat_pair p = open_pair();
    json_t *lines =
        JSON("The cat sleeps on the old chair.\nGood morning.\n/reset\n"
             "The cat sleeps on the old chair.\n/exit\nGood morning.\n",
             CHAT(&p), "--json", "--temperature", "0", "--max-tokens", "30", "--system", "German.");

    cr_assert_eq(json_array_size(lines), 3);
    cr_expect_str_eq(json_string_value(field(lines, 2, "text")),
                     json_string_value(field(lines, 0, "text")));
    cr_expect_eq(whole(lines, 2, "prompt_tokens"), whole(lines, 0, "prompt_tokens"),
                 "with the system message");
    cr_expect_neq(whole(lines, 1, "prompt_tokens"), whole(lines, 0, "prompt_tokens"));
    json_decref(lines);
    close_pair(&p);
}

/* A message that begins with a slash never reaches the models, unless it begins with two. */
Test(host_cli_chat, a_slash_begins_a_command)
{
    chat_pair p = open_pair();
    spawn_result help = SPAWN("/help\n/exit \nGood morning.\n", CHAT(&p));
    json_t *two = JSON("//etc\n", CHAT(&p), "--json", "--max-tokens", "4");
    json_t *one = JSON(" /etc\n", CHAT(&p), "--json", "--max-tokens", "4");

    cr_expect_eq(help.code, 0);
    cr_expect_str_eq(help.out, "");
    cr_expect(strstr(help.err, "\n/reset  begins") && strstr(help.err, "\n/exit   ends"), "%s",
              help.err);
    cr_expect_eq(whole(two, 0, "prompt_tokens"), whole(one, 0, "prompt_tokens") - 1,
                 "less a blank");
    expect_failure(SPAWN("/frob now\nGood morning.\n", CHAT(&p)), 6,
                   "stdin: line 1: unknown command '/frob'; known: /help, /reset, /exit; //");
    expect_failure(SPAWN("/reset now\nGood morning.\n", CHAT(&p)), 6,
                   "line 1: /reset takes nothing behind it");
    expect_failure(SPAWN("/\n", CHAT(&p)), 6, "unknown command '/'");
    spawn_free(&help);
    json_decref(two);
    json_decref(one);
    close_pair(&p);
}

Test(host_cli_chat, a_template_may_be_named)
{
    chat_pair p = open_pair();
    char *own = OUTPUT("Good morning.", CHAT(&p), "--temperature", "0", "--quiet");
    char *named = OUTPUT("Good morning.", CHAT(&p), "--temperature", "0", "--quiet",
                         "--chat-template", "mistral-nemo");
    json_t *other = JSON("Good morning.", CHAT(&p), "--json", "--chat-template", "mistral-v3",
                         "--max-tokens", "20");
    json_t *same = JSON("Good morning.", CHAT(&p), "--json", "--max-tokens", "20");

    cr_expect_str_eq(own, named);
    cr_expect_eq(whole(other, 0, "prompt_tokens"), whole(same, 0, "prompt_tokens"),
                 "a blank before the first word makes it another token, not one more");
    free(own);
    free(named);
    json_decref(other);
    json_decref(same);
    close_pair(&p);
}

/* Its lines are broken by hand, so it is no list of SPC_CHAT_NAMES itself. */
Test(host_cli_chat, help_names_every_template)
{
    char *help = OUTPUT("", "chat", "--help"), names[] = SPC_CHAT_NAMES;

    for (char *name = strtok(names, ", "); name; name = strtok(NULL, ", ")) {
        char listed[2][64];

        (void)snprintf(listed[0], sizeof listed[0], " %s,", name);
        (void)snprintf(listed[1], sizeof listed[1], " %s;", name);
        cr_expect(strstr(help, listed[0]) || strstr(help, listed[1]), "%s", name);
    }
    free(help);
}

/* Who is not asked for a draft length gets the one that is fastest here. */
Test(host_cli_chat, draft_lengths_are_chosen_unless_given)
{
    static const char input[] = "The cat sleeps on the old chair.\n";
    chat_pair p = open_pair();
    json_t *chosen = JSON(input, CHAT(&p), "--json", "--temperature", "0");
    json_t *fixed = JSON(input, CHAT(&p), "--json", "--temperature", "0", "--gamma", "3");
    char *help = OUTPUT("", "chat", "--help");

    cr_expect_str_eq(json_string_value(field(chosen, 0, "gamma")), "auto");
    cr_expect_eq(whole(fixed, 0, "gamma"), 3);
    cr_expect(json_equal(field(chosen, 0, "text"), field(fixed, 0, "text")), "greedy and strict");
    cr_expect_not_null(strstr(help, "(0 to 16, auto; default auto)"), "%s", help);
    free(help);
    json_decref(chosen);
    json_decref(fixed);
    close_pair(&p);
}

Test(host_cli_chat, every_reply_has_its_statistics_when_asked)
{
    static const char input[] = "The cat sleeps on the old chair.\nGood morning.\n";
    chat_pair p = open_pair();
    json_t *lines = JSON(input, CHAT(&p), "--json", "--gamma", "5", "--max-tokens", "20");
    spawn_result r =
        SPAWN(input, CHAT(&p), "--stats", "--quiet", "--gamma", "5", "--max-tokens", "20");
    const char *line = r.err;

    cr_expect_eq(r.code, 0, "%s", r.err);
    cr_assert_eq(count_lines(r.err), 4, "the sum of all is not asked for: %s", r.err);
    for (size_t i = 0; i < 2; i++) {
        char begins[80], read[80], reused[80] = "";
        const char *second = strchr(line, '\n') + 1;

        (void)snprintf(begins, sizeof begins, "spc: reply %zu: strict: %d tokens in ", i + 1,
                       (int)whole(lines, i, "tokens"));
        (void)snprintf(read, sizeof read, ", prompts of %d included, ",
                       (int)whole(lines, i, "prompt_tokens"));
        if (i > 0) {
            (void)snprintf(reused, sizeof reused, ", reused %d of %d prompt tokens, ",
                           (int)whole(lines, i, "reused_tokens"),
                           (int)whole(lines, i, "prompt_tokens"));
        }
        cr_expect(strncmp(line, begins, strlen(begins)) == 0, "%s: %s", begins, line);
        cr_expect(strstr(line, read) && strstr(line, read) < second, "%s: %s", read, line);
        cr_expect_not_null(strstr(second, reused), "%s: %s", reused, second);
        line = strchr(second, '\n') + 1;
    }
    spawn_free(&r);
    json_decref(lines);
    close_pair(&p);
}

/* Where somebody sits there, and not under --quiet; none of it is left before the reply. */
Test(host_cli_chat, a_terminal_sees_how_far_a_long_message_is)
{
    chat_pair p = open_pair();
    const char *const told[] = {CHAT(&p), "--temperature", "0", "--max-tokens", "3", NULL};
    const char *const quiet[] = {CHAT(&p), "--temperature", "0", "--max-tokens",
                                 "3",      "--quiet",       NULL};
    char line[2000] = "";

    while (strlen(line) < 1800) strcat(line, "The cat sleeps. ");
    (void)strcat(line, "\n\004");
    for (int32_t i = 0; i < 2; i++) {
        spawn_result r =
            spawn(i == 0 ? told : quiet, &(const spawn_options){.terminal = true, .in = line});
        const char *last = strstr(r.out, "reading the prompt: "), *next = last;

        cr_expect_eq(r.code, 0, "%s", r.out);
        cr_expect_eq(last != NULL, i == 0, "%s", r.out);
        while (next) {
            last = next;
            next = strstr(next + 1, "reading the prompt: ");
        }
        if (last) cr_expect_eq(strncmp(strchr(last, '%') + 1, "\r\033[K", 4), 0, "%s", last);
        spawn_free(&r);
    }

    spawn_result r = SPAWN(line, CHAT(&p), "--max-tokens", "3");

    cr_expect_null(strstr(r.err, "reading"), "%s", r.err);
    spawn_free(&r);
    close_pair(&p);
}

/* A chat model continues a prompt as any other does: somebody at a terminal is told, once, where
 * there is a template and it is not applied. */
Test(host_cli_chat, a_terminal_is_told_that_run_applies_no_template)
{
    static const char hint[] =
        "spc: the prompt is continued as it is, without the model's chat template (mistral-nemo); "
        "for replies: spc chat, or \"messages\" in --input\n";
    chat_pair p = open_pair();
    const char *const run[] = {
        "run", "--verifier", p.verifier.path, "--drafter", p.drafter.path, "--max-tokens",
        "2",   NULL};
    const struct {
        const char *in, *more[3];
        bool terminal, told;
    } table[] = {{"", {"Good morning.", "Good night."}, true, true},
                 {"", {"Good morning.", "--quiet"}, true, false},
                 {"", {"Good morning."}, false, false},
                 {"{\"messages\": [{\"role\": \"user\", \"content\": \"Good morning.\"}]}\n\004",
                  {"--input", "-"},
                  true,
                  false},
                 {"{\"ids\": [7]}\n\004", {"--input", "-"}, true, false}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        arguments a = join(run, table[i].more);
        spawn_result r =
            spawn(a.arg, &(const spawn_options){.terminal = table[i].terminal, .in = table[i].in});
        const char *found = strstr(r.out, hint);

        cr_expect_eq(r.code, 0, "%s", r.out);
        cr_expect_eq(found != NULL, table[i].told, "%zu: %s", i, r.out);
        cr_expect(!found || !strstr(found + strlen(hint), "chat template"), "%s", r.out);
        cr_expect_null(strstr(r.err, "chat template"), "%s", r.err);
        spawn_free(&r);
    }
    folder_write(&p.verifier, "chat_template.jinja", "{{ x }}", 7);

    arguments none = join(run, (const char *const[]){"Good morning.", NULL});
    spawn_result r = spawn(none.arg, &(const spawn_options){.terminal = true});

    cr_expect_eq(r.code, 0, "%s", r.out);
    cr_expect_null(strstr(r.out, "template"), "%s", r.out);
    spawn_free(&r);
    close_pair(&p);
}

Test(host_cli_chat, nothing_said_is_no_reply)
{
    chat_pair p = open_pair();
    spawn_result r = SPAWN("\n  \n", CHAT(&p));

    cr_expect_eq(r.code, 0);
    cr_expect_str_eq(r.out, "");
    cr_expect_str_eq(r.err, "");
    spawn_free(&r);
    close_pair(&p);
}

/* ---- what cannot be ---------------------------------------------------------------------------
 */

Test(host_cli_chat, what_is_missing_is_said)
{
    chat_pair p = open_pair();
    const char *verifier = p.verifier.path, *drafter = p.drafter.path;

    expect_failure(SPAWN("x", "chat"), 2, "the pair inside this program translates");
    expect_failure(SPAWN("x", "chat", "--verifier", verifier), 2, "--drafter is missing");
    expect_failure(SPAWN("x", CHAT(&p), "--chat-template", "llama4"), 2, "found 'llama4'");
    expect_failure(SPAWN("x", CHAT(&p), "--chat-template", "llama3"), 3,
                   "no special token '<|eot_id|>'");
    expect_failure(SPAWN("x", CHAT(&p), "--chat-template", "mistral-v1-old", "--system", "Hi."), 2,
                   "--system: message 1");
    expect_failure(SPAWN("x", CHAT(&p), "word"), 2, "unexpected argument 'word'");
    expect_failure(SPAWN("x", CHAT(&p), "--rule", "strikt"), 2, "strikt");
    /* before anything is said */
    expect_failure(SPAWN("", CHAT(&p), "--logit-bias", "6144:1"), 2, "logit-bias: expected ids");
    expect_failure(SPAWN("x", "chat", "--verifier", "embedded:verifier", "--drafter", "none"), 3,
                   "no chat template");
    expect_failure(SPAWN("x", "chat", "--verifier", SPC_TEST_VECTORS "/llama", "--drafter", "none",
                         "--rule", "verifier-only"),
                   3, "no tokenizer.json");
    folder_write(&p.verifier, "chat_template.jinja", "{{ x }}", 7);
    expect_failure(SPAWN("x", "chat", "--verifier", verifier, "--drafter", drafter), 3,
                   "chat_template.jinja: this chat template is not one of those known");
    close_pair(&p);
}

Test(host_cli_chat, a_conversation_ends_where_the_context_does)
{
    chat_pair p = open_pair();
    spawn_result r =
        SPAWN("Good morning.\nGood night.\nThe cat sleeps on the old chair.\nGood morning.\n",
              CHAT(&p), "--context", "40", "--temperature", "0", "--max-tokens", "6");

    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect(strstr(r.err, "stdin: line ") && strstr(r.err, "and a context holds 40") &&
                  strstr(r.err, "/reset"),
              "%s", r.err);
    cr_expect_geq(count_lines(r.out), 2, "what fits is there");
    spawn_free(&r);
    expect_failure(SPAWN("Good \xff morning.\n", CHAT(&p)), 6,
                   "stdin: line 1: message 1: expected UTF-8");
    close_pair(&p);
}
