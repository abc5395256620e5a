/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_tokenizer.c - libFuzzer: any bytes as a tokenizer.json, and what stands behind the first
 * zero byte as a text for it. */
#include "weights/tokenizer.h"
#include "weights/utf8.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void encode_and_decode(const spc_tokenizer *tokenizer, const char *text, size_t bytes)
{
    int32_t *ids, count;
    char *back;
    spc_error err;

    if (spc_tokenizer_encode(tokenizer, text, bytes, true, &ids, &count, &err) != SPC_OK) return;
    if (spc_utf8_invalid(text, bytes) != bytes) abort(); /* encoded what is no text */
    if (spc_tokenizer_decode(tokenizer, ids, count, false, &back, NULL, &err) == SPC_OK) {
        if (spc_utf8_invalid(back, strlen(back)) != strlen(back)) abort();
        free(back);
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const uint8_t *zero = bytes > 0 ? memchr(data, 0, bytes) : NULL;
    size_t json = zero ? (size_t)(zero - data) : bytes;
    spc_tokenizer *tokenizer;
    spc_error err = {SPC_OK, ""};

    if (spc_tokenizer_open("fuzz", (const char *)data, json, &tokenizer, &err) == SPC_OK) {
        if (zero) encode_and_decode(tokenizer, (const char *)zero + 1, bytes - json - 1);
        spc_tokenizer_close(tokenizer);
    } else if (tokenizer || !err.message[0] || strchr(err.message, '\n')) {
        abort();
    }
    return 0;
}
