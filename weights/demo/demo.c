/* SPDX-License-Identifier: Apache-2.0 */
/* demo.c - the embedded pair as lists of files.  Both models share one tokenizer. */
#include "weights/demo/demo.h"

#define SPC_DEMO_SYMBOL(name) extern const char name##_begin[], name##_end[]

SPC_DEMO_SYMBOL(spc_demo_drafter_config);
SPC_DEMO_SYMBOL(spc_demo_drafter_generation);
SPC_DEMO_SYMBOL(spc_demo_drafter_weights);
SPC_DEMO_SYMBOL(spc_demo_verifier_config);
SPC_DEMO_SYMBOL(spc_demo_verifier_generation);
SPC_DEMO_SYMBOL(spc_demo_verifier_weights);
SPC_DEMO_SYMBOL(spc_demo_tokenizer);

static void set(spc_blob *blob, const char *name, const char *begin, const char *end)
{
    blob->name = name;
    blob->data = begin;
    blob->bytes = (size_t)(end - begin);
}

#define SPC_DEMO_FILE(i, name, symbol) set(&files[i], name, symbol##_begin, symbol##_end)

int32_t spc_demo_files(spc_demo_model which, spc_blob *files)
{
    if (which == SPC_DEMO_DRAFTER) {
        SPC_DEMO_FILE(0, "config.json", spc_demo_drafter_config);
        SPC_DEMO_FILE(1, "generation_config.json", spc_demo_drafter_generation);
        SPC_DEMO_FILE(2, "model.safetensors", spc_demo_drafter_weights);
    } else {
        SPC_DEMO_FILE(0, "config.json", spc_demo_verifier_config);
        SPC_DEMO_FILE(1, "generation_config.json", spc_demo_verifier_generation);
        SPC_DEMO_FILE(2, "model.safetensors", spc_demo_verifier_weights);
    }
    SPC_DEMO_FILE(3, "tokenizer.json", spc_demo_tokenizer);
    return SPC_DEMO_FILES;
}
