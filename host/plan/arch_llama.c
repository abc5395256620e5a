/* SPDX-License-Identifier: Apache-2.0 */
/* arch_llama.c - Llama and its relatives: RMSNorm, rotary positions, grouped-query attention,
 * SwiGLU.
 *
 * Mistral sees a window, in Ministral 3 queries grow with their position, Qwen2 adds vectors to
 * queries, keys and values, Qwen3 norms queries and keys, SmolLM3 has layers without positions,
 * Phi-3 tensors that are several matrices, and heads of which a part turns, Mixtral and Qwen3-MoE
 * experts, Granite scales what is embedded, added and scored; all but the norms and the names of
 * experts is the config's, as are the sizes. */
#include "arch_parts.h"

static void layer(spc_plan *plan, const spc_arch_buffers *b, int32_t i, bool qk_norm,
                  const spc_arch_experts *experts)
{
    int32_t dim = plan->config.dim;

    spc_arch_norm(plan, b->normed, b->hidden,
                  spc_arch_weight(plan, i, "input_layernorm.weight", dim, 0), 0);
    spc_arch_attention(plan, b, i, qk_norm, 0);
    spc_arch_add(plan, b->hidden, b->hidden, b->projected);
    spc_arch_norm(plan, b->normed, b->hidden,
                  spc_arch_weight(plan, i, "post_attention_layernorm.weight", dim, 0), 0);
    if (experts) {
        spc_arch_feed_experts(plan, b, i, experts);
    } else {
        spc_arch_feed_forward(plan, b, i);
    }
    spc_arch_add(plan, b->hidden, b->hidden, b->projected);
}

/* experts: how they are named; NULL: there are none */
static void decoder(spc_plan *plan, bool qk_norm, const spc_arch_experts *experts)
{
    spc_arch_buffers b = spc_arch_buffers_of(plan);
    double scale = plan->config.embedding_scale / plan->config.residual_scale;
    int32_t embedding = spc_arch_embed(plan, &b, (float)scale);

    for (int32_t i = 0; i < plan->config.layers; i++) layer(plan, &b, i, qk_norm, experts);
    spc_arch_head(plan, &b, embedding, 0);
}

static void build(spc_plan *plan)
{
    decoder(plan, false, NULL);
}

static void build_qwen3(spc_plan *plan)
{
    decoder(plan, true, NULL);
}

static void build_mixtral(spc_plan *plan)
{
    static const spc_arch_experts names = {"block_sparse_moe", "w1", "w3", "w2"};

    decoder(plan, false, &names);
}

static void build_qwen3_moe(spc_plan *plan)
{
    static const spc_arch_experts names = {"mlp", "gate_proj", "up_proj", "down_proj"};

    decoder(plan, true, &names);
}

/* Granite adds `residual_scale` times what its layers compute.  Here hidden is what it is there
 * over that scale, to which layers add what they compute: embedded rows are scaled so (decoder),
 * and of a scaled row a norm is the same, with its eps scaled by the square.  All that reads hidden
 * are norms, so that nothing else changes but how the last bits are rounded. */
static void build_granite(spc_plan *plan)
{
    plan->config.norm_eps /= plan->config.residual_scale * plan->config.residual_scale;
    decoder(plan, false, NULL);
}

const spc_architecture spc_arch_llama = {"LlamaForCausalLM", build};
const spc_architecture spc_arch_mistral = {"MistralForCausalLM", build};
const spc_architecture spc_arch_ministral3 = {"Ministral3ForCausalLM", build};
const spc_architecture spc_arch_smollm3 = {"SmolLM3ForCausalLM", build};
const spc_architecture spc_arch_phi3 = {"Phi3ForCausalLM", build};
const spc_architecture spc_arch_granite = {"GraniteForCausalLM", build_granite};
const spc_architecture spc_arch_qwen2 = {"Qwen2ForCausalLM", build};
const spc_architecture spc_arch_qwen3 = {"Qwen3ForCausalLM", build_qwen3};
const spc_architecture spc_arch_mixtral = {"MixtralForCausalLM", build_mixtral};
const spc_architecture spc_arch_qwen3_moe = {"Qwen3MoeForCausalLM", build_qwen3_moe};
