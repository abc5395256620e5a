/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - config.json and generation_config.json, key by key. */
#include "config.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Bounds that keep every later product of sizes far from wrapping. */
enum {
    VOCAB_MAX = 1 << 20,
    DIM_MAX = 1 << 17,
    LAYERS_MAX = 1024,
    HEADS_MAX = 4096,
    FFN_MAX = 1 << 20,
    CONTEXT_MAX = 1 << 24
};

typedef struct {
    const json_t *root;
    char where[256]; /* "folder/config.json" */
    spc_error *err;
} reader;

static spc_status wrong(const reader *r, const char *key, const char *expected)
{
    const json_t *value = json_object_get(r->root, key);
    char found[64] = "none";

    if (json_is_integer(value)) {
        (void)snprintf(found, sizeof found, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        (void)snprintf(found, sizeof found, "%g", json_real_value(value));
    } else if (json_is_string(value)) {
        (void)snprintf(found, sizeof found, "'%.40s'", json_string_value(value));
    } else if (value) {
        (void)snprintf(found, sizeof found, "%s",
                       json_is_boolean(value) ? (json_is_true(value) ? "true" : "false")
                                              : "another type");
    }
    return spc_error_set(r->err, SPC_EMODEL, "%s: %s: expected %s, found %s", r->where, key,
                         expected, found);
}

/* A whole number of least to most; `missing` stands in for an absent key, unless it is negative. */
static spc_status read_size(const reader *r, const char *key, int32_t least, int32_t most,
                            int32_t missing, int32_t *out)
{
    const json_t *value = json_object_get(r->root, key);
    char expected[64];

    if ((!value || json_is_null(value)) && missing >= 0) {
        *out = missing;
        return SPC_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < least ||
        json_integer_value(value) > most) {
        (void)snprintf(expected, sizeof expected, "a whole number of %d to %d", (int)least,
                       (int)most);
        return wrong(r, key, expected);
    }
    *out = (int32_t)json_integer_value(value);
    return SPC_OK;
}

static spc_status read_number(const reader *r, const char *key, double least, double most,
                              double missing, double *out)
{
    const json_t *value = json_object_get(r->root, key);
    char expected[64];

    if ((!value || json_is_null(value)) && missing >= 0) {
        *out = missing;
        return SPC_OK;
    }
    if (!json_is_number(value) || !(json_number_value(value) >= least) ||
        !(json_number_value(value) <= most)) {
        (void)snprintf(expected, sizeof expected, "a number of %g to %g", least, most);
        return wrong(r, key, expected);
    }
    *out = json_number_value(value);
    return SPC_OK;
}

static spc_status read_bool(const reader *r, const char *key, bool missing, bool *out)
{
    const json_t *value = json_object_get(r->root, key);

    *out = value && !json_is_null(value) ? json_is_true(value) : missing;
    if (value && !json_is_null(value) && !json_is_boolean(value)) {
        return wrong(r, key, "true or false");
    }
    return SPC_OK;
}

/* Options that would change the results and are not computed. */
static spc_status refuse(const reader *r, const char *key)
{
    bool set;
    spc_status status = read_bool(r, key, false, &set);

    if (status != SPC_OK || !set) return status;
    return wrong(r, key, "false (models with it are not supported yet)");
}

/* ---- parts ------------------------------------------------------------------------------------
 */

static spc_status read_names(const reader *r, spc_config *c)
{
    const char *name =
        json_string_value(json_array_get(json_object_get(r->root, "architectures"), 0));
    const json_t *model_type = json_object_get(r->root, "model_type");
    const char *type = json_string_value(model_type);

    if (!name || strlen(name) >= SPC_CONFIG_NAME) {
        return wrong(r, "architectures", "an array with one name, such as [\"LlamaForCausalLM\"]");
    }
    if (model_type && !json_is_null(model_type) && (!type || strlen(type) >= SPC_CONFIG_NAME)) {
        return wrong(r, "model_type", "a short name");
    }
    memcpy(c->architecture, name, strlen(name) + 1);
    if (type) memcpy(c->model_type, type, strlen(type) + 1);
    return SPC_OK;
}

static spc_status read_sizes(const reader *r, spc_config *c)
{
    spc_status s = read_size(r, "vocab_size", 1, VOCAB_MAX, -1, &c->vocab);

    if (s == SPC_OK) s = read_size(r, "hidden_size", 1, DIM_MAX, -1, &c->dim);
    if (s == SPC_OK) s = read_size(r, "num_hidden_layers", 1, LAYERS_MAX, -1, &c->layers);
    if (s == SPC_OK) s = read_size(r, "num_attention_heads", 1, HEADS_MAX, -1, &c->heads);
    if (s == SPC_OK) {
        s = read_size(r, "num_key_value_heads", 1, HEADS_MAX, c->heads, &c->kv_heads);
    }
    if (s == SPC_OK) s = read_size(r, "head_dim", 2, DIM_MAX, c->dim / c->heads, &c->head_dim);
    if (s == SPC_OK) s = read_size(r, "intermediate_size", 1, FFN_MAX, -1, &c->ffn);
    if (s == SPC_OK) s = read_size(r, "max_position_embeddings", 2, CONTEXT_MAX, -1, &c->context);
    if (s != SPC_OK) return s;
    if (c->heads % c->kv_heads != 0) {
        return wrong(r, "num_key_value_heads", "a divisor of num_attention_heads");
    }
    if (c->head_dim < 2 || c->head_dim % 2 != 0 || c->head_dim > DIM_MAX / c->heads) {
        return spc_error_set(
            r->err, SPC_EMODEL,
            "%s: head_dim (or hidden_size / num_attention_heads): expected an even "
            "number of 2 or more, found %d",
            r->where, (int)c->head_dim);
    }
    return SPC_OK;
}

/* An object, or NULL where there is none. */
static spc_status read_object(const reader *r, const char *key, const json_t **out)
{
    *out = json_object_get(r->root, key);
    if (json_is_null(*out)) *out = NULL;
    return *out && !json_is_object(*out) ? wrong(r, key, "an object") : SPC_OK;
}

/* Its name, or NULL where there is none: not stretched. */
static spc_status read_rope_type(const reader *r, const char **out)
{
    const char *key = "rope_type";
    const json_t *value = json_object_get(r->root, key);

    if (!value || json_is_null(value)) value = json_object_get(r->root, key = "type");
    *out = json_string_value(value);
    return value && !json_is_null(value) && !*out ? wrong(r, key, "a name") : SPC_OK;
}

/* Old files keep rope_theta and rope_scaling apart; new ones hold both in rope_parameters, and
 * where these have no rope_theta the old place counts, as in transformers. */
static spc_status read_rope(const reader *r, spc_config *c)
{
    const json_t *parameters, *scaling;
    reader inner = *r;
    const char *kind;
    spc_status s = read_object(r, "rope_parameters", &parameters);

    if (s == SPC_OK) s = read_object(r, "rope_scaling", &scaling);
    if (s == SPC_OK) s = read_number(r, "rope_theta", 1, 1e12, 10000, &c->rope.theta);
    if (s != SPC_OK) return s;
    inner.root = parameters ? parameters : scaling;
    if (!inner.root) return SPC_OK;
    if (parameters) {
        s = read_number(&inner, "rope_theta", 1, 1e12, c->rope.theta, &c->rope.theta);
    }
    if (s == SPC_OK) s = read_rope_type(&inner, &kind);
    if (s != SPC_OK || !kind || strcmp(kind, "default") == 0) return s;
    if (strcmp(kind, "linear") == 0) {
        c->rope.kind = SPC_ROPE_LINEAR;
        return read_number(&inner, "factor", 1, 1e6, -1, &c->rope.factor);
    }
    if (strcmp(kind, "llama3") != 0) {
        return spc_error_set(
            r->err, SPC_EMODEL,
            "%s: rope_type: expected one of default, linear, llama3, found '%.40s'", r->where,
            kind);
    }
    c->rope.kind = SPC_ROPE_LLAMA3;
    s = read_number(&inner, "factor", 1, 1e6, -1, &c->rope.factor);
    if (s == SPC_OK)
        s = read_number(&inner, "low_freq_factor", 1e-6, 1e6, -1, &c->rope.low_freq_factor);
    if (s == SPC_OK)
        s = read_number(&inner, "high_freq_factor", 1e-6, 1e6, -1, &c->rope.high_freq_factor);
    if (s == SPC_OK) {
        s = read_size(&inner, "original_max_position_embeddings", 1, CONTEXT_MAX, -1,
                      &c->rope.original_context);
    }
    if (s == SPC_OK && !(c->rope.high_freq_factor > c->rope.low_freq_factor)) {
        return wrong(&inner, "high_freq_factor", "more than low_freq_factor");
    }
    return s;
}

/* An id, or -1 where there is none. */
static spc_status read_id(const reader *r, const char *key, int32_t vocab, int32_t *out)
{
    const json_t *value = json_object_get(r->root, key);

    *out = -1;
    if (!value || json_is_null(value)) return SPC_OK;
    return read_size(r, key, 0, vocab - 1, -1, out);
}

/* eos_token_id: one id or several. */
static spc_status read_stops(const reader *r, spc_config *c)
{
    const json_t *value = json_object_get(r->root, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : 1;

    if (!value || json_is_null(value)) return SPC_OK;
    if (count > SPC_CONFIG_STOPS) return wrong(r, "eos_token_id", "at most 8 ids");
    c->stop_count = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;

        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= c->vocab) {
            return wrong(r, "eos_token_id", "an id below vocab_size, or an array of them");
        }
        c->stop[c->stop_count++] = (int32_t)json_integer_value(id);
    }
    return SPC_OK;
}

static spc_status read_switches(const reader *r, spc_config *c)
{
    const json_t *act = json_object_get(r->root, "hidden_act");
    spc_status s = read_bool(r, "tie_word_embeddings", false, &c->tied);

    if (s == SPC_OK) s = read_bool(r, "spc_rope_bfloat16", false, &c->rope.bfloat16);
    if (s == SPC_OK) s = refuse(r, "attention_bias");
    if (s == SPC_OK) s = refuse(r, "mlp_bias");
    if (s != SPC_OK) return s;
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0)) {
        return wrong(r, "hidden_act", "'silu'");
    }
    return SPC_OK;
}

/* ---- the files --------------------------------------------------------------------------------
 */

static spc_status open_json(spc_bundle *bundle, const char *name, reader *r, spc_error *err)
{
    const char *text;
    size_t bytes;
    json_error_t problem;
    spc_status status = spc_bundle_file(bundle, name, &text, &bytes, err);

    r->root = NULL;
    r->err = err;
    (void)snprintf(r->where, sizeof r->where, "%.200s/%s", spc_bundle_where(bundle), name);
    if (status != SPC_OK) return status;
    r->root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (!r->root) {
        bool memory = json_error_code(&problem) == json_error_out_of_memory || !problem.text[0];

        return spc_error_set(err, memory ? SPC_ENOMEM : SPC_EFORMAT, "%s: line %d: %s", r->where,
                             problem.line, problem.text);
    }
    if (json_is_object(r->root)) return SPC_OK;
    json_decref((json_t *)(uintptr_t)r->root);
    return spc_error_set(err, SPC_EFORMAT, "%s: expected a JSON object", r->where);
}

static spc_status read_generation(spc_bundle *bundle, spc_config *c, spc_error *err)
{
    reader r;
    spc_status status;

    if (!spc_bundle_has_file(bundle, "generation_config.json")) return SPC_OK;
    status = open_json(bundle, "generation_config.json", &r, err);
    if (status != SPC_OK) return status;
    status = read_stops(&r, c);
    json_decref((json_t *)(uintptr_t)r.root);
    return status;
}

spc_status spc_config_read(spc_bundle *bundle, spc_config *out, spc_error *err)
{
    spc_config c;
    reader r;
    spc_status status = open_json(bundle, "config.json", &r, err);

    if (status != SPC_OK) return status;
    memset(&c, 0, sizeof c);
    status = read_names(&r, &c);
    if (status == SPC_OK) status = read_sizes(&r, &c);
    if (status == SPC_OK) status = read_number(&r, "rms_norm_eps", 0, 1, 1e-6, &c.norm_eps);
    if (status == SPC_OK) status = read_rope(&r, &c);
    if (status == SPC_OK) status = read_switches(&r, &c);
    if (status == SPC_OK) status = read_id(&r, "bos_token_id", c.vocab, &c.bos);
    if (status == SPC_OK) status = read_stops(&r, &c);
    json_decref((json_t *)(uintptr_t)r.root);
    if (status == SPC_OK) status = read_generation(bundle, &c, err);
    if (status == SPC_OK) *out = c;
    return status;
}
