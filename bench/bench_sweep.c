/* SPDX-License-Identifier: Apache-2.0 */
/* bench_sweep.c - quality against cost: a data set decoded under a grid of rules, one JSON line per
 * point.  bench_sweep --help.
 *
 * Sequences are decoded one at a time, as the paper measured.  A point's cost is the time inside
 * steps, prefill included, relative to the verifier alone: every PAIRED-th prompt is decoded by the
 * verifier too, right behind the point's own turn, so that a machine whose speed drifts during the
 * sweep changes both alike.  The output file is the state: points it holds are not run again, so an
 * interrupted sweep goes on where it was. */
#include "bench/measure.h"
#include "bench/sweep.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RESAMPLES = 1000, PAIRED = 4 };

typedef struct {
    const char *data, *metric, *output, *verifier, *drafter;
    int32_t every, rows, max_tokens, threads;
    sweep_axes axes;
} options;

static const char help[] =
    "bench_sweep --data FILE --output FILE.jsonl [options]\n"
    "\n"
    "Decodes a data set under a grid of deferral rules and writes quality and cost, a JSON line "
    "per\n"
    "point.  Points that FILE.jsonl holds already are not run again.\n"
    "\n"
    "  --data FILE          lines of language <tab> English <tab> translation, or a .jsonl of\n"
    "                       {\"prompt\": ..., \"reference\": ...}\n"
    "  --output FILE        where results are appended\n"
    "  --metric NAME        bleu (default), chrf, rouge2, exact, f1, gsm8k\n"
    "  --rules LIST         rule texts separated by ';' (default: ten methods, five alphas each)\n"
    "  --gamma LIST         draft lengths, separated by ',' (default 5)\n"
    "  --temperature LIST   (default 1)\n"
    "  --top-p LIST         (default 1)\n"
    "  --seed LIST          (default 0)\n"
    "  --verify MODE        token (default) or block\n"
    "  --no-nucleus         token rules as in the paper: they may leave the verifier's nucleus\n"
    "  --every N            every N-th line of the data (default 1)\n"
    "  --rows N             at most so many lines (default: all)\n"
    "  --max-tokens N       per line (default 48)\n"
    "  --verifier MODEL     (default: the embedded pair)\n"
    "  --drafter MODEL\n"
    "  --threads N          CPU threads; 0: one per core (default)\n"
    "  --help               this text\n";

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* ---- options ----------------------------------------------------------------------------------
 */

static spc_status read_count(const char *name, const char *text, int32_t *out, spc_error *err)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (end == text || *end || value < 0 || value > INT32_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "--%s: expected a whole number, found '%s'", name,
                             text);
    }
    *out = (int32_t)value;
    return SPC_OK;
}

static spc_status read_options(int argc, char **argv, options *o, bool *asked, spc_error *err)
{
    static const struct option names[] = {
        {"data", 1, NULL, 'd'},       {"output", 1, NULL, 'o'},   {"metric", 1, NULL, 'm'},
        {"rules", 1, NULL, 'r'},      {"gamma", 1, NULL, 'g'},    {"temperature", 1, NULL, 't'},
        {"top-p", 1, NULL, 'p'},      {"seed", 1, NULL, 's'},     {"verify", 1, NULL, 'v'},
        {"no-nucleus", 0, NULL, 'N'}, {"every", 1, NULL, 'e'},    {"rows", 1, NULL, 'n'},
        {"max-tokens", 1, NULL, 'x'}, {"verifier", 1, NULL, 'V'}, {"drafter", 1, NULL, 'D'},
        {"threads", 1, NULL, 'T'},    {"help", 0, NULL, 'h'},     {NULL, 0, NULL, 0}};
    spc_status status = SPC_OK;
    int c;

    *o = (options){NULL,
                   "bleu",
                   NULL,
                   SPC_EMBEDDED_VERIFIER,
                   SPC_EMBEDDED_DRAFTER,
                   1,
                   0,
                   48,
                   0,
                   {NULL, "5", "1", "1", "0", SPC_VERIFY_TOKEN, true}};
    opterr = 0;
    while (status == SPC_OK && (c = getopt_long(argc, argv, ":", names, NULL)) != -1) {
        switch (c) {
        case 'd': o->data = optarg; break;
        case 'o': o->output = optarg; break;
        case 'm': o->metric = optarg; break;
        case 'r': o->axes.rules = optarg; break;
        case 'g': o->axes.gammas = optarg; break;
        case 't': o->axes.temperatures = optarg; break;
        case 'p': o->axes.top_ps = optarg; break;
        case 's': o->axes.seeds = optarg; break;
        case 'N': o->axes.nucleus = false; break;
        case 'V': o->verifier = optarg; break;
        case 'D': o->drafter = optarg; break;
        case 'e': status = read_count("every", optarg, &o->every, err); break;
        case 'n': status = read_count("rows", optarg, &o->rows, err); break;
        case 'x': status = read_count("max-tokens", optarg, &o->max_tokens, err); break;
        case 'T': status = read_count("threads", optarg, &o->threads, err); break;
        case 'h': *asked = true; return SPC_OK;
        case 'v':
            o->axes.verify = strcmp(optarg, "block") == 0 ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
            if (strcmp(optarg, "block") == 0 || strcmp(optarg, "token") == 0) break;
            status = spc_error_set(err, SPC_EUSAGE, "--verify: expected token or block, found '%s'",
                                   optarg);
            break;
        case ':':
            status = spc_error_set(err, SPC_EUSAGE, "%s: expected a value", argv[optind - 1]);
            break;
        default:
            status = spc_error_set(err, SPC_EUSAGE, "unknown option %s; see bench_sweep --help",
                                   argv[optind - 1]);
        }
    }
    if (status != SPC_OK) return status;
    if (optind < argc) {
        return spc_error_set(err, SPC_EUSAGE, "unexpected argument '%s'", argv[optind]);
    }
    if (!o->data || !o->output) {
        return spc_error_set(err, SPC_EUSAGE, "--data and --output are needed; see --help");
    }
    if (o->every < 1) return spc_error_set(err, SPC_EUSAGE, "--every: expected 1 or more");
    return SPC_OK;
}

/* ---- what is done already ---------------------------------------------------------------------
 */

/* Results by key: {"key": line}.  A last line that was cut by an interruption is cut off the file.
 */
static spc_status read_done(const char *path, json_t *done, spc_error *err)
{
    FILE *file = fopen(path, "r+");
    char *line = NULL;
    size_t room = 0;
    ssize_t bytes;
    long good = 0;
    spc_status status = SPC_OK;

    struct stat facts;

    if (!file && errno == ENOENT) return SPC_OK;
    if (!file || fstat(fileno(file), &facts) != 0) {
        if (file) (void)fclose(file);
        return spc_error_set(err, SPC_EINPUT, "%s: cannot be opened: %s", path, strerror(errno));
    }
    if (!S_ISREG(facts.st_mode)) { /* a pipe or device holds no earlier results */
        (void)fclose(file);
        return SPC_OK;
    }
    for (int64_t number = 1; (bytes = getline(&line, &room, file)) > 0; number++) {
        json_t *value = line[bytes - 1] == '\n' ? json_loads(line, 0, NULL) : NULL;
        const char *key = json_string_value(json_object_get(value, "key"));

        if (!key) {
            json_decref(value);
            if (line[bytes - 1] != '\n') break; /* cut short: written again */
            status = spc_error_set(err, SPC_EINPUT, "%s: line %lld is no result of a sweep", path,
                                   (long long)number);
            break;
        }
        (void)json_object_set_new(done, key, value);
        good = ftell(file);
    }
    if (status == SPC_OK && ftruncate(fileno(file), good) != 0) {
        status = spc_error_set(err, SPC_EINPUT, "%s: cannot be written: %s", path, strerror(errno));
    }
    free(line);
    (void)fclose(file);
    return status;
}

/* ---- one point --------------------------------------------------------------------------------
 */

/* Sums over all examples of a point. */
typedef struct {
    spc_stats total;
    double *counts; /* [examples, metric->counts] */
    int64_t at_limit;
    double seconds;
    uint64_t paired_ns, verifier_ns; /* of the prompts that the verifier decoded too */
} outcome;

static uint64_t step_ns(const spc_stats *s)
{
    return s->draft_ns + s->verify_ns + s->other_ns;
}

static void add_stats(spc_stats *t, const spc_stats *s)
{
    t->tokens += s->tokens;
    t->rounds += s->rounds;
    t->verifier_calls += s->verifier_calls;
    t->drafter_calls += s->drafter_calls;
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

static void session_options(const options *o, const sweep_point *p, int32_t index,
                            spc_session_options *so)
{
    spc_rule rule;

    spc_session_options_init(so);
    so->rule = p->rule;
    so->gamma = p->gamma;
    so->temperature = (float)p->temperature;
    so->top_p = (float)p->top_p;
    so->verify = p->verify;
    so->nucleus = p->nucleus;
    if (spc_rule_parse(p->rule, &rule, NULL) && spc_rule_needs_draft((spc_rule_kind)rule.kind)) {
        so->bonus = SPC_BONUS_STEP; /* it takes no other */
    }
    so->seed = (uint64_t)p->seed * 1000003u + (uint64_t)index;
    so->max_tokens = o->max_tokens;
}

/* The verifier alone on one prompt, for its time. */
static spc_status time_verifier(spc_engine *engine, const options *o, const sweep_point *p,
                                const sweep_example *e, int32_t index, uint64_t *ns, spc_error *err)
{
    spc_session_options so;
    spc_session *session;
    spc_stats stats;
    spc_status status;

    session_options(o, p, index, &so);
    so.rule = "verifier-only";
    status = spc_session_open(engine, &so, e->ids, e->count, &session, err);
    if (status != SPC_OK) return status;
    status = spc_session_run(session, err);
    spc_session_stats(session, &stats);
    spc_session_close(session);
    *ns += step_ns(&stats);
    return status;
}

static spc_status run_example(spc_engine *engine, const options *o, const sweep_point *p,
                              const sweep_example *e, int32_t index, const quality_metric *metric,
                              outcome *out, spc_error *err)
{
    spc_session_options so;
    spc_session *session;
    spc_stats stats;
    char *text = NULL;
    spc_status status;

    session_options(o, p, index, &so);
    status = spc_session_open(engine, &so, e->ids, e->count, &session, err);
    if (status != SPC_OK) return status;
    status = spc_session_run(session, err);
    if (status == SPC_OK) status = spc_session_text(session, &text, NULL, err);
    if (status == SPC_OK) {
        spc_session_stats(session, &stats);
        add_stats(&out->total, &stats);
        out->at_limit += spc_session_finish(session) == SPC_FINISH_MAX_TOKENS;
        if (!metric->count(text, e->reference,
                           out->counts + (size_t)index * (size_t)metric->counts)) {
            status = spc_error_set(err, SPC_ENOMEM, "no memory for metric %s", metric->name);
        }
    }
    free(text);
    spc_session_close(session);
    if (status != SPC_OK || index % PAIRED != 0) return status;
    out->paired_ns += step_ns(&stats);
    return time_verifier(engine, o, p, e, index, &out->verifier_ns, err);
}

static double sum_of(const int64_t *counts)
{
    double sum = 0.0;

    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) sum += (double)counts[i];
    return sum;
}

/* a / b; null where there is no b. */
static json_t *ratio(double a, double b)
{
    return b > 0.0 ? json_real(a / b) : json_null();
}

static json_t *positions(const int64_t *counts, int32_t gamma)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < gamma; i++) (void)json_array_append_new(array, json_integer(counts[i]));
    return array;
}

static json_t *result_of(const options *o, const sweep_point *p, const char *key,
                         const quality_metric *metric, const outcome *out, int32_t examples,
                         const json_t *base)
{
    const spc_stats *t = &out->total;
    double low, high, verified = sum_of(t->verified);
    double base_tokens =
        base ? json_number_value(json_object_get(base, "tokens")) : (double)t->tokens;
    json_t *line =
        json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:I, s:s, s:s, s:s, s:s, s:i, s:i}", "key", key,
                  "bench", "sweep", "rule", p->rule, "gamma", (int)p->gamma, "temperature",
                  p->temperature, "top_p", p->top_p, "seed", (json_int_t)p->seed, "verify",
                  p->verify == SPC_VERIFY_BLOCK ? "block" : "token", "verifier", o->verifier,
                  "drafter", o->drafter, "metric", metric->name, "examples", (int)examples,
                  "max_tokens", (int)o->max_tokens);

    (void)json_object_set_new(line, "nucleus", json_boolean(p->nucleus));
    quality_bootstrap(metric, out->counts, examples, RESAMPLES, 1, &low, &high);
    (void)json_object_set_new(line, "value",
                              json_real(quality_score(metric, out->counts, examples)));
    (void)json_object_set_new(line, "ci_low", json_real(low));
    (void)json_object_set_new(line, "ci_high", json_real(high));
    (void)json_object_set_new(line, "tokens", json_integer(t->tokens));
    (void)json_object_set_new(line, "rounds", json_integer(t->rounds));
    (void)json_object_set_new(line, "verifier_calls", json_integer(t->verifier_calls));
    (void)json_object_set_new(line, "drafter_calls", json_integer(t->drafter_calls));
    (void)json_object_set_new(line, "verifier_calls_per_token",
                              ratio((double)t->verifier_calls, (double)t->tokens));
    (void)json_object_set_new(line, "tokens_per_verifier_call",
                              ratio((double)t->tokens, (double)t->verifier_calls));
    (void)json_object_set_new(line, "acceptance_rate", ratio(sum_of(t->accepted), verified));
    (void)json_object_set_new(line, "rejection_rate", ratio(sum_of(t->rejected), verified));
    (void)json_object_set_new(line, "deferral_rate", ratio(sum_of(t->deferred), verified));
    (void)json_object_set_new(
        line, "deferred_per_token",
        ratio(sum_of(t->deferred) + (double)t->bonus_deferred, (double)t->tokens));
    (void)json_object_set_new(line, "accepted_per_drafted",
                              ratio(sum_of(t->accepted), sum_of(t->drafted)));
    (void)json_object_set_new(line, "drafter_calls_per_token",
                              ratio((double)t->drafter_calls, (double)t->tokens));
    (void)json_object_set_new(line, "bonus", json_integer(t->bonus));
    (void)json_object_set_new(line, "discarded", json_integer(t->discarded));
    (void)json_object_set_new(line, "zero_residuals", json_integer(t->zero_residuals));
    (void)json_object_set_new(line, "drafted_by_position", positions(t->drafted, p->gamma));
    (void)json_object_set_new(line, "verified_by_position", positions(t->verified, p->gamma));
    (void)json_object_set_new(line, "accepted_by_position", positions(t->accepted, p->gamma));
    (void)json_object_set_new(line, "deferred_by_position", positions(t->deferred, p->gamma));
    (void)json_object_set_new(line, "seconds", json_real(out->seconds));
    (void)json_object_set_new(line, "tokens_per_s", ratio((double)t->tokens, out->seconds));
    (void)json_object_set_new(line, "relative_latency",
                              ratio((double)out->paired_ns, (double)out->verifier_ns));
    (void)json_object_set_new(line, "length_ratio", ratio((double)t->tokens, base_tokens));
    (void)json_object_set_new(line, "at_limit", ratio((double)out->at_limit, (double)examples));
    return line;
}

static void tell_progress(int32_t done, int32_t points, int32_t example, int32_t examples,
                          const char *rule, uint64_t begin, int32_t ran)
{
    double share = (double)ran + (double)example / examples;
    double passed = (double)(measure_now_ns() - begin) * 1e-9;
    double left = share > 0 ? passed / share * (points - done - (double)example / examples) : 0.0;

    if (!isatty(STDERR_FILENO)) return;
    (void)fprintf(stderr, "\r\033[K%d of %d points, %s, %d %%, about %.0f s left", (int)done,
                  (int)points, rule, (int)(100.0 * example / examples), left);
    (void)fflush(stderr);
}

/* ---- the sweep --------------------------------------------------------------------------------
 */

typedef struct {
    const options *o;
    const quality_metric *metric;
    spc_engine *engine;
    sweep_data data;
    sweep_grid grid;
    json_t *done; /* by key */
    FILE *output;
    double *counts;
    uint64_t begin;
    int32_t ran;
} sweep;

/* Decode everything under one point.  SPC_OK and *finished false: interrupted. */
static spc_status run_point(sweep *s, int32_t index, outcome *out, bool *finished, spc_error *err)
{
    const sweep_point *p = &s->grid.point[index];
    spc_status status = SPC_OK;

    *finished = false;
    memset(out, 0, sizeof *out);
    out->counts = s->counts;
    for (int32_t i = 0; i < s->data.count && status == SPC_OK; i++) {
        if (interrupted) return SPC_OK;
        if (i % 16 == 0) {
            tell_progress(index, s->grid.count, i, s->data.count, p->rule, s->begin, s->ran);
        }
        status = run_example(s->engine, s->o, p, &s->data.example[i], i, s->metric, out, err);
    }
    out->seconds = (double)step_ns(&out->total) * 1e-9;
    *finished = true;
    return status;
}

/* Append a line and make sure that it is in the file. */
static spc_status write_line(sweep *s, json_t *line, spc_error *err)
{
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    bool good = text && fprintf(s->output, "%s\n", text) > 0 && fflush(s->output) == 0;

    free(text);
    if (good) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "%s: cannot be written: %s", s->o->output,
                         strerror(errno));
}

/* A point that fails is recorded as failed, and the sweep goes on. */
static json_t *failure_of(const sweep_point *p, const char *key, const spc_error *error)
{
    return json_pack("{s:s, s:s, s:s, s:i, s:s}", "key", key, "bench", "sweep", "rule", p->rule,
                     "gamma", (int)p->gamma, "failed", error->message);
}

static spc_status run_points(sweep *s, int32_t *failed, spc_error *err)
{
    const json_t *base = NULL;
    spc_status status = SPC_OK;

    s->begin = measure_now_ns();
    for (int32_t i = 0; i < s->grid.count && status == SPC_OK && !interrupted; i++) {
        const sweep_point *p = &s->grid.point[i];
        char key[SWEEP_KEY_BYTES];
        spc_error why;
        outcome out;
        bool finished;
        json_t *line;

        sweep_point_key(p, s->o->data, s->metric->name, key);
        if (strcmp(p->rule, "verifier-only") == 0) base = NULL;
        line = json_object_get(s->done, key);
        if (!line) {
            spc_status point = run_point(s, i, &out, &finished, &why);

            if (!finished && point == SPC_OK) break;
            line = point == SPC_OK ? result_of(s->o, p, key, s->metric, &out, s->data.count, base)
                                   : failure_of(p, key, &why);
            *failed += point != SPC_OK;
            s->ran++;
            status = write_line(s, line, err);
            (void)json_object_set_new(s->done, key, line);
        }
        if (strcmp(p->rule, "verifier-only") == 0) base = line;
    }
    if (isatty(STDERR_FILENO)) (void)fprintf(stderr, "\r\033[K");
    return status;
}

static spc_status open_sweep(sweep *s, spc_error *err)
{
    const options *o = s->o;
    spc_engine_options eo;
    spc_status status;

    s->metric = quality_find(o->metric);
    if (!s->metric) {
        return spc_error_set(err, SPC_EUSAGE, "--metric: unknown '%s'; known: %s", o->metric,
                             quality_names());
    }
    status = sweep_grid_make(&o->axes, &s->grid, err);
    if (status != SPC_OK) return status;
    spc_engine_options_init(&eo);
    eo.verifier = o->verifier;
    eo.drafter = o->drafter;
    eo.threads = o->threads;
    status = spc_engine_open(&eo, &s->engine, err);
    if (status == SPC_OK) {
        status = sweep_data_read(s->engine, o->data, o->every, o->rows, &s->data, err);
    }
    if (status != SPC_OK) return status;
    s->counts = calloc((size_t)s->data.count * (size_t)s->metric->counts, sizeof *s->counts);
    s->done = json_object();
    if (!s->counts || !s->done) return spc_error_set(err, SPC_ENOMEM, "no memory for the results");
    status = read_done(o->output, s->done, err);
    if (status != SPC_OK) return status;
    s->output = fopen(o->output, "a");
    if (s->output) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "%s: cannot be written: %s", o->output, strerror(errno));
}

static void close_sweep(sweep *s)
{
    if (s->output) (void)fclose(s->output);
    json_decref(s->done);
    free(s->counts);
    sweep_data_free(&s->data);
    sweep_grid_free(&s->grid);
    spc_engine_close(s->engine);
}

int main(int argc, char **argv)
{
    options o;
    sweep s = {.o = &o};
    spc_error error;
    bool asked = false;
    int32_t failed = 0;
    spc_status status = read_options(argc, argv, &o, &asked, &error);

    if (status == SPC_OK && asked) return fputs(help, stdout) < 0;
    (void)signal(SIGINT, on_interrupt);
    (void)signal(SIGTERM, on_interrupt);
    if (status == SPC_OK) status = open_sweep(&s, &error);
    if (status == SPC_OK) status = run_points(&s, &failed, &error);
    if (status == SPC_OK) {
        (void)fprintf(stderr, "bench_sweep: %d points run, %d failed, %d in %s\n", (int)s.ran,
                      (int)failed, (int)json_object_size(s.done), o.output);
    } else {
        (void)fprintf(stderr, "bench_sweep: %s\n", error.message);
    }
    close_sweep(&s);
    if (status != SPC_OK) return spc_status_exit_code(status);
    return interrupted ? 130 : failed > 0;
}
