/* SPDX-License-Identifier: Apache-2.0 */
/* cli_rules.c - spc rules: every rule with its keys, as the parser of rules has them. */
#include "cli.h"

#include "rules/rule.h"

#include <string.h>

static const char *const meaning[SPC_RULE_COUNT] = {
    [SPC_RULE_STRICT] = "the verifier's own distribution: lossless",
    [SPC_RULE_LOSSY] = "keep a draft while its probability under the drafter is at most\n"
                       "1/(1-alpha) times that under the verifier; 0: strict",
    [SPC_RULE_CHOW] = "defer where the drafter's largest probability is below 1-alpha",
    [SPC_RULE_DIFF] = "defer where the drafter's largest probability is more than alpha below\n"
                      "the verifier's; -1: strict",
    [SPC_RULE_OPT] = "as diff, with alpha times the distance of the two distributions (TV);\n"
                     "useful inside -1 to 1, mostly near 0",
    [SPC_RULE_CHOW_LOG] = "defer where the drafter's entropy is above alpha (nats)",
    [SPC_RULE_DIFF_LOG] =
        "defer where the drafter's entropy is more than alpha above the verifier's",
    [SPC_RULE_OPT_LOG] = "as diff-log, with alpha times TV",
    [SPC_RULE_TOKEN_V1] = "keep drafts to which the drafter gives at least the verifier's largest\n"
                          "probability less alpha",
    [SPC_RULE_TOKEN_V2] =
        "keep drafts to which the verifier gives at least its largest probability\n"
        "less alpha; below 0: strict",
    [SPC_RULE_TOKEN_V3] = "keep drafts to which the verifier gives at least 1-alpha times its\n"
                          "largest probability; below 0: strict",
    [SPC_RULE_BILD] = "defer where -ln of the verifier's probability of the drafter's likeliest\n"
                      "token is above alpha",
    [SPC_RULE_LOSSY_GREEDY] = "token-v3 for temperature 0, the only one it takes",
    [SPC_RULE_TRUNCATE] = "the verifier alone on the tokens that token-v3 would keep",
    [SPC_RULE_TRUNCATE_P] = "the verifier alone on its likeliest tokens of probability top-p",
    [SPC_RULE_TRUNCATE_Q] = "the drafter alone on the tokens that token-v3 would keep",
    [SPC_RULE_HEAD] = "keep what token-v3 would keep, verify the rest as strict does;\n"
                      "below 0: strict",
    [SPC_RULE_TYPICAL] = "keep drafts to which the verifier gives at least eps, or less where its\n"
                         "entropy is high; otherwise its likeliest token",
    [SPC_RULE_ENSEMBLE] = "1-w of the drafter's distribution and w of the verifier's",
    [SPC_RULE_FUZZY] = "defer where the divergence of the two distributions is above alpha",
    [SPC_RULE_MENTORED] = "lossy with beta=solve, as lenient as a divergence of kl from the\n"
                          "verifier allows",
    [SPC_RULE_CACTUS] = "keep drafts more often the larger delta is; 0: strict.  Needs\n"
                        "--bonus step, and --verify token",
    [SPC_RULE_DRAFTER_ONLY] = "the drafter alone",
    [SPC_RULE_VERIFIER_ONLY] = "the verifier alone",
    [SPC_RULE_SEQ_CHOW] = "the drafter's whole answer if the mean probability of its tokens is at\n"
                          "least 1-alpha, otherwise the verifier's",
    [SPC_RULE_TOKEN_CHOW] = "chow without drafts: the verifier runs only for deferred tokens",
    [SPC_RULE_BILD_DYNAMIC] =
        "the original BiLD, at temperature 0: the drafter goes on while it is\n"
        "sure, and the verifier looks at what it wrote",
};

/* Keys beside a rule's number. */
static const struct {
    const char *name, *meaning;
} further[] = {
    {"beta", "1: a rejected draft is replaced as under strict; solve: with the\n"
             "verifier scaled so that the distribution sums to 1 as it is"},
    {"div", "the divergence: Jensen-Shannon, or KL(verifier, drafter)"},
    {"fallback", "the drafter goes on while its largest probability is at least this"},
    {"rollback", "the verifier takes back a draft whose -ln probability is above this"},
    {"window", "the verifier looks at the drafts after this many at the latest"},
    {"gate", "what is compared: probabilities as they are, or after temperature,\n"
             "top-k, top-p and min-p"},
};

enum { FURTHER = sizeof further / sizeof *further };

/* Headings, by the first rule below them. */
static const struct {
    spc_rule_kind kind;
    const char *text;
} heading[] = {
    {SPC_RULE_STRICT, "deferral rules:"},
    {SPC_RULE_TRUNCATE, "comparators:"},
    {SPC_RULE_DRAFTER_ONLY, "one model at a time:"},
};

enum { COLUMN = 18 };

/* A name, and lines of text beside it. */
static void print_row(const char *name, const char *text)
{
    spc_cli_print("%-*s", COLUMN, name);
    for (; strchr(text, '\n'); text = strchr(text, '\n') + 1) {
        spc_cli_print("%.*s\n%-*s", (int)strcspn(text, "\n"), text, COLUMN, "");
    }
    spc_cli_print("%s\n", text);
}

/* "alpha between 0 and 1; gate unscaled or processed (default unscaled)" */
static void print_rule(spc_rule_kind kind)
{
    char name[COLUMN + 1];
    spc_rule_key key[SPC_RULE_KEYS_MAX];
    int32_t count = spc_rule_list_keys(kind, key);

    (void)snprintf(name, sizeof name, "  %s", spc_rule_name(kind));
    print_row(name, meaning[kind]);
    for (int32_t i = 0; i < count; i++) {
        if (i == 0) spc_cli_print("%-*s", COLUMN, "");
        spc_cli_print("%s%s %s", i > 0 ? "; " : "", key[i].name, key[i].values);
        if (key[i].standard) spc_cli_print(" (default %s)", key[i].standard);
        if (i == count - 1) spc_cli_print("\n");
    }
}

/* What the further keys of some kinds mean. */
static void print_further(const bool *shown)
{
    bool any = false;

    for (int32_t f = 0; f < FURTHER; f++) {
        bool has = false;

        for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
            spc_rule_key key[SPC_RULE_KEYS_MAX];
            int32_t count = shown[kind] ? spc_rule_list_keys((spc_rule_kind)kind, key) : 0;

            for (int32_t i = 0; i < count; i++) {
                has = has || strcmp(key[i].name, further[f].name) == 0;
            }
        }
        if (!has) continue;
        if (!any) spc_cli_print("\nkeys that have a default:\n");
        any = true;

        char name[COLUMN + 1];

        (void)snprintf(name, sizeof name, "  %s", further[f].name);
        print_row(name, further[f].meaning);
    }
}

/* Marks the rules of one name, which may stand before settings; false: there is none. */
static bool mark_named(const char *word, bool *shown)
{
    size_t bytes = strcspn(word, ":");
    bool found = false;

    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        const char *name = spc_rule_name((spc_rule_kind)kind);

        if (strlen(name) != bytes || memcmp(name, word, bytes) != 0) continue;
        shown[kind] = found = true;
    }
    return found;
}

static void print_all(void)
{
    size_t next = 0;

    spc_cli_print("--rule NAME, or NAME:KEY=VALUE,KEY=VALUE; for example token-v3:alpha=0.5\n");
    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        if (next < sizeof heading / sizeof *heading && (int32_t)heading[next].kind == kind) {
            spc_cli_print("\n%s\n", heading[next++].text);
        }
        print_rule((spc_rule_kind)kind);
    }
}

static void init(void *args)
{
    (void)args; /* none */
}

static int run(const void *args, const spc_cli_line *line)
{
    bool shown[SPC_RULE_COUNT];

    (void)args;
    memset(shown, line->words.count == 0, sizeof shown);
    for (int32_t i = 0; i < line->words.count; i++) {
        char message[SPC_RULE_MESSAGE_BYTES];
        spc_rule rule;

        if (mark_named(line->words.item[i], shown)) continue;
        (void)spc_rule_parse(line->words.item[i], &rule, message);
        return spc_cli_fail_with(SPC_ERULE, "%s", message);
    }
    if (line->words.count == 0) print_all();
    for (int32_t kind = 0; kind < SPC_RULE_COUNT && line->words.count > 0; kind++) {
        if (shown[kind]) print_rule((spc_rule_kind)kind);
    }
    print_further(shown);
    return 0;
}

const spc_cli_command spc_cli_rules = {
    "rules",
    "[RULE ...]",
    "list the rules, their keys, ranges and defaults",
    "The distribution that each rule samples from is in rules/README.md.",
    0,
    INT32_MAX,
    NULL,
    0,
    1,
    init,
    run,
    NULL,
};
