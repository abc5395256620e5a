/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_pair.c - which drafters go with which verifiers: what is told of those that do not,
 * padded vocabularies, contexts of different length, warnings. */
#include "decode.h"
#include "folder.h"
#include "spawn.h"

#include "host/engine.h"
#include "weights/tokenizer.h"

enum { VOCAB = 6144, PADDED = VOCAB + 40 };

static const char *const nothing[] = {NULL};

/* A copy of a demo model with its config and its tokenizer changed. */
static folder copy_model(const char *from, const char *const *config, const char *const *tokenizer)
{
    folder f = folder_open();
    char path[FOLDER_PATH];

    (void)snprintf(path, sizeof path, "%s/model.safetensors", from);
    folder_copy(&f, path, "model.safetensors", SIZE_MAX);
    (void)snprintf(path, sizeof path, "%s/config.json", from);
    folder_copy_changed(&f, path, "config.json", config);
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", from);
    if (tokenizer) folder_copy_changed(&f, path, "tokenizer.json", tokenizer);
    return f;
}

static void on_log(void *user, const char *line)
{
    if (strncmp(line, "warning: ", 9) != 0) return;
    strncat(user, line, DECODE_TEXT - strlen(user) - 1);
}

/* Open a pair; `said` receives its warnings, [DECODE_TEXT]. */
static spc_status open_pair(const char *drafter, const char *verifier, spc_engine **engine,
                            char *said, spc_error *error)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.drafter = drafter;
    o.verifier = verifier;
    o.threads = 1;
    o.log = on_log;
    o.user = said;
    said[0] = '\0';
    return spc_engine_open(&o, engine, error);
}

static void expect_no_pair(const char *drafter, const char *verifier, const char *const *says)
{
    spc_engine *engine;
    spc_error error;
    char said[DECODE_TEXT];

    cr_assert_eq(open_pair(drafter, verifier, &engine, said, &error), SPC_EMODEL);
    cr_expect_null(engine);
    for (; *says; says++) {
        cr_expect(strstr(error.message, *says), "'%s' without '%s'", error.message, *says);
    }
}

/* ---- what does not pair -----------------------------------------------------------------------
 */

Test(host_pair, the_first_difference_is_named_with_both_pieces)
{
    static const struct {
        const char *change[3], *says[4];
    } table[] = {
        {{"<2fr>", "<2it>"}, {"do not pair", "id 6 ('<2it>' against '<2fr>')"}},
        {{"\"special\": true", "\"special\": false"},
         {"do not pair", "id 0 ('<pad>' against '<pad>', special in one of them)"}},
        {{"<2fr>", "<2\\u0007\\n>"}, {"id 6 ('<2\\x07\\x0a>' against '<2fr>')"}},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        folder f = copy_model(DEMO_DRAFTER, nothing, table[i].change);

        expect_no_pair(f.path, DEMO_VERIFIER, table[i].says);
        folder_close(&f);
    }
}

/* The same words, two merges of other ranks. */
Test(host_pair, merges_count)
{
    size_t bytes;
    char *text = read_file(DEMO_DRAFTER "/tokenizer.json", &bytes), *dumped;
    json_t *root = json_loadb(text, bytes, 0, NULL);
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    json_t *first = json_incref(json_array_get(merges, 20));
    folder f = copy_model(DEMO_DRAFTER, nothing, NULL);
    static const char *const says[] = {"do not pair", "made by other merges", NULL};

    cr_assert_eq(json_array_remove(merges, 20), 0);
    cr_assert_eq(json_array_insert_new(merges, 21, first), 0);
    dumped = json_dumps(root, 0);
    folder_write(&f, "tokenizer.json", dumped, strlen(dumped));
    expect_no_pair(f.path, DEMO_VERIFIER, says);
    free(dumped);
    free(text);
    json_decref(root);
    folder_close(&f);
}

Test(host_pair, kinds_of_tokenizers_that_differ_are_named)
{
    static const char *const says[] = {"their tokenizers are Unigram and byte-level BPE", NULL};
    folder f = copy_model(DEMO_DRAFTER, nothing, NULL);

    folder_copy(&f, SPC_TEST_VECTORS "/tokenizers/unigram-t5.json", "tokenizer.json", SIZE_MAX);
    expect_no_pair(f.path, DEMO_VERIFIER, says);
    folder_close(&f);
}

Test(host_pair, one_tokenizer_alone_cannot_be_compared)
{
    static const char *const drafter[] = {"drafter ", "has no tokenizer.json", NULL};
    static const char *const verifier[] = {"verifier ", "has no tokenizer.json", NULL};
    folder d = copy_model(DEMO_DRAFTER, nothing, NULL),
           v = copy_model(DEMO_VERIFIER, nothing, NULL);

    expect_no_pair(d.path, DEMO_VERIFIER, drafter);
    expect_no_pair(DEMO_DRAFTER, v.path, verifier);
    folder_close(&d);
    folder_close(&v);
}

Test(host_pair, a_vocabulary_that_cuts_words_off_is_no_padding)
{
    static const char *const config[] = {"6144", "6140", NULL};
    static const char *const says[] = {"vocab_size 6140 against 6144", "id 6140 is a word", NULL};
    static const char *const bare[] = {"vocab_size 6140 against 6144; both", NULL};
    folder d = copy_model(DEMO_DRAFTER, config, nothing),
           e = copy_model(DEMO_DRAFTER, config, NULL);
    folder v = copy_model(DEMO_VERIFIER, nothing, NULL);

    expect_no_pair(d.path, DEMO_VERIFIER, says);
    expect_no_pair(e.path, v.path, bare);
    folder_close(&d);
    folder_close(&e);
    folder_close(&v);
}

/* The last word of the verifier made a special token that ends sequences. */
Test(host_pair, an_end_of_sequence_that_is_cut_off_is_no_padding)
{
    static const char *const config[] = {"6144", "6143", NULL};
    static const char *const end[] = {"\"eos_token_id\": 2", "\"eos_token_id\": 6143", NULL};
    static const char *const says[] = {"vocab_size 6143 against 6144", "id 6143 ends a sequence",
                                       NULL};
    folder d = copy_model(DEMO_DRAFTER, config, nothing);
    folder v = copy_model(DEMO_VERIFIER, end, NULL);
    size_t bytes;
    char *text = read_file(DEMO_VERIFIER "/tokenizer.json", &bytes), *dumped;
    json_t *root = json_loadb(text, bytes, 0, NULL), *added = json_object_get(root, "added_tokens");
    json_t *token = json_deep_copy(json_array_get(added, 0)),
           *model = json_object_get(root, "model");
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");

    (void)json_object_set_new(token, "id", json_integer(6143));
    (void)json_object_set_new(token, "content", json_string("<end>"));
    (void)json_array_append_new(added, token);
    cr_assert_eq(json_integer_value(json_object_get(vocab, "\xc4\xa0stehen")), 6143);
    (void)json_object_del(vocab, "\xc4\xa0stehen");
    (void)json_object_set_new(vocab, "<end>", json_integer(6143));
    (void)json_array_remove(merges, json_array_size(merges) - 1);
    dumped = json_dumps(root, 0);
    folder_write(&v, "tokenizer.json", dumped, strlen(dumped));
    expect_no_pair(d.path, v.path, says);
    free(dumped);
    free(text);
    json_decref(root);
    folder_close(&d);
    folder_close(&v);
}

/* ---- reading both -----------------------------------------------------------------------------
 */

Test(host_pair, one_text_is_read_once_and_two_are_read_beside_each_other)
{
    static const char *const spaced[] = {"\"added_tokens\"", " \"added_tokens\"", NULL};
    folder d = copy_model(DEMO_DRAFTER, nothing, spaced),
           n = copy_model(DEMO_DRAFTER, nothing, NULL);
    const char *const drafters[] = {DEMO_DRAFTER, d.path, n.path};
    spc_error error;

    for (int i = 0; i < 3; i++) {
        spc_model of[2] = {{0}};
        spc_model *const both[] = {&of[0], &of[1]}, *const alone[] = {&of[0], NULL};
        spc_tokenizer *tokenizer[2];

        cr_assert_eq(spc_open_model(DEMO_VERIFIER, &of[0], &error), SPC_OK);
        cr_assert_eq(spc_open_model(drafters[i], &of[1], &error), SPC_OK);
        cr_assert_eq(spc_open_tokenizers(both, tokenizer, &error), SPC_OK, "%s", error.message);
        cr_expect_eq(tokenizer[0] == tokenizer[1], i == 0, "%d", i);
        cr_expect_eq(tokenizer[1] == NULL, i == 2, "it has none");
        if (i == 1) cr_expect_eq(spc_tokenizer_difference(tokenizer[0], tokenizer[1]), -1);
        spc_close_tokenizers(tokenizer);
        cr_assert_eq(spc_open_tokenizers(alone, tokenizer, &error), SPC_OK, "%s", error.message);
        cr_expect(tokenizer[0] && !tokenizer[1]);
        spc_close_tokenizers(tokenizer);
        for (int k = 0; k < 2; k++) spc_close_model(&of[k]);
    }
    folder_close(&n);
    folder_close(&d);
}

/* Of two that fail the verifier's is told of, though the drafter's is found to be broken first. */
Test(host_pair, of_two_tokenizers_that_cannot_be_read_the_verifiers_is_named)
{
    folder d = copy_model(DEMO_DRAFTER, nothing, NULL),
           v = copy_model(DEMO_VERIFIER, nothing, NULL);
    char said[DECODE_TEXT];
    spc_engine *engine;
    spc_error error;
    size_t bytes;
    char *text = read_file(DEMO_VERIFIER "/tokenizer.json", &bytes);

    folder_write(&d, "tokenizer.json", "{", 1);
    folder_write(&v, "tokenizer.json", text, bytes - 3); /* it breaks off at the end */
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(open_pair(d.path, v.path, &engine, said, &error), SPC_EFORMAT);
        cr_expect_null(engine);
        cr_expect(strstr(error.message, v.path) && !strstr(error.message, d.path), "%s",
                  error.message);
    }
    folder_copy(&v, DEMO_VERIFIER "/tokenizer.json", "tokenizer.json", SIZE_MAX);
    cr_assert_eq(open_pair(d.path, v.path, &engine, said, &error), SPC_EFORMAT);
    cr_expect(strstr(error.message, d.path), "%s", error.message);
    free(text);
    folder_close(&v);
    folder_close(&d);
}

/* ---- padding ----------------------------------------------------------------------------------
 */

static uint64_t read_u64(const char *at)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--) value = value << 8 | (unsigned char)at[i];
    return value;
}

/* The model's safetensors with the embedding, which is the head as well, made PADDED rows long: the
 * rows behind the vocabulary are those of frequent words, ten times as large. */
static void write_padded(const folder *f, const char *from)
{
    size_t bytes, at, dim;
    char *file = read_file(from, &bytes), *out, *text;
    uint64_t header = read_u64(file);
    json_t *root = json_loadb(file + 8, header, 0, NULL);
    json_t *embedding = json_object_get(root, "model.embed_tokens.weight");
    json_t *offsets = json_object_get(embedding, "data_offsets");
    size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    size_t end = (size_t)json_integer_value(json_array_get(offsets, 1));
    const char *data = file + 8 + header;

    cr_assert_not_null(offsets);
    dim = (end - begin) / VOCAB / 2;
    (void)json_array_set_new(json_object_get(embedding, "shape"), 0, json_integer(PADDED));
    /* all other tensors stay where they are; the longer one goes behind them */
    at = bytes - 8 - (size_t)header;
    (void)json_array_set_new(offsets, 0, json_integer((json_int_t)at));
    (void)json_array_set_new(offsets, 1, json_integer((json_int_t)(at + PADDED * dim * 2)));
    /* and a tensor nobody asks for keeps its old place from being a hole */
    (void)json_object_set_new(root, "unused",
                              json_pack("{s:s, s:[i], s:[i,i]}", "dtype", "BF16", "shape",
                                        (int)(VOCAB * dim), "data_offsets", (int)begin, (int)end));
    text = json_dumps(root, JSON_COMPACT);

    size_t length = strlen(text), room = (length + 7) / 8 * 8;

    out = malloc(8 + room + at + PADDED * dim * 2);
    cr_assert_not_null(out);
    memset(out + 8, ' ', room);
    memcpy(out + 8, text, length);
    for (int i = 0; i < 8; i++) out[i] = (char)(room >> (8 * i));
    memcpy(out + 8 + room, data, at);
    memcpy(out + 8 + room + at, data + begin, end - begin);

    uint16_t *row = (uint16_t *)(void *)(out + 8 + room + at);

    for (size_t i = VOCAB * dim; i < PADDED * dim; i++) {
        uint32_t wide = (uint32_t)row[i - VOCAB * dim + 7 * dim] << 16;
        float value;

        memcpy(&value, &wide, sizeof value);
        value *= 10;
        memcpy(&wide, &value, sizeof wide);
        row[i] = (uint16_t)(wide >> 16);
    }
    folder_write(f, "model.safetensors", out, 8 + room + at + PADDED * dim * 2);
    free(out);
    free(text);
    free(file);
    json_decref(root);
}

static folder padded_model(const char *from)
{
    static const char *const config[] = {"\"vocab_size\": 6144", "\"vocab_size\": 6184", NULL};
    folder f = copy_model(from, config, nothing);
    char path[FOLDER_PATH];

    (void)snprintf(path, sizeof path, "%s/model.safetensors", from);
    write_padded(&f, path);
    return f;
}

static decoded decode_with(spc_engine *engine, const char *rule, float temperature)
{
    spc_session_options o = options_of(rule, 5, temperature);
    prompt p = prompt_of(engine, "<s><2de>The cat sleeps on the old chair.<sep>");

    o.max_tokens = 40;
    o.ignore_stop = true;
    o.seed = 2;
    return decode(engine, &o, &p);
}

Test(host_pair, ids_that_only_one_model_has_are_left_out_of_both)
{
    folder d = padded_model(DEMO_DRAFTER), v = padded_model(DEMO_VERIFIER);
    const char *const pairs[][2] = {{d.path, DEMO_VERIFIER}, {DEMO_DRAFTER, v.path}};
    spc_engine *plain = open_demo(DEMO_DRAFTER, 1, 1), *padded;
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.2",
                                        "verifier-only", "drafter-only"};
    char said[DECODE_TEXT];
    spc_engine_facts facts;
    spc_error error;
    int32_t outside = 0;

    for (size_t i = 0; i < 2; i++) {
        cr_assert_eq(open_pair(pairs[i][0], pairs[i][1], &padded, said, &error), SPC_OK, "%s",
                     error.message);
        spc_engine_describe(padded, &facts);
        cr_expect_eq(facts.vocab, VOCAB);
        cr_expect_str_eq(said, "");
        for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
            decoded a = decode_with(padded, rules[k], 1), b = decode_with(plain, rules[k], 1);

            cr_expect_eq(a.status, SPC_OK, "%s", a.error.message);
            cr_expect(same_tokens(&a, &b), "%s", rules[k]);
        }
        spc_engine_close(padded);
    }
    /* where both have them they stand, and these would have been drawn */
    cr_assert_eq(open_pair(d.path, v.path, &padded, said, &error), SPC_OK, "%s", error.message);
    spc_engine_describe(padded, &facts);
    cr_expect_eq(facts.vocab, PADDED);

    decoded a = decode_with(padded, "strict", 1);

    for (int32_t i = 0; i < a.count; i++) outside += a.token[i] >= VOCAB;
    cr_expect_gt(outside, 0, "the padding would matter");
    spc_engine_close(padded);
    spc_engine_close(plain);
    folder_close(&d);
    folder_close(&v);
}

/* ---- contexts ---------------------------------------------------------------------------------
 */

Test(host_pair, drafts_end_where_the_smaller_context_does)
{
    static const char *const config[] = {"512", "47", NULL};
    folder models[2] = {copy_model(DEMO_DRAFTER, config, nothing),
                        copy_model(DEMO_VERIFIER, config, nothing)};
    spc_engine *whole = open_demo(DEMO_DRAFTER, 1, 1);
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "token-chow:alpha=0.6",
                                        "seq-chow:alpha=0.5", "drafter-only"};

    for (size_t i = 0; i < 2; i++) {
        spc_engine *engine;
        spc_engine_facts facts;
        spc_error error;
        char said[DECODE_TEXT];

        cr_assert_eq(open_pair(i == 0 ? models[0].path : DEMO_DRAFTER,
                               i == 1 ? models[1].path : DEMO_VERIFIER, &engine, said, &error),
                     SPC_OK, "%s", error.message);
        spc_engine_describe(engine, &facts);
        cr_expect_eq(facts.context, 47);
        for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
            for (int32_t gamma = 0; gamma <= SPC_GAMMA_MAX; gamma += 4) {
                spc_session_options o = options_of(rules[k], gamma, 0);
                prompt p = prompt_of(engine, "<s><2de>The cat sleeps.<sep>");

                o.ignore_stop = true;
                decoded a = decode(engine, &o, &p);

                o.max_tokens = 60;
                decoded b = decode(whole, &o, &p);

                cr_expect_eq(a.status, SPC_OK, "%s", a.error.message);
                cr_expect_eq(a.finish, SPC_FINISH_CONTEXT, "%s, gamma %d", rules[k], (int)gamma);
                cr_expect_eq(p.count + a.count, 47);
                /* seq-chow decides by the whole of what was written, which is shorter here */
                if (k != 3) cr_expect(begins_with(&b, &a, a.count), "%s", rules[k]);
            }
        }
        spc_engine_close(engine);
        folder_close(&models[i]);
    }
    spc_engine_close(whole);
}

/* ---- warnings ---------------------------------------------------------------------------------
 */

Test(host_pair, what_looks_wrong_is_warned_of_and_opens)
{
    spc_engine *engine;
    spc_error error;
    char said[DECODE_TEXT];

    cr_assert_eq(open_pair(DEMO_DRAFTER, DEMO_VERIFIER, &engine, said, &error), SPC_OK);
    cr_expect_str_eq(said, "", "the right way round there is nothing to say");
    spc_engine_close(engine);
    cr_assert_eq(open_pair(DEMO_VERIFIER, DEMO_DRAFTER, &engine, said, &error), SPC_OK);
    cr_expect(strstr(said, "more than the") && strstr(said, "are they swapped?"), "%s", said);
    spc_engine_close(engine);
    cr_assert_eq(open_pair(DEMO_VERIFIER, DEMO_VERIFIER, &engine, said, &error), SPC_OK);
    cr_expect_str_eq(said, "", "a model drafts for itself");
    spc_engine_close(engine);
}

/* Ids that pad a model's rows are no tokens; tokens without a row are in no prompt that runs.  Nor
 * are special ones, such as those of pictures, and nobody misses them. */
Test(host_pair, a_tokenizer_that_is_larger_than_its_model_is_warned_of)
{
    static const char *const word[] = {"\"added_tokens\": [",
                                       "\"added_tokens\": [{\"id\":6150,"
                                       "\"content\":\"[PAD]\",\"special\":false},",
                                       NULL};
    static const char *const special[] = {"\"added_tokens\": [",
                                          "\"added_tokens\": [{\"id\":6150,"
                                          "\"content\":\"[PAD]\",\"special\":true},",
                                          NULL};
    static const char says[] = "its tokenizer has 6151 ids, the model 6144 rows: a prompt with id "
                               "6150, '[PAD]', or another beyond them is refused";
    folder larger = copy_model(DEMO_VERIFIER, nothing, word);
    folder quiet = copy_model(DEMO_VERIFIER, nothing, special);
    folder padded = padded_model(DEMO_VERIFIER);
    const char *const silent[] = {quiet.path, padded.path, DEMO_VERIFIER};
    spc_engine *engine;
    spc_error error;
    char said[DECODE_TEXT];
    spawn_result r;

    cr_assert_eq(open_pair(NULL, larger.path, &engine, said, &error), SPC_OK, "%s", error.message);
    cr_expect(strstr(said, says), "%s", said);
    spc_engine_close(engine);
    r = SPAWN(NULL, "info", larger.path);
    cr_expect_eq(r.code, 0);
    cr_expect(strstr(r.err, says), "%s", r.err);
    cr_expect_eq(count_lines(r.err), 1, "%s", r.err);
    spawn_free(&r);
    r = SPAWN(NULL, "run", "--verifier", larger.path, "--drafter", "none", "--quiet", "a [PAD] b");
    cr_expect_eq(r.code, 6, "%s", r.err);
    cr_expect(strstr(r.err, "6150"), "%s", r.err);
    spawn_free(&r);
    for (int32_t i = 0; i < 3; i++) {
        cr_assert_eq(open_pair(NULL, silent[i], &engine, said, &error), SPC_OK);
        cr_expect_str_eq(said, "");
        spc_engine_close(engine);
    }
    folder_close(&larger);
    folder_close(&quiet);
    folder_close(&padded);
}

Test(host_pair, chat_templates_that_differ_are_warned_of)
{
    static const char *const system[] = {"You are a helpful assistant", "Be brief", NULL};
    static const char *const other[] = {"You are a helpful assistant", "Be clear", NULL};
    folder d = copy_model(DEMO_DRAFTER, nothing, nothing);
    folder v = copy_model(DEMO_VERIFIER, nothing, nothing);
    spc_engine *engine;
    spc_error error;
    char said[DECODE_TEXT];

    folder_copy(&v, SPC_TEST_VECTORS "/chat/qwen2.jinja", "chat_template.jinja", SIZE_MAX);
    cr_assert_eq(open_pair(d.path, v.path, &engine, said, &error), SPC_OK);
    cr_expect_str_eq(said, "", "a base model drafts for a chat model");
    spc_engine_close(engine);
    folder_copy(&d, SPC_TEST_VECTORS "/chat/qwen2.jinja", "chat_template.jinja", SIZE_MAX);
    cr_assert_eq(open_pair(d.path, v.path, &engine, said, &error), SPC_OK);
    cr_expect_str_eq(said, "");
    spc_engine_close(engine);
    folder_copy(&d, SPC_TEST_VECTORS "/chat/qwen3.jinja", "chat_template.jinja", SIZE_MAX);
    cr_assert_eq(open_pair(d.path, v.path, &engine, said, &error), SPC_OK);
    cr_expect(strstr(said, "chat template is qwen3, the verifier's qwen2:"), "%s", said);
    spc_engine_close(engine);
    folder_copy_changed(&d, SPC_TEST_VECTORS "/chat/qwen2.jinja", "chat_template.jinja", system);
    folder_copy_changed(&v, SPC_TEST_VECTORS "/chat/qwen2.jinja", "chat_template.jinja", other);
    cr_assert_eq(open_pair(d.path, v.path, &engine, said, &error), SPC_OK);
    cr_expect(strstr(said, "is chatml, the verifier's chatml with another system message:"), "%s",
              said);
    spc_engine_close(engine);
    folder_close(&d);
    folder_close(&v);
}

Test(host_pair, the_program_warns_on_stderr_and_goes_on)
{
    spawn_result r = SPAWN(NULL, "run", "--verifier", SPC_EMBEDDED_DRAFTER, "--drafter",
                           SPC_EMBEDDED_VERIFIER, "--quiet", "--to", "de", "Good morning.");

    cr_expect_eq(r.code, 0, "%s", r.err);
    cr_expect(strncmp(r.err, "spc: warning: the drafter ", 26) == 0, "%s", r.err);
    cr_expect_eq(count_lines(r.err), 1, "%s", r.err);
    cr_expect_eq(count_lines(r.out), 1, "%s", r.out);
    spawn_free(&r);
}
