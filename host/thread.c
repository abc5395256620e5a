/* SPDX-License-Identifier: Apache-2.0 */
/* thread.c - a thread begins with the signals blocked that its creator has blocked. */
#include "thread.h"

#include <signal.h>
#include <stddef.h>

bool spc_thread_start(pthread_t *thread, void *(*run)(void *user), void *user)
{
    static const int own[] = {SIGSEGV, SIGBUS,  SIGFPE,  SIGILL,
                              SIGTRAP, SIGABRT, SIGPROF, SIGVTALRM};
    sigset_t all, before;
    bool started;

    (void)sigfillset(&all);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) (void)sigdelset(&all, own[i]);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    started = pthread_create(thread, NULL, run, user) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}
