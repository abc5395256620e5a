/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend_weights.c - quantised checkpoints on the CUDA backend: the logits of the
 * float32 numbers that they stand for, in the memory that they take in the file.
 *
 * Built twice, as test_cuda_backend.c. */
#include "distance.h"
#include "eight.h"

#include "host/engine.h"

#include <cuda_runtime_api.h>

#define GGUF SPC_TEST_VECTORS "/gguf/"

enum { ROWS = 20 };

static const spc_limits limits = {.slots = 1, .context = 32, .rows = ROWS, .outputs = ROWS};

/* ---- two checkpoints ------------------------------------------------------------------------- */

/* A quantised model, and the same with every tensor as float32. */
typedef struct {
    spc_model model;
    spc_bundle *plain;
    char *file; /* of plain */
} quantised;

static spc_bundle *spelled_out(spc_bundle *bundle, char **file)
{
    eight_file w = eight_writer(1 << 24);
    spc_blob files[2] = {{.name = "model.safetensors"}, {.name = "config.json"}};
    const char *config;
    spc_bundle *out;
    spc_error error;

    for (int32_t i = 0; i < spc_bundle_count(bundle); i++) {
        const spc_tensor *t = spc_bundle_tensor(bundle, i);
        int64_t count = t->shape[0] * (t->rank == 2 ? t->shape[1] : 1);
        float *value = malloc((size_t)count * sizeof *value);

        cr_assert_not_null(value);
        spc_dequantise(t->dtype, t->data, count, value);
        eight_put(&w, t->name, "F32", (int32_t)t->shape[0], t->rank == 2 ? (int32_t)t->shape[1] : 0,
                  value, (size_t)count * sizeof *value);
        free(value);
    }
    files[0].data = *file = eight_finish(&w, &files[0].bytes);
    cr_assert_eq(spc_bundle_file(bundle, "config.json", &config, &files[1].bytes, &error), SPC_OK,
                 "%s", error.message);
    files[1].data = config;
    cr_assert_eq(spc_bundle_open_memory("plain", files, 2, &out, &error), SPC_OK, "%s",
                 error.message);
    return out;
}

static quantised open_quantised(const char *path)
{
    quantised q = {.plain = NULL};
    spc_error error;

    cr_assert_eq(spc_open_model(path, &q.model, &error), SPC_OK, "%s", error.message);
    q.plain = spelled_out(q.model.bundle, &q.file);
    return q;
}

static void close_quantised(quantised *q)
{
    spc_bundle_close(q->plain);
    spc_close_model(&q->model);
    free(q->file);
}

/* Logits of ROWS tokens in chunks; [ROWS, plan->ids], to be freed. */
static float *run(const spc_backend_ops *ops, const spc_plan *plan, const spc_bundle *bundle,
                  int32_t chunk)
{
    size_t row = (size_t)plan->ids * sizeof(float);
    char *out = malloc(ROWS * row);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_not_null(out);
    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(ops->load(backend, plan, bundle, &limits, &runner, &error), SPC_OK, "%s",
                 error.message);
    for (int32_t at = 0; at < ROWS; at += chunk) {
        int32_t slot[ROWS] = {0}, token[ROWS], position[ROWS], output[ROWS];
        spc_rows rows = {ROWS - at < chunk ? ROWS - at : chunk, slot, token, position, output};

        for (int32_t i = 0; i < rows.count; i++) {
            position[i] = at + i;
            token[i] = (at + i) * 7 % plan->ids;
            output[i] = i;
        }
        cr_assert_eq(ops->forward(runner, &rows, &error), SPC_OK, "%s", error.message);
        for (int32_t i = 0; i < rows.count; i++) {
            memcpy(out + (size_t)(at + i) * row, ops->logits(runner, i), row);
        }
    }
    ops->unload(runner);
    ops->close(backend);
    return (float *)(void *)out;
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

/* Rows of 96 columns that end within a group of 128; heads tied to tables of Q6_K and Q3_K; queries
 * and keys of one type beside values of another. */
static const char *const models[] = {GGUF "mixed-K.gguf", GGUF "mixed-low.gguf",
                                     GGUF "llama-Q8_0.gguf", GGUF "llama-Q4_0.gguf"};
enum { MODELS = sizeof models / sizeof *models };

Test(cuda_backend_weights, quantised_models_have_the_logits_of_their_numbers)
{
    for (int m = 0; m < MODELS; m++) {
        quantised q = open_quantised(models[m]);
        const spc_plan *plan = q.model.plan;
        float *whole = run(&spc_backend_cuda, plan, q.model.bundle, ROWS);
        float *numbers = run(&spc_backend_cpu, plan, q.plain, ROWS);
        float *cpu = run(&spc_backend_cpu, plan, q.model.bundle, ROWS);
        float off = relative_distance(whole, numbers, (size_t)(ROWS * plan->ids)),
              known = relative_distance(cpu, numbers, (size_t)(ROWS * plan->ids));

        cr_expect_leq(off, 1e-5f, "%s: off by %g", models[m], (double)off);
        cr_expect(known > 1e-4f && known < 0.05f,
                  "%s: the CPU, which rounds activations to 8 bits, is off by %g", models[m],
                  (double)known);
        float *parts = run(&spc_backend_cuda, plan, q.model.bundle, 7);

        cr_expect(memcmp(parts, whole, ROWS * (size_t)plan->ids * sizeof *whole) == 0,
                  "%s: other bits in chunks", models[m]);
        free(parts);
        free(whole);
        free(numbers);
        free(cpu);
        close_quantised(&q);
    }
}

/* Weights, and everything else, that a plan is said to take and takes. */
static spc_claims claim_and_take(const spc_plan *plan, const spc_bundle *bundle, const char *name)
{
    const spc_backend_ops *ops = &spc_backend_cuda;
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;
    spc_claims claims = {.count = 0};

    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK);
    cr_assert_eq(ops->claim(backend, plan, bundle, &limits, &claims, &error), SPC_OK);
    cr_expect_eq(claims.count, 1);
    cr_expect_eq(claims.item[0].memory, ops->memory(backend, plan, &limits));
    cr_assert_eq(ops->load(backend, plan, bundle, &limits, &runner, &error), SPC_OK, "%s: %s", name,
                 error.message);
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    /* a driver takes 2 MiB at a time, and others use its device too */
    cr_expect_eq(claims.item[0].room - (fiber_gpu.memory - fiber_gpu.used),
                 claims.item[0].weights + claims.item[0].memory, "%s", name);
#endif
    ops->unload(runner);
    ops->close(backend);
    return claims;
}

/* What is said before is what is taken; beside alignment that is what the file holds. */
Test(cuda_backend_weights, they_take_the_memory_they_are_said_to_take)
{
    for (int m = 0; m < MODELS; m++) {
        spc_model model = {.plan = NULL};
        spc_error error;
        spc_claims claims;
        uint64_t bytes, file = 0;

        cr_assert_eq(spc_open_model(models[m], &model, &error), SPC_OK, "%s", error.message);
        claims = claim_and_take(model.plan, model.bundle, models[m]);
        bytes = claims.item[0].weights;
        for (int32_t i = 0; i < spc_bundle_count(model.bundle); i++) {
            const spc_tensor *t = spc_bundle_tensor(model.bundle, i);

            file += t->rank == 2 ? t->bytes : 0;
        }
        cr_expect_geq(bytes, file);
        /* Q4_0 of 96 columns: scales of 3 blocks take the room of 4 */
        cr_expect_leq(bytes, file + file / 25 + 4 * 256 * (uint64_t)model.plan->weight_count,
                      "%s: %zu for %zu", models[m], (size_t)bytes, (size_t)file);
        spc_close_model(&model);
    }
}

/* --weights int8 on both devices: one meaning. */
Test(cuda_backend_weights, integers_made_at_load_have_the_logits_of_the_cpu)
{
    static const int32_t ids[] = {1, 17, 230, 5, 5, 388};
    static float logits[2][6 * 389];
    float worst;

    for (int i = 0; i < 2; i++) {
        spc_engine_options o;
        spc_engine *engine;
        spc_error error;

        spc_engine_options_init(&o);
        o.verifier = SPC_TEST_VECTORS "/llama";
        o.drafter = NULL;
        o.device = i == 0 ? "cuda" : "cpu";
        o.weights = "int8";
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        cr_assert_eq(spc_engine_logits(engine, NULL, 0, ids, 6, logits[i], &error), SPC_OK);
        spc_engine_close(engine);
    }
    worst = distance(logits[0], logits[1], 6 * 389);
    cr_expect_leq(worst, 1e-4f, "off by %g", (double)worst);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
Test(cuda_backend_weights, an_engine_asks_for_just_the_room_they_take)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    size_t needed;

    spc_engine_options_init(&o);
    o.verifier = GGUF "mixed-K.gguf";
    o.drafter = NULL;
    o.device = "cuda";
    o.context = 32;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    needed = fiber_gpu.used;
    spc_engine_close(engine);
    fiber_gpu.memory = needed;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_close(engine);
    fiber_gpu.memory = needed - 1;
    fiber_gpu.most_used = 0;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_ENOMEM);
    cr_expect(strstr(error.message, "MiB free; lower sessions, context or kv-tokens"), "%s",
              error.message);
    cr_expect_eq(fiber_gpu.most_used, 0);
}
#endif

/* ---- 8-bit types of safetensors -------------------------------------------------------------- */

Test(cuda_backend_weights, scaled_8_bit_weights_have_the_logits_of_their_numbers)
{
    for (int k = 0; k < EIGHT_KINDS; k++) {
        static const spc_dtype types[EIGHT_KINDS] = {
            SPC_DTYPE_F8_E4M3, SPC_DTYPE_I8, SPC_DTYPE_F8_E5M2, SPC_DTYPE_I8, SPC_DTYPE_F8_E4M3};
        spc_dtype dtype = types[k];
        eight_pair p = eight_of(dtype, (scale_kind)k, k % 3 == 0);
        float logits[2][EIGHT_TOKENS * EIGHT_VOCAB];
        spc_backend *backend;
        spc_error error;

        for (int i = 0; i < 2; i++) {
            const spc_backend_ops *ops = i == 0 ? &spc_backend_cuda : &spc_backend_cpu;

            cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK);
            eight_logits(ops, backend, p.origin.plan, p.bundle[0], logits[i]);
            ops->close(backend);
        }

        float off = distance(logits[0], logits[1], EIGHT_TOKENS * EIGHT_VOCAB);

        cr_expect_leq(off, 5e-5f, "%s, scales %d: off by %g", spc_dtype_name(dtype), k,
                      (double)off);
        eight_close(&p);
    }
}

/* ---- parts of ranks -------------------------------------------------------------------------- */

/* The second rank's plan without its sums, tables whole: what it computes is no model's, but it is
 * made of slices of every kind. */
static spc_plan *slices_of(const spc_plan *whole, spc_comm *comm)
{
    spc_plan *part;
    spc_error error;
    int32_t kept = 0;

    cr_assert_eq(spc_plan_split(whole, comm, "slices", &part, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < part->op_count; i++) {
        const spc_op *op = &part->op[i];

        if (op->kind == SPC_OP_REDUCE) continue;
        if (op->kind == SPC_OP_EMBED || op->kind == SPC_OP_HEAD) {
            spc_weight *w = &part->weight[op->weight[0]];

            w->row = 0;
            w->rows = w->of_rows;
        }
        part->op[kept++] = *op;
    }
    part->op_count = kept;
    return part;
}

/* of_ten: so many tenths of the weights this rank of so many holds at most. */
static void check_slices(const spc_plan *whole, const spc_bundle *bundle, int32_t world, bool exact,
                         int of_ten)
{
    spc_comm_ops none = {.name = "none"};
    spc_comm comm = {.ops = &none, .rank = 1, .world = world};
    spc_plan *part = slices_of(whole, &comm);
    spc_claims few = {.count = 0}, all = {.count = 0};
    spc_backend *backend;
    spc_error error;
    float *cuda = run(&spc_backend_cuda, part, bundle, ROWS);
    float *cpu = run(&spc_backend_cpu, part, bundle, ROWS),
          off = relative_distance(cuda, cpu, (size_t)(ROWS * part->ids));

    cr_expect_leq(off, exact ? 1e-5f : 0.05f, "off by %g", (double)off);
    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK);
    cr_assert_eq(spc_backend_cuda.claim(backend, part, bundle, &limits, &few, &error), SPC_OK);
    cr_assert_eq(spc_backend_cuda.claim(backend, whole, bundle, &limits, &all, &error), SPC_OK);
    cr_expect_lt(few.item[0].weights, all.item[0].weights * (uint64_t)of_ten / 10, "%zu of %zu",
                 (size_t)few.item[0].weights, (size_t)all.item[0].weights);
    spc_backend_cuda.close(backend);
    spc_plan_close(part);
    free(cuda);
    free(cpu);
}

Test(cuda_backend_weights, a_rank_takes_its_slice_of_every_matrix)
{
    quantised q = open_quantised(GGUF "mixed-K.gguf");

    check_slices(q.model.plan, q.model.bundle, 2, false, 6);
    check_slices(q.model.plan, q.plain, 2, true, 6);
    close_quantised(&q);
    q = open_quantised(GGUF "mixed-low.gguf");
    check_slices(q.model.plan, q.model.bundle, 2, false, 6);
    close_quantised(&q);
    q = open_quantised(GGUF "odd-K.gguf"); /* of three blocks, two */
    check_slices(q.model.plan, q.model.bundle, 2, false, 8);
    check_slices(q.model.plan, q.plain, 2, true, 8);
    close_quantised(&q);

    eight_pair p = eight_of(SPC_DTYPE_F8_E4M3, BLOCKS, false);

    check_slices(p.origin.plan, p.bundle[0], 2, true, 6);
    eight_close(&p);
}

/* Of three blocks four ranks have one, two, two and one. */
Test(cuda_backend_weights, blocks_that_ranks_share_are_on_both)
{
    quantised q = open_quantised(GGUF "cut-K.gguf");

    check_slices(q.model.plan, q.model.bundle, 4, false, 5);
    check_slices(q.model.plan, q.plain, 4, true, 5);
    check_slices(q.model.plan, q.model.bundle, 2, false, 7);
    close_quantised(&q);
    q = open_quantised(GGUF "mixed-K.gguf"); /* of two, one */
    check_slices(q.model.plan, q.model.bundle, 4, false, 5);
    close_quantised(&q);
}

/* 40 columns, of which two ranks share one of three sixteens. */
static const char narrow[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":40,\"hidden_size\":32,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":2,"
    "\"intermediate_size\":40,\"max_position_embeddings\":64}";

/* The tensors of a model of bfloat16, but for down_proj, which is of 8 bits. */
static spc_bundle *eight_behind_gates(const tiny_model *m, char **file)
{
    eight_file w = eight_writer(1 << 20);
    spc_blob files[2] = {{.name = "model.safetensors"}, {"config.json", narrow, sizeof narrow - 1}};
    float values[256];
    spc_bundle *out;
    spc_error error;

    for (int i = 0; i < 256; i++) values[i] = value_of(SPC_DTYPE_F8_E4M3, i);
    for (int32_t i = 0; i < spc_bundle_count(m->bundle); i++) {
        const spc_tensor *t = spc_bundle_tensor(m->bundle, i);
        int32_t rows = (int32_t)t->shape[0], cols = t->rank == 2 ? (int32_t)t->shape[1] : 0;
        uint8_t code[32 * 40];

        if (!strstr(t->name, "down_proj")) {
            eight_put(&w, t->name, "BF16", rows, cols, t->data, t->bytes);
            continue;
        }
        cr_assert_eq(rows * cols, 32 * 40);
        for (int32_t k = 0; k < rows * cols; k++) {
            float x;

            spc_dequantise(t->dtype, (const char *)t->data + 2 * k, 1, &x);
            code[k] = code_of(values, x);
        }
        eight_put(&w, t->name, "F8_E4M3", rows, cols, code, sizeof code);
    }
    files[0].data = *file = eight_finish(&w, &files[0].bytes);
    cr_assert_eq(spc_bundle_open_memory("narrow", files, 2, &out, &error), SPC_OK, "%s",
                 error.message);
    return out;
}

/* The gate goes along with its matrices (cuda/linear_tile.cu). */
Test(cuda_backend_weights, gates_of_16_bits_write_between_zeros_too)
{
    tiny_model m = tiny_open_halves(narrow, 5, true);
    char *file;
    spc_bundle *bundle = eight_behind_gates(&m, &file);

    spc_plan_read_blocks(m.plan, bundle);
    cr_expect_eq(m.plan->gate_block, 16);
    check_slices(m.plan, bundle, 2, true, 10);
    spc_bundle_close(bundle);
    free(file);
    tiny_close(&m);
}

/* Shared blocks, and the zeros beside a rank's inputs, are in the plan. */
Test(cuda_backend_weights, ranks_that_share_blocks_take_the_memory_they_are_said_to_take)
{
    spc_comm_ops none = {.name = "none"};
    spc_model model = {.plan = NULL};
    spc_error error;

    cr_assert_eq(spc_open_model(GGUF "cut-K.gguf", &model, &error), SPC_OK, "%s", error.message);
    for (int32_t rank = 0; rank < 4; rank++) {
        spc_comm comm = {.ops = &none, .rank = rank, .world = 4};
        spc_plan *part = slices_of(model.plan, &comm);

        (void)claim_and_take(part, model.bundle, "cut-K");
        spc_plan_close(part);
    }
    spc_close_model(&model);
}
