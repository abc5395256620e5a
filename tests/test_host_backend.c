/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_backend.c - what every verb of a backend means, shown on the CPU: logits against
 * recorded references, and the same bits however rows are cut, batched, replayed or threaded. */
#include "host/backend.h"
#include "host/engine.h"

#include "files.h"

#include <math.h>
#include <string.h>

enum { CONTEXT = 64, SLOTS = 3, ROWS = 40, UNITS = 3 };

static const char *const units[UNITS] = {"portable", "avx2", "avx512"};
static const char *const models[] = {
    "llama",           "llama31-rope", "mistral-window", "qwen2",        "qwen3",
    "gemma2",          "gemma3",       "rope-linear",    "rope-dynamic", "rope-yarn",
    "rope-yarn-given", "t5-relu",      "t5-gated"};
enum { MODELS = sizeof models / sizeof *models };

/* A model, loaded, with its recorded results. */
typedef struct {
    spc_backend *backend;
    spc_bundle *bundle, *reference;
    spc_plan *plan;
    spc_runner *runner;
    const float *logits;           /* [count, vocab] recorded */
    int32_t *source, source_count; /* what an encoder reads; none: 0 */
    int32_t *ids, count;
    int32_t *prompt, prompt_count;
    int32_t *greedy, greedy_count;
    char *logits_file; /* bytes behind reference */
    int32_t vocab;
} fixture;

static const spc_limits small = {SLOTS, CONTEXT, ROWS, ROWS, false};

static void read_reference(fixture *f, const char *name)
{
    char path[1024];
    spc_blob file;
    spc_error error;
    size_t bytes;
    json_t *golden;

    (void)snprintf(path, sizeof path, "%s/%s/golden.json", SPC_TEST_VECTORS, name);
    golden = read_json(path);
    f->source = read_ids(json_object_get(golden, "encoder_ids"), &f->source_count);
    f->ids =
        read_ids(json_object_get(golden, f->source_count > 0 ? "decoder_ids" : "ids"), &f->count);
    f->prompt = read_ids(json_object_get(golden, "prompt"), &f->prompt_count);
    if (f->source_count > 0) f->prompt_count = 1; /* of the ids: what the decoder begins with */
    if (f->source_count > 0) f->prompt[0] = f->ids[0];
    f->greedy = read_ids(json_object_get(golden, "greedy"), &f->greedy_count);
    json_decref(golden);
    (void)snprintf(path, sizeof path, "%s/%s/logits.safetensors", SPC_TEST_VECTORS, name);
    f->logits_file = read_file(path, &bytes);
    file = (spc_blob){"model.safetensors", f->logits_file, bytes};
    cr_assert_eq(spc_bundle_open_memory("logits", &file, 1, &f->reference, &error), SPC_OK, "%s",
                 error.message);

    const spc_tensor *t = spc_bundle_find(f->reference, "logits");

    cr_assert(t && t->rank == 2 && t->dtype == SPC_DTYPE_F32 && t->shape[0] == f->count);
    f->logits = t->data;
}

/* false: this machine has no such unit. */
static bool open_fixture(fixture *f, const char *name, int32_t threads, const char *unit)
{
    char path[1024];
    spc_config config;
    spc_error error;

    memset(f, 0, sizeof *f);
    if (spc_backend_cpu.open(&f->backend, threads, unit, &error) != SPC_OK) return false;
    (void)snprintf(path, sizeof path, "%s/%s", SPC_TEST_VECTORS, name);
    cr_assert_eq(spc_bundle_open(path, &f->bundle, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_config_read(f->bundle, &config, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_plan_build(&config, name, &f->plan, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_backend_cpu.load(f->backend, f->plan, f->bundle, &small, &f->runner, &error),
                 SPC_OK, "%s", error.message);
    f->vocab = config.vocab;
    read_reference(f, name);
    return true;
}

static void close_fixture(fixture *f)
{
    spc_backend_cpu.unload(f->runner);
    spc_plan_close(f->plan);
    spc_bundle_close(f->reference);
    spc_bundle_close(f->bundle);
    spc_backend_cpu.close(f->backend);
    free(f->logits_file);
    free(f->ids);
    free(f->prompt);
    free(f->source);
    free(f->greedy);
}

/* Let the encoder, where there is one, read the recorded source for a slot. */
static void encode(const fixture *f, int32_t slot)
{
    spc_error error;

    if (f->source_count == 0) return;
    cr_assert_eq(spc_backend_cpu.encode(f->runner, slot, f->source, f->source_count, &error),
                 SPC_OK);
}

/* Feed ids [count] to a slot at its length; logits of row i go to output `output + i`. */
static void feed(const fixture *f, int32_t slot, const int32_t *ids, int32_t count, int32_t output)
{
    int32_t slots[ROWS], position[ROWS], outputs[ROWS];
    spc_rows rows = {count, slots, ids, position, outputs};
    spc_error error;

    if (spc_backend_cpu.length(f->runner, slot) == 0) encode(f, slot);
    for (int32_t i = 0; i < count; i++) {
        slots[i] = slot;
        position[i] = spc_backend_cpu.length(f->runner, slot) + i;
        outputs[i] = output + i;
    }
    cr_assert_eq(spc_backend_cpu.forward(f->runner, &rows, &error), SPC_OK);
}

static const float *row(const fixture *f, int32_t output)
{
    return spc_backend_cpu.logits(f->runner, output);
}

/* All rows of the recorded ids in chunks, copied; malloc'd [count, vocab]. */
static float *run_in_chunks(const fixture *f, int32_t chunk)
{
    size_t bytes = (size_t)f->vocab * sizeof(float);
    float *all = malloc((size_t)f->count * bytes);

    cr_assert_not_null(all);
    spc_backend_cpu.rewind(f->runner, 0, 0);
    for (int32_t at = 0; at < f->count; at += chunk) {
        feed(f, 0, f->ids + at, f->count - at < chunk ? f->count - at : chunk, at);
    }
    for (int32_t i = 0; i < f->count; i++) {
        memcpy((char *)all + (size_t)i * bytes, row(f, i), bytes);
    }
    return all;
}

static bool same_bits(const fixture *f, const float *a, const float *b, int32_t rows)
{
    return memcmp(a, b, (size_t)rows * (size_t)f->vocab * sizeof *a) == 0;
}

static int32_t best(const float *logits, int32_t vocab)
{
    int32_t top = 0;

    for (int32_t v = 1; v < vocab; v++) top = logits[v] > logits[top] ? v : top;
    return top;
}

/* ---- results ----------------------------------------------------------------------------------
 */

Test(host_backend, logits_are_those_of_the_reference)
{
    int32_t ran = 0;

    for (int32_t m = 0; m < MODELS; m++) {
        for (int32_t u = 0; u < UNITS; u++) {
            fixture f;
            float worst = 0.0f;

            if (!open_fixture(&f, models[m], 2, units[u])) continue;
            ran++;

            float *all = run_in_chunks(&f, f.count);

            for (int32_t i = 0; i < f.count * f.vocab; i++) {
                float off = fabsf(all[i] - f.logits[i]);

                worst = off <= worst ? worst : off; /* NaN stays */
            }
            cr_expect_leq(worst, 1e-4f, "%s, %s: off by %g", models[m], units[u], (double)worst);
            free(all);
            close_fixture(&f);
        }
    }
    cr_assert_geq(ran, MODELS, "the portable unit is everywhere");
}

Test(host_backend, greedy_continuations_are_those_of_the_reference)
{
    for (int32_t m = 0; m < MODELS; m++) {
        for (int32_t u = 0; u < UNITS; u++) {
            fixture f;

            if (!open_fixture(&f, models[m], 2, units[u])) continue;
            feed(&f, 0, f.prompt, f.prompt_count, 0);
            for (int32_t i = 0, last = f.prompt_count - 1; i < f.greedy_count; i++, last = 0) {
                int32_t next = best(row(&f, last), f.vocab);

                cr_expect_eq(next, f.greedy[i], "%s, %s: token %d", models[m], units[u], (int)i);
                feed(&f, 0, &f.greedy[i], 1, 0);
            }
            close_fixture(&f);
        }
    }
}

/* ---- bits -------------------------------------------------------------------------------------
 */

Test(host_backend, a_row_has_the_same_bits_in_chunks_of_any_size)
{
    static const int32_t chunks[] = {1, 2, 3, 4, 5, 6, 7, 8, 13};

    for (int32_t n = 0; n < UNITS * MODELS; n++) {
        const char *model = models[n / UNITS], *unit = units[n % UNITS];
        fixture f;

        if (!open_fixture(&f, model, 2, unit)) continue;

        float *whole = run_in_chunks(&f, f.count);

        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            float *cut = run_in_chunks(&f, chunks[i]);

            cr_expect(same_bits(&f, whole, cut, f.count), "%s, %s: chunks of %d", model, unit,
                      (int)chunks[i]);
            free(cut);
        }
        free(whole);
        close_fixture(&f);
    }
}

Test(host_backend, a_row_has_the_same_bits_on_any_number_of_threads)
{
    static const int32_t threads[] = {2, 3, 4, 7};

    for (int32_t n = 0; n < UNITS * MODELS; n++) {
        const char *model = models[n / UNITS], *unit = units[n % UNITS];
        fixture one;

        if (!open_fixture(&one, model, 1, unit)) continue;

        float *alone = run_in_chunks(&one, 6);

        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            fixture f;

            cr_assert(open_fixture(&f, model, threads[i], unit));

            float *together = run_in_chunks(&f, 6);

            cr_expect(same_bits(&f, alone, together, f.count), "%s, %s: %d threads", model, unit,
                      (int)threads[i]);
            free(together);
            close_fixture(&f);
        }
        free(alone);
        close_fixture(&one);
    }
}

Test(host_backend, avx2_and_avx512_agree_to_the_bit)
{
    for (int32_t m = 0; m < MODELS; m++) {
        fixture narrow, wide;

        if (!open_fixture(&wide, models[m], 2, "avx512")) return;
        cr_assert(open_fixture(&narrow, models[m], 2, "avx2"));

        float *a = run_in_chunks(&narrow, 6), *b = run_in_chunks(&wide, 6);

        cr_assert(same_bits(&wide, a, b, wide.count), "%s", models[m]);
        free(a);
        free(b);
        close_fixture(&narrow);
        close_fixture(&wide);
    }
}

Test(host_backend, a_replay_after_a_rewind_has_the_same_bits)
{
    static const int32_t wrong[] = {5, 9, 200, 17, 3};

    for (int32_t m = 0; m < MODELS; m++) {
        fixture f;

        cr_assert(open_fixture(&f, models[m], 2, NULL));

        float *whole = run_in_chunks(&f, f.count);
        int32_t half = f.count / 2;

        spc_backend_cpu.rewind(f.runner, 0, half);
        cr_assert_eq(spc_backend_cpu.length(f.runner, 0), half);
        feed(&f, 0, wrong, 5, 0); /* overwrites entries half .. half + 4 */
        cr_assert_eq(spc_backend_cpu.length(f.runner, 0), half + 5);
        spc_backend_cpu.rewind(f.runner, 0, half);
        feed(&f, 0, f.ids + half, f.count - half, half);
        for (int32_t i = half; i < f.count; i++) {
            cr_assert(same_bits(&f, whole + i * f.vocab, row(&f, i), 1), "%s: row %d", models[m],
                      (int)i);
        }
        free(whole);
        close_fixture(&f);
    }
}

/* Three sequences in one forward after another, of different lengths and in changing order, some
 * rows without logits: each gets what it gets alone. */
static void run_side_by_side(const char *model)
{
    fixture f;
    static const int32_t shares[4][SLOTS] = {{5, 1, 3}, {1, 6, 1}, {0, 2, 6}, {4, 3, 0}};

    cr_assert(open_fixture(&f, model, 2, NULL));

    float *whole = run_in_chunks(&f, f.count);

    spc_backend_cpu.rewind(f.runner, 0, 0);
    for (int32_t s = 0; s < SLOTS; s++) encode(&f, s);
    for (int32_t step = 0; step < 4; step++) {
        int32_t slot[ROWS], token[ROWS], position[ROWS], output[ROWS], count = 0;
        spc_error error;

        for (int32_t k = 0; k < SLOTS; k++) {
            int32_t s = (k + step) % SLOTS, length = spc_backend_cpu.length(f.runner, s);

            for (int32_t i = 0; i < shares[step][s]; i++, count++) {
                slot[count] = s;
                position[count] = length + i;
                token[count] = f.ids[length + i];
                output[count] = count % 3 == 1 ? -1 : ROWS - 1 - count;
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
    close_fixture(&f);
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
            fixture f = {0};
            spc_config config;
            spc_error error;
            static const int32_t ids[] = {1, 70, 600, 5000, 43, 911, 6143};

            if (spc_open_bundle(pair[m], &f.bundle, &error) != SPC_OK) return; /* not built in */
            if (spc_backend_cpu.open(&f.backend, 2, units[u], &error) == SPC_OK) {
                cr_assert_eq(spc_config_read(f.bundle, &config, &error), SPC_OK);
                cr_assert_eq(spc_plan_build(&config, pair[m], &f.plan, &error), SPC_OK);
                cr_assert_eq(
                    spc_backend_cpu.load(f.backend, f.plan, f.bundle, &small, &f.runner, &error),
                    SPC_OK);
                cr_assert_eq(config.vocab, 6144);
                feed(&f, 0, ids, 7, 0);
                for (int32_t v = 0; v < 6144; v++) {
                    float z = row(&f, 6)[v];

                    if (ran == 0) first[v] = z;
                    cr_assert(fabsf(z - first[v]) <= 1e-4f, "%s: %s: %g, %g", pair[m], units[u],
                              (double)z, (double)first[v]);
                }
                ran++;
            }
            close_fixture(&f);
        }
    }
}

/* ---- encoders ---------------------------------------------------------------------------------
 */

/* Another source in a slot beside it, and in the same slot before: neither leaves a trace. */
Test(host_backend, an_encoded_prompt_is_the_slots_own_until_the_next)
{
    fixture f;
    static const int32_t longer[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4};
    spc_error error;

    cr_assert(open_fixture(&f, "t5-relu", 2, NULL));

    float *alone = run_in_chunks(&f, f.count), *other;

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
    feed(&f, 0, f.ids + 1, f.count - 1, 1);
    cr_assert(same_bits(&f, alone + f.vocab, row(&f, 1), f.count - 1));
    spc_backend_cpu.rewind(f.runner, 1, 0);
    feed(&f, 1, f.ids, f.count, 0); /* encodes the recorded one */
    cr_assert(same_bits(&f, alone, row(&f, 0), f.count));
    cr_assert_not(same_bits(&f, other, row(&f, f.count - 1), 1));
    free(alone);
    free(other);
    close_fixture(&f);
}

/* ---- what load refuses ------------------------------------------------------------------------
 */

/* Load the small model with one piece of its header replaced by another of the same length. */
static spc_status load_edited(const char *piece, const char *edited, spc_error *error)
{
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "model.safetensors"};
    spc_blob files[3];
    char *data[3];
    fixture f = {0};
    spc_config config;
    spc_status status;

    for (int i = 0; i < 3; i++) {
        char path[1024];

        (void)snprintf(path, sizeof path, "%s/llama/%s", SPC_TEST_VECTORS, names[i]);
        data[i] = read_file(path, &files[i].bytes);
        files[i].name = names[i];
        files[i].data = data[i];
    }

    char *header = data[2] + 8, *at;
    size_t length = strlen(piece);

    cr_assert_eq(length, strlen(edited));
    for (at = header; memcmp(at, piece, length) != 0; at++) cr_assert_lt(at - header, 20000);
    memcpy(at, edited, length);
    cr_assert_eq(spc_bundle_open_memory("edited", files, 3, &f.bundle, error), SPC_OK, "%s",
                 error->message);
    cr_assert_eq(spc_config_read(f.bundle, &config, error), SPC_OK);
    cr_assert_eq(spc_plan_build(&config, "edited", &f.plan, error), SPC_OK);
    cr_assert_eq(spc_backend_cpu.open(&f.backend, 1, NULL, error), SPC_OK);
    status = spc_backend_cpu.load(f.backend, f.plan, f.bundle, &small, &f.runner, error);
    cr_assert(status == SPC_OK || f.runner == NULL);
    close_fixture(&f);
    for (int i = 0; i < 3; i++) free(data[i]);
    return status;
}

Test(host_backend, a_missing_tensor_is_named)
{
    spc_error error;

    cr_assert_eq(load_edited("model.norm.weight", "model.norm.wEight", &error), SPC_ESHAPE);
    cr_assert(strstr(error.message, "model.norm.weight") && strstr(error.message, "edited"), "%s",
              error.message);
}

Test(host_backend, a_tensor_of_another_shape_is_named_with_both_shapes)
{
    spc_error error;

    cr_assert_eq(load_edited("\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[389,96]",
                             "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[96,389]", &error),
                 SPC_ESHAPE);
    cr_assert(strstr(error.message, "lm_head.weight"), "%s", error.message);
    cr_assert(strstr(error.message, "[389, 96]"), "%s", error.message);
    cr_assert(strstr(error.message, "[96, 389]"), "%s", error.message);
}

Test(host_backend, a_tensor_without_a_kernel_is_named_with_what_there_is)
{
    spc_error error;

    cr_assert_eq(load_edited("\"lm_head.weight\":{\"dtype\":\"F32\"",
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
    fixture f;
    spc_limits huge = {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX, false};
    spc_runner *runner;
    spc_error error;

    cr_assert(open_fixture(&f, "llama", 1, NULL));
    cr_assert_eq(spc_backend_cpu.load(f.backend, f.plan, f.bundle, &huge, &runner, &error),
                 SPC_ENOMEM);
    cr_assert_null(runner);
    cr_assert(strstr(error.message, "MiB") && strstr(error.message, "context"), "%s",
              error.message);
    close_fixture(&f);
}

Test(host_backend, memory_covers_the_caches_and_grows_with_every_limit)
{
    fixture f;

    cr_assert(open_fixture(&f, "llama", 2, NULL));

    size_t bytes = spc_backend_cpu.memory(f.backend, f.plan, &small);
    spc_limits slots = small, context = small, rows = small, outputs = small;

    slots.slots++;
    context.context += 16;
    rows.rows++;
    outputs.outputs++;
    cr_assert_geq(bytes, SLOTS * spc_plan_kv_bytes(f.plan, CONTEXT));
    cr_assert_geq(spc_backend_cpu.memory(f.backend, f.plan, &slots),
                  bytes + spc_plan_kv_bytes(f.plan, CONTEXT));
    cr_assert_geq(spc_backend_cpu.memory(f.backend, f.plan, &context),
                  bytes + SLOTS * spc_plan_kv_bytes(f.plan, 16));
    cr_assert_gt(spc_backend_cpu.memory(f.backend, f.plan, &rows), bytes);
    cr_assert_geq(spc_backend_cpu.memory(f.backend, f.plan, &outputs),
                  bytes + (size_t)f.vocab * sizeof(float));
    close_fixture(&f);
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
