/* SPDX-License-Identifier: Apache-2.0 */
/* When a session that waits begins: as soon as there is room, whoever left it and why. */
#include "decode.h"
#include "toy.h"

/* More slots than KV cache: a prompt of 60 tokens takes 6 pages of 9, one of 5 takes 2. */
static const toy_pair pair = {
    .seed = 31, .vocab = 40, .context = 160, .sessions = 4, .pages = 9, .spread = 5};

static spc_session_options waiting(void)
{
    spc_session_options o = options_of("strict", 2, 1);

    o.wait = true;
    o.max_tokens = 6;
    return o;
}

Test(host_waits, room_that_a_running_session_gives_up_is_for_who_waits)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = waiting();
    prompt p = prompt_made(60, pair.vocab, 1), q = prompt_made(5, pair.vocab, 2);
    spc_session *a = open_session(engine, &o, &p), *b = open_session(engine, &o, &p);

    cr_expect(spc_session_waits(b), "there is room for one");
    cr_assert_eq(spc_session_restart(a, q.id, q.count, NULL), SPC_OK);
    cr_assert_eq(spc_session_step(a, NULL), SPC_OK);
    cr_expect_eq(spc_session_finish(a), SPC_FINISH_RUNNING);
    cr_expect_not(spc_session_waits(b), "2 and 6");
    spc_session_close(a);
    spc_session_close(b);
    cr_expect_eq(engine->pages.free, engine->pages.count);
    spc_engine_close(engine);
}

Test(host_waits, who_waits_begins_where_others_have_run_what_it_begins_with)
{
    spc_session_options o = waiting();
    prompt p = prompt_made(60, pair.vocab, 1);
    spc_engine *engine = toy_engine(&pair);
    spc_session *a, *b;

    engine->prefix_off = false;
    a = open_session(engine, &o, &p);
    b = open_session(engine, &o, &p);
    cr_expect(spc_session_waits(b), "there is room for one");
    cr_assert_eq(spc_session_step(a, NULL), SPC_OK);
    cr_expect_eq(spc_session_finish(a), SPC_FINISH_RUNNING);
    cr_expect_not(spc_session_waits(b), "3 of its pages are there");
    cr_expect_eq(spc_session_run(b, NULL), SPC_OK);
    spc_session_close(a);
    spc_session_close(b);
    cr_expect_eq(engine->pages.free, engine->pages.count);
    spc_engine_close(engine);
}

/* Whose turn it is may be another thread's session, which is asked meanwhile. */
static const spc_backend_ops *real_ops;
static const spc_session *watched;
static int32_t looks;

static spc_status look_while_mapping(spc_runner *runner, int32_t slot, const int32_t *page,
                                     int32_t pages, int32_t held, spc_error *err)
{
    spc_status status = real_ops->map(runner, slot, page, pages, held, err);
    spc_stats stats;

    if (slot != watched->slot) return status;
    looks++;
    spc_session_stats(watched, &stats);
    cr_expect(spc_session_waits(watched), "not all that begins it is written");
    cr_expect_eq(spc_session_finish(watched), SPC_FINISH_RUNNING);
    cr_expect_null(spc_session_error(watched));
    cr_expect_eq(stats.prompt_tokens, 60);
    cr_expect_eq(stats.output_hash, SPC_HASH_NONE);
    return status;
}

Test(host_waits, a_session_waits_until_all_that_begins_it_is_written)
{
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = waiting();
    prompt p = prompt_made(60, pair.vocab, 1);
    spc_session *a = open_session(engine, &o, &p), *b = open_session(engine, &o, &p);
    spc_backend_ops ops = *engine->ops;

    real_ops = engine->ops;
    ops.map = look_while_mapping;
    engine->ops = &ops;
    watched = b;
    spc_session_close(a);
    engine->ops = real_ops;
    cr_expect_eq(looks, 2, "of two models");
    cr_expect_not(spc_session_waits(b));
    cr_expect_eq(spc_session_run(b, NULL), SPC_OK);
    spc_session_close(b);
    cr_expect_eq(engine->pages.free, engine->pages.count);
    spc_engine_close(engine);
}
