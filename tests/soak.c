/* SPDX-License-Identifier: Apache-2.0 */
/* soak.c - sessions that come, wait, restart, are cancelled and go at random, for as long as asked:
 *
 *   soak [--seconds S] [--seed N] [--engine M] [--device D] [--tiny] [--actions N]
 *
 * A run that fails names its seed and the engine that was open: given both, it begins with that
 * one.
 * --tiny leaves the demo pair out; N actions are done to sessions (150) before all are waited for.
 *
 * One engine after another, each with other models, slots and threads.  What must hold all the
 * time: every slot is free or has one session; what ran with others gives the tokens it gives
 * alone; sessions leave no memory behind, and the program stops growing.  A plain program: it says
 * its seed, what it did, and what went wrong (exit code 1). */
#include "soak.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef SPC_COUNT_HEAP /* a sanitizer has an allocator of its own, and finds leaks itself */
#include "failing_malloc.h"

#include <malloc.h>
#endif

enum { STEPS_MOST = 20000 };
/* MiB that the program may grow by once every pair had its engine. */
enum { GROWTH_CPU = 3, GROWTH_DEVICE = 64 };

static uint64_t state;
static uint64_t seed = 1;
static int32_t engine_number;

uint32_t soak_below(uint32_t n)
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(((z ^ z >> 31) >> 32) * n >> 32);
}

bool soak_chance(uint32_t percent)
{
    return soak_below(100) < percent;
}

void soak_fail(const char *format, ...)
{
    va_list args;

    (void)fprintf(stderr, "soak: seed %llu, engine %d: ", (unsigned long long)seed,
                  (int)engine_number);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    exit(1);
}

/* ---- engines ----------------------------------------------------------------------------------
 */

static const soak_models models[] = {
    {"llama", "qwen2"},     {"t5-gated", "t5-relu"}, {"gemma3", "llama"}, {"mistral-window", NULL},
    {"qwen2", "ngram:1-3"}, {"t5-relu", "ngram:1"},  {NULL, NULL}, /* the demo pair */
};
enum { MODELS = sizeof models / sizeof *models };

static spc_engine *open_engine(const spc_engine_options *options)
{
    spc_engine *engine;
    spc_error error;

    if (spc_engine_open(options, &engine, &error) != SPC_OK) soak_fail("%s", error.message);
    return engine;
}

/* An engine of some size, and one of the same models for a session alone. */
static void open_place(soak_place *place, const soak_models *of, const char *device)
{
    static char verifier[256], drafter[256];
    bool cpu = !device || strcmp(device, "cpu") == 0, model;
    spc_engine_options o;

    spc_engine_options_init(&o);
    if (of->verifier) {
        (void)snprintf(verifier, sizeof verifier, "%s/%s", SPC_TEST_VECTORS, of->verifier);
        o.verifier = verifier;
        o.drafter = NULL;
    }
    if (of->drafter && spc_ngram_is(of->drafter)) {
        o.drafter = of->drafter;
    } else if (of->drafter) {
        (void)snprintf(drafter, sizeof drafter, "%s/%s", SPC_TEST_VECTORS, of->drafter);
        o.drafter = drafter;
    }
    model = o.drafter && !spc_ngram_is(o.drafter);
    o.device = device;
    o.context = 40 + (int32_t)soak_below(80);
    if (cpu) o.threads = 1;
    if (!cpu && (model || !o.drafter)) o.overlap = (spc_overlap_mode)soak_below(3);
    if (cpu && soak_chance(25)) o.weights = "int8";
    if (soak_chance(30)) o.kv = soak_chance(50) ? "bf16" : "f16";
    if (cpu && !of->verifier && soak_chance(40)) { /* the tiny ones cannot be cut */
        o.tp = 2;
        o.drafter_tp = 1 + (int32_t)soak_below(2);
    }
    if (model && soak_chance(20)) o.drafter_vocab = of->verifier ? "30" : "3000";
    if (!cpu && model && soak_chance(20)) o.drafter_device = "cpu";
    place->alone = open_engine(&o);
    if (cpu && model && o.drafter_tp < 2 && soak_chance(30)) { /* the same tokens */
        o.drafter_device = "cpu";
        o.overlap = (spc_overlap_mode)soak_below(3);
    }
    o.sessions = 1 + (int32_t)soak_below(5);
    o.prefill_rows = soak_chance(50) ? 0 : 1 + (int32_t)soak_below(12);
    o.no_prefix_reuse = soak_chance(25);
    if (soak_chance(40)) o.kv_tokens = o.context + (int32_t)soak_below((uint32_t)o.context * 2);
    if (cpu) o.threads = 1 + (int32_t)soak_below(2);
    place->engine = open_engine(&o);
    place->context = o.context;
}

/* ---- what must hold ---------------------------------------------------------------------------
 */

/* Pages are free, or stand in tables of sessions as often as they have users. */
static void check_pages(const soak_place *place)
{
    const spc_pages *pages = &place->engine->pages;
    int32_t free_ones = 0;
    int64_t users = 0, in_tables = 0;

    for (int32_t i = 0; i < pages->count; i++) {
        users += pages->page[i].users;
        free_ones += pages->page[i].users == 0;
    }
    for (int32_t i = 0; i < SOAK_MEMBERS; i++) {
        if (place->member[i].session) in_tables += place->member[i].session->page_count;
    }
    if (users != in_tables || free_ones != pages->free) {
        soak_fail("%lld users of pages, %lld in tables; %d pages are free, %d are said to be",
                  (long long)users, (long long)in_tables, (int)free_ones, (int)pages->free);
    }
}

static void check_slots(const soak_place *place)
{
    const spc_engine *engine = place->engine;
    int32_t held = 0, taken = 0;

    for (int32_t i = 0; i < SOAK_MEMBERS; i++) {
        const spc_session *s = place->member[i].session;

        if (!s || s->slot < 0) continue;
        held++;
        if (engine->slot[s->slot] != s) soak_fail("a slot has another session than its own");
        if (s->waits) soak_fail("a session waits and has a slot");
    }
    for (int32_t i = 0; i < engine->sessions; i++) taken += engine->slot[i] != NULL;
    if (held != taken) {
        soak_fail("%d slots are taken, by %d sessions: one was lost", (int)taken, (int)held);
    }
    check_pages(place);
}

/* Step them all until all have ended. */
static void drain(soak_place *place)
{
    for (int32_t step = 0; soak_step(place, 100) > 0; step++) {
        if (step == STEPS_MOST) soak_fail("sessions do not end");
        check_slots(place);
    }
}

static void act(soak_place *place)
{
    soak_member *m = &place->member[soak_below(SOAK_MEMBERS)];
    uint32_t what = soak_below(100);

    if (!m->session) {
        if (what < 60) soak_open(place, m);
    } else if (what < 8) {
        soak_close(place, m);
    } else if (what < 18) {
        soak_restart(place, m);
    } else if (what < 22) {
        soak_cancel(place, m);
    } else if (what < 28) {
        soak_run(place, m);
    }
    (void)soak_step(place, 1 + soak_below(100));
    check_slots(place);
}

/* Blocks that this thread took and gave back.  A GPU's driver keeps some of its own. */
static void begin_count(void)
{
#ifdef SPC_COUNT_HEAP
    heap_begin(HEAP_NEVER, 0);
#endif
}

static void end_count(const soak_place *place)
{
#ifdef SPC_COUNT_HEAP
    heap_count count = heap_end();

    if (strncmp(place->engine->ops->name, "cuda", 4) == 0 || count.live == 0) return;
    soak_fail("%d blocks are left of closed sessions", (int)count.live);
#else
    (void)place;
#endif
}

/* Sessions come and go, then all end; nothing of them is left. */
static void run_wave(soak_place *place, int32_t actions)
{
    begin_count();
    for (int32_t i = 0; i < actions; i++) act(place);
    drain(place);
    for (int32_t i = 0; i < SOAK_MEMBERS; i++) soak_close(place, &place->member[i]);
    check_slots(place);
    end_count(place);
}

/* ---- the program ------------------------------------------------------------------------------
 */

static double seconds_now(void)
{
    return (double)spc_now_ns() * 1e-9;
}

/* Memory of the process that is there, in MiB; without what the allocator keeps for later. */
static double resident(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long all, pages = 0;

#ifdef SPC_COUNT_HEAP
    (void)malloc_trim(0);
#endif
    if (!file || fscanf(file, "%ld %ld", &all, &pages) != 2) soak_fail("/proc/self/statm: no");
    (void)fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

typedef struct {
    double seconds;
    const char *device;
    bool tiny; /* without the demo pair */
    int32_t actions, first;
} soak_options;

static void check_growth(const soak_options *o, double warm)
{
#ifdef SPC_COUNT_HEAP
    double now = resident();

    if (now <= warm + (o->device ? GROWTH_DEVICE : GROWTH_CPU)) return;
    soak_fail("%.1f MiB resident, %.1f when every pair had had its engine", now, warm);
#else
    (void)o;
    (void)warm;
#endif
}

static int soak(const soak_options *o)
{
    int32_t kinds = o->tiny ? MODELS - 1 : MODELS, engines = 0;
    double begin = seconds_now(), warm = 0, slice = o->seconds / 60;
    soak_place place;

    memset(&place, 0, sizeof place);
    if (slice < 0.2) slice = 0.2;
    while (engines < 2 * kinds || seconds_now() - begin < o->seconds) {
        double end = seconds_now() + slice;

        engine_number = o->first + engines;
        state = seed + (uint64_t)engine_number * 0xd1342543de82ef95u;
        open_place(&place, &models[engine_number % kinds], o->device);
        do {
            run_wave(&place, o->actions);
        } while (seconds_now() < end);
        spc_engine_close(place.engine);
        spc_engine_close(place.alone);
        engines++;
        if (engines <= kinds && resident() > warm) warm = resident();
        if (engines > kinds) check_growth(o, warm);
    }
    if (place.done.opened < 3 * place.done.refused) soak_fail("most sessions were refused");
    if (place.done.compared == 0) soak_fail("no session was held against itself alone");
    if (place.done.looked_up == 0) soak_fail("no draft was looked up");
    if (place.done.edited == 0) soak_fail("no session edited its logits");
    (void)printf("soak: seed %llu, %.0f s: %d engines; %lld sessions (%lld restarted, %lld "
                 "cancelled, %lld refused), %lld steps, %lld texts held against the session alone; "
                 "resident %.1f MiB, warm %.1f\n",
                 (unsigned long long)seed, seconds_now() - begin, (int)engines,
                 (long long)place.done.opened, (long long)place.done.restarted,
                 (long long)place.done.cancelled, (long long)place.done.refused,
                 (long long)place.done.steps, (long long)place.done.compared, resident(), warm);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seconds", required_argument, NULL, 's'},
                                            {"seed", required_argument, NULL, 'n'},
                                            {"engine", required_argument, NULL, 'e'},
                                            {"device", required_argument, NULL, 'd'},
                                            {"tiny", no_argument, NULL, 't'},
                                            {"actions", required_argument, NULL, 'a'},
                                            {0}};
    soak_options o = {.seconds = 600, .actions = 150};
    int option;

#ifdef SPC_COUNT_HEAP
    /* what is freed goes back to the system: holes in the heap are not to look like a leak */
    (void)mallopt(M_MMAP_THRESHOLD, 128 << 10);
#endif
    seed = spc_now_ns();
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's') o.seconds = strtod(optarg, NULL);
        if (option == 'n') seed = strtoull(optarg, NULL, 10);
        if (option == 'e') o.first = (int32_t)strtol(optarg, NULL, 10);
        if (option == 'd') o.device = optarg;
        if (option == 't') o.tiny = true;
        if (option == 'a') o.actions = (int32_t)strtol(optarg, NULL, 10);
        if (option == '?') return 2;
    }
    (void)printf("soak: seed %llu\n", (unsigned long long)seed);
    (void)fflush(stdout);
    return soak(&o);
}
