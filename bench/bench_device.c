/* SPDX-License-Identifier: Apache-2.0 */
/* bench_device.c - forwards on any device, of a checkpoint or of a named shape with random weights,
 * by rows, sequences and context; one JSON line each.
 *
 *     bench_device [--model FOLDER | --shape NAME] [--device NAME] [--batch N] [--context N]
 *                  [--seconds S] [--fast-prefill] [--linear NAME]
 *
 * Forwards are sent ten at a time before the device is waited for, as chunks of a prompt are: what
 * is measured is the device, not the way to it.  Beside each stands the rate at which the device
 * reads memory, timed in the same run. */
#include "bench/measure.h"
#include "bench/verify_place.h"
#include "host/device.h"
#include "host/engine.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_MOST = 16, TOGETHER = 10, BATCH_MOST = 64, PATTERN = 1 << 20, READ_BYTES = 1 << 30 };

/* Sizes of published models; context as far as it is measured. */
static const struct {
    const char *name, *config;
} shapes[] = {
#define SHAPE(kind, vocab, dim, layers, heads, kv, head, ffn, tied, more)                       \
    "{\"architectures\": [\"" kind "\"], \"vocab_size\": " #vocab ", \"hidden_size\": " #dim    \
    ", \"num_hidden_layers\": " #layers ", \"num_attention_heads\": " #heads                    \
    ", \"num_key_value_heads\": " #kv ", \"head_dim\": " #head ", \"intermediate_size\": " #ffn \
    ", \"tie_word_embeddings\": " #tied ", \"max_position_embeddings\": 40960" more "}"
#define LLAMA "LlamaForCausalLM"
#define QWEN  "Qwen2ForCausalLM"
#define GEMMA "Gemma2ForCausalLM"
#define GEMMA_MORE                                                                               \
    ", \"sliding_window\": 4096, \"query_pre_attn_scalar\": 256, \"attn_logit_softcapping\": 50" \
    ", \"final_logit_softcapping\": 30"
    {"llama-1b", SHAPE(LLAMA, 128256, 2048, 16, 32, 8, 64, 8192, true, "")},
    {"llama-3b", SHAPE(LLAMA, 128256, 3072, 28, 24, 8, 128, 8192, true, "")},
    {"llama-8b", SHAPE(LLAMA, 128256, 4096, 32, 32, 8, 128, 14336, false, "")},
    {"qwen-0.5b", SHAPE(QWEN, 151936, 896, 24, 14, 2, 64, 4864, true, "")},
    {"qwen-1.5b", SHAPE(QWEN, 151936, 1536, 28, 12, 2, 128, 8960, true, "")},
    {"qwen-7b", SHAPE(QWEN, 152064, 3584, 28, 28, 4, 128, 18944, false, "")},
    {"gemma-2b", SHAPE(GEMMA, 256000, 2304, 26, 8, 4, 256, 9216, true, GEMMA_MORE)},
    {"gemma-9b", SHAPE(GEMMA, 256000, 3584, 42, 16, 8, 256, 14336, true, GEMMA_MORE)},
    {"tiny", SHAPE(LLAMA, 512, 64, 2, 4, 2, 16, 128, true, "")}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct {
    const char *model, *shape, *device;
    int32_t batch, context;
    double seconds;
    bool fast_prefill, row, help;
} options;

typedef struct {
    const spc_backend_ops *ops;
    spc_backend *backend;
    spc_bundle *bundle;
    spc_plan *plan;
    spc_runner *runner;
    char *file; /* of a shape */
    int32_t batch, context, rows;
    int32_t slot[BATCH_MOST * ROWS_MOST], token[BATCH_MOST * ROWS_MOST];
    int32_t position[BATCH_MOST * ROWS_MOST], output[BATCH_MOST * ROWS_MOST];
    spc_error error;
} state;

static const char help[] =
    "bench_device: time of forwards by number of rows, JSON lines\n"
    "\n"
    "  --model MODEL    a folder, embedded:verifier (default) or embedded:drafter\n"
    "  --shape NAME     random bf16 weights in the sizes of llama-1b, llama-3b, llama-8b, "
    "qwen-0.5b,\n"
    "                   qwen-1.5b, qwen-7b, gemma-2b, gemma-9b; tiny.  They pass through the "
    "host's\n"
    "                   memory\n"
    "  --device NAME    auto (default), cpu, cuda, cuda:N\n"
    "  --batch N        sequences (default 1, at most 64), each with that many rows\n"
    "  --context N      tokens in each KV cache before the measured rows (default 32)\n"
    "  --seconds S      measured per line, at least 20 times ten forwards (default 1)\n"
    "  --fast-prefill   GPU: more than 16 rows by cuBLAS\n"
    "  --linear NAME    GPU: auto (default: bf16 and fp16 weights on tensor cores), row (plain "
    "multiplications)\n"
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
        } else if (strcmp(name, "--seconds") == 0) {
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

/* ---- random weights ---------------------------------------------------------------------------
 */

/* Header of a safetensors file with every tensor of the plan as bf16; bytes: of their data. */
static char *shape_header(const spc_plan *plan, size_t *length, size_t *bytes)
{
    size_t room = (size_t)plan->weight_count * 256 + 8, used = 0, at = 0;
    char *text = malloc(room);

    for (int32_t i = 0; text && i < plan->weight_count; i++) {
        const spc_weight *w = &plan->weight[i];
        size_t end = at + 2 * (size_t)w->rows * (size_t)(w->cols ? w->cols : 1);

        used += (size_t)snprintf(text + used, room - used,
                                 "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":", i ? "," : "{", w->name);
        used += (size_t)snprintf(text + used, room - used,
                                 w->cols ? "[%d,%d],\"data_offsets\":[%zu,%zu]}"
                                         : "[%d%.0d],\"data_offsets\":[%zu,%zu]}",
                                 (int)w->rows, (int)w->cols, at, end);
        at = end;
    }
    if (text) used += (size_t)snprintf(text + used, room - used, "}");
    while (text && used % 8 != 0) text[used++] = ' ';
    *length = used;
    *bytes = at;
    return text;
}

/* Numbers of +-2^-7 to +-2^-6, the same megabyte again and again. */
static void fill(char *data, size_t bytes)
{
    uint32_t word = 1;

    for (size_t i = 0; i + 2 <= bytes && i < PATTERN; i += 2) {
        uint16_t value;

        word = word * 1664525u + 1013904223u;
        value = (uint16_t)(0x3c00u | (word >> 24 & 0x7fu) | (word >> 16 & 0x8000u));
        memcpy(data + i, &value, sizeof value);
    }
    for (size_t at = PATTERN; at < bytes; at += PATTERN) {
        memcpy(data + at, data, bytes - at < PATTERN ? bytes - at : PATTERN);
    }
}

static spc_status open_shape(state *s, const char *name)
{
    static const char empty[] = "\x02\0\0\0\0\0\0\0{}";
    spc_blob files[2] = {{"model.safetensors", empty, sizeof empty - 1}, {"config.json", NULL, 0}};
    spc_config config;
    char *header = NULL;
    size_t length = 0, bytes = 0;
    int32_t i = 0;

    while (i < SHAPES && strcmp(shapes[i].name, name) != 0) i++;
    if (i == SHAPES) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--shape: unknown shape '%.40s'", name);
    }
    files[1].data = shapes[i].config;
    files[1].bytes = strlen(shapes[i].config);

    spc_status status = spc_bundle_open_memory(name, files, 2, &s->bundle, &s->error);

    if (status == SPC_OK) status = spc_config_read(s->bundle, &config, &s->error);
    if (status == SPC_OK) status = spc_plan_build(&config, name, &s->plan, &s->error);
    if (status != SPC_OK) return status;
    header = shape_header(s->plan, &length, &bytes);
    if (header) s->file = malloc(8 + length + bytes);
    if (!s->file) {
        free(header);
        return spc_error_set(&s->error, SPC_ENOMEM, "%s: no memory for %zu MiB of weights", name,
                             bytes >> 20);
    }
    for (int k = 0; k < 8; k++) s->file[k] = (char)((uint64_t)length >> (8 * k));
    memcpy(s->file + 8, header, length);
    free(header);
    fill(s->file + 8 + length, bytes);
    files[0].data = s->file;
    files[0].bytes = 8 + length + bytes;
    spc_bundle_close(s->bundle);
    return spc_bundle_open_memory(name, files, 2, &s->bundle, &s->error);
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
        s->token[i] = (s->position[i] * 37 + i) % s->plan->ids;
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

static spc_status open_all(state *s, const options *o)
{
    spc_limits limits = {o->batch,
                         o->context + ROWS_MOST,
                         o->batch * ROWS_MOST,
                         o->batch * ROWS_MOST,
                         o->fast_prefill,
                         o->row ? SPC_LINEAR_ROW : SPC_LINEAR_AUTO};
    spc_status status =
        spc_device_open(o->device, 0, NULL, NULL, NULL, &s->ops, &s->backend, &s->error);
    spc_config config;

    if (status == SPC_OK && o->fast_prefill && s->ops == &spc_backend_cpu) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--fast-prefill: expected a GPU, found %s",
                             s->ops->device(s->backend));
    }
    if (status == SPC_OK && o->row && s->ops == &spc_backend_cpu) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--linear: expected a GPU, found %s",
                             s->ops->device(s->backend));
    }
    if (status == SPC_OK && o->shape) status = open_shape(s, o->shape);
    if (status == SPC_OK && !o->shape) {
        status = spc_open_bundle(o->model, &s->bundle, &s->error);
        if (status == SPC_OK) status = spc_config_read(s->bundle, &config, &s->error);
        if (status == SPC_OK) status = spc_plan_build(&config, o->model, &s->plan, &s->error);
    }
    if (status == SPC_OK && s->plan->encoder_ops > 0) {
        return spc_error_set(&s->error, SPC_EUSAGE, "%s: models with an encoder are not measured",
                             o->model);
    }
    if (status == SPC_OK && limits.context > s->plan->config.context) {
        return spc_error_set(&s->error, SPC_EUSAGE, "--context: expected at most %d, found %d",
                             (int)s->plan->config.context - ROWS_MOST, (int)o->context);
    }
    if (status == SPC_OK) {
        status = s->ops->load(s->backend, s->plan, s->bundle, &limits, &s->runner, &s->error);
    }
    s->batch = o->batch;
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
    spc_plan_close(s->plan);
    spc_bundle_close(s->bundle);
    if (s->ops) s->ops->close(s->backend);
    free(s->file);
}

typedef struct {
    bench_place place;
    void *memory;
} reader;

static bool read_once(void *user, int32_t set, spc_stream stream)
{
    reader *r = user;

    (void)set;
    return r->place.read(&r->place, r->memory, READ_BYTES, stream);
}

/* GB/s of the GPU that the backend made this thread's. */
static double device_read_rate(spc_error *err)
{
    static reader r;
    measure_times us;
    bool ok = place_open_cuda(&r.place);

    if (ok) r.memory = r.place.allocate(&r.place, READ_BYTES);
    ok = ok && r.memory && r.place.time(&r.place, read_once, &r, 1, 50, false, &us);
    if (!ok) *err = r.place.error;
    if (r.memory) r.place.release(r.memory);
    if (r.place.close) r.place.close(&r.place);
    return ok ? READ_BYTES / us.median * 1e-3 : 0;
}

static double read_rate(state *s)
{
    const char *device = s->ops->device(s->backend);
    double rate;

    if (s->ops != &spc_backend_cpu) return device_read_rate(&s->error);
    rate = measure_read_rate((int32_t)strtol(strchr(device, ' ') + 1, NULL, 10), READ_BYTES / 4);
    if (!(rate > 0)) (void)spc_error_set(&s->error, SPC_ENOMEM, "no memory to read");
    return rate;
}

static void print_line(const state *s, const options *o, const measure_times *t, double rate,
                       double one_row)
{
    uint64_t weights = spc_plan_weight_bytes(s->plan, s->bundle);
    uint64_t cache = spc_plan_kv_bytes(s->plan, s->context) * (uint64_t)s->batch;
    double ms = t->median / TOGETHER, speed = (double)(weights + cache) / ms * 1e-6;
    measure_line line = measure_line_begin(stdout);

    measure_line_text(&line, "bench", "device_forward");
    measure_line_text(&line, "model", o->shape ? o->shape : o->model);
    measure_line_text(&line, "weights", o->shape ? "random" : "checkpoint");
    measure_line_text(&line, "device", s->ops->device(s->backend));
    measure_line_text(&line, "linear", o->row ? "row" : "auto");
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
    double rate = ok ? read_rate(&s) : 0;

    ok = ok && rate > 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && ok; i++) {
        measure_times times;

        s.rows = rows[i];
        ok = measure_run(forwards, NULL, &s, 20, o.seconds, &times);
        if (i == 0) one_row = times.median;
        if (ok) print_line(&s, &o, &times, rate, one_row);
    }
    if (!ok) (void)fprintf(stderr, "bench_device: %s\n", s.error.message);
    close_all(&s);
    return ok ? 0 : spc_status_exit_code(s.error.status);
}
