/* SPDX-License-Identifier: Apache-2.0 */
/* verify_place.h - where bench_verify runs: memory, the batch calls and a clock of one place. */
#ifndef SPC_BENCH_VERIFY_PLACE_H
#define SPC_BENCH_VERIFY_PLACE_H

#include "measure.h"

#include <spc/verify.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Work on set `set` of the inputs, enqueued on the stream.  false: it failed, place->error says
 * why. */
typedef bool (*place_work)(void *user, int32_t set, spc_stream stream);

/* How runs of work are timed.  On a device a run of the first two is the replay of a graph between
 * two events, sent while the device is still busy, so that no launch is waited for in it. */
typedef enum {
    PLACE_COLD, /* inputs come from memory: its caches have read other things in between */
    PLACE_WARM, /* from wherever the run before left them */
    PLACE_EAGER /* a plain launch on an idle device, with the way there */
} place_way;

typedef struct bench_place {
    char name[256]; /* of the processor */
    char driver[64];
    bool device;    /* memory is a device's, work is enqueued */
    int processors; /* a device's multiprocessors */
    size_t cache;   /* bytes that its last cache holds */
    spc_error error;
    spc_stream stream;

    void *(*allocate)(struct bench_place *place, size_t bytes); /* NULL: place->error */
    void (*release)(void *memory);
    bool (*copy_in)(struct bench_place *place, void *to, const void *from, size_t bytes);
    bool (*copy_out)(struct bench_place *place, void *to, const void *from, size_t bytes);
    bool (*wait)(struct bench_place *place);

    spc_status (*draw)(const spc_draw_batch *batch, spc_stream stream, spc_error *err);
    spc_status (*verify)(const spc_verify_batch *batch, spc_stream stream, spc_error *err);
    spc_status (*prepare)(void *workspace, size_t bytes, spc_stream stream, spc_error *err);

    /* Microseconds of one run of work, set after set in turn, `runs` of them after a warm-up. */
    bool (*time)(struct bench_place *place, place_work work, void *user, int32_t sets, int32_t runs,
                 place_way way, measure_times *us);
    /* Read `bytes` from `from` and do nothing with them, as fast as the place can. */
    bool (*read)(struct bench_place *place, const void *from, size_t bytes, spc_stream stream);
    void (*close)(struct bench_place *place);
} bench_place;

/* One thread of the CPU. */
bool place_open_cpu(bench_place *place);
/* The current device; false: there is none, or the build has no CUDA: place->error. */
bool place_open_cuda(bench_place *place);

#ifdef __cplusplus
}
#endif

#endif
