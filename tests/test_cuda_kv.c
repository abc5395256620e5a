/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_kv.c - keys and values of 16 bits on the CUDA backend: models against the CPU with the
 * same type, the same bits in any company, true bytes, engines of every kind.  (test_cuda_ops.c has
 * the kernels.)
 *
 * Built twice: against the device, and against tests/fibers, which runs backend and kernels without
 * one.
 *
 * Tolerance.  A key that the CPU sums in another order may round to the neighbour, one step of its
 * type away: logits are within a tenth of what test_host_kv.c allows between types, 0.3 % of the
 * largest with bf16, 0.04 % with fp16. */
#include "sixteen.h"

#include "decode.h"
#include "distance.h"
#include "tiny.h"

#include "host/device.h"
#include "host/kv.h"

#include <math.h>

static float most_of(spc_dtype type)
{
    return type == SPC_DTYPE_BF16 ? 3e-3f : 4e-4f;
}

/* ---- verbs ------------------------------------------------------------------------------------
 */

Test(cuda_kv, logits_are_those_of_the_cpu_with_the_same_type_in_any_company, .timeout = 280)
{
    int32_t shared = 0;

    for (int32_t n = 0; n < GOLDEN_GPU_MODELS; n++) { /* with the types by turns */
        const char *model = golden_models[n];
        golden g = golden_open(&spc_backend_cuda, model), cpu;

        cpu = golden_open(&spc_backend_cpu, model);
        load_again(&g, types[n % TYPES]);
        load_again(&cpu, types[n % TYPES]);

        size_t count = (size_t)(g.count * g.vocab);
        int32_t chunk = 1 + 4 * (n % 3);
        float *whole = golden_run(&g, 0, g.count), *parts = golden_run(&g, 1, chunk);
        float *expected = golden_run(&cpu, 0, g.count),
              off = relative_distance(whole, expected, count);

        cr_expect_leq(off, most_of(types[n % TYPES]), "%s, %s: off by %g", model,
                      spc_dtype_name(types[n % TYPES]), (double)off);
        cr_expect_arr_eq(whole, parts, count * sizeof *whole, "%s: chunks of %d", model,
                         (int)chunk);
        shared += golden_shares(&g, 1 + n % 3 / 2);
        free(whole);
        free(parts);
        free(expected);
        golden_close(&g);
        golden_close(&cpu);
    }
    cr_expect_gt(shared, 8);
}

/* Heads of no multiple of 16 bytes: of 6 and of 36 halves; behind an encoder too. */
static const char *const odd_models[] = {
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 61, \"hidden_size\": 36,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 2,"
    " \"head_dim\": 36, \"intermediate_size\": 40, \"max_position_embeddings\": 64,"
    " \"tie_word_embeddings\": false}",
    "{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 53, \"d_model\": 34,"
    " \"d_kv\": 6, \"d_ff\": 29, \"num_layers\": 2, \"num_heads\": 3,"
    " \"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 20,"
    " \"feed_forward_proj\": \"relu\", \"tie_word_embeddings\": false,"
    " \"decoder_start_token_id\": 0}"};
enum { ODD_MODELS = sizeof odd_models / sizeof *odd_models, ODD_ROWS = 12 };

static void run_odd(const spc_backend_ops *ops, const tiny_model *model, spc_dtype type, float *out)
{
    spc_limits limits = {
        .slots = 1, .context = 40, .rows = ODD_ROWS, .outputs = ODD_ROWS, .kv = type};
    int32_t slot[ODD_ROWS] = {0}, id[ODD_ROWS], position[ODD_ROWS];
    spc_rows rows = {ODD_ROWS, slot, id, position, position};
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    runner = tiny_load_on(ops, model, backend, &limits);
    for (int32_t i = 0; i < ODD_ROWS; i++) {
        position[i] = i;
        id[i] = 2 + (i * i + 3 * i) % (model->plan->ids - 2);
    }
    if (model->plan->encoder_ops > 0) {
        cr_assert_eq(ops->encode(runner, 0, id, 9, &error), SPC_OK, "%s", error.message);
    }
    cr_assert_eq(ops->forward(runner, &rows, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < ODD_ROWS; i++, out += model->plan->ids) {
        memcpy(out, ops->logits(runner, i), (size_t)model->plan->ids * sizeof *out);
    }
    ops->unload(runner);
    ops->close(backend);
}

Test(cuda_kv, heads_of_odd_sizes_are_read_too)
{
    for (int32_t n = 0; n < ODD_MODELS * TYPES; n++) {
        tiny_model model = tiny_open(odd_models[n / TYPES], 5, 1);
        static float gpu[ODD_ROWS * 64], cpu[ODD_ROWS * 64];
        float off;

        run_odd(&spc_backend_cuda, &model, types[n % TYPES], gpu);
        run_odd(&spc_backend_cpu, &model, types[n % TYPES], cpu);
        off = relative_distance(gpu, cpu, (size_t)(ODD_ROWS * model.plan->ids));
        cr_expect_leq(off, most_of(types[n % TYPES]), "model %d: off by %g", (int)n, (double)off);
        tiny_close(&model);
    }
}

/* Nothing but keys and values is smaller, and they by half. */
Test(cuda_kv, sixteen_bits_take_half_of_the_memory)
{
    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        size_t whole = g.ops->memory(g.backend, g.plan, &golden_limits);
        uint64_t kv = spc_kv_bytes(g.plan, &golden_limits);

        for (int t = 0; t < TYPES; t++) {
            spc_limits limits = golden_limits;

            limits.kv = types[t];
            cr_expect_eq(g.ops->memory(g.backend, g.plan, &limits), whole - kv / 2, "%s",
                         golden_models[m]);
        }
        golden_close(&g);
    }
}

/* ---- engines ----------------------------------------------------------------------------------
 */

static decoded decode_with(const spc_engine_options *o, const char *rule, spc_engine_facts *facts)
{
    spc_session_options strategy = options_of(rule, 2, 0);
    spc_engine *engine;
    spc_error error;
    prompt p;

    cr_assert_eq(spc_engine_open(o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_describe(engine, facts);
    strategy.max_tokens = 4;
    strategy.ignore_stop = true;
    p = prompt_of(engine, "<s><2de>The cat sleeps.<sep>");

    decoded d = decode(engine, &strategy, &p);

    cr_expect_eq(d.status, SPC_OK, "%s", d.error.message);
    cr_expect_eq(d.count, 4);
    spc_engine_close(engine);
    return d;
}

/* Whole rounds of one GPU, plain launches, the drafter apart, ranks: the same text, and every way
 * takes less memory than with float32. */
Test(cuda_kv, engines_of_every_kind_have_such_caches, .timeout = 280)
{
    static const struct {
        const char *device, *drafter_device;
        bool plain;
    } kinds[] = {{"cuda", NULL, false},
                 {"cuda", NULL, true},
                 {"cuda", "cpu", false},
                 {"cuda:0,cuda:0", NULL, false}};
    static const char *const names[] = {"bf16", "f16"};
    decoded expected[TYPES];
    spc_engine_facts facts, full;
    spc_engine_options o;

    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        spc_engine_options_init(&o);
        o.verifier = DEMO_VERIFIER;
        o.drafter = DEMO_DRAFTER;
        o.context = 64;
        if (k == 0) { /* the text is the CPU's */
            for (int t = 0; t < TYPES; t++) {
                o.kv = names[t];
                expected[t] = decode_with(&o, "verifier-only", &facts);
            }
        }
        o.device = kinds[k].device;
        o.drafter_device = kinds[k].drafter_device;
        o.plain_launches = kinds[k].plain;
        o.kv = NULL;

        spc_engine *engine;
        spc_error error;

        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        spc_engine_describe(engine, &full);
        spc_engine_close(engine);
        for (int t = 0; t < (k == 0 ? TYPES : 1); t++) {
            o.kv = names[t];

            decoded d = decode_with(&o, "strict", &facts);

            cr_expect(same_tokens(&d, &expected[t]), "kind %d, %s", (int)k, names[t]);
            cr_expect_lt(facts.verifier_memory_bytes, full.verifier_memory_bytes);
            cr_expect_lt(facts.drafter_memory_bytes, full.drafter_memory_bytes);
        }
    }
}
