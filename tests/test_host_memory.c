/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_memory.c - steps allocate nothing, and everything else survives that any one of its
 * allocations fails, or all from one on.  Not for sanitizers, which bring an allocator of their
 * own. */
#include "decode.h"
#include "failing_malloc.h"

#include "weights/demo/demo.h"

#include "files.h"

static const char sentence[] = "<s><2de>The cat sleeps on the old chair.<sep>";

static spc_engine_options pair_options(int32_t threads)
{
    spc_blob files[SPC_DEMO_FILES];
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.threads = threads;
    if (spc_demo_files(SPC_DEMO_VERIFIER, files) > 0) return o;
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    return o;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

static const struct {
    const char *rule;
    spc_verify_mode verify;
    spc_bonus_mode bonus;
    float temperature, top_p;
    int32_t top_k;
} kinds[] = {
    {"strict", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 1, 1, 0},
    {"strict", SPC_VERIFY_BLOCK, SPC_BONUS_TARGET, 1, 0.9f, 0},
    {"token-v3:alpha=0.5", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 1, 0.9f, 0},
    {"token-v3:alpha=0.5", SPC_VERIFY_BLOCK, SPC_BONUS_VERIFIER, 0.8f, 1, 20},
    {"opt:alpha=0.1", SPC_VERIFY_TOKEN, SPC_BONUS_STEP, 1, 0.8f, 0},
    {"lossy:alpha=0.3", SPC_VERIFY_BLOCK, SPC_BONUS_TARGET, 1, 1, 0},
    {"opt-log:alpha=0.1", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 0, 1, 0},
    {"bild:alpha=1", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 0.5f, 1, 0},
    {"verifier-only", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 1, 0.9f, 0},
    {"drafter-only", SPC_VERIFY_TOKEN, SPC_BONUS_TARGET, 1, 1, 5},
};
enum { KINDS = sizeof kinds / sizeof *kinds, BATCH = 3 };

typedef struct {
    size_t bytes;
    int32_t tokens;
} heard;

static void hear_text(void *user, const char *text, size_t bytes)
{
    (void)text;
    ((heard *)user)->bytes += bytes;
}

static bool hear_token(void *user, const spc_token *token)
{
    (void)token;
    ((heard *)user)->tokens++;
    return true;
}

static spc_session *open_listening(spc_engine *engine, int32_t kind, heard *h)
{
    static const char *const stop[] = {"zzzz", "e e"};
    spc_session_options o;
    prompt p = prompt_of(engine, sentence);

    spc_session_options_init(&o);
    o.rule = kinds[kind].rule;
    o.verify = kinds[kind].verify;
    o.bonus = kinds[kind].bonus;
    o.temperature = kinds[kind].temperature;
    o.top_p = kinds[kind].top_p;
    o.top_k = kinds[kind].top_k;
    o.gamma = kind % 4 == 0 ? SPC_GAMMA_AUTO : 4;
    o.max_tokens = 30;
    o.ignore_stop = true;
    o.seed = (uint64_t)kind;
    o.stop = stop;
    o.stop_count = 2;
    o.on_text = hear_text;
    o.on_token = hear_token;
    o.user = h;
    return open_session(engine, &o, &p);
}

/* From the first step, which feeds the prompts, to the last. */
static void expect_silent_steps(spc_engine *engine, int32_t first)
{
    heard h = {0, 0};
    spc_session *s[BATCH];
    heap_count count;

    for (int32_t i = 0; i < BATCH; i++) s[i] = open_listening(engine, (first + i) % KINDS, &h);
    heap_begin(HEAP_NEVER, 0);
    for (int32_t step = 0; step < 30; step++) (void)spc_engine_step(engine, s, BATCH, NULL);
    count = heap_end();
    cr_expect_eq(count.allocations, 0, "kinds from %d: %d allocations", (int)first,
                 (int)count.allocations);
    cr_expect_eq(count.live, 0);
    cr_expect_gt(h.tokens, BATCH);
    cr_expect_gt(h.bytes, 0);
    for (int32_t i = 0; i < BATCH; i++) {
        cr_expect_neq(spc_session_finish(s[i]), SPC_FINISH_RUNNING);
        cr_expect_neq(spc_session_finish(s[i]), SPC_FINISH_FAILED);
        spc_session_close(s[i]);
    }
}

Test(host_memory, a_step_allocates_nothing)
{
    for (int32_t threads = 1; threads <= 2; threads++) {
        spc_engine_options o = pair_options(threads);
        spc_engine *engine;

        o.sessions = BATCH;
        cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
        for (int32_t first = 0; first < KINDS; first++) expect_silent_steps(engine, first);
        spc_engine_close(engine);
    }
}

/* Sessions come, wait, take beginnings over, are dropped and end; nothing of them stays. */
Test(host_memory, a_thousand_sessions_leave_nothing)
{
    spc_engine_options o = pair_options(1);
    spc_engine *engine;
    heap_count count;
    int32_t closed = 0;

    o.sessions = 2;
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    heap_begin(HEAP_NEVER, 0);
    for (int32_t turn = 0; turn < 250; turn++) {
        spc_session *s[4];

        for (int32_t k = 0; k < 4; k++) {
            prompt p = prompt_made(20 + (turn + k) % 3, engine->vocab, (uint32_t)(turn / 9));
            spc_session_options so = options_of(kinds[(turn + k) % KINDS].rule, 2, 1);

            so.wait = true;
            so.max_tokens = 1 + turn % 2;
            s[k] = open_session(engine, &so, &p);
        }
        for (int32_t step = 0; step < 3; step++) (void)spc_engine_step(engine, s, 4, NULL);
        for (int32_t k = 0; k < 4; k++, closed++) spc_session_close(s[k]);
    }
    count = heap_end();
    cr_expect_eq(count.live, 0, "%d blocks of %d sessions", (int)count.live, (int)closed);
    cr_expect_gt(count.allocations, 2 * closed - 1);
    spc_engine_close(engine);
}

Test(host_memory, an_engine_closed_before_its_sessions_leaves_nothing)
{
    spc_engine_options o = pair_options(1);
    spc_session_options so = options_of("strict", 2, 1);
    spc_engine *engine;
    spc_session *s[2];
    heap_count count;

    o.sessions = 2;
    o.verifier = o.drafter = SPC_TEST_VECTORS "/llama";
    heap_begin(HEAP_NEVER, 0);
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    prompt p = prompt_made(9, engine->vocab, 1);

    for (int32_t i = 0; i < 2; i++) s[i] = open_session(engine, &so, &p);
    spc_engine_close(engine);
    for (int32_t i = 0; i < 2; i++) spc_session_close(s[i]);
    count = heap_end();
    cr_expect_eq(count.live, 0, "%d blocks", (int)count.live);
}

/* What all ranks do at once is handed over in place. */
Test(host_memory, a_step_of_ranks_allocates_nothing)
{
    spc_engine_options o = pair_options(2);
    spc_engine *engine;

    o.sessions = BATCH;
    o.tp = 2;
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    expect_silent_steps(engine, 0);
    spc_engine_close(engine);
}

/* Neither does what both devices do at once. */
static void expect_no_allocations_ahead(int32_t tp)
{
    spc_engine_options o = pair_options(2);
    spc_session_options so = options_of("strict", 3, 1);
    spc_engine *engine;
    spc_session *session;
    heap_count count;
    prompt p;
    decoded d;

    o.tp = tp;
    o.drafter_device = "cpu";
    o.overlap = SPC_OVERLAP_ON;
    so.bonus = SPC_BONUS_STEP;
    so.ignore_stop = true;
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    p = prompt_of(engine, sentence);
    session = open_session(engine, &so, &p);
    heap_begin(HEAP_NEVER, 0);
    for (int32_t step = 0; step < 10; step++) (void)spc_session_step(session, NULL);
    count = heap_end();
    d = decoded_of(session);
    cr_expect_eq(count.allocations, 0, "%d", (int)count.allocations);
    cr_expect(d.stats.ahead_used > 0 && d.finish == SPC_FINISH_RUNNING);
    spc_session_close(session);
    spc_engine_close(engine);
}

Test(host_memory, drafting_ahead_allocates_nothing)
{
    expect_no_allocations_ahead(1);
    expect_no_allocations_ahead(2);
}

Test(host_memory, logits_allocate_nothing)
{
    static float logits[40 * 6144];
    spc_engine_options o = pair_options(1);
    spc_engine *engine;
    prompt p = prompt_made(40, 6144, 8);
    spc_status status;
    heap_count count;

    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    heap_begin(HEAP_NEVER, 0);
    status = spc_engine_logits(engine, NULL, 0, p.id, p.count, logits, NULL);
    count = heap_end();
    cr_expect_eq(status, SPC_OK);
    cr_expect_eq(count.allocations, 0);
    spc_engine_close(engine);
}

/* ---- the counting itself ----------------------------------------------------------------------
 */

Test(host_memory, the_allocator_counts_and_refuses)
{
    heap_count count;
    void *volatile a, *volatile b, *volatile c, *volatile d; /* or a compiler removes them */

    heap_begin(2, 2);
    a = malloc(10);
    b = calloc(2, 10);
    c = malloc(10);
    d = aligned_alloc(64, 128);
    b = realloc(b, 1000);
    free(a);
    free(NULL);
    count = heap_end();
    cr_expect(a && b && d);
    cr_expect_null(c);
    cr_expect_eq(count.allocations, 5);
    cr_expect_eq(count.refused, 1);
    cr_expect_eq(count.live, 2);
    free(b);
    free(d);
}

/* ---- failing ----------------------------------------------------------------------------------
 */

/* A call that allocates, and the release of what it made.  Returns its status. */
typedef spc_status (*work_fn)(void *user, spc_error *err);

static spc_status open_and_close(void *user, spc_error *err)
{
    spc_engine *engine;
    spc_status status = spc_engine_open(user, &engine, err);

    if ((status == SPC_OK) != (engine != NULL)) return SPC_EINTERNAL;
    spc_engine_close(engine);
    return status;
}

typedef struct {
    spc_engine *engine;
    spc_session *session;
    prompt p;
} bench;

static spc_status open_session_and_close(void *user, spc_error *err)
{
    static const char *const stop[] = {"one", "two", "three"};
    const bench *b = user;
    spc_session_options o;
    spc_session *session;
    spc_status status;

    spc_session_options_init(&o);
    o.stop = stop;
    o.stop_count = 3;
    status = spc_session_open(b->engine, &o, b->p.id, b->p.count, &session, err);
    if ((status == SPC_OK) != (session != NULL)) return SPC_EINTERNAL;
    spc_session_close(session);
    return status;
}

static spc_status encode(void *user, spc_error *err)
{
    const bench *b = user;
    int32_t *ids, count;
    spc_status status =
        spc_engine_encode(b->engine, sentence, sizeof sentence - 1, true, &ids, &count, err);

    if ((status == SPC_OK) != (ids != NULL && count > 0)) return SPC_EINTERNAL;
    free(ids);
    return status;
}

static spc_status decode_ids(void *user, spc_error *err)
{
    const bench *b = user;
    char *text;
    spc_status status = spc_engine_decode(b->engine, b->p.id, b->p.count, false, &text, NULL, err);

    if ((status == SPC_OK) != (text != NULL)) return SPC_EINTERNAL;
    free(text);
    return status;
}

static spc_status read_text(void *user, spc_error *err)
{
    const bench *b = user;
    char *text;
    spc_status status = spc_session_text(b->session, &text, NULL, err);

    if ((status == SPC_OK) != (text != NULL)) return SPC_EINTERNAL;
    free(text);
    return status;
}

/* What is tried: every allocation is refused once among so many first and last ones, and every so
 * manieth in between.  has_spare: some can be done without (a regular expression's machine code).
 */
typedef struct {
    const char *what;
    work_fn work;
    int64_t dense, stride;
    bool has_spare;
} work;

static bool is_clean(const work *w, spc_status status, const spc_error *error)
{
    if (status == SPC_OK) return w->has_spare;
    return status == SPC_ENOMEM && error->status == status && strlen(error->message) > 10;
}

/* Run with the n-th allocation refused, alone or with all behind it; returns how many were. */
static int64_t run_refusing(const work *w, void *user, int64_t n, bool alone)
{
    spc_error error = {SPC_OK, ""};
    spc_status status;
    heap_count count;

    heap_begin(n, alone ? n : INT64_MAX);
    status = w->work(user, &error);
    count = heap_end();
    cr_expect_eq(count.live, 0, "%s: allocation %d: %d blocks left", w->what, (int)n,
                 (int)count.live);
    if (count.refused > 0) {
        cr_expect(is_clean(w, status, &error), "%s: allocation %d%s: %s (%s)", w->what, (int)n,
                  alone ? " alone" : "", spc_status_name(status), error.message);
    } else {
        cr_expect_eq(status, SPC_OK, "%s: nothing was refused: %s", w->what, error.message);
    }
    return count.refused;
}

/* Refuse the allocations of a call, one run for each; returns how many there are. */
static int64_t expect_survival(const work *w, void *user)
{
    heap_count count;
    spc_status status;

    /* jansson 2.14 writes past a block when the buffer of a string cannot grow */
    json_set_alloc_funcs(heap_spared, free);
    status = w->work(user, NULL); /* what is made once is made now */
    cr_assert_eq(status, SPC_OK, "%s: %s", w->what, spc_status_name(status));
    heap_begin(HEAP_NEVER, 0);
    status = w->work(user, NULL);
    count = heap_end();
    cr_assert_eq(status, SPC_OK);
    cr_expect_eq(count.live, 0, "%s: %d blocks left", w->what, (int)count.live);
    for (int64_t n = 0; n < count.allocations;) {
        bool between = n >= w->dense && n + w->dense + w->stride < count.allocations;

        cr_expect_gt(run_refusing(w, user, n, true), 0);
        cr_expect_gt(run_refusing(w, user, n, false), 0);
        n += between ? w->stride : 1;
    }
    cr_expect_eq(run_refusing(w, user, count.allocations, false), 0);
    return count.allocations;
}

/* Without a tokenizer there are few enough to try each of them. */
Test(host_memory, an_engine_that_finds_no_memory_says_so_and_leaves_nothing)
{
    static const work small = {"small engine", open_and_close, 10000, 1, false};
    static const work pair = {"pair", open_and_close, 60, 7, true};
    spc_engine_options o = pair_options(1);

    cr_expect_gt(expect_survival(&pair, &o), 100);
    o.verifier = o.drafter = SPC_TEST_VECTORS "/llama";
    cr_expect_gt(expect_survival(&small, &o), 100);
    o.drafter_device = "cpu";
    cr_expect_gt(expect_survival(&small, &o), 100);
    o.tp = 2;
    cr_expect_gt(expect_survival(&small, &o), 100);
}

typedef struct {
    const char *json;
    size_t bytes;
} source;

static spc_status open_tokenizer(void *user, spc_error *err)
{
    const source *s = user;
    spc_tokenizer *tokenizer;
    spc_status status = spc_tokenizer_open("small", s->json, s->bytes, &tokenizer, err);

    if ((status == SPC_OK) != (tokenizer != NULL)) return SPC_EINTERNAL;
    spc_tokenizer_close(tokenizer);
    return status;
}

Test(host_memory, a_tokenizer_that_finds_no_memory_says_so_and_leaves_nothing)
{
    static const work w = {"tokenizer", open_tokenizer, 1000, 1, true};
    source s;
    char *json = read_file(SPC_TEST_VECTORS "/tokenizers/bytelevel-gpt2.json", &s.bytes);

    s.json = json;
    cr_expect_gt(expect_survival(&w, &s), 8);
    free(json);
}

static bench open_bench(void)
{
    spc_engine_options o = pair_options(1);
    spc_session_options so;
    bench b;

    o.sessions = 2;
    cr_assert_eq(spc_engine_open(&o, &b.engine, NULL), SPC_OK);
    b.p = prompt_of(b.engine, sentence);
    spc_session_options_init(&so);
    so.max_tokens = 8;
    b.session = open_session(b.engine, &so, &b.p);
    cr_assert_eq(spc_session_run(b.session, NULL), SPC_OK);
    return b;
}

Test(host_memory, sessions_and_text_that_find_no_memory_say_so_and_leave_nothing)
{
    static const work works[] = {{"session", open_session_and_close, 1000, 1, false},
                                 {"encode", encode, 1000, 1, false},
                                 {"decode", decode_ids, 1000, 1, false},
                                 {"text", read_text, 1000, 1, false}};
    bench b = open_bench();

    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        cr_expect_gt(expect_survival(&works[i], &b), 0, "%s", works[i].what);
    }
    cr_expect_eq(open_session_and_close(&b, NULL), SPC_OK, "no slot was lost");
    spc_session_close(b.session);
    spc_engine_close(b.engine);
}

/* ---- drafts that are looked up ---- */

/* A session takes the room for it when it opens; the steps take none. */
Test(host_memory, looking_drafts_up_takes_what_a_session_opened_with)
{
    static const work opening = {"session with n-grams", open_session_and_close, 1000, 1, false};
    spc_engine_options o = pair_options(1);
    spc_session *s[BATCH];
    heap_count count;
    int64_t drafted = 0;
    bench b;

    o.drafter = "ngram:1";
    o.sessions = BATCH;
    cr_assert_eq(spc_engine_open(&o, &b.engine, NULL), SPC_OK);
    b.p = prompt_of(b.engine, sentence);
    for (int32_t i = 0; i < BATCH; i++) {
        spc_session_options so = options_of("strict", i == 0 ? SPC_GAMMA_AUTO : 4, 1);

        so.seed = (uint64_t)i;
        so.max_tokens = 60;
        so.ignore_stop = true;
        s[i] = open_session(b.engine, &so, &b.p);
    }
    heap_begin(HEAP_NEVER, 0);
    for (int32_t step = 0; step < 60; step++) (void)spc_engine_step(b.engine, s, BATCH, NULL);
    count = heap_end();
    cr_expect_eq(count.allocations, 0, "%d", (int)count.allocations);
    for (int32_t i = 0; i < BATCH; i++) {
        decoded d = decoded_of(s[i]);

        cr_expect_eq(d.finish, SPC_FINISH_MAX_TOKENS);
        drafted += sum_of(d.stats.drafted);
        spc_session_close(s[i]);
    }
    cr_expect_gt(drafted, 10);
    cr_expect_gt(expect_survival(&opening, &b), 6);
    spc_engine_close(b.engine);
}
