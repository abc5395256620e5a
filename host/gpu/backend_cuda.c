/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda.c - runs plans on a GPU: the device, its errors, and one launch after the other.
 *
 * The plan stays plain; neighbours that one kernel does together are recognised as it runs
 * (backend_cuda_ops.c).
 *
 * None of this has run on a GPU yet.  tests/test_cuda_backend.c runs it, kernels included, on the
 * CPU (tests/fibers). */
#include "backend_cuda.h"

#include "cuda/launch.h"

#include "backend_cuda_rank.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors -----------------------------------------------------------------------------------
 */

spc_status spc_cuda_check(spc_backend *b, cudaError_t code, const char *what, spc_error *err)
{
    if (code == cudaSuccess) return SPC_OK;
    if (b->failed == cudaSuccess) b->failed = code;
    return spc_error_set(err, SPC_EDEVICE, "%s: %s: %s", b->device_name, what,
                         cudaGetErrorString(code));
}

spc_status spc_cuda_enter(spc_backend *b, spc_error *err)
{
    spc_status status = spc_cuda_check(b, b->failed, "failed before", err);

    b->mixed = true;
    if (status != SPC_OK) return status;
    status = spc_cuda_check(b, cudaSetDevice(b->device), "cannot be used", err);
    return status == SPC_OK && b->comm ? b->comm->ops->async_error(b->comm, err) : status;
}

spc_status spc_cuda_wait(spc_backend *b, const char *what, spc_error *err)
{
    if (b->comm) return b->comm->ops->wait(b->comm, b->stream, err);
    return spc_cuda_check(b, cudaStreamSynchronize(b->stream), what, err);
}

/* Send it from pinned memory. */
static cudaError_t send_staged(spc_backend *b, void *to, const void *from, size_t bytes)
{
    char *piece = b->staged + (size_t)b->stage * CUDA_STAGED_BYTES;
    cudaEvent_t taken = b->taken[b->stage];
    cudaError_t code = cudaEventSynchronize(taken); /* what the piece held before */

    if (code != cudaSuccess) return code;
    memcpy(piece, from, bytes);
    b->stage = (b->stage + 1) % CUDA_STAGED;
    code = cudaMemcpyAsync(to, piece, bytes, cudaMemcpyHostToDevice, b->stream);
    return code == cudaSuccess ? cudaEventRecord(taken, b->stream) : code;
}

spc_status spc_cuda_copy(spc_backend *b, void *to, const void *from, size_t bytes, bool to_host,
                         const char *what, spc_error *err)
{
    spc_status status = b->comm ? spc_cuda_wait(b, what, err) : SPC_OK;
    cudaError_t code;

    if (status != SPC_OK) return status;
    if (!to_host && b->staged && bytes <= CUDA_STAGED_BYTES) {
        return spc_cuda_check(b, send_staged(b, to, from, bytes), what, err);
    }
    code = to_host ? cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, b->stream)
                   : cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, b->stream);
    if (code == cudaSuccess && !to_host && b->reads_host) code = cudaStreamSynchronize(b->stream);
    return spc_cuda_check(b, code, what, err);
}

/* ---- open -------------------------------------------------------------------------------------
 */

static spc_status no_device(cudaError_t code, spc_error *err)
{
    int driver = 0, built = 0;

    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&built);
    if (code == cudaErrorInsufficientDriver && driver > 0) {
        return spc_error_set(err, SPC_EDEVICE,
                             "cuda: the driver is too old: it knows CUDA %d.%d, this build needs "
                             "%d.%d; update the driver, or use device cpu",
                             driver / 1000, driver % 1000 / 10, built / 1000, built % 1000 / 10);
    }
    if (code == cudaSuccess || code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver) {
        return spc_error_set(err, SPC_EDEVICE,
                             "cuda: no device: expected an NVIDIA GPU and its driver, found none; "
                             "use device cpu, which needs neither");
    }
    return spc_error_set(err, SPC_EDEVICE, "cuda: no device can be used: %s",
                         cudaGetErrorString(code));
}

/* "0" .. to a device's number. */
static spc_status choose_device(const char *which, int *device, spc_error *err)
{
    int count = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    char *end = NULL;
    long number = which && which[0] >= '0' && which[0] <= '9' ? strtol(which, &end, 10) : 0;

    if (code != cudaSuccess || count < 1) return no_device(code, err);
    if ((which && (!end || *end)) || number >= count) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "cuda:%.20s: expected a number of 0 to %d (%d device%s), found '%.20s'", which,
            count - 1, count, count == 1 ? "" : "s", which);
    }
    *device = (int)number;
    return SPC_OK;
}

static void cuda_close(spc_backend *b)
{
    bool hangs = b && b->comm && b->comm->hangs; /* to free pinned memory waits for the device */

    if (!b) return;
    (void)cudaSetDevice(b->device);
    spc_device_comm_close(b->comm);
    for (int i = 0; i < 4; i++) {
        if (b->fetched[i / 2][i % 2]) (void)cudaEventDestroy(b->fetched[i / 2][i % 2]);
    }
    for (int i = 0; i < CUDA_STAGED; i++) {
        if (b->taken[i]) (void)cudaEventDestroy(b->taken[i]);
    }
    if (b->staged && !hangs) (void)cudaFreeHost(b->staged);
    if (b->join) (void)cudaEventDestroy(b->join);
    if (b->fork) (void)cudaEventDestroy(b->fork);
    if (b->inner) (void)cudaStreamDestroy(b->inner);
    if (b->side) (void)cudaStreamDestroy(b->side);
    if (b->stream) (void)cudaStreamDestroy(b->stream);
    free(b);
}

/* What spc_cuda_copy does without where there is no such memory. */
static cudaError_t open_staged(spc_backend *b)
{
    cudaError_t code = cudaSuccess;

    if (!b->reads_host) return code;
    for (int i = 0; i < CUDA_STAGED && code == cudaSuccess; i++) {
        code = cudaEventCreateWithFlags(&b->taken[i], cudaEventDisableTiming);
    }
    if (code == cudaSuccess &&
        cudaMallocHost((void **)&b->staged, CUDA_STAGED * CUDA_STAGED_BYTES) != cudaSuccess) {
        (void)cudaGetLastError();
        b->staged = NULL;
    }
    return code;
}

/* Streams that do not wait for the default one, and the events between them. */
static spc_status open_streams(spc_backend *b, spc_error *err)
{
    cudaError_t code = cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking);

    if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&b->side, cudaStreamNonBlocking);
    if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&b->inner, cudaStreamNonBlocking);
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&b->fork, cudaEventDisableTiming);
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&b->join, cudaEventDisableTiming);
    for (int i = 0; i < 4 && code == cudaSuccess; i++) {
        code = cudaEventCreateWithFlags(&b->fetched[i / 2][i % 2], cudaEventDisableTiming);
    }
    if (code == cudaSuccess) code = open_staged(b);
    return spc_cuda_check(b, code, "no stream", err);
}

/* Is there code for it in this build?  Then what drawing and verification need of the device beside
 * a runner's memory is taken: other kernels' stacks are smaller. */
static spc_status check_device(spc_backend *b, spc_error *err)
{
    struct cudaDeviceProp device;
    spc_status status = spc_cuda_check(b, cudaSetDevice(b->device), "cannot be used", err);
    cudaError_t code;
    int reads = 0;

    if (status == SPC_OK) {
        status = spc_cuda_check(b, cudaGetDeviceProperties(&device, b->device), "properties", err);
    }
    if (status == SPC_OK) {
        status = spc_cuda_check(
            b, cudaDeviceGetAttribute(&reads, cudaDevAttrPageableMemoryAccess, b->device),
            "properties", err);
    }
    if (status != SPC_OK) return status;
    b->reads_host = reads != 0;
    (void)snprintf(b->text, sizeof b->text, "%s, %.90s", b->device_name, device.name);
    code = spc_cuda_has_code(&b->early);
    b->early_inside = b->early;
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) {
        (void)cudaGetLastError(); /* it is told here */
        return spc_error_set(err, SPC_EDEVICE,
                             "%s: this build has no code for compute capability %d.%d; build with "
                             "-DCMAKE_CUDA_ARCHITECTURES=%d%d (8.0 and up), or use device cpu",
                             b->text, device.major, device.minor, device.major, device.minor);
    }
    if (code == cudaSuccess && device.major >= 9 && !b->early) spc_cuda_lacks(b, CUDA_OLD_CODE);
    if (code == cudaSuccess) code = spc_cuda_round_load();
    status = spc_cuda_check(b, code, "kernels", err);
    return status == SPC_OK ? spc_cuda_kernels_load(&b->stack_bytes, err) : status;
}

static spc_status cuda_open(spc_backend **out, int32_t threads, const char *which, spc_error *err)
{
    int device = 0;
    spc_status status = choose_device(which, &device, err);
    spc_backend *b;

    *out = NULL;
    if (status == SPC_OK && threads != 0) {
        return spc_error_set(err, SPC_EUSAGE,
                             "threads: expected 0 on a GPU (they are the CPU's), found %d",
                             (int)threads);
    }
    if (status != SPC_OK) return status;
    b = calloc(1, sizeof *b);
    if (!b) return spc_error_set(err, SPC_ENOMEM, "no memory for the CUDA backend");
    b->device = device;
    (void)snprintf(b->device_name, sizeof b->device_name, "cuda:%d", device);
    status = check_device(b, err);
    if (status == SPC_OK) status = open_streams(b, err);
    if (status != SPC_OK) {
        cuda_close(b);
        return status;
    }
    *out = b;
    return SPC_OK;
}

spc_status spc_cuda_open_rank(const char *which,
                              spc_status (*join)(void *user, spc_device_comm **, spc_error *),
                              void *user, spc_backend **out, spc_error *err)
{
    spc_status status = cuda_open(out, 0, which, err);

    if (status == SPC_OK) status = join(user, &(*out)->comm, err);
    if (status != SPC_OK) {
        cuda_close(*out);
        *out = NULL;
    }
    return status;
}

void spc_cuda_abort_rank(spc_backend *b, const char *reason)
{
    b->comm->ops->abort(b->comm, reason);
}

static const char *cuda_device(const spc_backend *b)
{
    return b->text;
}

static size_t cuda_stacks(const spc_backend *b)
{
    return b->stack_bytes;
}

static const char *cuda_notice(spc_backend *b)
{
    static const char *const text[CUDA_LACKS] = {
        "graphs cannot be recorded with programmatic dependent launch: every kernel waits for the "
        "one in front of it",
        "bodies of conditional nodes cannot hold programmatic dependent launch: in rounds that are "
        "sent ahead every kernel waits for the one in front of it",
        "graphs cannot be recorded: rounds and forwards go launch by launch",
        "graphs cannot be recorded with conditional nodes: each round waits until the host has "
        "seen the one before",
        "this build has code for older GPUs only, in which every kernel waits for the one in front "
        "of it"};

    for (int i = 0; i < CUDA_LACKS; i++) {
        if ((b->lacks & ~b->told & 1u << i) == 0) continue;
        b->told |= 1u << i;
        (void)snprintf(b->notice, sizeof b->notice, "%s: %s", b->device_name, text[i]);
        return b->notice;
    }
    return NULL;
}

/* ---- rows -------------------------------------------------------------------------------------
 */

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static bool has_tile(const cuda_rows *rows, const cuda_shape *f, int32_t slot)
{
    for (int32_t t = 0; t < f->tiles; t++) {
        if (rows->slot[rows->tile[t].row] == slot) return true;
    }
    return false;
}

void spc_cuda_add_row(const spc_runner *r, const cuda_rows *to, cuda_shape *f, int32_t slot,
                      int32_t token, int32_t position, int32_t output)
{
    const spc_config *c = &r->plan->config;
    int32_t tile_rows = spc_cuda_attend_tile_rows(c->heads, c->kv_heads, c->head_dim);
    int32_t i = f->count++, tile = f->tiles - 1;

    to->slot[i] = slot;
    to->token[i] = token;
    to->position[i] = position;
    to->seen[i] = position + 1;
    to->remembered[i] = r->plan->encoder_ops > 0 ? r->source[slot] : 0;
    f->most_seen = larger(f->most_seen, to->seen[i]);
    f->most_remembered = larger(f->most_remembered, to->remembered[i]);
    if (i > 0 && to->slot[i - 1] == slot && to->tile[tile].rows < tile_rows) {
        to->tile[tile].rows++;
    } else {
        if (!f->torn) f->torn = has_tile(to, f, slot);
        to->tile[f->tiles++] = (spc_attend_tile){i, 1};
    }
    if (output < 0) return;
    to->wanted[f->wanted] = i;
    to->target[f->wanted++] = output;
}

/* As many keys as attention is launched for where the longest cache has `seen`: up to a quarter
 * more, so that what was recorded for a sequence serves it until it is that much longer.  Blocks
 * for keys that are not there end at once. */
static int32_t reach(int32_t seen, int32_t context)
{
    int32_t step = 1;

    while (step <= seen / 8) step *= 2;
    seen = context - seen < step ? context : (seen + step - 1) / step * step;
    return spc_cuda_attend_reach(seen, context);
}

void spc_cuda_end_rows(const spc_runner *r, const cuda_rows *rows, cuda_shape *f)
{
    if (!f->torn) f->torn = spc_cuda_rows_meet(r, rows, f->count);
    f->most_seen = reach(f->most_seen, r->limits.context);
    if (f->most_remembered > 0) {
        f->most_remembered = reach(f->most_remembered, r->limits.context);
    }
}

/* Write down the rows, and what follows from them, and send it all. */
static spc_status send_rows(spc_runner *r, const spc_rows *rows, spc_error *err)
{
    cuda_shape f = {.encoder = rows->output == NULL};

    for (int32_t i = 0; i < rows->count; i++) {
        spc_cuda_add_row(r, &r->rows, &f, rows->slot[i], rows->token[i], rows->position[i],
                         rows->output ? rows->output[i] : -1);
    }
    spc_cuda_end_rows(r, &r->rows, &f);
    r->shape = f;
    return spc_cuda_copy(r->backend, r->device_rows.slot, r->rows.slot, r->rows_bytes, false,
                         "rows", err);
}

/* ---- forward ----------------------------------------------------------------------------------
 */

static spc_status run_reduce(spc_runner *r, const spc_op *op, const cuda_shape *f, spc_error *err)
{
    spc_device_comm *comm = r->backend->comm;
    size_t count = (size_t)r->plan->buffer[op->out].dim * (size_t)f->count;

    if (spc_cuda_only_loads() || r->rehearses) return SPC_OK;
    return comm->ops->all_reduce(comm, r->buffer[op->out], count, r->backend->stream, err);
}

/* All ops of an encoder, or all others. */
static spc_status run_ops(spc_runner *r, spc_error *err)
{
    const spc_plan *plan = r->plan;
    int32_t i = r->shape.encoder ? 0 : plan->encoder_ops;
    int32_t end = r->shape.encoder ? plan->encoder_ops : plan->op_count;

    spc_cuda_sent(r, false);
    while (i < end) {
        cudaError_t code = cudaSuccess;
        int32_t ran = 1;

        if (plan->op[i].kind == SPC_OP_REDUCE) {
            spc_status status = run_reduce(r, &plan->op[i], &r->shape, err);

            if (status != SPC_OK) return status;
            spc_cuda_sent(r, false);
        } else {
            ran = spc_cuda_run_op(r, i, end, &r->shape, &code);
        }
        if (code != cudaSuccess) return spc_cuda_check_op(r, &plan->op[i], code, err);
        i += ran;
    }
    return SPC_OK;
}

/* Load the kernels of a forward of so many rows, each of a slot of its own: where caches are short,
 * and where they are longer than attention takes at once. */
static spc_status load_rows(spc_runner *r, int32_t rows, bool encoder, spc_error *err)
{
    const int32_t seen[] = {1, r->limits.context};
    int32_t wanted = rows < r->limits.outputs ? rows : r->limits.outputs;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < 2 && status == SPC_OK; i++) {
        r->shape = (cuda_shape){encoder, rows, encoder ? 0 : wanted, rows, seen[i], seen[i], 0};
        spc_cuda_only_load(true);
        status = run_ops(r, err);
        spc_cuda_only_load(false);
    }
    return status;
}

enum { SIX = 6 }; /* rows of a round with gamma 5 */

/* Which kernels there are for rows depends on their number: by powers of two, and of quantised
 * matrices there is one for six. */
static spc_status load_up_to(spc_runner *r, int32_t most, bool encoder, spc_error *err)
{
    spc_status status = load_rows(r, most, encoder, err);

    for (int32_t rows = 1; rows < most && status == SPC_OK; rows *= 2) {
        status = load_rows(r, rows, encoder, err);
        if (rows > most / 2) break;
    }
    return status == SPC_OK && most > SIX ? load_rows(r, SIX, encoder, err) : status;
}

spc_status spc_cuda_load_kernels(spc_runner *r, spc_error *err)
{
    const spc_edit_args edits = {r->logits, r->edit,        r->masked, r->allowed, 1,
                                 1,         INT32_MAX / 32, 0,         1};
    spc_status status = load_up_to(r, r->limits.rows, false, err);

    spc_cuda_only_load(true);
    if (status == SPC_OK)
        status = spc_cuda_check(r->backend, spc_cuda_edit(&edits, NULL), "edits", err);
    spc_cuda_only_load(false);
    if (status != SPC_OK || r->plan->encoder_ops == 0) return status;
    return load_up_to(r, r->limits.context, true, err);
}

spc_status spc_cuda_run_rows(spc_runner *r, const cuda_rows *rows, const cuda_shape *shape,
                             spc_error *err)
{
    cuda_rows own = r->device_rows;
    spc_status status;

    r->device_rows = *rows;
    r->shape = *shape;
    status = run_ops(r, err);
    r->device_rows = own;
    return status;
}

static spc_status run_rows(spc_runner *r, const spc_rows *rows, spc_error *err)
{
    spc_status status = send_rows(r, rows, err);

    return status == SPC_OK ? spc_cuda_run_shape(r, &r->shape, run_ops, err) : status;
}

static spc_status cuda_encode(spc_runner *r, int32_t slot, const int32_t *token, int32_t count,
                              spc_error *err)
{
    spc_rows rows = {count, r->encoder_slot, token, r->encoder_position, NULL};
    spc_status status = spc_cuda_enter(r->backend, err);

    assert(r->plan->encoder_ops > 0);
    assert(slot >= 0 && slot < r->limits.slots && r->length[slot] == 0);
    assert(count >= 1 && count <= r->limits.context);
    for (int32_t i = 0; i < count; i++) r->encoder_slot[i] = slot;
    r->source[slot] = count;
    r->serial[slot]++;
    return status == SPC_OK ? run_rows(r, &rows, err) : status;
}

static void check_rows(spc_runner *r, const spc_rows *rows)
{
    assert(rows->count >= 1 && rows->count <= r->limits.rows);
    for (int32_t i = 0; i < rows->count; i++) {
        assert(rows->slot[i] >= 0 && rows->slot[i] < r->limits.slots);
        assert(rows->token[i] >= 0 && rows->token[i] < r->plan->ids);
        assert(rows->output[i] < r->limits.outputs);
        assert(rows->position[i] == r->length[rows->slot[i]]);
        assert(rows->position[i] < r->room[rows->slot[i]]);
        assert(r->plan->encoder_ops == 0 || r->source[rows->slot[i]] > 0);
        r->length[rows->slot[i]]++;
        r->serial[rows->slot[i]]++;
    }
}

static spc_status cuda_forward(spc_runner *r, const spc_rows *rows, spc_error *err)
{
    spc_status status = spc_cuda_enter(r->backend, err);

    check_rows(r, rows);
    r->ahead.drafts.count = 0; /* its rows of logits may be written */
    return status == SPC_OK ? run_rows(r, rows, err) : status;
}

/* Waits; a rank's row is what gather left.  A device that fails meanwhile leaves NaN, which no
 * strategy takes for a token, and says so at the next verb that can. */
static const float *cuda_logits(const spc_runner *r, int32_t output)
{
    float *row = r->mirror + (int64_t)output * r->plan->ids;
    const float *from = r->logits + (int64_t)output * r->width;
    spc_backend *b = r->backend;
    spc_status status = spc_cuda_enter(b, NULL);

    assert(output >= 0 && output < r->limits.outputs);
    if (status == SPC_OK && !r->part) {
        status =
            spc_cuda_copy(b, row, from, (size_t)r->plan->ids * sizeof *row, true, "logits", NULL);
    }
    if (status == SPC_OK) status = spc_cuda_wait(b, "logits", NULL);
    for (int32_t i = 0; status != SPC_OK && i < r->plan->ids; i++) row[i] = NAN;
    return row;
}

static spc_status cuda_gather(spc_runner *r, int32_t first, int32_t count, spc_error *err)
{
    spc_status status = spc_cuda_enter(r->backend, err);

    for (int32_t i = first; r->part && status == SPC_OK && i < first + count; i++) {
        status = spc_cuda_gather_row(r, i, r->mirror + (int64_t)i * r->plan->ids, err);
    }
    return r->part && status == SPC_OK ? spc_cuda_wait(r->backend, "logits", err) : status;
}

static int32_t cuda_length(const spc_runner *r, int32_t slot)
{
    return r->length[slot];
}

static void cuda_rewind(spc_runner *r, int32_t slot, int32_t length)
{
    assert(length >= 0 && length <= r->length[slot]);
    r->length[slot] = length;
}

static int32_t cuda_chunk_rows(const spc_backend *b)
{
    (void)b;
    return SPC_CHUNK_ROWS_GPU;
}

#define CUDA_VERBS                                                                                \
    .name = "cuda", .open = cuda_open, .close = cuda_close, .device = cuda_device,                \
    .chunk_rows = cuda_chunk_rows, .stacks = cuda_stacks, .notice = cuda_notice,                  \
    .memory = spc_cuda_memory, .load = spc_cuda_load, .unload = spc_cuda_unload,                  \
    .encode = cuda_encode, .forward = cuda_forward, .logits = cuda_logits, .length = cuda_length, \
    .rewind = cuda_rewind, .map = spc_cuda_map, .edit = spc_cuda_edit_rows,                       \
    .draw = spc_cuda_draw_lanes, .verify = spc_cuda_verify_lanes, .claim = spc_cuda_claim

const spc_backend_ops spc_backend_cuda = {CUDA_VERBS,
                                          .verify_rows = spc_cuda_verify_rows,
                                          .gather = cuda_gather,
                                          .round = spc_cuda_round,
                                          .round_clock = spc_cuda_round_clock,
                                          .use_kernels = spc_cuda_use_kernels,
                                          .tune = spc_cuda_tune};

/* Ranks exchange numbers between the steps of a decision: rounds are composed. */
const spc_backend_ops spc_backend_cuda_rank = {CUDA_VERBS, .verify_rows = spc_cuda_verify_rows,
                                               .gather = cuda_gather};
