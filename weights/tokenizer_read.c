/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_read.c - from the text of a tokenizer.json to the parts of a tokenizer.
 *
 * What is not understood is refused by name: a tokenizer that is nearly right is wrong. */
#include "tokenizer_parts.h"

#include "utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { IDS_MAX = 1 << 20 };

static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct {
    const char *where;
    const json_t *root;
    spc_tokenizer *t;
    spc_error *err;
} reader;

static spc_status no_memory(const reader *r)
{
    return spc_error_set(r->err, SPC_ENOMEM, "%s: no memory for the tokenizer", r->where);
}

static spc_status wrong(const reader *r, const char *what)
{
    return spc_error_set(r->err, SPC_EFORMAT, "%s/tokenizer.json: %s", r->where, what);
}

static spc_status unsupported(const reader *r, const char *part, const char *found,
                              const char *known)
{
    return spc_error_set(r->err, SPC_EMODEL,
                         "%s/tokenizer.json: %s '%.40s' is not supported; supported: %s", r->where,
                         part, found ? found : "?", known);
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));

    return type ? type : "?";
}

static bool is_set(const json_t *value)
{
    return value && !json_is_null(value) && !json_is_false(value);
}

/* ---- pieces -----------------------------------------------------------------------------------
 */

int32_t spc_byte_of_character(uint32_t code)
{
    int32_t next = 0;

    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) ||
        (code >= 174 && code <= 255)) {
        return (int32_t)code;
    }
    for (int32_t byte = 0; byte < 256; byte++) {
        if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174) continue;
        if (code == 256u + (uint32_t)next) return byte;
        next++;
    }
    return -1;
}

/* Bytes of a token's content; the content itself where a character stands for no byte. */
static size_t bytes_of_content(const char *content, size_t length, char *out)
{
    size_t count = 0;
    bool whole;

    for (size_t i = 0; i < length;) {
        size_t n = spc_utf8_character(content + i, length - i, &whole, NULL);
        int32_t byte = whole ? spc_byte_of_character(spc_utf8_decode(content + i, n)) : -1;

        if (byte < 0) {
            memcpy(out, content, length);
            return length;
        }
        out[count++] = (char)byte;
        i += n;
    }
    return count;
}

static spc_status set_piece(const reader *r, int32_t id, const char *content, size_t length)
{
    spc_piece *p = &r->t->piece[id];
    char *copy = malloc(2 * length + 2);

    if (!copy) return no_memory(r);
    free(p->content);
    memcpy(copy, content, length);
    copy[length] = '\0';
    p->content = copy;
    p->bytes = copy + length + 1;
    p->length = bytes_of_content(content, length, p->bytes);
    return SPC_OK;
}

static spc_status reserve_ids(const reader *r, int32_t size)
{
    spc_piece *grown;

    if (size <= r->t->size) return SPC_OK;
    grown = realloc(r->t->piece, (size_t)size * sizeof *grown);
    if (!grown) return no_memory(r);
    memset(grown + r->t->size, 0, (size_t)(size - r->t->size) * sizeof *grown);
    r->t->piece = grown;
    r->t->size = size;
    return SPC_OK;
}

static spc_status read_vocab(const reader *r, const json_t *vocab)
{
    const char *content;
    size_t length;
    json_t *value;
    json_int_t largest = -1;

    if (!json_is_object(vocab)) return wrong(r, "model.vocab: expected an object");
    json_object_foreach((json_t *)(uintptr_t)vocab, content, value)
    {
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) >= IDS_MAX) {
            return wrong(r, "model.vocab: expected ids from 0 to 1048575");
        }
        if (json_integer_value(value) > largest) largest = json_integer_value(value);
    }

    spc_status status = reserve_ids(r, (int32_t)largest + 1);

    r->t->vocab_base = (int32_t)largest + 1;
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, content, length, value)
    {
        int32_t id = (int32_t)json_integer_value(value);

        if (status == SPC_OK && r->t->piece[id].content) {
            status = wrong(r, "model.vocab: two tokens share one id");
        }
        if (status == SPC_OK) status = set_piece(r, id, content, length);
        if (status != SPC_OK) break;
    }
    return status;
}

static uint32_t hash_content(const char *content, size_t length)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)content[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

int32_t spc_tokenizer_lookup(const spc_tokenizer *t, const char *content, size_t length)
{
    uint32_t at;

    if (t->content_buckets == 0) return -1;
    at = hash_content(content, length) & (t->content_buckets - 1);
    while (t->content_bucket[at] >= 0) {
        const spc_piece *p = &t->piece[t->content_bucket[at]];

        if (strlen(p->content) == length && memcmp(p->content, content, length) == 0) {
            return t->content_bucket[at];
        }
        at = (at + 1) & (t->content_buckets - 1);
    }
    return -1;
}

/* Index the contents.  Built again once the added tokens are known. */
static spc_status index_contents(const reader *r)
{
    spc_tokenizer *t = r->t;

    free(t->content_bucket);
    t->content_buckets = 64;
    while (t->content_buckets < (uint32_t)t->size * 2u) t->content_buckets *= 2;
    t->content_bucket = malloc(t->content_buckets * sizeof *t->content_bucket);
    if (!t->content_bucket) {
        t->content_buckets = 0;
        return no_memory(r);
    }
    for (uint32_t i = 0; i < t->content_buckets; i++) t->content_bucket[i] = -1;
    for (int32_t id = 0; id < t->size; id++) {
        uint32_t at;

        if (!t->piece[id].content) continue;
        at = hash_content(t->piece[id].content, strlen(t->piece[id].content)) &
             (t->content_buckets - 1);
        while (t->content_bucket[at] >= 0) at = (at + 1) & (t->content_buckets - 1);
        t->content_bucket[at] = id;
    }
    return SPC_OK;
}

/* ---- the model --------------------------------------------------------------------------------
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

    if (!json_is_array(merges) || count > IDS_MAX)
        return wrong(r, "model.merges: expected an array");
    merge = malloc((count > 0 ? count : 1) * sizeof *merge);
    if (!merge) return no_memory(r);
    for (size_t i = 0; i < count && status == SPC_OK; i++) {
        status = read_merge(r, json_array_get(merges, i), i, &merge[i]);
    }
    if (status != SPC_OK) {
        free(merge);
        return status;
    }
    return spc_bpe_init(&r->t->bpe, merge, (int32_t)count) ? SPC_OK : no_memory(r);
}

/* Every byte must be a token, or some text could not be written. */
static spc_status find_bytes(const reader *r)
{
    spc_tokenizer *t = r->t;

    for (int32_t byte = 0; byte < 256; byte++) t->byte_id[byte] = -1;
    for (int32_t id = 0; id < t->vocab_base; id++) {
        const spc_piece *p = &t->piece[id];
        size_t length = p->content ? strlen(p->content) : 0;
        bool whole;

        if (length == 0 || p->length != 1) continue;
        if (spc_utf8_character(p->content, length, &whole, NULL) != length) continue;
        t->byte_id[(unsigned char)p->bytes[0]] = id;
    }
    for (int32_t byte = 0; byte < 256; byte++) {
        if (t->byte_id[byte] >= 0) continue;
        return spc_error_set(
            r->err, SPC_EMODEL,
            "%s/tokenizer.json: not a byte-level vocabulary: byte 0x%02x has no token", r->where,
            (unsigned)byte);
    }
    return SPC_OK;
}

static spc_status read_model(const reader *r)
{
    static const char *const refused[] = {"unk_token", "continuing_subword_prefix",
                                          "end_of_word_suffix", "byte_fallback", "dropout"};
    const json_t *model = json_object_get(r->root, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    spc_status status;

    if (!json_is_object(model)) return wrong(r, "expected an object 'model'");
    if (type ? strcmp(type, "BPE") != 0 : !json_object_get(model, "merges")) {
        return unsupported(r, "model", type, "BPE (byte-level)");
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *value = json_object_get(model, refused[i]);

        if (!is_set(value) || (json_is_string(value) && !*json_string_value(value))) continue;
        return unsupported(r, "model option", refused[i], "byte-level BPE without it");
    }
    r->t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    status = read_vocab(r, json_object_get(model, "vocab"));
    if (status == SPC_OK) status = index_contents(r);
    if (status == SPC_OK) status = find_bytes(r);
    if (status == SPC_OK) status = read_merges(r, json_object_get(model, "merges"));
    return status;
}

/* ---- added tokens -----------------------------------------------------------------------------
 */

static int longest_first(const void *a, const void *b)
{
    const spc_added *x = a, *y = b;

    if (x->length != y->length) return x->length > y->length ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* An added token may give an id of the vocabulary another content, but not that of a byte (whose
 * content is one character); behind the vocabulary no two may share an id. */
static bool is_taken(const spc_tokenizer *t, int32_t id, const char *content)
{
    bool taken = id >= t->vocab_base;

    if (id >= t->size || !t->piece[id].content) return false;
    if (strcmp(t->piece[id].content, content) == 0) return false;
    for (int32_t byte = 0; byte < 256 && !taken; byte++) taken = t->byte_id[byte] == id;
    return taken;
}

static spc_status read_added_one(const reader *r, const json_t *item)
{
    const json_t *id = json_object_get(item, "id"), *content = json_object_get(item, "content");
    size_t length = json_string_length(content);
    spc_added *a = &r->t->added[r->t->added_count];
    spc_status status;

    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= IDS_MAX ||
        length == 0) {
        return wrong(r, "added_tokens: expected objects with 'id' and a non-empty 'content'");
    }
    memset(a, 0, sizeof *a);
    a->id = (int32_t)json_integer_value(id);
    if (is_taken(r->t, a->id, json_string_value(content))) {
        return wrong(r, "added_tokens: two tokens share one id");
    }
    a->length = length;
    a->single_word = json_is_true(json_object_get(item, "single_word"));
    a->lstrip = json_is_true(json_object_get(item, "lstrip"));
    a->rstrip = json_is_true(json_object_get(item, "rstrip"));
    a->normalized = json_is_true(json_object_get(item, "normalized"));
    status = reserve_ids(r, a->id + 1);
    if (status == SPC_OK) status = set_piece(r, a->id, json_string_value(content), length);
    if (status != SPC_OK) return status;
    r->t->piece[a->id].special = json_is_true(json_object_get(item, "special"));
    r->t->added_count++;
    return SPC_OK;
}

/* What a normalised token looks like in normalised text. */
static spc_status normalise_added(const reader *r, spc_added *a)
{
    spc_status status = SPC_OK;

    a->content = r->t->piece[a->id].content; /* the last one's, where two renamed one id */
    a->length = strlen(a->content);
    for (int32_t i = 0; a->normalized && i < r->t->form_count && status == SPC_OK; i++) {
        char *out;
        size_t bytes;

        status = spc_normalise(r->t->form[i], a->content, a->length, &out, &bytes, r->err);
        if (status != SPC_OK) break;
        free(a->owned);
        a->owned = out;
        a->content = out;
        a->length = bytes;
    }
    return status;
}

static spc_status read_added(const reader *r)
{
    const json_t *items = json_object_get(r->root, "added_tokens");
    size_t count = json_array_size(items);
    spc_tokenizer *t = r->t;
    spc_status status = SPC_OK;

    if (!is_set(items) || count == 0) return SPC_OK;
    if (!json_is_array(items) || count > IDS_MAX)
        return wrong(r, "added_tokens: expected an array");
    t->added = calloc(count, sizeof *t->added);
    if (!t->added) return no_memory(r);
    for (size_t i = 0; i < count && status == SPC_OK; i++) {
        status = read_added_one(r, json_array_get(items, i));
    }
    for (int32_t i = 0; i < t->added_count && status == SPC_OK; i++) {
        status = normalise_added(r, &t->added[i]);
    }
    if (status == SPC_OK) qsort(t->added, (size_t)t->added_count, sizeof *t->added, longest_first);
    return status == SPC_OK ? index_contents(r) : status;
}

/* ---- normalizer, pre-tokenizer, post-processor, decoder ----------------------------------------
 */

static spc_status read_normalizer(const reader *r, const json_t *n)
{
    static const char *const names[] = {"", "NFC", "NFD", "NFKC", "NFKD"};
    const json_t *inner = json_object_get(n, "normalizers");
    size_t i;
    json_t *item;

    if (!is_set(n)) return SPC_OK;
    if (strcmp(type_of(n), "Sequence") == 0) {
        json_array_foreach((json_t *)(uintptr_t)inner, i, item)
        {
            spc_status status = strcmp(type_of(item), "Sequence") == 0
                                    ? unsupported(r, "normalizer", "nested Sequence", "a flat one")
                                    : read_normalizer(r, item);
            if (status != SPC_OK) return status;
        }
        return SPC_OK;
    }
    for (int32_t form = SPC_FORM_NFC; form <= SPC_FORM_NFKD; form++) {
        if (strcmp(type_of(n), names[form]) != 0) continue;
        if (r->t->form_count == SPC_FORMS_MAX) return wrong(r, "normalizer: too many steps");
        r->t->form[r->t->form_count++] = (spc_form)form;
        return SPC_OK;
    }
    return unsupported(r, "normalizer", type_of(n), "NFC, NFD, NFKC, NFKD, Sequence of them");
}

static spc_status add_split(const reader *r, const char *pattern, bool matches, bool between)
{
    spc_split *s = &r->t->split[r->t->split_count];
    spc_status status;

    if (r->t->split_count == SPC_SPLITS_MAX) return wrong(r, "pre_tokenizer: too many steps");
    status = spc_pattern_open(r->where, pattern, &s->pattern, r->err);
    if (status != SPC_OK) return status;
    s->matches = matches;
    s->between = between;
    r->t->split_count++;
    return SPC_OK;
}

/* A literal as a pattern: \Q...\E, unless it holds \E itself. */
static spc_status add_literal_split(const reader *r, const char *literal, bool matches,
                                    bool between)
{
    char pattern[256];

    if (strlen(literal) > 200 || strstr(literal, "\\E")) {
        return unsupported(r, "pre_tokenizer", "Split by a long string",
                           "shorter ones, or a Regex");
    }
    strcpy(pattern, "\\Q");
    strcat(pattern, literal);
    strcat(pattern, "\\E");
    return add_split(r, pattern, matches, between);
}

static spc_status read_split(const reader *r, const json_t *p)
{
    const json_t *pattern = json_object_get(p, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    const char *behavior = json_string_value(json_object_get(p, "behavior"));
    bool invert = json_is_true(json_object_get(p, "invert"));
    bool removed = behavior && strcmp(behavior, "Removed") == 0;

    if (!behavior || (!removed && strcmp(behavior, "Isolated") != 0)) {
        return unsupported(r, "pre_tokenizer Split behavior", behavior, "Isolated, Removed");
    }
    bool matches = !removed || invert, between = !removed || !invert;

    if (regex) return add_split(r, regex, matches, between);
    if (literal) return add_literal_split(r, literal, matches, between);
    return wrong(r, "pre_tokenizer: Split: expected a pattern with 'Regex' or 'String'");
}

static spc_status read_byte_level(const reader *r, const json_t *p, bool first)
{
    const json_t *regex = json_object_get(p, "use_regex");

    if (json_is_true(json_object_get(p, "add_prefix_space"))) {
        if (!first) {
            return unsupported(r, "pre_tokenizer ByteLevel", "add_prefix_space behind a Split",
                               "add_prefix_space in the first step");
        }
        r->t->prefix_space = true;
    }
    if (regex && !json_is_true(regex)) return SPC_OK;
    return add_split(r, byte_level_pattern, true, true);
}

/* byte_level: receives whether a ByteLevel step was seen; it must be the last. */
static spc_status read_pretokenizer(const reader *r, const json_t *p, bool first, bool *byte_level)
{
    const json_t *inner = json_object_get(p, "pretokenizers");
    size_t i;
    json_t *item;

    if (*byte_level) {
        return unsupported(r, "pre_tokenizer", "a step behind ByteLevel",
                           "ByteLevel as the last step");
    }
    if (strcmp(type_of(p), "ByteLevel") == 0) {
        *byte_level = true;
        return read_byte_level(r, p, first);
    }
    if (strcmp(type_of(p), "Split") == 0) return read_split(r, p);
    if (strcmp(type_of(p), "Sequence") != 0 || !first) {
        return unsupported(r, "pre_tokenizer", type_of(p), "ByteLevel, Split, Sequence of them");
    }
    json_array_foreach((json_t *)(uintptr_t)inner, i, item)
    {
        spc_status status = strcmp(type_of(item), "Sequence") == 0
                                ? unsupported(r, "pre_tokenizer", "nested Sequence", "a flat one")
                                : read_pretokenizer(r, item, i == 0, byte_level);
        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

/* Ids of one special token of a template. */
static spc_status add_template_ids(const reader *r, const json_t *processor, const char *name,
                                   int32_t *ids, int32_t *count)
{
    const json_t *token = json_object_get(json_object_get(processor, "special_tokens"), name);
    const json_t *list = json_object_get(token, "ids");
    size_t i;
    json_t *id;

    if (!json_is_array(list)) return wrong(r, "post_processor: a special token has no 'ids'");
    json_array_foreach((json_t *)(uintptr_t)list, i, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= r->t->size || *count == SPC_TEMPLATE_MAX) {
            return wrong(
                r, "post_processor: a special token's id is out of range, or there are too many");
        }
        ids[(*count)++] = (int32_t)json_integer_value(id);
    }
    return SPC_OK;
}

static spc_status read_template(const reader *r, const json_t *processor)
{
    const json_t *single = json_object_get(processor, "single");
    bool behind = false;
    size_t i;
    json_t *item;

    if (!json_is_array(single)) return wrong(r, "post_processor: expected an array 'single'");
    json_array_foreach((json_t *)(uintptr_t)single, i, item)
    {
        const char *name =
            json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        spc_status status;

        if (json_object_get(item, "Sequence")) {
            behind = true;
            continue;
        }
        if (!name)
            return wrong(r, "post_processor: expected 'SpecialToken' or 'Sequence' in 'single'");
        status = behind ? add_template_ids(r, processor, name, r->t->behind, &r->t->behind_count)
                        : add_template_ids(r, processor, name, r->t->before, &r->t->before_count);
        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

static spc_status read_postprocessor(const reader *r, const json_t *p, bool nested)
{
    size_t i;
    json_t *item;

    if (!is_set(p) || strcmp(type_of(p), "ByteLevel") == 0) return SPC_OK; /* offsets only */
    if (strcmp(type_of(p), "TemplateProcessing") == 0) return read_template(r, p);
    if (strcmp(type_of(p), "Sequence") != 0 || nested) {
        return unsupported(r, "post_processor", type_of(p),
                           "ByteLevel, TemplateProcessing, Sequence of them");
    }
    json_array_foreach(json_object_get(p, "processors"), i, item)
    {
        spc_status status = read_postprocessor(r, item, true);

        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

static spc_status read_parts(const reader *r)
{
    const json_t *pretokenizer = json_object_get(r->root, "pre_tokenizer");
    const json_t *decoder = json_object_get(r->root, "decoder");
    bool byte_level = false;
    spc_status status = read_model(r);

    if (status == SPC_OK) status = read_normalizer(r, json_object_get(r->root, "normalizer"));
    if (status == SPC_OK) status = read_added(r);
    if (status == SPC_OK && is_set(pretokenizer)) {
        status = read_pretokenizer(r, pretokenizer, true, &byte_level);
    }
    if (status == SPC_OK && !byte_level) {
        status =
            unsupported(r, "pre_tokenizer", is_set(pretokenizer) ? type_of(pretokenizer) : "null",
                        "ByteLevel, or a Sequence that ends in it");
    }
    if (status == SPC_OK) {
        status = read_postprocessor(r, json_object_get(r->root, "post_processor"), false);
    }
    if (status == SPC_OK && is_set(decoder) && strcmp(type_of(decoder), "ByteLevel") != 0) {
        status = unsupported(r, "decoder", type_of(decoder), "ByteLevel");
    }
    return status;
}

spc_status spc_tokenizer_open(const char *where, const char *json, size_t bytes,
                              spc_tokenizer **out, spc_error *err)
{
    json_error_t problem;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &problem);
    reader r = {where, root, NULL, err};
    spc_status status;

    *out = NULL;
    if (!root) {
        bool memory = json_error_code(&problem) == json_error_out_of_memory || !problem.text[0];

        return spc_error_set(err, memory ? SPC_ENOMEM : SPC_EFORMAT,
                             "%s/tokenizer.json: line %d: %s", where, problem.line, problem.text);
    }
    r.t = calloc(1, sizeof *r.t);
    status = r.t ? read_parts(&r) : no_memory(&r);
    json_decref(root);
    if (status != SPC_OK) {
        spc_tokenizer_close(r.t);
        return status;
    }
    *out = r.t;
    return SPC_OK;
}
