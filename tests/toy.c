/* SPDX-License-Identifier: Apache-2.0 */
/* toy.c - the table-driven pair, its target distribution in double, and the walk through all
 * outcomes. */
#include "toy.h"

#include "host/cpu/cpu_round.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- logits -----------------------------------------------------------------------------------
 */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

void toy_logits(const toy_pair *pair, bool drafter, const int32_t *prefix, int32_t count,
                float *out)
{
    uint64_t hash = pair->seed;
    bool as_verifier = !drafter || pair->equal || pair->reversed;

    for (int32_t i = 0; i < count; i++) hash = mix(hash ^ (uint64_t)(prefix[i] + 1));
    for (int32_t v = 0; v < pair->vocab; v++) {
        uint64_t h = mix(hash * 2 + (as_verifier ? 1 : 0) + (uint64_t)v * 0x9e3779b97f4a7c15u);
        int32_t at = drafter && pair->reversed ? pair->vocab - 1 - v : v;

        out[at] = pair->spread * ((float)(h >> 40) / 16777216.0f - 0.5f);
    }
    if (count != (drafter ? pair->bad_drafter : pair->bad_verifier) || count == 0) return;
    out[0] = pair->bad_value != 0 ? pair->bad_value : NAN;
}

/* ---- the backend ------------------------------------------------------------------------------
 */

struct spc_runner {
    const toy_pair *pair;
    bool drafter;
    int32_t *token;  /* [pages, SPC_PAGE_TOKENS] what the KV caches have seen */
    int32_t *table;  /* [sessions, pages of the context] */
    int32_t *room;   /* [sessions] tokens that a slot's pages take */
    int32_t *length; /* [sessions] */
    int32_t *prefix; /* [context] of the row under way */
    float *logits;   /* [sessions * SPC_LANE_ROWS, vocab] */
    int64_t rows;
};

static void toy_close(spc_backend *backend)
{
    (void)backend;
}

static const char *toy_device(const spc_backend *backend)
{
    (void)backend;
    return "toy";
}

static void toy_unload(spc_runner *runner)
{
    if (!runner) return;
    free(runner->token);
    free(runner->table);
    free(runner->prefix);
    free(runner->room);
    free(runner->length);
    free(runner->logits);
    free(runner);
}

/* Where a slot's token at a position stands. */
static int32_t *token_at(const spc_runner *r, int32_t slot, int32_t position)
{
    int32_t page = r->table[slot * spc_pages_for(r->pair->context) + position / SPC_PAGE_TOKENS];

    return &r->token[page * SPC_PAGE_TOKENS + position % SPC_PAGE_TOKENS];
}

static spc_status toy_forward(spc_runner *r, const spc_rows *rows, spc_error *err)
{
    toy_clock *clock = r->pair->clock;

    (void)err;
    if (clock) {
        clock->now_ns += r->drafter ? clock->drafter_ns : clock->verifier_ns;
        clock->now_ns +=
            (r->drafter ? clock->drafter_row_ns : clock->verifier_row_ns) * (uint64_t)rows->count;
    }
    for (int32_t i = 0; i < rows->count; i++) {
        int32_t slot = rows->slot[i];

        cr_assert_eq(rows->position[i], r->length[slot], "a row begins at the KV length");
        cr_assert_lt(rows->position[i], r->room[slot]);
        cr_assert(rows->token[i] >= 0 && rows->token[i] < r->pair->vocab);
        *token_at(r, slot, r->length[slot]++) = rows->token[i];
        r->rows++;
        if (rows->output[i] < 0) continue;
        for (int32_t k = 0; k < r->length[slot]; k++) r->prefix[k] = *token_at(r, slot, k);
        toy_logits(r->pair, r->drafter, r->prefix, r->length[slot],
                   r->logits + rows->output[i] * r->pair->vocab);
    }
    return SPC_OK;
}

static const float *toy_row(const spc_runner *runner, int32_t output)
{
    return runner->logits + output * runner->pair->vocab;
}

static int32_t toy_length(const spc_runner *runner, int32_t slot)
{
    return runner->length[slot];
}

static void toy_rewind(spc_runner *runner, int32_t slot, int32_t length)
{
    cr_assert_leq(length, runner->length[slot], "rewind never lengthens a cache");
    runner->length[slot] = length;
}

static spc_status toy_map(spc_runner *r, int32_t slot, const int32_t *page, int32_t count,
                          int32_t length, spc_error *err)
{
    int32_t most = spc_pages_for(r->pair->context);

    (void)err;
    cr_assert_leq(count, most);
    memcpy(r->table + slot * most, page, (size_t)count * sizeof *page);
    r->room[slot] = spc_pages_room(count, r->pair->context);
    cr_assert_leq(length, r->room[slot]);
    r->length[slot] = length;
    return SPC_OK;
}

static spc_status toy_draw(spc_runner *drafter, const spc_lane *lanes, int32_t count, int32_t i,
                           spc_error *err)
{
    return spc_cpu_draw(drafter->logits, drafter->pair->vocab, lanes, count, i,
                        drafter->pair->chance, err);
}

static spc_status toy_verify(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                             int32_t count, spc_verdict *out, spc_error *err)
{
    return spc_cpu_verify(drafter ? drafter->logits : NULL, verifier->logits, verifier->pair->vocab,
                          lanes, count, verifier->pair->chance, out, err);
}

static spc_status toy_edit(spc_runner *r, const spc_edit_list *list, spc_error *err)
{
    (void)err;
    spc_cpu_edit(r->logits, r->pair->vocab, list);
    return SPC_OK;
}

static const spc_backend_ops toy_ops = {.name = "toy",
                                        .close = toy_close,
                                        .device = toy_device,
                                        .unload = toy_unload,
                                        .forward = toy_forward,
                                        .logits = toy_row,
                                        .length = toy_length,
                                        .rewind = toy_rewind,
                                        .map = toy_map,
                                        .edit = toy_edit,
                                        .draw = toy_draw,
                                        .verify = toy_verify};

static int32_t pages_of(const toy_pair *pair)
{
    return pair->pages > 0 ? pair->pages : pair->sessions * spc_pages_for(pair->context);
}

static spc_runner *toy_runner(const toy_pair *pair, bool drafter)
{
    spc_runner *r = calloc(1, sizeof *r);

    cr_assert_not_null(r);
    r->pair = pair;
    r->drafter = drafter;
    r->token = calloc((size_t)pages_of(pair) * SPC_PAGE_TOKENS, sizeof *r->token);
    r->table = calloc((size_t)(pair->sessions * spc_pages_for(pair->context)), sizeof *r->table);
    r->room = calloc((size_t)pair->sessions, sizeof *r->room);
    r->prefix = calloc((size_t)pair->context, sizeof *r->prefix);
    r->length = calloc((size_t)pair->sessions, sizeof *r->length);
    r->logits = calloc((size_t)(pair->sessions * SPC_LANE_ROWS * pair->vocab), sizeof *r->logits);
    cr_assert(r->token && r->table && r->room && r->prefix && r->length && r->logits);
    return r;
}

static uint64_t toy_now(void *user)
{
    return ((const toy_clock *)user)->now_ns;
}

spc_engine *toy_engine(const toy_pair *pair)
{
    spc_engine *engine;
    spc_error error;

    cr_assert(pair->vocab >= 2 && pair->vocab <= TOY_VOCAB);
    cr_assert_eq(spc_engine_assemble(&toy_ops, NULL, toy_runner(pair, true),
                                     toy_runner(pair, false), pair->vocab, pair->context,
                                     pair->sessions, &engine, &error),
                 SPC_OK);
    spc_pages_close(&engine->pages);
    cr_assert(spc_pages_open(&engine->pages, pages_of(pair)));
    if (pair->clock) engine->clock = (spc_clock){toy_now, pair->clock};
    return engine;
}

void toy_look_up(spc_engine *engine, int32_t least, int32_t most)
{
    toy_unload(engine->drafter.runner);
    engine->drafter.runner = NULL;
    engine->ngram = (spc_ngram_span){least, most};
}

void toy_stop_at(spc_engine *engine, int32_t token)
{
    engine->verifier.config.stop_count = 1;
    engine->verifier.config.stop[0] = token;
}

int64_t toy_rows(const spc_runner *runner)
{
    return runner->rows;
}

/* ---- the target in double ---------------------------------------------------------------------
 */

typedef struct {
    double q[TOY_VOCAB], p[TOY_VOCAB], q1[TOY_VOCAB], p1[TOY_VOCAB];
    int32_t vocab;
} rows;

static int32_t top_of(const double *x, int32_t n)
{
    int32_t best = 0;

    for (int32_t i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}

static void softmax(const float *z, int32_t n, double temperature, double *out)
{
    double max = -DBL_MAX, sum = 0;

    for (int32_t i = 0; i < n; i++) max = z[i] > max ? z[i] : max;
    for (int32_t i = 0; i < n; i++) sum += out[i] = exp((z[i] - max) / temperature);
    for (int32_t i = 0; i < n; i++) out[i] /= sum;
}

static void one_hot(const double *x, int32_t n, double *out)
{
    int32_t top = top_of(x, n);

    for (int32_t i = 0; i < n; i++) out[i] = i == top;
}

static double distance(const rows *r)
{
    double sum = 0;

    for (int32_t i = 0; i < r->vocab; i++) sum += fmax(0, r->p[i] - r->q[i]);
    return sum;
}

static double entropy(const double *x, int32_t n)
{
    double sum = 0;

    for (int32_t i = 0; i < n; i++) sum -= x[i] > 0 ? x[i] * log(x[i]) : 0;
    return sum;
}

/* As the entropy of the mean less the mean of the entropies. */
static double jensen_shannon(const rows *r)
{
    double mean[TOY_VOCAB];

    for (int32_t i = 0; i < r->vocab; i++) mean[i] = (r->q[i] + r->p[i]) / 2;
    return entropy(mean, r->vocab) - (entropy(r->q, r->vocab) + entropy(r->p, r->vocab)) / 2;
}

/* Row rules: 1 defers, 0 keeps; -1: not a row rule. */
static int defers(const rows *r, spc_rule_kind kind, double a)
{
    int32_t n = r->vocab;
    double mq = r->q1[top_of(r->q1, n)], mp = r->p1[top_of(r->p1, n)];

    switch (kind) {
    case SPC_RULE_STRICT:
    case SPC_RULE_VERIFIER_ONLY: return 1;
    case SPC_RULE_DRAFTER_ONLY: return 0;
    case SPC_RULE_CHOW: return mq < 1 - a;
    case SPC_RULE_DIFF: return mq < mp - a;
    case SPC_RULE_OPT: return mq < mp - a * distance(r);
    case SPC_RULE_CHOW_LOG: return entropy(r->q1, n) > a;
    case SPC_RULE_DIFF_LOG: return entropy(r->q1, n) > entropy(r->p1, n) + a;
    case SPC_RULE_OPT_LOG: return entropy(r->q1, n) > entropy(r->p1, n) + a * distance(r);
    case SPC_RULE_BILD: return -log(r->p1[top_of(r->q1, n)]) > a;
    case SPC_RULE_FUZZY: return jensen_shannon(r) > a;
    default: return -1;
    }
}

static bool selects(const rows *r, spc_rule_kind kind, double a, bool nucleus, int32_t v)
{
    double mp = r->p1[top_of(r->p1, r->vocab)];

    if (r->p1[v] <= 0 || (nucleus && r->p[v] <= 0)) return false;
    if (kind == SPC_RULE_TOKEN_V1) return r->q1[v] >= mp - a;
    if (a < 0) return false;
    return r->p1[v] >= (kind == SPC_RULE_TOKEN_V2 ? mp - a : (1 - a) * mp);
}

static void lossy(const rows *r, double a, bool solve, double *pi)
{
    double l = 1 - a, rejected = 0, lo = 0, hi = 1;

    for (int32_t i = 0; i < r->vocab; i++) rejected += fmax(0, r->q[i] - r->p[i] / l);
    if (!solve) {
        for (int32_t i = 0; i < r->vocab; i++) {
            pi[i] = fmin(r->q[i], r->p[i] / l);
            if (rejected > 0) pi[i] += rejected / distance(r) * fmax(0, r->p[i] - r->q[i]);
        }
        return;
    }
    for (int step = 0; step < 200; step++) { /* 1/beta by bisection, unlike the product */
        double s = (lo + hi) / 2, mass = 0;

        for (int32_t i = 0; i < r->vocab; i++) mass += fmax(0, s * r->p[i] - r->q[i]);
        *(mass < rejected ? &lo : &hi) = s;
    }
    for (int32_t i = 0; i < r->vocab; i++) {
        pi[i] = fmax(fmin(r->q[i], r->p[i] / l), rejected > 0 ? lo * r->p[i] : 0);
    }
}

/* The verifier's or the drafter's row on the head of the verifier's, renormalised. */
static void cut_to_head(const rows *r, double a, bool nucleus, bool drafter, double *pi)
{
    double q = 0, sum = 0;

    for (int32_t v = 0; v < r->vocab; v++) {
        q += selects(r, SPC_RULE_TOKEN_V3, a, nucleus, v) ? r->q[v] : 0;
    }
    for (int32_t v = 0; v < r->vocab; v++) {
        pi[v] = selects(r, SPC_RULE_TOKEN_V3, a, nucleus, v)
                    ? (drafter && q > 0 ? r->q[v] : r->p[v])
                    : 0;
        sum += pi[v];
    }
    for (int32_t v = 0; v < r->vocab; v++) pi[v] /= sum;
}

/* The verifier's row on its nucleus, renormalised. */
static void cut_to_nucleus(const rows *r, double top_p, double *pi)
{
    double mass = 0, last = INFINITY, sum = 0;

    while (mass < top_p) { /* one value after the other from above, with all that tie */
        double next = 0;

        for (int32_t v = 0; v < r->vocab; v++) {
            if (r->p[v] < last) next = fmax(next, r->p[v]);
        }
        for (int32_t v = 0; v < r->vocab; v++) mass += r->p[v] == next ? next : 0;
        last = next;
    }
    for (int32_t v = 0; v < r->vocab; v++) sum += r->p[v] >= last ? r->p[v] : 0;
    for (int32_t v = 0; v < r->vocab; v++) pi[v] = r->p[v] >= last ? r->p[v] / sum : 0;
}

static double kl_of(const double *x, const double *y, int32_t n)
{
    double sum = 0;

    for (int32_t v = 0; v < n; v++) sum += x[v] > 0 ? x[v] * log(x[v] / y[v]) : 0;
    return sum;
}

/* lossy at the smallest factor that keeps KL(p, pi) within the budget. */
static void mentored(const rows *r, double budget, double *pi)
{
    double lo = 1e-6, hi = 1;

    for (int step = 0; step < 60; step++) {
        double l = (lo + hi) / 2;

        lossy(r, 1 - l, true, pi);
        *(kl_of(r->p, pi, r->vocab) <= budget ? &hi : &lo) = l;
    }
    lossy(r, 1 - hi, true, pi);
    if (kl_of(r->p, r->q, r->vocab) <= budget) memcpy(pi, r->q, sizeof *pi * (size_t)r->vocab);
}

/* Outside the head, what strict would reject is spread as strict spreads it. */
static void head(const rows *r, double a, bool nucleus, double *pi)
{
    double missing = 0;

    for (int32_t v = 0; v < r->vocab; v++) {
        bool in = selects(r, SPC_RULE_TOKEN_V3, a, nucleus, v);

        pi[v] = in ? r->q[v] : fmin(r->q[v], r->p[v]);
        missing += r->q[v] - pi[v];
    }
    for (int32_t v = 0; v < r->vocab && missing > 0; v++) {
        pi[v] += missing * fmax(0, r->p[v] - r->q[v]) / distance(r);
    }
}

static void typical(const rows *r, double eps, double *pi)
{
    double least = fmin(eps, sqrt(eps) * exp(-entropy(r->p, r->vocab))), rest = 1;

    for (int32_t v = 0; v < r->vocab; v++) {
        pi[v] = r->p[v] > 0 && r->p[v] >= least ? r->q[v] : 0;
        rest -= pi[v];
    }
    pi[top_of(r->p, r->vocab)] += rest;
}

/* Targets that are none of the paper's; false: the rule is another. */
static bool comparator(const rows *r, spc_rule_kind kind, double a, bool nucleus, double *pi)
{
    switch (kind) {
    case SPC_RULE_TRUNCATE: cut_to_head(r, a, nucleus, false, pi); return true;
    case SPC_RULE_TRUNCATE_P: cut_to_nucleus(r, a, pi); return true;
    case SPC_RULE_MENTORED: mentored(r, a, pi); return true;
    case SPC_RULE_TRUNCATE_Q: cut_to_head(r, a, nucleus, true, pi); return true;
    case SPC_RULE_HEAD: head(r, a, nucleus, pi); return true;
    case SPC_RULE_TYPICAL: typical(r, a, pi); return true;
    case SPC_RULE_ENSEMBLE:
        for (int32_t v = 0; v < r->vocab; v++) pi[v] = (1 - a) * r->q[v] + a * r->p[v];
        return true;
    default: return false;
    }
}

void toy_target(const toy_pair *pair, const toy_law *law, const int32_t *prefix, int32_t count,
                double *pi)
{
    float zq[TOY_VOCAB], zp[TOY_VOCAB];

    toy_logits(pair, true, prefix, count, zq);
    toy_logits(pair, false, prefix, count, zp);
    toy_target_of(zq, zp, pair->vocab, law, pi);
}

void toy_target_of(const float *zq, const float *zp, int32_t vocab, const toy_law *law, double *pi)
{
    rows r = {.vocab = vocab};
    spc_rule rule;
    double eta = 0;

    cr_assert(spc_rule_parse(law->rule, &rule, NULL));
    softmax(zq, r.vocab, 1, r.q1);
    softmax(zp, r.vocab, 1, r.p1);
    if (law->temperature > 0) {
        softmax(zq, r.vocab, (double)law->temperature, r.q);
        softmax(zp, r.vocab, (double)law->temperature, r.p);
    } else {
        one_hot(r.q1, r.vocab, r.q);
        one_hot(r.p1, r.vocab, r.p);
    }

    spc_rule_kind kind = (spc_rule_kind)rule.kind;
    int row_rule = defers(&r, kind, rule.alpha);
    bool nucleus = law->nucleus && law->temperature > 0;

    if (row_rule >= 0) {
        memcpy(pi, row_rule ? r.p : r.q, sizeof(double) * (size_t)r.vocab);
        return;
    }
    if (kind == SPC_RULE_LOSSY) {
        lossy(&r, rule.alpha, rule.solve != 0, pi);
        return;
    }
    if (comparator(&r, kind, rule.alpha, nucleus, pi)) return;
    for (int32_t v = 0; v < r.vocab; v++) {
        eta += selects(&r, kind, rule.alpha, nucleus, v) ? 0 : r.q[v];
    }
    for (int32_t v = 0; v < r.vocab; v++) {
        pi[v] = (selects(&r, kind, rule.alpha, nucleus, v) ? r.q[v] : 0) + eta * r.p[v];
    }
}

/* ---- every outcome once -----------------------------------------------------------------------
 */

/* Take the scripted choice, or the first one where the script ends. */
static int32_t choose(toy_script *s, int32_t choices)
{
    cr_assert_lt(s->asked, 256, "a run asks fewer questions than the script holds");
    if (s->asked == s->known) {
        s->choice[s->known] = 0;
        s->choices[s->known] = choices;
        s->known++;
    }
    cr_assert_eq(s->choices[s->asked], choices, "the same script, the same questions");
    return s->choice[s->asked++];
}

static bool script_keep(void *user, float kept, float drafter)
{
    toy_script *s = user;
    double p = (double)kept / (double)drafter;
    bool keep = choose(s, 2) == 0;

    s->probability *= keep ? p : 1 - p;
    return keep;
}

static int32_t script_pick(void *user, const float *weight, int32_t count)
{
    toy_script *s = user;
    double sum = 0;
    int32_t positive = 0, picked = -1;

    for (int32_t i = 0; i < count; i++) {
        sum += (double)weight[i];
        positive += weight[i] > 0;
    }
    cr_assert_gt(positive, 0);

    int32_t wanted = choose(s, positive);

    for (int32_t i = 0; i < count && wanted >= 0; i++) {
        if (weight[i] > 0 && wanted-- == 0) picked = i;
    }
    s->probability *= (double)weight[picked] / sum;
    return picked;
}

void toy_script_begin(toy_script *script)
{
    memset(script, 0, sizeof *script);
    script->chance.user = script;
    script->chance.keep = script_keep;
    script->chance.pick = script_pick;
}

void toy_script_run(toy_script *script)
{
    script->asked = 0;
    script->probability = 1;
}

bool toy_script_next(toy_script *s)
{
    s->known = s->asked; /* what lay behind a changed choice is forgotten */
    while (s->known > 0 && s->choice[s->known - 1] + 1 == s->choices[s->known - 1]) s->known--;
    if (s->known == 0) return false;
    s->choice[s->known - 1]++;
    return true;
}
