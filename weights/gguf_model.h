/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_model.h - a GGUF file seen as a Hugging Face checkpoint: the same names of tensors, and its
 * metadata as the texts of config.json and tokenizer.json.  What reads those serves both formats.
 *
 * Differences that are undone:
 *   - converters of Llama interleave the two halves of each query and key head; rows of q_proj and
 *     k_proj (and their biases) are put back in order, as owned copies;
 *   - Gemma's norms hold w + 1; 1 is taken off again (exact but for |w + 1| < 1/2, where 2^-25 of
 *     it may be lost);
 *   - rope_freqs.weight becomes the rope type "spc_divisors". */
#ifndef SPC_WEIGHTS_GGUF_MODEL_H
#define SPC_WEIGHTS_GGUF_MODEL_H

#include <jansson.h>

#include "gguf.h"
#include "safetensors.h"

/* Append the tensors of a file under their Hugging Face names.  `head` is the file that holds the
 * metadata: the first part of a split model, or the file itself.  Names that are no part of a
 * supported architecture are SPC_EMODEL; data is borrowed, or owned by the list. */
spc_status spc_gguf_tensors(const char *where, const spc_gguf *head, const spc_gguf *file,
                            spc_tensor_list *list, spc_error *err);

/* The text of config.json that the metadata amounts to; tensors: of all parts, sorted or not.  A
 * key that is missing or of the wrong type is named; an unknown architecture is SPC_EMODEL.
 *
 * text   receives malloc'd text, the caller frees
 * divisors   values of rope_freqs.weight [divisor_count], or NULL */
spc_status spc_gguf_config(const char *where, const spc_gguf *head, const spc_tensor_list *tensors,
                           char **text, size_t *bytes, spc_error *err);

/* Is there a tokenizer in the metadata? */
bool spc_gguf_has_tokenizer(const spc_gguf *head);

/* The tokenizer.json that the metadata amounts to, as a tree and as text, which the caller
 * releases. tokenizer.ggml.model and tokenizer.ggml.pre that are not known are SPC_EMODEL, with the
 * list of those that are. */
spc_status spc_gguf_tokenizer_tree(const char *where, const spc_gguf *head, json_t **out,
                                   spc_error *err);
spc_status spc_gguf_tokenizer(const char *where, const spc_gguf *head, char **text, size_t *bytes,
                              spc_error *err);

/* The chat template in the metadata, the text of chat_template.jinja; false: there is none. */
bool spc_gguf_chat_template(const spc_gguf *head, spc_gguf_string *out);

#endif
