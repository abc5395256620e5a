/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_drafter_device.c - drafter and verifier on two CPU devices: the tokens and counters of
 * one, for every rule and in any company; drafts drawn ahead while the verifier works; what cannot
 * be is refused. */
#include "places.h"
#include "spawn.h"

#include "host/apart/apart.h"

#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <time.h>

/* ---- every rule ---- */

Test(host_drafter_device, every_rule_gives_the_tokens_of_one_device)
{
    compare_rules(0, 1, SPC_OVERLAP_OFF);
}

Test(host_drafter_device, so_it_does_with_drafts_drawn_ahead)
{
    compare_rules(0, 1, SPC_OVERLAP_ON);
}

Test(host_drafter_device, models_with_an_encoder_too)
{
    compare_rules(1, 1, SPC_OVERLAP_ON);
}

/* ---- ahead ---- */

static const way steps[] = {{"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"token-v1:alpha=0.3", 2, 0.7f, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"opt:alpha=0.3", 4, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"strict", 2, 0, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                            {"strict", 3, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}};
enum { STEPS = sizeof steps / sizeof *steps };

Test(host_drafter_device, what_was_drawn_ahead_serves_its_own_round_alone)
{
    life_log all = {0};

    for (int32_t pair = 0; pair <= ALIKE; pair += ALIKE) {
        compare_lives(pair, 1, steps, STEPS, 12, &all);
    }
    cr_expect(all.used > 200 && all.drawn > all.used, "%d of %d", (int)all.used, (int)all.drawn);
}

/* A session takes over the slot of another with all its caches hold, but not its seed. */
Test(host_drafter_device, drafts_are_of_their_own_session)
{
    spc_engine *engine[2]; /* one device, two */
    spc_engine_options o;
    spc_error error;
    int32_t taken = 0;

    spc_engine_options_init(&o);
    o.context = 64;
    o.threads = 2;
    cr_assert_eq(spc_engine_open(&o, &engine[0], &error), SPC_OK, "%s", error.message);
    o.drafter_device = "cpu";
    o.overlap = SPC_OVERLAP_ON;
    cr_assert_eq(spc_engine_open(&o, &engine[1], &error), SPC_OK, "%s", error.message);
    for (uint64_t seed = 1; taken < 3 && seed < 20; seed++) {
        prompt p = prompt_made(3, 4000, (uint32_t)seed);
        spc_session_options first = options_of("lossy:alpha=0.9", 3, 1), next = first;
        spc_session *session;
        const spc_ahead *ahead = &engine[1]->drafter.runner->ahead;
        decoded d[2];

        first.bonus = next.bonus = SPC_BONUS_STEP;
        first.ignore_stop = next.ignore_stop = true;
        first.seed = seed;
        next.seed = seed + 100;
        session = open_session(engine[1], &first, &p);
        while (session->finish == SPC_FINISH_RUNNING &&
               !(ahead->count > 0 && ahead->length == session->length &&
                 session->length % SPC_PAGE_TOKENS == 1)) {
            cr_assert_eq(spc_session_step(session, &error), SPC_OK);
        }
        taken += session->finish == SPC_FINISH_RUNNING;
        p.count = session->length < 40 ? session->length : 40;
        memcpy(p.id, session->token, (size_t)p.count * sizeof *p.id);
        spc_session_close(session);
        for (int32_t i = 0; i < 2; i++) d[i] = decode(engine[i], &next, &p);
        cr_expect(same_tokens(&d[0], &d[1]), "seed %d", (int)seed);
    }
    cr_expect_eq(taken, 3);
    for (int32_t i = 0; i < 2; i++) spc_engine_close(engine[i]);
}

/* The row of one token is NaN, in one model or the other. */
Test(host_drafter_device, a_bad_row_is_told_where_it_is_met)
{
    enum { BROKEN = 5 };
    int32_t failed = 0;

    for (int32_t in_drafter = 0; in_drafter < 2; in_drafter++) {
        for (uint64_t seed = 0; seed < 6; seed++) {
            decoded d[2];

            for (int32_t i = 0; i < 2; i++) {
                placed p = open_placed(ALIKE, "cpu", i ? "cpu" : NULL,
                                       i ? SPC_OVERLAP_ON : SPC_OVERLAP_OFF);
                const tiny_model *tiny = in_drafter ? &p.drafter : &p.verifier;
                const spc_weight *w = &tiny->plan->weight[tiny->plan->op[0].weight[0]];
                const spc_tensor *t = spc_bundle_find(tiny->bundle, w->name);
                spc_session_options o = way_options(&steps[seed % 3], seed);
                prompt q = {{3, 4}, 2};

                for (int32_t k = 0; k < w->cols; k++) { /* read where it is mapped */
                    ((float *)(uintptr_t)t->data)[BROKEN * w->cols + k] = NAN;
                }
                o.max_tokens = 20;
                o.ignore_stop = true;
                d[i] = decode(p.engine, &o, &q);
                close_placed(&p);
            }
            cr_expect(same_tokens(&d[0], &d[1]));
            cr_expect_str_eq(d[0].error.message, d[1].error.message);
            failed += d[1].status == SPC_ENUMERIC;
        }
    }
    cr_expect_gt(failed, 6, "token %d should be met: %d", BROKEN, (int)failed);
}

/* ---- at the same time ---- */

static sem_t begun[APART_SIDES];
static int32_t drafter_forwards;

/* Both wait until the other has begun. */
static spc_status meet(apart_side side, spc_error *err)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    (void)sem_post(&begun[side]);
    while (sem_timedwait(&begun[APART_SIDES - 1 - side], &until) != 0) {
        if (errno == EINTR) continue;
        return spc_error_set(err, SPC_EINTERNAL, "side %d waits in vain", (int)side);
    }
    return SPC_OK;
}

static spc_status verifier_meets(spc_runner *runner, const spc_rows *rows, spc_error *err)
{
    spc_status status = meet(APART_VERIFIER, err);

    return status == SPC_OK ? spc_backend_cpu.forward(runner, rows, err) : status;
}

/* The first forward is the round's own draft, the second one that is ahead. */
static spc_status drafter_meets(spc_runner *runner, const spc_rows *rows, spc_error *err)
{
    spc_status status = drafter_forwards++ == 1 ? meet(APART_DRAFTER, err) : SPC_OK;

    return status == SPC_OK ? spc_backend_cpu.forward(runner, rows, err) : status;
}

Test(host_drafter_device, the_drafter_works_while_the_verifier_does, .timeout = 60)
{
    spc_backend_ops verifier = spc_backend_cpu, drafter = spc_backend_cpu;
    placed p = open_placed(ALIKE, "cpu", "cpu", SPC_OVERLAP_ON);
    spc_session_options o = options_of("strict", 0, 1);
    prompt q = {{3, 4}, 2};
    spc_session *session;
    spc_error error;

    for (int i = 0; i < APART_SIDES; i++) cr_assert_eq(sem_init(&begun[i], 0, 0), 0);
    o.bonus = SPC_BONUS_STEP;
    session = open_session(p.engine, &o, &q);
    cr_assert_eq(spc_session_step(session, &error), SPC_OK); /* feeds the prompt, in turn */
    verifier.forward = verifier_meets;
    drafter.forward = drafter_meets;
    p.engine->verifier.runner->ops = &verifier;
    p.engine->drafter.runner->ops = &drafter;
    cr_expect_eq(spc_session_step(session, &error), SPC_OK, "%s", error.message);
    cr_expect_eq(drafter_forwards, 2);
    spc_session_close(session);
    close_placed(&p);
    for (int i = 0; i < APART_SIDES; i++) (void)sem_destroy(&begun[i]);
}

/* ---- times ---- */

/* A round as it is, of which a test says how long it took, and the engine's time until its
 * verdicts.
 */
static spc_round_times said;
static uint64_t now, decided;

static spc_status round_with_times(spc_runner *drafter, spc_runner *verifier,
                                   spc_round_request *request, int32_t count, spc_verdict *out,
                                   spc_verdict *late, spc_round_times *times, spc_error *err)
{
    spc_status status = spc_apart_round(drafter, verifier, request, count, out, late, times, err);

    *times = said;
    now += decided;
    return status;
}

static uint64_t now_of(void *user)
{
    (void)user;
    return now;
}

/* Of the time until a round's verdicts, drafts have what verification leaves; where the round was
 * under way before, in the same proportion. */
Test(host_drafter_device, a_rounds_time_is_split_between_the_models)
{
    static const struct {
        spc_round_times said;
        uint64_t decided, draft, verify;
    } table[] = {{{700, UINT64_MAX}, 1000, 300, 700},       {{1200, UINT64_MAX}, 1000, 0, 1000},
                 {{UINT64_MAX, UINT64_MAX}, 1000, 0, 1000}, {{500, 2000}, 1000, 750, 250},
                 {{UINT64_MAX, 2000}, 1000, 0, 1000},       {{0, 0}, 1000, 0, 1000}};
    placed p = open_placed(ALIKE, "cpu", "cpu", SPC_OVERLAP_OFF);
    spc_backend_ops ops = *p.engine->ops;
    spc_session_options o = options_of("strict", 2, 1);
    prompt q = {{3, 4}, 2};
    spc_session *session;
    spc_stats before, after;

    o.bonus = SPC_BONUS_STEP;
    o.ignore_stop = true;
    session = open_session(p.engine, &o, &q);
    cr_assert_eq(spc_session_step(session, NULL), SPC_OK); /* feeds the prompt */
    ops.round = round_with_times;
    p.engine->ops = &ops;
    p.engine->clock = (spc_clock){now_of, NULL};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        said = table[i].said;
        decided = table[i].decided;
        spc_session_stats(session, &before);
        cr_assert_eq(spc_session_step(session, NULL), SPC_OK);
        spc_session_stats(session, &after);
        cr_expect_eq(after.draft_ns - before.draft_ns, table[i].draft, "%zu: %d", i,
                     (int)(after.draft_ns - before.draft_ns));
        cr_expect_eq(after.verify_ns - before.verify_ns, table[i].verify, "%zu", i);
        cr_expect_eq(after.other_ns, before.other_ns, "%zu", i);
    }
    p.engine->ops = &spc_backend_apart;
    spc_session_close(session);
    close_placed(&p);
}

/* ---- the engine ---- */

Test(host_drafter_device, an_engine_tells_where_its_models_run)
{
    static const struct {
        int32_t threads;
        const char *device;
    } cases[] = {{1, "verifier on cpu, 1 thread, portable; drafter on cpu, 1 thread, portable"},
                 {4, "verifier on cpu, 3 threads, portable; drafter on cpu, 1 thread, portable"},
                 {9, "verifier on cpu, 7 threads, portable; drafter on cpu, 2 threads, portable"}};
    spc_engine_facts facts;
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    o.context = 64;
    o.isa = "portable";
    o.drafter_device = "cpu";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        o.threads = cases[i].threads;
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        spc_engine_describe(engine, &facts);
        cr_expect_str_eq(facts.device, cases[i].device);
        spc_engine_close(engine);
    }
}

Test(host_drafter_device, what_cannot_be_is_refused)
{
    static const struct {
        const char *drafter, *device, *drafter_device;
        int32_t threads;
        spc_status status;
        const char *text;
    } cases[] = {
        {NULL, "cpu", "cpu", 0, SPC_EUSAGE, "there is no drafter for cpu"},
        {"", "cpu", "tpu", 0, SPC_EUSAGE, "expected cpu, cuda or cuda:N, found 'tpu'"},
        {"", "cpu", "auto", 0, SPC_EUSAGE, "found 'auto'"},
        {"", "gpu", "cpu", 0, SPC_EUSAGE, "device: expected auto, cpu, cuda"},
        {"", "cuda", "cuda:1", 2, SPC_EUSAGE, "threads and isa are the CPU's"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_engine_options o;
        spc_engine *engine;
        spc_error error;

        spc_engine_options_init(&o);
        if (!cases[i].drafter) o.drafter = NULL;
        o.device = cases[i].device;
        o.drafter_device = cases[i].drafter_device;
        o.threads = cases[i].threads;
        cr_expect_eq(spc_engine_open(&o, &engine, &error), cases[i].status);
        cr_expect_null(engine);
        cr_expect(strstr(error.message, cases[i].text), "%s", error.message);
    }
}

Test(host_drafter_device, the_program_places_its_drafter)
{
    const char *text = "We forgot to close the window last night.";
    spawn_result one = SPAWN(NULL, "run", "--bonus", "step", "--gamma", "2", "--to", "de", text);
    spawn_result two = SPAWN(NULL, "run", "--bonus", "step", "--gamma", "2", "--to", "de",
                             "--drafter-device", "cpu", "--overlap", "on", text);
    spawn_result ranks = SPAWN(NULL, "run", "--bonus", "step", "--gamma", "2", "--to", "de", "--tp",
                               "2", "--drafter-device", "cpu", "--overlap", "on", text);
    spawn_result bad = SPAWN(NULL, "run", "--drafter-device", "cuda:4000", "--to", "de", text);

    cr_expect_eq(two.code, 0, "%s", two.err);
    cr_expect_str_eq(one.out, two.out);
    cr_expect(strncmp(two.err, "spc: verifier on cpu, ", 22) == 0, "%s", two.err);
    cr_expect(strstr(two.err, "; drafter on cpu, "), "%s", two.err);
    cr_expect(strstr(two.err, ", drafted ahead "), "%s", two.err);
    cr_expect_not(strstr(one.err, "drafted ahead"));
    cr_expect_str_eq(one.out, ranks.out);
    cr_expect(strncmp(ranks.err, "spc: verifier on 2 ranks, each cpu, ", 36) == 0, "%s", ranks.err);
    cr_expect(strstr(ranks.err, "; drafter on cpu, "), "%s", ranks.err);
    cr_expect(strstr(ranks.err, ", drafted ahead "), "%s", ranks.err);
    cr_expect(bad.code == 2 || bad.code == 4, "%d", bad.code); /* no CUDA; no device */
    cr_expect(strncmp(bad.err, "spc: --drafter-device: ", 23) == 0, "%s", bad.err);
    cr_expect_eq(count_lines(bad.err), 1);
    spawn_free(&one);
    spawn_free(&two);
    spawn_free(&ranks);
    spawn_free(&bad);
}
