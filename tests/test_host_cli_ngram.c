/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_ngram.c - --drafter ngram of the program: the verifier's text, one text in batches
 * and over processes, what is told of it, and what is refused. */
#include "chat_pair.h"

#define AGAIN   "<s><2de>The dog runs. The dog runs. The dog runs. The dog runs.<sep>"
#define OTHER   "<s><2fr>I do not know. I do not know. I do not know.<sep>"
#define PROMPTS AGAIN "\n" OTHER "\n" AGAIN "\n"

Test(host_cli_ngram, greedy_text_is_the_verifiers_in_fewer_rounds)
{
    json_t *plain = JSON(PROMPTS, "run", "--json", "--drafter", "none", "--temperature", "0",
                         "--ignore-stop", "--max-tokens", "40");
    json_t *found = JSON(PROMPTS, "run", "--json", "--quiet", "--drafter", "ngram", "--temperature",
                         "0", "--ignore-stop", "--max-tokens", "40");

    for (size_t i = 0; i < 3; i++) {
        cr_expect_str_eq(string(found, i, "text"), string(plain, i, "text"));
        cr_expect_lt(whole(found, i, "rounds"), whole(plain, i, "rounds"));
        cr_expect_eq(whole(found, i, "drafter_calls"), 0);
        cr_expect_gt(sum(found, i, "accepted", 5), 0);
    }
    json_decref(plain);
    json_decref(found);
}

Test(host_cli_ngram, batches_and_processes_give_one_text)
{
    static const char *const ways[][6] = {{"--bonus", "step"},
                                          {"--verify", "block"},
                                          {"--rule", "token-v2:alpha=0.3", "--bonus", "verifier"}};
    static const char *const base[] = {
        "run",     "--drafter",    "ngram:1-3", "--seed",        "4",
        "--quiet", "--max-tokens", "40",        "--ignore-stop", NULL};
    static const char *const batch[] = {"--batch", "3", NULL};
    static const char *const launch[] = {"launch", "-n", "2", "--", NULL};

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        arguments one = join(base, ways[i]), many = join(one.arg, batch);
        arguments two = join(launch, one.arg), both = join(launch, many.arg);
        char *text = spawn_output(one.arg, PROMPTS);

        expect_same(spawn_output(many.arg, PROMPTS), strdup(text), "a batch");
        expect_same(spawn_output(two.arg, PROMPTS), strdup(text), "processes");
        expect_same(spawn_output(both.arg, PROMPTS), text, "a batch over processes");
    }
}

Test(host_cli_ngram, a_line_says_what_drafts_and_quiet_none_does)
{
    spawn_result r = SPAWN(AGAIN "\n", "run", "--drafter", "ngram:3", "--temperature", "0");

    cr_expect_eq(r.code, 0);
    cr_expect(strstr(r.err, "spc: drafter: n-grams of 2 to 3 tokens"), "%s", r.err);
    cr_expect(strstr(r.err, "spc: strict: "), "%s", r.err);
    spawn_free(&r);
    r = SPAWN(AGAIN "\n", "run", "--drafter", "ngram:3", "--quiet");
    cr_expect_str_eq(r.err, "");
    spawn_free(&r);
    r = SPAWN(AGAIN "\n", "run", "--drafter", "ngram", "--gamma", "auto");
    cr_expect(r.code == 0 && strstr(r.err, "gamma auto: "), "%s", r.err);
    spawn_free(&r);
}

/* With the draft lengths that spc chat chooses, turn by turn: each is looked up in all before it.
 */
/* What gamma auto starts from is measured where a first draft is found: in the middle of a text. */
Test(host_cli_ngram, a_text_that_is_streamed_is_whole_before_anything_is_said)
{
    static const char said[] = SPC_BINARY " run --to de --stream --gamma auto --drafter ngram:1 "
                                          "--temperature 0 --ignore-stop --max-tokens 40 "
                                          "'I am small.' 2>&1";
    FILE *both = popen(said, "r");
    char line[1 << 12];
    int texts = 0, notes = 0;

    cr_assert_not_null(both);
    while (fgets(line, sizeof line, both)) {
        const char *note = strstr(line, "spc: ");

        cr_expect(!note || note == line, "%s", line);
        texts += !note;
        notes += note && strncmp(line, "spc: gamma auto: drafter ", 25) == 0;
    }
    cr_expect_eq(pclose(both), 0);
    cr_expect_eq(texts, 1);
    cr_expect_eq(notes, 2, "at first, and at the end");
}

Test(host_cli_ngram, a_chat_has_the_verifiers_replies)
{
    static const char said[] = "The dog runs.\nThe dog runs.\nI do not know.\nThe dog runs.\n";
    chat_pair p = open_pair();
    char *alone = OUTPUT(said, "chat", "--verifier", p.verifier.path, "--drafter", "none",
                         "--temperature", "0");
    char *found = OUTPUT(said, "chat", "--verifier", p.verifier.path, "--drafter", "ngram",
                         "--temperature", "0", "--quiet");
    json_t *replies = JSON(said, "chat", "--verifier", p.verifier.path, "--drafter", "ngram",
                           "--temperature", "0", "--quiet", "--json", "--gamma", "4");
    int64_t accepted = 0;

    cr_expect_eq(json_array_size(replies), 4);
    for (size_t i = 0; i < 4; i++) accepted += sum(replies, i, "accepted", 4);
    cr_expect_gt(accepted, 3, "%d", (int)accepted);
    expect_same(found, alone, "replies");
    json_decref(replies);
    close_pair(&p);
}

/* A memory plan for such a drafter is that of the model alone. */
Test(host_cli_ngram, info_plans_no_memory_for_it)
{
    json_t *with =
        JSON(NULL, "info", "--json", "--device", "cpu", "--drafter", "ngram", "embedded:verifier");
    json_t *without = JSON(NULL, "info", "--json", "--device", "cpu", "embedded:verifier");
    char *text =
        OUTPUT(NULL, "info", "--device", "cpu", "--drafter", "ngram:4", "embedded:verifier");

    cr_expect(json_equal(json_object_get(json_array_get(with, 0), "memory"),
                         json_object_get(json_array_get(without, 0), "memory")));
    cr_expect(strstr(text, "ngram:4, looked up: no model"), "%s", text);
    free(text);
    json_decref(with);
    json_decref(without);
}

Test(host_cli_ngram, what_does_not_go_with_it_is_refused_before_a_model_is_looked_for)
{
    static const spawn_refusal table[] = {
        {2,
         "bonus verifier",
         NULL,
         {"run", "--drafter", "ngram", "--rule", "token-v3:alpha=0.5", "x"}},
        {2,
         "strict or truncate",
         NULL,
         {"run", "--drafter", "ngram", "--rule", "opt:alpha=0.5", "x"}},
        {2,
         "one model at a time",
         NULL,
         {"run", "--drafter", "ngram", "--rule", "drafter-only", "x"}},
        {2,
         "--drafter-device",
         NULL,
         {"run", "--drafter", "ngram", "--drafter-device", "cpu", "x"}},
        {2,
         "--drafter-tp",
         NULL,
         {"run", "--drafter", "ngram", "--tp", "2", "--drafter-tp", "2", "x"}},
        {2, "--overlap", NULL, {"run", "--drafter", "ngram", "--overlap", "on", "x"}},
        {2, "ngram:MIN-MAX", NULL, {"run", "--drafter", "ngram:9-3", "x"}},
        {2, "ngram:MIN-MAX", NULL, {"run", "--verifier", "/no/model", "--drafter", "ngram:0", "x"}},
        {2, "ngram:MIN-MAX", NULL, {"info", "--drafter", "ngram:x", "/no/model"}},
        {2,
         "drafter-device",
         NULL,
         {"info", "--drafter", "ngram", "--drafter-device", "cpu", "/no/model"}},
        {2,
         "strict or truncate",
         NULL,
         {"chat", "--verifier", "/no/model", "--drafter", "ngram", "--rule", "chow:alpha=0.1"}},
    };

    spawn_failures(table, (int32_t)(sizeof table / sizeof *table));
}
