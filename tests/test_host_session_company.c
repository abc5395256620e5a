/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_session_company.c - what a session emits does not depend on who steps with it, in which
 * order, from which thread, or on how many threads the engine has; and threads that want the engine
 * get it in the order in which they came. */
#include "decode.h"
#include "toy.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>

enum { PARTY = 6, PARTY_TOKENS = 22 };

/* Six sessions that differ in everything. */
static const struct {
    const char *rule;
    int32_t gamma;
    float temperature, top_p;
    int32_t top_k;
    spc_verify_mode verify;
    spc_bonus_mode bonus;
    int32_t prompt; /* tokens */
    int32_t max_tokens;
} party[PARTY] = {
    {"strict", 5, 0, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 4, PARTY_TOKENS},
    {"token-v3:alpha=0.5", 3, 1, 0.9f, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 90, PARTY_TOKENS},
    {"opt:alpha=0.1", 4, 0.8f, 1, 0, SPC_VERIFY_BLOCK, SPC_BONUS_TARGET, 1, PARTY_TOKENS},
    {"verifier-only", 5, 1, 1, 40, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 7, 9},
    {"drafter-only", 5, 1, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 65, PARTY_TOKENS},
    {"lossy:alpha=0.3", 2, 1.3f, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_STEP, 30, PARTY_TOKENS},
};

static spc_session *open_member(spc_engine *engine, int32_t i)
{
    spc_session_options o = options_of(party[i].rule, party[i].gamma, party[i].temperature);
    prompt p = prompt_made(party[i].prompt, engine->vocab, 77u + (uint32_t)i);

    o.top_p = party[i].top_p;
    o.top_k = party[i].top_k;
    o.verify = party[i].verify;
    o.bonus = party[i].bonus;
    o.seed = 1000u + (uint64_t)i;
    o.max_tokens = party[i].max_tokens;
    o.ignore_stop = true;
    return open_session(engine, &o, &p);
}

static bool any_running(spc_session *const *s)
{
    for (int32_t i = 0; i < PARTY; i++) {
        if (s[i]->finish == SPC_FINISH_RUNNING) return true;
    }
    return false;
}

/* Who steps in turn `turn` of a schedule, and in which order; returns how many. */
typedef int32_t (*schedule_fn)(int32_t turn, int32_t *who);

static int32_t one_after_another(int32_t turn, int32_t *who)
{
    who[0] = turn / 64 % PARTY; /* 64 steps are more than any of them needs */
    return 1;
}

static int32_t in_turns(int32_t turn, int32_t *who)
{
    who[0] = turn % PARTY;
    return 1;
}

static int32_t together(int32_t turn, int32_t *who)
{
    (void)turn;
    for (int32_t i = 0; i < PARTY; i++) who[i] = i;
    return PARTY;
}

static int32_t backwards(int32_t turn, int32_t *who)
{
    (void)turn;
    for (int32_t i = 0; i < PARTY; i++) who[i] = PARTY - 1 - i;
    return PARTY;
}

static int32_t odd_groups(int32_t turn, int32_t *who)
{
    uint32_t mask = (uint32_t)(turn * 37 + 11) % 64u;
    int32_t count = 0;

    for (int32_t i = 0; i < PARTY; i++) {
        int32_t member = (i * 5 + turn) % PARTY;

        if (mask >> member & 1u || turn > 200) who[count++] = member;
    }
    return count;
}

static const struct {
    const char *name;
    schedule_fn who;
} schedules[] = {{"one after another", one_after_another},
                 {"in turns", in_turns},
                 {"together", together},
                 {"backwards", backwards},
                 {"odd groups", odd_groups}};
enum { SCHEDULES = sizeof schedules / sizeof *schedules };

static void run_party(spc_engine *engine, schedule_fn schedule, decoded *out)
{
    spc_session *s[PARTY], *group[PARTY];

    for (int32_t i = 0; i < PARTY; i++) s[i] = open_member(engine, i);
    for (int32_t turn = 0; any_running(s); turn++) {
        int32_t who[PARTY], count = schedule(turn, who);

        for (int32_t i = 0; i < count; i++) group[i] = s[who[i]];
        cr_assert_eq(spc_engine_step(engine, group, count, NULL), SPC_OK);
        cr_assert_lt(turn, 1000);
    }
    for (int32_t i = 0; i < PARTY; i++) {
        out[i] = decoded_of(s[i]);
        spc_session_close(s[i]);
    }
}

static void expect_same_party(const decoded *a, const decoded *b, const char *what)
{
    for (int32_t i = 0; i < PARTY; i++) {
        cr_expect_eq(a[i].status, SPC_OK);
        cr_expect_eq(a[i].count, party[i].max_tokens, "%s: session %d: %d tokens", what, (int)i,
                     (int)a[i].count);
        cr_expect(same_tokens(&a[i], &b[i]), "%s: session %d", what, (int)i);
        cr_expect_eq(a[i].stats.output_hash, b[i].stats.output_hash);
        cr_expect_eq(sum_of(a[i].stats.accepted), sum_of(b[i].stats.accepted));
        cr_expect_eq(a[i].stats.rounds, b[i].stats.rounds);
    }
}

/* Every session in an engine of its own. */
static void run_alone(spc_engine *(*open)(int32_t sessions, int32_t threads), decoded *out)
{
    for (int32_t i = 0; i < PARTY; i++) {
        spc_engine *engine = open(1, 1);
        spc_session *s = open_member(engine, i);

        cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
        out[i] = decoded_of(s);
        spc_session_close(s);
        spc_engine_close(engine);
    }
}

static spc_engine *demo_party(int32_t sessions, int32_t threads)
{
    return open_demo(DEMO_DRAFTER, sessions, threads);
}

static spc_engine *toy_party(int32_t sessions, int32_t threads)
{
    static toy_pair pair = {.seed = 31, .vocab = 40, .context = 128, .spread = 4};

    (void)threads;
    pair.sessions = sessions;
    return toy_engine(&pair);
}

static void expect_no_company(spc_engine *(*open)(int32_t sessions, int32_t threads),
                              int32_t most_threads)
{
    decoded alone[PARTY], d[PARTY];

    run_alone(open, alone);
    for (int32_t threads = 1; threads <= most_threads; threads++) {
        spc_engine *engine = open(PARTY, threads);

        for (int32_t i = 0; i < SCHEDULES; i++) {
            char what[64];

            (void)snprintf(what, sizeof what, "%s, %d threads", schedules[i].name, (int)threads);
            run_party(engine, schedules[i].who, d);
            expect_same_party(d, alone, what);
        }
        spc_engine_close(engine);
    }
}

Test(host_session_company, tokens_do_not_depend_on_company)
{
    expect_no_company(toy_party, 1);
}

Test(host_session_company, tokens_of_the_demo_pair_do_not_depend_on_company_or_threads)
{
    expect_no_company(demo_party, 3);
}

/* ---- sessions from several threads ---- */

enum { RUNNERS = 4 };

typedef struct {
    spc_engine *engine;
    int32_t member;
    decoded d;
} runner;

static void *run_member(void *user)
{
    runner *r = user;
    spc_session *s;

    for (int32_t again = 0; again < 3; again++) { /* slots change hands in between */
        s = open_member(r->engine, r->member);
        (void)spc_session_run(s, NULL);
        r->d = decoded_of(s);
        spc_session_close(s);
    }
    return NULL;
}

static void expect_threads_apart(spc_engine *(*open)(int32_t sessions, int32_t threads))
{
    decoded alone[PARTY];
    runner r[RUNNERS];
    pthread_t thread[RUNNERS];
    spc_engine *engine = open(RUNNERS, 1);

    run_alone(open, alone);
    for (int32_t i = 0; i < RUNNERS; i++) {
        r[i].engine = engine;
        r[i].member = i;
        cr_assert_eq(pthread_create(&thread[i], NULL, run_member, &r[i]), 0);
    }
    for (int32_t i = 0; i < RUNNERS; i++) (void)pthread_join(thread[i], NULL);
    for (int32_t i = 0; i < RUNNERS; i++) {
        cr_expect_eq(r[i].d.status, SPC_OK);
        cr_expect(same_tokens(&r[i].d, &alone[i]), "session %d", (int)i);
    }
    spc_engine_close(engine);
}

Test(host_session_company, sessions_run_from_several_threads_at_once)
{
    expect_threads_apart(toy_party);
    expect_threads_apart(demo_party);
}

/* ---- who comes first goes first ---- */

typedef struct {
    spc_engine *engine;
    pthread_t other[2];
    spc_session *session[3]; /* the first one is stepped by the test, the others by a thread each */
    char order[8];           /* whose tokens came, written by who is inside the engine */
    int32_t tokens;
} queue_scene;

static int32_t waiting(spc_engine *engine)
{
    int32_t count = 0;

    (void)pthread_mutex_lock(&engine->line.lock);
    for (spc_caller *c = engine->line.first; c; c = c->behind) count++;
    (void)pthread_mutex_unlock(&engine->line.lock);
    return count;
}

static void *step_once(void *user)
{
    (void)spc_session_step(user, NULL);
    return NULL;
}

static void note_order(queue_scene *q, char who)
{
    q->order[q->tokens++] = who;
}

/* While the engine is in its hands the others come, one behind the other. */
static bool first_in_line(void *user, const spc_token *token)
{
    queue_scene *q = user;

    (void)token;
    note_order(q, 'a');
    for (int32_t i = 0; i < 2 && q->tokens == 1; i++) {
        cr_assert_eq(pthread_create(&q->other[i], NULL, step_once, q->session[i + 1]), 0);
        while (waiting(q->engine) <= i) (void)sched_yield();
    }
    return true;
}

static bool second_in_line(void *user, const spc_token *token)
{
    (void)token;
    note_order(user, 'b');
    return true;
}

static bool third_in_line(void *user, const spc_token *token)
{
    (void)token;
    note_order(user, 'c');
    return true;
}

Test(host_session_company, threads_that_wait_are_not_overtaken_by_one_that_steps_in_a_loop)
{
    const spc_token_fn on_token[] = {first_in_line, second_in_line, third_in_line};
    queue_scene q = {.engine = toy_party(3, 1)};

    for (int32_t i = 0; i < 3; i++) {
        spc_session_options o = options_of("verifier-only", 0, 0);
        prompt p = prompt_made(4, q.engine->vocab, 7);

        o.on_token = on_token[i];
        o.user = &q;
        o.ignore_stop = true;
        q.session[i] = open_session(q.engine, &o, &p);
    }
    for (int32_t i = 0; i < 3; i++) cr_expect_eq(spc_session_step(q.session[0], NULL), SPC_OK);
    for (int32_t i = 0; i < 2; i++) (void)pthread_join(q.other[i], NULL);
    cr_expect_str_eq(q.order, "abcaa");
    for (int32_t i = 0; i < 3; i++) spc_session_close(q.session[i]);
    spc_engine_close(q.engine);
}
