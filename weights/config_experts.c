/* SPDX-License-Identifier: Apache-2.0 */
/* config_experts.c - feed-forward parts of several experts, of which each token takes the few that
 * a router scores highest (Mixtral, Qwen3-MoE). */
#include "config_read.h"

#include <string.h>

/* So many experts of all layers together: a bound on what a plan has to name. */
enum { EXPERTS_MOST = 1 << 16 };

static bool is(const spc_config *c, const char *architecture)
{
    return strcmp(c->architecture, architecture) == 0;
}

/* Released models have experts in every layer; a plan knows one width of feed-forward parts. */
static spc_status check_layers(const spc_config_reader *r)
{
    const json_t *dense = json_object_get(r->root, "mlp_only_layers");
    int32_t step;
    spc_status s = spc_config_size(r, "decoder_sparse_step", 1, SPC_CONFIG_LAYERS, 1, &step);

    if (s != SPC_OK) return s;
    if (step != 1) {
        return spc_config_wrong(r, "decoder_sparse_step", "1 (experts in every layer)");
    }
    if (dense && !json_is_null(dense) && !(json_is_array(dense) && json_array_size(dense) == 0)) {
        return spc_config_wrong(r, "mlp_only_layers", "[] (experts in every layer)");
    }
    return SPC_OK;
}

spc_status spc_config_read_experts(const spc_config_reader *r, spc_config *c)
{
    const bool qwen = is(c, "Qwen3MoeForCausalLM");
    const char *count = "num_local_experts";
    spc_status s = SPC_OK;

    if (!qwen && !is(c, "MixtralForCausalLM")) return SPC_OK;
    if (qwen) s = check_layers(r);
    if (qwen && json_object_get(r->root, "num_experts")) count = "num_experts";
    if (s == SPC_OK) s = spc_config_size(r, count, 1, EXPERTS_MOST / c->layers, -1, &c->experts);
    if (s == SPC_OK) {
        const int32_t most = c->experts < SPC_CONFIG_CHOSEN ? c->experts : SPC_CONFIG_CHOSEN;

        s = spc_config_size(r, "num_experts_per_tok", 1, most, -1, &c->chosen);
    }
    c->shares_add_up = true;
    if (s == SPC_OK && qwen) {
        s = spc_config_size(r, "moe_intermediate_size", 1, SPC_CONFIG_FFN, -1, &c->ffn);
    }
    if (s == SPC_OK && qwen) s = spc_config_bool(r, "norm_topk_prob", false, &c->shares_add_up);
    return s;
}
