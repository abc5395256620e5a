/* SPDX-License-Identifier: Apache-2.0 */
/* charsmap.h - SentencePiece's table of replacements: "precompiled_charsmap" of a tokenizer.json.
 *
 * A trie of keys in a double array (darts-clone), and the texts that they become. */
#ifndef SPC_WEIGHTS_CHARSMAP_H
#define SPC_WEIGHTS_CHARSMAP_H

#include "buffer.h"

typedef struct {
    uint32_t *unit; /* [units], owned */
    size_t units;
    char *text; /* [text_bytes] terminated texts behind each other, owned */
    size_t text_bytes;
} spc_charsmap;

/* Decode the table from base64.  On failure *what says what is wrong ("" : no memory).  Safe on
 * untrusted text: whatever the units say, a search ends and stays inside. */
bool spc_charsmap_open(const char *base64, spc_charsmap *out, const char **what);
void spc_charsmap_free(spc_charsmap *map);

/* Replace in valid UTF-8, appending to out: a grapheme of less than 6 bytes as a whole where the
 * table knows it, otherwise character by character.  false: no memory. */
bool spc_charsmap_run(const spc_charsmap *map, const char *text, size_t bytes,
                      spc_buffer_bytes *out);

#endif
