/* SPDX-License-Identifier: Apache-2.0 */
/* config_family.c - what differs from family to family: biases, activation, windows, caps.
 *
 * A family is told by the beginning of its architecture's name; what a file leaves out is what
 * transformers' configuration class of the family puts there.  Names that fit no family are read
 * as Llama's: whether there is a plan for them is decided elsewhere (host/plan/plan.c). */
#include "config_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum { LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3, SMOLLM3, PHI3, GRANITE } family;

static family family_of(const spc_config *c)
{
    static const struct {
        const char *begin;
        family is;
    } names[] = {{"Mistral", MISTRAL}, {"Ministral3", MISTRAL}, {"Mixtral", MISTRAL},
                 {"Qwen2", QWEN2},     {"Qwen3", QWEN3},        {"Gemma2", GEMMA2},
                 {"Gemma3", GEMMA3},   {"SmolLM3", SMOLLM3},    {"Phi3", PHI3},
                 {"Granite", GRANITE}};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strncmp(c->architecture, names[i].begin, strlen(names[i].begin)) == 0) {
            return names[i].is;
        }
    }
    return LLAMA;
}

static bool is_gemma(family f)
{
    return f == GEMMA2 || f == GEMMA3;
}

static spc_status read_activation(const spc_config_reader *r, family f, spc_config *c)
{
    const char *key = is_gemma(f) ? "hidden_activation" : "hidden_act";
    const char *usual = is_gemma(f) ? "gelu_pytorch_tanh" : "silu";
    const json_t *value = json_object_get(r->root, key);
    const char *name = !value || json_is_null(value) ? usual : json_string_value(value);

    if (name && strcmp(name, "silu") == 0) {
        c->activation = SPC_ACT_SILU;
    } else if (name && (strcmp(name, "gelu_pytorch_tanh") == 0 || strcmp(name, "gelu_new") == 0)) {
        c->activation = SPC_ACT_GELU_TANH;
    } else {
        return spc_config_wrong(r, key, "'silu', 'gelu_pytorch_tanh' or 'gelu_new'");
    }
    return SPC_OK;
}

static spc_status read_biases(const spc_config_reader *r, family f, spc_config *c)
{
    bool attention, mlp;
    spc_status s = spc_config_bool(r, "attention_bias", false, &attention);

    if (s == SPC_OK) s = spc_config_bool(r, "mlp_bias", false, &mlp);
    if (s != SPC_OK) return s;
    if (f == MISTRAL || f == PHI3) attention = false; /* have none, whatever the file says */
    c->qkv_bias = f == QWEN2 || attention;
    c->out_bias = f != QWEN2 && attention;
    c->mlp_bias = (f == LLAMA || f == SMOLLM3 || f == GRANITE) && mlp;
    return SPC_OK;
}

/* Granite's multipliers: of scores, embedded rows, what layers add to them, and logits. */
static spc_status read_multipliers(const spc_config_reader *r, spc_config *c)
{
    double divisor;
    spc_status s = spc_config_number(r, "attention_multiplier", 1e-6, 1e6, 1, &c->attention_scale);

    if (s == SPC_OK) {
        s = spc_config_number(r, "embedding_multiplier", 1e-6, 1e6, 1, &c->embedding_scale);
    }
    if (s == SPC_OK) {
        s = spc_config_number(r, "residual_multiplier", 1e-3, 1e3, 1, &c->residual_scale);
    }
    if (s == SPC_OK) s = spc_config_number(r, "logits_scaling", 1e-6, 1e6, 1, &divisor);
    if (s == SPC_OK) c->head_scale = 1 / divisor;
    return s;
}

/* Scores: how they are scaled and bounded. */
static spc_status read_scores(const spc_config_reader *r, family f, spc_config *c)
{
    double scalar = c->head_dim;
    spc_status s = SPC_OK;

    if (f == GRANITE) return read_multipliers(r, c);
    if (is_gemma(f)) {
        s = spc_config_number(r, "query_pre_attn_scalar", 1e-6, 1e9, 256, &scalar);
        if (s == SPC_OK) {
            s = spc_config_number(r, "attn_logit_softcapping", 1e-6, 1e9, 0, &c->attention_cap);
        }
        if (s == SPC_OK) {
            s = spc_config_number(r, "final_logit_softcapping", 1e-6, 1e9, 0, &c->final_cap);
        }
    }
    c->attention_scale = 1 / sqrt(scalar);
    return s;
}

/* Layers that see a window, as the family has them where the file does not list them. */
static spc_status default_layers(const spc_config_reader *r, family f, spc_config *c)
{
    int32_t first = 0, pattern = 1;
    bool use = false;
    spc_status s = SPC_OK;

    switch (f) {
    case MISTRAL:
    case PHI3: memset(c->sliding, 1, (size_t)c->layers); return SPC_OK;
    case SMOLLM3: /* those without rotary positions */
        s = spc_config_bool(r, "use_sliding_window", false, &use);
        if (s == SPC_OK && use) memcpy(c->sliding, c->unturned, (size_t)c->layers);
        return s;
    case GEMMA2: pattern = 2; break;
    case GEMMA3:
        s = spc_config_size(r, "sliding_window_pattern", 1, SPC_CONFIG_LAYERS, 6, &pattern);
        if (s == SPC_OK) {
            s = spc_config_size(r, "_sliding_window_pattern", 1, SPC_CONFIG_LAYERS, pattern,
                                &pattern);
        }
        break;
    case QWEN2:
    case QWEN3: /* the last ones, from max_window_layers on */
        s = spc_config_bool(r, "use_sliding_window", false, &use);
        if (s == SPC_OK) {
            s = spc_config_size(r, "max_window_layers", 0, SPC_CONFIG_LAYERS, 28, &first);
        }
        for (int32_t i = first; s == SPC_OK && use && i < c->layers; i++) c->sliding[i] = 1;
        return s;
    default: return SPC_OK;
    }
    for (int32_t i = 0; i < c->layers; i++) c->sliding[i] = (i + 1) % pattern != 0;
    return s;
}

/* layer_types: one name a layer. */
static spc_status listed_layers(const spc_config_reader *r, const json_t *list, spc_config *c)
{
    char expected[80];

    (void)snprintf(expected, sizeof expected, "%d times 'full_attention' or 'sliding_attention'",
                   (int)c->layers);
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->layers) {
        return spc_config_wrong(r, "layer_types", expected);
    }
    for (int32_t i = 0; i < c->layers; i++) {
        const char *type = json_string_value(json_array_get(list, (size_t)i));

        if (!type ||
            (strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0)) {
            return spc_config_wrong(r, "layer_types", expected);
        }
        c->sliding[i] = strcmp(type, "sliding_attention") == 0;
    }
    return SPC_OK;
}

/* no_rope_layers: a number a layer, 0 where there are no rotary positions; or every so many. */
static spc_status read_unturned(const spc_config_reader *r, family f, spc_config *c)
{
    const json_t *list = json_object_get(r->root, "no_rope_layers");
    int32_t interval;
    char expected[40];

    if (f != SMOLLM3) return SPC_OK;
    (void)snprintf(expected, sizeof expected, "%d times 0 or 1", (int)c->layers);
    if (!list || json_is_null(list)) {
        spc_status s =
            spc_config_size(r, "no_rope_layer_interval", 1, SPC_CONFIG_LAYERS, 4, &interval);

        for (int32_t i = 0; s == SPC_OK && i < c->layers; i++) {
            c->unturned[i] = (i + 1) % interval == 0;
        }
        return s;
    }
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->layers) {
        return spc_config_wrong(r, "no_rope_layers", expected);
    }
    for (int32_t i = 0; i < c->layers; i++) {
        const json_t *turns = json_array_get(list, (size_t)i);

        if (!json_is_integer(turns) || json_integer_value(turns) < 0 ||
            json_integer_value(turns) > 1) {
            return spc_config_wrong(r, "no_rope_layers", expected);
        }
        c->unturned[i] = json_integer_value(turns) == 0;
    }
    return SPC_OK;
}

static spc_status read_windows(const spc_config_reader *r, family f, spc_config *c)
{
    const json_t *list = json_object_get(r->root, "layer_types");
    const json_t *window = json_object_get(r->root, "sliding_window");
    spc_status s;

    if (f == LLAMA || f == GRANITE) return SPC_OK;
    s = list && !json_is_null(list) ? listed_layers(r, list, c) : default_layers(r, f, c);
    if (s != SPC_OK) return s;
    if (!window || json_is_null(window)) { /* nothing slides without a window */
        if (is_gemma(f) && memchr(c->sliding, 1, (size_t)c->layers)) {
            return spc_config_wrong(r, "sliding_window", "a whole number");
        }
        memset(c->sliding, 0, sizeof c->sliding);
        return SPC_OK;
    }
    return spc_config_size(r, "sliding_window", 1, SPC_CONFIG_CONTEXT, -1, &c->window);
}

spc_status spc_config_read_family(const spc_config_reader *r, spc_config *c)
{
    family f = family_of(c);
    bool both_ways = false;
    spc_status s = spc_config_bool(r, "tie_word_embeddings", is_gemma(f) || f == SMOLLM3, &c->tied);

    c->fused = f == PHI3;

    if (s == SPC_OK) s = spc_config_bool(r, "spc_buffers_bfloat16", false, &c->buffers_bfloat16);
    if (s == SPC_OK) s = read_activation(r, f, c);
    if (s == SPC_OK) s = read_biases(r, f, c);
    if (s == SPC_OK) s = read_scores(r, f, c);
    if (s == SPC_OK) s = read_unturned(r, f, c);
    if (s == SPC_OK) s = read_windows(r, f, c);
    if (s == SPC_OK) s = spc_config_bool(r, "use_bidirectional_attention", false, &both_ways);
    if (s == SPC_OK && both_ways) {
        return spc_config_wrong(r, "use_bidirectional_attention", "false (a model that decodes)");
    }
    return s;
}
