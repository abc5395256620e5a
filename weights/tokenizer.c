/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.c - text to ids and back.
 *
 * Encoding: cut out the added tokens, bring the rest into its normal form, cut out the added tokens
 * that are looked for there, split into words, turn each word into its bytes' tokens, merge. */
#include "tokenizer_parts.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

void spc_tokenizer_close(spc_tokenizer *t)
{
    if (!t) return;
    for (int32_t i = 0; i < t->size; i++) free(t->piece[i].content);
    for (int32_t i = 0; i < t->added_count; i++) free(t->added[i].owned);
    for (int32_t i = 0; i < t->split_count; i++) spc_pattern_close(t->split[i].pattern);
    spc_bpe_free(&t->bpe);
    free(t->content_bucket);
    free(t->added);
    free(t->piece);
    free(t);
}

int32_t spc_tokenizer_size(const spc_tokenizer *t)
{
    return t->size;
}

const char *spc_tokenizer_piece(const spc_tokenizer *t, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= t->size || !t->piece[id].content) return NULL;
    *bytes = t->piece[id].length;
    return t->piece[id].bytes;
}

bool spc_tokenizer_is_special(const spc_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->size && t->piece[id].special;
}

int32_t spc_tokenizer_find(const spc_tokenizer *t, const char *content)
{
    return spc_tokenizer_lookup(t, content, strlen(content));
}

/* ---- ids under construction -------------------------------------------------------------------
 */

typedef struct {
    const spc_tokenizer *t;
    int32_t *id;
    size_t count, capacity;
    bool marked; /* special tokens begin at marks alone */
    const size_t *mark;
    int32_t mark_count;
    spc_error *err;
} output;

static spc_status no_memory(const output *o)
{
    return spc_error_set(o->err, SPC_ENOMEM, "no memory to tokenise a text");
}

static bool reserve(output *o, size_t more)
{
    size_t capacity = o->capacity ? o->capacity : 64;
    int32_t *grown;

    if (more > INT32_MAX - o->count) return false;
    while (capacity < o->count + more) capacity *= 2;
    if (capacity == o->capacity) return true;
    grown = realloc(o->id, capacity * sizeof *grown);
    if (!grown) return false;
    o->id = grown;
    o->capacity = capacity;
    return true;
}

static spc_status put(output *o, int32_t id)
{
    if (!reserve(o, 1)) return no_memory(o);
    o->id[o->count++] = id;
    return SPC_OK;
}

/* ---- words ------------------------------------------------------------------------------------
 */

/* The token that is this whole word, or -1. */
static int32_t whole_word(const spc_tokenizer *t, const char *word, size_t bytes)
{
    char content[512];
    size_t length = 0;

    if (2 * bytes > sizeof content) return -1; /* no vocabulary has words this long */
    for (size_t i = 0; i < bytes; i++) {
        const char *one = t->piece[t->byte_id[(unsigned char)word[i]]].content;
        size_t n = strlen(one);

        memcpy(content + length, one, n);
        length += n;
    }
    return spc_tokenizer_lookup(t, content, length);
}

static spc_status encode_word(output *o, const char *word, size_t bytes)
{
    int32_t count = (int32_t)bytes, id = o->t->ignore_merges ? whole_word(o->t, word, bytes) : -1;

    if (id >= 0) return put(o, id);
    if (!reserve(o, bytes)) return no_memory(o);
    for (size_t i = 0; i < bytes; i++) {
        o->id[o->count + i] = o->t->byte_id[(unsigned char)word[i]];
    }
    if (!spc_bpe_merge(&o->t->bpe, o->id + o->count, &count)) return no_memory(o);
    o->count += (size_t)count;
    return SPC_OK;
}

/* Split a text step by step and encode the words. */
static spc_status encode_words(output *o, const char *text, size_t bytes)
{
    spc_spans now = {NULL, 0, 0}, next = {NULL, 0, 0};
    spc_status status = spc_spans_add(&now, 0, bytes) ? SPC_OK : no_memory(o);

    for (int32_t s = 0; s < o->t->split_count && status == SPC_OK; s++) {
        const spc_split *split = &o->t->split[s];

        next.count = 0;
        for (size_t i = 0; i < now.count && status == SPC_OK; i++) {
            status = spc_pattern_split(split->pattern, text, now.span[i], split->matches,
                                       split->between, &next, o->err);
        }
        spc_spans swap = now;
        now = next;
        next = swap;
    }
    for (size_t i = 0; i < now.count && status == SPC_OK; i++) {
        status = encode_word(o, text + now.span[i].at, now.span[i].bytes);
    }
    spc_spans_free(&now);
    spc_spans_free(&next);
    return status;
}

/* A text without added tokens, in its normal form. */
static spc_status encode_plain(output *o, const char *text, size_t bytes)
{
    char *prefixed;
    spc_status status;

    if (bytes == 0) return SPC_OK;
    if (!o->t->prefix_space || text[0] == ' ') return encode_words(o, text, bytes);
    prefixed = malloc(bytes + 1);
    if (!prefixed) return no_memory(o);
    prefixed[0] = ' ';
    memcpy(prefixed + 1, text, bytes);
    status = encode_words(o, prefixed, bytes + 1);
    free(prefixed);
    return status;
}

/* ---- added tokens -----------------------------------------------------------------------------
 */

/* Does a word go on across this place? */
static bool word_before(const char *text, size_t at)
{
    size_t start = at;
    bool whole;

    if (at == 0) return false;
    do start--;
    while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80);
    size_t n = spc_utf8_character(text + start, at - start, &whole, NULL);
    return spc_is_word(spc_utf8_decode(text + start, n));
}

static bool word_behind(const char *text, size_t at, size_t bytes)
{
    bool whole;

    if (at == bytes) return false;
    size_t n = spc_utf8_character(text + at, bytes - at, &whole, NULL);
    return spc_is_word(spc_utf8_decode(text + at, n));
}

static size_t skip_spaces(const char *text, size_t at, size_t bytes)
{
    bool whole;

    while (at < bytes) {
        size_t n = spc_utf8_character(text + at, bytes - at, &whole, NULL);

        if (!spc_is_space(spc_utf8_decode(text + at, n))) break;
        at += n;
    }
    return at;
}

static size_t drop_spaces(const char *text, size_t least, size_t at)
{
    while (at > least) {
        size_t start = at;
        bool whole;

        do start--;
        while (start > least && ((unsigned char)text[start] & 0xC0) == 0x80);
        size_t n = spc_utf8_character(text + start, at - start, &whole, NULL);
        if (!spc_is_space(spc_utf8_decode(text + start, n))) break;
        at = start;
    }
    return at;
}

static int by_offset(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return x < y ? -1 : x > y;
}

/* May a special token begin here?  Marks are places of the text before normalisation. */
static bool may_be_special(const output *o, bool normalized, size_t at)
{
    if (!o->marked) return true;
    if (normalized || o->mark_count == 0) return false;
    return bsearch(&at, o->mark, (size_t)o->mark_count, sizeof at, by_offset) != NULL;
}

/* The longest added token of this kind that stands at a place, or NULL. */
static const spc_added *added_at(const output *o, bool normalized, const char *text, size_t at,
                                 size_t bytes)
{
    const spc_tokenizer *t = o->t;

    for (int32_t i = 0; i < t->added_count; i++) {
        const spc_added *a = &t->added[i];

        if (a->normalized != normalized || a->length > bytes - at || a->length == 0) continue;
        if (text[at] != a->content[0] || memcmp(text + at, a->content, a->length) != 0) continue;
        if (a->single_word && (word_before(text, at) || word_behind(text, at + a->length, bytes))) {
            continue;
        }
        if (t->piece[a->id].special && !may_be_special(o, normalized, at)) continue;
        return a;
    }
    return NULL;
}

static spc_status encode_text(output *o, const char *text, size_t bytes, bool normalized);

/* What lies between added tokens: normalise and look for the normalised ones, or encode. */
static spc_status encode_rest(output *o, const char *text, size_t bytes, bool normalized)
{
    const char *now = text;
    char *owned = NULL;
    spc_status status = SPC_OK;

    if (bytes == 0) return SPC_OK;
    if (normalized) return encode_plain(o, text, bytes);
    for (int32_t i = 0; i < o->t->form_count && status == SPC_OK; i++) {
        char *out;
        size_t length;

        status = spc_normalise(o->t->form[i], now, bytes, &out, &length, o->err);
        if (status != SPC_OK) break;
        free(owned);
        now = owned = out;
        bytes = length;
    }
    if (status == SPC_OK) status = encode_text(o, now, bytes, true);
    free(owned);
    return status;
}

static spc_status encode_text(output *o, const char *text, size_t bytes, bool normalized)
{
    size_t done = 0, at = 0;
    spc_status status = SPC_OK;

    while (at < bytes && status == SPC_OK) {
        const spc_added *a = added_at(o, normalized, text, at, bytes);

        if (!a) {
            at++;
            continue;
        }
        size_t from = a->lstrip ? drop_spaces(text, done, at) : at;

        status = encode_rest(o, text + done, from - done, normalized);
        if (status == SPC_OK) status = put(o, a->id);
        at += a->length;
        if (a->rstrip) at = skip_spaces(text, at, bytes);
        done = at;
    }
    if (status == SPC_OK) status = encode_rest(o, text + done, bytes - done, normalized);
    return status;
}

static spc_status encode(output *o, const char *text, size_t bytes, bool special, int32_t **ids,
                         int32_t *count)
{
    const spc_tokenizer *t = o->t;
    size_t invalid = spc_utf8_invalid(text, bytes);
    spc_status status = SPC_OK;

    *ids = NULL;
    *count = 0;
    if (invalid < bytes) {
        return spc_error_set(o->err, SPC_EINPUT,
                             "text: expected UTF-8, found byte 0x%02x at offset %zu",
                             (unsigned)(unsigned char)text[invalid], invalid);
    }
    for (int32_t i = 0; special && i < t->before_count && status == SPC_OK; i++) {
        status = put(o, t->before[i]);
    }
    if (status == SPC_OK) status = encode_text(o, text, bytes, false);
    for (int32_t i = 0; special && i < t->behind_count && status == SPC_OK; i++) {
        status = put(o, t->behind[i]);
    }
    if (status != SPC_OK || o->count == 0) {
        free(o->id);
        return status;
    }
    *ids = o->id;
    *count = (int32_t)o->count;
    return SPC_OK;
}

spc_status spc_tokenizer_encode(const spc_tokenizer *t, const char *text, size_t bytes,
                                bool special, int32_t **ids, int32_t *count, spc_error *err)
{
    output o = {.t = t, .err = err};

    return encode(&o, text, bytes, special, ids, count);
}

spc_status spc_tokenizer_encode_marked(const spc_tokenizer *t, const char *text, size_t bytes,
                                       const size_t *mark, int32_t mark_count, int32_t **ids,
                                       int32_t *count, spc_error *err)
{
    output o = {.t = t, .marked = true, .mark = mark, .mark_count = mark_count, .err = err};

    return encode(&o, text, bytes, false, ids, count);
}

/* ---- and back ---------------------------------------------------------------------------------
 */

spc_status spc_tokenizer_decode(const spc_tokenizer *t, const int32_t *ids, int32_t count,
                                bool skip_special, char **text, size_t *bytes, spc_error *err)
{
    size_t total = 0, length = 0, piece_bytes;
    char *raw;

    *text = NULL;
    if (bytes) *bytes = 0;
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= t->size) {
            return spc_error_set(err, SPC_EINPUT, "id %d: expected 0 to %d, found %d", (int)i,
                                 (int)t->size - 1, (int)ids[i]);
        }
        total += t->piece[ids[i]].length;
    }
    raw = malloc(total + 1);
    total = 0;
    for (int32_t i = 0; raw && i < count; i++) {
        const char *piece = spc_tokenizer_piece(t, ids[i], &piece_bytes);

        if (!piece || (skip_special && t->piece[ids[i]].special)) continue;
        memcpy(raw + total, piece, piece_bytes);
        total += piece_bytes;
    }
    if (raw) *text = malloc(spc_utf8_sanitise(raw, total, NULL) + 1);
    if (*text) length = spc_utf8_sanitise(raw, total, *text);
    free(raw);
    if (bytes) *bytes = length;
    return *text ? SPC_OK
                 : spc_error_set(err, SPC_ENOMEM, "no memory to decode %d ids", (int)count);
}

static bool same_piece(const spc_piece *a, const spc_piece *b)
{
    if (!a->content || !b->content) return a->content == b->content;
    return a->special == b->special && strcmp(a->content, b->content) == 0;
}

int32_t spc_tokenizer_difference(const spc_tokenizer *a, const spc_tokenizer *b)
{
    int32_t size = a->size < b->size ? a->size : b->size;
    int32_t merges = a->bpe.count < b->bpe.count ? a->bpe.count : b->bpe.count;

    for (int32_t id = 0; id < size; id++) {
        if (!same_piece(&a->piece[id], &b->piece[id])) return id;
    }
    for (int32_t i = 0; i < merges; i++) {
        const spc_merge *x = &a->bpe.merge[i], *y = &b->bpe.merge[i];

        if (x->left != y->left || x->right != y->right) {
            return x->result < y->result ? x->result : y->result;
        }
    }
    if (a->bpe.count > merges) return a->bpe.merge[merges].result;
    if (b->bpe.count > merges) return b->bpe.merge[merges].result;
    return -1;
}
