/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_point.c - spc tune chooses operating points from a sweep; spc run takes one. */
#include "folder.h"
#include "spawn.h"

#include <criterion/criterion.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

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
    } cases[] = {
        {points, "--max-relative-latency", "0.1", 6, "none of its 3 points"},
        {points, "--min-quality", "99", 6, "none of its 3 points"},
        {points, "--seed", "1", 2, "needs --max-relative-latency"},
        {"{}", "--min-quality", "1", 6, "JSON array"},
        {"[{}]", "--min-quality", "1", 6, "point 0"},
        {"[", "--min-quality", "1", 6, "points.json"},
        {"[{\"rule\":\"strict\",\"gamma\":1,\"temperature\":1e-300,\"top_p\":1,\"value\":1,"
         "\"relative_latency\":1}]",
         "--min-quality", "1", 6, "\"temperature\" of 0, or of 0.0001 to 100"},
        {"[{\"rule\":\"strict\",\"gamma\":1,\"temperature\":0,\"top_p\":1,\"bonus_mode\":\"none\","
         "\"value\":1,"
         "\"relative_latency\":1}]",
         "--min-quality", "1", 6, "\"bonus_mode\": \"target\", \"verifier\" or \"step\""},
        {"[{\"rule\":\"strict\",\"gamma\":1,\"temperature\":0,\"top_p\":1,\"bonus_mode\":\"step\","
         "\"verify\":\"block\",\"value\":1,\"relative_latency\":1}]",
         "--min-quality", "1", 2, "no bonus step"},
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

/* What was measured with other models says nothing of these; where they lie does not matter. */
Test(host_cli_point, a_point_of_other_models_is_warned_of)
{
    static const struct {
        const char *models, *rule, *vocab;
        bool warns;
    } cases[] = {
        {"", "strict", NULL, false},
        {"\"verifier\":\"embedded:verifier\",", "strict", NULL, false},
        {"\"verifier\":\"other\",", "strict", NULL, true},
        {"\"verifier\":\"embedded:verifier\",\"drafter\":\"a/b/embedded:drafter//\",", "strict",
         NULL, false},
        {"\"verifier\":\"embedded:verifier\",\"drafter\":\"small\",", "strict", NULL, true},
        {"\"verifier\":\"embedded:verifier\",\"drafter\":\"small\",", "verifier-only", NULL, false},
        {"\"verifier\":\"embedded:verifier\",", "strict", "3000", true},
        {"\"verifier\":\"embedded:verifier\",\"drafter_vocab\":\"3000\",", "strict", NULL, true},
        {"\"verifier\":\"embedded:verifier\",\"drafter_vocab\":\"3000\",", "strict", "3000",
         false}};
    folder f = folder_open();
    char path[FOLDER_PATH], text[512];

    folder_path(&f, "points.json", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        (void)snprintf(text, sizeof text,
                       "[{%s\"rule\":\"%s\",\"gamma\":3,\"temperature\":0,\"top_p\":1,\"value\":40,"
                       "\"relative_latency\":0.8}]",
                       cases[i].models, cases[i].rule);
        folder_write(&f, "points.json", text, strlen(text));

        spawn_result r =
            SPAWN(NULL, "run", "--quiet", "--to", "de", "--operating-point", path, "--min-quality",
                  "1", "Hello.", cases[i].vocab ? "--drafter-vocab" : NULL, cases[i].vocab);

        cr_expect_eq(r.code, 0, "case %d: %s", (int)i, r.err);
        cr_expect_eq(strstr(r.err, "warning: ") != NULL, cases[i].warns, "case %d: %s", (int)i,
                     r.err);
        spawn_free(&r);
    }
    folder_close(&f);
}

/* ---- spc tune ---- */

/* A line of a sweep; and with fields that lines have not always had. */
#define LINE(rule, seed, value, latency, calls) LINE_WITH("", rule, seed, value, latency, calls)
#define LINE_WITH(more, rule, seed, value, latency, calls)                                 \
    "{" more "\"key\":\"k\",\"bench\":\"sweep\",\"rule\":\"" rule                          \
    "\",\"gamma\":5,\"temperature\":0,\"top_p\":1,\"seed\":" #seed                         \
    ",\"verify\":\"token\",\"verifier\":\"a\",\"drafter\":\"b\",\"metric\":\"bleu\","      \
    "\"examples\":10,\"max_tokens\":8,\"value\":" #value ",\"relative_latency\":" #latency \
    ",\"verifier_calls_per_token\":" #calls "}\n"

/* strict is beaten in time, but not in calls; diff is beaten in both by opt's mean of two seeds. */
static const char sweep[] = "{\"date\":\"a recorded run begins like this\"}\n" /* */
    LINE("strict", 0, 40, 1.0, 0.30)                                           /* */
    LINE("token-v3:alpha=0.5", 0, 41, 0.8, 0.35)                               /* */
    LINE("opt:alpha=0.2", 0, 35, 0.5, 0.2)                                     /* */
    LINE_WITH("\"bonus_mode\":\"target\",", "opt:alpha=0.2", 1, 37, 0.7, 0.3)  /* */
    LINE("opt:alpha=0.2", 0, 35, 0.5, 0.2)      /* once more, as where two sweeps have it */
    LINE("diff:alpha=0.1", 0, 35.5, 0.65, 0.26) /* */
    "{\"bench\":\"sweep\",\"rule\":\"chow:alpha=1\",\"gamma\":5,\"failed\":\"why\"}\n";

static json_t *rules_of(const json_t *front)
{
    json_t *rules = json_array();

    for (size_t i = 0; i < json_array_size(front); i++) {
        (void)json_array_append(rules, json_object_get(json_array_get(front, i), "rule"));
    }
    return rules;
}

static void expect_rules(const json_t *front, const char *expected)
{
    json_t *rules = rules_of(front);
    char *text = json_dumps(rules, JSON_COMPACT);

    cr_expect_str_eq(text, expected);
    free(text);
    json_decref(rules);
}

Test(host_cli_point, tune_keeps_what_no_other_point_beats)
{
    folder f = folder_open();
    char path[FOLDER_PATH], points_path[FOLDER_PATH];
    json_error_t why;
    spawn_result r;
    json_t *list;

    folder_write(&f, "sweep.jsonl", sweep, strlen(sweep));
    folder_path(&f, "sweep.jsonl", path);
    folder_path(&f, "points.json", points_path);
    r = SPAWN(NULL, "tune", path, "--output", points_path);
    cr_assert_eq(r.code, 0, "%s", r.err);
    cr_expect_not_null(strstr(r.err, "points on the front: 2 of 4"), "%s", r.err);
    cr_expect_not_null(strstr(r.err, "1 had failed"), "%s", r.err);
    cr_expect_not_null(strstr(r.out, "token-v3:alpha=0.5"), "the table: %s", r.out);
    spawn_free(&r);
    list = json_load_file(points_path, 0, &why);
    cr_assert_not_null(list, "%s", why.text);
    expect_rules(list, "[\"token-v3:alpha=0.5\",\"opt:alpha=0.2\"]");

    const json_t *opt = json_array_get(list, 1);

    cr_expect_float_eq(json_number_value(json_object_get(opt, "value")), 36, 1e-9, "two seeds");
    cr_expect_float_eq(json_number_value(json_object_get(opt, "relative_latency")), 0.6, 1e-9);
    cr_expect_float_eq(json_number_value(json_object_get(opt, "tokens_per_verifier_call")), 4,
                       1e-9);
    cr_expect_float_eq(json_number_value(json_object_get(opt, "alpha")), 0.2, 1e-9);
    cr_expect_eq(json_integer_value(json_object_get(opt, "seeds")), 2);
    cr_expect_str_eq(json_string_value(json_object_get(opt, "verifier")), "a");
    cr_expect_str_eq(json_string_value(json_object_get(opt, "drafter")), "b");
    json_decref(list);
    r = SPAWN(NULL, "tune", "--json", "--cost", "calls", path);
    list = json_loads(r.out, 0, &why);
    cr_assert_not_null(list, "%s", r.out);
    expect_rules(list, "[\"token-v3:alpha=0.5\",\"strict\",\"opt:alpha=0.2\"]");
    json_decref(list);
    spawn_free(&r);
    r = SPAWN(NULL, "run", "--json", "--to", "de", "--operating-point", points_path,
              "--max-relative-latency", "0.7", "Where is my coat?");
    cr_expect_not_null(strstr(r.err, "opt:alpha=0.2"), "run reads what tune writes: %s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

/* Points that differ in nothing else would look alike. */
Test(host_cli_point, what_is_not_the_default_is_told_of_a_point)
{
    static const char two[] = LINE_WITH("\"top_k\":5,\"min_p\":0.25,\"batch\":4,"
                                        "\"bonus_mode\":\"verifier\",\"nucleus\":false,",
                                        "strict", 0, 40, 1.0, 0.30)
        LINE_WITH("\"top_k\":0,\"min_p\":0,\"batch\":1,", "strict", 0, 30, 0.5, 0.30);
    static const char more[] = "top-k 5, min-p 0.25, bonus verifier, no nucleus";
    folder f = folder_open();
    char path[FOLDER_PATH], chosen[FOLDER_PATH], row[128];

    folder_write(&f, "sweep.jsonl", two, strlen(two));
    folder_path(&f, "sweep.jsonl", path);
    folder_path(&f, "points.json", chosen);
    (void)snprintf(row, sizeof row, "0.300  %s, batch 4\n", more);

    spawn_result r = SPAWN(NULL, "tune", path, "--output", chosen);

    cr_expect(strstr(r.out, row), "%s", r.out);
    cr_expect(strstr(r.out, "0.300\n"), "%s", r.out);
    spawn_free(&r);
    (void)snprintf(row, sizeof row, "top-p 1, %s: quality 40.00", more);
    r = SPAWN(NULL, "run", "--to", "de", "--operating-point", chosen, "--max-relative-latency", "1",
              "Hello.");
    cr_expect(strstr(r.err, row), "%s", r.err);
    spawn_free(&r);
    r = SPAWN(NULL, "run", "--to", "de", "--operating-point", chosen, "--min-quality", "1",
              "Hello.");
    cr_expect(strstr(r.err, "top-p 1: quality 30.00"), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

/* A sweep writes null where it had nothing to divide by: that says nothing of the other points. */
Test(host_cli_point, tune_leaves_out_points_without_a_number)
{
    static const char some[] = LINE("strict", 0, 40, 1.0, 0.30) LINE("opt:alpha=0", 0, 50, null, 1)
        LINE("chow:alpha=1", 0, null, 1, 1) LINE("opt:alpha=0.2", 0, 35, 0.5, 0.2);
    static const char none[] = LINE("strict", 0, 40, null, 0.30);
    folder f = folder_open();
    char path[FOLDER_PATH];
    json_error_t why;
    spawn_result r;
    json_t *list;

    folder_path(&f, "sweep.jsonl", path);
    folder_write(&f, "sweep.jsonl", some, strlen(some));
    r = SPAWN(NULL, "tune", "--json", path);
    cr_assert_eq(r.code, 0, "%s", r.err);
    list = json_loads(r.out, 0, &why);
    expect_rules(list, "[\"strict\",\"opt:alpha=0.2\"]");
    cr_expect(strstr(r.err, "left out 2 points without a measured number, the first in line 2, "
                            "whose relative_latency is null"),
              "%s", r.err);
    cr_expect(strstr(r.err, "points on the front: 2 of 2"), "%s", r.err);
    json_decref(list);
    spawn_free(&r);
    folder_write(&f, "sweep.jsonl", none, strlen(none));
    r = SPAWN(NULL, "tune", path);
    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect(strstr(r.err, "left out 1 point "), "%s", r.err);
    cr_expect(strstr(r.err, "no finished point"), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

#define WITH_INTERVAL(low, high) "\"ci_low\":" #low ",\"ci_high\":" #high ","

/* The front is of means; how sure they are is told. */
Test(host_cli_point, tune_tells_how_sure_a_quality_is)
{
    static const char four[] = LINE_WITH(WITH_INTERVAL(41, 45), "strict", 0, 43, 1.0, 0.30) /* */
        LINE_WITH(WITH_INTERVAL(38, 42), "token-v3:alpha=0.5", 0, 40, 0.8, 0.30)            /* */
        LINE_WITH(WITH_INTERVAL(30, 34), "opt:alpha=0.2", 0, 32, 0.7, 0.30)                 /* */
        LINE_WITH(WITH_INTERVAL(31, 37), "opt:alpha=0.2", 1, 34, 0.7, 0.30)                 /* */
        LINE("chow:alpha=1", 0, 20, 0.1, 0.1);
    folder f = folder_open();
    char path[FOLDER_PATH];
    json_error_t why;
    spawn_result r;
    json_t *list, *opt;

    folder_path(&f, "sweep.jsonl", path);
    folder_write(&f, "sweep.jsonl", four, strlen(four));
    r = SPAWN(NULL, "tune", "--json", path);
    cr_assert_eq(r.code, 0, "%s", r.err);
    cr_expect(strstr(r.err, "95 % intervals of quality of 1 of 3 neighbours overlap"), "%s", r.err);
    list = json_loads(r.out, 0, &why);
    cr_assert_eq(json_array_size(list), 4, "overlapping points are kept: %s", r.out);
    opt = json_array_get(list, 2);
    cr_expect_float_eq(json_number_value(json_object_get(opt, "ci_low")), 30.5, 1e-9);
    cr_expect_float_eq(json_number_value(json_object_get(opt, "ci_high")), 35.5, 1e-9);
    cr_expect_null(json_object_get(json_array_get(list, 3), "ci_low"), "the sweep has none");
    json_decref(list);
    spawn_free(&r);
    r = SPAWN(NULL, "tune", path);
    cr_expect(strstr(r.out, "43.00 41.00-45.00"), "%s", r.out);
    spawn_free(&r);
    folder_close(&f);
}

Test(host_cli_point, tune_says_what_it_cannot_use)
{
    static const struct {
        const char *file, *word;
    } cases[] = {
        {"", "no finished point"},
        {"{}\n", "no finished point"},
        {"{\n", "line 1"},
        {LINE("strict", 0, 1, 1, 1) "{\"bench\":\"sweep\",\"rule\":\"strict\"}\n", "line 2"},
        {LINE("nothing", 0, 1, 1, 1), "unknown rule 'nothing'"},
        {LINE("strict", 0, 1, 1, 1) "{\"bench\":\"sweep\",\"rule\":\"strict\",\"gamma\":5,"
                                    "\"metric\":\"chrf\",\"value\":1,"
                                    "\"relative_latency\":1,"
                                    "\"verifier_calls_per_token\":1}\n",
         "metric is \"chrf\", but \"bleu\""},
        {LINE("strict", 0, 1, 1, 1) LINE_WITH("\"drafter_vocab\":\"9\",", "strict", 1, 1, 1, 1),
         "drafter_vocab is \"9\", but missing"},
        {LINE("strict", 0, 1, 1, 1) LINE_WITH("\"chat_template\":\"a\",", "strict", 1, 1, 1, 1),
         "chat_template is \"a\", but missing"},
        {LINE("strict", 0, 1, 1, 1) LINE_WITH("\"seeds\":[0,1],", "strict", 0, 1, 1, 1),
         "line 2: some seeds of strict are those of a line before"},
        {LINE("strict", 0, 1, 1, 1) LINE_WITH("\"ask\":\"a\",", "strict", 1, 1, 1, 1),
         "ask is \"a\", but missing"},
        {LINE_WITH("\"context\":9,", "strict", 0, 1, 1, 1) LINE("strict", 1, 1, 1, 1),
         "context is missing, but 9"}};
    folder f = folder_open();
    char path[FOLDER_PATH];
    spawn_result r;

    folder_path(&f, "sweep.jsonl", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        folder_write(&f, "sweep.jsonl", cases[i].file, strlen(cases[i].file));
        r = SPAWN(NULL, "tune", path);
        cr_expect_eq(r.code, 6, "case %d: %s", (int)i, r.err);
        cr_expect_not_null(strstr(r.err, cases[i].word), "case %d: %s", (int)i, r.err);
        spawn_free(&r);
    }
    folder_write(&f, "sweep.jsonl", sweep, strlen(sweep));
    r = SPAWN(NULL, "tune", path, "--output", "/nowhere/points.json");
    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect_not_null(strstr(r.err, "/nowhere/points.json"), "%s", r.err);
    spawn_free(&r);
    r = SPAWN(NULL, "tune", "/nowhere/sweep.jsonl");
    cr_expect_eq(r.code, 6, "%s", r.err);
    spawn_free(&r);
    r = SPAWN(NULL, "tune");
    cr_expect_eq(r.code, 2, "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

/* Read a pipe to its end in a child, into a file; the child's id. */
static pid_t read_pipe(const char *pipe, const char *file)
{
    pid_t child = fork();

    cr_assert_geq(child, 0);
    if (child == 0) {
        char text[4096];
        int from = open(pipe, O_RDONLY), to = open(file, O_WRONLY | O_CREAT, 0600);
        ssize_t n;

        (void)alarm(60);
        while ((n = read(from, text, sizeof text)) > 0) {
            if (write(to, text, (size_t)n) != n) _exit(1);
        }
        _exit(n == 0 ? 0 : 1);
    }
    return child;
}

static void tune_into(const char *path, const char *output)
{
    spawn_result r = SPAWN(NULL, "tune", path, "--output", output);

    cr_expect_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
}

/* A rename would put a file in the place of a link or a pipe (or of /dev/null). */
Test(host_cli_point, tune_writes_through_links_and_into_pipes)
{
    folder f = folder_open();
    char path[FOLDER_PATH], real[FOLDER_PATH], link[FOLDER_PATH], later[FOLDER_PATH];
    char pipe[FOLDER_PATH], dangling[FOLDER_PATH], got[FOLDER_PATH];
    struct stat there;
    int status;

    folder_write(&f, "sweep.jsonl", sweep, strlen(sweep));
    folder_write(&f, "real.json", "old", 3);
    folder_path(&f, "sweep.jsonl", path);
    folder_path(&f, "real.json", real);
    folder_path(&f, "link.json", link);
    folder_path(&f, "dangling.json", dangling);
    folder_path(&f, "later.json", later);
    folder_path(&f, "pipe", pipe);
    folder_path(&f, "got.json", got);
    cr_assert_eq(chmod(real, 0640), 0);
    cr_assert_eq(symlink("real.json", link), 0);
    cr_assert_eq(symlink("later.json", dangling), 0);
    cr_assert_eq(mkfifo(pipe, 0600), 0);
    tune_into(path, link);
    tune_into(path, dangling);
    cr_assert_eq(lstat(link, &there), 0);
    cr_expect(S_ISLNK(there.st_mode), "the link stays");
    cr_assert_eq(lstat(dangling, &there), 0);
    cr_expect(S_ISLNK(there.st_mode), "and one that led nowhere");
    cr_assert_eq(stat(real, &there), 0);
    cr_expect_eq(there.st_mode & 07777, 0640, "as readable as before");

    pid_t reader = read_pipe(pipe, got);

    tune_into(path, pipe);
    cr_assert_eq(waitpid(reader, &status, 0), reader);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(lstat(pipe, &there), 0);
    cr_expect(S_ISFIFO(there.st_mode), "the pipe stays");

    json_t *expected = read_json(real), *list[] = {read_json(later), read_json(got)};

    cr_expect_eq(json_array_size(expected), 2);
    for (int32_t i = 0; i < 2; i++) {
        cr_expect(json_equal(list[i], expected));
        json_decref(list[i]);
    }
    json_decref(expected);
    cr_expect_eq(folder_count(&f), 7, "nothing is left beside them");
    folder_close(&f);
}

/* What a sweep can vary, a point carries. */
Test(host_cli_point, a_point_brings_its_sampling_and_verification)
{
    static const char *const files[] = {
        "[{\"rule\":\"strict\",\"gamma\":3,\"temperature\":1,\"top_p\":1,\"top_k\":1,"
        "\"value\":4,\"relative_latency\":0.8}]",
        "[{\"rule\":\"strict\",\"gamma\":3,\"temperature\":1,\"top_p\":1,\"min_p\":1,"
        "\"verify\":\"block\",\"value\":4,\"relative_latency\":0.8}]",
        "[{\"rule\":\"cactus:delta=0\",\"gamma\":3,\"temperature\":0,\"top_p\":1,\"value\":4,"
        "\"relative_latency\":0.8}]"};
    spawn_result greedy = SPAWN(NULL, "run", "--to", "de", "Where is my coat?"), r;
    folder f = folder_open();
    char path[FOLDER_PATH];

    folder_path(&f, "points.json", path);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        folder_write(&f, "points.json", files[i], strlen(files[i]));
        r = SPAWN(NULL, "run", "--to", "de", "--operating-point", path, "--min-quality", "1",
                  "Where is my coat?");
        cr_expect_eq(r.code, 0, "%s", r.err);
        cr_expect_str_eq(r.out, greedy.out, "point %d leaves one token a step", (int)i);
        spawn_free(&r);
    }
    spawn_free(&greedy);
    folder_close(&f);
}
