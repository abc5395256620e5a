/* SPDX-License-Identifier: Apache-2.0 */
/* stopped.h - a process that is stopped for a while, as Ctrl-Z stops it, at the moments it chooses:
 * raise(SIGSTOP). */
#ifndef SPC_TESTS_STOPPED_H
#define SPC_TESTS_STOPPED_H

#include <criterion/criterion.h>

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Call work in a process of its own, which is continued ms after each time it stops.  What work
 * returns (0 to 255), or -N where signal N killed it.
 *
 * stops   receives how often it stopped */
static inline int stopped_run(long ms, int (*work)(void *user), void *user, int *stops)
{
    pid_t pid = fork();
    int status;

    cr_assert_geq(pid, 0);
    if (pid == 0) _exit(work(user));
    for (*stops = 0;; ++*stops) {
        cr_assert_eq(waitpid(pid, &status, WUNTRACED), pid);
        if (!WIFSTOPPED(status)) break;
        (void)nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
        cr_assert_eq(kill(pid, SIGCONT), 0);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#endif
