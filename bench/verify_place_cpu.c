/* SPDX-License-Identifier: Apache-2.0 */
/* verify_place_cpu.c - one thread of the CPU: the twin that defines what devices compute. */
#include "verify_place.h"

#include <stdlib.h>
#include <string.h>

enum { EVICT_BYTES = 256 << 20 }; /* as bench_decode */

static void *allocate(bench_place *place, size_t bytes)
{
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);

    if (!memory) (void)spc_error_set(&place->error, SPC_ENOMEM, "no memory for %zu bytes", bytes);
    return memory;
}

static bool copy(bench_place *place, void *to, const void *from, size_t bytes)
{
    (void)place;
    memcpy(to, from, bytes);
    return true;
}

static bool nothing_to_wait_for(bench_place *place)
{
    (void)place;
    return true;
}

static spc_status nothing_to_prepare(void *workspace, size_t bytes, spc_stream stream,
                                     spc_error *err)
{
    (void)workspace;
    (void)bytes;
    (void)stream;
    (void)err;
    return SPC_OK;
}

static bool time_work(bench_place *place, place_work work, void *user, int32_t sets, int32_t runs,
                      place_way way, measure_times *us)
{
    double *value = malloc((size_t)runs * sizeof *value);
    char *flush = way == PLACE_COLD ? calloc(1, EVICT_BYTES) : NULL;
    int32_t warm = runs / 10 + 1;
    bool ok = value != NULL && (flush || way != PLACE_COLD);

    if (!ok) (void)spc_error_set(&place->error, SPC_ENOMEM, "no memory for %d times", (int)runs);
    for (int32_t i = -warm; ok && i < runs; i++) {
        uint64_t start;

        if (flush) measure_evict(flush, EVICT_BYTES); /* a few sets of inputs fit into a cache */
        start = measure_now_ns();
        ok = work(user, (i + warm) % sets, NULL);
        if (i >= 0) value[i] = (double)(measure_now_ns() - start) / 1e3;
    }
    if (ok) {
        us->runs = runs;
        us->median = measure_quantile(value, runs, 0.5);
        us->p10 = measure_quantile(value, runs, 0.1);
        us->p90 = measure_quantile(value, runs, 0.9);
    }
    free(flush);
    free(value);
    return ok;
}

static volatile uint64_t sink;

static bool read_bytes(bench_place *place, const void *from, size_t bytes, spc_stream stream)
{
    const uint64_t *word = from;
    uint64_t sum[8] = {0};

    (void)place;
    (void)stream;
    for (size_t i = 0; i + 8 <= bytes / 8; i += 8) {
        for (int k = 0; k < 8; k++) sum[k] += word[i + (size_t)k];
    }
    for (int k = 1; k < 8; k++) sum[0] += sum[k];
    sink = sum[0];
    return true;
}

static void close_place(bench_place *place)
{
    (void)place;
}

bool place_open_cpu(bench_place *place)
{
    memset(place, 0, sizeof *place);
    (void)snprintf(place->name, sizeof place->name, "cpu, one thread");
    place->allocate = allocate;
    place->release = free;
    place->copy_in = place->copy_out = copy;
    place->wait = nothing_to_wait_for;
    place->draw = spc_cpu_draw_batch;
    place->verify = spc_cpu_verify_batch;
    place->prepare = nothing_to_prepare;
    place->time = time_work;
    place->read = read_bytes;
    place->close = close_place;
    return true;
}
