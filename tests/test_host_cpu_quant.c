/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cpu_quant.c - products with quantised matrices: what they are, in double, from
 * dequantised weights; and that every vector unit has the same bits. */
#include "host/cpu/cpu_kernels.h"
#include "weights/quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { UNITS = 6, TYPES = 12, OUTS = 37, ROWS_MAX = 50, COLS_MAX = 1024 };

static const char *const units[UNITS] = {"portable",   "avx2", "avx512",
                                         "avx512vnni", "neon", "neondot"};
static const spc_dtype types[TYPES] = {SPC_DTYPE_Q8_0, SPC_DTYPE_Q4_0,   SPC_DTYPE_Q4_1,
                                       SPC_DTYPE_Q5_0, SPC_DTYPE_Q5_1,   SPC_DTYPE_Q2_K,
                                       SPC_DTYPE_Q3_K, SPC_DTYPE_Q4_K,   SPC_DTYPE_Q5_K,
                                       SPC_DTYPE_Q6_K, SPC_DTYPE_IQ4_NL, SPC_DTYPE_IQ4_XS};

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static bool is_wide(spc_dtype dtype)
{
    return spc_dtype_elements(dtype) == 256;
}

/* Where a block's halves begin, and how many there are. */
static size_t halves_of(spc_dtype dtype, int32_t *count)
{
    *count = 1;
    switch (dtype) {
    case SPC_DTYPE_Q4_1:
    case SPC_DTYPE_Q5_1:
    case SPC_DTYPE_Q4_K:
    case SPC_DTYPE_Q5_K: *count = 2; return 0;
    case SPC_DTYPE_Q2_K: *count = 2; return 80;
    case SPC_DTYPE_Q3_K: return 108;
    case SPC_DTYPE_Q6_K: return 208;
    default: return 0;
    }
}

/* Random blocks, exactly as many as there are; scales are halves of about 2^-6. */
static uint8_t *make_blocks(spc_dtype dtype, int32_t outs, int32_t cols, uint32_t seed)
{
    size_t size = spc_dtype_bytes(dtype);
    size_t count = (size_t)outs * (size_t)cols / spc_dtype_elements(dtype);
    uint8_t *data = malloc(count * size);

    cr_assert_not_null(data);
    for (size_t i = 0; i < count * size; i++) data[i] = (uint8_t)next(&seed);
    for (size_t i = 0; i < count; i++) {
        int32_t halves;
        uint8_t *scale = data + i * size + halves_of(dtype, &halves);

        for (int32_t k = 0; k < halves; k++) { /* both signs, exponents 8 and 9 */
            scale[2 * k + 1] = (uint8_t)(0x20 | (next(&seed) & 0x83));
        }
    }
    return data;
}

typedef struct {
    spc_q8 q8;
    float out[ROWS_MAX][OUTS];
} result;

/* As two threads would: outputs before `cut`, then the others. */
static void multiply(const spc_cpu_kernels *unit, const spc_matrix *m, const float *in,
                     int32_t rows, int32_t cut, result *r)
{
    int32_t stride = m->cols;
    float *to[ROWS_MAX];

    r->q8.stride = stride;
    r->q8.q = malloc((size_t)(rows * stride));
    r->q8.scale = malloc((size_t)(rows * stride / 32) * sizeof(float));
    r->q8.sum = malloc((size_t)(rows * stride / 32) * sizeof(float));
    r->q8.total = malloc((size_t)(rows * stride / 16) * sizeof(int32_t));
    cr_assert(r->q8.q && r->q8.scale && r->q8.sum && r->q8.total);
    for (int32_t i = 0; i < rows; i++) {
        unit->quantise(in + i * m->cols, m->cols, i, &r->q8);
        to[i] = r->out[i];
    }
    unit->quant_linear(m, 0, cut, &r->q8, rows, to, 0);
    unit->quant_linear(m, cut, m->rows, &r->q8, rows, to, 0);
}

static void release(result *r)
{
    free(r->q8.q);
    free(r->q8.scale);
    free(r->q8.sum);
    free(r->q8.total);
}

/* The same in double, of the activations as quantised and of the weights as dequantised. */
static void expect_products(const spc_matrix *m, const result *r, int32_t rows, const char *unit)
{
    static float weight[OUTS * COLS_MAX];

    spc_dequantise(m->dtype, m->data, (int64_t)m->rows * m->cols, weight);
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t o = 0; o < m->rows; o++) {
            double sum = 0, size = 0;

            for (int32_t c = 0; c < m->cols; c++) {
                int64_t at = (int64_t)i * r->q8.stride + c;
                double x = (double)r->q8.q[at] * (double)r->q8.scale[at / 32];

                sum += (double)weight[o * m->cols + c] * x;
                size += fabs((double)weight[o * m->cols + c] * x);
            }
            /* offsets are added apart: twice the terms, each rounded a few times */
            cr_assert_leq(fabs(sum - (double)r->out[i][o]), 4e-6 * size + 1e-6,
                          "%s %s, %d columns, row %d of %d, output %d: %g, expected %g", unit,
                          spc_dtype_name(m->dtype), (int)m->cols, (int)i, (int)rows, (int)o,
                          (double)r->out[i][o], sum);
        }
    }
}

static void expect_unit(const spc_cpu_kernels *unit, const spc_cpu_kernels *portable,
                        spc_dtype dtype, int32_t outs, int32_t cols)
{
    static const int32_t counts[] = {1, 2, 3, 4, 5, 6, 7, ROWS_MAX};
    uint8_t *blocks = make_blocks(dtype, outs, cols, (uint32_t)cols + dtype);
    spc_matrix m = {blocks, dtype, outs, cols, {0}};
    uint32_t seed = 5;
    float *in = malloc((size_t)(ROWS_MAX * cols) * sizeof *in);

    for (int32_t i = 0; i < ROWS_MAX * cols; i++) in[i] = (float)next(&seed) / 8388608.0f - 1.0f;
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        int32_t rows = counts[k];
        result a, b;

        multiply(unit, &m, in, rows, outs / 2, &a);
        multiply(portable, &m, in, rows, outs, &b);
        expect_products(&m, &a, rows, unit->name);
        for (int32_t i = 0; i < rows; i++) {
            cr_assert_eq(memcmp(a.out[i], b.out[i], (size_t)outs * sizeof *a.out[i]), 0,
                         "%s %s: other bits", unit->name, spc_dtype_name(dtype));
        }
        release(&a);
        release(&b);
    }
    free(in);
    free(blocks);
}

Test(host_cpu_quant, products_are_those_of_what_the_blocks_stand_for)
{
    const spc_cpu_kernels *portable = spc_cpu_kernels_find("portable", NULL);

    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        if (!unit) continue; /* not on this machine */
        for (int32_t t = 0; t < TYPES; t++) {
            static const int32_t narrow[] = {32, 64, 96, 256, 288, 992};
            static const int32_t wide[] = {256, 512, 1024};
            bool k = is_wide(types[t]);

            for (int32_t i = 0; i < (k ? 3 : 6); i++) {
                int32_t cols = k ? wide[i] : narrow[i];

                expect_unit(unit, portable, types[t], OUTS, cols);
                expect_unit(unit, portable, types[t], 7, cols); /* fewer than a kernel takes */
            }
        }
    }
}

/* A step is the largest of 32 over 127: nothing is off by more than half of one. */
Test(host_cpu_quant, activations_are_off_by_half_a_step_at_most)
{
    const spc_cpu_kernels *unit = spc_cpu_kernels_find("portable", NULL);
    uint8_t *blocks = make_blocks(SPC_DTYPE_Q8_0, OUTS, 96, 1);
    spc_matrix m = {blocks, SPC_DTYPE_Q8_0, OUTS, 96, {0}};
    float in[96];
    uint32_t seed = 9;
    result r;

    for (int32_t i = 0; i < 96; i++) {
        in[i] = ((float)next(&seed) / 8388608.0f - 1.0f) * (i < 32 ? 1e-3f : 50.0f);
    }
    memset(in + 64, 0, 32 * sizeof *in);
    multiply(unit, &m, in, 1, OUTS, &r);
    for (int32_t i = 0; i < 96; i++) {
        float step = r.q8.scale[i / 32];

        cr_expect_leq(fabsf((float)r.q8.q[i] * step - in[i]), 0.5001f * step, "%d", (int)i);
    }
    cr_expect_eq(r.q8.scale[2], 0.0f);
    release(&r);
    free(blocks);
}

Test(host_cpu_quant, a_broken_activation_breaks_every_product)
{
    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);
        uint8_t *blocks = make_blocks(SPC_DTYPE_Q4_0, OUTS, 64, 2);
        spc_matrix m = {blocks, SPC_DTYPE_Q4_0, OUTS, 64, {0}};
        float in[64] = {1.0f};
        result r;

        in[40] = u % 2 ? NAN : INFINITY;
        if (unit) {
            multiply(unit, &m, in, 1, OUTS, &r);
            for (int32_t o = 0; o < OUTS; o++) cr_expect(isnan(r.out[0][o]), "%s", units[u]);
            release(&r);
        }
        free(blocks);
    }
}
