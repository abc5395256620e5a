/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_f8.c - checkpoints of 8-bit floats, with the scales of every convention beside them:
 * the same bits as a float32 checkpoint of the numbers they stand for. */
#include "tiny.h"

#include "host/backend_ranks.h"
#include "weights/quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than one block of 128 in every direction; heads of 16s, so that two ranks can share them. */
static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":40,\"hidden_size\":160,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":10,\"num_key_value_heads\":2,\"head_dim\":16,"
    "\"intermediate_size\":288,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,"
    "\"rope_theta\":10000.0,\"tie_word_embeddings\":false,\"bos_token_id\":1,\"eos_token_id\":2}";

typedef enum { ONE, EACH_ROW, ROW_COLUMN, BLOCKS, UNSCALED, KINDS } scale_kind;

typedef struct {
    char *header, *data; /* of a safetensors file */
    size_t header_used, header_room, data_used, data_room;
} writer;

static void put(writer *w, const char *name, const char *type, int32_t rows, int32_t cols,
                const void *data, size_t bytes)
{
    char shape[48];

    (void)snprintf(shape, sizeof shape,
                   rows == 0   ? ""
                   : cols == 0 ? "%d"
                               : "%d,%d",
                   (int)rows, (int)cols);
    w->header_used += (size_t)snprintf(
        w->header + w->header_used, w->header_room - w->header_used,
        "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
        w->header_used > 0 ? "," : "{", name, type, shape, w->data_used, w->data_used + bytes);
    cr_assert_lt(w->header_used + 16, w->header_room);
    cr_assert_leq(w->data_used + bytes, w->data_room);
    memcpy(w->data + w->data_used, data, bytes);
    w->data_used += bytes;
}

static writer writer_of(size_t room)
{
    writer w = {malloc(1 << 16), malloc(room), 0, 1 << 16, 0, room};

    cr_assert(w.header && w.data);
    return w;
}

/* The file; the caller's to free. */
static char *finish(writer *w, size_t *bytes)
{
    char *file;

    w->header[w->header_used++] = '}';
    while (w->header_used % 8 != 0) w->header[w->header_used++] = ' ';
    *bytes = 8 + w->header_used + w->data_used;
    file = malloc(*bytes);
    cr_assert_not_null(file);
    for (int i = 0; i < 8; i++) file[i] = (char)((uint64_t)w->header_used >> (8 * i));
    memcpy(file + 8, w->header, w->header_used);
    memcpy(file + 8 + w->header_used, w->data, w->data_used);
    free(w->header);
    free(w->data);
    return file;
}

static float value_of(spc_dtype dtype, int code)
{
    uint8_t byte = (uint8_t)code;
    float value;

    spc_dequantise(dtype, &byte, 1, &value);
    return value;
}

/* The code whose value is nearest; values: of all codes. */
static uint8_t code_of(const float values[256], float x)
{
    int best = 0;

    for (int code = 1; code < 256; code++) {
        if (fabsf(values[code] - x) < fabsf(values[best] - x)) best = code;
    }
    return (uint8_t)best;
}

/* Scale of entry (row, col), a number of bfloat16, and where it stands. */
static int32_t scale_at(scale_kind kind, int32_t row, int32_t col, int32_t cols)
{
    switch (kind) {
    case EACH_ROW:
    case ROW_COLUMN: return row;
    case BLOCKS: return row / 128 * ((cols + 127) / 128) + col / 128;
    default: return 0;
    }
}

static float scale_value(scale_kind kind, int32_t at)
{
    return kind == UNSCALED ? 1.0f : (float)(32 + (at * 37 + 11) % 64) / 2048.0f;
}

static void put_scale(writer *w, const char *name, scale_kind kind, int32_t rows, int32_t cols,
                      bool narrow)
{
    int32_t down = kind == BLOCKS ? (rows + 127) / 128 : kind == ONE ? 0 : rows;
    int32_t across = kind == BLOCKS ? (cols + 127) / 128 : kind == ROW_COLUMN ? 1 : 0;
    int32_t count = (down ? down : 1) * (across ? across : 1);
    char full[128];
    float values[1024];
    uint16_t halves[1024];

    if (kind == UNSCALED) return;
    (void)snprintf(full, sizeof full, "%s%s", name, kind == BLOCKS ? "_scale_inv" : "_scale");
    for (int32_t i = 0; i < count; i++) {
        uint32_t bits;

        values[i] = scale_value(kind, i);
        memcpy(&bits, &values[i], sizeof bits);
        halves[i] = (uint16_t)(bits >> 16);
    }
    put(w, full, narrow ? "BF16" : "F32", down, across,
        narrow ? (const void *)halves : (const void *)values, (size_t)count * (narrow ? 2 : 4));
}

/* A matrix as codes into `eight`, and what they stand for into `whole`. */
static void put_matrix(writer *eight, writer *whole, const spc_tensor *t, spc_dtype dtype,
                       scale_kind kind, bool narrow)
{
    int32_t rows = (int32_t)t->shape[0], cols = (int32_t)t->shape[1];
    size_t count = (size_t)rows * (size_t)cols;
    const float *from = t->data;
    uint8_t *code = malloc(count);
    float *value = malloc(count * sizeof *value), values[256];

    cr_assert(code && value);
    for (int i = 0; i < 256; i++) values[i] = value_of(dtype, i);
    for (size_t i = 0; i < count; i++) {
        float scale = scale_value(kind, scale_at(kind, (int32_t)i / cols, (int32_t)i % cols, cols));

        code[i] = code_of(values, from[i] / scale);
        value[i] = values[code[i]] * scale;
    }
    put(eight, t->name, spc_dtype_name(dtype), rows, cols, code, count);
    put_scale(eight, t->name, kind, rows, cols, narrow);
    put(whole, t->name, "F32", rows, cols, value, count * sizeof *value);
    free(code);
    free(value);
}

typedef struct {
    char *file[2];
    spc_bundle *bundle[2]; /* 8 bits, 32 bits */
    tiny_model origin;
} pair;

static pair pair_of(spc_dtype dtype, scale_kind kind, bool narrow)
{
    pair p = {.origin = tiny_open(config, 5, 1)};
    writer eight = writer_of(1 << 21), whole = writer_of(1 << 23);
    spc_error err;

    for (int32_t i = 0; i < spc_bundle_count(p.origin.bundle); i++) {
        const spc_tensor *t = spc_bundle_tensor(p.origin.bundle, i);

        if (t->rank == 2) {
            put_matrix(&eight, &whole, t, dtype, kind, narrow);
        } else {
            put(&eight, t->name, "F32", (int32_t)t->shape[0], 0, t->data, t->bytes);
            put(&whole, t->name, "F32", (int32_t)t->shape[0], 0, t->data, t->bytes);
        }
    }
    for (int i = 0; i < 2; i++) {
        spc_blob files[2] = {{.name = "model.safetensors"},
                             {"config.json", config, sizeof config - 1}};

        files[0].data = p.file[i] = finish(i == 0 ? &eight : &whole, &files[0].bytes);
        cr_assert_eq(
            spc_bundle_open_memory(i == 0 ? "eight" : "whole", files, 2, &p.bundle[i], &err),
            SPC_OK, "%s", err.message);
    }
    return p;
}

static void pair_close(pair *p)
{
    for (int i = 0; i < 2; i++) {
        spc_bundle_close(p->bundle[i]);
        free(p->file[i]);
    }
    tiny_close(&p->origin);
}

enum { TOKENS = 7, VOCAB = 40 };

/* Logits of seven tokens. */
static void logits_of(const spc_backend_ops *ops, spc_backend *backend, const spc_plan *plan,
                      const spc_bundle *bundle, float *out)
{
    static const int32_t slot[TOKENS] = {0}, token[TOKENS] = {1, 5, 39, 17, 8, 8, 30};
    static const int32_t place[TOKENS] = {0, 1, 2, 3, 4, 5, 6};
    spc_limits limits = {.slots = 1, .context = 16, .rows = 8, .outputs = 8};
    spc_rows rows = {TOKENS, slot, token, place, place};
    spc_runner *runner;
    spc_error err;

    cr_assert_eq(ops->load(backend, plan, bundle, &limits, &runner, &err), SPC_OK, "%s",
                 err.message);
    cr_assert_eq(ops->forward(runner, &rows, &err), SPC_OK, "%s", err.message);
    for (int32_t i = 0; i < TOKENS; i++) {
        memcpy(out + i * VOCAB, ops->logits(runner, i), VOCAB * sizeof *out);
    }
    ops->unload(runner);
}

Test(host_f8, the_bits_of_the_numbers_they_stand_for)
{
    static const char *const units[] = {"portable", "avx2", "avx512"};
    spc_error err;

    for (int k = 0; k < 2 * KINDS; k++) {
        spc_dtype dtype = k % 2 ? SPC_DTYPE_F8_E5M2 : SPC_DTYPE_F8_E4M3;
        pair p = pair_of(dtype, (scale_kind)(k / 2), k % 3 == 0);

        for (int u = 0; u < 3; u++) {
            float eight[TOKENS * VOCAB], whole[TOKENS * VOCAB];
            spc_backend *backend;

            if (spc_backend_cpu.open(&backend, 2, units[u], &err) != SPC_OK) continue;
            logits_of(&spc_backend_cpu, backend, p.origin.plan, p.bundle[0], eight);
            logits_of(&spc_backend_cpu, backend, p.origin.plan, p.bundle[1], whole);
            spc_backend_cpu.close(backend);
            cr_assert(memcmp(eight, whole, sizeof eight) == 0, "%s, scales %d, %s: %g, not %g",
                      spc_dtype_name(dtype), k / 2, units[u], (double)eight[0], (double)whole[0]);
            cr_assert(eight[0] == eight[0] && eight[0] != eight[1], "they say something");
        }
        pair_close(&p);
    }
}

Test(host_f8, ranks_scale_their_own_parts)
{
    spc_error err;

    for (int k = 0; k < KINDS; k++) {
        pair p = pair_of(SPC_DTYPE_F8_E4M3, (scale_kind)k, false);
        float one[TOKENS * VOCAB], two[TOKENS * VOCAB];
        spc_backend *alone, *ranks;

        cr_assert_eq(spc_backend_cpu.open(&alone, 1, NULL, &err), SPC_OK, "%s", err.message);
        cr_assert_eq(spc_ranks_open(2, 2, NULL, &ranks, &err), SPC_OK, "%s", err.message);
        logits_of(&spc_backend_cpu, alone, p.origin.plan, p.bundle[0], one);
        logits_of(&spc_backend_ranks, ranks, p.origin.plan, p.bundle[0], two);
        for (int i = 0; i < TOKENS * VOCAB; i++) {
            cr_assert(fabsf(one[i] - two[i]) <= 1e-4f, "scales %d: %g and %g", k, (double)one[i],
                      (double)two[i]);
        }
        spc_backend_cpu.close(alone);
        spc_backend_ranks.close(ranks);
        pair_close(&p);
    }
}

/* One matrix with a scale of this type and shape (NULL: none); what is said of it. */
static void expect_refused(bool scaled, const char *type, int32_t rows, int32_t cols,
                           const float *values, const char *said)
{
    static const char name[] = "model.layers.0.self_attn.q_proj.weight";
    static const char zeros[160 * 160 * 4];
    tiny_model origin = tiny_open(config, 5, 1);
    writer w = writer_of(1 << 23);
    spc_blob files[2] = {{.name = "model.safetensors"}, {"config.json", config, sizeof config - 1}};
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
            put(&w, name, "F8_E4M3", (int32_t)t->shape[0], columns, zeros, 160 * 160);
        } else {
            put(&w, t->name, "F32", (int32_t)t->shape[0], columns, t->data, t->bytes);
        }
    }
    if (type) {
        put(&w, "model.layers.0.self_attn.q_proj.weight_scale", type, rows, cols,
            values ? (const void *)values : (const void *)zeros,
            (size_t)rows * (size_t)(cols ? cols : 1) * size);
    }
    files[0].data = file = finish(&w, &files[0].bytes);
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
