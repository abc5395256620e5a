/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_experts.c - feed-forward parts of several experts on the CPU: bits that depend on
 * nothing but the row, where there is enough for every thread; scores that are equal, and scores
 * that are no numbers.  (Recorded logits of whole models: test_host_backend.c.) */
#include "host/backend.h"

#include "tiny.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 40, VOCAB = 12, CONTEXT = 64 };

/* Wide enough that threads share the gathering of inputs, the products and the sums. */
static const char wide[] =
    "{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"vocab_size\": 12, \"hidden_size\": 256,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"head_dim\": 32,"
    " \"intermediate_size\": 64, \"max_position_embeddings\": 64, \"num_experts\": 7,"
    " \"num_experts_per_tok\": 3, \"moe_intermediate_size\": 80}";

static const char small[] =
    "{\"architectures\": [\"MixtralForCausalLM\"], \"vocab_size\": 12, \"hidden_size\": 8,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"head_dim\": 2,"
    " \"intermediate_size\": 4, \"max_position_embeddings\": 64, \"num_local_experts\": 3,"
    " \"num_experts_per_tok\": 2}";

static float *tensor(const tiny_model *m, const char *name)
{
    const spc_tensor *t = spc_bundle_find(m->bundle, name);

    cr_assert_not_null(t, "%s", name);
    return (float *)(uintptr_t)t->data; /* read where it is mapped */
}

/* Logits of ROWS tokens of one text, fed `chunk` at a time; malloc'd [ROWS, VOCAB]. */
static float *run(const tiny_model *m, int32_t threads, int32_t chunk)
{
    spc_limits limits = {.slots = 1, .context = CONTEXT, .rows = ROWS, .outputs = ROWS};
    int32_t slot[ROWS] = {0}, token[ROWS], position[ROWS], output[ROWS];
    float *all = malloc(ROWS * VOCAB * sizeof *all);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_not_null(all);
    cr_assert_eq(spc_backend_cpu.open(&backend, threads, NULL, &error), SPC_OK);
    runner = tiny_load(m, backend, &limits);
    for (int32_t i = 0; i < ROWS; i++) {
        token[i] = i * 7 % VOCAB;
        position[i] = output[i] = i;
    }
    for (int32_t i = 0; i < ROWS; i += chunk) {
        spc_rows rows = {chunk < ROWS - i ? chunk : ROWS - i, slot, token + i, position + i,
                         output + i};

        cr_assert_eq(spc_backend_cpu.forward(runner, &rows, &error), SPC_OK);
    }
    memcpy(all, spc_backend_cpu.logits(runner, 0), ROWS * VOCAB * sizeof *all);
    spc_backend_cpu.unload(runner);
    spc_backend_cpu.close(backend);
    return all;
}

Test(host_experts, a_row_has_the_same_bits_whoever_computes_it)
{
    tiny_model m = tiny_open(wide, 11, 1);
    float *whole = run(&m, 1, ROWS);

    for (int32_t threads = 1; threads <= 5; threads++) {
        static const int32_t chunks[] = {ROWS, 17, 1};

        for (int32_t k = 0; k < 3; k++) {
            float *again = run(&m, threads, chunks[k]);

            cr_expect_eq(memcmp(whole, again, ROWS * VOCAB * sizeof *whole), 0,
                         "%d threads, %d rows at once", (int)threads, (int)chunks[k]);
            free(again);
        }
    }
    for (int32_t i = 0; i < ROWS * VOCAB; i++) cr_assert(isfinite(whole[i]));
    free(whole);
    tiny_close(&m);
}

/* ---- scores -----------------------------------------------------------------------------------
 */

#define ROUTER "model.layers.0.block_sparse_moe.gate.weight"

/* Logits of the small model, whose router is `score` everywhere, and of whose expert `broken` some
 * weights are no numbers; malloc'd. */
static float *run_small(float score, int32_t broken)
{
    tiny_model m = tiny_open(small, 3, 1);
    float *all;

    for (int32_t i = 0; i < 3 * 8; i++) tensor(&m, ROUTER)[i] = score;
    if (broken >= 0) {
        char name[80];

        (void)snprintf(name, sizeof name, "model.layers.0.block_sparse_moe.experts.%d.w2.weight",
                       (int)broken);
        tensor(&m, name)[5] = NAN;
    }
    all = run(&m, 1, ROWS);
    tiny_close(&m);
    return all;
}

Test(host_experts, of_equal_scores_the_first_are_taken)
{
    float *whole = run_small(0, -1);

    for (int32_t i = 0; i < ROWS * VOCAB; i++) cr_assert(isfinite(whole[i]));
    for (int32_t broken = 0; broken < 3; broken++) {
        float *found = run_small(0, broken);

        if (broken == 2) {
            cr_expect_eq(memcmp(found, whole, ROWS * VOCAB * sizeof *whole), 0);
        } else {
            cr_expect(isnan(found[0]), "expert %d is taken", (int)broken);
        }
        free(found);
    }
    free(whole);
}

/* A session then ends with an error that says so; nothing is read that is not there. */
Test(host_experts, scores_that_are_no_numbers_make_rows_that_are_none)
{
    static const float scores[] = {NAN, INFINITY, -INFINITY};

    for (int32_t k = 0; k < 3; k++) {
        float *found = run_small(scores[k], -1);

        for (int32_t i = 0; i < ROWS * VOCAB; i++) {
            cr_assert(isnan(found[i]), "%g: logit %d", (double)scores[k], (int)i);
        }
        free(found);
    }
    for (int32_t expert = 0; expert < 3; expert++) { /* of one alone, be it the last */
        tiny_model m = tiny_open(small, 3, 1);
        float *found;

        tensor(&m, ROUTER)[8 * expert] = NAN;
        found = run(&m, 1, ROWS);
        for (int32_t i = 0; i < ROWS * VOCAB; i++) cr_assert(isnan(found[i]), "%d", (int)expert);
        free(found);
        tiny_close(&m);
    }
}
