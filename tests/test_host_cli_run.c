/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_run.c - spc run: where prompts come from, and what results hold. */
#include <spc/verify.h>

#include "folder.h"
#include "results.h"

#include <inttypes.h>
#include <math.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define TINY         SPC_TEST_VECTORS "/llama"

/* FNV-1a over ids as little-endian int32, written anew. */
static uint64_t hash_of(uint64_t hash, const json_t *ids)
{
    const json_t *id;
    size_t i;

    json_array_foreach(ids, i, id)
    {
        uint32_t value = (uint32_t)json_integer_value(id);
        unsigned char byte[4] = {(unsigned char)value, (unsigned char)(value >> 8),
                                 (unsigned char)(value >> 16), (unsigned char)(value >> 24)};

        for (int32_t k = 0; k < 4; k++) hash = (hash ^ byte[k]) * 1099511628211u;
    }
    return hash;
}

static const uint64_t hash_of_nothing = 14695981039346656037u;

/* ---- prompts ----------------------------------------------------------------------------------
 */

Test(host_cli_run, prompts_mean_the_same_however_they_are_given)
{
    static const char *const texts[] = {FIRST "\n" SECOND "\n", FIRST "\n" SECOND,
                                        FIRST "\r\n" SECOND "\r\n",
                                        "\xef\xbb\xbf" FIRST "\n" SECOND "\n"};
    static const char marked[] = "\xef\xbb\xbf{\"prompt\":\"" FIRST "\"}\n"
                                 "{\"prompt\":\"" SECOND "\"}\n";
    static const char lines[] = "{\"prompt\":\"" FIRST "\"}\n\n  \n{\"prompt\":\"" SECOND "\"}\n";
    static const char *const args[] = {"run", "--to", "de", "--temperature", "0", NULL};
    static const char *const words[] = {"--", FIRST, SECOND, NULL};
    static const char *const input[] = {"--input", "-", NULL};
    folder f = folder_open();
    char path[FOLDER_PATH], *expected = spawn_output(join(args, words).arg, NULL);
    const char *file[] = {"--input", path, NULL};

    cr_expect_eq(count_lines(expected), 2);
    for (int32_t i = 0; i < COUNT(texts); i++) {
        expect_same(spawn_output(args, texts[i]), strdup(expected), "lines of text");
    }
    expect_same(spawn_output(join(args, input).arg, lines), strdup(expected), "lines of JSON");
    expect_same(spawn_output(join(args, input).arg, marked), strdup(expected), "a mark of UTF-8");
    folder_path(&f, "prompts.jsonl", path);
    folder_write(&f, "prompts.jsonl", lines, sizeof lines - 1);
    expect_same(spawn_output(join(args, file).arg, NULL), expected, "a file");
    folder_close(&f);
}

Test(host_cli_run, a_translation_is_the_sentence_between_its_marks)
{
    static const struct {
        const char *to, *prompt, *begin;
    } table[] = {{"de", "<s><2de>" FIRST "<sep>", "Der Zug"},
                 {"es", "<s><2es>" FIRST "<sep>", "El tren"},
                 {"fr", "<s><2fr>" FIRST "<sep>", "Le train"}};

    for (int32_t i = 0; i < COUNT(table); i++) {
        json_t *ids = JSON(table[i].prompt, "tokenize", "embedded:verifier");
        json_t *line = json_pack("{s:O}", "ids", json_array_get(ids, 0));
        char *input = json_dumps(line, 0);
        char *text = OUTPUT(NULL, "run", "--temperature", "0", "--to", table[i].to, FIRST);

        cr_expect_eq(strncmp(text, table[i].begin, strlen(table[i].begin)), 0, "%s", text);
        expect_same(OUTPUT(NULL, "run", "--temperature", "0", table[i].prompt), strdup(text),
                    "text");
        expect_same(OUTPUT(input, "run", "--temperature", "0", "--input", "-"), text, "ids");
        free(input);
        json_decref(line);
        json_decref(ids);
    }
}

/* The marks are the program's to set: one in a sentence is the letters it is written with. */
Test(host_cli_run, a_sentence_to_translate_cannot_spell_a_mark)
{
    json_t *lines = JSON("a b\na <sep> b\na <2de> b\n", "run", "--quiet", "--to", "de", "--json");

    cr_assert_eq(json_array_size(lines), 3);
    cr_expect_eq(whole(lines, 0, "prompt_tokens"), 3 + 2);
    cr_expect_geq(whole(lines, 1, "prompt_tokens"), 3 + 2 + 3, "one id for <sep>");
    cr_expect_geq(whole(lines, 2, "prompt_tokens"), 3 + 2 + 3, "one id for <2de>");
    json_decref(lines);
}

Test(host_cli_run, an_id_of_any_type_is_handed_on)
{
    static const char *const ids[] = {"\"a \\u00e9\"", "17",          "-2.5",      "true",
                                      "null",          "[1,[\"b\"]]", "{\"k\":{}}"};
    char input[1024] = "{\"prompt\":\"no id\"}\n";

    for (int32_t i = 0; i < COUNT(ids); i++) {
        size_t used = strlen(input);

        (void)snprintf(input + used, sizeof input - used, "{\"id\":%s,\"prompt\":\"Hello.\"}\n",
                       ids[i]);
    }
    json_t *results = JSON(input, "run", "--json", "--max-tokens", "2", "--input", "-");

    cr_assert_eq(json_array_size(results), COUNT(ids) + 1);
    cr_expect_null(json_object_get(json_array_get(results, 0), "id"));
    for (int32_t i = 0; i < COUNT(ids); i++) {
        json_t *expected = json_loads(ids[i], JSON_DECODE_ANY, NULL);

        cr_expect(json_equal(field(results, (size_t)i + 1, "id"), expected), "%s", ids[i]);
        json_decref(expected);
    }
    json_decref(results);
}

Test(host_cli_run, a_model_without_tokenizer_goes_from_ids_to_ids)
{
    static const struct {
        const char *drafter, *rule;
    } table[] = {{"none", "verifier-only"}, {TINY, "strict"}, {TINY, "drafter-only"}};
    json_t *golden = read_json(TINY "/golden.json");
    json_t *line = json_pack("{s:O}", "ids", json_object_get(golden, "prompt"));
    const json_t *greedy = json_object_get(golden, "greedy"), *id;
    char *input = json_dumps(line, 0), expected[1024] = "";
    size_t i, used = 0;

    json_array_foreach(greedy, i, id)
    {
        used += (size_t)snprintf(expected + used, sizeof expected - used,
                                 i ? " %" JSON_INTEGER_FORMAT : "%" JSON_INTEGER_FORMAT,
                                 json_integer_value(id));
    }
    (void)strcpy(expected + used, "\n");
    for (int32_t k = 0; k < COUNT(table); k++) {
        char *text = OUTPUT(input, "run", "--verifier", TINY, "--drafter", table[k].drafter,
                            "--rule", table[k].rule, "--temperature", "0", "--max-tokens", "24",
                            "--ignore-stop", "--input", "-");
        json_t *results = JSON(input, "run", "--verifier", TINY, "--drafter", table[k].drafter,
                               "--rule", table[k].rule, "--temperature", "0", "--max-tokens", "24",
                               "--ignore-stop", "--json", "--input", "-");

        cr_expect_str_eq(text, expected, "%s", table[k].rule);
        cr_expect(json_equal(field(results, 0, "ids"), greedy), "%s", table[k].rule);
        cr_expect_null(json_object_get(json_array_get(results, 0), "text"));
        free(text);
        json_decref(results);
    }
    free(input);
    json_decref(line);
    json_decref(golden);
}

/* ---- results ----------------------------------------------------------------------------------
 */

static void expect_field_types(const json_t *results, size_t i)
{
    static const char *const strings[] = {"text", "finish", "rule", "output_hash"};
    static const char *const wholes[] = {
        "index",      "gamma",          "seed",           "prompt_tokens", "tokens",
        "discarded",  "rounds",         "verifier_calls", "drafter_calls", "prefill_calls",
        "bonus",      "zero_residuals", "bonus_deferred", "reused_tokens", "drafted_ahead",
        "ahead_used", "in_turns",       "chained"};
    static const char *const reals[] = {"tokens_per_second", "tokens_per_verifier_call",
                                        "drafter_ms", "verifier_ms", "other_ms"};
    static const char *const arrays[] = {"ids",      "drafted",  "verified",
                                         "accepted", "rejected", "deferred"};
    size_t fields = COUNT(strings) + COUNT(wholes) + COUNT(reals) + COUNT(arrays);

    for (int32_t k = 0; k < COUNT(strings); k++) (void)string(results, i, strings[k]);
    for (int32_t k = 0; k < COUNT(wholes); k++) cr_expect_geq(whole(results, i, wholes[k]), 0);
    for (int32_t k = 0; k < COUNT(reals); k++) {
        cr_expect(json_real_value(field(results, i, reals[k])) >= 0.0, "%s", reals[k]);
    }
    for (int32_t k = 0; k < COUNT(arrays); k++) {
        cr_expect(json_is_array(field(results, i, arrays[k])), "%s", arrays[k]);
    }
    cr_expect_eq(json_object_size(json_array_get(results, i)), fields, "and no other field");
}

/* Counters of one result against each other. */
static void expect_consistent(const json_t *results, size_t i, size_t gamma)
{
    static const char *const by_position[] = {"drafted", "verified", "accepted", "rejected",
                                              "deferred"};
    json_int_t total[5], tokens = whole(results, i, "tokens");
    double per_call = json_real_value(field(results, i, "tokens_per_verifier_call"));
    double calls = (double)whole(results, i, "verifier_calls");
    char hash[32];

    expect_field_types(results, i);
    for (int32_t k = 0; k < 5; k++) total[k] = sum(results, i, by_position[k], gamma);
    for (size_t k = 0; k < gamma; k++) {
        json_int_t at[5];

        for (int32_t n = 0; n < 5; n++) {
            at[n] = json_integer_value(json_array_get(field(results, i, by_position[n]), k));
        }
        cr_expect_leq(at[1], at[0], "position %d: verified of drafted", (int)k);
        cr_expect_eq(at[2] + at[3], at[1], "position %d: accepted and rejected", (int)k);
        cr_expect_leq(at[4], at[1], "position %d: deferred of verified", (int)k);
    }
    cr_expect_eq((json_int_t)json_array_size(field(results, i, "ids")), tokens);
    cr_expect_eq(total[1] + whole(results, i, "bonus"), tokens, "a token is of a draft or bonus");
    cr_expect_eq(whole(results, i, "index"), (json_int_t)i);
    cr_expect_eq(whole(results, i, "gamma"), (json_int_t)gamma);
    cr_expect_leq(whole(results, i, "verifier_calls"), whole(results, i, "rounds"));
    cr_expect(fabs(per_call * calls - (double)tokens) < 1e-6 * (double)tokens, "%g", per_call);
    (void)snprintf(hash, sizeof hash, "%016" PRIx64,
                   hash_of(hash_of_nothing, field(results, i, "ids")));
    cr_expect_str_eq(string(results, i, "output_hash"), hash);
}

Test(host_cli_run, json_results_hold_every_field_and_their_counters_agree)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.2",
                                        "lossy:alpha=0.3", "verifier-only"};
    static const char *const bonuses[] = {"target", "verifier", "step"};
    static const char *const gammas[] = {"0", "3", "16"};

    for (int32_t r = 0; r < COUNT(rules); r++) {
        for (int32_t g = 0; g < COUNT(gammas); g++) {
            const char *bonus = bonuses[(r + g) % COUNT(bonuses)];
            bool alone = strcmp(rules[r], "verifier-only") == 0; /* there are no drafts */
            json_t *results = JSON(THREE, "run", "--json", "--to", "fr", "--rule", rules[r],
                                   "--gamma", gammas[g], "--batch", "2", "--bonus", bonus);

            cr_assert_eq(json_array_size(results), 3);
            for (size_t i = 0; i < 3; i++) {
                expect_consistent(results, i, alone ? 0 : (size_t)atoi(gammas[g]));
                cr_expect_str_eq(string(results, i, "rule"), rules[r]);
            }
            json_decref(results);
        }
    }
}

/* Lengths that are chosen are counted, told of, and change nothing greedy. */
Test(host_cli_run, gamma_auto_says_what_it_chose_and_why)
{
    json_t *fixed = JSON(THREE, "run", "--json", "--to", "fr", "--temperature", "0");
    spawn_result told =
        SPAWN(THREE, "run", "--json", "--to", "fr", "--temperature", "0", "--gamma", "auto");
    spawn_result quiet = SPAWN(THREE, "run", "--to", "fr", "--gamma", "auto", "--quiet");
    json_t *results = parse_lines(told.out);

    cr_assert_eq(told.code, 0, "%s", told.err);
    cr_assert_eq(json_array_size(results), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *chosen = field(results, i, "rounds_by_gamma");
        json_int_t rounds = 0;

        cr_expect_str_eq(string(results, i, "gamma"), "auto");
        cr_expect(json_equal(field(results, i, "ids"), field(fixed, i, "ids")));
        for (size_t g = 0; g < json_array_size(chosen); g++) {
            rounds += json_integer_value(json_array_get(chosen, g));
        }
        cr_expect_eq(rounds, whole(results, i, "rounds"));
        cr_expect_geq(whole(results, i, "probes"), 0);
        cr_expect_geq(whole(results, i, "catch_up"), 0);
    }
    cr_expect_eq(strncmp(told.err, "spc: gamma auto: drafter ", 25), 0, "at the start: %s",
                 told.err);
    cr_expect_not_null(strstr(told.err, "spc: gamma auto: rounds by gamma "), "%s", told.err);
    /* which of both is for the machine to say, that may be busy */
    cr_expect(strstr(told.err, "times as fast as plain decoding") ||
                  strstr(told.err, "plain decoding is expected to be the fastest"),
              "%s", told.err);
    cr_expect_eq(quiet.err_bytes, 0, "%s", quiet.err);
    json_decref(results);
    json_decref(fixed);
    spawn_free(&told);
    spawn_free(&quiet);
}

/* A model that writes one token behind these ids, and NaN behind that. */
static folder model_that_fails(const int32_t *ids, int32_t count)
{
    folder f = folder_open();
    size_t bytes;
    char *data = read_file(TINY "/model.safetensors", &bytes);
    const char *name = strstr(data + 8, "\"model.embed_tokens.weight\"");
    const char *begins = name ? strstr(name, "\"data_offsets\":[") : NULL;
    uint64_t header;

    cr_assert_not_null(begins);
    memcpy(&header, data, sizeof header);
    header += 8 + strtoull(begins + strlen("\"data_offsets\":["), NULL, 10);
    for (int32_t v = 0; v < 389; v++) {
        const float none = NAN;
        bool given = false;

        for (int32_t i = 0; i < count; i++) given |= ids[i] == v;
        if (!given) memcpy(data + header + (size_t)v * 96 * sizeof none, &none, sizeof none);
    }
    folder_write(&f, "model.safetensors", data, bytes);
    folder_copy(&f, TINY "/config.json", "config.json", SIZE_MAX);
    folder_copy(&f, SPC_TEST_VECTORS "/tokenizers/unigram-t5.json", "tokenizer.json", SIZE_MAX);
    free(data);
    return f;
}

Test(host_cli_run, a_streamed_answer_that_fails_has_an_end_of_line)
{
    static const char in[] = "{\"ids\":[1,5,9]}\n{\"ids\":[1,5,9],\"max_tokens\":1}\n";
    folder f = model_that_fails((const int32_t[]){1, 5, 9}, 3);
    spawn_result r = SPAWN(in, "run", "--verifier", f.path, "--drafter", "none", "--temperature",
                           "0", "--ignore-stop", "--stream", "--keep-going", "--input", "-");
    size_t half = strlen(r.out) / 2;

    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect(strstr(r.err, "(tokens: 1); check the model's weights"), "%s", r.err);
    cr_expect(half > 1 && r.out[half - 1] == '\n' && strncmp(r.out, r.out + half, half) == 0, "%s",
              r.out);
    spawn_free(&r);
    folder_close(&f);
}

Test(host_cli_run, text_is_the_same_plain_streamed_and_in_json)
{
    static const char *const table[][6] = {
        {"--to", "de"}, {"--to", "es", "--stop", "a"}, {"--max-tokens", "40", "--ignore-stop"}};
    static const char *const plain[] = {"run", NULL}, *const stream[] = {"run", "--stream", NULL};
    static const char *const as_json[] = {"run", "--json", NULL};

    for (int32_t i = 0; i < COUNT(table); i++) {
        char *text = spawn_output(join(plain, table[i]).arg, THREE), joined[4096] = "";
        json_t *results = spawn_json(join(as_json, table[i]).arg, THREE);

        expect_same(spawn_output(join(stream, table[i]).arg, THREE), strdup(text), "streamed");
        for (size_t k = 0; k < 3; k++) {
            (void)strcat(strcat(joined, string(results, k, "text")), "\n");
        }
        cr_expect_str_eq(text, joined);
        json_decref(results);
        free(text);
    }
}

Test(host_cli_run, results_do_not_depend_on_batch_threads_or_silence)
{
    static const char *const base[] = {
        "run", "--json", "--to", "es", "--rule", "token-v3:alpha=0.3", NULL};
    static const char *const table[][4] = {{"--batch", "2"},   {"--batch", "4"},
                                           {"--batch", "64"},  {"--threads", "1"},
                                           {"--threads", "3"}, {"--quiet"}};
    static const char text[] = THREE FIRST "\n" SECOND "\n";
    json_t *expected = without_times(spawn_json(base, text));

    cr_expect_eq(json_array_size(expected), 5);
    for (int32_t i = 0; i < COUNT(table); i++) {
        expect_equal(without_times(spawn_json(join(base, table[i]).arg, text)),
                     json_incref(expected), table[i][0]);
    }
    json_decref(expected);
}

static json_int_t sum_at(const json_t *results, size_t i, const char *key)
{
    const json_t *list = field(results, i, key), *number;
    json_int_t sum = 0;
    size_t k;

    json_array_foreach(list, k, number) sum += json_integer_value(number);
    return sum;
}

/* ", accepted 12 (5 3 2 1 1)": of all results together, by the position of drafts. */
static void expect_positions(const char *err, const json_t *results, const char *key)
{
    json_int_t by_position[16] = {0}, all = 0;
    size_t positions = 0, k;
    char text[160];
    const json_t *number;

    for (size_t i = 0; i < json_array_size(results); i++) {
        positions = json_array_size(field(results, i, key));
        cr_assert(positions > 0 && positions <= 16);
        json_array_foreach(field(results, i, key), k, number)
        {
            by_position[k] += json_integer_value(number);
            all += json_integer_value(number);
        }
    }
    (void)snprintf(text, sizeof text, ", %s %" JSON_INTEGER_FORMAT " (", key, all);
    for (k = 0; k < positions; k++) {
        (void)snprintf(text + strlen(text), sizeof text - strlen(text),
                       "%" JSON_INTEGER_FORMAT "%s", by_position[k], k + 1 < positions ? " " : ")");
    }
    cr_expect(strstr(err, text), "%s in %s", text, err);
}

/* Two lines: "spc: strict: 34 tokens in ...", and one that ends in "hash 0123456789abcdef". */
static void expect_statistics(const char *err, const json_t *results)
{
    uint64_t hash = hash_of_nothing;
    json_int_t tokens = 0, prompts = 0, accepted = 0, rejected = 0;
    char head[96], read[64], drafts[96], tail[64];

    for (size_t i = 0; i < json_array_size(results); i++) {
        hash = hash_of(hash, field(results, i, "ids"));
        tokens += whole(results, i, "tokens");
        prompts += whole(results, i, "prompt_tokens");
        accepted += sum_at(results, i, "accepted");
        rejected += sum_at(results, i, "rejected");
    }
    cr_assert(accepted > 0 && rejected > 0, "something is counted");
    (void)snprintf(head, sizeof head, "spc: strict: %" JSON_INTEGER_FORMAT " tokens in ", tokens);
    (void)snprintf(read, sizeof read, ", prompts of %" JSON_INTEGER_FORMAT " included, ", prompts);
    (void)snprintf(drafts, sizeof drafts,
                   ", %.0f %% of %" JSON_INTEGER_FORMAT " judged drafts accepted, finish ",
                   100.0 * (double)accepted / (double)(accepted + rejected), accepted + rejected);
    (void)snprintf(tail, sizeof tail, ", hash %016" PRIx64 "\n", hash);
    cr_expect_eq(strncmp(err, head, strlen(head)), 0, "%s in %s", head, err);
    cr_expect(strstr(err, read), "%s in %s", read, err);
    cr_expect(strstr(err, drafts), "%s in %s", drafts, err);
    cr_expect(strlen(err) > strlen(tail) && !strcmp(err + strlen(err) - strlen(tail), tail),
              "%s in %s", tail, err);
    cr_expect_eq(count_lines(err), 2);
    expect_positions(err, results, "accepted");
    expect_positions(err, results, "rejected");
    expect_positions(err, results, "deferred");
}

Test(host_cli_run, statistics_are_two_lines_on_stderr_and_quiet_leaves_them_out)
{
    spawn_result told = SPAWN(THREE, "run", "--to", "de", "--json");
    spawn_result quiet = SPAWN(THREE, "run", "--to", "de", "--json", "--quiet");
    spawn_result one = SPAWN(NULL, "run", "--to", "de", "--max-tokens", "1", FIRST);
    json_t *results = parse_lines(told.out);

    cr_expect(strstr(one.err, ": 1 token in ") && strstr(one.err, ", 1 round, "), "%s", one.err);
    spawn_free(&one);
    cr_expect_eq(told.code, 0);
    cr_expect_eq(quiet.code, 0);
    expect_statistics(told.err, results);
    cr_expect_eq(quiet.err_bytes, 0, "%s", quiet.err);
    json_decref(results);
    spawn_free(&told);
    spawn_free(&quiet);
}

/* What a terminal shows: "\r\033[K" takes back the line so far. */
static char *shown(const char *written)
{
    char *screen = calloc(1, strlen(written) + 1);
    size_t used = 0;

    cr_assert_not_null(screen);
    while (*written) {
        if (strncmp(written, "\r\033[K", 4) != 0) {
            screen[used++] = *written++;
            continue;
        }
        written += 4;
        while (used > 0 && screen[used - 1] != '\n') screen[--used] = '\0';
    }
    screen[used] = '\0';
    return screen;
}

Test(host_cli_run, progress_and_results_share_a_terminal)
{
    static const char *const ways[] = {"--batch=1", "--batch=2", "--json", "--stream"};

    for (int32_t i = 0; i < COUNT(ways); i++) {
        const char *const args[] = {"run", "--to", "fr", ways[i], FIRST, SECOND, THIRD, NULL};
        spawn_result r = spawn(args, &(const spawn_options){.terminal = true});
        char *plain = spawn_output(args, NULL), *screen = shown(r.out), *line = screen;

        cr_expect_eq(r.code, 0);
        cr_expect_eq(strstr(r.out, "3 prompts, ") != NULL, i < 3, "%s: progress: %s", ways[i],
                     r.out);
        if (strcmp(ways[i], "--json") == 0) {
            for (int32_t k = 0; k < 3; k++, line = strchr(line, '\n') + 1) {
                cr_expect_eq(strncmp(line, "{\"index\":", 9), 0, "%s", screen);
            }
        } else {
            cr_expect_eq(strncmp(screen, plain, strlen(plain)), 0, "%s: %s", ways[i], screen);
            line += strlen(plain);
        }
        cr_expect_eq(strncmp(line, "spc: strict: ", 13), 0, "%s: %s", ways[i], screen);
        free(screen);
        free(plain);
        spawn_free(&r);
    }
}

/* Of a prompt that takes several steps, and erased before the first text; of two that are read
 * together, of both.  Elsewhere than on a terminal, and under --quiet, nothing. */
Test(host_cli_run, a_terminal_sees_how_far_long_prompts_are)
{
    static const struct {
        const char *way, *says;
    } table[] = {{"--batch=1", "reading the prompt: "},
                 {"--stream", "reading the prompt: "},
                 {"--batch=2", "reading 2 prompts: "},
                 {"--quiet", NULL}};
    char text[1200] = "", other[1200] = "Good night. ";

    while (strlen(text) < 1000) strcat(text, "The cat sleeps. ");
    (void)strcat(other, text);
    for (int32_t i = 0; i < COUNT(table); i++) {
        const char *const args[] = {"run", "--to", "fr", "--max-tokens", "3", table[i].way,
                                    text,  other,  NULL};
        spawn_result r = spawn(args, &(const spawn_options){.terminal = true});
        spawn_result piped = spawn(args, &(const spawn_options){.terminal = false});
        char *screen = shown(r.out);

        cr_expect_eq(r.code, 0);
        cr_expect_eq(strstr(r.out, "reading ") != NULL, table[i].says != NULL, "%s: %s",
                     table[i].way, r.out);
        cr_expect(!table[i].says || strstr(r.out, table[i].says), "%s", r.out);
        cr_expect_null(strstr(screen, "reading "), "%s", screen);
        cr_expect_eq(strncmp(screen, piped.out, strlen(piped.out)), 0, "%s: %s", table[i].way,
                     screen);
        cr_expect_null(strstr(piped.err, "reading "), "%s", piped.err);
        free(screen);
        spawn_free(&piped);
        spawn_free(&r);
    }
}

Test(host_cli_run, a_terminal_is_told_that_prompts_are_read_from_it)
{
    static const char *const args[] = {"run", "--to", "de", "--temperature", "0", NULL};
    static const char hint[] = "spc: prompts are read from the terminal, one a line; Ctrl-D ends\n";
    spawn_result r = spawn(args, &(const spawn_options){.terminal = true, .in = FIRST "\n\004"});
    char *plain = spawn_output(args, FIRST "\n"), *screen = shown(r.out);

    cr_expect_eq(r.code, 0, "%s", r.out);
    cr_expect_eq(strncmp(screen, hint, strlen(hint)), 0, "%s", screen);
    cr_expect_eq(strncmp(screen + strlen(hint), plain, strlen(plain)), 0, "%s", screen);
    free(screen);
    free(plain);
    spawn_free(&r);
}
