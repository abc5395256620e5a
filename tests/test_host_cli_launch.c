/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_launch.c - spc launch and the places of ranks, as their users see them: the output
 * of one process, and one message and one exit code when a rank dies, hangs, fails, or is started
 * wrongly. */
#include "spawn.h"

#include <criterion/criterion.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROMPTS = 200, ENOUGH = 60, LIMIT_MS = 30000 };

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- all is well ------------------------------------------------------------------------------
 */

Test(host_cli_launch, processes_print_what_one_prints)
{
    static const char in[] = "The house is small.\nWhere is the station?\nI do not know.\n";
    char *one = OUTPUT(in, "run", "--to", "de", "--batch", "2", "--rule", "token-v3:alpha=0.5");
    static const char *const drafter_tp[] = {"1", "2"};

    for (int i = 0; i < 2; i++) {
        char *two = OUTPUT(in, "launch", "-n", "2", "--", "run", "--to", "de", "--batch", "2",
                           "--rule", "token-v3:alpha=0.5", "--drafter-tp", drafter_tp[i]);

        cr_expect_str_eq(two, one);
        free(two);
    }
    free(one);
    one = OUTPUT("Hello.\n", "chat", "--verifier", "embedded:verifier", "--drafter",
                 "embedded:drafter", "--help");
    free(one);
}

Test(host_cli_launch, a_failure_has_one_message_and_one_code)
{
    static const struct {
        const char *args[10];
        int code;
        const char *text;
    } cases[] = {
        {{"launch", "-n", "2", "--", "run", "--verifier", "/no/model", "x"}, 3, "spc: /no/model: "},
        {{"launch", "-n", "3", "--", "run", "x"}, 2, "cannot be cut for 3 ranks"},
        {{"launch", "-n", "2", "--", "run", "--gamma", "99", "x"}, 2, "--gamma: expected"},
        {{"launch", "-n", "2", "--", "run", "--rank", "1", "x"}, 2, "spc launch has given"},
        {{"launch", "-n", "2", "--", "run", "--tp", "4", "x"}, 2, "tp: expected 1 or 2"},
        {{"launch", "-n", "2", "--", "run", "--device", "cuda", "x"}, 2, "run on the CPU only"},
        {{"launch", "-n", "2", "--", "info", "x"}, 2, "launch: expected run or chat"},
        {{"launch", "-n", "0", "--", "run", "x"}, 2, "-n: expected a whole number of 1 to 64"},
        {{"launch", "-n", "2"}, 2, "spc launch: expected -- run|chat"},
        {{"launch", "-m", "2", "--", "run"}, 2, "unknown option -m;"},
        {{"launch", "--n", "2", "--", "run"}, 2, "unknown option --n;"},
        {{"run", "--rank", "1", "x"}, 2, "--rank needs --world"},
        {{"run", "--world", "2", "x"}, 2, "--world needs --rank"},
        {{"run", "--rank", "2", "--world", "2", "x"}, 2, "--rank: expected 0 to 1, found 2"},
        {{"run", "--rank", "0", "--world", "2", "x"}, 2, "2 ranks need --meet"},
        {{"run", "--meet", "a/b", "x"}, 2, "--meet needs --rank and --world"},
        {{"run", "--ranks-from", "env", "x"}, 2, "neither Open MPI (OMPI_COMM_WORLD_RANK)"},
        {{"run", "--ranks-from", "env", "--rank", "0", "x"}, 2, "leave --rank out"},
        {{"run", "--rank", "0", "--world", "2", "--meet", "nowhere", "x"}, 2, "found 'nowhere'"},
        {{"chat", "--rank", "0", "--world", "2", "x"}, 2, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spawn_result r = spawn(cases[i].args, &(const spawn_options){.in = NULL});

        cr_expect_eq(r.code, cases[i].code, "%zu: code %d: %s", i, r.code, r.err);
        cr_expect(strstr(r.err, cases[i].text), "%zu: %s", i, r.err);
        cr_expect_eq(count_lines(r.err), 1, "%zu: %s", i, r.err);
        cr_expect_eq(r.out_bytes, 0);
        spawn_free(&r);
    }
}

/* ---- places from the environment --------------------------------------------------------------
 */

/* Start the program with these variables; its pid. */
static pid_t start_with(const char *const *variable, const char *const *args, const char *out)
{
    pid_t pid = fork();

    cr_assert_geq(pid, 0);
    if (pid > 0) return pid;
    for (int i = 0; variable[i]; i += 2) (void)setenv(variable[i], variable[i + 1], 1);
    if (!freopen("/dev/null", "r", stdin) || !freopen(out, "w", stdout) ||
        !freopen("/dev/null", "w", stderr)) {
        _exit(99);
    }
    (void)execv(SPC_BINARY, (char *const *)(uintptr_t)args);
    _exit(98);
}

Test(host_cli_launch, ranks_come_from_options_and_from_what_started_them)
{
    static const char *const variables[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                               {"PMI_RANK", "PMI_SIZE"},
                                               {"SLURM_PROCID", "SLURM_NTASKS"},
                                               {NULL, NULL}};
    char *expected = OUTPUT(NULL, "run", "--to", "fr", "Good morning.");
    char meet[64], out[64];

    (void)snprintf(meet, sizeof meet, "/tmp/spc-test-env-%ld", (long)getpid());
    (void)snprintf(out, sizeof out, "/tmp/spc-test-out-%ld", (long)getpid());
    for (int way = 0; way < 4; way++) {
        pid_t pid[2];
        char text[256] = "";
        FILE *file;

        for (int r = 0; r < 2; r++) {
            const char *number = r == 0 ? "0" : "1";
            const char *set[] = {variables[way][0], number, variables[way][1], "2", NULL};
            const char *env[] = {"spc", "run",  "--ranks-from", "env",           "--meet",
                                 meet,  "--to", "fr",           "Good morning.", NULL};
            const char *given[] = {"spc",    "run", "--rank", number, "--world",       "2",
                                   "--meet", meet,  "--to",   "fr",   "Good morning.", NULL};

            pid[r] = start_with(set, way < 3 ? env : given, r == 0 ? out : "/dev/null");
        }
        for (int r = 0; r < 2; r++) {
            int status;

            cr_assert_eq(waitpid(pid[r], &status, 0), pid[r]);
            cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "way %d, rank %d: %d", way, r,
                      status);
        }
        cr_assert_not_null(file = fopen(out, "r"));
        cr_expect_gt(fread(text, 1, sizeof text - 1, file), 0);
        (void)fclose(file);
        cr_expect_str_eq(text, expected);
        (void)unlink(out);
    }
    free(expected);
}

/* ---- faults -----------------------------------------------------------------------------------
 */

/* spc launch at work, with more prompts than it will ever get through. */
typedef struct {
    pid_t pid;
    int out, err;
    char text[1 << 16]; /* [bytes] of stdout */
    char said[4096];    /* [said_bytes] of stderr */
    size_t bytes, said_bytes;
} running;

static void start_long(running *l, const char *ranks, const char *timeout)
{
    const char *args[PROMPTS + 24] = {"spc",  "launch",   "-n",   ranks, "--",
                                      "run",  "--stream", "--to", "de",  "--rank-timeout",
                                      timeout};
    int out[2], err[2], count = 11;

    memset(l, 0, sizeof *l);
    for (int i = 0; i < PROMPTS; i++) {
        args[count++] = i % 2 ? "The house is small." : "I do not know where the station is.";
    }
    cr_assert(pipe(out) == 0 && pipe(err) == 0);
    l->pid = fork();
    cr_assert_geq(l->pid, 0);
    if (l->pid == 0) {
        (void)dup2(out[1], 1);
        (void)dup2(err[1], 2);
        (void)close(out[0]);
        (void)close(err[0]);
        (void)execv(SPC_BINARY, (char *const *)(uintptr_t)args);
        _exit(98);
    }
    (void)close(out[1]);
    (void)close(err[1]);
    l->out = out[0];
    l->err = err[0];
}

static void read_more(int *fd, char *text, size_t room, size_t *bytes)
{
    ssize_t n = read(*fd, text + *bytes, room - 1 - *bytes);

    if (n <= 0) {
        (void)close(*fd);
        *fd = -1;
        return;
    }
    *bytes += (size_t)n;
    text[*bytes] = '\0';
}

/* Read what comes until there are `enough` bytes on stdout, or both streams end. */
static void read_until(running *l, size_t enough)
{
    int64_t deadline = now_ms() + LIMIT_MS;

    while ((l->out >= 0 || l->err >= 0) && l->bytes < enough) {
        struct pollfd wanted[] = {{l->out, POLLIN, 0}, {l->err, POLLIN, 0}};
        int64_t left = deadline - now_ms();

        if (left <= 0) {
            (void)kill(l->pid, SIGKILL);
            cr_assert_fail("it does not end; it said: %s", l->said);
        }
        if (poll(wanted, 2, (int)left) <= 0) continue;
        if (wanted[0].revents) read_more(&l->out, l->text, sizeof l->text, &l->bytes);
        if (wanted[1].revents) read_more(&l->err, l->said, sizeof l->said, &l->said_bytes);
    }
}

/* The process that launch has started as this rank. */
static pid_t pid_of(const running *l, int rank)
{
    char path[64], wanted[32], text[1 << 14];
    pid_t pids[16];
    int count = 0;
    FILE *file;

    (void)snprintf(path, sizeof path, "/proc/%ld/task/%ld/children", (long)l->pid, (long)l->pid);
    cr_assert_not_null(file = fopen(path, "r"));
    while (count < 16 && fscanf(file, "%d", &pids[count]) == 1) count++;
    (void)fclose(file);
    (void)snprintf(wanted, sizeof wanted, "SPC_RANK=%d", rank);
    for (int i = 0; i < count; i++) {
        size_t bytes, at = 0;

        (void)snprintf(path, sizeof path, "/proc/%d/environ", (int)pids[i]);
        file = fopen(path, "r");
        if (!file) continue;
        bytes = fread(text, 1, sizeof text - 1, file);
        (void)fclose(file);
        text[bytes] = '\0';
        for (; at < bytes; at += strlen(text + at) + 1) {
            if (strcmp(text + at, wanted) == 0) return pids[i];
        }
    }
    cr_assert_fail("no process of rank %d", rank);
    return -1;
}

static int end_of(running *l)
{
    int status;

    read_until(l, sizeof l->text);
    cr_assert_eq(waitpid(l->pid, &status, 0), l->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Nothing of it is left, and what has been printed is what one process prints. */
static void expect_clean(const running *l, const pid_t *pid, int ranks, const char *expected)
{
    for (int r = 0; r < ranks; r++) {
        cr_expect(kill(pid[r], 0) != 0, "rank %d is still there", r);
    }
    cr_expect_geq(l->bytes, ENOUGH);
    for (size_t i = 0; i < l->bytes && i < strlen(expected); i++) {
        if (l->text[i] == expected[i] || (l->text[i] == '\n' && i + 1 == l->bytes)) continue;
        cr_expect(false, "byte %zu: %.80s", i, l->text);
        return;
    }
}

static char *first_lines(void)
{
    return OUTPUT(NULL, "run", "--to", "de", "I do not know where the station is.",
                  "The house is small.");
}

/* Lines on stderr that are no statistics. */
static int errors_in(const char *text)
{
    int count = 0;

    for (; *text; text += strcspn(text, "\n") + 1) {
        size_t bytes = strcspn(text, "\n");

        if (!memmem(text, bytes, " tokens per verifier call", 25)) count++;
        if (!text[bytes]) break;
    }
    return count;
}

static void harm(int ranks, int victim, int signal_number, int code, const char *text)
{
    char number[4], *expected = first_lines();
    running l;
    pid_t pid[8];
    int64_t begun;

    (void)snprintf(number, sizeof number, "%d", ranks);
    start_long(&l, number, signal_number == SIGSTOP ? "0.5" : "20");
    read_until(&l, ENOUGH);
    for (int r = 0; r < ranks; r++) pid[r] = pid_of(&l, r);
    begun = now_ms();
    cr_assert_eq(kill(victim < 0 ? l.pid : pid[victim], signal_number), 0);
    cr_expect_eq(end_of(&l), code, "%s", l.said);
    cr_expect_lt(now_ms() - begun, 12000);
    cr_expect(strstr(l.said, text), "'%s' in: %s", text, l.said);
    if (code == 4) cr_expect_eq(errors_in(l.said), 1, "%s", l.said);
    expect_clean(&l, pid, ranks, expected);
    free(expected);
}

Test(host_cli_launch, a_rank_that_is_killed_ends_all_with_its_name)
{
    harm(2, 1, SIGKILL, 4, "rank 1 is gone");
    harm(4, 2, SIGKILL, 4, "rank 2 is gone");
    harm(2, 0, SIGKILL, 4, "rank 0 is gone"); /* another one says it */
}

Test(host_cli_launch, a_rank_that_hangs_ends_all_within_the_timeout)
{
    harm(2, 1, SIGSTOP, 4, "within 500 ms, and these did not come: 1");
    harm(2, 0, SIGSTOP, 4, "within 500 ms, and these did not come: 0");
}

Test(host_cli_launch, signals_go_to_the_ranks)
{
    harm(2, -1, SIGINT, 130, "tokens per verifier call"); /* rank 0 ends in order */
    harm(2, -1, SIGTERM, 128 + SIGTERM, "");
}
