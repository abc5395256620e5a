/* SPDX-License-Identifier: Apache-2.0 */
/* details.h - why tokens came about must be the same wherever the models run. */
#ifndef SPC_TESTS_DETAILS_H
#define SPC_TESTS_DETAILS_H

#include "places.h"

#include <math.h>

static const char *const detailed[] = {"strict",          "opt:alpha=0.2",      "lossy:alpha=0.3",
                                       "diff:alpha=0.05", "token-v3:alpha=0.5", "verifier-only"};
enum { DETAILED = sizeof detailed / sizeof *detailed };

/* Tokens of one parity, but at every fourth place. */
static inline bool allow_half(void *user, const int32_t *token, int32_t count, uint32_t *allowed,
                              int32_t vocab)
{
    (void)user;
    for (int32_t v = 0; v < vocab; v++) {
        if (v % 2 == token[count - 1] % 2) allowed[v / 32] |= 1u << v % 32;
    }
    return count % 4 != 0;
}

/* Edit logits in every way. */
static inline void edit_all(spc_session_options *o)
{
    static const spc_logit_bias bias[] = {{VOCAB - 1, 1.5f}, {3, -INFINITY}, {0, 0.5f}};

    o->repetition_penalty = 1.2f;
    o->presence_penalty = 0.3f;
    o->frequency_penalty = 0.2f;
    o->logit_bias = bias;
    o->logit_bias_count = 3;
    o->on_mask = allow_half;
}

/* The same tokens with the same details, but for the last bits of logits. */
static inline void compare_details(placed *one, placed *other, int32_t laws, const char *what)
{
    for (int32_t r = 0; r < laws; r++) {
        for (int32_t mode = 0; mode < 5; mode++) {
            spc_session_options o = options_of(detailed[r], 3, 1);
            prompt p = prompt_made(3, VOCAB, (uint32_t)r + 3);
            spc_session *s[2];
            const spc_token_detail *d[2];
            const spc_logprob *l[2];
            int32_t count[2];

            o.details = o.logprobs = o.ignore_stop = true;
            o.top_logprobs = 1;
            o.max_tokens = 20;
            o.bonus = (spc_bonus_mode)(mode % 3);
            if (mode == 4) edit_all(&o);
            o.verify = mode == 3 ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
            for (int32_t i = 0; i < 2; i++) {
                s[i] = open_session(i ? other->engine : one->engine, &o, &p);
                cr_assert_eq(spc_session_run(s[i], NULL), SPC_OK);
                d[i] = spc_session_details(s[i], &count[i]);
                l[i] = spc_session_logprobs(s[i], &count[i]);
            }
            cr_assert_eq(count[0], 20);
            cr_assert_eq(count[1], 20);
            for (int32_t i = 0; i < 20; i++) {
                const spc_row_detail *a = &d[0][i].row, *b = &d[1][i].row;

                cr_expect_eq(d[0][i].draft, d[1][i].draft);
                if (fabsf(a->target - a->drafter) > 1e-4f) { /* or the last bits tell these apart */
                    cr_expect_eq(a->fate, b->fate, "%s, %s", what, detailed[r]);
                }
                cr_expect_eq(d[0][i].origin, d[1][i].origin);
                cr_expect_float_eq(a->log_target, b->log_target, 1e-3f, "%s, %s", what,
                                   detailed[r]);
                cr_expect_float_eq(a->log_verifier, b->log_verifier, 1e-3f, "%s", what);
                cr_expect_float_eq(a->drafter, b->drafter, 1e-4f, "%s, %s", what, detailed[r]);
                cr_expect_float_eq(a->tv, b->tv, 1e-3f, "%s, %s", what, detailed[r]);
                cr_expect_eq(a->coin, b->coin);
                for (int32_t k = 2 * i; k < 2 * i + 2; k++) { /* the token, the most probable one */
                    cr_expect_float_eq(l[0][k].value, l[1][k].value, 1e-3f, "%s", what);
                }
                cr_expect_eq(l[0][2 * i].token, l[1][2 * i].token);
            }
            for (int32_t i = 0; i < 2; i++) spc_session_close(s[i]);
        }
    }
}

#endif
