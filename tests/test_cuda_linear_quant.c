/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_linear_quant.c - quantised matrices on the device against the float32 numbers that
 * weights/quant.c makes of them: rows of tables to the bit, products within 3e-6 of the largest
 * exact one.
 *
 * Built twice, as test_cuda_ops.c. */
#include "cuda/ops.h"
#include "host/gpu/backend_cuda_pack.h"

#include "deals.h"
#include "device_layers.h"
#include "distance.h"
#include "weights/quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const spc_dtype types[] = {
    SPC_DTYPE_Q8_0,   SPC_DTYPE_Q4_0,   SPC_DTYPE_Q4_1, SPC_DTYPE_Q5_0,    SPC_DTYPE_Q5_1,
    SPC_DTYPE_Q2_K,   SPC_DTYPE_Q3_K,   SPC_DTYPE_Q4_K, SPC_DTYPE_Q5_K,    SPC_DTYPE_Q6_K,
    SPC_DTYPE_IQ4_NL, SPC_DTYPE_IQ4_XS, SPC_DTYPE_I8,   SPC_DTYPE_F8_E4M3, SPC_DTYPE_F8_E5M2};
enum { TYPES = sizeof types / sizeof *types };

/* ---- matrices -------------------------------------------------------------------------------- */

/* On the device, and as float32. */
typedef struct {
    spc_cuda_matrix m;
    float *value; /* [rows, cols] */
} matrix;

static bool has_scales(spc_dtype dtype)
{
    return dtype == SPC_DTYPE_I8 || spc_dtype_is_f8(dtype);
}

static void put_half(uint8_t *at, double x)
{
    /* of 0.001 to 0.1, either sign: no subnormals */
    uint16_t half = (uint16_t)((x < 0) << 15 | (6 + (int)(fabs(x) * 7) % 6) << 10 |
                               ((int)(fabs(x) * 100000) & 1023));

    memcpy(at, &half, sizeof half);
}

/* Where a block's halves begin. */
static size_t halves_at(spc_dtype dtype)
{
    switch (dtype) {
    case SPC_DTYPE_Q2_K: return 80;
    case SPC_DTYPE_Q3_K: return 108;
    case SPC_DTYPE_Q6_K: return 208;
    default: return 0;
    }
}

/* Random bytes with sensible scales; 8-bit floats without NaN and infinity. */
static uint8_t *random_blocks(dice *d, spc_dtype dtype, int32_t rows, int32_t cols)
{
    uint32_t bytes = spc_dtype_bytes(dtype), elements = spc_dtype_elements(dtype);
    size_t blocks = (size_t)rows * (size_t)cols / elements;
    uint8_t *data = malloc(blocks * bytes);
    bool two = dtype == SPC_DTYPE_Q4_1 || dtype == SPC_DTYPE_Q5_1 || dtype == SPC_DTYPE_Q4_K ||
               dtype == SPC_DTYPE_Q5_K || dtype == SPC_DTYPE_Q2_K;

    cr_assert_not_null(data);
    for (size_t i = 0; i < blocks * bytes; i++) {
        data[i] = (uint8_t)dice_below(d, 256);
        if (spc_dtype_is_f8(dtype)) data[i] &= 0xbf; /* small */
    }
    for (size_t i = 0; i < blocks && elements > 1; i++) {
        uint8_t *at = data + i * bytes + halves_at(dtype);

        put_half(at, dice_gauss(d));
        if (two) put_half(at + 2, dice_gauss(d));
    }
    return data;
}

/* Scales beside an 8-bit type: of 128 x 128 blocks, of rows, or one; the matrix begins at (row,
 * col) of what they scale. */
static void put_scales(dice *d, matrix *x, int32_t shift, int32_t row, int32_t col)
{
    spc_cuda_matrix *m = &x->m;
    int32_t stride = shift == 7 ? (m->cols + col + 127) / 128 : 1;
    int32_t down = shift == 31 ? 1 : ((m->rows + row - 1) >> shift) + 1;
    float *scale = random_floats(d, (size_t)(down * stride), 1);

    m->scale = scale;
    m->scale_shift = shift;
    m->scale_stride = stride;
    m->scale_row = row;
    m->scale_col = col;
    for (int32_t r = 0; r < m->rows; r++) {
        for (int32_t c = 0; c < m->cols; c++) {
            int32_t across = shift == 7 ? (c + col) / 128 : 0;

            x->value[r * m->cols + c] *= scale[((r + row) >> shift) * stride + across];
        }
    }
}

static matrix random_matrix(dice *d, spc_dtype dtype, int32_t rows, int32_t cols)
{
    static const int32_t shifts[] = {0, 7, 31};
    spc_weight_type type = spc_cuda_type_of(dtype);
    spc_cuda_planes bytes = spc_cuda_planes_of(type, cols);
    spc_cuda_row plane = {
        shared((size_t)(bytes.data * rows)), shared((size_t)(bytes.high * rows + 1)),
        shared((size_t)(bytes.scale * rows + 1)), shared((size_t)(bytes.step * rows + 1))};
    uint8_t *data = random_blocks(d, dtype, rows, cols);
    size_t row = (size_t)cols / spc_dtype_elements(dtype) * spc_dtype_bytes(dtype);
    matrix x = {.m = {.data = plane.data,
                      .type = type,
                      .rows = rows,
                      .cols = cols,
                      .stride = spc_cuda_stride(type, cols),
                      .high = plane.high,
                      .scale = plane.scale,
                      .step = plane.step},
                .value = malloc((size_t)(rows * cols) * sizeof(float))};

    cr_assert_not_null(x.value);
    for (int32_t r = 0; r < rows; r++) {
        spc_cuda_row at = {plane.data + bytes.data * r, plane.high + bytes.high * r,
                           plane.scale + bytes.scale * r, plane.step + bytes.step * r};

        spc_cuda_pack_row(type, data + (size_t)r * row, cols, &at);
        for (int32_t c = 0; c < cols && dtype == SPC_DTYPE_I8; c++) {
            x.value[r * cols + c] = (float)(int8_t)data[(size_t)r * row + (size_t)c];
        }
    }
    if (dtype != SPC_DTYPE_I8) spc_dequantise(dtype, data, (int64_t)rows * cols, x.value);
    if (has_scales(dtype)) {
        unshare(plane.scale);
        put_scales(d, &x, shifts[cols % 3], rows % 130, rows % 4 * 16);
    }
    free(data);
    return x;
}

static void free_matrix(matrix *x)
{
    const void *all[] = {x->m.data, x->m.high, x->m.scale, x->m.step};

    for (int i = 0; i < 4; i++) unshare((void *)(uintptr_t)all[i]);
    free(x->value);
}

/* Columns that a type can have: whole blocks, or any number. */
static int32_t columns(spc_dtype dtype, int32_t i)
{
    static const int32_t wide[] = {256, 768, 2048}, blocks[] = {32, 160, 576, 2048},
                         any[] = {1, 33, 200, 650, 2048};
    uint32_t elements = spc_dtype_elements(dtype);

    if (elements == 256) return i < 3 ? wide[i] : 0;
    if (elements == 32) return i < 4 ? blocks[i] : 0;
    return i < 5 ? any[i] : 0;
}

/* ---- tests ----------------------------------------------------------------------------------- */

Test(cuda_linear_quant, a_row_of_a_table_has_the_bits_of_its_numbers)
{
    enum { ROWS = 135 };
    dice d = {1};
    int32_t *token = shared(5 * sizeof *token);

    for (int32_t k = 0; k < 5; k++) token[k] = (37 * k + 3) % ROWS;
    for (int t = 0; t < TYPES; t++) {
        for (int32_t i = 0; columns(types[t], i) > 0; i++) {
            int32_t cols = columns(types[t], i);
            matrix x = random_matrix(&d, types[t], ROWS, cols);
            float *out = shared((size_t)(5 * cols) * sizeof *out);
            spc_embed_args a = {x.m, token, out, 0.5f, 5, 0};

            wait_for(spc_cuda_embed(&a, NULL), "embed");
            for (int32_t k = 0; k < 5 * cols; k++) {
                float want = x.value[token[k / cols] * cols + k % cols] * 0.5f;

                cr_assert_eq(out[k], want, "%s, %d columns: column %d: %a, not %a",
                             spc_dtype_name(types[t]), (int)cols, (int)(k % cols), (double)out[k],
                             (double)want);
            }
            unshare(out);
            free_matrix(&x);
        }
    }
    unshare(token);
}

/* A rank that has none of a small vocabulary has no planes either. */
Test(cuda_linear_quant, a_table_that_is_all_elsewhere_gives_zeros)
{
    enum { COLS = 256 };
    int32_t *token = shared(sizeof *token);
    float *out = shared(COLS * sizeof *out);

    *token = 3;
    for (int t = 0; t < TYPES; t++) {
        spc_weight_type type = spc_cuda_type_of(types[t]);
        spc_cuda_matrix m = {.type = type, .cols = COLS, .stride = spc_cuda_stride(type, COLS)};
        spc_embed_args a = {m, token, out, 1.0f, 1, 0};

        for (int i = 0; i < COLS; i++) out[i] = 1.0f;
        wait_for(spc_cuda_embed(&a, NULL), "embed");
        for (int i = 0; i < COLS; i++) {
            cr_assert_eq(out[i], 0.0f, "%s", spc_dtype_name(types[t]));
        }
    }
    unshare(token);
    unshare(out);
}

/* NaN of 8-bit floats is NaN, and nothing else is. */
Test(cuda_linear_quant, every_8_bit_float_is_what_it_is)
{
    for (int t = TYPES - 2; t < TYPES; t++) {
        uint8_t code[256], *data = shared(256);
        float *out = shared(256 * sizeof *out), *scale = shared(sizeof *scale), want[256];
        int32_t *token = shared(sizeof *token);
        spc_cuda_row plane = {data, NULL, NULL, NULL};
        spc_cuda_matrix m = {.data = data,
                             .type = spc_cuda_type_of(types[t]),
                             .rows = 1,
                             .cols = 256,
                             .stride = 8,
                             .scale = scale,
                             .scale_stride = 1};
        spc_embed_args a = {m, token, out, 1.0f, 1, 0};

        for (int i = 0; i < 256; i++) code[i] = (uint8_t)i;
        *token = 0;
        *scale = 1.0f;
        spc_cuda_pack_row(m.type, code, 256, &plane);
        spc_dequantise(types[t], code, 256, want);
        wait_for(spc_cuda_embed(&a, NULL), "embed");
        for (int i = 0; i < 256; i++) {
            cr_expect(out[i] == want[i] || (isnan(out[i]) && isnan(want[i])), "%s %d: %g, not %g",
                      spc_dtype_name(types[t]), i, (double)out[i], (double)want[i]);
        }
        unshare(data);
        unshare(out);
        unshare(scale);
        unshare(token);
    }
}

enum { ROWS = 21 };

static cudaError_t by_tile(const spc_linear_args *a, cudaStream_t stream)
{
    return spc_cuda_linear_tile(a, NULL, stream);
}

static int32_t dealt; /* which of the deals this is; 0: none */

/* slices: 0 the default; returns what all rows together are, malloc'd, NULL of parts that the
 * kernel does not take */
static float *linear_of(spc_dtype dtype, const int32_t outs[SPC_LINEAR_PARTS], int32_t cols,
                        float cap, spc_linear_way way, dice *d)
{
    static const int32_t of_quant[] = {1, 2, 3, 7, 16};
    /* (two: tiles of rows that are full, and that are not) */
    static const int32_t of_tile[] = {9, 16, 1, 8, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15};
    const bool tile = way.kernel == SPC_KERNEL_TILE;
    const size_t count = !tile ? 5 : SPC_TAKES_TIME ? 2 : cols <= 256 ? 16 : 4; /* of strips */
    cudaError_t (*launch)(const spc_linear_args *, cudaStream_t) =
        tile ? by_tile : spc_cuda_linear_quant;
    matrix part[SPC_LINEAR_PARTS];
    spc_linear_args a = {.cap = cap, .rows = ROWS, .way = way, .scratch = scratch_memory()};
    float *in = random_floats(d, (size_t)(ROWS * cols), 1), *expected, *whole = NULL, off;
    int32_t at = 0;
    char what[96];

    (void)snprintf(what, sizeof what, "%s, %d columns, SPC_DEALT=%d", spc_dtype_name(dtype),
                   (int)cols, (int)dealt);
    for (; a.parts < SPC_LINEAR_PARTS && outs[a.parts] > 0; a.parts++) {
        part[a.parts] = random_matrix(d, dtype, outs[a.parts], cols);
        a.part[a.parts] = part[a.parts].m;
        if (a.parts != 1) a.bias[a.parts] = random_floats(d, (size_t)outs[a.parts], 1);
        a.width += outs[a.parts];
    }
    a.in = in;
    a.out = shared((size_t)(ROWS * a.width) * sizeof *a.out);
    expected = malloc((size_t)(ROWS * a.width) * sizeof *expected);
    for (int32_t p = 0; p < a.parts; at += outs[p++]) {
        for (int32_t i = 0; i < ROWS * outs[p]; i++) {
            const float *x = in + i / outs[p] * cols, *w = part[p].value + i % outs[p] * cols;
            double sum = a.bias[p] ? (double)a.bias[p][i % outs[p]] : 0;

            for (int32_t c = 0; c < cols; c++) sum += (double)x[c] * (double)w[c];
            if (cap > 0) sum = (double)cap * tanh(sum / (double)cap);
            expected[i / outs[p] * a.width + at + i % outs[p]] = (float)sum;
        }
    }
    if (!tile || spc_cuda_tile_takes(&a)) {
        whole = in_strips(launch, &a, ROWS);
        off = relative_distance(whole, expected, (size_t)(ROWS * a.width));
        /* the tangent of a small number is a difference of numbers next to 1, each up to 2^-22 off
         */
        cr_assert_leq(off, cap > 0 ? 1e-5f : 3e-6f, "%s: off by %g", what, (double)off);
        expect_bits_in_strips(launch, &a, whole, tile ? of_tile : of_quant, count, what);
    }
    for (int32_t p = 0; p < a.parts; p++) free_matrix(&part[p]);
    free_layer(&a);
    free(expected);
    return whole;
}

static void check_linear(spc_dtype dtype, const int32_t outs[SPC_LINEAR_PARTS], int32_t cols,
                         float cap, int32_t slices, dice *d)
{
    free(linear_of(dtype, outs, cols, cap, (spc_linear_way){SPC_KERNEL_QUANT, slices, {0, 0}}, d));
}

Test(cuda_linear_quant, products_are_those_of_the_numbers_with_the_same_bits_in_strips_of_any_size)
{
    static const int32_t outs[][SPC_LINEAR_PARTS] = {
        {5, 0, 0}, {21, 6, 6}, {7, 3, 1}, {40, 9, 0}, {10, 2, 2}};
    dice d = {2};

    for (int t = 0; t < TYPES; t++) {
        for (int32_t i = 0; columns(types[t], i) > 0; i++) {
            check_linear(types[t], outs[i], columns(types[t], i), i % 2 ? 300.0f : 0.0f, 0, &d);
        }
        for (int32_t slices = 8; slices <= 32; slices *= 4) {
            check_linear(types[t], outs[2], 2048, 0, slices, &d);
        }
    }
}

/* Are there kernels for 4 tiles of outputs? */
static bool goes_in_fours(spc_dtype dtype)
{
    static const spc_dtype all[] = {SPC_DTYPE_Q4_0, SPC_DTYPE_Q4_1,   SPC_DTYPE_Q5_0,
                                    SPC_DTYPE_Q5_1, SPC_DTYPE_Q2_K,   SPC_DTYPE_Q4_K,
                                    SPC_DTYPE_Q5_K, SPC_DTYPE_IQ4_NL, SPC_DTYPE_IQ4_XS};

    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        if (all[k] == dtype) return true;
    }
    return false;
}

/* Outputs that fill no tile, groups of fewer blocks, scales that begin within a part. */
Test(cuda_linear_quant, products_on_tensor_cores_are_too)
{
    static const int32_t outs[][SPC_LINEAR_PARTS] = {{40, 10, 0}, {18, 6, 6}, {70, 0, 0}};
    dice d = {5};

    for (int t = 0; t < TYPES; t++) {
        const spc_linear_way ways[] = {{SPC_KERNEL_TILE, 8, {2, 2}},
                                       {SPC_KERNEL_TILE, 8, {4, 4}},
                                       {SPC_KERNEL_TILE, 16, {2, 2}}};

        for (int32_t i = 0; columns(types[t], i) > 0; i++) {
            int32_t cols = columns(types[t], i);
            dice again = d;
            float *two, *four;

            two = linear_of(types[t], outs[i % 3], cols, i % 2 ? 300.0f : 0.0f, ways[0], &d);
            if (cols % 8 == 0) cr_assert_not_null(two);
            if (two && goes_in_fours(types[t])) {
                int32_t count = ROWS * (outs[i % 3][0] + outs[i % 3][1] + outs[i % 3][2]);

                four =
                    linear_of(types[t], outs[i % 3], cols, i % 2 ? 300.0f : 0.0f, ways[1], &again);
                cr_expect(memcmp(two, four, (size_t)count * sizeof *two) == 0,
                          "%s, %d columns: other bits of 4 tiles", spc_dtype_name(types[t]),
                          (int)cols);
                free(four);
            }
            free(two);
        }
        free(linear_of(types[t], outs[1], 2048, 0, ways[2], &d));
    }
}

#ifdef SPC_LOOKED_AT
enum { DEALS = 10 };
#else
enum { DEALS = 30 };
#endif

/* As dice deal them: the type, the parts, the columns and the way. */
Test(cuda_linear_quant, dealt_products, .timeout = 3000)
{
    static const spc_linear_way ways[] = {
        {SPC_KERNEL_QUANT, 0, {0, 0}},  {SPC_KERNEL_QUANT, 8, {0, 0}},
        {SPC_KERNEL_QUANT, 32, {0, 0}}, {SPC_KERNEL_TILE, 8, {2, 2}},
        {SPC_KERNEL_TILE, 16, {2, 2}},  {SPC_KERNEL_TILE, 8, {4, 4}},
    };

    for (uint64_t seed = deals_first(); seed <= deals_last(DEALS); seed++) {
        dice d = {seed * 0x9E3779B97F4A7C15u};
        spc_dtype type = types[dice_below(&d, TYPES)];
        int32_t unit = (int32_t)spc_dtype_elements(type), outs[SPC_LINEAR_PARTS] = {0};
        int32_t cols = unit * (1 + dice_below(&d, (dice_below(&d, 3) ? 800 : 2600) / unit));
        int32_t parts = 1 + dice_below(&d, SPC_LINEAR_PARTS);
        const spc_linear_way *way = &ways[dice_below(&d, goes_in_fours(type) ? 6 : 5)];

        for (int32_t p = 0; p < parts; p++)
            outs[p] = 1 + dice_below(&d, dice_below(&d, 3) ? 20 : 90);
        dealt = (int32_t)seed;
        free(linear_of(type, outs, cols, dice_below(&d, 3) ? 0 : 300.0f, *way, &d));
    }
}

Test(cuda_linear_quant, what_has_no_kernel_on_tensor_cores_is_known)
{
    static float x[512];
    spc_cuda_matrix m = {.data = x,
                         .type = SPC_WEIGHT_F8_E4M3,
                         .rows = 1,
                         .cols = 256,
                         .stride = 8,
                         .scale = x,
                         .scale_stride = 1};
    spc_linear_args a = {.part = {m}, .in = x, .out = x, .parts = 1, .rows = 1, .width = 1};
    spc_linear_more more = {.norm = x};

    cr_expect(spc_cuda_tile_takes(&a));
    cr_expect_eq(spc_cuda_linear_tile(&a, &more, NULL), cudaErrorInvalidValue, "a norm");
    a.way = (spc_linear_way){SPC_KERNEL_TILE, 8, {4, 4}};
    for (int t = 0; t < TYPES; t++) {
        a.part[0].type = spc_cuda_type_of(types[t]);
        cr_expect_eq(spc_cuda_linear_can(&a, &a.way), goes_in_fours(types[t]), "4 tiles of %s",
                     spc_dtype_name(types[t]));
    }
    a.part[0] = m;
    a.way.tiles[0] = a.way.tiles[1] = 1;
    cr_expect(!spc_cuda_linear_can(&a, &a.way), "one tile");
    a.way.slices = 0;
    a.part[0].scale_col = 16;
    cr_expect(!spc_cuda_tile_takes(&a), "scales that begin within a block");
    cr_expect_eq(by_tile(&a, NULL), cudaErrorInvalidValue);
    a.part[0].scale_col = 32;
    a.part[0].cols = 252;
    cr_expect(!spc_cuda_tile_takes(&a), "columns that end within a lane's");
    a.part[0] = m;
    a.part[0].type = SPC_WEIGHT_F32;
    cr_expect(!spc_cuda_tile_takes(&a));
}

/* As many bytes as in the checkpoint, but for rows that end within a group of 128. */
Test(cuda_linear_quant, planes_take_what_the_checkpoint_takes)
{
    for (int t = 0; t < TYPES; t++) {
        uint32_t bytes = spc_dtype_bytes(types[t]), elements = spc_dtype_elements(types[t]);

        for (int32_t cols = 512; cols <= 8192; cols += 256) {
            spc_cuda_planes b = spc_cuda_planes_of(spc_cuda_type_of(types[t]), cols);

            cr_expect_eq(b.data + b.high + b.scale + b.step,
                         cols / (int32_t)elements * (int32_t)bytes, "%s, %d columns",
                         spc_dtype_name(types[t]), (int)cols);
        }
    }
    spc_cuda_planes odd = spc_cuda_planes_of(SPC_WEIGHT_Q8_0, 576);

    cr_expect_leq(odd.data + odd.scale, 576 / 32 * 34 * 101 / 100);
}

Test(cuda_linear_quant, launchers_refuse_planes_that_are_not_there)
{
    static float x[512];
    static int32_t zero[1];
    spc_cuda_matrix m = {.data = x,
                         .type = SPC_WEIGHT_Q6_K,
                         .rows = 1,
                         .cols = 256,
                         .stride = 8,
                         .high = x,
                         .scale = x,
                         .step = x};
    spc_linear_args a = {.part = {m}, .in = x, .out = x, .parts = 1, .rows = 1, .width = 1};
    spc_embed_args embed = {m, zero, x, 1, 1, 0};

    a.part[0].step = NULL;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue);
    a.part[0] = m;
    a.part[0].high = embed.table.high = NULL;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue);
    cr_expect_eq(spc_cuda_embed(&embed, NULL), cudaErrorInvalidValue);
    a.part[0] = m;
    a.part[0].stride = 256;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue, "elements, not blocks");
    a.part[0] = m;
    a.part[0].cols = 255;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue, "no whole blocks");
    a.part[0] = m;
    a.part[0].type = SPC_WEIGHT_F8_E4M3;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue, "no scales described");
    a.part[0].scale_stride = 1;
    a.part[0].scale_col = 4;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue);
    a.part[0].type = SPC_WEIGHT_COUNT;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue);
    a.part[0].type = SPC_WEIGHT_F32;
    cr_expect_eq(spc_cuda_linear_quant(&a, NULL), cudaErrorInvalidValue);
    a.part[0].type = SPC_WEIGHT_Q8_0;
    cr_expect_eq(spc_cuda_linear_row(&a, NULL), cudaErrorInvalidValue);
}
