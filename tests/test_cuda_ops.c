/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_ops.c - the kernels of cuda/ but for linear layers (test_cuda_linear.c) and attention
 * (test_cuda_attend.c) against the loops of the CPU backend, which define them.
 *
 * Built twice: against the device, and against tests/fibers, which runs the same kernels without
 * one.  Sums are taken in another order than on the CPU: they agree to a few units of float32 of
 * the largest term; what has no sum agrees to the bit, but for the device's own exp2, which is two
 * units off. */
#include "cuda/ops.h"
#include "host/cpu/cpu_kernels.h"
#include "host/cpu/cpu_round.h"

#include "device_caches.h"
#include "device_layers.h"
#include "distance.h"
#include "weights/quant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef SPC_EXACT_EXP2
#define EXP_TOLERANCE 0.0f
#else
#define EXP_TOLERANCE 1e-6f
#endif

/* ---- rows ------------------------------------------------------------------------------------ */

Test(cuda_ops, embed_reads_rows_of_every_type)
{
    static const int32_t cols[] = {1, 7, 8, 96, 321};
    dice d = {1};
    int32_t *token = shared(4 * sizeof *token);

    for (int type = 0; type < 3; type++) {
        for (size_t c = 0; c < sizeof cols / sizeof *cols; c++) {
            spc_matrix packed;
            spc_cuda_matrix m = random_twins(&d, (spc_weight_type)type, 11, cols[c], &packed);
            float *out = shared((size_t)(4 * cols[c]) * sizeof *out);
            spc_embed_args a = {m, token, out, 1.5f, 4, c % 2 ? 4 : 0}; /* a slice, or all */

            for (int32_t r = 0; r < 4; r++) token[r] = (7 * r + 3) % 11;
            wait_for(spc_cuda_embed(&a, NULL), "embed");
            for (int32_t i = 0; i < 4 * cols[c]; i++) {
                int64_t at = (int64_t)(token[i / cols[c]] - a.first) * cols[c] + i % cols[c];

                if (token[i / cols[c]] < a.first) {
                    cr_assert_eq(out[i], 0.0f, "another rank's row");
                    continue;
                }

                const char *element =
                    (const char *)packed.data + at * spc_dtype_bytes(packed.dtype);
                float want;

                spc_dequantise(packed.dtype, element, 1, &want);
                cr_assert_eq(out[i], want * 1.5f, "%s, %d columns",
                             spc_dtype_name(twin_types[type]), (int)cols[c]);
            }
            free_twins(&m, &packed);
            unshare(out);
        }
    }
    unshare(token);
}

Test(cuda_ops, gather_takes_the_rows_it_is_told)
{
    dice d = {2};
    float *in = random_floats(&d, 5 * 300, 1), *out = shared(2 * 300 * sizeof *out);
    int32_t *row = shared(2 * sizeof *row);
    spc_gather_args a = {in, row, out, 0.5f, 2, 300, false};

    row[0] = 4;
    row[1] = 1;
    wait_for(spc_cuda_gather(&a, NULL), "gather");
    for (int32_t i = 0; i < 600; i++) {
        cr_assert_eq(out[i], in[row[i / 300] * 300 + i % 300] * 0.5f);
    }
    unshare(in);
    unshare(out);
    unshare(row);
}

/* Logits of some tokens at their places, of rows in another order. */
Test(cuda_ops, spread_puts_logits_where_their_tokens_are)
{
    enum { IDS = 1000, DRAFTED = 334, WORDS = (IDS + 31) / 32 };
    dice d = {3};
    float *in = random_floats(&d, 2 * DRAFTED, 1), *out = shared(3 * IDS * sizeof *out);
    int32_t *target = shared(2 * sizeof *target);
    spc_subset *subset = shared(WORDS * sizeof *subset);
    spc_spread_args a = {in, subset, target, out, 2, DRAFTED, IDS, false};

    memset(subset, 0, WORDS * sizeof *subset);
    for (int32_t v = 0; v < IDS; v += 3) subset[v / 32].tokens |= 1u << v % 32;
    for (int32_t w = 0; w < WORDS; w++) subset[w].before = (32 * w + 2) / 3;
    for (int32_t i = 0; i < 3 * IDS; i++) out[i] = 5;
    target[0] = 2;
    target[1] = 0;
    wait_for(spc_cuda_spread(&a, NULL), "spread");
    for (int32_t v = 0; v < IDS; v++) {
        cr_assert_eq(out[v], v % 3 ? SPC_LOGIT_NEVER : in[DRAFTED + v / 3]);
        cr_assert_eq(out[IDS + v], 5, "a row that is not wanted");
        cr_assert_eq(out[2 * IDS + v], v % 3 ? SPC_LOGIT_NEVER : in[v / 3]);
    }
    memset(subset, 0, WORDS * sizeof *subset);
    a.drafted = 0;
    wait_for(spc_cuda_spread(&a, NULL), "spread of none");
    for (int32_t i = 0; i < 3 * IDS; i++) {
        cr_assert_eq(out[i], i / IDS == 1 ? 5 : SPC_LOGIT_NEVER);
    }
    a.rows = 0;
    cr_assert_eq(spc_cuda_spread(&a, NULL), cudaErrorInvalidValue);
    unshare(in);
    unshare(out);
    unshare(target);
    unshare(subset);
}

/* Rows of all ids, and slices of them, against the CPU's verb. */
Test(cuda_ops, edits_are_those_of_the_cpu)
{
    enum { ROWS = 5, IDS = 1000, EDITS = 300, MASKS = 2, WORDS = (IDS + 31) / 32 };
    static const int32_t cut[][2] = {{0, IDS}, {0, 333}, {333, 667}, {999, 1}, {IDS, 0}};
    dice d = {4};
    spc_logit_edit *edit = shared(EDITS * sizeof *edit);
    uint32_t *allowed = shared(MASKS * WORDS * sizeof *allowed);
    int32_t *masked = shared(MASKS * sizeof *masked);
    float *before = random_floats(&d, ROWS * IDS, 8), *out = shared(ROWS * IDS * sizeof *out);
    float *want = malloc(ROWS * IDS * sizeof *want);
    spc_edit_list list = {EDITS, edit, MASKS, masked, allowed};

    for (int32_t i = 0; i < EDITS; i++) {
        edit[i] = (spc_logit_edit){i % ROWS, 7 * i % IDS, i % 3 ? 1.3f : 1, (float)(i % 7) - 3};
        if (i % 11 == 0) edit[i].add = -INFINITY;
    }
    before[7] = NAN; /* edited: it stays */
    for (int32_t i = 0; i < MASKS * WORDS; i++) allowed[i] = 0x9e3779b9u * (uint32_t)(i + 1);
    masked[0] = 3;
    masked[1] = 1;
    memcpy(want, before, ROWS * IDS * sizeof *want);
    spc_cpu_edit(want, IDS, &list);
    for (size_t c = 0; c < sizeof cut / sizeof *cut; c++) {
        int32_t first = cut[c][0], width = cut[c][1];
        spc_edit_args a = {out, edit, masked, allowed, EDITS, MASKS, WORDS, first, width};

        for (int32_t i = 0; i < ROWS * width; i++) {
            out[i] = before[i / width * IDS + first + i % width];
        }
        wait_for(spc_cuda_edit(&a, NULL), "edit");
        for (int32_t i = 0; i < ROWS * width; i++) {
            float expected = want[i / width * IDS + first + i % width];

            cr_assert(memcmp(&out[i], &expected, sizeof expected) == 0 ||
                          (isnan(out[i]) && isnan(expected)),
                      "slice %d, %d: %g, %g", (int)c, (int)i, (double)out[i], (double)expected);
        }
        a.edits = 0; /* masks alone, and nothing at all */
        wait_for(spc_cuda_edit(&a, NULL), "masks");
        a.masks = 0;
        wait_for(spc_cuda_edit(&a, NULL), "nothing");
        a.masks = MASKS;
        a.words = 3;
        if (width > 1) cr_expect_eq(spc_cuda_edit(&a, NULL), cudaErrorInvalidValue);
    }
    free(want);
    unshare(edit);
    unshare(allowed);
    unshare(masked);
    unshare(before);
    unshare(out);
}

Test(cuda_ops, norm_is_that_of_the_cpu_with_and_without_a_sum)
{
    static const int32_t dims[] = {1, 31, 96, 257, 2048, 4096, 4097, 8200};
    enum { ROWS = 3 };
    dice d = {3};

    for (size_t k = 0; k < 2 * sizeof dims / sizeof *dims; k++) {
        int32_t dim = dims[k / 2];
        size_t count = (size_t)(ROWS * dim);
        float *x = random_floats(&d, count, 3), *y = random_floats(&d, count, 1);
        float *weight = random_floats(&d, (size_t)dim, 1), *out = shared(count * sizeof *out);
        float *sum = malloc(count * sizeof *sum), *expected = malloc(count * sizeof *expected);
        spc_norm_args a = {x, NULL, NULL, weight, out, 1e-5f, ROWS, dim, false};

        if (k % 2) a.b = y;
        if (k % 2) a.sum = x; /* in place, as residual sums are */
        for (size_t i = 0; i < count; i++) sum[i] = k % 2 ? x[i] + y[i] : x[i];
        for (int32_t r = 0; r < ROWS; r++) {
            spc_cpu_portable.norm(sum + r * dim, weight, dim, 1e-5f, expected + r * dim);
        }
        wait_for(spc_cuda_norm(&a, NULL), "norm");
        cr_assert(memcmp(x, sum, count * sizeof *x) == 0, "the sum has the CPU's bits");
        cr_assert_leq(relative_distance(out, expected, count), 1e-6f, "%d", (int)dim);
        unshare(x);
        unshare(y);
        unshare(weight);
        unshare(out);
        free(sum);
        free(expected);
    }
}

Test(cuda_ops, sums_and_gates_are_those_of_the_cpu)
{
    enum { ROWS = 3, DIM = 301, COUNT = ROWS * DIM };
    dice d = {4};
    float *in = random_floats(&d, 2 * COUNT, 4), *out = shared(COUNT * sizeof *out);
    float expected[COUNT];
    spc_glu_args a = {in, out, SPC_GLU_SILU, ROWS, DIM, DIM, false};
    spc_add_args add = {in, in + COUNT, out, COUNT, false};

    in[0] = 100.0f;
    in[1] = -100.0f;
    in[2] = INFINITY;
    in[5] = NAN;
    for (int kind = 0; kind < 2; kind++) {
        a.kind = kind ? SPC_GLU_GELU_TANH : SPC_GLU_SILU;
        wait_for(spc_cuda_glu(&a, NULL), "glu");
        for (int32_t r = 0; r < ROWS; r++) {
            const float *gate = in + r * 2 * DIM;

            spc_cpu_portable.glu(kind ? SPC_ACT_GELU_TANH : SPC_ACT_SILU, gate, gate + DIM, DIM,
                                 expected + r * DIM);
        }
        for (int32_t i = 0; i < COUNT; i++) {
            float off = fabsf(out[i] - expected[i]);

            cr_assert(out[i] == expected[i] || off <= EXP_TOLERANCE * fabsf(expected[i]) ||
                          (isnan(out[i]) && isnan(expected[i])),
                      "%d, %d: %g, not %g", kind, (int)i, (double)out[i], (double)expected[i]);
        }
    }
    a.kind = SPC_GLU_RELU;
    wait_for(spc_cuda_glu(&a, NULL), "relu");
    cr_assert(isnan(out[5]), "NaN is not hidden");
    for (int32_t i = 6; i < COUNT; i++) cr_assert_eq(out[i], in[i] < 0.0f ? 0.0f : in[i]);
    for (int32_t i = 0; i < COUNT; i++) out[i] = 7.0f;
    a.dim = DIM - 1; /* rows further apart than they are wide */
    wait_for(spc_cuda_glu(&a, NULL), "relu");
    for (int32_t i = 6; i < COUNT; i++) {
        const float x = in[i / DIM * (DIM - 1) + i % DIM];

        cr_assert_eq(out[i], i % DIM == DIM - 1 ? 7.0f : x < 0.0f ? 0.0f : x);
    }
    a.dim = DIM + 1;
    cr_expect_eq(spc_cuda_glu(&a, NULL), cudaErrorInvalidValue, "rows that overlap");
    wait_for(spc_cuda_add(&add, NULL), "add");
    for (int32_t i = 6; i < COUNT; i++) cr_assert_eq(out[i], in[i] + in[COUNT + i]);
    unshare(in);
    unshare(out);
}

/* ---- before attention ------------------------------------------------------------------------ */

typedef struct {
    int32_t heads, kv_heads, head_dim;
    bool norm, rotate, cache;
    int32_t pairs;
    bool scale;
} rope_case;

/* The loops of backend_cpu.c. */
static void rope_on_cpu(const spc_rope_args *a, const int32_t *position, float *qkv)
{
    int32_t half = a->pairs > 0 ? a->pairs : a->head_dim / 2;

    for (int32_t r = 0; r < a->rows; r++) {
        float *head = qkv + (int64_t)r * a->width;

        for (int32_t h = 0; h < a->heads + a->kv_heads; h++, head += a->head_dim) {
            if (a->query_weight) {
                spc_cpu_portable.norm(head, h < a->heads ? a->query_weight : a->key_weight,
                                      a->head_dim, a->eps, head);
            }
            for (int32_t k = 0; a->cosine && k < half; k++) {
                float c = a->cosine[position[r] * half + k], s = a->sine[position[r] * half + k];
                float x = head[k], y = head[k + half];

                head[k] = x * c - y * s;
                head[k + half] = y * c + x * s;
            }
            for (int32_t k = 0; a->query_scale && h < a->heads && k < a->head_dim; k++) {
                head[k] *= a->query_scale[position[r]];
            }
        }
    }
}

static void check_rope(const rope_case *c, spc_weight_type type, dice *d)
{
    enum { ROWS = 5, CONTEXT = 19, SLOTS = 2, WIDTH = 2, PAGES = SLOTS * WIDTH };
    static const int32_t pages[SLOTS][WIDTH] = {{2, 0}, {3, 1}};
    int32_t width = (c->heads + 2 * c->kv_heads) * c->head_dim;
    int32_t half = c->pairs > 0 ? c->pairs : c->head_dim / 2;
    size_t count = (size_t)(ROWS * width);
    size_t page = (size_t)(c->kv_heads * SPC_CUDA_PAGE_TOKENS * c->head_dim);
    float *qkv = random_floats(d, count, 1), *expected = malloc(count * sizeof *expected);
    float *weights = random_floats(d, (size_t)(2 * c->head_dim), 1);
    float *angles = random_floats(d, (size_t)(2 * CONTEXT * half), 1);
    float *scales = random_floats(d, CONTEXT, 1);
    char *cache = shared(2 * PAGES * page * sizeof(float)),
         *written = malloc(4 * SPC_ATTEND_HEAD_DIM);
    int32_t *where = shared(2 * ROWS * sizeof *where), *table = shared(sizeof pages);
    spc_rope_args a = {.qkv = qkv,
                       .slot = where,
                       .position = where + ROWS,
                       .eps = 1e-6f,
                       .rows = ROWS,
                       .width = width,
                       .heads = c->heads,
                       .kv_heads = c->kv_heads,
                       .head_dim = c->head_dim,
                       .pairs = c->pairs};

    if (c->norm) a.query_weight = weights;
    if (c->norm) a.key_weight = weights + c->head_dim;
    if (c->rotate) a.cosine = angles;
    if (c->rotate) a.sine = angles + CONTEXT * half;
    if (c->scale) a.query_scale = scales;
    if (c->cache) {
        a.cache = (spc_cuda_pages){
            cache, cache + PAGES * page * sizeof(float), table, WIDTH, (int64_t)page, type};
    }
    memcpy(table, pages, sizeof pages);
    for (int32_t r = 0; r < ROWS; r++) where[r] = r % SLOTS;
    for (int32_t r = 0; r < ROWS; r++) where[ROWS + r] = r + 14; /* in both pages */
    memcpy(expected, qkv, count * sizeof *qkv);
    rope_on_cpu(&a, where + ROWS, expected);
    wait_for(spc_cuda_rope(&a, NULL), "rope");
    cr_assert_leq(relative_distance(qkv, expected, count), 1e-6f);
    for (int32_t r = 0; r < ROWS && c->cache; r++) {
        for (int32_t h = 0; h < 2 * c->kv_heads; h++) {
            int32_t head = c->heads + h;
            const float *from = qkv + (int64_t)r * width + (int64_t)head * c->head_dim;
            int32_t position = where[ROWS + r], place = position % SPC_CUDA_PAGE_TOKENS;
            size_t in = (size_t)pages[where[r]][position / SPC_CUDA_PAGE_TOKENS];
            size_t at = (size_t)(h % c->kv_heads * SPC_CUDA_PAGE_TOKENS + place);
            const spc_kv *kv = host_type(&a.cache);
            const char *to = spc_kv_at(kv, h < c->kv_heads ? a.cache.key : a.cache.value,
                                       (int64_t)(in * page + at * (size_t)c->head_dim));

            spc_kv_write(kv, written, 0, from, c->head_dim);
            cr_assert(
                memcmp(to, written, (size_t)(spc_kv_at(kv, written, c->head_dim) - written)) == 0);
        }
    }
    free(expected);
    free(written);
    unshare(qkv);
    unshare(weights);
    unshare(angles);
    unshare(scales);
    unshare(cache);
    unshare(where);
    unshare(table);
}

Test(cuda_ops, heads_are_normed_rotated_and_cached)
{
    static const rope_case cases[] = {
        {4, 2, 16, false, true, true, 0, false},  {4, 2, 16, true, true, true, 0, false},
        {3, 1, 2, true, true, true, 0, false},    {2, 2, 80, false, true, true, 0, false},
        {8, 1, 256, true, true, true, 0, false},  {4, 4, 32, false, false, true, 0, false},
        {0, 4, 32, false, false, true, 0, false}, {5, 1, 64, true, true, false, 0, false},
        {6, 3, 96, true, false, false, 0, false}, {4, 2, 128, false, true, true, 48, false},
        {4, 2, 16, true, true, true, 1, false},   {2, 1, 256, true, true, true, 127, false},
        {4, 2, 32, false, true, true, 0, true},   {3, 1, 80, true, true, true, 7, true}};
    dice d = {5};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int t = 0; t < CACHE_TYPES; t++) check_rope(&cases[i], cache_types[t], &d);
    }
}

/* ---- refusals ---------------------------------------------------------------------------------
 */

Test(cuda_ops, launchers_refuse_what_they_have_no_kernel_for)
{
    static float x[64];
    static int32_t zero[4];
    static spc_attend_tile tile = {0, 1};
    spc_cuda_matrix m = {.data = x, .type = SPC_WEIGHT_F32, .rows = 4, .cols = 6, .stride = 8};
    spc_linear_args linear = {.part = {m}, .in = x, .out = x, .parts = 1, .rows = 1, .width = 4};
    spc_embed_args embed = {m, zero, x, 1, 1, 0};
    spc_rope_args rope = {.qkv = x,
                          .position = zero,
                          .rows = 1,
                          .width = 8,
                          .heads = 1,
                          .kv_heads = 1,
                          .head_dim = 3};
    spc_attend_args attend = {.query = x,
                              .cache = {x, x, zero, 1, 0, SPC_WEIGHT_F32},
                              .slot = zero,
                              .position = zero,
                              .seen = zero,
                              .tile = &tile,
                              .out = x,
                              .workspace = x,
                              .rows = 1,
                              .tiles = 1,
                              .width = 512,
                              .out_width = 512,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 257,
                              .context = 4,
                              .most_seen = 1};

    linear.part[0].stride = 6; /* rows that are not aligned */
    cr_expect_eq(spc_cuda_linear_row(&linear, NULL), cudaErrorInvalidValue);
    linear.part[0].stride = 8;
    linear.rows = 0;
    cr_expect_eq(spc_cuda_linear_row(&linear, NULL), cudaErrorInvalidValue);
    embed.table.type = SPC_WEIGHT_COUNT;
    cr_expect_eq(spc_cuda_embed(&embed, NULL), cudaErrorInvalidValue);
    cr_expect_eq(spc_cuda_rope(&rope, NULL), cudaErrorInvalidValue, "an odd head");
    cr_expect_eq(spc_cuda_attend(&attend, NULL), cudaErrorInvalidValue, "a head too large");
    attend.head_dim = 64;
    attend.most_seen = 5;
    cr_expect_eq(spc_cuda_attend(&attend, NULL), cudaErrorInvalidValue, "beyond the context");
    attend.most_seen = 1;
    attend.out_width = 63;
    cr_expect_eq(spc_cuda_attend(&attend, NULL), cudaErrorInvalidValue, "rows that overlap");
    attend.out_width = 64;
    attend.cache.type = SPC_WEIGHT_Q8_0;
    cr_expect_eq(spc_cuda_attend(&attend, NULL), cudaErrorInvalidValue, "quantised keys");
    rope.head_dim = 2;
    rope.query_scale = x;
    cr_expect_eq(spc_cuda_rope(&rope, NULL), cudaErrorInvalidValue, "a scale of what stays");
    rope.query_scale = NULL;
    rope.slot = zero;
    rope.cache = attend.cache;
    cr_expect_eq(spc_cuda_rope(&rope, NULL), cudaErrorInvalidValue, "quantised keys");
}
