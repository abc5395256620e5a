/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_ranks_nccl.c - GPU ranks over the stand-in for NCCL, which notes every call and lets
 * ranks die and hang: what they send, what they take, an application's communicator, and how a
 * session ends by a rank that lets the others down.  Built over tests/fibers alone. */
#include "rank_pair.h"

#include "device_ranks.h"
#include "golden.h"

#include <nccl.h>
#include <pthread.h>

/* Calls of a kind by a rank, and the most bytes that one of them brings. */
static int32_t calls_of(int32_t rank, const char *name, size_t *most)
{
    int32_t count = 0;

    *most = 0;
    for (int32_t i = 0; i < stand_in.calls[rank]; i++) {
        const stand_in_call *c = &stand_in.call[rank][i];

        if (strcmp(c->name, name) != 0) continue;
        count++;
        if (c->count > *most) *most = c->count;
    }
    return count;
}

Test(cuda_ranks_nccl, ranks_take_what_memory_says_and_each_weight_once)
{
    static const spc_limits limits = {.slots = 1, .context = WIDE_CONTEXT, .rows = 4, .outputs = 4};
    tiny_model model = tiny_open(wide, 7, 1);
    spc_backend_ops ops = ops_of(2, SHARED);
    size_t memory, weights = (size_t)spc_bundle_bytes(model.bundle);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(ops.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(ops.load(backend, model.plan, model.bundle, &limits, &runner, &error), SPC_OK);
    memory = ops.memory(backend, model.plan, &limits);
    cr_expect_gt(fiber_gpu.used, memory + weights / 10 * 9);
    cr_expect_lt(fiber_gpu.used, memory + weights / 10 * 11, "vectors are in both parts");
    ops.unload(runner);
    ops.close(backend);
    cr_expect_eq(fiber_gpu.allocations, 0);
    tiny_close(&model);
}

Test(cuda_ranks_nccl, ranks_make_the_same_calls_and_never_gather_logits)
{
    size_t most, sums = 0;
    pair p;

    open_pair(&p, 2, NCCL, true, 0);
    memset(stand_in.calls, 0, sizeof stand_in.calls);
    (void)decode_rule(&p, "strict", 8);
    cr_assert_eq(stand_in.calls[0], stand_in.calls[1]);
    for (int32_t i = 0; i < stand_in.calls[0]; i++) {
        const stand_in_call *a = &stand_in.call[0][i], *b = &stand_in.call[1][i];

        cr_expect(a->name == b->name && a->count == b->count && a->type == b->type &&
                      a->recorded == b->recorded,
                  "call %d", (int)i);
        sums += a->recorded;
    }
    cr_expect_gt(sums, 0, "forwards that come again are graphs, sums and all");
    cr_expect_eq(calls_of(0, "AllReduce", &most) % WIDE_SUMS, 0);
    cr_expect_leq(most, 64 * WIDE_DIM, "one chunk of a prompt");
    cr_expect_gt(calls_of(0, "AllGather", &most), 0);
    cr_expect_lt(most, 1024, "bytes per sequence and rank");
    cr_expect_eq(calls_of(0, "Broadcast", &most), 0, "logits would be gathered by these");
    close_pair(&p);
}

enum { APPLIED = 16 }; /* tokens, at most */

/* What an application has done. */
typedef struct {
    decoded decoded;
    spc_token_detail detail[APPLIED];
    int32_t details;
    spc_status chosen; /* of a session whose lengths are chosen */
    spc_error error;
} applied;

/* An application's ranks, each with a communicator and an engine. */
typedef struct {
    int32_t rank, tp;
    ncclUniqueId id;
    const char *drafter;
    const spc_session_options *asks;
    const prompt *prompt;
    applied done;
    spc_status status; /* of the engine */
    spc_error error;
} application;

static const char llama[] = SPC_TEST_VECTORS "/llama";

static void apply(spc_engine *engine, const application *a, applied *out)
{
    spc_session_options o = *a->asks;
    spc_session *session = open_session(engine, &o, a->prompt);
    const spc_token_detail *detail;

    (void)spc_session_run(session, NULL);
    out->decoded = decoded_of(session);
    detail = spc_session_details(session, &out->details);
    for (int32_t i = 0; i < out->details && i < APPLIED; i++) out->detail[i] = detail[i];
    spc_session_close(session);
    o.gamma = SPC_GAMMA_AUTO;
    out->chosen = spc_session_open(engine, &o, a->prompt->id, a->prompt->count, &session, NULL);
    spc_session_close(session);
}

static void *run_application(void *user)
{
    application *a = user;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    char device[16];
    spc_engine_options o;
    spc_engine *engine;
    ncclComm_t comm;

    (void)snprintf(device, sizeof device, "cuda:%d", (int)a->rank);
    (void)cudaSetDevice(a->rank);
    (void)ncclCommInitRankConfig(&comm, 2, a->id, a->rank, &config);
    spc_engine_options_init(&o);
    o.verifier = llama;
    o.drafter = a->drafter;
    o.context = GOLDEN_CONTEXT;
    o.device = device;
    o.nccl_comm = comm;
    o.tp = a->tp;
    a->status = spc_engine_open(&o, &engine, &a->error);
    if (a->status == SPC_OK) apply(engine, a, &a->done);
    spc_engine_close(engine);
    (void)ncclCommDestroy(comm);
    return NULL;
}

/* a: [2], from what the first asks for. */
static void run_applications(application *a)
{
    pthread_t thread[2];
    ncclUniqueId id;

    fiber_gpu.devices = 2;
    (void)ncclGetUniqueId(&id);
    a[1] = a[0];
    for (int32_t r = 0; r < 2; r++) {
        a[r].rank = r;
        a[r].id = id;
        cr_assert_eq(pthread_create(&thread[r], NULL, run_application, &a[r]), 0);
    }
    for (int32_t r = 0; r < 2; r++) (void)pthread_join(thread[r], NULL);
}

Test(cuda_ranks_nccl, an_application_brings_its_communicator)
{
    golden g = golden_open(&spc_backend_cpu, "llama");
    prompt p = {.count = g.prompt_count};
    spc_session_options s = options_of("verifier-only", 0, 0);
    application a[2] = {{.asks = &s, .prompt = &p}};

    memcpy(p.id, g.prompt, (size_t)p.count * sizeof *p.id);
    s.max_tokens = 3;
    s.ignore_stop = true;
    run_applications(a);
    for (int32_t r = 0; r < 2; r++) {
        cr_assert_eq(a[r].status, SPC_OK, "%s", a[r].error.message);
        cr_expect_eq(a[r].done.decoded.status, SPC_OK, "%s", a[r].done.decoded.error.message);
        cr_expect_arr_eq(a[r].done.decoded.token, g.greedy, 3 * sizeof *g.greedy);
        cr_expect_eq(a[r].done.details, 0, "nobody asked");
        cr_expect_eq(a[r].done.chosen, SPC_EUNSUPPORTED, "ranks would choose each for itself");
    }
    cr_expect(stand_in.aborted == 0 && stand_in.open == 0);
    a[0].tp = 3;
    run_applications(a);
    cr_expect_eq(a[0].status, SPC_EUSAGE);
    cr_expect(strstr(a[0].error.message, "tp: expected 2, the ranks of the communicator"), "%s",
              a[0].error.message);
    golden_close(&g);
}

/* What an engine on the CPU makes of the same. */
static applied applied_on_cpu(const application *a)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    applied out;

    spc_engine_options_init(&o);
    o.verifier = llama;
    o.drafter = a->drafter;
    o.context = GOLDEN_CONTEXT;
    o.threads = 1;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    apply(engine, a, &out);
    spc_engine_close(engine);
    return out;
}

static void expect_same_details(const applied *got, const applied *alone, const char *drafter)
{
    cr_assert_eq(got->details, APPLIED, "%s", drafter);
    cr_assert_eq(alone->details, APPLIED, "%s", drafter);
    for (int32_t i = 0; i < APPLIED; i++) {
        const spc_token_detail *a = &got->detail[i], *b = &alone->detail[i];

        cr_expect(a->draft == b->draft && a->origin == b->origin, "%s: token %d", drafter, (int)i);
        cr_expect_eq(a->row.coin, b->row.coin);
        cr_expect_float_eq(a->row.drafter, b->row.drafter, 1e-4f, "%s: token %d", drafter, (int)i);
        cr_expect_float_eq(a->row.verifier, b->row.verifier, 1e-4f);
        cr_expect_float_eq(a->row.log_target, b->row.log_target, 1e-3f);
        cr_expect_float_eq(a->row.log_verifier, b->row.log_verifier, 1e-3f);
    }
}

/* Both ranks decide alike, and as one on the CPU does: over drafts of a model that each has whole,
 * and over drafts that each looks up. */
Test(cuda_ranks_nccl, ranks_of_an_application_draft_and_tell_why_as_one_does)
{
    static const char *const drafters[] = {SPC_TEST_VECTORS "/qwen2", "ngram:1-3"};
    prompt p = {.id = {7, 8, 9, 7, 8, 9, 7, 8}, .count = 8};
    spc_session_options s = options_of("token-v3:alpha=0.5", 3, 1);

    s.details = s.ignore_stop = true;
    s.max_tokens = APPLIED;
    s.bonus = SPC_BONUS_VERIFIER;
    for (int32_t d = 0; d < 2; d++) {
        application a[2] = {{.drafter = drafters[d], .asks = &s, .prompt = &p}};
        applied alone = applied_on_cpu(&a[0]);
        int64_t drafted = 0;

        run_applications(a);
        for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) drafted += alone.decoded.stats.drafted[i];
        cr_expect_gt(drafted, 0, "%s", drafters[d]);
        for (int32_t r = 0; r < 2; r++) {
            cr_assert_eq(a[r].status, SPC_OK, "%s", a[r].error.message);
            cr_expect_eq(a[r].done.decoded.status, SPC_OK, "%s", a[r].done.decoded.error.message);
            cr_assert_eq(a[r].done.decoded.count, APPLIED, "%s", drafters[d]);
            cr_expect_arr_eq(a[r].done.decoded.token, alone.decoded.token,
                             APPLIED * sizeof(int32_t));
            cr_expect_arr_eq(a[r].done.decoded.stats.drafted, alone.decoded.stats.drafted,
                             sizeof alone.decoded.stats.drafted);
            expect_same_details(&a[r].done, &alone, drafters[d]);
        }
    }
    cr_expect(stand_in.aborted == 0 && stand_in.open == 0);
}

/* user: [512], receives lines */
static void note_line(void *user, const char *line)
{
    char *to = user;
    size_t length = strlen(to);

    (void)snprintf(to + length, 512 - length, "%s\n", line);
}

Test(cuda_ranks_nccl, what_the_devices_of_ranks_do_not_record_is_told)
{
    for (int way = 0; way < WAYS; way++) {
        char noted[512] = "";
        pair p;

        fiber_gpu.no_capture = true;
        open_pair(&p, 2, way, false, 0);
        p.engine->log = note_line;
        p.engine->user = noted;
        cr_expect_eq(decode_rule(&p, "strict", 8).status, SPC_OK);
        cr_expect(strstr(noted, "warning: cuda:0: graphs cannot be recorded: "), "%s", noted);
        cr_expect_eq(strstr(noted, "warning: cuda:1: ") != NULL, way == NCCL, "%s", noted);
        close_pair(&p);
    }
    fiber_gpu.no_capture = false;
}

/* Each call by both ranks alike; how many came from graphs. */
static int32_t replayed_alike(const char *what)
{
    int32_t count = 0;

    cr_expect_eq(stand_in.calls[0], stand_in.calls[1], "%s", what);
    for (int32_t i = 0; i < stand_in.calls[0] && i < STAND_IN_CALLS; i++) {
        cr_assert_eq(stand_in.call[0][i].recorded, stand_in.call[1][i].recorded, "%s: %d", what,
                     (int)i);
        count += stand_in.call[0][i].recorded;
    }
    return count;
}

/* NCCL takes no call that one rank recorded and another did not: all go on as the one must. */
Test(cuda_ranks_nccl, what_one_rank_does_not_record_no_rank_replays)
{
    static const struct {
        bool *limit;
        int at_upload;
        const char *said; /* of the device that has the limit, and of no other */
        bool replays;     /* what is recorded otherwise */
    } cases[] = {
        {NULL, 0, NULL, true},
        {&fiber_gpu.no_capture, 0, "graphs cannot be recorded: ", false},
        {&fiber_gpu.no_record, 0, "graphs cannot be recorded: ", false},
        {&fiber_gpu.no_upload, 0, "graphs cannot be recorded: ", false},
        {&fiber_gpu.no_early, 0, "graphs cannot be recorded with programmatic ", true},
        {NULL, 2, NULL, true}, /* once, when all have recorded their sums */
    };
    decoded alone = {.count = 0};

    fiber_gpu.only = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char noted[512] = "";
        const char *told;
        decoded d;
        pair p;

        open_pair(&p, 2, NCCL, true, 10000);
        p.engine->log = note_line;
        p.engine->user = noted;
        memset(stand_in.calls, 0, sizeof stand_in.calls);
        if (cases[i].limit) *cases[i].limit = true;
        fiber_gpu.fails_at_upload = cases[i].at_upload;
        d = decode_rule(&p, "strict", 12);
        if (cases[i].limit) *cases[i].limit = false;
        cr_assert_eq(d.status, SPC_OK, "%zu: %s", i, d.error.message);
        if (i == 0) alone = d;
        cr_assert_eq(d.count, alone.count, "%zu", i);
        cr_expect_arr_eq(d.token, alone.token, (size_t)d.count * sizeof *d.token);
        cr_expect_eq(replayed_alike(noted) > 0, cases[i].replays, "%zu: %s", i, noted);
        cr_expect_eq(fiber_gpu.fails_at_upload, 0, "%zu: it came to that upload", i);
        told = strstr(noted, "warning: cuda:1: ");
        cr_expect_null(strstr(noted, "cuda:0"), "%zu: %s", i, noted);
        if (cases[i].said) {
            cr_assert(told && strstr(told, cases[i].said), "%zu: %s", i, noted);
            cr_expect_null(strstr(told + 1, "warning: "), "%zu: once: %s", i, noted);
        }
        close_pair(&p);
    }
    cr_expect_eq(stand_in.open, 0);
}

/* A rank fails in the middle of a session: its tokens so far stay, and the rest is one line. */
static void expect_failure(int world, int32_t timeout_ms, const char *said)
{
    double begun;
    pair p;
    decoded d;

    open_pair(&p, world, NCCL, false, timeout_ms);
    memset(stand_in.calls, 0, sizeof stand_in.calls);
    begun = ranks_now();
    d = decode_rule(&p, "strict", 30);
    cr_expect_lt(ranks_now() - begun, 20.0, "in time");
    cr_expect_eq(d.finish, SPC_FINISH_FAILED);
    cr_expect_eq(d.status, SPC_EDEVICE);
    cr_expect_gt(d.count, 0, "tokens before that are kept");
    cr_expect(strstr(d.error.message, said), "%s", d.error.message);
    cr_expect_null(strchr(d.error.message, '\n'));
    d = decode_rule(&p, "strict", 30);
    cr_expect_eq(d.status, SPC_EDEVICE, "what failed once is not used again");
    close_pair(&p);
    cr_expect_eq(stand_in.open, 0);
    cr_expect_eq(fiber_gpu.allocations, 0);
}

Test(cuda_ranks_nccl, a_rank_that_dies_ends_the_session_with_one_line)
{
    stand_in.dead = 1;
    stand_in.from = 14;
    stand_in.patience_ms = 2000;
    expect_failure(2, 0, "remote process exited");
}

/* Where launches are plain, and where they come from a graph and its kernel waits on the device. */
Test(cuda_ranks_nccl, a_rank_that_hangs_ends_the_session_within_the_timeout)
{
    stand_in.mute = 1;
    stand_in.patience_ms = 100;
    stand_in.from = 14;
    for (int i = 0; i < 2; i++) {
        stand_in.in_graph = i == 1;
        stand_in.aborted = 0;
        expect_failure(2, 1500, "expected all ranks within 1500 ms");
        cr_expect(!stand_in.in_graph, "it came to a graph");
        cr_expect_eq(stand_in.aborted, 2, "both ranks are let go of");
    }
}

/* The same, where it is not the connection that hangs but the GPU, and all say whose. */
static void expect_name(int hanging, bool in_graph)
{
    char said[96];
    pair p;
    decoded d;
    double begun;

    stand_in.hanging = hanging;
    stand_in.in_graph = in_graph;
    open_pair(&p, 4, NCCL, false, 600);
    memset(stand_in.calls, 0, sizeof stand_in.calls);
    begun = ranks_now();
    d = decode_rule(&p, "strict", 30);
    cr_expect_lt(ranks_now() - begun, 20.0, "in time");
    cr_expect_eq(d.status, SPC_EDEVICE);
    cr_expect_gt(d.count, 0, "tokens before that are kept");
    (void)snprintf(said, sizeof said, "rank %d of 4: nccl: ", hanging);
    cr_expect_eq(strncmp(d.error.message, said, strlen(said)), 0, "%s", d.error.message);
    (void)snprintf(said, sizeof said, "within 600 ms, and the GPU of rank %d hangs: ", hanging);
    cr_expect(strstr(d.error.message, said), "%s", d.error.message);
    cr_expect_null(strchr(d.error.message, '\n'));
    cr_expect(!stand_in.in_graph, "it came to a graph");
    stand_in.hanging = -1;
    close_pair(&p); /* what the hanging one has is not freed, which would wait for it */
    cr_expect_eq(stand_in.open, hanging < 0 ? 0 : 1, "the others are let go of");
}

Test(cuda_ranks_nccl, a_rank_whose_gpu_hangs_is_named_by_all)
{
    stand_in.patience_ms = 100;
    stand_in.from = 14;
    expect_name(2, false);
}

Test(cuda_ranks_nccl, a_rank_whose_gpu_hangs_in_a_graph_is_named_by_all)
{
    stand_in.patience_ms = 100;
    stand_in.from = 14;
    expect_name(3, true);
}

Test(cuda_ranks_nccl, a_rank_that_cannot_join_is_an_engine_that_does_not_open)
{
    spc_backend_ops ops = ops_of(2, NCCL);
    spc_backend *backend;
    spc_error error;
    double begun = ranks_now();

    stand_in.failing_init = 1;
    cr_expect_eq(ops.open(&backend, 0, NULL, &error), SPC_EDEVICE);
    cr_expect_lt(ranks_now() - begun, 20.0, "the other one does not wait for two minutes");
    cr_expect_null(backend);
    cr_expect(strstr(error.message, "rank 1 of 2: nccl: joining the group"), "%s", error.message);
    cr_expect_eq(stand_in.open, 0);
    wanted.library = "libnccl-of-nobody.so.2";
    cr_expect_eq(ops.open(&backend, 0, NULL, &error), SPC_EDEVICE);
    cr_expect(strstr(error.message, "cannot load libnccl-of-nobody.so.2"), "%s", error.message);
}
