/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_model_read.c - "model" of a tokenizer.json: BPE over bytes or characters, Unigram. */
#include "tokenizer_read.h"

#include <math.h>

typedef spc_tokenizer_reader reader;

/* ---- vocabularies -----------------------------------------------------------------------------
 */

static spc_status set_piece(const reader *r, int32_t id, const char *content, size_t length)
{
    return spc_tokenizer_set(r->t, id, content, length) ? SPC_OK : spc_tokenizer_no_memory(r);
}

static spc_status read_vocab(const reader *r, const json_t *vocab)
{
    const char *content;
    size_t length;
    json_t *value;
    json_int_t largest = -1;

    if (!json_is_object(vocab)) return spc_tokenizer_wrong(r, "model.vocab: expected an object");
    json_object_foreach((json_t *)(uintptr_t)vocab, content, value)
    {
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) >= SPC_TOKENIZER_IDS_MAX) {
            return spc_tokenizer_wrong(r, "model.vocab: expected ids from 0 to 1048575");
        }
        if (json_integer_value(value) > largest) largest = json_integer_value(value);
    }

    spc_status status =
        spc_tokenizer_reserve(r->t, (int32_t)largest + 1) ? SPC_OK : spc_tokenizer_no_memory(r);

    r->t->vocab_base = (int32_t)largest + 1;
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, content, length, value)
    {
        int32_t id = (int32_t)json_integer_value(value);

        if (status == SPC_OK && r->t->piece[id].content) {
            status = spc_tokenizer_wrong(r, "model.vocab: two tokens share one id");
        }
        if (status == SPC_OK) status = set_piece(r, id, content, length);
        if (status != SPC_OK) break;
    }
    return status;
}

/* [[content, score], ...]; ids are the places. */
static spc_status read_scores(const reader *r, const json_t *vocab)
{
    size_t count = json_array_size(vocab);
    spc_tokenizer *t = r->t;
    spc_status status = SPC_OK;

    if (!json_is_array(vocab) || count == 0 || count > SPC_TOKENIZER_IDS_MAX) {
        return spc_tokenizer_wrong(r, "model.vocab: expected an array of tokens with scores");
    }
    t->score = calloc(count, sizeof *t->score);
    if (!t->score || !spc_tokenizer_reserve(t, (int32_t)count)) return spc_tokenizer_no_memory(r);
    t->vocab_base = (int32_t)count;
    for (size_t i = 0; i < count && status == SPC_OK; i++) {
        const json_t *item = json_array_get(vocab, i), *content = json_array_get(item, 0);
        const json_t *score = json_array_get(item, 1);

        if (!json_is_string(content) || !json_is_number(score)) {
            return spc_error_set(
                r->err, SPC_EFORMAT,
                "%s/tokenizer.json: model.vocab[%zu]: expected a token and a score", r->where, i);
        }
        t->score[i] = json_number_value(score);
        status = set_piece(r, (int32_t)i, json_string_value(content), json_string_length(content));
    }
    return status;
}

/* ---- merges -----------------------------------------------------------------------------------
 */

/* "left right", or ["left", "right"]. */
static bool split_merge(const json_t *item, const char **left, size_t *left_length,
                        const char **right, size_t *right_length)
{
    const char *text = json_string_value(item), *space = text ? strchr(text, ' ') : NULL;

    if (space) {
        *left = text;
        *left_length = (size_t)(space - text);
        *right = space + 1;
        *right_length = strlen(space + 1);
        return true;
    }
    *left = json_string_value(json_array_get(item, 0));
    *right = json_string_value(json_array_get(item, 1));
    if (!json_is_array(item) || json_array_size(item) != 2 || !*left || !*right) return false;
    *left_length = strlen(*left);
    *right_length = strlen(*right);
    return true;
}

static spc_status read_merge(const reader *r, const json_t *item, size_t i, spc_merge *out)
{
    const char *left, *right;
    char joined[1024];
    size_t a, b;

    if (!split_merge(item, &left, &a, &right, &b) || a + b > sizeof joined) {
        return spc_error_set(r->err, SPC_EFORMAT,
                             "%s/tokenizer.json: model.merges[%zu]: expected two tokens", r->where,
                             i);
    }
    memcpy(joined, left, a);
    memcpy(joined + a, right, b);
    out->left = spc_tokenizer_lookup(r->t, left, a);
    out->right = spc_tokenizer_lookup(r->t, right, b);
    out->result = spc_tokenizer_lookup(r->t, joined, a + b);
    if (out->left >= 0 && out->right >= 0 && out->result >= 0) return SPC_OK;
    return spc_error_set(r->err, SPC_EFORMAT,
                         "%s/tokenizer.json: model.merges[%zu] ('%.40s' '%.40s'): a token of it is "
                         "not in the vocabulary",
                         r->where, i, left, right);
}

static spc_status read_merges(const reader *r, const json_t *merges)
{
    size_t count = json_array_size(merges);
    spc_merge *merge;
    spc_status status = SPC_OK;

    if (!json_is_array(merges) || count > SPC_TOKENIZER_IDS_MAX)
        return spc_tokenizer_wrong(r, "model.merges: expected an array");
    merge = malloc((count > 0 ? count : 1) * sizeof *merge);
    if (!merge) return spc_tokenizer_no_memory(r);
    for (size_t i = 0; i < count && status == SPC_OK; i++) {
        status = read_merge(r, json_array_get(merges, i), i, &merge[i]);
    }
    if (status != SPC_OK) {
        free(merge);
        return status;
    }
    return spc_bpe_init(&r->t->bpe, merge, (int32_t)count) ? SPC_OK : spc_tokenizer_no_memory(r);
}

/* Scores in place of merges, as SentencePiece has them (our own key: GGUF files bring them). */
static spc_status read_merge_scores(const reader *r, const json_t *scores)
{
    int32_t count = r->t->vocab_base;
    double *score = malloc(((size_t)count + 1) * sizeof *score);
    spc_status status = SPC_OK;

    if (!score) return spc_tokenizer_no_memory(r);
    if (!json_is_array(scores) || json_array_size(scores) < (size_t)count) {
        status = spc_tokenizer_wrong(r, "model.spc_scores: expected one number for each token");
    }
    for (int32_t i = 0; i < count && status == SPC_OK; i++) {
        const json_t *one = json_array_get(scores, (size_t)i);

        score[i] = json_number_value(one);
        if (!json_is_number(one) || !isfinite(score[i])) {
            status = spc_tokenizer_wrong(r, "model.spc_scores: expected finite numbers");
        }
    }
    if (status == SPC_OK && !spc_tokenizer_merge_by_score(r->t, score)) {
        status = spc_tokenizer_no_memory(r);
    }
    free(score);
    return status;
}

/* ---- models -----------------------------------------------------------------------------------
 */

/* Options that change what a BPE does and are not computed. */
static spc_status refuse_options(const reader *r, const json_t *model, bool byte_level)
{
    static const char *const names[] = {"continuing_subword_prefix", "end_of_word_suffix",
                                        "dropout", "unk_token", "byte_fallback"};
    size_t refused = byte_level ? 5 : 3;

    for (size_t i = 0; i < refused; i++) {
        const json_t *value = json_object_get(model, names[i]);

        if (!spc_tokenizer_is_set(value)) continue;
        if (json_is_string(value) && !*json_string_value(value)) continue;
        return spc_tokenizer_unsupported(r, "model option", names[i],
                                         byte_level ? "byte-level BPE without it"
                                                    : "BPE without it");
    }
    return SPC_OK;
}

/* What stands for a character that has no token. */
static spc_status read_unknown(const reader *r, const json_t *model)
{
    const char *token = json_string_value(json_object_get(model, "unk_token"));

    r->t->fuse_unknown = json_is_true(json_object_get(model, "fuse_unk"));
    r->t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    if (!token) return SPC_OK;
    r->t->unknown = spc_tokenizer_lookup(r->t, token, strlen(token));
    if (r->t->unknown >= 0) return SPC_OK;
    return spc_tokenizer_wrong(r, "model.unk_token is not in model.vocab");
}

static spc_status read_bpe(const reader *r, const json_t *model, bool byte_level)
{
    spc_status status = refuse_options(r, model, byte_level);

    r->t->model = byte_level ? SPC_MODEL_BYTES : SPC_MODEL_BPE;
    r->t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (status == SPC_OK) status = read_vocab(r, json_object_get(model, "vocab"));
    if (status == SPC_OK && !spc_tokenizer_index(r->t)) status = spc_tokenizer_no_memory(r);
    if (status != SPC_OK) return status;
    spc_tokenizer_find_bytes(r->t);
    for (int32_t byte = ' '; byte_level && byte <= '~'; byte++) {
        if (r->t->byte_id[byte] >= 0) continue;
        return spc_error_set(
            r->err, SPC_EMODEL,
            "%s/tokenizer.json: not a byte-level vocabulary: byte 0x%02x has no token", r->where,
            (unsigned)byte);
    }
    if (!byte_level) status = read_unknown(r, model);
    if (status != SPC_OK) return status;
    if (json_object_get(model, "spc_scores")) {
        return read_merge_scores(r, json_object_get(model, "spc_scores"));
    }
    return read_merges(r, json_object_get(model, "merges"));
}

static spc_status read_unigram(const reader *r, const json_t *model)
{
    const json_t *unknown = json_object_get(model, "unk_id");
    spc_status status;

    r->t->model = SPC_MODEL_UNIGRAM;
    r->t->fuse_unknown = true;
    r->t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    status = read_scores(r, json_object_get(model, "vocab"));
    if (status == SPC_OK && !spc_tokenizer_index(r->t)) status = spc_tokenizer_no_memory(r);
    if (status != SPC_OK) return status;
    spc_tokenizer_find_bytes(r->t);
    if (!spc_tokenizer_is_set(unknown)) return SPC_OK;
    if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 ||
        json_integer_value(unknown) >= r->t->vocab_base) {
        return spc_tokenizer_wrong(r, "model.unk_id: expected an id of model.vocab");
    }
    r->t->unknown = (int32_t)json_integer_value(unknown);
    return SPC_OK;
}

spc_status spc_tokenizer_read_model(const reader *r, bool byte_level)
{
    const json_t *model = json_object_get(r->root, "model");
    const char *type = json_string_value(json_object_get(model, "type"));

    r->t->unknown = -1;
    if (!json_is_object(model)) return spc_tokenizer_wrong(r, "expected an object 'model'");
    if (!type && json_object_get(model, "merges")) type = "BPE";
    if (!type && json_is_array(json_object_get(model, "vocab"))) type = "Unigram";
    if (type && strcmp(type, "BPE") == 0) return read_bpe(r, model, byte_level);
    if (type && strcmp(type, "Unigram") == 0) return read_unigram(r, model);
    return spc_tokenizer_unsupported(r, "model", type, "BPE, Unigram");
}
