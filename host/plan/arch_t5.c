/* SPDX-License-Identifier: Apache-2.0 */
/* arch_t5.c - T5: an encoder that reads the prompt, a decoder that attends to what it left.
 *
 * Both are stacks of RMSNorm, attention by relative position (the first layer's table serves all of
 * a stack) and a feed-forward part.  The decoder's layers also attend to the encoder's output:
 * their keys and values of it are the last thing the encoder's part of the plan computes.  Tensor
 * names as in Hugging Face checkpoints (T5ForConditionalGeneration). */
#include "plan.h"

#include <stdio.h>

typedef struct {
    int32_t hidden, normed, qkv, query, kv, attended, projected, inner, product;
    int32_t relative; /* weight: the table of the stack under construction */
    const char *stack;
} t5;

/* A tensor of a layer's part: "STACK.block.LAYER.layer.PART.NAME.weight". */
static int32_t part(spc_plan *plan, const t5 *t, int32_t layer, int32_t number, const char *name,
                    int32_t rows, int32_t cols)
{
    char full[SPC_PLAN_NAME];

    (void)snprintf(full, sizeof full, "%s.block.%d.layer.%d.%s.weight", t->stack, (int)layer,
                   (int)number, name);
    return spc_plan_weight(plan, full, rows, cols);
}

static void op_of(spc_plan *plan, spc_op_kind kind, int32_t out, int32_t in, int32_t weight)
{
    spc_op op = spc_op_of(kind, out, in, -1);

    op.weight[0] = weight;
    spc_plan_op(plan, op);
}

static void norm(spc_plan *plan, const t5 *t, int32_t layer, int32_t number)
{
    op_of(plan, SPC_OP_NORM, t->normed, t->hidden,
          part(plan, t, layer, number, "layer_norm", plan->config.dim, 0));
}

/* hidden += a matrix of the part times `in` */
static void add_back(spc_plan *plan, const t5 *t, int32_t in, int32_t weight)
{
    op_of(plan, SPC_OP_LINEAR, t->projected, in, weight);
    spc_plan_op(plan, spc_op_of(SPC_OP_ADD, t->hidden, t->hidden, t->projected));
}

static void attend(spc_plan *plan, const t5 *t, spc_op_kind kind, int32_t in, int32_t layer,
                   int32_t relative)
{
    spc_op op = spc_op_of(kind, t->attended, in, -1);

    op.layer = layer;
    op.weight[0] = relative;
    op.scale = (float)plan->config.attention_scale;
    spc_plan_op(plan, op);
}

/* Keys and values of the encoder's rows for a layer that will recall them. */
static void store(spc_plan *plan, int32_t in, int32_t layer)
{
    spc_op op = spc_op_of(SPC_OP_STORE, -1, in, -1);

    op.layer = layer;
    spc_plan_op(plan, op);
}

/* The encoder keeps what it attends to in the memory of layer 0 until the decoder's takes its
 * place. */
static void self_attention(spc_plan *plan, const t5 *t, int32_t layer, bool encoder)
{
    const spc_config *c = &plan->config;
    int32_t width = c->heads * c->head_dim;
    spc_op op = spc_op_of(SPC_OP_LINEAR, t->qkv, t->normed, -1);

    norm(plan, t, layer, 0);
    op.weight[0] = part(plan, t, layer, 0, "SelfAttention.q", width, c->dim);
    op.weight[1] = part(plan, t, layer, 0, "SelfAttention.k", width, c->dim);
    op.weight[2] = part(plan, t, layer, 0, "SelfAttention.v", width, c->dim);
    spc_plan_op(plan, op);
    if (encoder) store(plan, t->qkv, 0);
    attend(plan, t, encoder ? SPC_OP_RECALL : SPC_OP_ATTEND, t->qkv, encoder ? 0 : layer,
           t->relative);
    add_back(plan, t, t->attended, part(plan, t, layer, 0, "SelfAttention.o", c->dim, width));
}

/* Of the decoder, to the encoder's output. */
static void cross_attention(spc_plan *plan, const t5 *t, int32_t layer)
{
    const spc_config *c = &plan->config;
    int32_t width = c->heads * c->head_dim;

    norm(plan, t, layer, 1);
    op_of(plan, SPC_OP_LINEAR, t->query, t->normed,
          part(plan, t, layer, 1, "EncDecAttention.q", width, c->dim));
    attend(plan, t, SPC_OP_RECALL, t->query, layer, -1);
    add_back(plan, t, t->attended, part(plan, t, layer, 1, "EncDecAttention.o", c->dim, width));
}

static void feed_forward(spc_plan *plan, const t5 *t, int32_t layer, int32_t number)
{
    const spc_config *c = &plan->config;
    spc_op op = spc_op_of(SPC_OP_LINEAR, t->inner, t->normed, -1);

    norm(plan, t, layer, number);
    if (c->gated) {
        op.weight[0] = part(plan, t, layer, number, "DenseReluDense.wi_0", c->ffn, c->dim);
        op.weight[1] = part(plan, t, layer, number, "DenseReluDense.wi_1", c->ffn, c->dim);
    } else {
        op.weight[0] = part(plan, t, layer, number, "DenseReluDense.wi", c->ffn, c->dim);
    }
    spc_plan_op(plan, op);
    op = spc_op_of(c->gated ? SPC_OP_GLU : SPC_OP_RELU, t->product, t->inner, -1);
    op.activation = c->activation;
    spc_plan_op(plan, op);
    add_back(plan, t, t->product,
             part(plan, t, layer, number, "DenseReluDense.wo", c->dim, c->ffn));
}

/* The table of relative positions, and the tokens. */
static void begin_stack(spc_plan *plan, t5 *t, const char *name, spc_relative relative,
                        int32_t embedding)
{
    const spc_config *c = &plan->config;

    t->stack = name;
    t->relative =
        part(plan, t, 0, 0, "SelfAttention.relative_attention_bias", c->buckets, c->heads);
    if (!plan->no_memory) plan->weight[t->relative].relative = relative;
    op_of(plan, SPC_OP_EMBED, t->hidden, -1, embedding);
}

static void end_stack(spc_plan *plan, const t5 *t)
{
    char name[SPC_PLAN_NAME];

    (void)snprintf(name, sizeof name, "%s.final_layer_norm.weight", t->stack);
    op_of(plan, SPC_OP_NORM, t->normed, t->hidden,
          spc_plan_weight(plan, name, plan->config.dim, 0));
}

static void encoder(spc_plan *plan, t5 *t, int32_t embedding)
{
    const spc_config *c = &plan->config;
    int32_t width = c->heads * c->head_dim;

    begin_stack(plan, t, "encoder", SPC_RELATIVE_BOTH, embedding);
    for (int32_t i = 0; i < c->encoder_layers; i++) {
        self_attention(plan, t, i, true);
        feed_forward(plan, t, i, 1);
    }
    end_stack(plan, t);
    t->stack = "decoder";
    for (int32_t i = 0; i < c->layers; i++) {
        spc_op op = spc_op_of(SPC_OP_LINEAR, t->kv, t->normed, -1);

        op.weight[0] = part(plan, t, i, 1, "EncDecAttention.k", width, c->dim);
        op.weight[1] = part(plan, t, i, 1, "EncDecAttention.v", width, c->dim);
        spc_plan_op(plan, op);
        store(plan, t->kv, i);
    }
    plan->encoder_ops = plan->op_count;
}

static void decoder(spc_plan *plan, t5 *t, int32_t embedding)
{
    const spc_config *c = &plan->config;
    spc_op head = spc_op_of(SPC_OP_HEAD, -1, t->normed, -1);

    begin_stack(plan, t, "decoder", SPC_RELATIVE_PAST, embedding);
    for (int32_t i = 0; i < c->layers; i++) {
        self_attention(plan, t, i, false);
        cross_attention(plan, t, i);
        feed_forward(plan, t, i, 2);
    }
    end_stack(plan, t);
    head.weight[0] =
        c->tied ? embedding : spc_plan_weight(plan, "lm_head.weight", c->vocab, c->dim);
    head.scale = (float)c->head_scale;
    spc_plan_op(plan, head);
}

static void build(spc_plan *plan)
{
    const spc_config *c = &plan->config;
    int32_t width = c->heads * c->head_dim;
    t5 t = {.hidden = spc_plan_buffer(plan, "hidden", c->dim),
            .normed = spc_plan_buffer(plan, "normed", c->dim),
            .qkv = spc_plan_buffer(plan, "qkv", 3 * width),
            .query = spc_plan_buffer(plan, "query", width),
            .kv = spc_plan_buffer(plan, "kv", 2 * width),
            .attended = spc_plan_buffer(plan, "attended", width),
            .projected = spc_plan_buffer(plan, "projected", c->dim),
            .inner = spc_plan_buffer(plan, "inner", c->gated ? 2 * c->ffn : c->ffn),
            .product = spc_plan_buffer(plan, "product", c->ffn)};
    int32_t embedding = spc_plan_weight(plan, "shared.weight", c->vocab, c->dim);

    encoder(plan, &t, embedding);
    decoder(plan, &t, embedding);
}

const spc_architecture spc_arch_t5 = {"T5ForConditionalGeneration", build};
