/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_read.c - from the text of a tokenizer.json to a tokenizer: added tokens,
 * post-processor, decoder; the model and the steps before it have files of their own.
 *
 * What is not understood is refused by name: a tokenizer that is nearly right is wrong. */
#include "tokenizer_read.h"

#include "json.h"

typedef spc_tokenizer_reader reader;

spc_status spc_tokenizer_no_memory(const reader *r)
{
    return spc_error_set(r->err, SPC_ENOMEM, "%s: no memory for the tokenizer", r->where);
}

spc_status spc_tokenizer_wrong(const reader *r, const char *what)
{
    return spc_error_set(r->err, SPC_EFORMAT, "%s/tokenizer.json: %s", r->where, what);
}

spc_status spc_tokenizer_unsupported(const reader *r, const char *part, const char *found,
                                     const char *known)
{
    return spc_error_set(r->err, SPC_EMODEL,
                         "%s/tokenizer.json: %s '%.40s' is not supported; supported: %s", r->where,
                         part, found ? found : "?", known);
}

const char *spc_tokenizer_type(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));

    return type ? type : "?";
}

bool spc_tokenizer_is_set(const json_t *value)
{
    return value && !json_is_null(value) && !json_is_false(value);
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

    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= SPC_TOKENIZER_IDS_MAX || length == 0) {
        return spc_tokenizer_wrong(
            r, "added_tokens: expected objects with 'id' and a non-empty 'content'");
    }
    memset(a, 0, sizeof *a);
    a->id = (int32_t)json_integer_value(id);
    if (is_taken(r->t, a->id, json_string_value(content))) {
        return spc_tokenizer_wrong(r, "added_tokens: two tokens share one id");
    }
    a->length = length;
    a->single_word = json_is_true(json_object_get(item, "single_word"));
    a->lstrip = json_is_true(json_object_get(item, "lstrip"));
    a->rstrip = json_is_true(json_object_get(item, "rstrip"));
    a->normalized = json_is_true(json_object_get(item, "normalized"));
    if (!spc_tokenizer_reserve(r->t, a->id + 1) ||
        !spc_tokenizer_set(r->t, a->id, json_string_value(content), length)) {
        return spc_tokenizer_no_memory(r);
    }
    r->t->piece[a->id].special = json_is_true(json_object_get(item, "special"));
    r->t->added_count++;
    return SPC_OK;
}

/* What a normalised token looks like in normalised text. */
static spc_status normalise_added(const reader *r, spc_added *a)
{
    spc_status status = SPC_OK;

    a->content = r->t->piece[a->id].content; /* the last one's, where two renamed one id */
    a->length = r->t->piece[a->id].content_length;
    for (int32_t i = 0; a->normalized && i < r->t->step_count && status == SPC_OK; i++) {
        char *out;
        size_t bytes;

        status = spc_step_run(&r->t->step[i], a->content, a->length, &out, &bytes, r->err);
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

    if (!spc_tokenizer_is_set(items) || count == 0) return SPC_OK;
    if (!json_is_array(items) || count > SPC_TOKENIZER_IDS_MAX)
        return spc_tokenizer_wrong(r, "added_tokens: expected an array");
    t->added = calloc(count, sizeof *t->added);
    if (!t->added) return spc_tokenizer_no_memory(r);
    for (size_t i = 0; i < count && status == SPC_OK; i++) {
        status = read_added_one(r, json_array_get(items, i));
    }
    return status;
}

static int by_content(const void *a, const void *b)
{
    const spc_added *x = *(const spc_added *const *)a, *y = *(const spc_added *const *)b;
    int order = memcmp(x->content, y->content, x->length < y->length ? x->length : y->length);

    if (order != 0) return order;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return (x > y) - (x < y);
}

/* Where those stand that a text may begin with: Gemma 3 has 6249 of them. */
static bool order_added(spc_tokenizer *t)
{
    int32_t i = 0;

    t->added_order = malloc((size_t)t->added_count * sizeof *t->added_order);
    if (!t->added_order) return false;
    for (int32_t k = 0; k < t->added_count; k++) t->added_order[k] = &t->added[k];
    qsort(t->added_order, (size_t)t->added_count, sizeof *t->added_order, by_content);
    while (i < t->added_count && t->added_order[i]->length == 0) i++; /* normalised to nothing */
    for (int32_t first = 0; first < 257; first++) {
        while (i < t->added_count && (unsigned char)t->added_order[i]->content[0] < first) i++;
        t->added_begin[first] = i;
    }
    return true;
}

/* Once no content changes any more. */
static spc_status index_added(const reader *r)
{
    spc_tokenizer *t = r->t;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < t->added_count && status == SPC_OK; i++) {
        status = normalise_added(r, &t->added[i]);
    }
    if (status != SPC_OK) return status;
    if (t->added_count > 0) {
        qsort(t->added, (size_t)t->added_count, sizeof *t->added, longest_first);
        if (!order_added(t)) return spc_tokenizer_no_memory(r);
    }
    return spc_tokenizer_index(t) ? SPC_OK : spc_tokenizer_no_memory(r);
}

/* ---- post-processor ---------------------------------------------------------------------------
 */

/* Ids of one special token of a template. */
static spc_status add_template_ids(const reader *r, const json_t *processor, const char *name,
                                   int32_t *ids, int32_t *count)
{
    const json_t *token = json_object_get(json_object_get(processor, "special_tokens"), name);
    const json_t *list = json_object_get(token, "ids");
    size_t i;
    json_t *id;

    if (!json_is_array(list))
        return spc_tokenizer_wrong(r, "post_processor: a special token has no 'ids'");
    json_array_foreach((json_t *)(uintptr_t)list, i, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= r->t->size || *count == SPC_TEMPLATE_MAX) {
            return spc_tokenizer_wrong(
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

    if (!json_is_array(single))
        return spc_tokenizer_wrong(r, "post_processor: expected an array 'single'");
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
            return spc_tokenizer_wrong(
                r, "post_processor: expected 'SpecialToken' or 'Sequence' in 'single'");
        status = behind ? add_template_ids(r, processor, name, r->t->behind, &r->t->behind_count)
                        : add_template_ids(r, processor, name, r->t->before, &r->t->before_count);
        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

/* {"cls": [token, id], "sep": [token, id]}: one before, one behind. */
static spc_status read_ends(const reader *r, const json_t *processor)
{
    static const char *const names[] = {"cls", "sep"};
    int32_t *ids[] = {r->t->before, r->t->behind};
    int32_t *counts[] = {&r->t->before_count, &r->t->behind_count};

    for (int i = 0; i < 2; i++) {
        const json_t *id = json_array_get(json_object_get(processor, names[i]), 1);

        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= r->t->size || *counts[i] == SPC_TEMPLATE_MAX) {
            return spc_tokenizer_wrong(r, "post_processor: expected 'cls' and 'sep', each a token "
                                          "and its id");
        }
        ids[i][(*counts[i])++] = (int32_t)json_integer_value(id);
    }
    return SPC_OK;
}

static spc_status read_postprocessor(const reader *r, const json_t *p, bool nested)
{
    size_t i;
    json_t *item;

    if (!spc_tokenizer_is_set(p) || strcmp(spc_tokenizer_type(p), "ByteLevel") == 0)
        return SPC_OK; /* offsets only */
    if (strcmp(spc_tokenizer_type(p), "TemplateProcessing") == 0) return read_template(r, p);
    if (strcmp(spc_tokenizer_type(p), "RobertaProcessing") == 0 ||
        strcmp(spc_tokenizer_type(p), "BertProcessing") == 0) {
        return read_ends(r, p);
    }
    if (strcmp(spc_tokenizer_type(p), "Sequence") != 0 || nested) {
        return spc_tokenizer_unsupported(
            r, "post_processor", spc_tokenizer_type(p),
            "ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing, "
            "Sequence of them");
    }
    json_array_foreach(json_object_get(p, "processors"), i, item)
    {
        spc_status status = read_postprocessor(r, item, true);

        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}

/* ---- decoder ----------------------------------------------------------------------------------
 */

/* What the steps of a decoder come to. */
typedef struct {
    const char *from, *to; /* Replace */
    bool bytes;            /* ByteFallback */
    bool fused;            /* Fuse: what follows works on the whole text */
} decoding;

static spc_status read_strip(const reader *r, const json_t *d, const decoding *so_far)
{
    const char *content = json_string_value(json_object_get(d, "content"));
    json_int_t start = json_integer_value(json_object_get(d, "start"));
    json_int_t stop = json_integer_value(json_object_get(d, "stop"));

    if (!so_far->fused || !content || strcmp(content, " ") != 0 || start < 0 || start > 1 ||
        stop != 0) {
        return spc_tokenizer_unsupported(r, "decoder", "Strip of this kind",
                                         "one space at the start, behind Fuse");
    }
    r->t->lead = start == 1 ? SPC_LEAD_ONE : SPC_LEAD_ALL;
    return SPC_OK;
}

static spc_status read_decoder_step(const reader *r, const json_t *d, decoding *so_far)
{
    const char *type = spc_tokenizer_type(d);

    if (strcmp(type, "Replace") == 0 && !so_far->from && !so_far->fused) {
        so_far->from = json_string_value(json_object_get(json_object_get(d, "pattern"), "String"));
        so_far->to = json_string_value(json_object_get(d, "content"));
        if (so_far->from && *so_far->from && so_far->to) return SPC_OK;
        return spc_tokenizer_unsupported(r, "decoder", "Replace of this kind",
                                         "a String by a content");
    }
    if (strcmp(type, "ByteFallback") == 0) {
        so_far->bytes = true;
        return SPC_OK;
    }
    if (strcmp(type, "Fuse") == 0) {
        so_far->fused = true;
        return SPC_OK;
    }
    if (strcmp(type, "Strip") == 0) return read_strip(r, d, so_far);
    return spc_tokenizer_unsupported(
        r, "decoder", type, "ByteLevel, Metaspace, Sequence of Replace, ByteFallback, Fuse, Strip");
}

static spc_status read_metaspace_decoder(const reader *r, const json_t *d)
{
    const char *mark = json_string_value(json_object_get(d, "replacement"));
    const char *scheme = json_string_value(json_object_get(d, "prepend_scheme"));
    const json_t *prefix = json_object_get(d, "add_prefix_space");
    bool never = scheme ? strcmp(scheme, "never") == 0 : prefix && !json_is_true(prefix);

    if (!mark || !*mark) return spc_tokenizer_wrong(r, "decoder Metaspace: no 'replacement'");
    r->t->lead = never ? SPC_LEAD_ALL : SPC_LEAD_FIRST_TOKEN;
    return spc_tokenizer_decode_by(r->t, mark, " ", false) ? SPC_OK : spc_tokenizer_no_memory(r);
}

static spc_status read_decoder(const reader *r, const json_t *d, bool byte_level)
{
    decoding so_far = {NULL, NULL, false, false};
    spc_status status = SPC_OK;
    size_t i;
    json_t *item;

    if (byte_level) {
        if (!spc_tokenizer_is_set(d) || strcmp(spc_tokenizer_type(d), "ByteLevel") == 0)
            return SPC_OK;
        return spc_tokenizer_unsupported(r, "decoder", spc_tokenizer_type(d),
                                         "ByteLevel, as the pre_tokenizer has it");
    }
    if (!spc_tokenizer_is_set(d)) {
        return spc_tokenizer_unsupported(r, "decoder", "null",
                                         "Metaspace, or a Sequence of Replace, "
                                         "ByteFallback, Fuse, Strip");
    }
    if (strcmp(spc_tokenizer_type(d), "Metaspace") == 0) return read_metaspace_decoder(r, d);
    if (strcmp(spc_tokenizer_type(d), "Sequence") != 0) {
        status = read_decoder_step(r, d, &so_far);
    } else {
        json_array_foreach(json_object_get(d, "decoders"), i, item)
        {
            status = read_decoder_step(r, item, &so_far);
            if (status != SPC_OK) break;
        }
    }
    if (status != SPC_OK) return status;
    return spc_tokenizer_decode_by(r->t, so_far.from, so_far.to, so_far.bytes)
               ? SPC_OK
               : spc_tokenizer_no_memory(r);
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static spc_status read_parts(const reader *r)
{
    const json_t *pretokenizer = json_object_get(r->root, "pre_tokenizer");
    bool byte_level = spc_tokenizer_is_byte_level(pretokenizer);
    spc_status status = spc_tokenizer_read_model(r, byte_level);

    if (status == SPC_OK && byte_level && r->t->model != SPC_MODEL_BYTES) {
        status = spc_tokenizer_unsupported(r, "pre_tokenizer", "ByteLevel before Unigram",
                                           "ByteLevel before BPE");
    }
    if (status == SPC_OK) {
        status = spc_tokenizer_read_normalizer(r, json_object_get(r->root, "normalizer"));
    }
    if (status == SPC_OK) status = read_added(r);
    if (status == SPC_OK) status = spc_tokenizer_read_pretokenizer(r, pretokenizer);
    if (status == SPC_OK) {
        status = read_postprocessor(r, json_object_get(r->root, "post_processor"), false);
    }
    if (status == SPC_OK) {
        status = read_decoder(r, json_object_get(r->root, "decoder"), byte_level);
    }
    if (status == SPC_OK) status = index_added(r);
    if (status == SPC_OK && r->t->model == SPC_MODEL_UNIGRAM && !spc_tokenizer_rank(r->t)) {
        status = spc_tokenizer_no_memory(r);
    }
    return status;
}

spc_status spc_tokenizer_open_tree(const char *where, const json_t *root, spc_tokenizer **out,
                                   spc_error *err)
{
    reader r = {where, root, calloc(1, sizeof *r.t), err};
    spc_status status = r.t ? read_parts(&r) : spc_tokenizer_no_memory(&r);

    *out = NULL;
    if (status != SPC_OK) {
        spc_tokenizer_close(r.t);
        return status;
    }
    *out = r.t;
    return SPC_OK;
}

spc_status spc_tokenizer_open(const char *where, const char *json, size_t bytes,
                              spc_tokenizer **out, spc_error *err)
{
    json_error_t problem;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &problem);
    spc_status status;

    *out = NULL;
    if (!root) {
        char path[256];

        (void)snprintf(path, sizeof path, "%.200s/tokenizer.json", where);
        return spc_json_refused(path, &problem, json, err);
    }
    status = spc_tokenizer_open_tree(where, root, out, err);
    json_decref(root);
    return status;
}
