/* SPDX-License-Identifier: Apache-2.0 */
/* forked.h - the other ranks of a test's engine, each a process that follows. */
#ifndef SPC_TESTS_FORKED_H
#define SPC_TESTS_FORKED_H

#include <spc/spc.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LONG_MS = 30000, MOST_RANKS = 4 };

/* The other ranks: what each is to open, and where it writes why it ended. */
typedef struct {
    spc_place place;
    char meet[64];
    pid_t pid[MOST_RANKS];
    int told[MOST_RANKS];
} group;

/* A follower's life: exit code of its status, its message on `told`. */
static inline void follow(const spc_engine_options *options, int told)
{
    spc_engine *engine = NULL;
    spc_error error = {SPC_OK, ""};
    spc_status status = spc_engine_open(options, &engine, &error);

    if (status == SPC_OK) {
        spc_session_options o;
        spc_session *session;
        int32_t one = 1;

        spc_session_options_init(&o);
        o.rule = "verifier-only";
        if (spc_session_open(engine, &o, &one, 1, &session, &error) != SPC_EUSAGE) _exit(98);
        error.message[0] = '\0';
        status = spc_engine_follow(engine, &error);
    }
    spc_engine_close(engine);
    (void)!write(told, error.message, strlen(error.message));
    _exit(spc_status_exit_code(status));
}

/* Fork the other ranks; options[r] of each.  Rank 0's place is in the group. */
static inline void start(group *g, int32_t world, int32_t timeout_ms, spc_engine_options *options)
{
    static int count;

    (void)snprintf(g->meet, sizeof g->meet, "/tmp/spc-test-group-%ld-%d", (long)getpid(), count++);
    g->place = (spc_place){0, world, g->meet, timeout_ms};
    options[0].place = &g->place;
    (void)fflush(NULL);
    for (int32_t r = 1; r < world; r++) {
        int ends[2];

        cr_assert_eq(pipe(ends), 0);
        g->pid[r] = fork();
        cr_assert_geq(g->pid[r], 0);
        if (g->pid[r] == 0) {
            spc_place place = {r, world, g->meet, timeout_ms};

            options[r].place = &place;
            follow(&options[r], ends[1]);
        }
        (void)close(ends[1]);
        g->told[r] = ends[0];
    }
}

/* Wait for rank r; what it told goes to text. */
static inline int finish(const group *g, int32_t r, char text[SPC_ERROR_BYTES])
{
    ssize_t n = read(g->told[r], text, SPC_ERROR_BYTES - 1);
    int status;

    text[n > 0 ? n : 0] = '\0';
    (void)close(g->told[r]);
    cr_assert_eq(waitpid(g->pid[r], &status, 0), g->pid[r]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline void expect_all_end_well(const group *g)
{
    for (int32_t r = 1; r < g->place.world; r++) {
        char told[SPC_ERROR_BYTES];

        cr_expect_eq(finish(g, r, told), 0, "rank %d: %s", (int)r, told);
    }
}

/* What ranks 0 and 1 say. */
typedef struct {
    char of[2][SPC_ERROR_BYTES];
} refusals;

/* Rank 0 of two fails to open, and so does the other, each with a message that holds the text. */
static inline refusals expect_all_refused(spc_engine_options *all, const char *text)
{
    refusals said;
    spc_engine *engine;
    spc_error error;
    group g;

    start(&g, 2, LONG_MS, all);
    cr_expect_neq(spc_engine_open(&all[0], &engine, &error), SPC_OK);
    cr_expect_null(engine);
    (void)snprintf(said.of[0], sizeof said.of[0], "%s", error.message);
    cr_expect(strstr(said.of[0], text), "rank 0: %s", said.of[0]);
    cr_expect_neq(finish(&g, 1, said.of[1]), 0);
    cr_expect(strstr(said.of[1], text), "rank 1: %s", said.of[1]);
    return said;
}

#endif
