/* SPDX-License-Identifier: Apache-2.0 */
/* bench_load.c - from a model's files to its first logits, beside a plain read of the same files.
 *
 *     bench_load [--device NAME] [--weights KIND] [--threads N] [--runs N] [--json] MODEL
 *
 * Two lines: `cold`, the files dropped from the page cache before every read and every load, and
 * `warm`, with them in it.  `open` is until the engine is there, `first` until it has the logits of
 * one token, for which every weight is read once (of the embedding one row).  Read and load take
 * turns.  The system may not let pages go that something else uses: `kept` is the share of bytes
 * that were in memory all the same before cold loads; where it is not near 0 they were not cold. */
#include "bench/measure.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <spc/spc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 1024, RUNS_MAX = 100, BLOCK = 1 << 20 };

typedef struct {
    const char *device, *weights, *model;
    int32_t threads, runs;
    bool json, help;
} options;

typedef struct {
    char *path[FILES]; /* owned */
    int32_t count;
    uint64_t bytes;
} file_set;

static const char help[] =
    "bench_load: milliseconds from a model's files to an engine and to its first logits\n"
    "\n"
    "  bench_load [OPTION...] MODEL\n"
    "\n"
    "  --device NAME   cpu (default), cuda or cuda:N\n"
    "  --weights KIND  int8: quantise matrices at load\n"
    "  --threads N     of the CPU (default: one per core)\n"
    "  --runs N        runs of each; medians are shown (default 5)\n"
    "  --json          JSON lines instead of a table\n"
    "  --help          this text\n";

static int usage(const char *problem, const char *value)
{
    (void)fprintf(stderr, "bench_load: %s%s; see bench_load --help\n", problem, value);
    return 2;
}

static int read_options(int count, char **arguments, options *o)
{
    *o = (options){.device = "cpu", .runs = 5};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;

        if (strcmp(name, "--help") == 0) {
            o->help = true;
            return 0;
        }
        if (strcmp(name, "--json") == 0) {
            o->json = true;
            continue;
        }
        if (strncmp(name, "--", 2) != 0) {
            if (o->model) return usage("one model, found another: ", name);
            o->model = name;
            continue;
        }
        if (!value) return usage("unknown option, or no value: ", name);
        i++;
        if (strcmp(name, "--device") == 0) {
            o->device = value;
        } else if (strcmp(name, "--weights") == 0) {
            o->weights = value;
        } else if (strcmp(name, "--threads") == 0) {
            o->threads = atoi(value);
            if (o->threads < 1) return usage("--threads: expected 1 or more, found ", value);
        } else if (strcmp(name, "--runs") == 0) {
            o->runs = atoi(value);
            if (o->runs < 1 || o->runs > RUNS_MAX) return usage("--runs: 1 to 100, found ", value);
        } else {
            return usage("unknown option: ", name);
        }
    }
    return o->model ? 0 : usage("which model?", "");
}

/* ---- files ------------------------------------------------------------------------------------
 */

static bool add_file(file_set *set, const char *path)
{
    struct stat facts;

    if (stat(path, &facts) != 0 || !S_ISREG(facts.st_mode)) return true;
    if (set->count == FILES || !(set->path[set->count] = strdup(path))) return false;
    set->count++;
    set->bytes += (uint64_t)facts.st_size;
    return true;
}

/* A file, or all of a folder. */
static bool find_files(const char *model, file_set *set)
{
    DIR *dir = opendir(model);
    bool good = true;

    if (!dir) return add_file(set, model) && set->count > 0;
    for (const struct dirent *e; good && (e = readdir(dir));) {
        char path[PATH_MAX];

        good = snprintf(path, sizeof path, "%s/%s", model, e->d_name) < (int)sizeof path &&
               add_file(set, path);
    }
    (void)closedir(dir);
    return good && set->count > 0;
}

static void read_all(const file_set *set, char *block)
{
    for (int32_t i = 0; i < set->count; i++) {
        int fd = open(set->path[i], O_RDONLY | O_CLOEXEC);

        while (fd >= 0 && read(fd, block, BLOCK) > 0) continue;
        if (fd >= 0) (void)close(fd);
    }
}

static void drop_all(const file_set *set)
{
    for (int32_t i = 0; i < set->count; i++) {
        int fd = open(set->path[i], O_RDONLY | O_CLOEXEC);

        if (fd < 0) continue;
        (void)fsync(fd); /* what was just written cannot be dropped */
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        (void)close(fd);
    }
}

/* The share of a file's pages that are in memory, times its bytes. */
static double bytes_kept(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages, kept = 0, bytes;
    unsigned char *in = NULL;
    void *map = MAP_FAILED;

    if (fd < 0 || fstat(fd, &facts) != 0 || facts.st_size == 0) goto done;
    bytes = (size_t)facts.st_size;
    pages = (bytes + page - 1) / page;
    map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    in = malloc(pages);
    if (map != MAP_FAILED && in && mincore(map, bytes, in) == 0) {
        for (size_t i = 0; i < pages; i++) kept += in[i] & 1;
    }
    if (map != MAP_FAILED) (void)munmap(map, bytes);
done:
    free(in);
    if (fd >= 0) (void)close(fd);
    return (double)(kept * page);
}

static double share_kept(const file_set *set)
{
    double kept = 0;

    for (int32_t i = 0; i < set->count; i++) kept += bytes_kept(set->path[i]);
    return kept / (double)set->bytes;
}

/* ---- loads ------------------------------------------------------------------------------------
 */

typedef struct {
    double open, first; /* milliseconds since the beginning */
} load_times;

static double since(uint64_t begin)
{
    return (double)(measure_now_ns() - begin) / 1e6;
}

static spc_status load(const options *o, load_times *times, spc_error *err)
{
    static const int32_t id = 1;
    spc_engine_options eo;
    spc_engine_facts facts;
    spc_engine *engine;
    float *logits;
    uint64_t begin = measure_now_ns();
    spc_status status;

    spc_engine_options_init(&eo);
    eo.verifier = o->model;
    eo.drafter = NULL;
    eo.device = o->device;
    eo.weights = o->weights;
    eo.threads = o->threads;
    eo.context = 64;
    status = spc_engine_open(&eo, &engine, err);
    if (status != SPC_OK) return status;
    times->open = since(begin);
    spc_engine_describe(engine, &facts);
    logits = malloc((size_t)facts.vocab * sizeof *logits);
    if (!logits) {
        status = SPC_ENOMEM;
    } else if (facts.encoder) {
        status = spc_engine_logits(engine, &id, 1, &id, 1, logits, err);
    } else {
        status = spc_engine_logits(engine, NULL, 0, &id, 1, logits, err);
    }
    times->first = since(begin);
    free(logits);
    spc_engine_close(engine);
    return status;
}

static void tell(const options *o, const file_set *set, const char *state, double read,
                 const load_times *times, double kept)
{
    measure_line line;

    if (!o->json) {
        (void)printf("%-5s %8.1f MB  %9.1f  %9.1f  %9.1f  %6.2f  %5.1f %%\n", state,
                     (double)set->bytes / 1e6, read, times->open, times->first, times->first / read,
                     100 * kept);
        return;
    }
    line = measure_line_begin(stdout);
    measure_line_text(&line, "bench", "load");
    measure_line_text(&line, "model", o->model);
    measure_line_text(&line, "device", o->device);
    measure_line_text(&line, "weights", o->weights ? o->weights : "as they are");
    measure_line_text(&line, "state", state);
    measure_line_integer(&line, "file_bytes", (int64_t)set->bytes);
    measure_line_integer(&line, "runs", o->runs);
    measure_line_number(&line, "read_ms", read);
    measure_line_number(&line, "open_ms", times->open);
    measure_line_number(&line, "first_ms", times->first);
    measure_line_number(&line, "first_by_read", times->first / read);
    measure_line_number(&line, "kept", kept);
    measure_line_end(&line);
}

static spc_status measure(const options *o, const file_set *set, bool cold, char *block,
                          spc_error *err)
{
    double read[RUNS_MAX], open[RUNS_MAX], first[RUNS_MAX], kept = 0;
    load_times times;

    read_all(set, block); /* warm from the first run on */
    for (int32_t i = 0; i < o->runs; i++) {
        uint64_t begin;
        spc_status status;

        if (cold) drop_all(set);
        begin = measure_now_ns();
        read_all(set, block);
        read[i] = since(begin);
        if (cold) {
            double share;

            drop_all(set);
            share = share_kept(set);
            if (share > kept) kept = share;
        }
        status = load(o, &times, err);
        if (status != SPC_OK) return status;
        open[i] = times.open;
        first[i] = times.first;
    }
    times.open = measure_quantile(open, o->runs, 0.5);
    times.first = measure_quantile(first, o->runs, 0.5);
    tell(o, set, cold ? "cold" : "warm", measure_quantile(read, o->runs, 0.5), &times,
         cold ? kept : 1);
    return SPC_OK;
}

int main(int argc, char **argv)
{
    file_set set = {.count = 0};
    char *block = malloc(BLOCK);
    spc_error error = {SPC_OK, ""};
    options o;
    int code = read_options(argc, argv, &o);

    if (code == 0 && o.help) {
        (void)fputs(help, stdout);
    } else if (code == 0 && (!block || !find_files(o.model, &set))) {
        (void)fprintf(stderr, "bench_load: %s: expected a GGUF file or a model folder\n", o.model);
        code = 3;
    } else if (code == 0) {
        if (!o.json)
            (void)printf("milliseconds       file       read       open      first  "
                         "/ read   kept\n");
        for (int32_t cold = 1; cold >= 0 && code == 0; cold--) {
            if (measure(&o, &set, cold, block, &error) == SPC_OK) continue;
            (void)fprintf(stderr, "bench_load: %s\n", error.message);
            code = 3;
        }
    }
    for (int32_t i = 0; i < set.count; i++) free(set.path[i]);
    free(block);
    return measure_exit("bench_load", code);
}
