/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_backend_blocks.c - quantised models cut over ranks: between blocks, also where some
 * ranks have more of them than others, and inside those that two ranks share; and what cannot be
 * cut is refused. */
#include "host/engine.h"
#include "host/ranks/backend_ranks.h"

#include "distance.h"
#include "tiny.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define ODD    SPC_TEST_VECTORS "/gguf/odd-K.gguf"
#define LOW    SPC_TEST_VECTORS "/gguf/mixed-low.gguf"
#define CUT    SPC_TEST_VECTORS "/gguf/cut-K.gguf"
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

static void expect_as_one(const spc_model *model, int32_t world, float most)
{
    float *one = logits_of(model, 1), *all = logits_of(model, world);
    float off = relative_distance(all, one, (size_t)ROWS * (size_t)model->plan->ids);

    cr_expect_leq(off, most, "%d ranks: off by %g", (int)world, (double)off);
    free(one);
    free(all);
}

static void expect_two_as_one(const spc_model *model)
{
    expect_as_one(model, 2, 1e-4f);
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

/* ---- blocks that two ranks share --------------------------------------------------------------
 */

/* Heads are cut at multiples of 32 inputs, by which the CPU rounds them: to the same numbers. */
Test(host_backend_blocks, heads_that_end_inside_a_block_are_cut_there)
{
    spc_model model = model_of(CUT);

    cr_expect_eq(model.plan->attention_block, 256);
    expect_as_one(&model, 2, 1e-4f);
    expect_as_one(&model, 4, 1e-4f);
    spc_close_model(&model);
}

/* 24 entries of a head: two ranks round their parts of 32 inputs each by its own largest, which is
 * as good as one rank's rounding, but another. */
Test(host_backend_blocks, so_are_heads_that_end_inside_what_is_rounded_together)
{
    static const char *const names[] = {SPC_TEST_VECTORS "/gguf/llama-Q8_0.gguf",
                                        SPC_TEST_VECTORS "/gguf/llama-Q4_0.gguf"};

    for (int i = 0; i < 2; i++) {
        spc_model model = model_of(names[i]);

        cr_expect_eq(model.plan->attention_block, 32);
        expect_as_one(&model, 2, 0.02f);
        expect_as_one(&model, 4, 0.02f);
        spc_close_model(&model);
    }
}

/* Four ranks have a quarter of three blocks each, for which the blocks do not suffice. */
Test(host_backend_blocks, a_feed_forward_part_of_fewer_blocks_than_ranks_is_cut_inside_them)
{
    spc_model model = model_of(ODD);

    cr_expect_eq(model.plan->gate_block, 256);
    expect_as_one(&model, 4, 1e-4f);
    spc_close_model(&model);
}

/* Of 768 inputs in blocks of 256 four ranks have 192 each, and read the blocks that these touch. */
static void expect_quarters(const char *name, spc_op_kind made_by, const char *matrix)
{
    static const int32_t begin[] = {0, 0, 256, 512}, end[] = {256, 512, 768, 768};
    spc_model model = model_of(name);
    spc_error error;

    for (int32_t r = 0; r < 4; r++) {
        spc_plan *part;
        int32_t found = 0;

        cr_assert_eq(spc_plan_part(model.plan, r, 4, name, &part, &error), SPC_OK);
        for (int32_t i = 0; i < part->op_count; i++) {
            const spc_op *op = &part->op[i];
            const spc_weight *w = op->weight[0] >= 0 ? &part->weight[op->weight[0]] : NULL;

            if (op->kind == made_by) {
                const spc_buffer *out = &part->buffer[op->out];

                cr_expect_eq(out->dim, end[r] - begin[r]);
                cr_expect_eq(out->before, 192 * r - begin[r]);
                cr_expect_eq(out->behind, end[r] - 192 * (r + 1));
            } else if (op->kind == SPC_OP_LINEAR && strstr(w->name, matrix)) {
                cr_expect_eq(w->col, begin[r], "%s", w->name);
                cr_expect_eq(w->cols, end[r] - begin[r], "%s", w->name);
                found++;
            }
        }
        cr_expect_eq(found, model.config.layers);
        spc_plan_close(part);
    }
    spc_close_model(&model);
}

Test(host_backend_blocks, a_rank_has_the_blocks_that_its_inputs_touch_and_zeros_beside_them)
{
    expect_quarters(CUT, SPC_OP_ATTEND, "o_proj");
    expect_quarters(ODD, SPC_OP_GLU, "down_proj");
}

/* What an engine makes of a few ids; the hash of its tokens. */
static uint64_t tokens_of(int32_t tp, float temperature)
{
    static const int32_t ids[] = {1, 17, 5, 30, 8};
    spc_engine_options options;
    spc_session_options o;
    spc_engine *engine;
    spc_session *session;
    spc_stats stats;
    spc_error error;

    spc_engine_options_init(&options);
    options.verifier = CUT;
    options.drafter = NULL;
    options.context = 64;
    options.tp = tp;
    cr_assert_eq(spc_engine_open(&options, &engine, &error), SPC_OK, "%s", error.message);
    spc_session_options_init(&o);
    o.rule = "verifier-only";
    o.temperature = temperature;
    o.max_tokens = 40;
    o.ignore_stop = true;
    cr_assert_eq(spc_session_open(engine, &o, ids, 5, &session, &error), SPC_OK, "%s",
                 error.message);
    for (int32_t i = 0; i < 40; i++) {
        cr_assert_eq(spc_engine_step(engine, &session, 1, &error), SPC_OK, "%s", error.message);
    }
    spc_session_stats(session, &stats);
    cr_assert_eq(stats.tokens, 40);
    spc_session_close(session);
    spc_engine_close(engine);
    return stats.output_hash;
}

Test(host_backend_blocks, tokens_are_those_of_one_rank)
{
    for (int i = 0; i < 2; i++) {
        uint64_t one = tokens_of(1, (float)i);

        cr_expect_eq(tokens_of(2, (float)i), one);
        cr_expect_eq(tokens_of(4, (float)i), one);
    }
}

/* A plan that does not know of blocks is not read. */
Test(host_backend_blocks, a_plan_cut_before_blocks_were_read_is_found)
{
    spc_model model = model_of(CUT);
    const spc_tensor *t;
    spc_plan *part;
    spc_error error;
    int32_t found = 0;

    model.plan->attention_block = 1;
    cr_assert_eq(spc_plan_part(model.plan, 1, 2, "cut", &part, &error), SPC_OK);
    for (int32_t i = 0; i < part->weight_count; i++) {
        if (spc_plan_tensor(&part->weight[i], model.bundle, &t, &error) == SPC_OK) continue;
        found++;
        cr_expect_eq(error.status, SPC_EINTERNAL);
        cr_expect(strstr(error.message, "o_proj.weight: inputs 384 to 768 of 768") &&
                      strstr(error.message, "blocks of 256 (type Q"),
                  "%s", error.message);
    }
    cr_expect_eq(found, 2);
    spc_plan_close(part);
    spc_close_model(&model);
}

/* ---- what cannot be cut -----------------------------------------------------------------------
 */

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

/* Four ranks must divide the heads, and the columns where these are no whole blocks. */
Test(host_backend_blocks, a_refusal_says_what_must_divide_what)
{
    spc_model odd = model_of(ODD);

    expect_refused(&odd, 8, "4 attention heads, its 1 key-value heads", "; possible: 1, 2, 4");
    odd.plan->config.ffn = 770; /* of no whole blocks */
    expect_refused(&odd, 4, "width of 770 (or have a block of 256 each)", "; possible: 1, 2");
    spc_close_model(&odd);
}

/* 8-bit numbers are read sixteen at a time, of which heads of 24 are no multiple; what --weights
 * int8 makes of floats is known only then. */
Test(host_backend_blocks, matrices_quantised_at_load_have_their_own_blocks)
{
    spc_model model = model_of(FLOATS);
    spc_error error;

    cr_expect(spc_plan_divides(model.plan, 4));
    cr_assert_eq(spc_change_weights(&model, "int8", 1, NULL, NULL, &error), SPC_OK);
    cr_expect_eq(model.plan->attention_block, 16);
    cr_expect(spc_plan_divides(model.plan, 4));
    expect_refused(&model, 8, "width of 160 (or have a block of 16 each)", "; possible: 1, 2, 4");
    expect_two_as_one(&model);
    expect_as_one(&model, 4, 1e-4f);
    spc_close_model(&model);
}

/* Of 40 inputs each of two ranks has 20: to the end of the second sixteen, and from that one's
 * beginning to the end of what is no whole third. */
Test(host_backend_blocks, heads_need_not_fill_their_last_block)
{
    tiny_model tiny = tiny_open("{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 60,"
                                " \"hidden_size\": 32, \"num_hidden_layers\": 2,"
                                " \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
                                " \"head_dim\": 20, \"intermediate_size\": 64,"
                                " \"max_position_embeddings\": 64}",
                                3, 1);
    spc_model model = {.bundle = tiny.bundle, .plan = tiny.plan, .config = tiny.config};
    spc_error error;

    cr_assert_eq(spc_change_weights(&model, "int8", 1, NULL, NULL, &error), SPC_OK, "%s",
                 error.message);
    expect_two_as_one(&model);
    tiny_close(&tiny);
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
