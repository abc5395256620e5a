/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_thread.c - threads of the library do not take signals from those of the application. */
#include "host/thread.h"

#include <spc/spc.h>

#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static atomic_int handled;

static void on_signal(int number)
{
    (void)number;
    handled++;
}

static void *look_at_mask(void *user)
{
    (void)pthread_sigmask(SIG_BLOCK, NULL, user);
    return NULL;
}

Test(host_thread, a_thread_blocks_what_is_not_its_own_and_its_creator_what_it_did)
{
    sigset_t before, mask, after;
    pthread_t thread;

    (void)pthread_sigmask(SIG_BLOCK, NULL, &before);
    cr_assert(spc_thread_start(&thread, look_at_mask, &mask));
    (void)pthread_join(thread, NULL);
    (void)pthread_sigmask(SIG_BLOCK, NULL, &after);
    cr_expect(sigismember(&mask, SIGTERM) && sigismember(&mask, SIGINT));
    cr_expect(sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGCHLD));
    cr_expect_not(sigismember(&mask, SIGSEGV) || sigismember(&mask, SIGBUS));
    cr_expect_not(sigismember(&mask, SIGPROF));
    for (int number = 1; number < 32; number++) {
        cr_expect_eq(sigismember(&after, number), sigismember(&before, number), "%d", number);
    }
}

/* As a server does that opens its models first, and then waits for signals in one place. */
Test(host_thread, a_signal_that_is_blocked_after_an_engine_was_opened_is_pending)
{
    const struct timespec moment = {0, 50000000};
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    sigset_t mask, pending;

    spc_engine_options_init(&o);
    o.threads = 4;
    o.drafter_device = "cpu";
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    (void)signal(SIGUSR1, on_signal);
    (void)sigemptyset(&mask);
    (void)sigaddset(&mask, SIGUSR1);
    (void)pthread_sigmask(SIG_BLOCK, &mask, NULL);
    (void)kill(getpid(), SIGUSR1);
    (void)nanosleep(&moment, NULL);
    (void)sigpending(&pending);
    cr_expect_eq(handled, 0);
    cr_expect(sigismember(&pending, SIGUSR1));
    spc_engine_close(engine);
}
