/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_backend_group.c - an engine over several processes: every architecture under every
 * strategy gives the bits of ranks that are threads; ranks that differ are told of at the start, or
 * in the middle. */
#include "cut_evenly.h"
#include "forked.h"
#include "golden.h"
#include "narrowed.h"

#include "host/engine.h"
#include "host/ranks/comm.h"

#include <spc/spc.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define DEMO_VERIFIER SPC_SOURCE_DIR "/weights/demo/verifier"
#define DEMO_DRAFTER  SPC_SOURCE_DIR "/weights/demo/drafter"

enum { SESSIONS = 5, TOKENS = 12 };

/* ---- what an engine makes of a prompt ---------------------------------------------------------
 */

static const struct {
    const char *rule;
    float temperature;
    spc_verify_mode verify;
} ways[SESSIONS] = {{"token-v3:alpha=0.5", 0.8f, SPC_VERIFY_TOKEN},
                    {"opt:alpha=0.2", 0.8f, SPC_VERIFY_BLOCK},
                    {"bild-dynamic:rollback=1,fallback=0.02", 0, SPC_VERIFY_TOKEN},
                    {"seq-chow:alpha=0.02", 0.8f, SPC_VERIFY_TOKEN},
                    {"token-chow:alpha=0.02", 0.8f, SPC_VERIFY_TOKEN}};

typedef struct {
    int32_t token[SESSIONS][TOKENS], count[SESSIONS];
    float logits[8]; /* some of the last row */
} outcome;

static const int32_t prompt[] = {5, 9, 3, 7};
enum { PROMPT = sizeof prompt / sizeof *prompt };

static void expect_logits(spc_engine *engine, bool encoder, int32_t vocab, outcome *out)
{
    float *all = malloc((size_t)vocab * PROMPT * sizeof *all);
    spc_error error;

    cr_assert_not_null(all);
    cr_assert_eq(spc_engine_logits(engine, encoder ? prompt : NULL, encoder ? PROMPT : 0, prompt,
                                   PROMPT, all, &error),
                 SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < 8; i++) {
        out->logits[i] = all[(size_t)vocab * (PROMPT - 1) + (size_t)(vocab - 1) * (size_t)i / 7];
    }
    free(all);
}

static void decode(const spc_engine_options *options, outcome *out)
{
    spc_session *session[SESSIONS];
    spc_session_options o;
    spc_engine_facts facts;
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(spc_engine_open(options, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_describe(engine, &facts);
    expect_logits(engine, facts.encoder, facts.vocab, out);
    spc_session_options_init(&o);
    o.max_tokens = TOKENS;
    o.ignore_stop = true;
    o.gamma = 3;
    for (int32_t i = 0; i < SESSIONS; i++) {
        o.seed = (uint64_t)i;
        o.rule = ways[i].rule;
        o.temperature = ways[i].temperature;
        o.verify = ways[i].verify;
        cr_assert_eq(spc_session_open(engine, &o, prompt, PROMPT, &session[i], &error), SPC_OK,
                     "%s: %s", ways[i].rule, error.message);
    }
    for (int32_t step = 0; step < 4 * TOKENS; step++) {
        cr_assert_eq(spc_engine_step(engine, session, SESSIONS, &error), SPC_OK, "%s",
                     error.message);
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        const int32_t *token = spc_session_tokens(session[i], &out->count[i]);

        cr_assert_eq(out->count[i], TOKENS, "%s", ways[i].rule);
        memcpy(out->token[i], token, TOKENS * sizeof *token);
        spc_session_close(session[i]);
    }
    spc_engine_close(engine);
}

static spc_engine_options options_of(const char *verifier, const char *drafter, int32_t drafter_tp)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = verifier;
    o.drafter = drafter;
    o.sessions = SESSIONS + 1;
    o.context = 64;
    o.threads = 1;
    o.drafter_tp = drafter_tp;
    return o;
}

static void decode_in_group(const spc_engine_options *o, int32_t world, outcome *out)
{
    spc_engine_options all[MOST_RANKS];
    group g;

    for (int32_t r = 0; r < world; r++) all[r] = *o;
    start(&g, world, LONG_MS, all);
    decode(&all[0], out);
    expect_all_end_well(&g);
}

static bool fits(const char *path, int32_t world)
{
    spc_bundle *bundle;
    spc_config c;
    spc_error error;

    cr_assert_eq(spc_bundle_open(path, &bundle, &error), SPC_OK);
    cr_assert_eq(spc_config_read(bundle, &c, &error), SPC_OK);
    spc_bundle_close(bundle);
    return is_cut_evenly(&c, world);
}

static void expect_same(const outcome *a, const outcome *b, const char *name, int32_t world,
                        int32_t drafter_tp)
{
    for (int32_t i = 0; i < SESSIONS; i++) {
        cr_expect_arr_eq(a->token[i], b->token[i], sizeof a->token[i],
                         "%s, %d ranks, drafter %d, %s", name, (int)world, (int)drafter_tp,
                         ways[i].rule);
    }
}

/* Each architecture as verifier of itself: drafts are kept and refused, by rules that mix. */
Test(host_backend_group, every_architecture_and_strategy_gives_the_bits_of_threads)
{
    int32_t ran = 0;

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        char path[1024];
        outcome one;

        (void)snprintf(path, sizeof path, "%s/%s", SPC_TEST_VECTORS, golden_models[m]);
        spc_engine_options o = options_of(path, path, 1);

        decode(&o, &one);
        for (int32_t world = 2; world <= MOST_RANKS; world *= 2) {
            int32_t drafter_tp = m % 2 ? 1 : world;
            outcome threads, processes;

            if (!fits(path, world)) continue;
            ran++;
            o = options_of(path, path, drafter_tp);
            o.tp = world;
            decode(&o, &threads);
            o.tp = m % 3 ? world : 0; /* as many as there are processes, said or not */
            decode_in_group(&o, world, &processes);
            expect_same(&processes, &threads, golden_models[m], world, drafter_tp);
            expect_same(&processes, &one, golden_models[m], world, drafter_tp);
            cr_expect_arr_eq(processes.logits, threads.logits, sizeof threads.logits);
            for (int32_t i = 0; i < 8; i++) {
                cr_expect_lt(fabsf(processes.logits[i] - one.logits[i]), 1e-4f);
            }
        }
    }
    cr_expect_gt(ran, GOLDEN_MODELS, "2 ranks for all, 4 for some");
}

/* ---- a drafter that drafts some tokens, sharded ------------------------------------------------
 */

static void decode_demo(const char *drafter_vocab, int32_t world, bool processes, outcome *out)
{
    spc_engine_options o = options_of(DEMO_VERIFIER, DEMO_DRAFTER, world);

    o.drafter_vocab = drafter_vocab;
    o.tp = world;
    if (processes) {
        decode_in_group(&o, world, out);
    } else {
        decode(&o, out);
    }
}

/* Two tiles of ids: tokens of both, and of the first, of which another rank then has none. */
Test(host_backend_group, some_tokens_of_a_sharded_drafter)
{
    const char *path = narrowed_file("4095 4096 6143 5 9 3 7 100 200 300 5000 5001");
    const char *const some[] = {"5000", "3000", path};

    for (int32_t k = 0; k < 3; k++) {
        outcome one, threads, processes;

        decode_demo(some[k], 1, false, &one);
        for (int32_t world = 2; world <= MOST_RANKS; world *= 2) {
            decode_demo(some[k], world, false, &threads);
            decode_demo(some[k], world, true, &processes);
            expect_same(&threads, &one, some[k], world, world);
            expect_same(&processes, &one, some[k], world, world);
            cr_expect_arr_eq(processes.logits, threads.logits, sizeof threads.logits);
        }
    }
    (void)unlink(path);
}

/* ---- ranks that differ ------------------------------------------------------------------------
 */

/* As expect_all_refused, and one of the two messages names a rank. */
static void expect_refused(spc_engine_options *all, const char *text)
{
    refusals said = expect_all_refused(all, text);

    cr_expect(strstr(said.of[0], "rank ") || strstr(said.of[1], "rank "), "a rank is named");
}

static char *path_to(const char *name)
{
    static char path[2][1024];
    static int which;

    which = 1 - which;
    (void)snprintf(path[which], sizeof path[which], "%s/%s", SPC_TEST_VECTORS, name);
    return path[which];
}

/* A copy of a checkpoint in which numbers are others: one of every 16 between these parts of the
 * way through its weights, at least one. */
static void copy_altered(const char *from, const char *to, double first, double last)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char path[1200];

    (void)snprintf(path, sizeof path, "rm -rf %s && mkdir %s", to, to);
    cr_assert_eq(system(path), 0);
    for (int i = 0; i < 2; i++) {
        FILE *in, *out;
        long bytes = 0;
        int c;

        (void)snprintf(path, sizeof path, "%s/%s", from, files[i]);
        cr_assert_not_null(in = fopen(path, "rb"));
        (void)snprintf(path, sizeof path, "%s/%s", to, files[i]);
        cr_assert_not_null(out = fopen(path, "wb"));
        while ((c = fgetc(in)) != EOF) {
            (void)fputc(c, out);
            bytes++;
        }
        (void)fclose(in);
        for (double at = first; i == 1 && at <= last; at += 64.0 / (double)bytes) {
            (void)fseek(out, (long)((double)bytes * at) | 3, SEEK_SET); /* its exponent */
            (void)fputc(0x42, out);
        }
        cr_assert_eq(fclose(out), 0);
    }
}

static void remove_copy(const char *path)
{
    char command[256];

    (void)snprintf(command, sizeof command, "rm -rf %s", path);
    cr_assert_eq(system(command), 0);
}

Test(host_backend_group, what_differs_at_the_start_is_named)
{
    char *llama = path_to("llama"), *qwen = path_to("qwen2");
    spc_engine_options one = options_of(llama, llama, 1), all[2];
    char copy[64];

    (void)snprintf(copy, sizeof copy, "/tmp/spc-test-other-%ld", (long)getpid());
    all[0] = all[1] = one;
    all[1].drafter = NULL;
    expect_refused(all, "drafter-tp 1 and a drafter, rank 1 with");
    all[1] = one;
    all[1].context = 32;
    expect_refused(
        all,
        "context 64, unchanged weights, f32 kv, the CPU, drafter-tp 1 and a drafter, rank 1 with 6 "
        "sessions, context 32");
    all[1] = one;
    all[1].weights = "int8";
    expect_refused(all, "unchanged weights, f32 kv, the CPU, drafter-tp 1 and a drafter, rank 1 "
                        "with 6 sessions, context 64, int8 weights");
    all[1] = one;
    all[1].kv = "bf16";
    expect_refused(all, "unchanged weights, f32 kv, the CPU, drafter-tp 1 and a drafter, rank 1 "
                        "with 6 sessions, context 64, unchanged weights, bf16 kv");
    all[1] = one;
    all[1].kv_tokens = 100;
    expect_refused(all, "context 64, unchanged weights, f32 kv, the CPU, drafter-tp 1 and a "
                        "drafter, rank 1 with 6 sessions, context 64, kv-tokens 100, unchanged");
    all[1] = one;
    all[1].verifier = qwen;
    all[1].drafter = qwen;
    expect_refused(all, "rank 1 has another architecture or configuration than rank 0");
    for (int32_t i = 0; i < 2; i++) {
        all[0] = all[1] = one;
        all[i].drafter_vocab = "100";
        all[1 - i].drafter_vocab = i ? "101" : NULL;
        expect_refused(all, "rank 1 has another drafter-vocab than rank 0 for ");
    }
    all[0] = all[1] = one;
    copy_altered(llama, copy, 0.5, 0.9);
    all[1].verifier = copy;
    expect_refused(all, "rank 1 has other weights than rank 0 for ");
    remove_copy(copy);
    all[1] = one;
    all[1].isa = "portable";
#if defined(__aarch64__)
    all[0].isa = "neon";
    expect_refused(all, "rank 0 computes with neon, rank 1 with portable");
#else
    all[0].isa = "avx2";
    expect_refused(all, "rank 0 computes with avx2, rank 1 with portable");
#endif
    all[0] = all[1] = one;
    all[1].verifier = "/no/such/model";
    expect_refused(all, "/no/such/model: cannot be opened");
    all[0] = all[1] = one;
    all[0].verifier = "/no/such/model";
    expect_refused(all, "/no/such/model: cannot be opened");
}

/* Weights that differ beyond what is compared at the start: the drafters of two ranks then come to
 * other tokens. */
Test(host_backend_group, ranks_that_come_apart_are_told_of)
{
    char copy[64], told[SPC_ERROR_BYTES];
    char *llama = path_to("llama");
    int32_t found = 0, refused = 0;

    (void)snprintf(copy, sizeof copy, "/tmp/spc-test-copy-%ld", (long)getpid());
    for (int32_t try = 1; try < 8; try++) {
        spc_engine_options all[2] = {options_of(llama, llama, 1), options_of(llama, copy, 1)};
        spc_session_options o;
        spc_session *session;
        spc_engine *engine;
        spc_error error;
        spc_status status;
        group g;

        copy_altered(llama, copy, 0.12 * try, 0.12 * try);
        start(&g, 2, LONG_MS, all);
        status = spc_engine_open(&all[0], &engine, &error);
        if (status != SPC_OK) {
            cr_expect(strstr(error.message, "rank 1 has other weights than rank 0"), "%s",
                      error.message);
            (void)finish(&g, 1, told);
            refused++;
            continue;
        }
        spc_session_options_init(&o);
        o.ignore_stop = true;
        o.seed = (uint64_t)try;
        cr_assert_eq(spc_session_open(engine, &o, prompt, PROMPT, &session, &error), SPC_OK);
        while (status == SPC_OK && spc_session_finish(session) == SPC_FINISH_RUNNING) {
            status = spc_session_step(session, &error);
        }
        if (status != SPC_OK) {
            int32_t count;

            found++;
            cr_expect_eq(status, SPC_EDEVICE);
            cr_expect(strstr(error.message, "rank 1 came to other tokens or lengths than rank 0"),
                      "%s", error.message);
            (void)spc_session_tokens(session, &count);
            cr_expect_gt(count, 0, "those so far are kept");
        }
        spc_session_close(session);
        spc_engine_close(engine);
        cr_expect_eq(finish(&g, 1, told), status == SPC_OK ? 0 : 4, "%s", told);
    }
    remove_copy(copy);
    cr_log_info("came apart: %d, refused at the start: %d", (int)found, (int)refused);
    cr_expect_gt(found, 0);
}

/* ---- a rank that is gone ----------------------------------------------------------------------
 */

/* Ask for a verb until it cannot be told any more. */
static spc_status ask_until_it_fails(spc_engine *engine, const char *verb, spc_error *error)
{
    const spc_backend_ops *ops = engine->ops;
    spc_runner *verifier = engine->verifier.runner, *drafter = engine->drafter.runner;
    spc_status status = SPC_OK;

    for (int32_t try = 0; try < 2000 && status == SPC_OK; try++) {
        (void)usleep(1000);
        if (strcmp(verb, "map") == 0) status = ops->map(verifier, 0, NULL, 0, 0, error);
        if (strcmp(verb, "draw") == 0) status = ops->draw(drafter, NULL, 0, 0, error);
        if (strcmp(verb, "gather") == 0) status = ops->gather(verifier, 0, 0, error);
    }
    return status;
}

Test(host_backend_group, what_was_asked_of_a_rank_that_is_gone_is_named)
{
    static const char *const verbs[] = {"map", "draw", "gather"};
    char *llama = path_to("llama");

    for (int i = 0; i < 3; i++) {
        spc_engine_options all[2] = {options_of(llama, llama, 1), options_of(llama, llama, 1)};
        char told[SPC_ERROR_BYTES], said[32];
        spc_engine *engine;
        spc_error error;
        group g;

        start(&g, 2, LONG_MS, all);
        cr_assert_eq(spc_engine_open(&all[0], &engine, &error), SPC_OK, "%s", error.message);
        cr_assert_eq(kill(g.pid[1], SIGKILL), 0);
        cr_expect_eq(finish(&g, 1, told), -SIGKILL);
        cr_expect_eq(ask_until_it_fails(engine, verbs[i], &error), SPC_EDEVICE);
        (void)snprintf(said, sizeof said, ", %s)", verbs[i]);
        cr_expect(strstr(error.message, said), "%s: %s", verbs[i], error.message);
        spc_engine_close(engine);
    }
}

/* ---- rank 0 waits, and others wait for it -----------------------------------------------------
 */

Test(host_backend_group, an_idle_rank_0_is_waited_for_and_a_late_one_is_not)
{
    enum { SHORT_MS = 300 };
    char *llama = path_to("llama"), told[SPC_ERROR_BYTES];
    spc_engine_options all[2] = {options_of(llama, llama, 1), options_of(llama, llama, 1)};
    spc_engine *engine;
    spc_error error;
    outcome out;
    group g;

    start(&g, 2, SHORT_MS, all);
    cr_assert_eq(spc_engine_open(&all[0], &engine, &error), SPC_OK, "%s", error.message);
    (void)usleep(1000 * 3 * SHORT_MS);
    expect_logits(engine, false, 512, &out);
    spc_engine_close(engine);
    cr_expect_eq(finish(&g, 1, told), 0, "%s", told);

    /* rank 0 alone: the others do not come */
    all[0].place = &(spc_place){0, 2, g.meet, SHORT_MS};
    cr_expect_eq(spc_engine_open(&all[0], &engine, &error), SPC_EDEVICE);
    cr_expect(strstr(error.message, "these did not come: rank 1"), "%s", error.message);
    all[0].tp = 3;
    cr_expect_eq(spc_engine_open(&all[0], &engine, &error), SPC_EUSAGE);
    cr_expect_str_eq(error.message, "tp: expected 1 or 2 (one rank in each process), found 3");
    all[0].tp = 0;
    all[0].drafter_tp = 3;
    cr_expect_eq(spc_engine_open(&all[0], &engine, &error), SPC_EUSAGE);
    all[0].drafter_tp = 1;
    all[0].device = "cuda";
    all[0].place = &(spc_place){0, 0, g.meet, SHORT_MS};
    cr_expect_eq(spc_engine_open(&all[0], &engine, &error), SPC_EUSAGE);
    cr_expect_str_eq(error.message, "ranks: expected 1 to 64, found 0");
}
