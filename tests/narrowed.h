/* SPDX-License-Identifier: Apache-2.0 */
/* narrowed.h - rows of logits of a checkpoint by any backend, of all its tokens or cut to some
 * (host/narrow.h). */
#ifndef SPC_TESTS_NARROWED_H
#define SPC_TESTS_NARROWED_H

#include "host/narrow.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NARROWED_ROWS = 5 };

typedef struct {
    float *logits; /* [NARROWED_ROWS, ids]; to be freed */
    int32_t ids;
    int32_t stop;   /* the token that ends a sequence; -1: several, or none */
    uint64_t bytes; /* of weights that a row reads */
} narrowed;

/* drafter_vocab: NULL: all tokens */
static inline narrowed narrowed_rows(const spc_backend_ops *ops, const char *name,
                                     const char *drafter_vocab)
{
    const spc_limits limits = {.slots = 1, .context = 32, .rows = 8, .outputs = NARROWED_ROWS + 1};
    static const int32_t source[] = {5, 9, 3, 7};
    int32_t slot[NARROWED_ROWS], token[NARROWED_ROWS], position[NARROWED_ROWS];
    int32_t output[NARROWED_ROWS];
    const spc_rows rows = {NARROWED_ROWS, slot, token, position, output};
    spc_model model = {0};
    spc_backend *backend;
    spc_error error;
    narrowed out;

    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_open_model(name, &model, &error), SPC_OK, "%s", error.message);
    out.ids = model.plan->ids;
    cr_assert_eq(spc_narrow_head(&model, drafter_vocab, out.ids, NULL, NULL, &error), SPC_OK, "%s",
                 error.message);
    cr_assert_eq(ops->load(backend, model.plan, model.bundle, &limits, &model.runner, &error),
                 SPC_OK, "%s", error.message);
    if (model.plan->encoder_ops > 0) {
        cr_assert_eq(ops->encode(model.runner, 0, source, 4, &error), SPC_OK, "%s", error.message);
    }
    for (int32_t i = 0; i < NARROWED_ROWS; i++) {
        slot[i] = 0;
        token[i] = (7 * i + 3) % out.ids;
        position[i] = i;
        output[i] =
            i == 2 ? -1 : NARROWED_ROWS - i; /* one is not wanted, and the order is another */
    }
    cr_assert_eq(ops->forward(model.runner, &rows, &error), SPC_OK, "%s", error.message);
    out.logits = calloc((size_t)NARROWED_ROWS * (size_t)out.ids, sizeof *out.logits);
    for (int32_t i = 0; i < NARROWED_ROWS; i++) {
        if (output[i] < 0) continue;
        memcpy(out.logits + (size_t)i * (size_t)out.ids, ops->logits(model.runner, output[i]),
               (size_t)out.ids * sizeof *out.logits);
    }
    out.stop = model.config.stop_count == 1 ? model.config.stop[0] : -1;
    out.bytes = spc_plan_weight_bytes(model.plan, model.bundle);
    ops->unload(model.runner);
    spc_close_model(&model);
    ops->close(backend);
    return out;
}

/* A file with these ids, which lie wherever blanks may; its path, good until the next call. */
static inline const char *narrowed_file(const char *text)
{
    static char path[64];
    FILE *file;
    int made;

    (void)snprintf(path, sizeof path, "/tmp/spc-tokens-XXXXXX");
    made = mkstemp(path);
    cr_assert_geq(made, 0);
    file = fdopen(made, "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
    return path;
}

#endif
