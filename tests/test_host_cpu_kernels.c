/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cpu_kernels.c - every vector unit against plain loops in double, on sizes that do not
 * fill a vector, and bit for bit where bits are promised. */
#include "host/cpu/cpu_kernels.h"
#include "host/kv.h"
#include "rules/round.h"
#include "weights/quant.h"

#include "units.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLS = 70, OUTS = 33, ROWS = 9, DTYPES = 5 };

static const spc_dtype dtypes[DTYPES] = {SPC_DTYPE_F32, SPC_DTYPE_BF16, SPC_DTYPE_F16,
                                         SPC_DTYPE_F8_E4M3, SPC_DTYPE_F8_E5M2};

/* Scales of 8-bit floats: blocks of 3 x 32, of a larger matrix whose part begins at [2, 16]. */
static const float scales[(OUTS + 4) / 3 * 3] = {0.5f, 1.25f, 3,    0.75f, 2,    1,    1.5f, 0.3f,
                                                 0.6f, 1.1f,  0.9f, 2.5f,  0.2f, 1.7f, 0.4f, 0.8f,
                                                 1.3f, 2.2f,  0.7f, 1.9f,  0.1f, 2.7f, 1.6f, 0.35f};
static const spc_scale scale = {scales, 3, 32, 3, 2, 16};

/* In [-1, 1), from a fixed sequence. */
static float next_value(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

/* Attention over keys and values [count, dim], which lie in pages of a type, the last position's
 * first, from the position `first` on. */
static void attend_from(const spc_cpu_kernels *unit, spc_dtype type, int32_t first,
                        const float *query, const float *keys, const float *values, int32_t count,
                        int32_t dim, float factor, float cap, const float *bias, float *scores,
                        float *out)
{
    int32_t pages = spc_pages_for(first + count), table[16];
    int32_t all = pages * SPC_PAGE_TOKENS * dim;
    spc_kv kv = {.type = type,
                 .key = malloc((size_t)all * spc_dtype_bytes(type)),
                 .value = malloc((size_t)all * spc_dtype_bytes(type))};
    spc_cpu_pages where = {kv.key, kv.value, type, table, (int64_t)SPC_PAGE_TOKENS * dim};
    spc_cpu_query one = {query, first, first + count, bias, scores, out};
    const float nan = NAN;

    cr_assert(kv.key && kv.value && pages <= 16);
    for (int32_t i = 0; i < all; i++) {
        spc_kv_write(&kv, kv.key, i, &nan, 1);
        spc_kv_write(&kv, kv.value, i, &nan, 1);
    }
    for (int32_t i = 0; i < pages; i++) table[i] = pages - 1 - i;
    for (int32_t k = 0; k < count; k++) {
        int32_t row =
            table[(first + k) / SPC_PAGE_TOKENS] * SPC_PAGE_TOKENS + (first + k) % SPC_PAGE_TOKENS;

        spc_kv_write(&kv, kv.key, row * dim, keys + k * dim, dim);
        spc_kv_write(&kv, kv.value, row * dim, values + k * dim, dim);
    }
    unit->attend(&one, 1, &where, dim, factor, cap);
    free(kv.key);
    free(kv.value);
}

static void attend(const spc_cpu_kernels *unit, const float *query, const float *keys,
                   const float *values, int32_t count, int32_t dim, float factor, float cap,
                   const float *bias, float *scores, float *out)
{
    attend_from(unit, SPC_DTYPE_F32, 0, query, keys, values, count, dim, factor, cap, bias, scores,
                out);
}

/* A matrix in memory of exactly its size, so that a read behind its end is seen by a sanitizer. */
static void *make_matrix(spc_dtype dtype, int32_t rows, int32_t cols, uint32_t seed)
{
    size_t count = (size_t)rows * (size_t)cols;
    void *data = malloc(count * spc_dtype_bytes(dtype));

    cr_assert_not_null(data);
    for (size_t i = 0; i < count; i++) {
        float x = next_value(&seed);
        uint32_t bits;

        memcpy(&bits, &x, sizeof bits);
        switch (dtype) {
        case SPC_DTYPE_BF16: ((uint16_t *)data)[i] = (uint16_t)(bits >> 16); break;
        case SPC_DTYPE_F16: /* exponents 2^-15 .. 2^-1, both signs: no infinities */
            ((uint16_t *)data)[i] = (uint16_t)(bits >> 16 & 0x8000u) |
                                    (uint16_t)((seed >> 9 & 15u) << 10) |
                                    (uint16_t)(seed >> 13 & 1023u);
            break;
        case SPC_DTYPE_F8_E4M3: /* no NaN */
            ((uint8_t *)data)[i] = (uint8_t)((seed >> 11 & 0xff) - ((seed >> 11 & 0x7f) == 0x7f));
            break;
        case SPC_DTYPE_F8_E5M2: /* exponents below 16 */
            ((uint8_t *)data)[i] = (uint8_t)(seed >> 11 & 0xbf);
            break;
        default: ((float *)data)[i] = x;
        }
    }
    return data;
}

static float *make_rows(int32_t count, uint32_t seed)
{
    return make_matrix(SPC_DTYPE_F32, 1, count, seed);
}

/* What a half is, from its definition. */
static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31, part = half & 1023;
    double size = exponent ? ldexp(1024 + part, exponent - 25) : ldexp(part, -24);

    return half & 0x8000 ? -size : size;
}

/* What an 8-bit float is, from its definition. */
static double f8_value(spc_dtype dtype, uint8_t value)
{
    int bits = dtype == SPC_DTYPE_F8_E4M3 ? 3 : 2, bias = dtype == SPC_DTYPE_F8_E4M3 ? 7 : 15;
    int exponent = (value & 0x7f) >> bits, part = value & ((1 << bits) - 1);
    double size =
        exponent ? ldexp((1 << bits) + part, exponent - bias - bits) : ldexp(part, 1 - bias - bits);

    return value & 0x80 ? -size : size;
}

static double element(const spc_matrix *m, int32_t row, int32_t col)
{
    const void *data = m->data;
    spc_dtype dtype = m->dtype;
    int32_t i = row * m->cols + col;
    uint32_t bits;
    float x;

    if (dtype == SPC_DTYPE_F8_E4M3 || dtype == SPC_DTYPE_F8_E5M2) {
        return f8_value(dtype, ((const uint8_t *)data)[i]) *
               (double)scales[(row + 2) / 3 * 3 + (col + 16) / 32];
    }
    if (dtype == SPC_DTYPE_F16) return half_value(((const uint16_t *)data)[i]);
    if (dtype == SPC_DTYPE_F32) return (double)((const float *)data)[i];
    bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static void multiply(const spc_cpu_kernels *unit, const spc_matrix *m, const float *in,
                     int32_t rows, int32_t stride, float *out)
{
    float *begin[ROWS];

    for (int32_t r = 0; r < rows; r++) begin[r] = out + r * stride;
    unit->linear(m, 0, m->rows, in, rows, begin, 0);
}

static void check_linear(const spc_cpu_kernels *unit, const spc_matrix *m, int32_t rows)
{
    float *in = make_rows(rows * m->cols, 7), out[ROWS * OUTS];

    multiply(unit, m, in, rows, OUTS, out);
    for (int32_t r = 0; r < rows; r++) {
        for (int32_t o = 0; o < m->rows; o++) {
            double sum = 0.0, size = 0.0;

            for (int32_t c = 0; c < m->cols; c++) {
                double term = element(m, o, c) * (double)in[r * m->cols + c];

                sum += term;
                size += fabs(term);
            }
            /* at most COLS / 16 + 5 roundings, each below 2^-24 of the terms' size */
            cr_assert(fabs((double)out[r * OUTS + o] - sum) <= 12 * 6e-8 * size + 1e-30,
                      "%s, %s, [%d, %d], row %d of %d", unit->name, spc_dtype_name(m->dtype),
                      (int)m->rows, (int)m->cols, (int)r, (int)rows);
        }
    }
    free(in);
}

Test(host_cpu_kernels, products_of_any_size_are_those_of_a_double_loop)
{
    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        for (int32_t d = 0; unit && d < DTYPES; d++) {
            for (int32_t cols = 1; cols <= COLS; cols++) {
                int32_t outs = 1 + cols * 7 % OUTS;
                void *data = make_matrix(dtypes[d], outs, cols, (uint32_t)cols);
                spc_matrix m = {data, dtypes[d], outs, cols, scale};

                for (int32_t rows = 1; rows <= ROWS; rows++) check_linear(unit, &m, rows);
                free(data);
            }
            for (int32_t outs = 1; outs <= OUTS; outs++) {
                void *data = make_matrix(dtypes[d], outs, 37, (uint32_t)outs);
                spc_matrix m = {data, dtypes[d], outs, 37, scale};

                for (int32_t rows = 1; rows <= ROWS; rows++) check_linear(unit, &m, rows);
                free(data);
            }
        }
    }
}

Test(host_cpu_kernels, a_row_has_the_same_bits_beside_any_others_and_in_any_range)
{
    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        for (int32_t d = 0; unit && d < DTYPES; d++) {
            void *data = make_matrix(dtypes[d], OUTS, COLS, 3);
            spc_matrix m = {data, dtypes[d], OUTS, COLS, scale};
            float *in = make_rows(ROWS * COLS, 11), all[ROWS * OUTS], one[OUTS];

            multiply(unit, &m, in, ROWS, OUTS, all);
            for (int32_t r = 0; r < ROWS; r++) {
                multiply(unit, &m, in + r * COLS, 1, OUTS, one);
                cr_assert_arr_eq(one, all + r * OUTS, sizeof one);
            }
            for (int32_t from = 0; from < OUTS; from++) { /* ranges as threads get them */
                float part[OUTS + 5], *begin = part;

                unit->linear(&m, from, OUTS, in, 1, &begin, 5);
                cr_assert_arr_eq(part + 5 + from, all + from, (size_t)(OUTS - from) * sizeof *part);
            }
            free(in);
            free(data);
        }
    }
}

static uint64_t hash(uint64_t before, const float *x, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        uint32_t bits;

        memcpy(&bits, x + i, sizeof bits);
        before = (before ^ bits) * 0x100000001b3u;
    }
    return before;
}

/* What a unit computes, whole: products, norms, activations and attention of every width. */
static uint64_t unit_hash(const spc_cpu_kernels *unit)
{
    uint64_t all = 0xcbf29ce484222325u;

    for (int32_t cols = 1; cols <= COLS; cols++) {
        float *in = make_rows(ROWS * cols, 5), *weight = make_rows(cols, 6);
        float product[ROWS * OUTS], x[COLS], scores[ROWS];

        for (int32_t d = 0; d < DTYPES; d++) {
            void *data = make_matrix(dtypes[d], OUTS, cols, 9);
            spc_matrix m = {data, dtypes[d], OUTS, cols, scale};

            multiply(unit, &m, in, ROWS, OUTS, product);
            all = hash(all, product, ROWS * OUTS);
            free(data);
        }
        unit->norm(in, weight, cols, 1e-5f, x);
        all = hash(all, x, cols);
        unit->glu(SPC_ACT_GELU_TANH, in, weight, cols, x);
        all = hash(all, x, cols);
        unit->glu(SPC_ACT_SILU, in, weight, cols, x);
        all = hash(all, x, cols);
        attend(unit, weight, in, in, ROWS, cols, 0.3f, 0, NULL, scores, x);
        all = hash(all, x, cols);
        free(in);
        free(weight);
    }
    return all;
}

/* On any processor. */
Test(host_cpu_kernels, vector_units_agree_to_the_bit)
{
    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        if (!unit || !unit_fuses(u)) continue;
        cr_expect_eq(unit_hash(unit), 0x82f5b5d56606f6eeu, "%s", units[u]);
    }
}

Test(host_cpu_kernels, attention_is_that_of_a_double_loop)
{
    static const int32_t counts[] = {1, 2, 15, 16, 17, 63, 64, 65, 130};
    enum { MOST = 130 };

    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        for (int32_t dim = 2; unit && dim <= COLS; dim += 2) {
            for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
                int32_t count = counts[n];
                float *query = make_rows(dim, 1), *keys = make_rows(count * dim, 2);
                float *values = make_rows(count * dim, 3), scores[MOST], out[COLS];
                float *bias = make_rows(count, 4);
                double weight[MOST], max = -INFINITY, sum = 0.0;

                if (n % 2 == 0) memset(bias, 0, (size_t)count * sizeof *bias);
                attend(unit, query, keys, values, count, dim, 2.5f, 0, n % 2 ? bias : NULL, scores,
                       out);
                for (int32_t k = 0; k < count; k++) {
                    weight[k] = 0.0;
                    for (int32_t c = 0; c < dim; c++) {
                        weight[k] += (double)query[c] * (double)keys[k * dim + c];
                    }
                    weight[k] = weight[k] * 2.5 + (double)bias[k];
                    max = weight[k] > max ? weight[k] : max;
                }
                for (int32_t k = 0; k < count; k++) sum += weight[k] = exp(weight[k] - max);
                for (int32_t c = 0; c < dim; c++) {
                    double mean = 0.0;

                    for (int32_t k = 0; k < count; k++) {
                        mean += weight[k] / sum * (double)values[k * dim + c];
                    }
                    cr_assert(fabs((double)out[c] - mean) <= 2e-5, "%s, dim %d, %d positions",
                              unit->name, (int)dim, (int)count);
                }
                free(bias);
                free(query);
                free(keys);
                free(values);
            }
        }
    }
}

Test(host_cpu_kernels, attention_has_the_same_bits_wherever_its_pages_lie)
{
    enum { COUNT = 50 };

    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        for (int32_t dim = 8; unit && dim <= COLS; dim += 8) {
            float *query = make_rows(dim, 1), *keys = make_rows(COUNT * dim, 2);
            float *values = make_rows(COUNT * dim, 3), scores[COUNT], out[COLS], moved[COLS];

            for (int32_t count = 1; count <= COUNT; count++) {
                attend(unit, query, keys, values, count, dim, 0.4f, 0, NULL, scores, out);
                for (int32_t first = 1; first < SPC_PAGE_TOKENS; first += 3) {
                    attend_from(unit, SPC_DTYPE_F32, first, query, keys, values, count, dim, 0.4f,
                                0, NULL, scores, moved);
                    cr_assert_arr_eq(out, moved, (size_t)dim * sizeof *out);
                }
            }
            free(query);
            free(keys);
            free(values);
        }
    }
}

/* Queries of several heads and rows, some with a window, and with keys that only some or none of
 * the others see. */
Test(host_cpu_kernels, attention_has_the_same_bits_whatever_queries_are_beside_it)
{
    enum { SPAN = 60, MOST = 9 };
    static const int32_t begin[MOST] = {0, 0, 0, 5, 6, 7, 0, 50, 2}, dims[] = {8, 24, 64, 80};
    static const int32_t end[MOST] = {40, 41, 42, 43, 44, 45, 3, 60, 33};
    int32_t table[4] = {3, 1, 0, 2};

    for (int32_t u = 0; u < UNITS * 4; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u / 4], NULL);
        const int32_t dim = dims[u % 4];
        float *queries = make_rows(MOST * dim, 1), *keys = make_rows(4 * SPC_PAGE_TOKENS * dim, 2);
        float *values = make_rows(4 * SPC_PAGE_TOKENS * dim, 3), *bias = make_rows(SPAN, 4);
        float scores[MOST][SPAN], alone[MOST][80], out[MOST][80];
        spc_cpu_pages pages = {keys, values, SPC_DTYPE_F32, table, (int64_t)SPC_PAGE_TOKENS * dim};
        spc_cpu_query query[MOST];

        for (int32_t i = 0; i < MOST * SPAN; i++) scores[i / SPAN][i % SPAN] = NAN;
        for (int32_t i = 0; i < MOST; i++) {
            query[i] = (spc_cpu_query){queries + i * dim,   begin[i],  end[i],
                                       i % 2 ? bias : NULL, scores[i], alone[i]};
            if (unit) unit->attend(&query[i], 1, &pages, dim, 0.4f, i % 3 ? 0 : 2.0f);
        }
        for (int32_t first = 0; unit && first < MOST; first++) {
            for (int32_t count = 1; first + count <= MOST; count++) {
                for (int32_t i = first; i < first + count; i++) query[i].out = out[i];
                for (int32_t cap = 0; cap < 2; cap++) {
                    unit->attend(query + first, count, &pages, dim, 0.4f, cap ? 2.0f : 0);
                    for (int32_t i = first; i < first + count; i++) {
                        if (cap != (i % 3 == 0)) continue;
                        cr_assert_arr_eq(out[i], alone[i], (size_t)dim * sizeof *out[i],
                                         "%s, dim %d: query %d of %d from %d on", unit->name,
                                         (int)dim, (int)i, (int)count, (int)first);
                    }
                }
            }
        }
        free(queries);
        free(keys);
        free(values);
        free(bias);
    }
}

static const spc_dtype half_types[] = {SPC_DTYPE_BF16, SPC_DTYPE_F16};

/* What a cache of 16 bits makes of numbers. */
static void round_all(spc_dtype type, float *x, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        x[i] = type == SPC_DTYPE_BF16 ? spc_bfloat_to_float(spc_float_bf16(x[i]))
                                      : spc_half_to_float(spc_float_half(x[i]));
    }
}

/* Widening is exact, so that nothing but the rounding of what is written tells the types apart. */
Test(host_cpu_kernels, caches_of_16_bits_give_the_bits_of_float32_ones_with_the_same_numbers)
{
    static const int32_t counts[] = {1, 3, 4, 17, 66};
    enum { MOST = 66 };

    for (int32_t n = 0; n < 2 * UNITS; n++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[n / 2], NULL);
        spc_dtype type = half_types[n % 2];

        for (int32_t dim = 1; unit && dim <= COLS; dim++) {
            float *query = make_rows(dim, 1), *keys = make_rows(MOST * dim, 2);
            float *values = make_rows(MOST * dim, 3), *near_keys = make_rows(MOST * dim, 2);
            float *near_values = make_rows(MOST * dim, 3), scores[MOST], out[COLS], plain[COLS];

            keys[0] = near_keys[0] = values[0] = near_values[0] = 3e-6f; /* subnormal as a half */
            round_all(type, near_keys, MOST * dim);
            round_all(type, near_values, MOST * dim);
            for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
                attend_from(unit, type, 3, query, keys, values, counts[k], dim, 0.7f, 0, NULL,
                            scores, out);
                attend(unit, query, near_keys, near_values, counts[k], dim, 0.7f, 0, NULL, scores,
                       plain);
                cr_assert_arr_eq(out, plain, (size_t)dim * sizeof *out, "%s, %s, dim %d, %d keys",
                                 unit->name, spc_dtype_name(type), (int)dim, (int)counts[k]);
            }
            free(query);
            free(keys);
            free(values);
            free(near_keys);
            free(near_values);
        }
    }
}

/* fp16 ends at 65504: beyond, a key or a value breaks the rows that see it.  bf16 goes on. */
Test(host_cpu_kernels, overflow_of_a_half_is_seen)
{
    for (int32_t n = 0; n < 2 * UNITS; n++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[n / 2], NULL);
        bool breaks = half_types[n % 2] == SPC_DTYPE_F16;

        for (int32_t at = 0; unit && at < 5 * 20; at += 7) {
            float x[5 * 20], ones[5 * 20], out[20], scores[5];

            for (int32_t i = 0; i < 5 * 20; i++) x[i] = ones[i] = 1.0f;
            x[at] = 70000.0f;
            attend_from(unit, half_types[n % 2], 0, ones, x, ones, 5, 20, 1e-5f, 0, NULL, scores,
                        out);
            cr_assert_eq(isfinite(out[0]) && isfinite(out[19]), !breaks, "key %d", (int)at);
            attend_from(unit, half_types[n % 2], 0, ones, x, ones, 5, 20, 1e-5f, 30, NULL, scores,
                        out);
            cr_assert_eq(isfinite(out[0]) && isfinite(out[19]), !breaks, "key %d, cap", (int)at);
            attend_from(unit, half_types[n % 2], 0, ones, ones, x, 5, 20, 1, 0, NULL, scores, out);
            cr_assert_eq(isfinite(out[at % 20]) != 0, !breaks, "value %d", (int)at);
        }
    }
}

Test(host_cpu_kernels, norm_and_glu_are_those_of_double_loops)
{
    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        for (int32_t dim = 1; unit && dim <= COLS; dim++) {
            float *in = make_rows(dim, 21), *weight = make_rows(dim, 22), out[COLS];
            double square = 0.0;

            unit->norm(in, weight, dim, 1e-5f, out);
            for (int32_t i = 0; i < dim; i++) square += (double)in[i] * (double)in[i];
            for (int32_t i = 0; i < dim; i++) {
                double exact = (double)in[i] / sqrt(square / dim + 1e-5) * (double)weight[i];

                cr_assert(fabs((double)out[i] - exact) <= 1e-6 * fabs(exact) + 1e-30);
            }
            for (int32_t i = 0; i < dim; i++) in[i] *= 30.0f;
            unit->glu(SPC_ACT_SILU, in, weight, dim, out);
            for (int32_t i = 0; i < dim; i++) {
                double x = (double)in[i], exact = x / (1 + exp(-x)) * (double)weight[i];

                cr_assert(fabs((double)out[i] - exact) <= 3e-6 * fabs(exact) + 1e-30, "%g", x);
            }
            unit->glu(SPC_ACT_GELU_TANH, in, weight, dim, out);
            for (int32_t i = 0; i < dim; i++) {
                double x = (double)in[i], z = sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x);
                double exact = x / (1 + exp(-2 * z)) * (double)weight[i];

                cr_assert(fabs((double)out[i] - exact) <= 2e-5 * fabs(exact) + 1e-30, "%g", x);
            }
            memcpy(out, in, (size_t)dim * sizeof *out);
            unit->bound(out, dim, 5);
            for (int32_t i = 0; i < dim; i++) {
                double exact = 5 * tanh((double)in[i] / 5);

                cr_assert_float_eq((double)out[i], exact, 1e-6, "%g", (double)in[i]);
            }
            free(in);
            free(weight);
        }
    }
}

Test(host_cpu_kernels, glu_survives_the_ends_of_the_range)
{
    static const float gate[] = {-1e30f, -1000.0f, -88.0f, 0.0f, 88.0f, 1000.0f, 1e30f};
    static const float up[] = {1, 1, 1, 1, 1, 1, 1};

    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);
        float out[7];

        if (!unit) continue;
        for (int a = SPC_ACT_SILU; a <= SPC_ACT_GELU_TANH; a++) {
            unit->glu((spc_activation)a, gate, up, 7, out);
            for (int32_t i = 0; i < 7; i++) {
                double exact = i < 3 ? 0.0 : (double)gate[i];

                cr_assert(fabs((double)out[i] - exact) <= 1e-6 * fabs(exact) + 1e-30,
                          "%d: %g gives %g", a, (double)gate[i], (double)out[i]);
            }
        }
        memcpy(out, gate, sizeof out);
        unit->bound(out, 7, 50);
        cr_assert(out[0] == -50 && out[1] == -50 && out[3] == 0 && out[5] == 50 && out[6] == 50);
    }
}

Test(host_cpu_kernels, a_nan_stays_a_nan)
{
    for (int32_t u = 0; u < UNITS; u++) {
        const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);

        for (int32_t at = 0; unit && at < 20; at++) {
            float x[20], ones[20], out[20], scores[20];

            for (int32_t i = 0; i < 20; i++) x[i] = ones[i] = 1.0f;
            x[at] = NAN;
            unit->norm(x, ones, 20, 1e-5f, out);
            cr_assert(isnan(out[0]) && isnan(out[19]), "norm");
            unit->glu(SPC_ACT_SILU, x, ones, 20, out);
            cr_assert(isnan(out[at]), "glu");
            unit->glu(SPC_ACT_GELU_TANH, x, ones, 20, out);
            cr_assert(isnan(out[at]), "glu, gelu");
            memcpy(out, x, sizeof out);
            unit->bound(out, 20, 2.0f);
            cr_assert(isnan(out[at]), "bound");
            attend(unit, ones, x, ones, 1, 20, 1.0f, 2.0f, NULL, scores, out);
            cr_assert(isnan(out[0]), "attention under a cap");
            attend(unit, ones, ones, ones, 20, 1, 1.0f, 0, x, scores, out);
            cr_assert(isnan(out[0]), "attention, bias");
            attend(unit, ones, ones, x, 1, 20, 1.0f, 0, NULL, scores, out);
            cr_assert(isnan(out[at]), "attention, value");
            attend(unit, ones, x, ones, 1, 20, 1.0f, 0, NULL, scores, out);
            cr_assert(isnan(out[0]), "attention, key: a broken cache must not look sound");
            attend(unit, ones, x, ones, 5, 4, 1.0f, 0, NULL, scores, out); /* one key of five */
            cr_assert(isnan(out[0]) && isnan(out[3]), "attention, one key of several");
        }
    }
}

Test(host_cpu_kernels, every_half_is_widened_exactly)
{
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h;
        float x = spc_half_to_float(half);

        if ((h & 0x7c00u) == 0x7c00u) {
            cr_assert((h & 1023u) ? isnan(x) : x == (h >> 15 ? -INFINITY : INFINITY), "%04x",
                      (unsigned)h);
        } else {
            cr_assert_eq((double)x, half_value(half), "%04x", (unsigned)h);
        }
    }
}

Test(host_cpu_kernels, units_are_found_by_name_and_listed)
{
    char known[64];

    cr_assert_not_null(spc_cpu_kernels_find("portable", known));
    cr_assert(strstr(known, "portable"));
    cr_assert_null(spc_cpu_kernels_find("none", NULL));
    cr_assert_not_null(spc_cpu_kernels_find(NULL, NULL));
    for (int32_t u = 0; u < UNITS; u++) {
        cr_assert_eq(spc_cpu_kernels_find(units[u], NULL) != NULL, strstr(known, units[u]) != NULL,
                     "%s", known);
    }
}

/* Every code of the two formats, through conversion and product. */
Test(host_cpu_kernels, all_codes_of_8_bit_floats)
{
    static const float one = 1;
    static const spc_scale unscaled = {&one, 1 << 20, 1 << 20, 1, 0, 0};

    for (int d = 3; d < 5; d++) {
        for (int code = 0; code < 256; code++) {
            bool e4m3 = dtypes[d] == SPC_DTYPE_F8_E4M3;
            bool nan = e4m3 ? (code & 0x7f) == 0x7f : (code & 0x7f) > 0x7c;
            double want = !e4m3 && (code & 0x7f) == 0x7c ? (code & 0x80 ? -INFINITY : INFINITY)
                                                         : f8_value(dtypes[d], (uint8_t)code);
            uint8_t codes[17] = {0};
            float in[17] = {0}, got;

            codes[5] = (uint8_t)code;
            in[5] = 1;
            spc_dequantise(dtypes[d], &codes[5], 1, &got);
            cr_assert(nan ? isnan(got) : (double)got == want, "%s %02x: %g",
                      spc_dtype_name(dtypes[d]), code, (double)got);
            for (int32_t u = 0; u < UNITS; u++) {
                const spc_cpu_kernels *unit = spc_cpu_kernels_find(units[u], NULL);
                spc_matrix m = {codes, dtypes[d], 1, 17, unscaled};

                if (!unit) continue;
                multiply(unit, &m, in, 1, 1, &got);
                cr_assert(nan ? isnan(got) : (double)got == want || isinf(want), "%s, %s %02x: %g",
                          unit->name, spc_dtype_name(dtypes[d]), code, (double)got);
            }
        }
    }
}
