/* SPDX-License-Identifier: Apache-2.0 */
/* golden.h - a tiny checkpoint of tests/vectors with its recorded results, loaded by any backend.
 */
#ifndef SPC_TESTS_GOLDEN_H
#define SPC_TESTS_GOLDEN_H

#include "host/backend.h"

#include "files.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const char *const golden_models[] = {"llama",
                                            "llama31-rope",
                                            "mistral-window",
                                            "qwen2",
                                            "qwen3",
                                            "gemma2",
                                            "gemma3",
                                            "rope-linear",
                                            "rope-dynamic",
                                            "rope-yarn",
                                            "rope-yarn-given",
                                            "t5-relu",
                                            "t5-gated",
                                            "gemma3-images",
                                            "mistral3-images",
                                            "smollm3",
                                            "phi3",
                                            "phi3-short",
                                            "phi3-long",
                                            "ministral3",
                                            "ministral3-images",
                                            "granite",
                                            "mixtral",
                                            "qwen3-moe",
                                            "qwen3-moe-shares"};

enum {
    GOLDEN_MODELS = sizeof golden_models / sizeof *golden_models,
    GOLDEN_GPU_MODELS = GOLDEN_MODELS - 3, /* the last have experts, for which it has no kernels */
    GOLDEN_CONTEXT = 64,
    GOLDEN_SLOTS = 3,
    GOLDEN_ROWS = 40
};

typedef struct {
    const spc_backend_ops *ops;
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
} golden;

static inline void golden_read(golden *g, const char *name)
{
    char path[1024];
    spc_blob file;
    spc_error error;
    size_t bytes;
    json_t *json;

    (void)snprintf(path, sizeof path, "%s/%s/golden.json", SPC_TEST_VECTORS, name);
    json = read_json(path);
    g->source = read_ids(json_object_get(json, "encoder_ids"), &g->source_count);
    g->ids =
        read_ids(json_object_get(json, g->source_count > 0 ? "decoder_ids" : "ids"), &g->count);
    g->prompt = read_ids(json_object_get(json, "prompt"), &g->prompt_count);
    if (g->source_count > 0) g->prompt_count = 1; /* of the ids: what the decoder begins with */
    if (g->source_count > 0) g->prompt[0] = g->ids[0];
    g->greedy = read_ids(json_object_get(json, "greedy"), &g->greedy_count);
    json_decref(json);
    (void)snprintf(path, sizeof path, "%s/%s/logits.safetensors", SPC_TEST_VECTORS, name);
    g->logits_file = read_file(path, &bytes);
    file = (spc_blob){"model.safetensors", g->logits_file, bytes};
    cr_assert_eq(spc_bundle_open_memory("logits", &file, 1, &g->reference, &error), SPC_OK, "%s",
                 error.message);

    const spc_tensor *t = spc_bundle_find(g->reference, "logits");

    cr_assert(t && t->rank == 2 && t->dtype == SPC_DTYPE_F32 && t->shape[0] == g->count);
    g->logits = t->data;
}

static const spc_limits golden_limits = {
    .slots = GOLDEN_SLOTS, .context = GOLDEN_CONTEXT, .rows = GOLDEN_ROWS, .outputs = GOLDEN_ROWS};

/* threads, which: as for spc_backend_ops.open.  false: this machine has no such device. */
static inline bool golden_open_on(golden *g, const spc_backend_ops *ops, int32_t threads,
                                  const char *which, const char *name)
{
    char path[1024];
    spc_config config;
    spc_error error;

    memset(g, 0, sizeof *g);
    g->ops = ops;
    if (ops->open(&g->backend, threads, which, &error) != SPC_OK) return false;
    (void)snprintf(path, sizeof path, "%s/%s", SPC_TEST_VECTORS, name);
    cr_assert_eq(spc_bundle_open(path, &g->bundle, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_config_read(g->bundle, &config, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_plan_build(&config, name, &g->plan, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(ops->load(g->backend, g->plan, g->bundle, &golden_limits, &g->runner, &error),
                 SPC_OK, "%s", error.message);
    g->vocab = config.vocab;
    golden_read(g, name);
    return true;
}

static inline golden golden_open(const spc_backend_ops *ops, const char *name)
{
    golden g;

    cr_assert(golden_open_on(&g, ops, 0, NULL, name));
    return g;
}

static inline void golden_close(golden *g)
{
    g->ops->unload(g->runner);
    spc_plan_close(g->plan);
    spc_bundle_close(g->reference);
    spc_bundle_close(g->bundle);
    g->ops->close(g->backend);
    free(g->logits_file);
    free(g->ids);
    free(g->prompt);
    free(g->source);
    free(g->greedy);
}

/* Let the encoder, where there is one, read the recorded source for a slot. */
static inline void golden_encode(const golden *g, int32_t slot)
{
    spc_error error;

    if (g->source_count == 0) return;
    cr_assert_eq(g->ops->encode(g->runner, slot, g->source, g->source_count, &error), SPC_OK, "%s",
                 error.message);
}

/* Feed ids [count] to a slot at its length, behind its source; logits of row i go to output
 * `output + i`. */
static inline void golden_feed(const golden *g, int32_t slot, const int32_t *ids, int32_t count,
                               int32_t output)
{
    int32_t slots[GOLDEN_ROWS], position[GOLDEN_ROWS], outputs[GOLDEN_ROWS];
    int32_t length = g->ops->length(g->runner, slot);
    spc_rows rows = {count, slots, ids, position, outputs};
    spc_error error;

    cr_assert_leq(count, GOLDEN_ROWS);
    if (length == 0) golden_encode(g, slot);
    for (int32_t i = 0; i < count; i++) {
        slots[i] = slot;
        position[i] = length + i;
        outputs[i] = output + i;
    }
    cr_assert_eq(g->ops->forward(g->runner, &rows, &error), SPC_OK, "%s", error.message);
}

/* All rows of the recorded ids through a slot in chunks, copied; malloc'd [count, vocab]. */
static inline float *golden_run(const golden *g, int32_t slot, int32_t chunk)
{
    size_t row = (size_t)g->vocab * sizeof(float);
    char *all = malloc((size_t)g->count * row);

    cr_assert_not_null(all);
    g->ops->rewind(g->runner, slot, 0);
    for (int32_t at = 0; at < g->count; at += chunk) {
        golden_feed(g, slot, g->ids + at, g->count - at < chunk ? g->count - at : chunk, at);
    }
    for (int32_t i = 0; i < g->count; i++) {
        memcpy(all + (size_t)i * row, g->ops->logits(g->runner, i), row);
    }
    return (float *)(void *)all;
}

/* A slot that has the first pages of slot 0 and others behind them, in another order, goes on with
 * the bits of one that ran them, whatever it held before, and slot 0 too.  False: the model has an
 * encoder, or so many pages are more than was recorded. */
static inline bool golden_shares(const golden *g, int32_t pages)
{
    enum { PAGES = GOLDEN_CONTEXT / SPC_PAGE_TOKENS, LAST = GOLDEN_SLOTS * PAGES - 1 };
    int32_t table[PAGES], length = pages * SPC_PAGE_TOKENS;
    bool same = true;
    float *whole;

    if (g->source_count > 0 || length >= g->count) return false;
    whole = golden_run(g, 0, g->count);
    golden_feed(g, 1, g->ids + 1, 3, 0);
    for (int32_t i = 0; i < PAGES; i++) table[i] = i < pages ? i : LAST - i;
    cr_assert_eq(g->ops->map(g->runner, 1, table, PAGES, length, NULL), SPC_OK);
    for (int32_t slot = 1; slot >= 0; slot--) {
        if (slot == 0) g->ops->rewind(g->runner, 0, length);
        cr_assert_eq(g->ops->length(g->runner, slot), length);
        golden_feed(g, slot, g->ids + length, g->count - length, length);
        for (int32_t i = length; i < g->count; i++) {
            same = same && memcmp(g->ops->logits(g->runner, i), whole + (int64_t)i * g->vocab,
                                  (size_t)g->vocab * sizeof *whole) == 0;
        }
    }
    free(whole);
    cr_expect(same, "%d pages", (int)pages);
    return true;
}

/* Load the small llama with one piece of its header replaced by another of the same length.
 */
static inline spc_status golden_load_edited(const spc_backend_ops *ops, const char *piece,
                                            const char *edited, spc_error *error)
{
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "model.safetensors"};
    spc_blob files[3];
    char *data[3];
    golden f = {.ops = ops};
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
    cr_assert_eq(ops->open(&f.backend, 0, NULL, error), SPC_OK);
    status = ops->load(f.backend, f.plan, f.bundle, &golden_limits, &f.runner, error);
    cr_assert(status == SPC_OK || f.runner == NULL);
    golden_close(&f);
    for (int i = 0; i < 3; i++) free(data[i]);
    return status;
}

static inline int32_t golden_best(const float *logits, int32_t vocab)
{
    int32_t top = 0;

    for (int32_t v = 1; v < vocab; v++) top = logits[v] > logits[top] ? v : top;
    return top;
}

#endif
