/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_t5.c - an engine over an encoder-decoder pair: who reads the prompt, and that decoding
 * behind it is what it is for other models. */
#include "decode.h"
#include "distance.h"
#include "files.h"
#include "folder.h"

#include "rules/rule.h"

#include <math.h>

#define RELU  SPC_TEST_VECTORS "/t5-relu"
#define GATED SPC_TEST_VECTORS "/t5-gated"
#define LLAMA SPC_TEST_VECTORS "/llama"

enum { VOCAB = 389, CONTEXT = 40, TOKENS = 24 };

static spc_status try_open(const char *drafter, const char *verifier, int32_t sessions,
                           int32_t context, spc_engine **engine, spc_error *error)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = verifier;
    o.drafter = drafter;
    o.sessions = sessions;
    o.context = context;
    o.threads = 1;
    return spc_engine_open(&o, engine, error);
}

static spc_engine *open_pair(const char *drafter, const char *verifier, int32_t sessions)
{
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(try_open(drafter, verifier, sessions, CONTEXT, &engine, &error), SPC_OK, "%s",
                 error.message);
    return engine;
}

static spc_session_options t5_options(const char *rule, int32_t gamma, float temperature)
{
    spc_session_options o = options_of(rule, gamma, temperature);

    o.max_tokens = TOKENS;
    o.ignore_stop = true;
    o.seed = 5;
    return o;
}

/* ---- logits -----------------------------------------------------------------------------------
 */

static void expect_reference(const char *model)
{
    spc_engine *engine = open_pair(NULL, model, 1);
    char path[1024];
    spc_error error;
    size_t bytes;
    int32_t source_count, count;

    (void)snprintf(path, sizeof path, "%s/golden.json", model);

    json_t *golden = read_json(path);
    int32_t *source = read_ids(json_object_get(golden, "encoder_ids"), &source_count);
    int32_t *ids = read_ids(json_object_get(golden, "decoder_ids"), &count);
    float *logits = malloc((size_t)count * VOCAB * sizeof *logits), worst;

    json_decref(golden);
    (void)snprintf(path, sizeof path, "%s/logits.safetensors", model);

    char *file = read_file(path, &bytes);
    const float *wanted = (const float *)(void *)(file + bytes) - count * VOCAB;

    cr_assert_eq(spc_engine_logits(engine, source, source_count, ids, count, logits, &error),
                 SPC_OK, "%s", error.message);
    worst = distance(logits, wanted, (size_t)(count * VOCAB));
    cr_expect_leq(worst, 1e-4f, "%s: off by %g", model, (double)worst);
    free(logits);
    free(ids);
    free(source);
    free(file);
    spc_engine_close(engine);
}

Test(host_t5, logits_of_an_engine_are_those_of_the_reference)
{
    expect_reference(RELU);
    expect_reference(GATED);
}

Test(host_t5, logits_want_a_source_exactly_where_there_is_an_encoder)
{
    spc_engine *t5 = open_pair(NULL, RELU, 1), *llama = open_pair(NULL, LLAMA, 1);
    static const int32_t ids[] = {0, 5}, high[] = {3, VOCAB};
    float logits[2 * VOCAB];
    spc_error error;

    cr_expect_eq(spc_engine_logits(t5, NULL, 0, ids, 2, logits, &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "source"), "%s", error.message);
    cr_expect_eq(spc_engine_logits(t5, high, 2, ids, 2, logits, &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "source id 1") && strstr(error.message, "389"), "%s",
              error.message);
    cr_expect_eq(spc_engine_logits(llama, ids, 2, ids, 2, logits, &error), SPC_EINPUT);
    cr_expect(strstr(error.message, "encoder"), "%s", error.message);
    cr_expect_eq(spc_engine_logits(t5, ids, 2, ids, 2, logits, &error), SPC_OK);
    spc_engine_close(t5);
    spc_engine_close(llama);
}

/* ---- pairs ------------------------------------------------------------------------------------
 */

Test(host_t5, an_encoder_does_not_pair_with_a_decoder_by_itself)
{
    spc_engine *engine;
    spc_error error;

    cr_expect_eq(try_open(LLAMA, RELU, 1, 0, &engine, &error), SPC_EMODEL);
    cr_expect(strstr(error.message, "encoder-decoder") && strstr(error.message, "llama"), "%s",
              error.message);
    cr_expect_eq(try_open(RELU, LLAMA, 1, 0, &engine, &error), SPC_EMODEL);
    cr_expect_null(engine);
}

/* Positions are relative: n_positions (here 512, by default) is a proposal. */
Test(host_t5, a_context_may_be_longer_than_the_config_proposes)
{
    spc_engine_facts facts;
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(try_open(GATED, RELU, 1, 0, &engine, &error), SPC_OK);
    spc_engine_describe(engine, &facts);
    cr_expect_eq(facts.context, 512);
    cr_expect(facts.encoder);
    spc_engine_close(engine);
    cr_assert_eq(try_open(GATED, RELU, 1, 700, &engine, &error), SPC_OK);
    spc_engine_describe(engine, &facts);
    cr_expect_eq(facts.context, 700);
    spc_engine_close(engine);
    cr_expect_eq(try_open(GATED, RELU, 1, INT32_MAX, &engine, &error), SPC_EUSAGE);
}

/* ---- sequences --------------------------------------------------------------------------------
 */

/* One seed, one text, whatever the draft length (--bonus step): every row of every round is
 * that of plain decoding behind the same source. */
Test(host_t5, strict_rounds_write_what_the_verifier_writes_alone)
{
    spc_engine *pair = open_pair(GATED, RELU, 1), *alone = open_pair(NULL, RELU, 1);
    int32_t same_source = 0;
    decoded first = {0};

    for (uint32_t seed = 0; seed < 4; seed++) {
        prompt p = prompt_made(5 + (int32_t)seed * 11, VOCAB, seed);
        spc_session_options o = t5_options("verifier-only", 0, 0);
        decoded greedy = decode(alone, &o, &p), step = {0};

        for (int32_t gamma = 0; gamma <= 6; gamma++) {
            o = t5_options("strict", gamma, 0);

            decoded d = decode(pair, &o, &p);

            cr_expect(same_tokens(&d, &greedy), "seed %u, gamma %d", seed, (int)gamma);
            o = t5_options("strict", gamma, 2);
            o.bonus = SPC_BONUS_STEP;
            d = decode(pair, &o, &p);
            cr_expect_eq(d.count, TOKENS);
            if (gamma > 0) cr_expect(same_tokens(&d, &step), "seed %u, gamma %d", seed, (int)gamma);
            step = d;
        }
        if (seed > 0) same_source += same_tokens(&step, &first);
        first = step;
    }
    cr_expect_eq(same_source, 0, "other sources, other texts");
    spc_engine_close(pair);
    spc_engine_close(alone);
}

/* A drafter that is the verifier reads the same prompt by its own encoder: nothing is rejected. */
Test(host_t5, a_drafter_equal_to_the_verifier_is_always_accepted)
{
    spc_engine *engine = open_pair(GATED, GATED, 1);
    prompt p = prompt_made(17, VOCAB, 9);
    spc_session_options o = t5_options("strict", 4, 1);
    decoded d = decode(engine, &o, &p);

    cr_expect_gt(sum_of(d.stats.accepted), 0);
    cr_expect_eq(sum_of(d.stats.rejected), 0);
    cr_expect_eq(d.stats.prompt_tokens, 17);
    cr_expect_eq(d.stats.prefill_calls, 2, "each model's encoder, once");
    spc_engine_close(engine);
}

static const char *const strategies[] = {"strict",
                                         "token-v3:alpha=0.5",
                                         "opt:alpha=0.1",
                                         "lossy:alpha=0.3",
                                         "chow:alpha=0.4",
                                         "token-chow:alpha=0.4",
                                         "seq-chow:alpha=0.9",
                                         "seq-chow:alpha=0.0001",
                                         "bild-dynamic:fallback=0.1,rollback=2",
                                         "verifier-only",
                                         "drafter-only"};
enum { STRATEGIES = sizeof strategies / sizeof *strategies };

static spc_session *open_member(spc_engine *engine, int32_t i, float temperature)
{
    prompt p = prompt_made(3 + 3 * i, VOCAB, 100u + (uint32_t)i);
    bool greedy = strncmp(strategies[i], "bild", 4) == 0;
    spc_session_options o = t5_options(strategies[i], 3, greedy ? 0 : temperature);

    o.seed = 40u + (uint64_t)i;
    return open_session(engine, &o, &p);
}

/* All strategies at once, each with a source of its own, against each by itself. */
Test(host_t5, sequences_of_every_strategy_do_not_see_each_other)
{
    spc_engine *together = open_pair(GATED, RELU, STRATEGIES), *alone = open_pair(GATED, RELU, 1);
    spc_session *s[STRATEGIES];
    bool running = true;

    for (int32_t i = 0; i < STRATEGIES; i++) s[i] = open_member(together, i, 1);
    while (running) {
        running = false;
        cr_assert_eq(spc_engine_step(together, s, STRATEGIES, NULL), SPC_OK);
        for (int32_t i = 0; i < STRATEGIES; i++) running |= s[i]->finish == SPC_FINISH_RUNNING;
    }
    for (int32_t i = 0; i < STRATEGIES; i++) {
        spc_session *single = open_member(alone, i, 1);

        cr_assert_eq(spc_session_run(single, NULL), SPC_OK);

        decoded a = decoded_of(single), b = decoded_of(s[i]);

        cr_expect_eq(a.count, TOKENS, "%s: %s", strategies[i], spc_finish_name(a.finish));
        cr_expect(same_tokens(&a, &b), "%s", strategies[i]);
        cr_expect_eq(a.stats.prompt_tokens, 3 + 3 * i);
        spc_session_close(single);
        spc_session_close(s[i]);
    }
    spc_engine_close(together);
    spc_engine_close(alone);
}

/* A prompt may fill the context: the decoder has one of its own. */
Test(host_t5, prompt_and_continuation_have_the_context_each)
{
    spc_engine *engine = open_pair(GATED, RELU, 1);
    prompt full = prompt_made(CONTEXT, VOCAB, 1), over = prompt_made(CONTEXT + 1, VOCAB, 1);
    spc_session_options o = t5_options("token-v3:alpha=0.5", 5, 1);
    spc_session *session;
    spc_error error;

    o.max_tokens = 0;

    decoded d = decode(engine, &o, &full);

    cr_expect_eq(d.finish, SPC_FINISH_CONTEXT);
    cr_expect_eq(d.count, CONTEXT - 1, "the start token takes one");
    cr_expect_eq(spc_session_open(engine, &o, over.id, over.count, &session, &error), SPC_EFULL);
    cr_expect(strstr(error.message, "41") && strstr(error.message, "40"), "%s", error.message);
    spc_engine_close(engine);
}

/* Begun anew, with a longer prompt, a shorter one and the same again: as if newly opened. */
Test(host_t5, a_restarted_session_reads_its_new_prompt)
{
    spc_engine *engine = open_pair(GATED, RELU, 1), *fresh = open_pair(GATED, RELU, 1);
    static const int32_t lengths[] = {30, 6, 6};
    spc_session_options o = t5_options("token-v3:alpha=0.5", 4, 1);
    prompt p = prompt_made(12, VOCAB, 1);
    spc_session *s = open_session(engine, &o, &p);

    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    for (int32_t i = 0; i < 3; i++) {
        p = prompt_made(lengths[i], VOCAB, 1);
        cr_assert_eq(spc_session_restart(s, p.id, p.count, NULL), SPC_OK);
        cr_assert_eq(spc_session_run(s, NULL), SPC_OK);

        decoded again = decoded_of(s), wanted = decode(fresh, &o, &p);

        cr_expect(same_tokens(&again, &wanted), "prompt of %d", (int)lengths[i]);
        cr_expect_eq(again.stats.reused_tokens, 0);
        cr_expect_eq(again.stats.prompt_tokens, lengths[i]);
    }
    spc_session_close(s);
    spc_engine_close(engine);
    spc_engine_close(fresh);
}

/* ---- text ---------------------------------------------------------------------------------------
 */

/* A tokenizer with a word for each id, each of which begins with a space. */
static char *tokenizer_of_words(void)
{
    char *json = malloc(VOCAB * 32 + 512), *at = json;

    at += sprintf(at, "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
                      "\"prepend_scheme\":\"always\",\"split\":true},"
                      "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
                      "\"prepend_scheme\":\"always\",\"split\":true},"
                      "\"model\":{\"type\":\"Unigram\",\"unk_id\":2,\"vocab\":[");
    for (int32_t i = 0; i < VOCAB; i++) {
        at += sprintf(at, "%s[\"\u2581w%d\",-%d]", i > 0 ? "," : "", (int)i, (int)i + 1);
    }
    (void)sprintf(at, "]}}");
    return json;
}

typedef struct {
    char text[1024];
    size_t bytes;
} streamed;

static void append(void *user, const char *text, size_t bytes)
{
    streamed *all = user;

    cr_assert_lt(all->bytes + bytes, sizeof all->text);
    memcpy(all->text + all->bytes, text, bytes);
    all->bytes += bytes;
}

/* What a decoder writes behind its encoder is a text of its own: its first word has no space. */
Test(host_t5, a_text_begins_without_a_space)
{
    prompt p = prompt_made(4, VOCAB, 1);
    folder f = folder_open();
    char *json = tokenizer_of_words(), *text;
    streamed all = {.bytes = 0};
    spc_session_options o = t5_options("strict", 3, 1);
    spc_session *session;
    spc_error error;

    folder_copy(&f, RELU "/config.json", "config.json", SIZE_MAX);
    folder_copy(&f, RELU "/generation_config.json", "generation_config.json", SIZE_MAX);
    folder_copy(&f, RELU "/model.safetensors", "model.safetensors", SIZE_MAX);
    folder_write(&f, "tokenizer.json", json, strlen(json));

    spc_engine *engine = open_pair(f.path, f.path, 1);

    o.on_text = append;
    o.user = &all;
    session = open_session(engine, &o, &p);
    cr_assert_eq(spc_session_run(session, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(spc_session_text(session, &text, NULL, &error), SPC_OK, "%s", error.message);
    all.text[all.bytes] = '\0';
    cr_expect_eq(text[0], 'w', "'%s'", text);
    cr_expect(strstr(text, " w"), "'%s'", text);
    cr_expect_str_eq(all.text, text);
    free(text);
    free(json);
    spc_session_close(session);
    spc_engine_close(engine);
    folder_close(&f);
}
