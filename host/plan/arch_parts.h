/* SPDX-License-Identifier: Apache-2.0 */
/* arch_parts.h - what the decoders of Llama's kind have in common: a layer's names, and the ops of
 * attention and of the feed-forward part, as Hugging Face checkpoints name their tensors. */
#ifndef SPC_HOST_ARCH_PARTS_H
#define SPC_HOST_ARCH_PARTS_H

#include "plan.h"

typedef struct {
    int32_t hidden, normed, qkv, attended, projected, gated, product;
    int32_t scores, route; /* of experts, where the config has any */
} spc_arch_buffers;

/* The buffers of a decoder of this config. */
spc_arch_buffers spc_arch_buffers_of(spc_plan *plan);

/* A tensor of a layer: "model.layers.LAYER.NAME". */
int32_t spc_arch_weight(spc_plan *plan, int32_t layer, const char *name, int32_t rows,
                        int32_t cols);

/* RMSNorm; the tensor's entries plus `plus`. */
void spc_arch_norm(spc_plan *plan, int32_t out, int32_t in, int32_t weight, float plus);

void spc_arch_add(spc_plan *plan, int32_t out, int32_t a, int32_t b);

/* projected = attention of normed, before it is added to hidden.  qk_norm: queries and keys are
 * normed head by head, their tensors plus `plus`. */
void spc_arch_attention(spc_plan *plan, const spc_arch_buffers *b, int32_t layer, bool qk_norm,
                        float plus);

/* projected = feed-forward of normed. */
void spc_arch_feed_forward(spc_plan *plan, const spc_arch_buffers *b, int32_t layer);

/* How a family names the tensors of experts: PART.gate.weight, and PART.experts.N.GATE.weight ...
 */
typedef struct {
    const char *part, *gate, *up, *down;
} spc_arch_experts;

/* The same, of the experts that a router chooses. */
void spc_arch_feed_experts(spc_plan *plan, const spc_arch_buffers *b, int32_t layer,
                           const spc_arch_experts *names);

/* hidden = rows of the embedding times scale; returns the embedding. */
int32_t spc_arch_embed(spc_plan *plan, const spc_arch_buffers *b, float scale);

/* Logits of hidden, from the embedding where the config ties them. */
void spc_arch_head(spc_plan *plan, const spc_arch_buffers *b, int32_t embedding, float plus);

#endif
