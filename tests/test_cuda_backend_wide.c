/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend_wide.c - more than 16 rows where cuBLASLt may take them: by its own choice, by
 * a table, by own kernels that the table prefers; what is timed; what becomes of a library that is
 * missing, of another version, or fails.
 *
 * Built twice: against the device, and against tests/fibers, whose library fails where a test says
 * so. */
#include "host/gpu/backend_cuda.h"
#include "tiny.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 101, \"hidden_size\": 40,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 5, \"num_key_value_heads\": 1,"
    " \"head_dim\": 8, \"intermediate_size\": 520, \"max_position_embeddings\": 64,"
    " \"tie_word_embeddings\": false}";

/* Rows of two buckets, of three slots; logits of some. */
enum { SLOTS = 3, CONTEXT = 16, ROWS = 40, FEW = 20, OUTPUTS = 40, LAYERS = 5 };

typedef struct {
    tiny_model model;
    spc_backend *backend;
    spc_runner *runner;
} stand;

/* The model that s has. */
static spc_status load_with(stand *s, const spc_limits *limits, const spc_kernels *table,
                            spc_error *error)
{
    spc_status status = SPC_OK;

    s->runner = NULL;
    cr_assert_eq(spc_backend_cuda.open(&s->backend, 0, NULL, error), SPC_OK, "%s", error->message);
    if (table) status = spc_backend_cuda.use_kernels(s->backend, table, error);
    if (status != SPC_OK) return status;
    return spc_backend_cuda.load(s->backend, s->model.plan, s->model.bundle, limits, &s->runner,
                                 error);
}

static spc_status load(stand *s, bool library, const spc_kernels *table, spc_error *error)
{
    const spc_limits limits = {
        .slots = SLOTS, .context = CONTEXT, .rows = ROWS, .outputs = OUTPUTS, .library = library};

    s->model = tiny_open_halves(config, 8, true);
    return load_with(s, &limits, table, error);
}

static void unload(stand *s)
{
    spc_backend_cuda.unload(s->runner);
    spc_backend_cuda.close(s->backend);
    tiny_close(&s->model);
}

/* `count` rows at once from empty caches. */
static spc_status forward(stand *s, int32_t count, spc_error *error)
{
    int32_t slot[ROWS], id[ROWS], position[ROWS], output[ROWS];
    const spc_rows rows = {count, slot, id, position, output};

    for (int32_t i = 0; i < SLOTS; i++) spc_backend_cuda.rewind(s->runner, i, 0);
    for (int32_t i = 0; i < count; i++) {
        slot[i] = i / CONTEXT;
        position[i] = i % CONTEXT;
        output[i] = i;
        id[i] = (i * i + 3 * i) % s->model.plan->ids;
    }
    return spc_backend_cuda.forward(s->runner, &rows, error);
}

/* malloc'd [count, ids] */
static float *logits_of(stand *s, int32_t count)
{
    size_t row = (size_t)s->model.plan->ids * sizeof(float);
    float *out = malloc((size_t)count * row);
    spc_error error;

    cr_assert_eq(forward(s, count, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < count; i++) {
        memcpy((char *)out + (size_t)i * row, spc_backend_cuda.logits(s->runner, i), row);
    }
    return out;
}

/* The same of a runner that is loaded for it. */
static float *logits_with(bool library, const spc_kernels *table, int32_t count)
{
    spc_error error;
    stand s;
    float *out;

    cr_assert_eq(load(&s, library, table, &error), SPC_OK, "%s", error.message);
    out = logits_of(&s, count);
    unload(&s);
    return out;
}

static bool same_bits(const float *a, const float *b, int32_t rows)
{
    return memcmp(a, b, (size_t)(rows * 101) * sizeof *a) == 0;
}

static void expect_near(const float *a, const float *b, int32_t rows)
{
    for (int32_t i = 0; i < rows * 101; i++) {
        cr_assert(fabsf(a[i] - b[i]) <= 1e-3f, "%d: %g, not %g", (int)i, (double)a[i],
                  (double)b[i]);
    }
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* A table of the ways that layers go by default, for both buckets by own kernels, or by the
 * library's choice number `choice`. */
typedef struct {
    spc_kernels *table;
    spc_kernels_by by;
    int32_t choice;
} writer;

static spc_status write_entry(spc_runner *r, const spc_linear_args *a, spc_linear_way *way,
                              void *user, spc_error *err)
{
    const writer *w = user;
    spc_kernels_entry entry = {.shape = spc_cuda_shape_of(a),
                               .kernel = "tile",
                               .slices = way->slices,
                               .tiles = {way->tiles[0], way->tiles[1]}};

    for (int32_t bucket = 0; bucket < 2; bucket++) {
        spc_kernels_many *many = &entry.many[bucket];

        many->by = w->by;
        for (int32_t p = 0; p < a->parts && w->by == SPC_KERNELS_CUBLASLT; p++) {
            spc_gemm_product choice[SPC_GEMM_CHOICES];
            int32_t count = 0, i;

            cr_assert_eq(spc_cuda_gemm_suggest(r->gemm, a, p, bucket, choice, &count), cudaSuccess);
            cr_assert_gt(count, 0);
            i = w->choice < count ? w->choice : count - 1;
            memcpy(many->algorithm[p], choice[i].algorithm, sizeof many->algorithm[p]);
        }
    }
    return spc_kernels_set(w->table, &entry, err);
}

static spc_kernels table_by(spc_kernels_by by, int32_t choice)
{
    spc_kernels table = {.where = "table.json"};
    writer w = {&table, by, choice};
    spc_error error;
    stand s;

    cr_assert_eq(load(&s, true, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_cuda_name_gpu(s.backend, table.gpu, &error), SPC_OK);
    cr_assert_eq(spc_cuda_each_linear(s.runner, write_entry, &w, &error), SPC_OK);
    table.cublaslt = spc_cuda_gemm_version(s.runner->gemm);
    cr_assert_eq(table.count, LAYERS);
    unload(&s);
    return table;
}

Test(cuda_backend_wide, own_kernels_that_a_table_prefers_leave_their_bits)
{
    spc_kernels table = table_by(SPC_KERNELS_OWN, 0);

    for (int32_t rows = FEW; rows <= ROWS; rows += ROWS - FEW) {
        float *own = logits_with(false, NULL, rows), *library = logits_with(true, NULL, rows);
        float *preferred = logits_with(true, &table, rows);

        cr_expect(same_bits(preferred, own, rows), "%d rows", (int)rows);
        cr_expect(!same_bits(library, own, rows), "%d rows do not go by the library", (int)rows);
        expect_near(library, own, rows);
        free(own);
        free(library);
        free(preferred);
    }
    /* one number of rows by each of the two */
    for (int32_t i = 0; i < table.count; i++) table.entry[i].many[1].by = SPC_KERNELS_NONE;

    float *own = logits_with(false, NULL, FEW), *few = logits_with(true, &table, FEW);
    float *library = logits_with(true, NULL, ROWS), *many = logits_with(true, &table, ROWS);

    cr_expect(same_bits(few, own, FEW));
    cr_expect(same_bits(many, library, ROWS), "what was not timed goes by the library's choice");
    free(own);
    free(few);
    free(library);
    free(many);
    spc_kernels_clear(&table);
}

/* The promise of a runner without the library is not a table's to break. */
Test(cuda_backend_wide, without_the_library_bits_are_the_same_whatever_was_measured)
{
    spc_kernels table = table_by(SPC_KERNELS_CUBLASLT, 1);
    float *plain = logits_with(false, NULL, ROWS), *measured = logits_with(false, &table, ROWS);
    float *few = logits_with(false, &table, FEW), *one = logits_with(false, &table, 1);

    cr_expect(same_bits(measured, plain, ROWS));
    cr_expect(same_bits(few, plain, CONTEXT), "what runs beside a row");
    cr_expect(same_bits(one, plain, 1), "what runs beside a row");
    table.cublaslt++; /* nothing of it is used */

    float *other = logits_with(false, &table, FEW);

    cr_expect(same_bits(other, few, FEW));
    free(plain);
    free(measured);
    free(few);
    free(one);
    free(other);
    spc_kernels_clear(&table);
}

Test(cuda_backend_wide, algorithms_of_a_table_are_followed)
{
    float *own = logits_with(false, NULL, ROWS);

    for (int32_t choice = 0; choice < SPC_GEMM_CHOICES; choice++) {
        spc_kernels table = table_by(SPC_KERNELS_CUBLASLT, choice);
        float *logits = logits_with(true, &table, ROWS);

        expect_near(logits, own, ROWS);
        free(logits);
        spc_kernels_clear(&table);
    }
    free(own);
}

static void expect_refused(const spc_kernels *table, const char *message)
{
    spc_error error;
    stand s;

    cr_expect_eq(load(&s, true, table, &error), SPC_EINPUT, "%s", message);
    cr_expect(strstr(error.message, "table.json: ") && strstr(error.message, message), "%s: %s",
              message, error.message);
    cr_expect(strstr(error.message, "with spc_tune_kernels and fast-prefill"), "%s", error.message);
    cr_expect_null(s.runner);
    unload(&s);
}

Test(cuda_backend_wide, algorithms_of_another_version_are_refused)
{
    spc_kernels table = table_by(SPC_KERNELS_CUBLASLT, 0);

    table.cublaslt += 1;
    expect_refused(&table, "expected algorithms of cuBLASLt ");
    spc_kernels_clear(&table);
}

/* ---- timed ----------------------------------------------------------------------------------- */

typedef struct {
    const spc_runner *runner;
    uint64_t now;
    int looks;
} fake_clock;

/* Which choice of the library a part of a bucket goes by; -1: none. */
static int32_t choice_of(spc_runner *r, const spc_linear_args *a, const cuda_wide *wide, int32_t p,
                         int32_t bucket)
{
    spc_gemm_product choice[SPC_GEMM_CHOICES];
    int32_t count = 0;

    if (wide->own[bucket]) return -1;
    cr_assert_eq(spc_cuda_gemm_suggest(r->gemm, a, p, bucket, choice, &count), cudaSuccess);
    for (int32_t i = 0; i < count; i++) {
        if (memcmp(choice[i].algorithm, wide->plan.part[bucket][p].algorithm,
                   sizeof choice[i].algorithm) == 0) {
            return i;
        }
    }
    cr_assert_fail("it goes by no choice of the library");
    return -1;
}

static spc_status add_cost(spc_runner *r, const spc_linear_args *a, spc_linear_way *way, void *user,
                           spc_error *err)
{
    const int32_t rows = r->shape.count, bucket = spc_gemm_bucket(rows);
    uint64_t *cost = user;

    (void)err;
    *cost += 1000000;
    if (rows <= 16) return SPC_OK;

    const int32_t choice = choice_of(r, a, r->wide[way - r->way], 0, bucket);

    if (a->part[0].cols == 520) { /* own kernels for few, the second choice for many */
        *cost += choice == (bucket == 0 ? -1 : 1) ? 0 : 100000;
    } else if (a->parts == 3) { /* the first choice */
        *cost += choice == 0 ? 0 : 100000;
    } else if (a->parts == 2) { /* as good as the first, but for what may be noise */
        *cost += choice == 1 ? 0 : 1;
    }
    return SPC_OK;
}

static uint64_t fake_now(void *user)
{
    fake_clock *c = user;
    uint64_t cost = 0;

    if (c->looks++ % 2 == 0) return c->now;
    (void)spc_cuda_each_linear((spc_runner *)(uintptr_t)c->runner, add_cost, &cost, NULL);
    return c->now += cost;
}

/* Everything takes as long. */
static uint64_t steady(void *user)
{
    return *(uint64_t *)user += 1000000;
}

static const spc_kernels_entry *entry_of(const spc_kernels *table, int32_t parts, int32_t columns)
{
    for (int32_t i = 0; i < table->count; i++) {
        const spc_kernels_entry *e = &table->entry[i];

        if (e->shape.parts == parts && e->shape.columns == columns) return e;
    }
    cr_assert_fail("no entry of %d parts over %d columns", (int)parts, (int)columns);
    return NULL;
}

/* That the runner goes by what the table says. */
static spc_status check_way(spc_runner *r, const spc_linear_args *a, spc_linear_way *way,
                            void *user, spc_error *err)
{
    const cuda_wide *wide = r->wide[way - r->way];

    (void)err;
    (void)user;
    for (int32_t bucket = 0; a->part[0].cols == 520 && bucket < 2; bucket++) {
        cr_expect_eq(choice_of(r, a, wide, 0, bucket), bucket == 0 ? -1 : 1);
    }
    for (int32_t p = 0; a->parts > 1 && p < a->parts; p++) {
        cr_expect(choice_of(r, a, wide, p, 0) == 0 && choice_of(r, a, wide, p, 1) == 0);
    }
    return SPC_OK;
}

Test(cuda_backend_wide, the_fastest_way_of_each_number_of_rows_goes_into_the_table)
{
    spc_kernels table = {.where = "table.json"};
    const spc_kernels_many *down, *qkv, *gate;
    spc_error error;
    stand s;

    cr_assert_eq(load(&s, true, NULL, &error), SPC_OK, "%s", error.message);

    fake_clock clock = {s.runner, 5, 0};
    const spc_tuning how = {fake_now, &clock, 1, 1};

    cr_assert_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_OK, "%s",
                 error.message);
    cr_expect_eq(table.cublaslt, spc_cuda_gemm_version(s.runner->gemm));
    cr_expect_eq(table.count, LAYERS);
    down = entry_of(&table, 1, 520)->many;
    qkv = entry_of(&table, 3, 40)->many;
    gate = entry_of(&table, 2, 40)->many;
    cr_expect(down[0].by == SPC_KERNELS_OWN && down[0].forward_us < down[0].default_us);
    cr_expect(down[1].by == SPC_KERNELS_CUBLASLT && down[1].forward_us < down[1].default_us);
    cr_expect(qkv[0].by == SPC_KERNELS_CUBLASLT && qkv[0].forward_us == qkv[0].default_us);
    cr_expect(gate[0].by == SPC_KERNELS_CUBLASLT && gate[0].forward_us == gate[0].default_us,
              "less than noise is no gain");
    for (int32_t i = 2; i < SPC_KERNELS_WIDE; i++) {
        cr_expect_eq(down[i].by, SPC_KERNELS_NONE, "the runner has no such rows");
    }
    table.cublaslt++;
    cr_expect_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "expected algorithms of cuBLASLt"), "%s", error.message);
    table.cublaslt--;
    unload(&s);
    cr_assert_eq(load(&s, true, &table, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_cuda_each_linear(s.runner, check_way, NULL, &error), SPC_OK);
    unload(&s);
    spc_kernels_clear(&table);
}

/* Whoever adds them to a table that was made without the library finds them there. */
Test(cuda_backend_wide, more_rows_of_layers_that_a_table_has_are_timed)
{
    spc_kernels table = {.where = "table.json"};
    uint64_t now = 0, before;
    const spc_tuning how = {steady, &now, 1, 1};
    spc_error error;
    stand s;

    for (int library = 0; library < 2; library++) {
        cr_assert_eq(load(&s, library == 1, NULL, &error), SPC_OK, "%s", error.message);
        cr_assert_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_OK, "%s",
                     error.message);
        cr_assert_eq(table.count, LAYERS);
        for (int32_t i = 0; i < table.count; i++) {
            const spc_kernels_many *many = table.entry[i].many;

            cr_expect_eq(many[0].by != SPC_KERNELS_NONE, library == 1, "layer %d", (int)i);
            cr_expect_eq(many[1].by != SPC_KERNELS_NONE, library == 1, "layer %d", (int)i);
        }
        before = now;
        cr_assert_eq(spc_backend_cuda.tune(s.runner, &how, &table, &error), SPC_OK);
        cr_expect_eq(now, before, "what is there is not timed again");
        unload(&s);
    }
    spc_kernels_clear(&table);
}

/* The model that s has, and its table. */
static spc_kernels load_and_tune(stand *s, const spc_limits *limits)
{
    spc_kernels table = {.where = "table.json"};
    uint64_t now = 0;
    const spc_tuning how = {steady, &now, 1, 1};
    spc_error error;

    cr_assert_eq(load_with(s, limits, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_backend_cuda.tune(s->runner, &how, &table, &error), SPC_OK, "%s",
                 error.message);
    return table;
}

/* Such a table is good for any version of the library. */
Test(cuda_backend_wide, a_table_of_few_rows_has_no_version)
{
    const spc_limits limits = {
        .slots = 1, .context = CONTEXT, .rows = 16, .outputs = 16, .library = true};
    stand s = {.model = tiny_open_halves(config, 8, true)};
    spc_kernels table = load_and_tune(&s, &limits);

    cr_expect_eq(table.count, LAYERS);
    cr_expect_eq(table.cublaslt, 0);
    unload(&s);
    spc_kernels_clear(&table);
}

/* Rows of several slots, each of which has a source. */
Test(cuda_backend_wide, models_with_an_encoder_are_timed_too)
{
    static const char t5[] =
        "{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 53, \"d_model\": 34,"
        " \"d_kv\": 14, \"d_ff\": 29, \"num_layers\": 1, \"num_heads\": 3,"
        " \"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 20,"
        " \"feed_forward_proj\": \"gated-gelu\", \"tie_word_embeddings\": false,"
        " \"decoder_start_token_id\": 0}";
    const spc_limits limits = {
        .slots = 2, .context = CONTEXT, .rows = FEW, .outputs = 2, .library = true};
    stand s = {.model = tiny_open(t5, 8, 1)};
    spc_kernels table = load_and_tune(&s, &limits);

    cr_expect_geq(table.count, 5);
    for (int32_t i = 0; i < table.count; i++) {
        cr_expect(table.entry[i].many[0].by == SPC_KERNELS_CUBLASLT,
                  "what is no faster is not taken");
    }
    cr_expect(s.runner->source[0] == CONTEXT && s.runner->source[1] == FEW - CONTEXT);
    cr_expect(s.runner->length[0] == 0 && s.runner->length[1] == 0, "it holds no sequence");
    unload(&s);
    spc_kernels_clear(&table);
}

/* ---- a library that fails -------------------------------------------------------------------- */

#ifdef SPC_TESTS_FIBER_RUNTIME_H
static void expect_failure(spc_status status, const char *message)
{
    spc_error error;
    stand s;

    cr_expect_eq(load(&s, true, NULL, &error), status, "%s", error.message);
    cr_expect(strstr(error.message, message), "%s: %s", message, error.message);
    cr_expect(strstr(error.message, "leave out fast-prefill"), "%s", error.message);
    cr_expect_null(s.runner);
    unload(&s);
    cr_expect_eq(fiber_gpu.allocations, 0);
}

Test(cuda_backend_wide, a_library_that_is_missing_or_cannot_multiply_is_told_at_load)
{
    fiber_library.stuck = true;
    expect_failure(SPC_EDEVICE, "cuBLASLt: cublasLtCreate: CUBLAS_STATUS_ALLOC_FAILED");
    fiber_library.stuck = false;
    fiber_library.algorithms = 0;
    expect_failure(SPC_EUNSUPPORTED,
                   "cuda:0: model.layers.0.self_attn.q_proj.weight, bf16 [40, 8, 8] x 40, by 32 "
                   "rows: expected an algorithm of cuBLASLt, found none");
}

Test(cuda_backend_wide, a_product_that_fails_is_told_with_its_layer)
{
    spc_error error;
    stand s;

    cr_assert_eq(load(&s, true, NULL, &error), SPC_OK, "%s", error.message);
    fiber_library.fails_at = fiber_library.products + 3; /* behind those of queries, keys, values */
    cr_expect_eq(forward(&s, ROWS, &error), SPC_EDEVICE);
    cr_expect(strstr(error.message, "cuda:0: linear model.layers.0.self_attn.o_proj.weight: "
                                    "cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED"),
              "%s", error.message);
    cr_expect_eq(forward(&s, ROWS, &error), SPC_EDEVICE, "the device stays unusable");
    unload(&s);
    cr_expect_eq(fiber_gpu.allocations, 0);
}

Test(cuda_backend_wide, nothing_is_allocated_or_asked_for_in_a_forward)
{
    spc_error error;
    stand s;
    float *first, *again;
    int products, allocations;

    cr_assert_eq(load(&s, true, NULL, &error), SPC_OK, "%s", error.message);
    first = logits_of(&s, ROWS);
    (void)forward(&s, ROWS, &error); /* recorded */
    products = fiber_library.products;
    allocations = fiber_gpu.allocations;
    fiber_library.algorithms = 0; /* asked now it had none */
    again = logits_of(&s, ROWS);
    cr_expect(same_bits(first, again, ROWS));
    cr_expect_eq(fiber_library.products, products, "replayed");
    fiber_library.algorithms = 4;
    free(logits_of(&s, FEW));
    cr_expect_gt(fiber_library.products, products);
    cr_expect_eq(fiber_gpu.allocations, allocations);
    free(first);
    free(again);
    unload(&s);
}

Test(cuda_backend_wide, the_librarys_memory_is_part_of_what_load_says_it_takes)
{
    spc_error error;
    size_t memory[2];

    for (int library = 0; library < 2; library++) {
        spc_limits limits;
        size_t used = fiber_gpu.used;
        stand s;

        cr_assert_eq(load(&s, library == 1, NULL, &error), SPC_OK, "%s", error.message);
        limits = s.runner->limits;
        memory[library] = spc_backend_cuda.memory(s.backend, s.model.plan, &limits);
        used = fiber_gpu.used - used;
        cr_expect(used > memory[library] && used < memory[library] + (1 << 20),
                  "%zu of %zu beside the weights", used, memory[library]);
        unload(&s);
    }
    cr_expect_gt(memory[1], memory[0] + (32 << 20), "it has memory to work in");
}

/* Algorithms differ in their sums here, so it shows which ones were taken. */
Test(cuda_backend_wide, the_algorithm_decides_the_bits)
{
    spc_kernels first = table_by(SPC_KERNELS_CUBLASLT, 0),
                second = table_by(SPC_KERNELS_CUBLASLT, 1);
    float *usual = logits_with(true, NULL, ROWS), *one = logits_with(true, &first, ROWS);
    float *two = logits_with(true, &second, ROWS);

    cr_expect(same_bits(one, usual, ROWS));
    cr_expect(!same_bits(two, usual, ROWS));
    second.entry[0].many[1].algorithm[0][0]++;
    expect_refused(&second, "bf16 [40, 8, 8] x 40, 64 rows: expected algorithms of cuBLASLt");
    free(usual);
    free(one);
    free(two);
    spc_kernels_clear(&first);
    spc_kernels_clear(&second);
}
#endif
