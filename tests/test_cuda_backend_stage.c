/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend_stage.c - matrices on their way to the device: the bytes of one thread that
 * lays out all rows, whatever the pieces, the threads, and the part of a rank.
 *
 * Built twice, as test_cuda_backend.c. */
#include "host/cpu/cpu_threads.h"
#include "host/gpu/backend_cuda.h"
#include "host/gpu/backend_cuda_pack.h"
#include "host/gpu/backend_cuda_stage.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { ROWS = 37, COLS = 768, ODD = 765, MOST = 1 << 20 };

static const spc_dtype types[] = {
    SPC_DTYPE_F32,  SPC_DTYPE_BF16,   SPC_DTYPE_F16,  SPC_DTYPE_Q8_0,   SPC_DTYPE_Q4_0,
    SPC_DTYPE_Q4_1, SPC_DTYPE_Q5_0,   SPC_DTYPE_Q5_1, SPC_DTYPE_Q2_K,   SPC_DTYPE_Q3_K,
    SPC_DTYPE_Q4_K, SPC_DTYPE_Q5_K,   SPC_DTYPE_Q6_K, SPC_DTYPE_IQ4_NL, SPC_DTYPE_IQ4_XS,
    SPC_DTYPE_I8,   SPC_DTYPE_F8_E4M3};
enum { TYPES = sizeof types / sizeof *types };

/* A tensor of random bytes; data to be freed. */
static spc_tensor random_tensor(spc_dtype dtype, int32_t rows, int32_t cols)
{
    size_t bytes = (size_t)rows * (size_t)cols / spc_dtype_elements(dtype) * spc_dtype_bytes(dtype);
    uint8_t *data = malloc(bytes);
    uint32_t state = (uint32_t)dtype + 1;

    cr_assert_not_null(data);
    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (uint8_t)(state >> 24);
    }
    return (spc_tensor){"w", dtype, 2, {rows, cols}, data, bytes};
}

/* A matrix's planes, one behind the other. */
static spc_cuda_planes lay_out(spc_cuda_matrix *m, spc_dtype dtype, uint8_t *base)
{
    spc_cuda_planes row = {0};
    size_t rows = (size_t)m->rows;

    m->type = spc_cuda_type_of(dtype);
    m->stride = spc_cuda_stride(m->type, m->cols);
    if (spc_cuda_is_quantised(m->type)) {
        row = spc_cuda_planes_of(m->type, m->cols);
    } else {
        row.data = m->stride * (int32_t)spc_dtype_bytes(dtype);
    }
    m->data = base;
    m->high = base + (size_t)row.data * rows;
    m->scale = (const uint8_t *)m->high + (size_t)row.high * rows;
    m->step = (const uint8_t *)m->scale + (size_t)row.scale * rows;
    return row;
}

/* Row by row, on the host. */
static void expect_rows(const spc_weight *w, const spc_tensor *t, const spc_cuda_planes *row,
                        const spc_cuda_matrix *m)
{
    size_t each = spc_dtype_elements(t->dtype), bytes = spc_dtype_bytes(t->dtype);

    for (int32_t r = 0; r < m->rows; r++) {
        const uint8_t *from =
            (const uint8_t *)t->data +
            ((size_t)(w->row + r) * (size_t)w->of_cols + (size_t)w->col) / each * bytes;
        spc_cuda_row at = {(uint8_t *)(uintptr_t)m->data + r * row->data,
                           (uint8_t *)(uintptr_t)m->high + r * row->high,
                           (uint8_t *)(uintptr_t)m->scale + r * row->scale,
                           (uint8_t *)(uintptr_t)m->step + r * row->step};

        if (spc_cuda_is_quantised(m->type)) {
            spc_cuda_pack_row(m->type, from, m->cols, &at);
        } else {
            memset(at.data, 0, (size_t)row->data);
            memcpy(at.data, from, (size_t)m->cols * bytes);
        }
    }
}

/* All that one way to send leaves on the device, some tensors behind each other. */
static void expect_same(spc_backend *b, int32_t threads, size_t bytes, bool part)
{
    static uint8_t expected[MOST], found[MOST];
    uint8_t *device;
    spc_tensor tensor[TYPES];
    spc_cuda_stage *stage;
    spc_error error;
    size_t at = 0;

    memset(expected, 0, sizeof expected);
    cr_assert_eq(cudaMalloc((void **)&device, MOST), cudaSuccess);
    cr_assert_eq(cudaMemset(device, 0, MOST), cudaSuccess);
    cr_assert_eq(cudaDeviceSynchronize(), cudaSuccess, "the backend's stream waits for no memset");
    cr_assert_eq(spc_cuda_stage_open(b, threads, bytes, &stage, &error), SPC_OK, "%s",
                 error.message);
    for (int n = 0; n < TYPES; n++) {
        int i = part ? TYPES - 1 - n : n; /* the longest rows come last, or first */
        int32_t of = spc_dtype_elements(types[i]) > 1 ? COLS : ODD; /* rows with padding behind */
        spc_weight w = {.name = "w", .rows = ROWS, .cols = of, .of_rows = ROWS, .of_cols = of};

        if (part) { /* the second half of the columns of the last rows */
            w.row = 5;
            w.rows -= 5;
            w.col = 512;
            w.cols -= 512;
        }

        spc_cuda_matrix host = {.rows = w.rows, .cols = w.cols}, there = host;
        spc_cuda_planes row = lay_out(&host, types[i], expected + at);

        (void)lay_out(&there, types[i], device + at);
        tensor[i] = random_tensor(types[i], ROWS, of);
        expect_rows(&w, &tensor[i], &row, &host);
        cr_assert_eq(spc_cuda_stage_send(stage, &w, &tensor[i], &there, &error), SPC_OK, "%s",
                     error.message);
        at += (size_t)(row.data + row.high + row.scale + row.step) * (size_t)w.rows;
        at = (at + 255) / 256 * 256;
        cr_assert_lt(at, MOST);
    }
    spc_cuda_stage_close(stage);
    cr_assert_eq(cudaMemcpy(found, device, MOST, cudaMemcpyDeviceToHost), cudaSuccess);
    cr_expect(memcmp(found, expected, MOST) == 0, "%d threads, pieces of %zu bytes, %s",
              (int)threads, bytes, part ? "a part" : "whole");
    for (int i = 0; i < TYPES; i++) free((void *)(uintptr_t)tensor[i].data);
    cr_expect_eq(cudaFree(device), cudaSuccess);
}

Test(cuda_backend_stage, every_way_leaves_the_bytes_of_one_thread)
{
    static const size_t bytes[] = {1, 5000, 1 << 20}; /* row by row; some; all at once */
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    for (int late = 0; late < 2; late++) {
#ifdef SPC_TESTS_FIBER_RUNTIME_H
        fiber_gpu.late = late == 1; /* copies happen when somebody waits for them, not before */
#endif
        for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
            expect_same(backend, 1 + (int32_t)i * 2, bytes[i], late == 1);
            expect_same(backend, 4, bytes[i], late == 0);
        }
    }
    spc_backend_cuda.close(backend);
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    cr_expect_eq(fiber_gpu.pinned, 0);
#endif
}

static void note(void *user, uint64_t done, uint64_t total)
{
    uint64_t *told = user; /* last, calls */

    cr_expect(done >= told[0] && done <= total);
    told[0] = done;
    told[1]++;
}

/* Every piece counts, of a rank's part as if it were all of the tensor. */
Test(cuda_backend_stage, bytes_are_told_piece_by_piece)
{
    spc_backend *backend;
    spc_error error;
    uint8_t *device;

    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(cudaMalloc((void **)&device, MOST), cudaSuccess);
    for (int part = 0; part < 2; part++) {
        spc_tensor t = random_tensor(SPC_DTYPE_F32, ROWS, COLS);
        spc_weight w = {.name = "w", .rows = ROWS, .cols = COLS, .of_rows = ROWS, .of_cols = COLS};
        spc_cuda_stage *stage;
        spc_meter meter;
        uint64_t told[2] = {0, 0};

        w.row = part * 5;
        w.rows -= w.row;

        spc_cuda_matrix m = {.rows = w.rows, .cols = w.cols};

        (void)lay_out(&m, SPC_DTYPE_F32, device);
        cr_assert_eq(spc_cuda_stage_open(backend, 1, 1, &stage, &error), SPC_OK);
        spc_meter_open(&meter, note, told, t.bytes);
        spc_meter_part(&meter, t.bytes, t.bytes);
        spc_cuda_stage_meter(stage, &meter);
        cr_assert_eq(spc_cuda_stage_send(stage, &w, &t, &m, &error), SPC_OK);
        cr_expect_eq(told[1], w.rows, "0, and all pieces but the last: %d", (int)told[1]);
        cr_expect_eq(meter.taken, t.bytes);
        spc_cuda_stage_close(stage);
        free((void *)(uintptr_t)t.data);
    }
    cr_expect_eq(cudaFree(device), cudaSuccess);
    spc_backend_cuda.close(backend);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
/* A process that may not start as many as there are cores still loads. */
Test(cuda_backend_stage, threads_the_system_refuses_are_done_without)
{
    struct rlimit limit;
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)1 << 30; /* no room for so many stacks */
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    expect_same(backend, SPC_TEAM_MAX, 5000, false);
    spc_backend_cuda.close(backend);
}

Test(cuda_backend_stage, pinned_memory_that_is_not_there_is_told)
{
    spc_tensor t = random_tensor(SPC_DTYPE_F32, 1, 8);
    spc_weight w = {.name = "w", .rows = 1, .cols = 8, .of_rows = 1, .of_cols = 8};
    spc_cuda_matrix m = {
        .type = SPC_WEIGHT_F32, .rows = 1, .cols = 8, .stride = 8, .data = (const void *)t.data};
    spc_cuda_stage *stage;
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_cuda_stage_open(backend, 1, SIZE_MAX / 4, &stage, &error), SPC_OK);
    cr_expect_eq(spc_cuda_stage_send(stage, &w, &t, &m, &error), SPC_ENOMEM);
    cr_expect(strstr(error.message, "of pinned memory on the host to send weights through"), "%s",
              error.message);
    spc_cuda_stage_close(stage);
    spc_backend_cuda.close(backend);
    free((void *)(uintptr_t)t.data);
}
#endif
