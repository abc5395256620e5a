/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_kernels.c - the table of measured kernels: looked up, written, read again; files that
 * lie or end early. */
#include "host/kernels.h"

#include "folder.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const spc_kernels_entry entries[] = {
    {{"bf16", 4864, 1, {896}},
     "tile",
     32,
     {1, 2},
     {100.125, 101, 102},
     {110, 111, 112.5},
     {{0},
      {SPC_KERNELS_OWN, {{0}}, 130.5, 140},
      {0},
      {SPC_KERNELS_CUBLASLT, {{0xfedcba9876543210, 2, 3, 4, 5, 6, 7, UINT64_MAX}}, 161, 161.25}}},
    {{"bf16", 2048, 3, {2048, 512, 512}},
     "row",
     4,
     {0, 0},
     {7, 8, 9},
     {7, 8, 9},
     {{SPC_KERNELS_CUBLASLT, {{1}, {0, 2}, {0, 0, 3}}, 12, 13}}},
    {{"q4_k", 2048, 2, {8192, 8192}}, "quant", 1, {0, 0}, {0.5, 1, 2}, {3, 1, 2}, {{0}}}};
enum { ENTRIES = sizeof entries / sizeof *entries };

static spc_kernels table_of(void)
{
    spc_kernels table = {.gpu = "A GPU \"of ours\", compute capability 9.0",
                         .driver = 13010,
                         .toolkit = 13000,
                         .cublaslt = 130200};
    spc_error error;

    for (int i = 0; i < ENTRIES; i++) {
        cr_assert_eq(spc_kernels_set(&table, &entries[i], &error), SPC_OK);
    }
    return table;
}

static bool same_entry(const spc_kernels_entry *a, const spc_kernels_entry *b)
{
    return spc_kernels_same(&a->shape, &b->shape) && strcmp(a->kernel, b->kernel) == 0 &&
           a->slices == b->slices && memcmp(a->tiles, b->tiles, sizeof a->tiles) == 0 &&
           memcmp(a->forward_us, b->forward_us, sizeof a->forward_us) == 0 &&
           memcmp(a->default_us, b->default_us, sizeof a->default_us) == 0;
}

static bool same_many(const spc_kernels_entry *a, const spc_kernels_entry *b)
{
    for (int32_t i = 0; i < SPC_KERNELS_WIDE; i++) {
        const spc_kernels_many *x = &a->many[i], *y = &b->many[i];

        if (x->by != y->by || x->forward_us != y->forward_us || x->default_us != y->default_us ||
            memcmp(x->algorithm, y->algorithm, sizeof x->algorithm) != 0) {
            return false;
        }
    }
    return true;
}

Test(host_kernels, a_table_that_is_read_is_the_one_that_was_written)
{
    folder f = folder_open();
    spc_kernels table = table_of(), again;
    spc_error error;
    char path[FOLDER_PATH];

    folder_path(&f, "kernels.json", path);
    cr_assert_eq(spc_kernels_write(&table, path, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_kernels_read(path, &again, &error), SPC_OK, "%s", error.message);
    cr_expect_str_eq(again.gpu, table.gpu);
    cr_expect_str_eq(again.where, path);
    cr_expect(again.driver == 13010 && again.toolkit == 13000 && again.count == ENTRIES);
    cr_expect_eq(again.cublaslt, 130200);
    for (int i = 0; i < ENTRIES; i++) {
        const spc_kernels_entry *entry = spc_kernels_find(&again, &entries[i].shape);

        cr_assert_not_null(entry);
        cr_expect(same_entry(entry, &entries[i]) && same_many(entry, &entries[i]), "entry %d", i);
    }
    spc_kernels_clear(&table);
    spc_kernels_clear(&again);
    cr_expect_eq(spc_kernels_write(&table, "/nowhere/at/all", &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "/nowhere/at/all: cannot be written: No such file"), "%s",
              error.message);
    cr_expect_eq(folder_count(&f), 1, "nothing is left beside it");
    folder_close(&f);
}

Test(host_kernels, an_entry_is_of_one_type_and_one_shape_and_replaces_the_one_before)
{
    spc_kernels table = table_of();
    spc_kernels_shape other = entries[0].shape;
    spc_kernels_entry entry = entries[1];
    spc_error error;
    char text[SPC_KERNELS_TEXT];

    (void)snprintf(other.type, sizeof other.type, "f16");
    cr_expect_null(spc_kernels_find(&table, &other), "another type");
    other = entries[0].shape;
    other.columns++;
    cr_expect_null(spc_kernels_find(&table, &other), "other columns");
    other = entries[1].shape;
    other.outputs[2]++;
    cr_expect_null(spc_kernels_find(&table, &other), "other outputs");
    other.parts = 2;
    cr_expect_null(spc_kernels_find(&table, &other), "fewer parts");
    entry.slices = 16;
    cr_assert_eq(spc_kernels_set(&table, &entry, &error), SPC_OK);
    cr_expect_eq(table.count, ENTRIES);
    cr_expect_eq(spc_kernels_find(&table, &entry.shape)->slices, 16);
    cr_expect_str_eq(spc_kernels_shape_text(&entry.shape, text), "bf16 [2048, 512, 512] x 2048");
    spc_kernels_clear(&table);
}

/* What a good file says, once more with `from` replaced by `to`. */
static void expect_refused(const folder *f, const char *good, const char *from, const char *to,
                           const char *message)
{
    const char *at = strstr(good, from);
    char *text = malloc(strlen(good) + strlen(to) + 1), path[FOLDER_PATH];
    spc_kernels table;
    spc_error error;

    cr_assert(at && text, "%s", from);
    (void)sprintf(text, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    folder_path(f, "bad.json", path);
    folder_write(f, "bad.json", text, strlen(text));
    cr_expect_eq(spc_kernels_read(path, &table, &error), SPC_EINPUT, "%s: %s", from, to);
    cr_expect(strstr(error.message, "bad.json: ") && strstr(error.message, message), "%s: %s: %s",
              from, to, error.message);
    cr_expect(!strchr(error.message, '\n') && table.count == 0 && !table.entry);
    free(text);
}

static const struct {
    const char *from, *to, *message;
} lies[] = {
    {"\"spc_kernels\": 2", "\"spc_kernels\": 1", "expected \"spc_kernels\": 2"},
    {"\"gpu\"", "\"cpu\"", "\"gpu\""},
    {"13010", "\"new\"", "\"driver\""},
    {"13000", "0", "\"toolkit\""},
    {"\"layers\"", "\"more\": 1, \"layers\"", "no other fields"},
    {"\"kernel\": \"tile\"", "\"kernel\": \"cube\"", "layer 0: expected \"kernel\""},
    {"\"kernel\": \"tile\"", "\"kernel\": 3", "layer 0: expected \"kernel\""},
    {"\"type\": \"bf16\"", "\"type\": \"a type of sixteen\"", "\"type\""},
    {"\"columns\": 4864", "\"columns\": -4864", "\"columns\""},
    {"\"columns\": 4864", "\"columns\": 1e3", "\"columns\""},
    {"\"slices\": 32", "\"slices\": 65", "\"slices\""},
    {"\"slices\": 32", "\"slices\": 99999999999", "\"slices\""},
    {"\"slices\": 4,", "\"slices\": 4, \"tiles\": [1, 1],", "layer 1: expected no other fields"},
    {"\"slices\": 4,", "\"slices\": 4, \"slices\": 4,", "duplicate"},
    {"\"row\"", "\"tile\"", "\"tiles\""},
    {"100.125", "200.125", "no slower than its default"},
    {"100.125", "-1", "\"forward_us\""},
    {"100.125", "true", "\"forward_us\""},
    {"112.5", "112.5, 1", "\"default_us\""},
    {"130200", "-1", "\"cublaslt\""},
    {"130200", "0", "layer 0: expected no \"many\""},
    {"\"rows\": 64", "\"rows\": 65", "\"rows\" of 32"},
    {"\"rows\": 64", "\"rows\": 256", "each once"},
    {"\"rows\": 64", "\"lines\": 64", "\"many\" with \"rows\""},
    {"\"rows\": 64", "\"rows\": 64, \"more\": 1", "no other fields in \"many\""},
    {"\"many\": [", "\"many\": [], \"few\": [", "\"many\": a list"},
    {"null", "[]", "\"algorithms\""},
    {"null", "0", "\"algorithms\""},
    {"fedcba98", "fedcba9", "\"algorithms\""},
    {"fedcba98", "FEDCBA98", "\"algorithms\""},
    {"130.5", "150.5", "no slower than by default"},
    {"130.5", "0", "a time \"forward_us\""},
    {"130.5", "\"soon\"", "a time \"forward_us\""},
};

Test(host_kernels, what_no_table_says_is_refused_in_one_line)
{
    folder f = folder_open();
    spc_kernels table = table_of();
    spc_error error;
    char path[FOLDER_PATH], *good;
    size_t bytes;

    folder_path(&f, "kernels.json", path);
    cr_assert_eq(spc_kernels_write(&table, path, &error), SPC_OK);
    good = read_file(path, &bytes);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        expect_refused(&f, good, lies[i].from, lies[i].to, lies[i].message);
    }
    expect_refused(&f, good, good, "[]", "\"spc_kernels\"");
    expect_refused(&f, good, good, "", "line");
    expect_refused(&f, good, strstr(good, "\"layers\""), "\"layers\": []}", "\"layers\"");
    for (size_t keep = 1; keep + 2 < bytes; keep += 41) { /* cut short anywhere */
        char *cut = malloc(keep + 1);

        memcpy(cut, good, keep);
        cut[keep] = '\0';
        expect_refused(&f, good, good, cut, "line");
        free(cut);
    }
    /* the second layer once more in place of the first */
    table.entry[0].shape = table.entry[1].shape;
    cr_assert_eq(spc_kernels_write(&table, path, &error), SPC_OK);
    spc_kernels_clear(&table);
    cr_expect_eq(spc_kernels_read(path, &table, &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "layer 1: expected a layer that is not there before"), "%s",
              error.message);
    folder_path(&f, "none.json", path);
    cr_expect_eq(spc_kernels_read(path, &table, &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "none.json"), "%s", error.message);
    free(good);
    folder_close(&f);
}
