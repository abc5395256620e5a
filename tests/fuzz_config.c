/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_config.c - libFuzzer: any bytes as a config.json, and the plan of what was read from it. */
#include "host/plan/plan.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void expect_message(const spc_error *err)
{
    if (!err->message[0] || strchr(err->message, '\n')) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char no_tensors[] = "\x02\0\0\0\0\0\0\0{}";
    spc_blob files[] = {{"model.safetensors", no_tensors, sizeof no_tensors - 1},
                        {"config.json", data, bytes}};
    spc_error err = {SPC_OK, ""};
    spc_bundle *bundle;
    spc_config config;
    spc_plan *plan;

    if (spc_bundle_open_memory("fuzz", files, 2, &bundle, &err) != SPC_OK) abort();
    if (spc_config_read(bundle, &config, &err) != SPC_OK) {
        expect_message(&err);
    } else if (spc_plan_build(&config, "fuzz", &plan, &err) != SPC_OK) {
        expect_message(&err);
    } else {
        spc_plan_close(plan);
    }
    spc_bundle_close(bundle);
    return 0;
}
