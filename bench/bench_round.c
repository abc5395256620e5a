/* SPDX-License-Identifier: Apache-2.0 */
/* bench_round.c - whole rounds through the engine, of checkpoints or of named shapes with random
 * weights: plain decoding and speculation by batch, draft length and context.
 *
 * Plain decoding of the same sequences is measured in the same run and stands beside every line;
 * so does the limit, the bytes of a round over the rate at which the device reads memory.
 *
 * Random weights agree about nothing, so with --accept the engine's verdicts are replaced: each
 * draft is kept with that chance.  All work is done as if they had been decided; such lines say
 * "synthetic". */
#include "bench/measure.h"
#include "bench/shape.h"

#include "host/device.h"
#include "host/kv.h"
#include "host/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LIST = 16, BATCH_MOST = 256, ROUNDS_MOST = 4096, WARM = 8 };

typedef struct {
    int32_t count, item[LIST];
} numbers;

typedef struct {
    const char *verifier, *drafter, *device, *rule, *kernels, *kv;
    spc_overlap_mode overlap;
    bool step, shapes, plain_launches, no_chain, no_pdl, fast_prefill, table, help;
    numbers batch, gamma, context;
    int32_t rounds;
    double accept; /* < 0: what the models make of it */
    double temperature;
} options;

typedef struct {
    const options *o;
    const spc_backend_ops *ops;
    spc_backend *backend; /* the engine's, once there is one */
    shape_model drafter, verifier;
    spc_engine *engine;
    spc_kernels kernels;
    double read_rate;
    float rate; /* of synthetic acceptance */
    spc_dtype kv;
    spc_error error;
} state;

/* What was measured of one point. */
typedef struct {
    double round_us, p10_us, p90_us; /* of all sequences together */
    double tokens_per_s;
    double tokens_per_round; /* of a sequence */
    double draft_us, verify_us, other_us;
    double device_draft_us, device_score_us, device_decide_us; /* NAN: no clock of the device's */
    double device_gap_us;
    int64_t rounds, drafted, accepted, verified, ahead, ahead_used, in_turns, chained;
} point;

static const char help[] =
    "bench_round: rounds of speculative decoding through the engine, JSON lines\n"
    "\n"
    "  --verifier MODEL     a folder, or embedded:verifier (default); with --shapes a shape\n"
    "  --drafter MODEL      the same (default embedded:drafter)\n"
    "  --shapes             random bf16 weights in published sizes: " SHAPE_NAMES "\n"
    "  --rule RULE          deferral rule (default strict)\n"
    "  --temperature T      0 to 100 (default 0)\n"
    "  --accept RATE        accept every draft with this probability instead: synthetic\n"
    "  --batch LIST         sequences together, 1 to 256 (default 1)\n"
    "  --gamma LIST         draft lengths, 0 to 16 (default 1,2,3,4,5,6,8); plain decoding comes "
    "first\n"
    "  --context LIST       tokens of each prompt (default 32)\n"
    "  --rounds N           measured per point, 1 to 4096 (default 64), after 8 of warm-up\n"
    "  --kv TYPE            of the KV caches: f32 (default), bf16, f16\n"
    "  --device NAME        auto (default), cpu, cuda, cuda:N\n"
    "  --plain-launches     GPU: launch kernel by kernel, not one CUDA graph per round\n"
    "  --no-chain           GPU: enqueue no round before the host has read the one before\n"
    "  --no-pdl             GPU: no programmatic dependent launch\n"
    "  --overlap MODE       auto (default), on, off: drafting ahead, batches in two halves; on\n"
    "                       and off take the token behind kept drafts from the drafter's own step\n"
    "  --fast-prefill       GPU: more than 16 rows by cuBLASLt\n"
    "  --kernels FILE       GPU: linear layers as a table of bench_device --tune says\n"
    "  --table              a table instead of JSON lines\n"
    "  --help               this text\n";

/* ---- options ----------------------------------------------------------------------------------
 */

static int usage(const char *problem, const char *value)
{
    (void)fprintf(stderr, "bench_round: %s%s; see bench_round --help\n", problem,
                  value ? value : "");
    return 2;
}

static bool read_list(const char *text, int32_t least, int32_t most, numbers *out)
{
    out->count = 0;
    for (;;) {
        char *end;
        long number = strtol(text, &end, 10);

        if (end == text || number < least || number > most || out->count == LIST) return false;
        out->item[out->count++] = (int32_t)number;
        if (*end == '\0') return true;
        if (*end != ',') return false;
        text = end + 1;
    }
}

static bool read_real(const char *text, double least, double most, double *out)
{
    char *end;

    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= least && *out <= most;
}

static bool *flag_of(options *o, const char *name)
{
    if (strcmp(name, "--shapes") == 0) return &o->shapes;
    if (strcmp(name, "--plain-launches") == 0) return &o->plain_launches;
    if (strcmp(name, "--no-chain") == 0) return &o->no_chain;
    if (strcmp(name, "--no-pdl") == 0) return &o->no_pdl;
    if (strcmp(name, "--fast-prefill") == 0) return &o->fast_prefill;
    if (strcmp(name, "--table") == 0) return &o->table;
    return strcmp(name, "--help") == 0 ? &o->help : NULL;
}

static const char **text_of(options *o, const char *name)
{
    if (strcmp(name, "--verifier") == 0) return &o->verifier;
    if (strcmp(name, "--drafter") == 0) return &o->drafter;
    if (strcmp(name, "--device") == 0) return &o->device;
    if (strcmp(name, "--kernels") == 0) return &o->kernels;
    if (strcmp(name, "--kv") == 0) return &o->kv;
    return strcmp(name, "--rule") == 0 ? &o->rule : NULL;
}

static int read_value(options *o, const char *name, const char *value)
{
    numbers one;

    if (strcmp(name, "--batch") == 0) {
        return read_list(value, 1, BATCH_MOST, &o->batch)
                   ? 0
                   : usage("--batch: expected numbers of 1 to 256, found ", value);
    }
    if (strcmp(name, "--gamma") == 0) {
        return read_list(value, 0, SPC_GAMMA_MAX, &o->gamma)
                   ? 0
                   : usage("--gamma: expected numbers of 0 to 16, found ", value);
    }
    if (strcmp(name, "--context") == 0) {
        return read_list(value, 2, 1 << 20, &o->context)
                   ? 0
                   : usage("--context: expected numbers from 2, found ", value);
    }
    if (strcmp(name, "--rounds") == 0) {
        if (!read_list(value, 1, ROUNDS_MOST, &one) || one.count != 1) {
            return usage("--rounds: expected 1 to 4096, found ", value);
        }
        o->rounds = one.item[0];
        return 0;
    }
    if (strcmp(name, "--overlap") == 0) {
        static const char *const modes[] = {"auto", "on", "off"};

        for (int32_t i = 0; i < 3; i++) {
            if (strcmp(value, modes[i]) != 0) continue;
            o->overlap = (spc_overlap_mode)i;
            o->step = i > 0;
            return 0;
        }
        return usage("--overlap: expected auto, on or off, found ", value);
    }
    if (strcmp(name, "--accept") == 0) {
        return read_real(value, 0, 1, &o->accept)
                   ? 0
                   : usage("--accept: expected 0 to 1, found ", value);
    }
    if (strcmp(name, "--temperature") == 0) {
        return read_real(value, 0, 100, &o->temperature)
                   ? 0
                   : usage("--temperature: expected 0 to 100, found ", value);
    }
    return usage("unknown option: ", name);
}

static int read_options(int count, char **arguments, options *o)
{
    *o = (options){.verifier = SPC_EMBEDDED_VERIFIER,
                   .drafter = SPC_EMBEDDED_DRAFTER,
                   .device = "auto",
                   .rule = "strict",
                   .batch = {1, {1}},
                   .gamma = {7, {1, 2, 3, 4, 5, 6, 8}},
                   .context = {1, {32}},
                   .rounds = 64,
                   .accept = -1};
    for (int i = 1; i < count; i++) {
        bool *flag = flag_of(o, arguments[i]);
        const char **text = text_of(o, arguments[i]);
        int wrong = 0;

        if (flag) {
            *flag = true;
            continue;
        }
        if (i + 1 == count) return usage("unknown option, or no value: ", arguments[i]);
        i++;
        if (text) {
            *text = arguments[i];
        } else {
            wrong = read_value(o, arguments[i - 1], arguments[i]);
        }
        if (wrong) return wrong;
    }
    return 0;
}

/* ---- models -----------------------------------------------------------------------------------
 */

static int32_t largest(const numbers *n)
{
    int32_t most = 0;

    for (int32_t i = 0; i < n->count; i++) most = n->item[i] > most ? n->item[i] : most;
    return most;
}

/* Tokens that a sequence may take, plain and with the longest drafts. */
static int32_t room(const options *o)
{
    return largest(&o->context) + (o->rounds + WARM + 1) * (largest(&o->gamma) + 2);
}

static spc_status open_model(state *s, const char *name, shape_model *m)
{
    const options *o = s->o;
    spc_error *err = &s->error;
    spc_status status =
        o->shapes ? shape_open(name, NULL, s->ops, m, err) : shape_open_model(name, NULL, m, err);

    if (status == SPC_OK && m->plan->encoder_ops > 0) {
        return spc_error_set(err, SPC_EUSAGE, "%s: models with an encoder are not measured", name);
    }
    if (status == SPC_OK && room(o) > m->config.context) {
        return spc_error_set(err, SPC_EUSAGE,
                             "%s: expected context, rounds and draft lengths within its %d tokens, "
                             "found %d; lower one of them",
                             name, (int)m->config.context, (int)room(o));
    }
    return status;
}

/* Rounds as the device timed them since the first call; zeros where it does not. */
static spc_round_clock clock_of(const state *s)
{
    const spc_backend_ops *ops = s->engine->ops;

    if (!ops->round_clock) return (spc_round_clock){0};
    return *ops->round_clock(s->engine->verifier.runner);
}

/* Both models behind an engine. */
static spc_status open_engine(state *s)
{
    const options *o = s->o;
    int32_t sessions = largest(&o->batch), vocab;
    spc_limits limits = spc_engine_limits(sessions, room(o));
    spc_runner *drafter = NULL, *verifier = NULL;
    spc_status status = open_model(s, o->verifier, &s->verifier);

    if (status == SPC_OK) status = open_model(s, o->drafter, &s->drafter);
    if (status != SPC_OK) return status;
    vocab =
        s->verifier.plan->ids < s->drafter.plan->ids ? s->verifier.plan->ids : s->drafter.plan->ids;
    s->verifier.plan->ids = s->drafter.plan->ids = vocab;
    limits.kv = s->kv;
    limits.library = o->fast_prefill;
    limits.plain = o->plain_launches;
    limits.no_early = o->no_pdl;
    status = s->ops->load(s->backend, s->verifier.plan, s->verifier.bundle, &limits, &verifier,
                          &s->error);
    if (status == SPC_OK) {
        status = s->ops->load(s->backend, s->drafter.plan, s->drafter.bundle, &limits, &drafter,
                              &s->error);
    }
    if (status != SPC_OK) {
        s->ops->unload(verifier);
        return status;
    }
    spc_backend *backend = s->backend;

    s->backend = NULL; /* the engine's from here on */
    status = spc_engine_assemble(s->ops, backend, drafter, verifier, vocab, room(o), sessions,
                                 &s->engine, &s->error);
    if (status != SPC_OK) return status;
    s->engine->composed = o->plain_launches;
    s->engine->overlap.mode = o->overlap;
    s->engine->chain[0].off = s->engine->chain[1].off = o->no_chain;
    s->engine->turns.mode = o->overlap;
    s->rate = (float)o->accept;
    if (o->accept >= 0) s->engine->synthetic = &s->rate;
    (void)clock_of(s);
    return SPC_OK;
}

static spc_status open_all(state *s)
{
    spc_status status = spc_kv_type(s->o->kv, &s->kv, &s->error);

    if (status == SPC_OK) {
        status =
            spc_device_open(s->o->device, 0, NULL, NULL, NULL, &s->ops, &s->backend, &s->error);
    }
    if (status == SPC_OK && s->ops == &spc_backend_cpu &&
        (s->o->fast_prefill || s->o->plain_launches || s->o->no_chain || s->o->no_pdl ||
         s->o->overlap == SPC_OVERLAP_ON)) {
        return spc_error_set(&s->error, SPC_EUSAGE, "%s: expected a GPU, found %s",
                             s->o->fast_prefill     ? "--fast-prefill"
                             : s->o->plain_launches ? "--plain-launches"
                             : s->o->no_chain       ? "--no-chain"
                             : s->o->no_pdl         ? "--no-pdl"
                                                    : "--overlap on",
                             s->ops->device(s->backend));
    }
    if (status == SPC_OK) {
        status = spc_use_kernels(s->ops, s->backend, s->o->kernels, &s->kernels, &s->error);
    }
    if (status == SPC_OK) status = open_engine(s);
    if (status != SPC_OK) return status;
    /* right before the first rounds: clocks of a device that had nothing to do rise meanwhile */
    s->read_rate = shape_read_rate(s->ops, s->engine->backend, &s->error);
    return s->read_rate > 0 ? SPC_OK : s->error.status;
}

static void close_all(state *s)
{
    spc_engine_close(s->engine);
    if (s->backend) s->ops->close(s->backend);
    spc_kernels_clear(&s->kernels);
    shape_close(&s->drafter);
    shape_close(&s->verifier);
}

/* ---- one point --------------------------------------------------------------------------------
 */

/* Does the token behind kept drafts come from the drafter's own step?  Nothing else fits verdicts
 * that are thrown: a late row would wait for the true one. */
static bool steps(const options *o)
{
    return o->step || (o->accept >= 0 && strcmp(o->rule, "strict") != 0);
}

static spc_status open_sessions(state *s, int32_t batch, int32_t gamma, int32_t context,
                                spc_session **session)
{
    const options *o = s->o;
    spc_session_options so;
    int32_t *prompt = malloc((size_t)context * sizeof *prompt);
    spc_status status = SPC_OK;

    if (!prompt) return spc_error_set(&s->error, SPC_ENOMEM, "no memory for a prompt");
    spc_session_options_init(&so);
    so.rule = gamma < 0 ? "verifier-only" : o->rule;
    so.gamma = gamma < 0 ? 0 : gamma;
    so.temperature = (float)o->temperature;
    so.ignore_stop = true;
    if (steps(o)) so.bonus = SPC_BONUS_STEP;
    for (int32_t k = 0; k < batch && status == SPC_OK; k++) {
        so.seed = (uint64_t)k;
        for (int32_t i = 0; i < context; i++) {
            prompt[i] = 3 + (int32_t)(((uint32_t)i * 2654435761u + (uint32_t)k * 40503u) %
                                      (uint32_t)(s->engine->vocab - 3));
        }
        status = spc_session_open(s->engine, &so, prompt, context, &session[k], &s->error);
    }
    free(prompt);
    return status;
}

static void add_stats(const spc_stats *a, int64_t *tokens, uint64_t *ns, point *p)
{
    *tokens += a->tokens;
    ns[0] += a->draft_ns;
    ns[1] += a->verify_ns;
    ns[2] += a->other_ns;
    p->rounds += a->rounds;
    p->ahead += a->drafted_ahead;
    p->ahead_used += a->ahead_used;
    p->in_turns += a->in_turns;
    p->chained += a->chained;
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) {
        p->drafted += a->drafted[i];
        p->verified += a->verified[i];
        p->accepted += a->accepted[i];
    }
}

static void set_device_times(const spc_round_clock *from, const spc_round_clock *to, point *p)
{
    double rounds = (double)(to->rounds - from->rounds); /* 0: 0 / 0 is no number */

    p->device_draft_us = (double)(to->draft_ns - from->draft_ns) * 1e-3 / rounds;
    p->device_score_us = (double)(to->score_ns - from->score_ns) * 1e-3 / rounds;
    p->device_decide_us = (double)(to->decide_ns - from->decide_ns) * 1e-3 / rounds;
    p->device_gap_us = (double)(to->gap_ns - from->gap_ns) * 1e-3 / rounds;
}

/* Steps that process the prompts, and the first round. */
static spc_status begin_all(state *s, spc_session **session, int32_t batch)
{
    int32_t begun = 0, count;

    while (begun < batch) {
        if (spc_engine_step(s->engine, session, batch, &s->error) != SPC_OK) return s->error.status;
        begun = 0;
        for (int32_t k = 0; k < batch; k++) {
            (void)spc_session_tokens(session[k], &count);
            begun += count > 0 || spc_session_finish(session[k]) != SPC_FINISH_RUNNING;
        }
    }
    return SPC_OK;
}

/* Rounds behind the warm ones; each is a sample. */
static spc_status run_rounds(state *s, spc_session **session, int32_t batch, point *p)
{
    static double sample[ROUNDS_MOST];
    int64_t before = 0, after = 0;
    uint64_t ns0[3] = {0}, ns1[3] = {0};
    point warm = {0};
    spc_round_clock from = {0}, to;
    double total = 0;
    int32_t rounds = s->o->rounds;
    spc_stats stats;

    if (begin_all(s, session, batch) != SPC_OK) return s->error.status;
    for (int32_t i = 1; i < WARM + rounds; i++) {
        uint64_t start;

        if (i == WARM) {
            from = clock_of(s);
            for (int32_t k = 0; k < batch; k++) {
                spc_session_stats(session[k], &stats);
                add_stats(&stats, &before, ns0, &warm);
            }
        }
        start = measure_now_ns();
        if (spc_engine_step(s->engine, session, batch, &s->error) != SPC_OK) return s->error.status;
        if (i >= WARM) sample[i - WARM] = (double)(measure_now_ns() - start) * 1e-3;
    }
    to = clock_of(s);
    set_device_times(&from, &to, p);
    for (int32_t k = 0; k < batch; k++) {
        spc_session_stats(session[k], &stats);
        add_stats(&stats, &after, ns1, p);
        if (spc_session_finish(session[k]) != SPC_FINISH_RUNNING) {
            return spc_error_set(&s->error, SPC_EFULL, "a sequence ended while it was measured: %s",
                                 spc_finish_name(spc_session_finish(session[k])));
        }
    }
    for (int32_t i = 0; i < rounds; i++) total += sample[i];
    p->round_us = measure_quantile(sample, rounds, 0.5);
    p->p10_us = measure_quantile(sample, rounds, 0.1);
    p->p90_us = measure_quantile(sample, rounds, 0.9);
    p->tokens_per_s = (double)(after - before) / total * 1e6;
    p->tokens_per_round = (double)(after - before) / rounds / batch;
    p->draft_us = (double)(ns1[0] - ns0[0]) * 1e-3 / rounds;
    p->verify_us = (double)(ns1[1] - ns0[1]) * 1e-3 / rounds;
    p->other_us = total / rounds - p->draft_us - p->verify_us;
    p->rounds -= warm.rounds;
    p->ahead -= warm.ahead;
    p->ahead_used -= warm.ahead_used;
    p->in_turns -= warm.in_turns;
    p->chained -= warm.chained;
    p->drafted -= warm.drafted;
    p->verified -= warm.verified;
    p->accepted -= warm.accepted;
    return SPC_OK;
}

/* gamma < 0: plain decoding. */
static spc_status measure_point(state *s, int32_t batch, int32_t gamma, int32_t context, point *p)
{
    spc_session *session[BATCH_MOST] = {NULL};
    spc_status status = open_sessions(s, batch, gamma, context, session);

    memset(p, 0, sizeof *p);
    if (status == SPC_OK) status = run_rounds(s, session, batch, p);
    for (int32_t k = 0; k < batch; k++) spc_session_close(session[k]);
    return status;
}

/* ---- output -----------------------------------------------------------------------------------
 */

/* Bytes that a round reads at least: weights once a forward, the caches of all sequences. */
static double round_bytes(const state *s, int32_t batch, int32_t gamma, int32_t context)
{
    double cache = (double)batch * (double)spc_plan_kv_bytes(s->verifier.plan, context, s->kv);
    double bytes = (double)spc_plan_weight_bytes(s->verifier.plan, s->verifier.bundle) + cache;

    cache = (double)batch * (double)spc_plan_kv_bytes(s->drafter.plan, context, s->kv);
    if (gamma > 0) {
        bytes +=
            gamma * ((double)spc_plan_weight_bytes(s->drafter.plan, s->drafter.bundle) + cache);
    }
    return bytes;
}

static void print_point(const state *s, int32_t batch, int32_t gamma, int32_t context,
                        const point *p, const point *plain)
{
    const options *o = s->o;
    bool synthetic = o->accept >= 0 && gamma > 0;
    double bytes = round_bytes(s, batch, gamma, context), rate = bytes / p->round_us * 1e-3;
    measure_line line;

    if (o->table) {
        char drafts[16] = "plain", kernel[16] = "-";

        if (!isnan(p->device_decide_us)) {
            (void)snprintf(kernel, sizeof kernel, "%.1f", p->device_decide_us);
        }
        if (gamma >= 0) (void)snprintf(drafts, sizeof drafts, "%d", (int)gamma);
        (void)printf("%5d %7d %7s %10.1f %10.1f %8.2f %8.2f %9.1f %9.1f %9s %8.1f %8.1f%%\n",
                     (int)batch, (int)context, drafts, p->round_us, p->tokens_per_s,
                     p->tokens_per_round, p->tokens_per_s / plain->tokens_per_s, p->draft_us,
                     p->verify_us, kernel, p->other_us, 100 * rate / s->read_rate);
        return;
    }
    line = measure_line_begin(stdout);
    measure_line_text(&line, "bench", "round");
    measure_line_text(&line, "verifier", o->verifier);
    measure_line_text(&line, "drafter", gamma > 0 ? o->drafter : "none");
    measure_line_text(&line, "weights", o->shapes ? "random" : "checkpoint");
    measure_line_text(&line, "kv", spc_kv_name(s->kv));
    measure_line_text(&line, "device", s->engine->ops->device(s->engine->backend));
    measure_line_text(&line, "rounds_as",
                      s->engine->ops->round && !o->plain_launches ? "one graph" : "launches");
    measure_line_text(&line, "kernels_begin",
                      o->no_pdl || o->plain_launches ? "in turn" : "early where the device can");
    measure_line_text(&line, "linear", o->fast_prefill ? "own and cuBLASLt" : "own");
    measure_line_text(&line, "kernels", o->kernels ? "table" : "default");
    measure_line_text(&line, "rule", gamma < 0 ? "verifier-only" : o->rule);
    measure_line_number(&line, "temperature", o->temperature);
    measure_line_integer(&line, "batch", batch);
    measure_line_integer(&line, "context", context);
    measure_line_integer(&line, "gamma", gamma < 0 ? 0 : gamma);
    measure_line_text(&line, "acceptance", synthetic ? "synthetic" : "real");
    measure_line_number(&line, "acceptance_rate",
                        p->verified > 0 ? (double)p->accepted / (double)p->verified : NAN);
    measure_line_text(&line, "bonus", steps(o) ? "step" : "as the rule has it");
    /* drafts that cost their round nothing, drawn while the one before was verified */
    measure_line_number(&line, "drafts_hidden",
                        p->drafted > 0 ? (double)p->ahead_used / (double)p->drafted : NAN);
    measure_line_integer(&line, "drafted_ahead", p->ahead);
    measure_line_integer(&line, "runs", o->rounds);
    measure_line_number(&line, "median_us", p->round_us);
    measure_line_number(&line, "p10_us", p->p10_us);
    measure_line_number(&line, "p90_us", p->p90_us);
    measure_line_number(&line, "draft_us", p->draft_us);
    measure_line_number(&line, "verify_us", p->verify_us);
    measure_line_number(&line, "host_us", p->other_us);
    /* by the device's clock; the gap is the host's, and late rows */
    measure_line_number(&line, "device_draft_us", p->device_draft_us);
    measure_line_number(&line, "device_score_us", p->device_score_us);
    measure_line_number(&line, "device_verify_us", p->device_decide_us);
    measure_line_number(&line, "device_gap_us", p->device_gap_us);
    /* rounds whose drafts were drawn beside the other half's verification */
    measure_line_number(&line, "in_turns", (double)p->in_turns / (double)p->rounds);
    /* rounds that did not wait for the host */
    measure_line_number(&line, "chained", (double)p->chained / (double)p->rounds);
    measure_line_number(&line, "tokens_per_round", p->tokens_per_round);
    measure_line_number(&line, "tokens_per_s", p->tokens_per_s);
    measure_line_number(&line, "plain_tokens_per_s", plain->tokens_per_s);
    measure_line_number(&line, "speedup_over_plain", p->tokens_per_s / plain->tokens_per_s);
    measure_line_number(&line, "bytes_per_round", bytes);
    measure_line_number(&line, "gb_per_s", rate);
    measure_line_number(&line, "read_gb_per_s", s->read_rate);
    measure_line_number(&line, "of_read_rate", rate / s->read_rate);
    measure_line_end(&line);
}

static spc_status measure_all(state *s)
{
    const options *o = s->o;
    spc_status status = SPC_OK;

    if (o->table) {
        (void)printf("%s\n%s verifier, %s drafter, %s%s; reads %.1f GB/s\n\n"
                     "batch context   gamma   round us   tokens/s    /round  x plain  draft us "
                     "verify us kernel us  host us  of limit\n",
                     s->engine->ops->device(s->engine->backend), o->verifier, o->drafter, o->rule,
                     o->accept >= 0 ? ", synthetic acceptance" : "", s->read_rate);
    }
    for (int32_t b = 0; b < o->batch.count && status == SPC_OK; b++) {
        for (int32_t c = 0; c < o->context.count && status == SPC_OK; c++) {
            int32_t batch = o->batch.item[b], context = o->context.item[c];
            point plain, p;

            status = measure_point(s, batch, -1, context, &plain);
            if (status == SPC_OK) print_point(s, batch, -1, context, &plain, &plain);
            for (int32_t g = 0; g < o->gamma.count && status == SPC_OK; g++) {
                status = measure_point(s, batch, o->gamma.item[g], context, &p);
                if (status == SPC_OK) {
                    print_point(s, batch, o->gamma.item[g], context, &p, &plain);
                }
            }
        }
    }
    return status;
}

int main(int count, char **arguments)
{
    static state s;
    options o;
    int wrong = read_options(count, arguments, &o);
    spc_status status;

    if (wrong) return wrong;
    if (o.help) return fputs(help, stdout) < 0;
    s.o = &o;
    status = open_all(&s);
    if (status == SPC_OK) status = measure_all(&s);
    if (status != SPC_OK) (void)fprintf(stderr, "bench_round: %s\n", s.error.message);
    close_all(&s);
    return measure_exit("bench_round", status == SPC_OK ? 0 : spc_status_exit_code(status));
}
