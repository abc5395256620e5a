/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - config.json and generation_config.json, key by key. */
#include "config_read.h"
#include "json.h"

#include <stdio.h>
#include <string.h>

typedef spc_config_reader reader;

/* ---- parts ------------------------------------------------------------------------------------
 */

static spc_status read_names(const reader *r, spc_config *c)
{
    const char *name =
        json_string_value(json_array_get(json_object_get(r->root, "architectures"), 0));
    const json_t *model_type = json_object_get(r->root, "model_type");
    const char *type = json_string_value(model_type);

    if (!name || strlen(name) >= SPC_CONFIG_NAME) {
        return spc_config_wrong(r, "architectures",
                                "an array with one name, such as [\"LlamaForCausalLM\"]");
    }
    if (model_type && !json_is_null(model_type) && (!type || strlen(type) >= SPC_CONFIG_NAME)) {
        return spc_config_wrong(r, "model_type", "a short name");
    }
    memcpy(c->architecture, name, strlen(name) + 1);
    if (type) memcpy(c->model_type, type, strlen(type) + 1);
    return SPC_OK;
}

/* compressed-tensors' int-quantized: symmetric integers of 8 bits with a scale for each output, or
 * for all of them.  What it says of activations is not done: they stay float32. */
static spc_status check_integers(const reader *r, const json_t *object)
{
    const json_t *groups = json_object_get(object, "config_groups"), *group;
    const char *name;

    if (json_object_size(groups) == 0) {
        return spc_config_wrong(r, "quantization_config", "config_groups that say what is in it");
    }
    json_object_foreach((json_t *)(uintptr_t)groups, name, group)
    {
        const json_t *w = json_object_get(group, "weights");
        const char *type = json_string_value(json_object_get(w, "type"));
        const char *strategy = json_string_value(json_object_get(w, "strategy"));

        if (json_is_object(w) && json_integer_value(json_object_get(w, "num_bits")) == 8 && type &&
            strcmp(type, "int") == 0 && strategy &&
            !json_is_false(json_object_get(w, "symmetric")) &&
            (strcmp(strategy, "channel") == 0 || strcmp(strategy, "tensor") == 0)) {
            continue;
        }
        return spc_error_set(
            r->err, SPC_EMODEL,
            "%s: quantization_config: format int-quantized: expected symmetric "
            "weights of type int, 8 bits, strategy channel or tensor, found others "
            "in '%.40s'",
            r->where, name);
    }
    return SPC_OK;
}

/* Quantised checkpoints hold tensors that mean nothing by themselves: only the kinds whose meaning
 * is known here (8-bit floats and integers beside their scales) are read. */
static spc_status check_quantisation(const reader *r, spc_config *c)
{
    static const char key[] = "quantization_config";
    const json_t *block, *object;
    const char *method, *format;
    spc_status status = spc_config_object(r, key, &object);

    if (status != SPC_OK || !object) return status;
    c->scaled = true;
    method = json_string_value(json_object_get(object, "quant_method"));
    format = json_string_value(json_object_get(object, "format"));
    block = json_object_get(object, "weight_block_size");
    if (!method) method = "none named";
    if (block && !json_is_null(block) &&
        (json_integer_value(json_array_get(block, 0)) != 128 ||
         json_integer_value(json_array_get(block, 1)) != 128)) {
        return spc_config_wrong(r, key, "weight_block_size [128, 128]");
    }
    if (strcmp(method, "fp8") == 0 || strcmp(method, "fbgemm_fp8") == 0) return SPC_OK;
    if (strcmp(method, "compressed-tensors") == 0 && format &&
        strcmp(format, "float-quantized") == 0) {
        return SPC_OK;
    }
    if (strcmp(method, "compressed-tensors") == 0 && format &&
        strcmp(format, "int-quantized") == 0) {
        return check_integers(r, object);
    }
    return spc_error_set(
        r->err, SPC_EMODEL,
        "%s: quantization_config: method '%.60s'%s%.60s is not supported; "
        "supported: fp8, fbgemm_fp8, compressed-tensors of format float-quantized or "
        "int-quantized; "
        "other quantised weights are read from GGUF files",
        r->where, method, format ? ", format " : "", format ? format : "");
}

static spc_status read_sizes(const reader *r, spc_config *c)
{
    spc_status s = spc_config_size(r, "vocab_size", 1, SPC_CONFIG_VOCAB, -1, &c->vocab);

    if (s == SPC_OK) s = spc_config_size(r, "hidden_size", 1, SPC_CONFIG_DIM, -1, &c->dim);
    if (s == SPC_OK)
        s = spc_config_size(r, "num_hidden_layers", 1, SPC_CONFIG_LAYERS, -1, &c->layers);
    if (s == SPC_OK)
        s = spc_config_size(r, "num_attention_heads", 1, SPC_CONFIG_HEADS, -1, &c->heads);
    if (s == SPC_OK) {
        s = spc_config_size(r, "num_key_value_heads", 1, SPC_CONFIG_HEADS, c->heads, &c->kv_heads);
    }
    if (s == SPC_OK) {
        s = spc_config_size(r, "head_dim", 2, SPC_CONFIG_DIM, c->dim / c->heads, &c->head_dim);
    }
    if (s == SPC_OK) s = spc_config_size(r, "intermediate_size", 1, SPC_CONFIG_FFN, -1, &c->ffn);
    if (s == SPC_OK)
        s = spc_config_size(r, "max_position_embeddings", 2, SPC_CONFIG_CONTEXT, -1, &c->context);
    if (s != SPC_OK) return s;
    if (c->heads % c->kv_heads != 0) {
        return spc_config_wrong(r, "num_key_value_heads", "a divisor of num_attention_heads");
    }
    if (c->head_dim < 2 || c->head_dim % 2 != 0 || c->head_dim > SPC_CONFIG_DIM / c->heads) {
        return spc_error_set(
            r->err, SPC_EMODEL,
            "%s: head_dim (or hidden_size / num_attention_heads): expected an even "
            "number of 2 or more, found %d",
            r->where, (int)c->head_dim);
    }
    return SPC_OK;
}

/* An id, or -1 where there is none. */
static spc_status read_id(const reader *r, const char *key, int32_t vocab, int32_t *out)
{
    const json_t *value = json_object_get(r->root, key);

    *out = -1;
    if (!value || json_is_null(value)) return SPC_OK;
    return spc_config_size(r, key, 0, vocab - 1, -1, out);
}

/* eos_token_id: one id or several. */
static spc_status read_stops(const reader *r, spc_config *c)
{
    const json_t *value = json_object_get(r->root, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : 1;

    if (!value || json_is_null(value)) return SPC_OK;
    if (count > SPC_CONFIG_STOPS) return spc_config_wrong(r, "eos_token_id", "at most 8 ids");
    c->stop_count = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;

        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= c->vocab) {
            return spc_config_wrong(r, "eos_token_id",
                                    "an id below vocab_size, or an array of them");
        }
        c->stop[c->stop_count++] = (int32_t)json_integer_value(id);
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
    if (!r->root) return spc_json_refused(r->where, &problem, text, err);
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

/* A decoder by itself, or the one of a container. */
static spc_status read_decoder(const reader *r, const spc_bundle *bundle, spc_config *c)
{
    spc_status s = read_sizes(r, c);

    c->context_most = c->context;
    c->start = -1;
    c->head_scale = c->embedding_scale = c->residual_scale = 1;
    if (s == SPC_OK) s = spc_config_number(r, "rms_norm_eps", 0, 1, 1e-6, &c->norm_eps);
    if (s == SPC_OK) s = spc_config_read_ropes(r, c);
    if (s == SPC_OK) s = spc_config_read_family(r, c);
    if (s == SPC_OK) s = spc_config_read_experts(r, c);
    if (c->contained) c->tied = !spc_bundle_find(bundle, "lm_head.weight");
    return s;
}

spc_status spc_config_read(spc_bundle *bundle, spc_config *out, spc_error *err)
{
    spc_config c;
    reader r;
    spc_status status = open_json(bundle, "config.json", &r, err);

    if (status != SPC_OK) return status;
    memset(&c, 0, sizeof c);
    status = read_names(&r, &c);
    if (status == SPC_OK) status = spc_config_open_container(&r, &c);
    if (status == SPC_OK) status = check_quantisation(&r, &c);
    if (status == SPC_OK) {
        status = spc_config_is_t5(&c) ? spc_config_read_t5(&r, bundle, &c)
                                      : read_decoder(&r, bundle, &c);
    }
    if (status == SPC_OK) status = read_id(&r, "bos_token_id", c.vocab, &c.bos);
    if (status == SPC_OK) status = read_stops(&r, &c);
    json_decref((json_t *)(uintptr_t)r.root);
    if (status == SPC_OK) status = read_generation(bundle, &c, err);
    if (status == SPC_OK) *out = c;
    return status;
}

double spc_config_buffer(const spc_config *config, double value)
{
    union {
        float f;
        uint32_t u;
    } pun = {(float)value};

    if (!config->buffers_bfloat16) return value;
    pun.u += 0x7fffu + (pun.u >> 16 & 1u); /* to nearest, ties to even */
    pun.u &= 0xffff0000u;
    return (double)pun.f;
}
