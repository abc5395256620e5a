/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_tensors.c - tensors of a GGUF file under the names and in the order of Hugging Face. */
#include "gguf_model.h"

#include "quant.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *where;
    const spc_gguf *head;
    char architecture[32];
    spc_tensor_list *list;
    spc_error *err;
} mapper;

typedef struct {
    const char *gguf, *name;
} pair;

static const pair whole[] = {{"token_embd.weight", "model.embed_tokens.weight"},
                             {"output_norm.weight", "model.norm.weight"},
                             {"output.weight", "lm_head.weight"},
                             {"rope_freqs.weight", "rope_freqs.weight"},
                             {"rope_factors_short.weight", "rope_factors_short.weight"},
                             {"rope_factors_long.weight", "rope_factors_long.weight"}};

static const pair layer[] = {{"attn_norm", "input_layernorm"},
                             {"attn_q", "self_attn.q_proj"},
                             {"attn_k", "self_attn.k_proj"},
                             {"attn_v", "self_attn.v_proj"},
                             {"attn_qkv", "self_attn.qkv_proj"},
                             {"attn_output", "self_attn.o_proj"},
                             {"attn_q_norm", "self_attn.q_norm"},
                             {"attn_k_norm", "self_attn.k_norm"},
                             {"ffn_norm", "post_attention_layernorm"},
                             {"ffn_gate_inp", "mlp.gate"},
                             {"ffn_gate", "mlp.gate_proj"},
                             {"ffn_up", "mlp.up_proj"},
                             {"ffn_down", "mlp.down_proj"},
                             {"post_attention_norm", "post_attention_layernorm"},
                             {"post_ffw_norm", "post_feedforward_layernorm"}};

enum { EXPERTS_MOST = 1 << 16 };

/* Experts: one tensor of rank 3 for all of them, here and in a file of Mixtral's. */
static const struct {
    const char *gguf, *qwen3, *mixtral;
} expert[] = {{"ffn_gate_exps.weight", "gate_proj", "w1"},
              {"ffn_up_exps.weight", "up_proj", "w3"},
              {"ffn_down_exps.weight", "down_proj", "w2"}};

static bool is_gemma(const mapper *m)
{
    return strncmp(m->architecture, "gemma", 5) == 0;
}

/* (Under the name of Llama; Llama's files have no experts.) */
static bool is_mixtral(const mapper *m)
{
    return strcmp(m->architecture, "llama") == 0;
}

/* "blk.3.attn_q.weight" to "model.layers.3.self_attn.q_proj.weight"; false: no such. */
static bool map_layer(const mapper *m, const char *name, char *out, size_t room)
{
    int32_t number, used = 0;
    const char *part, *dot;

    if (sscanf(name, "blk.%9" SCNd32 ".%n", &number, &used) != 1 || used == 0 || number < 0) {
        return false;
    }
    part = name + used;
    dot = strchr(part, '.');
    if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0)) return false;
    for (size_t i = 0; i < sizeof layer / sizeof *layer; i++) {
        const char *to = layer[i].name;

        if (strlen(layer[i].gguf) != (size_t)(dot - part) ||
            strncmp(layer[i].gguf, part, (size_t)(dot - part)) != 0) {
            continue;
        }
        if (is_gemma(m) && strcmp(layer[i].gguf, "ffn_norm") == 0) {
            to = "pre_feedforward_layernorm";
        }
        if (strcmp(m->architecture, "phi3") == 0 && strcmp(layer[i].gguf, "ffn_up") == 0) {
            to = "mlp.gate_up_proj";
        }
        if (is_mixtral(m) && strcmp(layer[i].gguf, "ffn_gate_inp") == 0) {
            to = "block_sparse_moe.gate";
        }
        (void)snprintf(out, room, "model.layers.%d.%s%s", (int)number, to, dot);
        return true;
    }
    return false;
}

static bool map_name(const mapper *m, const char *name, char *out, size_t room)
{
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        if (strcmp(whole[i].gguf, name) != 0) continue;
        (void)snprintf(out, room, "%s", whole[i].name);
        return true;
    }
    return map_layer(m, name, out, room);
}

/* ---- what converters changed ------------------------------------------------------------------
 */

static spc_status no_memory(const mapper *m)
{
    return spc_error_set(m->err, SPC_ENOMEM, "%s: no memory for its tensors", m->where);
}

static const spc_gguf_value *find(const mapper *m, const char *key)
{
    char full[96];

    (void)snprintf(full, sizeof full, "%s.%s", m->architecture, key);
    return spc_gguf_find(m->head, full);
}

/* Converters interleave the heads of Llama and of what they take for its like. */
static bool is_interleaved(const mapper *m)
{
    static const char *const names[] = {"llama", "smollm3", "mistral3", "granite"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(m->architecture, names[i]) == 0) return true;
    }
    return false;
}

/* Heads whose rows are interleaved, or 0: queries and keys. */
static spc_status heads_of(const mapper *m, const spc_tensor *t, int64_t *out)
{
    bool query = strstr(t->name, ".attn_q.") != NULL, key = strstr(t->name, ".attn_k.") != NULL;
    const spc_gguf_value *heads = find(m, "attention.head_count");
    const spc_gguf_value *kv_heads = find(m, "attention.head_count_kv");
    const spc_gguf_value *v = key && kv_heads ? kv_heads : heads;

    *out = 0;
    if (!is_interleaved(m) || (!query && !key)) return SPC_OK;
    if (spc_gguf_integer(v, out) && *out > 0 && t->rank > 0 && *out <= t->shape[0] &&
        t->shape[0] % (2 * *out) == 0) {
        return SPC_OK;
    }
    return spc_error_set(m->err, SPC_ESHAPE,
                         "%s: tensor '%s': expected two rows or a multiple for each of "
                         "%s.attention.head_count%s heads, found %" PRId64 " rows for %" PRId64,
                         m->where, t->name, m->architecture, v == kv_heads && key ? "_kv" : "",
                         t->rank > 0 ? t->shape[0] : 0, *out);
}

/* Rows 2 j and 2 j + 1 of a head go back to j and j + half: the layout that rotates entry j with
 * entry j + half. */
static spc_status straighten(const mapper *m, spc_tensor *t, int64_t heads, void **owned)
{
    size_t row = (size_t)(t->bytes / (uint64_t)t->shape[0]);
    int64_t half = t->shape[0] / heads / 2;
    char *to;
    const char *from = t->data;

    if (t->bytes == 0) return SPC_OK; /* however many rows of nothing there are */
    to = malloc((size_t)t->bytes);
    if (!to) return no_memory(m);
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t j = 0; j < 2 * half; j++) {
            int64_t source = h * 2 * half + j, target = h * 2 * half + j / 2 + j % 2 * half;

            memcpy(to + (size_t)target * row, from + (size_t)source * row, row);
        }
    }
    *owned = to;
    t->data = to;
    return SPC_OK;
}

/* Gemma's norms without the 1 that was added. */
static spc_status take_one_off(const mapper *m, spc_tensor *t, void **owned)
{
    float *to = malloc(t->shape[0] > 0 ? (size_t)t->shape[0] * sizeof *to : 1);

    if (!to) return no_memory(m);
    spc_dequantise(t->dtype, t->data, t->shape[0], to);
    for (int64_t i = 0; i < t->shape[0]; i++) to[i] -= 1.0f;
    t->dtype = SPC_DTYPE_F32;
    t->bytes = (uint64_t)t->shape[0] * sizeof *to;
    *owned = to;
    t->data = to;
    return SPC_OK;
}

static bool is_norm(const spc_tensor *t)
{
    const char *end = strstr(t->name, "norm.weight");

    return end && !end[strlen("norm.weight")] && t->rank == 1;
}

/* Types of single elements are read in place: their address must suit them. */
static spc_status align(const mapper *m, spc_tensor *t, void **owned)
{
    uint32_t bytes = spc_dtype_bytes(t->dtype);

    if (*owned || spc_dtype_elements(t->dtype) > 1 || t->bytes == 0 ||
        (uintptr_t)t->data % bytes == 0) {
        return SPC_OK;
    }
    *owned = malloc((size_t)t->bytes);
    if (!*owned) return no_memory(m);
    memcpy(*owned, t->data, (size_t)t->bytes);
    t->data = *owned;
    return SPC_OK;
}

/* Which of the tables of experts is it, and of which layer?  -1: none. */
static int32_t experts_of(const spc_tensor *t, int32_t *number)
{
    int32_t used = 0;

    if (sscanf(t->name, "blk.%9" SCNd32 ".%n", number, &used) != 1 || used == 0 || *number < 0) {
        return -1;
    }
    for (int32_t i = 0; i < (int32_t)(sizeof expert / sizeof *expert); i++) {
        if (strcmp(t->name + used, expert[i].gguf) == 0) return i;
    }
    return -1;
}

/* A table of all experts' matrices as one tensor for each. */
static spc_status add_experts(const mapper *m, const spc_tensor *table, int32_t which,
                              int32_t number)
{
    const char *part = is_mixtral(m) ? "block_sparse_moe" : "mlp";
    const char *to = is_mixtral(m) ? expert[which].mixtral : expert[which].qwen3;
    spc_status status = SPC_OK;

    if (table->rank != 3 || table->shape[0] < 1 || table->shape[0] > EXPERTS_MOST) {
        return spc_error_set(
            m->err, SPC_ESHAPE,
            "%s: tensor '%s': expected a matrix for each of 1 to %d experts, found "
            "a tensor of rank %d",
            m->where, table->name, EXPERTS_MOST, (int)table->rank);
    }
    for (int64_t e = 0; e < table->shape[0] && status == SPC_OK; e++) {
        const uint64_t bytes = table->bytes / (uint64_t)table->shape[0];
        char name[128];
        void *owned = NULL;
        spc_tensor t = {.name = name,
                        .dtype = table->dtype,
                        .rank = 2,
                        .shape = {table->shape[1], table->shape[2]},
                        .bytes = bytes};

        t.data = (const char *)table->data + (uint64_t)e * bytes;
        (void)snprintf(name, sizeof name, "model.layers.%d.%s.experts.%" PRId64 ".%s.weight",
                       (int)number, part, e, to);
        status = align(m, &t, &owned);
        if (status == SPC_OK && !spc_tensor_list_add(m->list, &t, owned)) status = no_memory(m);
    }
    return status;
}

static spc_status add(const mapper *m, const spc_tensor *tensor)
{
    char name[128];
    spc_tensor t = *tensor;
    int32_t number, experts = experts_of(tensor, &number);
    void *owned = NULL;
    int64_t heads;
    spc_status status;

    if (experts >= 0) return add_experts(m, tensor, experts, number);
    if (!map_name(m, t.name, name, sizeof name)) {
        return spc_error_set(m->err, SPC_EMODEL,
                             "%s: tensor '%s': no such part of a model of architecture '%s' is "
                             "known; is it a variant (experts, adapters) that is not supported?",
                             m->where, t.name, m->architecture);
    }
    status = heads_of(m, &t, &heads);
    if (status == SPC_OK && heads > 0) status = straighten(m, &t, heads, &owned);
    if (status == SPC_OK && is_gemma(m) && is_norm(&t)) status = take_one_off(m, &t, &owned);
    if (status == SPC_OK) status = align(m, &t, &owned);
    if (status != SPC_OK) return status;
    t.name = name;
    return spc_tensor_list_add(m->list, &t, owned) ? SPC_OK : no_memory(m);
}

spc_status spc_gguf_tensors(const char *where, const spc_gguf *head, const spc_gguf *file,
                            spc_tensor_list *list, spc_error *err)
{
    mapper m = {.where = where, .head = head, .list = list, .err = err};
    spc_gguf_string text;
    spc_status status = SPC_OK;

    if (spc_gguf_text(spc_gguf_find(head, "general.architecture"), &text) &&
        text.bytes < sizeof m.architecture) {
        memcpy(m.architecture, text.text, (size_t)text.bytes);
    }
    for (int32_t i = 0; i < file->tensor_count && status == SPC_OK; i++) {
        status = add(&m, &file->tensor[i]);
    }
    return status;
}
