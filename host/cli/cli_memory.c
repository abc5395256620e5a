/* SPDX-License-Identifier: Apache-2.0 */
/* cli_memory.c - the memory plan of spc info. */
#include "cli_memory.h"

#include "host/apart/backend_apart.h"
#include "host/device.h"
#include "host/fit.h"
#include "host/kv.h"

#include <inttypes.h>

/* ---- planning ---------------------------------------------------------------------------------
 */

static spc_status plan_model(const spc_backend_ops *ops, spc_backend *backend,
                             const spc_cli_memory_for *what, bool drafter, const spc_limits *limits,
                             spc_cli_memories *plan, spc_error *err)
{
    const spc_model *model = drafter ? what->drafter : what->model;
    spc_cli_memory *out = &plan->item[plan->count++];
    size_t all = ops->memory(backend, model->plan, limits);
    spc_claims claims = {.count = 0};

    out->drafter = drafter ? what->drafter_name : NULL;
    (void)snprintf(out->device, sizeof out->device, "%s", ops->device(backend));
    out->weights = spc_bundle_bytes(model->bundle);
    if (ops->claim) { /* what it will not take is told of: other devices may */
        (void)ops->claim(backend, model->plan, model->bundle, limits, &claims, &out->trouble);
    }
    if (claims.count > 0) {
        out->weights = claims.item[0].weights;
        out->room = claims.item[0].room;
    }
    if (ops == &spc_backend_cpu && !drafter && what->tokenizer) {
        out->tokenizer = spc_tokenizer_bytes(what->tokenizer);
    }
    if (ops->stacks) out->stacks = ops->stacks(backend);
    if (all >= SIZE_MAX / 2) { /* where it stops counting */
        return spc_error_set(err, SPC_EUSAGE,
                             "a batch of %d with a context of %d takes more memory than can be "
                             "counted: lower --batch or --context",
                             (int)what->batch, (int)what->context);
    }
    out->pages = spc_limits_pages(limits);
    out->kv = spc_kv_bytes(model->plan, limits);
    out->workspace = all - out->kv;
    return SPC_OK;
}

static spc_limits limits_for(const spc_cli_memory_for *what)
{
    spc_limits limits = spc_engine_limits(what->batch, what->context);

    limits.pages = what->kv_tokens / SPC_PAGE_TOKENS;
    limits.kv = what->kv;
    return limits;
}

/* The same on a device, where an engine may make the KV caches smaller. */
static spc_limits limits_on(const spc_backend_ops *ops, spc_backend *backend,
                            const spc_cli_memory_for *what)
{
    spc_fit fit = {ops, backend, what->model, what->drafter};
    spc_limits limits = limits_for(what);
    spc_error told; /* with the model that cannot be loaded */

    spc_engine_widen(&limits, ops, backend);
    if (what->kv_tokens == 0) (void)spc_fit_pages(&fit, &limits, &limits.pages, &told);
    return limits;
}

/* All models on one more device. */
static spc_status plan_device(const char *device, const spc_cli_memory_for *what,
                              spc_cli_memories *plan, spc_error *err)
{
    const spc_backend_ops *ops;
    spc_backend *backend;
    spc_limits limits;
    spc_status status = spc_device_open(device, 0, NULL, NULL, NULL, &ops, &backend, err);

    if (status != SPC_OK) return status;
    limits = limits_on(ops, backend, what);
    status = plan_model(ops, backend, what, false, &limits, plan, err);
    if (status == SPC_OK && what->drafter) {
        status = plan_model(ops, backend, what, true, &limits, plan, err);
    }
    ops->close(backend);
    return status;
}

/* Each model on its own. */
static spc_status plan_apart(const spc_cli_memory_for *what, spc_cli_memories *plan, spc_error *err)
{
    spc_limits limits;
    spc_engine_options o;
    spc_backend *both;
    spc_status status;

    spc_engine_options_init(&o);
    o.drafter = what->drafter_name;
    o.device = what->device ? what->device : "auto";
    o.drafter_device = what->drafter_device;
    status = spc_apart_open(&o, NULL, NULL, &both, err);
    if (status != SPC_OK) return status;
    spc_apart_drafter(both, what->drafter->plan);
    limits = limits_on(&spc_backend_apart, both, what);
    for (int drafter = 0; drafter < 2 && status == SPC_OK; drafter++) {
        spc_limits own = spc_apart_limits(&limits, drafter);
        spc_backend *backend;
        const spc_backend_ops *ops = spc_apart_device(both, drafter, &backend);

        status = plan_model(ops, backend, what, drafter, &own, plan, err);
    }
    spc_backend_apart.close(both);
    return status;
}

spc_status spc_cli_plan_memory(const spc_cli_memory_for *what, spc_cli_memories *out,
                               spc_error *err)
{
    spc_error none;
    spc_status status;

    if (what->drafter_device) return plan_apart(what, out, err);
    status = plan_device(what->device, what, out, err);
    if (status != SPC_OK || what->device) return status;
    (void)plan_device("cuda", what, out, &none); /* where there is one */
    return SPC_OK;
}

/* ---- telling ----------------------------------------------------------------------------------
 */

void spc_cli_print_size(const char *what, uint64_t bytes)
{
    char size[SPC_CLI_SIZE_BYTES];

    spc_cli_print("%-18s%s (%" PRIu64 " bytes)\n", what, spc_cli_size(bytes, size), bytes);
}

static void print_kv(const spc_cli_memory_for *what, const spc_cli_memory *use)
{
    spc_limits limits = limits_for(what);
    int64_t wanted = spc_limits_pages(&limits);
    char size[SPC_CLI_SIZE_BYTES];

    spc_cli_print("%-18s%s (%" PRIu64 " bytes, %s, %" PRId64 " pages of %d tokens", "KV cache",
                  spc_cli_size(use->kv, size), use->kv, spc_kv_name(limits.kv), use->pages,
                  SPC_PAGE_TOKENS);
    if (use->pages < wanted) {
        spc_cli_print(", of %" PRId64 " for all sequences at once", wanted);
    }
    spc_cli_print(")\n");
}

void spc_cli_print_memory(const spc_cli_memory_for *what, const spc_cli_memories *plan)
{
    for (int32_t i = 0; i < plan->count; i++) {
        const spc_cli_memory *use = &plan->item[i];

        spc_cli_print("\nmemory for %d sequence%s of %d tokens on %s%s%s:\n", (int)what->batch,
                      spc_cli_plural(what->batch), (int)what->context, use->device,
                      use->drafter ? ", of the drafter " : "", use->drafter ? use->drafter : "");
        if (use->trouble.message[0]) {
            spc_cli_print("%-18scannot be loaded: %s\n", "weights", use->trouble.message);
            continue;
        }
        spc_cli_print_size("weights", use->weights);
        print_kv(what, use);
        spc_cli_print_size("workspace", use->workspace);
        if (use->tokenizer > 0) spc_cli_print_size("tokenizer", use->tokenizer);
        spc_cli_print_size("together", use->weights + use->kv + use->workspace + use->tokenizer);
        if (use->stacks > 0) spc_cli_print_size("stacks, once", use->stacks);
        if (use->room > 0) spc_cli_print_size("free", use->room);
    }
}

json_t *spc_cli_memory_json(const spc_cli_memory_for *what, const spc_cli_memories *plan)
{
    spc_limits limits = limits_for(what);
    json_t *object = json_pack("{s:i, s:i, s:I, s:s, s:[]}", "batch", (int)what->batch, "context",
                               (int)what->context, "kv_tokens",
                               (json_int_t)(spc_limits_pages(&limits) * SPC_PAGE_TOKENS), "kv_type",
                               spc_kv_name(limits.kv), "devices");
    json_t *array = json_object_get(object, "devices");

    for (int32_t i = 0; i < plan->count; i++) {
        const spc_cli_memory *use = &plan->item[i];
        json_t *item = json_pack(
            "{s:s, s:o*, s:I, s:I, s:I, s:I, s:I, s:I, s:o*}", "device", use->device, "drafter",
            spc_cli_json_text(use->drafter), "weight_bytes", (json_int_t)use->weights, "kv_tokens",
            (json_int_t)(use->pages * SPC_PAGE_TOKENS), "kv_bytes", (json_int_t)use->kv,
            "workspace_bytes", (json_int_t)use->workspace, "tokenizer_bytes",
            (json_int_t)use->tokenizer, "stack_bytes", (json_int_t)use->stacks, "error",
            spc_cli_json_text(use->trouble.message[0] ? use->trouble.message : NULL));

        if (json_array_append_new(array, item) == 0) continue;
        json_decref(object);
        return NULL;
    }
    return object;
}
