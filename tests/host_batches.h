/* SPDX-License-Identifier: Apache-2.0 */
/* host_batches.h - batches in the host's memory, decided, and what spc_verify makes of their
 * sequences one by one. */
#ifndef SPC_TESTS_HOST_BATCHES_H
#define SPC_TESTS_HOST_BATCHES_H

#include "host_memory.h"
#include "toybatch.h"

static inline void run(const spc_verify_batch *v, const char *what)
{
    spc_error err;

    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
}

/* The rows of one, as the batch describes them. */
static inline void expect_described(const spc_verify_args *args, const spc_verdict *verdict,
                                    const spc_row_detail *want, const char *what)
{
    spc_row_detail detail[ROWS];
    spc_verify_args a = *args;

    if (verdict->status & SPC_STATUS_BAD_PARAM) return; /* nothing was decided */
    for (int32_t bonus = a.bonus; bonus < 2; bonus++) { /* what is not there is not described */
        a.bonus = bonus != 0;
        memset(detail, 0xff, sizeof detail);
        spc_verify_describe(&a, verdict, detail);
        for (int32_t i = 0; i <= a.drafts; i++) {
            cr_assert(memcmp(&detail[i], &want[i], sizeof *want) == 0,
                      "%s, row %d: fate %d, want %d", what, (int)i, (int)detail[i].fate,
                      (int)want[i].fate);
        }
    }
}

/* The sequences of a batch over these rows, by spc_verify. */
static inline void expect_one_by_one(const batch *b, const float *drafter, const float *verifier,
                                     bool with_stats, const char *what)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        size_t first = (size_t)b->row[s] * (size_t)b->stride;
        spc_verify_args a = {.params = &b->params[s],
                             .drafter = drafter ? drafter + first : NULL,
                             .verifier = verifier + first,
                             .drafter_stride = b->stride,
                             .verifier_stride = b->stride,
                             .vocab = b->vocab,
                             .drafts = b->drafts[s],
                             .draft = b->draft + s * DRAFTS,
                             .stats = with_stats ? b->stats + s * DRAFTS : NULL,
                             .position = b->position[s],
                             .salt = b->salt[s],
                             .bonus = b->bonus[s] != 0};
        const results *out = b->out;
        spc_verdict want;

        spc_verify(&a, &want);
        cr_assert(memcmp(&out->verdict[s], &want, sizeof want) == 0,
                  "%s, sequence %d: count %d status %x token %d, want %d %x %d", what, s,
                  out->verdict[s].count, out->verdict[s].status, out->verdict[s].token[0],
                  want.count, want.status, want.token[0]);
        cr_assert_eq(out->count[s], want.count);
        cr_assert_eq(out->accepted[s], want.accepted);
        cr_assert_eq(out->status[s], want.status);
        for (int32_t i = 0; i < ROWS; i++) cr_assert_eq(out->token[s * ROWS + i], want.token[i]);
        if (with_stats) expect_described(&a, &want, &out->detail[s * ROWS], what);
    }
}

#endif
