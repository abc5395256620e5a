/* SPDX-License-Identifier: Apache-2.0 */
/* text.h - from the bytes of tokens to text a user sees: stop strings and whole characters.
 *
 * Tokens end anywhere, inside a character or inside a stop string.  The stream holds back what may
 * still turn out to be the beginning of a stop string or of a character, and lets go of the rest.
 */
#ifndef SPC_HOST_TEXT_H
#define SPC_HOST_TEXT_H

#include <spc/spc.h>

typedef struct {
    char **stop;        /* [stop_count] own copies */
    size_t *stop_bytes; /* [stop_count] */
    int32_t stop_count;
    char *held; /* [capacity] bytes not yet let go */
    size_t held_bytes;
    size_t capacity;  /* longest stop string + longest token + one character */
    uint64_t bytes;   /* let go so far: the text's length before sanitising */
    spc_text_fn emit; /* may be NULL */
    void *user;
} spc_text_stream;

/* Copies the stop strings and reserves everything push needs.  longest_token in bytes. */
spc_status spc_text_init(spc_text_stream *stream, const char *const *stop, int32_t stop_count,
                         size_t longest_token, spc_text_fn emit, void *user, spc_error *err);
void spc_text_free(spc_text_stream *stream);

/* Begin a new text: what is held is forgotten. */
void spc_text_begin(spc_text_stream *stream);

/* Take the bytes of one token (at most longest_token).  true: a stop string is complete; the text
 * ends before it and nothing more is let go. */
bool spc_text_push(spc_text_stream *stream, const char *piece, size_t bytes);

/* The sequence ended: let go of what is held. */
void spc_text_finish(spc_text_stream *stream);

#endif
