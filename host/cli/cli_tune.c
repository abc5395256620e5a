/* SPDX-License-Identifier: Apache-2.0 */
/* cli_tune.c - spc tune: from the points a sweep has measured to the few worth serving.
 *
 * A point is kept when no other is at least as good and at least as cheap, as measured: the Pareto
 * front of the means.  How sure they are is told beside them, and chooses nothing: intervals are of
 * each point by itself, and points that were measured on the same texts err alike.  What is written
 * is what spc run --operating-point reads. */
#include "cli.h"
#include "host/replace.h"

#include "rules/rule.h"
#include "weights/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *output;
    int32_t cost;
    bool json;
} tune_args;

enum { COST_LATENCY, COST_CALLS };

#define OPTION(name, value, help, kind, field)                              \
    {                                                                       \
        name, value, help, SPC_CLI_##kind, offsetof(tune_args, field), 0, 0 \
    }

static const spc_cli_option options[] = {
    OPTION("output", "FILE", "write the points there, for spc run --operating-point", TEXT, output),
    OPTION("cost", "latency|calls",
           "measure of cost: time relative to the verifier alone, or verifier calls\n"
           "per token",
           CHOICE, cost),
    OPTION("json", NULL, "the points as JSON on stdout, not as a table", FLAG, json)};

static void init(void *args)
{
    *(tune_args *)args = (tune_args){NULL, COST_LATENCY, false};
}

/* ---- points ---------------------------------------------------------------------------------- */

/* Sums over the seeds of one point. */
typedef struct {
    json_t *first; /* its first line, which has the settings */
    json_t *seen;  /* object: the seeds of its lines, as keys */
    double alpha;
    bool has_alpha;
    int32_t seeds;
    double value, latency, calls;
    double ci_low, ci_high; /* of value; NaN: a line does not say */
    bool beaten;            /* another point is better and no dearer, or cheaper and no worse */
} tune_point;

typedef struct {
    const char *path;
    tune_point *point; /* [count] */
    size_t count, capacity;
    int32_t failed;     /* lines of points that the sweep could not run */
    int32_t unmeasured; /* lines with null in place of a number, ... */
    int64_t first;      /* ... and the number of the first, ... */
    const char *what;   /* ... and what it has not */
} tune;

/* What makes two lines seeds of one point ... */
static const char *const settings[] = {"rule",  "gamma",  "temperature", "top_p",   "top_k",
                                       "min_p", "verify", "batch",       "nucleus", "bonus_mode"};
/* ... and what all lines must share to be compared at all. */
static const char *const common[] = {"metric",        "verifier",   "drafter",     "drafter_vocab",
                                     "examples",      "max_tokens", "data_hash",   "context",
                                     "chat_template", "ask",        "test_seconds"};

/* What spc run is to know of these: a point tells nothing of other models. */
static const char *const models[] = {"verifier", "drafter", "drafter_vocab"};

enum {
    SETTINGS = sizeof settings / sizeof *settings,
    COMMON = sizeof common / sizeof *common,
    MODELS = sizeof models / sizeof *models
};

static bool same(const json_t *a, const json_t *b, const char *key)
{
    const json_t *x = json_object_get(a, key), *y = json_object_get(b, key);

    if (json_is_number(x) && json_is_number(y)) {
        return json_number_value(x) == json_number_value(y);
    }
    return x == y || (x && y && json_equal(x, y));
}

/* The point that a line is a seed of; NULL: a new one. */
static tune_point *find_point(tune *t, const json_t *line)
{
    for (size_t i = 0; i < t->count; i++) {
        int32_t k = 0;

        while (k < SETTINGS && same(t->point[i].first, line, settings[k])) k++;
        if (k == SETTINGS) return &t->point[i];
    }
    return NULL;
}

static spc_status check_common(const tune *t, const json_t *line, int64_t number, spc_error *err)
{
    for (int32_t k = 0; t->count > 0 && k < COMMON; k++) {
        const json_t *had = json_object_get(t->point[0].first, common[k]);
        const json_t *has = json_object_get(line, common[k]);

        if (same(t->point[0].first, line, common[k])) continue;

        char *a = json_dumps(had, JSON_ENCODE_ANY), *b = json_dumps(has, JSON_ENCODE_ANY);

        (void)spc_error_set(err, SPC_EINPUT,
                            "%s: line %" PRId64 ": %s is %s, but %s in the lines before: points of "
                            "one sweep only can be compared",
                            t->path, number, common[k], b ? b : "missing", a ? a : "missing");
        free(a);
        free(b);
        return SPC_EINPUT;
    }
    return SPC_OK;
}

/* Add a seed to those of a point; false: it had been there. */
static bool add_seed(tune_point *point, const json_t *seed)
{
    char key[32];

    (void)snprintf(key, sizeof key, "%lld", (long long)json_integer_value(seed));
    if (json_object_get(point->seen, key)) return false;
    return json_object_set_new(point->seen, key, json_true()) == 0;
}

/* How many of a line's seeds no line of its point had before. */
static int32_t add_seeds(tune_point *point, const json_t *line)
{
    const json_t *seeds = json_object_get(line, "seeds"), *seed = json_object_get(line, "seed");
    int32_t fresh = 0;

    if (json_array_size(seeds) == 0) return !seed || add_seed(point, seed);
    for (size_t i = 0; i < json_array_size(seeds); i++) {
        fresh += add_seed(point, json_array_get(seeds, i));
    }
    return fresh;
}

static void close_point(tune_point *point)
{
    json_decref(point->first);
    json_decref(point->seen);
}

static spc_status grow(tune *t, spc_error *err)
{
    if (t->count < t->capacity) return SPC_OK;

    size_t capacity = t->capacity ? 2 * t->capacity : 64;
    tune_point *point = realloc(t->point, capacity * sizeof *point);

    if (!point) return spc_error_set(err, SPC_ENOMEM, "no memory for the points of %s", t->path);
    t->point = point;
    t->capacity = capacity;
    return SPC_OK;
}

/* What a point is judged by. */
static const char *const measured[] = {"value", "relative_latency", "verifier_calls_per_token"};

enum { MEASURED = sizeof measured / sizeof *measured };

/* Is one of them null?  A sweep writes that where there was nothing to divide by. */
static bool unmeasured(tune *t, const json_t *line, int64_t number)
{
    for (int32_t k = 0; k < MEASURED; k++) {
        if (!json_is_null(json_object_get(line, measured[k]))) continue;
        if (t->unmeasured++ == 0) {
            t->first = number;
            t->what = measured[k];
        }
        return true;
    }
    return false;
}

/* An end of the interval of a line's quality; NaN: it does not say. */
static double end_of(const json_t *line, const char *key)
{
    const json_t *end = json_object_get(line, key);

    return json_is_number(end) ? json_number_value(end) : (double)NAN;
}

/* Add what a line has measured.  A mean of intervals is no narrower than that of the mean, however
 * the seeds depend on each other. */
static void add_line(tune_point *point, const json_t *line, int32_t seeds)
{
    point->seeds += seeds;
    point->value += seeds * json_number_value(json_object_get(line, measured[0]));
    point->latency += seeds * json_number_value(json_object_get(line, measured[1]));
    point->calls += seeds * json_number_value(json_object_get(line, measured[2]));
    point->ci_low += seeds * end_of(line, "ci_low");
    point->ci_high += seeds * end_of(line, "ci_high");
}

/* One line of a sweep.  Lines of other kinds (the header of bench/record) are passed over. */
static spc_status take_line(tune *t, json_t *line, int64_t number, spc_error *err)
{
    const char *bench = json_string_value(json_object_get(line, "bench"));
    const char *rule = json_string_value(json_object_get(line, "rule"));
    const json_t *value = json_object_get(line, "value");
    const json_t *latency = json_object_get(line, "relative_latency");
    const json_t *calls = json_object_get(line, "verifier_calls_per_token");
    char message[SPC_RULE_MESSAGE_BYTES];
    tune_point *point;
    spc_rule parsed;
    int32_t seeds, fresh;
    spc_status status;

    if (!bench || strcmp(bench, "sweep") != 0) return SPC_OK;
    if (json_object_get(line, "failed")) {
        t->failed++;
        return SPC_OK;
    }
    /* lines of before there was a choice */
    if (!json_object_get(line, "bonus_mode") &&
        json_object_set_new(line, "bonus_mode", json_string("target")) != 0) {
        return spc_error_set(err, SPC_ENOMEM, "no memory for the points of %s", t->path);
    }
    if (rule && unmeasured(t, line, number)) return SPC_OK;
    if (!rule || !json_is_number(value) || !json_is_number(latency) || !json_is_number(calls) ||
        !json_is_integer(json_object_get(line, "gamma"))) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: line %" PRId64 ": expected a result with rule, gamma, value, "
                             "relative_latency and verifier_calls_per_token",
                             t->path, number);
    }
    if (!spc_rule_parse(rule, &parsed, message)) {
        return spc_error_set(err, SPC_EINPUT, "%s: line %" PRId64 ": %s", t->path, number, message);
    }
    status = check_common(t, line, number, err);
    if (status != SPC_OK) return status;
    point = find_point(t, line);
    if (!point) {
        status = grow(t, err);
        if (status != SPC_OK) return status;
        point = &t->point[t->count++];
        *point = (tune_point){.first = json_incref(line),
                              .seen = json_object(),
                              .alpha = parsed.alpha,
                              .has_alpha = strchr(rule, '=') != NULL};
        if (!point->seen) {
            return spc_error_set(err, SPC_ENOMEM, "no memory for the points of %s", t->path);
        }
    }
    seeds = (int32_t)json_array_size(json_object_get(line, "seeds")); /* the line pools so many */
    if (seeds == 0) seeds = 1;
    fresh = add_seeds(point, line);
    if (fresh == 0) return SPC_OK; /* the baseline is in the results of every sweep */
    if (fresh < seeds) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: line %" PRId64 ": some seeds of %s are those of a line before: "
                             "they would count twice",
                             t->path, number, rule);
    }
    add_line(point, line, seeds);
    return SPC_OK;
}

static spc_status read_sweep(tune *t, FILE *in, spc_error *err)
{
    char *text = NULL;
    size_t room = 0;
    spc_status status = SPC_OK;
    json_error_t why;

    for (int64_t number = 1; status == SPC_OK && getline(&text, &room, in) > 0; number++) {
        json_t *line = json_loads(text, 0, &why);

        if (line) {
            status = take_line(t, line, number, err);
        } else if (spc_json_no_memory(&why, text)) {
            status = spc_error_set(err, SPC_ENOMEM, "%s: line %" PRId64 ": no memory to read it",
                                   t->path, number);
        } else if (strchr(text, '\n')) { /* a last line may have been cut by an interruption */
            status = spc_error_set(err, SPC_EINPUT, "%s: line %" PRId64 ": %s", t->path, number,
                                   why.text);
        }
        json_decref(line);
    }
    if (status == SPC_OK && ferror(in)) {
        status = spc_error_set(err, SPC_EINPUT, "%s: cannot be read: %s", t->path, strerror(errno));
    }
    if (status == SPC_OK && t->count == 0) {
        status = spc_error_set(err, SPC_EINPUT,
                               "%s: holds no finished point of a sweep; bench_sweep makes them",
                               t->path);
    }
    free(text);
    for (size_t i = 0; i < t->count; i++) {
        tune_point *p = &t->point[i];

        p->value /= p->seeds;
        p->latency /= p->seeds;
        p->calls /= p->seeds;
        p->ci_low /= p->seeds;
        p->ci_high /= p->seeds;
    }
    return status;
}

/* ---- the front ------------------------------------------------------------------------------- */

static double cost_of(const tune_point *p, int32_t cost)
{
    return cost == COST_CALLS ? p->calls : p->latency;
}

/* At least as good and as cheap, and better in one of the two. */
static bool beats(const tune_point *a, const tune_point *b, int32_t cost)
{
    double x = cost_of(a, cost), y = cost_of(b, cost);

    return a->value >= b->value && x <= y && (a->value > b->value || x < y);
}

static int by_quality(const void *a, const void *b)
{
    const tune_point *x = a, *y = b;

    return (x->value < y->value) - (x->value > y->value);
}

/* Keep the front, best quality first. */
static void keep_front(tune *t, int32_t cost)
{
    size_t kept = 0;

    for (size_t i = 0; i < t->count; i++) {
        for (size_t j = 0; j < t->count && !t->point[i].beaten; j++) {
            t->point[i].beaten = beats(&t->point[j], &t->point[i], cost);
        }
    }
    for (size_t i = 0; i < t->count; i++) {
        if (t->point[i].beaten) {
            close_point(&t->point[i]);
        } else {
            t->point[kept++] = t->point[i];
        }
    }
    t->count = kept;
    qsort(t->point, t->count, sizeof *t->point, by_quality);
}

static bool has_interval(const tune_point *p)
{
    return isfinite(p->ci_low) && isfinite(p->ci_high);
}

/* Neighbours on the front whose intervals of quality overlap. */
static size_t count_overlaps(const tune *t)
{
    size_t count = 0;

    for (size_t i = 1; i < t->count; i++) {
        const tune_point *better = &t->point[i - 1], *worse = &t->point[i];

        count += has_interval(better) && has_interval(worse) && worse->ci_high >= better->ci_low;
    }
    return count;
}

/* ---- results --------------------------------------------------------------------------------- */

static json_t *json_of(const tune_point *p)
{
    json_t *object = json_object();
    int failed = 0;

    if (!object) return NULL;
    for (int32_t k = 0; k < SETTINGS; k++) {
        json_t *value = json_object_get(p->first, settings[k]);

        if (value) failed |= json_object_set(object, settings[k], value);
    }
    for (int32_t k = 0; k < MODELS; k++) {
        json_t *value = json_object_get(p->first, models[k]);

        if (value) failed |= json_object_set(object, models[k], value);
    }
    failed |=
        json_object_set_new(object, "alpha", p->has_alpha ? json_real(p->alpha) : json_null());
    failed |= json_object_set(object, "metric", json_object_get(p->first, "metric"));
    failed |= json_object_set_new(object, "value", json_real(p->value));
    if (has_interval(p)) {
        failed |= json_object_set_new(object, "ci_low", json_real(p->ci_low));
        failed |= json_object_set_new(object, "ci_high", json_real(p->ci_high));
    }
    failed |= json_object_set_new(object, "relative_latency", json_real(p->latency));
    failed |= json_object_set_new(object, "verifier_calls_per_token", json_real(p->calls));
    failed |= json_object_set_new(object, "tokens_per_verifier_call",
                                  p->calls > 0 ? json_real(1 / p->calls) : json_null());
    failed |= json_object_set_new(object, "seeds", json_integer(p->seeds));
    if (!failed) return object;
    json_decref(object);
    return NULL;
}

static json_t *json_front(const tune *t)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < t->count; i++) {
        if (json_array_append_new(list, json_of(&t->point[i])) == 0) continue;
        json_decref(list);
        list = NULL;
    }
    return list;
}

static spc_status write_front(const char *path, json_t *list, spc_error *err)
{
    spc_replace out;
    int why = spc_replace_begin(&out, path);

    if (why == 0) {
        bool whole = json_dumpf(list, out.file, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0;

        why = spc_replace_end(&out, whole);
    }
    if (why == 0) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "--output %s: cannot be written: %s", path,
                         strerror(why));
}

static double number_of(const tune_point *p, const char *key)
{
    return json_number_value(json_object_get(p->first, key));
}

static void print_front(const tune *t)
{
    spc_cli_print("%-30s %5s %5s %6s  %-8s %8s %-15s %8s %10s\n", "rule", "gamma", "T", "top-p",
                  "metric", "quality", "(95 %)", "latency", "calls/token");
    for (size_t i = 0; i < t->count; i++) {
        const tune_point *p = &t->point[i];
        char more[SPC_CLI_MORE_BYTES], interval[64] = "";

        spc_cli_line_more(p->first, more);
        if (has_interval(p)) {
            (void)snprintf(interval, sizeof interval, "%.2f-%.2f", p->ci_low, p->ci_high);
        }
        spc_cli_print("%-30s %5.0f %5.2g %6.3g  %-8s %8.2f %-15s %8.2f %10.3f%s%s\n",
                      json_string_value(json_object_get(p->first, "rule")), number_of(p, "gamma"),
                      number_of(p, "temperature"), number_of(p, "top_p"),
                      json_string_value(json_object_get(p->first, "metric")), p->value, interval,
                      p->latency, p->calls, more[0] ? "  " : "",
                      more[0] ? more + strlen(", ") : "");
    }
}

/* Before the front is chosen: there may be none. */
static void tell_unmeasured(const tune *t)
{
    if (t->unmeasured == 0) return;
    (void)fprintf(stderr,
                  "spc: %s: left out %" PRId32 " point%s without a measured number, the first in "
                  "line %" PRId64 ", whose %s is null\n",
                  t->path, t->unmeasured, t->unmeasured == 1 ? "" : "s", t->first, t->what);
}

static spc_status tell(const tune_args *a, const tune *t, size_t points, spc_error *err)
{
    size_t overlaps = count_overlaps(t);
    json_t *list = json_front(t);
    spc_status status = SPC_OK;

    if (!list) return spc_error_set(err, SPC_ENOMEM, "no memory for the points of %s", t->path);
    if (a->output) status = write_front(a->output, list, err);
    if (status != SPC_OK) {
        json_decref(list);
        return status;
    }
    if (a->json) {
        spc_cli_put_json(list);
    } else {
        print_front(t);
        json_decref(list);
    }
    (void)fprintf(stderr, "spc: points on the front: %zu of %zu", t->count, points);
    if (t->failed) (void)fprintf(stderr, "; %" PRId32 " had failed", t->failed);
    if (a->output) {
        (void)fprintf(stderr, "; use them: spc run --operating-point %s --max-relative-latency X",
                      a->output);
    }
    (void)fputc('\n', stderr);
    if (overlaps > 0) {
        (void)fprintf(stderr,
                      "spc: the 95 %% intervals of quality of %zu of %zu neighbours overlap: the "
                      "order is that of the means; more rows or seeds tell them apart\n",
                      overlaps, t->count - 1);
    }
    return SPC_OK;
}

static int run(const void *args, const spc_cli_line *line)
{
    const tune_args *a = args;
    tune t = {.path = line->words.item[0]};
    spc_error error;
    spc_status status =
        spc_cli_check_output(a->output, "--json writes the points to stdout", &error);
    FILE *in;

    if (status != SPC_OK) return spc_cli_fail(&error);
    in = fopen(t.path, "r");
    if (!in) return spc_cli_fail_with(SPC_EINPUT, "%s: %s", t.path, strerror(errno));
    status = read_sweep(&t, in, &error);
    (void)fclose(in);
    tell_unmeasured(&t);
    if (status == SPC_OK) {
        size_t points = t.count;

        keep_front(&t, a->cost);
        status = tell(a, &t, points, &error);
    }
    for (size_t i = 0; i < t.count; i++) close_point(&t.point[i]);
    free(t.point);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

const spc_cli_command spc_cli_tune = {
    "tune",
    "SWEEP.jsonl",
    "choose operating points from a sweep: its Pareto front of quality against cost",
    "SWEEP.jsonl holds the results of bench_sweep; several seeds of a point are averaged.\n"
    "A point is kept where no other is as good and as cheap in the measured means.  Beside its\n"
    "quality stands the 95 % interval, where the sweep has one; that of neighbours may overlap.",
    1,
    1,
    options,
    sizeof options / sizeof *options,
    sizeof(tune_args),
    init,
    run,
    NULL};
