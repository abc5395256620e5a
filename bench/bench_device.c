/* SPDX-License-Identifier: Apache-2.0 */
/* bench_device.c - forwards on any device, of a checkpoint or of a named shape with random weights,
 * by rows, sequences and context; one JSON line each.
 *
 *     bench_device [--model FOLDER | --shape NAME] [--weights KIND] [--device NAME] [--batch N]
 *                  [--context N] [--runs N] [--seconds S] [--fast-prefill] [--linear NAME]
 *                  [--kernels FILE | --tune FILE]
 *
 * Forwards are sent ten at a time before the device is waited for, as chunks of a prompt are: what
 * is measured is the device, not the way to it.  Beside each stands the rate at which the device
 * reads memory, timed in the same run. */
#include "bench/measure.h"
#include "bench/shape.h"
#include "host/device.h"
#include "host/engine.h"
#include "host/kv.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS_MOST = 16, TOGETHER = 10, BATCH_MOST = 64 };

typedef struct {
    const char *model, *shape, *device, *weights, *kv, *kernels, *tune;
    int32_t batch, context, runs;
    double seconds;
    bool fast_prefill, row, help;
} options;

typedef struct {
    const spc_backend_ops *ops;
    spc_backend *backend;
    shape_model model;
    spc_runner *runner;
    spc_kernels kernels;
    int32_t batch, context, rows;
    spc_dtype kv;
    int32_t slot[BATCH_MOST * ROWS_MOST], token[BATCH_MOST * ROWS_MOST];
    int32_t position[BATCH_MOST * ROWS_MOST], output[BATCH_MOST * ROWS_MOST];
    spc_error error;
} state;

static const char help[] =
    "bench_device: time of forwards by number of rows, JSON lines\n"
    "\n"
    "  --model MODEL    a folder, embedded:verifier (default) or embedded:drafter\n"
    "  --shape NAME     random weights in the sizes of llama-1b, llama-3b, llama-8b, "
    "qwen-0.5b,\n"
    "                   qwen-1.5b, qwen-7b, gemma-2b, gemma-9b; tiny.  They pass through the "
    "host's\n"
    "                   memory\n"
    "  --weights KIND   of a shape: bf16 (default), f32, f16, f8_e4m3, f8_e5m2, int8, q8_0, q4_0, "
    "q4_1,\n"
    "                   q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, with q8_0\n"
    "                   where blocks of 256 do not divide the rows; of a checkpoint: int8, or\n"
    "                   what it holds (default)\n"
    "  --kv TYPE        of the KV caches: f32 (default), bf16, f16\n"
    "  --device NAME    auto (default), cpu, cuda, cuda:N\n"
    "  --batch N        sequences (default 1, at most 64), each with that many rows\n"
    "  --context N      tokens in each KV cache before the measured rows (default 32)\n"
    "  --runs N         ten forwards each, measured per line at least (default 20)\n"
    "  --seconds S      measured per line at least (default 1)\n"
    "  --fast-prefill   GPU: more than 16 rows by cuBLASLt\n"
    "  --linear NAME    GPU: auto (default: bf16 and fp16 weights on tensor cores), row (plain "
    "multiplications)\n"
    "  --kernels FILE   GPU: linear layers as a table of spc tune-kernels or --tune says\n"
    "  --tune FILE      GPU: time the kernels of this model's layers, add the fastest to the "
    "table, "
    "which\n"
    "                   may be there already, and measure nothing else\n"
    "  --help           this text\n";

static int usage(const char *problem, const char *value)
{
    (void)fprintf(stderr, "bench_device: %s%s; see bench_device --help\n", problem,
                  value ? value : "");
    return 2;
}

static bool read_number(const char *text, long least, long most, int32_t *out)
{
    char *end;
    long number = strtol(text, &end, 10);

    *out = (int32_t)number;
    return end != text && *end == '\0' && number >= least && number <= most;
}

static int read_options(int count, char **arguments, options *o)
{
    *o = (options){.model = SPC_EMBEDDED_VERIFIER,
                   .device = "auto",
                   .batch = 1,
                   .context = 32,
                   .runs = 20,
                   .seconds = 1.0};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
        char *end;

        if (strcmp(name, "--help") == 0 || strcmp(name, "--fast-prefill") == 0) {
            *(name[2] == 'h' ? &o->help : &o->fast_prefill) = true;
            continue;
        }
        if (!value) return usage("unknown option, or no value: ", name);
        i++;
        if (strcmp(name, "--model") == 0) {
            o->model = value;
        } else if (strcmp(name, "--shape") == 0) {
            o->shape = value;
        } else if (strcmp(name, "--device") == 0) {
            o->device = value;
        } else if (strcmp(name, "--weights") == 0) {
            o->weights = value;
        } else if (strcmp(name, "--kv") == 0) {
            o->kv = value;
        } else if (strcmp(name, "--kernels") == 0) {
            o->kernels = value;
        } else if (strcmp(name, "--tune") == 0) {
            o->tune = value;
        } else if (strcmp(name, "--linear") == 0) {
            if (strcmp(value, "auto") != 0 && strcmp(value, "row") != 0) {
                return usage("--linear: auto or row, found ", value);
            }
            o->row = value[0] == 'r';
        } else if (strcmp(name, "--batch") == 0) {
            if (!read_number(value, 1, BATCH_MOST, &o->batch))
                return usage("--batch: 1 to 64", NULL);
        } else if (strcmp(name, "--context") == 0) {
            if (!read_number(value, 1, 1 << 20, &o->context))
                return usage("--context: from 1", NULL);
        } else if (strcmp(name, "--runs") == 0) {
            if (!read_number(value, 1, MEASURE_RUNS_MAX, &o->runs)) {
                return usage("--runs: 1 to 4096", NULL);
            }
        } else if (strcmp(name, "--seconds") == 0) {
            o->seconds = strtod(value, &end);
            if (end == value || *end || !(o->seconds > 0 && o->seconds <= 60)) {
                return usage("--seconds: above 0, to 60", NULL);
            }
        } else {
            return usage("unknown option: ", name);
        }
    }
    if ((o->row || o->tune) && o->kernels) {
        return usage("--kernels goes with neither --linear row nor --tune", NULL);
    }
    if (o->row && o->tune) return usage("--tune chooses what --linear row says", NULL);
    return 0;
}

/* ---- the measured forward ---------------------------------------------------------------------
 */

/* `count` rows of every sequence from a position on; logits are wanted or not. */
static spc_status feed(state *s, int32_t position, int32_t count, bool logits)
{
    spc_rows rows = {s->batch * count, s->slot, s->token, s->position, s->output};

    for (int32_t i = 0; i < rows.count; i++) {
        s->slot[i] = i / count;
        s->position[i] = position + i % count;
        s->token[i] = (s->position[i] * 37 + i) % s->model.plan->ids;
        s->output[i] = logits ? i : -1;
    }
    return s->ops->forward(s->runner, &rows, &s->error);
}

static bool forwards(void *user)
{
    state *s = user;

    for (int32_t i = 0; i < TOGETHER; i++) {
        for (int32_t k = 0; k < s->batch; k++) s->ops->rewind(s->runner, k, s->context);
        if (feed(s, s->context, s->rows, true) != SPC_OK) return false;
    }
    (void)s->ops->logits(s->runner, 0); /* waits */
    return true;
}

static uint64_t now_ns(void *user)
{
    (void)user;
    return measure_now_ns();
}

static spc_status tune(state *s, const char *path)
{
    spc_tuning how = {now_ns, NULL, 11, 4};
    spc_kernels table = {0};
    spc_status status = SPC_OK;

    if (access(path, F_OK) == 0) status = spc_kernels_read(path, &table, &s->error);
    if (status == SPC_OK) status = s->ops->tune(s->runner, &how, &table, &s->error);
    if (status == SPC_OK) status = spc_kernels_write(&table, path, &s->error);
    spc_kernels_clear(&table);
    return status;
}

static spc_status open_all(state *s, const options *o)
{
    spc_limits limits = {.slots = o->batch,
                         .context = o->context + ROWS_MOST,
                         .rows = o->batch * ROWS_MOST,
                         .outputs = o->batch * ROWS_MOST,
                         .library = o->fast_prefill,
                         .linear = o->row ? SPC_LINEAR_ROW : SPC_LINEAR_AUTO};
    spc_status status = spc_kv_type(o->kv, &limits.kv, &s->error);

    if (status == SPC_OK) {
        status = spc_device_open(o->device, 0, NULL, NULL, NULL, &s->ops, &s->backend, &s->error);
    }
    if (status == SPC_OK && o->fast_prefill && s->ops == &spc_backend_cpu) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--fast-prefill: expected a GPU, found %s",
                             s->ops->device(s->backend));
    }
    if (status == SPC_OK && o->row && s->ops == &spc_backend_cpu) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--linear: expected a GPU, found %s",
                             s->ops->device(s->backend));
    }
    if (status == SPC_OK && o->tune && !s->ops->tune) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--tune: expected a GPU, found %s",
                             s->ops->device(s->backend));
    }
    if (status == SPC_OK) {
        status = spc_use_kernels(s->ops, s->backend, o->kernels, &s->kernels, &s->error);
    }
    if (status == SPC_OK) {
        status = o->shape ? shape_open(o->shape, o->weights, s->ops, &s->model, &s->error)
                          : shape_open_model(o->model, o->weights, &s->model, &s->error);
    }
    if (status == SPC_OK && s->model.plan->encoder_ops > 0) {
        return spc_error_set(&s->error, SPC_EUSAGE, "%s: models with an encoder are not measured",
                             o->model);
    }
    if (status == SPC_OK && limits.context > s->model.plan->config.context) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--context: expected at most %d, found %d",
                             (int)s->model.plan->config.context - ROWS_MOST, (int)o->context);
    }
    if (status == SPC_OK) {
        status = s->ops->load(s->backend, s->model.plan, s->model.bundle, &limits, &s->runner,
                              &s->error);
    }
    s->batch = o->batch;
    s->kv = limits.kv;
    s->context = o->context;
    for (int32_t at = 0; at < o->context && status == SPC_OK;) {
        int32_t count = o->context - at < ROWS_MOST ? o->context - at : ROWS_MOST;

        status = feed(s, at, count, false);
        at += count;
    }
    return status;
}

static void close_all(state *s)
{
    if (s->ops) s->ops->unload(s->runner);
    shape_close(&s->model);
    if (s->ops) s->ops->close(s->backend);
    spc_kernels_clear(&s->kernels);
}

static void print_line(const state *s, const options *o, const measure_times *t, double rate,
                       double one_row)
{
    uint64_t weights = spc_plan_weight_bytes(s->model.plan, s->model.bundle);
    uint64_t cache = spc_plan_kv_bytes(s->model.plan, s->context, s->kv) * (uint64_t)s->batch;
    double ms = t->median / TOGETHER, speed = (double)(weights + cache) / ms * 1e-6;
    measure_line line = measure_line_begin(stdout);

    measure_line_text(&line, "bench", "device_forward");
    measure_line_text(&line, "model", o->shape ? o->shape : o->model);
    measure_line_text(&line, "weights", o->shape ? "random" : "checkpoint");
    measure_line_text(&line, "type", o->weights ? o->weights : o->shape ? "bf16" : "as stored");
    measure_line_text(&line, "kv", spc_kv_name(s->kv));
    measure_line_text(&line, "device", s->ops->device(s->backend));
    measure_line_text(&line, "linear", o->row ? "row" : "auto");
    measure_line_text(&line, "kernels", o->kernels ? "table" : "default");
    measure_line_integer(&line, "fast_prefill", o->fast_prefill);
    measure_line_integer(&line, "batch", s->batch);
    measure_line_integer(&line, "context", s->context);
    measure_line_integer(&line, "rows", s->rows);
    measure_line_number(&line, "median_ms", ms);
    measure_line_number(&line, "p10_ms", t->p10 / TOGETHER);
    measure_line_number(&line, "p90_ms", t->p90 / TOGETHER);
    measure_line_integer(&line, "runs", t->runs);
    measure_line_integer(&line, "weight_bytes", (int64_t)weights);
    measure_line_integer(&line, "kv_bytes", (int64_t)cache);
    measure_line_number(&line, "gb_per_s", speed);
    measure_line_number(&line, "read_gb_per_s", rate);
    measure_line_number(&line, "of_read_rate", speed / rate);
    measure_line_number(&line, "to_one_row", t->median / one_row);
    measure_line_end(&line);
}

int main(int count, char **arguments)
{
    static const int32_t rows[] = {1, 2, 3, 4, 6, 8, 9, 16};
    static state s;
    options o;
    int wrong = read_options(count, arguments, &o);
    double one_row = 0;

    if (wrong) return wrong;
    if (o.help) return fputs(help, stdout) < 0;

    bool ok = open_all(&s, &o) == SPC_OK;

    if (o.tune) {
        ok = ok && tune(&s, o.tune) == SPC_OK;
        if (!ok) (void)fprintf(stderr, "bench_device: %s\n", s.error.message);
        close_all(&s);
        return ok ? 0 : spc_status_exit_code(s.error.status);
    }

    double rate = ok ? shape_read_rate(s.ops, s.backend, &s.error) : 0;

    ok = ok && rate > 0;
    s.rows = rows[0];
    if (ok) { /* clocks of a device that had nothing to do rise first */
        measure_times unused;

        ok = measure_run(forwards, NULL, &s, 1, o.seconds, &unused);
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows && ok; i++) {
        measure_times times;

        s.rows = rows[i];
        ok = measure_run(forwards, NULL, &s, o.runs, o.seconds, &times);
        if (i == 0) one_row = times.median;
        if (ok) print_line(&s, &o, &times, rate, one_row);
    }
    if (!ok) (void)fprintf(stderr, "bench_device: %s\n", s.error.message);
    close_all(&s);
    return measure_exit("bench_device", ok ? 0 : spc_status_exit_code(s.error.status));
}
