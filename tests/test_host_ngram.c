/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_ngram.c - looking drafts up: against a search of the whole text, and what the name of
 * such a drafter says. */
#include "host/ngram.h"

#include "rules/round.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LONGEST = 400, DRAFTS = SPC_GAMMA_MAX + 1 };

/* What follows the most recent earlier place that ends in the last n tokens, for the longest n:
 * n by n, place by place.  -1: nothing does. */
static int32_t next_of(const int32_t *text, int32_t length, spc_ngram_span span)
{
    for (int32_t n = span.most; n >= span.least; n--) {
        for (int32_t end = length - 2; end >= n - 1; end--) {
            if (length < n) continue;
            if (memcmp(text + end - n + 1, text + length - n, (size_t)n * sizeof *text) == 0) {
                return text[end + 1];
            }
        }
    }
    return -1;
}

/* Draft behind a text, one token after the other. */
static int32_t draft_slowly(const int32_t *text, int32_t length, spc_ngram_span span, int32_t most,
                            int32_t *draft)
{
    int32_t whole[LONGEST + DRAFTS], count = 0;

    memcpy(whole, text, (size_t)length * sizeof *text);
    for (; count < most; count++) {
        int32_t next = next_of(whole, length + count, span);

        if (next < 0) break;
        draft[count] = whole[length + count] = next;
    }
    return count;
}

static void expect_drafts(spc_ngram *n, const int32_t *text, int32_t length, spc_ngram_span span,
                          int32_t most, const char *what)
{
    int32_t wanted[DRAFTS], got[DRAFTS];
    int32_t count = draft_slowly(text, length, span, most, wanted);

    cr_assert_eq(spc_ngram_draft(n, got, most), count, "%s: length %d", what, (int)length);
    cr_assert_eq(memcmp(got, wanted, (size_t)count * sizeof *got), 0, "%s: length %d", what,
                 (int)length);
    cr_assert_eq(spc_ngram_length(n), length, "a draft is no part of the text");
}

static int32_t random_below(uint64_t *state, int32_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (int32_t)((*state >> 33) % (uint64_t)below);
}

/* Of few tokens there are long n-grams everywhere, of many hardly any; drafts are discarded, kept
 * in part, or kept. */
Test(host_ngram, drafts_are_those_of_a_search_of_the_whole_text)
{
    static const spc_ngram_span spans[] = {{2, 4}, {1, 1}, {1, 3}, {3, 3}, {2, 16}, {16, 16}};
    static const int32_t tokens[] = {1, 2, 3, 7, 50, 100000};
    uint64_t state = 1;

    for (size_t s = 0; s < sizeof spans / sizeof *spans; s++) {
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
            spc_ngram *n = spc_ngram_open(spans[s], LONGEST);
            char what[64];

            cr_assert_not_null(n);
            (void)snprintf(what, sizeof what, "%d to %d of %d tokens", (int)spans[s].least,
                           (int)spans[s].most, (int)tokens[t]);
            for (int32_t life = 0; life < 3; life++) {
                int32_t text[LONGEST + DRAFTS], length = 0;

                spc_ngram_begin(n);
                while (length < LONGEST) {
                    int32_t more = random_below(&state, 4) + 1;
                    int32_t most = random_below(&state, DRAFTS + 1);

                    if (more > LONGEST - length) more = LONGEST - length;
                    for (int32_t i = 0; i < more; i++) {
                        int32_t next = next_of(text, length + i, spans[s]);
                        bool follows = next >= 0 && random_below(&state, 2) == 0;

                        text[length + i] = follows ? next : random_below(&state, tokens[t]);
                    }
                    spc_ngram_add(n, text + length, more);
                    length += more;
                    expect_drafts(n, text, length, spans[s], most, what);
                }
            }
            spc_ngram_close(n);
        }
    }
}

Test(host_ngram, the_longest_match_wins_then_the_latest)
{
    static const int32_t text[] = {1, 2, 3, 4, 9, 2, 3, 5, 9, 9, 2, 3, 6, 8, 1, 2, 3};
    static const spc_ngram_span all = {2, 4}, two = {2, 2};
    int32_t draft[DRAFTS], count = (int32_t)(sizeof text / sizeof *text);
    spc_ngram *n = spc_ngram_open(all, 32), *m = spc_ngram_open(two, 32);

    spc_ngram_add(n, text, count);
    spc_ngram_add(m, text, count);
    cr_assert_eq(spc_ngram_draft(n, draft, 3), 3);
    cr_expect(draft[0] == 4 && draft[1] == 9 && draft[2] == 2, "1 2 3 stood there once");
    cr_assert_eq(spc_ngram_draft(m, draft, 3), 3);
    cr_expect(draft[0] == 6 && draft[1] == 8 && draft[2] == 1, "2 3 came last before 6");
    spc_ngram_close(n);
    spc_ngram_close(m);
}

/* A repetition goes on as long as anybody wants, beyond what there is to copy. */
Test(host_ngram, drafts_follow_a_repetition_into_itself)
{
    static const int32_t text[] = {7, 1, 2, 3, 1, 2};
    int32_t draft[DRAFTS];
    spc_ngram *n = spc_ngram_open((spc_ngram_span){2, 4}, 32);

    spc_ngram_add(n, text, 6);
    cr_assert_eq(spc_ngram_draft(n, draft, DRAFTS), DRAFTS);
    for (int32_t i = 0; i < DRAFTS; i++) cr_expect_eq(draft[i], (i + 2) % 3 + 1);
    spc_ngram_close(n);
}

/* Every other token is the same: its places, half of the text, are looked up again and again, which
 * nobody would wait for if each were looked at. */
Test(host_ngram, a_token_may_stand_in_half_of_a_long_text)
{
    enum { LONG = 400000 };
    int32_t draft[DRAFTS];
    spc_ngram *n = spc_ngram_open((spc_ngram_span){1, 4}, LONG);

    for (int32_t i = 0; i < LONG; i++) {
        int32_t token = i % 2 == 0 ? 0 : i, drafts = i % 2 == 0 && i > 0 ? DRAFTS : 0;

        spc_ngram_add(n, &token, 1);
        cr_assert_eq(spc_ngram_draft(n, draft, DRAFTS), drafts, "behind %d tokens", (int)i + 1);
        for (int32_t k = 0; k < drafts; k++) {
            cr_assert_eq(draft[k], k % 2 == 0 ? i - 1 : 0, "behind %d tokens", (int)i + 1);
        }
    }
    spc_ngram_close(n);
}

Test(host_ngram, too_short_a_text_has_no_drafts)
{
    static const int32_t text[] = {5, 5, 5};
    int32_t draft[DRAFTS];
    spc_ngram *n = spc_ngram_open((spc_ngram_span){2, 4}, 8);

    cr_expect_eq(spc_ngram_draft(n, draft, DRAFTS), 0);
    spc_ngram_add(n, text, 1);
    cr_expect_eq(spc_ngram_draft(n, draft, DRAFTS), 0);
    spc_ngram_add(n, text, 1);
    cr_expect_eq(spc_ngram_draft(n, draft, DRAFTS), 0, "5 5 stands there for the first time");
    spc_ngram_add(n, text, 1);
    cr_expect_eq(spc_ngram_draft(n, draft, DRAFTS), DRAFTS);
    spc_ngram_begin(n);
    cr_expect_eq(spc_ngram_length(n), 0);
    spc_ngram_add(n, text, 2);
    cr_expect_eq(spc_ngram_draft(n, draft, DRAFTS), 0, "what was there before is forgotten");
    spc_ngram_close(n);
    spc_ngram_close(NULL);
}

/* ---- what is asked for ------------------------------------------------------------------------
 */

Test(host_ngram, a_name_says_how_long_they_are)
{
    static const struct {
        const char *name;
        int32_t least, most;
    } good[] = {{"ngram", 2, 4},     {"ngram:3", 2, 3},     {"ngram:1", 1, 1},   {"ngram:2", 2, 2},
                {"ngram:16", 2, 16}, {"ngram:1-16", 1, 16}, {"ngram:05-5", 5, 5}};
    static const char *const bad[] = {
        "ngram:",  "ngram:0",  "ngram:17",   "ngram:3-2", "ngram:-2",  "ngram:2-",    "ngram:0-2",
        "ngram:x", "ngram:2x", "ngram:2-4x", "ngram: 2",  "ngram:100", "ngram:2-100", "ngram:2:4"};
    static const char *const others[] = {"ngrams", "ngram-4", "./ngram", "none", "", "Ngram"};
    spc_ngram_span span;
    spc_error error;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_assert(spc_ngram_is(good[i].name));
        cr_expect_eq(spc_ngram_parse(good[i].name, &span, &error), SPC_OK, "%s", good[i].name);
        cr_expect(span.least == good[i].least && span.most == good[i].most, "%s", good[i].name);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert(spc_ngram_is(bad[i]));
        cr_expect_eq(spc_ngram_parse(bad[i], &span, &error), SPC_EUSAGE, "%s", bad[i]);
        cr_expect(strstr(error.message, bad[i]) && strstr(error.message, "ngram:MIN-MAX"), "%s",
                  error.message);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        cr_expect_not(spc_ngram_is(others[i]), "%s", others[i]);
    }
    cr_expect_not(spc_ngram_is(NULL));
}

/* Any number that a rule may have. */
static bool some_rule(int32_t kind, spc_rule *rule)
{
    static const double numbers[] = {0.5, 0.05, 0, 2};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (spc_rule_make((spc_rule_kind)kind, numbers[i], SPC_GATE_UNSCALED, false, rule))
            return true;
    }
    return false;
}

/* The library says which rules accept drafts without a distribution; the error names them all. */
Test(host_ngram, rules_are_those_that_the_library_accepts_and_refusals_name_them)
{
    int32_t accepted = 0;

    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        const char *name = spc_rule_name((spc_rule_kind)kind);
        spc_rule rule;
        spc_error error;

        cr_assert(some_rule(kind, &rule), "%s", name);
        for (int32_t bonus = SPC_BONUS_TARGET; bonus <= SPC_BONUS_STEP; bonus++) {
            bool takes = kind == SPC_RULE_VERIFIER_ONLY || spc_rule_takes_names(rule.path);
            bool reads = takes && spc_rule_uses_drafter(&rule);
            bool fits = takes && (!reads || bonus == SPC_BONUS_VERIFIER);
            spc_status status = spc_ngram_check_rule(&rule, bonus, name, &error);

            cr_expect_eq(status, fits ? SPC_OK : SPC_EUNSUPPORTED, "%s, bonus %d", name,
                         (int)bonus);
            accepted += fits && bonus == SPC_BONUS_STEP;
            if (fits) continue;
            cr_expect(strstr(error.message, name) && strstr(error.message, "strict"), "%s",
                      error.message);
            if (reads) cr_expect(strstr(error.message, "bonus verifier"), "%s", error.message);
        }
    }
    cr_expect_eq(accepted, 4, "strict, truncate of either kind, verifier-only");

    spc_rule chow;
    spc_error error;

    cr_assert(spc_rule_parse("chow:alpha=0.5", &chow, NULL));
    (void)spc_ngram_check_rule(&chow, SPC_BONUS_VERIFIER, "chow:alpha=0.5", &error);
    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        if (!spc_rule_takes_names(kind)) continue;
        cr_expect(strstr(error.message, spc_rule_name((spc_rule_kind)kind)), "%s", error.message);
    }
    cr_assert(spc_rule_parse("lossy:alpha=0", &chow, NULL));
    cr_expect_eq(spc_ngram_check_rule(&chow, SPC_BONUS_TARGET, "", &error), SPC_OK,
                 "an instance that is strict");
}

/* ---- a text that is written against the table ---- */

enum { CRAFTED = 40000, CRAFTED_VOCAB = 1 << 17, PLACES = 64 };

/* Where the table puts a 2-gram that was given no seed. */
static uint64_t unseeded_place(int32_t first, int32_t last, uint64_t slots)
{
    const int32_t token[] = {last, first};
    uint64_t h = 0;

    for (int32_t i = 0; i < 2; i++) {
        h = (h ^ (uint64_t)token[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    h ^= h >> 33;
    return ((h >> 32) * slots) >> 32;
}

static double seconds_to_add(const int32_t *text)
{
    spc_ngram *n = spc_ngram_open((spc_ngram_span){2, 2}, CRAFTED);
    clock_t begin = clock();

    spc_ngram_add(n, text, CRAFTED);
    begin = clock() - begin;
    spc_ngram_close(n);
    return (double)begin / CLOCKS_PER_SEC;
}

/* All of its 2-grams would lie in one part of the table, and each be found behind all before it:
 * that took a thousand times as long as any other text. */
Test(host_ngram, a_text_written_against_the_table_takes_no_longer)
{
    const uint64_t most = CRAFTED + DRAFTS, slots = most + most / 2;
    int32_t *crafted = malloc(2 * CRAFTED * sizeof *crafted), *other = crafted + CRAFTED;
    uint64_t state = 5;

    cr_assert_not_null(crafted);
    crafted[0] = other[0] = 0;
    for (int32_t i = 1; i < CRAFTED; i++) {
        other[i] = random_below(&state, CRAFTED_VOCAB);
        do {
            crafted[i] = random_below(&state, CRAFTED_VOCAB);
        } while (unseeded_place(crafted[i - 1], crafted[i], slots) > slots / PLACES);
    }

    double wanted = seconds_to_add(other), found = seconds_to_add(crafted);

    cr_expect_lt(found, 30 * wanted + 0.1, "%g seconds, of another text %g", found, wanted);
    free(crafted);
}
