/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - hyperparameters of a model, read from config.json and generation_config.json. */
#ifndef SPC_WEIGHTS_CONFIG_H
#define SPC_WEIGHTS_CONFIG_H

#include <stdbool.h>

#include "bundle.h"

/* How rotary frequencies are stretched.  Formulas as in transformers' modeling_rope_utils. */
typedef enum {
    SPC_ROPE_PLAIN,
    SPC_ROPE_LINEAR,
    SPC_ROPE_LLAMA3,
    SPC_ROPE_YARN,
    SPC_ROPE_DIVISORS,
    SPC_ROPE_LONG
} spc_rope_kind;

enum { SPC_ROPE_PAIRS = 512 };

typedef struct {
    spc_rope_kind kind;
    int32_t pairs;            /* that turn: the first entries of a head with as many behind them;
                                 those behind these are left alone */
    double theta;             /* base of the frequencies */
    double factor;            /* linear, llama3, yarn */
    double low_freq_factor;   /* llama3 */
    double high_freq_factor;  /* llama3 */
    int32_t original_context; /* llama3, yarn, long: tokens of the original training context */
    double beta_fast;         /* yarn: turns in that context above which a pair is left alone ... */
    double beta_slow;         /* ... and below which it is stretched by the factor */
    bool truncate;            /* yarn: the pairs between are counted in whole numbers */
    double attention;         /* yarn, long: sines and cosines times this; 1 otherwise */
    double query_growth;      /* yarn, of Ministral 3: queries times
                                 1 + this ln(1 + floor(position / original_context)); 0: they stay */
    float divisor[SPC_ROPE_PAIRS];      /* divisors, long: [pairs] of each pair's frequency */
    float long_divisor[SPC_ROPE_PAIRS]; /* long: the same for contexts beyond original_context */
} spc_rope;

enum {
    SPC_CONFIG_STOPS = 8,
    SPC_CONFIG_NAME = 64,
    SPC_CONFIG_LAYERS = 1024,
    SPC_CONFIG_CHOSEN = 64,
    SPC_CONFIG_CONTEXT = 1 << 24
};

/* Between the two matrices of a feed-forward layer. */
typedef enum { SPC_ACT_SILU, SPC_ACT_GELU_TANH, SPC_ACT_RELU } spc_activation;

typedef struct {
    char architecture[SPC_CONFIG_NAME]; /* architectures[0], "LlamaForCausalLM" */
    char model_type[SPC_CONFIG_NAME];   /* "llama" */
    int32_t vocab;                      /* rows of the embedding and of the logits */
    int32_t dim;                        /* hidden size */
    int32_t layers;
    int32_t heads;        /* query heads */
    int32_t kv_heads;     /* divides heads */
    int32_t head_dim;     /* even */
    int32_t ffn;          /* intermediate size; of one expert, where there are several */
    int32_t context;      /* max_position_embeddings, in tokens; T5: n_positions */
    int32_t context_most; /* what may be asked for: more where positions are relative (T5), or
                             where rope has divisors of its own for more (Phi-3) */
    double norm_eps;      /* of RMSNorm */
    spc_rope rope;
    spc_rope local_rope; /* of sliding layers where local is set; otherwise rope serves all */
    bool local;
    spc_activation activation;
    bool qkv_bias, out_bias, mlp_bias;   /* linear layers that add a vector */
    double attention_scale;              /* scores are multiplied with it */
    double attention_cap;                /* c tanh(score / c); 0: none */
    double final_cap;                    /* the same for logits */
    int32_t window;                      /* positions a sliding layer sees, its own included */
    uint8_t sliding[SPC_CONFIG_LAYERS];  /* [layers] 1: the layer sees the window only */
    uint8_t unturned[SPC_CONFIG_LAYERS]; /* [layers] 1: the layer has no rotary positions (NoPE) */
    int32_t experts;                     /* feed-forward parts of a layer; 0: it is one */
    int32_t chosen;                      /* experts that a token takes, at most SPC_CONFIG_CHOSEN */
    bool shares_add_up;                  /* the shares of those chosen are scaled to a sum of 1 */
    bool fused;  /* queries, keys and values are one matrix; so are gates and what they gate */
    bool scaled; /* quantization_config: every matrix of 8-bit floats has scales beside it */
    bool buffers_bfloat16;   /* what a model computes when it is built (rotary frequencies, Gemma's
                                embedding scale) is rounded to bfloat16, as in one that was cast as a
                                whole: model.to(bfloat16) casts its buffers too */
    bool tied;               /* the head is the embedding */
    bool contained;          /* the text model of a model of text and images */
    int32_t encoder_layers;  /* 0: a decoder by itself; T5: layers that read the prompt, ... */
    int32_t start;           /* ... behind which the decoder begins with this id */
    int32_t buckets;         /* T5: of relative positions, by layer type ... */
    int32_t bucket_distance; /* ... and the distance from which on all share the last one */
    bool gated;              /* T5: the feed-forward part multiplies two matrices' outputs */
    double head_scale;       /* logits are multiplied with it */
    double embedding_scale;  /* the same for embedded rows, beside what an architecture does ... */
    double residual_scale;   /* ... and for what layers add to them (Granite) */
    int32_t bos;             /* -1: none */
    int32_t stop_count;      /* end-of-sequence ids; generation_config.json first */
    int32_t stop[SPC_CONFIG_STOPS]; /* [stop_count] */
} spc_config;

/* Such a value as the model has it: rounded to the nearest bfloat16, or as it is. */
double spc_config_buffer(const spc_config *config, double value);

/* Read and validate.  Every key that is missing, of the wrong type or out of range is named with
 * what was expected and found; an option of the file that would change results and is not supported
 * (another hidden_act, an unknown rope type) is SPC_EMODEL and is named
 * too. Whether the architecture itself is known is the business of host/plan.c. */
spc_status spc_config_read(spc_bundle *bundle, spc_config *out, spc_error *err);

#endif
