/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_seq_bild.c - bild-dynamic against BiLD, written a second time over the toy's
 * tables. */
#include "decode.h"
#include "toy.h"

#include <math.h>
#include <stdio.h>

static const prompt start = {{1, 0}, 2};

/* What BiLD (arXiv 2302.07863) decodes, by a plain reading of its algorithm. */
typedef struct {
    const toy_pair *pair;
    int32_t x[64], count, seen; /* seen: tokens the verifier has looked at or written */
    int32_t stop, end;          /* stop token; the length at which it is over */
} plain_bild;

static int32_t best_row(const plain_bild *b, bool drafter, int32_t count, double *row)
{
    float z[TOY_VOCAB];
    int32_t best = 0;
    double sum = 0;

    toy_logits(b->pair, drafter, b->x, count, z);
    for (int32_t v = 0; v < b->pair->vocab; v++) {
        best = z[v] > z[best] ? v : best;
        sum += row[v] = exp((double)z[v]);
    }
    for (int32_t v = 0; v < b->pair->vocab; v++) row[v] /= sum;
    return best;
}

/* Write one token; true when the sequence is over. */
static bool put(plain_bild *b, int32_t token)
{
    b->x[b->count++] = token;
    return token == b->stop || b->count == b->end;
}

/* The verifier looks at what is unseen and writes one token; true when the sequence is over. */
static bool plain_look(plain_bild *b, double rollback, bool *back)
{
    double row[TOY_VOCAB];

    *back = false;
    for (; b->seen < b->count; b->seen++) {
        int32_t best = best_row(b, false, b->seen, row);

        if (b->x[b->seen] == best || -log(row[b->x[b->seen]]) <= rollback) continue;
        *back = true;
        b->count = b->seen++;
        return put(b, best);
    }
    b->seen++;
    return put(b, best_row(b, false, b->count, row));
}

static void plain_decode(plain_bild *b, double fallback, double rollback, int32_t window)
{
    bool over = false;

    while (!over) {
        bool back;
        double row[TOY_VOCAB];

        over = plain_look(b, rollback, &back);
        for (int32_t i = 0; i < window && !over && !back; i++) {
            int32_t best = best_row(b, true, b->count, row);

            if (row[best] < fallback) break;
            over = put(b, best);
        }
    }
}

/* Budget, context and stop token fall everywhere; what is told and counted is what was kept. */
Test(host_seq_bild, bild_ends_where_the_plain_algorithm_ends)
{
    int32_t ends[SPC_FINISH_COUNT] = {0}, unseen = 0;

    for (int32_t c = 0; c < 4 * 3 * 3 * 24; c++) {
        double fallback = (double[]){0, 0.3, 0.45}[c / 4 % 3];
        double rollback = (double[]){0, 1.5, 50}[c / 12 % 3];
        int32_t window = (int32_t[]){1, 2, 5, 16}[c % 4], more = c / 36;
        toy_pair pair = {.seed = 1 + (uint64_t)c % 7,
                         .vocab = 10,
                         .context = c % 2 ? 27 : 60,
                         .sessions = 1,
                         .spread = 3};
        plain_bild b = {.pair = &pair, .x = {1, 0}, .count = 2, .seen = 2};
        spc_engine *engine = toy_engine(&pair);
        token_log l = {0};
        char rule[96];
        spc_session_options o;
        decoded d;

        (void)snprintf(rule, sizeof rule, "bild-dynamic:fallback=%g,rollback=%g,window=%d",
                       fallback, rollback, (int)window);
        o = options_of(rule, 0, 0);
        o.max_tokens = 6 + more;
        o.on_token = log_token;
        o.user = &l;
        b.stop = c % 3 ? 10 : c / 3 % 10; /* 10: never */
        b.end = 2 + o.max_tokens < pair.context ? 2 + o.max_tokens : pair.context;
        toy_stop_at(engine, b.stop);
        plain_decode(&b, fallback, rollback, window);
        d = decode(engine, &o, &start);
        cr_assert(d.count == b.count - 2 &&
                      memcmp(d.token, b.x + 2, (size_t)d.count * sizeof *d.token) == 0,
                  "%s, case %d: %d of %d tokens", rule, (int)c, (int)d.count, (int)b.count - 2);
        cr_expect(l.told == d.count && !memcmp(l.token, d.token, (size_t)l.told * sizeof *l.token));
        cr_expect_eq(sum_of(d.stats.accepted) + sum_of(d.stats.rejected) + d.stats.bonus,
                     b.seen - 2, "what the verifier has not seen is not judged");
        cr_expect_eq(d.stats.bonus + sum_of(d.stats.rejected), l.deferred);
        cr_expect_eq(d.stats.verifier_calls, l.deferred, "one token of its own in every call");
        ends[d.finish]++;
        unseen += b.seen < b.count;
        spc_engine_close(engine);
    }
    cr_expect_gt(unseen, 100);
    cr_expect(ends[SPC_FINISH_STOP_TOKEN] > 50 && ends[SPC_FINISH_MAX_TOKENS] > 50);
    cr_expect_gt(ends[SPC_FINISH_CONTEXT], 20);
}

/* rollback = 0: every token the verifier has seen is its own greedy one.  Never unsure, never taken
 * back: one token of the verifier's, then a window of the drafter's. */
Test(host_seq_bild, the_ends_of_bild_are_the_greedy_verifier_and_mostly_the_drafter)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        toy_pair pair = {.seed = seed, .vocab = 10, .context = 54, .sessions = 1, .spread = 3};
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_of("verifier-only", 0, 0);
        decoded greedy = decode(engine, &o, &start), d;
        int64_t seen;

        o.rule = "bild-dynamic:fallback=2,rollback=50";
        d = decode(engine, &o, &start);
        cr_expect(same_tokens(&d, &greedy));
        o.rule = "bild-dynamic:fallback=0.2,rollback=0,window=3";
        d = decode(engine, &o, &start);
        seen = d.stats.bonus + sum_of(d.stats.accepted) + sum_of(d.stats.rejected);
        cr_expect(begins_with(&d, &greedy, (int32_t)seen) && seen > d.count - 4);
        o.rule = "bild-dynamic:fallback=0,rollback=1e9,window=12";
        d = decode(engine, &o, &start);
        cr_expect(d.count == 52 && d.stats.bonus == 4 && d.stats.verifier_calls == 4);
        spc_engine_close(engine);
    }
}

/* Drafts that may be taken back are not told; caches hold what the next step needs and no more. */
Test(host_seq_bild, bild_keeps_its_drafts_to_itself)
{
    toy_pair pair = {.seed = 3, .vocab = 10, .context = 60, .sessions = 1, .spread = 3};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("bild-dynamic:fallback=0.2,rollback=1,window=4", 0, 0);
    token_log l = {0};
    spc_session *s;
    int32_t hidden = 0;

    o.on_token = log_token;
    o.user = &l;
    s = open_session(engine, &o, &start);
    for (;;) {
        int32_t ahead = s->ahead;

        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        cr_assert_eq(l.told, s->length - s->prompt);
        cr_assert(memcmp(l.token, s->token + s->prompt, (size_t)l.told * sizeof *l.token) == 0);
        if (s->finish != SPC_FINISH_RUNNING) break;
        hidden += ahead;
        cr_expect_eq(engine->ops->length(engine->verifier.runner, s->slot), s->length - 1);
        cr_expect_leq(engine->ops->length(engine->drafter.runner, s->slot), s->length + s->ahead);
    }
    cr_expect_gt(hidden, 10);
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_seq_bild, the_demo_pair_needs_fewer_calls_than_tokens)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 1);
    prompt p = prompt_of(engine, "<s><2de>If it rains tomorrow, we will stay at home.<sep>");
    spc_session_options o = options_of("bild-dynamic:fallback=0.5,rollback=2", 0, 0);
    decoded d = decode(engine, &o, &p);

    cr_expect_eq(d.finish, SPC_FINISH_STOP_TOKEN);
    cr_expect_lt(d.stats.verifier_calls, d.count);
    cr_expect_eq(sum_of(d.stats.verified), sum_of(d.stats.accepted) + sum_of(d.stats.rejected));
    spc_engine_close(engine);
}

Test(host_seq_bild, sampling_and_wide_windows_are_refused)
{
    toy_pair pair = {.seed = 5, .vocab = 10, .context = 64, .sessions = 1, .spread = 2};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("bild-dynamic:fallback=0.5", 0, 1);
    spc_session *session;
    spc_error error;

    cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &session, &error), SPC_ERULE);
    cr_expect_not_null(strstr(error.message, "temperature 0"), "%s", error.message);
    o = options_of("bild-dynamic:fallback=0.5,window=17", 0, 0);
    cr_expect_eq(spc_session_open(engine, &o, start.id, start.count, &session, &error), SPC_ERULE);
    cr_expect_not_null(strstr(error.message, "1 to 16"), "%s", error.message);
    spc_engine_close(engine);
}

Test(host_seq_bild, bad_rows_name_their_model)
{
    static const prompt other = {{1, 0, 1}, 3}; /* behind it the drafter is asked for position 6 */

    for (int which = 0; which < 2; which++) {
        toy_pair pair = {.seed = 5,
                         .vocab = 10,
                         .context = 64,
                         .sessions = 1,
                         .spread = 2,
                         .bad_drafter = which ? 6 : 0,
                         .bad_verifier = which ? 0 : 6};
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_of("bild-dynamic:fallback=0,rollback=0", 0, 0);
        decoded d = decode(engine, &o, &other);

        cr_expect_eq(d.status, SPC_ENUMERIC);
        cr_expect_not_null(strstr(d.error.message, which ? "drafter" : "verifier"), "%s",
                           d.error.message);
        spc_engine_close(engine);
    }
}
