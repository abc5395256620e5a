/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_stage.c - matrices through pinned memory: what one thread lays out, or faults in
 * from a mapped file, is a fraction of what the device's bus takes.
 *
 * All of it goes to the runner's stream: the default one, or a wait for the whole device, would
 * break a graph that another thread records. */
#include "backend_cuda_stage.h"

#include "backend_cuda.h"
#include "backend_cuda_pack.h"
#include "host/cpu/cpu_threads.h"

#include <stdlib.h>
#include <string.h>

enum { PIECES = 2 }; /* one is laid out while the other is copied */

struct spc_cuda_stage {
    spc_backend *backend;
    spc_team *team;
    size_t bytes;             /* of a piece */
    uint8_t *memory;          /* [PIECES, bytes], pinned; NULL: none yet */
    cudaEvent_t sent[PIECES]; /* behind the copies out of a piece */
    int32_t next;             /* piece to be laid out */
    spc_meter *meter;         /* NULL: nobody asks */
};

/* Some rows of a matrix. */
typedef struct {
    const spc_weight *weight;
    const spc_tensor *tensor;
    const spc_cuda_matrix *to;
    spc_cuda_planes bytes; /* of a row in each plane */
    int32_t first, rows;
    spc_cuda_row at; /* the planes of all rows in the piece, behind each other */
} piece;

/* ---- open and close ---------------------------------------------------------------------------
 */

void spc_cuda_stage_close(spc_cuda_stage *s)
{
    if (!s) return;
    for (int32_t i = 0; i < PIECES; i++) {
        if (!s->sent[i]) continue;
        (void)cudaEventSynchronize(s->sent[i]);
        (void)cudaEventDestroy(s->sent[i]);
    }
    (void)cudaFreeHost(s->memory);
    spc_team_close(s->team);
    free(s);
}

spc_status spc_cuda_stage_open(spc_backend *b, int32_t threads, size_t bytes, spc_cuda_stage **out,
                               spc_error *err)
{
    spc_cuda_stage *s = calloc(1, sizeof *s);
    cudaError_t code = cudaSuccess;
    spc_status status;

    *out = NULL;
    if (!s) return spc_error_set(err, SPC_ENOMEM, "%s: no memory to send weights", b->device_name);
    s->backend = b;
    s->bytes = bytes;
    status = spc_team_open(threads, &s->team, err);
    while (status == SPC_ENOMEM && threads > 1) { /* nobody has asked for so many */
        threads /= 2;
        status = spc_team_open(threads, &s->team, err);
    }
    for (int32_t i = 0; i < PIECES && code == cudaSuccess && status == SPC_OK; i++) {
        code = cudaEventCreateWithFlags(&s->sent[i], cudaEventDisableTiming);
    }
    if (status == SPC_OK) status = spc_cuda_check(b, code, "events", err);
    if (status != SPC_OK) {
        spc_cuda_stage_close(s);
        return status;
    }
    *out = s;
    return SPC_OK;
}

void spc_cuda_stage_meter(spc_cuda_stage *s, spc_meter *meter)
{
    s->meter = meter;
}

/* Memory for pieces that hold a row at least; asked for when there is a matrix to send. */
static spc_status make_room(spc_cuda_stage *s, size_t row, spc_error *err)
{
    spc_backend *b = s->backend;
    spc_status status = SPC_OK;

    if (s->memory && row <= s->bytes) return SPC_OK;
    for (int32_t i = 0; i < PIECES && s->memory && status == SPC_OK; i++) {
        status = spc_cuda_check(b, cudaEventSynchronize(s->sent[i]), "weights", err);
    }
    if (status != SPC_OK) return status;
    (void)cudaFreeHost(s->memory);
    s->memory = NULL;
    if (row > s->bytes) s->bytes = row;
    if (cudaMallocHost((void **)&s->memory, PIECES * s->bytes) == cudaSuccess) return SPC_OK;
    (void)cudaGetLastError(); /* it is told here */
    s->memory = NULL;
    return spc_error_set(err, SPC_ENOMEM,
                         "%s: no %zu KiB of pinned memory on the host to send weights through",
                         b->device_name, PIECES * s->bytes >> 10);
}

/* ---- laying out -------------------------------------------------------------------------------
 */

/* Where the part of row `row` begins in the checkpoint. */
static const uint8_t *row_at(const spc_weight *w, const spc_tensor *t, int32_t row)
{
    size_t elements = spc_dtype_elements(t->dtype), bytes = spc_dtype_bytes(t->dtype);

    return (const uint8_t *)t->data +
           ((size_t)(w->row + row) * ((size_t)w->of_cols / elements) + (size_t)w->col / elements) *
               bytes;
}

/* As it is, and zeros behind it. */
static void copy_row(const piece *p, const uint8_t *from, uint8_t *to)
{
    size_t bytes = (size_t)p->to->cols * spc_dtype_bytes(p->tensor->dtype);

    memcpy(to, from, bytes);
    memset(to + bytes, 0, (size_t)p->bytes.data - bytes);
}

static void lay_out_rows(void *user, int32_t thread, int32_t from, int32_t to)
{
    const piece *p = user;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        const uint8_t *row = row_at(p->weight, p->tensor, p->first + i);
        const spc_cuda_row at = {p->at.data + (size_t)i * (size_t)p->bytes.data,
                                 p->at.high + (size_t)i * (size_t)p->bytes.high,
                                 p->at.scale + (size_t)i * (size_t)p->bytes.scale,
                                 p->at.step + (size_t)i * (size_t)p->bytes.step};

        if (spc_cuda_is_quantised(p->to->type)) {
            spc_cuda_pack_row(p->to->type, row, p->to->cols, &at);
        } else {
            copy_row(p, row, at.data);
        }
    }
}

/* The tensor's bytes up to a row of so many: of a rank's part, as if it were the whole. */
static uint64_t bytes_up_to(const spc_tensor *t, int32_t row, int32_t rows)
{
    return t->bytes / (uint64_t)rows * (uint64_t)row +
           t->bytes % (uint64_t)rows * (uint64_t)row / (uint64_t)rows;
}

/* ---- sending ----------------------------------------------------------------------------------
 */

/* Rows of one plane, which lie behind each other on both sides; returns at once what failed before.
 */
static cudaError_t send_plane(const spc_cuda_stage *s, const piece *p, cudaError_t before,
                              const void *plane, int32_t bytes, const uint8_t *from)
{
    if (before != cudaSuccess || bytes == 0) return before;
    return cudaMemcpyAsync((char *)(uintptr_t)plane + (size_t)p->first * (size_t)bytes, from,
                           (size_t)bytes * (size_t)p->rows, cudaMemcpyHostToDevice,
                           s->backend->stream);
}

static cudaError_t send_piece(spc_cuda_stage *s, piece *p, int32_t most)
{
    cudaEvent_t sent = s->sent[s->next];
    cudaError_t code = cudaEventSynchronize(sent), recorded; /* what the piece held before */

    if (code != cudaSuccess) return code;
    p->at.data = s->memory + (size_t)s->next * s->bytes;
    p->at.high = p->at.data + (size_t)p->bytes.data * (size_t)most;
    p->at.scale = p->at.high + (size_t)p->bytes.high * (size_t)most;
    p->at.step = p->at.scale + (size_t)p->bytes.scale * (size_t)most;
    spc_team_run(s->team, p->rows, 1, lay_out_rows, p);
    code = send_plane(s, p, code, p->to->data, p->bytes.data, p->at.data);
    code = send_plane(s, p, code, p->to->high, p->bytes.high, p->at.high);
    code = send_plane(s, p, code, p->to->scale, p->bytes.scale, p->at.scale);
    code = send_plane(s, p, code, p->to->step, p->bytes.step, p->at.step);
    s->next = (s->next + 1) % PIECES;
    recorded =
        cudaEventRecord(sent, s->backend->stream); /* where a copy failed others may be under way */
    return code == cudaSuccess ? recorded : code;
}

spc_status spc_cuda_stage_send(spc_cuda_stage *s, const spc_weight *w, const spc_tensor *t,
                               const spc_cuda_matrix *m, spc_error *err)
{
    piece p = {.weight = w, .tensor = t, .to = m};
    cudaError_t code = cudaSuccess;
    spc_status status;
    int32_t most;
    size_t row;

    if (spc_cuda_is_quantised(m->type)) {
        p.bytes = spc_cuda_planes_of(m->type, m->cols);
    } else {
        p.bytes.data = m->stride * (int32_t)spc_dtype_bytes(t->dtype);
    }
    row =
        (size_t)p.bytes.data + (size_t)p.bytes.high + (size_t)p.bytes.scale + (size_t)p.bytes.step;
    status = make_room(s, row, err);
    if (status != SPC_OK) return status;
    most = s->bytes / row < (size_t)m->rows ? (int32_t)(s->bytes / row) : m->rows;
    for (; p.first < m->rows && code == cudaSuccess; p.first += most) {
        p.rows = m->rows - p.first < most ? m->rows - p.first : most;
        code = send_piece(s, &p, most);
        spc_meter_took(s->meter, bytes_up_to(t, p.first + p.rows, m->rows) -
                                     bytes_up_to(t, p.first, m->rows));
    }
    return spc_cuda_check(s->backend, code, w->name, err);
}
