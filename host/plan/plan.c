/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - building, measuring and printing plans; the table of architectures. */
#include "plan.h"

#include "weights/quant.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const spc_architecture *const architectures[] = {
    &spc_arch_llama,     &spc_arch_mistral,    &spc_arch_qwen2,  &spc_arch_qwen3, &spc_arch_smollm3,
    &spc_arch_phi3,      &spc_arch_gemma2,     &spc_arch_gemma3, &spc_arch_t5,    &spc_arch_mixtral,
    &spc_arch_qwen3_moe, &spc_arch_ministral3, &spc_arch_granite};
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

const char *spc_op_name(spc_op_kind kind)
{
#define SPC_OP_NAME(id, name) name,
    static const char *const names[] = {SPC_OP_MAP(SPC_OP_NAME)};
#undef SPC_OP_NAME

    return (unsigned)kind < SPC_OP_COUNT ? names[kind] : "unknown";
}

/* ---- appending --------------------------------------------------------------------------------
 */

/* Room for one more element; returns the array, or NULL and remembers. */
static void *grow(spc_plan *plan, void *array, int32_t count, int32_t *capacity, size_t size)
{
    int32_t wanted = *capacity ? *capacity * 2 : 32;
    void *grown;

    if (count < *capacity) return array;
    grown = realloc(array, (size_t)wanted * size);
    if (!grown) {
        plan->no_memory = true;
        return array;
    }
    *capacity = wanted;
    return grown;
}

int32_t spc_plan_buffer(spc_plan *plan, const char *name, int32_t dim)
{
    plan->buffer =
        grow(plan, plan->buffer, plan->buffer_count, &plan->buffer_capacity, sizeof *plan->buffer);
    if (plan->no_memory) return 0;
    plan->buffer[plan->buffer_count] = (spc_buffer){.name = name, .dim = dim};
    return plan->buffer_count++;
}

int32_t spc_plan_weight(spc_plan *plan, const char *name, int32_t rows, int32_t cols)
{
    spc_weight *w;

    plan->weight =
        grow(plan, plan->weight, plan->weight_count, &plan->weight_capacity, sizeof *plan->weight);
    if (plan->no_memory) return 0;
    w = &plan->weight[plan->weight_count];
    (void)snprintf(w->name, sizeof w->name, "%s", name);
    w->rows = w->of_rows = rows;
    w->cols = w->of_cols = cols;
    w->row = w->col = 0;
    w->plus = 0;
    w->relative = SPC_RELATIVE_NONE;
    return plan->weight_count++;
}

void spc_plan_op(spc_plan *plan, spc_op op)
{
    plan->op = grow(plan, plan->op, plan->op_count, &plan->op_capacity, sizeof *plan->op);
    if (!plan->no_memory) plan->op[plan->op_count++] = op;
}

spc_op spc_op_of(spc_op_kind kind, int32_t out, int32_t a, int32_t b)
{
    return (spc_op){.kind = kind,
                    .out = out,
                    .a = a,
                    .b = b,
                    .weight = {-1, -1, -1},
                    .bias = {-1, -1, -1},
                    .scale = 1};
}

/* ---- build ------------------------------------------------------------------------------------
 */

spc_status spc_plan_build(const spc_config *config, const char *where, spc_plan **out,
                          spc_error *err)
{
    char known[320] = "";
    size_t used = 0;
    spc_plan *plan;
    int32_t i = 0;

    *out = NULL;
    while (i < ARCHITECTURES && strcmp(architectures[i]->name, config->architecture) != 0) i++;
    if (i == ARCHITECTURES) {
        for (i = 0; i < ARCHITECTURES && used < sizeof known; i++) {
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                     architectures[i]->name);
        }
        return spc_error_set(err, SPC_EMODEL,
                             "%s/config.json: unknown architecture '%s'; known: %s", where,
                             config->architecture, known);
    }
    plan = calloc(1, sizeof *plan);
    if (plan) {
        plan->config = *config;
        plan->ids = config->vocab;
        plan->attention_block = plan->gate_block = 1;
        architectures[i]->build(plan);
    }
    if (!plan || plan->no_memory) {
        spc_plan_close(plan);
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for its plan", where);
    }
    *out = plan;
    return SPC_OK;
}

void spc_plan_close(spc_plan *plan)
{
    if (!plan) return;
    free(plan->op);
    free(plan->buffer);
    free(plan->weight);
    free(plan->subset);
    free(plan);
}

/* ---- measures ---------------------------------------------------------------------------------
 */

int32_t spc_plan_bucket(const spc_config *config, spc_relative relative, int32_t offset)
{
    int32_t buckets = relative == SPC_RELATIVE_BOTH ? config->buckets / 2 : config->buckets;
    int32_t first = relative == SPC_RELATIVE_BOTH && offset > 0 ? buckets : 0, exact = buckets / 2;
    int32_t distance = relative == SPC_RELATIVE_BOTH && offset > 0 ? offset : -offset, bucket;

    if (distance < exact) return first + (distance > 0 ? distance : 0);
    /* in float, as the reference: where the logarithm is whole, the last bit decides */
    bucket = exact + (int32_t)(logf((float)distance / (float)exact) /
                               (float)log((double)config->bucket_distance / exact) *
                               (float)(buckets - exact));
    return first + (bucket < buckets ? bucket : buckets - 1);
}

/* Is a weight one of those that stand at `first`, one for each expert or one alone? */
static bool is_among(const spc_plan *plan, const spc_op *op, int32_t first, int32_t weight)
{
    return first >= 0 && weight >= first && weight < first + spc_op_matrices(plan, op);
}

/* What a decoded row reads of a weight: nothing, the row of its token, or all of it; of an expert's
 * as much as the tokens that take it are of all of them. */
static uint64_t row_reads(const spc_plan *plan, int32_t weight, uint64_t bytes)
{
    uint64_t most = 0;

    for (int32_t i = plan->encoder_ops; i < plan->op_count; i++) {
        const spc_op *op = &plan->op[i];

        for (int32_t k = 0; k < SPC_OP_WEIGHTS; k++) {
            if (!is_among(plan, op, op->weight[k], weight) && op->bias[k] != weight) continue;
            if (spc_op_matrices(plan, op) > 1) {
                return bytes * (uint64_t)plan->config.chosen / (uint64_t)plan->config.experts;
            }
            if (op->kind != SPC_OP_EMBED) return bytes;
            most = bytes / (uint64_t)plan->weight[weight].rows;
        }
    }
    return most;
}

/* Kernels read 8-bit numbers beside scales sixteen at a time. */
enum { EIGHT_BIT_BLOCK = 16 };

int32_t spc_plan_block(spc_dtype type)
{
    bool eight = type == SPC_DTYPE_I8 || type == SPC_DTYPE_F8_E4M3 || type == SPC_DTYPE_F8_E5M2;

    return eight ? EIGHT_BIT_BLOCK : (int32_t)spc_dtype_elements(type);
}

/* A rank's part of a matrix begins and ends between blocks, or where the matrix ends. */
static spc_status check_blocks(const spc_weight *w, const spc_tensor *t, const char *where,
                               spc_error *err)
{
    int32_t block = spc_plan_block(t->dtype), end = w->col + w->cols;

    if (w->relative != SPC_RELATIVE_NONE) return SPC_OK;
    if (w->col % block == 0 && (end % block == 0 || end == w->of_cols)) return SPC_OK;
    return spc_error_set(err, SPC_EINTERNAL,
                         "%s: %s: inputs %d to %d of %d, a rank's part of them, are no whole "
                         "blocks of %d (type %s): its plan was cut before blocks were read",
                         where, w->name, (int)w->col, (int)end, (int)w->of_cols, (int)block,
                         spc_dtype_name(t->dtype));
}

spc_status spc_plan_tensor(const spc_weight *w, const spc_bundle *bundle, const spc_tensor **out,
                           spc_error *err)
{
    const spc_tensor *t = spc_bundle_find(bundle, w->name);
    const char *where = spc_bundle_where(bundle);
    const int32_t rank = w->cols > 0 ? 2 : 1;

    *out = t;
    if (!t) {
        return spc_error_set(err, SPC_ESHAPE, "%s: tensor '%s' is missing from the checkpoint",
                             where, w->name);
    }
    if (t->rank != rank || t->shape[0] != w->of_rows || (rank == 2 && t->shape[1] != w->of_cols)) {
        return spc_error_set(
            err, SPC_ESHAPE,
            "%s: %s: expected [%d%s%.0d] (from config.json), found a tensor of rank "
            "%d, [%" PRId64 ", %" PRId64 "]; are both files from one model?",
            where, w->name, (int)w->of_rows, rank == 2 ? ", " : "", (int)w->of_cols, (int)t->rank,
            t->rank > 0 ? t->shape[0] : 0, t->rank > 1 ? t->shape[1] : 0);
    }
    return check_blocks(w, t, where, err);
}

const spc_tensor *spc_plan_scale(const spc_bundle *bundle, const char *weight)
{
    static const char *const suffix[] = {"_scale_inv", "_scale"};
    const spc_tensor *t = NULL;
    char name[SPC_PLAN_NAME + 16];

    for (int i = 0; i < 2 && !t; i++) {
        (void)snprintf(name, sizeof name, "%s%s", weight, suffix[i]);
        t = spc_bundle_find(bundle, name);
    }
    return t;
}

/* A weight's share of a tensor that is several. */
static uint64_t part_of(const spc_weight *w, uint64_t bytes)
{
    return w->rows < w->of_rows ? bytes * (uint64_t)w->rows / (uint64_t)w->of_rows : bytes;
}

uint64_t spc_plan_weight_bytes(const spc_plan *plan, const spc_bundle *bundle)
{
    uint64_t total = 0;

    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];
        const spc_tensor *t = spc_bundle_find(bundle, w->name), *scale = NULL;

        if (t && spc_dtype_is_scaled(t->dtype)) scale = spc_plan_scale(bundle, w->name);
        if (t) total += row_reads(plan, i, part_of(w, t->bytes));
        if (scale) total += row_reads(plan, i, part_of(w, scale->bytes));
    }
    return total;
}

uint64_t spc_plan_parameters(const spc_plan *plan)
{
    uint64_t total = 0;

    for (int32_t i = 0; i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];

        total += (uint64_t)w->rows * (uint64_t)(w->cols > 0 ? w->cols : 1);
    }
    return total;
}

uint64_t spc_plan_kv_bytes(const spc_plan *plan, int32_t context, spc_dtype type)
{
    const spc_config *c = &plan->config;
    uint64_t row = (uint64_t)c->kv_heads * (uint64_t)c->head_dim * 2 * spc_dtype_bytes(type);

    return row * (uint64_t)c->layers * (uint64_t)context * (plan->encoder_ops > 0 ? 2 : 1);
}

/* ---- print ------------------------------------------------------------------------------------
 */

static const char *buffer_name(const spc_plan *plan, int32_t i)
{
    return i >= 0 ? plan->buffer[i].name : "-";
}

/* "qkv -> attended"; what stands in no buffer has a name too. */
static size_t print_flow(const spc_plan *plan, const spc_op *op, char *text, size_t bytes)
{
    char memory[24];
    const char *a = op->a >= 0 ? buffer_name(plan, op->a) : "token", *b = "", *out = "logits";

    (void)snprintf(memory, sizeof memory, "memory %d", (int)op->layer);
    if (op->b >= 0) b = buffer_name(plan, op->b);
    if (op->kind == SPC_OP_RECALL) b = memory;
    if (op->out >= 0) out = buffer_name(plan, op->out);
    if (op->kind == SPC_OP_STORE) out = memory;
    return (size_t)snprintf(text, bytes, "%-7s %s%s%s -> %s", spc_op_name(op->kind), a,
                            *b ? ", " : "", b, out);
}

/* The tensors of an op, its vectors behind a plus. */
static size_t print_weights(const spc_plan *plan, const int32_t *index, const char *mark,
                            char *text, size_t used, size_t bytes)
{
    for (int32_t k = 0; k < SPC_OP_WEIGHTS && used < bytes; k++) {
        const spc_weight *w = index[k] >= 0 ? &plan->weight[index[k]] : NULL;

        if (!w) continue;
        used +=
            (size_t)snprintf(text + used, bytes - used, w->cols ? "  %s%s [%d, %d]" : "  %s%s [%d]",
                             mark, w->name, (int)w->rows, (int)w->cols);
    }
    return used;
}

/* What the op does otherwise than the plain one of its kind. */
static void print_settings(const spc_plan *plan, const spc_op *op, char *text, size_t used,
                           size_t bytes)
{
    if (op->window > 0 && used < bytes) {
        used += (size_t)snprintf(text + used, bytes - used, "  window %d", (int)op->window);
    }
    if (op->cap > 0 && used < bytes) {
        used += (size_t)snprintf(text + used, bytes - used, "  cap %g", (double)op->cap);
    }
    if (op->local && used < bytes) {
        used += (size_t)snprintf(text + used, bytes - used, "  local");
    }
    if (spc_op_matrices(plan, op) > 1 && used < bytes) {
        used += (size_t)snprintf(text + used, bytes - used, "  and %d experts more",
                                 (int)plan->config.experts - 1);
    }
    if (op->scale != 1 && used < bytes) {
        (void)snprintf(text + used, bytes - used, "  scale %.6g", (double)op->scale);
    }
}

void spc_plan_print(const spc_plan *plan, void (*line)(void *user, const char *text), void *user)
{
    for (int32_t i = 0; i < plan->op_count; i++) {
        const spc_op *op = &plan->op[i];
        char text[512];
        size_t used = print_flow(plan, op, text, sizeof text);

        used = print_weights(plan, op->weight, "", text, used, sizeof text);
        used = print_weights(plan, op->bias, "+ ", text, used, sizeof text);
        print_settings(plan, op, text, used, sizeof text);
        line(user, text);
    }
}
