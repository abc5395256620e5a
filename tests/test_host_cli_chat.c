/* SPDX-License-Identifier: Apache-2.0 */
/* spc chat: conversations with the demo pair, whose prompt (<s> <2de> sentence <sep>) becomes that
 * of Mistral Nemo (<s> [INST] message [/INST]) by renaming two tokens. */
#include "weights/chat.h"

#include "folder.h"
#include "spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DEMO SPC_SOURCE_DIR "/weights/demo"

enum { TURNS = 6 };

static const char cat[] = "The cat sleeps on the old chair.";

/* ---- models -----------------------------------------------------------------------------------
 */

typedef struct {
    folder verifier, drafter;
} chat_pair;

/* One of the demo models with room for long replies.  Its own end of sequence is <pad>, so that
 * only the template's ends a turn. */
static folder open_model(const char *demo)
{
    static const char *const config[] = {"512", "4000", "\"eos_token_id\": 2",
                                         "\"eos_token_id\": 0", NULL};
    static const char *const tokens[] = {"<2de>", "[INST]", "<sep>", "[/INST]", NULL};
    folder f = folder_open();
    char from[FOLDER_PATH];

    (void)snprintf(from, sizeof from, "%s/%s/model.safetensors", DEMO, demo);
    folder_copy(&f, from, "model.safetensors", SIZE_MAX);
    (void)snprintf(from, sizeof from, "%s/%s/config.json", DEMO, demo);
    folder_copy_changed(&f, from, "config.json", config);
    (void)snprintf(from, sizeof from, "%s/%s/tokenizer.json", DEMO, demo);
    folder_copy_changed(&f, from, "tokenizer.json", tokens);
    folder_copy(&f, SPC_TEST_VECTORS "/chat/mistral-nemo.jinja", "chat_template.jinja", SIZE_MAX);
    return f;
}

static chat_pair open_pair(void)
{
    return (chat_pair){open_model("verifier"), open_model("drafter")};
}

static void close_pair(const chat_pair *p)
{
    folder_close(&p->verifier);
    folder_close(&p->drafter);
}

#define CHAT(p) "chat", "--verifier", (p)->verifier.path, "--drafter", (p)->drafter.path

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
    cr_expect_eq(count_lines(r.err), 1 + (strstr(r.err, "per verifier call") != NULL), "%s", r.err);
    spawn_free(&r);
}

static const json_t *field(const json_t *lines, size_t i, const char *name)
{
    const json_t *value = json_object_get(json_array_get(lines, i), name);

    cr_assert_not_null(value, "line %zu has a '%s'", i, name);
    return value;
}

static json_int_t whole(const json_t *lines, size_t i, const char *name)
{
    return json_integer_value(field(lines, i, name));
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
        "{\"messages\":[{\"role\":\"user\",\"content\":\"The cat sleeps on the old chair.\"}]}\n";
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
                                  "--seed", "5", "--system", system)
                           : JSON(input, CHAT(p), "--rule", rule, "--json", "--max-tokens", "24",
                                  "--seed", "5");

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

Test(host_cli_chat, every_reply_has_its_statistics_when_asked)
{
    static const char input[] = "The cat sleeps on the old chair.\nGood morning.\n";
    chat_pair p = open_pair();
    json_t *lines = JSON(input, CHAT(&p), "--json", "--max-tokens", "20");
    spawn_result r = SPAWN(input, CHAT(&p), "--stats", "--quiet", "--max-tokens", "20");
    const char *line = r.err;

    cr_expect_eq(r.code, 0, "%s", r.err);
    cr_assert_eq(count_lines(r.err), 2, "the sum of all is not asked for: %s", r.err);
    for (size_t i = 0; i < 2; i++) {
        char begins[160];

        (void)snprintf(begins, sizeof begins,
                       "spc: reply %zu, prompt of %d tokens, %d of them reused: strict: %d tokens,",
                       i + 1, (int)whole(lines, i, "prompt_tokens"),
                       (int)whole(lines, i, "reused_tokens"), (int)whole(lines, i, "tokens"));
        cr_expect(strncmp(line, begins, strlen(begins)) == 0, "%s: %s", begins, line);
        line = strchr(line, '\n') + 1;
    }
    spawn_free(&r);
    json_decref(lines);
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

/* ---- Ctrl-C -----------------------------------------------------------------------------------
 */

Test(host_cli_chat, ctrl_c_stops_the_reply_and_not_the_program)
{
    chat_pair p = open_pair();
    const char *const args[] = {CHAT(&p),
                                "--temperature",
                                "0",
                                "--ignore-stop",
                                "--max-tokens",
                                SPAWN_SANITISED ? "300" : "2000",
                                "--seed",
                                "1",
                                NULL};
    spawn_result r =
        spawn(args, &(const spawn_options){.in = "Good morning.\n/reset\nGood night.\n",
                                           .interrupt_bytes = 20});

    cr_expect_eq(r.code, 0, "%d: %s", r.code, r.err);
    cr_expect(strstr(r.err, "finish max-tokens 1 cancelled 1"), "%s", r.err);
    cr_expect_geq(count_lines(r.out), 2, "both replies are there");
    spawn_free(&r);
    close_pair(&p);
}

/* Nobody can be told there that half a message has been dropped. */
Test(host_cli_chat, a_signal_ends_a_pipe_that_says_nothing_or_half_of_it)
{
    static const char *const said[] = {"Good morning.\n", "Good morning.\nWhere is the\\\n"};
    static const int signals[] = {SIGINT, SIGTERM};
    chat_pair p = open_pair();
    const char *const args[] = {CHAT(&p), "--temperature", "0", NULL};

    for (int32_t i = 0; i < 4; i++) {
        spawn_result r = spawn(args, &(const spawn_options){.in = said[i / 2],
                                                            .in_held = true,
                                                            .interrupt_after = 1,
                                                            .signal = signals[i % 2]});

        cr_expect_eq(r.code, 128 + signals[i % 2], "%d: %s", r.code, r.err);
        cr_expect_eq(count_lines(r.out), 1, "%s", r.out);
        cr_expect(strstr(r.err, " tokens per verifier call"), "with the statistics: %s", r.err);
        spawn_free(&r);
    }
    close_pair(&p);
}

/* What has been decoded is printed, and what was to be said behind it is not read. */
Test(host_cli_chat, sigterm_ends_the_program_with_the_reply_so_far)
{
    chat_pair p = open_pair();
    const char *const long_reply[] = {CHAT(&p),        "--temperature", "0",
                                      "--ignore-stop", "--seed",        "1",
                                      "--max-tokens",  "2000",          NULL};
    const char *const as_json[] = {CHAT(&p),
                                   "--temperature",
                                   "0",
                                   "--ignore-stop",
                                   "--json",
                                   "--max-tokens",
                                   SPAWN_SANITISED ? "300" : "1000",
                                   NULL};
    spawn_options o = {.in = "Good morning.\nGood night.\nGood evening.\n", .signal = SIGTERM};
    spawn_result r;
    json_t *lines;

    o.interrupt_bytes = 20;
    r = spawn(long_reply, &o);
    cr_expect_eq(r.code, 143, "%d: %s", r.code, r.err);
    cr_expect(strstr(r.err, ", finish cancelled, hash"), "the only one: %s", r.err);
    cr_expect(r.out_bytes > 20 && r.out[r.out_bytes - 1] == '\n', "%s", r.out);
    spawn_free(&r);

    o.interrupt_bytes = 0;
    o.interrupt_after = 1;
    r = spawn(as_json, &o);
    lines = parse_lines(r.out);
    cr_expect_eq(r.code, 143, "%d: %s", r.code, r.err);
    cr_assert_eq(json_array_size(lines), 2, "%s", r.err);
    cr_expect_str_eq(json_string_value(field(lines, 1, "finish")), "cancelled");
    json_decref(lines);
    spawn_free(&r);
    close_pair(&p);
}

/* ---- at a terminal ----------------------------------------------------------------------------
 */

typedef struct {
    int fd; /* our side of it */
    pid_t pid;
    char seen[16384];
    size_t used;
} typist;

/* The program at a terminal that does not repeat what is typed. */
static typist sit_down(const chat_pair *p)
{
    typist t = {.fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
    struct termios quiet;

    cr_assert(t.fd >= 0 && grantpt(t.fd) == 0 && unlockpt(t.fd) == 0);
    cr_assert_eq(tcgetattr(t.fd, &quiet), 0);
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    quiet.c_oflag &= ~(tcflag_t)OPOST;
    cr_assert_eq(tcsetattr(t.fd, TCSANOW, &quiet), 0);
    t.pid = fork();
    cr_assert_geq(t.pid, 0);
    if (t.pid == 0) {
        int side = open(ptsname(t.fd), O_RDWR | O_NOCTTY);

        for (int fd = 0; fd < 3; fd++) (void)dup2(side, fd);
        (void)signal(SIGINT, SIG_DFL);
        (void)execl(SPC_BINARY, SPC_BINARY, CHAT(p), "--device", "cpu", "--temperature", "0",
                    "--threads", "1", "--isa", "portable", "--quiet", (char *)NULL);
        _exit(127);
    }
    cr_assert_eq(fcntl(t.fd, F_SETFL, O_NONBLOCK), 0);
    return t;
}

static void listen(typist *t)
{
    const struct timespec moment = {0, 200000};
    ssize_t n = read(t->fd, t->seen + t->used, sizeof t->seen - 1 - t->used);
    int status;

    if (n > 0) t->used += (size_t)n;
    t->seen[t->used] = '\0';
    cr_assert_eq(waitpid(t->pid, &status, WNOHANG), 0, "it has ended: %s", t->seen);
    (void)nanosleep(&moment, NULL);
}

/* Wait for what the program says, or instead of it something else, and forget what it has said up
 * to there.  Which was it? */
static bool wait_for_either(typist *t, const char *words, const char *instead)
{
    char *at, *other = NULL, *end;

    for (int32_t turn = 0; !(at = strstr(t->seen, words)); turn++) {
        if (instead && (other = strstr(t->seen, instead))) break;
        cr_assert_lt(turn, 250000, "it does not say '%s' but '%s'", words, t->seen);
        listen(t);
    }
    end = at ? at + strlen(words) : other + 1; /* so that it is found once */
    t->used -= (size_t)(end - t->seen);
    memmove(t->seen, end, t->used + 1);
    return at != NULL;
}

static void wait_for(typist *t, const char *words)
{
    (void)wait_for_either(t, words, NULL);
}

static void type(const typist *t, const char *text)
{
    cr_assert_eq(write(t->fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* Say something long, and press Ctrl-C again and again before the reply begins.  False: it came
 * before all was read. */
static bool stop_before_the_reply(typist *t)
{
    const struct timespec while_it_reads = {0, 300000000};
    char line[3000] = "";

    while (strlen(line) < 2900) strcat(line, "The cat sleeps. ");
    strcat(line, "\\\n");
    for (int32_t i = 0; i < 3; i++) {
        type(t, line);
        wait_for(t, "| ");
    }
    type(t, "Good night.\n");
    (void)nanosleep(&while_it_reads, NULL);
    while (!strstr(t->seen, "[stopped") && !strstr(t->seen, "(Ctrl-C stops a reply")) {
        (void)kill(t->pid, SIGINT);
        listen(t);
    }
    return strstr(t->seen, "[stopped") != NULL;
}

Test(host_cli_chat, ctrl_c_at_a_terminal_never_costs_the_conversation)
{
    chat_pair p = open_pair();
    char *fresh = OUTPUT("The cat sleeps on the old chair.\n", CHAT(&p), "--temperature", "0",
                         "--isa", "portable");
    typist t = sit_down(&p);
    int status;

    for (int32_t i = 0; i < 5; i++) wait_for(&t, " of weights: "); /* a line, again and again */
    wait_for(&t, "%\r\033[KA line that ends in \\ goes on");       /* and gone */
    wait_for(&t, "> ");
    while (!stop_before_the_reply(&t)) wait_for(&t, "> ");
    wait_for(&t, "[stopped before the reply began: your message is not kept]\n");
    do { /* the last Ctrl-C may come when the next message is being read, and drops it */
        type(&t, "The cat sleeps on the old chair.\n");
    } while (!wait_for_either(&t, fresh, "(Ctrl-C stops a reply"));
    /* that is the reply of a conversation without the long message */
    type(&t, "/exit\n");
    cr_assert_eq(waitpid(t.pid, &status, 0), t.pid);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", status);
    (void)close(t.fd);
    free(fresh);
    close_pair(&p);
}

/* What is being typed is dropped by Ctrl-C, and lost with SIGTERM. */
Test(host_cli_chat, sigterm_ends_the_program_at_a_terminal_and_ctrl_c_does_not)
{
    chat_pair p = open_pair();
    typist t = sit_down(&p);
    int status;

    wait_for(&t, "> ");
    for (int32_t i = 0; i < 2; i++) {
        type(&t, "Where is the\\\n");
        wait_for(&t, "| ");
        cr_assert_eq(kill(t.pid, SIGINT), 0);
        wait_for(&t, "(Ctrl-C stops a reply; /exit or Ctrl-D ends)\n> ");
    }
    type(&t, "Where is the\\\n");
    wait_for(&t, "| ");
    cr_assert_eq(kill(t.pid, SIGTERM), 0);
    cr_assert_eq(waitpid(t.pid, &status, 0), t.pid);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 143, "%d", status);
    (void)close(t.fd);
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
