/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_linear.c - linear layers on the device against the loops of the CPU backend: row by row
 * in strips of any size, by any number of warps, and by cuBLASLt.  (Tensor cores and quantised
 * weights have files of their own.)
 *
 * Built twice: against the device, and against tests/fibers, which runs the same kernels without
 * one.  Sums are taken in another order than on the CPU: they agree to a few units of float32 of
 * the largest term. */
#include "cuda/ops.h"
#include "host/cpu/cpu_kernels.h"

#include "device_layers.h"
#include "distance.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- linear ---------------------------------------------------------------------------------- */

enum { LINEAR_ROWS = 33 };

typedef struct {
    int32_t outs[SPC_LINEAR_PARTS], cols;
    bool bias;
    float cap;
} linear_case;

static const linear_case linear_cases[] = {
    {{1, 0, 0}, 1, false, 0},    {{5, 0, 0}, 7, true, 0},      {{96, 24, 24}, 96, true, 0},
    {{7, 3, 1}, 33, true, 5},    {{389, 0, 0}, 96, false, 30}, {{64, 64, 0}, 1000, false, 0},
    {{10, 2, 2}, 2056, true, 0},
};

/* slices: 0 the default */
static void check_linear(const linear_case *c, int type, int32_t slices, dice *d)
{
    static const int32_t strips[] = {1, 2, 3, 5, 8, 11, 16, 17};
    spc_matrix packed[SPC_LINEAR_PARTS];
    spc_linear_args a = {.cap = c->cap,
                         .rows = LINEAR_ROWS,
                         .way = {SPC_KERNEL_ROW, slices, {0, 0}},
                         .scratch = scratch_memory()};
    float *in = random_floats(d, (size_t)(LINEAR_ROWS * c->cols), 1), *expected, *whole;
    float *rows[LINEAR_ROWS];
    int32_t at = 0;

    for (; a.parts < SPC_LINEAR_PARTS && c->outs[a.parts] > 0; a.parts++) {
        int32_t outs = c->outs[a.parts];

        a.part[a.parts] = random_twins(d, (spc_weight_type)type, outs, c->cols, &packed[a.parts]);
        if (c->bias) a.bias[a.parts] = random_floats(d, (size_t)outs, 1);
        a.width += outs;
    }
    a.in = in;
    a.out = shared((size_t)(LINEAR_ROWS * a.width) * sizeof *a.out);
    expected = malloc((size_t)(LINEAR_ROWS * a.width) * sizeof *expected);
    for (int32_t r = 0; r < LINEAR_ROWS; r++) rows[r] = expected + r * a.width;
    for (int32_t p = 0; p < a.parts; at += c->outs[p++]) {
        spc_cpu_portable.linear(&packed[p], 0, c->outs[p], in, LINEAR_ROWS, rows, at);
        for (int32_t r = 0; r < LINEAR_ROWS; r++) {
            for (int32_t o = 0; c->bias && o < c->outs[p]; o++) rows[r][at + o] += a.bias[p][o];
            if (c->cap > 0) spc_cpu_portable.bound(rows[r] + at, c->outs[p], c->cap);
        }
    }
    whole = in_strips(spc_cuda_linear_row, &a, LINEAR_ROWS);
    cr_assert_leq(relative_distance(whole, expected, (size_t)(LINEAR_ROWS * a.width)),
                  slices > 0 ? 2e-5f : 3e-6f, /* of longer sums */
                  "%s, %d columns: off by %g", spc_dtype_name(twin_types[type]), (int)c->cols,
                  (double)relative_distance(whole, expected, (size_t)(LINEAR_ROWS * a.width)));
    expect_bits_in_strips(spc_cuda_linear_row, &a, whole, strips, sizeof strips / sizeof *strips,
                          spc_dtype_name(twin_types[type]));
    for (int32_t p = 0; p < a.parts; p++) free_twins(&a.part[p], &packed[p]);
    free_layer(&a);
    free(expected);
    free(whole);
}

Test(cuda_linear, linear_is_that_of_the_cpu_with_the_same_bits_in_strips_of_any_size)
{
    dice d = {9};

    for (int type = 0; type < 3; type++) {
        for (size_t k = 0; k < sizeof linear_cases / sizeof *linear_cases; k++) {
            check_linear(&linear_cases[k], type, 0, &d);
        }
    }
}

Test(cuda_linear, linear_is_that_of_the_cpu_however_many_warps_share_the_columns)
{
    static const linear_case c = {{5, 2, 0}, 2056, true, 5};
    static const int32_t slices[] = {2, 16, 64};
    dice d = {12};

    for (int type = 0; type < 3; type++) {
        for (int i = 0; i < 3; i++) check_linear(&c, type, slices[i], &d);
    }
}

/* ---- by cuBLASLt ----------------------------------------------------------------------------- */

/* Products by choice number `which` of the library, or by the last there is. */
static spc_gemm_plan plan_of(spc_cuda_gemm gemm, const spc_linear_args *a, int32_t which)
{
    spc_gemm_plan plan = {0};

    for (int32_t bucket = 0; bucket <= spc_gemm_bucket(a->rows); bucket++) {
        for (int32_t p = 0; p < a->parts; p++) {
            spc_gemm_product choice[SPC_GEMM_CHOICES];
            int32_t count = 0;

            ok(spc_cuda_gemm_suggest(gemm, a, p, bucket, choice, &count), "suggest");
            cr_assert_gt(count, 0);
            plan.part[bucket][p] = choice[which < count ? which : count - 1];
        }
    }
    return plan;
}

/* Activations of 16 to 22 bits.  Rows of other sizes, zeros, and one that is broken. */
static void check_gemm(const linear_case *c, int type, int32_t count, int32_t which, dice *d)
{
    const int32_t broken = count - 4;
    spc_matrix packed;
    spc_cuda_matrix m = random_twins(d, (spc_weight_type)type, c->outs[0], c->cols, &packed);
    int32_t outs = c->outs[0], width = outs + 2;
    float *in = random_floats(d, (size_t)(count * c->cols), 1);
    float **rows = malloc((size_t)count * sizeof *rows);
    float *out = shared((size_t)(count * width) * sizeof *out);
    float *bias = random_floats(d, (size_t)outs, 1);
    float *expected = malloc((size_t)(count * outs) * sizeof *expected);
    const spc_gemm_most most = {c->cols, outs, count};
    void *memory = on_device(spc_cuda_gemm_bytes(&most));
    int32_t *target = shared((size_t)count * sizeof *target);
    spc_linear_args a = {.part = {m},
                         .bias = {c->bias ? bias : NULL},
                         .in = in,
                         .out = out,
                         .target = target,
                         .cap = c->cap,
                         .parts = 1,
                         .rows = count,
                         .width = width};
    char said[SPC_GEMM_SAID];
    spc_cuda_gemm gemm;
    spc_gemm_plan plan;

    for (int32_t r = 0; r < count; r++) {
        rows[r] = expected + r * outs;
        target[r] = count - 1 - r;
        for (int32_t i = 0; i < c->cols; i++) {
            in[r * c->cols + i] *= r % 7 == 3   ? 1e-6f
                                   : r % 7 == 5 ? 3e5f
                                   : r % 7 == 6 ? 0.0f
                                                : 1.0f;
        }
    }
    in[broken * c->cols] = INFINITY;
    spc_cpu_portable.linear(&packed, 0, outs, in, count, rows, 0);
    for (int32_t r = 0; r < count; r++) {
        for (int32_t o = 0; c->bias && o < outs; o++) rows[r][o] += bias[o];
        if (c->cap > 0) spc_cpu_portable.bound(rows[r], outs, c->cap);
    }
    ok(spc_cuda_gemm_open(&most, memory, &gemm, said), said);
    plan = plan_of(gemm, &a, which);
    wait_for(spc_cuda_linear_gemm(gemm, &a, &plan, NULL), "gemm");
    for (int32_t r = 0; r < count; r++) {
        const float *got = out + target[r] * width;

        cr_assert(isnan(got[outs]), "what lies behind a row is left alone");
        if (r == broken) {
            cr_assert(!isfinite(got[0]) || c->cap > 0);
            continue;
        }

        float off = distance(got, rows[r], (size_t)outs), largest = 0;

        for (int32_t o = 0; o < outs; o++) largest = fmaxf(largest, fabsf(rows[r][o]));
        /* what is next to 0 has few bits left behind a cap: 1 - exp2 of next to nothing */
        cr_assert_leq(off, 5e-5f * largest + 5e-7f * c->cap,
                      "%s, %d columns, row %d of %d: off by %g of %g",
                      spc_dtype_name(twin_types[type]), (int)c->cols, (int)r, (int)count,
                      (double)off, (double)largest);
    }
    spc_cuda_gemm_close(gemm);
    free_twins(&m, &packed);
    free(rows);
    free(expected);
    unshare(in);
    unshare(out);
    unshare(bias);
    unshare(memory);
    unshare(target);
}

Test(cuda_linear, products_by_the_library_are_those_of_the_cpu)
{
    static const linear_case wide = {{3, 0, 0}, 4101, true, 0}; /* columns in turns */
    dice d = {11};

    for (int type = 0; type < 3; type++) {
        for (size_t k = 0; k < sizeof linear_cases / sizeof *linear_cases; k++) {
            check_gemm(&linear_cases[k], type, 70, 0, &d);
        }
        check_gemm(&wide, type, 20, 0, &d);
    }
}

/* Rows that an algorithm takes as they are, or filled up to its bucket's; more than the last bucket
 * has, and a rest that goes as few do. */
Test(cuda_linear, any_number_of_rows_goes_by_any_algorithm_of_the_library)
{
    static const linear_case c = {{5, 0, 0}, 24, true, 0};
    static const int32_t counts[] = {17, 33, 130, 530};
    dice d = {13};

    for (int type = 0; type < 3; type++) {
        for (int i = 0; i < 4; i++) {
            for (int32_t which = 0; which < SPC_GEMM_CHOICES; which++) {
                check_gemm(&c, type, counts[i], which, &d);
#ifdef SPC_TESTS_FIBER_RUNTIME_H
                if (counts[i] == 130) { /* 144 rows, or where those are not taken 256 */
                    const int rows = which == 0 || which == 3 ? 144 : 256;

                    cr_expect_eq(fiber_library.columns, type == SPC_WEIGHT_F32 ? rows : 2 * rows);
                }
#endif
            }
        }
    }
}

Test(cuda_linear, products_have_as_many_rows_as_there_is_memory_for)
{
    const spc_gemm_most few = {8, 4, 64}, many = {8, 300000, 512};
    spc_cuda_matrix m = {.type = SPC_WEIGHT_BF16, .rows = 4, .cols = 8, .stride = 8};
    spc_linear_args a = {.part = {m, m}, .parts = 2};
    void *memory = on_device(spc_cuda_gemm_bytes(&many));
    char said[SPC_GEMM_SAID];
    spc_cuda_gemm gemm;

    cr_expect(spc_gemm_rows(0) == 32 && spc_gemm_rows(SPC_GEMM_BUCKETS - 1) == SPC_GEMM_ROWS);
    cr_expect(spc_gemm_bucket(17) == 0 && spc_gemm_bucket(32) == 0 && spc_gemm_bucket(33) == 1);
    cr_expect(spc_gemm_bucket(512) == 4 && spc_gemm_bucket(513) == 4);
    cr_expect_lt(spc_cuda_gemm_bytes(&few), (size_t)33 << 20, "small models take little");
    cr_expect_lt(spc_cuda_gemm_bytes(&many), (size_t)106 << 20, "two halves of 32 rows");
    ok(spc_cuda_gemm_open(&many, memory, &gemm, said), said);
    cr_expect_eq(spc_cuda_gemm_rows(gemm, &a, 4), 512);
    a.part[1].rows = 300000;
    cr_expect_eq(spc_cuda_gemm_rows(gemm, &a, 4), 32, "all parts have the same rows");
    a.part[1].rows = 100000;
    cr_expect_eq(spc_cuda_gemm_rows(gemm, &a, 4), 64);
    cr_expect_eq(spc_cuda_gemm_rows(gemm, &a, 0), 32);
    spc_cuda_gemm_close(gemm);
    ok(spc_cuda_gemm_open(&few, memory, &gemm, said), said);
    a.part[1].rows = 4;
    cr_expect_eq(spc_cuda_gemm_rows(gemm, &a, 4), 64);
    spc_cuda_gemm_close(gemm);
    unshare(memory);
}

Test(cuda_linear, linear_writes_rows_where_it_is_told)
{
    dice d = {10};
    spc_matrix packed;
    spc_cuda_matrix m = random_twins(&d, SPC_WEIGHT_F32, 6, 8, &packed);
    float *in = random_floats(&d, 18 * 8, 1), *plain = shared(18 * 6 * sizeof *plain);
    float *out = shared(40 * 6 * sizeof *out);
    int32_t *target = shared(18 * sizeof *target);
    spc_linear_args a = {.part = {m}, .in = in, .out = plain, .parts = 1, .rows = 18, .width = 6};

    for (int32_t r = 0; r < 18; r++) target[r] = 39 - 2 * r;
    wait_for(spc_cuda_linear_row(&a, NULL), "linear");
    a.out = out;
    a.target = target;
    wait_for(spc_cuda_linear_row(&a, NULL), "linear");
    for (int32_t r = 0; r < 18; r++) {
        cr_assert(memcmp(out + target[r] * 6, plain + r * 6, 6 * sizeof *out) == 0);
        cr_assert(isnan(out[(target[r] - 1) * 6]), "rows between are left alone");
    }
    free_twins(&m, &packed);
    unshare(in);
    unshare(plain);
    unshare(out);
    unshare(target);
}
