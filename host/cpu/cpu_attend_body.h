/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_attend_body.h - attention of queries that share keys and values, included by
 * cpu_kernels_body.h.
 *
 * Heads of queries that share a head of keys, and the rows of one sequence, read the same keys and
 * values: ATTEND_TILE queries at a time use what is read once.  Each query's sums are those that it
 * has alone: a score over 16 lanes of a head's entries, a value's entry over the positions in their
 * order. */

enum { KEYS = 4, CHUNKS = 4 };

/* exp(x - max) for every score; returns their sum, in 16 lanes. */
static float exponentials(float *score, int32_t count, float max)
{
    float lane[16] = {0};
    int32_t i = 0;

    for (int32_t k = 0; k < count; k++) score[k] = spc_exp2((score[k] - max) * 1.44269504f);
    for (; i + 16 <= count; i += 16) {
        for (int32_t l = 0; l < 16; l++) lane[l] += score[i + l];
    }
    for (int32_t l = 0; i + l < count; l++) lane[l] += score[i + l];
    return lanes_sum(lanes_load(lane));
}

/* Where the row of a position begins, behind that of page 0. */
ALWAYS_INLINE int64_t page_row(const spc_cpu_pages *p, int32_t position, int32_t dim)
{
    return p->page[(uint32_t)position / SPC_PAGE_TOKENS] * p->stride +
           (int64_t)((uint32_t)position % SPC_PAGE_TOKENS) * dim;
}

/* What a query has for a position. */
ALWAYS_INLINE float *score_at(const spc_cpu_query *q, int32_t position)
{
    return q->scores + (position - q->from);
}

/* query . key for the positions from .. to - 1 and `count` queries, a constant where this is
 * inlined. */
ALWAYS_INLINE void scores_of(const spc_cpu_query *q, int32_t count, const spc_cpu_pages *pages,
                             spc_dtype dtype, int32_t from, int32_t to, int32_t dim)
{
    int32_t k = from;

    for (; k + KEYS <= to && dim % 16 == 0; k += KEYS) {
        int64_t key[KEYS];
        lanes sum[ATTEND_TILE][KEYS];

#pragma GCC unroll 4
        for (int32_t j = 0; j < KEYS; j++) {
            key[j] = page_row(pages, k + j, dim);
#pragma GCC unroll 4
            for (int32_t r = 0; r < count; r++) sum[r][j] = lanes_zero();
        }
        for (int32_t i = 0; i < dim; i += 16) {
            lanes keys[KEYS];

#pragma GCC unroll 4
            for (int32_t j = 0; j < KEYS; j++) keys[j] = weights_at(pages->key, dtype, key[j] + i);
#pragma GCC unroll 4
            for (int32_t r = 0; r < count; r++) {
                lanes x = lanes_load(q[r].query + i);

#pragma GCC unroll 4
                for (int32_t j = 0; j < KEYS; j++) sum[r][j] = lanes_fma(x, keys[j], sum[r][j]);
            }
        }
#pragma GCC unroll 4
        for (int32_t r = 0; r < count; r++) {
            lanes_sum4(score_at(&q[r], k), sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
        }
    }
    for (; k < to; k++) {
        int64_t key = page_row(pages, k, dim);

        for (int32_t r = 0; r < count; r++) {
            *score_at(&q[r], k) = dot(q[r].query, pages->key, dtype, key, dim);
        }
    }
}

/* sum += score times value over the positions from .. to - 1, entries c .. c + 16 chunks - 1: the
 * chunks' sums are independent and hide each other's latency. */
ALWAYS_INLINE void mix_positions(const spc_cpu_query *q, int32_t count, const spc_cpu_pages *pages,
                                 spc_dtype dtype, int32_t from, int32_t to, int32_t dim, int32_t c,
                                 int32_t chunks, lanes (*sum)[CHUNKS])
{
    for (int32_t k = from; k < to; k++) {
        int64_t at = page_row(pages, k, dim) + c;
        lanes value[CHUNKS];

#pragma GCC unroll 4
        for (int32_t j = 0; j < chunks; j++) {
            value[j] = weights_at(pages->value, dtype, at + 16 * j);
        }
#pragma GCC unroll 4
        for (int32_t r = 0; r < count; r++) {
            lanes weight = lanes_set(*score_at(&q[r], k));

#pragma GCC unroll 4
            for (int32_t j = 0; j < chunks; j++) {
                sum[r][j] = lanes_fma(weight, value[j], sum[r][j]);
            }
        }
    }
}

/* The end of the positions that a query has before those that all have from `from` on. */
ALWAYS_INLINE int32_t own_end(const spc_cpu_query *q, int32_t from)
{
    return from < q->to ? from : q->to;
}

/* Entries c .. c + 16 chunks - 1 of all results: positions that all queries have are read once for
 * all, those before and behind for each. */
ALWAYS_INLINE void mix_values(const spc_cpu_query *q, int32_t count, const spc_cpu_pages *pages,
                              spc_dtype dtype, int32_t from, int32_t to, int32_t dim, int32_t c,
                              int32_t chunks)
{
    lanes sum[ATTEND_TILE][CHUNKS];

#pragma GCC unroll 4
    for (int32_t r = 0; r < count; r++) {
#pragma GCC unroll 4
        for (int32_t j = 0; j < chunks; j++) sum[r][j] = lanes_zero();
        mix_positions(&q[r], 1, pages, dtype, q[r].from, own_end(&q[r], from), dim, c, chunks,
                      &sum[r]);
    }
    mix_positions(q, count, pages, dtype, from, to, dim, c, chunks, sum);
#pragma GCC unroll 4
    for (int32_t r = 0; r < count; r++) {
        mix_positions(&q[r], 1, pages, dtype, to, q[r].to, dim, c, chunks, &sum[r]);
#pragma GCC unroll 4
        for (int32_t j = 0; j < chunks; j++) lanes_store(q[r].out + c + 16 * j, sum[r][j]);
    }
}

ALWAYS_INLINE float entry_at(const void *data, spc_dtype dtype, int64_t i)
{
    switch (dtype) {
    case SPC_DTYPE_BF16: return spc_bfloat_to_float(((const uint16_t *)data)[i]);
    case SPC_DTYPE_F16: return spc_half_to_float(((const uint16_t *)data)[i]);
    default: return ((const float *)data)[i];
    }
}

/* In 16 lanes, which compilers make vectors of. */
static float largest(const float *x, int32_t count)
{
    float lane[16], max = -SPC_INFINITY;
    int32_t i = 0;

    for (int32_t l = 0; l < 16; l++) lane[l] = max;
    for (; i + 16 <= count; i += 16) {
        for (int32_t l = 0; l < 16; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    }
    for (int32_t l = 0; l < 16; l++) max = lane[l] > max ? lane[l] : max;
    for (; i < count; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* Scores to weights, but for the division by their sum, of which the inverse is returned. */
static float weigh(const spc_cpu_query *q, float scale, float cap)
{
    const int32_t count = q->to - q->from;
    float *scores = q->scores, sum;
    int32_t bad = 0;

    for (int32_t k = 0; k < count; k++) {
        scores[k] *= scale;
        bad |=
            !(scores[k] - scores[k] == 0.0f); /* before a cap makes a number of an infinite key */
    }
    if (cap > 0.0f) bound(scores, count, cap);
    for (int32_t k = 0; q->bias && k < count; k++) scores[k] += q->bias[k];
    for (int32_t k = 0; k < count; k++) bad |= !(scores[k] - scores[k] == 0.0f);
    sum = exponentials(scores, count, largest(scores, count));
    /* exp2 answers NaN with 0: a broken key must not pass for one that nobody attends to */
    return bad ? NAN : 1.0f / sum;
}

/* count, at most ATTEND_TILE, and dtype are constants where this is inlined. */
ALWAYS_INLINE void attend_tile(const spc_cpu_query *q, int32_t count, const spc_cpu_pages *pages,
                               spc_dtype dtype, int32_t dim, float scale, float cap)
{
    int32_t from = q->from, to = q->to, c = 0;
    float inverse[ATTEND_TILE];

    for (int32_t r = 1; r < count; r++) {
        from = q[r].from > from ? q[r].from : from;
        to = q[r].to < to ? q[r].to : to;
    }
    if (to < from) to = from; /* nothing that all have */
    for (int32_t r = 0; r < count; r++) {
        scores_of(&q[r], 1, pages, dtype, q[r].from, own_end(&q[r], from), dim);
        scores_of(&q[r], 1, pages, dtype, to, q[r].to, dim);
    }
    scores_of(q, count, pages, dtype, from, to, dim);
    for (int32_t r = 0; r < count; r++) inverse[r] = weigh(&q[r], scale, cap);
    for (; c + 16 * CHUNKS <= dim; c += 16 * CHUNKS) {
        mix_values(q, count, pages, dtype, from, to, dim, c, CHUNKS);
    }
    for (; c + 16 <= dim; c += 16) mix_values(q, count, pages, dtype, from, to, dim, c, 1);
    for (; c < dim; c++) {
        for (int32_t r = 0; r < count; r++) {
            q[r].out[c] = 0.0f;
            for (int32_t k = q[r].from; k < q[r].to; k++) {
                q[r].out[c] += *score_at(&q[r], k) *
                               entry_at(pages->value, dtype, page_row(pages, k, dim) + c);
            }
        }
    }
    for (int32_t r = 0; r < count; r++) {
        for (c = 0; c < dim; c++) q[r].out[c] *= inverse[r];
    }
}

ALWAYS_INLINE void attend_of(const spc_cpu_query *q, int32_t count, const spc_cpu_pages *pages,
                             spc_dtype dtype, int32_t dim, float scale, float cap)
{
    for (; count >= ATTEND_TILE; q += ATTEND_TILE, count -= ATTEND_TILE) {
        attend_tile(q, ATTEND_TILE, pages, dtype, dim, scale, cap);
    }
    switch (count) {
#if ATTEND_TILE > 2
    case 3: attend_tile(q, 3, pages, dtype, dim, scale, cap); break;
    case 2: attend_tile(q, 2, pages, dtype, dim, scale, cap); break;
#endif
#if ATTEND_TILE > 1
    case 1: attend_tile(q, 1, pages, dtype, dim, scale, cap); break;
#endif
    default: break;
    }
}

static void attend(const spc_cpu_query *query, int32_t count, const spc_cpu_pages *pages,
                   int32_t dim, float scale, float cap)
{
    switch (pages->dtype) {
    case SPC_DTYPE_BF16: attend_of(query, count, pages, SPC_DTYPE_BF16, dim, scale, cap); break;
    case SPC_DTYPE_F16: attend_of(query, count, pages, SPC_DTYPE_F16, dim, scale, cap); break;
    default: attend_of(query, count, pages, SPC_DTYPE_F32, dim, scale, cap);
    }
}
