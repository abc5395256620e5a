/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_fit.c - KV caches as large as the memory of GPUs allows, where nobody said how large.
 * Built over tests/fibers alone, whose devices have as much memory as a test gives them. */
#include "rank_pair.h"

#include "host/device.h"
#include "host/fit.h"
#include "host/kv.h"

#include <nccl.h>
#include <stdio.h>

enum { SESSIONS = 16, CONTEXT = 512, ALL = SESSIONS * CONTEXT, LEFT = 16 };

#define LLAMA    SPC_TEST_VECTORS "/llama"
#define GATED    SPC_TEST_VECTORS "/t5-gated"
#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

typedef struct {
    int32_t lines;
    char line[SPC_ERROR_BYTES];
} said;

static void keep_line(void *user, const char *line)
{
    said *s = user;

    if (strncmp(line, "kv cache: ", 10) != 0) return;
    s->lines++;
    (void)snprintf(s->line, sizeof s->line, "%s", line);
}

static spc_engine_options options_on(const char *device, said *s)
{
    spc_engine_options o;

    memset(s, 0, sizeof *s);
    spc_engine_options_init(&o);
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    o.device = device;
    o.sessions = SESSIONS;
    o.context = CONTEXT;
    o.log = keep_line;
    o.user = s;
    return o;
}

static spc_engine *engine_of(const spc_engine_options *o)
{
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(spc_engine_open(o, &engine, &error), SPC_OK, "%s", error.message);
    return engine;
}

static int64_t tokens_of(spc_engine *engine)
{
    spc_engine_load load;

    cr_assert_eq(spc_engine_usage(engine, &load, NULL), SPC_OK);
    return load.kv_tokens;
}

/* What is taken of a device by an engine with so many tokens (0: all that it can need), beside what
 * was taken before. */
static size_t taken_by(spc_engine_options o, int32_t tokens, int device)
{
    size_t before = fiber_gpu.used_on[device], taken;
    spc_engine *engine;

    o.kv_tokens = tokens;
    engine = engine_of(&o);
    taken = fiber_gpu.used_on[device] - before;
    spc_engine_close(engine);
    cr_assert_eq(fiber_gpu.used_on[device], before);
    return taken;
}

/* Have a device show so many bytes free. */
static void leave(int device, size_t bytes)
{
    fiber_gpu.others[device] = fiber_gpu.memory - fiber_gpu.used_on[device] - bytes;
}

/* Stacks of kernels stay taken: they are from now on. */
static void warm(int devices)
{
    char name[16];

    fiber_gpu.devices = devices;
    for (int d = 0; d < devices; d++) {
        const spc_backend_ops *ops;
        spc_backend *backend;

        (void)snprintf(name, sizeof name, "cuda:%d", d);
        cr_assert_eq(spc_device_open(name, 0, NULL, NULL, NULL, &ops, &backend, NULL), SPC_OK);
        ops->close(backend);
    }
}

/* Between what one session and what all need of a device the caches grow with its memory, up to a
 * sixteenth of it but for less than a page. */
static void expect_grown(const spc_engine_options *o, said *s, int device)
{
    int32_t all = o->sessions * o->context;
    size_t least = taken_by(*o, o->context, device), most = taken_by(*o, 0, device);
    size_t page = (most - least) / (size_t)(all - o->context) * SPC_PAGE_TOKENS;
    size_t first = least + least / (LEFT - 1) + 2 * page;
    int64_t last = 0;

    cr_assert(page > 0 && first < most, "%zu to %zu: too few sessions", first, most);
    for (size_t step = 0; step < 4; step++) {
        size_t before = fiber_gpu.used_on[device];
        size_t bytes = first + (most - first) / 4 * step, room, used;
        spc_engine *engine;
        int64_t tokens;

        s->lines = 0;
        leave(device, bytes);
        engine = engine_of(o);
        tokens = tokens_of(engine);
        used = fiber_gpu.used_on[device] - before;
        room = bytes - bytes / LEFT;
        cr_expect_leq(used, room);
        cr_expect_gt(used + page + page / 4, room, "%zu more, a page is %zu", room - used, page);
        cr_expect(tokens > o->context && tokens < all && tokens > last, "%d", (int)tokens);
        cr_expect_eq(tokens % SPC_PAGE_TOKENS, 0);
        cr_expect_eq(s->lines, 1);
        last = tokens;
        spc_engine_close(engine);
    }
    fiber_gpu.others[device] = 0;
}

/* ---- one GPU ----------------------------------------------------------------------------------
 */

Test(host_fit, caches_grow_with_the_memory_of_the_device)
{
    said s;
    spc_engine_options o = options_on("cuda", &s);

    warm(1);
    expect_grown(&o, &s, 0);
    o.kv = "bf16";
    expect_grown(&o, &s, 0);
    o.drafter = NULL;
    expect_grown(&o, &s, 0);
    o.drafter = "ngram";
    expect_grown(&o, &s, 0);
}

/* With a sixteenth left, too: graphs take some. */
Test(host_fit, where_all_contexts_fit_there_is_room_for_all)
{
    said s;
    spc_engine_options o = options_on("cuda", &s);
    spc_engine *engine;
    size_t all;

    warm(1);
    all = taken_by(o, 0, 0);
    all += (all + LEFT - 2) / (LEFT - 1);
    leave(0, all);
    engine = engine_of(&o);
    cr_expect_eq(tokens_of(engine), ALL);
    cr_expect_eq(s.lines, 0);
    spc_engine_close(engine);
    leave(0, all - LEFT);
    engine = engine_of(&o);
    cr_expect_lt(tokens_of(engine), ALL);
    cr_expect_eq(s.lines, 1);
    spc_engine_close(engine);
}

/* With less of it left than otherwise; below that it is an error, told before any weight moves. */
Test(host_fit, one_session_has_its_context_in_any_case)
{
    said s;
    spc_engine_options o = options_on("cuda", &s);
    spc_engine *engine;
    spc_error error;
    size_t least;

    warm(1);
    least = taken_by(o, CONTEXT, 0);
    leave(0, least);
    engine = engine_of(&o);
    cr_expect_eq(tokens_of(engine), CONTEXT);
    spc_engine_close(engine);
    leave(0, least - 1);
    s.lines = 0;
    fiber_gpu.most_used = 0;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_ENOMEM);
    cr_expect_null(engine);
    cr_expect_eq(fiber_gpu.most_used, 0);
    cr_expect_eq(s.lines, 0, "%s", s.line);
    cr_expect(strstr(error.message, "sessions 16, context 512, kv-tokens 512), found "), "%s",
              error.message);
    cr_expect(strstr(error.message, "MiB free; lower sessions, context or kv-tokens"), "%s",
              error.message);
}

Test(host_fit, what_was_asked_for_is_what_there_is_or_an_error)
{
    said s;
    spc_engine_options o = options_on("cuda", &s);
    spc_engine *engine;
    spc_error error;
    size_t all;

    warm(1);
    all = taken_by(o, 0, 0);
    leave(0, all - 1);
    o.kv_tokens = ALL;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_ENOMEM);
    o.kv_tokens = ALL / 2 + 3;
    engine = engine_of(&o);
    cr_expect_eq(tokens_of(engine), ALL / 2);
    spc_engine_close(engine);
    cr_expect_eq(s.lines, 0, "%s", s.line);
}

Test(host_fit, a_line_says_how_much_fits_and_what_to_lower)
{
    said s;
    spc_engine_options o = options_on("cuda", &s);
    char begin[96];

    warm(1);
    leave(0, taken_by(o, CONTEXT, 0));
    spc_engine_close(engine_of(&o));
    (void)snprintf(begin, sizeof begin, "kv cache: %d tokens fit in the memory of cuda:0, fibers ",
                   CONTEXT);
    cr_expect_eq(strncmp(s.line, begin, strlen(begin)), 0, "%s", s.line);
    cr_expect(strstr(s.line, " for 16 sessions of 512 (all at once need 8192): "), "%s", s.line);
    cr_expect(strstr(s.line, "lower sessions or context, keep keys and values in 16 bits"), "%s",
              s.line);
    fiber_gpu.others[0] = 0;
    o.kv = "f16";
    leave(0, taken_by(o, CONTEXT, 0));
    spc_engine_close(engine_of(&o));
    cr_expect(strstr(s.line, "lower sessions or context, or take a smaller model"), "%s", s.line);
    o.log = NULL;
    spc_engine_close(engine_of(&o));
}

/* Two sessions with room for one: the second waits, and both say what they say alone. */
Test(host_fit, sessions_without_room_wait_and_say_the_same, .timeout = 120)
{
    said s;
    spc_engine_options o = options_on("cuda", &s);
    spc_session_options so = options_of("strict", 2, 0);
    prompt p = prompt_made(44, 300, 3), q = prompt_made(40, 300, 5);
    decoded alone[2], d;
    spc_session *a, *b;
    spc_engine *engine;
    spc_error error;

    warm(1);
    o.verifier = o.drafter = LLAMA;
    so.max_tokens = 3;
    so.ignore_stop = so.wait = true;
    o.sessions = 2;
    o.context = 64; /* of the prompt, three more and a round's rows: all of it */
    engine = engine_of(&o);
    alone[0] = decode(engine, &so, &p);
    alone[1] = decode(engine, &so, &q);
    spc_engine_close(engine);
    leave(0, taken_by(o, 64, 0));
    engine = engine_of(&o);
    cr_assert_eq(tokens_of(engine), 64);
    a = open_session(engine, &so, &p);
    b = open_session(engine, &so, &q);
    cr_expect(!spc_session_waits(a) && spc_session_waits(b));
    cr_assert_eq(spc_session_run(a, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_session_run(b, &error), SPC_OK, "%s", error.message);
    d = decoded_of(a);
    cr_expect(same_tokens(&d, &alone[0]));
    d = decoded_of(b);
    cr_expect(same_tokens(&d, &alone[1]));
    spc_session_close(a);
    spc_session_close(b);
    spc_engine_close(engine);
}

/* An encoder's keys and values stay as many as all sessions can have. */
Test(host_fit, an_encoder_leaves_its_memory_alone)
{
    said s;
    spc_engine_options o = options_on("cuda", &s);

    warm(1);
    o.verifier = o.drafter = GATED;
    expect_grown(&o, &s, 0);
}

/* Sizes beyond counting are no smaller caches. */
Test(host_fit, what_nobody_can_count_does_not_fit)
{
    static const spc_limits huge = {
        .slots = 4096, .context = INT32_MAX, .rows = INT32_MAX, .outputs = INT32_MAX};
    spc_model model = {.plan = NULL};
    spc_fit fit = {&spc_backend_cuda, NULL, &model, NULL};
    spc_limits limits = huge;
    spc_error error;
    int32_t pages;

    warm(1);
    cr_assert_eq(spc_open_model(LLAMA, &model, &error), SPC_OK);
    cr_assert_eq(spc_backend_cuda.open(&fit.backend, 0, NULL, &error), SPC_OK);
    cr_assert_eq(spc_fit_pages(&fit, &limits, &pages, &error), SPC_OK);
    cr_expect_eq(pages, INT32_MAX / SPC_PAGE_TOKENS);
    limits.pages = pages;
    cr_expect_eq(spc_fit_check(&fit, &limits, &error), SPC_ENOMEM);
    /* more pages than an engine can number: as many as it can */
    limits = (spc_limits){.slots = 4096, .context = 1 << 20, .rows = 64, .outputs = 64};
    fiber_gpu.memory = (size_t)1 << 41;
    cr_assert_eq(spc_fit_pages(&fit, &limits, &pages, &error), SPC_OK);
    cr_expect_eq(pages, INT32_MAX / SPC_PAGE_TOKENS);
    spc_backend_cuda.close(fit.backend);
    spc_close_model(&model);
}

/* The CPU takes memory as it is used, and nobody counts it. */
Test(host_fit, on_the_cpu_caches_hold_all_contexts)
{
    said s;
    spc_engine_options o = options_on("cpu", &s);
    spc_engine *engine = engine_of(&o);

    cr_expect_eq(tokens_of(engine), ALL);
    cr_expect_eq(s.lines, 0);
    spc_engine_close(engine);
}

/* ---- several devices --------------------------------------------------------------------------
 */

/* Whichever has less: of two GPUs, of a GPU and the CPU. */
Test(host_fit, of_two_devices_the_one_with_less_decides)
{
    static const struct {
        const char *device, *drafter_device;
        int less;
    } cases[] = {
        {"cuda", "cpu", 0}, {"cpu", "cuda", 0}, {"cuda:0", "cuda:1", 0}, {"cuda:0", "cuda:1", 1}};

    warm(2);
    for (int32_t i = 0; i < COUNT(cases); i++) {
        said s;
        spc_engine_options o = options_on(cases[i].device, &s);

        o.drafter_device = cases[i].drafter_device;
        expect_grown(&o, &s, cases[i].less);
        cr_expect(strstr(s.line, " tokens fit in memory for 16 sessions"), "%s", s.line);
    }
}

Test(host_fit, a_device_that_is_too_small_is_named)
{
    said s;
    spc_engine_options o = options_on("cuda:0", &s);
    spc_engine *engine;
    spc_error error;
    size_t least;

    warm(2);
    o.drafter_device = "cuda:1";
    least = taken_by(o, CONTEXT, 1);
    leave(1, least - 1);
    fiber_gpu.most_used = 0;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_ENOMEM);
    cr_expect_eq(fiber_gpu.most_used, 0);
    cr_expect_eq(strncmp(error.message, "cuda:1: expected room for ", 26), 0, "%s", error.message);
    cr_expect(strstr(error.message, "(verifier 0, drafter "), "%s", error.message);
}

/* Ranks that share a GPU, a drafter on each or on one GPU with them. */
Test(host_fit, what_lies_on_one_device_is_counted_together)
{
    for (int32_t i = 0; i < 2; i++) {
        said s;
        spc_engine_options o = options_on("cuda:0,cuda:0", &s);

        warm(1);
        o.drafter_device = i == 1 ? "cuda:0" : NULL;
        expect_grown(&o, &s, 0);
    }
}

/* Each rank on its own, their parts as they cut them: with two tiles of ids the second has less. */
Test(host_fit, of_ranks_the_one_with_less_memory_decides)
{
    spc_model model = {.plan = NULL};
    spc_backend_ops ops = ops_of(2, NCCL);
    spc_fit fit = {&ops, NULL, &model, NULL};
    spc_limits limits = spc_engine_limits(SESSIONS, CONTEXT);
    spc_claims claims = {.count = 0};
    spc_error error;

    cr_assert_eq(spc_open_model(DEMO_VERIFIER, &model, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(ops.open(&fit.backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    limits.pages = spc_pages_for(CONTEXT);
    cr_assert_eq(ops.claim(fit.backend, model.plan, model.bundle, &limits, &claims, &error),
                 SPC_OK);
    limits.pages = 0;
    cr_assert_eq(claims.count, 2);
    cr_expect_eq(claims.item[0].memory + claims.item[1].memory,
                 ops.memory(fit.backend, model.plan, &limits) -
                     (size_t)(ALL - CONTEXT) * spc_plan_kv_bytes(model.plan, 1, SPC_DTYPE_F32));
    for (int d = 0; d < 2; d++) {
        const spc_claim *c = &claims.item[d];
        int32_t pages, all;

        cr_assert_eq(spc_fit_pages(&fit, &limits, &all, &error), SPC_OK);
        cr_expect_eq(all, 0);
        leave(d, (c->weights + c->memory) / (LEFT - 1) * LEFT + LEFT);
        cr_assert_eq(spc_fit_pages(&fit, &limits, &pages, &error), SPC_OK);
        cr_expect_eq(pages, spc_pages_for(CONTEXT), "rank %d: %d", d, (int)pages);
        leave(d, (c->weights + c->memory) / (LEFT - 1) * LEFT + LEFT + (1 << 20));
        cr_assert_eq(spc_fit_pages(&fit, &limits, &pages, &error), SPC_OK);
        cr_expect_gt(pages, spc_pages_for(CONTEXT), "rank %d", d);
        fiber_gpu.others[d] = 0;
    }
    ops.close(fit.backend);
    spc_close_model(&model);
}

/* Nobody can tell the ranks of an application's communicator what the others have. */
Test(host_fit, ranks_of_an_application_have_what_they_ask_for)
{
    said s;
    spc_engine_options o = options_on("cuda:0", &s);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm;
    ncclUniqueId id;
    spc_engine *engine;
    spc_error error;
    size_t all;

    warm(1);
    cr_assert_eq(ncclGetUniqueId(&id), ncclSuccess);
    cr_assert_eq(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclSuccess);
    o.nccl_comm = comm;
    all = taken_by(o, 0, 0);
    leave(0, all - 1);
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_ENOMEM);
    leave(0, all);
    engine = engine_of(&o);
    cr_expect_eq(tokens_of(engine), ALL);
    spc_engine_close(engine);
    (void)ncclCommDestroy(comm);
}
