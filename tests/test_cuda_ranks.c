/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_ranks.c - models cut over GPU ranks: the logits and tokens of one GPU, ranks that do
 * not agree, devices and plans that cannot be.
 *
 * Built twice: against the device, where ranks share it, and over tests/fibers, where they also
 * talk by a stand-in for NCCL that notes every call.
 *
 * Tolerances.  Sums of several ranks round differently than those of one: 1e-4 to the recorded
 * logits as for one GPU, 3e-5 between ranks and one GPU on random models with logits around 1. The
 * device's own exp2 errs by 2^-22, which a cap of 50 makes 6e-6 of every score in attention and one
 * of 30 makes 4e-6 of every logit: 1e-4. */
#include "rank_pair.h"

#include "host/gpu/backend_cuda_rank.h"
#include "host/ranks/comm_virtual.h"

#include "cut_evenly.h"
#include "distance.h"
#include "golden.h"
#include "narrowed.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

#ifdef SPC_EXACT_EXP2
#define RANKS_TOLERANCE 3e-5f
#else
#define RANKS_TOLERANCE 1e-4f
#endif

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

            if (!is_cut_evenly(&one.plan->config, world)) continue;
            ran[world]++;

            golden g = golden_open(&ops, models[m]);
            float *all = first_rows(&g);

            cr_expect_leq(distance(all, g.logits, (size_t)count), 1e-4f, "%s, %d ranks, way %d",
                          models[m], (int)world, way);
            cr_expect_leq(distance(all, expected, (size_t)count), RANKS_TOLERANCE,
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

/* ---- blocks that ranks share ------------------------------------------------------------------
 */

enum { CUT_ROWS = FIRST + 3 };

typedef struct {
    int32_t token[CUT_ROWS];
    float *logits; /* [CUT_ROWS, ids] */
} cut_text;

static void feed(const spc_backend_ops *ops, spc_runner *runner, cut_text *text, int32_t from,
                 int32_t to, int32_t ids)
{
    int32_t slot[CUT_ROWS] = {0}, place[CUT_ROWS], output[CUT_ROWS];
    spc_rows rows = {to - from, slot, text->token + from, place, output};
    spc_error error;

    for (int32_t i = 0; i < rows.count; i++) {
        place[i] = from + i;
        output[i] = i;
    }
    cr_assert_eq(ops->forward(runner, &rows, &error), SPC_OK, "%s", error.message);
    if (ops->gather) {
        cr_assert_eq(ops->gather(runner, 0, rows.count, &error), SPC_OK, "%s", error.message);
    }
    for (int32_t i = 0; i < rows.count; i++) {
        memcpy(text->logits + (size_t)(from + i) * (size_t)ids, ops->logits(runner, i),
               (size_t)ids * sizeof(float));
    }
}

/* A few tokens, and what follows them greedily. */
static cut_text cut_text_of(const spc_backend_ops *ops, const spc_model *model)
{
    static const spc_limits limits = {.slots = 1, .context = 16, .rows = 8, .outputs = FIRST};
    int32_t ids = model->plan->ids;
    cut_text text = {{1, 17, 5, 30, 8}, malloc(CUT_ROWS * (size_t)ids * sizeof(float))};
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_not_null(text.logits);
    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(ops->load(backend, model->plan, model->bundle, &limits, &runner, &error), SPC_OK,
                 "%s", error.message);
    feed(ops, runner, &text, 0, FIRST, ids);
    for (int32_t i = FIRST; i < CUT_ROWS; i++) {
        text.token[i] = golden_best(text.logits + (size_t)(i - 1) * (size_t)ids, ids);
        feed(ops, runner, &text, i, i + 1, ids);
    }
    ops->unload(runner);
    ops->close(backend);
    return text;
}

/* Heads end inside blocks of 256 and of 32, of which one has 24; columns of four ranks inside three
 * blocks of 256. */
Test(cuda_ranks, a_block_that_two_ranks_share_counts_once, .timeout = 280)
{
    static const char *const names[] = {SPC_TEST_VECTORS "/gguf/cut-K.gguf",
                                        SPC_TEST_VECTORS "/gguf/llama-Q8_0.gguf",
                                        SPC_TEST_VECTORS "/gguf/odd-K.gguf"};

    for (int m = 0; m < 3; m++) {
        spc_backend_ops alone = ops_of(1, SHARED);
        spc_model model = {.plan = NULL};
        spc_error error;
        cut_text one;

        cr_assert_eq(spc_open_model(names[m], &model, &error), SPC_OK, "%s", error.message);
        one = cut_text_of(&alone, &model);
        for (int32_t world = 2; world <= 4; world += 2) {
            spc_backend_ops ops = ops_of(world, (m + world / 2) % way_count);
            cut_text all = cut_text_of(&ops, &model);
            float off =
                relative_distance(all.logits, one.logits, CUT_ROWS * (size_t)model.plan->ids);

            cr_expect_leq(off, 3e-5f, "%s, %d ranks: off by %g", names[m], (int)world, (double)off);
            cr_expect_arr_eq(all.token, one.token, sizeof one.token, "%s, %d ranks", names[m],
                             (int)world);
            free(all.logits);
        }
        free(one.logits);
        spc_close_model(&model);
    }
}

/* ---- some tokens ------------------------------------------------------------------------------
 */

static const char *const some_tokens = "4109 4096 4097 4095 17 2 300 301 302 1000 3333";

/* Each rank leaves those of its slice, and of the others there that they are never drafted. */
Test(cuda_ranks, rows_of_some_tokens_are_those_of_one_gpu, .timeout = 280)
{
    const char *path = narrowed_file(some_tokens);
    spc_backend_ops alone = ops_of(1, SHARED);
    tiny_model tiny = tiny_open(wide, 7, 1);
    spc_model model = {.plan = tiny.plan, .bundle = tiny.bundle, .config = tiny.config};
    const int32_t count = CUT_ROWS * tiny.plan->ids;
    spc_error error;
    cut_text one;

    cr_assert_eq(spc_narrow_head(&model, path, tiny.plan->ids, NULL, NULL, &error), SPC_OK);
    one = cut_text_of(&alone, &model);
    for (int32_t world = 2; world <= 4; world += 2) {
        spc_backend_ops ops = ops_of(world, world / 2 % way_count);
        cut_text all = cut_text_of(&ops, &model);
        int32_t drafted = 0;

        for (int32_t i = 0; i < count; i++) {
            const float want = one.logits[i], got = all.logits[i];

            cr_assert(want == SPC_LOGIT_NEVER ? got == want : fabsf(got - want) < RANKS_TOLERANCE,
                      "%d ranks, token %d: %g, want %g", (int)world, (int)(i % tiny.plan->ids),
                      (double)got, (double)want);
            drafted += want != SPC_LOGIT_NEVER;
        }
        cr_expect_eq(drafted, CUT_ROWS * tiny.plan->drafted);
        free(all.logits);
    }
    free(one.logits);
    tiny_close(&tiny);
    (void)unlink(path);
}

/* ---- drawing and verification -----------------------------------------------------------------
 */

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

/* Of two ranks the second drafts none of the first tokens, of four only one some of them. */
Test(cuda_ranks, a_sharded_drafter_of_some_tokens_decides_as_on_one_gpu, .timeout = 280)
{
    static const char *const rules[] = {"token-v3:alpha=0.5", "opt:alpha=0.2",
                                        "seq-chow:alpha=0.02"};
    const char *path = narrowed_file(some_tokens);
    const struct {
        const char *some;
        int32_t world;
        int way, from, to; /* rules */
    } cases[] = {{"2000", 2, SHARED, 0, 2}, {"4000", 4, NCCL, 1, 2}, {path, 2, NCCL, 2, 3}};
    int64_t accepted = 0;

    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        pair p;

        if (cases[k].way >= way_count) continue;
        for (int32_t i = cases[k].from; i < cases[k].to; i++) {
            decoded one, all;

            open_pair_of(&p, 1, SHARED, false, cases[k].some, 0);
            one = decode_rule(&p, rules[i], 4);
            close_pair(&p);
            open_pair_of(&p, cases[k].world, cases[k].way, true, cases[k].some, 0);
            all = decode_rule(&p, rules[i], 4);
            close_pair(&p);
            cr_expect_eq(all.status, SPC_OK, "%s", all.error.message);
            cr_expect(same_tokens(&all, &one), "%s, case %d", rules[i], (int)k);
            cr_expect_eq(sum_of(all.stats.accepted), sum_of(one.stats.accepted));
            accepted += sum_of(one.stats.accepted);
        }
    }
    cr_expect_gt(accepted, 0);
    (void)unlink(path);
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
    cr_expect(strstr(error.message, "possible: 1, 2"), "%s", error.message);
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
