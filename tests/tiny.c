/* SPDX-License-Identifier: Apache-2.0 */
/* tiny.c - checkpoints of random numbers. */
#include "tiny.h"

#include "toyrows.h"

#include <stdio.h>

static int32_t elements(const spc_weight *w)
{
    return w->of_rows * (w->cols > 0 ? w->cols : 1);
}

/* Element types, in turn where they are mixed. */
static const char *const types[] = {"F32", "BF16", "F16"};
enum { MIXED = 3 };

static int32_t type_of(int32_t weight, int32_t type)
{
    return type == MIXED ? weight % 3 : type;
}

/* The header of a safetensors file with every tensor of a plan, malloc'd; data: bytes of all of
 * them. */
static char *header_of(const spc_plan *plan, int32_t type, size_t *bytes, size_t *data)
{
    size_t room = (size_t)plan->weight_count * 256 + 8, used = 0;
    char *text = malloc(room);

    cr_assert_not_null(text);
    *data = 0;
    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];
        size_t end = *data + (size_t)elements(w) * (type_of(i, type) == 0 ? 4 : 2);

        if (w->row > 0) continue; /* of a tensor that is there already */
        used += (size_t)snprintf(text + used, room - used,
                                 "%s\"%s\":{\"dtype\":\"%s\",\"shape\":", i ? "," : "{", w->name,
                                 types[type_of(i, type)]);
        used += (size_t)snprintf(text + used, room - used, w->cols ? "[%d,%d]" : "[%d]",
                                 (int)w->of_rows, (int)w->cols);
        used +=
            (size_t)snprintf(text + used, room - used, ",\"data_offsets\":[%zu,%zu]}", *data, end);
        *data = end;
    }
    used += (size_t)snprintf(text + used, room - used, "}");
    while (used % 8 != 0) text[used++] = ' ';
    *bytes = used;
    return text;
}

/* Towards 0; halves below their normal range are 0. */
static size_t store(float x, int32_t type, char *out)
{
    uint32_t bits;
    uint16_t half;

    memcpy(&bits, &x, sizeof bits);
    half = (uint16_t)(bits >> 16);
    if (type == 2) {
        cr_assert_lt(fabsf(x), 60000.0f);
        half = (uint16_t)(bits >> 16 & 0x8000u);
        if (fabsf(x) >= 0x1p-14f) {
            half |= (uint16_t)(((bits & 0x7fffffffu) - 0x38000000u) >> 13);
        }
    }
    if (type == 0) memcpy(out, &x, sizeof x);
    if (type > 0) memcpy(out, &half, sizeof half);
    return type == 0 ? sizeof x : sizeof half;
}

static void fill(const spc_plan *plan, int32_t type, uint64_t seed, double spread, char *out)
{
    dice d = {seed};

    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];
        bool table = w->rows == plan->config.vocab; /* an embedding or a head */
        double scale = table ? spread : w->cols ? 1 / sqrt((double)w->cols) : 0.2;

        for (int32_t k = 0; w->row == 0 && k < elements(w); k++) {
            double x = (w->cols ? 0 : 1 - (double)w->plus) + scale * dice_gauss(&d);

            out += store((float)x, type_of(i, type), out);
        }
    }
}

static tiny_model open_typed(const char *config_json, uint64_t seed, double spread, int32_t type)
{
    static const char no_tensors[] = "\x02\0\0\0\0\0\0\0{}";
    spc_blob files[] = {{"model.safetensors", no_tensors, sizeof no_tensors - 1},
                        {"config.json", config_json, strlen(config_json)}};
    tiny_model m = {.bundle = NULL};
    spc_error error;
    char *header;
    size_t length, data;

    cr_assert_eq(spc_bundle_open_memory("tiny", files, 2, &m.bundle, &error), SPC_OK);
    cr_assert_eq(spc_config_read(m.bundle, &m.config, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_plan_build(&m.config, "tiny", &m.plan, &error), SPC_OK, "%s", error.message);
    spc_bundle_close(m.bundle);
    header = header_of(m.plan, type, &length, &data);
    files[0].bytes = 8 + length + data;
    files[0].data = m.file = malloc(files[0].bytes);
    cr_assert_not_null(m.file);
    for (int i = 0; i < 8; i++) m.file[i] = (char)((uint64_t)length >> (8 * i));
    memcpy(m.file + 8, header, length);
    fill(m.plan, type, seed, spread, m.file + 8 + length);
    free(header);
    cr_assert_eq(spc_bundle_open_memory("tiny", files, 2, &m.bundle, &error), SPC_OK, "%s",
                 error.message);
    return m;
}

tiny_model tiny_open(const char *config_json, uint64_t seed, double spread)
{
    return open_typed(config_json, seed, spread, 0);
}

tiny_model tiny_open_mixed(const char *config_json, uint64_t seed)
{
    return open_typed(config_json, seed, 1, MIXED);
}

tiny_model tiny_open_halves(const char *config_json, uint64_t seed, bool bf16)
{
    return open_typed(config_json, seed, 1, bf16 ? 1 : 2);
}

void tiny_close(tiny_model *model)
{
    spc_plan_close(model->plan);
    spc_bundle_close(model->bundle);
    free(model->file);
}

spc_runner *tiny_load_on(const spc_backend_ops *ops, const tiny_model *model, spc_backend *backend,
                         const spc_limits *limits)
{
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(ops->load(backend, model->plan, model->bundle, limits, &runner, &error), SPC_OK,
                 "%s", error.message);
    return runner;
}

spc_runner *tiny_load(const tiny_model *model, spc_backend *backend, const spc_limits *limits)
{
    return tiny_load_on(&spc_backend_cpu, model, backend, limits);
}
