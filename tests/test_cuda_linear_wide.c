/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_linear_wide.c - linear layers over many rows have the bits of those over few, whatever
 * is done along with them.
 *
 * Built twice, as test_cuda_linear_tile.c, which holds the few rows against sums in double. */
#include "device_layers.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 83 /* of a launch, and 19 */ };

typedef struct {
    int32_t outs[SPC_LINEAR_PARTS], cols, slices;
    bool bias, norm, gate, add, target;
    float cap;
} wide_case;

/* One block for all shares, several, several blocks of linear_tile.cu; shares without columns. */
static const wide_case cases[] = {{{5, 0, 0}, 7, 8, true, false, false, false, false, 0},
                                  {{40, 24, 17}, 96, 8, true, true, false, false, false, 5},
                                  {{130, 0, 0}, 1320, 8, false, false, false, true, true, 0},
                                  {{33, 33, 0}, 2312, 16, true, true, true, false, false, 0},
                                  {{20, 0, 0}, 1032, 64, true, true, false, true, false, 0},
                                  {{8400, 40, 1}, 136, 8, true, true, false, true, false, 3},
                                  {{4224, 4224, 0}, 136, 8, false, false, true, false, false, 0}};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct {
    spc_linear_args a;
    spc_linear_more more;
    size_t bytes; /* of all results */
} layer;

static layer open_layer(const wide_case *c, spc_weight_type type, dice *d)
{
    layer l = {.a = {.cap = c->cap, .rows = ROWS}, .more = {.eps = 1e-5f, .gate = c->gate}};
    int32_t outs = 0, width;

    for (; l.a.parts < SPC_LINEAR_PARTS && c->outs[l.a.parts] > 0; l.a.parts++) {
        int32_t rows = c->outs[l.a.parts];

        l.a.part[l.a.parts] = random_halves(d, type, rows, c->cols);
        if (c->bias) l.a.bias[l.a.parts] = random_floats(d, (size_t)rows, 1);
        outs += rows;
    }
    width = c->gate ? outs / 2 : outs + 3;
    l.bytes = 2 * (size_t)ROWS * (size_t)width * sizeof(float);
    l.a.in = random_floats(d, (size_t)(ROWS * c->cols), 1);
    l.a.out = shared(l.bytes);
    l.a.width = width;
    if (c->norm) l.more.norm = random_floats(d, (size_t)c->cols, 1);
    if (c->add) l.more.add = random_floats(d, l.bytes / sizeof(float), 1);
    if (c->target) {
        int32_t *target = shared(ROWS * sizeof *target);

        for (int32_t r = 0; r < ROWS; r++) target[r] = 2 * (ROWS - 1 - r);
        l.a.target = target;
    }
    l.a.scratch = scratch_memory();
    l.a.way = spc_cuda_linear_default(&l.a, SPC_KERNEL_TILE);
    l.a.way.slices = c->slices;
    return l;
}

static void close_layer(layer *l)
{
    const void *rest[] = {l->a.in,     l->a.out,     l->a.target, l->more.norm,
                          l->more.add, l->a.scratch, l->a.wide};

    for (int32_t p = 0; p < l->a.parts; p++) {
        unshare((void *)(uintptr_t)l->a.part[p].data);
        unshare((void *)(uintptr_t)l->a.bias[p]);
    }
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) {
        unshare((void *)(uintptr_t)rest[i]);
    }
}

/* The first rows of the layer into l->a.out. */
static void run(layer *l, int32_t rows)
{
    l->a.rows = rows;
    memset(l->a.out, 0xff, l->bytes);
    ok(spc_cuda_linear_tile(&l->a, &l->more, NULL), "linear");
    ok(cudaDeviceSynchronize(), "wait");
}

Test(cuda_linear_wide, many_rows_have_the_bits_of_few)
{
    static const int32_t counts[] = {ROWS, 64 + 10, 17};
    dice d = {31};

    for (int32_t k = 0; k < 2 * CASES; k++) {
        const wide_case *c = &cases[k / 2];
        layer l = open_layer(c, k % 2 ? SPC_WEIGHT_F16 : SPC_WEIGHT_BF16, &d);
        int32_t outs = c->outs[0] + c->outs[1] + c->outs[2];
        float *strips = malloc(l.bytes);

        cr_assert_not_null(strips);
        for (size_t n = outs < 200 ? 0 : 2; n < 3; n++) { /* large ones take their time */
            l.a.wide = NULL;
            run(&l, counts[n]);
            memcpy(strips, l.a.out, l.bytes);
            l.a.wide = on_device((size_t)spc_cuda_linear_wide_bytes(c->cols, outs));
            run(&l, counts[n]);
            cr_assert(memcmp(strips, l.a.out, l.bytes) == 0, "case %d, %d rows", (int)k,
                      (int)counts[n]);
            unshare(l.a.wide);
        }
        l.a.wide = NULL;
        free(strips);
        close_layer(&l);
    }
}

Test(cuda_linear_wide, a_broken_row_leaves_the_others_alone)
{
    dice d = {32};
    layer l = open_layer(&cases[2], SPC_WEIGHT_BF16, &d);

    ((float *)(uintptr_t)l.a.in)[20 * cases[2].cols + 66] = NAN;
    l.a.wide = on_device((size_t)spc_cuda_linear_wide_bytes(cases[2].cols, cases[2].outs[0]));
    run(&l, ROWS);
    for (int32_t r = 0; r < ROWS; r++) {
        for (int32_t o = 0; o < cases[2].outs[0]; o++) {
            float got = l.a.out[l.a.target[r] * l.a.width + o];

            cr_assert_eq(isfinite(got) == 0, r == 20, "row %d", (int)r);
        }
    }
    close_layer(&l);
}
