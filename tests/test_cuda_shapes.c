/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_shapes.c - the device's batch calls over many sequences, rows of every published length
 * and rows far apart: each sequence is what spc_verify makes of it alone.  Built twice, as
 * test_cuda_verify.c is; with an exp2 of the device's own, only what does not depend on its bits is
 * compared. */
#include "cuda/launch.h"

#define MEMORY_BYTE 0xa5 /* toybatch.h */
#include "device_memory.h"
#include "toybatch.h"

#include <sys/mman.h>

#include "toyshard.h"
#include "toyshard_device.h"

#include "toycrowd.h"

static void run(crowd *c, const spc_verify_batch *v, const char *what)
{
    spc_error err;

    crowd_clear(c);
    cr_assert_eq(spc_cuda_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    ok(cudaDeviceSynchronize(), what);
}

/* The first sequences on the device in both forms, whose verdicts are the same, and the CPU's. */
static void expect_both_forms(crowd *c, const spc_verify_batch *some, const char *what)
{
    const size_t n = (size_t)some->sequences, bytes = n * sizeof *c->verdict;
    spc_verify_batch queued = *some;
    spc_verdict *reference = malloc(bytes);

    run(c, some, what);
    memcpy(reference, c->verdict, bytes);
#ifdef SPC_EXACT_EXP2
    crowd_expect(c, some->sequences, what);
#endif
    queued.workspace_bytes = spc_workspace_bytes(some->sequences, CROWD_DRAFTS, c->vocab);
    queued.workspace = on_device(queued.workspace_bytes);
    cr_assert_eq(spc_cuda_workspace_init(queued.workspace, queued.workspace_bytes, NULL, NULL),
                 SPC_OK);
    run(c, &queued, what);
    cr_assert(memcmp(c->verdict, reference, bytes) == 0, "%s: the two forms differ", what);
    for (int32_t s = 0; s < some->sequences; s++) {
        cr_assert_eq(c->count[s], reference[s].count, "%s", what);
        cr_assert_eq(c->status[s], reference[s].status, "%s", what);
    }
    unshare(queued.workspace);
    free(reference);
}

/* Fibers are slow: leave something to do to one in `n` sequences. */
static void thin_out(crowd *c, int32_t n)
{
#ifdef SPC_TESTS_FIBERS_H
    for (int32_t s = 0; s < c->sequences; s++) {
        if (s % n > 0) c->drafts[s] = c->bonus[s] = 0;
    }
#else
    (void)c, (void)n;
#endif
}

Test(cuda_shapes, sequences_of_a_large_ragged_batch_are_decided_as_alone)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.1"};
    crowd c = crowd_of(4096, 37, CROWD_DRAFTS, rules, 3);
    const spc_verify_batch v = crowd_batch(&c, 4096);

    thin_out(&c, 160);
    expect_both_forms(&c, &v, "a crowd");
    crowd_free(&c);
}

Test(cuda_shapes, rows_of_every_length_padded_and_unaligned)
{
    static const char *const rules[] = {"strict"};

    for (size_t i = 0; i < sizeof crowd_vocabs / sizeof *crowd_vocabs; i++) {
        crowd c = crowd_of(1, crowd_vocabs[i], 1, rules, 1);
        const spc_verify_batch v = crowd_batch(&c, 1);
        char what[64];

        (void)snprintf(what, sizeof what, "%d tokens", (int)c.vocab);
        expect_both_forms(&c, &v, what);
        crowd_free(&c);
    }
}

/* More sequences than a block has threads to place their answers. */
Test(cuda_shapes, slices_of_a_large_ragged_batch)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.1"};
    crowd c = crowd_of(270, 37, 3, rules, 3);
    spc_verify_batch v = crowd_batch(&c, c.sequences);
    const size_t bytes = (size_t)c.sequences * sizeof *c.verdict;
    spc_verdict *whole = malloc(bytes);

    thin_out(&c, 40);
    run(&c, &v, "whole");
    memcpy(whole, c.verdict, bytes);
    crowd_clear(&c);
    crowd_slices(&device_shards, &c, 2, "slices");
    cr_assert(memcmp(c.verdict, whole, bytes) == 0);
    free(whole);
    crowd_free(&c);
}

/* Room for rows, most of which nobody touches; NULL: none. */
static float *reserve(size_t bytes)
{
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED) return NULL;
    fiber_memory_lent(memory, bytes);
    return memory;
#else
    void *memory = NULL;

    if (cudaMalloc(&memory, bytes) == cudaSuccess) return memory;
    (void)cudaGetLastError();
    return NULL;
#endif
}

Test(cuda_shapes, rows_may_lie_beyond_the_reach_of_32_bits)
{
    static const char *const rules[] = {"token-v3:alpha=0.5"};
    crowd c = crowd_of(1, 5000, 1, rules, 1);
    const size_t stride = ((size_t)1 << 32) + 9, bytes = (stride + 16384) * sizeof(float);
    float *rows = reserve(bytes);
    spc_verify_batch v = crowd_batch(&c, 1);

    if (!rows) cr_skip_test("no room for 17 GB");
    cr_assert_eq(c.rows, 2);
    for (int64_t r = 0; r < c.rows; r++) {
        float *to = rows + (size_t)r * stride;

        ok(cudaMemcpy(to, c.drafter + r * c.stride, 5000 * sizeof *to, cudaMemcpyHostToDevice),
           "copy");
        ok(cudaMemcpy(to + 8192, c.verifier + r * c.stride, 5000 * sizeof *to,
                      cudaMemcpyHostToDevice),
           "copy");
    }
    v.drafter = (spc_logit_rows){
        .logits = {rows, SPC_LOGITS_F32}, .stride = (int64_t)stride, .width = 5000};
    v.verifier = (spc_logit_rows){
        .logits = {rows + 8192, SPC_LOGITS_F32}, .stride = (int64_t)stride, .width = 5000};
    expect_both_forms(&c, &v, "far apart");
    crowd_free(&c);
}
