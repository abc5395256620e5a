/* SPDX-License-Identifier: Apache-2.0 */
/* cli_kernels.c - spc tune-kernels: which kernels are fastest for two models on one GPU. */
#include "cli.h"

#include <stddef.h>
#include <string.h>

typedef struct {
    const char *verifier, *drafter, *device, *weights, *output;
} kernels_args;

static const spc_cli_option options[] = {
    {"verifier", "MODEL", "the large model", SPC_CLI_TEXT, offsetof(kernels_args, verifier), 0, 0},
    {"drafter", "MODEL", "the small model; 'none': there is none", SPC_CLI_TEXT,
     offsetof(kernels_args, drafter), 0, 0},
    {"device", "NAME", "cuda or cuda:N", SPC_CLI_TEXT, offsetof(kernels_args, device), 0, 0},
    {"weights", "KIND", SPC_CLI_WEIGHTS, SPC_CLI_TEXT, offsetof(kernels_args, weights), 0, 0},
    {"output", "FILE", "where the table goes, for --kernels of spc run and spc chat", SPC_CLI_TEXT,
     offsetof(kernels_args, output), 0, 0},
};

static void init(void *args)
{
    kernels_args *a = args;

    a->verifier = SPC_EMBEDDED_VERIFIER;
    a->drafter = SPC_EMBEDDED_DRAFTER;
    a->device = "cuda";
}

enum { CONTEXT = 64 }; /* the forwards that are timed have at most 16 rows */

static int run(const void *args, const spc_cli_line *line)
{
    const kernels_args *a = args;
    spc_engine_options o;
    spc_error error;

    (void)line;
    if (!a->output) return spc_cli_fail_with(SPC_EUSAGE, "--output FILE: expected, found nothing");
    spc_engine_options_init(&o);
    o.verifier = a->verifier;
    o.drafter = strcmp(a->drafter, "none") == 0 ? NULL : a->drafter;
    o.device = a->device;
    o.weights = a->weights;
    o.context = CONTEXT;
    o.progress = spc_cli_loading;
    return spc_tune_kernels(&o, a->output, &error) == SPC_OK ? 0 : spc_cli_fail(&error);
}

const spc_cli_command spc_cli_kernels = {
    "tune-kernels",
    "",
    "Time the kernels of linear layers on a GPU and write a table of the fastest",
    "Whole forwards of 1, 6 and 16 rows are timed.  The table is of the GPU and of layers of "
    "these\n"
    "models; with it spc run computes the same function with last bits of its own.",
    0,
    0,
    options,
    sizeof options / sizeof *options,
    sizeof(kernels_args),
    init,
    run};
