/* SPDX-License-Identifier: Apache-2.0 */
/* config_t5.c - T5: an encoder and a decoder, relative positions in buckets.
 *
 * What a file leaves out is what transformers' T5Config puts there.  Its tie_word_embeddings is
 * also what says whether logits are scaled: v1.0 ties its head to the embedding and scales, v1.1
 * does neither.  Files of transformers 5 say the latter in scale_decoder_outputs and always "tied",
 * so that there the checkpoint decides: a head that is in it is used. */
#include "config_read.h"

#include <math.h>
#include <string.h>

enum { BUCKETS_MAX = 4096 };

bool spc_config_is_t5(const spc_config *c)
{
    return strncmp(c->architecture, "T5", 2) == 0;
}

static spc_status read_sizes(const spc_config_reader *r, spc_config *c)
{
    spc_status s = spc_config_size(r, "vocab_size", 1, SPC_CONFIG_VOCAB, 32128, &c->vocab);

    if (s == SPC_OK) s = spc_config_size(r, "d_model", 1, SPC_CONFIG_DIM, 512, &c->dim);
    if (s == SPC_OK) s = spc_config_size(r, "d_kv", 1, SPC_CONFIG_DIM, 64, &c->head_dim);
    if (s == SPC_OK) s = spc_config_size(r, "d_ff", 1, SPC_CONFIG_FFN, 2048, &c->ffn);
    if (s == SPC_OK) s = spc_config_size(r, "num_heads", 1, SPC_CONFIG_HEADS, 8, &c->heads);
    if (s == SPC_OK) {
        s = spc_config_size(r, "num_layers", 1, SPC_CONFIG_LAYERS, 6, &c->encoder_layers);
    }
    if (s == SPC_OK) {
        s = spc_config_size(r, "num_decoder_layers", 1, SPC_CONFIG_LAYERS, c->encoder_layers,
                            &c->layers);
    }
    if (s == SPC_OK) {
        s = spc_config_size(r, "n_positions", 2, SPC_CONFIG_CONTEXT, 512, &c->context);
    }
    if (s == SPC_OK && c->head_dim > SPC_CONFIG_DIM / c->heads) {
        s = spc_config_wrong(r, "d_kv", "at most 131072 in all heads together");
    }
    c->kv_heads = c->heads;
    c->context_most = SPC_CONFIG_CONTEXT;
    return s;
}

/* Both halves need a bucket for single steps and one for the rest, in the encoder in both
 * directions; beyond that the logarithm of buckets must have something to divide. */
static spc_status read_positions(const spc_config_reader *r, spc_config *c)
{
    spc_status s =
        spc_config_size(r, "relative_attention_num_buckets", 4, BUCKETS_MAX, 32, &c->buckets);

    if (s == SPC_OK && c->buckets % 4 != 0) {
        s = spc_config_wrong(r, "relative_attention_num_buckets", "a multiple of 4");
    }
    if (s == SPC_OK) {
        s = spc_config_size(r, "relative_attention_max_distance", 1, SPC_CONFIG_CONTEXT, 128,
                            &c->bucket_distance);
    }
    if (s == SPC_OK && c->bucket_distance <= c->buckets / 2) {
        s = spc_config_wrong(r, "relative_attention_max_distance",
                             "more than half of relative_attention_num_buckets");
    }
    return s;
}

static spc_status read_feed_forward(const spc_config_reader *r, spc_config *c)
{
    static const struct {
        const char *name;
        spc_activation activation;
        bool gated;
    } known[] = {{"relu", SPC_ACT_RELU, false},
                 {"gated-gelu", SPC_ACT_GELU_TANH, true},
                 {"gated-silu", SPC_ACT_SILU, true}};
    const json_t *value = json_object_get(r->root, "feed_forward_proj");
    const char *name = !value || json_is_null(value) ? "relu" : json_string_value(value);

    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) != 0) continue;
        c->activation = known[i].activation;
        c->gated = known[i].gated;
        return SPC_OK;
    }
    return spc_config_wrong(r, "feed_forward_proj", "'relu', 'gated-gelu' or 'gated-silu'");
}

static spc_status read_head(const spc_config_reader *r, const spc_bundle *bundle, spc_config *c)
{
    bool tied, scaled;
    spc_status s = spc_config_bool(r, "tie_word_embeddings", true, &tied);

    if (s == SPC_OK) s = spc_config_bool(r, "scale_decoder_outputs", tied, &scaled);
    if (s != SPC_OK) return s;
    c->tied = tied && (scaled || !spc_bundle_find(bundle, "lm_head.weight"));
    c->head_scale = scaled ? 1 / sqrt((double)c->dim) : 1;
    return SPC_OK;
}

spc_status spc_config_read_t5(const spc_config_reader *r, const spc_bundle *bundle, spc_config *c)
{
    spc_status s = read_sizes(r, c);

    if (s == SPC_OK) s = read_positions(r, c);
    if (s == SPC_OK) s = read_feed_forward(r, c);
    if (s == SPC_OK) s = read_head(r, bundle, c);
    if (s == SPC_OK) {
        s = spc_config_number(r, "layer_norm_epsilon", 0, 1, 1e-6, &c->norm_eps);
    }
    if (s == SPC_OK) {
        s = spc_config_size(r, "decoder_start_token_id", 0, c->vocab - 1, -1, &c->start);
    }
    c->attention_scale = 1; /* what others divide scores by is in T5's weights */
    return s;
}
