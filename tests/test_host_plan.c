/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_plan.c - plans: which ops in which order over which weights, and what they weigh,
 * against numbers worked out by hand. */
#include "host/plan/plan.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

/* A model folder, read, and its plan. */
typedef struct {
    spc_bundle *bundle;
    spc_config config;
    spc_plan *plan;
} fixture;

enum { TINY, TINY_TIED, DRAFTER, VERIFIER, MODELS };

static const struct {
    const char *folder;
    int32_t layers, ops, weights;
    uint64_t parameters, row_bytes, kv_bytes; /* kv: of the longest context */
} models[MODELS] = {
    /* 2 * 389 * 96 + 3 * (96 * (2 + 96 + 24 + 24 + 96) + 3 * 160 * 96) + 96 parameters of 4 bytes;
     * a row reads one row of the embedding and all of the head; 128 tokens * 3 layers * 2 * 24 */
    [TINY] = {SPC_TEST_VECTORS "/llama", 3, 36, 30, 282720, 4 * (282720 - 388 * 96), 73728},
    [TINY_TIED] = {SPC_TEST_VECTORS "/llama31-rope", 3, 36, 29, 245376, 4 * 245376, 73728},
    /* 6144 * 128 + 2 * (128 * (2 + 128 + 64 + 64 + 128) + 3 * 384 * 128) + 128, of 2 bytes */
    [DRAFTER] = {SPC_SOURCE_DIR "/weights/demo/drafter", 2, 25, 20, 1180288, 2360576, 524288},
    /* 6144 * 320 + 6 * (320 * (2 + 512 + 256 + 256 + 512) + 3 * 896 * 320) + 320, of 2 bytes */
    [VERIFIER] = {SPC_SOURCE_DIR "/weights/demo/verifier", 6, 69, 56, 10080320, 20160640, 6291456},
};

static fixture open_folder(const char *folder)
{
    fixture f;
    spc_error error;

    cr_assert_eq(spc_bundle_open(folder, &f.bundle, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_config_read(f.bundle, &f.config, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_plan_build(&f.config, folder, &f.plan, &error), SPC_OK, "%s", error.message);
    return f;
}

static fixture open_fixture(int32_t model)
{
    return open_folder(models[model].folder);
}

static void close_fixture(fixture *f)
{
    spc_plan_close(f->plan);
    spc_bundle_close(f->bundle);
}

/* ---- ops --------------------------------------------------------------------------------------
 */

/* Ops of one layer; an embedding stands before the layers, a norm and the head behind them. */
static const spc_op_kind layer_ops[] = {SPC_OP_NORM,   SPC_OP_LINEAR, SPC_OP_ROPE, SPC_OP_ATTEND,
                                        SPC_OP_LINEAR, SPC_OP_ADD,    SPC_OP_NORM, SPC_OP_LINEAR,
                                        SPC_OP_GLU,    SPC_OP_LINEAR, SPC_OP_ADD};

static spc_op_kind expected_op(int32_t i, int32_t layers)
{
    int32_t in_layers = i - 1;

    if (i == 0) return SPC_OP_EMBED;
    if (in_layers < layers * COUNT(layer_ops)) return layer_ops[in_layers % COUNT(layer_ops)];
    return in_layers == layers * COUNT(layer_ops) ? SPC_OP_NORM : SPC_OP_HEAD;
}

Test(host_plan, ops_stand_in_the_order_of_the_architecture)
{
    for (int32_t m = 0; m < MODELS; m++) {
        fixture f = open_fixture(m);
        int32_t attends = 0;

        cr_assert_eq(f.plan->op_count, models[m].ops, "%s", models[m].folder);
        for (int32_t i = 0; i < f.plan->op_count; i++) {
            const spc_op *op = &f.plan->op[i];

            cr_expect_eq(op->kind, expected_op(i, models[m].layers), "%s: op %d is %s",
                         models[m].folder, (int)i, spc_op_name(op->kind));
            if (op->kind == SPC_OP_ATTEND) cr_expect_eq(op->layer, attends++);
        }
        cr_expect_eq(attends, models[m].layers, "each layer has a cache of its own");
        close_fixture(&f);
    }
}

Test(host_plan, an_op_reads_only_what_an_earlier_one_wrote)
{
    for (int32_t m = 0; m < MODELS; m++) {
        fixture f = open_fixture(m);
        bool written[16] = {false};

        cr_assert_leq(f.plan->buffer_count, COUNT(written));
        for (int32_t i = 0; i < f.plan->op_count; i++) {
            const spc_op *op = &f.plan->op[i];

            cr_expect(op->a < 0 ? op->kind == SPC_OP_EMBED : written[op->a], "op %d", (int)i);
            cr_expect(op->b < 0 ? op->kind != SPC_OP_ADD : written[op->b], "op %d", (int)i);
            if (op->out >= 0) written[op->out] = true;
        }
        close_fixture(&f);
    }
}

Test(host_plan, a_buffer_holds_what_its_ops_write)
{
    static const struct {
        const char *name;
        int32_t dim;
    } buffers[] = {/* of the tiny model: 4 heads and 1 key/value head of 24, 96 wide, 160 inside */
                   {"hidden", 96},    {"normed", 96}, {"qkv", 96 + 24 + 24}, {"attended", 96},
                   {"projected", 96}, {"gated", 320}, {"product", 160}};
    fixture f = open_fixture(TINY);

    cr_assert_eq(f.plan->buffer_count, COUNT(buffers));
    for (int32_t i = 0; i < COUNT(buffers); i++) {
        cr_expect_str_eq(f.plan->buffer[i].name, buffers[i].name);
        cr_expect_eq(f.plan->buffer[i].dim, buffers[i].dim, "%s", buffers[i].name);
    }
    close_fixture(&f);
}

Test(host_plan, op_names_are_different_words)
{
    for (int32_t i = 0; i < SPC_OP_COUNT; i++) {
        cr_expect_str_neq(spc_op_name((spc_op_kind)i), "unknown");
        for (int32_t j = 0; j < i; j++) {
            cr_expect_str_neq(spc_op_name((spc_op_kind)i), spc_op_name((spc_op_kind)j));
        }
    }
    cr_expect_str_eq(spc_op_name(SPC_OP_COUNT), "unknown");
    cr_expect_str_eq(spc_op_name((spc_op_kind)-1), "unknown");
}

/* ---- weights ----------------------------------------------------------------------------------
 */

static void expect_weight(const spc_plan *plan, int32_t i, const char *name, int32_t rows,
                          int32_t cols)
{
    const spc_weight *w = &plan->weight[i];

    cr_expect_str_eq(w->name, name);
    cr_expect(w->rows == rows && w->cols == cols, "%s: [%d, %d]", name, (int)w->rows, (int)w->cols);
}

Test(host_plan, weights_have_the_names_and_shapes_of_the_checkpoint)
{
    static const struct {
        const char *name;
        int32_t rows, cols;
    } in_layer[] = {/* of the tiny model, as the layer's ops come upon them */
                    {"input_layernorm", 96, 0},   {"self_attn.q_proj", 96, 96},
                    {"self_attn.k_proj", 24, 96}, {"self_attn.v_proj", 24, 96},
                    {"self_attn.o_proj", 96, 96}, {"post_attention_layernorm", 96, 0},
                    {"mlp.gate_proj", 160, 96},   {"mlp.up_proj", 160, 96},
                    {"mlp.down_proj", 96, 160}};
    fixture f = open_fixture(TINY);
    int32_t at = 0;

    cr_assert_eq(f.plan->weight_count, models[TINY].weights);
    expect_weight(f.plan, at++, "model.embed_tokens.weight", 389, 96);
    for (int32_t layer = 0; layer < 3; layer++) {
        for (int32_t k = 0; k < COUNT(in_layer); k++) {
            char name[SPC_PLAN_NAME];

            (void)snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)layer,
                           in_layer[k].name);
            expect_weight(f.plan, at++, name, in_layer[k].rows, in_layer[k].cols);
        }
    }
    expect_weight(f.plan, at++, "model.norm.weight", 96, 0);
    expect_weight(f.plan, at++, "lm_head.weight", 389, 96);
    close_fixture(&f);
}

static void expect_tensors(const fixture *f, const char *folder)
{
    int32_t tensors = 0;

    for (int32_t i = 0; i < f->plan->weight_count; i++) {
        const spc_weight *w = &f->plan->weight[i], *before = i > 0 ? w - 1 : w;
        const spc_tensor *t = spc_bundle_find(f->bundle, w->name);

        cr_assert_not_null(t, "%s: %s", folder, w->name);
        cr_expect_eq(t->rank, w->cols > 0 ? 2 : 1, "%s", w->name);
        cr_expect_eq(t->shape[0], w->of_rows, "%s", w->name);
        if (w->cols > 0) cr_expect_eq(t->shape[1], w->cols, "%s", w->name);
        if (w->row > 0) { /* one of several that are one tensor, which follow each other */
            cr_expect_str_eq(before->name, w->name);
            cr_expect_eq(before->row + before->rows, w->row, "%s", w->name);
            continue;
        }
        tensors++;
        for (int32_t j = 0; j < i; j++) cr_expect_str_neq(f->plan->weight[j].name, w->name);
    }
    cr_expect_eq(tensors, spc_bundle_count(f->bundle), "%s", folder);
}

/* Where nothing but rows of the embedding is read in part, a row reads every byte: of a tied
 * embedding all, of one apart from the head a single row. */
Test(host_plan, a_plan_asks_for_every_tensor_of_its_model_once)
{
    static const char *const relatives[] = {"mistral-window", "qwen2",   "qwen3", "gemma2",
                                            "gemma3",         "smollm3", "phi3",  "mistral3-images",
                                            "ministral3",     "granite"};

    for (int32_t m = 0; m < MODELS; m++) {
        fixture f = open_fixture(m);

        cr_expect_eq(f.plan->weight_count, models[m].weights);
        expect_tensors(&f, models[m].folder);
        close_fixture(&f);
    }
    for (int32_t m = 0; m < COUNT(relatives); m++) {
        char folder[512];

        (void)snprintf(folder, sizeof folder, "%s/%s", SPC_TEST_VECTORS, relatives[m]);

        fixture f = open_folder(folder);
        const spc_tensor *embedding = spc_bundle_find(f.bundle, "model.embed_tokens.weight");
        uint64_t unread =
            f.config.tied ? 0 : embedding->bytes - embedding->bytes / (uint64_t)embedding->shape[0];

        expect_tensors(&f, folder);
        cr_expect_eq(spc_plan_weight_bytes(f.plan, f.bundle), spc_bundle_bytes(f.bundle) - unread,
                     "%s", folder);
        close_fixture(&f);
    }
}

/* ---- experts ----------------------------------------------------------------------------------
 */

/* mixtral: 2 layers of 5 experts, of which a row takes 2; qwen3-moe: 2 of 6, of which it takes 3.
 * What it reads of experts is that part of their 3 * 32 * width, whatever row it is. */
Test(host_plan, a_row_reads_as_many_experts_as_it_takes)
{
    static const struct {
        const char *folder;
        int32_t experts, chosen, width;
    } cases[] = {{SPC_TEST_VECTORS "/mixtral", 5, 2, 48},
                 {SPC_TEST_VECTORS "/qwen3-moe", 6, 3, 32}};

    for (int32_t m = 0; m < COUNT(cases); m++) {
        fixture f = open_folder(cases[m].folder);
        uint64_t expert = 4 * 3 * 32 * (uint64_t)cases[m].width, embedding = 4 * 63 * 32;
        uint64_t idle = 2 * expert * (uint64_t)(cases[m].experts - cases[m].chosen);
        uint64_t exact = spc_bundle_bytes(f.bundle) - embedding - idle;
        uint64_t found = spc_plan_weight_bytes(f.plan, f.bundle);

        expect_tensors(&f, cases[m].folder);
        cr_expect(found <= exact && exact - found <= 2 * 3 * 6, "%s: %d, not %d", cases[m].folder,
                  (int)found, (int)exact);
        close_fixture(&f);
    }
}

Test(host_plan, ops_of_experts_say_whose_matrices_they_take)
{
    static const char *const folders[] = {SPC_TEST_VECTORS "/mixtral",
                                          SPC_TEST_VECTORS "/qwen3-moe"};
    static const char *const first[2][3] = {
        {"block_sparse_moe.experts.0.w1", "block_sparse_moe.experts.0.w3",
         "block_sparse_moe.experts.0.w2"},
        {"mlp.experts.0.gate_proj", "mlp.experts.0.up_proj", "mlp.experts.0.down_proj"}};
    static const int32_t gated[] = {2 * 2 * 48, 2 * 3 * 32};

    for (int32_t m = 0; m < COUNT(folders); m++) {
        fixture f = open_folder(folders[m]);
        const spc_op *op = f.plan->op;
        char name[SPC_PLAN_NAME];

        while (op->kind != SPC_OP_ROUTE) op++;
        cr_assert_eq(op[-1].kind, SPC_OP_LINEAR);
        cr_expect(op[1].kind == SPC_OP_EXPERTS && op[2].kind == SPC_OP_GLU &&
                  op[3].kind == SPC_OP_MIX);
        cr_expect(op[1].b == op[0].out && op[3].b == op[0].out && op[0].a == op[-1].out);
        cr_expect_eq(op[1].a, op[-1].a, "experts read what their router reads");
        for (int32_t k = 0; k < 3; k++) {
            const spc_op *of = k < 2 ? &op[1] : &op[3];

            (void)snprintf(name, sizeof name, "model.layers.0.%s.weight", first[m][k]);
            cr_expect_str_eq(f.plan->weight[of->weight[k % 2]].name, name);
            cr_expect_eq(spc_op_matrices(f.plan, of), f.config.experts);
        }
        cr_expect_eq(f.plan->buffer[op[1].out].dim, gated[m]);
        cr_expect_eq(f.plan->buffer[op[2].out].dim, gated[m] / 2);
        close_fixture(&f);
    }
}

/* ---- encoders ---------------------------------------------------------------------------------
 */

/* t5-relu: embedding 389 * 48; a decoder layer reads 48 * (4 + 2) * 48 of attention (the keys and
 * values of the prompt are the encoder's work), 2 * 48 * 96 and 3 norms; 16 buckets of 4 heads. */
Test(host_plan, a_decoded_row_reads_nothing_of_the_encoder)
{
    fixture f = open_folder(SPC_TEST_VECTORS "/t5-relu");
    uint64_t layer = 48 * 6 * 48 + 2 * 48 * 96 + 3 * 48;

    expect_tensors(&f, "t5-relu");
    cr_expect_eq(spc_plan_parameters(f.plan) * 4, spc_bundle_bytes(f.bundle));
    cr_expect_eq(spc_plan_weight_bytes(f.plan, f.bundle), 4 * (389 * 48 + 2 * layer + 16 * 4 + 48));
    cr_expect_eq(spc_plan_kv_bytes(f.plan, 10, SPC_DTYPE_F32), 10 * 2 * (2 * 48 * 2 * 4),
                 "of both attentions");
    close_fixture(&f);
}

/* What the encoder's part writes is in the memory; the decoder's begins with a token again. */
Test(host_plan, an_encoder_leaves_keys_and_values_for_every_layer_of_the_decoder)
{
    static const char *const folders[] = {SPC_TEST_VECTORS "/t5-relu",
                                          SPC_TEST_VECTORS "/t5-gated"};

    for (int32_t m = 0; m < COUNT(folders); m++) {
        fixture f = open_folder(folders[m]);
        int32_t stored = 0, recalled = 0, layers = f.config.layers, first = f.plan->encoder_ops;

        for (int32_t i = 0; i < f.plan->op_count; i++) {
            const spc_op *op = &f.plan->op[i];

            cr_expect(i >= first || (op->kind != SPC_OP_ATTEND && op->kind != SPC_OP_HEAD));
            cr_expect(i < first || op->kind != SPC_OP_STORE);
            if (op->kind == SPC_OP_STORE && i >= first - 2 * layers) {
                cr_expect_eq(op->layer, stored++);
            }
            if (op->kind == SPC_OP_RECALL && i >= first) cr_expect_eq(op->layer, recalled++);
        }
        cr_expect(stored == layers && recalled == layers, "%s", folders[m]);
        cr_expect_eq(f.plan->op[0].kind, SPC_OP_EMBED);
        cr_expect_eq(f.plan->op[first].kind, SPC_OP_EMBED);
        close_fixture(&f);
    }
}

/* Distances at which the buckets of transformers' _relative_position_bucket begin.  With 32 buckets
 * up to 128 the borders 16, 32 and 64 are where a logarithm is whole. */
Test(host_plan, relative_positions_fall_into_the_buckets_of_the_reference)
{
    static const struct {
        int32_t buckets, distance;
        spc_relative relative;
        int32_t count, begin[32];
    } cases[] = {
        {32, 128, SPC_RELATIVE_PAST, 32, {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                          11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31,
                                          35, 40, 46, 52, 59, 67, 77, 87, 99, 113}},
        {32, 128, SPC_RELATIVE_BOTH, 16, {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91}},
        {12, 100, SPC_RELATIVE_PAST, 12, {0, 1, 2, 3, 4, 5, 6, 10, 16, 25, 40, 63}},
        {12, 100, SPC_RELATIVE_BOTH, 6, {0, 1, 2, 3, 10, 32}}};

    for (int32_t k = 0; k < COUNT(cases); k++) {
        spc_config c = {.buckets = cases[k].buckets, .bucket_distance = cases[k].distance};
        spc_relative relative = cases[k].relative;
        int32_t bucket = 0, ahead = relative == SPC_RELATIVE_BOTH ? cases[k].count : 0;

        for (int32_t distance = 0; distance < 3000; distance++) {
            bool next = bucket + 1 < cases[k].count && distance == cases[k].begin[bucket + 1];

            bucket += next;
            cr_expect_eq(spc_plan_bucket(&c, relative, -distance), bucket, "case %d: %d before",
                         (int)k, (int)distance);
            if (distance == 0) continue;
            cr_expect_eq(spc_plan_bucket(&c, relative, distance), ahead ? ahead + bucket : 0,
                         "case %d: %d behind", (int)k, (int)distance);
        }
        cr_expect_eq(bucket, cases[k].count - 1);
    }
}

Test(host_plan, a_tied_head_is_the_embedding)
{
    static const bool tied[MODELS] = {[TINY_TIED] = true, [DRAFTER] = true, [VERIFIER] = true};

    for (int32_t m = 0; m < MODELS; m++) {
        fixture f = open_fixture(m);
        const spc_op *first = &f.plan->op[0], *last = &f.plan->op[f.plan->op_count - 1];

        cr_expect_eq(first->weight[0] == last->weight[0], tied[m], "%s", models[m].folder);
        cr_expect_str_eq(f.plan->weight[last->weight[0]].name,
                         tied[m] ? "model.embed_tokens.weight" : "lm_head.weight");
        cr_expect_eq(last->out, -1, "logits are no buffer of a row");
        close_fixture(&f);
    }
}

/* ---- measures ---------------------------------------------------------------------------------
 */

Test(host_plan, parameters_and_bytes_are_those_worked_out_by_hand)
{
    for (int32_t m = 0; m < MODELS; m++) {
        fixture f = open_fixture(m);
        uint64_t kv = models[m].kv_bytes, longest = (uint64_t)f.config.context;

        cr_expect_eq(spc_plan_parameters(f.plan), models[m].parameters, "%s", models[m].folder);
        cr_expect_eq(spc_plan_weight_bytes(f.plan, f.bundle), models[m].row_bytes, "%s",
                     models[m].folder);
        cr_expect_eq(spc_plan_kv_bytes(f.plan, f.config.context, SPC_DTYPE_F32), kv, "%s",
                     models[m].folder);
        cr_expect_eq(spc_plan_kv_bytes(f.plan, 3, SPC_DTYPE_F32), 3 * kv / longest);
        cr_expect_eq(spc_plan_kv_bytes(f.plan, INT32_MAX, SPC_DTYPE_F32),
                     INT32_MAX * (kv / longest), "it does not wrap");
        close_fixture(&f);
    }
}

Test(host_plan, a_weight_that_the_bundle_lacks_has_no_bytes)
{
    fixture untied = open_fixture(TINY), tied = open_fixture(TINY_TIED);
    uint64_t head = 389 * 96 * sizeof(float), row = 96 * sizeof(float);

    cr_expect_eq(spc_plan_weight_bytes(untied.plan, tied.bundle), models[TINY].row_bytes - head,
                 "no lm_head there");
    cr_expect_eq(spc_plan_weight_bytes(tied.plan, untied.bundle), models[TINY_TIED].row_bytes);
    cr_expect_eq(models[TINY].row_bytes, models[TINY_TIED].row_bytes + row);
    close_fixture(&tied);
    close_fixture(&untied);
}

/* ---- errors, print ----------------------------------------------------------------------------
 */

Test(host_plan, an_unknown_architecture_is_named_with_the_known_ones)
{
    static const char *const unknown[] = {"GPT2LMHeadModel", "LlamaForCausalLM2", "Llama",
                                          "llamaforcausallm", ""};
    fixture f = open_fixture(TINY);

    for (int32_t i = 0; i < COUNT(unknown); i++) {
        spc_plan *plan = f.plan;
        spc_config config = f.config;
        spc_error error;
        char quoted[96];

        (void)snprintf(config.architecture, sizeof config.architecture, "%s", unknown[i]);
        (void)snprintf(quoted, sizeof quoted, "'%s'", unknown[i]);
        cr_expect_eq(spc_plan_build(&config, "some/model", &plan, &error), SPC_EMODEL);
        cr_expect_null(plan);
        cr_expect_eq(error.status, SPC_EMODEL);
        cr_expect(strstr(error.message, quoted) && strstr(error.message, "some/model") &&
                      strstr(error.message, "known: LlamaForCausalLM"),
                  "%s", error.message);
        cr_expect_eq(spc_plan_build(&config, "some/model", &plan, NULL), SPC_EMODEL);
    }
    spc_plan_close(NULL);
    close_fixture(&f);
}

typedef struct {
    char text[80][400];
    int32_t count;
} lines;

static void take_line(void *user, const char *text)
{
    lines *l = user;

    cr_assert_lt(l->count, COUNT(l->text));
    cr_assert_lt(strlen(text), sizeof *l->text);
    cr_expect_null(strchr(text, '\n'));
    (void)strcpy(l->text[l->count++], text);
}

Test(host_plan, a_printed_plan_names_buffers_weights_and_shapes)
{
    static const struct {
        int32_t line;
        const char *text;
    } expected[] = {
        {0, "embed   token -> hidden  model.embed_tokens.weight [389, 96]"},
        {1, "norm    hidden -> normed  model.layers.0.input_layernorm.weight [96]"},
        {2, "linear  normed -> qkv  model.layers.0.self_attn.q_proj.weight [96, 96]"
            "  model.layers.0.self_attn.k_proj.weight [24, 96]"
            "  model.layers.0.self_attn.v_proj.weight [24, 96]"},
        {3, "rope    qkv -> qkv"},
        {4, "attend  qkv -> attended  scale 0.204124"},
        {5, "linear  attended -> projected  model.layers.0.self_attn.o_proj.weight [96, 96]"},
        {6, "add     hidden, projected -> hidden"},
        {7, "norm    hidden -> normed  model.layers.0.post_attention_layernorm.weight [96]"},
        {8, "linear  normed -> gated  model.layers.0.mlp.gate_proj.weight [160, 96]"
            "  model.layers.0.mlp.up_proj.weight [160, 96]"},
        {9, "glu     gated -> product"},
        {10, "linear  product -> projected  model.layers.0.mlp.down_proj.weight [96, 160]"},
        {11, "add     hidden, projected -> hidden"},
        {32, "linear  product -> projected  model.layers.2.mlp.down_proj.weight [96, 160]"},
        {34, "norm    hidden -> normed  model.norm.weight [96]"},
        {35, "head    normed -> logits  lm_head.weight [389, 96]"},
    };
    static lines l;
    fixture f = open_fixture(TINY);

    spc_plan_print(f.plan, take_line, &l);
    cr_assert_eq(l.count, 36);
    for (int32_t i = 0; i < COUNT(expected); i++) {
        cr_expect_str_eq(l.text[expected[i].line], expected[i].text);
    }
    close_fixture(&f);
}

/* What an op does otherwise than Llama's stands behind its tensors. */
Test(host_plan, a_printed_plan_names_biases_windows_and_caps)
{
    static const struct {
        const char *folder;
        int32_t line;
        const char *text;
    } expected[] = {
        {"qwen2", 2,
         "linear  normed -> qkv  model.layers.0.self_attn.q_proj.weight [96, 96]"
         "  model.layers.0.self_attn.k_proj.weight [24, 96]"
         "  model.layers.0.self_attn.v_proj.weight [24, 96]"
         "  + model.layers.0.self_attn.q_proj.bias [96]"
         "  + model.layers.0.self_attn.k_proj.bias [24]"
         "  + model.layers.0.self_attn.v_proj.bias [24]"},
        {"qwen3", 3,
         "qknorm  qkv -> qkv  model.layers.0.self_attn.q_norm.weight [24]"
         "  model.layers.0.self_attn.k_norm.weight [24]"},
        {"mistral-window", 4, "attend  qkv -> attended  window 9  scale 0.204124"},
        {"gemma2", 0, "embed   token -> hidden  model.embed_tokens.weight [389, 96]  scale 9.8125"},
        {"gemma2", 4, "attend  qkv -> attended  window 8  cap 50  scale 0.204124"},
        {"gemma2", 17, "attend  qkv -> attended  cap 50  scale 0.204124"},
        {"gemma2", 41, "head    normed -> logits  model.embed_tokens.weight [389, 96]  cap 30"},
        {"gemma3", 4, "rope    qkv -> qkv  local"},
    };

    for (int32_t i = 0; i < COUNT(expected); i++) {
        static lines l;
        char folder[512];

        l.count = 0;
        (void)snprintf(folder, sizeof folder, "%s/%s", SPC_TEST_VECTORS, expected[i].folder);

        fixture f = open_folder(folder);

        spc_plan_print(f.plan, take_line, &l);
        cr_assert_lt(expected[i].line, l.count);
        cr_expect_str_eq(l.text[expected[i].line], expected[i].text);
        close_fixture(&f);
    }
}

Test(host_plan, a_plan_prints_one_line_per_op_and_the_tied_head_by_its_tensor)
{
    static lines l;
    fixture f = open_fixture(VERIFIER);

    spc_plan_print(f.plan, take_line, &l);
    cr_assert_eq(l.count, models[VERIFIER].ops);
    for (int32_t i = 0; i < l.count; i++) {
        const char *name = spc_op_name(f.plan->op[i].kind);

        cr_expect_eq(strncmp(l.text[i], name, strlen(name)), 0, "%s", l.text[i]);
    }
    cr_expect_str_eq(l.text[68], "head    normed -> logits  model.embed_tokens.weight [6144, 320]");
    close_fixture(&f);
}
