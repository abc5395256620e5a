/* SPDX-License-Identifier: Apache-2.0 */
/* test_bench_shape_weights.c - random weights of every type: a model that says numbers, in the
 * bytes that its type takes. */
#include "bench/shape_weights.h"
#include "host/engine.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 64, \"hidden_size\": 256,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"head_dim\": 64, \"intermediate_size\": 288, \"max_position_embeddings\": 64,"
    " \"tie_word_embeddings\": true}";

/* A bundle without tensors, and its plan. */
static spc_bundle *open_plan(spc_plan **plan)
{
    static const char empty[] = "\x02\0\0\0\0\0\0\0{}";
    static const spc_blob files[2] = {{"model.safetensors", empty, sizeof empty - 1},
                                      {"config.json", config, sizeof config - 1}};
    spc_bundle *bundle;
    spc_config read;
    spc_error error;

    cr_assert_eq(spc_bundle_open_memory("shape", files, 2, &bundle, &error), SPC_OK);
    cr_assert_eq(spc_config_read(bundle, &read, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_plan_build(&read, "shape", plan, &error), SPC_OK);
    return bundle;
}

static void expect_numbers(const spc_plan *plan, const spc_bundle *bundle, const char *name)
{
    static const int32_t slot[2] = {0}, token[] = {3, 60}, position[] = {0, 1}, output[] = {0, 1};
    static const spc_limits limits = {.slots = 1, .context = 8, .rows = 2, .outputs = 2};
    spc_rows rows = {2, slot, token, position, output};
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;
    const float *logits;

    cr_assert_eq(spc_backend_cpu.open(&backend, 1, NULL, &error), SPC_OK);
    cr_assert_eq(spc_backend_cpu.load(backend, plan, bundle, &limits, &runner, &error), SPC_OK,
                 "%s: %s", name, error.message);
    cr_assert_eq(spc_backend_cpu.forward(runner, &rows, &error), SPC_OK);
    logits = spc_backend_cpu.logits(runner, 1);
    for (int32_t i = 0; i < plan->ids; i++) cr_assert(isfinite(logits[i]), "%s: %d", name, (int)i);
    cr_expect(logits[0] != logits[1] && logits[1] != 0, "%s", name);
    spc_backend_cpu.unload(runner);
    spc_backend_cpu.close(backend);
}

Test(bench_shape_weights, every_type_makes_a_model_of_numbers)
{
    static const struct {
        const char *name;
        double bits; /* of a weight of down_proj's rows, which are no whole blocks of 256 */
    } kinds[] = {{"f32", 32},   {"f16", 16},     {"bf16", 16},   {"f8_e4m3", 8}, {"f8_e5m2", 8},
                 {"int8", 8},   {"q8_0", 8.5},   {"q4_0", 4.5},  {"q4_1", 5},    {"q5_0", 5.5},
                 {"q5_1", 6},   {"q2_k", 8.5},   {"q3_k", 8.5},  {"q4_k", 8.5},  {"q5_k", 8.5},
                 {"q6_k", 8.5}, {"iq4_nl", 4.5}, {"iq4_xs", 8.5}};

    for (size_t i = 0; i < 2 * (sizeof kinds / sizeof *kinds); i++) { /* each once more, `once` */
        const char *name = kinds[i / 2].name;
        const bool once = i % 2 == 1;
        spc_plan *plan;
        spc_bundle *bundle = open_plan(&plan);
        spc_dtype type;
        spc_error error;
        char *memory;

        cr_assert_eq(shape_weights_type(name, &type, &error), SPC_OK, "%s", error.message);
        cr_assert_eq(shape_weights_put(plan, type, once, bundle, &memory, &error), SPC_OK);
        const spc_tensor *t = spc_bundle_find(bundle, "model.layers.0.mlp.down_proj.weight");
        const spc_tensor *whole = spc_bundle_find(bundle, "model.layers.0.mlp.up_proj.weight");

        cr_expect_eq(t->bytes * 8, (uint64_t)(256 * 288 * kinds[i / 2].bits), "%s", name);
        cr_expect_eq(whole->dtype, type);
        cr_expect_eq(whole->data == t->data, once && whole->dtype == t->dtype, "%s", name);
        expect_numbers(plan, bundle, name);
        spc_bundle_close(bundle);
        spc_plan_close(plan);
        free(memory);
    }
}

Test(bench_shape_weights, unknown_types_are_refused_with_those_there_are)
{
    spc_dtype type;
    spc_error error;

    cr_expect_eq(shape_weights_type("q8_k", &type, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "'q8_k'") && strstr(error.message, "q4_k, q5_k"), "%s",
              error.message);
}
