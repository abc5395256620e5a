/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_kernels.h - the loops worth a vector unit, one table of them per unit.
 *
 * Every sum over a dimension runs in 16 lanes: lane l takes entries l, l + 16, ...; the lanes fold
 * by halving.  A row's result therefore has the same bits for any number of rows, and all vector
 * units agree with each other to the bit (they fuse multiply and add; the portable loops do not
 * and round differently). */
#ifndef SPC_HOST_CPU_KERNELS_H
#define SPC_HOST_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#include "weights/config.h"

#include "host/pages.h"

/* What the entries of a matrix of 8-bit floats or integers are multiplied with: entry (r, c) with
 * value[(r + row) / rows * stride + (c + col) / cols]. */
typedef struct {
    const float *value;
    int32_t rows, cols; /* of a block that shares one; cols a multiple of 16 */
    int32_t stride;     /* blocks side by side */
    int32_t row, col;   /* where the matrix begins in the one that was scaled; col: of 16s */
} spc_scale;

/* A matrix [rows, cols] as it lies in the checkpoint. */
typedef struct {
    const void *data;
    spc_dtype dtype; /* F32, BF16, F16; 8-bit floats, I8; or of blocks */
    int32_t rows, cols;
    spc_scale scale; /* 8-bit floats, I8 */
} spc_matrix;

/* Rows of activations as quantised matrices take them (cpu_quant_body.h says how).  The error
 * against exact products is at most half a step, max |x| / 254 of each 32 entries, times the
 * weights' magnitudes. */
typedef struct {
    int32_t stride; /* columns, a multiple of 32 */
    int8_t *q;      /* [rows, stride] in -127 .. 127 */
    float *scale;   /* [rows, stride / 32] of each block of 32 */
    float *sum;     /* [rows, stride / 32] scale times the sum of a block's q */
    int32_t *total; /* [rows, stride / 16] sums of 16 q */
} spc_q8;

/* Keys and values of one head of a sequence. */
typedef struct {
    const void *key, *value; /* [SPC_PAGE_TOKENS, dim] of page 0 */
    spc_dtype dtype;         /* of them: F32, BF16, F16 */
    const int32_t *page;     /* where the positions of the sequence lie, 16 a page */
    int64_t stride;          /* elements from a page to the next */
} spc_cpu_pages;

/* One head of one row, and the positions it attends to. */
typedef struct {
    const float *query; /* [dim] */
    int32_t from, to;   /* the positions from .. to - 1, at least one */
    const float *bias;  /* [to - from], or NULL: none */
    float *scores;      /* [to - from] scratch */
    float *out;         /* [dim] */
} spc_cpu_query;

typedef struct {
    const char *name;
    /* out[i][at + o] = row o of the matrix times in row i, for outputs [from, to) and all rows.
     *
     * in    [rows, cols], contiguous
     * out   [rows] where each row's results begin */
    void (*linear)(const spc_matrix *m, int32_t from, int32_t to, const float *in, int32_t rows,
                   float *const *out, int32_t at);
    /* A row of `cols` (a multiple of 32) activations as row `row` of out. */
    void (*quantise)(const float *in, int32_t cols, int64_t row, const spc_q8 *out);
    /* The same as linear for matrices of types with blocks. */
    void (*quant_linear)(const spc_matrix *m, int32_t from, int32_t to, const spc_q8 *in,
                         int32_t rows, float *const *out, int32_t at);
    /* Attention of `count` queries over the same keys and values; scores are scale times query .
     * key, and cap tanh(score / cap) of that where cap is not 0, plus the key's bias.  A query's
     * result has the same bits whatever others are beside it. */
    void (*attend)(const spc_cpu_query *query, int32_t count, const spc_cpu_pages *pages,
                   int32_t dim, float scale, float cap);
    /* out[i] = activation(gate[i]) * up[i] for count entries. */
    void (*glu)(spc_activation activation, const float *gate, const float *up, int32_t count,
                float *out);
    /* x[i] = cap tanh(x[i] / cap) for count entries. */
    void (*bound)(float *x, int32_t count, float cap);
    /* RMSNorm: out = in / sqrt(mean(in^2) + eps) * weight, [dim] each. */
    void (*norm)(const float *in, const float *weight, int32_t dim, float eps, float *out);
} spc_cpu_kernels;

/* By name, or the widest that this machine has for NULL; NULL when there is no such.  `known`
 * receives the names of those that can be had, "portable, avx2" (at least 64 bytes; may be NULL).
 */
const spc_cpu_kernels *spc_cpu_kernels_find(const char *name, char *known);

extern const spc_cpu_kernels spc_cpu_portable;
#if defined(__x86_64__)
extern const spc_cpu_kernels spc_cpu_avx2;
extern const spc_cpu_kernels spc_cpu_avx512;
extern const spc_cpu_kernels spc_cpu_avx512vnni; /* integer products in one instruction */
#elif defined(__aarch64__)
extern const spc_cpu_kernels spc_cpu_neon;
extern const spc_cpu_kernels spc_cpu_neondot; /* products of bytes in one instruction */
#endif

#endif
