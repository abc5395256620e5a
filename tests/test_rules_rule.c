/* SPDX-License-Identifier: Apache-2.0 */
/* Rule texts: what parses, what does not, and that parse and format invert each other. */
#define _POSIX_C_SOURCE 200809L

#include "rules/kinds.h"

#include <criterion/criterion.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static spc_rule parsed(const char *text)
{
    char message[SPC_RULE_MESSAGE_BYTES] = "";
    spc_rule rule;

    memset(&rule, 0, sizeof rule);
    cr_assert(spc_rule_parse(text, &rule, message), "%s: %s", text, message);
    return rule;
}

static void expect_canonical(const char *text, const char *canonical)
{
    char out[SPC_RULE_TEXT_BYTES];
    spc_rule rule = parsed(text);

    spc_rule_format(&rule, out);
    cr_expect_str_eq(out, canonical, "%s formats as %s, not %s", text, out, canonical);
}

Test(rules_rule, texts_have_one_canonical_form)
{
    static const char *const pairs[][2] = {
        {"strict", "strict"},
        {"drafter-only", "drafter-only"},
        {"verifier-only", "verifier-only"},
        {"lossy:alpha=0.30", "lossy:alpha=0.3"},
        {"lossy:beta=1,alpha=.3", "lossy:alpha=0.3"},
        {"lossy:beta=solve,alpha=3e-1", "lossy:alpha=0.3,beta=solve"},
        {"chow:gate=unscaled,alpha=1", "chow:alpha=1"},
        {"chow:gate=processed,alpha=1", "chow:alpha=1,gate=processed"},
        {"diff:alpha=-0.25", "diff:alpha=-0.25"},
        {"diff:alpha=-0", "diff:alpha=0"},
        {"opt:alpha=+2", "opt:alpha=2"},
        {"opt:alpha=0.1000000000000000055511151231257827", "opt:alpha=0.1"},
        {"opt:alpha=0.30000000000000004", "opt:alpha=0.30000000000000004"},
        {"opt:alpha=1e-320", "opt:alpha=1e-320"},
        {"chow-log:alpha=5.", "chow-log:alpha=5"},
        {"diff-log:alpha=-1.5", "diff-log:alpha=-1.5"},
        {"opt-log:alpha=0.5", "opt-log:alpha=0.5"},
        {"token-v1:alpha=-1", "token-v1:alpha=-1"},
        {"token-v2:alpha=0.2", "token-v2:alpha=0.2"},
        {"token-v3:gate=processed,alpha=0.5", "token-v3:alpha=0.5,gate=processed"},
        {"bild:alpha=2", "bild:alpha=2"},
        {"lossy-greedy:alpha=1", "lossy-greedy:alpha=1"},
        {"truncate:alpha=0.5", "truncate:alpha=0.5"},
        {"truncate:top-p=.9", "truncate:top-p=0.9"},
        {"mentored:kl=0.10", "mentored:kl=0.1"},
        {"cactus:delta=10", "cactus:delta=10"},
        {"bild-dynamic:rollback=5,fallback=.6,window=10", "bild-dynamic"},
        {"bild-dynamic:rollback=2", "bild-dynamic:rollback=2"},
        {"bild-dynamic:window=3,fallback=0.4", "bild-dynamic:fallback=0.4,window=3"}};

    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        expect_canonical(pairs[i][0], pairs[i][1]);
        expect_canonical(pairs[i][1], pairs[i][1]); /* idempotent */
    }
}

static void expect_same(const spc_rule *a, const spc_rule *b, const char *text)
{
    cr_expect(a->kind == b->kind && a->path == b->path && a->gate == b->gate &&
                  a->solve == b->solve && a->alpha == b->alpha && a->keep == b->keep &&
                  a->inverse == b->inverse && a->log_keep == b->log_keep,
              "%s", text);
}

Test(rules_rule, every_rule_reads_back_as_it_was_written)
{
    static const double alphas[] = {0,    0.1,    1.0 / 3, 0.5, 1 - 0x1p-53, 1,      -1,
                                    -0.7, 0x1p-9, 5e-324,  2.5, 1e300,       -1e300, 123456789.123};

    for (int kind = 0; kind < SPC_RULE_COUNT; kind++) {
        int32_t made = 0;

        for (size_t i = 0; i < sizeof alphas / sizeof *alphas * 4; i++) {
            char text[SPC_RULE_TEXT_BYTES];
            spc_rule rule, back;

            if (!spc_rule_make((spc_rule_kind)kind, alphas[i / 4],
                               i & 1 ? SPC_GATE_PROCESSED : SPC_GATE_UNSCALED, (i & 2) != 0,
                               &rule)) {
                continue;
            }
            spc_rule_format(&rule, text);
            back = parsed(text);
            expect_same(&rule, &back, text);
            made++;
        }
        cr_expect_gt(made, 0, "%s", spc_rule_name((spc_rule_kind)kind));
    }
}

Test(rules_rule, constants_are_those_of_alpha)
{
    spc_rule rule = parsed("token-v3:alpha=0.25");

    cr_expect_eq(rule.alpha, 0.25);
    cr_expect_eq(rule.keep, 0.75);
    cr_expect_float_eq(rule.log_keep, log(0.75), 1e-15);
    cr_expect_float_eq(rule.inverse, 4.0 / 3, 1e-15);
    rule = parsed("token-v3:alpha=1");
    cr_expect(isinf(rule.log_keep) && rule.log_keep < 0);
    cr_expect(isfinite(rule.inverse));
}

/* rules/README.md, "Worth knowing" */
Test(rules_rule, instances_that_always_pick_the_verifier_run_as_strict)
{
    static const char *const strict[] = {
        "strict",           "lossy:alpha=0",       "lossy:alpha=0,beta=solve",
        "diff:alpha=-1",    "token-v2:alpha=-0.1", "token-v3:alpha=-1e-9",
        "truncate:alpha=1", "truncate:top-p=1",    "mentored:kl=0",
        "cactus:delta=0"};
    static const char *const other[] = {"lossy:alpha=1e-9", "diff:alpha=-0.999", "token-v2:alpha=0",
                                        "token-v3:alpha=0", "token-v1:alpha=-1", "chow:alpha=0",
                                        "opt:alpha=-2"};

    for (size_t i = 0; i < sizeof strict / sizeof *strict; i++) {
        cr_expect_eq(parsed(strict[i]).path, SPC_RULE_STRICT, "%s", strict[i]);
    }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        cr_expect_eq(parsed(other[i]).path, parsed(other[i]).kind, "%s", other[i]);
    }
}

/* Text, and what the message must name. */
static const char *const wrong[][2] = {
    {"", "unknown rule ''"},
    {":", "unknown rule ''"},
    {"Strict", "unknown rule 'Strict'"},
    {" strict", "unknown rule ' strict'"},
    {"strict ", "unknown rule 'strict '"},
    {"chows:alpha=1", "unknown rule 'chows'"},
    {"cho:alpha=1", "unknown rule 'cho'"},
    {"chow,alpha=1", "unknown rule 'chow,alpha=1'"},
    {"strict:", "unknown key ''"},
    {"strict:alpha=0", "unknown key 'alpha' for rule strict, which takes none"},
    {"drafter-only:gate=processed", "unknown key 'gate'"},
    {"chow", "'chow' needs alpha, between 0 and 1: write chow:alpha=NUMBER"},
    {"chow:", "unknown key ''"},
    {"chow:gate=processed", "'chow' needs alpha"},
    {"chow:alpha", "'alpha' has no value"},
    {"chow:alpha=", "found ''"},
    {"chow:alpha,gate=processed", "'alpha' has no value"},
    {"chow:alpha=0.5,", "unknown key ''"},
    {"chow:,alpha=0.5", "unknown key ''"},
    {"chow:alpha=0.5,alpha=0.5", "'alpha' is given twice"},
    {"chow:alpha=0.5,beta=solve", "unknown key 'beta' for rule chow; known: alpha, gate"},
    {"chow:alpha=0.5,gate=", "gate: expected unscaled or processed, found ''"},
    {"chow:alpha=0.5,gate=Processed", "found 'Processed'"},
    {"chow:alpha=0.5,gate=processed,gate=processed", "'gate' is given twice"},
    {"chow:alpha=0.5:gate=processed", "found '0.5:gate=processed'"},
    {"chow:alpha=0.5;gate=processed", "found '0.5;gate=processed'"},
    {"chow:alpha=0.5 ", "found '0.5 '"},
    {"chow:alpha= 0.5", "found ' 0.5'"},
    {"chow: alpha=0.5", "unknown key ' alpha'"},
    {"chow:ALPHA=0.5", "unknown key 'ALPHA'"},
    {"chow:alpha=0x1p-1", "found '0x1p-1'"},
    {"chow:alpha=inf", "found 'inf'"},
    {"chow:alpha=nan", "found 'nan'"},
    {"opt:alpha=1e999", "found '1e999'"},
    {"chow:alpha=.", "found '.'"},
    {"chow:alpha=-", "found '-'"},
    {"chow:alpha=e5", "found 'e5'"},
    {"chow:alpha=1e", "found '1e'"},
    {"chow:alpha=0.5.0", "found '0.5.0'"},
    {"chow:alpha=0.5f", "found '0.5f'"},
    {"chow:alpha=--0.5", "found '--0.5'"},
    {"chow:alpha=1.1", "between 0 and 1, found 1.1"},
    {"chow:alpha=-0.1", "between 0 and 1, found -0.1"},
    {"diff:alpha=-1.01", "between -1 and 1"},
    {"token-v3:alpha=1.0000001", "between -1 and 1"},
    {"lossy:alpha=1", "at least 0 and below 1, found 1"},
    {"lossy:alpha=-0.1", "at least 0 and below 1"},
    {"lossy:alpha=0.3,beta=2", "beta: expected 1 or solve, found '2'"},
    {"lossy:alpha=0.3,gate=processed", "unknown key 'gate' for rule lossy"},
    {"lossy-greedy:alpha=0.3,gate=processed", "unknown key 'gate'"},
    {"bild:alpha=-1", "at least 0"},
    {"chow-log:alpha=-1e-300", "at least 0"},
    {"opt:alpha=0,5", "unknown key '5'"},
    {"truncate:top-p=0", "above 0 and at most 1, found 0"},
    {"truncate:top-p=1.5", "above 0 and at most 1, found 1.5"},
    {"truncate:alpha=0.5,top-p=0.5", "unknown key 'top-p' for rule truncate"},
    {"truncate:top-p=0.5,alpha=0.5", "unknown key 'alpha' for rule truncate"},
    {"truncate:top-k=5", "unknown key 'top-k' for rule truncate; known: alpha or top-p"},
    {"typical:alpha=0.5", "unknown key 'alpha' for rule typical; known: eps"},
    {"bild-dynamic:alpha=1", "rule bild-dynamic; known: fallback, rollback, window"},
    {"bild-dynamic:fallback=1,window=17", "window must be a whole number of 1 to 16, found 17"},
    {"bild-dynamic:fallback=1,window=1.5", "window must be a whole number of 1 to 16, found 1.5"},
    {"bild-dynamic:fallback=1,rollback=-1", "rollback must be at least 0, found -1"},
    {"fuzzy:alpha=1,div=x", "div: expected js or kl, found 'x'"},
    {"truncate-q:top-p=0.5", "unknown key 'top-p' for rule truncate-q"},
    {"mentored:kl=-1", "kl must be at least 0"},
    {"mentored:kl=0.1,div=kl", "unknown key 'div' for rule mentored"},
    {"cactus", "'cactus' needs delta"}};

Test(rules_rule, every_error_names_the_offending_part_and_leaves_the_rule_alone)
{
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char message[SPC_RULE_MESSAGE_BYTES] = "";
        spc_rule rule, before;

        memset(&rule, 0x5a, sizeof rule);
        memcpy(&before, &rule, sizeof rule);
        cr_expect_not(spc_rule_parse(wrong[i][0], &rule, message), "'%s' parses", wrong[i][0]);
        cr_expect_not_null(strstr(message, wrong[i][1]), "'%s' says '%s', not '%s'", wrong[i][0],
                           message, wrong[i][1]);
        cr_expect_eq(memcmp(&rule, &before, sizeof rule), 0, "'%s' touched the rule", wrong[i][0]);
        cr_expect_not(spc_rule_parse(wrong[i][0], &rule, NULL), "nobody listens");
    }
}

/* A text of the keys that a kind lists, with the values that they have unless given. */
static void text_of_keys(spc_rule_kind kind, const char *number, char *text, size_t bytes)
{
    spc_rule_key key[SPC_RULE_KEYS_MAX];
    int32_t count = spc_rule_list_keys(kind, key);
    size_t used = (size_t)snprintf(text, bytes, "%s", spc_rule_name(kind));

    for (int32_t i = 0; i < count; i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%c%s=%s", i > 0 ? ',' : ':',
                                 key[i].name, i > 0 ? key[i].standard : number);
    }
}

Test(rules_rule, keys_that_are_listed_parse_and_their_defaults_change_nothing)
{
    for (int kind = 0; kind < SPC_RULE_COUNT; kind++) {
        spc_rule_key key[SPC_RULE_KEYS_MAX];
        int32_t count = spc_rule_list_keys((spc_rule_kind)kind, key);
        char text[256], shorter[64], canonical[2][SPC_RULE_TEXT_BYTES];
        spc_rule rule;

        text_of_keys((spc_rule_kind)kind, "0.5", text, sizeof text);
        rule = parsed(text);
        cr_expect_eq(rule.kind, kind, "%s", text);
        spc_rule_format(&rule, canonical[0]);
        (void)snprintf(shorter, sizeof shorter, "%.*s", (int)strcspn(text, ","), text);
        rule = parsed(count > 0 ? shorter : text);
        spc_rule_format(&rule, canonical[1]);
        cr_expect_str_eq(canonical[0], canonical[1]);
        for (int32_t i = 0; i < count; i++) {
            cr_expect_eq(key[i].standard == NULL, i == 0 && kind != SPC_RULE_BILD_DYNAMIC,
                         "%s: the number comes first", text);
            cr_expect(key[i].values[0]);
        }
    }
}

Test(rules_rule, ranges_that_are_listed_are_those_of_the_messages)
{
    static const char *const outside[] = {"-2e9", "2e9", "0", "1"};

    for (int kind = 0; kind < SPC_RULE_COUNT; kind++) {
        spc_rule_key key[SPC_RULE_KEYS_MAX];

        if (spc_rule_list_keys((spc_rule_kind)kind, key) == 0) continue;
        for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
            char message[SPC_RULE_MESSAGE_BYTES], text[256];
            spc_rule rule;

            text_of_keys((spc_rule_kind)kind, outside[i], text, sizeof text);
            if (spc_rule_parse(text, &rule, message)) continue;
            cr_expect(strstr(message, key[0].values), "%s: %s: %s", text, key[0].values, message);
        }
    }
}

Test(rules_rule, an_unknown_rule_lists_the_known_ones)
{
    char message[SPC_RULE_MESSAGE_BYTES];
    spc_rule rule;

    cr_assert_not(spc_rule_parse("nucleus", &rule, message));
    for (int kind = 0; kind < SPC_RULE_COUNT; kind++) {
        cr_expect_not_null(strstr(message, spc_rule_name((spc_rule_kind)kind)));
    }
}

static size_t append(char *text, size_t at, const char *piece, int32_t times)
{
    for (int32_t i = 0; i < times; i++) {
        memcpy(text + at, piece, strlen(piece));
        at += strlen(piece);
    }
    text[at] = '\0';
    return at;
}

Test(rules_rule, very_long_texts_are_refused_within_the_message)
{
    static const char *const begin[] = {
        "", "chow:", "chow:alpha=", "lossy:alpha=0.3,beta=", "chow:alpha=1,gate=", "chow:alpha=0."};
    static char text[200000];

    for (size_t i = 0; i < sizeof begin / sizeof *begin; i++) {
        char message[SPC_RULE_MESSAGE_BYTES + 8];
        spc_rule rule;

        memset(message, 'x', sizeof message);
        (void)append(text, append(text, 0, begin[i], 1), "7", 150000);
        cr_expect_not(spc_rule_parse(text, &rule, message), "%s7777...", begin[i]);
        cr_expect_not_null(memchr(message, '\0', SPC_RULE_MESSAGE_BYTES));
        cr_expect_eq(memcmp(message + SPC_RULE_MESSAGE_BYTES, "xxxxxxxx", 8), 0);
    }
}

Test(rules_rule, a_message_stays_a_line_of_ascii_whatever_it_quotes)
{
    static const char *const text[] = {"a\nb",
                                       "chow:a\tb=1",
                                       "chow:alpha=1\n",
                                       "chow:alpha=1,gate=\x1b[31m",
                                       "lossy:alpha=0,beta=\x7f",
                                       "caf\xc3\xa9",
                                       "chow:\xff=1",
                                       "chow:alpha=\xed\xa0\x80",
                                       "123456789012345678901234567890123456789\xc3\xa9"};

    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        char message[SPC_RULE_MESSAGE_BYTES];
        spc_rule rule;

        cr_expect_not(spc_rule_parse(text[i], &rule, message));
        for (const char *c = message; *c; c++) {
            cr_assert((unsigned char)*c >= 0x20 && (unsigned char)*c < 0x7f, "text %d", (int)i);
        }
    }
}

Test(rules_rule, make_refuses_what_parse_refuses)
{
    spc_rule rule;

    cr_expect_not(spc_rule_make(SPC_RULE_CHOW, 1.5, SPC_GATE_UNSCALED, false, &rule));
    cr_expect_not(spc_rule_make(SPC_RULE_OPT, NAN, SPC_GATE_UNSCALED, false, &rule));
    cr_expect_not(spc_rule_make(SPC_RULE_OPT, INFINITY, SPC_GATE_UNSCALED, false, &rule));
    cr_expect_not(spc_rule_make(SPC_RULE_LOSSY, 1, SPC_GATE_UNSCALED, false, &rule));
    cr_expect_not(spc_rule_make(SPC_RULE_COUNT, 0, SPC_GATE_UNSCALED, false, &rule));
    cr_expect(spc_rule_make(SPC_RULE_STRICT, 7, SPC_GATE_PROCESSED, true, &rule));
    cr_expect(rule.alpha == 0 && rule.gate == SPC_GATE_UNSCALED && rule.solve == 0,
              "what a rule does not have is not kept");
}

Test(rules_rule, shapes_and_facts_belong_to_their_rules)
{
    cr_expect_eq(spc_rule_shape_of(SPC_RULE_STRICT), SPC_SHAPE_ROW);
    cr_expect_eq(spc_rule_shape_of(SPC_RULE_LOSSY), SPC_SHAPE_LOSSY);
    cr_expect_eq(spc_rule_shape_of(SPC_RULE_TOKEN_V3), SPC_SHAPE_TOKEN);
    cr_expect_eq(spc_rule_shape_of(SPC_RULE_VERIFIER_ONLY), SPC_SHAPE_SEQUENTIAL);
    cr_expect_eq(spc_rule_facts(SPC_RULE_CHOW), 0);
    cr_expect_eq(spc_rule_facts(SPC_RULE_OPT), SPC_FACT_TV);
    cr_expect_eq(spc_rule_facts(SPC_RULE_OPT_LOG), SPC_FACT_TV | SPC_FACT_ENTROPY);
    cr_expect_eq(spc_rule_facts(SPC_RULE_BILD), SPC_FACT_SURPRISE);
    for (int kind = 0; kind < SPC_RULE_COUNT; kind++) {
        spc_rule rule;

        cr_assert(spc_rule_make((spc_rule_kind)kind, 0.5, SPC_GATE_UNSCALED, false, &rule));
        cr_expect_eq(spc_rule_uses_drafter(&rule),
                     kind != SPC_RULE_STRICT && kind != SPC_RULE_VERIFIER_ONLY &&
                         kind != SPC_RULE_TRUNCATE && kind != SPC_RULE_TRUNCATE_P &&
                         kind != SPC_RULE_CACTUS && kind != SPC_RULE_TOKEN_CHOW &&
                         kind != SPC_RULE_SEQ_CHOW && kind != SPC_RULE_BILD_DYNAMIC);
    }
    cr_expect_str_eq(spc_rule_name((spc_rule_kind)-1), "unknown");
    cr_expect_str_eq(spc_rule_name(SPC_RULE_COUNT), "unknown");
}

/* Under a locale whose decimal point is a comma, numbers read and write as ever. */
Test(rules_rule, a_locale_with_a_decimal_comma_changes_nothing)
{
    static const char *const comma[] = {"de_DE.UTF-8", "de_DE.utf8",  "de_DE",      "fr_FR.UTF-8",
                                        "es_ES.UTF-8", "ru_RU.UTF-8", "nl_NL.UTF-8"};
    size_t i = 0;

    while (i < sizeof comma / sizeof *comma && !setlocale(LC_ALL, comma[i])) i++;
    if (i == sizeof comma / sizeof *comma) cr_skip_test("no locale with a decimal comma here");
    cr_assert_str_eq(localeconv()->decimal_point, ",");
    expect_canonical("opt:alpha=0.30000000000000004", "opt:alpha=0.30000000000000004");
    expect_canonical("opt:alpha=-2.5e-7", "opt:alpha=-2.5e-07");
    cr_expect_eq(parsed("chow:alpha=0.25").alpha, 0.25);
    cr_expect_not(spc_rule_parse("chow:alpha=0,25", &(spc_rule){0}, NULL));
}
