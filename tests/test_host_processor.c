/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_processor.c - bias, penalties and masks of sessions: what is decided is decided by rows
 * that were edited as the options say, of both models, drafts of the round counted in. */
#include "rounds.h"
#include "row_details.h"

enum { TOKENS = 14, WORD = 32, STOP = 6, LEAST = 5 };

/* ---- the edits, once more ----
 *
 * Straight from spc/spc.h: every token of the prompt and the output is counted for every row. */

static int32_t times(const prompt *text, int32_t from, int32_t token)
{
    int32_t n = 0;

    for (int32_t i = from; i < text->count; i++) n += text->id[i] == token;
    return n;
}

/* Allows what the last token leaves: not itself, and none of the parity of the position. */
static bool allows(const int32_t *token, int32_t count, int32_t candidate)
{
    return candidate != token[count - 1] && candidate % 3 != count % 3;
}

static bool mask_by_text(void *user, const int32_t *token, int32_t count, uint32_t *allowed,
                         int32_t vocab)
{
    int32_t *asked = user;

    if (asked) ++*asked;
    if (count % 4 == 3) { /* what is set does not count */
        allowed[0] = 1;
        return false;
    }
    for (int32_t v = 0; v < vocab; v++) {
        if (allows(token, count, v)) allowed[v / WORD] |= 1u << v % WORD;
    }
    return true;
}

static void edit(const spc_session_options *o, const prompt *text, int32_t vocab, float *logits)
{
    int32_t written = text->count - start.count;

    for (int32_t v = 0; v < vocab; v++) {
        int32_t n = times(text, start.count, v);

        if (times(text, 0, v) > 0) {
            logits[v] = logits[v] > 0 ? logits[v] / o->repetition_penalty
                                      : logits[v] * o->repetition_penalty;
        }
        for (int32_t i = 0; i < o->logit_bias_count; i++) {
            if (o->logit_bias[i].token == v) logits[v] += o->logit_bias[i].bias;
        }
        logits[v] -= o->frequency_penalty * (float)n + (n > 0 ? o->presence_penalty : 0);
        if (v == STOP && written < o->min_tokens && !o->ignore_stop) logits[v] = -INFINITY;
        if (!o->on_mask || text->count % 4 == 3) continue;
        if (!allows(text->id, text->count, v)) logits[v] = -INFINITY;
    }
}

/* ---- every kind of edit ---- */

static const spc_logit_bias some[] = {{5, 1.5f}, {0, -INFINITY}, {STOP, 2}, {1, -0.75f}};
static const spc_session_options kinds[] = {
    {.repetition_penalty = 1, .logit_bias = some, .logit_bias_count = 4},
    {.repetition_penalty = 1.8f},
    {.repetition_penalty = 0.6f, .logit_bias = some, .logit_bias_count = 2},
    {.repetition_penalty = 1, .presence_penalty = 0.8f},
    {.repetition_penalty = 1, .frequency_penalty = -0.4f},
    {.repetition_penalty = 1, .min_tokens = LEAST},
    {.repetition_penalty = 1, .on_mask = mask_by_text},
    {.repetition_penalty = 1.3f,
     .presence_penalty = -0.3f,
     .frequency_penalty = 0.5f,
     .min_tokens = LEAST,
     .logit_bias = some,
     .logit_bias_count = 4,
     .on_mask = mask_by_text},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void take_kind(spc_session_options *o, int32_t kind)
{
    o->repetition_penalty = kinds[kind].repetition_penalty;
    o->presence_penalty = kinds[kind].presence_penalty;
    o->frequency_penalty = kinds[kind].frequency_penalty;
    o->min_tokens = kinds[kind].min_tokens;
    o->logit_bias = kinds[kind].logit_bias;
    o->logit_bias_count = kinds[kind].logit_bias_count;
    o->on_mask = kinds[kind].on_mask;
}

static const toy_pair pair = {.seed = 5, .vocab = 8, .context = 32, .sessions = 1, .spread = 3};

static void check_session(spc_engine *engine, const spc_session_options *o, int32_t *seen)
{
    prompt text = start;
    spc_session *s = open_session(engine, o, &start);
    const spc_token_detail *detail;
    const int32_t *token;
    int32_t count;

    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    detail = spc_session_details(s, &count);
    token = spc_session_tokens(s, &count);
    for (int32_t i = 0; i < count; i++) {
        float drafter[TOY_VOCAB], verifier[TOY_VOCAB];

        toy_logits(&pair, true, text.id, text.count, drafter);
        toy_logits(&pair, false, text.id, text.count, verifier);
        edit(o, &text, pair.vocab, drafter);
        edit(o, &text, pair.vocab, verifier);
        cr_assert_gt(verifier[token[i]], -INFINITY, "%s: token %d cannot come", o->rule, token[i]);
        expect_detail(drafter, verifier, pair.vocab, o, token[i], &detail[i]);
        seen[detail[i].row.fate]++;
        text.id[text.count++] = token[i];
    }
    cr_expect(count == TOKENS || (token[count - 1] == STOP && !o->ignore_stop));
    spc_session_close(s);
}

Test(host_processor, sessions_are_decided_by_edited_rows)
{
    spc_engine *engine = toy_engine(&pair);
    int32_t seen[SPC_FATE_BONUS + 1] = {0};

    toy_stop_at(engine, STOP);
    for (int32_t k = 0; k < KINDS; k++) {
        for (int32_t r = 0; r < LAWS; r++) {
            for (uint64_t seed = 0; seed < 4; seed++) {
                spc_session_options o = options_for(laws[r], seed % 2 ? GAMMA : 1, 1, TOKENS);

                take_kind(&o, k);
                o.details = true;
                o.seed = seed;
                o.ignore_stop = seed == 2;
                do check_session(engine, &o, seen);
                while (next_mode(&o));
            }
        }
    }
    for (int32_t fate = SPC_FATE_KEPT; fate <= SPC_FATE_BONUS; fate++) {
        cr_expect_gt(seen[fate], 100, "fate %d: %d", (int)fate, (int)seen[fate]);
    }
    spc_engine_close(engine);
}

/* ---- rules that run one model at a time, drafts that are looked up ---- */

static void expect_obeyed(spc_engine *engine, const char *rule)
{
    bool greedy = strncmp(rule, "bild", 4) == 0; /* it knows nothing else */
    int32_t asked = 0;

    for (uint64_t seed = 0; seed < 20; seed++) {
        spc_session_options o = options_for(rule, GAMMA, greedy || seed % 2 ? 0 : 1, TOKENS);
        prompt text = start;
        decoded d;

        take_kind(&o, KINDS - 1);
        o.user = &asked;
        o.seed = seed;
        d = decode(engine, &o, &start);
        cr_assert_eq(d.status, SPC_OK, "%s: %s", rule, d.error.message);
        cr_assert_gt(d.count, LEAST);
        for (int32_t i = 0; i < d.count; i++) {
            cr_expect_neq(d.token[i], 0, "%s", rule);
            cr_expect(i >= LEAST || d.token[i] != STOP, "%s", rule);
            cr_expect(text.count % 4 == 3 || allows(text.id, text.count, d.token[i]), "%s", rule);
            text.id[text.count++] = d.token[i];
        }
    }
    cr_expect_gt(asked, 0);
}

Test(host_processor, every_strategy_obeys)
{
    static const char *const sequential[] = {"verifier-only",        "drafter-only",
                                             "token-chow:alpha=0.6", "seq-chow:alpha=0.6",
                                             "seq-chow:alpha=0.2",   "bild-dynamic:fallback=0.4"};
    spc_engine *engine = toy_engine(&pair);

    toy_stop_at(engine, STOP);
    for (size_t i = 0; i < sizeof sequential / sizeof *sequential; i++) {
        expect_obeyed(engine, sequential[i]);
    }
    spc_engine_close(engine);
}

Test(host_processor, drafts_that_are_looked_up_need_not_be_allowed)
{
    spc_engine *engine = toy_engine(&pair);

    toy_look_up(engine, 1, 2);
    toy_stop_at(engine, STOP);
    expect_obeyed(engine, "strict");
    expect_obeyed(engine, "truncate:alpha=0.5");
    spc_engine_close(engine);
}

/* A greedy drafter alone, and the paper's BiLD, against rows edited by hand. */
Test(host_processor, the_drafter_alone_writes_what_its_edited_rows_say)
{
    spc_engine *engine = toy_engine(&pair);

    for (int32_t k = 0; k < KINDS; k++) {
        spc_session_options o = options_for("drafter-only", GAMMA, 0, TOKENS);
        prompt text = start;
        decoded d;

        take_kind(&o, k);
        d = decode(engine, &o, &start);
        cr_assert_eq(d.count, TOKENS);
        for (int32_t i = 0; i < TOKENS; i++) {
            float row[TOY_VOCAB];
            int32_t best = 0;

            toy_logits(&pair, true, text.id, text.count, row);
            o.min_tokens = 0; /* no token is an end here */
            edit(&o, &text, pair.vocab, row);
            for (int32_t v = 1; v < pair.vocab; v++) best = row[v] > row[best] ? v : best;
            cr_assert_eq(d.token[i], best, "kind %d, token %d", (int)k, (int)i);
            text.id[text.count++] = best;
        }
    }
    spc_engine_close(engine);
}

/* ---- company ---- */

/* So many edits and masks that they go in several lists. */
static void expect_same_in_company(int32_t kind)
{
    enum { SESSIONS = 40 };
    static const toy_pair many = {
        .seed = 9, .vocab = TOY_VOCAB, .context = 64, .sessions = SESSIONS, .spread = 6};
    spc_engine *engine = toy_engine(&many);
    spc_session *s[SESSIONS];
    static decoded alone[SESSIONS];
    spc_session_options o[SESSIONS];
    prompt text = {{0}, 40};

    for (int32_t i = 0; i < text.count; i++) text.id[i] = i;
    for (int32_t i = 0; i < SESSIONS; i++) {
        o[i] = options_for("token-v3:alpha=0.3", GAMMA, 1, TOKENS);
        take_kind(&o[i], i % 5 == 4 ? 0 : kind);
        if (i % 7 == 6) o[i] = options_for("strict", GAMMA, 1, TOKENS);
        o[i].ignore_stop = true;
        o[i].seed = (uint64_t)i;
        alone[i] = decode(engine, &o[i], &text);
    }
    for (int32_t i = 0; i < SESSIONS; i++) s[i] = open_session(engine, &o[i], &text);
    for (int32_t step = 0; step < 2 * TOKENS; step++) {
        cr_assert_eq(spc_engine_step(engine, s, SESSIONS, NULL), SPC_OK);
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        decoded d = decoded_of(s[i]);

        cr_expect_eq(d.count, TOKENS);
        cr_expect(same_tokens(&d, &alone[i]), "kind %d, session %d", (int)kind, (int)i);
        spc_session_close(s[i]);
    }
    spc_engine_close(engine);
}

Test(host_processor, a_session_is_the_same_in_company)
{
    expect_same_in_company(KINDS - 1);
    expect_same_in_company(1); /* no masks, which would have lists sent before they are full */
}

/* What was written before counts no longer, and the prompt does. */
Test(host_processor, a_restarted_session_begins_anew)
{
    static const prompt other = {{4, 3, 4, 7}, 4};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("opt:alpha=0.2", GAMMA, 1, TOKENS);
    decoded fresh, again;
    spc_session *s;

    take_kind(&o, KINDS - 1);
    fresh = decode(engine, &o, &other);
    s = open_session(engine, &o, &start);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    cr_assert_eq(spc_session_restart(s, other.id, other.count, NULL), SPC_OK);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    again = decoded_of(s);
    cr_expect(same_tokens(&fresh, &again));
    spc_session_close(s);
    spc_engine_close(engine);
}

/* ---- no way on ---- */

typedef struct {
    int32_t at; /* tokens behind which nothing is allowed */
} end;

static bool mask_to_an_end(void *user, const int32_t *token, int32_t count, uint32_t *allowed,
                           int32_t vocab)
{
    const end *e = user;

    (void)token;
    (void)vocab;
    if (count < e->at) allowed[0] = 0xffu;
    return true;
}

Test(host_processor, a_mask_without_a_token_ends_its_session_and_no_other)
{
    static const toy_pair two = {
        .seed = 5, .vocab = 8, .context = 32, .sessions = 2, .spread = 3, .equal = true};
    static const char *const all[] = {"strict", "opt:alpha=0.2", "drafter-only",
                                      "token-chow:alpha=1", "bild-dynamic:fallback=0.4"};
    spc_engine *engine = toy_engine(&two);

    for (size_t r = 0; r < sizeof all / sizeof *all; r++) {
        for (int32_t more = 0; more < 2 * GAMMA; more++) {
            end e = {start.count + more};
            spc_session_options o = options_for(all[r], GAMMA, r == 4 ? 0 : 1, TOKENS);
            spc_session *s[2];
            decoded d;

            s[1] = open_session(engine, &o, &start);
            o.on_mask = mask_to_an_end;
            o.user = &e;
            s[0] = open_session(engine, &o, &start);
            for (int32_t step = 0; step < TOKENS; step++) {
                (void)spc_engine_step(engine, s, 2, NULL);
            }
            d = decoded_of(s[0]);
            cr_expect_eq(d.status, SPC_EINPUT, "%s: %s", all[r], d.error.message);
            cr_expect_eq(d.count, more, "%s: %d tokens", all[r], (int)d.count);
            cr_expect_not_null(strstr(d.error.message, "on_mask"), "%s", d.error.message);
            cr_expect_eq(spc_session_finish(s[1]), SPC_FINISH_MAX_TOKENS, "%s", all[r]);
            spc_session_close(s[0]);
            spc_session_close(s[1]);
        }
    }
    spc_engine_close(engine);
}

/* Allows the token that ends a sequence, and no other. */
static bool mask_of_the_end(void *user, const int32_t *token, int32_t count, uint32_t *allowed,
                            int32_t vocab)
{
    (void)user;
    (void)token;
    (void)count;
    (void)vocab;
    allowed[0] = 1u << STOP;
    return true;
}

Test(host_processor, edits_that_together_leave_no_token_are_not_the_models_fault)
{
    static const toy_pair one = {
        .seed = 5, .vocab = 8, .context = 32, .sessions = 1, .spread = 3, .equal = true};
    static const int32_t stop = STOP;
    const float never = -INFINITY;
    const spc_logit_bias all[] = {{0, never}, {1, never}, {2, never}, {3, never},
                                  {4, never}, {5, never}, {6, never}, {7, never}};
    const struct {
        spc_mask_fn on_mask;
        int32_t biases, least;
        const char *says;
    } ways[] = {{mask_of_the_end, 0, 2, "on_mask with logit-bias and min-tokens: no token"},
                {mask_of_the_end, 8, 0, "on_mask with logit-bias and min-tokens: no token"},
                {NULL, 8, 0, "logit-bias and min-tokens: no token"}};
    spc_engine *engine = toy_engine(&one);

    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        spc_session_options o = options_for(k % 2 ? "verifier-only" : "strict", GAMMA, 1, TOKENS);
        decoded d;

        o.on_mask = ways[k].on_mask;
        o.logit_bias = all;
        o.logit_bias_count = ways[k].biases;
        o.min_tokens = ways[k].least;
        o.stop_token = &stop;
        o.stop_token_count = 1;
        o.ignore_stop = false;
        d = decode(engine, &o, &start);
        cr_expect_eq(d.status, SPC_EINPUT, "%zu: %s", k, d.error.message);
        cr_expect_eq(d.count, 0, "%zu: %d tokens", k, (int)d.count);
        cr_expect_eq(strncmp(d.error.message, ways[k].says, strlen(ways[k].says)), 0, "%s",
                     d.error.message);
    }
    spc_engine_close(engine);
}

/* ---- refused ---- */

Test(host_processor, what_makes_no_sense_is_refused)
{
    static const spc_logit_bias twice[] = {{3, 1}, {2, 0}, {3, 2}}, beyond[] = {{8, 1}},
                                below[] = {{-1, 1}}, high[] = {{1, INFINITY}}, none[] = {{1, NAN}};
    static const struct {
        const spc_logit_bias *bias;
        int32_t count;
        const char *word;
    } refused[] = {{twice, 3, "token 3 is there twice"},
                   {beyond, 1, "0 to 7, found 8"},
                   {below, 1, "found -1"},
                   {high, 1, "token 1: expected a finite number or -inf"},
                   {none, 1, "found nan"},
                   {NULL, 2, "found NULL"},
                   {twice, -1, "found -1"},
                   {twice, SPC_LOGIT_BIAS_MAX + 1, "0 to 1024"}};
    spc_engine *engine = toy_engine(&pair);
    spc_session *s;

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        spc_session_options o = options_for("strict", GAMMA, 1, TOKENS);
        spc_error error;

        o.logit_bias = refused[i].bias;
        o.logit_bias_count = refused[i].count;
        cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error), SPC_EUSAGE);
        cr_expect_not_null(strstr(error.message, refused[i].word), "%s", error.message);
        cr_expect_not_null(strstr(error.message, "bias"), "%s", error.message);
    }
    spc_engine_close(engine);
}
