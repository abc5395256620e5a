/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_linear_tile.c - linear layers on tensor cores against sums in double, the bound that
 * cuda/linear_tile.cu promises; what is done along with them against the ops that do it alone.
 *
 * Built twice: against the device, and against tests/fibers, whose products are exact and whose
 * sums are cut off to float32, as tensor cores are said to do. */
#include "device_layers.h"
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
    float *in = random_floats(d, (size_t)(ROWS * c->cols), 1);

    for (int32_t r = 0; r < ROWS; r++) { /* sizes that halves would not hold */
        float scale = r % 5 == 2 ? 1e7f : r % 5 == 3 ? 1e-9f : r % 5 == 4 ? 0.0f : 1.0f;

        for (int32_t i = 0; i < c->cols; i++) in[r * c->cols + i] *= scale;
    }
    for (; l.a.parts < SPC_LINEAR_PARTS && c->outs[l.a.parts] > 0; l.a.parts++) {
        int32_t outs = c->outs[l.a.parts];

        l.a.part[l.a.parts] = random_halves(d, (spc_weight_type)type, outs, c->cols);
        if (c->bias) l.a.bias[l.a.parts] = random_floats(d, (size_t)outs, 1);
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
        unshare((void *)(uintptr_t)l->a.part[p].data);
        unshare((void *)(uintptr_t)l->a.bias[p]);
    }
    unshare((void *)(uintptr_t)l->a.in);
    unshare(l->a.out);
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
    unshare(plain);
    unshare(target);
    close_layer(&l);
}

/* ---- ways to go ------------------------------------------------------------------------------ */

static void check_scratch(const void *scratch)
{
    static uint32_t ticket[4096];

    ok(cudaMemcpy(ticket, scratch, sizeof ticket, cudaMemcpyDeviceToHost), "tickets");
    for (size_t i = 0; i < 4096; i++) {
        cr_assert_eq(ticket[i], 0, "a ticket is left for the next launch");
    }
}

/* Rows [ROWS, outs] computed one way, malloc'd. */
static float *go(layer *l, spc_linear_way way)
{
    size_t bytes = (size_t)(ROWS * l->a.width) * sizeof *l->a.out;
    float *out = malloc(bytes);

    cr_assert_not_null(out);
    memset(l->a.out, 0xff, bytes);
    l->a.way = way;
    run_rows(l, 0, ROWS);
    memcpy(out, l->a.out, bytes);
    return out;
}

/* Shares of 128 columns for up to 64 warps, some of which have none. */
Test(cuda_linear_tile, blocks_that_share_columns_add_in_one_order_whatever_their_size)
{
    static const layer_case split[] = {
        {{40, 24, 17}, 2312, true, 5}, {{33, 33, 0}, 2056, false, 0}, {{5, 0, 0}, 6153, false, 0}};
    dice d = {26};

    for (int32_t k = 0; k < 6; k++) {
        layer l = open_layer(&split[k / 2], k % 2 ? SPC_WEIGHT_F16 : SPC_WEIGHT_BF16, &d);
        size_t bytes = (size_t)(ROWS * l.a.width) * sizeof *l.a.out;
        int32_t least = l.a.parts == 2 ? 2 : 1, most = k % 2 ? 2 : 4;
        int32_t shares = (split[k / 2].cols + 127) / 128; /* that a warp takes at a time */
        float *before = NULL;

        l.a.scratch = scratch_memory();
        for (int32_t slices = 8; slices <= SPC_LINEAR_SLICES; slices *= 2) {
            spc_linear_way way = {SPC_KERNEL_TILE, slices, {least, most}};
            float *whole = go(&l, way), *other;

            check_sums(&l, "split");
            way = (spc_linear_way){SPC_KERNEL_TILE, slices, {2, least}};
            other = go(&l, way);
            cr_assert(memcmp(whole, other, bytes) == 0, "case %d: tiles of a block change bits",
                      (int)k);
            for (int32_t r = 0; r < ROWS; r += 6) {
                run_rows(&l, r, r + 1);
                cr_assert(memcmp(l.a.out + r * l.a.width, whole + r * l.a.width,
                                 (size_t)l.outs * sizeof *whole) == 0,
                          "case %d, %d slices: other bits of row %d alone", (int)k, (int)slices,
                          (int)r);
            }
            if (before && slices / 2 < shares)
                cr_assert(memcmp(whole, before, bytes) != 0, "%d slices", (int)slices);
            check_scratch(l.a.scratch);
            free(other);
            free(before);
            before = whole;
        }
        free(before);
        unshare(l.a.scratch);
        close_layer(&l);
    }
}

/* Gate, norm and residual sum, in one block for some columns and in four. */
Test(cuda_linear_tile, what_goes_along_does_so_behind_the_last_of_the_blocks)
{
    static const layer_case c = {{40, 40, 0}, 2056, true, 0};
    dice d = {27};

    for (int32_t k = 0; k < 2; k++) {
        layer l = open_layer(&c, k ? SPC_WEIGHT_F16 : SPC_WEIGHT_BF16, &d);
        size_t count = (size_t)(ROWS * l.outs / 2);
        float *weight = random_floats(&d, (size_t)c.cols, 1), *add = random_floats(&d, count, 1);
        float *one = shared(count * sizeof *one), *four = shared(count * sizeof *four);
        spc_linear_more more = {weight, 1e-5f, true, SPC_GLU_SILU, add};
        spc_linear_args a = l.a;

        a.width = l.outs / 2;
        a.out = one;
        a.way = (spc_linear_way){SPC_KERNEL_TILE, 8, {2, 2}};
        wait_for(spc_cuda_linear_tile(&a, &more, NULL), "tile");
        a.out = four;
        a.way = (spc_linear_way){SPC_KERNEL_TILE, 32, {2, 2}};
        a.scratch = scratch_memory();
        wait_for(spc_cuda_linear_tile(&a, &more, NULL), "tile in four");
        for (int32_t r = 0; r < ROWS; r++) {
            const float *row = one + r * a.width;
            float largest = 0;

            for (int32_t i = 0; i < a.width; i++) largest = fmaxf(largest, fabsf(row[i]));
            for (int32_t i = 0; i < a.width; i++) {
                float off = fabsf(four[r * a.width + i] - row[i]);

                /* both sums are cut off, at other places */
                cr_assert(off <= 1e-5f * largest, "row %d: off by %g of %g", (int)r, (double)off,
                          (double)largest);
            }
        }
        cr_assert(memcmp(one, four, count * sizeof *one) != 0, "sums in another order");
        check_scratch(a.scratch);
        unshare(weight);
        unshare(add);
        unshare(one);
        unshare(four);
        unshare(a.scratch);
        close_layer(&l);
    }
}

Test(cuda_linear_tile, defaults_depend_on_the_matrices_alone_and_fill_the_device)
{
    static const struct {
        int32_t outs[SPC_LINEAR_PARTS], cols;
        spc_weight_type type;
        spc_linear_way way;
    } cases_of[] = {{{2048, 0, 0}, 2048, SPC_WEIGHT_BF16, {SPC_KERNEL_TILE, 8, {1, 1}}},
                    {{896, 0, 0}, 4864, SPC_WEIGHT_BF16, {SPC_KERNEL_TILE, 32, {1, 1}}},
                    {{896, 0, 0}, 896, SPC_WEIGHT_BF16, {SPC_KERNEL_TILE, 8, {1, 1}}},
                    {{4096, 0, 0}, 4096, SPC_WEIGHT_BF16, {SPC_KERNEL_TILE, 8, {2, 2}}},
                    {{14336, 14336, 0}, 4096, SPC_WEIGHT_BF16, {SPC_KERNEL_TILE, 8, {4, 4}}},
                    {{14336, 14336, 0}, 4096, SPC_WEIGHT_F16, {SPC_KERNEL_TILE, 8, {2, 2}}},
                    {{512, 512, 0}, 2048, SPC_WEIGHT_BF16, {SPC_KERNEL_TILE, 16, {2, 2}}},
                    {{896, 0, 0}, 4864, SPC_WEIGHT_BF16, {SPC_KERNEL_ROW, 16, {0, 0}}},
                    {{2048, 0, 0}, 8192, SPC_WEIGHT_F32, {SPC_KERNEL_ROW, 8, {0, 0}}},
                    {{128256, 0, 0}, 4096, SPC_WEIGHT_F32, {SPC_KERNEL_ROW, 1, {0, 0}}},
                    {{2048, 0, 0}, 2048, SPC_WEIGHT_Q8_0, {SPC_KERNEL_QUANT, 2, {0, 0}}},
                    {{896, 0, 0}, 4864, SPC_WEIGHT_Q8_0, {SPC_KERNEL_QUANT, 4, {0, 0}}},
                    {{4096, 0, 0}, 4096, SPC_WEIGHT_Q8_0, {SPC_KERNEL_TILE, 8, {2, 2}}},
                    {{896, 0, 0}, 4864, SPC_WEIGHT_Q8_0, {SPC_KERNEL_TILE, 32, {2, 2}}},
                    {{4096, 0, 0}, 4096, SPC_WEIGHT_Q4_0, {SPC_KERNEL_TILE, 16, {4, 4}}},
                    {{896, 0, 0}, 896, SPC_WEIGHT_Q4_0, {SPC_KERNEL_TILE, 8, {2, 2}}}};

    for (size_t k = 0; k < sizeof cases_of / sizeof *cases_of; k++) {
        spc_linear_args a = {.rows = 1 + (int32_t)k};
        spc_linear_way want = cases_of[k].way, got;

        for (; a.parts < SPC_LINEAR_PARTS && cases_of[k].outs[a.parts] > 0; a.parts++) {
            a.part[a.parts] =
                (spc_cuda_matrix){.type = cases_of[k].type,
                                  .rows = cases_of[k].outs[a.parts],
                                  .cols = cases_of[k].cols,
                                  .stride = spc_cuda_stride(cases_of[k].type, cases_of[k].cols)};
        }
        got = spc_cuda_linear_default(&a, want.kernel);
        cr_expect(memcmp(&got, &want, sizeof got) == 0, "case %zu: %d slices, %d and %d tiles", k,
                  (int)got.slices, (int)got.tiles[0], (int)got.tiles[1]);
        cr_expect(spc_cuda_linear_can(&a, &got), "case %zu", k);
    }
}

Test(cuda_linear_tile, ways_that_are_none_are_refused)
{
    static float x[64];
    static const spc_linear_way none[] = {
        {SPC_KERNEL_TILE, 4, {1, 1}},     {SPC_KERNEL_TILE, 24, {1, 1}},
        {SPC_KERNEL_TILE, -8, {1, 1}},    {SPC_KERNEL_TILE, 128, {1, 1}},
        {SPC_KERNEL_TILE, 8, {0, 1}},     {SPC_KERNEL_TILE, 8, {1, 3}},
        {SPC_KERNEL_TILE, 8, {8, 1}},     {SPC_KERNEL_ROW, 8, {1, 1}},
        {SPC_KERNEL_ROW, 0, {0, 0}},      {SPC_KERNEL_QUANT, 8, {0, 0}},
        {(spc_linear_kernel)7, 8, {0, 0}}};
    spc_linear_args a = {
        .part = {{.data = x, .type = SPC_WEIGHT_BF16, .rows = 4, .cols = 6, .stride = 8}},
        .in = x,
        .out = x,
        .parts = 1,
        .rows = 1,
        .width = 4};
    spc_linear_way way = {SPC_KERNEL_TILE, 16, {4, 4}};

    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        cr_expect(!spc_cuda_linear_can(&a, &none[i]), "way %zu", i);
    }
    cr_expect(spc_cuda_linear_can(&a, &way));
    a.way = way;
    cr_expect_eq(spc_cuda_linear_tile(&a, NULL, NULL), cudaErrorInvalidValue, "no scratch");
    a.way = (spc_linear_way){SPC_KERNEL_ROW, 1, {0, 0}};
    cr_expect_eq(spc_cuda_linear_tile(&a, NULL, NULL), cudaErrorInvalidValue, "another kernel's");
    a.way = none[6];
    cr_expect_eq(spc_cuda_linear_tile(&a, NULL, NULL), cudaErrorInvalidValue, "no such tiles");
    a.part[0].rows = 16 * 512;
    cr_expect(spc_cuda_linear_can(&a, &way), "512 tiles in two");
    a.part[0].rows++;
    cr_expect(!spc_cuda_linear_can(&a, &way), "more than there is scratch memory for");
    way.slices = 8;
    cr_expect(spc_cuda_linear_can(&a, &way));
    a.part[0].type = SPC_WEIGHT_F16;
    cr_expect(!spc_cuda_linear_can(&a, &way), "4 tiles of fp16");
    way.kernel = SPC_KERNEL_QUANT;
    way.tiles[0] = way.tiles[1] = 0;
    a.part[0] = (spc_cuda_matrix){.data = x, .type = SPC_WEIGHT_Q8_0, .rows = 4, .cols = 64};
    cr_expect(spc_cuda_linear_can(&a, &way));
    way.kernel = SPC_KERNEL_ROW;
    cr_expect(!spc_cuda_linear_can(&a, &way), "quantised weights have kernels of their own");
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
        float *add = random_floats(&d, count, 1), *out = shared(count * sizeof *out);
        spc_glu_args glu = {both, plain, more.glu, ROWS, half, half, false};
        spc_add_args sum = {add, plain, plain, (int64_t)count, false};
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
        unshare(both);
        unshare(plain);
        unshare(add);
        unshare(out);
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
        float *weight = random_floats(&d, (size_t)cols, 1);
        float *fused = shared((size_t)(ROWS * l.a.width) * sizeof *fused);
        spc_norm_args norm = {l.a.in, NULL, NULL, weight, normed, 1e-5f, ROWS, cols, false};
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

                cr_assert(off <= 5e-6f * largest, "case %d, row %d: off by %g of %g", (int)k,
                          (int)r, (double)off, (double)largest);
            }
        }
        a.rows = 1; /* a row alone has the same bits */
        a.in = l.a.in + 17 * cols;
        a.out = normed;
        wait_for(spc_cuda_linear_tile(&a, &more, NULL), "tile with norm");
        cr_assert(memcmp(normed, fused + 17 * l.a.width, (size_t)l.outs * sizeof *fused) == 0);
        unshare(normed);
        unshare(weight);
        unshare(fused);
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
