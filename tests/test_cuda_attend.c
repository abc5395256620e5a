/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_attend.c - attention on the device against the loops of the CPU backend, which define
 * it, and with what comes before it in one launch.
 *
 * Built twice: against the device, and against tests/fibers, where launches are counted. */
#include "cuda/ops.h"
#include "host/cpu/cpu_kernels.h"
#include "host/kv.h"

#include "deals.h"
#include "device_caches.h"
#include "device_layers.h"
#include "distance.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int32_t heads, kv_heads, head_dim, context, window;
    int32_t rows[2], first[2]; /* of two slots: how many rows, position of the first */
    float cap;
    bool bias, memory;
} attend_case;

/* Where a row of keys begins. */
static int64_t row_of(const spc_cuda_pages *cache, int32_t head_dim, int32_t slot, int32_t head,
                      int32_t position)
{
    int32_t page = cache->table[slot * cache->width + position / SPC_CUDA_PAGE_TOKENS];
    int32_t row = head * SPC_CUDA_PAGE_TOKENS + position % SPC_CUDA_PAGE_TOKENS;

    return page * cache->stride + (int64_t)row * head_dim;
}

/* Set an entry of keys or values. */
static void put_entry(const spc_cuda_pages *cache, void *data, int64_t at, float x)
{
    spc_kv_write(host_type(cache), data, at, &x, 1);
}

enum { BESIDE = 5 }; /* entries of a row of out that attention leaves alone */

static float *workspace_of(int32_t rows, const attend_case *c)
{
    float *workspace = on_device(
        (size_t)spc_cuda_attend_workspace(rows, c->heads, c->head_dim, c->context) * sizeof(float));

    ok(spc_cuda_attend_workspace_init(workspace, NULL), "workspace");
    return workspace;
}

/* Arguments over random keys and values; positions that no row sees hold NaN. */
static spc_attend_args attend_args(const attend_case *c, spc_weight_type type, dice *d)
{
    int32_t rows = c->rows[0] + c->rows[1], most = 0, tiles = 0;
    int32_t width = (c->heads + 2 * c->kv_heads) * c->head_dim;
    int32_t tile_rows = spc_cuda_attend_tile_rows(c->heads, c->kv_heads, c->head_dim);
    int32_t out_width = c->heads * c->head_dim + BESIDE;
    int32_t pages = (c->context + SPC_CUDA_PAGE_TOKENS - 1) / SPC_CUDA_PAGE_TOKENS;
    int64_t page = (int64_t)c->kv_heads * SPC_CUDA_PAGE_TOKENS * c->head_dim;
    size_t bytes = (size_t)(2 * pages * page) * (type == SPC_WEIGHT_F32 ? 4 : 2);
    void *key = shared(bytes), *value = shared(bytes);
    int32_t *table = shared((size_t)(2 * pages) * sizeof *table);
    spc_cuda_pages cache = {key, value, table, pages, page, type};
    int32_t *where = shared((size_t)(3 * rows) * sizeof *where);
    spc_attend_tile *tile = shared((size_t)rows * sizeof *tile);

    for (int32_t i = 0; i < 2 * pages; i++) table[i] = 2 * pages - 1 - i; /* the last one first */
    for (int32_t s = 0, r = 0; s < 2; s++) {
        int32_t seen = c->first[s] + c->rows[s];

        for (int32_t i = 0; i < seen * c->kv_heads; i++) {
            int64_t at = row_of(&cache, c->head_dim, s, i % c->kv_heads, i / c->kv_heads);

            for (int32_t k = 0; k < c->head_dim; k++) {
                put_entry(&cache, key, at + k, (float)dice_gauss(d));
                put_entry(&cache, value, at + k, (float)dice_gauss(d));
            }
        }
        for (int32_t i = 0; i < c->rows[s]; i++, r++) {
            where[r] = s;
            where[rows + r] = c->first[s] + i;
            where[2 * rows + r] = c->memory ? seen : c->first[s] + i + 1;
            if (i % tile_rows == 0) tile[tiles++] = (spc_attend_tile){r, 0};
            tile[tiles - 1].rows++;
            most = where[2 * rows + r] > most ? where[2 * rows + r] : most;
        }
    }
    return (spc_attend_args){
        .query = random_floats(d, (size_t)(rows * width), 1),
        .cache = cache,
        .bias = c->bias ? random_floats(d, (size_t)(c->heads * (2 * c->context - 1)), 1) : NULL,
        .slot = where,
        .position = where + rows,
        .seen = where + 2 * rows,
        .tile = tile,
        .out = shared((size_t)(rows * out_width) * sizeof(float)),
        .workspace = workspace_of(rows, c),
        .scale = 0.3f,
        .cap = c->cap,
        .rows = rows,
        .tiles = tiles,
        .width = width,
        .out_width = out_width,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .context = c->context,
        .window = c->window,
        .most_seen = most,
        .apart = c->rows[0] <= tile_rows && c->rows[1] <= tile_rows};
}

static void free_attend(spc_attend_args *a)
{
    const void *all[] = {a->query, a->cache.key, a->cache.value, a->cache.table, a->bias,
                         a->slot,  a->tile,      a->out,         a->workspace};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) unshare((void *)(uintptr_t)all[i]);
}

/* One head of one row, as backend_cpu.c does it. */
static void attend_on_cpu(const spc_attend_args *a, int32_t row, int32_t head, float *out)
{
    int32_t seen = a->seen[row], first = a->window > 0 && seen > a->window ? seen - a->window : 0;
    int64_t at = row_of(&a->cache, a->head_dim, 0, head / (a->heads / a->kv_heads), 0) -
                 row_of(&a->cache, a->head_dim, 0, 0, 0);
    const spc_kv *kv = host_type(&a->cache);
    spc_cpu_pages pages = {.key = spc_kv_at(kv, a->cache.key, at),
                           .value = spc_kv_at(kv, a->cache.value, at),
                           .dtype = kv->type,
                           .page = a->cache.table + a->slot[row] * a->cache.width,
                           .stride = a->cache.stride};
    const float *bias = a->bias ? a->bias + head * (2 * (int64_t)a->context - 1) + a->context - 1 -
                                      a->position[row] + first
                                : NULL;
    float *scores = malloc((size_t)seen * sizeof *scores);
    spc_cpu_query query = {
        a->query + (int64_t)row * a->width + head * a->head_dim, first, seen, bias, scores, out};

    spc_cpu_portable.attend(&query, 1, &pages, a->head_dim, a->scale, a->cap);
    free(scores);
}

static const attend_case attend_cases[] = {
    {4, 4, 16, 40, 0, {1, 0}, {0, 0}, 0, false, false},
    {4, 2, 64, 320, 0, {6, 1}, {200, 319}, 0, false, false}, /* up to the last page */
    {8, 1, 128, 300, 0, {9, 7}, {127, 250}, 0, false, false},
    {6, 3, 80, 300, 37, {6, 3}, {250, 10}, 30, false, false},
    {7, 1, 2, 300, 1, {2, 2}, {31, 128}, 0, false, false},
    {40, 1, 32, 130, 0, {3, 1}, {100, 60}, 0, false, false},
    {2, 1, 256, 300, 130, {6, 16}, {255, 100}, 50, false, false},
    {18, 2, 192, 140, 0, {2, 3}, {130, 0}, 0, false, false},
    {4, 4, 32, 140, 0, {6, 1}, {128, 20}, 0, true, false},
    {4, 4, 32, 140, 0, {9, 5}, {0, 0}, 0, true, true},
    {4, 2, 48, 5000, 0, {2, 1}, {4000, 4990}, 0, false, false},
    {512, 512, 16, 140, 0, {1, 1}, {129, 70}, 0, false, false},   /* strips that walk */
    {128, 128, 16, 700, 450, {1, 1}, {699, 99}, 0, false, false}, /* whose warps take turns */
    {40, 1, 20, 130, 0, {3, 1}, {100, 60}, 0, false, false},      /* 16 bytes of floats alone */
    {4, 2, 20, 130, 0, {12, 1}, {100, 60}, 0, false, false},      /* ... in several tiles */
    {120, 120, 16, 300, 0, {1, 1}, {299, 70}, 0, false, false}, /* as many tiles as can be joined */
    {14, 2, 64, 1100, 0, {1, 6}, {1090, 255}, 0, false, false}, /* one row, joined at once */
};
enum { ATTEND_CASES = CACHE_TYPES * sizeof attend_cases / sizeof *attend_cases };

static void expect_as_on_cpu(const attend_case *c, spc_weight_type type, dice *d, const char *what)
{
    spc_attend_args a = attend_args(c, type, d);
    float expected[SPC_ATTEND_HEAD_DIM];

    for (int32_t i = 0; i < a.rows * a.out_width; i++) a.out[i] = 7.0f;
    wait_for(spc_cuda_attend(&a, NULL), "attend");
    for (int32_t i = 0; i < a.rows * BESIDE; i++) {
        cr_assert_eq(a.out[(i / BESIDE + 1) * a.out_width - BESIDE + i % BESIDE], 7.0f, "%s", what);
    }
    for (int32_t i = 0; i < a.rows * a.heads; i++) {
        attend_on_cpu(&a, i / a.heads, i % a.heads, expected);
        float off = relative_distance(a.out + i / a.heads * (int64_t)a.out_width +
                                          i % a.heads * (int64_t)a.head_dim,
                                      expected, (size_t)a.head_dim);

        /* a score is cut off two or three times for every 8 of its columns */
        cr_assert_leq(off, 4e-5f, "%s, row %d, head %d: off by %g", what, (int)(i / a.heads),
                      (int)(i % a.heads), (double)off);
    }
    free_attend(&a);
}

/* In forms that take their time, each case with one of the types here, and with the two others
 * below, where what comes before goes along. */
Test(cuda_attend, attention_is_that_of_the_cpu)
{
    dice d = {6};

    for (size_t k = 0; k < ATTEND_CASES; k++) {
        char what[32];

        if (SPC_TAKES_TIME && k % CACHE_TYPES != (k / CACHE_TYPES + 2) % CACHE_TYPES) continue;
        (void)snprintf(what, sizeof what, "case %d", (int)k);
        expect_as_on_cpu(&attend_cases[k / CACHE_TYPES], cache_types[k % CACHE_TYPES], &d, what);
    }
}

/* The bits of rows by themselves.  In emulation a row takes its time: of so many it is one, the
 * first of them `row`. */
static void expect_same_alone(const attend_case *c, spc_weight_type type, dice *d, int32_t row,
                              int32_t stride, const char *what)
{
    spc_attend_args a = attend_args(c, type, d), one = a;
    size_t bytes = (size_t)(a.heads * a.head_dim) * sizeof(float);
    size_t width = (size_t)a.out_width * sizeof(float);
    float *together = malloc((size_t)a.rows * width);

    wait_for(spc_cuda_attend(&a, NULL), "attend");
    memcpy(together, a.out, (size_t)a.rows * width);
    for (int32_t r = row; r < a.rows; r += stride) {
        one.query = a.query + (int64_t)r * a.width;
        one.slot = a.slot + r;
        one.position = a.position + r;
        one.seen = a.seen + r;
        one.most_seen = a.seen[r];
        one.rows = one.tiles = 1;
        *(spc_attend_tile *)(uintptr_t)one.tile = (spc_attend_tile){0, 1};
        wait_for(spc_cuda_attend(&one, NULL), "attend");
        cr_assert(memcmp(one.out, (char *)together + (size_t)r * width, bytes) == 0, "%s, row %d",
                  what, (int)r);
    }
    free(together);
    free_attend(&a);
}

Test(cuda_attend, attention_of_a_row_does_not_depend_on_its_company)
{
    dice d = {7};

    for (int32_t k = 0; k < (int32_t)ATTEND_CASES; k++) {
        int32_t type = k % CACHE_TYPES; /* all rows of one, a third of the others */
        char what[32];

        if (SPC_TAKES_TIME && type != k / CACHE_TYPES % CACHE_TYPES) continue;
        (void)snprintf(what, sizeof what, "case %d", (int)k);
        expect_same_alone(&attend_cases[k / CACHE_TYPES], cache_types[type], &d, type,
                          type > 0 ? CACHE_TYPES : 1, what);
    }
}

/* The keys that break lie in a step which others of a strip see all of: from row `from` on it is
 * seen, or up to row `to`. */
Test(cuda_attend, a_broken_key_breaks_the_rows_that_see_it_and_no_others)
{
    static const struct {
        attend_case c;
        int32_t key, from, to;
    } cases[] = {
        {{4, 2, 64, 300, 0, {6, 0}, {204, 0}, 0, false, false}, 207, 3, 5},
        {{4, 2, 64, 300, 0, {6, 0}, {204, 0}, 30, false, false}, 207, 3, 5},
        {{4, 2, 64, 300, 37, {6, 0}, {204, 0}, 0, false, false}, 170, 0, 2},
        {{256, 256, 16, 60, 0, {6, 0}, {44, 0}, 0, false, false}, 47, 3, 5}, /* that walk */
        {{256, 256, 16, 60, 20, {6, 0}, {44, 0}, 0, false, false}, 27, 0, 2},
    };
    /* 70000 is no half: a half overflows */
    static const float keys[] = {NAN, 1, NAN, 70000, 1}, values[] = {NAN, NAN, 1, 1, 70000};
    enum { KINDS = 5, CASES = sizeof cases / sizeof *cases };

    for (int n = 0; n < CACHE_TYPES * CASES * KINDS; n++) {
        const int32_t k = n / KINDS % CASES, sharing = cases[k].c.heads / cases[k].c.kv_heads;
        dice d = {8};
        spc_attend_args a = attend_args(&cases[k].c, cache_types[n / KINDS / CASES], &d);
        int64_t at = row_of(&a.cache, a.head_dim, 0, 0, cases[k].key);
        bool breaks = n % KINDS < 3 || a.cache.type == SPC_WEIGHT_F16;

        put_entry(&a.cache, a.cache.key, at + 5, keys[n % KINDS]);
        put_entry(&a.cache, a.cache.value, at + 9, values[n % KINDS]);
        wait_for(spc_cuda_attend(&a, NULL), "attend");
        for (int32_t i = 0; i < a.rows * a.heads * a.head_dim; i++) {
            int32_t row = i / (a.heads * a.head_dim), head = i / a.head_dim % a.heads;
            bool sees = row >= cases[k].from && row <= cases[k].to && head < sharing;
            float out = a.out[row * a.out_width + i % (a.heads * a.head_dim)];

            cr_assert_eq(isnan(out) != 0, breaks && sees, "%d: row %d, head %d", n, (int)row,
                         (int)head);
        }
        free_attend(&a);
    }
}

/* Of one key before the last, and of one head. */
Test(cuda_attend, a_broken_bias_breaks_its_head_alone)
{
    static const attend_case c = {4, 2, 64, 300, 0, {6, 0}, {204, 0}, 0, true, false};

    for (int n = 0; n < CACHE_TYPES; n++) {
        dice d = {8};
        spc_attend_args a = attend_args(&c, cache_types[n], &d);

        ((float *)(uintptr_t)a.bias)[1 * (2 * c.context - 1) + c.context - 2] = NAN;
        wait_for(spc_cuda_attend(&a, NULL), "attend");
        for (int32_t i = 0; i < a.rows * a.heads; i++) {
            float out = a.out[i / a.heads * a.out_width + i % a.heads * a.head_dim];

            cr_assert_eq(isnan(out) != 0, i % a.heads == 1, "%d: row %d, head %d", n,
                         (int)(i / a.heads), (int)(i % a.heads));
        }
        free_attend(&a);
    }
}

/* ---- with what comes before ------------------------------------------------------------------ */

static int32_t pages_of(const spc_attend_args *a)
{
    return 2 * a->cache.width;
}

static size_t cache_bytes(const spc_attend_args *a)
{
    return (size_t)(pages_of(a) * a->cache.stride) * (a->cache.type == SPC_WEIGHT_F32 ? 4 : 2);
}

/* Forget the keys and values of the rows. */
static void forget_rows(const spc_attend_args *a)
{
    for (int32_t i = 0; i < a->rows * a->kv_heads; i++) {
        int32_t row = i / a->kv_heads;
        int64_t at =
            row_of(&a->cache, a->head_dim, a->slot[row], i % a->kv_heads, a->position[row]);

        for (int32_t k = 0; k < a->head_dim; k++) {
            put_entry(&a->cache, a->cache.key, at + k, NAN);
            put_entry(&a->cache, a->cache.value, at + k, NAN);
        }
    }
}

/* What comes before: kind & 1: norms, kind & 2: rotation; the write to the cache. */
static spc_rope_args before(const spc_attend_args *a, int kind, dice *d)
{
    spc_rope_args rope = {.qkv = (float *)(uintptr_t)a->query,
                          .cache = a->cache,
                          .slot = a->slot,
                          .position = a->position,
                          .eps = 1e-6f,
                          .rows = a->rows,
                          .width = a->width,
                          .heads = kind ? a->heads : 0,
                          .kv_heads = a->kv_heads,
                          .head_dim = a->head_dim};
    size_t angles = (size_t)(a->context * (a->head_dim / 2));

    /* of a head a part, sometimes */
    if (kind & 2 && a->head_dim > 2) rope.pairs = dice_below(d, a->head_dim / 2);

    if (kind & 1) rope.query_weight = random_floats(d, (size_t)a->head_dim, 1);
    if (kind & 1) rope.key_weight = random_floats(d, (size_t)a->head_dim, 1);
    if (kind & 2) rope.cosine = random_floats(d, angles, 1);
    if (kind & 2) rope.sine = random_floats(d, angles, 1);
    if (kind & 2 && dice_below(d, 2)) rope.query_scale = random_floats(d, (size_t)a->context, 1);
    return rope;
}

static void free_before(spc_rope_args *rope)
{
    const void *all[] = {rope->query_weight, rope->key_weight, rope->cosine, rope->sine,
                         rope->query_scale};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i]) unshare((void *)(uintptr_t)all[i]);
    }
}

/* No block is waited for in the next launch. */
static void expect_no_tickets(const spc_attend_args *a)
{
    uint32_t ticket[256];

    ok(cudaMemcpy(ticket, a->workspace, sizeof ticket, cudaMemcpyDeviceToHost), "tickets");
    for (int i = 0; i < 256; i++) cr_assert_eq(ticket[i], 0, "ticket %d", i);
}

/* Outputs and caches of two launches behind each other, of both together, and of both once more. */
static void expect_same_together(const attend_case *c, spc_weight_type type, int kind, dice *d,
                                 const char *what)
{
    spc_attend_args a = attend_args(c, type, d);
    spc_rope_args rope = before(&a, kind, d);
    size_t in = (size_t)(a.rows * a.width) * sizeof(float), cached = cache_bytes(&a);
    size_t out = (size_t)(a.rows * a.out_width) * sizeof(float);
    char *query = malloc(in), *key = malloc(cached), *value = malloc(cached), *want = malloc(out);

    memcpy(query, a.query, in);
    forget_rows(&a);
    wait_for(spc_cuda_rope(&rope, NULL), "rope");
    wait_for(spc_cuda_attend(&a, NULL), "attend");
    memcpy(key, a.cache.key, cached);
    memcpy(value, a.cache.value, cached);
    memcpy(want, a.out, out);
    for (int again = 0; again < 2; again++) {
        memcpy(rope.qkv, query, in);
        forget_rows(&a);
        memset(a.out, 0xff, out);
        wait_for(spc_cuda_rope_attend(&rope, &a, NULL), "both");
        cr_assert(memcmp(a.cache.key, key, cached) == 0, "%s: keys", what);
        cr_assert(memcmp(a.cache.value, value, cached) == 0, "%s: values", what);
        for (int32_t i = 0; i < a.rows * a.heads * a.head_dim; i++) {
            int32_t row = i / (a.heads * a.head_dim), column = i % (a.heads * a.head_dim);
            size_t at = (size_t)(row * a.out_width + column) * sizeof(float);

            cr_assert(memcmp((char *)a.out + at, want + at, sizeof(float)) == 0, "%s: row %d, %d",
                      what, (int)row, (int)column);
        }
        expect_no_tickets(&a);
    }
    free(query);
    free(key);
    free(value);
    free(want);
    free_before(&rope);
    free_attend(&a);
}

Test(cuda_attend, what_comes_before_goes_along_to_the_same_bits)
{
    dice d = {9};

    for (size_t k = 0; k < ATTEND_CASES / CACHE_TYPES; k++) {
        const attend_case *c = &attend_cases[k];
        char what[32];

        if (c->memory) continue; /* of every case two types and two kinds */
        (void)snprintf(what, sizeof what, "case %d", (int)k);
        expect_same_together(c, cache_types[k % CACHE_TYPES], (int)(k + 3) % 4, &d, what);
        expect_same_together(c, cache_types[(k + 1) % CACHE_TYPES], (int)(k + 2) % 4, &d, what);
    }
}

/* ---- as dice deal them ----------------------------------------------------------------------- */

static attend_case deal_case(dice *d)
{
    static const int32_t dims[] = {2, 16, 20, 48, 64, 80, 96, 128, 192, 256};
    static const int32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16, 40};
    attend_case c = {.head_dim = dims[dice_below(d, 10)], .kv_heads = 1 + dice_below(d, 4)};

    if (dice_below(d, 8) == 0) c.kv_heads = 60 + dice_below(d, 80);
    c.heads = c.kv_heads * (c.kv_heads > 4 ? 1 : groups[dice_below(d, 9)]);
    c.context = 1 + dice_below(d, dice_below(d, 4) == 0 ? 2500 : 400);
    if (dice_below(d, 3) == 0) c.window = 1 + dice_below(d, c.context);
    if (dice_below(d, 4) == 0) c.cap = 20 + (float)dice_below(d, 30);
    c.bias = dice_below(d, 4) == 0;
    c.memory = dice_below(d, 6) == 0;
    for (int32_t s = 0; s < 2; s++) {
        int32_t most = dice_below(d, 3) == 0 ? 20 : 6;

        most = most < c.context ? most : c.context;
        c.rows[s] = s + dice_below(d, most + 1 - s);
        c.first[s] = dice_below(d, c.context - c.rows[s] + 1);
    }
    return c;
}

#ifdef SPC_LOOKED_AT
enum { DEALS = 5 };
#else
enum { DEALS = 12 };
#endif

Test(cuda_attend, dealt_cases, .timeout = 3000)
{
    for (uint64_t seed = deals_first(); seed <= deals_last(DEALS); seed++) {
        dice d = {seed};
        attend_case c = deal_case(&d);
        spc_weight_type type = cache_types[seed % CACHE_TYPES];
        char what[160];

        (void)snprintf(
            what, sizeof what,
            "SPC_DEALT=%d (%d / %d heads of %d, context %d, window %d, rows %d at %d, %d "
            "at %d)",
            (int)seed, (int)c.heads, (int)c.kv_heads, (int)c.head_dim, (int)c.context,
            (int)c.window, (int)c.rows[0], (int)c.first[0], (int)c.rows[1], (int)c.first[1]);
        expect_as_on_cpu(&c, type, &d, what);
        expect_same_alone(&c, type, &d, dice_below(&d, c.rows[0] + c.rows[1]), 5, what);
        if (!c.memory) expect_same_together(&c, type, dice_below(&d, 4), &d, what);
    }
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
Test(cuda_attend, rows_that_are_few_take_one_launch)
{
    static const struct {
        attend_case c;
        int launches;
        const char *what;
    } cases[] = {
        {{14, 2, 64, 2048, 0, {1, 0}, {1000, 0}, 0, false, false}, 1, "one row"},
        {{14, 2, 64, 2048, 0, {1, 1}, {1000, 20}, 0, false, false}, 1, "of each of two"},
        {{14, 2, 64, 2048, 0, {6, 6}, {200, 3}, 0, false, false}, 1, "rows of a round"},
        {{14, 2, 64, 2048, 0, {6, 1}, {1000, 20}, 0, false, false}, 2, "too many to join"},
        {{14, 2, 64, 2048, 0, {10, 1}, {1000, 20}, 0, false, false}, 3, "a slot of two tiles"},
        {{40, 1, 128, 2048, 0, {1, 1}, {30, 20}, 0, false, false}, 2, "heads of two blocks"},
        {{512, 512, 16, 140, 0, {1, 1}, {129, 70}, 0, false, false}, 2, "strips that walk"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dice d = {10};
        spc_attend_args a = attend_args(&cases[i].c, SPC_WEIGHT_BF16, &d);
        spc_rope_args rope = before(&a, 2, &d);
        int launches = fiber_gpu.launches;

        wait_for(spc_cuda_rope_attend(&rope, &a, NULL), "both");
        cr_expect_eq(fiber_gpu.launches - launches, cases[i].launches, "%s: %d launches",
                     cases[i].what, fiber_gpu.launches - launches);
        free_before(&rope);
        free_attend(&a);
    }
}
#endif
