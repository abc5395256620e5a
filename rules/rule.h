/* SPDX-License-Identifier: Apache-2.0 */
/* rule.h - which rules there are, and their text form: "token-v3:alpha=0.5".
 *
 * A rule is a name, a number alpha and at most two switches.  The grammar, the ranges and the
 * meaning of every rule are in rules/README.md; what a rule does is in defer.h and target.h. */
#ifndef SPC_RULES_RULE_H
#define SPC_RULES_RULE_H

#include "portable.h"

/* id, name, shape, least alpha, largest alpha, bits of what the row facts must hold (row.h).
 *
 * Shapes: ROW chooses one model for the whole row; TOKEN keeps the drafter on a set of tokens;
 * LOSSY keeps the drafter within a factor; SEQUENTIAL is no one-round rule and belongs to a
 * strategy.  NONE in the range column: the rule has no alpha. */
#define SPC_RULE_MAP(X)                                                                   \
    X(STRICT, "strict", ROW, SPC_NO_ALPHA, 0, 0)                                          \
    X(LOSSY, "lossy", LOSSY, 0, SPC_BELOW_ONE, 0)                                         \
    X(CHOW, "chow", ROW, 0, 1, 0)                                                         \
    X(DIFF, "diff", ROW, -1, 1, 0)                                                        \
    X(OPT, "opt", ROW, SPC_ANY_LOW, SPC_ANY_HIGH, SPC_FACT_TV)                            \
    X(CHOW_LOG, "chow-log", ROW, 0, SPC_ANY_HIGH, SPC_FACT_ENTROPY)                       \
    X(DIFF_LOG, "diff-log", ROW, SPC_ANY_LOW, SPC_ANY_HIGH, SPC_FACT_ENTROPY)             \
    X(OPT_LOG, "opt-log", ROW, SPC_ANY_LOW, SPC_ANY_HIGH, SPC_FACT_ENTROPY | SPC_FACT_TV) \
    X(TOKEN_V1, "token-v1", TOKEN, -1, 1, 0)                                              \
    X(TOKEN_V2, "token-v2", TOKEN, -1, 1, 0)                                              \
    X(TOKEN_V3, "token-v3", TOKEN, -1, 1, 0)                                              \
    X(BILD, "bild", ROW, 0, SPC_ANY_HIGH, SPC_FACT_SURPRISE)                              \
    X(LOSSY_GREEDY, "lossy-greedy", TOKEN, 0, 1, 0)                                       \
    X(DRAFTER_ONLY, "drafter-only", SEQUENTIAL, SPC_NO_ALPHA, 0, 0)                       \
    X(VERIFIER_ONLY, "verifier-only", SEQUENTIAL, SPC_NO_ALPHA, 0, 0)

#define SPC_RULE_ENUM(id, name, shape, low, high, facts) SPC_RULE_##id,
typedef enum { SPC_RULE_MAP(SPC_RULE_ENUM) SPC_RULE_COUNT } spc_rule_kind;
#undef SPC_RULE_ENUM

typedef enum {
    SPC_SHAPE_ROW,
    SPC_SHAPE_TOKEN,
    SPC_SHAPE_LOSSY,
    SPC_SHAPE_SEQUENTIAL
} spc_rule_shape;

/* Row facts that cost a look at whole rows. */
enum { SPC_FACT_TV = 1, SPC_FACT_ENTROPY = 2, SPC_FACT_SURPRISE = 4 };

/* Which rows the gate reads: softmax of the logits as they are, or after temperature and
 * truncation. */
typedef enum { SPC_GATE_UNSCALED, SPC_GATE_PROCESSED } spc_gate;

/* A parsed rule.  Fill it with spc_rule_parse or spc_rule_make: the constants are computed there
 * once, in double, and rounded where they are used, so that every device compares the same numbers.
 */
typedef struct {
    int32_t kind; /* spc_rule_kind, as written */
    int32_t path; /* spc_rule_kind that is run: STRICT for instances that pick the verifier on every
                     row (rules.md 3.4.12), otherwise kind */
    int32_t gate; /* spc_gate */
    int32_t solve;   /* lossy: 1 solves beta, 0 takes beta = 1 */
    double alpha;    /* 0 where the rule has none */
    double keep;     /* 1 - alpha */
    double log_keep; /* ln(1 - alpha); -inf at alpha = 1 */
    double inverse;  /* 1 / (1 - alpha); 1 at alpha = 1, where it is not used */
} spc_rule;

#ifdef __cplusplus
extern "C" {
#endif

enum { SPC_RULE_TEXT_BYTES = 96, SPC_RULE_MESSAGE_BYTES = 320 };

/* Parse a rule text.  On failure returns false and writes one line that names the offending part
 * and what is known into message; *rule is untouched.
 *
 * text      terminated, e.g. "opt:alpha=0.2,gate=processed"
 * message   [SPC_RULE_MESSAGE_BYTES], may be NULL */
bool spc_rule_parse(const char *text, spc_rule *rule, char *message);

/* Write the canonical text: keys in a fixed order, defaults left out, numbers as the shortest
 * decimal that reads back to the same double.  spc_rule_parse of it gives the same rule.
 *
 * text   [SPC_RULE_TEXT_BYTES], terminated */
void spc_rule_format(const spc_rule *rule, char *text);

/* Build a rule from its parts.  false, and *rule untouched, when alpha is out of the rule's range.
 */
bool spc_rule_make(spc_rule_kind kind, double alpha, spc_gate gate, bool solve, spc_rule *rule);

/* Name and shape of a kind. */
const char *spc_rule_name(spc_rule_kind kind);
spc_rule_shape spc_rule_shape_of(spc_rule_kind kind);

#ifdef __cplusplus
}
#endif

/* Facts of a row (SPC_FACT_*) that a kind asks for. */
SPC_FN int32_t spc_rule_facts(spc_rule_kind kind)
{
#define SPC_RULE_FACTS(id, name, shape, low, high, facts) \
    case SPC_RULE_##id: return facts;
    switch (kind) {
        SPC_RULE_MAP(SPC_RULE_FACTS)
    default: return 0;
    }
#undef SPC_RULE_FACTS
}

/* Does the target distribution of this rule contain the drafter's distribution?  When not, no
 * drafter row is needed for a token that has no draft. */
SPC_FN bool spc_rule_uses_drafter(const spc_rule *rule)
{
    return rule->path != SPC_RULE_STRICT && rule->path != SPC_RULE_VERIFIER_ONLY;
}

#endif
