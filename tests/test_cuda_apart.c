/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_apart.c - a drafter and a verifier on two devices, one of which is a GPU or both are:
 * the tokens of one device, drafts drawn ahead.
 *
 * Built twice, as test_cuda_backend.c is. */
#include "details.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

static const way ways[] = {{"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                           {"opt:alpha=0.2", 2, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                           {"strict", 2, 0, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                           {"token-v3:alpha=0.5", 3, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"opt:alpha=0.2", 2, 0.8f, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
                           {"strict", 2, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"verifier-only", 0, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"seq-chow:alpha=0.4", 0, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                           {"bild-dynamic:fallback=0.4", 0, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}};
enum { WAYS = sizeof ways / sizeof *ways, FIRST = 3, STEPS = 20 }; /* first: with bonus step */

/* Rows of the two kinds of devices differ in their last bits: this life meets no token that hangs
 * on them. */
static void compare(const char *one, const char *device, const char *drafter_device)
{
    int64_t drawn = 0, used = 0;

    for (int32_t pair = 0; pair <= ALIKE; pair += ALIKE) { /* few drafts are kept, and all */
        placed a = open_placed(pair, one, NULL, SPC_OVERLAP_OFF);
        placed b = open_placed(pair, device, drafter_device, SPC_OVERLAP_ON);
        life_log x = live(a.engine, ways, pair == ALIKE ? FIRST : WAYS, 2, STEPS);
        life_log y = live(b.engine, ways, pair == ALIKE ? FIRST : WAYS, 2, STEPS);

        cr_expect_eq(x.hash, y.hash, "%s and %s, pair %d", device, drafter_device, (int)pair);
        drawn += y.drawn;
        used += y.used;
        close_placed(&a);
        close_placed(&b);
    }
    cr_expect(used > 5 && drawn > used, "%s and %s: %d of %d", device, drafter_device, (int)used,
              (int)drawn);
}

Test(cuda_apart, a_drafter_on_the_cpu_beside_a_gpu, .timeout = 280)
{
    compare("cpu", "cuda", "cpu");
}

Test(cuda_apart, a_drafter_on_a_gpu_beside_the_cpu, .timeout = 280)
{
    compare("cpu", "cpu", "cuda");
}

/* A second GPU, which fibers have as soon as they are told. */
static bool two_gpus(void)
{
    int count = 0;

#ifdef SPC_TESTS_FIBER_RUNTIME_H
    fiber_gpu.devices = 2;
#endif
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 1;
}

Test(cuda_apart, two_gpus_give_the_bits_of_one, .timeout = 280)
{
    if (!two_gpus()) return;
    compare("cuda:0", "cuda:0", "cuda:1");
}

Test(cuda_apart, rows_of_several_tiles_cross_too, .timeout = 280)
{
    static const way w = {"opt:alpha=0.2", 2, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN};
    placed a = open_placed(WIDE_PAIR, "cpu", NULL, SPC_OVERLAP_OFF);
    placed b = open_placed(WIDE_PAIR, "cuda", "cpu", SPC_OVERLAP_ON);
    spc_session_options o = way_options(&w, 2);
    prompt p = prompt_made(3, 4110, 3);
    decoded x = decode(a.engine, &o, &p), y = decode(b.engine, &o, &p);

    cr_expect(same_tokens(&x, &y));
    cr_expect_gt(sum_of(x.stats.accepted), 0);
    close_placed(&a);
    close_placed(&b);
}

/* The drafter sharded over two ranks of its own, which share a GPU. */
Test(cuda_apart, a_drafter_on_several_gpus_gives_the_bits_of_one, .timeout = 280)
{
    if (two_gpus()) compare("cuda:0", "cuda:0", "cuda:1,cuda:1");
    compare("cpu", "cpu", "cuda:0,cuda:0");
}

/* ---- beside ranks ---- */

static void compare_ranks(int32_t pair, const char *devices, const char *drafter_device)
{
    static const way some[] = {{"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                               {"opt:alpha=0.2", 2, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
                               {"opt:alpha=0.2", 2, 0.8f, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
                               {"token-v3:alpha=0.5", 2, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
                               {"seq-chow:alpha=0.4", 0, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN}};
    const int32_t count = pair == ALIKE ? 2 : sizeof some / sizeof *some;
    placed a = open_cut(pair, 2, devices, NULL, SPC_OVERLAP_OFF);
    placed b = open_cut(pair, 2, devices, drafter_device, SPC_OVERLAP_ON);
    life_log x = live(a.engine, some, count, 2, pair == ALIKE ? 20 : 8);
    life_log y = live(b.engine, some, count, 2, pair == ALIKE ? 20 : 8);

    cr_expect_eq(x.hash, y.hash, "%s and %s, pair %d", devices, drafter_device, (int)pair);
    cr_expect(pair != ALIKE || y.used > 0, "%d of %d", (int)y.used, (int)y.drawn);
    close_placed(&a);
    close_placed(&b);
}

/* Which fits one of theirs, too. */
Test(cuda_apart, a_drafter_beside_ranks_gives_the_bits_of_one_on_each, .timeout = 280)
{
    compare_ranks(ALIKE, "cuda:0,cuda:0", "cuda:0");
    if (two_gpus()) compare_ranks(ALIKE, "cuda:0,cuda:0", "cuda:1");
}

/* A tile of ids for each rank. */
Test(cuda_apart, ranks_look_at_their_slices_of_rows_that_cross, .timeout = 280)
{
    compare_ranks(WIDE_PAIR, "cuda:0,cuda:0", "cuda:0");
    if (two_gpus()) compare_ranks(WIDE_PAIR, "cuda:0,cuda:0", "cuda:1,cuda:1");
}

/* Rows of the two kinds of devices differ in their last bits, as above. */
Test(cuda_apart, a_drafter_on_the_cpu_beside_ranks, .timeout = 280)
{
    compare_ranks(ALIKE, "cuda:0,cuda:0", "cpu");
}

/* ---- why tokens came about ---- */

/* Rows come to the host from one GPU, from two devices, and from ranks. */
Test(cuda_apart, details_are_those_of_the_cpu, .timeout = 280)
{
    static const struct {
        int32_t tp;
        const char *device, *drafter_device;
    } places[] = {{1, "cuda", NULL},
                  {1, "cuda", "cpu"},
                  {1, "cpu", "cuda"},
                  {1, "cpu", "cuda:0,cuda:0"},
                  {2, "cuda:0,cuda:0", NULL}};
    placed cpu = open_placed(ALIKE, "cpu", NULL, SPC_OVERLAP_OFF);

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        placed other = open_cut(ALIKE, places[i].tp, places[i].device, places[i].drafter_device,
                                SPC_OVERLAP_ON);

        other.engine->composed = false; /* the session sees to that by itself */
        compare_details(&cpu, &other, 2, places[i].device);
        close_placed(&other);
    }
    close_placed(&cpu);
}

/* ---- what an engine says ---- */

static spc_status open_engine(const char *device, const char *drafter_device, int32_t threads,
                              bool plain, char *told, spc_error *err)
{
    spc_engine_options o;
    spc_engine_facts facts;
    spc_engine *engine;
    spc_status status;

    spc_engine_options_init(&o);
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    o.context = 32;
    o.device = device;
    o.drafter_device = drafter_device;
    o.threads = threads;
    o.plain_launches = plain;
    status = spc_engine_open(&o, &engine, err);
    if (status != SPC_OK) return status;
    spc_engine_describe(engine, &facts);
    (void)snprintf(told, 320, "%s", facts.device);
    spc_engine_close(engine);
    return SPC_OK;
}

Test(cuda_apart, threads_are_those_of_the_cpu_wherever_it_is)
{
    char told[320];
    spc_error error;

    cr_assert_eq(open_engine("cuda", "cpu", 2, true, told, &error), SPC_OK, "%s", error.message);
    cr_expect(strncmp(told, "verifier on cuda:0, ", 20) == 0, "%s", told);
    cr_expect(strstr(told, "; drafter on cpu, 2 threads, "), "%s", told);
    cr_assert_eq(open_engine("cpu", "cuda", 3, false, told, &error), SPC_OK, "%s", error.message);
    cr_expect(strncmp(told, "verifier on cpu, 3 threads, ", 28) == 0, "%s", told);
    cr_expect(strstr(told, "; drafter on cuda:0, "), "%s", told);
    cr_expect_eq(open_engine("cpu", "cpu", 2, true, told, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "plain-launches: expected a GPU"), "%s", error.message);
}

Test(cuda_apart, one_gpu_is_not_two)
{
    char told[320];
    spc_error error;

    cr_expect_eq(open_engine("cuda", "cuda:0", 0, false, told, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "another device than the verifier's, found cuda:0 for both"),
              "%s", error.message);
    cr_expect_eq(open_engine("auto", "cuda", 0, false, told, &error), SPC_EUSAGE);
    cr_expect_eq(open_engine("cuda", "cuda:7", 0, false, told, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "drafter-device: cuda:7: expected a number of 0 to"), "%s",
              error.message);
}

/* Nor can ranks of both models wait for each other on one. */
Test(cuda_apart, gpus_of_a_sharded_drafter_are_its_own)
{
    static const char *const devices[] = {"cuda", "auto", "cuda:0", "cuda:0,cuda:0"};
    char told[320];
    spc_error error;

    for (int i = 0; i < 4; i++) {
        cr_expect_eq(open_engine(devices[i], "cuda:0,cuda:0", 0, false, told, &error), SPC_EUSAGE);
        cr_expect(strstr(error.message, "found cuda:0, which is one of its"), "%s", error.message);
    }
    cr_expect_eq(open_engine("cpu", "cuda:0,cuda:x", 0, false, told, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "drafter-device: device cuda:0,cuda:x: expected cuda, or 2 of"),
              "%s", error.message);
    cr_expect_eq(open_engine("cpu", "cuda:0,cuda:0,cuda:0", 0, false, told, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "cannot be sharded over 3 ranks"), "%s", error.message);
    cr_assert_eq(open_engine("cpu", "cuda:0,cuda:0", 0, false, told, &error), SPC_OK, "%s",
                 error.message);
    cr_expect(strstr(told, "; drafter on 2 ranks on one GPU, the first cuda:0, "), "%s", told);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H

/* A GPU that fails while its neighbour works ends the session, and nothing leaks. */
/* user: [512], receives lines */
static void note_line(void *user, const char *line)
{
    char *to = user;
    size_t length = strlen(to);

    (void)snprintf(to + length, 512 - length, "%s\n", line);
}

/* Of either side, once. */
Test(cuda_apart, what_a_device_does_not_record_is_told)
{
    static const struct {
        int32_t tp;
        const char *device, *drafter_device, *said;
    } cases[] = {{1, "cuda", "cpu", "warning: cuda:0: graphs cannot be recorded: "},
                 {1, "cpu", "cuda", "warning: cuda:0: graphs cannot be recorded: "},
                 {1, "cuda:0", "cuda:1", "warning: cuda:1: graphs cannot be recorded: "},
                 {2, "cpu", "cuda", "warning: cuda:0: graphs cannot be recorded: "}};

    fiber_gpu.devices = 2;
    fiber_gpu.no_capture = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        placed p =
            open_cut(ALIKE, cases[i].tp, cases[i].device, cases[i].drafter_device, SPC_OVERLAP_ON);
        spc_session_options o = way_options(&ways[0], 2);
        prompt q = {{3, 4}, 2};
        char noted[512] = "";
        const char *at;

        p.engine->log = note_line;
        p.engine->user = noted;
        o.max_tokens = 20;
        o.ignore_stop = true;
        cr_expect_eq(decode(p.engine, &o, &q).status, SPC_OK);
        at = strstr(noted, cases[i].said);
        cr_expect(at && !strstr(at + 1, cases[i].said), "case %zu: %s", i, noted);
        close_placed(&p);
    }
    fiber_gpu.no_capture = false;
}

Test(cuda_apart, a_device_that_fails_is_told)
{
    static const struct {
        int32_t tp, launches;
        const char *device, *drafter_device;
    } cases[] = {{1, 40, "cuda", "cpu"},           {1, 40, "cpu", "cuda"},
                 {2, 40, "cpu", "cuda"},           {1, 300, "cpu", "cuda:0,cuda:0"},
                 {2, 300, "cpu", "cuda:0,cuda:0"}, {2, 120, "cuda:0,cuda:0", "cuda:0"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        placed p =
            open_cut(ALIKE, cases[i].tp, cases[i].device, cases[i].drafter_device, SPC_OVERLAP_ON);
        spc_session_options o = way_options(&ways[0], 2);
        prompt q = {{3, 4}, 2};
        decoded d;

        o.max_tokens = 40;
        o.ignore_stop = true;
        fiber_gpu.fails_after = fiber_gpu.launches + cases[i].launches;
        d = decode(p.engine, &o, &q);
        cr_expect_eq(d.finish, SPC_FINISH_FAILED);
        cr_expect_gt(d.count, 0);
        fiber_gpu.fails_after = -1;
        close_placed(&p);
        cr_expect_eq(fiber_gpu.allocations, 0);
        cr_expect_eq(fiber_gpu.pinned, 0);
    }
}

#endif
