/* SPDX-License-Identifier: Apache-2.0 */
/* unigram.h - the most probable way to write a word with the tokens of a vocabulary. */
#ifndef SPC_WEIGHTS_UNIGRAM_H
#define SPC_WEIGHTS_UNIGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A token of the vocabulary. */
typedef struct {
    const char *text; /* [bytes], borrowed */
    size_t bytes;
    int32_t id;
    double score; /* natural logarithm of its probability */
    bool special;
} spc_unigram_token;

typedef struct {
    spc_unigram_token *token; /* [count] in the order of their bytes, owned */
    int32_t count;
    double unknown; /* score of a character without token: the least of all, less 10 */
} spc_unigram;

/* Take over a malloc'd array of tokens with texts that are not empty. */
void spc_unigram_init(spc_unigram *u, spc_unigram_token *token, int32_t count);
void spc_unigram_free(spc_unigram *u);

/* One piece of a word: an id, or -1 for characters that no token has. */
typedef struct {
    size_t at, bytes;
    int32_t id;
} spc_unigram_piece;

/* Cut a word of valid UTF-8 so that the scores add up to the most; of two ways with one sum the one
 * found first, as the reference does.  Neighbouring characters without token are one piece.
 *
 * plain   special tokens are none of the vocabulary
 * piece   [bytes], written from the front
 *
 * Returns how many pieces, or -1: no memory. */
int64_t spc_unigram_cut(const spc_unigram *u, const char *word, size_t bytes, bool plain,
                        spc_unigram_piece *piece);

#endif
