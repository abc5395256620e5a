/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_wide.c - which way more than 16 rows of linear ops go where limits.library is set:
 * by an algorithm of cuBLASLt's own choice, by what a table says (kernels.h), or, to make one, by
 * each that there is, timed.
 *
 * It is all settled when a model is loaded: an algorithm for every shape and every bucket of rows
 * that the runner can have.  Without limits.library all rows go as few do (backend_cuda_ways.c),
 * whatever was measured: then a row's bits do not depend on its company. */
#include "backend_cuda.h"
#include "backend_cuda_pack.h"

#include <stdio.h>
#include <string.h>

_Static_assert((int)SPC_KERNELS_WIDE == (int)SPC_GEMM_BUCKETS, "a number of rows is a bucket");
_Static_assert(sizeof(uint64_t[SPC_KERNELS_WORDS]) == sizeof(((spc_gemm_product *)0)->algorithm),
               "an algorithm's bytes");

static int32_t last_bucket(const spc_runner *r)
{
    return spc_gemm_bucket(spc_cuda_most_rows(r->plan, &r->limits));
}

/* ---- the library ----------------------------------------------------------------------------- */

/* The largest products that the library may be asked for. */
static spc_gemm_most gemm_most(const spc_runner *r)
{
    spc_gemm_most most = {1, 1, spc_cuda_most_rows(r->plan, &r->limits)};

    for (int32_t i = 0; i < r->plan->op_count; i++) {
        const spc_op *op = &r->plan->op[i];

        if (op->kind != SPC_OP_LINEAR && op->kind != SPC_OP_HEAD) continue;
        for (int32_t k = 0; k < SPC_OP_WEIGHTS && op->weight[k] >= 0; k++) {
            const spc_weight *w = &r->plan->weight[op->weight[k]];

            if (w->cols > most.cols) most.cols = w->cols;
            if (w->rows > most.outs) most.outs = w->rows;
        }
    }
    return most;
}

size_t spc_cuda_library_bytes(const spc_runner *r)
{
    const spc_gemm_most most = gemm_most(r);

    return spc_cuda_gemm_bytes(&most);
}

spc_status spc_cuda_open_library(spc_runner *r, const char *where, spc_error *err)
{
    const spc_gemm_most most = gemm_most(r);
    char said[SPC_GEMM_SAID];
    cudaError_t code;

    if (!r->limits.library) return SPC_OK;
    code = spc_cuda_gemm_open(&most, r->gemm_memory, &r->gemm, said);
    if (code == cudaSuccess) return SPC_OK;
    return spc_error_set(err, SPC_EDEVICE, "%s: %s: cuBLASLt: %s; leave out fast-prefill", where,
                         r->backend->device_name, said[0] ? said : cudaGetErrorString(code));
}

/* ---- chosen ---------------------------------------------------------------------------------- */

/* weight: the first of the launch */
static spc_status no_algorithm(const spc_runner *r, const char *weight, const spc_linear_args *a,
                               int32_t bucket, spc_error *err)
{
    const char *said = spc_cuda_gemm_said(r->gemm);
    spc_kernels_shape shape = spc_cuda_shape_of(a);
    char text[SPC_KERNELS_TEXT];

    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "%s: %s, %s, by %d rows: expected an algorithm of cuBLASLt, found %s; "
                         "leave out fast-prefill",
                         r->backend->device_name, weight, spc_kernels_shape_text(&shape, text),
                         (int)spc_cuda_gemm_rows(r->gemm, a, bucket), said[0] ? said : "none");
}

/* What the library suggests for a launch in a bucket. */
typedef struct {
    spc_gemm_product choice[SPC_LINEAR_PARTS][SPC_GEMM_CHOICES];
    int32_t count[SPC_LINEAR_PARTS];
    int32_t most; /* of count */
} suggestions;

static spc_status ask(const spc_runner *r, const char *weight, const spc_linear_args *a,
                      int32_t bucket, suggestions *out, spc_error *err)
{
    out->most = 0;
    for (int32_t p = 0; p < a->parts; p++) {
        if (spc_cuda_gemm_suggest(r->gemm, a, p, bucket, out->choice[p], &out->count[p]) !=
                cudaSuccess ||
            out->count[p] == 0) {
            return no_algorithm(r, weight, a, bucket, err);
        }
        if (out->count[p] > out->most) out->most = out->count[p];
    }
    return SPC_OK;
}

/* Let the bucket go by suggestion i, or behind the last by own kernels. */
static void take(const suggestions *s, int32_t i, int32_t parts, int32_t bucket, cuda_wide *wide)
{
    wide->own[bucket] = i == s->most;
    for (int32_t p = 0; p < parts; p++) {
        wide->plan.part[bucket][p] = s->choice[p][i < s->count[p] ? i : s->count[p] - 1];
    }
}

/* What the library holds for fastest. */
static spc_status choose_default(const spc_runner *r, const char *weight, const spc_linear_args *a,
                                 int32_t bucket, cuda_wide *wide, spc_error *err)
{
    suggestions s;
    spc_status status = ask(r, weight, a, bucket, &s, err);

    if (status == SPC_OK) take(&s, 0, a->parts, bucket, wide);
    return status;
}

/* What was measured to be fastest. */
static spc_status choose_measured(const spc_runner *r, const spc_linear_args *a, int32_t bucket,
                                  const spc_kernels_many *many, cuda_wide *wide, spc_error *err)
{
    spc_kernels_shape shape = spc_cuda_shape_of(a);
    char text[SPC_KERNELS_TEXT];

    wide->own[bucket] = many->by == SPC_KERNELS_OWN;
    for (int32_t p = 0; many->by == SPC_KERNELS_CUBLASLT && p < a->parts; p++) {
        spc_gemm_product *product = &wide->plan.part[bucket][p];

        memcpy(product->algorithm, many->algorithm[p], sizeof product->algorithm);
        if (spc_cuda_gemm_can(r->gemm, a, p, bucket, product)) continue;
        return spc_error_set(err, SPC_EINPUT,
                             "%s: %s, %d rows: expected algorithms of cuBLASLt, found in number %d "
                             "what it cannot go by; write it anew with spc_tune_kernels "
                             "and fast-prefill",
                             r->backend->kernels->where, spc_kernels_shape_text(&shape, text),
                             (int)spc_kernels_wide[bucket], (int)p);
    }
    return SPC_OK;
}

/* The way of launches alike, which may have been found before. */
static cuda_wide *find(const spc_runner *r, const spc_kernels_shape *shape)
{
    for (int32_t i = 0; i < r->wide_count; i++) {
        if (spc_kernels_same(&r->wides[i].shape, shape)) return &r->wides[i];
    }
    return NULL;
}

static spc_status choose(spc_runner *r, const spc_linear_args *a, spc_linear_way *way, void *user,
                         spc_error *err)
{
    const spc_kernels *table = r->backend->kernels;
    const int32_t weight = (int32_t)(way - r->way), last = last_bucket(r);
    spc_kernels_shape shape = spc_cuda_shape_of(a);
    const spc_kernels_entry *entry = table ? spc_kernels_find(table, &shape) : NULL;
    cuda_wide *wide = find(r, &shape);
    spc_status status = SPC_OK;

    (void)user;
    if (spc_cuda_is_quantised(a->part[0].type)) return SPC_OK;
    if (a->part[0].rows == 0) return SPC_OK; /* a rank's share of a small vocabulary */
    if (!wide) {
        wide = &r->wides[r->wide_count++];
        wide->shape = shape;
        for (int32_t i = 0; i <= last && status == SPC_OK; i++) {
            const char *name = r->plan->weight[weight].name;

            status = choose_default(r, name, a, i, wide, err);
            if (status == SPC_OK && entry && entry->many[i].by != SPC_KERNELS_NONE) {
                status = choose_measured(r, a, i, &entry->many[i], wide, err);
            }
            if (status != SPC_OK || wide->own[i]) continue;
            if (spc_cuda_gemm_warm(r->gemm, a, i, wide->plan.part[i], r->backend->stream) !=
                cudaSuccess) {
                status = no_algorithm(r, name, a, i, err);
            }
        }
    }
    r->wide[weight] = wide;
    return status;
}

/* An algorithm's bytes mean something to the version that they came from. */
spc_status spc_cuda_check_version(const spc_runner *r, const spc_kernels *table, spc_error *err)
{
    const int32_t here = spc_cuda_gemm_version(r->gemm), there = table->cublaslt;

    if (there == 0 || there == here) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT,
                         "%s: expected algorithms of cuBLASLt %d.%d.%d, found some of %d.%d.%d; "
                         "measure again with spc_tune_kernels and fast-prefill",
                         table->where, here / 10000, here / 100 % 100, here % 100, there / 10000,
                         there / 100 % 100, there % 100);
}

spc_status spc_cuda_choose_wide(spc_runner *r, spc_error *err)
{
    const spc_kernels *table = r->backend->kernels;
    spc_status status = SPC_OK;

    if (!r->gemm) return SPC_OK;
    if (table) status = spc_cuda_check_version(r, table, err);
    return status == SPC_OK ? spc_cuda_each_linear(r, choose, NULL, err) : status;
}

/* ---- timed ----------------------------------------------------------------------------------- */

static void note(const cuda_wide *wide, int32_t parts, int32_t bucket, double us,
                 spc_kernels_many *many)
{
    many->by = wide->own[bucket] ? SPC_KERNELS_OWN : SPC_KERNELS_CUBLASLT;
    many->forward_us = us;
    for (int32_t p = 0; p < parts; p++) {
        memcpy(many->algorithm[p], wide->plan.part[bucket][p].algorithm, sizeof *many->algorithm);
    }
}

static spc_status tune_bucket(spc_runner *r, const cuda_tuner *t, const char *weight,
                              const spc_linear_args *a, int32_t bucket, cuda_wide *wide,
                              spc_kernels_many *many, spc_error *err)
{
    suggestions s;
    spc_status status = ask(r, weight, a, bucket, &s, err);
    double best = 0;

    for (int32_t i = 0; i <= s.most && status == SPC_OK; i++) {
        double us;

        take(&s, i, a->parts, bucket, wide);
        spc_cuda_free_graphs(r);
        status = spc_cuda_time_rows(r, t, spc_gemm_rows(bucket), &us, err);
        if (status != SPC_OK) return status;
        if (i == 0) many->default_us = us;
        if (i > 0 && !(us < best)) continue;
        best = i == 0 ? us * SPC_KERNELS_GAIN : us;
        note(wide, a->parts, bucket, us, many);
    }
    return status;
}

spc_status spc_cuda_tune_wide(spc_runner *r, const cuda_tuner *t, const spc_linear_args *a,
                              const spc_linear_way *way, spc_kernels_entry *entry, spc_error *err)
{
    const int32_t weight = (int32_t)(way - r->way), last = spc_gemm_bucket(t->rows);
    cuda_wide *wide = r->wide ? r->wide[weight] : NULL;
    spc_status status = SPC_OK;

    if (!wide || t->rows <= SPC_LINEAR_STRIP) return SPC_OK;

    const cuda_wide usual = *wide;

    for (int32_t i = 0; i <= last && status == SPC_OK; i++) {
        status = tune_bucket(r, t, r->plan->weight[weight].name, a, i, wide, &entry->many[i], err);
    }
    *wide = usual;
    return status;
}
