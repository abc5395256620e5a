/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_parts.h - inside a tokenizer: what tokenizer_read.c builds and tokenizer.c runs. */
#ifndef SPC_WEIGHTS_TOKENIZER_PARTS_H
#define SPC_WEIGHTS_TOKENIZER_PARTS_H

#include "bpe.h"
#include "pretoken.h"
#include "tokenizer.h"

/* What one id stands for. */
typedef struct {
    char *bytes; /* [length] what it decodes to; NULL: a hole */
    size_t length;
    char *content; /* the token as the file writes it, terminated */
    bool special;
} spc_piece;

/* A token that is looked for in the text before everything else. */
typedef struct {
    int32_t id;
    const char *content; /* the piece's; as normalised where `normalized` */
    char *owned;         /* the normalised form, or NULL */
    size_t length;
    bool single_word, lstrip, rstrip, normalized;
} spc_added;

/* One step of splitting. */
typedef struct {
    spc_pattern *pattern;
    bool matches, between; /* which parts go on: isolated, removed, inverted */
} spc_split;

enum { SPC_SPLITS_MAX = 8, SPC_FORMS_MAX = 8, SPC_TEMPLATE_MAX = 16 };

struct spc_tokenizer {
    spc_piece *piece; /* [size] */
    int32_t size;
    int32_t vocab_base; /* ids below it come from the model's own vocabulary */
    spc_added *added;   /* [added_count], longest content first */
    int32_t added_count;
    spc_bpe bpe;
    bool ignore_merges;      /* a word that is a token stays whole */
    int32_t byte_id[256];    /* id of each single byte */
    int32_t *content_bucket; /* [content_buckets] ids by content; -1: free */
    uint32_t content_buckets;
    spc_form form[SPC_FORMS_MAX]; /* normal forms, in order */
    int32_t form_count;
    spc_split split[SPC_SPLITS_MAX]; /* in order */
    int32_t split_count;
    bool prefix_space; /* a word that does not begin with a space gets one */
    int32_t before[SPC_TEMPLATE_MAX], before_count; /* ids that `special` adds */
    int32_t behind[SPC_TEMPLATE_MAX], behind_count;
};

/* Byte a character of the byte-level alphabet stands for, or -1 (GPT-2: printable bytes stand for
 * themselves, the others for U+0100 and up). */
int32_t spc_byte_of_character(uint32_t code);

/* The id with this content, or -1. */
int32_t spc_tokenizer_lookup(const spc_tokenizer *t, const char *content, size_t length);

#endif
