/* SPDX-License-Identifier: Apache-2.0 */
/* test_bench_sweep.c - the sweep: points and their fields, going on after an interruption, bad
 * data.
 */
#include "chat_pair.h"
#include "spawn.h"

#include <criterion/criterion.h>

#include <fcntl.h>
#include <sys/wait.h>

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
    /* of four examples, on a machine that may be busy: a number of that size, no more */
    cr_expect_gt(real(lines, 0, "relative_latency"), 0.01);
    cr_expect_lt(real(lines, 0, "relative_latency"), 100.0);
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

/* Run with further arguments; the results. */
static json_t *sweep_with(const folder *f, const char *const *more)
{
    const char *args[32] = {"--threads", "1"};
    char in[FOLDER_PATH], out[FOLDER_PATH];
    int32_t n = 2;
    spawn_result r;

    folder_path(f, "data.tsv", in);
    folder_path(f, "out.jsonl", out);
    (void)unlink(out);
    args[n++] = "--data";
    args[n++] = in;
    args[n++] = "--output";
    args[n++] = out;
    while (*more) args[n++] = *more++;
    r = spawn(args, &(const spawn_options){.program = SPC_SWEEP});
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    return results_of(f);
}

Test(bench_sweep, the_grid_is_all_combinations)
{
    folder f = folder_open();
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    lines = sweep_with(&f, (const char *const[]){"--rules", "strict", "--gamma", "3,5",
                                                 "--temperature", "0,1", "--top-p", "0.5,1",
                                                 "--top-k", "0,8", "--min-p", "0.1", NULL});
    cr_assert_eq(json_array_size(lines), 2 * 2 * 2 * (1 + 2));
    cr_expect_str_eq(text(lines, 3, "rule"), "verifier-only", "each condition has its own");
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);

        cr_expect_eq(real(lines, i, "min_p"), 0.1);
        cr_expect_eq(real(lines, i, "temperature"), (double)(i / 12));
        cr_expect_eq(real(lines, i, "top_p"), i / 6 % 2 == 0 ? 0.5 : 1.0);
        cr_expect_eq(real(lines, i, "top_k"), i / 3 % 2 == 0 ? 0.0 : 8.0);
        cr_expect_eq(real(lines, i, "gamma"), i % 3 == 0 ? 0.0 : i % 3 == 1 ? 3.0 : 5.0);
        for (size_t k = 0; k < i; k++) {
            cr_expect_neq(strcmp(text(lines, i, "key"), text(lines, k, "key")), 0);
        }
        cr_expect_gt(json_number_value(json_object_get(line, "seconds_per_1000_tokens")), 0.0);
    }
    json_decref(lines);
    folder_close(&f);
}

/* An n-gram drafter has no row behind its drafts: token-v3 can only have the verifier's token
 * there. */
Test(bench_sweep, the_bonus_can_be_chosen)
{
    folder f = folder_open();
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    lines = sweep_with(&f, (const char *const[]){"--rules", "token-v3:alpha=0.5", "--drafter",
                                                 "ngram", "--bonus", "verifier", NULL});
    cr_assert_eq(json_array_size(lines), 2);
    cr_expect_str_eq(text(lines, 1, "bonus_mode"), "verifier");
    cr_expect_not_null(strstr(text(lines, 1, "key"), " bonus-verifier"));
    json_decref(lines);
    lines = sweep_with(&f, (const char *const[]){"--rules", "strict", NULL});
    cr_expect_str_eq(text(lines, 1, "bonus_mode"), "target");
    cr_expect_null(strstr(text(lines, 1, "key"), "bonus"), "as in files of before");
    json_decref(lines);
    folder_close(&f);
}

/* Positions sum up to the totals, rates are quotients of counts. */
Test(bench_sweep, counters_agree_with_each_other)
{
    folder f = folder_open();
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    lines = sweep_with(&f, (const char *const[]){"--rules", "opt:alpha=0", "--gamma", "4", NULL});
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i), *finish = json_object_get(line, "finish");
        double sums[4] = {0}, texts = 0.0;
        static const char *const names[] = {"verified_by_position", "accepted_by_position",
                                            "rejected_by_position", "deferred_by_position"};
        const char *name;
        json_t *count;

        for (size_t k = 0; k < 4; k++) {
            const json_t *array = json_object_get(line, names[k]);

            cr_expect_eq(json_array_size(array), i == 0 ? 0u : 4u);
            for (size_t p = 0; p < json_array_size(array); p++) {
                sums[k] += json_number_value(json_array_get(array, p));
            }
        }
        json_object_foreach((json_t *)(uintptr_t)finish, name, count)
        {
            texts += json_number_value(count);
        }
        cr_expect_eq(texts, 4.0);
        cr_expect_eq(sums[0], sums[1] + sums[2]);
        if (i == 0) {
            cr_expect(json_is_null(json_object_get(line, "acceptance_rate")));
            continue;
        }
        cr_expect_float_eq(real(lines, i, "acceptance_rate"), sums[1] / sums[0], 1e-8);
        cr_expect_float_eq(real(lines, i, "rejection_rate"), sums[2] / sums[0], 1e-8);
        cr_expect_float_eq(real(lines, i, "deferral_rate"), sums[3] / sums[0], 1e-8);
        cr_expect_float_eq(real(lines, i, "tokens_per_round"),
                           real(lines, i, "tokens") / real(lines, i, "rounds"), 1e-6);
        cr_expect_float_eq(real(lines, i, "drafter_calls_per_token"),
                           real(lines, i, "drafter_calls") / real(lines, i, "tokens"), 1e-6);
        cr_expect_float_eq(
            json_number_value(json_array_get(json_object_get(line, "acceptance_by_position"), 0)),
            json_number_value(json_array_get(json_object_get(line, names[1]), 0)) /
                json_number_value(json_array_get(json_object_get(line, names[0]), 0)),
            1e-8);
    }
    json_decref(lines);
    folder_close(&f);
}

/* Seeds of a point are pooled: counts add up, the value lies between theirs. */
Test(bench_sweep, seeds_are_pooled)
{
    static const char *const seeds[] = {"0", "1", "2"};
    folder f = folder_open();
    double tokens = 0.0, values[3], low, high, mean, spread = 0.0;
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    for (int32_t s = 0; s < 3; s++) {
        lines = sweep_with(&f, (const char *const[]){"--rules", "strict", "--metric", "f1",
                                                     "--seed", seeds[s], NULL});
        tokens += real(lines, 1, "tokens");
        values[s] = real(lines, 1, "value");
        cr_expect(json_is_null(json_object_get(json_array_get(lines, 1), "seed_spread")));
        json_decref(lines);
    }
    lines = sweep_with(
        &f, (const char *const[]){"--rules", "strict", "--metric", "f1", "--seeds", "3", NULL});
    mean = (values[0] + values[1] + values[2]) / 3.0;
    for (int32_t s = 0; s < 3; s++) {
        const json_t *each = json_object_get(json_array_get(lines, 1), "value_by_seed");

        cr_expect_float_eq(json_number_value(json_array_get(each, (size_t)s)), values[s], 1e-6);
        spread += (values[s] - mean) * (values[s] - mean) / 2.0;
    }
    low = real(lines, 1, "ci_low");
    high = real(lines, 1, "ci_high");
    cr_expect_eq(real(lines, 1, "tokens"), tokens);
    cr_expect_float_eq(real(lines, 1, "value"), mean, 1e-6);
    cr_expect_float_eq(real(lines, 1, "seed_spread") * real(lines, 1, "seed_spread"), spread, 1e-4);
    cr_expect(low <= mean && mean <= high);
    json_decref(lines);
    folder_close(&f);
}

/* Together or one by one: the same texts, and the verifier alone is timed in the same company. */
Test(bench_sweep, a_batch_changes_the_cost_only)
{
    static const char *const fields[] = {
        "value",  "ci_low", "ci_high",        "output_hash",
        "tokens", "rounds", "verifier_calls", "deferred_by_position"};
    folder f = folder_open();
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    lines = sweep_with(&f, (const char *const[]){"--rules", "opt:alpha=0;seq-chow:alpha=0.4",
                                                 "--batch", "1,3", NULL});
    cr_assert_eq(json_array_size(lines), 6);
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
            cr_expect(json_equal(json_object_get(json_array_get(lines, i), fields[k]),
                                 json_object_get(json_array_get(lines, i + 3), fields[k])),
                      "%s", fields[k]);
        }
        cr_expect_eq(real(lines, i + 3, "batch"), 3.0);
        cr_expect_float_eq(real(lines, i + 3, "relative_cost_per_token"),
                           real(lines, i + 3, "seconds_per_1000_tokens") /
                               real(lines, i + 3, "verifier_seconds_per_1000_tokens"),
                           1e-6);
    }
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

/* So does one whose prompt does not fit, with the line of the data; going on does not run it again.
 */
Test(bench_sweep, a_prompt_too_long_is_a_failed_point)
{
    folder f = folder_open();
    size_t used = strlen(data);
    char *longer = calloc(1, used + 40000);
    spawn_result r;
    json_t *lines;

    cr_assert_not_null(longer);
    (void)strcpy(longer, data);
    (void)strcat(longer, "de\t");
    for (int32_t i = 0; i < 3000; i++) (void)strcat(longer + used, "tree house ");
    (void)strcat(longer, "\tx\n");
    folder_write(&f, "data.tsv", longer, strlen(longer));
    for (int32_t run = 0; run < 2; run++) {
        r = sweep(&f, "strict", NULL);
        cr_expect_eq(r.code, 1, "%s", r.err);
        cr_expect_not_null(strstr(r.err, run == 0 ? "2 points run, 2 failed" : "0 points run, 2"),
                           "%s", r.err);
        spawn_free(&r);
    }
    lines = results_of(&f);
    cr_assert_eq(json_array_size(lines), 2);
    cr_expect_not_null(strstr(text(lines, 0, "failed"), "line 5: "), "%s",
                       text(lines, 0, "failed"));
    json_decref(lines);
    free(longer);
    folder_close(&f);
}

/* What a chat model is asked is what its template writes, and its replies end where a turn does:
 * the tokens of the template spelled out give the same prompts, without an end. */
Test(bench_sweep, chat_models_are_asked_in_their_template)
{
    static const char said[] = "{\"prompt\": \"cat sleeps.\", \"reference\": \"x\"}\n";
    static const char spelled[] =
        "{\"prompt\": \"<s>[INST]The cat sleeps.[/INST]\", \"reference\": \"x\"}\n";
    static const struct {
        const char *row, *more[5];
    } cases[] = {{spelled, {NULL}},
                 {said, {"--ask", "The ", "--chat"}},
                 {said, {"--ask", "The ", "--chat-template", "mistral-nemo"}}};
    chat_pair p = open_pair();
    folder f = folder_open();
    char in[FOLDER_PATH], out[FOLDER_PATH];
    json_t *lines[3];

    folder_path(&f, "data.jsonl", in);
    folder_path(&f, "out.jsonl", out);
    for (size_t i = 0; i < 3; i++) {
        const char *args[32] = {"--data",        in,
                                "--output",      out,
                                "--verifier",    p.verifier.path,
                                "--drafter",     p.drafter.path,
                                "--temperature", "0",
                                "--max-tokens",  "40",
                                "--context",     "64",
                                "--rules",       "strict"};

        memcpy(args + 16, cases[i].more, sizeof cases[i].more);
        folder_write(&f, "data.jsonl", cases[i].row, strlen(cases[i].row));
        (void)unlink(out);

        spawn_result r = spawn(args, &(const spawn_options){.program = SPC_SWEEP});

        cr_assert_eq(r.code, 0, "%s", r.err);
        spawn_free(&r);
        lines[i] = results_of(&f);
        cr_expect_str_eq(text(lines[i], 1, "data_hash"), text(lines[0], 1, "data_hash"),
                         "the same ids");
        cr_expect_eq(real(lines[i], 1, "at_limit"), i == 0 ? 1.0 : 0.0);
        if (i == 0) {
            cr_expect_null(text(lines[i], 1, "chat_template"));
        } else {
            cr_expect_str_eq(text(lines[i], 1, "chat_template"), "mistral-nemo");
            cr_expect_str_eq(text(lines[i], 1, "ask"), "The ");
        }
    }
    for (size_t i = 0; i < 3; i++) json_decref(lines[i]);
    folder_close(&f);
    close_pair(&p);
}

Test(bench_sweep, a_context_is_what_prompt_and_answer_share)
{
    folder f = folder_open();
    char in[FOLDER_PATH], out[FOLDER_PATH];
    json_t *lines;

    folder_write(&f, "data.tsv", data, strlen(data));
    folder_path(&f, "data.tsv", in);
    folder_path(&f, "out.jsonl", out);

    spawn_result r = spawn((const char *const[]){"--data", in, "--output", out, "--rules", "strict",
                                                 "--context", "6", "--rows", "1", NULL},
                           &(const spawn_options){.program = SPC_SWEEP});

    cr_expect_eq(r.code, 1, "%s", r.err);
    spawn_free(&r);
    lines = results_of(&f);
    cr_expect_not_null(strstr(text(lines, 1, "failed"), "context"), "%s", text(lines, 1, "failed"));
    json_decref(lines);
    lines = sweep_with(&f, (const char *const[]){"--rules", "strict", "--context", "12", NULL});
    cr_expect_gt(real(lines, 1, "tokens"), 0.0);
    cr_expect_lt(real(lines, 1, "tokens"), 4.0 * 12.0, "answers end with the context");
    cr_expect_gt(real(lines, 1, "at_limit"), 0.0, "which has cut them");
    cr_expect_eq(real(lines, 1, "context"), 12.0, "so lines of another are not its lines");
    json_decref(lines);
    r = spawn((const char *const[]){"--data", in, "--output", out, "--rules", "strict", "--context",
                                    "13", "--threads", "1", NULL},
              &(const spawn_options){.program = SPC_SWEEP});
    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect_not_null(strstr(r.err, "context"), "%s", r.err);
    spawn_free(&r);
    r = spawn((const char *const[]){"--data", in, "--output", out, "--rules", "strict", "--threads",
                                    "1", NULL},
              &(const spawn_options){.program = SPC_SWEEP});
    cr_expect_eq(r.code, 6, "without one: %s", r.err);
    cr_expect_not_null(strstr(r.err, "with context 12, not unknown"), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

/* Of other texts only under rules that let the drafter write; strict has fewer drafts accepted. */
Test(bench_sweep, a_drafter_may_draft_some_tokens)
{
    folder f = folder_open();
    char in[FOLDER_PATH], out[FOLDER_PATH];
    json_t *all, *some;

    folder_write(&f, "data.tsv", data, strlen(data));
    all = sweep_with(&f, (const char *const[]){"--rules", "strict", "--temperature", "0", NULL});
    folder_path(&f, "data.tsv", in);
    folder_path(&f, "out.jsonl", out);
    cr_expect_null(json_object_get(json_array_get(all, 1), "drafter_vocab"));
    (void)unlink(out);
    some = sweep_with(&f, (const char *const[]){"--rules", "strict", "--temperature", "0",
                                                "--drafter-vocab", "600", NULL});
    cr_expect_str_eq(text(some, 1, "drafter_vocab"), "600");
    cr_expect_str_eq(text(some, 1, "output_hash"), text(all, 1, "output_hash"));
    cr_expect_gt(real(some, 1, "verifier_calls"), real(all, 1, "verifier_calls"));
    json_decref(all);
    json_decref(some);

    spawn_result r = spawn((const char *const[]){"--data", in, "--output", out, "--rules", "strict",
                                                 "--temperature", "0", "--threads", "1", NULL},
                           &(const spawn_options){.program = SPC_SWEEP});

    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect_not_null(strstr(r.err, "with drafter_vocab \"600\", not unknown"), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

/* Rows of HumanEval and of MBPP: what the embedded pair writes is no Python, but a comment may hold
 * anything. */
Test(bench_sweep, python_tests_are_run)
{
    static const char rows[] =
        "{\"prompt\": \"x = 1\\n#\", \"test\": \"def check(f): assert f == 1\", \"entry_point\": "
        "\"x\"}\n"
        "{\"prompt\": \"x = 1\\n#\", \"test\": \"def check(f): assert f == 2\", \"entry_point\": "
        "\"x\"}\n"
        "{\"prompt\": \"x = 1\\n#\", \"test\": \"def check(f):\\n    while f: pass\", "
        "\"entry_point\": \"x\"}\n"
        "{\"prompt\": \"He is tired.\", \"test_list\": [\"assert 1\", \"assert 0\"]}\n";
    folder f = folder_open();
    char in[FOLDER_PATH], out[FOLDER_PATH];
    json_t *lines;
    spawn_result r;

    folder_write(&f, "data.jsonl", rows, strlen(rows));
    folder_path(&f, "data.jsonl", in);
    folder_path(&f, "out.jsonl", out);

    const char *args[] = {
        "--data",       in,  "--output",       out, "--metric", "pass@1", "--rules", "strict",
        "--max-tokens", "1", "--test-seconds", "5", "--python", NULL,     NULL};

    args[12] = NULL;
    r = spawn(args, &(const spawn_options){.program = SPC_SWEEP});
    cr_assert_eq(r.code, 0, "%s", r.err);
    spawn_free(&r);
    lines = results_of(&f);
    cr_assert_eq(json_array_size(lines), 2);
    for (size_t i = 0; i < 2; i++) {
        cr_expect_eq(real(lines, i, "value"), 25.0);
        cr_expect_eq(real(lines, i, "tests_timed_out"), 1.0);
    }
    json_decref(lines);
    args[12] = "--python";
    args[13] = "/no/such/python";
    r = spawn(args, &(const spawn_options){.program = SPC_SWEEP});
    cr_expect_eq(r.code, 2);
    cr_expect_not_null(strstr(r.err, "/no/such/python"), "%s", r.err);
    cr_expect_eq(count_lines(r.err), 1);
    spawn_free(&r);
    folder_close(&f);
}

Test(bench_sweep, bad_rows_are_named)
{
    static const struct {
        const char *row, *metric, *word;
    } cases[] = {
        {"{\"prompt\": \"a\", \"reference\": \"b\"", "bleu", "line 2: not JSON"},
        {"[1]", "bleu", "line 2: expected a string \"prompt\""},
        {"{\"prompt\": 1, \"reference\": \"b\"}", "bleu", "line 2: expected a string \"prompt\""},
        {"{\"prompt\": \"a\"}", "bleu", "line 2: expected a string \"reference\""},
        {"{\"prompt\": \"a\", \"reference\": null}", "gsm8k",
         "line 2: expected a string \"reference\""},
        {"{\"prompt\": \"a\", \"reference\": \"b\"}", "pass@1",
         "line 1: expected strings \"test\""},
        {"", "bleu", "line 2: "},
    };
    folder f = folder_open();
    char in[FOLDER_PATH], out[FOLDER_PATH];

    folder_path(&f, "data.jsonl", in);
    folder_path(&f, "out.jsonl", out);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char rows[512];
        spawn_result r;

        (void)snprintf(rows, sizeof rows, "{\"prompt\": \"a\", \"reference\": \"b\"}\n%s\n",
                       cases[i].row);
        folder_write(&f, "data.jsonl", rows, strlen(rows));
        r = spawn(
            (const char *const[]){"--data", in, "--output", out, "--metric", cases[i].metric, NULL},
            &(const spawn_options){.program = SPC_SWEEP});
        cr_expect_eq(r.code, 6, "case %d: %s", (int)i, r.err);
        cr_expect_not_null(strstr(r.err, cases[i].word), "case %d: %s", (int)i, r.err);
        cr_expect_not_null(strstr(r.err, in), "case %d: %s", (int)i, r.err);
        cr_expect_eq(count_lines(r.err), 1);
        spawn_free(&r);
    }
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
    static const struct {
        const char *more[5], *word;
    } cases[] = {{{"--nope"}, "--nope"},
                 {{"--gamma"}, "--gamma"},
                 {{"surplus"}, "surplus"},
                 {{"--metric", "blue"}, "bleu, chrf, rouge2, exact, f1, gsm8k, pass@1"},
                 {{"--rules", "stricter"}, "stricter"},
                 {{"--seed", "a"}, "'a'"},
                 {{"--seed", "1.5"}, "whole"},
                 {{"--seed", "0,3,0"}, "0 stands there twice"},
                 {{"--seeds", "0"}, "--seeds"},
                 {{"--seeds", "1,2"}, "--seed 1,2"},
                 {{"--seed", "1", "--seeds", "2"}, "give one"},
                 {{"--gamma", "3,,5"}, "''"},
                 {{"--gamma", "17"}, "--gamma"},
                 {{"--gamma", "2.5"}, "whole"},
                 {{"--batch", "0"}, "--batch"},
                 {{"--batch", "257"}, "--batch"},
                 {{"--top-p", "0"}, "--top-p"},
                 {{"--top-p", "nan"}, "--top-p"},
                 {{"--min-p", "2"}, "--min-p"},
                 {{"--verify", "maybe"}, "token or block"},
                 {{"--bonus", "none"}, "target, verifier or step"},
                 {{"--verify", "block", "--bonus", "step"}, "--bonus step: block"},
                 {{"--every", "0"}, "--every"},
                 {{"--rows", "many"}, "--rows"},
                 {{"--context", "some"}, "--context"},
                 {{"--chat"}, "are for a .jsonl"},
                 {{"--ask", "Translate: "}, "are for a .jsonl"},
                 {{"--metric", "pass@1"}, "needs a .jsonl"}};

    folder f = folder_open();
    char in[FOLDER_PATH], out[FOLDER_PATH];
    spawn_result r;

    folder_write(&f, "data.tsv", data, strlen(data));
    folder_path(&f, "data.tsv", in);
    folder_path(&f, "out.jsonl", out);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *args[12] = {"--data", in, "--output", out};

        memcpy(args + 4, cases[i].more, sizeof cases[i].more);
        r = spawn(args, &(const spawn_options){.program = SPC_SWEEP});
        cr_expect_eq(r.code, 2, "case %d: %s", (int)i, r.err);
        cr_expect_not_null(strstr(r.err, cases[i].word), "case %d: %s", (int)i, r.err);
        cr_expect_eq(count_lines(r.err), 1);
        spawn_free(&r);
    }
    r = spawn((const char *const[]){"--data", in, NULL},
              &(const spawn_options){.program = SPC_SWEEP});
    cr_expect_eq(r.code, 2);
    cr_expect_not_null(strstr(r.err, "--output"), "%s", r.err);
    spawn_free(&r);
    folder_close(&f);
}

/* On a terminal: one line that is drawn again; elsewhere a line per point (seen by the others). */
Test(bench_sweep, a_terminal_gets_a_bar)
{
    folder f = folder_open();
    char in[FOLDER_PATH], out[FOLDER_PATH], seen[8192];
    size_t used = 0;
    ssize_t n;
    int status, terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    pid_t pid;

    cr_assert(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    folder_write(&f, "data.tsv", data, strlen(data));
    folder_path(&f, "data.tsv", in);
    folder_path(&f, "out.jsonl", out);
    pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        int side = open(ptsname(terminal), O_RDWR | O_NOCTTY);

        (void)dup2(side, STDERR_FILENO);
        (void)close(side);
        (void)execl(SPC_SWEEP, SPC_SWEEP, "--data", in, "--output", out, "--rules", "strict",
                    (char *)NULL);
        _exit(127);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(fcntl(terminal, F_SETFL, O_NONBLOCK), 0);
    while ((n = read(terminal, seen + used, sizeof seen - 1 - used)) > 0) used += (size_t)n;
    seen[used] = '\0';
    cr_expect_not_null(strstr(seen, "\r\033[K["), "%s", seen);
    cr_expect_not_null(strstr(seen, "] 0 of 2 points, verifier-only"), "%s", seen);
    cr_expect_eq(count_lines(seen), 1, "the summary: %s", seen);
    (void)close(terminal);
    folder_close(&f);
}
