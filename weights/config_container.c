/* SPDX-License-Identifier: Apache-2.0 */
/* config_container.c - models of text and images whose text model is a decoder that is known by
 * itself: its part of config.json.
 *
 * The text model's keys are in text_config, but for what holds of the whole model.  What
 * text_config leaves out is what transformers' configuration class of the text model puts there:
 * files hold only what differs from it. */
#include "config_read.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *architecture; /* the whole model */
    const char *type;         /* model_type of its text_config */
    const char *decoder;      /* the architecture of the text model by itself */
    const char *defaults;     /* JSON */
} containers[] = {{"Gemma3ForConditionalGeneration", "gemma3_text", "Gemma3ForCausalLM",
                   "{\"vocab_size\": 262208, \"hidden_size\": 2304, \"intermediate_size\": 9216,"
                   " \"num_hidden_layers\": 26, \"num_attention_heads\": 8,"
                   " \"num_key_value_heads\": 4, \"head_dim\": 256,"
                   " \"max_position_embeddings\": 131072, \"sliding_window\": 4096}"},
                  {"Mistral3ForConditionalGeneration", "mistral", "MistralForCausalLM",
                   "{\"vocab_size\": 32000, \"hidden_size\": 4096, \"intermediate_size\": 14336,"
                   " \"num_hidden_layers\": 32, \"num_attention_heads\": 32,"
                   " \"num_key_value_heads\": 8, \"max_position_embeddings\": 131072,"
                   " \"sliding_window\": 4096}"},
                  {"Mistral3ForConditionalGeneration", "ministral3", "Ministral3ForCausalLM",
                   "{\"vocab_size\": 131072, \"hidden_size\": 4096, \"intermediate_size\": 14336,"
                   " \"num_hidden_layers\": 34, \"num_attention_heads\": 32,"
                   " \"num_key_value_heads\": 8, \"head_dim\": 128,"
                   " \"max_position_embeddings\": 262144, \"rms_norm_eps\": 1e-5}"}};
enum { CONTAINERS = sizeof containers / sizeof *containers };

/* What the whole model says where text_config does not.  (Whether there is a head beside the
 * embedding, files of different years say in different places: the checkpoint decides.) */
static const char *const shared[] = {"bos_token_id", "eos_token_id", "quantization_config"};

static spc_status no_memory(const spc_config_reader *r)
{
    return spc_error_set(r->err, SPC_ENOMEM, "%s: no memory to read it", r->where);
}

/* The text model's keys; owned by the caller, NULL: no memory. */
static json_t *merged(const json_t *whole, const json_t *text, const char *defaults)
{
    json_t *root = json_copy((json_t *)(uintptr_t)text), *missing = json_loads(defaults, 0, NULL);
    bool done = root && missing;

    for (size_t i = 0; i < sizeof shared / sizeof *shared && done; i++) {
        json_t *value = json_object_get(whole, shared[i]);

        if (!value || json_object_get(root, shared[i])) continue;
        done = json_object_set(root, shared[i], value) == 0;
    }
    done = done && json_object_update_missing(root, missing) == 0;
    json_decref(missing);
    if (done) return root;
    json_decref(root);
    return NULL;
}

static bool is_container(const spc_config *c)
{
    for (size_t i = 0; i < CONTAINERS; i++) {
        if (strcmp(c->architecture, containers[i].architecture) == 0) return true;
    }
    return false;
}

/* The container whose text model is of this type.  SPC_EMODEL: which types there are. */
static spc_status find_type(const spc_config_reader *r, const spc_config *c, const char *type,
                            size_t *out)
{
    char expected[80] = "";

    for (*out = 0; *out < CONTAINERS; ++*out) {
        size_t used = strlen(expected);

        if (strcmp(c->architecture, containers[*out].architecture) != 0) continue;
        if (type && strcmp(type, containers[*out].type) == 0) return SPC_OK;
        (void)snprintf(expected + used, sizeof expected - used, "%s'%s'", used > 0 ? " or " : "",
                       containers[*out].type);
    }
    return spc_error_set(r->err, SPC_EMODEL,
                         "%s: text_config: expected a model_type %s, found %s%.60s", r->where,
                         expected, type ? "" : "none", type ? type : "");
}

spc_status spc_config_open_container(spc_config_reader *r, spc_config *c)
{
    const json_t *text;
    json_t *root;
    size_t i;
    spc_status s;

    if (!is_container(c)) return SPC_OK;
    s = spc_config_object(r, "text_config", &text);
    if (s == SPC_OK) {
        s = find_type(r, c, json_string_value(json_object_get(text, "model_type")), &i);
    }
    if (s != SPC_OK) return s;
    root = merged(r->root, text, containers[i].defaults);
    if (!root) return no_memory(r);
    json_decref((json_t *)(uintptr_t)r->root);
    r->root = root;
    (void)strncat(r->where, ": text_config", sizeof r->where - strlen(r->where) - 1);
    (void)strcpy(c->architecture, containers[i].decoder);
    (void)strcpy(c->model_type, containers[i].type);
    c->contained = true;
    return SPC_OK;
}
