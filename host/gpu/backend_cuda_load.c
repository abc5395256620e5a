/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_load.c - what a runner takes on the device: everything is reserved here, in two
 * allocations there and one on the host.  (backend_cuda_weights.c says what weights take.) */
#include "backend_cuda.h"
#include "host/plan/rope.h"
#include "host/ranks/ranks_round.h"

#include <stdlib.h>
#include <string.h>

int32_t spc_cuda_most_rows(const spc_plan *plan, const spc_limits *limits)
{
    return plan->encoder_ops > 0 && limits->context > limits->rows ? limits->context : limits->rows;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

size_t spc_cuda_lay_out_rows(cuda_rows *rows, carver *to, int32_t count)
{
    size_t bytes = times(sizeof(int32_t), count);
    int32_t **all[] = {&rows->slot,       &rows->token,  &rows->position, &rows->seen,
                       &rows->remembered, &rows->wanted, &rows->target};
    size_t first = to->used;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) *all[i] = carve(to, bytes);
    rows->tile = carve(to, times(sizeof *rows->tile, count));
    return to->used - first;
}

/* in_bytes: receives those that the host writes. */
static size_t lay_out_lanes(cuda_lanes *l, carver *to, int32_t slots, size_t *in_bytes)
{
    size_t first = to->used, n = (size_t)slots, drafts = n * CUDA_LANE_DRAFTS;

    l->params = carve(to, n * sizeof *l->params);
    l->row = carve(to, n * sizeof *l->row);
    l->position = carve(to, n * sizeof *l->position);
    l->salt = carve(to, n * sizeof *l->salt);
    l->drafts = carve(to, n * sizeof *l->drafts);
    l->bonus = carve(to, n * sizeof *l->bonus);
    l->draft = carve(to, drafts * sizeof *l->draft);
    l->stats = carve(to, drafts * sizeof *l->stats);
    l->check = carve(to, sizeof *l->check);
    *in_bytes = to->used - first;
    l->token = carve(to, n * sizeof *l->token);
    l->drawn = carve(to, n * sizeof *l->drawn);
    l->verdict = carve(to, n * sizeof *l->verdict);
    l->emitted = carve(to, (drafts + n) * sizeof *l->emitted);
    l->count = carve(to, n * sizeof *l->count);
    l->status = carve(to, n * sizeof *l->status);
    return to->used - first;
}

/* The part on the host.  Pointers it holds to device memory are filled in by lay_out_device. */
static size_t lay_out_host(spc_runner *r, char *base)
{
    const spc_plan *plan = r->plan;
    const spc_limits *l = &r->limits;
    carver to = {base, 0};
    size_t in_bytes;

    r->matrix = carve(&to, times(sizeof *r->matrix, plan->weight_count));
    r->way = carve(&to, times(sizeof *r->way, plan->weight_count));
    if (l->library) {
        r->wide = carve(&to, times(sizeof *r->wide, plan->weight_count));
        r->wides = carve(&to, times(sizeof *r->wides, plan->weight_count));
    }
    r->vector = carve(&to, times(sizeof *r->vector, plan->weight_count));
    r->buffer = carve(&to, times(sizeof *r->buffer, plan->buffer_count));
    r->length = carve(&to, times(sizeof *r->length, l->slots));
    r->room = carve(&to, times(sizeof *r->room, l->slots));
    r->source = carve(&to, times(sizeof *r->source, l->slots));
    if (plan->encoder_ops > 0) {
        r->encoder_slot = carve(&to, times(sizeof *r->encoder_slot, l->context));
        r->encoder_position = carve(&to, times(sizeof *r->encoder_position, l->context));
    }
    r->serial = carve(&to, times(sizeof *r->serial, l->slots));
    r->order = carve(&to, times(sizeof *r->order, l->slots));
    r->lane = carve(&to, times(sizeof *r->lane, l->slots));
    spc_cuda_lay_out_chain(r, &to);
    r->mirror = carve(&to, times(times(sizeof *r->mirror, l->outputs), plan->ids));
    if (r->part) {
        r->slices.heard = carve(&to, times(sizeof *r->slices.heard, r->backend->comm->world));
        r->slices.left_heard = carve(&to, 2 * sizeof *r->slices.left_heard);
    }
    (void)spc_cuda_lay_out_rows(&r->rows, &to, spc_cuda_most_rows(plan, l));
    (void)lay_out_lanes(&r->lanes, &to, l->slots, &in_bytes);
    return to.used;
}

/* Columns of the widest matrix. */
static int32_t widest(const spc_plan *plan)
{
    int32_t most = 1;

    for (int32_t i = 0; i < plan->weight_count; i++) {
        if (plan->weight[i].cols > most) most = plan->weight[i].cols;
    }
    return most;
}

/* Outputs of the largest linear op. */
static int32_t most_outputs(const spc_plan *plan)
{
    int32_t most = 1;

    for (int32_t i = 0; i < plan->op_count; i++) {
        const spc_op *op = &plan->op[i];
        int32_t outs = 0;

        if (op->kind != SPC_OP_LINEAR && op->kind != SPC_OP_HEAD) continue;
        for (int32_t k = 0; k < SPC_OP_WEIGHTS && op->weight[k] >= 0; k++) {
            outs += plan->weight[op->weight[k]].rows;
        }
        if (outs > most) most = outs;
    }
    return most;
}

/* What a rank needs to draw and verify; behind its answers there is room for a hash. */
static void lay_out_slices(spc_runner *r, carver *to)
{
    cuda_slices *s = &r->slices;
    int32_t world = r->backend->comm->world;
    size_t answer;

    s->most = spc_ranks_most_bytes(r->plan->config.vocab, world);
    answer = s->most.first > s->most.later ? s->most.first : s->most.later;
    s->state = carve(to, times(s->most.state, r->limits.slots));
    s->answers = carve(to, times(times(answer, r->limits.slots) + SPC_CUDA_CHECK_BYTES, world));
    s->left = carve(to, 2 * sizeof *s->left);
    s->row = carve(to, times(sizeof *s->row, r->plan->ids));
}

/* The part on the device: once counting, once for real. */
static size_t lay_out_device(spc_runner *r, char *base)
{
    const spc_plan *plan = r->plan;
    const spc_config *c = &plan->config;
    const spc_limits *l = &r->limits;
    carver to = {base, 0};
    int32_t rows = spc_cuda_most_rows(plan, l);

    for (int32_t i = 0; i < plan->weight_count; i++) {
        size_t floats = spc_cuda_vector_floats(&plan->weight[i], l->context);
        float *vector = floats > 0 ? carve(&to, times(floats, sizeof *vector)) : NULL;

        if (base) r->vector[i] = vector;
    }
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        float *buffer = carve(&to, times(times(sizeof *buffer, rows), plan->buffer[i].dim));

        if (base) r->buffer[i] = buffer;
    }
    r->wanted = carve(&to, times(times(sizeof(float), l->outputs), c->dim));
    r->logits =
        carve(&to, times(times(sizeof(float), (int64_t)l->outputs + CUDA_LANE_DRAFTS), r->width));
    if (plan->subset) {
        r->some = carve(&to, times(times(sizeof(float), l->outputs), plan->drafted));
        r->subset = carve(&to, times(sizeof *r->subset, (plan->ids + 31) / 32));
    }
    if (l->drafter_rows) {
        r->drafter_rows = carve(&to, times(times(sizeof(float), l->outputs), r->width));
    }
    r->ahead_token = carve(&to, CUDA_LANE_DRAFTS * sizeof *r->ahead_token);
    r->ahead_stats = carve(&to, CUDA_LANE_DRAFTS * sizeof *r->ahead_stats);
    spc_kv_lay_out(&r->cache, &to, c, l, spc_limits_pages(l));
    if (plan->encoder_ops > 0) spc_kv_lay_out(&r->memory, &to, c, l, spc_kv_own_pages(l));
    for (int32_t k = 0; k < spc_rope_kinds(c); k++) {
        r->cosine[k] = carve(&to, times(times(sizeof(float), l->context), c->rope.pairs));
        r->sine[k] = carve(&to, times(times(sizeof(float), l->context), c->rope.pairs));
    }
    if (spc_rope_scales_queries(c)) {
        r->query_scale = carve(&to, times(sizeof(float), l->context));
    }
    r->workspace =
        carve(&to, times(sizeof(float),
                         spc_cuda_attend_workspace(rows, c->heads, c->head_dim, l->context)));
    r->linear_scratch = carve(&to, SPC_LINEAR_SCRATCH);
    if (rows > SPC_LINEAR_STRIP && l->linear != SPC_LINEAR_ROW) {
        r->linear_wide =
            carve(&to, (size_t)spc_cuda_linear_wide_bytes(widest(plan), most_outputs(plan)));
    }
    if (r->part) lay_out_slices(r, &to);
    r->verify_bytes = r->part ? 0 : spc_workspace_bytes(l->slots, CUDA_LANE_DRAFTS, plan->ids);
    r->verify_workspace = carve(&to, r->verify_bytes);
    if (l->library) r->gemm_memory = carve(&to, spc_cuda_library_bytes(r));
    r->edit = carve(&to, SPC_EDITS_MOST * sizeof *r->edit);
    r->masked = carve(&to, SPC_MASKS_MOST * sizeof *r->masked);
    r->allowed = carve(&to, SPC_MASK_WORDS_MOST * sizeof *r->allowed);
    r->rows_bytes = spc_cuda_lay_out_rows(&r->device_rows, &to, rows);
    r->lanes_bytes = lay_out_lanes(&r->device_lanes, &to, l->slots, &r->lanes_in_bytes);
    r->fused_bytes = spc_cuda_fused_bytes(l);
    for (int i = 0; i < 2; i++) {
        r->half[i].device = carve(&to, r->fused_bytes);
        r->half[i].outcome = carve(&to, times(sizeof *r->half[i].outcome, l->slots));
    }
    return to.used;
}

/* Choose the plan that the backend runs: the whole one, or its rank's part, which is made here. */
static spc_status choose_plan(spc_runner *r, spc_backend *b, const spc_plan *plan,
                              const char *where, spc_error *err)
{
    spc_status status = SPC_OK;

    r->backend = b;
    r->plan = r->whole = plan;
    r->width = plan->ids;
    if (!b->comm || plan->alone) return SPC_OK;

    int32_t vocab = plan->config.vocab, rank = b->comm->rank, world = b->comm->world;
    int32_t first = spc_plan_first_id(vocab, rank, world);
    int32_t last = spc_plan_first_id(vocab, rank + 1, world);

    status = spc_plan_part(plan, rank, world, where, &r->part, err);
    r->plan = r->part;
    r->first = first < plan->ids ? first : plan->ids;
    r->width = (last < plan->ids ? last : plan->ids) - r->first;
    return status;
}

size_t spc_cuda_memory(const spc_backend *b, const spc_plan *plan, const spc_limits *limits)
{
    spc_runner counted = {.limits = *limits};
    size_t bytes = CARVE_MOST; /* of a plan that cannot be cut: load says why */

    if (choose_plan(&counted, (spc_backend *)(uintptr_t)b, plan, "model", NULL) == SPC_OK) {
        bytes = lay_out_device(&counted, NULL);
    }
    spc_plan_close(counted.part);
    return bytes;
}

/* The claim on this device.  One that does not answer says so at the next verb that can. */
static spc_claim *find_claim(spc_claims *claims, const spc_backend *b)
{
    spc_claim *claim = claims->item;
    size_t room, total;

    for (int32_t i = 0; i < claims->count; i++, claim++) {
        if (claim->device == b->device) return claim;
    }
    claims->count++;
    *claim = (spc_claim){.device = b->device, .room = SIZE_MAX};
    if (cudaSetDevice(b->device) != cudaSuccess) return claim;
    if (cudaMemGetInfo(&room, &total) == cudaSuccess) claim->room = room;
    return claim;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a < CARVE_MOST - b ? a + b : CARVE_MOST;
}

spc_status spc_cuda_claim(const spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                          const spc_limits *limits, spc_claims *claims, spc_error *err)
{
    spc_runner counted = {.limits = *limits};
    size_t bytes = 0;
    spc_status status =
        choose_plan(&counted, (spc_backend *)(uintptr_t)b, plan, spc_bundle_where(weights), err);

    if (status == SPC_OK) status = spc_cuda_lay_out_weights(&counted, weights, NULL, &bytes, err);
    if (status == SPC_OK) {
        spc_claim *claim = find_claim(claims, b);

        claim->weights = sum(claim->weights, bytes);
        claim->memory = sum(claim->memory, lay_out_device(&counted, NULL));
    }
    spc_plan_close(counted.part);
    return status;
}

/* ---- load -------------------------------------------------------------------------------------
 */

static spc_status out_of_memory(const spc_runner *r, const spc_bundle *bundle, size_t weights,
                                size_t arena, size_t room, spc_error *err)
{
    return spc_error_set(
        err, SPC_ENOMEM,
        "%s: %s: needs %zu MiB (weights %zu, KV caches and scratch %zu: sessions %d, context %d), "
        "%zu MiB are free; lower sessions, context or kv-tokens, %sor use device cpu",
        spc_bundle_where(bundle), r->backend->device_name, (weights >> 20) + (arena >> 20) + 1,
        weights >> 20, arena >> 20, (int)r->limits.slots, (int)r->limits.context, room >> 20,
        spc_kv_advice(&r->limits, spc_kv_bytes(r->plan, &r->limits), weights + arena));
}

static spc_status reserve(spc_runner *r, const spc_bundle *bundle, spc_error *err)
{
    size_t weights = 0, arena = lay_out_device(r, NULL), room = 0, total = 0;
    spc_status status = spc_cuda_lay_out_weights(r, bundle, NULL, &weights, err);

    if (status == SPC_OK) {
        status = spc_cuda_check(r->backend, cudaMemGetInfo(&room, &total), "memory", err);
    }
    if (status != SPC_OK) return status;
    if (arena >= CARVE_MOST || weights >= CARVE_MOST || arena > room || weights > room - arena) {
        return out_of_memory(r, bundle, weights, arena, room, err);
    }
    if (cudaMalloc(&r->weights, weights) != cudaSuccess ||
        cudaMalloc(&r->arena, arena) != cudaSuccess) { /* in pieces too small, or taken meanwhile */
        (void)cudaGetLastError();                      /* it is told here */
        return out_of_memory(r, bundle, weights, arena, room, err);
    }
    (void)lay_out_device(r, r->arena);
    if (cudaMallocHost(&r->fused_host, 4 * r->fused_bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        return spc_error_set(err, SPC_ENOMEM,
                             "%s: no %zu KiB of pinned memory on the host; lower sessions",
                             spc_bundle_where(bundle), r->fused_bytes >> 8);
    }
    for (size_t i = 0; i < 2; i++) {
        r->half[i].host = (char *)r->fused_host + 2 * i * r->fused_bytes;
    }
    if (r->limits.plain) r->graphs.off = true;
    status = spc_cuda_open_library(r, spc_bundle_where(bundle), err);
    if (status != SPC_OK) return status;
    return spc_cuda_lay_out_weights(r, bundle, r->weights, &weights, err);
}

static spc_status send_angles(spc_runner *r, spc_error *err)
{
    const spc_config *c = &r->plan->config;
    size_t count = (size_t)r->limits.context * (size_t)c->rope.pairs;
    float *angles = malloc(2 * count * sizeof *angles);
    cudaError_t code = cudaSuccess;

    if (!angles) return spc_error_set(err, SPC_ENOMEM, "no memory for rotary angles");
    for (int32_t k = 0; k < spc_rope_kinds(c) && code == cudaSuccess; k++) {
        spc_rope_angles(c, k, r->limits.context, angles, angles + count);
        code = spc_cuda_send_floats(r, r->cosine[k], angles, count);
        if (code == cudaSuccess) code = spc_cuda_send_floats(r, r->sine[k], angles + count, count);
    }
    if (code == cudaSuccess && r->query_scale) { /* no more of them than cosines */
        spc_rope_query_scales(c, r->limits.context, angles);
        code = spc_cuda_send_floats(r, r->query_scale, angles, (size_t)r->limits.context);
    }
    free(angles);
    return spc_cuda_check(r->backend, code, "rotary angles", err);
}

static spc_status send_tables(spc_runner *r, spc_error *err)
{
    const spc_limits *l = &r->limits;
    size_t count = (size_t)spc_kv_own_pages(l);
    int32_t *own = malloc(count * sizeof *own);
    spc_status status = SPC_OK;

    if (!own) return spc_error_set(err, SPC_ENOMEM, "no memory for the tables of %zu pages", count);
    spc_kv_own_table(own, l);
    if (l->pages == 0) {
        status = spc_cuda_copy(r->backend, r->cache.table, own, count * sizeof *own, false,
                               "tables of pages", err);
    }
    if (r->plan->encoder_ops > 0 && status == SPC_OK) {
        status = spc_cuda_copy(r->backend, r->memory.table, own, count * sizeof *own, false,
                               "tables of pages", err);
    }
    free(own);
    return status;
}

static spc_status send_subset(spc_runner *r, spc_error *err)
{
    const spc_plan *plan = r->plan;

    if (!plan->subset) return SPC_OK;
    return spc_cuda_copy(r->backend, r->subset, plan->subset,
                         (size_t)(plan->ids + 31) / 32 * sizeof *r->subset, false,
                         "tokens that are drafted", err);
}

/* Zeros beside what ops write; no other entry of a buffer is read before it is written. */
static spc_status send_zeros(spc_runner *r, spc_error *err)
{
    size_t rows = (size_t)spc_cuda_most_rows(r->plan, &r->limits);
    cudaError_t code = cudaSuccess;

    for (int32_t i = 0; i < r->plan->buffer_count && code == cudaSuccess; i++) {
        const spc_buffer *b = &r->plan->buffer[i];
        size_t bytes = rows * (size_t)b->dim * sizeof(float);

        if (b->before == 0 && b->behind == 0) continue;
        code = cudaMemsetAsync(r->buffer[i], 0, bytes, r->backend->stream);
    }
    return spc_cuda_check(r->backend, code, "zeros", err);
}

static spc_status send_all(spc_runner *r, const spc_bundle *bundle, spc_error *err)
{
    spc_status status = spc_cuda_send_weights(r, bundle, err);

    if (status == SPC_OK) status = send_angles(r, err);
    if (status == SPC_OK) status = send_tables(r, err);
    if (status == SPC_OK) status = send_subset(r, err);
    if (status == SPC_OK) status = send_zeros(r, err);
    if (status == SPC_OK) {
        status = spc_cuda_check(
            r->backend,
            cudaMemsetAsync(r->linear_scratch, 0, SPC_LINEAR_SCRATCH, r->backend->stream),
            "scratch", err);
    }
    if (status == SPC_OK) {
        status = spc_cuda_check(r->backend,
                                spc_cuda_attend_workspace_init(r->workspace, r->backend->stream),
                                "workspace", err);
    }
    if (status == SPC_OK && r->verify_bytes > 0) { /* of slices there is none */
        status =
            spc_cuda_workspace_init(r->verify_workspace, r->verify_bytes, r->backend->stream, err);
    }
    if (status == SPC_OK) {
        status = spc_cuda_wait(r->backend, "weights", err);
    }
    return status;
}

/* ranks: is the backend one of several? */
static bool has_kernel(spc_op_kind kind, bool ranks)
{
    switch (kind) {
    case SPC_OP_REDUCE: return ranks;
    case SPC_OP_EMBED:
    case SPC_OP_NORM:
    case SPC_OP_LINEAR:
    case SPC_OP_QK_NORM:
    case SPC_OP_ROPE:
    case SPC_OP_ATTEND:
    case SPC_OP_STORE:
    case SPC_OP_RECALL:
    case SPC_OP_RELU:
    case SPC_OP_GLU:
    case SPC_OP_ADD:
    case SPC_OP_HEAD: return true;
    default: return false;
    }
}

/* Is there a kernel for every op?  Later nothing can be missing. */
static spc_status check_plan(const spc_plan *plan, bool ranks, const spc_bundle *bundle,
                             spc_error *err)
{
    for (int32_t i = 0; i < plan->op_count; i++) {
        if (has_kernel(plan->op[i].kind, ranks)) continue;
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "%s: op %d of its plan, %s, has no kernel on the GPU; use device cpu",
                             spc_bundle_where(bundle), (int)i, spc_op_name(plan->op[i].kind));
    }
    if (plan->config.head_dim <= SPC_ATTEND_HEAD_DIM && plan->config.head_dim % 2 == 0) {
        return SPC_OK;
    }
    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "%s: attention on the GPU: expected heads of an even size up to %d, found "
                         "%d; use device cpu",
                         spc_bundle_where(bundle), SPC_ATTEND_HEAD_DIM, (int)plan->config.head_dim);
}

spc_status spc_cuda_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                         const spc_limits *limits, spc_runner **out, spc_error *err)
{
    spc_runner *r = calloc(1, sizeof *r);
    spc_status status = spc_cuda_enter(b, err);

    *out = NULL;
    if (r) {
        r->limits = *limits;
        if (status == SPC_OK) status = choose_plan(r, b, plan, spc_bundle_where(weights), err);
        if (status != SPC_OK) {
            free(r);
            return status;
        }

        size_t bytes = lay_out_host(r, NULL);

        if (bytes < CARVE_MOST) r->host = calloc(1, bytes);
    }
    if (!r || !r->host) {
        if (r) spc_plan_close(r->part);
        free(r);
        return spc_error_set(err, SPC_ENOMEM,
                             "%s: no memory on the host (sessions %d, context %d): lower either",
                             spc_bundle_where(weights), (int)limits->slots, (int)limits->context);
    }
    (void)lay_out_host(r, r->host);
    for (int32_t i = 0; plan->encoder_ops > 0 && i < limits->context; i++) {
        r->encoder_position[i] = i;
    }
    if (r->part) r->graphs.off = !b->comm->ops->capturable;
    status = check_plan(r->plan, r->part != NULL, weights, err);
    if (status == SPC_OK) status = reserve(r, weights, err);
    if (status == SPC_OK) status = spc_cuda_open_pages(r, spc_bundle_where(weights), err);
    if (status == SPC_OK) status = send_all(r, weights, err);
    if (status == SPC_OK) {
        spc_cuda_cut_head(r);
        status = spc_cuda_choose_ways(r, err);
    }
    if (status == SPC_OK) status = spc_cuda_choose_wide(r, err);
    if (status == SPC_OK) status = spc_cuda_load_kernels(r, err);
    if (status != SPC_OK) {
        spc_cuda_unload(r);
        return status;
    }
    *out = r;
    return SPC_OK;
}

void spc_cuda_unload(spc_runner *r)
{
    if (!r) return;
    (void)cudaSetDevice(r->backend->device);
    /* A round may still be in flight; and where to free memory waits for the device, which may wait
     * for a rank, this wait ends in time. */
    (void)spc_cuda_wait(r->backend, "unload", NULL);
    if (r->backend->comm && r->backend->comm->hangs) return; /* all goes with the process */
    spc_cuda_free_graphs(r);
    spc_cuda_free_fused(r);
    (void)cudaFreeHost(r->fused_host);
    spc_cuda_gemm_close(r->gemm);
    (void)cudaFree(r->arena);
    (void)cudaFree(r->weights);
    spc_plan_close(r->part);
    spc_cuda_close_pages(r);
    free(r->host);
    free(r);
}
