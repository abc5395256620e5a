/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_gguf.c - files that the gguf package wrote (vectors/make_gguf.py): their blocks,
 * their tokenizers, the models they amount to; and files that are damaged. */
#include "weights/bundle_tokenizer.h"
#include "weights/config.h"
#include "weights/gguf_model.h"
#include "weights/quant.h"
#include "weights/tokenizer.h"

#include "damage.h"
#include "files.h"

#include <math.h>
#include <string.h>

#define FOLDER SPC_TEST_VECTORS "/gguf/"
#define TINY   SPC_TEST_VECTORS "/fuzz/gguf/tiny"

typedef struct {
    char *bytes;
    size_t count;
    spc_gguf *gguf;
} opened;

static opened open_gguf(const char *path)
{
    opened o;
    spc_error error;

    o.bytes = read_file(path, &o.count);
    cr_assert_eq(spc_gguf_read(path, o.bytes, o.count, &o.gguf, &error), SPC_OK, "%s",
                 error.message);
    return o;
}

static void close_gguf(opened *o)
{
    spc_gguf_close(o->gguf);
    free(o->bytes);
}

static const spc_tensor *tensor_of(const spc_gguf *g, const char *name)
{
    for (int32_t i = 0; i < g->tensor_count; i++) {
        if (strcmp(g->tensor[i].name, name) == 0) return &g->tensor[i];
    }
    return NULL;
}

/* ---- blocks -----------------------------------------------------------------------------------
 */

Test(weights_gguf, blocks_are_what_the_reference_takes_them_for)
{
    static const char *const names[] = {"Q8_0", "Q4_0", "Q4_1", "Q5_0",   "Q5_1",   "Q4_K",
                                        "Q5_K", "Q6_K", "Q3_K", "IQ4_NL", "IQ4_XS", "Q2_K"};
    opened o = open_gguf(FOLDER "blocks.gguf");

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[16];
        const spc_tensor *t = tensor_of(o.gguf, names[i]), *wanted;
        float found[3 * 512];

        (void)snprintf(name, sizeof name, "%s.f32", names[i]);
        wanted = tensor_of(o.gguf, name);
        cr_assert(t && wanted, "%s", names[i]);
        cr_assert_str_eq(spc_dtype_name(t->dtype), names[i]);
        cr_assert_eq(t->rank, 2);
        cr_assert_eq(t->shape[0] * t->shape[1], 3 * 512);
        spc_dequantise(t->dtype, t->data, 3 * 512, found);
        cr_expect_eq(memcmp(found, wanted->data, sizeof found), 0, "%s", names[i]);
    }
    close_gguf(&o);
}

/* ---- experts ----------------------------------------------------------------------------------
 */

Test(weights_gguf, a_table_of_experts_has_a_matrix_for_each)
{
    opened o = open_gguf(FOLDER "qwen3-moe.gguf");
    spc_tensor *table = (spc_tensor *)(uintptr_t)tensor_of(o.gguf, "blk.1.ffn_down_exps.weight");
    const spc_tensor kept = *table;

    for (int32_t i = 0; i < 3; i++) {
        spc_tensor_list list = {0};
        spc_error error;
        spc_status status;

        *table = kept;
        if (i == 1) table->rank = 2;
        if (i == 2) table->shape[0] = 1 << 20;
        status = spc_gguf_tensors("file", o.gguf, o.gguf, &list, &error);
        if (i == 0) {
            cr_expect_eq(status, SPC_OK, "%s", error.message);
            cr_expect_eq(list.count, 57);
        } else {
            cr_expect_eq(status, SPC_ESHAPE);
            cr_expect(strstr(error.message, "file: tensor 'blk.1.ffn_down_exps.weight': expected a "
                                            "matrix for each of 1 to 65536 experts"),
                      "%s", error.message);
        }
        spc_tensor_list_free(&list);
    }
    close_gguf(&o);
}

/* ---- tokenizers -------------------------------------------------------------------------------
 */

static spc_tokenizer *tokenizer_of(const opened *o, const char *name)
{
    char *text;
    size_t bytes;
    spc_tokenizer *t = NULL;
    spc_error error;

    cr_assert(spc_gguf_has_tokenizer(o->gguf));
    cr_assert_eq(spc_gguf_tokenizer(name, o->gguf, &text, &bytes, &error), SPC_OK, "%s",
                 error.message);
    cr_assert_eq(spc_tokenizer_open(name, text, bytes, &t, &error), SPC_OK, "%s", error.message);
    free(text);
    return t;
}

static void expect_rows(const spc_tokenizer *t, const json_t *rows, int32_t least, bool special)
{
    size_t i;
    json_t *row;

    cr_assert_gt((int32_t)json_array_size(rows), least);
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
    {
        const json_t *text = json_object_get(row, "text");
        const char *key = special ? "ids_special" : "ids";
        int32_t *ids, count, wanted_count;
        int32_t *wanted = read_ids(json_object_get(row, key), &wanted_count);
        char *back;
        spc_error error;

        cr_assert_eq(spc_tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                          special, &ids, &count, &error),
                     SPC_OK, "%s", error.message);
        cr_expect(count == wanted_count &&
                      (count == 0 || memcmp(ids, wanted, (size_t)count * sizeof *ids) == 0),
                  "'%s'", json_string_value(text));
        cr_assert_eq(spc_tokenizer_decode(t, wanted, wanted_count, false, &back, NULL, &error),
                     SPC_OK);
        if (!special) {
            cr_expect_str_eq(back, json_string_value(json_object_get(row, "decoded")));
        }
        free(back);
        free(ids);
        free(wanted);
    }
}

static void expect_golden(const char *name, const char *golden, int32_t least)
{
    char path[512];

    (void)snprintf(path, sizeof path, FOLDER "%s.tokenizer.gguf", name);

    opened o = open_gguf(path);
    spc_tokenizer *t = tokenizer_of(&o, name);
    json_t *rows = read_json(golden);

    expect_rows(t, rows, least, false);
    json_decref(rows);
    spc_tokenizer_close(t);
    close_gguf(&o);
}

Test(weights_gguf, byte_level_tokenizers_give_the_reference_ids)
{
    expect_golden("bytelevel-gpt2", SPC_TEST_VECTORS "/tokenizers/bytelevel-gpt2.golden.json", 30);
    expect_golden("bytelevel-llama3", SPC_TEST_VECTORS "/tokenizers/bytelevel-llama3.golden.json",
                  30);
    expect_golden("bytelevel-qwen2", SPC_TEST_VECTORS "/tokenizers/bytelevel-qwen2.golden.json",
                  30);
    expect_golden("bytelevel-gpt4o", SPC_TEST_VECTORS "/tokenizers/bytelevel-gpt4o.golden.json",
                  10);
}

/* Files of Phi-4 say so that it has no window, which others of its architecture have. */
Test(weights_gguf, a_window_of_0_is_none)
{
    static const char key[] = "phi3.attention.sliding_window";
    static const uint32_t none = 0;
    opened o = open_gguf(FOLDER "phi3-short.gguf");
    char *at = memmem(o.bytes, o.count, key, sizeof key - 1);
    spc_config c;
    spc_error error;

    cr_assert_not_null(at);
    for (int i = 0; i < 2; i++) {
        spc_blob file = {"m.gguf", o.bytes, o.count};
        spc_bundle *b;

        if (i == 1)
            memcpy(at + sizeof key - 1 + sizeof none, &none, sizeof none); /* behind the type */
        cr_assert_eq(spc_bundle_open_memory("m", &file, 1, &b, &error), SPC_OK, "%s",
                     error.message);
        cr_assert_eq(spc_config_read(b, &c, &error), SPC_OK, "%s", error.message);
        cr_expect_eq(c.window, i == 0 ? 24 : 0);
        cr_expect_eq(c.sliding[0], i == 0);
        spc_bundle_close(b);
    }
    close_gguf(&o);
}

/* The tokenizer of FILE.tokenizer.gguf, its splitting called `name` in place of `was`. */
static spc_tokenizer *renamed(const char *file, const char *was, const char *name)
{
    static const char key[] = "tokenizer.ggml.pre";
    char path[512];

    (void)snprintf(path, sizeof path, FOLDER "%s.tokenizer.gguf", file);

    opened o = open_gguf(path);
    char *at = memmem(o.bytes, o.count, key, sizeof key - 1);
    const size_t old = strlen(was), length = strlen(name);

    cr_assert_not_null(at);
    at += sizeof key - 1 + sizeof(uint32_t); /* behind the type: length, text */

    const size_t before = (size_t)(at - o.bytes) + sizeof(uint64_t);
    opened other = {.bytes = malloc(o.count + length), .count = o.count + length - old};
    spc_error error;

    cr_assert_eq(memcmp(at + sizeof(uint64_t), was, old), 0);
    memcpy(other.bytes, o.bytes, before);
    other.bytes[before - sizeof(uint64_t)] = (char)length;
    memcpy(other.bytes + before, name, length);
    memcpy(other.bytes + before + length, at + sizeof(uint64_t) + old, o.count - before - old);
    cr_assert_eq(spc_gguf_read("other", other.bytes, other.count, &other.gguf, &error), SPC_OK,
                 "%s", error.message);

    spc_tokenizer *t = tokenizer_of(&other, name);

    close_gguf(&other);
    close_gguf(&o);
    return t;
}

/* Models that DeepSeek taught split text as Qwen2 does, SmolLM3 and Phi-4 as Llama 3 does, Granite
 * as GPT-2 does (but for numbers, of which this vocabulary knows the digits), under names of their
 * own. */
Test(weights_gguf, a_name_may_stand_for_the_splitting_of_another)
{
    static const char *const names[][3] = {{"bytelevel-qwen2", "qwen2", "deepseek-r1-qwen"},
                                           {"bytelevel-gpt2", "gpt-2", "refact"},
                                           {"bytelevel-llama3", "llama-bpe", "smaug-bpe"},
                                           {"bytelevel-llama3", "llama-bpe", "dbrx"}};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        spc_tokenizer *t = renamed(names[i][0], names[i][1], names[i][2]);

        (void)snprintf(path, sizeof path, SPC_TEST_VECTORS "/tokenizers/%s.golden.json",
                       names[i][0]);

        json_t *rows = read_json(path);

        expect_rows(t, rows, 30, false);
        json_decref(rows);
        spc_tokenizer_close(t);
    }
}

Test(weights_gguf, scores_merge_as_sentencepiece_merges)
{
    expect_golden("spbpe-llama2", FOLDER "sentencepiece.json", 60);
}

Test(weights_gguf, what_a_tokenizer_adds_is_as_the_file_says)
{
    opened o = open_gguf(FOLDER "spbpe-llama2.tokenizer.gguf");
    spc_tokenizer *t = tokenizer_of(&o, "llama2");
    int32_t *ids, count;

    cr_assert_eq(spc_tokenizer_encode(t, "a", 1, true, &ids, &count, NULL), SPC_OK);
    cr_expect_eq(ids[0], spc_tokenizer_find(t, "<s>"));
    cr_expect(spc_tokenizer_is_special(t, ids[0]));
    free(ids);
    spc_tokenizer_close(t);
    close_gguf(&o);
}

/* ---- files that lie ---------------------------------------------------------------------------
 */

static void expect_one_line(spc_status status, const spc_error *error)
{
    cr_assert(status == SPC_EFORMAT || status == SPC_EMODEL || status == SPC_ESHAPE, "%d: %s",
              (int)status, error->message);
    cr_assert(error->message[0] && !strchr(error->message, '\n'), "'%s'", error->message);
}

/* Open a model of these bytes as far as it goes, and touch all of it.  Did it open whole? */
static bool try_it(void *user, const char *bytes, size_t count)
{
    spc_blob file = {.name = "m.gguf", .data = bytes, .bytes = count};
    spc_error error = {SPC_OK, ""};
    spc_bundle *b;
    spc_status status = spc_bundle_open_memory("damaged", &file, 1, &b, &error);
    const char *text;
    size_t length;

    (void)user;
    if (status == SPC_OK) {
        for (int32_t i = 0; i < spc_bundle_count(b); i++) {
            const spc_tensor *t = spc_bundle_tensor(b, i);
            uint64_t elements = t->bytes / spc_dtype_bytes(t->dtype) * spc_dtype_elements(t->dtype);
            float *out = malloc((size_t)elements * sizeof *out + 1);

            cr_assert_not_null(out);
            if (spc_dtype_is_float(t->dtype)) {
                spc_dequantise(t->dtype, t->data, (int64_t)elements, out);
            }
            free(out);
        }
        status = spc_bundle_file(b, "config.json", &text, &length, &error);
        if (status == SPC_OK && spc_bundle_has_file(b, "tokenizer.json")) {
            status = spc_bundle_file(b, "tokenizer.json", &text, &length, &error);
        }
        if (status == SPC_OK && spc_bundle_has_file(b, "tokenizer.json")) {
            spc_tokenizer *t;

            status = spc_bundle_tokenizer(b, &t, &error);
            spc_tokenizer_close(t);
        }
        spc_bundle_close(b);
    }
    if (status != SPC_OK) expect_one_line(status, &error);
    return status == SPC_OK;
}

Test(weights_gguf, every_truncation_is_refused)
{
    size_t count;
    char *bytes = read_file(TINY, &count);

    cr_assert(damage_try(try_it, NULL, bytes, count));
    damage_cut(try_it, NULL, bytes, count - 31); /* the padding behind the last tensor may miss */
    free(bytes);
}

Test(weights_gguf, every_damaged_byte_is_refused_or_harmless)
{
    size_t count, tables = 3000; /* and some of the weights */
    char *bytes = read_file(TINY, &count);

    cr_expect_gt(damage_bytes(try_it, NULL, bytes, count, tables), 0);
    free(bytes);
}

/* 2^30 rows of a query matrix and more, of no values each: there is nothing to put in order. */
Test(weights_gguf, rows_of_nothing_take_no_time, .timeout = 20)
{
    size_t count;
    char *bytes = read_file(SPC_TEST_VECTORS "/fuzz/gguf/rows-of-nothing", &count);

    (void)damage_try(try_it, NULL, bytes, count);
    free(bytes);
}

/* The file with `from` (terminated) replaced by bytes of the same length, wherever it stands. */
static char *patched(size_t *count, const char *from, const void *to)
{
    char *bytes = read_file(TINY, count);
    size_t length = strlen(from), found = 0;

    for (size_t i = 0; i + length <= *count; i++) {
        if (memcmp(bytes + i, from, length) != 0) continue;
        memcpy(bytes + i, to, length);
        found++;
    }
    cr_assert_gt(found, 0, "%s", from);
    return bytes;
}

static void expect_refused(const char *bytes, size_t count, spc_status wanted, const char *word)
{
    spc_blob file = {.name = "m.gguf", .data = bytes, .bytes = count};
    spc_error error = {SPC_OK, ""};
    spc_bundle *b = NULL;
    const char *text;
    size_t length;
    spc_status status = spc_bundle_open_memory("lying", &file, 1, &b, &error);

    if (status == SPC_OK) status = spc_bundle_file(b, "config.json", &text, &length, &error);
    if (status == SPC_OK) status = spc_bundle_file(b, "tokenizer.json", &text, &length, &error);
    cr_expect_eq(status, wanted, "%s: %d %s", word, (int)status, error.message);
    cr_expect(strstr(error.message, word), "'%s' in: %s", word, error.message);
    spc_bundle_close(b);
}

static void expect_patch_refused(const char *from, const char *to, spc_status wanted,
                                 const char *word)
{
    size_t count;
    char *bytes = patched(&count, from, to);

    expect_refused(bytes, count, wanted, word);
    free(bytes);
}

Test(weights_gguf, what_is_wrong_is_named)
{
    size_t count;
    char *bytes;

    expect_patch_refused("GGUF", "GGML", SPC_EFORMAT, "expected a GGUF file");
    expect_patch_refused("llama.block_count", "llama.block_bount", SPC_EMODEL, "block_count");
    expect_patch_refused("llama.embedding_length", "llama.embedding_lengtx", SPC_EMODEL,
                         "embedding_length");
    expect_patch_refused("blk.0.ffn_up", "blk.0.ffn_ux", SPC_EMODEL, "ffn_ux");
    expect_patch_refused("blk.0.ffn_up", "blk.0.attn_q", SPC_EFORMAT, "twice");
    expect_patch_refused("<unk>", "<u\0k>", SPC_EFORMAT, "zero byte");
    expect_patch_refused("tokenizer.ggml.scores", "tokenizer.ggml.sxores", SPC_EFORMAT, "scores");

    bytes = read_file(TINY, &count);
    bytes[4] = 9;
    expect_refused(bytes, count, SPC_EMODEL, "version 9");
    free(bytes);

    bytes = read_file(TINY, &count);
    for (size_t i = 0; i + 23 < count; i++) { /* the type stands behind name, rank and two sizes */
        if (memcmp(bytes + i, "blk.0.ffn_up.weight", 19) == 0) bytes[i + 19 + 4 + 16] = 16;
    }
    expect_refused(bytes, count, SPC_EMODEL, "IQ2_XXS");
    free(bytes);
}

/* Keys of Gemma 3 that files may lack, with values that a file without them does not mean. */
Test(weights_gguf, what_gemma_differs_in_is_read)
{
    static const float base = 8192, local_base = 4096;
    static const uint32_t pattern = 3;
    static const struct {
        const char *key;
        const void *value;
    } given[] = {{"gemma3.rope.freq_base", &base},
                 {"gemma3.rope.freq_base_swa", &local_base},
                 {"gemma3.attention.sliding_window_pattern", &pattern}};
    spc_blob file = {.name = "m.gguf"};
    char *bytes = read_file(FOLDER "gemma3.gguf", &file.bytes);
    const char *text;
    size_t length;
    spc_bundle *b;
    spc_error error;

    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        char *at = memmem(bytes, file.bytes, given[i].key, strlen(given[i].key));

        cr_assert_not_null(at, "%s", given[i].key);
        memcpy(at + strlen(given[i].key) + sizeof(uint32_t), given[i].value, 4); /* behind a type */
    }
    file.data = bytes;
    cr_assert_eq(spc_bundle_open_memory("gemma", &file, 1, &b, &error), SPC_OK, "%s",
                 error.message);
    cr_assert_eq(spc_bundle_file(b, "config.json", &text, &length, &error), SPC_OK, "%s",
                 error.message);

    json_t *config = json_loadb(text, length, 0, NULL);
    double full = 0, local = 0;
    int found = 0;

    cr_assert_eq(json_unpack(config, "{s:{s:{s:F}, s:{s:F}}, s:i}", "rope_parameters",
                             "full_attention", "rope_theta", &full, "sliding_attention",
                             "rope_theta", &local, "sliding_window_pattern", &found),
                 0);
    cr_expect_eq(full, (double)base);
    cr_expect_eq(local, (double)local_base);
    cr_expect_eq(found, (int)pattern);
    json_decref(config);
    spc_bundle_close(b);
    free(bytes);
}

/* Ministral 3: how yarn stretches, and how queries grow with it; without it they would not. */
Test(weights_gguf, what_ministral_differs_in_is_read)
{
    static const char key[] = "mistral3.rope.scaling.type";
    opened o = open_gguf(FOLDER "ministral3.gguf");
    char *at = memmem(o.bytes, o.count, key, sizeof key - 1);
    spc_blob file = {"m.gguf", o.bytes, o.count};
    spc_bundle *b;
    spc_config c;
    spc_error error;

    cr_assert_not_null(at);
    for (int i = 0; i < 2; i++) {
        if (i == 1) memcpy(at + sizeof key - 1 + 12, "none", 4); /* behind type and length */
        cr_assert_eq(spc_bundle_open_memory("m", &file, 1, &b, &error), SPC_OK, "%s",
                     error.message);
        cr_assert_eq(spc_config_read(b, &c, &error), i == 0 ? SPC_OK : SPC_EMODEL, "%d", i);
        spc_bundle_close(b);
    }
    cr_expect(strstr(error.message, "llama_4_scaling_beta: expected 0"), "%s", error.message);
    cr_expect_str_eq(c.architecture, "Ministral3ForCausalLM");
    cr_expect_eq(c.rope.kind, SPC_ROPE_YARN);
    cr_expect_eq(c.rope.query_growth, 0.5);
    cr_expect_eq(c.rope.original_context, 8);
    cr_expect(c.rope.beta_fast == 4 && c.rope.beta_slow == 1);
    cr_expect_float_eq(c.rope.attention, 1.0941800, 1e-6, "(1 + 0.1 ln 8) / (1 + 0.05 ln 8)");
    close_gguf(&o);
}

/* A copy of a file in which the bytes `was` are others. */
static spc_status read_patched(const opened *o, const char *was, const char *is, size_t count,
                               spc_config *c, spc_error *error)
{
    char *bytes = malloc(o->count), *at = memmem(o->bytes, o->count, was, count);
    spc_blob file = {"m.gguf", bytes, o->count};
    spc_bundle *b;
    spc_status status;

    cr_assert_not_null(at, "%s", was);
    memcpy(bytes, o->bytes, o->count);
    memcpy(bytes + (at - o->bytes), is, count);
    cr_assert_eq(spc_bundle_open_memory("m", &file, 1, &b, error), SPC_OK, "%s", error->message);
    status = spc_config_read(b, c, error);
    spc_bundle_close(b);
    free(bytes);
    return status;
}

/* Granite's multipliers; but for the logits' they may be absent, which is as in other models. */
Test(weights_gguf, what_granite_differs_in_is_read)
{
    static const char turns[] = "granite.rope.scaling.finetuned\x07\0\0\0\1";
    static const char rests[] = "granite.rope.scaling.finetuned\x07\0\0\0\0";
    static const char *const keys[][2] = {{"granite.attention.scale", "granite.attention.scalx"},
                                          {"granite.embedding_scale", "granite.embedding_scalx"},
                                          {"granite.residual_scale", "granite.residual_scalx"}};
    opened o = open_gguf(FOLDER "granite.gguf");
    spc_config c;
    spc_error error;

    cr_assert_eq(read_patched(&o, turns, turns, sizeof turns - 1, &c, &error), SPC_OK);
    cr_expect_str_eq(c.architecture, "GraniteForCausalLM");
    cr_expect_float_eq(c.attention_scale, 0.4, 1e-7);
    cr_expect_eq(c.embedding_scale, 6);
    cr_expect_float_eq(c.residual_scale, 0.22, 1e-7);
    cr_expect_eq(c.head_scale, 1.0 / 3);
    cr_expect(c.qkv_bias && c.mlp_bias && c.tied);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(read_patched(&o, keys[i][0], keys[i][1], strlen(keys[i][0]), &c, &error),
                     SPC_OK, "%s", error.message);
        cr_expect_eq(c.attention_scale == 0.25, i == 0, "of heads of 16");
        cr_expect_eq(c.embedding_scale == 1, i == 1);
        cr_expect_eq(c.residual_scale == 1, i == 2);
    }
    cr_expect_eq(read_patched(&o, "granite.logit_scale", "granite.logit_scalx", 19, &c, &error),
                 SPC_EMODEL);
    cr_expect(strstr(error.message, "granite.logit_scale: expected"), "%s", error.message);
    cr_expect_eq(read_patched(&o, turns, rests, sizeof turns - 1, &c, &error), SPC_EMODEL);
    cr_expect(strstr(error.message, "finetuned: expected true"), "%s", error.message);
    close_gguf(&o);
}

Test(weights_gguf, an_unknown_architecture_or_splitting_is_named)
{
    expect_patch_refused("general.architecture\x08", "general.architecturx\x08", SPC_EMODEL,
                         "architecture");
    opened o = open_gguf(FOLDER "bytelevel-gpt2.tokenizer.gguf");
    char *text;
    size_t bytes;
    spc_error error;

    for (size_t i = 0; i + 5 < o.count; i++) {
        if (memcmp(o.bytes + i, "gpt-2", 5) == 0) o.bytes[i] = 'x';
    }
    cr_expect_eq(spc_gguf_tokenizer("here", o.gguf, &text, &bytes, &error), SPC_EMODEL);
    cr_expect(strstr(error.message, "'xpt-2'") && strstr(error.message, "llama-bpe"), "%s",
              error.message);
    close_gguf(&o);
}
