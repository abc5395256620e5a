/* SPDX-License-Identifier: Apache-2.0 */
/* spc_draft_sample and spc_verify with their own randomness: frequencies against exact laws.
 *
 * Seeds are fixed, so nothing here fails by chance twice: limits are those of chi_limit (a false
 * alarm has probability 1e-6 at most for seeds never seen), or 5 standard errors (6e-7). */
#include "toyround.h"

#include <criterion/criterion.h>
#include <stdio.h>

enum { ROUNDS = 200000 };

/* ---- single positions, 16 tokens ---- */

enum { V = 16 };

static void expect_single_position(const char *rule, float temperature, dice *d)
{
    spc_row_params p = params_of(rule, temperature);
    ref_options o = options_of(&p);
    ref_rows r = ref_rows_of(V);
    float drafter[V], verifier[V];
    int64_t count[V] = {0};

    dice_rows(d, ROWS_RANDOM, V, 1.2, drafter, verifier);
    ref_fill(&r, drafter, verifier, &o);
    ref_law_of(&r, &p.rule);
    for (p.seed = 0; p.seed < ROUNDS; p.seed++) {
        int32_t draft[1];
        spc_row_stats stats[1];
        spc_verify_args a = args_of(&p, drafter, verifier, V, 1, draft);
        spc_verdict out;

        draft[0] = spc_draft_sample(drafter, V, &p, 10, 0, stats);
        a.stats = stats;
        spc_verify(&a, &out);
        count[out.token[0]]++;
    }
    expect_counts(count, r.pi, V, rule);
    ref_rows_free(&r);
}

/* Half of the rules each, so that they may run on two cores. */
static void expect_rules(int first)
{
    for (int i = first; i < TOY_RULES; i += 2) {
        dice d = {100 + (uint64_t)i};

        expect_single_position(toy_rules[i], i % 3 ? 1 : 0.8f, &d);
    }
}

/* Its law is no target of a row: what each draft leads to, weighed by how often it is drafted. */
Test(host_verify_draw, frequencies_of_cactus_are_its_own_law)
{
    static const char *const rules[] = {"cactus:delta=0.05", "cactus:delta=0.5"};

    for (int i = 0; i < 2; i++) {
        dice d = {90 + (uint64_t)i};

        expect_single_position(rules[i], i ? 1 : 0.8f, &d);
    }
}

Test(host_verify_draw, frequencies_are_the_target_for_every_second_rule)
{
    expect_rules(0);
}

Test(host_verify_draw, frequencies_are_the_target_for_the_other_rules)
{
    expect_rules(1);
}

/* ---- adversarial drafter: narrow rows in reverse order show noise that is used twice ---- */

enum { NARROW = 8, GAMMA = 4 };

static void reversed_rows(int32_t rows, float *drafter, float *verifier)
{
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t v = 0; v < NARROW; v++) {
            drafter[i * NARROW + v] = 0.35f * (float)((v + i) % NARROW);
            verifier[i * NARROW + v] = 0.35f * (float)(NARROW - 1 - (v + i) % NARROW);
        }
    }
}

static void expect_positions(const char *rule)
{
    spc_row_params p = params_of(rule, 1);
    ref_options o = options_of(&p);
    float drafter[(GAMMA + 1) * NARROW], verifier[(GAMMA + 1) * NARROW];
    int64_t count[(GAMMA + 1) * NARROW] = {0};

    reversed_rows(GAMMA + 1, drafter, verifier);
    for (p.seed = 0; p.seed < ROUNDS; p.seed++) {
        int32_t draft[GAMMA];
        spc_row_stats stats[GAMMA];
        spc_verify_args a = args_of(&p, drafter, verifier, NARROW, GAMMA, draft);
        spc_verdict out;

        for (int32_t i = 0; i < GAMMA; i++) {
            draft[i] = spc_draft_sample(drafter + i * NARROW, NARROW, &p, 10 + i, 0, &stats[i]);
        }
        a.stats = stats;
        a.bonus = true;
        spc_verify(&a, &out);
        for (int32_t i = 0; i < out.count; i++) count[i * NARROW + out.token[i]]++;
    }
    for (int32_t i = 0; i <= GAMMA; i++) {
        ref_rows r = ref_rows_of(NARROW);
        char what[64];

        ref_fill(&r, drafter + i * NARROW, verifier + i * NARROW, &o);
        ref_law_of(&r, &p.rule);
        (void)snprintf(what, sizeof what, "%s position %d", rule, (int)i);
        expect_counts(count + i * NARROW, r.pi, NARROW, what);
        ref_rows_free(&r);
    }
}

Test(host_verify_draw, positions_of_a_round_have_their_laws_under_an_adversarial_drafter)
{
    expect_positions("strict");
    expect_positions("lossy:alpha=0.4,beta=solve");
    expect_positions("token-v3:alpha=0.3");
    expect_positions("token-v1:alpha=0.3");
}

/* ---- whole sequences: the next row depends on the last token ---- */

enum { LENGTH = 6, BUFFER = LENGTH + SPC_GAMMA_MAX + 2 };

typedef struct {
    int32_t vocab;
    float drafter[NARROW * NARROW], verifier[NARROW * NARROW]; /* row of the last token */
} chain;

static chain chain_of(uint64_t seed, int32_t vocab)
{
    chain c = {.vocab = vocab};
    dice d = {seed};

    for (int32_t v = 0; v < vocab; v++) {
        dice_rows(&d, ROWS_RANDOM, vocab, 1.2, c.drafter + v * vocab, c.verifier + v * vocab);
    }
    return c;
}

/* LENGTH tokens behind token 0 at position 9, in rounds of cyclic draft lengths. */
static void generate(const chain *c, const spc_row_params *p, const int32_t *gamma, int32_t gammas,
                     bool salted, int32_t *token)
{
    bool step = p->bonus == SPC_BONUS_STEP, block = p->verify == SPC_VERIFY_BLOCK;
    size_t row = (size_t)c->vocab;
    int32_t n = 0;

    for (int32_t turn = 0; n < LENGTH; turn++) {
        float drafter[BUFFER * NARROW], verifier[BUFFER * NARROW];
        int32_t g = gamma[turn % gammas], draft[BUFFER], last = n > 0 ? token[n - 1] : 0;
        spc_row_stats stats[BUFFER];
        spc_verify_args a = args_of(p, drafter, verifier, c->vocab, g + step, draft);
        spc_verdict out;

        a.position = 10 + n;
        a.salt = block && salted ? (uint32_t)a.position + 1 : 0;
        a.stats = stats;
        a.bonus = !step;
        for (int32_t i = 0; i <= g; i++) {
            memcpy(drafter + (size_t)i * row, c->drafter + (size_t)last * row, row * sizeof(float));
            memcpy(verifier + (size_t)i * row, c->verifier + (size_t)last * row,
                   row * sizeof(float));
            if (i >= a.drafts) break;
            last = draft[i] = spc_draft_sample(drafter + (size_t)i * row, c->vocab, p,
                                               a.position + i, a.salt, &stats[i]);
        }
        spc_verify(&a, &out);
        for (int32_t i = 0; i < out.count; i++) token[n++] = out.token[i];
    }
}

/* Law of the last of LENGTH tokens. */
static void chain_law(const chain *c, const spc_row_params *p, double *law)
{
    ref_options o = options_of(p);
    ref_rows r = ref_rows_of(c->vocab);

    memset(law, 0, (size_t)c->vocab * sizeof *law);
    law[0] = 1;
    for (int32_t i = 0; i < LENGTH; i++) {
        double next[NARROW] = {0};

        for (int32_t u = 0; u < c->vocab; u++) {
            ref_fill(&r, c->drafter + u * c->vocab, c->verifier + u * c->vocab, &o);
            ref_law_of(&r, &p->rule);
            for (int32_t v = 0; v < c->vocab; v++) next[v] += law[u] * r.pi[v];
        }
        memcpy(law, next, (size_t)c->vocab * sizeof *law);
    }
    ref_rows_free(&r);
}

static void expect_chain(const chain *c, const char *rule, int32_t gamma, spc_verify_mode verify,
                         spc_bonus_mode bonus)
{
    spc_row_params p = params_of(rule, 1);
    int64_t count[NARROW] = {0};
    double law[NARROW];
    char what[80];

    p.verify = (int32_t)verify;
    p.bonus = (int32_t)bonus;
    chain_law(c, &p, law);
    for (p.seed = 0; p.seed < 20000; p.seed++) {
        int32_t token[BUFFER];

        generate(c, &p, &gamma, 1, true, token);
        count[token[LENGTH - 1]]++;
    }
    (void)snprintf(what, sizeof what, "%s gamma %d verify %d bonus %d", rule, (int)gamma,
                   (int)verify, (int)bonus);
    expect_counts(count, law, c->vocab, what);
}

Test(host_verify_draw, the_last_of_six_tokens_has_its_law_for_any_gamma_and_verification)
{
    static const int32_t gammas[] = {0, 1, 3, 5};
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.1"};
    chain c = chain_of(7, NARROW);

    for (int k = 0; k < 3; k++) {
        for (int g = 0; g < 4; g++) {
            expect_chain(&c, rules[k], gammas[g], SPC_VERIFY_TOKEN, SPC_BONUS_TARGET);
            expect_chain(&c, rules[k], gammas[g], SPC_VERIFY_BLOCK, SPC_BONUS_TARGET);
        }
        expect_chain(&c, rules[k], 3, SPC_VERIFY_TOKEN, SPC_BONUS_STEP);
    }
}

/* With bonus=step a token is a function of its prefix, seed and position alone. */
Test(host_verify_draw, with_bonus_step_one_seed_gives_one_text_for_every_schedule)
{
    static const int32_t schedule[][3] = {{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {5, 5, 5}, {3, 0, 2}};
    chain c = chain_of(8, NARROW);
    int32_t differs = 0;

    for (int k = 0; k < TOY_RULES; k++) {
        spc_row_params p = params_of(toy_rules[k], 1);

        for (p.seed = 0; p.seed < 200; p.seed++) {
            int32_t first[BUFFER], other[BUFFER];

            p.bonus = SPC_BONUS_STEP;
            generate(&c, &p, schedule[0], 3, true, first);
            for (int s = 1; s < 5; s++) {
                generate(&c, &p, schedule[s], 3, true, other);
                cr_assert_eq(memcmp(first, other, LENGTH * sizeof *first), 0, "%s schedule %d",
                             toy_rules[k], s);
            }
            p.bonus = SPC_BONUS_TARGET;
            generate(&c, &p, schedule[2], 3, true, other);
            differs += memcmp(first, other, LENGTH * sizeof *first) != 0;
        }
    }
    cr_expect_gt(differs, 0, "N6: other kinds of bonus agree in law only");
}

/* q = (2/3, 1/3), p = (1/3, 2/3). */
Test(host_verify_draw, the_published_example_keeps_10_ninths_and_11_ninths)
{
    float low[] = {logf(2), 0, logf(2), 0, 0, 0}, high[] = {0, logf(2), 0, logf(2), 0, 0};

    for (int32_t verify = 0; verify < 2; verify++) {
        spc_row_params p = params_of("strict", 1);
        int64_t kept = 0;

        p.verify = verify;
        for (p.seed = 0; p.seed < ROUNDS; p.seed++) {
            int32_t draft[2];
            spc_row_stats stats[2];
            spc_verify_args a = args_of(&p, low, high, 2, 2, draft);
            spc_verdict out;

            for (int32_t i = 0; i < 2; i++) {
                draft[i] = spc_draft_sample(low + 2 * i, 2, &p, 10 + i, a.salt, &stats[i]);
            }
            spc_verify(&a, &out);
            kept += out.accepted;
        }
        /* a round keeps 0 to 2 drafts: a standard error is at most 1 / sqrt(ROUNDS) */
        cr_expect_lt(fabs((double)kept / ROUNDS - (verify ? 11.0 : 10.0) / 9), 5 / sqrt(ROUNDS));
    }
}

/* Rows of four tokens on which the drafter is even and the verifier so uneven that strict keeps a
 * draft with the given chance; what lossy and ensemble make of it follows from their formulas. */
Test(host_verify_draw, drafts_are_kept_at_the_rate_that_rows_are_made_for)
{
    enum { N = 4, DRAFTS = 5, MANY = 40000 };
    static const char *const rules[] = {"strict", "lossy:alpha=0.2", "ensemble:w=0.5"};
    static const double rates[] = {0.3, 0.6, 0.9};

    for (int k = 0; k < 9; k++) {
        spc_row_params p = params_of(rules[k % 3], 1);
        const double rate = rates[k / 3], high = 0.25 + (1 - rate), low = 0.25 - (1 - rate) / 3;
        const double keep[] = {rate, 0.25 + 3 * fmin(0.25, low / 0.8), 1 - (1 - rate) / 2};
        float even[(DRAFTS + 1) * N] = {0}, uneven[(DRAFTS + 1) * N];
        int64_t kept = 0, verified = 0;

        for (int i = 0; i < (DRAFTS + 1) * N; i++) uneven[i] = (float)log(i % N ? low : high);
        for (p.seed = 0; p.seed < MANY; p.seed++) {
            int32_t draft[DRAFTS];
            spc_row_stats stats[DRAFTS];
            spc_verify_args a = args_of(&p, even, uneven, N, DRAFTS, draft);
            spc_verdict out;

            for (int32_t i = 0; i < DRAFTS; i++) {
                draft[i] = spc_draft_sample(even, N, &p, 10 + i, a.salt, &stats[i]);
            }
            a.stats = stats;
            spc_verify(&a, &out);
            kept += out.accepted;
            verified += out.verified;
        }
        cr_expect_lt(fabs((double)kept / (double)verified - keep[k % 3]), 0.01,
                     "%s keeps %g of its drafts, not %g", rules[k % 3],
                     (double)kept / (double)verified, keep[k % 3]);
    }
}

/* Chi-square of all six tokens together, over its limit.  Drafter and verifier disagree, so that
 * many drafts are dropped. */
static double joint_excess(bool salted)
{
    enum { TEXTS = 1 << LENGTH, SEEDS = 60000 };
    static const int32_t gamma[] = {2};
    static const float low[] = {0.7f, 0, 0, 0.4f}, high[] = {0, 0.9f, 0.8f, 0};
    spc_row_params p = params_of("strict", 1);
    chain c = {.vocab = 2};
    int64_t count[TEXTS] = {0};
    double row[2][2], statistic = 0;

    p.verify = SPC_VERIFY_BLOCK;
    memcpy(c.drafter, low, sizeof low);
    memcpy(c.verifier, high, sizeof high);
    for (int v = 0; v < 2; v++) ref_softmax(high + 2 * v, 2, 1, row[v]);
    for (p.seed = 0; p.seed < SEEDS; p.seed++) {
        int32_t token[BUFFER], text = 0;

        generate(&c, &p, gamma, 1, salted, token);
        for (int32_t i = 0; i < LENGTH; i++) text = 2 * text + token[i];
        count[text]++;
    }
    for (int32_t text = 0; text < TEXTS; text++) {
        double expected = SEEDS;

        for (int32_t i = LENGTH - 1, last = 0; i >= 0; i--) {
            expected *= row[last][text >> i & 1];
            last = text >> i & 1;
        }
        cr_assert_gt(expected, 5);
        statistic += ((double)count[text] - expected) * ((double)count[text] - expected) / expected;
    }
    return statistic / chi_limit(TEXTS - 1);
}

/* Why blocks are salted. */
Test(host_verify_draw, blocks_without_salt_are_biased_and_with_salt_are_not)
{
    double salted = joint_excess(true), plain = joint_excess(false);

    cr_expect_lt(salted, 1, "%g of the limit", salted);
    cr_expect_gt(plain, 1, "the negative control: %g of the limit", plain);
}

/* ---- wide rows ---- */

enum { WIDE = 2 * SPC_TILE + 1000 };

/* A running sum in float would lose a tail of 9191 tokens at 1e-7 each. */
Test(host_verify_draw, a_far_tail_is_drawn_as_often_as_it_should)
{
    static float row[WIDE];
    spc_row_params p = params_of("strict", 1);
    int64_t tail = 0, last_tile = 0, draws = 30000;
    double mass = (WIDE - 1) * 1e-6, share = mass / (1 + mass);
    double last = share * (WIDE - 2 * SPC_TILE) / (WIDE - 1);

    for (int32_t v = 0; v < WIDE; v++) row[v] = v == 77 ? 0 : logf(1e-6f);
    for (p.seed = 0; p.seed < (uint64_t)draws; p.seed++) {
        spc_row_stats stats;
        int32_t token = spc_plain_sample(row, WIDE, &p, 10, &stats);

        tail += token != 77;
        last_tile += token >= 2 * SPC_TILE;
    }
    double count = (double)draws;
    cr_expect_lt(fabs((double)tail - count * share), 5 * sqrt(count * share));
    cr_expect_lt(fabs((double)last_tile - count * last), 5 * sqrt(count * last));
}

/* The race as specified: tiles first, entries of the winner second; an independent walk of it. */
static int32_t race_by_hand(const float *weight, int32_t vocab, spc_key key, spc_stream_id stream)
{
    int32_t best = -1, tile = -1;
    float least = INFINITY;

    for (int32_t t = 0; t * SPC_TILE < vocab; t++) {
        int32_t width = vocab - t * SPC_TILE < SPC_TILE ? vocab - t * SPC_TILE : SPC_TILE;
        uint32_t word = spc_random(key, stream, (uint32_t)t / 4).word[t % 4];
        float time = spc_race_time(word, spc_tile_sum(weight + t * SPC_TILE, width));

        if (time < least) {
            least = time;
            tile = t;
        }
    }
    least = INFINITY;
    for (int32_t v = tile * SPC_TILE; v < vocab && v < (tile + 1) * SPC_TILE; v++) {
        uint32_t word = spc_random(key, stream, (1u << 20) + (uint32_t)v / 4).word[v % 4];
        float time = spc_race_time(word, weight[v]);

        if (time < least) {
            least = time;
            best = v;
        }
    }
    return best;
}

/* Streams: draft 3, bonus 2, residual 1, at the token's position. */
Test(host_verify_draw, every_draw_is_the_race_at_its_address)
{
    static const int32_t vocabs[] = {2, 7, 1000, SPC_TILE, SPC_TILE + 1, WIDE};
    static float drafter[2 * WIDE], verifier[2 * WIDE], weight[WIDE];
    dice d = {3};
    int32_t residuals = 0, bonuses = 0;

    for (int i = 0; i < 600; i++) {
        int32_t vocab = vocabs[i % 6], draft[1];
        spc_row_params p = params_of("strict", i % 2 ? 1 : 0.5f);
        spc_row_stats stats[2];
        spc_verdict out;

        if (vocab > 1000 && i > 200) continue;
        p.seed = dice_word(&d);
        dice_rows(&d, ROWS_RANDOM, vocab, 1.5, drafter, verifier);
        dice_rows(&d, ROWS_RANDOM, vocab, 1.5, drafter + vocab, verifier + vocab);
        spc_verify_args a = args_of(&p, drafter, verifier, vocab, 1, draft);
        a.position = (int64_t)(dice_word(&d) >> 4);
        a.salt = (uint32_t)dice_word(&d);
        a.bonus = true;
        spc_key key = {p.seed, (uint64_t)a.position, a.salt};

        draft[0] = spc_draft_sample(drafter, vocab, &p, a.position, a.salt, &stats[0]);
        spc_softmax q = spc_softmax_of(stats[0], p.sampling.temperature);
        for (int32_t v = 0; v < vocab; v++) weight[v] = spc_softmax_weight(q, drafter[v]);
        int32_t wanted = race_by_hand(weight, vocab, key, SPC_STREAM_DRAFT);
        /* weights of tiles are sums of rescaled sums: a race closer than rounding may turn */
        cr_assert_eq(draft[0], wanted, "draft, V %d", (int)vocab);

        spc_verify(&a, &out);
        (void)spc_plain_sample(verifier + out.accepted * vocab, vocab, &p, 0, &stats[1]);
        spc_softmax s = spc_softmax_of(stats[1], p.sampling.temperature);
        for (int32_t v = 0; v < vocab; v++) {
            float pv = spc_row_probability(s, verifier[out.accepted * vocab + v], v);
            float over = pv - spc_row_probability(q, drafter[v], v);

            weight[v] = out.accepted ? pv : over > 0 ? over : 0;
        }
        key.position += (uint64_t)out.accepted;
        wanted =
            race_by_hand(weight, vocab, key, out.accepted ? SPC_STREAM_BONUS : SPC_STREAM_RESIDUAL);
        cr_assert_eq(out.token[out.accepted], wanted, "%s, V %d",
                     out.accepted ? "bonus" : "residual", (int)vocab);
        bonuses += out.accepted;
        residuals += 1 - out.accepted;
    }
    cr_expect(residuals > 50 && bonuses > 50);
}
