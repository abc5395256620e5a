/* SPDX-License-Identifier: Apache-2.0 */
/* toydevice.h - batches on the device, in both of its forms, against the CPU's; behind
 * device_memory.h.
 *
 * A device has an exp2 of its own unless the build says SPC_EXACT_EXP2: then its two forms are
 * compared with each other to the bit, and with the CPU but for a few close decisions. */
#ifndef SPC_TESTS_TOYDEVICE_H
#define SPC_TESTS_TOYDEVICE_H

#include "toybatch.h"

/* A workspace, dirty but for what init cleans. */
static inline void *workspace_of(size_t bytes)
{
    void *memory = on_device(bytes);

    cr_assert_eq(spc_cuda_workspace_init(memory, bytes, NULL, NULL), SPC_OK);
    return memory;
}

/* Between launches nothing is counted, and no job is in use or open (cuda/workspace.cuh). */
static inline void expect_idle(const void *workspace, const char *what)
{
    enum { LATEST = 34 }; /* the job that was posted last */
    uint32_t word[SPC_QUEUE_HEADER_BYTES / 4];
    int32_t left[SPC_QUEUE_JOBS];

    ok(cudaMemcpy(word, workspace, sizeof word, cudaMemcpyDeviceToHost), "header");
    ok(cudaMemcpy(left, (const char *)workspace + sizeof word, sizeof left, cudaMemcpyDeviceToHost),
       "jobs");
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) {
        cr_assert(i == LATEST || word[i] == 0, "%s: word %zu of the workspace is %u", what, i,
                  (unsigned)word[i]);
    }
    for (int32_t i = 0; i < SPC_QUEUE_JOBS; i++) {
        cr_assert_leq(left[i], 0, "%s: job %d has %d pieces", what, (int)i, (int)left[i]);
    }
}

static inline void run(batch *b, const spc_verify_batch *v, const char *what)
{
    spc_error err;

    memset(b->out, 0x5a, sizeof *b->out);
    cr_assert_eq(spc_cuda_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    ok(cudaDeviceSynchronize(), "run");
}

#ifdef SPC_EXACT_EXP2
static inline void expect_as_on_cpu(const results *got, const results *want, const char *what)
{
    expect_same_results(got, want, what);
}

static inline bool same_float(float got, float want)
{
    return memcmp(&got, &want, sizeof got) == 0;
}
#else
static inline void expect_as_on_cpu(const results *got, const results *want, const char *what)
{
    static long sequences, others;

    for (int32_t s = 0; s < SEQUENCES; s++) {
        sequences++;
        others += memcmp(&got->verdict[s], &want->verdict[s], sizeof got->verdict[s]) != 0;
    }
    cr_assert(others * 50 <= sequences + 100, "%s: %ld of %ld sequences decided otherwise", what,
              others, sequences);
}

static inline bool same_float(float got, float want)
{
    return memcmp(&got, &want, sizeof got) == 0 || fabsf(got - want) <= 2e-6f * (1 + fabsf(want));
}
#endif

/* One batch on the CPU and in both forms on the device; queued launches times, for a launch leaves
 * the workspace as it found it. */
static inline void expect_same_again(batch *b, const spc_verify_batch *v, int launches,
                                     const char *what)
{
    static results want;
    spc_verify_batch queued = *v;
    char name[192];
    spc_error err;

    memset(b->out, 0x5a, sizeof *b->out);
    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    want = *b->out;
    run(b, v, what);
    expect_as_on_cpu(b->out, &want, what);
    want = *b->out;
    queued.workspace_bytes = spc_workspace_bytes(SEQUENCES, DRAFTS, v->vocab);
    queued.workspace = workspace_of(queued.workspace_bytes);
    for (int repeat = 0; repeat < launches; repeat++) {
        (void)snprintf(name, sizeof name, "%s, queued, launch %d", what, repeat);
        run(b, &queued, name);
        expect_same_results(b->out, &want, name);
        expect_idle(queued.workspace, name);
    }
    unshare(queued.workspace);
}

static inline void expect_same(batch *b, const spc_verify_batch *v, const char *what)
{
    expect_same_again(b, v, 1, what);
}

/* What a draw writes. */
typedef struct {
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];
    float log_probability[SEQUENCES];
} drawn;

static inline void expect_drawn(const drawn *got, const drawn *want, const char *what)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        const spc_row_stats *a = &got->stats[s], *b = &want->stats[s];

        cr_assert_eq(a->bad, b->bad, "%s: sequence %d", what, s);
        cr_assert(a->bad || (a->top == b->top && same_float(a->max, b->max) &&
                             same_float(a->sum, b->sum) && same_float(a->sum_one, b->sum_one) &&
                             same_float(a->moment, b->moment) && same_float(a->cut, b->cut)),
                  "%s: sequence %d: statistics", what, s);
        if (got->token[s] != want->token[s]) { /* only where exp2 differs, and rarely then */
            static int others;

            cr_assert(same_float(1, 1 + 1e-6f) && ++others < 3, "%s: token %d, want %d", what,
                      got->token[s], want->token[s]);
            continue;
        }
        cr_assert(same_float(got->log_probability[s], want->log_probability[s]), "%s: %g, want %g",
                  what, (double)got->log_probability[s], (double)want->log_probability[s]);
    }
}

#endif
