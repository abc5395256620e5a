/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - stop strings and whole characters in a stream of token bytes. */
#include "text.h"

#include "weights/utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { CHARACTER_BYTES = 4 };

spc_status spc_text_init(spc_text_stream *stream, const char *const *stop, int32_t stop_count,
                         size_t longest_token, spc_text_fn emit, void *user, spc_error *err)
{
    size_t longest = 0;

    memset(stream, 0, sizeof *stream);
    stream->emit = emit;
    stream->user = user;
    if (stop_count > 0) {
        stream->stop = calloc((size_t)stop_count, sizeof *stream->stop);
        stream->stop_bytes = calloc((size_t)stop_count, sizeof *stream->stop_bytes);
        if (!stream->stop || !stream->stop_bytes) goto fail;
    }
    for (int32_t i = 0; i < stop_count; i++) {
        size_t bytes = strlen(stop[i]);

        stream->stop[i] = malloc(bytes + 1);
        if (!stream->stop[i]) goto fail;
        memcpy(stream->stop[i], stop[i], bytes + 1);
        stream->stop_bytes[i] = bytes;
        stream->stop_count = i + 1;
        if (bytes > longest) longest = bytes;
    }
    stream->capacity = longest + longest_token + CHARACTER_BYTES;
    stream->held = malloc(stream->capacity);
    if (stream->held) return SPC_OK;
fail:
    spc_text_free(stream);
    return spc_error_set(err, SPC_ENOMEM, "no memory for the text of a session");
}

void spc_text_free(spc_text_stream *stream)
{
    for (int32_t i = 0; i < stream->stop_count; i++) free(stream->stop[i]);
    free(stream->stop);
    free(stream->stop_bytes);
    free(stream->held);
    memset(stream, 0, sizeof *stream);
}

/* Hand out text in pieces: a buffer on the stack keeps the step free of allocations. */
static void let_go(spc_text_stream *s, size_t count)
{
    size_t done = 0;

    while (s->emit && done < count) {
        char clean[3 * 256 + 1];
        size_t part = 0;
        bool whole;

        while (done + part < count && part + CHARACTER_BYTES <= 256) {
            part += spc_utf8_character(s->held + done + part, count - done - part, &whole, NULL);
        }
        s->emit(s->user, clean, spc_utf8_sanitise(s->held + done, part, clean));
        done += part;
    }
    s->held_bytes -= count;
    s->bytes += count;
    memmove(s->held, s->held + count, s->held_bytes);
}

/* Where the first stop string begins; held_bytes when there is none. */
static size_t find_stop(const spc_text_stream *s)
{
    for (size_t at = 0; at < s->held_bytes; at++) {
        for (int32_t i = 0; i < s->stop_count; i++) {
            if (s->stop_bytes[i] <= s->held_bytes - at &&
                memcmp(s->held + at, s->stop[i], s->stop_bytes[i]) == 0) {
                return at;
            }
        }
    }
    return s->held_bytes;
}

/* Bytes from the start that cannot belong to a stop string that is still to come. */
static size_t before_possible_stop(const spc_text_stream *s)
{
    for (size_t at = 0; at < s->held_bytes; at++) {
        size_t rest = s->held_bytes - at;

        for (int32_t i = 0; i < s->stop_count; i++) {
            if (rest < s->stop_bytes[i] && memcmp(s->held + at, s->stop[i], rest) == 0) return at;
        }
    }
    return s->held_bytes;
}

/* The same without a character that is not complete yet. */
static size_t whole_characters(const spc_text_stream *s, size_t count)
{
    size_t at = 0;

    while (at < count) {
        bool whole, cut;
        size_t n = spc_utf8_character(s->held + at, s->held_bytes - at, &whole, &cut);

        if (cut || at + n > count) break;
        at += n;
    }
    return at;
}

void spc_text_begin(spc_text_stream *stream)
{
    stream->held_bytes = 0;
    stream->bytes = 0;
}

bool spc_text_push(spc_text_stream *stream, const char *piece, size_t bytes)
{
    assert(bytes <= stream->capacity - stream->held_bytes);
    if (bytes > 0) memcpy(stream->held + stream->held_bytes, piece, bytes);
    stream->held_bytes += bytes;

    size_t stop = find_stop(stream);

    if (stop < stream->held_bytes) {
        let_go(stream, stop);
        stream->held_bytes = 0;
        return true;
    }
    let_go(stream, whole_characters(stream, before_possible_stop(stream)));
    return false;
}

void spc_text_finish(spc_text_stream *stream)
{
    let_go(stream, stream->held_bytes);
}
