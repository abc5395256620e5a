/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_line.c - a point as a JSON object: its settings, counters and rates. */
#include "bench/sweep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RESAMPLES = 1000 };

static double sum_of(const int64_t *counts)
{
    double sum = 0.0;

    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) sum += (double)counts[i];
    return sum;
}

/* Null where there is nothing to divide by. */
static json_t *ratio(double a, double b)
{
    return b > 0.0 ? json_real(a / b) : json_null();
}

/* Draft positions that a point has used: gamma, or what a strategy without one has drafted. */
static int32_t positions_of(const sweep_point *p, const spc_stats *t)
{
    int32_t count = p->gamma;

    for (int32_t i = count; i < SPC_GAMMA_MAX; i++) {
        if (t->drafted[i] > 0) count = i + 1;
    }
    return count;
}

static json_t *counts_of(const int64_t *counts, int32_t positions)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < positions; i++) {
        (void)json_array_append_new(array, json_integer(counts[i]));
    }
    return array;
}

static json_t *ratios_of(const int64_t *a, const int64_t *b, int32_t positions)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < positions; i++) {
        (void)json_array_append_new(array, ratio((double)a[i], (double)b[i]));
    }
    return array;
}

static void set(json_t *line, const char *name, json_t *value)
{
    (void)json_object_set_new(line, name, value);
}

/* Key, setup and point. */
static json_t *begin_line(const json_t *setup, const sweep_point *p)
{
    char key[SWEEP_KEY_BYTES];
    json_t *line;

    sweep_point_key(p, key);
    line =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:f, s:f, s:i, s:f, s:s, s:b, s:s}", "key", key,
                  "bench", "sweep", "rule", p->rule, "gamma", (int)p->gamma, "batch", (int)p->batch,
                  "temperature", p->temperature, "top_p", p->top_p, "top_k", (int)p->top_k, "min_p",
                  p->min_p, "verify", p->verify == SPC_VERIFY_BLOCK ? "block" : "token", "nucleus",
                  (int)p->nucleus, "bonus_mode", sweep_bonuses[p->bonus]);
    if (line && json_object_update(line, (json_t *)(uintptr_t)setup) == 0) return line;
    json_decref(line);
    return NULL;
}

json_t *sweep_line_failed(const json_t *setup, const sweep_point *point, const char *why)
{
    json_t *line = begin_line(setup, point);

    if (line) set(line, "failed", json_string(why));
    return line;
}

/* The metric over all seeds, of each seed, and how far these are apart (standard deviation). */
static void set_quality(json_t *line, const sweep_job *job, const sweep_outcome *out)
{
    const quality_metric *metric = job->metric;
    int32_t examples = job->data->count, seeds = job->seeds;
    double low, high, mean = 0.0, squares = 0.0;
    json_t *values = json_array();

    quality_bootstrap(metric, out->counts, seeds, examples, RESAMPLES, 1, &low, &high);
    set(line, "value", json_real(quality_score(metric, out->counts, seeds * examples)));
    set(line, "ci_low", json_real(low));
    set(line, "ci_high", json_real(high));
    for (int32_t s = 0; s < seeds; s++) {
        const double *counts = out->counts + (size_t)s * (size_t)examples * (size_t)metric->counts;
        double value = quality_score(metric, counts, examples), step = value - mean;

        mean += step / (s + 1);
        squares += step * (value - mean);
        (void)json_array_append_new(values, json_real(value));
    }
    set(line, "value_by_seed", values);
    set(line, "seed_spread", seeds > 1 ? json_real(sqrt(squares / (seeds - 1))) : json_null());
    if (metric->runs_tests) {
        double late = 0.0;

        for (int32_t i = 0; i < seeds * examples; i++) late += out->counts[i * metric->counts + 1];
        set(line, "tests_timed_out", json_integer((json_int_t)late));
    }
}

static void set_counters(json_t *line, const spc_stats *t, int32_t positions)
{
    double verified = sum_of(t->verified), tokens = (double)t->tokens;
    double accepted = sum_of(t->accepted), deferred = sum_of(t->deferred);

    set(line, "tokens", json_integer(t->tokens));
    set(line, "rounds", json_integer(t->rounds));
    set(line, "verifier_calls", json_integer(t->verifier_calls));
    set(line, "drafter_calls", json_integer(t->drafter_calls));
    set(line, "prefill_calls", json_integer(t->prefill_calls));
    set(line, "verifier_calls_per_token", ratio((double)t->verifier_calls, tokens));
    set(line, "drafter_calls_per_token", ratio((double)t->drafter_calls, tokens));
    set(line, "tokens_per_verifier_call", ratio(tokens, (double)t->verifier_calls));
    set(line, "tokens_per_round", ratio(tokens, (double)t->rounds));
    set(line, "acceptance_rate", ratio(accepted, verified));
    set(line, "rejection_rate", ratio(sum_of(t->rejected), verified));
    set(line, "deferral_rate", ratio(deferred, verified));
    set(line, "deferred_per_token", ratio(deferred + (double)t->bonus_deferred, tokens));
    set(line, "accepted_per_drafted", ratio(accepted, sum_of(t->drafted)));
    set(line, "bonus", json_integer(t->bonus));
    set(line, "discarded", json_integer(t->discarded));
    set(line, "zero_residuals", json_integer(t->zero_residuals));
    set(line, "drafted_by_position", counts_of(t->drafted, positions));
    set(line, "verified_by_position", counts_of(t->verified, positions));
    set(line, "accepted_by_position", counts_of(t->accepted, positions));
    set(line, "rejected_by_position", counts_of(t->rejected, positions));
    set(line, "deferred_by_position", counts_of(t->deferred, positions));
    set(line, "acceptance_by_position", ratios_of(t->accepted, t->verified, positions));
    set(line, "deferral_by_position", ratios_of(t->deferred, t->verified, positions));
}

static void set_cost(json_t *line, const sweep_outcome *out)
{
    const spc_stats *t = &out->total;
    double seconds = (double)sweep_step_ns(t) * 1e-9, paired = (double)out->paired_ns;
    double alone = (double)out->verifier_ns, tokens = (double)out->paired_tokens;
    double alone_tokens = (double)out->verifier_tokens;

    set(line, "seconds", json_real(seconds));
    set(line, "draft_seconds", json_real((double)t->draft_ns * 1e-9));
    set(line, "verify_seconds", json_real((double)t->verify_ns * 1e-9));
    set(line, "tokens_per_s", ratio((double)t->tokens, seconds));
    set(line, "relative_latency", ratio(paired, alone));
    set(line, "seconds_per_1000_tokens", ratio(paired * 1e-6, tokens));
    set(line, "verifier_seconds_per_1000_tokens", ratio(alone * 1e-6, alone_tokens));
    set(line, "relative_cost_per_token", ratio(paired * alone_tokens, alone * tokens));
}

/* How texts ended, how long they are, whether they go in circles. */
static void set_lengths(json_t *line, const sweep_outcome *out, const json_t *base)
{
    double tokens = (double)out->total.tokens, texts = 0.0;
    json_t *finish = json_object();
    char hash[24];

    for (int32_t i = 0; i < SPC_FINISH_COUNT; i++) {
        texts += (double)out->finished[i];
        if (out->finished[i] == 0) continue;
        set(finish, spc_finish_name((spc_finish)i), json_integer(out->finished[i]));
    }
    set(line, "length_ratio",
        ratio(tokens, base ? json_number_value(json_object_get(base, "tokens")) : tokens));
    /* a full context cuts a text no less, and is all that does with --max-tokens 0 */
    set(line, "at_limit",
        ratio((double)(out->finished[SPC_FINISH_MAX_TOKENS] + out->finished[SPC_FINISH_CONTEXT]),
              texts));
    set(line, "finish", finish);
    set(line, "repetition_rate", ratio((double)out->repeated, (double)out->grams));
    (void)snprintf(hash, sizeof hash, "%016llx", (unsigned long long)out->hash);
    set(line, "output_hash", json_string(hash));
}

json_t *sweep_line(const json_t *setup, const sweep_job *job, const sweep_point *point,
                   const sweep_outcome *out, const json_t *base)
{
    json_t *line = begin_line(setup, point);

    if (!line) return NULL;
    set_quality(line, job, out);
    set_counters(line, &out->total, positions_of(point, &out->total));
    set_cost(line, out);
    set_lengths(line, out, base);
    return line;
}
