/* SPDX-License-Identifier: Apache-2.0 */
/* Whole rounds by enumeration, token-wise and block-wise, from the formulas alone; in double. */
#include "check.h"

#include "rules/block.h"

#include <criterion/criterion.h>

enum { V_MAX = 3, DEPTH = 7, NODES = 1094, LENGTH = 3, LAWS = 27 };

/* One row pair for every prefix up to DEPTH tokens. */
typedef struct {
    int32_t vocab;
    struct node {
        double q[V_MAX], p[V_MAX];
        check_law law;
    } node[NODES];
} tree;

/* Nodes of a prefix: number in base vocab with a leading 1, so that lengths do not mix. */
static int32_t child(const tree *t, int32_t index, int32_t token)
{
    return index * t->vocab + token - (t->vocab - 2);
}

static tree model; /* too large for a stack */

static void put(int32_t index, const ref_rows *r, spc_rule rule)
{
    struct node *n = &model.node[index];

    memcpy(n->q, r->q, (size_t)model.vocab * sizeof *n->q);
    memcpy(n->p, r->p, (size_t)model.vocab * sizeof *n->p);
    n->law = check_of(r, rule);
}

static void grow(int32_t index, int32_t depth, dice *d, spc_rule rule)
{
    float drafter[V_MAX], verifier[V_MAX];
    ref_rows r = ref_rows_of(model.vocab);

    dice_rows(d, ROWS_RANDOM, model.vocab, 1.2, drafter, verifier);
    ref_fill(&r, drafter, verifier, &ref_plain);
    put(index, &r, rule);
    ref_rows_free(&r);
    for (int32_t v = 0; depth > 1 && v < model.vocab; v++) {
        grow(child(&model, index, v), depth - 1, d, rule);
    }
}

static void plant(int32_t vocab, uint64_t seed, spc_rule rule)
{
    dice d = {seed};

    model.vocab = vocab;
    grow(1, DEPTH, &d, rule);
}

typedef struct {
    int32_t gamma;
    bool block;
    bool verifier_bonus;
    const int32_t *noise; /* [positions] level of the draft's noise, of 4; NULL: every draft */
} round_kind;

/* Chances of one round's outcomes: chance[k] that exactly k drafts are kept, last[k] the law of the
 * token behind them. */
typedef struct {
    double chance[5], last[5][V_MAX];
} outcomes;

static void residual_law(const struct node *n, double weight, bool block, double *law)
{
    for (int32_t v = 0; v < model.vocab; v++) {
        law[v] = block ? spc_block_residual(weight, n->law.pi[v], n->q[v]) : n->law.residual[v];
    }
    if (ref_sum(law, model.vocab) > 0) {
        ref_norm(law, model.vocab);
    } else {
        memcpy(law, n->law.pi, (size_t)model.vocab * sizeof *law);
    }
}

static outcomes judge(const struct node *const *row, const int32_t *draft, const round_kind *k)
{
    int32_t g = k->gamma;
    double left = 1, weight[5] = {1};
    outcomes o;

    memset(&o, 0, sizeof o);
    memcpy(o.last[g], k->verifier_bonus && g > 0 ? row[g]->p : row[g]->law.pi, sizeof o.last[g]);
    for (int32_t i = 0; i < g; i++) {
        weight[i + 1] = spc_block_weight(weight[i], row[i]->law.pi[draft[i]], row[i]->q[draft[i]]);
        residual_law(row[i], weight[i], k->block, o.last[i]);
    }
    if (!k->block) {
        for (int32_t i = 0; i < g; i++) {
            o.chance[i] = left * (1 - row[i]->law.accept[draft[i]]);
            left *= row[i]->law.accept[draft[i]];
        }
        o.chance[g] = left;
        return o;
    }
    for (int32_t i = g; i > 0; i--) {
        double stop = weight[g], residual = 0;

        for (int32_t v = 0; i < g && v < model.vocab; v++) {
            residual += spc_block_residual(weight[i], row[i]->law.pi[v], row[i]->q[v]);
        }
        if (i < g) stop = spc_block_chance(weight[i], residual);
        o.chance[i] = left * stop;
        left *= 1 - stop;
    }
    o.chance[0] += left;
    return o;
}

static int32_t power(int32_t base, int32_t exponent)
{
    int32_t x = 1;

    while (exponent-- > 0) x *= base;
    return x;
}

/* Add to law[] the chances of the first LENGTH tokens, given a prefix of `length` tokens: `index`
 * is its node, `number` its first LENGTH tokens in base vocab. */
static void walk(int32_t index, int32_t length, int32_t number, double chance, const round_kind *k,
                 double *law)
{
    if (length >= LENGTH) {
        law[number] += chance;
        return;
    }
    for (int32_t code = 0; code < power(model.vocab, k->gamma); code++) {
        const struct node *row[5];
        int32_t draft[4] = {0}, at[5], rest = code;
        double drawn = chance;

        at[0] = index;
        for (int32_t i = 0; i < k->gamma; i++) {
            row[i] = &model.node[at[i]];
            draft[i] = rest % model.vocab;
            rest /= model.vocab;
            drawn *= k->noise ? (double)(draft[i] == (k->noise[length + i] >= 4 * row[i]->q[0]))
                              : row[i]->q[draft[i]];
            at[i + 1] = child(&model, at[i], draft[i]);
        }
        row[k->gamma] = &model.node[at[k->gamma]];
        if (drawn <= 0) continue;

        outcomes o = judge(row, draft, k);

        for (int32_t kept = 0; kept <= k->gamma; kept++) {
            for (int32_t v = 0; v < model.vocab; v++) {
                double p = drawn * o.chance[kept] * o.last[kept][v];
                int32_t next = number;

                if (p <= 0) continue;
                for (int32_t i = 0; i < kept && length + i < LENGTH; i++) {
                    next = next * model.vocab + draft[i];
                }
                if (length + kept < LENGTH) next = next * model.vocab + v;
                walk(child(&model, at[kept], v), length + kept + 1, next, p, k, law);
            }
        }
    }
}

static void wanted_law(double *law)
{
    for (int32_t number = 0; number < power(model.vocab, LENGTH); number++) {
        int32_t index = 1;

        law[number] = 1;
        for (int32_t i = 0; i < LENGTH; i++) {
            int32_t v = number / power(model.vocab, LENGTH - 1 - i) % model.vocab;

            law[number] *= model.node[index].law.pi[v];
            index = child(&model, index, v);
        }
    }
}

static double distance(const round_kind *k)
{
    double got[LAWS] = {0}, wanted[LAWS] = {0};

    walk(1, 0, 0, 1, k, got);
    wanted_law(wanted);
    return ref_over(got, wanted, LAWS) / 2 + ref_over(wanted, got, LAWS) / 2;
}

/* Expected drafts kept in a round at the root. */
static double accepted(int32_t gamma, bool block)
{
    round_kind k = {gamma, block, false, NULL};
    double sum = 0;

    for (int32_t code = 0; code < power(model.vocab, gamma); code++) {
        const struct node *row[5];
        int32_t draft[4] = {0}, at = 1, rest = code;
        double drawn = 1;

        for (int32_t i = 0; i < gamma; i++) {
            row[i] = &model.node[at];
            draft[i] = rest % model.vocab;
            rest /= model.vocab;
            drawn *= row[i]->q[draft[i]];
            at = child(&model, at, draft[i]);
        }
        row[gamma] = &model.node[at];
        outcomes o = judge(row, draft, &k);
        for (int32_t kept = 1; kept <= gamma; kept++) sum += drawn * o.chance[kept] * kept;
    }
    return sum;
}

static void plant_rule(int r, uint64_t seed)
{
    int32_t middle = check_rules[r].count / 2;

    plant(3, seed,
          rule_of(check_rules[r].kind, check_rules[r].alpha[middle], false, check_rules[r].solve));
}

Test(rules_block, tokenwise_rounds_emit_the_product_of_the_targets)
{
    for (int r = 0; r < CHECK_RULES; r++) {
        plant_rule(r, 1);
        for (int32_t gamma = 0; gamma <= 3; gamma++) {
            round_kind k = {gamma, false, false, NULL};

            cr_expect_lt(distance(&k), 1e-12, "%s gamma %d", spc_rule_name(check_rules[r].kind),
                         (int)gamma);
        }
    }
}

Test(rules_block, blockwise_rounds_emit_the_same_law)
{
    for (int r = 0; r < CHECK_RULES; r++) {
        plant_rule(r, 1);
        for (int32_t gamma = 1; gamma <= 3; gamma++) {
            round_kind k = {gamma, true, false, NULL};

            cr_expect_lt(distance(&k), 1e-12, "%s gamma %d", spc_rule_name(check_rules[r].kind),
                         (int)gamma);
        }
    }
}

Test(rules_block, blocks_keep_at_least_as_many_drafts_in_expectation)
{
    for (int r = 0; r < CHECK_RULES; r++) {
        for (uint64_t seed = 1; seed <= 5; seed++) {
            plant_rule(r, seed);
            for (int32_t gamma = 1; gamma <= 3; gamma++) {
                cr_expect_geq(accepted(gamma, true), accepted(gamma, false) - 1e-12, "%s gamma %d",
                              spc_rule_name(check_rules[r].kind), (int)gamma);
            }
        }
    }
}

Test(rules_block, the_published_example_keeps_10_ninths_and_11_ninths)
{
    static const double q[] = {2.0 / 3, 1.0 / 3}, p[] = {1.0 / 3, 2.0 / 3};
    spc_rule strict = rule_of(SPC_RULE_STRICT, 0, false, false);
    ref_rows r = rows_from(q, p, 2);

    model.vocab = 2;
    for (int32_t index = 1; index < 1 << DEPTH; index++) put(index, &r, strict);
    cr_expect_float_eq(accepted(2, false), 10.0 / 9, 1e-12);
    cr_expect_float_eq(accepted(2, true), 11.0 / 9, 1e-12);
    ref_rows_free(&r);
}

/* Law over all draft noise, when a position's noise is used again by later rounds. */
static double reuse_distance(bool block)
{
    double got[LAWS] = {0}, wanted[LAWS] = {0};

    for (int32_t code = 0; code < 256; code++) {
        int32_t noise[8] = {code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6};
        round_kind k = {2, block, false, noise};

        walk(1, 0, 0, 1.0 / 256, &k, got);
    }
    wanted_law(wanted);
    return ref_over(got, wanted, LAWS);
}

/* Why blocks are salted. */
Test(rules_block, noise_may_be_used_again_by_tokenwise_rounds_but_not_by_blocks)
{
    spc_rule strict = rule_of(SPC_RULE_STRICT, 0, false, false);
    dice d = {5};

    plant(2, 5, strict);
    for (int32_t index = 1; index < 1 << DEPTH; index++) { /* q in quarters: 4 levels of noise */
        ref_rows r = ref_rows_of(2);

        r.q[0] = r.q1[0] = (1 + dice_below(&d, 3)) / 4.0;
        r.q[1] = r.q1[1] = 1 - r.q[0];
        memcpy(r.p, model.node[index].p, 2 * sizeof *r.p);
        memcpy(r.p1, r.p, 2 * sizeof *r.p1);
        put(index, &r, strict);
        ref_rows_free(&r);
    }
    cr_expect_lt(reuse_distance(false), 1e-12);
    cr_expect_gt(reuse_distance(true), 1e-3, "the negative control");
}

Test(rules_block, a_bonus_from_the_verifier_changes_the_law)
{
    round_kind k = {2, false, true, NULL};

    plant(3, 1, rule_of(SPC_RULE_TOKEN_V3, 0.8, false, false));
    cr_expect_gt(distance(&k), 1e-2, "the negative control");
    plant(3, 1, rule_of(SPC_RULE_STRICT, 0, false, false));
    cr_expect_lt(distance(&k), 1e-12, "strict: it is the target");
}

Test(rules_block, corner_cases_are_defined)
{
    cr_expect_eq(spc_block_chance(1, 0), 1, "nothing to draw from and nothing to reject");
    cr_expect_eq(spc_block_chance(1, 1.5e-16), 1, "nothing to reject, little to draw from");
    cr_expect_eq(spc_block_chance(0, 0), 0, "a draft that cannot be kept");
    cr_expect_eq(spc_block_weight(1, 0.3, 0), 0, "a draft that its row excludes");
    cr_expect_eq(spc_block_weight(1, 0.3, 0.3), 1);
    cr_expect_eq(spc_block_weight(0, 1, 5e-324), 0, "nothing revives a path, not even infinity");
    cr_expect_eq(spc_block_weight(0.5, 0.9, 0.3), 1, "capped");
    cr_expect_eq(spc_block_residual(0.5, 0.4, 0.3), 0);
}
