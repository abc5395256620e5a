/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_signals.c - Ctrl-C and SIGTERM end a run with the results so far. */
#include "launched.h"
#include "spawn.h"

#include <criterion/criterion.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

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

Test(host_cli_signals, ctrl_c_ends_a_run_with_the_results_so_far)
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

Test(host_cli_signals, ctrl_c_ends_a_run_that_waits_for_its_next_line)
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

/* A shell does that to what a script runs in the background: Ctrl-C is for others. */
Test(host_cli_signals, what_it_was_started_to_ignore_ends_no_run)
{
    enum { PROMPTS = 40 };
    static const char *const args[] = {"run",           "--quiet",      "--to", "de",
                                       "--ignore-stop", "--max-tokens", "20",   NULL};
    static const int signals[] = {SIGINT, SIGTERM};
    char *text = many_lines(PROMPTS);

    for (int32_t i = 0; i < COUNT(signals); i++) {
        spawn_options o = {
            .in = text, .interrupt_after = 1, .signal = signals[i], .ignored = signals[i]};
        spawn_result r = spawn(args, &o);

        cr_expect_eq(r.code, 0, "exit code %d: %s", r.code, r.err);
        cr_expect_eq(count_lines(r.out), PROMPTS, "%s", r.out);
        spawn_free(&r);
    }
    free(text);
}

/* Who writes the prompts may wait for their results before there are more. */
Test(host_cli_signals, a_batch_begins_before_it_is_full)
{
    static const char *const args[] = {"run", "--quiet", "--to", "de", "--batch=4", NULL};
    spawn_options o = {.in = "Hello.\nGood morning.\n", .in_held = true, .interrupt_after = 2};
    spawn_result r = spawn(args, &o);

    cr_expect_eq(r.code, 130, "exit code %d: %s", r.code, r.err);
    cr_expect_eq(count_lines(r.out), 2, "%s", r.out);
    spawn_free(&r);
}

/* The program is in the middle of writing to a reader that is slow. */
Test(host_cli_signals, a_signal_tears_no_line)
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

/* Now and then a prompt that takes long: those behind it are complete, and wait for their turn. */
static void write_uneven(const char *path)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    for (int32_t i = 0; i < 2000; i++) {
        (void)fprintf(file, "{\"prompt\": \"The house is small.\", \"max_tokens\": %d}\n",
                      i % 20 == 1 ? 400 : 3);
    }
    cr_assert_eq(fclose(file), 0);
}

/* Results are in order, and what was running is among them; how many that are complete stand behind
 * one that is not. */
static int32_t expect_order(const char *text)
{
    json_t *lines = parse_lines(text), *line;
    int32_t behind = 0;
    bool seen = false;
    size_t i;

    json_array_foreach(lines, i, line)
    {
        const char *finish = json_string_value(json_object_get(line, "finish"));

        cr_expect_eq(json_integer_value(json_object_get(line, "index")), (json_int_t)i);
        behind += seen && strcmp(finish, "max-tokens") == 0;
        seen |= strcmp(finish, "max-tokens") != 0;
    }
    cr_expect(seen, "all are complete: %s", text);
    json_decref(lines);
    return behind;
}

Test(host_cli_signals, sigterm_loses_no_result_that_waits_for_its_turn)
{
    char path[64];
    const char *args[] = {
        "launch",  "-n", "2",    "--", "run",     "--json", "--quiet", "--ignore-stop",
        "--batch", "2",  "--to", "de", "--input", path,     NULL};
    launched l;

    (void)snprintf(path, sizeof path, "/tmp/spc-test-uneven-%ld", (long)getpid());
    write_uneven(path);
    for (int way = 0; way < 2; way++) { /* two processes, and one */
        launched_start(&l, SPC_BINARY, way == 0 ? args : args + 4);
        launched_read(&l, 1);
        (void)nanosleep(&(struct timespec){0, 700000000}, NULL);
        cr_assert_eq(kill(l.pid, SIGTERM), 0);
        cr_expect_eq(launched_end(&l), 128 + SIGTERM, "%s", l.said);
        cr_expect_eq(l.said_bytes, 0, "%s", l.said);
        cr_expect_gt(expect_order(l.text), 0, "way %d", way);
    }
    (void)unlink(path);
}

/* As mpirun ends them: the others do not wait for rank 0, which has lost them before it has heard.
 */
Test(host_cli_signals, sigterm_of_all_ranks_loses_no_result_either)
{
    char path[64], meet[80], out[80], err[80], *text = calloc(1, 1 << 20);
    static const char *const nothing[] = {NULL};
    struct stat there;
    pid_t pid[2];
    FILE *file;

    (void)snprintf(path, sizeof path, "/tmp/spc-test-hand-uneven-%ld", (long)getpid());
    (void)snprintf(meet, sizeof meet, "%s-meet", path);
    (void)snprintf(out, sizeof out, "%s-out", path);
    (void)snprintf(err, sizeof err, "%s-err", path);
    write_uneven(path);
    for (int r = 0; r < 2; r++) {
        const char *args[] = {
            "spc",         "run",     "--json",  "--quiet", "--to",   "de", "--ignore-stop",
            "--batch",     "2",       "--world", "2",       "--meet", meet, "--rank",
            r ? "1" : "0", "--input", path,      NULL};

        pid[r] =
            launched_rank(SPC_BINARY, nothing, args, r ? "/dev/null" : out, r ? "/dev/null" : err);
    }
    for (int i = 0; i < 3000 && (stat(out, &there) != 0 || there.st_size == 0); i++) {
        (void)nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    (void)nanosleep(&(struct timespec){0, 700000000}, NULL);
    for (int r = 1; r >= 0; r--) cr_assert_eq(kill(pid[r], SIGTERM), 0);
    for (int r = 0; r < 2; r++) {
        int status;

        cr_assert_eq(waitpid(pid[r], &status, 0), pid[r]);
        if (r == 0) cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM);
    }
    cr_assert_not_null(text);
    cr_assert_not_null(file = fopen(err, "r"));
    cr_expect_eq(fread(text, 1, 4096, file), 0, "%s", text);
    (void)fclose(file);
    cr_assert_not_null(file = fopen(out, "r"));
    cr_assert_gt(fread(text, 1, (1 << 20) - 1, file), 0);
    (void)fclose(file);
    (void)expect_order(text);
    free(text);
    (void)unlink(path);
    (void)unlink(out);
    (void)unlink(err);
}
