/* SPDX-License-Identifier: Apache-2.0 */
/* kinds.h - what a rule takes and needs, asked of its kind: the columns of SPC_RULE_MAP. */
#ifndef SPC_RULES_KINDS_H
#define SPC_RULES_KINDS_H

#include "portable.h"
#include "rule.h"

/* Row facts that cost a look at whole rows. */
enum {
    SPC_FACT_TV = 1,
    SPC_FACT_ENTROPY = 2,
    SPC_FACT_SURPRISE = 4,
    SPC_FACT_DIVERGENCE = 8,
    SPC_FACT_NUCLEUS = 16,
    SPC_FACT_BITS = 5
};

/* Keys beside the number. */
enum {
    SPC_HAS_GATE = 1,
    SPC_HAS_BETA = 2,
    SPC_HAS_DIV = 4,
    SPC_HAS_ROLLBACK = 8,
    SPC_HAS_WINDOW = 16
};

/* Is the kind one of these, a bit each?  A shift, where a switch over all kinds is a jump to an
 * address from memory: kernels ask while whole blocks wait. */
SPC_FN bool spc_rule_is_of(uint32_t kinds, int32_t kind)
{
    return kind >= 0 && kind < SPC_RULE_COUNT && (kinds >> kind & 1u) != 0;
}

#define SPC_FLOAT_MOST 3.40282347e38f

/* The rule's number as sums over rows are compared with it.  Beyond all floats it is the largest
 * one: an infinite divergence exceeds every number, and 0 times it is 0. */
SPC_FN spc_real spc_rule_number(spc_rule rule)
{
    const spc_real most = SPC_FLOAT_MOST;

    if (rule.alpha > (double)most) return most;
    return rule.alpha < -(double)most ? -most : (spc_real)rule.alpha;
}

/* Facts of a row (SPC_FACT_*) that a kind asks for. */
SPC_FN int32_t spc_rule_facts(spc_rule_kind kind)
{
#define SPC_RULE_FACT(id, name, shape, key, low, high, keys, facts) \
    | (uint32_t)((facts) >> bit & 1) << SPC_RULE_##id
    int32_t all = 0;

    for (int32_t bit = 0; bit < SPC_FACT_BITS; bit++) {
        if (spc_rule_is_of(0u SPC_RULE_MAP(SPC_RULE_FACT), (int32_t)kind)) all |= 1 << bit;
    }
    return all;
#undef SPC_RULE_FACT
}

/* Has it a gate? */
SPC_FN bool spc_rule_has_gate(int32_t kind)
{
#define SPC_RULE_GATE(id, name, shape, key, low, high, keys, facts) \
    | (uint32_t)(((keys)&SPC_HAS_GATE) != 0) << SPC_RULE_##id
    return spc_rule_is_of(0u SPC_RULE_MAP(SPC_RULE_GATE), kind);
#undef SPC_RULE_GATE
}

/* Does a round decide by this rule?  The sequential ones run one model at a time: they are
 * strategies of the engine, and no round has their law. */
SPC_FN bool spc_rule_is_one_round(int32_t kind)
{
#define SPC_RULE_ONE_ROUND(id, name, shape, key, low, high, keys, facts) \
    | (uint32_t)(SPC_SHAPE_##shape != SPC_SHAPE_SEQUENTIAL) << SPC_RULE_##id
    return spc_rule_is_of(0u SPC_RULE_MAP(SPC_RULE_ONE_ROUND), kind);
#undef SPC_RULE_ONE_ROUND
}

/* Has the rule no target distribution without a draft (its residual depends on which token was
 * drafted)?  It then needs bonus=step and verify=token. */
SPC_FN bool spc_rule_needs_draft(spc_rule_kind kind)
{
    return kind == SPC_RULE_CACTUS;
}

/* Does the rule make sense of drafts that come without a distribution (an n-gram drafter: all mass
 * on the draft)?  The others compare how sure the drafter is. */
SPC_FN bool spc_rule_takes_names(int32_t path)
{
    switch (path) {
    case SPC_RULE_STRICT:
    case SPC_RULE_LOSSY:
    case SPC_RULE_TOKEN_V2:
    case SPC_RULE_TOKEN_V3:
    case SPC_RULE_BILD:
    case SPC_RULE_LOSSY_GREEDY:
    case SPC_RULE_TRUNCATE:
    case SPC_RULE_TRUNCATE_P:
    case SPC_RULE_HEAD:
    case SPC_RULE_TYPICAL: return true;
    default: return false;
    }
}

/* Does the target distribution of this rule contain the drafter's distribution?  When not, no
 * drafter row is needed for a token that has no draft. */
SPC_FN bool spc_rule_uses_drafter(const spc_rule *rule)
{
    return rule->path != SPC_RULE_STRICT && rule->path != SPC_RULE_VERIFIER_ONLY &&
           rule->path != SPC_RULE_TRUNCATE && rule->path != SPC_RULE_TRUNCATE_P &&
           rule->path != SPC_RULE_CACTUS && rule->path != SPC_RULE_TOKEN_CHOW &&
           rule->path != SPC_RULE_SEQ_CHOW && rule->path != SPC_RULE_BILD_DYNAMIC;
}

#endif
