/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_linear_tile.c - linear layers on tensor cores against sums in double, the bound that
 * cuda/linear_tile.cu promises; what is done along with them against the ops that do it alone.
 *
 * Built twice: against the device, and against tests/fibers, whose products are exact and whose
 * sums are float32. */
#include "cuda/ops.h"

#include "toyrows.h"
#include "weights/quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOUND 0x1p-20 /* of the sum of a result's products' sizes */

enum { ROWS = 19 };

typedef struct {
    int32_t outs[SPC_LINEAR_PARTS], cols;
    bool bias;
    float cap;
} layer_case;

/* 1, 2 and 4 tiles to a block; columns that end within a load, a step and a warp's share. */
static const layer_case cases[] = {{{1, 0, 0}, 1, false, 0},      {{5, 0, 0}, 7, true, 0},
                                   {{40, 24, 17}, 96, true, 0},   {{7, 3, 1}, 33, true, 5},
                                   {{19, 0, 0}, 1064, false, 30}, {{33, 33, 0}, 520, false, 0},
                                   {{4090, 0, 0}, 40, true, 0},   {{16400, 3, 0}, 24, false, 0.5f}};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct {
    spc_linear_args a;
    int32_t outs;
    double *exact, *size; /* [ROWS, outs] before bias and cap; sums of the products' sizes */
} layer;

static void ok(cudaError_t code, const char *what)
{
    cr_assert_eq(code, cudaSuccess, "%s: %s", what, cudaGetErrorString(code));
}

static void wait_for(cudaError_t code, const char *what)
{
    ok(code, what);
    ok(cudaDeviceSynchronize(), what);
}

/* Memory that both sides can read, full of NaN. */
static void *shared(size_t bytes)
{
    void *memory = NULL;

    ok(cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal), "allocate");
    memset(memory, 0xff, bytes);
    return memory;
}

static float *random_floats(dice *d, size_t count)
{
    float *x = shared(count * sizeof *x);

    for (size_t i = 0; i < count; i++) x[i] = (float)dice_gauss(d);
    return x;
}

static spc_cuda_matrix random_matrix(dice *d, spc_weight_type type, int32_t rows, int32_t cols)
{
    int32_t stride = spc_cuda_stride(type, cols);
    uint16_t *data = shared((size_t)rows * (size_t)stride * sizeof *data);

    for (int32_t i = 0; i < rows * stride; i++) {
        float x = (float)dice_gauss(d);
        uint32_t bits;

        memcpy(&bits, &x, sizeof bits);
        data[i] = (uint16_t)(bits >> 16);
        if (type == SPC_WEIGHT_F16) { /* 2^-7 to 2^1, subnormals now and then */
            uint32_t exponent = bits % 31 == 0 ? 0 : 8 + bits / 31 % 9;

            data[i] = (uint16_t)((bits >> 31) << 15 | exponent << 10 | (bits >> 7 & 1023));
        }
        if (i % stride >= cols) data[i] = 0;
    }
    return (spc_cuda_matrix){
        .data = data, .type = type, .rows = rows, .cols = cols, .stride = stride};
}

static float weight_at(const spc_cuda_matrix *m, int32_t row, int32_t col)
{
    const uint16_t *at = (const uint16_t *)m->data + (int64_t)row * m->stride + col;
    float x;

    spc_dequantise(m->type == SPC_WEIGHT_BF16 ? SPC_DTYPE_BF16 : SPC_DTYPE_F16, at, 1, &x);
    return x;
}

/* Sums of part p, whose outputs begin at `first`. */
static void multiply_exactly(layer *l, int32_t p, int32_t first)
{
    const spc_cuda_matrix *m = &l->a.part[p];

    for (int32_t o = 0; o < m->rows; o++) {
        for (int32_t c = 0; c < m->cols; c++) {
            double weight = (double)weight_at(m, o, c);

            for (int32_t r = 0; r < ROWS; r++) {
                double product = weight * (double)l->a.in[r * m->cols + c];

                l->exact[r * l->outs + first + o] += product;
                l->size[r * l->outs + first + o] += fabs(product);
            }
        }
    }
}

static layer open_layer(const layer_case *c, int type, dice *d)
{
    layer l = {.a = {.cap = c->cap, .rows = ROWS}};
    float *in = random_floats(d, (size_t)(ROWS * c->cols));

    for (int32_t r = 0; r < ROWS; r++) { /* sizes that halves would not hold */
        float scale = r % 5 == 2 ? 1e7f : r % 5 == 3 ? 1e-9f : r % 5 == 4 ? 0.0f : 1.0f;

        for (int32_t i = 0; i < c->cols; i++) in[r * c->cols + i] *= scale;
    }
    for (; l.a.parts < SPC_LINEAR_PARTS && c->outs[l.a.parts] > 0; l.a.parts++) {
        int32_t outs = c->outs[l.a.parts];

        l.a.part[l.a.parts] = random_matrix(d, (spc_weight_type)type, outs, c->cols);
        if (c->bias) l.a.bias[l.a.parts] = random_floats(d, (size_t)outs);
        l.outs += outs;
    }
    l.a.in = in;
    l.a.width = l.outs + 3;
    l.a.out = shared((size_t)(ROWS * l.a.width) * sizeof *l.a.out);
    l.exact = calloc((size_t)(ROWS * l.outs), sizeof *l.exact);
    l.size = calloc((size_t)(ROWS * l.outs), sizeof *l.size);
    cr_assert(l.exact && l.size);
    for (int32_t p = 0, first = 0; p < l.a.parts; first += c->outs[p++]) {
        multiply_exactly(&l, p, first);
    }
    return l;
}

static void close_layer(layer *l)
{
    for (int32_t p = 0; p < l->a.parts; p++) {
        (void)cudaFree((void *)(uintptr_t)l->a.part[p].data);
        (void)cudaFree((void *)(uintptr_t)l->a.bias[p]);
    }
    (void)cudaFree((void *)(uintptr_t)l->a.in);
    (void)cudaFree(l->a.out);
    free(l->exact);
    free(l->size);
}

/* The rows [from, to) at once into l.a.out. */
static void run_rows(const layer *l, int32_t from, int32_t to)
{
    spc_linear_args a = l->a;

    a.rows = to - from;
    a.in += (int64_t)from * a.part[0].cols;
    a.out += (int64_t)from * a.width;
    wait_for(spc_cuda_linear_tile(&a, NULL, NULL), "tile");
}

/* ---- sums ------------------------------------------------------------------------------------ */

static void check_sums(const layer *l, const char *what)
{
    for (int32_t r = 0; r < ROWS; r++) {
        for (int32_t p = 0, o = 0; p < l->a.parts; p++) {
            for (int32_t i = 0; i < l->a.part[p].rows; i++, o++) {
                double want = l->exact[r * l->outs + o], got = (double)l->a.out[r * l->a.width + o];
                double room = BOUND * l->size[r * l->outs + o];

                if (l->a.bias[p]) want += (double)l->a.bias[p][i];
                room += 0x1p-23 * fabs(want);
                if (l->a.cap > 0) want = (double)l->a.cap * tanh(want / (double)l->a.cap);
                if (l->a.cap > 0) room += 1e-6 * (double)l->a.cap;
                cr_assert(fabs(got - want) <= room, "%s, row %d, output %d: %.9g, not %.9g", what,
                          (int)r, (int)o, got, want);
            }
        }
        cr_assert(isnan(l->a.out[r * l->a.width + l->outs]),
                  "what lies behind a row is left alone");
    }
}

Test(cuda_linear_tile, sums_are_within_the_bound_with_the_same_bits_in_strips_of_any_size)
{
    dice d = {21};

    for (int32_t k = 0; k < 2 * CASES; k++) {
        const layer_case *c = &cases[k / 2];
        int type = k % 2 ? SPC_WEIGHT_F16 : SPC_WEIGHT_BF16;
        layer l = open_layer(c, type, &d);
        size_t bytes = (size_t)(ROWS * l.a.width) * sizeof *l.a.out;
        float *whole = malloc(bytes);
        char what[64];
        bool large = c->outs[0] > 4000; /* those repeat what the others show */

        (void)snprintf(what, sizeof what, "%s, %d x %d", type == SPC_WEIGHT_F16 ? "F16" : "BF16",
                       (int)c->outs[0], (int)c->cols);
        cr_assert_not_null(whole);
        run_rows(&l, 0, ROWS);
        check_sums(&l, what);
        memcpy(whole, l.a.out, bytes);
        for (int32_t strip = 1; strip <= (large ? 1 : 16); strip += strip < 4 ? 1 : 3) {
            memset(l.a.out, 0xff, bytes);
            for (int32_t r = 0; r < ROWS; r += strip) {
                run_rows(&l, r, r + strip < ROWS ? r + strip : ROWS);
                if (large) r += 8; /* a few are enough */
            }
            for (int32_t r = 0; r < ROWS; r += large ? 9 : 1) {
                cr_assert(memcmp(l.a.out + r * l.a.width, whole + r * l.a.width,
                                 (size_t)l.outs * sizeof *whole) == 0,
                          "%s: other bits of row %d in strips of %d", what, (int)r, (int)strip);
            }
        }
        free(whole);
        close_layer(&l);
    }
}

Test(cuda_linear_tile, a_broken_row_leaves_the_others_alone)
{
    static const layer_case c = {{20, 0, 0}, 72, false, 0};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    dice d = {22};

    for (int32_t k = 0; k < 6; k++) {
        layer l = open_layer(&c, k % 2 ? SPC_WEIGHT_F16 : SPC_WEIGHT_BF16, &d);

        ((float *)(uintptr_t)l.a.in)[5 * c.cols + 66] = bad[k / 2];
        run_rows(&l, 0, ROWS);
        for (int32_t i = 0; i < ROWS * l.outs; i++) {
            float got = l.a.out[i / l.outs * l.a.width + i % l.outs];

            cr_assert_eq(isfinite(got) == 0, i / l.outs == 5, "row %d", (int)(i / l.outs));
        }
        close_layer(&l);
    }
}

Test(cuda_linear_tile, rows_go_where_they_are_told)
{
    static const layer_case c = {{20, 0, 0}, 72, true, 0};
    dice d = {23};
    layer l = open_layer(&c, SPC_WEIGHT_BF16, &d);
    size_t row = (size_t)l.outs * sizeof(float);
    int32_t *target = shared(ROWS * sizeof *target);
    float *plain = l.a.out;

    run_rows(&l, 0, ROWS);
    l.a.out = shared((size_t)(2 * ROWS * l.a.width) * sizeof *l.a.out);
    l.a.target = target;
    for (int32_t r = 0; r < ROWS; r++) target[r] = 2 * (ROWS - 1 - r);
    wait_for(spc_cuda_linear_tile(&l.a, NULL, NULL), "tile");
    for (int32_t r = 0; r < ROWS; r++) {
        cr_assert(memcmp(l.a.out + target[r] * l.a.width, plain + r * l.a.width, row) == 0);
        cr_assert(isnan(l.a.out[(target[r] + 1) * l.a.width]), "rows between are left alone");
    }
    (void)cudaFree(plain);
    (void)cudaFree(target);
    close_layer(&l);
}

/* ---- what is done along with them ------------------------------------------------------------ */

Test(cuda_linear_tile, gates_and_sums_along_with_it_have_the_bits_of_their_ops)
{
    static const layer_case c[] = {{{40, 40, 0}, 200, true, 0}, {{2100, 2100, 0}, 16, false, 0}};
    dice d = {24};

    for (int32_t k = 0; k < 8; k++) {
        layer l = open_layer(&c[k / 4], k % 2 ? SPC_WEIGHT_F16 : SPC_WEIGHT_BF16, &d);
        spc_linear_more more = {.gate = true, .glu = k & 2 ? SPC_GLU_GELU_TANH : SPC_GLU_SILU};
        int32_t half = l.outs / 2;
        size_t count = (size_t)(ROWS * half);
        float *both = shared(2 * count * sizeof *both), *plain = shared(count * sizeof *plain);
        float *add = random_floats(&d, count), *out = shared(count * sizeof *out);
        spc_glu_args glu = {both, plain, more.glu, ROWS, half};
        spc_add_args sum = {add, plain, plain, (int64_t)count};
        spc_linear_args a = l.a;

        a.width = l.outs;
        a.out = both;
        wait_for(spc_cuda_linear_tile(&a, NULL, NULL), "tile");
        wait_for(spc_cuda_glu(&glu, NULL), "glu");
        wait_for(spc_cuda_add(&sum, NULL), "add");
        a.width = half;
        a.out = out;
        memcpy(out, add, count * sizeof *out); /* in place, as residual sums are */
        more.add = out;
        wait_for(spc_cuda_linear_tile(&a, &more, NULL), "tile with gate and sum");
        cr_assert(memcmp(out, plain, count * sizeof *out) == 0, "case %d", (int)k);
        (void)cudaFree(both);
        (void)cudaFree(plain);
        (void)cudaFree(add);
        (void)cudaFree(out);
        close_layer(&l);
    }
}

/* Columns that are and are not a multiple of 8; rows of all sizes and of zeros. */
Test(cuda_linear_tile, a_norm_in_front_is_that_of_its_op)
{
    static const layer_case c[] = {{{40, 24, 17}, 1064, true, 0}, {{70, 0, 0}, 37, false, 0}};
    dice d = {25};

    for (int32_t k = 0; k < 4; k++) {
        layer l = open_layer(&c[k / 2], k % 2 ? SPC_WEIGHT_F16 : SPC_WEIGHT_BF16, &d);
        int32_t cols = c[k / 2].cols;
        float *normed = shared((size_t)(ROWS * cols) * sizeof *normed);
        float *weight = random_floats(&d, (size_t)cols);
        float *fused = shared((size_t)(ROWS * l.a.width) * sizeof *fused);
        spc_norm_args norm = {l.a.in, NULL, NULL, weight, normed, 1e-5f, ROWS, cols};
        spc_linear_more more = {.norm = weight, .eps = 1e-5f};
        spc_linear_args a = l.a;

        wait_for(spc_cuda_norm(&norm, NULL), "norm");
        a.in = normed;
        wait_for(spc_cuda_linear_tile(&a, NULL, NULL), "tile");
        a.in = l.a.in;
        a.out = fused;
        wait_for(spc_cuda_linear_tile(&a, &more, NULL), "tile with norm");
        for (int32_t r = 0; r < ROWS; r++) {
            float largest = 0;

            for (int32_t o = 0; o < l.outs; o++) {
                largest = fmaxf(largest, fabsf(l.a.out[r * l.a.width + o]));
            }
            for (int32_t o = 0; o < l.outs; o++) {
                float off = fabsf(fused[r * l.a.width + o] - l.a.out[r * l.a.width + o]);

                cr_assert(off <= 2e-6f * largest, "case %d, row %d: off by %g of %g", (int)k,
                          (int)r, (double)off, (double)largest);
            }
        }
        a.rows = 1; /* a row alone has the same bits */
        a.in = l.a.in + 17 * cols;
        a.out = normed;
        wait_for(spc_cuda_linear_tile(&a, &more, NULL), "tile with norm");
        cr_assert(memcmp(normed, fused + 17 * l.a.width, (size_t)l.outs * sizeof *fused) == 0);
        (void)cudaFree(normed);
        (void)cudaFree(weight);
        (void)cudaFree(fused);
        close_layer(&l);
    }
}

Test(cuda_linear_tile, what_it_has_no_kernel_for_is_refused)
{
    static float x[64];
    spc_linear_args a = {.part = {{x, SPC_WEIGHT_F32, 4, 6, 8}, {x, SPC_WEIGHT_BF16, 5, 6, 8}},
                         .in = x,
                         .out = x,
                         .parts = 1,
                         .rows = 1,
                         .width = 4};
    spc_linear_more more = {.gate = true, .glu = SPC_GLU_SILU};

    cr_expect_eq(spc_cuda_linear_tile(&a, NULL, NULL), cudaErrorInvalidValue, "32 bits");
    a.part[0].type = SPC_WEIGHT_BF16;
    cr_expect_eq(spc_cuda_linear_tile(&a, &more, NULL), cudaErrorInvalidValue, "one part");
    a.parts = 2;
    cr_expect_eq(spc_cuda_linear_tile(&a, &more, NULL), cudaErrorInvalidValue, "unlike parts");
    a.part[1].rows = 4;
    more.glu = SPC_GLU_RELU;
    cr_expect_eq(spc_cuda_linear_tile(&a, &more, NULL), cudaErrorInvalidValue, "no gate");
    a.rows = 0;
    cr_expect_eq(spc_cuda_linear_tile(&a, NULL, NULL), cudaErrorInvalidValue, "no rows");
}
