/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_threads.c - threads have shares of the loop, in parts; who is done takes parts of others.
 *
 * The caller works too and waits only for parts that another thread has really begun: on an
 * oversubscribed machine a thread that does not get to run delays nobody.  A loop of few parts is
 * that many threads': the rest of a large team is neither written to nor woken. */
#include "cpu_threads.h"

#include "cpu_cores.h"
#include "cpu_quota.h"
#include "host/thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

enum {
    PARTS = 4,        /* of a thread's share: what can still be taken over when its core is lost */
    SPIN_NS = 200000, /* longer than the gaps inside a round, shorter than a time slice */
    SPIN_CHECK = 32,  /* pauses between two looks at the clock */
    CACHE_LINE = 64,
};

/* A thread and its share.  `claim` holds the number of the loop (32 bits), one past the share's
 * last part (16) and its next part (16) in one word: a thread that comes late cannot claim a part
 * of a loop it did not read. */
typedef struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t claim;
    _Atomic bool asleep; /* waits for a loop that it has a share of */
    spc_team *team;
    int32_t index;
    pthread_t thread; /* not of member 0, the caller */
} member;

struct spc_team {
    /* Counted by all. */
    _Alignas(CACHE_LINE) _Atomic int32_t pending; /* parts not finished */
    _Atomic bool caller_sleeps;

    /* Looked at by whoever waits, seldom written. */
    _Alignas(CACHE_LINE) _Atomic bool stop;
    _Atomic int32_t sleepers; /* threads asleep */

    /* The loop.  Atomic because a late thread may read them while the next loop is written; what it
     * read is used only if its claim succeeds, and then it was not. */
    _Alignas(CACHE_LINE) _Atomic(spc_team_fn) fn;
    _Atomic(void *) user;
    _Atomic int32_t count;   /* items */
    _Atomic int32_t part;    /* items of one part */
    _Atomic int32_t sharers; /* threads that have a share */

    uint32_t number; /* of the loop; the caller's */
    pthread_mutex_t lock;
    pthread_cond_t work; /* there is a loop, or stop */
    pthread_cond_t done; /* pending fell to 0 */
    int32_t threads;     /* the caller included */
    int32_t started;     /* threads that exist, the caller included */
    member members[];    /* [threads] */
};

_Static_assert(SPC_TEAM_MAX *PARTS < 1 << 16, "parts fit the claim word");

/* ---- waiting -----------------------------------------------------------------------------------
 */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool has_part(uint64_t claim)
{
    return (claim & 0xffff) < (claim >> 16 & 0xffff);
}

/* Is something of the own share left, or nothing to come ever again?  (When others took the share
 * the loop gets along without this thread.) */
static bool has_work(const member *m)
{
    return has_part(atomic_load(&m->claim)) || atomic_load(&m->team->stop);
}

static bool is_done(const member *m)
{
    return atomic_load(&m->team->pending) == 0;
}

/* Spin until ready; false when it took too long. */
static bool spin(const member *m, bool (*ready)(const member *m))
{
    int64_t until = 0;

    for (;;) {
        for (int i = 0; i < SPIN_CHECK; i++) {
            if (ready(m)) return true;
            relax();
        }

        int64_t now = now_ns();

        if (until == 0) until = now + SPIN_NS;
        if (now >= until) return false;
    }
}

/* ---- work --------------------------------------------------------------------------------------
 */

/* Parts are finished; the last wake the caller. */
static void count_down(spc_team *t, int32_t parts)
{
    if (atomic_fetch_sub(&t->pending, parts) != parts || !atomic_load(&t->caller_sleeps)) return;
    (void)pthread_mutex_lock(&t->lock);
    (void)pthread_cond_signal(&t->done);
    (void)pthread_mutex_unlock(&t->lock);
}

/* Claim and run parts of one share until none is left.  They are counted together: all threads
 * count on one cache line. */
static void work_share(spc_team *t, int32_t index, _Atomic uint64_t *share)
{
    uint64_t claim = atomic_load(share);
    int32_t finished = 0;

    while (has_part(claim)) {
        spc_team_fn fn = atomic_load_explicit(&t->fn, memory_order_relaxed);
        void *user = atomic_load_explicit(&t->user, memory_order_relaxed);
        int32_t count = atomic_load_explicit(&t->count, memory_order_relaxed);
        int32_t part = atomic_load_explicit(&t->part, memory_order_relaxed);
        int32_t from = (int32_t)(claim & 0xffff);

        if (!atomic_compare_exchange_weak(share, &claim, claim + 1)) continue;
        from *= part;
        fn(user, index, from, from + (count - from < part ? count - from : part));
        finished++;
        claim = atomic_load(share);
    }
    if (finished > 0) count_down(t, finished);
}

/* The own share first, then what is left of the others', unless there is nothing left. */
static void work(spc_team *t, int32_t index)
{
    int32_t sharers = atomic_load_explicit(&t->sharers, memory_order_relaxed);

    work_share(t, index, &t->members[index].claim);
    for (int32_t i = 1; i <= sharers && atomic_load(&t->pending) > 0; i++) {
        work_share(t, index, &t->members[(index + i) % sharers].claim);
    }
}

static void *thread_main(void *argument)
{
    member *self = argument;
    spc_team *t = self->team;

    while (!atomic_load(&t->stop)) {
        if (!spin(self, has_work)) {
            (void)pthread_mutex_lock(&t->lock);
            /* Announced before looking again: the caller publishes, then looks for sleepers. */
            atomic_store_explicit(&self->asleep, true, memory_order_relaxed);
            (void)atomic_fetch_add(&t->sleepers, 1);
            while (!has_work(self)) (void)pthread_cond_wait(&t->work, &t->lock);
            (void)atomic_fetch_sub(&t->sleepers, 1);
            atomic_store_explicit(&self->asleep, false, memory_order_relaxed);
            (void)pthread_mutex_unlock(&t->lock);
        }
        work(t, self->index);
    }
    return NULL;
}

/* Of those that have a share; the others, if they are woken too, sleep on.
 *
 * Adding nothing to `sleepers` orders the shares, whose stores do not wait for each other, before
 * the look at it: a thread that counts itself later finds its share. */
static void wake_sleepers(spc_team *t, int32_t sharers)
{
    int32_t i = 1;

    if (atomic_fetch_add(&t->sleepers, 0) == 0) return;
    while (i < sharers && !atomic_load_explicit(&t->members[i].asleep, memory_order_relaxed)) i++;
    if (i >= sharers) return;
    (void)pthread_mutex_lock(&t->lock);
    (void)pthread_cond_broadcast(&t->work);
    (void)pthread_mutex_unlock(&t->lock);
}

static void await_end(spc_team *t)
{
    if (spin(&t->members[0], is_done)) return;
    (void)pthread_mutex_lock(&t->lock);
    /* Announced before looking again: the last thread counts down, then looks for
     * the caller. */
    atomic_store(&t->caller_sleeps, true);
    while (!is_done(&t->members[0])) (void)pthread_cond_wait(&t->done, &t->lock);
    atomic_store(&t->caller_sleeps, false);
    (void)pthread_mutex_unlock(&t->lock);
}

void spc_team_run(spc_team *t, int32_t count, int32_t grain, spc_team_fn fn, void *user)
{
    assert(count >= 0 && grain >= 1);
    if (count == 0) return;

    int64_t grains = ((int64_t)count + grain - 1) / grain;
    int64_t share = (int64_t)t->threads * PARTS;
    int64_t part = (grains + share - 1) / share * grain;

    if (t->threads == 1 || part >= count) {
        fn(user, 0, 0, count);
        return;
    }

    int32_t parts = (int32_t)((count + part - 1) / part);
    int32_t sharers = parts < t->threads ? parts : t->threads;

    t->number++;
    atomic_store_explicit(&t->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&t->user, user, memory_order_relaxed);
    atomic_store_explicit(&t->count, count, memory_order_relaxed);
    atomic_store_explicit(&t->part, (int32_t)part, memory_order_relaxed);
    atomic_store_explicit(&t->sharers, sharers, memory_order_relaxed);
    atomic_store_explicit(&t->pending, parts, memory_order_relaxed);
    for (int32_t i = sharers - 1; i >= 0; i--) {
        uint64_t next = (uint64_t)(parts * i / sharers);
        uint64_t end = (uint64_t)(parts * (i + 1) / sharers);

        atomic_store_explicit(&t->members[i].claim, (uint64_t)t->number << 32 | end << 16 | next,
                              memory_order_release);
    }
    wake_sleepers(t, sharers);
    work(t, 0);
    await_end(t);
}

/* ---- open and close
 * ---------------------------------------------------------------------------
 */

int32_t spc_team_cores_at(const char *root)
{
    int32_t cores = spc_cpu_cores(root), quota = spc_cpu_quota(root);

    if (quota > 0 && cores > quota) cores = quota;
    return cores > SPC_TEAM_MAX ? SPC_TEAM_MAX : cores;
}

int32_t spc_team_cores(void)
{
    return spc_team_cores_at("");
}

int32_t spc_team_quarter(int32_t threads)
{
    return threads >= 8 ? threads / 4 : 1;
}

static spc_team *new_team(int32_t count)
{
    size_t bytes = sizeof(spc_team) + (size_t)count * sizeof(member);
    spc_team *t = aligned_alloc(CACHE_LINE, (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);

    if (!t) return NULL;
    for (int32_t i = 0; i < count; i++) {
        atomic_init(&t->members[i].claim, 0);
        atomic_init(&t->members[i].asleep, false);
        t->members[i].team = t;
        t->members[i].index = i;
    }
    atomic_init(&t->pending, 0);
    atomic_init(&t->sleepers, 0);
    atomic_init(&t->caller_sleeps, false);
    atomic_init(&t->stop, false);
    atomic_init(&t->fn, NULL);
    atomic_init(&t->user, NULL);
    atomic_init(&t->count, 0);
    atomic_init(&t->part, 0);
    atomic_init(&t->sharers, 1);
    t->threads = count;
    t->started = 1;
    t->number = 0;
    if (pthread_mutex_init(&t->lock, NULL) != 0) goto no_lock;
    if (pthread_cond_init(&t->work, NULL) != 0) goto no_work;
    if (pthread_cond_init(&t->done, NULL) != 0) goto no_done;
    return t;
no_done:
    (void)pthread_cond_destroy(&t->work);
no_work:
    (void)pthread_mutex_destroy(&t->lock);
no_lock:
    free(t);
    return NULL;
}

spc_status spc_team_open(int32_t count, spc_team **out, spc_error *err)
{
    *out = NULL;
    if (count < 0 || count > SPC_TEAM_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "threads: expected 0 (one per core) to %d, found %d",
                             SPC_TEAM_MAX, (int)count);
    }
    if (count == 0) count = spc_team_cores();

    spc_team *t = new_team(count);

    if (!t) return spc_error_set(err, SPC_ENOMEM, "no memory for %d threads", (int)count);
    for (; t->started < count; t->started++) {
        member *m = &t->members[t->started];

        if (!spc_thread_start(&m->thread, thread_main, m)) {
            int32_t running = t->started;

            spc_team_close(t);
            return spc_error_set(err, SPC_ENOMEM,
                                 "only %d of %d threads could be started: lower threads",
                                 (int)running, (int)count);
        }
    }
    *out = t;
    return SPC_OK;
}

void spc_team_close(spc_team *t)
{
    if (!t) return;
    (void)pthread_mutex_lock(&t->lock);
    atomic_store(&t->stop, true);
    (void)pthread_cond_broadcast(&t->work);
    (void)pthread_mutex_unlock(&t->lock);
    for (int32_t i = 1; i < t->started; i++) (void)pthread_join(t->members[i].thread, NULL);
    (void)pthread_cond_destroy(&t->done);
    (void)pthread_cond_destroy(&t->work);
    (void)pthread_mutex_destroy(&t->lock);
    free(t);
}

int32_t spc_team_count(const spc_team *t)
{
    return t->threads;
}
