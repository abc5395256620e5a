/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_logits.c - spc logits: what is written is what was recorded, all of it or nothing.
 */
#include "weights/safetensors.h"

#include "folder.h"
#include "spawn.h"

#include <math.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))
#define TINY         SPC_TEST_VECTORS "/llama"

/* The one tensor of a safetensors file in memory; its logits are [rows, vocab] float32. */
static const float *read_logits(const char *data, size_t bytes, spc_tensor_list *list,
                                int64_t *rows)
{
    spc_error error;

    memset(list, 0, sizeof *list);
    cr_assert_eq(spc_safetensors_read("logits", data, bytes, list, &error), SPC_OK, "%s",
                 error.message);
    cr_assert_eq(list->count, 1);

    const spc_tensor *t = list->tensor;

    cr_expect_str_eq(t->name, "logits");
    cr_assert_eq(t->dtype, SPC_DTYPE_F32);
    cr_assert_eq(t->rank, 2);
    cr_expect_eq(t->shape[1], 389);
    cr_assert_eq(t->bytes, (uint64_t)(t->shape[0] * t->shape[1]) * sizeof(float));
    *rows = t->shape[0];
    return t->data;
}

/* Farthest distance of two files of logits; NaN stays. */
static double distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    spc_tensor_list a_list, b_list;
    int64_t a_rows, b_rows;
    const float *x = read_logits(a, a_bytes, &a_list, &a_rows);
    const float *y = read_logits(b, b_bytes, &b_list, &b_rows);
    double worst = 0.0;

    cr_assert_eq(a_rows, b_rows);
    for (int64_t i = 0; i < a_rows * 389; i++) {
        double off = fabs((double)x[i] - (double)y[i]);

        worst = off <= worst ? worst : off;
    }
    spc_tensor_list_free(&a_list);
    spc_tensor_list_free(&b_list);
    return worst;
}

/* "115,151,..." of the recorded ids; malloc'd. */
static char *recorded_ids(const char *model)
{
    char path[FOLDER_PATH], *text = calloc(1, 4096);
    json_t *golden, *id;
    size_t i, used = 0;

    (void)snprintf(path, sizeof path, "%s/golden.json", model);
    golden = read_json(path);
    json_array_foreach(json_object_get(golden, "ids"), i, id)
    {
        used += (size_t)snprintf(text + used, 4096 - used, "%s%" JSON_INTEGER_FORMAT, i ? "," : "",
                                 json_integer_value(id));
    }
    cr_assert_gt(i, 1);
    json_decref(golden);
    return text;
}

Test(host_cli_logits, written_logits_are_those_of_the_reference)
{
    static const char *const models[] = {TINY, SPC_TEST_VECTORS "/llama31-rope"};
    static const char *const how[][2] = {{"--threads", "1"}, {"--isa", "portable"}};
    folder f = folder_open();
    char output[FOLDER_PATH], path[FOLDER_PATH];

    folder_path(&f, "logits.safetensors", output);
    for (int32_t m = 0; m < COUNT(models); m++) {
        char *ids = recorded_ids(models[m]), *expected, *found;
        size_t expected_bytes, found_bytes;

        (void)snprintf(path, sizeof path, "%s/logits.safetensors", models[m]);
        expected = read_file(path, &expected_bytes);
        for (int32_t i = 0; i < COUNT(how); i++) {
            char *out = OUTPUT(NULL, "logits", "--model", models[m], "--ids", ids, "--output",
                               output, how[i][0], how[i][1]);

            cr_expect_str_empty(out);
            found = read_file(output, &found_bytes);
            cr_expect_leq(distance(found, found_bytes, expected, expected_bytes), 1e-4, "%s, %s",
                          models[m], how[i][1]);
            free(found);
            free(out);
        }
        free(expected);
        free(ids);
    }
    cr_expect_eq(folder_count(&f), 1, "nothing is left beside the file");
    folder_close(&f);
}

/* So many rows that threads share those of every op, in 6 layers. */
Test(host_cli_logits, logits_have_the_same_bytes_on_any_number_of_threads)
{
    enum { IDS = 400 };
    static const char *const threads[] = {"1", "2", "3", "7"};
    folder f = folder_open();
    char output[FOLDER_PATH], ids[5 * IDS + 1], *first = NULL;
    size_t used = 0, bytes, found_bytes;

    for (int32_t i = 0; i < IDS; i++) {
        used += (size_t)snprintf(ids + used, sizeof ids - used, "%s%d", i ? "," : "",
                                 (int)(20 + 37 * i % 900));
    }
    folder_path(&f, "logits.safetensors", output);
    for (int32_t i = 0; i < COUNT(threads); i++) {
        char *found;

        free(OUTPUT(NULL, "logits", "--model", "embedded:verifier", "--ids", ids, "--threads",
                    threads[i], "--output", output));
        found = read_file(output, &found_bytes);
        if (!first) {
            first = found;
            bytes = found_bytes;
            cr_assert_gt(bytes, (size_t)IDS * 6144 * sizeof(float));
            continue;
        }
        cr_expect(found_bytes == bytes && memcmp(found, first, bytes) == 0, "%s threads",
                  threads[i]);
        free(found);
    }
    free(first);
    folder_close(&f);
}

Test(host_cli_logits, logits_of_several_processes_are_those_of_the_reference)
{
    folder f = folder_open();
    char output[FOLDER_PATH], *ids = recorded_ids(TINY), *expected, *found;
    size_t expected_bytes, found_bytes;

    folder_path(&f, "logits.safetensors", output);
    expected = read_file(TINY "/logits.safetensors", &expected_bytes);
    free(OUTPUT(NULL, "launch", "-n", "2", "--", "logits", "--model", TINY, "--ids", ids,
                "--output", output));
    found = read_file(output, &found_bytes);
    cr_expect_leq(distance(found, found_bytes, expected, expected_bytes), 1e-4);
    free(found);
    free(expected);
    free(ids);
    folder_close(&f);
}

Test(host_cli_logits, logits_of_a_decoder_stand_behind_what_its_encoder_reads)
{
    const char *model = SPC_TEST_VECTORS "/t5-gated";
    size_t expected_bytes, found_bytes;
    char *expected = read_file(SPC_TEST_VECTORS "/t5-gated/logits.safetensors", &expected_bytes);
    const char *without[] = {"logits", "--model", model, "--ids", "0", "--output", "none", NULL};
    char output[FOLDER_PATH];
    folder f = folder_open();

    spawn_failure(without, NULL, 6, "source");
    folder_path(&f, "logits.safetensors", output);
    free(OUTPUT(NULL, "logits", "--model", model, "--source",
                "310,261,312,57,138,206,81,238,154,39,336,321,50,269,187,25,317", "--ids",
                "0,78,276,68,364,177,310,324,21,294,273,97", "--output", output));

    char *found = read_file(output, &found_bytes);

    cr_expect_leq(distance(found, found_bytes, expected, expected_bytes), 1e-4);
    free(found);
    free(expected);
    folder_close(&f);
}

Test(host_cli_logits, logits_go_into_a_pipe_as_they_are)
{
    static const char *const args[] = {"logits",   "--model",         TINY, "--ids", "5,7,9",
                                       "--output", "/proc/self/fd/1", NULL};
    spawn_result r = spawn(args, &(const spawn_options){.in = NULL});
    spc_tensor_list list;
    int64_t rows;

    cr_assert_eq(r.code, 0, "%s", r.err);
    (void)read_logits(r.out, r.out_bytes, &list, &rows);
    cr_expect_eq(rows, 3);
    spc_tensor_list_free(&list);
    spawn_free(&r);
}

Test(host_cli_logits, bad_ids_are_exit_6_and_write_nothing)
{
    static char long_ids[129 * 2];
    static const struct {
        const char *ids, *word;
    } table[] = {{"", "id 0"},
                 {"1,,2", "id 1"},
                 {"1,", "id 1"},
                 {",1", "id 0"},
                 {"1,x", "found 'x'"},
                 {"-1", "found '-1'"},
                 {"1.5", "found '1.5'"},
                 {"1, 2", "found ' 2'"},
                 {"1,2147483648", "id 1"},
                 {"1,389", "0 to 388, found 389"},
                 {long_ids, "1 to 128 ids"}};
    folder f = folder_open();
    char output[FOLDER_PATH];

    for (size_t i = 0; i < sizeof long_ids; i++) long_ids[i] = i % 2 ? ',' : '1';
    long_ids[sizeof long_ids - 1] = '\0';
    folder_path(&f, "logits", output);
    for (int32_t i = 0; i < COUNT(table); i++) {
        const char *args[] = {"logits",     "--model",  TINY,   "--ids",
                              table[i].ids, "--output", output, NULL};

        spawn_failure(args, NULL, 6, table[i].word);
    }
    cr_expect_eq(folder_count(&f), 0);
    folder_close(&f);
}

Test(host_cli_logits, an_output_that_cannot_be_written_is_exit_6_and_leaves_no_part)
{
    static const char *const places[] = {"no/such/folder/logits", "."};
    folder f = folder_open();
    char output[FOLDER_PATH], *kept;
    const char *args[] = {"logits", "--model", TINY, "--ids", "1,2", "--output", NULL, NULL};
    size_t bytes;

    for (int32_t i = 0; i < COUNT(places); i++) {
        folder_path(&f, places[i], output);
        args[6] = output;
        spawn_failure(args, NULL, 6, output);
        cr_expect_eq(folder_count(&f), 0, "%s", places[i]);
    }
    folder_path(&f, "logits", output); /* of 3192 bytes */
    spawn_failure(args, &(const spawn_options){.file_bytes = 1000}, 6, "cannot be written");
    cr_expect_eq(folder_count(&f), 0);
    folder_write(&f, "logits", "old", 3);
    spawn_failure(args, &(const spawn_options){.file_bytes = 1000}, 6, "cannot be written");
    kept = read_file(output, &bytes);
    cr_expect_str_eq(kept, "old", "what was there before stays");
    cr_expect_eq(folder_count(&f), 1);
    free(kept);
    folder_close(&f);
}
