/* SPDX-License-Identifier: Apache-2.0 */
/* measure.h - how the benchmarks measure: a clock, warm-up and repetition, quantiles, the memory
 * read rate of the machine, one JSON line per result. */
#ifndef SPC_BENCH_MEASURE_H
#define SPC_BENCH_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Monotonic, nanoseconds. */
uint64_t measure_now_ns(void);

/* Of repeated runs, milliseconds each. */
typedef struct {
    double median, p10, p90;
    int32_t runs;
} measure_times;

enum { MEASURE_RUNS_MAX = 4096 };

/* Run fn until both `runs` runs and `seconds` have passed (at most MEASURE_RUNS_MAX), after a tenth
 * of each as warm-up.  prepare, may be NULL, runs before each one and is not timed.  fn returns
 * false to give up; then measure_run returns false and times means nothing. */
bool measure_run(bool (*fn)(void *user), void (*prepare)(void *user), void *user, int32_t runs,
                 double seconds, measure_times *times);

/* Quantile 0 .. 1 of values [count], which are sorted in place; linear between neighbours. */
double measure_quantile(double *values, int32_t count, double quantile);

/* CPU threads of a device, as its description has them ("cpu, 2 threads, avx512"); 0: it is a GPU.
 */
int32_t measure_threads(const char *device);

/* GB/s (10^9 bytes) at which so many threads together read a buffer of `bytes`, far larger than the
 * caches; best of several passes.  0: no memory or no threads. */
double measure_read_rate(int32_t threads, size_t bytes);

/* Push everything else out of the caches of this core and of those that cores share, by writing to
 * buffer [bytes], which is far larger than they are. */
void measure_evict(char *buffer, size_t bytes);

/* One JSON object on one line. */
typedef struct {
    FILE *file; /* NULL: nothing is written */
    bool any;   /* a field was written */
} measure_line;

measure_line measure_line_begin(FILE *file);
void measure_line_text(measure_line *line, const char *key, const char *value);
void measure_line_number(measure_line *line, const char *key, double value); /* NaN: null */
void measure_line_integer(measure_line *line, const char *key, int64_t value);
void measure_line_end(measure_line *line);

/* What a program ends with: its code, or, where that is 0 and not all of stdout could be written, 6
 * and a line on stderr. */
int measure_exit(const char *program, int code);

#ifdef __cplusplus
}
#endif

#endif
