/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_steps.c - "normalizer" and "pre_tokenizer" of a tokenizer.json, step by step. */
#include "tokenizer_read.h"

#include "utf8.h"

typedef spc_tokenizer_reader reader;

static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static bool is_type(const json_t *object, const char *type)
{
    return strcmp(spc_tokenizer_type(object), type) == 0;
}

/* {"Regex": ...} or {"String": ...}; a literal becomes a pattern that quotes it. */
static spc_status open_pattern(const reader *r, const json_t *pattern, const char *part,
                               spc_pattern **out)
{
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    char quoted[256];

    if (regex) return spc_pattern_open(r->where, regex, out, r->err);
    if (!literal) {
        return spc_error_set(r->err, SPC_EFORMAT,
                             "%s/tokenizer.json: %s: expected a pattern with 'Regex' or 'String'",
                             r->where, part);
    }
    if (strlen(literal) > 200 || strstr(literal, "\\E")) {
        return spc_tokenizer_unsupported(r, part, "a long string", "shorter ones, or a Regex");
    }
    strcpy(quoted, "\\Q");
    strcat(quoted, literal);
    strcat(quoted, "\\E");
    return spc_pattern_open(r->where, quoted, out, r->err);
}

/* ---- normalizer -------------------------------------------------------------------------------
 */

static spc_status copy_text(const reader *r, const json_t *value, const char *what, char **out)
{
    const char *text = json_string_value(value);

    if (!text) return spc_tokenizer_wrong(r, what);
    *out = strdup(text);
    return *out ? SPC_OK : spc_tokenizer_no_memory(r);
}

static spc_status read_charsmap(const reader *r, const json_t *n, spc_step *step)
{
    const char *text = json_string_value(json_object_get(n, "precompiled_charsmap"));
    const char *what;

    if (!text) return spc_tokenizer_wrong(r, "normalizer Precompiled: no precompiled_charsmap");
    if (spc_charsmap_open(text, &step->map, &what)) return SPC_OK;
    return *what ? spc_tokenizer_wrong(r, what) : spc_tokenizer_no_memory(r);
}

/* A step that is no Sequence, into an empty one. */
static spc_status read_step(const reader *r, const json_t *n, spc_step *step)
{
    static const struct {
        const char *type;
        spc_step_kind kind;
        spc_form form;
    } plain[] = {{"NFC", SPC_STEP_FORM, SPC_FORM_NFC},
                 {"NFD", SPC_STEP_FORM, SPC_FORM_NFD},
                 {"NFKC", SPC_STEP_FORM, SPC_FORM_NFKC},
                 {"NFKD", SPC_STEP_FORM, SPC_FORM_NFKD},
                 {"Lowercase", SPC_STEP_LOWER, SPC_FORM_NONE},
                 {"StripAccents", SPC_STEP_STRIP_ACCENTS, SPC_FORM_NONE},
                 {"Nmt", SPC_STEP_NMT, SPC_FORM_NONE}};

    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (!is_type(n, plain[i].type)) continue;
        step->kind = plain[i].kind;
        step->form = plain[i].form;
        return SPC_OK;
    }
    if (is_type(n, "Prepend")) {
        step->kind = SPC_STEP_PREPEND;
        return copy_text(r, json_object_get(n, "prepend"), "normalizer Prepend: no 'prepend'",
                         &step->text);
    }
    if (is_type(n, "Strip")) {
        step->kind = SPC_STEP_STRIP;
        step->left = json_is_true(json_object_get(n, "strip_left"));
        step->right = json_is_true(json_object_get(n, "strip_right"));
        return SPC_OK;
    }
    if (is_type(n, "Precompiled")) {
        step->kind = SPC_STEP_CHARSMAP;
        return read_charsmap(r, n, step);
    }
    if (is_type(n, "Replace")) {
        spc_status status = copy_text(r, json_object_get(n, "content"),
                                      "normalizer Replace: no 'content'", &step->text);

        step->kind = SPC_STEP_REPLACE;
        if (status != SPC_OK) return status;
        return open_pattern(r, json_object_get(n, "pattern"), "normalizer Replace", &step->pattern);
    }
    return spc_tokenizer_unsupported(r, "normalizer", spc_tokenizer_type(n),
                                     "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Nmt, Prepend, "
                                     "Strip, Precompiled, Replace, Sequence of them");
}

spc_status spc_tokenizer_read_normalizer(const reader *r, const json_t *n)
{
    spc_tokenizer *t = r->t;
    size_t i;
    json_t *item;

    if (!spc_tokenizer_is_set(n)) return SPC_OK;
    if (is_type(n, "Sequence")) {
        json_array_foreach(json_object_get(n, "normalizers"), i, item)
        {
            spc_status status =
                is_type(item, "Sequence")
                    ? spc_tokenizer_unsupported(r, "normalizer", "nested Sequence", "a flat one")
                    : spc_tokenizer_read_normalizer(r, item);

            if (status != SPC_OK) return status;
        }
        return SPC_OK;
    }
    if (t->step_count == SPC_STEPS_MAX) {
        return spc_tokenizer_wrong(r, "normalizer: too many steps");
    }
    return read_step(r, n, &t->step[t->step_count++]); /* counted first: it is freed as it is */
}

/* ---- pre-tokenizer ----------------------------------------------------------------------------
 */

/* NULL: there are too many. */
static spc_split *new_split(const reader *r, spc_split_kind kind)
{
    spc_split *s = &r->t->split[r->t->split_count];

    if (r->t->split_count == SPC_SPLITS_MAX) return NULL;
    r->t->split_count++;
    s->kind = kind;
    return s;
}

static spc_status too_many(const reader *r)
{
    return spc_tokenizer_wrong(r, "pre_tokenizer: too many steps");
}

static spc_status add_pattern(const reader *r, const char *pattern, spc_cut_kind cut)
{
    spc_split *s = new_split(r, SPC_SPLIT_PATTERN);

    if (!s) return too_many(r);
    s->cut = cut;
    return spc_pattern_open(r->where, pattern, &s->pattern, r->err);
}

/* Isolated, Removed, ...; -1: none of them. */
static int cut_of(const char *behavior)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};

    for (int i = 0; behavior && i < 5; i++) {
        if (strcmp(behavior, names[i]) == 0) return i;
    }
    return -1;
}

static spc_status read_split(const reader *r, const json_t *p)
{
    const char *behavior = json_string_value(json_object_get(p, "behavior"));
    int cut = cut_of(behavior);
    spc_split *s;

    if (cut < 0) {
        return spc_tokenizer_unsupported(r, "pre_tokenizer Split behavior", behavior,
                                         "Isolated, Removed, MergedWithPrevious, MergedWithNext, "
                                         "Contiguous");
    }
    s = new_split(r, SPC_SPLIT_PATTERN);
    if (!s) return too_many(r);
    s->cut = (spc_cut_kind)cut;
    s->invert = json_is_true(json_object_get(p, "invert"));
    return open_pattern(r, json_object_get(p, "pattern"), "pre_tokenizer Split", &s->pattern);
}

static spc_status read_byte_level(const reader *r, const json_t *p)
{
    const json_t *regex = json_object_get(p, "use_regex");

    if (json_is_true(json_object_get(p, "add_prefix_space")) && !new_split(r, SPC_SPLIT_SPACE)) {
        return too_many(r);
    }
    if (regex && !json_is_true(regex)) return SPC_OK;
    return add_pattern(r, byte_level_pattern, SPC_CUT_ISOLATED);
}

/* Files of before prepend_scheme have add_prefix_space. */
static spc_status read_metaspace(const reader *r, const json_t *p)
{
    const char *mark = json_string_value(json_object_get(p, "replacement"));
    const char *scheme = json_string_value(json_object_get(p, "prepend_scheme"));
    const json_t *split = json_object_get(p, "split");
    bool always = json_object_get(p, "add_prefix_space")
                      ? json_is_true(json_object_get(p, "add_prefix_space"))
                      : true;
    spc_split *s = new_split(r, SPC_SPLIT_METASPACE);
    bool whole;

    if (!s) return too_many(r);
    if (!mark || !*mark || spc_utf8_character(mark, strlen(mark), &whole, NULL) != strlen(mark)) {
        return spc_tokenizer_wrong(r, "pre_tokenizer Metaspace: expected one character as "
                                      "'replacement'");
    }
    strcpy(s->mark, mark);
    s->cuts = !split || json_is_true(split);
    if (!scheme) scheme = always ? "always" : "never";
    if (strcmp(scheme, "always") == 0) {
        s->prepend = SPC_PREPEND_ALWAYS;
    } else if (strcmp(scheme, "first") == 0) {
        s->prepend = SPC_PREPEND_FIRST;
    } else if (strcmp(scheme, "never") == 0) {
        s->prepend = SPC_PREPEND_NEVER;
    } else {
        return spc_tokenizer_unsupported(r, "pre_tokenizer Metaspace prepend_scheme", scheme,
                                         "always, first, never");
    }
    return SPC_OK;
}

static spc_status read_pretokenizer_step(const reader *r, const json_t *p)
{
    if (is_type(p, "ByteLevel")) return read_byte_level(r, p);
    if (is_type(p, "Split")) return read_split(r, p);
    if (is_type(p, "Metaspace")) return read_metaspace(r, p);
    if (is_type(p, "WhitespaceSplit")) return add_pattern(r, "\\s+", SPC_CUT_REMOVED);
    if (is_type(p, "Whitespace")) {
        spc_status status = add_pattern(r, "\\w+|[^\\w\\s]+", SPC_CUT_REMOVED);

        if (status == SPC_OK) r->t->split[r->t->split_count - 1].invert = true;
        return status;
    }
    if (is_type(p, "Digits")) {
        bool single = json_is_true(json_object_get(p, "individual_digits"));

        return add_pattern(r, single ? "\\p{N}" : "\\p{N}+", SPC_CUT_ISOLATED);
    }
    if (is_type(p, "Punctuation")) {
        const json_t *behavior = json_object_get(p, "behavior");
        int cut = behavior ? cut_of(json_string_value(behavior)) : SPC_CUT_ISOLATED;

        if (cut >= 0)
            return add_pattern(r, "[\\p{P}\\x21-\\x2F\\x3A-\\x40\\x5B-\\x60\\x7B-\\x7E]",
                               (spc_cut_kind)cut);
    }
    return spc_tokenizer_unsupported(r, "pre_tokenizer", spc_tokenizer_type(p),
                                     "ByteLevel, Split, Metaspace, WhitespaceSplit, Whitespace, "
                                     "Digits, Punctuation, Sequence of them");
}

bool spc_tokenizer_is_byte_level(const json_t *p)
{
    const json_t *inner = json_object_get(p, "pretokenizers");
    size_t count = json_array_size(inner);

    if (is_type(p, "Sequence")) {
        return count > 0 && is_type(json_array_get(inner, count - 1), "ByteLevel");
    }
    return is_type(p, "ByteLevel");
}

spc_status spc_tokenizer_read_pretokenizer(const reader *r, const json_t *p)
{
    const json_t *inner = json_object_get(p, "pretokenizers");
    size_t count = json_array_size(inner);

    if (!spc_tokenizer_is_set(p)) return SPC_OK;
    if (!is_type(p, "Sequence")) return read_pretokenizer_step(r, p);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(inner, i);
        spc_status status;

        if (is_type(item, "Sequence")) {
            return spc_tokenizer_unsupported(r, "pre_tokenizer", "nested Sequence", "a flat one");
        }
        if (is_type(item, "ByteLevel") && i + 1 < count) {
            return spc_tokenizer_unsupported(r, "pre_tokenizer", "a step behind ByteLevel",
                                             "ByteLevel as the last step");
        }
        status = read_pretokenizer_step(r, item);
        if (status != SPC_OK) return status;
    }
    return SPC_OK;
}
