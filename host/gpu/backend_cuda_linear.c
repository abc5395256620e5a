/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_linear.c - linear ops: what is launched for one, and which neighbours go along.
 *
 * Matrices go one way (backend_cuda_ways.c) for any number of rows, so that a row's bits do not
 * depend on its company; with limits.library more than 16 rows may go through cuBLASLt
 * (backend_cuda_wide.c).  The kernels on tensor cores also take the gate behind them and the
 * residual sum behind them, that of 16-bit weights the norm in front of it too, where nobody else
 * wants what lies between: three launches less in a layer of Llama's kind.  Where rows are few,
 * attention takes what comes before and behind it along, too (cuda/attend_leaves.cuh): five. */
#include "backend_cuda.h"
#include "backend_cuda_pack.h"

#include <stdio.h>

/* How the library multiplies so many rows by the launch that begins with this matrix; NULL: it does
 * not. */
static const spc_gemm_plan *by_library(const spc_runner *r, int32_t weight, int32_t rows)
{
    const cuda_wide *wide = r->wide ? r->wide[weight] : NULL;

    if (!wide || rows <= SPC_LINEAR_STRIP || wide->own[spc_gemm_bucket(rows)]) return NULL;
    return &wide->plan;
}

/* The matrices of an op from number *k on that are of one type; *k: behind them. */
static spc_linear_args parts_of(const spc_runner *r, const spc_op *op, int32_t *k)
{
    spc_linear_args a = {.cap = op->cap,
                         .way = r->way[op->weight[*k]],
                         .scratch = r->linear_scratch,
                         .wide = r->linear_wide};

    for (; *k < SPC_OP_WEIGHTS && op->weight[*k] >= 0; ++*k, a.parts++) {
        const spc_cuda_matrix *m = &r->matrix[op->weight[*k]];

        if (a.parts > 0 && m->type != a.part[0].type) break;
        a.part[a.parts] = *m;
        if (op->bias[*k] >= 0) a.bias[a.parts] = r->vector[op->bias[*k]];
    }
    return a;
}

static bool ends(const spc_op *op, int32_t k)
{
    return k == SPC_OP_WEIGHTS || op->weight[k] < 0;
}

spc_status spc_cuda_each_linear(spc_runner *r, spc_cuda_linear_fn fn, void *user, spc_error *err)
{
    for (int32_t i = 0; i < r->plan->op_count; i++) {
        const spc_op *op = &r->plan->op[i];
        int32_t k = 0;

        if (op->kind != SPC_OP_LINEAR && op->kind != SPC_OP_HEAD) continue;
        while (!ends(op, k)) {
            spc_linear_way *way = &r->way[op->weight[k]];
            spc_linear_args a = parts_of(r, op, &k);
            spc_status status = fn(r, &a, way, user, err);

            if (status != SPC_OK) return status;
        }
    }
    return SPC_OK;
}

cudaError_t spc_cuda_run_matrices(spc_runner *r, const spc_op *op, const float *in, int32_t rows,
                                  const int32_t *target, float *out, int32_t width)
{
    cudaStream_t stream = r->backend->stream;
    cudaError_t code = cudaSuccess;
    int32_t k = 0;

    while (!ends(op, k) && code == cudaSuccess) {
        const spc_gemm_plan *plan = by_library(r, op->weight[k], rows);
        spc_linear_args a = parts_of(r, op, &k);

        a.in = in;
        a.out = out;
        a.target = target;
        a.rows = rows;
        a.width = width;
        a.early = r->early;
        for (int32_t p = 0; p < a.parts; p++) out += a.part[p].rows;
        if (a.way.kernel == SPC_KERNEL_QUANT) {
            code = spc_cuda_linear_quant(&a, stream);
        } else if (plan) {
            code = spc_cuda_linear_gemm(r->gemm, &a, plan, stream);
        } else if (a.way.kernel == SPC_KERNEL_TILE) {
            code = spc_cuda_linear_tile(&a, NULL, stream);
        } else {
            code = spc_cuda_linear_row(&a, stream);
        }
        spc_cuda_sent(r, a.way.kernel == SPC_KERNEL_QUANT || !plan);
    }
    return code;
}

spc_status spc_cuda_check_op(spc_runner *r, const spc_op *op, cudaError_t code, spc_error *err)
{
    const char *said = code == cudaSuccess ? "" : spc_cuda_gemm_said(r->gemm);
    char what[2 * SPC_PLAN_NAME];

    if (said[0] == '\0') return spc_cuda_check(r->backend, code, spc_op_name(op->kind), err);
    (void)snprintf(what, sizeof what, "%s %s: %s", spc_op_name(op->kind),
                   r->plan->weight[op->weight[0]].name, said);
    return spc_cuda_check(r->backend, code, what, err);
}

/* ---- neighbours ------------------------------------------------------------------------------ */

bool spc_cuda_is_read(const spc_plan *plan, int32_t i, int32_t end, int32_t buffer)
{
    for (; i < end; i++) {
        const spc_op *op = &plan->op[i];

        if (op->a == buffer || op->b == buffer) return true;
        if (op->out == buffer) return false;
    }
    return false;
}

/* The gate over what the linear op before it leaves, of two matrices alike. */
static bool takes_gate(const spc_op *linear, const spc_op *op, const spc_linear_args *a)
{
    return op->kind == SPC_OP_GLU && op->a == linear->out && op->out != linear->a &&
           a->parts == 2 && a->part[0].rows == a->part[1].rows;
}

static bool takes_sum(const spc_op *linear, const spc_op *op)
{
    return op->kind == SPC_OP_ADD && op->out != linear->a &&
           (op->a == linear->out) != (op->b == linear->out);
}

int32_t spc_cuda_run_tile(spc_runner *r, int32_t first, int32_t end, int32_t rows,
                          cudaError_t *code)
{
    const spc_plan *plan = r->plan;
    const spc_op *op = &plan->op[first], *norm = op->kind == SPC_OP_NORM ? op : NULL, *next;
    spc_linear_more more = {0};
    int32_t i = norm ? first + 1 : first, k = 0, in = op->a, out;

    op = &plan->op[i];
    if (i >= end || op->kind != SPC_OP_LINEAR) return 0;
    if (by_library(r, op->weight[0], rows)) return 0;

    spc_linear_args a = parts_of(r, op, &k);

    if (!ends(op, k) || a.way.kernel != SPC_KERNEL_TILE) return 0;
    if (norm && spc_cuda_is_quantised(a.part[0].type)) return 0;
    out = op->out;
    if (norm && (op->a != norm->out || out == in || spc_cuda_is_read(plan, i + 1, end, norm->out)))
        return 0;
    if (norm) more.norm = r->vector[norm->weight[0]];
    more.eps = (float)plan->config.norm_eps;
    next = op + 1;
    i++;
    if (i < end && out != in && next->out != in && !spc_cuda_is_read(plan, i + 1, end, out)) {
        if (takes_gate(op, next, &a)) {
            more.gate = true;
            more.glu = next->activation == SPC_ACT_GELU_TANH ? SPC_GLU_GELU_TANH : SPC_GLU_SILU;
            out = next->out;
            i++;
        } else if (takes_sum(op, next)) {
            more.add = r->buffer[next->a == out ? next->b : next->a];
            out = next->out;
            i++;
        }
    }
    a.in = r->buffer[in];
    a.out = r->buffer[out] + plan->buffer[out].before;
    a.rows = rows;
    a.width = plan->buffer[out].dim;
    a.early = r->early;
    *code = spc_cuda_linear_tile(&a, &more, r->backend->stream);
    spc_cuda_sent(r, true);
    return i - first;
}
