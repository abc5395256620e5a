/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - tokenizer.json to ids and back.  Immutable after open: share it between threads. */
#ifndef SPC_WEIGHTS_TOKENIZER_H
#define SPC_WEIGHTS_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <spc/status.h>

typedef struct spc_tokenizer spc_tokenizer;

/* Parse the text of a tokenizer.json; `where` names it in messages.  The text is not kept.
 * SPC_EFORMAT: not JSON, or it contradicts itself.  SPC_EMODEL: a kind that is not supported, named
 * together with what is.  Safe on untrusted text. */
spc_status spc_tokenizer_open(const char *where, const char *json, size_t bytes,
                              spc_tokenizer **out, spc_error *err);
void spc_tokenizer_close(spc_tokenizer *tokenizer); /* NULL is allowed */

/* Ids are 0 .. size - 1, added tokens included (some of them may be holes without a piece). */
int32_t spc_tokenizer_size(const spc_tokenizer *tokenizer);

/* Bytes of memory that its tables take; its regular expressions and a few other small things are
 * left out. */
size_t spc_tokenizer_bytes(const spc_tokenizer *tokenizer);

/* How it makes tokens of words: "byte-level BPE", "BPE with byte fallback",
 * "Unigram". */
const char *spc_tokenizer_kind(const spc_tokenizer *tokenizer);

/* Encode UTF-8 text.  Added tokens that stand in the text become their id; `special` runs the
 * post-processor as well (a BOS, say).  Bytes that are not UTF-8 are SPC_EINPUT with their offset.
 *
 * ids      receives the ids; malloc'd, the caller frees; NULL when count is 0
 * count    how many */
spc_status spc_tokenizer_encode(const spc_tokenizer *tokenizer, const char *text, size_t bytes,
                                bool special, int32_t **ids, int32_t *count, spc_error *err);

/* The same for a stranger's text: the spelling of a special token is text like any other.  Only the
 * unknown token, and bytes' tokens, are special tokens that a text may become.  Added tokens that
 * are not special are recognised. */
spc_status spc_tokenizer_encode_plain(const spc_tokenizer *tokenizer, const char *text,
                                      size_t bytes, bool special, int32_t **ids, int32_t *count,
                                      spc_error *err);

/* The same for a text put together from a template and a stranger's words: special tokens are
 * recognised only where they begin at one of the given places, and their spelling anywhere else is
 * text like any other.  Added tokens that are not special are recognised everywhere, as above.
 * Nothing is added around the text.
 *
 * mark   [mark_count] offsets into text, in bytes, rising */
spc_status spc_tokenizer_encode_marked(const spc_tokenizer *tokenizer, const char *text,
                                       size_t bytes, const size_t *mark, int32_t mark_count,
                                       int32_t **ids, int32_t *count, spc_error *err);

/* The bytes that one id decodes to inside a text, borrowed from the tokenizer; not terminated; may
 * be part of a UTF-8 character.  NULL with *bytes = 0 for a hole or an id out of range. */
const char *spc_tokenizer_piece(const spc_tokenizer *tokenizer, int32_t id, size_t *bytes);

/* Where decoding id by id stands: {0, false} at the beginning of a text, where some tokenizers
 * leave out a space; SPC_TEXT_INSIDE behind other text. */
typedef struct {
    int32_t ids; /* decoded so far */
    bool begun;  /* one of them gave bytes */
} spc_text_place;
#define SPC_TEXT_INSIDE ((spc_text_place){1, true})

/* The bytes that the next id adds to a text, as spc_tokenizer_piece; `place` moves on. */
const char *spc_tokenizer_next(const spc_tokenizer *tokenizer, spc_text_place *place, int32_t id,
                               size_t *bytes);

/* Is the id a special token (left out of what a user reads)? */
bool spc_tokenizer_is_special(const spc_tokenizer *tokenizer, int32_t id);

/* The id of a token by its exact content, added tokens included; -1: none. */
int32_t spc_tokenizer_find(const spc_tokenizer *tokenizer, const char *content);

/* Decode all ids.  SPC_EINPUT names the first id that is out of range.  Bytes that do not form
 * UTF-8 become U+FFFD as Unicode recommends: one for each longest part that could have begun a
 * character.  (For a run of byte tokens the `tokenizers` library gives one per byte of the whole
 * run, which no stream could.)
 *
 * text    receives malloc'd, terminated text, the caller frees
 * bytes   receives its length; may be NULL */
spc_status spc_tokenizer_decode(const spc_tokenizer *tokenizer, const int32_t *ids, int32_t count,
                                bool skip_special, char **text, size_t *bytes, spc_error *err);

/* The same for a model's ids, which are 0 .. vocab - 1: those that pad its vocabulary beyond the
 * tokenizer's stand for no text. */
spc_status spc_tokenizer_decode_padded(const spc_tokenizer *tokenizer, int32_t vocab,
                                       const int32_t *ids, int32_t count, bool skip_special,
                                       char **text, size_t *bytes, spc_error *err);

/* First id on which two tokenizers disagree (other bytes, other special flag, other merges that
 * make it), or -1 when they agree on every id both have.  Sizes may differ (padding); compare them
 * apart. */
int32_t spc_tokenizer_difference(const spc_tokenizer *a, const spc_tokenizer *b);

#endif
