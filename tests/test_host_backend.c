/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_backend.c - what every verb of a backend means, shown on the CPU: logits against
 * recorded references, and the same bits however rows are cut, batched, replayed or threaded. */
#include "host/backend.h"
#include "host/engine.h"

#include "distance.h"
#include "golden.h"
#include "units.h"

#include <math.h>
#include <string.h>

/* A model on the CPU with its recorded results; false: this machine has no such unit. */
static bool open_fixture(golden *f, const char *name, int32_t threads, const char *unit)
{
    return golden_open_on(f, &spc_backend_cpu, threads, unit, name);
}

static const float *row(const golden *f, int32_t output)
{
    return spc_backend_cpu.logits(f->runner, output);
}

static bool same_bits(const golden *f, const float *a, const float *b, int32_t rows)
{
    return memcmp(a, b, (size_t)rows * (size_t)f->vocab * sizeof *a) == 0;
}

/* ---- results ----------------------------------------------------------------------------------
 */

Test(host_backend, logits_are_those_of_the_reference)
{
    int32_t ran = 0;

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        for (int32_t u = 0; u < UNITS; u++) {
            golden f;

            if (!open_fixture(&f, golden_models[m], 2, units[u])) continue;
            ran++;

            float *all = golden_run(&f, 0, f.count);
            float worst = distance(all, f.logits, (size_t)(f.count * f.vocab));

            cr_expect_leq(worst, 1e-4f, "%s, %s: off by %g", golden_models[m], units[u],
                          (double)worst);
            free(all);
            golden_close(&f);
        }
    }
    cr_assert_geq(ran, GOLDEN_MODELS, "the portable unit is everywhere");
}

Test(host_backend, greedy_continuations_are_those_of_the_reference)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        for (int32_t u = 0; u < UNITS; u++) {
            golden f;

            if (!open_fixture(&f, golden_models[m], 2, units[u])) continue;
            golden_feed(&f, 0, f.prompt, f.prompt_count, 0);
            for (int32_t i = 0, last = f.prompt_count - 1; i < f.greedy_count; i++, last = 0) {
                int32_t next = golden_best(row(&f, last), f.vocab);

                cr_expect_eq(next, f.greedy[i], "%s, %s: token %d", golden_models[m], units[u],
                             (int)i);
                golden_feed(&f, 0, &f.greedy[i], 1, 0);
            }
            golden_close(&f);
        }
    }
}

/* ---- bits -------------------------------------------------------------------------------------
 */

Test(host_backend, a_row_has_the_same_bits_in_chunks_of_any_size)
{
    static const int32_t chunks[] = {1, 2, 3, 4, 5, 6, 7, 8, 13};

    for (int32_t n = 0; n < UNITS * GOLDEN_MODELS; n++) {
        const char *model = golden_models[n / UNITS], *unit = units[n % UNITS];
        golden f;

        if (!open_fixture(&f, model, 2, unit)) continue;

        float *whole = golden_run(&f, 0, f.count);

        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            float *cut = golden_run(&f, 0, chunks[i]);

            cr_expect(same_bits(&f, whole, cut, f.count), "%s, %s: chunks of %d", model, unit,
                      (int)chunks[i]);
            free(cut);
        }
        free(whole);
        golden_close(&f);
    }
}

Test(host_backend, a_row_has_the_same_bits_on_any_number_of_threads)
{
    static const int32_t threads[] = {2, 3, 4, 7};

    for (int32_t n = 0; n < UNITS * GOLDEN_MODELS; n++) {
        const char *model = golden_models[n / UNITS], *unit = units[n % UNITS];
        golden one;

        if (!open_fixture(&one, model, 1, unit)) continue;

        float *alone = golden_run(&one, 0, 6);

        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            golden f;

            cr_assert(open_fixture(&f, model, threads[i], unit));

            float *together = golden_run(&f, 0, 6);

            cr_expect(same_bits(&f, alone, together, f.count), "%s, %s: %d threads", model, unit,
                      (int)threads[i]);
            free(together);
            golden_close(&f);
        }
        free(alone);
        golden_close(&one);
    }
}

Test(host_backend, vector_units_agree_to_the_bit)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        float *first = NULL;

        for (int32_t u = 0; u < UNITS; u++) {
            golden f;

            if (!unit_fuses(u) || !open_fixture(&f, golden_models[m], 2, units[u])) continue;

            float *logits = golden_run(&f, 0, 6);

            if (first) {
                cr_assert(same_bits(&f, logits, first, f.count), "%s: %s", golden_models[m],
                          units[u]);
            }
            free(first);
            first = logits;
            golden_close(&f);
        }
        free(first);
    }
}

Test(host_backend, a_shared_beginning_has_the_bits_of_one_that_was_run)
{
    int32_t shared = 0;

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cpu, golden_models[m]);

        for (int32_t pages = 0; pages < 3; pages++) shared += golden_shares(&g, pages);
        golden_close(&g);
    }
    cr_expect_gt(shared, 20);
}

Test(host_backend, a_replay_after_a_rewind_has_the_same_bits)
{
    static const int32_t wrong[] = {5, 9, 60, 17, 3};

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden f;

        cr_assert(open_fixture(&f, golden_models[m], 2, NULL));

        float *whole = golden_run(&f, 0, f.count);
        int32_t half = f.count / 2;

        spc_backend_cpu.rewind(f.runner, 0, half);
        cr_assert_eq(spc_backend_cpu.length(f.runner, 0), half);
        golden_feed(&f, 0, wrong, 5, 0); /* overwrites entries half .. half + 4 */
        cr_assert_eq(spc_backend_cpu.length(f.runner, 0), half + 5);
        spc_backend_cpu.rewind(f.runner, 0, half);
        golden_feed(&f, 0, f.ids + half, f.count - half, half);
        for (int32_t i = half; i < f.count; i++) {
            cr_assert(same_bits(&f, whole + i * f.vocab, row(&f, i), 1), "%s: row %d",
                      golden_models[m], (int)i);
        }
        free(whole);
        golden_close(&f);
    }
}

/* Three sequences in one forward after another, of different lengths and in changing order, some
 * rows without logits: each gets what it gets alone. */
static void run_side_by_side(const char *model)
{
    golden f;
    static const int32_t shares[4][GOLDEN_SLOTS] = {{5, 1, 3}, {1, 6, 1}, {0, 2, 6}, {4, 3, 0}};

    cr_assert(open_fixture(&f, model, 2, NULL));

    float *whole = golden_run(&f, 0, f.count);

    spc_backend_cpu.rewind(f.runner, 0, 0);
    for (int32_t s = 0; s < GOLDEN_SLOTS; s++) golden_encode(&f, s);
    for (int32_t step = 0; step < 4; step++) {
        int32_t slot[GOLDEN_ROWS], token[GOLDEN_ROWS], position[GOLDEN_ROWS], output[GOLDEN_ROWS],
            count = 0;
        spc_error error;

        for (int32_t k = 0; k < GOLDEN_SLOTS; k++) {
            int32_t s = (k + step) % GOLDEN_SLOTS, length = spc_backend_cpu.length(f.runner, s);

            for (int32_t i = 0; i < shares[step][s]; i++, count++) {
                slot[count] = s;
                position[count] = length + i;
                token[count] = f.ids[length + i];
                output[count] = count % 3 == 1 ? -1 : GOLDEN_ROWS - 1 - count;
            }
        }

        spc_rows rows = {count, slot, token, position, output};

        cr_assert_eq(spc_backend_cpu.forward(f.runner, &rows, &error), SPC_OK);
        for (int32_t i = 0; i < count; i++) {
            if (output[i] < 0) continue;
            cr_expect(same_bits(&f, whole + position[i] * f.vocab, row(&f, output[i]), 1),
                      "%s: step %d, slot %d, position %d", model, (int)step, (int)slot[i],
                      (int)position[i]);
        }
    }
    free(whole);
    golden_close(&f);
}

Test(host_backend, sequences_side_by_side_do_not_see_each_other)
{
    run_side_by_side("llama");
    run_side_by_side("t5-gated");
}

/* The embedded pair is bf16, with sizes that fill whole vectors; the small models are float32. */
Test(host_backend, the_embedded_pair_gives_the_same_tokens_on_every_unit)
{
    static const char *const pair[] = {SPC_EMBEDDED_VERIFIER, SPC_EMBEDDED_DRAFTER};

    for (int32_t m = 0; m < 2; m++) {
        float first[6144];
        int32_t ran = 0;

        for (int32_t u = 0; u < UNITS; u++) {
            golden f = {.ops = &spc_backend_cpu};
            spc_config config;
            spc_error error;
            static const int32_t ids[] = {1, 70, 600, 5000, 43, 911, 6143};

            if (spc_open_bundle(pair[m], &f.bundle, &error) != SPC_OK) return; /* not built in */
            if (spc_backend_cpu.open(&f.backend, 2, units[u], &error) == SPC_OK) {
                cr_assert_eq(spc_config_read(f.bundle, &config, &error), SPC_OK);
                cr_assert_eq(spc_plan_build(&config, pair[m], &f.plan, &error), SPC_OK);
                cr_assert_eq(spc_backend_cpu.load(f.backend, f.plan, f.bundle, &golden_limits,
                                                  &f.runner, &error),
                             SPC_OK);
                cr_assert_eq(config.vocab, 6144);
                golden_feed(&f, 0, ids, 7, 0);
                for (int32_t v = 0; v < 6144; v++) {
                    float z = row(&f, 6)[v];

                    if (ran == 0) first[v] = z;
                    cr_assert(fabsf(z - first[v]) <= 1e-4f, "%s: %s: %g, %g", pair[m], units[u],
                              (double)z, (double)first[v]);
                }
                ran++;
            }
            golden_close(&f);
        }
    }
}

/* ---- encoders ---------------------------------------------------------------------------------
 */

/* Another source in a slot beside it, and in the same slot before: neither leaves a trace. */
Test(host_backend, an_encoded_prompt_is_the_slots_own_until_the_next)
{
    golden f;
    static const int32_t longer[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4};
    spc_error error;

    cr_assert(open_fixture(&f, "t5-relu", 2, NULL));

    float *alone = golden_run(&f, 0, f.count), *other;

    cr_assert_eq(spc_backend_cpu.encode(f.runner, 1, longer, 20, &error), SPC_OK);
    other = malloc((size_t)f.vocab * sizeof *other);
    cr_assert_not_null(other);
    for (int32_t i = 0; i < f.count; i++) {
        spc_rows rows = {1, (int32_t[]){1}, f.ids + i, &i, (int32_t[]){0}};

        cr_assert_eq(spc_backend_cpu.forward(f.runner, &rows, &error), SPC_OK);
        cr_expect_not(same_bits(&f, alone + i * f.vocab, row(&f, 0), 1), "another source");
    }
    memcpy(other, row(&f, 0), (size_t)f.vocab * sizeof *other);
    spc_backend_cpu.rewind(f.runner, 0, 1); /* its source stays */
    golden_feed(&f, 0, f.ids + 1, f.count - 1, 1);
    cr_assert(same_bits(&f, alone + f.vocab, row(&f, 1), f.count - 1));
    spc_backend_cpu.rewind(f.runner, 1, 0);
    golden_feed(&f, 1, f.ids, f.count, 0); /* encodes the recorded one */
    cr_assert(same_bits(&f, alone, row(&f, 0), f.count));
    cr_assert_not(same_bits(&f, other, row(&f, f.count - 1), 1));
    free(alone);
    free(other);
    golden_close(&f);
}

/* ---- what load refuses ------------------------------------------------------------------------
 */

Test(host_backend, a_missing_tensor_is_named)
{
    spc_error error;

    cr_assert_eq(
        golden_load_edited(&spc_backend_cpu, "model.norm.weight", "model.norm.wEight", &error),
        SPC_ESHAPE);
    cr_assert(strstr(error.message, "model.norm.weight") && strstr(error.message, "edited"), "%s",
              error.message);
}

Test(host_backend, a_tensor_of_another_shape_is_named_with_both_shapes)
{
    spc_error error;

    cr_assert_eq(golden_load_edited(
                     &spc_backend_cpu, "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[389,96]",
                     "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[96,389]", &error),
                 SPC_ESHAPE);
    cr_assert(strstr(error.message, "lm_head.weight"), "%s", error.message);
    cr_assert(strstr(error.message, "[389, 96]"), "%s", error.message);
    cr_assert(strstr(error.message, "[96, 389]"), "%s", error.message);
}

Test(host_backend, a_tensor_without_a_kernel_is_named_with_what_there_is)
{
    spc_error error;

    cr_assert_eq(golden_load_edited(&spc_backend_cpu, "\"lm_head.weight\":{\"dtype\":\"F32\"",
                                    "\"lm_head.weight\":{\"dtype\":\"I32\"", &error),
                 SPC_ESHAPE);
    cr_assert(strstr(error.message, "lm_head.weight") && strstr(error.message, "I32"), "%s",
              error.message);
    cr_assert(strstr(error.message, "F32") && strstr(error.message, "BF16"), "%s", error.message);
}

Test(host_backend, an_unknown_unit_is_refused_with_those_there_are)
{
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cpu.open(&backend, 1, "sse9", &error), SPC_EUSAGE);
    cr_assert_null(backend);
    cr_assert(strstr(error.message, "sse9") && strstr(error.message, "portable"), "%s",
              error.message);
}

Test(host_backend, a_negative_number_of_threads_is_refused)
{
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cpu.open(&backend, -1, NULL, &error), SPC_EUSAGE);
    cr_assert_null(backend);
}

Test(host_backend, a_request_beyond_all_memory_says_what_to_lower)
{
    golden f;
    spc_limits huge = {
        .slots = INT32_MAX, .context = INT32_MAX, .rows = INT32_MAX, .outputs = INT32_MAX};
    spc_runner *runner;
    spc_error error;

    cr_assert(open_fixture(&f, "llama", 1, NULL));
    cr_assert_eq(spc_backend_cpu.load(f.backend, f.plan, f.bundle, &huge, &runner, &error),
                 SPC_ENOMEM);
    cr_assert_null(runner);
    cr_assert(strstr(error.message, "MiB") && strstr(error.message, "context"), "%s",
              error.message);
    golden_close(&f);
}

Test(host_backend, memory_covers_the_caches_and_grows_with_every_limit)
{
    golden f;

    cr_assert(open_fixture(&f, "llama", 2, NULL));

    size_t bytes = spc_backend_cpu.memory(f.backend, f.plan, &golden_limits);
    spc_limits slots = golden_limits, context = golden_limits, rows = golden_limits,
               outputs = golden_limits;

    slots.slots++;
    context.context += 16;
    rows.rows++;
    outputs.outputs++;
    cr_assert_geq(bytes, GOLDEN_SLOTS * spc_plan_kv_bytes(f.plan, GOLDEN_CONTEXT, SPC_DTYPE_F32));
    cr_assert_geq(spc_backend_cpu.memory(f.backend, f.plan, &slots),
                  bytes + spc_plan_kv_bytes(f.plan, GOLDEN_CONTEXT, SPC_DTYPE_F32));
    cr_assert_geq(spc_backend_cpu.memory(f.backend, f.plan, &context),
                  bytes + GOLDEN_SLOTS * spc_plan_kv_bytes(f.plan, 16, SPC_DTYPE_F32));
    cr_assert_gt(spc_backend_cpu.memory(f.backend, f.plan, &rows), bytes);
    cr_assert_geq(spc_backend_cpu.memory(f.backend, f.plan, &outputs),
                  bytes + (size_t)f.vocab * sizeof(float));
    golden_close(&f);
}

Test(host_backend, the_device_names_threads_and_unit)
{
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cpu.open(&backend, 3, "portable", &error), SPC_OK);
    cr_assert_str_eq(spc_backend_cpu.device(backend), "cpu, 3 threads, portable");
    spc_backend_cpu.close(backend);
    spc_backend_cpu.close(NULL);
    spc_backend_cpu.unload(NULL);
}
