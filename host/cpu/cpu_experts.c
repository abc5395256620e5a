/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_experts.c - feed-forward parts of several experts.
 *
 * A pair is a row and one of the experts that it takes.  Pairs are sorted by expert, so that an
 * expert's matrices are read once for all its rows, and threads share the products of all experts
 * in one loop.  A row's result has the same bits whatever rows are beside it: kernels see to that
 * for a product, and products are added in the order in which the row chose. */
#include "cpu_experts.h"

#include "cpu_rows.h"
#include "rules/portable.h"

#include <string.h>

/* Outputs that go to a thread together, and what reading their weights costs, in pairs that are
 * multiplied with them; multiplications that are worth a thread's while. */
enum { TILE = 16, COST_READ = 3, PRODUCTS = 8192 * TILE };

/* The products of EXPERTS or MIX: of each expert's `parts` matrices with its pairs. */
typedef struct {
    spc_runner *r;
    const spc_op *op;
    int32_t parts, rows, cols; /* matrices of an expert, and the shape of each */
    int32_t pairs;
    bool floats, blocks; /* some matrices take inputs as they are, some quantised */
    int64_t apart;       /* from the outputs of one part to those of the next */
    int32_t shares;      /* threads that take part */
} experts_job;

/* ---- which experts ----------------------------------------------------------------------------
 */

/* The one of highest score behind `last` in the order of falling scores, and of rising numbers
 * where scores are equal; last -1: the first of all.  Where scores are no numbers there may be none
 * left: -1. */
static int32_t next_highest(const float *score, int32_t count, int32_t last)
{
    int32_t best = -1;

    for (int32_t i = 0; i < count; i++) {
        bool behind = last < 0 || score[i] < score[last] || (score[i] == score[last] && i > last);

        if (behind && (best < 0 || score[i] > score[best])) best = i;
    }
    return best;
}

/* Scores that are not finite make shares that are no numbers, and so a row of them. */
static void choose(const spc_config *c, const float *score, float *route)
{
    float *share = route + c->chosen, sum = 0.0f, most = 0.0f, sane = 0.0f;
    int32_t last = -1;

    for (int32_t k = 0; k < c->chosen; k++) {
        int32_t next = next_highest(score, c->experts, last);

        last = next < 0 ? k : next;
        if (k == 0) most = score[last];
        route[k] = (float)last;
        share[k] = spc_exp2((score[last] - most) * SPC_LOG2_E);
        sum += share[k];
    }
    if (!c->shares_add_up) sum = 0.0f;
    for (int32_t i = 0; i < c->experts; i++) {
        if (!c->shares_add_up) sum += spc_exp2((score[i] - most) * SPC_LOG2_E);
        sane += 0.0f * score[i];
    }
    for (int32_t k = 0; k < c->chosen; k++) share[k] = share[k] / sum + sane;
}

static void run_route(spc_runner *r, const spc_op *op, int32_t rows)
{
    for (int32_t i = 0; i < rows; i++) {
        choose(&r->plan->config, spc_cpu_row(r, op->a, i), spc_cpu_row(r, op->out, i));
    }
}

/* ---- pairs ------------------------------------------------------------------------------------
 */

static int32_t expert_of(const spc_runner *r, const spc_op *op, int32_t pair)
{
    int32_t chosen = r->plan->config.chosen;

    return (int32_t)spc_cpu_row(r, op->b, pair / chosen)[pair % chosen];
}

/* r->pair and r->first. */
static void sort_pairs(spc_runner *r, const spc_op *op, int32_t pairs)
{
    const int32_t experts = r->plan->config.experts;
    int32_t *first = r->first;

    memset(first, 0, ((size_t)experts + 1) * sizeof *first);
    for (int32_t i = 0; i < pairs; i++) first[expert_of(r, op, i)]++;
    for (int32_t e = 0, at = 0; e <= experts; e++) {
        int32_t count = first[e];

        first[e] = at += count;
    }
    for (int32_t i = pairs; i-- > 0;) r->pair[--first[expert_of(r, op, i)]] = i;
}

/* What a pair's expert reads: its row, or its part of it. */
static const float *input_of(const experts_job *job, int32_t pair)
{
    const int32_t chosen = job->r->plan->config.chosen;
    const float *row = spc_cpu_row(job->r, job->op->a, pair / chosen);

    return job->op->kind == SPC_OP_MIX ? row + (int64_t)(pair % chosen) * job->cols : row;
}

static float *output_of(const experts_job *job, int32_t pair)
{
    const int32_t chosen = job->r->plan->config.chosen;

    if (job->op->kind == SPC_OP_MIX) return job->r->mixed + (int64_t)pair * job->rows;
    return spc_cpu_row(job->r, job->op->out, pair / chosen) + (int64_t)(pair % chosen) * job->rows;
}

static void gather_share(void *user, int32_t thread, int32_t from, int32_t to)
{
    const experts_job *job = user;
    spc_runner *r = job->r;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        const float *in = input_of(job, r->pair[i]);

        r->out[i] = output_of(job, r->pair[i]);
        if (job->blocks) r->backend->kernels->quantise(in, job->cols, i, &r->quantised);
        if (job->floats) {
            memcpy(r->gathered + (int64_t)i * job->cols, in, (size_t)job->cols * sizeof *in);
        }
    }
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* Quantised inputs from the one at `row` on. */
static spc_q8 inputs_from(const spc_q8 *q, int32_t row)
{
    const int64_t at = (int64_t)row * q->stride;

    return (spc_q8){q->stride, q->q + at, q->scale + at / 32, q->sum + at / 32, q->total + at / 16};
}

/* Outputs [from, to) of part `part` of an expert, for all its pairs. */
static void multiply(const experts_job *job, int32_t expert, int32_t part, int32_t from, int32_t to)
{
    spc_runner *r = job->r;
    const spc_matrix *m = &r->matrix[job->op->weight[part] + expert];
    const int32_t first = r->first[expert], pairs = r->first[expert + 1] - first;
    const int32_t at = (int32_t)(part * job->apart);

    if (from >= to) return;
    if (spc_dtype_elements(m->dtype) > 1) {
        const spc_q8 in = inputs_from(&r->quantised, first);

        r->backend->kernels->quant_linear(m, from, to, &in, pairs, r->out + first, at);
    } else {
        r->backend->kernels->linear(m, from, to, r->gathered + (int64_t)first * job->cols, pairs,
                                    r->out + first, at);
    }
}

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Tiles [from, to) of an expert's outputs, those of one part behind those of the other. */
static void multiply_tiles(const experts_job *job, int32_t expert, int32_t from, int32_t to)
{
    const int32_t tiles = (job->rows + TILE - 1) / TILE;

    for (int32_t part = 0; part < job->parts; part++) {
        int32_t begin = from > part * tiles ? from - part * tiles : 0;
        int32_t end = least(to - part * tiles, tiles);

        multiply(job, expert, part, begin * TILE, least(end * TILE, job->rows));
    }
}

/* What a tile of an expert costs; nothing where nobody takes it. */
static int64_t tile_cost(const spc_runner *r, int32_t expert)
{
    const int32_t pairs = r->first[expert + 1] - r->first[expert];

    return pairs > 0 ? pairs + COST_READ : 0;
}

/* Tiles of an expert that begin before `cost`, of all costs counted from its own. */
static int32_t tiles_before(int64_t cost, int64_t unit, int32_t tiles)
{
    if (cost <= 0) return 0;
    return (cost + unit - 1) / unit < tiles ? (int32_t)((cost + unit - 1) / unit) : tiles;
}

/* Shares [from, to) of the cost of everything. */
static void products_share(void *user, int32_t thread, int32_t from, int32_t to)
{
    const experts_job *job = user;
    const int32_t experts = job->r->plan->config.experts;
    const int32_t tiles = job->parts * ((job->rows + TILE - 1) / TILE);
    int64_t all = 0, at = 0, begin, end;

    (void)thread;
    for (int32_t e = 0; e < experts; e++) all += tiles * tile_cost(job->r, e);
    begin = all * from / job->shares;
    end = all * to / job->shares;
    for (int32_t e = 0; e < experts; e++) {
        const int64_t unit = tile_cost(job->r, e);

        if (unit == 0) continue;
        multiply_tiles(job, e, tiles_before(begin - at, unit, tiles),
                       tiles_before(end - at, unit, tiles));
        at += unit * tiles;
    }
}

static void run_products(experts_job *job)
{
    spc_runner *r = job->r;
    const int64_t products = (int64_t)job->pairs * job->parts * job->rows * job->cols;

    for (int32_t e = 0; e < r->plan->config.experts; e++) {
        for (int32_t k = 0; k < job->parts && r->first[e] < r->first[e + 1]; k++) {
            bool blocks = spc_dtype_elements(r->matrix[job->op->weight[k] + e].dtype) > 1;

            job->blocks |= blocks;
            job->floats |= !blocks;
        }
    }
    r->quantised.stride = job->cols;
    spc_cpu_over_rows(r, job->pairs, job->cols, gather_share, job);
    job->shares = spc_team_count(r->backend->team);
    if (products / PRODUCTS < job->shares) job->shares = (int32_t)(products / PRODUCTS);
    if (job->shares <= 1) {
        job->shares = 1;
        products_share(job, 0, 0, 1);
    } else {
        spc_team_run(r->backend->team, job->shares, 1, products_share, job);
    }
}

/* Outputs of each expert times the row's share of it, in the order of its choice. */
static void mix_share(void *user, int32_t thread, int32_t from, int32_t to)
{
    const experts_job *job = user;
    const spc_runner *r = job->r;
    const int32_t chosen = r->plan->config.chosen;

    (void)thread;
    for (int32_t i = from; i < to; i++) {
        const float *share = spc_cpu_row(r, job->op->b, i) + chosen;
        const float *mixed = r->mixed + (int64_t)i * chosen * job->rows;
        float *out = spc_cpu_row(r, job->op->out, i);

        for (int32_t v = 0; v < job->rows; v++) out[v] = share[0] * mixed[v];
        for (int32_t k = 1; k < chosen; k++) {
            mixed += job->rows;
            for (int32_t v = 0; v < job->rows; v++) out[v] += share[k] * mixed[v];
        }
    }
}

void spc_cpu_experts_run(spc_runner *r, const spc_op *op, int32_t rows)
{
    experts_job job = {.r = r, .op = op, .pairs = rows * r->plan->config.chosen};
    const spc_matrix *m;

    if (op->kind == SPC_OP_ROUTE) {
        run_route(r, op, rows);
        return;
    }
    m = &r->matrix[op->weight[0]];
    job.parts = op->kind == SPC_OP_MIX ? 1 : 2;
    job.rows = m->rows;
    job.cols = m->cols;
    job.apart = (int64_t)r->plan->config.chosen * m->rows;
    sort_pairs(r, op, job.pairs);
    run_products(&job);
    if (op->kind == SPC_OP_MIX) {
        spc_cpu_over_rows(r, rows, (int64_t)r->plan->config.chosen * job.rows, mix_share, &job);
    }
}
