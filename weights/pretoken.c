/* SPDX-License-Identifier: Apache-2.0 */
/* pretoken.c - normal forms by utf8proc, patterns by PCRE2. */
#include "pretoken.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Backtracking steps that a match may take: a hostile pattern ends in an error, not in a hang. */
enum { MATCH_LIMIT = 2000000, HEAP_LIMIT_KIB = 65536 };

spc_status spc_normalise(spc_form form, const char *text, size_t bytes, char **out,
                         size_t *out_bytes, spc_error *err)
{
    static const utf8proc_option_t options[] = {
        [SPC_FORM_NONE] = 0,
        [SPC_FORM_NFC] = UTF8PROC_COMPOSE,
        [SPC_FORM_NFD] = UTF8PROC_DECOMPOSE,
        [SPC_FORM_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [SPC_FORM_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    utf8proc_uint8_t *result = NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes,
                                           &result, UTF8PROC_STABLE | options[form]);

    *out = (char *)result;
    *out_bytes = length > 0 ? (size_t)length : 0;
    if (length >= 0) return SPC_OK;
    *out = NULL;
    return spc_error_set(err, length == UTF8PROC_ERROR_NOMEM ? SPC_ENOMEM : SPC_EINPUT,
                         "text cannot be normalised: %s", utf8proc_errmsg(length));
}

bool spc_is_space(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);

    return (code >= 9 && code <= 13) || code == 0x85 || c == UTF8PROC_CATEGORY_ZS ||
           c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

bool spc_is_word(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);

    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC;
}

bool spc_is_mark(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);

    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
           category == UTF8PROC_CATEGORY_ME;
}

uint32_t spc_lower(uint32_t code)
{
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
}

size_t spc_grapheme(const char *text, size_t bytes)
{
    utf8proc_int32_t last = -1, state = 0;
    size_t at = 0;

    while (at < bytes) {
        utf8proc_int32_t code;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                              (utf8proc_ssize_t)(bytes - at), &code);

        if (n <= 0) break; /* not UTF-8, which the caller has ruled out */
        if (last >= 0 && utf8proc_grapheme_break_stateful(last, code, &state)) break;
        last = code;
        at += (size_t)n;
    }
    return at > 0 ? at : 1;
}

bool spc_spans_add(spc_spans *spans, size_t at, size_t bytes)
{
    if (bytes == 0) return true;
    if (spans->count == spans->capacity) {
        size_t capacity = spans->capacity ? spans->capacity * 2 : 64;
        spc_span *grown = realloc(spans->span, capacity * sizeof *grown);

        if (!grown) return false;
        spans->span = grown;
        spans->capacity = capacity;
    }
    spans->span[spans->count].at = at;
    spans->span[spans->count++].bytes = bytes;
    return true;
}

void spc_spans_free(spc_spans *spans)
{
    free(spans->span);
    memset(spans, 0, sizeof *spans);
}

struct spc_pattern {
    pcre2_code *code;
};

spc_status spc_pattern_open(const char *where, const char *pattern, spc_pattern **out,
                            spc_error *err)
{
    int problem;
    size_t at;
    spc_pattern *p = calloc(1, sizeof *p);

    *out = NULL;
    if (!p) return spc_error_set(err, SPC_ENOMEM, "%s: no memory for a pattern", where);
    /* \C would cut characters in half, and what lies between is matched as checked UTF-8 */
    p->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &problem, &at, NULL);
    if (!p->code) {
        char why[128];

        (void)pcre2_get_error_message(problem, (PCRE2_UCHAR *)why, sizeof why);
        free(p);
        return spc_error_set(err, problem == PCRE2_ERROR_HEAP_FAILED ? SPC_ENOMEM : SPC_EMODEL,
                             "%s: pattern '%.60s': %s at character %zu", where, pattern, why, at);
    }
    (void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* without it the interpreter runs */
    *out = p;
    return SPC_OK;
}

void spc_pattern_close(spc_pattern *pattern)
{
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

static spc_status gave_up(int problem, spc_error *err)
{
    char why[128];

    (void)pcre2_get_error_message(problem, (PCRE2_UCHAR *)why, sizeof why);
    return spc_error_set(err, problem == PCRE2_ERROR_NOMEMORY ? SPC_ENOMEM : SPC_EINPUT,
                         "the tokenizer's pattern gives up on this text: %s", why);
}

/* Where to go on behind an empty match: one character further. */
static size_t next_character(const char *text, size_t at, size_t bytes)
{
    at++;
    while (at < bytes && ((unsigned char)text[at] & 0xC0) == 0x80) at++;
    return at;
}

spc_status spc_pattern_split(const spc_pattern *pattern, const char *text, spc_span within,
                             bool matches, bool between, spc_spans *out, spc_error *err)
{
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    const char *base = text + within.at;
    size_t at = 0, done = 0;
    bool room = data && context;
    int found = 0;

    if (context) {
        (void)pcre2_set_match_limit(context, MATCH_LIMIT);
        (void)pcre2_set_heap_limit(context, HEAP_LIMIT_KIB);
    }
    while (room && at <= within.bytes) {
        found = pcre2_match(pattern->code, (PCRE2_SPTR)base, within.bytes, at, PCRE2_NO_UTF_CHECK,
                            data, context);
        if (found < 0) break;

        const size_t *range = pcre2_get_ovector_pointer(data);

        if (range[1] <= range[0]) { /* an empty match splits nothing */
            at = next_character(base, range[0], within.bytes);
            continue;
        }
        if (range[0] < done) { /* \K behind a (?<=...): the match begins inside the last one */
            found = PCRE2_ERROR_BADOFFSET;
            break;
        }
        if (between) room = spc_spans_add(out, within.at + done, range[0] - done);
        if (room && matches) room = spc_spans_add(out, within.at + range[0], range[1] - range[0]);
        at = done = range[1];
    }
    if (room && between) room = spc_spans_add(out, within.at + done, within.bytes - done);
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (!room) return spc_error_set(err, SPC_ENOMEM, "no memory to split a text");
    return found < 0 && found != PCRE2_ERROR_NOMATCH ? gave_up(found, err) : SPC_OK;
}

/* One piece of what a cut makes of a text. */
typedef struct {
    spc_cut_kind kind;
    spc_spans *out;
    size_t begin;     /* pieces from here on are of this text */
    bool after_match; /* the piece before was a match */
} cutter;

/* Pieces come in the order of the text, matches and what lies between by turns. */
static bool put_piece(cutter *c, size_t at, size_t bytes, bool match)
{
    spc_span *last = c->out->count > c->begin ? &c->out->span[c->out->count - 1] : NULL;
    bool join = false, after = c->after_match;

    if (bytes == 0) return true;
    c->after_match = match;
    switch (c->kind) {
    case SPC_CUT_ISOLATED: break;
    case SPC_CUT_REMOVED:
        if (match) return true;
        break;
    case SPC_CUT_WITH_PREVIOUS: join = last && match && !after; break;
    case SPC_CUT_WITH_NEXT: join = last && !match && after; break;
    case SPC_CUT_CONTIGUOUS: join = last && match == after; break;
    }
    if (!join) return spc_spans_add(c->out, at, bytes);
    last->bytes += bytes;
    return true;
}

spc_status spc_pattern_cut(const spc_pattern *pattern, const char *text, spc_span within,
                           spc_cut_kind kind, bool invert, spc_spans *out, spc_error *err)
{
    spc_spans matches = {NULL, 0, 0};
    cutter c = {kind, out, out->count, false};
    size_t done = within.at;
    spc_status status = spc_pattern_split(pattern, text, within, true, false, &matches, err);
    bool room = true;

    for (size_t i = 0; i < matches.count && status == SPC_OK && room; i++) {
        const spc_span *m = &matches.span[i];

        room = put_piece(&c, done, m->at - done, invert) && put_piece(&c, m->at, m->bytes, !invert);
        done = m->at + m->bytes;
    }
    if (status == SPC_OK && room) {
        room = put_piece(&c, done, within.at + within.bytes - done, invert);
    }
    spc_spans_free(&matches);
    if (status == SPC_OK && !room)
        status = spc_error_set(err, SPC_ENOMEM, "no memory to cut a text");
    return status;
}
