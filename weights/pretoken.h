/* SPDX-License-Identifier: Apache-2.0 */
/* pretoken.h - what happens to text before it is tokenised: normal forms, and splitting into words.
 *
 * The only file pair that knows utf8proc (Unicode) and PCRE2 (patterns). */
#ifndef SPC_WEIGHTS_PRETOKEN_H
#define SPC_WEIGHTS_PRETOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <spc/status.h>

typedef enum { SPC_FORM_NONE, SPC_FORM_NFC, SPC_FORM_NFD, SPC_FORM_NFKC, SPC_FORM_NFKD } spc_form;

/* Bring valid UTF-8 into a normal form.
 *
 * out    receives malloc'd text, not terminated by contract; free() it */
spc_status spc_normalise(spc_form form, const char *text, size_t bytes, char **out,
                         size_t *out_bytes, spc_error *err);

/* Is the code point a white space, or part of a word (letter, mark, digit, connector)? */
bool spc_is_space(uint32_t code);
bool spc_is_word(uint32_t code);

/* Is it a mark: an accent, a vowel sign (categories Mn, Mc, Me)? */
bool spc_is_mark(uint32_t code);

/* Lower case of one character by one character. */
uint32_t spc_lower(uint32_t code);

/* Bytes of the first grapheme of valid UTF-8, bytes >= 1. */
size_t spc_grapheme(const char *text, size_t bytes);

/* A piece of a text: [at, at + bytes). */
typedef struct {
    size_t at, bytes;
} spc_span;

/* A growing list of pieces. */
typedef struct {
    spc_span *span; /* [count], owned */
    size_t count, capacity;
} spc_spans;

bool spc_spans_add(spc_spans *spans, size_t at, size_t bytes); /* empty pieces are left out */
void spc_spans_free(spc_spans *spans);

/* A compiled pattern; share it between threads. */
typedef struct spc_pattern spc_pattern;

/* Compile a regular expression (Unicode properties on).  where names its origin in messages. */
spc_status spc_pattern_open(const char *where, const char *pattern, spc_pattern **out,
                            spc_error *err);
void spc_pattern_close(spc_pattern *pattern);

/* Split valid UTF-8 at the matches of a pattern and append the pieces.
 *
 * matches   append the matches themselves
 * between   append what lies between them
 *
 * SPC_EINPUT when the pattern gives up on the text (its work is bounded). */
spc_status spc_pattern_split(const spc_pattern *pattern, const char *text, spc_span within,
                             bool matches, bool between, spc_spans *out, spc_error *err);

/* What becomes of the matches: pieces of their own, left out, put to the piece before or behind, or
 * joined where they touch. */
typedef enum {
    SPC_CUT_ISOLATED,
    SPC_CUT_REMOVED,
    SPC_CUT_WITH_PREVIOUS,
    SPC_CUT_WITH_NEXT,
    SPC_CUT_CONTIGUOUS
} spc_cut_kind;

/* Cut at the matches, or with invert at what lies between them, and append the pieces.  As above.
 */
spc_status spc_pattern_cut(const spc_pattern *pattern, const char *text, spc_span within,
                           spc_cut_kind kind, bool invert, spc_spans *out, spc_error *err);

#endif
