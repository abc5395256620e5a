/* SPDX-License-Identifier: Apache-2.0 */
/* cli_memory.h - the memory plan of spc info: what one model or a pair takes, on which devices. */
#ifndef SPC_HOST_CLI_MEMORY_H
#define SPC_HOST_CLI_MEMORY_H

#include "cli.h"
#include "host/engine.h"

/* What is planned for. */
typedef struct {
    const char *device;         /* NULL: the CPU, and the first GPU where there is one; with a
                                   drafter_device what spc run chooses */
    const char *drafter_device; /* NULL: the verifier's */
    const spc_model *model;
    const spc_model *drafter; /* NULL: none */
    const char *drafter_name;
    const spc_tokenizer *tokenizer; /* of model; NULL: none */
    int32_t batch, context;
    int32_t kv_tokens; /* 0: as many as the batch can fill, or fit on the device */
    spc_dtype kv;      /* of keys and values */
} spc_cli_memory_for;

/* What a model takes on a device. */
typedef struct {
    const char *drafter; /* its name; NULL: it is the model */
    char device[128];
    uint64_t weights;       /* bytes */
    uint64_t kv, workspace; /* bytes, for the whole batch */
    int64_t pages;          /* of the KV cache */
    uint64_t tokenizer;     /* bytes of its tables, on the CPU */
    size_t stacks;          /* bytes on the device, whatever runs there; 0: none */
    size_t room;            /* free on the device, where that is known; 0 otherwise */
    spc_error trouble;      /* why weights cannot be loaded there; "" */
} spc_cli_memory;

enum { SPC_CLI_MEMORIES = 4 };

typedef struct {
    spc_cli_memory item[SPC_CLI_MEMORIES];
    int32_t count;
} spc_cli_memories;

spc_status spc_cli_plan_memory(const spc_cli_memory_for *what, spc_cli_memories *out,
                               spc_error *err);
void spc_cli_print_memory(const spc_cli_memory_for *what, const spc_cli_memories *plan);
/* NULL: no memory. */
json_t *spc_cli_memory_json(const spc_cli_memory_for *what, const spc_cli_memories *plan);

/* "KV cache          1.2 MB (1234567 bytes)" */
void spc_cli_print_size(const char *what, uint64_t bytes);

#endif
