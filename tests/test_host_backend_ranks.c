/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_backend_ranks.c - models cut over ranks give what one rank gives: every architecture's
 * recorded logits and greedy tokens, parts that cover each weight once, and refusals. */
#include "host/ranks/backend_ranks.h"

#include "cut_evenly.h"
#include "distance.h"
#include "golden.h"
#include "tiny.h"

#include <math.h>

enum { WIDE_VOCAB = 10000, WIDE_CONTEXT = 16 };

static int32_t world_wanted;

static spc_status open_world(spc_backend **out, int32_t threads, const char *which, spc_error *err)
{
    return spc_ranks_open(world_wanted, threads, which, out, err);
}

static spc_backend_ops ops_of(int32_t world)
{
    spc_backend_ops ops = spc_backend_ranks;

    world_wanted = world;
    ops.open = open_world;
    return ops;
}

static int32_t top_of(const float *row, int32_t count)
{
    int32_t top = 0;

    for (int32_t i = 1; i < count; i++) top = row[i] > row[top] ? i : top;
    return top;
}

/* The recorded continuation, token by token in another slot. */
static void expect_greedy(const golden *g, const char *name, int32_t world)
{
    golden_feed(g, 1, g->prompt, g->prompt_count, 0);

    int32_t token = top_of(g->ops->logits(g->runner, g->prompt_count - 1), g->vocab);

    for (int32_t i = 0; i < g->greedy_count; i++) {
        cr_assert_eq(token, g->greedy[i], "%s, %d ranks: token %d", name, (int)world, (int)i);
        golden_feed(g, 1, &token, 1, 0);
        token = top_of(g->ops->logits(g->runner, 0), g->vocab);
    }
}

Test(host_backend_ranks, logits_and_tokens_are_those_of_one_rank)
{
    static const int32_t worlds[] = {1, 2, 4};
    int32_t ran[3] = {0};

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden one = golden_open(&spc_backend_cpu, golden_models[m]);
        float *expected = golden_run(&one, 0, one.count);

        for (int32_t k = 0; k < 3; k++) {
            spc_backend_ops ops = ops_of(worlds[k]);

            if (!is_cut_evenly(&one.plan->config, worlds[k])) continue;
            ran[k]++;

            golden g = golden_open(&ops, golden_models[m]);
            float *all = golden_run(&g, 0, 7), *again = golden_run(&g, 2, g.count);
            int64_t count = (int64_t)g.count * g.vocab;

            cr_expect_leq(distance(all, g.logits, (size_t)count), 1e-4f,
                          "%s, %d ranks, recorded: off by %g", golden_models[m], (int)worlds[k],
                          (double)distance(all, g.logits, (size_t)count));
            cr_expect_leq(distance(all, expected, (size_t)count), 1e-4f, "%s, %d ranks: off by %g",
                          golden_models[m], (int)worlds[k],
                          (double)distance(all, expected, (size_t)count));
            cr_expect_arr_eq(all, again, (size_t)count * sizeof *all,
                             "%s, %d ranks: other rows beside it, other bits", golden_models[m],
                             (int)worlds[k]);
            expect_greedy(&g, golden_models[m], worlds[k]);
            free(again);
            free(all);
            golden_close(&g);
        }
        free(expected);
        golden_close(&one);
    }
    cr_assert_eq(ran[0], GOLDEN_MODELS);
    cr_assert_gt(ran[1], 0);
    cr_log_info("2 ranks: %d models, 4 ranks: %d", (int)ran[1], (int)ran[2]);
}

/* ---- parts ------------------------------------------------------------------------------------
 */

static const char wide_llama[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 10000, \"hidden_size\": 32,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"intermediate_size\": 64, \"max_position_embeddings\": 16, \"attention_bias\": true,"
    " \"mlp_bias\": true}";

/* Logits of a text with ids from every part of the vocabulary; malloc'd [count, ids]. */
static float *run_wide(tiny_model *m, const spc_backend_ops *ops, spc_backend *backend)
{
    static const int32_t token[] = {0, 4095, 4096, 8191, 8192, 8999, 17};
    enum { COUNT = sizeof token / sizeof *token };
    int32_t slot[COUNT] = {0}, position[COUNT], output[COUNT];
    spc_rows rows = {COUNT, slot, token, position, output};
    spc_limits limits = {.slots = 1, .context = WIDE_CONTEXT, .rows = COUNT, .outputs = COUNT};
    size_t ids = (size_t)m->plan->ids;
    float *all = malloc(COUNT * ids * sizeof *all);
    spc_runner *runner;
    spc_error error;

    for (int32_t i = 0; i < COUNT; i++) position[i] = output[i] = i;
    cr_assert_not_null(all);
    runner = tiny_load_on(ops, m, backend, &limits);
    cr_assert_eq(ops->forward(runner, &rows, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < COUNT; i++) {
        memcpy(all + (size_t)i * ids, ops->logits(runner, i), ids * sizeof *all);
    }
    ops->unload(runner);
    ops->close(backend);
    return all;
}

Test(host_backend_ranks, a_vocabulary_of_many_tiles_is_shared_out)
{
    static const int32_t worlds[] = {1, 2, 4}, vocabs[] = {WIDE_VOCAB, 9000};
    tiny_model m = tiny_open(wide_llama, 7, 1);
    spc_backend *backend;
    spc_error error;

    for (size_t v = 0; v < 2; v++) {
        m.plan->ids = vocabs[v]; /* 9000: paired with a model that has fewer */
        cr_assert_eq(spc_backend_cpu.open(&backend, 1, NULL, &error), SPC_OK);

        float *expected = run_wide(&m, &spc_backend_cpu, backend);

        for (size_t k = 0; k < 3; k++) {
            cr_assert_eq(spc_ranks_open(worlds[k], 1, NULL, &backend, &error), SPC_OK);

            float *all = run_wide(&m, &spc_backend_ranks, backend);

            cr_expect_leq(distance(all, expected, 7 * (size_t)vocabs[v]), 1e-4f, "%d ranks, %d ids",
                          (int)worlds[k], (int)vocabs[v]);
            free(all);
        }
        free(expected);
    }
    tiny_close(&m);
}

/* Is this weight whole in every part, or in each part another piece of it? */
static bool is_shared_out(const spc_plan *plan, spc_plan *const *part, int32_t world, int32_t i)
{
    const spc_weight *all = &plan->weight[i], *w = all;
    int32_t row = all->row, col = 0, last = all->row + all->rows;
    bool whole = true;

    for (int32_t r = 0; r < world; r++) {
        w = &part[r]->weight[i];
        whole = whole && w->rows == all->rows && w->row == row && w->cols == all->cols;
    }
    for (int32_t r = 0; r < world && !whole; r++) {
        w = &part[r]->weight[i];
        if (w->rows < all->rows && (w->row != row || w->cols != all->cols)) return false;
        if (w->cols < all->cols && (w->col != col || w->rows != all->rows)) return false;
        row = w->row + w->rows;
        col = w->col + w->cols;
    }
    return whole || (row == last && col == all->cols) || (row == last && w->cols == all->cols) ||
           (col == all->cols && w->rows == all->rows);
}

static int32_t count_ops(const spc_plan *plan, spc_op_kind kind)
{
    int32_t count = 0;

    for (int32_t i = 0; i < plan->op_count; i++) count += plan->op[i].kind == kind;
    return count;
}

Test(host_backend_ranks, parts_hold_every_weight_once_and_sum_twice_a_layer)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cpu, golden_models[m]);
        spc_comm *comm[2];
        spc_plan *part[2];
        spc_error error;
        uint64_t parameters = 0;

        cr_assert_eq(spc_comm_local_open(2, 1000, comm, &error), SPC_OK);
        for (int32_t r = 0; r < 2; r++) {
            cr_assert_eq(spc_plan_split(g.plan, comm[r], "golden", &part[r], &error), SPC_OK, "%s",
                         error.message);
            parameters += spc_plan_parameters(part[r]);
        }
        for (int32_t i = 0; i < g.plan->weight_count; i++) {
            cr_expect(is_shared_out(g.plan, part, 2, i), "%s: %s", golden_models[m],
                      g.plan->weight[i].name);
        }
        /* norms, and a lone head of keys and values, are on both */
        cr_expect_lt((double)parameters, 1.25 * (double)spc_plan_parameters(g.plan), "%s",
                     golden_models[m]);

        /* one for each attention (T5's decoder has two a layer) and feed-forward part, one for each
         * embedding */
        int32_t sums = count_ops(part[0], SPC_OP_ATTEND) + count_ops(part[0], SPC_OP_RECALL) +
                       count_ops(part[0], SPC_OP_GLU) + count_ops(part[0], SPC_OP_RELU) +
                       count_ops(part[0], SPC_OP_EMBED);

        cr_expect_eq(count_ops(part[0], SPC_OP_REDUCE), sums, "%s", golden_models[m]);
        for (int32_t r = 0; r < 2; r++) {
            spc_plan_close(part[r]);
            spc_comm_close(comm[r]);
        }
        golden_close(&g);
    }
}

Test(host_backend_ranks, a_number_of_ranks_that_does_not_divide_is_refused_with_those_that_do)
{
    tiny_model m = tiny_open(wide_llama, 7, 1);
    spc_limits limits = {.slots = 1, .context = WIDE_CONTEXT, .rows = 1, .outputs = 1};
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(spc_ranks_open(3, 1, NULL, &backend, &error), SPC_OK);
    cr_assert_eq(spc_backend_ranks.load(backend, m.plan, m.bundle, &limits, &runner, &error),
                 SPC_EUSAGE);
    cr_assert_null(runner);
    cr_assert(strstr(error.message,
                     "3 ranks, which must divide its 4 attention heads, its 2 key-value heads"),
              "%s", error.message);
    cr_assert(strstr(error.message, "1, 2, 4"), "%s", error.message);
    spc_backend_ranks.close(backend);
    tiny_close(&m);
    cr_assert_eq(spc_ranks_open(0, 1, NULL, &backend, &error), SPC_EUSAGE);
    cr_assert_null(backend);
    cr_assert_eq(spc_ranks_open(2, -1, NULL, &backend, &error), SPC_EUSAGE);
    cr_assert_eq(spc_ranks_open(2, 1, "mmx", &backend, &error), SPC_EUSAGE);
}

/* A group that has ended fails forwards; it does not hang. */
Test(host_backend_ranks, a_part_whose_group_has_ended_fails_with_the_reason)
{
    tiny_model m = tiny_open(wide_llama, 7, 1);
    spc_limits limits = {.slots = 1, .context = WIDE_CONTEXT, .rows = 1, .outputs = 1};
    int32_t zero = 0;
    spc_rows rows = {1, &zero, &zero, &zero, &zero};
    spc_comm *comm[2];
    spc_plan *part;
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(spc_comm_local_open(2, 60000, comm, &error), SPC_OK);
    cr_assert_eq(spc_plan_split(m.plan, comm[0], "tiny", &part, &error), SPC_OK);
    cr_assert_eq(spc_backend_cpu.open(&backend, 1, NULL, &error), SPC_OK);
    cr_assert_eq(spc_backend_cpu.load(backend, part, m.bundle, &limits, &runner, &error), SPC_OK);
    comm[1]->ops->abort(comm[1], "rank 1 is gone");
    cr_assert_eq(spc_backend_cpu.forward(runner, &rows, &error), SPC_EDEVICE);
    cr_assert_str_eq(error.message, "rank 1 is gone");
    spc_backend_cpu.unload(runner);
    spc_backend_cpu.close(backend);
    spc_plan_close(part);
    spc_comm_close(comm[0]);
    spc_comm_close(comm[1]);
    tiny_close(&m);
}
