/* SPDX-License-Identifier: Apache-2.0 */
/* measure.c - timing, quantiles, the read rate, JSON lines. */
#if !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE)
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#endif

#include "measure.h"

#include <spc/status.h>

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t measure_now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- repetition -------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double measure_quantile(double *values, int32_t count, double quantile)
{
    qsort(values, (size_t)count, sizeof *values, compare);

    double at = quantile * (count - 1);
    int32_t low = (int32_t)at;

    if (low + 1 >= count) return values[count - 1];
    return values[low] + (at - low) * (values[low + 1] - values[low]);
}

/* Fills values until both limits are reached; the number of runs, or -1. */
static int32_t repeat(bool (*fn)(void *user), void (*prepare)(void *user), void *user, int32_t runs,
                      double seconds, double *values)
{
    uint64_t begin = measure_now_ns();
    int32_t count = 0;

    while (count < MEASURE_RUNS_MAX) {
        if (count >= runs && (double)(measure_now_ns() - begin) * 1e-9 >= seconds) break;
        if (prepare) prepare(user);

        uint64_t start = measure_now_ns();

        if (!fn(user)) return -1;
        values[count++] = (double)(measure_now_ns() - start) * 1e-6;
    }
    return count;
}

bool measure_run(bool (*fn)(void *user), void (*prepare)(void *user), void *user, int32_t runs,
                 double seconds, measure_times *times)
{
    double *values = malloc(MEASURE_RUNS_MAX * sizeof *values);
    int32_t count = -1;

    if (values && repeat(fn, prepare, user, runs / 10 + 1, seconds / 10, values) > 0) {
        count = repeat(fn, prepare, user, runs > 0 ? runs : 1, seconds, values);
    }
    if (count > 0) {
        times->median = measure_quantile(values, count, 0.5);
        times->p10 = measure_quantile(values, count, 0.1);
        times->p90 = measure_quantile(values, count, 0.9);
        times->runs = count;
    }
    free(values);
    return count > 0;
}

/* ---- read rate --------------------------------------------------------------------------------
 */

enum { READ_PASSES = 7, READ_LANES = 16 };

typedef struct {
    const uint64_t *from;
    size_t words;
    uint64_t begin, end; /* of the pass, on the clock */
    uint64_t sum;        /* kept, so that the reads are not removed */
    pthread_t thread;
} reader;

static void *reader_main(void *argument)
{
    reader *r = argument;
    uint64_t lane[READ_LANES] = {0};

    r->begin = measure_now_ns();
    for (size_t i = 0; i + READ_LANES <= r->words; i += READ_LANES) {
        for (size_t l = 0; l < READ_LANES; l++) lane[l] += r->from[i + l];
    }
    r->end = measure_now_ns();
    for (size_t l = 0; l < READ_LANES; l++) r->sum += lane[l];
    return NULL;
}

int32_t measure_threads(const char *device)
{
    int threads = 0;

    return sscanf(device, "cpu, %d thread", &threads) == 1 ? threads : 0;
}

/* One pass of all threads; nanoseconds from the first begin to the last end, 0 when the system
 * refuses a thread. */
static uint64_t read_pass(reader *readers, int32_t threads)
{
    uint64_t begin = UINT64_MAX, end = 0;
    int32_t started = 0;

    while (started < threads &&
           pthread_create(&readers[started].thread, NULL, reader_main, &readers[started]) == 0) {
        started++;
    }
    for (int32_t i = 0; i < started; i++) {
        (void)pthread_join(readers[i].thread, NULL);
        if (readers[i].begin < begin) begin = readers[i].begin;
        if (readers[i].end > end) end = readers[i].end;
    }
    return started == threads ? end - begin : 0;
}

double measure_read_rate(int32_t threads, size_t bytes)
{
    size_t words = bytes / sizeof(uint64_t) / (size_t)threads;
    uint64_t *data = malloc(bytes);
    reader *readers = calloc((size_t)threads, sizeof *readers);
    double best = 0.0;

    if (data && readers) {
        memset(data, 1, bytes); /* untouched pages would all be one page of zeros */
        for (int32_t i = 0; i < threads; i++) {
            readers[i].from = data + (size_t)i * words;
            readers[i].words = words;
        }
        for (int pass = 0; pass < READ_PASSES; pass++) {
            uint64_t ns = read_pass(readers, threads);
            double rate = ns ? (double)(words * sizeof *data * (size_t)threads) / (double)ns : 0.0;

            if (rate > best) best = rate;
        }
    }
    free(readers);
    free(data);
    return best;
}

void measure_evict(char *buffer, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) ((volatile char *)buffer)[i]++;
}

/* ---- JSON lines -------------------------------------------------------------------------------
 */

measure_line measure_line_begin(FILE *file)
{
    measure_line line = {file, false};

    if (file) (void)fputc('{', file);
    return line;
}

static void put_string(FILE *file, const char *text)
{
    (void)fputc('"', file);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\') (void)fputc('\\', file);
        if (c < 0x20) {
            (void)fprintf(file, "\\u%04x", c);
        } else {
            (void)fputc(c, file);
        }
    }
    (void)fputc('"', file);
}

static void put_key(measure_line *line, const char *key)
{
    if (line->any) (void)fputs(", ", line->file);
    line->any = true;
    put_string(line->file, key);
    (void)fputs(": ", line->file);
}

void measure_line_text(measure_line *line, const char *key, const char *value)
{
    if (!line->file) return;
    put_key(line, key);
    put_string(line->file, value);
}

void measure_line_number(measure_line *line, const char *key, double value)
{
    if (!line->file) return;
    put_key(line, key);
    if (isfinite(value)) {
        (void)fprintf(line->file, "%.9g", value);
    } else {
        (void)fputs("null", line->file);
    }
}

void measure_line_integer(measure_line *line, const char *key, int64_t value)
{
    if (!line->file) return;
    put_key(line, key);
    (void)fprintf(line->file, "%lld", (long long)value);
}

void measure_line_end(measure_line *line)
{
    if (!line->file) return;
    (void)fputs("}\n", line->file);
    (void)fflush(line->file); /* what has been measured is there, whatever becomes of the rest */
}

int measure_exit(const char *program, int code)
{
    bool written = fflush(stdout) == 0 && !ferror(stdout);

    if (code != 0 || written) return code;
    (void)fprintf(stderr, "%s: stdout: a result could not be written\n", program);
    return spc_status_exit_code(SPC_EINPUT);
}
