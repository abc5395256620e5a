/* SPDX-License-Identifier: Apache-2.0 */
/* tiny.c - checkpoints of random numbers. */
#include "tiny.h"

#include "toyrows.h"

#include <stdio.h>

static int32_t elements(const spc_weight *w)
{
    return w->rows * (w->cols > 0 ? w->cols : 1);
}

/* The header of a safetensors file with every tensor of a plan, malloc'd; floats: of all of them.
 */
static char *header_of(const spc_plan *plan, size_t *bytes, int64_t *floats)
{
    size_t room = (size_t)plan->weight_count * 256 + 8, used = 0;
    char *text = malloc(room);

    cr_assert_not_null(text);
    *floats = 0;
    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];
        int64_t end = *floats + elements(w);

        used += (size_t)snprintf(text + used, room - used,
                                 "%s\"%s\":{\"dtype\":\"F32\",\"shape\":", i ? "," : "{", w->name);
        used += (size_t)snprintf(text + used, room - used, w->cols ? "[%d,%d]" : "[%d]",
                                 (int)w->rows, (int)w->cols);
        used += (size_t)snprintf(text + used, room - used, ",\"data_offsets\":[%lld,%lld]}",
                                 (long long)*floats * 4, (long long)end * 4);
        *floats = end;
    }
    used += (size_t)snprintf(text + used, room - used, "}");
    while (used % 8 != 0) text[used++] = ' ';
    *bytes = used;
    return text;
}

static void fill(const spc_plan *plan, uint64_t seed, double spread, float *out)
{
    dice d = {seed};

    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];
        bool table = w->rows == plan->config.vocab; /* an embedding or a head */
        double scale = table ? spread : w->cols ? 1 / sqrt((double)w->cols) : 0.2;

        for (int32_t k = 0; k < elements(w); k++) {
            *out++ = (float)((w->cols ? 0 : 1 - (double)w->plus) + scale * dice_gauss(&d));
        }
    }
}

tiny_model tiny_open(const char *config_json, uint64_t seed, double spread)
{
    static const char no_tensors[] = "\x02\0\0\0\0\0\0\0{}";
    spc_blob files[] = {{"model.safetensors", no_tensors, sizeof no_tensors - 1},
                        {"config.json", config_json, strlen(config_json)}};
    tiny_model m = {.bundle = NULL};
    spc_error error;
    char *header;
    size_t length;
    int64_t floats;

    cr_assert_eq(spc_bundle_open_memory("tiny", files, 2, &m.bundle, &error), SPC_OK);
    cr_assert_eq(spc_config_read(m.bundle, &m.config, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_plan_build(&m.config, "tiny", &m.plan, &error), SPC_OK, "%s", error.message);
    spc_bundle_close(m.bundle);
    header = header_of(m.plan, &length, &floats);
    files[0].bytes = 8 + length + (size_t)floats * sizeof(float);
    files[0].data = m.file = malloc(files[0].bytes);
    cr_assert_not_null(m.file);
    for (int i = 0; i < 8; i++) m.file[i] = (char)((uint64_t)length >> (8 * i));
    memcpy(m.file + 8, header, length);
    fill(m.plan, seed, spread, (float *)(void *)(m.file + 8 + length));
    free(header);
    cr_assert_eq(spc_bundle_open_memory("tiny", files, 2, &m.bundle, &error), SPC_OK, "%s",
                 error.message);
    return m;
}

void tiny_close(tiny_model *model)
{
    spc_plan_close(model->plan);
    spc_bundle_close(model->bundle);
    free(model->file);
}

spc_runner *tiny_load(const tiny_model *model, spc_backend *backend, const spc_limits *limits)
{
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(spc_backend_cpu.load(backend, model->plan, model->bundle, limits, &runner, &error),
                 SPC_OK, "%s", error.message);
    return runner;
}
