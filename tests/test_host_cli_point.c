/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_point.c - spc run with an operating point that a sweep has measured. */
#include "folder.h"
#include "spawn.h"

#include <criterion/criterion.h>

static const char points[] =
    "[{\"rule\":\"token-v3:alpha=0.5\",\"gamma\":3,\"temperature\":0,\"top_p\":1,\"value\":40,"
    "\"relative_latency\":0.8},"
    "{\"rule\":\"opt:alpha=0.2\",\"gamma\":5,\"temperature\":0,\"top_p\":1,\"value\":36,"
    "\"relative_latency\":0.6},"
    "{\"rule\":\"strict\",\"gamma\":4,\"temperature\":0,\"top_p\":1,\"value\":41,"
    "\"relative_latency\":0.9}]";

Test(host_cli_point, an_operating_point_is_chosen_within_its_limit)
{
    static const struct {
        const char *limit, *value, *rule;
        int32_t gamma;
    } cases[] = {{"--max-relative-latency", "0.85", "token-v3:alpha=0.5", 3},
                 {"--max-relative-latency", "1", "strict", 4},
                 {"--max-relative-latency", "0.6", "opt:alpha=0.2", 5},
                 {"--min-quality", "35", "opt:alpha=0.2", 5},
                 {"--min-quality", "40", "token-v3:alpha=0.5", 3},
                 {"--min-quality", "40.5", "strict", 4}};
    folder f = folder_open();
    char path[FOLDER_PATH];

    folder_write(&f, "points.json", points, strlen(points));
    folder_path(&f, "points.json", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spawn_result r = SPAWN(NULL, "run", "--json", "--to", "de", "--operating-point", path,
                               cases[i].limit, cases[i].value, "Where is my coat?");
        json_t *lines = parse_lines(r.out);
        const json_t *line = json_array_get(lines, 0);

        cr_assert_eq(r.code, 0, "%s", r.err);
        cr_expect_str_eq(json_string_value(json_object_get(line, "rule")), cases[i].rule);
        cr_expect_eq(json_integer_value(json_object_get(line, "gamma")), cases[i].gamma);
        cr_expect_not_null(strstr(r.err, cases[i].rule), "it says what it took: %s", r.err);
        json_decref(lines);
        spawn_free(&r);
    }
    folder_close(&f);
}

Test(host_cli_point, operating_points_that_cannot_be_taken_are_refused)
{
    static const struct {
        const char *file, *option, *value;
        int code;
        const char *word;
    } cases[] = {{points, "--max-relative-latency", "0.1", 6, "none of its 3 points"},
                 {points, "--min-quality", "99", 6, "none of its 3 points"},
                 {points, "--seed", "1", 2, "needs --max-relative-latency"},
                 {"{}", "--min-quality", "1", 6, "JSON array"},
                 {"[{}]", "--min-quality", "1", 6, "point 0"},
                 {"[", "--min-quality", "1", 6, "points.json"},
                 {"[{\"rule\":\"foo\"}]", "--min-quality", "1", 6, "unknown rule"}};
    folder f = folder_open();
    char path[FOLDER_PATH];
    spawn_result r;

    folder_path(&f, "points.json", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        folder_write(&f, "points.json", cases[i].file, strlen(cases[i].file));
        r = SPAWN(NULL, "run", "--operating-point", path, cases[i].option, cases[i].value, "x");
        cr_expect_eq(r.code, cases[i].code, "case %d: %s", (int)i, r.err);
        cr_expect_not_null(strstr(r.err, cases[i].word), "case %d: %s", (int)i, r.err);
        spawn_free(&r);
    }
    r = SPAWN(NULL, "run", "--operating-point", path, "--min-quality", "1", "--rule", "strict",
              "x");
    cr_expect_eq(r.code, 2, "%s", r.err);
    spawn_free(&r);
    r = SPAWN(NULL, "run", "--min-quality", "1", "x");
    cr_expect_eq(r.code, 2, "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}
