/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_kernels.h - the loops worth a vector unit, one table of them per unit.
 *
 * Every sum over a dimension runs in 16 lanes: lane l takes entries l, l + 16, ...; the lanes fold
 * by halving.  A row's result therefore has the same bits for any number of rows, and avx2 and
 * avx512 agree with each other to the bit (both fuse multiply and add; the portable loops do not
 * and round differently). */
#ifndef SPC_HOST_CPU_KERNELS_H
#define SPC_HOST_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#include "weights/config.h"

/* A matrix [rows, cols] as it lies in the checkpoint. */
typedef struct {
    const void *data;
    spc_dtype dtype; /* F32, BF16 or F16 */
    int32_t rows, cols;
} spc_matrix;

typedef struct {
    const char *name;
    /* out[i][at + o] = row o of the matrix times in row i, for outputs [from, to) and all rows.
     *
     * in    [rows, cols], contiguous
     * out   [rows] where each row's results begin */
    void (*linear)(const spc_matrix *m, int32_t from, int32_t to, const float *in, int32_t rows,
                   float *const *out, int32_t at);
    /* Attention of one query head over count positions; scores are scale times query . key, and
     * cap tanh(score / cap) of that where cap is not 0, plus the key's bias.
     *
     * query          [dim]
     * keys, values   [count, dim]
     * bias           [count], or NULL: none
     * scores         [count] scratch
     * out            [dim] */
    void (*attend)(const float *query, const float *keys, const float *values, int32_t count,
                   int32_t dim, float scale, float cap, const float *bias, float *scores,
                   float *out);
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
#endif

/* One element as float. */
float spc_element(const void *data, spc_dtype dtype, int64_t i);

#endif
