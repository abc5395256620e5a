/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_f8.c - checkpoints of 8-bit floats, with the scales of every convention beside them:
 * the same bits as a float32 checkpoint of the numbers they stand for. */
#include "eight.h"

#include "host/backend_ranks.h"

Test(host_f8, the_bits_of_the_numbers_they_stand_for)
{
    static const char *const units[] = {"portable", "avx2", "avx512"};
    spc_error err;

    for (int k = 0; k < 2 * EIGHT_KINDS; k++) {
        spc_dtype dtype = k % 2 ? SPC_DTYPE_F8_E5M2 : SPC_DTYPE_F8_E4M3;
        eight_pair p = eight_of(dtype, (scale_kind)(k / 2), k % 3 == 0);

        for (int u = 0; u < 3; u++) {
            float eight[EIGHT_TOKENS * EIGHT_VOCAB], whole[EIGHT_TOKENS * EIGHT_VOCAB];
            spc_backend *backend;

            if (spc_backend_cpu.open(&backend, 2, units[u], &err) != SPC_OK) continue;
            eight_logits(&spc_backend_cpu, backend, p.origin.plan, p.bundle[0], eight);
            eight_logits(&spc_backend_cpu, backend, p.origin.plan, p.bundle[1], whole);
            spc_backend_cpu.close(backend);
            cr_assert(memcmp(eight, whole, sizeof eight) == 0, "%s, scales %d, %s: %g, not %g",
                      spc_dtype_name(dtype), k / 2, units[u], (double)eight[0], (double)whole[0]);
            cr_assert(eight[0] == eight[0] && eight[0] != eight[1], "they say something");
        }
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

/* One matrix with a scale of this type and shape (NULL: none); what is said of it. */
static void expect_refused(bool scaled, const char *type, int32_t rows, int32_t cols,
                           const float *values, const char *said)
{
    static const char name[] = "model.layers.0.self_attn.q_proj.weight";
    static const char zeros[160 * 160 * 4];
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
            eight_put(&w, name, "F8_E4M3", (int32_t)t->shape[0], columns, zeros, 160 * 160);
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

    expect_refused(false, "F32", 159, 0, NULL, "found rank 1, [159, 0], F32");
    expect_refused(false, "F32", 2, 3, NULL, "found rank 2, [2, 3], F32");
    expect_refused(false, "I8", 160, 0, NULL, "I8");
    expect_refused(true, "F32", 1, 1, nan, "expected finite scales, found nan at 0");
    expect_refused(true, NULL, 0, 0, NULL, "found neither");
}
