/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_drafter_ranks.c - a drafter on a device of its own beside a verifier that is cut for
 * ranks, threads or processes: the tokens and counters of the ranks without it, for every rule and
 * in any company; drafts drawn ahead; a drafter that fails or hangs ends all with one message. */
#include "forked.h"
#include "places.h"

#include "host/apart/apart.h"
#include "host/ranks/backend_ranks.h"

#include <math.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum { SHORT_MS = 2000 };

/* ---- ranks that are threads -------------------------------------------------------------------
 */

/* Two tiles of ids, one for each rank. */
Test(host_drafter_ranks, every_rule_gives_the_tokens_of_the_ranks_alone)
{
    compare_rules(WIDE_PAIR, 2, SPC_OVERLAP_ON);
}

/* The other rank has no ids at all. */
Test(host_drafter_ranks, a_rank_without_ids_decides_alike)
{
    compare_rules(ALIKE, 2, SPC_OVERLAP_OFF);
    compare_rules(ALIKE, 2, SPC_OVERLAP_ON);
}

static const way steps[] = {{"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"token-v1:alpha=0.3", 2, 0.7f, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"opt:alpha=0.3", 4, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"strict", 2, 0, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"opt:alpha=0.2", 2, 0.8f, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
                            {"seq-chow:alpha=0.4", 0, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}};
enum { STEPS = sizeof steps / sizeof *steps };

/* Alone and in batches, ending, beginning anew. */
Test(host_drafter_ranks, lives_of_sessions_are_the_same)
{
    life_log all = {0};

    for (int32_t pair = ALIKE; pair <= WIDE_PAIR; pair++) {
        compare_lives(pair, 2, steps, STEPS, 6, &all);
    }
    cr_expect(all.used > 100 && all.drawn > all.used, "%d of %d", (int)all.used, (int)all.drawn);
}

/* ---- ranks that are processes -----------------------------------------------------------------
 */

static spc_engine_options pair_options(const char *verifier, const char *drafter,
                                       const char *drafter_device)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = verifier;
    o.drafter = drafter;
    o.drafter_device = drafter_device;
    o.sessions = 4;
    o.context = 64;
    o.threads = 2;
    return o;
}

static const way ways[] = {{"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                           {"opt:alpha=0.2", 2, 0.8f, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                           {"token-v3:alpha=0.5", 3, 0.8f, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"opt:alpha=0.2", 3, 0.8f, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
                           {"strict", 3, 1, SPC_BONUS_VERIFIER, SPC_VERIFY_BLOCK},
                           {"strict", 3, 0, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                           {"opt-log:alpha=0.1", 3, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"mentored:kl=0.05", 2, 0.8f, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                           {"bild-dynamic:fallback=0.02", 0, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"seq-chow:alpha=0.02", 0, 0.8f, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"token-chow:alpha=0.02", 0, 0.8f, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}};
enum { WAYS = sizeof ways / sizeof *ways, ROUNDS = 8, BATCH = 4 }; /* rounds come first */

typedef struct {
    decoded alone[WAYS], batch[BATCH];
    int64_t drawn, used;
} outcome;

static spc_session_options options_for(const way *w, uint64_t seed)
{
    spc_session_options o = way_options(w, seed);

    o.stop_token_count = 0;
    o.ignore_stop = true;
    o.max_tokens = 16;
    return o;
}

/* Each way by itself, then some together. */
static void work(spc_engine *engine, outcome *out)
{
    static const prompt p = {{5, 9, 3, 7}, 4};
    spc_session *session[BATCH];
    spc_error error;

    out->drawn = out->used = 0;
    for (int32_t i = 0; i < WAYS; i++) {
        spc_session_options o = options_for(&ways[i], (uint64_t)i);

        out->alone[i] = decode(engine, &o, &p);
        cr_expect_eq(out->alone[i].status, SPC_OK, "%s: %s", ways[i].rule,
                     out->alone[i].error.message);
        out->drawn += out->alone[i].stats.drafted_ahead;
        out->used += out->alone[i].stats.ahead_used;
        out->alone[i].stats.drafted_ahead = out->alone[i].stats.ahead_used = 0;
    }
    for (int32_t i = 0; i < BATCH; i++) {
        spc_session_options o = options_for(&ways[i], (uint64_t)i + 100);

        session[i] = open_session(engine, &o, &p);
    }
    for (int32_t step = 0; step < 16; step++) {
        cr_assert_eq(spc_engine_step(engine, session, BATCH, &error), SPC_OK, "%s", error.message);
    }
    for (int32_t i = 0; i < BATCH; i++) {
        out->batch[i] = decoded_of(session[i]);
        out->batch[i].stats.drafted_ahead = out->batch[i].stats.ahead_used = 0; /* of the last */
        spc_session_close(session[i]);
    }
}

static void expect_outcome(const outcome *a, const outcome *b)
{
    for (int32_t i = 0; i < WAYS; i++) expect_same(&a->alone[i], &b->alone[i], ways[i].rule, 1);
    for (int32_t i = 0; i < BATCH; i++) expect_same(&a->batch[i], &b->batch[i], ways[i].rule, 2);
}

static void work_alone(const spc_engine_options *o, outcome *out)
{
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(spc_engine_open(o, &engine, &error), SPC_OK, "%s", error.message);
    work(engine, out);
    spc_engine_close(engine);
}

static void work_in_group(const spc_engine_options *o, int32_t world, outcome *out)
{
    spc_engine_options all[MOST_RANKS];
    group g;

    for (int32_t r = 0; r < world; r++) all[r] = *o;
    start(&g, world, LONG_MS, all);
    work_alone(&all[0], out);
    expect_all_end_well(&g);
}

Test(host_drafter_ranks, processes_give_the_tokens_of_the_ranks_alone, .timeout = 200)
{
    static const struct {
        const char *verifier, *drafter;
        int32_t world;
    } cases[] = {{DEMO_VERIFIER, DEMO_DRAFTER, 2}, /* each has ids */
                 {DEMO_VERIFIER, DEMO_DRAFTER, 4},
                 {SPC_TEST_VECTORS "/llama", SPC_TEST_VECTORS "/llama", 2},
                 {SPC_TEST_VECTORS "/t5-gated", SPC_TEST_VECTORS "/t5-gated", 2}};
    static outcome alone, threads, processes;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_engine_options o = pair_options(cases[i].verifier, cases[i].drafter, NULL);

        o.tp = cases[i].world;
        work_alone(&o, &alone);
        cr_expect_eq(alone.drawn, 0);
        o.drafter_device = "cpu";
        o.overlap = SPC_OVERLAP_ON;
        work_alone(&o, &threads);
        o.tp = 0;
        work_in_group(&o, cases[i].world, &processes);
        expect_outcome(&alone, &threads);
        expect_outcome(&alone, &processes);
        cr_expect(processes.drawn > processes.used && processes.used > 0, "%d of %d",
                  (int)processes.used, (int)processes.drawn);
        cr_expect_eq(processes.drawn, threads.drawn);
    }
}

/* ---- faults -----------------------------------------------------------------------------------
 */

static sem_t let_go;
static int32_t calls_before;
static atomic_int calls, hanging;

/* The drafter's device hangs after so many forwards, until it is let go. */
static spc_status hang(spc_runner *runner, const spc_rows *rows, spc_error *err)
{
    if (calls++ == calls_before) {
        hanging++;
        while (sem_wait(&let_go) != 0) continue;
        hanging--;
    }
    return spc_backend_cpu.forward(runner, rows, err);
}

static spc_status break_off(spc_runner *runner, const spc_rows *rows, spc_error *err)
{
    if (calls++ < calls_before) return spc_backend_cpu.forward(runner, rows, err);
    return spc_error_set(err, SPC_EDEVICE, "cuda:9: forward: it has fallen off the bus");
}

/* Late, when all else is gone: it goes on with what it has. */
static void release(void)
{
    (void)sem_post(&let_go);
    while (hanging > 0) (void)usleep(1000);
    (void)usleep(20000);
}

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Step until the drafter, whose forward is this one, fails; how long the last step took. */
static int64_t step_until(spc_engine *engine, const way *w, const spc_backend_ops *drafter,
                          spc_error *error)
{
    spc_session_options o = options_for(w, 5);
    prompt p = {{5, 9, 3, 7}, 4};
    spc_session *session = open_session(engine, &o, &p);
    spc_status status = SPC_OK;
    int64_t begun = 0;

    calls = 0;
    engine->drafter.runner->ops = drafter;
    while (status == SPC_OK && spc_session_finish(session) == SPC_FINISH_RUNNING) {
        begun = now_ms();
        status = spc_session_step(session, error);
    }
    begun = now_ms() - begun;
    cr_expect_eq(status, SPC_EDEVICE);
    cr_expect_eq(spc_session_step(session, NULL), SPC_EDEVICE, "nothing goes any more");
    spc_session_close(session);
    return begun;
}

/* In the prompt, in the drafts of a round, ahead while the verifier works, and behind a round. */
static const struct {
    way way;
    int32_t calls;
} places[] = {{{"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN}, 0},
              {{"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN}, 5},
              {{"strict", 3, 0, SPC_BONUS_STEP, SPC_VERIFY_TOKEN}, 9},
              {{"opt:alpha=0.2", 3, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}, 4},
              {{"seq-chow:alpha=0.02", 0, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}, 3}};
enum { PLACES = sizeof places / sizeof *places };

static spc_engine_options faulty_options(void)
{
    const char *llama = SPC_TEST_VECTORS "/llama";
    spc_engine_options o = pair_options(llama, llama, "cpu");

    o.overlap = SPC_OVERLAP_ON;
    return o;
}

static void expect_end_of_group(const spc_backend_ops *drafter, int32_t place, int32_t timeout_ms,
                                const char *text)
{
    spc_engine_options all[2] = {faulty_options(), faulty_options()};
    char told[SPC_ERROR_BYTES];
    int64_t begun, took;
    spc_engine *engine;
    spc_error error;
    group g;

    start(&g, 2, timeout_ms, all);
    cr_assert_eq(spc_engine_open(&all[0], &engine, &error), SPC_OK, "%s", error.message);
    calls_before = places[place].calls;
    took = step_until(engine, &places[place].way, drafter, &error);
    cr_expect_lt(took, SHORT_MS + 5000, "place %d", (int)place);
    cr_expect(strstr(error.message, text), "%s", error.message);
    cr_expect_eq(finish(&g, 1, told), 4);
    cr_expect(strncmp(told, "rank 0: ", 8) == 0 && strstr(told, text), "%s", told);
    begun = now_ms();
    spc_engine_close(engine);
    cr_expect_lt(now_ms() - begun, 5000, "to close waits for no device that hangs");
}

Test(host_drafter_ranks, a_drafter_that_hangs_ends_all_within_the_timeout, .timeout = 100)
{
    spc_backend_ops drafter = spc_backend_cpu;

    drafter.forward = hang;
    cr_assert_eq(sem_init(&let_go, 0, 0), 0);
    for (int32_t i = 0; i < PLACES; i++) {
        expect_end_of_group(&drafter, i, SHORT_MS,
                            "drafter-device: expected the drafter on cpu, 1 thread, ");
        cr_expect_eq(hanging, 1);
        release();
    }
}

Test(host_drafter_ranks, a_drafter_that_fails_ends_all_at_once, .timeout = 100)
{
    spc_backend_ops drafter = spc_backend_cpu;

    drafter.forward = break_off;
    for (int32_t i = 0; i < PLACES; i++) {
        expect_end_of_group(&drafter, i, LONG_MS,
                            "drafter-device: cuda:9: forward: it has fallen off the bus");
    }
}

/* Ranks of one process have no others to tell. */
Test(host_drafter_ranks, threads_do_not_wait_for_it_either, .timeout = 100)
{
    spc_backend_ops drafter = spc_backend_cpu;

    cr_assert_eq(sem_init(&let_go, 0, 0), 0);
    for (int32_t i = 0; i < 2 * PLACES; i++) {
        spc_engine_options o = faulty_options();
        spc_engine *engine;
        spc_error error;

        o.tp = 2;
        drafter.forward = i < PLACES ? hang : break_off;
        calls_before = places[i % PLACES].calls;
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        cr_expect_eq(engine->backend->timeout_ms, 120000);
        engine->backend->timeout_ms = SHORT_MS;
        cr_expect_lt(step_until(engine, &places[i % PLACES].way, &drafter, &error),
                     SHORT_MS + 5000);
        cr_expect(strstr(error.message, i < PLACES ? "within 2000 ms" : "drafter-device: cuda:9: "),
                  "%s", error.message);
        spc_engine_close(engine);
        if (i < PLACES) release();
    }
}

/* It may go again, with who knows what in its cache. */
static spc_status break_off_once(spc_runner *runner, const spc_rows *rows, spc_error *err)
{
    if (calls++ != calls_before) return spc_backend_cpu.forward(runner, rows, err);
    return spc_error_set(err, SPC_EDEVICE, "cuda:9: forward: it has fallen off the bus");
}

Test(host_drafter_ranks, nothing_goes_behind_a_drafter_that_failed)
{
    spc_backend_ops drafter = spc_backend_cpu;

    drafter.forward = break_off_once;
    for (int32_t i = 0; i < PLACES; i++) {
        spc_engine_options o = faulty_options();
        spc_session_options so = options_for(&places[i].way, 5);
        prompt p = {{5, 9, 3, 7}, 4};
        spc_session *session;
        spc_engine *engine;
        spc_error error;

        o.tp = 2;
        calls_before = places[i].calls;
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        (void)step_until(engine, &places[i].way, &drafter, &error);
        so.rule = i % 2 ? "verifier-only" : so.rule; /* which needs no drafter */
        session = open_session(engine, &so, &p);
        error.message[0] = '\0';
        cr_expect_eq(spc_session_step(session, &error), SPC_EDEVICE, "place %d", (int)i);
        cr_expect(strstr(error.message, "drafter-device: cuda:9: "), "%s", error.message);
        spc_session_close(session);
        spc_engine_close(engine);
    }
}

static int32_t lost_ids;

/* A device that fails while its rows come to the host leaves none. */
static const float *lose_rows(const spc_runner *runner, int32_t output)
{
    float *row = (float *)(uintptr_t)spc_backend_cpu.logits(runner, output);

    for (int32_t i = 0; calls >= calls_before && i < lost_ids; i++) row[i] = NAN;
    calls++;
    return row;
}

static spc_status tell_loss(spc_runner *runner, int32_t first, int32_t count, spc_error *err)
{
    (void)runner;
    (void)first;
    (void)count;
    if (calls <= calls_before) return SPC_OK;
    return spc_error_set(err, SPC_EDEVICE, "cuda:9: logits: it has fallen off the bus");
}

Test(host_drafter_ranks, no_token_comes_of_rows_that_were_lost)
{
    spc_backend_ops drafter = spc_backend_cpu;

    drafter.logits = lose_rows;
    drafter.gather = tell_loss;
    for (int32_t i = 0; i < 2 * ROUNDS; i++) {
        spc_engine_options o = faulty_options();
        spc_engine *engine;
        spc_error error;

        o.tp = 1 + i % 2;
        calls_before = i % 3;
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        lost_ids = engine->drafter.runner->ids;
        (void)step_until(engine, &ways[i / 2], &drafter, &error);
        cr_expect(strstr(error.message, "cuda:9: logits: it has fallen off the bus"), "%s: %s",
                  ways[i / 2].rule, error.message);
        spc_engine_close(engine);
    }
}

/* The ranks fail once the drafter hangs. */
static spc_status fail_beside(const float *rows, spc_runner *verifier, const spc_lane *lanes,
                              int32_t count, spc_verdict *out, spc_error *err)
{
    for (int32_t ms = 0; ms < 200 && hanging == 0; ms++) (void)usleep(1000);
    if (hanging > 0) return spc_error_set(err, SPC_EDEVICE, "rank 1 is gone");
    return spc_backend_ranks.verify_rows(rows, verifier, lanes, count, out, err);
}

/* While the drafter, ahead of the round, hangs: what came first is told. */
Test(host_drafter_ranks, ranks_that_fail_are_told_before_a_drafter_that_hangs)
{
    spc_backend_ops drafter = spc_backend_cpu, verifier;
    spc_engine_options o = faulty_options();
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(sem_init(&let_go, 0, 0), 0);
    o.tp = 2;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    engine->backend->timeout_ms = SHORT_MS;
    verifier = *engine->verifier.runner->ops;
    verifier.verify_rows = fail_beside;
    engine->verifier.runner->ops = &verifier;
    drafter.forward = hang;
    calls_before = places[2].calls;
    (void)step_until(engine, &places[2].way, &drafter, &error);
    cr_expect_str_eq(error.message, "rank 1 is gone");
    spc_engine_close(engine);
    release();
}

Test(host_drafter_ranks, a_rank_that_is_killed_is_named)
{
    spc_engine_options all[2] = {faulty_options(), faulty_options()};
    char told[SPC_ERROR_BYTES];
    spc_engine *engine;
    spc_error error;
    group g;
    spc_session_options so = options_for(&ways[0], 1);
    prompt p = {{5, 9, 3, 7}, 4};
    spc_session *session;

    start(&g, 2, LONG_MS, all);
    cr_assert_eq(spc_engine_open(&all[0], &engine, &error), SPC_OK, "%s", error.message);
    session = open_session(engine, &so, &p);
    cr_assert_eq(spc_session_step(session, &error), SPC_OK);
    cr_assert_eq(kill(g.pid[1], SIGKILL), 0);
    cr_expect_eq(finish(&g, 1, told), -SIGKILL);
    cr_expect_eq(spc_session_run(session, &error), SPC_EDEVICE);
    cr_expect(strstr(error.message, "rank 1 is gone"), "%s", error.message);
    spc_session_close(session);
    spc_engine_close(engine);
}

/* ---- the start --------------------------------------------------------------------------------
 */

Test(host_drafter_ranks, what_is_wrong_at_the_start_is_told_to_all)
{
    spc_engine_options all[2] = {faulty_options(), faulty_options()};

    all[1].drafter_device = NULL;
    expect_all_refused(all, "drafter-tp 1 and a drafter on cpu, rank 1 with ");
    all[0].drafter_device = all[1].drafter_device = "cuda:77"; /* of which only rank 0 opens it */
    expect_all_refused(all, "drafter-device: ");
    all[0] = all[1] = faulty_options();
    all[0].drafter = "/no/such/model";
    expect_all_refused(all, "/no/such/model: cannot be opened");
}

Test(host_drafter_ranks, threads_are_shared_with_the_drafter)
{
    static const struct {
        int32_t threads;
        const char *device;
    } cases[] = {
        {1, "verifier on 2 ranks, each cpu, 1 thread, portable; drafter on cpu, 1 thread, "},
        {9, "verifier on 2 ranks, each cpu, 3 threads, portable; drafter on cpu, 2 threads, "}};
    spc_engine_facts facts;
    spc_engine *engine;
    spc_error error;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_engine_options o = faulty_options();

        o.tp = 2;
        o.threads = cases[i].threads;
        o.isa = "portable";
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        spc_engine_describe(engine, &facts);
        cr_expect(strstr(facts.device, cases[i].device), "%s", facts.device);
        spc_engine_close(engine);
    }
}

Test(host_drafter_ranks, what_cannot_be_is_refused)
{
    spc_engine_options o = faulty_options();
    spc_engine *engine;
    spc_error error;
    int comm;

    o.tp = o.drafter_tp = 2;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "expected one of them, found cpu and 2"), "%s", error.message);
    o.tp = o.drafter_tp = 0;
    o.device = "cuda";
    o.nccl_comm = &comm;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUNSUPPORTED);
    cr_expect(strstr(error.message, "leave the drafter's device out, or have spc make the ranks"),
              "%s", error.message);
    o = faulty_options();
    o.tp = 3;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "cannot be sharded over 3 ranks"), "%s", error.message);
}
