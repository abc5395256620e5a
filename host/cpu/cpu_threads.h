/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_threads.h - a small team of threads that splits loops.
 *
 * One loop at a time, from one caller.  A thread that finds no work spins for some microseconds,
 * because the next loop of a model comes at once, and then sleeps. */
#ifndef SPC_HOST_CPU_THREADS_H
#define SPC_HOST_CPU_THREADS_H

#include <stdint.h>

#include <spc/status.h>

typedef struct spc_team spc_team;

/* Cores this process may run on (not their hardware threads), at least 1; no more than a
 * container's share of time is worth. */
int32_t spc_team_cores(void);
/* The same where that is said elsewhere, as of spc_cpu_quota. */
int32_t spc_team_cores_at(const char *root);

/* Of so many threads those of a drafter that runs beside its verifier: a quarter, one at least. */
int32_t spc_team_quarter(int32_t threads);

enum { SPC_TEAM_MAX = 256 };

/* count threads, the caller's own included; 0: one per core this process may use. */
spc_status spc_team_open(int32_t count, spc_team **out, spc_error *err);
void spc_team_close(spc_team *team); /* NULL is allowed */
int32_t spc_team_count(const spc_team *team);

/* Part of a loop: items [from, to), on thread 0 .. count - 1. */
typedef void (*spc_team_fn)(void *user, int32_t thread, int32_t from, int32_t to);

/* Run fn over items [0, count), cut into one range per thread, each range but the last a multiple
 * of grain.  Returns when all are done.  Allocates nothing. */
void spc_team_run(spc_team *team, int32_t count, int32_t grain, spc_team_fn fn, void *user);

#endif
