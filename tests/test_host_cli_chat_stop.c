/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_chat_stop.c - spc chat: Ctrl-C and SIGTERM, from a pipe and at a terminal. */
#include "chat_pair.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* ---- from a pipe -----------------------------------------------------------------------------
 */

Test(host_cli_chat_stop, ctrl_c_stops_the_reply_and_not_the_program)
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
Test(host_cli_chat_stop, a_signal_ends_a_pipe_that_says_nothing_or_half_of_it)
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
Test(host_cli_chat_stop, sigterm_ends_the_program_with_the_reply_so_far)
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
    cr_expect(strstr(r.err, ", finish cancelled\n"), "the only one: %s", r.err);
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

Test(host_cli_chat_stop, ctrl_c_at_a_terminal_never_costs_the_conversation)
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
Test(host_cli_chat_stop, sigterm_ends_the_program_at_a_terminal_and_ctrl_c_does_not)
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
