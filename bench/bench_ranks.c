/* SPDX-License-Identifier: Apache-2.0 */
/* bench_ranks.c - forwards of a model cut over CPU ranks, as threads and as processes: their rate,
 * and how much of the time goes into sums over ranks; one JSON line each.
 *
 *     bench_ranks [MODEL] [SECONDS]
 *
 * Time in sums includes waiting for the rank that comes last.  Every rank has one thread, so that
 * on enough cores the work of a rank shrinks as ranks are added. bench/scaling.py --check compares
 * the lines with what it would have predicted. */
#include "bench/measure.h"
#include "host/engine.h"
#include "host/ranks/comm.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 6, RANKS = 4, TIMEOUT_MS = 60000, WARM = 5, FORWARDS_MOST = 2000 };

/* A communicator that counts the time spent in sums, in front of another. */
typedef struct {
    spc_comm comm; /* first: the two are one pointer */
    spc_comm *inner;
    uint64_t ns;
    int64_t calls;
} timed;

static spc_status timed_sum(spc_comm *comm, float *data, size_t count, spc_error *err)
{
    timed *t = (timed *)comm;
    uint64_t start = measure_now_ns();
    spc_status status = t->inner->ops->all_reduce(t->inner, data, count, err);

    t->ns += measure_now_ns() - start;
    t->calls++;
    return status;
}

/* Plans call nothing else. */
static const spc_comm_ops timed_ops = {.name = "timed", .all_reduce = timed_sum};

typedef struct {
    const char *model;
    double seconds;
    spc_comm *comm;
    int32_t rows;
    spc_error error;
    /* rank 0's */
    int32_t forwards, sums, dim, layers;
    double forward_ms, sum_ms;
    char device[64];
} work;

static spc_status forward(const spc_backend_ops *ops, spc_runner *runner, int32_t count,
                          spc_error *err)
{
    int32_t slot[ROWS] = {0}, token[ROWS], position[ROWS], output[ROWS];
    spc_rows rows = {count, slot, token, position, output};

    for (int32_t i = 0; i < count; i++) {
        token[i] = 3 + i;
        position[i] = output[i] = i;
    }
    ops->rewind(runner, 0, 0);
    return ops->forward(runner, &rows, err);
}

/* Rank 0 finds out how many forwards fit the time, and all make as many. */
static spc_status measure(work *w, spc_runner *runner, timed *t, spc_error *err)
{
    const spc_backend_ops *ops = &spc_backend_cpu;
    uint64_t start = measure_now_ns();
    spc_status status = SPC_OK;
    double each;

    for (int32_t i = 0; i < WARM && status == SPC_OK; i++) {
        status = forward(ops, runner, w->rows, err);
    }
    each = (double)(measure_now_ns() - start) * 1e-9 / WARM;
    w->forwards = w->seconds / each < FORWARDS_MOST ? (int32_t)(w->seconds / each) : FORWARDS_MOST;
    if (w->forwards < WARM) w->forwards = WARM;
    if (status == SPC_OK) {
        status = w->comm->ops->broadcast(w->comm, &w->forwards, sizeof w->forwards, 0, err);
    }
    t->ns = 0;
    t->calls = 0;
    start = measure_now_ns();
    for (int32_t i = 0; i < w->forwards && status == SPC_OK; i++) {
        status = forward(ops, runner, w->rows, err);
    }
    w->forward_ms = (double)(measure_now_ns() - start) * 1e-6 / w->forwards;
    w->sum_ms = (double)t->ns * 1e-6 / w->forwards;
    w->sums = (int32_t)(t->calls / w->forwards);
    return status;
}

/* One rank's life; SPC_OK or w->error. */
static spc_status run_rank(work *w)
{
    timed t = {{&timed_ops, w->comm->rank, w->comm->world}, w->comm, 0, 0};
    spc_limits limits = {.slots = 1, .context = 64, .rows = ROWS, .outputs = ROWS};
    spc_model model;
    spc_plan *part = NULL;
    spc_backend *backend = NULL;
    spc_runner *runner = NULL;
    spc_status status;

    memset(&model, 0, sizeof model);
    status = spc_open_model(w->model, &model, &w->error);
    if (status == SPC_OK && w->comm->world > 1) {
        status = spc_plan_split(model.plan, &t.comm, w->model, &part, &w->error);
    }
    if (status == SPC_OK) status = spc_backend_cpu.open(&backend, 1, NULL, &w->error);
    if (status == SPC_OK) {
        status = spc_backend_cpu.load(backend, part ? part : model.plan, model.bundle, &limits,
                                      &runner, &w->error);
    }
    if (status == SPC_OK) status = measure(w, runner, &t, &w->error);
    if (status == SPC_OK) {
        w->dim = model.config.dim;
        w->layers = model.config.layers;
        (void)snprintf(w->device, sizeof w->device, "%s", spc_backend_cpu.device(backend));
    } else {
        w->comm->ops->abort(w->comm, w->error.message);
    }
    spc_backend_cpu.unload(runner);
    spc_backend_cpu.close(backend);
    spc_plan_close(part);
    spc_close_model(&model);
    return status;
}

static void *run_thread(void *user)
{
    (void)run_rank(user);
    return NULL;
}

/* Rank 0's outcome in w; false: w->error. */
static bool run_threads(work *w, int32_t world)
{
    spc_comm *comm[RANKS];
    pthread_t thread[RANKS];
    work other[RANKS];
    int32_t started = 1;
    bool good = spc_comm_local_open(world, TIMEOUT_MS, comm, &w->error) == SPC_OK;

    if (!good) return false;
    for (; started < world; started++) {
        other[started] = *w;
        other[started].comm = comm[started];
        if (pthread_create(&thread[started], NULL, run_thread, &other[started]) != 0) break;
    }
    if (started < world) comm[0]->ops->abort(comm[0], "no thread for a rank");
    w->comm = comm[0];
    good = run_rank(w) == SPC_OK;
    for (int32_t r = 1; r < started; r++) (void)pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < world; r++) spc_comm_close(comm[r]);
    return good;
}

static bool run_processes(work *w, int32_t world)
{
    char folder[] = "/tmp/spc-bench-XXXXXX", meet[64];
    pid_t pid[RANKS];
    bool good;

    if (!mkdtemp(folder)) return false;
    (void)snprintf(meet, sizeof meet, "%s/meet", folder);
    (void)fflush(NULL);
    for (int32_t r = 1; r < world; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            spc_place place = {r, world, meet, TIMEOUT_MS};

            good = spc_comm_tcp_open(&place, &w->comm, &w->error) == SPC_OK;
            if (!good) _exit(1);
            good = run_rank(w) == SPC_OK;
            spc_comm_close(w->comm); /* in order: the others may still be at the last sum */
            _exit(good ? 0 : 1);
        }
    }

    spc_place place = {0, world, meet, TIMEOUT_MS};

    good = spc_comm_tcp_open(&place, &w->comm, &w->error) == SPC_OK;
    if (good) {
        good = run_rank(w) == SPC_OK;
        spc_comm_close(w->comm);
    }
    for (int32_t r = 1; r < world; r++) (void)waitpid(pid[r], NULL, 0);
    (void)rmdir(folder);
    return good;
}

static int32_t cores(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void tell(const work *w, const char *way, int32_t world)
{
    measure_line line = measure_line_begin(stdout);

    measure_line_text(&line, "bench", "ranks");
    measure_line_text(&line, "model", w->model);
    measure_line_text(&line, "way", way);
    measure_line_text(&line, "device", w->device);
    measure_line_integer(&line, "ranks", world);
    measure_line_integer(&line, "cores", cores());
    measure_line_integer(&line, "rows", w->rows);
    measure_line_integer(&line, "layers", w->layers);
    measure_line_integer(&line, "hidden", w->dim);
    measure_line_integer(&line, "forwards", w->forwards);
    measure_line_number(&line, "forward_ms", w->forward_ms);
    measure_line_number(&line, "rows_per_second", w->rows * 1000 / w->forward_ms);
    measure_line_integer(&line, "all_reduces", w->sums);
    measure_line_number(&line, "all_reduce_ms", w->sum_ms);
    measure_line_number(&line, "all_reduce_share", w->sum_ms / w->forward_ms);
    measure_line_end(&line);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        bool (*run)(work *w, int32_t world);
    } ways[] = {{"threads", run_threads}, {"processes", run_processes}};
    work w = {.model = argc > 1 ? argv[1] : SPC_EMBEDDED_VERIFIER,
              .seconds = argc > 2 ? atof(argv[2]) : 1};

    if (argc > 3 || w.model[0] == '-' || !(w.seconds > 0)) {
        (void)fprintf(stderr,
                      "usage: bench_ranks [MODEL] [SECONDS of each measurement, above 0]\n");
        return 2;
    }
    for (int32_t way = 0; way < 2; way++) {
        for (int32_t world = 1; world <= RANKS; world *= 2) {
            for (w.rows = 1; w.rows <= ROWS; w.rows += ROWS - 1) {
                if (way == 1 && world == 1) continue; /* one rank is what it is */
                if (!ways[way].run(&w, world)) {
                    (void)fprintf(stderr, "bench_ranks: %s, %d ranks: %s\n", ways[way].name,
                                  (int)world, w.error.message);
                    return 1;
                }
                tell(&w, ways[way].name, world);
            }
        }
    }
    return measure_exit("bench_ranks", 0);
}
