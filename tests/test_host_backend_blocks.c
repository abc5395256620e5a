/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_backend_blocks.c - quantised models cut over ranks: between blocks, also where some
 * ranks have more of them than others; and what no cut between blocks allows is refused. */
#include "host/backend_ranks.h"
#include "host/engine.h"

#include "distance.h"
#include "tiny.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define ODD    SPC_TEST_VECTORS "/gguf/odd-K.gguf"
#define LOW    SPC_TEST_VECTORS "/gguf/mixed-low.gguf"
#define FLOATS SPC_TEST_VECTORS "/llama"

enum { ROWS = 20 };

static spc_model model_of(const char *name)
{
    spc_model model = {.plan = NULL};
    spc_error error;

    cr_assert_eq(spc_open_model(name, &model, &error), SPC_OK, "%s", error.message);
    return model;
}

/* Logits of ROWS tokens; malloc'd. */
static float *logits_of(const spc_model *model, int32_t world)
{
    const spc_backend_ops *ops = &spc_backend_ranks;
    spc_limits limits = {.slots = 1, .context = ROWS, .rows = ROWS, .outputs = ROWS};
    int32_t slot[ROWS] = {0}, token[ROWS], place[ROWS];
    spc_rows rows = {ROWS, slot, token, place, place};
    size_t ids = (size_t)model->plan->ids;
    float *all = malloc(ROWS * ids * sizeof *all);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_not_null(all);
    for (int32_t i = 0; i < ROWS; i++) {
        token[i] = i * 7 % model->plan->ids;
        place[i] = i;
    }
    cr_assert_eq(spc_ranks_open(world, 1, NULL, &backend, &error), SPC_OK);
    cr_assert_eq(ops->load(backend, model->plan, model->bundle, &limits, &runner, &error), SPC_OK,
                 "%d ranks: %s", (int)world, error.message);
    cr_assert_eq(ops->forward(runner, &rows, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < ROWS; i++) {
        memcpy(all + (size_t)i * ids, ops->logits(runner, i), ids * sizeof *all);
    }
    ops->unload(runner);
    ops->close(backend);
    return all;
}

static void expect_two_as_one(const spc_model *model)
{
    float *one = logits_of(model, 1), *two = logits_of(model, 2);
    float off = relative_distance(two, one, (size_t)ROWS * (size_t)model->plan->ids);

    cr_expect_leq(off, 1e-4f, "off by %g", (double)off);
    free(one);
    free(two);
}

Test(host_backend_blocks, a_feed_forward_part_of_an_odd_number_of_blocks_is_shared_out)
{
    spc_model model = model_of(ODD);

    expect_two_as_one(&model);
    spc_close_model(&model);
}

Test(host_backend_blocks, types_of_few_bits_are_cut_too)
{
    spc_model model = model_of(LOW);

    expect_two_as_one(&model);
    spc_close_model(&model);
}

Test(host_backend_blocks, each_rank_has_whole_blocks_of_it)
{
    static const int32_t first[] = {0, 256, 768};
    spc_model model = model_of(ODD);
    spc_error error;

    for (int32_t r = 0; r < 2; r++) {
        spc_plan *part;
        int32_t found = 0;

        cr_assert_eq(spc_plan_part(model.plan, r, 2, "odd", &part, &error), SPC_OK);
        for (int32_t i = 0; i < part->weight_count; i++) {
            const spc_weight *w = &part->weight[i];
            bool gate = strstr(w->name, "gate_proj") || strstr(w->name, "up_proj");
            bool down = strstr(w->name, "down_proj");

            if (!gate && !down) continue;
            found++;
            cr_expect_eq(gate ? w->row : w->col, first[r], "%s", w->name);
            cr_expect_eq(gate ? w->rows : w->cols, first[r + 1] - first[r], "%s", w->name);
            cr_expect_eq(gate ? w->cols : w->rows, 64, "%s", w->name);
        }
        cr_expect_eq(found, 3);
        cr_expect_eq(part->config.ffn, first[r + 1] - first[r]);
        spc_plan_close(part);
    }
    spc_close_model(&model);
}

static void expect_refused(const spc_model *model, int32_t world, const char *why, const char *list)
{
    spc_plan *part;
    spc_error error;

    cr_expect_not(spc_plan_divides(model->plan, world));
    cr_expect_eq(spc_plan_part(model->plan, 0, world, "m", &part, &error), SPC_EUSAGE);
    cr_expect_null(part);
    cr_expect(strstr(error.message, why), "%s", error.message);
    cr_expect_str_eq(strstr(error.message, "; possible: "), list, "%s", error.message);
}

/* Four ranks divide the heads, but not three blocks. */
Test(host_backend_blocks, the_numbers_of_ranks_that_are_possible_are_those_that_leave_blocks_whole)
{
    spc_model odd = model_of(ODD), halves = model_of(SPC_TEST_VECTORS "/gguf/llama-Q8_0.gguf");

    expect_refused(&odd, 4, "width of 768 (blocks of 256)", "; possible: 1, 2");
    /* of its five blocks two ranks could take two and three, but a head has 24 entries */
    expect_refused(&halves, 2, "4 attention heads (blocks of 32)", "; possible: 1");
    spc_close_model(&odd);
    spc_close_model(&halves);
}

/* 8-bit numbers are read sixteen at a time; what --weights int8 makes of floats is known only
 * then. */
Test(host_backend_blocks, matrices_quantised_at_load_have_their_own_blocks)
{
    spc_model model = model_of(FLOATS);
    spc_error error;

    cr_expect(spc_plan_divides(model.plan, 4));
    cr_assert_eq(spc_change_weights(&model, "int8", 1, NULL, NULL, &error), SPC_OK);
    expect_refused(&model, 4, "width of 160 (blocks of 16)", "; possible: 1, 2");
    expect_two_as_one(&model);
    spc_close_model(&model);
}

/* Three blocks of sixteen, of which a scale for each output is the same on both ranks. */
Test(host_backend_blocks, an_odd_number_of_their_blocks_is_shared_out_too)
{
    tiny_model tiny = tiny_open("{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 60,"
                                " \"hidden_size\": 32, \"num_hidden_layers\": 2,"
                                " \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
                                " \"intermediate_size\": 48, \"max_position_embeddings\": 64}",
                                3, 1);
    spc_model model = {.bundle = tiny.bundle, .plan = tiny.plan, .config = tiny.config};
    spc_error error;

    cr_assert_eq(spc_change_weights(&model, "int8", 1, NULL, NULL, &error), SPC_OK, "%s",
                 error.message);
    cr_expect_eq(model.plan->gate_block, 16);
    expect_two_as_one(&model);
    tiny_close(&tiny);
}
