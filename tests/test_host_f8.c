/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_f8.c - checkpoints of 8-bit floats and integers, with the scales of every convention
 * beside them: the same bits as a float32 checkpoint of the numbers they stand for. */
#include "eight.h"
#include "units.h"

#include "host/ranks/backend_ranks.h"
#include "weights/int8.h"

Test(host_f8, the_bits_of_the_numbers_they_stand_for)
{
    static const spc_dtype types[] = {SPC_DTYPE_F8_E4M3, SPC_DTYPE_F8_E5M2, SPC_DTYPE_I8};
    spc_error err;

    for (int k = 0; k < 3 * EIGHT_KINDS; k++) {
        spc_dtype dtype = types[k % 3];
        eight_pair p;

        if (dtype == SPC_DTYPE_I8 && k / 3 == UNSCALED) continue;
        p = eight_of(dtype, (scale_kind)(k / 3), k % 2 == 0);

        for (int32_t u = 0; u < UNITS; u++) {
            float eight[EIGHT_TOKENS * EIGHT_VOCAB], whole[EIGHT_TOKENS * EIGHT_VOCAB];
            spc_backend *backend;

            if (spc_backend_cpu.open(&backend, 2, units[u], &err) != SPC_OK) continue;
            eight_logits(&spc_backend_cpu, backend, p.origin.plan, p.bundle[0], eight);
            eight_logits(&spc_backend_cpu, backend, p.origin.plan, p.bundle[1], whole);
            spc_backend_cpu.close(backend);
            cr_assert(memcmp(eight, whole, sizeof eight) == 0, "%s, scales %d, %s: %g, not %g",
                      spc_dtype_name(dtype), k / 3, units[u], (double)eight[0], (double)whole[0]);
            cr_assert(eight[0] == eight[0] && eight[0] != eight[1], "they say something");
        }
        eight_close(&p);
    }
}

/* Of embeddings one row, of everything else all: what a roofline counts. */
Test(host_f8, a_row_reads_the_scales_too)
{
    for (int k = 0; k < EIGHT_KINDS; k++) {
        eight_pair p = eight_of(SPC_DTYPE_F8_E4M3, (scale_kind)k, false);
        const char *name = "model.embed_tokens.weight";
        const spc_tensor *t = spc_bundle_find(p.bundle[0], name);
        const spc_tensor *scale = spc_plan_scale(p.bundle[0], name);
        uint64_t rows = (uint64_t)t->shape[0], unread = t->bytes - t->bytes / rows;

        if (scale) unread += scale->bytes - scale->bytes / rows;
        cr_expect_eq(spc_plan_weight_bytes(p.origin.plan, p.bundle[0]),
                     spc_bundle_bytes(p.bundle[0]) - unread, "scales %d", k);
        eight_close(&p);
    }
}

Test(host_f8, ranks_scale_their_own_parts)
{
    spc_error err;

    for (int k = 0; k < EIGHT_KINDS; k++) {
        eight_pair p = eight_of(SPC_DTYPE_F8_E4M3, (scale_kind)k, false);
        float one[EIGHT_TOKENS * EIGHT_VOCAB], two[EIGHT_TOKENS * EIGHT_VOCAB];
        spc_backend *alone, *ranks;

        cr_assert_eq(spc_backend_cpu.open(&alone, 1, NULL, &err), SPC_OK, "%s", err.message);
        cr_assert_eq(spc_ranks_open(2, 2, NULL, &ranks, &err), SPC_OK, "%s", err.message);
        eight_logits(&spc_backend_cpu, alone, p.origin.plan, p.bundle[0], one);
        eight_logits(&spc_backend_ranks, ranks, p.origin.plan, p.bundle[0], two);
        for (int i = 0; i < EIGHT_TOKENS * EIGHT_VOCAB; i++) {
            cr_assert(fabsf(one[i] - two[i]) <= 1e-4f, "scales %d: %g and %g", k, (double)one[i],
                      (double)two[i]);
        }
        spc_backend_cpu.close(alone);
        spc_backend_ranks.close(ranks);
        eight_close(&p);
    }
}

/* One matrix of 8-bit floats, or of integers, with a scale of this type and shape (NULL: none);
 * what is said of it. */
static void expect_refused(const char *matrix, bool scaled, const char *type, int32_t rows,
                           int32_t cols, const float *values, const char *said)
{
    static const char name[] = "model.layers.0.self_attn.q_proj.weight";
    static const char zeros[240 * 160 * 4];
    tiny_model origin = tiny_open(eight_config, 5, 1);
    eight_file w = eight_writer(1 << 23);
    spc_blob files[2] = {{.name = "model.safetensors"},
                         {"config.json", eight_config, sizeof eight_config - 1}};
    spc_limits limits = {.slots = 1, .context = 16, .rows = 8, .outputs = 8};
    spc_bundle *bundle;
    spc_backend *backend;
    spc_runner *runner;
    spc_error err;
    char *file;
    size_t size = type && strcmp(type, "F32") == 0 ? 4 : 1;

    origin.plan->config.scaled = scaled;

    for (int32_t i = 0; i < spc_bundle_count(origin.bundle); i++) {
        const spc_tensor *t = spc_bundle_tensor(origin.bundle, i);
        int32_t columns = t->rank == 2 ? (int32_t)t->shape[1] : 0;

        if (strcmp(t->name, name) == 0) {
            eight_put(&w, name, matrix, (int32_t)t->shape[0], columns, zeros, 240 * 160);
        } else {
            eight_put(&w, t->name, "F32", (int32_t)t->shape[0], columns, t->data, t->bytes);
        }
    }
    if (type) {
        eight_put(&w, "model.layers.0.self_attn.q_proj.weight_scale", type, rows, cols,
                  values ? (const void *)values : (const void *)zeros,
                  (size_t)rows * (size_t)(cols ? cols : 1) * size);
    }
    files[0].data = file = eight_finish(&w, &files[0].bytes);
    cr_assert_eq(spc_bundle_open_memory("eight", files, 2, &bundle, &err), SPC_OK, "%s",
                 err.message);
    cr_assert_eq(spc_backend_cpu.open(&backend, 1, NULL, &err), SPC_OK);
    cr_assert_eq(spc_backend_cpu.load(backend, origin.plan, bundle, &limits, &runner, &err),
                 SPC_ESHAPE);
    cr_assert_not_null(strstr(err.message, "q_proj.weight_scale"), "%s", err.message);
    cr_assert_not_null(strstr(err.message, said), "%s", err.message);
    spc_backend_cpu.close(backend);
    spc_bundle_close(bundle);
    free(file);
    tiny_close(&origin);
}

Test(host_f8, scales_that_fit_nothing_are_named)
{
    static const float nan[2] = {NAN, 1};

    expect_refused("F8_E4M3", false, "F32", 159, 0, NULL, "found rank 1, [159, 0], F32");
    expect_refused("F8_E4M3", false, "F32", 2, 3, NULL, "found rank 2, [2, 3], F32");
    expect_refused("F8_E4M3", false, "I8", 240, 0, NULL, "I8");
    expect_refused("F8_E4M3", true, "F32", 1, 1, nan, "expected finite scales, found nan at 0");
    expect_refused("F8_E4M3", true, NULL, 0, 0, NULL, "found neither");
    expect_refused("I8", false, NULL, 0, 0, NULL, "its type is I8), found neither");
    expect_refused("I8", false, "F32", 159, 0, NULL, "found rank 1, [159, 0], F32");
}

/* Integers that stand around another number than 0. */
Test(host_f8, zero_points_are_refused)
{
    static const char zero_point[] = "model.layers.1.mlp.up_proj.weight_zero_point";
    tiny_model origin = tiny_open(eight_config, 5, 1);
    eight_file w = eight_writer(1 << 23);
    spc_blob files[2] = {{.name = "model.safetensors"},
                         {"config.json", eight_config, sizeof eight_config - 1}};
    spc_limits limits = {.slots = 1, .context = 16, .rows = 8, .outputs = 8};
    spc_bundle *bundle;
    spc_backend *backend;
    spc_runner *runner;
    spc_error err;
    char *file;

    for (int32_t i = 0; i < spc_bundle_count(origin.bundle); i++) {
        const spc_tensor *t = spc_bundle_tensor(origin.bundle, i);

        eight_put(&w, t->name, "F32", (int32_t)t->shape[0], t->rank == 2 ? (int32_t)t->shape[1] : 0,
                  t->data, t->bytes);
    }
    eight_put(&w, zero_point, "I8", 1, 0, "\1", 1);
    files[0].data = file = eight_finish(&w, &files[0].bytes);
    cr_assert_eq(spc_bundle_open_memory("eight", files, 2, &bundle, &err), SPC_OK, "%s",
                 err.message);
    cr_assert_eq(spc_int8_quantise(bundle, "model.layers.1.mlp.up_proj.weight", NULL, &err),
                 SPC_OK);
    cr_assert_eq(spc_backend_cpu.open(&backend, 1, NULL, &err), SPC_OK);
    cr_assert_eq(spc_backend_cpu.load(backend, origin.plan, bundle, &limits, &runner, &err),
                 SPC_EUNSUPPORTED);
    cr_assert_not_null(strstr(err.message, zero_point), "%s", err.message);
    spc_backend_cpu.close(backend);
    spc_bundle_close(bundle);
    free(file);
    tiny_close(&origin);
}

/* ---- made at load ---------------------------------------------------------------------------- */

enum { ENGINE_IDS = 6, ENGINE_VOCAB = 389 };

/* Logits of a small Llama by an engine with these weights and ranks; bytes: that a row reads. */
static spc_status engine_logits(const char *weights, int32_t tp, float *out, uint64_t *bytes,
                                spc_error *err)
{
    static const int32_t ids[ENGINE_IDS] = {1, 17, 230, 5, 5, 388};
    spc_engine_options o;
    spc_engine_facts facts;
    spc_engine *engine;

    spc_engine_options_init(&o);
    o.verifier = SPC_TEST_VECTORS "/llama";
    o.drafter = NULL;
    o.weights = weights;
    o.threads = o.tp = tp;

    spc_status status = spc_engine_open(&o, &engine, err);

    if (status != SPC_OK) return status;
    spc_engine_describe(engine, &facts);
    cr_assert_eq(facts.vocab, ENGINE_VOCAB);
    *bytes = facts.verifier_weight_bytes;
    status = spc_engine_logits(engine, NULL, 0, ids, ENGINE_IDS, out, err);
    spc_engine_close(engine);
    return status;
}

static double engine_distance(const float *a, const float *b)
{
    double off = 0, all = 0;

    for (int i = 0; i < ENGINE_IDS * ENGINE_VOCAB; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)b[i] * (double)b[i];
    }
    return sqrt(off / all);
}

Test(host_f8, an_engine_makes_integers_of_its_weights_when_told_to)
{
    static float plain[ENGINE_IDS * ENGINE_VOCAB], small[ENGINE_IDS * ENGINE_VOCAB];
    static float ranks[ENGINE_IDS * ENGINE_VOCAB];
    uint64_t plain_bytes, small_bytes;
    spc_error err;
    double off;

    cr_assert_eq(engine_logits(NULL, 1, plain, &plain_bytes, &err), SPC_OK, "%s", err.message);
    cr_assert_eq(engine_logits("int8", 1, small, &small_bytes, &err), SPC_OK, "%s", err.message);
    cr_assert_eq(engine_logits("int8", 2, ranks, &small_bytes, &err), SPC_OK, "%s", err.message);
    off = engine_distance(small, plain);
    cr_expect(off > 1e-4 && off < 0.02, "half a step of 1/127 of a row's largest: off by %g", off);
    cr_expect_lt(engine_distance(ranks, small), 1e-5);
    cr_expect_lt(small_bytes * 3, plain_bytes, "a quarter of float32: %zu of %zu",
                 (size_t)small_bytes, (size_t)plain_bytes);
    cr_expect_eq(engine_logits("int4", 1, small, &small_bytes, &err), SPC_EUSAGE);
    cr_expect(strstr(err.message, "expected int8, found 'int4'"), "%s", err.message);
}
