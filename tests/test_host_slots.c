/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions that come and go: who waits begins in order, and each text is the one it has alone. */
#include "decode.h"
#include "pagecheck.h"
#include "toy.h"

#include <pthread.h>

enum { CONTEXT = 160 };

static const toy_pair pair = {
    .seed = 31, .vocab = 40, .context = CONTEXT, .sessions = 2, .spread = 5};
/* More slots, and a page less than one context fills. */
static const toy_pair crowded = {.seed = 31,
                                 .vocab = 40,
                                 .context = CONTEXT,
                                 .sessions = 4,
                                 .pages = CONTEXT / SPC_PAGE_TOKENS - 1,
                                 .spread = 5};

static spc_session_options waiting(const char *rule, int32_t gamma, float temperature)
{
    spc_session_options o = options_of(rule, gamma, temperature);

    o.wait = true;
    o.max_tokens = 6;
    return o;
}

/* ---- the line ---- */

Test(host_slots, sessions_that_wait_begin_in_the_order_they_came)
{
    enum { ALL = 7 };
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = waiting("strict", 2, 1);
    spc_session *s[ALL];
    prompt p = prompt_made(5, pair.vocab, 1);
    int32_t begun = 2;

    for (int32_t i = 0; i < ALL; i++) {
        s[i] = open_session(engine, &o, &p);
        cr_expect_eq(spc_session_waits(s[i]), i >= 2);
    }
    for (int32_t step = 0; step < 100; step++) {
        int32_t running = 0;

        cr_assert_eq(spc_engine_step(engine, s, ALL, NULL), SPC_OK);
        for (int32_t i = 0; i < ALL; i++) {
            int32_t count;

            (void)spc_session_tokens(s[i], &count);
            if (!spc_session_waits(s[i]) && i >= begun) {
                cr_expect_eq(i, begun, "first come, first served");
                begun++;
            }
            cr_expect(count > 0 || i >= begun - 2 || spc_session_waits(s[i]));
            running += spc_session_finish(s[i]) == SPC_FINISH_RUNNING && !spc_session_waits(s[i]);
        }
        cr_expect_leq(running, 2);
    }
    cr_expect_eq(begun, ALL);
    for (int32_t i = 0; i < ALL; i++) {
        int32_t count;

        (void)spc_session_tokens(s[i], &count);
        cr_expect_eq(count, 6);
        cr_expect_eq(spc_session_finish(s[i]), SPC_FINISH_MAX_TOKENS);
        spc_session_close(s[i]);
    }
    spc_engine_close(engine);
}

Test(host_slots, who_may_not_wait_is_told_and_who_waits_alone_too)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = waiting("strict", 2, 1), now = o;
    prompt p = prompt_made(5, pair.vocab, 1);
    spc_session *a = open_session(engine, &o, &p), *b = open_session(engine, &o, &p), *c, *d;
    spc_error error;

    now.wait = false;
    cr_expect_eq(spc_session_open(engine, &now, p.id, p.count, &c, &error), SPC_EFULL);
    cr_expect_null(c);
    cr_expect_not_null(strstr(error.message, "all 2 are open"), "%s", error.message);
    c = open_session(engine, &o, &p);
    cr_expect_eq(spc_session_run(c, &error), SPC_EFULL);
    cr_expect_not_null(strstr(error.message, "waits for one of 2"), "%s", error.message);
    cr_expect_eq(spc_session_finish(c), SPC_FINISH_RUNNING, "it goes on waiting");
    d = open_session(engine, &o, &p);
    spc_session_cancel(c); /* leaves the line at its next step */
    cr_expect_eq(spc_session_step(c, NULL), SPC_OK);
    cr_expect_eq(spc_session_finish(c), SPC_FINISH_CANCELLED);
    cr_expect_not(spc_session_waits(c));
    spc_session_close(a);
    cr_expect_not(spc_session_waits(d));
    cr_expect_eq(spc_session_run(d, NULL), SPC_OK);
    cr_expect_eq(spc_session_run(b, NULL), SPC_OK);
    spc_session_close(c);
    a = open_session(engine, &o, &p); /* d has ended: it may go on without its slot */
    cr_expect_not(spc_session_waits(a));
    c = open_session(engine, &o, &p);
    cr_expect_not(spc_session_waits(c));
    spc_session_close(b);
    spc_session_close(d);
    b = open_session(engine, &o, &p);
    spc_session_close(b); /* while it waits */
    spc_session_close(a);
    spc_session_close(c);
    spc_engine_close(engine);
}

Test(host_slots, a_session_that_lost_its_slot_begins_anew_as_a_new_one)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = waiting("token-v3:alpha=0.4", 3, 1), now = o;
    prompt p = prompt_made(9, pair.vocab, 1), q = prompt_made(30, pair.vocab, 2);
    decoded alone[2], d;
    spc_session *a, *b, *c;
    spc_error error;

    now.wait = false;
    alone[0] = decode(engine, &o, &p);
    alone[1] = decode(engine, &o, &q);
    a = open_session(engine, &now, &p);
    b = open_session(engine, &now, &p);
    cr_expect_eq(spc_session_run(a, NULL), SPC_OK);
    c = open_session(engine, &o, &q); /* takes the slot of a */
    d = decoded_of(a);
    cr_expect(same_tokens(&d, &alone[0]), "what it wrote stays");
    cr_expect_eq(spc_session_restart(a, q.id, q.count, &error), SPC_EFULL);
    cr_expect_not_null(strstr(error.message, "no free session"), "%s", error.message);
    d = decoded_of(a);
    cr_expect(same_tokens(&d, &alone[0]), "as it was");
    spc_session_close(b);
    cr_assert_eq(spc_session_restart(a, q.id, q.count, NULL), SPC_OK);
    cr_expect_eq(spc_session_run(a, NULL), SPC_OK);
    d = decoded_of(a);
    cr_expect(same_tokens(&d, &alone[1]));
    cr_expect_eq(spc_session_run(c, NULL), SPC_OK);
    d = decoded_of(c);
    cr_expect(same_tokens(&d, &alone[1]));
    /* one that may wait begins anew in the line, and there takes another prompt */
    b = open_session(engine, &o, &p);
    spc_session *e = open_session(engine, &o, &p), *lost = a->slot < 0 ? a : c;

    lost->may_wait = true;
    cr_expect_eq(lost->slot, -1);
    cr_assert_eq(spc_session_restart(lost, q.id, q.count, NULL), SPC_OK);
    cr_expect(spc_session_waits(lost));
    cr_assert_eq(spc_session_restart(lost, p.id, p.count, NULL), SPC_OK);
    cr_expect(spc_session_waits(lost));
    spc_session_close(b);
    cr_expect_eq(spc_session_run(lost, NULL), SPC_OK);
    d = decoded_of(lost);
    cr_expect(same_tokens(&d, &alone[0]));
    spc_session_close(a);
    spc_session_close(c);
    spc_session_close(e);
    spc_engine_close(engine);
}

/* ---- pages ---- */

/* Pages of the sessions that have some are in use, all others free. */
static void check_tables(const spc_engine *engine)
{
    int32_t uses[256] = {0};

    cr_assert_leq(engine->pages.count, 256);
    for (int32_t i = 0; i < engine->sessions; i++) {
        const spc_session *s = engine->slot[i];

        for (int32_t k = 0; s && k < s->page_count; k++) uses[s->page[k]]++;
    }
    check_pages(&engine->pages, uses);
}

static int32_t running_of(spc_session *const *s, int32_t count)
{
    int32_t running = 0;

    for (int32_t i = 0; i < count; i++) {
        running += spc_session_finish(s[i]) == SPC_FINISH_RUNNING && !spc_session_waits(s[i]);
    }
    return running;
}

/* A pool of a single context: short sessions share it, by turns and in order. */
Test(host_slots, short_sessions_share_what_one_long_one_would_take)
{
    enum { ALL = 12, SLOTS = 6, FIT = 3 };
    toy_pair small = pair;
    spc_session_options o = waiting("token-v3:alpha=0.4", 3, 1);
    spc_session *s[ALL];
    prompt p[ALL];
    spc_engine *engine = toy_engine(&pair);
    decoded fresh[ALL];

    small.sessions = SLOTS;
    small.pages = spc_pages_for(CONTEXT);
    for (int32_t i = 0; i < ALL; i++) { /* 20 + 6 + 18 tokens: 3 pages of 10 */
        p[i] = prompt_made(20, pair.vocab, 1u + (uint32_t)i);
        fresh[i] = decode(engine, &o, &p[i]);
    }
    spc_engine_close(engine);
    engine = toy_engine(&small);
    for (int32_t i = 0; i < ALL; i++) s[i] = open_session(engine, &o, &p[i]);
    cr_expect_eq(running_of(s, ALL), FIT, "more than one context, fewer than slots");
    for (int32_t step = 0; step < 200; step++) {
        cr_assert_eq(spc_engine_step(engine, s, ALL, NULL), SPC_OK);
        check_tables(engine);
        cr_assert_leq(running_of(s, ALL), FIT);
    }
    for (int32_t i = 0; i < ALL; i++) {
        decoded d = decoded_of(s[i]);

        cr_expect_eq(d.finish, SPC_FINISH_MAX_TOKENS);
        cr_expect(same_tokens(&d, &fresh[i]), "text %d", (int)i);
        spc_session_close(s[i]);
    }
    cr_expect_eq(engine->pages.free, engine->pages.count);
    spc_engine_close(engine);
}

Test(host_slots, who_waits_for_less_than_before_need_not_wait_for_more)
{
    spc_engine *engine = toy_engine(&crowded);
    spc_session_options o = waiting("strict", 2, 1);
    prompt p = prompt_made(60, pair.vocab, 1), q = prompt_made(5, pair.vocab, 2);
    spc_session *a, *b, *c;

    a = open_session(engine, &o, &p); /* 6 pages of 9 */
    b = open_session(engine, &o, &p);
    c = open_session(engine, &o, &q);
    cr_expect(spc_session_waits(b) && spc_session_waits(c));
    cr_assert_eq(spc_session_restart(b, q.id, q.count, NULL), SPC_OK);
    cr_expect_not(spc_session_waits(b), "2 pages, and 3 are free");
    cr_expect(spc_session_waits(c));
    check_tables(engine);
    cr_expect_eq(spc_session_run(b, NULL), SPC_OK);
    cr_expect_eq(spc_session_run(c, NULL), SPC_OK);
    spc_session_close(a);
    spc_session_close(b);
    spc_session_close(c);
    cr_expect_eq(engine->pages.free, engine->pages.count);
    spc_engine_close(engine);
}

static void expect_load(spc_engine *engine, int32_t running, int32_t ended, int32_t waiting,
                        int32_t pages_free)
{
    spc_engine_load load;

    cr_assert_eq(spc_engine_usage(engine, &load, NULL), SPC_OK);
    cr_expect_eq(load.slots, 4);
    cr_expect_eq(load.running, running);
    cr_expect_eq(load.ended, ended);
    cr_expect_eq(load.waiting, waiting);
    cr_expect_eq(load.kv_tokens, 144);
    cr_expect_eq(load.kv_free, pages_free * SPC_PAGE_TOKENS);
}

Test(host_slots, an_engine_tells_how_much_of_it_is_in_use)
{
    spc_engine *engine = toy_engine(&crowded);
    spc_session_options o = waiting("strict", 2, 1);
    prompt p = prompt_made(60, pair.vocab, 1), q = prompt_made(5, pair.vocab, 2);
    spc_session *a, *b, *c;

    expect_load(engine, 0, 0, 0, 9);
    a = open_session(engine, &o, &p); /* 6 pages of 9 */
    expect_load(engine, 1, 0, 0, 3);
    b = open_session(engine, &o, &p);
    c = open_session(engine, &o, &q);
    expect_load(engine, 1, 0, 2, 3);
    cr_expect_eq(spc_session_run(a, NULL), SPC_OK); /* b and c have its place */
    expect_load(engine, 2, 0, 0, 1);
    cr_expect_eq(spc_session_run(b, NULL), SPC_OK);
    expect_load(engine, 1, 1, 0, 1);
    spc_session_close(b);
    expect_load(engine, 1, 0, 0, 7);
    spc_session_close(c);
    spc_session_close(a);
    expect_load(engine, 0, 0, 0, 9);
    cr_expect_eq(spc_engine_usage(NULL, &(spc_engine_load){0}, NULL), SPC_EUSAGE);
    cr_expect_eq(spc_engine_usage(engine, NULL, NULL), SPC_EUSAGE);
    spc_engine_close(engine);
}

Test(host_slots, pages_that_are_not_there_are_waited_for_or_refused)
{
    spc_engine *engine = toy_engine(&crowded);
    spc_session_options o = waiting("strict", 2, 1), now = o, all = o;
    prompt p = prompt_made(60, pair.vocab, 1), q = prompt_made(5, pair.vocab, 2);
    spc_session *a, *b, *c, *d;
    spc_error error;

    now.wait = false;
    all.max_tokens = 0;
    cr_expect_eq(spc_session_open(engine, &all, q.id, q.count, &c, &error), SPC_EFULL);
    cr_expect_not_null(strstr(error.message, "a prompt (tokens: 5) may need 160 tokens of KV "
                                             "cache with its new ones, and the engine has 144"),
                       "%s", error.message);
    a = open_session(engine, &now, &p); /* 6 pages of 9 */
    b = open_session(engine, &o, &p);
    cr_expect(spc_session_waits(b));
    cr_expect_eq(spc_session_open(engine, &now, q.id, q.count, &c, &error), SPC_EFULL);
    cr_expect_not_null(strstr(error.message, "48 of 144 tokens are free and others wait for them"),
                       "%s", error.message);
    c = open_session(engine, &o, &q);
    cr_expect(spc_session_waits(c), "behind b, though there were pages");
    cr_expect_eq(spc_session_run(a, NULL), SPC_OK);
    cr_expect_not(spc_session_waits(b), "a has ended, and need not be closed");
    cr_expect_not(spc_session_waits(c));
    cr_expect_eq(spc_session_restart(a, p.id, p.count, &error), SPC_EFULL);
    cr_expect_not_null(strstr(error.message, "no room in the KV caches: 16 of 144 tokens"), "%s",
                       error.message);
    spc_session_close(a);
    /* one in its slot that wants more than is there goes to the line, or is told */
    cr_assert_eq(spc_session_restart(c, p.id, p.count, &error), SPC_OK);
    cr_expect(spc_session_waits(c));
    cr_expect_eq(spc_session_open(engine, &now, q.id, q.count, &d, NULL), SPC_EFULL);
    spc_session_close(b);
    cr_expect_eq(spc_session_run(c, NULL), SPC_OK);
    spc_session_close(c);
    cr_expect_eq(engine->pages.free, engine->pages.count);
    spc_engine_close(engine);
}

/* ---- coming and going ---- */

/* Sessions that differ in everything; those with gamma auto where a seed gives one text. */
static const struct {
    const char *rule;
    int32_t gamma;
    float temperature, top_p;
    int32_t top_k;
    spc_verify_mode verify;
    spc_bonus_mode bonus;
} kinds[] = {
    {"strict", 5, 0, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"strict", SPC_GAMMA_AUTO, 0, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"token-v3:alpha=0.5", 3, 1, 0.9f, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"opt:alpha=0.1", 4, 0.8f, 1, 0, SPC_VERIFY_BLOCK, SPC_BONUS_TARGET},
    {"verifier-only", 5, 1, 1, 10, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"drafter-only", 5, 1, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"lossy:alpha=0.3", SPC_GAMMA_AUTO, 1.3f, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_STEP},
    {"token-chow:alpha=0.6", 0, 1, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
    {"seq-chow:alpha=0.1", 0, 1, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
};
enum { KINDS = sizeof kinds / sizeof *kinds, TEXTS = 4 * KINDS, COMPANY = 5, MOST = 9 };

static spc_session *open_text(spc_engine *engine, int32_t i)
{
    spc_session_options o =
        options_of(kinds[i % KINDS].rule, kinds[i % KINDS].gamma, kinds[i % KINDS].temperature);
    prompt p = prompt_made(1 + i * 7 % 90, engine->vocab, 77u + (uint32_t)i);

    o.top_p = kinds[i % KINDS].top_p;
    o.top_k = kinds[i % KINDS].top_k;
    o.verify = kinds[i % KINDS].verify;
    o.bonus = kinds[i % KINDS].bonus;
    o.seed = 1000u + (uint64_t)i;
    o.max_tokens = 5 + i * 5 % 40;
    o.ignore_stop = i % 2;
    o.wait = true;
    return open_session(engine, &o, &p);
}

static uint32_t next_of(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Thousands of rounds in which sessions come, wait, are left out of steps, are dropped half way and
 * begin anew; returns the number of texts that came to their end. */
static int32_t come_and_go(spc_engine *engine, const decoded *alone, int32_t steps, uint32_t seed)
{
    spc_session *s[MOST] = {NULL}, *group[MOST];
    int32_t text[MOST], whole = 0;

    for (int32_t step = 0; step < steps; step++) {
        int32_t count = 0;

        for (int32_t k = 0; k < MOST; k++) {
            if (!s[k] && next_of(&seed) % 4 == 0) {
                text[k] = (int32_t)(next_of(&seed) % TEXTS);
                s[k] = open_text(engine, text[k]);
            }
            if (s[k] && next_of(&seed) % 8 != 0) group[count++] = s[k];
        }
        if (count > 0) cr_assert_eq(spc_engine_step(engine, group, count, NULL), SPC_OK);
        check_tables(engine);
        for (int32_t k = 0; k < MOST; k++) {
            bool dropped = next_of(&seed) % 100 == 0;

            if (!s[k] || (spc_session_finish(s[k]) == SPC_FINISH_RUNNING && !dropped)) continue;
            if (spc_session_finish(s[k]) != SPC_FINISH_RUNNING) {
                decoded d = decoded_of(s[k]);

                cr_expect(same_tokens(&d, &alone[text[k]]), "step %d: text %d, %s", (int)step,
                          (int)text[k], kinds[text[k] % KINDS].rule);
                whole++;
            }
            spc_session_close(s[k]);
            s[k] = NULL;
        }
    }
    for (int32_t k = 0; k < MOST; k++) spc_session_close(s[k]);
    return whole;
}

static void run_alone(spc_engine *(*open)(int32_t sessions), decoded *out)
{
    for (int32_t i = 0; i < TEXTS; i++) {
        spc_engine *engine = open(1);
        spc_session *s = open_text(engine, i);

        cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
        out[i] = decoded_of(s);
        spc_session_close(s);
        spc_engine_close(engine);
    }
}

/* pages: of the KV caches; 0: as many as all sessions can fill */
static spc_engine *open_toy_with(int32_t sessions, int32_t pages)
{
    static toy_pair many;

    many = pair;
    many.sessions = sessions;
    many.pages = pages;

    spc_engine *engine = toy_engine(&many);

    engine->prefix_off = false;
    return engine;
}

static spc_engine *open_toy(int32_t sessions)
{
    return open_toy_with(sessions, 0);
}

static spc_engine *open_demo_pair(int32_t sessions)
{
    return open_demo(DEMO_DRAFTER, sessions, 1);
}

static decoded alone[TEXTS];

Test(host_slots, texts_do_not_depend_on_who_comes_and_goes)
{
    run_alone(open_toy, alone);

    spc_engine *engine = open_toy(COMPANY);

    cr_expect_gt(come_and_go(engine, alone, 6000, 1), 1000);
    spc_engine_close(engine);
}

/* The longest text takes all pages but one. */
Test(host_slots, texts_do_not_depend_on_who_waits_for_pages)
{
    run_alone(open_toy, alone);

    spc_engine *engine = open_toy_with(COMPANY, spc_pages_for(CONTEXT) + 1);
    int32_t whole;

    whole = come_and_go(engine, alone, 12000, 3);
    cr_expect_gt(whole, 300, "%d", (int)whole);
    cr_expect_eq(engine->pages.free, engine->pages.count);
    spc_engine_close(engine);
}

Test(host_slots, texts_of_the_demo_pair_do_not_depend_on_who_comes_and_goes)
{
    run_alone(open_demo_pair, alone);

    spc_engine *engine = open_demo_pair(COMPANY);

    cr_expect_gt(come_and_go(engine, alone, 250, 2), 30);
    spc_engine_close(engine);
}

/* ---- from several threads ---- */

enum { THREADS = 4 };

typedef struct {
    spc_engine *engine;
    int32_t first, wrong;
} worker;

static void *work(void *user)
{
    worker *w = user;

    for (int32_t i = 0; i < 40; i++) {
        int32_t text = (w->first + i * 5) % TEXTS;
        spc_session *s = open_text(w->engine, text);
        decoded d;

        while (spc_session_finish(s) == SPC_FINISH_RUNNING) (void)spc_session_step(s, NULL);
        d = decoded_of(s);
        w->wrong += !same_tokens(&d, &alone[text]);
        spc_session_close(s);
    }
    return NULL;
}

Test(host_slots, threads_share_fewer_slots_than_they_are)
{
    worker w[THREADS];
    pthread_t thread[THREADS];
    spc_engine *engine = open_toy(2);

    run_alone(open_toy, alone);
    for (int32_t i = 0; i < THREADS; i++) {
        w[i] = (worker){engine, i * 9, 0};
        cr_assert_eq(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    }
    for (int32_t i = 0; i < THREADS; i++) {
        (void)pthread_join(thread[i], NULL);
        cr_expect_eq(w[i].wrong, 0);
    }
    spc_engine_close(engine);
}
