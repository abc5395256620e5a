/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_ranks.c - models cut over GPU ranks: the logits and tokens of one GPU, verification
 * without gathering logits, and ranks that let the others down.
 *
 * Built twice: against the device, where ranks share it, and over tests/fibers, where they also
 * talk by a stand-in for NCCL that notes every call.
 *
 * Tolerances.  Sums of several ranks round differently than those of one: 1e-4 to the recorded
 * logits as for one GPU, 3e-5 between ranks and one GPU on random models with logits around 1: a
 * cap of 30 leaves the device's own exp2 steps of 2e-6 around 0. */
#include "host/backend_cuda_rank.h"
#include "host/backend_cuda_ranks.h"
#include "host/comm_virtual.h"

#include "distance.h"
#include "golden.h"

#include "decode.h"
#include "tiny.h"

#include "host/device.h"

#include <math.h>
#include <pthread.h>

enum { SHARED, NCCL, WAYS };

#ifdef SPC_STAND_IN
#include "device_ranks.h"
#include "stand_in_nccl.h"

#include <nccl.h>

static const int way_count = WAYS;
#else
#define SPC_STAND_IN NULL

static const int way_count = 1; /* one GPU is enough for no other */
#endif

static const char *const shared_devices[] = {"", "cuda:0", "cuda:0,cuda:0", "",
                                             "cuda:0,cuda:0,cuda:0,cuda:0"};
static spc_cuda_ranks_options wanted;

static spc_status open_wanted(spc_backend **out, int32_t threads, const char *which, spc_error *err)
{
    (void)threads;
    (void)which;
    return spc_cuda_ranks_open(&wanted, out, err);
}

/* One rank is the plain backend, which nothing is added to. */
static spc_backend_ops ops_of(int32_t world, int way)
{
    spc_backend_ops ops = world > 1 ? spc_backend_cuda_ranks : spc_backend_cuda;

#ifdef SPC_TESTS_FIBER_RUNTIME_H
    fiber_gpu.devices = 4;
#endif
    wanted = (spc_cuda_ranks_options){.world = world,
                                      .devices = way == NCCL ? "cuda" : shared_devices[world],
                                      .library = SPC_STAND_IN};
    if (world > 1) ops.open = open_wanted;
    return ops;
}

/* ---- recorded models --------------------------------------------------------------------------
 */

static const char *const models[] = {"llama", "gemma2", "gemma3", "qwen3", "t5-gated"};
enum { MODELS = sizeof models / sizeof *models, FIRST = 5 };

/* A row of logits, put together from those of all ranks. */
static const float *row_of(const golden *g, int32_t output)
{
    spc_error error;

    if (g->ops->gather) {
        cr_assert_eq(g->ops->gather(g->runner, output, 1, &error), SPC_OK, "%s", error.message);
    }
    return g->ops->logits(g->runner, output);
}

/* The recorded continuation, token by token in another slot: its forwards come again. */
static void expect_greedy(const golden *g, const char *name, int32_t count)
{
    int32_t token;

    golden_feed(g, 1, g->prompt, g->prompt_count, 0);
    token = golden_best(row_of(g, g->prompt_count - 1), g->vocab);
    for (int32_t i = 0; i < count && i < g->greedy_count; i++) {
        cr_assert_eq(token, g->greedy[i], "%s: token %d", name, (int)i);
        golden_feed(g, 1, &token, 1, 0);
        token = golden_best(row_of(g, 0), g->vocab);
    }
}

static bool fits(const golden *g, int32_t world)
{
    const spc_config *c = &g->plan->config;

    return c->heads % world == 0 && c->ffn % world == 0 &&
           (c->kv_heads % world == 0 || world % c->kv_heads == 0);
}

/* Logits of the first recorded ids; malloc'd. */
static float *first_rows(const golden *g)
{
    size_t bytes = (size_t)g->vocab * sizeof(float);
    char *all = malloc(FIRST * bytes);

    golden_feed(g, 0, g->ids, FIRST, 0);
    for (int32_t i = 0; i < FIRST; i++) {
        memcpy(all + (size_t)i * bytes, row_of(g, i), bytes);
    }
    return (float *)(void *)all;
}

Test(cuda_ranks, logits_and_tokens_are_those_of_one_gpu, .timeout = 280)
{
    int32_t ran[5] = {0};

    for (int32_t m = 0; m < MODELS; m++) {
        spc_backend_ops alone = ops_of(1, SHARED);
        golden one = golden_open(&alone, models[m]);
        float *expected = first_rows(&one);
        int64_t count = (int64_t)FIRST * one.vocab;

        for (int32_t world = 2; world <= 4; world += 2) {
            int way = (m + world / 2) % way_count; /* each model by both */
            spc_backend_ops ops = ops_of(world, way);

            if (!fits(&one, world)) continue;
            ran[world]++;

            golden g = golden_open(&ops, models[m]);
            float *all = first_rows(&g);

            cr_expect_leq(distance(all, g.logits, (size_t)count), 1e-4f, "%s, %d ranks, way %d",
                          models[m], (int)world, way);
            cr_expect_leq(distance(all, expected, (size_t)count), 3e-5f,
                          "%s, %d ranks, way %d: off by %g", models[m], (int)world, way,
                          (double)distance(all, expected, (size_t)count));
            if (world == 2) expect_greedy(&g, models[m], 3);
            free(all);
            golden_close(&g);
        }
        free(expected);
        golden_close(&one);
    }
    cr_expect(ran[2] == MODELS && ran[4] > 0, "%d, %d", (int)ran[2], (int)ran[4]);
}

/* ---- drawing and verification -----------------------------------------------------------------
 */

/* Two tiles of ids, one of them short: of two ranks each has one, of four two have none. */
static const char wide[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 4110, \"hidden_size\": 32,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"intermediate_size\": 64, \"max_position_embeddings\": 48, \"attention_bias\": true,"
    " \"mlp_bias\": true}";
enum { WIDE_LAYERS = 1, WIDE_DIM = 32, WIDE_CONTEXT = 48, WIDE_SUMS = 1 + 2 * WIDE_LAYERS };

typedef struct {
    tiny_model drafter, verifier;
    spc_backend_ops ops;
    spc_engine *engine;
} pair;

static void open_pair(pair *p, int32_t world, int way, bool drafter_cut, int32_t timeout_ms)
{
    spc_limits limits = spc_engine_limits(2, WIDE_CONTEXT);
    spc_runner *drafter, *verifier;
    spc_backend *backend;
    spc_error error;

    p->drafter = tiny_open(wide, 7, 1);
    p->verifier = tiny_open(wide, 7, 3);
    p->drafter.plan->alone = !drafter_cut;
    p->ops = ops_of(world, way);
    wanted.timeout_ms = timeout_ms;
    cr_assert_eq(p->ops.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(
        p->ops.load(backend, p->verifier.plan, p->verifier.bundle, &limits, &verifier, &error),
        SPC_OK, "%s", error.message);
    cr_assert_eq(
        p->ops.load(backend, p->drafter.plan, p->drafter.bundle, &limits, &drafter, &error), SPC_OK,
        "%s", error.message);
    cr_assert_eq(spc_engine_assemble(&p->ops, backend, drafter, verifier, 4110, WIDE_CONTEXT, 2,
                                     &p->engine, &error),
                 SPC_OK, "%s", error.message);
}

static void close_pair(pair *p)
{
    spc_engine_close(p->engine);
    tiny_close(&p->drafter);
    tiny_close(&p->verifier);
}

static decoded decode_rule(pair *p, const char *rule, int32_t tokens)
{
    spc_session_options o = options_of(rule, 2, 0.9f);
    prompt text = prompt_made(3, 4110, 3);

    o.max_tokens = tokens;
    o.seed = 11;
    o.ignore_stop = true;
    if (strncmp(rule, "token-v3", 8) == 0) o.top_p = 0.8f; /* several exchanges for each row */
    return decode(p->engine, &o, &text);
}

Test(cuda_ranks, sessions_decide_as_on_one_gpu_wherever_the_drafter_runs, .timeout = 280)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.2"};
    static const struct {
        int32_t world;
        int way;
        bool drafter_cut;
        int32_t from, to; /* rules */
    } cases[] = {{2, NCCL, false, 0, 1}, {2, SHARED, true, 1, 3}, {4, NCCL, true, 0, 1}};
    enum { RULES = sizeof rules / sizeof *rules };
    decoded expected[RULES];
    pair p;

    open_pair(&p, 1, SHARED, false, 0);
    for (int32_t i = 0; i < RULES; i++) expected[i] = decode_rule(&p, rules[i], 4);
    close_pair(&p);
    cr_expect_gt(sum_of(expected[0].stats.accepted) + sum_of(expected[1].stats.accepted) +
                     sum_of(expected[2].stats.accepted),
                 0);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        if (cases[k].way >= way_count) continue;
        open_pair(&p, cases[k].world, cases[k].way, cases[k].drafter_cut, 0);
        for (int32_t i = cases[k].from; i < cases[k].to; i++) {
            decoded d = decode_rule(&p, rules[i], 4);

            cr_expect_eq(d.status, SPC_OK, "%s", d.error.message);
            cr_expect(same_tokens(&d, &expected[i]), "%s, case %d", rules[i], (int)k);
            cr_expect_eq(sum_of(d.stats.accepted), sum_of(expected[i].stats.accepted));
        }
        close_pair(&p);
    }
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    cr_expect_eq(fiber_gpu.allocations, 0);
    cr_expect_eq(fiber_gpu.graphs, 0);
    cr_expect(stand_in.open == 0 && stand_in.aborted == 0);
#endif
}

/* ---- ranks that do not agree ------------------------------------------------------------------
 */

/* A rank that runs the verbs by itself, as the processes of a group do. */
typedef struct {
    spc_device_comm *comm;
    tiny_model *model;
    int32_t draft; /* what it believes was drafted */
    spc_status status;
    spc_error error;
    spc_verdict verdict[2];
} process;

static spc_status give_comm(void *user, spc_device_comm **out, spc_error *err)
{
    (void)err;
    *out = user;
    return SPC_OK;
}

/* Two rounds of one draft over the same rows. */
static spc_status run_rounds(process *p, spc_backend *backend, spc_runner **runner, spc_error *err)
{
    static const spc_limits limits = {.slots = 1, .context = WIDE_CONTEXT, .rows = 2, .outputs = 2};
    int32_t slot[] = {0, 0}, token[] = {17, 4100}, position[] = {0, 1}, output[] = {0, 1};
    spc_rows rows = {2, slot, token, position, output};
    spc_row_params params = {.rule = {.kind = SPC_RULE_STRICT}, .sampling = {1, 0, 1, 0}};
    spc_row_stats stats;
    spc_lane lane = {
        .params = &params, .position = 1, .drafts = 1, .draft = &p->draft, .stats = &stats};
    spc_status status =
        spc_backend_cuda.load(backend, p->model->plan, p->model->bundle, &limits, runner, err);

    if (status == SPC_OK) status = spc_backend_cuda.forward(*runner, &rows, err);
    for (int32_t round = 0; round < 2 && status == SPC_OK; round++) {
        int32_t drawn = p->draft;

        status = spc_backend_cuda.draw(*runner, &lane, 1, 0, err); /* for its statistics */
        if (round == 0) p->draft = drawn;
        if (status == SPC_OK) {
            status = spc_backend_cuda.verify(*runner, *runner, &lane, 1, &p->verdict[round], err);
        }
    }
    return status;
}

static void *run_process(void *user)
{
    process *p = user;
    spc_backend *backend;
    spc_runner *runner = NULL;

    p->status = spc_cuda_open_rank("0", give_comm, p->comm, &backend, &p->error);
    if (p->status != SPC_OK) return NULL;
    p->status = run_rounds(p, backend, &runner, &p->error);
    spc_backend_cuda.unload(runner);
    spc_backend_cuda.close(backend);
    return NULL;
}

static void run_processes(process *p, tiny_model *model, const int32_t drafts[2])
{
    spc_device_comm *comm[2];
    pthread_t thread[2];
    spc_error error;

    cr_assert_eq(spc_virtual_open(2, 20000, comm, &error), SPC_OK);
    for (int32_t r = 0; r < 2; r++) {
        p[r] = (process){.comm = comm[r], .model = model, .draft = drafts[r]};
        cr_assert_eq(pthread_create(&thread[r], NULL, run_process, &p[r]), 0);
    }
    for (int32_t r = 0; r < 2; r++) (void)pthread_join(thread[r], NULL);
}

Test(cuda_ranks, ranks_that_verify_other_drafts_are_found)
{
    static const int32_t same[] = {5, 5}, other[] = {5, 6};
    tiny_model model = tiny_open(wide, 7, 1);
    process p[2];

    run_processes(p, &model, same);
    for (int32_t r = 0; r < 2; r++) cr_expect_eq(p[r].status, SPC_OK, "%s", p[r].error.message);
    for (int32_t i = 0; i < 2; i++) {
        cr_expect_gt(p[0].verdict[i].count, 0);
        cr_expect_arr_eq(&p[0].verdict[i], &p[1].verdict[i], sizeof p[0].verdict[i]);
    }
    run_processes(p, &model, other);
    for (int32_t r = 0; r < 2; r++) {
        cr_expect_eq(p[r].status, SPC_EDEVICE);
        cr_expect(strstr(p[r].error.message,
                         "ranks differ: ranks 0 and 1 verify other drafts in round 1"),
                  "%s", p[r].error.message);
    }
    tiny_close(&model);
}

/* ---- what cannot be ---------------------------------------------------------------------------
 */

Test(cuda_ranks, devices_that_cannot_be_are_refused)
{
    static const struct {
        const char *devices;
        int32_t world;
        const char *said;
    } cases[] = {{"cuda:0,cuda:0", 3, "3 of the kind cuda:N"},
                 {"cuda:0,cuda:1,cuda:0", 3, "all different or all the same"},
                 {"cuda:0,cuda:x", 2, "cuda:N"},
                 {"cuda:0,", 2, "cuda:N"},
                 {"cuda:0;cuda:0", 2, "cuda:N"},
                 {"cuda:,cuda:0", 2, "cuda:N"},
                 {"cuda:97,cuda:97", 2, "expected a number of 0 to"},
                 {"cuda", 65, "found 65"},
                 {"cuda", 64, "expected a number of 0 to"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_cuda_ranks_options o = {.world = cases[i].world, .devices = cases[i].devices};
        spc_backend *backend;
        spc_error error;

        cr_expect_eq(spc_cuda_ranks_open(&o, &backend, &error), SPC_EUSAGE);
        cr_expect_null(backend);
        cr_expect(strstr(error.message, cases[i].said), "%s", error.message);
    }
}

Test(cuda_ranks, a_plan_that_cannot_be_cut_is_refused_with_what_can)
{
    spc_backend_ops ops = ops_of(4, SHARED);
    tiny_model model = tiny_open(
        "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 9, \"hidden_size\": 8,"
        " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
        " \"intermediate_size\": 8, \"max_position_embeddings\": 16}",
        1, 1);
    spc_limits limits = {.slots = 1, .context = 16, .rows = 1, .outputs = 1};
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(ops.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_expect_geq(ops.memory(backend, model.plan, &limits), SIZE_MAX / 2);
    cr_expect_eq(ops.load(backend, model.plan, model.bundle, &limits, &runner, &error), SPC_EUSAGE);
    cr_expect_null(runner);
    cr_expect(strstr(error.message, "numbers of ranks that can: 1, 2"), "%s", error.message);
    ops.close(backend);
    tiny_close(&model);
}

Test(cuda_ranks, engines_open_ranks_by_number_or_by_list, .timeout = 280)
{
    spc_engine_options o;
    spc_engine_facts facts;
    spc_engine *engine;
    spc_error error;

    (void)ops_of(2, SHARED);
    spc_engine_options_init(&o);
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    o.context = 32;
    o.device = "cuda:0,cuda:0";
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_describe(engine, &facts);
    cr_expect(strstr(facts.device, "2 ranks on one GPU, the first cuda:0, "), "%s", facts.device);
    spc_engine_close(engine);
    o.tp = 3;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "expected cuda, or 3 of the kind"), "%s", error.message);
    o.tp = 2;
    o.threads = 2;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "threads and isa are the CPU's"), "%s", error.message);
    o.threads = 0;
    o.drafter_tp = 3;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "drafter-tp: expected 1 (the first rank alone) or 2"), "%s",
              error.message);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
/* ---- with the stand-in ------------------------------------------------------------------------
 */

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

Test(cuda_ranks, ranks_take_what_memory_says_and_each_weight_once)
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

Test(cuda_ranks, ranks_make_the_same_calls_and_never_gather_logits)
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

/* An application's ranks, each with a communicator and an engine. */
typedef struct {
    int32_t rank, tp;
    ncclUniqueId id;
    const golden *g;
    decoded decoded;
    spc_status status, chosen; /* of the engine; of a session whose lengths are chosen */
    spc_error error;
} application;

static void *run_application(void *user)
{
    application *a = user;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    char folder[1024], device[16];
    spc_engine_options o;
    spc_engine *engine;
    ncclComm_t comm;
    prompt p = {.count = a->g->prompt_count};
    spc_session_options s = options_of("verifier-only", 0, 0);

    (void)snprintf(folder, sizeof folder, "%s/llama", SPC_TEST_VECTORS);
    (void)snprintf(device, sizeof device, "cuda:%d", (int)a->rank);
    memcpy(p.id, a->g->prompt, (size_t)p.count * sizeof *p.id);
    (void)cudaSetDevice(a->rank);
    (void)ncclCommInitRankConfig(&comm, 2, a->id, a->rank, &config);
    spc_engine_options_init(&o);
    o.verifier = folder;
    o.drafter = NULL;
    o.context = GOLDEN_CONTEXT;
    o.device = device;
    o.nccl_comm = comm;
    o.tp = a->tp;
    s.max_tokens = 3;
    s.ignore_stop = true;
    a->status = spc_engine_open(&o, &engine, &a->error);
    if (a->status == SPC_OK) {
        spc_session *session;

        a->decoded = decode(engine, &s, &p);
        s.gamma = SPC_GAMMA_AUTO;
        a->chosen = spc_session_open(engine, &s, p.id, p.count, &session, &a->error);
        spc_session_close(session);
    }
    spc_engine_close(engine);
    (void)ncclCommDestroy(comm);
    return NULL;
}

static void run_applications(const golden *g, application *a, int32_t tp)
{
    pthread_t thread[2];
    ncclUniqueId id;

    fiber_gpu.devices = 2;
    (void)ncclGetUniqueId(&id);
    for (int32_t r = 0; r < 2; r++) {
        a[r] = (application){.rank = r, .id = id, .g = g, .tp = tp};
        cr_assert_eq(pthread_create(&thread[r], NULL, run_application, &a[r]), 0);
    }
    for (int32_t r = 0; r < 2; r++) (void)pthread_join(thread[r], NULL);
}

Test(cuda_ranks, an_application_brings_its_communicator)
{
    golden g = golden_open(&spc_backend_cpu, "llama");
    application a[2];

    run_applications(&g, a, 0);
    for (int32_t r = 0; r < 2; r++) {
        cr_assert_eq(a[r].status, SPC_OK, "%s", a[r].error.message);
        cr_expect_eq(a[r].decoded.status, SPC_OK, "%s", a[r].decoded.error.message);
        cr_expect_arr_eq(a[r].decoded.token, g.greedy, 3 * sizeof *g.greedy);
        cr_expect_eq(a[r].chosen, SPC_EUNSUPPORTED, "ranks would choose each for itself");
    }
    cr_expect(stand_in.aborted == 0 && stand_in.open == 0);
    run_applications(&g, a, 3);
    cr_expect_eq(a[0].status, SPC_EUSAGE);
    cr_expect(strstr(a[0].error.message, "tp: expected 2, the ranks of the communicator"), "%s",
              a[0].error.message);
    golden_close(&g);
}

/* user: [512], receives lines */
static void note_line(void *user, const char *line)
{
    char *to = user;
    size_t length = strlen(to);

    (void)snprintf(to + length, 512 - length, "%s\n", line);
}

Test(cuda_ranks, what_the_devices_of_ranks_do_not_record_is_told)
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

Test(cuda_ranks, a_rank_that_dies_ends_the_session_with_one_line)
{
    stand_in.dead = 1;
    stand_in.from = 14;
    stand_in.patience_ms = 2000;
    expect_failure(2, 0, "remote process exited");
}

/* Where launches are plain, and where they come from a graph and its kernel waits on the device. */
Test(cuda_ranks, a_rank_that_hangs_ends_the_session_within_the_timeout)
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

Test(cuda_ranks, a_rank_whose_gpu_hangs_is_named_by_all)
{
    stand_in.patience_ms = 100;
    stand_in.from = 14;
    expect_name(2, false);
}

Test(cuda_ranks, a_rank_whose_gpu_hangs_in_a_graph_is_named_by_all)
{
    stand_in.patience_ms = 100;
    stand_in.from = 14;
    expect_name(3, true);
}

Test(cuda_ranks, a_rank_that_cannot_join_is_an_engine_that_does_not_open)
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
#endif
