/* SPDX-License-Identifier: Apache-2.0 */
/* rule.h - which rules there are, and their text form: "token-v3:alpha=0.5".
 *
 * A rule is a name, a number alpha and at most two switches.  The grammar, the ranges and the
 * meaning of every rule are in rules/README.md; what a rule does is in defer.h and target.h. */
#ifndef SPC_RULES_RULE_H
#define SPC_RULES_RULE_H

#include <stdbool.h>
#include <stdint.h>

/* What a shared library of the rules shows. */
#if defined(_WIN32)
#define SPC_RULE_API
#else
#define SPC_RULE_API __attribute__((visibility("default")))
#endif

/* id, name, shape, key of its number, least and largest number, other keys, row facts.
 *
 * Shapes: ROW chooses one model for the whole row; TOKEN keeps the drafter on a set of tokens;
 * LOSSY keeps the drafter within a factor; MIX is any other one-round target; SEQUENTIAL is no
 * one-round rule and belongs to a strategy.  Key NONE: the rule has no number; the number is called
 * alpha in code, whatever its key.  Kinds that share a name stand together and differ in the key.
 * Other keys: bits SPC_HAS_*.  Row facts: bits SPC_FACT_* of what a decision needs (kinds.h). */
#define SPC_RULE_MAP(X)                                                                            \
    X(STRICT, "strict", ROW, NONE, 0, 0, 0, 0)                                                     \
    X(LOSSY, "lossy", LOSSY, ALPHA, 0, SPC_BELOW_ONE, SPC_HAS_BETA, 0)                             \
    X(CHOW, "chow", ROW, ALPHA, 0, 1, SPC_HAS_GATE, 0)                                             \
    X(DIFF, "diff", ROW, ALPHA, -1, 1, SPC_HAS_GATE, 0)                                            \
    X(OPT, "opt", ROW, ALPHA, SPC_ANY_LOW, SPC_ANY_HIGH, SPC_HAS_GATE, SPC_FACT_TV)                \
    X(CHOW_LOG, "chow-log", ROW, ALPHA, 0, SPC_ANY_HIGH, SPC_HAS_GATE, SPC_FACT_ENTROPY)           \
    X(DIFF_LOG, "diff-log", ROW, ALPHA, SPC_ANY_LOW, SPC_ANY_HIGH, SPC_HAS_GATE, SPC_FACT_ENTROPY) \
    X(OPT_LOG, "opt-log", ROW, ALPHA, SPC_ANY_LOW, SPC_ANY_HIGH, SPC_HAS_GATE,                     \
      SPC_FACT_ENTROPY | SPC_FACT_TV)                                                              \
    X(TOKEN_V1, "token-v1", TOKEN, ALPHA, -1, 1, SPC_HAS_GATE, 0)                                  \
    X(TOKEN_V2, "token-v2", TOKEN, ALPHA, -1, 1, SPC_HAS_GATE, 0)                                  \
    X(TOKEN_V3, "token-v3", TOKEN, ALPHA, -1, 1, SPC_HAS_GATE, 0)                                  \
    X(BILD, "bild", ROW, ALPHA, 0, SPC_ANY_HIGH, SPC_HAS_GATE, SPC_FACT_SURPRISE)                  \
    X(LOSSY_GREEDY, "lossy-greedy", TOKEN, ALPHA, 0, 1, 0, 0)                                      \
    X(TRUNCATE, "truncate", MIX, ALPHA, 0, 1, 0, 0)                                                \
    X(TRUNCATE_P, "truncate", MIX, TOP_P, SPC_ABOVE_ZERO, 1, 0, SPC_FACT_NUCLEUS)                  \
    X(TRUNCATE_Q, "truncate-q", MIX, ALPHA, 0, 1, 0, 0)                                            \
    X(HEAD, "head", MIX, ALPHA, -1, 1, 0, 0)                                                       \
    X(TYPICAL, "typical", MIX, EPS, 0, 1, 0, SPC_FACT_ENTROPY)                                     \
    X(ENSEMBLE, "ensemble", MIX, W, 0, 1, 0, 0)                                                    \
    X(FUZZY, "fuzzy", ROW, ALPHA, 0, SPC_ANY_HIGH, SPC_HAS_DIV, SPC_FACT_DIVERGENCE)               \
    X(MENTORED, "mentored", MIX, KL, 0, SPC_ANY_HIGH, 0, SPC_FACT_DIVERGENCE)                      \
    X(CACTUS, "cactus", MIX, DELTA, 0, SPC_ANY_HIGH, 0, 0)                                         \
    X(DRAFTER_ONLY, "drafter-only", SEQUENTIAL, NONE, 0, 0, 0, 0)                                  \
    X(VERIFIER_ONLY, "verifier-only", SEQUENTIAL, NONE, 0, 0, 0, 0)                                \
    X(SEQ_CHOW, "seq-chow", SEQUENTIAL, ALPHA, 0, 1, SPC_HAS_GATE, 0)                              \
    X(TOKEN_CHOW, "token-chow", SEQUENTIAL, ALPHA, 0, 1, SPC_HAS_GATE, 0)                          \
    X(BILD_DYNAMIC, "bild-dynamic", SEQUENTIAL, FALLBACK, 0, SPC_ANY_HIGH,                         \
      SPC_HAS_ROLLBACK | SPC_HAS_WINDOW, 0)

#define SPC_RULE_ENUM(id, name, shape, key, low, high, keys, facts) SPC_RULE_##id,
typedef enum { SPC_RULE_MAP(SPC_RULE_ENUM) SPC_RULE_COUNT } spc_rule_kind;
#undef SPC_RULE_ENUM

typedef enum {
    SPC_SHAPE_ROW,
    SPC_SHAPE_TOKEN,
    SPC_SHAPE_LOSSY,
    SPC_SHAPE_MIX,
    SPC_SHAPE_SEQUENTIAL
} spc_rule_shape;

/* Which rows the gate reads: softmax of the logits as they are, or after temperature and
 * truncation. */
typedef enum { SPC_GATE_UNSCALED, SPC_GATE_PROCESSED } spc_gate;

/* A parsed rule.  Fill it with spc_rule_parse or spc_rule_make: the constants are computed there
 * once, in double, and rounded where they are used, so that every device compares the same numbers.
 */
typedef struct {
    int32_t kind; /* spc_rule_kind, as written */
    int32_t path; /* spc_rule_kind that is run: STRICT for instances that pick the verifier on every
                     row (rules/README.md, "Worth knowing"), otherwise kind */
    int32_t gate; /* spc_gate */
    int32_t solve;   /* lossy: 1 solves beta, 0 takes beta = 1 */
    int32_t kl;      /* divergence the rule compares: 1 KL(p||q), 0 Jensen-Shannon */
    int32_t window;  /* bild-dynamic: most drafts between two looks of the verifier */
    double alpha;    /* the rule's number, whatever its key; 0 where it has none */
    double rollback; /* bild-dynamic: surprise beyond which a draft is taken back */
    double keep;     /* 1 - alpha */
    double log_keep; /* ln(1 - alpha); -inf from alpha = 1 on.  typical: ln(eps) */
    double inverse;  /* 1 / (1 - alpha); 1 from alpha = 1 on, where it is not used */
} spc_rule;

#ifdef __cplusplus
extern "C" {
#endif

/* Longest window of bild-dynamic: what a verifier call looks at beside its own token. */
#define SPC_WINDOW_MAX 16

enum { SPC_RULE_TEXT_BYTES = 96, SPC_RULE_MESSAGE_BYTES = 320, SPC_RULE_VALUES_BYTES = 40 };

/* Parse a rule text.  On failure returns false and writes one line that names the offending part
 * and what is known into message, in printable ASCII ('?' for other bytes that it quotes); *rule is
 * untouched.
 *
 * text      terminated, e.g. "opt:alpha=0.2,gate=processed"
 * message   [SPC_RULE_MESSAGE_BYTES], may be NULL */
SPC_RULE_API bool spc_rule_parse(const char *text, spc_rule *rule, char *message);

/* Write the canonical text: keys in a fixed order, defaults left out, numbers as the shortest
 * decimal that reads back to the same double.  spc_rule_parse of it gives the same rule.
 *
 * text   [SPC_RULE_TEXT_BYTES], terminated */
SPC_RULE_API void spc_rule_format(const spc_rule *rule, char *text);

/* Build a rule from its parts, further keys at their defaults.  false, and *rule untouched, when
 * alpha is out of the rule's range. */
SPC_RULE_API bool spc_rule_make(spc_rule_kind kind, double alpha, spc_gate gate, bool solve,
                                spc_rule *rule);

/* A key that a rule takes. */
typedef struct {
    const char *name;
    const char *standard;               /* its value unless given; NULL: it must be given */
    char values[SPC_RULE_VALUES_BYTES]; /* "between 0 and 1", "1 or solve" */
} spc_rule_key;

enum { SPC_RULE_KEYS_MAX = 4 };

/* The keys of a kind, in the order of the canonical text; returns how many. */
SPC_RULE_API int32_t spc_rule_list_keys(spc_rule_kind kind, spc_rule_key list[SPC_RULE_KEYS_MAX]);

/* Name and shape of a kind. */
SPC_RULE_API const char *spc_rule_name(spc_rule_kind kind);
SPC_RULE_API spc_rule_shape spc_rule_shape_of(spc_rule_kind kind);

#ifdef __cplusplus
}
#endif

#endif
