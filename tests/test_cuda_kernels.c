/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_kernels.c - linear layers by a table of measured kernels: made by a clock that the test
 * brings, followed to the letter, refused where it is of something else.
 *
 * Built twice: against the device, and against tests/fibers. */
#include "folder.h"
#include "host/gpu/backend_cuda.h"
#include "tiny.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG(inner)                                                                       \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 101, \"hidden_size\": 40," \
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 5, \"num_key_value_heads\": 1,"    \
    " \"head_dim\": 8, \"intermediate_size\": " #inner ", \"max_position_embeddings\": 64," \
    " \"tie_word_embeddings\": false}"

/* Columns for one or two warps of plain multiplications; for 16 slices on tensor cores. */
enum { SMALL, WIDE };
static const char *const configs[] = {CONFIG(520), CONFIG(2056)};
enum { COUNT = 18, LAYERS = 5 };

typedef struct {
    tiny_model model;
    spc_backend *backend;
    spc_runner *runner;
} stand;

/* pages: 0: as many as the slot can fill. */
static spc_status load_with(stand *s, int size, const spc_kernels *table, int32_t pages,
                            spc_error *error)
{
    const spc_limits limits = {
        .slots = 1, .context = 40, .rows = COUNT, .outputs = COUNT, .pages = pages};
    spc_status status = SPC_OK;

    s->model = tiny_open_halves(configs[size], 8, true);
    s->runner = NULL;
    cr_assert_eq(spc_backend_cuda.open(&s->backend, 0, NULL, error), SPC_OK, "%s", error->message);
    if (table) status = spc_backend_cuda.use_kernels(s->backend, table, error);
    if (status != SPC_OK) return status;
    return spc_backend_cuda.load(s->backend, s->model.plan, s->model.bundle, &limits, &s->runner,
                                 error);
}

static spc_status load(stand *s, int size, const spc_kernels *table, spc_error *error)
{
    return load_with(s, size, table, 0, error);
}

static void unload(stand *s)
{
    spc_backend_cuda.unload(s->runner);
    spc_backend_cuda.close(s->backend);
    tiny_close(&s->model);
}

/* Logits of COUNT tokens in chunks; malloc'd [COUNT, ids]. */
static float *logits_of(stand *s, int32_t chunk)
{
    int32_t slot[COUNT] = {0}, id[COUNT], position[COUNT], output[COUNT];
    size_t row = (size_t)s->model.plan->ids * sizeof(float);
    float *out = malloc(COUNT * row);
    spc_error error;

    spc_backend_cuda.rewind(s->runner, 0, 0);
    for (int32_t i = 0; i < COUNT; i++) {
        position[i] = i;
        output[i] = i % chunk;
        id[i] = (i * i + 3 * i) % s->model.plan->ids;
    }
    for (int32_t at = 0; at < COUNT; at += chunk) {
        int32_t count = COUNT - at < chunk ? COUNT - at : chunk;
        spc_rows rows = {count, slot, id + at, position + at, output + at};

        cr_assert_eq(spc_backend_cuda.forward(s->runner, &rows, &error), SPC_OK, "%s",
                     error.message);
        for (int32_t i = 0; i < count; i++) {
            memcpy((char *)out + (size_t)(at + i) * row, spc_backend_cuda.logits(s->runner, i),
                   row);
        }
    }
    return out;
}

/* ---- a clock that has favourites ------------------------------------------------------------- */

typedef struct {
    const spc_runner *runner;
    uint64_t now;
    int looks;
} fake_clock;

/* Which layer a launch is, by its outputs. */
static bool is_down(const spc_linear_args *a)
{
    return a->part[0].cols == 520;
}

static spc_status add_cost(spc_runner *r, const spc_linear_args *a, spc_linear_way *way, void *user,
                           spc_error *err)
{
    int32_t rows = r->shape.count, tiles = way->tiles[rows > 8];
    uint64_t *cost = user;

    (void)err;
    *cost += 1000000;
    if (is_down(a)) { /* 2 tiles for few rows, 4 for many */
        *cost += tiles == (rows > 8 ? 4 : 2) ? 0 : 100000;
    } else if (a->parts == 3) { /* plain multiplications */
        *cost += way->kernel == SPC_KERNEL_ROW ? 0 : 500000;
    } else if (a->parts == 2) { /* the default, but for a gain that may be noise */
        *cost += way->tiles[0] == 4 ? 0 : 1;
    }
    return SPC_OK;
}

/* What the forwards since the last look would have taken. */
static uint64_t fake_now(void *user)
{
    fake_clock *c = user;
    uint64_t cost = 0;

    if (c->looks++ % 2 == 0) return c->now;
    (void)spc_cuda_each_linear((spc_runner *)(uintptr_t)c->runner, add_cost, &cost, NULL);
    return c->now += cost;
}

/* The entry of the layer with so many parts and columns. */
static spc_kernels_entry *entry_of(spc_kernels *table, int32_t parts, int32_t columns)
{
    for (int32_t i = 0; i < table->count; i++) {
        spc_kernels_entry *e = &table->entry[i];

        if (e->shape.parts == parts && e->shape.columns == columns) return e;
    }
    cr_assert_fail("no entry of %d parts over %d columns", (int)parts, (int)columns);
    return NULL;
}

Test(cuda_kernels, the_fastest_way_of_each_layer_goes_into_the_table)
{
    spc_kernels table = {0};
    const spc_kernels_entry *down, *gate, *qkv;
    spc_error error;
    stand s;

    cr_assert_eq(load(&s, SMALL, NULL, &error), SPC_OK, "%s", error.message);

    fake_clock clock = {s.runner, 5, 0};
    spc_tuning how = {fake_now, &clock, 1, 1};

    cr_assert_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_OK, "%s",
                 error.message);
    down = entry_of(&table, 1, 520);
    gate = entry_of(&table, 2, 40);
    qkv = entry_of(&table, 3, 40);
    cr_expect_eq(table.count, LAYERS, "%d", (int)table.count);
    cr_expect(table.driver > 0 && table.toolkit > 0 && strstr(table.gpu, "compute capability"));
    cr_expect(strcmp(down->kernel, "tile") == 0 && down->slices == 8 && down->tiles[0] == 2 &&
                  down->tiles[1] == 4,
              "%s, %d slices, tiles %d and %d", down->kernel, (int)down->slices,
              (int)down->tiles[0], (int)down->tiles[1]);
    cr_expect(down->forward_us[2] < down->default_us[2]);
    cr_expect_str_eq(qkv->kernel, "row");
    cr_expect(qkv->slices == 1 && qkv->tiles[0] == 0);
    cr_expect(strcmp(gate->kernel, "tile") == 0 && gate->slices == 8 && gate->tiles[0] == 2,
              "less than noise is no gain: %d tiles", (int)gate->tiles[0]);
    cr_expect(memcmp(gate->forward_us, gate->default_us, sizeof gate->forward_us) == 0);

    int looks = clock.looks; /* what is there is not timed again */

    cr_assert_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_OK);
    cr_expect_eq(clock.looks, looks);
    table.gpu[0]++;
    cr_expect_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_EINPUT);
    unload(&s);
    spc_kernels_clear(&table);
}

/* Slots that have no pages before they are mapped: what is timed has one. */
Test(cuda_kernels, kernels_are_timed_also_where_pages_are_counted)
{
    spc_kernels table = {0};
    spc_error error;
    stand s;

    cr_assert_eq(load_with(&s, SMALL, NULL, 1, &error), SPC_OK, "%s", error.message);

    fake_clock clock = {s.runner, 5, 0};
    spc_tuning how = {fake_now, &clock, 1, 1};

    cr_assert_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_OK, "%s",
                 error.message);
    cr_expect_eq(table.count, LAYERS, "%d", (int)table.count);
    cr_expect_geq(s.runner->room[0], 16, "what is timed lies in a page");
    unload(&s);
    spc_kernels_clear(&table);
}

/* A table by hand: queries by plain multiplications, 2056 columns in two blocks. */
static spc_kernels wide_table(void)
{
    static const spc_kernels_entry entries[LAYERS] = {
        {{"bf16", 40, 3, {40, 8, 8}}, "row", 1, {0, 0}, {1, 1, 1}, {1, 1, 1}, {{0}}},
        {{"bf16", 40, 1, {40}}, "tile", 8, {1, 2}, {1, 1, 1}, {1, 1, 1}, {{0}}},
        {{"bf16", 40, 2, {2056, 2056}}, "tile", 8, {4, 2}, {1, 1, 1}, {1, 1, 1}, {{0}}},
        {{"bf16", 2056, 1, {40}}, "tile", 32, {2, 1}, {1, 1, 1}, {1, 1, 1}, {{0}}},
        {{"bf16", 40, 1, {101}}, "tile", 8, {1, 1}, {1, 1, 1}, {1, 1, 1}, {{0}}}};
    spc_kernels table = {.where = "table.json"};
    spc_error error;
    stand s;

    cr_assert_eq(load(&s, SMALL, NULL, &error), SPC_OK);
    cr_assert_eq(spc_cuda_name_gpu(s.backend, table.gpu, &error), SPC_OK);
    unload(&s);
    for (int i = 0; i < LAYERS; i++) {
        cr_assert_eq(spc_kernels_set(&table, &entries[i], &error), SPC_OK);
    }
    return table;
}

Test(cuda_kernels, logits_by_a_table_are_near_and_do_not_depend_on_what_runs_together)
{
    spc_kernels table = wide_table();
    float *usual, *whole;
    spc_error error;
    stand s;
    size_t count;

    cr_assert_eq(load(&s, WIDE, NULL, &error), SPC_OK);
    usual = logits_of(&s, COUNT);
    count = (size_t)(COUNT * s.model.plan->ids);
    unload(&s);
    cr_assert_eq(load(&s, WIDE, &table, &error), SPC_OK, "%s", error.message);
    whole = logits_of(&s, COUNT);
    cr_expect(memcmp(whole, usual, count * sizeof *whole) != 0, "other sums: the table is used");
    for (size_t i = 0; i < count; i++) {
        cr_assert(fabsf(whole[i] - usual[i]) <= 5e-5f, "%zu: %g, not %g", i, (double)whole[i],
                  (double)usual[i]);
    }
    for (int32_t chunk = 1; chunk <= 7; chunk += 6) {
        float *parts = logits_of(&s, chunk);

        cr_expect(memcmp(parts, whole, count * sizeof *parts) == 0, "other bits in chunks of %d",
                  (int)chunk);
        free(parts);
    }
    unload(&s);
    /* tiles are free to choose: the same bits with others */
    entry_of(&table, 1, 2056)->tiles[0] = 4;
    entry_of(&table, 1, 2056)->tiles[1] = 2;
    cr_assert_eq(load(&s, WIDE, &table, &error), SPC_OK, "%s", error.message);

    float *other = logits_of(&s, COUNT);

    cr_expect(memcmp(other, whole, count * sizeof *other) == 0, "tiles change bits");
    unload(&s);
    free(other);
    free(usual);
    free(whole);
    spc_kernels_clear(&table);
}

static void expect_refused(const spc_kernels *table, const char *message)
{
    spc_error error;
    stand s;

    cr_expect_eq(load(&s, WIDE, table, &error), SPC_EINPUT, "%s", message);
    cr_expect(strstr(error.message, "table.json: ") && strstr(error.message, message), "%s: %s",
              message, error.message);
    cr_expect_null(s.runner);
    unload(&s);
}

Test(cuda_kernels, a_table_of_something_else_is_refused)
{
    spc_kernels table = wide_table();
    spc_kernels_entry *down = entry_of(&table, 1, 2056), kept = *down;

    table.gpu[0]++;
    expect_refused(&table, "expected a table of this GPU");
    table.gpu[0]--;
    down->shape.columns++;
    expect_refused(&table, "expected an entry for bf16 [40] x 2056, found none");
    *down = kept;
    down->slices = 24;
    expect_refused(&table, "kernel tile with 24 slices and tiles");
    *down = kept;
    down->tiles[1] = 8;
    expect_refused(&table, "tiles 2, 8");
    *down = kept;
    (void)snprintf(down->kernel, sizeof down->kernel, "quant");
    down->tiles[0] = down->tiles[1] = 0;
    expect_refused(&table, "kernel quant");
    spc_kernels_clear(&table);
}

/* ---- through the engine ---------------------------------------------------------------------- */

Test(cuda_kernels, an_engine_writes_a_table_and_decodes_by_it)
{
    folder f = folder_open();
    spc_engine_options o;
    spc_kernels table;
    spc_engine *engine;
    spc_error error;
    char path[FOLDER_PATH];

    folder_path(&f, "kernels.json", path);
    spc_engine_options_init(&o);
    o.verifier = SPC_TEST_VECTORS "/llama";
    o.drafter = NULL;
    o.device = "cuda";
    o.context = 32;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);

    fake_clock clock = {engine->verifier.runner, 5, 0};
    spc_tuning how = {fake_now, &clock, 1, 1};

    cr_assert_eq(spc_tune_engine(engine, &how, path, &error), SPC_OK, "%s", error.message);
    spc_engine_close(engine);
    cr_assert_eq(spc_kernels_read(path, &table, &error), SPC_OK, "%s", error.message);
    cr_expect_geq(table.count, 4);
    spc_kernels_clear(&table);
    o.kernels = path;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    cr_expect_str_eq(engine->kernels.where, path);
    spc_engine_close(engine);
    o.device = "cpu";
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "kernels: expected one GPU"), "%s", error.message);
    cr_expect_eq(spc_tune_kernels(&o, path, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "found cpu"), "%s", error.message);
    o.device = "cuda";
    o.kernels = "/nowhere.json";
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "/nowhere.json"), "%s", error.message);
    folder_close(&f);
}
