/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_safetensors.c - libFuzzer: any bytes as a safetensors file. */
#include "weights/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

extern volatile unsigned fuzz_sink; /* keeps the reads of touch alive */
volatile unsigned fuzz_sink;

/* The first and the last byte of every tensor are there. */
static unsigned touch(const spc_tensor_list *list)
{
    unsigned sum = 0;

    for (int32_t i = 0; i < list->count; i++) {
        const unsigned char *at = list->tensor[i].data;

        if (list->tensor[i].bytes > 0) sum += at[0] + at[list->tensor[i].bytes - 1];
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    spc_tensor_list list;
    spc_error err = {SPC_OK, ""};

    memset(&list, 0, sizeof list);
    if (spc_safetensors_read("fuzz", data, bytes, &list, &err) == SPC_OK) {
        fuzz_sink = touch(&list);
    } else if (err.status == SPC_OK || !err.message[0] || strchr(err.message, '\n')) {
        abort(); /* a failure says why, in one line */
    }
    spc_tensor_list_free(&list);
    return 0;
}
