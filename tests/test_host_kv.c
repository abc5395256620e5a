/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_kv.c - keys and values of 16 bits on the CPU: how they are rounded, how far logits are
 * from those of float32, what stays the same to the bit, what memory they take.
 *
 * Tolerances, against the references of float32: 3 % of the largest logit with bf16, 0.4 % with
 * fp16, eight times as exact.  Random weights make much of small differences: most of these models
 * are within a tenth of that. */
#include "host/kv.h"

#include "rules/round.h"
#include "weights/quant.h"

#include "decode.h"
#include "distance.h"
#include "sixteen.h"
#include "tiny.h"
#include "units.h"

#include <math.h>

/* ---- memory that is counted ----------------------------------------------------------------- */

/* What no machine has is more than any machine has, and not little by wrapping. */
Test(host_kv, sizes_beyond_all_memory_stay_there)
{
    char memory[4 * CARVE_ALIGNMENT];
    carver count = {NULL, 0}, take = {memory, 0};

    cr_expect_eq(times(3, 5), 15);
    cr_expect_eq(times(CARVE_MOST, 0), 0);
    cr_expect_eq(times(CARVE_MOST, 1), CARVE_MOST);
    cr_expect_eq(times(CARVE_MOST / 2, 3), CARVE_MOST);
    cr_expect_eq(times((size_t)1 << 40, (int64_t)1 << 40), CARVE_MOST);

    cr_expect_eq(carve(&take, 1), memory);
    cr_expect_eq(carve(&take, CARVE_ALIGNMENT), memory + CARVE_ALIGNMENT);
    cr_expect_eq(carve(&take, 0), memory + 2 * CARVE_ALIGNMENT);
    cr_expect_eq(take.used, 2 * CARVE_ALIGNMENT);
    cr_expect_null(carve(&count, CARVE_ALIGNMENT + 1));
    cr_expect_eq(count.used, 2 * CARVE_ALIGNMENT, "as much as is taken");

    (void)carve(&count, CARVE_MOST - CARVE_ALIGNMENT);
    cr_expect_eq(count.used, CARVE_MOST, "together they are too many");
    (void)carve(&count, 1);
    cr_expect_eq(count.used, CARVE_MOST);
    cr_expect_null(carve(&take, SIZE_MAX));
    cr_expect_eq(take.used, CARVE_MOST, "one is");
}

/* ---- rounding ---------------------------------------------------------------------------------
 */

static double widened(spc_dtype type, uint16_t code)
{
    return (double)(type == SPC_DTYPE_BF16 ? spc_bfloat_to_float(code) : spc_half_to_float(code));
}

static uint16_t rounded(spc_dtype type, float x)
{
    return type == SPC_DTYPE_BF16 ? spc_float_bf16(x) : spc_float_half(x);
}

/* Of every two neighbours, what lies between them goes to the nearer, the middle to the even one;
 * behind the largest, where the next would be, infinity begins. */
Test(host_kv, numbers_are_rounded_to_the_nearest_and_ties_to_even)
{
    for (int t = 0; t < TYPES; t++) {
        uint16_t infinity = types[t] == SPC_DTYPE_BF16 ? 0x7f80 : 0x7c00;

        for (uint32_t code = 0; code < infinity; code++) {
            double low = widened(types[t], (uint16_t)code);
            double high = widened(types[t], (uint16_t)(code + 1));

            if (code + 1u == infinity) high = 2 * low - widened(types[t], (uint16_t)(code - 1));

            float middle = (float)((low + high) / 2), sign = 1;

            cr_assert_eq((double)middle, (low + high) / 2, "a float");
            for (uint32_t bits = 0; bits <= 0x8000; bits += 0x8000, sign = -1) {
                cr_assert_eq(rounded(types[t], sign * (float)low), bits | code);
                cr_assert_eq(rounded(types[t], sign * nextafterf(middle, 0)), bits | code);
                cr_assert_eq(rounded(types[t], sign * middle), bits | (code + (code & 1)));
                cr_assert_eq(rounded(types[t], sign * nextafterf(middle, INFINITY)),
                             bits | (code + 1));
            }
        }
        cr_expect_eq(rounded(types[t], INFINITY), infinity);
        cr_expect_eq(rounded(types[t], -INFINITY), 0x8000 | infinity);
        cr_expect_eq(rounded(types[t], NAN), 0x7fff);
        cr_expect_eq(rounded(types[t], spc_bits_float(0xff800001u)), 0x7fff, "its last bit alone");
    }
}

/* ---- models -----------------------------------------------------------------------------------
 */

/* Rows off by more than `most`. */
static int32_t rows_off(const golden *g, const float *all, float most)
{
    int32_t rows = 0;

    for (int32_t i = 0; i < g->count; i++) {
        int64_t at = (int64_t)i * g->vocab;

        rows += distance(all + at, g->logits + at, (size_t)g->vocab) > most;
    }
    return rows;
}

/* Of models with experts most rows are: of two scores that are nearly tied another may be the
 * higher. */
Test(host_kv, logits_are_near_those_of_float32)
{
    for (int32_t n = 0; n < GOLDEN_MODELS * TYPES; n++) {
        spc_dtype type = types[n % TYPES];
        float most = type == SPC_DTYPE_BF16 ? 0.03f : 0.004f;
        const char *model = golden_models[n / TYPES];
        float *first = NULL;

        for (int32_t u = 0; u < UNITS; u++) {
            golden g;

            if (!golden_open_on(&g, &spc_backend_cpu, 2, units[u], model)) continue;
            load_again(&g, type);

            float *all = golden_run(&g, 0, g.count);
            float off = distance(all, g.logits, (size_t)(g.count * g.vocab)), largest = 0;

            for (int32_t i = 0; i < g.count * g.vocab; i++) {
                largest = fmaxf(largest, fabsf(g.logits[i]));
            }
            int32_t rows = rows_off(&g, all, most * largest);

            cr_expect(rows <= (g.plan->config.experts > 0 ? g.count / 8 : 0) && off > 2e-4f,
                      "%s, %s, %s: off by %g, %d rows", model, units[u], spc_dtype_name(type),
                      (double)off, (int)rows);
            if (first) {
                cr_expect_arr_eq(all, first, (size_t)(g.count * g.vocab) * sizeof *all, "%s: %s",
                                 model, units[u]);
            }
            free(first);
            first = all;
            if (!unit_fuses(u)) {
                free(first);
                first = NULL;
            }
            golden_close(&g);
        }
        free(first);
    }
}

/* Chunks, other slots, shared pages, rewound ones: what is written does not depend on any. */
Test(host_kv, a_row_has_the_same_bits_in_any_company)
{
    int32_t shared = 0;

    for (int32_t n = 0; n < GOLDEN_MODELS * TYPES; n++) {
        const char *model = golden_models[n / TYPES];
        golden g;

        cr_assert(golden_open_on(&g, &spc_backend_cpu, 2, NULL, model));
        load_again(&g, types[n % TYPES]);

        float *whole = golden_run(&g, 0, g.count);

        for (int32_t chunk = 1; chunk <= 13; chunk += 4) {
            float *parts = golden_run(&g, chunk % GOLDEN_SLOTS, chunk);

            cr_expect_arr_eq(whole, parts, (size_t)(g.count * g.vocab) * sizeof *whole,
                             "%s: chunks of %d", model, (int)chunk);
            free(parts);
        }
        for (int32_t pages = 0; pages < 3; pages++) shared += golden_shares(&g, pages);
        free(whole);
        golden_close(&g);
    }
    cr_expect_gt(shared, 40);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* Where it helps, and there alone. */
Test(host_kv, who_lacks_memory_is_told_that_caches_can_be_halved)
{
    golden g = golden_open(&spc_backend_cpu, "llama");
    spc_limits huge = {.slots = 4096, .context = 1 << 24, .rows = 64, .outputs = 64};
    spc_runner *runner;
    spc_error error;

    cr_expect(strstr(spc_kv_advice(&huge, 25, 100), "(kv bf16 or f16)"));
    cr_expect_str_empty(spc_kv_advice(&huge, 24, 100));
    for (int t = 0; t <= TYPES; t++) {
        huge.kv = t < TYPES ? types[t] : SPC_DTYPE_F32;
        cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &huge, &runner, &error), SPC_ENOMEM);
        cr_expect_eq(strstr(error.message, "(kv bf16 or f16)") != NULL, t == TYPES, "%s",
                     error.message);
        cr_expect(strstr(error.message, "lower sessions, context"), "%s", error.message);
    }
    golden_close(&g);
}

/* Nothing but keys and values is smaller, and they by half. */
Test(host_kv, sixteen_bits_take_half_of_the_memory)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cpu, golden_models[m]);
        size_t whole = spc_backend_cpu.memory(g.backend, g.plan, &golden_limits);
        uint64_t kv = spc_kv_bytes(g.plan, &golden_limits);

        for (int t = 0; t < TYPES; t++) {
            spc_limits limits = golden_limits;

            limits.kv = types[t];
            cr_expect_eq(spc_kv_bytes(g.plan, &limits) * 2, kv);
            cr_expect_eq(spc_backend_cpu.memory(g.backend, g.plan, &limits), whole - kv / 2, "%s",
                         golden_models[m]);
            cr_expect_eq(spc_plan_kv_bytes(g.plan, 16, types[t]) * 2,
                         spc_plan_kv_bytes(g.plan, 16, SPC_DTYPE_F32));
        }
        golden_close(&g);
    }
}

/* ---- engine -----------------------------------------------------------------------------------
 */

static spc_engine *open_with(const char *kv, spc_engine_facts *facts)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    o.sessions = 2;
    o.context = 96;
    o.threads = 2;
    o.kv = kv;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_describe(engine, facts);
    return engine;
}

/* Strict speculation writes what the verifier alone writes, whatever the caches are. */
Test(host_kv, both_models_of_an_engine_have_the_type)
{
    static const char *const names[] = {NULL, "f32", "bf16", "f16"};
    spc_engine_facts facts[4];

    for (int i = 0; i < 4; i++) {
        spc_engine *engine = open_with(names[i], &facts[i]);
        spc_session_options strict = options_of("strict", 5, 0);
        spc_session_options alone = options_of("verifier-only", 5, 0);
        prompt p = prompt_of(engine, "<s><2fr>Where did you buy that blue coat?<sep>");
        decoded one = decode(engine, &strict, &p), other = decode(engine, &alone, &p);

        cr_expect_eq(one.status, SPC_OK, "%s", one.error.message);
        cr_expect_gt(one.count, 6);
        cr_expect_eq(one.stats.output_hash, other.stats.output_hash, "%s", names[i]);
        spc_engine_close(engine);
    }
    cr_expect_eq(facts[0].verifier_memory_bytes, facts[1].verifier_memory_bytes);
    cr_expect_eq(facts[2].verifier_memory_bytes, facts[3].verifier_memory_bytes);
    cr_expect_eq(facts[2].drafter_memory_bytes, facts[3].drafter_memory_bytes);
    cr_expect_lt(facts[2].verifier_memory_bytes, facts[1].verifier_memory_bytes);
    cr_expect_lt(facts[2].drafter_memory_bytes, facts[1].drafter_memory_bytes);
}

/* Keys of a size that float32 and bf16 hold: a session over halves ends as over any bad row. */
Test(host_kv, a_session_whose_keys_overflow_fails)
{
    static const char *const config =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 61, \"hidden_size\": 32,"
        " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
        " \"intermediate_size\": 40, \"max_position_embeddings\": 64,"
        " \"tie_word_embeddings\": false}";
    static const spc_dtype all[] = {SPC_DTYPE_F32, SPC_DTYPE_BF16, SPC_DTYPE_F16};
    tiny_model model = tiny_open(config, 5, 1);
    const spc_tensor *t = spc_bundle_find(model.bundle, "model.layers.1.self_attn.k_proj.weight");
    float *weights = (float *)(uintptr_t)t->data;
    prompt p = {{1, 5, 9}, 3};

    for (uint64_t i = 0; i < t->bytes / sizeof *weights; i++) weights[i] *= 1e6f;
    for (int i = 0; i < 3; i++) {
        spc_limits limits = spc_engine_limits(1, 64);
        spc_session_options o = options_of("verifier-only", 0, 0);
        spc_backend *backend;
        spc_runner *runner;
        spc_engine *engine;
        spc_error error;

        limits.kv = all[i];
        o.max_tokens = 8;
        cr_assert_eq(spc_backend_cpu.open(&backend, 1, NULL, &error), SPC_OK);
        runner = tiny_load(&model, backend, &limits);
        cr_assert_eq(spc_engine_assemble(&spc_backend_cpu, backend, NULL, runner, 61, 64, 1,
                                         &engine, &error),
                     SPC_OK);

        decoded d = decode(engine, &o, &p);

        if (all[i] == SPC_DTYPE_F16) {
            cr_expect_eq(d.finish, SPC_FINISH_FAILED);
            cr_expect_eq(d.status, SPC_ENUMERIC, "%s", d.error.message);
            cr_expect_eq(d.count, 0);
        } else {
            cr_expect_eq(d.status, SPC_OK, "%s", d.error.message);
            cr_expect_eq(d.count, 8);
        }
        spc_engine_close(engine);
    }
    tiny_close(&model);
}

Test(host_kv, a_type_that_is_none_is_refused)
{
    static const char *const wrong[] = {"", "F16", "fp16", "bf16 ", "int8"};
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        o.kv = wrong[i];
        cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
        cr_expect_null(engine);
        cr_expect(strstr(error.message, "kv: expected f32, bf16 or f16, found '") &&
                      strstr(error.message, wrong[i]),
                  "%s", error.message);
    }
}
