/* SPDX-License-Identifier: Apache-2.0 */
/* launched.c - spc launch at work. */
#include "launched.h"

#include <criterion/criterion.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_MS = 30000, MOST_ARGS = 240, MOST_RANKS = 16 };

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void launched_start(launched *l, const char *program, const char *const *args)
{
    const char *argv[MOST_ARGS + 2] = {"spc"};
    int out[2], err[2];

    memset(l, 0, sizeof *l);
    for (int i = 0; args[i]; i++) {
        cr_assert_lt(i, MOST_ARGS);
        argv[i + 1] = args[i];
    }
    cr_assert(pipe(out) == 0 && pipe(err) == 0);
    l->pid = fork();
    cr_assert_geq(l->pid, 0);
    if (l->pid == 0) {
        (void)dup2(out[1], 1);
        (void)dup2(err[1], 2);
        (void)close(out[0]);
        (void)close(err[0]);
        (void)execv(program, (char *const *)(uintptr_t)argv);
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

void launched_read(launched *l, size_t enough)
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
static pid_t pid_of(const launched *l, int rank)
{
    char path[64], wanted[32], text[1 << 14];
    pid_t pids[MOST_RANKS];
    int count = 0;
    FILE *file;

    (void)snprintf(path, sizeof path, "/proc/%ld/task/%ld/children", (long)l->pid, (long)l->pid);
    cr_assert_not_null(file = fopen(path, "r"));
    while (count < MOST_RANKS && fscanf(file, "%d", &pids[count]) == 1) count++;
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

int launched_end(launched *l)
{
    int status;

    launched_read(l, sizeof l->text);
    cr_assert_eq(waitpid(l->pid, &status, 0), l->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int64_t launched_harm(launched *l, int ranks, int victim, int signal_number, int code)
{
    pid_t pid[MOST_RANKS];
    int64_t begun;

    for (int r = 0; r < ranks; r++) pid[r] = pid_of(l, r);
    begun = now_ms();
    cr_assert_eq(kill(victim < 0 ? l->pid : pid[victim], signal_number), 0);
    cr_expect_eq(launched_end(l), code, "%s", l->said);
    begun = now_ms() - begun;
    for (int r = 0; r < ranks; r++) {
        cr_expect(kill(pid[r], 0) != 0, "rank %d is still there", r);
    }
    return begun;
}

int launched_errors(const launched *l)
{
    const char *text = l->said;
    int count = 0;

    for (; *text; text += strcspn(text, "\n") + 1) {
        size_t bytes = strcspn(text, "\n");

        if (!memmem(text, bytes, " tokens per verifier call", 25) &&
            strncmp(text, "spc: drafter ", 13) != 0 &&
            strncmp(text, "spc: verifier on ", 17) != 0) {
            count++;
        }
        if (!text[bytes]) break;
    }
    return count;
}

pid_t launched_rank(const char *program, const char *const *variable, const char *const *args,
                    const char *out, const char *err)
{
    pid_t pid = fork();

    cr_assert_geq(pid, 0);
    if (pid > 0) return pid;
    for (int i = 0; variable[i]; i += 2) (void)setenv(variable[i], variable[i + 1], 1);
    if (!freopen("/dev/null", "r", stdin) || !freopen(out, "w", stdout) ||
        !freopen(err, "w", stderr)) {
        _exit(99);
    }
    (void)execv(program, (char *const *)(uintptr_t)args);
    _exit(98);
}
