/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_narrow.c - a drafter whose output layer is cut to some tokens: the logits of those, to
 * the bit, and of no others; the verifier's text; ranks that share it; what cannot be. */
#include "decode.h"
#include "distance.h"
#include "narrowed.h"
#include "tiny.h"

#include "host/ranks/backend_ranks.h"

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

/* ---- ranks ------------------------------------------------------------------------------------
 */

static int32_t world_wanted;

static spc_status open_world(spc_backend **out, int32_t threads, const char *which, spc_error *err)
{
    return spc_ranks_open(world_wanted, threads, which, out, err);
}

static spc_backend_ops ops_of(int32_t world)
{
    spc_backend_ops ops = spc_backend_ranks;

    world_wanted = world;
    ops.open = open_world;
    return ops;
}

Test(host_narrow, ranks_have_the_rows_of_one)
{
    const char *path = narrowed_file("3 31 32 36 39");
    enum { FLOATS = 6 };

    for (int32_t m = 0; m < FLOATS; m++) {
        spc_backend_ops ranks = ops_of(2);
        narrowed one = narrowed_rows(&spc_backend_cpu, models[m], path);
        narrowed two = narrowed_rows(&ranks, models[m], path);
        const size_t count = (size_t)NARROWED_ROWS * (size_t)one.ids;

        for (size_t i = 0; i < count; i++) {
            if (one.logits[i] == SPC_LOGIT_NEVER) cr_assert_eq(two.logits[i], SPC_LOGIT_NEVER);
        }
        cr_expect_leq(distance(two.logits, one.logits, count), 1e-4f, "%s", models[m]);
        free(one.logits);
        free(two.logits);
    }
    (void)unlink(path);
}

/* Three tiles of ids, which two, three and four ranks can share. */
static const char wide[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 10000, \"hidden_size\": 48,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 12, \"num_key_value_heads\": 12,"
    " \"intermediate_size\": 96, \"max_position_embeddings\": 48}";
enum { WIDE_IDS = 10000, WIDE_CONTEXT = 48, WIDE_TOKENS = 10 };

/* Every kind of step and every rule that drafts, but mentored: hundreds of exchanges a round. */
static const char *const rules[] = {"strict",
                                    "lossy:alpha=0.3",
                                    "lossy:alpha=0.3,beta=solve",
                                    "chow:alpha=0.5",
                                    "diff:alpha=0.05",
                                    "opt:alpha=0.2",
                                    "chow-log:alpha=0.9",
                                    "diff-log:alpha=0",
                                    "opt-log:alpha=0.1",
                                    "token-v1:alpha=0.2",
                                    "token-v2:alpha=0.2",
                                    "token-v3:alpha=0.5",
                                    "bild:alpha=1",
                                    "truncate:alpha=0.5",
                                    "truncate-q:alpha=0.5",
                                    "head:alpha=0.3",
                                    "typical:eps=0.09",
                                    "ensemble:w=0.4",
                                    "fuzzy:alpha=0.1",
                                    "opt:alpha=-0.3,gate=processed",
                                    "token-v3:alpha=0.5,gate=processed",
                                    "seq-chow:alpha=0.3",
                                    "token-chow:alpha=0.3",
                                    "bild-dynamic:rollback=1,fallback=0.3",
                                    "drafter-only"};
enum { SESSIONS = sizeof rules / sizeof *rules };

typedef struct {
    decoded of[SESSIONS];
    int64_t accepted, drafted;
} wide_texts;

/* Session i of a batch in which rules, temperatures and truncation are mixed. */
static spc_session *open_wide(spc_engine *engine, int32_t i)
{
    static const float temperature[] = {0.8f, 0, 1.2f};
    spc_session_options o = options_of(rules[i], 3, temperature[i % 3]);
    prompt p = prompt_made(3, WIDE_IDS, (uint32_t)i);
    spc_session *session;
    spc_error error;

    o.seed = (uint64_t)i;
    o.max_tokens = WIDE_TOKENS;
    o.ignore_stop = true;
    if (i % 4 == 1) o.top_p = 0.9f;
    if (i % 5 == 2) o.verify = SPC_VERIFY_BLOCK;
    if (spc_session_open(engine, &o, p.id, p.count, &session, &error) == SPC_OK) return session;
    o.temperature = 0; /* what the rule does not go with is left out */
    o.top_p = 1;
    o.verify = SPC_VERIFY_TOKEN;
    return open_session(engine, &o, &p);
}

static void decode_wide(int32_t world, const char *drafter_vocab, wide_texts *out)
{
    tiny_model pair[2] = {tiny_open(wide, 7, 1), tiny_open(wide, 7, 3)};
    spc_model drafter = {.plan = pair[0].plan, .bundle = pair[0].bundle, .config = pair[0].config};
    const spc_limits limits = spc_engine_limits(SESSIONS, WIDE_CONTEXT);
    spc_session *session[SESSIONS];
    spc_runner *runner[2];
    spc_backend *backend;
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(spc_narrow_head(&drafter, drafter_vocab, WIDE_IDS, NULL, NULL, &error), SPC_OK);
    cr_assert_eq(spc_ranks_open(world, world, NULL, &backend, &error), SPC_OK);
    for (int i = 1; i >= 0; i--) {
        runner[i] = tiny_load_on(&spc_backend_ranks, &pair[i], backend, &limits);
    }
    cr_assert_eq(spc_engine_assemble(&spc_backend_ranks, backend, runner[0], runner[1], WIDE_IDS,
                                     WIDE_CONTEXT, SESSIONS, &engine, &error),
                 SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < SESSIONS; i++) session[i] = open_wide(engine, i);
    for (int32_t step = 0; step < WIDE_TOKENS; step++) {
        cr_assert_eq(spc_engine_step(engine, session, SESSIONS, &error), SPC_OK, "%s",
                     error.message);
    }
    out->accepted = out->drafted = 0;
    for (int32_t i = 0; i < SESSIONS; i++) {
        out->of[i] = decoded_of(session[i]);
        out->accepted += sum_of(out->of[i].stats.accepted);
        out->drafted += sum_of(out->of[i].stats.drafted);
        spc_session_close(session[i]);
    }
    spc_engine_close(engine);
    for (int i = 0; i < 2; i++) tiny_close(&pair[i]);
}

/* Tokens of all slices, of the first alone, and of a file. */
Test(host_narrow, ranks_decode_as_one)
{
    const char *file = narrowed_file("9999 8192 8191 4096 4095 4094 0 17 5000 9000 1234 6789");
    const char *const some[] = {"9000", "3000", file};
    static wide_texts one, all;

    for (int k = 0; k < 3; k++) {
        decode_wide(1, some[k], &one);
        cr_assert(k == 2 || (one.accepted > 0 && one.accepted < one.drafted), "%d of %d",
                  (int)one.accepted, (int)one.drafted);
        for (int32_t world = 2; world <= 4; world++) {
            decode_wide(world, some[k], &all);
            for (int32_t i = 0; i < SESSIONS; i++) {
                cr_expect(same_tokens(&all.of[i], &one.of[i]), "%s, %d ranks, session %d", some[k],
                          (int)world, (int)i);
                cr_expect_eq(sum_of(all.of[i].stats.accepted), sum_of(one.of[i].stats.accepted));
            }
        }
    }
    (void)unlink(file);
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
}
