/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_tokenizer.c - the tokenizer.json that a GGUF file's metadata amounts to.
 *
 * The file names its way of splitting text (tokenizer.ggml.pre) where tokenizer.json spells it out.
 * A name that is not known is refused: a tokenizer that is nearly right is wrong. */
#include "gguf_model.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* tokenizer.ggml.token_type */
enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };

/* U+2581, which SentencePiece writes for a space. */
#define MARK "\xe2\x96\x81"

static const char gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                            " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char tekken[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* Of o200k; what llama.cpp calls gpt-4o. */
static const char gpt4o[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* How a name splits text: at each digit first, then by a pattern. */
typedef struct {
    const char *name, *pattern;
    bool digits, nfc, ignore_merges, begins; /* begins: with a BOS unless the file says otherwise */
} splitting;

static const splitting splittings[] = {{"gpt-2", gpt2, false, false, false, false},
                                       {"smollm", gpt2, true, false, false, false},
                                       {"starcoder", gpt2, true, false, false, false},
                                       {"refact", gpt2, true, false, false, false},
                                       {"llama-bpe", llama3, false, false, true, true},
                                       {"smaug-bpe", llama3, false, false, false, false},
                                       {"dbrx", llama3, false, false, false, false},
                                       {"gpt-4o", gpt4o, false, false, false, false},
                                       {"qwen2", qwen2, false, true, false, false},
                                       {"deepseek-r1-qwen", qwen2, false, true, false, false},
                                       {"tekken", tekken, false, false, true, true}};

/* tokenizer.ggml.model "llama": SentencePiece, whose scores say what merges first. */
static const splitting sentencepiece = {"", NULL, false, false, false, true};

#define KNOWN                                                                                     \
    "llama; gpt2 with pre gpt-2, smollm, starcoder, refact, llama-bpe, smaug-bpe, dbrx, gpt-4o, " \
    "qwen2, deepseek-r1-qwen, tekken"

typedef struct {
    const char *where;
    const spc_gguf *g;
    spc_error *err;
} maker;

static spc_status no_memory(const maker *m)
{
    return spc_error_set(m->err, SPC_ENOMEM, "%s: no memory for the tokenizer", m->where);
}

static spc_status wrong(const maker *m, const char *what)
{
    return spc_error_set(m->err, SPC_EFORMAT, "%s: tokenizer.ggml.%s", m->where, what);
}

static bool is_text(spc_gguf_string s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.text, text, strlen(text)) == 0;
}

/* ---- the vocabulary ---------------------------------------------------------------------------
 */

/* Tokens of the model's own go to `vocab`, those that are looked for in the text to `added`. */
static spc_status split_tokens(const maker *m, json_t *vocab, json_t *added)
{
    const spc_gguf_value *tokens = spc_gguf_find(m->g, "tokenizer.ggml.tokens");
    const spc_gguf_value *types = spc_gguf_find(m->g, "tokenizer.ggml.token_type");
    uint64_t at = 0;

    if (!tokens || tokens->type != SPC_GGUF_ARRAY || tokens->of != SPC_GGUF_STRING) {
        return wrong(m, "tokens: expected an array of strings");
    }
    if (types && types->count != tokens->count) {
        return wrong(m, "token_type: expected one number for each token");
    }
    for (uint64_t i = 0; i < tokens->count; i++) {
        spc_gguf_string token;
        int64_t type = NORMAL;
        bool failed;

        (void)spc_gguf_text_next(tokens, &at, &token);
        if (memchr(token.text, 0, (size_t)token.bytes)) {
            return wrong(m, "tokens: expected text without a zero byte");
        }
        if (types && !spc_gguf_integer_at(types, i, &type)) {
            return wrong(m, "token_type: expected whole numbers");
        }
        if (type == UNUSED) continue;

        json_t *content = json_stringn(token.text, (size_t)token.bytes);

        if (!content) return wrong(m, "tokens: expected UTF-8");
        if (type == CONTROL || type == USER_DEFINED) {
            failed =
                json_array_append_new(added, json_pack("{s:I, s:o, s:b, s:b}", "id", (json_int_t)i,
                                                       "content", content, "special",
                                                       type == CONTROL, "normalized", 0)) != 0;
        } else {
            bool twice = json_object_getn(vocab, token.text, (size_t)token.bytes) != NULL;

            json_decref(content);
            if (twice) {
                return spc_error_set(m->err, SPC_EFORMAT,
                                     "%s: tokenizer.ggml.tokens: '%.*s' occurs twice", m->where,
                                     token.bytes < 80 ? (int)token.bytes : 80, token.text);
            }
            failed = json_object_setn_new_nocheck(vocab, token.text, (size_t)token.bytes,
                                                  json_integer((json_int_t)i)) != 0;
        }
        if (failed) return no_memory(m);
    }
    return SPC_OK;
}

static spc_status copy_merges(const maker *m, json_t *merges)
{
    const spc_gguf_value *list = spc_gguf_find(m->g, "tokenizer.ggml.merges");
    uint64_t at = 0;

    if (!list || list->type != SPC_GGUF_ARRAY || list->of != SPC_GGUF_STRING) {
        return wrong(m, "merges: expected an array of strings");
    }
    for (uint64_t i = 0; i < list->count; i++) {
        spc_gguf_string text;
        json_t *merge;

        (void)spc_gguf_text_next(list, &at, &text);
        if (memchr(text.text, 0, (size_t)text.bytes)) {
            return wrong(m, "merges: expected text without a zero byte");
        }
        merge = json_stringn(text.text, (size_t)text.bytes);
        if (!merge) return wrong(m, "merges: expected UTF-8");
        if (json_array_append_new(merges, merge) != 0) return no_memory(m);
    }
    return SPC_OK;
}

/* ---- splitting, and what is put around --------------------------------------------------------
 */

static spc_status find_splitting(const maker *m, const splitting **out)
{
    spc_gguf_string model = {"", 0}, pre = {"", 0};

    (void)spc_gguf_text(spc_gguf_find(m->g, "tokenizer.ggml.model"), &model);
    (void)spc_gguf_text(spc_gguf_find(m->g, "tokenizer.ggml.pre"), &pre);
    *out = &sentencepiece;
    if (is_text(model, "llama")) return SPC_OK;
    for (size_t i = 0; is_text(model, "gpt2") && i < sizeof splittings / sizeof *splittings; i++) {
        if (!is_text(pre, splittings[i].name)) continue;
        *out = &splittings[i];
        return SPC_OK;
    }
    return spc_error_set(m->err, SPC_EMODEL,
                         "%s: tokenizer.ggml.model '%.*s' with tokenizer.ggml.pre '%.*s' is not "
                         "supported; supported: " KNOWN,
                         m->where, model.bytes < 40 ? (int)model.bytes : 40, model.text,
                         pre.bytes < 40 ? (int)pre.bytes : 40, pre.text);
}

static json_t *pretokenizer(const splitting *s)
{
    const char *split = "{s:s, s:{s:s}, s:s, s:b}";
    json_t *list = json_array();
    int failed = list == NULL;

    if (s->digits) {
        failed |=
            json_array_append_new(list, json_pack(split, "type", "Split", "pattern", "Regex",
                                                  "\\p{N}", "behavior", "Isolated", "invert", 0));
    }
    failed |=
        json_array_append_new(list, json_pack(split, "type", "Split", "pattern", "Regex",
                                              s->pattern, "behavior", "Isolated", "invert", 0));
    failed |= json_array_append_new(list, json_pack("{s:s, s:b, s:b}", "type", "ByteLevel",
                                                    "add_prefix_space", 0, "use_regex", 0));
    if (!failed) return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
    json_decref(list);
    return NULL;
}

/* Ids that `special` puts around a text.  *out stays NULL where there are none. */
static spc_status template_of(const maker *m, const splitting *s, json_t **out)
{
    bool begin = s->begins, end = false;
    int64_t bos = -1, eos = -1;
    json_t *single = json_array(), *tokens = json_object();
    int failed = !single || !tokens;

    (void)spc_gguf_bool(spc_gguf_find(m->g, "tokenizer.ggml.add_bos_token"), &begin);
    (void)spc_gguf_bool(spc_gguf_find(m->g, "tokenizer.ggml.add_eos_token"), &end);
    (void)spc_gguf_integer(spc_gguf_find(m->g, "tokenizer.ggml.bos_token_id"), &bos);
    (void)spc_gguf_integer(spc_gguf_find(m->g, "tokenizer.ggml.eos_token_id"), &eos);
    begin = begin && bos >= 0;
    end = end && eos >= 0;
    if (begin) {
        failed |=
            json_array_append_new(single, json_pack("{s:{s:s}}", "SpecialToken", "id", "bos"));
        failed |= json_object_set_new(tokens, "bos", json_pack("{s:[I]}", "ids", (json_int_t)bos));
    }
    failed |= json_array_append_new(single, json_pack("{s:{s:s}}", "Sequence", "id", "A"));
    if (end) {
        failed |=
            json_array_append_new(single, json_pack("{s:{s:s}}", "SpecialToken", "id", "eos"));
        failed |= json_object_set_new(tokens, "eos", json_pack("{s:[I]}", "ids", (json_int_t)eos));
    }
    if (!failed && (begin || end)) {
        *out = json_pack("{s:s, s:O, s:O}", "type", "TemplateProcessing", "single", single,
                         "special_tokens", tokens);
        failed |= !*out;
    }
    json_decref(single);
    json_decref(tokens);
    return failed ? no_memory(m) : SPC_OK;
}

/* ---- models -----------------------------------------------------------------------------------
 */

/* Byte-level BPE. */
static spc_status byte_level(const maker *m, const splitting *s, json_t *vocab, json_t *root)
{
    json_t *merges = json_array();
    spc_status status = merges ? copy_merges(m, merges) : no_memory(m);
    json_t *model = json_pack("{s:s, s:b, s:O, s:o}", "type", "BPE", "ignore_merges",
                              s->ignore_merges, "vocab", vocab, "merges", merges);
    int failed = json_object_set_new(root, "model", model) |
                 json_object_set_new(root, "pre_tokenizer", pretokenizer(s)) |
                 json_object_set_new(root, "decoder", json_pack("{s:s}", "type", "ByteLevel"));

    if (s->nfc)
        failed |= json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", "NFC"));
    if (status != SPC_OK) return status;
    return failed ? no_memory(m) : SPC_OK;
}

static spc_status copy_scores(const maker *m, json_t *scores)
{
    const spc_gguf_value *tokens = spc_gguf_find(m->g, "tokenizer.ggml.tokens");
    const spc_gguf_value *list = spc_gguf_find(m->g, "tokenizer.ggml.scores");
    double score;

    if (!list || list->count != tokens->count) {
        return wrong(m, "scores: expected one number for each token");
    }
    for (uint64_t i = 0; i < list->count; i++) {
        if (!spc_gguf_number_at(list, i, &score) || !isfinite(score)) {
            return wrong(m, "scores: expected finite numbers");
        }
        if (json_array_append_new(scores, json_real(score)) != 0) return no_memory(m);
    }
    return SPC_OK;
}

/* The token for characters that have none, where the vocabulary holds it. */
static json_t *unknown_of(const maker *m, const json_t *vocab)
{
    int64_t id = 0;
    const char *content;
    json_t *value;

    (void)spc_gguf_integer(spc_gguf_find(m->g, "tokenizer.ggml.unknown_token_id"), &id);
    json_object_foreach((json_t *)(uintptr_t)vocab, content, value)
    {
        if (json_integer_value(value) == id) return json_string(content);
    }
    return json_null();
}

/* A step from spaces to marks, or back. */
static json_t *replace(const char *from, const char *to)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content",
                     to);
}

/* SentencePiece: a mark for each space and, unless the file says otherwise, one in front. */
static int mark_spaces(const maker *m, json_t *root)
{
    bool prefix = true;
    json_t *to = json_array(), *back = json_array();
    int failed = 0;

    (void)spc_gguf_bool(spc_gguf_find(m->g, "tokenizer.ggml.add_space_prefix"), &prefix);
    if (prefix) {
        failed |=
            json_array_append_new(to, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", MARK));
    }
    failed |= json_array_append_new(to, replace(" ", MARK));
    failed |= json_array_append_new(back, replace(MARK, " "));
    failed |= json_array_append_new(back, json_pack("{s:s}", "type", "ByteFallback"));
    failed |= json_array_append_new(back, json_pack("{s:s}", "type", "Fuse"));
    if (prefix) {
        failed |= json_array_append_new(back, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip",
                                                        "content", " ", "start", 1, "stop", 0));
    }
    failed |= json_object_set_new(root, "normalizer",
                                  json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", to)) |
              json_object_set_new(root, "decoder",
                                  json_pack("{s:s, s:o}", "type", "Sequence", "decoders", back));
    return failed;
}

static spc_status by_score(const maker *m, json_t *vocab, json_t *root)
{
    json_t *scores = json_array();
    spc_status status = scores ? copy_scores(m, scores) : no_memory(m);
    json_t *model =
        json_pack("{s:s, s:b, s:b, s:o, s:O, s:o}", "type", "BPE", "byte_fallback", 1, "fuse_unk",
                  1, "unk_token", unknown_of(m, vocab), "vocab", vocab, "spc_scores", scores);
    int failed = json_object_set_new(root, "model", model) | mark_spaces(m, root);

    if (status != SPC_OK) return status;
    return failed ? no_memory(m) : SPC_OK;
}

/* ---- the text ---------------------------------------------------------------------------------
 */

static spc_status make(const maker *m, const splitting *s, json_t *vocab, json_t *added,
                       json_t *root)
{
    json_t *post = NULL;
    spc_status status = split_tokens(m, vocab, added);

    if (status == SPC_OK) status = template_of(m, s, &post);
    if (status == SPC_OK && (json_object_set(root, "added_tokens", added) != 0 ||
                             (post && json_object_set(root, "post_processor", post) != 0))) {
        status = no_memory(m);
    }
    json_decref(post);
    if (status != SPC_OK) return status;
    return s->pattern ? byte_level(m, s, vocab, root) : by_score(m, vocab, root);
}

bool spc_gguf_has_tokenizer(const spc_gguf *head)
{
    spc_gguf_string model;

    return spc_gguf_text(spc_gguf_find(head, "tokenizer.ggml.model"), &model) &&
           !is_text(model, "none") && !is_text(model, "no_vocab");
}

bool spc_gguf_chat_template(const spc_gguf *head, spc_gguf_string *out)
{
    return spc_gguf_text(spc_gguf_find(head, "tokenizer.chat_template"), out);
}

spc_status spc_gguf_tokenizer_tree(const char *where, const spc_gguf *head, json_t **out,
                                   spc_error *err)
{
    maker m = {where, head, err};
    const splitting *s = NULL;
    spc_status status = find_splitting(&m, &s);
    json_t *vocab, *added, *root;

    *out = NULL;
    if (status != SPC_OK) return status;
    vocab = json_object();
    added = json_array();
    root = json_object();
    status = vocab && added && root ? make(&m, s, vocab, added, root) : no_memory(&m);
    json_decref(vocab);
    json_decref(added);
    if (status == SPC_OK) {
        *out = root;
    } else {
        json_decref(root);
    }
    return status;
}

spc_status spc_gguf_tokenizer(const char *where, const spc_gguf *head, char **text, size_t *bytes,
                              spc_error *err)
{
    maker m = {where, head, err};
    json_t *root;
    spc_status status = spc_gguf_tokenizer_tree(where, head, &root, err);

    *text = NULL;
    *bytes = 0;
    if (status != SPC_OK) return status;
    *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!*text) return no_memory(&m);
    *bytes = strlen(*text);
    return SPC_OK;
}
