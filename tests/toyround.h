/* SPDX-License-Identifier: Apache-2.0 */
/* toyround.h - calls of the verification library with little to write. */
#ifndef SPC_TESTS_TOYROUND_H
#define SPC_TESTS_TOYROUND_H

#include "host/verify/chance.h"

#include "toyrows.h"

static inline spc_row_params params_of(const char *rule, float temperature)
{
    spc_row_params p;
    char message[SPC_RULE_MESSAGE_BYTES] = "";
    spc_error err;

    memset(&p, 0, sizeof p);
    cr_assert(spc_rule_parse(rule, &p.rule, message), "%s", message);
    p.sampling.temperature = temperature;
    p.sampling.top_p = 1;
    p.seed = 1;
    p.nucleus = 1;
    if (spc_rule_needs_draft((spc_rule_kind)p.rule.kind)) p.bonus = SPC_BONUS_STEP;
    cr_assert_eq(spc_params_check(&p, &err), SPC_OK, "%s: %s", rule, err.message);
    return p;
}

/* Rows [drafts + 1, vocab] of both models; every further field can be set afterwards. */
static inline spc_verify_args args_of(const spc_row_params *params, const float *drafter,
                                      const float *verifier, int32_t vocab, int32_t drafts,
                                      const int32_t *draft)
{
    spc_verify_args a;

    memset(&a, 0, sizeof a);
    a.params = params;
    a.drafter = drafter;
    a.verifier = verifier;
    a.drafter_stride = a.verifier_stride = vocab;
    a.vocab = vocab;
    a.drafts = drafts;
    a.draft = draft;
    a.position = 10;
    if (params->verify == SPC_VERIFY_BLOCK) a.salt = 11;
    return a;
}

/* The same options, for the reference in double. */
static inline ref_options options_of(const spc_row_params *p)
{
    ref_options o = {(double)p->sampling.temperature,    p->sampling.top_k,
                     (double)p->sampling.top_p,          (double)p->sampling.min_p,
                     p->rule.gate == SPC_GATE_PROCESSED, p->nucleus != 0};

    return o;
}

/* ref_law for a rule as parsed; path: as it is run. */
static inline void ref_law_of(ref_rows *r, const spc_rule *rule)
{
    bool kl = rule->kind == SPC_RULE_FUZZY && rule->kl;

    ref_law(r, (spc_rule_kind)rule->path, rule->alpha, rule->solve || kl);
}

/* One rule of every kind, all of them able to reject. */
static const char *const toy_rules[] = {"strict",
                                        "lossy:alpha=0.3",
                                        "lossy:alpha=0.3,beta=solve",
                                        "chow:alpha=0.5",
                                        "diff:alpha=0.05",
                                        "opt:alpha=0.2",
                                        "chow-log:alpha=0.9",
                                        "diff-log:alpha=0",
                                        "opt-log:alpha=0.1",
                                        "token-v1:alpha=0.2",
                                        "token-v2:alpha=0.2",
                                        "token-v3:alpha=0",
                                        "token-v3:alpha=0.5",
                                        "token-v3:alpha=1",
                                        "bild:alpha=1",
                                        "truncate:alpha=0.5",
                                        "truncate:top-p=0.6",
                                        "truncate-q:alpha=0.5",
                                        "head:alpha=0.3",
                                        "typical:eps=0.09",
                                        "ensemble:w=0.4",
                                        "fuzzy:alpha=0.1",
                                        "fuzzy:alpha=0.3,div=kl",
                                        "mentored:kl=0.1",
                                        "chow:alpha=0.5,gate=processed",
                                        "opt:alpha=-0.3,gate=processed",
                                        "opt-log:alpha=0.1,gate=processed",
                                        "token-v1:alpha=0.2,gate=processed",
                                        "token-v2:alpha=0.2,gate=processed",
                                        "token-v3:alpha=0.5,gate=processed",
                                        "bild:alpha=1,gate=processed"};
enum { TOY_RULES = sizeof toy_rules / sizeof *toy_rules };

#endif
