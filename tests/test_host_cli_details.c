/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_details.c - spc run --details and --logprobs: an object per token in JSON, of the
 * former also a line per token on stderr; results are those without. */
#include "results.h"

#include <math.h>

#define RULE "token-v3:alpha=0.3"

/* The array behind a result, taken out of it. */
static json_t *take_details(json_t *results, size_t i)
{
    json_t *result = json_array_get(results, i);
    json_t *details = json_incref(json_object_get(result, "details"));

    cr_assert(json_is_array(details));
    (void)json_object_del(result, "details");
    return details;
}

static const char *text_at(const json_t *details, size_t k, const char *name)
{
    const char *text = json_string_value(json_object_get(json_array_get(details, k), name));

    cr_assert_not_null(text, "%s of token %d", name, (int)k);
    return text;
}

/* Tokens of the array against the result's own fields. */
static void expect_details(const json_t *results, size_t i, const json_t *details,
                           int32_t *deferred)
{
    const json_t *ids = field(results, i, "ids"), *one;
    const size_t count = json_array_size(ids);
    json_int_t rejected = 0, bonus = 0;
    char joined[512] = "";
    size_t k;

    cr_assert_eq(json_array_size(details), count);
    json_array_foreach(details, k, one)
    {
        const char *fate = text_at(details, k, "fate");
        const bool drafted = strcmp(fate, "bonus") != 0;
        const double log_target = json_real_value(json_object_get(one, "log_target"));

        cr_expect(json_equal(json_object_get(one, "id"), json_array_get(ids, k)));
        cr_expect_eq(json_is_integer(json_object_get(one, "draft")), drafted);
        cr_expect_eq(json_is_real(json_object_get(one, "target")), drafted);
        cr_expect(json_is_real(json_object_get(one, "log_target")) && log_target <= 0);
        rejected += strcmp(fate, "rejected") == 0;
        bonus += !drafted;
        *deferred += json_is_true(json_object_get(one, "deferred"));
        if (k + 1 < count) (void)strncat(joined, text_at(details, k, "text"), 60);
    }
    cr_expect_str_eq(joined + strspn(joined, " "), string(results, i, "text"));
    cr_expect_eq(rejected, sum(results, i, "rejected", 5));
    cr_expect_eq(bonus, whole(results, i, "bonus"));
}

Test(host_cli_details, json_says_why_each_token_came_about)
{
    static const char *const batch[] = {"1", "3"};
    int32_t deferred = 0;
    json_int_t counted = 0;

    for (int b = 0; b < 2; b++) {
        json_t *plain = without_times(
            JSON(THREE, "run", "--json", "--to", "de", "--rule", RULE, "--batch", batch[b]));
        json_t *told = without_times(JSON(THREE, "run", "--json", "--details", "--to", "de",
                                          "--rule", RULE, "--batch", batch[b]));

        for (size_t i = 0; i < 3; i++) {
            json_t *details = take_details(told, i);

            expect_details(told, i, details, &deferred);
            counted += sum(told, i, "deferred", 5) + whole(told, i, "bonus_deferred");
            json_decref(details);
        }
        cr_expect(json_equal(plain, told), "other results");
        json_decref(plain);
        json_decref(told);
    }
    cr_expect_eq(deferred, counted);
    cr_expect_gt(deferred, 0);
}

Test(host_cli_details, processes_tell_the_same)
{
    json_t *one = JSON(THREE, "run", "--json", "--details", "--to", "de", "--rule", RULE);
    json_t *two = JSON(THREE, "launch", "-n", "2", "--", "run", "--json", "--details", "--to", "de",
                       "--rule", RULE);

    for (size_t i = 0; i < 3; i++) {
        json_t *a = take_details(one, i), *b = take_details(two, i);
        size_t k;
        const json_t *item;

        cr_assert_eq(json_array_size(a), json_array_size(b));
        json_array_foreach(a, k, item)
        {
            const json_t *other = json_array_get(b, k);
            double x = json_real_value(json_object_get(item, "log_target"));
            double y = json_real_value(json_object_get(other, "log_target"));

            cr_expect_str_eq(text_at(a, k, "fate"), text_at(b, k, "fate"));
            cr_expect(json_equal(json_object_get(item, "id"), json_object_get(other, "id")));
            cr_expect_float_eq(x, y, 1e-3);
        }
        json_decref(a);
        json_decref(b);
    }
    json_decref(one);
    json_decref(two);
}

static int32_t lines_of(const char *text)
{
    int32_t lines = 0;

    for (; *text; text++) lines += *text == '\n';
    return lines;
}

Test(host_cli_details, a_table_has_a_line_per_token_and_stdout_the_text_alone)
{
    spawn_result plain =
        SPAWN(NULL, "run", "--to", "de", "--rule", RULE, "--max-tokens", "7", "--quiet", FIRST);
    spawn_result told = SPAWN(NULL, "run", "--to", "de", "--rule", RULE, "--max-tokens", "7",
                              "--quiet", "--details", FIRST);

    cr_expect_str_eq(told.out, plain.out);
    cr_expect_eq(plain.err_bytes, 0);
    cr_expect_eq(lines_of(told.err), 8, "%s", told.err);
    cr_expect_eq(strncmp(told.err, "  drafter verifier   target", 27), 0, "%s", told.err);
    cr_expect(strstr(told.err, "  kept  ") && strstr(told.err, "\"Der\"\n"), "%s", told.err);
    spawn_free(&plain);
    spawn_free(&told);
}

Test(host_cli_details, rules_that_run_one_model_at_a_time_cannot)
{
    static const char *const args[] = {"run", "--details", "--rule", "drafter-only", "x", NULL};

    spawn_failure(args, NULL, 2, "spc: --details: rule drafter-only runs one model at a time");
}

/* ---- --logprobs ---- */

Test(host_cli_details, log_probabilities_are_those_of_the_ids_and_of_others)
{
    static const char *const tops[] = {"0", "2"};

    for (size_t t = 0; t < 2; t++) {
        json_t *plain = without_times(JSON(THREE, "run", "--json", "--to", "de", "--rule", RULE));
        json_t *told = without_times(
            JSON(THREE, "run", "--json", "--logprobs", tops[t], "--to", "de", "--rule", RULE));

        for (size_t i = 0; i < 3; i++) {
            json_t *result = json_array_get(told, i), *one;
            json_t *logprobs = json_incref(json_object_get(result, "logprobs"));
            size_t k;

            cr_assert_eq(json_array_size(logprobs),
                         json_array_size(json_object_get(result, "ids")));
            json_array_foreach(logprobs, k, one)
            {
                const json_t *top = json_object_get(one, "top"), *first = json_array_get(top, 0);
                const json_t *second = json_array_get(top, 1);
                double own = json_real_value(json_object_get(one, "logprob")), best, next;

                cr_expect(json_equal(json_object_get(one, "id"),
                                     json_array_get(json_object_get(result, "ids"), k)));
                cr_assert_eq(json_array_size(top), 2 * t);
                cr_expect_leq(own, 1e-6);
                if (t == 0) continue;
                best = json_real_value(json_object_get(first, "logprob"));
                next = json_real_value(json_object_get(second, "logprob"));
                cr_expect(own <= best && best >= next && exp(best) + exp(next) < 1.0001);
                cr_expect(own <= next || own == best);
                cr_expect(json_is_string(json_object_get(first, "text")));
            }
            json_decref(logprobs);
            (void)json_object_del(result, "logprobs");
        }
        cr_expect(json_equal(plain, told), "other results");
        json_decref(plain);
        json_decref(told);
    }
}

Test(host_cli_details, log_probabilities_go_with_json_and_rounds)
{
    static const char *const alone[] = {"run", "--logprobs", "1", "x", NULL};
    static const char *const many[] = {"run", "--json", "--logprobs", "21", "x", NULL};
    static const char *const rule[] = {"run",    "--json",       "--logprobs", "1",
                                       "--rule", "drafter-only", "x",          NULL};

    spawn_failure(alone, NULL, 2, "spc: --logprobs: they are printed with --json alone");
    spawn_failure(many, NULL, 2, "spc: --logprobs: expected a whole number of 0 to 20");
    spawn_failure(rule, NULL, 2, "spc: --logprobs: rule drafter-only runs one model at a time");
}

/* The key of a line, which holds for it alone. */
Test(host_cli_details, a_line_may_ask_for_log_probabilities)
{
    json_t *all = JSON(THREE, "run", "--json", "--logprobs", "1", "--to", "de", "--rule", RULE);
    json_t *one =
        JSON("{\"prompt\": \"" FIRST "\", \"logprobs\": null}\n"
             "{\"prompt\": \"" SECOND "\", \"logprobs\": 1}\n"
             "{\"prompt\": \"" THIRD "\"}\n",
             "run", "--json", "--to", "de", "--rule", RULE, "--input", "-", "--batch", "3");

    cr_assert_eq(json_array_size(one), 3);
    cr_expect_null(json_object_get(json_array_get(one, 0), "logprobs"));
    cr_expect(json_equal(field(one, 1, "logprobs"), field(all, 1, "logprobs")));
    cr_expect_null(json_object_get(json_array_get(one, 2), "logprobs"));
    for (size_t i = 0; i < 3; i++) {
        cr_expect(json_equal(field(one, i, "ids"), field(all, i, "ids")));
    }
    json_decref(all);
    json_decref(one);
}

Test(host_cli_details, a_line_that_asks_for_what_there_is_not_is_refused_alone)
{
    static const char lines[] = "{\"prompt\": \"x\", \"logprobs\": 21}\n"
                                "{\"prompt\": \"x\", \"logprobs\": true}\n"
                                "{\"prompt\": \"x\", \"logprobs\": -1}\n"
                                "{\"prompt\": \"x\", \"logprobs\": 1}\n"
                                "{\"prompt\": \"x\"}\n";
    spawn_result r = SPAWN(lines, "run", "--json", "--keep-going", "--max-tokens", "2", "--rule",
                           "drafter-only", "--input", "-");
    spawn_result text =
        SPAWN(lines, "run", "--keep-going", "--max-tokens", "2", "--quiet", "--input", "-");
    json_t *results = parse_lines(r.out);

    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_assert_eq(json_array_size(results), 5);
    for (size_t i = 0; i < 3; i++) {
        cr_expect(strstr(string(results, i, "error"), "\"logprobs\": expected a whole number of 0 "
                                                      "to 20"));
    }
    cr_expect_str_eq(string(results, 3, "error"),
                     "stdin: line 4: logprobs: rule drafter-only runs one model at a time, and no "
                     "round says why a token came about: choose a rule that verifies drafts, or "
                     "leave them out");
    cr_expect_eq(json_array_size(field(results, 4, "ids")), 2);
    cr_expect_eq(text.code, 6);
    cr_expect(strstr(text.err, "line 4: \"logprobs\": they are printed with --json alone"), "%s",
              text.err);
    json_decref(results);
    spawn_free(&r);
    spawn_free(&text);
}
