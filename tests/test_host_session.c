/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_session.c - where a sequence ends and what is kept of the round it ends in; text. */
#include "equal_pair.h"

#include <pthread.h>
#include <stdio.h>

static bool occurs_before(const decoded *d, int32_t at)
{
    for (int32_t i = 0; i < at; i++) {
        if (d->token[i] == d->token[at]) return true;
    }
    return false;
}

/* Tokens of a session that ended at `count` of those a longer one has. */
static void expect_end(const decoded *d, const decoded *whole, spc_finish finish, int32_t count,
                       const char *what)
{
    cr_expect_eq(d->status, SPC_OK);
    cr_expect_eq(d->finish, finish, "%s: %s, not %s", what, spc_finish_name(d->finish),
                 spc_finish_name(finish));
    cr_expect_eq(d->count, count, "%s: %d tokens, not %d", what, (int)d->count, (int)count);
    cr_expect(begins_with(d, whole, d->count), "%s: other tokens", what);
    cr_expect_eq(d->stats.tokens, d->count);
}

/* ---- where a run ends -------------------------------------------------------------------------
 */

Test(host_session, a_stop_token_ends_the_sequence_wherever_it_stands_in_a_run)
{
    static const spc_bonus_mode bonuses[] = {SPC_BONUS_TARGET, SPC_BONUS_VERIFIER, SPC_BONUS_STEP};
    spc_engine *engine = toy_engine(&equal);
    decoded whole = free_run(engine, &start, 20);
    uint32_t tried = 0;

    for (int32_t c = 0; c < 3 * 15; c++) {
        int32_t at = c / 3;
        spc_session_options o = options_of("strict", GAMMA, 0);

        if (occurs_before(&whole, at)) continue;
        o.bonus = bonuses[c % 3];
        o.max_tokens = 20;
        toy_stop_at(engine, whole.token[at]);
        decoded d = decode(engine, &o, &start);

        expect_end(&d, &whole, SPC_FINISH_STOP_TOKEN, at + 1, "stop token");
        cr_expect_eq(d.stats.discarded, 0, "nothing is drafted behind a stop token");
        cr_expect_leq(sum_of(d.stats.drafted), at + 1);
        tried |= 1u << at % RUN;
    }
    cr_expect_eq(tried, (1u << RUN) - 1, "every position of a run");
    spc_engine_close(engine);
}

/* A draft that would end the sequence and is rejected does not end it: tokens are those of a
 * session that knows no stop token, up to the first one that was kept. */
Test(host_session, a_rejected_stop_token_stops_nothing)
{
    const toy_pair pair = {
        .seed = 8, .vocab = 6, .context = 64, .sessions = 1, .spread = 4, .reversed = true};
    spc_engine *engine = toy_engine(&pair);
    int32_t beyond_first_round = 0;

    for (uint64_t seed = 0; seed < 60; seed++) {
        spc_session_options o = options_of("strict", GAMMA, 1);
        decoded whole, d;
        int32_t at = 0;

        o.seed = seed;
        o.bonus = SPC_BONUS_STEP;
        o.max_tokens = 40;
        o.ignore_stop = true;
        toy_stop_at(engine, (int32_t)(seed % 6));
        whole = decode(engine, &o, &start);
        o.ignore_stop = false;
        d = decode(engine, &o, &start);
        while (at < whole.count && whole.token[at] != (int32_t)(seed % 6)) at++;
        if (at == whole.count) continue;
        expect_end(&d, &whole, SPC_FINISH_STOP_TOKEN, at + 1, "stop token");
        beyond_first_round += sum_of(d.stats.rejected) > 1;
    }
    cr_expect_gt(beyond_first_round, 20);
    spc_engine_close(engine);
}

Test(host_session, a_stop_token_ends_sequential_decoding_too)
{
    static const char *const rules[] = {"verifier-only", "drafter-only"};

    for (int32_t r = 0; r < 2; r++) {
        spc_engine *engine = toy_engine(&equal);
        spc_session_options o = options_of(rules[r], GAMMA, 0);
        decoded whole = free_run(engine, &start, 20), d;
        int32_t at = 9;

        while (occurs_before(&whole, at)) at++;
        toy_stop_at(engine, whole.token[at]);
        d = decode(engine, &o, &start);
        expect_end(&d, &whole, SPC_FINISH_STOP_TOKEN, at + 1, rules[r]);
        spc_engine_close(engine);
    }
}

Test(host_session, ignore_stop_goes_on_behind_a_stop_token)
{
    spc_engine *engine = toy_engine(&equal);
    decoded whole = free_run(engine, &start, 20), d;

    toy_stop_at(engine, whole.token[6]);
    d = free_run(engine, &start, 20);
    expect_end(&d, &whole, SPC_FINISH_MAX_TOKENS, 20, "ignored");
    spc_engine_close(engine);
}

Test(host_session, the_budget_ends_a_run_at_any_position)
{
    spc_engine *engine = toy_engine(&equal);
    decoded whole = free_run(engine, &start, 20);

    for (int32_t max = 1; max <= 15; max++) {
        spc_session_options o = options_of("strict", GAMMA, 0);

        o.max_tokens = max;
        decoded d = decode(engine, &o, &start);

        expect_end(&d, &whole, SPC_FINISH_MAX_TOKENS, max, "budget");
        cr_expect_eq(d.stats.discarded, 0, "a round is cut before it drafts too much");
        cr_expect_eq(sum_of(d.stats.drafted), max - d.stats.rounds);
    }
    spc_engine_close(engine);
}

Test(host_session, the_context_ends_a_run_at_any_position)
{
    toy_pair large = equal;
    spc_engine *wide = toy_engine(&large);
    decoded whole = free_run(wide, &start, 20);

    for (int32_t room = 1; room <= 15; room++) {
        toy_pair pair = equal;

        pair.context = start.count + room;
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_of("strict", GAMMA, 0);
        decoded d = decode(engine, &o, &start);

        expect_end(&d, &whole, SPC_FINISH_CONTEXT, room, "context");
        o.bonus = SPC_BONUS_STEP;
        d = decode(engine, &o, &start);
        expect_end(&d, &whole, SPC_FINISH_CONTEXT, room, "context, bonus=step");
        spc_engine_close(engine);
    }
    spc_engine_close(wide);
}

Test(host_session, an_ended_session_stays_as_it_is)
{
    spc_engine *engine = toy_engine(&equal);
    spc_session_options o = options_of("strict", GAMMA, 0);

    o.max_tokens = 7;
    spc_session *s = open_session(engine, &o, &start);

    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    decoded before = decoded_of(s);

    spc_session_cancel(s);
    cr_expect_eq(spc_session_step(s, NULL), SPC_OK);
    cr_expect_eq(spc_session_run(s, NULL), SPC_OK);
    decoded after = decoded_of(s);

    cr_expect(same_tokens(&before, &after));
    cr_expect_eq(before.stats.rounds, after.stats.rounds);
    spc_session_close(s);
    spc_engine_close(engine);
}

/* ---- callbacks and cancelling -----------------------------------------------------------------
 */

typedef struct {
    int32_t told;
    int32_t end_at; /* return false for this token */
    int32_t id[64], position[64];
    spc_session *cancel; /* cancelled when end_at is told; NULL: end by returning false */
} listener;

static bool listen(void *user, const spc_token *token)
{
    listener *l = user;

    l->id[l->told] = token->id;
    l->position[l->told] = token->position;
    if (l->told++ != l->end_at) return true;
    if (l->cancel) spc_session_cancel(l->cancel);
    return l->cancel != NULL;
}

Test(host_session, on_token_hears_every_kept_token_once_and_in_order)
{
    spc_engine *engine = toy_engine(&equal);
    spc_session_options o = options_of("strict", GAMMA, 0);
    listener l = {.end_at = -1};

    o.max_tokens = 23;
    o.on_token = listen;
    o.user = &l;
    decoded d = decode(engine, &o, &start);

    cr_assert_eq(l.told, d.count);
    for (int32_t i = 0; i < d.count; i++) {
        cr_expect_eq(l.id[i], d.token[i]);
        cr_expect_eq(l.position[i], start.count + i);
    }
    spc_engine_close(engine);
}

Test(host_session, on_token_ends_the_session_at_its_token)
{
    spc_engine *engine = toy_engine(&equal);
    decoded whole = free_run(engine, &start, 20);

    for (int32_t at = 0; at < 12; at++) {
        spc_session_options o = options_of("strict", GAMMA, 0);
        listener l = {.end_at = at};

        o.max_tokens = 20;
        o.on_token = listen;
        o.user = &l;
        decoded d = decode(engine, &o, &start);

        expect_end(&d, &whole, SPC_FINISH_CANCELLED, at + 1, "on_token");
        cr_expect_eq(d.stats.discarded, RUN - 1 - at % RUN, "the rest of the run");
        cr_expect_eq(l.told, at + 1);
        cr_expect_eq(sum_of(d.stats.accepted) + d.stats.bonus, at + 1, "and not counted");
    }
    spc_engine_close(engine);
}

Test(host_session, a_cancelled_session_ends_at_its_next_step)
{
    spc_engine *engine = toy_engine(&equal);
    decoded whole = free_run(engine, &start, 20);
    spc_session_options o = options_of("strict", GAMMA, 0);
    listener l = {.end_at = 1};

    o.on_token = listen;
    o.user = &l;
    for (int32_t steps = 0; steps < 3; steps++) {
        spc_session *s = open_session(engine, &o, &start);

        l = (listener){.end_at = -1};
        for (int32_t i = 0; i < steps; i++) cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        spc_session_cancel(s);
        cr_expect_eq(spc_session_finish(s), SPC_FINISH_RUNNING);
        cr_expect_eq(spc_session_step(s, NULL), SPC_OK);
        decoded d = decoded_of(s);

        expect_end(&d, &whole, SPC_FINISH_CANCELLED, steps * RUN, "between steps");
        spc_session_close(s);
    }

    spc_session *s = open_session(engine, &o, &start);

    l = (listener){.end_at = 1, .cancel = s};
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    decoded d = decoded_of(s);

    expect_end(&d, &whole, SPC_FINISH_CANCELLED, RUN, "from a callback");
    spc_session_close(s);
    spc_engine_close(engine);
}

static void *cancel_from_elsewhere(void *user)
{
    spc_session_cancel(user);
    return NULL;
}

Test(host_session, another_thread_may_cancel)
{
    toy_pair pair = equal;
    pthread_t thread;

    pair.context = 4096;
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("strict", 1, 0);
    spc_session *s = open_session(engine, &o, &start);

    cr_assert_eq(pthread_create(&thread, NULL, cancel_from_elsewhere, s), 0);
    while (s->finish == SPC_FINISH_RUNNING && s->length < 2000) {
        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    }
    (void)pthread_join(thread, NULL);
    cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    cr_expect_eq(s->finish, SPC_FINISH_CANCELLED);
    spc_session_close(s);
    spc_engine_close(engine);
}

/* ---- text -------------------------------------------------------------------------------------
 */

typedef struct {
    char text[DECODE_TEXT];
    size_t bytes;
} sink;

static void take(void *user, const char *text, size_t bytes)
{
    sink *s = user;

    cr_assert_leq(s->bytes + bytes, sizeof s->text);
    memcpy(s->text + s->bytes, text, bytes);
    s->bytes += bytes;
}

/* The verifier drafts for itself: runs of RUN tokens with text. */
static spc_engine *open_twins(void)
{
    return open_demo(DEMO_VERIFIER, 1, 2);
}

/* A session with text: what on_text got and what spc_session_text says. */
typedef struct {
    decoded d;
    sink heard;
    char *text;
} told;

static void run_text(spc_engine *engine, spc_session_options *o, const prompt *p, told *out)
{
    spc_session *s;
    spc_error error;

    memset(&out->heard, 0, sizeof out->heard);
    o->on_text = take;
    if (!o->on_token) o->user = &out->heard;
    s = open_session(engine, o, p);
    cr_assert_eq(spc_session_run(s, &error), SPC_OK);
    cr_assert_eq(spc_session_text(s, &out->text, NULL, &error), SPC_OK);
    out->d = decoded_of(s);
    spc_session_close(s);
    cr_expect_eq(out->heard.bytes, strlen(out->text), "heard %zu bytes, not '%s'", out->heard.bytes,
                 out->text);
    cr_expect_eq(memcmp(out->heard.text, out->text, out->heard.bytes), 0, "heard '%.*s', not '%s'",
                 (int)out->heard.bytes, out->heard.text, out->text);
}

/* Bytes of kept tokens, special ones left out; ends[i]: where token i ends. */
static size_t bytes_of(const spc_engine *engine, const decoded *d, char *out, size_t *ends)
{
    size_t total = 0;

    for (int32_t i = 0; i < d->count; i++) {
        size_t bytes = 0;
        const char *piece = spc_tokenizer_piece(engine->tokenizer, d->token[i], &bytes);

        if (!spc_tokenizer_is_special(engine->tokenizer, d->token[i])) {
            cr_assert_lt(total + bytes, DECODE_TEXT);
            memcpy(out + total, piece, bytes);
            total += bytes;
        }
        ends[i] = total;
    }
    out[total] = '\0';
    return total;
}

/* Run with one stop string and compare with where it stands in the text of a free run. */
static void expect_stop(spc_engine *engine, const prompt *p, const decoded *whole, const char *stop)
{
    char text[DECODE_TEXT];
    size_t ends[DECODE_TOKENS];
    spc_session_options o = options_of("strict", GAMMA, 0);
    int32_t count = 0;
    told t;

    (void)bytes_of(engine, whole, text, ends);
    const char *at = strstr(text, stop);

    cr_assert_not_null(at);
    while (ends[count] < (size_t)(at - text) + strlen(stop)) count++;
    count++;
    o.max_tokens = whole->count;
    o.ignore_stop = true;
    o.stop = &stop;
    o.stop_count = 1;
    run_text(engine, &o, p, &t);
    expect_end(&t.d, whole, SPC_FINISH_STOP_STRING, count, stop);
    cr_expect(strlen(t.text) == (size_t)(at - text) && strncmp(t.text, text, strlen(t.text)) == 0,
              "stop '%s' in '%s': '%s'", stop, text, t.text);
    cr_expect_eq(t.d.stats.discarded, (RUN - count % RUN) % RUN, "'%s': token %d", stop,
                 (int)count);
    free(t.text);
}

/* Stop strings cut out of the text itself: inside a token, a whole token, across two and three. */
Test(host_session, a_stop_string_ends_the_sequence_wherever_it_stands_in_a_run)
{
    spc_engine *engine = open_twins();
    prompt p = prompt_of(engine, sentence);
    decoded whole = free_run(engine, &p, 4 * RUN); /* whole rounds */
    char text[DECODE_TEXT], stop[64];
    size_t ends[DECODE_TOKENS], bytes = bytes_of(engine, &whole, text, ends);
    uint32_t positions = 0;

    cr_assert_gt(bytes, 20);
    for (int32_t i = 0; i < 2 * RUN; i++) {
        size_t begin = i ? ends[i - 1] : 0;

        for (size_t from = begin; from < begin + 2; from++) {
            for (size_t to = from + 1; to <= from + 7 && to < bytes; to += 2) {
                (void)snprintf(stop, sizeof stop, "%.*s", (int)(to - from), text + from);
                if (strspn(stop, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,") <
                    to - from) {
                    continue; /* part of a character */
                }
                expect_stop(engine, &p, &whole, stop);
                positions |= 1u << i % RUN;
            }
        }
    }
    cr_expect_eq(positions, (1u << RUN) - 1, "every position of a run");
    spc_engine_close(engine);
}

Test(host_session, a_stop_string_that_never_comes_changes_nothing)
{
    static const char *const stops[] = {"zzzzqqqq", "\x01\x02"};
    spc_engine *engine = open_twins();
    prompt p = prompt_of(engine, sentence);
    spc_session_options o = options_of("strict", GAMMA, 0);
    told plain, t;

    o.max_tokens = 25;
    run_text(engine, &o, &p, &plain);
    o.stop = stops;
    o.stop_count = 2;
    run_text(engine, &o, &p, &t);
    cr_expect(same_tokens(&plain.d, &t.d));
    cr_expect_str_eq(plain.text, t.text);
    cr_expect_gt(strlen(t.text), 10);
    free(plain.text);
    free(t.text);
    spc_engine_close(engine);
}

/* Random tokens are full of characters that were cut; both ways of reading say the same. */
Test(host_session, on_text_and_session_text_agree)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 2);
    prompt p = prompt_of(engine, sentence);
    int32_t replaced = 0;

    for (uint64_t seed = 0; seed < 24; seed++) {
        spc_session_options o = options_of("drafter-only", 0, seed % 2 ? 1.0f : 6.0f);
        told t;

        o.seed = seed;
        o.max_tokens = 60;
        run_text(engine, &o, &p, &t);
        replaced += strstr(t.text, "\xef\xbf\xbd") != NULL;
        free(t.text);
    }
    cr_expect_gt(replaced, 0, "some text held bytes that are no characters");
    spc_engine_close(engine);
}

Test(host_session, special_tokens_are_no_text)
{
    spc_engine *engine = open_twins();
    prompt p = prompt_of(engine, "<s><2de>Good morning.<sep>");
    spc_session_options o = options_of("strict", GAMMA, 0);
    told t;

    o.max_tokens = 60;
    run_text(engine, &o, &p, &t);
    cr_assert_eq(t.d.finish, SPC_FINISH_STOP_TOKEN);
    cr_assert_eq(t.d.token[t.d.count - 1], 2);
    cr_expect_null(strstr(t.text, "</s>"), "'%s'", t.text);
    cr_expect_gt(strlen(t.text), 3);
    free(t.text);
    spc_engine_close(engine);
}
