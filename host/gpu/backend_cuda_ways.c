/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_ways.c - which way linear ops go: the default that counting gave, what a table says
 * (kernels.h), or, to make one, each that there is, timed.
 *
 * What is timed is a whole forward, in which one layer goes another way: weights come from memory
 * as they do in use, and what a way costs its neighbours counts. */
#include "backend_cuda.h"
#include "backend_cuda_pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kernel_name[] = {"row", "tile", "quant"}; /* by spc_linear_kernel */
enum { KERNELS = sizeof kernel_name / sizeof *kernel_name };

static const char *const type_name[SPC_WEIGHT_COUNT] = {
    "f32",  "bf16", "f16",  "q8_0", "q4_0", "q4_1",   "q5_0", "q5_1",    "iq4_nl",
    "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs", "i8",   "f8_e4m3", "f8_e5m2"};

spc_kernels_shape spc_cuda_shape_of(const spc_linear_args *a)
{
    spc_kernels_shape shape = {.columns = a->part[0].cols, .parts = a->parts};

    (void)snprintf(shape.type, sizeof shape.type, "%s", type_name[a->part[0].type]);
    for (int32_t p = 0; p < a->parts; p++) shape.outputs[p] = a->part[p].rows;
    return shape;
}

static spc_linear_kernel default_kernel(const spc_runner *r, const spc_linear_args *a)
{
    if (r->limits.linear != SPC_LINEAR_ROW && spc_cuda_tile_takes(a)) return SPC_KERNEL_TILE;
    return spc_cuda_is_quantised(a->part[0].type) ? SPC_KERNEL_QUANT : SPC_KERNEL_ROW;
}

static spc_linear_way default_way(const spc_runner *r, const spc_linear_args *a)
{
    return spc_cuda_linear_default(a, default_kernel(r, a));
}

/* ---- of a table ------------------------------------------------------------------------------ */

static bool read_way(const spc_kernels_entry *e, spc_linear_way *out)
{
    for (int32_t k = 0; k < KERNELS; k++) {
        if (strcmp(kernel_name[k], e->kernel) != 0) continue;
        *out = (spc_linear_way){(spc_linear_kernel)k, e->slices, {e->tiles[0], e->tiles[1]}};
        return true;
    }
    return false;
}

static spc_status choose_way(spc_runner *r, const spc_linear_args *a, spc_linear_way *way,
                             void *user, spc_error *err)
{
    const spc_kernels *table = r->backend->kernels;
    spc_kernels_shape shape = spc_cuda_shape_of(a);
    const spc_kernels_entry *entry = table ? spc_kernels_find(table, &shape) : NULL;
    char text[SPC_KERNELS_TEXT];

    (void)user;
    if (!table) {
        *way = default_way(r, a);
        return SPC_OK;
    }
    if (!entry) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: expected an entry for %s, found none: it was made for other "
                             "models; make one for these with spc_tune_kernels",
                             table->where, spc_kernels_shape_text(&shape, text));
    }
    if (read_way(entry, way) && spc_cuda_linear_can(a, way)) return SPC_OK;
    return spc_error_set(
        err, SPC_EINPUT,
        "%s: kernel %s with %d slices and tiles %d, %d cannot compute %s; make the "
        "table again with spc_tune_kernels",
        table->where, entry->kernel, (int)entry->slices, (int)entry->tiles[0], (int)entry->tiles[1],
        spc_kernels_shape_text(&shape, text));
}

spc_status spc_cuda_choose_ways(spc_runner *r, spc_error *err)
{
    return spc_cuda_each_linear(r, choose_way, NULL, err);
}

spc_status spc_cuda_name_gpu(spc_backend *b, char text[SPC_KERNELS_TEXT], spc_error *err)
{
    struct cudaDeviceProp device;
    spc_status status =
        spc_cuda_check(b, cudaGetDeviceProperties(&device, b->device), "properties", err);

    if (status == SPC_OK) {
        (void)snprintf(text, SPC_KERNELS_TEXT, "%.90s, compute capability %d.%d", device.name,
                       device.major, device.minor);
    }
    return status;
}

spc_status spc_cuda_use_kernels(spc_backend *b, const spc_kernels *table, spc_error *err)
{
    char gpu[SPC_KERNELS_TEXT];
    spc_status status = spc_cuda_enter(b, err);

    if (status == SPC_OK) status = spc_cuda_name_gpu(b, gpu, err);
    if (status != SPC_OK) return status;
    if (strcmp(gpu, table->gpu) != 0) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: expected a table of this GPU, %s, found one of %s; make one with "
                             "spc_tune_kernels",
                             table->where, gpu, table->gpu);
    }
    b->kernels = table;
    return SPC_OK;
}

/* ---- timed ----------------------------------------------------------------------------------- */

/* All launches that look like this one. */
typedef struct {
    spc_kernels_shape shape;
    spc_linear_way way;
} alike;

static spc_status set_way(spc_runner *r, const spc_linear_args *a, spc_linear_way *way, void *user,
                          spc_error *err)
{
    const alike *all = user;
    spc_kernels_shape shape = spc_cuda_shape_of(a);

    (void)r;
    (void)err;
    if (spc_kernels_same(&shape, &all->shape)) *way = all->way;
    return SPC_OK;
}

enum { PAGES_MOST = SPC_GEMM_ROWS / SPC_PAGE_TOKENS };

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Slots can hold what is timed, also where they have no pages of their own. */
static spc_status give_pages(spc_runner *r, spc_error *err)
{
    int32_t given = 0;
    spc_status status = SPC_OK;

    for (int32_t s = 0; s < r->limits.slots && given < r->limits.pages && status == SPC_OK; s++) {
        int32_t page[PAGES_MOST], count = least(spc_pages_for(r->limits.context), PAGES_MOST);

        count = least(count, r->limits.pages - given);
        for (int32_t i = 0; i < count; i++) page[i] = given++;
        status = spc_backend_cuda.map(r, s, page, count, 0, err);
    }
    return status;
}

/* Rows of a forward from empty caches, at most. */
static int32_t most_rows(const spc_runner *r)
{
    int32_t most = least(r->limits.rows, SPC_GEMM_ROWS), rows = 0;

    for (int32_t s = 0; s < r->limits.slots && rows < most; s++) rows += r->room[s];
    return least(rows, most);
}

/* Slot s is empty, and has a source of as many tokens as it is to take. */
static spc_status begin(spc_runner *r, int32_t slot, const int32_t *token, int32_t count,
                        spc_error *err)
{
    spc_backend_cuda.rewind(r, slot, 0);
    if (r->plan->encoder_ops == 0) return SPC_OK;
    return spc_backend_cuda.encode(r, slot, token, count, err);
}

/* As many forwards of so many rows as go together, of slot 0 and the next ones that it takes;
 * waits. */
static spc_status forwards(spc_runner *r, const cuda_tuner *t, int32_t count, spc_error *err)
{
    int32_t slot[SPC_GEMM_ROWS], token[SPC_GEMM_ROWS];
    int32_t position[SPC_GEMM_ROWS], output[SPC_GEMM_ROWS];
    spc_rows rows = {count, slot, token, position, output};
    spc_status status = SPC_OK;

    for (int32_t i = 0, s = 0, at = 0; i < count; i++) {
        if (at == r->room[s]) {
            s++;
            at = 0;
        }
        slot[i] = s;
        position[i] = at++;
        token[i] = i * 37 % r->plan->ids;
        output[i] = i < r->limits.outputs ? i : -1;
    }
    for (int32_t i = 0; i < t->how->together && status == SPC_OK; i++) {
        for (int32_t k = 0; k < count && status == SPC_OK; k += r->room[slot[k]]) {
            status = begin(r, slot[k], token + k, least(r->room[slot[k]], count - k), err);
        }
        if (status == SPC_OK) status = spc_backend_cuda.forward(r, &rows, err);
    }
    if (status == SPC_OK) status = spc_cuda_wait(r->backend, "timing", err);
    for (int32_t i = 0; i < count; i++) spc_backend_cuda.rewind(r, slot[i], 0);
    return status;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The first few record graphs and are not counted. */
spc_status spc_cuda_time_rows(spc_runner *r, const cuda_tuner *t, int32_t rows, double *us,
                              spc_error *err)
{
    int32_t count = least(rows, t->rows);
    spc_status status = forwards(r, t, count, err);

    for (int32_t i = 0; i < t->how->runs && status == SPC_OK; i++) {
        uint64_t from = t->how->now_ns(t->how->user);

        status = forwards(r, t, count, err);
        t->sample[i] = (double)(t->how->now_ns(t->how->user) - from) * 1e-3 / t->how->together;
    }
    if (status != SPC_OK) return status;
    qsort(t->sample, (size_t)t->how->runs, sizeof *t->sample, by_size);
    *us = t->sample[t->how->runs / 2];
    return SPC_OK;
}

static spc_status time_way(spc_runner *r, const cuda_tuner *t, const alike *all,
                           double us[SPC_KERNELS_ROWS], spc_error *err)
{
    spc_status status = spc_cuda_each_linear(r, set_way, (void *)(uintptr_t)all, err);

    spc_cuda_free_graphs(r);
    for (int32_t i = 0; i < SPC_KERNELS_ROWS && status == SPC_OK; i++) {
        status = spc_cuda_time_rows(r, t, spc_kernels_rows[i], &us[i], err);
    }
    return status;
}

static double sum_of(const double us[SPC_KERNELS_ROWS])
{
    return us[0] + us[1] + us[2];
}

/* One number of slices: the best tiles for up to 8 rows and for more, which are free to choose. */
static spc_status time_tiles(spc_runner *r, const cuda_tuner *t, const spc_linear_args *a,
                             alike *all, double us[SPC_KERNELS_ROWS], spc_error *err)
{
    spc_linear_way best = all->way;

    best.tiles[0] = best.tiles[1] = 0;
    for (int32_t tiles = 1; tiles <= 4; tiles *= 2) {
        double taken[SPC_KERNELS_ROWS];
        spc_status status;

        all->way.tiles[0] = all->way.tiles[1] = tiles;
        if (!spc_cuda_linear_can(a, &all->way)) continue;
        status = time_way(r, t, all, taken, err);
        if (status != SPC_OK) return status;
        if (best.tiles[0] == 0 || taken[0] + taken[1] < us[0] + us[1]) {
            best.tiles[0] = tiles;
            us[0] = taken[0];
            us[1] = taken[1];
        }
        if (best.tiles[1] == 0 || taken[2] < us[2]) {
            best.tiles[1] = tiles;
            us[2] = taken[2];
        }
    }
    all->way = best;
    return SPC_OK;
}

/* Every kernel and every number of slices that leaves no warp without columns. */
static spc_status time_all(spc_runner *r, const cuda_tuner *t, const spc_linear_args *a,
                           const alike *usual, spc_kernels_entry *entry, spc_error *err)
{
    double best = sum_of(entry->default_us) * SPC_KERNELS_GAIN;

    for (int32_t k = 0; k < KERNELS; k++) {
        for (int32_t slices = 1; slices <= SPC_LINEAR_SLICES; slices *= 2) {
            alike all = {usual->shape, {(spc_linear_kernel)k, slices, {0, 0}}};
            double us[SPC_KERNELS_ROWS];
            spc_status status;

            if (!spc_cuda_linear_feeds(a, all.way.kernel, slices)) continue;
            status = k == SPC_KERNEL_TILE ? time_tiles(r, t, a, &all, us, err)
                                          : time_way(r, t, &all, us, err);
            if (status != SPC_OK) return status;
            if (!(sum_of(us) < best)) continue;
            best = sum_of(us);
            memcpy(entry->forward_us, us, sizeof us);
            (void)snprintf(entry->kernel, sizeof entry->kernel, "%s", kernel_name[k]);
            entry->slices = slices;
            memcpy(entry->tiles, all.way.tiles, sizeof entry->tiles);
        }
    }
    return SPC_OK;
}

/* Does the table say all that is to be found out of layers like this?  One that was made without
 * the library knows nothing of more than 16 rows. */
static bool is_tuned(const spc_runner *r, const cuda_tuner *t, const spc_kernels_shape *shape,
                     int32_t weight)
{
    const spc_kernels_entry *entry = spc_kernels_find(t->table, shape);
    bool wide = r->wide && r->wide[weight] && t->rows > SPC_LINEAR_STRIP;

    return entry && (!wide || entry->many[spc_gemm_bucket(t->rows)].by != SPC_KERNELS_NONE);
}

static spc_status tune_layer(spc_runner *r, const spc_linear_args *a, spc_linear_way *way,
                             void *user, spc_error *err)
{
    cuda_tuner *t = user;
    alike usual = {spc_cuda_shape_of(a), default_way(r, a)};
    spc_kernels_entry entry = {.shape = usual.shape,
                               .slices = usual.way.slices,
                               .tiles = {usual.way.tiles[0], usual.way.tiles[1]}};
    alike fastest = usual;
    spc_status status;

    if (is_tuned(r, t, &usual.shape, (int32_t)(way - r->way))) return SPC_OK;
    (void)snprintf(entry.kernel, sizeof entry.kernel, "%s", kernel_name[usual.way.kernel]);
    status = time_way(r, t, &usual, entry.default_us, err);
    memcpy(entry.forward_us, entry.default_us, sizeof entry.forward_us);
    if (status == SPC_OK) status = time_all(r, t, a, &usual, &entry, err);
    if (status == SPC_OK && read_way(&entry, &fastest.way)) { /* what more rows go by if not by
                                                                 the library */
        (void)spc_cuda_each_linear(r, set_way, &fastest, NULL);
        status = spc_cuda_tune_wide(r, t, a, way, &entry, err);
    }
    if (status == SPC_OK) status = spc_kernels_set(t->table, &entry, err);
    (void)spc_cuda_each_linear(r, set_way, &usual, NULL);
    spc_cuda_free_graphs(r);
    return status;
}

spc_status spc_cuda_tune(spc_runner *r, const spc_tuning *how, spc_kernels *table, spc_error *err)
{
    char gpu[SPC_KERNELS_TEXT];
    cuda_tuner t = {how, table, NULL, 0};
    spc_status status = spc_cuda_enter(r->backend, err);

    if (status == SPC_OK) status = spc_cuda_name_gpu(r->backend, gpu, err);
    if (status != SPC_OK) return status;
    if (table->gpu[0] != '\0' && strcmp(table->gpu, gpu) != 0) {
        return spc_error_set(err, SPC_EINPUT, "%s: expected a table of this GPU, %s, found %s",
                             table->where, gpu, table->gpu);
    }
    if (r->gemm) status = spc_cuda_check_version(r, table, err);
    if (status != SPC_OK) return status;
    (void)snprintf(table->gpu, sizeof table->gpu, "%s", gpu);
    (void)cudaDriverGetVersion(&table->driver);
    (void)cudaRuntimeGetVersion(&table->toolkit);
    t.sample = malloc((size_t)how->runs * sizeof *t.sample);
    if (!t.sample) return spc_error_set(err, SPC_ENOMEM, "no memory for %d times", (int)how->runs);
    status = give_pages(r, err);
    t.rows = most_rows(r);
    if (r->wide_count > 0 && t.rows > SPC_LINEAR_STRIP) {
        table->cublaslt = spc_cuda_gemm_version(r->gemm);
    }
    if (status == SPC_OK) status = spc_cuda_each_linear(r, tune_layer, &t, err);
    free(t.sample);
    return status;
}
