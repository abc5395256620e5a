/* SPDX-License-Identifier: Apache-2.0 */
/* bench_gamma.c - gamma auto against every fixed draft length and plain decoding, strict, on the
 * embedded pair, by turns in one run.
 *
 *     bench_gamma [--threads N] [--batch N] [--tokens N] [--repeats N] [--temperature T] [--json]
 *
 * Three drafters: the embedded one; `hostile`, the same with its last norm negated, whose drafts
 * are next to never kept; `itself`, the verifier once more, whose drafts are kept and cost as much
 * as they save.  A setting has an engine of its own, as a program would; prompts are decoded in it
 * one after the other, or `batch` at a time.  Ratios to plain decoding are of the same turn. */
#include "bench/measure.h"

#include <spc/spc.h>

#include "weights/bundle.h"
#include "weights/demo/demo.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PROMPTS = 12, SETTINGS = 11, REPEATS_MAX = 101, BATCH_MAX = 64 };

static const char *const sentences[PROMPTS] = {"The cat sleeps on the old chair.",
                                               "I have never seen such a thing in my life.",
                                               "Where is the station?",
                                               "He said that he would come back tomorrow.",
                                               "My brother works in a small town.",
                                               "It is too cold to go outside today.",
                                               "She gave me a book for my birthday.",
                                               "We should have left an hour ago.",
                                               "Do you know what time the train leaves?",
                                               "The children are playing in the garden.",
                                               "I would like a glass of water, please.",
                                               "Nobody knew why he had gone away."};

static const int32_t gammas[SETTINGS] = {-2, 0, 1, 2, 3, 4, 5, 6, 8, 12, SPC_GAMMA_AUTO};

typedef struct {
    int32_t threads, batch, tokens, repeats;
    double temperature;
    bool json, cpu;
} options;

typedef struct {
    const options *o;
    const char *drafter;
    const char *name; /* of the drafter */
    spc_engine *engine[SETTINGS];
    double rate[SETTINGS][REPEATS_MAX]; /* tokens a second */
    spc_stats stats[SETTINGS];          /* sums of what is printed */
    spc_error error;
} bench;

static const char help[] =
    "bench_gamma: gamma auto against fixed draft lengths and plain decoding, strict, embedded "
    "pair\n"
    "\n"
    "  --threads N      CPU threads; 0: one per core (default 1)\n"
    "  --batch N        prompts decoded together, 1 to 64 (default 1)\n"
    "  --tokens N       new tokens of a prompt; stop tokens do not end it (default 60)\n"
    "  --repeats N      turns, 1 to 101 (default 11)\n"
    "  --temperature T  (default 0)\n"
    "  --cpu            count CPU time, not wall clock: where others share the machine, one "
    "thread\n"
    "  --json           JSON lines instead of a table\n"
    "  --help           this text\n";

/* ---- the hostile drafter ----------------------------------------------------------------------
 */

/* Flip the sign of every element. */
static void negate(char *data, const spc_tensor *t, uint64_t bytes)
{
    size_t width = (size_t)spc_dtype_bytes(t->dtype);

    for (uint64_t i = width - 1; i < bytes; i += width) data[i] = (char)(data[i] ^ 0x80);
}

static bool write_file(const char *folder, const char *name, const void *data, size_t bytes)
{
    char path[512];
    FILE *file;
    bool ok;

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "wb");
    if (!file) return false;
    ok = fwrite(data, 1, bytes, file) == bytes;
    return fclose(file) == 0 && ok;
}

/* A copy of the embedded drafter with its last norm negated, in a folder. */
static bool write_hostile(const char *folder)
{
    spc_blob files[SPC_DEMO_FILES];
    int32_t count = spc_demo_files(SPC_DEMO_DRAFTER, files);
    spc_bundle *bundle;
    bool ok = count > 0;

    if (!ok || spc_bundle_open_memory("drafter", files, count, &bundle, NULL) != SPC_OK) {
        return false;
    }

    const spc_tensor *norm = spc_bundle_find(bundle, "model.norm.weight");

    for (int32_t i = 0; i < count && ok; i++) {
        const char *from = files[i].data;
        char *copy = malloc(files[i].bytes);
        const char *at = norm ? norm->data : NULL;

        ok = copy && norm;
        if (ok) memcpy(copy, from, files[i].bytes);
        if (ok && at >= from && at < from + files[i].bytes) {
            negate(copy + (at - from), norm, norm->bytes);
        }
        ok = ok && write_file(folder, files[i].name, copy, files[i].bytes);
        free(copy);
    }
    spc_bundle_close(bundle);
    return ok;
}

static void remove_hostile(const char *folder)
{
    spc_blob files[SPC_DEMO_FILES];
    int32_t count = spc_demo_files(SPC_DEMO_DRAFTER, files);

    for (int32_t i = 0; i < count; i++) {
        char path[512];

        (void)snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
        (void)remove(path);
    }
    (void)rmdir(folder);
}

/* ---- measuring --------------------------------------------------------------------------------
 */

static spc_status open_prompt(const bench *b, int32_t setting, int32_t i, uint64_t seed,
                              spc_session **out, spc_error *err)
{
    spc_session_options so;
    char text[256];
    int32_t *ids, count;
    spc_status status;

    (void)snprintf(text, sizeof text, "<s><2de>%s<sep>", sentences[i % PROMPTS]);
    spc_session_options_init(&so);
    so.rule = gammas[setting] == -2 ? "verifier-only" : "strict";
    so.gamma = gammas[setting] == -2 ? 0 : gammas[setting];
    so.temperature = (float)b->o->temperature;
    so.max_tokens = b->o->tokens;
    so.ignore_stop = true;
    so.seed = seed;
    status = spc_engine_encode(b->engine[setting], text, strlen(text), false, &ids, &count, err);
    if (status != SPC_OK) return status;
    status = spc_session_open(b->engine[setting], &so, ids, count, out, err);
    free(ids);
    return status;
}

static void add_stats(spc_stats *sum, const spc_stats *one)
{
    sum->tokens += one->tokens;
    sum->rounds += one->rounds;
    sum->probes += one->probes;
    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) sum->chosen[g] += one->chosen[g];
    sum->verified[0] += one->verified[0];
    sum->accepted[0] += one->accepted[0];
}

static uint64_t now(const options *o)
{
    struct timespec t;

    if (!o->cpu) return measure_now_ns();
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* All prompts once, `batch` at a time. */
static spc_status turn(bench *b, int32_t setting, int32_t repeat, spc_error *err)
{
    spc_session *s[BATCH_MAX];
    spc_stats stats;
    int64_t tokens = 0;
    uint64_t start = now(b->o);
    spc_status status = SPC_OK;

    for (int32_t at = 0; at < PROMPTS && status == SPC_OK; at += b->o->batch) {
        int32_t count = 0;
        bool running = true;

        while (count < b->o->batch && status == SPC_OK) {
            uint64_t seed = (uint64_t)(repeat * 1000 + at + count);

            status = open_prompt(b, setting, at + count, seed, &s[count], err);
            count += status == SPC_OK;
        }
        while (running && status == SPC_OK) {
            status = spc_engine_step(b->engine[setting], s, count, err);
            running = false;
            for (int32_t k = 0; k < count; k++) {
                running = running || spc_session_finish(s[k]) == SPC_FINISH_RUNNING;
            }
        }
        for (int32_t k = 0; k < count; k++) {
            spc_session_stats(s[k], &stats);
            tokens += stats.tokens;
            add_stats(&b->stats[setting], &stats);
            spc_session_close(s[k]);
        }
    }
    b->rate[setting][repeat] = (double)tokens / ((double)(now(b->o) - start) * 1e-9);
    return status;
}

static const char *name_of(int32_t setting, char text[16])
{
    if (gammas[setting] == -2) return "plain";
    if (gammas[setting] == SPC_GAMMA_AUTO) return "auto";
    (void)snprintf(text, 16, "%d", (int)gammas[setting]);
    return text;
}

static void print_setting(bench *b, int32_t setting)
{
    const spc_stats *t = &b->stats[setting];
    int32_t repeats = b->o->repeats;
    double ratio[REPEATS_MAX], rate[REPEATS_MAX];
    char text[16];
    double kept = t->verified[0] > 0 ? (double)t->accepted[0] / (double)t->verified[0] : 0.0;

    for (int32_t i = 0; i < repeats; i++) {
        rate[i] = b->rate[setting][i];
        ratio[i] = b->rate[setting][i] / b->rate[0][i];
    }

    double median = measure_quantile(ratio, repeats, 0.5),
           low = measure_quantile(ratio, repeats, 0.1);
    double high = measure_quantile(ratio, repeats, 0.9),
           speed = measure_quantile(rate, repeats, 0.5);

    if (!b->o->json) {
        (void)printf("%-9s %-6s %10.0f %8.3f %8.3f %8.3f %9.2f %9.2f", b->name,
                     name_of(setting, text), speed, median, low, high,
                     (double)t->tokens / (double)t->rounds, kept);
        for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) {
            if (t->chosen[g] > 0) (void)printf(" %d:%d", (int)g, (int)t->chosen[g]);
        }
        (void)printf("%s\n", t->probes > 0 ? " (some are probes)" : "");
        return;
    }

    measure_line line = measure_line_begin(stdout);

    measure_line_text(&line, "bench", "gamma");
    measure_line_text(&line, "drafter", b->name);
    measure_line_text(&line, "gamma", name_of(setting, text));
    measure_line_number(&line, "temperature", b->o->temperature);
    measure_line_text(&line, "clock", b->o->cpu ? "cpu" : "wall");
    measure_line_integer(&line, "batch", b->o->batch);
    measure_line_integer(&line, "tokens", t->tokens);
    measure_line_integer(&line, "runs", repeats);
    measure_line_number(&line, "tokens_per_s", speed);
    measure_line_number(&line, "speedup_over_plain", median);
    measure_line_number(&line, "speedup_p10", low);
    measure_line_number(&line, "speedup_p90", high);
    measure_line_number(&line, "tokens_per_round", (double)t->tokens / (double)t->rounds);
    measure_line_number(&line, "first_draft_kept", t->verified[0] > 0 ? kept : 0.0 / 0.0);
    measure_line_integer(&line, "probes", t->probes);
    measure_line_end(&line);
}

static spc_status open_engines(bench *b, spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < SETTINGS && status == SPC_OK; i++) {
        spc_engine_options eo;

        spc_engine_options_init(&eo);
        eo.no_prefix_reuse = true; /* every prompt costs what it costs */
        eo.drafter = b->drafter;
        eo.device = "cpu";
        eo.threads = b->o->threads;
        eo.sessions = b->o->batch;
        status = spc_engine_open(&eo, &b->engine[i], err);
    }
    return status;
}

static bool bench_drafter(bench *b)
{
    spc_status status = open_engines(b, &b->error);

    for (int32_t i = 0; i < SETTINGS && status == SPC_OK; i++) { /* warm up */
        status = turn(b, i, 0, &b->error);
        memset(&b->stats[i], 0, sizeof b->stats[i]);
    }
    for (int32_t repeat = 0; repeat < b->o->repeats; repeat++) {
        for (int32_t i = 0; i < SETTINGS && status == SPC_OK; i++) {
            status = turn(b, i, repeat, &b->error);
        }
    }
    for (int32_t i = 0; i < SETTINGS; i++) {
        if (status == SPC_OK) print_setting(b, i);
        spc_engine_close(b->engine[i]);
    }
    if (status != SPC_OK) (void)fprintf(stderr, "bench_gamma: %s\n", b->error.message);
    return status == SPC_OK;
}

/* ---- options ----------------------------------------------------------------------------------
 */

static bool read_int(const char *text, long least, long most, int32_t *out)
{
    char *end;
    long value = strtol(text, &end, 10);

    *out = (int32_t)value;
    return end != text && *end == '\0' && value >= least && value <= most;
}

/* 0, or the exit code of a wrong command line. */
static int read_options(int count, char **arguments, options *o)
{
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : "";
        bool ok = false;

        if (strcmp(name, "--json") == 0 || strcmp(name, "--cpu") == 0) {
            *(name[2] == 'j' ? &o->json : &o->cpu) = true;
            continue;
        }
        if (strcmp(name, "--threads") == 0) ok = read_int(value, 0, 1024, &o->threads);
        if (strcmp(name, "--batch") == 0) ok = read_int(value, 1, BATCH_MAX, &o->batch);
        if (strcmp(name, "--tokens") == 0) ok = read_int(value, 1, 100, &o->tokens);
        if (strcmp(name, "--repeats") == 0) ok = read_int(value, 1, REPEATS_MAX, &o->repeats);
        if (strcmp(name, "--temperature") == 0) {
            char *end;

            o->temperature = strtod(value, &end);
            ok = end != value && *end == '\0' && o->temperature >= 0 && o->temperature <= 100;
        }
        if (!ok) {
            (void)fprintf(stderr,
                          "bench_gamma: %s %s: unknown option, or a value out of range; see "
                          "bench_gamma --help\n",
                          name, value);
            return 2;
        }
        i++;
    }
    return 0;
}

int main(int count, char **arguments)
{
    options o = {1, 1, 60, 11, 0.0, false, false};
    char folder[] = "/tmp/spc-hostile-XXXXXX";
    const char *const names[] = {"embedded", "hostile", "itself"};
    const char *const drafters[] = {SPC_EMBEDDED_DRAFTER, folder, SPC_EMBEDDED_VERIFIER};
    bool ok = true;
    int wrong;

    if (count == 2 && strcmp(arguments[1], "--help") == 0) return fputs(help, stdout) < 0;
    wrong = read_options(count, arguments, &o);
    if (wrong) return wrong;
    if (!mkdtemp(folder) || !write_hostile(folder)) {
        (void)fprintf(stderr,
                      "bench_gamma: no hostile drafter could be written to %s (is the "
                      "pair embedded in this build?)\n",
                      folder);
        return 1;
    }
    if (!o.json) {
        (void)printf("drafter   gamma    tokens/s  x plain      p10      p90 per round 1st kept "
                     "chosen:rounds\n");
    }
    for (int32_t i = 0; i < 3 && ok; i++) {
        static bench b;

        memset(&b, 0, sizeof b);
        b.o = &o;
        b.name = names[i];
        b.drafter = drafters[i];
        ok = bench_drafter(&b);
    }
    remove_hostile(folder);
    return measure_exit("bench_gamma", ok ? 0 : 1);
}
