/* SPDX-License-Identifier: Apache-2.0 */
/* bundle_tokenizer.h - the tokenizer of a model. */
#ifndef SPC_WEIGHTS_BUNDLE_TOKENIZER_H
#define SPC_WEIGHTS_BUNDLE_TOKENIZER_H

#include "bundle.h"
#include "tokenizer.h"

/* Open it from tokenizer.json, which is let go, or from a GGUF file's metadata, without a text
 * between.  As spc_tokenizer_open; SPC_EIO: the model has none, or it cannot be read. */
spc_status spc_bundle_tokenizer(spc_bundle *bundle, spc_tokenizer **out, spc_error *err);

/* Do both have a tokenizer.json, and the same to the byte?  Then one tokenizer serves both.  As
 * spc_bundle_file. */
spc_status spc_bundle_same_tokenizer(spc_bundle *a, spc_bundle *b, bool *same, spc_error *err);

#endif
