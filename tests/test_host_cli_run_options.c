/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_run_options.c - spc run: what every option does to results, and where a text ends.
 */
#include "results.h"

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

/* ---- what options do --------------------------------------------------------------------------
 */

Test(host_cli_run_options, every_option_changes_results)
{
    static const char *const base[] = {"run", "--json", NULL};
    static const struct {
        const char *with[12];
        int32_t more; /* arguments of `with` that make the difference, at its end */
    } table[] = {
        {{"--gamma", "2"}, 2},
        {{"--gamma", "0"}, 2},
        {{"--temperature", "0.2"}, 2},
        {{"--top-k", "2"}, 2},
        {{"--top-p", "0.3"}, 2},
        {{"--min-p", "0.5"}, 2},
        {{"--seed", "1"}, 2},
        {{"--rule", "opt:alpha=0.2"}, 2},
        {{"--rule", "drafter-only"}, 2},
        {{"--rule", "verifier-only"}, 2},
        {{"--verify", "block"}, 2},
        {{"--bonus", "step"}, 2},
        {{"--rule", "token-v3:alpha=0.9", "--bonus", "verifier"}, 2},
        {{"--rule", "token-v3:alpha=0.9", "--top-p", "0.3", "--no-nucleus"}, 1},
        {{"--to", "de"}, 2},
        {{"--ignore-stop", "--max-tokens", "80"}, 3},
        {{"--max-tokens", "4"}, 2},
        {{"--context", "20"}, 2},
        {{"--min-tokens", "30"}, 2},
        {{"--repetition-penalty", "1.5"}, 2},
        {{"--presence-penalty", "3"}, 2},
        {{"--frequency-penalty", "3"}, 2},
        {{"--logit-bias", "20:5", "--logit-bias=21:-inf"}, 3},
        {{"--stop", "a"}, 2},
        {{"--drafter", "embedded:verifier"}, 2},
        {{"--verifier", "embedded:drafter"}, 2},
    };
    static const char text[] = "<s><2fr>" FIRST "<sep>\n<s><2es>" SECOND "<sep>\n"
                               "<s><2de>" THIRD "<sep>\n";

    for (int32_t i = 0; i < COUNT(table); i++) {
        const char *without[COUNT(table[i].with)] = {NULL};
        int32_t count = 0;

        while (table[i].with[count]) count++;
        for (int32_t k = 0; k < count - table[i].more; k++) without[k] = table[i].with[k];

        json_t *plain = without_times(spawn_json(join(base, without).arg, text));
        json_t *changed = without_times(spawn_json(join(base, table[i].with).arg, text));

        cr_assert_eq(json_array_size(plain), 3);
        cr_assert_eq(json_array_size(changed), 3);
        cr_expect_not(json_equal(plain, changed), "%s changes nothing",
                      table[i].with[count - table[i].more]);
        json_decref(plain);
        json_decref(changed);
    }
}

Test(host_cli_run_options, cutting_all_but_the_likeliest_token_is_greedy)
{
    static const char *const base[] = {"run", "--to", "de", "--seed", "7", NULL};
    static const char *const greedy[] = {"--temperature", "0", NULL};
    static const char *const table[][4] = {
        {"--top-k", "1"}, {"--top-p", "1e-300"}, {"--min-p", "1"}, {"--temperature", "0.0001"}};
    char *expected = spawn_output(join(base, greedy).arg, THREE);

    for (int32_t i = 0; i < COUNT(table); i++) {
        expect_same(spawn_output(join(base, table[i]).arg, THREE), strdup(expected), table[i][0]);
    }
    free(expected);
}

Test(host_cli_run_options, a_seed_counts_up_over_prompts_and_matters_only_above_temperature_0)
{
    json_t *both = JSON(FIRST "\n" FIRST "\n", "run", "--json", "--to", "de", "--seed", "5");
    json_t *second = JSON(FIRST "\n", "run", "--json", "--to", "de", "--seed", "6");

    cr_expect_eq(whole(both, 0, "seed"), 5);
    cr_expect_eq(whole(both, 1, "seed"), 6);
    cr_expect(json_equal(field(both, 1, "ids"), field(second, 0, "ids")));
    cr_expect_str_eq(string(both, 1, "text"), string(second, 0, "text"));
    json_decref(both);
    json_decref(second);
    expect_same(OUTPUT(THREE, "run", "--to", "fr", "--temperature", "0", "--seed", "1"),
                OUTPUT(THREE, "run", "--to", "fr", "--temperature=0", "--seed=9"), "greedy");

    char *one = OUTPUT(THREE, "run", "--seed", "1", "--max-tokens", "60", "--ignore-stop");
    char *nine = OUTPUT(THREE, "run", "--seed", "9", "--max-tokens", "60", "--ignore-stop");

    cr_expect_str_neq(one, nine);
    free(one);
    free(nine);
}

/* The seed of a result is one that --seed takes. */
Test(host_cli_run_options, behind_the_largest_seed_comes_0)
{
    json_t *both = JSON(NULL, "run", "--json", "--seed", "9223372036854775807", FIRST, SECOND);
    json_t *second = JSON(NULL, "run", "--json", "--seed", "0", SECOND);

    cr_expect_eq(whole(both, 0, "seed"), INT64_MAX);
    cr_expect_eq(whole(both, 1, "seed"), 0);
    cr_expect(json_equal(field(both, 1, "ids"), field(second, 0, "ids")));
    json_decref(both);
    json_decref(second);
}

Test(host_cli_run_options, a_line_decodes_as_it_says)
{
    static const struct {
        const char *keys, *with[6];
    } table[] = {
        {"", {NULL}},
        {",\"max_tokens\":3", {"--max-tokens", "3"}},
        {",\"max_tokens\":0,\"seed\":9", {"--max-tokens", "0", "--seed", "9"}},
        {",\"temperature\":0", {"--temperature", "0"}},
        {",\"temperature\":0.5", {"--temperature", "0.5"}},
        {",\"stop\":\"e\"", {"--stop", "e"}},
        {",\"stop\":[\"never there\",\"a\"]", {"--stop", "never there", "--stop", "a"}},
        {",\"stop\":[]", {NULL}},
        {",\"top_k\":2", {"--top-k", "2"}},
        {",\"top_p\":0.5", {"--top-p", "0.5"}},
        {",\"top_p\":1e-300", {"--top-p", "1e-300"}},
        {",\"min_p\":0.3", {"--min-p", "0.3"}},
        {",\"min_tokens\":25", {"--min-tokens", "25"}},
        {",\"repetition_penalty\":1.5", {"--repetition-penalty", "1.5"}},
        {",\"presence_penalty\":-2", {"--presence-penalty", "-2"}},
        {",\"frequency_penalty\":3", {"--frequency-penalty", "3"}},
        {",\"logit_bias\":{\"20\":5,\"21\":\"-inf\"}",
         {"--logit-bias", "20:5", "--logit-bias", "21:-inf"}},
        {",\"logit_bias\":{}", {NULL}},
        /* the command line's, as if there were no key: of seeds the last prompt's */
        {",\"max_tokens\":null,\"seed\":null,\"temperature\":null,\"stop\":null,\"top_p\":null,"
         "\"min_tokens\":null,\"logit_bias\":null",
         {"--max-tokens", "30", "--seed", "18"}},
    };
    static const char *const all[] = {"run", "--json", "--max-tokens", "30", "--input", "-", NULL};
    static const char *const one[] = {"run", "--json", "--quiet", SECOND, NULL};
    char lines[4096] = "";

    for (int32_t i = 0; i < COUNT(table); i++) {
        char *at = lines + strlen(lines);
        bool seed = strstr(table[i].keys, "seed") != NULL;

        (void)sprintf(at, "{\"prompt\":\"" SECOND "\"%s%s}\n", table[i].keys,
                      seed ? "" : ",\"seed\":0");
    }
    for (int32_t batch = 0; batch < 2; batch++) {
        static const char *const ways[][3] = {{"--batch", "1"}, {"--batch", "3"}};
        json_t *results = spawn_json(join(all, ways[batch]).arg, lines);

        cr_assert_eq(json_array_size(results), COUNT(table));
        for (int32_t i = 0; i < COUNT(table); i++) {
            arguments a = join(one, table[i].with);
            json_t *alone;

            if (!strstr(table[i].keys, "max_tokens")) {
                static const char *const limit[] = {"--max-tokens", "30", NULL};

                a = join(a.arg, limit);
            }
            alone = spawn_json(a.arg, NULL);
            cr_expect(json_equal(field(results, (size_t)i, "ids"), field(alone, 0, "ids")), "%s",
                      table[i].keys);
            cr_expect_eq(whole(results, (size_t)i, "seed"), whole(alone, 0, "seed"));
            cr_expect_str_eq(string(results, (size_t)i, "text"), string(alone, 0, "text"));
            json_decref(alone);
        }
        json_decref(results);
    }
}

Test(host_cli_run_options, strict_is_the_verifiers_own_text_when_greedy)
{
    static const char *const table[][8] = {
        {"--rule", "strict"},
        {"--rule", "strict", "--gamma", "1"},
        {"--rule", "strict", "--gamma", "16", "--batch", "3"},
        {"--rule", "strict", "--verify", "block"},
        {"--rule", "strict", "--bonus", "step"},
        {"--rule", "verifier-only", "--drafter", "none"},
        {"--drafter", "none"},
        {"--rule", "drafter-only", "--drafter", "embedded:verifier"},
    };
    static const char *const base[] = {"run", "--temperature", "0", "--to", "es", NULL};
    static const char *const only[] = {"--rule", "verifier-only", NULL};
    char *expected = spawn_output(join(base, only).arg, THREE);

    for (int32_t i = 0; i < COUNT(table); i++) {
        expect_same(spawn_output(join(base, table[i]).arg, THREE), strdup(expected), table[i][1]);
    }
    free(expected);
}

Test(host_cli_run_options, a_drafter_that_is_the_verifier_is_always_accepted)
{
    json_t *results = JSON(THREE, "run", "--json", "--to", "de", "--drafter", "embedded:verifier");

    for (size_t i = 0; i < 3; i++) {
        cr_expect_eq(sum(results, i, "rejected", 5), 0);
        cr_expect_gt(sum(results, i, "accepted", 5), 0);
    }
    json_decref(results);
}

/* ---- where a text ends ------------------------------------------------------------------------
 */

Test(host_cli_run_options, a_stop_text_ends_the_text_before_it)
{
    char *full = OUTPUT(NULL, "run", "--to", "de", "--temperature", "0", FIRST);
    char *stop = strchr(strchr(full, ' ') + 1, ' '), word[64] = "";

    cr_assert_not_null(stop, "%s", full);
    (void)strncpy(word, stop, strcspn(stop + 1, " ") + 1);

    json_t *results = JSON(NULL, "run", "--to", "de", "--temperature", "0", "--json", "--stop",
                           "never there", "--stop", word, FIRST);

    cr_expect_str_eq(string(results, 0, "finish"), "stop-string");
    *strstr(full, word) = '\0';
    cr_expect_str_eq(string(results, 0, "text"), full);
    json_decref(results);
    free(full);
}

/* Ids of the first result are the first of the longer ids. */
static void expect_prefix(const json_t *results, const json_t *longer)
{
    const json_t *ids = field(results, 0, "ids"), *id;
    size_t i;

    cr_expect_lt(json_array_size(ids), json_array_size(field(longer, 0, "ids")));
    json_array_foreach(ids, i, id)
    {
        cr_expect(json_equal(id, json_array_get(field(longer, 0, "ids"), i)), "token %d", (int)i);
    }
}

Test(host_cli_run_options, a_budget_a_context_and_an_end_of_sequence_end_a_text)
{
    static const char *const base[] = {"run", "--json", "--to", "de", "--temperature", "0", NULL};
    static const char *const on[] = {"--ignore-stop", "--max-tokens", "60", FIRST, NULL};
    static const struct {
        const char *with[6], *finish;
        int32_t tokens, total; /* with the prompt; 0: any */
    } table[] = {{{FIRST}, "stop-token", 0, 0},
                 {{"--max-tokens", "1", FIRST}, "max-tokens", 1, 0},
                 {{"--max-tokens", "4", FIRST}, "max-tokens", 4, 0},
                 {{"--context", "18", FIRST}, "context", 0, 18},
                 {{"--ignore-stop", "--context", "40", FIRST}, "context", 0, 40}};
    json_t *longest = spawn_json(join(base, on).arg, NULL);

    cr_expect_str_eq(string(longest, 0, "finish"), "max-tokens");
    cr_expect_eq(whole(longest, 0, "tokens"), 60);
    for (int32_t i = 0; i < COUNT(table); i++) {
        json_t *results = spawn_json(join(base, table[i].with).arg, NULL);
        json_int_t tokens = whole(results, 0, "tokens");

        cr_expect_str_eq(string(results, 0, "finish"), table[i].finish, "case %d", (int)i);
        if (table[i].tokens > 0) cr_expect_eq(tokens, table[i].tokens);
        if (table[i].total > 0) {
            cr_expect_eq(tokens + whole(results, 0, "prompt_tokens"), table[i].total);
        }
        expect_prefix(results, longest);
        json_decref(results);
    }
    json_decref(longest);
}
