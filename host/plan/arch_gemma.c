/* SPDX-License-Identifier: Apache-2.0 */
/* arch_gemma.c - Gemma 2 and Gemma 3: as Llama, with norms before and behind each part, whose
 * tensors hold w - 1, embeddings times sqrt(dim), and layers that see a window only.
 *
 * Gemma 2 bounds scores and logits (the config's caps); Gemma 3 norms queries and keys and turns
 * them faster in layers with a window (local_rope). */
#include "arch_parts.h"

#include <math.h>

/* hidden += norm(projected) */
static void add_normed(spc_plan *plan, const spc_arch_buffers *b, int32_t layer, const char *name)
{
    spc_arch_norm(plan, b->normed, b->projected,
                  spc_arch_weight(plan, layer, name, plan->config.dim, 0), 1);
    spc_arch_add(plan, b->hidden, b->hidden, b->normed);
}

static void layer(spc_plan *plan, const spc_arch_buffers *b, int32_t i, bool qk_norm)
{
    int32_t dim = plan->config.dim;

    spc_arch_norm(plan, b->normed, b->hidden,
                  spc_arch_weight(plan, i, "input_layernorm.weight", dim, 0), 1);
    spc_arch_attention(plan, b, i, qk_norm, 1);
    add_normed(plan, b, i, "post_attention_layernorm.weight");
    spc_arch_norm(plan, b->normed, b->hidden,
                  spc_arch_weight(plan, i, "pre_feedforward_layernorm.weight", dim, 0), 1);
    spc_arch_feed_forward(plan, b, i);
    add_normed(plan, b, i, "post_feedforward_layernorm.weight");
}

static void decoder(spc_plan *plan, bool qk_norm)
{
    spc_arch_buffers b = spc_arch_buffers_of(plan);
    double scale = spc_config_buffer(&plan->config, sqrt((double)plan->config.dim));
    int32_t embedding = spc_arch_embed(plan, &b, (float)scale);

    for (int32_t i = 0; i < plan->config.layers; i++) layer(plan, &b, i, qk_norm);
    spc_arch_head(plan, &b, embedding, 1);
}

static void build_gemma2(spc_plan *plan)
{
    decoder(plan, false);
}

static void build_gemma3(spc_plan *plan)
{
    decoder(plan, true);
}

const spc_architecture spc_arch_gemma2 = {"Gemma2ForCausalLM", build_gemma2};
const spc_architecture spc_arch_gemma3 = {"Gemma3ForCausalLM", build_gemma3};
