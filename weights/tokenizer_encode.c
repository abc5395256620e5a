/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_encode.c - text to ids: cut out the added tokens, bring the rest into its normal form,
 * cut out the added tokens that are looked for there, split into words, turn each word into its
 * bytes' tokens, merge. */
#include "tokenizer_parts.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

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

/* An id that a text's spelling may give; -1 in place of a special one where those begin at marks
 * alone: vocabularies list them too, and models find them there. */
static int32_t plain_id(const output *o, int32_t id)
{
    return o->marked && id >= 0 && o->t->piece[id].special ? -1 : id;
}

static int32_t lookup(const output *o, const char *text, size_t bytes)
{
    return plain_id(o, spc_tokenizer_lookup_own(o->t, text, bytes));
}

/* The token that is this whole word, or -1. */
static int32_t whole_word(const output *o, const char *word, size_t bytes)
{
    const spc_tokenizer *t = o->t;
    char content[512];
    size_t length = 0;

    if (t->model != SPC_MODEL_BYTES) return lookup(o, word, bytes);
    if (2 * bytes > sizeof content) return -1; /* no vocabulary has words this long */
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = t->byte_id[(unsigned char)word[i]];
        const spc_piece *one = id >= 0 ? &t->piece[id] : NULL;

        if (!one) return -1; /* no token has that byte */
        memcpy(content + length, one->content, one->content_length);
        length += one->content_length;
    }
    return plain_id(o, spc_tokenizer_lookup(t, content, length));
}

/* The bytes of characters without token, where all of them have one. */
static bool put_bytes(output *o, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (o->t->byte_id[(unsigned char)text[i]] < 0) return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        o->id[o->count++] = o->t->byte_id[(unsigned char)text[i]];
    }
    return true;
}

/* Characters as tokens, from o->id[o->count] on; an unknown one goes as bytes, as the unknown token
 * (neighbours as one where they are fused), or, where there is none, not at all. */
static void put_characters(output *o, const char *word, size_t bytes)
{
    const spc_tokenizer *t = o->t;
    bool whole, unknown = false;

    for (size_t i = 0, n; i < bytes; i += n) {
        int32_t id;

        n = spc_utf8_character(word + i, bytes - i, &whole, NULL);
        id = lookup(o, word + i, n);
        if (id >= 0) {
            o->id[o->count++] = id;
            unknown = false;
            continue;
        }
        if (t->byte_fallback && put_bytes(o, word + i, n)) {
            unknown = false;
            continue;
        }
        if (t->unknown >= 0 && !(unknown && t->fuse_unknown)) o->id[o->count++] = t->unknown;
        unknown = true;
    }
}

/* What merges begin with: bytes or characters.  A byte without token (SmolLM2 has none for most
 * controls) is left out, as the reference does. */
static void put_smallest(output *o, const char *word, size_t bytes)
{
    if (o->t->model != SPC_MODEL_BYTES) {
        put_characters(o, word, bytes);
        return;
    }
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = o->t->byte_id[(unsigned char)word[i]];

        if (id >= 0) o->id[o->count++] = id;
    }
}

/* Have merges made a special token?  (A byte's may be called special: it is no merge.) */
static bool merged_special(const output *o, size_t begin)
{
    for (size_t i = begin; i < o->count; i++) {
        const spc_piece *p = &o->t->piece[o->id[i]];

        if (p->special && p->length > 1 && o->id[i] != o->t->unknown) return true;
    }
    return false;
}

static spc_status encode_bpe(output *o, const char *word, size_t bytes)
{
    size_t begin = o->count;
    int32_t count;

    put_smallest(o, word, bytes);
    count = (int32_t)(o->count - begin);
    if (!spc_bpe_merge(&o->t->bpe, o->id + begin, &count)) return no_memory(o);
    o->count = begin + (size_t)count;
    if (!o->marked || !merged_special(o, begin)) return SPC_OK;
    o->count = begin; /* then the word is written without merges: longer, but its text */
    put_smallest(o, word, bytes);
    return SPC_OK;
}

static spc_status encode_unigram(output *o, const char *word, size_t bytes)
{
    const spc_tokenizer *t = o->t;
    spc_unigram_piece *piece = malloc((bytes + 1) * sizeof *piece);
    int64_t count = piece ? spc_unigram_cut(&t->unigram, word, bytes, o->marked, piece) : -1;
    spc_status status = count < 0 ? no_memory(o) : SPC_OK;

    for (int64_t i = 0; i < count && status == SPC_OK; i++) {
        const char *text = word + piece[i].at;
        int32_t id = piece[i].id;

        if (id < 0) id = lookup(o, text, piece[i].bytes);
        if (id < 0 && t->byte_fallback && put_bytes(o, text, piece[i].bytes)) continue;
        if (id < 0) id = t->unknown;
        if (id < 0) {
            status = spc_error_set(o->err, SPC_EINPUT,
                                   "text: a character has no token, and the tokenizer none for "
                                   "unknown ones (unk_id)");
        } else {
            o->id[o->count++] = id;
        }
    }
    free(piece);
    return status;
}

static spc_status encode_word(output *o, const char *word, size_t bytes)
{
    int32_t id = o->t->ignore_merges ? whole_word(o, word, bytes) : -1;

    if (id >= 0) return put(o, id);
    if (!reserve(o, bytes)) return no_memory(o); /* a token has a byte at least */
    return o->t->model == SPC_MODEL_UNIGRAM ? encode_unigram(o, word, bytes)
                                            : encode_bpe(o, word, bytes);
}

/* ---- cutting into words -----------------------------------------------------------------------
 */

/* Words are spans of a text; a step that changes them brings a text of its own. */
typedef struct {
    const char *text;
    char *owned; /* the text, or NULL */
    spc_spans spans;
} words;

static void words_free(words *w)
{
    free(w->owned);
    spc_spans_free(&w->spans);
}

/* A word, each space as the mark, with a mark before it where it begins with none. */
static bool put_marked(const spc_split *split, const char *word, size_t bytes, bool first,
                       spc_buffer_bytes *out)
{
    size_t length = strlen(split->mark);
    bool begins = bytes > 0 &&
                  (word[0] == ' ' || (bytes >= length && memcmp(word, split->mark, length) == 0));
    bool good = true;

    if (!begins &&
        (split->prepend == SPC_PREPEND_ALWAYS || (split->prepend == SPC_PREPEND_FIRST && first))) {
        good = spc_bytes_put(out, split->mark, length);
    }
    for (size_t i = 0; i < bytes && good; i++) {
        good = word[i] == ' ' ? spc_bytes_put(out, split->mark, length)
                              : spc_bytes_put(out, word + i, 1);
    }
    return good;
}

/* Spans of out[from, to), cut before each mark. */
static bool cut_at_marks(const spc_split *split, const char *text, size_t from, size_t to,
                         spc_spans *spans)
{
    size_t length = strlen(split->mark), done = from;

    for (size_t i = from; split->cuts && i + length <= to; i++) {
        if (i == from || memcmp(text + i, split->mark, length) != 0) continue;
        if (!spc_spans_add(spans, done, i - done)) return false;
        done = i;
    }
    return spc_spans_add(spans, done, to - done);
}

/* A step that changes words: a space before them, or marks for spaces. */
static bool change_words(const spc_split *split, const words *now, bool first, words *next)
{
    spc_buffer_bytes out = {NULL, 0, 0};
    bool good = true;

    for (size_t i = 0; i < now->spans.count && good; i++) {
        const char *word = now->text + now->spans.span[i].at;
        size_t bytes = now->spans.span[i].bytes, from = out.count;

        if (split->kind == SPC_SPLIT_SPACE) {
            good = (word[0] == ' ' || spc_bytes_put(&out, " ", 1)) &&
                   spc_bytes_put(&out, word, bytes) &&
                   spc_spans_add(&next->spans, from, out.count - from);
        } else {
            good = put_marked(split, word, bytes, first && i == 0, &out) &&
                   cut_at_marks(split, out.data, from, out.count, &next->spans);
        }
    }
    next->text = next->owned = out.data;
    return good;
}

static spc_status cut_words(output *o, const spc_split *split, const words *now, bool first,
                            words *next)
{
    spc_status status = SPC_OK;

    if (split->kind != SPC_SPLIT_PATTERN) {
        return change_words(split, now, first, next) ? SPC_OK : no_memory(o);
    }
    next->text = now->text;
    for (size_t i = 0; i < now->spans.count && status == SPC_OK; i++) {
        status = spc_pattern_cut(split->pattern, now->text, now->spans.span[i], split->cut,
                                 split->invert, &next->spans, o->err);
    }
    return status;
}

/* A text without added tokens, in its normal form.  first: nothing of the input is before it. */
static spc_status encode_plain(output *o, const char *text, size_t bytes, bool first)
{
    words now = {text, NULL, {NULL, 0, 0}};
    spc_status status = spc_spans_add(&now.spans, 0, bytes) ? SPC_OK : no_memory(o);

    for (int32_t s = 0; s < o->t->split_count && status == SPC_OK; s++) {
        words next = {NULL, NULL, {NULL, 0, 0}};

        status = cut_words(o, &o->t->split[s], &now, first, &next);
        if (next.text == now.text && !next.owned) { /* the text goes on */
            next.owned = now.owned;
            now.owned = NULL;
        }
        words_free(&now);
        now = next;
    }
    for (size_t i = 0; i < now.spans.count && status == SPC_OK; i++) {
        status = encode_word(o, now.text + now.spans.span[i].at, now.spans.span[i].bytes);
    }
    words_free(&now);
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

/* May this added token be cut out at a place where its content stands? */
static bool suits(const output *o, const spc_added *a, bool normalized, const char *text, size_t at,
                  size_t bytes)
{
    if (a->normalized != normalized) return false;
    if (a->single_word && (word_before(text, at) || word_behind(text, at + a->length, bytes))) {
        return false;
    }
    return !o->t->piece[a->id].special || may_be_special(o, normalized, at);
}

/* Of tokens [low, high) in their order, alike up to their byte `k`, the first one whose byte there
 * is not below `byte`. */
static int32_t first_not_below(const spc_tokenizer *t, int32_t low, int32_t high, size_t k,
                               int32_t byte)
{
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;

        if ((unsigned char)t->added_order[middle]->content[k] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest added token of this kind that stands at a place, or NULL. */
static const spc_added *added_at(const output *o, bool normalized, const char *text, size_t at,
                                 size_t bytes)
{
    const spc_tokenizer *t = o->t;
    const unsigned char *here = (const unsigned char *)text + at;
    const spc_added *longest = NULL;
    int32_t low = t->added_begin[here[0]], high = t->added_begin[here[0] + 1];

    for (size_t k = 1; low < high; k++) { /* those left agree with the text up to here */
        for (; low < high && t->added_order[low]->length == k; low++) {
            const spc_added *a = t->added_order[low];

            if (longest && longest->length == k) continue;
            if (suits(o, a, normalized, text, at, bytes)) longest = a;
        }
        if (k == bytes - at) break;
        low = first_not_below(t, low, high, k, here[k]);
        high = first_not_below(t, low, high, k, here[k] + 1);
    }
    return longest;
}

static spc_status encode_text(output *o, const char *text, size_t bytes, bool normalized,
                              bool first);

/* What lies between added tokens: normalise and look for the normalised ones, or encode. */
static spc_status encode_rest(output *o, const char *text, size_t bytes, bool normalized,
                              bool first)
{
    const char *now = text;
    char *owned = NULL;
    spc_status status = SPC_OK;

    if (bytes == 0) return SPC_OK;
    if (normalized) return encode_plain(o, text, bytes, first);
    for (int32_t i = 0; i < o->t->step_count && status == SPC_OK; i++) {
        char *out;
        size_t length;

        status = spc_step_run(&o->t->step[i], now, bytes, &out, &length, o->err);
        if (status != SPC_OK) break;
        free(owned);
        now = owned = out;
        bytes = length;
    }
    if (status == SPC_OK) status = encode_text(o, now, bytes, true, first);
    free(owned);
    return status;
}

static spc_status encode_text(output *o, const char *text, size_t bytes, bool normalized,
                              bool first)
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

        status = encode_rest(o, text + done, from - done, normalized, first && done == 0);
        if (status == SPC_OK) status = put(o, a->id);
        at += a->length;
        if (a->rstrip) at = skip_spaces(text, at, bytes);
        done = at;
    }
    if (status != SPC_OK) return status;
    return encode_rest(o, text + done, bytes - done, normalized, first && done == 0);
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
    if (status == SPC_OK) status = encode_text(o, text, bytes, false, true);
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

spc_status spc_tokenizer_encode_plain(const spc_tokenizer *t, const char *text, size_t bytes,
                                      bool special, int32_t **ids, int32_t *count, spc_error *err)
{
    output o = {.t = t, .marked = true, .err = err}; /* and no mark */

    return encode(&o, text, bytes, special, ids, count);
}
