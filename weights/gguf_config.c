/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_config.c - the config.json that a GGUF file's metadata amounts to. */
#include "gguf_model.h"

#include "quant.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 32, PAIRS_MAX = 512 };

static const char short_factors[] = "rope_factors_short.weight";

/* general.architecture, and the class of transformers that computes the same. */
static const struct {
    const char *gguf, *name;
} architectures[] = {{"llama", "LlamaForCausalLM"},         {"qwen2", "Qwen2ForCausalLM"},
                     {"qwen3", "Qwen3ForCausalLM"},         {"gemma2", "Gemma2ForCausalLM"},
                     {"gemma3", "Gemma3ForCausalLM"},       {"smollm3", "SmolLM3ForCausalLM"},
                     {"phi3", "Phi3ForCausalLM"},           {"qwen3moe", "Qwen3MoeForCausalLM"},
                     {"mistral3", "Ministral3ForCausalLM"}, {"granite", "GraniteForCausalLM"}};

/* The object under way; the first failure stays. */
typedef struct {
    const char *where;
    const spc_gguf *g;
    const spc_tensor_list *tensors;
    char architecture[NAME];
    json_t *root;
    spc_status status;
    spc_error *err;
} maker;

static void fail_memory(maker *m)
{
    m->status = spc_error_set(m->err, SPC_ENOMEM, "%s: no memory for its configuration", m->where);
}

static void set(maker *m, json_t *object, const char *key, json_t *value)
{
    if (m->status == SPC_OK && json_object_set_new(object, key, value) != 0) {
        fail_memory(m);
    } else if (m->status != SPC_OK) {
        json_decref(value);
    }
}

static const spc_gguf_value *find(const maker *m, const char *key)
{
    char full[128];

    (void)snprintf(full, sizeof full, "%s.%s", m->architecture, key);
    return spc_gguf_find(m->g, full);
}

static const spc_tensor *tensor(const maker *m, const char *name)
{
    for (int32_t i = 0; i < m->tensors->count; i++) {
        if (strcmp(m->tensors->tensor[i].name, name) == 0) return &m->tensors->tensor[i];
    }
    return NULL;
}

static void wrong(maker *m, const char *key, const char *expected)
{
    if (m->status != SPC_OK) return;
    m->status =
        spc_error_set(m->err, SPC_EMODEL, "%s: %s.%s: expected %s, found %s", m->where,
                      m->architecture, key, expected, find(m, key) ? "another value" : "none");
}

/* A whole number; false when it is not there (which is a failure when it must). */
static bool whole(maker *m, const char *key, bool must, int64_t *out)
{
    const spc_gguf_value *v = find(m, key);

    if (m->status != SPC_OK) return false;
    if (!v && !must) return false;
    if (spc_gguf_integer(v, out) && *out >= 0) return true;
    wrong(m, key, "a whole number");
    return false;
}

static bool number(maker *m, const char *key, bool must, double *out)
{
    const spc_gguf_value *v = find(m, key);

    if (m->status != SPC_OK) return false;
    if (!v && !must) return false;
    if (spc_gguf_number(v, out) && isfinite(*out)) return true;
    wrong(m, key, "a finite number");
    return false;
}

static void copy_whole(maker *m, const char *key, const char *name, bool must)
{
    int64_t value;

    if (whole(m, key, must, &value)) set(m, m->root, name, json_integer(value));
}

static void copy_number(maker *m, const char *key, const char *name, bool must)
{
    double value;

    if (number(m, key, must, &value)) set(m, m->root, name, json_real(value));
}

static bool is_phi3(const maker *m)
{
    return strcmp(m->architecture, "phi3") == 0;
}

static bool is_ministral3(const maker *m)
{
    return strcmp(m->architecture, "mistral3") == 0;
}

/* ---- parts ------------------------------------------------------------------------------------
 */

static void make_names(maker *m)
{
    spc_gguf_string text = {"", 0};
    const char *name = NULL;
    int64_t experts = 0;

    (void)spc_gguf_text(spc_gguf_find(m->g, "general.architecture"), &text);
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (strlen(architectures[i].gguf) != text.bytes ||
            memcmp(architectures[i].gguf, text.text, (size_t)text.bytes) != 0) {
            continue;
        }
        (void)snprintf(m->architecture, sizeof m->architecture, "%s", architectures[i].gguf);
        name = architectures[i].name;
    }
    if (!name) {
        m->status = spc_error_set(m->err, SPC_EMODEL,
                                  "%s: general.architecture: expected one of llama (Mistral and "
                                  "Mixtral too), qwen2, qwen3, qwen3moe, gemma2, gemma3, smollm3, "
                                  "phi3, mistral3, granite; found '%.*s'",
                                  m->where, text.bytes < 40 ? (int)text.bytes : 40, text.text);
        return;
    }
    if (strcmp(m->architecture, "llama") == 0 && find(m, "attention.sliding_window")) {
        name = "MistralForCausalLM";
    }
    if (strcmp(m->architecture, "llama") == 0 &&
        spc_gguf_integer(find(m, "expert_count"), &experts) && experts > 0) {
        name = "MixtralForCausalLM";
    }
    set(m, m->root, "architectures", json_pack("[s]", name));
    set(m, m->root, "model_type", json_string(m->architecture));
}

static void make_sizes(maker *m)
{
    const spc_tensor *embedding = tensor(m, "model.embed_tokens.weight");
    int64_t heads = 0, dim = 0, head_dim, other;

    if (m->status == SPC_OK && (!embedding || embedding->rank != 2)) {
        m->status =
            spc_error_set(m->err, SPC_ESHAPE, "%s: expected a matrix 'token_embd.weight', found %s",
                          m->where, embedding ? "another shape" : "none");
        return;
    }
    if (m->status == SPC_OK) set(m, m->root, "vocab_size", json_integer(embedding->shape[0]));
    (void)whole(m, "embedding_length", true, &dim);
    (void)whole(m, "attention.head_count", true, &heads);
    if (m->status == SPC_OK && heads < 1) wrong(m, "attention.head_count", "1 or more");
    copy_whole(m, "embedding_length", "hidden_size", true);
    copy_whole(m, "block_count", "num_hidden_layers", true);
    copy_whole(m, "attention.head_count", "num_attention_heads", true);
    copy_whole(m, "attention.head_count_kv", "num_key_value_heads", false);
    copy_whole(m, "feed_forward_length", "intermediate_size", true);
    copy_whole(m, "context_length", "max_position_embeddings", true);
    copy_number(m, "attention.layer_norm_rms_epsilon", "rms_norm_eps", true);
    if (m->status != SPC_OK) return;
    head_dim = dim / heads;
    if (whole(m, "attention.key_length", false, &other)) head_dim = other;
    set(m, m->root, "head_dim", json_integer(head_dim));
    if (whole(m, "attention.value_length", false, &other) && other != head_dim) {
        wrong(m, "attention.value_length", "the length of keys");
    }
    if (whole(m, "rope.dimension_count", false, &other) && other != head_dim) {
        if (!is_phi3(m) || other > head_dim) {
            wrong(m, "rope.dimension_count", "the length of keys (the whole head turns)");
        }
        set(m, m->root, "partial_rotary_factor", json_real((double)other / (double)head_dim));
    }
}

/* A tensor of what each pair's frequency is divided by. */
static void make_divisors(maker *m, const char *name, json_t *rope, const char *key)
{
    const spc_tensor *t = tensor(m, name);
    float value[PAIRS_MAX];
    json_t *list = json_array();

    if (!list) {
        fail_memory(m);
        return;
    }
    set(m, rope, key, list);
    if (m->status != SPC_OK) return;
    if (!t || t->rank != 1 || t->shape[0] > PAIRS_MAX || t->dtype != SPC_DTYPE_F32) {
        m->status = spc_error_set(m->err, SPC_ESHAPE,
                                  "%s: tensor '%s': expected a vector of F32, one entry for each "
                                  "pair of a head, found %s",
                                  m->where, name, t ? "another" : "none");
        return;
    }
    spc_dequantise(t->dtype, t->data, t->shape[0], value);
    for (int64_t i = 0; i < t->shape[0]; i++) {
        if (!isfinite(value[i])) {
            m->status = spc_error_set(m->err, SPC_EMODEL,
                                      "%s: tensor '%s': expected finite numbers", m->where, name);
            return;
        }
        if (json_array_append_new(list, json_real((double)value[i])) == 0) continue;
        fail_memory(m);
        return;
    }
}

/* longrope: two sets of divisors; the factor on attention is computed, or the file's. */
static void make_long(maker *m, json_t *rope)
{
    double attention;
    int64_t context;

    set(m, rope, "rope_type", json_string("longrope"));
    make_divisors(m, short_factors, rope, "short_factor");
    make_divisors(m, "rope_factors_long.weight", rope, "long_factor");
    if (whole(m, "rope.scaling.original_context_length", true, &context)) {
        set(m, rope, "original_max_position_embeddings", json_integer(context));
    }
    if (number(m, "rope.scaling.attn_factor", false, &attention)) {
        set(m, rope, "attention_factor", json_real(attention));
    }
}

/* What yarn learns to multiply attention with: 0.1 m ln(factor) + 1. */
static double yarn_scale(double factor, double m)
{
    return factor > 1 ? 0.1 * m * log(factor) + 1 : 1;
}

/* Ministral 3's files say what yarn's scale is divided by as mscale_all_dim does: by its m, which
 * multiplies the logarithm; mscale itself is 1. */
static double yarn_divisor(maker *m, double factor)
{
    static const char key[] = "rope.scaling.yarn_log_multiplier";
    double all = 0;

    if (!is_ministral3(m) || !number(m, key, false, &all)) return 1;
    if (all < 0 || all > 1e6) wrong(m, key, "a number of 0 to 1e6");
    return all > 0 ? yarn_scale(factor, all) : 1;
}

static void make_yarn(maker *m, json_t *rope)
{
    double factor = 1, attention = 1, scale, beta;
    int64_t context;

    (void)number(m, "rope.scaling.factor", true, &factor);
    if (whole(m, "rope.scaling.original_context_length", false, &context)) {
        set(m, rope, "original_max_position_embeddings", json_integer(context));
    }
    scale = yarn_scale(factor, 1) / yarn_divisor(m, factor);
    (void)number(m, "rope.scaling.attn_factor", false, &attention);
    set(m, rope, "attention_factor", json_real(attention * scale));
    if (number(m, "rope.scaling.yarn_beta_fast", false, &beta)) {
        set(m, rope, "beta_fast", json_real(beta));
    }
    if (number(m, "rope.scaling.yarn_beta_slow", false, &beta)) {
        set(m, rope, "beta_slow", json_real(beta));
    }
    set(m, rope, "rope_type", json_string("yarn"));
    set(m, rope, "factor", json_real(factor));
}

static void make_scaling(maker *m, json_t *rope)
{
    spc_gguf_string type = {"none", 4};
    double factor = 1;

    if (tensor(m, "rope_freqs.weight")) {
        set(m, rope, "rope_type", json_string("spc_divisors"));
        make_divisors(m, "rope_freqs.weight", rope, "divisors");
        return;
    }
    if (tensor(m, short_factors)) {
        make_long(m, rope);
        return;
    }
    if (number(m, "rope.scale_linear", false, &factor)) type = (spc_gguf_string){"linear", 6};
    if (find(m, "rope.scaling.type") && !spc_gguf_text(find(m, "rope.scaling.type"), &type)) {
        wrong(m, "rope.scaling.type", "a name");
    }
    if (type.bytes == 4 && memcmp(type.text, "none", 4) == 0) return;
    if (type.bytes == 4 && memcmp(type.text, "yarn", 4) == 0) {
        make_yarn(m, rope);
    } else if (type.bytes == 6 && memcmp(type.text, "linear", 6) == 0) {
        (void)number(m, "rope.scaling.factor", factor == 1, &factor);
        set(m, rope, "rope_type", json_string("linear"));
        set(m, rope, "factor", json_real(factor));
    } else {
        wrong(m, "rope.scaling.type", "one of none, linear, yarn");
    }
}

static void make_rope(maker *m)
{
    bool gemma3 = strcmp(m->architecture, "gemma3") == 0;
    double theta = gemma3 ? 1e6 : 1e4, local = 1e4, growth;
    json_t *rope = json_object();

    if (!rope) {
        fail_memory(m);
        return;
    }
    (void)number(m, "rope.freq_base", false, &theta);
    set(m, rope, "rope_theta", json_real(theta));
    make_scaling(m, rope);
    if (is_ministral3(m) && number(m, "attention.temperature_scale", false, &growth)) {
        set(m, rope, "llama_4_scaling_beta", json_real(growth));
    }
    if (!gemma3) {
        set(m, m->root, "rope_parameters", rope);
        return;
    }
    (void)number(m, "rope.freq_base_swa", false, &local);
    set(m, m->root, "rope_parameters",
        json_pack("{s:o, s:{s:f}}", "full_attention", rope, "sliding_attention", "rope_theta",
                  local));
}

/* Gemma's largest models (told by their layers, as the reference does) scale scores by the width
 * over the heads, the others by the length of keys. */
static void make_gemma(maker *m)
{
    int64_t layers = 0, dim = 0, heads = 1, head_dim = 0, pattern = 6;
    bool gemma3 = strcmp(m->architecture, "gemma3") == 0;

    (void)whole(m, "block_count", true, &layers);
    (void)whole(m, "embedding_length", true, &dim);
    (void)whole(m, "attention.head_count", true, &heads);
    head_dim = heads > 0 ? dim / heads : 0;
    if (layers != (gemma3 ? 62 : 46)) (void)whole(m, "attention.key_length", false, &head_dim);
    set(m, m->root, "query_pre_attn_scalar", json_integer(head_dim));
    copy_whole(m, "attention.sliding_window", "sliding_window", true);
    copy_number(m, "attn_logit_softcapping", "attn_logit_softcapping", false);
    copy_number(m, "final_logit_softcapping", "final_logit_softcapping", false);
    if (gemma3) {
        (void)whole(m, "attention.sliding_window_pattern", false, &pattern);
        set(m, m->root, "sliding_window_pattern", json_integer(pattern));
    }
}

/* Whoever runs such files makes the shares of a token's experts add up. */
static void make_experts(maker *m)
{
    int64_t experts = 0;
    const bool qwen = strcmp(m->architecture, "qwen3moe") == 0;

    if (!whole(m, "expert_count", qwen, &experts) || experts == 0) return;
    set(m, m->root, "num_local_experts", json_integer(experts));
    copy_whole(m, "expert_used_count", "num_experts_per_tok", true);
    if (!qwen) return;
    copy_whole(m, "expert_feed_forward_length", "moe_intermediate_size", true);
    set(m, m->root, "norm_topk_prob", json_true());
}

/* Granite's multipliers; what a file leaves out, or gives as 0, is not scaled, or as others are. */
static void make_granite(maker *m)
{
    static const char *const given[][2] = {{"attention.scale", "attention_multiplier"},
                                           {"embedding_scale", "embedding_multiplier"},
                                           {"residual_scale", "residual_multiplier"},
                                           {"logit_scale", "logits_scaling"}};
    static const char turns[] = "rope.scaling.finetuned";
    double head_dim = json_number_value(json_object_get(m->root, "head_dim")), value;
    bool turning = true;

    set(m, m->root, "attention_multiplier", json_real(head_dim > 0 ? 1 / sqrt(head_dim) : 1));
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        bool must = strcmp(given[i][0], "logit_scale") == 0;

        if (!number(m, given[i][0], must, &value) || (value == 0 && !must)) continue;
        set(m, m->root, given[i][1], json_real(value));
    }
    if (find(m, turns) && (!spc_gguf_bool(find(m, turns), &turning) || !turning)) {
        wrong(m, turns, "true (a model with rotary positions)");
    }
}

static void make_switches(maker *m)
{
    int64_t window;

    set(m, m->root, "tie_word_embeddings", json_boolean(!tensor(m, "lm_head.weight")));
    if (strncmp(m->architecture, "gemma", 5) == 0) {
        make_gemma(m);
        return;
    }
    if (whole(m, "attention.sliding_window", false, &window) && window > 0) { /* 0: Phi-4, none */
        set(m, m->root, "sliding_window", json_integer(window));
    }
    if (strcmp(m->architecture, "granite") == 0) make_granite(m);
    if (tensor(m, "model.layers.0.self_attn.q_proj.bias")) {
        set(m, m->root, "attention_bias", json_true());
    }
    if (tensor(m, "model.layers.0.mlp.gate_proj.bias")) set(m, m->root, "mlp_bias", json_true());
}

/* Ids that begin and end a text.  The end of a turn ends a sequence as well. */
static void make_ids(maker *m)
{
    static const char *const ends[] = {"eos", "eot", "eom"};
    json_t *list = json_array();
    int64_t id, seen[3];
    size_t count = 0;

    if (!list) fail_memory(m);
    for (size_t i = 0; i < sizeof ends / sizeof *ends && m->status == SPC_OK; i++) {
        char key[64];
        bool known = false;

        (void)snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ends[i]);
        if (!spc_gguf_integer(spc_gguf_find(m->g, key), &id)) continue;
        for (size_t k = 0; k < count; k++) known = known || seen[k] == id;
        if (known) continue;
        seen[count++] = id;
        if (json_array_append_new(list, json_integer(id)) != 0) fail_memory(m);
    }
    if (m->status == SPC_OK && count > 0) {
        set(m, m->root, "eos_token_id", list);
    } else {
        json_decref(list);
    }
    if (spc_gguf_integer(spc_gguf_find(m->g, "tokenizer.ggml.bos_token_id"), &id)) {
        set(m, m->root, "bos_token_id", json_integer(id));
    }
}

spc_status spc_gguf_config(const char *where, const spc_gguf *head, const spc_tensor_list *tensors,
                           char **text, size_t *bytes, spc_error *err)
{
    maker m = {.where = where, .g = head, .tensors = tensors, .root = json_object(), .err = err};

    *text = NULL;
    m.status = SPC_OK;
    if (!m.root) fail_memory(&m);
    if (m.status == SPC_OK) make_names(&m);
    if (m.status == SPC_OK) make_sizes(&m);
    if (m.status == SPC_OK) make_rope(&m);
    if (m.status == SPC_OK) make_experts(&m);
    if (m.status == SPC_OK) make_switches(&m);
    if (m.status == SPC_OK) make_ids(&m);
    if (m.status == SPC_OK) {
        *text = json_dumps(m.root, JSON_INDENT(1));
        if (!*text) fail_memory(&m);
    }
    json_decref(m.root);
    *bytes = *text ? strlen(*text) : 0;
    return m.status;
}
