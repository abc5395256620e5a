/* SPDX-License-Identifier: Apache-2.0 */
/* unigram.c - Viterbi's search over a sorted vocabulary. */
#include "unigram.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *a, const void *b)
{
    const spc_unigram_token *x = a, *y = b;
    size_t common = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->text, y->text, common);

    if (order != 0) return order;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

void spc_unigram_init(spc_unigram *u, spc_unigram_token *token, int32_t count)
{
    double least = 0.0;

    u->token = token;
    u->count = count;
    for (int32_t i = 0; i < count; i++) {
        if (i == 0 || token[i].score < least) least = token[i].score;
    }
    u->unknown = least - 10.0;
    if (count > 0) qsort(token, (size_t)count, sizeof *token, by_bytes);
}

void spc_unigram_free(spc_unigram *u)
{
    free(u->token);
    memset(u, 0, sizeof *u);
}

/* ---- tokens that a text begins with ----------------------------------------------------------
 */

/* Tokens [low, high) share their first bytes. */
typedef struct {
    int32_t low, high;
} range;

/* The byte of a token at a place; -1 behind its end, which sorts first. */
static int32_t byte_at(const spc_unigram_token *t, size_t at)
{
    return at < t->bytes ? (unsigned char)t->text[at] : -1;
}

/* The first token of the range whose byte at this place is not below. */
static int32_t first_from(const spc_unigram *u, range r, size_t at, int32_t byte)
{
    while (r.low < r.high) {
        int32_t middle = r.low + (r.high - r.low) / 2;

        if (byte_at(&u->token[middle], at) < byte) {
            r.low = middle + 1;
        } else {
            r.high = middle;
        }
    }
    return r.low;
}

static range narrow(const spc_unigram *u, range r, size_t at, unsigned char byte)
{
    range narrowed = {first_from(u, r, at, byte), first_from(u, r, at, byte + 1)};

    return narrowed;
}

/* ---- the search ------------------------------------------------------------------------------
 */

/* The best way to write the word up to a place. */
typedef struct {
    double score;
    size_t from; /* where its last piece begins */
    int32_t id;
    bool reached;
} node;

static void arrive(node *n, double score, size_t from, int32_t id)
{
    if (n->reached && !(score > n->score)) return;
    *n = (node){score, from, id, true};
}

/* Every token that begins at a place; a character that is none goes as unknown. */
static void leave(const spc_unigram *u, const char *word, size_t bytes, size_t at, size_t character,
                  bool plain, node *nodes)
{
    range r = {0, u->count};
    bool single = false;

    for (size_t n = 0; at + n < bytes; n++) {
        r = narrow(u, r, n, (unsigned char)word[at + n]);
        if (r.low == r.high) break;
        if (u->token[r.low].bytes != n + 1 || (plain && u->token[r.low].special)) continue;
        arrive(&nodes[at + n + 1], nodes[at].score + u->token[r.low].score, at, u->token[r.low].id);
        single |= n + 1 == character;
    }
    if (!single) arrive(&nodes[at + character], nodes[at].score + u->unknown, at, -1);
}

int64_t spc_unigram_cut(const spc_unigram *u, const char *word, size_t bytes, bool plain,
                        spc_unigram_piece *piece)
{
    node *nodes = calloc(bytes + 1, sizeof *nodes);
    int64_t count = 0;
    bool whole;

    if (!nodes) return -1;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = spc_utf8_character(word + at, bytes - at, &whole, NULL);
        leave(u, word, bytes, at, n, plain, nodes);
    }
    for (size_t end = bytes; end > 0; end = nodes[end].from) { /* backwards */
        spc_unigram_piece p = {nodes[end].from, end - nodes[end].from, nodes[end].id};

        if (count > 0 && p.id < 0 && piece[count - 1].id < 0) {
            piece[count - 1].bytes += p.bytes;
            piece[count - 1].at = p.at;
        } else {
            piece[count++] = p;
        }
    }
    for (int64_t i = 0; i < count / 2; i++) {
        spc_unigram_piece swap = piece[i];

        piece[i] = piece[count - 1 - i];
        piece[count - 1 - i] = swap;
    }
    free(nodes);
    return count;
}
