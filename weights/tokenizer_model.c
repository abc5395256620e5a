/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_model.c - the parts of a tokenizer, whatever they are read from. */
#include "tokenizer_parts.h"

#include "utf8.h"

#include <stdio.h>

enum { TEXT_BLOCK = 1 << 16 };

/* ---- pieces -----------------------------------------------------------------------------------
 */

/* Byte a character of the byte-level alphabet stands for, or -1 (GPT-2: printable bytes stand for
 * themselves, the others for U+0100 and up). */
static int32_t byte_of_character(uint32_t code)
{
    int32_t next = 0;

    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) ||
        (code >= 174 && code <= 255)) {
        return (int32_t)code;
    }
    for (int32_t byte = 0; byte < 256; byte++) {
        if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174) continue;
        if (code == 256u + (uint32_t)next) return byte;
        next++;
    }
    return -1;
}

/* Bytes of a token's content; the content itself where a character stands for no byte. */
static size_t bytes_of_content(const char *content, size_t length, char *out)
{
    size_t count = 0;
    bool whole;

    for (size_t i = 0; i < length;) {
        size_t n = spc_utf8_character(content + i, length - i, &whole, NULL);
        int32_t byte = whole ? byte_of_character(spc_utf8_decode(content + i, n)) : -1;

        if (byte < 0) {
            memcpy(out, content, length);
            return length;
        }
        out[count++] = (char)byte;
        i += n;
    }
    return count;
}

bool spc_tokenizer_reserve(spc_tokenizer *t, int32_t size)
{
    spc_piece *grown;

    if (size <= t->size) return true;
    grown = realloc(t->piece, (size_t)size * sizeof *grown);
    if (!grown) return false;
    memset(grown + t->size, 0, (size_t)(size - t->size) * sizeof *grown);
    t->piece = grown;
    t->size = size;
    return true;
}

/* Room for a text; NULL: no memory. */
static char *keep(spc_tokenizer *t, size_t bytes)
{
    spc_text_block *block = t->text;

    if (!block || block->size - block->used < bytes) {
        size_t size = bytes > TEXT_BLOCK ? bytes : TEXT_BLOCK;

        block = malloc(sizeof *block + size);
        if (!block) return NULL;
        block->next = t->text;
        block->size = size;
        block->used = 0;
        t->text = block;
    }
    block->used += bytes;
    return block->text + block->used - bytes;
}

bool spc_tokenizer_set(spc_tokenizer *t, int32_t id, const char *content, size_t length)
{
    spc_piece *p = &t->piece[id];
    char *copy = keep(t, 2 * length + 2);

    if (!copy) return false;
    memcpy(copy, content, length);
    copy[length] = '\0';
    p->content = copy;
    p->content_length = length;
    p->bytes = copy + length + 1;
    p->length = length;
    if (t->model == SPC_MODEL_BYTES) {
        p->length = bytes_of_content(content, length, p->bytes);
    } else {
        memcpy(p->bytes, content, length);
    }
    return true;
}

/* The byte of a token "<0x41>", or -1. */
static int32_t byte_of_token(const char *content, size_t length)
{
    int32_t byte = 0;

    if (length != 6 || memcmp(content, "<0x", 3) != 0 || content[5] != '>') return -1;
    for (int32_t i = 3; i < 5; i++) {
        char c = content[i];

        if (c >= '0' && c <= '9') {
            byte = byte * 16 + (c - '0');
        } else if (c >= 'A' && c <= 'F') {
            byte = byte * 16 + (c - 'A' + 10);
        } else {
            return -1;
        }
    }
    return byte;
}

/* A content with every `from` as `to`. */
static bool replaced(const spc_piece *p, const char *from, const char *to, spc_buffer_bytes *out)
{
    size_t length = strlen(from), at = 0;
    bool good = true;

    out->count = 0;
    while (at < p->content_length && good) {
        if (p->content_length - at >= length && memcmp(p->content + at, from, length) == 0) {
            good = spc_bytes_put(out, to, strlen(to));
            at += length;
        } else {
            good = spc_bytes_put(out, p->content + at, 1);
            at++;
        }
    }
    return good;
}

bool spc_tokenizer_decode_by(spc_tokenizer *t, const char *from, const char *to, bool bytes)
{
    spc_buffer_bytes now = {NULL, 0, 0};
    bool good = true;

    for (int32_t id = 0; id < t->size && good; id++) {
        spc_piece *p = &t->piece[id];
        int32_t byte = bytes && p->content ? byte_of_token(p->content, p->content_length) : -1;
        char *copy;

        if (!p->content) continue;
        if (byte >= 0) {
            p->bytes[0] = (char)byte;
            p->length = 1;
            continue;
        }
        if (!from || !*from) continue;
        good = replaced(p, from, to, &now);
        if (good && now.count <= p->content_length) { /* spaces for marks: as a rule */
            if (now.count > 0) memcpy(p->bytes, now.data, now.count);
            p->length = now.count;
            continue;
        }
        copy = good ? keep(t, p->content_length + now.count + 2) : NULL;
        if (!copy) {
            good = false;
            break;
        }
        memcpy(copy, p->content, p->content_length + 1);
        memcpy(copy + p->content_length + 1, now.data, now.count);
        p->content = copy;
        p->bytes = copy + p->content_length + 1;
        p->length = now.count;
    }
    free(now.data);
    return good;
}

/* ---- contents ---------------------------------------------------------------------------------
 */

static uint32_t hash_content(const char *content, size_t length)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)content[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

int32_t spc_tokenizer_lookup(const spc_tokenizer *t, const char *content, size_t length)
{
    uint32_t at;

    if (t->content_buckets == 0) return -1;
    at = hash_content(content, length) & (t->content_buckets - 1);
    while (t->content_bucket[at] >= 0) {
        const spc_piece *p = &t->piece[t->content_bucket[at]];

        if (p->content_length == length && memcmp(p->content, content, length) == 0) {
            return t->content_bucket[at];
        }
        at = (at + 1) & (t->content_buckets - 1);
    }
    return -1;
}

int32_t spc_tokenizer_lookup_own(const spc_tokenizer *t, const char *content, size_t length)
{
    int32_t id = spc_tokenizer_lookup(t, content, length);

    return id < t->vocab_base ? id : -1;
}

bool spc_tokenizer_index(spc_tokenizer *t)
{
    free(t->content_bucket);
    t->content_buckets = 64;
    while (t->content_buckets < (uint32_t)t->size * 2u) t->content_buckets *= 2;
    t->content_bucket = malloc(t->content_buckets * sizeof *t->content_bucket);
    if (!t->content_bucket) {
        t->content_buckets = 0;
        return false;
    }
    for (uint32_t i = 0; i < t->content_buckets; i++) t->content_bucket[i] = -1;
    for (int32_t id = 0; id < t->size; id++) {
        const spc_piece *p = &t->piece[id];
        uint32_t at;

        if (!p->content) continue;
        at = hash_content(p->content, p->content_length) & (t->content_buckets - 1);
        while (t->content_bucket[at] >= 0) at = (at + 1) & (t->content_buckets - 1);
        t->content_bucket[at] = id;
    }
    return true;
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

/* Of the byte-level alphabet: contents of one character. */
static void find_characters(spc_tokenizer *t)
{
    for (int32_t id = 0; id < t->vocab_base; id++) {
        const spc_piece *p = &t->piece[id];
        bool whole;

        if (!p->content || p->content_length == 0 || p->length != 1) continue;
        if (spc_utf8_character(p->content, p->content_length, &whole, NULL) != p->content_length) {
            continue;
        }
        t->byte_id[(unsigned char)p->bytes[0]] = id;
    }
}

void spc_tokenizer_find_bytes(spc_tokenizer *t)
{
    for (int32_t byte = 0; byte < 256; byte++) t->byte_id[byte] = -1;
    if (t->model == SPC_MODEL_BYTES) {
        find_characters(t);
        return;
    }
    for (int32_t byte = 0; byte < 256; byte++) {
        char content[8];

        (void)snprintf(content, sizeof content, "<0x%02X>", (unsigned)byte);
        t->byte_id[byte] = spc_tokenizer_lookup_own(t, content, 6);
    }
}

/* ---- scores -----------------------------------------------------------------------------------
 */

bool spc_tokenizer_rank(spc_tokenizer *t)
{
    spc_unigram_token *token = malloc(((size_t)t->vocab_base + 1) * sizeof *token);
    int32_t count = 0;

    if (!token) return false;
    for (int32_t id = 0; id < t->vocab_base; id++) {
        const spc_piece *p = &t->piece[id];

        if (!p->content || p->content_length == 0) continue;
        token[count++] =
            (spc_unigram_token){p->content, p->content_length, id, t->score[id], p->special};
    }
    spc_unigram_init(&t->unigram, token, count);
    return true;
}

typedef struct {
    spc_merge merge;
    double score;
} scored_merge;

/* Best score first; of one token's pairs the one with the smallest ids, as converters write them.
 */
static int by_score(const void *a, const void *b)
{
    const scored_merge *x = a, *y = b;

    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->merge.result != y->merge.result) return x->merge.result < y->merge.result ? -1 : 1;
    if (x->merge.left != y->merge.left) return x->merge.left < y->merge.left ? -1 : 1;
    return (x->merge.right > y->merge.right) - (x->merge.right < y->merge.right);
}

bool spc_tokenizer_merge_by_score(spc_tokenizer *t, const double *score)
{
    size_t count = 0, capacity = 0;
    scored_merge *found = NULL;
    spc_merge *merge;
    bool good = true;

    for (int32_t id = 0; id < t->vocab_base && good; id++) {
        const spc_piece *p = &t->piece[id];

        for (size_t at = 1; p->content && at < p->content_length && good; at++) {
            int32_t left = spc_tokenizer_lookup_own(t, p->content, at);
            int32_t right =
                left < 0 ? -1
                         : spc_tokenizer_lookup_own(t, p->content + at, p->content_length - at);

            if (right < 0) continue;
            if (count == capacity) {
                scored_merge *grown;

                capacity = capacity ? 2 * capacity : 1024;
                grown = capacity < INT32_MAX ? realloc(found, capacity * sizeof *grown) : NULL;
                if (!grown) {
                    good = false;
                    break;
                }
                found = grown;
            }
            found[count++] = (scored_merge){{left, right, id}, score[id]};
        }
    }
    merge = good ? malloc((count + 1) * sizeof *merge) : NULL;
    if (merge) {
        if (count > 0) qsort(found, count, sizeof *found, by_score);
        for (size_t i = 0; i < count; i++) merge[i] = found[i].merge;
        good = spc_bpe_init(&t->bpe, merge, (int32_t)count);
    }
    free(found);
    return good && merge;
}
