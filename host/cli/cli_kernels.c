/* SPDX-License-Identifier: Apache-2.0 */
/* cli_kernels.c - spc tune-kernels: which kernels are fastest for two models on one GPU. */
#include "cli.h"
#include "host/kernels.h"

#include <stddef.h>
#include <string.h>

typedef struct {
    const char *verifier, *drafter, *drafter_vocab, *device, *weights, *output;
    bool fast_prefill;
} kernels_args;

static const spc_cli_option options[] = {
    {"verifier", "MODEL", "the large model", SPC_CLI_TEXT, offsetof(kernels_args, verifier), 0, 0},
    {"drafter", "MODEL", "the small model; 'none': there is none", SPC_CLI_TEXT,
     offsetof(kernels_args, drafter), 0, 0},
    {"drafter-vocab", "N|FILE", SPC_CLI_DRAFTER_VOCAB, SPC_CLI_TEXT,
     offsetof(kernels_args, drafter_vocab), 0, 0},
    {"device", "NAME", "cuda or cuda:N", SPC_CLI_TEXT, offsetof(kernels_args, device), 0, 0},
    {"weights", "KIND", SPC_CLI_WEIGHTS, SPC_CLI_TEXT, offsetof(kernels_args, weights), 0, 0},
    {"fast-prefill", NULL,
     "time more than 16 rows too, for spc run --fast-prefill: spc's own kernels\n"
     "against what cuBLASLt suggests",
     SPC_CLI_FLAG, offsetof(kernels_args, fast_prefill), 0, 0},
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

/* A line for each number of rows above 16 that was timed. */
static void print_many(const spc_kernels_entry *e)
{
    for (int32_t i = 0; i < SPC_KERNELS_WIDE; i++) {
        const spc_kernels_many *many = &e->many[i];
        bool chosen = many->forward_us < many->default_us;

        if (many->by == SPC_KERNELS_NONE) continue;
        spc_cli_print("  %4d rows %-28s forwards %.1f us; by default %.1f\n",
                      (int)spc_kernels_wide[i],
                      many->by == SPC_KERNELS_OWN ? e->kernel
                      : chosen                    ? "cublaslt, not its first choice"
                                                  : "cublaslt",
                      many->forward_us, many->default_us);
    }
}

/* A line for each layer: what was fastest, and what the forwards take with it and by default. */
static int print_table(const char *path)
{
    spc_kernels table;
    spc_error error;

    if (spc_kernels_read(path, &table, &error) != SPC_OK) return spc_cli_fail(&error);
    for (int32_t i = 0; i < table.count; i++) {
        const spc_kernels_entry *e = &table.entry[i];
        char shape[SPC_KERNELS_TEXT];

        spc_cli_print("%-36s %-5s slices %2d", spc_kernels_shape_text(&e->shape, shape), e->kernel,
                      (int)e->slices);
        if (e->tiles[0] > 0) spc_cli_print(" tiles %d, %d", (int)e->tiles[0], (int)e->tiles[1]);
        spc_cli_print("  forwards %.1f, %.1f, %.1f us; by default %.1f, %.1f, %.1f\n",
                      e->forward_us[0], e->forward_us[1], e->forward_us[2], e->default_us[0],
                      e->default_us[1], e->default_us[2]);
        print_many(e);
    }
    spc_kernels_clear(&table);
    return 0;
}

/* The forwards that are timed have at most 16 rows, or 512: of so many sessions. */
enum { CONTEXT = 64, SESSIONS = 32 };

static int run(const void *args, const spc_cli_line *line)
{
    const kernels_args *a = args;
    spc_engine_options o;
    spc_error error;

    (void)line;
    if (!a->output) {
        return spc_cli_fail_with(SPC_EUSAGE,
                                 "--output is missing: give the file that the table is written to");
    }
    if (spc_cli_check_output(a->output, "what was timed is on stdout already", &error) != SPC_OK) {
        return spc_cli_fail(&error);
    }
    spc_engine_options_init(&o);
    o.verifier = a->verifier;
    o.drafter = strcmp(a->drafter, "none") == 0 ? NULL : a->drafter;
    o.drafter_vocab = a->drafter_vocab;
    o.device = a->device;
    o.weights = a->weights;
    o.context = CONTEXT;
    o.fast_prefill = a->fast_prefill;
    if (a->fast_prefill) o.sessions = SESSIONS;
    o.progress = spc_cli_loading;
    if (spc_tune_kernels(&o, a->output, &error) != SPC_OK) return spc_cli_fail(&error);
    return print_table(a->output);
}

const spc_cli_command spc_cli_kernels = {
    "tune-kernels",
    "",
    "time the kernels of linear layers on a GPU and write a table of the fastest",
    "Times whole forward passes of 1, 6 and 16 rows, with --fast-prefill also of 32 to 512.  The\n"
    "table is valid for this GPU, layers like these models' and, beyond 16 rows, this version of\n"
    "cuBLASLt.  With it spc run computes the same function, but the last bits may differ.",
    0,
    0,
    options,
    sizeof options / sizeof *options,
    sizeof(kernels_args),
    init,
    run,
    NULL};
