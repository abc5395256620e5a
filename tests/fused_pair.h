/* SPDX-License-Identifier: Apache-2.0 */
/* fused_pair.h - a tiny pair on the CUDA backend, whose rounds run as a whole or, for comparison,
 * are composed from the verbs; ways to decode with it. */
#ifndef SPC_TESTS_FUSED_PAIR_H
#define SPC_TESTS_FUSED_PAIR_H

#include "pairs.h"

#include "host/gpu/backend_cuda.h"

#include <cuda_runtime_api.h>

enum { CONTEXT = 48, SESSIONS = 4 };

typedef struct {
    tiny_model drafter, verifier;
    spc_engine *engine; /* by whole rounds, or by composed ones where it says so */
} fixture;

/* library: rows beyond 16 by cuBLASLt */
static inline fixture open_pair_of(int32_t which, bool plain, int32_t sessions, bool library,
                                   int32_t context)
{
    spc_limits limits = spc_engine_limits(sessions, context);
    spc_backend *backend;
    spc_runner *drafter, *verifier;
    spc_error error;
    const spc_backend_ops *ops = &spc_backend_cuda;
    fixture f;

    f.drafter = tiny_drafter(which);
    f.verifier = tiny_verifier(which);
    limits.plain = plain;
    limits.library = library;
    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    drafter = tiny_load_on(ops, &f.drafter, backend, &limits);
    verifier = tiny_load_on(ops, &f.verifier, backend, &limits);
    cr_assert_eq(spc_engine_assemble(ops, backend, drafter, verifier, f.verifier.plan->ids, context,
                                     sessions, &f.engine, &error),
                 SPC_OK, "%s", error.message);
    f.engine->composed = plain;
    f.engine->overlap.mode = SPC_OVERLAP_OFF; /* or they followed times of the machine */
    f.engine->turns.mode = SPC_OVERLAP_OFF;
    f.engine->verifier.config = f.verifier.config;
    f.engine->drafter.config = f.drafter.config;
    return f;
}

static inline fixture open_pair_for(int32_t which, bool plain, int32_t sessions, bool library)
{
    return open_pair_of(which, plain, sessions, library, CONTEXT);
}

static inline fixture open_pair(int32_t which, bool plain)
{
    return open_pair_for(which, plain, SESSIONS, false);
}

static inline void close_fixture(fixture *f)
{
    spc_engine_close(f->engine);
    tiny_close(&f->drafter);
    tiny_close(&f->verifier);
}

static const way ways[] = {
    {"strict", 1, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
    {"strict", 4, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
    {"strict", 4, 0, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
    {"strict", 3, 1, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
    {"strict", 3, 1, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
    {"opt:alpha=0.2", 0, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
    {"opt:alpha=0.2", 2, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
    {"token-v3:alpha=0.5", 3, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
    {"token-v3:alpha=0.5", 2, 1, SPC_BONUS_TARGET, SPC_VERIFY_BLOCK},
    {"token-v1:alpha=0.3", 5, 0.7f, SPC_BONUS_STEP, SPC_VERIFY_TOKEN},
    {"chow:alpha=0.5", 2, 1, SPC_BONUS_VERIFIER, SPC_VERIFY_TOKEN},
    {"verifier-only", 0, 1, SPC_BONUS_TARGET, SPC_VERIFY_TOKEN},
};
enum { WAYS = sizeof ways / sizeof *ways };

/* What two engines decoded alike. */
typedef struct {
    int64_t accepted, rejected, bonus, stopped, rounds, chained; /* the second one's */
} tally;

/* Every way, with two seeds each, by both: the same tokens and counters.
 *
 * which        number of the pair
 * max_tokens   0: as way_options says */
static inline tally decode_alike(const fixture *expected, const fixture *f, int32_t which,
                                 int32_t max_tokens)
{
    tally t = {0};

    for (int32_t i = 0; i < WAYS; i++) {
        for (uint64_t seed = (uint64_t)(i + which) % 3; seed < 3; seed += 2) {
            spc_session_options o = way_options(&ways[i], seed);
            prompt p = prompt_made(1 + (int32_t)seed, VOCAB, (uint32_t)(31 * i) + 7);
            decoded a, b;

            if (max_tokens > 0) o.max_tokens = max_tokens;
            a = decode(expected->engine, &o, &p);
            b = decode(f->engine, &o, &p);
            expect_same(&a, &b, ways[i].rule, seed);
            cr_expect_eq(a.stats.chained, 0);
            t.accepted += sum_of(b.stats.accepted);
            t.rejected += sum_of(b.stats.rejected);
            t.bonus += b.stats.bonus;
            t.stopped += b.finish == SPC_FINISH_STOP_TOKEN;
            t.rounds += b.stats.rounds;
            t.chained += b.stats.chained;
        }
    }
    return t;
}

/* Is a round sent before the one in front of it has been seen?  Not in builds whose graphs have no
 * conditional nodes (host/gpu/backend_cuda_record.c). */
static inline bool chains(void)
{
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    return !fiber_gpu.no_condition;
#else
    return CUDART_VERSION >= 13000;
#endif
}

/* For tests of nothing else. */
static inline void skip_without_chains(void)
{
    if (!chains()) cr_skip_test("CUDA before 13: no round is chained");
}

/* On fibers the device does nothing before it is waited for, and then what streams and events
 * allow.
 */
static inline void late_begin(void)
{
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    fiber_gpu.late = true;
#endif
}

static inline void late_end(void)
{
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    fiber_catch_up();
    fiber_gpu.late = false;
#endif
}

#endif
