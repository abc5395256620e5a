/* SPDX-License-Identifier: Apache-2.0 */
/* cli_demo.c - spc demo: the embedded pair translates a few sentences four ways, and what each
 * costs. */
#include "cli.h"
#include "host/cpu/cpu_threads.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int32_t gamma, threads;
    const char *device, *isa;
} demo_args;

static const spc_cli_option options[] = {
    {"gamma", "N", "draft length", SPC_CLI_INT, offsetof(demo_args, gamma), 1, SPC_GAMMA_MAX},
    {"device", "NAME", SPC_CLI_DEVICES, SPC_CLI_TEXT, offsetof(demo_args, device), 0, 0},
    {"threads", "N", "CPU threads; 0: one per core, within a quota of CPU time", SPC_CLI_INT,
     offsetof(demo_args, threads), 0, SPC_TEAM_MAX},
    {"isa", "NAME", SPC_CLI_ISA, SPC_CLI_TEXT, offsetof(demo_args, isa), 0, 0},
};

static void demo_init(void *args)
{
    spc_session_options session;

    spc_session_options_init(&session);
    ((demo_args *)args)->gamma = session.gamma;
    ((demo_args *)args)->device = "auto";
}

/* Written for this demo. */
static const char *const sentences[] = {
    "The next train leaves at seven o'clock.",     "Where did you buy that blue coat?",
    "My grandmother still writes letters.",        "She did not want to wait any longer.",
    "If it rains tomorrow, we will stay at home.", "He promised to call me every evening.",
    "Nobody knows why the door was open.",         "We forgot to close the window last night.",
};

static const char *const languages[SPC_CLI_LANGUAGE_COUNT] = {"German", "Spanish", "French"};

/* The first is what the others are measured against. */
static const char *const rules[] = {"verifier-only", "strict", "token-v3:alpha=0.5",
                                    "opt:alpha=0.2"};

enum {
    SENTENCES = sizeof sentences / sizeof *sentences,
    RULES = sizeof rules / sizeof *rules,
    TEXTS = SENTENCES * SPC_CLI_LANGUAGE_COUNT,
    MAX_TOKENS = 48
};

typedef struct {
    spc_stats total[RULES];
    int32_t same[RULES];      /* texts equal to the verifier's */
    char *text[TEXTS][RULES]; /* sentence by sentence, language by language */
} demo_results;

static spc_status translate(spc_engine *engine, const demo_args *a, int32_t index, int32_t rule,
                            demo_results *results, spc_error *err)
{
    const char *sentence = sentences[index / SPC_CLI_LANGUAGE_COUNT];
    spc_session_options o;
    spc_session *session = NULL;
    spc_stats stats;
    int32_t *ids, count;
    spc_status status = spc_cli_translation(engine, index % SPC_CLI_LANGUAGE_COUNT, sentence,
                                            strlen(sentence), &ids, &count, err);

    if (status != SPC_OK) return status;
    spc_session_options_init(&o);
    o.rule = rules[rule];
    o.gamma = a->gamma;
    o.temperature = 0.0f;
    o.max_tokens = MAX_TOKENS;
    status = spc_session_open(engine, &o, ids, count, &session, err);
    free(ids);
    if (status == SPC_OK) status = spc_session_run(session, err);
    if (status == SPC_OK)
        status = spc_session_text(session, &results->text[index][rule], NULL, err);
    if (status == SPC_OK) {
        const char *verifier = results->text[index][0];

        spc_session_stats(session, &stats);
        spc_cli_stats_add(&results->total[rule], &stats);
        if (verifier && strcmp(results->text[index][rule], verifier) == 0) results->same[rule]++;
    }
    spc_session_close(session);
    return status;
}

/* One line per different text, with the rules that gave it: "[1 2 4]". */
static void print_texts(char *const text[RULES])
{
    for (int32_t first = 0; first < RULES; first++) {
        char who[2 * RULES + 2] = "";
        size_t used = 0;
        bool shown = false;

        for (int32_t r = 0; r < first; r++) shown = shown || strcmp(text[r], text[first]) == 0;
        if (shown) continue;
        for (int32_t r = first; r < RULES; r++) {
            if (strcmp(text[r], text[first]) != 0) continue;
            who[used++] = (char)('1' + r);
            who[used++] = ' ';
        }
        spc_cli_print("    %-8s %s\n", who, text[first]);
    }
}

static void print_table(const demo_args *a, const demo_results *results)
{
    const spc_stats *base = &results->total[0];

    spc_cli_print("\nAll %d translations, greedy, gamma %" PRId32 ":\n\n", TEXTS, a->gamma);
    spc_cli_print(
        "  rule                tokens per  verifier   calls          drafts    drafts  texts as\n"
        "                   verifier call     calls   saved  seconds  accepted  deferred"
        "  verifier\n");
    for (int32_t r = 0; r < RULES; r++) {
        const spc_stats *t = &results->total[r];
        double verified = (double)spc_cli_sum(t->verified);

        spc_cli_print(
            "%" PRId32 " %-20s%10.2f%10" PRId64 "%7.0f%%%9.3f", r + 1, rules[r],
            spc_cli_ratio((double)t->tokens, (double)t->verifier_calls), t->verifier_calls,
            100.0 * (1.0 - spc_cli_ratio((double)t->verifier_calls, (double)base->verifier_calls)),
            spc_cli_seconds(t));
        if (verified > 0.0) {
            spc_cli_print("%9.0f%%%9.0f%%",
                          100.0 * spc_cli_ratio((double)spc_cli_sum(t->accepted), verified),
                          100.0 * spc_cli_ratio((double)spc_cli_sum(t->deferred), verified));
        } else {
            spc_cli_print("%10s%10s", "-", "-");
        }
        spc_cli_print("%7" PRId32 "/%d\n", results->same[r], TEXTS);
    }
    spc_cli_print(
        "\nstrict writes the verifier's own text.  The cascade rules follow the drafter where "
        "they trust\nit: fewer calls, and a text that may differ from the verifier's.\n");
}

static spc_status run_all(spc_engine *engine, const demo_args *a, demo_results *results,
                          spc_error *err)
{
    demo_results first = {0}; /* thrown away: it brings the weights into memory */
    spc_status status = translate(engine, a, 0, 1, &first, err);

    free(first.text[0][1]);
    for (int32_t r = 0; r < RULES && status == SPC_OK; r++) {
        for (int32_t i = 0; i < TEXTS; i++) {
            if (spc_cli_interrupted) return SPC_OK;
            spc_cli_progress(rules[r]);
            status = translate(engine, a, i, r, results, err);
            if (status != SPC_OK) return status;
        }
    }
    spc_cli_progress(NULL);
    return SPC_OK;
}

static int demo_run(const void *args, const spc_cli_line *line)
{
    const demo_args *a = args;
    demo_results *results = calloc(1, sizeof *results);
    spc_engine_options o;
    spc_engine_facts facts;
    spc_engine *engine = NULL;
    spc_error error;
    spc_status status = SPC_ENOMEM;

    (void)line;
    spc_cli_catch_interrupt();
    spc_engine_options_init(&o);
    o.device = a->device;
    o.threads = a->threads;
    o.isa = a->isa;
    if (results) status = spc_engine_open(&o, &engine, &error);
    if (results && status == SPC_OK) status = run_all(engine, a, results, &error);
    if (status == SPC_OK && !spc_cli_interrupted) {
        spc_engine_describe(engine, &facts);
        spc_cli_print("English to German, Spanish and French; drafter of %.1f MB, verifier of %.1f "
                      "MB; %s\n",
                      (double)facts.drafter_weight_bytes * 1e-6,
                      (double)facts.verifier_weight_bytes * 1e-6, facts.device);
        spc_cli_print("Numbers before a text: the rules that wrote it (");
        for (int32_t r = 0; r < RULES; r++) {
            spc_cli_print("%s%" PRId32 " %s", r > 0 ? ", " : "", r + 1, rules[r]);
        }
        spc_cli_print(").\n");
        for (int32_t i = 0; i < TEXTS; i++) {
            if (i % SPC_CLI_LANGUAGE_COUNT == 0) {
                spc_cli_print("\n%s\n", sentences[i / SPC_CLI_LANGUAGE_COUNT]);
            }
            spc_cli_print("  %s\n", languages[i % SPC_CLI_LANGUAGE_COUNT]);
            print_texts(results->text[i]);
        }
        print_table(a, results);
    }
    spc_engine_close(engine);
    for (int32_t i = 0; results && i < TEXTS; i++) {
        for (int32_t r = 0; r < RULES; r++) free(results->text[i][r]);
    }
    if (!results) return spc_cli_fail_with(SPC_ENOMEM, "no memory for the demo");
    free(results);
    if (status != SPC_OK) return spc_cli_fail(&error);
    return spc_cli_interrupted ? SPC_CLI_INTERRUPTED : 0;
}

const spc_cli_command spc_cli_demo = {
    "demo",
    "",
    "translate eight sentences four ways with the embedded pair",
    "Verifier alone, strict speculation and two cascade rules: their texts and their cost.",
    0,
    0,
    options,
    sizeof options / sizeof *options,
    sizeof(demo_args),
    demo_init,
    demo_run,
    NULL,
};
