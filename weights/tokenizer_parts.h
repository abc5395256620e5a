/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_parts.h - inside a tokenizer: what tokenizer_read.c builds, the other files run. */
#ifndef SPC_WEIGHTS_TOKENIZER_PARTS_H
#define SPC_WEIGHTS_TOKENIZER_PARTS_H

#include "bpe.h"
#include "normalise.h"
#include "tokenizer.h"
#include "unigram.h"

/* Texts of pieces, one behind the other, where they stay until the tokenizer closes. */
typedef struct spc_text_block {
    struct spc_text_block *next;
    size_t size, used; /* of text */
    char text[];
} spc_text_block;

/* What one id stands for. */
typedef struct {
    char *bytes; /* [length] what it decodes to, in a text block; NULL: a hole */
    size_t length;
    char *content; /* [content_length] the token as the file writes it, terminated; there too */
    size_t content_length;
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

/* How a text is cut into words.
 *
 * PATTERN    at the matches of a pattern
 * SPACE      a word that does not begin with a space gets one
 * METASPACE  spaces become `mark`; a word that does not begin with it gets one (always, or the
 * first of the text only); and words are cut before each mark where `cuts` is set */
typedef enum { SPC_SPLIT_PATTERN, SPC_SPLIT_SPACE, SPC_SPLIT_METASPACE } spc_split_kind;
typedef enum { SPC_PREPEND_NEVER, SPC_PREPEND_FIRST, SPC_PREPEND_ALWAYS } spc_prepend;

/* One step of cutting. */
typedef struct {
    spc_split_kind kind;
    spc_pattern *pattern;
    spc_cut_kind cut;
    bool invert;
    char mark[8]; /* terminated */
    spc_prepend prepend;
    bool cuts;
} spc_split;

/* What turns a word into tokens.
 *
 * BYTES    each byte a token, then merges (GPT-2)
 * BPE      each character a token, then merges (SentencePiece's BPE)
 * UNIGRAM  the most probable cut (SentencePiece's Unigram)
 *
 * A character without token is written as its bytes where there are tokens for them
 * (byte_fallback), otherwise as `unknown`. */
typedef enum { SPC_MODEL_BYTES, SPC_MODEL_BPE, SPC_MODEL_UNIGRAM } spc_model_kind;

/* What decoding leaves out at the beginning of a text: nothing, one space, or the spaces that the
 * first token begins with. */
typedef enum { SPC_LEAD_ALL, SPC_LEAD_ONE, SPC_LEAD_FIRST_TOKEN } spc_lead;

enum { SPC_SPLITS_MAX = 8, SPC_STEPS_MAX = 16, SPC_TEMPLATE_MAX = 16 };

struct spc_tokenizer {
    spc_piece *piece;     /* [size] */
    spc_text_block *text; /* the newest first */
    int32_t size;
    int32_t vocab_base; /* ids below it come from the model's own vocabulary */
    spc_added *added;   /* [added_count], longest content first */
    int32_t added_count;
    const spc_added **added_order; /* [added_count] by content, each ahead of those it begins */
    int32_t added_begin[257];      /* of the order: where those with this first byte begin */
    spc_model_kind model;
    spc_bpe bpe;             /* BYTES, BPE */
    bool ignore_merges;      /* a word that is a token stays whole */
    spc_unigram unigram;     /* UNIGRAM */
    double *score;           /* [vocab_base] UNIGRAM, otherwise NULL */
    int32_t unknown;         /* BPE, UNIGRAM: -1: none */
    bool fuse_unknown;       /* neighbouring unknown characters are one token */
    bool byte_fallback;      /* BPE, UNIGRAM */
    int32_t byte_id[256];    /* id of each single byte; -1: none */
    int32_t *content_bucket; /* [content_buckets] ids by content; -1: free */
    uint32_t content_buckets;
    spc_step step[SPC_STEPS_MAX]; /* of the normalizer, in order */
    int32_t step_count;
    spc_split split[SPC_SPLITS_MAX]; /* in order */
    int32_t split_count;
    int32_t before[SPC_TEMPLATE_MAX], before_count; /* ids that `special` adds */
    int32_t behind[SPC_TEMPLATE_MAX], behind_count;
    spc_lead lead;
};

/* ---- building one (tokenizer_model.c) ----
 *
 * From whatever source: an empty (zeroed) tokenizer with model and unknown set; ids by reserve and
 * set; index; then the merges or the scores, and find_bytes.  Every function returns false for want
 * of memory only; spc_tokenizer_close frees a tokenizer however far it got. */

/* Room for ids below size. */
bool spc_tokenizer_reserve(spc_tokenizer *t, int32_t size);

/* Give an id its content; bytes are derived from it (byte-level), or the content itself. */
bool spc_tokenizer_set(spc_tokenizer *t, int32_t id, const char *content, size_t length);

/* Index the contents; again once more of them are known. */
bool spc_tokenizer_index(spc_tokenizer *t);

/* Fill byte_id: of the byte-level alphabet, or of tokens "<0x41>"; -1 where there is none. */
void spc_tokenizer_find_bytes(spc_tokenizer *t);

/* What pieces decode to: every `from` becomes `to` (NULL: as they are), and "<0x41>" a byte. */
bool spc_tokenizer_decode_by(spc_tokenizer *t, const char *from, const char *to, bool bytes);

/* UNIGRAM: index the tokens with their scores. */
bool spc_tokenizer_rank(spc_tokenizer *t);

/* BPE from scores, as SentencePiece has it: of all pairs of tokens whose join is a token, the one
 * with the best join merges first.
 *
 * score   [vocab_base] */
bool spc_tokenizer_merge_by_score(spc_tokenizer *t, const double *score);

/* The id with this content, or -1. */
int32_t spc_tokenizer_lookup(const spc_tokenizer *t, const char *content, size_t length);

/* The same among the model's own vocabulary. */
int32_t spc_tokenizer_lookup_own(const spc_tokenizer *t, const char *content, size_t length);

#endif
