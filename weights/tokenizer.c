/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.c - what a tokenizer tells of its pieces; ids to text; where two tokenizers differ. */
#include "tokenizer_parts.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

void spc_tokenizer_close(spc_tokenizer *t)
{
    if (!t) return;
    while (t->text) {
        spc_text_block *next = t->text->next;

        free(t->text);
        t->text = next;
    }
    for (int32_t i = 0; i < t->added_count; i++) free(t->added[i].owned);
    for (int32_t i = 0; i < t->split_count; i++) spc_pattern_close(t->split[i].pattern);
    for (int32_t i = 0; i < t->step_count; i++) spc_step_free(&t->step[i]);
    spc_bpe_free(&t->bpe);
    spc_unigram_free(&t->unigram);
    free(t->score);
    free(t->content_bucket);
    free(t->added);
    free(t->added_order);
    free(t->piece);
    free(t);
}

int32_t spc_tokenizer_size(const spc_tokenizer *t)
{
    return t->size;
}

size_t spc_tokenizer_bytes(const spc_tokenizer *t)
{
    size_t bytes = sizeof *t + (size_t)t->size * sizeof *t->piece +
                   (size_t)t->added_count * (sizeof *t->added + sizeof *t->added_order) +
                   t->content_buckets * sizeof *t->content_bucket +
                   (size_t)t->bpe.count * sizeof *t->bpe.merge +
                   t->bpe.buckets * sizeof *t->bpe.bucket +
                   (size_t)t->unigram.count * sizeof *t->unigram.token;

    if (t->score) bytes += (size_t)t->vocab_base * sizeof *t->score;
    for (const spc_text_block *b = t->text; b; b = b->next) bytes += sizeof *b + b->size;
    return bytes;
}

const char *spc_tokenizer_kind(const spc_tokenizer *t)
{
    switch (t->model) {
    case SPC_MODEL_BYTES: return "byte-level BPE";
    case SPC_MODEL_BPE: return t->byte_fallback ? "BPE with byte fallback" : "BPE";
    case SPC_MODEL_UNIGRAM: return t->byte_fallback ? "Unigram with byte fallback" : "Unigram";
    }
    return "unknown";
}

const char *spc_tokenizer_piece(const spc_tokenizer *t, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= t->size || !t->piece[id].content) return NULL;
    *bytes = t->piece[id].length;
    return t->piece[id].bytes;
}

bool spc_tokenizer_is_special(const spc_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->size && t->piece[id].special;
}

int32_t spc_tokenizer_find(const spc_tokenizer *t, const char *content)
{
    return spc_tokenizer_lookup(t, content, strlen(content));
}

/* ---- ids to text ------------------------------------------------------------------------------
 */

/* How many bytes of a piece decoding leaves out here. */
static size_t left_out(const spc_tokenizer *t, const spc_piece *p, const spc_text_place *place)
{
    size_t spaces = 0;

    while (spaces < p->length && p->bytes[spaces] == ' ') spaces++;
    switch (t->lead) {
    case SPC_LEAD_ONE: return !place->begun && spaces > 0 ? 1 : 0;
    case SPC_LEAD_FIRST_TOKEN: return place->ids == 0 ? spaces : 0;
    default: return 0;
    }
}

const char *spc_tokenizer_next(const spc_tokenizer *t, spc_text_place *place, int32_t id,
                               size_t *bytes)
{
    const char *piece = spc_tokenizer_piece(t, id, bytes);
    size_t lead;

    if (!piece) return NULL;
    lead = left_out(t, &t->piece[id], place);
    if (place->ids < INT32_MAX) place->ids++;
    place->begun |= *bytes > 0;
    *bytes -= lead;
    return piece + lead;
}

spc_status spc_tokenizer_decode(const spc_tokenizer *t, const int32_t *ids, int32_t count,
                                bool skip_special, char **text, size_t *bytes, spc_error *err)
{
    return spc_tokenizer_decode_padded(t, t->size, ids, count, skip_special, text, bytes, err);
}

spc_status spc_tokenizer_decode_padded(const spc_tokenizer *t, int32_t vocab, const int32_t *ids,
                                       int32_t count, bool skip_special, char **text, size_t *bytes,
                                       spc_error *err)
{
    const int32_t most = vocab > t->size ? vocab : t->size;
    size_t total = 0, length = 0, piece_bytes;
    spc_text_place place = {0, false};
    char *raw;

    *text = NULL;
    if (bytes) *bytes = 0;
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= most) {
            return spc_error_set(err, SPC_EINPUT, "id %d: expected 0 to %d, found %d", (int)i,
                                 (int)most - 1, (int)ids[i]);
        }
        if (ids[i] < t->size) total += t->piece[ids[i]].length;
    }
    raw = malloc(total + 1);
    total = 0;
    for (int32_t i = 0; raw && i < count; i++) {
        const char *piece;

        if (skip_special && spc_tokenizer_is_special(t, ids[i])) continue;
        piece = spc_tokenizer_next(t, &place, ids[i], &piece_bytes);
        if (piece) memcpy(raw + total, piece, piece_bytes);
        total += piece_bytes;
    }
    if (raw) *text = malloc(spc_utf8_sanitise(raw, total, NULL) + 1);
    if (*text) length = spc_utf8_sanitise(raw, total, *text);
    free(raw);
    if (bytes) *bytes = length;
    return *text ? SPC_OK
                 : spc_error_set(err, SPC_ENOMEM, "no memory to decode %d ids", (int)count);
}

/* ---- two of them ---- */

static bool same_piece(const spc_piece *a, const spc_piece *b)
{
    if (!a->content || !b->content) return a->content == b->content;
    return a->special == b->special && strcmp(a->content, b->content) == 0;
}

int32_t spc_tokenizer_difference(const spc_tokenizer *a, const spc_tokenizer *b)
{
    int32_t size = a->size < b->size ? a->size : b->size;
    int32_t merges = a->bpe.count < b->bpe.count ? a->bpe.count : b->bpe.count;

    if (a->model != b->model) return 0;
    for (int32_t id = 0; id < size; id++) {
        if (!same_piece(&a->piece[id], &b->piece[id])) return id;
        if (a->score && b->score && id < a->vocab_base && id < b->vocab_base &&
            a->score[id] != b->score[id]) {
            return id;
        }
    }
    for (int32_t i = 0; i < merges; i++) {
        const spc_merge *x = &a->bpe.merge[i], *y = &b->bpe.merge[i];

        if (x->left != y->left || x->right != y->right) {
            return x->result < y->result ? x->result : y->result;
        }
    }
    if (a->bpe.count > merges) return a->bpe.merge[merges].result;
    if (b->bpe.count > merges) return b->bpe.merge[merges].result;
    return -1;
}
