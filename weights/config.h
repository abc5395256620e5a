/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - hyperparameters of a model, read from config.json and generation_config.json. */
#ifndef SPC_WEIGHTS_CONFIG_H
#define SPC_WEIGHTS_CONFIG_H

#include <stdbool.h>

#include "bundle.h"

/* How rotary frequencies are stretched.  Formulas as in transformers' modeling_rope_utils. */
typedef enum { SPC_ROPE_PLAIN, SPC_ROPE_LINEAR, SPC_ROPE_LLAMA3 } spc_rope_kind;

typedef struct {
    spc_rope_kind kind;
    double theta;             /* base of the frequencies */
    double factor;            /* linear, llama3 */
    double low_freq_factor;   /* llama3 */
    double high_freq_factor;  /* llama3 */
    int32_t original_context; /* llama3: tokens of the original training context */
    bool bfloat16; /* frequencies rounded to bfloat16, as in a model that was cast as a whole
                      (model.to(bfloat16) casts this buffer too); key "spc_rope_bfloat16" */
} spc_rope;

enum { SPC_CONFIG_STOPS = 8, SPC_CONFIG_NAME = 64 };

typedef struct {
    char architecture[SPC_CONFIG_NAME]; /* architectures[0], "LlamaForCausalLM" */
    char model_type[SPC_CONFIG_NAME];   /* "llama" */
    int32_t vocab;                      /* rows of the embedding and of the logits */
    int32_t dim;                        /* hidden size */
    int32_t layers;
    int32_t heads;    /* query heads */
    int32_t kv_heads; /* divides heads */
    int32_t head_dim; /* even */
    int32_t ffn;      /* intermediate size */
    int32_t context;  /* max_position_embeddings, in tokens */
    double norm_eps;  /* of RMSNorm */
    spc_rope rope;
    bool tied;                      /* the head is the embedding */
    int32_t bos;                    /* -1: none */
    int32_t stop_count;             /* end-of-sequence ids; generation_config.json first */
    int32_t stop[SPC_CONFIG_STOPS]; /* [stop_count] */
} spc_config;

/* Read and validate.  Every key that is missing, of the wrong type or out of range is named with
 * what was expected and found; an option of the file that would change results and is not supported
 * (attention_bias, mlp_bias, another hidden_act, an unknown rope type) is SPC_EMODEL and is named
 * too. Whether the architecture itself is known is the business of host/plan.c. */
spc_status spc_config_read(spc_bundle *bundle, spc_config *out, spc_error *err);

#endif
