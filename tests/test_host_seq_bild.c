/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_seq_bild.c - bild-dynamic against rules.md 5.5, written a second time over the toy's
 * tables. */
#include "decode.h"
#include "toy.h"

#include <math.h>
#include <stdio.h>

enum { BUDGET = 24 };

static const prompt start = {{1, 0, 1}, 3};

/* A row as probabilities in double. */
static int32_t row_of(const toy_pair *pair, bool drafter, const int32_t *prefix, int32_t count,
                      double *out)
{
    float z[TOY_VOCAB];
    int32_t top = 0;
    double sum = 0;

    toy_logits(pair, drafter, prefix, count, z);
    for (int32_t v = 0; v < pair->vocab; v++) top = z[v] > z[top] ? v : top;
    for (int32_t v = 0; v < pair->vocab; v++) sum += out[v] = exp((double)z[v] - (double)z[top]);
    for (int32_t v = 0; v < pair->vocab; v++) out[v] /= sum;
    return top;
}

/* 5.5, step by step: x holds everything, seen the tokens that the verifier has looked at. */
static int32_t slowly(const toy_pair *pair, double fallback, double rollback, int32_t window,
                      int32_t *x)
{
    int32_t n = start.count, seen = start.count, end = start.count + BUDGET;
    double row[TOY_VOCAB];

    memcpy(x, start.id, sizeof(int32_t) * (size_t)n);
    while (n < end) {
        bool back = false;

        for (int32_t k = seen; k < n && !back; k++) { /* D2 */
            int32_t best = row_of(pair, false, x, k, row);

            if (x[k] == best || -log(row[x[k]]) <= rollback) continue;
            x[k] = best;
            n = k + 1;
            back = true;
        }
        seen = n;
        if (back) continue;
        x[n] = row_of(pair, false, x, n, row); /* D3 */
        seen = ++n;
        for (int32_t w = 0; w < window && n < end; w++) { /* D4 */
            int32_t best = row_of(pair, true, x, n, row);

            if (row[best] < fallback) break;
            x[n++] = best;
        }
    }
    return n - start.count;
}

Test(host_seq_bild, tokens_are_those_of_the_algorithm)
{
    static const double fallbacks[] = {0, 0.3, 0.5, 0.7, 2}, rollbacks[] = {0, 0.5, 1.5, 3, 50};
    static const int32_t windows[] = {1, 3, 10, 16};
    int32_t differ = 0;

    for (uint64_t seed = 1; seed <= 8; seed++) {
        toy_pair pair = {.seed = seed, .vocab = 10, .context = 64, .sessions = 1, .spread = 2};
        spc_engine *engine = toy_engine(&pair);
        uint64_t hash = 0;

        for (int k = 0; k < 100; k++) {
            double fallback = fallbacks[k % 5], rollback = rollbacks[k / 5 % 5];
            int32_t window = windows[k / 25], x[128], count;
            char rule[96];
            spc_session_options o;
            decoded d;

            (void)snprintf(rule, sizeof rule, "bild-dynamic:fallback=%g,rollback=%g,window=%d",
                           fallback, rollback, (int)window);
            o = options_of(rule, 0, 0);
            o.max_tokens = BUDGET;
            o.ignore_stop = true;
            d = decode(engine, &o, &start);
            count = slowly(&pair, fallback, rollback, window, x);
            cr_assert_eq(d.count, count, "%s: %s", rule, d.error.message);
            cr_assert(memcmp(d.token, x + start.count, (size_t)count * sizeof *x) == 0,
                      "%s, pair %d", rule, (int)seed);
            differ += hash != 0 && hash != d.stats.output_hash;
            hash = d.stats.output_hash;
        }
        spc_engine_close(engine);
    }
    cr_expect_gt(differ, 100, "the thresholds change the text");
}

Test(host_seq_bild, an_unsure_drafter_or_a_strict_verifier_leave_greedy_decoding)
{
    static const char *const rules[] = {"bild-dynamic:fallback=2",
                                        "bild-dynamic:fallback=2,rollback=0"};
    toy_pair pair = {.seed = 5, .vocab = 10, .context = 64, .sessions = 1, .spread = 2};
    spc_engine *engine = toy_engine(&pair);

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        spc_session_options o = options_of(rules[i], 0, 0);
        decoded a, b;

        a = decode(engine, &o, &start);
        o.rule = "verifier-only";
        b = decode(engine, &o, &start);
        cr_expect(same_tokens(&a, &b), "%s", rules[i]);
    }
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
        decoded d = decode(engine, &o, &start);

        cr_expect_eq(d.status, SPC_ENUMERIC);
        cr_expect_not_null(strstr(d.error.message, which ? "drafter" : "verifier"), "%s",
                           d.error.message);
        spc_engine_close(engine);
    }
}
