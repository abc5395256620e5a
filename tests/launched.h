/* SPDX-License-Identifier: Apache-2.0 */
/* launched.h - spc launch at work: what it says so far, the processes it has started, and what
 * becomes of all where one is harmed. */
#ifndef SPC_TESTS_LAUNCHED_H
#define SPC_TESTS_LAUNCHED_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
    pid_t pid;
    int out, err;
    char text[1 << 16]; /* [bytes] of stdout */
    char said[4096];    /* [said_bytes] of stderr */
    size_t bytes, said_bytes;
} launched;

/* Start `program` with arguments that begin with "launch" and end with NULL. */
void launched_start(launched *l, const char *program, const char *const *args);

/* Read what comes until there are `enough` bytes on stdout, or both streams end. */
void launched_read(launched *l, size_t enough);

/* Read all; its exit code, -N where signal N killed it. */
int launched_end(launched *l);

/* Send a signal to the process of a rank, or (-1) to launch; all must end with this exit code, and
 * none be left.  How long that took, in ms. */
int64_t launched_harm(launched *l, int ranks, int victim, int signal_number, int code);

/* Lines on stderr that are no statistics and do not say where models run. */
int launched_errors(const launched *l);

/* Start one rank by itself, as mpirun does; its pid.
 *
 * variable   name and value by turns, then NULL: set for it
 * args       argv, with the program's name and NULL at the end
 * out, err   files that it writes */
pid_t launched_rank(const char *program, const char *const *variable, const char *const *args,
                    const char *out, const char *err);

#endif
