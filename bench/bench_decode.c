/* SPDX-License-Identifier: Apache-2.0 */
/* bench_decode.c - how fast a model runs: time of one forward by number of rows, and how much of
 * the machine's memory read rate that is.
 *
 *     bench_decode [--model FOLDER] [--threads N] [--isa NAME] [--context N] [--kv TYPE]
 *                  [--seconds S] [--json]
 *
 * A round scores gamma + 1 rows at once, so the ratio to one row is what scoring costs beside plain
 * decoding.  Two states of the caches: `memory`, everything pushed out before each forward, as for
 * a model that is larger than they are (a second core's own second-level cache keeps what it has);
 * `caches`, as the forward before left them, where a model as small as the embedded ones can stay.
 */
#include "bench/measure.h"
#include "host/backend.h"
#include "host/engine.h"
#include "host/kv.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 8, READ_BYTES = 256 << 20 };

typedef struct {
    const char *model; /* NULL: both embedded ones */
    const char *isa;
    int32_t threads;
    int32_t context; /* tokens in the cache before the measured rows */
    spc_dtype kv;    /* of the cache */
    double seconds;  /* per line of the table */
    bool json, help;
} options;

typedef struct {
    const spc_backend_ops *ops;
    spc_backend *backend;
    spc_bundle *bundle;
    spc_plan *plan;
    spc_runner *runner;
    uint64_t weight_bytes;
    int32_t context; /* tokens in the cache */
    int32_t rows;    /* of the measured forward */
    char *flush;     /* [READ_BYTES] to push weights out of the caches with */
    int32_t slot[ROWS_MAX], token[ROWS_MAX], position[ROWS_MAX], output[ROWS_MAX];
    spc_error error;
} model;

static const char help[] =
    "bench_decode: time of one forward by number of rows, and its share of the memory read rate\n"
    "\n"
    "  --model MODEL   a folder, embedded:verifier or embedded:drafter (default: both embedded)\n"
    "  --threads N     CPU threads; 0: one per core (default)\n"
    "  --isa NAME      portable; avx2, avx512, avx512vnni; neon, neondot (default: the widest)\n"
    "  --context N     tokens in the KV cache before the measured rows (default 32)\n"
    "  --kv TYPE       of the KV cache: f32 (default), bf16, f16\n"
    "  --seconds S     measured per line of the table, at least 20 runs (default 1)\n"
    "  --json          JSON lines instead of a table\n"
    "  --help          this text\n";

static int usage(const char *problem, const char *value)
{
    (void)fprintf(stderr, "bench_decode: %s%s; see bench_decode --help\n", problem,
                  value ? value : "");
    return 2;
}

/* A whole number in range, or false. */
static bool read_number(const char *text, long least, long most, long *out)
{
    char *end;

    *out = strtol(text, &end, 10);
    return end != text && *end == '\0' && *out >= least && *out <= most;
}

static int read_options(int count, char **arguments, options *o)
{
    *o = (options){.context = 32, .kv = SPC_DTYPE_F32, .seconds = 1.0};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        long number;

        if (strcmp(name, "--help") == 0) {
            o->help = true;
            continue;
        }
        if (strcmp(name, "--json") == 0) {
            o->json = true;
            continue;
        }
        if (i + 1 == count) return usage("unknown option, or no value: ", name);

        const char *value = arguments[++i];

        if (strcmp(name, "--model") == 0) {
            o->model = value;
        } else if (strcmp(name, "--isa") == 0) {
            o->isa = value;
        } else if (strcmp(name, "--threads") == 0) {
            if (!read_number(value, 0, 1024, &number)) return usage("--threads: 0 to 1024", NULL);
            o->threads = (int32_t)number;
        } else if (strcmp(name, "--context") == 0) {
            if (!read_number(value, 1, 1 << 20, &number)) return usage("--context: from 1", NULL);
            o->context = (int32_t)number;
        } else if (strcmp(name, "--kv") == 0) {
            spc_error error;

            if (spc_kv_type(value, &o->kv, &error) != SPC_OK) return usage("--", error.message);
        } else if (strcmp(name, "--seconds") == 0) {
            char *end;

            o->seconds = strtod(value, &end);
            if (end == value || *end || !(o->seconds > 0 && o->seconds <= 60)) {
                return usage("--seconds: above 0, to 60", NULL);
            }
        } else {
            return usage("unknown option: ", name);
        }
    }
    return 0;
}

/* ---- the measured forward ---------------------------------------------------------------------
 */

static spc_status feed(model *m, int32_t position, int32_t count, bool logits)
{
    spc_rows rows = {count, m->slot, m->token, m->position, m->output};

    for (int32_t i = 0; i < count; i++) {
        m->slot[i] = 0;
        m->token[i] = (position + i) * 37 % m->plan->config.vocab;
        m->position[i] = position + i;
        m->output[i] = logits ? i : -1;
    }
    return m->ops->forward(m->runner, &rows, &m->error);
}

static void rewind_slot(void *user)
{
    model *m = user;

    m->ops->rewind(m->runner, 0, m->context);
}

static void rewind_and_evict(void *user)
{
    model *m = user;

    rewind_slot(m);
    measure_evict(m->flush, READ_BYTES);
}

static bool forward(void *user)
{
    model *m = user;

    return feed(m, m->context, m->rows, true) == SPC_OK;
}

static spc_status open_model(model *m, const char *name, const options *o)
{
    spc_config config;
    spc_limits limits = {.slots = 1,
                         .context = o->context + ROWS_MAX,
                         .rows = ROWS_MAX,
                         .outputs = ROWS_MAX,
                         .kv = o->kv};
    spc_status status = spc_open_bundle(name, &m->bundle, &m->error);

    if (status == SPC_OK) status = spc_config_read(m->bundle, &config, &m->error);
    if (status == SPC_OK) status = spc_plan_build(&config, name, &m->plan, &m->error);
    if (status != SPC_OK) return status;
    if (limits.context > config.context) {
        return spc_error_set(&m->error, SPC_EUSAGE, "%s: --context: expected at most %d, found %d",
                             name, (int)config.context - ROWS_MAX, (int)o->context);
    }
    status = m->ops->load(m->backend, m->plan, m->bundle, &limits, &m->runner, &m->error);
    if (status != SPC_OK) return status;
    m->weight_bytes = spc_plan_weight_bytes(m->plan, m->bundle);
    m->context = o->context;
    for (int32_t at = 0; at < m->context && status == SPC_OK;) {
        int32_t count = m->context - at < ROWS_MAX ? m->context - at : ROWS_MAX;

        status = feed(m, at, count, false);
        at += count;
    }
    return status;
}

static void close_model(model *m)
{
    m->ops->unload(m->runner);
    spc_plan_close(m->plan);
    spc_bundle_close(m->bundle);
    m->runner = NULL;
    m->plan = NULL;
    m->bundle = NULL;
}

/* ---- the table --------------------------------------------------------------------------------
 */

static void print_row(const model *m, const options *o, const char *name, const char *from,
                      double read_rate, const measure_times *t, double one_row)
{
    double rate = (double)m->weight_bytes / t->median * 1e-6;

    if (!o->json) {
        (void)printf("%-8s %4d %10.4f %8.4f %8.4f %8.1f %7.0f%% %10.2f\n", from, (int)m->rows,
                     t->median, t->p10, t->p90, rate, 100 * rate / read_rate, t->median / one_row);
        return;
    }

    measure_line line = measure_line_begin(stdout);

    measure_line_text(&line, "bench", "forward");
    measure_line_text(&line, "model", name);
    measure_line_text(&line, "device", m->ops->device(m->backend));
    measure_line_text(&line, "weights_from", from);
    measure_line_integer(&line, "context", m->context);
    measure_line_text(&line, "kv", spc_kv_name(o->kv));
    measure_line_integer(&line, "rows", m->rows);
    measure_line_number(&line, "median_ms", t->median);
    measure_line_number(&line, "p10_ms", t->p10);
    measure_line_number(&line, "p90_ms", t->p90);
    measure_line_integer(&line, "runs", t->runs);
    measure_line_integer(&line, "weight_bytes", (int64_t)m->weight_bytes);
    measure_line_integer(&line, "kv_bytes", (int64_t)spc_plan_kv_bytes(m->plan, m->context, o->kv));
    measure_line_number(&line, "gb_per_s", rate);
    measure_line_number(&line, "read_gb_per_s", read_rate);
    measure_line_number(&line, "of_read_rate", rate / read_rate);
    measure_line_number(&line, "to_one_row", t->median / one_row);
    measure_line_end(&line);
}

/* The table of one state of the caches. */
static bool bench_rows(model *m, const options *o, const char *name, bool evict, double read_rate)
{
    static const int32_t counts[] = {1, 2, 4, 6, 8};
    double one_row = 0.0;

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        measure_times times;

        m->rows = counts[i];
        if (!measure_run(forward, evict ? rewind_and_evict : rewind_slot, m, 20, o->seconds,
                         &times)) {
            return false;
        }
        if (i == 0) one_row = times.median;
        print_row(m, o, name, evict ? "memory" : "caches", read_rate, &times, one_row);
    }
    return true;
}

static bool bench_model(model *m, const char *name, const options *o, double read_rate)
{
    bool ok = open_model(m, name, o) == SPC_OK;

    if (ok && !o->json) {
        (void)printf("\n%s, %s, %d tokens in the cache (%s), %.2f MB of weights per forward\n",
                     name, m->ops->device(m->backend), (int)o->context, spc_kv_name(o->kv),
                     (double)m->weight_bytes * 1e-6);
        if (m->plan->config.experts > 0) {
            (void)printf(
                "(of experts what one row takes: several rows read more than is counted)\n");
        }
        (void)printf("weights  rows  median ms      p10      p90     GB/s of read to one row\n");
    }
    ok = ok && bench_rows(m, o, name, true, read_rate) && bench_rows(m, o, name, false, read_rate);
    if (!ok) (void)fprintf(stderr, "bench_decode: %s\n", m->error.message);
    close_model(m);
    return ok;
}

/* ---- loading ---- */

typedef struct {
    spc_engine_options options;
    spc_error error;
} loader;

static bool load_and_close(void *user)
{
    loader *l = user;
    spc_engine *engine;

    if (spc_engine_open(&l->options, &engine, &l->error) != SPC_OK) return false;
    spc_engine_close(engine);
    return true;
}

/* Open an engine on the embedded pair: map, check, parse both tokenizers, reserve. */
static bool bench_load(const options *o)
{
    loader l;
    measure_times t;

    spc_engine_options_init(&l.options);
    l.options.threads = o->threads;
    l.options.isa = o->isa;
    l.options.kv = spc_kv_name(o->kv);
    if (!measure_run(load_and_close, NULL, &l, 20, o->seconds, &t)) {
        (void)fprintf(stderr, "bench_decode: %s\n", l.error.message);
        return false;
    }
    if (!o->json) {
        (void)printf("\nopening an engine on the embedded pair: %.1f ms (%.1f to %.1f)\n", t.median,
                     t.p10, t.p90);
        return true;
    }

    measure_line line = measure_line_begin(stdout);

    measure_line_text(&line, "bench", "load");
    measure_line_number(&line, "median_ms", t.median);
    measure_line_number(&line, "p10_ms", t.p10);
    measure_line_number(&line, "p90_ms", t.p90);
    measure_line_integer(&line, "runs", t.runs);
    measure_line_end(&line);
    return true;
}

int main(int count, char **arguments)
{
    options o;
    model m = {.ops = &spc_backend_cpu, .error = {SPC_ENOMEM, "no memory for the measurement"}};
    int wrong = read_options(count, arguments, &o);

    if (wrong) return wrong;
    if (o.help) return fputs(help, stdout) < 0;
    if (m.ops->open(&m.backend, o.threads, o.isa, &m.error) != SPC_OK) {
        (void)fprintf(stderr, "bench_decode: %s\n", m.error.message);
        return spc_status_exit_code(m.error.status);
    }

    int32_t threads = measure_threads(m.ops->device(m.backend));
    double read_rate = measure_read_rate(threads, READ_BYTES);
    bool ok = read_rate > 0;

    m.flush = calloc(1, READ_BYTES);
    ok = ok && m.flush;
    if (!ok) (void)fprintf(stderr, "bench_decode: the read rate could not be measured\n");
    if (ok && !o.json) {
        (void)printf("memory read rate: %.1f GB/s (%d threads over %d MiB)\n", read_rate,
                     (int)threads, READ_BYTES >> 20);
    }
    if (ok && o.model) ok = bench_model(&m, o.model, &o, read_rate);
    if (ok && !o.model) {
        ok = bench_model(&m, SPC_EMBEDDED_VERIFIER, &o, read_rate) &&
             bench_model(&m, SPC_EMBEDDED_DRAFTER, &o, read_rate) && bench_load(&o);
    }
    m.ops->close(m.backend);
    free(m.flush);
    return measure_exit("bench_decode", ok ? 0 : spc_status_exit_code(m.error.status));
}
