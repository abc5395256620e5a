/* SPDX-License-Identifier: Apache-2.0 */
/* cli_decode.c - from the options of a command to an engine and to how its sessions decode. */
#include "cli_decode.h"

#include "host/session.h"

#include <spc/verify.h>

#include <float.h>
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
    d->logprobs = -1;
    d->ranks = SPC_CLI_RANKS_NONE;
    d->temperature = (double)session.temperature;
    d->top_p = (double)session.top_p;
    d->repetition_penalty = (double)session.repetition_penalty;
    d->most_latency = d->least_quality = (double)NAN; /* no default */
}

float spc_cli_float(double x)
{
    return x > 0 && x < (double)FLT_MIN ? FLT_MIN : (float)x;
}

static void session_options(const spc_cli_decode *d, spc_session_options *o)
{
    spc_session_options_init(o);
    o->rule = d->rule;
    o->gamma = d->gamma;
    o->temperature = (float)d->temperature;
    o->top_k = d->top_k;
    o->top_p = spc_cli_float(d->top_p);
    o->min_p = (float)d->min_p;
    o->seed = d->seed;
    o->max_tokens = d->max_tokens;
    o->verify = (spc_verify_mode)d->verify;
    o->bonus = (spc_bonus_mode)d->bonus;
    o->nucleus = !d->no_nucleus;
    o->ignore_stop = d->ignore_stop;
    o->details = d->details;
    o->logprobs = d->logprobs >= 0;
    o->top_logprobs = d->logprobs >= 0 ? d->logprobs : 0;
    o->stop = d->stop.item;
    o->stop_count = d->stop.count;
    o->min_tokens = d->min_tokens;
    o->repetition_penalty = (float)d->repetition_penalty;
    o->presence_penalty = (float)d->presence_penalty;
    o->frequency_penalty = (float)d->frequency_penalty;
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
    o->top_p = spc_cli_float(p->top_p);
    o->top_k = p->top_k;
    o->min_p = (float)p->min_p;
    o->nucleus = p->nucleus;
    o->verify = (spc_verify_mode)p->verify;
    o->bonus = (spc_bonus_mode)p->bonus;
    spc_cli_point_warn(d->points, p, d->verifier, d->drafter, d->drafter_vocab);
    if (!d->quiet) {
        char more[SPC_CLI_MORE_BYTES];

        spc_cli_point_more(p, more);
        (void)fprintf(
            stderr,
            "spc: operating point: %s, gamma %" PRId32
            ", temperature %g, top-p %g%s: quality %.2f at %.2f times the verifier's time\n",
            p->rule, p->gamma, p->temperature, p->top_p, more, p->quality, p->latency);
    }
    return SPC_OK;
}

bool spc_cli_is_temperature(double t)
{
    return t == 0 || (t >= SPC_CLI_TEMPERATURE_LEAST && t <= SPC_CLI_TEMPERATURE_MOST);
}

/* Numbers as they were given: a session's are floats, to which 1e-300 is 0. */
static spc_status check_sampling(const spc_cli_decode *d, spc_error *err)
{
    if (!spc_cli_is_temperature(d->temperature)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--temperature: expected 0 (greedy) or %g to %g, found %.10g",
                             SPC_CLI_TEMPERATURE_LEAST, SPC_CLI_TEMPERATURE_MOST, d->temperature);
    }
    if (!(d->top_p > 0 && d->top_p <= 1)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--top-p: expected above 0 and at most 1, found %.10g", d->top_p);
    }
    for (int32_t i = 0; i < d->stop.count; i++) {
        if (d->stop.item[i][0]) continue;
        return spc_error_set(err, SPC_EUSAGE, "--stop: expected some text, found ''");
    }
    return SPC_OK;
}

/* "42:-1.5", "42:-inf" */
static bool read_bias(const char *text, spc_logit_bias *out)
{
    const char *colon = strchr(text, ':');
    char id[16];
    int64_t token;
    double bias = -(double)INFINITY;

    if (!colon || (size_t)(colon - text) >= sizeof id) return false;
    memcpy(id, text, (size_t)(colon - text));
    id[colon - text] = '\0';
    if (!spc_cli_read_int(id, 0, SPC_VOCAB_MAX - 1, &token)) return false;
    if (strcmp(colon + 1, "-inf") != 0 &&
        !spc_cli_read_real(colon + 1, -SPC_CLI_BIAS_MOST, SPC_CLI_BIAS_MOST, &bias)) {
        return false;
    }
    *out = (spc_logit_bias){(int32_t)token, (float)bias};
    return true;
}

static spc_status read_biases(const spc_cli_decode *d, spc_cli_way *way, spc_error *err)
{
    if (d->logit_bias.count > SPC_LOGIT_BIAS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "--logit-bias: expected at most %d, found %d",
                             SPC_LOGIT_BIAS_MAX, (int)d->logit_bias.count);
    }
    for (int32_t i = 0; i < d->logit_bias.count; i++) {
        if (read_bias(d->logit_bias.item[i], &way->bias[i])) continue;
        return spc_error_set(
            err, SPC_EUSAGE,
            "--logit-bias: expected a token's id and a number of %g to %g or -inf, "
            "such as 42:-1.5, found '%s'",
            -SPC_CLI_BIAS_MOST, SPC_CLI_BIAS_MOST, d->logit_bias.item[i]);
    }
    way->options.logit_bias = way->bias;
    way->options.logit_bias_count = d->logit_bias.count;
    return SPC_OK;
}

/* An n-gram drafter takes some rules.  A rule that there is not is told of elsewhere. */
static spc_status check_ngram(const spc_session_options *o, spc_error *err)
{
    spc_rule rule;

    if (!spc_rule_parse(o->rule, &rule, NULL)) return SPC_OK;
    return spc_ngram_check_rule(&rule, (int32_t)o->bonus, o->rule, err);
}

/* Without a drafter the verifier decodes alone. */
static spc_status check_drafter(const spc_cli_decode *d, const spc_cli_line *line,
                                spc_session_options *o, spc_error *err)
{
    spc_rule rule;

    if (spc_ngram_is(d->drafter)) return check_ngram(o, err);
    if (strcmp(d->drafter, "none") != 0) return SPC_OK;
    if (d->drafter_tp > 1 || (spc_overlap_mode)d->overlap == SPC_OVERLAP_ON) {
        const char *option = d->drafter_tp > 1 ? "drafter-tp" : "overlap";

        return spc_error_set(err, SPC_EUSAGE,
                             "--drafter none: there is no drafter for --%s: name one, or leave "
                             "--%s out",
                             option, option);
    }
    if (!d->points && !spc_cli_given(line, "rule")) o->rule = "verifier-only";
    if (!spc_rule_parse(o->rule, &rule, NULL) || rule.kind == SPC_RULE_VERIFIER_ONLY) return SPC_OK;
    return spc_error_set(
        err, SPC_EUSAGE, "--drafter none: rule %s%s needs a drafter: name one, or %s", o->rule,
        d->points ? " of the operating point" : "",
        d->points ? "choose another point" : "leave --rule out to decode with the verifier alone");
}

static spc_status check_overlap(const spc_cli_decode *d, const spc_session_options *o,
                                spc_error *err)
{
    bool on = (spc_overlap_mode)d->overlap == SPC_OVERLAP_ON;

    if (!on || !d->drafter_device || o->bonus == SPC_BONUS_STEP) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "--overlap on: with --drafter-device only --bonus step drafts the next "
                         "round ahead: give it too, or leave --overlap out");
}

spc_status spc_cli_decode_way(const spc_cli_decode *decode, const spc_cli_line *line,
                              spc_cli_way *out, spc_error *err)
{
    spc_session_options *o = &out->options;
    spc_row_params params;
    bool sequential;
    spc_status status = check_sampling(decode, err);

    session_options(decode, o);
    if (status == SPC_OK) status = read_biases(decode, out, err);
    if (status == SPC_OK) status = take_point(decode, line, out, err);
    if (status == SPC_OK) status = check_drafter(decode, line, o, err);
    if (status == SPC_OK) status = check_overlap(decode, o, err);
    if (status == SPC_OK) status = spc_cli_rule(o->rule, out->rule, &sequential, err);
    if (status != SPC_OK) return status;
    if (sequential) o->gamma = 0; /* one model alone: there are no drafts */
    return spc_session_options_check(o, &params, err);
}

spc_status spc_cli_check_logprobs(const spc_cli_decode *decode, bool json, const char *instead,
                                  spc_error *err)
{
    if (json || decode->logprobs < 0) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "--logprobs: they are printed with --json alone: add it, or %s", instead);
}

/* Warnings, where models run that run apart, KV caches that are smaller than all contexts, n-grams
 * in place of a drafter, and what gamma auto starts from: the rest of the engine's log is on the
 * result or of no use here. */
static void on_log(void *user, const char *line)
{
    const spc_cli_decode *decode = user;
    bool told = strncmp(line, "gamma auto: ", 12) == 0 || strncmp(line, "verifier on ", 12) == 0 ||
                strncmp(line, "kv cache: ", 10) == 0 || strncmp(line, "drafter: ", 9) == 0;

    if (strncmp(line, "warning: ", 9) != 0 && (!told || decode->quiet)) return;
    spc_cli_note(line);
}

static spc_engine_options engine_options(const spc_cli_decode *decode, const spc_place *place,
                                         int32_t sessions)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = decode->verifier;
    o.drafter = strcmp(decode->drafter, "none") == 0 ? NULL : decode->drafter;
    o.sessions = sessions;
    o.context = decode->context;
    o.kv_tokens = decode->kv_tokens;
    o.prefill_rows = decode->prefill_rows;
    o.no_prefix_reuse = decode->no_prefix_reuse;
    o.device = decode->device;
    o.drafter_device = decode->drafter_device;
    o.drafter_vocab = decode->drafter_vocab;
    o.tp = decode->tp;
    o.drafter_tp = decode->drafter_tp;
    o.threads = decode->threads;
    o.isa = decode->isa;
    o.weights = decode->weights;
    o.kv = decode->kv;
    o.fast_prefill = decode->fast_prefill;
    o.kernels = decode->kernels;
    o.plain_launches = decode->plain_launches;
    o.overlap = (spc_overlap_mode)decode->overlap;
    o.place = place;
    o.log = place->rank == 0 ? on_log : NULL;
    o.progress = place->rank == 0 ? spc_cli_loading : NULL;
    o.user = (void *)(uintptr_t)decode;
    return o;
}

spc_status spc_cli_decode_open(const spc_cli_decode *decode, const spc_place *place,
                               int32_t sessions, const spc_engine_check *check, spc_engine **out,
                               spc_error *err)
{
    spc_engine_options o = engine_options(decode, place, sessions);

    return spc_engine_open_checked(&o, check, out, err);
}

int spc_cli_decode_fail(const spc_cli_decode *decode, const spc_place *place, int32_t sessions,
                        const spc_error *err)
{
    spc_engine_options o = engine_options(decode, place, sessions);

    return spc_cli_place_fail(place, &o, err);
}

int spc_cli_decode_wrong(const spc_cli_decode *decode, const spc_cli_line *line, int32_t sessions,
                         const spc_error *err)
{
    spc_place place;

    if (!spc_cli_place_left(&decode->ranks, line, &place)) return spc_cli_fail(err);
    return spc_cli_decode_fail(decode, &place, sessions, err);
}

int spc_cli_decode_follow(const spc_cli_decode *decode, const spc_place *place, int32_t sessions)
{
    spc_engine *engine = NULL;
    spc_error error;
    spc_status status = spc_cli_decode_open(decode, place, sessions, NULL, &engine, &error);

    if (status == SPC_OK) status = spc_engine_follow(engine, &error);
    spc_engine_close(engine);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

spc_status spc_cli_check_overlap(const spc_engine *engine, const spc_cli_decode *decode,
                                 const spc_session_options *options, int32_t sessions,
                                 spc_error *err)
{
    bool on = (spc_overlap_mode)decode->overlap == SPC_OVERLAP_ON;

    if (!on || sessions > 1 || options->bonus == SPC_BONUS_STEP) return SPC_OK;
    if (!engine->ops || !engine->ops->round) return SPC_OK; /* ranks: it is refused there */
    return spc_error_set(err, SPC_EUSAGE,
                         "--overlap on: with one prompt at a time only --bonus step drafts the "
                         "next round ahead: give it too, or leave --overlap out");
}

/* ---- progress -------------------------------------------------------------------------------- */

bool spc_cli_tell_prompts(spc_session *const *session, int32_t count)
{
    int64_t done = 0, total = 0;
    int32_t prompts = 0;
    char text[64] = "reading the prompt: ";

    for (int32_t i = 0; i < count; i++) {
        int32_t some, all;

        if (spc_session_finish(session[i]) != SPC_FINISH_RUNNING) continue;
        if (spc_session_waits(session[i])) continue;
        if (!spc_session_filled(session[i], &some, &all)) return false;
        done += some;
        total += all;
        prompts++;
    }
    if (prompts == 0) return false;
    if (prompts > 1) (void)snprintf(text, sizeof text, "reading %d prompts: ", (int)prompts);
    (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%d%%",
                   (int)(100 * done / total));
    spc_cli_progress(text);
    return true;
}

/* ---- statistics ------------------------------------------------------------------------------ */

int32_t spc_cli_positions(const spc_cli_way *way, const spc_stats *stats)
{
    spc_rule rule;
    int32_t longest = SPC_GAMMA_MAX;

    if (spc_rule_parse(way->rule, &rule, NULL) && rule.kind == SPC_RULE_BILD_DYNAMIC) {
        return rule.window;
    }
    if (way->options.gamma != SPC_GAMMA_AUTO) return way->options.gamma;
    while (longest > 0 && stats->drafted[longest - 1] == 0) longest--;
    return longest;
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

/* Their sum, and how many at each of `gamma` positions, gamma > 0. */
static void print_positions(const char *name, const int64_t *by_position, int32_t gamma)
{
    (void)fprintf(stderr, ", %s %" PRId64, name, spc_cli_sum(by_position));
    for (int32_t i = 0; i < gamma; i++) {
        (void)fprintf(stderr, "%s%" PRId64, i == 0 ? " (" : " ", by_position[i]);
    }
    (void)fprintf(stderr, ")");
}

/* What gamma auto did, and what it knows by now. */
static void print_choices(const spc_stats *t, const spc_engine *engine)
{
    char line[SPC_GAMMA_LINE_BYTES];
    spc_gamma_facts facts;

    if (!spc_engine_gamma(engine, &facts)) return; /* a strategy without draft lengths */
    (void)fprintf(stderr, "spc: gamma auto: rounds by gamma");
    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) {
        if (t->chosen[g] > 0) (void)fprintf(stderr, " %" PRId32 ": %" PRId64, g, t->chosen[g]);
    }
    (void)fprintf(stderr, ", %" PRId64 " probe%s, %" PRId64 " row%s caught up\n", t->probes,
                  spc_cli_plural(t->probes), t->catch_up, spc_cli_plural(t->catch_up));
    spc_gamma_line(&facts, line);
    (void)fprintf(stderr, "spc: %s\n", line);
}

/* What came, how fast, and how much of it was drafted. */
static void print_result(const char *of, const spc_cli_total *total, const spc_cli_way *way)
{
    const spc_stats *t = &total->stats;
    int64_t accepted = spc_cli_sum(t->accepted);
    int64_t judged = accepted + spc_cli_sum(t->rejected);
    double seconds = spc_cli_seconds(t);

    (void)fprintf(stderr,
                  "spc: %s%s: %" PRId64 " token%s in %.2f s (%.0f tokens/s), prompts of %" PRId64
                  " included",
                  of, way->rule, t->tokens, spc_cli_plural(t->tokens), seconds,
                  spc_cli_ratio((double)t->tokens, seconds), t->prompt_tokens);
    (void)fprintf(stderr, ", %" PRId64 " round%s, %.2f tokens per verifier call", t->rounds,
                  spc_cli_plural(t->rounds),
                  spc_cli_ratio((double)t->tokens, (double)t->verifier_calls));
    if (judged > 0) {
        (void)fprintf(stderr, ", %.0f %% of %" PRId64 " judged draft%s accepted",
                      100.0 * (double)accepted / (double)judged, judged, spc_cli_plural(judged));
    }
    (void)fprintf(stderr, ", finish");
    for (int32_t i = 0; i < SPC_FINISH_COUNT; i++) {
        if (total->finished[i] == 0) continue;
        (void)fprintf(stderr, " %s", spc_finish_name((spc_finish)i));
        if (total->sequences > 1) (void)fprintf(stderr, " %" PRId64, total->finished[i]);
    }
    (void)fprintf(stderr, "\n");
}

/* Where its time went, and what became of the drafts by their position. */
static void print_counts(const spc_stats *t, int32_t gamma)
{
    (void)fprintf(stderr, "spc: drafter %.1f ms, verifier %.1f ms, other %.1f ms",
                  (double)t->draft_ns * 1e-6, (double)t->verify_ns * 1e-6,
                  (double)t->other_ns * 1e-6);
    if (gamma > 0) {
        print_positions("accepted", t->accepted, gamma);
        print_positions("rejected", t->rejected, gamma);
        print_positions("deferred", t->deferred, gamma);
    }
    if (t->drafted_ahead > 0) {
        (void)fprintf(stderr, ", drafted ahead %" PRId64 ", of them used %" PRId64,
                      t->drafted_ahead, t->ahead_used);
    }
    if (t->reused_tokens > 0) {
        (void)fprintf(stderr, ", reused %" PRId64 " of %" PRId64 " prompt tokens", t->reused_tokens,
                      t->prompt_tokens);
    }
    (void)fprintf(stderr, ", hash %016" PRIx64 "\n", t->output_hash);
}

void spc_cli_total_print(const char *of, const spc_cli_total *total, const spc_cli_way *way,
                         const spc_engine *engine)
{
    const spc_stats *t = &total->stats;

    spc_cli_progress(NULL);
    print_result(of, total, way);
    print_counts(t, spc_cli_positions(way, t));
    if (way->options.gamma == SPC_GAMMA_AUTO) print_choices(t, engine);
}
