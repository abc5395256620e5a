/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_session_refused.c - options, prompts and calls that are refused, by name and without a
 * trace. */
#include "equal_pair.h"

#include <math.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

typedef enum { IS_INT, IS_FLOAT, IS_TEXT } option_kind;

#define OPTION(name) offsetof(spc_session_options, name)

/* One option each, and a word of the message. */
static const struct {
    size_t option;
    option_kind kind;
    double value;
    const char *text;
    spc_status status;
    const char *word;
} refused[] = {
    {OPTION(gamma), IS_INT, -2, NULL, SPC_EUSAGE, "gamma"},
    {OPTION(gamma), IS_INT, SPC_GAMMA_MAX + 1, NULL, SPC_EUSAGE, "gamma"},
    {OPTION(temperature), IS_FLOAT, -1, NULL, SPC_EUSAGE, "temperature"},
    {OPTION(temperature), IS_FLOAT, 1e-5, NULL, SPC_EUSAGE, "temperature"},
    {OPTION(temperature), IS_FLOAT, NAN, NULL, SPC_EUSAGE, "temperature"},
    {OPTION(temperature), IS_FLOAT, INFINITY, NULL, SPC_EUSAGE, "temperature"},
    {OPTION(top_k), IS_INT, -1, NULL, SPC_EUSAGE, "top-k"},
    {OPTION(top_p), IS_FLOAT, 0, NULL, SPC_EUSAGE, "top-p"},
    {OPTION(top_p), IS_FLOAT, 1.01, NULL, SPC_EUSAGE, "top-p"},
    {OPTION(top_p), IS_FLOAT, NAN, NULL, SPC_EUSAGE, "top-p"},
    {OPTION(min_p), IS_FLOAT, -0.1, NULL, SPC_EUSAGE, "min-p"},
    {OPTION(min_p), IS_FLOAT, 1.01, NULL, SPC_EUSAGE, "min-p"},
    {OPTION(min_p), IS_FLOAT, NAN, NULL, SPC_EUSAGE, "min-p"},
    {OPTION(max_tokens), IS_INT, -1, NULL, SPC_EUSAGE, "max-tokens"},
    {OPTION(verify), IS_INT, 2, NULL, SPC_EUSAGE, "verify"},
    {OPTION(verify), IS_INT, -1, NULL, SPC_EUSAGE, "verify"},
    {OPTION(bonus), IS_INT, 3, NULL, SPC_EUSAGE, "bonus"},
    {OPTION(bonus), IS_INT, -1, NULL, SPC_EUSAGE, "bonus"},
    {OPTION(rule), IS_TEXT, 0, NULL, SPC_ERULE, "rule"},
    {OPTION(rule), IS_TEXT, 0, "stricter", SPC_ERULE, "stricter"},
    {OPTION(rule), IS_TEXT, 0, "token-v3:alpha=7", SPC_ERULE, "alpha"},
    {OPTION(rule), IS_TEXT, 0, "lossy-greedy:alpha=0.5", SPC_ERULE, "lossy-greedy"},
    {OPTION(stop_count), IS_INT, -1, NULL, SPC_EUSAGE, "stop"},
    {OPTION(stop_count), IS_INT, SPC_STOP_STRINGS_MAX + 1, NULL, SPC_EUSAGE, "0 to 256"},
    {OPTION(stop_token_count), IS_INT, 1, NULL, SPC_EUSAGE, "stop_token: expected 1 ids"},
    {OPTION(stop_token_count), IS_INT, SPC_STOP_TOKENS_MAX + 1, NULL, SPC_EUSAGE, "stop tokens"},
    {OPTION(repetition_penalty), IS_FLOAT, 0, NULL, SPC_EUSAGE, "repetition-penalty"},
    {OPTION(repetition_penalty), IS_FLOAT, 1e-38, NULL, SPC_EUSAGE, "expected 0.0001 to 100"},
    {OPTION(repetition_penalty), IS_FLOAT, 101, NULL, SPC_EUSAGE, "repetition-penalty"},
    {OPTION(repetition_penalty), IS_FLOAT, NAN, NULL, SPC_EUSAGE, "repetition-penalty"},
    {OPTION(presence_penalty), IS_FLOAT, -101, NULL, SPC_EUSAGE, "presence-penalty"},
    {OPTION(presence_penalty), IS_FLOAT, NAN, NULL, SPC_EUSAGE, "presence-penalty"},
    {OPTION(frequency_penalty), IS_FLOAT, INFINITY, NULL, SPC_EUSAGE, "frequency-penalty"},
    {OPTION(min_tokens), IS_INT, -1, NULL, SPC_EUSAGE, "min-tokens"},
    {OPTION(stop_count), IS_INT, 1, NULL, SPC_EUSAGE, "stop"}, /* the toy has no tokenizer */
};

static void set_option(spc_session_options *o, size_t i)
{
    char *at = (char *)o + refused[i].option;

    switch (refused[i].kind) {
    case IS_INT: *(int32_t *)(void *)at = (int32_t)refused[i].value; break;
    case IS_FLOAT: *(float *)(void *)at = (float)refused[i].value; break;
    default: *(const char **)(void *)at = refused[i].text;
    }
}

Test(host_session_refused, an_option_out_of_range_is_named)
{
    spc_engine *engine = toy_engine(&equal);
    spc_session *s;

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        spc_session_options o = options_of("strict", GAMMA, 1);
        spc_error error = {SPC_OK, ""};

        set_option(&o, i);
        cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error),
                     refused[i].status, "case %d: %s", (int)i, error.message);
        cr_expect_eq(error.status, refused[i].status);
        cr_expect_null(s);
        cr_expect_not_null(strstr(error.message, refused[i].word), "case %d: '%s' without '%s'",
                           (int)i, error.message, refused[i].word);
        cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, NULL),
                     refused[i].status, "without a place for the message");
    }
    /* no slot was lost on the way */
    spc_session_options o = options_of("strict", GAMMA, 1);

    s = open_session(engine, &o, &start);
    spc_session_close(s);
    spc_engine_close(engine);
}

static void expect_null_named(spc_status status, const spc_error *error, const char *argument)
{
    cr_expect_eq(status, SPC_EUSAGE, "%s", argument);
    cr_expect_eq(strncmp(error->message, argument, strlen(argument)), 0, "%s: %s", argument,
                 error->message);
    cr_expect_not_null(strstr(error->message, "found NULL"), "%s", error->message);
}

Test(host_session_refused, a_null_is_named)
{
    spc_engine *engine = toy_engine(&equal), *no_engine;
    spc_session_options o = options_of("strict", GAMMA, 1);
    spc_engine_options eo;
    spc_session *s;
    spc_error e;
    spc_message said = {"user", "a", 1};
    spc_chat_facts chat;
    int32_t *ids, count;
    float logits[1];
    char *text;

    spc_engine_options_init(&eo);
    expect_null_named(spc_engine_open(NULL, &no_engine, &e), &e, "options");
    cr_expect_null(no_engine);
    expect_null_named(spc_engine_open(&eo, NULL, &e), &e, "out");
    expect_null_named(spc_tune_kernels(NULL, "kernels.json", &e), &e, "options");
    expect_null_named(spc_tune_kernels(&eo, NULL, &e), &e, "path");
    expect_null_named(spc_engine_follow(NULL, &e), &e, "engine");
    expect_null_named(spc_engine_encode(NULL, "a", 1, true, &ids, &count, &e), &e, "engine");
    expect_null_named(spc_engine_encode(engine, NULL, 1, true, &ids, &count, &e), &e, "text");
    expect_null_named(spc_engine_encode(engine, "a", 1, true, NULL, &count, &e), &e, "ids");
    expect_null_named(spc_engine_encode(engine, "a", 1, true, &ids, NULL, &e), &e, "count");
    expect_null_named(spc_engine_encode_plain(NULL, "a", 1, true, &ids, &count, &e), &e, "engine");
    expect_null_named(spc_engine_encode_plain(engine, NULL, 1, true, &ids, &count, &e), &e, "text");
    expect_null_named(spc_engine_encode_plain(engine, "a", 1, true, NULL, &count, &e), &e, "ids");
    expect_null_named(spc_engine_encode_plain(engine, "a", 1, true, &ids, NULL, &e), &e, "count");
    expect_null_named(spc_engine_chat(NULL, NULL, &chat, &e), &e, "engine");
    expect_null_named(spc_engine_chat(engine, NULL, NULL, &e), &e, "out");
    expect_null_named(spc_engine_encode_chat(NULL, NULL, &said, 1, true, &ids, &count, &e), &e,
                      "engine");
    expect_null_named(spc_engine_encode_chat(engine, NULL, NULL, 1, true, &ids, &count, &e), &e,
                      "messages");
    expect_null_named(spc_engine_encode_chat(engine, NULL, &said, 1, true, NULL, &count, &e), &e,
                      "ids");
    expect_null_named(spc_engine_encode_chat(engine, NULL, &said, 1, true, &ids, NULL, &e), &e,
                      "count");
    expect_null_named(spc_engine_decode(NULL, &count, 1, true, &text, NULL, &e), &e, "engine");
    expect_null_named(spc_engine_decode(engine, NULL, 1, true, &text, NULL, &e), &e, "ids");
    expect_null_named(spc_engine_decode(engine, &count, 1, true, NULL, NULL, &e), &e, "text");
    expect_null_named(spc_engine_logits(NULL, NULL, 0, &count, 1, logits, &e), &e, "engine");
    expect_null_named(spc_engine_logits(engine, NULL, 0, NULL, 1, logits, &e), &e, "ids");
    expect_null_named(spc_engine_logits(engine, NULL, 0, start.id, 1, NULL, &e), &e, "logits");
    expect_null_named(spc_session_open(NULL, &o, start.id, 1, &s, &e), &e, "engine");
    expect_null_named(spc_session_open(engine, NULL, start.id, 1, &s, &e), &e, "options");
    cr_expect_null(s);
    expect_null_named(spc_session_open(engine, &o, start.id, 1, NULL, &e), &e, "out");
    o.stop_token_count = 1;
    expect_null_named(spc_session_open(engine, &o, start.id, 1, &s, &e), &e, "stop_token");
    expect_null_named(spc_session_restart(NULL, start.id, 1, &e), &e, "session");
    expect_null_named(spc_session_step(NULL, &e), &e, "session");
    expect_null_named(spc_session_run(NULL, &e), &e, "session");
    expect_null_named(spc_session_text(NULL, &text, NULL, &e), &e, "session");
    expect_null_named(spc_engine_step(NULL, NULL, 0, &e), &e, "engine");
    expect_null_named(spc_engine_step(engine, NULL, 1, &e), &e, "sessions");
    cr_expect_eq(spc_engine_step(engine, NULL, 0, &e), SPC_OK);
    spc_engine_close(engine);
}

Test(host_session_refused, options_that_do_not_go_together_are_refused)
{
    spc_engine *engine = toy_engine(&equal);
    spc_session_options o = options_of("strict", GAMMA, 1);
    spc_session *s;
    spc_error error;

    o.verify = SPC_VERIFY_BLOCK;
    o.bonus = SPC_BONUS_STEP;
    cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error), SPC_EUNSUPPORTED);
    cr_expect(strstr(error.message, "no bonus step") && strstr(error.message, "lock"), "%s",
              error.message);
    cr_expect_null(s);
    /* the law would depend on the lengths that are chosen, but under strict */
    o = options_of("truncate:alpha=0.5", SPC_GAMMA_AUTO, 1);
    o.bonus = SPC_BONUS_VERIFIER;
    cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error), SPC_EUNSUPPORTED);
    cr_expect(strstr(error.message, "gamma auto with bonus verifier"), "%s", error.message);
    o.rule = "truncate:top-p=0.5";
    cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error), SPC_EUNSUPPORTED);
    o.rule = "strict";
    cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &s, &error), SPC_OK);
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_session_refused, an_empty_stop_string_is_refused)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 1);
    static const char *const empty[] = {"a", ""}, *const missing[] = {NULL};
    static const char *const *const lists[] = {empty, missing, NULL};
    static const char *const named[] = {"stop string 2", "stop string 1",
                                        "stop: expected 1 strings"};
    prompt p = prompt_of(engine, sentence);

    for (int32_t i = 0; i < 3; i++) {
        spc_session_options o = options_of("strict", GAMMA, 1);
        spc_session *s;
        spc_error error;

        o.stop = lists[i];
        o.stop_count = i ? 1 : 2;
        cr_expect_eq(spc_session_open(engine, &o, p.id, p.count, &s, &error), SPC_EUSAGE);
        cr_expect(strstr(error.message, named[i]), "%s", error.message);
    }
    spc_engine_close(engine);
}

Test(host_session_refused, a_prompt_that_does_not_fit_is_refused)
{
    enum { CONTEXT = 64 };
    static const struct {
        int32_t count, at, id;
        spc_status status;
        const char *word;
    } cases[] = {{0, 0, 1, SPC_EINPUT, "empty"},
                 {-1, 0, 1, SPC_EINPUT, "empty"},
                 {5, 3, TOY_VOCAB, SPC_EINPUT, "token 3"},
                 {5, 0, -1, SPC_EINPUT, "token 0"},
                 {CONTEXT, 0, 1, SPC_EFULL, "64"},
                 {CONTEXT + 1, 0, 1, SPC_EFULL, "65"},
                 {INT32_MAX, 0, -1, SPC_EFULL, "2147483647"}}; /* ids beyond it are not read */
    spc_engine *engine = toy_engine(&equal);
    spc_session_options o = options_of("strict", GAMMA, 1);
    spc_session *s;
    spc_error error;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompt p = prompt_made(80, TOY_VOCAB, 1);

        p.id[cases[i].at] = cases[i].id;
        cr_expect_eq(spc_session_open(engine, &o, p.id, cases[i].count, &s, &error),
                     cases[i].status, "case %d", (int)i);
        cr_expect_not_null(strstr(error.message, cases[i].word), "case %d: %s", (int)i,
                           error.message);
        cr_expect_null(s);
    }
    cr_expect_eq(spc_session_open(engine, &o, NULL, 3, &s, &error), SPC_EINPUT);

    prompt longest = prompt_made(CONTEXT - 1, TOY_VOCAB, 1);
    decoded d = decode(engine, &o, &longest);

    cr_expect_eq(d.count, 1, "room for one token is enough");
    cr_expect_eq(d.finish, SPC_FINISH_CONTEXT);
    spc_engine_close(engine);
}

Test(host_session_refused, sessions_beyond_the_slots_are_refused_until_one_closes)
{
    toy_pair pair = equal;

    pair.sessions = 3;
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("strict", GAMMA, 0);
    decoded whole = free_run(engine, &start, 20);
    spc_session *s[3], *more;
    spc_error error;

    o.max_tokens = 20;
    for (int32_t i = 0; i < 3; i++) s[i] = open_session(engine, &o, &start);
    cr_assert_eq(spc_session_run(s[1], NULL), SPC_OK);
    cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &more, &error), SPC_EFULL);
    cr_expect(strstr(error.message, "3"), "%s", error.message);
    cr_expect_null(more);
    spc_session_close(s[1]);
    s[1] = open_session(engine, &o, &start); /* the slot's caches begin anew */
    cr_assert_eq(spc_session_run(s[1], NULL), SPC_OK);
    decoded d = decoded_of(s[1]);

    cr_expect(same_tokens(&d, &whole));
    for (int32_t i = 0; i < 3; i++) spc_session_close(s[i]);
    spc_session_close(NULL);
    spc_engine_close(engine);
}

Test(host_session_refused, a_step_of_the_wrong_sessions_runs_nothing)
{
    toy_pair pair = equal;

    pair.sessions = 2;
    spc_engine *engine = toy_engine(&pair), *other = toy_engine(&pair);
    spc_session_options o = options_of("strict", GAMMA, 0);
    spc_session *a = open_session(engine, &o, &start), *b = open_session(other, &o, &start);
    spc_session *const groups[][2] = {{a, a}, {a, b}, {a, NULL}};
    spc_error error;

    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        cr_expect_eq(spc_engine_step(engine, groups[i], 2, &error), SPC_EUSAGE);
        cr_expect(strstr(error.message, "session 1"), "%s", error.message);
        cr_expect_eq(decoded_of(a).stats.rounds, 0, "case %d", (int)i);
    }
    cr_expect_eq(spc_engine_step(engine, groups[0], 0, &error), SPC_OK, "nobody is no error");
    spc_session_close(a);
    spc_session_close(b);
    spc_engine_close(other);
    spc_engine_close(engine);
}

/* ---- calls that must not be made --------------------------------------------------------------
 */

static void expect_named(spc_status status, const spc_error *error, const char *word)
{
    cr_expect_eq(status, SPC_EUSAGE, "%s: %s", word, spc_status_name(status));
    cr_expect(strstr(error->message, word), "'%s' without '%s'", error->message, word);
}

Test(host_session_refused, a_count_below_zero_and_an_array_that_is_not_there_are_named)
{
    spc_engine *engine = toy_engine(&equal);
    spc_session_options o = options_of("strict", GAMMA, 0);
    spc_session *s = open_session(engine, &o, &start);
    int32_t id = 1, *ids;
    float logits[1];
    char *text;
    spc_error e;

    expect_named(spc_engine_step(engine, &s, -1, &e), &e, "count");
    expect_named(spc_engine_decode(engine, &id, -3, true, &text, NULL, &e), &e, "count");
    expect_named(spc_engine_encode_chat(engine, NULL, NULL, -1, true, &ids, &id, &e), &e,
                 "message_count");
    expect_named(spc_engine_logits(engine, NULL, 1, &id, 1, logits, &e), &e, "source");
    expect_named(spc_session_text(s, NULL, NULL, &e), &e, "text");
    spc_session_close(s);
    spc_engine_close(engine);
}

/* A session whose callback calls back. */
typedef struct {
    spc_engine *engine;
    spc_session *session;
    int32_t calls;
} caller;

static bool call_back(void *user, const spc_token *token)
{
    caller *c = user;
    spc_session_options o = options_of("strict", GAMMA, 0);
    static float logits[TOY_VOCAB];
    spc_engine_facts facts;
    spc_session *more;
    spc_error e;
    int32_t count;

    expect_named(spc_session_step(c->session, &e), &e, "callback");
    expect_named(spc_session_run(c->session, &e), &e, "callback");
    expect_named(spc_engine_step(c->engine, &c->session, 1, &e), &e, "callback");
    expect_named(spc_session_open(c->engine, &o, start.id, start.count, &more, &e), &e, "callback");
    expect_named(spc_session_restart(c->session, start.id, start.count, &e), &e, "callback");
    expect_named(spc_engine_logits(c->engine, NULL, 0, start.id, 1, logits, &e), &e, "callback");
    spc_session_close(c->session);
    cr_expect_not(spc_session_waits(c->session));
    spc_engine_describe(c->engine, &facts);
    cr_expect_eq(spc_session_tokens(c->session, &count)[count - 1], token->id);
    c->calls++;
    return true;
}

Test(host_session_refused, a_callback_that_calls_back_is_refused_and_changes_nothing, .timeout = 60)
{
    spc_engine *engine = toy_engine(&equal);
    decoded whole = free_run(engine, &start, 12);
    spc_session_options o = options_of("strict", GAMMA, 0);
    caller c = {engine, NULL, 0};

    o.max_tokens = 12;
    o.on_token = call_back;
    o.user = &c;
    c.session = open_session(engine, &o, &start);
    cr_expect_eq(spc_session_run(c.session, NULL), SPC_OK);
    decoded d = decoded_of(c.session);

    cr_expect(same_tokens(&d, &whole));
    cr_expect_eq(c.calls, whole.count);
    spc_session_close(c.session);
    spc_engine_close(engine);
}

static void expect_only_read(spc_session *s, int32_t tokens)
{
    spc_error e;
    int32_t count;

    expect_named(spc_session_step(s, &e), &e, "has been closed");
    expect_named(spc_session_restart(s, start.id, start.count, &e), &e, "has been closed");
    (void)spc_session_tokens(s, &count);
    cr_expect_eq(count, tokens);
    cr_expect_eq(spc_session_finish(s), SPC_FINISH_RUNNING);
}

/* With sanitizers: nothing is used after it is gone, and nothing stays. */
Test(host_session_refused, an_engine_closed_too_early_ends_with_its_last_session, .timeout = 60)
{
    toy_pair pair = equal;

    pair.sessions = 2;
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("verifier-only", GAMMA, 0);
    spc_session *a = open_session(engine, &o, &start), *b = open_session(engine, &o, &start);

    cr_assert_eq(spc_session_step(a, NULL), SPC_OK);
    spc_engine_close(engine);
    expect_only_read(a, 1);
    spc_session_close(a);
    expect_only_read(b, 0);
    spc_session_close(b);
}

static bool close_engine(void *user, const spc_token *token)
{
    (void)token;
    spc_engine_close(user);
    return true;
}

Test(host_session_refused, an_engine_closed_by_a_callback_ends_with_its_session, .timeout = 60)
{
    spc_engine *engine = toy_engine(&equal);
    spc_session_options o = options_of("verifier-only", GAMMA, 0);
    spc_error e;

    o.on_token = close_engine;
    o.user = engine;
    spc_session *s = open_session(engine, &o, &start);

    expect_named(spc_session_run(s, &e), &e, "has been closed");
    expect_only_read(s, 1);
    spc_session_close(s);
}

/* The child ends by an alarm where it hangs. */
Test(host_session_refused, a_forked_child_is_refused_and_closes_without_waiting, .timeout = 60)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 3);
    prompt p = prompt_of(engine, sentence);
    spc_session_options o = options_of("strict", GAMMA, 0);
    decoded whole = decode(engine, &o, &p);
    spc_session *s = open_session(engine, &o, &p);
    int status = -1;
    pid_t child;

    cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    child = fork();
    if (child == 0) {
        spc_error e;
        bool good;

        (void)alarm(20);
        good = spc_session_step(s, &e) == SPC_EUSAGE && strstr(e.message, "another process");
        spc_session_close(s);
        spc_engine_close(engine);
        _exit(good ? 0 : 1);
    }
    cr_assert_gt(child, 0);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", status);
    cr_expect_eq(spc_session_run(s, NULL), SPC_OK);
    decoded d = decoded_of(s);

    cr_expect(same_tokens(&d, &whole), "the parent's engine goes on");
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_session_refused, without_a_tokenizer_there_is_no_text)
{
    spc_engine *engine = toy_engine(&equal);
    spc_session_options o = options_of("strict", GAMMA, 0);
    spc_session *s = open_session(engine, &o, &start);
    char *text;
    spc_error error;

    cr_expect_eq(spc_session_text(s, &text, NULL, &error), SPC_EMODEL);
    cr_expect_null(text);
    cr_expect(strstr(error.message, "tokenizer"), "%s", error.message);
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_session_refused, every_finish_has_a_name)
{
    for (int32_t i = 0; i < SPC_FINISH_COUNT; i++) {
        for (int32_t j = 0; j < i; j++) {
            cr_expect_str_neq(spc_finish_name((spc_finish)i), spc_finish_name((spc_finish)j));
        }
    }
    cr_expect_str_eq(spc_finish_name(SPC_FINISH_STOP_STRING), "stop-string");
    cr_expect_str_eq(spc_finish_name((spc_finish)99), "unknown");
}
