/* SPDX-License-Identifier: Apache-2.0 */
/* toyverify.h - one sequence's rows and drafts, and what every verdict on them has. */
#ifndef SPC_TESTS_TOYVERIFY_H
#define SPC_TESTS_TOYVERIFY_H

#include "toyround.h"

#include <criterion/criterion.h>

enum { V = 8, ROWS = 5 };

static float drafter[ROWS * V], verifier[ROWS * V];

static inline void fill(dice *d, rows_kind kind)
{
    for (int32_t i = 0; i < ROWS; i++) {
        dice_rows(d, kind, V, 1.5, drafter + i * V, verifier + i * V);
    }
}

static inline void draft_all(const spc_row_params *p, const spc_verify_args *a, int32_t *draft,
                             spc_row_stats *stats)
{
    for (int32_t i = 0; i < a->drafts; i++) {
        draft[i] = spc_draft_sample(a->drafter + i * a->drafter_stride, a->vocab, p,
                                    a->position + i, a->salt, &stats[i]);
    }
}

/* What holds for every verdict. */
static inline void expect_form(const spc_verify_args *a, const spc_verdict *out, const char *what)
{
    cr_expect(out->accepted >= 0 && out->accepted <= a->drafts, "%s", what);
    cr_expect(out->count == out->accepted + out->drawn, "%s", what);
    cr_expect(out->verified <= a->drafts && out->verified <= out->accepted + 1, "%s", what);
    for (int32_t i = 0; i < SPC_GAMMA_MAX + 2; i++) {
        if (i < out->accepted) cr_expect_eq(out->token[i], a->draft[i], "%s", what);
        if (i < out->count) cr_expect(out->token[i] >= 0 && out->token[i] < a->vocab, "%s", what);
        if (i >= out->count) cr_expect_eq(out->token[i], -1, "%s: slot %d is used", what, (int)i);
    }
}

static inline bool same_tokens(const spc_verdict *a, const spc_verdict *b)
{
    return a->count == b->count && a->accepted == b->accepted && a->drawn == b->drawn &&
           memcmp(a->token, b->token, sizeof a->token) == 0 && a->status == b->status;
}

#endif
