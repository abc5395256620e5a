/* SPDX-License-Identifier: Apache-2.0 */
/* cli_decode.c - from the options of a command to an engine and to how its sessions decode. */
#include "cli_decode.h"

#include "session.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

void spc_cli_decode_init(spc_cli_decode *d)
{
    spc_session_options session;

    spc_session_options_init(&session);
    d->rule = session.rule;
    d->device = "auto";
    d->gamma = session.gamma;
    d->tp = d->drafter_tp = 1;
    d->temperature = (double)session.temperature;
    d->top_p = (double)session.top_p;
    d->most_latency = d->least_quality = (double)NAN; /* no default */
}

static void session_options(const spc_cli_decode *d, spc_session_options *o)
{
    spc_session_options_init(o);
    o->rule = d->rule;
    o->gamma = d->gamma;
    o->temperature = (float)d->temperature;
    o->top_k = d->top_k;
    o->top_p = (float)d->top_p;
    o->min_p = (float)d->min_p;
    o->seed = d->seed;
    o->max_tokens = d->max_tokens;
    o->verify = (spc_verify_mode)d->verify;
    o->bonus = (spc_bonus_mode)d->bonus;
    o->nucleus = !d->no_nucleus;
    o->ignore_stop = d->ignore_stop;
    o->stop = d->stop.item;
    o->stop_count = d->stop.count;
}

/* Let an operating point choose, and say which. */
static spc_status take_point(const spc_cli_decode *d, const spc_cli_line *line, spc_cli_way *way,
                             spc_error *err)
{
    static const char *const chosen[] = {"rule",  "gamma",  "temperature", "top-p",     "top-k",
                                         "min-p", "verify", "bonus",       "no-nucleus"};
    spc_cli_limits limits = {spc_cli_given(line, "max-relative-latency"),
                             spc_cli_given(line, "min-quality"), d->most_latency, d->least_quality};
    spc_session_options *o = &way->options;
    const spc_cli_point *p = &way->point;
    spc_status status;

    if (!d->points) {
        if (!limits.has_latency && !limits.has_quality) return SPC_OK;
        return spc_error_set(err, SPC_EUSAGE, "--%s needs --operating-point FILE",
                             limits.has_latency ? "max-relative-latency" : "min-quality");
    }
    for (size_t i = 0; i < sizeof chosen / sizeof *chosen; i++) {
        if (!spc_cli_given(line, chosen[i])) continue;
        return spc_error_set(err, SPC_EUSAGE,
                             "--%s is chosen by --operating-point: give one of them", chosen[i]);
    }
    status = spc_cli_choose_point(d->points, &limits, &way->point, err);
    if (status != SPC_OK) return status;
    o->rule = p->rule;
    o->gamma = p->gamma;
    o->temperature = (float)p->temperature;
    o->top_p = (float)p->top_p;
    o->top_k = p->top_k;
    o->min_p = (float)p->min_p;
    o->nucleus = p->nucleus;
    o->verify = (spc_verify_mode)p->verify;
    o->bonus = (spc_bonus_mode)p->bonus;
    if (!d->quiet) {
        (void)fprintf(
            stderr,
            "spc: operating point: %s, gamma %" PRId32
            ", temperature %g, top-p %g: quality %.2f at %.2f times the verifier's time\n",
            p->rule, p->gamma, p->temperature, p->top_p, p->quality, p->latency);
    }
    return SPC_OK;
}

spc_status spc_cli_decode_way(const spc_cli_decode *decode, const spc_cli_line *line,
                              spc_cli_way *out, spc_error *err)
{
    bool sequential;
    spc_status status;

    session_options(decode, &out->options);
    status = take_point(decode, line, out, err);
    if (status != SPC_OK) return status;
    return spc_cli_rule(out->options.rule, out->rule, &sequential, err);
}

/* Warnings alone: the rest of the engine's log is on the result or of no use here. */
static void on_log(void *user, const char *line)
{
    (void)user;
    if (strncmp(line, "warning: ", 9) != 0) return;
    spc_cli_progress(NULL);
    (void)fprintf(stderr, "spc: %s\n", line);
}

spc_status spc_cli_decode_open(const spc_cli_decode *decode, int32_t sessions, spc_engine **out,
                               spc_error *err)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = decode->verifier;
    o.drafter = strcmp(decode->drafter, "none") == 0 ? NULL : decode->drafter;
    o.sessions = sessions;
    o.context = decode->context;
    o.device = decode->device;
    o.tp = decode->tp;
    o.drafter_tp = decode->drafter_tp;
    o.threads = decode->threads;
    o.isa = decode->isa;
    o.weights = decode->weights;
    o.fast_prefill = decode->fast_prefill;
    o.log = on_log;
    o.progress = spc_cli_loading;
    return spc_engine_open(&o, out, err);
}

/* ---- statistics ------------------------------------------------------------------------------ */

int32_t spc_cli_positions(const spc_cli_way *way)
{
    spc_rule rule;

    if (spc_rule_parse(way->rule, &rule, NULL) && rule.kind == SPC_RULE_BILD_DYNAMIC) {
        return rule.window;
    }
    return way->options.gamma;
}

void spc_cli_total_init(spc_cli_total *total)
{
    memset(total, 0, sizeof *total);
    total->stats.output_hash = SPC_HASH_NONE;
}

void spc_cli_total_add(spc_cli_total *total, const spc_stats *stats, spc_finish finish,
                       const int32_t *tokens, int32_t count)
{
    spc_cli_stats_add(&total->stats, stats);
    total->stats.output_hash = spc_hash_tokens(total->stats.output_hash, tokens, count);
    total->finished[finish]++;
    total->sequences++;
}

static void print_positions(const char *name, const int64_t *by_position, int32_t gamma)
{
    (void)fprintf(stderr, ", %s %" PRId64, name, spc_cli_sum(by_position));
    for (int32_t i = 0; i < gamma; i++) {
        (void)fprintf(stderr, "%s%" PRId64, i == 0 ? " (" : " ", by_position[i]);
    }
    if (gamma > 0) (void)fprintf(stderr, ")");
}

void spc_cli_total_print(const char *of, const spc_cli_total *total, const spc_cli_way *way)
{
    const spc_stats *t = &total->stats;
    int32_t gamma = spc_cli_positions(way);

    spc_cli_progress(NULL);
    (void)fprintf(stderr, "spc: %s%s: %" PRId64 " tokens, %.0f tokens/s, %" PRId64 " rounds", of,
                  way->rule, t->tokens, spc_cli_ratio((double)t->tokens, spc_cli_seconds(t)),
                  t->rounds);
    (void)fprintf(stderr, ", %.2f tokens per verifier call",
                  spc_cli_ratio((double)t->tokens, (double)t->verifier_calls));
    print_positions("accepted", t->accepted, gamma);
    print_positions("rejected", t->rejected, gamma);
    print_positions("deferred", t->deferred, gamma);
    (void)fprintf(stderr, ", drafter %.1f ms, verifier %.1f ms, other %.1f ms",
                  (double)t->draft_ns * 1e-6, (double)t->verify_ns * 1e-6,
                  (double)t->other_ns * 1e-6);
    (void)fprintf(stderr, ", finish");
    for (int32_t i = 0; i < SPC_FINISH_COUNT; i++) {
        if (total->finished[i] == 0) continue;
        (void)fprintf(stderr, " %s", spc_finish_name((spc_finish)i));
        if (total->sequences > 1) (void)fprintf(stderr, " %" PRId64, total->finished[i]);
    }
    (void)fprintf(stderr, ", hash %016" PRIx64 "\n", t->output_hash);
}
