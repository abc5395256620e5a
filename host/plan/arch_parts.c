/* SPDX-License-Identifier: Apache-2.0 */
/* arch_parts.c - the ops that decoders of Llama's kind share. */
#include "arch_parts.h"

#include <stdio.h>

spc_arch_buffers spc_arch_buffers_of(spc_plan *plan)
{
    const spc_config *c = &plan->config;
    int32_t queries = c->heads * c->head_dim, keys = c->kv_heads * c->head_dim;
    int32_t parts = c->experts > 0 ? c->chosen : 1;
    spc_arch_buffers b = {spc_plan_buffer(plan, "hidden", c->dim),
                          spc_plan_buffer(plan, "normed", c->dim),
                          spc_plan_buffer(plan, "qkv", queries + 2 * keys),
                          spc_plan_buffer(plan, "attended", queries),
                          spc_plan_buffer(plan, "projected", c->dim),
                          spc_plan_buffer(plan, "gated", 2 * parts * c->ffn),
                          spc_plan_buffer(plan, "product", parts * c->ffn),
                          -1,
                          -1};

    if (c->experts > 0) b.scores = spc_plan_buffer(plan, "scores", c->experts);
    if (c->experts > 0) b.route = spc_plan_buffer(plan, "route", 2 * c->chosen);
    return b;
}

int32_t spc_arch_weight(spc_plan *plan, int32_t layer, const char *name, int32_t rows, int32_t cols)
{
    char full[SPC_PLAN_NAME];

    (void)snprintf(full, sizeof full, "model.layers.%d.%s", (int)layer, name);
    return spc_plan_weight(plan, full, rows, cols);
}

void spc_arch_norm(spc_plan *plan, int32_t out, int32_t in, int32_t weight, float plus)
{
    spc_op op = spc_op_of(SPC_OP_NORM, out, in, -1);

    op.weight[0] = weight;
    spc_plan_op(plan, op);
    if (!plan->no_memory) plan->weight[weight].plus = plus;
}

void spc_arch_add(spc_plan *plan, int32_t out, int32_t a, int32_t b)
{
    spc_plan_op(plan, spc_op_of(SPC_OP_ADD, out, a, b));
}

/* A matrix that is rows [row, row + rows) of a tensor of several: of NAME.weight. */
static void matrix_of(spc_plan *plan, spc_op *op, int32_t layer, const char *name, int32_t row,
                      int32_t rows, int32_t of_rows)
{
    int32_t k = 0, i;

    while (op->weight[k] >= 0) k++;
    op->weight[k] = i = spc_arch_weight(plan, layer, name, rows, plan->config.dim);
    if (plan->no_memory) return;
    plan->weight[i].row = row;
    plan->weight[i].of_rows = of_rows;
}

/* One more matrix of a linear op: NAME.weight, and NAME.bias where there is one. */
static void matrix(spc_plan *plan, spc_op *op, int32_t layer, const char *name, int32_t rows,
                   int32_t cols, bool bias)
{
    char full[48];
    int32_t k = 0;

    while (op->weight[k] >= 0) k++;
    (void)snprintf(full, sizeof full, "%s.weight", name);
    op->weight[k] = spc_arch_weight(plan, layer, full, rows, cols);
    if (!bias) return;
    (void)snprintf(full, sizeof full, "%s.bias", name);
    op->bias[k] = spc_arch_weight(plan, layer, full, rows, 0);
}

static void qk_norms(spc_plan *plan, const spc_arch_buffers *b, int32_t layer, float plus)
{
    spc_op op = spc_op_of(SPC_OP_QK_NORM, b->qkv, b->qkv, -1);
    int32_t dim = plan->config.head_dim;

    op.weight[0] = spc_arch_weight(plan, layer, "self_attn.q_norm.weight", dim, 0);
    op.weight[1] = spc_arch_weight(plan, layer, "self_attn.k_norm.weight", dim, 0);
    spc_plan_op(plan, op);
    if (plan->no_memory) return;
    plan->weight[op.weight[0]].plus = plus;
    plan->weight[op.weight[1]].plus = plus;
}

void spc_arch_attention(spc_plan *plan, const spc_arch_buffers *b, int32_t layer, bool qk_norm,
                        float plus)
{
    const spc_config *c = &plan->config;
    int32_t queries = c->heads * c->head_dim, keys = c->kv_heads * c->head_dim;
    bool sliding = c->sliding[layer] != 0;
    spc_op op = spc_op_of(SPC_OP_LINEAR, b->qkv, b->normed, -1);

    if (c->fused) {
        static const char name[] = "self_attn.qkv_proj.weight";
        int32_t all = queries + 2 * keys;

        matrix_of(plan, &op, layer, name, 0, queries, all);
        matrix_of(plan, &op, layer, name, queries, keys, all);
        matrix_of(plan, &op, layer, name, queries + keys, keys, all);
    } else {
        matrix(plan, &op, layer, "self_attn.q_proj", queries, c->dim, c->qkv_bias);
        matrix(plan, &op, layer, "self_attn.k_proj", keys, c->dim, c->qkv_bias);
        matrix(plan, &op, layer, "self_attn.v_proj", keys, c->dim, c->qkv_bias);
    }
    spc_plan_op(plan, op);
    if (qk_norm) qk_norms(plan, b, layer, plus);
    op = spc_op_of(SPC_OP_ROPE, b->qkv, b->qkv, -1);
    op.local = c->local && sliding;
    if (!c->unturned[layer]) spc_plan_op(plan, op);
    op = spc_op_of(SPC_OP_ATTEND, b->attended, b->qkv, -1);
    op.layer = layer;
    op.window = sliding ? c->window : 0;
    op.scale = (float)c->attention_scale;
    op.cap = (float)c->attention_cap;
    spc_plan_op(plan, op);
    op = spc_op_of(SPC_OP_LINEAR, b->projected, b->attended, -1);
    matrix(plan, &op, layer, "self_attn.o_proj", c->dim, queries, c->out_bias);
    spc_plan_op(plan, op);
}

void spc_arch_feed_forward(spc_plan *plan, const spc_arch_buffers *b, int32_t layer)
{
    const spc_config *c = &plan->config;
    spc_op op = spc_op_of(SPC_OP_LINEAR, b->gated, b->normed, -1);

    if (c->fused) {
        matrix_of(plan, &op, layer, "mlp.gate_up_proj.weight", 0, c->ffn, 2 * c->ffn);
        matrix_of(plan, &op, layer, "mlp.gate_up_proj.weight", c->ffn, c->ffn, 2 * c->ffn);
    } else {
        matrix(plan, &op, layer, "mlp.gate_proj", c->ffn, c->dim, c->mlp_bias);
        matrix(plan, &op, layer, "mlp.up_proj", c->ffn, c->dim, c->mlp_bias);
    }
    spc_plan_op(plan, op);
    op = spc_op_of(SPC_OP_GLU, b->product, b->gated, -1);
    op.activation = c->activation;
    spc_plan_op(plan, op);
    op = spc_op_of(SPC_OP_LINEAR, b->projected, b->product, -1);
    matrix(plan, &op, layer, "mlp.down_proj", c->dim, c->ffn, c->mlp_bias);
    spc_plan_op(plan, op);
}

/* The matrices of all experts, behind each other; returns the first. */
static int32_t expert_matrices(spc_plan *plan, int32_t layer, const spc_arch_experts *names,
                               const char *name, int32_t rows, int32_t cols)
{
    int32_t first = plan->weight_count;

    for (int32_t i = 0; i < plan->config.experts; i++) {
        char full[64];

        (void)snprintf(full, sizeof full, "%s.experts.%d.%s.weight", names->part, (int)i, name);
        (void)spc_arch_weight(plan, layer, full, rows, cols);
    }
    return first;
}

void spc_arch_feed_experts(spc_plan *plan, const spc_arch_buffers *b, int32_t layer,
                           const spc_arch_experts *names)
{
    const spc_config *c = &plan->config;
    spc_op op = spc_op_of(SPC_OP_LINEAR, b->scores, b->normed, -1);
    char router[48];

    (void)snprintf(router, sizeof router, "%s.gate.weight", names->part);
    op.weight[0] = spc_arch_weight(plan, layer, router, c->experts, c->dim);
    spc_plan_op(plan, op);
    spc_plan_op(plan, spc_op_of(SPC_OP_ROUTE, b->route, b->scores, -1));
    op = spc_op_of(SPC_OP_EXPERTS, b->gated, b->normed, b->route);
    op.weight[0] = expert_matrices(plan, layer, names, names->gate, c->ffn, c->dim);
    op.weight[1] = expert_matrices(plan, layer, names, names->up, c->ffn, c->dim);
    spc_plan_op(plan, op);
    op = spc_op_of(SPC_OP_GLU, b->product, b->gated, -1);
    op.activation = c->activation;
    spc_plan_op(plan, op);
    op = spc_op_of(SPC_OP_MIX, b->projected, b->product, b->route);
    op.weight[0] = expert_matrices(plan, layer, names, names->down, c->dim, c->ffn);
    spc_plan_op(plan, op);
}

int32_t spc_arch_embed(spc_plan *plan, const spc_arch_buffers *b, float scale)
{
    const spc_config *c = &plan->config;
    int32_t embedding = spc_plan_weight(plan, "model.embed_tokens.weight", c->vocab, c->dim);
    spc_op op = spc_op_of(SPC_OP_EMBED, b->hidden, -1, -1);

    op.weight[0] = embedding;
    op.scale = scale;
    spc_plan_op(plan, op);
    return embedding;
}

void spc_arch_head(spc_plan *plan, const spc_arch_buffers *b, int32_t embedding, float plus)
{
    const spc_config *c = &plan->config;
    spc_op op = spc_op_of(SPC_OP_HEAD, -1, b->normed, -1);

    spc_arch_norm(plan, b->normed, b->hidden, spc_plan_weight(plan, "model.norm.weight", c->dim, 0),
                  plus);
    op.weight[0] = c->tied ? embedding : spc_plan_weight(plan, "lm_head.weight", c->vocab, c->dim);
    op.scale = (float)c->head_scale;
    op.cap = (float)c->final_cap;
    spc_plan_op(plan, op);
}
