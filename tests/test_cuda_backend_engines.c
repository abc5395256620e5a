/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend_engines.c - the embedded pair and engines on the CUDA backend, session by
 * session, against the CPU backend.
 *
 * Built twice, with the tolerances of test_cuda_backend.c. */
#include "decode.h"
#include "distance.h"
#include "narrowed.h"

#include "host/device.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <unistd.h>

/* ---- the embedded pair ----------------------------------------------------------------------- */

static const char *const sentence = "<s><2de>The cat sleeps on the old chair.<sep>";

/* An engine over the pair, by either backend; drafter_vocab: as narrow.h has it. */
static spc_engine *pair_engine_by(const spc_backend_ops *ops, int32_t sessions, bool library,
                                  const char *drafter_vocab, spc_model models[2])
{
    static const char *const names[] = {DEMO_DRAFTER, DEMO_VERIFIER};
    spc_limits limits = spc_engine_limits(sessions, 96);
    spc_runner *runner[2];
    spc_backend *backend;
    spc_engine *engine;
    spc_error error;

    limits.library = library;
    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    for (int i = 0; i < 2; i++) {
        memset(&models[i], 0, sizeof models[i]);
        cr_assert_eq(spc_open_model(names[i], &models[i], &error), SPC_OK, "%s", error.message);
        cr_assert_eq(spc_narrow_head(&models[i], i == 0 ? drafter_vocab : NULL, models[i].plan->ids,
                                     NULL, NULL, &error),
                     SPC_OK, "%s", error.message);
        cr_assert_eq(
            ops->load(backend, models[i].plan, models[i].bundle, &limits, &runner[i], &error),
            SPC_OK, "%s", error.message);
    }
    cr_assert_eq(spc_engine_assemble(ops, backend, runner[0], runner[1], models[0].config.vocab, 96,
                                     sessions, &engine, &error),
                 SPC_OK, "%s", error.message);
    cr_assert_eq(spc_open_tokenizer(&models[1], &engine->tokenizer, &error), SPC_OK);
    return engine;
}

static spc_engine *pair_engine(const spc_backend_ops *ops, int32_t sessions, spc_model models[2])
{
    return pair_engine_by(ops, sessions, false, NULL, models);
}

static void close_pair(spc_engine *engine, spc_model models[2])
{
    spc_engine_close(engine);
    for (int i = 0; i < 2; i++) spc_close_model(&models[i]);
}

/* Logits of the verifier for a text of several chunks' worth of strips; malloc'd. */
static float *pair_logits(const spc_backend_ops *ops, bool library, size_t *count)
{
    spc_model models[2];
    spc_engine *engine = pair_engine_by(ops, 4, library, NULL, models);
    prompt p = prompt_made(21, engine->vocab, 3);
    float *logits = malloc((size_t)p.count * (size_t)engine->vocab * sizeof *logits);
    spc_error error;

    *count = (size_t)p.count * (size_t)engine->vocab;
    cr_assert_eq(spc_engine_logits(engine, NULL, 0, p.id, p.count, logits, &error), SPC_OK, "%s",
                 error.message);
    close_pair(engine, models);
    return logits;
}

Test(cuda_backend_engines, the_pair_has_the_logits_of_the_cpu)
{
    size_t count;
    float *cpu = pair_logits(&spc_backend_cpu, false, &count);

    for (int library = 0; library < 2; library++) {
        float *logits = pair_logits(&spc_backend_cuda, library == 1, &count);
        float off = distance(logits, cpu, count);

        cr_expect_leq(off, library ? 5e-3f : 2e-4f, "off by %g", (double)off);
        cr_expect_gt(off, 0.0f, "sums in another order never agree everywhere");
        free(logits);
    }
    free(cpu);
}

Test(cuda_backend_engines, greedy_strict_decoding_is_the_cpu_verifiers_text_for_every_gamma,
     .timeout = 280)
{
    static const int32_t gammas[] = {0, 1, 5};
    spc_model models[2], cpu_models[2];
    spc_engine *cpu = pair_engine(&spc_backend_cpu, 1, cpu_models);
    spc_engine *engine = pair_engine(&spc_backend_cuda, 1, models);
    prompt p = prompt_of(cpu, sentence);
    spc_session_options o = options_of("verifier-only", 0, 0);
    decoded expected;

    o.max_tokens = 7;
    expected = decode(cpu, &o, &p);
    cr_assert_eq(expected.count, 7);
    for (size_t i = 0; i < sizeof gammas / sizeof *gammas; i++) {
        o.rule = "strict";
        o.gamma = gammas[i];
        decoded d = decode(engine, &o, &p);

        cr_expect(same_tokens(&d, &expected), "gamma %d", (int)gammas[i]);
    }
    close_pair(engine, models);
    close_pair(cpu, cpu_models);
}

/* Sampling: the same random numbers over logits that differ in their last bits. */
Test(cuda_backend_engines, sampled_rounds_are_those_of_the_cpu, .timeout = 280)
{
    static const char *const rules[] = {"token-v3:alpha=0.5", "opt:alpha=0.2",
                                        "token-chow:alpha=0.3"};
    spc_model models[2], cpu_models[2];
    spc_engine *cpu = pair_engine(&spc_backend_cpu, 2, cpu_models);
    spc_engine *engine = pair_engine(&spc_backend_cuda, 2, models);
    prompt p = prompt_of(cpu, sentence);

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        spc_session_options o = options_of(rules[i], 4, 1);

        o.top_p = 0.9f;
        o.seed = 7 + i;
        o.max_tokens = 8;

        decoded a = decode(cpu, &o, &p), b = decode(engine, &o, &p);

        cr_expect_eq(b.status, SPC_OK, "%s", b.error.message);
        cr_expect(same_tokens(&a, &b), "%s", rules[i]);
        cr_expect_eq(a.stats.output_hash, b.stats.output_hash);
        cr_expect_eq(sum_of(a.stats.accepted), sum_of(b.stats.accepted));
    }
    close_pair(engine, models);
    close_pair(cpu, cpu_models);
}

/* A drafter whose output layer is cut to some tokens: rows of every kind of layer, and rounds. */
Test(cuda_backend_engines, cut_output_layers_have_the_logits_of_the_cpu)
{
    static const char *const names[] = {"llama", "gemma2", "t5-gated", "gguf/llama-Q8_0.gguf"};
    const char *path = narrowed_file("39 2 3 36 32 31");

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[1024];
        narrowed cpu, device;

        (void)snprintf(name, sizeof name, "%s/%s", SPC_TEST_VECTORS, names[i]);
        cpu = narrowed_rows(&spc_backend_cpu, name, path);
        device = narrowed_rows(&spc_backend_cuda, name, path);
        for (int32_t k = 0; k < NARROWED_ROWS * cpu.ids; k++) {
            const float off = fabsf(device.logits[k] - cpu.logits[k]);

            cr_assert_eq(device.logits[k] == SPC_LOGIT_NEVER, cpu.logits[k] == SPC_LOGIT_NEVER);
            cr_assert_leq(off, 2e-2f, "%s, %d: off by %g", names[i], (int)k, (double)off);
        }
        free(cpu.logits);
        free(device.logits);
    }
    (void)unlink(path);
}

Test(cuda_backend_engines, rounds_of_a_cut_drafter_are_those_of_the_cpu, .timeout = 280)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.2"};
    spc_model models[2], cpu_models[2];
    spc_engine *cpu = pair_engine_by(&spc_backend_cpu, 2, false, "2000", cpu_models);
    spc_engine *engine = pair_engine_by(&spc_backend_cuda, 2, false, "2000", models);
    prompt p = prompt_of(cpu, sentence);

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        spc_session_options o = options_of(rules[i], 3, 1);

        o.seed = 3 + i;
        o.max_tokens = 7;

        decoded a = decode(cpu, &o, &p), b = decode(engine, &o, &p);

        cr_expect_eq(b.status, SPC_OK, "%s", b.error.message);
        cr_expect(same_tokens(&a, &b), "%s", rules[i]);
        cr_expect_eq(sum_of(a.stats.accepted), sum_of(b.stats.accepted));
    }
    close_pair(engine, models);
    close_pair(cpu, cpu_models);
}

/* ---- engines --------------------------------------------------------------------------------- */

Test(cuda_backend_engines, engines_open_where_they_are_told)
{
    static const struct {
        const char *device;
        int32_t threads;
        const char *begins;
    } cases[] = {{NULL, 0, "cpu, "},     {"cpu", 2, "cpu, "},     {"auto", 0, "cuda:0, "},
                 {"auto", 1, "cpu, 1 "}, {"cuda", 0, "cuda:0, "}, {"cuda:0", 0, "cuda:0, "}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_engine_options o;
        spc_engine_facts facts;
        spc_engine *engine;
        spc_error error;

        spc_engine_options_init(&o);
        o.threads = cases[i].threads;
        cr_assert_eq(open_demo_on(cases[i].device, &o, &engine, &error), SPC_OK, "%s",
                     error.message);
        spc_engine_describe(engine, &facts);
        cr_expect(strncmp(facts.device, cases[i].begins, strlen(cases[i].begins)) == 0, "%s",
                  facts.device);
        spc_engine_close(engine);
    }
}

Test(cuda_backend_engines, options_of_a_gpu_are_taken)
{
    for (int i = 0; i < 2; i++) {
        spc_engine_options o;
        spc_engine *engine;
        spc_error error;

        spc_engine_options_init(&o);
        if (i == 0) o.overlap = SPC_OVERLAP_ON;
        if (i == 1) o.plain_launches = true;
        cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
        cr_expect_str_eq(engine->ops->name, "cuda");
        spc_engine_close(engine);
    }
}

/* Drafts, caches and verdicts up to the last position. */
Test(cuda_backend_engines, a_session_ends_at_its_context_as_on_the_cpu)
{
    static const char *const devices[] = {"cpu", "cuda"};
    decoded d[2];

    for (int i = 0; i < 2; i++) {
        spc_engine_options o;
        spc_engine *engine;
        spc_error error;
        spc_session_options s = options_of("token-v3:alpha=0.3", 3, 1);
        prompt p = prompt_made(10, 6000, 11);

        s.ignore_stop = true;
        s.seed = 5;
        spc_engine_options_init(&o);
        o.context = 19;
        cr_assert_eq(open_demo_on(devices[i], &o, &engine, &error), SPC_OK, "%s", error.message);
        d[i] = decode(engine, &s, &p);
        spc_engine_close(engine);
    }
    cr_expect_eq(d[1].finish, SPC_FINISH_CONTEXT);
    cr_expect_eq(d[1].count, 19 - 10);
    cr_expect(same_tokens(&d[0], &d[1]));
}

/* Five pages for three sessions of three: two have the first page in common, the third waits. */
Test(cuda_backend_engines, sessions_share_pages_and_wait_for_them)
{
    enum { SESSIONS = 3 };
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    spc_session *session[SESSIONS];
    spc_session_options s = options_of("token-v3:alpha=0.3", 2, 1);
    prompt p[SESSIONS];
    decoded alone[SESSIONS], d;

    s.ignore_stop = s.wait = true;
    s.max_tokens = 3;
    for (int32_t i = 0; i < SESSIONS; i++) {
        p[i] = prompt_made(20, 6000, 11);
        p[i].id[18] = 50 + i;
    }
    spc_engine_options_init(&o);
    o.context = 64;
    o.no_prefix_reuse = true;
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < SESSIONS; i++) alone[i] = decode(engine, &s, &p[i]);
    spc_engine_close(engine);

    o.no_prefix_reuse = false;
    o.sessions = SESSIONS;
    o.kv_tokens = 5 * SPC_PAGE_TOKENS;
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    session[0] = open_session(engine, &s, &p[0]);
    cr_assert_eq(spc_session_step(session[0], &error), SPC_OK, "%s", error.message);
    session[1] = open_session(engine, &s, &p[1]);
    session[2] = open_session(engine, &s, &p[2]);
    cr_expect(!spc_session_waits(session[1]) && spc_session_waits(session[2]));
    for (int32_t step = 0; step < 8; step++) {
        cr_assert_eq(spc_engine_step(engine, session, SESSIONS, &error), SPC_OK, "%s",
                     error.message);
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        d = decoded_of(session[i]);
        cr_expect(same_tokens(&d, &alone[i]), "session %d", (int)i);
        cr_expect_eq(d.stats.reused_tokens, i == 0 ? 0 : SPC_PAGE_TOKENS);
        spc_session_close(session[i]);
    }
    spc_engine_close(engine);
}

/* Sessions of other rules, prompts and lengths, joining and leaving, against each by itself. */
Test(cuda_backend_engines, sessions_say_the_same_in_company_as_alone)
{
    static const char *const rules[] = {"opt:alpha=0.2", "strict", "drafter-only"};
    enum { SESSIONS = sizeof rules / sizeof *rules };
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    spc_session *session[SESSIONS] = {NULL};
    decoded alone[SESSIONS], d;
    prompt p[SESSIONS];
    spc_session_options s[SESSIONS];
    int32_t running = 0;

    spc_engine_options_init(&o);
    o.sessions = SESSIONS;
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < SESSIONS; i++) {
        p[i] = prompt_made(2 + 5 * i, 6000, 20 + (uint32_t)i);
        s[i] = options_of(rules[i], 1 + i, 1);
        s[i].seed = (uint64_t)i;
        s[i].max_tokens = 4 - i;
        s[i].ignore_stop = true;
        alone[i] = decode(engine, &s[i], &p[i]);
    }
    for (int32_t step = 0; step < SESSIONS || running > 0; step++) {
        spc_session *now[SESSIONS];

        if (step < SESSIONS) session[step] = open_session(engine, &s[step], &p[step]);
        running = 0;
        for (int32_t i = 0; i < SESSIONS; i++) {
            if (session[i]) now[running++] = session[i];
        }
        cr_assert_eq(spc_engine_step(engine, now, running, &error), SPC_OK, "%s", error.message);
        for (int32_t i = 0; i < SESSIONS; i++) {
            if (!session[i] || spc_session_finish(session[i]) == SPC_FINISH_RUNNING) continue;
            d = decoded_of(session[i]);
            cr_expect(same_tokens(&d, &alone[i]), "%s", rules[i]);
            spc_session_close(session[i]);
            session[i] = NULL;
            running--;
        }
    }
    spc_engine_close(engine);
}

/* How often an engine for one session runs its models over parts of a prompt that no round has. */
static int64_t pieces_of(const char *device, const char *drafter_device, decoded *d)
{
    enum { PROMPT = 120 };
    spc_session_options o = options_of("strict", 2, 0);
    spc_engine_options eo;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&eo);
    eo.verifier = eo.drafter = SPC_TEST_VECTORS "/llama";
    eo.device = device;
    eo.drafter_device = drafter_device;
    cr_assert_eq(spc_engine_open(&eo, &engine, &error), SPC_OK, "%s", error.message);
    prompt p = prompt_made(PROMPT, engine->vocab, 4);

    o.max_tokens = 4;
    *d = decode(engine, &o, &p);
    spc_engine_close(engine);
    return d->stats.prefill_calls;
}

/* To read all weights takes a GPU longer than to compute what a CPU takes at a time. */
Test(cuda_backend_engines, a_gpu_takes_a_prompt_in_larger_pieces_than_a_cpu, .timeout = 120)
{
    decoded cpu, one, apart;

    cr_expect_eq(pieces_of("cpu", NULL, &cpu), 2, "each model one");
    cr_expect_eq(pieces_of("cuda", NULL, &one), 0);
    cr_expect_eq(pieces_of("cuda", "cpu", &apart), 0);
    cr_expect(same_tokens(&one, &cpu) && same_tokens(&apart, &cpu));
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
static size_t room(void)
{
    size_t bytes, total;

    cr_assert_eq(cudaMemGetInfo(&bytes, &total), cudaSuccess);
    return bytes;
}

/* What is free on a real device is not this process's alone: other tests run beside it. */
Test(cuda_backend_engines, a_thousand_sessions_leave_nothing_behind)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    spc_session_options s = options_of("strict", 1, 0);
    prompt p = {{1, 5, 9}, 3};
    const spc_backend_ops *ops;
    spc_backend *backend;
    size_t before, warm;

    cr_assert_eq(spc_device_open("cuda", 0, NULL, NULL, NULL, &ops, &backend, &error), SPC_OK);
    before = room();
    spc_engine_options_init(&o);
    cr_assert_eq(open_demo_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    cr_expect_lt(room(), before);
    s.max_tokens = 1;
    for (int32_t i = 0; i < 2; i++) (void)decode(engine, &s, &p);
    warm = room();
    for (int32_t i = 0; i < 1000; i++) spc_session_close(open_session(engine, &s, &p));
    (void)decode(engine, &s, &p);
    cr_expect_lt(warm - room() + 0x40000, 0x80000, "256 bytes a session");
    spc_engine_close(engine);
    cr_expect_gt(room(), warm);
    ops->close(backend);
}

Test(cuda_backend_engines, a_device_that_fails_in_any_launch_ends_the_session_and_is_closed)
{
    spc_model models[2];
    spc_engine *engine = pair_engine(&spc_backend_cuda, 1, models);
    spc_session_options o = options_of("token-v3:alpha=0.5", 2, 1);
    prompt p = {{1, 5, 9}, 3};
    int32_t allocations = fiber_gpu.allocations;

    static const int32_t launches[] = {0, 1, 40, 130};

    for (size_t i = 0; i < sizeof launches / sizeof *launches; i++) {
        fiber_gpu.fails_after = fiber_gpu.launches + launches[i];
        decoded d = decode(engine, &o, &p);

        cr_expect_eq(d.finish, SPC_FINISH_FAILED);
        cr_expect_eq(d.status, SPC_EDEVICE, "%s", d.error.message);
        cr_expect(strstr(d.error.message, "cuda:0: "), "%s", d.error.message);
        fiber_gpu.fails_after = -1;
        d = decode(engine, &o, &p);
        cr_expect_eq(d.status, SPC_EDEVICE, "what failed once is not used again");
        cr_expect_eq(fiber_gpu.allocations, allocations);
        close_pair(engine, models);
        engine = pair_engine(&spc_backend_cuda, 1, models);
    }
    close_pair(engine, models);
    cr_expect_eq(fiber_gpu.allocations, 0);
    cr_expect_eq(fiber_gpu.graphs, 0);
}

Test(cuda_backend_engines, steps_take_no_memory)
{
    spc_model models[2];
    spc_engine *engine = pair_engine(&spc_backend_cuda, 2, models);
    spc_session_options o = options_of("strict", 2, 1);
    prompt p = {{1, 5, 9}, 3};
    int32_t allocations = fiber_gpu.allocations;
    size_t used = fiber_gpu.used;

    o.max_tokens = 4;
    for (int32_t i = 0; i < 3; i++) (void)decode(engine, &o, &p);
    cr_expect_eq(fiber_gpu.allocations, allocations);
    cr_expect_eq(fiber_gpu.most_used, used);
    close_pair(engine, models);
}

/* Stacks as large as those of kernels that decide at length. */
Test(cuda_backend_engines, steps_find_the_stacks_they_need)
{
    spc_model models[2];
    spc_engine *engine;
    spc_session_options o = options_of("strict", 2, 1);
    prompt p = {{1, 5, 9}, 3};
    size_t used = fiber_gpu.used;

    fiber_gpu.needs = 4096;
    o.max_tokens = 4;
    engine = pair_engine(&spc_backend_cuda, 2, models);
    cr_expect_eq(fiber_gpu.stack, 4096);
    cr_expect_geq(fiber_gpu.used, used + (4096 - 1024) * (size_t)FIBER_RESIDENT);
    (void)decode(engine, &o, &p);
    cr_expect_eq(fiber_gpu.growths, 0);
    close_pair(engine, models);
}

Test(cuda_backend_engines, stacks_are_counted_when_a_device_is_opened_and_larger_ones_are_left)
{
    spc_backend *backend;
    spc_error error;

    fiber_gpu.needs = 800;
    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_expect_eq(spc_backend_cuda.stacks(backend), 800 * (size_t)FIBER_RESIDENT);
    cr_expect_eq(fiber_gpu.stack, 1024);
    cr_expect_eq(fiber_gpu.used, 0);
    spc_backend_cuda.close(backend);
}

Test(cuda_backend_engines, a_device_without_room_for_stacks_is_refused)
{
    spc_backend *backend;
    spc_error error;

    fiber_gpu.needs = 4096;
    fiber_gpu.memory = 1 << 20;
    cr_expect_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_ENOMEM);
    cr_expect_null(backend);
    cr_expect(strstr(error.message, "stacks, 8 MiB on this device"), "%s", error.message);
}
#endif
