/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_batch_shapes.c - batches of many sequences, rows of every published length and rows far
 * apart: each sequence is what spc_verify makes of it alone. */
#include "host_memory.h"
#include "toybatch.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "toyshard.h"

#include "toycrowd.h"

static void run(const spc_verify_batch *v, const char *what)
{
    spc_error err;

    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
}

static const toy_shard_calls cpu = {spc_cpu_verify_partial, spc_cpu_verify_combine, NULL, NULL};

Test(host_batch_shapes, sequences_of_a_large_ragged_batch_are_decided_as_alone)
{
    crowd c = crowd_of(4096, 37, CROWD_DRAFTS, toy_rules, TOY_RULES);
    int32_t sequences[] = {4096, 1000, 1};

    for (int i = 0; i < 3; i++) {
        spc_verify_batch v = crowd_batch(&c, sequences[i]);

        crowd_clear(&c);
        run(&v, "crowd");
        crowd_expect(&c, sequences[i], "crowd");
    }
    crowd_free(&c);
}

Test(host_batch_shapes, rows_of_every_length_padded_and_unaligned)
{
    static const char *const rules[] = {"strict", "opt:alpha=0.1"};

    for (size_t i = 0; i < sizeof crowd_vocabs / sizeof *crowd_vocabs; i++) {
        crowd c = crowd_of(2, crowd_vocabs[i], 1, rules, 2);
        spc_verify_batch v = crowd_batch(&c, 2);
        char what[64];

        (void)snprintf(what, sizeof what, "%d tokens", (int)c.vocab);
        crowd_clear(&c);
        run(&v, what);
        crowd_expect(&c, 2, what);
        for (int32_t world = 2; world <= 4; world += 2) {
            crowd_clear(&c);
            crowd_slices(&cpu, &c, world, what);
            crowd_expect(&c, 2, what);
        }
        crowd_free(&c);
    }
}

Test(host_batch_shapes, slices_of_a_large_ragged_batch)
{
    crowd c = crowd_of(600, 4100, CROWD_DRAFTS, toy_rules, 8);

    crowd_clear(&c);
    crowd_slices(&cpu, &c, 2, "slices");
    crowd_expect(&c, c.sequences, "slices");
    crowd_free(&c);
}

/* 2^32 elements and more lie between two rows; only what is read takes memory. */
Test(host_batch_shapes, rows_to_verify_may_lie_beyond_the_reach_of_32_bits)
{
    static const char *const rules[] = {"token-v3:alpha=0.5"};
    crowd c = crowd_of(3, 300, 2, rules, 1);
    const size_t stride = ((size_t)1 << 32) + 9, elements = (size_t)c.rows * stride;
    float *rows = mmap(NULL, elements * sizeof *rows, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    spc_verify_batch v = crowd_batch(&c, c.sequences);

    if (rows == MAP_FAILED) cr_skip_test("no address space for 100 GB");
    for (int64_t r = 0; r < c.rows; r++) {
        memcpy(rows + (size_t)r * stride, c.drafter + r * c.stride, 300 * sizeof *rows);
        memcpy(rows + (size_t)r * stride + 4096, c.verifier + r * c.stride, 300 * sizeof *rows);
    }
    v.drafter =
        (spc_logit_rows){.logits = {rows, SPC_LOGITS_F32}, .stride = (int64_t)stride, .width = 300};
    v.verifier = (spc_logit_rows){
        .logits = {rows + 4096, SPC_LOGITS_F32}, .stride = (int64_t)stride, .width = 300};
    crowd_clear(&c);
    run(&v, "far apart");
    crowd_expect(&c, c.sequences, "far apart");
    cr_assert_eq(munmap(rows, elements * sizeof *rows), 0);
    crowd_free(&c);
}
