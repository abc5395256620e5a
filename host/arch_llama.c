/* SPDX-License-Identifier: Apache-2.0 */
/* arch_llama.c - Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
 *
 * Tensor names as in Hugging Face checkpoints (LlamaForCausalLM). */
#include "plan.h"

#include <stdio.h>

typedef struct {
    int32_t hidden, normed, qkv, attended, projected, gated, product;
} buffers;

static int32_t layer_weight(spc_plan *plan, int32_t layer, const char *name, int32_t rows,
                            int32_t cols)
{
    char full[SPC_PLAN_NAME];

    (void)snprintf(full, sizeof full, "model.layers.%d.%s.weight", (int)layer, name);
    return spc_plan_weight(plan, full, rows, cols);
}

static void norm(spc_plan *plan, int32_t out, int32_t in, int32_t weight)
{
    spc_plan_op(plan, (spc_op){SPC_OP_NORM, out, in, -1, {weight, -1, -1}, 0});
}

static void linear(spc_plan *plan, int32_t out, int32_t in, int32_t first, int32_t second,
                   int32_t third)
{
    spc_plan_op(plan, (spc_op){SPC_OP_LINEAR, out, in, -1, {first, second, third}, 0});
}

static void add(spc_plan *plan, int32_t out, int32_t a, int32_t b)
{
    spc_plan_op(plan, (spc_op){SPC_OP_ADD, out, a, b, {-1, -1, -1}, 0});
}

static void attention(const spc_config *c, spc_plan *plan, const buffers *b, int32_t layer)
{
    int32_t queries = c->heads * c->head_dim, keys = c->kv_heads * c->head_dim;
    int32_t q = layer_weight(plan, layer, "self_attn.q_proj", queries, c->dim);
    int32_t k = layer_weight(plan, layer, "self_attn.k_proj", keys, c->dim);
    int32_t v = layer_weight(plan, layer, "self_attn.v_proj", keys, c->dim);

    norm(plan, b->normed, b->hidden, layer_weight(plan, layer, "input_layernorm", c->dim, 0));
    linear(plan, b->qkv, b->normed, q, k, v);
    spc_plan_op(plan, (spc_op){SPC_OP_ROPE, b->qkv, b->qkv, -1, {-1, -1, -1}, layer});
    spc_plan_op(plan, (spc_op){SPC_OP_ATTEND, b->attended, b->qkv, -1, {-1, -1, -1}, layer});
    linear(plan, b->projected, b->attended,
           layer_weight(plan, layer, "self_attn.o_proj", c->dim, queries), -1, -1);
    add(plan, b->hidden, b->hidden, b->projected);
}

static void feed_forward(const spc_config *c, spc_plan *plan, const buffers *b, int32_t layer)
{
    int32_t gate = layer_weight(plan, layer, "mlp.gate_proj", c->ffn, c->dim);
    int32_t up = layer_weight(plan, layer, "mlp.up_proj", c->ffn, c->dim);

    norm(plan, b->normed, b->hidden,
         layer_weight(plan, layer, "post_attention_layernorm", c->dim, 0));
    linear(plan, b->gated, b->normed, gate, up, -1);
    spc_plan_op(plan, (spc_op){SPC_OP_GLU, b->product, b->gated, -1, {-1, -1, -1}, layer});
    linear(plan, b->projected, b->product,
           layer_weight(plan, layer, "mlp.down_proj", c->dim, c->ffn), -1, -1);
    add(plan, b->hidden, b->hidden, b->projected);
}

static void build(const spc_config *c, spc_plan *plan)
{
    int32_t queries = c->heads * c->head_dim, keys = c->kv_heads * c->head_dim;
    buffers b = {spc_plan_buffer(plan, "hidden", c->dim),
                 spc_plan_buffer(plan, "normed", c->dim),
                 spc_plan_buffer(plan, "qkv", queries + 2 * keys),
                 spc_plan_buffer(plan, "attended", queries),
                 spc_plan_buffer(plan, "projected", c->dim),
                 spc_plan_buffer(plan, "gated", 2 * c->ffn),
                 spc_plan_buffer(plan, "product", c->ffn)};
    int32_t embedding = spc_plan_weight(plan, "model.embed_tokens.weight", c->vocab, c->dim);

    spc_plan_op(plan, (spc_op){SPC_OP_EMBED, b.hidden, -1, -1, {embedding, -1, -1}, 0});
    for (int32_t layer = 0; layer < c->layers; layer++) {
        attention(c, plan, &b, layer);
        feed_forward(c, plan, &b, layer);
    }
    norm(plan, b.normed, b.hidden, spc_plan_weight(plan, "model.norm.weight", c->dim, 0));

    int32_t head = c->tied ? embedding : spc_plan_weight(plan, "lm_head.weight", c->vocab, c->dim);

    spc_plan_op(plan, (spc_op){SPC_OP_HEAD, -1, b.normed, -1, {head, -1, -1}, 0});
}

const spc_architecture spc_arch_llama = {"LlamaForCausalLM", build};
