/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_engine_tell.c - what an engine tells: progress while it loads, facts, text as ids,
 * logits. */
#include "decode.h"
#include "files.h"

#include <stdio.h>

enum { VOCAB = 6144, CONTEXT = 512 }; /* of the demo pair */

/* ---- progress, facts and text -----------------------------------------------------------------
 */

typedef struct {
    int32_t lines, calls;
    uint64_t done, total;
    char line[128];
} report;

static void log_line(void *user, const char *line)
{
    report *r = user;

    r->lines++;
    (void)snprintf(r->line, sizeof r->line, "%s", line);
}

static void progress(void *user, uint64_t done, uint64_t total)
{
    report *r = user;

    cr_expect_geq(done, r->done, "progress does not go back");
    cr_expect_leq(done, total);
    if (r->calls++ > 0) {
        cr_expect_eq(total, r->total);
    } else {
        cr_expect_eq(done, 0);
    }
    r->done = done;
    r->total = total;
}

static uint64_t file_bytes(const char *path)
{
    size_t bytes;

    free(read_file(path, &bytes));
    return bytes;
}

Test(host_engine_tell, loading_reports_progress_and_the_device)
{
    spc_engine_options o = demo_options();
    report r = {0};
    spc_engine *engine;
    uint64_t on_disk = file_bytes(DEMO_VERIFIER "/model.safetensors") +
                       file_bytes(DEMO_DRAFTER "/model.safetensors");

    o.log = log_line;
    o.progress = progress;
    o.user = &r;
    o.threads = 2;
    o.isa = "portable";
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    cr_expect_eq(r.lines, 1);
    cr_expect_str_eq(r.line, "cpu, 2 threads, portable");
    cr_expect(r.calls > 10 && r.calls <= 102, "%d", (int)r.calls);
    cr_expect_eq(r.done, r.total);
    cr_expect(r.total < on_disk && r.total > on_disk - 32768, "all but the headers of the files");
    spc_engine_close(engine);
    spc_engine_close(NULL);
}

/* However models are loaded: converted, by ranks, by two devices, one of them alone. */
Test(host_engine_tell, progress_ends_at_the_total_every_time)
{
    static const struct {
        const char *weights, *drafter_device;
        int32_t tp, drafter_tp;
        bool alone;
    } ways[] = {{"int8", NULL, 0, 0, false},  {NULL, NULL, 2, 0, false},
                {NULL, NULL, 2, 2, false},    {NULL, "cpu", 0, 0, false},
                {"int8", "cpu", 2, 0, false}, {NULL, NULL, 0, 0, true}};
    uint64_t total = 0;

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        spc_engine_options o = demo_options();
        report r = {0};
        spc_engine *engine;
        spc_error error;

        o.progress = progress;
        o.user = &r;
        o.threads = 2;
        o.weights = ways[i].weights;
        o.drafter_device = ways[i].drafter_device;
        o.tp = ways[i].tp;
        o.drafter_tp = ways[i].drafter_tp;
        if (ways[i].alone) o.drafter = NULL;
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        cr_expect_gt(r.calls, 8, "way %d: %d", (int)i, (int)r.calls);
        cr_expect_eq(r.done, r.total, "way %d", (int)i);
        if (i == 0) total = r.total;
        cr_expect(ways[i].alone ? r.total < total : r.total == total, "way %d", (int)i);
        spc_engine_close(engine);
    }
}

Test(host_engine_tell, progress_is_told_now_and_then)
{
    enum { BYTES = 100000 };
    report r = {0};
    spc_meter meter;

    spc_meter_open(&meter, progress, &r, 2 * BYTES);
    cr_expect_eq(r.calls, 1);
    spc_meter_part(&meter, BYTES / 2, 7 * BYTES); /* bytes of its own */
    for (int32_t i = 0; i < 7 * BYTES; i++) spc_meter_took(&meter, 1);
    cr_expect(r.done > BYTES / 2 - BYTES / 40 && r.done <= BYTES / 2, "%d", (int)r.done);
    spc_meter_part(&meter, BYTES / 2, 0); /* nothing to be told of */
    spc_meter_took(&meter, 5);
    spc_meter_part(&meter, BYTES, BYTES);
    for (int32_t i = 0; i < BYTES; i++) spc_meter_took(&meter, 3); /* more than there is */
    cr_expect(r.done > 2 * BYTES - BYTES / 20 && r.done < 2 * BYTES, "%d", (int)r.done);
    spc_meter_close(&meter);
    cr_expect_eq(r.done, 2 * BYTES);
    cr_expect(r.calls > 60 && r.calls < 200, "%d", (int)r.calls);
    spc_meter_took(NULL, 1);
    spc_meter_open(&meter, NULL, NULL, 1);
    spc_meter_part(&meter, 1, 1);
    spc_meter_took(&meter, 1);
    spc_meter_close(&meter);
}

/* Twice the vocabulary's rows but one: the demo models use one matrix as embedding and as head. */
Test(host_engine_tell, facts_are_right)
{
    spc_engine_options o = demo_options();
    spc_engine *engine;
    spc_engine_facts one, five;

    o.isa = "portable";
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    spc_engine_describe(engine, &one);
    cr_expect_str_eq(one.device, "cpu, 1 thread, portable");
    cr_expect_eq(one.vocab, VOCAB);
    cr_expect_eq(one.context, CONTEXT);
    cr_expect_eq(one.sessions, 1);
    cr_expect(one.drafter && one.tokenizer);
    spc_engine_close(engine);

    /* every weight is read once by a row; bf16, layers as in config.json */
    uint64_t drafter =
        VOCAB * 128 + 128 + 2 * (128 * (128 + 2 * 64 + 128) + 3 * 128 * 384 + 2 * 128);
    uint64_t verifier =
        VOCAB * 320 + 320 + 6 * (320 * (512 + 2 * 256 + 512) + 3 * 320 * 896 + 2 * 320);

    cr_expect_eq(one.drafter_weight_bytes, 2 * drafter);
    cr_expect_eq(one.verifier_weight_bytes, 2 * verifier);

    o.sessions = 5;
    o.context = 100;
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    spc_engine_describe(engine, &five);
    cr_expect_eq(five.sessions, 5);
    cr_expect_eq(five.context, 100);
    cr_expect_eq(five.verifier_weight_bytes, one.verifier_weight_bytes);
    /* keys and values of every layer, float32, and a logits row for every row of a round */
    cr_expect_geq(five.verifier_memory_bytes,
                  5u * 100 * 6 * 2 * 256 * 4 + 5u * SPC_LANE_ROWS * VOCAB * 4);
    cr_expect_geq(one.verifier_memory_bytes, 512u * 6 * 2 * 256 * 4);
    cr_expect_geq(five.drafter_memory_bytes, 5u * 100 * 2 * 2 * 64 * 4);
    spc_engine_close(engine);
}

Test(host_engine_tell, a_smaller_context_cuts_and_does_not_change)
{
    spc_engine_options o = demo_options();
    spc_engine *small, *large = open_demo(DEMO_DRAFTER, 1, 1);
    prompt p = prompt_of(large, "<s><2es>I read a book in the garden every day.<sep>");
    spc_session_options so;

    o.context = p.count + 7;
    cr_assert_eq(spc_engine_open(&o, &small, NULL), SPC_OK);
    spc_session_options_init(&so);
    so.temperature = 0;
    so.ignore_stop = true;
    so.max_tokens = 20;
    decoded a = decode(small, &so, &p), b = decode(large, &so, &p);

    cr_expect_eq(a.finish, SPC_FINISH_CONTEXT);
    cr_expect_eq(a.count, 7);
    cr_expect(begins_with(&a, &b, 7));
    spc_engine_close(small);
    spc_engine_close(large);
}

Test(host_engine_tell, text_goes_to_ids_and_back)
{
    static const char *const texts[] = {"The cat sleeps.", "Stra\303\237e, \302\277qu\303\251?",
                                        " two  spaces\n", "\xf0\x9f\x90\x88 123"};
    spc_engine *engine = open_demo(NULL, 1, 1);
    char *text;
    size_t bytes;
    int32_t *ids, count;
    spc_error error;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        prompt p = prompt_of(engine, texts[i]);

        cr_assert_eq(spc_engine_decode(engine, p.id, p.count, true, &text, NULL, &error), SPC_OK);
        cr_expect_str_eq(text, texts[i]);
        free(text);
    }

    prompt p = prompt_of(engine, "<s>a<sep>");

    cr_expect_eq(p.count, 3);
    cr_expect(p.id[0] == 1 && p.id[2] == 3);
    cr_assert_eq(spc_engine_decode(engine, p.id, 3, true, &text, NULL, &error), SPC_OK);
    cr_expect_str_eq(text, "a");
    free(text);
    cr_assert_eq(spc_engine_encode(engine, "a\0b", 3, false, &ids, &count, &error), SPC_OK);
    cr_assert_eq(spc_engine_decode(engine, ids, count, true, &text, &bytes, &error), SPC_OK);
    cr_expect(bytes == 3 && memcmp(text, "a\0b", 4) == 0, "a zero byte is text like any other");
    free(text);
    free(ids);
    cr_assert_eq(spc_engine_encode(engine, "", 0, false, &ids, &count, &error), SPC_OK);
    cr_expect(!ids && count == 0);
    cr_expect_eq(spc_engine_encode(engine, "ab\xff", 3, false, &ids, &count, &error), SPC_EINPUT);
    cr_expect(!ids && count == 0 && strstr(error.message, "2"), "%s", error.message);
    p.id[1] = 1 << 20;
    cr_expect_eq(spc_engine_decode(engine, p.id, 3, true, &text, NULL, &error), SPC_EINPUT);
    cr_expect(!text && strstr(error.message, "1048576"), "%s", error.message);
    engine->vocab = (1 << 20) + 1; /* as if it were padded: a session may emit such an id */
    cr_assert_eq(spc_engine_decode(engine, p.id, 3, true, &text, NULL, &error), SPC_OK);
    cr_expect_str_eq(text, "");
    free(text);
    spc_engine_close(engine);
}

/* ---- logits -----------------------------------------------------------------------------------
 */

/* Teacher-forced rows, malloc'd [count, VOCAB]. */
static float *logits_of(spc_engine *engine, const prompt *p)
{
    float *out = malloc((size_t)p->count * VOCAB * sizeof *out);
    spc_error error;

    cr_assert_not_null(out);
    cr_assert_eq(spc_engine_logits(engine, NULL, 0, p->id, p->count, out, &error), SPC_OK, "%s",
                 error.message);
    return out;
}

/* What a session draws at each position is what the teacher-forced row gives at that position. */
Test(host_engine_tell, logits_are_those_of_stepping)
{
    static const float temperatures[] = {0, 1};
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 2);
    prompt p = prompt_of(engine, "<s><2de>She opened the window.<sep>");

    for (int32_t t = 0; t < 2; t++) {
        spc_session_options o;
        spc_row_params params = {.seed = 12, .sampling = {.top_p = 1}};
        prompt all = p;

        spc_session_options_init(&o);
        cr_assert(spc_rule_parse("verifier-only", &params.rule, NULL));
        o.rule = "verifier-only";
        o.max_tokens = 16;
        o.seed = params.seed;
        o.temperature = params.sampling.temperature = temperatures[t];
        decoded d = decode(engine, &o, &p);

        memcpy(all.id + p.count, d.token, (size_t)d.count * sizeof *d.token);
        all.count += d.count;
        float *logits = logits_of(engine, &all);

        cr_assert_gt(d.count, 3);
        for (int32_t i = 0; i < d.count; i++) {
            int32_t row = p.count - 1 + i;
            spc_row_stats stats;

            cr_expect_eq(
                spc_plain_sample(logits + (size_t)row * VOCAB, VOCAB, &params, row + 1, &stats),
                d.token[i], "T %g: token %d", (double)temperatures[t], (int)i);
        }
        free(logits);
    }
    spc_engine_close(engine);
}

/* One session takes 18 rows at a time, four take 72: the same bits, and those of every prefix. */
Test(host_engine_tell, logits_do_not_depend_on_chunks)
{
    spc_engine *narrow = open_demo(NULL, 1, 2), *wide = open_demo(NULL, 4, 1);
    prompt p = prompt_made(100, VOCAB, 9), prefix = p;
    float *a = logits_of(narrow, &p), *b = logits_of(wide, &p);
    size_t bytes = VOCAB * sizeof *a;

    cr_expect_eq(memcmp(a, b, 100 * bytes), 0);
    for (prefix.count = 1; prefix.count < 100; prefix.count += 14) {
        float *c = logits_of(narrow, &prefix);

        cr_expect_eq(memcmp(a, c, (size_t)prefix.count * bytes), 0, "%d ids", (int)prefix.count);
        free(c);
    }
    cr_expect_neq(memcmp(a, a + VOCAB, bytes), 0);
    free(a);
    free(b);
    spc_engine_close(narrow);
    spc_engine_close(wide);
}

Test(host_engine_tell, logits_leave_open_sessions_alone)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 2, 1);
    prompt p = prompt_of(engine, "<s><2de>It is cold today.<sep>"),
           other = prompt_made(9, VOCAB, 2);
    spc_session_options o;
    spc_session *s;

    spc_session_options_init(&o);
    o.max_tokens = 18;
    decoded wanted = decode(engine, &o, &p);
    float *first = logits_of(engine, &other);

    s = open_session(engine, &o, &p);
    while (spc_session_finish(s) == SPC_FINISH_RUNNING) {
        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        float *again = logits_of(engine, &other);

        cr_expect_eq(memcmp(first, again, 9 * VOCAB * sizeof *first), 0);
        free(again);
    }
    decoded d = decoded_of(s);

    cr_expect(same_tokens(&d, &wanted));
    free(first);
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_engine_tell, logits_of_what_does_not_fit_are_refused)
{
    static const struct {
        int32_t count, at, id;
        const char *word;
    } cases[] = {{0, 0, 3, "found 0"},
                 {-1, 0, 3, "found -1"},
                 {33, 0, 3, "found 33"},
                 {4, 2, VOCAB, "found 6144"},
                 {4, 3, -1, "id 3"}};
    spc_engine_options o = demo_options();
    spc_engine *engine;
    static float logits[32 * VOCAB];
    spc_error error;

    o.context = 32;
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompt p = prompt_made(40, VOCAB, 4);

        p.id[cases[i].at] = cases[i].id;
        cr_expect_eq(spc_engine_logits(engine, NULL, 0, p.id, cases[i].count, logits, &error),
                     SPC_EINPUT, "case %d", (int)i);
        cr_expect_not_null(strstr(error.message, cases[i].word), "%s", error.message);
    }

    prompt p = prompt_made(32, VOCAB, 4);
    spc_session_options so;
    spc_session *s;

    cr_expect_eq(spc_engine_logits(engine, NULL, 0, p.id, 32, logits, &error), SPC_OK,
                 "a full context");
    spc_session_options_init(&so);
    p.count = 4;
    s = open_session(engine, &so, &p);
    cr_expect_eq(spc_engine_logits(engine, NULL, 0, p.id, 4, logits, &error), SPC_EFULL);
    cr_expect(strstr(error.message, "session"), "%s", error.message);
    spc_session_close(s);
    spc_engine_close(engine);
}
