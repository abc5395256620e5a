/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_rows.h - the ops of a plan that do the same to each row by itself. */
#ifndef SPC_HOST_CPU_ROWS_H
#define SPC_HOST_CPU_ROWS_H

#include "cpu_runner.h"

/* EMBED, NORM, QK_NORM, ROPE, RELU, GLU, ADD over all rows: on the calling thread, or on the whole
 * team where there is enough to do. */
void spc_cpu_rows_run(spc_runner *r, const spc_op *op, const spc_rows *rows);

/* fn over [0, count), each item worth `cost` additions: on the calling thread, or by the team. */
void spc_cpu_over_rows(spc_runner *r, int32_t count, int64_t cost, spc_team_fn fn, void *user);

/* The keys and values that rows of op->a end with go into a cache. */
void spc_cpu_rows_store(spc_runner *r, const spc_op *op, const spc_rows *rows, const spc_kv *kv);

/* The input of a linear op, [rows, cols], into r->quantised: once for all threads. */
void spc_cpu_rows_quantise(spc_runner *r, const float *in, int32_t cols, int32_t rows);

/* What ops write of a row. */
static inline float *spc_cpu_row(const spc_runner *r, int32_t buffer, int32_t row)
{
    const spc_buffer *b = &r->plan->buffer[buffer];

    return r->buffer[buffer] + (int64_t)row * b->dim + b->before;
}

/* The pages of a slot, in the order of its tokens. */
static inline int32_t *spc_cpu_pages_of(const spc_runner *r, const spc_kv *kv, int32_t slot)
{
    return kv->table + (int64_t)slot * spc_pages_for(r->limits.context);
}

#endif
