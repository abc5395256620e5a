/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_gguf.c - libFuzzer: any bytes as a GGUF file, and what its metadata amounts to: a config,
 * the plan of a model and where its tensors are, a tokenizer, a chat template. */
#include "weights/bundle_tokenizer.h"
#include "weights/chat.h"

#include "host/plan/plan.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void expect_reason(const spc_error *err)
{
    if (err->status == SPC_OK || !err->message[0] || strchr(err->message, '\n')) abort();
}

/* What loading looks at before it reads a weight. */
static void find_tensors(spc_bundle *bundle)
{
    spc_error err = {SPC_OK, ""};
    spc_config config;
    spc_plan *plan;

    if (spc_config_read(bundle, &config, &err) != SPC_OK ||
        spc_plan_build(&config, "fuzz", &plan, &err) != SPC_OK) {
        expect_reason(&err);
        return;
    }
    spc_plan_read_blocks(plan, bundle);
    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_tensor *t;

        if (spc_plan_tensor(&plan->weight[i], bundle, &t, &err) != SPC_OK) expect_reason(&err);
    }
    for (int32_t world = 1; world <= 4; world++) {
        spc_plan *part;

        if (spc_plan_divides(plan, world) !=
            (spc_plan_part(plan, world - 1, world, "fuzz", &part, &err) == SPC_OK)) {
            abort();
        }
        spc_plan_close(part);
    }
    spc_plan_close(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    spc_blob file = {.name = "m.gguf", .data = data, .bytes = bytes};
    spc_error err = {SPC_OK, ""};
    spc_bundle *bundle;
    spc_tokenizer *tokenizer;
    spc_chat_template chat;
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
    find_tensors(bundle);
    if (spc_chat_detect(bundle, &chat, &err) != SPC_OK) expect_reason(&err);
    spc_bundle_close(bundle);
    return 0;
}
