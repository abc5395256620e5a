/* SPDX-License-Identifier: Apache-2.0 */
/* Beginnings that prompts share are run once: the same tokens and verdicts from fewer rows, of both
 * models, out of the pages of free, ended and running sessions. */
#include "decode.h"
#include "toy.h"

#include "host/prefix.h"

enum { CONTEXT = 256, PAGE = SPC_PAGE_TOKENS };

static const toy_pair pair = {
    .seed = 31, .vocab = 40, .context = CONTEXT, .sessions = 3, .spread = 3};

static spc_session_options options_for(const char *rule, float temperature)
{
    spc_session_options o = options_of(rule, 4, temperature);

    o.max_tokens = 40;
    o.seed = 9;
    return o;
}

/* A prompt that begins as another and goes on by itself. */
static prompt branch(const prompt *p, int32_t common, int32_t more, uint32_t seed)
{
    prompt q = prompt_made(common + more, 40, seed);

    memcpy(q.id, p->id, (size_t)common * sizeof *q.id);
    q.id[common] = p->id[common] == 3 ? 4 : 3; /* here at the latest they differ */
    return q;
}

/* An engine that takes beginnings over. */
static spc_engine *reusing(const toy_pair *of)
{
    spc_engine *engine = toy_engine(of);

    engine->prefix_off = false;
    return engine;
}

static decoded alone(const spc_session_options *o, const prompt *p)
{
    spc_engine *engine = toy_engine(&pair);
    decoded d = decode(engine, o, p);

    spc_engine_close(engine);
    return d;
}

static void expect_same(const decoded *d, const decoded *fresh, int32_t reused, const char *what)
{
    cr_expect(same_tokens(d, fresh), "%s: other tokens", what);
    cr_expect_eq(d->stats.rounds, fresh->stats.rounds, "%s", what);
    cr_expect_eq(sum_of(d->stats.accepted), sum_of(fresh->stats.accepted),
                 "%s: %d kept, %d from the start", what, (int)sum_of(d->stats.accepted),
                 (int)sum_of(fresh->stats.accepted));
    cr_expect_eq(d->stats.reused_tokens, reused, "%s: %d reused", what,
                 (int)d->stats.reused_tokens);
    cr_expect_eq(fresh->stats.reused_tokens, 0);
}

static const char *const rules[] = {"strict",       "token-v3:alpha=0.5",   "verifier-only",
                                    "drafter-only", "token-chow:alpha=0.5", "seq-chow:alpha=0.1"};
enum { RULES = sizeof rules / sizeof *rules };

Test(host_prefix, whole_pages_of_a_closed_session_are_taken_over)
{
    static const int32_t common[] = {0, 15, 16, 17, 40, 100};

    for (int32_t r = 0; r < RULES; r++) {
        for (size_t i = 0; i < sizeof common / sizeof *common; i++) {
            spc_engine *engine = reusing(&pair);
            spc_session_options o = options_for(rules[r], 1);
            prompt p = prompt_made(120, pair.vocab, 1), q = branch(&p, common[i], 30, 7);
            decoded fresh = alone(&o, &q), d;
            int32_t whole = common[i] / PAGE * PAGE;
            bool verifies = strcmp(rules[r], "drafter-only") != 0;

            (void)decode(engine, &o, &p);

            int64_t verifier = toy_rows(engine->verifier.runner);
            int64_t drafter = toy_rows(engine->drafter.runner);

            d = decode(engine, &o, &q);
            expect_same(&d, &fresh, whole, rules[r]);
            verifier = toy_rows(engine->verifier.runner) - verifier;
            drafter = toy_rows(engine->drafter.runner) - drafter;
            spc_engine_close(engine);

            /* each model runs fewer rows by just as many as were taken over */
            engine = reusing(&pair);
            (void)decode(engine, &o, &q);
            if (r < 2) {
                cr_expect_eq(toy_rows(engine->verifier.runner) - verifier, whole, "%s", rules[r]);
                cr_expect_eq(toy_rows(engine->drafter.runner) - drafter, whole, "%s: drafter",
                             rules[r]);
            }
            cr_expect(verifies || verifier == 0);
            spc_engine_close(engine);
        }
    }
}

/* The pages of a running session are shared; both go on as if alone. */
Test(host_prefix, a_running_sessions_prompt_is_shared)
{
    for (int32_t r = 0; r < RULES; r++) {
        spc_engine *engine = reusing(&pair);
        spc_session_options o = options_for(rules[r], 1);
        prompt p = prompt_made(100, pair.vocab, 1), q = branch(&p, 70, 20, 7);
        decoded first = alone(&o, &p), second = alone(&o, &q), d;
        spc_session *a = open_session(engine, &o, &p), *b;

        cr_assert_eq(spc_session_step(a, NULL), SPC_OK);
        cr_assert_eq(spc_session_step(a, NULL), SPC_OK);
        b = open_session(engine, &o, &q);
        cr_expect_neq(a->slot, b->slot);
        for (int32_t i = 0; i < 6; i++) cr_expect_eq(a->page[i] == b->page[i], i < 4);
        for (int32_t step = 0; step < 200; step++) {
            cr_assert_eq(spc_engine_step(engine, (spc_session *[]){a, b}, 2, NULL), SPC_OK);
        }
        d = decoded_of(a);
        expect_same(&d, &first, 0, rules[r]);
        d = decoded_of(b);
        expect_same(&d, &second, 64, rules[r]);
        spc_session_close(a);
        spc_session_close(b);
        spc_engine_close(engine);
    }
}

/* ---- together ---- */

/* Step three sessions together to their ends; `leave`: close the first before that step. */
static void run_three(spc_engine *engine, spc_session **s, int32_t leave)
{
    for (int32_t step = 0; step < 200; step++) {
        int32_t first = leave >= 0 && step >= leave;

        if (step == leave) spc_session_close(s[0]);
        cr_assert_eq(spc_engine_step(engine, s + first, 3 - first, NULL), SPC_OK);
    }
}

/* What several prompts begin with is run by the first; the others take it over. */
Test(host_prefix, sessions_that_begin_together_run_a_beginning_once)
{
    static const struct {
        int32_t common[2]; /* of the second with the first, of the third with the second */
        int32_t reused[2];
    } cases[] = {{{119, 119}, {112, 112}},
                 {{100, 100}, {96, 96}},
                 {{70, 105}, {64, 96}},
                 {{15, 15}, {0, 0}},
                 {{0, 100}, {0, 96}}};

    for (int32_t r = 0; r < RULES; r++) {
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            spc_engine *engine = reusing(&pair);
            spc_session_options o = options_for(rules[r], 1);
            prompt p[3] = {prompt_made(120, pair.vocab, 1)};
            decoded fresh[3], d;
            spc_session *s[3];
            int64_t rows;

            p[1] = branch(&p[0], cases[c].common[0], 120 - cases[c].common[0], 7);
            p[2] = branch(&p[1], cases[c].common[1], 120 - cases[c].common[1], 8);
            for (int32_t i = 0; i < 3; i++) {
                fresh[i] = alone(&o, &p[i]);
                s[i] = open_session(engine, &o, &p[i]);
            }
            rows = toy_rows(engine->drafter.runner);
            run_three(engine, s, -1);
            rows = toy_rows(engine->drafter.runner) - rows;
            for (int32_t i = 0; i < 3; i++) {
                d = decoded_of(s[i]);
                expect_same(&d, &fresh[i], i > 0 ? cases[c].reused[i - 1] : 0, rules[r]);
                spc_session_close(s[i]);
            }
            if (strcmp(rules[r], "drafter-only") == 0) {
                int64_t own = 3 * (119 + 40); /* but for the last token of each */

                cr_expect_eq(rows, own - cases[c].reused[0] - cases[c].reused[1]);
            }
            spc_engine_close(engine);
        }
    }
}

/* Who leads may leave at any step, and who comes later finds what was run. */
Test(host_prefix, another_leads_where_the_first_leaves)
{
    for (int32_t rows = 16; rows <= 64; rows *= 2) {
        for (int32_t leave = 0; leave < 12; leave++) {
            spc_engine *engine = reusing(&pair);
            spc_session_options o = options_for("token-v3:alpha=0.5", 1);
            prompt p = prompt_made(150, pair.vocab, 1);
            decoded fresh = alone(&o, &p), d;
            spc_session *s[3];

            engine->prefill_rows = engine->scratch.rows = rows; /* a few chunks */
            for (int32_t i = 0; i < 3; i++) s[i] = open_session(engine, &o, &p);
            run_three(engine, s, leave);
            for (int32_t i = 1; i < 3; i++) {
                d = decoded_of(s[i]);
                cr_expect(same_tokens(&d, &fresh), "%d rows, %d steps", (int)rows, (int)leave);
                if (i == 2) cr_expect_geq(d.stats.reused_tokens, 128);
                spc_session_close(s[i]);
            }
            spc_engine_close(engine);
        }
    }
}

/* A step of each by itself has nobody to wait for. */
static const spc_backend_ops *real_ops;
static int64_t asked;

static int32_t count_length(const spc_runner *runner, int32_t slot)
{
    asked++;
    return real_ops->length(runner, slot);
}

/* Of a burst of prompts that begin alike and go on differently no two are looked at twice: what a
 * step asks grows with their number, not with that of their pairs. */
Test(host_prefix, a_burst_of_prompts_takes_no_time_for_each_pair)
{
    enum { FEW = 8, MANY = 64 };
    toy_pair many = pair;
    int64_t each[2];

    many.sessions = MANY;
    for (int32_t run = 0; run < 2; run++) {
        int32_t count = run == 0 ? FEW : MANY;
        spc_engine *engine = reusing(&many);
        spc_backend_ops counting = *engine->ops;
        spc_session_options o = options_for("strict", 1);
        prompt p = prompt_made(120, pair.vocab, 1), q;
        spc_session *s[MANY];

        for (int32_t i = 0; i < count; i++) {
            q = branch(&p, 40, 80, 100u + (uint32_t)i);
            s[i] = open_session(engine, &o, &q);
        }
        real_ops = engine->ops;
        counting.length = count_length;
        engine->ops = &counting;
        asked = 0;
        spc_share_begin(engine, s, count);
        each[run] = asked / count;
        engine->ops = real_ops;
        for (int32_t i = 0; i < count; i++) {
            cr_expect_not(s[i]->follows);
            spc_session_close(s[i]);
        }
        spc_engine_close(engine);
    }
    cr_expect_lt(each[1], 2 * each[0], "%d questions for each of few, %d of many", (int)each[0],
                 (int)each[1]);
}

Test(host_prefix, sessions_that_step_by_themselves_wait_for_nobody)
{
    spc_engine *engine = reusing(&pair);
    spc_session_options o = options_for("strict", 1);
    prompt p = prompt_made(120, pair.vocab, 1);
    spc_session *a = open_session(engine, &o, &p), *b = open_session(engine, &o, &p);

    cr_assert_eq(spc_session_run(b, NULL), SPC_OK);
    cr_expect_eq(b->counters.reused_tokens, 0);
    cr_assert_eq(spc_session_run(a, NULL), SPC_OK);
    cr_expect_eq(a->counters.reused_tokens, 112);
    spc_session_close(a);
    spc_session_close(b);
    spc_engine_close(engine);
}

/* The next turn of a conversation in a session of its own: prompt and answer are there. */
Test(host_prefix, an_answer_is_part_of_what_is_held)
{
    spc_engine *engine = reusing(&pair);
    spc_session_options o = options_for("token-v3:alpha=0.5", 1);
    prompt p = prompt_made(50, pair.vocab, 1);
    decoded d = decode(engine, &o, &p), fresh;

    memcpy(p.id + p.count, d.token, (size_t)d.count * sizeof *d.token);
    p.count += d.count;
    p.id[p.count++] = 7;
    fresh = alone(&o, &p);
    d = decode(engine, &o, &p);
    expect_same(&d, &fresh, (50 + 40 - 1) / PAGE * PAGE, "next turn");
    spc_engine_close(engine);
}

/* What a page held before, was cut, failed, or was switched off, is not taken for a prompt. */
Test(host_prefix, what_is_no_longer_there_is_not_found)
{
    toy_pair one = pair;
    spc_session_options o = options_for("strict", 1);
    prompt p = prompt_made(100, pair.vocab, 1), q = prompt_made(100, pair.vocab, 2);
    static float logits[100 * 40];
    decoded fresh = alone(&o, &p), d;
    spc_session *s;

    one.sessions = 1;
    one.pages = spc_pages_for(100 + 40 + SPC_LANE_ROWS);
    spc_engine *engine = reusing(&one);

    (void)decode(engine, &o, &p);
    (void)decode(engine, &o, &q); /* in the same pages */
    d = decode(engine, &o, &p);
    expect_same(&d, &fresh, 0, "overwritten");
    cr_assert_eq(spc_engine_logits(engine, NULL, 0, q.id, 20, logits, NULL), SPC_OK);
    d = decode(engine, &o, &p);
    expect_same(&d, &fresh, 96, "used for logits: pages that nobody knew");
    cr_assert_eq(spc_engine_logits(engine, NULL, 0, q.id, 100, logits, NULL), SPC_OK);
    d = decode(engine, &o, &p);
    expect_same(&d, &fresh, 48, "used for logits: the last pages of the text go first");
    s = open_session(engine, &o, &p);
    cr_expect_eq(s->counters.reused_tokens, 96);
    memcpy(q.id, p.id, 40 * sizeof *q.id);
    q.id[40] = p.id[40] == 3 ? 4 : 3;
    cr_assert_eq(spc_session_restart(s, q.id, q.count, NULL), SPC_OK);
    cr_expect_eq(s->counters.reused_tokens, 40, "of a page of its own also a part");
    cr_expect_eq(spc_session_run(s, NULL), SPC_OK);
    spc_session_close(s);
    d = decode(engine, &o, &p);
    expect_same(&d, &fresh, 32, "cut by a restart, and overwritten");
    engine->prefix_off = true;
    d = decode(engine, &o, &p);
    expect_same(&d, &fresh, 0, "off");
    spc_engine_close(engine);

    one.bad_verifier = 120;
    engine = reusing(&one);
    d = decode(engine, &o, &p);
    cr_expect_eq(d.finish, SPC_FINISH_FAILED);
    d = decode(engine, &o, &p);
    cr_expect_eq(d.stats.reused_tokens, 0, "failed");
    spc_engine_close(engine);
}

/* A session that goes on with another prompt leaves the pages alone that others have too. */
Test(host_prefix, a_restart_inside_of_a_shared_page_does_not_change_it)
{
    spc_engine *engine = reusing(&pair);
    spc_session_options o = options_for("token-v3:alpha=0.5", 1);
    prompt p = prompt_made(100, pair.vocab, 1), q = branch(&p, 70, 20, 7),
           r = branch(&p, 40, 50, 8);
    decoded second = alone(&o, &q), third = alone(&o, &r), d;
    spc_session *a = open_session(engine, &o, &p), *b;

    cr_assert_eq(spc_session_step(a, NULL), SPC_OK);
    b = open_session(engine, &o, &q);
    cr_assert_eq(spc_session_step(b, NULL), SPC_OK);
    cr_assert_eq(spc_session_restart(a, r.id, r.count, NULL), SPC_OK);
    cr_expect_eq(a->counters.reused_tokens, 32, "whole pages");
    cr_expect_eq(spc_session_run(a, NULL), SPC_OK);
    cr_expect_eq(spc_session_run(b, NULL), SPC_OK);
    d = decoded_of(a);
    expect_same(&d, &third, 32, "restarted");
    d = decoded_of(b);
    expect_same(&d, &second, 64, "beside it");
    spc_session_close(a);
    spc_session_close(b);
    spc_engine_close(engine);
}

/* Hashes lead to a page, tokens decide, of all pages up to it. */
Test(host_prefix, tokens_are_compared_on_a_hit)
{
    spc_engine *engine = reusing(&pair);
    spc_session_options o = options_for("strict", 1);
    prompt p = prompt_made(100, pair.vocab, 1), q = prompt_made(100, pair.vocab, 2);
    decoded fresh = alone(&o, &q), d;
    int32_t page[7];

    (void)decode(engine, &o, &p);
    cr_expect_eq(spc_prefix_find(engine, p.id, p.count, page), 6);
    memcpy(q.id + 16, p.id + 16, 84 * sizeof *q.id);
    cr_expect_eq(spc_prefix_find(engine, q.id, q.count, page), 0, "behind another page");
    for (int32_t i = 0; i < 6; i++) {
        int32_t *token;

        (void)spc_prefix_find(engine, p.id, p.count, page);
        token = &engine->pages.token[page[i] * PAGE + 3];
        *token ^= 1;
        cr_expect_eq(spc_prefix_find(engine, p.id, p.count, page), i, "the hash alone is not it");
        *token ^= 1;
    }
    fresh = alone(&o, &q);
    d = decode(engine, &o, &q);
    expect_same(&d, &fresh, 0, "like pages behind another");
    spc_engine_close(engine);
}

/* The drafter lags behind where strict does not draft: its part is shorter and is caught up. */
Test(host_prefix, each_model_takes_over_what_it_holds)
{
    spc_engine *engine = reusing(&pair);
    spc_session_options plain = options_for("verifier-only", 1), o = options_for("strict", 1);
    prompt p = prompt_made(100, pair.vocab, 1);
    decoded fresh = alone(&o, &p), d;
    int64_t verifier, drafter;

    (void)decode(engine, &plain, &p);
    verifier = toy_rows(engine->verifier.runner);
    drafter = toy_rows(engine->drafter.runner);
    cr_expect_eq(drafter, 0);
    d = decode(engine, &o, &p);
    expect_same(&d, &fresh, 96, "verifier alone");
    cr_expect_geq(toy_rows(engine->drafter.runner) - drafter, 100);
    cr_expect_lt(toy_rows(engine->verifier.runner) - verifier, 40 * 5 + 10);
    spc_engine_close(engine);
}

/* Texts that share beginnings come and go by hundreds; each is the one it has alone. */
Test(host_prefix, thousands_of_takeovers_leave_every_text_as_it_is)
{
    enum { TEXTS = 24 };
    spc_engine *engine = reusing(&pair);
    spc_session_options o = options_for("token-v3:alpha=0.4", 1);
    prompt root = prompt_made(110, pair.vocab, 1), p[TEXTS];
    static decoded fresh[TEXTS];
    int64_t reused = 0;
    uint32_t state = 3;
    spc_session *s[3] = {NULL};
    int32_t text[3];

    o.max_tokens = 12;
    o.wait = true;
    for (int32_t i = 0; i < TEXTS; i++) {
        p[i] = branch(i > 2 ? &p[i / 3] : &root, 20 + i * 13 % 70, 5 + i, (uint32_t)i);
        fresh[i] = alone(&o, &p[i]);
    }
    for (int32_t step = 0; step < 4000; step++) {
        for (int32_t k = 0; k < 3; k++) {
            if (s[k]) continue;
            state = state * 1664525u + 1013904223u;
            text[k] = (int32_t)((state >> 8) % TEXTS);
            s[k] = open_session(engine, &o, &p[text[k]]);
        }
        cr_assert_eq(spc_engine_step(engine, s, 3, NULL), SPC_OK);
        for (int32_t k = 0; k < 3; k++) {
            if (spc_session_finish(s[k]) == SPC_FINISH_RUNNING) continue;
            decoded d = decoded_of(s[k]);

            cr_expect(same_tokens(&d, &fresh[text[k]]), "text %d", (int)text[k]);
            reused += d.stats.reused_tokens;
            spc_session_close(s[k]);
            s[k] = NULL;
        }
    }
    cr_expect_gt(reused, 20000);
    for (int32_t k = 0; k < 3; k++) spc_session_close(s[k]);
    spc_engine_close(engine);
}

/* On the CPU backend, alone and as ranks: a shared page has the bits of one that was run. */
static void expect_same_bits(int32_t tp, const char *rule)
{
    spc_engine_options eo;
    spc_engine *engine;
    spc_session_options o = options_for(rule, 1);
    prompt p, q;
    decoded fresh[2], d;
    spc_session *a, *b;

    spc_engine_options_init(&eo);
    eo.verifier = DEMO_VERIFIER;
    eo.drafter = DEMO_DRAFTER;
    eo.sessions = 2;
    eo.threads = 2;
    eo.tp = tp;
    eo.drafter_tp = tp;
    eo.no_prefix_reuse = true;
    cr_assert_eq(spc_engine_open(&eo, &engine, NULL), SPC_OK);
    p = prompt_made(60, engine->vocab, 1);
    q = p;
    q.id[50] = q.id[50] == 9 ? 10 : 9;
    o.max_tokens = 20;
    o.ignore_stop = true;
    fresh[0] = decode(engine, &o, &p);
    fresh[1] = decode(engine, &o, &q);
    cr_expect_eq(fresh[1].stats.reused_tokens, 0, "switched off");
    spc_engine_close(engine);

    eo.no_prefix_reuse = false;
    cr_assert_eq(spc_engine_open(&eo, &engine, NULL), SPC_OK);
    a = open_session(engine, &o, &p);
    cr_assert_eq(spc_session_step(a, NULL), SPC_OK);
    b = open_session(engine, &o, &q);
    cr_expect_eq(spc_session_run(b, NULL), SPC_OK);
    cr_expect_eq(spc_session_run(a, NULL), SPC_OK);
    d = decoded_of(a);
    expect_same(&d, &fresh[0], 0, rule);
    d = decoded_of(b);
    expect_same(&d, &fresh[1], 48, rule);
    spc_session_close(a);
    spc_session_close(b);
    spc_engine_close(engine);
}

Test(host_prefix, shared_pages_have_the_bits_of_the_demo_pair)
{
    expect_same_bits(1, "strict");
    expect_same_bits(1, "token-v3:alpha=0.5");
    expect_same_bits(2, "token-v3:alpha=0.5");
}
