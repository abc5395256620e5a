/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_narrow.c - a drafter whose output layer is cut to some tokens: the logits of those, to
 * the bit, and of no others; the verifier's text; what cannot be. */
#include "decode.h"
#include "narrowed.h"

#include <stdio.h>
#include <unistd.h>

#define VECTORS SPC_TEST_VECTORS "/"

/* Tied and untied layers, with a cap, with a scale, behind an encoder, of floats and of blocks. */
static const char *const models[] = {VECTORS "llama",
                                     VECTORS "qwen2",
                                     VECTORS "gemma2",
                                     VECTORS "gemma3",
                                     VECTORS "t5-relu",
                                     VECTORS "t5-gated",
                                     VECTORS "gguf/llama-Q8_0.gguf",
                                     VECTORS "gguf/llama-Q4_0.gguf",
                                     VECTORS "gguf/mixed-K.gguf"};
enum { MODELS = sizeof models / sizeof *models };

/* Rows that have the logits of `all` for these tokens, and for the one that ends a sequence. */
static void expect_cut(const char *model, const char *drafter_vocab, const int32_t *token,
                       int32_t count, const narrowed *all)
{
    narrowed cut = narrowed_rows(&spc_backend_cpu, model, drafter_vocab);

    cr_assert_eq(cut.ids, all->ids);
    cr_assert_geq(cut.stop, 1, "%s", model);
    cr_expect_lt(cut.bytes, all->bytes, "%s: less is read", model);
    for (int32_t r = 0; r < NARROWED_ROWS; r++) {
        const float *row = cut.logits + (size_t)r * (size_t)cut.ids;
        int32_t next = 0;

        for (int32_t v = 0; v < cut.ids && r != 2; v++) {
            const bool listed = next < count && token[next] == v;
            const float want = listed || v == cut.stop
                                   ? all->logits[(size_t)r * (size_t)cut.ids + (size_t)v]
                                   : SPC_LOGIT_NEVER;

            cr_assert(memcmp(&row[v], &want, sizeof want) == 0, "%s, row %d, token %d: %g, want %g",
                      model, (int)r, (int)v, (double)row[v], (double)want);
            next += listed;
        }
    }
    free(cut.logits);
}

Test(host_narrow, rows_have_the_logits_of_the_tokens_that_are_drafted)
{
    static const int32_t first[] = {0, 1, 2, 3, 4, 5, 6}, some[] = {3, 31, 32, 36, 39};
    static const int32_t run[] = {1, 2, 3};

    for (int32_t m = 0; m < MODELS; m++) {
        narrowed all = narrowed_rows(&spc_backend_cpu, models[m], NULL);
        const char *path;

        expect_cut(models[m], "7", first, 7, &all);
        path = narrowed_file("39\n3\t36\r\n32 31 3");
        expect_cut(models[m], path, some, 5, &all);
        (void)unlink(path);
        path = narrowed_file("3 1 2\n"); /* they lie together */
        expect_cut(models[m], path, run, 3, &all);
        (void)unlink(path);
        free(all.logits);
    }
}

/* ---- decoding ---------------------------------------------------------------------------------
 */

static const char *const sentence = "<s><2de>The cat sleeps on the old chair.<sep>";

static spc_engine *open_with(const char *drafter_vocab, const char *weights)
{
    spc_engine_options o = demo_options();
    spc_engine *engine;
    spc_error error;

    o.context = 96;
    o.drafter_vocab = drafter_vocab;
    o.weights = weights;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    return engine;
}

/* The verifier's text whatever is drafted, if with fewer drafts kept; int8 cuts the layer too. */
Test(host_narrow, strict_decoding_writes_the_verifiers_text)
{
    static const char *const cuts[] = {NULL, "3000", "1"}, *const weights[] = {NULL, "int8"};

    for (int w = 0; w < 2; w++) {
        decoded want;
        int64_t kept = INT64_MAX;

        for (int i = 0; i < 3; i++) {
            spc_engine *engine = open_with(cuts[i], weights[w]);
            prompt p = prompt_of(engine, sentence);
            spc_session_options o = options_of("strict", 4, 0);
            decoded d = decode(engine, &o, &p);
            int64_t accepted = sum_of(d.stats.accepted);

            cr_assert_eq(d.status, SPC_OK, "%s", d.error.message);
            if (i == 0) want = d;
            cr_expect(same_tokens(&d, &want), "drafter-vocab %s", cuts[i] ? cuts[i] : "all");
            cr_expect_lt(accepted, kept, "drafter-vocab %s", cuts[i] ? cuts[i] : "all");
            kept = accepted;
            spc_engine_close(engine);
        }
    }
}

/* Above temperature 0, no draft is a token that is not drafted. */
Test(host_narrow, drafts_are_tokens_that_are_drafted)
{
    enum { FIRST = 3000 };
    spc_engine *engine = open_with("3000", NULL);
    prompt p = prompt_of(engine, sentence);
    int32_t drafts = 0;

    for (int seed = 0; seed < 20; seed++) {
        spc_session_options o = options_of("token-v3:alpha=0.5", 4, 1);
        const spc_token_detail *detail;
        spc_session *s;
        int32_t count;

        o.seed = (uint64_t)seed;
        o.details = true;
        s = open_session(engine, &o, &p);
        (void)spc_session_run(s, NULL);
        cr_assert_null(spc_session_error(s));
        detail = spc_session_details(s, &count);
        for (int32_t i = 0; i < count; i++) {
            if (detail[i].draft < 0) continue;
            cr_assert_lt(detail[i].draft, FIRST, "seed %d", seed);
            drafts++;
        }
        spc_session_close(s);
    }
    cr_assert_gt(drafts, 100, "%d drafts", (int)drafts);
    spc_engine_close(engine);
}

/* The drafter alone can end, though the token for it is not listed. */
Test(host_narrow, a_drafter_that_writes_alone_ends)
{
    const char *path = narrowed_file("100 200 300");
    spc_engine *engine = open_with(path, NULL);
    prompt p = prompt_of(engine, sentence);
    spc_session_options o = options_of("drafter-only", 0, 5);
    decoded d = decode(engine, &o, &p);

    (void)unlink(path);
    cr_expect_eq(d.finish, SPC_FINISH_STOP_TOKEN);
    for (int32_t i = 0; i + 1 < d.count; i++) {
        cr_expect(d.token[i] == 100 || d.token[i] == 200 || d.token[i] == 300);
    }
    spc_engine_close(engine);
}

/* A mask that leaves no token that is drafted: the others are. */
static bool allow_two(void *user, const int32_t *token, int32_t count, uint32_t *allowed,
                      int32_t vocab)
{
    (void)user;
    (void)token;
    if (count % 2) return false;
    allowed[(vocab - 1) / 32] |= 1u << (vocab - 1) % 32;
    allowed[(vocab - 40) / 32] |= 1u << (vocab - 40) % 32;
    return true;
}

Test(host_narrow, masks_that_leave_no_drafted_token_are_kept)
{
    spc_engine *engine = open_with("100", NULL);
    prompt p = prompt_of(engine, sentence);
    int64_t kept = 0;

    for (int seed = 0; seed < 10; seed++) {
        spc_session_options o = options_of("strict", 3, seed % 2 ? 1.0f : 0.0f);
        decoded d;

        o.seed = (uint64_t)seed;
        o.max_tokens = 12;
        o.ignore_stop = true;
        o.on_mask = allow_two;
        d = decode(engine, &o, &p);
        cr_assert_eq(d.status, SPC_OK, "%s", d.error.message);
        for (int32_t i = 0; i < d.count; i++) {
            if ((p.count + i) % 2) continue;
            cr_assert(d.token[i] == engine->vocab - 1 || d.token[i] == engine->vocab - 40);
        }
        kept += sum_of(d.stats.accepted);
    }
    cr_assert_gt(kept, 0, "of such drafts some are right");
    spc_engine_close(engine);
}

/* ---- what cannot be ---------------------------------------------------------------------------
 */

static void expect_refused(spc_engine_options o, spc_status status, const char *says)
{
    spc_engine *engine;
    spc_error error;

    cr_expect_eq(spc_engine_open(&o, &engine, &error), status, "%s: %s", says, error.message);
    cr_expect_null(engine);
    cr_expect_not_null(strstr(error.message, says), "%s", error.message);
}

static spc_engine_options with(const char *drafter_vocab)
{
    spc_engine_options o = demo_options();

    o.drafter_vocab = drafter_vocab;
    return o;
}

static void expect_file_refused(const char *text, const char *says)
{
    const char *path = narrowed_file(text);

    expect_refused(with(path), SPC_EINPUT, says);
    (void)unlink(path);
}

Test(host_narrow, what_cannot_be_is_named)
{
    spc_engine_options o = with("5");

    expect_refused(with("0"), SPC_EUSAGE, "drafter-vocab: expected 1 to 1048576 tokens");
    expect_refused(with("99999999999999999999"), SPC_EUSAGE, "drafter-vocab: expected 1 to");
    expect_refused(with(""), SPC_EUSAGE, "drafter-vocab: expected a number or a file, found ''");
    expect_refused(with("6145"), SPC_EUSAGE,
                   "expected at most the models' 6144 tokens, found 6145");
    expect_refused(with("no/tokens"), SPC_EINPUT, "drafter-vocab: no/tokens: No such file");
    expect_refused(with("/"), SPC_EINPUT, "drafter-vocab: /: Is a directory");
    expect_file_refused("", "expected ids with blanks between, found none");
    expect_file_refused(" \n", "expected ids with blanks between, found none");
    expect_file_refused("1 2 -3", "id 3: expected 0 to 6143, found '-3'");
    expect_file_refused("1, 2", "id 1: expected 0 to 6143, found '1,'");
    expect_file_refused("6144", "id 1: expected 0 to 6143, found '6144'");
    expect_file_refused("5 99999999999999999999999999999999999999999", "id 2: expected 0 to 6143");
    expect_file_refused("0000000000000000000000000000000000000000005", "id 1: expected 0 to 6143");
    o.drafter = NULL;
    expect_refused(o, SPC_EUSAGE, "drafter-vocab: there is no drafter");
    o.drafter = "ngram";
    expect_refused(o, SPC_EUSAGE, "drafter-vocab: drafts of ngram are looked up");
    o = with("5");
    o.tp = o.drafter_tp = 2;
    expect_refused(o, SPC_EUSAGE, "drafter-vocab and drafter-tp");
}
