/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_decode.c - all examples under one point of the grid: texts counted, steps timed. */
#include "bench/sweep.h"

#include "rules/kinds.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PAIRED = 4, GRAM = 4 };

uint64_t sweep_step_ns(const spc_stats *s)
{
    return s->draft_ns + s->verify_ns + s->other_ns;
}

/* ---- sums -------------------------------------------------------------------------------------*/

static void add_stats(spc_stats *t, const spc_stats *s)
{
    t->prompt_tokens += s->prompt_tokens;
    t->tokens += s->tokens;
    t->rounds += s->rounds;
    t->verifier_calls += s->verifier_calls;
    t->drafter_calls += s->drafter_calls;
    t->prefill_calls += s->prefill_calls;
    t->zero_residuals += s->zero_residuals;
    t->bonus += s->bonus;
    t->bonus_deferred += s->bonus_deferred;
    t->discarded += s->discarded;
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) {
        t->drafted[i] += s->drafted[i];
        t->verified[i] += s->verified[i];
        t->accepted[i] += s->accepted[i];
        t->rejected[i] += s->rejected[i];
        t->deferred[i] += s->deferred[i];
    }
    t->draft_ns += s->draft_ns;
    t->verify_ns += s->verify_ns;
    t->other_ns += s->other_ns;
}

/* Count runs of GRAM tokens, and those that stood in the same text before. */
static void add_grams(const int32_t *ids, int32_t count, sweep_outcome *out)
{
    for (int32_t i = 0; i + GRAM <= count; i++) {
        int32_t k = 0;

        while (k < i && memcmp(ids + k, ids + i, GRAM * sizeof *ids) != 0) k++;
        out->repeated += k < i;
        out->grams++;
    }
}

static uint64_t fnv(uint64_t hash, uint64_t value)
{
    for (int32_t i = 0; i < 64; i += 8) hash = (hash ^ (value >> i & 0xff)) * 0x100000001b3u;
    return hash;
}

/* ---- one turn ---------------------------------------------------------------------------------*/

/* Examples [first, end) under one rule and seed. */
typedef struct {
    const sweep_job *job;
    const sweep_point *point;
    const char *rule;
    int64_t seed;
    int32_t first, end;
    sweep_outcome *out; /* NULL: only the time is wanted */
    double *counts;     /* [examples, metric->counts] of this seed */
    uint64_t *hashes;   /* [examples] of this seed */
    uint64_t ns;
    int64_t tokens;
} turn;

/* One that is being decoded. */
typedef struct {
    spc_session *session[SWEEP_BATCH_MAX];
    int32_t index[SWEEP_BATCH_MAX];
    int32_t count;
} company;

static spc_status with_line(const turn *t, int32_t index, spc_status status, const char *message,
                            spc_error *err)
{
    return spc_error_set(err, status, "line %" PRId64 ": %s", t->job->data->example[index].line,
                         message);
}

static spc_status open_session(const turn *t, int32_t index, spc_session **out, spc_error *err)
{
    const sweep_example *e = &t->job->data->example[index];
    spc_session_options o;
    spc_error inner;
    spc_rule rule;
    spc_status status;

    spc_session_options_init(&o);
    o.rule = t->rule;
    o.gamma = t->point->gamma;
    o.temperature = (float)t->point->temperature;
    o.top_p = (float)t->point->top_p;
    o.top_k = t->point->top_k;
    o.min_p = (float)t->point->min_p;
    o.verify = t->point->verify;
    o.nucleus = t->point->nucleus;
    o.bonus = t->point->bonus;
    if (spc_rule_parse(t->rule, &rule, NULL) && spc_rule_needs_draft((spc_rule_kind)rule.kind)) {
        o.bonus = SPC_BONUS_STEP; /* it takes no other */
    }
    o.seed = (uint64_t)t->seed * 1000003u + (uint64_t)index;
    o.max_tokens = t->job->max_tokens;
    o.stop_token = &t->job->stop_token;
    o.stop_token_count = t->job->stop_token >= 0;
    status = spc_session_open(t->job->engine, &o, e->ids, e->count, out, &inner);
    return status == SPC_OK ? SPC_OK : with_line(t, index, status, inner.message, err);
}

/* What a finished session brings. */
static spc_status count_session(turn *t, const spc_session *session, int32_t index, spc_error *err)
{
    const sweep_example *e = &t->job->data->example[index];
    const quality_metric *metric = t->job->metric;
    quality_expected expected = {e->reference, e->before, e->tests, t->job->python};
    const int32_t *ids;
    int32_t count;
    spc_stats stats;
    spc_error inner;
    char *text = NULL;
    spc_status status;

    spc_session_stats(session, &stats);
    t->ns += sweep_step_ns(&stats);
    t->tokens += stats.tokens;
    if (!t->out) return SPC_OK;
    add_stats(&t->out->total, &stats);
    t->out->finished[spc_session_finish(session)]++;
    t->hashes[index] = stats.output_hash;
    ids = spc_session_tokens(session, &count);
    add_grams(ids, count, t->out);
    status = spc_session_text(session, &text, NULL, &inner);
    if (status != SPC_OK) return with_line(t, index, status, inner.message, err);
    if (!metric->count(text, &expected, t->counts + (size_t)index * (size_t)metric->counts)) {
        status = spc_error_set(err, SPC_ENOMEM, "metric %s: %s", metric->name, strerror(errno));
    }
    free(text);
    return status;
}

static spc_status step(turn *t, company *c, spc_error *err)
{
    spc_error inner;
    spc_status status = spc_engine_step(t->job->engine, c->session, c->count, &inner);

    for (int32_t i = 0; status != SPC_OK && i < c->count; i++) {
        if (!spc_session_error(c->session[i])) continue;
        return with_line(t, c->index[i], status, inner.message, err);
    }
    if (status != SPC_OK) return spc_error_set(err, status, "%s", inner.message);
    for (int32_t i = 0; i < c->count && status == SPC_OK;) {
        if (spc_session_finish(c->session[i]) == SPC_FINISH_RUNNING) {
            i++;
            continue;
        }
        status = count_session(t, c->session[i], c->index[i], err);
        spc_session_close(c->session[i]);
        c->session[i] = c->session[--c->count];
        c->index[i] = c->index[c->count];
    }
    return status;
}

/* As many as the batch holds at once; one that ends makes room for the next. */
static spc_status run_turn(turn *t, spc_error *err)
{
    company c = {.count = 0};
    int32_t next = t->first;
    spc_status status = SPC_OK;

    t->ns = 0;
    t->tokens = 0;
    while (status == SPC_OK && !*t->job->stop && (next < t->end || c.count > 0)) {
        while (status == SPC_OK && next < t->end && c.count < t->point->batch) {
            status = open_session(t, next, &c.session[c.count], err);
            if (status != SPC_OK) break;
            c.index[c.count++] = next++;
        }
        if (status == SPC_OK) status = step(t, &c, err);
    }
    for (int32_t i = 0; i < c.count; i++) spc_session_close(c.session[i]);
    return status;
}

/* A turn, and the verifier alone on its examples: behind it, or before it when first. */
static spc_status run_paired(turn *t, bool verifier_first, sweep_outcome *out, spc_error *err)
{
    turn alone = *t;
    spc_status status = SPC_OK;

    alone.rule = "verifier-only";
    alone.out = NULL;
    if (verifier_first) status = run_turn(&alone, err);
    if (status == SPC_OK) status = run_turn(t, err);
    if (status == SPC_OK && !verifier_first) status = run_turn(&alone, err);
    out->paired_ns += t->ns;
    out->paired_tokens += t->tokens;
    out->verifier_ns += alone.ns;
    out->verifier_tokens += alone.tokens;
    return status;
}

/* ---- a point ----------------------------------------------------------------------------------*/

/* Examples in a turn: one, or several batches, so that a batch is full most of the time, but at
 * least eight turns in all where the data allows it. */
static int32_t turn_length(int32_t examples, int32_t batch)
{
    int32_t length = batch == 1 ? 1 : 4 * batch;

    if (length > examples / 8) length = examples / 8;
    return length > batch ? length : batch;
}

spc_status sweep_decode(const sweep_job *job, const sweep_point *point, sweep_outcome *out,
                        bool *finished, spc_error *err)
{
    int32_t examples = job->data->count, length = turn_length(examples, point->batch), number = 0;
    uint64_t *hashes = calloc((size_t)examples, sizeof *hashes);
    double *counts = out->counts;
    spc_status status = SPC_OK;

    *out = (sweep_outcome){.counts = counts, .hash = 0xcbf29ce484222325u};
    *finished = false;
    if (!hashes) return spc_error_set(err, SPC_ENOMEM, "no memory for a point");
    for (int32_t s = 0; s < job->seeds && status == SPC_OK; s++) {
        size_t passed = (size_t)s * (size_t)examples;
        turn t = {.job = job,
                  .point = point,
                  .rule = point->rule,
                  .seed = job->seed[s],
                  .out = out,
                  .counts = counts + passed * (size_t)job->metric->counts,
                  .hashes = hashes};

        for (int32_t i = 0; i < examples && status == SPC_OK && !*job->stop; i = t.end) {
            t.first = i;
            t.end = examples - i < length ? examples : i + length;
            job->progress(job->user,
                          (double)(passed + (size_t)i) / ((double)examples * (double)job->seeds));
            status = number % PAIRED == 0 ? run_paired(&t, number / PAIRED % 2 == 1, out, err)
                                          : run_turn(&t, err);
            number++;
        }
        for (int32_t i = 0; i < examples; i++) out->hash = fnv(out->hash, hashes[i]);
    }
    free(hashes);
    *finished = status == SPC_OK && !*job->stop;
    return status;
}
