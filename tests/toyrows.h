/* SPDX-License-Identifier: Apache-2.0 */
/* toyrows.h - random row pairs, and the rules written a second time to check the first.
 *
 * The second form works in double on whole probability rows, straight from the formulas of
 * rules/README.md: sorting instead of radix search, bisection instead of Newton, probabilities
 * instead of logits.  Nothing here calls the code under test but for the names of rules. */
#ifndef SPC_TESTS_TOYROWS_H
#define SPC_TESTS_TOYROWS_H

#include "rules/portable.h"
#include "rules/rule.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers of the tests (splitmix64), apart from the library's ---- */

typedef struct {
    uint64_t state;
} dice;

static inline uint64_t dice_word(dice *d)
{
    uint64_t z = d->state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline double dice_uniform(dice *d)
{
    return (double)(dice_word(d) >> 11) * 0x1p-53;
}

static inline int32_t dice_below(dice *d, int32_t n)
{
    return (int32_t)(dice_word(d) % (uint64_t)n);
}

static inline double dice_gauss(dice *d)
{
    double radius = sqrt(-2 * log(1 - dice_uniform(d)));

    return radius * cos(6.283185307179586 * dice_uniform(d));
}

/* ---- logits ---- */

typedef enum {
    ROWS_RANDOM,
    ROWS_TIED,
    ROWS_EQUAL,
    ROWS_MASKED,
    ROWS_ONE_HOT_DRAFTER,
    ROWS_ONE_HOT_VERIFIER,
    ROWS_DISJOINT,
    ROWS_CLOSE,
    ROWS_KINDS
} rows_kind;

/* A random pair of logit rows, [n] each, n >= 2. */
static inline void dice_rows(dice *d, rows_kind kind, int32_t n, double spread, float *drafter,
                             float *verifier)
{
    for (int32_t v = 0; v < n; v++) {
        double a = spread * dice_gauss(d), b = spread * dice_gauss(d);

        if (kind == ROWS_TIED) {
            a = rint(a);
            b = rint(b);
        }
        if (kind == ROWS_CLOSE) b = a + 0.3 * dice_gauss(d);
        drafter[v] = (float)a;
        verifier[v] = kind == ROWS_EQUAL ? drafter[v] : (float)b;
        if (kind == ROWS_MASKED && v != 0 && dice_uniform(d) < 0.4) drafter[v] = -INFINITY;
        if (kind == ROWS_MASKED && v != 1 && dice_uniform(d) < 0.4) verifier[v] = -INFINITY;
        if (kind == ROWS_ONE_HOT_DRAFTER && v != 0) drafter[v] = -INFINITY;
        if (kind == ROWS_ONE_HOT_VERIFIER && v != 1) verifier[v] = -INFINITY;
        if (kind == ROWS_DISJOINT) (v % 2 ? drafter : verifier)[v] = -INFINITY;
    }
}

/* What bf16 leaves of a float (rounded to nearest even). */
static inline float bf16_of(float x)
{
    uint32_t bits = spc_float_bits(x);

    if (isinf(x)) return x;
    return spc_bits_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

/* ---- the rules in double ---- */

typedef struct {
    double temperature;
    int32_t top_k;
    double top_p, min_p;
    bool processed; /* gate=processed */
    bool nucleus;
} ref_options;

static const ref_options ref_plain = {1, 0, 1, 0, false, true};

typedef struct {
    int32_t n;
    bool nucleus;         /* token rules stay inside the verifier's nucleus (never at T = 0) */
    double *q, *p;        /* [n] processed */
    double *q1, *p1;      /* [n] gate */
    double *pi;           /* [n] the target distribution */
    double *accept;       /* [n] probability to keep a draft */
    double *residual;     /* [n] weight of a token after a rejection */
    double *selected;     /* [n] 1 in the set of a token rule */
    double eta, rejected; /* drafter's mass outside the set; probability of a rejection */
    double margin;        /* how far the gate is from the other answer */
    double unsure;        /* drafter's mass on tokens within 2e-6 of a token rule's cut */
    bool defers;          /* row rules */
} ref_rows;

static inline ref_rows ref_rows_of(int32_t n)
{
    ref_rows r;
    double **row[] = {&r.q, &r.p, &r.q1, &r.p1, &r.pi, &r.accept, &r.residual, &r.selected};

    memset(&r, 0, sizeof r);
    r.n = n;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        *row[i] = calloc((size_t)n, sizeof **row[i]);
        cr_assert_not_null(*row[i]);
    }
    return r;
}

static inline void ref_rows_free(ref_rows *r)
{
    double *row[] = {r->q, r->p, r->q1, r->p1, r->pi, r->accept, r->residual, r->selected};

    for (size_t i = 0; i < sizeof row / sizeof *row; i++) free(row[i]);
}

static inline int32_t ref_top(const double *x, int32_t n)
{
    int32_t best = 0;

    for (int32_t v = 1; v < n; v++) best = x[v] > x[best] ? v : best;
    return best;
}

static inline double ref_sum(const double *x, int32_t n)
{
    double sum = 0;

    for (int32_t v = 0; v < n; v++) sum += x[v];
    return sum;
}

/* sum of max(0, a - b) */
static inline double ref_over(const double *a, const double *b, int32_t n)
{
    double sum = 0;

    for (int32_t v = 0; v < n; v++) sum += a[v] > b[v] ? a[v] - b[v] : 0;
    return sum;
}

static inline double ref_entropy(const double *x, int32_t n)
{
    double sum = 0;

    for (int32_t v = 0; v < n; v++) sum -= x[v] > 0 ? x[v] * log(x[v]) : 0;
    return sum;
}

static inline void ref_norm(double *x, int32_t n)
{
    double sum = ref_sum(x, n);

    for (int32_t v = 0; v < n; v++) x[v] /= sum;
}

static inline int ref_falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

static inline void ref_keep_from(double *x, int32_t n, double least)
{
    for (int32_t v = 0; v < n; v++) x[v] = x[v] >= least ? x[v] : 0;
    ref_norm(x, n);
}

/* Least value of the smallest upper set that holds top_p of a distribution. */
static inline double ref_nucleus(const double *x, int32_t n, double top_p)
{
    double *sorted = malloc((size_t)n * sizeof *sorted), mass = 0, least = 0;

    cr_assert_not_null(sorted);
    memcpy(sorted, x, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ref_falling);
    for (int32_t i = 0; i < n && mass < top_p; i++) {
        mass += sorted[i];
        least = sorted[i];
    }
    free(sorted);
    return least;
}

/* top-k, then top-p, then min-p on a distribution, by sorting. */
static inline void ref_truncate(double *x, int32_t n, int32_t top_k, double top_p, double min_p)
{
    double *sorted = malloc((size_t)n * sizeof *sorted);

    cr_assert_not_null(sorted);
    memcpy(sorted, x, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ref_falling);
    if (top_k > 0 && top_k < n) ref_keep_from(x, n, sorted[top_k - 1]);
    if (top_p < 1) ref_keep_from(x, n, ref_nucleus(x, n, top_p));
    if (min_p > 0) ref_keep_from(x, n, min_p * x[ref_top(x, n)]);
    free(sorted);
}

/* softmax(z / T); one-hot at the first maximum at T = 0. */
static inline void ref_softmax(const float *z, int32_t n, double temperature, double *out)
{
    double max = -INFINITY;
    int32_t top = 0;

    for (int32_t v = 0; v < n; v++) {
        if ((double)z[v] > max) {
            max = (double)z[v];
            top = v;
        }
    }
    for (int32_t v = 0; v < n; v++) {
        out[v] = temperature > 0 ? exp(((double)z[v] - max) / temperature) : (double)(v == top);
    }
    ref_norm(out, n);
}

static inline void ref_fill(ref_rows *r, const float *drafter, const float *verifier,
                            const ref_options *o)
{
    const float *z[] = {drafter, verifier};
    double *mix[] = {r->q, r->p}, *gate[] = {r->q1, r->p1};

    r->nucleus = o->nucleus && o->temperature > 0;
    for (int i = 0; i < 2; i++) {
        ref_softmax(z[i], r->n, o->temperature, mix[i]);
        if (o->temperature > 0) ref_truncate(mix[i], r->n, o->top_k, o->top_p, o->min_p);
        if (o->processed) {
            memcpy(gate[i], mix[i], (size_t)r->n * sizeof *gate[i]);
        } else {
            ref_softmax(z[i], r->n, 1, gate[i]);
        }
    }
}

/* pi, acceptance and residual of the generic step. */
static inline void ref_step(ref_rows *r, const double *pi)
{
    for (int32_t v = 0; v < r->n; v++) {
        r->pi[v] = pi[v];
        r->accept[v] = r->q[v] > 0 ? fmin(1, pi[v] / r->q[v]) : 0;
        r->residual[v] = fmax(0, pi[v] - r->q[v]);
    }
}

static inline void ref_gate(ref_rows *r, double low, double high)
{
    r->defers = low < high;
    r->margin = fabs(low - high);
    if (isnan(r->margin)) r->margin = INFINITY; /* infinity against infinity */
    ref_step(r, r->defers ? r->p : r->q);
}

static inline void ref_token(ref_rows *r, spc_rule_kind kind, double alpha)
{
    const double *x = kind == SPC_RULE_TOKEN_V1 ? r->q1 : r->p1;
    double best = r->p1[ref_top(r->p1, r->n)];
    bool share = kind == SPC_RULE_TOKEN_V3 || kind == SPC_RULE_LOSSY_GREEDY;
    double least = share ? (1 - alpha) * best : best - alpha;

    r->eta = r->unsure = 0;
    r->margin = INFINITY;
    for (int32_t v = 0; v < r->n; v++) {
        bool allowed = r->p1[v] > 0 && (r->p[v] > 0 || !r->nucleus);
        bool in = allowed && x[v] >= least && (alpha >= 0 || kind == SPC_RULE_TOKEN_V1);

        r->selected[v] = in;
        r->eta += in ? 0 : r->q[v];
        if (allowed && x[v] > 0 && least > 0 && x[v] != least) {
            double gap = fabs(log(x[v] / least));

            if (gap < r->margin) r->margin = gap;
            if (gap <= 2e-6) r->unsure += r->q[v];
        }
    }
    for (int32_t v = 0; v < r->n; v++) {
        double in = r->selected[v], filled = r->eta * r->p[v];

        r->pi[v] = in * r->q[v] + filled;
        r->accept[v] = r->q[v] <= 0 ? 0 : in > 0 ? 1 : fmin(1, filled / r->q[v]);
        r->residual[v] = in > 0 ? filled : fmax(0, filled - r->q[v]);
    }
}

static inline void ref_lossy(ref_rows *r, double alpha, bool solve)
{
    double keep = 1 - alpha, low = 0, high = 1, tv = ref_over(r->p, r->q, r->n);

    r->margin = INFINITY;
    r->rejected = 0;
    for (int32_t v = 0; v < r->n; v++) r->rejected += fmax(0, r->q[v] - r->p[v] / keep);
    for (int step = 0; solve && step < 120; step++) {
        double s = (low + high) / 2, mass = 0;

        for (int32_t v = 0; v < r->n; v++) mass += fmax(0, s * r->p[v] - r->q[v]);
        *(mass < r->rejected ? &low : &high) = s;
    }
    for (int32_t v = 0; v < r->n; v++) {
        double capped = fmin(r->q[v], r->p[v] / keep), scale = r->rejected > 0 ? high : 0;

        r->accept[v] = r->q[v] > 0 ? fmin(1, r->p[v] / (keep * r->q[v])) : 0;
        r->residual[v] = fmax(0, (solve ? scale : 1) * r->p[v] - r->q[v]);
        r->pi[v] = solve ? fmax(capped, scale * r->p[v])
                         : capped + (r->rejected > 0 ? r->rejected / tv * r->residual[v] : 0);
    }
}

/* Rules that cut a row to the set of token-v3 (A3): the verifier's, or the drafter's. */
static inline void ref_truncate_to_head(ref_rows *r, double alpha, bool drafter)
{
    double *pi = r->pi, q = 0, p = 0;

    ref_token(r, SPC_RULE_TOKEN_V3, alpha);
    for (int32_t v = 0; v < r->n; v++) {
        q += r->selected[v] * r->q[v];
        p += r->selected[v] * r->p[v];
    }
    for (int32_t v = 0; v < r->n; v++) {
        pi[v] = r->selected[v] * (drafter && q > 0 ? r->q[v] / q : r->p[v] / p);
    }
    ref_step(r, pi);
}

static inline void ref_truncate_to_nucleus(ref_rows *r, double top_p)
{
    double *pi = r->pi, least = top_p < 1 ? ref_nucleus(r->p, r->n, top_p) : 0, mass = 0;

    for (int32_t v = 0; v < r->n; v++) mass += r->p[v] >= least ? r->p[v] : 0;
    for (int32_t v = 0; v < r->n; v++) {
        r->selected[v] = r->p[v] > 0 && r->p[v] >= least;
        pi[v] = r->selected[v] * r->p[v] / mass;
    }
    ref_step(r, pi);
    r->margin = INFINITY;
}

static inline void ref_head(ref_rows *r, double alpha)
{
    double *pi = r->pi, missing = 0, tv = ref_over(r->p, r->q, r->n);

    ref_token(r, SPC_RULE_TOKEN_V3, alpha);
    for (int32_t v = 0; v < r->n; v++) {
        missing += (1 - r->selected[v]) * fmax(0, r->q[v] - r->p[v]);
    }
    for (int32_t v = 0; v < r->n; v++) {
        pi[v] = (r->selected[v] > 0 ? r->q[v] : fmin(r->q[v], r->p[v])) +
                (missing > 0 ? missing / tv * fmax(0, r->p[v] - r->q[v]) : 0);
    }
    ref_step(r, pi);
    for (int32_t v = 0; v < r->n;
         v++) { /* the same up to a factor, also where nothing is missing */
        r->residual[v] = fmax(0, r->p[v] - r->q[v]);
    }
}

static inline void ref_typical(ref_rows *r, double eps)
{
    double *pi = r->pi, eta = 0, entropy = ref_entropy(r->p, r->n);
    double least = fmin(eps, sqrt(eps) * exp(-entropy));
    int32_t top = ref_top(r->p, r->n);

    r->margin = INFINITY;
    for (int32_t v = 0; v < r->n; v++) {
        r->selected[v] = r->p[v] > 0 && r->p[v] >= least;
        eta += (1 - r->selected[v]) * r->q[v];
        if (r->p[v] > 0 && least > 0) r->margin = fmin(r->margin, fabs(log(r->p[v] / least)));
    }
    for (int32_t v = 0; v < r->n; v++) {
        pi[v] = r->selected[v] * r->q[v] + (v == top ? eta : 0);
    }
    ref_step(r, pi);
    for (int32_t v = 0; v < r->n; v++) r->residual[v] = v == top;
}

static inline void ref_ensemble(ref_rows *r, double w)
{
    double *pi = r->pi;

    for (int32_t v = 0; v < r->n; v++) pi[v] = (1 - w) * r->q[v] + w * r->p[v];
    ref_step(r, pi);
    for (int32_t v = 0; v < r->n; v++) r->residual[v] = fmax(0, r->p[v] - r->q[v]);
    r->margin = INFINITY;
}

static inline double ref_kl(const double *x, const double *y, int32_t n)
{
    double sum = 0;

    for (int32_t v = 0; v < n; v++) {
        if (x[v] > 0) sum += x[v] * log(x[v] / y[v]);
    }
    return sum;
}

static inline double ref_js(const ref_rows *r)
{
    double sum = 0;

    for (int32_t v = 0; v < r->n; v++) {
        double mean = (r->q[v] + r->p[v]) / 2;

        if (r->p[v] > 0) sum += r->p[v] * log(r->p[v] / mean) / 2;
        if (r->q[v] > 0) sum += r->q[v] * log(r->q[v] / mean) / 2;
    }
    return sum;
}

/* lossy with beta solved, at the smallest l that keeps KL(p, pi) within the budget. */
static inline void ref_mentored(ref_rows *r, double budget)
{
    double low = 1e-6, high = 1, kl = ref_kl(r->p, r->q, r->n);

    if (budget <= 0) {
        ref_gate(r, 0, 1);
        return;
    }
    if (!(kl > budget)) {
        ref_gate(r, kl, budget);
        ref_step(r, r->q);
        return;
    }
    for (int step = 0; step < 60; step++) {
        double l = (low + high) / 2;

        ref_lossy(r, 1 - l, true);
        *(ref_kl(r->p, r->pi, r->n) <= budget ? &high : &low) = l;
    }
    ref_lossy(r, 1 - high, true);
    r->margin = kl - budget;
}

/* Cactus: what a step emits, and how it accepts; no residual that does not depend on the draft. */
static inline void ref_cactus(ref_rows *r, double delta)
{
    double *raised = calloc((size_t)r->n, sizeof *raised);

    cr_assert_not_null(raised);
    memset(r->pi, 0, (size_t)r->n * sizeof *r->pi);
    for (int32_t x = 0; x < r->n; x++) {
        double p = r->p[x], h = fmin(1, p + sqrt(2 * delta * p * (1 - p))), mass = 0;

        r->accept[x] = r->q[x] > 0 ? fmin(1, h / r->q[x]) : 0;
        r->pi[x] += r->q[x] * r->accept[x];
        for (int32_t v = 0; v < r->n; v++) {
            double to = v == x ? h : p < 1 ? r->p[v] * (1 - h) / (1 - p) : 0;

            raised[v] = fmax(0, to - r->q[v]);
            mass += raised[v];
        }
        for (int32_t v = 0; v < r->n && r->accept[x] < 1 && r->q[x] > 0; v++) {
            r->pi[v] += r->q[x] * (1 - r->accept[x]) * raised[v] / mass;
        }
    }
    free(raised);
    r->margin = INFINITY;
}

/* pi, accept, residual and the facts behind them, for a one-round rule. */
static inline void ref_law(ref_rows *r, spc_rule_kind kind, double alpha, bool solve)
{
    int32_t n = r->n;
    double mq = r->q1[ref_top(r->q1, n)], mp = r->p1[ref_top(r->p1, n)];
    double tv = ref_over(r->p, r->q, n);

    r->unsure = 0;
    switch (kind) {
    case SPC_RULE_LOSSY: ref_lossy(r, alpha, solve); break;
    case SPC_RULE_TOKEN_V1:
    case SPC_RULE_TOKEN_V2:
    case SPC_RULE_TOKEN_V3:
    case SPC_RULE_LOSSY_GREEDY: ref_token(r, kind, alpha); break;
    case SPC_RULE_CHOW: ref_gate(r, mq, 1 - alpha); break;
    case SPC_RULE_DIFF: ref_gate(r, mq, mp - alpha); break;
    case SPC_RULE_OPT: ref_gate(r, mq, mp - alpha * tv); break;
    case SPC_RULE_CHOW_LOG: ref_gate(r, alpha, ref_entropy(r->q1, n)); break;
    case SPC_RULE_DIFF_LOG:
        ref_gate(r, ref_entropy(r->p1, n) + alpha, ref_entropy(r->q1, n));
        break;
    case SPC_RULE_OPT_LOG:
        ref_gate(r, ref_entropy(r->p1, n) + alpha * tv, ref_entropy(r->q1, n));
        break;
    case SPC_RULE_BILD: ref_gate(r, alpha, -log(r->p1[ref_top(r->q1, n)])); break;
    case SPC_RULE_TRUNCATE: ref_truncate_to_head(r, alpha, false); break;
    case SPC_RULE_TRUNCATE_P: ref_truncate_to_nucleus(r, alpha); break;
    case SPC_RULE_MENTORED: ref_mentored(r, alpha); break;
    case SPC_RULE_CACTUS: ref_cactus(r, alpha); break;
    case SPC_RULE_TRUNCATE_Q: ref_truncate_to_head(r, alpha, true); break;
    case SPC_RULE_HEAD: ref_head(r, alpha); break;
    case SPC_RULE_TYPICAL: ref_typical(r, alpha); break;
    case SPC_RULE_ENSEMBLE: ref_ensemble(r, alpha); break;
    case SPC_RULE_FUZZY: ref_gate(r, alpha, solve ? ref_kl(r->p, r->q, n) : ref_js(r)); break;
    default: ref_gate(r, 0, 1); break; /* strict */
    }
    r->rejected = 0;
    for (int32_t v = 0; v < n; v++) r->rejected += r->q[v] * (1 - r->accept[v]);
}

/* ---- tests of frequencies ---- */

/* Limit of a chi-square statistic: Wilson and Hilferty's approximation at 4.7534 standard
 * deviations.  A true law exceeds it with probability at most 1e-6, for every df >= 1. */
static inline double chi_limit(int32_t df)
{
    double k = 2.0 / (9.0 * df), root = 1 - k + 4.7534 * sqrt(k);

    return df * root * root * root;
}

/* Counts against a law, [n] each; bins with fewer than 5 expected are merged into one. */
static inline void expect_counts(const int64_t *count, const double *law, int32_t n,
                                 const char *what)
{
    double total = 0, statistic = 0, small = 0;
    int64_t small_count = 0;
    int32_t bins = 0;

    for (int32_t v = 0; v < n; v++) total += (double)count[v];
    for (int32_t v = 0; v < n; v++) {
        double expected = total * law[v];

        if (law[v] <= 0) cr_expect_eq(count[v], 0, "%s: a token outside the law", what);
        if (expected < 5) {
            small += expected;
            small_count += count[v];
            continue;
        }
        statistic += ((double)count[v] - expected) * ((double)count[v] - expected) / expected;
        bins++;
    }
    if (small >= 5) {
        statistic += ((double)small_count - small) * ((double)small_count - small) / small;
        bins++;
    } else {
        /* too rare for a bin: 40 in place of fewer than 5 has a probability below 1e-20 */
        cr_expect_lt(small_count, 40, "%s: too many rare tokens", what);
    }
    if (bins >= 2) {
        cr_expect_lt(statistic, chi_limit(bins - 1), "%s: chi-square %g with %d bins", what,
                     statistic, (int)bins);
    }
}

#endif
