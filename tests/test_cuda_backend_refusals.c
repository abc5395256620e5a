/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend_refusals.c - what the CUDA backend refuses, and how it says so: devices that
 * are not there or too old, checkpoints, options, sizes.
 *
 * Built twice, as test_cuda_backend.c; faults of the device, on the fibers. */
#include "golden.h"

#include "decode.h"
#include "tiny.h"

#include <cuda_runtime_api.h>

Test(cuda_backend_refusals, a_device_that_is_not_there_is_refused_with_those_there_are)
{
    static const char *const wrong[] = {"97", "x", "0x", "-1", ""};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        spc_backend *backend;
        spc_error error;

        cr_expect_eq(spc_backend_cuda.open(&backend, 0, wrong[i], &error), SPC_EUSAGE);
        cr_expect_null(backend);
        cr_expect(strstr(error.message, "expected a number of 0 to"), "%s", error.message);
    }
}

Test(cuda_backend_refusals, weights_that_do_not_match_the_plan_are_named)
{
    static const struct {
        const char *piece, *edited, *word[3];
    } cases[] = {
        {"model.norm.weight", "model.norm.wEight", {"model.norm.weight", "edited", "missing"}},
        {"\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[389,96]",
         "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[96,389]",
         {"lm_head.weight", "[389, 96]", "[96, 389]"}},
        {"\"lm_head.weight\":{\"dtype\":\"F32\"",
         "\"lm_head.weight\":{\"dtype\":\"I32\"",
         {"lm_head.weight", "I32", "supported: F32, BF16, F16"}}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_error error;

        cr_expect_eq(golden_load_edited(&spc_backend_cuda, cases[i].piece, cases[i].edited, &error),
                     SPC_ESHAPE);
        for (int k = 0; k < 3; k++) {
            cr_expect(strstr(error.message, cases[i].word[k]), "%s", error.message);
        }
    }
}

Test(cuda_backend_refusals, what_has_no_kernel_is_refused_at_load)
{
    tiny_model model = tiny_open(
        "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 9, \"hidden_size\": 8,"
        " \"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"num_key_value_heads\": 1,"
        " \"head_dim\": 258, \"intermediate_size\": 8, \"max_position_embeddings\": 16}",
        1, 1);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK);
    cr_assert_eq(
        spc_backend_cuda.load(backend, model.plan, model.bundle, &golden_limits, &runner, &error),
        SPC_EUNSUPPORTED);
    cr_assert_null(runner);
    cr_assert(strstr(error.message, "up to 256, found 258"), "%s", error.message);
    model.plan->op[3].kind = SPC_OP_COUNT;
    cr_assert_eq(
        spc_backend_cuda.load(backend, model.plan, model.bundle, &golden_limits, &runner, &error),
        SPC_EUNSUPPORTED);
    cr_assert(strstr(error.message, "op 3 of its plan"), "%s", error.message);
    tiny_close(&model);
    model =
        tiny_open("{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 9,"
                  " \"d_model\": 8, \"d_kv\": 7, \"d_ff\": 8, \"num_layers\": 1, \"num_heads\": 1,"
                  " \"relative_attention_num_buckets\": 8, \"decoder_start_token_id\": 0}",
                  1, 1);
    cr_assert_eq(
        spc_backend_cuda.load(backend, model.plan, model.bundle, &golden_limits, &runner, &error),
        SPC_EUNSUPPORTED);
    cr_assert(strstr(error.message, "an even size up to 256, found 7"), "%s", error.message);
    spc_backend_cuda.close(backend);
    tiny_close(&model);
}

Test(cuda_backend_refusals, threads_are_refused)
{
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 3, NULL, &error), SPC_EUSAGE);
    cr_assert_null(backend);
    spc_backend_cuda.close(NULL);
    spc_backend_cuda.unload(NULL);
}

Test(cuda_backend_refusals, a_request_beyond_all_memory_says_what_to_lower)
{
    golden g = golden_open(&spc_backend_cuda, "llama");
    spc_limits huge = {.slots = 4096, .context = 1 << 24, .rows = 64, .outputs = 64};
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &huge, &runner, &error), SPC_ENOMEM);
    cr_assert_null(runner);
    cr_assert(strstr(error.message, "MiB are free") && strstr(error.message, "lower"), "%s",
              error.message);
    cr_expect(strstr(error.message, "kv-tokens, keep keys and values in 16 bits (kv bf16 or"), "%s",
              error.message);
    huge.kv = SPC_DTYPE_F16;
    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &huge, &runner, &error), SPC_ENOMEM);
    cr_expect_null(strstr(error.message, "kv bf16"), "%s", error.message);
    huge = (spc_limits){
        .slots = INT32_MAX, .context = INT32_MAX, .rows = INT32_MAX, .outputs = INT32_MAX};
    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &huge, &runner, &error), SPC_ENOMEM);
    golden_close(&g);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
/* What becomes of faults that no real device shows on demand. */

static void cannot_open(const char *expected)
{
    spc_backend *backend;
    spc_error error;

    cr_expect_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_EDEVICE);
    cr_expect_null(backend);
    cr_expect(strstr(error.message, expected), "%s", error.message);
    cr_expect(strstr(error.message, "use device cpu"), "%s", error.message);
}

Test(cuda_backend_refusals, a_machine_without_a_device_is_said_to_have_none)
{
    fiber_gpu.count_error = cudaErrorNoDevice;
    cannot_open("no device");
    fiber_gpu.count_error = cudaErrorInsufficientDriver;
    fiber_gpu.driver = 0;
    cannot_open("no device"); /* no driver at all */
}

Test(cuda_backend_refusals, an_old_driver_is_said_to_be_too_old)
{
    fiber_gpu.count_error = cudaErrorInsufficientDriver;
    fiber_gpu.driver = 12020;
    cannot_open("it knows CUDA 12.2, this build needs 13.0");
}

Test(cuda_backend_refusals, a_device_without_code_is_named_with_its_capability)
{
    fiber_gpu.code_error = cudaErrorNoKernelImageForDevice;
    cannot_open("compute capability 9.0");
    fiber_gpu.code_error = cudaErrorInvalidDeviceFunction;
    cannot_open("compute capability 9.0");
}

Test(cuda_backend_refusals, code_that_does_not_load_for_another_reason_is_not_said_to_be_missing)
{
    spc_backend *backend;
    spc_error error;

    fiber_gpu.code_error = cudaErrorMemoryAllocation;
    cr_expect_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_EDEVICE);
    cr_expect_null(backend);
    cr_expect(strstr(error.message, "kernels: out of memory"), "%s", error.message);
}

Test(cuda_backend_refusals, experts_have_no_kernels)
{
    tiny_model m = tiny_open("{\"architectures\": [\"MixtralForCausalLM\"], \"vocab_size\": 8,"
                             " \"hidden_size\": 16, \"num_hidden_layers\": 1,"
                             " \"num_attention_heads\": 2, \"intermediate_size\": 16,"
                             " \"max_position_embeddings\": 16, \"num_local_experts\": 3,"
                             " \"num_experts_per_tok\": 2}",
                             5, 1);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK);
    cr_expect_eq(spc_backend_cuda.load(backend, m.plan, m.bundle, &golden_limits, &runner, &error),
                 SPC_EUNSUPPORTED);
    cr_expect_null(runner);
    cr_expect(strstr(error.message, "route, has no kernel on the GPU; use device cpu"), "%s",
              error.message);
    spc_backend_cuda.close(backend);
    tiny_close(&m);
}

Test(cuda_backend_refusals, a_runner_takes_what_memory_said_and_its_weights)
{
    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        size_t memory = g.ops->memory(g.backend, g.plan, &golden_limits);
        size_t weights = (size_t)spc_bundle_bytes(g.bundle);

        cr_expect_geq(memory,
                      GOLDEN_SLOTS * spc_plan_kv_bytes(g.plan, GOLDEN_CONTEXT, SPC_DTYPE_F32));
        cr_expect_leq(fiber_gpu.used, memory + weights + (size_t)g.plan->weight_count * 256);
        cr_expect_gt(fiber_gpu.used, memory + weights / 10 * 9, "vectors are in memory already");
        golden_close(&g);
        cr_expect_eq(fiber_gpu.allocations, 0);
    }
}

Test(cuda_backend_refusals, a_device_too_small_by_any_amount_is_told_before_weights_move)
{
    golden g = golden_open(&spc_backend_cuda, "llama");
    size_t needed = fiber_gpu.used;
    spc_runner *runner;
    spc_error error;

    for (size_t lacking = 1; lacking <= needed; lacking *= 7) {
        fiber_gpu.memory = fiber_gpu.used + needed - lacking;
        cr_expect_eq(g.ops->load(g.backend, g.plan, g.bundle, &golden_limits, &runner, &error),
                     SPC_ENOMEM);
        cr_expect_null(runner);
        cr_expect_eq(fiber_gpu.allocations, 2, "those of the other runner");
    }
    fiber_gpu.memory = fiber_gpu.used + needed;
    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &golden_limits, &runner, &error), SPC_OK);
    g.ops->unload(runner);
    golden_close(&g);
}

Test(cuda_backend_refusals, two_models_that_do_not_fit_together_are_told_before_either_is_loaded)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    fiber_gpu.memory = fiber_gpu.used - 4096 * 100;
    spc_engine_close(engine);
    fiber_gpu.most_used = 0;
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_ENOMEM);
    cr_assert_null(engine);
    cr_expect(strstr(error.message, "MiB free; lower sessions, context or kv-tokens"), "%s",
              error.message);
    cr_expect(strstr(error.message, "cuda:0, fibers"), "%s", error.message);
    cr_expect_null(strstr(error.message, "kv bf16"), "most of it is weights: %s", error.message);
    cr_expect_eq(fiber_gpu.most_used, 0);
    o.sessions = 64;
    o.context = 256;
    o.kv_tokens = 64 * 256; /* no fewer */
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_ENOMEM);
    cr_expect(strstr(error.message, "(kv bf16 or f16), take a smaller model"), "%s", error.message);
}

static void note_warning(void *user, const char *line)
{
    if (strncmp(line, "warning: ", 9) == 0) (void)snprintf(user, 256, "%s", line);
}

Test(cuda_backend_refusals,
     auto_passes_over_a_device_that_cannot_be_used_and_says_so_but_not_over_none)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    char said[256] = "";

    spc_engine_options_init(&o);
    o.log = note_warning;
    o.user = said;
    fiber_gpu.count_error = cudaErrorNoDevice;
    cr_assert_eq(open_demo_on("auto", &o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_close(engine);
    cr_expect_str_empty(said);
    fiber_gpu.count_error = cudaErrorInsufficientDriver;
    fiber_gpu.driver = 12020;
    cr_assert_eq(open_demo_on("auto", &o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_close(engine);
    cr_expect(strstr(said, "12.2") && strstr(said, "the CPU is used"), "%s", said);
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_EDEVICE);
    o.isa = "portable";
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_EUSAGE);
}
#endif
