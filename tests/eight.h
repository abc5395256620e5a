/* SPDX-License-Identifier: Apache-2.0 */
/* eight.h - checkpoints written in memory: of 8-bit weights with the scales of every convention
 * beside them, and of the float32 numbers they stand for. */
#ifndef SPC_TESTS_EIGHT_H
#define SPC_TESTS_EIGHT_H

#include "tiny.h"

#include "weights/quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than one block of 128 in every direction.  Two ranks have 120 entries of heads each: they
 * share one of the sixteens that are read at once. */
static const char eight_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":40,\"hidden_size\":160,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":10,\"num_key_value_heads\":2,\"head_dim\":24,"
    "\"intermediate_size\":288,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,"
    "\"rope_theta\":10000.0,\"tie_word_embeddings\":false,\"bos_token_id\":1,\"eos_token_id\":2}";

typedef enum { ONE, EACH_ROW, ROW_COLUMN, BLOCKS, UNSCALED, EIGHT_KINDS } scale_kind;

typedef struct {
    char *header, *data; /* of a safetensors file */
    size_t header_used, header_room, data_used, data_room;
} eight_file;

static inline void eight_put(eight_file *w, const char *name, const char *type, int32_t rows,
                             int32_t cols, const void *data, size_t bytes)
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

static inline eight_file eight_writer(size_t room)
{
    eight_file w = {malloc(1 << 16), malloc(room), 0, 1 << 16, 0, room};

    cr_assert(w.header && w.data);
    return w;
}

/* The file; the caller's to free. */
static inline char *eight_finish(eight_file *w, size_t *bytes)
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

static inline float value_of(spc_dtype dtype, int code)
{
    uint8_t byte = (uint8_t)code;
    float value;

    spc_dequantise(dtype, &byte, 1, &value);
    return value;
}

/* The code whose value is nearest; values: of all codes. */
static inline uint8_t code_of(const float values[256], float x)
{
    int best = 0;

    for (int code = 1; code < 256; code++) {
        if (fabsf(values[code] - x) < fabsf(values[best] - x)) best = code;
    }
    return (uint8_t)best;
}

/* Scale of entry (row, col), a number of bfloat16, and where it stands. */
static inline int32_t scale_at(scale_kind kind, int32_t row, int32_t col, int32_t cols)
{
    switch (kind) {
    case EACH_ROW:
    case ROW_COLUMN: return row;
    case BLOCKS: return row / 128 * ((cols + 127) / 128) + col / 128;
    default: return 0;
    }
}

static inline float scale_value(scale_kind kind, int32_t at)
{
    return kind == UNSCALED ? 1.0f : (float)(32 + (at * 37 + 11) % 64) / 2048.0f;
}

static inline void put_scale(eight_file *w, const char *name, scale_kind kind, int32_t rows,
                             int32_t cols, bool narrow)
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
    eight_put(w, full, narrow ? "BF16" : "F32", down, across,
              narrow ? (const void *)halves : (const void *)values,
              (size_t)count * (narrow ? 2 : 4));
}

/* A matrix as codes into `eight`, and what they stand for into `whole`. */
static inline void put_matrix(eight_file *eight, eight_file *whole, const spc_tensor *t,
                              spc_dtype dtype, scale_kind kind, bool narrow)
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
    eight_put(eight, t->name, spc_dtype_name(dtype), rows, cols, code, count);
    put_scale(eight, t->name, kind, rows, cols, narrow);
    eight_put(whole, t->name, "F32", rows, cols, value, count * sizeof *value);
    free(code);
    free(value);
}

typedef struct {
    char *file[2];
    spc_bundle *bundle[2]; /* 8 bits, 32 bits */
    tiny_model origin;
} eight_pair;

static inline eight_pair eight_of(spc_dtype dtype, scale_kind kind, bool narrow)
{
    eight_pair p = {.origin = tiny_open(eight_config, 5, 1)};
    eight_file eight = eight_writer(1 << 21), whole = eight_writer(1 << 23);
    spc_error err;

    for (int32_t i = 0; i < spc_bundle_count(p.origin.bundle); i++) {
        const spc_tensor *t = spc_bundle_tensor(p.origin.bundle, i);

        if (t->rank == 2) {
            put_matrix(&eight, &whole, t, dtype, kind, narrow);
        } else {
            eight_put(&eight, t->name, "F32", (int32_t)t->shape[0], 0, t->data, t->bytes);
            eight_put(&whole, t->name, "F32", (int32_t)t->shape[0], 0, t->data, t->bytes);
        }
    }
    for (int i = 0; i < 2; i++) {
        spc_blob files[2] = {{.name = "model.safetensors"},
                             {"config.json", eight_config, sizeof eight_config - 1}};

        files[0].data = p.file[i] = eight_finish(i == 0 ? &eight : &whole, &files[0].bytes);
        cr_assert_eq(
            spc_bundle_open_memory(i == 0 ? "eight" : "whole", files, 2, &p.bundle[i], &err),
            SPC_OK, "%s", err.message);
    }
    spc_plan_read_blocks(p.origin.plan, p.bundle[0]);
    return p;
}

static inline void eight_close(eight_pair *p)
{
    for (int i = 0; i < 2; i++) {
        spc_bundle_close(p->bundle[i]);
        free(p->file[i]);
    }
    tiny_close(&p->origin);
}

enum { EIGHT_TOKENS = 7, EIGHT_VOCAB = 40 };

/* Logits of seven tokens. */
static inline void eight_logits(const spc_backend_ops *ops, spc_backend *backend,
                                const spc_plan *plan, const spc_bundle *bundle, float *out)
{
    static const int32_t slot[EIGHT_TOKENS] = {0}, token[EIGHT_TOKENS] = {1, 5, 39, 17, 8, 8, 30};
    static const int32_t place[EIGHT_TOKENS] = {0, 1, 2, 3, 4, 5, 6};
    spc_limits limits = {.slots = 1, .context = 16, .rows = 8, .outputs = 8};
    spc_rows rows = {EIGHT_TOKENS, slot, token, place, place};
    spc_runner *runner;
    spc_error err;

    cr_assert_eq(ops->load(backend, plan, bundle, &limits, &runner, &err), SPC_OK, "%s",
                 err.message);
    cr_assert_eq(ops->forward(runner, &rows, &err), SPC_OK, "%s", err.message);
    for (int32_t i = 0; i < EIGHT_TOKENS; i++) {
        memcpy(out + i * EIGHT_VOCAB, ops->logits(runner, i), EIGHT_VOCAB * sizeof *out);
    }
    ops->unload(runner);
}

#endif
