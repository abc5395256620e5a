/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_gguf.c - libFuzzer: any bytes as a GGUF file, and what its metadata amounts to. */
#include "weights/bundle_tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void expect_reason(const spc_error *err)
{
    if (err->status == SPC_OK || !err->message[0] || strchr(err->message, '\n')) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    spc_blob file = {.name = "m.gguf", .data = data, .bytes = bytes};
    spc_error err = {SPC_OK, ""};
    spc_bundle *bundle;
    spc_tokenizer *tokenizer;
    const char *text;
    size_t length;

    if (spc_bundle_open_memory("fuzz", &file, 1, &bundle, &err) != SPC_OK) {
        expect_reason(&err);
        return 0;
    }
    if (spc_bundle_file(bundle, "config.json", &text, &length, &err) != SPC_OK) expect_reason(&err);
    if (spc_bundle_has_file(bundle, "tokenizer.json")) {
        if (spc_bundle_file(bundle, "tokenizer.json", &text, &length, &err) != SPC_OK ||
            spc_bundle_tokenizer(bundle, &tokenizer, &err) != SPC_OK) {
            expect_reason(&err);
        } else {
            spc_tokenizer_close(tokenizer);
        }
    }
    spc_bundle_close(bundle);
    return 0;
}
