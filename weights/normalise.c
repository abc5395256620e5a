/* SPDX-License-Identifier: Apache-2.0 */
/* normalise.c - the steps of a normalizer. */
#include "normalise.h"

#include "buffer.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

void spc_step_free(spc_step *step)
{
    free(step->text);
    spc_pattern_close(step->pattern);
    spc_charsmap_free(&step->map);
}

static spc_status no_memory(spc_error *err)
{
    return spc_error_set(err, SPC_ENOMEM, "no memory to normalise a text");
}

/* Hand the buffer over, or free it. */
static spc_status finish(spc_buffer_bytes *b, bool good, char **out, size_t *out_bytes,
                         spc_error *err)
{
    if (good && !b->data) good = spc_bytes_reserve(b, 1); /* an empty text is a text */
    if (!good) {
        free(b->data);
        return no_memory(err);
    }
    *out = b->data;
    *out_bytes = b->count;
    return SPC_OK;
}

static spc_status replace(const spc_step *step, const char *text, size_t bytes, char **out,
                          size_t *out_bytes, spc_error *err)
{
    spc_buffer_bytes b = {NULL, 0, 0};
    spc_spans matches = {NULL, 0, 0};
    size_t done = 0, length = strlen(step->text);
    spc_status status =
        spc_pattern_split(step->pattern, text, (spc_span){0, bytes}, true, false, &matches, err);
    bool good = true;

    for (size_t i = 0; i < matches.count && status == SPC_OK && good; i++) {
        const spc_span *m = &matches.span[i];

        good =
            spc_bytes_put(&b, text + done, m->at - done) && spc_bytes_put(&b, step->text, length);
        done = m->at + m->bytes;
    }
    good = good && spc_bytes_put(&b, text + done, bytes - done);
    spc_spans_free(&matches);
    if (status == SPC_OK) return finish(&b, good, out, out_bytes, err);
    free(b.data);
    return status;
}

/* What NMT makes of a character: 0 drops it. */
static uint32_t nmt(uint32_t code)
{
    bool dropped = (code >= 0x01 && code <= 0x08) || code == 0x0b ||
                   (code >= 0x0e && code <= 0x1f) || code == 0x7f || code == 0x8f || code == 0x9f;
    bool space = code == 0x09 || code == 0x0a || code == 0x0c || code == 0x0d || code == 0x1680 ||
                 (code >= 0x200b && code <= 0x200f) || code == 0x2028 || code == 0x2029 ||
                 code == 0x2581 || code == 0xfeff || code == 0xfffd;

    return dropped ? 0 : space ? ' ' : code;
}

/* Character by character. */
static spc_status map(const spc_step *step, const char *text, size_t bytes, char **out,
                      size_t *out_bytes, spc_error *err)
{
    spc_buffer_bytes b = {NULL, 0, 0};
    bool good = true, whole;

    for (size_t i = 0, n; i < bytes && good; i += n) {
        uint32_t code, mapped;
        char character[4];

        n = spc_utf8_character(text + i, bytes - i, &whole, NULL);
        code = mapped = spc_utf8_decode(text + i, n);
        if (step->kind == SPC_STEP_LOWER) {
            if (code == 0x130) { /* the one letter whose lower case is two */
                good = spc_bytes_put(&b, "i\xcc\x87", 3);
                continue;
            }
            mapped = spc_lower(code);
        } else if (step->kind == SPC_STEP_STRIP_ACCENTS) {
            if (spc_is_mark(code)) continue;
        } else {
            mapped = nmt(code);
            if (mapped == 0 && code != 0) continue;
        }
        good = spc_bytes_put(&b, character, spc_utf8_encode(mapped, character));
    }
    return finish(&b, good, out, out_bytes, err);
}

static spc_status strip(const spc_step *step, const char *text, size_t bytes, char **out,
                        size_t *out_bytes, spc_error *err)
{
    spc_buffer_bytes b = {NULL, 0, 0};
    size_t from = 0, to = 0;
    bool whole, begun = !step->left;

    if (!step->right) to = bytes;
    for (size_t i = 0, n; i < bytes; i += n) {
        n = spc_utf8_character(text + i, bytes - i, &whole, NULL);
        if (spc_is_space(spc_utf8_decode(text + i, n))) {
            if (!begun) from = i + n;
            continue;
        }
        begun = true;
        if (i + n > to) to = i + n;
    }
    if (to < from) to = from;
    return finish(&b, spc_bytes_put(&b, text + from, to - from), out, out_bytes, err);
}

spc_status spc_step_run(const spc_step *step, const char *text, size_t bytes, char **out,
                        size_t *out_bytes, spc_error *err)
{
    spc_buffer_bytes b = {NULL, 0, 0};
    bool good;

    switch (step->kind) {
    case SPC_STEP_FORM: return spc_normalise(step->form, text, bytes, out, out_bytes, err);
    case SPC_STEP_REPLACE: return replace(step, text, bytes, out, out_bytes, err);
    case SPC_STEP_STRIP: return strip(step, text, bytes, out, out_bytes, err);
    case SPC_STEP_CHARSMAP:
        good = spc_charsmap_run(&step->map, text, bytes, &b);
        return finish(&b, good, out, out_bytes, err);
    case SPC_STEP_PREPEND:
        good = (bytes == 0 || spc_bytes_put(&b, step->text, strlen(step->text))) &&
               spc_bytes_put(&b, text, bytes);
        return finish(&b, good, out, out_bytes, err);
    default: return map(step, text, bytes, out, out_bytes, err);
    }
}
