/* SPDX-License-Identifier: Apache-2.0 */
/* soak.h - between the two files of the soak: soak.c runs engines and says what must hold,
 * soak_session.c does things to sessions. */
#ifndef SPC_TESTS_SOAK_H
#define SPC_TESTS_SOAK_H

#include "host/session.h"

enum { SOAK_MEMBERS = 9, SOAK_CONTEXT = 160, SOAK_STOPS = 4 };

/* Folders under tests/vectors, and n-grams as a drafter; verifier NULL: the demo pair, drafter
 * NULL: none. */
typedef struct {
    const char *verifier, *drafter;
} soak_models;

/* Decoding asked for, so that it can be asked for again. */
typedef struct {
    spc_session_options options;
    int32_t prompt[SOAK_CONTEXT], count;
    int32_t stop_token[SOAK_STOPS];
    spc_logit_bias bias[2];
    int32_t most; /* tokens after which the callback wants no more; 0: all */
    int32_t told; /* tokens that it was told of */
} soak_task;

typedef struct {
    spc_session *session; /* NULL: none is open */
    soak_task task;
    bool cancelled;
} soak_member;

typedef struct {
    int64_t opened, refused, restarted, cancelled, steps, compared;
    int64_t looked_up; /* drafts of n-gram drafters */
    int64_t edited;    /* sessions whose logits were */
} soak_done;

typedef struct {
    spc_engine *engine, *alone; /* alone: for one session at a time */
    int32_t context;
    soak_member member[SOAK_MEMBERS];
    soak_done done; /* by all engines */
} soak_place;

/* Random numbers of the run: 0 .. n - 1; true in so many of a hundred cases. */
uint32_t soak_below(uint32_t n);
bool soak_chance(uint32_t percent);

/* Say what is wrong, and end the program. */
void soak_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Open a session of random options and prompt, in a member that has none; engines may refuse it. */
void soak_open(soak_place *place, soak_member *m);
/* Another prompt, often with the beginning of what is there. */
void soak_restart(soak_place *place, soak_member *m);
void soak_cancel(soak_place *place, soak_member *m);
/* Run it to its end, or until it waits. */
void soak_run(soak_place *place, soak_member *m);
/* Close it, if it is open, and now and then hold what it wrote against a session alone. */
void soak_close(soak_place *place, soak_member *m);

/* One step of so many of a hundred members, in some order; returns how many have not ended. */
int32_t soak_step(soak_place *place, uint32_t percent);

#endif
