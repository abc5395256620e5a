/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend_linear.c - linear ops of whole models with weights of 16 bits: on tensor cores
 * with what goes along with them, and plainly, against the CPU backend.
 *
 * Built twice: against the device, and against tests/fibers, where launches are counted. */
#include "distance.h"
#include "tiny.h"

#include <criterion/criterion.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <string.h>

/* Gates of both kinds, residual sums with and without a norm between, biases, a cap, an encoder. */
static const char *const models[] = {
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 101, \"hidden_size\": 36,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 2,"
    " \"head_dim\": 10, \"intermediate_size\": 51, \"max_position_embeddings\": 64,"
    " \"tie_word_embeddings\": false}",
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"vocab_size\": 101, \"hidden_size\": 48,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 2,"
    " \"head_dim\": 8, \"intermediate_size\": 72, \"max_position_embeddings\": 64,"
    " \"tie_word_embeddings\": true}",
    "{\"architectures\": [\"Gemma2ForCausalLM\"], \"vocab_size\": 67, \"hidden_size\": 44,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 5, \"num_key_value_heads\": 1,"
    " \"head_dim\": 30, \"intermediate_size\": 33, \"max_position_embeddings\": 64,"
    " \"sliding_window\": 7, \"query_pre_attn_scalar\": 30, \"attn_logit_softcapping\": 5,"
    " \"final_logit_softcapping\": 3}",
    "{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 53, \"d_model\": 34,"
    " \"d_kv\": 14, \"d_ff\": 29, \"num_layers\": 2, \"num_heads\": 3,"
    " \"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 20,"
    " \"feed_forward_proj\": \"gated-gelu\", \"tie_word_embeddings\": false,"
    " \"decoder_start_token_id\": 0}"};
enum { LLAMA, QWEN, GEMMA, T5, MODELS, LAYERS = 2, COUNT = 21 };

typedef struct {
    float *logits; /* [COUNT, ids], malloc'd */
    int launches;  /* of the first chunk; on fibers */
} run;

/* COUNT tokens in chunks of `chunk`. */
static run run_model(const spc_backend_ops *ops, const tiny_model *model, spc_linear_kernels linear,
                     int32_t chunk)
{
    spc_limits limits = {
        .slots = 1, .context = 40, .rows = COUNT, .outputs = COUNT, .linear = linear};
    int32_t slot[COUNT] = {0}, id[COUNT], position[COUNT], output[COUNT];
    size_t row = (size_t)model->plan->ids * sizeof(float);
    run out = {malloc(COUNT * row), 0};
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    runner = tiny_load_on(ops, model, backend, &limits);
    for (int32_t i = 0; i < COUNT; i++) {
        position[i] = i;
        output[i] = i % chunk;
        id[i] = 2 + (i * i + 3 * i) % (model->plan->ids - 2);
    }
    if (model->plan->encoder_ops > 0) {
        cr_assert_eq(ops->encode(runner, 0, id + 6, 7, &error), SPC_OK);
    }
    for (int32_t at = 0; at < COUNT; at += chunk) {
        int32_t count = COUNT - at < chunk ? COUNT - at : chunk;
        spc_rows rows = {count, slot, id + at, position + at, output + at};
#ifdef SPC_TESTS_FIBER_RUNTIME_H
        int before = fiber_gpu.launches;
#endif

        cr_assert_eq(ops->forward(runner, &rows, &error), SPC_OK, "%s", error.message);
#ifdef SPC_TESTS_FIBER_RUNTIME_H
        if (at == 0) out.launches = fiber_gpu.launches - before;
#endif
        for (int32_t i = 0; i < count; i++) {
            memcpy((char *)out.logits + (size_t)(at + i) * row, ops->logits(runner, i), row);
        }
    }
    ops->unload(runner);
    ops->close(backend);
    return out;
}

Test(cuda_backend_linear, logits_are_those_of_the_cpu_with_the_same_bits_in_chunks_of_any_size)
{
    static const int32_t chunks[] = {1, 3, 16};

    for (int32_t k = 0; k < 2 * MODELS; k++) {
        tiny_model model = tiny_open_halves(models[k / 2], 5, k % 2);
        size_t count = (size_t)(COUNT * model.plan->ids);
        run cpu = run_model(&spc_backend_cpu, &model, SPC_LINEAR_AUTO, COUNT);
        run whole = run_model(&spc_backend_cuda, &model, SPC_LINEAR_AUTO, COUNT);
        float off = distance(whole.logits, cpu.logits, count);

        cr_expect_leq(off, 1e-4f, "model %d: off by %g", (int)k, (double)off);
        for (int32_t i = 0; i < 3; i++) {
            run parts = run_model(&spc_backend_cuda, &model, SPC_LINEAR_AUTO, chunks[i]);

            cr_expect(memcmp(parts.logits, whole.logits, count * sizeof *parts.logits) == 0,
                      "model %d: other bits in chunks of %d", (int)k, (int)chunks[i]);
            free(parts.logits);
        }
        free(cpu.logits);
        free(whole.logits);
        tiny_close(&model);
    }
}

Test(cuda_backend_linear, plain_multiplications_are_there_when_asked_for)
{
    tiny_model model = tiny_open_halves(models[LLAMA], 6, true);
    size_t count = (size_t)(COUNT * model.plan->ids);
    run row = run_model(&spc_backend_cuda, &model, SPC_LINEAR_ROW, COUNT);
    run tile = run_model(&spc_backend_cuda, &model, SPC_LINEAR_AUTO, COUNT);
    float off = distance(row.logits, tile.logits, count);

    cr_expect_leq(off, 5e-5f, "off by %g", (double)off);
    cr_expect(memcmp(row.logits, tile.logits, count * sizeof *row.logits) != 0,
              "sums in another order never agree everywhere");
    free(row.logits);
    free(tile.logits);
    tiny_close(&model);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
/* Llama, a layer: queries, keys and values with the norm before; attention with the rotation
 * before; output with the sum; gates with the norm before; down with the sum.  Beside them:
 * embedding, last norm, rows that are wanted, head.  Gemma norms before it sums: the norms behind
 * stay, each with the sum. */
Test(cuda_backend_linear, neighbours_go_along_in_one_launch)
{
    static const int model_of[] = {LLAMA, QWEN, GEMMA};
    static const int tile[] = {5 * LAYERS + 4, 5 * LAYERS + 4, 0};
    static const int row[] = {8 * LAYERS + 4, 8 * LAYERS + 4, 0};

    for (int32_t k = 0; k < 3; k++) {
        tiny_model model = tiny_open_halves(models[model_of[k]], 7, true);
        run along = run_model(&spc_backend_cuda, &model, SPC_LINEAR_AUTO, 5);
        run plain = run_model(&spc_backend_cuda, &model, SPC_LINEAR_ROW, 5);

        if (tile[k] > 0) cr_expect_eq(along.launches, tile[k], "%d", along.launches);
        if (row[k] > 0) cr_expect_eq(plain.launches, row[k], "%d", plain.launches);
        if (model_of[k] == GEMMA) { /* one gate a layer, the first norm */
            cr_expect_eq(plain.launches - along.launches, LAYERS + 1, "%d and %d", plain.launches,
                         along.launches);
        }
        free(along.logits);
        free(plain.logits);
        tiny_close(&model);
    }
}
#endif
