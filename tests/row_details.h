/* SPDX-License-Identifier: Apache-2.0 */
/* row_details.h - what a session tells of a token against the rows it came from, in double. */
#ifndef SPC_TESTS_ROW_DETAILS_H
#define SPC_TESTS_ROW_DETAILS_H

#include "decode.h"
#include "toy.h"

#include <math.h>

enum { LAWS = 8 };

/* As toy.c knows them. */
static const char *const laws[LAWS] = {"strict",         "opt:alpha=0.2",     "lossy:alpha=0.3",
                                       "chow:alpha=0.5", "diff:alpha=0.05",   "token-v3:alpha=0.5",
                                       "bild:alpha=1",   "truncate:alpha=0.5"};

/* One token of a session against the rows of logits [vocab] that it was decided by. */
static inline void expect_detail(const float *drafter_row, const float *verifier_row, int32_t vocab,
                                 const spc_session_options *o, int32_t token,
                                 const spc_token_detail *d)
{
    const toy_law law = {o->rule, o->temperature, o->nucleus};
    const spc_row_detail *r = &d->row;
    toy_law alone = {"strict", o->temperature, o->nucleus};
    double verifier[TOY_VOCAB], target[TOY_VOCAB], drafter[TOY_VOCAB];

    toy_target_of(verifier_row, verifier_row, vocab, &alone, verifier);
    toy_target_of(drafter_row, drafter_row, vocab, &alone, drafter);
    toy_target_of(drafter_row, verifier_row, vocab, &law, target);
    cr_expect_float_eq(exp((double)r->log_verifier), verifier[token], 1e-5, "%s", o->rule);
    if (d->draft < 0) {
        double found = exp((double)r->log_target);

        cr_expect_eq(d->origin, SPC_TOKEN_BONUS);
        cr_expect_eq(r->fate, SPC_FATE_BONUS);
        /* with bonus=verifier it is the verifier's own, but for a round without drafts */
        if (o->bonus == SPC_BONUS_VERIFIER && fabs(found - verifier[token]) < 1e-5) return;
        cr_expect_float_eq(found, target[token], 1e-5, "%s, bonus %d", o->rule, (int)o->bonus);
        return;
    }
    cr_expect_float_eq(exp((double)r->log_target), target[token], 1e-5, "%s", o->rule);
    cr_expect_float_eq((double)r->drafter, drafter[d->draft], 1e-5, "%s", o->rule);
    cr_expect_float_eq((double)r->verifier, verifier[d->draft], 1e-5, "%s", o->rule);
    cr_expect_float_eq((double)r->target, target[d->draft], 1e-5, "%s", o->rule);
    if (r->fate == SPC_FATE_REJECTED) {
        cr_expect_eq(d->origin, SPC_TOKEN_RESIDUAL);
        if (o->verify == SPC_VERIFY_TOKEN) cr_expect_geq(r->coin, r->target / r->drafter - 1e-5f);
        return;
    }
    cr_expect_eq(d->origin, SPC_TOKEN_ACCEPTED);
    cr_expect_eq(token, d->draft);
    if (o->verify != SPC_VERIFY_TOKEN) return;
    if (r->fate == SPC_FATE_KEPT) {
        cr_expect_geq(r->target, r->drafter - 1e-6f);
    } else {
        cr_expect_eq(r->fate, SPC_FATE_LUCKY);
        cr_expect_lt(r->coin, r->target / r->drafter + 1e-5f);
    }
}

#endif
