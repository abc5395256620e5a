/* SPDX-License-Identifier: Apache-2.0 */
/* test_bench_verify.c - the floor that bench_verify divides by, and the program over the CPU. */
#include "bench/verify_floor.h"
#include "bench/verify_place.h"

#include "spawn.h"
#include "toyround.h"

static double floor_of(const char *rule, float temperature, int32_t verify, int32_t bonus,
                       bool statistics, double share, double all_kept, double deferred)
{
    spc_row_params p = params_of(rule, temperature);

    p.verify = verify;
    p.bonus = bonus;
    return floor_rows(&p, 5, statistics, share, (floor_facts){all_kept, deferred});
}

/* The table of the design: G = 5, acceptance 0.7 (all kept 0.168), deferral 0.3. */
Test(bench_verify, floor_counts_rows)
{
    static const struct {
        const char *rule;
        float temperature;
        int32_t verify, bonus;
        bool statistics;
        double rows, rows_of_quarter; /* of a drafter that knows a quarter of the tokens */
    } table[] = {{"strict", 1, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER, true, 6, 5.376},
                 {"token-v3:alpha=0.5", 1, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER, true, 6, 5.376},
                 {"strict", 1, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, true, 6, 5.376},
                 {"diff:alpha=0.1", 1, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, true, 6.168, 5.418},
                 {"strict", 0, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER, true, 5.168, 5.168},
                 {"chow:alpha=0.5", 1, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER, true, 2.5, 1.876},
                 {"opt:alpha=0.1", 1, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER, true, 11, 6.626},
                 {"strict", 1, SPC_VERIFY_BLOCK, SPC_BONUS_VERIFIER, true, 11, 6.626},
                 {"strict", 1, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER, false, 10.168, 6.418}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        for (int quarter = 0; quarter < 2; quarter++) {
            const double rows =
                floor_of(table[i].rule, table[i].temperature, table[i].verify, table[i].bonus,
                         table[i].statistics, quarter ? 0.25 : 1, 0.168, 0.3);

            cr_expect_float_eq(rows, quarter ? table[i].rows_of_quarter : table[i].rows, 1e-12,
                               "%s, line %zu: %.12g", table[i].rule, i, rows);
        }
    }
}

static spawn_result run(const char *const *arguments)
{
    return spawn(arguments, &(const spawn_options){.program = SPC_BENCH_VERIFY});
}

Test(bench_verify, lines_say_what_was_measured)
{
    spawn_result r =
        run((const char *const[]){"--device", "cpu", "--shape", "3,2,500", "--rules",
                                  "strict;token-v3:alpha=0.5", "--runs", "3", "--json", NULL});
    char *line = r.out;
    int lines = 0;

    cr_assert_eq(r.code, 0, "%s", r.err);
    while (*line) {
        char *end = strchr(line, '\n');
        json_t *json;

        cr_assert_not_null(end);
        *end = '\0';
        json = json_loads(line, 0, NULL);
        cr_assert_not_null(json, "%s", line);
        cr_expect_str_eq(json_string_value(json_object_get(json, "what")),
                         lines == 0 ? "draw" : "verify");
        cr_expect_gt(json_number_value(json_object_get(json, "us")), 0);
        cr_expect_gt(json_number_value(json_object_get(json, "read_us")), 0);
        cr_expect_eq(json_integer_value(json_object_get(json, "vocab")), 500);
        if (lines > 0) {
            cr_expect_eq(json_number_value(json_object_get(json, "floor_rows")), 3);
            cr_expect_eq(json_number_value(json_object_get(json, "floor_bytes")),
                         3 * 3 * 500 * 2 / 16 * 16);
        }
        json_decref(json);
        lines++;
        line = end + 1;
    }
    cr_expect_eq(lines, 3);
    spawn_free(&r);
}

/* When it was called: the least time between two calls. */
typedef struct {
    uint64_t last, least;
} calls;

static bool note_call(void *user, int32_t set, spc_stream stream)
{
    calls *c = user;
    uint64_t now = measure_now_ns();

    (void)set;
    (void)stream;
    if (c->last > 0 && now - c->last < c->least) c->least = now - c->last;
    c->last = now;
    return true;
}

/* Other things are read between cold runs, more than a cache holds, and none of that is timed. */
Test(bench_verify, caches_are_emptied_before_cold_runs)
{
    bench_place place;

    cr_assert(place_open_cpu(&place));
    for (place_way way = PLACE_COLD; way <= PLACE_EAGER; way++) {
        calls c = {0, UINT64_MAX};
        measure_times us;

        cr_assert(place.time(&place, note_call, &c, 3, 5, way, &us));
        cr_expect_eq(c.least > 1000000u, way == PLACE_COLD, "%d: %.0f us", (int)way,
                     (double)c.least * 1e-3);
        cr_expect_lt(us.median, 1000);
    }
    place.close(&place);
}

/* A drafter that knows some of the tokens: its rows are that much shorter. */
Test(bench_verify, a_drafter_may_know_some_tokens)
{
    spawn_result r =
        run((const char *const[]){"--device", "cpu", "--shape", "2,2,9000", "--rules",
                                  "opt:alpha=0", "--known", "1000", "--runs", "3", "--json", NULL});
    json_t *lines = parse_lines(r.out), *draw = json_array_get(lines, 0);
    const double floor = json_number_value(json_object_get(json_array_get(lines, 1), "floor_rows"));

    cr_assert_eq(r.code, 0, "%s", r.err);
    cr_assert_eq(json_array_size(lines), 2);
    cr_expect_eq(json_integer_value(json_object_get(draw, "known")), 1000);
    cr_expect_float_eq(json_number_value(json_object_get(draw, "floor_rows")), 1 / 9.0, 1e-6);
    cr_expect(floor >= 2 + 3 / 9.0 - 1e-6 && floor <= 3 + 2 / 9.0 + 1e-6, "%g rows", floor);
    json_decref(lines);
    spawn_free(&r);
}

Test(bench_verify, misuse_is_one_line)
{
    static const char *const bad[][5] = {
        {"--shape", "3,2", NULL}, {"--rules", "nothing", "--device", "cpu", NULL},
        {"--runs", "0", NULL},    {"--dtype", "int8", NULL},
        {"--known", "0", NULL},   {"--known", "2.5", NULL},
        {"--wrong", "1", NULL},   {"--shape", NULL}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        spawn_result r = run(bad[i]);

        cr_expect_eq(r.code, 2, "case %zu: %d", i, r.code);
        cr_expect_eq(strchr(r.err, '\n'), r.err + r.err_bytes - 1, "case %zu: %s", i, r.err);
        cr_expect_not_null(strstr(r.err, i == 1 ? "nothing" : bad[i][0]), "case %zu: %s", i, r.err);
        spawn_free(&r);
    }
}

/* Or bench/record would keep a part of the results as all of them. */
Test(bench_verify, a_full_disk_is_an_error)
{
    static const char *const small[] = {"--device", "cpu",    "--shape", "1,1,100", "--rules",
                                        "strict",   "--runs", "3",       "--json",  NULL};
    const spawn_options full = {.program = SPC_BENCH_VERIFY, .out_path = "/dev/full"};

    for (int table = 0; table < 2; table++) {
        const char *arguments[sizeof small / sizeof *small];

        memcpy(arguments, small, sizeof small);
        if (table) arguments[sizeof small / sizeof *small - 2] = NULL;

        spawn_result r = spawn(arguments, &full);

        cr_expect_eq(r.code, 6, "%d: %s", r.code, r.err);
        cr_expect_not_null(strstr(r.err, "stdout: a result could not be written"), "%s", r.err);
        spawn_free(&r);
    }
}
