/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_trace.c - what a profiler is told of a run: ranges of rounds and their stages, which
 * nest and end, also where something fails.
 *
 * Built twice where there are fibers: a round is composed on the CPU, and a whole on the device. */
#include "decode.h"
#include "nvtx_recorder.h"
#include "toy.h"

#include <dlfcn.h>
#include <stdio.h>

#ifdef SPC_TEST_FIBERS
enum { WHOLE = 1 };
static const char device[] = "cuda";
#else
enum { WHOLE = 0 };
static const char device[] = "cpu";
#endif

/* NVTX looks for its tool once; every test is a process of its own. */
static const nvtx_record *attach(void)
{
    void *library;

    cr_assert_eq(setenv("NVTX_INJECTION64_PATH", SPC_NVTX_RECORDER, 1), 0);
    library = dlopen(SPC_NVTX_RECORDER, RTLD_NOW);
    cr_assert_not_null(library, "%s", dlerror());
    return dlsym(library, "nvtx_recorded");
}

static spc_engine *open_tiny(const char *folder)
{
    spc_engine_options options;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&options);
    options.device = device;
    options.verifier = options.drafter = folder;
    options.sessions = 2;
    options.context = 40;
    cr_assert_eq(spc_engine_open(&options, &engine, &error), SPC_OK, "%s", error.message);
    return engine;
}

static void expect_balance(const nvtx_record *r, const char *what)
{
    cr_expect_gt(r->count, 0, "%s", what);
    cr_expect_lt(r->count, NVTX_RECORDS, "%s", what);
    cr_expect_eq(r->depth, 0, "%s: %d ranges are open", what, (int)r->depth);
    cr_expect_eq(r->stray, 0, "%s: %d ends too many", what, (int)r->stray);
}

/* The first range of this text from `from` on that lies inside range `in` (-1: outermost); its
 * number, or -1. */
static int32_t find(const nvtx_record *r, int32_t in, int32_t from, const char *text)
{
    int32_t end = in < 0 ? r->count : r->range[in].ended;
    int32_t depth = in < 0 ? 0 : r->range[in].depth + 1;

    for (int32_t i = from; i < end; i++) {
        if (r->range[i].depth == depth && strcmp(r->range[i].text, text) == 0) return i;
    }
    return -1;
}

/* Stages follow each other inside a round; returns the number of the first. */
static int32_t expect_stages(const nvtx_record *r, int32_t round, const char *const *stage,
                             int32_t count)
{
    int32_t first = -1;

    for (int32_t i = 0, from = round + 1; i < count; i++) {
        int32_t at = find(r, round, from, stage[i]);

        cr_assert_geq(at, 0, "%s", stage[i]);
        if (i == 0) first = at;
        from = r->range[at].ended;
    }
    return first;
}

static spc_session *open_bounded(spc_engine *engine, const char *rule, int32_t gamma)
{
    spc_session_options o = options_of(rule, gamma, 0);
    prompt p = prompt_made(7, engine->vocab, 5);

    o.max_tokens = 12;
    o.ignore_stop = true;
    return open_session(engine, &o, &p);
}

Test(host_trace, a_round_has_its_stages)
{
    static const char *const composed[] = {
        "spc.draft sessions=2 gamma=3", "spc.verify sessions=2 gamma=3", "spc.commit sessions=2"};
    static const char *const whole[] = {"spc.draft+verify sessions=2 gamma=3 ahead=0",
                                        "spc.commit sessions=2"};
    const nvtx_record *r = attach();
    spc_engine *engine = open_tiny(SPC_TEST_VECTORS "/llama");
    spc_session *s[] = {open_bounded(engine, "strict", 3),
                        open_bounded(engine, "opt:alpha=0.2", 2)};
    int32_t first, draft;

    for (int32_t i = 0; i < 2; i++) cr_assert_eq(spc_engine_step(engine, s, 2, NULL), SPC_OK);
    expect_balance(r, "rounds");
    first = find(r, -1, 0, "spc.round sessions=2");
    cr_assert_eq(first, 0);
    draft = expect_stages(r, first, composed, 3); /* prompts: both backends compose */
    cr_expect_geq(find(r, draft, draft, "spc.prefill rows=12 of=14"), 0);
    first = find(r, -1, r->range[first].ended, "spc.round sessions=2");
    cr_assert_geq(first, 0);
    draft = WHOLE ? expect_stages(r, first, whole, 2) : expect_stages(r, first, composed, 3);
    cr_expect_eq(r->range[draft].ended, draft + 1, "no prompt is left");
    for (int32_t i = 0; i < 2; i++) spc_session_close(s[i]);
    cr_expect_eq(r->domains, 1);
    spc_engine_close(engine);
    cr_expect_eq(r->domains, 0);
}

Test(host_trace, every_strategy_and_failure_balances)
{
    static const char *const rules[] = {"strict",
                                        "verifier-only",
                                        "drafter-only",
                                        "token-chow:alpha=0.5",
                                        "bild-dynamic:fallback=0.2,rollback=1",
                                        "seq-chow:alpha=0.5"};
    static const toy_pair good = {.seed = 3, .vocab = 9, .context = 40, .sessions = 2, .spread = 3};
    const nvtx_record *r = attach();

    for (int32_t i = 0; i < 6; i++) {
        for (int32_t bad = 0; bad < 3; bad++) { /* rows of neither, of the drafter, the verifier */
            toy_pair pair = good;
            spc_engine *engine;
            spc_session *s;

            if (bad == 1) pair.bad_drafter = 10;
            if (bad == 2) pair.bad_verifier = 10;
            engine = toy_engine(&pair);
            s = open_bounded(engine, rules[i], 2);
            (void)spc_session_run(s, NULL);
            cr_expect_neq(spc_session_finish(s), SPC_FINISH_RUNNING);
            spc_session_close(s);
            spc_engine_close(engine);
            expect_balance(r, rules[i]);
        }
    }
    cr_expect_eq(r->domains, 0);
}

Test(host_trace, an_encoder_has_its_range)
{
    const nvtx_record *r = attach();
    spc_engine *engine = open_tiny(SPC_TEST_VECTORS "/t5-relu");
    spc_session *s = open_bounded(engine, "strict", 3);
    int32_t encoded = 0;

    cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    expect_balance(r, "encoder");
    for (int32_t i = 0; i < r->count; i++) {
        encoded += strcmp(r->range[i].text, "spc.encode tokens=7") == 0;
    }
    cr_expect_eq(encoded, 2, "by both models, found %d", (int)encoded);
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_trace, without_a_tool_nothing_is_written)
{
    spc_engine *engine = open_tiny(SPC_TEST_VECTORS "/llama");

    cr_expect_null(engine->trace);
    spc_engine_close(engine);
}
