/* SPDX-License-Identifier: Apache-2.0 */
/* arch_llama.c - Llama and its relatives: RMSNorm, rotary positions, grouped-query attention,
 * SwiGLU.
 *
 * Mistral sees a window, Qwen2 adds vectors to queries, keys and values, Qwen3 norms queries and
 * keys, SmolLM3 has layers without positions, Phi-3 tensors that are several matrices, and heads of
 * which a part turns; all but the norms is the config's, as are the sizes. */
#include "arch_parts.h"

static void layer(spc_plan *plan, const spc_arch_buffers *b, int32_t i, bool qk_norm)
{
    int32_t dim = plan->config.dim;

    spc_arch_norm(plan, b->normed, b->hidden,
                  spc_arch_weight(plan, i, "input_layernorm.weight", dim, 0), 0);
    spc_arch_attention(plan, b, i, qk_norm, 0);
    spc_arch_add(plan, b->hidden, b->hidden, b->projected);
    spc_arch_norm(plan, b->normed, b->hidden,
                  spc_arch_weight(plan, i, "post_attention_layernorm.weight", dim, 0), 0);
    spc_arch_feed_forward(plan, b, i);
    spc_arch_add(plan, b->hidden, b->hidden, b->projected);
}

static void decoder(spc_plan *plan, bool qk_norm)
{
    spc_arch_buffers b = spc_arch_buffers_of(plan);
    int32_t embedding = spc_arch_embed(plan, &b, 1);

    for (int32_t i = 0; i < plan->config.layers; i++) layer(plan, &b, i, qk_norm);
    spc_arch_head(plan, &b, embedding, 0);
}

static void build(spc_plan *plan)
{
    decoder(plan, false);
}

static void build_qwen3(spc_plan *plan)
{
    decoder(plan, true);
}

const spc_architecture spc_arch_llama = {"LlamaForCausalLM", build};
const spc_architecture spc_arch_mistral = {"MistralForCausalLM", build};
const spc_architecture spc_arch_smollm3 = {"SmolLM3ForCausalLM", build};
const spc_architecture spc_arch_phi3 = {"Phi3ForCausalLM", build};
const spc_architecture spc_arch_qwen2 = {"Qwen2ForCausalLM", build};
const spc_architecture spc_arch_qwen3 = {"Qwen3ForCausalLM", build_qwen3};
