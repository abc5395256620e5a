/* SPDX-License-Identifier: Apache-2.0 */
/* test_bench_sweep.c - the sweep: points and their fields, going on after an interruption, bad
 * data.
 */
#include "folder.h"
#include "spawn.h"

#include <criterion/criterion.h>

static const char data[] = "de\tWhere is my coat?\tWo ist mein Mantel?\n"
                           "fr\tHe is tired.\tIl est fatigu\303\251.\n"
                           "es\tThe door was open.\tLa puerta estaba abierta.\n"
                           "de\tThe children are playing in the garden.\tDie Kinder spielen im "
                           "Garten.\n";

/* Run a sweep of data.tsv in the folder into out.jsonl there. */
static spawn_result sweep(const folder *f, const char *rules, const spawn_options *how)
{
    char in[FOLDER_PATH], out[FOLDER_PATH];
    spawn_options o = how ? *how : (spawn_options){0};

    folder_path(f, "data.tsv", in);
    folder_path(f, "out.jsonl", out);
    o.program = SPC_SWEEP;
    return spawn((const char *const[]){"--data", in, "--output", out, "--rules", rules, "--threads",
                                       "1", NULL},
                 &o);
}

static json_t *results_of(const folder *f)
{
    char path[FOLDER_PATH], *text;
    size_t bytes;
    json_t *lines;

    folder_path(f, "out.jsonl", path);
    text = read_file(path, &bytes);
    lines = parse_lines(text);
    free(text);
    return lines;
}

static double real(const json_t *lines, size_t i, const char *name)
{
    const json_t *value = json_object_get(json_array_get(lines, i), name);

    cr_assert(json_is_number(value), "%s", name);
    return json_number_value(value);
}

static const char *text(const json_t *lines, size_t i, const char *name)
{
    return json_string_value(json_object_get(json_array_get(lines, i), name));
}

Test(bench_sweep, every_point_has_its_quality_and_its_cost)
{
    folder f = folder_open();
    spawn_result r;
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    r = sweep(&f, "strict;token-v3:alpha=0.50;drafter-only", NULL);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    lines = results_of(&f);
    cr_assert_eq(json_array_size(lines), 4);
    cr_expect_str_eq(text(lines, 0, "rule"), "verifier-only", "what the others are compared with");
    cr_expect_str_eq(text(lines, 2, "rule"), "token-v3:alpha=0.5", "in canonical form");
    cr_expect(real(lines, 0, "relative_latency") > 0.2 && real(lines, 0, "relative_latency") < 5.0);
    cr_expect_eq(real(lines, 0, "verifier_calls_per_token"), 1.0);
    cr_expect_lt(real(lines, 1, "verifier_calls_per_token"), 1.0);
    cr_expect_eq(real(lines, 3, "verifier_calls"), 0.0);
    for (size_t i = 0; i < 4; i++) {
        cr_expect_eq(real(lines, i, "examples"), 4.0);
        cr_expect_gt(real(lines, i, "tokens"), 0.0);
        cr_expect_leq(real(lines, i, "ci_low"), real(lines, i, "value"));
        cr_expect_geq(real(lines, i, "ci_high"), real(lines, i, "value"));
        cr_expect_gt(real(lines, i, "seconds"), 0.0);
    }
    cr_expect_float_eq(real(lines, 1, "acceptance_rate") + real(lines, 1, "rejection_rate"), 1.0,
                       1e-6);
    json_decref(lines);
    folder_close(&f);
}

Test(bench_sweep, what_is_done_is_not_done_again)
{
    folder f = folder_open();
    spawn_result r;
    json_t *first, *second;
    char path[FOLDER_PATH];
    FILE *file;

    folder_write(&f, "data.tsv", data, strlen(data));
    r = sweep(&f, "strict", NULL);
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    first = results_of(&f);
    folder_path(&f, "out.jsonl", path);
    file = fopen(path, "a"); /* as an interruption in the middle of a line leaves it */
    cr_assert_not_null(file);
    (void)fputs("{\"key\":\"chow:al", file);
    (void)fclose(file);
    r = sweep(&f, "strict;chow:alpha=0.5", NULL);
    cr_assert_eq(r.code, 0, "%s", r.err);
    cr_expect_not_null(strstr(r.err, "1 points run"), "%s", r.err);
    spawn_free(&r);
    second = results_of(&f);
    cr_assert_eq(json_array_size(second), 3);
    for (size_t i = 0; i < 2; i++) {
        cr_expect(json_equal(json_array_get(first, i), json_array_get(second, i)));
    }
    json_decref(first);
    json_decref(second);
    folder_close(&f);
}

Test(bench_sweep, a_point_that_fails_is_recorded_and_the_others_go_on)
{
    folder f = folder_open();
    spawn_result r;
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    r = sweep(&f, "lossy-greedy:alpha=0.5;strict", NULL); /* greedy only, and T is 1 */
    cr_expect_eq(r.code, 1, "%s", r.err);
    cr_expect_not_null(strstr(r.err, "1 failed"), "%s", r.err);
    spawn_free(&r);
    lines = results_of(&f);
    cr_assert_eq(json_array_size(lines), 3);
    cr_expect_not_null(strstr(text(lines, 1, "failed"), "temperature 0"));
    cr_expect_str_eq(text(lines, 2, "rule"), "strict");
    json_decref(lines);
    folder_close(&f);
}

Test(bench_sweep, bad_input_is_named)
{
    static const struct {
        const char *data, *rules;
        int code;
        const char *word;
    } cases[] = {
        {"de\tone\tein\nde\tno reference\n", "strict", 6, "line 2"},
        {"it\tone\tuno\n", "strict", 6, "'it'"},
        {"", "strict", 6, "no examples"},
        {"de\t\xff\tx\n", "strict", 6, "line 1"},
        {"de\tone\tein\n", "stricter", 2, "stricter"},
        {"de\tone\tein\n", "chow:alpha=7", 2, "between 0 and 1"},
    };
    folder f = folder_open();

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spawn_result r;

        folder_write(&f, "data.tsv", cases[i].data, strlen(cases[i].data));
        r = sweep(&f, cases[i].rules, NULL);
        cr_expect_eq(r.code, cases[i].code, "case %d: %s", (int)i, r.err);
        cr_expect_not_null(strstr(r.err, cases[i].word), "case %d: %s", (int)i, r.err);
        cr_expect_eq(count_lines(r.err), 1);
        spawn_free(&r);
    }
    folder_write(&f, "data.tsv", data, strlen(data));
    folder_write(&f, "out.jsonl", "something else\n", 15);

    spawn_result r = sweep(&f, "strict", NULL);

    cr_expect_eq(r.code, 6);
    cr_expect_not_null(strstr(r.err, "line 1 is no result"), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

Test(bench_sweep, unknown_options_and_metrics_are_usage_errors)
{
    static const char *const args[][7] = {
        {"--nope", NULL},
        {"--data", NULL},
        {"--data", "x", NULL},
        {"--data", "x", "--output", "y", "--metric", "blue", NULL},
        {"--data", "x", "--output", "y", "--seed", "a", NULL}};

    for (size_t i = 0; i < sizeof args / sizeof *args; i++) {
        spawn_result r = spawn(args[i], &(const spawn_options){.program = SPC_SWEEP});

        cr_expect_eq(r.code, 2, "case %d: %s", (int)i, r.err);
        cr_expect_eq(count_lines(r.err), 1);
        spawn_free(&r);
    }
}
