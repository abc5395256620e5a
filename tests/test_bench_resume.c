/* SPDX-License-Identifier: Apache-2.0 */
/* test_bench_resume.c - a sweep that is interrupted, killed, or has no room to write, and goes on.
 */
#include "folder.h"
#include "spawn.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>

/* Long enough to be interrupted; under sanitizers everything takes longer. */
enum { LINES = SPAWN_SANITISED ? 4 : 30, POINTS = 6 };

static const char rules[] = "strict;opt:alpha=0;opt:alpha=0.2;token-v3:alpha=0.5;drafter-only";

static void write_data(const folder *f)
{
    char text[LINES * 64];
    size_t used = 0;

    for (int32_t i = 0; i < LINES; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "de\tHe has %d red books.\tEr hat %d rote B\303\274cher.\n", i, i);
    }
    folder_write(f, "data.tsv", text, used);
}

/* The arguments of the sweep all tests run: POINTS points. */
typedef struct {
    char data[FOLDER_PATH], output[FOLDER_PATH];
    const char *args[16];
} command;

static void make_command(const folder *f, const char *output, command *c)
{
    folder_path(f, "data.tsv", c->data);
    folder_path(f, output, c->output);
    memcpy(c->args,
           (const char *const[16]){"--data", c->data, "--output", c->output, "--rules", rules,
                                   "--gamma", "3", "--threads", "1", "--seeds", "2", NULL},
           sizeof c->args);
}

static spawn_result run(const command *c)
{
    return spawn(c->args, &(const spawn_options){.program = SPC_SWEEP});
}

/* The text of a file; "" where there is none. */
static char *text_of(const char *path)
{
    size_t bytes;

    return access(path, R_OK) == 0 ? read_file(path, &bytes) : strdup("");
}

static void wait_ms(long ms)
{
    (void)nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* Start the sweep and send it a signal so long after its file has so many lines; its status.
 *
 * said   receives what it wrote to stderr, malloc'd; may be NULL */
static int run_until(const command *c, int32_t lines, long ms, int number, char **said)
{
    char path[FOLDER_PATH + 8];
    int status, log;
    pid_t pid;

    (void)snprintf(path, sizeof path, "%s.log", c->output);
    log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    cr_assert_geq(log, 0);
    pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        const char *argv[18] = {SPC_SWEEP};

        memcpy(argv + 1, c->args, sizeof c->args);
        (void)dup2(log, STDERR_FILENO);
        (void)execv(SPC_SWEEP, (char **)(uintptr_t)argv);
        _exit(127);
    }
    (void)close(log);
    for (int32_t waited = 0; waitpid(pid, &status, WNOHANG) == 0; waited++) {
        char *text = text_of(c->output);
        bool there = count_lines(text) >= lines;

        free(text);
        if (there) {
            wait_ms(ms);
            (void)kill(pid, number);
            cr_assert_eq(waitpid(pid, &status, 0), pid);
            break;
        }
        if (waited == 60000) (void)kill(pid, SIGKILL);
        cr_assert_lt(waited, 60000, "the sweep does not get on");
        wait_ms(1);
    }
    if (said) *said = text_of(path);
    return status;
}

static char *whole_lines(char *text)
{
    char *end = strrchr(text, '\n');

    *(end ? end + 1 : text) = '\0';
    return text;
}

/* Points without what the clock said. */
static json_t *untimed(const char *path)
{
    static const char *const timed[] = {"seconds",
                                        "draft_seconds",
                                        "verify_seconds",
                                        "tokens_per_s",
                                        "relative_latency",
                                        "seconds_per_1000_tokens",
                                        "verifier_seconds_per_1000_tokens",
                                        "relative_cost_per_token"};
    char *text = text_of(path);
    json_t *lines = parse_lines(text);

    for (size_t i = 0; i < json_array_size(lines); i++) {
        for (size_t k = 0; k < sizeof timed / sizeof *timed; k++) {
            cr_expect_eq(json_object_del(json_array_get(lines, i), timed[k]), 0, "%s", timed[k]);
        }
    }
    free(text);
    return lines;
}

Test(bench_resume, a_sweep_killed_at_any_moment_loses_and_doubles_nothing, .timeout = 240)
{
    static const struct {
        int32_t lines;
        long ms;
    } moments[] = {{0, 0}, {0, 30}, {1, 0}, {1, 25}, {2, 3}, {4, 40}, {5, 0}, {POINTS - 1, 10}};
    folder f = folder_open();
    command whole, cut;
    spawn_result r;
    json_t *expected, *found;

    write_data(&f);
    make_command(&f, "whole.jsonl", &whole);
    make_command(&f, "cut.jsonl", &cut);
    r = run(&whole);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        char *before = whole_lines(text_of(cut.output)), *after;

        (void)run_until(&cut, moments[i].lines, moments[i].ms, SIGKILL, NULL);
        after = text_of(cut.output);
        cr_expect_eq(strncmp(before, after, strlen(before)), 0, "moment %d", (int)i);
        free(before);
        free(after);
    }
    r = run(&cut);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    expected = untimed(whole.output);
    found = untimed(cut.output);
    cr_assert_eq(json_array_size(expected), POINTS);
    cr_expect(json_equal(found, expected));
    json_decref(expected);
    json_decref(found);
    folder_close(&f);
}

Test(bench_resume, an_interrupted_sweep_says_how_it_goes_on)
{
    folder f = folder_open();
    command c;
    char *said, *text;
    int status;

    write_data(&f);
    make_command(&f, "out.jsonl", &c);
    status = run_until(&c, 2, 0, SIGINT, &said);
    cr_assert(WIFEXITED(status));
    cr_expect_eq(WEXITSTATUS(status), 130);
    cr_expect_not_null(strstr(said, "interrupted"), "%s", said);
    cr_expect_not_null(strstr(said, "the same command goes on"), "%s", said);
    text = text_of(c.output);
    cr_expect_geq(count_lines(text), 2);
    cr_expect_lt(count_lines(text), POINTS);
    cr_expect_eq(text[strlen(text) - 1], '\n');
    free(text);
    free(said);
    folder_close(&f);
}

/* A last line that was cut, at any of its bytes, runs again; those before it stay as they are. */
Test(bench_resume, a_line_cut_short_is_told_and_run_again)
{
    folder f = folder_open();
    command c;
    spawn_result r;
    char *text, *now;
    size_t last;

    write_data(&f);
    make_command(&f, "out.jsonl", &c);
    r = run(&c);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    text = text_of(c.output);
    text[strlen(text) - 1] = '\0';
    last = (size_t)(strrchr(text, '\n') + 1 - text);
    for (size_t cut = last + 1; cut <= strlen(text); cut += (strlen(text) - last) / 5) {
        folder_write(&f, "out.jsonl", text, cut);
        r = run(&c);
        cr_expect_eq(r.code, 0, "%s", r.err);
        cr_expect_not_null(strstr(r.err, "line 6 was cut short"), "%s", r.err);
        cr_expect_not_null(strstr(r.err, "1 points run"), "%s", r.err);
        spawn_free(&r);
        now = text_of(c.output);
        cr_expect_eq(strncmp(now, text, last), 0);
        cr_expect_eq(count_lines(now), POINTS);
        free(now);
    }
    free(text);
    folder_close(&f);
}

Test(bench_resume, no_room_for_results_is_one_clear_line)
{
    folder f = folder_open();
    command c;
    spawn_result r;
    char *text, *before;

    write_data(&f);
    make_command(&f, "out.jsonl", &c);
    c.args[3] = "/dev/full";
    r = run(&c);
    cr_expect_eq(r.code, 6);
    cr_expect_not_null(strstr(r.err, "/dev/full: cannot be written"), "%s", r.err);
    cr_expect_eq(count_lines(r.err), 1, "%s", r.err);
    spawn_free(&r);

    /* Room for some of the points. */
    c.args[3] = c.output;
    r = spawn(c.args, &(const spawn_options){.program = SPC_SWEEP, .file_bytes = 5000});
    cr_expect_eq(r.code, 6);
    cr_expect_not_null(strstr(r.err, "cannot be written"), "%s", r.err);
    spawn_free(&r);
    before = text_of(c.output);
    cr_expect(count_lines(before) > 0 && count_lines(before) < POINTS, "%s", before);
    cr_expect_eq(before[strlen(before) - 1], '\n', "nothing of the line that had no room");
    r = run(&c);
    cr_expect_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    text = text_of(c.output);
    cr_expect_eq(strncmp(text, before, strlen(before)), 0);
    cr_expect_eq(count_lines(text), POINTS);
    free(text);
    free(before);
    folder_close(&f);
}

Test(bench_resume, results_of_other_settings_are_not_gone_on_with)
{
    static const char *const other[][2] = {{"--max-tokens", "7"}, {"--metric", "chrf"},
                                           {"--rows", "3"},       {"--seeds", "3"},
                                           {"--every", "2"},      {"--threads", "2"}};
    folder f = folder_open();
    command c;
    spawn_result r;
    char *before, *after;

    write_data(&f);
    make_command(&f, "out.jsonl", &c);
    c.args[5] = "drafter-only";
    r = run(&c);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    before = text_of(c.output);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        memcpy(c.args + 12, other[i], sizeof other[i]);
        r = run(&c);
        cr_expect_eq(r.code, 6);
        cr_expect_not_null(strstr(r.err, "line 1 was measured with"), "%s", r.err);
        cr_expect_eq(count_lines(r.err), 1);
        spawn_free(&r);
    }
    c.args[12] = NULL;
    folder_write(&f, "data.tsv", "de\tone\tein\n", 11); /* other texts under the same name */
    r = run(&c);
    cr_expect_eq(r.code, 6, "%s", r.err);
    spawn_free(&r);
    after = text_of(c.output);
    cr_expect_str_eq(before, after);
    free(before);
    free(after);
    folder_close(&f);
}

/* 0 is another number on another machine: what is recorded, and gone on with, is how many ran. */
Test(bench_resume, threads_are_recorded_as_those_that_ran)
{
    folder f = folder_open();
    char number[16];
    command c;
    spawn_result r;
    char *text;
    json_t *line;
    json_int_t threads;

    write_data(&f);
    make_command(&f, "out.jsonl", &c);
    c.args[5] = "drafter-only";
    c.args[9] = "0";
    r = run(&c);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    text = text_of(c.output);
    line = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL); /* the first of two */
    threads = json_integer_value(json_object_get(line, "threads"));
    cr_assert_gt(threads, 0, "%s", text);
    (void)snprintf(number, sizeof number, "%d", (int)threads);
    c.args[9] = number;
    r = run(&c);
    cr_expect_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    json_decref(line);
    free(text);
    text = text_of(c.output);
    cr_expect_eq(count_lines(text), 2, "nothing was left to measure: %s", text);
    free(text);
    folder_close(&f);
}

#define DEMO_DRAFTER SPC_SOURCE_DIR "/weights/demo/drafter"

/* The demo drafter under a name, as it is or with its last byte changed. */
static void write_model(const folder *f, bool other)
{
    size_t bytes;
    char *text = read_file(DEMO_DRAFTER "/model.safetensors", &bytes);

    if (other) text[bytes - 1] ^= 1;
    folder_write(f, "model.safetensors", text, bytes);
    free(text);
}

/* The same name, the same shapes, other weights. */
Test(bench_resume, a_sweep_does_not_go_on_with_another_model)
{
    static const char *const files[] = {"config.json", "tokenizer.json"};
    folder f = folder_open(), model = folder_open();
    command c;
    spawn_result r;

    for (int32_t i = 0; i < 2; i++) {
        char from[FOLDER_PATH];

        (void)snprintf(from, sizeof from, "%s/%s", DEMO_DRAFTER, files[i]);
        folder_copy(&model, from, files[i], SIZE_MAX);
    }
    write_model(&model, false);
    write_data(&f);
    make_command(&f, "out.jsonl", &c);
    c.args[5] = "drafter-only";
    c.args[12] = "--drafter";
    c.args[13] = model.path;
    r = run(&c);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    write_model(&model, false); /* written anew it is still the same */
    r = run(&c);
    cr_expect_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    write_model(&model, true);
    r = run(&c);
    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect(strstr(r.err, "line 1 was measured with drafter_hash "), "%s", r.err);
    cr_expect_eq(count_lines(r.err), 1, "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
    folder_close(&model);
}

Test(bench_resume, two_sweeps_do_not_write_to_one_file)
{
    folder f = folder_open();
    command c;
    spawn_result r;
    int fd;

    write_data(&f);
    make_command(&f, "out.jsonl", &c);
    fd = open(c.output, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    cr_assert_eq(flock(fd, LOCK_EX), 0);
    r = run(&c);
    cr_expect_eq(r.code, 6);
    cr_expect_not_null(strstr(r.err, "another sweep"), "%s", r.err);
    spawn_free(&r);
    (void)close(fd);
    folder_close(&f);
}
