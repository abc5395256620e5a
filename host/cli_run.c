/* SPDX-License-Identifier: Apache-2.0 */
/* cli_run.c - spc run: prompts in, continuations out, in the order of the prompts. */
#include "cli.h"
#include "cpu_threads.h"
#include "session.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* ---- options --------------------------------------------------------------------------------- */

typedef struct {
    const char *verifier, *drafter, *rule, *input, *isa, *points;
    int32_t gamma, top_k, max_tokens, verify, bonus, to, batch, threads, context;
    double temperature, top_p, min_p, most_latency, least_quality;
    uint64_t seed;
    spc_cli_list stop;
    bool no_nucleus, ignore_stop, json, stream, quiet;
} run_args;

#define OPTION(name, value, help, kind, field, low, high)                       \
    {                                                                           \
        name, value, help, SPC_CLI_##kind, offsetof(run_args, field), low, high \
    }

static const spc_cli_option options[] = {
    OPTION("verifier", "MODEL", "the large model", TEXT, verifier, 0, 0),
    OPTION("drafter", "MODEL", "the small model; 'none': decode with the verifier alone", TEXT,
           drafter, 0, 0),
    OPTION("rule", "RULE",
           "deferral rule: strict, lossy, lossy-greedy, chow, diff, opt, chow-log,\n"
           "diff-log, opt-log, token-v1, token-v2, token-v3, bild, with their alpha\n"
           "(\"token-v3:alpha=0.5\"); comparators: truncate, truncate-q, head, typical,\n"
           "ensemble, fuzzy, mentored, cactus (with --bonus step); one model at a\n"
           "time: token-chow, seq-chow, bild-dynamic:fallback=F, verifier-only,\n"
           "drafter-only",
           TEXT, rule, 0, 0),
    OPTION("operating-point", "FILE",
           "take rule, draft length and sampling from points that spc tune chose\n"
           "from a sweep, within one of the next two limits",
           TEXT, points, 0, 0),
    OPTION("max-relative-latency", "X", "the best point of at most X times the verifier's time",
           REAL, most_latency, 0, 100),
    OPTION("min-quality", "Y", "the fastest point of at least this quality", REAL, least_quality,
           -1e9, 1e9),
    OPTION("gamma", "N", "draft length: tokens drafted per round", INT, gamma, 0, SPC_GAMMA_MAX),
    OPTION("temperature", "T", "0: greedy", REAL, temperature, 0, 100),
    OPTION("top-k", "K", "keep the K likeliest tokens; 0: all", INT, top_k, 0, SPC_VOCAB_MAX),
    OPTION("top-p", "P", "keep the likeliest tokens of together P", REAL, top_p, 0, 1),
    OPTION("min-p", "P", "keep tokens of at least P times the likeliest", REAL, min_p, 0, 1),
    OPTION("seed", "N", "of the first prompt; each further one adds 1", SEED, seed, 0, 0),
    OPTION("max-tokens", "N", "new tokens per prompt; 0: what the context holds", INT, max_tokens,
           0, INT32_MAX),
    OPTION("stop", "TEXT", "end before this text", LIST, stop, 0, 0),
    OPTION("ignore-stop", NULL, "go on behind end-of-sequence tokens", FLAG, ignore_stop, 0, 0),
    OPTION("verify", "token|block", "judge drafts one by one, or by one joint coin (same law)",
           CHOICE, verify, 0, 0),
    OPTION("bonus", "target|verifier|step", "where the token behind a fully kept draft comes from",
           CHOICE, bonus, 0, 0),
    OPTION("no-nucleus", NULL, "let token rules keep drafts outside the verifier's nucleus", FLAG,
           no_nucleus, 0, 0),
    OPTION("to", SPC_CLI_LANGUAGES, "prompts are English sentences to translate (embedded pair)",
           CHOICE, to, 0, 0),
    OPTION("input", "FILE",
           "prompts as lines of JSON: {\"prompt\": TEXT} or {\"ids\": [ID, ...]},\n"
           "either with an \"id\" that is handed on; -: stdin",
           TEXT, input, 0, 0),
    OPTION("batch", "N", "prompts decoded together; results do not depend on it", INT, batch, 1,
           4096),
    OPTION("context", "N", "tokens per prompt and continuation; 0: what the models allow", INT,
           context, 0, INT32_MAX),
    OPTION("threads", "N", "CPU threads; 0: one per core", INT, threads, 0, SPC_TEAM_MAX),
    OPTION("isa", "NAME", "vector unit: portable, avx2, avx512; the widest unless given", TEXT, isa,
           0, 0),
    OPTION("json", NULL, "one JSON object per prompt: text, ids, counters", FLAG, json, 0, 0),
    OPTION("stream", NULL, "print text as it comes (one prompt at a time)", FLAG, stream, 0, 0),
    OPTION("quiet", NULL, "no line of statistics on stderr", FLAG, quiet, 0, 0),
};

static void run_init(void *args)
{
    run_args *a = args;
    spc_session_options session;

    spc_session_options_init(&session);
    a->verifier = SPC_EMBEDDED_VERIFIER;
    a->drafter = SPC_EMBEDDED_DRAFTER;
    a->rule = session.rule;
    a->gamma = session.gamma;
    a->temperature = (double)session.temperature;
    a->top_p = (double)session.top_p;
    a->batch = 1;
    a->to = -1;
    a->most_latency = a->least_quality = (double)NAN; /* no default */
}

/* ---- jobs ------------------------------------------------------------------------------------ */

/* One prompt on its way to a result.  Jobs wait in the order of prompts until they are printed. */
typedef struct job {
    struct job *next;
    spc_session *session; /* while it is decoded */
    json_t *id;           /* what the file calls it, or NULL */
    int64_t index;
    char *text; /* [bytes] of the result; NULL: the model has no tokenizer */
    size_t bytes;
    int32_t *tokens; /* [count] */
    int32_t count;
    spc_finish finish;
    spc_stats stats;
} job;

typedef struct {
    const run_args *args;
    spc_engine *engine;
    spc_session_options options;
    spc_cli_point point;            /* where --operating-point chose one */
    char rule[SPC_RULE_TEXT_BYTES]; /* in canonical form */
    spc_cli_source source;
    job *first, *last;      /* in the order of prompts */
    spc_session **stepping; /* [batch] */
    int32_t running;
    int64_t prompts;
    bool reading; /* there may be more prompts */
    spc_stats total;
    int64_t finished[SPC_FINISH_COUNT];
    spc_error error; /* the first; status SPC_OK: none */
} run_state;

static void note_error(run_state *run, const spc_error *error)
{
    if (run->error.status == SPC_OK) run->error = *error;
    run->reading = false; /* what was begun is brought to its end, nothing new is begun */
}

static bool stream_token(void *user, const spc_token *token)
{
    (void)user;
    (void)token;
    return !spc_cli_interrupted;
}

static void stream_text(void *user, const char *text, size_t bytes)
{
    (void)user;
    spc_cli_put(text, bytes);
    (void)spc_cli_flush();
}

static spc_status prompt_ids(const run_state *run, spc_cli_prompt *prompt, spc_error *err)
{
    const run_args *a = run->args;
    spc_error inner;
    spc_status status;

    if (!prompt->text) return SPC_OK;
    if (a->to >= 0) {
        status = spc_cli_translation(run->engine, a->to, prompt->text, prompt->bytes, &prompt->ids,
                                     &prompt->count, &inner);
    } else {
        status = spc_engine_encode(run->engine, prompt->text, prompt->bytes, true, &prompt->ids,
                                   &prompt->count, &inner);
    }
    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, status, "%s: %s", prompt->where, inner.message);
}

/* Within what --seed takes, so that a result can be had again by itself. */
static uint64_t seed_of(const run_state *run, int64_t index)
{
    return (run->args->seed + (uint64_t)index) & (uint64_t)INT64_MAX;
}

/* Begin the next prompt, if there is one. */
static spc_status begin_job(run_state *run, spc_error *err)
{
    spc_cli_prompt prompt;
    spc_error inner;
    bool got;
    job *j = NULL;
    spc_status status = spc_cli_source_next(&run->source, &prompt, &got, err);

    if (status == SPC_OK && !got) run->reading = false;
    if (status != SPC_OK || !got) goto done;
    status = prompt_ids(run, &prompt, err);
    if (status != SPC_OK) goto done;
    j = calloc(1, sizeof *j);
    if (!j) {
        status = spc_error_set(err, SPC_ENOMEM, "%s: no memory", prompt.where);
        goto done;
    }
    run->options.seed = seed_of(run, run->prompts);
    status =
        spc_session_open(run->engine, &run->options, prompt.ids, prompt.count, &j->session, &inner);
    if (status != SPC_OK) {
        (void)spc_error_set(err, status, "%s: %s", prompt.where, inner.message);
        free(j);
        goto done;
    }
    j->index = run->prompts++;
    j->id = json_incref(prompt.id);
    *(run->last ? &run->last->next : &run->first) = j;
    run->last = j;
    run->running++;
done:
    spc_cli_prompt_free(&prompt);
    return status;
}

/* Take the result out of a session that ended, and give its slot back. */
static void end_job(run_state *run, job *j)
{
    spc_error error;
    const int32_t *tokens = spc_session_tokens(j->session, &j->count);
    spc_engine_facts facts;

    spc_engine_describe(run->engine, &facts);
    j->finish = spc_session_finish(j->session);
    spc_session_stats(j->session, &j->stats);
    j->tokens = malloc(((size_t)j->count + 1) * sizeof *j->tokens);
    if (j->tokens) {
        memcpy(j->tokens, tokens, (size_t)j->count * sizeof *tokens);
    } else {
        j->count = 0;
        (void)spc_error_set(&error, SPC_ENOMEM, "no memory for a result");
        note_error(run, &error);
    }
    if (facts.tokenizer && spc_session_text(j->session, &j->text, &j->bytes, &error) != SPC_OK) {
        note_error(run, &error);
    }
    if (spc_session_error(j->session)) note_error(run, spc_session_error(j->session));
    spc_session_close(j->session);
    j->session = NULL;
    run->running--;
}

static void free_job(job *j)
{
    spc_session_close(j->session);
    json_decref(j->id);
    free(j->text);
    free(j->tokens);
    free(j);
}

/* ---- results --------------------------------------------------------------------------------- */

/* Draft positions that counters are shown for: gamma, or the window of bild-dynamic. */
static int32_t positions(const run_state *run)
{
    spc_rule rule;

    if (spc_rule_parse(run->rule, &rule, NULL) && rule.kind == SPC_RULE_BILD_DYNAMIC) {
        return rule.window;
    }
    return run->options.gamma;
}

static json_t *job_json(const run_state *run, const job *j)
{
    const spc_session_options *o = &run->options;
    json_t *object = json_object();
    int failed = json_object_set_new(object, "index", json_integer(j->index));

    if (j->id) failed |= json_object_set(object, "id", j->id);
    if (j->text) failed |= json_object_set_new(object, "text", json_stringn(j->text, j->bytes));
    failed |= json_object_set_new(object, "ids", spc_cli_json_ids(j->tokens, j->count));
    failed |= json_object_set_new(object, "finish", json_string(spc_finish_name(j->finish)));
    failed |= json_object_set_new(object, "rule", json_string(run->rule));
    failed |= json_object_set_new(object, "gamma", json_integer(o->gamma));
    failed |= json_object_set_new(object, "seed",
                                  json_integer((json_int_t)(run->args->seed + (uint64_t)j->index)));
    if (failed == 0 && spc_cli_json_stats(object, &j->stats, positions(run))) return object;
    json_decref(object);
    return NULL;
}

static void print_job(const run_state *run, const job *j)
{
    if (run->args->json) {
        spc_cli_put_json(job_json(run, j));
        return;
    }
    if (!run->args->stream && j->text) spc_cli_put(j->text, j->bytes);
    for (int32_t i = 0; i < j->count && !j->text; i++) {
        spc_cli_print("%s%" PRId32, i > 0 ? " " : "", j->tokens[i]);
    }
    spc_cli_put("\n", 1);
}

/* Print what is at the head of the line and has ended. */
static void print_ready(run_state *run)
{
    while (run->first && !run->first->session) {
        job *j = run->first;

        print_job(run, j);
        spc_cli_stats_add(&run->total, &j->stats);
        run->total.output_hash = spc_hash_tokens(run->total.output_hash, j->tokens, j->count);
        run->finished[j->finish]++;
        run->first = j->next;
        if (!run->first) run->last = NULL;
        free_job(j);
    }
    if (!spc_cli_flush()) run->reading = false;
}

static void print_positions(const char *name, const int64_t *by_position, int32_t gamma)
{
    (void)fprintf(stderr, ", %s %" PRId64, name, spc_cli_sum(by_position));
    for (int32_t i = 0; i < gamma; i++) {
        (void)fprintf(stderr, "%s%" PRId64, i == 0 ? " (" : " ", by_position[i]);
    }
    if (gamma > 0) (void)fprintf(stderr, ")");
}

/* The line of statistics. */
static void print_statistics(const run_state *run)
{
    const spc_stats *t = &run->total;
    int32_t gamma = positions(run);

    spc_cli_progress(NULL);
    (void)fprintf(stderr, "spc: %s: %" PRId64 " tokens, %.0f tokens/s, %" PRId64 " rounds",
                  run->rule, t->tokens, spc_cli_ratio((double)t->tokens, spc_cli_seconds(t)),
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
        if (run->finished[i] == 0) continue;
        (void)fprintf(stderr, " %s", spc_finish_name((spc_finish)i));
        if (run->prompts > 1) (void)fprintf(stderr, " %" PRId64, run->finished[i]);
    }
    (void)fprintf(stderr, ", hash %016" PRIx64 "\n", t->output_hash);
}

/* ---- the command ----------------------------------------------------------------------------- */

/* What can be told before a model is loaded. */
static spc_status check_args(const run_args *a, run_state *run, spc_error *err)
{
    bool sequential;
    spc_status status = spc_cli_rule(run->options.rule, run->rule, &sequential, err);

    if (status != SPC_OK) return status;
    if (a->stream && a->json) {
        return spc_error_set(err, SPC_EUSAGE, "--stream and --json do not go together");
    }
    if (a->stream && a->batch > 1) {
        return spc_error_set(err, SPC_EUSAGE, "--stream takes one prompt at a time: no --batch");
    }
    return SPC_OK;
}

static spc_status open_engine(const run_args *a, spc_engine **engine, spc_error *err)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = a->verifier;
    o.drafter = strcmp(a->drafter, "none") == 0 ? NULL : a->drafter;
    o.sessions = a->batch;
    o.context = a->context;
    o.threads = a->threads;
    o.isa = a->isa;
    o.progress = spc_cli_loading;
    return spc_engine_open(&o, engine, err);
}

static void session_options(const run_args *a, spc_session_options *o)
{
    spc_session_options_init(o);
    o->rule = a->rule;
    o->gamma = a->gamma;
    o->temperature = (float)a->temperature;
    o->top_k = a->top_k;
    o->top_p = (float)a->top_p;
    o->min_p = (float)a->min_p;
    o->max_tokens = a->max_tokens;
    o->verify = (spc_verify_mode)a->verify;
    o->bonus = (spc_bonus_mode)a->bonus;
    o->nucleus = !a->no_nucleus;
    o->ignore_stop = a->ignore_stop;
    o->stop = a->stop.item;
    o->stop_count = a->stop.count;
    o->on_token = stream_token;
    if (a->stream) o->on_text = stream_text;
}

/* Let an operating point choose, and say which. */
static spc_status take_point(const run_args *a, const spc_cli_line *line, run_state *run,
                             spc_error *err)
{
    static const char *const chosen[] = {"rule",  "gamma",  "temperature", "top-p",     "top-k",
                                         "min-p", "verify", "bonus",       "no-nucleus"};
    spc_cli_limits limits = {spc_cli_given(line, "max-relative-latency"),
                             spc_cli_given(line, "min-quality"), a->most_latency, a->least_quality};
    spc_status status;

    if (!a->points) {
        if (!limits.has_latency && !limits.has_quality) return SPC_OK;
        return spc_error_set(err, SPC_EUSAGE, "--%s needs --operating-point FILE",
                             limits.has_latency ? "max-relative-latency" : "min-quality");
    }
    for (size_t i = 0; i < sizeof chosen / sizeof *chosen; i++) {
        if (!spc_cli_given(line, chosen[i])) continue;
        return spc_error_set(err, SPC_EUSAGE,
                             "--%s is chosen by --operating-point: give one of them", chosen[i]);
    }
    status = spc_cli_choose_point(a->points, &limits, &run->point, err);
    if (status != SPC_OK) return status;
    run->options.rule = run->point.rule;
    run->options.gamma = run->point.gamma;
    run->options.temperature = (float)run->point.temperature;
    run->options.top_p = (float)run->point.top_p;
    run->options.top_k = run->point.top_k;
    run->options.min_p = (float)run->point.min_p;
    run->options.nucleus = run->point.nucleus;
    run->options.verify = (spc_verify_mode)run->point.verify;
    run->options.bonus = (spc_bonus_mode)run->point.bonus;
    if (!a->quiet) {
        (void)fprintf(
            stderr,
            "spc: operating point: %s, gamma %" PRId32
            ", temperature %g, top-p %g: quality %.2f at %.2f times the verifier's time\n",
            run->point.rule, run->point.gamma, run->point.temperature, run->point.top_p,
            run->point.quality, run->point.latency);
    }
    return SPC_OK;
}

static void tell_progress(const run_state *run)
{
    char text[96];

    if (run->args->quiet || run->prompts < 2) return;
    (void)snprintf(text, sizeof text, "%" PRId64 " prompts, %" PRId64 " tokens", run->prompts,
                   run->total.tokens);
    spc_cli_progress(text);
}

/* One step of everything that runs. */
static void step_jobs(run_state *run)
{
    spc_error error;
    int32_t count = 0;

    for (job *j = run->first; j; j = j->next) {
        if (!j->session) continue;
        if (spc_cli_interrupted) spc_session_cancel(j->session);
        run->stepping[count++] = j->session;
    }
    /* A failed session says so itself (end_job). */
    (void)spc_engine_step(run->engine, run->stepping, count, &error);
    for (job *j = run->first; j; j = j->next) {
        if (j->session && spc_session_finish(j->session) != SPC_FINISH_RUNNING) end_job(run, j);
    }
}

static void run_jobs(run_state *run)
{
    spc_error error;

    run->reading = true;
    while (run->reading || run->running > 0) {
        while (run->reading && !spc_cli_interrupted && run->running < run->args->batch) {
            if (begin_job(run, &error) != SPC_OK) note_error(run, &error);
        }
        if (spc_cli_interrupted) run->reading = false;
        if (run->running == 0) continue;
        step_jobs(run);
        print_ready(run);
        tell_progress(run);
    }
    if (run->prompts == 0 && run->error.status == SPC_OK && !spc_cli_interrupted) {
        (void)spc_error_set(&run->error, SPC_EINPUT,
                            "%s holds no prompt: give one as an argument, one per line on stdin, "
                            "or --input FILE",
                            run->source.name);
    }
}

static int run_run(const void *args, const spc_cli_line *line)
{
    const run_args *a = args;
    run_state run;

    memset(&run, 0, sizeof run);
    run.args = a;
    run.total.output_hash = SPC_HASH_NONE;

    session_options(a, &run.options);

    spc_status status = take_point(a, line, &run, &run.error);

    if (status == SPC_OK) status = check_args(a, &run, &run.error);
    if (status == SPC_OK) {
        status = spc_cli_source_open(&run.source, &line->words, a->input, &run.error);
    }
    if (status != SPC_OK) goto done;
    status = open_engine(a, &run.engine, &run.error);
    if (status != SPC_OK) goto done;
    run.stepping = calloc((size_t)a->batch, sizeof *run.stepping);
    if (!run.stepping) {
        (void)spc_error_set(&run.error, SPC_ENOMEM, "no memory for a batch of %d", (int)a->batch);
        goto done;
    }
    spc_cli_catch_interrupt();
    run_jobs(&run);
    if (!a->quiet && run.prompts > 0) print_statistics(&run);
done:
    free(run.stepping);
    spc_engine_close(run.engine);
    spc_cli_source_close(&run.source);
    if (run.error.status != SPC_OK) return spc_cli_fail(&run.error);
    return spc_cli_interrupted ? SPC_CLI_INTERRUPTED : 0;
}

const spc_cli_command spc_cli_run = {
    "run",
    "[PROMPT ...]",
    "decode prompts with a drafter and a verifier under a deferral rule",
    "Without prompts on the command line and without --input, every line of stdin is one.\n"
    "One line of result per prompt on stdout; one line of statistics on stderr.",
    0,
    INT32_MAX,
    options,
    sizeof options / sizeof *options,
    sizeof(run_args),
    run_init,
    run_run,
};
