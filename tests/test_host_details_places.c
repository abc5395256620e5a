/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_details_places.c - why tokens came about, over ranks, on two devices and in company. */
#include "details.h"

Test(host_details_places, details_do_not_depend_on_where_the_models_run)
{
    placed one = open_cut(WIDE_PAIR, 1, "cpu", NULL, SPC_OVERLAP_OFF);

    for (int32_t tp = 1; tp <= 2; tp++) {
        for (int32_t apart = 0; apart < 2; apart++) {
            placed other = open_cut(WIDE_PAIR, tp, "cpu", apart ? "cpu" : NULL, SPC_OVERLAP_ON);

            compare_details(&one, &other, DETAILED, tp == 1 ? "one rank" : "two ranks");
            close_placed(&other);
        }
    }
    close_placed(&one);
}

/* A session that asks, and others that do not, in one batch. */
Test(host_details_places, company_changes_nothing)
{
    placed p = open_cut(0, 1, "cpu", NULL, SPC_OVERLAP_OFF);
    spc_session_options o = options_of("token-v3:alpha=0.3", 3, 1);
    spc_token_detail alone[20];
    const spc_token_detail *detail;
    prompt text = prompt_made(3, VOCAB, 8);
    spc_session *s[PLACE_SESSIONS];
    int32_t count;

    o.ignore_stop = o.details = true;
    o.max_tokens = 20;
    s[0] = open_session(p.engine, &o, &text);
    cr_assert_eq(spc_session_run(s[0], NULL), SPC_OK);
    detail = spc_session_details(s[0], &count);
    cr_assert_eq(count, 20);
    memcpy(alone, detail, sizeof alone);
    spc_session_close(s[0]);
    for (int32_t i = 0; i < PLACE_SESSIONS; i++) {
        spc_session_options own = o;

        own.details = i != 1;
        own.seed = i == 2 ? o.seed : 77u + (uint64_t)i;
        s[i] = open_session(p.engine, &own, &text);
    }
    for (int32_t step = 0; step < 20; step++) {
        cr_assert_eq(spc_engine_step(p.engine, s, PLACE_SESSIONS, NULL), SPC_OK);
    }
    cr_expect_null(spc_session_details(s[1], &count));
    detail = spc_session_details(s[2], &count);
    cr_assert_eq(count, 20);
    cr_expect(memcmp(detail, alone, sizeof alone) == 0);
    for (int32_t i = 0; i < PLACE_SESSIONS; i++) spc_session_close(s[i]);
    close_placed(&p);
}
